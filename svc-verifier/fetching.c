/* The shell's side of the shelf: what an action asks for is fetched, and what came of it goes back
 * into the service in a transaction of its own. */
#include "common/log.h"
#include "svc-verifier/fetch.h"
#include "svc-verifier/verifier.h"

#define PARALLEL 4u

/* "kds/vcek/v1/Milan/crl", which names both source and path. */
static void name_of(const struct need *n, char ret[FETCH_NAME_MAX + 1])
{
    snprintf(ret, FETCH_NAME_MAX + 1, "%s/%s", need_source_name(n->source), n->path);
}

static int need_of(const char *name, struct need *ret)
{
    char source[16];
    const char *slash = strchr(name, '/');
    int s;

    if (!slash || (size_t)(slash - name) >= sizeof(source)) {
        return -1;
    }
    snprintf(source, sizeof(source), "%.*s", (int)(slash - name), name);
    s = need_source_from_name(source);
    if (s < 0) {
        return -1;
    }
    ret->source = (enum need_source)s;
    snprintf(ret->path, sizeof(ret->path), "%s", slash + 1);
    return 0;
}

/* ---- what came ------------------------------------------------------------------------------- */

struct came {
    struct need need;
    const struct fetch_result *r;
    int failed;
};

static int take(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    const struct came *c = arg;
    const struct verifier *v = s->priv;
    (void)fx;

    if (c->failed) {
        return shelf_failed(s->db, &c->need, s->now_ms, c->r->retry_ms, e);
    }
    return shelf_put(v->shelf, s->db, &c->need, c->r->body, c->r->issuer_chain, s->now_ms, e);
}

static void on_done(void *arg, const struct fetch_result *r, const struct err *why)
{
    struct shell *sh = arg;
    struct came c = {.r = r, .failed = why != NULL};
    struct err e = {0};

    if (need_of(r->name, &c.need)) {
        return;
    }
    if (why) {
        log_err(LOG_WARN, "collateral.fetch", why);
    } else {
        log_info("collateral.fetched", "%s, %zu bytes", r->name, r->body.n);
    }
    if (shell_call(sh, take, &c, &e) == 0) {
        return;
    }
    /* It came, and is not what it should be: what is held stays, and the source is asked again. */
    log_err(LOG_WARN, "collateral.refused", &e);
    if (!c.failed) {
        c.failed = 1;
        if (shell_call(sh, take, &c, &e)) {
            log_err(LOG_WARN, "collateral.lost", &e);
        }
    }
}

/* ---- hooks ----------------------------------------------------------------------------------- */

/* Made when it is first needed. NULL: it cannot be, which is logged. */
static struct fetcher *fetcher_of(struct shell *sh)
{
    const struct config *c = shell_config(sh);
    const struct fetch_opts o = {.timeout_ms = (int)config_int(c, "collateral-timeout-ms"),
                                 .parallel = PARALLEL,
                                 .ca_file = config_str(c, "collateral-ca"),
                                 .done = on_done,
                                 .arg = sh};
    struct fetcher *f = shell_priv(sh);
    struct err e = {0};

    if (!f && fetcher_new(shell_loop(sh), &o, &f, &e)) {
        log_err(LOG_ERROR, "collateral.start", &e);
        return NULL;
    }
    shell_set_priv(sh, f);
    return f;
}

static void fetch(struct shell *sh, const struct need *n)
{
    const char *base = verifier_base_url(shell_config(sh), n->source);
    char url[FETCH_URL_MAX + 64], name[FETCH_NAME_MAX + 1];
    size_t len = strlen(base);
    struct fetcher *f = len ? fetcher_of(sh) : NULL;
    struct err e = {0};

    if (!f) {
        return;
    }
    name_of(n, name);
    if (n->source == NEED_ROOT_CRL) {
        snprintf(url, sizeof(url), "%s", base);
    } else {
        snprintf(url, sizeof(url), "%.*s/%s", (int)(base[len - 1] == '/' ? len - 1 : len), base,
                 n->path);
    }
    if (fetcher_get(f, name, url, &e) && e.code != ERR_BUSY) {
        log_err(LOG_WARN, "collateral.fetch", &e);
    }
}

static int act(struct shell *sh, int kind, struct bytes data)
{
    struct need n;

    switch ((enum verifier_action)kind) {
    case VERIFIER_ACT_FETCH:
        if (data.n == sizeof(n)) {
            memcpy(&n, data.p, sizeof(n));
            fetch(sh, &n);
        }
        break;
    }
    return 0;
}

const struct shell_hooks verifier_hooks = {
    .about = "Appraises the evidence of confidential VMs and signs verdicts.",
    .act = act,
};
