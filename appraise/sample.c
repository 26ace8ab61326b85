/* Sample evidence: {"svn":"1","report_data":<base64 of the 48-byte digest>}. Anyone can write it,
 * so it proves nothing; it is there to run everything else without TEE hardware. */
#include "appraise/appraiser.h"

#include <openssl/crypto.h>

#define SAMPLE_MAX_BYTES 1024u
#define DIGEST_BYTES 48u

/* AR4SI, Hardware claim: "recognised" and "not recognised, of an unknown maker". */
#define HARDWARE_GENUINE 2
#define HARDWARE_UNRECOGNISED 97

static int check_report_data(const char *text, const uint8_t report_data[64], struct err *e)
{
    _cleanup_buf_ struct buf got = BUF_INIT(SAMPLE_MAX_BYTES);
    _cleanup_free_ char *expected = hex_encode(report_data, DIGEST_BYTES);

    if (b64_decode(text, strlen(text), &got, e) || got.n != DIGEST_BYTES) {
        return err_refuse(e, ERR_INVALID, "evidence.report_data", "48 bytes in base64",
                          "something else, %zu characters long", strlen(text));
    }
    if (CRYPTO_memcmp(got.p, report_data, DIGEST_BYTES)) {
        _cleanup_free_ char *actual = hex_encode(got.p, DIGEST_BYTES);
        return err_refuse(e, ERR_DENIED, "evidence.report_data", expected, "%s", actual);
    }
    return 0;
}

int sample_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e)
{
    static const char *const members[] = {"svn", "report_data", NULL};
    _cleanup_json_ json_t *j = NULL;
    const char *svn, *text;

    if (json_parse("evidence", in->evidence, SAMPLE_MAX_BYTES, &j, e) ||
        json_only_keys(j, "evidence", members, e) || json_get_str(j, "evidence", "svn", &svn, e) ||
        json_get_str(j, "evidence", "report_data", &text, e)) {
        return -1;
    }
    if (!streq(svn, "1")) {
        return err_refuse(e, ERR_INVALID, "evidence.svn", "1", "something else");
    }
    if (check_report_data(text, in->report_data, e)) {
        return -1;
    }
    *ret = (struct appraisal){.claims = json_pack("{s:s}", "svn", svn),
                              .policy_id = "coffer/sample/v1"};
    /* The one claim made of it is the one a policy can allow by name; of the rest nothing is known.
     */
    ret->vector[EAR_HARDWARE] = policy->allow_sample ? HARDWARE_GENUINE : HARDWARE_UNRECOGNISED;
    return 0;
}
