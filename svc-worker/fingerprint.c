/* Which aligned blocks of the output stand anywhere in the inputs (docs/PROTOCOL.md, Fingerprints).
 *
 * One pass over the inputs: at every offset the 16 bytes there are hashed (two words, one 64x64 to
 * 128 bit multiplication; keys fresh for each job, so that a workload cannot aim at collisions),
 * looked up in a bitmap that the caches hold, and only what is there in a table, where the bytes
 * themselves are compared. Memory depends on the output's size alone. */
#include "svc-worker/worker.h"

#define CARRY (FP_WINDOW - 1)

struct slot {
    uint32_t block; /* index + 1; 0: empty */
    uint32_t tag;   /* of the hash: other blocks are passed without a look at their bytes */
};

struct fp_finder {
    const uint8_t **blocks; /* distinct, borrowed from the files */
    uint8_t *found;         /* one for each of them */
    uint32_t n;
    struct slot *table;
    uint64_t *bitmap;
    uint64_t table_mask;
    unsigned bitmap_shift;
    uint64_t k0, k1;
    uint8_t edge[2 * CARRY]; /* where two pieces of an input meet */
    size_t n_edge;
};

static inline uint64_t hash16(const struct fp_finder *f, const uint8_t *p)
{
    uint64_t a, b;

    memcpy(&a, p, 8);
    memcpy(&b, p + 8, 8);
    unsigned __int128 m = (unsigned __int128)(a ^ f->k0) * (b ^ f->k1);
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Where the block is, or the empty slot where it would be. */
static struct slot *slot_of(const struct fp_finder *f, uint64_t h, const uint8_t *p)
{
    uint64_t i = h & f->table_mask;
    uint32_t tag = (uint32_t)(h >> 24);

    while (f->table[i].block && (f->table[i].tag != tag ||
                                 memcmp(f->blocks[f->table[i].block - 1], p, FP_WINDOW) != 0)) {
        i = (i + 1) & f->table_mask;
    }
    return &f->table[i];
}

static void add_block(struct fp_finder *f, const uint8_t *p)
{
    uint64_t h = hash16(f, p), bit = h >> f->bitmap_shift;
    struct slot *s = slot_of(f, h, p);

    if (s->block) {
        return;
    }
    f->blocks[f->n++] = p;
    *s = (struct slot){.block = f->n, .tag = (uint32_t)(h >> 24)};
    f->bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
}

int fp_finder_new(const struct bytes *files, size_t n_files, struct fp_finder **ret, struct err *e)
{
    uint64_t blocks = 0, slots = 64, bits = 4096;
    unsigned log2_bits = 12;

    for (size_t i = 0; i < n_files; i++) {
        blocks += files[i].n / FP_WINDOW;
    }
    if (blocks > AREA_MAX_BYTES / FP_WINDOW) {
        return err_set(e, ERR_TOO_LARGE, "fingerprints: an output of more than 1 GiB");
    }
    while (slots < blocks * 2) {
        slots *= 2;
    }
    while (bits < blocks * 32) {
        bits *= 2;
        log2_bits++;
    }
    struct fp_finder *f = xcalloc(1, sizeof(*f));
    f->blocks = xcalloc(blocks + 1, sizeof(*f->blocks));
    f->found = xcalloc(blocks + 1, 1);
    f->table = xcalloc(slots, sizeof(*f->table));
    f->bitmap = xcalloc(bits / 64, sizeof(*f->bitmap));
    f->table_mask = slots - 1;
    f->bitmap_shift = 64 - log2_bits;
    random_bytes(&f->k0, sizeof(f->k0));
    random_bytes(&f->k1, sizeof(f->k1));
    for (size_t i = 0; i < n_files; i++) {
        for (size_t at = 0; at + FP_WINDOW <= files[i].n; at += FP_WINDOW) {
            add_block(f, files[i].p + at);
        }
    }
    *ret = f;
    return 0;
}

/* Every offset of p[0..n) that has a whole window. */
static void scan(struct fp_finder *f, const uint8_t *p, size_t n)
{
    const uint64_t *bitmap = f->bitmap;
    unsigned shift = f->bitmap_shift;

    for (size_t i = 0; i + FP_WINDOW <= n; i++) {
        uint64_t h = hash16(f, p + i), bit = h >> shift;
        if (bitmap[bit / 64] >> (bit % 64) & 1) {
            uint32_t at = slot_of(f, h, p + i)->block;
            if (at) {
                f->found[at - 1] = 1;
            }
        }
    }
}

void fp_finder_scan(struct fp_finder *f, struct bytes in)
{
    size_t head = in.n < CARRY ? in.n : CARRY;

    if (!f->n || !in.n) {
        return;
    }
    memcpy(f->edge + f->n_edge, in.p, head);
    scan(f, f->edge, f->n_edge + head);
    scan(f, in.p, in.n);
    if (in.n >= CARRY) {
        memcpy(f->edge, in.p + in.n - CARRY, CARRY);
        f->n_edge = CARRY;
        return;
    }
    size_t all = f->n_edge + in.n, keep = all < CARRY ? all : CARRY;
    memmove(f->edge, f->edge + all - keep, keep);
    f->n_edge = keep;
}

void fp_finder_end_input(struct fp_finder *f)
{
    explicit_bzero(f->edge, sizeof(f->edge));
    f->n_edge = 0;
}

int fp_finder_result(struct fp_finder *f, const uint8_t salt[FP_SALT_BYTES], uint8_t *out,
                     uint64_t max, uint64_t *ret_count, uint64_t *ret_total, struct err *e)
{
    _cleanup_(fp_hasher_done) struct fp_hasher h = {0};
    uint64_t count = 0, total = 0, v;

    if (fp_hasher_init(&h, salt, e)) {
        return -1;
    }
    for (uint32_t i = 0; i < f->n; i++) {
        if (!f->found[i]) {
            continue;
        }
        total++;
        if (count < max) {
            if (fp_hash(&h, f->blocks[i], &v, e)) {
                return -1;
            }
            memcpy(out + count++ * FP_BYTES, &v, FP_BYTES);
        }
    }
    *ret_count = count;
    *ret_total = total;
    return 0;
}

void fp_finder_free(struct fp_finder *f)
{
    if (!f) {
        return;
    }
    explicit_bzero(f->edge, sizeof(f->edge));
    free(f->blocks);
    free(f->found);
    free(f->table);
    free(f->bitmap);
    free(f);
}
