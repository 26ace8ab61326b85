/* NVIDIA evidence made by tests: a PKI as NVIDIA's, reports, OCSP answers. */
#ifndef COFFER_NVIDIA_TESTING_H
#define COFFER_NVIDIA_TESTING_H

#include <openssl/ecdsa.h>
#include <openssl/ocsp.h>

#include "appraise/nvidia.h"
#include "appraise/pki_testing.h"

struct nv_world {
    struct pki root, line, provisioner, device, leaf;
};

struct nv_opts {
    const char *leaf_cn, *device_cn; /* NULL: a GH100's */
    const char *fwid_oid;            /* NULL: 2.23.133.5.4.1; "": no such extension */
    int tcb_info;                    /* a DiceTcbInfo under it, not a CompositeDeviceID */
    int critical;                    /* and it is critical */
    const char *unknown;             /* an extension nobody knows, critical */
    const char *leaf_usage;          /* NULL: digitalSignature */
    const char *curve;               /* of the leaf; NULL: P-384 */
    int64_t leaf_not_after_ms;
};

static inline void nv_add(struct buf *b, const void *p, size_t n)
{
    pki_must(buf_add(b, p, n, NULL) == 0);
}

static inline void nv_u8(struct buf *b, unsigned v)
{
    uint8_t x = (uint8_t)v;

    nv_add(b, &x, 1);
}

static inline void nv_u16(struct buf *b, size_t v)
{
    nv_u8(b, (unsigned)(v & 0xff));
    nv_u8(b, (unsigned)(v >> 8 & 0xff));
}

static inline void nv_fwid(struct buf *b, uint8_t fill)
{
    static const uint8_t head[] = {0x30, 0x3d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                   0x65, 0x03, 0x04, 0x02, 0x02, 0x04, 0x30};
    uint8_t digest[NVIDIA_FWID_BYTES];

    memset(digest, fill, sizeof(digest));
    nv_add(b, head, sizeof(head));
    nv_add(b, digest, sizeof(digest));
}

#define NV_FWID 0xf1

static inline struct buf nv_fwid_extension(int tcb_info)
{
    struct buf b = BUF_INIT(512);

    if (tcb_info) { /* vendor [0], fwids [6] with a second one that is empty */
        nv_add(&b, "\x30\x81\x83\x80\x01N\xa6\x7e", 8);
        nv_fwid(&b, NV_FWID);
        nv_fwid(&b, 0);
    } else { /* version, an empty key, FWID */
        nv_add(&b, "\x30\x44\x02\x01\x01\x30\x00", 7);
        nv_fwid(&b, NV_FWID);
    }
    return b;
}

static inline struct pki nv_ca(const char *cn, const struct pki *issuer, long serial)
{
    return pki_make(&(struct pki_opts){.cn = cn,
                                       .issuer = issuer,
                                       .curve = "P-384",
                                       .md = EVP_sha384(),
                                       .ca = 1,
                                       .serial = serial});
}

static inline void nv_world_new(struct nv_world *w, const struct nv_opts *o)
{
    _cleanup_buf_ struct buf fwid = nv_fwid_extension(o->tcb_info);
    struct pki_ext ext[2];
    size_t n = 0;

    if (!o->fwid_oid || *o->fwid_oid) {
        ext[n++] = (struct pki_ext){.oid = o->fwid_oid ? o->fwid_oid : "2.23.133.5.4.1",
                                    .value = buf_bytes(&fwid),
                                    .critical = o->critical};
    }
    if (o->unknown) {
        ext[n++] = (struct pki_ext){.oid = o->unknown, .value = BYTES("\x05", 2), .critical = 1};
    }
    w->root = nv_ca("Test Device Identity CA", NULL, 1);
    w->line = nv_ca("Test GH100 Identity", &w->root, 2);
    w->provisioner = nv_ca("Test GH100 Provisioner ICA 1", &w->line, 3);
    w->device = nv_ca(o->device_cn ? o->device_cn : "GH100 A01 GSP BROM", &w->provisioner, 4);
    w->leaf = pki_make(&(struct pki_opts){.cn = o->leaf_cn ? o->leaf_cn : "GH100 A01 GSP FMC LF",
                                          .issuer = &w->device,
                                          .curve = o->curve ? o->curve : "P-384",
                                          .md = EVP_sha384(),
                                          .no_basic_constraints = 1,
                                          .key_usage = o->leaf_usage,
                                          .not_after_ms = o->leaf_not_after_ms,
                                          .serial = 5,
                                          .ext = ext,
                                          .n_ext = n});
}

static inline void nv_world_done(struct nv_world *w)
{
    pki_done(&w->leaf);
    pki_done(&w->device);
    pki_done(&w->provisioner);
    pki_done(&w->line);
    pki_done(&w->root);
}

static inline char *nv_chain(const struct nv_world *w)
{
    return xasprintf("%s%s%s%s%s", w->leaf.pem, w->device.pem, w->provisioner.pem, w->line.pem,
                     w->root.pem);
}

/* r || s behind it. */
static inline void nv_sign(struct buf *b, EVP_PKEY *key)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t der[256], r_s[96];
    const uint8_t *p = der;
    size_t n = sizeof(der);

    pki_must(ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha384(), NULL, key) == 1 &&
             EVP_DigestSign(ctx, der, &n, b->p, b->n) == 1);
    EVP_MD_CTX_free(ctx);
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)n);
    pki_must(sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), r_s, 48) == 48 &&
             BN_bn2binpad(ECDSA_SIG_get0_s(sig), r_s + 48, 48) == 48);
    ECDSA_SIG_free(sig);
    nv_add(b, r_s, sizeof(r_s));
}

struct nv_report_opts {
    unsigned blocks; /* 0: 4 */
    uint8_t nonce;   /* every byte of it */
    uint8_t fwid;    /* 0: NV_FWID */
    int no_fwid, no_driver, no_vbios, twice, is_switch;
    size_t first_index; /* 0: 1 */
    size_t value_bytes; /* 0: 48 */
};

static inline void nv_field(struct buf *b, unsigned type, const void *p, size_t n)
{
    nv_u16(b, type);
    nv_u16(b, n);
    nv_add(b, p, n);
}

static inline struct buf nv_unsigned(const struct nv_report_opts *o)
{
    struct buf b = BUF_INIT(1u << 16), opaque = BUF_INIT(1u << 12);
    size_t blocks = o->blocks ? o->blocks : 4, value = o->value_bytes ? o->value_bytes : 48;
    uint8_t nonce[NVIDIA_NONCE_BYTES], fwid[NVIDIA_FWID_BYTES];

    memset(nonce, o->nonce, sizeof(nonce));
    memset(fwid, o->fwid ? o->fwid : NV_FWID, sizeof(fwid));
    nv_add(&b, "\x11\xe0\x01\xff", 4);
    nv_add(&b, nonce, sizeof(nonce));
    nv_u8(&b, 0);
    nv_add(&b, "\x11\x60\x00\x00", 4);
    nv_u8(&b, (unsigned)blocks);
    nv_u16(&b, blocks * (value + 7));
    nv_u8(&b, 0);
    for (size_t i = 0; i < blocks; i++) {
        nv_u8(&b, (unsigned)((o->first_index ? o->first_index : 1) + i));
        nv_u8(&b, 1);
        nv_u16(&b, value + 3);
        nv_u8(&b, (unsigned)i);
        nv_u16(&b, value);
        for (size_t k = 0; k < value; k++) {
            nv_u8(&b, (unsigned)i);
        }
    }
    if (!o->no_vbios) {
        nv_field(&opaque, NVIDIA_FIELD_VBIOS_VERSION,
                 o->is_switch ? "96.10.55.00.01" : "\x00\xa5\x00\x96\x01\x00\x00",
                 o->is_switch ? 14 : 8);
    }
    if (!o->no_driver) {
        nv_field(&opaque, NVIDIA_FIELD_DRIVER_VERSION, "590.12", 7);
    }
    if (!o->no_fwid) {
        nv_field(&opaque, NVIDIA_FIELD_FWID, fwid, sizeof(fwid));
    }
    if (o->twice) {
        nv_field(&opaque, NVIDIA_FIELD_DRIVER_VERSION, "590.13", 7);
    }
    memset(nonce, 0x77, sizeof(nonce));
    nv_add(&b, nonce, sizeof(nonce));
    nv_u16(&b, opaque.n);
    nv_add(&b, opaque.p, opaque.n);
    buf_done(&opaque);
    return b;
}

static inline struct buf nv_report(const struct nv_world *w, const struct nv_report_opts *o)
{
    struct buf b = nv_unsigned(o);

    nv_sign(&b, w->leaf.key);
    return b;
}

struct nv_ocsp_opts {
    const struct pki *about, *issuer;
    const struct pki *signer; /* NULL: the issuer */
    int status, reason;       /* V_OCSP_CERTSTATUS_GOOD is 0 */
    long age_s;               /* of the answer, of a day's life */
};

static inline struct buf nv_ocsp(const struct nv_ocsp_opts *o)
{
    struct buf b = BUF_INIT(1u << 16);
    OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
    OCSP_CERTID *id = OCSP_cert_to_id(EVP_sha384(), o->about->x, o->issuer->x);
    const struct pki *by = o->signer ? o->signer : o->issuer;
    time_t from = PKI_NOW_MS / 1000 - o->age_s;
    ASN1_TIME *t = ASN1_GENERALIZEDTIME_set(NULL, from);
    ASN1_TIME *until = ASN1_GENERALIZEDTIME_set(NULL, from + 24 * 3600L);
    uint8_t *der = NULL;

    pki_must(basic && id && t && until &&
             OCSP_basic_add1_status(basic, id, o->status, o->reason,
                                    o->status == V_OCSP_CERTSTATUS_REVOKED ? t : NULL, t, until) &&
             OCSP_basic_sign(basic, by->x, by->key, EVP_sha384(), NULL, 0));
    OCSP_RESPONSE *r = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
    int n = i2d_OCSP_RESPONSE(r, &der);
    pki_must(n > 0);
    nv_add(&b, der, (size_t)n);
    OPENSSL_free(der);
    OCSP_RESPONSE_free(r);
    OCSP_BASICRESP_free(basic);
    OCSP_CERTID_free(id);
    ASN1_TIME_free(t);
    ASN1_TIME_free(until);
    return b;
}

#endif
