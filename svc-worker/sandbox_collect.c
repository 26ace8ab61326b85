/* Reading what the workload left: every name in the output directory is hostile. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "svc-worker/sandbox.h"

int sandbox_collect_open(int dir_fd, const char *relpath, uint64_t max_bytes, int *ret_fd,
                         uint64_t *ret_bytes, struct err *e)
{
    /* O_NONBLOCK: the open of a FIFO must not wait for a writer. */
    struct open_how how = {
        .flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    _cleanup_close_ int fd = (int)syscall(SYS_openat2, dir_fd, relpath, &how, sizeof(how));
    struct stat st;

    if (fd < 0) {
        switch (errno) {
        case ENOENT:
        case ENOTDIR:
            return err_set(e, ERR_NOT_FOUND, "output file %.200s: not there", relpath);
        case ELOOP:
            return err_set(e, ERR_DENIED,
                           "output file %.200s: a symbolic link, or reached through one", relpath);
        case EXDEV:
            return err_set(e, ERR_DENIED, "output file %.200s: outside of the output directory",
                           relpath);
        case ENXIO:
            return err_set(e, ERR_DENIED, "output file %.200s: not a regular file", relpath);
        }
        return err_errno(e, "output file %.200s", relpath);
    }
    if (fstat(fd, &st) < 0) {
        return err_errno(e, "output file %.200s", relpath);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_DENIED, "output file %.200s: not a regular file", relpath);
    }
    if ((uint64_t)st.st_size > max_bytes) {
        return err_set(e, ERR_TOO_LARGE,
                       "output file %.200s: expected at most %" PRIu64 " bytes, found %" PRIu64,
                       relpath, max_bytes, (uint64_t)st.st_size);
    }
    if (fcntl(fd, F_SETFL, 0) < 0) {
        return err_errno(e, "output file %.200s", relpath);
    }
    *ret_bytes = (uint64_t)st.st_size;
    *ret_fd = TAKE_FD(fd);
    return 0;
}
