/* Attestation documents of enclaves that do not exist, by tests' own certificates. */
#ifndef COFFER_NITRO_TESTING_H
#define COFFER_NITRO_TESTING_H

#include <openssl/ecdsa.h>

#include "appraise/nitro.h"
#include "appraise/pki_testing.h"

#define NITRO_TESTING_MAX (96u * 1024)

static inline void nt_raw(struct buf *b, const void *p, size_t n)
{
    pki_must(buf_add(b, p, n, NULL) == 0);
}

static inline void nt_head(struct buf *b, unsigned kind, uint64_t v)
{
    uint8_t h[9] = {(uint8_t)(kind << 5 | 27)};

    if (v < 24) {
        h[0] = (uint8_t)(kind << 5 | v);
        nt_raw(b, h, 1);
    } else if (v < 0x10000) {
        h[0] = (uint8_t)(kind << 5 | 25);
        h[1] = (uint8_t)(v >> 8);
        h[2] = (uint8_t)v;
        nt_raw(b, h, 3);
    } else {
        for (int i = 0; i < 8; i++) {
            h[1 + i] = (uint8_t)(v >> (56 - 8 * i));
        }
        nt_raw(b, h, 9);
    }
}

static inline void nt_bytes(struct buf *b, const void *p, size_t n)
{
    nt_head(b, CBOR_BYTES, n);
    nt_raw(b, p, n);
}

static inline void nt_text(struct buf *b, const char *s)
{
    nt_head(b, CBOR_TEXT, strlen(s));
    nt_raw(b, s, strlen(s));
}

/* Root, three CAs and the leaf, as AWS has them. */
#define NT_CAS 4
struct nitro_pki {
    struct pki ca[NT_CAS]; /* [0]: the root */
    struct pki leaf;
};

static inline void nitro_pki_done(struct nitro_pki *p)
{
    for (size_t i = 0; i < NT_CAS; i++) {
        pki_done(&p->ca[i]);
    }
    pki_done(&p->leaf);
}

static inline struct pki nitro_leaf(const struct nitro_pki *p, const struct pki_opts *with)
{
    struct pki_opts o = with ? *with : (struct pki_opts){.curve = "P-384"};

    o.cn = "i-0123456789abcdef0-enc0123456789abcdef.test";
    o.issuer = o.issuer ? o.issuer : &p->ca[NT_CAS - 1];
    o.md = EVP_sha384();
    return pki_make(&o);
}

/* `change`: which certificate (0 root .. 3 instance) is made with `with` instead; -1: none. */
static inline struct nitro_pki nitro_pki_make(int change, const struct pki_opts *with)
{
    static const char *const names[NT_CAS] = {"test.nitro-enclaves", "test region", "test zone",
                                              "test instance"};
    struct nitro_pki p = {0};

    for (int i = 0; i < NT_CAS; i++) {
        struct pki_opts o = {.ca = 1, .has_path_len = i > 0, .path_len = NT_CAS - 1 - i};
        if (i == change) {
            o = *with;
        }
        o.cn = names[i];
        o.curve = o.curve ? o.curve : "P-384";
        o.md = EVP_sha384();
        o.issuer = i ? &p.ca[i - 1] : NULL;
        p.ca[i] = pki_make(&o);
    }
    p.leaf = nitro_leaf(&p, NULL);
    return p;
}

struct nitro_opts {
    const char *leave_out, *twice; /* members */
    struct bytes user_data, nonce, public_key;
    int debug;     /* PCR 0..2 are zero */
    int pcr_bytes; /* 0: 48 */
    int pcr_twice, no_pcr0;
    int indefinite; /* the payload's map */
    int unknown;    /* a member that nobody knows */
    int timestamp_zero, digest_other;
    int cabundle_reversed;
    size_t cabundle_extra; /* copies of the instance's CA behind it */
    const char *trailing;  /* behind the payload's map */
    /* COSE */
    struct bytes protected_header; /* p NULL: {1: -35} */
    int tagged, unprotected;
    EVP_PKEY *sign_with; /* NULL: the leaf's */
    const EVP_MD *md;    /* NULL: SHA-384 */
    int der_signature;
};

static inline int nt_name(struct buf *b, const struct nitro_opts *o, const char *name)
{
    if (o->leave_out && streq(o->leave_out, name)) {
        return 0;
    }
    nt_text(b, name);
    return 1;
}

static inline void nt_pcrs(struct buf *b, const struct nitro_opts *o)
{
    uint8_t pcr[64];

    nt_head(b, CBOR_MAP, 16u + (o->pcr_twice != 0) - (o->no_pcr0 != 0));
    for (int i = o->no_pcr0 ? 1 : 0; i < 16; i++) {
        memset(pcr, o->debug && i < 3 ? 0 : i + 1, sizeof(pcr));
        nt_head(b, CBOR_UINT, (uint64_t)i);
        nt_bytes(b, pcr, o->pcr_bytes ? (size_t)o->pcr_bytes : 48);
    }
    if (o->pcr_twice) {
        nt_head(b, CBOR_UINT, 3);
        nt_bytes(b, pcr, 48);
    }
}

static inline void nt_optional(struct buf *b, const struct nitro_opts *o, const char *name,
                               struct bytes v)
{
    if (!nt_name(b, o, name)) {
        return;
    }
    if (v.p) {
        nt_bytes(b, v.p, v.n);
    } else {
        nt_head(b, CBOR_SIMPLE, CBOR_NULL);
    }
}

static inline void nt_cabundle(struct buf *b, const struct nitro_pki *p, const struct nitro_opts *o)
{
    nt_head(b, CBOR_ARRAY, NT_CAS + o->cabundle_extra);
    for (size_t i = 0; i < NT_CAS + o->cabundle_extra; i++) {
        size_t k = i < NT_CAS ? i : NT_CAS - 1;
        const struct buf *der = &p->ca[o->cabundle_reversed ? NT_CAS - 1 - k : k].der;
        nt_bytes(b, der->p, der->n);
    }
}

static inline struct buf nitro_payload(const struct nitro_pki *p, const struct nitro_opts *o)
{
    struct buf b = BUF_INIT(NITRO_TESTING_MAX);
    size_t n = 9u - (o->leave_out != NULL) + (o->twice != NULL) + (o->unknown != 0);

    if (o->indefinite) {
        nt_raw(&b, "\xbf", 1);
    } else {
        nt_head(&b, CBOR_MAP, n);
    }
    if (nt_name(&b, o, "module_id")) {
        nt_text(&b, "i-0123456789abcdef0-enc0123456789abcdef");
    }
    if (nt_name(&b, o, "digest")) {
        nt_text(&b, o->digest_other ? "SHA256" : "SHA384");
    }
    if (nt_name(&b, o, "timestamp")) {
        nt_head(&b, CBOR_UINT, o->timestamp_zero ? 0 : (uint64_t)PKI_NOW_MS);
    }
    if (nt_name(&b, o, "pcrs")) {
        nt_pcrs(&b, o);
    }
    if (nt_name(&b, o, "certificate")) {
        nt_bytes(&b, p->leaf.der.p, p->leaf.der.n);
    }
    if (nt_name(&b, o, "cabundle")) {
        nt_cabundle(&b, p, o);
    }
    nt_optional(&b, o, "public_key", o->public_key);
    nt_optional(&b, o, "user_data", o->user_data);
    nt_optional(&b, o, "nonce", o->nonce);
    if (o->twice) {
        nt_text(&b, o->twice);
        nt_head(&b, CBOR_SIMPLE, CBOR_NULL);
    }
    if (o->unknown) {
        nt_text(&b, "of_tomorrow");
        nt_raw(&b, "\x82\x01\xa1\x02\xf5", 5);
    }
    if (o->indefinite) {
        nt_raw(&b, "\xff", 1);
    }
    if (o->trailing) {
        nt_raw(&b, o->trailing, strlen(o->trailing));
    }
    return b;
}

static inline void nt_sign(struct buf *doc, struct bytes header, const struct buf *payload,
                           EVP_PKEY *key, const struct nitro_opts *o)
{
    _cleanup_buf_ struct buf m = BUF_INIT(NITRO_TESTING_MAX);
    uint8_t der[160], raw[96];
    size_t n = sizeof(der);
    const uint8_t *p = der;

    nt_head(&m, CBOR_ARRAY, 4);
    nt_text(&m, "Signature1");
    nt_bytes(&m, header.p, header.n);
    nt_bytes(&m, "", 0);
    /* The shortest head, where nt_head has two bytes for what fits one. */
    pki_must(payload->n >= 256);
    nt_bytes(&m, payload->p, payload->n);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    pki_must(EVP_DigestSignInit(ctx, NULL, o->md ? o->md : EVP_sha384(), NULL, key) == 1 &&
             EVP_DigestSign(ctx, der, &n, m.p, m.n) == 1);
    EVP_MD_CTX_free(ctx);
    if (o->der_signature) {
        nt_bytes(doc, der, n);
        return;
    }
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)n);
    pki_must(sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, 48) == 48 &&
             BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + 48, 48) == 48);
    ECDSA_SIG_free(sig);
    nt_bytes(doc, raw, sizeof(raw));
}

/* The document, signed. */
static inline struct buf nitro_make(const struct nitro_pki *p, const struct nitro_opts *o)
{
    struct buf doc = BUF_INIT(NITRO_TESTING_MAX);
    _cleanup_buf_ struct buf payload = nitro_payload(p, o);
    struct bytes header =
        o->protected_header.p ? o->protected_header : BYTES("\xa1\x01\x38\x22", 4);

    if (o->tagged) {
        nt_raw(&doc, "\xd2", 1);
    }
    nt_head(&doc, CBOR_ARRAY, 4);
    nt_bytes(&doc, header.p, header.n);
    nt_raw(&doc, o->unprotected ? "\xa1\x01\x26" : "\xa0", o->unprotected ? 3 : 1);
    nt_bytes(&doc, payload.p, payload.n);
    nt_sign(&doc, header, &payload, o->sign_with ? o->sign_with : p->leaf.key, o);
    return doc;
}

#endif
