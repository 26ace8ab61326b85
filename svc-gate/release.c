/* The released output: sealed anew, to its recipients, and fetched in pieces by anybody: it is
 * ciphertext to all others. */
#include "svc-gate/gate_int.h"

#define FETCH_BYTES (512u * 1024)

static json_t *files_json(const struct opened *o, const struct secret *key, struct err *e)
{
    _cleanup_json_ json_t *list = json_array();
    size_t at = 0;
    char hmac[65];

    for (size_t i = 0; i < o->box.n_files; i++) {
        const struct result_file *f = &o->box.files[i];
        if (result_file_hmac(key, BYTES(o->plain->p + at, (size_t)f->bytes), hmac, e)) {
            return NULL;
        }
        at += (size_t)f->bytes;
        json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:s}", "path", f->path, "type", f->type,
                                              "bytes", (json_int_t)f->bytes, "hmac", hmac));
    }
    return json_incref(list);
}

static json_t *keys_json(const struct spec *spec, const struct secret *key, struct err *e)
{
    _cleanup_json_ json_t *keys = json_object();

    for (size_t i = 0; i < spec->n_recipients; i++) {
        _cleanup_free_ char *jwe = NULL;
        json_t *o = NULL;
        if (jwe_encrypt(spec->recipients[i], BYTES(secret_cp(key), secret_n(key)), &jwe, e) ||
            json_parse("jwe", BYTES_STR(jwe), RESULT_BOX_MAX_BYTES, &o, e)) {
            return NULL;
        }
        json_object_set_new(keys, jkey_thumbprint(spec->recipients[i]), o);
    }
    return json_incref(keys);
}

static int check_room(struct svc *s, size_t bytes, struct err *e)
{
    int64_t used, max = config_int(s->config, "released-max-bytes");
    char expected[64];

    if (store_released_bytes(s->db, &used, e)) {
        return -1;
    }
    if (used + (int64_t)bytes <= max) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "at most %lld bytes stored", (long long)max);
    return err_refuse(e, ERR_BUSY, "gate.released-max-bytes", expected, "%lld, and %zu more",
                      (long long)used, bytes);
}

int release_output(struct svc *s, struct attempt_id id, const struct opened *o, json_t **ret_files,
                   struct err *e)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < o->box.n_files; i++) {
        bytes += o->box.files[i].bytes;
    }
    if (bytes > o->plain->n) {
        return err_set(e, ERR_INTERNAL, "release: files larger than the stream");
    }
    size_t cap = (size_t)bytes + SEAL_HEADER_MAX_BYTES + 64 +
                 ((size_t)bytes / SEAL_CHUNK_DEFAULT_BYTES + 1) * SEAL_TAG_BYTES;
    _cleanup_buf_ struct buf sealed = BUF_INIT(cap);
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_json_ json_t *files = NULL, *keys = NULL, *header = NULL;
    _cleanup_free_ char *text = NULL;

    if (check_room(s, cap, e) || result_seal(BYTES(o->plain->p, (size_t)bytes), &sealed, &key, e)) {
        return -1;
    }
    files = files_json(o, key, e);
    keys = files ? keys_json(o->spec, key, e) : NULL;
    if (!keys) {
        return -1;
    }
    header = json_pack("{s:i,s:s,s:I,s:O,s:O}", "v", 1, "job", id.job, "attempt", (json_int_t)id.n,
                       "keys", keys, "files", files);
    if (!header || jcs_encode(header, &text, e) ||
        store_released_add(s->db, id, text, buf_bytes(&sealed),
                           s->now_ms + config_int(s->config, "released-keep-ms"), e)) {
        return -1;
    }
    *ret_files = json_incref(files);
    return 0;
}

/* ---- fetching -------------------------------------------------------------------------------- */

static int find_released(struct svc *s, const char *job, struct attempt_id *ret, char **ret_header,
                         int64_t *ret_bytes, struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};

    *ret = (struct attempt_id){.job = job};
    if (!job_id_valid(job)) {
        return err_refuse(e, ERR_INVALID, "job", "a job id", "%.40s", job);
    }
    if (store_decided_attempt(s->db, job, &ret->n, e) || store_result_get(s->db, *ret, &row, e)) {
        return -1;
    }
    if (row.state != RS_RELEASED) {
        return err_refuse(e, row.state == RS_NONE ? ERR_NOT_FOUND : ERR_WRONG_STATE, "result.state",
                          "released", "%s", result_state_name(row.state));
    }
    if (store_released_info(s->db, *ret, ret_header, ret_bytes, e)) {
        return -1;
    }
    if (!*ret_header) {
        return err_refuse(e, ERR_EXPIRED, "result.stored", "a result that is still stored",
                          "one whose time is over");
    }
    return 0;
}

int release_fetch(struct svc *s, const struct msg *m, const Coffer__V1__FetchResult *q,
                  struct effects *fx, struct err *e)
{
    Coffer__V1__FetchReply f = COFFER__V1__FETCH_REPLY__INIT;
    Coffer__V1__Reply r = COFFER__V1__REPLY__INIT;
    _cleanup_(decision_row_done) struct decision_row d = {0};
    _cleanup_free_ char *header = NULL;
    _cleanup_buf_ struct buf data = BUF_INIT(FETCH_BYTES);
    struct attempt_id id;
    int64_t total;

    if (find_released(s, q->job, &id, &header, &total, e)) {
        return -1;
    }
    if (q->offset > (uint64_t)total) {
        char expected[48];
        snprintf(expected, sizeof(expected), "at most %lld", (long long)total);
        return err_refuse(e, ERR_INVALID, "offset", expected, "%llu",
                          (unsigned long long)q->offset);
    }
    if (store_released_read(s->db, id, q->offset, FETCH_BYTES, &data, e) ||
        store_decision_last(s->db, id, &d, e) < 0) {
        return -1;
    }
    char none[] = "";
    f.header_json = q->offset ? none : header;
    f.data.data = data.p;
    f.data.len = data.n;
    f.total_bytes = (uint64_t)total;
    f.decision_jws = d.jws ? d.jws : none;
    r.body_case = COFFER__V1__REPLY__BODY_FETCH;
    r.fetch = &f;
    return fx_reply(fx, m, &r, e);
}
