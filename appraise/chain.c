#include "appraise/certs_int.h"

#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

/* r || s of a DER signature, which is written in no second way: no unused bits, no BER. */
static int raw_signature(const ASN1_BIT_STRING *der, size_t n, uint8_t *ret)
{
    const uint8_t *start = ASN1_STRING_get0_data(der), *p = start;
    int bytes = ASN1_STRING_length(der);
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, bytes);
    uint8_t *again = NULL;
    int ok = sig && !(der->flags & 0x07) && p == start + bytes &&
             i2d_ECDSA_SIG(sig, &again) == bytes && memcmp(again, start, (size_t)bytes) == 0 &&
             BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret, (int)n) == (int)n &&
             BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret + n, (int)n) == (int)n;

    OPENSSL_free(again);
    ECDSA_SIG_free(sig);
    return ok;
}

/* Behind the header of the TLV at p. */
static size_t head_bytes(const uint8_t *p, size_t n, size_t *ret_content)
{
    size_t more = n > 1 && p[1] & 0x80 ? p[1] & 0x7fu : 0, content = n > 1 && !more ? p[1] : 0;

    if (n < 2 || more > 4 || n < 2 + more) {
        return 0;
    }
    for (size_t i = 0; i < more; i++) {
        content = content << 8 | p[2 + i];
    }
    *ret_content = content;
    return 2 + more;
}

/* TBSCertificate, the first member of a Certificate; empty when there is none. */
static struct bytes signed_part(const uint8_t *der, size_t n)
{
    size_t content, outer = head_bytes(der, n, &content);
    size_t inner = outer ? head_bytes(der + outer, n - outer, &content) : 0;

    return inner && content <= n - outer - inner ? BYTES(der + outer, inner + content)
                                                 : (struct bytes){0};
}

/* With sigs.h where the curve and the hash are its pair: 1, 0; -1 when it is another pair. */
static int verify_ecdsa(struct cert *c, struct cert *issuer, const X509_ALGOR *alg,
                        const ASN1_BIT_STRING *sig)
{
    const ASN1_OBJECT *oid;
    const struct ec_key *key;
    uint8_t r_s[96], *der = NULL;
    struct err e = {0};

    X509_ALGOR_get0(&oid, NULL, NULL, alg);
    int nid = OBJ_obj2nid(oid);
    enum ec_curve curve = nid == NID_ecdsa_with_SHA256 ? EC_P256 : EC_P384;
    if ((nid != NID_ecdsa_with_SHA256 && nid != NID_ecdsa_with_SHA384) ||
        X509_ALGOR_cmp(alg, X509_get0_tbs_sigalg(c->x)) ||
        cert_ec_key(issuer, curve, "issuer", &key, &e)) {
        return -1;
    }
    int n = i2d_X509(c->x, &der); /* the signed part in it is as it came */
    struct bytes tbs = signed_part(der, n > 0 ? (size_t)n : 0);
    int ok = tbs.n && raw_signature(sig, curve == EC_P256 ? 32 : 48, r_s) &&
             ec_verify("certificate", key, tbs, r_s, &e) == 0;
    OPENSSL_free(der);
    return ok;
}

static int verify_certificate(struct cert *c, struct cert *issuer)
{
    const ASN1_BIT_STRING *sig;
    const X509_ALGOR *alg;

    X509_get0_signature(&sig, &alg, c->x);
    if (!sigalg_strong(alg)) {
        return 0;
    }
    int rc = verify_ecdsa(c, issuer, alg, sig);
    return rc < 0 ? X509_verify(c->x, issuer->key) == 1 : rc;
}

int cert_signed_by(struct certs *s, const char *what, struct cert *c, struct cert *issuer,
                   struct err *e)
{
    struct cert_node *n = node_of(c);
    const struct cert_node *by = const_node_of(issuer);

    (void)s;
    if (n->is_signed_by && memcmp(n->signed_by, by->id, sizeof(by->id)) == 0) {
        return 0;
    }
    if (!cert_names_issuer(c, issuer)) {
        char expected[128], actual[128];
        cert_subject_cn(issuer, expected);
        cert_issuer_cn(c, actual);
        return clause_refuse(e, ERR_BAD_SIGNATURE, what, "issuer", expected, actual);
    }
    int ok = verify_certificate(c, issuer);
    ERR_clear_error();
    if (!ok) {
        return clause_refuse(e, ERR_BAD_SIGNATURE, what, "signature",
                             "one by the key of its issuer, with SHA-256 or more", "another");
    }
    memcpy(n->signed_by, by->id, sizeof(by->id));
    n->is_signed_by = 1;
    return 0;
}

/* ---- chains ---- */

static int is_listed(const char *const *list, const ASN1_OBJECT *o)
{
    char oid[80];

    OBJ_obj2txt(oid, sizeof(oid), o, 1);
    for (; list && *list; list++) {
        if (streq(*list, oid)) {
            return 1;
        }
    }
    return 0;
}

/* Those that are looked at below. Others that OpenSSL knows (name constraints, policies) are not,
 * so they must not be critical. */
int critical_is_known(const X509_EXTENSION *ext)
{
    static const int known[] = {NID_basic_constraints, NID_key_usage, NID_ext_key_usage,
                                NID_subject_alt_name};
    X509_EXTENSION *x = (X509_EXTENSION *)(uintptr_t)ext;
    int nid;

    if (!X509_EXTENSION_get_critical(x)) {
        return 1;
    }
    nid = OBJ_obj2nid(X509_EXTENSION_get_object(x));
    for (size_t k = 0; k < ARRAY_LEN(known); k++) {
        if (nid == known[k]) {
            return 1;
        }
    }
    return 0;
}

static int critical_known(const struct chain_rules *r, const struct cert *c)
{
    if (const_node_of(c)->critical_known) {
        return 1;
    }
    for (int i = 0; i < X509_get_ext_count(c->x); i++) {
        X509_EXTENSION *ext = X509_get_ext(c->x, i);
        if (!critical_is_known(ext) && !is_listed(r->critical, X509_EXTENSION_get_object(ext))) {
            return 0;
        }
    }
    return 1;
}

static int check_one(const struct chain_rules *r, const char *what, const struct cert *c,
                     struct err *e)
{
    if (check_not_before(what, "not_before", c->not_before_ms, r->at_ms, e) ||
        check_not_after(what, "not_after", c->not_after_ms, r->at_ms, e)) {
        return -1;
    }
    return critical_known(r, c) ? 0
                                : clause_refuse(e, ERR_INVALID, what, "extensions",
                                                "no unknown critical extension", "one");
}

/* `below`: how many certificates of CAs that did not issue themselves stand between it and the
 * leaf. */
static int check_ca(const char *what, const struct cert *c, long below, struct err *e)
{
    const struct cert_node *n = const_node_of(c);

    if (!n->is_ca) {
        return clause_refuse(e, ERR_DENIED, what, "basic_constraints", "a CA", "none");
    }
    if (!(n->key_usage & KU_KEY_CERT_SIGN)) {
        return clause_refuse(e, ERR_DENIED, what, "key_usage", "keyCertSign", "not allowed to");
    }
    if (n->path_len >= 0 && below > n->path_len) {
        char expected[64], actual[32];
        snprintf(expected, sizeof(expected), "at most %ld CAs below", n->path_len);
        snprintf(actual, sizeof(actual), "%ld", below);
        return clause_refuse(e, ERR_DENIED, what, "path_len", expected, actual);
    }
    return 0;
}

static int check_root(struct certs *s, const struct chain_rules *r, struct cert *root,
                      struct err *e)
{
    char cn[128];

    for (size_t i = 0; i < r->n_anchors; i++) {
        if (root == r->anchors[i]) {
            return 0; /* the very certificate: its signature over itself would add nothing */
        }
        if (cert_same_key(root, r->anchors[i])) {
            return cert_signed_by(s, r->what, root, root, e);
        }
    }
    cert_subject_cn(root, cn);
    return clause_refuse(e, ERR_DENIED, r->what, "root", "a chain up to a trusted root", cn);
}

int chain_verify(struct certs *s, const struct chain_rules *r, struct cert *const *chain, size_t n,
                 struct err *e)
{
    char what[96];
    long below = 0;

    if (!n || n > CERT_CHAIN_MAX) {
        return clause_refuse(e, ERR_INVALID, r->what, "", "a chain of 1 to 8 certificates",
                             n ? "more" : "none");
    }
    if (check_root(s, r, chain[n - 1], e)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        const struct cert_node *node = const_node_of(chain[i]);
        snprintf(what, sizeof(what), "%s[%zu]", r->what, i);
        if (check_one(r, what, chain[i], e) || (i && check_ca(what, chain[i], below, e))) {
            return -1;
        }
        if (!i && n > 1 && node->is_ca && !r->leaf_is_ca) {
            return clause_refuse(e, ERR_DENIED, what, "basic_constraints", "no CA", "one");
        }
        if (i + 1 < n && cert_signed_by(s, what, chain[i], chain[i + 1], e)) {
            return -1;
        }
        below += node->is_ca && !node->self_issued;
    }
    return 0;
}
