#include "appraise/ek.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#define GRACE_S 60
static const char clause[] = "evidence.ek_certs";

/* ---- what OpenSSL does not judge ---- */

/* Critical extensions of endorsement certificates that say who made the TPM and bind nothing. */
static int known_critical(const X509_EXTENSION *x)
{
    static const int nids[] = {NID_subject_alt_name, NID_subject_directory_attributes};
    int nid = OBJ_obj2nid(X509_EXTENSION_get_object((X509_EXTENSION *)(uintptr_t)x));

    for (size_t i = 0; i < ARRAY_LEN(nids); i++) {
        if (nid == nids[i]) {
            return 1;
        }
    }
    return X509_supported_extension((X509_EXTENSION *)(uintptr_t)x);
}

static int all_critical_known(const X509 *cert)
{
    for (int i = 0; i < X509_get_ext_count(cert); i++) {
        const X509_EXTENSION *x = X509_get_ext(cert, i);
        if (X509_EXTENSION_get_critical(x) && !known_critical(x)) {
            return 0;
        }
    }
    return 1;
}

static int on_verify(int ok, X509_STORE_CTX *ctx)
{
    if (!ok && X509_STORE_CTX_get_error(ctx) == X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION &&
        all_critical_known(X509_STORE_CTX_get_current_cert(ctx))) {
        X509_STORE_CTX_set_error(ctx, X509_V_OK);
        return 1;
    }
    return ok;
}

/* tcg-kp-EKCertificate */
static int for_endorsement(X509 *cert)
{
    EXTENDED_KEY_USAGE *eku = X509_get_ext_d2i(cert, NID_ext_key_usage, NULL, NULL);
    int ok = !eku && X509_get_ext_by_NID(cert, NID_ext_key_usage, -1) < 0;

    for (int i = 0; eku && i < sk_ASN1_OBJECT_num(eku); i++) {
        char oid[64];
        OBJ_obj2txt(oid, sizeof(oid), sk_ASN1_OBJECT_value(eku, i), 1);
        ok |= streq(oid, "2.23.133.8.1");
    }
    EXTENDED_KEY_USAGE_free(eku);
    return ok;
}

static int check_leaf(X509 *cert, struct err *e)
{
    uint32_t usage = X509_get_key_usage(cert); /* all bits when it does not say */

    if (X509_check_ca(cert) || (X509_get_extension_flags(cert) & EXFLAG_INVALID)) {
        return err_refuse(e, ERR_INVALID, clause, "the certificate of an endorsement key first",
                          "one of a CA, or a malformed one");
    }
    if (!for_endorsement(cert) || !(usage & (KU_KEY_ENCIPHERMENT | KU_KEY_AGREEMENT))) {
        return err_refuse(e, ERR_INVALID, clause,
                          "a certificate for endorsement (2.23.133.8.1, key encipherment or "
                          "agreement)",
                          "one for something else");
    }
    return 0;
}

/* ---- the chain ---- */

static X509 *parse(struct bytes der)
{
    const uint8_t *p = der.p;
    X509 *cert = der.n && der.n <= EK_CERT_MAX_BYTES ? d2i_X509(NULL, &p, (long)der.n) : NULL;

    if (cert && p != der.p + der.n) {
        X509_free(cert);
        cert = NULL;
    }
    ERR_clear_error();
    return cert;
}

static int enrolled_ek(const struct tpm_host *h, const uint8_t sha256[32])
{
    int found = !h->n_eks;

    for (size_t i = 0; i < h->n_eks; i++) {
        found |= memcmp(h->eks[i], sha256, 32) == 0;
    }
    return found;
}

/* X509_V_OK or why not. */
static int verify_under(const struct tpm_host *h, X509 *leaf, STACK_OF(X509) * between,
                        int64_t now_ms)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    int ok = store && ctx, why = X509_V_ERR_UNSPECIFIED;

    for (size_t i = 0; ok && i < h->n_roots; i++) {
        ok = X509_STORE_add_cert(store, h->roots[i]) == 1;
    }
    if (ok && X509_STORE_CTX_init(ctx, store, leaf, between) == 1) {
        X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
        X509_VERIFY_PARAM_set_time(param, (time_t)(now_ms / 1000 + GRACE_S));
        /* What is enrolled is believed, whether it signed itself or not. */
        X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
        X509_VERIFY_PARAM_set_depth(param, EK_MAX_CERTS);
        X509_STORE_CTX_set_verify_cb(ctx, on_verify);
        why = X509_verify_cert(ctx) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(ctx);
        why = why == X509_V_OK && X509_STORE_CTX_get_error(ctx) != X509_V_OK
                  ? X509_V_ERR_UNSPECIFIED
                  : why;
    }
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return why;
}

static int refuse(X509 *leaf, int why, struct err *e)
{
    char issuer[120];
    int expired = why == X509_V_ERR_CERT_HAS_EXPIRED || why == X509_V_ERR_CERT_NOT_YET_VALID;

    X509_NAME_oneline(X509_get_issuer_name(leaf), issuer, sizeof(issuer));
    for (char *c = issuer; *c; c++) { /* it is anyone's text */
        *c = *c >= 0x20 && *c < 0x7f ? *c : '?';
    }
    return err_refuse(e, expired ? ERR_EXPIRED : ERR_DENIED, clause,
                      "an endorsement key that an enrolled host certifies", "one by %s: %s", issuer,
                      why == X509_V_OK ? "not in the host's list of keys"
                                       : X509_verify_cert_error_string(why));
}

/* An error that says more than that the issuer is unknown. */
static int more_telling(int why, int than)
{
    return than == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY ||
           than == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE || why == X509_V_OK;
}

static int verify_stack(STACK_OF(X509) * between, X509 *leaf, const struct tpm_hosts *hosts,
                        int64_t now_ms, struct ek *ret, struct err *e)
{
    int worst = X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY;
    struct ek k = {0};

    if (check_leaf(leaf, e) || tpm_cert_digest(leaf, k.sha256, e)) {
        return -1;
    }
    for (size_t i = 0; i < hosts->n; i++) {
        int why = verify_under(&hosts->v[i], leaf, between, now_ms);
        if (why == X509_V_OK && enrolled_ek(&hosts->v[i], k.sha256)) {
            k.host = &hosts->v[i];
            k.key = X509_get_pubkey(leaf);
            *ret = k;
            return k.key ? 0 : err_set(e, ERR_INVALID, "an endorsement key that is none");
        }
        worst = more_telling(why, worst) ? why : worst;
    }
    return refuse(leaf, worst, e);
}

int ek_verify(const struct bytes *certs, size_t n, const struct tpm_hosts *hosts, int64_t now_ms,
              struct ek *ret, struct err *e)
{
    STACK_OF(X509) *between = sk_X509_new_null();
    X509 *leaf = NULL;
    int rc = -1, ok = between && n >= 1 && n <= EK_MAX_CERTS;

    for (size_t i = 0; ok && i < n; i++) {
        X509 *cert = parse(certs[i]);
        ok = cert != NULL;
        if (ok && !i) {
            leaf = cert;
        } else if (ok && sk_X509_push(between, cert) <= 0) {
            X509_free(cert);
            ok = 0;
        }
    }
    if (ok) {
        rc = verify_stack(between, leaf, hosts, now_ms, ret, e);
    } else {
        err_refuse(e, ERR_INVALID, clause, "1 to 8 certificates in DER, of at most 4096 bytes each",
                   "%zu, with one that is not", n);
    }
    sk_X509_pop_free(between, X509_free);
    X509_free(leaf);
    return rc;
}

void ek_done(struct ek *k)
{
    EVP_PKEY_free(k->key);
    k->key = NULL;
}
