/* A nats-server of a test's own: on a loopback port, with TLS, nkeys and permissions as natsconf
 * makes them, in a directory of its own, provisioned. It dies with the test. */
#ifndef COFFER_NATS_FIXTURE_H
#define COFFER_NATS_FIXTURE_H

#include <sys/types.h>

#include "common/bus.h"

struct nats_fixture {
    char dir[128];  /* has a space in its name, to keep everybody honest */
    char conf[192]; /* <dir>/nats, where natsconf wrote */
    char url[64];
    uint16_t port;
    pid_t pid;               /* 0: not running */
    char seed[256], ca[256]; /* of the last nats_fixture_opts */
};

/* Whether nats-server is installed; a test program exits with 77 when not. */
int nats_fixture_available(void);
/* Configuration, server, streams and consumers. */
int nats_fixture_start(struct nats_fixture *f, const char *const *hosts, size_t n_hosts,
                       struct err *e);
/* SIGKILL, and waits for it to be gone. */
void nats_fixture_kill(struct nats_fixture *f);
/* Starts it again on the same port and store; returns when it accepts connections. */
int nats_fixture_restart(struct nats_fixture *f, struct err *e);
/* Ends the server and removes the directory. */
void nats_fixture_stop(struct nats_fixture *f);
/* Options of a service on it; strings belong to the fixture and change with the next call. */
struct bus_opts nats_fixture_opts(struct nats_fixture *f, enum service s, const char *host);

/* Starts `argv[0]` from the directory of the test program; its standard error goes to `log_path`
 * (NULL: the test's). 0 on failure. */
pid_t test_spawn(char *const *argv, const char *log_path);
/* Sends `sig` (0: none) and waits up to timeout_ms; then kills. The exit status, 128 + signal, or
 * -1 when it had to be killed. */
int test_reap(pid_t pid, int sig, int timeout_ms);
int64_t test_now_ms(void);
void test_sleep_ms(int ms);
/* Resident bytes of a process; 0 when unknown. */
size_t test_rss_bytes(pid_t pid);
/* Removes a directory and what is in it. */
void test_remove_tree(const char *dir);

#endif
