/* `coffer dev`: the order in which the embedded stack starts and stops. */
#include "cli/dev.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>

#include "cli/client.h"
#include "cli/verbs.h"
#include "common/log.h"

#define NATS_WAIT_MS 15000
#define NATS_POLL_S 0.02

const struct cli_opt opts_dev[] = {
    {.name = "port",
     .arg = "N",
     .value = VALUE_TEXT,
     .help = "nats-server's port on 127.0.0.1 (default: the last run's, else a free one)"},
    {.name = "backend",
     .arg = "NAME",
     .value = VALUE_TEXT,
     .help = "how CVMs are made: vtpm (default: measured VMs with a virtual TPM) or process "
             "(sandboxed processes of this host, with sample evidence: quick, and no protection)"},
    {.name = "log-level",
     .arg = "LEVEL",
     .value = VALUE_TEXT,
     .help = "debug, info (default), warn or error"},
    {.name = "set",
     .arg = "SERVICE.NAME=VALUE",
     .value = VALUE_TEXT,
     .many = 1,
     .help = "a configuration item of a service, as gate.hold-timeout-ms=60000"},
    {.name = "ready-fd",
     .arg = "N",
     .value = VALUE_TEXT,
     .help = "write a line to file descriptor N when everything runs, and close it"},
    {0},
};

const char help_dev[] =
    "Starts a private nats-server (TLS, one key and one set of permissions per service) and the "
    "services, in the foreground, with their logs on standard error. A second start with the same "
    "directory goes on where the first one stopped. Ctrl-C stops everything in order; a second one "
    "kills it. A service that dies is started again.\n"
    "\n"
    "With the vtpm backend each job runs in a QEMU VM of its own whose boot is measured; its host "
    "owns "
    "the TPM, so grants and jobs must allow it by name (vtpm, status warning). Evidence of the "
    "process "
    "backend promises nothing (sample). reviewer.jwk in the directory is the key that approves "
    "held "
    "results.";

/* ---- stopping
 * ------------------------------------------------------------------------------------ */

/* The launcher first, while the others can still hear that its CVMs are gone; nats-server last. */
static const int stop_phase[DEV_N] = {
    [DEV_LAUNCHER] = 0, [DEV_SCHEDULER] = 1, [DEV_VERIFIER] = 1,
    [DEV_KBS] = 1,      [DEV_GATE] = 1,      [DEV_NATS] = 2,
};
#define STOP_PHASES 3

static void stop_next(struct dev *d)
{
    for (int phase = 0; phase < STOP_PHASES; phase++) {
        int running = 0;
        for (int i = 0; i < DEV_N; i++) {
            struct dev_child *c = &d->children[i];
            if (stop_phase[i] != phase || c->pid <= 0) {
                continue;
            }
            running = 1;
            if (!c->stopping) {
                c->stopping = 1;
                /* To nats-server, SIGTERM is a failure: it ends with status 1. */
                kill(c->pid, i == DEV_NATS ? SIGINT : SIGTERM);
            }
        }
        if (running) {
            return;
        }
    }
    ev_break(d->loop, EVBREAK_ALL);
}

static void stop(struct dev *d)
{
    if (d->stopping) {
        return;
    }
    d->stopping = 1;
    for (int i = 0; i < DEV_N; i++) {
        ev_timer_stop(d->loop, &d->children[i].restart);
    }
    ev_timer_stop(d->loop, &d->nats_poll);
    ev_timer_set(&d->give_up, DEV_STOP_S, 0);
    ev_timer_start(d->loop, &d->give_up);
    stop_next(d);
}

void dev_on_child_ended(struct dev *d, struct dev_child *c)
{
    (void)c;
    if (d->stopping) {
        stop_next(d);
    }
}

void dev_fail(struct dev *d, const char *fmt, ...)
{
    va_list ap;
    char why[512];

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    log_error("dev.failed", "%s", why);
    d->failed = 1;
    stop(d);
}

static void on_give_up(struct ev_loop *loop, ev_timer *w, int events)
{
    struct dev *d = w->data;

    (void)loop;
    (void)events;
    for (int i = 0; i < DEV_N; i++) {
        if (d->children[i].pid > 0) {
            log_warn("child.killed", "%s did not end within %.0f s", d->children[i].name,
                     DEV_STOP_S);
        }
    }
    dev_children_signal(d, SIGKILL);
}

static void on_signal(struct ev_loop *loop, ev_signal *w, int events)
{
    struct dev *d = w->data;

    (void)loop;
    (void)events;
    if (d->signals++ == 0) {
        log_info("dev.stop", "%s: stopping (again kills at once)", strsignal(w->signum));
        stop(d);
    } else {
        log_warn("dev.kill", "%s: killing what is left", strsignal(w->signum));
        dev_children_signal(d, SIGKILL);
    }
}

/* ---- starting
 * ------------------------------------------------------------------------------------ */

static int answers(uint16_t port)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};

    return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static void start_child(struct dev *d, enum dev_id id)
{
    struct err e = {0};

    if (!d->stopping && dev_child_start(&d->children[id], &e) < 0) {
        dev_fail(d, "cannot start %s: %s", d->children[id].name, e.msg);
    }
}

static void on_nats_poll(struct ev_loop *loop, ev_timer *w, int events)
{
    struct dev *d = w->data;
    struct err e = {0};

    (void)events;
    if (d->children[DEV_NATS].pid == 0 || !answers(d->port)) {
        if (dev_now_ms() - d->started_ms > NATS_WAIT_MS) {
            dev_fail(d, "nats-server does not answer on port %u; see %s", d->port,
                     d->children[DEV_NATS].log_path);
        }
        return;
    }
    ev_timer_stop(loop, w);
    if (dev_provision(d, &e) < 0) {
        dev_fail(d, "%s", e.msg);
        return;
    }
    d->children[DEV_NATS].ready = 1;
    for (int i = 0; i < DEV_N; i++) {
        if (i != DEV_NATS && i != DEV_LAUNCHER) {
            start_child(d, (enum dev_id)i);
        }
    }
}

/* For a shell: within single quotes only the single quote is special. */
static char *shell_quote(const char *s)
{
    if (s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+")] ==
        '\0') {
        return xstrdup(s);
    }
    char *out = xmalloc(4 * strlen(s) + 3), *p = out;
    *p++ = '\'';
    for (; *s; s++) {
        if (*s == '\'') {
            p = stpcpy(p, "'\\''");
        } else {
            *p++ = *s;
        }
    }
    *p++ = '\'';
    *p = '\0';
    return out;
}

void dev_on_ready(struct dev *d)
{
    static const char line[] = "ready\n";

    if (d->announced || d->stopping) {
        return;
    }
    for (int i = 0; i < DEV_N; i++) {
        if (i != DEV_LAUNCHER && !d->children[i].ready) {
            return;
        }
    }
    if (!d->children[DEV_LAUNCHER].ready) {
        /* Last, so that the scheduler hears its first report, and not only the second. */
        if (!d->children[DEV_LAUNCHER].started_ms) {
            start_child(d, DEV_LAUNCHER);
        }
        return;
    }
    d->announced = 1;
    _cleanup_free_ char *dir = shell_quote(d->dir);
    printf(
        "ready: export COFFER_DATA=%s\n"
        "then, in another terminal: coffer keygen, coffer dataset seal FILE, coffer run JOB.yaml; "
        "coffer help says more. Ctrl-C stops.\n",
        dir);
    fflush(stdout);
    if (d->ready_fd >= 0) {
        if (write(d->ready_fd, line, sizeof(line) - 1) < 0) {
            log_warn("dev.ready-fd", "--ready-fd %d: %s", d->ready_fd, strerror(errno));
        }
        close(d->ready_fd);
        d->ready_fd = -1;
    }
}

static void add_signal(struct dev *d, ev_signal *w, int sig)
{
    ev_signal_init(w, on_signal, sig);
    w->data = d;
    ev_signal_start(d->loop, w);
}

static int start(struct dev *d, struct err *e)
{
    d->loop = ev_default_loop(EVFLAG_AUTO);
    if (!d->loop) {
        return err_set(e, ERR_IO, "no event loop");
    }
    if (dev_setup(d, e) < 0 || dev_find_programs(d, e) < 0 ||
        (!streq(d->backend, "process") && dev_setup_vm(d, e) < 0) || dev_children_init(d, e) < 0 ||
        dev_notify_open(d, e) < 0) {
        return -1;
    }
    add_signal(d, &d->sig_int, SIGINT);
    add_signal(d, &d->sig_term, SIGTERM);
    add_signal(d, &d->sig_hup, SIGHUP);
    ev_timer_init(&d->give_up, on_give_up, DEV_STOP_S, 0);
    d->give_up.data = d;
    ev_timer_init(&d->nats_poll, on_nats_poll, NATS_POLL_S, NATS_POLL_S);
    d->nats_poll.data = d;
    d->started_ms = dev_now_ms();
    log_info("dev.start", "version " COFFER_VERSION " data=%s nats=%s", d->dir, d->url);
    if (dev_child_start(&d->children[DEV_NATS], e) < 0) {
        return err_wrap(e, "cannot start nats-server");
    }
    ev_timer_start(d->loop, &d->nats_poll);
    return 0;
}

/* ---- options
 * ------------------------------------------------------------------------------------- */

static const char *const services[] = {"scheduler", "launcher", "verifier", "kbs", "gate"};

/* "kbs.log-level=debug" to {"kbs", "log-level=debug"}. */
static int add_setting(struct dev *d, const char *s, struct err *e)
{
    const char *dot = strchr(s, '.'), *eq = strchr(s, '=');

    if (d->n_settings == DEV_SETTINGS_MAX) {
        return err_set(e, ERR_TOO_LARGE, "--set: at most %d", DEV_SETTINGS_MAX);
    }
    for (size_t i = 0; dot && eq && dot < eq && i < ARRAY_LEN(services); i++) {
        size_t n = strlen(services[i]);
        if ((size_t)(dot - s) == n && memcmp(s, services[i], n) == 0) {
            d->settings[d->n_settings++] =
                (struct dev_setting){.service = services[i], .name_value = dot + 1};
            return 0;
        }
    }
    return err_set(e, ERR_INVALID,
                   "--set: expected SERVICE.NAME=VALUE with a SERVICE of scheduler, "
                   "launcher, verifier, kbs or gate, found \"%s\"",
                   s);
}

static int parse_options(struct cli *c, struct dev *d, struct strings *settings, struct err *e)
{
    const char *backend = cli_opt(c, "backend"), *level = cli_opt(c, "log-level");
    enum log_level parsed;
    int64_t port, fd;

    d->log_level = level ? level : c->verbose ? "debug" : "info";
    if (log_level_parse(d->log_level, &parsed) < 0) {
        return err_set(e, ERR_INVALID,
                       "--log-level: expected debug, info, warn or error, found "
                       "\"%s\"",
                       level);
    }
    d->backend = backend ? backend : "vtpm";
    if (!streq(d->backend, "process") && !streq(d->backend, "vtpm")) {
        return err_set(e, ERR_INVALID, "--backend: expected vtpm or process, found \"%s\"",
                       backend);
    }
    if (cli_opt_int(c, "port", 1, 65535, 0, &port, e) < 0 ||
        cli_opt_int(c, "ready-fd", 1, 1 << 20, -1, &fd, e) < 0) {
        return -1;
    }
    d->port = (uint16_t)port;
    d->ready_fd = (int)fd;
    cli_opt_list(c, "set", settings);
    for (size_t i = 0; i < settings->n; i++) {
        if (add_setting(d, settings->v[i], e) < 0) {
            return -1;
        }
    }
    log_init(&(struct log_opts){.service = "dev", .level = parsed});
    d->dir = client_data_dir(c);
    return 0;
}

static void dev_done(struct dev *d)
{
    dev_children_done(d);
    if (d->notify_fd >= 0) {
        close(d->notify_fd);
    }
    free(d->dir);
    free(d->program_dir);
    free(d->guest_dir);
    free(d->url);
}

int verb_dev(struct cli *c, int argc, char **argv)
{
    _cleanup_strings_ struct strings settings = {0};
    struct dev d = {.lock_fd = -1, .notify_fd = -1, .ready_fd = -1};
    struct err e = {0};
    int rc = CLI_OK;

    (void)argc;
    (void)argv;
    const char *plain = getenv("NO_COLOR");
    d.colour = isatty(STDERR_FILENO) && !(plain && plain[0]);
    if (parse_options(c, &d, &settings, &e) < 0) {
        dev_done(&d);
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (dev_lock(&d, &e) < 0 || start(&d, &e) < 0) {
        rc = cli_fail_as(c, CLI_COULD_NOT, &e);
    } else {
        ev_run(d.loop, 0);
        log_info("dev.stopped", "everything ended");
        rc = d.failed ? CLI_COULD_NOT : CLI_OK;
    }
    dev_unlock(&d);
    dev_done(&d);
    return rc;
}
