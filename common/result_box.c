#include "common/result.h"

static const char *const box_keys[] = {
    "job",          "attempt",         "tee", "key", "files", "exit", "refusal",
    "fingerprints", "limits_enforced", NULL};
static const char *const file_keys[] = {"path", "type", "bytes", NULL};
static const char *const fp_keys[] = {"window", "salt", "count", "total", "input_bytes", NULL};
static const char *const refusal_keys[] = {"code", "clause", "expected", "actual", "message", NULL};

json_t *result_refusal_json(const struct err *why)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:s}", "code", err_code_name(why->code), "clause",
                     why->clause, "expected", why->expected, "actual", why->actual, "message",
                     why->msg);
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

int result_refusal_parse(const json_t *j, struct err *ret, struct err *e)
{
    const char *code, *clause, *expected, *actual, *message;

    if (json_only_keys(j, "refusal", refusal_keys, e) ||
        json_get_str(j, "refusal", "code", &code, e) ||
        json_get_str(j, "refusal", "clause", &clause, e) ||
        json_get_str(j, "refusal", "expected", &expected, e) ||
        json_get_str(j, "refusal", "actual", &actual, e) ||
        json_get_str(j, "refusal", "message", &message, e)) {
        return -1;
    }
    memset(ret, 0, sizeof(*ret));
    ret->code = ERR_INTERNAL;
    for (int i = ERR_NONE + 1; i < ERR_CODE_N; i++) {
        if (streq(err_code_name((enum err_code)i), code)) {
            ret->code = (enum err_code)i;
        }
    }
    copy(ret->clause, sizeof(ret->clause), clause);
    copy(ret->expected, sizeof(ret->expected), expected);
    copy(ret->actual, sizeof(ret->actual), actual);
    copy(ret->msg, sizeof(ret->msg), message);
    return 0;
}

static int parse_key(struct result_box *b, struct err *e)
{
    const char *text;
    _cleanup_buf_ struct buf key = BUF_INIT(SEAL_KEY_BYTES);

    if (json_is_null(json_object_get(b->json, "key"))) {
        return 0;
    }
    if (json_get_str(b->json, "box", "key", &text, e)) {
        return -1;
    }
    if (b64url_decode(text, strlen(text), &key, e) || key.n != SEAL_KEY_BYTES) {
        return err_set(e, ERR_INVALID, "box.key: expected 32 bytes in base64url");
    }
    b->key = secret_from(key.p, key.n);
    return 0;
}

static int parse_files(struct result_box *b, struct err *e)
{
    json_t *list, *f;
    size_t i;

    if (json_get_arr(b->json, "box", "files", &list, e)) {
        return -1;
    }
    if (json_array_size(list) > SPEC_MAX_FILES) {
        return err_set(e, ERR_TOO_LARGE, "box.files: expected at most %d, found %zu",
                       SPEC_MAX_FILES, json_array_size(list));
    }
    json_array_foreach(list, i, f)
    {
        struct result_file *o = &b->files[i];
        int64_t bytes;
        if (json_only_keys(f, "box.files", file_keys, e) ||
            json_get_str(f, "box.files", "path", &o->path, e) ||
            json_get_str(f, "box.files", "type", &o->type, e) ||
            json_get_int(f, "box.files", "bytes", 0, AREA_MAX_BYTES, &bytes, e)) {
            return -1;
        }
        o->bytes = (uint64_t)bytes;
        b->n_files++;
    }
    return 0;
}

static int parse_fingerprints(struct result_box *b, struct err *e)
{
    json_t *fp;
    const char *salt;
    int64_t window, count, total, input;
    _cleanup_buf_ struct buf raw = BUF_INIT(FP_SALT_BYTES);

    if (json_get_obj(b->json, "box", "fingerprints", &fp, e) ||
        json_only_keys(fp, "box.fingerprints", fp_keys, e) ||
        json_get_int(fp, "box.fingerprints", "window", FP_WINDOW, FP_WINDOW, &window, e) ||
        json_get_int(fp, "box.fingerprints", "count", 0, FP_MAX_COUNT, &count, e) ||
        json_get_int(fp, "box.fingerprints", "total", count, AREA_MAX_BYTES, &total, e) ||
        json_get_int(fp, "box.fingerprints", "input_bytes", 0, INT64_C(1) << 52, &input, e) ||
        json_get_str(fp, "box.fingerprints", "salt", &salt, e)) {
        return -1;
    }
    if (b64url_decode(salt, strlen(salt), &raw, e) || raw.n != FP_SALT_BYTES) {
        return err_set(e, ERR_INVALID, "box.fingerprints.salt: expected 16 bytes in base64url");
    }
    memcpy(b->fp_salt, raw.p, FP_SALT_BYTES);
    b->fp_count = (uint64_t)count;
    b->fp_total = (uint64_t)total;
    b->fp_input_bytes = (uint64_t)input;
    return 0;
}

static int box_fill(struct result_box *b, struct err *e)
{
    const json_t *limits, *refusal;

    if (json_only_keys(b->json, "box", box_keys, e) ||
        json_get_str(b->json, "box", "job", &b->job, e) ||
        json_get_int(b->json, "box", "attempt", 1, UINT32_MAX, &b->attempt, e) ||
        json_get_str(b->json, "box", "tee", &b->tee, e) || parse_key(b, e) || parse_files(b, e) ||
        json_get_int(b->json, "box", "exit", -1, 255, &b->exit_code, e) ||
        parse_fingerprints(b, e)) {
        return -1;
    }
    limits = json_object_get(b->json, "limits_enforced");
    if (!json_is_boolean(limits)) {
        return err_set(e, ERR_INVALID, "box.limits_enforced: expected a boolean");
    }
    b->limits_enforced = json_is_true(limits);
    refusal = json_object_get(b->json, "refusal");
    if (!refusal) {
        return err_set(e, ERR_INVALID, "box.refusal: expected an object or null, found nothing");
    }
    return json_is_null(refusal) ? 0 : result_refusal_parse(refusal, &b->refusal, e);
}

int result_box_parse(struct bytes plain, struct result_box *ret, struct err *e)
{
    struct result_box b = {0};

    if (json_parse("box", plain, RESULT_BOX_MAX_BYTES, &b.json, e) || box_fill(&b, e)) {
        result_box_done(&b);
        return -1;
    }
    *ret = b;
    return 0;
}

void result_box_done(struct result_box *b)
{
    const char *text = json_string_value(json_object_get(b->json, "key"));

    /* The parser's own copy of the data key. */
    if (text) {
        explicit_bzero((char *)(uintptr_t)text, strlen(text));
    }
    secret_free(b->key);
    json_decref(b->json);
    memset(b, 0, sizeof(*b));
}
