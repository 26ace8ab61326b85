/* Plaintext by ranges: whole chunks go right to who asked, parts of chunks come from a small cache
 * that is locked in memory. A chunk that one thread is opening the others wait for.
 *
 * Ciphertext is copied before it is opened (preadv, never a mapping): what the host may change
 * while it is looked at must be looked at once. */
#include <pthread.h>

#include "svc-worker/decryptfs_int.h"

#define CACHE_BYTES (2u << 20)
#define SLOTS_MAX 128u
#define NO_CHUNK UINT64_MAX

enum slot_state { SLOT_EMPTY, SLOT_LOADING, SLOT_READY };

struct slot {
    enum slot_state state;
    size_t dataset;
    uint64_t chunk;
    uint64_t used; /* tick */
    unsigned pins;
    size_t n;
};

struct dfs_cache {
    const struct dfs_dataset *v; /* borrowed */
    size_t n;
    uint32_t chunk_max;
    struct area *area; /* slots * chunk_max */
    struct slot *slots;
    unsigned n_slots;
    uint64_t tick;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

int dfs_sealers_new(const struct dfs_dataset *v, size_t n, struct sealer ***ret, struct err *e)
{
    struct sealer **s = xcalloc(n + 1, sizeof(struct sealer *));

    for (size_t i = 0; i < n; i++) {
        if (sealer_new(seal_reader_header(v[i].reader), v[i].key, &s[i], e) < 0) {
            dfs_sealers_free(s, n);
            return -1;
        }
    }
    *ret = s;
    return 0;
}

void dfs_sealers_free(struct sealer **s, size_t n)
{
    for (size_t i = 0; s && i < n; i++) {
        sealer_free(s[i]);
    }
    free(s);
}

static uint32_t chunk_bytes(const struct dfs_cache *c, size_t dataset)
{
    return seal_reader_header(c->v[dataset].reader)->chunk_bytes;
}

int dfs_cache_new(const struct dfs_dataset *v, size_t n, unsigned readers, struct dfs_cache **ret,
                  struct err *e)
{
    _cleanup_(dfs_cache_freep) struct dfs_cache *c = xcalloc(1, sizeof(*c));

    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->v = v;
    c->n = n;
    for (size_t i = 0; i < n; i++) {
        uint32_t b = chunk_bytes(c, i);
        c->chunk_max = b > c->chunk_max ? b : c->chunk_max;
    }
    c->n_slots = c->chunk_max ? CACHE_BYTES / c->chunk_max : 1;
    c->n_slots = c->n_slots > SLOTS_MAX ? SLOTS_MAX : c->n_slots;
    /* Each reader pins one at most: then one is always free. */
    c->n_slots = c->n_slots < readers + 1 ? readers + 1 : c->n_slots;
    c->slots = xcalloc(c->n_slots, sizeof(*c->slots));
    if (area_new((size_t)c->n_slots * c->chunk_max, 0, &c->area, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(c);
    return 0;
}

void dfs_cache_free(struct dfs_cache *c)
{
    if (!c) {
        return;
    }
    area_free(c->area);
    free(c->slots);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- the cache ------------------------------------------------------------------------------ */

static uint8_t *slot_p(const struct dfs_cache *c, unsigned i)
{
    return c->area->p + (size_t)i * c->chunk_max;
}

/* With the lock. The slot of a chunk that is there or on its way, or n_slots. */
static unsigned slot_of(const struct dfs_cache *c, size_t dataset, uint64_t chunk)
{
    unsigned i = 0;

    while (i < c->n_slots && (c->slots[i].state == SLOT_EMPTY || c->slots[i].chunk != chunk ||
                              c->slots[i].dataset != dataset)) {
        i++;
    }
    return i;
}

/* With the lock. An empty one, or the one that was not used for the longest. */
static unsigned slot_free(const struct dfs_cache *c)
{
    unsigned best = c->n_slots;

    for (unsigned i = 0; i < c->n_slots; i++) {
        const struct slot *s = &c->slots[i];
        if (s->pins || s->state == SLOT_LOADING) {
            continue;
        }
        if (s->state == SLOT_EMPTY) {
            return i;
        }
        if (best == c->n_slots || s->used < c->slots[best].used) {
            best = i;
        }
    }
    return best;
}

int dfs_pin(struct dfs_reader *r, size_t dataset, uint64_t chunk, const uint8_t **ret,
            size_t *ret_n, unsigned *ret_slot, struct err *e)
{
    struct dfs_cache *c = r->cache;
    unsigned i;

    pthread_mutex_lock(&c->lock);
    while ((i = slot_of(c, dataset, chunk)) < c->n_slots && c->slots[i].state == SLOT_LOADING) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    int rc = 0;
    if (i == c->n_slots) {
        while ((i = slot_free(c)) == c->n_slots) {
            pthread_cond_wait(&c->changed, &c->lock);
        }
        struct slot *s = &c->slots[i];
        *s = (struct slot){
            .state = SLOT_LOADING, .dataset = dataset, .chunk = chunk, .used = s->used};
        pthread_mutex_unlock(&c->lock);
        size_t n = 0;
        rc = seal_reader_open_chunks(c->v[dataset].reader, r->sealers[dataset], chunk, 1,
                                     slot_p(c, i), &n, e);
        pthread_mutex_lock(&c->lock);
        s->n = n;
        s->state = rc ? SLOT_EMPTY : SLOT_READY;
        pthread_cond_broadcast(&c->changed);
    }
    if (rc == 0) {
        c->slots[i].pins++;
        c->slots[i].used = ++c->tick;
        *ret = slot_p(c, i);
        *ret_n = c->slots[i].n;
        *ret_slot = i;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void dfs_release(struct dfs_cache *c, unsigned slot)
{
    pthread_mutex_lock(&c->lock);
    if (--c->slots[slot].pins == 0) {
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- ranges --------------------------------------------------------------------------------- */

static int read_part(struct dfs_reader *r, size_t dataset, uint8_t *out, size_t n, uint64_t chunk,
                     size_t within, struct err *e)
{
    const uint8_t *p;
    unsigned slot;
    size_t have;

    if (dfs_pin(r, dataset, chunk, &p, &have, &slot, e) < 0) {
        return -1;
    }
    int rc = 0;
    if (within > have || n > have - within) {
        rc = err_set(e, ERR_INTERNAL, "a read beyond chunk %llu", (unsigned long long)chunk);
    } else {
        memcpy(out, p + within, n);
    }
    dfs_release(r->cache, slot);
    return rc;
}

static int read_whole(struct dfs_reader *r, size_t dataset, uint8_t *out, size_t n, uint64_t chunk,
                      struct err *e)
{
    const uint32_t size = chunk_bytes(r->cache, dataset);
    size_t got = 0;

    if (seal_reader_open_chunks(r->cache->v[dataset].reader, r->sealers[dataset], chunk, n / size,
                                out, &got, e) < 0) {
        return -1;
    }
    return got == n
               ? 0
               : err_set(e, ERR_INTERNAL, "a read beyond chunk %llu", (unsigned long long)chunk);
}

int dfs_read(struct dfs_reader *r, size_t dataset, void *out, size_t n, uint64_t offset,
             uint64_t *ret_part, struct err *e)
{
    const uint32_t size = chunk_bytes(r->cache, dataset);
    uint8_t *to = out;
    uint64_t part_of = NO_CHUNK;

    while (n) {
        uint64_t chunk = offset / size;
        size_t within = (size_t)(offset % size), now;
        if (within == 0 && n >= size) {
            now = n - n % size;
            if (read_whole(r, dataset, to, now, chunk, e) < 0) {
                return -1;
            }
        } else {
            now = size - within < n ? size - within : n;
            if (read_part(r, dataset, to, now, chunk, within, e) < 0) {
                return -1;
            }
            part_of = chunk;
        }
        to += now;
        offset += now;
        n -= now;
    }
    if (ret_part) {
        *ret_part = part_of;
    }
    return 0;
}
