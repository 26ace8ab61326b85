#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/seal_int.h"
#include "common/untar.h"

#define COPY_BYTES 65536u
/* Zero blocks that may follow the end of an archive. */
#define PADDING_MAX_BYTES (1u << 20)

struct tarrer {
    struct archive *a;
    int out_fd;
    int failed;
    uint64_t left; /* entries */
    uint8_t *copy;
};

static void archive_write_freep(struct archive **a)
{
    if (*a) {
        archive_write_free(*a);
    }
}

static void archive_read_freep(struct archive **a)
{
    if (*a) {
        archive_read_free(*a);
    }
}

static void archive_entry_freep(struct archive_entry **entry)
{
    if (*entry) {
        archive_entry_free(*entry);
    }
}

struct names {
    char **v;
    size_t n, size;
};

static void names_done(struct names *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free(l->v[i]);
    }
    free(l->v);
}

static void closedirp(DIR **d)
{
    if (*d) {
        closedir(*d);
    }
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list(int fd, const char *path, uint64_t max, struct names *l, struct err *e)
{
    int copy = openat(fd, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_(closedirp) DIR *d = copy >= 0 ? fdopendir(copy) : NULL;

    if (!d) {
        int saved = errno;
        if (copy >= 0) {
            close(copy);
        }
        errno = saved;
        return err_errno(e, "reading the directory \"%.200s\"", path);
    }
    for (;;) {
        errno = 0;
        const struct dirent *de = readdir(d);
        if (!de) {
            break;
        }
        if (streq(de->d_name, ".") || streq(de->d_name, "..")) {
            continue;
        }
        if (l->n >= max) {
            return err_set(e, ERR_TOO_LARGE, "the directory \"%.200s\": more than %u entries", path,
                           SEAL_TAR_MAX_ENTRIES);
        }
        if (l->n == l->size) {
            l->size = l->size ? l->size * 2 : 32;
            l->v = xrealloc(l->v, l->size * sizeof(*l->v));
        }
        l->v[l->n++] = xstrdup(de->d_name);
    }
    if (errno) {
        return err_errno(e, "reading the directory \"%.200s\"", path);
    }
    if (l->n) {
        qsort(l->v, l->n, sizeof(*l->v), by_bytes);
    }
    return 0;
}

static int put_header(struct tarrer *t, const char *path, mode_t type, mode_t perm, int64_t size,
                      const char *target, struct err *e)
{
    _cleanup_(archive_entry_freep) struct archive_entry *entry = archive_entry_new();

    if (!entry) {
        return err_set(e, ERR_INTERNAL, "out of memory");
    }
    archive_entry_set_pathname(entry, path);
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, perm);
    archive_entry_set_size(entry, size);
    archive_entry_set_mtime(entry, 0, 0);
    archive_entry_set_uid(entry, 0);
    archive_entry_set_gid(entry, 0);
    if (target) {
        archive_entry_set_symlink(entry, target);
    }
    if (archive_write_header(t->a, entry) != ARCHIVE_OK) {
        return err_set(e, ERR_IO, "tar entry \"%.200s\": %.200s", path, archive_error_string(t->a));
    }
    return 0;
}

/* Exactly the size the header says: a file that changes meanwhile is refused. */
static int put_content(struct tarrer *t, int fd, const char *path, int64_t size, struct err *e)
{
    int64_t left = size;

    for (;;) {
        size_t n;
        if (seal_read_full(fd, t->copy, COPY_BYTES, path, &n, e) < 0) {
            return -1;
        }
        if ((int64_t)n > left || (n == 0 && left > 0)) {
            return err_set(e, ERR_IO, "\"%.200s\": its size changed while it was read", path);
        }
        if (n == 0) {
            return 0;
        }
        if (archive_write_data(t->a, t->copy, n) != (la_ssize_t)n) {
            return err_set(e, ERR_IO, "tar entry \"%.200s\": %.200s", path,
                           archive_error_string(t->a));
        }
        left -= (int64_t)n;
    }
}

static int put_file(struct tarrer *t, int dir_fd, const char *name, const char *path, struct err *e)
{
    _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return err_errno(e, "\"%.200s\"", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_IO, "\"%.200s\": became something else while it was read", path);
    }
    if (put_header(t, path, AE_IFREG, st.st_mode & 0100 ? 0755 : 0644, st.st_size, NULL, e) < 0) {
        return -1;
    }
    return put_content(t, fd, path, st.st_size, e);
}

static int put_symlink(struct tarrer *t, int dir_fd, const char *name, const char *path,
                       unsigned depth, struct err *e)
{
    char target[UNTAR_NAME_MAX_BYTES];
    ssize_t n = readlinkat(dir_fd, name, target, sizeof(target));

    if (n < 0) {
        return err_errno(e, "\"%.200s\"", path);
    }
    if ((size_t)n >= sizeof(target)) {
        return err_set(e, ERR_TOO_LARGE, "\"%.200s\": the symlink's target is over %zu bytes", path,
                       sizeof(target) - 1);
    }
    target[n] = '\0';
    if (!untar_symlink_stays(target, depth)) {
        return err_set(e, ERR_DENIED,
                       "\"%.200s\": the symlink points out of the directory: \"%.100s\"", path,
                       target);
    }
    return put_header(t, path, AE_IFLNK, 0777, 0, target, e);
}

static int put_children(struct tarrer *t, int fd, const char *path, unsigned depth, struct err *e);

static int put_entry(struct tarrer *t, int dir_fd, const char *name, const char *path,
                     unsigned depth, struct err *e)
{
    struct stat st;

    if (strlen(path) > UNTAR_NAME_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "\"%.200s...\": its path is over %u bytes", path,
                       UNTAR_NAME_MAX_BYTES);
    }
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return err_errno(e, "\"%.200s\"", path);
    }
    if (S_ISREG(st.st_mode)) {
        return put_file(t, dir_fd, name, path, e);
    }
    if (S_ISLNK(st.st_mode)) {
        return put_symlink(t, dir_fd, name, path, depth, e);
    }
    if (!S_ISDIR(st.st_mode)) {
        return err_set(e, ERR_UNSUPPORTED,
                       "\"%.200s\": is neither a file, a directory nor a symlink", path);
    }
    _cleanup_close_ int fd = openat(dir_fd, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ char *slashed = xasprintf("%s/", path);
    if (fd < 0) {
        return err_errno(e, "\"%.200s\"", path);
    }
    if (put_header(t, slashed, AE_IFDIR, 0755, 0, NULL, e) < 0) {
        return -1;
    }
    return put_children(t, fd, path, depth + 1, e);
}

static int put_children(struct tarrer *t, int fd, const char *path, unsigned depth, struct err *e)
{
    _cleanup_(names_done) struct names l = {0};

    if (depth > SEAL_TAR_MAX_DEPTH) {
        return err_set(e, ERR_TOO_LARGE, "the directory \"%.200s\": is nested deeper than %u", path,
                       SEAL_TAR_MAX_DEPTH);
    }
    if (list(fd, path, t->left, &l, e) < 0) {
        return -1;
    }
    t->left -= l.n;
    for (size_t i = 0; i < l.n; i++) {
        _cleanup_free_ char *child = *path ? xasprintf("%s/%s", path, l.v[i]) : xstrdup(l.v[i]);
        if (put_entry(t, fd, l.v[i], child, depth, e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* After a failure libarchive still wants to write an end mark, which would make the part look whole
 * (and archive_write_fail() leaks): from then on its bytes go nowhere. */
static la_ssize_t on_write(struct archive *a, void *arg, const void *p, size_t n)
{
    struct tarrer *t = arg;
    struct err e;

    if (!t->failed && seal_write_all(t->out_fd, p, n, "the tar stream", &e) < 0) {
        archive_set_error(a, EIO, "%s", e.msg);
        return -1;
    }
    return (la_ssize_t)n;
}

int seal_tar_dir(const char *dir, int out_fd, struct err *e)
{
    _cleanup_free_ uint8_t *copy = xmalloc(COPY_BYTES);
    _cleanup_close_ int fd = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_(archive_write_freep) struct archive *a = archive_write_new();
    struct tarrer t = {.a = a, .out_fd = out_fd, .left = SEAL_TAR_MAX_ENTRIES, .copy = copy};

    if (fd < 0) {
        return err_errno(e, "opening the directory %.200s", dir);
    }
    /* Names as bytes, whatever the locale, and no padding that depends on what out_fd is. */
    if (!a || archive_write_set_format_pax_restricted(a) != ARCHIVE_OK ||
        archive_write_set_format_option(a, "pax", "hdrcharset", "BINARY") != ARCHIVE_OK ||
        archive_write_set_bytes_per_block(a, 10240) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK ||
        archive_write_open(a, &t, NULL, on_write, NULL) != ARCHIVE_OK) {
        return err_set(e, ERR_INTERNAL, "tar: %.200s", a ? archive_error_string(a) : "no memory");
    }
    if (put_children(&t, fd, "", 0, e) < 0) {
        t.failed = 1;
        return -1;
    }
    if (archive_write_close(a) != ARCHIVE_OK) {
        t.failed = 1;
        return err_set(e, ERR_IO, "tar: %.200s", archive_error_string(a));
    }
    return 0;
}

/* Takes the rest of the input, so that whoever writes it is not cut off. */
static int drain(int fd, struct err *e)
{
    uint8_t b[4096];
    size_t total = 0, n;

    do {
        if (seal_read_full(fd, b, sizeof(b), "the tar stream", &n, e) < 0) {
            return -1;
        }
        total += n;
        if (total > PADDING_MAX_BYTES) {
            return err_set(e, ERR_INVALID, "tar stream: more than %u bytes follow its end",
                           PADDING_MAX_BYTES);
        }
    } while (n > 0);
    return 0;
}

int seal_untar(int in_fd, const char *dir, uint64_t max_bytes, uint64_t max_files, struct err *e)
{
    _cleanup_(untar_freep) struct untar *u = NULL;
    _cleanup_(archive_read_freep) struct archive *a = untar_archive_new();

    if (untar_new(dir, UNTAR_DATASET, max_bytes, max_files, &u, e) < 0) {
        return -1;
    }
    if (archive_read_open_fd(a, in_fd, COPY_BYTES) != ARCHIVE_OK) {
        return err_set(e, ERR_INVALID, "tar stream: %.200s", archive_error_string(a));
    }
    if (untar_archive(u, a, e) < 0) {
        return -1;
    }
    return drain(in_fd, e);
}
