#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/fileio.h"
#include "svc-launcher/keeper_fixture_test.h"

/* The process backend with real processes; the worker is a shell script, and this program is its
 * own keeper. */

static char dir[64], worker[128], cvm_dir[128];
static struct heard heard;

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-process-XXXXXX");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(worker, sizeof(worker), "%s/worker", dir);
    snprintf(cvm_dir, sizeof(cvm_dir), "%s/cvm", dir);
    return mkdir(cvm_dir, 0700);
}

static int teardown(void **state)
{
    (void)state;
    return remove_tree(dir, NULL);
}

static struct backend_env env_of(int64_t grace_ms)
{
    return (struct backend_env){.keeper = "/proc/self/exe",
                                .worker = worker,
                                .store = dir,
                                .cvm_dir = cvm_dir,
                                .seed_file = worker,
                                .grace_ms = grace_ms};
}

static void script(const char *text)
{
    struct err e = {0};

    if (file_replace(worker, BYTES_STR(text), 0700, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static struct cvm_handle start(int64_t grace_ms, char work[160])
{
    struct backend_env env = env_of(grace_ms);
    struct cvm_handle h;

    snprintf(work, 160, "%s/j.1", cvm_dir);
    assert_int_equal(mkdir(work, 0700), 0);
    struct backend_launch l = {
        .job = "j", .attempt = 1, .config = BYTES_STR("the configuration"), .work_dir = work};
    heard_launch(&heard, backend_find("process"), &env, &l, &h);
    return h;
}

/* How many processes have `word` in their command line. */
static int count_processes(const char *word)
{
    struct dirent *d;
    int n = 0;

    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    while ((d = readdir(proc))) {
        char path[300], text[512];
        snprintf(path, sizeof(path), "/proc/%s/cmdline", d->d_name);
        int fd = open(path, O_RDONLY);
        ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (fd >= 0) {
            close(fd);
        }
        for (ssize_t i = 0; i < got; i++) {
            text[i] = text[i] ? text[i] : ' ';
        }
        if (got > 0) {
            text[got] = '\0';
            n += strstr(text, word) != NULL;
        }
    }
    closedir(proc);
    return n;
}

/* Leaves a daemon in a session of its own, a process that ignores SIGTERM, and a read-only tree.
 * The numbers of seconds name them. */
#define DAEMONS                                                                                    \
    "#!/bin/sh\ncat\necho\n(setsid sleep 86399.125 </dev/null >/dev/null 2>&1 &)\n"                \
    "(trap '' TERM; sleep 86399.125 </dev/null >/dev/null 2>&1; sleep 86399.125) &\n"              \
    "mkdir -p \"$HOME/a/b\"; echo x >\"$HOME/a/b/c\"; ln -s /tmp \"$HOME/a/link\"\n"
#define DAEMON_NAME "sleep 86399.125"

static void runs_and_leaves_nothing(void **state)
{
    char work[160];
    int left = 0;

    (void)state;
    script(DAEMONS "echo '{\"phase\":\"attest\"}'; echo oops >&2; env; ls /proc/self/fd >&2\n"
                   "echo '{\"done\":true}'; exit 7\n");
    struct cvm_handle h = start(1000, work);
    assert_int_equal(h.pid_start, process_start(h.pid));
    heard_expect(&heard, &h, heard.life, "{\"done\":true}\n");
    assert_non_null(strstr(heard.life, "{\"booted\":true}\n"));
    assert_non_null(strstr(heard.life, "the configuration"));
    assert_non_null(strstr(heard.life, "LANG=C.UTF-8"));
    assert_null(strstr(heard.life, "COFFER_TEST_SECRET")); /* a clean environment */
    heard_expect(&heard, &h, heard.log, "oops");
    int status = heard_reap(&heard, &h);
    assert_int_equal(backend_find("process")->reap(status, &left), 7);
    assert_int_equal(left, 0);
    assert_int_equal(count_processes(DAEMON_NAME), 0);
    assert_int_equal(access(work, F_OK), -1);
    assert_int_equal(access("/tmp", F_OK), 0); /* links are not followed */
}

static void destroy_ends_all_of_it(void **state)
{
    char work[160];
    int left = 0;

    (void)state;
    script(DAEMONS "trap '' TERM\necho ready\nwhile :; do sleep 86399.125; done\n");
    struct cvm_handle h = start(200, work);
    heard_expect(&heard, &h, heard.life, "ready");
    assert_true(count_processes(DAEMON_NAME) > 0);
    backend_find("process")->destroy(&h);
    backend_find("process")->destroy(&h);
    assert_int_equal(backend_find("process")->reap(heard_reap(&heard, &h), &left), 128 + SIGKILL);
    assert_int_equal(count_processes(DAEMON_NAME), 0);
    assert_int_equal(access(work, F_OK), -1);
}

static void destroy_at_once(void **state)
{
    char work[160];

    (void)state;
    script("#!/bin/sh\nexec sleep 86399.125\n");
    struct cvm_handle h = start(100, work);
    backend_find("process")->destroy(&h); /* perhaps before the keeper is one */
    heard_reap(&heard, &h);
    assert_int_equal(count_processes(DAEMON_NAME), 0);
    assert_int_equal(access(work, F_OK), -1);
}

static void a_worker_that_is_none(void **state)
{
    char work[160];

    (void)state;
    script("not a program");
    assert_int_equal(chmod(worker, 0600), 0);
    struct cvm_handle h = start(100, work);
    heard_expect(&heard, &h, heard.life,
                 "{\"failed\":\"cannot run the worker: Permission denied\"}");
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)), 1);
    assert_int_equal(access(work, F_OK), -1);
}

/* The launcher is killed with SIGKILL; a child plays its part. */
static void nothing_survives_the_launcher(void **state)
{
    char work[160];
    int fds[2];

    (void)state;
    script(DAEMONS "echo ready\nwhile :; do sleep 86399.125; done\n");
    assert_int_equal(pipe(fds), 0);
    pid_t launcher = fork();
    if (launcher == 0) {
        struct cvm_handle h = start(100, work);
        heard_expect(&heard, &h, heard.life, "ready");
        ssize_t n = write(fds[1], &h.pid, sizeof(h.pid));
        (void)n;
        pause();
        _exit(0);
    }
    pid_t keeper = 0;
    assert_int_equal(read(fds[0], &keeper, sizeof(keeper)), sizeof(keeper));
    assert_true(count_processes(DAEMON_NAME) > 0);
    kill(launcher, SIGKILL);
    waitpid(launcher, NULL, 0);
    int left = 1;
    for (int i = 0; i < 500 && left; i++) {
        struct timespec t = {.tv_nsec = 10000000};
        nanosleep(&t, NULL);
        snprintf(work, sizeof(work), "%s/j.1", cvm_dir);
        left = count_processes(DAEMON_NAME) > 0 || access(work, F_OK) == 0;
    }
    assert_int_equal(left, 0);
    close(fds[0]);
    close(fds[1]);
}

static void probes(void **state)
{
    struct backend_env env = env_of(1);
    struct host_facts f;
    struct err e = {0};

    (void)state;
    script("#!/bin/sh\n");
    struct config *c = config_make(launcher_service.config, launcher_service.n_config, "slots", "3",
                                   "memory-bytes", "1000", NULL);
    assert_int_equal(probe_host(c, &env, &f, &e), 0);
    assert_int_equal(f.slots, 3);
    assert_int_equal(f.memory_bytes, 1000);
    assert_true(f.cpu_millis >= 1000);
    assert_int_equal(f.n_backends, 1);
    assert_int_equal(f.backends[0].available, 1);
    env.worker = "/nonexistent/worker";
    assert_int_equal(probe_host(c, &env, &f, &e), 0);
    assert_int_equal(f.backends[0].available, 0);
    assert_string_equal(f.backends[0].why, "worker /nonexistent/worker: No such file or directory");
    config_free(c);
    c = config_make(launcher_service.config, launcher_service.n_config, "backends", "process,magic",
                    NULL);
    assert_int_equal(probe_host(c, &env, &f, &e), -1);
    assert_string_equal(e.msg,
                        "backends: expected names of backends, e.g. \"process\", got \"magic\"");
    config_free(c);
}

/* ---- lifecycle lines ------------------------------------------------------------------------- */

static void lines(void **state)
{
    static const char *const bad[] = {
        "",
        "nonsense",
        "[]",
        "{}",
        "{\"phase\":1}",
        "{\"phase\":\"a\",\"done\":true}",
        "{\"done\":false}",
        "{\"booted\":1}",
        "{\"refused\":\"no\"}",
        "{\"refused\":{\"code\":1}}",
        "{\"refused\":{\"color\":\"x\"}}",
        "{\"phase\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
        "{\"phase\":\"a\\u0000b\"}",
        "{\"other\":true}",
    };
    struct lifecycle l;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_clear(&e);
        if (lifecycle_parse(BYTES_STR(bad[i]), &l, &e) == 0) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_true(e.msg[0]);
    }
    assert_int_equal(lifecycle_parse(BYTES_STR("{\"phase\":\"run\"}"), &l, &e), 0);
    assert_int_equal(l.kind, BACKEND_PHASE);
    assert_string_equal(l.phase, "run");
    assert_int_equal(lifecycle_parse(BYTES_STR("{\"done\":true}"), &l, &e), 0);
    assert_int_equal(l.kind, BACKEND_DONE);
    assert_int_equal(
        lifecycle_parse(BYTES_STR("{\"refused\":{\"code\":\"denied\",\"by\":\"kbs\"}}"), &l, &e),
        0);
    assert_int_equal(l.kind, BACKEND_REFUSED);
    assert_string_equal(l.by, "kbs");
    assert_string_equal(l.message, "");
}

static void add_line(void *arg, struct bytes line)
{
    char *out = arg;
    size_t n = strlen(out);

    snprintf(out + n, 64 - n, "<%.*s>", (int)line.n, (const char *)line.p);
}

static void cutting(void **state)
{
    struct line_cutter c = LINE_CUTTER_INIT(5);
    char out[64] = "";

    (void)state;
    line_cutter_feed(&c, BYTES_STR("ab"), add_line, out);
    line_cutter_feed(&c, BYTES_STR("c\n\nde\nmuch too long"), add_line, out);
    line_cutter_feed(&c, BYTES_STR(" still\nfg\n12345\n123456\nrest"), add_line, out);
    assert_string_equal(out, "<abc><de><fg><12345>");
    assert_int_equal(c.dropped, 2);
    buf_done(&c.buf);
}

int main(int argc, char **argv)
{
    if (argc > 1 && streq(argv[1], KEEPER_VERB)) {
        return keeper_main(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_and_leaves_nothing),
        cmocka_unit_test(destroy_ends_all_of_it),
        cmocka_unit_test(destroy_at_once),
        cmocka_unit_test(a_worker_that_is_none),
        cmocka_unit_test(nothing_survives_the_launcher),
        cmocka_unit_test(probes),
        cmocka_unit_test(lines),
        cmocka_unit_test(cutting),
    };
    setenv("COFFER_TEST_SECRET", "1", 1);
    return cmocka_run_group_tests_name("process backend", tests, setup, teardown);
}
