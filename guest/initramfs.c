#include "guest/initramfs.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/fileio.h"
#include "guest/run.h"

#define LIB_DIR "usr/lib/x86_64-linux-gnu"
#define LINKER "/lib64/ld-linux-x86-64.so.2"
#define LIST_MAX_BYTES 65536u
#define FILE_MAX_BYTES (64u << 20)

void initramfs_done(struct initramfs *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->v[i].path);
        free(f->v[i].target);
        free(f->v[i].source);
        buf_done(&f->v[i].content);
    }
    f->n = 0;
}

static int add(struct initramfs *f, const char *path, mode_t mode, struct initramfs_entry **ret,
               struct err *e)
{
    for (size_t i = 0; i < f->n; i++) {
        if (streq(f->v[i].path, path)) {
            *ret = NULL;
            return 1;
        }
    }
    if (f->n == INITRAMFS_FILES_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "initramfs", "at most 512 files", "more");
    }
    *ret = &f->v[f->n++];
    **ret = (struct initramfs_entry){
        .path = xstrdup(path), .mode = mode, .content = BUF_INIT(FILE_MAX_BYTES)};
    return 0;
}

int initramfs_dir(struct initramfs *f, const char *path, mode_t perm, struct err *e)
{
    struct initramfs_entry *x;

    return add(f, path, S_IFDIR | perm, &x, e);
}

int initramfs_link(struct initramfs *f, const char *path, const char *target, struct err *e)
{
    struct initramfs_entry *x;
    int rc = add(f, path, S_IFLNK | 0777, &x, e);

    if (rc == 0) {
        x->target = xstrdup(target);
    }
    return rc;
}

int initramfs_device(struct initramfs *f, const char *path, unsigned major, unsigned minor,
                     struct err *e)
{
    struct initramfs_entry *x;
    int rc = add(f, path, S_IFCHR | 0600, &x, e);

    if (rc == 0) {
        x->major = major;
        x->minor = minor;
    }
    return rc;
}

int initramfs_text(struct initramfs *f, const char *path, const char *text, struct err *e)
{
    struct initramfs_entry *x;
    int rc = add(f, path, S_IFREG | 0644, &x, e);

    return rc ? rc : buf_add(&x->content, text, strlen(text), e);
}

int initramfs_file(struct initramfs *f, const char *path, const char *source, mode_t perm,
                   struct err *e)
{
    struct initramfs_entry *x;
    int rc = add(f, path, S_IFREG | perm, &x, e);

    if (rc == 0) {
        x->source = xstrdup(source);
        rc = file_read(source, FILE_MAX_BYTES, 0, &x->content, e);
    }
    return rc;
}

/* ---- programs -------------------------------------------------------------------------------- */

static int run(const char *const argv[], struct buf *ret_out, struct err *e)
{
    int status = 0;

    if (guest_run(argv, 0, ret_out, &status, e)) {
        return -1;
    }
    return status == 0 ? 0 : err_set(e, ERR_IO, "%s failed", argv[0]);
}

static const char *base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* A line of the dynamic linker: "name => /path (0x...)", "/path (0x...)" or "name => not found". */
static int add_library(struct initramfs *f, const char *program, char *line, struct err *e)
{
    char *path = strstr(line, "=> "), *end;

    if (path && strncmp(path + 3, "not found", 9) == 0) {
        return err_refuse(e, ERR_NOT_FOUND, "library", "every library of a program",
                          "%.100s of %.100s is missing", line + strspn(line, " \t"), program);
    }
    path = path ? path + 3 : line + strspn(line, " \t");
    end = strstr(path, " (0x");
    if (path[0] != '/' || !end) {
        return 0; /* the vdso */
    }
    *end = '\0';
    _cleanup_free_ char *to = xasprintf("%s/%s", LIB_DIR, base(path));
    if (streq(base(path), base(LINKER))) {
        free(to);
        to = xasprintf("usr/lib64/%s", base(path));
    }
    return initramfs_file(f, to, path, 0755, e) < 0 ? -1 : 0;
}

static int add_libraries(struct initramfs *f, const char *source, struct err *e)
{
    const char *const argv[] = {LINKER, "--list", source, NULL};
    _cleanup_buf_ struct buf out = BUF_INIT(LIST_MAX_BYTES);
    char *save = NULL;

    if (run(argv, &out, e) || buf_add(&out, "", 1, e)) {
        return err_wrap(e, "libraries of %s", source);
    }
    for (char *l = strtok_r((char *)out.p, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        if (add_library(f, source, l, e)) {
            return -1;
        }
    }
    return 0;
}

static int strip_to(struct initramfs *f, const char *path, const char *source, struct err *e)
{
    char to[] = "/tmp/coffer-strip-XXXXXX";
    int fd = mkostemp(to, O_CLOEXEC);

    if (fd < 0) {
        return err_errno(e, "temporary file");
    }
    close(fd);
    const char *const argv[] = {"strip", "-o", to, source, NULL};
    size_t at = f->n;
    int rc = run(argv, NULL, e) || initramfs_file(f, path, to, 0755, e) < 0 ? -1 : 0;
    unlink(to);
    if (rc == 0 && f->n > at) {
        free(f->v[at].source);
        f->v[at].source = xstrdup(source);
    }
    return rc;
}

int initramfs_program(struct initramfs *f, const char *path, const char *source, int strip,
                      struct err *e)
{
    int rc = strip ? strip_to(f, path, source, e) : initramfs_file(f, path, source, 0755, e);

    return rc < 0 || add_libraries(f, source, e) ? -1 : 0;
}

/* ---- packing --------------------------------------------------------------------------------- */

struct sink {
    struct buf *out;
    struct err *e;
};

static la_ssize_t on_write(struct archive *a, void *arg, const void *p, size_t n)
{
    struct sink *s = arg;

    if (buf_add(s->out, p, n, s->e)) {
        archive_set_error(a, ENOMEM, "too large");
        return -1;
    }
    return (la_ssize_t)n;
}

static int by_path(const void *a, const void *b)
{
    const struct initramfs_entry *x = a, *y = b;

    return strcmp(x->path, y->path);
}

/* The directories above every file. */
static int add_parents(struct initramfs *f, struct err *e)
{
    for (size_t i = 0; i < f->n; i++) {
        _cleanup_free_ char *p = xstrdup(f->v[i].path);
        for (char *s = strchr(p, '/'); s; s = strchr(s + 1, '/')) {
            *s = '\0';
            if (initramfs_dir(f, p, 0755, e) < 0) {
                return -1;
            }
            *s = '/';
        }
    }
    return 0;
}

static int write_entry(struct archive *a, const struct initramfs_entry *x, int64_t ino)
{
    struct archive_entry *h = archive_entry_new();

    archive_entry_set_pathname(h, x->path);
    archive_entry_set_mode(h, x->mode);
    archive_entry_set_nlink(h, 1);
    archive_entry_set_ino64(h, ino);
    archive_entry_set_mtime(h, 0, 0);
    archive_entry_set_size(h, (int64_t)x->content.n);
    if (x->target) {
        archive_entry_set_symlink(h, x->target);
    }
    if (S_ISCHR(x->mode)) {
        archive_entry_set_rdev(h, makedev(x->major, x->minor));
    }
    int ok = archive_write_header(a, h) == ARCHIVE_OK &&
             (!x->content.n ||
              archive_write_data(a, x->content.p, x->content.n) == (la_ssize_t)x->content.n);
    archive_entry_free(h);
    return ok ? 0 : -1;
}

int initramfs_pack(struct initramfs *f, struct buf *ret, struct err *e)
{
    struct sink s = {ret, e};
    struct archive *a = archive_write_new();
    int ok = a && add_parents(f, e) == 0;

    qsort(f->v, f->n, sizeof(*f->v), by_path);
    ok = ok && archive_write_set_format_cpio_newc(a) == ARCHIVE_OK &&
         archive_write_add_filter_zstd(a) == ARCHIVE_OK &&
         archive_write_set_options(a, "zstd:compression-level=12") == ARCHIVE_OK &&
         archive_write_set_bytes_in_last_block(a, 1) == ARCHIVE_OK &&
         archive_write_open(a, &s, NULL, on_write, NULL) == ARCHIVE_OK;
    for (size_t i = 0; ok && i < f->n; i++) {
        ok = write_entry(a, &f->v[i], (int64_t)i + 1) == 0;
    }
    ok = ok && archive_write_close(a) == ARCHIVE_OK;
    if (!ok) {
        err_set(e, ERR_IO, "initramfs: %s",
                a && archive_error_string(a) ? archive_error_string(a) : "");
    }
    archive_write_free(a);
    return ok ? 0 : -1;
}
