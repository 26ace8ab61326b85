#include "appraise/dcap_int.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "appraise/dcap_roots.h"

/* ---- the PCK certificate's chain ------------------------------------------------------------- */

int dcap_check_chain(struct dcap_run *run, const char *what, struct cert *const *chain, size_t n)
{
    const struct chain_rules rules = {
        .what = what, .at_ms = run->now_ms, .anchors = run->anchors, .n_anchors = run->n_anchors};

    return chain_verify(run->certs, &rules, chain, n, run->e);
}

static int find_anchors(struct dcap_run *run)
{
    struct cert *root;

    if (dcap_root(run->certs, &root, run->e)) {
        return -1;
    }
    run->anchors[run->n_anchors++] = root;
    for (size_t i = 0; i < run->policy->n_roots && run->n_anchors < ARRAY_LEN(run->anchors); i++) {
        run->anchors[run->n_anchors++] = run->policy->roots[i];
    }
    return 0;
}

static int is_pck(const struct cert *c)
{
    char cn[128];

    cert_subject_cn(c, cn);
    return strstr(cn, "SGX PCK Certificate") != NULL;
}

/* An issuer of `c` among the collateral, or of those that everybody has. */
static struct cert *find_issuer(struct dcap_run *run, struct cert *c)
{
    struct err ignored;

    for (size_t i = 0; i < collateral_n(run->collateral); i++) {
        struct cert *ca = collateral_at(run->collateral, i)->cert;
        if (ca && cert_signed_by(run->certs, "ca", c, ca, &ignored) == 0) {
            return ca;
        }
    }
    for (size_t i = 0; i < dcap_n_known(); i++) {
        struct cert *ca;
        if (dcap_known(run->certs, i, &ca, &ignored) == 0 &&
            cert_signed_by(run->certs, "ca", c, ca, &ignored) == 0) {
            return ca;
        }
    }
    return NULL;
}

/* The root that issued `c`. */
static struct cert *find_root(struct dcap_run *run, struct cert *c)
{
    struct err ignored;

    for (size_t i = 0; i < run->n_anchors; i++) {
        struct cert *root = (struct cert *)(uintptr_t)run->anchors[i];
        if (cert_signed_by(run->certs, "root", c, root, &ignored) == 0) {
            return root;
        }
    }
    return NULL;
}

static int complete_chain(struct dcap_run *run, struct cert *leaf)
{
    run->r.chain[0] = leaf;
    run->r.chain[1] = find_issuer(run, leaf);
    run->r.chain[2] = run->r.chain[1] ? find_root(run, run->r.chain[1]) : NULL;
    return run->r.chain[2] ? 0
                           : err_refuse(run->e, ERR_DENIED, "evidence.pck_chain",
                                        "the CA of the PCK certificate in the collateral", "none");
}

/* The certificate is not in the quote (its PPID is, encrypted): the one that the collateral has for
 * the key that signed the QE report. */
static int find_pck(struct dcap_run *run)
{
    for (size_t i = 0; i < collateral_n(run->collateral); i++) {
        struct cert *c = collateral_at(run->collateral, i)->cert;
        const struct ec_key *key;
        struct err ignored;
        if (c && is_pck(c) && cert_ec_key(c, EC_P256, "pck", &key, &ignored) == 0 &&
            ec_verify("qe_report", key, BYTES(run->q->qe_report, SGX_REPORT_BYTES),
                      run->q->qe_signature, &ignored) == 0) {
            return complete_chain(run, c);
        }
    }
    return err_refuse(run->e, ERR_NOT_FOUND, "evidence.pck_chain",
                      "the platform's PCK certificate in the collateral, since the quote has "
                      "none in it",
                      "certification data of type %d", (int)run->q->cert_type);
}

static int read_leaf(struct dcap_run *run)
{
    struct bytes d = run->q->cert_data;
    struct cert *leaf;
    size_t n;

    if (d.n && d.p[0] == 0x30
            ? certs_add_der(run->certs, "evidence.pck_chain", d, &leaf, run->e)
            : certs_add_pem(run->certs, "evidence.pck_chain", d, &leaf, 1, &n, run->e)) {
        return -1;
    }
    return complete_chain(run, leaf);
}

/* Length of the DER SEQUENCE at the beginning, 0 when there is none. */
static size_t sequence_bytes(struct bytes d)
{
    size_t n =
        d.n > 3 && d.p[0] == 0x30 && d.p[1] == 0x82 ? 4u + ((size_t)d.p[2] << 8 | d.p[3]) : 0;

    return n <= d.n ? n : 0;
}

/* Intel's own samples have the chain in DER, root first. */
static int read_der_chain(struct dcap_run *run, size_t *ret_n)
{
    struct bytes d = run->q->cert_data;
    struct cert **chain = run->r.chain;
    size_t n = 0, bytes;

    for (; d.n && n < 3; n++) {
        bytes = sequence_bytes(d);
        if (certs_add_der(run->certs, "evidence.pck_chain", BYTES(d.p, bytes), &chain[n], run->e)) {
            return -1;
        }
        d = BYTES(d.p + bytes, d.n - bytes);
    }
    if (n == 3 && !is_pck(chain[0])) {
        struct cert *first = chain[0];
        chain[0] = chain[2];
        chain[2] = first;
    }
    *ret_n = d.n ? n + 1 : n;
    return 0;
}

static int read_chain(struct dcap_run *run)
{
    struct bytes d = run->q->cert_data;
    size_t n;

    switch (run->q->cert_type) {
    case DCAP_CERT_PPID:
    case DCAP_CERT_PPID_RSA2048:
    case DCAP_CERT_PPID_RSA3072:
        return find_pck(run);
    case DCAP_CERT_PCK_LEAF:
        return read_leaf(run);
    case DCAP_CERT_PCK_CHAIN:
        if (sequence_bytes(d)
                ? read_der_chain(run, &n)
                : certs_add_pem(run->certs, "evidence.pck_chain", d, run->r.chain, 3, &n, run->e)) {
            return -1;
        }
        return n == 3 ? 0
                      : err_refuse(run->e, ERR_INVALID, "evidence.pck_chain",
                                   "PCK certificate, its CA and the root", "%zu certificates", n);
    case DCAP_CERT_QE_REPORT:
        break;
    }
    return err_set(run->e, ERR_INTERNAL, "a quote without certification data");
}

static int check_names(struct dcap_run *run)
{
    char cn[128];

    if (!is_pck(run->r.chain[0])) {
        cert_subject_cn(run->r.chain[0], cn);
        return err_refuse(run->e, ERR_DENIED, "evidence.pck_chain[0].subject",
                          "Intel SGX PCK Certificate", "%s", cn);
    }
    cert_subject_cn(run->r.chain[1], cn);
    return strstr(cn, "SGX PCK")
               ? 0
               : err_refuse(run->e, ERR_DENIED, "evidence.pck_chain[1].subject",
                            "Intel SGX PCK Platform CA or Processor CA", "%s", cn);
}

/* ---- the quote's own signatures -------------------------------------------------------------- */

/* PCK certificate, QE report and its signature. The QE makes an attestation key seldom, so the same
 * three come again with quote after quote. */
static int qe_digest(const struct dcap_run *run, uint8_t ret[32])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(ctx, "dcap qe", 7) == 1 &&
             EVP_DigestUpdate(ctx, run->r.chain[0]->sha256, 32) == 1 &&
             EVP_DigestUpdate(ctx, run->q->qe_report, SGX_REPORT_BYTES) == 1 &&
             EVP_DigestUpdate(ctx, run->q->qe_signature, 64) == 1 &&
             EVP_DigestFinal_ex(ctx, ret, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    return ok ? 0 : err_set(run->e, ERR_INTERNAL, "cannot hash a QE report");
}

static int check_qe_report(struct dcap_run *run)
{
    static const char what[] = "evidence.qe_report.signature";
    const struct ec_key *key;
    uint8_t digest[32];

    if (qe_digest(run, digest)) {
        return -1;
    }
    if (certs_known(run->certs, digest)) {
        return 0;
    }
    if (cert_ec_key(run->r.chain[0], EC_P256, "evidence.pck_chain[0]", &key, run->e) ||
        ec_verify(what, key, BYTES(run->q->qe_report, SGX_REPORT_BYTES), run->q->qe_signature,
                  run->e)) {
        return -1;
    }
    certs_know(run->certs, digest);
    return 0;
}

/* REPORTDATA of the QE: SHA-256(attestation key || authentication data), then zeros. */
static int check_binding(struct dcap_run *run)
{
    static const uint8_t zeros[32];
    const uint8_t *have = run->q->qe_report + SGX_REPORTDATA;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t want[32];
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(ctx, run->q->ak, 64) == 1 &&
             EVP_DigestUpdate(ctx, run->q->qe_auth.p, run->q->qe_auth.n) == 1 &&
             EVP_DigestFinal_ex(ctx, want, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    if (!ok) {
        return err_set(run->e, ERR_INTERNAL, "cannot hash an attestation key");
    }
    if (memcmp(want, have, 32) == 0 && memcmp(have + 32, zeros, 32) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(want, 32), *actual = hex_encode(have, 64);
    return err_refuse(run->e, ERR_BAD_SIGNATURE, "evidence.qe_report.report_data", expected, "%s",
                      actual);
}

static int check_quote(struct dcap_run *run)
{
    _cleanup_(ec_key_freep) struct ec_key *ak = NULL;

    return ec_key_new(EC_P256, "evidence.quote.attestation_key", BYTES(run->q->ak, 64), &ak,
                      run->e) ||
                   ec_verify("evidence.quote.signature", ak, run->q->signed_part, run->q->signature,
                             run->e)
               ? -1
               : 0;
}

static int verify(struct dcap_run *run)
{
    return find_anchors(run) || read_chain(run) ||
                   dcap_check_chain(run, "evidence.pck_chain", run->r.chain, 3) ||
                   check_names(run) || pck_of(run->r.chain[0], &run->r.pck, run->e) ||
                   check_qe_report(run) || check_binding(run) || check_quote(run) ||
                   dcap_use_collateral(run)
               ? -1
               : 0;
}

int dcap_verify(const struct dcap_quote *q, struct collateral *collateral,
                const struct appraisal_policy *policy, int64_t now_ms, struct dcap_result *ret,
                struct err *e)
{
    struct dcap_run run = {.q = q,
                           .collateral = collateral,
                           .certs = collateral_certs(collateral),
                           .policy = policy,
                           .now_ms = now_ms,
                           .r = {.earliest_issue_ms = INT64_MAX,
                                 .latest_issue_ms = INT64_MIN,
                                 .earliest_expiration_ms = INT64_MAX},
                           .e = e};

    if (verify(&run)) {
        return -1;
    }
    *ret = run.r;
    return 0;
}
