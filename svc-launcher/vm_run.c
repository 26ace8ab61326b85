#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/jcs.h"
#include "svc-launcher/qmp.h"
#include "svc-launcher/vm.h"

/* One VM: everything is prepared, then one loop turns until QEMU has ended. This process has the
 * launcher's rights; QEMU and swtpm have none (vm_jail.c), and what they and the guest say comes
 * through descriptors that are read here, each within its bounds. */

#define INPUT_MAX_BYTES (512u * 1024)
#define CONSOLE_MAX_BYTES (256u * 1024)
#define TEXT_MAX_BYTES (1u << 20)
#define TPM_FILE_MAX_BYTES (1 << 20)
#define QUIT_MS 500        /* for QEMU to end when asked */
#define POWER_OFF_MS 10000 /* for the guest to end after its last line */
#define READ_BYTES 65536u
#define BUS_SOCKET "bus"

enum vm_end { END_NONE, END_STOPPED, END_HANG, END_EXIT_STAYS, END_TPM, END_QMP };

struct vm {
    struct vm_params p;
    struct vm_disks disks;
    struct buf launch; /* the frame for coffer.ctl */
    size_t launch_sent;
    int dir_fd;
    int signal_fd, qmp_fd, ctl_fd, log_fd, console_fd, qemu_out_fd, tpm_out_fd;
    pid_t qemu, swtpm;
    int qemu_status, tpm_status;
    struct line_cutter qmp_lines;
    struct vm_guest guest;
    struct vm_text log, console, qemu_out, tpm_out;
    struct bridge bridge;
    char bridge_told[128];
    int64_t alive_ms;
    int64_t kill_ms; /* when QEMU is killed; INT64_MAX */
    enum vm_end end;
    int booted, panicked;
    char shutdown[64]; /* QEMU's reason */
};

/* ---- saying ---------------------------------------------------------------------------------- */

static void put(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno != EINTR) {
            return; /* the launcher is gone, and this process will be */
        }
        p += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
}

/* A log line, or nothing when the launcher does not keep up: no guest may hold this process up. */
static void say_log(const char *prefix, const char *text)
{
    char line[VM_TEXT_LINE + 64];
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

    int n = snprintf(line, sizeof(line), "%s: %s\n", prefix, text);
    if (n > 0 && (size_t)n < sizeof(line) && poll(&p, 1, 0) > 0 && (p.revents & POLLOUT)) {
        put(STDERR_FILENO, line, (size_t)n);
    }
}

static void forward(void *arg, struct bytes line)
{
    (void)arg;
    put(STDOUT_FILENO, (const char *)line.p, line.n);
    put(STDOUT_FILENO, "\n", 1);
}

static void say_json(json_t *j)
{
    _cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

    json_decref(j);
    if (text) {
        forward(NULL, BYTES_STR(text));
    }
}

static void say_failed(const char *why)
{
    say_json(json_pack("{s:s}", "failed", why));
}

/* A refusal keeps its parts; what else went wrong is an error of this host. */
static void say_err(const struct err *e)
{
    if (e->clause[0]) {
        say_json(json_pack("{s:{s:s,s:s,s:s,s:s,s:s,s:s}}", "refused", "code",
                           err_code_name(e->code), "clause", e->clause, "expected", e->expected,
                           "actual", e->actual, "message", e->msg, "by",
                           service_name(SVC_LAUNCHER)));
    } else {
        say_failed(e->msg);
    }
}

/* ---- preparing ------------------------------------------------------------------------------- */

static int read_input(struct buf *in, struct err *e)
{
    for (;;) {
        if (buf_reserve(in, READ_BYTES, e) < 0) {
            return -1;
        }
        ssize_t n = read(STDIN_FILENO, in->p + in->n, READ_BYTES);
        if (n < 0) {
            return err_errno(e, "standard input");
        }
        if (n == 0) {
            return 0;
        }
        in->n += (size_t)n;
    }
}

/* Signals are read like everything else. */
static int open_signals(int *ret_fd, struct err *e)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    *ret_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return *ret_fd < 0 ? err_errno(e, "signalfd") : 0;
}

static int pair(int *ret_mine, int *ret_theirs, struct err *e)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return err_errno(e, "socketpair");
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *ret_mine = fds[0];
    *ret_theirs = fds[1];
    return 0;
}

static int output_pipe(int *ret_mine, int *ret_theirs, struct err *e)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *ret_mine = fds[0];
    *ret_theirs = fds[1];
    return 0;
}

/* The bus port's socket: QEMU accepts one connection at a time on it, for each of the guest's. */
static int listen_bus(const struct vm *vm, int *ret_fd, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/" BUS_SOCKET, vm->dir_fd);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
        return err_errno(e, "the bus port's socket");
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int prepare_launch(struct vm *vm, const Coffer__V1__LaunchConfig *c, struct err *e)
{
    uint8_t head[4] = {0};

    if (buf_add(&vm->launch, head, sizeof(head), e) < 0 ||
        vm_launch_config(c, &vm->disks, &vm->launch, e) < 0) {
        return -1;
    }
    size_t n = vm->launch.n - sizeof(head);
    for (size_t i = 0; i < sizeof(head); i++) {
        vm->launch.p[i] = (uint8_t)(n >> (24 - 8 * i));
    }
    return 0;
}

static uint32_t uid_of(int which)
{
    return VM_UID_BASE + 2u * (uint32_t)getpid() + (uint32_t)which;
}

/* So that swtpm, which is nobody else, can use what was made for it. */
static int give_files(const char *dir, uint32_t uid, struct err *e)
{
    static const char *const names[] = {"tpm2-00.permall", ".lock"};

    if (geteuid() != 0) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, names[i]);
        if (lchown(path, uid, uid) < 0 && errno != ENOENT) {
            return err_errno(e, "chown %s", path);
        }
    }
    return chown(dir, uid, uid) < 0 ? err_errno(e, "chown %s", dir) : 0;
}

/* ---- starting -------------------------------------------------------------------------------- */

static int jail_root(const struct vm *vm, const char *name, char **ret, struct err *e)
{
    char *path = xasprintf("%s/%s", vm->p.work_dir, name);

    if (mkdir(path, 0700) < 0) {
        err_errno(e, "mkdir %s", path);
        free(path);
        return -1;
    }
    *ret = path;
    return 0;
}

static int start_swtpm(struct vm *vm, int *ret_qemu_fd, struct err *e)
{
    _cleanup_free_ char *root = NULL, *dir = xasprintf("%s/tpm", vm->p.work_dir);
    _cleanup_close_ int mine = -1, theirs = -1, out = -1;
    _cleanup_vm_argv_ struct vm_argv a = {0};

    if (vm_tpm_make(&vm->p.opt, vm->p.id, vm->p.work_dir, dir, e) < 0 ||
        give_files(dir, uid_of(1), e) < 0 || jail_root(vm, "tpm-root", &root, e) < 0) {
        return -1;
    }
    if (pair(&mine, &theirs, e) < 0 || output_pipe(&vm->tpm_out_fd, &out, e) < 0) {
        return -1;
    }
    fcntl(mine, F_SETFL, 0);
    vm_argv_add(&a, "%s", vm->p.opt.swtpm);
    vm_argv_add(&a, "socket");
    vm_argv_add(&a, "--tpm2");
    vm_argv_add(&a, "--tpmstate");
    vm_argv_add(&a, "dir=/tpm");
    vm_argv_add(&a, "--ctrl");
    vm_argv_add(&a, "type=unixio,clientfd=%d", theirs);
    vm_argv_add(&a, "--seccomp");
    vm_argv_add(&a, "action=kill");
    const struct vm_bind binds[] = {{.from = dir, .to = "/tpm", .writable = 1}};
    const struct vm_jail j = {.root = root,
                              .binds = binds,
                              .n_binds = ARRAY_LEN(binds),
                              .uid = uid_of(1),
                              .file_bytes = TPM_FILE_MAX_BYTES,
                              .cpus = vm->p.opt.cpus,
                              .fds = &theirs,
                              .n_fds = 1,
                              .out_fd = out};
    if (vm_jail_start(&j, a.v, &vm->swtpm, e) < 0) {
        return err_wrap(e, "swtpm");
    }
    *ret_qemu_fd = TAKE_FD(mine);
    return 0;
}

struct qemu_fds {
    int qmp, ctl, log, bus, console, tpm;
};

static void qemu_fds_done(struct qemu_fds *f)
{
    closep(&f->qmp);
    closep(&f->ctl);
    closep(&f->log);
    closep(&f->bus);
    closep(&f->console);
    closep(&f->tpm);
}

static int open_fds(struct vm *vm, struct qemu_fds *f, struct err *e)
{
    return pair(&vm->qmp_fd, &f->qmp, e) < 0 || pair(&vm->ctl_fd, &f->ctl, e) < 0 ||
                   pair(&vm->log_fd, &f->log, e) < 0 || pair(&vm->console_fd, &f->console, e) < 0 ||
                   listen_bus(vm, &f->bus, e) < 0
               ? -1
               : 0;
}

static int run_qemu(struct vm *vm, const struct vm_qemu *q, const struct qemu_fds *f, struct err *e)
{
    _cleanup_free_ char *root = NULL, *firmware = xasprintf("%s/OVMF.fd", vm->p.opt.image),
                        *kernel = xasprintf("%s/coffer.efi", vm->p.opt.image);
    _cleanup_close_ int out = -1;
    _cleanup_vm_argv_ struct vm_argv a = {0};
    int fds[6 + VM_DISKS_MAX] = {f->qmp, f->ctl, f->log, f->bus, f->console};
    size_t n_fds = 5, n_binds = 0;
    struct vm_bind binds[5];

    binds[n_binds++] = (struct vm_bind){.from = firmware, .to = q->firmware};
    binds[n_binds++] = (struct vm_bind){.from = kernel, .to = q->kernel};
    if (q->kvm) {
        binds[n_binds++] = (struct vm_bind){.from = "/dev/kvm", .to = "/dev/kvm", .writable = 1};
    }
    if (q->kind == VM_SNP) {
        binds[n_binds++] = (struct vm_bind){.from = "/dev/sev", .to = "/dev/sev", .writable = 1};
    }
    if (q->quote_socket) {
        binds[n_binds++] =
            (struct vm_bind){.from = vm->p.opt.quote_socket, .to = q->quote_socket, .writable = 1};
    }
    if (f->tpm >= 0) {
        fds[n_fds++] = f->tpm;
    }
    for (size_t i = 0; i < vm->disks.n; i++) {
        fds[n_fds++] = vm->disks.v[i].fd;
    }
    if (jail_root(vm, "qemu-root", &root, e) < 0 || output_pipe(&vm->qemu_out_fd, &out, e) < 0) {
        return -1;
    }
    vm_qemu_argv(q, &a);
    const struct vm_jail j = {.root = root,
                              .binds = binds,
                              .n_binds = n_binds,
                              .uid = uid_of(0),
                              .file_bytes = -1, /* guest memory may be a file */
                              .lock_memory = q->lock_memory,
                              .cpus = vm->p.opt.cpus,
                              .groups_of = q->kvm ? "/dev/kvm" : NULL,
                              .fds = fds,
                              .n_fds = n_fds,
                              .out_fd = out};
    return vm_jail_start(&j, a.v, &vm->qemu, e) < 0 ? err_wrap(e, "QEMU") : 0;
}

static int start_qemu(struct vm *vm, const struct spec *spec, struct err *e)
{
    _cleanup_(qemu_fds_done) struct qemu_fds f = {-1, -1, -1, -1, -1, -1};
    struct vm_qemu q = {.kind = vm->p.kind,
                        .kvm = vm->p.kvm,
                        .program = vm->p.opt.qemu,
                        .id = vm->p.id,
                        .firmware = "/firmware",
                        .kernel = "/kernel",
                        .numa_node = vm->p.opt.numa_node,
                        .hugepages = vm->p.opt.hugepages,
                        .lock_memory = vm->p.opt.lock_memory,
                        .disks = vm->disks.v,
                        .n_disks = vm->disks.n};

    if (q.kind == VM_TDX && vm->p.opt.quote_socket[0]) {
        q.quote_socket = "/quotes";
    }
    if (q.kind == VM_SNP && vm_sev_bits(&q.cbitpos, &q.reduced_phys_bits) < 0) {
        return err_refuse(e, ERR_UNSUPPORTED, "snp", "a CPU with SEV-SNP", "another");
    }
    vm_size(spec, &vm->disks, vm->p.opt.overhead_bytes, &q.memory_mib, &q.vcpus);
    if ((q.kind == VM_VTPM && start_swtpm(vm, &f.tpm, e) < 0) || open_fds(vm, &f, e) < 0) {
        return -1;
    }
    q.qmp_fd = f.qmp;
    q.ctl_fd = f.ctl;
    q.log_fd = f.log;
    q.bus_fd = f.bus;
    q.console_fd = f.console;
    q.tpm_fd = f.tpm;
    if (run_qemu(vm, &q, &f, e) < 0) {
        return -1;
    }
    char line[128];
    snprintf(line, sizeof(line), "%s, %u MiB, %u CPU(s), %zu disks", q.kvm ? "KVM" : "emulated",
             q.memory_mib, q.vcpus, q.n_disks);
    say_log("vm", line);
    return 0;
}

static int prepare(struct vm *vm, struct bytes input, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_spec_ struct spec *spec = NULL;
    _cleanup_jkey_ struct jkey *consumer = NULL;

    if (vm_params_unpack(input, &vm->p, e) < 0) {
        return -1;
    }
    pb = protobuf_c_message_unpack(&coffer__v1__launch_config__descriptor, NULL, vm->p.config.n,
                                   vm->p.config.p);
    if (!pb) {
        return err_set(e, ERR_INVALID, "the launch configuration is none");
    }
    const Coffer__V1__LaunchConfig *c = (const Coffer__V1__LaunchConfig *)pb;
    vm->dir_fd = open(vm->p.work_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (vm->dir_fd < 0) {
        return err_errno(e, "%s", vm->p.work_dir);
    }
    if (spec_verify(c->spec_jws, &spec, &consumer, e) < 0 ||
        vm_disks_open(vm->p.store, spec, &vm->disks, e) < 0 || prepare_launch(vm, c, e) < 0 ||
        bridge_init(&vm->bridge, c->nats_url, vm->dir_fd, BUS_SOCKET, e) < 0) {
        return -1;
    }
    return start_qemu(vm, spec, e);
}

/* ---- the loop: ending ------------------------------------------------------------------------ */

static void kill_qemu(struct vm *vm)
{
    if (vm->qemu > 0) {
        kill(vm->qemu, SIGKILL);
    }
    vm->kill_ms = INT64_MAX;
}

static void end(struct vm *vm, enum vm_end why, int64_t now_ms)
{
    if (vm->end != END_NONE) {
        return;
    }
    vm->end = why;
    if (why == END_STOPPED && vm->qmp_fd >= 0) {
        /* Asked first: a plain end, if it comes at once. */
        ssize_t n = send(vm->qmp_fd, QMP_QUIT, strlen(QMP_QUIT), MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)n;
        vm->kill_ms = now_ms + QUIT_MS;
        return;
    }
    kill_qemu(vm);
}

static void on_signals(struct vm *vm, int64_t now_ms)
{
    struct signalfd_siginfo info;
    int status;
    pid_t pid;

    while (read(vm->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGTERM) {
            end(vm, END_STOPPED, now_ms);
        }
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == vm->qemu) {
            vm->qemu = 0;
            vm->qemu_status = status;
        } else if (pid == vm->swtpm) {
            vm->swtpm = 0;
            vm->tpm_status = status;
        }
    }
    /* When QEMU ends, swtpm does, too: which ended first is not always seen. */
    if (vm->p.kind == VM_VTPM && vm->swtpm == 0 && vm->qemu > 0 && vm->end == END_NONE &&
        vm->kill_ms == INT64_MAX && !vm->shutdown[0]) {
        vm->kill_ms = now_ms + QUIT_MS;
    }
}

static void on_time(struct vm *vm, int64_t now_ms)
{
    if (now_ms >= vm->kill_ms) {
        if (vm->end == END_NONE) {
            vm->end = vm->guest.exit_code >= 0 ? END_EXIT_STAYS : END_TPM;
        }
        kill_qemu(vm);
    }
    if (vm->end == END_NONE && vm->guest.exit_code < 0 &&
        now_ms >= vm->alive_ms + vm->p.opt.hang_ms) {
        end(vm, END_HANG, now_ms);
    }
}

/* ---- the loop: bytes ------------------------------------------------------------------------- */

static void on_qmp_line(void *arg, struct bytes line)
{
    struct vm *vm = arg;
    struct qmp_msg m;
    struct err e = {0};

    if (qmp_parse(line, &m, &e) < 0) {
        say_log("qmp", e.msg);
        return;
    }
    switch (m.kind) {
    case QMP_PORT:
        if (streq(m.text, "bus")) {
            bridge_guest(&vm->bridge, m.open, vm_now_ms());
        }
        break;
    case QMP_SHUTDOWN:
        snprintf(vm->shutdown, sizeof(vm->shutdown), "%.63s", m.text);
        break;
    case QMP_PANICKED:
        vm->panicked = 1;
        break;
    case QMP_ERROR:
        say_log("qmp", m.text);
        break;
    case QMP_GREETING:
    case QMP_RETURN:
    case QMP_OTHER:
        break;
    }
}

/* Reads what is there, at most a few times. `fd` is closed and -1 at its end. */
static void take(struct vm *vm, int *fd, void (*fn)(struct vm *, struct bytes), int rounds)
{
    char some[READ_BYTES];

    for (int i = 0; i < rounds && *fd >= 0; i++) {
        ssize_t n = read(*fd, some, sizeof(some));
        if (n > 0) {
            fn(vm, BYTES(some, (size_t)n));
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close(TAKE_FD(*fd));
        } else {
            return;
        }
    }
}

static void from_qmp(struct vm *vm, struct bytes in)
{
    line_cutter_feed(&vm->qmp_lines, in, on_qmp_line, vm);
}

static void from_ctl(struct vm *vm, struct bytes in)
{
    vm_guest_feed(&vm->guest, in);
    if (vm->guest.fresh) {
        vm->alive_ms = vm_now_ms();
    }
    if (vm->guest.alive && !vm->booted) {
        vm->booted = 1;
    }
    if (vm->guest.exit_code >= 0 && vm->kill_ms == INT64_MAX) {
        vm->kill_ms = vm_now_ms() + POWER_OFF_MS;
    }
}

static void from_log(struct vm *vm, struct bytes in)
{
    vm_text_feed(&vm->log, in);
}

static void from_console(struct vm *vm, struct bytes in)
{
    vm_text_feed(&vm->console, in);
}

static void from_qemu(struct vm *vm, struct bytes in)
{
    vm_text_feed(&vm->qemu_out, in);
}

static void from_tpm(struct vm *vm, struct bytes in)
{
    vm_text_feed(&vm->tpm_out, in);
}

static void take_all(struct vm *vm, int rounds)
{
    take(vm, &vm->qmp_fd, from_qmp, rounds);
    take(vm, &vm->ctl_fd, from_ctl, rounds);
    take(vm, &vm->log_fd, from_log, rounds);
    take(vm, &vm->console_fd, from_console, rounds);
    take(vm, &vm->qemu_out_fd, from_qemu, rounds);
    take(vm, &vm->tpm_out_fd, from_tpm, rounds);
}

static void send_launch(struct vm *vm)
{
    if (vm->ctl_fd < 0 || vm->launch_sent == vm->launch.n) {
        return;
    }
    ssize_t n = send(vm->ctl_fd, vm->launch.p + vm->launch_sent, vm->launch.n - vm->launch_sent,
                     MSG_NOSIGNAL | MSG_DONTWAIT);
    vm->launch_sent += n > 0 ? (size_t)n : 0;
    if (vm->launch_sent == vm->launch.n) {
        buf_done(&vm->launch); /* it holds the worker's seed */
        vm->launch_sent = 0;
    }
}

/* What the bridge has to say, once for each change. */
static void tell_bridge(struct vm *vm)
{
    char now[sizeof(vm->bridge_told)];

    snprintf(now, sizeof(now), "%.100s", vm->bridge.last.msg);
    if (!streq(now, vm->bridge_told)) {
        snprintf(vm->bridge_told, sizeof(vm->bridge_told), "%s", now);
        say_log("bus", now[0] ? now : "connected");
    }
}

static int64_t due_ms(const struct vm *vm)
{
    int64_t at = vm->alive_ms + vm->p.opt.hang_ms, bridge = bridge_due_ms(&vm->bridge);

    at = vm->kill_ms < at ? vm->kill_ms : at;
    return bridge < at ? bridge : at;
}

static size_t poll_set(const struct vm *vm, struct pollfd *v)
{
    const int fds[] = {vm->signal_fd,  vm->qmp_fd,      vm->log_fd,
                       vm->console_fd, vm->qemu_out_fd, vm->tpm_out_fd};
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        if (fds[i] >= 0) {
            v[n++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        }
    }
    if (vm->ctl_fd >= 0) {
        v[n++] = (struct pollfd){
            .fd = vm->ctl_fd,
            .events = (short)(POLLIN | (vm->launch_sent < vm->launch.n ? POLLOUT : 0))};
    }
    return n;
}

static void loop(struct vm *vm)
{
    while (vm->qemu > 0) {
        struct pollfd v[16];
        size_t n = poll_set(vm, v), k = bridge_poll(&vm->bridge, v + n);
        int64_t wait = due_ms(vm) - vm_now_ms();
        if (poll(v, n + k, wait < 0 ? 0 : wait > 60000 ? 60000 : (int)wait) < 0 && errno != EINTR) {
            end(vm, END_QMP, vm_now_ms());
        }
        send_launch(vm);
        bridge_turn(&vm->bridge, v + n, k, vm_now_ms());
        tell_bridge(vm);
        take_all(vm, 4);
        if (vm->booted == 1) {
            vm->booted = 2;
            forward(NULL, BYTES_STR("{\"booted\":true}"));
        }
        on_signals(vm, vm_now_ms());
        on_time(vm, vm_now_ms());
    }
    take_all(vm, 256);
}

/* ---- the end --------------------------------------------------------------------------------- */

static const char *ending(int status, char out[64])
{
    snprintf(out, 64, "%s %d", WIFSIGNALED(status) ? "signal" : "status",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return out;
}

/* Why a VM is over that did not say so itself. */
static void explain(const struct vm *vm, char *out, size_t size)
{
    char how[64];

    if (vm->end == END_HANG) {
        snprintf(out, size, "the VM hangs: no sign of life for %lld ms; its last words: %.200s",
                 (long long)vm->p.opt.hang_ms, vm->console.last);
    } else if (vm->end == END_TPM) {
        snprintf(out, size, "swtpm ended with %s: %.200s", ending(vm->tpm_status, how),
                 vm->tpm_out.last);
    } else if (vm->end == END_QMP) {
        snprintf(out, size, "the VM could not be watched");
    } else if (vm->panicked || streq(vm->shutdown, "guest-panic") ||
               streq(vm->shutdown, "guest-reset")) {
        snprintf(out, size, "the guest's kernel panicked, or restarted; its last words: %.200s",
                 vm->console.last);
    } else if (streq(vm->shutdown, "guest-shutdown")) {
        snprintf(out, size, "the guest powered off without an exit status; its last words: %.200s",
                 vm->console.last);
    } else {
        snprintf(out, size, "QEMU ended with %s: %.200s", ending(vm->qemu_status, how),
                 vm->qemu_out.last);
    }
}

static int finish(struct vm *vm)
{
    char why[400];

    vm_text_end(&vm->log);
    vm_text_end(&vm->console);
    vm_text_end(&vm->qemu_out);
    vm_text_end(&vm->tpm_out);
    if (vm->guest.bad) {
        snprintf(why, sizeof(why), "%llu lines of the guest were none",
                 (unsigned long long)vm->guest.bad);
        say_log("vm", why);
    }
    if (vm->guest.exit_code >= 0) {
        return vm->guest.exit_code;
    }
    if (vm->end == END_STOPPED) {
        return VM_EXIT_STOPPED;
    }
    if (!vm->guest.explained) {
        explain(vm, why, sizeof(why));
        say_failed(why);
    }
    return VM_EXIT_FAILED;
}

static void vm_done(struct vm *vm)
{
    const pid_t pids[] = {vm->qemu, vm->swtpm};
    int *const fds[] = {&vm->dir_fd, &vm->signal_fd,  &vm->qmp_fd,      &vm->ctl_fd,
                        &vm->log_fd, &vm->console_fd, &vm->qemu_out_fd, &vm->tpm_out_fd};

    for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
        if (pids[i] > 0) {
            kill(pids[i], SIGKILL);
            while (waitpid(pids[i], NULL, 0) < 0 && errno == EINTR) {
            }
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        closep(fds[i]);
    }
    vm_disks_done(&vm->disks);
    bridge_done(&vm->bridge);
    buf_done(&vm->launch);
    buf_done(&vm->qmp_lines.buf);
    vm_guest_done(&vm->guest);
    vm_params_done(&vm->p);
}

static struct vm *vm_new(void)
{
    struct vm *vm = xcalloc(1, sizeof(*vm));

    vm->dir_fd = vm->signal_fd = vm->qmp_fd = vm->ctl_fd = vm->log_fd = -1;
    vm->console_fd = vm->qemu_out_fd = vm->tpm_out_fd = -1;
    vm->launch = BUF_INIT(VM_LAUNCH_MAX_BYTES + 4);
    vm->qmp_lines = LINE_CUTTER_INIT(QMP_LINE_MAX);
    vm->guest = VM_GUEST_INIT;
    vm->guest.forward = forward;
    vm->log = (struct vm_text){.prefix = "guest", .left = TEXT_MAX_BYTES, .out = say_log};
    vm->console = (struct vm_text){.prefix = "console", .left = CONSOLE_MAX_BYTES, .out = say_log};
    vm->qemu_out = (struct vm_text){.prefix = "qemu", .left = TEXT_MAX_BYTES, .out = say_log};
    vm->tpm_out = (struct vm_text){.prefix = "swtpm", .left = TEXT_MAX_BYTES, .out = say_log};
    vm->bridge.net_fd = vm->bridge.port_fd = -1;
    vm->kill_ms = INT64_MAX;
    vm->alive_ms = vm_now_ms();
    return vm;
}

int vm_main(int argc, char **argv)
{
    _cleanup_buf_ struct buf input = BUF_INIT(INPUT_MAX_BYTES + READ_BYTES);
    struct vm *vm = vm_new();
    struct err e = {0};
    int rc = VM_EXIT_FAILED;

    if (argc != 3) {
        fprintf(stderr, "%s is started by svc-launcher only\n", argc > 1 ? argv[1] : VM_VERB);
        free(vm);
        return 2;
    }
    /* It holds the worker's seed, and reads what guests say. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    umask(077);
    if (open_signals(&vm->signal_fd, &e) < 0 || read_input(&input, &e) < 0 ||
        prepare(vm, buf_bytes(&input), &e) < 0) {
        say_err(&e);
    } else {
        ssize_t n = send(vm->qmp_fd, QMP_CAPABILITIES, strlen(QMP_CAPABILITIES), MSG_NOSIGNAL);
        (void)n;
        vm->alive_ms = vm_now_ms();
        loop(vm);
        rc = finish(vm);
    }
    vm_done(vm);
    free(vm);
    return rc;
}
