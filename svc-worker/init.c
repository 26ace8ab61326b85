/* The order of a VM's life, and its end. */
#include "svc-worker/init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "common/vm.h"

#define PORT_WAIT_MS 10000
#define ENTROPY_WAIT_MS 20000
#define FLUSH_MS 5000
#define HOST_READS_MS 300
#define RELAY_UID 64999u
#define SELF "/proc/self/exe"
#define PROC_SYS "/proc/sys"

struct vm {
    int ctl_fd, log_fd, bus_listen_fd, launch_fd;
    char bus_path[64];
    struct init_bus bus;
};

int init_in_vm(void)
{
    struct statfs fs;

    return getpid() == 1 && statfs("/", &fs) == 0 &&
           (fs.f_type == RAMFS_MAGIC || fs.f_type == TMPFS_MAGIC) && access("/proc/self", F_OK) < 0;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void power_off(void) __attribute__((noreturn));
static void power_off(void)
{
    reboot(RB_POWER_OFF);
    /* A kernel that cannot is made to panic, which ends the VM as well. */
    _exit(1);
}

/* Everybody is everybody in this VM only if it is one. */
static void kill_all(void)
{
    if (getpid() == 1) {
        kill(-1, SIGKILL);
    }
}

/* What was written is in the port's queue; the host closes its end when it has read it. */
static void let_host_read(int fd)
{
    struct pollfd f = {.fd = fd};

    poll(&f, 1, HOST_READS_MS);
}

static void say_on_console(const char *text)
{
    _cleanup_close_ int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    _cleanup_free_ char *line = xasprintf("svc-worker: %s\r\n", text);

    if (fd >= 0 && write(fd, line, strlen(line)) < 0) {
        return; /* there is nobody else to tell */
    }
}

static void fail(struct vm *vm, const struct err *why) __attribute__((noreturn));
static void fail(struct vm *vm, const struct err *why)
{
    if (vm->ctl_fd >= 0) {
        init_watch_failed(vm->ctl_fd, FLUSH_MS, why);
        let_host_read(vm->ctl_fd);
    } else {
        say_on_console(why->msg);
    }
    power_off();
}

/* ---- the start ------------------------------------------------------------------------------- */

static int no_core_dumps(struct err *e)
{
    const struct rlimit none = {0, 0};

    return setrlimit(RLIMIT_CORE, &none) < 0 ? err_errno(e, "cannot forbid core dumps") : 0;
}

/* The kernel gives a console where it can; nothing of ours is to be written there by accident, but
 * what a sanitizer has found, which ends the VM. */
static int standard_descriptors(struct err *e)
{
#ifdef COFFER_SANITIZED
    const int last = STDOUT_FILENO;
#else
    const int last = STDERR_FILENO;
#endif
    int fd = open("/dev/null", O_RDWR);

    if (fd < 0) {
        return err_errno(e, "/dev/null");
    }
    for (int to = STDIN_FILENO; to <= last; to++) {
        if (dup2(fd, to) < 0) {
            return err_errno(e, "/dev/null");
        }
    }
    if (fd > 2) {
        close(fd);
    }
    return 0;
}

/* The image has /etc/hosts as a link to our file; one that does not gets it here. */
static int link_hosts(struct err *e)
{
    if ((mkdir("/etc", 0755) < 0 && errno != EEXIST) ||
        (symlink(INIT_HOSTS_FILE, "/etc/hosts") < 0 && errno != EEXIST)) {
        return err_errno(e, "/etc/hosts");
    }
    return 0;
}

static int set_up(struct err *e)
{
    return no_core_dumps(e) || init_root(e) || init_mounts(e) || standard_descriptors(e) ||
                   link_hosts(e) || init_root_read_only(e) ||
                   init_modules(INIT_MODULES_DIR, init_load_module, e) ||
                   init_scratch_modules("/sys/block", INIT_MODULES_DIR, init_load_module, e) ||
                   init_sysctls(PROC_SYS, e) || init_seal_kernel(PROC_SYS, e) ||
                   init_entropy(ENTROPY_WAIT_MS, e)
               ? -1
               : 0;
}

static int open_named(const char *name, int *ret_fd, struct err *e)
{
    char path[64];

    return init_port_find("/sys/class/virtio-ports", "/dev", name, PORT_WAIT_MS, path, e) ||
                   init_port_open(path, ret_fd, e)
               ? -1
               : 0;
}

static int open_ports(struct vm *vm, struct err *e)
{
    if (open_named(VM_PORT_CTL, &vm->ctl_fd, e) || open_named(VM_PORT_LOG, &vm->log_fd, e) ||
        init_port_find("/sys/class/virtio-ports", "/dev", VM_PORT_BUS, PORT_WAIT_MS, vm->bus_path,
                       e)) {
        return -1;
    }
    if (chown(vm->bus_path, RELAY_UID, RELAY_UID) < 0 || chmod(vm->bus_path, 0600) < 0) {
        return err_errno(e, "port %s", vm->bus_path);
    }
    return 0;
}

static int take_launch(struct vm *vm, struct err *e)
{
    _cleanup_buf_ struct buf launch = BUF_INIT(VM_LAUNCH_MAX_BYTES);

    if (init_launch_read(vm->ctl_fd, INIT_LAUNCH_WAIT_MS, &launch, e) ||
        init_launch_check(buf_bytes(&launch), &vm->bus, e) ||
        init_launch_file(buf_bytes(&launch), &vm->launch_fd, e)) {
        return -1;
    }
    return init_net_up(&vm->bus, INIT_HOSTS_FILE, e) ||
                   init_net_listen(&vm->bus, &vm->bus_listen_fd, e)
               ? -1
               : 0;
}

/* ---- children -------------------------------------------------------------------------------- */

static int open_bus(void *arg, struct err *e)
{
    struct vm *vm = arg;
    int fd;

    return init_port_open(vm->bus_path, &fd, e) ? -1 : fd;
}

static int relay(void *arg)
{
    struct vm *vm = arg;
    struct err e = {0};
    const struct init_relay r = {.listen_fd = vm->bus_listen_fd,
                                 .open_port = open_bus,
                                 .arg = vm,
                                 .pause_ms = VM_BUS_PAUSE_MS};

    close(vm->ctl_fd);
    close(vm->log_fd);
    close(vm->launch_fd);
    if (init_relay_confine(RELAY_UID, &e) || init_relay_run(&r, &e)) {
        /* write(2), since the filter knows nothing of what stdio asks for. */
        size_t n = strlen(e.msg);
        e.msg[n] = '\n';
        return write(STDERR_FILENO, e.msg, n + 1) == (ssize_t)n + 1 ? 1 : 2;
    }
    return 0;
}

static void watch(struct vm *vm)
{
    static char *const argv[] = {(char *)"svc-worker", NULL};
    const struct init_watch_env env = {.ctl_fd = vm->ctl_fd,
                                       .log_fd = vm->log_fd,
                                       .alive_every_ms = VM_ALIVE_EVERY_MS,
                                       .flush_ms = FLUSH_MS,
                                       .worker = SELF,
                                       .worker_argv = argv,
                                       .launch_fd = vm->launch_fd,
                                       .relay = relay,
                                       .relay_arg = vm,
                                       .kill_all = kill_all};

    init_watch(&env);
    let_host_read(vm->ctl_fd);
}

void init_main(void)
{
    struct vm vm = {.ctl_fd = -1, .log_fd = -1, .bus_listen_fd = -1, .launch_fd = -1};
    struct err e = {0};

    umask(022);
    reboot(RB_DISABLE_CAD);
    if (set_up(&e) || open_ports(&vm, &e) || take_launch(&vm, &e)) {
        fail(&vm, &e);
    }
    watch(&vm);
    power_off();
}
