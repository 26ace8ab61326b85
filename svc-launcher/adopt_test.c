#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/fileio.h"
#include "common/natsconf.h"
#include "common/testing/nats_fixture.h"
#include "svc-launcher/link.h"
#include "svc-launcher/supervisor.h"

/* One svc-launcher after another, as processes, on a real bus; the test plays the scheduler, the
 * worker is a shell script, and this program is svc-launcher and the keepers, too. */

#define ROLE "launcher"
#define WAIT_MS 20000

static struct nats_fixture nats;
static struct ev_loop *loop;
static struct bus *bus;
static char worker[200], data[200], cvm_dir[256];
static char sleeper[64]; /* of this run alone: the number of seconds names them */
static char forever[200];
static const char *orphan = "--orphan-ms=20000", *on_stop = "--on-stop=destroy";
static char job[JOB_ID_LEN + 1];
static int n_jobs;

/* What came about `job`: each message once. */
static char events[4096];
static char ids[128][80];
static size_t n_ids;
static unsigned running; /* of the last report */
static int64_t reports;

static void add_event(const Coffer__V1__CvmEvent *m, const char *id)
{
    static const char *const kinds[] = {"?",    "booted",    "phase",        "exited",
                                        "lost", "destroyed", "launch-failed"};
    size_t n = strlen(events);

    for (size_t i = 0; i < n_ids; i++) {
        if (streq(ids[i], id)) {
            return; /* the outbox says recent things again after a start */
        }
    }
    if (!streq(m->job, job) || n_ids == ARRAY_LEN(ids)) {
        return;
    }
    snprintf(ids[n_ids++], sizeof(ids[0]), "%s", id);
    assert_true((size_t)m->kind < ARRAY_LEN(kinds));
    n += (size_t)snprintf(events + n, sizeof(events) - n, "%s%s%s", kinds[m->kind],
                          m->detail[0] ? ":" : "", m->detail);
    if (m->kind == COFFER__V1__CVM_EVENT_KIND__CVM_EXITED) {
        n += (size_t)snprintf(events + n, sizeof(events) - n, "=%d", m->exit_code);
    }
    snprintf(events + n, sizeof(events) - n, " ");
}

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct err e = {0};

    (void)arg;
    if (m->m.subject == SUBJ_CVM_EVENT && msg_unpack(&m->m, &pb, &e) == 0) {
        add_event((const Coffer__V1__CvmEvent *)pb, m->m.msg_id);
    } else if (m->m.subject == SUBJ_HOST_REPORT && msg_unpack(&m->m, &pb, &e) == 0) {
        running = ((const Coffer__V1__HostReport *)pb)->running;
        reports++;
    }
    bus_ack(b, m);
    bus_msg_free(m);
}

static void stop_loop(struct ev_loop *l, ev_timer *w, int what)
{
    (void)w;
    (void)what;
    ev_break(l, EVBREAK_ALL);
}

static void run_ms(int ms)
{
    ev_timer t;

    ev_now_update(loop);
    ev_timer_init(&t, stop_loop, ms / 1000.0, 0);
    ev_timer_start(loop, &t);
    ev_run(loop, 0);
    ev_timer_stop(loop, &t);
}

static int setup(void **state)
{
    static const char *const hosts[] = {"h1"};
    struct err e = {0};

    (void)state;
    loop = ev_loop_new(EVFLAG_AUTO);
    if (nats_fixture_start(&nats, hosts, 1, &e) < 0) {
        print_error("%s\n", e.msg);
        return -1;
    }
    snprintf(worker, sizeof(worker), "%s/worker", nats.dir);
    snprintf(sleeper, sizeof(sleeper), "sleep 86399.%07d", (int)getpid());
    /* One of them in a session of its own. */
    snprintf(forever, sizeof(forever), "#!/bin/sh\ncat >/dev/null\nsetsid %s &\nexec %s\n", sleeper,
             sleeper);
    snprintf(data, sizeof(data), "%s/data", nats.dir);
    snprintf(cvm_dir, sizeof(cvm_dir), "%s/cvm", data);
    struct bus_opts o = nats_fixture_opts(&nats, SVC_SCHEDULER, NULL);
    o.on_msg = on_msg;
    if (bus_new(&o, loop, &bus, &e) < 0 || bus_serve(bus, &e) < 0 ||
        bus_wait_connected(bus, 10000, &e) < 0) {
        print_error("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bus_free(bus);
    nats_fixture_stop(&nats);
    ev_loop_destroy(loop);
    return 0;
}

/* ---- the launcher ---------------------------------------------------------------------------- */

static pid_t start_launcher(void)
{
    _cleanup_free_ char *seed = natsconf_seed_path(nats.conf, SVC_LAUNCHER, "h1");
    _cleanup_free_ char *ca = xasprintf("--nats-ca=%s/ca.pem", nats.conf);
    _cleanup_free_ char *seed_arg = xasprintf("--nats-seed=%s", seed);
    _cleanup_free_ char *worker_seed = xasprintf("--worker-nats-seed=%s", seed);
    _cleanup_free_ char *url = xasprintf("--nats-url=%s", nats.url);
    _cleanup_free_ char *data_arg = xasprintf("--data-dir=%s", data);
    _cleanup_free_ char *worker_arg = xasprintf("--worker=%s", worker);
    _cleanup_free_ char *store = xasprintf("--store=%s", nats.dir);
    _cleanup_free_ char *log = xasprintf("%s/launcher.log", nats.dir);
    char *argv[] = {(char *)"svc_launcher_adopt_test",
                    (char *)ROLE,
                    url,
                    ca,
                    seed_arg,
                    worker_seed,
                    data_arg,
                    worker_arg,
                    store,
                    (char *)"--host=h1",
                    (char *)"--slots=4",
                    (char *)"--stop-grace-ms=300",
                    (char *)"--report-interval-ms=100",
                    (char *)(uintptr_t)orphan,
                    (char *)(uintptr_t)on_stop,
                    NULL};
    pid_t pid = test_spawn(argv, log);

    assert_true(pid > 0);
    return pid;
}

static void kill_launcher(pid_t pid)
{
    assert_int_equal(test_reap(pid, SIGKILL, 5000), 128 + SIGKILL);
}

static void stop_launcher(pid_t pid)
{
    assert_int_equal(test_reap(pid, SIGTERM, 10000), 0);
}

static void script(const char *text)
{
    struct err e = {0};

    assert_int_equal(file_replace(worker, BYTES_STR(text), 0700, &e), 0);
}

static void launch(int timeout_ms)
{
    Coffer__V1__LaunchCvm m = COFFER__V1__LAUNCH_CVM__INIT;
    char id[80];
    struct err e = {0};

    snprintf(job, sizeof(job), "jaaaaaaaaaaaaaaaaaaaaaaaa%c%c", 'a' + n_jobs / 26 % 26,
             'a' + n_jobs % 26);
    n_jobs++;
    events[0] = '\0';
    m.job = job;
    m.attempt = 1;
    m.backend = (char *)"process";
    m.spec_jws = (char *)"a.b.c";
    m.deadline_ms = (int64_t)time(NULL) * 1000 + timeout_ms;
    snprintf(id, sizeof(id), "%s.1.launch", job);
    assert_int_equal(bus_send(bus, SUBJ_CVM_LAUNCH, "h1", id, &m.base, NULL, n_jobs, &e), 0);
}

static void wait_events(const char *want)
{
    int64_t until = test_now_ms() + WAIT_MS;

    while (!strstr(events, want) && test_now_ms() < until) {
        run_ms(20);
    }
    if (!strstr(events, want)) {
        fail_msg("expected \"%s\" in \"%s\"", want, events);
    }
}

/* ---- looking --------------------------------------------------------------------------------- */

static const char *path_of(const char *suffix)
{
    static char path[400];

    snprintf(path, sizeof(path), "%s/%s.1%s", cvm_dir, job, suffix);
    return path;
}

static pid_t keeper(void)
{
    return keeper_find(path_of(""));
}

static size_t entries(const char *path)
{
    struct dirent *d;
    size_t n = 0;

    DIR *dir = opendir(path);
    while (dir && (d = readdir(dir))) {
        n += d->d_name[0] != '.';
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

static int sleepers(void)
{
    struct dirent *d;
    int n = 0;

    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    while ((d = readdir(proc))) {
        char path[300], text[256];
        snprintf(path, sizeof(path), "/proc/%s/cmdline", d->d_name);
        int fd = open(path, O_RDONLY);
        ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (fd >= 0) {
            close(fd);
        }
        for (ssize_t i = 0; i < got; i++) {
            text[i] = text[i] ? text[i] : ' ';
        }
        text[got > 0 ? got : 0] = '\0';
        n += strncmp(text, sleeper, strlen(sleeper)) == 0;
    }
    closedir(proc);
    return n;
}

static void wait_nothing_left(void)
{
    int64_t until = test_now_ms() + WAIT_MS;

    while ((keeper() || sleepers() || entries(cvm_dir)) && test_now_ms() < until) {
        run_ms(20);
    }
    assert_int_equal(keeper(), 0);
    assert_int_equal(sleepers(), 0);
    assert_int_equal(entries(cvm_dir), 0);
}

/* What the database says, while no launcher has it. */
static void sql(const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/launcher.db", data);
    sqlite3 *db = NULL;
    char *why = NULL;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK) {
        fail_msg("%s", why);
    }
    sqlite3_close(db);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Killed again and again while the worker talks: each phase is told once, in order. */
static void lines_go_on_without_loss_or_duplicate(void **state)
{
    char want[400] = "booted ";

    (void)state;
    script("#!/bin/sh\ncat >/dev/null\nfor p in a b c d e f g h i j k l; do\n"
           "echo \"{\\\"phase\\\":\\\"p$p\\\"}\"; sleep 0.25; done\necho '{\"done\":true}'\n");
    pid_t l = start_launcher();
    launch(60000);
    wait_events("phase:pa ");
    pid_t k = keeper();
    assert_true(k > 0);
    for (int i = 0; i < 5; i++) {
        kill_launcher(l);
        assert_int_equal(keeper(), k);
        run_ms(i * 70);
        l = start_launcher();
        run_ms(250 + 60 * i);
    }
    wait_events("destroyed:done ");
    for (char c = 'a'; c <= 'l'; c++) {
        size_t n = strlen(want);
        snprintf(want + n, sizeof(want) - n, "phase:p%c ", c);
    }
    size_t n = strlen(want);
    snprintf(want + n, sizeof(want) - n, "exited:done=0 destroyed:done ");
    /* Those that waited for a launcher came at once: of these the last is told. */
    char *got = events, *all = want;
    while (*got) {
        size_t word = strcspn(got, " ") + 1;
        char *found = strstr(all, "phase:");
        while (strncmp(all, got, word) != 0) {
            if (!*all || strncmp(all, "phase:", 6) != 0) {
                fail_msg("expected a part of \"%s\", got \"%s\"", want, events);
            }
            all += strcspn(all, " ") + 1;
        }
        (void)found;
        all += word;
        got += word;
    }
    assert_string_equal(all, "");
    wait_nothing_left();
    stop_launcher(l);
}

static void an_adopted_one_counts_and_can_be_destroyed(void **state)
{
    Coffer__V1__DestroyCvm m = COFFER__V1__DESTROY_CVM__INIT;
    char id[80];
    struct err e = {0};

    (void)state;
    script(forever);
    pid_t l = start_launcher();
    launch(60000);
    wait_events("booted ");
    kill_launcher(l);
    run_ms(200);
    reports = 0;
    l = start_launcher();
    while (reports < 1) {
        run_ms(20);
    }
    assert_int_equal(running, 1);
    assert_true(keeper() > 0);
    m.job = job;
    m.attempt = 1;
    snprintf(id, sizeof(id), "%s.1.destroy", job);
    assert_int_equal(bus_send(bus, SUBJ_CVM_DESTROY, "h1", id, &m.base, NULL, 1000, &e), 0);
    wait_events("destroyed ");
    assert_string_equal(events, "booted destroyed ");
    wait_nothing_left();
    stop_launcher(l);
}

static void an_end_in_between_is_told(void **state)
{
    (void)state;
    script("#!/bin/sh\ncat >/dev/null\nsleep 1\n"
           "echo '{\"refused\":{\"code\":\"denied\",\"clause\":\"grant\"}}'\nexit 3\n");
    pid_t l = start_launcher();
    launch(60000);
    wait_events("booted ");
    kill_launcher(l);
    for (int i = 0; i < 500 && access(path_of(""), F_OK) == 0; i++) {
        run_ms(20);
    }
    assert_int_equal(access(path_of(""), F_OK), -1);
    l = start_launcher();
    wait_events("destroyed ");
    assert_string_equal(events, "booted exited=3 destroyed ");
    wait_nothing_left();
    stop_launcher(l);
}

static void without_a_launcher_it_ends(void **state)
{
    (void)state;
    orphan = "--orphan-ms=500";
    script(forever);
    pid_t l = start_launcher();
    launch(60000);
    wait_events("booted ");
    kill_launcher(l);
    wait_nothing_left();
    orphan = "--orphan-ms=20000";
    l = start_launcher();
    wait_events("destroyed ");
    assert_string_equal(events, "booted lost destroyed ");
    stop_launcher(l);
}

static void the_deadline_holds_after_a_restart(void **state)
{
    (void)state;
    script(forever);
    pid_t l = start_launcher();
    launch(3000);
    wait_events("booted ");
    kill_launcher(l);
    l = start_launcher();
    wait_events("destroyed ");
    assert_non_null(strstr(events, "booted exited=")); /* with a reason: not as lost */
    wait_nothing_left();
    stop_launcher(l);
}

static void an_orderly_stop_destroys(void **state)
{
    (void)state;
    script(forever);
    pid_t l = start_launcher();
    launch(60000);
    wait_events("booted ");
    stop_launcher(l);
    wait_nothing_left(); /* long before orphan-ms */
    l = start_launcher();
    wait_events("destroyed ");
    assert_string_equal(events, "booted lost destroyed ");
    stop_launcher(l);
}

static void an_orderly_stop_can_keep(void **state)
{
    (void)state;
    on_stop = "--on-stop=keep";
    script("#!/bin/sh\ncat >/dev/null\nwhile ! [ -e \"$HOME/go\" ]; do sleep 0.05; done\n"
           "echo '{\"phase\":\"run\"}'\nexit 4\n");
    pid_t l = start_launcher();
    launch(60000);
    wait_events("booted ");
    pid_t k = keeper();
    stop_launcher(l);
    assert_int_equal(keeper(), k);
    l = start_launcher();
    run_ms(300);
    assert_string_equal(events, "booted ");
    close(open(path_of("/go"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    wait_events("destroyed ");
    assert_string_equal(events, "booted phase:run exited=4 destroyed ");
    wait_nothing_left();
    on_stop = "--on-stop=destroy";
    stop_launcher(l);
}

/* ---- what must not be adopted ---------------------------------------------------------------- */

/* A CVM that runs, and no launcher. */
static pid_t left_behind(void)
{
    script(forever);
    pid_t l = start_launcher();
    launch(60000);
    wait_events("booted ");
    kill_launcher(l);
    pid_t k = keeper();
    assert_true(k > 0);
    return k;
}

static void is_lost(void)
{
    pid_t l = start_launcher();

    wait_events("destroyed ");
    assert_string_equal(events, "booted lost destroyed ");
    wait_nothing_left();
    stop_launcher(l);
}

static void of_another_boot(void **state)
{
    (void)state;
    left_behind();
    sql("UPDATE cvm SET boot_id = 'another' WHERE state < 3");
    is_lost();
}

/* The number is another process's now: that one must not be harmed, and its socket not be believed.
 */
static void a_recycled_pid_and_a_hostile_socket(void **state)
{
    char text[200];
    int listener = -1;
    struct err e = {0};

    (void)state;
    pid_t k = left_behind();
    kill_descendants(k, NULL, NULL);
    kill(k, SIGKILL);
    for (int i = 0; i < 500 && keeper(); i++) {
        run_ms(10);
    }
    assert_int_equal(unlink(path_of(".sock")), 0);
    if (link_listen(path_of(".sock"), &listener, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    snprintf(text, sizeof(text), "UPDATE cvm SET pid = %d WHERE state < 3", (int)getpid());
    sql(text); /* with the start time of another */
    is_lost();
    assert_int_equal(link_accept(listener), -1); /* nobody came */
    close(listener);
}

static void a_socket_that_is_not_the_keepers(void **state)
{
    int listener = -1;
    struct err e = {0};

    (void)state;
    left_behind();
    assert_int_equal(unlink(path_of(".sock")), 0);
    assert_int_equal(link_listen(path_of(".sock"), &listener, &e), 0);
    is_lost(); /* the keeper was ended by its pid */
    close(listener);
}

static void a_keeper_that_is_stopped(void **state)
{
    (void)state;
    pid_t k = left_behind();
    kill(k, SIGSTOP);
    is_lost();
}

/* A keeper that another program made: it listens, and says `packet`. It ends as asked. */
static pid_t start_impostor(struct bytes packet)
{
    int listener = -1;
    struct err e = {0};

    assert_int_equal(unlink(path_of(".sock")), 0);
    assert_int_equal(link_listen(path_of(".sock"), &listener, &e), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = -1;
        /* Who listens last is who the socket belongs to. */
        for (int i = 0; listen(listener, 4) == 0 && i < 3000 && fd < 0; i++) {
            usleep(10000);
            fd = link_accept(listener);
        }
        ssize_t n = send(fd, packet.p, packet.n, MSG_NOSIGNAL);
        (void)n;
        for (int i = 0; i < 600; i++) {
            usleep(100000);
        }
        _exit(0);
    }
    close(listener);
    return pid;
}

static void is_not_a_keeper(struct bytes packet)
{
    char text[200];
    int status = 0;

    pid_t k = left_behind();
    kill(k, KEEPER_SIGNAL_FORGET);
    kill_descendants(k, NULL, NULL);
    kill(k, SIGKILL);
    for (int i = 0; i < 500 && keeper(); i++) {
        run_ms(10);
    }
    pid_t pid = start_impostor(packet);
    snprintf(text, sizeof(text), "UPDATE cvm SET pid = %d, pid_start = %lld WHERE state < 3",
             (int)pid, (long long)process_start(pid));
    sql(text);
    is_lost();
    for (int i = 0; i < 500 && waitpid(pid, &status, WNOHANG) == 0; i++) {
        run_ms(10);
    }
    assert_true(WIFSIGNALED(status));
}

static void a_keeper_of_another_version(void **state)
{
    static const uint8_t hello[LINK_HEAD_BYTES] = {LINK_HELLO, 0, 0, 0, 0, 0, 0, 0, 99};

    (void)state;
    is_not_a_keeper(BYTES(hello, sizeof(hello)));
}

static void a_keeper_that_talks_nonsense(void **state)
{
    (void)state;
    is_not_a_keeper(BYTES_STR("nonsense"));
}

static void a_directory_without_a_keeper(void **state)
{
    (void)state;
    pid_t k = left_behind();
    kill(k, SIGKILL); /* the worker dies with it; not what that started */
    run_ms(100);
    assert_int_equal(access(path_of(""), F_OK), 0);
    assert_true(sleepers() > 0);
    is_lost();
}

static void a_keeper_killed_after_it_was_adopted(void **state)
{
    (void)state;
    pid_t k = left_behind();
    pid_t l = start_launcher();
    reports = 0;
    while (reports < 2) {
        run_ms(20);
    }
    kill(k, SIGKILL);
    wait_events("destroyed ");
    assert_string_equal(events, "booted lost destroyed ");
    wait_nothing_left(); /* its orphans are nobody's children here */
    stop_launcher(l);
}

/* A database that knows nothing of it. */
static void what_nobody_knows(void **state)
{
    _cleanup_free_ char *stray = xasprintf("%s/none of ours", cvm_dir);

    (void)state;
    left_behind();
    sql("DELETE FROM cvm WHERE state < 3");
    assert_int_equal(mkdir(stray, 0700), 0);
    pid_t l = start_launcher();
    int64_t until = test_now_ms() + WAIT_MS;
    while ((keeper() || entries(cvm_dir) > 1) && test_now_ms() < until) {
        run_ms(20);
    }
    assert_int_equal(rmdir(stray), 0); /* what is not a CVM's is left alone */
    wait_nothing_left();
    assert_string_equal(events, "booted ");
    stop_launcher(l);
}

int main(int argc, char **argv)
{
    if (argc > 1 && streq(argv[1], KEEPER_VERB)) {
        return keeper_main(argc, argv);
    }
    if (argc > 1 && streq(argv[1], ROLE)) {
        return service_main_hooks(&launcher_service, &supervisor_hooks, argc - 1, argv + 1);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_go_on_without_loss_or_duplicate),
        cmocka_unit_test(an_adopted_one_counts_and_can_be_destroyed),
        cmocka_unit_test(an_end_in_between_is_told),
        cmocka_unit_test(without_a_launcher_it_ends),
        cmocka_unit_test(the_deadline_holds_after_a_restart),
        cmocka_unit_test(an_orderly_stop_destroys),
        cmocka_unit_test(an_orderly_stop_can_keep),
        cmocka_unit_test(of_another_boot),
        cmocka_unit_test(a_recycled_pid_and_a_hostile_socket),
        cmocka_unit_test(a_socket_that_is_not_the_keepers),
        cmocka_unit_test(a_keeper_that_is_stopped),
        cmocka_unit_test(a_keeper_of_another_version),
        cmocka_unit_test(a_keeper_that_talks_nonsense),
        cmocka_unit_test(a_directory_without_a_keeper),
        cmocka_unit_test(a_keeper_killed_after_it_was_adopted),
        cmocka_unit_test(what_nobody_knows),
    };
    if (!nats_fixture_available()) {
        fprintf(stderr, "nats-server is not installed\n");
        return 77;
    }
    return cmocka_run_group_tests_name("adoption", tests, setup, teardown);
}
