/* Configuration from one table per program: command line (--name value) over environment
 * (COFFER_NAME) over file (name = value) over default. Unknown names are errors. */
#ifndef COFFER_CONFIG_H
#define COFFER_CONFIG_H

#include "common/err.h"

#include <stdint.h>

enum config_type { CONFIG_STR, CONFIG_INT, CONFIG_BOOL, CONFIG_PATH };

struct config_item {
    const char *name; /* lower case with '-' */
    enum config_type type;
    const char *dflt; /* NULL: required; "" is a value */
    int64_t min, max; /* CONFIG_INT */
    int secret;       /* its value is never printed */
    const char *help;
};

struct config;

/* The items every service has: nats-url, nats-ca, nats-seed, data-dir, trust, log-level, log-json,
 * host (launcher), config. */
extern const struct config_item config_common[];
extern const size_t n_config_common;

/* Handles --help and --version itself (prints, exits 0). Errors name the item, what was expected
 * and what came; ERR_INVALID, ERR_IO. `about` is one line for --help. */
int config_load(const char *program, const char *about, const struct config_item *items, size_t n,
                int argc, char **argv, struct config **ret, struct err *e);
/* For tests and the simulator: name, value, name, value, ..., NULL. Aborts on a wrong one. */
struct config *config_make(const struct config_item *items, size_t n, ...);
/* Abort on a name that the table does not have: a programming error. */
const char *config_str(const struct config *c, const char *name);
int64_t config_int(const struct config *c, const char *name);
int config_bool(const struct config *c, const char *name);
/* "name=value ..." with secrets masked; for the start-up log. Caller frees. */
char *config_describe(const struct config *c);
void config_free(struct config *c);
DEFINE_CLEANUP(struct config *, config_free);

#endif
