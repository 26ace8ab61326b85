/* What the KBS checks before a key leaves, in the order of docs/PROTOCOL.md, Key release. Each step
 * either holds or refuses with the clause that failed; nothing here writes.
 */
#ifndef COFFER_CHECKS_H
#define COFFER_CHECKS_H

#include "svc-kbs/kbs.h"
#include "svc-kbs/store.h"

#define RELEASE_KEYS_MAX (SPEC_MAX_DATASETS + SPEC_MAX_IMAGE_KEYS)

struct release_key {
    const char *id, *kind; /* borrowed: from the spec, static */
    struct secret *key;    /* owned */
    int64_t grant;         /* rowid of the grant used; 0 when none was needed */
};

/* What was found about one verdict; filled step by step. */
struct clearance {
    const Coffer__V1__Verdict *verdict; /* borrowed */
    struct ear *ear;
    struct release release; /* what is known of this attempt */
    struct spec *spec;
    struct jkey *consumer;
    struct release_key keys[RELEASE_KEYS_MAX];
    size_t n_keys;
};
void clearance_done(struct clearance *c);

/* 1a. The EAR is one of a trusted verifier's, and of the message's job and attempt. Also loads what
 * is known of that attempt. */
int check_verdict(struct svc *s, struct clearance *c, struct err *e);
/* Whether this very verdict was released to already, and no newer attempt was: 1, 0. A refusal (-1)
 * when another verdict was released to, or the release is stale or no longer kept. */
int check_repeat(struct svc *s, const struct clearance *c, struct err *e);
/* 1b-5. Everything else that a new release needs; fills the keys. */
int check_release(struct svc *s, struct clearance *c, struct err *e);

/* Gives an error that is the sender's doing a clause, when it has none; 0 when it is our own
 * trouble and so no refusal (ERR_INTERNAL, and what may pass: ERR_IO, ERR_BUSY, ERR_TIMEOUT). */
int as_refusal(struct err *why, const char *clause, const char *expected);

#endif
