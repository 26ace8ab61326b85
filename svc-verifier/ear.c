/* The EAT Attestation Result (draft-ietf-rats-ear) as docs/PROTOCOL.md profiles it. */
#include "svc-verifier/verifier.h"

static json_t *vector_json(const int vector[EAR_VECTOR_N])
{
    json_t *o = json_object();

    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        json_object_set_new(o, ear_vector_members[i], json_integer(vector[i]));
    }
    return o;
}

static json_t *submod(const struct ear_input *in)
{
    _cleanup_free_ char *report_data = hex_encode(in->report_data, 64);

    return json_pack("{s:s,s:o,s:s,s:{s:O,s:s}}", "ear.status",
                     ear_vector_status(in->appraisal->vector), "ear.trustworthiness-vector",
                     vector_json(in->appraisal->vector), "ear.appraisal-policy-id",
                     in->appraisal->policy_id, "ear.veraison.annotated-evidence", in->tee,
                     in->appraisal->claims, "report_data", report_data);
}

int ear_make(const struct jkey *sign, const struct ear_input *in, char **ret, struct err *e)
{
    uint8_t id[16];
    json_int_t iat = in->now_ms / 1000;

    random_bytes(id, sizeof(id));
    _cleanup_free_ char *jti = b64url_encode(id, sizeof(id)), *token = NULL;
    _cleanup_json_ json_t *claims = json_pack(
        "{s:s,s:I,s:I,s:s,s:s,s:{s:s,s:s},s:{s:o},s:{s:i,s:s,s:I,s:s,s:s},s:{s:o}}", "eat_profile",
        "tag:github.com,2024:confidential-containers/Trustee", "iat", iat, "exp", iat + EAR_LIFE_S,
        "jti", jti, "iss", "coffer-verifier", "ear.verifier-id", "developer", "coffer", "build",
        COFFER_VERSION, "cnf", "jwk", jkey_public_jwk(in->cnf), "coffer", "v", 1, "job", in->job,
        "attempt", (json_int_t)in->attempt, "nonce", in->nonce, "tee", in->tee, "submods", "cpu0",
        submod(in));

    if (!claims) {
        return err_set(e, ERR_INTERNAL, "cannot compose the EAR");
    }
    if (jws_sign_json(sign, "JWT", 0, claims, &token, e)) {
        return -1;
    }
    if (strlen(token) > EAR_MADE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence.claims", "an EAR of at most 48 KiB",
                          "%zu bytes", strlen(token));
    }
    *ret = TAKE_PTR(token);
    return 0;
}
