/* The key broker: keeps secrets sealed at rest, keeps the owners' grants, and releases keys against
 * verdicts. It checks everything itself and believes no other service (docs/PROTOCOL.md, Key
 * release; docs/OWNERS.md).
 */
#ifndef COFFER_KBS_H
#define COFFER_KBS_H

#include "common/engine.h"
#include "common/keyfile.h"
#include "common/trust.h"

extern const struct service_def kbs_service;

#define OWNER_JWS_TYP "coffer-owner+jws"
#define GRANT_JWS_TYP "coffer-grant+jws"
#define RELEASE_JWS_TYP "coffer-release+jws"

/* A release's JWE is kept so that the same verdict gets it again; that there was one is kept for
 * ever. */
#define RELEASE_KEEP_MS (60 * 60 * 1000)

/* svc->priv */
struct kbs {
    struct service_keys keys; /* sign, seal, kek */
    struct trust *trust;
    char *gate_jwk; /* gate_seal in JCS form */
};

/* handlers.c */
int kbs_on_verdict(struct svc *s, const struct msg *m, struct effects *fx, struct err *e);
int kbs_on_owner_command(struct svc *s, const struct msg *m, struct effects *fx, struct err *e);

#endif
