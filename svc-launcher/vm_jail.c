#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "svc-launcher/vm.h"

/* What QEMU and swtpm run in. Each is the first process of namespaces of its own: no network
 * interface, not even a loopback that is up; nobody else's processes; a root that holds /usr
 * read-only, a few devices, and what it is given. No capability, no way to get one, a user id that
 * nobody else has. Root is needed for the user id only: without it a user namespace does the rest,
 * and the user is the launcher's. */

#define NOFILE 1024
#define OLD_ROOT "."

#ifndef MOUNT_ATTR_RDONLY
struct mount_attr {
    uint64_t attr_set, attr_clr, propagation, userns_fd;
};
#define MOUNT_ATTR_RDONLY 0x1
#define MOUNT_ATTR_NOSUID 0x2
#define MOUNT_ATTR_NODEV 0x4
#define MOUNT_ATTR_NOEXEC 0x8
#endif

/* ---- CPUs ------------------------------------------------------------------------------------ */

static const char *number(const char *p, unsigned *ret)
{
    unsigned n = 0;
    const char *start = p;

    while (*p >= '0' && *p <= '9' && p - start < 5) {
        n = n * 10 + (unsigned)(*p++ - '0');
    }
    *ret = n;
    return p > start && n < VM_CPUS_MAX ? p : NULL;
}

int vm_cpus_parse(const char *s, uint8_t ret[VM_CPUS_MAX / 8], struct err *e)
{
    const char *p = s;
    unsigned from, to;

    memset(ret, 0, VM_CPUS_MAX / 8);
    while (p && *p) {
        p = number(p, &from);
        to = from;
        if (p && *p == '-') {
            p = number(p + 1, &to);
        }
        if (!p || to < from || (*p && (*p != ',' || !p[1]))) {
            p = NULL;
            break;
        }
        for (unsigned i = from; i <= to; i++) {
            ret[i / 8] = (uint8_t)(ret[i / 8] | 1u << i % 8);
        }
        p += *p == ',';
    }
    if (!p || p == s) {
        return err_refuse(e, ERR_INVALID, "vm-cpus", "CPUs as 0-3,8", "\"%.60s\"", s);
    }
    return 0;
}

static int pin(const char *cpus, struct err *e)
{
    uint8_t bits[VM_CPUS_MAX / 8];
    cpu_set_t set;

    if (!cpus[0]) {
        return 0;
    }
    if (vm_cpus_parse(cpus, bits, e) < 0) {
        return -1;
    }
    CPU_ZERO(&set);
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        if (bits[i / 8] & 1u << i % 8) {
            CPU_SET(i, &set);
        }
    }
    return sched_setaffinity(0, sizeof(set), &set) < 0 ? err_errno(e, "vm-cpus %s", cpus) : 0;
}

/* ---- the root -------------------------------------------------------------------------------- */

static int set_attributes(const char *path, uint64_t set, int recursive, struct err *e)
{
    struct mount_attr a = {.attr_set = set};

    if (syscall(SYS_mount_setattr, AT_FDCWD, path, recursive ? 0x8000 /* AT_RECURSIVE */ : 0, &a,
                sizeof(a)) < 0) {
        return err_errno(e, "mount_setattr %s", path);
    }
    return 0;
}

/* Binds a file or a directory to `to` below the root. */
static int bind_to(const char *root, const char *from, const char *to, uint64_t attributes,
                   struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s%s", root, to);
    struct stat st;

    if (stat(from, &st) < 0) {
        return err_errno(e, "%s", from);
    }
    if (S_ISDIR(st.st_mode)) {
        if (mkdir(path, 0755) < 0 && errno != EEXIST) {
            return err_errno(e, "mkdir %s", path);
        }
    } else {
        _cleanup_close_ int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0) {
            return err_errno(e, "create %s", path);
        }
    }
    if (mount(from, path, NULL, MS_BIND | MS_REC, NULL) < 0) {
        return err_errno(e, "bind %s", from);
    }
    return set_attributes(path, attributes, 1, e);
}

/* /lib and the like: links into /usr where the system has merged them, directories elsewhere. */
static int bind_system(const char *root, struct err *e)
{
    static const char *const names[] = {"/lib", "/lib64", "/lib32", "/bin"};
    const uint64_t ro = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

    if (bind_to(root, "/usr", "/usr", ro, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char target[256];
        ssize_t n = readlink(names[i], target, sizeof(target) - 1);
        if (n > 0) {
            _cleanup_free_ char *path = xasprintf("%s%s", root, names[i]);
            target[n] = '\0';
            if (symlink(target, path) < 0) {
                return err_errno(e, "symlink %s", path);
            }
        } else if (access(names[i], F_OK) == 0 && bind_to(root, names[i], names[i], ro, e) < 0) {
            return -1;
        }
    }
    return 0;
}

static int bind_all(const struct vm_jail *j, struct err *e)
{
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"};
    _cleanup_free_ char *dev = xasprintf("%s/dev", j->root);
    const uint64_t quiet = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

    if (bind_system(j->root, e) < 0) {
        return -1;
    }
    if (mkdir(dev, 0755) < 0) {
        return err_errno(e, "mkdir %s", dev);
    }
    for (size_t i = 0; i < ARRAY_LEN(devices); i++) {
        if (bind_to(j->root, devices[i], devices[i], quiet, e) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < j->n_binds; i++) {
        const struct vm_bind *b = &j->binds[i];
        uint64_t a = strncmp(b->to, "/dev/", 5) == 0 ? quiet : quiet | MOUNT_ATTR_NODEV;
        if (bind_to(j->root, b->from, b->to, b->writable ? a : a | MOUNT_ATTR_RDONLY, e) < 0) {
            return -1;
        }
    }
    return 0;
}

static int enter_root(const struct vm_jail *j, struct err *e)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return err_errno(e, "cannot make the mounts private");
    }
    if (mount("tmpfs", j->root, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755") < 0) {
        return err_errno(e, "tmpfs on %s", j->root);
    }
    if (bind_all(j, e) < 0) {
        return -1;
    }
    if (chdir(j->root) < 0 || syscall(SYS_pivot_root, OLD_ROOT, OLD_ROOT) < 0 ||
        umount2(OLD_ROOT, MNT_DETACH) < 0 || chdir("/") < 0) {
        return err_errno(e, "pivot_root");
    }
    return set_attributes("/", MOUNT_ATTR_RDONLY, 0, e);
}

/* ---- privileges ------------------------------------------------------------------------------ */

static int write_text(const char *path, const char *text, struct err *e)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        return err_errno(e, "%s", path);
    }
    return 0;
}

/* In a user namespace without a map this process is nobody; with it, `uid` inside is the launcher's
 * user outside. */
static int map_user(const struct vm_jail *j, uid_t uid, gid_t gid, struct err *e)
{
    char text[64];

    snprintf(text, sizeof(text), "%u %u 1", j->uid, (unsigned)uid);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* or the maps would be root's to write */
    if (write_text("/proc/self/setgroups", "deny", e) < 0 ||
        write_text("/proc/self/uid_map", text, e) < 0) {
        return -1;
    }
    snprintf(text, sizeof(text), "%u %u 1", j->uid, (unsigned)gid);
    return write_text("/proc/self/gid_map", text, e);
}

static int set_limits(const struct vm_jail *j, struct err *e)
{
    struct rlimit none = {0, 0}, files = {NOFILE, NOFILE},
                  size = {(rlim_t)j->file_bytes, (rlim_t)j->file_bytes},
                  lock = {RLIM_INFINITY, RLIM_INFINITY};

    if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 ||
        (j->file_bytes >= 0 && setrlimit(RLIMIT_FSIZE, &size) < 0)) {
        return err_errno(e, "setrlimit");
    }
    if (j->lock_memory && setrlimit(RLIMIT_MEMLOCK, &lock) < 0) {
        /* Who may not raise it has what there is, which was found to be enough (vm_place.c). */
        if (getrlimit(RLIMIT_MEMLOCK, &lock) < 0) {
            return err_errno(e, "RLIMIT_MEMLOCK");
        }
        lock.rlim_cur = lock.rlim_max;
        if (setrlimit(RLIMIT_MEMLOCK, &lock) < 0) {
            return err_errno(e, "RLIMIT_MEMLOCK");
        }
    }
    return 0;
}

static int drop(const struct vm_jail *j, int root, gid_t device_group, struct err *e)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};

    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
            return err_errno(e, "capability %d", cap);
        }
    }
    if (root && (setgroups(device_group ? 1 : 0, &device_group) < 0 ||
                 setresgid(j->uid, j->uid, j->uid) < 0 || setresuid(j->uid, j->uid, j->uid) < 0)) {
        return err_errno(e, "user %u", j->uid);
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capset, &head, data) < 0) {
        return err_errno(e, "giving up privileges");
    }
    return 0;
}

/* ---- starting -------------------------------------------------------------------------------- */

/* In the child; returns only on failure. */
static void enter(const struct vm_jail *j, char *const *argv, uid_t uid, gid_t gid, int alive_fd,
                  struct err *e)
{
    static char *const env[] = {"PATH=/usr/bin", "LANG=C.UTF-8", NULL};
    struct pollfd alive = {.fd = alive_fd};
    struct stat device = {0};
    sigset_t none;

    umask(022); /* of the new root, which somebody else must be able to use */
    if (uid != 0 && map_user(j, uid, gid, e) < 0) {
        return;
    }
    if (j->groups_of && stat(j->groups_of, &device) < 0) {
        err_errno(e, "%s", j->groups_of);
        return;
    }
    if (pin(j->cpus, e) < 0 || enter_root(j, e) < 0 || set_limits(j, e) < 0 ||
        drop(j, uid == 0, device.st_gid, e) < 0) {
        return;
    }
    for (int s = 1; s < NSIG; s++) {
        signal(s, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (size_t i = 0; i < j->n_fds; i++) {
        if (fcntl(j->fds[i], F_SETFD, 0) < 0) {
            err_errno(e, "descriptor %d", j->fds[i]);
            return;
        }
    }
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(j->out_fd, 1) < 0 || dup2(j->out_fd, 2) < 0) {
        err_errno(e, "standard descriptors");
        return;
    }
    /* Changing the user has cleared it. The other end of this pipe is the parent's alone. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || poll(&alive, 1, 0) != 0) {
        err_set(e, ERR_IO, "the launcher is gone");
        return;
    }
    execve(argv[0], argv, env);
    err_errno(e, "%s", argv[0]);
}

int vm_jail_start(const struct vm_jail *j, char *const *argv, pid_t *ret, struct err *e)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    unsigned long flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                          (uid == 0 ? 0ul : CLONE_NEWUSER) | SIGCHLD;
    struct err why = {0};
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    _cleanup_close_ int r = fds[0], w = fds[1];
    pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        close(r);
        enter(j, argv, uid, gid, w, &why);
        why.origin = NULL;
        ssize_t n = write(w, &why, sizeof(why));
        (void)n;
        _exit(126);
    }
    if (pid < 0) {
        return errno == EPERM || errno == EINVAL || errno == ENOSPC
                   ? err_refuse(e, ERR_UNSUPPORTED, "namespaces", "that they can be made", "%s",
                                strerror(errno))
                   : err_errno(e, "clone");
    }
    closep(&w);
    w = -1;
    if (read(r, &why, sizeof(why)) == (ssize_t)sizeof(why)) {
        siginfo_t info;
        waitid(P_PID, (id_t)pid, &info, WEXITED);
        return err_set(e, why.code, "%s", why.msg);
    }
    *ret = pid;
    return 0;
}
