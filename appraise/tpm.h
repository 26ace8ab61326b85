/* TPM 2.0 structures as a verifier needs them (TPM 2.0 Library, Part 2): read from outside bytes,
 * all of them, and signatures over them. No policy: what is good enough is the appraiser's affair.
 * What is parsed borrows from its input. All errors are ERR_INVALID unless said otherwise. */
#ifndef COFFER_TPM_H
#define COFFER_TPM_H

#include "common/buf.h"

#define TPM_ALG_RSA 0x0001u
#define TPM_ALG_SHA1 0x0004u
#define TPM_ALG_AES 0x0006u
#define TPM_ALG_SHA256 0x000bu
#define TPM_ALG_SHA384 0x000cu
#define TPM_ALG_SHA512 0x000du
#define TPM_ALG_NULL 0x0010u
#define TPM_ALG_RSASSA 0x0014u
#define TPM_ALG_RSAPSS 0x0016u
#define TPM_ALG_ECDSA 0x0018u
#define TPM_ALG_ECC 0x0023u
#define TPM_ALG_CFB 0x0043u

#define TPM_ECC_P256 0x0003u
#define TPM_ECC_P384 0x0004u

/* TPMA_OBJECT */
#define TPM_FIXED_TPM (1u << 1)
#define TPM_FIXED_PARENT (1u << 4)
#define TPM_SENSITIVE_DATA_ORIGIN (1u << 5)
#define TPM_RESTRICTED (1u << 16)
#define TPM_DECRYPT (1u << 17)
#define TPM_SIGN (1u << 18)

#define TPM_MAX_DIGEST 64
#define TPM_NAME_MAX (2 + TPM_MAX_DIGEST)
#define TPM_MAX_SELECTIONS 8
#define TPM_PCRS 24

/* ---- reading: big-endian, never past the end; `bad` once something did not fit ---- */
struct tpm_reader {
    const uint8_t *p;
    size_t n;
    int bad;
};
uint8_t tpm_u8(struct tpm_reader *r);
uint16_t tpm_u16(struct tpm_reader *r);
uint32_t tpm_u32(struct tpm_reader *r);
uint64_t tpm_u64(struct tpm_reader *r);
/* n bytes; empty, and bad, when there are fewer. */
struct bytes tpm_take(struct tpm_reader *r, size_t n);
/* A TPM2B of at most max bytes. */
struct bytes tpm_take2b(struct tpm_reader *r, size_t max);

/* Bytes of a digest of that TPM_ALG; 0 for one that is not known here. */
size_t tpm_digest_bytes(uint16_t alg);
/* ERR_UNSUPPORTED for an algorithm that is not known here. */
int tpm_hash(uint16_t alg, struct bytes in, uint8_t ret[TPM_MAX_DIGEST], size_t *ret_n,
             struct err *e);

/* ---- TPMT_PUBLIC of a key ---- */
struct tpm_public {
    struct bytes whole;      /* what the name is the hash of */
    uint16_t type, name_alg; /* TPM_ALG_RSA or TPM_ALG_ECC */
    uint32_t attributes;
    struct bytes policy;
    uint16_t scheme, scheme_hash; /* TPM_ALG_NULL: any */
    uint16_t rsa_bits, curve;
    uint32_t rsa_exponent; /* 65537 where it says 0 */
    struct bytes rsa_n, ecc_x, ecc_y;
};
/* Exactly one TPMT_PUBLIC; one with a TPM2B's length before it is not taken. ERR_UNSUPPORTED for
 * keys other than RSA and ECC on P-256 and P-384. */
int tpm_public_parse(struct bytes in, struct tpm_public *ret, struct err *e);
/* nameAlg || H(whole). */
int tpm_name(const struct tpm_public *pub, uint8_t ret[TPM_NAME_MAX], size_t *ret_n, struct err *e);

/* ---- TPMS_ATTEST of a quote ---- */
#define TPM_GENERATED 0xff544347u
#define TPM_ST_QUOTE 0x8018u
struct tpm_selection {
    uint16_t hash;
    uint32_t pcrs; /* bit n: PCR n */
};
struct tpm_quote {
    struct bytes qualified_signer, extra;
    uint64_t clock, firmware;
    uint32_t reset_count, restart_count;
    int safe;
    struct tpm_selection selections[TPM_MAX_SELECTIONS];
    size_t n_selections;
    struct bytes pcr_digest;
};
int tpm_quote_parse(struct bytes in, struct tpm_quote *ret, struct err *e);

/* ---- TPMT_SIGNATURE ---- */
struct tpm_signature {
    uint16_t scheme, hash;
    struct bytes rsa, r, s;
};
int tpm_signature_parse(struct bytes in, struct tpm_signature *ret, struct err *e);
/* By that key, under the scheme and hash that the key is bound to (any of RSASSA, RSAPSS, ECDSA
 * with SHA-256, 384, 512 when it is bound to none). SHA-1 only with allow_sha1, which is for old
 * recordings. ERR_BAD_SIGNATURE; ERR_UNSUPPORTED. */
int tpm_signature_verify(const struct tpm_public *key, const struct tpm_signature *sig,
                         struct bytes message, int allow_sha1, struct err *e);

#endif
