/* The children, their lines, and the signs of life. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "common/jcs.h"
#include "common/result.h"
#include "svc-worker/init.h"

#define RELAY_RESTARTS 5
#define RELAY_WINDOW_MS 10000
#define LOG_PER_S 100
#define LOG_BURST 500
#define LOG_LAST_MS 500
#define HUNG_UP_WAIT_MS 100
#define READ_BYTES 4096
#define MAX_POLL 5
#define MEMORY_EVERY_MS 200

struct watch {
    const struct init_watch_env *env;
    int signals;                  /* signalfd of SIGCHLD */
    int worker_out, children_err; /* read ends */
    int err_w;                    /* write end, for children that start later */
    pid_t worker, relay;          /* -1: not running */
    int worker_status;            /* once worker is -1 */
    int64_t relay_ends_ms[RELAY_RESTARTS];
    unsigned n_relay_ends;
    struct err failed; /* code != 0: the VM ends for this */
    int64_t next_alive_ms, next_memory_ms;
    struct init_memory memory;
    uint64_t memory_said_kib;
    struct init_cut lines, err_lines;
    struct init_out ctl;
    struct init_log log;
};

int64_t init_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void say_ctl(struct init_out *ctl, json_t *j)
{
    _cleanup_json_ json_t *owned = j;
    _cleanup_free_ char *text = owned ? json_dumps(owned, JSON_COMPACT) : NULL;

    if (text) {
        init_out_line(ctl, text, strlen(text));
    }
}

static void say_log(struct watch *w, const char *what, const char *text)
{
    _cleanup_free_ char *line = xasprintf("init: %s: %s", what, text);

    init_log_line(&w->log, init_now_ms(), line, strlen(line));
}

static void on_line(void *arg, const char *line, size_t n)
{
    struct watch *w = arg;

    init_out_line(&w->ctl, line, n);
}

static void on_err_line(void *arg, const char *line, size_t n)
{
    struct watch *w = arg;

    init_log_line(&w->log, init_now_ms(), line, n);
}

/* 0 when there is nothing to read now, or never will be. */
static int feed(int fd, struct init_cut *c, init_line_fn fn, struct watch *w)
{
    uint8_t in[READ_BYTES];
    ssize_t n = read(fd, in, sizeof(in));

    if (n <= 0) {
        return 0;
    }
    init_cut_feed(c, BYTES(in, (size_t)n), fn, w);
    return 1;
}

/* The line that is being put together, and what one read may add to it. */
static int ctl_has_room(const struct watch *w)
{
    return init_out_room(&w->ctl) >= w->lines.n + READ_BYTES + 64;
}

static void say_alive(struct watch *w)
{
    int64_t now = init_now_ms();

    if (now < w->next_alive_ms) {
        return;
    }
    w->next_alive_ms = now + w->env->alive_every_ms;
    /* Nobody needs an old one; and the worker's lines must have room. */
    if (!w->ctl.n) {
        say_ctl(&w->ctl, json_pack("{s:I}", "alive", (json_int_t)now));
    }
}

/* The peak so far, when it is higher than was said before. */
static void say_memory(struct watch *w)
{
    char line[INIT_MEMORY_LINE_BYTES];

    if (w->memory.peak.pss_kib > w->memory_said_kib) {
        w->memory_said_kib = w->memory.peak.pss_kib;
        init_memory_line(&w->memory, line);
        init_log_line(&w->log, init_now_ms(), line, strlen(line));
    }
}

/* Every so often, and at each sign of the worker, when it begins the next thing. Then it is said,
 * too: after the last sign the host may not listen any more. */
static void sample_memory(struct watch *w, int sign)
{
    int64_t now = init_now_ms();

    if (sign || now >= w->next_memory_ms) {
        init_memory_sample(&w->memory, "/proc", getpid());
        w->next_memory_ms = now + MEMORY_EVERY_MS;
    }
    if (sign) {
        say_memory(w);
    }
}

/* ---- children -------------------------------------------------------------------------------- */

static int pipe_for(int *ret_r, int *ret_w, struct err *e)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "init: pipe");
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *ret_r = fds[0];
    *ret_w = fds[1];
    return 0;
}

static void unblock_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void become_worker(const struct init_watch_env *env, int out, int err)
{
    static char *const environment[] = {NULL};

    unblock_signals();
    if (setsid() < 0 || dup2(env->launch_fd, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 ||
        syscall(SYS_close_range, 3u, ~0u, 0u) < 0) {
        _exit(126);
    }
    execve(env->worker, env->worker_argv, environment);
    _exit(127);
}

static int start_worker(struct watch *w, struct err *e)
{
    _cleanup_close_ int out_w = -1;

    if (pipe_for(&w->worker_out, &out_w, e)) {
        return -1;
    }
    w->worker = fork();
    if (w->worker == 0) {
        become_worker(w->env, out_w, w->err_w);
    }
    return w->worker < 0 ? err_errno(e, "init: fork") : 0;
}

static int start_relay(struct watch *w, struct err *e)
{
    w->relay = fork();
    if (w->relay == 0) {
        unblock_signals();
        if (dup2(w->err_w, 2) < 0) {
            _exit(126);
        }
        _exit(w->env->relay(w->env->relay_arg));
    }
    return w->relay < 0 ? err_errno(e, "init: fork") : 0;
}

static const char *how(int status, char buf[48])
{
    if (WIFSIGNALED(status)) {
        snprintf(buf, 48, "signal %d", WTERMSIG(status));
    } else {
        snprintf(buf, 48, "exit status %d", WEXITSTATUS(status));
    }
    return buf;
}

/* The worker connects again by itself when the relay is back; one that cannot stay is the end. */
static void relay_ended(struct watch *w, int status)
{
    int64_t now = init_now_ms(), *oldest = &w->relay_ends_ms[w->n_relay_ends % RELAY_RESTARTS];
    char text[48];

    w->relay = -1;
    say_log(w, "the relay ended", how(status, text));
    if (w->n_relay_ends >= RELAY_RESTARTS && now - *oldest < RELAY_WINDOW_MS) {
        err_set(&w->failed, ERR_IO, "the bus relay ended %d times in %d s, the last with %s",
                RELAY_RESTARTS + 1, RELAY_WINDOW_MS / 1000, text);
        return;
    }
    *oldest = now;
    w->n_relay_ends++;
    start_relay(w, &w->failed);
}

static void reap(struct watch *w)
{
    struct signalfd_siginfo info;
    char text[48];
    int status;
    pid_t pid;

    while (read(w->signals, &info, sizeof(info)) > 0) {
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == w->worker) {
            w->worker = -1;
            w->worker_status = status;
            say_log(w, "the worker ended", how(status, text));
        } else if (pid == w->relay) {
            relay_ended(w, status);
        }
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* A port that nobody has at its other end reports that at once, and again: it rests a while. */
static int port_rests(int fd)
{
    struct pollfd f = {.fd = fd, .events = POLLOUT};

    return fd >= 0 && poll(&f, 1, 0) > 0 && (f.revents & (POLLHUP | POLLERR));
}

static void flush(struct watch *w)
{
    if (w->env->log_fd >= 0) {
        init_log_flush(&w->log, w->env->log_fd);
    }
    init_out_flush(&w->ctl, w->env->ctl_fd);
}

static int timeout(const struct watch *w, int resting)
{
    int64_t next = w->next_alive_ms < w->next_memory_ms ? w->next_alive_ms : w->next_memory_ms;
    int64_t left = next - init_now_ms();

    left = left < 0 ? 0 : left > 60000 ? 60000 : left;
    return resting && left > HUNG_UP_WAIT_MS ? HUNG_UP_WAIT_MS : (int)left;
}

static int turn(struct watch *w, struct err *e)
{
    int ctl = w->ctl.n && !port_rests(w->env->ctl_fd);
    int log = w->log.out.n && w->env->log_fd >= 0 && !port_rests(w->env->log_fd);
    int resting = (w->ctl.n && !ctl) || (w->log.out.n && !log);
    struct pollfd f[MAX_POLL] = {
        {.fd = w->signals, .events = POLLIN},
        {.fd = ctl_has_room(w) ? w->worker_out : -1, .events = POLLIN},
        {.fd = w->children_err, .events = POLLIN},
        {.fd = ctl ? w->env->ctl_fd : -1, .events = POLLOUT},
        {.fd = log ? w->env->log_fd : -1, .events = POLLOUT},
    };

    if (poll(f, MAX_POLL, timeout(w, resting)) < 0 && errno != EINTR) {
        return err_errno(e, "init: poll");
    }
    if (f[1].revents && !feed(w->worker_out, &w->lines, on_line, w)) {
        closep(&w->worker_out); /* it closed its standard output: there will be no more */
        w->worker_out = -1;
    }
    if (f[2].revents) {
        feed(w->children_err, &w->err_lines, on_err_line, w);
    }
    sample_memory(w, f[1].revents & POLLIN);
    reap(w);
    say_alive(w);
    flush(w);
    return 0;
}

static int prepare(struct watch *w, struct err *e)
{
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    signal(SIGPIPE, SIG_IGN);
    w->signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    if (w->signals < 0) {
        return err_errno(e, "init: signalfd");
    }
    return pipe_for(&w->children_err, &w->err_w, e);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void flush_out(struct init_out *o, int fd, int64_t end_ms)
{
    while (init_out_flush(o, fd) == 0 && init_now_ms() < end_ms) {
        struct pollfd f = {.fd = fd, .events = POLLOUT};
        int64_t left = end_ms - init_now_ms();
        if (port_rests(fd)) {
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        } else if (left > 0) {
            poll(&f, 1, (int)left);
        }
    }
}

static int64_t ends_ms(int ms)
{
    return init_now_ms() + ms;
}

/* Everybody else is dead: what they said last is in the pipes. */
static void last_lines(struct watch *w)
{
    int64_t end_ms = ends_ms(w->env->flush_ms);

    while (w->worker_out >= 0 && init_now_ms() < end_ms) {
        if (!ctl_has_room(w)) {
            init_out_flush(&w->ctl, w->env->ctl_fd);
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        } else if (!feed(w->worker_out, &w->lines, on_line, w)) {
            break;
        }
    }
    while (feed(w->children_err, &w->err_lines, on_err_line, w)) {
    }
    flush_out(&w->ctl, w->env->ctl_fd, end_ms);
}

static int exit_status(const struct watch *w)
{
    if (w->failed.code) {
        return INIT_EXIT_FAILED;
    }
    return WIFEXITED(w->worker_status) ? WEXITSTATUS(w->worker_status)
                                       : 128 + WTERMSIG(w->worker_status);
}

static void say_last(int ctl_fd, struct init_out *ctl, const struct err *failed, int status,
                     int64_t end_ms)
{
    if (failed->code) {
        say_ctl(ctl, failed->clause[0] ? json_pack("{s:o}", "refused", result_refusal_json(failed))
                                       : json_pack("{s:s}", "failed", failed->msg));
    }
    say_ctl(ctl, json_pack("{s:i}", "exit", status));
    flush_out(ctl, ctl_fd, end_ms);
}

static void done(struct watch *w)
{
    int *const fds[] = {&w->signals, &w->worker_out, &w->children_err, &w->err_w};

    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        closep(fds[i]);
        *fds[i] = -1;
    }
    init_cut_done(&w->lines);
    init_cut_done(&w->err_lines);
    init_out_done(&w->ctl);
    init_out_done(&w->log.out);
}

int init_watch(const struct init_watch_env *env)
{
    struct watch w = {.env = env,
                      .signals = -1,
                      .worker_out = -1,
                      .children_err = -1,
                      .err_w = -1,
                      .worker = -1,
                      .relay = -1,
                      .log = {.rate = {.per_s = LOG_PER_S, .burst = LOG_BURST}}};

    init_cut_start(&w.lines, INIT_LINE_MAX_BYTES);
    init_cut_start(&w.err_lines, INIT_LOG_LINE_MAX_BYTES);
    if (prepare(&w, &w.failed) == 0 && start_relay(&w, &w.failed) == 0 &&
        start_worker(&w, &w.failed) == 0) {
        while (w.worker > 0 && !w.failed.code && turn(&w, &w.failed) == 0) {
        }
    }
    env->kill_all();
    if (w.signals >= 0) {
        last_lines(&w);
    }
    int status = exit_status(&w);
    say_last(env->ctl_fd, &w.ctl, &w.failed, status, ends_ms(env->flush_ms));
    if (env->log_fd >= 0) {
        say_memory(&w);
        init_log_flush(&w.log, env->log_fd);
        flush_out(&w.log.out, env->log_fd, ends_ms(LOG_LAST_MS));
    }
    done(&w);
    return status;
}

int init_watch_failed(int ctl_fd, int flush_ms, const struct err *why)
{
    struct init_out ctl = {0};
    int status = why->clause[0] ? INIT_EXIT_REFUSED : INIT_EXIT_FAILED;

    say_last(ctl_fd, &ctl, why, status, ends_ms(flush_ms));
    init_out_done(&ctl);
    return status;
}
