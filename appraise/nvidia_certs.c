#include "appraise/nvidia_certs.h"

#include <openssl/x509v3.h>

/* What TCG's DICE profiles put into certificates; looked at by nvidia_leaf_fwid or of no matter
 * here (UEID, the parts of a multi-TCB). */
static const char *const dice_extensions[] = {"2.23.133.5.4.1", "2.23.133.5.4.1.1",
                                              "2.23.133.5.4.4", "2.23.133.5.4.5", NULL};

/* NVIDIA Device Identity CA, 2021 to 9999
 * SHA-256 102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48 */
static const char device_root[] =
    "MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIwIAYDVQQDDBlOVklESUEgRGV2"
    "aWNlIElkZW50aXR5IENBMQ8wDQYDVQQKDAZOVklESUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEyMzU5NTla"
    "MDUxIjAgBgNVBAMMGU5WSURJQSBEZXZpY2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2MBAGByqGSM49"
    "AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW9NDZF8SXgAW96r6u/Ve8ZggtcYpPi2BS4VFu6KfE"
    "IrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEwDwYDVR0TAQH/BAUwAwEB/zAO"
    "BgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8GA1UdIwQYMBaAFFeF/4PyY8xl"
    "fWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3TASsKQVaT+8S0sO9u97PVGCpE9d/I42IT7k3UUOL"
    "SR/qvJynVOD1vQKVXf0CMQC+EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA=";

static const struct {
    const char *cn; /* how the leaf's and the device's common names begin */
    enum nvidia_arch arch;
} chips[] = {
    {"GH100 ", NVIDIA_HOPPER}, {"GB1", NVIDIA_BLACKWELL}, {"GB2", NVIDIA_BLACKWELL},
    {"LS_10 ", NVIDIA_LS10},   {"LS10 ", NVIDIA_LS10},
};

const char *nvidia_arch_name(enum nvidia_arch a)
{
    static const char *const names[NVIDIA_ARCH_N] = {"HOPPER", "BLACKWELL", "LS10"};

    return (unsigned)a < NVIDIA_ARCH_N ? names[a] : "";
}

int nvidia_is_switch(enum nvidia_arch a)
{
    return a == NVIDIA_LS10;
}

/* ---- roots ---- */

void nvidia_anchors_done(struct nvidia_anchors *a)
{
    if (a->root) {
        cert_unref(a->root);
    }
    *a = (struct nvidia_anchors){0};
}

int nvidia_anchors(struct certs *store, const struct appraisal_policy *policy,
                   struct nvidia_anchors *ret, struct err *e)
{
    _cleanup_buf_ struct buf der = BUF_INIT(CERT_MAX_BYTES);
    struct nvidia_anchors a = {0};
    struct cert *root;

    if (b64_decode(device_root, sizeof(device_root) - 1, &der, e) ||
        certs_add_der(store, "root", buf_bytes(&der), &root, e)) {
        return -1;
    }
    a.v[a.n++] = a.root = cert_ref(root);
    for (size_t i = 0; policy && i < policy->n_roots && a.n < NVIDIA_ANCHORS_MAX; i++) {
        a.v[a.n++] = policy->roots[i];
    }
    *ret = a;
    return 0;
}

/* ---- chains ---- */

static int arch_of(const struct cert *c, enum nvidia_arch *ret)
{
    char cn[128];

    cert_subject_cn(c, cn);
    for (size_t i = 0; i < ARRAY_LEN(chips); i++) {
        if (strncmp(cn, chips[i].cn, strlen(chips[i].cn)) == 0) {
            *ret = chips[i].arch;
            return 0;
        }
    }
    return -1;
}

static int is_ca(const struct cert *c)
{
    return X509_check_ca(c->x) != 0;
}

int nvidia_is_leaf(const struct cert *c)
{
    enum nvidia_arch arch;

    return arch_of(c, &arch) == 0 && !is_ca(c);
}

void nvidia_chain_close(struct nvidia_chain *c, const struct nvidia_anchors *anchors)
{
    const struct cert *last = c->n ? c->v[c->n - 1] : NULL;

    if (!last || c->n == CERT_CHAIN_MAX || cert_names_issuer(last, last)) {
        return;
    }
    for (size_t i = 0; i < anchors->n; i++) {
        if (cert_names_issuer(last, anchors->v[i])) {
            c->v[c->n++] = (struct cert *)(uintptr_t)anchors->v[i];
            return;
        }
    }
}

static struct cert *issuer_in(const struct collateral *c, size_t first, const struct cert *of)
{
    for (size_t i = first; i < collateral_n(c); i++) {
        const struct item *x = collateral_at(c, i);
        if (x->kind == ITEM_CERT && x->cert != of && cert_names_issuer(of, x->cert)) {
            return x->cert;
        }
    }
    return NULL;
}

void nvidia_chain_collect(const struct collateral *c, size_t first, size_t at,
                          const struct nvidia_anchors *anchors, struct nvidia_chain *ret)
{
    struct nvidia_chain chain = {.n = 1, .v = {collateral_at(c, at)->cert}};

    while (chain.n < CERT_CHAIN_MAX) {
        struct cert *last = chain.v[chain.n - 1];
        struct cert *up = cert_names_issuer(last, last) ? NULL : issuer_in(c, first, last);
        if (!up) {
            break;
        }
        chain.v[chain.n++] = up;
    }
    nvidia_chain_close(&chain, anchors);
    *ret = chain;
}

static int check_names(struct nvidia_chain *c, struct err *e)
{
    enum nvidia_arch leaf, device;
    char cn[128];

    if (c->n < 3) {
        return err_refuse(e, ERR_INVALID, "evidence.chain",
                          "leaf, device, and the way up to the root", "%zu certificates", c->n);
    }
    cert_subject_cn(c->v[0], cn);
    if (arch_of(c->v[0], &leaf)) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.chain[0].subject",
                          "a GH100, GB100, GB200 or LS10", "%s", cn);
    }
    cert_subject_cn(c->v[1], cn);
    if (arch_of(c->v[1], &device) || device != leaf) {
        return err_refuse(e, ERR_DENIED, "evidence.chain.device", nvidia_arch_name(leaf), "%s", cn);
    }
    c->arch = leaf;
    return 0;
}

int nvidia_chain_verify(struct certs *store, struct nvidia_chain *c,
                        const struct nvidia_anchors *anchors, int64_t at_ms, struct err *e)
{
    const struct chain_rules rules = {.what = "evidence.chain",
                                      .at_ms = at_ms,
                                      .anchors = anchors->v,
                                      .n_anchors = anchors->n,
                                      .critical = dice_extensions};

    if (chain_verify(store, &rules, c->v, c->n, e)) {
        return -1;
    }
    if (!(X509_get_key_usage(c->v[0]->x) & KU_DIGITAL_SIGNATURE)) {
        return err_refuse(e, ERR_DENIED, "evidence.chain[0].key_usage", "digitalSignature",
                          "not allowed to");
    }
    return check_names(c, e);
}

/* ---- FWID ---- */

/* The contents of the TLV at the head of *b, which moves behind it. DER with lengths of at most two
 * bytes, as extensions here have. */
static int tlv(struct bytes *b, uint8_t tag, struct bytes *ret)
{
    size_t head = 2, n;

    if (b->n < 2 || b->p[0] != tag) {
        return -1;
    }
    n = b->p[1];
    if (n >= 0x80) {
        size_t more = n & 0x7f;
        if (!more || more > 2 || b->n < 2 + more) {
            return -1;
        }
        n = more == 1 ? b->p[2] : (size_t)b->p[2] << 8 | b->p[3];
        head += more;
    }
    if (n > b->n - head) {
        return -1;
    }
    *ret = BYTES(b->p + head, n);
    b->p += head + n;
    b->n -= head + n;
    return 0;
}

/* FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }, with SHA-384. */
static int take_fwid(struct bytes *b, const uint8_t **ret)
{
    static const uint8_t sha384[] = {0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02};
    struct bytes fwid, oid, digest;

    if (tlv(b, 0x30, &fwid) || tlv(&fwid, 0x06, &oid) || tlv(&fwid, 0x04, &digest) || fwid.n ||
        oid.n != sizeof(sha384) || memcmp(oid.p, sha384, sizeof(sha384)) != 0 ||
        digest.n != NVIDIA_FWID_BYTES) {
        return -1;
    }
    *ret = digest.p;
    return 0;
}

/* CompositeDeviceID ::= SEQUENCE { version INTEGER, deviceID SubjectPublicKeyInfo, fwid FWID } */
static int composite_fwid(struct bytes ext, const uint8_t **ret)
{
    struct bytes seq, skip;

    return tlv(&ext, 0x30, &seq) || ext.n || tlv(&seq, 0x02, &skip) || tlv(&seq, 0x30, &skip) ||
                   take_fwid(&seq, ret) || seq.n
               ? -1
               : 0;
}

/* DiceTcbInfo ::= SEQUENCE { ..., fwids [6] IMPLICIT SEQUENCE OF FWID OPTIONAL, ... } */
static int tcb_info_fwid(struct bytes ext, const uint8_t **ret)
{
    struct bytes seq, part;

    if (tlv(&ext, 0x30, &seq) || ext.n) {
        return -1;
    }
    while (seq.n) {
        uint8_t tag = seq.p[0];
        if (tlv(&seq, tag, &part)) {
            return -1;
        }
        if (tag == 0xa6) {
            return take_fwid(&part, ret);
        }
    }
    return -1;
}

int nvidia_leaf_fwid(const struct cert *leaf, const uint8_t **ret, struct err *e)
{
    struct bytes composite = cert_extension(leaf, "2.23.133.5.4.1");
    struct bytes info = cert_extension(leaf, "2.23.133.5.4.1.1");

    if (composite.n ? composite_fwid(composite, ret) == 0 || tcb_info_fwid(composite, ret) == 0
                    : info.n && tcb_info_fwid(info, ret) == 0) {
        return 0;
    }
    return err_refuse(e, ERR_INVALID, "evidence.chain[0].fwid",
                      "a SHA-384 FWID in extension 2.23.133.5.4.1",
                      composite.n || info.n ? "an extension of another form" : "none");
}
