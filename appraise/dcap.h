/* The appraisers `tdx` and `sgx`: Intel's DCAP quotes, raw, as hex or base64 text, or as Trustee's
 * clients send them ({"quote":..,"cc_eventlog":..}). */
#ifndef COFFER_DCAP_H
#define COFFER_DCAP_H

#include "appraise/dcap_verify.h"
#include "appraise/needs.h"

int tdx_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e);
int sgx_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e);
/* What Intel's service has for the quote's platform. */
void dcap_needs(struct bytes evidence, struct needs *ret);

/* The claims of a verified quote; new reference. */
json_t *dcap_claims(const struct dcap_quote *q, const struct dcap_result *r, int64_t now_ms);
/* What follows from a verified quote for vector, TCB status, advisories and unchecked; `claims` is
 * taken. */
void dcap_conclude(const struct dcap_quote *q, const struct dcap_result *r, int64_t now_ms,
                   json_t *claims, struct appraisal *ret);

#endif
