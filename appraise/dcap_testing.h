/* A provisioning service, a platform and a quoting enclave of one's own: quotes and collateral as
 * Intel's, for what no real vector shows. */
#ifndef COFFER_DCAP_TESTING_H
#define COFFER_DCAP_TESTING_H

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>

#include "appraise/collateral.h"
#include "appraise/dcap_quote.h"
#include "appraise/pki_testing.h"
#include "appraise/when.h"

struct dcap_platform {
    struct pki root, ca, pck, tcb_signing;
    EVP_PKEY *ak;
    uint8_t sgx_svn[16];
    unsigned pce_svn;
};

struct dcap_quote_opts {
    unsigned version; /* 3, 4, 5 */
    enum dcap_body body;
    unsigned cert_type;                       /* 0: 5 */
    uint8_t tee_tcb_svn[2], tee_tcb_svn_2[2]; /* the first two, the others are 5 */
    uint8_t td_debug;
    unsigned qe_svn;
    uint8_t report_data;  /* 64 times, */
    const uint8_t *bound; /* or these 64 */
};

/* ---- DER ------------------------------------------------------------------------------------- */

static inline void der_wrap(struct buf *b, uint8_t tag, const void *p, size_t n)
{
    uint8_t head[4] = {tag, (uint8_t)n};
    size_t len = 2;

    if (n >= 0x100) {
        head[1] = 0x82;
        head[2] = (uint8_t)(n >> 8);
        head[3] = (uint8_t)n;
        len = 4;
    } else if (n >= 0x80) {
        head[1] = 0x81;
        head[2] = (uint8_t)n;
        len = 3;
    }
    pki_must(buf_add(b, head, len, NULL) == 0 && buf_add(b, p, n, NULL) == 0);
}

/* SEQUENCE { OID 1.2.840.113741.1.13.1.<arcs>, TLV } */
static inline void der_entry(struct buf *b, const char *arcs, size_t n_arcs, uint8_t tag,
                             const void *p, size_t n)
{
    static const uint8_t prefix[] = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};
    struct buf oid = BUF_INIT(32), inner = BUF_INIT(4096);

    pki_must(buf_add(&oid, prefix, sizeof(prefix), NULL) == 0 &&
             buf_add(&oid, arcs, n_arcs, NULL) == 0);
    der_wrap(&inner, 0x06, oid.p, oid.n);
    der_wrap(&inner, tag, p, n);
    der_wrap(b, 0x30, inner.p, inner.n);
    buf_done(&oid);
    buf_done(&inner);
}

static inline void der_svn(struct buf *b, char arc, unsigned v)
{
    const char arcs[2] = {2, arc};
    uint8_t bytes[3] = {(uint8_t)(v >> 8), (uint8_t)v};
    size_t skip = v < 0x80 ? 1 : 0; /* 128 to 255 take a zero byte before */

    der_entry(b, arcs, 2, 0x02, bytes + skip, 2 - skip);
}

static inline struct buf dcap_pck_extension(const struct dcap_platform *p)
{
    static const uint8_t id[16] = {1, 2, 3}, fmspc[6] = {0x90, 0xc0, 0x6f}, yes = 0xff, zero = 0;
    struct buf tcb = BUF_INIT(4096), conf = BUF_INIT(256), all = BUF_INIT(4096),
               out = BUF_INIT(4096);

    for (int i = 0; i < 16; i++) {
        der_svn(&tcb, (char)(i + 1), p->sgx_svn[i]);
    }
    der_svn(&tcb, 17, p->pce_svn);
    der_entry(&tcb, "\2\x12", 2, 0x04, p->sgx_svn, 16);
    der_entry(&conf, "\7\1", 2, 0x01, &yes, 1);
    der_entry(&conf, "\7\3", 2, 0x01, &yes, 1);
    der_entry(&all, "\1", 1, 0x04, id, 16);
    der_entry(&all, "\2", 1, 0x30, tcb.p, tcb.n);
    der_entry(&all, "\3", 1, 0x04, id + 14, 2);
    der_entry(&all, "\4", 1, 0x04, fmspc, 6);
    der_entry(&all, "\5", 1, 0x0a, &zero, 1);
    der_entry(&all, "\6", 1, 0x04, id, 16);
    der_entry(&all, "\7", 1, 0x30, conf.p, conf.n);
    der_wrap(&out, 0x30, all.p, all.n);
    buf_done(&tcb);
    buf_done(&conf);
    buf_done(&all);
    return out;
}

/* ---- signatures ------------------------------------------------------------------------------ */

static inline void dcap_sign(EVP_PKEY *key, struct bytes m, uint8_t r_s[64])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t der[128];
    const uint8_t *p = der;
    size_t n = sizeof(der);

    pki_must(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
             EVP_DigestSign(ctx, der, &n, m.p, m.n) == 1);
    EVP_MD_CTX_free(ctx);
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)n);
    pki_must(BN_bn2binpad(ECDSA_SIG_get0_r(sig), r_s, 32) == 32 &&
             BN_bn2binpad(ECDSA_SIG_get0_s(sig), r_s + 32, 32) == 32);
    ECDSA_SIG_free(sig);
}

static inline void dcap_public(EVP_PKEY *key, uint8_t xy[64])
{
    uint8_t point[65];
    size_t n;

    pki_must(EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, 65, &n) == 1);
    memcpy(xy, point + 1, 64);
}

/* ---- the platform ---------------------------------------------------------------------------- */

static inline struct pki dcap_pck(const struct dcap_platform *p, long serial, int64_t from_ms,
                                  int64_t to_ms)
{
    struct buf ext = dcap_pck_extension(p);
    struct pki_ext e = {.oid = "1.2.840.113741.1.13.1", .value = {ext.p, ext.n}};
    struct pki pck = pki_make(&(struct pki_opts){.cn = "Intel SGX PCK Certificate",
                                                 .issuer = &p->ca,
                                                 .curve = "P-256",
                                                 .serial = serial,
                                                 .not_before_ms = from_ms,
                                                 .not_after_ms = to_ms,
                                                 .ext = &e,
                                                 .n_ext = 1});

    buf_done(&ext);
    return pck;
}

static inline void dcap_platform_make(struct dcap_platform *p)
{
    *p = (struct dcap_platform){.pce_svn = 13};
    memset(p->sgx_svn, 7, sizeof(p->sgx_svn));
    p->sgx_svn[5] = 200; /* two bytes of DER */
    p->root = pki_make(&(struct pki_opts){.cn = "Intel SGX Root CA", .curve = "P-256", .ca = 1});
    p->ca = pki_make(&(struct pki_opts){.cn = "Intel SGX PCK Platform CA",
                                        .issuer = &p->root,
                                        .curve = "P-256",
                                        .ca = 1,
                                        .serial = 21});
    p->tcb_signing = pki_make(&(struct pki_opts){
        .cn = "Intel SGX TCB Signing", .issuer = &p->root, .curve = "P-256", .serial = 22});
    p->pck = dcap_pck(p, 31, 0, 0);
    p->ak = EVP_EC_gen("P-256");
}

static inline void dcap_platform_done(struct dcap_platform *p)
{
    pki_done(&p->root);
    pki_done(&p->ca);
    pki_done(&p->tcb_signing);
    pki_done(&p->pck);
    EVP_PKEY_free(p->ak);
}

/* ---- quotes ---------------------------------------------------------------------------------- */

static inline void put_u16(struct buf *b, unsigned v)
{
    uint8_t p[2] = {(uint8_t)v, (uint8_t)(v >> 8)};

    pki_must(buf_add(b, p, 2, NULL) == 0);
}

static inline void put_u32(struct buf *b, size_t v)
{
    put_u16(b, (unsigned)v & 0xffff);
    put_u16(b, (unsigned)(v >> 16));
}

static inline void put(struct buf *b, const void *p, size_t n)
{
    pki_must(buf_add(b, p, n, NULL) == 0);
}

static inline void dcap_body(struct buf *b, const struct dcap_quote_opts *o)
{
    static const size_t sizes[] = {0, 384, 584, 648, 885};
    uint8_t body[885] = {0};

    if (o->body == DCAP_BODY_SGX) {
        memset(body + SGX_MRENCLAVE, 0xe1, 32);
        memset(body + SGX_REPORTDATA, o->report_data, 64);
        if (o->bound) {
            memcpy(body + SGX_REPORTDATA, o->bound, 64);
        }
    } else {
        memset(body, 5, 16);
        memcpy(body + TD_TCB_SVN, o->tee_tcb_svn, 2);
        body[TD_ATTRIBUTES] = o->td_debug;
        body[TD_ATTRIBUTES + 3] = 0x10;
        memset(body + TD_MRTD, 0xd1, 48);
        memset(body + TD_REPORTDATA, o->report_data, 64);
        if (o->bound) {
            memcpy(body + TD_REPORTDATA, o->bound, 64);
        }
        if (o->body != DCAP_BODY_TD_10) {
            memset(body + TD_TCB_SVN_2, 5, 16);
            memcpy(body + TD_TCB_SVN_2, o->tee_tcb_svn_2, 2);
        }
    }
    if (o->version == 5) {
        put_u16(b, o->body);
        put_u32(b, sizes[o->body]);
    }
    put(b, body, sizes[o->body]);
}

/* The QE's report over the attestation key, and the certification data behind it. */
static inline struct buf dcap_qe_part(const struct dcap_platform *p,
                                      const struct dcap_quote_opts *o)
{
    static const uint8_t auth[32] = {9, 8, 7};
    uint8_t report[384] = {0}, bound[96], sig[64];
    struct buf b = BUF_INIT(65536), certs = BUF_INIT(65536);
    unsigned type = o->cert_type ? o->cert_type : 5;

    dcap_public(p->ak, bound);
    memcpy(bound + 64, auth, 32);
    memset(report + SGX_MRSIGNER, 0x51, 32);
    report[SGX_ATTRIBUTES] = 0x11;
    report[SGX_ISVPRODID] = 2;
    report[SGX_ISVSVN] = (uint8_t)o->qe_svn;
    pki_must(EVP_Digest(bound, 96, report + SGX_REPORTDATA, NULL, EVP_sha256(), NULL) == 1);
    dcap_sign(p->pck.key, BYTES(report, 384), sig);
    put(&b, report, 384);
    put(&b, sig, 64);
    put_u16(&b, 32);
    put(&b, auth, 32);
    if (type == 5) {
        pki_must(buf_addf(&certs, NULL, "%s%s%s", p->pck.pem, p->ca.pem, p->root.pem) == 0);
    } else if (type == 4) {
        pki_must(buf_addf(&certs, NULL, "%s", p->pck.pem) == 0);
    } else {
        put(&certs, report, 36);
    }
    put_u16(&b, type);
    put_u32(&b, certs.n);
    put(&b, certs.p, certs.n);
    buf_done(&certs);
    return b;
}

static inline struct buf dcap_quote_make(const struct dcap_platform *p,
                                         const struct dcap_quote_opts *o)
{
    static const uint8_t vendor[16] = {0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9,
                                       0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07};
    uint8_t zeros[20] = {0}, sig[64], ak[64];
    struct buf q = BUF_INIT(1u << 17), auth = BUF_INIT(1u << 16), qe = dcap_qe_part(p, o);

    put_u16(&q, o->version);
    put_u16(&q, 2);
    put_u32(&q, o->body == DCAP_BODY_SGX ? 0 : 0x81);
    put_u16(&q, o->version == 3 ? 9 : 0);
    put_u16(&q, o->version == 3 ? 13 : 0);
    put(&q, vendor, 16);
    put(&q, zeros, 20);
    dcap_body(&q, o);
    dcap_sign(p->ak, buf_bytes(&q), sig);
    dcap_public(p->ak, ak);
    put(&auth, sig, 64);
    put(&auth, ak, 64);
    if (o->version > 3) {
        put_u16(&auth, 6);
        put_u32(&auth, qe.n);
    }
    put(&auth, qe.p, qe.n);
    put_u32(&q, auth.n);
    put(&q, auth.p, auth.n);
    buf_done(&auth);
    buf_done(&qe);
    return q;
}

/* ---- collateral ------------------------------------------------------------------------------ */

struct dcap_level {
    unsigned sgx, tdx, pce_svn;    /* every component */
    const char *status, *advisory; /* "": none */
};

static inline void json_components(struct buf *b, const char *name, unsigned svn)
{
    pki_must(buf_addf(b, NULL, "\"%s\":[", name) == 0);
    for (int i = 0; i < 16; i++) {
        /* the second of TDX is the module's major version: 0 where it has no identity of its own */
        pki_must(buf_addf(b, NULL, "%s{\"svn\":%u}", i ? "," : "",
                          i == 1 && name[0] == 't' ? 0 : svn) == 0);
    }
    pki_must(buf_addf(b, NULL, "],") == 0);
}

struct dcap_info_opts {
    int is_tdx;
    int64_t issue_ms, next_ms; /* 0: ten days before, twenty after PKI_NOW_MS */
    unsigned evaluation;
    const struct dcap_level *levels;
    size_t n_levels;
    const char *more; /* members behind, each with a comma before: ",\"x\":1" */
};

static inline void json_dates(struct buf *b, int64_t issue_ms, int64_t next_ms)
{
    char issue[32], next[32];

    rfc3339_utc(issue_ms ? issue_ms : PKI_NOW_MS - 10 * PKI_DAY_MS, issue);
    rfc3339_utc(next_ms ? next_ms : PKI_NOW_MS + 20 * PKI_DAY_MS, next);
    pki_must(buf_addf(b, NULL, "\"issueDate\":\"%s\",\"nextUpdate\":\"%s\",", issue, next) == 0);
}

static inline struct buf dcap_info_text(const struct dcap_info_opts *o)
{
    struct buf b = BUF_INIT(1u << 17);

    pki_must(buf_addf(&b, NULL, "{\"id\":\"%s\",\"version\":3,", o->is_tdx ? "TDX" : "SGX") == 0);
    json_dates(&b, o->issue_ms, o->next_ms);
    pki_must(buf_addf(&b, NULL,
                      "\"fmspc\":\"90C06F000000\",\"pceId\":\"0000\",\"tcbType\":0,"
                      "\"tcbEvaluationDataNumber\":%u,",
                      o->evaluation ? o->evaluation : 17) == 0);
    if (o->is_tdx) {
        pki_must(buf_addf(&b, NULL,
                          "\"tdxModule\":{\"mrsigner\":\"%096d\",\"attributes\":\"%016d\","
                          "\"attributesMask\":\"FFFFFFFFFFFFFFFF\"},",
                          0, 0) == 0);
    }
    pki_must(buf_addf(&b, NULL, "\"tcbLevels\":[") == 0);
    for (size_t i = 0; i < o->n_levels; i++) {
        const struct dcap_level *l = &o->levels[i];
        pki_must(buf_addf(&b, NULL, "%s{\"tcb\":{", i ? "," : "") == 0);
        json_components(&b, "sgxtcbcomponents", l->sgx);
        if (o->is_tdx) {
            json_components(&b, "tdxtcbcomponents", l->tdx);
        }
        pki_must(buf_addf(&b, NULL,
                          "\"pcesvn\":%u},\"tcbDate\":\"2025-01-01T00:00:00Z\",\"tcbStatus\":"
                          "\"%s\"%s%s%s}",
                          l->pce_svn, l->status, *l->advisory ? ",\"advisoryIDs\":[\"" : "",
                          l->advisory, *l->advisory ? "\"]" : "") == 0);
    }
    pki_must(buf_addf(&b, NULL, "]%s}", o->more ? o->more : "") == 0);
    return b;
}

static inline struct buf dcap_identity_text(int is_tdx, int64_t issue_ms, int64_t next_ms)
{
    struct buf b = BUF_INIT(1u << 16);

    pki_must(buf_addf(&b, NULL, "{\"id\":\"%s\",\"version\":2,", is_tdx ? "TD_QE" : "QE") == 0);
    json_dates(&b, issue_ms, next_ms);
    pki_must(buf_addf(&b, NULL,
                      "\"tcbEvaluationDataNumber\":17,\"miscselect\":\"00000000\","
                      "\"miscselectMask\":\"FFFFFFFF\",\"attributes\":\"11%030d\","
                      "\"attributesMask\":\"FBFFFFFFFFFFFFFF0000000000000000\",\"mrsigner\":\"",
                      0) == 0);
    for (int i = 0; i < 32; i++) {
        pki_must(buf_addf(&b, NULL, "51") == 0);
    }
    pki_must(buf_addf(&b, NULL,
                      "\",\"isvprodid\":2,\"tcbLevels\":["
                      "{\"tcb\":{\"isvsvn\":8},\"tcbDate\":\"2025-01-01T00:00:00Z\",\"tcbStatus\":"
                      "\"UpToDate\"},"
                      "{\"tcb\":{\"isvsvn\":6},\"tcbDate\":\"2023-01-01T00:00:00Z\",\"tcbStatus\":"
                      "\"OutOfDate\",\"advisoryIDs\":[\"INTEL-SA-QE\"]},"
                      "{\"tcb\":{\"isvsvn\":4},\"tcbDate\":\"2022-01-01T00:00:00Z\",\"tcbStatus\":"
                      "\"Revoked\"}]}") == 0);
    return b;
}

/* {"<name>":text,"signature":...,"chain":...}; `signer` is usually the TCB signing certificate. */
static inline struct buf dcap_signed(const struct dcap_platform *p, const struct pki *signer,
                                     const char *name, struct buf text)
{
    struct buf b = BUF_INIT(1u << 18), chain = BUF_INIT(1u << 16);
    uint8_t sig[64];

    dcap_sign(signer->key, buf_bytes(&text), sig);
    _cleanup_free_ char *hex = hex_encode(sig, 64);
    for (const char *c = signer->pem, *end = p->root.pem; c; c = c == signer->pem ? end : NULL) {
        for (const char *k = c; *k; k++) {
            pki_must(buf_addf(&chain, NULL, *k == '\n' ? "\\n" : "%c", *k) == 0);
        }
    }
    pki_must(buf_addf(&b, NULL, "{\"%s\":%s,\"signature\":\"%s\",\"issuer_chain\":\"%s\"}", name,
                      (char *)text.p, hex, (char *)chain.p) == 0);
    buf_done(&chain);
    buf_done(&text);
    return b;
}

#endif
