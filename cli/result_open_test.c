#include "cli/cli_testing.h"

#include "cli/result_open.h"

/* A result as the gate makes it, and everything that can be wrong with it. */

#define JOB "jrxfv7wivd4k4p2bezjin3qkbdw"
#define OTHER_JOB "jaaaaaaaaaaaaaaaaaaaaaaaaaa"

static struct jkey *gate, *mallory, *consumer, *stranger;
static struct trust trust;

struct made {
    json_t *decision, *header;
    struct buf sealed;
    struct secret *key;
};

static void made_done(struct made *m)
{
    json_decref(m->decision);
    json_decref(m->header);
    buf_done(&m->sealed);
    secret_free(m->key);
}

static const char contents[] = "a,b\n1,2\n{}";

static json_t *file_json(const struct secret *key, const char *path, const char *type,
                         struct bytes content)
{
    char hmac[65];

    assert_int_equal(result_file_hmac(key, content, hmac, NULL), 0);
    return json_pack("{s:s,s:s,s:I,s:s}", "path", path, "type", type, "bytes",
                     (json_int_t)content.n, "hmac", hmac);
}

static struct made make(void)
{
    struct made m = {.sealed = BUF_INIT(65536)};
    _cleanup_free_ char *jwe = NULL;
    json_t *box = NULL;

    assert_int_equal(result_seal(BYTES(contents, 10), &m.sealed, &m.key, NULL), 0);
    json_t *files = json_array();
    json_array_append_new(files, file_json(m.key, "mean.csv", "text/csv", BYTES(contents, 8)));
    json_array_append_new(files,
                          file_json(m.key, "x.json", "application/json", BYTES(contents + 8, 2)));
    assert_int_equal(jwe_encrypt(consumer, BYTES(secret_cp(m.key), secret_n(m.key)), &jwe, NULL),
                     0);
    assert_int_equal(json_parse("jwe", BYTES_STR(jwe), 65536, &box, NULL), 0);
    m.header = json_pack("{s:i,s:s,s:i,s:{s:o},s:O}", "v", 1, "job", JOB, "attempt", 2, "keys",
                         jkey_thumbprint(consumer), box, "files", files);
    m.decision =
        json_pack("{s:i,s:s,s:i,s:i,s:s,s:i,s:[],s:o}", "v", 1, "job", JOB, "attempt", 2,
                  "revision", 1, "outcome", "released", "score", 3, "reasons", "files", files);
    assert_non_null(m.header);
    assert_non_null(m.decision);
    return m;
}

static int open_made(const struct made *m, const struct jkey *signer, const struct jkey *recipient,
                     const char *job, struct opened_result *ret, struct err *e)
{
    _cleanup_free_ char *jws = NULL, *header = json_dumps(m->header, JSON_COMPACT);

    assert_int_equal(jws_sign_json(signer, DECISION_JWS_TYP, 0, m->decision, &jws, NULL), 0);
    return result_check_open(&trust, recipient, job, jws, header, buf_bytes(&m->sealed), ret, e);
}

static void refused(struct made *m, const struct jkey *signer, const struct jkey *recipient,
                    const char *job, enum err_code code, const char *clause)
{
    struct opened_result r;
    struct err e = {0};

    assert_int_equal(open_made(m, signer, recipient, job, &r, &e), -1);
    if (e.code != code || !strstr(e.msg, clause)) {
        print_error("%s: %s\n", err_code_name(e.code), e.msg);
    }
    assert_int_equal(e.code, code);
    assert_non_null(strstr(e.msg, clause));
    made_done(m);
}

static void opens(void **state)
{
    struct made m = make();
    struct opened_result r;
    struct err e = {0};

    (void)state;
    assert_int_equal(open_made(&m, gate, consumer, JOB, &r, &e), 0);
    assert_int_equal(r.n_files, 2);
    assert_string_equal(r.files[0].path, "mean.csv");
    assert_int_equal(r.files[0].content.n, 8);
    assert_memory_equal(r.files[1].content.p, "{}", 2);
    opened_result_done(&r);
    made_done(&m);
}

static json_t *file_of(json_t *o, size_t i)
{
    return json_array_get(json_object_get(o, "files"), i);
}

static void decisions_must_hold(void **state)
{
    struct made m = make();

    (void)state;
    refused(&m, mallory, consumer, JOB, ERR_BAD_SIGNATURE, "gate.signature");
    m = make();
    refused(&m, gate, consumer, OTHER_JOB, ERR_DENIED, "decision.job");
    m = make();
    json_object_set_new(m.decision, "outcome", json_string("held"));
    refused(&m, gate, consumer, JOB, ERR_DENIED, "decision.outcome");
    m = make();
    json_object_set_new(m.decision, "v", json_integer(2));
    refused(&m, gate, consumer, JOB, ERR_INVALID, "decision.v");
    m = make();
    json_object_set_new(m.decision, "files", json_array());
    refused(&m, gate, consumer, JOB, ERR_DENIED, "header.files");
}

static void headers_must_agree(void **state)
{
    struct made m = make();

    (void)state;
    json_object_set_new(m.header, "attempt", json_integer(1));
    refused(&m, gate, consumer, JOB, ERR_DENIED, "header.job");
    m = make();
    json_object_set_new(m.header, "job", json_string(OTHER_JOB));
    refused(&m, gate, consumer, JOB, ERR_DENIED, "header.job");
    m = make();
    json_object_set_new(m.header, "files", json_array());
    refused(&m, gate, consumer, JOB, ERR_DENIED, "header.files");
    m = make();
    refused(&m, gate, stranger, JOB, ERR_DENIED, "result.recipients");
    m = make();
    json_t *keys = json_object_get(m.header, "keys");
    json_object_set(keys, jkey_thumbprint(stranger),
                    json_object_get(keys, jkey_thumbprint(consumer)));
    refused(&m, gate, stranger, JOB, ERR_BAD_SIGNATURE, "header.keys");
}

static void every_byte_must_be_the_gates(void **state)
{
    struct made m = make(), other = make();

    (void)state;
    m.sealed.p[m.sealed.n - 20] ^= 1;
    refused(&m, gate, consumer, JOB, ERR_BAD_SIGNATURE, "does not open");

    /* Sealed with the right key, but not what the decision names. */
    for (size_t i = 0; i < 2; i++) {
        m = make();
        json_object_set(file_of(m.decision, i), "hmac",
                        json_object_get(file_of(other.decision, i), "hmac"));
        char clause[32];
        snprintf(clause, sizeof(clause), "decision.files[%zu]", i);
        refused(&m, gate, consumer, JOB, ERR_BAD_SIGNATURE, clause);
    }
    made_done(&other);

    m = make();
    json_array_remove(json_object_get(m.decision, "files"), 1);
    refused(&m, gate, consumer, JOB, ERR_BAD_SIGNATURE, "result.bytes");
    m = make();
    json_object_set_new(file_of(m.decision, 1), "bytes", json_integer(3));
    refused(&m, gate, consumer, JOB, ERR_INVALID, "decision.files[1].bytes");
}

/* A reviewer signs on the strength of what is shown, which comes over a bus that others run. */
static void shown_must_be_signed(void **state)
{
    char first[] = "+100 verbatim: all of it", other[] = "+1 size: nearly nothing";
    char *reasons[] = {first}, *others[] = {other};
    _cleanup_json_ json_t *d =
        json_pack("{s:i,s:s,s:i,s:s,s:i,s:[s]}", "v", 1, "job", JOB, "attempt", 2, "outcome",
                  "held", "score", 100, "reasons", first);
    _cleanup_free_ char *jws = NULL, *forged = NULL;
    Coffer__V1__HeldResult good = COFFER__V1__HELD_RESULT__INIT;
    struct err e = {0};

    (void)state;
    assert_int_equal(jws_sign_json(gate, DECISION_JWS_TYP, 0, d, &jws, NULL), 0);
    assert_int_equal(jws_sign_json(mallory, DECISION_JWS_TYP, 0, d, &forged, NULL), 0);
    good.attempt = 2;
    good.outcome = COFFER__V1__GATE_OUTCOME__GATE_HELD;
    good.score = 100;
    good.n_reasons = 1;
    good.reasons = reasons;
    good.decision_jws = jws;
    assert_int_equal(held_verify(&trust, JOB, &good, &e), 0);
    Coffer__V1__HeldResult bad[] = {good, good, good, good, good, good};
    static const char *const clauses[] = {"shown.attempt", "shown.score",   "shown.reasons",
                                          "shown.reasons", "shown.outcome", "gate.signature"};
    bad[0].attempt = 1;
    bad[1].score = 3;
    bad[2].reasons = others;
    bad[3].n_reasons = 0;
    bad[4].outcome = COFFER__V1__GATE_OUTCOME__GATE_REJECTED;
    bad[5].decision_jws = forged;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(held_verify(&trust, JOB, &bad[i], &e), -1);
        assert_string_equal(e.clause, clauses[i]);
    }
    assert_int_equal(held_verify(&trust, OTHER_JOB, &good, &e), -1);
    assert_string_equal(e.clause, "decision.job");
    good.decision_jws = (char *)"";
    assert_int_equal(held_verify(&trust, JOB, &good, &e), -1);
}

static int set_up(void **state)
{
    (void)state;
    if (jkey_generate(&gate, NULL) || jkey_generate(&mallory, NULL) ||
        jkey_generate(&consumer, NULL) || jkey_generate(&stranger, NULL)) {
        return -1;
    }
    trust.gate.keys[0] = gate;
    trust.gate.n = 1;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    jkey_free(gate);
    jkey_free(mallory);
    jkey_free(consumer);
    jkey_free(stranger);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens),
        cmocka_unit_test(decisions_must_hold),
        cmocka_unit_test(headers_must_agree),
        cmocka_unit_test(every_byte_must_be_the_gates),
        cmocka_unit_test(shown_must_be_signed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
