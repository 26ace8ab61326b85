/* What is put together from parts that are each genuine, or nearly.
 *
 * Keys that the KBS did not release: a worker has no trust root, so it cannot tell a release of the
 * KBS's from one that somebody else made for its public key (docs/threat-model.md). What it must
 * never do is let anything out to whoever did that.
 *
 * A sealed file under another's id. A manifest, signed by the right key, whose spec or EAR is of
 * another job or attempt. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-gate/gate_fixture.h"

struct world {
    struct fixture f;
    char store[128], *dataset_id;
    struct secret *dataset_key;
    struct job_case job;
    struct worker_launch *launch;
    struct area *out;
    struct worker_outcome outcome;
    struct err manifest_why; /* what the gate said of the last one */
};

static struct world *W;

static void make_dataset(void)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    struct seal_header h = {0};
    char path[512];

    snprintf(W->store, sizeof(W->store), "%s/store", W->f.dir);
    snprintf(path, sizeof(path), "%s/datasets", W->store);
    CHECK(mkdir(W->store, 0700) == 0 && mkdir(path, 0700) == 0);
    OK(seal_dataset_header_new("trial", "file", "AES-256-GCM", 4096, W->f.kbs, &prefix,
                               &W->dataset_key, e));
    OK(seal_header_parse(buf_bytes(&prefix), &h, e));
    W->dataset_id = xstrdup(h.id);
    snprintf(path, sizeof(path), "%s/plain", W->f.dir);
    _cleanup_close_ int in = open(path, O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < 2000; i++) {
        CHECK(dprintf(in, "%06d,row of the input\n", i) > 0);
    }
    CHECK(lseek(in, 0, SEEK_SET) == 0);
    snprintf(path, sizeof(path), "%s/datasets/%s.coffer", W->store, h.id);
    _cleanup_close_ int out = open(path, O_RDWR | O_CREAT, 0600);
    OK(seal_fd(&prefix, W->dataset_key, in, out, NULL, e));
    seal_header_done(&h);
}

static void make_launch(void)
{
    static uint8_t packed[WORKER_LAUNCH_MAX_BYTES];
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    char tee[] = "sample", none[] = "nats://127.0.0.1:1";

    c.job = W->job.spec->job_id;
    c.attempt = 1;
    c.spec_jws = W->job.spec_jws;
    c.tee = tee;
    c.nats_url = none;
    c.store_path = W->store;
    c.work_dir = W->f.dir;
    c.no_container = 1;
    size_t n = coffer__v1__launch_config__pack(&c, packed);
    OK(worker_launch_parse(BYTES(packed, n), 1, &W->launch, e));
}

static int setup(void **state)
{
    (void)state;
    W = xcalloc(1, sizeof(*W));
    fixture_init(&W->f);
    make_dataset();
    W->job = fixture_job(&W->f, JOB_OPTS(.dataset = W->dataset_id));
    make_launch();
    OK(area_new(job_area_bytes(W->job.spec), 0, &W->out, e));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    area_free(W->out);
    worker_launch_free(W->launch);
    free(W->dataset_id);
    secret_free(W->dataset_key);
    job_case_done(&W->job);
    fixture_done(&W->f);
    free(W);
    return 0;
}

/* What a worker does with a release of this data key and this gate; the EAR is genuine. */
static struct worker_sealed run_with(const struct secret *key, const struct jkey *gate)
{
    _cleanup_free_ char *ear = fixture_ear(&W->f, W->f.verifier, W->job.spec->job_id, 1, W->f.tee);
    _cleanup_free_ char *key64 = b64url_encode(secret_cp(key), secret_n(key));
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ json_t *j =
        json_pack("{s:i,s:s,s:i,s:[{s:s,s:s,s:s}],s:o,s:s}", "v", 1, "job", W->job.spec->job_id,
                  "attempt", 1, "keys", "id", W->dataset_id, "kind", "dataset", "key", key64,
                  "gate", jkey_public_jwk(gate), "ear", ear);
    struct worker_keys keys = {0};
    struct worker_sealed sealed = {0};

    OK(jcs_encode(j, &text, e));
    OK(worker_keys_parse(BYTES_STR(text), W->launch, &keys, e));
    job_run(W->launch, &keys, W->out, &W->outcome);
    OK(worker_seal(W->launch, W->f.tee, keys.gate, keys.ear, &W->outcome, &sealed, e));
    worker_keys_done(&keys);
    return sealed;
}

static void open_box(const struct worker_sealed *w, const struct jkey *with, struct result_box *ret)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_json_ json_t *m = NULL;
    _cleanup_secret_ struct secret *plain = NULL;

    OK(result_manifest_peek(w->manifest_jws, &payload, e));
    OK(json_parse("m", buf_bytes(&payload), RESULT_MANIFEST_MAX_BYTES, &m, e));
    _cleanup_free_ char *jwe = json_dumps(json_object_get(m, "box"), JSON_COMPACT);
    OK(jwe_decrypt(with, jwe, RESULT_BOX_MAX_BYTES, &plain, e));
    OK(result_box_parse(BYTES(secret_cp(plain), secret_n(plain)), ret, e));
}

/* So that the other tests mean something: with the owner's key there is an output. */
static void test_the_owners_key(void **state)
{
    (void)state;
    struct worker_sealed w = run_with(W->dataset_key, W->f.gate_seal);

    assert_int_equal(W->outcome.refusal.code, ERR_NONE);
    assert_true(w.stream.n > 0);
    worker_sealed_done(&w);
}

/* A forger knows the worker's public key, but no data key: nothing opens, nothing is in the result,
 * and the gate of the forger's learns no more than that. */
static void test_a_forgers_key_and_gate(void **state)
{
    _cleanup_secret_ struct secret *guess = secret_random(32);
    struct result_box box = {0};

    (void)state;
    struct worker_sealed w = run_with(guess, W->f.stranger);
    assert_int_equal(W->outcome.refusal.code, ERR_WORKLOAD);
    assert_string_equal(W->outcome.refusal.clause, "dataset[0].end");
    assert_string_equal(W->outcome.refusal.expected, "a whole sealed file of that key");
    assert_int_equal(W->outcome.plain.n, 0);
    assert_int_equal(w.stream.n, 0);
    open_box(&w, W->f.stranger, &box);
    assert_null(box.key);
    assert_int_equal(box.n_files, 0);
    assert_int_equal(box.fp_count, 0);
    result_box_done(&box);

    /* The true gate decides nothing about a result that is sealed to another. */
    fixture_release(&W->f, W->job.spec->job_id, 1, W->f.tee);
    fixture_send_manifest(&W->f, W->job.spec->job_id, 1, w.manifest_jws);
    assert_non_null(strstr(W->f.why.msg, "result.box"));
    assert_int_equal(W->f.n_decisions, 0);
    worker_sealed_done(&w);
}

/* The same key, but not the file of that id: the id is of the header, and that is another. */
static void test_another_file_under_the_id(void **state)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    _cleanup_secret_ struct secret *unused = NULL;
    struct seal_header h = {0};
    char path[512];

    (void)state;
    OK(seal_dataset_header_new("other", "file", "AES-256-GCM", 4096, W->f.kbs, &prefix, &unused,
                               e));
    OK(seal_header_parse(buf_bytes(&prefix), &h, e));
    snprintf(path, sizeof(path), "%s/plain", W->f.dir);
    _cleanup_close_ int in = open(path, O_RDONLY);
    snprintf(path, sizeof(path), "%s/datasets/%s.coffer", W->store, W->dataset_id);
    _cleanup_close_ int out = open(path, O_RDWR | O_TRUNC);
    OK(seal_fd(&prefix, W->dataset_key, in, out, NULL, e));
    struct worker_sealed w = run_with(W->dataset_key, W->f.gate_seal);
    assert_int_equal(W->outcome.refusal.code, ERR_WORKLOAD);
    assert_string_equal(W->outcome.refusal.clause, "dataset[0].id");
    assert_string_equal(W->outcome.refusal.expected, W->dataset_id);
    assert_string_equal(W->outcome.refusal.actual, h.id);
    assert_int_equal(w.stream.n, 0);
    worker_sealed_done(&w);
    seal_header_done(&h);
}

/* A manifest of attempt 1 with one member changed and signed anew by its TEE key. */
static void send_changed(const char *member, const char *value)
{
    struct worker_sealed w =
        fixture_result(&W->f, &W->job, RESULT_OPTS(.content = BYTES("a\n", 2)));
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);
    _cleanup_json_ json_t *m = NULL;
    _cleanup_free_ char *jws = NULL;

    OK(result_manifest_peek(w.manifest_jws, &payload, e));
    OK(json_parse("m", buf_bytes(&payload), RESULT_MANIFEST_MAX_BYTES, &m, e));
    if (member) {
        json_object_set_new(m, member, json_string(value));
    }
    OK(jws_sign_json(W->f.tee, RESULT_MANIFEST_TYP, 0, m, &jws, e));
    fixture_send_manifest(&W->f, W->job.spec->job_id, 1, jws);
    W->manifest_why = W->f.why;
    fixture_send_chunks(&W->f, W->job.spec->job_id, 1, &w);
    worker_sealed_done(&w);
}

static void test_a_spec_of_another_job(void **state)
{
    struct job_case other = fixture_job(&W->f, JOB_OPTS(.nonce = "another-nonce-16"));

    (void)state;
    fixture_release(&W->f, W->job.spec->job_id, 1, W->f.tee);
    send_changed("spec", other.spec_jws);
    assert_string_equal(W->manifest_why.clause, "result.spec.job");
    assert_string_equal(W->manifest_why.expected, W->job.spec->job_id);
    assert_string_equal(W->manifest_why.actual, other.spec->job_id);
    assert_int_equal(W->f.n_decisions, 0);
    send_changed(NULL, NULL);
    assert_int_equal(W->f.n_decisions, 1);
    job_case_done(&other);
}

static void test_an_ear_of_another_attempt(void **state)
{
    _cleanup_free_ char *ear = fixture_ear(&W->f, W->f.verifier, W->job.spec->job_id, 2, W->f.tee);

    (void)state;
    fixture_release(&W->f, W->job.spec->job_id, 1, W->f.tee);
    send_changed("ear", ear);
    assert_string_equal(W->manifest_why.clause, "result.ear.attempt");
    assert_string_equal(W->manifest_why.expected, "1");
    assert_string_equal(W->manifest_why.actual, "2");
    assert_int_equal(W->f.n_decisions, 0);
    send_changed(NULL, NULL);
    assert_int_equal(W->f.n_decisions, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_the_owners_key), T(test_a_forgers_key_and_gate), T(test_another_file_under_the_id),
        T(test_a_spec_of_another_job), T(test_an_ear_of_another_attempt)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
