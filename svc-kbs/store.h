/* All SQL of the KBS. Called inside the engine's transaction, but for the meta values. */
#ifndef COFFER_KBS_STORE_H
#define COFFER_KBS_STORE_H

#include "common/db.h"
#include "common/keybox.h"
#include "svc-kbs/grant.h"
#include "svc-kbs/release_state.h"

extern const char *const kbs_migrations[1];

/* Named values, e.g. the KEK check. 1 and the value appended, 0 when there is none, -1. */
int kbs_store_meta_get(struct db *db, const char *name, struct buf *ret, struct err *e);
int kbs_store_meta_put(struct db *db, const char *name, struct bytes value, struct err *e);

/* ---- secrets ---- */

struct stored_secret {
    char id[KEYBOX_ID_MAX + 1];
    char kind[16];
    char owner[JKEY_THUMBPRINT_LEN + 1];
    char owner_jwk[256];
    char backend[16];
    struct buf ref; /* owned */
    int64_t created_ms;
};
void stored_secret_done(struct stored_secret *s);
int kbs_store_secret_count(struct db *db, int64_t *ret, struct err *e);
/* 1, 0, -1. `ret` needs no initialisation. */
int kbs_store_secret_get(struct db *db, const char *id, struct stored_secret *ret, struct err *e);
int kbs_store_secret_put(struct db *db, const struct stored_secret *s, struct err *e);

/* ---- grants ---- */

struct stored_grant {
    int64_t rowid;
    char *jws; /* owned */
    int revoked;
};
struct stored_grants {
    struct stored_grant *v;
    size_t n;
};
void stored_grants_done(struct stored_grants *g);
/* Of one secret: those in force first, then newest first; at most `limit`. */
int kbs_store_grants(struct db *db, const char *secret, int64_t now_s, int64_t limit,
                     struct stored_grants *ret, struct err *e);
/* 1 and the grant's payload appended and whether it is revoked, 0 when the owner has no such grant.
 */
int kbs_store_grant_get(struct db *db, const char *owner, const char *id, struct buf *ret_payload,
                        int *ret_revoked, struct err *e);
int kbs_store_grant_put(struct db *db, const char *owner, const struct grant *g, const char *jws,
                        struct bytes payload, int64_t now_ms, struct err *e);
int kbs_store_grant_revoke(struct db *db, const char *owner, const char *id, struct err *e);
int kbs_store_grant_used(struct db *db, int64_t rowid, struct err *e);

/* How much there is: in all, of one owner, and in force for one secret. */
struct kbs_counts {
    int64_t secrets, secrets_of_owner, grants, grants_of_owner, in_force;
};
int kbs_store_counts(struct db *db, const char *owner, const char *secret, int64_t now_s,
                     struct kbs_counts *ret, struct err *e);
/* The owner's own, as the lists of the `list` reply, at most `max` bytes of JSON each. New
 * references. *ret_truncated is set when there is more. */
int kbs_store_list(struct db *db, const char *owner, int64_t now_s, size_t max,
                   json_t **ret_secrets, json_t **ret_grants, int *ret_truncated, struct err *e);

/* ---- commands seen ---- */

/* 1 when it was new and is now remembered, 0 when it was seen, -1. ERR_BUSY at the bound. */
int kbs_store_remember(struct db *db, const uint8_t sha256[32], int64_t until_ms, struct err *e);

/* ---- releases ---- */

/* Fills *ret (state RELEASE_NONE when there is no row). */
int kbs_store_release_get(struct db *db, const char *job, uint32_t attempt, struct release *ret,
                          struct err *e);
/* The highest attempt of the job that had a release, 0 when none. */
int kbs_store_released_attempt(struct db *db, const char *job, int64_t *ret, struct err *e);
/* Whether any attempt was released to this verdict. */
int kbs_store_jti_used(struct db *db, const char *jti, int *ret, struct err *e);
/* For release_state.c only. */
int kbs_store_release_put(struct db *db, const struct release *r, int64_t keep_until_ms,
                          struct err *e);
int kbs_store_release_sent(struct db *db, const struct release *r, struct err *e);

/* ---- pruning ---- */

/* Forgets, up to `limit` of each: commands, refused releases, JWEs of old releases, and grants that
 * expired GRANT_KEEP_S ago. */
#define GRANT_KEEP_S (30 * 24 * 3600)
int kbs_store_prune(struct db *db, int64_t now_ms, int64_t limit, struct err *e);
int kbs_store_next_prune(struct db *db, int64_t *ret_ms, struct err *e);

#define SECRETS_MAX 100000
#define SECRETS_PER_OWNER_MAX 4096
#define GRANTS_MAX 200000
#define GRANTS_PER_OWNER_MAX 4096
#define GRANTS_IN_FORCE_MAX 64 /* of one secret */
#define COMMANDS_SEEN_MAX 200000

#endif
