/* Ways out to other processes and over the network, and bounds that must hold. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/isolation/escape.h"

#define WAIT_MS 700

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v ? v : "";
}

/* --- network --- */

static int connect_to(int family, const char *address, unsigned port)
{
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return errno;
    }
    inet_pton(family, address, family == AF_INET ? (void *)&a4.sin_addr : (void *)&a6.sin6_addr);
    int rc = family == AF_INET ? connect(fd, (struct sockaddr *)&a4, sizeof(a4))
                               : connect(fd, (struct sockaddr *)&a6, sizeof(a6));
    int e = rc < 0 ? errno : 0;
    if (e == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t n = sizeof(e);
        if (poll(&p, 1, WAIT_MS) != 1) {
            e = ETIMEDOUT;
        } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n)) {
            e = errno;
        }
    }
    close(fd);
    return e;
}

/* A timeout could as well be a firewall of the machine: only a missing route is an answer. */
static int needs_no_route(int e)
{
    return e == ENETUNREACH || e == EHOSTUNREACH || e == EADDRNOTAVAIL ? e : 0;
}

static int internet4(void)
{
    return needs_no_route(connect_to(AF_INET, "8.8.8.8", 53));
}

static int internet6(void)
{
    return needs_no_route(connect_to(AF_INET6, "2001:4860:4860::8888", 53));
}

static int metadata_service(void)
{
    return needs_no_route(connect_to(AF_INET, "169.254.169.254", 80));
}

static int vm_gateway(void)
{
    return needs_no_route(connect_to(AF_INET, "10.0.2.2", 4222));
}

static int datagram_out(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (fd < 0) {
        return errno;
    }
    inet_pton(AF_INET, "8.8.8.8", &a.sin_addr);
    int r = verdict(sendto(fd, "x", 1, 0, (struct sockaddr *)&a, sizeof(a)));
    close(fd);
    return r;
}

static int host_loopback(void)
{
    int port = atoi(env("ESCAPE_HOST_PORT"));
    return port ? connect_to(AF_INET, "127.0.0.1", (unsigned)port) : 0;
}

static int host_abstract(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *name = env("ESCAPE_HOST_ABSTRACT");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd < 0) {
        return errno;
    }
    snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "%s", name);
    int r =
        verdict(connect(fd, (struct sockaddr *)&a,
                        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
    close(fd);
    return r;
}

static int bus_port(void)
{
    return connect_to(AF_INET, "127.0.0.1", 4222);
}

static int other_interface(void)
{
    char line[512];
    FILE *f = fopen("/proc/net/dev", "r");
    int r = f ? BLOCKED : 0;

    for (int i = 0; f && fgets(line, sizeof(line), f); i++) {
        if (i >= 2 && strncmp(line + strspn(line, " "), "lo:", 3) != 0) {
            r = 0;
        }
    }
    if (f) {
        fclose(f);
    }
    for (unsigned i = 2; i < 64; i++) {
        char name[IF_NAMESIZE];
        if (if_indextoname(i, name)) {
            r = 0;
        }
    }
    return r;
}

/* Not an escape: that the container's own loopback works, which programs rely on. */
static int own_loopback_broken(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1) ||
        getsockname(fd, (struct sockaddr *)&a, &n)) {
        return 0;
    }
    int e = connect_to(AF_INET, "127.0.0.1", ntohs(a.sin_port));
    close(fd);
    return e ? 0 : BLOCKED;
}

static int runtime_sockets(void)
{
    static const char *const paths[] = {"/var/run/docker.sock",
                                        "/run/docker.sock",
                                        "/run/containerd/containerd.sock",
                                        "/run/crun",
                                        "/run/systemd/private",
                                        "/run/dbus/system_bus_socket",
                                        "/w/state",
                                        "/w",
                                        "/run/podman/podman.sock",
                                        "/old",
                                        "/run/nats",
                                        "/run/coffer"};
    struct stat st;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        if (lstat(paths[i], &st) == 0) {
            return 0;
        }
    }
    return BLOCKED;
}

/* --- processes --- */

static int host_processes(void)
{
    DIR *d = opendir("/proc");
    int n = 0;

    for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
        n += de->d_name[0] >= '0' && de->d_name[0] <= '9';
    }
    if (d) {
        closedir(d);
    }
    return n > 4 ? 0 : BLOCKED; /* this program and its probe */
}

static int not_first_process(void)
{
    char path[] = "/proc/1/comm", comm[32] = "";
    FILE *f = fopen(path, "r");

    if (f) {
        if (!fgets(comm, sizeof(comm), f)) {
            comm[0] = 0;
        }
        fclose(f);
    }
    return strncmp(comm, "escape", 6) == 0 ? BLOCKED : 0;
}

static int host_environment(void)
{
    char buf[65536] = "";
    int fd = open("/proc/1/environ", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

    if (fd >= 0) {
        close(fd);
    }
    /* Of our own process 1 we may see it; then it is the one we were given. */
    return n > 0 && !memmem(buf, (size_t)n, "ESCAPE_INSIDE=1", 15) ? 0 : BLOCKED;
}

static int kill_host_process(void)
{
    pid_t pid = atoi(env("ESCAPE_HOST_PID"));
    return pid > 1 ? verdict(kill(pid, 0)) : 0;
}

static int host_file(void)
{
    return verdict(open(env("ESCAPE_HOST_FILE"), O_RDONLY | O_CLOEXEC));
}

static int host_file_through_proc(void)
{
    char path[512];

    for (int pid = 1; pid < 64; pid++) {
        snprintf(path, sizeof(path), "/proc/%d/root%s", pid, env("ESCAPE_HOST_FILE"));
        if (access(path, F_OK) == 0) {
            return 0;
        }
        snprintf(path, sizeof(path), "/proc/%d/cwd/../../../..%s", pid, env("ESCAPE_HOST_FILE"));
        if (access(path, F_OK) == 0) {
            return 0;
        }
    }
    return BLOCKED;
}

static int same_namespace(const char *name)
{
    char path[64], link[64], want[80];
    snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
    ssize_t n = readlink(path, link, sizeof(link) - 1);

    if (n < 0) {
        return errno;
    }
    link[n] = 0;
    snprintf(want, sizeof(want), " %s ", link);
    return strstr(env("ESCAPE_HOST_NAMESPACES"), want) ? 0 : BLOCKED;
}

#define NAMESPACE_PROBE(name)                                                                      \
    static int namespace_##name(void)                                                              \
    {                                                                                              \
        return same_namespace(#name);                                                              \
    }
NAMESPACE_PROBE(pid)
NAMESPACE_PROBE(net)
NAMESPACE_PROBE(ipc)
NAMESPACE_PROBE(uts)
NAMESPACE_PROBE(mnt)
NAMESPACE_PROBE(user)
NAMESPACE_PROBE(cgroup)

const struct probe probes_world[] = {
    {"internet-ipv4", internet4, 0},
    {"internet-ipv6", internet6, 0},
    {"metadata-service", metadata_service, 0},
    {"vm-gateway", vm_gateway, 0},
    {"datagram-out", datagram_out, 0},
    {"host-loopback", host_loopback, 1},
    {"host-abstract-socket", host_abstract, 1},
    {"bus-port", bus_port, 0},
    {"other-interface", other_interface, 0},
    {"own-loopback-broken", own_loopback_broken, 0},
    {"runtime-sockets", runtime_sockets, 0},
    {"host-processes", host_processes, 1},
    {"not-first-process", not_first_process, 1},
    {"host-environment", host_environment, 0},
    {"kill-host-process", kill_host_process, 1},
    {"host-file", host_file, 1},
    {"host-file-through-proc", host_file_through_proc, 1},
    {"namespace-pid", namespace_pid, 1},
    {"namespace-net", namespace_net, 1},
    {"namespace-ipc", namespace_ipc, 1},
    {"namespace-uts", namespace_uts, 1},
    {"namespace-mnt", namespace_mnt, 0},
    {"namespace-user", namespace_user, 1},
    {"namespace-cgroup", namespace_cgroup, 1},
    {0},
};

/* --- bounds --- */

static unsigned long long number(const char *name)
{
    return strtoull(env(name), NULL, 10);
}

/* Writes until an error; POSSIBLE when more than `bound` bytes went in. */
static int fill(const char *dir, unsigned long long bound)
{
    static char block[65536];
    char path[256];
    unsigned long long total = 0;
    int e = 0;

    memset(block, 'x', sizeof(block));
    for (int i = 0; !e && i < 4096; i++) {
        snprintf(path, sizeof(path), "%s/fill-%d", dir, i);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        for (int k = 0; fd >= 0 && k < 64 && !e; k++) {
            ssize_t n = write(fd, block, sizeof(block));
            e = n < 0 ? errno : 0;
            total += n > 0 ? (unsigned long long)n : 0;
        }
        e = fd < 0 ? errno : e;
        if (fd >= 0) {
            close(fd);
        }
        if (total > bound) {
            break;
        }
    }
    for (int i = 0; i < 4096; i++) {
        snprintf(path, sizeof(path), "%s/fill-%d", dir, i);
        if (unlink(path)) {
            break;
        }
    }
    return total > bound ? 0 : e;
}

static int fill_tmp(void)
{
    return fill("/tmp", number("ESCAPE_TMP_BYTES"));
}

static int fill_output(void)
{
    return fill(env("ESCAPE_OUTPUT"), number("ESCAPE_OUTPUT_BYTES"));
}

static int fill_shm(void)
{
    return fill("/dev/shm", 16u << 20);
}

static int fill_dev(void)
{
    return fill("/dev", 1u << 20);
}

static int many_inodes(void)
{
    char path[64];
    int e = 0, n = 0;

    for (; n < 100000 && !e; n++) {
        snprintf(path, sizeof(path), "/tmp/i%d", n);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        e = fd < 0 ? errno : 0;
        if (fd >= 0) {
            close(fd);
        }
    }
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "/tmp/i%d", i);
        unlink(path);
    }
    return e;
}

static int fork_bomb(void)
{
    int n = 0, e = 0;
    int bound = (int)number("ESCAPE_PIDS");
    pid_t pids[4096];

    while (n < 4096 && !e) {
        pid_t pid = fork();
        if (pid == 0) {
            pause();
            _exit(0);
        }
        if (pid < 0) {
            e = errno;
        } else {
            pids[n++] = pid;
        }
    }
    for (int i = 0; i < n; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    return n > bound ? 0 : e;
}

static int many_descriptors(void)
{
    int n = 0, e = 0, last = -1;

    while (n < 100000 && !e) {
        int fd = dup(0);
        e = fd < 0 ? errno : 0;
        last = fd < 0 ? last : fd;
        n++;
    }
    for (int fd = 3; fd <= last; fd++) {
        close(fd);
    }
    return n > 2048 ? 0 : e;
}

const struct probe probes_resources[] = {
    {"fill-tmp", fill_tmp, 0},
    {"fill-output", fill_output, 0},
    {"fill-shm", fill_shm, 0},
    {"fill-dev", fill_dev, 0},
    {"many-inodes", many_inodes, 0},
    {"fork-bomb", fork_bomb, 0},
    {"many-descriptors", many_descriptors, 0},
    {0},
};
