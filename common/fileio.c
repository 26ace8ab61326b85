#include "common/fileio.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int file_read(const char *path, size_t max, int owner_only, struct buf *ret, struct err *e)
{
    struct stat st;
    size_t old = ret->n;
    size_t want;

    /* Not blocking: a FIFO in the file's place must not hang a service. */
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        return err_errno(e, "cannot open %s", path);
    }
    if (fstat(fd, &st)) {
        return err_errno(e, "cannot stat %s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "%s: expected a regular file", path);
    }
    if (owner_only && (st.st_mode & 077)) {
        return err_set(e, ERR_DENIED,
                       "%s: expected a mode that gives nothing to group and others, such as 0600, "
                       "found %04o",
                       path, (unsigned)(st.st_mode & 07777));
    }
    if (st.st_size < 0 || (uintmax_t)st.st_size > max) {
        return err_set(e, ERR_TOO_LARGE, "%s: expected at most %zu bytes, found %jd", path, max,
                       (intmax_t)st.st_size);
    }
    want = (size_t)st.st_size;
    if (buf_reserve(ret, want, e)) {
        return err_wrap(e, "%s", path);
    }
    while (ret->n - old < want) {
        ssize_t n = read(fd, ret->p + ret->n, want - (ret->n - old));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            err_errno(e, "cannot read %s", path);
            explicit_bzero(ret->p + old, ret->n - old);
            ret->n = old;
            return -1;
        }
        if (n == 0) {
            break;
        }
        ret->n += (size_t)n;
    }
    ret->p[ret->n] = 0;
    return 0;
}

static int write_all(int fd, struct bytes in)
{
    while (in.n) {
        ssize_t n = write(fd, in.p, in.n);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -1;
        }
        in.p += n;
        in.n -= (size_t)n;
    }
    return 0;
}

static int sync_dir_of(const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir = !slash          ? xstrdup(".")
                               : slash == path ? xstrdup("/")
                                               : xstrndup(path, (size_t)(slash - path));
    _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd)) {
        return err_errno(e, "cannot sync the directory of %s", path);
    }
    return 0;
}

int file_replace(const char *path, struct bytes content, mode_t mode, struct err *e)
{
    _cleanup_free_ char *tmp = xasprintf("%s.tmp.XXXXXX", path);
    _cleanup_close_ int fd = mkostemp(tmp, O_CLOEXEC);

    if (fd < 0) {
        return err_errno(e, "cannot create a file beside %s", path);
    }
    if (fchmod(fd, mode) || write_all(fd, content) || fsync(fd) || rename(tmp, path)) {
        err_errno(e, "cannot write %s", path);
        unlink(tmp);
        return -1;
    }
    return sync_dir_of(path, e);
}
