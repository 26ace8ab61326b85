/* The bus, and every other way to talk to somebody. The guest of a VM has no network card; its way
 * to nats-server is a port that svc-worker's own processes alone can open. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/isolation/escape_vm.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define CONNECT_US 300000
#define ANSWER_MS 300
#define SCAN_SECONDS 300 /* a few where nothing else runs */
#define FAMILIES 64
#define TYPES 11

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v ? v : "";
}

static unsigned bus_port(void)
{
    return (unsigned)atoi(env("ESCAPE_HOST_PORT"));
}

/* "1.2.3.4", "fe80::1", "fe80::1%lo". */
static socklen_t address_of(const char *text, unsigned port, union address *ret)
{
    char host[64];
    const char *scope = strchr(text, '%');

    memset(ret, 0, sizeof(*ret));
    snprintf(host, sizeof(host), "%.*s", scope ? (int)(scope - text) : 63, text);
    if (inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons((uint16_t)port);
        return sizeof(ret->v4);
    }
    ret->v6.sin6_family = AF_INET6;
    ret->v6.sin6_port = htons((uint16_t)port);
    ret->v6.sin6_scope_id = scope ? if_nametoindex(scope + 1) : 0;
    return inet_pton(AF_INET6, host, &ret->v6.sin6_addr) == 1 ? sizeof(ret->v6) : 0;
}

/* ---- TCP
 * ----------------------------------------------------------------------------------------- */

static int own_end(int fd)
{
    union address a, b;
    socklen_t na = sizeof(a), nb = sizeof(b);

    return getsockname(fd, &a.any, &na) == 0 && getpeername(fd, &b.any, &nb) == 0 && na == nb &&
           memcmp(&a, &b, na) == 0;
}

/* One connection with *fd, which is made where it is -1, and closed unless it can be used again. */
static int connect_with(int *fd, const char *address, unsigned port)
{
    const struct timeval wait = {.tv_usec = CONNECT_US};
    union address a;
    socklen_t n = address_of(address, port, &a);

    for (int tries = 0; tries < 4; tries++) {
        if (*fd < 0) {
            *fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (*fd < 0 || setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0) {
                return errno;
            }
        }
        int r = verdict(connect(*fd, &a.any, n));
        int own = r == 0 && own_end(*fd);
        if (r != ECONNREFUSED) {
            close(*fd);
            *fd = -1;
        }
        if (!own) {
            return r;
        }
    }
    return ECONNREFUSED;
}

int tcp_connect(const char *address, unsigned port)
{
    int fd = -1;
    int r = connect_with(&fd, address, port);

    if (fd >= 0) {
        close(fd);
    }
    return r;
}

static void scan(const char *address)
{
    unsigned from = 1, to = 65535;
    struct seen s = {0};
    char name[96];
    int fd = -1;

    sscanf(env("ESCAPE_SCAN"), "%u-%u", &from, &to);
    for (unsigned port = from; port <= to && port <= 65535; port++) {
        seen_add(&s, connect_with(&fd, address, port));
    }
    snprintf(name, sizeof(name), "TCP to %s, every port", address);
    seen_say(name, &s);
}

static void scan_v4(void)
{
    scan("127.0.0.1");
}

static void scan_v6(void)
{
    scan("::1");
}

struct target {
    const char *address;
    unsigned port;
};

static int to_target(const void *arg)
{
    const struct target *t = arg;
    return tcp_connect(t->address, t->port);
}

/* ---- datagrams
 * ----------------------------------------------------------------------------------- */

/* A DNS question for example.org; 0 if anything comes back. */
static int ask(const void *arg)
{
    static const unsigned char question[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
                                            "\7example\3org\0\0\1\0\1";
    const struct target *t = arg;
    union address a;
    socklen_t n = address_of(t->address, t->port, &a);
    int fd = socket(a.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;
    int r = fd < 0 ? errno : 0;

    if (r == 0 && (setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)) < 0 ||
                   connect(fd, &a.any, n) < 0 || send(fd, question, sizeof(question) - 1, 0) < 0)) {
        r = errno;
    }
    if (r == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char answer[512];
        r = poll(&p, 1, ANSWER_MS) != 1 ? ETIMEDOUT : verdict(recv(fd, answer, sizeof(answer), 0));
    }
    if (fd >= 0) {
        close(fd);
    }
    return r;
}

/* ---- what there is
 * ------------------------------------------------------------------------------- */

static void say_sockets(void)
{
    static const char *const types[TYPES] = {
        [1] = "stream",    [2] = "dgram", [3] = "raw",    [4] = "rdm",
        [5] = "seqpacket", [6] = "dccp",  [10] = "packet"};
    struct seen refused = {0};
    struct words open = {0};

    for (int family = 0; family < FAMILIES; family++) {
        for (int type = 0; type < TYPES; type++) {
            int fd = socket(family, type | SOCK_CLOEXEC, 0);
            if (fd < 0) {
                seen_add(&refused, errno);
                continue;
            }
            words_add(&open, "%d/%s", family, types[type] ? types[type] : "?");
            close(fd);
        }
    }
    words_say("sockets of any family and type", &open);
    seen_say("sockets of all other families and types", &refused);
}

static void say_protocols(void)
{
    static const int families[] = {AF_INET, AF_INET6};
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
    struct words open = {0};
    struct seen refused = {0};

    for (size_t f = 0; f < COUNT(families); f++) {
        for (size_t t = 0; t < COUNT(types); t++) {
            for (int protocol = 0; protocol < 300; protocol++) {
                int fd = socket(families[f], types[t] | SOCK_CLOEXEC, protocol);
                if (fd < 0) {
                    seen_add(&refused, errno);
                    continue;
                }
                words_add(&open, "%s%s/%d", types[t] == SOCK_STREAM ? "stream" : "dgram",
                          families[f] == AF_INET ? "" : "6", protocol);
                close(fd);
            }
        }
    }
    words_say("protocols of IP sockets", &open);
    seen_say("all other protocols of IP sockets", &refused);
}

static void say_interfaces(void)
{
    struct ifreq r[16];
    struct ifconf c = {.ifc_len = sizeof(r), .ifc_req = r};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct words w = {0};

    if (ioctl(fd, SIOCGIFCONF, &c) < 0) {
        say("interfaces with an address", "%s", strerrorname_np(errno));
        return;
    }
    for (size_t i = 0; i < (size_t)c.ifc_len / sizeof(r[0]); i++) {
        char text[INET_ADDRSTRLEN];
        struct sockaddr_in sin;
        memcpy(&sin, &r[i].ifr_addr, sizeof(sin));
        inet_ntop(AF_INET, &sin.sin_addr, text, sizeof(text));
        words_add(&w, "%s=%s", r[i].ifr_name, text);
    }
    words_say("interfaces with an address", &w);
}

/* Connections that are over but for the waiting are this program's own; netlink's without a port
 * are the kernel's. */
static int counts(const char *table, const char *line)
{
    unsigned v;

    if (strncmp(table, "tcp", 3) == 0) {
        return sscanf(line, "%*s %*s %*s %x", &v) != 1 || v != TCP_TIME_WAIT;
    }
    return strcmp(table, "netlink") != 0 || sscanf(line, "%*s %*s %u", &v) != 1 || v != 0;
}

/* Connections, listeners and routes of this namespace; the first process's relay is in another. */
static void say_table(const char *table, int heading)
{
    char path[64], line[512];
    int n = 0;

    snprintf(path, sizeof(path), "/proc/net/%s", table);
    FILE *f = fopen(path, "re");
    int e = errno;
    while (f && fgets(line, sizeof(line), f)) {
        n += --heading < 0 && counts(table, line);
    }
    if (f) {
        fclose(f);
        say(path, "%d", n);
    } else {
        say(path, "%s", strerrorname_np(e));
    }
}

static void say_tables(void)
{
    static const struct {
        const char *name;
        int heading;
    } tables[] = {{"dev", 2}, {"tcp", 1},    {"tcp6", 1},     {"udp", 1},     {"udp6", 1},
                  {"raw", 1}, {"packet", 1}, {"unix", 1},     {"netlink", 1}, {"route", 1},
                  {"arp", 1}, {"igmp", 1},   {"if_inet6", 0}, {"vsock", 1},   {"wireless", 2}};

    for (size_t i = 0; i < COUNT(tables); i++) {
        say_table(tables[i].name, tables[i].heading);
    }
}

/* ---- attempts that change something
 * -------------------------------------------------------------- */

static int interface_ioctl(const void *arg)
{
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    return verdict(ioctl(fd, *(const unsigned long *)arg, &r));
}

static int unix_connect(const void *arg)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *name = arg;
    size_t n = strlen(name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(a.sun_path, name, n);
    if (name[0] == '@') {
        a.sun_path[0] = 0;
    }
    return verdict(connect(fd, (struct sockaddr *)&a,
                           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)));
}

static int vsock(const void *arg)
{
    const struct sockaddr_vm a = {
        .svm_family = AF_VSOCK, .svm_cid = *(const unsigned *)arg, .svm_port = 4222};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

    return fd < 0 ? errno : verdict(connect(fd, (const struct sockaddr *)&a, sizeof(a)));
}

struct option {
    const char *name;
    int family, level, option;
    const char *text;
};

static int set_option(const void *arg)
{
    const struct option *o = arg;
    int fd = socket(o->family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    return verdict(setsockopt(fd, o->level, o->option, o->text ? (const void *)o->text : &one,
                              o->text ? (socklen_t)strlen(o->text) : sizeof(one)));
}

static int join_group(const void *arg)
{
    struct ip_mreqn m = {.imr_multiaddr.s_addr = htonl(0xe00000fbu)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)arg;
    return verdict(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)));
}

static int bind_low(const void *arg)
{
    union address a;
    socklen_t n = address_of("127.0.0.1", 53, &a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)arg;
    return verdict(bind(fd, &a.any, n));
}

static int bind_other(const void *arg)
{
    union address a;
    socklen_t n = address_of(arg, 40000, &a);
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    return verdict(bind(fd, &a.any, n));
}

/* ---- all
 * ----------------------------------------------------------------------------------------- */

void vm_bus(void)
{
    static const char *const sockets[] = {"@",
                                          "@coffer",
                                          "@coffer.bus",
                                          "@relay",
                                          "@svc-worker",
                                          "@/run/coffer",
                                          "/run/coffer/bus",
                                          "/run/coffer/work",
                                          "/run/dbus/system_bus_socket",
                                          "/dev/log",
                                          "/dev/vport0p3",
                                          "/proc/1/root/run/coffer/bus"};
    static const unsigned cids[] = {0, 1, 2, 3, 4, 0xffffffffu};
    char name[96];

    attempt("TCP to 127.0.0.1, the bus's port", to_target,
            &(struct target){"127.0.0.1", bus_port()});
    attempt("TCP to ::1, the bus's port", to_target, &(struct target){"::1", bus_port()});
    attempt("TCP to ::ffff:127.0.0.1, the bus's port", to_target,
            &(struct target){"::ffff:127.0.0.1", bus_port()});
    attempt("TCP to 0.0.0.0, the bus's port", to_target, &(struct target){"0.0.0.0", bus_port()});
    in_child("TCP to 127.0.0.1", scan_v4, SCAN_SECONDS);
    in_child("TCP to ::1", scan_v6, SCAN_SECONDS);
    for (size_t i = 0; i < COUNT(sockets); i++) {
        snprintf(name, sizeof(name), "unix socket %s", sockets[i]);
        attempt(name, unix_connect, sockets[i]);
    }
    for (size_t i = 0; i < COUNT(cids); i++) {
        snprintf(name, sizeof(name), "vsock to %u", cids[i]);
        attempt(name, vsock, &cids[i]);
    }
    in_child("sockets", say_sockets, 60);
    in_child("protocols", say_protocols, 60);
    in_child("interfaces", say_interfaces, 60);
    in_child("tables", say_tables, 60);
}

void vm_bus_control(void)
{
    attempt("TCP to 127.0.0.1, the bus's port", to_target,
            &(struct target){"127.0.0.1", bus_port()});
    in_child("TCP to 127.0.0.1", scan_v4, SCAN_SECONDS);
    in_child("sockets", say_sockets, 60);
    in_child("tables", say_tables, 60);
}

/* Their number and addresses are the host's, so they are one line for each port. */
static void to_host_addresses(void)
{
    const unsigned ports[] = {22, 53, 4222, bus_port()};
    char list[1024];
    struct seen tcp = {0}, udp = {0};
    char *save = NULL;

    snprintf(list, sizeof(list), "10.0.2.2 %s", env("ESCAPE_HOST_ADDRESSES"));
    for (char *a = strtok_r(list, " ", &save); a; a = strtok_r(NULL, " ", &save)) {
        for (size_t i = 0; i < COUNT(ports); i++) {
            const struct target t = {a, ports[i]};
            seen_add(&tcp, to_target(&t));
            seen_add(&udp, ask(&t));
        }
    }
    seen_say("TCP to the host's own addresses", &tcp);
    seen_say("UDP to the host's own addresses", &udp);
}

/* Every /16 of the private ranges, the two ends and the middle of it. */
static void to_private_ranges(void)
{
    struct seen tcp = {0}, udp = {0};

    for (unsigned net = 0; net < 256 + 16 + 1 + 64; net++) {
        unsigned base = net < 256        ? 0x0a000000u + (net << 16)
                        : net < 256 + 16 ? 0xac100000u + ((net - 256) << 16)
                        : net < 256 + 17 ? 0xc0a80000u
                                         : 0x64400000u + ((net - 256 - 17) << 16);
        static const unsigned hosts[] = {0x0001, 0x0202, 0x0210, 0x7a01, 0xfffe};
        for (size_t i = 0; i < COUNT(hosts); i++) {
            char text[INET_ADDRSTRLEN];
            struct in_addr a = {.s_addr = htonl(base + hosts[i])};
            inet_ntop(AF_INET, &a, text, sizeof(text));
            const struct target t = {text, 4222};
            seen_add(&tcp, to_target(&t));
            seen_add(&udp, ask(&t));
        }
    }
    seen_say("TCP to every private range", &tcp);
    seen_say("UDP to every private range", &udp);
}

static void attempt_options(void)
{
    static const struct option options[] = {
        {"SO_BINDTODEVICE eth0", AF_INET, SOL_SOCKET, SO_BINDTODEVICE, "eth0"},
        {"SO_MARK", AF_INET, SOL_SOCKET, SO_MARK, NULL},
        {"SO_DEBUG", AF_INET, SOL_SOCKET, SO_DEBUG, NULL},
        {"IP_TRANSPARENT", AF_INET, IPPROTO_IP, IP_TRANSPARENT, NULL},
        {"IPT_SO_SET_REPLACE", AF_INET, IPPROTO_IP, 64, NULL},
        {"IP_HDRINCL", AF_INET, IPPROTO_IP, 3, NULL},
        {"IPV6_TRANSPARENT", AF_INET6, IPPROTO_IPV6, 75, NULL},
        {"TCP_REPAIR", AF_INET, IPPROTO_TCP, TCP_REPAIR, NULL},
        {"TCP_ULP tls", AF_INET, IPPROTO_TCP, TCP_ULP, "tls"},
        {"TCP_CONGESTION bbr", AF_INET, IPPROTO_TCP, TCP_CONGESTION, "bbr"},
    };
    static const struct {
        const char *name;
        unsigned long command;
    } commands[] = {{"SIOCSIFFLAGS", SIOCSIFFLAGS}, {"SIOCSIFADDR", SIOCSIFADDR},
                    {"SIOCADDRT", SIOCADDRT},       {"SIOCSARP", SIOCSARP},
                    {"SIOCSIFNAME", SIOCSIFNAME},   {"SIOCETHTOOL", 0x8946},
                    {"SIOCBRADDBR", 0x89a0},        {"SIOCGSKNS", 0x894c}};
    char name[96];

    for (size_t i = 0; i < COUNT(options); i++) {
        snprintf(name, sizeof(name), "socket option %s", options[i].name);
        attempt(name, set_option, &options[i]);
    }
    for (size_t i = 0; i < COUNT(commands); i++) {
        snprintf(name, sizeof(name), "interface ioctl %s", commands[i].name);
        attempt(name, interface_ioctl, &commands[i].command);
    }
    attempt("join a group", join_group, NULL);
    attempt("bind 127.0.0.1 port 53", bind_low, NULL);
    attempt("bind 10.0.2.15", bind_other, "10.0.2.15");
    attempt("bind fe80::1%lo", bind_other, "fe80::1%lo");
}

void vm_network(void)
{
    static const struct target resolvers[] = {{"10.0.2.3", 53},      {"8.8.8.8", 53},
                                              {"1.1.1.1", 53},       {"127.0.0.53", 53},
                                              {"127.0.0.1", 53},     {"172.17.0.1", 53},
                                              {"fec0::3", 53},       {"2001:4860:4860::8888", 53},
                                              {"::1", 53},           {"224.0.0.251", 5353},
                                              {"ff02::fb%lo", 5353}, {"255.255.255.255", 67}};
    static const struct target hosts[] = {{"10.0.2.2", 4222},        {"10.0.2.2", 22},
                                          {"10.0.2.2", 80},          {"10.0.2.4", 445},
                                          {"10.0.2.15", 22},         {"10.0.2.16", 22},
                                          {"172.17.0.1", 4222},      {"172.17.0.2", 4222},
                                          {"192.168.122.1", 22},     {"192.168.122.2", 22},
                                          {"192.168.1.1", 80},       {"100.64.0.1", 80},
                                          {"100.100.100.200", 80},   {"169.254.169.254", 80},
                                          {"169.254.170.2", 80},     {"169.254.1.1", 4222},
                                          {"168.63.129.16", 80},     {"8.8.8.8", 443},
                                          {"224.0.0.1", 80},         {"255.255.255.255", 80},
                                          {"0.0.0.0", 4222},         {"127.0.0.2", 4222},
                                          {"127.255.255.254", 22},   {"::", 4222},
                                          {"::ffff:10.0.2.2", 4222}, {"64:ff9b::808:808", 80},
                                          {"fe80::1", 4222},         {"fe80::1%lo", 4222},
                                          {"fe80::2%lo", 22},        {"fec0::2", 4222},
                                          {"fd00::1", 4222},         {"fd00:ec2::254", 80},
                                          {"ff02::1%lo", 80},        {"2606:4700:4700::1111", 443}};
    char name[96];

    for (size_t i = 0; i < COUNT(resolvers); i++) {
        const struct target *t = &resolvers[i];
        snprintf(name, sizeof(name), "DNS by UDP, %s port %u", t->address, t->port);
        attempt(name, ask, t);
        snprintf(name, sizeof(name), "DNS by TCP, %s port %u", t->address, t->port);
        attempt(name, to_target, t);
    }
    for (size_t i = 0; i < COUNT(hosts); i++) {
        snprintf(name, sizeof(name), "TCP to %s port %u", hosts[i].address, hosts[i].port);
        attempt(name, to_target, &hosts[i]);
    }
    in_child("the host's own addresses", to_host_addresses, 60);
    in_child("private ranges", to_private_ranges, 60);
    attempt_options();
}
