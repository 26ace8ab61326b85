/* Certificates and CRLs made by tests, for what no real vector shows. */
#ifndef COFFER_PKI_TESTING_H
#define COFFER_PKI_TESTING_H

#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include "common/buf.h"

#define PKI_DAY_MS (24 * 3600 * 1000LL)
/* The middle of what is valid unless told otherwise: 2026-01-01. */
#define PKI_NOW_MS 1767225600000LL

struct pki_ext {
    const char *oid;
    struct bytes value; /* what goes into the OCTET STRING */
    int critical;
};

struct pki_opts {
    const char *cn;
    const struct pki *issuer; /* NULL: itself */
    const char *curve;        /* "P-256", "P-384"; NULL: RSA of rsa_bits */
    unsigned rsa_bits;
    EVP_PKEY *key;    /* borrowed, instead of a fresh one */
    const EVP_MD *md; /* NULL: SHA-256 */
    int pss;          /* the issuer's RSA key signs with PSS */
    int ca;
    int no_basic_constraints;
    int path_len; /* -1 or 0 bounds only with has_path_len */
    int has_path_len;
    const char *key_usage;               /* as OpenSSL's config has it; NULL: keyCertSign,cRLSign or
                                            digitalSignature; "" none */
    int64_t not_before_ms, not_after_ms; /* 0: a year around PKI_NOW_MS */
    long serial;                         /* 0: 1 */
    const struct pki_ext *ext;
    size_t n_ext;
};

struct pki {
    X509 *x;
    EVP_PKEY *key;
    struct buf der;
    char *pem;
};

static inline void pki_done(struct pki *p)
{
    X509_free(p->x);
    EVP_PKEY_free(p->key);
    buf_done(&p->der);
    free(p->pem);
    *p = (struct pki){0};
}

static inline EVP_PKEY *pki_key(const struct pki_opts *o)
{
    if (o->key) {
        EVP_PKEY_up_ref(o->key);
        return o->key;
    }
    return o->curve ? EVP_EC_gen(o->curve) : EVP_RSA_gen(o->rsa_bits ? o->rsa_bits : 2048);
}

static inline void pki_must(int ok)
{
    if (!ok) {
        abort();
    }
}

static inline void pki_add_conf(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_nconf_nid(NULL, NULL, nid, value);

    pki_must(e && X509_add_ext(x, e, -1));
    X509_EXTENSION_free(e);
}

static inline void pki_extensions(X509 *x, const struct pki_opts *o)
{
    char bc[64];

    snprintf(bc, sizeof(bc), "critical,CA:%s", o->ca ? "TRUE" : "FALSE");
    if (o->has_path_len) {
        snprintf(bc + strlen(bc), sizeof(bc) - strlen(bc), ",pathlen:%d", o->path_len);
    }
    if (!o->no_basic_constraints) {
        pki_add_conf(x, NID_basic_constraints, bc);
    }
    if (!o->key_usage || *o->key_usage) {
        pki_add_conf(x, NID_key_usage,
                     o->key_usage ? o->key_usage
                     : o->ca      ? "critical,keyCertSign,cRLSign"
                                  : "critical,digitalSignature");
    }
    for (size_t i = 0; i < o->n_ext; i++) {
        ASN1_OBJECT *oid = OBJ_txt2obj(o->ext[i].oid, 1);
        ASN1_OCTET_STRING *v = ASN1_OCTET_STRING_new();
        pki_must(oid && v && ASN1_OCTET_STRING_set(v, o->ext[i].value.p, (int)o->ext[i].value.n));
        X509_EXTENSION *e = X509_EXTENSION_create_by_OBJ(NULL, oid, o->ext[i].critical, v);
        pki_must(e && X509_add_ext(x, e, -1));
        X509_EXTENSION_free(e);
        ASN1_OCTET_STRING_free(v);
        ASN1_OBJECT_free(oid);
    }
}

static inline void pki_time(ASN1_TIME *t, int64_t ms, int64_t otherwise)
{
    pki_must(ASN1_TIME_set(t, (time_t)((ms ? ms : otherwise) / 1000)) != NULL);
}

static inline EVP_MD_CTX *pki_signer(EVP_PKEY *key, const EVP_MD *md, int pss)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pctx;

    pki_must(ctx && EVP_DigestSignInit(ctx, &pctx, md ? md : EVP_sha256(), NULL, key) == 1);
    if (pss) {
        pki_must(EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1 &&
                 EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST) == 1);
    }
    return ctx;
}

static inline struct pki pki_make(const struct pki_opts *o)
{
    struct pki p = {.x = X509_new(), .key = pki_key(o), .der = BUF_INIT(1u << 16)};
    X509_NAME *name = X509_NAME_new();
    uint8_t *der = NULL;

    pki_must(
        p.x && p.key && name &&
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const uint8_t *)o->cn, -1, -1, 0));
    X509_set_version(p.x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(p.x), o->serial ? o->serial : 1);
    X509_set_subject_name(p.x, name);
    X509_set_issuer_name(p.x, o->issuer ? X509_get_subject_name(o->issuer->x) : name);
    X509_NAME_free(name);
    pki_time(X509_getm_notBefore(p.x), o->not_before_ms, PKI_NOW_MS - 180 * PKI_DAY_MS);
    pki_time(X509_getm_notAfter(p.x), o->not_after_ms, PKI_NOW_MS + 180 * PKI_DAY_MS);
    X509_set_pubkey(p.x, p.key);
    pki_extensions(p.x, o);
    EVP_MD_CTX *ctx = pki_signer(o->issuer ? o->issuer->key : p.key, o->md, o->pss);
    pki_must(X509_sign_ctx(p.x, ctx) > 0);
    EVP_MD_CTX_free(ctx);
    int n = i2d_X509(p.x, &der);
    pki_must(n > 0 && buf_add(&p.der, der, (size_t)n, NULL) == 0);
    OPENSSL_free(der);
    char *b64 = b64_encode(p.der.p, p.der.n);
    p.pem = xasprintf("-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", b64);
    free(b64);
    return p;
}

/* DER; `serials` are revoked. */
static inline struct buf pki_crl(const struct pki *issuer, int64_t this_ms, int64_t next_ms,
                                 long number, const long *serials, size_t n_serials, int pss)
{
    X509_CRL *x = X509_CRL_new();
    ASN1_TIME *t = ASN1_TIME_new();
    ASN1_INTEGER *i = ASN1_INTEGER_new();
    struct buf b = BUF_INIT(1u << 16);
    uint8_t *der = NULL;

    pki_must(x && t && i);
    X509_CRL_set_version(x, X509_CRL_VERSION_2);
    X509_CRL_set_issuer_name(x, X509_get_subject_name(issuer->x));
    pki_time(t, this_ms, PKI_NOW_MS - 10 * PKI_DAY_MS);
    X509_CRL_set1_lastUpdate(x, t);
    pki_time(t, next_ms, PKI_NOW_MS + 20 * PKI_DAY_MS);
    X509_CRL_set1_nextUpdate(x, t);
    ASN1_INTEGER_set(i, number);
    pki_must(X509_CRL_add1_ext_i2d(x, NID_crl_number, i, 0, 0) == 1);
    for (size_t k = 0; k < n_serials; k++) {
        X509_REVOKED *r = X509_REVOKED_new();
        ASN1_INTEGER_set(i, serials[k]);
        X509_REVOKED_set_serialNumber(r, i);
        X509_REVOKED_set_revocationDate(r, t);
        pki_must(X509_CRL_add0_revoked(x, r) == 1);
    }
    EVP_MD_CTX *ctx = pki_signer(issuer->key, NULL, pss);
    pki_must(X509_CRL_sign_ctx(x, ctx) > 0);
    EVP_MD_CTX_free(ctx);
    int n = i2d_X509_CRL(x, &der);
    pki_must(n > 0 && buf_add(&b, der, (size_t)n, NULL) == 0);
    OPENSSL_free(der);
    ASN1_TIME_free(t);
    ASN1_INTEGER_free(i);
    X509_CRL_free(x);
    return b;
}

#endif
