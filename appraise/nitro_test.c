/* Nitro documents by our own certificates: each way in which one can be bad. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/nitro_testing.h"

#define HOUR_MS (3600 * 1000LL)

static struct nitro_pki pki;
static uint8_t user_data[64] = {7, 7, 7}, nonce[20] = {9, 9};

static const struct nitro_opts plain = {.user_data = {user_data, sizeof(user_data)},
                                        .nonce = {nonce, sizeof(nonce)},
                                        .public_key = {nonce, 5}};

static int appraise_at(const struct pki *root, struct bytes evidence, int64_t at_ms,
                       const uint8_t *report_data, struct bytes want_nonce, struct appraisal *a,
                       struct err *e)
{
    _cleanup_(certs_freep) struct certs *store = certs_new(32);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(store);
    struct cert *r;

    *e = (struct err){0};
    assert_int_equal(certs_add_der(store, "root", buf_bytes(&root->der), &r, e), 0);
    const struct cert *const roots[] = {r};
    const struct appraisal_policy policy = {.roots = roots, .n_roots = 1};
    const struct appraisal_input in = {.evidence = evidence,
                                       .now_ms = at_ms,
                                       .collateral = c,
                                       .report_data = report_data,
                                       .nonce = want_nonce};
    return nitro_appraise(&in, &policy, a, e);
}

static void expect(const struct nitro_pki *p, const struct nitro_opts *o, const char *clause)
{
    _cleanup_buf_ struct buf doc = nitro_make(p, o);
    struct appraisal a = {0};
    struct err e;
    int rc = appraise_at(&p->ca[0], buf_bytes(&doc), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e);

    if (clause ? !rc || !streq(e.clause, clause) : rc) {
        fail_msg("expected %s, got %s: %s", clause ? clause : "genuine", e.clause, e.msg);
    }
    appraisal_done(&a);
}

static void test_genuine(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf doc = nitro_make(&pki, &plain);
    struct appraisal a = {0};
    struct err e;

    assert_int_equal(appraise_at(&pki.ca[0], buf_bytes(&doc), PKI_NOW_MS, user_data,
                                 BYTES(nonce, sizeof(nonce)), &a, &e),
                     0);
    assert_int_equal(a.tier, TIER_ENCLAVE);
    assert_int_equal(a.tcb_status, TCB_NONE);
    assert_int_equal(a.vector[EAR_HARDWARE], 2);
    assert_null(a.unchecked);
    assert_string_equal(json_string_value(json_object_get(a.claims, "module_id")),
                        "i-0123456789abcdef0-enc0123456789abcdef");
    assert_int_equal(json_integer_value(json_object_get(a.claims, "timestamp")), PKI_NOW_MS);
    assert_int_equal(strlen(json_string_value(json_object_get(a.claims, "pcr00"))), 96);
    assert_true(json_is_false(json_object_get(a.claims, "debug")));
    appraisal_done(&a);

    struct nitro_opts o = plain;
    o.tagged = o.indefinite = o.unknown = 1;
    expect(&pki, &o, NULL);
    o.leave_out = "nonce"; /* an optional one */
    o.unknown = 0;
    expect(&pki, &o, NULL);
}

static void test_bound(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf doc = nitro_make(&pki, &plain), bare = {0};
    uint8_t other[64] = {7, 7};
    struct appraisal a = {0};
    struct err e;
    struct nitro_opts o = {.debug = 0};

    assert_int_equal(
        appraise_at(&pki.ca[0], buf_bytes(&doc), PKI_NOW_MS, other, (struct bytes){0}, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.user_data");
    assert_int_equal(e.code, ERR_DENIED);
    assert_int_equal(appraise_at(&pki.ca[0], buf_bytes(&doc), PKI_NOW_MS, user_data,
                                 BYTES(nonce, sizeof(nonce) - 1), &a, &e),
                     -1);
    assert_string_equal(e.clause, "evidence.nonce");
    bare = nitro_make(&pki, &o);
    assert_int_equal(
        appraise_at(&pki.ca[0], buf_bytes(&bare), PKI_NOW_MS, user_data, (struct bytes){0}, &a, &e),
        -1);
    assert_string_equal(e.actual, "none");
    assert_int_equal(appraise_at(&pki.ca[0], buf_bytes(&bare), PKI_NOW_MS, NULL,
                                 BYTES(nonce, sizeof(nonce)), &a, &e),
                     -1);
    assert_string_equal(e.clause, "evidence.nonce");
}

static void test_payloads(void **state)
{
    (void)state;
    static uint8_t big[1025];
    const struct {
        struct nitro_opts o;
        const char *clause;
    } bad[] = {
        {{.leave_out = "module_id"}, "evidence.module_id"},
        {{.leave_out = "digest"}, "evidence.digest"},
        {{.leave_out = "timestamp"}, "evidence.timestamp"},
        {{.leave_out = "pcrs"}, "evidence.pcrs"},
        {{.leave_out = "certificate"}, "evidence.certificate"},
        {{.leave_out = "cabundle"}, "evidence.cabundle"},
        {{.twice = "nonce"}, "evidence.payload"},
        {{.twice = "of_nobody", .unknown = 0, .trailing = "\x01"}, "evidence.payload"},
        {{.trailing = "\xf6"}, "evidence.payload"},
        {{.indefinite = 1, .trailing = "\xf6"}, "evidence.payload"},
        {{.debug = 1}, "evidence.pcrs"},
        {{.no_pcr0 = 1}, "evidence.pcrs"},
        {{.pcr_twice = 1}, "evidence.pcrs"},
        {{.pcr_bytes = 32}, "evidence.pcrs"},
        {{.pcr_bytes = 64}, "evidence.pcrs"},
        {{.timestamp_zero = 1}, "evidence.timestamp"},
        {{.digest_other = 1}, "evidence.digest"},
        {{.user_data = {big, sizeof(big)}}, "evidence.user_data"},
        {{.nonce = {big, sizeof(big)}}, "evidence.nonce"},
        {{.public_key = {big, sizeof(big)}}, "evidence.public_key"},
        {{.public_key = {big, 0}}, "evidence.public_key"},
        {{.cabundle_extra = 4}, "evidence.cabundle"},
        {{.cabundle_reversed = 1}, "evidence.chain.root"},
        {{.cabundle_extra = 1}, "evidence.chain[1].issuer"},
    };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        expect(&pki, &bad[i].o, bad[i].clause);
    }
}

static void test_cose(void **state)
{
    (void)state;
    EVP_PKEY *other = EVP_EC_gen("P-384");
    const struct {
        struct nitro_opts o;
        const char *clause;
    } bad[] = {
        {{.protected_header = BYTES("\xa1\x01\x26", 3)}, "evidence.cose.alg"},     /* ES256 */
        {{.protected_header = BYTES("\xa1\x01\x38\x23", 4)}, "evidence.cose.alg"}, /* ES512 */
        {{.protected_header = BYTES("\xa1\x01\x18\x22", 4)}, "evidence.cose.alg"}, /* 34 */
        {{.protected_header = BYTES("\xa1\x01\x61\x41", 4)}, "evidence.cose.alg"}, /* text */
        {{.protected_header = BYTES("\xa0", 1)}, "evidence.cose.alg"},
        {{.protected_header = BYTES("", 0)}, "evidence.cose.protected"},
        {{.protected_header = BYTES("\xa2\x01\x38\x22\x02\x81\x01", 7)}, "evidence.cose.crit"},
        {{.protected_header = BYTES("\xa2\x01\x38\x22\x01\x38\x22", 7)}, "evidence.cose.protected"},
        {{.protected_header = BYTES("\xa1\x01\x38\x22\xa0", 5)}, "evidence.cose.protected"},
        {{.protected_header = BYTES("\xa1\x40\x38\x22", 4)}, "evidence.cose.protected"},
        {{.protected_header =
              BYTES("\xa2\x01\x38\x22\x05\x81\x81\x81\x81\x81\x81\x81\x81\x81\x80", 15)},
         "evidence.cose.protected"},
        {{.unprotected = 1}, "evidence.cose.unprotected"},
        {{.sign_with = other}, "evidence.signature"},
        {{.md = EVP_sha256()}, "evidence.signature"},
        {{.der_signature = 1}, "evidence.cose.signature"},
    };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        expect(&pki, &bad[i].o, bad[i].clause);
    }
    /* What is not critical may be there. */
    const struct nitro_opts kid = {.protected_header = BYTES("\xa2\x01\x38\x22\x04\x41\x31", 7)};
    expect(&pki, &kid, NULL);
    EVP_PKEY_free(other);
}

static void test_wrong_leaf(void **state)
{
    (void)state;
    const struct pki_opts opts[] = {
        {.curve = "P-384", .not_after_ms = PKI_NOW_MS - HOUR_MS},
        {.curve = "P-384", .not_before_ms = PKI_NOW_MS + HOUR_MS},
        {.curve = "P-384", .ca = 1},
        {.curve = "P-384", .key_usage = ""},
        {.curve = "P-384", .key_usage = "critical,keyAgreement"},
        {.curve = "P-256"},
        {.curve = NULL},
        {.curve = "P-384", .issuer = &pki.ca[1]},
        {.curve = "P-384",
         .ext = (const struct pki_ext[]){{"1.2.3.4.5", BYTES("\x05\x00", 2), 1}},
         .n_ext = 1},
    };
    static const char *const clauses[] = {
        "evidence.chain[0].not_after",
        "evidence.chain[0].not_before",
        "evidence.chain[0].basic_constraints",
        "evidence.certificate.key_usage",
        "evidence.certificate.key_usage",
        "evidence.chain[0].key",
        "evidence.chain[0].key",
        "evidence.chain[0].issuer",
        "evidence.chain[0].extensions",
    };
    struct nitro_pki p = pki;

    for (size_t i = 0; i < ARRAY_LEN(opts); i++) {
        p.leaf = nitro_leaf(&pki, &opts[i]);
        /* A signature of the right length, whatever the key. */
        const struct nitro_opts o = {.sign_with = pki.leaf.key};
        expect(&p, &o, clauses[i]);
        pki_done(&p.leaf);
    }
}

static void test_wrong_cas(void **state)
{
    (void)state;
    const struct {
        int which;
        struct pki_opts o;
        const char *clause;
    } bad[] = {
        {3, {.ca = 1, .not_after_ms = PKI_NOW_MS - HOUR_MS}, "evidence.chain[1].not_after"},
        {2, {.ca = 1, .not_before_ms = PKI_NOW_MS + HOUR_MS}, "evidence.chain[2].not_before"},
        {0, {.ca = 1, .not_after_ms = PKI_NOW_MS - HOUR_MS}, "evidence.chain[4].not_after"},
        {3, {.ca = 0}, "evidence.chain[1].basic_constraints"},
        {3, {.no_basic_constraints = 1, .ca = 1}, "evidence.chain[1].basic_constraints"},
        {2, {.ca = 1, .has_path_len = 1, .path_len = 0}, "evidence.chain[2].path_len"},
        {1, {.ca = 1, .has_path_len = 1, .path_len = 1}, "evidence.chain[3].path_len"},
        {2, {.ca = 1, .key_usage = "critical,cRLSign"}, "evidence.chain[2].key_usage"},
        {1, {.ca = 1, .curve = "P-256"}, "evidence.chain[3].key"},
    };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct nitro_pki p = nitro_pki_make(bad[i].which, &bad[i].o);
        expect(&p, &plain, bad[i].clause);
        nitro_pki_done(&p);
    }
}

static void test_roots(void **state)
{
    (void)state;
    struct nitro_pki other = nitro_pki_make(-1, NULL);
    _cleanup_buf_ struct buf doc = nitro_make(&other, &plain);
    struct appraisal a = {0};
    struct err e;

    /* A root of the same name with another key; and AWS's alone. */
    assert_int_equal(
        appraise_at(&pki.ca[0], buf_bytes(&doc), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.chain.root");
    const struct appraisal_policy policy = {0};
    const struct appraisal_input in = {.evidence = buf_bytes(&doc), .now_ms = PKI_NOW_MS};
    assert_int_equal(nitro_appraise(&in, &policy, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.chain.root");
    /* Its intermediate CA within a chain up to ours. */
    struct nitro_pki mixed = other;
    mixed.ca[0] = pki.ca[0];
    expect(&mixed, &plain, "evidence.chain[3].signature");
    nitro_pki_done(&other);
}

/* Every second byte, every length, and parts of one document in another. */
static void test_mutations(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf doc = nitro_make(&pki, &plain), copy = BUF_INIT(NITRO_TESTING_MAX);
    const struct nitro_opts o2 = {.user_data = {nonce, 7}};
    _cleanup_buf_ struct buf second = nitro_make(&pki, &o2);
    struct appraisal a = {0};
    struct err e;
    size_t n = 0;

    for (size_t i = 0; i < doc.n; i += 3, n++) {
        doc.p[i] ^= (uint8_t)(1u << i % 8);
        if (appraise_at(&pki.ca[0], buf_bytes(&doc), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e) ==
            0) {
            fail_msg("byte %zu is not bound", i);
        }
        assert_true(e.code != ERR_NONE && *e.clause);
        doc.p[i] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t i = 0; i < doc.n; i += 7, n++) {
        assert_int_equal(
            appraise_at(&pki.ca[0], BYTES(doc.p, i), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e),
            -1);
    }
    nt_raw(&copy, doc.p, doc.n);
    nt_raw(&copy, "\0", 1);
    assert_int_equal(
        appraise_at(&pki.ca[0], buf_bytes(&copy), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.cose");
    memcpy(copy.p + doc.n - 96, second.p + second.n - 96, 96);
    assert_int_equal(
        appraise_at(&pki.ca[0], BYTES(copy.p, doc.n), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e),
        -1);
    assert_string_equal(e.clause, "evidence.signature");
    assert_true(n >= 900);
}

static void test_bombs(void **state)
{
    (void)state;
    static const struct bytes bombs[] = {
        BYTES("\x84\x5b\xff\xff\xff\xff\xff\xff\xff\xff", 10),
        BYTES("\x84\x44\xa1\x01\x38\x22\xbb\xff\xff\xff\xff\xff\xff\xff\xff", 15),
        BYTES("\x9b\xff\xff\xff\xff\xff\xff\xff\xff", 9),
        BYTES("\x84\x44\xa1\x01\x38\x22\xa0\x5f\x41\x00\xff", 11),
        BYTES("\xd2\xd2\x84", 3),
    };
    struct appraisal a = {0};
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(bombs); i++) {
        assert_int_equal(
            appraise_at(&pki.ca[0], bombs[i], PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    _cleanup_buf_ struct buf deep = BUF_INIT(200000);
    for (size_t i = 0; i < 60000; i++) {
        nt_raw(&deep, "\x81", 1);
    }
    struct cbor c = {.p = deep.p, .n = deep.n};
    assert_int_equal(cbor_skip(&c), -1);
    assert_true(c.bad && deep.n - c.n < 16);
    memset(deep.p, 0x84, 1);
    while (deep.n <= COSE_MAX_BYTES) {
        nt_raw(&deep, deep.p, 6000);
    }
    assert_int_equal(
        appraise_at(&pki.ca[0], buf_bytes(&deep), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
}

static void test_forms(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf doc = nitro_make(&pki, &plain), scale = BUF_INIT(NITRO_TESTING_MAX);
    _cleanup_free_ char *hex = hex_encode(doc.p, doc.n), *b64 = b64_encode(doc.p, doc.n);
    _cleanup_free_ char *json = xasprintf("{\"document\":\"%s\"}", b64);
    const uint32_t compact = (uint32_t)doc.n << 2 | 1;
    const uint8_t head[] = {0, 2, (uint8_t)compact, (uint8_t)(compact >> 8)};

    nt_raw(&scale, head, sizeof(head));
    nt_raw(&scale, doc.p, doc.n);
    nt_raw(&scale, "more", 4);
    const struct bytes forms[] = {BYTES_STR(hex), BYTES_STR(b64), BYTES_STR(json),
                                  buf_bytes(&scale)};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct appraisal a = {0};
        struct err e;
        if (appraise_at(&pki.ca[0], forms[i], PKI_NOW_MS, user_data, (struct bytes){0}, &a, &e)) {
            fail_msg("form %zu: %s", i, e.msg);
        }
        appraisal_done(&a);
    }
    struct appraisal a = {0};
    struct err e;
    assert_int_equal(
        appraise_at(&pki.ca[0], BYTES(scale.p, 300), PKI_NOW_MS, NULL, (struct bytes){0}, &a, &e),
        -1);
    assert_int_equal(appraise_at(&pki.ca[0], buf_bytes(&pki.leaf.der), PKI_NOW_MS, NULL,
                                 (struct bytes){0}, &a, &e),
                     -1);
    assert_string_equal(e.actual, "one without");
}

static int setup(void **state)
{
    (void)state;
    pki = nitro_pki_make(-1, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    nitro_pki_done(&pki);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_genuine),    cmocka_unit_test(test_bound),
        cmocka_unit_test(test_payloads),   cmocka_unit_test(test_cose),
        cmocka_unit_test(test_wrong_leaf), cmocka_unit_test(test_wrong_cas),
        cmocka_unit_test(test_roots),      cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_bombs),      cmocka_unit_test(test_forms),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
