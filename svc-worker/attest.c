/* One attester for each TEE: how evidence is had from inside of it. */
#include "svc-worker/attest_hw.h"
#include "svc-worker/attest_tpm.h"

#define REPORT_DIGEST_BYTES 48 /* SHA-384; the rest of report_data is zero */

/* Evidence that proves nothing: for tests and for hosts without a TEE. A verifier takes it only
 * when its configuration allows it by name. */
static int sample_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                          struct buf *ret, struct err *e)
{
    _cleanup_free_ char *digest = b64_encode(report_data, REPORT_DIGEST_BYTES);

    (void)state;
    (void)credential;
    return buf_addf(ret, e, "{\"svn\":\"1\",\"report_data\":\"%s\"}", digest);
}

static const struct attester attesters[] = {
    {.name = "sample", .collect = sample_collect},
    {.name = "tdx", .collect = tdx_collect},
    {.name = "snp", .collect = snp_collect},
    {.name = "nitro", .collect = nitro_collect},
    {.name = "sgx", .collect = sgx_collect},
    {.name = "vtpm", .begin = vtpm_begin, .collect = vtpm_collect, .end = vtpm_end},
};

const struct attester *attester_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(attesters); i++) {
        if (streq(attesters[i].name, name)) {
            return &attesters[i];
        }
    }
    return NULL;
}

const char *attester_names(void)
{
    static char names[ARRAY_LEN(attesters) * (TEE_NAME_MAX + 2)];

    if (!names[0]) {
        size_t n = 0;
        for (size_t i = 0; i < ARRAY_LEN(attesters); i++) {
            n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "",
                                  attesters[i].name);
        }
    }
    return names;
}
