#include "appraise/tpm.h"

#include <openssl/evp.h>

#define RSA_MAX_BYTES 512u
#define POLICY_MAX_BYTES TPM_MAX_DIGEST
#define EXTRA_MAX_BYTES 66u /* TPM2B_DATA: a TPMT_HA */

/* ---- reading ---- */

struct bytes tpm_take(struct tpm_reader *r, size_t n)
{
    if (r->bad || n > r->n) {
        r->bad = 1;
        return BYTES("", 0);
    }
    struct bytes got = BYTES(r->p, n);
    r->p += n;
    r->n -= n;
    return got;
}

static uint64_t take_int(struct tpm_reader *r, size_t n)
{
    struct bytes b = tpm_take(r, n);
    uint64_t v = 0;

    for (size_t i = 0; i < b.n; i++) {
        v = v << 8 | b.p[i];
    }
    return v;
}

uint8_t tpm_u8(struct tpm_reader *r)
{
    return (uint8_t)take_int(r, 1);
}

uint16_t tpm_u16(struct tpm_reader *r)
{
    return (uint16_t)take_int(r, 2);
}

uint32_t tpm_u32(struct tpm_reader *r)
{
    return (uint32_t)take_int(r, 4);
}

uint64_t tpm_u64(struct tpm_reader *r)
{
    return take_int(r, 8);
}

struct bytes tpm_take2b(struct tpm_reader *r, size_t max)
{
    uint16_t n = tpm_u16(r);

    if (n > max) {
        r->bad = 1;
    }
    return tpm_take(r, n);
}

/* ---- digests ---- */

static const EVP_MD *digest_of(uint16_t alg)
{
    switch (alg) {
    case TPM_ALG_SHA1:
        return EVP_sha1();
    case TPM_ALG_SHA256:
        return EVP_sha256();
    case TPM_ALG_SHA384:
        return EVP_sha384();
    case TPM_ALG_SHA512:
        return EVP_sha512();
    }
    return NULL;
}

size_t tpm_digest_bytes(uint16_t alg)
{
    const EVP_MD *md = digest_of(alg);

    return md ? (size_t)EVP_MD_get_size(md) : 0;
}

int tpm_hash(uint16_t alg, struct bytes in, uint8_t ret[TPM_MAX_DIGEST], size_t *ret_n,
             struct err *e)
{
    const EVP_MD *md = digest_of(alg);
    unsigned n = 0;

    if (!md) {
        return err_set(e, ERR_UNSUPPORTED, "expected SHA-1, 256, 384 or 512, found hash 0x%04x",
                       alg);
    }
    if (EVP_Digest(in.p, in.n, ret, &n, md, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash");
    }
    *ret_n = n;
    return 0;
}

/* ---- TPMT_PUBLIC ---- */

/* TPMT_SYM_DEF_OBJECT: NULL for a signing key, AES-n-mode for a storage key. */
static void take_symmetric(struct tpm_reader *r)
{
    if (tpm_u16(r) != TPM_ALG_NULL) {
        tpm_u16(r); /* bits */
        tpm_u16(r); /* mode */
    }
}

static void take_scheme(struct tpm_reader *r, struct tpm_public *pub)
{
    pub->scheme = tpm_u16(r);
    pub->scheme_hash = pub->scheme == TPM_ALG_NULL ? TPM_ALG_NULL : tpm_u16(r);
}

static void take_rsa(struct tpm_reader *r, struct tpm_public *pub)
{
    take_symmetric(r);
    take_scheme(r, pub);
    pub->rsa_bits = tpm_u16(r);
    pub->rsa_exponent = tpm_u32(r);
    pub->rsa_exponent = pub->rsa_exponent ? pub->rsa_exponent : 65537;
    pub->rsa_n = tpm_take2b(r, RSA_MAX_BYTES);
}

static size_t curve_bytes(uint16_t curve)
{
    return curve == TPM_ECC_P256 ? 32 : curve == TPM_ECC_P384 ? 48 : 0;
}

static void take_ecc(struct tpm_reader *r, struct tpm_public *pub)
{
    take_symmetric(r);
    take_scheme(r, pub);
    pub->curve = tpm_u16(r);
    if (tpm_u16(r) != TPM_ALG_NULL) { /* kdf */
        tpm_u16(r);
    }
    pub->ecc_x = tpm_take2b(r, curve_bytes(pub->curve));
    pub->ecc_y = tpm_take2b(r, curve_bytes(pub->curve));
}

static int check_public(const struct tpm_reader *r, const struct tpm_public *pub, struct err *e)
{
    if (pub->type == TPM_ALG_ECC && !r->bad && !curve_bytes(pub->curve)) {
        return err_set(e, ERR_UNSUPPORTED, "TPMT_PUBLIC: expected curve P-256 or P-384, found %u",
                       pub->curve);
    }
    if (r->bad || r->n) {
        return err_set(e, ERR_INVALID, "TPMT_PUBLIC: expected one and nothing else, %s",
                       r->bad ? "found the end inside of it" : "found more bytes");
    }
    if (pub->type == TPM_ALG_RSA && pub->rsa_n.n * 8 != pub->rsa_bits) {
        return err_set(e, ERR_INVALID, "TPMT_PUBLIC: expected a modulus of %u bits, found %zu",
                       pub->rsa_bits, pub->rsa_n.n * 8);
    }
    if (pub->type == TPM_ALG_RSA && (pub->rsa_bits < 2048 || !(pub->rsa_n.p[0] & 0x80))) {
        return err_set(e, ERR_UNSUPPORTED, "TPMT_PUBLIC: expected an RSA key of 2048 bits or more");
    }
    if (!tpm_digest_bytes(pub->name_alg) || pub->name_alg == TPM_ALG_SHA1) {
        return err_set(e, ERR_UNSUPPORTED,
                       "TPMT_PUBLIC: expected a name of SHA-256, 384 or 512, found hash 0x%04x",
                       pub->name_alg);
    }
    return 0;
}

int tpm_public_parse(struct bytes in, struct tpm_public *ret, struct err *e)
{
    struct tpm_reader r = {.p = in.p, .n = in.n};
    struct tpm_public pub = {.whole = in};

    pub.type = tpm_u16(&r);
    pub.name_alg = tpm_u16(&r);
    pub.attributes = tpm_u32(&r);
    pub.policy = tpm_take2b(&r, POLICY_MAX_BYTES);
    if (!r.bad && pub.type != TPM_ALG_RSA && pub.type != TPM_ALG_ECC) {
        return err_set(e, ERR_UNSUPPORTED, "TPMT_PUBLIC: expected an RSA or ECC key, found 0x%04x",
                       pub.type);
    }
    if (pub.type == TPM_ALG_RSA) {
        take_rsa(&r, &pub);
    } else {
        take_ecc(&r, &pub);
    }
    if (check_public(&r, &pub, e)) {
        return -1;
    }
    *ret = pub;
    return 0;
}

int tpm_name(const struct tpm_public *pub, uint8_t ret[TPM_NAME_MAX], size_t *ret_n, struct err *e)
{
    size_t n;

    if (tpm_hash(pub->name_alg, pub->whole, ret + 2, &n, e)) {
        return -1;
    }
    ret[0] = (uint8_t)(pub->name_alg >> 8);
    ret[1] = (uint8_t)pub->name_alg;
    *ret_n = n + 2;
    return 0;
}

/* ---- TPMS_ATTEST ---- */

static void take_selections(struct tpm_reader *r, struct tpm_quote *q)
{
    uint32_t n = tpm_u32(r);

    if (n > TPM_MAX_SELECTIONS) {
        r->bad = 1;
        return;
    }
    for (q->n_selections = 0; q->n_selections < n && !r->bad; q->n_selections++) {
        struct tpm_selection *s = &q->selections[q->n_selections];
        s->hash = tpm_u16(r);
        uint8_t size = tpm_u8(r);
        if (size > TPM_PCRS / 8) {
            r->bad = 1;
        }
        struct bytes map = tpm_take(r, size);
        for (size_t i = 0; i < map.n; i++) {
            s->pcrs |= (uint32_t)map.p[i] << (8 * i);
        }
    }
}

int tpm_quote_parse(struct bytes in, struct tpm_quote *ret, struct err *e)
{
    struct tpm_reader r = {.p = in.p, .n = in.n};
    struct tpm_quote q = {0};
    uint32_t magic = tpm_u32(&r);
    uint16_t type = tpm_u16(&r);
    uint8_t safe;

    if (!r.bad && magic != TPM_GENERATED) {
        return err_set(e, ERR_INVALID, "TPMS_ATTEST: expected TPM_GENERATED, found 0x%08x", magic);
    }
    if (!r.bad && type != TPM_ST_QUOTE) {
        return err_set(e, ERR_INVALID, "TPMS_ATTEST: expected a quote (0x8018), found 0x%04x",
                       type);
    }
    q.qualified_signer = tpm_take2b(&r, TPM_NAME_MAX);
    q.extra = tpm_take2b(&r, EXTRA_MAX_BYTES);
    q.clock = tpm_u64(&r);
    q.reset_count = tpm_u32(&r);
    q.restart_count = tpm_u32(&r);
    safe = tpm_u8(&r);
    q.safe = safe == 1;
    q.firmware = tpm_u64(&r);
    take_selections(&r, &q);
    q.pcr_digest = tpm_take2b(&r, TPM_MAX_DIGEST);
    if (r.bad || r.n || safe > 1) {
        return err_set(e, ERR_INVALID, "TPMS_ATTEST: expected one quote and nothing else, %s",
                       r.bad      ? "found the end inside of it, or a length out of bounds"
                       : safe > 1 ? "found a clock that is neither safe nor not"
                                  : "found more bytes");
    }
    *ret = q;
    return 0;
}

/* ---- TPMT_SIGNATURE ---- */

int tpm_signature_parse(struct bytes in, struct tpm_signature *ret, struct err *e)
{
    struct tpm_reader r = {.p = in.p, .n = in.n};
    struct tpm_signature s = {0};

    s.scheme = tpm_u16(&r);
    s.hash = tpm_u16(&r);
    if (s.scheme == TPM_ALG_RSASSA || s.scheme == TPM_ALG_RSAPSS) {
        s.rsa = tpm_take2b(&r, RSA_MAX_BYTES);
    } else if (s.scheme == TPM_ALG_ECDSA) {
        s.r = tpm_take2b(&r, curve_bytes(TPM_ECC_P384));
        s.s = tpm_take2b(&r, curve_bytes(TPM_ECC_P384));
    } else if (!r.bad) {
        return err_set(e, ERR_UNSUPPORTED,
                       "TPMT_SIGNATURE: expected RSASSA, RSAPSS or ECDSA, found 0x%04x", s.scheme);
    }
    if (r.bad || r.n) {
        return err_set(e, ERR_INVALID, "TPMT_SIGNATURE: expected one and nothing else, %s",
                       r.bad ? "found the end inside of it" : "found more bytes");
    }
    *ret = s;
    return 0;
}
