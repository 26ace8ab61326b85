#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/jcs.h"
#include "svc-launcher/qmp.h"
#include "svc-launcher/vm_run.h"

/* One VM: everything is prepared, then one loop turns until QEMU has ended. This process has the
 * launcher's rights; QEMU and swtpm have none (vm_jail.c), and what they and the guest say comes
 * through descriptors that are read here, each within its bounds. */

#define INPUT_MAX_BYTES (512u * 1024)
#define CONSOLE_MAX_BYTES (256u * 1024)
#define TEXT_MAX_BYTES (1u << 20)
#define QUIT_MS 500        /* for QEMU to end when asked */
#define POWER_OFF_MS 10000 /* for the guest to end after its last line */
#define BOOT_FACTOR 3      /* of the time in which an emulated guest must say something */
#define READ_BYTES 65536u

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
void vm_say_log(const char *prefix, const char *text)
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

/* How long this VM may be silent. Emulated on a busy host, a boot takes many times what it takes.
 */
static int64_t silence_ms(const struct vm *vm)
{
    return vm->guest.alive || vm->p.kvm ? vm->p.opt.hang_ms : BOOT_FACTOR * vm->p.opt.hang_ms;
}

static void on_time(struct vm *vm, int64_t now_ms)
{
    if (vm->qemu > 0) {
        vm_place_follow(&vm->place, vm->qemu, now_ms);
    }
    if (now_ms >= vm->kill_ms) {
        if (vm->end == END_NONE) {
            vm->end = vm->guest.exit_code >= 0 ? END_EXIT_STAYS : END_TPM;
        }
        kill_qemu(vm);
    }
    if (vm->end == END_NONE && vm->guest.exit_code < 0 && now_ms >= vm->alive_ms + silence_ms(vm)) {
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
        vm_say_log("qmp", e.msg);
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
        vm_say_log("qmp", m.text);
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
        vm_say_log("bus", now[0] ? now : "connected");
    }
}

static int64_t due_ms(const struct vm *vm)
{
    int64_t at = vm->alive_ms + silence_ms(vm), bridge = bridge_due_ms(&vm->bridge);

    at = vm->kill_ms < at ? vm->kill_ms : at;
    at = vm->place.due_ms < at ? vm->place.due_ms : at;
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
                 (long long)silence_ms(vm), vm->console.last);
    } else if (vm->end == END_TPM || vm->tpm_status != 0) {
        /* QEMU may have noticed first, and ended. */
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
        vm_say_log("vm", why);
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
    vm_place_done(&vm->place);
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
    vm->place = VM_PLACE_INIT;
    vm->launch = BUF_INIT(VM_LAUNCH_MAX_BYTES + 4);
    vm->qmp_lines = LINE_CUTTER_INIT(QMP_LINE_MAX);
    vm->guest = VM_GUEST_INIT;
    vm->guest.forward = forward;
    vm->log = (struct vm_text){.prefix = "guest", .left = TEXT_MAX_BYTES, .out = vm_say_log};
    vm->console =
        (struct vm_text){.prefix = "console", .left = CONSOLE_MAX_BYTES, .out = vm_say_log};
    vm->qemu_out = (struct vm_text){.prefix = "qemu", .left = TEXT_MAX_BYTES, .out = vm_say_log};
    vm->tpm_out = (struct vm_text){.prefix = "swtpm", .left = TEXT_MAX_BYTES, .out = vm_say_log};
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
        vm_start(vm, buf_bytes(&input), &e) < 0) {
        say_err(&e);
    } else {
        buf_done(&input); /* it holds the worker's seed */
        vm->p.config = BYTES(NULL, 0);
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
