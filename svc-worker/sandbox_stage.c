/* The mounts: the runner's private tmpfs, and the root the keeper and crun live in.
 *
 * The keeper's root is a tiny tmpfs with the host's programs bound read-only, six device nodes, a
 * /proc of its own pid namespace, and /w with the container's rootfs, inputs and output. A flaw in
 * crun that leads out of the container leads there, not to the host's tree. It also makes crun
 * work where / is an initramfs, which pivot_root(2) refuses to leave. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "svc-worker/sandbox_internal.h"

#define PRIVATE_INODES_DEFAULT 262144u
#define OUTPUT_INODES 16384u
#define STAGE_BYTES (1u << 20)
#define STAGE_INODES 512u
#define PAGE_BYTES 4096u
#define STAGE_INPUTS "/w/in"

/* Known since the probe; asking again would put a line into the kernel's log each time. */
static int noswap_unknown;

int stage_mount_tmpfs(const char *target, unsigned long flags, uint64_t bytes, uint64_t inodes,
                      const char *more_options, struct err *e)
{
    char options[256];

    snprintf(options, sizeof(options), "size=%" PRIu64 ",nr_inodes=%" PRIu64 ",%s,noswap",
             bytes < PAGE_BYTES ? PAGE_BYTES : bytes, inodes, more_options);
    if (!noswap_unknown && mount("tmpfs", target, "tmpfs", flags, options) == 0) {
        return 0;
    }
    *strrchr(options, ',') = 0; /* kernels before 6.4 do not know noswap */
    if (mount("tmpfs", target, "tmpfs", flags, options) < 0) {
        return err_errno(e, "cannot mount a tmpfs on %s", target);
    }
    return 0;
}

int sandbox_prepare_private(const struct sandbox_private *p, struct err *e)
{
    struct sandbox_probe probe;

    if (!p->work_dir || p->work_dir[0] != '/' || !p->bytes) {
        return err_set(e, ERR_INVALID,
                       "sandbox_private: expected an absolute work_dir and bytes > 0, found %s and "
                       "%" PRIu64,
                       p->work_dir ? p->work_dir : "none", p->bytes);
    }
    if (sandbox_probe(&probe, e) < 0) {
        return -1;
    }
    noswap_unknown = !probe.tmpfs_noswap;
    if (probe.swap_on && !probe.tmpfs_noswap && !p->allow_swap) {
        return err_set(e, ERR_UNSUPPORTED,
                       "plaintext could reach the disk: swap is on, and this kernel cannot keep a "
                       "tmpfs out of it (Linux 6.4 can); turn swap off");
    }
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return err_set(e, ERR_UNSUPPORTED, "cannot enter a private mount namespace: %s",
                       strerror(errno));
    }
    if (stage_mount_tmpfs(p->work_dir, MS_NOSUID | MS_NODEV, p->bytes,
                          p->inodes ? p->inodes : PRIVATE_INODES_DEFAULT, "mode=0711", e) < 0) {
        return -1;
    }
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) < 0) {
        return err_errno(e, "cannot forbid core dumps");
    }
    return 0;
}

/* --- mount points in the rootfs --- */

static int open_beneath(int dir, const char *name, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };

    return (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
}

/* Makes every missing component of absolute path `target` below the rootfs; the last one a file if
 * `file`. Links are refused, not followed: the image is the consumer's, and mounts are done as
 * root. */
static int make_target(int rootfs, const char *target, int file, struct err *e)
{
    _cleanup_free_ char *copy = xstrdup(target + 1);
    _cleanup_close_ int dir = open_beneath(rootfs, ".", O_PATH | O_DIRECTORY);
    char *save = NULL;

    for (char *name = strtok_r(copy, "/", &save); name && dir >= 0;) {
        char *next = strtok_r(NULL, "/", &save);
        int leaf_file = file && !next;
        if (leaf_file) {
            _cleanup_close_ int fd =
                openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0444);
            if (fd < 0 && errno != EEXIST) {
                return err_errno(e, "cannot make mount point %s in the image", target);
            }
        } else if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST) {
            return err_errno(e, "cannot make mount point %s in the image", target);
        }
        int sub = open_beneath(dir, name, O_PATH | (leaf_file ? 0 : O_DIRECTORY));
        int saved = errno;
        struct stat st;
        if (sub >= 0 && leaf_file && (fstat(sub, &st) < 0 || !S_ISREG(st.st_mode))) {
            close(sub);
            sub = -1;
            saved = EISDIR;
        }
        close(dir);
        dir = sub;
        errno = saved;
        name = next;
    }
    if (dir < 0) {
        return err_set(e, ERR_WORKLOAD,
                       "mount point %s: the image has a symbolic link or another kind of file in "
                       "its path (%s)",
                       target, strerror(errno));
    }
    return 0;
}

static int source_is_file(const char *source, int *ret, struct err *e)
{
    struct stat st;

    if (lstat(source, &st) < 0) {
        return err_errno(e, "dataset source %s", source);
    }
    mode_t need = S_ISDIR(st.st_mode) ? 0005 : 0004;
    if ((!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) || (st.st_mode & need) != need) {
        return err_set(e, ERR_INVALID,
                       "dataset source %s: expected a file or directory that others may read, "
                       "found mode %o",
                       source, (unsigned)st.st_mode);
    }
    *ret = S_ISREG(st.st_mode);
    return 0;
}

static int make_targets(const struct sandbox_config *c, int rootfs, struct err *e)
{
    static const char *const always[] = {"/proc", "/dev", "/tmp"};

    for (size_t i = 0; i < ARRAY_LEN(always); i++) {
        if (make_target(rootfs, always[i], 0, e) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < c->n_mounts; i++) {
        int file = 0;
        if (source_is_file(c->mounts[i].source, &file, e) < 0 ||
            make_target(rootfs, c->mounts[i].target, file, e) < 0) {
            return -1;
        }
    }
    return c->output_target ? make_target(rootfs, c->output_target, 0, e) : 0;
}

static uint32_t host_id(uint32_t inside)
{
    return SANDBOX_ID_BASE + (inside ? inside : SANDBOX_UID);
}

static int make_stream(const char *work_dir, const char *name, const struct sandbox_config *c,
                       struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", work_dir, name);
    _cleanup_close_ int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    if (fd < 0 || fchown(fd, host_id(c->uid), host_id(c->gid)) < 0) {
        return err_errno(e, "cannot make %s", path);
    }
    return 0;
}

int stage_prepare(const struct sandbox_config *c, struct err *e)
{
    _cleanup_free_ char *stdio = xasprintf("%s/" SANDBOX_STDIO_DIR, c->work_dir);
    _cleanup_close_ int rootfs = open(c->rootfs, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    char options[96];

    if (rootfs < 0 || fchmod(rootfs, 0755) < 0) {
        return err_errno(e, "rootfs %s", c->rootfs);
    }
    if (make_targets(c, rootfs, e) < 0) {
        return -1;
    }
    if (mkdir(stdio, 0711) < 0 && errno != EEXIST) {
        return err_errno(e, "cannot make %s", stdio);
    }
    /* One tmpfs for both streams: a workload that babbles gets ENOSPC, and nobody else does. */
    umount2(stdio, MNT_DETACH | UMOUNT_NOFOLLOW);
    if (stage_mount_tmpfs(stdio, MS_NOSUID | MS_NODEV | MS_NOEXEC, SANDBOX_STDIO_BYTES, 16,
                          "mode=0711", e) < 0 ||
        make_stream(c->work_dir, SANDBOX_STDOUT, c, e) < 0 ||
        make_stream(c->work_dir, SANDBOX_STDERR, c, e) < 0) {
        return -1;
    }
    if (!c->output_target) {
        return 0;
    }
    snprintf(options, sizeof(options), "mode=0700,uid=%u,gid=%u", host_id(c->uid), host_id(c->gid));
    return stage_mount_tmpfs(c->output_source, MS_NOSUID | MS_NODEV | MS_NOEXEC, c->output_bytes,
                             OUTPUT_INODES, options, e);
}

/* --- the keeper's root --- */

void stage_input_path(size_t i, char ret[32])
{
    snprintf(ret, 32, STAGE_INPUTS "/%zu", i);
}

/* Binds `source` to an existing `target`, then sets the flags (a bind ignores them at first). The
 * flags of the source's mount are kept, since a user namespace may not drop them later. */
static int bind_mount(const char *source, const char *target, unsigned long flags, struct err *e)
{
    static const struct {
        unsigned long statvfs_flag, mount_flag;
    } kept[] = {{ST_NOSUID, MS_NOSUID},
                {ST_NODEV, MS_NODEV},
                {ST_NOEXEC, MS_NOEXEC},
                {ST_RDONLY, MS_RDONLY},
                {ST_NOATIME, MS_NOATIME}};
    struct statvfs vfs;

    if (mount(source, target, NULL, MS_BIND, NULL) < 0 || statvfs(target, &vfs) < 0) {
        return err_errno(e, "cannot bind %s", source);
    }
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        if (vfs.f_flag & kept[i].statvfs_flag) {
            flags |= kept[i].mount_flag;
        }
    }
    if (mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | flags, NULL) < 0) {
        return err_errno(e, "cannot set the mount flags of %s", source);
    }
    return 0;
}

static int bind_new(const char *source, const char *target, unsigned long flags, struct err *e)
{
    struct stat st;

    if (lstat(source, &st) < 0) {
        return err_errno(e, "%s", source);
    }
    if (S_ISDIR(st.st_mode) ? mkdir(target, 0755) < 0 : mknod(target, S_IFREG | 0600, 0) < 0) {
        return err_errno(e, "cannot make mount point %s", target);
    }
    return bind_mount(source, target, flags, e);
}

/* The host's programs and libraries, in the place and shape (directory or link) they have. */
static int stage_programs(const char *stage, struct err *e)
{
    static const char *const dirs[] = {"/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32"};

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *target = xasprintf("%s%s", stage, dirs[i]);
        char link[64];
        struct stat st;
        if (lstat(dirs[i], &st) < 0) {
            continue;
        }
        if (S_ISLNK(st.st_mode)) {
            ssize_t n = readlink(dirs[i], link, sizeof(link) - 1);
            if (n < 0) {
                return err_errno(e, "cannot read link %s", dirs[i]);
            }
            link[n] = 0;
            if (symlink(link, target) < 0) {
                return err_errno(e, "cannot make link %s", target);
            }
        } else if (bind_new(dirs[i], target, MS_RDONLY | MS_NOSUID | MS_NODEV, e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* crun binds these six into every container; so these six are all there is. They are nodes of our
 * own, not the host's bound: crun gives stdin, and with it the node behind it, to the workload's
 * user, who may then change its mode for everybody. */
static int stage_devices(const char *stage, struct err *e)
{
    static const struct {
        const char *name;
        unsigned minor, major;
    } nodes[] = {{"null", 3, 1},   {"zero", 5, 1},    {"full", 7, 1},
                 {"random", 8, 1}, {"urandom", 9, 1}, {"tty", 0, 5}};

    for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
        _cleanup_free_ char *path = xasprintf("%s/dev/%s", stage, nodes[i].name);
        if (mknod(path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0 ||
            chmod(path, 0666) < 0) {
            return err_set(e, ERR_UNSUPPORTED, "cannot make a device node (CAP_MKNOD): %s",
                           strerror(errno));
        }
    }
    return 0;
}

static int stage_contents(const struct sandbox_config *c, const char *stage, struct err *e)
{
    const unsigned long data = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    _cleanup_free_ char *rootfs = xasprintf("%s" STAGE_ROOTFS, stage);
    _cleanup_free_ char *output = xasprintf("%s" STAGE_OUTPUT, stage);

    if (bind_new(c->rootfs, rootfs, MS_RDONLY | MS_NOSUID | MS_NODEV, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < c->n_mounts; i++) {
        char inside[32];
        stage_input_path(i, inside);
        _cleanup_free_ char *target = xasprintf("%s%s", stage, inside);
        unsigned long ro = c->mounts[i].writable_bytes ? 0 : MS_RDONLY;
        if (bind_new(c->mounts[i].source, target, ro | data, e) < 0) {
            return -1;
        }
    }
    return c->output_target ? bind_new(c->output_source, output, data, e) : 0;
}

/* Makes `stage` the root, and lets go of the old one. */
static int stage_switch(const char *stage, struct err *e)
{
    if (chdir(stage) < 0) {
        return err_errno(e, "cannot enter %s", stage);
    }
    if (syscall(SYS_pivot_root, ".", ".") == 0) {
        if (umount2(".", MNT_DETACH) < 0) {
            return err_errno(e, "cannot let go of the host's root");
        }
    } else if (errno != EINVAL || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0) {
        /* EINVAL: the root is the initramfs, which can only be covered. */
        return err_errno(e, "cannot change the root");
    }
    return chdir("/") < 0 ? err_errno(e, "cannot enter the new root") : 0;
}

int stage_enter(const struct sandbox_config *c, struct err *e)
{
    /* crun wants to look at /sys/fs/cgroup even when told to leave cgroups alone. */
    static const char *const dirs[] = {"/dev",       "/proc",          "/sys",
                                       "/sys/fs",    "/sys/fs/cgroup", "/w",
                                       STAGE_INPUTS, STAGE_BUNDLE,     STAGE_STATE};
    _cleanup_free_ char *stage = xasprintf("%s/stage", c->work_dir);
    _cleanup_free_ char *proc = xasprintf("%s/proc", stage);

    umask(022);
    if (mkdir(stage, 0755) < 0 && errno != EEXIST) {
        return err_errno(e, "cannot make %s", stage);
    }
    if (stage_mount_tmpfs(stage, MS_NOSUID | MS_NOEXEC, STAGE_BYTES, STAGE_INODES, "mode=0755", e) <
        0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *dir = xasprintf("%s%s", stage, dirs[i]);
        if (mkdir(dir, 0755) < 0) {
            return err_errno(e, "cannot make %s", dir);
        }
    }
    if (mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) {
        return err_set(e, ERR_UNSUPPORTED, "cannot mount proc in a new pid namespace: %s",
                       strerror(errno));
    }
    if (stage_programs(stage, e) < 0 || stage_devices(stage, e) < 0 ||
        stage_contents(c, stage, e) < 0) {
        return -1;
    }
    return stage_switch(stage, e);
}

int stage_loopback_up(struct err *e)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0) {
        return err_errno(e, "cannot bring up the loopback interface");
    }
    return 0;
}
