#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "svc-launcher/vm.h"

/* The disk for a job's scratch: a sparse file that never has a name for longer than it takes to
 * open it, so that nothing is left of it whatever ends first. What the guest writes to it is
 * encrypted under a key that only the guest has (svc-worker/scratch.h). */

#define CLAUSE "spec.resources.scratch"
#define DISK_FREE_BYTES (INT64_C(256) << 20) /* of the file system, for everybody else */

static int open_unnamed(const char *dir, int *ret_fd, struct err *e)
{
    /* O_EXCL: it can never be given a name. */
    int fd = open(dir, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        _cleanup_free_ char *path = xasprintf("%s/scratch", dir);
        fd = open(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0 && unlink(path) < 0) {
            err_errno(e, "unlink %s", path);
            close(fd);
            return -1;
        }
    }
    if (fd < 0) {
        return err_errno(e, "a file for scratch in %s", dir);
    }
    *ret_fd = fd;
    return 0;
}

static int check_room(int fd, uint64_t bytes, struct err *e)
{
    struct statvfs fs;
    char expected[64];

    if (fstatvfs(fd, &fs) < 0) {
        return err_errno(e, "the file system of scratch");
    }
    uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize, need = bytes + (uint64_t)DISK_FREE_BYTES;
    if (have < need) {
        snprintf(expected, sizeof(expected), "%llu bytes free on the host's disk",
                 (unsigned long long)need);
        return err_refuse(e, ERR_BUSY, CLAUSE, expected, "%llu", (unsigned long long)have);
    }
    return 0;
}

int vm_scratch_open(const char *dir, int64_t bytes, int64_t max_bytes, struct vm_disks *d,
                    struct err *e)
{
    _cleanup_close_ int fd = -1;
    char expected[96];

    if (bytes == 0) {
        return 0;
    }
    if (bytes > max_bytes) {
        snprintf(expected, sizeof(expected), "at most %lld bytes (vm-scratch-max-bytes)",
                 (long long)max_bytes);
        return err_refuse(e, ERR_TOO_LARGE, CLAUSE, expected, "%lld", (long long)bytes);
    }
    if (d->n == VM_DISKS_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "spec",
                          "at most 160 datasets, image layers and scratch", "more");
    }
    uint64_t size = vm_scratch_disk_bytes((uint64_t)bytes);
    if (open_unnamed(dir, &fd, e) < 0 || check_room(fd, size, e) < 0) {
        return -1;
    }
    if (ftruncate(fd, (off_t)size) < 0) {
        return errno == EFBIG ? err_refuse(e, ERR_TOO_LARGE, CLAUSE,
                                           "a size that the host's file system has files of",
                                           "%lld", (long long)bytes)
                              : err_errno(e, "scratch");
    }
    struct vm_disk *x = &d->v[d->n++];
    *x = (struct vm_disk){
        .kind = "scratch", .serial = VM_SCRATCH_SERIAL, .fd = TAKE_FD(fd), .bytes = size, .rw = 1};
    return 0;
}
