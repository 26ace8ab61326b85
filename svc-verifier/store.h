/* All SQL of the verifier. Called inside the engine's transaction. */
#ifndef COFFER_VERIFIER_STORE_H
#define COFFER_VERIFIER_STORE_H

#include "common/db.h"
#include "common/spec.h"
#include "svc-verifier/appraisal_state.h"
#include "svc-verifier/shelf.h"

extern const char *const verifier_migrations[3];

/* 1 and the challenge, 0 when there is none of that nonce, -1. */
int verifier_store_get(struct db *db, struct bytes nonce, struct challenge *ret, struct err *e);
/* Appends the answer (a packed Verdict without its spec) to ret. */
int verifier_store_answer(struct db *db, struct bytes nonce, struct buf *ret, struct err *e);
/* Unexpired ones without an answer, of one job. */
int verifier_store_outstanding(struct db *db, const char *job, int64_t now_ms, int64_t *ret,
                               struct err *e);
/* How many rows there are in all. */
int verifier_store_totals(struct db *db, int64_t *ret_outstanding, int64_t *ret_answered,
                          struct err *e);
/* How many verdicts of this attempt were sent before this one: the n of its message id. */
int verifier_store_count_send(struct db *db, const char *job, uint32_t attempt, int64_t *ret_n,
                              struct err *e);
/* Deletes up to `limit` rows that are kept no longer. */
int verifier_store_prune(struct db *db, int64_t now_ms, int64_t limit, struct err *e);
/* The earliest time at which a row is kept no longer; INT64_MAX without rows. */
int verifier_store_next_prune(struct db *db, int64_t *ret_ms, struct err *e);

/* The shelf (shelf.h); for shelf.c only. 1 and the row, 0 when there is none, -1. */
int verifier_store_shelf_get(struct db *db, const struct need *need, struct shelf_row *ret,
                             struct err *e);
/* Nothing happens when the shelf is full. */
int verifier_store_shelf_want(struct db *db, const struct need *need, int64_t next_ms,
                              struct err *e);
int verifier_store_shelf_put(struct db *db, const struct shelf_row *row, struct err *e);
int verifier_store_shelf_failed(struct db *db, const struct need *need, int64_t next_ms,
                                struct err *e);
int verifier_store_shelf_due(struct db *db, int64_t now_ms, int64_t again_ms, struct needs *ret,
                             struct err *e);
int verifier_store_shelf_next_due(struct db *db, int64_t *ret_ms, struct err *e);
int verifier_store_shelf_each(struct db *db,
                              int (*fn)(void *arg, const struct need *need, struct bytes body,
                                        struct bytes chain, struct err *e),
                              void *arg, struct err *e);

/* For appraisal_state.c only. */
int verifier_store_insert(struct db *db, const struct challenge *c, int64_t attempt_until_ms,
                          struct err *e);
int verifier_store_set_answer(struct db *db, const struct challenge *c, int64_t keep_until_ms,
                              struct bytes answer, struct err *e);

#endif
