/* A tar stream, as a dataset's owner sealed it, into the index that DecryptFS shows. */
#include "svc-worker/decryptfs_int.h"

#define ENTRIES_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_memory(void *arg, void *out, size_t n, uint64_t offset, struct err *e)
{
    const struct bytes *b = arg;

    (void)e;
    if (offset > b->n || n > b->n - offset) {
        abort(); /* was promised not to */
    }
    memcpy(out, b->p + offset, n);
    return 0;
}

/* Every node is reached once from its parent, found by its name, and inside the stream. */
static uint32_t walk(const struct dfs_index *ix, uint32_t dir, size_t size, unsigned depth)
{
    uint32_t n = 0;

    if (depth > 200) {
        abort();
    }
    for (uint32_t i = dfs_index_node(ix, dir)->child; i != DFS_NONE;
         i = dfs_index_node(ix, i)->next) {
        const struct dfs_node *node = dfs_index_node(ix, i);
        const char *name = dfs_index_name(ix, i);
        if (node->parent != dir || dfs_index_lookup(ix, dir, name) != i || !name[0] ||
            strchr(name, '/') || strcmp(name, "..") == 0 || strcmp(name, ".") == 0) {
            abort();
        }
        if (node->kind == DFS_FILE && (node->offset > size || node->bytes > size - node->offset)) {
            abort();
        }
        if (node->kind == DFS_LINK && dfs_index_target(ix, i)[0] == '/') {
            abort();
        }
        n += 1 + (node->kind == DFS_DIR ? walk(ix, i, size, depth + 1) : 0);
        if (n > dfs_index_n(ix)) {
            abort();
        }
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(dfs_index_freep) struct dfs_index *ix = NULL;
    struct bytes b = BYTES(data, size);
    const struct dfs_source src = {.bytes = size, .read = read_memory, .arg = &b};
    struct err e = {0};

    if (dfs_index_tar(&src, ENTRIES_MAX, &ix, &e) < 0) {
        if (e.code == ERR_NONE || !e.msg[0]) {
            abort();
        }
        return 0;
    }
    if (walk(ix, 0, size, 0) != dfs_index_n(ix) - 1 || dfs_index_n(ix) > ENTRIES_MAX + 1) {
        abort();
    }
    return 0;
}
