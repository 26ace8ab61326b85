/* svc-worker: one attempt of one job, inside its CVM. A guided tour:
 *
 *   launch.c       the LaunchConfig from standard input; the consumer's spec is verified
 *   runner.c       the process that will see plaintext, forked first of all
 *   handlers.c     challenge, evidence, keys, result; exec_state.c has its states as a table
 *   attest.c       one attester for each TEE
 *   keys.c         the released keys
 *   job.c          in the runner: datasets and image decrypted to a private tmpfs, sandbox, output
 *   collect.c, fingerprint.c   the declared files; what of them is verbatim input
 *   output.c       sealed to the gate, signed by the TEE key
 *   phase.c        lines of JSON for the launcher
 *   init.c         in a VM this program is also the first process, and starts itself (init.h)
 *
 * Exit status: 0 the result is out (a failed workload is a result too), 3 refused before the run (a
 * "refused" line says why), 1 anything else.
 *
 * You arrive here from svc-launcher/main.c: its keeper started this program. Read main() and
 * serve() below, then worker_start and worker_on_reply in handlers.c. Next: svc-verifier/main.c,
 * where the evidence goes, and svc-kbs/main.c, from where the keys come. You come back in
 * on_release, go through job_run in the runner, and leave with worker_run_done for svc-gate/main.c.
 */
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "common/log.h"
#include "common/shell.h"
#include "svc-worker/init.h"
#include "svc-worker/worker.h"

#ifdef COFFER_SANITIZED
/* Nobody gives the first process of a VM an environment, and it gives the worker none. What tests
 * set in theirs goes before this. Reports go to standard error: in a VM the console (init.c) or the
 * log port. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1";
}
__attribute__((visibility("default"))) const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}
#endif

#define EXIT_REFUSED 3
#define CHALLENGE_TIMEOUT_MS 4000
#define FLUSH_EVERY_S 0.02
#define ASK_AGAIN_S 0.05

struct program {
    struct worker_launch *launch;
    struct runner *runner;
    ev_io reports;
    ev_timer flush, ask_again;
    char *ca_path, *seed_path;
};

static struct program prog;

static int stop_on(struct shell *sh, const struct err *e)
{
    log_err(LOG_ERROR, "worker.failed", e);
    phase_refused(e, NULL);
    shell_stop(sh, 1);
    return -1;
}

/* ---- attestation ----------------------------------------------------------------------------- */

static int take_reply(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    return worker_on_reply(s, arg, fx, e);
}

/* Not connected yet, or the verifier is just being restarted: there is no need to wait for the
 * tick. */
static void ask_soon(struct shell *sh)
{
    ev_timer_set(&prog.ask_again, ASK_AGAIN_S, 0);
    ev_timer_start(shell_loop(sh), &prog.ask_again);
}

static void on_reply(struct bus *b, const Coffer__V1__Reply *r, const struct err *why, void *arg)
{
    struct shell *sh = arg;
    struct err e = {0};

    (void)b;
    if (why) {
        log_err(LOG_WARN, "worker.challenge", why);
        if (why->code == ERR_BUSY) {
            ask_soon(sh);
        }
        return;
    }
    if (shell_call(sh, take_reply, (void *)(uintptr_t)r, &e)) {
        stop_on(sh, &e);
    }
}

static void ask_challenge(struct shell *sh)
{
    Coffer__V1__ChallengeRequest q;
    struct err e = {0};

    worker_challenge(engine_svc(shell_engine(sh)), &q);
    if (bus_request_async(shell_bus(sh), SUBJ_EVIDENCE_CHALLENGE, "", &q.base, CHALLENGE_TIMEOUT_MS,
                          on_reply, sh, &e)) {
        log_err(LOG_DEBUG, "worker.challenge", &e);
        ask_soon(sh);
    }
}

static void on_ask_again(struct ev_loop *loop, ev_timer *w, int events)
{
    struct shell *sh = w->data;

    (void)loop;
    (void)events;
    if (worker_state(engine_svc(shell_engine(sh))) == EX_NEW) {
        ask_challenge(sh);
    }
}

/* ---- the run --------------------------------------------------------------------------------- */

static int no_change(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)s;
    (void)arg;
    (void)fx;
    (void)e;
    return 0;
}

static int all_out(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)arg;
    (void)fx;
    return worker_published(s, e);
}

/* A commit records the PubAcks that came; when none is missing, this worker has done its work. */
static void on_flush(struct ev_loop *loop, ev_timer *w, int events)
{
    struct shell *sh = w->data;
    struct err e = {0};

    (void)loop;
    (void)events;
    if (shell_call(sh, no_change, NULL, &e) || engine_unpublished(shell_engine(sh))) {
        return;
    }
    ev_timer_stop(shell_loop(sh), w);
    if (shell_call(sh, all_out, NULL, &e)) {
        stop_on(sh, &e);
        return;
    }
    phase_done();
    shell_stop(sh, 0);
}

static int take_outcome(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    return worker_run_done(s, arg, fx, e);
}

static void on_report(struct ev_loop *loop, ev_io *w, int events)
{
    struct shell *sh = w->data;
    struct worker_outcome o = {0};
    struct err e = {0};

    (void)events;
    ev_io_stop(loop, w);
    if (runner_result(prog.runner, prog.launch, &o, &e)) {
        stop_on(sh, &e);
        return;
    }
    if (o.died || o.refusal.code == ERR_IO) {
        /* Killed, or the host is in trouble: no result, so that there may be another attempt. */
        stop_on(sh, &o.refusal);
        return;
    }
    if (worker_state(engine_svc(shell_engine(sh))) != EX_RUNNING) {
        err_refuse(&e, ERR_INTERNAL, "worker.runner", "a runner that waits for keys",
                   "one that ended");
        stop_on(sh, &e);
        return;
    }
    int rc = shell_call(sh, take_outcome, &o, &e);
    /* Wiped with the shared memory: nothing of the output is needed any more. */
    runner_free(TAKE_PTR(prog.runner));
    if (rc) {
        stop_on(sh, &e);
        return;
    }
    ev_timer_start(loop, &prog.flush);
}

static int start_run(struct shell *sh)
{
    struct err e = {0};

    phase_say("keys");
    if (runner_run(prog.runner, worker_release(engine_svc(shell_engine(sh))), &e)) {
        return stop_on(sh, &e);
    }
    return 0;
}

static int act(struct shell *sh, int kind, struct bytes data)
{
    (void)data;
    switch ((enum worker_action)kind) {
    case WORKER_ACT_CHALLENGE:
        ask_challenge(sh);
        return 0;
    case WORKER_ACT_RUN:
        return start_run(sh);
    case WORKER_ACT_REFUSED:
        phase_refused(worker_refusal(engine_svc(shell_engine(sh))),
                      worker_refused_by(engine_svc(shell_engine(sh))));
        shell_stop(sh, EXIT_REFUSED);
        return 0;
    }
    return 0;
}

/* ---- start ----------------------------------------------------------------------------------- */

static int started(struct shell *sh)
{
    struct worker_start_args a = {.launch = prog.launch};
    struct err e = {0};

    /* The bus has read them. */
    unlink(prog.ca_path);
    unlink(prog.seed_path);
    /* libev would collect the runner, and how it ended would be lost. */
    signal(SIGCHLD, SIG_DFL);
    if (bus_subscribe(shell_bus(sh), SUBJ_KEY_RELEASE, prog.launch->pb->job, &e)) {
        return stop_on(sh, &e);
    }
    ev_io_init(&prog.reports, on_report, runner_fd(prog.runner), EV_READ);
    prog.reports.data = sh;
    ev_io_start(shell_loop(sh), &prog.reports);
    ev_timer_init(&prog.flush, on_flush, FLUSH_EVERY_S, FLUSH_EVERY_S);
    prog.flush.data = sh;
    ev_timer_init(&prog.ask_again, on_ask_again, ASK_AGAIN_S, 0);
    prog.ask_again.data = sh;
    phase_say("attest");
    return shell_call(sh, worker_start, &a, &e) ? stop_on(sh, &e) : 0;
}

static int read_launch(int allow_no_container, struct err *e)
{
    _cleanup_buf_ struct buf in = BUF_INIT(WORKER_LAUNCH_MAX_BYTES + 1);
    ssize_t n;

    if (buf_reserve(&in, WORKER_LAUNCH_MAX_BYTES + 1, e)) {
        return -1;
    }
    do {
        n = read(STDIN_FILENO, in.p + in.n, WORKER_LAUNCH_MAX_BYTES + 1 - in.n);
        in.n += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && in.n <= WORKER_LAUNCH_MAX_BYTES) || (n < 0 && errno == EINTR));
    if (n < 0) {
        return err_errno(e, "standard input");
    }
    return worker_launch_parse(buf_bytes(&in), allow_no_container, &prog.launch, e);
}

static int write_credentials(struct err *e)
{
    const Coffer__V1__LaunchConfig *c = prog.launch->pb;

    prog.ca_path = xasprintf("%s/nats-ca.pem", c->work_dir);
    prog.seed_path = xasprintf("%s/nats.seed", c->work_dir);
    return file_replace(prog.ca_path, BYTES_STR(c->nats_ca_pem), 0600, e) ||
                   file_replace(prog.seed_path, BYTES_STR(c->nats_seed), 0600, e)
               ? -1
               : 0;
}

static int serve(void)
{
    char *argv[] = {(char[]){"svc-worker"},
                    xasprintf("--nats-url=%s", prog.launch->pb->nats_url),
                    xasprintf("--nats-ca=%s", prog.ca_path),
                    xasprintf("--nats-seed=%s", prog.seed_path),
                    xstrdup("--data-dir=:memory:"),
                    NULL};
    static const struct shell_hooks hooks = {
        .about = "runs one attempt of one job", .act = act, .started = started};
    int status = service_main_hooks(&worker_service, &hooks, 5, argv);

    for (size_t i = 1; argv[i]; i++) {
        free(argv[i]);
    }
    return status;
}

int main(int argc, char **argv)
{
    int bench = argc == 2 && streq(argv[1], "--bench-no-container");
    struct err e = {0};

    if (init_in_vm()) {
        init_main();
    }
    if (argc > 1 && !bench) {
        /* Help and version; anything else is an error there. */
        return service_main(&worker_service, argc, argv);
    }
    log_init(&(struct log_opts){.service = "svc-worker", .level = LOG_INFO});
    umask(077);
    if (read_launch(bench, &e) || runner_spawn(prog.launch, &prog.runner, &e) ||
        write_credentials(&e)) {
        log_err(LOG_ERROR, "worker.refused", &e);
        phase_refused(&e, NULL);
        runner_free(prog.runner);
        worker_launch_free(prog.launch);
        return EXIT_REFUSED;
    }
    int status = serve();
    runner_free(prog.runner);
    worker_launch_free(prog.launch);
    free(prog.ca_path);
    free(prog.seed_path);
    return status;
}
