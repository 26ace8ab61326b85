#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include "svc-launcher/vm.h"

/* Carries the guest's one connection to nats-server. Where that is was fixed before the guest ran:
 * the guest can open its port, close it, and send bytes. TLS is between the worker and nats-server;
 * here are only bytes.
 *
 * One opening of the port is one connection. When the server ends it, what it sent still goes to
 * the guest, then the socket of the port is closed, which the guest reads as an end; and only when
 * the guest has closed its port and opened it anew there is another connection. So no byte of one
 * connection ever is in another. */

#define READ_BYTES 65536u

/* ---- where to ------------------------------------------------------------------------------ */

static int bad_url(const char *url, struct err *e)
{
    return err_refuse(e, ERR_INVALID, "nats_url", "tls:// or nats://, a host, and perhaps a port",
                      "%.80s", url);
}

static int parse_url(struct bridge *b, const char *url, struct err *e)
{
    size_t skip = strncmp(url, "tls://", 6) == 0 ? 6 : strncmp(url, "nats://", 7) == 0 ? 7 : 0;
    const char *host = url + skip, *end, *port = NULL;

    if (!skip) {
        return bad_url(url, e);
    }
    if (*host == '[') {
        end = strchr(++host, ']');
        if (!end || (end[1] && end[1] != ':')) {
            return bad_url(url, e);
        }
        port = end[1] ? end + 2 : NULL;
    } else {
        end = strchrnul(host, ':');
        port = *end ? end + 1 : NULL;
    }
    size_t n = (size_t)(end - host), digits = port ? strspn(port, "0123456789") : 0;
    if (n == 0 || n >= sizeof(b->host) || memchr(host, '/', n) || memchr(host, '@', n) ||
        (port && (digits == 0 || digits > 5 || port[digits]))) {
        return bad_url(url, e);
    }
    memcpy(b->host, host, n);
    b->host[n] = '\0';
    snprintf(b->port, sizeof(b->port), "%.5s", port ? port : "4222");
    return 0;
}

static int resolve(struct bridge *b, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;

    int rc = getaddrinfo(b->host, b->port, &hints, &list);
    if (rc != 0) {
        return err_set(e, ERR_NOT_FOUND, "nats-server's host %.100s: %s", b->host,
                       gai_strerror(rc));
    }
    for (const struct addrinfo *a = list; a && b->n_addresses < BRIDGE_ADDRESSES_MAX;
         a = a->ai_next) {
        if (a->ai_addrlen <= sizeof(b->addresses[0])) {
            memcpy(&b->addresses[b->n_addresses], a->ai_addr, a->ai_addrlen);
            b->lengths[b->n_addresses++] = a->ai_addrlen;
        }
    }
    freeaddrinfo(list);
    return b->n_addresses
               ? 0
               : err_set(e, ERR_NOT_FOUND, "nats-server's host %.100s has no address", b->host);
}

int bridge_init(struct bridge *b, const char *url, int dir_fd, const char *socket_name,
                struct err *e)
{
    *b = (struct bridge){.dir_fd = dir_fd, .socket_name = socket_name, .net_fd = -1, .port_fd = -1};
    if (parse_url(b, url, e) < 0 || resolve(b, e) < 0) {
        return -1;
    }
    b->up.p = xmalloc(BRIDGE_BUF_BYTES);
    b->down.p = xmalloc(BRIDGE_BUF_BYTES);
    return 0;
}

static void hang_up(struct bridge *b)
{
    if (b->net_fd >= 0) {
        close(b->net_fd);
    }
    if (b->port_fd >= 0) {
        close(b->port_fd);
    }
    b->net_fd = b->port_fd = -1;
    b->up.at = b->up.n = b->down.at = b->down.n = 0;
    b->state = BRIDGE_CLOSED;
}

void bridge_done(struct bridge *b)
{
    if (b->up.p) {
        hang_up(b);
    }
    free(b->up.p);
    free(b->down.p);
    b->up.p = b->down.p = NULL;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void again_later(struct bridge *b, int64_t now_ms)
{
    hang_up(b);
    b->state = BRIDGE_PAUSE;
    b->at_ms = now_ms + VM_BUS_PAUSE_MS;
}

static int open_port(struct bridge *b)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    /* Through the directory's descriptor: the path may be longer than an address can be. */
    int n =
        snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", b->dir_fd, b->socket_name);
    b->port_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (n < 0 || (size_t)n >= sizeof(a.sun_path) || b->port_fd < 0 ||
        connect(b->port_fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
        return err_errno(&b->last, "the bus port");
    }
    return 0;
}

static void connected(struct bridge *b, int64_t now_ms)
{
    if (open_port(b) < 0) {
        again_later(b, now_ms);
        return;
    }
    b->state = BRIDGE_OPEN;
    b->sessions++;
    err_clear(&b->last);
}

static void connect_next(struct bridge *b, int64_t now_ms)
{
    size_t i = b->next_address++ % b->n_addresses;
    int one = 1;

    b->net_fd = socket(b->addresses[i].ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (b->net_fd >= 0) {
        setsockopt(b->net_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    if (b->net_fd < 0 ||
        connect(b->net_fd, (const struct sockaddr *)&b->addresses[i], b->lengths[i]) < 0) {
        if (b->net_fd < 0 || errno != EINPROGRESS) {
            err_errno(&b->last, "connecting to %s port %s", b->host, b->port);
            again_later(b, now_ms);
            return;
        }
    }
    b->state = BRIDGE_CONNECT;
    b->at_ms = now_ms + BRIDGE_CONNECT_MS;
}

static void connect_turn(struct bridge *b, const struct pollfd *v, size_t n, int64_t now_ms)
{
    int failed = 0;
    socklen_t size = sizeof(failed);

    if (n > 0 && v[0].fd == b->net_fd && v[0].revents) {
        if (getsockopt(b->net_fd, SOL_SOCKET, SO_ERROR, &failed, &size) < 0) {
            failed = errno;
        }
        if (failed == 0) {
            connected(b, now_ms);
            return;
        }
        errno = failed;
    } else if (now_ms < b->at_ms) {
        return;
    } else {
        errno = ETIMEDOUT;
    }
    err_errno(&b->last, "connecting to %s port %s", b->host, b->port);
    again_later(b, now_ms);
}

void bridge_guest(struct bridge *b, int open, int64_t now_ms)
{
    hang_up(b); /* an opening after no closing is a new one all the same */
    if (open) {
        connect_next(b, now_ms);
    }
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static size_t room(const struct bridge_pipe *p)
{
    return BRIDGE_BUF_BYTES - p->n;
}

/* 0 something or nothing came, -1 that end is over. */
static int fill(struct bridge_pipe *p, int fd)
{
    if (p->at) {
        memmove(p->p, p->p + p->at, p->n);
        p->at = 0;
    }
    size_t max = room(p) < READ_BYTES ? room(p) : READ_BYTES;
    ssize_t n = max ? recv(fd, p->p + p->n, max, MSG_DONTWAIT) : -1;
    if (n > 0) {
        p->n += (size_t)n;
        return 0;
    }
    return !max || (n < 0 && (errno == EAGAIN || errno == EINTR)) ? 0 : -1;
}

static int empty(struct bridge_pipe *p, int fd)
{
    ssize_t n = p->n ? send(fd, p->p + p->at, p->n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    }
    p->at += (size_t)n;
    p->n -= (size_t)n;
    return 0;
}

static short revents_of(const struct pollfd *v, size_t n, int fd)
{
    for (size_t i = 0; i < n; i++) {
        if (v[i].fd == fd) {
            return v[i].revents;
        }
    }
    return 0;
}

static void server_ended(struct bridge *b, int64_t now_ms)
{
    close(b->net_fd);
    b->net_fd = -1;
    b->state = BRIDGE_DRAIN;
    b->at_ms = now_ms + BRIDGE_DRAIN_MS;
}

static void open_turn(struct bridge *b, const struct pollfd *v, size_t n, int64_t now_ms)
{
    short net = revents_of(v, n, b->net_fd), port = revents_of(v, n, b->port_fd);

    if (port && fill(&b->up, b->port_fd) < 0) {
        hang_up(b);
        return;
    }
    if (net && fill(&b->down, b->net_fd) < 0) {
        server_ended(b, now_ms);
        return;
    }
    if (empty(&b->up, b->net_fd) < 0) {
        server_ended(b, now_ms);
        return;
    }
    if (empty(&b->down, b->port_fd) < 0) {
        hang_up(b);
    }
}

static void drain_turn(struct bridge *b, int64_t now_ms)
{
    if (empty(&b->down, b->port_fd) < 0 || b->down.n == 0 || now_ms >= b->at_ms) {
        hang_up(b);
    }
}

size_t bridge_poll(const struct bridge *b, struct pollfd v[2])
{
    size_t n = 0;

    switch (b->state) {
    case BRIDGE_CLOSED:
    case BRIDGE_PAUSE:
        return 0;
    case BRIDGE_CONNECT:
        v[n++] = (struct pollfd){.fd = b->net_fd, .events = POLLOUT};
        return n;
    case BRIDGE_OPEN:
        /* A full buffer stops the reading from one end; an end that is not read must not be polled
         * for hanging up either, or the loop would spin. */
        if (room(&b->down) || b->up.n) {
            v[n++] = (struct pollfd){
                .fd = b->net_fd,
                .events = (short)((room(&b->down) ? POLLIN : 0) | (b->up.n ? POLLOUT : 0))};
        }
        if (room(&b->up) || b->down.n) {
            v[n++] = (struct pollfd){
                .fd = b->port_fd,
                .events = (short)((room(&b->up) ? POLLIN : 0) | (b->down.n ? POLLOUT : 0))};
        }
        return n;
    case BRIDGE_DRAIN:
        v[n++] = (struct pollfd){.fd = b->port_fd, .events = POLLOUT};
        return n;
    }
    return n;
}

int64_t bridge_due_ms(const struct bridge *b)
{
    return b->state == BRIDGE_CLOSED || b->state == BRIDGE_OPEN ? INT64_MAX : b->at_ms;
}

void bridge_turn(struct bridge *b, const struct pollfd *v, size_t n, int64_t now_ms)
{
    switch (b->state) {
    case BRIDGE_CLOSED:
        return;
    case BRIDGE_PAUSE:
        if (now_ms >= b->at_ms) {
            connect_next(b, now_ms);
        }
        return;
    case BRIDGE_CONNECT:
        connect_turn(b, v, n, now_ms);
        return;
    case BRIDGE_OPEN:
        open_turn(b, v, n, now_ms);
        return;
    case BRIDGE_DRAIN:
        drain_turn(b, now_ms);
        return;
    }
}
