/* The collateral that this verifier holds: fetched once, kept in its database, refreshed before it
 * expires, used while it is valid, whatever becomes of the services it came from.
 *
 * An appraisal asks shelf_ready for what its evidence needs. What is not there is wanted: a row,
 * and an action to fetch it (service.c); the worker repeats its evidence until a verdict comes.
 * When fetching has failed a few times the appraisal goes on without, and says what it could not
 * check.
 */
#ifndef COFFER_SHELF_H
#define COFFER_SHELF_H

#include "appraise/collateral.h"
#include "appraise/needs.h"
#include "common/db.h"

#define SHELF_BODY_MAX_BYTES (4u * 1024 * 1024)
#define SHELF_CHAIN_MAX_BYTES (16u * 1024)
#define SHELF_ROWS_MAX 4096
/* Failures in a row after which an appraisal no longer waits. */
#define SHELF_FAILURES_WAITED 2

/* One thing on the shelf, or wanted there. */
struct shelf_row {
    struct need need;
    struct buf body;  /* empty: only wanted */
    struct buf chain; /* PEM: the issuer chain that came in a header */
    int64_t fetched_ms, issued_ms, valid_until_ms;
    int64_t next_ms; /* when to fetch it (again) */
    int64_t failures;
};
void shelf_row_done(struct shelf_row *r);

struct shelf; /* the rows' contents, parsed */

/* Parses all that is in the database. A row that no longer parses is left out, and fetched again.
 */
int shelf_open(struct db *db, struct certs *certs, struct shelf **ret, struct err *e);
void shelf_free(struct shelf *s);
DEFINE_CLEANUP(struct shelf *, shelf_free);
/* For appraisals; borrowed until the next shelf_put. */
struct collateral *shelf_collateral(struct shelf *s);

/* 1: all is there and valid at now_ms, or there is no hope; 0: wait, the names in *ret_wanted were
 * recorded and are to be fetched; -1. */
int shelf_ready(struct db *db, const struct needs *needs, int64_t now_ms, struct needs *ret_wanted,
                struct err *e);
/* A fetch's outcome. What came must be what the path says, and not older than what is held
 * (ERR_STALE, clause "collateral.issued"); the row is then kept as it was. `issuer_chain` is
 * percent-encoded PEM or "". */
int shelf_put(struct shelf *s, struct db *db, const struct need *need, struct bytes body,
              const char *issuer_chain, int64_t now_ms, struct err *e);
int shelf_failed(struct db *db, const struct need *need, int64_t now_ms, int64_t retry_ms,
                 struct err *e);
/* What is due for a fetch at now_ms, at most NEEDS_MAX; each is due again in a minute, unless
 * shelf_put or shelf_failed says otherwise. */
int shelf_due(struct db *db, int64_t now_ms, struct needs *ret, struct err *e);
/* INT64_MAX: never. */
int shelf_next_due(struct db *db, int64_t *ret_ms, struct err *e);

#endif
