/* What the guest has beside the container: root's rights, svc-worker's memory, the kernel's log. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/isolation/escape_vm.h"

#define PIDS 1000
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- root
 * ---------------------------------------------------------------------------------------- */

static int set_all_uids(const void *arg)
{
    (void)arg;
    return verdict(setresuid(0, 0, 0));
}

static int set_all_gids(const void *arg)
{
    (void)arg;
    return verdict(setresgid(0, 0, 0));
}

static int set_real_uid(const void *arg)
{
    (void)arg;
    return verdict(setreuid(0, 0));
}

/* setfsuid(2) answers what it was, whatever it did. */
static int set_file_uid(const void *arg)
{
    (void)arg;
    setfsuid(0);
    return setfsuid((uid_t)-1) == 0 ? 0 : BLOCKED;
}

static int unshare_flags(const void *arg)
{
    return verdict(unshare(*(const int *)arg));
}

static int set_namespace(const void *arg)
{
    int fd = open(arg, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? errno : verdict(setns(fd, 0));
}

static int keep_capabilities(const void *arg)
{
    (void)arg;
    return verdict(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
}

static int drop_no_new_privileges(const void *arg)
{
    (void)arg;
    return verdict(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static int all_capabilities(const void *arg)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};

    (void)arg;
    return verdict(syscall(SYS_capset, &h, d));
}

static int run_rights(const void *arg)
{
    execl(arg, arg, "rights", (char *)NULL);
    return errno;
}

static int write_map(const void *arg)
{
    int fd = open(arg, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? errno : verdict(write(fd, "0 65532 1\n", 10));
}

static void say_mode(const char *path)
{
    struct stat st;
    char name[256];

    snprintf(name, sizeof(name), "mode of %s, 4755 in the image", path);
    if (stat(path, &st) < 0) {
        say(name, "%s", strerrorname_np(errno));
    } else {
        say(name, "%o", (unsigned)st.st_mode & 07777);
    }
}

void vm_privileges(void)
{
    static const struct {
        const char *name;
        int flags;
    } namespaces[] = {{"user", CLONE_NEWUSER},
                      {"mount", CLONE_NEWNS},
                      {"pid", CLONE_NEWPID},
                      {"net", CLONE_NEWNET},
                      {"ipc", CLONE_NEWIPC},
                      {"uts", CLONE_NEWUTS},
                      {"cgroup", CLONE_NEWCGROUP},
                      {"time", 0x80},
                      {"user and all others", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID |
                                                  CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                                                  CLONE_NEWCGROUP}};
    static const char *const maps[] = {"/proc/self/uid_map", "/proc/self/gid_map",
                                       "/proc/1/uid_map"};
    char name[96];
    uid_t u[3];
    gid_t g[3];

    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    say("user ids, where the image says 0:0", "%u %u %u", u[0], u[1], u[2]);
    say("group ids, where the image says 0:0", "%u %u %u", g[0], g[1], g[2]);
    attempt("setresuid 0", set_all_uids, NULL);
    attempt("setresgid 0", set_all_gids, NULL);
    attempt("setreuid 0", set_real_uid, NULL);
    attempt("setfsuid 0", set_file_uid, NULL);
    attempt("capset of all", all_capabilities, NULL);
    attempt("keep capabilities", keep_capabilities, NULL);
    attempt("drop no_new_privs", drop_no_new_privileges, NULL);
    say_mode("/bin/escape-setuid");
    attempt("a program with the setuid bit", run_rights, "/bin/escape-setuid");
    attempt("a program with file capabilities", run_rights, "/bin/escape-capable");
    for (size_t i = 0; i < COUNT(namespaces); i++) {
        snprintf(name, sizeof(name), "unshare %s", namespaces[i].name);
        attempt(name, unshare_flags, &namespaces[i].flags);
    }
    for (size_t i = 0; i < COUNT(maps); i++) {
        snprintf(name, sizeof(name), "write to %s", maps[i]);
        attempt(name, write_map, maps[i]);
    }
    attempt("setns /proc/1/ns/user", set_namespace, "/proc/1/ns/user");
    attempt("setns /proc/1/ns/net", set_namespace, "/proc/1/ns/net");
    attempt("setns /proc/self/ns/pid", set_namespace, "/proc/self/ns/pid");
}

/* ---- other processes
 * ----------------------------------------------------------------------------- */

static int p_kill(int pid)
{
    return verdict(kill(pid, 0));
}

static int p_tgkill(int pid)
{
    return verdict(syscall(SYS_tgkill, pid, pid, 0));
}

static int p_attach(int pid)
{
    return verdict(ptrace(PTRACE_ATTACH, pid, 0, 0));
}

static int p_seize(int pid)
{
    return verdict(ptrace(PTRACE_SEIZE, pid, 0, 0));
}

static int p_vm_read(int pid)
{
    char to[8];
    struct iovec local = {to, sizeof(to)}, remote = {(void *)(uintptr_t)0x400000, sizeof(to)};
    return verdict(process_vm_readv(pid, &local, 1, &remote, 1, 0));
}

static int p_vm_write(int pid)
{
    char from[8] = "";
    struct iovec local = {from, sizeof(from)}, remote = {(void *)(uintptr_t)0x400000, sizeof(from)};
    return verdict(process_vm_writev(pid, &local, 1, &remote, 1, 0));
}

static int p_pidfd(int pid)
{
    return verdict(syscall(SYS_pidfd_open, pid, 0));
}

static int p_getfd(int pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return verdict(syscall(SYS_pidfd_getfd, fd, 0, 0));
}

static int p_madvise(int pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return verdict(syscall(SYS_process_madvise, fd, NULL, 0, 21 /* PAGEOUT */, 0));
}

static int p_move_pages(int pid)
{
    return verdict(syscall(SYS_move_pages, pid, 0, NULL, NULL, NULL, 0));
}

static int p_rlimit(int pid)
{
    struct rlimit64 old;
    return verdict(prlimit64(pid, RLIMIT_NOFILE, NULL, &old));
}

static int p_affinity(int pid)
{
    cpu_set_t set;
    return verdict(sched_getaffinity(pid, sizeof(set), &set));
}

static int p_priority(int pid)
{
    return verdict(setpriority(PRIO_PROCESS, (id_t)pid, 19));
}

static int p_robust(int pid)
{
    void *head;
    size_t n;
    return verdict(syscall(SYS_get_robust_list, pid, &head, &n));
}

static int p_capget(int pid)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = pid};
    struct __user_cap_data_struct d[2];
    return verdict(syscall(SYS_capget, &h, d));
}

static const struct {
    const char *name;
    int (*run)(int pid);
} on_processes[] = {
    {"kill 0", p_kill},
    {"tgkill 0", p_tgkill},
    {"ptrace attach", p_attach},
    {"ptrace seize", p_seize},
    {"process_vm_readv", p_vm_read},
    {"process_vm_writev", p_vm_write},
    {"pidfd_open", p_pidfd},
    {"pidfd_getfd", p_getfd},
    {"process_madvise", p_madvise},
    {"move_pages", p_move_pages},
    {"prlimit64", p_rlimit},
    {"sched_getaffinity", p_affinity},
    {"setpriority", p_priority},
    {"get_robust_list", p_robust},
    {"capget", p_capget},
};

static const char *const process_files[] = {"mem",     "environ", "maps", "auxv", "stack",
                                            "syscall", "pagemap", "exe",  "cwd",  "root",
                                            "fd",      "fdinfo",  "ns",   "task", "status"};

static void sweep_calls(void)
{
    char name[96];

    for (size_t i = 0; i < COUNT(on_processes); i++) {
        struct seen s = {0};
        for (int pid = 2; pid <= PIDS; pid++) {
            if (pid != getpid()) {
                seen_add(&s, on_processes[i].run(pid));
            }
        }
        snprintf(name, sizeof(name), "%s of processes 2 to %d", on_processes[i].name, PIDS);
        seen_say(name, &s);
    }
}

static void sweep_files(void)
{
    char name[96], path[64];

    for (size_t i = 0; i < COUNT(process_files); i++) {
        struct seen s = {0};
        for (int pid = 2; pid <= PIDS; pid++) {
            snprintf(path, sizeof(path), "/proc/%d/%s", pid, process_files[i]);
            int fd = pid == getpid() ? -1 : open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
            if (pid != getpid()) {
                seen_add(&s, verdict(fd));
            }
            if (fd >= 0) {
                close(fd);
            }
        }
        snprintf(name, sizeof(name), "/proc/2 to /proc/%d, %s", PIDS, process_files[i]);
        seen_say(name, &s);
    }
}

/* That process 1 is the container's own: this program, of nobody's child that can be seen. */
static void say_first(void)
{
    struct stat one, own;
    char line[256], parent[32] = "?";
    FILE *f = fopen("/proc/1/status", "re");

    while (f && fgets(line, sizeof(line), f)) {
        sscanf(line, "PPid: %31s", parent);
    }
    if (f) {
        fclose(f);
    }
    int same = stat("/proc/1/exe", &one) == 0 && stat("/proc/self/exe", &own) == 0 &&
               one.st_dev == own.st_dev && one.st_ino == own.st_ino;
    say("process 1", "%s, its parent %s", same ? "this program" : "ANOTHER PROGRAM", parent);
}

static int on_first(const void *arg)
{
    return on_processes[*(const size_t *)arg].run(1);
}

static int read_some(const void *arg)
{
    char c[16];
    int fd = open(arg, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        return errno;
    }
    ssize_t n = read(fd, c, sizeof(c));
    return n > 0 ? 0 : n < 0 ? errno : BLOCKED;
}

static void attempt_read(const char *path)
{
    char name[128];

    snprintf(name, sizeof(name), "read %s", path);
    attempt(name, read_some, path);
}

static int kill_all(const void *arg)
{
    (void)arg;
    return verdict(kill(-1, 0));
}

void vm_memory(void)
{
    static const char *const memory[] = {
        "/dev/mem",           "/dev/kmem",        "/dev/port",         "/proc/kcore",
        "/proc/kallsyms",     "/proc/iomem",      "/proc/vmallocinfo", "/proc/modules",
        "/proc/slabinfo",     "/proc/timer_list", "/proc/keys",        "/proc/key-users",
        "/proc/kpagecount",   "/proc/kpageflags", "/proc/kpagecgroup", "/proc/pagetypeinfo",
        "/proc/interrupts",   "/proc/swaps",      "/proc/sched_debug", "/proc/config.gz",
        "/proc/latency_stats"};
    char name[64];

    say_first();
    for (size_t i = 0; i < COUNT(on_processes); i++) {
        if (on_processes[i].run != p_kill && on_processes[i].run != p_tgkill &&
            on_processes[i].run != p_pidfd && on_processes[i].run != p_rlimit &&
            on_processes[i].run != p_affinity && on_processes[i].run != p_priority &&
            on_processes[i].run != p_capget && on_processes[i].run != p_robust) {
            snprintf(name, sizeof(name), "%s of process 1", on_processes[i].name);
            attempt(name, on_first, &i);
        }
    }
    attempt_open("/proc/1/mem", O_RDWR);
    attempt("kill all others", kill_all, NULL);
    in_child("processes by number", sweep_calls, 60);
    in_child("processes in /proc", sweep_files, 60);
    for (size_t i = 0; i < COUNT(memory); i++) {
        attempt_read(memory[i]);
    }
}

void vm_memory_control(void)
{
    in_child("processes by number", sweep_calls, 60);
    in_child("processes in /proc", sweep_files, 60);
    attempt_read("/proc/interrupts");
}

/* ---- the kernel's log and settings
 * --------------------------------------------------------------- */

static int log_action(const void *arg)
{
    char buf[64];
    return verdict(syscall(SYS_syslog, *(const int *)arg, buf, (int)sizeof(buf)));
}

static void say_setting(const char *setting)
{
    char path[96], text[64] = "";
    snprintf(path, sizeof(path), "/proc/sys/%s", setting);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    say(setting, "%s", n < 0 ? strerrorname_np(errno) : text);
    if (fd >= 0) {
        close(fd);
    }
}

static struct seen written;

static int write_setting(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)ftw;
    if (type == FTW_F && S_ISREG(st->st_mode)) {
        int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        seen_add(&written, verdict(fd));
        if (fd >= 0) {
            say(path, "opens for writing");
            close(fd);
        }
    }
    return 0;
}

/* By name: those of the processes are not the system's. */
static void write_proc(void)
{
    DIR *d = opendir("/proc");

    for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
        char path[300];
        struct stat st;
        snprintf(path, sizeof(path), "/proc/%s", de->d_name);
        if (strspn(de->d_name, ".0123456789") == strlen(de->d_name) || lstat(path, &st) < 0 ||
            S_ISLNK(st.st_mode)) {
            continue;
        }
        nftw(path, write_setting, 16, FTW_PHYS);
    }
    if (d) {
        closedir(d);
    }
    seen_say("open for writing all of /proc that is no process's", &written);
}

void vm_log(void)
{
    static const int actions[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    static const char *const settings[] = {"kernel/dmesg_restrict",
                                           "kernel/kptr_restrict",
                                           "kernel/modules_disabled",
                                           "kernel/kexec_load_disabled",
                                           "kernel/yama/ptrace_scope",
                                           "kernel/perf_event_paranoid",
                                           "kernel/unprivileged_bpf_disabled",
                                           "kernel/randomize_va_space",
                                           "kernel/sysrq",
                                           "kernel/panic_on_oops",
                                           "kernel/core_pattern",
                                           "kernel/modprobe",
                                           "kernel/hotplug",
                                           "fs/suid_dumpable",
                                           "vm/unprivileged_userfaultfd",
                                           "dev/tty/ldisc_autoload"};
    char name[64];

    for (size_t i = 0; i < COUNT(actions); i++) {
        snprintf(name, sizeof(name), "syslog, action %d", actions[i]);
        attempt(name, log_action, &actions[i]);
    }
    attempt_read("/dev/kmsg");
    attempt_open("/dev/kmsg", O_WRONLY);
    attempt_read("/proc/kmsg");
    attempt_read("/sys/kernel/debug/tracing/trace");
    attempt_read("/sys/fs/pstore");
    attempt_read("/var/log/dmesg");
    for (size_t i = 0; i < COUNT(settings); i++) {
        say_setting(settings[i]);
    }
    in_child("/proc", write_proc, 60);
}
