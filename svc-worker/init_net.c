/* The VM has no network card, only lo. The bus's real address is made one of lo's, so that the
 * worker connects, and verifies the server's name, as it does elsewhere. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/fileio.h"
#include "svc-worker/init.h"

#define BACKLOG 8

/* As in linux/ipv6.h, which cannot be included beside netinet/in.h. */
struct ifreq6 {
    struct in6_addr addr;
    uint32_t prefix_bits;
    int index;
};

static int lo_flags(int fd, struct err *e)
{
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

    return ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? err_errno(e, "cannot bring up lo") : 0;
}

static int add_v4(int fd, struct in_addr addr, struct err *e)
{
    struct ifreq r = {.ifr_name = "lo:bus"};
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = addr};

    if (ntohl(addr.s_addr) >> 24 == 127) {
        return 0;
    }
    memcpy(&r.ifr_addr, &sin, sizeof(sin));
    if (ioctl(fd, SIOCSIFADDR, &r) < 0) {
        return err_errno(e, "cannot give lo the address of nats-server");
    }
    sin.sin_addr.s_addr = 0xffffffffu;
    memcpy(&r.ifr_netmask, &sin, sizeof(sin));
    return ioctl(fd, SIOCSIFNETMASK, &r) < 0 ? err_errno(e, "cannot set the netmask of lo:bus") : 0;
}

static int add_v6(const struct in6_addr *addr, struct err *e)
{
    _cleanup_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq6 r = {.addr = *addr, .prefix_bits = 128, .index = (int)if_nametoindex("lo")};

    if (IN6_IS_ADDR_LOOPBACK(addr)) {
        return 0;
    }
    if (fd < 0 || (ioctl(fd, SIOCSIFADDR, &r) < 0 && errno != EEXIST)) {
        return err_errno(e, "cannot give lo the address of nats-server");
    }
    return 0;
}

static int write_hosts(const struct init_bus *b, const char *path, struct err *e)
{
    _cleanup_free_ char *text = b->family == AF_UNSPEC && strcasecmp(b->host, "localhost") != 0
                                    ? xasprintf("127.0.0.1 localhost\n127.0.0.1 %s\n", b->host)
                                    : xstrdup("127.0.0.1 localhost\n");

    return file_replace(path, BYTES_STR(text), 0644, e);
}

int init_net_up(const struct init_bus *b, const char *hosts_path, struct err *e)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return err_errno(e, "no socket");
    }
    if (lo_flags(fd, e) || (b->family == AF_INET && add_v4(fd, b->addr.v4, e)) ||
        (b->family == AF_INET6 && add_v6(&b->addr.v6, e))) {
        return -1;
    }
    return write_hosts(b, hosts_path, e);
}

int init_net_listen(const struct init_bus *b, int *ret_fd, struct err *e)
{
    int v6 = b->family == AF_INET6;
    _cleanup_close_ int fd =
        socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in sin = {
        .sin_family = AF_INET, .sin_port = htons(b->port), .sin_addr = b->addr.v4};
    struct sockaddr_in6 sin6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(b->port), .sin6_addr = b->addr.v6};
    int one = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, v6 ? (const struct sockaddr *)&sin6 : (const struct sockaddr *)&sin,
             v6 ? sizeof(sin6) : sizeof(sin)) < 0 ||
        listen(fd, BACKLOG) < 0) {
        return err_errno(e, "cannot listen at %s port %u", b->host, b->port);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}
