/* The LaunchConfig as it comes through the port. The host wrote it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <time.h>

#include "common/vm.h"
#include "svc-worker/init.h"
#include "svc-worker/worker.h"

#define NATS_PORT 4222
#define HOST_MAX 253 /* of a domain name, RFC 1035 §2.3.4 */
#define HUNG_UP_WAIT_MS 20

/* ---- the frame ------------------------------------------------------------------------------- */

static int timed_out(size_t got, size_t want, int timeout_ms, struct err *e)
{
    return err_set(e, ERR_TIMEOUT, "no launch configuration within %d ms (%zu of %zu bytes came)",
                   timeout_ms, got, want);
}

/* Some of what is there: 0 when nothing is, for now. */
static ssize_t read_some(int fd, uint8_t *p, size_t n, int64_t end_ms, struct err *e)
{
    int64_t left = end_ms - init_now_ms();
    struct pollfd f = {.fd = fd, .events = POLLIN};

    if (left > 0 && poll(&f, 1, (int)left) < 0 && errno != EINTR) {
        return err_errno(e, "launch configuration: poll");
    }
    ssize_t got = read(fd, p, n);
    if (got < 0 && errno != EAGAIN && errno != EINTR) {
        return err_errno(e, "launch configuration");
    }
    if (got == 0) {
        /* Nobody is at the other end, and poll(2) says so at once. */
        nanosleep(&(struct timespec){.tv_nsec = HUNG_UP_WAIT_MS * 1000000}, NULL);
    }
    return got > 0 ? got : 0;
}

static int read_all(int fd, uint8_t *p, size_t n, int timeout_ms, int64_t end_ms, struct err *e)
{
    for (size_t at = 0; at < n;) {
        ssize_t got = read_some(fd, p + at, n - at, end_ms, e);
        if (got < 0) {
            return -1;
        }
        at += (size_t)got;
        if (at < n && init_now_ms() >= end_ms) {
            return timed_out(at, n, timeout_ms, e);
        }
    }
    return 0;
}

int init_launch_read(int fd, int timeout_ms, struct buf *ret, struct err *e)
{
    int64_t end_ms = init_now_ms() + timeout_ms;
    uint8_t head[4] = {0};

    if (read_all(fd, head, sizeof(head), timeout_ms, end_ms, e)) {
        return -1;
    }
    uint32_t n = (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 |
                 (uint32_t)head[3];
    if (n == 0) {
        return err_refuse(e, ERR_INVALID, "launch", "a LaunchConfig", "0 bytes");
    }
    if (n > VM_LAUNCH_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "launch", "at most 262144 bytes", "%u", n);
    }
    if (buf_reserve(ret, n, e) || read_all(fd, ret->p + ret->n, n, timeout_ms, end_ms, e)) {
        return -1;
    }
    ret->n += n;
    return 0;
}

/* ---- nats_url -------------------------------------------------------------------------------- */

static int bad_url(const char *url, struct err *e)
{
    return err_refuse(e, ERR_INVALID, "launch.nats_url",
                      "tls://, a host name or address, and perhaps a port", "%.80s", url);
}

static int parse_port(const char *s, uint16_t *ret)
{
    uint32_t port = 0;

    for (const char *p = s; *p; p++) {
        if (*p < '0' || *p > '9' || p - s >= 5) {
            return -1;
        }
        port = port * 10 + (uint32_t)(*p - '0');
    }
    if (!port || port > 65535) {
        return -1;
    }
    *ret = (uint16_t)port;
    return 0;
}

static int is_name(const char *s)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";

    return s[0] && s[0] != '-' && s[0] != '.' && s[strspn(s, allowed)] == 0;
}

static int set_address(struct init_bus *b, int in_brackets)
{
    if (in_brackets) {
        b->family = AF_INET6;
        return inet_pton(AF_INET6, b->host, &b->addr.v6) == 1 &&
                       !IN6_IS_ADDR_UNSPECIFIED(&b->addr.v6) && !IN6_IS_ADDR_MULTICAST(&b->addr.v6)
                   ? 0
                   : -1;
    }
    if (inet_pton(AF_INET, b->host, &b->addr.v4) == 1) {
        uint32_t a = ntohl(b->addr.v4.s_addr);
        b->family = AF_INET;
        return a >> 24 != 0 && a >> 28 < 14 ? 0 : -1; /* not "this network", nor 224.0.0.0 and up */
    }
    b->family = AF_UNSPEC;
    b->addr.v4.s_addr = htonl(INADDR_LOOPBACK);
    return is_name(b->host) ? 0 : -1;
}

int init_bus_parse(const char *url, struct init_bus *ret, struct err *e)
{
    struct init_bus b = {.port = NATS_PORT};
    size_t skip = strncmp(url, "tls://", 6) == 0 ? 6 : 0; /* as the bus, which takes no other */
    const char *host = url + skip;
    int in_brackets = *host == '[';

    if (!skip || strnlen(host, HOST_MAX + 16) > HOST_MAX + 15) {
        return bad_url(url, e);
    }
    host += in_brackets;
    size_t n = strcspn(host, in_brackets ? "]" : ":");
    const char *rest = host + n;
    if (n == 0 || n > HOST_MAX || (in_brackets && *rest++ != ']')) {
        return bad_url(url, e);
    }
    memcpy(b.host, host, n);
    if (set_address(&b, in_brackets) ||
        (*rest && (*rest != ':' || parse_port(rest + 1, &b.port)))) {
        return bad_url(url, e);
    }
    *ret = b;
    return 0;
}

/* ---- the message ----------------------------------------------------------------------------- */

int init_launch_check(struct bytes launch, struct init_bus *ret, struct err *e)
{
    Coffer__V1__LaunchConfig *c = coffer__v1__launch_config__unpack(NULL, launch.n, launch.p);
    int rc;

    if (!c) {
        return err_refuse(e, ERR_INVALID, "launch", "a LaunchConfig", "%zu bytes that are none",
                          launch.n);
    }
    if (!c->n_disks) {
        rc = err_refuse(e, ERR_INVALID, "launch.disks", "at least one, in a VM", "none");
    } else if (!streq(c->work_dir, INIT_WORK_DIR)) {
        rc = err_refuse(e, ERR_INVALID, "launch.work_dir", INIT_WORK_DIR, "%.60s", c->work_dir);
    } else {
        rc = init_bus_parse(c->nats_url, ret, e);
    }
    explicit_bzero(c->nats_seed, strlen(c->nats_seed));
    coffer__v1__launch_config__free_unpacked(c, NULL);
    return rc;
}

int init_launch_file(struct bytes launch, int *ret_fd, struct err *e)
{
    _cleanup_close_ int fd = memfd_create("launch-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return err_errno(e, "launch configuration: memfd_create");
    }
    for (size_t at = 0; at < launch.n;) {
        ssize_t n = write(fd, launch.p + at, launch.n - at);
        if (n <= 0) {
            return err_errno(e, "launch configuration: write");
        }
        at += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ||
        lseek(fd, 0, SEEK_SET) < 0) {
        return err_errno(e, "launch configuration: seal");
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}
