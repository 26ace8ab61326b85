#include "svc-verifier/fetch.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <dlfcn.h>
#include <strings.h>
#include <time.h>

#include "common/secret.h"

#define REMEMBERED_MAX 1024

/* libcurl brings some thirty libraries with it, 4 MiB of an idle service, and most verifiers fetch
 * seldom or never: so it is loaded when the first thing is fetched. */
#define LIBCURL "libcurl.so.4"
#define API(X)                                                                                     \
    X(easy_init)                                                                                   \
    X(easy_setopt)                                                                                 \
    X(easy_getinfo)                                                                                \
    X(easy_cleanup)                                                                                \
    X(easy_strerror)                                                                               \
    X(multi_init)                                                                                  \
    X(multi_setopt)                                                                                \
    X(multi_add_handle)                                                                            \
    X(multi_remove_handle)                                                                         \
    X(multi_cleanup)                                                                               \
    X(multi_info_read)                                                                             \
    X(multi_socket_action)                                                                         \
    X(multi_assign)                                                                                \
    X(global_init)

static struct {
#define X(name) __typeof__(&curl_##name) name;
    API(X)
#undef X
} api;

/* One fetch, waiting or under way. */
struct get {
    struct fetcher *f;
    struct get *next;
    CURL *easy; /* NULL: waiting */
    char name[FETCH_NAME_MAX + 1], url[FETCH_URL_MAX + 1];
    struct buf body;
    char *chain;
    int64_t retry_after_ms;
    char why[CURL_ERROR_SIZE];
};

/* A name that failed lately. */
struct failure {
    struct failure *next;
    char name[FETCH_NAME_MAX + 1];
    int64_t not_before_ms, pause_ms;
};

struct fetcher {
    struct ev_loop *loop;
    struct fetch_opts o;
    char *ca_file;
    CURLM *multi;
    ev_timer timer;
    struct get *gets;
    size_t n_gets, n_running;
    struct failure *failures;
    size_t n_failures;
};

/* One socket that libcurl wants to hear of. */
struct watch {
    ev_io io;
    struct fetcher *f;
};

static int64_t monotonic_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- failures -------------------------------------------------------------------------------- */

static struct failure **find_failure(struct fetcher *f, const char *name)
{
    struct failure **at = &f->failures;

    while (*at && !streq((*at)->name, name)) {
        at = &(*at)->next;
    }
    return at;
}

static void forget_failure(struct fetcher *f, struct failure **at)
{
    struct failure *x = *at;

    if (x) {
        *at = x->next;
        f->n_failures--;
        free(x);
    }
}

/* Doubles the pause, with a quarter of it left to chance, so that many verifiers do not come back
 * at once. */
static int64_t note_failure(struct fetcher *f, const char *name, int64_t asked_ms)
{
    struct failure **at = find_failure(f, name), *x = *at;
    uint16_t chance;

    if (!x) {
        if (f->n_failures == REMEMBERED_MAX) {
            forget_failure(f, &f->failures);
            at = find_failure(f, name);
        }
        x = *at = xcalloc(1, sizeof(*x));
        snprintf(x->name, sizeof(x->name), "%s", name);
        f->n_failures++;
    }
    x->pause_ms = x->pause_ms ? x->pause_ms * 2 : FETCH_PAUSE_MIN_MS;
    if (x->pause_ms > FETCH_PAUSE_MAX_MS) {
        x->pause_ms = FETCH_PAUSE_MAX_MS;
    }
    random_bytes(&chance, sizeof(chance));
    int64_t wait = x->pause_ms + x->pause_ms / 4 * chance / UINT16_MAX;
    if (asked_ms > wait) {
        wait = asked_ms < FETCH_PAUSE_MAX_MS ? asked_ms : FETCH_PAUSE_MAX_MS;
    }
    x->not_before_ms = monotonic_ms() + wait;
    return wait;
}

/* ---- one fetch ------------------------------------------------------------------------------- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct get *g = arg;

    return buf_add(&g->body, p, size * n, NULL) ? 0 : size * n;
}

/* The value of a header line, without white space around it; NULL: another header. */
static char *header_value(const char *line, size_t n, const char *ends_with)
{
    const char *colon = memchr(line, ':', n), *end = line + n;
    size_t want = strlen(ends_with);

    if (!colon || (size_t)(colon - line) < want ||
        strncasecmp(colon - want, ends_with, want) != 0) {
        return NULL;
    }
    for (colon++; colon < end && (*colon == ' ' || *colon == '\t'); colon++) {
    }
    while (end > colon && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ')) {
        end--;
    }
    return xstrndup(colon, (size_t)(end - colon));
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct get *g = arg;
    char *v;

    if (size * n > FETCH_HEADER_MAX) {
        return 0;
    }
    if ((v = header_value(p, size * n, "-Issuer-Chain"))) {
        free(g->chain);
        g->chain = v;
    } else if ((v = header_value(p, size * n, "Retry-After"))) {
        long s = strtol(v, NULL, 10); /* a date instead counts as nothing */
        g->retry_after_ms = s > 0 && s < 86400 ? s * 1000 : 0;
        free(v);
    }
    return size * n;
}

static void get_free(struct get *g)
{
    struct fetcher *f = g->f;
    struct get **at = &f->gets;

    while (*at != g) {
        at = &(*at)->next;
    }
    *at = g->next;
    f->n_gets--;
    if (g->easy) {
        api.multi_remove_handle(f->multi, g->easy);
        api.easy_cleanup(g->easy);
        f->n_running--;
    }
    buf_done(&g->body);
    free(g->chain);
    free(g);
}

static int set_options(struct get *g)
{
    const struct fetcher *f = g->f;
    CURL *c = g->easy;

    return api.easy_setopt(c, CURLOPT_URL, g->url) ||
           api.easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") ||
           api.easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L) ||
           api.easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)f->o.timeout_ms) ||
           api.easy_setopt(c, CURLOPT_NOSIGNAL, 1L) ||
           api.easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) ||
           (f->ca_file && api.easy_setopt(c, CURLOPT_CAINFO, f->ca_file)) ||
           api.easy_setopt(c, CURLOPT_USERAGENT, "coffer/" COFFER_VERSION) ||
           api.easy_setopt(c, CURLOPT_MAXFILESIZE, (long)FETCH_MAX_BYTES) ||
           api.easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body) ||
           api.easy_setopt(c, CURLOPT_WRITEDATA, g) ||
           api.easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header) ||
           api.easy_setopt(c, CURLOPT_HEADERDATA, g) ||
           api.easy_setopt(c, CURLOPT_ERRORBUFFER, g->why) ||
           api.easy_setopt(c, CURLOPT_PRIVATE, g);
}

static void finish(struct get *g, const struct err *e);

static void start(struct get *g)
{
    struct err e = {0};

    g->easy = api.easy_init();
    g->f->n_running += g->easy != NULL;
    if (!g->easy || set_options(g) || api.multi_add_handle(g->f->multi, g->easy)) {
        err_set(&e, ERR_INTERNAL, "%s: cannot set up the fetch", g->name);
        finish(g, &e);
    }
}

/* Tells, forgets the fetch, and starts the next. */
static void finish(struct get *g, const struct err *e)
{
    struct fetcher *f = g->f;
    struct fetch_result r = {
        .name = g->name, .body = buf_bytes(&g->body), .issuer_chain = g->chain ? g->chain : ""};

    if (g->easy) {
        api.easy_getinfo(g->easy, CURLINFO_RESPONSE_CODE, &r.status);
    }
    if (e) {
        r.retry_ms = note_failure(f, g->name, g->retry_after_ms);
    } else {
        forget_failure(f, find_failure(f, g->name));
    }
    f->o.done(f->o.arg, &r, e);
    get_free(g);
    for (struct get *n = f->gets; n && f->n_running < f->o.parallel; n = n->next) {
        if (!n->easy) {
            start(n); /* may finish, and then has gone on from there */
            break;
        }
    }
}

static void read_answers(struct fetcher *f)
{
    CURLMsg *m;
    int left;

    while ((m = api.multi_info_read(f->multi, &left))) {
        struct get *g = NULL;
        struct err e = {0};
        long status = 0;
        CURLcode rc = m->data.result;
        if (m->msg != CURLMSG_DONE) {
            continue;
        }
        api.easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &g);
        api.easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
        if (rc != CURLE_OK) {
            err_set(&e, ERR_IO, "%s: %s", g->url, g->why[0] ? g->why : api.easy_strerror(rc));
        } else if (status != 200) {
            err_set(&e, status == 404 ? ERR_NOT_FOUND : ERR_IO, "%s: expected 200, found %ld",
                    g->url, status);
        }
        finish(g, e.code ? &e : NULL);
    }
}

/* ---- libcurl on libev ------------------------------------------------------------------------ */

static void on_socket_event(struct ev_loop *loop, ev_io *w, int revents)
{
    struct watch *x = w->data;
    int mask =
        (revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0);
    struct fetcher *f = x->f;
    int running;
    (void)loop;

    api.multi_socket_action(f->multi, w->fd, mask, &running);
    read_answers(f);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
    struct fetcher *f = w->data;
    int running;
    (void)revents;

    ev_timer_stop(loop, w);
    api.multi_socket_action(f->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    read_answers(f);
}

static int on_curl_timer(CURLM *multi, long ms, void *arg)
{
    struct fetcher *f = arg;
    (void)multi;

    ev_timer_stop(f->loop, &f->timer);
    if (ms >= 0) {
        ev_now_update(f->loop);
        ev_timer_set(&f->timer, (double)ms / 1000, 0.0);
        ev_timer_start(f->loop, &f->timer);
    }
    return 0;
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *watch)
{
    struct fetcher *f = arg;
    struct watch *x = watch;
    int events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
    (void)easy;

    if (x) {
        ev_io_stop(f->loop, &x->io);
    }
    if (what == CURL_POLL_REMOVE) {
        api.multi_assign(f->multi, fd, NULL);
        free(x);
        return 0;
    }
    if (!x) {
        x = xcalloc(1, sizeof(*x));
        x->f = f;
        api.multi_assign(f->multi, fd, x);
    }
    ev_io_init(&x->io, on_socket_event, fd, events);
    x->io.data = x;
    ev_io_start(f->loop, &x->io);
    return 0;
}

/* ---- the fetcher ----------------------------------------------------------------------------- */

static int load_api(struct err *e)
{
    static int loaded;
    void *lib = loaded ? NULL : dlopen(LIBCURL, RTLD_NOW | RTLD_LOCAL);

    if (loaded) {
        return 0;
    }
    if (!lib) {
        return err_set(e, ERR_UNSUPPORTED, "cannot load " LIBCURL ": %s", dlerror());
    }
#define X(name)                                                                                    \
    *(void **)(void *)&api.name = dlsym(lib, "curl_" #name);                                       \
    if (!api.name) {                                                                               \
        return err_set(e, ERR_UNSUPPORTED, LIBCURL " has no curl_" #name);                         \
    }
    API(X)
#undef X
    if (api.global_init(CURL_GLOBAL_DEFAULT)) {
        return err_set(e, ERR_INTERNAL, "cannot start libcurl");
    }
    loaded = 1;
    return 0;
}

int fetcher_new(struct ev_loop *loop, const struct fetch_opts *o, struct fetcher **ret,
                struct err *e)
{
    if (load_api(e)) {
        return -1;
    }
    _cleanup_(fetcher_freep) struct fetcher *f = xcalloc(1, sizeof(*f));
    f->loop = loop;
    f->o = *o;
    f->ca_file = o->ca_file && *o->ca_file ? xstrdup(o->ca_file) : NULL;
    ev_init(&f->timer, on_timer);
    f->timer.data = f;
    f->multi = api.multi_init();
    if (!f->multi || api.multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket) ||
        api.multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f) ||
        api.multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer) ||
        api.multi_setopt(f->multi, CURLMOPT_TIMERDATA, f)) {
        return err_set(e, ERR_INTERNAL, "cannot start libcurl");
    }
    *ret = TAKE_PTR(f);
    return 0;
}

void fetcher_free(struct fetcher *f)
{
    if (!f) {
        return;
    }
    while (f->gets) {
        get_free(f->gets);
    }
    if (f->multi) {
        api.multi_cleanup(f->multi);
    }
    ev_timer_stop(f->loop, &f->timer);
    while (f->failures) {
        forget_failure(f, &f->failures);
    }
    free(f->ca_file);
    free(f);
}

static int check_request(const struct fetcher *f, const char *name, const char *url, struct err *e)
{
    if (!*name || strlen(name) > FETCH_NAME_MAX) {
        return err_set(e, ERR_INVALID, "fetch: expected a name of 1 to %d characters",
                       FETCH_NAME_MAX);
    }
    if (strlen(url) > FETCH_URL_MAX ||
        (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0)) {
        return err_set(e, ERR_INVALID,
                       "fetch of %s: expected an http or https URL of at most %d characters", name,
                       FETCH_URL_MAX);
    }
    return f->n_gets < FETCH_WAITING_MAX
               ? 0
               : err_set(e, ERR_BUSY, "fetch of %s: expected fewer than %d waiting", name,
                         FETCH_WAITING_MAX);
}

int fetcher_get(struct fetcher *f, const char *name, const char *url, struct err *e)
{
    struct get **at = &f->gets;

    if (check_request(f, name, url, e)) {
        return -1;
    }
    for (; *at; at = &(*at)->next) {
        if (streq((*at)->name, name)) {
            return 0;
        }
    }
    const struct failure *x = *find_failure(f, name);
    if (x && monotonic_ms() < x->not_before_ms) {
        return err_set(e, ERR_BUSY, "fetch of %s: it failed, and is tried again in %lld ms", name,
                       (long long)(x->not_before_ms - monotonic_ms()));
    }
    struct get *g = xcalloc(1, sizeof(*g));
    g->f = f;
    g->body = BUF_INIT(FETCH_MAX_BYTES);
    snprintf(g->name, sizeof(g->name), "%s", name);
    snprintf(g->url, sizeof(g->url), "%s", url);
    *at = g;
    f->n_gets++;
    if (f->n_running < f->o.parallel) {
        start(g);
    }
    return 0;
}

size_t fetcher_pending(const struct fetcher *f)
{
    return f->n_gets;
}
