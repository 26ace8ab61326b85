#include "common/area.h"

#include <sys/mman.h>

int area_new(size_t n, int shared, struct area **ret, struct err *e)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = n ? (n + page - 1) / page * page : page;
    int flags = MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE);
    void *p;

    if (n > AREA_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "locked memory: expected at most %u bytes, found %zu",
                       AREA_MAX_BYTES, n);
    }
    p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return err_set(e, ERR_BUSY, "locked memory: no room for %zu bytes", n);
    }
    /* Best effort, as for struct secret; locking on fault, since most areas are bounds. */
    (void)mlock2(p, mapped, MLOCK_ONFAULT);
    (void)madvise(p, mapped, MADV_DONTDUMP);
    struct area *a = xcalloc(1, sizeof(*a));
    a->p = p;
    a->n = n;
    a->mapped_bytes = mapped;
    *ret = a;
    return 0;
}

/* Pages that were never touched need no wiping, and wiping them would take them from memory. */
static void wipe_resident(struct area *a)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char in[1024];

    for (size_t at = 0; at < a->mapped_bytes; at += sizeof(in) * page) {
        size_t n = a->mapped_bytes - at;
        n = n < sizeof(in) * page ? n : sizeof(in) * page;
        int known = mincore(a->p + at, n, in) == 0;
        for (size_t i = 0; i < n / page; i++) {
            if (!known || (in[i] & 1)) {
                explicit_bzero(a->p + at + i * page, page);
            }
        }
    }
}

void area_free(struct area *a)
{
    if (!a) {
        return;
    }
    wipe_resident(a);
    munmap(a->p, a->mapped_bytes);
    free(a);
}
