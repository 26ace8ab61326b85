#include "svc-launcher/link.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- packets --------------------------------------------------------------------------------- */

int link_parse(struct bytes packet, struct link_msg *ret, struct err *e)
{
    if (packet.n < LINK_HEAD_BYTES || packet.n > LINK_PACKET_MAX) {
        return err_refuse(e, ERR_INVALID, "link", "9 to 16393 bytes", "%zu", packet.n);
    }
    switch (packet.p[0]) {
    case LINK_HELLO:
    case LINK_LIFECYCLE:
    case LINK_LOG:
    case LINK_END:
    case LINK_GO:
    case LINK_ACK:
        ret->kind = (enum link_kind)packet.p[0];
        break;
    default:
        return err_refuse(e, ERR_INVALID, "link", "a kind of message", "%u", packet.p[0]);
    }
    ret->seq = 0;
    for (size_t i = 1; i < LINK_HEAD_BYTES; i++) {
        ret->seq = ret->seq << 8 | packet.p[i];
    }
    ret->data = BYTES(packet.p + LINK_HEAD_BYTES, packet.n - LINK_HEAD_BYTES);
    return 0;
}

int link_send(int fd, enum link_kind kind, uint64_t seq, struct bytes data)
{
    uint8_t head[LINK_HEAD_BYTES] = {(uint8_t)kind};
    struct iovec v[] = {{.iov_base = head, .iov_len = sizeof(head)},
                        {.iov_base = (void *)(uintptr_t)data.p, .iov_len = data.n}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = data.n ? 2 : 1};

    for (size_t i = 1; i < LINK_HEAD_BYTES; i++) {
        head[i] = (uint8_t)(seq >> (64 - 8 * i));
    }
    if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
        return 0;
    }
    return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 1 : -1;
}

int link_recv(int fd, uint8_t buf[LINK_PACKET_MAX], struct link_msg *ret)
{
    ssize_t n = recv(fd, buf, LINK_PACKET_MAX, MSG_DONTWAIT | MSG_TRUNC);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    return n > 0 && link_parse(BYTES(buf, (size_t)n), ret, NULL) == 0 ? 1 : -1;
}

void link_end_pack(const struct link_end *end, uint8_t out[LINK_END_BYTES])
{
    out[0] = (uint8_t)end->exit_code;
    out[1] = end->lost != 0;
    for (size_t i = 0; i < 4; i++) {
        out[2 + i] = (uint8_t)(end->dropped >> (24 - 8 * i));
    }
}

int link_end_parse(struct bytes in, struct link_end *ret, struct err *e)
{
    if (in.n != LINK_END_BYTES || in.p[1] > 1) {
        return err_refuse(e, ERR_INVALID, "link", "6 bytes of an end", "%zu", in.n);
    }
    *ret = (struct link_end){.exit_code = in.p[0], .lost = in.p[1]};
    for (size_t i = 0; i < 4; i++) {
        ret->dropped = ret->dropped << 8 | in.p[2 + i];
    }
    return 0;
}

/* ---- sockets --------------------------------------------------------------------------------- */

void link_path(const char *work_dir, char out[LINK_PATH_MAX])
{
    snprintf(out, LINK_PATH_MAX, "%.1200s.sock", work_dir);
}

/* By way of an open directory, because an address has room for 107 bytes only. The directory is the
 * caller's to close, once the address was used. */
static int address(const char *path, struct sockaddr_un *ret, int *ret_dir, struct err *e)
{
    const char *name = strrchr(path, '/');
    _cleanup_free_ char *dir = name ? xstrndup(path, (size_t)(name - path)) : xstrdup(".");
    _cleanup_close_ int fd = open(dir[0] ? dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return err_errno(e, "%s", dir);
    }
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", fd,
                     name ? name + 1 : path);
    if (n < 0 || (size_t)n >= sizeof(ret->sun_path)) {
        return err_set(e, ERR_TOO_LARGE, "the name of %s is too long for a socket", path);
    }
    *ret_dir = TAKE_FD(fd);
    return 0;
}

int link_listen(const char *path, int *ret_fd, struct err *e)
{
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    _cleanup_close_ int dir = -1;
    struct sockaddr_un a;

    if (fd < 0) {
        return err_errno(e, "socket");
    }
    if (address(path, &a, &dir, e) < 0) {
        return -1;
    }
    mode_t old = umask(0177);
    int rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
    umask(old);
    if (rc < 0 || listen(fd, 4) < 0) {
        return err_errno(e, "%s", path);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int peer_of(int fd, struct ucred *ret)
{
    socklen_t n = sizeof(*ret);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &n);
}

int link_accept(int listen_fd)
{
    _cleanup_close_ int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred peer;

    if (fd < 0 || peer_of(fd, &peer) < 0 || peer.uid != geteuid()) {
        return -1;
    }
    return TAKE_FD(fd);
}

int link_connect(const char *path, pid_t keeper, int *ret_fd, struct err *e)
{
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    _cleanup_close_ int dir = -1;
    struct sockaddr_un a;
    struct ucred peer;

    if (fd < 0) {
        return err_errno(e, "socket");
    }
    if (address(path, &a, &dir, e) < 0) {
        return -1;
    }
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
        int gone = errno == ENOENT || errno == ECONNREFUSED;
        err_errno(e, "%s", path);
        return gone ? err_set(e, ERR_NOT_FOUND, "nobody listens on %s", path) : -1;
    }
    /* Of the process that listens: no other can have put its socket there instead. */
    if (peer_of(fd, &peer) < 0 || peer.uid != geteuid() || peer.pid != keeper) {
        return err_refuse(e, ERR_DENIED, path, "the recorded keeper", "pid %d of uid %u",
                          (int)peer.pid, peer.uid);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- what is not acknowledged yet ------------------------------------------------------------ */

static size_t *bytes_of(struct backlog *b, const struct record *r)
{
    return r->kind == LINK_LOG ? &b->log_bytes : &b->bytes;
}

/* `at` points to the link that names it; `before` is the record before it, or NULL. */
static void forget(struct backlog *b, struct record **at, struct record *before)
{
    struct record *r = *at;

    *at = r->next;
    if (b->last == r) {
        b->last = before;
    }
    if (b->unsent == r) {
        b->unsent = r->next;
    }
    *bytes_of(b, r) -= r->n;
    b->lines -= r->kind != LINK_LOG;
    free(r);
}

static void forget_a_log(struct backlog *b)
{
    struct record **at = &b->first, *before = NULL;

    while (*at && (*at)->kind != LINK_LOG) {
        before = *at;
        at = &before->next;
    }
    if (*at) {
        forget(b, at, before);
        b->dropped++;
    }
}

void backlog_add(struct backlog *b, enum link_kind kind, struct bytes data)
{
    struct record *r = xmalloc(sizeof(*r) + data.n);

    *r = (struct record){.kind = kind, .seq = ++b->seq, .n = data.n};
    if (data.n) {
        memcpy(r->data, data.p, data.n);
    }
    while (kind == LINK_LOG && b->log_bytes > 0 && b->log_bytes + data.n > BACKLOG_LOG_BYTES) {
        forget_a_log(b);
    }
    if (b->last) {
        b->last->next = r;
    } else {
        b->first = r;
    }
    b->last = r;
    b->unsent = b->unsent ? b->unsent : r;
    *bytes_of(b, r) += r->n;
    b->lines += kind != LINK_LOG;
}

int backlog_full(const struct backlog *b)
{
    return b->lines >= BACKLOG_LINES || b->bytes >= BACKLOG_BYTES;
}

void backlog_ack(struct backlog *b, uint64_t seq)
{
    while (b->first && b->first->seq <= seq) {
        forget(b, &b->first, NULL);
    }
}

void backlog_rewind(struct backlog *b)
{
    b->unsent = b->first;
}

void backlog_done(struct backlog *b)
{
    backlog_ack(b, UINT64_MAX);
}
