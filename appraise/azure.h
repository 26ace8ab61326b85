/* Azure's confidential VMs: the paravisor (HCL) has the CPU sign a digest of its run-time data,
 * which names the virtual TPM's attestation key; that key signs quotes with the challenge's nonce.
 */
#ifndef COFFER_AZURE_H
#define COFFER_AZURE_H

#include "appraise/appraiser.h"
#include "appraise/snp_certs.h"
#include "appraise/tpm_quote.h"

#define AZURE_HCL_MAX_BYTES 8192u
#define AZURE_TD_REPORT_BYTES 1024u

enum azure_kind { AZURE_SNP = 2, AZURE_TDX = 4 };

/* Borrowed from what was parsed. */
struct azure_hcl {
    enum azure_kind kind;
    struct bytes report;        /* SNP report, or TDREPORT */
    struct bytes var_data;      /* JSON */
    const uint8_t *report_data; /* 64 bytes, of the report */
};

/* Header, report area and run-time data: each length is checked; what is behind the run-time data
 * is not looked at. Then the binding: the report data begin with the SHA-256 of the run-time data
 * and end with zeros. ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED "evidence.hcl_report...";
 * ERR_DENIED "evidence.var_data". Believe it only once the report data are known to be the
 * CPU's. */
int azure_hcl_parse(struct bytes in, struct azure_hcl *ret, struct err *e);
/* The key named HCLAkPub. *ret_json: the run-time data, owned. ERR_INVALID "evidence.var_data". */
int azure_hcl_ak(const struct azure_hcl *h, struct tpm_ak *ret, json_t **ret_json, struct err *e);

/* Trustee's {"tpm_quote","hcl_report","vcek"|"td_quote"} in its versions 0, 1 and 2, by itself or
 * as "evidence" of an object with a "platform". */
int az_snp_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e);
int az_tdx_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e);
/* As az_snp_appraise, by other roots than AMD's. */
int az_snp_appraise_by(const struct appraisal_input *in, const struct snp_roots *roots,
                       struct appraisal *ret, struct err *e);
/* What AMD's or Intel's service has for the report within. */
void az_snp_needs(struct bytes evidence, struct needs *ret);
void az_tdx_needs(struct bytes evidence, struct needs *ret);

#endif
