#include "appraise/needs.h"

#include <stdarg.h>

static const char *const names[NEED_SOURCE_N] = {
    [NEED_PCS] = "pcs", [NEED_ROOT_CRL] = "root-crl", [NEED_KDS] = "kds"};

const char *need_source_name(enum need_source s)
{
    return (unsigned)s < NEED_SOURCE_N ? names[s] : "";
}

int need_source_from_name(const char *name)
{
    for (int i = 0; i < NEED_SOURCE_N; i++) {
        if (streq(names[i], name)) {
            return i;
        }
    }
    return -1;
}

void needs_add(struct needs *n, enum need_source source, const char *fmt, ...)
{
    struct need *x = &n->v[n->n];
    va_list ap;

    if (n->n == NEEDS_MAX) {
        return;
    }
    va_start(ap, fmt);
    int len = vsnprintf(x->path, sizeof(x->path), fmt, ap);
    va_end(ap);
    if (len < 0 || (size_t)len >= sizeof(x->path)) {
        return;
    }
    x->source = source;
    for (size_t i = 0; i < n->n; i++) {
        if (n->v[i].source == source && streq(n->v[i].path, x->path)) {
            return;
        }
    }
    n->n++;
}
