/* Ways out through the kernel: privileges, namespaces and system calls nobody inside needs. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/if_alg.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/isolation/escape.h"

int verdict(long rc)
{
    return rc >= 0 ? 0 : errno;
}

static int status_field(const char *name, char *out, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    int found = 0;

    while (f && !found && fgets(line, sizeof(line), f)) {
        size_t n = strlen(name);
        if (strncmp(line, name, n) == 0 && line[n] == ':') {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, size, "%s", line + n + 1 + strspn(line + n + 1, " \t"));
            found = 1;
        }
    }
    if (f) {
        fclose(f);
    }
    return found;
}

/* --- privileges --- */

static int any_capability(void)
{
    static const char *const sets[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
    char v[128];

    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        if (!status_field(sets[i], v, sizeof(v)) || strtoull(v, NULL, 16)) {
            return 0;
        }
    }
    return BLOCKED;
}

static int new_privileges(void)
{
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? BLOCKED : 0;
}

static int no_seccomp(void)
{
    char v[128];

    return status_field("Seccomp", v, sizeof(v)) && v[0] == '2' ? BLOCKED : 0;
}

static int is_root(void)
{
    return geteuid() == 0 || getuid() == 0 || getegid() == 0 ? 0 : BLOCKED;
}

/* That the container's ids are not the host's. */
static int identity_mapping(void)
{
    unsigned inside = 0, outside = 0;
    FILE *f = fopen("/proc/self/uid_map", "r");

    if (!f || fscanf(f, "%u %u", &inside, &outside) != 2) {
        outside = 0;
    }
    if (f) {
        fclose(f);
    }
    return outside < 65536 ? 0 : BLOCKED;
}

static int supplementary_groups(void)
{
    return getgroups(0, NULL) > 0 ? 0 : BLOCKED;
}

static int set_uid_zero(void)
{
    return verdict(setuid(0));
}

static int set_gid_zero(void)
{
    return verdict(setgid(0));
}

static int set_groups(void)
{
    gid_t g = 0;
    return verdict(setgroups(1, &g));
}

static int capability_set(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {
        {.effective = 1u << CAP_SYS_CHROOT, .permitted = 1u << CAP_SYS_CHROOT}, {0}};
    return verdict(syscall(SYS_capset, &h, d));
}

static int ambient_raise(void)
{
    return verdict(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
}

static int securebits(void)
{
    return verdict(prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
}

static int raise_rlimit(void)
{
    return verdict(
        syscall(SYS_prlimit64, 0, 7 /* RLIMIT_NOFILE */, &(uint64_t[2]){1u << 19, 1u << 19}, NULL));
}

static int lower_oom_score(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    return fd < 0 ? errno : verdict(write(fd, "-1000", 5));
}

/* --- namespaces and mounts --- */

static int unshare_user(void)
{
    return verdict(unshare(CLONE_NEWUSER));
}

static int unshare_mount(void)
{
    return verdict(unshare(CLONE_NEWNS));
}

static int unshare_net(void)
{
    return verdict(unshare(CLONE_NEWNET));
}

static int clone_with(unsigned long flags)
{
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);

    if (pid == 0) {
        _exit(0);
    }
    if (pid > 0) {
        waitpid((pid_t)pid, NULL, 0);
    }
    return verdict(pid);
}

static int clone_user(void)
{
    return clone_with(CLONE_NEWUSER);
}

static int clone_pid(void)
{
    return clone_with(CLONE_NEWPID);
}

/* clone3's flags are in memory, where a filter cannot look: the call must not exist at all. */
static int clone3_user(void)
{
    struct clone_args a = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &a, sizeof(a));

    if (pid == 0) {
        _exit(0);
    }
    if (pid > 0) {
        waitpid((pid_t)pid, NULL, 0);
    }
    return pid < 0 && errno != ENOSYS ? 0 : verdict(pid);
}

static int setns_init(void)
{
    int fd = open("/proc/1/ns/mnt", O_RDONLY);
    return fd < 0 ? errno : verdict(setns(fd, 0));
}

static int mount_proc(void)
{
    return verdict(mount("proc", "/proc", "proc", 0, NULL));
}

static int mount_tmpfs(void)
{
    return verdict(mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
}

static int mount_sysfs(void)
{
    return verdict(mount("sysfs", "/tmp", "sysfs", 0, NULL));
}

static int mount_cgroup(void)
{
    return verdict(mount("cgroup2", "/tmp", "cgroup2", 0, NULL));
}

static int mount_bind(void)
{
    return verdict(mount("/", "/tmp", NULL, MS_BIND, NULL));
}

static int remount_root(void)
{
    return verdict(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
}

static int unmount_mask(void)
{
    return verdict(umount2("/proc/keys", MNT_DETACH));
}

static int new_mount_api(void)
{
    return verdict(syscall(SYS_fsopen, "tmpfs", 0));
}

static int open_tree_clone(void)
{
    return verdict(syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
}

static int pivot(void)
{
    return verdict(syscall(SYS_pivot_root, "/tmp", "/tmp"));
}

static int change_root(void)
{
    return verdict(chroot("/"));
}

/* --- other processes --- */

static int trace_parent(void)
{
    return verdict(ptrace(PTRACE_ATTACH, getppid() ? getppid() : 1, 0, 0));
}

/* Even the own child may not be traced: a tracer can change system calls after the filter. */
static int trace_child(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        pause();
        _exit(0);
    }
    int r = verdict(ptrace(PTRACE_ATTACH, pid, 0, 0));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return r;
}

static int read_memory(void)
{
    char from = 'x', to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    return verdict(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
}

static int steal_descriptor(void)
{
    long fd = syscall(SYS_pidfd_open, getpid(), 0);
    return fd < 0 ? errno : verdict(syscall(SYS_pidfd_getfd, fd, 0, 0));
}

static int compare_processes(void)
{
    return verdict(syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
}

/* --- the kernel's larger doors --- */

static int bpf_load(void)
{
    union bpf_attr attr = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return verdict(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)));
}

static int io_uring(void)
{
    char params[120] = {0};
    return verdict(syscall(SYS_io_uring_setup, 1, params));
}

static int user_fault(void)
{
    return verdict(syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */));
}

static int perf(void)
{
    struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE,
                                .size = sizeof(a),
                                .config = PERF_COUNT_SW_DUMMY,
                                .exclude_kernel = 1,
                                .exclude_hv = 1};
    return verdict(syscall(SYS_perf_event_open, &a, 0, -1, -1, 0));
}

static int key_control(void)
{
    return verdict(syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* session */, 1));
}

static int key_add(void)
{
    return verdict(syscall(SYS_add_key, "user", "coffer-escape", "x", 1, -2));
}

static int key_request(void)
{
    return verdict(syscall(SYS_request_key, "user", "coffer-escape", NULL, 0)) == ENOKEY ? 0
                                                                                         : EPERM;
}

static int load_kexec(void)
{
    return verdict(syscall(SYS_kexec_load, 0, 0, NULL, 0));
}

static int load_module(void)
{
    return verdict(syscall(SYS_finit_module, -1, "", 0)) == EBADF ? 0 : EPERM;
}

static int swap_on(void)
{
    return verdict(swapon("/tmp/nothing", 0)) == ENOENT ? 0 : EPERM;
}

/* With a magic that no kernel takes: EINVAL would say that only the magic was in the way. */
static int reboot_machine(void)
{
    return verdict(syscall(SYS_reboot, 0, 0, 0, NULL)) == EINVAL ? 0 : EPERM;
}

static int kernel_log(void)
{
    return verdict(syscall(SYS_syslog, 10 /* SIZE_BUFFER */, NULL, 0));
}

static int kernel_log_read(void)
{
    char buf[64];
    return verdict(syscall(SYS_syslog, 3 /* READ_ALL */, buf, sizeof(buf)));
}

static int set_host_name(void)
{
    char name[65];
    return gethostname(name, sizeof(name)) ? errno : verdict(sethostname(name, strlen(name)));
}

static int set_domain_name(void)
{
    return verdict(setdomainname("(none)", 6));
}

/* An impossible time: EINVAL would mean that the right to set it is there. By system call, since
 * the library would look at the time itself. */
static int set_time(void)
{
    int64_t ts[2] = {0, -1};
    return verdict(syscall(SYS_clock_settime, 0 /* REALTIME */, ts)) == EINVAL ? 0 : EPERM;
}

static int set_time_of_day(void)
{
    int64_t tv[2] = {0, -1};
    return verdict(syscall(SYS_settimeofday, tv, NULL)) == EINVAL ? 0 : EPERM;
}

static int adjust_time(void)
{
    char timex[256] = {0};
    return verdict(syscall(SYS_adjtimex, timex));
}

static int io_ports(void)
{
    return verdict(syscall(SYS_ioperm, 0x80, 1, 1));
}

static int io_privilege(void)
{
    return verdict(syscall(SYS_iopl, 3));
}

static int accounting(void)
{
    return verdict(syscall(SYS_acct, "/tmp/nothing")) == ENOENT ? 0 : EPERM;
}

static int quota(void)
{
    return verdict(syscall(SYS_quotactl, 0x80000100 /* Q_SYNC */, NULL, 0, NULL));
}

static int no_randomisation(void)
{
    return verdict(personality(ADDR_NO_RANDOMIZE));
}

static int read_implies_exec(void)
{
    return verdict(personality(READ_IMPLIES_EXEC));
}

static int migrate(void)
{
    return verdict(syscall(SYS_migrate_pages, 0, 0, NULL, NULL));
}

static int push_input(void)
{
    /* Wants a terminal; the filter answers before the kernel looks for one. */
    char c = 'x';
    return verdict(ioctl(0, TIOCSTI, &c)) == EPERM ? EPERM : 0;
}

static int console_paste(void)
{
    char c = 3;
    return verdict(ioctl(0, TIOCLINUX, &c)) == EPERM ? EPERM : 0;
}

/* The 32-bit calls, whose numbers mean others: the filter kills, so a child asks. */
static int compat_call(void)
{
#if defined(__x86_64__)
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        long r;
        /* 20 is getpid there; with the x32 bit it is a call of that convention. */
        r = syscall(0x40000000 + SYS_getpid);
        _exit(r > 0 ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : BLOCKED;
#else
    return BLOCKED;
#endif
}

static int int80_call(void)
{
#if defined(__x86_64__)
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        long r;
        __asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory");
        _exit(r > 0 ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : BLOCKED;
#else
    return BLOCKED;
#endif
}

/* --- sockets of other families --- */

static int open_socket(int family, int type, int protocol)
{
    int fd = socket(family, type, protocol);
    int r = verdict(fd);

    if (fd >= 0) {
        close(fd);
    }
    return r;
}

static int raw_socket(void)
{
    return open_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}

static int raw_socket6(void)
{
    return open_socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
}

static int mptcp_socket(void)
{
    return open_socket(AF_INET, SOCK_STREAM, 262 /* MPTCP */);
}

static int udplite_socket(void)
{
    return open_socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE);
}

static int packet_socket(void)
{
    return open_socket(AF_PACKET, SOCK_RAW, 0);
}

static int netlink_socket(void)
{
    return open_socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
}

static int vsock_socket(void)
{
    return open_socket(AF_VSOCK, SOCK_STREAM, 0);
}

static int alg_socket(void)
{
    return open_socket(AF_ALG, SOCK_SEQPACKET, 0);
}

static int netlink_pair(void)
{
    int fds[2];
    return verdict(socketpair(AF_NETLINK, SOCK_RAW, 0, fds)) == EPERM ? EPERM : 0;
}

static int fanotify(void)
{
    return verdict(syscall(SYS_fanotify_init, 0x600, 0));
}

static int file_handle(void)
{
    char handle[8 + 8] = {8, 0, 0, 0, 1};
    int e = verdict(syscall(SYS_open_by_handle_at, AT_FDCWD, handle, O_RDONLY));
    return e == EPERM ? EPERM : 0;
}

static int memory_program(void)
{
    return verdict(syscall(SYS_memfd_create, "x", 0));
}

const struct probe probes_kernel[] = {
    {"any-capability", any_capability, 1},
    {"new-privileges", new_privileges, 1},
    {"no-seccomp", no_seccomp, 1},
    {"is-root", is_root, 1},
    {"identity-id-mapping", identity_mapping, 1},
    {"supplementary-groups", supplementary_groups, 0},
    {"setuid-0", set_uid_zero, 1},
    {"setgid-0", set_gid_zero, 1},
    {"setgroups", set_groups, 1},
    {"capset", capability_set, 1},
    {"ambient-capability", ambient_raise, 0},
    {"securebits", securebits, 1},
    {"raise-rlimit", raise_rlimit, 0},
    {"lower-oom-score", lower_oom_score, 0},
    {"unshare-user", unshare_user, 1},
    {"unshare-mount", unshare_mount, 1},
    {"unshare-net", unshare_net, 1},
    {"clone-user", clone_user, 1},
    {"clone-pid", clone_pid, 1},
    {"clone3", clone3_user, 1},
    {"setns", setns_init, 0},
    {"mount-proc", mount_proc, 1},
    {"mount-tmpfs", mount_tmpfs, 1},
    {"mount-sysfs", mount_sysfs, 0},
    {"mount-cgroup", mount_cgroup, 0},
    {"mount-bind", mount_bind, 1},
    {"remount-root", remount_root, 0},
    {"unmount-mask", unmount_mask, 0},
    {"fsopen", new_mount_api, 1},
    {"open-tree", open_tree_clone, 1},
    {"pivot-root", pivot, 0},
    {"chroot", change_root, 1},
    {"ptrace-parent", trace_parent, 0},
    {"ptrace-child", trace_child, 1},
    {"process-vm-readv", read_memory, 1},
    {"pidfd-getfd", steal_descriptor, 1},
    {"kcmp", compare_processes, 0},
    {"bpf", bpf_load, 0},
    {"io-uring", io_uring, 0},
    {"userfaultfd", user_fault, 0},
    {"perf-event", perf, 0},
    {"keyctl", key_control, 1},
    {"add-key", key_add, 0},
    {"request-key", key_request, 0},
    {"kexec-load", load_kexec, 0},
    {"load-module", load_module, 0},
    {"swapon", swap_on, 1},
    {"reboot", reboot_machine, 1},
    {"syslog-size", kernel_log, 1},
    {"syslog-read", kernel_log_read, 1},
    {"sethostname", set_host_name, 1},
    {"setdomainname", set_domain_name, 0},
    {"clock-settime", set_time, 1},
    {"settimeofday", set_time_of_day, 1},
    {"adjtimex", adjust_time, 1},
    {"ioperm", io_ports, 0},
    {"iopl", io_privilege, 0},
    {"acct", accounting, 0},
    {"quotactl", quota, 0},
    {"personality-no-randomize", no_randomisation, 1},
    {"personality-read-implies-exec", read_implies_exec, 1},
    {"migrate-pages", migrate, 0},
    {"tiocsti", push_input, 1},
    {"tioclinux", console_paste, 1},
    {"x32-call", compat_call, 0},
    {"int80-call", int80_call, 0},
    {"socket-raw", raw_socket, 1},
    {"socket-raw6", raw_socket6, 0},
    {"socket-mptcp", mptcp_socket, 0},
    {"socket-udplite", udplite_socket, 0},
    {"socket-packet", packet_socket, 1},
    {"socket-netlink", netlink_socket, 1},
    {"socket-vsock", vsock_socket, 0},
    {"socket-alg", alg_socket, 0},
    {"socketpair-netlink", netlink_pair, 1},
    {"fanotify", fanotify, 0},
    {"open-by-handle", file_handle, 1},
    {"memfd", memory_program, 1},
    {0},
};
