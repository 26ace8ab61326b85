#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "svc-launcher/vm.h"

/* The bridge between a socket that plays QEMU's and one that plays nats-server. */

static char dir[64];
static int dir_fd, bus_fd, server_fd;
static uint16_t server_port;

static int listen_server(uint16_t port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    socklen_t n = sizeof(a);
    int one = 1;

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 4) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) < 0) {
        return -1;
    }
    server_port = ntohs(a.sin_port);
    return fd;
}

static int setup(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-bridge-XXXXXX");
    if (!mkdtemp(dir)) {
        return -1;
    }
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/bus", dir);
    bus_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    server_fd = listen_server(0);
    return bind(bus_fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(bus_fd, 1) < 0 ||
                   server_fd < 0
               ? -1
               : 0;
}

static int teardown(void **state)
{
    (void)state;
    close(dir_fd);
    close(bus_fd);
    closep(&server_fd);
    return remove_tree(dir, NULL);
}

static void start(struct bridge *b)
{
    char url[64];
    struct err e = {0};

    snprintf(url, sizeof(url), "tls://127.0.0.1:%u", server_port);
    if (bridge_init(b, url, dir_fd, "bus", &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static void turn(struct bridge *b)
{
    struct pollfd v[2];
    size_t n = bridge_poll(b, v);

    poll(v, n, 10);
    bridge_turn(b, v, n, vm_now_ms());
}

static int turn_until_accept(struct bridge *b, int listen_fd)
{
    for (int i = 0; i < 300; i++) {
        turn(b);
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            return fd;
        }
    }
    fail_msg("no connection: %s", b->last.msg);
    return -1;
}

/* What comes within a while; 0 is the end, -1 that nothing came. */
static ssize_t turn_until_read(struct bridge *b, int fd, void *p, size_t n)
{
    for (int i = 0; i < 200; i++) {
        turn(b);
        ssize_t got = read(fd, p, n);
        if (got >= 0 || errno != EAGAIN) {
            return got;
        }
    }
    return -1;
}

static void carries_both_ways(void **state)
{
    struct bridge b;
    char text[64] = "";

    (void)state;
    start(&b);
    assert_int_equal(bridge_poll(&b, (struct pollfd[2]){0}), 0); /* nothing before the guest */
    assert_true(bridge_due_ms(&b) == INT64_MAX);
    bridge_guest(&b, 1, vm_now_ms());
    int server = turn_until_accept(&b, server_fd), port = turn_until_accept(&b, bus_fd);
    assert_int_equal(write(server, "INFO", 4), 4);
    assert_int_equal(turn_until_read(&b, port, text, sizeof(text)), 4);
    assert_memory_equal(text, "INFO", 4);
    assert_int_equal(write(port, "CONNECT", 7), 7);
    assert_int_equal(turn_until_read(&b, server, text, sizeof(text)), 7);
    bridge_guest(&b, 0, vm_now_ms());
    assert_int_equal(turn_until_read(&b, server, text, sizeof(text)), 0);
    assert_int_equal(b.state, BRIDGE_CLOSED);
    close(server);
    close(port);
    bridge_done(&b);
}

/* The server restarts: its last bytes arrive, then the port ends; only a new opening connects anew,
 * as soon as there is a server, and has none of the old bytes. */
static void survives_the_server(void **state)
{
    struct bridge b;
    char text[64] = "";

    (void)state;
    start(&b);
    bridge_guest(&b, 1, vm_now_ms());
    int server = turn_until_accept(&b, server_fd), port = turn_until_accept(&b, bus_fd);
    assert_int_equal(write(server, "last words", 10), 10);
    close(server);
    uint16_t at = server_port;
    close(server_fd);
    assert_int_equal(turn_until_read(&b, port, text, sizeof(text)), 10);
    assert_int_equal(turn_until_read(&b, port, text, sizeof(text)), 0);
    close(port);
    assert_int_equal(b.state, BRIDGE_CLOSED);
    for (int i = 0; i < 5; i++) {
        turn(&b);
    }
    assert_int_equal(b.state, BRIDGE_CLOSED);
    bridge_guest(&b, 0, vm_now_ms());
    bridge_guest(&b, 1, vm_now_ms());
    for (int i = 0; i < 5; i++) {
        turn(&b); /* nobody listens; it tries again, and the guest's port stays without a peer */
    }
    assert_int_equal(b.state, BRIDGE_PAUSE);
    assert_non_null(strstr(b.last.msg, "Connection refused"));
    assert_true(accept(bus_fd, NULL, NULL) < 0);
    server_fd = listen_server(at);
    assert_true(server_fd >= 0);
    server = turn_until_accept(&b, server_fd);
    port = turn_until_accept(&b, bus_fd);
    assert_int_equal(write(server, "x", 1), 1);
    assert_int_equal(turn_until_read(&b, port, text, sizeof(text)), 1);
    assert_int_equal(b.sessions, 2);
    close(server);
    close(port);
    bridge_done(&b);
}

/* A server that does not read holds the guest up, and takes a bounded number of bytes. */
static void bounded(void **state)
{
    static char zeros[65536];
    struct bridge b;
    size_t sent = 0;
    ssize_t got = 0;
    uint64_t total = 0;

    (void)state;
    start(&b);
    bridge_guest(&b, 1, vm_now_ms());
    int server = turn_until_accept(&b, server_fd), port = turn_until_accept(&b, bus_fd);
    for (int idle = 0; idle < 20;) {
        ssize_t n = write(port, zeros, sizeof(zeros));
        sent += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        assert_true(sent < 64u << 20);
        turn(&b);
        assert_true(b.up.n <= BRIDGE_BUF_BYTES);
    }
    assert_true(b.up.n > 0); /* the rest is with the two kernels' buffers */
    while (total < sent && (got = turn_until_read(&b, server, zeros, sizeof(zeros))) > 0) {
        total += (uint64_t)got;
    }
    assert_int_equal(total, sent);
    close(server);
    close(port);
    bridge_done(&b);
}

static void addresses(void **state)
{
    static const char *const bad[] = {"",
                                      "127.0.0.1:4222",
                                      "http://127.0.0.1",
                                      "tls://",
                                      "tls://:4222",
                                      "tls://127.0.0.1:",
                                      "tls://127.0.0.1:x",
                                      "tls://127.0.0.1:123456",
                                      "tls://user@127.0.0.1",
                                      "tls://127.0.0.1/x",
                                      "tls://[::1",
                                      "tls://[::1]4222"};
    struct bridge b;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_clear(&e);
        if (bridge_init(&b, bad[i], dir_fd, "bus", &e) == 0) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_string_equal(e.clause, "nats_url");
    }
    assert_int_equal(bridge_init(&b, "tls://[::1]:5", dir_fd, "bus", &e), 0);
    assert_string_equal(b.host, "::1");
    assert_string_equal(b.port, "5");
    bridge_done(&b);
    assert_int_equal(bridge_init(&b, "nats://127.0.0.1", dir_fd, "bus", &e), 0);
    assert_string_equal(b.port, "4222");
    bridge_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carries_both_ways),
        cmocka_unit_test(survives_the_server),
        cmocka_unit_test(bounded),
        cmocka_unit_test(addresses),
    };

    return cmocka_run_group_tests_name("bus bridge", tests, setup, teardown);
}
