/* From a complete result to a decision. The plaintext exists here only, in locked memory, while it
 * is inspected. */
#include "svc-gate/gate_int.h"

#define DECISION_TYP "coffer-decision+jws"

void opened_done(struct opened *o)
{
    area_free(o->plain);
    result_box_done(&o->box);
    ear_free(o->ear);
    jkey_free(o->consumer);
    spec_free(o->spec);
    result_manifest_done(&o->m);
    memset(o, 0, sizeof(*o));
}

void verdict_done(struct verdict *v)
{
    score_done(&v->score);
    json_decref(v->files);
    v->files = NULL;
}

/* A box that was seen on the bus could otherwise be put into another job's manifest, and would be
 * opened and released to that job's recipients. */
static int check_box_owner(const struct opened *o, struct err *e)
{
    const char *tee = jkey_thumbprint(o->ear->cnf);

    if (!streq(o->box.job, o->m.job)) {
        return err_refuse(e, ERR_DENIED, "box.job", o->m.job, "%.60s", o->box.job);
    }
    if (o->box.attempt != o->m.attempt) {
        char expected[32];
        snprintf(expected, sizeof(expected), "%lld", (long long)o->m.attempt);
        return err_refuse(e, ERR_DENIED, "box.attempt", expected, "%lld",
                          (long long)o->box.attempt);
    }
    return streq(o->box.tee, tee) ? 0
                                  : err_refuse(e, ERR_DENIED, "box.tee", tee, "%.60s", o->box.tee);
}

static int open_box(struct svc *s, struct opened *o, struct err *e)
{
    _cleanup_free_ char *text = json_dumps(o->m.box, JSON_COMPACT);
    _cleanup_secret_ struct secret *plain = NULL;

    if (!text) {
        return err_set(e, ERR_INTERNAL, "result.box: cannot be written as text");
    }
    if (jwe_decrypt(gate_of(s)->keys.seal, text, RESULT_BOX_MAX_BYTES, &plain, e) ||
        result_box_parse(BYTES(secret_cp(plain), secret_n(plain)), &o->box, e)) {
        return err_wrap(e, "result.box");
    }
    if (check_box_owner(o, e)) {
        return -1;
    }
    if (!o->m.ok) {
        return 0;
    }
    return o->box.key
               ? 0
               : err_refuse(e, ERR_INVALID, "box.key", "the key of the sealed result", "null");
}

static int open_stream(struct svc *s, struct attempt_id id, struct opened *o, struct err *e)
{
    _cleanup_buf_ struct buf sealed = BUF_INIT((size_t)o->m.bytes);
    uint8_t digest[32];

    if (buf_reserve(&sealed, (size_t)o->m.bytes, e) || store_pieces_read(s->db, id, &sealed, e)) {
        return -1;
    }
    EVP_Digest(sealed.p, sealed.n, digest, NULL, EVP_sha256(), NULL);
    _cleanup_free_ char *hex = hex_encode(digest, sizeof(digest));
    if (sealed.n != o->m.bytes || strcasecmp(hex, o->m.sha256) != 0) {
        return err_refuse(e, ERR_DENIED, "result.sha256", o->m.sha256, "%s", hex);
    }
    return result_open(buf_bytes(&sealed), o->box.key, &o->plain, e) ? err_wrap(e, "result.stream")
                                                                     : 0;
}

static int opened_fill(struct svc *s, struct attempt_id id, const struct result_row *row,
                       struct opened *o, struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(RESULT_MANIFEST_MAX_BYTES);

    /* Everything was verified when the manifest was taken; it is read again, not believed anew. */
    if (result_manifest_peek(row->manifest_jws, &payload, e) ||
        result_manifest_parse(buf_bytes(&payload), row->bytes, &o->m, e) ||
        ear_verify(gate_of(s)->trust, o->m.ear, &o->ear, e) ||
        spec_verify(o->m.spec, &o->spec, &o->consumer, e) || open_box(s, o, e)) {
        return -1;
    }
    return o->m.ok ? open_stream(s, id, o, e) : 0;
}

int opened_load(struct svc *s, struct attempt_id id, const struct result_row *row,
                struct opened *ret, struct err *e)
{
    struct opened o = {0};

    if (opened_fill(s, id, row, &o, e)) {
        opened_done(&o);
        return -1;
    }
    *ret = o;
    return 0;
}

/* ---- inspection ------------------------------------------------------------------------------ */

/* The files are those of the spec, in its order, and together fill the stream. */
static int check_files(const struct opened *o, uint64_t *ret_bytes, struct err *why)
{
    const struct spec *spec = o->spec;
    uint64_t bytes = 0, fps = o->box.fp_count * FP_BYTES;
    char clause[64], expected[200];

    if (o->box.n_files != spec->n_files) {
        snprintf(expected, sizeof(expected), "%zu, as declared", spec->n_files);
        return err_refuse(why, ERR_DENIED, "output.files", expected, "%zu", o->box.n_files);
    }
    for (size_t i = 0; i < spec->n_files; i++) {
        const struct result_file *f = &o->box.files[i];
        const struct spec_file *d = &spec->files[i];
        if (!streq(f->path, d->path) || !streq(f->type, d->type)) {
            snprintf(clause, sizeof(clause), "output.files[%zu]", i);
            snprintf(expected, sizeof(expected), "%.120s as %s", d->path, d->type);
            return err_refuse(why, ERR_DENIED, clause, expected, "%.120s as %.40s", f->path,
                              f->type);
        }
        bytes += f->bytes;
    }
    if (bytes + fps != o->plain->n) {
        snprintf(expected, sizeof(expected), "%llu bytes, what the files add up to",
                 (unsigned long long)bytes);
        return err_refuse(why, ERR_DENIED, "output.bytes", expected, "%lld",
                          (long long)o->plain->n - (long long)fps);
    }
    if (bytes > (uint64_t)spec->output_max_bytes) {
        snprintf(expected, sizeof(expected), "at most %lld", (long long)spec->output_max_bytes);
        return err_refuse(why, ERR_DENIED, "output.maxBytes", expected, "%llu",
                          (unsigned long long)bytes);
    }
    *ret_bytes = bytes;
    return 0;
}

static int check_types(const struct opened *o, struct score_facts *f, struct err *why)
{
    size_t at = 0;
    char clause[64];

    for (size_t i = 0; i < o->box.n_files; i++) {
        const struct result_file *file = &o->box.files[i];
        struct bytes content = BYTES(o->plain->p + at, (size_t)file->bytes);
        snprintf(clause, sizeof(clause), "output.files[%zu].type", i);
        if (inspect_type(clause, file->type, content, why)) {
            return -1;
        }
        at += content.n;
        if (streq(file->type, "application/octet-stream")) {
            f->octet_files++;
            continue;
        }
        uint32_t entropy = inspect_entropy(content);
        if (content.n >= SCORE_ENTROPY_MIN_BYTES && entropy > SCORE_ENTROPY_LIMIT) {
            f->dense_files++;
            f->max_entropy = entropy > f->max_entropy ? entropy : f->max_entropy;
        }
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

static int count_verbatim(const struct opened *o, uint64_t bytes, struct score_facts *f,
                          struct err *e)
{
    _cleanup_area_ struct area *sorted = NULL;
    _cleanup_(fp_hasher_done) struct fp_hasher h = {0};
    size_t n = (size_t)o->box.fp_count, at = 0;

    if (area_new(n * FP_BYTES, 0, &sorted, e) || fp_hasher_init(&h, o->box.fp_salt, e)) {
        return -1;
    }
    memcpy(sorted->p, o->plain->p + bytes, n * FP_BYTES);
    qsort(sorted->p, n, FP_BYTES, by_value);
    for (size_t i = 0; i < o->box.n_files; i++) {
        struct bytes content = BYTES(o->plain->p + at, (size_t)o->box.files[i].bytes);
        if (inspect_verbatim(&h, (const uint64_t *)(const void *)sorted->p, n, content, &f->blocks,
                             &f->verbatim_blocks, e)) {
            return -1;
        }
        at += content.n;
    }
    return 0;
}

static void verdict_by_score(const struct spec *spec, struct verdict *v)
{
    char expected[64];

    if (v->score.points >= spec->gate_reject_at) {
        v->outcome = COFFER__V1__GATE_OUTCOME__GATE_REJECTED;
        snprintf(expected, sizeof(expected), "a score below %lld", (long long)spec->gate_reject_at);
        err_refuse(&v->reason, ERR_DENIED, "gate.rejectAt", expected, "%u", v->score.points);
    } else if (v->score.points >= spec->gate_hold_at) {
        v->outcome = COFFER__V1__GATE_OUTCOME__GATE_HELD;
        snprintf(expected, sizeof(expected), "a score below %lld", (long long)spec->gate_hold_at);
        err_refuse(&v->reason, ERR_DENIED, "gate.holdAt", expected, "%u", v->score.points);
    } else {
        v->outcome = COFFER__V1__GATE_OUTCOME__GATE_RELEASED;
    }
}

static int inspect(const struct opened *o, struct verdict *v, struct err *e)
{
    struct score_facts f = {.max_bytes = (uint64_t)o->spec->output_max_bytes,
                            .max_verbatim_percent = (uint32_t)o->spec->gate_max_verbatim_percent,
                            .fp_count = o->box.fp_count,
                            .fp_total = o->box.fp_total,
                            .input_bytes = o->box.fp_input_bytes};

    if (!o->m.ok) {
        v->outcome = COFFER__V1__GATE_OUTCOME__GATE_FAILED;
        v->reason = o->box.refusal;
        if (v->reason.code == ERR_NONE) {
            err_refuse(&v->reason, ERR_WORKLOAD, "workload", "an output", "none, for no reason");
        }
        return 0;
    }
    if (check_files(o, &f.bytes, &v->reason) || check_types(o, &f, &v->reason)) {
        v->outcome = COFFER__V1__GATE_OUTCOME__GATE_REJECTED;
        return 0;
    }
    if (count_verbatim(o, f.bytes, &f, e)) {
        return -1;
    }
    score_compute(&f, &v->score);
    verdict_by_score(o->spec, v);
    return 0;
}

/* ---- decision -------------------------------------------------------------------------------- */

static const char *outcome_name(Coffer__V1__GateOutcome o)
{
    switch (o) {
    case COFFER__V1__GATE_OUTCOME__GATE_RELEASED:
        return "released";
    case COFFER__V1__GATE_OUTCOME__GATE_HELD:
        return "held";
    case COFFER__V1__GATE_OUTCOME__GATE_REJECTED:
        return "rejected";
    case COFFER__V1__GATE_OUTCOME__GATE_FAILED:
        return "failed";
    case COFFER__V1__GATE_OUTCOME__GATE_UNKNOWN:
    case _COFFER__V1__GATE_OUTCOME_IS_INT_SIZE:
        break;
    }
    return "unknown";
}

static json_t *reasons_json(const struct score *sc)
{
    json_t *list = json_array();

    for (size_t i = 0; i < sc->n; i++) {
        json_array_append_new(list, json_string(sc->reasons[i]));
    }
    return list;
}

static json_t *decision_payload(struct svc *s, struct attempt_id id, const struct opened *o,
                                const struct verdict *v, int64_t revision)
{
    uint8_t digest[32];

    EVP_Digest(o->m.ear, strlen(o->m.ear), digest, NULL, EVP_sha256(), NULL);
    _cleanup_free_ char *ear_sha256 = hex_encode(digest, sizeof(digest));
    return json_pack("{s:i,s:s,s:I,s:I,s:s,s:I,s:o,s:o,s:s,s:s,s:s,s:s,s:s,s:s?,s:I}", "v", 1,
                     "job", id.job, "attempt", (json_int_t)id.n, "revision", (json_int_t)revision,
                     "outcome", outcome_name(v->outcome), "score", (json_int_t)v->score.points,
                     "reasons", reasons_json(&v->score), "files",
                     v->files ? json_incref(v->files) : json_array(), "image", o->spec->image,
                     "consumer", jkey_thumbprint(o->consumer), "tee", o->ear->tee, "ear_sha256",
                     ear_sha256, "sealed_sha256", o->m.sha256, "reviewer", v->reviewer, "iat",
                     (json_int_t)(s->now_ms / 1000));
}

static int publish_decision(struct svc *s, struct attempt_id id, const struct verdict *v,
                            const struct decision_row *row, struct effects *fx, struct err *e)
{
    Coffer__V1__GateDecision d = COFFER__V1__GATE_DECISION__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    char msg_id[128];

    d.job = (char *)(uintptr_t)id.job;
    d.attempt = (uint32_t)id.n;
    d.outcome = v->outcome;
    d.score = v->score.points;
    d.n_reasons = v->score.n;
    d.reasons = (char **)(uintptr_t)v->score.reasons;
    d.decision_jws = row->jws;
    d.revision = (uint32_t)row->revision;
    if (v->reason.code != ERR_NONE) {
        refusal_from_err(&refusal, &v->reason,
                         v->outcome == COFFER__V1__GATE_OUTCOME__GATE_FAILED ? SVC_WORKER : s->id);
        d.reason = &refusal;
    }
    snprintf(msg_id, sizeof(msg_id), "%s.%lld.decision.%lld", id.job, (long long)id.n,
             (long long)row->revision);
    return fx_publish(fx, SUBJ_GATE_DECISION, id.job, msg_id, &d.base, e);
}

int decision_record(struct svc *s, struct attempt_id id, const struct opened *o,
                    const struct verdict *v, int64_t revision, struct effects *fx, struct err *e)
{
    _cleanup_json_ json_t *payload = decision_payload(s, id, o, v, revision);
    _cleanup_(decision_row_done) struct decision_row row = {
        .revision = revision, .score = v->score.points, .outcome = v->outcome, .at_ms = s->now_ms};

    if (!payload) {
        return err_set(e, ERR_INTERNAL, "decision: cannot be composed");
    }
    row.reasons = reasons_json(&v->score);
    row.files = json_array();
    for (size_t i = 0; i < o->box.n_files; i++) {
        const struct result_file *f = &o->box.files[i];
        json_array_append_new(row.files, json_pack("{s:s,s:s,s:I}", "path", f->path, "type",
                                                   f->type, "bytes", (json_int_t)f->bytes));
    }
    if (jws_sign_json(gate_of(s)->keys.sign, DECISION_TYP, 0, payload, &row.jws, e) ||
        store_decision_add(s->db, id, &row, e)) {
        return -1;
    }
    return publish_decision(s, id, v, &row, fx, e);
}

/* A release that does not fit is not lost and not let through: a reviewer releases it later. */
static int try_release(struct svc *s, struct attempt_id id, const struct opened *o,
                       struct verdict *v, struct err *e)
{
    if (release_output(s, id, o, &v->files, e) == 0) {
        return 0;
    }
    if (!e || e->code != ERR_BUSY) {
        return -1;
    }
    v->outcome = COFFER__V1__GATE_OUTCOME__GATE_HELD;
    v->reason = *e;
    err_clear(e);
    return 0;
}

static int decide(struct svc *s, struct attempt_id id, const struct result_row *row,
                  struct effects *fx, struct err *e)
{
    _cleanup_(opened_done) struct opened o = {0};
    _cleanup_(verdict_done) struct verdict v = {0};
    struct err local = {0};
    int64_t keep_until = s->now_ms + config_int(s->config, "record-keep-ms");
    enum result_event ev = EV_FAIL;

    e = e ? e : &local;
    if (opened_load(s, id, row, &o, e) || inspect(&o, &v, e)) {
        return -1;
    }
    if (v.outcome == COFFER__V1__GATE_OUTCOME__GATE_RELEASED && try_release(s, id, &o, &v, e)) {
        return -1;
    }
    switch (v.outcome) {
    case COFFER__V1__GATE_OUTCOME__GATE_RELEASED:
        ev = EV_RELEASE;
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_HELD:
        ev = EV_HOLD;
        keep_until = s->now_ms + config_int(s->config, "hold-timeout-ms");
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_REJECTED:
        ev = EV_REJECT;
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_FAILED:
    case COFFER__V1__GATE_OUTCOME__GATE_UNKNOWN:
    case _COFFER__V1__GATE_OUTCOME_IS_INT_SIZE:
        ev = EV_FAIL;
        break;
    }
    return admission_apply(s, id, ev, keep_until, e) || decision_record(s, id, &o, &v, 1, fx, e)
               ? -1
               : 0;
}

int decide_if_complete(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};
    int64_t have;

    if (store_result_get(s->db, id, &row, e) || store_pieces_proven(s->db, id, &have, e)) {
        return -1;
    }
    if (row.state != RS_COLLECTING || have < row.chunks) {
        return 0;
    }
    return decide(s, id, &row, fx, e);
}
