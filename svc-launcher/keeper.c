#include "svc-launcher/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

/* The keeper of one CVM: a small process between the launcher and the worker. It is the subreaper
 * of all that the worker starts, so nothing can leave the tree; and it ends last, when every other
 * process of the tree and the work directory are gone. It outlives the launcher: what the worker
 * says, and how it ended, waits here until a launcher has stored it. Without one for too long, or
 * past the deadline, it ends the CVM by itself. It runs as a program of its own, so it has no
 * memory, descriptor or thread of the launcher. */

#define NOFILE 4096
#define READ_BYTES 4096u
#define LOG_LINE_MAX 1024u
/* Bounds how much a CVM can make a launcher do. Lifecycle lines beyond it wait, others are dropped.
 */
#define LINES_PER_S 100u
#define ROUND_MS 2         /* between two looks for what is left of the tree, */
#define ROUND_LATER_MS 200 /* and after many of them */
#define ROUNDS_QUICK 100
#define NEVER INT64_MAX

enum phase {
    WAITING, /* for the launcher to have recorded this process */
    RUNNING,
    ENDING, /* all that is left is killed */
    OVER,   /* nothing is left; what was said waits to be acknowledged */
    LEAVING,
};

struct rate {
    int64_t since_ms;
    unsigned n;
};

struct keeper {
    char **worker; /* program and arguments */
    const char *work_dir;
    char socket[LINK_PATH_MAX];
    int64_t grace_ms, orphan_ms;
    int64_t deadline_ms, kill_ms, orphan_at_ms, round_at_ms; /* monotonic; NEVER */
    int conn, listen_fd, signal_fd, out_fd, log_fd;
    int blocked; /* the launcher does not keep up */
    enum phase phase;
    pid_t pid; /* of the worker; 0: it ended */
    int status, lost, rounds;
    struct backlog backlog;
    struct line_cutter out_lines, log_lines;
    struct rate out_rate, log_rate;
};

static int64_t monotonic_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- what is said ---------------------------------------------------------------------------- */

static void say(struct keeper *k, const char *line)
{
    backlog_add(&k->backlog, LINK_LIFECYCLE, BYTES_STR(line));
}

static void say_log(struct keeper *k, const char *line)
{
    backlog_add(&k->backlog, LINK_LOG, BYTES_STR(line));
}

static int within(struct rate *rate, int64_t now_ms)
{
    if (now_ms - rate->since_ms >= 1000) {
        *rate = (struct rate){.since_ms = now_ms};
    }
    return rate->n < LINES_PER_S;
}

static void on_out_line(void *arg, struct bytes line)
{
    struct keeper *k = arg;

    k->out_rate.n++;
    backlog_add(&k->backlog, LINK_LIFECYCLE, line);
}

static void on_log_line(void *arg, struct bytes line)
{
    struct keeper *k = arg;

    if (within(&k->log_rate, monotonic_ms())) {
        k->log_rate.n++;
        backlog_add(&k->backlog, LINK_LOG, line);
    } else {
        k->backlog.dropped++;
    }
}

/* Reads once; 0 when there was nothing. A descriptor at its end is closed, and -1. */
static int take(struct keeper *k, int *fd, struct line_cutter *c, line_fn fn)
{
    char some[READ_BYTES];

    ssize_t n = *fd < 0 ? 0 : read(*fd, some, sizeof(some));
    if (n > 0) {
        line_cutter_feed(c, BYTES(some, (size_t)n), fn, k);
        return 1;
    }
    if (*fd >= 0 && (n == 0 || (errno != EAGAIN && errno != EINTR))) {
        close(TAKE_FD(*fd));
    }
    return 0;
}

/* When lifecycle lines may be read again: not while many wait for a launcher, and not too many at
 * once. */
static int64_t lines_due_ms(struct keeper *k, int64_t now_ms)
{
    if (backlog_full(&k->backlog)) {
        return NEVER;
    }
    return within(&k->out_rate, now_ms) ? now_ms : k->out_rate.since_ms + 1000;
}

/* ---- the worker ------------------------------------------------------------------------------ */

static void worker_child(char **argv, const char *work_dir, int out, int log, int report_fd)
{
    char home[4096];
    char *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "LANG=C.UTF-8", home, NULL};
    struct rlimit none = {0, 0}, files = {NOFILE, NOFILE};
    sigset_t empty;

    snprintf(home, sizeof(home), "HOME=%s", work_dir);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigemptyset(&empty);
    sigprocmask(SIG_SETMASK, &empty, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_NOFILE, &files);
    if (dup2(out, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0) {
        execve(argv[0], argv, env);
    }
    int failed = errno;
    ssize_t n = write(report_fd, &failed, sizeof(failed));
    (void)n;
    _exit(127);
}

static int make_pipe(int *ret_read, int *ret_write)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return -1;
    }
    *ret_read = fds[0];
    *ret_write = fds[1];
    return 0;
}

/* Starts the worker and waits until it is another program, or is not: then errno says why. */
static pid_t start_worker(struct keeper *k)
{
    _cleanup_close_ int out = -1, log = -1, report = -1, reported = -1;
    int failed = 0;

    if (make_pipe(&k->out_fd, &out) < 0 || make_pipe(&k->log_fd, &log) < 0 ||
        make_pipe(&reported, &report) < 0) {
        return -1;
    }
    fcntl(k->out_fd, F_SETFL, O_NONBLOCK);
    fcntl(k->log_fd, F_SETFL, O_NONBLOCK);
    pid_t pid = fork();
    if (pid == 0) {
        worker_child(k->worker, k->work_dir, out, log, report);
    }
    if (pid < 0) {
        return -1;
    }
    close(TAKE_FD(report));
    if (read(reported, &failed, sizeof(failed)) == sizeof(failed)) {
        errno = failed;
        return -1;
    }
    return pid;
}

static void start(struct keeper *k)
{
    char line[512];

    if (k->phase != WAITING) {
        return;
    }
    pid_t pid = start_worker(k);
    int failed = errno;
    close(STDIN_FILENO); /* the worker's launch configuration */
    if (pid < 0) {
        snprintf(line, sizeof(line), "{\"failed\":\"cannot run the worker: %s\"}",
                 strerror(failed));
        say(k, line);
        k->status = 1 << 8;
        k->phase = ENDING;
        return;
    }
    k->pid = pid;
    k->phase = RUNNING;
    if (!k->worker[1] || !streq(k->worker[1], VM_VERB)) {
        say(k, "{\"booted\":true}");
    }
}

/* ---- ending it ------------------------------------------------------------------------------- */

static void destroy(struct keeper *k, int64_t now_ms)
{
    if (k->phase == WAITING) {
        k->status = SIGTERM;
        k->phase = ENDING;
    } else if (k->phase == RUNNING && k->kill_ms == NEVER) {
        kill(k->pid, SIGTERM);
        k->kill_ms = now_ms + k->grace_ms;
    }
}

/* 1 when no child is left, dead or alive. */
static int reap(struct keeper *k)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == k->pid) {
            k->status = status;
            k->pid = 0;
            k->phase = k->phase == RUNNING ? ENDING : k->phase;
        }
    }
    return pid < 0 && errno == ECHILD;
}

static int exit_code(const struct keeper *k)
{
    return WIFEXITED(k->status) ? WEXITSTATUS(k->status) : 128 + WTERMSIG(k->status);
}

/* Nothing runs any more. The pipes hold no more than their size. */
static void finish(struct keeper *k)
{
    uint8_t packed[LINK_END_BYTES];
    struct err e;

    while (take(k, &k->out_fd, &k->out_lines, on_out_line)) {
    }
    while (take(k, &k->log_fd, &k->log_lines, on_log_line)) {
    }
    if (remove_tree(k->work_dir, &e) < 0) {
        say_log(k, e.msg);
    }
    uint64_t dropped = k->backlog.dropped + k->out_lines.dropped + k->log_lines.dropped;
    const struct link_end end = {.exit_code = exit_code(k),
                                 .lost = k->lost,
                                 .dropped = dropped > UINT32_MAX ? UINT32_MAX : (uint32_t)dropped};
    link_end_pack(&end, packed);
    backlog_add(&k->backlog, LINK_END, BYTES(packed, sizeof(packed)));
    k->phase = OVER;
}

/* One look for what is left of the tree. A process in a system call that cannot be interrupted
 * makes this go on: as long as it exists, it would be a lie that nothing is left. */
static void end_all(struct keeper *k, int64_t now_ms)
{
    kill_descendants(getpid(), NULL, NULL);
    if (reap(k)) {
        finish(k);
        return;
    }
    k->rounds++;
    k->round_at_ms = now_ms + (k->rounds < ROUNDS_QUICK ? ROUND_MS : ROUND_LATER_MS);
}

static void on_deadline(struct keeper *k, int64_t now_ms)
{
    char line[512];

    k->deadline_ms = NEVER;
    if (k->phase == RUNNING && k->kill_ms == NEVER) {
        snprintf(line, sizeof(line),
                 "{\"refused\":{\"code\":\"%s\",\"clause\":\"deadline\",\"expected\":\"the CVM's "
                 "end before its deadline\",\"actual\":\"still there at it\",\"message\":\"the CVM "
                 "was still there at its deadline\",\"by\":\"%s\"}}",
                 err_code_name(ERR_TIMEOUT), service_name(SVC_LAUNCHER));
        say(k, line);
    }
    destroy(k, now_ms);
}

static void on_time(struct keeper *k, int64_t now_ms)
{
    if (now_ms >= k->deadline_ms) {
        on_deadline(k, now_ms);
    }
    if (k->conn < 0 && now_ms >= k->orphan_at_ms) {
        if (k->phase == OVER || k->phase == WAITING) {
            k->phase = k->phase == OVER ? LEAVING : ENDING;
        } else if (k->phase == RUNNING && k->kill_ms == NEVER) {
            k->lost = 1;
            destroy(k, now_ms);
        }
    }
    if (k->phase == RUNNING && now_ms >= k->kill_ms) {
        k->phase = ENDING;
    }
    if (k->phase == ENDING && now_ms >= k->round_at_ms) {
        end_all(k, now_ms);
    }
    if (k->phase == OVER && !k->backlog.first) {
        k->phase = LEAVING;
    }
}

static void on_signals(struct keeper *k, int64_t now_ms)
{
    struct signalfd_siginfo info;

    while (read(k->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        switch (info.ssi_signo) {
        case KEEPER_SIGNAL_FORGET:
            k->orphan_ms = 0;
            k->orphan_at_ms = k->conn < 0 ? now_ms : k->orphan_at_ms;
            destroy(k, now_ms);
            break;
        case SIGTERM:
            destroy(k, now_ms);
            break;
        default: /* SIGCHLD */
            break;
        }
    }
    reap(k);
}

/* ---- the launcher ---------------------------------------------------------------------------- */

static void hang_up(struct keeper *k, int64_t now_ms)
{
    close(TAKE_FD(k->conn));
    k->blocked = 0;
    /* Before it was recorded, it is nobody's. */
    k->orphan_at_ms = k->phase == WAITING ? now_ms : now_ms + k->orphan_ms;
}

static void from_launcher(struct keeper *k, int64_t now_ms)
{
    uint8_t buf[LINK_PACKET_MAX];
    struct link_msg m;
    int rc;

    while (k->conn >= 0 && (rc = link_recv(k->conn, buf, &m)) != 0) {
        if (rc < 0) {
            hang_up(k, now_ms);
        } else if (m.kind == LINK_GO) {
            start(k);
        } else if (m.kind == LINK_ACK) {
            backlog_ack(&k->backlog, m.seq);
        }
    }
}

static void greet(struct keeper *k)
{
    k->orphan_at_ms = NEVER;
    backlog_rewind(&k->backlog);
    /* If it is gone again, that is read after what it said before. */
    (void)link_send(k->conn, LINK_HELLO, LINK_VERSION, BYTES(NULL, 0));
}

/* One at a time: the last one to come, because a dead one's descriptors may live a little longer
 * than itself. Who may connect could as well kill this process. */
static void accept_launcher(struct keeper *k, int64_t now_ms)
{
    int fd = k->listen_fd < 0 ? -1 : link_accept(k->listen_fd);

    if (fd >= 0 && k->phase == WAITING) {
        close(fd); /* nobody else knows of it yet */
    } else if (fd >= 0) {
        if (k->conn >= 0) {
            hang_up(k, now_ms);
        }
        k->conn = fd;
        greet(k);
    }
}

static void to_launcher(struct keeper *k, int64_t now_ms)
{
    struct record *r;

    k->blocked = 0;
    while (k->conn >= 0 && (r = k->backlog.unsent)) {
        int rc = link_send(k->conn, r->kind, r->seq, BYTES(r->data, r->n));
        if (rc < 0) {
            hang_up(k, now_ms);
        }
        if (rc != 0) {
            k->blocked = rc > 0;
            return;
        }
        k->backlog.unsent = r->next;
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static int64_t earliest(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t due_ms(const struct keeper *k)
{
    int64_t alone = k->conn < 0 ? k->orphan_at_ms : NEVER;

    switch (k->phase) {
    case WAITING:
    case OVER:
        return earliest(k->deadline_ms, alone);
    case RUNNING:
        return earliest(k->deadline_ms, k->kill_ms == NEVER ? alone : k->kill_ms);
    case ENDING:
        return k->round_at_ms;
    case LEAVING:
        break;
    }
    return 0;
}

static void turn(struct keeper *k)
{
    int64_t now = monotonic_ms(), lines = lines_due_ms(k, now);
    /* A negative descriptor is left out. */
    struct pollfd v[] = {
        {.fd = k->signal_fd, .events = POLLIN},
        {.fd = k->listen_fd, .events = POLLIN},
        {.fd = k->conn, .events = (short)(POLLIN | (k->blocked ? POLLOUT : 0))},
        {.fd = lines <= now ? k->out_fd : -1, .events = POLLIN},
        {.fd = k->log_fd, .events = POLLIN},
    };
    int64_t at = earliest(due_ms(k), lines > now && k->out_fd >= 0 ? lines : NEVER);
    int64_t wait = at - now;

    poll(v, ARRAY_LEN(v), wait < 0 ? 0 : wait > 60000 ? 60000 : (int)wait);
    now = monotonic_ms();
    from_launcher(k, now);
    accept_launcher(k, now);
    if (v[3].revents) {
        take(k, &k->out_fd, &k->out_lines, on_out_line);
    }
    if (v[4].revents) {
        take(k, &k->log_fd, &k->log_lines, on_log_line);
    }
    on_signals(k, now);
    on_time(k, now);
    to_launcher(k, now);
}

/* Signals are read like everything else. */
static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, KEEPER_SIGNAL_FORGET);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* From Unix time, once: setting the clock is no way to end a CVM, or to keep one. */
static int64_t deadline_of(int64_t unix_ms)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return unix_ms <= 0
               ? NEVER
               : monotonic_ms() + unix_ms - ((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000);
}

/* The launcher's end is standard output, which is then nothing. */
static int open_link(struct keeper *k, struct err *e)
{
    k->conn = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (k->conn < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        return err_errno(e, "standard output");
    }
    k->signal_fd = open_signals();
    if (k->signal_fd < 0) {
        return err_errno(e, "signalfd");
    }
    link_path(k->work_dir, k->socket);
    return link_listen(k->socket, &k->listen_fd, e);
}

int keeper_main(int argc, char **argv)
{
    struct keeper k = {.phase = WAITING,
                       .deadline_ms = NEVER,
                       .kill_ms = NEVER,
                       .orphan_at_ms = NEVER,
                       .conn = -1,
                       .listen_fd = -1,
                       .signal_fd = -1,
                       .out_fd = -1,
                       .log_fd = -1,
                       .status = 1 << 8,
                       .out_lines = LINE_CUTTER_INIT(LIFECYCLE_LINE_MAX),
                       .log_lines = LINE_CUTTER_INIT(LOG_LINE_MAX)};
    struct err e = {0};

    if (argc < 7) {
        fprintf(stderr, "%s is started by svc-launcher only\n", KEEPER_VERB);
        return 2;
    }
    k.grace_ms = strtoll(argv[2], NULL, 10);
    k.orphan_ms = strtoll(argv[3], NULL, 10);
    k.deadline_ms = deadline_of(strtoll(argv[4], NULL, 10));
    k.work_dir = argv[5];
    k.worker = argv + 6;
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (open_link(&k, &e) < 0) {
        say_log(&k, e.msg);
        k.phase = ENDING;
    }
    if (k.conn >= 0) {
        greet(&k);
    } else {
        k.orphan_at_ms = 0;
    }
    while (k.phase != LEAVING) {
        turn(&k);
    }
    unlink(k.socket);
    backlog_done(&k.backlog);
    buf_done(&k.out_lines.buf);
    buf_done(&k.log_lines.buf);
    return exit_code(&k);
}
