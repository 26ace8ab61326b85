/* Intel SGX and TDX DCAP quotes, versions 3, 4 and 5 ("Intel TDX DCAP Quote Generation Library and
 * Quote Verification Library", appendix A; as Intel's QVL parses them). A parsed quote is views
 * into the bytes it was parsed from.
 */
#ifndef COFFER_DCAP_QUOTE_H
#define COFFER_DCAP_QUOTE_H

#include "common/buf.h"

#define DCAP_TEE_SGX 0u
#define DCAP_TEE_TDX 0x81u

enum dcap_body {
    DCAP_BODY_SGX = 1,     /* enclave report, 384 bytes */
    DCAP_BODY_TD_10 = 2,   /* TD report 1.0, 584 */
    DCAP_BODY_TD_15 = 3,   /* TD report 1.5, 648 */
    DCAP_BODY_TD_15EX = 4, /* TD report 1.5 extended, 885 */
};

#define SGX_REPORT_BYTES 384u

/* Offsets in an enclave report. */
#define SGX_CPUSVN 0u
#define SGX_MISCSELECT 16u
#define SGX_EXT_PRODID 32u
#define SGX_ATTRIBUTES 48u
#define SGX_MRENCLAVE 64u
#define SGX_MRSIGNER 128u
#define SGX_CONFIGID 192u
#define SGX_ISVPRODID 256u
#define SGX_ISVSVN 258u
#define SGX_CONFIGSVN 260u
#define SGX_FAMILYID 304u
#define SGX_REPORTDATA 320u

/* Offsets in a TD report. */
#define TD_TCB_SVN 0u
#define TD_MRSEAM 16u
#define TD_MRSIGNERSEAM 64u
#define TD_SEAMATTRIBUTES 112u
#define TD_ATTRIBUTES 120u
#define TD_XFAM 128u
#define TD_MRTD 136u
#define TD_MRCONFIGID 184u
#define TD_MROWNER 232u
#define TD_MROWNERCONFIG 280u
#define TD_RTMR0 328u /* four of 48 bytes */
#define TD_REPORTDATA 520u
#define TD_TCB_SVN_2 584u /* from 1.5 */
#define TD_MRSERVICETD 600u

/* Certification data (types of the same document). */
enum dcap_cert_type {
    DCAP_CERT_PPID = 1,
    DCAP_CERT_PPID_RSA2048 = 2,
    DCAP_CERT_PPID_RSA3072 = 3,
    DCAP_CERT_PCK_LEAF = 4,
    DCAP_CERT_PCK_CHAIN = 5,
    DCAP_CERT_QE_REPORT = 6,
};

struct dcap_quote {
    uint16_t version;
    uint32_t tee; /* DCAP_TEE_SGX or DCAP_TEE_TDX */
    uint16_t key_type, qe_svn, pce_svn;
    const uint8_t *vendor_id; /* 16 */
    const uint8_t *user_data; /* 20 */
    struct bytes header;      /* 48 */
    enum dcap_body body_type;
    struct bytes body;
    struct bytes signed_part;    /* header to the end of the body */
    const uint8_t *signature;    /* 64: r || s of the attestation key over signed_part */
    const uint8_t *ak;           /* 64: x || y of the attestation key */
    const uint8_t *qe_report;    /* 384 */
    const uint8_t *qe_signature; /* 64: of the PCK key over qe_report */
    struct bytes qe_auth;
    enum dcap_cert_type cert_type;
    struct bytes cert_data;
};

/* Every length must be exactly what its place says. What follows behind the quote is no part of it
 * and ignored, as the QVL does: real ones come in larger buffers. ERR_INVALID, ERR_UNSUPPORTED with
 * a clause "evidence.quote...". */
int dcap_quote_parse(struct bytes in, struct dcap_quote *ret, struct err *e);

/* 64 bytes. */
static inline const uint8_t *dcap_report_data(const struct dcap_quote *q)
{
    return q->body.p + (q->body_type == DCAP_BODY_SGX ? SGX_REPORTDATA : TD_REPORTDATA);
}

static inline uint16_t dcap_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t dcap_u32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#endif
