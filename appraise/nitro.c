#include "appraise/nitro.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/x509v3.h>

#include "appraise/evidence.h"
#include "appraise/when.h"

#define OWN_CERTS_MAX 32u
#define ROOTS_MAX 16u
#define REPORT_DATA_BYTES 64u
#define HEX_MIN 64u
#define WRAPPER_MAX_BYTES (256u * 1024)

/* aws.nitro-enclaves, 2019 to 2049
 * SHA-256 641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b */
static const char aws_root[] =
    "MIICETCCAZagAwIBAgIRAPkxdWgbkK/hHUbMtOTn+FYwCgYIKoZIzj0EAwMwSTELMAkGA1UEBhMCVVMxDzANBgNVBAoM"
    "BkFtYXpvbjEMMAoGA1UECwwDQVdTMRswGQYDVQQDDBJhd3Mubml0cm8tZW5jbGF2ZXMwHhcNMTkxMDI4MTMyODA1WhcN"
    "NDkxMDI4MTQyODA1WjBJMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGQW1hem9uMQwwCgYDVQQLDANBV1MxGzAZBgNVBAMM"
    "EmF3cy5uaXRyby1lbmNsYXZlczB2MBAGByqGSM49AgEGBSuBBAAiA2IABPwCVOumCMHzaHDimtqQvkY4MpJzbolL//Zy"
    "2YlES1BR5TSksfbb48C8WBoyt7F2Bw7eEtaaP+ohG2bnUs990d0JX28TcPQXCEPZ3BABIeTPYwEoCWZEh8l5YoQwTcU/"
    "9KNCMEAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUkCW1DdkFR+eWw5b6cp3PmanfS5YwDgYDVR0PAQH/BAQDAgGG"
    "MAoGCCqGSM49BAMDA2kAMGYCMQCjfy+Rocm9Xue4YnwWmNJVA44fA0P5W2OpYow9OYCVRaEevL8uO1XYru5xtMPWrfMC"
    "MQCi85sWBbJwKKXdS6BptQFuZbT73o/gBh1qUxl/nNr12UO8Yfwr6wPLb+6NIwLz3/Y=";

/* ---- forms of evidence ---- */

static int is_document(struct bytes b)
{
    return b.n > 2 && (b.p[0] == 0x84 || b.p[0] == 0x9f || (b.p[0] == 0xd2 && b.p[1] >= 0x80));
}

static int is_wrapped(struct bytes b)
{
    return b.n > 4 && ((b.p[0] == 0x00 && b.p[1] == 0x02) || (b.p[0] == 0x30 && b.p[1] == 0x82));
}

static int is_raw(struct bytes b)
{
    return is_document(b) || is_wrapped(b);
}

/* dstack: version 0, kind 2, compact length (SCALE) and the document. What is behind it is not
 * signed by anybody. */
static int from_scale(struct bytes in, struct bytes *ret, struct err *e)
{
    unsigned mode = in.p[2] & 3;
    size_t head = mode == 0 ? 1 : mode == 1 ? 2 : 4, n = 0;

    if (mode == 3 || in.n < 2 + head) {
        return err_refuse(e, ERR_INVALID, "evidence", "a SCALE length", "another, or the end");
    }
    for (size_t i = 0; i < head; i++) {
        n |= (size_t)in.p[2 + i] << (8 * i);
    }
    n >>= 2;
    if (n > in.n - 2 - head) {
        return err_refuse(e, ERR_INVALID, "evidence", "as many bytes as its SCALE length says",
                          "%zu of %zu", in.n - 2 - head, n);
    }
    *ret = BYTES(in.p + 2 + head, n);
    return 0;
}

/* The digits up to the first dot, behind which the host's name follows. */
static int hex_document(const GENERAL_NAME *name, struct buf *ret)
{
    int kind;
    const ASN1_IA5STRING *s = GENERAL_NAME_get0_value(name, &kind);

    if (kind != GEN_DNS) {
        return 0;
    }
    const char *p = (const char *)ASN1_STRING_get0_data(s);
    size_t n = 0;
    while (n < (size_t)ASN1_STRING_length(s) && isxdigit((unsigned char)p[n])) {
        n++;
    }
    if (n < HEX_MIN || n % 2 || buf_reserve(ret, n / 2, NULL)) {
        return 0;
    }
    _cleanup_free_ char *hex = xstrndup(p, n);
    if (hex_decode(hex, ret->p, n / 2, NULL)) {
        return 0;
    }
    ret->n = n / 2;
    return is_document(buf_bytes(ret));
}

/* The certificate is only what the document came in: its own signature is nobody's affair here. */
static int from_certificate(struct bytes in, struct buf *scratch, struct bytes *ret, struct err *e)
{
    const uint8_t *p = in.p;
    X509 *x = in.n <= WRAPPER_MAX_BYTES ? d2i_X509(NULL, &p, (long)in.n) : NULL;
    GENERAL_NAMES *names = x ? X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL) : NULL;
    /* Not *scratch, which `in` may be in. */
    _cleanup_buf_ struct buf found = BUF_INIT(COSE_MAX_BYTES);
    int ok = 0;

    for (int i = 0; !ok && i < sk_GENERAL_NAME_num(names); i++) {
        ok = hex_document(sk_GENERAL_NAME_value(names, i), &found);
    }
    GENERAL_NAMES_free(names);
    X509_free(x);
    if (!ok) {
        return err_refuse(e, ERR_INVALID, "evidence",
                          "a certificate with a document in hex as a DNS name", "%s",
                          x ? "one without" : "something else");
    }
    scratch->n = 0;
    if (buf_add(scratch, found.p, found.n, e)) {
        return -1;
    }
    *ret = buf_bytes(scratch);
    return 0;
}

int nitro_evidence(struct bytes evidence, struct buf *scratch, struct bytes *ret, struct err *e)
{
    _cleanup_json_ json_t *wrap = NULL;
    struct bytes raw;

    if (evidence_open(evidence, is_raw, "document", scratch, &raw, &wrap, e)) {
        return -1;
    }
    if (!is_wrapped(raw)) {
        *ret = raw;
        return 0;
    }
    return raw.p[0] == 0x30 ? from_certificate(raw, scratch, ret, e) : from_scale(raw, ret, e);
}

/* ---- is it genuine? ---- */

static int anchors_of(struct certs *store, const struct appraisal_policy *policy,
                      const struct cert *ret[ROOTS_MAX], size_t *ret_n, struct err *e)
{
    _cleanup_buf_ struct buf der = BUF_INIT(CERT_MAX_BYTES);
    struct cert *aws;

    if (b64_decode(aws_root, strlen(aws_root), &der, e) ||
        certs_add_der(store, "aws", buf_bytes(&der), &aws, e)) {
        return -1;
    }
    ret[0] = aws;
    *ret_n = 1;
    for (size_t i = 0; i < policy->n_roots && *ret_n < ROOTS_MAX; i++) {
        ret[(*ret_n)++] = policy->roots[i];
    }
    return 0;
}

static int take_chain(const struct nitro_doc *d, struct certs *store, struct nitro_verified *v,
                      struct err *e)
{
    char what[64];

    if (certs_add_der(store, "evidence.certificate", d->certificate, &v->chain[0], e)) {
        return -1;
    }
    v->n_chain = d->n_cabundle + 1;
    for (size_t i = 0; i < d->n_cabundle; i++) {
        snprintf(what, sizeof(what), "evidence.cabundle[%zu]", i);
        if (certs_add_der(store, what, d->cabundle[i], &v->chain[d->n_cabundle - i], e)) {
            return -1;
        }
    }
    return 0;
}

static int check_leaf(const struct cert *leaf, struct err *e)
{
    uint32_t usage = X509_get_key_usage(leaf->x);

    /* All bits are set where the certificate does not say. */
    return usage != UINT32_MAX && usage & KU_DIGITAL_SIGNATURE
               ? 0
               : err_refuse(e, ERR_DENIED, "evidence.certificate.key_usage", "digitalSignature",
                            usage == UINT32_MAX ? "none stated" : "0x%x", usage);
}

int nitro_verify(const struct nitro_doc *d, struct certs *store,
                 const struct appraisal_policy *policy, int64_t at_ms, struct nitro_verified *ret,
                 struct err *e)
{
    const struct cert *anchors[ROOTS_MAX];
    struct chain_rules rules = {.what = "evidence.chain", .at_ms = at_ms, .anchors = anchors};
    struct nitro_verified v = {.n_chain = 0};
    const struct ec_key *key;
    char what[64];

    if (anchors_of(store, policy, anchors, &rules.n_anchors, e) || take_chain(d, store, &v, e)) {
        return -1;
    }
    for (size_t i = v.n_chain; i-- > 0;) {
        snprintf(what, sizeof(what), "evidence.chain[%zu].key", i);
        if (cert_ec_key(v.chain[i], EC_P384, what, &key, e)) {
            return -1;
        }
    }
    if (chain_verify(store, &rules, v.chain, v.n_chain, e) || check_leaf(v.chain[0], e) ||
        cose_sign1_verify("evidence", &d->cose, key, e)) {
        return -1;
    }
    *ret = v;
    return 0;
}

/* ---- claims ---- */

static void put_hex(json_t *o, const char *name, struct bytes b)
{
    if (!b.p) {
        json_object_set_new(o, name, json_null());
        return;
    }
    _cleanup_free_ char *hex = hex_encode(b.p, b.n);
    json_object_set_new(o, name, json_string(hex));
}

static void put_time(json_t *o, const char *name, int64_t ms)
{
    char text[32];

    rfc3339_utc(ms, text);
    json_object_set_new(o, name, json_string(text));
}

static int is_zero(const uint8_t *p, size_t n)
{
    uint8_t all = 0;

    for (size_t i = 0; i < n; i++) {
        all |= p[i];
    }
    return !all;
}

static int is_debug(const struct nitro_doc *d)
{
    for (size_t i = 0; i < 3; i++) {
        if (!d->pcr[i] || is_zero(d->pcr[i], NITRO_PCR_BYTES)) {
            return 1;
        }
    }
    return 0;
}

json_t *nitro_claims(const struct nitro_doc *d, const struct nitro_verified *v)
{
    json_t *o = json_object();
    char name[16], cn[128];

    json_object_set_new(o, "module_id", json_stringn((const char *)d->module_id.p, d->module_id.n));
    json_object_set_new(o, "digest", json_string("SHA384"));
    json_object_set_new(o, "timestamp", json_integer(d->timestamp_ms));
    for (unsigned i = 0; i < NITRO_PCRS; i++) {
        if (d->pcr[i]) {
            snprintf(name, sizeof(name), "pcr%02u", i);
            put_hex(o, name, BYTES(d->pcr[i], NITRO_PCR_BYTES));
        }
    }
    put_hex(o, "user_data", d->user_data);
    put_hex(o, "report_data", d->user_data);
    put_hex(o, "nonce", d->nonce);
    put_hex(o, "public_key", d->public_key);
    json_object_set_new(o, "debug", json_boolean(is_debug(d)));
    cert_subject_cn(v->chain[0], cn);
    json_object_set_new(o, "certificate_subject", json_string(cn));
    cert_subject_cn(v->chain[v->n_chain - 1], cn);
    json_object_set_new(o, "root_subject", json_string(cn));
    put_hex(o, "root_sha256", BYTES(v->chain[v->n_chain - 1]->sha256, 32));
    put_time(o, "certificate_not_before", v->chain[0]->not_before_ms);
    put_time(o, "certificate_not_after", v->chain[0]->not_after_ms);
    return o;
}

/* ---- the appraiser ---- */

static int check_bound(const char *clause, struct bytes wanted, struct bytes have, struct err *e)
{
    if (have.p && have.n == wanted.n && CRYPTO_memcmp(have.p, wanted.p, have.n) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(wanted.p, wanted.n);
    _cleanup_free_ char *actual = have.p ? hex_encode(have.p, have.n) : xstrdup("none");
    return err_refuse(e, ERR_DENIED, clause, expected, "%s", actual);
}

static int appraise(const struct appraisal_input *in, struct certs *store,
                    const struct appraisal_policy *policy, struct appraisal *ret, struct err *e)
{
    _cleanup_buf_ struct buf scratch = BUF_INIT(WRAPPER_MAX_BYTES);
    struct nitro_verified v;
    struct nitro_doc d;
    struct bytes doc;

    if (nitro_evidence(in->evidence, &scratch, &doc, e) || nitro_parse(doc, &d, e) ||
        nitro_verify(&d, store, policy, in->now_ms, &v, e)) {
        return -1;
    }
    if (is_debug(&d)) {
        return err_refuse(e, ERR_DENIED, "evidence.pcrs",
                          "PCR 0, 1 and 2, none of them zero as in debug mode",
                          "one that is zero or not there");
    }
    if ((in->report_data &&
         check_bound("evidence.user_data", BYTES(in->report_data, REPORT_DATA_BYTES), d.user_data,
                     e)) ||
        (in->nonce.n && check_bound("evidence.nonce", in->nonce, d.nonce, e))) {
        return -1;
    }
    *ret = (struct appraisal){.claims = nitro_claims(&d, &v),
                              .policy_id = "coffer/nitro/v1",
                              .tcb_status = TCB_NONE,
                              .tier = TIER_ENCLAVE};
    ret->vector[EAR_HARDWARE] = 2;
    ret->vector[EAR_CONFIGURATION] = 2;
    ret->vector[EAR_INSTANCE_IDENTITY] = 2;
    return 0;
}

int nitro_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                   struct appraisal *ret, struct err *e)
{
    _cleanup_(certs_freep) struct certs *own = in->collateral ? NULL : certs_new(OWN_CERTS_MAX);

    return appraise(in, own ? own : collateral_certs(in->collateral), policy, ret, e);
}
