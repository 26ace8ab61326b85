/* The client's side of the bus, and what it needs: the profile that `coffer dev` or an operator
 * wrote, and the identity key. All of it is found and opened when it is first asked for.
 *
 * A profile is a directory with profile.json {"v":1,"nats_url":str,"store":path (optional)},
 * nats-ca.pem, client.seed (mode 0600) and trust.json. It is --profile, else $COFFER_PROFILE, else
 * "client" in --data, $COFFER_DATA or the default data directory.
 */
#ifndef COFFER_CLI_CLIENT_H
#define COFFER_CLI_CLIENT_H

#include "cli/cli.h"
#include "common/bus.h"
#include "common/spec.h"
#include "common/trust.h"

#define CLIENT_TIMEOUT_MS 10000
#define CLIENT_CONNECT_MS 5000

/* Paths; the caller frees. */
char *client_profile_dir(struct cli *c);
char *client_data_dir(struct cli *c); /* --data, $COFFER_DATA, $XDG_DATA_HOME/coffer */
char *client_config_dir(void);        /* $XDG_CONFIG_HOME/coffer */
char *client_identity_path(struct cli *c);
char *client_image_key_dir(void);

/* All borrowed from `c`; the errors come with a hint. */
int client_identity(struct cli *c, struct jkey **ret, struct err *e);
int client_trust(struct cli *c, const struct trust **ret, struct err *e);
int client_bus(struct cli *c, struct bus **ret, struct err *e);
/* The store of sealed datasets and image blobs: --store, else the profile's. ERR_NOT_FOUND. */
int client_store(struct cli *c, const char **ret, struct err *e);
struct ev_loop *client_loop(struct cli *c);
/* What core subscriptions receive; its strings are cleaned. Messages are freed after the call. */
typedef void (*client_msg_fn)(void *arg, enum subject s, const ProtobufCMessage *m);
void client_on_msg(struct cli *c, client_msg_fn fn, void *arg);
void client_free(struct client *k);

/* One request. A Refusal becomes an error (and c->by); strings of the reply are cleaned. The reply
 * has the body that was asked for, or it is ERR_INVALID. */
int client_ask(struct cli *c, enum subject s, const ProtobufCMessage *m,
               Coffer__V1__Reply__BodyCase want, Coffer__V1__Reply **ret, struct err *e);
/* As client_ask, of a Refusal in hand. */
int client_refused(struct cli *c, const Coffer__V1__Refusal *r, struct err *e);
/* Cleans every string of a message, by its descriptor (see cli_clean). */
void client_clean(ProtobufCMessage *m);
void client_clean_json(json_t *j);

static inline void replyp_free(Coffer__V1__Reply **r)
{
    if (*r) {
        coffer__v1__reply__free_unpacked(*r, NULL);
    }
}
#define _cleanup_reply_ _cleanup_(replyp_free)

/* Signs {..., "v":1, "iat": now} with the identity key and asks the KBS. *ret is the reply's JSON.
 */
int client_owner_command(struct cli *c, json_t *payload_steal, json_t **ret, struct err *e);

/* A whole id, "@last", or a unique prefix of at least 4 characters of a job that the scheduler
 * knows. */
int client_find_job(struct cli *c, const char *name, char ret[JOB_ID_LEN + 1], struct err *e);
void client_remember_job(struct cli *c, const char *job);
/* The job's status; free the reply. */
int client_job_status(struct cli *c, const char *job, Coffer__V1__Reply **ret, struct err *e);

int64_t now_ms(void);
/* "2026-11-21 00:15:53" local time, in a buffer of the caller. */
const char *time_text(int64_t ms, char out[32]);
/* "1.5 MiB" */
const char *bytes_text(uint64_t n, char out[32]);
/* "3m 04s" */
const char *duration_text(int64_t ms, char out[32]);

#endif
