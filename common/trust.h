/* Whom a service believes: the public keys of the other trusted parties, from one JSON file that
 * the operator of the trusted domain distributes (`coffer dev` and `coffer init` write it).
 *
 *   { "v": 1, "verifier": [JWK...], "kbs": [JWK...], "kbs_seal": JWK,
 *     "gate": [JWK...], "gate_seal": JWK, "reviewers": [JWK...],
 *     "release": [JWK...] }   optional: who signs reference values (common/refvals.h)
 *
 * Lists hold more than one key only while keys are rotated. A missing file or other member is an
 * error: no service starts without knowing whom to believe.
 */
#ifndef COFFER_TRUST_H
#define COFFER_TRUST_H

#include "common/jose.h"

#define TRUST_MAX_KEYS 8

struct trust_keys {
    struct jkey *keys[TRUST_MAX_KEYS];
    size_t n;
};

struct trust {
    struct trust_keys verifier, kbs, gate, reviewers, release;
    struct jkey *kbs_seal, *gate_seal;
};

int trust_read(const char *path, struct trust **ret, struct err *e);
int trust_from_json(const json_t *j, struct trust **ret, struct err *e);
void trust_free(struct trust *t);
DEFINE_CLEANUP(struct trust *, trust_free);

/* The key of that thumbprint, borrowed; NULL when the list has none. */
const struct jkey *trust_find(const struct trust_keys *keys, const char *thumbprint);

/* Verifies a JWS against the key of the list that its kid names. ERR_BAD_SIGNATURE with the clause
 * "<who>.signature" when the kid is no key of the list or the signature does not hold; ERR_INVALID,
 * ERR_TOO_LARGE when it is no such JWS at all. */
int trust_verify(const struct trust_keys *keys, const char *who, const char *jws, const char *typ,
                 size_t max, struct buf *ret_payload, struct err *e);

/* The claims of an EAR that Coffer relies on, from a token that verified and is well-formed. */
#define EAR_MAX_BYTES (128u * 1024)
#define EAR_LIFE_S 300 /* exp is at most this after iat */
#define EAR_SKEW_S 60  /* an iat this far ahead of our clock is still fine */
#define TEE_NAME_MAX 32

/* The AR4SI trustworthiness vector's members, and the status that follows from it: its worst tier
 * ("none" < "affirming" < "warning" < "contraindicated"). An EAR whose status says otherwise is
 * malformed. */
#define EAR_VECTOR_N 8
extern const char *const ear_vector_members[EAR_VECTOR_N];
const char *ear_vector_status(const int vector[EAR_VECTOR_N]);
/* Whether `tee` is 1 to TEE_NAME_MAX of [a-z0-9-]. */
int tee_name_valid(const char *tee);

struct ear {
    json_t *claims;                      /* owned */
    const char *job, *nonce, *jti, *tee; /* borrowed from claims */
    int64_t attempt, iat, exp;           /* seconds for iat, exp */
    const char *status;                  /* "affirming" | "warning" | "contraindicated" | "none" */
    struct jkey *cnf;                    /* owned: the TEE public key */
};
/* Signature by a verifier of the list, typ "JWT", exact profile, all members present. Does not
 * check exp: the caller knows at what time it matters (ear_check_time). */
int ear_verify(const struct trust *t, const char *token, struct ear **ret, struct err *e);
/* ERR_EXPIRED, clause "verdict.exp" or "verdict.iat". */
int ear_check_time(const struct ear *r, int64_t now_ms, struct err *e);
void ear_free(struct ear *r);
DEFINE_CLEANUP(struct ear *, ear_free);

/* What is hashed into evidence (docs/PROTOCOL.md, Attestation): report_data =
 * SHA-384(JCS(runtime_data)), zero-padded to 64 bytes. runtime_data =
 * {"attempt":int,"job":str,"nonce":b64url,"tee-pubkey":JWK{crv,kty,x,y}}. */
int runtime_data_make(const char *job, uint32_t attempt, struct bytes nonce, const struct jkey *tee,
                      char **ret_jcs, uint8_t ret_report_data[64], struct err *e);

/* The KBS's word that it carried out a command: without it whoever runs the bus could keep a revoke
 * from the KBS and answer it (docs/PROTOCOL.md, Owner commands). */
#define OWNER_PROOF_TYP "coffer-owner-reply+jws"
#define OWNER_PROOF_MAX_BYTES 2048
int owner_proof_make(const struct jkey *kbs, const char *command_jws, const char *reply_json,
                     int64_t now_s, char **ret_jws, struct err *e);
/* ERR_BAD_SIGNATURE (clause "kbs.signature"), ERR_DENIED ("proof.command", "proof.reply": of
 * another command, or another reply), ERR_INVALID. */
int owner_proof_verify(const struct trust *t, const char *proof_jws, const char *command_jws,
                       const char *reply_json, struct err *e);

#endif
