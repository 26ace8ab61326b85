/* Fetches named things over HTTP(S) in the background of an event loop (libcurl): a few at a time,
 * each once, each bounded in size and time, and after a failure not again before a growing pause,
 * or the one that the server asks for (Retry-After). Nothing here believes what it fetches.
 */
#ifndef COFFER_FETCH_H
#define COFFER_FETCH_H

#include <ev.h>

#include "common/buf.h"

#define FETCH_MAX_BYTES (4u * 1024 * 1024)
#define FETCH_HEADER_MAX 16384u
#define FETCH_NAME_MAX 448
#define FETCH_URL_MAX 1024
#define FETCH_WAITING_MAX 256
#define FETCH_PAUSE_MIN_MS 1000
#define FETCH_PAUSE_MAX_MS (10 * 60 * 1000)

struct fetch_result {
    const char *name;
    int64_t retry_ms; /* on failure: not before this many milliseconds from now */
    long status;      /* HTTP; 0 when there was no answer */
    struct bytes body;
    /* The header that ends in "-Issuer-Chain", as it came (percent-encoded PEM), or "". */
    const char *issuer_chain;
};

struct fetch_opts {
    int timeout_ms;      /* of one whole fetch */
    unsigned parallel;   /* at once */
    const char *ca_file; /* who may vouch for the server, PEM; "" or NULL: the system's */
    /* Called from the loop for every fetch; `e` is NULL when the server answered 200. */
    void (*done)(void *arg, const struct fetch_result *r, const struct err *e);
    void *arg;
};

struct fetcher;

int fetcher_new(struct ev_loop *loop, const struct fetch_opts *o, struct fetcher **ret,
                struct err *e);
/* Ends what is under way without calling `done`. */
void fetcher_free(struct fetcher *f);
DEFINE_CLEANUP(struct fetcher *, fetcher_free);
/* Asks for `url` (http or https, of at most FETCH_URL_MAX characters) under that name. Nothing
 * happens when the name is waiting or under way already. ERR_BUSY: within the pause after a
 * failure, or too many wait; ERR_INVALID. */
int fetcher_get(struct fetcher *f, const char *name, const char *url, struct err *e);
size_t fetcher_pending(const struct fetcher *f);

#endif
