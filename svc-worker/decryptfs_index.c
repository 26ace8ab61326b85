/* The tree of a tar stream: names, kinds, and where contents are. */
#include <sys/stat.h>

#include "common/untar.h"
#include "svc-worker/decryptfs_int.h"

#define COMPONENT_MAX_BYTES 255u
#define HASH_PRIME ((UINT64_C(1) << 61) - 1)

struct dfs_index {
    struct dfs_node *nodes;
    uint32_t n, size, max;
    char *names; /* each with its NUL */
    uint32_t names_n, names_size;
    uint32_t *table; /* open addressing: node numbers, or DFS_NONE */
    uint32_t table_size;
    uint64_t seed; /* so that nobody can choose names that collide */
};

/* ---- storage -------------------------------------------------------------------------------- */

static int add_text(struct dfs_index *ix, const char *s, size_t n, uint32_t *ret, struct err *e)
{
    if (n + 1 > DFS_MAX_NAME_BYTES - ix->names_n) {
        return err_set(e, ERR_TOO_LARGE, "tar stream: its names are over %u bytes together",
                       DFS_MAX_NAME_BYTES);
    }
    while (ix->names_size - ix->names_n < n + 1) {
        ix->names_size = ix->names_size ? ix->names_size * 2 : 4096;
        ix->names = xrealloc(ix->names, ix->names_size);
    }
    *ret = ix->names_n;
    memcpy(ix->names + ix->names_n, s, n);
    ix->names[ix->names_n + n] = '\0';
    ix->names_n += (uint32_t)n + 1;
    return 0;
}

static uint64_t mul_mod(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    uint64_t r = (uint64_t)(p & HASH_PRIME) + (uint64_t)(p >> 61);

    return r >= HASH_PRIME ? r - HASH_PRIME : r;
}

/* A polynomial in a random point: names collide with probability of about their length / 2^61. */
static uint32_t hash_of(const struct dfs_index *ix, uint32_t parent, const char *s, size_t n)
{
    uint64_t h = parent + 1u;

    for (size_t i = 0; i < n; i++) {
        h = (mul_mod(h, ix->seed) + (uint8_t)s[i] + 1) % HASH_PRIME;
    }
    h = mul_mod(h, ix->seed);
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t find(const struct dfs_index *ix, uint32_t parent, const char *s, size_t n)
{
    uint32_t mask = ix->table_size - 1;

    if (!ix->table_size) {
        return DFS_NONE;
    }
    for (uint32_t at = hash_of(ix, parent, s, n) & mask; ix->table[at] != DFS_NONE;
         at = (at + 1) & mask) {
        const struct dfs_node *node = &ix->nodes[ix->table[at]];
        const char *name = ix->names + node->name;
        if (node->parent == parent && strncmp(name, s, n) == 0 && name[n] == '\0') {
            return ix->table[at];
        }
    }
    return DFS_NONE;
}

static void table_put(struct dfs_index *ix, uint32_t i)
{
    const struct dfs_node *node = &ix->nodes[i];
    const char *name = ix->names + node->name;
    uint32_t mask = ix->table_size - 1;
    uint32_t at = hash_of(ix, node->parent, name, strlen(name)) & mask;

    while (ix->table[at] != DFS_NONE) {
        at = (at + 1) & mask;
    }
    ix->table[at] = i;
}

/* Never more than half full. */
static void table_grow(struct dfs_index *ix)
{
    if (ix->table_size / 2 > ix->n) {
        return;
    }
    free(ix->table);
    ix->table_size = ix->table_size ? ix->table_size * 2 : 64;
    ix->table = xcalloc(ix->table_size, sizeof(*ix->table));
    memset(ix->table, 0xff, ix->table_size * sizeof(*ix->table));
    for (uint32_t i = 1; i < ix->n; i++) {
        table_put(ix, i);
    }
}

static int new_node(struct dfs_index *ix, uint32_t parent, const char *name, size_t name_n,
                    enum dfs_kind kind, uint16_t mode, uint32_t *ret, struct err *e)
{
    uint32_t text = 0;

    if (ix->n > ix->max) {
        return err_set(e, ERR_TOO_LARGE, "more entries than allowed");
    }
    if (add_text(ix, name, name_n, &text, e) < 0) {
        return -1;
    }
    if (ix->n == ix->size) {
        ix->size = ix->size ? ix->size * 2 : 16;
        ix->nodes = xrealloc(ix->nodes, ix->size * sizeof(*ix->nodes));
    }
    uint32_t i = ix->n;
    ix->nodes[i] = (struct dfs_node){.name = text,
                                     .parent = parent,
                                     .child = DFS_NONE,
                                     .last = DFS_NONE,
                                     .next = DFS_NONE,
                                     .mode = mode,
                                     .kind = (uint8_t)kind};
    ix->n++;
    if (i != 0) {
        struct dfs_node *up = &ix->nodes[parent];
        if (up->last == DFS_NONE) {
            up->child = i;
        } else {
            ix->nodes[up->last].next = i;
        }
        up->last = i;
        up->subdirs += kind == DFS_DIR;
        table_grow(ix);
        if (find(ix, parent, name, name_n) == DFS_NONE) {
            table_put(ix, i);
        }
    }
    *ret = i;
    return 0;
}

static struct dfs_index *index_new(uint32_t max, enum dfs_kind root, uint16_t mode)
{
    struct dfs_index *ix = xcalloc(1, sizeof(*ix));
    uint32_t i;

    ix->max = max;
    random_bytes(&ix->seed, sizeof(ix->seed));
    ix->seed = ix->seed % (HASH_PRIME - 2) + 2;
    (void)new_node(ix, 0, "", 0, root, mode, &i, NULL); /* the first one fits */
    return ix;
}

void dfs_index_free(struct dfs_index *ix)
{
    if (!ix) {
        return;
    }
    free(ix->nodes);
    free(ix->names);
    free(ix->table);
    free(ix);
}

/* ---- building ------------------------------------------------------------------------------- */

/* Goes to the directory of the last component, making what is missing. *ret_leaf is "" for the root
 * itself. */
static int walk(struct dfs_index *ix, const char *path, uint32_t *ret_dir, const char **ret_leaf,
                size_t *ret_n, unsigned *ret_depth, struct err *e)
{
    uint32_t at = 0;
    unsigned depth = 0;
    const char *leaf = "";
    size_t leaf_n = 0;

    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && memcmp(p, "..", 2) == 0) {
            return err_set(e, ERR_DENIED, "its path has a \"..\"");
        }
        if (n > COMPONENT_MAX_BYTES) {
            return err_set(e, ERR_TOO_LARGE, "a name in its path is over %u bytes",
                           COMPONENT_MAX_BYTES);
        }
        if (!(n == 1 && p[0] == '.')) {
            if (leaf_n) {
                uint32_t next = find(ix, at, leaf, leaf_n);
                if (next == DFS_NONE &&
                    new_node(ix, at, leaf, leaf_n, DFS_DIR, 0755, &next, e) < 0) {
                    return -1;
                }
                if (ix->nodes[next].kind == DFS_LINK) {
                    return err_set(e, ERR_DENIED, "its path goes through a symlink");
                }
                if (ix->nodes[next].kind != DFS_DIR) {
                    return err_set(e, ERR_INVALID, "expected a directory, there is something else");
                }
                at = next;
            }
            leaf = p;
            leaf_n = n;
            if (++depth > UNTAR_DEPTH_MAX) {
                return err_set(e, ERR_TOO_LARGE, "is nested deeper than %u", UNTAR_DEPTH_MAX);
            }
        }
        p += n;
        p += strspn(p, "/");
    }
    *ret_dir = at;
    *ret_leaf = leaf;
    *ret_n = leaf_n;
    *ret_depth = depth;
    return 0;
}

static int add_link(struct dfs_index *ix, const struct dfs_tar_entry *t, uint32_t dir,
                    const char *leaf, size_t n, unsigned depth, struct err *e)
{
    size_t target_n = strlen(t->target);
    uint32_t i = 0, text = 0;

    if (!target_n || target_n >= UNTAR_NAME_MAX_BYTES) {
        return err_set(e, ERR_INVALID, "the symlink has no target that could be read");
    }
    if (!untar_symlink_stays(t->target, depth - 1)) {
        return err_set(e, ERR_DENIED, "the symlink points out of the directory: \"%.100s\"",
                       t->target);
    }
    if (new_node(ix, dir, leaf, n, DFS_LINK, 0777, &i, e) < 0 ||
        add_text(ix, t->target, target_n, &text, e) < 0) {
        return -1;
    }
    ix->nodes[i].target = text;
    ix->nodes[i].bytes = target_n;
    return 0;
}

static int place(struct dfs_index *ix, const struct dfs_tar_entry *t, struct err *e)
{
    const char *leaf = "";
    uint32_t dir = 0, i;
    unsigned depth = 0;
    size_t n = 0;

    if (strlen(t->name) > UNTAR_NAME_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "its name is over %u bytes", UNTAR_NAME_MAX_BYTES);
    }
    if (t->name[0] == '/') {
        return err_set(e, ERR_DENIED, "its path is absolute");
    }
    if (walk(ix, t->name, &dir, &leaf, &n, &depth, e) < 0) {
        return -1;
    }
    if (depth == 0) {
        return t->type == '5' ? 0 : err_set(e, ERR_INVALID, "the root is a directory");
    }
    i = find(ix, dir, leaf, n);
    if (i != DFS_NONE && (t->type != '5' || ix->nodes[i].kind != DFS_DIR)) {
        return err_set(e, ERR_INVALID, "is there already");
    }
    switch (t->type) {
    case '2':
        return add_link(ix, t, dir, leaf, n, depth, e);
    case '5':
        if (i == DFS_NONE && new_node(ix, dir, leaf, n, DFS_DIR, 0755, &i, e) < 0) {
            return -1;
        }
        ix->nodes[i].mode = (uint16_t)((t->mode & 01777) | 0700);
        return 0;
    default: /* a letter, not an enum: '0' */
        if (new_node(ix, dir, leaf, n, DFS_FILE, (uint16_t)(t->mode & 0777), &i, e) < 0) {
            return -1;
        }
        ix->nodes[i].offset = t->offset;
        ix->nodes[i].bytes = t->bytes;
        return 0;
    }
}

static int on_entry(void *arg, const struct dfs_tar_entry *t, struct err *e)
{
    if (place(arg, t, e) < 0) {
        return err_wrap(e, "tar entry \"%.120s\"", t->name);
    }
    return 0;
}

int dfs_index_tar(const struct dfs_source *src, uint64_t max_entries, struct dfs_index **ret,
                  struct err *e)
{
    uint32_t max = max_entries < DFS_MAX_ENTRIES ? (uint32_t)max_entries : DFS_MAX_ENTRIES;
    _cleanup_(dfs_index_freep) struct dfs_index *ix = index_new(max, DFS_DIR, 0755);

    if (dfs_tar_scan(src, max, on_entry, ix, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(ix);
    return 0;
}

struct dfs_index *dfs_index_file(uint64_t bytes)
{
    struct dfs_index *ix = index_new(0, DFS_FILE, 0444);

    ix->nodes[0].bytes = bytes;
    return ix;
}

/* ---- asking --------------------------------------------------------------------------------- */

uint32_t dfs_index_n(const struct dfs_index *ix)
{
    return ix->n;
}

const struct dfs_node *dfs_index_node(const struct dfs_index *ix, uint32_t i)
{
    return &ix->nodes[i];
}

const char *dfs_index_name(const struct dfs_index *ix, uint32_t i)
{
    return ix->names + ix->nodes[i].name;
}

const char *dfs_index_target(const struct dfs_index *ix, uint32_t i)
{
    return ix->names + ix->nodes[i].target;
}

uint32_t dfs_index_lookup(const struct dfs_index *ix, uint32_t parent, const char *name)
{
    return find(ix, parent, name, strlen(name));
}
