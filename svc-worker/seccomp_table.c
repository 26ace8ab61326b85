/* The system calls a workload may make. Everything that is not in this table is refused with EPERM.
 *
 * Left out on purpose, among others: mount and namespace calls, ptrace and process_vm_*, bpf,
 * perf_event_open, userfaultfd, keyctl and its kin, io_uring, module and kexec calls, clocks'
 * setters, swap, reboot, quota, accounting, file handles, chroot, pivot_root, fanotify,
 * memfd_create and execveat (programs run from the image, which is read-only, and from nowhere
 * else), SysV and POSIX message queues, and sockets of any family but unix, IPv4 and IPv6, whose
 * only interface is loopback, and of any protocol but TCP and UDP.
 */
#include <asm/ioctls.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "svc-worker/sandbox_internal.h"

/* Allowed whatever the arguments. */
static const char *const allowed[] = {
    /* files */
    "access",
    "chdir",
    "chmod",
    "chown",
    "close",
    "close_range",
    "copy_file_range",
    "creat",
    "dup",
    "dup2",
    "dup3",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fallocate",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fcntl",
    "fdatasync",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "futimesat",
    "getcwd",
    "getdents",
    "getdents64",
    "getxattr",
    "inotify_add_watch",
    "inotify_init",
    "inotify_init1",
    "inotify_rm_watch",
    "lchown",
    "lgetxattr",
    "link",
    "linkat",
    "listxattr",
    "llistxattr",
    "lremovexattr",
    "lseek",
    "lsetxattr",
    "lstat",
    "mkdir",
    "mkdirat",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readahead",
    "readlink",
    "readlinkat",
    "readv",
    "removexattr",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "setxattr",
    "splice",
    "stat",
    "statfs",
    "statx",
    "symlink",
    "symlinkat",
    "sync",
    "sync_file_range",
    "syncfs",
    "tee",
    "truncate",
    "umask",
    "unlink",
    "unlinkat",
    "utime",
    "utimensat",
    "utimes",
    "write",
    "writev",
    /* memory */
    "brk",
    "get_mempolicy",
    "madvise",
    "membarrier",
    "mincore",
    "mlock",
    "mlock2",
    "mlockall",
    "mmap",
    "mprotect",
    "mremap",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "remap_file_pages",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    /* processes and threads */
    "arch_prctl",
    "capget",
    "execve",
    "exit",
    "exit_group",
    "fork",
    "futex",
    "futex_waitv",
    "get_robust_list",
    "get_thread_area",
    "getcpu",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getresgid",
    "getresuid",
    "getrlimit",
    "getrusage",
    "getsid",
    "gettid",
    "getuid",
    "ioprio_get",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "pause",
    "pidfd_open",
    "pidfd_send_signal",
    "prlimit64",
    "restart_syscall",
    "rseq",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_setaffinity",
    "sched_yield",
    "seccomp",
    "set_robust_list",
    "set_tid_address",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setpgid",
    "setpriority",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setrlimit",
    "setsid",
    "setuid",
    "tgkill",
    "tkill",
    "vfork",
    "wait4",
    "waitid",
    /* signals and time */
    "alarm",
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "getitimer",
    "gettimeofday",
    "nanosleep",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_tgsigqueueinfo",
    "setitimer",
    "sigaltstack",
    "signalfd",
    "signalfd4",
    "time",
    "timer_create",
    "timer_delete",
    "timer_getoverrun",
    "timer_gettime",
    "timer_settime",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    "times",
    /* waiting */
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_ctl_old",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "epoll_wait_old",
    "eventfd",
    "eventfd2",
    "io_cancel",
    "io_destroy",
    "io_getevents",
    "io_pgetevents",
    "io_setup",
    "io_submit",
    "poll",
    "ppoll",
    "pselect6",
    "select",
    /* sockets, once made */
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    /* SysV semaphores, for multiprocessing libraries */
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    /* the system */
    "getrandom",
    "sysinfo",
    "uname",
};

/* Programs that find these missing fall back to something allowed; EPERM would stop them. */
static const char *const missing[] = {
    "clone3",         "execveat",     "io_uring_enter", "io_uring_register",
    "io_uring_setup", "memfd_create", "memfd_secret",   "process_madvise",
    "set_mempolicy",  "mbind",        "userfaultfd",
};

#define CONDITIONS 3

/* Allowed if each of the arguments, masked, is its value; a mask of 0 asks for nothing. */
struct conditional {
    const char *name;
    struct {
        unsigned arg;
        uint64_t mask, value;
    } when[CONDITIONS];
};

#define ALL_BITS UINT64_MAX
#define INT_BITS 0xffffffffu
#define NAMESPACE_FLAGS                                                                            \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
     CLONE_NEWNET)
#define SOCK_KIND 0xfu /* of socket(2)'s type; the rest is flags */
/* clang-format off */
/* Protocol 0 is the kind's own, TCP or UDP. All others, MPTCP and UDP-Lite among them, are left out. */
#define SOCKET(domain, kind, protocol)                                                             \
    {"socket", {{0, INT_BITS, (domain)}, {1, SOCK_KIND, (kind)}, {2, INT_BITS, (protocol)}}}
#define IOCTL(command) {"ioctl", {{1, INT_BITS, (command)}}}
#define PRCTL(option) {"prctl", {{0, INT_BITS, (option)}}}
/* clang-format on */

static const struct conditional conditional[] = {
    {"clone", {{0, NAMESPACE_FLAGS, 0}}},
    {"mknod", {{1, S_IFMT, S_IFIFO}}}, /* no device nodes */
    {"mknodat", {{2, S_IFMT, S_IFIFO}}},
    SOCKET(AF_UNIX, SOCK_STREAM, 0),
    SOCKET(AF_UNIX, SOCK_DGRAM, 0),
    SOCKET(AF_UNIX, SOCK_SEQPACKET, 0),
    SOCKET(AF_INET, SOCK_STREAM, 0),
    SOCKET(AF_INET, SOCK_STREAM, IPPROTO_TCP),
    SOCKET(AF_INET, SOCK_DGRAM, 0),
    SOCKET(AF_INET, SOCK_DGRAM, IPPROTO_UDP),
    SOCKET(AF_INET6, SOCK_STREAM, 0),
    SOCKET(AF_INET6, SOCK_STREAM, IPPROTO_TCP),
    SOCKET(AF_INET6, SOCK_DGRAM, 0),
    SOCKET(AF_INET6, SOCK_DGRAM, IPPROTO_UDP),
    {"socketpair", {{0, INT_BITS, AF_UNIX}}},
    {"personality", {{0, INT_BITS, PER_LINUX}}},
    {"personality", {{0, INT_BITS, 0xffffffffu}}}, /* asks */
    /* Terminals answer "not one"; the rest is pipes, sockets and the loopback interface's facts. */
    IOCTL(TCGETS),
    IOCTL(TIOCGWINSZ),
    IOCTL(TIOCGPGRP),
    IOCTL(FIONREAD),
    IOCTL(FIONBIO),
    IOCTL(FIOASYNC),
    IOCTL(FIOCLEX),
    IOCTL(FIONCLEX),
    IOCTL(SIOCGIFNAME),
    IOCTL(SIOCGIFCONF),
    IOCTL(SIOCGIFFLAGS),
    IOCTL(SIOCGIFADDR),
    IOCTL(SIOCGIFNETMASK),
    IOCTL(SIOCGIFMTU),
    IOCTL(SIOCGIFHWADDR),
    IOCTL(SIOCGIFINDEX),
    PRCTL(PR_SET_PDEATHSIG),
    PRCTL(PR_GET_PDEATHSIG),
    PRCTL(PR_GET_DUMPABLE),
    PRCTL(PR_SET_DUMPABLE),
    PRCTL(PR_SET_NAME),
    PRCTL(PR_GET_NAME),
    PRCTL(PR_GET_SECCOMP),
    PRCTL(PR_CAPBSET_READ),
    PRCTL(PR_CAP_AMBIENT), /* raising fails: there is nothing to raise */
    PRCTL(PR_GET_SECUREBITS),
    PRCTL(PR_SET_TIMERSLACK),
    PRCTL(PR_GET_TIMERSLACK),
    PRCTL(PR_SET_CHILD_SUBREAPER),
    PRCTL(PR_GET_CHILD_SUBREAPER),
    PRCTL(PR_SET_NO_NEW_PRIVS),
    PRCTL(PR_GET_NO_NEW_PRIVS),
    PRCTL(PR_SET_THP_DISABLE),
    PRCTL(PR_GET_THP_DISABLE),
    PRCTL(PR_GET_SPECULATION_CTRL),
    PRCTL(0x53564d41), /* PR_SET_VMA: names of memory ranges */
};

static json_t *names(const char *const *list, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++) {
        json_array_append_new(a, json_string(list[i]));
    }
    return a;
}

/* A comparison of the runtime specification: MASKED_EQ takes the mask first. */
static json_t *comparison(unsigned arg, uint64_t mask, uint64_t value)
{
    return json_pack("{s:i, s:I, s:I, s:s}", "index", (int)arg, "value", (json_int_t)mask,
                     "valueTwo", (json_int_t)value, "op", "SCMP_CMP_MASKED_EQ");
}

static json_t *conditional_rule(const struct conditional *c)
{
    json_t *args = json_array();

    for (size_t i = 0; i < CONDITIONS; i++) {
        if (c->when[i].mask) {
            json_array_append_new(args,
                                  comparison(c->when[i].arg, c->when[i].mask, c->when[i].value));
        }
    }
    return json_pack("{s:[s], s:s, s:o}", "names", c->name, "action", "SCMP_ACT_ALLOW", "args",
                     args);
}

#if defined(__x86_64__)
#define NATIVE_ARCH "SCMP_ARCH_X86_64"
#elif defined(__aarch64__)
#define NATIVE_ARCH "SCMP_ARCH_AARCH64"
#else
#error "the system call table has not been looked at for this architecture"
#endif

json_t *seccomp_profile(void)
{
    json_t *rules = json_array();

    json_array_append_new(rules,
                          json_pack("{s:o, s:s}", "names", names(allowed, ARRAY_LEN(allowed)),
                                    "action", "SCMP_ACT_ALLOW"));
    json_array_append_new(rules,
                          json_pack("{s:o, s:s, s:i}", "names", names(missing, ARRAY_LEN(missing)),
                                    "action", "SCMP_ACT_ERRNO", "errnoRet", 38 /* ENOSYS */));
    for (size_t i = 0; i < ARRAY_LEN(conditional); i++) {
        json_array_append_new(rules, conditional_rule(&conditional[i]));
    }
    /* Only the native calling convention: others are killed by the kernel's filter. */
    return json_pack("{s:s, s:i, s:[s], s:o}", "defaultAction", "SCMP_ACT_ERRNO", "defaultErrnoRet",
                     1 /* EPERM */, "architectures", NATIVE_ARCH, "syscalls", rules);
}
