#include "cli/result_open.h"

#include <openssl/crypto.h>

#include "cli/jobs.h"

int decision_verify(const struct trust *trust, const char *job, const char *decision_jws,
                    json_t **ret, struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(DECISION_MAX_BYTES);
    _cleanup_json_ json_t *d = NULL;
    const char *of, *outcome;
    int64_t v, attempt;

    if (trust_verify(&trust->gate, "gate", decision_jws, DECISION_JWS_TYP, DECISION_MAX_BYTES,
                     &payload, e) ||
        json_parse("decision", buf_bytes(&payload), DECISION_MAX_BYTES, &d, e) ||
        json_get_int(d, "decision", "v", 1, 1, &v, e) ||
        json_get_str(d, "decision", "job", &of, e) ||
        json_get_int(d, "decision", "attempt", 1, 1000, &attempt, e) ||
        json_get_str(d, "decision", "outcome", &outcome, e)) {
        return -1;
    }
    if (!streq(of, job)) {
        return err_refuse(e, ERR_DENIED, "decision.job", job, "%.60s", of);
    }
    *ret = TAKE_PTR(d);
    return 0;
}

static int check_reasons(const json_t *signed_ones, const Coffer__V1__HeldResult *h, struct err *e)
{
    size_t i;
    json_t *r;
    int same = json_array_size(signed_ones) == h->n_reasons;

    json_array_foreach(signed_ones, i, r)
    {
        same = same && json_is_string(r) && streq(json_string_value(r), h->reasons[i]);
    }
    return same
               ? 0
               : err_refuse(e, ERR_DENIED, "shown.reasons", "those that the gate signed", "others");
}

int held_verify(const struct trust *trust, const char *job, const Coffer__V1__HeldResult *h,
                struct err *e)
{
    _cleanup_json_ json_t *d = NULL;
    const char *outcome;
    int64_t attempt, score;
    json_t *reasons;
    char expected[32];

    if (decision_verify(trust, job, h->decision_jws, &d, e) ||
        json_get_int(d, "decision", "attempt", 1, 1000, &attempt, e) ||
        json_get_int(d, "decision", "score", 0, 100, &score, e) ||
        json_get_str(d, "decision", "outcome", &outcome, e) ||
        json_get_arr(d, "decision", "reasons", &reasons, e)) {
        return -1;
    }
    if (attempt != h->attempt) {
        snprintf(expected, sizeof(expected), "%lld", (long long)attempt);
        return err_refuse(e, ERR_DENIED, "shown.attempt", expected, "%u", h->attempt);
    }
    if (score != h->score) {
        snprintf(expected, sizeof(expected), "%lld", (long long)score);
        return err_refuse(e, ERR_DENIED, "shown.score", expected, "%u", h->score);
    }
    if (!streq(outcome, outcome_text(h->outcome))) {
        return err_refuse(e, ERR_DENIED, "shown.outcome", outcome, "%s", outcome_text(h->outcome));
    }
    return check_reasons(reasons, h, e);
}

/* The header names the same job, attempt and files as the decision; *ret_jwe is our copy of the
 * key. */
static int check_header(const json_t *decision, const char *job, const struct jkey *recipient,
                        const char *text, json_t **ret_header, const json_t **ret_jwe,
                        struct err *e)
{
    _cleanup_json_ json_t *h = NULL;
    json_t *keys, *files;
    const char *of;
    int64_t attempt, want = (int64_t)json_integer_value(json_object_get(decision, "attempt"));

    if (json_parse("header", BYTES_STR(text), RESULT_HEADER_MAX_BYTES, &h, e) ||
        json_get_str(h, "header", "job", &of, e) ||
        json_get_int(h, "header", "attempt", 1, 1000, &attempt, e) ||
        json_get_obj(h, "header", "keys", &keys, e) ||
        json_get_arr(h, "header", "files", &files, e)) {
        return -1;
    }
    if (!streq(of, job) || attempt != want) {
        return err_refuse(e, ERR_DENIED, "header.job", "the job and attempt of the decision",
                          "%.60s, attempt %lld", of, (long long)attempt);
    }
    if (!json_equal(files, json_object_get(decision, "files"))) {
        return err_refuse(e, ERR_DENIED, "header.files", "the files of the decision", "others");
    }
    *ret_jwe = json_object_get(keys, jkey_thumbprint(recipient));
    if (!*ret_jwe) {
        return err_refuse(e, ERR_DENIED, "result.recipients", "a recipient that the job names",
                          "%s", jkey_thumbprint(recipient));
    }
    *ret_header = TAKE_PTR(h);
    return 0;
}

static int check_file(const struct secret *key, const json_t *f, size_t i, size_t *at,
                      struct opened_result *r, struct err *e)
{
    char clause[48], hmac[65];
    const char *want;
    int64_t bytes;

    snprintf(clause, sizeof(clause), "decision.files[%zu]", i);
    if (json_get_str(f, clause, "path", &r->files[i].path, e) ||
        json_get_str(f, clause, "type", &r->files[i].type, e) ||
        json_get_str(f, clause, "hmac", &want, e) ||
        json_get_int(f, clause, "bytes", 0, (int64_t)(r->plain->n - *at), &bytes, e)) {
        return -1;
    }
    r->files[i].content = BYTES(r->plain->p + *at, (size_t)bytes);
    *at += (size_t)bytes;
    if (result_file_hmac(key, r->files[i].content, hmac, e)) {
        return -1;
    }
    if (strlen(want) != 64 || CRYPTO_memcmp(want, hmac, 64) != 0) {
        return err_refuse(e, ERR_BAD_SIGNATURE, clause, "the bytes that the gate released",
                          "other bytes");
    }
    return 0;
}

static int check_files(const struct secret *key, struct opened_result *r, struct err *e)
{
    json_t *list, *f;
    size_t i, at = 0;

    if (json_get_arr(r->decision, "decision", "files", &list, e)) {
        return -1;
    }
    if (json_array_size(list) > SPEC_MAX_FILES) {
        return err_set(e, ERR_TOO_LARGE, "decision.files: expected at most %d", SPEC_MAX_FILES);
    }
    json_array_foreach(list, i, f)
    {
        if (check_file(key, f, i, &at, r, e)) {
            return -1;
        }
    }
    r->n_files = json_array_size(list);
    if (at != r->plain->n) {
        char expected[64];
        snprintf(expected, sizeof(expected), "%zu bytes, what the files add up to", at);
        return err_refuse(e, ERR_BAD_SIGNATURE, "result.bytes", expected, "%zu", r->plain->n);
    }
    return 0;
}

static int open_all(const struct trust *trust, const struct jkey *recipient, const char *job,
                    const char *decision_jws, const char *header_json, struct bytes sealed,
                    struct opened_result *r, struct err *e)
{
    _cleanup_json_ json_t *header = NULL;
    _cleanup_secret_ struct secret *key = NULL;
    const json_t *jwe;

    if (decision_verify(trust, job, decision_jws, &r->decision, e)) {
        return -1;
    }
    const char *outcome = json_string_value(json_object_get(r->decision, "outcome"));
    if (!streq(outcome, "released")) {
        return err_refuse(e, ERR_DENIED, "decision.outcome", "released", "%.40s", outcome);
    }
    if (check_header(r->decision, job, recipient, header_json, &header, &jwe, e)) {
        return -1;
    }
    _cleanup_free_ char *text = json_dumps(jwe, JSON_COMPACT);
    if (!text) {
        return err_set(e, ERR_INVALID, "header.keys: expected a JWE");
    }
    if (jwe_decrypt(recipient, text, RESULT_BOX_MAX_BYTES, &key, e)) {
        return err_wrap(e, "header.keys");
    }
    if (secret_n(key) != SEAL_KEY_BYTES) {
        return err_set(e, ERR_INVALID, "header.keys: expected a key of %u bytes", SEAL_KEY_BYTES);
    }
    return result_open(sealed, key, &r->plain, e) || check_files(key, r, e) ? -1 : 0;
}

int result_check_open(const struct trust *trust, const struct jkey *recipient, const char *job,
                      const char *decision_jws, const char *header_json, struct bytes sealed,
                      struct opened_result *ret, struct err *e)
{
    struct opened_result r = {0};

    if (open_all(trust, recipient, job, decision_jws, header_json, sealed, &r, e)) {
        opened_result_done(&r);
        return -1;
    }
    *ret = r;
    return 0;
}

void opened_result_done(struct opened_result *r)
{
    area_free(r->plain);
    json_decref(r->decision);
    memset(r, 0, sizeof(*r));
}
