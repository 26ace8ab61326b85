/* The thin shell of every service: configuration, bus, clock and signals around an engine
 * (DESIGN §3). What one turn of the loop delivered is one transaction; after its commit the effects
 * leave and the messages are acknowledged.
 *
 * Exit status: 0 stopped as asked (SIGTERM, SIGINT), 1 failed, 2 wrong usage or configuration.
 */
#ifndef COFFER_SHELL_H
#define COFFER_SHELL_H

#include "common/bus.h"

struct shell;

/* For services that do more than answer messages; all may be NULL. */
struct shell_hooks {
    const char *about; /* one line for --help */
    /* An action (fx_action) whose transaction is durable. `data` is valid for the call. It may use
     * shell_call. -1 stops the service with status 1 (it has logged why). */
    int (*act)(struct shell *sh, int kind, struct bytes data);
    /* Before the loop starts: install watchers. -1 as for act. */
    int (*started)(struct shell *sh);
    /* A stop was asked for; the bus still works for at most 2 s. */
    void (*stopping)(struct shell *sh);
};

/* The whole life of a service process; returns its exit status. */
int service_main(const struct service_def *def, int argc, char **argv);
int service_main_hooks(const struct service_def *def, const struct shell_hooks *hooks, int argc,
                       char **argv);

struct ev_loop *shell_loop(struct shell *sh);
struct engine *shell_engine(struct shell *sh);
struct bus *shell_bus(struct shell *sh);
const struct config *shell_config(struct shell *sh);
void *shell_priv(struct shell *sh);
void shell_set_priv(struct shell *sh, void *priv);

/* Runs `fn` as engine_call in a transaction of its own, commits, and sends what came of it. From
 * watchers and hooks, not from handlers. -1: rolled back, nothing happened. */
int shell_call(struct shell *sh, engine_call_fn fn, void *arg, struct err *e);
/* Ends the loop with this exit status. */
void shell_stop(struct shell *sh, int status);

#endif
