/* Intel's TCB info, and a platform evaluated by it. */
#include <stdint.h>

#include "appraise/dcap_tcb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t body[885] = {5, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};
    static const uint8_t qe_report[SGX_REPORT_BYTES];
    struct dcap_quote q = {.version = 5, .body = {body, sizeof(body)}, .qe_report = qe_report};
    struct pck pck = {.pce_svn = 13};
    struct tcb_verdict v;
    struct tcb_info *t;
    struct err e = {0};

    if (tcb_info_parse(BYTES(data, size), &t, &e)) {
        if (!e.code || !*e.clause) {
            abort();
        }
        return 0;
    }
    memset(pck.sgx_svn, 7, sizeof(pck.sgx_svn));
    q.tee = t->is_tdx ? DCAP_TEE_TDX : DCAP_TEE_SGX;
    q.body_type = t->is_tdx ? DCAP_BODY_TD_15 : DCAP_BODY_SGX;
    if (tcb_evaluate(t, NULL, &pck, &q, &v, &e) == 0 &&
        (v.status <= TCB_UNVERIFIED || v.status >= TCB_STATUS_N ||
         v.n_advisories > ARRAY_LEN(v.advisories))) {
        abort();
    }
    tcb_info_free(t);
    return 0;
}
