/* The worker inside of a CVM: svc-worker's own handlers; the workload is made up. */
#include "common/trust.h"
#include "svc-worker/worker.h"
#include "tests/sim/sim.h"

static void phase(struct cvm_run *c, int n, const char *name)
{
    if (c->told_phase < n) {
        c->told_phase = n;
        host_event(c, BACKEND_PHASE, name, NULL, 0);
    }
}

/* ---- boot ------------------------------------------------------------------------------------ */

static int parse_launch(struct cvm_run *c, struct err *e)
{
    Coffer__V1__LaunchConfig m = COFFER__V1__LAUNCH_CONFIG__INIT;

    m.job = c->job;
    m.attempt = c->attempt;
    m.spec_jws = c->spec_jws;
    m.tee = c->tee;
    m.store_path = (char *)"/store";
    m.work_dir = (char *)"/run/coffer";
    m.deadline_ms = c->deadline_ms;
    size_t n = coffer__v1__launch_config__get_packed_size(&m);
    _cleanup_free_ uint8_t *packed = xmalloc(n);
    coffer__v1__launch_config__pack(&m, packed);
    return worker_launch_parse(BYTES(packed, n), 0, &c->launch, e);
}

static void end_refused(struct cvm_run *c, const struct err *why)
{
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;

    refusal_from_err(&r, why, SVC_WORKER);
    host_event(c, BACKEND_REFUSED, NULL, &r, 0);
    cvm_ended(c, 1);
}

void worker_boot(struct cvm_run *c)
{
    struct sim *s = c->sim;
    struct err e = {0};
    char name[40];

    if (s->brk == BREAK_KEY_IN_EVENT) {
        char *key = b64url_encode(secret_cp(world.key[DS_GOOD]), secret_n(world.key[DS_GOOD]));
        err_refuse(&e, ERR_DENIED, "worker", "nothing", "key %s", key);
        free(key);
        end_refused(c, &e);
        return;
    }
    if (parse_launch(c, &e) < 0) {
        end_refused(c, &e);
        return;
    }
    snprintf(name, sizeof(name), "worker%zu", s->n_workers);
    struct node *n = node_open(s, SVC_WORKER, name, c->launcher->host, &worker_service,
                               world.config[SVC_WORKER]);
    s->workers[s->n_workers++] = n;
    n->cvm = c;
    c->worker = n;
    node_start(n);
    sim_trace(s, n->name, "is the worker of %s.%u on %s", c->job, c->attempt, c->launcher->name);
    struct worker_start_args a = {.launch = c->launch};
    if (node_call(n, worker_start, &a) == 0) {
        snprintf(c->thumbprint, sizeof(c->thumbprint), "%s",
                 jkey_thumbprint(worker_tee_key(engine_svc(n->engine))));
        phase(c, 1, "attest");
    }
}

/* ---- challenge ------------------------------------------------------------------------------- */

static int take_reply(struct svc *svc, void *arg, struct effects *fx, struct err *e)
{
    return worker_on_reply(svc, arg, fx, e);
}

static void on_reply(struct sim *s, void *arg, const Coffer__V1__Reply *r)
{
    struct node *n = arg;

    (void)s;
    if (n->engine) {
        (void)node_call(n, take_reply, (void *)(uintptr_t)r);
    }
}

/* ---- the workload ---------------------------------------------------------------------------- */

/* The file's bytes, then what of them stands in the data. */
static void find_verbatim(struct worker_outcome *o, struct buf *plain)
{
    struct fp_finder *f = NULL;
    struct bytes file = BYTES(plain->p, plain->n);
    uint8_t fps[FP_BYTES * 512];

    random_bytes(o->fp_salt, sizeof(o->fp_salt));
    MUST(fp_finder_new(&file, 1, &f, e));
    fp_finder_scan(f, buf_bytes(&world.plain));
    fp_finder_end_input(f);
    MUST(fp_finder_result(f, o->fp_salt, fps, 512, &o->fp_count, &o->fp_total, e));
    o->fp_input_bytes = world.plain.n;
    fp_finder_free(f);
    MUST(buf_add(plain, fps, o->fp_count * FP_BYTES, e));
}

static void make_output(const struct sim_job *j, struct worker_outcome *o, struct buf *plain)
{
    if (!j || j->workload == WL_FAIL) {
        o->exit_code = 3;
        err_refuse(&o->refusal, ERR_WORKLOAD, "workload.exit", "0", "3");
        return;
    }
    if (j->workload == WL_VERBATIM) {
        /* A quarter of it: between holdAt and rejectAt, or above, as the job's gate policy has it.
         */
        MUST(buf_add(plain, world.plain.p, 512, e));
    }
    while (plain->n < 1024) {
        MUST(buf_addf(plain, e, "%s", world_output));
    }
    if (j->workload == WL_BAD_TYPE) {
        MUST(buf_add(plain, "\xff\xfe\x00", 3, e));
    }
    o->file_bytes[0] = plain->n;
    find_verbatim(o, plain);
}

struct run_done {
    struct worker_outcome *outcome;
};

static int take_outcome(struct svc *svc, void *arg, struct effects *fx, struct err *e)
{
    return worker_run_done(svc, arg, fx, e);
}

static void run_ends(struct sim *s, void *arg, int64_t epoch)
{
    struct node *n = arg;
    struct worker_outcome o = {.limits_enforced = 1};
    _cleanup_buf_ struct buf plain = BUF_INIT(1u << 20);
    int genuine;

    if (!n->engine || n->epoch != epoch) {
        return;
    }
    check_release_used(n->cvm, worker_release(engine_svc(n->engine)), &genuine);
    if (genuine) {
        make_output(sim_job_find(s, n->cvm->job), &o, &plain);
    } else { /* keys that open nothing: the data's authentication fails */
        o.exit_code = -1;
        err_refuse(&o.refusal, ERR_BAD_SIGNATURE, "dataset", "data that opens", "none");
    }
    o.plain = buf_bytes(&plain);
    phase(n->cvm, 4, "seal");
    if (s->brk == BREAK_PLAIN_RESULT && plain.n) {
        bus_inject(s, n->name, SUBJ_RESULT, n->cvm->job, "plain", buf_bytes(&plain), "");
    }
    (void)node_call(n, take_outcome, &o);
}

static int64_t run_ms(const struct sim_job *j)
{
    return j ? j->run_ms : 1000;
}

void worker_action(struct node *n, int kind)
{
    struct sim *s = n->sim;
    struct sim_job *j = sim_job_find(s, n->cvm->job);

    switch ((enum worker_action)kind) {
    case WORKER_ACT_CHALLENGE: {
        Coffer__V1__ChallengeRequest r;
        worker_challenge(engine_svc(n->engine), &r);
        bus_ask(s, n, SUBJ_EVIDENCE_CHALLENGE, &r.base, on_reply, n);
        return;
    }
    case WORKER_ACT_RUN: {
        int genuine;
        check_release_used(n->cvm, worker_release(engine_svc(n->engine)), &genuine);
        phase(n->cvm, 2, "keys");
        phase(n->cvm, 3, "run");
        sim_trace(s, n->name, "runs %s.%u%s", n->cvm->job, n->cvm->attempt,
                  genuine ? "" : " with keys that open nothing");
        if (!j || j->workload != WL_NEVER) {
            sim_in(s, run_ms(j), run_ends, n, n->epoch);
        } else if (j->workload == WL_NEVER) {
            /* The sandbox would end it at its timeout; here it holds out, for the scheduler's. */
            sim_trace(s, n->name, "never returns");
        }
        return;
    }
    case WORKER_ACT_REFUSED:
        return; /* worker_look sees it after the transaction */
    }
    sim_fail(s, "%s: unknown action %d", n->name, kind);
}

void worker_look(struct node *n)
{
    struct svc *svc = engine_svc(n->engine);
    struct cvm_run *c = n->cvm;
    struct err e = {0};

    if (worker_state(svc) == EX_REFUSED) {
        struct err why = *worker_refusal(svc);
        end_refused(c, &why);
        return;
    }
    if (worker_state(svc) == EX_SEALING && engine_unpublished(n->engine) == 0) {
        if (worker_published(svc, &e) < 0) {
            sim_fail(n->sim, "%s: %s", n->name, e.msg);
        }
        phase(c, 5, "done");
        host_event(c, BACKEND_DONE, NULL, NULL, 0);
        cvm_ended(c, 0);
    }
}

const struct jkey *worker_public_key(const struct cvm_run *c)
{
    return c->worker && c->worker->engine ? worker_tee_key(engine_svc(c->worker->engine)) : NULL;
}
