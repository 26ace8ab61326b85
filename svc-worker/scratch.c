#include "svc-worker/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "common/secret.h"

#define CONTROL "/dev/mapper/control"
#define BLOCK 4096u
#define SECTOR 512u
#define TAG_BYTES 28 /* a nonce of 12, a tag of 16 */
#define HEAD_BYTES (64u * 1024)
#define COPY_BYTES (256u * 1024)
#define INODES_MIN 8192u
#define INODES_MAX 262144u
/* ext4's own number for it; the kernel's headers for programs do not have it. */
#define EXT4_SHUTDOWN _IOR('X', 125, uint32_t)
#define EXT4_SHUTDOWN_AT_ONCE 2u

/* ---- the devices ----------------------------------------------------------------------------- */

/* Nothing of a file that the host has used before decides how dm-integrity reads the disk: where
 * its first block is zeros, it makes a new one. */
static int wipe_head(const char *device, uint64_t bytes, struct err *e)
{
    _cleanup_free_ uint8_t *zeros = xcalloc(1, HEAD_BYTES);
    _cleanup_close_ int fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC);
    uint64_t have = 0;

    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &have) < 0) {
        return err_errno(e, "scratch: %s", device);
    }
    if (have < bytes) {
        return err_refuse(e, ERR_INVALID, "launch.disks.scratch", "a disk of what it is said to be",
                          "%llu bytes instead of %llu", (unsigned long long)have,
                          (unsigned long long)bytes);
    }
    if (pwrite(fd, zeros, HEAD_BYTES, 0) != (ssize_t)HEAD_BYTES || fsync(fd) < 0) {
        return err_errno(e, "scratch: %s", device);
    }
    return 0;
}

int scratch_data_sectors(const char *status, uint64_t *ret, struct err *e)
{
    unsigned long long failures, sectors;

    if (sscanf(status, "%20llu %20llu", &failures, &sectors) != 2 || sectors < BLOCK / SECTOR ||
        sectors > UINT64_C(1) << 37) {
        return err_set(e, ERR_INVALID, "scratch: dm-integrity says \"%.60s\"", status);
    }
    *ret = sectors / (BLOCK / SECTOR) * (BLOCK / SECTOR);
    return 0;
}

/* Directly, without its journal: what a crash leaves half written is never read again. The first
 * table is as small as one can be, because only with one does it say how large it may be. */
static int start_tags(struct scratch *s, const char *device, uint64_t *ret_sectors, struct err *e)
{
    char params[DM_PARAMS_MAX_BYTES], status[DM_STATUS_MAX_BYTES];

    snprintf(params, sizeof(params), "%.64s 0 %d D 2 block_size:%u journal_sectors:64", device,
             TAG_BYTES, BLOCK);
    return dm_create(CONTROL, "scratch-tags", &s->tags, e) < 0 ||
                   dm_load(&s->tags, "integrity", BLOCK / SECTOR, params, e) < 0 ||
                   dm_status(&s->tags, status, e) < 0 ||
                   scratch_data_sectors(status, ret_sectors, e) < 0 ||
                   dm_load(&s->tags, "integrity", *ret_sectors, params, e) < 0
               ? -1
               : 0;
}

void scratch_crypt_table(const uint8_t key[SCRATCH_KEY_BYTES], dev_t under,
                         char ret[DM_PARAMS_MAX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    static const char cipher[] = "capi:gcm(aes)-random ";
    char *p = ret + sizeof(cipher) - 1;

    memcpy(ret, cipher, sizeof(cipher));
    for (size_t i = 0; i < SCRATCH_KEY_BYTES; i++) {
        *p++ = digits[key[i] >> 4];
        *p++ = digits[key[i] & 15];
    }
    snprintf(p, DM_PARAMS_MAX_BYTES - (size_t)(p - ret),
             " 0 %u:%u 0 2 integrity:%d:aead sector_size:%u", major(under), minor(under), TAG_BYTES,
             BLOCK);
}

static int start_crypt(struct scratch *s, uint64_t sectors, struct err *e)
{
    _cleanup_secret_ struct secret *key = secret_random(SCRATCH_KEY_BYTES),
                                   *table = secret_new(DM_PARAMS_MAX_BYTES);

    scratch_crypt_table(secret_cp(key), s->tags.dev, (char *)secret_p(table));
    return dm_create(CONTROL, "scratch", &s->crypt, e) < 0 ||
                   dm_load(&s->crypt, "crypt", sectors, (const char *)secret_cp(table), e) < 0
               ? -1
               : 0;
}

/* ---- the file system ------------------------------------------------------------------------- */

static int run_mkfs(char *const argv[], struct err *e)
{
    /* Zeros are to be written, not left out: what was not written does not authenticate. Without a
     * file of settings, what it was built with holds. */
    char *const env[] = {(char *)"UNIX_IO_NOZEROOUT=1", (char *)"MKE2FS_CONFIG=/nowhere", NULL};
    posix_spawn_file_actions_t actions;
    char said[512] = "";
    size_t n = 0;
    ssize_t got = 1;
    int fds[2], status = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "scratch: pipe");
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
    int rc = posix_spawn(&pid, argv[0], &actions, NULL, argv, env);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    /* It says a line or two; a pipe that is full would hold it up, so the rest is read, too. */
    while (rc == 0 && (got > 0 || (got < 0 && errno == EINTR))) {
        char rest[256];
        int room = n < sizeof(said) - 1;
        got = read(fds[0], room ? said + n : rest, room ? sizeof(said) - 1 - n : sizeof(rest));
        n += room && got > 0 ? (size_t)got : 0;
    }
    close(fds[0]);
    if (rc) {
        errno = rc;
        err_errno(e, "scratch: %s", argv[0]);
        if (e && rc == ENOENT) {
            e->code = ERR_UNSUPPORTED;
        }
        return -1;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    const char *words = said + strspn(said, "\n");
    return status == 0 ? 0
                       : err_set(e, ERR_IO, "scratch: mke2fs: %.*s",
                                 (int)strnlen(words, strcspn(words, "\n")), words);
}

int scratch_make_image(const char *image, uint64_t bytes, uint32_t id, struct err *e)
{
    uint64_t inodes = bytes >> 20;
    char count[32], extra[96];
    char *const argv[] = {(char *)SCRATCH_MKFS,
                          (char *)"-q",
                          (char *)"-F",
                          (char *)"-t",
                          (char *)"ext4",
                          (char *)"-b",
                          (char *)"4096",
                          (char *)"-m",
                          (char *)"0",
                          (char *)"-O",
                          (char *)"^has_journal,^resize_inode,^metadata_csum,uninit_bg",
                          (char *)"-N",
                          count,
                          (char *)"-E",
                          extra,
                          (char *)(uintptr_t)image,
                          NULL};

    inodes = inodes < INODES_MIN ? INODES_MIN : inodes > INODES_MAX ? INODES_MAX : inodes;
    snprintf(count, sizeof(count), "%llu", (unsigned long long)inodes);
    snprintf(extra, sizeof(extra), "nodiscard,lazy_itable_init=0,root_owner=%u:%u", id, id);
    _cleanup_close_ int fd = open(image, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
        return err_errno(e, "scratch: %s", image);
    }
    return run_mkfs(argv, e);
}

static int copy_range(int from, int to, off_t at, off_t end, uint8_t *buf, struct err *e)
{
    while (at < end) {
        size_t n = end - at < (off_t)COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;
        if (pread(from, buf, n, at) != (ssize_t)n || pwrite(to, buf, n, at) != (ssize_t)n) {
            return err_errno(e, "scratch: writing the file system");
        }
        at += (off_t)n;
    }
    return 0;
}

int scratch_copy_image(const char *image, const char *device, struct err *e)
{
    _cleanup_free_ uint8_t *buf = xmalloc(COPY_BYTES);
    _cleanup_close_ int from = open(image, O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int to = open(device, O_WRONLY | O_CLOEXEC);
    off_t at = 0;

    if (from < 0 || to < 0) {
        return err_errno(e, "scratch: %s", from < 0 ? image : device);
    }
    for (;;) {
        off_t start = lseek(from, at, SEEK_DATA);
        off_t end = start < 0 ? -1 : lseek(from, start, SEEK_HOLE);
        if (start < 0 && errno == ENXIO) {
            break;
        }
        if (start < 0 || end < 0) {
            return err_errno(e, "scratch: %s", image);
        }
        /* Whole blocks: to write a part of one it would have to be read. */
        end = (end + (off_t)BLOCK - 1) / (off_t)BLOCK * (off_t)BLOCK;
        if (start % (off_t)BLOCK || copy_range(from, to, start, end, buf, e) < 0) {
            return start % (off_t)BLOCK ? err_set(e, ERR_INTERNAL, "scratch: a hole of half a page")
                                        : -1;
        }
        at = end;
    }
    return fsync(to) < 0 ? err_errno(e, "scratch: writing the file system") : 0;
}

static int fill_and_mount(struct scratch *s, uint64_t sectors, const char *work, uint32_t id,
                          struct err *e)
{
    _cleanup_free_ char *image = xasprintf("%s/scratch.ext4", work);
    char device[32];

    snprintf(device, sizeof(device), "/dev/dm-%u", minor(s->crypt.dev));
    int rc = scratch_make_image(image, sectors * SECTOR, id, e) < 0 ||
                     scratch_copy_image(image, device, e) < 0
                 ? -1
                 : 0;
    unlink(image);
    if (rc < 0) {
        return -1;
    }
    if (mkdir(s->dir, 0755) < 0 && errno != EEXIST) {
        return err_errno(e, "scratch: %s", s->dir);
    }
    if (mount(device, s->dir, "ext4", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME,
              "errors=remount-ro,noinit_itable,nobarrier,nodiscard") < 0) {
        return err_errno(e, "scratch: mount");
    }
    s->mounted = 1;
    _cleanup_free_ char *found = xasprintf("%s/lost+found", s->dir);
    if (rmdir(found) < 0 && errno != ENOENT) {
        return err_errno(e, "scratch: lost+found");
    }
    return 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

int scratch_mount(struct scratch *s, const char *device, uint64_t bytes, const char *work,
                  const char *dir, uint32_t id, struct err *e)
{
    uint64_t sectors;

    s->dir = xstrdup(dir);
    if (access(CONTROL, F_OK) < 0) {
        return err_set(e, ERR_UNSUPPORTED, "scratch: the kernel has no device-mapper");
    }
    return wipe_head(device, bytes, e) < 0 || start_tags(s, device, &sectors, e) < 0 ||
                   start_crypt(s, sectors, e) < 0 || fill_and_mount(s, sectors, work, id, e) < 0
               ? -1
               : 0;
}

void scratch_done(struct scratch *s)
{
    if (s->mounted) {
        uint32_t how = EXT4_SHUTDOWN_AT_ONCE;
        int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0) {
            ioctl(fd, EXT4_SHUTDOWN, &how); /* else what is in memory would be written now */
            close(fd);
        }
        umount2(s->dir, MNT_DETACH | UMOUNT_NOFOLLOW);
    }
    dm_done(&s->crypt);
    dm_done(&s->tags);
    free(s->dir);
    *s = SCRATCH_INIT;
}
