/* Everything nats-server needs, made from the subjects table: a CA and a server certificate, an
 * nkey per user with exactly the permissions its service needs, and nats-server.conf.
 *
 *   <dir>/ca.pem  ca-key.pem  server.pem  server-key.pem
 *   <dir>/admin.seed  client.seed  scheduler.seed  worker.seed  verifier.seed  kbs.seed  gate.seed
 *   <dir>/launcher-<host>.seed     one per host: a launcher gets at its own host's work only
 *   <dir>/nats-server.conf  nats-server.pid  js/
 */
#ifndef COFFER_NATSCONF_H
#define COFFER_NATSCONF_H

#include <stdint.h>

#include "common/err.h"
#include "proto/subjects.h"

struct natsconf_opts {
    const char *dir;          /* absolute; created with mode 0700 if missing */
    const char *listen_host;  /* address to listen on */
    uint16_t port;            /* not 0: pick one before */
    const char *const *names; /* beside localhost, 127.0.0.1 and ::1: DNS names or addresses */
    size_t n_names;
    const char *const *hosts; /* launchers */
    size_t n_hosts;
    uint16_t monitor_port;   /* 0: none; listens on 127.0.0.1 */
    int64_t max_store_bytes; /* 0: 16 GiB; at least the sum of the streams' caps */
};

/* Writes all of it. What exists of CA and seeds is kept, so running it again changes permissions
 * and renews the server's certificate only. Private files get mode 0600. ERR_INVALID (an option;
 * names it), ERR_IO, ERR_INTERNAL. */
int natsconf_write(const struct natsconf_opts *o, struct err *e);
/* "<dir>/<file>" of a user's seed: service and, for the launcher, its host. Caller frees. */
char *natsconf_seed_path(const char *dir, enum service s, const char *host);
/* A free TCP port on 127.0.0.1 for tests and demos (another process may still take it). 0 on error.
 */
uint16_t natsconf_free_port(void);

#define PERMS_MAX 64
struct perms {
    char v[PERMS_MAX][160]; /* as nats-server writes them; "subject queue" for queue groups */
    size_t n;
};
/* What a service may publish and subscribe to; nothing else is allowed. `host`: the launcher's. */
void natsconf_permissions(enum service s, const char *host, struct perms *ret_publish,
                          struct perms *ret_subscribe);
void natsconf_admin_permissions(struct perms *ret_publish, struct perms *ret_subscribe);

#endif
