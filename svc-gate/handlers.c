/* One function for each subject, the tick, and the service's definition. */
#include "svc-gate/gate_int.h"

#define EXPIRES_PER_TICK 16
#define SWEEP_ROWS 32

static int check_id(const struct msg *m, const char *job, uint32_t attempt, struct attempt_id *ret,
                    struct err *e)
{
    if (!job_id_valid(job)) {
        return err_refuse(e, ERR_INVALID, "job", "a job id", "%.40s", job);
    }
    if (!streq(m->key, job)) {
        return err_refuse(e, ERR_INVALID, "subject", job, "%.64s", m->key);
    }
    if (attempt < 1) {
        return err_refuse(e, ERR_INVALID, "attempt", "1 or more", "%u", attempt);
    }
    *ret = (struct attempt_id){.job = job, .n = attempt};
    return 0;
}

static int on_result(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct attempt_id id;

    if (msg_unpack(m, &pb, e)) {
        return -1;
    }
    const Coffer__V1__Result *r = (const Coffer__V1__Result *)pb;
    if (check_id(m, r->job, r->attempt, &id, e)) {
        return -1;
    }
    switch (r->part_case) {
    case COFFER__V1__RESULT__PART_CHUNK:
        return admit_chunk(s, id, r->chunk, fx, e);
    case COFFER__V1__RESULT__PART_MANIFEST_JWS:
        return admit_manifest(s, id, r->manifest_jws, fx, e);
    case COFFER__V1__RESULT__PART__NOT_SET:
    case _COFFER__V1__RESULT__PART__CASE_IS_INT_SIZE:
        break;
    }
    return err_refuse(e, ERR_INVALID, "result.part", "a chunk or a manifest", "neither");
}

static int on_release(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct attempt_id id;

    if (msg_unpack(m, &pb, e)) {
        return -1;
    }
    const Coffer__V1__ReleaseKey *r = (const Coffer__V1__ReleaseKey *)pb;
    if (r->refusal) {
        return 0; /* no keys went out: nothing can come of that attempt */
    }
    return check_id(m, r->job, r->attempt, &id, e) || admit_release(s, id, r->release_jws, fx, e)
               ? -1
               : 0;
}

static int on_review(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    return msg_unpack(m, &pb, e) ||
                   review_handle(s, m, (const Coffer__V1__ReviewRequest *)pb, fx, e)
               ? -1
               : 0;
}

static int on_fetch(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    return msg_unpack(m, &pb, e) || release_fetch(s, m, (const Coffer__V1__FetchResult *)pb, fx, e)
               ? -1
               : 0;
}

/* ---- time ------------------------------------------------------------------------------------ */

static int expire_one(struct svc *s, enum result_state st, struct effects *fx, struct err *e)
{
    char job[JOB_ID_LEN + 1];
    struct attempt_id id = {.job = job};
    int rc = store_expired(s->db, st, s->now_ms, job, &id.n, e);

    if (rc <= 0) {
        return rc;
    }
    if (st == RS_COLLECTING) {
        return admission_apply(s, id, EV_TIMEOUT, 0, e) ? -1 : 1;
    }
    struct err why = {0};
    if (review_expire(s, id, fx, &why) == 0) {
        return 1;
    }
    /* It cannot be opened any more (a key was taken out of the trust file): it must still end. */
    return admission_apply(s, id, EV_EXPIRE, s->now_ms + config_int(s->config, "record-keep-ms"), e)
               ? -1
               : 1;
}

static int on_tick(struct svc *s, struct effects *fx, struct err *e)
{
    static const enum result_state ends[] = {RS_COLLECTING, RS_HELD};

    for (size_t k = 0; k < ARRAY_LEN(ends); k++) {
        int rc = 1;
        for (int i = 0; i < EXPIRES_PER_TICK && rc == 1; i++) {
            rc = expire_one(s, ends[k], fx, e);
        }
        if (rc < 0) {
            return -1;
        }
    }
    return admit_retry(s, fx, e) || store_sweep(s->db, s->now_ms, SWEEP_ROWS, e) ? -1 : 0;
}

static int64_t next_tick(struct svc *s)
{
    return store_next_expiry(s->db);
}

/* ---- the service ----------------------------------------------------------------------------- */

static void gate_free(struct gate *g)
{
    trust_free(g->trust);
    service_keys_done(&g->keys);
    free(g);
}
DEFINE_CLEANUP(struct gate *, gate_free);

static int gate_open(struct svc *s, struct err *e)
{
    _cleanup_(gate_freep) struct gate *g = xcalloc(1, sizeof(*g));
    unsigned want = KEYFILE_SIGN | KEYFILE_SEAL;
    unsigned generate = config_bool(s->config, "generate-keys") ? want : 0;

    if (service_keys_load(config_str(s->config, "data-dir"), want, generate, &g->keys, e) ||
        trust_read(config_str(s->config, "trust"), &g->trust, e) ||
        service_key_trusted(&g->trust->gate, "gate", g->keys.sign, e)) {
        return -1;
    }
    const char *seal = jkey_thumbprint(g->keys.seal);
    if (!streq(jkey_thumbprint(g->trust->gate_seal), seal)) {
        return err_refuse(e, ERR_DENIED, "trust.gate_seal", seal, "%s",
                          jkey_thumbprint(g->trust->gate_seal));
    }
    s->priv = TAKE_PTR(g);
    return 0;
}

static void gate_close(struct svc *s)
{
    if (s->priv) {
        gate_free(s->priv);
        s->priv = NULL;
    }
}

#define GIB (INT64_C(1) << 30)
#define DAY_MS INT64_C(86400000)

static const struct config_item items[] = {
    {.name = "max-result-bytes",
     .type = CONFIG_INT,
     .dflt = "76546048",
     .min = 4096,
     .max = AREA_MAX_BYTES,
     .help = "bytes of one sealed result: 64 MiB of output, 8 MiB of fingerprints, overhead"},
    {.name = "unproven-max-bytes",
     .type = CONFIG_INT,
     .dflt = "268435456",
     .min = 0,
     .max = 64 * GIB,
     .help = "bytes of pieces, of all jobs, that no manifest has vouched for yet"},
    {.name = "pending-max-bytes",
     .type = CONFIG_INT,
     .dflt = "1073741824",
     .min = 4096,
     .max = 1024 * GIB,
     .help = "bytes of results that are being received or held"},
    {.name = "max-pending",
     .type = CONFIG_INT,
     .dflt = "1024",
     .min = 1,
     .max = 1000000,
     .help = "how many results may be received or held at once"},
    {.name = "released-max-bytes",
     .type = CONFIG_INT,
     .dflt = "4294967296",
     .min = 4096,
     .max = 1024 * GIB,
     .help = "bytes of released results that wait to be fetched"},
    {.name = "result-timeout-ms",
     .type = CONFIG_INT,
     .dflt = "600000",
     .min = 1000,
     .max = 30 * DAY_MS,
     .help = "how long an incomplete result is kept"},
    {.name = "hold-timeout-ms",
     .type = CONFIG_INT,
     .dflt = "604800000",
     .min = 1000,
     .max = 365 * DAY_MS,
     .help = "a held result that nobody reviews is rejected after this"},
    {.name = "released-keep-ms",
     .type = CONFIG_INT,
     .dflt = "604800000",
     .min = 1000,
     .max = 365 * DAY_MS,
     .help = "how long a released result can be fetched"},
    {.name = "record-keep-ms",
     .type = CONFIG_INT,
     .dflt = "2592000000",
     .min = 60000,
     .max = 3650 * DAY_MS,
     .help = "how long decisions and releases of keys are remembered"},
};

static const struct handler handlers[] = {
    {SUBJ_RESULT, on_result},
    {SUBJ_KEY_RELEASE, on_release},
    {SUBJ_GATE_REVIEW, on_review},
    {SUBJ_RESULT_FETCH, on_fetch},
};

const struct service_def gate_service = {
    .id = SVC_GATE,
    .migrations = gate_migrations,
    .n_migrations = GATE_N_MIGRATIONS,
    .handlers = handlers,
    .n_handlers = ARRAY_LEN(handlers),
    .open = gate_open,
    .close = gate_close,
    .tick = on_tick,
    .next_tick_ms = next_tick,
    .config = items,
    .n_config = ARRAY_LEN(items),
};
