#include "svc-verifier/vtpm.h"

static const struct appraiser appraisers[] = {
    {.tee = "sample", .appraise = sample_appraise},
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

void appraisal_done(struct appraisal *a)
{
    json_decref(a->claims);
    a->claims = NULL;
}
