#include "common/trust.h"
#include "svc-scheduler/scheduler.h"

/* Which host gets which job. One pass takes the alive hosts once, then the queue's shapes, and
 * serves the oldest job of any shape that still has a place, until nothing fits or the pass is long
 * enough. So a pass costs the number of shapes and of placements, not the length of the queue. */

#define MAX_SHAPES 256

/* ---- shapes ---------------------------------------------------------------------------------- */

static int64_t bits_above(int64_t v)
{
    int64_t bits = 0;

    while (bits < 62 && ((int64_t)1 << bits) < v) {
        bits++;
    }
    return bits;
}

int64_t place_shape(enum tee_mode mode, const char *types, int64_t cpu_millis, int64_t memory_bytes)
{
    uint32_t h =
        2166136261u; /* FNV-1a: equal shapes must be equal, unequal ones merely should not */

    for (; *types; types++) {
        h = (h ^ (uint8_t)*types) * 16777619u;
    }
    return (int64_t)mode << 48 | bits_above(cpu_millis) << 40 | bits_above(memory_bytes) << 32 | h;
}

/* ---- one job --------------------------------------------------------------------------------- */

/* The place of `tee` in a list of words; -1 when it is not there. */
static int word_at(const char *words, const char *tee)
{
    size_t len = strlen(tee);
    int at = 0;

    while (len && *words) {
        size_t n = strcspn(words, " ");
        if (n == len && memcmp(words, tee, n) == 0) {
            return at;
        }
        words += n;
        words += *words == ' ';
        at++;
    }
    return -1;
}

/* What keeps the host out. A virtual TPM is the host's own word, and a sample is nobody's. */
static int is_hardware(const char *tee)
{
    return !streq(tee, "sample") && !streq(tee, "vtpm");
}

static int names_hardware(const char *types)
{
    while (*types) {
        char tee[TEE_NAME_MAX + 1];
        size_t n = strcspn(types, " ");
        snprintf(tee, sizeof(tee), "%.*s", (int)n, types);
        if (n && is_hardware(tee)) {
            return 1;
        }
        types += n + (types[n] == ' ');
    }
    return 0;
}

/* The backend of a host whose TEE is the earliest in `types`; NULL when it has none. */
static const struct host_backend *backend_of_types(const struct host *h, const char *types,
                                                   int only_hardware)
{
    const struct host_backend *best = NULL;
    int best_at = 0;

    for (size_t i = 0; i < h->n_backends; i++) {
        int at = word_at(types, h->backends[i].tee);
        if (only_hardware && !is_hardware(h->backends[i].tee)) {
            continue;
        }
        if (at >= 0 && (!best || at < best_at)) {
            best = &h->backends[i];
            best_at = at;
        }
    }
    return best;
}

static const struct host_backend *backend_of_hardware(const struct host *h)
{
    for (size_t i = 0; i < h->n_backends; i++) {
        if (is_hardware(h->backends[i].tee)) {
            return &h->backends[i];
        }
    }
    return NULL;
}

static int64_t slots_free(const struct host *h)
{
    return h->slots - h->used_slots;
}

static int fits_now(const struct host *h, const struct job *j)
{
    return slots_free(h) > 0 && h->cpu_millis - h->used_cpu_millis >= j->cpu_millis &&
           h->memory_bytes - h->used_memory_bytes >= j->memory_bytes;
}

static int fits_empty(const struct host *h, const struct job *j)
{
    return h->slots > 0 && h->cpu_millis >= j->cpu_millis && h->memory_bytes >= j->memory_bytes;
}

/* What is tried in order: required is HARDWARE_TYPES and TYPES, which are those it names; preferred
 * goes on to SAMPLE; none is ANY. */
enum tier { TIER_HARDWARE_TYPES, TIER_TYPES, TIER_HARDWARE, TIER_VTPM, TIER_SAMPLE, TIER_ANY };

static const struct host_backend *backend_for(const struct host *h, const struct job *j,
                                              enum tier tier)
{
    switch (tier) {
    case TIER_HARDWARE_TYPES:
        return backend_of_types(h, j->tee_types, 1);
    case TIER_TYPES:
        return backend_of_types(h, j->tee_types, 0);
    case TIER_HARDWARE:
        return backend_of_hardware(h);
    case TIER_VTPM:
        return backend_of_types(h, "vtpm", 0);
    case TIER_SAMPLE:
        return backend_of_types(h, "sample", 0);
    case TIER_ANY:
        break;
    }
    return h->n_backends ? &h->backends[0] : NULL;
}

struct choice {
    struct host *host, *again; /* the best, and the best if it is where the last attempt failed */
    int offered;               /* some host has such a backend */
    int fitting;               /* and is large enough */
};

static void choose(struct host_list *hosts, const struct job *j, enum tier tier, struct choice *c)
{
    memset(c, 0, sizeof(*c));
    for (size_t i = 0; i < hosts->n; i++) {
        struct host *h = &hosts->v[i];
        if (!backend_for(h, j, tier)) {
            continue;
        }
        c->offered = 1;
        if (!fits_empty(h, j)) {
            continue;
        }
        c->fitting = 1;
        if (h->reserved || !fits_now(h, j)) {
            continue;
        }
        struct host **best = j->attempt > 0 && h->id == j->host_id ? &c->again : &c->host;
        if (!*best || slots_free(h) > slots_free(*best)) {
            *best = h;
        }
    }
    if (!c->host) {
        c->host = c->again;
    }
}

static int no_place(const struct host_list *hosts, const struct job *j, const struct choice *c,
                    struct err *why)
{
    if (c->fitting) {
        return err_refuse(why, ERR_BUSY, "host", "a free slot, CPU and memory",
                          "all %zu hosts in use", hosts->n);
    }
    if (hosts->n == 0) {
        return err_refuse(why, ERR_UNSUPPORTED, "host", "a host that reports", "none");
    }
    if (!c->offered) {
        return err_refuse(why, ERR_UNSUPPORTED, "tee",
                          j->tee_mode == TEE_NONE ? "any" : j->tee_types,
                          "no such backend on %zu hosts", hosts->n);
    }
    return err_refuse(why, ERR_UNSUPPORTED, "resources", "a host that is large enough",
                      "%lld mCPU and %lld bytes asked for", (long long)j->cpu_millis,
                      (long long)j->memory_bytes);
}

int place_pick(struct host_list *hosts, const struct job *j, int64_t waited_ms,
               int64_t prefer_wait_ms, struct placement *ret, struct host **ret_host,
               struct err *why)
{
    enum tier tier = j->tee_mode == TEE_NONE ? TIER_ANY : TIER_HARDWARE_TYPES;
    enum tier last = j->tee_mode == TEE_NONE       ? TIER_ANY
                     : j->tee_mode == TEE_REQUIRED ? TIER_TYPES
                                                   : TIER_SAMPLE;
    struct choice c = {0}, seen = {0};

    for (;; tier++) {
        choose(hosts, j, tier, &c);
        seen.offered |= c.offered;
        seen.fitting |= c.fitting;
        if (c.host) {
            break;
        }
        /* The preferred TEE exists and is only in use: worth a short wait. */
        if (tier <= TIER_TYPES && tier != last && c.fitting && waited_ms < prefer_wait_ms) {
            return no_place(hosts, j, &seen, why);
        }
        if (tier == last) {
            return no_place(hosts, j, &seen, why);
        }
    }
    const struct host_backend *b = backend_for(c.host, j, tier);
    memset(ret, 0, sizeof(*ret));
    ret->host_id = c.host->id;
    snprintf(ret->host, sizeof(ret->host), "%s", c.host->name);
    snprintf(ret->backend, sizeof(ret->backend), "%s", b->name);
    ret->downgraded = j->tee_mode == TEE_PREFERRED && tier != TIER_HARDWARE_TYPES &&
                      (tier != TIER_TYPES || names_hardware(j->tee_types));
    *ret_host = c.host;
    return 0;
}

int place_explain(struct svc *s, const struct job *j, struct err *ret_why, struct err *e)
{
    _cleanup_(host_list_done) struct host_list hosts = {0};
    struct placement p;
    struct host *h;

    if (store_hosts_alive(s->db, &hosts, e) < 0) {
        return -1;
    }
    if (place_pick(&hosts, j, 0, INT64_MAX, &p, &h, ret_why) == 0) {
        err_refuse(ret_why, ERR_BUSY, "queue", "a turn before the queue's deadline", "older jobs");
    }
    return 0;
}

/* ---- the queue ------------------------------------------------------------------------------- */

struct head {
    int64_t shape, id;
};

/* The oldest job of every shape, from the cursor on and around. */
static int load_heads(struct svc *s, struct head *heads, size_t *ret_n, struct err *e)
{
    struct scheduler *p = s->priv;
    int64_t after = p->shape_cursor;
    size_t n = 0;
    int rc;

    while (n < MAX_SHAPES &&
           (rc = store_next_shape(s->db, after, &heads[n].shape, &heads[n].id, e)) != 0) {
        if (rc < 0) {
            return -1;
        }
        after = heads[n++].shape;
    }
    if (n == MAX_SHAPES) {
        p->shape_cursor = after;
    } else {
        int64_t stop = p->shape_cursor;
        after = -1;
        while (stop >= 0 && n < MAX_SHAPES &&
               (rc = store_next_shape(s->db, after, &heads[n].shape, &heads[n].id, e)) != 0) {
            if (rc < 0) {
                return -1;
            }
            after = heads[n].shape;
            if (after > stop) {
                break;
            }
            n++;
        }
        p->shape_cursor = -1;
    }
    *ret_n = n;
    return 0;
}

static size_t oldest(const struct head *heads, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++) {
        if (heads[i].id < heads[best].id) {
            best = i;
        }
    }
    return best;
}

static void take(struct host *h, const struct job *j)
{
    h->used_slots++;
    h->used_cpu_millis += j->cpu_millis;
    h->used_memory_bytes += j->memory_bytes;
    h->changed = 1;
}

/* A large job must not wait for ever while small ones pass it: the emptiest host that could hold it
 * takes nothing younger in this pass. */
static void reserve_for(struct host_list *hosts, const struct job *j)
{
    struct host *best = NULL;

    for (size_t i = 0; i < hosts->n; i++) {
        struct host *h = &hosts->v[i];
        int suits = j->tee_mode == TEE_REQUIRED ? backend_of_types(h, j->tee_types, 0) != NULL
                                                : h->n_backends > 0;
        if (suits && !h->reserved && fits_empty(h, j) &&
            (!best || slots_free(h) > slots_free(best))) {
            best = h;
        }
    }
    if (best) {
        best->reserved = 1;
    }
}

static int any_free(const struct host_list *hosts)
{
    for (size_t i = 0; i < hosts->n; i++) {
        if (!hosts->v[i].reserved && slots_free(&hosts->v[i]) > 0) {
            return 1;
        }
    }
    return 0;
}

/* 1 placed, 0 no place, -1 error. */
static int place_one(struct svc *s, struct effects *fx, struct host_list *hosts, int64_t id,
                     struct err *e)
{
    struct placement placement;
    struct host *h = NULL;
    struct err why;
    struct job j;

    int rc = store_job_by_id(s->db, id, &j, e);
    if (rc <= 0) {
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "queued job %lld is gone", (long long)id);
    }
    int64_t waited = s->now_ms - j.queued_ms;
    if (place_pick(hosts, &j, waited, config_int(s->config, "prefer-wait-ms"), &placement, &h,
                   &why) < 0) {
        if (why.code == ERR_BUSY && waited >= config_int(s->config, "reserve-after-ms")) {
            reserve_for(hosts, &j);
        }
        return 0;
    }
    struct happening placed = {.cause = CAUSE_PLACED, .placement = &placement};
    if (job_transition(s, fx, &j, &placed, e) < 0) {
        return -1;
    }
    take(h, &j);
    return 1;
}

int place_queue(struct svc *s, struct effects *fx, struct err *e)
{
    _cleanup_(host_list_done) struct host_list hosts = {0};
    struct head heads[MAX_SHAPES];
    size_t n = 0, placed = 0;

    if (store_hosts_alive(s->db, &hosts, e) < 0) {
        return -1;
    }
    if (!any_free(&hosts)) {
        return 0;
    }
    if (load_heads(s, heads, &n, e) < 0) {
        return -1;
    }
    while (n && placed < PLACE_MAX_JOBS && any_free(&hosts)) {
        size_t i = oldest(heads, n);
        int rc = place_one(s, fx, &hosts, heads[i].id, e);
        if (rc < 0) {
            return -1;
        }
        placed += (size_t)rc;
        if (rc) {
            rc = store_oldest_of_shape(s->db, heads[i].shape, heads[i].id, &heads[i].id, e);
            if (rc < 0) {
                return -1;
            }
        }
        if (!rc) {
            heads[i] = heads[--n];
        }
    }
    for (size_t i = 0; i < hosts.n; i++) {
        if (hosts.v[i].changed && store_host_use(s->db, &hosts.v[i], e) < 0) {
            return -1;
        }
    }
    return placed == PLACE_MAX_JOBS;
}
