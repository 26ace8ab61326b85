/* The worker's attester and the verifier's appraiser over real (software) TPMs: what is refused,
 * and that the refusal names what was changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>

#include "appraise/swtpm_testing.h"
#include "svc-verifier/verifier_testing.h"
#include "svc-worker/attest_tpm.h"

static char dir[64];
static char *ca, *foreign_ca, *hosts, *log_path;
static struct swtpm tpm, neighbour, foreign;
static struct boot good;
static json_t *refvals;
static struct vworld w;

/* ---- one attempt ---- */

struct attempt {
    struct submit submit;
    void *state;
    struct buf credential, key;
    uint8_t report_data[64];
    json_t *evidence;
};

static void attempt_done(struct attempt *a)
{
    vtpm_end(a->state);
    buf_done(&a->credential);
    buf_done(&a->key);
    json_decref(a->evidence);
    submit_done(&a->submit);
}

static void use(const struct swtpm *t)
{
    free(log_path);
    log_path = xasprintf("%s/measurements", t->dir);
    vtpm_use(t->socket, log_path, 20000);
}

/* The challenge that these bytes get; its credential or refusal. */
static Coffer__V1__Reply *ask(struct attempt *a, struct bytes key)
{
    Coffer__V1__Reply *r = vworld_challenge_key(&w, V_JOB, 1, "vtpm", key);

    assert_non_null(r);
    if (r->body_case == COFFER__V1__REPLY__BODY_CHALLENGE) {
        a->submit.attempt = 1;
        snprintf(a->submit.job, sizeof(a->submit.job), "%s", V_JOB);
        memcpy(a->submit.nonce, r->challenge->nonce.data, 32);
        a->credential.n = 0;
        VMUST(buf_add(&a->credential, r->challenge->credential.data, r->challenge->credential.len,
                      e));
        assert_int_equal(r->challenge->now_ms, w.now_ms);
    }
    return r;
}

static void begin(struct attempt *a, const struct swtpm *t)
{
    *a = (struct attempt){.credential = BUF_INIT(4096), .key = BUF_INIT(ATTEST_KEY_MAX_BYTES)};
    a->submit = (struct submit){.tee = xstrdup("vtpm"), .spec = xstrdup("the spec")};
    use(t);
    VMUST(vtpm_begin(&a->state, &a->key, e));
}

static void challenge(struct attempt *a)
{
    Coffer__V1__Reply *r = ask(a, buf_bytes(&a->key));

    if (r->body_case != COFFER__V1__REPLY__BODY_CHALLENGE) {
        fail_msg("no challenge: %s", r->refusal ? r->refusal->message : "");
    }
    coffer__v1__reply__free_unpacked(r, NULL);
    free(TAKE_PTR(a->submit.runtime_data));
    VMUST(runtime_data_make(V_JOB, 1, BYTES(a->submit.nonce, 32), w.tee, &a->submit.runtime_data,
                            a->report_data, e));
}

static void collect(struct attempt *a)
{
    _cleanup_buf_ struct buf out = BUF_INIT(EVIDENCE_MAX_BYTES);

    VMUST(vtpm_collect(a->state, a->report_data, buf_bytes(&a->credential), &out, e));
    json_decref(a->evidence);
    VMUST(json_parse("evidence", buf_bytes(&out), EVIDENCE_MAX_BYTES, &a->evidence, e));
}

/* A software TPM has one client at a time. */
static void let_go(struct attempt *a)
{
    vtpm_end(TAKE_PTR(a->state));
}

/* Up to evidence that is sound, if the TPM is. */
static void attempt_make(struct attempt *a, const struct swtpm *t)
{
    begin(a, t);
    challenge(a);
    collect(a);
    let_go(a);
}

static Coffer__V1__Verdict *send(struct attempt *a)
{
    free(a->submit.evidence);
    a->submit.evidence = json_dumps(a->evidence, JSON_COMPACT);
    Coffer__V1__Verdict *v = vworld_submit(&w, &a->submit, NULL);
    assert_non_null(v);
    return v;
}

/* The same challenge cannot be used twice, so each refusal is of an attempt of its own. */
static void expect_refused(struct attempt *a, const char *code, const char *clause,
                           const char *expected, const char *actual)
{
    Coffer__V1__Verdict *v = send(a);

    assert_non_null(v->refusal);
    if (strcmp(v->refusal->clause, clause) != 0 || strcmp(v->refusal->code, code) != 0) {
        fail_msg("expected %s %s, got %s: %s", code, clause, v->refusal->code, v->refusal->message);
    }
    if (expected && !strstr(v->refusal->expected, expected)) {
        fail_msg("expected \"%s\" in \"%s\"", expected, v->refusal->expected);
    }
    if (actual && !strstr(v->refusal->actual, actual)) {
        fail_msg("expected \"%s\" in \"%s\"", actual, v->refusal->actual);
    }
    assert_string_equal(v->ear, "");
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void expect_warning(struct attempt *a)
{
    Coffer__V1__Verdict *v = send(a);
    _cleanup_(ear_freep) struct ear *r = NULL;

    if (v->refusal) {
        fail_msg("refused: %s", v->refusal->message);
    }
    VMUST(ear_verify(w.trust, v->ear, &r, e));
    assert_string_equal(r->status, "warning");
    assert_string_equal(r->tee, "vtpm");
    const json_t *cpu0 = json_object_get(json_object_get(r->claims, "submods"), "cpu0");
    const json_t *claims =
        json_object_get(json_object_get(cpu0, "ear.veraison.annotated-evidence"), "vtpm");
    assert_string_equal(json_string_value(json_object_get(claims, "host")), "h1");
    assert_string_equal(json_string_value(json_object_get(claims, "size")), "1024/1");
    const json_t *vector = json_object_get(cpu0, "ear.trustworthiness-vector");
    assert_int_equal(json_integer_value(json_object_get(vector, "hardware")), 32);
    assert_int_equal(json_integer_value(json_object_get(vector, "runtime-opaque")), 32);
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void set(struct attempt *a, const char *member, struct bytes value)
{
    _cleanup_free_ char *text = b64url_encode(value.p, value.n);

    json_object_set_new(a->evidence, member, json_string(text));
}

static void get(const struct attempt *a, const char *member, struct buf *ret)
{
    const char *s = json_string_value(json_object_get(a->evidence, member));

    assert_non_null(s);
    VMUST(b64url_decode(s, strlen(s), ret, e));
}

/* ---- tests ---- */

static void test_warning(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a, again;

    attempt_make(&a, &tpm);
    expect_warning(&a);
    /* Every attempt has a key of its own, and leaves nothing in the TPM: it has room for three. */
    for (int i = 0; i < 4; i++) {
        begin(&again, &tpm);
        challenge(&again);
        for (int k = 0; k < 4; k++) {
            collect(&again);
        }
        let_go(&again);
        assert_string_not_equal(json_string_value(json_object_get(a.evidence, "ak_pub")),
                                json_string_value(json_object_get(again.evidence, "ak_pub")));
        if (i < 3) {
            attempt_done(&again);
        }
    }
    expect_warning(&again);
}

static void test_ecc_endorsement(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a;
    struct tpm_link *link = NULL;
    ESYS_TR ek = ESYS_TR_NONE, gone = ESYS_TR_NONE;

    /* Without the RSA key there is the one on P-384. */
    swtpm_boot(&neighbour, &good);
    ESYS_CONTEXT *esys = swtpm_esys(&neighbour, &link);
    assert_int_equal(
        Esys_TR_FromTPMPublic(esys, 0x81010001, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &ek), 0);
    assert_int_equal(Esys_EvictControl(esys, ESYS_TR_RH_OWNER, ek, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                       ESYS_TR_NONE, 0x81010001, &gone),
                     0);
    Esys_Finalize(&esys);
    tpm_link_free(link);
    attempt_make(&a, &neighbour);
    expect_warning(&a);
}

static void test_challenge_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "x",
        "{}",
        "{\"ak_pub\":\"AAAA\"}",
        "{\"ak_pub\":\"AAAA\",\"ek_certs\":[]}",
        "{\"ak_pub\":\"AAAA\",\"ek_certs\":[\"?\"]}",
        "{\"ak_pub\":\"AAAA\",\"ek_certs\":[1]}",
        "{\"ak_pub\":\"AAAA\",\"ek_certs\":[\"AAAA\"],\"more\":1}",
    };
    _cleanup_(attempt_done) struct attempt a;

    begin(&a, &tpm);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        Coffer__V1__Reply *r = ask(&a, BYTES_STR(bad[i]));
        assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
        assert_string_equal(r->refusal->code, "invalid");
        assert_memory_equal(r->refusal->clause, "evidence.", 9);
        coffer__v1__reply__free_unpacked(r, NULL);
    }
    /* A key that is not restricted would sign anything, quotes that it made up too. */
    _cleanup_json_ json_t *j = NULL;
    VMUST(json_parse("key", buf_bytes(&a.key), ATTEST_KEY_MAX_BYTES, &j, e));
    const char *pub = json_string_value(json_object_get(j, "ak_pub"));
    for (int bit = 0; bit < 32; bit++) {
        static const uint32_t must = TPM_FIXED_TPM | TPM_FIXED_PARENT | TPM_SENSITIVE_DATA_ORIGIN |
                                     TPM_RESTRICTED | TPM_SIGN | TPM_DECRYPT;
        _cleanup_buf_ struct buf raw = BUF_INIT(1024);
        if (!(must & 1u << bit)) {
            continue;
        }
        VMUST(b64url_decode(pub, strlen(pub), &raw, e));
        raw.p[4 + 3 - bit / 8] ^= (uint8_t)(1u << bit % 8);
        _cleanup_free_ char *text = b64url_encode(raw.p, raw.n);
        _cleanup_json_ json_t *changed = json_deep_copy(j);
        json_object_set_new(changed, "ak_pub", json_string(text));
        _cleanup_free_ char *key = json_dumps(changed, 0);
        Coffer__V1__Reply *r = ask(&a, BYTES_STR(key));
        assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
        assert_string_equal(r->refusal->clause, "evidence.ak_pub");
        assert_non_null(strstr(r->refusal->expected, "restricted"));
        coffer__v1__reply__free_unpacked(r, NULL);
    }
    /* One that has a key to show, where none is wanted. */
    Coffer__V1__Reply *r = vworld_challenge_key(&w, V_JOB, 1, "sample", buf_bytes(&a.key));
    assert_string_equal(r->refusal->clause, "evidence.attest_key");
    coffer__v1__reply__free_unpacked(r, NULL);
}

static void test_not_enrolled(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a, b;

    begin(&a, &foreign);
    Coffer__V1__Reply *r = ask(&a, buf_bytes(&a.key));
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    assert_string_equal(r->refusal->code, "denied");
    assert_string_equal(r->refusal->clause, "evidence.ek_certs");
    assert_string_equal(r->refusal->expected, "an endorsement key that an enrolled host certifies");
    assert_non_null(strstr(r->refusal->actual, "CN=Coffer TPM CA of host other"));
    coffer__v1__reply__free_unpacked(r, NULL);

    /* Its certificate in the evidence of a sound one. */
    attempt_make(&b, &tpm);
    _cleanup_json_ json_t *key = NULL;
    VMUST(json_parse("key", buf_bytes(&a.key), ATTEST_KEY_MAX_BYTES, &key, e));
    json_object_set(b.evidence, "ek_certs", json_object_get(key, "ek_certs"));
    expect_refused(&b, "denied", "evidence.ek_certs", "enrolled host", "host other");
}

static void test_other_keys(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a, b, c, d, old;
    uint8_t random[32];

    /* The credential does not open elsewhere. */
    begin(&b, &neighbour);
    attempt_make(&a, &tpm);
    struct err err = {0};
    _cleanup_buf_ struct buf out = BUF_INIT(1u << 18);
    assert_int_equal(vtpm_collect(b.state, a.report_data, buf_bytes(&a.credential), &out, &err),
                     -1);
    assert_int_equal(err.code, ERR_BAD_SIGNATURE);
    assert_string_equal(err.clause, "challenge.credential");

    /* A quote by the key of another VM of the same host, over the same data. */
    challenge(&b);
    memcpy(b.report_data, a.report_data, 64);
    collect(&b);
    json_object_set(a.evidence, "quote", json_object_get(b.evidence, "quote"));
    json_object_set(a.evidence, "sig", json_object_get(b.evidence, "sig"));
    expect_refused(&a, "bad-signature", "evidence.sig", "attestation key", "does not hold");
    /* And with that key. */
    attempt_make(&c, &tpm);
    json_object_set(c.evidence, "ak_pub", json_object_get(b.evidence, "ak_pub"));
    expect_refused(&c, "denied", "evidence.credential", "the secret that was sent", "another");
    /* And with that VM's certificate too. */
    attempt_make(&d, &tpm);
    json_object_set(b.evidence, "credential", json_object_get(d.evidence, "credential"));
    json_decref(d.evidence);
    d.evidence = json_incref(b.evidence);
    expect_refused(&d, "denied", "evidence.credential", NULL, NULL);

    /* A secret that is not the one. */
    attempt_done(&c);
    attempt_make(&c, &tpm);
    random_bytes(random, sizeof(random));
    set(&c, "credential", BYTES(random, sizeof(random)));
    expect_refused(&c, "denied", "evidence.credential", NULL, NULL);

    /* Yesterday's quote. */
    begin(&old, &tpm);
    challenge(&old);
    collect(&old);
    _cleanup_json_ json_t *before = json_deep_copy(old.evidence);
    challenge(&old);
    collect(&old);
    json_object_set(old.evidence, "quote", json_object_get(before, "quote"));
    json_object_set(old.evidence, "sig", json_object_get(before, "sig"));
    expect_refused(&old, "denied", "evidence.report_data", NULL, NULL);
}

static void test_event_log(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt cut, torn, more, wrong;
    _cleanup_buf_ struct buf log = BUF_INIT(EVENTLOG_MAX_BYTES);
    static const size_t event = 4 + 4 + 4 + 2 + 32 + 4 + 4;

    attempt_make(&cut, &tpm);
    get(&cut, "eventlog", &log);
    set(&cut, "eventlog", BYTES(log.p, log.n - event));
    expect_refused(&cut, "denied", "evidence.eventlog", "a replay to PCR 5", NULL);

    attempt_make(&torn, &tpm);
    set(&torn, "eventlog", BYTES(log.p, log.n - 1));
    expect_refused(&torn, "invalid", "evidence.eventlog", "event log", "found the end");

    attempt_make(&more, &tpm);
    VMUST(buf_add(&log, log.p + log.n - event, event, e));
    set(&more, "eventlog", buf_bytes(&log));
    expect_refused(&more, "denied", "evidence.eventlog", "a replay to PCR 5", NULL);

    attempt_make(&wrong, &tpm);
    json_t *pcrs = json_object_get(wrong.evidence, "pcrs");
    json_object_set(pcrs, "9", json_object_get(pcrs, "11"));
    expect_refused(&wrong, "denied", "evidence.pcrs", NULL, NULL);
}

static char *hex_of(const struct boot *b, const char *what)
{
    for (size_t i = 0; i < b->n; i++) {
        if (b->v[i].what && streq(b->v[i].what, what)) {
            return hex_encode(b->v[i].digest, 32);
        }
    }
    return NULL;
}

static void test_changed(void **state)
{
    (void)state;
    static const struct {
        const char *what, *also[3];
        const char *clause;
    } changes[] = {
        {"firmware DXE volume", {0}, "evidence.pcr[0]"},
        {"unified kernel image", {0}, "evidence.pcr[4]"},
        {"kernel", {"unified kernel image", ".linux section"}, "evidence.pcr[4]"},
        {"initramfs", {"unified kernel image", ".initrd section"}, "evidence.pcr[9]"},
        {"command line", {"unified kernel image"}, "evidence.pcr[9]"},
        {".linux section", {0}, "evidence.pcr[11]"},
    };

    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        _cleanup_(attempt_done) struct attempt a;
        struct boot b = good;
        boot_change(&b, changes[i].what);
        for (size_t k = 0; k < 3 && changes[i].also[k]; k++) {
            boot_change(&b, changes[i].also[k]);
        }
        swtpm_boot(&tpm, &b);
        attempt_make(&a, &tpm);
        _cleanup_free_ char *want = hex_of(&good, changes[i].what);
        _cleanup_free_ char *expected = xasprintf("%s %s", changes[i].what, want);
        _cleanup_free_ char *found = hex_of(&b, changes[i].what);
        expect_refused(&a, "denied", changes[i].clause, expected, found);
    }
    swtpm_boot(&tpm, &good);
}

static void test_added(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a, b, c;
    struct boot more = good, less = good, size = good;
    uint8_t pcr[TPM_PCRS][32];

    /* A host's -append: measured where nothing should be. */
    boot_measure(&more, 12, 6, NULL, "init=/bin/sh");
    swtpm_boot(&tpm, &more);
    attempt_make(&a, &tpm);
    _cleanup_free_ char *found = hex_encode(more.v[more.n - 1].digest, 32);
    expect_refused(&a, "denied", "evidence.pcr[12]", "of coffer-guest 0.1.0", found);

    /* Something was not measured at all. */
    less.n--;
    less.v[less.n - 1].what = NULL;
    less.n--;
    swtpm_boot(&tpm, &less);
    attempt_make(&b, &tpm);
    expect_refused(&b, "denied", "evidence.pcr[9]", "initramfs", "nothing measured");

    /* Another size of VM: only PCR 0, and nothing in it that has a name. */
    size.v[1].digest[0] ^= 1;
    swtpm_boot(&tpm, &size);
    attempt_make(&c, &tpm);
    boot_pcrs(&size, pcr);
    _cleanup_free_ char *value = hex_encode(pcr[0], 32);
    expect_refused(&c, "denied", "evidence.pcr[0]", "firmware OVMF in a VM of a known size", value);
    swtpm_boot(&tpm, &good);
}

/* Whatever is in a member instead, it is refused, and the refusal names it. */
static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *member, *text, *clause;
    } bad[] = {
        {"v", "2", "evidence"},
        {"v", "\"1\"", "evidence"},
        {"more", "1", "evidence"},
        {"ak_pub", "1", "evidence.ak_pub"},
        {"ak_pub", "\"\"", "evidence.ak_pub"},
        {"ak_pub", "\"*\"", "evidence.ak_pub"},
        {"ak_pub", "\"AAAA\"", "evidence.ak_pub"},
        {"ek_certs", "{}", "evidence.ek_certs"},
        {"ek_certs", "[\"AAAA\"]", "evidence.ek_certs"},
        {"ek_certs", "[\"\"]", "evidence.ek_certs"},
        {"credential", "\"AAAA\"", "evidence.credential"},
        {"credential", "7", "evidence.credential"},
        {"quote", "\"AAAA\"", "evidence.quote"},
        {"quote", "null", "evidence.quote"},
        {"sig", "\"AAAA\"", "evidence.sig"},
        {"sig", "\"ABgACwAAAAA\"", "evidence.sig"},
        {"pcrs", "[]", "evidence.pcrs"},
        {"pcrs", "{}", "evidence.pcrs"},
        {"pcrs", "{\"8\":\"00\"}", "evidence.pcrs"},
        {"pcrs", "{\"0\":\"00\"}", "evidence.pcrs"},
        {"pcrs", "{\"00\":\"00\"}", "evidence.pcrs"},
        {"eventlog", "\"AAAA\"", "evidence.eventlog"},
        {"eventlog", "[]", "evidence.eventlog"},
    };
    _cleanup_(attempt_done) struct attempt a;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        attempt_make(&a, &tpm);
        json_object_set_new(a.evidence, bad[i].member,
                            json_loads(bad[i].text, JSON_DECODE_ANY, NULL));
        Coffer__V1__Verdict *v = send(&a);
        assert_non_null(v->refusal);
        if (strcmp(v->refusal->clause, bad[i].clause) != 0) {
            fail_msg("%s = %s: expected %s, got %s", bad[i].member, bad[i].text, bad[i].clause,
                     v->refusal->message);
        }
        coffer__v1__verdict__free_unpacked(v, NULL);
        attempt_done(&a);
    }
    static const char *const members[] = {"v",     "ak_pub", "ek_certs", "credential",
                                          "quote", "sig",    "pcrs",     "eventlog"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        attempt_make(&a, &tpm);
        json_object_del(a.evidence, members[i]);
        Coffer__V1__Verdict *v = send(&a);
        assert_non_null(v->refusal);
        assert_string_equal(v->refusal->code, "invalid");
        coffer__v1__verdict__free_unpacked(v, NULL);
        attempt_done(&a);
    }
    attempt_make(&a, &tpm);
    expect_warning(&a);
}

/* No bit of quote, signature and attestation key can be another one. */
static void test_every_bit(void **state)
{
    (void)state;
    static const char *const members[] = {"quote", "sig", "ak_pub", "credential"};
    const struct verifier *v = engine_svc(w.g)->priv;
    _cleanup_(attempt_done) struct attempt a;
    uint8_t proof[CREDENTIAL_PROOF_BYTES];
    _cleanup_buf_ struct buf secret = BUF_INIT(64), pub = BUF_INIT(1024), cert = BUF_INIT(4096);

    attempt_make(&a, &tpm);
    get(&a, "credential", &secret);
    get(&a, "ak_pub", &pub);
    const char *s = json_string_value(json_array_get(json_object_get(a.evidence, "ek_certs"), 0));
    VMUST(b64_decode(s, strlen(s), &cert, e));
    VMUST(credential_proof(buf_bytes(&secret), buf_bytes(&pub), buf_bytes(&cert), proof, e));
    for (size_t m = 0; m < ARRAY_LEN(members); m++) {
        _cleanup_buf_ struct buf raw = BUF_INIT(4096);
        get(&a, members[m], &raw);
        for (size_t bit = 0; bit <= raw.n * 8; bit++) {
            _cleanup_(appraisal_done) struct appraisal out = {0};
            struct err err = {0};
            if (bit < raw.n * 8) {
                raw.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
            }
            set(&a, members[m], buf_bytes(&raw));
            _cleanup_free_ char *text = json_dumps(a.evidence, 0);
            const struct appraisal_input in = {.evidence = BYTES_STR(text),
                                               .report_data = a.report_data,
                                               .proof = proof,
                                               .now_ms = w.now_ms};
            int rc = vtpm_appraise(&in, &v->policy, &out, &err);
            if (bit < raw.n * 8) {
                raw.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
                assert_int_equal(rc, -1);
                assert_memory_equal(err.clause, "evidence.", 9);
            } else {
                assert_int_equal(rc, 0); /* as it was */
            }
        }
    }
}

static void expect_no_start(const json_t *values, const char *host_file, const char *what)
{
    struct err why = {0};
    _cleanup_free_ char *jws = NULL;

    engine_close(TAKE_PTR(w.g));
    VMUST(jws_sign_json(w.release, REFVALS_TYP, 0, values, &jws, e));
    free(vworld_file(&w, "refvals.jws", jws));
    free(vworld_file(&w, "hosts.json", host_file));
    assert_int_equal(vworld_open(&w, &why), -1);
    if (!strstr(why.msg, what)) {
        fail_msg("expected \"%s\" in \"%s\"", what, why.msg);
    }
}

static void test_configuration(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a, b;
    _cleanup_json_ json_t *fewer = json_deep_copy(refvals);

    json_object_del(json_object_get(json_object_get(fewer, "vtpm"), "pcrs"), "12");
    expect_no_start(fewer, hosts, "expected registers 1-7, 9, 11, 12");
    expect_no_start(refvals, "{\"v\":1,\"hosts\":[{}]}", "hosts[0]");

    /* Signed by somebody else. */
    struct err why = {0};
    struct jkey *own = w.release;
    w.release = w.tee;
    _cleanup_free_ char *jws = NULL;
    VMUST(jws_sign_json(w.release, REFVALS_TYP, 0, refvals, &jws, e));
    w.release = own;
    free(vworld_file(&w, "refvals.jws", jws));
    free(vworld_file(&w, "hosts.json", hosts));
    assert_int_equal(vworld_open(&w, &why), -1);
    assert_int_equal(why.code, ERR_BAD_SIGNATURE);
    assert_string_equal(why.clause, "release.signature");

    /* Nothing is known: nothing is good. */
    vworld_done(&w);
    vworld_make_with(&w, "true", NULL, hosts);
    attempt_make(&a, &tpm);
    expect_refused(&a, "denied", "evidence.pcr", "reference values", "none is configured");
    vworld_done(&w);
    vworld_make_with(&w, "true", refvals, NULL);
    begin(&b, &tpm);
    Coffer__V1__Reply *r = ask(&b, buf_bytes(&b.key));
    assert_string_equal(r->refusal->clause, "evidence.ek_certs");
    assert_string_equal(r->refusal->actual, "no host is enrolled");
    coffer__v1__reply__free_unpacked(r, NULL);
}

static void test_enrolled_keys(void **state)
{
    (void)state;
    _cleanup_(attempt_done) struct attempt a, b;
    _cleanup_buf_ struct buf der = BUF_INIT(4096);
    _cleanup_json_ json_t *key = NULL, *file = NULL;
    uint8_t sha256[32];

    begin(&a, &tpm);
    VMUST(json_parse("key", buf_bytes(&a.key), ATTEST_KEY_MAX_BYTES, &key, e));
    const char *s = json_string_value(json_array_get(json_object_get(key, "ek_certs"), 0));
    VMUST(b64_decode(s, strlen(s), &der, e));
    sha256_of(der.p, der.n, sha256);
    _cleanup_free_ char *hex = hex_encode(sha256, 32);
    VMUST(json_parse("hosts", BYTES_STR(hosts), 1u << 20, &file, e));
    json_array_append_new(json_object_get(json_array_get(json_object_get(file, "hosts"), 0), "eks"),
                          json_string(hex));
    _cleanup_free_ char *only = json_dumps(file, 0);
    vworld_done(&w);
    vworld_make_with(&w, "true", refvals, only);
    challenge(&a);
    collect(&a);
    expect_warning(&a);
    begin(&b, &neighbour); /* the same CA, another key */
    Coffer__V1__Reply *r = ask(&b, buf_bytes(&b.key));
    assert_int_equal(r->body_case, COFFER__V1__REPLY__BODY_REFUSAL);
    assert_non_null(strstr(r->refusal->actual, "not in the host's list of keys"));
    coffer__v1__reply__free_unpacked(r, NULL);
}

/* A TPM that says nothing costs a bounded time. */
static void test_no_answer(void **state)
{
    (void)state;
    struct buf key = BUF_INIT(1024);
    struct timespec from, to;
    struct err e = {0};
    void *st = NULL;

    use(&tpm);
    kill(tpm.pid, SIGSTOP);
    vtpm_use(tpm.socket, log_path, 200);
    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(vtpm_begin(&st, &key, &e), -1);
    clock_gettime(CLOCK_MONOTONIC, &to);
    kill(tpm.pid, SIGCONT);
    assert_int_equal(e.code, ERR_IO);
    assert_non_null(strstr(e.msg, "no answer within 200 ms"));
    assert_true(to.tv_sec - from.tv_sec < 5);

    vtpm_use("/nonexistent/tpm", log_path, 200);
    assert_int_equal(vtpm_begin(&st, &key, &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent/tpm"));
    assert_null(st);
    swtpm_boot(&tpm, &good);
}

/* ---- the world ---- */

static int setup(void **state)
{
    (void)state;
    vworld_make_with(&w, "true", refvals, hosts);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vworld_done(&w);
    return 0;
}

static int group_setup(void **state)
{
    (void)state;
    ca = swtpm_ca(dir, "h1");
    foreign_ca = swtpm_ca(dir, "other");
    swtpm_make(&tpm, dir, ca, "a");
    swtpm_make(&neighbour, dir, ca, "b");
    swtpm_make(&foreign, dir, foreign_ca, "c");
    boot_make(&good);
    refvals = boot_refvals(&good);
    hosts = hosts_json("h1", ca);
    swtpm_boot(&tpm, &good);
    swtpm_boot(&neighbour, &good);
    swtpm_boot(&foreign, &good);
    return 0;
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int group_teardown(void **state)
{
    (void)state;
    swtpm_off(&tpm);
    swtpm_off(&neighbour);
    swtpm_off(&foreign);
    json_decref(refvals);
    free(hosts);
    free(ca);
    free(foreign_ca);
    free(log_path);
    return nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_warning),         T(test_challenge_refused), T(test_not_enrolled),
        T(test_other_keys),      T(test_event_log),         T(test_changed),
        T(test_added),           T(test_malformed),         T(test_every_bit),
        T(test_configuration),   T(test_enrolled_keys),     T(test_no_answer),
        T(test_ecc_endorsement),
    };

    alarm(110);
    snprintf(dir, sizeof(dir), "/tmp/coffer-vtpm-XXXXXX");
    if (!swtpm_here()) {
        fprintf(stderr, "skipped: there is no swtpm, swtpm_setup or swtpm_localca\n");
        return 77;
    }
    if (!mkdtemp(dir)) {
        return 1;
    }
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
