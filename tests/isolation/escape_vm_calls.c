/* System calls that nobody inside needs, and the same with the programs people have. All arguments
 * are 0 unless that could do something: what matters is who answers. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/isolation/escape_vm.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define CALL(name)                                                                                 \
    {                                                                                              \
#name, SYS_##name                                                                          \
    }

static const struct call {
    const char *name;
    long number;
} calls[] = {
    /* mounts and namespaces */
    CALL(mount),
    CALL(umount2),
    CALL(pivot_root),
    CALL(chroot),
    CALL(fsopen),
    CALL(fsconfig),
    CALL(fsmount),
    CALL(fspick),
    CALL(move_mount),
    CALL(open_tree),
    CALL(mount_setattr),
    CALL(unshare),
    CALL(setns),
    CALL(clone3),
    /* other processes and memory */
    CALL(ptrace),
    CALL(process_vm_readv),
    CALL(process_vm_writev),
    CALL(pidfd_getfd),
    CALL(process_madvise),
    CALL(process_mrelease),
    CALL(kcmp),
    CALL(move_pages),
    CALL(migrate_pages),
    CALL(mbind),
    CALL(set_mempolicy),
    CALL(userfaultfd),
    CALL(memfd_create),
    CALL(memfd_secret),
    CALL(execveat),
    CALL(vmsplice),
    CALL(modify_ldt),
    CALL(uselib),
    /* the kernel */
    CALL(syslog),
    CALL(bpf),
    CALL(perf_event_open),
    CALL(io_uring_setup),
    CALL(io_uring_enter),
    CALL(io_uring_register),
    CALL(init_module),
    CALL(finit_module),
    CALL(delete_module),
    CALL(kexec_load),
    CALL(kexec_file_load),
    CALL(reboot),
    CALL(swapon),
    CALL(swapoff),
    CALL(acct),
    CALL(quotactl),
    CALL(quotactl_fd),
    CALL(_sysctl),
    CALL(ioperm),
    CALL(iopl),
    CALL(vhangup),
    CALL(lookup_dcookie),
    CALL(sysfs),
    CALL(ustat),
    CALL(nfsservctl),
    /* names and clocks */
    CALL(sethostname),
    CALL(setdomainname),
    CALL(settimeofday),
    CALL(clock_settime),
    CALL(clock_adjtime),
    CALL(adjtimex),
    /* keys */
    CALL(add_key),
    CALL(request_key),
    CALL(keyctl),
    /* files by other means */
    CALL(name_to_handle_at),
    CALL(open_by_handle_at),
    CALL(fanotify_init),
    CALL(fanotify_mark),
    CALL(mknod),
    CALL(mknodat),
    /* messages between processes that outlive them */
    CALL(msgget),
    CALL(msgctl),
    CALL(mq_open),
    CALL(mq_unlink),
    /* rights of others */
    CALL(capset),
    CALL(ioprio_set),
    CALL(sched_setscheduler),
    CALL(sched_setattr),
    CALL(sched_setparam),
};

static int zeros(const void *arg)
{
    return verdict(syscall(((const struct call *)arg)->number, 0, 0, 0, 0, 0, 0));
}

static int with_number(const void *arg)
{
    return verdict(syscall(*(const long *)arg, 0, 0, 0, 0, 0, 0));
}

/* What the kernel may have that this list does not know. */
static void beyond(void)
{
    struct seen s = {0};

    for (long n = 451; n < 1024; n++) {
        if (n == 454 || n == 455 || n == 456) {
            continue; /* futexes of newer kernels; told apart below */
        }
        seen_add(&s, with_number(&n));
    }
    seen_say("system calls 451 to 1023", &s);
}

static int change_personality(const void *arg)
{
    return verdict(personality(*(const unsigned long *)arg));
}

static int change_process(const void *arg)
{
    return verdict(prctl(*(const int *)arg, 0, 0, 0, 0));
}

/* Ports of the machine: the debug port, QEMU's configuration device, VMware's door, PCI's
 * configuration, a serial line, power management. */
static int port_in(const void *arg)
{
#if defined(__x86_64__)
    unsigned short port = *(const unsigned short *)arg;
    unsigned value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "d"(port));
    return 0;
#else
    (void)arg;
    return BLOCKED;
#endif
}

/* O_NOTIFICATION_PIPE: a queue of the kernel's own notes. */
static int notification_pipe(const void *arg)
{
    int fds[2];
    (void)arg;
    return verdict(syscall(SYS_pipe2, fds, 0x80));
}

static int map_page_zero(const void *arg)
{
    (void)arg;
    return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED
               ? errno
               : 0;
}

#if defined(__x86_64__)
static int no_interrupts(const void *arg)
{
    (void)arg;
    __asm__ volatile("cli");
    return 0;
}

static int halt(const void *arg)
{
    (void)arg;
    __asm__ volatile("hlt");
    return 0;
}

static int model_register(const void *arg)
{
    unsigned low, high;
    (void)arg;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0xc0000080u));
    return 0;
}
#endif

void vm_calls(void)
{
    static const unsigned long personalities[] = {ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, PER_LINUX32,
                                                  MMAP_PAGE_ZERO};
    static const struct {
        const char *name;
        int option;
    } options[] = {{"PR_SET_MM", PR_SET_MM},
                   {"PR_SET_PTRACER", PR_SET_PTRACER},
                   {"PR_CAPBSET_DROP", PR_CAPBSET_DROP},
                   {"PR_SET_SECUREBITS", PR_SET_SECUREBITS},
                   {"PR_SET_TSC", PR_SET_TSC},
                   {"PR_SET_SPECULATION_CTRL", PR_SET_SPECULATION_CTRL},
                   {"PR_SCHED_CORE", 62}};
    static const unsigned short ports[] = {0x80, 0x510, 0x5658, 0xcf8, 0x3f8, 0x402, 0x604};
    char name[64];

    for (size_t i = 0; i < COUNT(calls); i++) {
        snprintf(name, sizeof(name), "call %s", calls[i].name);
        attempt(name, zeros, &calls[i]);
    }
    in_child("system calls by number", beyond, 60);
    for (size_t i = 0; i < COUNT(personalities); i++) {
        snprintf(name, sizeof(name), "personality 0x%lx", personalities[i]);
        attempt(name, change_personality, &personalities[i]);
    }
    for (size_t i = 0; i < COUNT(options); i++) {
        snprintf(name, sizeof(name), "prctl %s", options[i].name);
        attempt(name, change_process, &options[i].option);
    }
    attempt("pipe for notifications", notification_pipe, NULL);
    attempt("map page zero", map_page_zero, NULL);
    for (size_t i = 0; i < COUNT(ports); i++) {
        snprintf(name, sizeof(name), "in from port 0x%x", ports[i]);
        attempt(name, port_in, &ports[i]);
    }
#if defined(__x86_64__)
    attempt("instruction cli", no_interrupts, NULL);
    attempt("instruction hlt", halt, NULL);
    attempt("instruction rdmsr", model_register, NULL);
#endif
}

/* ---- programs
 * ------------------------------------------------------------------------------------ */

/* 0 if it succeeded; a program that is not there must not pass for one that was refused. */
static int run_command(const void *arg)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) {
            _exit(0);
        }
        execl("/bin/busybox", "sh", "-c", arg, (char *)NULL);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return 0;
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    return code == 127 || code == 126 ? ENOEXEC : code ? BLOCKED : 0;
}

static const char *const commands[] = {
    "mount -t proc proc /tmp",
    "mount -t devtmpfs dev /tmp",
    "mount -t securityfs s /tmp",
    "mount -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0 x /tmp",
    "mount -o remount,rw /",
    "mount -o remount,rw $ESCAPE_DATASET",
    "umount $ESCAPE_DATASET",
    "umount -l /proc/kcore",
    "mknod /tmp/tpm0 c 10 224",
    "mknod /tmp/vda b 254 0",
    "insmod /tmp/x.ko",
    "rmmod fuse",
    "chroot / /bin/busybox true",
    "pivot_root / /tmp",
    "unshare -r /bin/busybox true",
    "unshare -n /bin/busybox true",
    "nsenter -t 1 -m /bin/busybox true",
    "su -c true",
    "dmesg",
    "dmesg -c",
    "klogd -n -c 8 -o",
    "reboot -f",
    "poweroff -f",
    "halt -f",
    "swapon /tmp/x",
    "losetup -f /bin/busybox",
    "hwclock -r",
    "date -s 1999.01.01-00:00; test $(date +%Y) = 1999",
    "hostname other",
    "sysctl -w kernel.dmesg_restrict=0",
    "devmem 0xfed40000 32",
    "renice -n -5 -p 1",
    "ifconfig eth0 up",
    "ifconfig lo 10.0.2.15",
    "route add default gw 10.0.2.2",
    "ip link",
    "ip link add dummy0 type dummy",
    "arping -c 1 -w 1 -I lo 10.0.2.2",
    "ping -c 1 -W 1 10.0.2.2",
    "ping6 -c 1 -W 1 fe80::2%lo",
    "udhcpc -n -q -t 1 -T 1 -i lo",
    "nslookup example.org 10.0.2.3",
    "nslookup example.org 127.0.0.53",
    "nslookup example.org",
    "wget -T 1 -O - http://169.254.169.254/",
    "wget -T 1 -O - http://10.0.2.2:4222/",
    "nc -w 1 127.0.0.1 $ESCAPE_HOST_PORT",
    "telnet 10.0.2.2 22",
    "kill -0 2",
    "echo x >$ESCAPE_DATASET/new",
    /* what must work for the attempt to be one says 0 if it does not */
    "cp /bin/busybox /scratch/true || exit 0; /scratch/true || exit 1",
    "touch /scratch/x && chmod 4755 /scratch/x || exit 0; mount -o remount,suid,dev /scratch",
    "dd if=/dev/zero of=/scratch/full bs=1M count=64",
    "umount /scratch",
    "test -f /proc/sysrq-trigger && echo b >/proc/sysrq-trigger",
    "echo 0 >/proc/sys/kernel/yama/ptrace_scope",
    "cat /proc/1/root/init",
    "cat /run/coffer/*",
};

void vm_shell(void)
{
    char name[160];

    for (size_t i = 0; i < COUNT(commands); i++) {
        snprintf(name, sizeof(name), "sh: %s", commands[i]);
        attempt(name, run_command, commands[i]);
    }
}
