/* Runs the escape program in the sandbox, and small workloads that end in every way there is. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "tests/isolation/escape.h"
#include "tests/isolation/isolation_box.h"

#define SKIPPED 77

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static size_t count(const struct probe *t, int control)
{
    size_t n = 0;

    for (; t->name; t++) {
        n += !control || t->control;
    }
    return n;
}

static size_t count_all(int control)
{
    return count(probes_kernel, control) + count(probes_files, control) +
           count(probes_world, control) + count(probes_resources, control);
}

/* Asserts that there are `n` lines and that each says `want`. */
static void assert_lines(char *text, size_t n, const char *want)
{
    size_t lines = 0, wrong = 0;
    char *save = NULL;

    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        const char *colon = strncmp(l, "ESCAPE ", 7) == 0 ? strstr(l, ": ") : NULL;
        lines++;
        if (!colon || strncmp(colon + 2, want, strlen(want)) != 0) {
            print_error("expected '%s': %s\n", want, l);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
    assert_int_equal(lines, n);
}

static struct box *assert_ran(struct box *b)
{
    if (b->rc != 0) {
        fail_msg("sandbox_run: %s (%s)", b->e.msg, b->e.origin ? b->e.origin : "");
    }
    return b;
}

/* --- escapes --- */

/* Outside of the sandbox the same probes must find the way open; else "blocked" would mean nothing.
 */
static void test_control(void **state)
{
    (void)state;
    int fds[2], status;
    static char text[65536];
    size_t n = 0;
    char *const *env = box_env("control", 0);

    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        char dir[] = "/tmp/coffer-control.XXXXXX";
        char *const argv[] = {(char *)"escape", (char *)"control", NULL};
        char *more[40];
        size_t k = 0;
        /* A data directory to write to, and a program in it. */
        if (!mkdtemp(dir) || chdir(dir) || close(open("data.txt", O_CREAT | O_WRONLY, 0600)) ||
            symlink(box_escape_path(), "program")) {
            _exit(98);
        }
        while (env[k] && k < 30) {
            more[k] = env[k];
            k++;
        }
        more[k++] = xasprintf("ESCAPE_DATASET=%s", dir);
        more[k++] = xasprintf("ESCAPE_OUTPUT=%s", dir);
        more[k] = NULL;
        close(0);
        if (open("/dev/null", O_RDONLY) != 0 || dup2(fds[1], 1) < 0) {
            _exit(98);
        }
        pid_t escape = fork();
        if (escape == 0) {
            execve(box_escape_path(), argv, more);
            _exit(98);
        }
        waitpid(escape, &status, 0);
        unlink("data.txt");
        unlink("program");
        rmdir(dir);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    }
    close(fds[1]);
    for (ssize_t got; (got = read(fds[0], text + n, sizeof(text) - 1 - n)) > 0;) {
        n += (size_t)got;
    }
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_lines(text, count_all(1), "POSSIBLE");
    assert_int_equal(WEXITSTATUS(status), count_all(1));
}

static void test_escapes(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "all";
    b->timeout_ms = 100000;
    box_run(b);
    assert_ran(b);
    assert_lines(b->out, count_all(0), "blocked");
    assert_int_equal(b->result.exit_code, 0);
    assert_false(b->result.timed_out);
    assert_false(b->result.oom_killed);
    box_assert_gone(b);
    box_free(b);
}

/* --- ends --- */

static void test_exit_code(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "exit";
    b->args[2] = "42";
    box_run(b);
    assert_ran(b);
    assert_int_equal(b->result.exit_code, 42);
    assert_int_equal(b->result.signal, 0);
    assert_false(b->result.timed_out);
    assert_true(b->result.wall_ms < 5000);
    box_assert_gone(b);
    box_free(b);
}

static void test_signal(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "signal";
    b->args[2] = "4";
    box_run(b);
    assert_ran(b);
    assert_int_equal(b->result.signal, SIGILL);
    assert_int_equal(b->result.exit_code, 128 + SIGILL);
    box_free(b);
}

static void test_timeout(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "orphans-sleep";
    b->timeout_ms = 700;
    box_run(b);
    assert_ran(b);
    assert_true(b->result.timed_out);
    assert_int_equal(b->result.signal, SIGKILL);
    assert_in_range(b->result.wall_ms, 700, 3000);
    box_assert_gone(b);
    box_free(b);
}

static void test_oom(void **state)
{
    (void)state;
    static const char *const how[] = {"hog", "hog-child"};

    for (size_t i = 0; i < ARRAY_LEN(how); i++) {
        struct box *b = box_new();
        b->args[1] = how[i];
        b->timeout_ms = 20000;
        box_run(b);
        assert_ran(b);
        if (!b->result.limits_enforced) {
            print_message("no memory cgroup: only the address space is limited\n");
            assert_true(b->result.exit_code == 7 || b->result.timed_out);
        } else {
            assert_true(b->result.oom_killed);
            assert_int_equal(b->result.signal, SIGKILL);
            assert_false(b->result.timed_out);
        }
        box_assert_gone(b);
        box_free(b);
    }
}

static void hide_cgroups(struct sandbox_config *c, const char *work_dir)
{
    (void)c;
    (void)work_dir;
    while (umount2("/sys/fs/cgroup", MNT_DETACH) == 0) {
    }
}

/* Where there is no cgroup, the address space is bounded, and the result says what is weaker. */
static void test_without_cgroups(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "hog";
    b->change = hide_cgroups;
    box_run(b);
    assert_ran(b);
    assert_int_equal(b->result.limits_enforced, 0);
    assert_non_null(strstr(b->result.limits_note, "memory: no such cgroup hierarchy is mounted"));
    assert_non_null(strstr(b->result.limits_note, "pids: "));
    assert_int_equal(b->result.exit_code, 7);
    box_free(b);
}

static void test_streams_bounded(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "babble";
    box_run(b);
    assert_ran(b);
    assert_int_equal(b->result.exit_code, 0);
    assert_int_equal(b->out[0], 'b');
    box_free(b);
}

/* --- leftovers --- */

static void test_orphans(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "orphans";
    box_run(b);
    assert_ran(b);
    assert_int_equal(b->result.exit_code, 0);
    box_assert_gone(b);
    box_free(b);
}

static void test_killed_runner(void **state)
{
    (void)state;
    struct box *b = box_new();
    size_t n = 0;
    struct err e = {0};
    int status;

    b->args[1] = "orphans-sleep";
    pid_t pid = box_start(b);
    /* crun, the program and its five children. */
    for (int i = 0; i < 300 && box_processes(b) < 7; i++) {
        sleep_ms(10);
    }
    assert_int_equal(box_processes(b), 7);
    assert_int_equal(sandbox_cleanup_stale(b->id, &n, &e), 0);
    assert_int_equal(n, 0); /* a live one is left alone */
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    for (int i = 0; i < 200 && box_processes(b) > 0; i++) {
        sleep_ms(10);
    }
    assert_int_equal(box_processes(b), 0);
    sleep_ms(100);
    assert_int_equal(sandbox_cleanup_stale(b->id, &n, &e), 0);
    box_assert_gone(b);
    box_free(b);
}

/* --- the collector --- */

static void expect_refused(int dir, const char *path, uint64_t max, enum err_code code)
{
    struct err e = {0};
    uint64_t bytes;
    int fd = -1;

    if (sandbox_collect_open(dir, path, max, &fd, &bytes, &e) == 0 || e.code != code ||
        !strstr(e.msg, "output file ")) {
        dprintf(2, "collect %s: expected %s, got %s: %s\n", path, err_code_name(code),
                err_code_name(e.code), e.msg);
        _exit(97);
    }
}

static void collect_links(struct box *b, const char *output_dir)
{
    int dir = open(output_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    uint64_t bytes = 0;
    char text[16] = "";

    expect_refused(dir, "abs", 1000, ERR_DENIED);
    expect_refused(dir, "up", 1000, ERR_DENIED);
    expect_refused(dir, "rel", 1000, ERR_DENIED);
    expect_refused(dir, "rootdir/etc/passwd", 1000, ERR_DENIED);
    expect_refused(dir, "sub/parent/real", 1000, ERR_DENIED);
    expect_refused(dir, "../rootfs/bin/escape", 1u << 30, ERR_DENIED);
    expect_refused(dir, "/etc/passwd", 1000, ERR_DENIED);
    expect_refused(dir, "fifo", 1000, ERR_DENIED);
    expect_refused(dir, "sub", 1000, ERR_DENIED);
    expect_refused(dir, "absent", 1000, ERR_NOT_FOUND);
    expect_refused(dir, "real/below", 1000, ERR_NOT_FOUND);
    expect_refused(dir, "real", 6, ERR_TOO_LARGE);
    if (sandbox_collect_open(dir, "sub/deep", 100, &fd, &bytes, &b->e) == 0 && bytes == 5 &&
        sandbox_collect_open(dir, "real", 7, &fd, &bytes, &b->e) == 0 && bytes == 7 &&
        read(fd, text, sizeof(text)) == 7 && streq(text, "result\n")) {
        b->note = 1;
    }
}

static void test_collect(void **state)
{
    (void)state;
    struct box *b = box_new();

    b->args[1] = "links";
    b->after = collect_links;
    box_run(b);
    assert_ran(b);
    assert_int_equal(b->result.exit_code, 0);
    assert_int_equal(b->note, 1);
    box_free(b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control),         cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_exit_code),       cmocka_unit_test(test_signal),
        cmocka_unit_test(test_timeout),         cmocka_unit_test(test_oom),
        cmocka_unit_test(test_without_cgroups), cmocka_unit_test(test_streams_bounded),
        cmocka_unit_test(test_orphans),         cmocka_unit_test(test_killed_runner),
        cmocka_unit_test(test_collect),
    };
    struct sandbox_probe probe;
    struct err e = {0};

    if (argc != 2) {
        fprintf(stderr, "usage: %s ESCAPE-PROGRAM\n", argv[0]);
        return 2;
    }
    if (sandbox_probe(&probe, &e) < 0) {
        fprintf(stderr, "skipped: %s\n", e.msg);
        /* A machine that is known to be able must not skip in silence. */
        return getenv("COFFER_REQUIRE_SANDBOX") ? 1 : SKIPPED;
    }
    print_message("crun %s, cgroup %s (memory %d, pids %d, cpu %d), swap %d, noswap %d\n",
                  probe.crun_version, sandbox_cgroup_mode_name(probe.cgroup), probe.cgroup_memory,
                  probe.cgroup_pids, probe.cgroup_cpu, probe.swap_on, probe.tmpfs_noswap);
    box_world_start(argv[1]);
    int failed = errors_tests() + cmocka_run_group_tests(tests, NULL, NULL);
    box_world_stop();
    return failed ? 1 : 0;
}
