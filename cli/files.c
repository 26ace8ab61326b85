#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/fileio.h"

int make_parents(const char *path, struct err *e)
{
    _cleanup_free_ char *p = xstrdup(path);

    for (char *s = p + 1; *p && (s = strchr(s, '/')); s++) {
        *s = '\0';
        if (mkdir(p, 0700) && errno != EEXIST) {
            return err_errno(e, "cannot make %s", p);
        }
        *s = '/';
    }
    return 0;
}

/* ---- keys and ids ---------------------------------------------------------------------------- */

int key_from_arg(const char *path, struct jkey **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(65536);
    _cleanup_json_ json_t *j = NULL;

    if (file_read(path, 65536, 0, &text, e) || json_parse(path, buf_bytes(&text), 65536, &j, e)) {
        return -1;
    }
    /* The private half is not needed: it is not kept in memory either. */
    json_object_del(j, "d");
    return jkey_from_jwk(j, ret, e) ? err_wrap(e, "%s", path) : 0;
}

int thumbprint_valid(const char *s)
{
    return strlen(s) == JKEY_THUMBPRINT_LEN &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") ==
               JKEY_THUMBPRINT_LEN;
}

int thumbprint_from_arg(const char *arg, const struct jkey *own, char **ret, struct err *e)
{
    _cleanup_jkey_ struct jkey *k = NULL;

    if (own && streq(arg, "self")) {
        *ret = xstrdup(jkey_thumbprint(own));
        return 0;
    }
    if (thumbprint_valid(arg)) {
        *ret = xstrdup(arg);
        return 0;
    }
    if (access(arg, F_OK)) {
        return err_set(e, ERR_INVALID,
                       "expected a thumbprint (%d characters), \"self\", or the file of a public "
                       "key, found \"%.80s\"",
                       JKEY_THUMBPRINT_LEN, arg);
    }
    if (key_from_arg(arg, &k, e)) {
        return -1;
    }
    *ret = xstrdup(jkey_thumbprint(k));
    return 0;
}

int image_digest_valid(const char *s)
{
    return strncmp(s, "sha256:", 7) == 0 && strlen(s + 7) == 64 &&
           strspn(s + 7, "0123456789abcdef") == 64;
}

/* ---- one file -------------------------------------------------------------------------------- */

int write_fully(int fd, struct bytes in, const char *what, struct err *e)
{
    for (size_t done = 0; done < in.n;) {
        ssize_t n = write(fd, in.p + done, in.n - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_errno(e, "cannot write %s", what);
        }
        done += (size_t)n;
    }
    return 0;
}

static int exists_already(const char *path, struct err *e)
{
    return err_set(e, ERR_WRONG_STATE, "%s is there already; --force replaces it", path);
}

int outfile_open(const char *path, int force, mode_t mode, struct outfile *ret, struct err *e)
{
    struct stat st;

    if (!force && lstat(path, &st) == 0) {
        return exists_already(path, e);
    }
    char *temp = xasprintf("%s.XXXXXX", path);
    int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) {
        err_errno(e, "cannot create %s", path);
        free(temp);
        return -1;
    }
    if (fchmod(fd, mode)) {
        err_errno(e, "cannot create %s", path);
        unlink(temp);
        close(fd);
        free(temp);
        return -1;
    }
    *ret = (struct outfile){.fd = fd, .path = xstrdup(path), .temp = temp};
    return 0;
}

int outfile_commit(struct outfile *o, int force, struct err *e)
{
    if (fsync(o->fd)) {
        return err_errno(e, "cannot write %s", o->path);
    }
    if (renameat2(AT_FDCWD, o->temp, AT_FDCWD, o->path, force ? 0 : RENAME_NOREPLACE)) {
        /* Not every file system knows RENAME_NOREPLACE; a hard link refuses as well. */
        if (errno == EINVAL && !force && !link(o->temp, o->path)) {
            unlink(o->temp);
        } else {
            return errno == EEXIST ? exists_already(o->path, e)
                                   : err_errno(e, "cannot write %s", o->path);
        }
    }
    free(TAKE_PTR(o->temp));
    return 0;
}

void outfile_done(struct outfile *o)
{
    if (o->temp) {
        unlink(o->temp);
    }
    if (o->path) {
        close(o->fd);
    }
    free(o->temp);
    free(o->path);
    *o = (struct outfile){.fd = -1};
}

/* ---- files below a directory ----------------------------------------------------------------- */

int relative_path_valid(const char *path)
{
    size_t n = strlen(path);

    if (!n || n > 255) {
        return 0;
    }
    for (const char *p = path;;) {
        size_t len = strcspn(p, "/");
        if (!len || (len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.')) {
            return 0;
        }
        for (size_t i = 0; i < len; i++) {
            if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f) {
                return 0;
            }
        }
        if (!p[len]) {
            return 1;
        }
        p += len + 1;
    }
}

/* The directory that `path` stands in, made where missing; *ret_name points into `path`. Each
 * component is opened below the one before and is no link, so this never leaves `dir`. */
static int open_parent(int dir, const char *path, int *ret_fd, const char **ret_name, struct err *e)
{
    _cleanup_close_ int at = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const char *p = path;

    if (at < 0) {
        return err_errno(e, "cannot open the output directory");
    }
    for (size_t n; n = strcspn(p, "/"), p[n]; p += n + 1) {
        _cleanup_free_ char *name = xstrndup(p, n);
        if (mkdirat(at, name, 0755) && errno != EEXIST) {
            return err_errno(e, "cannot make the directory of %s", path);
        }
        int below = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below < 0) {
            return errno == ENOTDIR || errno == ELOOP
                       ? err_set(e, ERR_DENIED, "%s: \"%s\" is a link or a file, not a directory",
                                 path, name)
                       : err_errno(e, "cannot open the directory of %s", path);
        }
        close(at);
        at = below;
    }
    *ret_fd = TAKE_FD(at);
    *ret_name = p;
    return 0;
}

static int write_one(int dir, const struct output_file *f, int force, struct err *e)
{
    _cleanup_close_ int parent = -1, fd = -1;
    const char *name = NULL;
    char temp[64];

    if (open_parent(dir, f->path, &parent, &name, e)) {
        return -1;
    }
    snprintf(temp, sizeof(temp), ".coffer-%ld.part", (long)getpid());
    (void)unlinkat(parent, temp, 0);
    fd = openat(parent, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_errno(e, "cannot create %s", f->path);
    }
    if (write_fully(fd, f->content, f->path, e)) {
        (void)unlinkat(parent, temp, 0);
        return -1;
    }
    if (renameat2(parent, temp, parent, name, force ? 0 : RENAME_NOREPLACE)) {
        int rc =
            errno == EEXIST ? exists_already(f->path, e) : err_errno(e, "cannot write %s", f->path);
        (void)unlinkat(parent, temp, 0);
        return rc;
    }
    return 0;
}

int output_write(const char *dir, const struct output_file *files, size_t n, int force,
                 struct err *e)
{
    struct stat st;

    for (size_t i = 0; i < n; i++) {
        if (!relative_path_valid(files[i].path)) {
            return err_set(e, ERR_DENIED, "files[%zu]: expected a path below the output directory",
                           i);
        }
    }
    if (make_parents(dir, e)) {
        return -1;
    }
    if (mkdir(dir, 0755) && errno != EEXIST) {
        return err_errno(e, "cannot make %s", dir);
    }
    _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(e, "cannot open %s", dir);
    }
    for (size_t i = 0; !force && i < n; i++) {
        if (fstatat(fd, files[i].path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
            return err_set(e, ERR_WRONG_STATE, "%s/%s is there already; --force replaces it", dir,
                           files[i].path);
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (write_one(fd, &files[i], force, e)) {
            return err_wrap(e, "%s", dir);
        }
    }
    return 0;
}
