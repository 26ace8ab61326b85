/* From an outcome to what leaves: sealed stream, box, signed manifest (common/result.h). */
#include "svc-worker/worker.h"

static json_t *files_json(const struct spec *spec, const struct worker_outcome *o)
{
    json_t *list = json_array();

    for (size_t i = 0; i < spec->n_files; i++) {
        json_array_append_new(list, json_pack("{s:s,s:s,s:I}", "path", spec->files[i].path, "type",
                                              spec->files[i].type, "bytes",
                                              (json_int_t)o->file_bytes[i]));
    }
    return list;
}

static json_t *fingerprints_json(const struct worker_outcome *o)
{
    _cleanup_free_ char *salt = b64url_encode(o->fp_salt, FP_SALT_BYTES);

    return json_pack("{s:i,s:s,s:I,s:I,s:I}", "window", (int)FP_WINDOW, "salt", salt, "count",
                     (json_int_t)o->fp_count, "total", (json_int_t)o->fp_total, "input_bytes",
                     (json_int_t)o->fp_input_bytes);
}

/* Sealed to the gate. The text with the key in it is wiped. */
static int make_box(const struct worker_launch *l, const struct jkey *tee, const struct jkey *gate,
                    const struct secret *key, const struct worker_outcome *o, json_t **ret,
                    struct err *e)
{
    int ok = o->refusal.code == ERR_NONE;
    _cleanup_buf_ struct buf plain = BUF_INIT(RESULT_BOX_MAX_BYTES);
    _cleanup_free_ char *rest = NULL, *jwe = NULL;
    _cleanup_json_ json_t *j =
        json_pack("{s:s,s:I,s:s,s:o,s:i,s:o,s:o,s:b}", "job", l->pb->job, "attempt",
                  (json_int_t)l->pb->attempt, "tee", jkey_thumbprint(tee), "files",
                  ok ? files_json(l->spec, o) : json_array(), "exit", o->exit_code, "refusal",
                  ok ? json_null() : result_refusal_json(&o->refusal), "fingerprints",
                  fingerprints_json(o), "limits_enforced", o->limits_enforced);

    if (!j) {
        return err_set(e, ERR_INTERNAL, "result: the box cannot be composed");
    }
    rest = json_dumps(j, JSON_COMPACT);
    char *encoded = key ? b64url_encode(secret_cp(key), secret_n(key)) : NULL;
    int rc = encoded ? buf_addf(&plain, e, "{\"key\":\"%s\",%s", encoded, rest + 1)
                     : buf_addf(&plain, e, "{\"key\":null,%s", rest + 1);
    if (encoded) {
        explicit_bzero(encoded, strlen(encoded));
        free(encoded);
    }
    return rc || jwe_encrypt(gate, buf_bytes(&plain), &jwe, e) ||
                   json_parse("jwe", BYTES_STR(jwe), RESULT_BOX_MAX_BYTES * 2, ret, e)
               ? -1
               : 0;
}

static int make_manifest(const struct worker_launch *l, const struct jkey *tee, const char *ear,
                         int ok, json_t *box, struct bytes stream, char **ret, struct err *e)
{
    _cleanup_json_ json_t *m = result_digests(stream);
    _cleanup_json_ json_t *head =
        json_pack("{s:i,s:s,s:I,s:s,s:s,s:s,s:O}", "v", 1, "job", l->pb->job, "attempt",
                  (json_int_t)l->pb->attempt, "outcome", ok ? "ok" : "failed", "ear", ear, "spec",
                  l->pb->spec_jws, "box", box);

    if (!m || !head || json_object_update(m, head)) {
        return err_set(e, ERR_INTERNAL, "result: the manifest cannot be composed");
    }
    return jws_sign_json(tee, RESULT_MANIFEST_TYP, 0, m, ret, e);
}

int worker_seal(const struct worker_launch *l, const struct jkey *tee, const struct jkey *gate,
                const char *ear, const struct worker_outcome *o, struct worker_sealed *ret,
                struct err *e)
{
    int ok = o->refusal.code == ERR_NONE;
    size_t cap = o->plain.n + (o->plain.n / SEAL_CHUNK_DEFAULT_BYTES + 1) * SEAL_TAG_BYTES +
                 SEAL_HEADER_MAX_BYTES + 64;
    struct worker_sealed w = {.stream = BUF_INIT(cap)};
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_json_ json_t *box = NULL;

    if ((ok && result_seal(o->plain, &w.stream, &key, e)) ||
        make_box(l, tee, gate, key, o, &box, e) ||
        make_manifest(l, tee, ear, ok, box, buf_bytes(&w.stream), &w.manifest_jws, e)) {
        worker_sealed_done(&w);
        return -1;
    }
    *ret = w;
    return 0;
}

void worker_sealed_done(struct worker_sealed *w)
{
    buf_done(&w->stream);
    free(w->manifest_jws);
    w->manifest_jws = NULL;
}
