#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>

#include "svc-worker/init.h"

/* The bus relay as a process: the worker's side is TCP as in a VM; in place of the port there is a
 * socket that the test listens on, or the master of a pseudo terminal, which reports "nobody there"
 * as a port does. */

#define WAIT_MS 5000

static struct {
    char dir[64];
    int host_listen; /* where the relay's port leads to */
    int pty;         /* or this */
    char *pty_slave;
    struct init_bus bus;
    pid_t relay;
} T;

static int open_socket(void *arg, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    (void)arg;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/port", T.dir);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a))) {
        closep(&fd);
        return err_errno(e, "port");
    }
    return fd;
}

static int open_pty(void *arg, struct err *e)
{
    (void)arg;
    int fd = dup(T.pty);
    return fd < 0 ? err_errno(e, "port") : fd;
}

static int relay_main(int listen_fd, int (*open_port)(void *, struct err *))
{
    const struct init_relay r = {.listen_fd = listen_fd, .open_port = open_port, .pause_ms = 30};
    struct err e = {0};

    return init_relay_run(&r, &e) ? 1 : 0;
}

static void start(int (*open_port)(void *, struct err *))
{
    struct err e = {0};
    int fd;

    T.bus = (struct init_bus){.host = "127.0.0.1", .family = AF_INET};
    T.bus.addr.v4.s_addr = htonl(INADDR_LOOPBACK);
    if (init_net_listen(&T.bus, &fd, &e)) {
        fail_msg("%s", e.msg);
    }
    struct sockaddr_in sin;
    socklen_t n = sizeof(sin);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &n), 0);
    T.bus.port = ntohs(sin.sin_port);
    T.relay = fork();
    if (T.relay == 0) {
        signal(SIGPIPE, SIG_IGN);
        _exit(relay_main(fd, open_port));
    }
    assert_true(T.relay > 1);
    close(fd);
}

static int setup(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    (void)state;
    T.relay = 0;
    snprintf(T.dir, sizeof(T.dir), "/tmp/coffer-relay-XXXXXX");
    if (!mkdtemp(T.dir)) {
        return -1;
    }
    signal(SIGPIPE, SIG_IGN);
    T.pty = -1;
    T.host_listen = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/port", T.dir);
    return bind(T.host_listen, (struct sockaddr *)&a, sizeof(a)) || listen(T.host_listen, 4);
}

static int teardown(void **state)
{
    char path[96];

    (void)state;
    if (T.relay > 1) { /* kill(2) takes -1 for everybody */
        kill(T.relay, SIGKILL);
        waitpid(T.relay, NULL, 0);
        T.relay = 0;
    }
    closep(&T.host_listen);
    closep(&T.pty);
    snprintf(path, sizeof(path), "%s/port", T.dir);
    unlink(path);
    return rmdir(T.dir);
}

static int connect_worker(void)
{
    struct sockaddr_in sin = {.sin_family = AF_INET,
                              .sin_port = htons(T.bus.port),
                              .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    return fd;
}

static int accept_host(void)
{
    struct pollfd f = {.fd = T.host_listen, .events = POLLIN};

    assert_int_equal(poll(&f, 1, WAIT_MS), 1);
    return accept4(T.host_listen, NULL, NULL, SOCK_CLOEXEC);
}

static void assert_nothing(int fd, int ms)
{
    struct pollfd f = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&f, 1, ms), 0);
}

static void assert_says(int fd, const char *want)
{
    char text[64];
    size_t n = 0;

    while (n < strlen(want)) {
        struct pollfd f = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&f, 1, WAIT_MS), 1);
        ssize_t got = read(fd, text + n, strlen(want) - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    assert_memory_equal(text, want, n);
}

static void assert_ends(int fd)
{
    struct pollfd f = {.fd = fd, .events = POLLIN};
    char c;

    assert_int_equal(poll(&f, 1, WAIT_MS), 1);
    assert_true(read(fd, &c, 1) <= 0);
}

static void say(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* ---- with a socket --------------------------------------------------------------------------- */

static void test_both_ways(void **state)
{
    (void)state;
    start(open_socket);
    assert_nothing(T.host_listen, 60); /* no port is open before there is a connection */
    int w = connect_worker(), h = accept_host();
    say(h, "INFO\r\n");
    assert_says(w, "INFO\r\n");
    say(w, "PING\r\n");
    assert_says(h, "PING\r\n");
    close(w);
    assert_ends(h);
    close(h);
}

static void test_ends_are_passed_on(void **state)
{
    (void)state;
    start(open_socket);
    for (int i = 0; i < 3; i++) {
        int w = connect_worker(), h = accept_host();
        say(h, "last");
        close(h);
        assert_says(w, "last"); /* what came before the end is not lost */
        assert_ends(w);
        close(w);
        w = connect_worker();
        h = accept_host();
        say(w, "bye");
        close(w);
        assert_says(h, "bye");
        assert_ends(h);
        close(h);
    }
}

static void test_newer_replaces(void **state)
{
    (void)state;
    start(open_socket);
    int w = connect_worker(), h = accept_host();
    say(h, "1");
    assert_says(w, "1");
    int w2 = connect_worker();
    assert_ends(w);
    assert_ends(h);
    int h2 = accept_host();
    say(h2, "2");
    assert_says(w2, "2");
    say(w2, "3");
    assert_says(h2, "3");
    close(w);
    close(h);
    close(w2);
    close(h2);
}

/* A pause lies between two ports, so that the host sees the first one's end. */
static void test_pause(void **state)
{
    (void)state;
    start(open_socket);
    int w = connect_worker(), h = accept_host();
    close(w);
    assert_ends(h);
    int64_t from = init_now_ms();
    int w2 = connect_worker(), h2 = accept_host();
    assert_true(init_now_ms() - from >= 20);
    close(h);
    close(w2);
    close(h2);
}

/* Megabytes each way while the other side is slow: all of it arrives, in order, and the relay holds
 * no more than its two buffers. */
static void stream(int from, int to)
{
    enum { TOTAL = 3 << 20 };
    static uint8_t out[8192], in[8192];
    size_t sent = 0, got = 0;

    fcntl(from, F_SETFL, O_NONBLOCK);
    while (got < TOTAL) {
        struct pollfd f[2] = {{.fd = sent < TOTAL ? from : -1, .events = POLLOUT},
                              {.fd = to, .events = POLLIN}};
        assert_true(poll(f, 2, WAIT_MS) > 0);
        if (f[0].revents) {
            for (size_t i = 0; i < sizeof(out); i++) {
                out[i] = (uint8_t)((sent + i) * 31 >> 3);
            }
            ssize_t n = write(from, out, sizeof(out));
            sent += n > 0 ? (size_t)n : 0;
        }
        if (f[1].revents && (sent == TOTAL || sent - got > 400000 || (got & 1))) {
            ssize_t n = read(to, in, sizeof(in));
            assert_true(n > 0);
            for (ssize_t i = 0; i < n; i++) {
                assert_int_equal(in[i], (uint8_t)((got + (size_t)i) * 31 >> 3));
            }
            got += (size_t)n;
        }
        if (sent > TOTAL) {
            sent = TOTAL;
        }
    }
}

static void test_backpressure(void **state)
{
    (void)state;
    start(open_socket);
    int w = connect_worker(), h = accept_host();
    stream(w, h);
    close(w);
    close(h);
    w = connect_worker();
    h = accept_host();
    stream(h, w);
    close(w);
    close(h);
}

static void cpu_ms(int64_t *ret)
{
    char path[48], text[512];
    long user, sys;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)T.relay);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof(text), f));
    fclose(f);
    assert_int_equal(sscanf(strrchr(text, ')') + 2,
                            "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &sys),
                     2);
    *ret = (user + sys) * 1000 / sysconf(_SC_CLK_TCK);
}

/* A client that sends more than there is room for and hangs up, a host that does not read. */
static void test_stuck_does_not_spin(void **state)
{
    static char much[65536];
    int64_t before, after;

    (void)state;
    start(open_socket);
    int w = connect_worker(), h = accept_host();
    fcntl(w, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 100; i++) {
        if (write(w, much, sizeof(much)) < 0) {
            usleep(2000);
        }
    }
    cpu_ms(&before);
    usleep(300000);
    cpu_ms(&after);
    assert_true(after - before < 100);
    close(w);
    close(h);
}

/* ---- with a port that nobody has opened yet -------------------------------------------------- */

static void open_pty_pair(void)
{
    struct termios t;

    T.pty = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    assert_true(T.pty >= 0);
    assert_int_equal(grantpt(T.pty), 0);
    assert_int_equal(unlockpt(T.pty), 0);
    T.pty_slave = ptsname(T.pty);
    int fd = open(T.pty_slave, O_RDWR | O_NOCTTY);
    assert_int_equal(tcgetattr(fd, &t), 0);
    cfmakeraw(&t);
    assert_int_equal(tcsetattr(fd, TCSANOW, &t), 0);
    close(fd); /* from here on the master hangs up */
}

static void test_waits_for_the_host(void **state)
{
    int64_t before, after;

    (void)state;
    open_pty_pair();
    start(open_pty);
    int w = connect_worker();
    say(w, "CONNECT");
    cpu_ms(&before);
    assert_nothing(w, 300); /* nobody is there: the connection waits, it is not ended */
    cpu_ms(&after);
    assert_true(after - before < 100);
    int h = open(T.pty_slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_says(h, "CONNECT");
    say(h, "INFO");
    assert_says(w, "INFO");
    close(h); /* now it is an end */
    assert_ends(w);
    close(w);
}

static void test_client_leaves_while_waiting(void **state)
{
    (void)state;
    open_pty_pair();
    start(open_pty);
    close(connect_worker());
    usleep(100000);
    int w = connect_worker();
    int h = open(T.pty_slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
    say(h, "INFO");
    assert_says(w, "INFO");
    close(w);
    close(h);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static int no_port(void *arg, struct err *e)
{
    (void)arg;
    return err_set(e, ERR_IO, "port: gone");
}

static void test_no_port(void **state)
{
    int status;

    (void)state;
    start(no_port);
    int w = connect_worker();
    assert_int_equal(waitpid(T.relay, &status, 0), T.relay);
    T.relay = 0;
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_ends(w);
    close(w);
}

static void test_listen_fails(void **state)
{
    struct init_bus b = {.host = "192.0.2.1", .port = 4222, .family = AF_INET};
    struct err e = {0};
    int fd;

    (void)state;
    b.addr.v4.s_addr = htonl(0xc0000201);
    assert_int_equal(init_net_listen(&b, &fd, &e), -1);
    assert_non_null(strstr(e.msg, "cannot listen at 192.0.2.1 port 4222: "));
}

/* With its rights given up it still relays, and can do nothing else. Needs root. */
static int confined(int then_exec)
{
    struct err e = {0};

    if (init_relay_confine(64999, &e)) {
        return 2;
    }
    if (getuid() != 64999 || setuid(0) == 0) {
        return 3;
    }
    return then_exec ? execl("/bin/true", "true", NULL) : 0;
}

static void test_confined(void **state)
{
    int status;

    (void)state;
#ifdef COFFER_SANITIZED
    skip();
#endif
    if (getuid() != 0) {
        skip();
    }
    pid_t pid = fork();
    if (pid == 0) {
        _exit(confined(1));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static int relay_confined(void *arg, struct err *e)
{
    int fd = open_pty(arg, e); /* its dup(2) is not the relay's to do */

    return fd < 0 || init_relay_confine(64999, e) ? -1 : fd;
}

static void test_confined_relays(void **state)
{
    (void)state;
#ifdef COFFER_SANITIZED
    skip();
#endif
    if (getuid() != 0) {
        skip();
    }
    open_pty_pair();
    int h = open(T.pty_slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
    start(relay_confined);
    int w = connect_worker();
    say(w, "hello");
    assert_says(h, "hello");
    say(h, "there");
    assert_says(w, "there");
    close(w);
    close(h);
}

int main(void)
{
#define T_(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T_(test_both_ways),
        T_(test_ends_are_passed_on),
        T_(test_newer_replaces),
        T_(test_pause),
        T_(test_backpressure),
        T_(test_stuck_does_not_spin),
        T_(test_waits_for_the_host),
        T_(test_client_leaves_while_waiting),
        T_(test_no_port),
        T_(test_listen_fails),
        T_(test_confined),
        T_(test_confined_relays),
    };

    return cmocka_run_group_tests_name("init_relay", tests, NULL, NULL);
}
