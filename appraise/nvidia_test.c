#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "appraise/nvidia_testing.h"

struct job {
    struct nv_world w;
    struct certs *store;
    struct collateral *bag;
    struct cert *root;
    struct buf evidence;
    uint8_t *report_data;
    struct bytes nonce;
};

static void job_done(struct job *j)
{
    collateral_free(j->bag);
    if (j->root) {
        cert_unref(j->root);
    }
    certs_free(j->store);
    buf_done(&j->evidence);
    nv_world_done(&j->w);
}

static void add(struct job *j, const char *name, struct bytes b)
{
    struct err e = {0};

    if (collateral_add(j->bag, name, b, &e)) {
        fail_msg("%s: %s", name, e.msg);
    }
}

static void job_new(struct job *j, const struct nv_opts *o, const struct nv_report_opts *r)
{
    struct cert *root;

    *j = (struct job){.store = certs_new(64)};
    nv_world_new(&j->w, o);
    j->bag = collateral_new(j->store);
    assert_int_equal(certs_add_der(j->store, "root", buf_bytes(&j->w.root.der), &root, NULL), 0);
    j->root = cert_ref(root);
    j->evidence = nv_report(&j->w, r);
}

static void with_chain(struct job *j)
{
    _cleanup_free_ char *pem = nv_chain(&j->w);

    add(j, "chain.pem", BYTES_STR(pem));
}

static int run(struct job *j, struct appraisal *a, struct err *e)
{
    const struct cert *roots[] = {j->root};
    const struct appraisal_policy policy = {.roots = roots, .n_roots = 1};
    const struct appraisal_input in = {.evidence = buf_bytes(&j->evidence),
                                       .report_data = j->report_data,
                                       .nonce = j->nonce,
                                       .now_ms = PKI_NOW_MS,
                                       .collateral = j->bag};

    *e = (struct err){0};
    return nvidia_appraise(&in, &policy, a, e);
}

static void expect(struct job *j, const char *clause)
{
    struct appraisal a = {0};
    struct err e;
    int rc = run(j, &a, &e);

    if (clause ? !rc || !streq(e.clause, clause) : rc) {
        fail_msg("expected %s, got %s: %s", clause ? clause : "genuine", e.clause, e.msg);
    }
    appraisal_done(&a);
}

static void text_evidence(struct job *j, char *take)
{
    buf_done(&j->evidence);
    j->evidence = BUF_INIT(1u << 20);
    nv_add(&j->evidence, take, strlen(take));
    free(take);
}

/* ---- certificates ---- */

static void test_certificates(void **state)
{
    (void)state;
    static const struct {
        struct nv_opts o;
        struct nv_report_opts r;
        const char *clause;
    } cases[] = {
        {{0}, {0}, NULL},
        {{.critical = 1}, {0}, NULL},
        {{.fwid_oid = "2.23.133.5.4.1.1", .tcb_info = 1, .critical = 1}, {0}, NULL},
        {{.tcb_info = 1}, {0}, NULL},
        {{.leaf_cn = "GB100 A01 GSP FMC LF", .device_cn = "GB100 A01 GSP BROM"}, {0}, NULL},
        {{.leaf_cn = "LS_10 A01 FSP FMC LF", .device_cn = "LS_10 A01 FSP BROM"},
         {.is_switch = 1, .no_fwid = 1, .no_driver = 1},
         NULL},
        {{.leaf_cn = "LS_10 A01 FSP FMC LF", .device_cn = "LS_10 A01 FSP BROM"},
         {.is_switch = 1, .fwid = 3, .no_driver = 1},
         "evidence.fwid"},
        {{.leaf_cn = "LS_10 A01 FSP FMC LF", .device_cn = "LS_10 A01 FSP BROM"},
         {.no_vbios = 1, .no_fwid = 1},
         "evidence.vbios_version"},
        {{0}, {.fwid = 3}, "evidence.fwid"},
        {{0}, {.no_fwid = 1}, "evidence.fwid"},
        {{0}, {.no_driver = 1}, "evidence.driver_version"},
        {{0}, {.no_vbios = 1}, "evidence.vbios_version"},
        {{.fwid_oid = ""}, {0}, "evidence.chain[0].fwid"},
        {{.fwid_oid = "2.23.133.5.4.1.1"}, {0}, "evidence.chain[0].fwid"},
        {{.unknown = "1.2.3.4"}, {0}, "evidence.chain[0].extensions"},
        {{.leaf_usage = "critical,keyAgreement"}, {0}, "evidence.chain[0].key_usage"},
        {{.leaf_not_after_ms = PKI_NOW_MS - 1000}, {0}, "evidence.chain[0].not_after"},
        {{.leaf_cn = "GA100 A01 GSP FMC LF"}, {0}, "evidence.chain[0].subject"},
        {{.device_cn = "GB100 A01 GSP BROM"}, {0}, "evidence.chain.device"},
        {{.curve = "P-256"}, {0}, "evidence.chain[0].public_key"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(job_done) struct job j;
        if (cases[i].o.curve) { /* its signature would not fit: the key is looked at before */
            job_new(&j, &(struct nv_opts){0}, &cases[i].r);
            nv_world_done(&j.w);
            nv_world_new(&j.w, &cases[i].o);
            cert_unref(j.root);
            struct cert *root;
            certs_add_der(j.store, "root", buf_bytes(&j.w.root.der), &root, NULL);
            j.root = cert_ref(root);
        } else {
            job_new(&j, &cases[i].o, &cases[i].r);
        }
        _cleanup_free_ char *pem = nv_chain(&j.w), *b64 = b64_encode(pem, strlen(pem));
        _cleanup_free_ char *report = b64_encode(j.evidence.p, j.evidence.n);
        text_evidence(&j, xasprintf("{\"evidence\":\"%s\",\"certificate\":\"%s\"}", report, b64));
        expect(&j, cases[i].clause);
    }
}

static void test_chain_forms(void **state)
{
    (void)state;
    static const struct {
        const char *order; /* leaf, device, provisioner, line, root */
        const char *clause;
    } cases[] = {{"ldpir", NULL},
                 {"ldpi", NULL}, /* the root is known */
                 {"rldpi", NULL},
                 {"ripdl", "evidence.chain.root"},
                 {"l", "evidence.chain.root"},
                 {"ldir", "evidence.chain.root"},
                 {"dpir", "evidence.chain"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(job_done) struct job j;
        job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
        for (const char *c = cases[i].order; *c; c++) {
            const struct pki *p = *c == 'l'   ? &j.w.leaf
                                  : *c == 'd' ? &j.w.device
                                  : *c == 'p' ? &j.w.provisioner
                                  : *c == 'i' ? &j.w.line
                                              : &j.w.root;
            add(&j, "cert.der", buf_bytes(&p->der));
        }
        expect(&j, cases[i].clause);
    }
    /* Everything is right, but nobody trusts that root. */
    _cleanup_(job_done) struct job j;
    struct appraisal a = {0};
    struct err e = {0};
    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
    with_chain(&j);
    const struct appraisal_input in = {
        .evidence = buf_bytes(&j.evidence), .now_ms = PKI_NOW_MS, .collateral = j.bag};
    assert_int_equal(nvidia_appraise(&in, &(struct appraisal_policy){0}, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.chain.root");
    const struct appraisal_input bare = {.evidence = buf_bytes(&j.evidence), .now_ms = PKI_NOW_MS};
    assert_int_equal(nvidia_appraise(&bare, NULL, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.chain");
    assert_int_equal(e.code, ERR_NOT_FOUND);
}

/* ---- what it is bound to ---- */

static void test_nonce(void **state)
{
    (void)state;
    uint8_t right[64], wrong[64];
    _cleanup_(job_done) struct job j;
    struct appraisal a = {0};
    struct err e;

    memset(right, 0x42, sizeof(right));
    memset(wrong, 0x77, sizeof(wrong)); /* the device's own */
    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){.nonce = 0x42});
    with_chain(&j);
    j.nonce = BYTES(right, 32);
    assert_int_equal(run(&j, &a, &e), 0);
    assert_true(
        json_is_true(json_object_get(a.claims, "x-nvidia-gpu-attestation-report-nonce-match")));
    appraisal_done(&a);
    j.nonce = BYTES(wrong, 32);
    expect(&j, "evidence.nonce");
    j.nonce = BYTES(right, 31);
    expect(&j, "evidence.nonce");
    j.nonce = BYTES(right, 33);
    expect(&j, "evidence.nonce");
    j.nonce = (struct bytes){0};
    j.report_data = right;
    expect(&j, NULL);
    memset(right + 32, 1, 32); /* there is no room for it */
    expect(&j, NULL);
    j.report_data = wrong;
    expect(&j, "evidence.nonce");
    j.nonce = BYTES(right, 32); /* both are asked for */
    expect(&j, "evidence.nonce");
}

/* ---- forms of evidence ---- */

/* @b base64, @h hex, @c chain, @n nonce; @x hex in base64; @2 and @8: the first 200 and 8 digits of
 * hex; @6: 64 of the chain. */
static char *expand(const char *format, const char *b64, const char *hex, const char *chain,
                    const char *nonce)
{
    _cleanup_buf_ struct buf b = BUF_INIT(1u << 20);
    _cleanup_free_ char *twice = b64_encode(hex, strlen(hex));

    for (; *format; format++) {
        const char *from = format;
        size_t n = 1;
        if (*format == '@') {
            format++;
            from = *format == 'b'                     ? b64
                   : *format == 'c' || *format == '6' ? chain
                   : *format == 'n'                   ? nonce
                   : *format == 'x'                   ? twice
                                                      : hex;
            n = *format == '2' ? 200 : *format == '8' ? 8 : *format == '6' ? 64 : strlen(from);
        }
        nv_add(&b, from, n);
    }
    return xasprintf("%s", (const char *)b.p);
}

static void test_forms(void **state)
{
    (void)state;
    static const struct {
        const char *format; /* with what expand() knows */
        const char *clause;
    } cases[] = {
        {"@h", NULL},
        {"@b\n", NULL},
        {"# a report\n@h\n", NULL},
        {"{\"evidence\":\"@h\"}", NULL},
        {"[{\"arch\":\"HOPPER\",\"certificate\":\"@c\",\"evidence\":\"@b\",\"nonce\":\"@n\"}"
         "]",
         NULL},
        {"{\"device_evidence_list\":[{\"arch\":\"HOPPER\",\"uuid\":null,\"evidence\":\"@h\","
         "\"certificate\":\"@c\"}]}",
         NULL},
        {"{\"nonce\":\"@n\",\"arch\":\"HOPPER\",\"evidence_list\":[{\"evidence\":\"@b\","
         "\"certificate\":\"@c\"}],\"claims_version\":\"3.0\"}",
         NULL},
        {"{\"arch\":\"BLACKWELL\",\"evidence\":\"@b\"}", "evidence.arch"},
        {"{\"nonce\":\"00\",\"evidence\":\"@b\"}", "evidence.nonce"},
        {"{\"nonce\":\"@6\",\"evidence\":\"@b\"}", "evidence.nonce"},
        {"{\"nonce\":7,\"evidence\":\"@b\"}", "evidence.nonce"},
        {"{\"certificate\":\"@c\"}", "evidence.evidence"},
        {"{\"evidence\":\"@b\",\"certificate\":[]}", "evidence.certificate"},
        {"{\"evidence\":\"@b\",\"certificate\":\"@b\"}", "evidence.certificate"},
        {"{\"evidence\":\"?\"}", "evidence.evidence"},
        {"{\"evidence\":\"@b\",\"evidence\":\"@b\"}", "evidence"},
        {"[]", "evidence.devices"},
        {"{\"device_evidence_list\":{}}", "evidence.devices"},
        {"[7]", "evidence"},
        {"[{\"evidence\":\"@b\"},{\"evidence\":\"@b\"}]", "evidence.devices"},
        {"[{\"evidence\":\"@b\"},{\"evidence\":\"@2\"}]", "evidence.measurements.length"},
        {"@8", "evidence.request.length"},
        {"\n", "evidence"},
        {"@h?", "evidence"},
        {"{\"evidence\":\"@x\"}", NULL},
        {"@x", NULL},
    };
    _cleanup_(job_done) struct job j;
    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){.nonce = 0x42});
    with_chain(&j);
    _cleanup_free_ char *b64 = b64_encode(j.evidence.p, j.evidence.n);
    _cleanup_free_ char *hex = hex_encode(j.evidence.p, j.evidence.n);
    _cleanup_free_ char *pem = nv_chain(&j.w), *chain = b64_encode(pem, strlen(pem));
    uint8_t nonce[32];
    memset(nonce, 0x42, sizeof(nonce));
    _cleanup_free_ char *nonce_hex = hex_encode(nonce, sizeof(nonce));

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        text_evidence(&j, expand(cases[i].format, b64, hex, chain, nonce_hex));
        expect(&j, cases[i].clause);
    }
}

static void test_two_devices(void **state)
{
    (void)state;
    _cleanup_(job_done) struct job j, other;
    struct appraisal a = {0};
    struct err e;

    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
    job_new(&other,
            &(struct nv_opts){.leaf_cn = "LS_10 A01 FSP FMC LF", .device_cn = "LS_10 A01 FSP BROM"},
            &(struct nv_report_opts){.is_switch = 1, .no_fwid = 1, .no_driver = 1});
    _cleanup_free_ char *r0 = hex_encode(j.evidence.p, j.evidence.n);
    _cleanup_free_ char *r1 = hex_encode(other.evidence.p, other.evidence.n);
    _cleanup_free_ char *p0 = nv_chain(&j.w), *p1 = nv_chain(&other.w);
    _cleanup_free_ char *c0 = b64_encode(p0, strlen(p0)), *c1 = b64_encode(p1, strlen(p1));
    text_evidence(&j, xasprintf("[{\"evidence\":\"%s\",\"certificate\":\"%s\"},"
                                "{\"evidence\":\"%s\",\"certificate\":\"%s\"}]",
                                r0, c0, r1, c1));
    assert_int_equal(run(&j, &a, &e), -1); /* the second one's root is another */
    assert_string_equal(e.clause, "evidence.chain.root");
    assert_non_null(strstr(e.msg, "device 1"));
    const struct cert *roots[2] = {j.root, other.root};
    const struct appraisal_policy policy = {.roots = roots, .n_roots = 2};
    const struct appraisal_input in = {
        .evidence = buf_bytes(&j.evidence), .now_ms = PKI_NOW_MS, .collateral = j.bag};
    if (nvidia_appraise(&in, &policy, &a, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal(json_string_value(json_object_get(a.claims, "x-nvidia-gpu-driver-version")),
                        "590.12"); /* of all that have one */
    assert_null(json_object_get(a.claims, "arch"));
    assert_int_equal(json_array_size(json_object_get(a.claims, "devices")), 2);
    appraisal_done(&a);
}

/* ---- the report's form ---- */

static void parse_as(struct buf *b, const char *clause)
{
    struct nvidia_report r;
    struct err e = {0};
    int rc = nvidia_report_parse(buf_bytes(b), &r, &e);

    if (clause ? !rc || !streq(e.clause, clause) : rc) {
        fail_msg("expected %s, got %s: %s", clause ? clause : "a report", e.clause, e.msg);
    }
}

static void test_bytes(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
        const char *clause;
    } cases[] = {
        {0, 0x12, "evidence.request.version"},
        {1, 0x60, "evidence.request.code"},
        {2, 0x00, "evidence.request.param1"},
        {3, 0x01, "evidence.request.param2"},
        {36, 8, "evidence.request.slot"},
        {36, 1, "evidence.response.slot"},
        {37, 0x10, "evidence.response.version"},
        {38, 0x61, "evidence.response.code"},
        {40, 1, "evidence.response.slot"},
        {41, 0, "evidence.measurements"},
        {41, 3, "evidence.measurements.length"},
        {41, 5, "evidence.measurements.block"},
        {42, 219, "evidence.measurements.size"},
        {44, 1, "evidence.measurements.length"},
        {45, 0, "evidence.measurements.index"},
        {46, 2, "evidence.measurements.specification"},
        {47, 52, "evidence.measurements.value_size"},
        {47, 2, "evidence.measurements.value_size"},
        {50, 47, "evidence.measurements.value_size"},
        {48, 0xff, "evidence.measurements.size"},
        {45 + 55, 1, "evidence.measurements.index"},
        {297, 1, "evidence.opaque.field"},
        {298, 0xff, "evidence.opaque.length"},
        {302, 0xff, "evidence.opaque.size"},
    };
    struct buf b = nv_unsigned(&(struct nv_report_opts){0});
    uint8_t sig[96] = {0};
    nv_add(&b, sig, sizeof(sig));

    parse_as(&b, NULL);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t before = b.p[cases[i].at];
        b.p[cases[i].at] = cases[i].value;
        parse_as(&b, cases[i].clause);
        b.p[cases[i].at] = before;
    }
    nv_u8(&b, 0);
    parse_as(&b, "evidence.response.length");
    b.n -= 2;
    parse_as(&b, "evidence.response.signature");
    buf_done(&b);
    b = nv_unsigned(&(struct nv_report_opts){.twice = 1});
    nv_add(&b, sig, sizeof(sig));
    parse_as(&b, "evidence.opaque.type");
    buf_done(&b);
    b = nv_unsigned(&(struct nv_report_opts){.value_bytes = 65});
    nv_add(&b, sig, sizeof(sig));
    parse_as(&b, "evidence.measurements.value_size");
    buf_done(&b);
    b = nv_unsigned(&(struct nv_report_opts){.blocks = 255, .value_bytes = 32});
    nv_add(&b, sig, sizeof(sig));
    parse_as(&b, NULL);
    buf_done(&b);
}

/* Every byte and every length of a genuine report. */
static void test_mutations(void **state)
{
    (void)state;
    _cleanup_(job_done) struct job j;
    struct appraisal a = {0};
    struct err e;
    size_t n = 0;

    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
    with_chain(&j);
    expect(&j, NULL);
    size_t all = j.evidence.n;
    for (size_t i = 0; i < all; i++, n += 2) {
        uint8_t bit = (uint8_t)(1u << i % 8);
        j.evidence.p[i] ^= bit;
        if (run(&j, &a, &e) == 0) {
            fail_msg("byte %zu is not bound", i);
        }
        j.evidence.p[i] ^= bit;
        j.evidence.n = i;
        assert_int_equal(run(&j, &a, &e), -1);
        j.evidence.n = all;
    }
    expect(&j, NULL);
    assert_true(n >= 300);
}

/* ---- OCSP ---- */

struct answer {
    const char *about; /* device, provisioner, line */
    int status, reason;
    char signer; /* 0: the issuer; 'd': its delegate; 'x': one without the key usage; 'o': who is
                    not below it */
    long age_s;
};

static void add_answer(struct job *j, const struct answer *x)
{
    const struct pki *about = *x->about == 'd'   ? &j->w.device
                              : *x->about == 'p' ? &j->w.provisioner
                                                 : &j->w.line;
    const struct pki *issuer = *x->about == 'd'   ? &j->w.provisioner
                               : *x->about == 'p' ? &j->w.line
                                                  : &j->w.root;
    static const uint8_t ocsp_signing[] = {0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06,
                                           0x01, 0x05, 0x05, 0x07, 0x03, 0x09};
    const struct pki_ext eku = {.oid = "2.5.29.37",
                                .value = BYTES(ocsp_signing, sizeof(ocsp_signing))};
    struct pki delegate = {0};

    if (x->signer) {
        delegate = pki_make(&(struct pki_opts){.cn = "Test OCSP Responder",
                                               .issuer = x->signer == 'o' ? &j->w.device : issuer,
                                               .curve = "P-384",
                                               .md = EVP_sha384(),
                                               .serial = 9,
                                               .ext = &eku,
                                               .n_ext = x->signer != 'x'});
    }
    _cleanup_buf_ struct buf b =
        nv_ocsp(&(struct nv_ocsp_opts){.about = about,
                                       .issuer = issuer,
                                       .signer = x->signer ? &delegate : NULL,
                                       .status = x->status,
                                       .reason = x->reason,
                                       .age_s = x->age_s});
    add(j, "ocsp.der", buf_bytes(&b));
    pki_done(&delegate);
}

#define GOOD V_OCSP_CERTSTATUS_GOOD
#define REVOKED V_OCSP_CERTSTATUS_REVOKED
#define STATUS "collateral.ocsp.status"

static void test_ocsp(void **state)
{
    (void)state;
    static const struct {
        struct answer v[4];
        const char *clause, *says;
        size_t unchecked; /* how many checks are missing */
    } cases[] = {
        {{{.about = "d", .age_s = 60}, {.about = "p", .age_s = 60}, {.about = "l", .age_s = 60}},
         NULL,
         NULL,
         1},
        {{{.about = "d", .signer = 'd'},
          {.about = "p", .signer = 'd'},
          {.about = "l", .signer = 'd'}},
         NULL,
         NULL,
         1},
        {{{.about = "d"}, {.about = "p"}}, NULL, NULL, 2},
        {{{.about = NULL}}, NULL, NULL, 2},
        {{{.about = "d", .status = REVOKED, .reason = OCSP_REVOKED_STATUS_CERTIFICATEHOLD}},
         STATUS,
         "certificateHold",
         0},
        {{{.about = "d", .status = REVOKED, .reason = OCSP_REVOKED_STATUS_KEYCOMPROMISE}},
         STATUS,
         "keyCompromise",
         0},
        {{{.about = "l", .status = REVOKED, .reason = OCSP_REVOKED_STATUS_NOSTATUS}},
         STATUS,
         "revoked",
         0},
        {{{.about = "d", .status = V_OCSP_CERTSTATUS_UNKNOWN}}, STATUS, "unknown", 0},
        {{{.about = "d"},
          {.about = "d", .status = REVOKED, .reason = OCSP_REVOKED_STATUS_CERTIFICATEHOLD}},
         STATUS,
         NULL,
         0},
        {{{.about = "d", .status = REVOKED, .reason = OCSP_REVOKED_STATUS_CERTIFICATEHOLD},
          {.about = "d"}},
         STATUS,
         NULL,
         0},
        {{{.about = "d", .age_s = 25 * 3600}}, "collateral.ocsp.next_update", NULL, 0},
        {{{.about = "d", .age_s = 25 * 3600}, {.about = "d"}}, NULL, NULL, 2},
        {{{.about = "d", .age_s = -3600}}, "collateral.ocsp.this_update", NULL, 0},
        {{{.about = "d", .signer = 'x'}}, "collateral.ocsp.responder", NULL, 0},
        {{{.about = "d", .signer = 'o'}}, "collateral.ocsp.responder[0].issuer", NULL, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(job_done) struct job j;
        struct appraisal a = {0};
        struct err e;
        job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
        with_chain(&j);
        for (size_t k = 0; k < 4 && cases[i].v[k].about; k++) {
            add_answer(&j, &cases[i].v[k]);
        }
        int rc = run(&j, &a, &e);
        if (cases[i].clause ? !rc || !streq(e.clause, cases[i].clause) : rc) {
            fail_msg("case %zu: %s: %s", i, e.clause, e.msg);
        }
        if (cases[i].says && !strstr(e.msg, cases[i].says)) {
            fail_msg("case %zu: %s", i, e.msg);
        }
        if (!rc) {
            assert_int_equal(json_array_size(a.unchecked), cases[i].unchecked);
        }
        appraisal_done(&a);
    }
}

/* An answer that somebody has changed. */
static void test_ocsp_forged(void **state)
{
    (void)state;
    _cleanup_(job_done) struct job j;
    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
    with_chain(&j);
    _cleanup_buf_ struct buf b =
        nv_ocsp(&(struct nv_ocsp_opts){.about = &j.w.device, .issuer = &j.w.provisioner});
    for (size_t i = 0; i + 4 < b.n; i++) { /* producedAt, behind the responder's name */
        if (memcmp(b.p + i, "\x18\x0f\x32\x30", 4) == 0) {
            b.p[i + 5] ^= 1;
            break;
        }
    }
    add(&j, "ocsp.der", buf_bytes(&b));
    expect(&j, "collateral.ocsp.signature");
}

/* What nobody has verified is not compared with. */
static void test_rim(void **state)
{
    (void)state;
    _cleanup_(job_done) struct job j;
    struct appraisal a = {0};
    struct err e;
    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
    with_chain(&j);
    add(&j, "rim.xml", BYTES_STR("<SoftwareIdentity></SoftwareIdentity>"));
    assert_int_equal(run(&j, &a, &e), 0);
    assert_string_equal(json_string_value(json_array_get(a.unchecked, 1)), "rim");
    assert_null(json_object_get(a.claims, "measres"));
    assert_int_equal(a.tcb_status, TCB_UNVERIFIED);
    assert_int_equal(a.vector[EAR_HARDWARE], 32);
    assert_int_equal(a.vector[EAR_CONFIGURATION], 0);
    appraisal_done(&a);
}

/* The evidence that the fuzz target begins with. */
static int write_corpus(const char *dir)
{
    _cleanup_(job_done) struct job j;
    _cleanup_buf_ struct buf sw = {0};
    job_new(&j, &(struct nv_opts){0}, &(struct nv_report_opts){0});
    sw = nv_report(&j.w, &(struct nv_report_opts){.blocks = 31, .is_switch = 1, .no_fwid = 1});
    _cleanup_free_ char *hex = hex_encode(j.evidence.p, j.evidence.n);
    _cleanup_free_ char *b64 = b64_encode(j.evidence.p, j.evidence.n);
    _cleanup_free_ char *pem = nv_chain(&j.w), *chain = b64_encode(pem, strlen(pem));
    _cleanup_free_ char *json = xasprintf("[{\"arch\":\"HOPPER\",\"certificate\":\"%s\","
                                          "\"evidence\":\"%s\"}]",
                                          chain, b64);
    const struct {
        const char *name;
        struct bytes b;
    } files[] = {{"gpu", buf_bytes(&j.evidence)},
                 {"switch", buf_bytes(&sw)},
                 {"hex", BYTES_STR(hex)},
                 {"json", BYTES_STR(json)}};

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, files[i].name);
        FILE *f = fopen(path, "wb");
        pki_must(f && fwrite(files[i].b.p, 1, files[i].b.n, f) == files[i].b.n);
        fclose(f);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_certificates), cmocka_unit_test(test_chain_forms),
        cmocka_unit_test(test_nonce),        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_two_devices),  cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_mutations),    cmocka_unit_test(test_ocsp),
        cmocka_unit_test(test_ocsp_forged),  cmocka_unit_test(test_rim),
    };

    return argc == 2 ? write_corpus(argv[1]) : cmocka_run_group_tests(tests, NULL, NULL);
}
