/* Between the worker's connection to nats-server and the bus port.
 *
 * The port is open as long as there is a connection: the host sees it open, connects to
 * nats-server, and closes its end when that connection ends. So the two ends live and die as one,
 * and after each there is a pause in which both sides see it. Before the host has connected, the
 * port looks the same as after it hung up; `seen` tells them apart. */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "svc-worker/init.h"

#define PUMP_BYTES 65536u
#define PEER_WAIT_MS 20
#define DRAIN_MS 1000
/* What a sanitizer asks the kernel for in order to report would be its end. */
#ifdef COFFER_SANITIZED
#define FILTERED 0
#else
#define FILTERED 1
#endif

/* One direction. */
struct pump {
    uint8_t data[PUMP_BYTES];
    size_t at, n;
};

struct session {
    int client, port;
    int seen; /* the host is, or was, at the other end of the port */
    int client_ended, port_ended;
    int64_t drain_until_ms; /* once one of them has ended */
    struct pump *out, *in;  /* to the port, and from it */
};

/* ---- bytes ----------------------------------------------------------------------------------- */

/* 0 something or nothing came, -1 that end is over. */
static int fill(struct pump *p, int fd)
{
    if (p->at && p->at + p->n == PUMP_BYTES) {
        memmove(p->data, p->data + p->at, p->n);
        p->at = 0;
    }
    size_t room = PUMP_BYTES - p->at - p->n;
    if (!room) {
        return 0;
    }
    ssize_t n = read(fd, p->data + p->at + p->n, room);
    if (n > 0) {
        p->n += (size_t)n;
        return 0;
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static int empty(struct pump *p, int fd)
{
    while (p->n) {
        ssize_t n = write(fd, p->data + p->at, p->n);
        if (n <= 0) {
            return n == 0 || errno == EAGAIN || errno == EINTR ? 0 : -1;
        }
        p->at += (size_t)n;
        p->n -= (size_t)n;
    }
    p->at = 0;
    return 0;
}

static short events(const struct pump *from, int ended, const struct pump *to)
{
    return (short)((!ended && from->n < PUMP_BYTES ? POLLIN : 0) | (to->n ? POLLOUT : 0));
}

/* ---- one connection -------------------------------------------------------------------------- */

static void ended(int *which, struct session *s)
{
    if (!*which) {
        *which = 1;
        s->drain_until_ms = init_now_ms() + DRAIN_MS;
    }
}

static void on_port(struct session *s, short revents)
{
    if (revents & POLLIN) {
        if (fill(s->in, s->port) < 0) {
            ended(&s->port_ended, s);
        }
    } else if ((revents & (POLLHUP | POLLERR)) && s->in->n < PUMP_BYTES) {
        ended(&s->port_ended, s); /* and nothing is left to be read */
    }
    if (!s->port_ended && empty(s->out, s->port) < 0) {
        ended(&s->port_ended, s);
    }
}

static void on_client(struct session *s, short revents)
{
    if ((revents & (POLLIN | POLLHUP | POLLERR)) && s->out->n < PUMP_BYTES &&
        fill(s->out, s->client) < 0) {
        ended(&s->client_ended, s);
    }
    if (!s->client_ended && empty(s->in, s->client) < 0) {
        ended(&s->client_ended, s);
    }
}

/* What came before an end still goes to the other one. */
static int over(const struct session *s)
{
    if (!s->client_ended && !s->port_ended) {
        return 0;
    }
    if ((s->client_ended && s->port_ended) || init_now_ms() >= s->drain_until_ms) {
        return 1;
    }
    return s->port_ended ? !s->in->n : !s->out->n || !s->seen;
}

/* Whether poll(2) would return at once, for ever, whatever it is asked for. */
static int hung_up(int fd)
{
    struct pollfd f = {.fd = fd};

    return poll(&f, 1, 0) > 0;
}

/* -1 for a descriptor that is not to be polled now. */
static int client_fd(const struct session *s)
{
    int full = s->out->n == PUMP_BYTES;

    return s->client_ended || (full && hung_up(s->client)) ? -1 : s->client;
}

static int port_fd(const struct session *s)
{
    int full = s->in->n == PUMP_BYTES;

    return s->port_ended || ((!s->seen || full) && hung_up(s->port)) ? -1 : s->port;
}

/* A port that has bytes has, or had, somebody at its other end, though poll(2) says it hung up. */
static void look_for_peer(struct session *s)
{
    size_t had = s->in->n;

    if (!hung_up(s->port)) {
        s->seen = 1;
    } else {
        fill(s->in, s->port);
        s->seen = s->in->n > had;
    }
}

static int session_turn(struct session *s, int listen_fd, struct err *e)
{
    struct pollfd f[3] = {
        {.fd = listen_fd, .events = POLLIN},
        {.fd = client_fd(s), .events = events(s->out, s->client_ended, s->in)},
        {.fd = port_fd(s), .events = events(s->in, s->port_ended, s->out)},
    };
    int soon = f[1].fd < 0 || f[2].fd < 0 || s->client_ended || s->port_ended;

    if (poll(f, 3, soon ? PEER_WAIT_MS : -1) < 0) {
        return errno == EINTR ? 0 : err_errno(e, "relay: poll");
    }
    if (!s->seen) {
        look_for_peer(s);
    }
    if (s->seen && !s->port_ended) {
        on_port(s, f[2].fd < 0 ? 0 : f[2].revents);
    }
    if (!s->client_ended) {
        on_client(s, f[1].fd < 0 ? 0 : f[1].revents);
    }
    return f[0].revents ? 1 : 0;
}

static int accept_client(int listen_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int one = 1;

    if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return fd;
}

/* Until one of its ends is over, or a newer client is here: *ret_next, or -1. */
static int session_run(const struct init_relay *r, int client, int port, struct pump pumps[2],
                       int *ret_next, struct err *e)
{
    struct session s = {.client = client, .port = port, .out = &pumps[0], .in = &pumps[1]};

    pumps[0].at = pumps[0].n = pumps[1].at = pumps[1].n = 0;
    *ret_next = -1;
    while (!over(&s)) {
        int turn = session_turn(&s, r->listen_fd, e);
        if (turn < 0) {
            return -1;
        }
        *ret_next = turn ? accept_client(r->listen_fd) : -1;
        if (*ret_next >= 0) {
            break;
        }
    }
    return 0;
}

/* ---- the relay ------------------------------------------------------------------------------- */

static int wait_client(int listen_fd, int *ret, struct err *e)
{
    for (;;) {
        struct pollfd f = {.fd = listen_fd, .events = POLLIN};
        if (poll(&f, 1, -1) < 0 && errno != EINTR) {
            return err_errno(e, "relay: poll");
        }
        *ret = accept_client(listen_fd);
        if (*ret >= 0) {
            return 0;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            return err_errno(e, "relay: accept");
        }
    }
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000},
              NULL);
}

int init_relay_run(const struct init_relay *r, struct err *e)
{
    static struct pump pumps[2]; /* too large for a stack */
    int next = -1;

    for (unsigned i = 0; !r->sessions || i < r->sessions; i++) {
        _cleanup_close_ int client = TAKE_FD(next);
        if (client < 0 && wait_client(r->listen_fd, &client, e)) {
            return -1;
        }
        _cleanup_close_ int port = r->open_port(r->arg, e);
        if (port < 0 || session_run(r, client, port, pumps, &next, e)) {
            return -1;
        }
        closep(&port);
        port = -1;
        closep(&client);
        client = -1;
        pause_ms(r->pause_ms);
    }
    closep(&next);
    return 0;
}

/* ---- confinement ----------------------------------------------------------------------------- */

static int allow_only(const int *calls, size_t n)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc = ctx ? 0 : -1;

    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
    }
    if (rc == 0) {
        rc = seccomp_load(ctx);
    }
    seccomp_release(ctx);
    return rc;
}

int init_relay_confine(uint32_t uid, struct err *e)
{
    static const int calls[] = {
        SCMP_SYS(read),          SCMP_SYS(write),
        SCMP_SYS(poll),          SCMP_SYS(ppoll),
        SCMP_SYS(accept4),       SCMP_SYS(openat),
        SCMP_SYS(close),         SCMP_SYS(setsockopt),
        SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
        SCMP_SYS(nanosleep),     SCMP_SYS(exit_group),
        SCMP_SYS(rt_sigreturn),  SCMP_SYS(restart_syscall),
        SCMP_SYS(brk),           SCMP_SYS(munmap),
        SCMP_SYS(futex),
    };
    const struct rlimit files = {16, 16}, none = {0, 0};

    if (prctl(PR_SET_DUMPABLE, 0) || setrlimit(RLIMIT_NOFILE, &files) ||
        setrlimit(RLIMIT_FSIZE, &none) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid) ||
        setrlimit(RLIMIT_NPROC, &none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
        return err_errno(e, "relay: cannot give up its rights");
    }
    if (FILTERED && allow_only(calls, ARRAY_LEN(calls))) {
        return err_set(e, ERR_IO, "relay: cannot filter its system calls");
    }
    return 0;
}
