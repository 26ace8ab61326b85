#include "svc-gate/gate_int.h"

#define NO (-1)

/* Rows: from. Columns: event. NO: refused. */
static const signed char next_state[RS_N][EV_N] = {
    [RS_NONE] = {[EV_MANIFEST] = RS_COLLECTING,
                 [EV_RELEASE] = NO,
                 [EV_HOLD] = NO,
                 [EV_REJECT] = NO,
                 [EV_FAIL] = NO,
                 [EV_APPROVE] = NO,
                 [EV_DENY] = NO,
                 [EV_EXPIRE] = NO,
                 [EV_TIMEOUT] = NO,
                 [EV_FENCE] = NO},
    [RS_COLLECTING] = {[EV_MANIFEST] = NO,
                       [EV_RELEASE] = RS_RELEASED,
                       [EV_HOLD] = RS_HELD,
                       [EV_REJECT] = RS_REJECTED,
                       [EV_FAIL] = RS_FAILED,
                       [EV_APPROVE] = NO,
                       [EV_DENY] = NO,
                       [EV_EXPIRE] = NO,
                       [EV_TIMEOUT] = RS_NONE,
                       [EV_FENCE] = RS_SUPERSEDED},
    [RS_HELD] = {[EV_MANIFEST] = NO,
                 [EV_RELEASE] = NO,
                 [EV_HOLD] = NO,
                 [EV_REJECT] = NO,
                 [EV_FAIL] = NO,
                 [EV_APPROVE] = RS_RELEASED,
                 [EV_DENY] = RS_REJECTED,
                 [EV_EXPIRE] = RS_REJECTED,
                 [EV_TIMEOUT] = NO,
                 [EV_FENCE] = RS_SUPERSEDED},
    [RS_RELEASED] = {NO, NO, NO, NO, NO, NO, NO, NO, NO, NO},
    [RS_REJECTED] = {NO, NO, NO, NO, NO, NO, NO, NO, NO, NO},
    [RS_FAILED] = {NO, NO, NO, NO, NO, NO, NO, NO, NO, NO},
    [RS_SUPERSEDED] = {NO, NO, NO, NO, NO, NO, NO, NO, NO, NO},
};

static const char *const event_needs[EV_N] = {
    [EV_MANIFEST] = "none yet",  [EV_RELEASE] = "collecting",
    [EV_HOLD] = "collecting",    [EV_REJECT] = "collecting",
    [EV_FAIL] = "collecting",    [EV_APPROVE] = "held",
    [EV_DENY] = "held",          [EV_EXPIRE] = "held",
    [EV_TIMEOUT] = "collecting", [EV_FENCE] = "collecting, held",
};

const char *result_state_name(enum result_state st)
{
    switch (st) {
    case RS_NONE:
        return "none";
    case RS_COLLECTING:
        return "collecting";
    case RS_HELD:
        return "held";
    case RS_RELEASED:
        return "released";
    case RS_REJECTED:
        return "rejected";
    case RS_FAILED:
        return "failed";
    case RS_SUPERSEDED:
        return "superseded";
    case RS_N:
        break;
    }
    return "unknown";
}

int admission_next(enum result_state st, enum result_event ev, enum result_state *ret,
                   struct err *e)
{
    if ((unsigned)st >= RS_N || (unsigned)ev >= EV_N) {
        return err_set(e, ERR_INTERNAL, "result: state %d, event %d", (int)st, (int)ev);
    }
    if (next_state[st][ev] == NO) {
        return err_refuse(e, ERR_WRONG_STATE, "result.state", event_needs[ev], "%s",
                          result_state_name(st));
    }
    *ret = (enum result_state)next_state[st][ev];
    return 0;
}

int admission_apply(struct svc *s, struct attempt_id id, enum result_event ev, int64_t expires_ms,
                    struct err *e)
{
    _cleanup_(result_row_done) struct result_row row = {0};
    enum result_state to;

    if (store_result_get(s->db, id, &row, e) || admission_next(row.state, ev, &to, e)) {
        return -1;
    }
    /* Only what is collecting or held still needs its pieces. */
    if (to != RS_HELD && store_pieces_delete(s->db, id, e)) {
        return -1;
    }
    if (to == RS_NONE) {
        return store_result_delete(s->db, id, e);
    }
    return store_result_set(s->db, id, to, expires_ms, e);
}

int admission_start(struct svc *s, struct attempt_id id, const char *cnf, const char *manifest_jws,
                    const struct result_manifest *m, int64_t expires_ms, struct err *e)
{
    _cleanup_(result_row_done) struct result_row old = {0};
    struct result_row row = {.chunks = m->chunks,
                             .bytes = m->bytes,
                             .digests = (uint8_t *)m->chunk_sha256,
                             .manifest_jws = (char *)(uintptr_t)manifest_jws,
                             .since_ms = s->now_ms,
                             .expires_ms = expires_ms};

    if (store_result_get(s->db, id, &old, e) ||
        admission_next(old.state, EV_MANIFEST, &row.state, e)) {
        return -1;
    }
    snprintf(row.cnf, sizeof(row.cnf), "%s", cnf);
    return store_result_add(s->db, id, &row, e);
}
