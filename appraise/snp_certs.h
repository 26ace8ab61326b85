/* AMD's certificates for SNP (Versioned Chip Endorsement Key Certificate and KDS Interface
 * Specification, publication 57230): VCEK or VLEK <- ASK or ASVK <- ARK, which is pinned. */
#ifndef COFFER_SNP_CERTS_H
#define COFFER_SNP_CERTS_H

#include "appraise/certs.h"
#include "appraise/snp_report.h"

/* The CA certificates of one product, DER. */
struct snp_issuers {
    struct bytes ark;       /* trusted */
    struct bytes ask, asvk; /* used where neither evidence nor collateral has one */
};
struct snp_roots {
    const struct snp_issuers *of[SNP_PRODUCT_N]; /* NULL for SNP_UNKNOWN */
};
extern const struct snp_issuers snp_issuers_milan, snp_issuers_genoa, snp_issuers_turin;
extern const struct snp_roots snp_amd_roots;

/* What a VCEK or VLEK certificate says. */
struct snp_vek {
    struct cert *cert; /* borrowed */
    enum snp_key kind;
    enum snp_product product;
    struct snp_tcb tcb;
    uint8_t hwid[SNP_CHIP_ID_BYTES];
    size_t hwid_bytes; /* 0: a VLEK */
    char csp[128];     /* of a VLEK: whose it is; "" */
};

/* Is it a VCEK or VLEK by its name? Then *ret_kind. */
int snp_is_vek(const struct cert *c, enum snp_key *ret_kind);
/* Reads names and extensions 1.3.6.1.4.1.3704.1.*, whose values are DER INTEGERs and strings; the
 * HWID stands bare in older certificates, in an OCTET STRING in newer ones. Names, P-384, version
 * and product must agree with each other. ERR_INVALID, ERR_UNSUPPORTED with clauses
 * "evidence.vcek..." or "evidence.vlek...". */
int snp_vek_parse(struct cert *c, struct snp_vek *ret, struct err *e);

/* Certificates and CRLs that may help, in the order they are tried. */
struct snp_aids {
    struct cert *const *certs;
    size_t n_certs;
    struct crl *const *crls;
    size_t n_crls;
};

/* The chain up to the product's ARK of `roots`: names, RSASSA-PSS with SHA-384, dates, constraints,
 * and if there is a CRL of the ARK, that it holds at that time and lists none of them. An
 * intermediate is taken of the aids; if they have none of that kind, of the roots.
 * *ret_crl: which CRL was used, NULL: there was none. ERR_BAD_SIGNATURE, ERR_EXPIRED, ERR_DENIED,
 * ERR_INVALID; clauses "evidence.vek_chain...", "evidence.ask", "collateral.crl...". */
int snp_vek_verify(struct certs *store, const struct snp_vek *vek, const struct snp_aids *aids,
                   const struct snp_roots *roots, int64_t at_ms, const struct crl **ret_crl,
                   struct err *e);

#endif
