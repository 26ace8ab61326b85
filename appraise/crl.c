#include "appraise/certs_int.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

/* A list that was made a little after the time of appraisal says more, not less, and one whose
 * successor is a little late is still the best there is: neither makes genuine evidence worthless.
 * Who wants it fresher says so in the policy (max-age). */
#define GRACE_MS (24 * 3600 * 1000LL)

struct crl {
    X509_CRL *x;
    int64_t this_update_ms, next_update_ms, number;
    uint8_t signed_by[32];
    int is_signed_by;
};

void crl_free(struct crl *c)
{
    if (c) {
        X509_CRL_free(c->x);
        free(c);
    }
}

static X509_CRL *parse_der(struct bytes in)
{
    const uint8_t *p = in.p;
    X509_CRL *x = d2i_X509_CRL(NULL, &p, (long)in.n);

    if (x && p != in.p + in.n) {
        X509_CRL_free(x);
        x = NULL;
    }
    return x;
}

static X509_CRL *parse_pem(struct bytes in)
{
    BIO *bio = BIO_new_mem_buf(in.p, (int)in.n);
    X509_CRL *x = bio ? PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL) : NULL;

    BIO_free(bio);
    return x;
}

/* Issuing distribution point, delta indicator, and what else would change what the list says. */
static int critical_known(const X509_CRL *x)
{
    for (int i = 0; i < X509_CRL_get_ext_count(x); i++) {
        X509_EXTENSION *ext = X509_CRL_get_ext(x, i);
        int nid = OBJ_obj2nid(X509_EXTENSION_get_object(ext));
        if (nid == NID_delta_crl || (X509_EXTENSION_get_critical(ext) && nid != NID_crl_number &&
                                     nid != NID_authority_key_identifier)) {
            return 0;
        }
    }
    return 1;
}

static int read_fields(const char *what, struct crl *c, struct err *e)
{
    int found;
    ASN1_INTEGER *number = X509_CRL_get_ext_d2i(c->x, NID_crl_number, &found, NULL);

    c->number = -1;
    c->next_update_ms = INT64_MAX;
    if (number && ASN1_INTEGER_get_int64(&c->number, number) != 1) {
        c->number = -1;
    }
    ASN1_INTEGER_free(number);
    if (!critical_known(c->x)) {
        return clause_refuse(e, ERR_INVALID, what, "extensions",
                             "a complete CRL without unknown critical extensions", "another");
    }
    if (asn1_time_ms(what, "this_update", X509_CRL_get0_lastUpdate(c->x), &c->this_update_ms, e)) {
        return -1;
    }
    return X509_CRL_get0_nextUpdate(c->x)
               ? asn1_time_ms(what, "next_update", X509_CRL_get0_nextUpdate(c->x),
                              &c->next_update_ms, e)
               : 0;
}

int crl_parse(const char *what, struct bytes in, struct crl **ret, struct err *e)
{
    _cleanup_(crl_freep) struct crl *c = xcalloc(1, sizeof(*c));

    if (in.n > CRL_MAX_BYTES) {
        return clause_refuse(e, ERR_TOO_LARGE, what, "", "a CRL of at most 4 MiB", "more");
    }
    c->x = in.n && in.p[0] == '-' ? parse_pem(in) : parse_der(in);
    ERR_clear_error();
    if (!c->x) {
        return clause_refuse(e, ERR_INVALID, what, "", "one CRL in DER or PEM form",
                             "something else");
    }
    int rc = read_fields(what, c, e);
    ERR_clear_error();
    if (rc < 0) {
        return -1;
    }
    *ret = TAKE_PTR(c);
    return 0;
}

int64_t crl_this_update_ms(const struct crl *c)
{
    return c->this_update_ms;
}

int64_t crl_next_update_ms(const struct crl *c)
{
    return c->next_update_ms;
}

int64_t crl_number(const struct crl *c)
{
    return c->number;
}

int crl_is_of(const struct crl *c, const struct cert *ca)
{
    return X509_NAME_cmp(X509_CRL_get_issuer(c->x), X509_get_subject_name(ca->x)) == 0;
}

int crl_issuer_has(const struct crl *c, const char *text)
{
    char cn[128] = "";

    X509_NAME_get_text_by_NID(X509_CRL_get_issuer(c->x), NID_commonName, cn, sizeof(cn));
    return strstr(cn, text) != NULL;
}

static int check_signature(const char *what, struct crl *c, struct cert *ca, struct err *e)
{
    const struct cert_node *by = const_node_of(ca);
    const X509_ALGOR *alg;

    if (c->is_signed_by && memcmp(c->signed_by, by->id, sizeof(by->id)) == 0) {
        return 0;
    }
    X509_CRL_get0_signature(c->x, NULL, &alg);
    int ok = sigalg_strong(alg) && X509_CRL_verify(c->x, ca->key) == 1;
    ERR_clear_error();
    if (!ok) {
        return clause_refuse(e, ERR_BAD_SIGNATURE, what, "signature",
                             "one by the key of its issuer, with SHA-256 or more", "another");
    }
    memcpy(c->signed_by, by->id, sizeof(by->id));
    c->is_signed_by = 1;
    return 0;
}

int crl_verify(struct certs *s, const char *what, struct crl *c, struct cert *ca, int64_t at_ms,
               struct err *e)
{
    const struct cert_node *by = const_node_of(ca);

    (void)s;
    if (!crl_is_of(c, ca)) {
        char expected[128], actual[128];
        cert_subject_cn(ca, expected);
        X509_NAME_get_text_by_NID(X509_CRL_get_issuer(c->x), NID_commonName, actual,
                                  sizeof(actual));
        return clause_refuse(e, ERR_DENIED, what, "issuer", expected, actual);
    }
    if (!by->is_ca || !(by->key_usage & KU_CRL_SIGN)) {
        return clause_refuse(e, ERR_DENIED, what, "issuer", "a CA that may sign CRLs", "another");
    }
    if (check_signature(what, c, ca, e)) {
        return -1;
    }
    return check_not_before(what, "this_update", c->this_update_ms, at_ms + GRACE_MS, e) ||
                   check_not_after(what, "next_update", c->next_update_ms, at_ms - GRACE_MS, e)
               ? -1
               : 0;
}

int crl_has(const struct crl *c, const struct cert *of)
{
    X509_REVOKED *found = NULL;

    /* 0: not there; 2: taken off again ("removeFromCRL"), which only delta CRLs say. */
    return X509_CRL_get0_by_serial(c->x, &found, X509_get_serialNumber(of->x)) != 0;
}
