#include "common/secret.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "common/fileio.h"

struct secret {
    uint8_t *p;
    size_t n;
    size_t mapped_bytes;
};

/* Pages of their own: locking and dump exclusion work on whole pages, and unlocking one secret must
 * not unlock a neighbour. */
struct secret *secret_new(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct secret *s;
    void *p;

    if (n < 1 || n > SECRET_MAX_BYTES) {
        fputs("secret_new: size out of bounds\n", stderr);
        abort();
    }
    s = xcalloc(1, sizeof(*s));
    s->n = n;
    s->mapped_bytes = (n + page - 1) / page * page;
    p = mmap(NULL, s->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fputs("out of memory\n", stderr);
        abort();
    }
    s->p = p;
    /* Best effort: RLIMIT_MEMLOCK may be small, and a service must work without swap control. */
    (void)mlock(p, s->mapped_bytes);
    (void)madvise(p, s->mapped_bytes, MADV_DONTDUMP);
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
    munmap(s->p, s->mapped_bytes);
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
