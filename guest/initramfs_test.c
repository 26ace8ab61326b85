#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/initramfs.h"

static struct initramfs fs;

static int clean(void **state)
{
    (void)state;
    initramfs_done(&fs);
    return 0;
}

static void pack(struct buf *ret)
{
    struct err e = {0};

    if (initramfs_pack(&fs, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

/* The same content, whatever the order in which it was added. */
static void fill(int backwards)
{
    static const char *const names[] = {"init", "usr/bin/crun", "etc/nsswitch.conf"};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *name = names[backwards ? ARRAY_LEN(names) - 1 - i : i];
        assert_int_equal(initramfs_text(&fs, name, name, &e), 0);
    }
    assert_int_equal(initramfs_link(&fs, "bin", "usr/bin", &e), 0);
    assert_int_equal(initramfs_dir(&fs, "tmp", 01777, &e), 0);
    assert_int_equal(initramfs_device(&fs, "dev/console", 5, 1, &e), 0);
}

static void test_reproducible(void **state)
{
    _cleanup_buf_ struct buf a = BUF_INIT(1 << 20), b = BUF_INIT(1 << 20), c = BUF_INIT(1 << 20);
    struct err e = {0};

    (void)state;
    fill(0);
    pack(&a);
    initramfs_done(&fs);
    fill(1);
    pack(&b);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
    assert_memory_equal(a.p, "\x28\xb5\x2f\xfd", 4); /* Zstandard */
    assert_int_equal(initramfs_text(&fs, "one-more", "", &e), 0);
    pack(&c);
    assert_true(a.n != c.n || memcmp(a.p, c.p, a.n) != 0);
}

/* What the archive says of its entries: sorted, root's, of no time, with the directories above. */
static void test_entries(void **state)
{
    static const struct {
        const char *path;
        mode_t mode;
    } want[] = {
        {"bin", S_IFLNK | 0777},
        {"dev", S_IFDIR | 0755},
        {"dev/console", S_IFCHR | 0600},
        {"etc", S_IFDIR | 0755},
        {"etc/nsswitch.conf", S_IFREG | 0644},
        {"init", S_IFREG | 0644},
        {"tmp", S_IFDIR | 01777},
        {"usr", S_IFDIR | 0755},
        {"usr/bin", S_IFDIR | 0755},
        {"usr/bin/crun", S_IFREG | 0644},
    };
    _cleanup_buf_ struct buf b = BUF_INIT(1 << 20);
    struct archive *a = archive_read_new();
    struct archive_entry *x;
    char text[32] = {0};

    (void)state;
    fill(0);
    pack(&b);
    archive_read_support_filter_zstd(a);
    archive_read_support_format_cpio(a);
    assert_int_equal(archive_read_open_memory(a, b.p, b.n), ARCHIVE_OK);
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_int_equal(archive_read_next_header(a, &x), ARCHIVE_OK);
        assert_string_equal(archive_entry_pathname(x), want[i].path);
        assert_int_equal(archive_entry_mode(x), want[i].mode);
        assert_int_equal(archive_entry_mtime(x), 0);
        assert_int_equal(archive_entry_uid(x), 0);
        assert_int_equal(archive_entry_gid(x), 0);
        if (S_ISCHR(want[i].mode)) {
            assert_int_equal(archive_entry_rdevmajor(x), 5);
            assert_int_equal(archive_entry_rdevminor(x), 1);
        }
        if (S_ISLNK(want[i].mode)) {
            assert_string_equal(archive_entry_symlink(x), "usr/bin");
        }
        if (strstr(want[i].path, "crun")) {
            assert_int_equal(archive_read_data(a, text, sizeof(text)), 12);
            assert_string_equal(text, "usr/bin/crun");
        }
    }
    assert_int_equal(archive_read_next_header(a, &x), ARCHIVE_EOF);
    archive_read_free(a);
}

static void test_twice(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(initramfs_text(&fs, "etc/x", "first", &e), 0);
    assert_int_equal(initramfs_text(&fs, "etc/x", "second", &e), 1);
    assert_int_equal(initramfs_dir(&fs, "etc/x", 0755, &e), 1);
    assert_int_equal(fs.n, 1);
    assert_memory_equal(fs.v[0].content.p, "first", 5);
}

static void test_too_many(void **state)
{
    struct err e = {0};
    char name[16];

    (void)state;
    for (unsigned i = 0; i < INITRAMFS_FILES_MAX; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        assert_int_equal(initramfs_text(&fs, name, "", &e), 0);
    }
    assert_int_equal(initramfs_text(&fs, "one-more", "", &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
}

static int has(const char *suffix)
{
    for (size_t i = 0; i < fs.n; i++) {
        size_t n = strlen(fs.v[i].path), m = strlen(suffix);
        if (n >= m && streq(fs.v[i].path + n - m, suffix)) {
            return fs.v[i].content.n > 0;
        }
    }
    return 0;
}

/* This test program: it and what it is linked to. */
static void test_program(void **state)
{
    struct err e = {0};
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    (void)state;
    assert_true(n > 0);
    self[n] = '\0';
    if (initramfs_program(&fs, "init", self, 0, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_true(has("init"));
    assert_true(has("usr/lib/x86_64-linux-gnu/libc.so.6"));
    assert_true(has("usr/lib64/ld-linux-x86-64.so.2"));
    assert_false(has("linux-vdso.so.1"));
}

static void test_missing(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(initramfs_file(&fs, "init", "/nonexistent/program", 0755, &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent/program"));
    memset(&e, 0, sizeof(e));
    assert_int_equal(initramfs_program(&fs, "init2", "/etc/passwd", 0, &e), -1);
    assert_non_null(strstr(e.msg, "/etc/passwd"));
}

#define T(f) cmocka_unit_test_teardown(f, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_reproducible), T(test_entries), T(test_twice),
        T(test_too_many),     T(test_program), T(test_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
