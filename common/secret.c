#include "common/secret.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "common/fileio.h"

#define SPARE_MAX 64 /* pages */

struct secret {
    uint8_t *p;
    size_t n;
    size_t mapped_bytes;
    int locked;
};

/* Locked pages of secrets that are gone, wiped: making, locking and unmapping a page costs more
 * than most of what is done with a secret in it. Never those of a parent process: locks are not
 * inherited. */
static struct {
    pthread_mutex_t mu;
    uint8_t *v[SPARE_MAX];
    size_t n;
} spare = {.mu = PTHREAD_MUTEX_INITIALIZER};

static size_t page_bytes(void)
{
    static size_t page;

    if (!page) {
        page = (size_t)sysconf(_SC_PAGESIZE);
    }
    return page;
}

static void before_fork(void)
{
    pthread_mutex_lock(&spare.mu);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&spare.mu);
}

static void after_fork_in_child(void)
{
    for (size_t i = 0; i < spare.n; i++) {
        munmap(spare.v[i], page_bytes());
    }
    spare.n = 0;
    pthread_mutex_unlock(&spare.mu);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static uint8_t *spare_take(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint8_t *p = NULL;

    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&spare.mu);
    if (spare.n) {
        p = spare.v[--spare.n];
    }
    pthread_mutex_unlock(&spare.mu);
    return p;
}

static int spare_give(uint8_t *p)
{
    pthread_mutex_lock(&spare.mu);
    int taken = spare.n < SPARE_MAX;
    if (taken) {
        spare.v[spare.n++] = p;
    }
    pthread_mutex_unlock(&spare.mu);
    return taken;
}

static void map(struct secret *s)
{
    void *p =
        mmap(NULL, s->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        fputs("out of memory\n", stderr);
        abort();
    }
    s->p = p;
    /* Best effort: RLIMIT_MEMLOCK may be small, and a service must work without swap control. */
    s->locked = mlock(p, s->mapped_bytes) == 0;
    (void)madvise(p, s->mapped_bytes, MADV_DONTDUMP);
    /* No child needs them: the runner makes its own, and what it starts beside the workload has no
     * business with keys. */
    (void)madvise(p, s->mapped_bytes, MADV_WIPEONFORK);
}

/* Pages of their own: locking and dump exclusion work on whole pages, and unlocking one secret must
 * not unlock a neighbour. */
struct secret *secret_new(size_t n)
{
    size_t page = page_bytes();
    struct secret *s;

    if (n < 1 || n > SECRET_MAX_BYTES) {
        fputs("secret_new: size out of bounds\n", stderr);
        abort();
    }
    s = xcalloc(1, sizeof(*s));
    s->n = n;
    s->mapped_bytes = (n + page - 1) / page * page;
    s->p = s->mapped_bytes == page ? spare_take() : NULL;
    s->locked = s->p != NULL;
    if (!s->p) {
        map(s);
    }
    return s;
}

struct secret *secret_from(const void *p, size_t n)
{
    struct secret *s = secret_new(n);

    memcpy(s->p, p, n);
    return s;
}

struct secret *secret_random(size_t n)
{
    struct secret *s = secret_new(n);

    random_bytes(s->p, n);
    return s;
}

int secret_read_file(const char *path, size_t max, struct secret **ret, struct err *e)
{
    size_t cap = max < SECRET_MAX_BYTES ? max : SECRET_MAX_BYTES;
    _cleanup_buf_ struct buf b = BUF_INIT(cap);

    if (file_read(path, cap, 1, &b, e)) {
        return -1;
    }
    if (!b.n) {
        return err_set(e, ERR_INVALID, "%s: expected 1 to %zu bytes, found an empty file", path,
                       cap);
    }
    *ret = secret_from(b.p, b.n);
    return 0;
}

int secret_write_file(const char *path, const struct secret *s, struct err *e)
{
    return file_replace(path, BYTES(s->p, s->n), 0600, e);
}

uint8_t *secret_p(struct secret *s)
{
    return s->p;
}

const uint8_t *secret_cp(const struct secret *s)
{
    return s->p;
}

size_t secret_n(const struct secret *s)
{
    return s->n;
}

int secret_eq(const struct secret *a, const struct secret *b)
{
    return a->n == b->n && CRYPTO_memcmp(a->p, b->p, a->n) == 0;
}

void secret_free(struct secret *s)
{
    if (!s) {
        return;
    }
    explicit_bzero(s->p, s->mapped_bytes);
    if (!s->locked || s->mapped_bytes != page_bytes() || !spare_give(s->p)) {
        munmap(s->p, s->mapped_bytes);
    }
    free(s);
}

void random_bytes(void *p, size_t n)
{
    uint8_t *o = p;

    while (n) {
        ssize_t got = getrandom(o, n, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            fputs("getrandom failed\n", stderr);
            abort();
        }
        o += got;
        n -= (size_t)got;
    }
}
