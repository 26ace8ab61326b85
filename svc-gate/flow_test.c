/* Worker and gate in one process with real cryptography: challenge, evidence, keys, run (in a
 * runner process of its own, without a container), result, decision, fetch. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-gate/gate_fixture.h"

struct world {
    struct fixture f;
    char store[128], work[128], *dataset_id;
    struct secret *dataset_key;
    char *sealed_path;
    struct job_case job;
    struct worker_launch *launch;
    struct engine *w;
    struct config *config;
    /* of the worker */
    int act;
    Coffer__V1__SubmitEvidence *evidence;
    char *evidence_id;
    size_t n_results;
    uint32_t attempt;
};

static struct world *W;

/* ---- a store with one dataset ---------------------------------------------------------------- */

static void make_dataset(void)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    char path[256], plain_path[256];
    struct seal_header h = {0};

    snprintf(W->store, sizeof(W->store), "%s/store", W->f.dir);
    snprintf(W->work, sizeof(W->work), "%s/work", W->f.dir);
    snprintf(path, sizeof(path), "%s/datasets", W->store);
    CHECK(mkdir(W->store, 0700) == 0 && mkdir(path, 0700) == 0 && mkdir(W->work, 0700) == 0);
    OK(seal_dataset_header_new("trial", "file", "AES-256-GCM", 4096, W->f.kbs, &prefix,
                               &W->dataset_key, e));
    OK(seal_header_parse(buf_bytes(&prefix), &h, e));
    W->dataset_id = xstrdup(h.id);
    snprintf(plain_path, sizeof(plain_path), "%s/plain", W->f.dir);
    _cleanup_close_ int in = open(plain_path, O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < 2000; i++) {
        CHECK(dprintf(in, "%06d,row of the input\n", i) > 0);
    }
    CHECK(lseek(in, 0, SEEK_SET) == 0);
    W->sealed_path = xasprintf("%s/datasets/%s.coffer", W->store, h.id);
    _cleanup_close_ int out = open(W->sealed_path, O_RDWR | O_CREAT, 0600);
    OK(seal_fd(&prefix, W->dataset_key, in, out, NULL, e));
    seal_header_done(&h);
}

/* ---- the worker ------------------------------------------------------------------------------ */

static struct bytes pack_launch(uint32_t attempt, const char *job, int no_container)
{
    static uint8_t packed[WORKER_LAUNCH_MAX_BYTES];
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    char tee[] = "sample", none[] = "nats://127.0.0.1:1";

    c.job = (char *)(uintptr_t)job;
    c.attempt = attempt;
    c.spec_jws = W->job.spec_jws;
    c.tee = tee;
    c.nats_url = none;
    c.store_path = W->store;
    c.work_dir = W->work;
    c.no_container = no_container;
    return BYTES(packed, coffer__v1__launch_config__pack(&c, packed));
}

static int setup(void **state)
{
    (void)state;
    W = xcalloc(1, sizeof(*W));
    fixture_init(&W->f);
    make_dataset();
    W->attempt = 1;
    W->job = fixture_job(&W->f, JOB_OPTS(.dataset = W->dataset_id));
    W->config = config_make(NULL, 0, NULL);
    struct engine_opts o = {
        .db_path = ":memory:", .clock = fixture_clock, .clock_arg = &W->f, .config = W->config};
    OK(engine_open(&worker_service, &o, &W->w, e));
    OK(worker_launch_parse(pack_launch(1, W->job.spec->job_id, 1), 1, &W->launch, e));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(W->w);
    worker_launch_free(W->launch);
    config_free(W->config);
    if (W->evidence) {
        coffer__v1__submit_evidence__free_unpacked(W->evidence, NULL);
    }
    free(W->evidence_id);
    free(W->dataset_id);
    free(W->sealed_path);
    secret_free(W->dataset_key);
    job_case_done(&W->job);
    fixture_done(&W->f);
    free(W);
    return 0;
}

/* What the worker sends goes where it belongs: results to the gate. */
static void pump(void)
{
    struct outgoing o;
    enum subject subj;
    const char *key;
    struct bytes data;
    int kind;

    while (engine_next_out(W->w, &o)) {
        CHECK(subject_parse(o.subject, &subj, &key) == 0);
        if (subj == SUBJ_EVIDENCE_SUBMIT) {
            if (W->evidence) {
                coffer__v1__submit_evidence__free_unpacked(W->evidence, NULL);
            }
            free(W->evidence_id);
            W->evidence = coffer__v1__submit_evidence__unpack(NULL, o.payload.n, o.payload.p);
            W->evidence_id = xstrdup(o.msg_id);
        } else {
            CHECK(subj == SUBJ_RESULT);
            W->n_results++;
            fixture_deliver(&W->f, SUBJ_RESULT, key, o.payload);
        }
        engine_published(W->w, o.outbox_id);
    }
    while (engine_next_action(W->w, &kind, &data)) {
        W->act = kind;
    }
}

static int call(engine_call_fn fn, void *arg, struct err *why)
{
    if (engine_begin(W->w, why) || engine_call(W->w, fn, arg, why)) {
        engine_rollback(W->w);
        return -1;
    }
    OK(engine_commit(W->w, e));
    pump();
    return 0;
}

static int do_reply(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    return worker_on_reply(s, arg, fx, e);
}

static int do_outcome(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    return worker_run_done(s, arg, fx, e);
}

static int do_published(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)arg;
    (void)fx;
    return worker_published(s, e);
}

static void start_and_attest(void)
{
    struct worker_start_args a = {.launch = W->launch};
    Coffer__V1__ChallengeRequest q;
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;
    Coffer__V1__Challenge c = COFFER__V1__CHALLENGE__INIT;
    uint8_t nonce[32];

    OK(call(worker_start, &a, e));
    assert_int_equal(W->act, WORKER_ACT_CHALLENGE);
    worker_challenge(engine_svc(W->w), &q);
    assert_string_equal(q.job, W->job.spec->job_id);
    random_bytes(nonce, sizeof(nonce));
    c.nonce.data = nonce;
    c.nonce.len = sizeof(nonce);
    r.body_case = COFFER__V1__REPLY__BODY_CHALLENGE;
    r.challenge = &c;
    OK(call(do_reply, &r, e));
    assert_non_null(W->evidence);
    assert_int_equal(worker_state(engine_svc(W->w)), EX_SUBMITTED);
}

/* As the verifier: the key is what the evidence covers. */
static struct jkey *appraise(void)
{
    _cleanup_json_ json_t *rd = json_loadb((const char *)W->evidence->runtime_data.data,
                                           W->evidence->runtime_data.len, 0, NULL);
    _cleanup_json_ json_t *ev =
        json_loadb((const char *)W->evidence->evidence.data, W->evidence->evidence.len, 0, NULL);
    struct jkey *k = NULL;
    uint8_t digest[48];

    OK(jkey_from_jwk(json_object_get(rd, "tee-pubkey"), &k, e));
    EVP_Digest(W->evidence->runtime_data.data, W->evidence->runtime_data.len, digest, NULL,
               EVP_sha384(), NULL);
    _cleanup_free_ char *want = b64_encode(digest, sizeof(digest));
    assert_string_equal(json_string_value(json_object_get(ev, "report_data")), want);
    return k;
}

struct release_opts {
    const char *job; /* NULL: the right one */
    uint32_t attempt;
    int without_keys, refuse;
    const struct jkey *to;
};

/* As the KBS. To the worker; and, when it is a good one, to the gate. */
static void release(struct release_opts o, struct err *why)
{
    _cleanup_jkey_ struct jkey *cnf = appraise();
    _cleanup_free_ char *ear =
        fixture_ear(&W->f, W->f.verifier, W->job.spec->job_id, W->attempt, cnf);
    _cleanup_free_ char *key64 = b64url_encode(secret_cp(W->dataset_key), secret_n(W->dataset_key));
    _cleanup_free_ char *text = NULL, *jwe = NULL;
    _cleanup_json_ json_t *keys = o.without_keys ? json_array()
                                                 : json_pack("[{s:s,s:s,s:s}]", "id", W->dataset_id,
                                                             "kind", "dataset", "key", key64);
    _cleanup_json_ json_t *j =
        json_pack("{s:i,s:s,s:I,s:O,s:o,s:s}", "v", 1, "job", o.job ? o.job : W->job.spec->job_id,
                  "attempt", (json_int_t)(o.attempt ? o.attempt : W->attempt), "keys", keys, "gate",
                  jkey_public_jwk(W->f.gate_seal), "ear", ear);
    Coffer__V1__ReleaseKey r = COFFER__V1__RELEASE_KEY__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    char code[] = "denied", clause[] = "grant.images";
    enum disposition d;
    int delay;

    OK(jcs_encode(j, &text, e));
    OK(jwe_encrypt(o.to ? o.to : cnf, BYTES_STR(text), &jwe, e));
    r.job = W->job.spec->job_id;
    r.attempt = W->attempt;
    r.jwe = jwe;
    refusal.code = code;
    refusal.clause = clause;
    r.refusal = o.refuse ? &refusal : NULL;
    size_t n = coffer__v1__release_key__get_packed_size(&r);
    _cleanup_free_ uint8_t *p = xmalloc(n);
    coffer__v1__release_key__pack(&r, p);
    struct msg m = {.subject = SUBJ_KEY_RELEASE,
                    .key = W->job.spec->job_id,
                    .payload = BYTES(p, n),
                    .msg_id = "",
                    .reply_to = "",
                    .traceparent = "",
                    .deliveries = 1};
    OK(engine_begin(W->w, e));
    OK(engine_handle(W->w, &m, &d, &delay, why, e));
    OK(engine_commit(W->w, e));
    pump();
    if (worker_state(engine_svc(W->w)) == EX_RUNNING) {
        fixture_release(&W->f, W->job.spec->job_id, W->attempt, cnf);
    }
}

static void run_and_finish(struct worker_outcome *ret)
{
    struct runner *r = NULL;
    struct pollfd p = {.events = POLLIN};

    assert_int_equal(W->act, WORKER_ACT_RUN);
    OK(runner_spawn(W->launch, &r, e));
    OK(runner_run(r, worker_release(engine_svc(W->w)), e));
    p.fd = runner_fd(r);
    assert_int_equal(poll(&p, 1, 20000), 1);
    OK(runner_result(r, W->launch, ret, e));
    OK(call(do_outcome, ret, e));
    runner_free(r);
    assert_int_equal(worker_state(engine_svc(W->w)), EX_SEALING);
    assert_null(worker_release(engine_svc(W->w)));
    OK(call(do_published, NULL, e));
    assert_int_equal(worker_state(engine_svc(W->w)), EX_DONE);
    assert_int_equal(engine_unpublished(W->w), 0);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_whole_way(void **state)
{
    struct worker_outcome o = {0};
    struct err why = {0};
    (void)state;
    start_and_attest();
    release((struct release_opts){0}, &why);
    assert_int_equal(why.code, ERR_NONE);
    run_and_finish(&o);
    assert_int_equal(o.fp_input_bytes, 2000 * 24);
    assert_int_equal(W->f.n_decisions, 1);
    assert_int_equal(W->f.decisions[0]->outcome, COFFER__V1__GATE_OUTCOME__GATE_RELEASED);
    assert_int_equal(W->n_results, 2); /* manifest, one chunk */
}

/* Every tampering with a dataset ends as a failed result that says where. */
static void run_tampered(off_t at, off_t cut, const char *clause)
{
    struct worker_outcome o = {0};
    struct err why = {0};
    uint8_t byte;
    _cleanup_close_ int fd = open(W->sealed_path, O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);

    if (cut) {
        assert_int_equal(ftruncate(fd, size - cut), 0);
    } else {
        assert_int_equal(pread(fd, &byte, 1, size - at), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, size - at), 1);
    }
    start_and_attest();
    release((struct release_opts){0}, &why);
    run_and_finish(&o);
    assert_int_equal(W->f.n_decisions, 1);
    const Coffer__V1__GateDecision *d = W->f.decisions[0];
    assert_int_equal(d->outcome, COFFER__V1__GATE_OUTCOME__GATE_FAILED);
    assert_string_equal(d->reason->clause, clause);
    assert_string_equal(d->reason->by, "worker");
    assert_int_equal(W->n_results, 1); /* no chunks */
}

static void test_tampered_chunk(void **state)
{
    (void)state;
    run_tampered(20000, 0, "dataset[0].chunk");
}

static void test_tampered_end(void **state)
{
    (void)state;
    run_tampered(3, 0, "dataset[0].end");
}

static void test_truncated(void **state)
{
    (void)state;
    run_tampered(0, 5000, "dataset[0].end");
}

static void test_no_dataset(void **state)
{
    struct worker_outcome o = {0};
    struct err why = {0};
    (void)state;
    assert_int_equal(unlink(W->sealed_path), 0);
    start_and_attest();
    release((struct release_opts){0}, &why);
    run_and_finish(&o);
    assert_string_equal(W->f.decisions[0]->reason->clause, "dataset[0].file");
}

static void test_bad_releases_change_nothing(void **state)
{
    struct worker_outcome o = {0};
    struct err why = {0};
    (void)state;
    start_and_attest();
    release((struct release_opts){.without_keys = 1}, &why);
    assert_string_equal(why.clause, "release.keys");
    assert_string_equal(why.expected, W->dataset_id);
    release((struct release_opts){.job = "jaaaaaaaaaaaaaaaaaaaaaaaaaa"}, &why);
    assert_string_equal(why.clause, "release.job");
    release((struct release_opts){.attempt = 2}, &why);
    assert_int_equal(why.code, ERR_STALE);
    assert_string_equal(why.clause, "release.attempt");
    release((struct release_opts){.to = W->f.stranger}, &why);
    assert_int_equal(why.code, ERR_BAD_SIGNATURE);
    assert_int_equal(worker_state(engine_svc(W->w)), EX_SUBMITTED);
    release((struct release_opts){0}, &why);
    assert_int_equal(why.code, ERR_NONE);
    /* Again: it has its keys. */
    release((struct release_opts){.without_keys = 1}, &why);
    assert_int_equal(why.code, ERR_NONE);
    run_and_finish(&o);
    assert_int_equal(W->f.decisions[0]->outcome, COFFER__V1__GATE_OUTCOME__GATE_RELEASED);
}

static void test_refused_release(void **state)
{
    struct err why = {0};
    (void)state;
    start_and_attest();
    release((struct release_opts){.refuse = 1}, &why);
    assert_int_equal(worker_state(engine_svc(W->w)), EX_REFUSED);
    assert_int_equal(W->act, WORKER_ACT_REFUSED);
    assert_string_equal(worker_refusal(engine_svc(W->w))->clause, "grant.images");
}

static void test_refused_challenge(void **state)
{
    struct worker_start_args a = {.launch = W->launch};
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    char busy[] = "busy", denied[] = "denied";
    (void)state;
    OK(call(worker_start, &a, e));
    OK(call(do_reply, NULL, e)); /* no answer */
    refusal.code = busy;
    r.body_case = COFFER__V1__REPLY__BODY_REFUSAL;
    r.refusal = &refusal;
    OK(call(do_reply, &r, e));
    assert_int_equal(worker_state(engine_svc(W->w)), EX_NEW);
    refusal.code = denied;
    OK(call(do_reply, &r, e));
    assert_int_equal(worker_state(engine_svc(W->w)), EX_REFUSED);
}

/* Whether a challenge is taken from a verifier whose clock says that. */
static enum exec_state challenged_at(int64_t verifier_ms)
{
    struct worker_start_args a = {.launch = W->launch};
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;
    Coffer__V1__Challenge c = COFFER__V1__CHALLENGE__INIT;
    uint8_t nonce[32] = {7};

    engine_close(W->w);
    struct engine_opts o = {
        .db_path = ":memory:", .clock = fixture_clock, .clock_arg = &W->f, .config = W->config};
    OK(engine_open(&worker_service, &o, &W->w, e));
    OK(call(worker_start, &a, e));
    c.nonce.data = nonce;
    c.nonce.len = sizeof(nonce);
    c.now_ms = verifier_ms;
    r.body_case = COFFER__V1__REPLY__BODY_CHALLENGE;
    r.challenge = &c;
    OK(call(do_reply, &r, e));
    return worker_state(engine_svc(W->w));
}

static void test_clock(void **state)
{
    (void)state;
    assert_int_equal(challenged_at(0), EX_SUBMITTED); /* a verifier that does not tell */
    assert_int_equal(challenged_at(FIXTURE_NOW_MS), EX_SUBMITTED);
    assert_int_equal(challenged_at(FIXTURE_NOW_MS - 60000), EX_SUBMITTED);
    assert_int_equal(challenged_at(FIXTURE_NOW_MS + 60000), EX_SUBMITTED);
    assert_int_equal(challenged_at(FIXTURE_NOW_MS - 60001), EX_REFUSED);
    const struct err *why = worker_refusal(engine_svc(W->w));
    assert_string_equal(why->clause, "clock");
    assert_string_equal(why->expected, "within 60000 ms of the verifier's 1699999939999");
    assert_string_equal(why->actual, "1700000000000");
    assert_int_equal(challenged_at(FIXTURE_NOW_MS + 60001), EX_REFUSED);
    assert_string_equal(worker_refusal(engine_svc(W->w))->clause, "clock");
    assert_int_equal(challenged_at(INT64_MAX), EX_REFUSED);
    assert_int_equal(challenged_at(INT64_MIN), EX_REFUSED);
    assert_string_equal(worker_refusal(engine_svc(W->w))->clause, "challenge.now_ms");
}

static void tick(int64_t now_ms)
{
    W->f.now_ms = now_ms;
    W->act = 0;
    OK(engine_begin(W->w, e));
    OK(engine_tick(W->w, e));
    OK(engine_commit(W->w, e));
    pump();
}

static void test_repeats_and_deadline(void **state)
{
    struct worker_start_args a = {.launch = W->launch};
    (void)state;
    W->launch->pb->deadline_ms = FIXTURE_NOW_MS + 60000;
    OK(call(worker_start, &a, e));
    tick(FIXTURE_NOW_MS + 4999);
    assert_int_equal(W->act, 0);
    tick(FIXTURE_NOW_MS + 5000);
    assert_int_equal(W->act, WORKER_ACT_CHALLENGE);
    engine_close(W->w); /* anew, up to the evidence */
    struct engine_opts o = {
        .db_path = ":memory:", .clock = fixture_clock, .clock_arg = &W->f, .config = W->config};
    OK(engine_open(&worker_service, &o, &W->w, e));
    start_and_attest();
    _cleanup_free_ char *prefix = xasprintf("%s.1.evidence.", W->job.spec->job_id);
    size_t n = strlen(prefix);
    _cleanup_free_ char *first = xstrdup(W->evidence_id);
    assert_int_equal(strncmp(first, prefix, n), 0);
    assert_int_equal(strspn(first + n, "0123456789abcdef"), 16); /* nobody else can know it */
    assert_string_equal(first + n + 16, ".1");
    tick(FIXTURE_NOW_MS + 10000);
    assert_int_equal(strncmp(W->evidence_id, first, n + 16), 0);
    assert_string_equal(W->evidence_id + n + 16, ".2");
    tick(FIXTURE_NOW_MS + 60000);
    assert_int_equal(worker_state(engine_svc(W->w)), EX_REFUSED);
    assert_string_equal(worker_refusal(engine_svc(W->w))->clause, "worker.deadline");
}

/* The launch configuration, with the seed in it, comes on standard input. What the runner has, the
 * processes of the sandbox would have. */
static void test_runner_has_no_launch_configuration(void **state)
{
    _cleanup_(runner_freep) struct runner *r = NULL;
    char path[64], line[64] = "", link[64] = "";

    (void)state;
    OK(runner_spawn(W->launch, &r, e));
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof(line), f));
    snprintf(path, sizeof(path), "/proc/%d/fd/0", atoi(line));
    for (int i = 0; i < 500 && !streq(link, "/dev/null"); i++) {
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        link[n > 0 ? n : 0] = '\0';
        usleep(10000);
    }
    assert_string_equal(link, "/dev/null");
}

static void expect_launch(struct bytes in, int allow, enum err_code code, const char *clause)
{
    struct worker_launch *l = NULL;
    struct err e = {0};
    int rc = worker_launch_parse(in, allow, &l, &e);

    worker_launch_free(l);
    assert_int_equal(rc, -1);
    if (e.code != code || !streq(e.clause, clause)) {
        fail_msg("wanted %s of %s: %s of %s: %s", err_code_name(code), clause,
                 err_code_name(e.code), e.clause, e.msg);
    }
}

static void test_launch(void **state)
{
    const char *id = W->job.spec->job_id;
    struct bytes b;
    (void)state;
    expect_launch(pack_launch(4, id, 0), 0, ERR_DENIED, "launch.attempt");
    expect_launch(pack_launch(0, id, 0), 0, ERR_DENIED, "launch.attempt");
    expect_launch(pack_launch(1, "../../etc", 0), 0, ERR_INVALID, "launch.job");
    expect_launch(pack_launch(1, "jaaaaaaaaaaaaaaaaaaaaaaaaaa", 0), 0, ERR_DENIED, "launch.job");
    expect_launch(pack_launch(1, id, 1), 0, ERR_DENIED, "launch.no_container");
    b = pack_launch(1, id, 0);
    memcpy((uint8_t *)(uintptr_t)b.p + b.n, "\x88\x27\x01", 3); /* field 625 */
    expect_launch(BYTES(b.p, b.n + 3), 0, ERR_INVALID, "launch");
    b = pack_launch(1, id, 0);
    expect_launch(BYTES(b.p, b.n - 1), 0, ERR_INVALID, "launch");
    expect_launch(BYTES(b.p, WORKER_LAUNCH_MAX_BYTES + 1), 0, ERR_TOO_LARGE, "launch");
    char *digit = &W->job.spec_jws[strlen(W->job.spec_jws) - 5], was = *digit;
    *digit = was == 'A' ? 'B' : 'A';
    expect_launch(pack_launch(1, id, 0), 0, ERR_BAD_SIGNATURE, "");
    *digit = was;
    W->store[0] = 'x';
    expect_launch(pack_launch(1, id, 0), 0, ERR_INVALID, "launch.store_path");
}

/* A runner that dies is an outcome too. */
static void test_runner_dies(void **state)
{
    struct worker_outcome o = {0};
    struct runner *r = NULL;
    (void)state;
    OK(runner_spawn(W->launch, &r, e));
    _cleanup_secret_ struct secret *junk = secret_from("{}", 2);
    OK(runner_run(r, junk, e));
    OK(runner_result(r, W->launch, &o, e));
    assert_int_equal(o.refusal.code, ERR_INVALID); /* a release that is none */
    OK(runner_result(r, W->launch, &o, e));
    assert_string_equal(o.refusal.clause, "worker.runner");
    assert_string_equal(o.refusal.actual, "exit status 0");
    runner_free(r);
}

static void test_states(void **state)
{
    enum exec_state to;
    struct err e = {0};
    int allowed = 0;
    (void)state;
    for (int st = 0; st < EX_N; st++) {
        for (int ev = 0; ev < XV_N; ev++) {
            allowed += exec_next((enum exec_state)st, (enum exec_event)ev, &to, &e) == 0;
        }
    }
    assert_int_equal(allowed, 11);
    assert_int_equal(exec_next(EX_RUNNING, XV_KEYS, &to, &e), -1);
    assert_string_equal(e.clause, "worker.state");
    assert_string_equal(e.actual, "running");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_whole_way),
        T(test_tampered_chunk),
        T(test_tampered_end),
        T(test_truncated),
        T(test_no_dataset),
        T(test_bad_releases_change_nothing),
        T(test_refused_release),
        T(test_refused_challenge),
        T(test_clock),
        T(test_repeats_and_deadline),
        T(test_runner_has_no_launch_configuration),
        T(test_launch),
        T(test_runner_dies),
        T(test_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
