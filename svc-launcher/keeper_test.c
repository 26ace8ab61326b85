#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "svc-launcher/keeper_fixture_test.h"

/* A keeper and one launcher after another; the worker is a shell script, and this program is its
 * own keeper. */

static char dir[64], worker[128], work[128], sock[LINK_PATH_MAX];
static struct heard heard;
static int64_t grace_ms = 200;

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-keeper-XXXXXX");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(worker, sizeof(worker), "%s/worker", dir);
    snprintf(work, sizeof(work), "%s/j.1", dir);
    link_path(work, sock);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return remove_tree(dir, NULL);
}

static int64_t unix_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void pause_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static struct cvm_handle start(const char *script, int64_t orphan_ms, int64_t deadline_ms)
{
    struct backend_env env = {.keeper = "/proc/self/exe",
                              .worker = worker,
                              .store = dir,
                              .cvm_dir = dir,
                              .seed_file = worker,
                              .grace_ms = grace_ms,
                              .orphan_ms = orphan_ms};
    struct backend_launch l = {.job = "j",
                               .attempt = 1,
                               .config = BYTES_STR("c"),
                               .work_dir = work,
                               .deadline_ms = deadline_ms ? unix_ms() + deadline_ms : 0};
    struct cvm_handle h;
    struct err e = {0};

    assert_int_equal(file_replace(worker, BYTES_STR(script), 0700, &e), 0);
    assert_int_equal(mkdir(work, 0700), 0);
    heard_launch(&heard, backend_find("process"), &env, &l, &h);
    return h;
}

/* The launcher is gone; another connects. */
static void hang_up(struct cvm_handle *h)
{
    close(h->link_fd);
    h->link_fd = -1;
}

static void connect_again(struct cvm_handle *h)
{
    struct err e = {0};

    memset(&heard, 0, sizeof(heard));
    if (link_connect(sock, h->pid, &h->link_fd, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static void nothing_left(void)
{
    assert_int_equal(access(work, F_OK), -1);
    assert_int_equal(access(sock, F_OK), -1);
}

static void what_is_not_acknowledged_comes_again(void **state)
{
    struct cvm_handle h =
        start("#!/bin/sh\necho one\necho log >&2\nsleep 0.3\necho two\nsleep 0.3\necho three\n"
              "exit 5\n",
              60000, 0);

    (void)state;
    heard_expect(&heard, &h, heard.life, "{\"booted\":true}\none\n");
    heard_expect(&heard, &h, heard.log, "log\n");
    hang_up(&h); /* nothing was acknowledged */
    connect_again(&h);
    heard_expect(&heard, &h, heard.life, "{\"booted\":true}\none\n");
    heard_expect(&heard, &h, heard.log, "log\n");
    heard_ack(&heard, &h);
    pause_ms(50);
    hang_up(&h);
    pause_ms(800); /* it ends while nobody is there */
    assert_int_equal(access(work, F_OK), -1);
    assert_int_equal(access(sock, F_OK), 0);
    connect_again(&h);
    heard_end(&heard, &h);
    assert_string_equal(heard.life, "two\nthree\n");
    assert_string_equal(heard.log, "");
    assert_int_equal(heard.end.exit_code, 5);
    assert_int_equal(heard.end.lost, 0);
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)), 5);
    nothing_left();
}

static void starts_only_once_it_is_recorded(void **state)
{
    struct backend_env env = {.keeper = "/proc/self/exe", .worker = worker, .orphan_ms = 60000};
    struct backend_launch l = {
        .job = "j", .attempt = 1, .config = BYTES_STR("c"), .work_dir = work};
    struct cvm_handle h;
    struct err e = {0};

    (void)state;
    _cleanup_free_ char *script = xasprintf("#!/bin/sh\necho ran >%s/ran\n", dir);
    _cleanup_free_ char *ran = xasprintf("%s/ran", dir);
    assert_int_equal(file_replace(worker, BYTES_STR(script), 0700, &e), 0);
    assert_int_equal(mkdir(work, 0700), 0);
    assert_int_equal(backend_find("process")->launch(&env, &l, &h, &e), 0);
    memset(&heard, 0, sizeof(heard));
    heard_wait(&heard, &h, 2000);
    assert_int_equal(heard.hello, 1);
    hang_up(&h); /* the launcher died before it could record it */
    for (int i = 0; i < 500 && waitpid(h.pid, NULL, WNOHANG) == 0; i++) {
        pause_ms(10);
    }
    close(h.pid_fd);
    assert_int_equal(access(ran, F_OK), -1);
    nothing_left();
}

static void ends_without_a_launcher(void **state)
{
    struct cvm_handle h = start("#!/bin/sh\nexec sleep 86399.126\n", 1000, 0);

    (void)state;
    heard_expect(&heard, &h, heard.life, "booted");
    hang_up(&h);
    pause_ms(100);
    connect_again(&h); /* in time */
    pause_ms(1300);
    assert_int_equal(access(work, F_OK), 0);
    hang_up(&h);
    for (int i = 0; i < 500 && waitpid(h.pid, NULL, WNOHANG) == 0; i++) {
        pause_ms(10);
    }
    close(h.pid_fd);
    nothing_left();
}

/* It is being ended for want of a launcher when one comes. */
static void too_late_is_lost(void **state)
{
    grace_ms = 1500;
    struct cvm_handle h = start("#!/bin/sh\ntrap '' TERM\necho deaf\nwhile :; do sleep 86399.126; "
                                "done\n",
                                100, 0);

    (void)state;
    heard_expect(&heard, &h, heard.life, "deaf");
    hang_up(&h);
    grace_ms = 200;
    pause_ms(500);
    connect_again(&h);
    heard_end(&heard, &h);
    assert_int_equal(heard.ended, 1);
    assert_int_equal(heard.end.lost, 1);
    assert_int_equal(heard.end.exit_code, 128 + SIGKILL);
    heard_reap(&heard, &h);
    nothing_left();
}

static void keeps_the_deadline_alone(void **state)
{
    struct cvm_handle h = start("#!/bin/sh\nexec sleep 86399.126\n", 60000, 400);

    (void)state;
    heard_expect(&heard, &h, heard.life, "booted");
    hang_up(&h);
    for (int i = 0; i < 300 && access(work, F_OK) == 0; i++) {
        pause_ms(10);
    }
    connect_again(&h);
    heard_end(&heard, &h);
    struct lifecycle l;
    struct err e = {0};
    char *line = strchr(heard.life, '\n') + 1;
    line[strcspn(line, "\n")] = '\0';
    assert_int_equal(lifecycle_parse(BYTES_STR(line), &l, &e), 0);
    assert_int_equal(l.kind, BACKEND_REFUSED);
    assert_string_equal(l.clause, "deadline");
    assert_string_equal(l.code, "timeout");
    assert_int_equal(heard.end.exit_code, 128 + SIGTERM);
    heard_reap(&heard, &h);
    nothing_left();
}

static void forgets_when_told_to(void **state)
{
    struct cvm_handle h = start("#!/bin/sh\nexec sleep 86399.126\n", 60000, 0);

    (void)state;
    heard_expect(&heard, &h, heard.life, "booted");
    kill(h.pid, KEEPER_SIGNAL_FORGET);
    hang_up(&h); /* its end waits for nobody */
    for (int i = 0; i < 500 && waitpid(h.pid, NULL, WNOHANG) == 0; i++) {
        pause_ms(10);
    }
    close(h.pid_fd);
    nothing_left();
}

/* Lifecycle lines wait in the worker when there are too many; log lines are dropped. */
static void holds_within_bounds(void **state)
{
    struct cvm_handle h =
        start("#!/bin/sh\ni=0\n"
              "while [ $i -lt 500 ]; do printf 'line %0200d\\n' $i; i=$((i+1)); done\n"
              "while [ $i -lt 1150 ]; do echo \"log $i\" >&2; i=$((i+1)); done\n",
              60000, 0);
    unsigned n = 0;

    (void)state;
    hang_up(&h);
    pause_ms(300);
    assert_int_equal(access(work, F_OK), 0); /* the pipe is full */
    connect_again(&h);
    for (int i = 0; i < 2000 && !heard.ended; i++) {
        heard_wait(&heard, &h, 10);
        char *line = strstr(heard.life, "line ");
        if (line) {
            assert_int_equal(strtoul(line + 5, NULL, 10), n);
            n++;
        }
        heard.life[0] = heard.log[0] = '\0';
        heard_ack(&heard, &h);
    }
    assert_int_equal(n, 500);
    assert_true(heard.end.dropped >= 650 - 4 * 100);
    heard_reap(&heard, &h);
    nothing_left();
}

static size_t count(const struct backlog *b)
{
    size_t n = 0;

    for (const struct record *r = b->first; r; r = r->next) {
        n++;
    }
    return n;
}

static void backlog_bounds(void **state)
{
    static const uint8_t big[LINK_DATA_MAX];
    struct backlog b = {0};

    (void)state;
    backlog_add(&b, LINK_LIFECYCLE, BYTES_STR("first"));
    for (int i = 0; i < 1000; i++) {
        backlog_add(&b, LINK_LOG, BYTES(big, 1000));
    }
    backlog_add(&b, LINK_LIFECYCLE, BYTES_STR("last"));
    assert_int_equal(count(&b), 2 + BACKLOG_LOG_BYTES / 1000);
    assert_int_equal(b.dropped, 1000 - BACKLOG_LOG_BYTES / 1000);
    assert_memory_equal(b.first->data, "first", 5);
    assert_ptr_equal(b.unsent, b.first);
    assert_int_equal(b.last->seq, 1002);
    b.unsent = NULL; /* all was sent */
    backlog_ack(&b, 1001);
    assert_int_equal(count(&b), 1);
    assert_int_equal(b.log_bytes, 0);
    assert_ptr_equal(b.unsent, NULL);
    backlog_rewind(&b);
    assert_ptr_equal(b.unsent, b.first);
    backlog_ack(&b, 1002);
    assert_null(b.first);
    assert_null(b.last);
    assert_int_equal(b.lines + b.bytes, 0);
    for (size_t i = 0; i < BACKLOG_BYTES / sizeof(big); i++) {
        assert_int_equal(backlog_full(&b), 0);
        backlog_add(&b, LINK_LIFECYCLE, BYTES(big, sizeof(big)));
    }
    assert_int_equal(backlog_full(&b), 1);
    backlog_ack(&b, b.first->seq);
    assert_int_equal(backlog_full(&b), 0);
    backlog_done(&b);
    for (size_t i = 0; i < BACKLOG_LINES; i++) {
        assert_int_equal(backlog_full(&b), 0);
        backlog_add(&b, LINK_LIFECYCLE, BYTES_STR("x"));
    }
    assert_int_equal(backlog_full(&b), 1);
    backlog_done(&b);
}

static void messages(void **state)
{
    static const uint8_t good[] = {'A', 0, 0, 0, 0, 0, 0, 1, 2, 'x'};
    static const uint8_t unknown[LINK_HEAD_BYTES] = {'Z'};
    struct link_msg m;
    struct link_end end = {.exit_code = 143, .lost = 1, .dropped = 70000}, back;
    uint8_t packed[LINK_END_BYTES];
    struct err e = {0};

    (void)state;
    assert_int_equal(link_parse(BYTES(good, sizeof(good)), &m, &e), 0);
    assert_int_equal(m.kind, LINK_ACK);
    assert_int_equal(m.seq, 258);
    assert_int_equal(m.data.n, 1);
    assert_int_equal(link_parse(BYTES(good, 8), &m, &e), -1);
    assert_string_equal(e.msg, "link: expected 9 to 16393 bytes, got 8");
    assert_int_equal(link_parse(BYTES(unknown, sizeof(unknown)), &m, &e), -1);
    assert_string_equal(e.msg, "link: expected a kind of message, got 90");
    link_end_pack(&end, packed);
    assert_int_equal(link_end_parse(BYTES(packed, sizeof(packed)), &back, &e), 0);
    assert_memory_equal(&end, &back, sizeof(end));
    assert_int_equal(link_end_parse(BYTES(packed, 5), &back, &e), -1);
    assert_string_equal(e.msg, "link: expected 6 bytes of an end, got 5");
}

static void connecting(void **state)
{
    struct stat st;
    struct err e = {0};
    char far[300];
    int fd = -1, listener = -1, at = -1;

    (void)state;
    assert_int_equal(link_connect(sock, getpid(), &fd, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(link_listen(sock, &listener, &e), 0);
    assert_int_equal(stat(sock, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(link_listen(sock, &at, &e), -1); /* it is there */
    assert_int_equal(link_accept(listener), -1);
    assert_int_equal(link_connect(sock, getpid(), &fd, &e), 0);
    at = link_accept(listener);
    assert_true(at >= 0);
    close(at);
    close(fd);
    assert_int_equal(link_connect(sock, 1, &fd, &e), -1); /* another process listens */
    assert_int_equal(e.code, ERR_DENIED);
    assert_non_null(strstr(e.msg, "expected the recorded keeper, got pid"));
    close(listener);
    assert_int_equal(link_connect(sock, getpid(), &fd, &e), -1); /* a stale one */
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(unlink(sock), 0);
    /* A path that is longer than an address. */
    int n = snprintf(far, sizeof(far), "%s/%0100d", dir, 0);
    assert_int_equal(mkdir(far, 0700), 0);
    snprintf(far + n, sizeof(far) - (size_t)n, "/j.1.sock");
    assert_int_equal(link_listen(far, &listener, &e), 0);
    assert_int_equal(link_connect(far, getpid(), &fd, &e), 0);
    close(fd);
    close(listener);
    /* Another user's connection. */
    if (geteuid() == 0) {
        assert_int_equal(link_listen(sock, &listener, &e), 0);
        assert_int_equal(chmod(dir, 0755) + chmod(sock, 0666), 0);
        pid_t pid = fork();
        if (pid == 0) {
            _exit(setuid(12345) == 0 && link_connect(sock, getppid(), &fd, &e) < 0 &&
                          e.code == ERR_DENIED
                      ? 0
                      : 1);
        }
        int status = 1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(link_accept(listener), -1);
        close(listener);
        unlink(sock);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && streq(argv[1], KEEPER_VERB)) {
        return keeper_main(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backlog_bounds),
        cmocka_unit_test(messages),
        cmocka_unit_test(connecting),
        cmocka_unit_test(what_is_not_acknowledged_comes_again),
        cmocka_unit_test(starts_only_once_it_is_recorded),
        cmocka_unit_test(ends_without_a_launcher),
        cmocka_unit_test(too_late_is_lost),
        cmocka_unit_test(keeps_the_deadline_alone),
        cmocka_unit_test(forgets_when_told_to),
        cmocka_unit_test(holds_within_bounds),
    };
    return cmocka_run_group_tests_name("keeper", tests, setup, teardown);
}
