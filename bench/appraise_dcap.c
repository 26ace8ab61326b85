#include "bench/appraise.h"

#include "appraise/dcap.h"
#include "appraise/dcap_testing.h"
#include "bench/bench.h"

#define QUOTES 256
#define FLOOR_KEYS 16

static struct dcap_platform platform;
static struct buf fresh[QUOTES], same[QUOTES], sgx[QUOTES], info, sgx_info, identity, sgx_identity,
    root_crl, ca_crl;
static struct certs *certs;
static struct collateral *warm;
static const struct cert *anchor;
static struct appraisal_policy policy;

/* ---- the floor ------------------------------------------------------------------------------- */

static EVP_PKEY *keys[FLOOR_KEYS];
static uint8_t message[632], sigs[FLOOR_KEYS][80];
static size_t sig_n[FLOOR_KEYS];

static void verify_p256(size_t i)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t k = i % FLOOR_KEYS;

    if (EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, keys[k]) != 1 ||
        EVP_DigestVerify(ctx, sigs[k], sig_n[k], message, sizeof(message)) != 1) {
        bench_fail("floor", "");
    }
    EVP_MD_CTX_free(ctx);
}

static void one(size_t i)
{
    verify_p256(i);
}

static void two(size_t i)
{
    verify_p256(i);
    verify_p256(i + 1);
}

static void ten(size_t i)
{
    for (size_t k = 0; k < 10; k++) {
        verify_p256(i + k);
    }
}

static void make_floor(void)
{
    for (size_t k = 0; k < FLOOR_KEYS; k++) {
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        keys[k] = EVP_EC_gen("P-256");
        sig_n[k] = sizeof(sigs[k]);
        pki_must(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, keys[k]) == 1 &&
                 EVP_DigestSign(ctx, sigs[k], &sig_n[k], message, sizeof(message)) == 1);
        EVP_MD_CTX_free(ctx);
    }
}

/* ---- ours ------------------------------------------------------------------------------------ */

static void appraise(struct bytes quote, int tdx, struct collateral *c)
{
    const struct appraisal_input in = {.evidence = quote, .now_ms = PKI_NOW_MS, .collateral = c};
    struct appraisal a = {0};
    struct err e = {0};

    if ((tdx ? tdx_appraise(&in, &policy, &a, &e) : sgx_appraise(&in, &policy, &a, &e)) ||
        a.tcb_status != TCB_UP_TO_DATE || a.unchecked) {
        bench_fail("appraisal", e.msg);
    }
    appraisal_done(&a);
}

/* 256 attestation keys are remembered after the first round; so each round takes them as new. */
static void forget(size_t i)
{
    if (i % QUOTES == 0) {
        certs_forget_known(certs);
    }
}

static void tdx_new_key(size_t i)
{
    forget(i);
    appraise(buf_bytes(&fresh[i % QUOTES]), 1, warm);
}

static void sgx_new_key(size_t i)
{
    forget(i);
    appraise(buf_bytes(&sgx[i % QUOTES]), 0, warm);
}

static void tdx_known_key(size_t i)
{
    appraise(buf_bytes(&same[i % QUOTES]), 1, warm);
}

/* Without the claims' JSON. */
static void tdx_verify_only(size_t i)
{
    struct dcap_quote q;
    struct dcap_result r;
    struct err e = {0};

    forget(i);
    if (dcap_quote_parse(buf_bytes(&fresh[i % QUOTES]), &q, &e) ||
        dcap_verify(&q, warm, &policy, PKI_NOW_MS, &r, &e)) {
        bench_fail("verification", e.msg);
    }
}

static void add(struct collateral *c, const struct buf *b)
{
    struct err e = {0};

    if (collateral_add(c, "bench", buf_bytes(b), &e)) {
        bench_fail("collateral", e.msg);
    }
}

static void fill(struct collateral *c)
{
    add(c, &info);
    add(c, &identity);
    add(c, &sgx_info);
    add(c, &sgx_identity);
    add(c, &root_crl);
    add(c, &ca_crl);
}

static const struct cert *trust(struct certs *s)
{
    struct cert *root;
    struct err e = {0};

    if (certs_add_der(s, "root", buf_bytes(&platform.root.der), &root, &e)) {
        bench_fail("root", e.msg);
    }
    return root;
}

/* Nothing kept from one to the next. */
static void tdx_cold(size_t i)
{
    struct certs *s = certs_new(64);
    struct collateral *c = collateral_new(s);
    const struct cert *before = anchor;

    anchor = trust(s);
    add(c, &info);
    add(c, &identity);
    add(c, &root_crl);
    add(c, &ca_crl);
    appraise(buf_bytes(&fresh[i % QUOTES]), 1, c);
    anchor = before;
    collateral_free(c);
    certs_free(s);
}

static void make_quotes(void)
{
    struct dcap_quote_opts td = {
        .version = 4, .body = DCAP_BODY_TD_10, .qe_svn = 8, .tee_tcb_svn = {5, 0}};
    struct dcap_quote_opts enclave = {.version = 3, .body = DCAP_BODY_SGX, .qe_svn = 8};

    for (size_t i = 0; i < QUOTES; i++) {
        td.report_data = (uint8_t)i;
        same[i] = dcap_quote_make(&platform, &td);
    }
    for (size_t i = 0; i < QUOTES; i++) {
        EVP_PKEY_free(platform.ak);
        platform.ak = EVP_EC_gen("P-256");
        fresh[i] = dcap_quote_make(&platform, &td);
        sgx[i] = dcap_quote_make(&platform, &enclave);
    }
}

const struct appraise_case *bench_appraise_dcap(void)
{
    static const struct dcap_level levels[] = {{9, 9, 20, "UpToDate", ""},
                                               {7, 5, 13, "UpToDate", ""}};
    static const struct appraise_case cases[] = {
        {"TDX, known platform, new attestation key", tdx_new_key, two, 0.85},
        {"SGX, known platform, new attestation key", sgx_new_key, two, 0.85},
        {"  of that without the claims' JSON (TDX)", tdx_verify_only, two, 0},
        {"TDX, known attestation key", tdx_known_key, one, 0},
        {"TDX, nothing known", tdx_cold, ten, 0.8},
        {0},
    };
    struct dcap_info_opts o = {.is_tdx = 1, .levels = levels, .n_levels = ARRAY_LEN(levels)};

    dcap_platform_make(&platform);
    make_floor();
    make_quotes();
    info = dcap_signed(&platform, &platform.tcb_signing, "tcbInfo", dcap_info_text(&o));
    o.is_tdx = 0;
    sgx_info = dcap_signed(&platform, &platform.tcb_signing, "tcbInfo", dcap_info_text(&o));
    identity = dcap_signed(&platform, &platform.tcb_signing, "enclaveIdentity",
                           dcap_identity_text(1, 0, 0));
    sgx_identity = dcap_signed(&platform, &platform.tcb_signing, "enclaveIdentity",
                               dcap_identity_text(0, 0, 0));
    root_crl = pki_crl(&platform.root, 0, 0, 1, NULL, 0, 0);
    ca_crl = pki_crl(&platform.ca, 0, 0, 1, NULL, 0, 0);
    certs = certs_new(256);
    warm = collateral_new(certs);
    anchor = trust(certs);
    policy = (struct appraisal_policy){.roots = &anchor, .n_roots = 1};
    fill(warm);
    return cases;
}
