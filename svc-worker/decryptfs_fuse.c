/* The process that answers the kernel. A fixed number of threads take requests from the device; one
 * more helps them while all of them answer long reads, so that no processor is left without work
 * when the reader runs too (always there, it would make short reads slower). Another one, the
 * filler, puts the rest of a chunk into the page cache when only a part of it was asked for, since
 * that has been decrypted anyway. The filler may wait for a page that a request has
 * locked; the others never wait for the filler, so that request is always answered. */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "svc-worker/decryptfs_int.h"

#define FOREVER_S (365.0 * 86400)
#define QUEUE_MAX 64u
#define IO_BYTES 131072u
#define PAGE_BYTES 4096u
#define BACKGROUND_MAX 32
#define LONG_BYTES 131072u

struct fill {
    size_t dataset;
    uint32_t node;
    uint64_t chunk;
};

struct world {
    struct dfs_server *s;
    struct fuse_session *session;
    struct dfs_cache *cache;
    atomic_int failed;       /* the report is written */
    int no_open, no_opendir; /* the kernel can do without these calls */
    pthread_mutex_t lock;
    pthread_cond_t wake, busy;
    unsigned long_reads; /* being answered */
    struct fill queue[QUEUE_MAX];
    unsigned queued;
    int over;
};

struct worker {
    struct world *w;
    struct dfs_reader reader;
    struct area *out; /* one reply */
    int helps;        /* only while all others answer long reads */
    pthread_t thread;
};

static _Thread_local struct worker *self;

/* ---- inode numbers: dataset + 1 in the upper half, node in the lower; 1 is the root --------- */

static fuse_ino_t ino_of(size_t dataset, uint32_t node)
{
    return (fuse_ino_t)(dataset + 1) << 32 | node;
}

/* -1 for the root and what is none of ours. */
static int resolve(const struct world *w, fuse_ino_t ino, size_t *ret_dataset, uint32_t *ret_node)
{
    uint64_t d = ino >> 32;

    if (d == 0 || d > w->s->n || (uint32_t)ino >= dfs_index_n(w->s->indexes[d - 1])) {
        return -1;
    }
    *ret_dataset = (size_t)d - 1;
    *ret_node = (uint32_t)ino;
    return 0;
}

static void fill_stat(const struct world *w, size_t d, uint32_t i, struct stat *st)
{
    const struct dfs_node *node = dfs_index_node(w->s->indexes[d], i);
    static const mode_t types[] = {[DFS_FILE] = S_IFREG, [DFS_DIR] = S_IFDIR, [DFS_LINK] = S_IFLNK};

    memset(st, 0, sizeof(*st));
    st->st_ino = ino_of(d, i);
    st->st_mode = types[node->kind] | node->mode;
    st->st_nlink = node->kind == DFS_DIR ? 2 + node->subdirs : 1;
    st->st_size = (off_t)node->bytes;
    st->st_blocks = (blkcnt_t)((node->bytes + 511) / 512);
    st->st_blksize = IO_BYTES;
}

static void root_stat(const struct world *w, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_ino = FUSE_ROOT_ID;
    st->st_mode = S_IFDIR | 0755;
    st->st_nlink = 2 + (nlink_t)w->s->n;
}

static int stat_of(const struct world *w, fuse_ino_t ino, struct stat *st)
{
    uint32_t node;
    size_t d;

    if (ino == FUSE_ROOT_ID) {
        root_stat(w, st);
        return 0;
    }
    if (resolve(w, ino, &d, &node) < 0) {
        return -1;
    }
    fill_stat(w, d, node, st);
    return 0;
}

/* ---- names ---------------------------------------------------------------------------------- */

static void op_init(void *arg, struct fuse_conn_info *conn)
{
    struct world *w = arg;

    w->no_open = !!(conn->capable & FUSE_CAP_NO_OPEN_SUPPORT);
    w->no_opendir = !!(conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT);
    conn->max_read = w->s->options.read_max_bytes;
    conn->max_write = w->s->options.read_max_bytes; /* bounds the pages of any request */
    conn->max_readahead = w->s->options.read_ahead_kib << 10;
    conn->max_background = BACKGROUND_MAX;
    conn->congestion_threshold = BACKGROUND_MAX;
    /* Nothing ever changes: no open calls, and the page cache is kept. */
    conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ |
                              FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_NO_OPEN_SUPPORT |
                                   FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_CACHE_SYMLINKS |
                                   FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_EXPLICIT_INVAL_DATA);
}

static int dataset_named(const struct world *w, const char *name, size_t *ret)
{
    size_t n = strlen(name), v = 0;

    if (n == 0 || n > 3 || strspn(name, "0123456789") != n || (n > 1 && name[0] == '0')) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        v = v * 10 + (size_t)(name[i] - '0');
    }
    *ret = v;
    return v < w->s->n ? 0 : -1;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    const struct world *w = self->w;
    struct fuse_entry_param entry = {.attr_timeout = FOREVER_S, .entry_timeout = FOREVER_S};
    uint32_t node = DFS_NONE;
    size_t d = 0;

    if (parent == FUSE_ROOT_ID) {
        node = dataset_named(w, name, &d) == 0 ? 0 : DFS_NONE;
    } else if (resolve(w, parent, &d, &node) < 0) {
        fuse_reply_err(req, ENOENT);
        return;
    } else {
        node = dfs_index_lookup(w->s->indexes[d], node, name);
    }
    /* No inode at all: that there is none may be remembered, too. */
    if (node != DFS_NONE) {
        entry.ino = ino_of(d, node);
        fill_stat(w, d, node, &entry.attr);
    }
    fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;

    (void)fi;
    if (stat_of(self->w, ino, &st) < 0) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fuse_reply_attr(req, &st, FOREVER_S);
}

/* ENOSYS means to the kernel: do not ask again, all may be opened, and the page cache is kept. */
static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (!self->w->no_open) {
        fi->keep_cache = 1;
        fuse_reply_open(req, fi);
        return;
    }
    fuse_reply_err(req, ENOSYS);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (!self->w->no_opendir) {
        fi->keep_cache = 1;
        fi->cache_readdir = 1;
        fuse_reply_open(req, fi);
        return;
    }
    fuse_reply_err(req, ENOSYS);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    const struct world *w = self->w;
    uint32_t node;
    size_t d;

    if (resolve(w, ino, &d, &node) < 0 ||
        dfs_index_node(w->s->indexes[d], node)->kind != DFS_LINK) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    fuse_reply_readlink(req, dfs_index_target(w->s->indexes[d], node));
}

/* What follows the entry with the cookie `off` (0, 1: none yet, 2: ".", ".." are told; else 3 plus
 * a number) in a directory. 0: the end. */
static int next_entry(const struct world *w, fuse_ino_t ino, off_t off, off_t *ret_off,
                      const char **ret_name, char number[24], struct stat *st)
{
    uint32_t node = DFS_NONE, dir;
    size_t d;

    if (off < 2) {
        *ret_off = off + 1;
        *ret_name = off ? ".." : ".";
        st->st_mode = S_IFDIR;
        st->st_ino = ino;
        return 1;
    }
    if (ino == FUSE_ROOT_ID) {
        d = (size_t)off - 2; /* 2: the first */
        if (d >= w->s->n) {
            return 0;
        }
        snprintf(number, 24, "%zu", d);
        *ret_name = number;
        *ret_off = off + 1;
        fill_stat(w, d, 0, st);
        return 1;
    }
    if (resolve(w, ino, &d, &dir) < 0) {
        return 0;
    }
    const struct dfs_index *ix = w->s->indexes[d];
    if (off == 2) {
        node = dfs_index_node(ix, dir)->child;
    } else if (off - 3 < (off_t)dfs_index_n(ix) &&
               dfs_index_node(ix, (uint32_t)(off - 3))->parent == dir) {
        node = dfs_index_node(ix, (uint32_t)(off - 3))->next;
    }
    if (node == DFS_NONE) {
        return 0;
    }
    *ret_name = dfs_index_name(ix, node);
    *ret_off = (off_t)node + 3;
    fill_stat(w, d, node, st);
    return 1;
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    char *out = (char *)self->out->p, number[24];
    size_t used = 0, max = size < self->out->n ? size : self->out->n;
    struct stat st = {0};
    const char *name;
    off_t next;

    (void)fi;
    while (off >= 0 && next_entry(self->w, ino, off, &next, &name, number, &st)) {
        size_t n = fuse_add_direntry(req, out + used, max - used, name, &st, next);
        if (n > max - used) {
            break;
        }
        used += n;
        off = next;
    }
    fuse_reply_buf(req, out, used);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs v = {.f_bsize = PAGE_BYTES, .f_frsize = PAGE_BYTES, .f_namemax = 255};

    (void)ino;
    for (size_t i = 0; i < self->w->s->n; i++) {
        v.f_blocks += (seal_reader_size(self->w->s->v[i].reader) + PAGE_BYTES - 1) / PAGE_BYTES;
        v.f_files += dfs_index_n(self->w->s->indexes[i]);
    }
    fuse_reply_statfs(req, &v);
}

/* ---- contents ------------------------------------------------------------------------------- */

/* The runner hears of the first one. It is written before the reader gets its EIO, so that nobody
 * can end the run before. */
static void tell(struct world *w, size_t dataset, const struct err *why)
{
    struct dfs_report r = {.dataset = dataset, .why = *why};

    r.why.origin = NULL; /* is a pointer */
    if (atomic_exchange(&w->failed, 1) == 0 &&
        write(w->s->report_fd, &r, sizeof(r)) != (ssize_t)sizeof(r)) {
        _exit(1); /* which the runner sees as well */
    }
}

static void want_fill(struct world *w, size_t dataset, uint32_t node, uint64_t chunk)
{
    unsigned i = 0;

    pthread_mutex_lock(&w->lock);
    while (i < w->queued && (w->queue[i].chunk != chunk || w->queue[i].dataset != dataset ||
                             w->queue[i].node != node)) {
        i++;
    }
    if (i == w->queued && w->queued < QUEUE_MAX) {
        w->queue[w->queued++] = (struct fill){dataset, node, chunk};
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->lock);
}

static void answer_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off)
{
    struct world *w = self->w;
    uint64_t at = (uint64_t)off, part = UINT64_MAX;
    struct err e = {0};
    uint32_t i;
    size_t d;

    if (off < 0 || resolve(w, ino, &d, &i) < 0) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    const struct dfs_node *node = dfs_index_node(w->s->indexes[d], i);
    if (node->kind != DFS_FILE) {
        fuse_reply_err(req, EISDIR);
        return;
    }
    size = size < self->out->n ? size : self->out->n;
    if (at >= node->bytes) {
        size = 0;
    } else if (size > node->bytes - at) {
        size = (size_t)(node->bytes - at);
    }
    if (size && dfs_read(&self->reader, d, self->out->p, size, node->offset + at, &part, &e) < 0) {
        tell(w, d, &e);
        fuse_reply_err(req, EIO);
        return;
    }
    fuse_reply_buf(req, (const char *)self->out->p, size);
    if (part != UINT64_MAX && !w->s->options.no_fill) {
        want_fill(w, d, i, part);
    }
}

static void count_long(struct world *w, int more)
{
    pthread_mutex_lock(&w->lock);
    w->long_reads = more ? w->long_reads + 1 : w->long_reads - 1;
    if (w->long_reads == w->s->options.threads) {
        pthread_cond_signal(&w->busy);
    }
    pthread_mutex_unlock(&w->lock);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    const int is_long = size >= LONG_BYTES;

    (void)fi;
    if (is_long) {
        count_long(self->w, 1);
    }
    answer_read(req, ino, size, off);
    if (is_long) {
        count_long(self->w, 0);
    }
}

/* ---- the filler ----------------------------------------------------------------------------- */

/* The part of a chunk that is the file's, cut to whole pages (but at the file's end). */
static void fill_one(struct worker *me, const struct fill *f)
{
    const struct dfs_node *node = dfs_index_node(me->w->s->indexes[f->dataset], f->node);
    uint64_t size = seal_reader_header(me->w->s->v[f->dataset].reader)->chunk_bytes;
    uint64_t start = f->chunk * size, from, to;
    struct err e = {0};
    const uint8_t *p;
    unsigned slot;
    size_t n;

    if (dfs_pin(&me->reader, f->dataset, f->chunk, &p, &n, &slot, &e) < 0) {
        tell(me->w, f->dataset, &e);
        return;
    }
    from = start > node->offset ? start - node->offset : 0;
    to = start + n > node->offset ? start + n - node->offset : 0;
    from = (from + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    to = to >= node->bytes ? node->bytes : to / PAGE_BYTES * PAGE_BYTES;
    if (from < to) {
        struct fuse_bufvec v = FUSE_BUFVEC_INIT((size_t)(to - from));
        v.buf[0].mem = (void *)(uintptr_t)(p + (node->offset + from - start));
        /* The kernel may have forgotten the file: then there is nothing to fill. */
        (void)fuse_lowlevel_notify_store(me->w->session, ino_of(f->dataset, f->node), (off_t)from,
                                         &v, 0);
    }
    dfs_release(me->w->cache, slot);
}

static void *filler(void *arg)
{
    struct worker *me = arg;
    struct world *w = me->w;

    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        if (!w->queued) {
            pthread_cond_wait(&w->wake, &w->lock);
            continue;
        }
        struct fill f = w->queue[--w->queued];
        pthread_mutex_unlock(&w->lock);
        fill_one(me, &f);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void wait_until_busy(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    while (w->long_reads < w->s->options.threads) {
        pthread_cond_wait(&w->busy, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

static void *serve(void *arg)
{
    struct fuse_buf buf = {.mem = NULL};

    self = arg;
    while (!fuse_session_exited(self->w->session)) {
        if (self->helps) {
            wait_until_busy(self->w);
        }
        int n = fuse_session_receive_buf(self->w->session, &buf);
        if (n == -EINTR) {
            continue;
        }
        if (n <= 0) {
            break; /* unmounted */
        }
        fuse_session_process_buf(self->w->session, &buf);
    }
    free(buf.mem);
    return NULL;
}

static int session_new(struct world *w)
{
    static const struct fuse_lowlevel_ops ops = {
        .init = op_init,
        .lookup = op_lookup,
        .getattr = op_getattr,
        .readlink = op_readlink,
        .open = op_open,
        .opendir = op_opendir,
        .read = op_read,
        .readdir = op_readdir,
        .statfs = op_statfs,
    };
    char name[] = "decryptfs", option[48], path[32];
    char *argv[] = {name, option, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, argv);

    snprintf(option, sizeof(option), "-omax_read=%u", w->s->options.read_max_bytes);
    snprintf(path, sizeof(path), "/dev/fd/%d", w->s->fuse_fd);
    w->session = fuse_session_new(&args, &ops, sizeof(ops), w);
    fuse_opt_free_args(&args);
    return w->session && fuse_session_mount(w->session, path) == 0 ? 0 : -1;
}

static int worker_init(struct worker *me, struct world *w, struct sealer **sealers)
{
    me->w = w;
    me->reader = (struct dfs_reader){.cache = w->cache, .sealers = sealers};
    return area_new(w->s->options.read_max_bytes, 0, &me->out, NULL);
}

int dfs_serve(struct dfs_server *s)
{
    struct world w = {.s = s,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .wake = PTHREAD_COND_INITIALIZER,
                      .busy = PTHREAD_COND_INITIALIZER};
    struct worker workers[DFS_MAX_THREADS + DFS_MORE_THREADS] = {0};
    const unsigned n = s->options.threads, all = n + DFS_MORE_THREADS;

    if (dfs_cache_new(s->v, s->n, all, &w.cache, NULL) < 0) {
        return 1;
    }
    for (unsigned i = 0; i < all; i++) {
        if (worker_init(&workers[i], &w, s->sealers[i]) < 0) {
            return 1;
        }
    }
    workers[n].helps = 1;
    if (session_new(&w) < 0) {
        return 1;
    }
    for (unsigned i = 0; i < all; i++) {
        if (pthread_create(&workers[i].thread, NULL, i == n + 1 ? filler : serve, &workers[i])) {
            return 1;
        }
    }
    if (dfs_lock_down() < 0) {
        return 1;
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    /* The process ends now, and with it the other threads; its memory is wiped by the kernel. */
    return 0;
}
