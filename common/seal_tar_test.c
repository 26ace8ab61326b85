#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/seal.h"
#include "common/untar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static char *make_dir(void)
{
    char *dir = xstrdup("/tmp/seal_tar_test.XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

static void drop_dir(char **dir)
{
    nftw(*dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*dir);
}
#define _cleanup_dir_ _cleanup_(drop_dir)

static void write_file(const char *dir, const char *name, const char *text, mode_t mode)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
}

static void make_subdir(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    assert_int_equal(mkdir(path, 0755), 0);
}

static void make_link(const char *dir, const char *name, const char *target)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    assert_int_equal(symlink(target, path), 0);
}

static void assert_file(const char *dir, const char *name, const char *text, mode_t mode)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_NOFOLLOW);
    char got[256];
    struct stat st;

    assert_true(fd >= 0);
    ssize_t n = read(fd, got, sizeof(got) - 1);
    assert_true(n >= 0);
    got[n] = '\0';
    assert_string_equal(got, text);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, mode);
}

static int exists(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    struct stat st;

    return lstat(path, &st) == 0;
}

static void fill(const char *dir, int reversed)
{
    static const char *const names[] = {"a", "b", "\xc3\xa9t\xc3\xa9", "with space"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *name = names[reversed ? ARRAY_LEN(names) - 1 - i : i];
        write_file(dir, name, name, reversed ? 0600 : 0644);
    }
    make_subdir(dir, "sub");
    make_subdir(dir, "sub/empty");
    write_file(dir, "sub/run.sh", "#!/bin/sh\n", 0755);
    make_link(dir, "sub/up", "../a");
    /* Longer than ustar's fields. */
    char longest[201];
    memset(longest, 'n', 200);
    longest[200] = '\0';
    write_file(dir, longest, "long", 0644);
}

static int tar(const char *dir, struct err *e)
{
    int fd = memfd_create("tar", MFD_CLOEXEC);

    assert_true(fd >= 0);
    err_clear(e);
    if (seal_tar_dir(dir, fd, e) < 0) {
        close(fd);
        return -1;
    }
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void round_trip(void **state)
{
    _cleanup_dir_ char *from = make_dir(), *to = make_dir();
    struct err e = {0};
    char target[16] = "";

    (void)state;
    fill(from, 0);
    _cleanup_close_ int fd = tar(from, &e);
    if (fd < 0 || seal_untar(fd, to, 1000, 100, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_file(to, "a", "a", 0644);
    assert_file(to, "\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9", 0644);
    assert_file(to, "with space", "with space", 0644);
    assert_file(to, "sub/run.sh", "#!/bin/sh\n", 0755);
    assert_true(exists(to, "sub/empty"));
    _cleanup_free_ char *link = xasprintf("%s/sub/up", to);
    assert_int_equal(readlink(link, target, sizeof(target)), 4);
    assert_string_equal(target, "../a");
}

static void deterministic(void **state)
{
    _cleanup_dir_ char *one = make_dir(), *two = make_dir();
    struct err e = {0};
    struct stat st1, st2;

    (void)state;
    fill(one, 0);
    fill(two, 1);
    /* The file's own times and owner must not show. */
    _cleanup_free_ char *path = xasprintf("%s/a", two);
    struct timespec t[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
    (void)!chown(path, 7, 7);
    _cleanup_close_ int a = tar(one, &e), b = tar(two, &e);
    assert_int_equal(fstat(a, &st1), 0);
    assert_int_equal(fstat(b, &st2), 0);
    assert_int_equal(st1.st_size, st2.st_size);
    size_t n = (size_t)st1.st_size;
    _cleanup_free_ uint8_t *p = xmalloc(n), *q = xmalloc(n);
    assert_int_equal(read(a, p, n), n);
    assert_int_equal(read(b, q, n), n);
    assert_memory_equal(p, q, n);
    /* Through a pipe as into a file. */
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    assert_true(fcntl(pipes[1], F_SETPIPE_SZ, (int)n * 2) > 0);
    assert_int_equal(seal_tar_dir(one, pipes[1], &e), 0);
    close(pipes[1]);
    assert_int_equal(read(pipes[0], q, n), n);
    assert_memory_equal(p, q, n);
    assert_int_equal(read(pipes[0], q, 1), 0);
    close(pipes[0]);
}

static void empty_directory(void **state)
{
    _cleanup_dir_ char *from = make_dir(), *to = make_dir();
    struct err e = {0};
    _cleanup_close_ int fd = tar(from, &e);

    (void)state;
    if (fd < 0 || seal_untar(fd, to, 0, 0, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static void tar_refusals(void **state)
{
    _cleanup_dir_ char *dir = make_dir();
    _cleanup_free_ char *fifo = xasprintf("%s/pipe", dir), *bad = xasprintf("%s/sub/bad", dir);
    struct err e;

    (void)state;
    make_subdir(dir, "sub");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(tar(dir, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "\"pipe\""));
    unlink(fifo);
    static const char *const targets[] = {"/etc/passwd", "../..", "../../x", "x/../../..",
                                          "./../../y"};
    for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
        make_link(dir, "sub/bad", targets[i]);
        assert_int_equal(tar(dir, &e), -1);
        assert_int_equal(e.code, ERR_DENIED);
        assert_non_null(strstr(e.msg, "\"sub/bad\""));
        assert_non_null(strstr(e.msg, targets[i]));
        unlink(bad);
    }
    assert_int_equal(tar("/nonexistent", &e), -1);
    assert_int_equal(e.code, ERR_IO);
}

static void tar_too_deep(void **state)
{
    _cleanup_dir_ char *dir = make_dir();
    char path[512] = "";
    struct err e;

    (void)state;
    for (unsigned i = 0; i <= SEAL_TAR_MAX_DEPTH; i++) {
        strcat(path, i ? "/d" : "d");
        make_subdir(dir, path);
    }
    assert_int_equal(tar(dir, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_non_null(strstr(e.msg, "nested deeper than 64"));
}

/* One entry of a tar stream that no honest program writes. */
struct entry {
    const char *path;
    mode_t type;
    const char *text; /* content or target */
    int hard;
    mode_t perm;
};

#define REG(path, text)                                                                            \
    {                                                                                              \
        path, AE_IFREG, text, 0, 0644                                                              \
    }
#define SUB(path)                                                                                  \
    {                                                                                              \
        path, AE_IFDIR, "", 0, 0755                                                                \
    }
#define SYM(path, to)                                                                              \
    {                                                                                              \
        path, AE_IFLNK, to, 0, 0777                                                                \
    }
#define HARD(path, to)                                                                             \
    {                                                                                              \
        path, AE_IFREG, to, 1, 0644                                                                \
    }
#define NODE(path, type)                                                                           \
    {                                                                                              \
        path, type, "", 0, 0644                                                                    \
    }

static int forge(const struct entry *v, size_t n)
{
    int fd = memfd_create("forged", MFD_CLOEXEC);
    struct archive *a = archive_write_new();

    assert_int_equal(archive_write_set_format_pax_restricted(a), ARCHIVE_OK);
    assert_int_equal(archive_write_open_fd(a, fd), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, v[i].path);
        archive_entry_set_filetype(entry, v[i].type);
        archive_entry_set_perm(entry, v[i].perm);
        archive_entry_set_mtime(entry, 12345, 0);
        if (v[i].hard) {
            archive_entry_set_hardlink(entry, v[i].text);
        } else if (v[i].type == AE_IFLNK) {
            archive_entry_set_symlink(entry, v[i].text);
        } else if (v[i].type == AE_IFREG) {
            archive_entry_set_size(entry, (la_int64_t)strlen(v[i].text));
        }
        assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
        if (v[i].type == AE_IFREG && !v[i].hard) {
            archive_write_data(a, v[i].text, strlen(v[i].text));
        }
        archive_entry_free(entry);
    }
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void assert_untar_refused(const struct entry *v, size_t n, enum err_code code,
                                 const char *part)
{
    _cleanup_dir_ char *outer = make_dir();
    _cleanup_free_ char *dir = xasprintf("%s/root", outer);
    struct err e = {0};
    struct stat st;

    write_file(outer, "victim", "safe", 0644);
    make_subdir(outer, "root");
    _cleanup_close_ int fd = forge(v, n);
    if (seal_untar(fd, dir, 100, 10, &e) == 0) {
        fail_msg("expected \"%s\", but it was extracted", part);
    }
    if (e.code != code || !strstr(e.msg, part)) {
        fail_msg("expected %s with \"%s\", got %s: %s", err_code_name(code), part,
                 err_code_name(e.code), e.msg);
    }
    assert_file(outer, "victim", "safe", 0644);
    assert_int_equal(stat(outer, &st), 0);
    assert_int_equal(st.st_nlink, 3); /* nothing else was made outside */
}

static void untar_refusals(void **state)
{
#define REFUSED(code, part, ...)                                                                   \
    do {                                                                                           \
        const struct entry v_[] = {__VA_ARGS__};                                                   \
        assert_untar_refused(v_, ARRAY_LEN(v_), code, part);                                       \
    } while (0)
    (void)state;
    REFUSED(ERR_DENIED, "\"/tmp/x\": its path is absolute", REG("/tmp/x", "x"));
    REFUSED(ERR_DENIED, "\"../victim\": its path has a \"..\"", REG("../victim", "x"));
    REFUSED(ERR_DENIED, "has a \"..\"", REG("a/../../victim", "x"));
    REFUSED(ERR_DENIED, "\"l\": the symlink points out", SYM("l", "../victim"));
    REFUSED(ERR_DENIED, "\"l\": the symlink points out", SYM("l", "/etc"));
    REFUSED(ERR_DENIED, "goes through a symlink", SUB("d"), SYM("l", "d"), REG("l/x", "x"));
    REFUSED(ERR_INVALID, "\"l\": is there already", REG("d", ""), SYM("l", "d"), REG("l", "x"));
    REFUSED(ERR_INVALID, "\"f\": is there already", REG("f", "1"), REG("f", "2"));
    REFUSED(ERR_INVALID, "expected a directory", REG("f", "1"), REG("f/g", "2"));
    REFUSED(ERR_UNSUPPORTED, "\"h\": is a hard link", REG("f", "1"), HARD("h", "f"));
    REFUSED(ERR_UNSUPPORTED, "\"dev\": is of type", NODE("dev", AE_IFCHR));
    REFUSED(ERR_UNSUPPORTED, "\"dev\": is of type", NODE("dev", AE_IFBLK));
    REFUSED(ERR_UNSUPPORTED, "\"fifo\": is of type", NODE("fifo", AE_IFIFO));
    REFUSED(ERR_TOO_LARGE, "\"f2\": 60 bytes, 40 are left",
            REG("f1", "012345678901234567890123456789012345678901234567890123456789"),
            REG("f2", "012345678901234567890123456789012345678901234567890123456789"));
    REFUSED(ERR_TOO_LARGE, "more entries than allowed", REG("1/2/3/4/5/6/7/8/9/10/11", ""));
#undef REFUSED
}

static void set_id_bits_dropped(void **state)
{
    _cleanup_dir_ char *dir = make_dir();
    static const struct entry v[] = {{"su", AE_IFREG, "x", 0, 06755},
                                     {"ro", AE_IFDIR, "", 0, 04555},
                                     {"ro/in", AE_IFREG, "y", 0, 0400}};
    struct err e = {0};
    struct stat st;
    _cleanup_close_ int fd = forge(v, ARRAY_LEN(v));

    (void)state;
    assert_int_equal(seal_untar(fd, dir, 100, 10, &e), 0);
    assert_file(dir, "su", "x", 0755);
    assert_file(dir, "ro/in", "y", 0400);
    _cleanup_free_ char *ro = xasprintf("%s/ro", dir);
    assert_int_equal(stat(ro, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
}

static void untar_garbage(void **state)
{
    _cleanup_dir_ char *dir = make_dir();
    _cleanup_close_ int fd = memfd_create("garbage", MFD_CLOEXEC);
    struct err e = {0};

    (void)state;
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(write(fd, "no tar! ", 8), 8);
    }
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(seal_untar(fd, dir, 100, 10, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "tar stream"));
    assert_int_equal(seal_untar(fd, "/nonexistent", 100, 10, &e), -1);
    assert_int_equal(e.code, ERR_IO);
}

static void cut_off(void **state)
{
    _cleanup_dir_ char *dir = make_dir();
    static const struct entry v[] = {REG("f", "0123456789")};
    struct err e = {0};
    _cleanup_close_ int fd = forge(v, 1);

    (void)state;
    assert_int_equal(ftruncate(fd, 515), 0);
    assert_int_equal(seal_untar(fd, dir, 100, 10, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "\"f\""));
}

static void symlink_rule(void **state)
{
    (void)state;
    assert_true(untar_symlink_stays("a", 0));
    assert_true(untar_symlink_stays("./a/b", 0));
    assert_true(untar_symlink_stays("..", 1));
    assert_true(untar_symlink_stays(".././../a", 2));
    assert_true(untar_symlink_stays("..a", 0));
    assert_false(untar_symlink_stays("..", 0));
    assert_false(untar_symlink_stays("", 3));
    assert_false(untar_symlink_stays("/a", 3));
    assert_false(untar_symlink_stays("a/..", 3));
    assert_false(untar_symlink_stays("..//../..", 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(deterministic),
        cmocka_unit_test(empty_directory),
        cmocka_unit_test(tar_refusals),
        cmocka_unit_test(tar_too_deep),
        cmocka_unit_test(untar_refusals),
        cmocka_unit_test(set_id_bits_dropped),
        cmocka_unit_test(untar_garbage),
        cmocka_unit_test(cut_off),
        cmocka_unit_test(symlink_rule),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
