/* vtpm, both ways in. Lines: the enrolled hosts, reference values, and then an attest_key, or the
 * evidence that answers a challenge whose report data is zero. */
#include <stdint.h>

#include "appraise/vtpm.h"

#define NOW_MS INT64_C(1800000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes line(struct bytes *in)
{
    const uint8_t *end = in->n ? memchr(in->p, '\n', in->n) : NULL;
    struct bytes got = BYTES(in->p, end ? (size_t)(end - in->p) : in->n);

    in->p += got.n + (end != NULL);
    in->n -= got.n + (end != NULL);
    return got;
}

/* As if the verifier had sent the secret that the evidence has, for the keys that it has. */
static int proof_of(struct bytes in, uint8_t proof[CREDENTIAL_PROOF_BYTES])
{
    _cleanup_buf_ struct buf secret = BUF_INIT(64), pub = BUF_INIT(1024), cert = BUF_INIT(4096);
    _cleanup_json_ json_t *j = NULL;

    if (json_parse("evidence", in, 1u << 18, &j, NULL)) {
        return -1;
    }
    const char *s = json_string_value(json_object_get(j, "credential"));
    const char *p = json_string_value(json_object_get(j, "ak_pub"));
    const char *c = json_string_value(json_array_get(json_object_get(j, "ek_certs"), 0));
    return !s || !p || !c || b64url_decode(s, strlen(s), &secret, NULL) ||
           b64url_decode(p, strlen(p), &pub, NULL) || b64_decode(c, strlen(c), &cert, NULL) ||
           credential_proof(buf_bytes(&secret), buf_bytes(&pub), buf_bytes(&cert), proof, NULL);
}

static void check(int rc, const struct err *e)
{
    if (rc && (!e->clause[0] || strncmp(e->clause, "evidence", 8) != 0)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t report_data[64];
    _cleanup_(tpm_hosts_freep) struct tpm_hosts *hosts = NULL;
    _cleanup_(appraisal_done) struct appraisal a = {0};
    struct appraisal_challenge c = {0};
    uint8_t proof[CREDENTIAL_PROOF_BYTES];
    struct refvals refs = {0};
    struct bytes in = BYTES(data, size), first = line(&in), second = line(&in);
    struct err e = {0};

    if (tpm_hosts_parse(first, &hosts, &e)) {
        return 0;
    }
    refs.n = !refvals_image_parse(second, &refs.v[0], &e) && !vtpm_check_refvals(&refs, &e);
    const struct appraisal_policy policy = {.tpm_hosts = hosts, .refvals = &refs};
    e = (struct err){0};
    check(vtpm_challenge(in, &policy, NOW_MS, &c, &e), &e);
    buf_done(&c.credential);
    e = (struct err){0};
    const struct appraisal_input input = {.evidence = in,
                                          .report_data = report_data,
                                          .proof = proof_of(in, proof) ? NULL : proof,
                                          .now_ms = NOW_MS};
    check(vtpm_appraise(&input, &policy, &a, &e), &e);
    refvals_image_done(&refs.v[0]);
    return 0;
}
