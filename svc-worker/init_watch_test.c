#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "svc-worker/init.h"

/* The first process's loop, in a child of the test that adopts orphans as a first process does. The
 * worker is a shell script; ports are sockets. */

#define TEXT_MAX (1u << 20)

struct run {
    char *ctl, *log; /* what came, owned */
    size_t ctl_n, log_n;
    int status;
    int ctl_fd, log_fd; /* the host's ends */
    pid_t pid;
};

static pid_t spared; /* the loop itself */

/* All that the loop has started are in its process group or in one of its sessions; the test kills
 * them by their parent. */
static void kill_children(void)
{
    char path[64], text[4096];
    int n;

    for (int round = 0; round < 20; round++) {
        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)spared, (int)spared);
        FILE *f = fopen(path, "re");
        char *line = f ? fgets(text, sizeof(text), f) : NULL;
        if (f) {
            fclose(f);
        }
        if (!line) {
            return;
        }
        for (char *p = text; sscanf(p, "%d", &n) == 1 && n > 1; p = strchr(p, ' ') + 1) {
            kill(n, SIGKILL);
            if (!strchr(p, ' ')) {
                break;
            }
        }
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        usleep(2000);
    }
}

static int relay_waits(void *arg)
{
    (void)arg;
    while (pause() < 0) {
    }
    return 0;
}

static int relay_ends(void *arg)
{
    (void)arg;
    return 3;
}

static int relay_says(void *arg)
{
    (void)arg;
    if (write(2, "relay here\n", 11) != 11) {
        return 1;
    }
    return relay_waits(NULL);
}

static int in_child(const char *script, int (*relay)(void *), int ctl, int log)
{
    char *const argv[] = {(char *)"sh", (char *)"-c", (char *)(uintptr_t)script, NULL};
    struct err e = {0};
    int launch;

    spared = getpid();
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) ||
        init_launch_file(BYTES_STR("the launch\n"), &launch, &e)) {
        return 99;
    }
    const struct init_watch_env env = {.ctl_fd = ctl,
                                       .log_fd = log,
                                       .alive_every_ms = 100,
                                       .flush_ms = 500,
                                       .worker = "/bin/sh",
                                       .worker_argv = argv,
                                       .launch_fd = launch,
                                       .relay = relay,
                                       .kill_all = kill_children};
    return init_watch(&env);
}

static struct run start(const char *script, int (*relay)(void *))
{
    struct run r = {0};
    int ctl[2], log[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ctl), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, log), 0);
    r.pid = fork();
    assert_true(r.pid >= 0);
    if (r.pid == 0) {
        close(ctl[0]);
        close(log[0]);
        _exit(in_child(script, relay, ctl[1], log[1]));
    }
    close(ctl[1]);
    close(log[1]);
    r.ctl_fd = ctl[0];
    r.log_fd = log[0];
    return r;
}

static int drain(int fd, char **text, size_t *n)
{
    if (!*text) {
        *text = xcalloc(1, TEXT_MAX);
    }
    for (;;) {
        assert_true(*n < TEXT_MAX - 1);
        ssize_t got = read(fd, *text + *n, TEXT_MAX - 1 - *n);
        if (got <= 0) {
            return got < 0 && errno == EAGAIN;
        }
        *n += (size_t)got;
    }
}

/* Reads both ports until they end. */
static void finish(struct run *r)
{
    int64_t end = init_now_ms() + 20000;
    int ctl = 1, log = 1, status;

    while (ctl || log) {
        struct pollfd f[2] = {{.fd = ctl ? r->ctl_fd : -1, .events = POLLIN},
                              {.fd = log ? r->log_fd : -1, .events = POLLIN}};
        assert_true(init_now_ms() < end);
        poll(f, 2, 1000);
        ctl = ctl && drain(r->ctl_fd, &r->ctl, &r->ctl_n);
        log = log && drain(r->log_fd, &r->log, &r->log_n);
    }
    assert_int_equal(waitpid(r->pid, &status, 0), r->pid);
    assert_true(WIFEXITED(status));
    r->status = WEXITSTATUS(status);
}

static void run_done(struct run *r)
{
    close(r->ctl_fd);
    close(r->log_fd);
    free(r->ctl);
    free(r->log);
}

/* ctl without the alive lines, which come when they come. */
static void assert_ctl(struct run *r, const char *want)
{
    _cleanup_free_ char *rest = xcalloc(1, r->ctl_n + 1);
    size_t n = 0;

    for (char *p = r->ctl; *p;) {
        char *end = strchr(p, '\n');
        assert_non_null(end); /* whole lines only */
        if (strncmp(p, "{\"alive\":", 9) != 0) {
            memcpy(rest + n, p, (size_t)(end + 1 - p));
            n += (size_t)(end + 1 - p);
        }
        p = end + 1;
    }
    assert_string_equal(rest, want);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;

    for (const char *p = text; (p = strstr(p, what)); p++) {
        n++;
    }
    return n;
}

/* ---- the worker's life ----------------------------------------------------------------------- */

static void test_lines_and_exit(void **state)
{
    struct run r = start("cat; echo '{\"phase\":\"run\"}'; echo note >&2; exit 7", relay_waits);

    (void)state;
    finish(&r);
    assert_int_equal(r.status, 7);
    assert_ctl(&r, "the launch\n{\"phase\":\"run\"}\n{\"exit\":7}\n");
    assert_int_equal(count(r.ctl, "{\"alive\":"), 1);
    assert_non_null(strstr(r.log, "note\n"));
    assert_non_null(strstr(r.log, "init: the worker ended: exit status 7\n"));
    /* Of this process and the relay, at least. */
    assert_in_range(count(r.log, "{\"log\":\"memory\",\"peak_pss_kib\":"), 1, 3);
    run_done(&r);
}

static void test_killed(void **state)
{
    struct run r = start("kill -9 $$", relay_waits);

    (void)state;
    finish(&r);
    assert_int_equal(r.status, 137);
    assert_ctl(&r, "{\"exit\":137}\n");
    assert_non_null(strstr(r.log, "init: the worker ended: signal 9\n"));
    run_done(&r);
}

static void test_no_such_worker(void **state)
{
    struct run r = start("exec /nowhere/at/all", relay_waits);

    (void)state;
    finish(&r);
    assert_int_equal(r.status, 127);
    assert_ctl(&r, "{\"exit\":127}\n");
    run_done(&r);
}

/* It gets nothing of the first process but its three descriptors. */
static void test_clean_environment(void **state)
{
    setenv("COFFER_LEAK", "x", 1);
    struct run r = start("echo ${COFFER_LEAK:-none}; ls /proc/self/fd | tr '\\n' ' '; echo; "
                         "grep SigBlk /proc/self/status",
                         relay_waits);

    (void)state;
    finish(&r);
    /* 3 is ls's own. */
    assert_ctl(&r, "none\n0 1 2 3 \nSigBlk:\t0000000000000000\n{\"exit\":0}\n");
    run_done(&r);
}

static void test_alive(void **state)
{
    struct run r = start("sleep 1", relay_waits);

    (void)state;
    finish(&r);
    assert_true(count(r.ctl, "{\"alive\":") >= 3);
    assert_true(count(r.ctl, "{\"alive\":") <= 14);
    assert_ctl(&r, "{\"exit\":0}\n");
    run_done(&r);
}

static size_t children_of(pid_t pid)
{
    _cleanup_free_ char *path = xasprintf("/proc/%d/task/%d/children", (int)pid, (int)pid);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    char text[4096] = "";

    assert_non_null(f);
    return fgets(text, sizeof(text), f) ? count(text, " ") : 0;
}

/* Orphans are adopted and collected; what still runs at the end is killed and holds nothing up. */
static void test_orphans(void **state)
{
    int64_t from = init_now_ms();
    struct run r = start("for i in 1 2 3 4 5 6 7 8; do (sh -c 'sleep 0.05' &); done; "
                         "(setsid sleep 100 &); sleep 2; "
                         "echo done",
                         relay_waits);

    (void)state;
    /* Once they are collected, there are the relay, the worker and the long sleep. */
    usleep(300000);
    while (children_of(r.pid) > 3 && init_now_ms() - from < 1500) {
        usleep(20000);
    }
    assert_true(children_of(r.pid) <= 3);
    finish(&r);
    assert_ctl(&r, "done\n{\"exit\":0}\n");
    assert_true(init_now_ms() - from < 5000);
    run_done(&r);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void test_long_and_unfinished_lines(void **state)
{
    struct run r = start("head -c 16384 /dev/zero | tr '\\0' a; echo; "
                         "head -c 16385 /dev/zero | tr '\\0' b; echo; echo c; printf d",
                         relay_waits);

    (void)state;
    finish(&r);
    assert_int_equal(count(r.ctl, "b"), 0);
    assert_int_equal(count(r.ctl, "a\n"), 1);
    assert_non_null(strstr(r.ctl, "\nc\n{\"exit\":0}\n"));
    assert_null(strchr(r.ctl, 'd'));
    run_done(&r);
}

/* Nobody reads the log: the worker does not wait for it. Nobody reads ctl for a while: the worker
 * waits, and no line is lost. */
static void test_slow_reader(void **state)
{
    struct run r =
        start("i=0; while [ $i -lt 3000 ]; do echo "
              "\"log line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" >&2; "
              "i=$((i+1)); done; "
              "i=0; while [ $i -lt 9000 ]; do echo "
              "\"{\\\"phase\\\":\\\"$i yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\\\"}\"; "
              "i=$((i+1)); done",
              relay_waits);

    (void)state;
    usleep(1500000);
    assert_int_equal(waitpid(r.pid, NULL, WNOHANG), 0);
    finish(&r);
    assert_int_equal(count(r.ctl, "{\"phase\":"), 9000);
    assert_int_equal(count(r.ctl, "{\"exit\":0}\n"), 1);
    assert_true(count(r.log, "log line ") < 1500);
    assert_non_null(strstr(r.log, " log lines were dropped\n"));
    run_done(&r);
}

/* A host that never reads does not hold up the end. */
static void test_no_reader(void **state)
{
    int64_t from = init_now_ms();
    struct run r =
        start("head -c 2000000 /dev/zero | tr '\\0' '\\n' & sleep 0.3; exit 4", relay_waits);
    int status;

    (void)state;
    assert_int_equal(waitpid(r.pid, &status, 0), r.pid);
    assert_int_equal(WEXITSTATUS(status), 4);
    assert_true(init_now_ms() - from < 10000);
    run_done(&r);
}

/* ---- the relay ------------------------------------------------------------------------------- */

static void test_relay_restarts_are_bounded(void **state)
{
    struct run r = start("sleep 100", relay_ends);

    (void)state;
    finish(&r);
    assert_int_equal(r.status, 1);
    assert_ctl(&r, "{\"failed\":\"the bus relay ended 6 times in 10 s, the last with exit status "
                   "3\"}\n{\"exit\":1}\n");
    assert_int_equal(count(r.log, "init: the relay ended: exit status 3\n"), 6);
    run_done(&r);
}

static void test_relay_comes_back(void **state)
{
    struct run r = start("sleep 0.2; kill -KILL $(cut -d\" \" -f1 "
                         "/proc/$PPID/task/$PPID/children); sleep 0.3; echo still",
                         relay_says);

    (void)state;
    finish(&r);
    assert_ctl(&r, "still\n{\"exit\":0}\n");
    assert_int_equal(count(r.log, "relay here\n"), 2);
    assert_int_equal(count(r.log, "init: the relay ended: signal 9\n"), 1);
    run_done(&r);
}

/* ---- a VM that never got that far ------------------------------------------------------------ */

static void assert_failed(const struct err *why, int status, const char *want)
{
    char text[1024];
    int fds[2];

    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(init_watch_failed(fds[1], 200, why), status);
    ssize_t n = read(fds[0], text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = 0;
    assert_string_equal(text, want);
    close(fds[0]);
    close(fds[1]);
}

static void test_failed_early(void **state)
{
    struct err e = {0};

    (void)state;
    err_refuse(&e, ERR_INVALID, "launch", "a LaunchConfig", "0 bytes");
    assert_failed(&e, 3,
                  "{\"refused\":{\"code\":\"invalid\",\"clause\":\"launch\",\"expected\":\"a "
                  "LaunchConfig\",\"actual\":\"0 bytes\",\"message\":\"launch: expected a "
                  "LaunchConfig, got 0 bytes\"}}\n{\"exit\":3}\n");
    err_clear(&e);
    err_set(&e, ERR_TIMEOUT, "the VM has no virtio-serial port x");
    assert_failed(&e, 1, "{\"failed\":\"the VM has no virtio-serial port x\"}\n{\"exit\":1}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_and_exit),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_no_such_worker),
        cmocka_unit_test(test_clean_environment),
        cmocka_unit_test(test_alive),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_long_and_unfinished_lines),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_no_reader),
        cmocka_unit_test(test_relay_restarts_are_bounded),
        cmocka_unit_test(test_relay_comes_back),
        cmocka_unit_test(test_failed_early),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("init_watch", tests, NULL, NULL);
}
