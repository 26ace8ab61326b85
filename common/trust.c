#include "common/trust.h"

#include "common/fileio.h"
#include "common/spec.h"

#include <openssl/evp.h>

#define TRUST_FILE_MAX_BYTES (64u * 1024)
#define JWS_HEADER_MAX_BYTES 2048u
#define EAR_PROFILE "tag:github.com,2024:confidential-containers/Trustee"
#define EAR_ISSUER "coffer-verifier"
#define EAR_MAX_S (INT64_C(1) << 40)

const char *const ear_vector_members[EAR_VECTOR_N] = {
    "configuration",     "executables",    "file-system",  "hardware",
    "instance-identity", "runtime-opaque", "sourced-data", "storage-opaque",
};

/* A JWK that is public and says nothing more: a private part here would be a leaked key. */
static int public_key(const json_t *jwk, const char *what, struct jkey **ret, struct err *e)
{
    static const char *const members[] = {"crv", "kty", "x", "y", NULL};

    if (json_only_keys(jwk, what, members, e)) {
        return -1;
    }
    return jkey_from_jwk(jwk, ret, e) ? err_wrap(e, "%s", what) : 0;
}

static int key_list(const json_t *j, const char *name, size_t min, struct trust_keys *ret,
                    struct err *e)
{
    json_t *list;

    if (json_get_arr(j, "trust", name, &list, e)) {
        return -1;
    }
    size_t n = json_array_size(list);
    if (n < min || n > TRUST_MAX_KEYS) {
        return err_set(e, ERR_INVALID, "trust.%s: expected %zu to %d keys, found %zu", name, min,
                       TRUST_MAX_KEYS, n);
    }
    for (size_t i = 0; i < n; i++) {
        char what[64];
        snprintf(what, sizeof(what), "trust.%s[%zu]", name, i);
        if (public_key(json_array_get(list, i), what, &ret->keys[i], e)) {
            return -1;
        }
        ret->n = i + 1;
        for (size_t k = 0; k < i; k++) {
            if (streq(jkey_thumbprint(ret->keys[k]), jkey_thumbprint(ret->keys[i]))) {
                return err_set(e, ERR_INVALID, "%s: expected a key that is not in the list yet",
                               what);
            }
        }
    }
    return 0;
}

static int one_key(const json_t *j, const char *name, struct jkey **ret, struct err *e)
{
    char what[64];
    json_t *jwk;

    snprintf(what, sizeof(what), "trust.%s", name);
    return json_get_obj(j, "trust", name, &jwk, e) || public_key(jwk, what, ret, e) ? -1 : 0;
}

int trust_from_json(const json_t *j, struct trust **ret, struct err *e)
{
    static const char *const members[] = {"v",         "verifier",  "kbs",     "kbs_seal", "gate",
                                          "gate_seal", "reviewers", "release", NULL};
    _cleanup_(trust_freep) struct trust *t = xcalloc(1, sizeof(*t));
    int64_t v;

    if (json_only_keys(j, "trust", members, e) || json_get_int(j, "trust", "v", 1, 1, &v, e) ||
        key_list(j, "verifier", 1, &t->verifier, e) || key_list(j, "kbs", 1, &t->kbs, e) ||
        one_key(j, "kbs_seal", &t->kbs_seal, e) || key_list(j, "gate", 1, &t->gate, e) ||
        one_key(j, "gate_seal", &t->gate_seal, e) ||
        key_list(j, "reviewers", 0, &t->reviewers, e) ||
        (json_object_get(j, "release") && key_list(j, "release", 1, &t->release, e))) {
        return -1;
    }
    *ret = TAKE_PTR(t);
    return 0;
}

int trust_read(const char *path, struct trust **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(TRUST_FILE_MAX_BYTES);
    _cleanup_json_ json_t *j = NULL;

    if (file_read(path, TRUST_FILE_MAX_BYTES, 0, &text, e)) {
        return err_wrap(e, "trust");
    }
    if (json_parse("trust", buf_bytes(&text), TRUST_FILE_MAX_BYTES, &j, e) ||
        trust_from_json(j, ret, e)) {
        return err_wrap(e, "%s", path);
    }
    return 0;
}

static void keys_done(struct trust_keys *k)
{
    for (size_t i = 0; i < k->n; i++) {
        jkey_free(k->keys[i]);
    }
}

void trust_free(struct trust *t)
{
    if (!t) {
        return;
    }
    keys_done(&t->verifier);
    keys_done(&t->kbs);
    keys_done(&t->gate);
    keys_done(&t->reviewers);
    keys_done(&t->release);
    jkey_free(t->kbs_seal);
    jkey_free(t->gate_seal);
    free(t);
}

const struct jkey *trust_find(const struct trust_keys *keys, const char *thumbprint)
{
    for (size_t i = 0; i < keys->n; i++) {
        if (streq(jkey_thumbprint(keys->keys[i]), thumbprint)) {
            return keys->keys[i];
        }
    }
    return NULL;
}

/* The kid only chooses which trusted key must verify: nothing of the header is believed before. */
static int key_id(const char *jws, char ret[JKEY_THUMBPRINT_LEN + 1], struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(JWS_HEADER_MAX_BYTES);
    _cleanup_json_ json_t *header = NULL;
    const char *dot = strchr(jws, '.'), *kid;

    if (!dot) {
        return err_set(e, ERR_INVALID, "expected a compact JWS");
    }
    if (b64url_decode(jws, (size_t)(dot - jws), &text, e) ||
        json_parse("header", buf_bytes(&text), JWS_HEADER_MAX_BYTES, &header, e) ||
        json_get_str(header, "header", "kid", &kid, e)) {
        return -1;
    }
    if (strlen(kid) != JKEY_THUMBPRINT_LEN) {
        return err_set(e, ERR_INVALID, "header.kid: expected a thumbprint of %d characters",
                       JKEY_THUMBPRINT_LEN);
    }
    snprintf(ret, JKEY_THUMBPRINT_LEN + 1, "%s", kid);
    return 0;
}

static int verify(const struct trust_keys *keys, const char *who, const char *clause,
                  const char *jws, const char *typ, size_t max, struct buf *ret, struct err *e)
{
    char kid[JKEY_THUMBPRINT_LEN + 1], expected[128];
    const struct jkey *key;

    if (strnlen(jws, max + 1) > max) {
        return err_set(e, ERR_TOO_LARGE, "%s: expected at most %zu bytes", clause, max);
    }
    if (key_id(jws, kid, e)) {
        return err_wrap(e, "%s", clause);
    }
    key = trust_find(keys, kid);
    if (!key) {
        for (char *c = kid; *c; c++) { /* it is anyone's text */
            *c = *c > 0x20 && *c < 0x7f ? *c : '?';
        }
        snprintf(expected, sizeof(expected), "a signature by a %s key of the trust file", who);
        return err_refuse(e, ERR_BAD_SIGNATURE, clause, expected, "key %s", kid);
    }
    if (jws_verify(jws, key, typ, max, ret, e)) {
        if (e && e->code == ERR_BAD_SIGNATURE && !e->clause[0]) {
            snprintf(expected, sizeof(expected), "a signature that verifies with %s key %s", who,
                     kid);
            return err_refuse(e, ERR_BAD_SIGNATURE, clause, expected, "one that does not");
        }
        return err_wrap(e, "%s", clause);
    }
    return 0;
}

int trust_verify(const struct trust_keys *keys, const char *who, const char *jws, const char *typ,
                 size_t max, struct buf *ret_payload, struct err *e)
{
    char clause[64];

    snprintf(clause, sizeof(clause), "%s.signature", who);
    return verify(keys, who, clause, jws, typ, max, ret_payload, e);
}

/* ---- EAR ---- */

/* AR4SI, draft-ietf-rats-ar4si §2.3.2, as Trustee orders the tiers. */
static int tier(int claim)
{
    if (claim >= -1 && claim <= 1) {
        return 0;
    }
    if (claim >= -32 && claim <= 31) {
        return 1;
    }
    return claim >= -96 && claim <= 95 ? 2 : 3;
}

const char *ear_vector_status(const int vector[EAR_VECTOR_N])
{
    static const char *const names[] = {"none", "affirming", "warning", "contraindicated"};
    int worst = 0;

    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        int t = tier(vector[i]);
        worst = t > worst ? t : worst;
    }
    return names[worst];
}

static int expect_str(const json_t *o, const char *what, const char *key, const char *expected,
                      struct err *e)
{
    const char *s;

    if (json_get_str(o, what, key, &s, e)) {
        return -1;
    }
    if (!streq(s, expected)) {
        return err_set(e, ERR_INVALID, "%s.%s: expected \"%s\"", what, key, expected);
    }
    return 0;
}

/* A string member that is the base64url form of exactly n bytes. */
static int b64_member(const json_t *o, const char *what, const char *key, size_t n,
                      const char **ret, struct err *e)
{
    _cleanup_buf_ struct buf raw = BUF_INIT(n + 1);
    const char *s;

    if (json_get_str(o, what, key, &s, e)) {
        return -1;
    }
    if (b64url_decode(s, strlen(s), &raw, e) || raw.n != n) {
        return err_set(e, ERR_INVALID, "%s.%s: expected %zu bytes as base64url", what, key, n);
    }
    *ret = s;
    return 0;
}

int tee_name_valid(const char *tee)
{
    size_t n = strspn(tee, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return n >= 1 && n <= TEE_NAME_MAX && !tee[n];
}

static int coffer_claims(struct ear *r, struct err *e)
{
    static const char *const members[] = {"v", "job", "attempt", "nonce", "tee", NULL};
    json_t *o;
    int64_t v;

    if (json_get_obj(r->claims, "ear", "coffer", &o, e) ||
        json_only_keys(o, "ear.coffer", members, e) ||
        json_get_int(o, "ear.coffer", "v", 1, 1, &v, e) ||
        json_get_str(o, "ear.coffer", "job", &r->job, e) ||
        json_get_int(o, "ear.coffer", "attempt", 1, UINT32_MAX, &r->attempt, e) ||
        b64_member(o, "ear.coffer", "nonce", 32, &r->nonce, e) ||
        json_get_str(o, "ear.coffer", "tee", &r->tee, e)) {
        return -1;
    }
    if (!job_id_valid(r->job)) {
        return err_set(e, ERR_INVALID, "ear.coffer.job: expected a job id");
    }
    if (!tee_name_valid(r->tee)) {
        return err_set(e, ERR_INVALID, "ear.coffer.tee: expected 1 to %d of [a-z0-9-]",
                       TEE_NAME_MAX);
    }
    return 0;
}

/* Exactly one submodule: relying on cpu0 while another said no would be a hole. */
static int submods(struct ear *r, struct err *e)
{
    static const char *const only[] = {"cpu0", NULL};
    static const char *const members[] = {"ear.status", "ear.trustworthiness-vector",
                                          "ear.appraisal-policy-id",
                                          "ear.veraison.annotated-evidence", NULL};
    static const char what[] = "ear.submods.cpu0";
    int vector[EAR_VECTOR_N];
    const char *status, *policy;
    json_t *all, *o, *vec, *evidence;

    if (json_get_obj(r->claims, "ear", "submods", &all, e) ||
        json_only_keys(all, "ear.submods", only, e) ||
        json_get_obj(all, "ear.submods", "cpu0", &o, e) || json_only_keys(o, what, members, e) ||
        json_get_str(o, what, "ear.status", &status, e) ||
        json_get_str(o, what, "ear.appraisal-policy-id", &policy, e) ||
        json_get_obj(o, what, "ear.veraison.annotated-evidence", &evidence, e) ||
        json_get_obj(o, what, "ear.trustworthiness-vector", &vec, e)) {
        return -1;
    }
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        int64_t claim;
        if (json_get_int(vec, "ear.trustworthiness-vector", ear_vector_members[i], -128, 127,
                         &claim, e)) {
            return -1;
        }
        vector[i] = (int)claim;
    }
    if (json_object_size(vec) != EAR_VECTOR_N) {
        return err_set(e, ERR_INVALID, "ear.trustworthiness-vector: expected %d members, found %zu",
                       EAR_VECTOR_N, json_object_size(vec));
    }
    if (!streq(status, ear_vector_status(vector))) {
        return err_set(e, ERR_INVALID,
                       "%s.ear.status: expected \"%s\", as its trustworthiness vector says", what,
                       ear_vector_status(vector));
    }
    r->status = status;
    return 0;
}

static int top_level(struct ear *r, struct err *e)
{
    static const char *const members[] = {"eat_profile", "iat", "exp",    "jti",
                                          "iss",         "cnf", "coffer", "ear.verifier-id",
                                          "submods",     NULL};
    static const char *const id_members[] = {"developer", "build", NULL};
    static const char *const cnf_members[] = {"jwk", NULL};
    const char *s;
    json_t *id, *cnf, *jwk;

    if (json_only_keys(r->claims, "ear", members, e) ||
        expect_str(r->claims, "ear", "eat_profile", EAR_PROFILE, e) ||
        expect_str(r->claims, "ear", "iss", EAR_ISSUER, e) ||
        json_get_int(r->claims, "ear", "iat", 0, EAR_MAX_S, &r->iat, e) ||
        json_get_int(r->claims, "ear", "exp", 0, EAR_MAX_S, &r->exp, e) ||
        b64_member(r->claims, "ear", "jti", 16, &r->jti, e) ||
        json_get_obj(r->claims, "ear", "ear.verifier-id", &id, e) ||
        json_only_keys(id, "ear.verifier-id", id_members, e) ||
        json_get_str(id, "ear.verifier-id", "developer", &s, e) ||
        json_get_str(id, "ear.verifier-id", "build", &s, e) ||
        json_get_obj(r->claims, "ear", "cnf", &cnf, e) ||
        json_only_keys(cnf, "ear.cnf", cnf_members, e) ||
        json_get_obj(cnf, "ear.cnf", "jwk", &jwk, e) ||
        public_key(jwk, "ear.cnf.jwk", &r->cnf, e)) {
        return -1;
    }
    if (r->exp <= r->iat || r->exp - r->iat > EAR_LIFE_S) {
        return err_set(e, ERR_INVALID, "ear.exp: expected 1 to %d seconds after iat, found %jd",
                       EAR_LIFE_S, (intmax_t)(r->exp - r->iat));
    }
    return 0;
}

int ear_verify(const struct trust *t, const char *token, struct ear **ret, struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(EAR_MAX_BYTES);
    _cleanup_(ear_freep) struct ear *r = xcalloc(1, sizeof(*r));

    if (verify(&t->verifier, "verifier", "verdict.signature", token, "JWT", EAR_MAX_BYTES, &payload,
               e) ||
        json_parse("ear", buf_bytes(&payload), EAR_MAX_BYTES, &r->claims, e) || top_level(r, e) ||
        coffer_claims(r, e) || submods(r, e)) {
        return -1;
    }
    *ret = TAKE_PTR(r);
    return 0;
}

int ear_check_time(const struct ear *r, int64_t now_ms, struct err *e)
{
    int64_t now_s = now_ms / 1000;
    char expected[96];

    if (r->iat > now_s + EAR_SKEW_S) {
        snprintf(expected, sizeof(expected), "at most %jd (now, and %d s)",
                 (intmax_t)(now_s + EAR_SKEW_S), EAR_SKEW_S);
        return err_refuse(e, ERR_EXPIRED, "verdict.iat", expected, "%jd", (intmax_t)r->iat);
    }
    if (now_s >= r->exp) {
        snprintf(expected, sizeof(expected), "later than %jd (now)", (intmax_t)now_s);
        return err_refuse(e, ERR_EXPIRED, "verdict.exp", expected, "%jd", (intmax_t)r->exp);
    }
    return 0;
}

void ear_free(struct ear *r)
{
    if (!r) {
        return;
    }
    json_decref(r->claims);
    jkey_free(r->cnf);
    free(r);
}

int runtime_data_make(const char *job, uint32_t attempt, struct bytes nonce, const struct jkey *tee,
                      char **ret_jcs, uint8_t ret_report_data[64], struct err *e)
{
    _cleanup_free_ char *nonce_text = b64url_encode(nonce.p, nonce.n), *jcs = NULL;
    uint8_t digest[64] = {0};
    _cleanup_json_ json_t *o =
        json_pack("{s:I,s:s,s:s,s:o}", "attempt", (json_int_t)attempt, "job", job, "nonce",
                  nonce_text, "tee-pubkey", jkey_public_jwk(tee));

    if (!o) {
        return err_set(e, ERR_INVALID, "runtime data: expected a job id in UTF-8");
    }
    if (jcs_encode(o, &jcs, e)) {
        return err_wrap(e, "runtime data");
    }
    if (EVP_Digest(jcs, strlen(jcs), digest, NULL, EVP_sha384(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash the runtime data");
    }
    memcpy(ret_report_data, digest, sizeof(digest));
    *ret_jcs = TAKE_PTR(jcs);
    return 0;
}

/* ---- owner commands ---- */

static char *sha256_hex(const char *text)
{
    uint8_t digest[32];

    if (EVP_Digest(text, strlen(text), digest, NULL, EVP_sha256(), NULL) != 1) {
        return NULL;
    }
    return hex_encode(digest, sizeof(digest));
}

int owner_proof_make(const struct jkey *kbs, const char *command_jws, const char *reply_json,
                     int64_t now_s, char **ret_jws, struct err *e)
{
    _cleanup_free_ char *command = sha256_hex(command_jws), *reply = sha256_hex(reply_json);
    _cleanup_json_ json_t *o = command && reply
                                   ? json_pack("{s:i,s:s,s:s,s:I}", "v", 1, "command", command,
                                               "reply", reply, "iat", (json_int_t)now_s)
                                   : NULL;

    return o ? jws_sign_json(kbs, OWNER_PROOF_TYP, 0, o, ret_jws, e)
             : err_set(e, ERR_INTERNAL, "cannot compose the proof of an owner command");
}

static int expect_digest(const json_t *o, const char *member, const char *clause, const char *of,
                         struct err *e)
{
    _cleanup_free_ char *want = sha256_hex(of);
    const char *found;

    if (!want) {
        return err_set(e, ERR_INTERNAL, "cannot hash an owner command");
    }
    if (json_get_str(o, "proof", member, &found, e)) {
        return -1;
    }
    return streq(want, found) ? 0 : err_refuse(e, ERR_DENIED, clause, want, "%.64s", found);
}

int owner_proof_verify(const struct trust *t, const char *proof_jws, const char *command_jws,
                       const char *reply_json, struct err *e)
{
    static const char *const members[] = {"v", "command", "reply", "iat", NULL};
    _cleanup_buf_ struct buf payload = BUF_INIT(OWNER_PROOF_MAX_BYTES);
    _cleanup_json_ json_t *o = NULL;
    int64_t v;

    return trust_verify(&t->kbs, "kbs", proof_jws, OWNER_PROOF_TYP, OWNER_PROOF_MAX_BYTES, &payload,
                        e) ||
                   json_parse("proof", buf_bytes(&payload), OWNER_PROOF_MAX_BYTES, &o, e) ||
                   json_only_keys(o, "proof", members, e) ||
                   json_get_int(o, "proof", "v", 1, 1, &v, e) ||
                   expect_digest(o, "command", "proof.command", command_jws, e) ||
                   expect_digest(o, "reply", "proof.reply", reply_json, e)
               ? -1
               : 0;
}
