/* Owner commands: what data owners tell the KBS (docs/PROTOCOL.md, Owner commands). */
#ifndef COFFER_OWNER_H
#define COFFER_OWNER_H

#include "svc-kbs/kbs.h"

#define OWNER_SKEW_S (5 * 60)
#define OWNER_SEEN_MS                                                                              \
    (10 * 60 * 1000) /* twice the skew: no command is both fresh and forgotten                     \
                      */
#define OWNER_COMMAND_MAX_BYTES 65536u
#define OWNER_LIST_MAX_BYTES (384u * 1024) /* of secrets, and of grants */

/* Verifies and carries out one command; *ret_json is the reply in JCS form, owned by the caller.
 * Refusals carry a clause: "command.signature", "command.iat", "command" (replay, ERR_REPLAY),
 * "secret...", "grant...", "jwe..."; what a refusal leaves behind is only that the command was
 * seen. */
int owner_command(struct svc *s, const char *command_jws, char **ret_json, struct err *e);

#endif
