/* What the files of svc-gate share. */
#ifndef COFFER_SVC_GATE_GATE_INT_H
#define COFFER_SVC_GATE_GATE_INT_H

#include "common/keyfile.h"
#include "common/result.h"
#include "svc-gate/gate.h"

struct gate {
    struct trust *trust;
    struct service_keys keys;
};

static inline struct gate *gate_of(const struct svc *s)
{
    return s->priv;
}

/* Which attempt of which job; borrowed. */
struct attempt_id {
    const char *job;
    int64_t n;
};

/* ---- admission_state.c: the states of one attempt's result, and their only writer ---- */

/* Values are kept in the database: append only. */
enum result_state {
    RS_NONE = 0,       /* no row: at most pieces that nobody has vouched for */
    RS_COLLECTING = 1, /* its manifest is proven, pieces are missing */
    RS_HELD = 2,
    RS_RELEASED = 3,
    RS_REJECTED = 4,
    RS_FAILED = 5,
    RS_SUPERSEDED = 6, /* a newer attempt has keys */
    RS_N
};
enum result_event {
    EV_MANIFEST, /* proven */
    EV_RELEASE,
    EV_HOLD,
    EV_REJECT, /* by score or inspection */
    EV_FAIL,   /* the TEE says so */
    EV_APPROVE,
    EV_DENY,    /* by a reviewer */
    EV_EXPIRE,  /* nobody reviewed it */
    EV_TIMEOUT, /* pieces never came */
    EV_FENCE,
    EV_N
};
const char *result_state_name(enum result_state st);
/* ERR_WRONG_STATE, clause "result.state". */
int admission_next(enum result_state st, enum result_event ev, enum result_state *ret,
                   struct err *e);
/* Moves a result that has a row; EV_MANIFEST is admission_start's. `expires_ms` is when the new
 * state ends by itself. To RS_NONE deletes the row. */
int admission_apply(struct svc *s, struct attempt_id id, enum result_event ev, int64_t expires_ms,
                    struct err *e);
int admission_start(struct svc *s, struct attempt_id id, const char *cnf, const char *manifest_jws,
                    const struct result_manifest *m, int64_t expires_ms, struct err *e);

/* ---- store.c, store_pieces.c ---- */

#define GATE_N_MIGRATIONS 1
extern const char *const gate_migrations[GATE_N_MIGRATIONS];

struct result_row {
    enum result_state state;
    char cnf[JKEY_THUMBPRINT_LEN + 1];
    char *manifest_jws; /* owned */
    uint8_t *digests;   /* owned; 32 bytes for each chunk */
    uint32_t chunks;
    uint64_t bytes;
    int64_t expires_ms, since_ms;
};
void result_row_done(struct result_row *r);
/* state RS_NONE when there is none. */
int store_result_get(struct db *db, struct attempt_id id, struct result_row *ret, struct err *e);
int store_result_add(struct db *db, struct attempt_id id, const struct result_row *r,
                     struct err *e); /* admission_state.c only, as the next two */
int store_result_set(struct db *db, struct attempt_id id, enum result_state st, int64_t expires_ms,
                     struct err *e);
int store_result_delete(struct db *db, struct attempt_id id, struct err *e);
/* How many results are collecting or held, and the bytes they declare. */
int store_pending(struct db *db, int64_t *ret_n, int64_t *ret_bytes, struct err *e);
/* One open result of the job that is older than `attempt`: 1 and its attempt, 0, -1. */
int store_older_open(struct db *db, struct attempt_id id, int64_t *ret_attempt, struct err *e);
/* One result in `st` that expired: 1 and which, 0, -1. */
int store_expired(struct db *db, enum result_state st, int64_t now_ms, char ret_job[JOB_ID_LEN + 1],
                  int64_t *ret_attempt, struct err *e);

int store_fence_add(struct db *db, struct attempt_id id, const char *cnf, int64_t expires_ms,
                    struct err *e);
/* "" when no release is known. */
int store_fence_get(struct db *db, struct attempt_id id, char ret_cnf[JKEY_THUMBPRINT_LEN + 1],
                    struct err *e);
int store_fence_latest(struct db *db, const char *job, int64_t *ret, struct err *e); /* 0: none */

/* Manifests that wait for their release. */
int store_candidate_add(struct db *db, struct attempt_id id, const char *cnf, const char *jws,
                        int64_t expires_ms, struct err *e);
int store_candidate_count(struct db *db, struct attempt_id id, int64_t *ret, int64_t *ret_all,
                          struct err *e);
int store_candidate_get(struct db *db, struct attempt_id id, const char *cnf, char **ret_jws,
                        struct err *e); /* NULL when there is none */
/* Sets when it is to be tried again; and one that is due: 1, 0, -1. */
int store_candidate_retry(struct db *db, struct attempt_id id, const char *cnf, int64_t at_ms,
                          struct err *e);
int store_candidate_due(struct db *db, int64_t now_ms, char ret_job[JOB_ID_LEN + 1],
                        int64_t *ret_attempt, char ret_cnf[JKEY_THUMBPRINT_LEN + 1], struct err *e);
int store_candidates_delete(struct db *db, struct attempt_id id, struct err *e);

enum piece_trust { PIECE_UNPROVEN = 0, PIECE_PROVEN = 1 };
/* What one stored piece costs at least: a million tiny ones are as bad as a few large ones. */
#define PIECE_MIN_COST_BYTES 16384
int store_piece_add(struct db *db, struct attempt_id id, uint32_t index, const uint8_t digest[32],
                    struct bytes data, enum piece_trust t, int64_t expires_ms, struct err *e);
int store_piece_has(struct db *db, struct attempt_id id, uint32_t index, const uint8_t digest[32],
                    int *ret, struct err *e);
int store_piece_versions(struct db *db, struct attempt_id id, uint32_t index, int64_t *ret,
                         struct err *e);
/* Cost of the unproven pieces of one attempt, and of all. */
int store_unproven_cost(struct db *db, struct attempt_id id, int64_t *ret, int64_t *ret_all,
                        struct err *e);
/* Keeps the pieces whose digest the manifest names, as proven, and deletes the others. */
int store_pieces_prove(struct db *db, struct attempt_id id, const struct result_manifest *m,
                       struct err *e);
int store_pieces_proven(struct db *db, struct attempt_id id, int64_t *ret, struct err *e);
int store_pieces_read(struct db *db, struct attempt_id id, struct buf *ret, struct err *e);
int store_pieces_delete(struct db *db, struct attempt_id id, struct err *e);

struct decision_row {
    int64_t attempt, revision, score, at_ms;
    Coffer__V1__GateOutcome outcome;
    json_t *reasons, *files; /* owned arrays */
    char *jws;               /* owned */
};
void decision_row_done(struct decision_row *d);
int store_decision_add(struct db *db, struct attempt_id id, const struct decision_row *d,
                       struct err *e);
/* The last revision; 1, 0 (none), -1. */
int store_decision_last(struct db *db, struct attempt_id id, struct decision_row *ret,
                        struct err *e);
/* The newest attempt of the job that has a result row that is decided; 0: none. */
int store_decided_attempt(struct db *db, const char *job, int64_t *ret, struct err *e);
/* Held results, oldest first: 1 and the next after (since_ms, job), 0, -1. */
int store_held_next(struct db *db, int64_t after_ms, const char *after_job,
                    char ret_job[JOB_ID_LEN + 1], int64_t *ret_attempt, int64_t *ret_since_ms,
                    struct err *e);

int store_released_bytes(struct db *db, int64_t *ret, struct err *e);
int store_released_add(struct db *db, struct attempt_id id, const char *header_json,
                       struct bytes sealed, int64_t expires_ms, struct err *e);
/* *ret_bytes 0 when there is none. */
int store_released_info(struct db *db, struct attempt_id id, char **ret_header_json,
                        int64_t *ret_bytes, struct err *e);
int store_released_read(struct db *db, struct attempt_id id, uint64_t offset, size_t n,
                        struct buf *ret, struct err *e);

/* Deletes what expired and has no decision to make: unproven pieces, candidates, released streams,
 * records; at most `limit` rows of each. */
int store_sweep(struct db *db, int64_t now_ms, int64_t limit, struct err *e);
int64_t store_next_expiry(struct db *db);

/* ---- inspect.c ---- */

/* Whether the content is what its declared type says; the refusal names "<clause>". */
int inspect_type(const char *clause, const char *type, struct bytes content, struct err *e);
int inspect_utf8(struct bytes in, int printable, size_t *ret_bad_at);
int inspect_json(struct bytes in, size_t *ret_bad_at); /* 0 when it is one JSON text */
int inspect_csv(struct bytes in, size_t *ret_row, size_t *ret_want, size_t *ret_columns);
/* Shannon entropy of the bytes, in thousandths of a bit for each. */
uint32_t inspect_entropy(struct bytes in);
/* How many of the file's aligned blocks have a hash in the sorted list. */
int inspect_verbatim(struct fp_hasher *h, const uint64_t *sorted, size_t n, struct bytes content,
                     uint64_t *ret_blocks, uint64_t *ret_verbatim, struct err *e);

/* ---- score.c ---- */

#define SCORE_MAX_REASONS 8
#define SCORE_ENTROPY_MIN_BYTES 512
#define SCORE_ENTROPY_LIMIT                                                                        \
    5800 /* thousandths of a bit; base64 has 6000, CSV and prose below 5000 */

struct score_facts {
    uint64_t bytes, max_bytes;
    uint64_t blocks, verbatim_blocks, input_bytes;
    uint64_t fp_count, fp_total;
    uint32_t max_verbatim_percent;
    uint32_t octet_files, dense_files; /* dense: text with too much entropy */
    uint32_t max_entropy;              /* of the dense ones */
};
struct score {
    uint32_t points; /* 0..100 */
    char *reasons[SCORE_MAX_REASONS];
    size_t n;
};
void score_compute(const struct score_facts *f, struct score *ret);
void score_done(struct score *s);

/* ---- admit.c: what arrives ---- */

int admit_chunk(struct svc *s, struct attempt_id id, const Coffer__V1__ResultChunk *c,
                struct effects *fx, struct err *e);
int admit_manifest(struct svc *s, struct attempt_id id, const char *jws, struct effects *fx,
                   struct err *e);
int admit_release(struct svc *s, struct attempt_id id, const char *release_jws, struct effects *fx,
                  struct err *e);

/* Manifests whose release is here, but for which there was no room. */
int admit_retry(struct svc *s, struct effects *fx, struct err *e);

/* ---- decide.c: what becomes of a complete result ---- */

/* Everything that the proven manifest says, opened again. */
struct opened {
    struct result_manifest m;
    struct spec *spec;
    struct jkey *consumer;
    struct ear *ear;
    struct result_box box;
    struct area *plain; /* NULL for a failed one */
};
int opened_load(struct svc *s, struct attempt_id id, const struct result_row *row,
                struct opened *ret, struct err *e);
void opened_done(struct opened *o);

struct verdict {
    Coffer__V1__GateOutcome outcome;
    struct score score;
    struct err reason; /* code NONE: none */
    json_t *files;     /* owned array or NULL */
    const char *reviewer;
};
void verdict_done(struct verdict *v);

/* If every piece is there, inspects and decides. */
int decide_if_complete(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e);
/* Signs, stores and publishes; `revision` 1 for the first. */
int decision_record(struct svc *s, struct attempt_id id, const struct opened *o,
                    const struct verdict *v, int64_t revision, struct effects *fx, struct err *e);

/* ---- release.c ---- */

/* Seals the files anew to the spec's recipients and stores that; *ret_files is the decision's list.
 * ERR_BUSY when it does not fit into released-max-bytes. */
int release_output(struct svc *s, struct attempt_id id, const struct opened *o, json_t **ret_files,
                   struct err *e);
int release_fetch(struct svc *s, const struct msg *m, const Coffer__V1__FetchResult *q,
                  struct effects *fx, struct err *e);

/* ---- review.c ---- */

#define REVIEW_LIST_MAX 100
int review_handle(struct svc *s, const struct msg *m, const Coffer__V1__ReviewRequest *q,
                  struct effects *fx, struct err *e);
int review_expire(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e);
/* A newer attempt has keys: the held result of this one is rejected, and that is told. */
int review_supersede(struct svc *s, struct attempt_id id, struct effects *fx, struct err *e);

#endif
