#include "appraise/appraiser.h"

#include "appraise/azure.h"
#include "appraise/dcap.h"
#include "appraise/nitro.h"
#include "appraise/nvidia.h"
#include "appraise/tpm_attest.h"
#include "appraise/snp.h"
#include "appraise/vtpm.h"

static const struct appraiser appraisers[] = {
    {.tee = "sample", .appraise = sample_appraise},
    {.tee = "tdx", .appraise = tdx_appraise, .by_policy = 1, .needs = dcap_needs},
    {.tee = "sgx", .appraise = sgx_appraise, .by_policy = 1, .needs = dcap_needs},
    {.tee = "snp", .appraise = snp_appraise, .by_policy = 1, .needs = snp_needs},
    {.tee = "nitro", .appraise = nitro_appraise, .by_policy = 1},
    {.tee = "nvidia", .appraise = nvidia_appraise, .by_policy = 1},
    {.tee = "tpm", .appraise = tpm_appraise, .by_policy = 1},
    {.tee = "az-snp-vtpm", .appraise = az_snp_appraise, .by_policy = 1, .needs = az_snp_needs},
    {.tee = "az-tdx-vtpm", .appraise = az_tdx_appraise, .by_policy = 1, .needs = az_tdx_needs},
    {.tee = "vtpm", .challenge = vtpm_challenge, .appraise = vtpm_appraise},
};

const struct appraiser *appraiser_find(const char *tee)
{
    for (size_t i = 0; i < ARRAY_LEN(appraisers); i++) {
        if (streq(appraisers[i].tee, tee)) {
            return &appraisers[i];
        }
    }
    return NULL;
}

const char *appraiser_names(void)
{
    static char names[ARRAY_LEN(appraisers) * (TEE_NAME_MAX + 2)];

    if (!names[0]) {
        size_t n = 0;
        for (size_t i = 0; i < ARRAY_LEN(appraisers); i++) {
            n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "",
                                  appraisers[i].tee);
        }
    }
    return names;
}

const char *tcb_status_name(enum tcb_status s)
{
    switch (s) {
    case TCB_NONE:
        return "";
    case TCB_UNVERIFIED:
        return "unverified-tcb";
    case TCB_UP_TO_DATE:
        return "UpToDate";
    case TCB_SW_HARDENING_NEEDED:
        return "SWHardeningNeeded";
    case TCB_CONFIGURATION_NEEDED:
        return "ConfigurationNeeded";
    case TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED:
        return "ConfigurationAndSWHardeningNeeded";
    case TCB_OUT_OF_DATE:
        return "OutOfDate";
    case TCB_OUT_OF_DATE_CONFIGURATION_NEEDED:
        return "OutOfDateConfigurationNeeded";
    case TCB_TD_RELAUNCH_ADVISED:
        return "TDRelaunchAdvised";
    case TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED:
        return "TDRelaunchAdvisedConfigurationNeeded";
    case TCB_REVOKED:
        return "Revoked";
    case TCB_NOT_SUPPORTED:
        return "TCB_NOT_SUPPORTED";
    case TCB_STATUS_N:
        break;
    }
    return "";
}

const char *tier_name(enum tier t)
{
    static const char *const names[TIER_N] = {"none", "vtpm", "tpm", "enclave", "hardware"};

    return (unsigned)t < TIER_N ? names[t] : "";
}

void appraisal_done(struct appraisal *a)
{
    json_decref(a->claims);
    json_decref(a->advisories);
    json_decref(a->unchecked);
    a->claims = a->advisories = a->unchecked = NULL;
}
