#include "common/mem.h"

#include <stdarg.h>

static void *or_die(void *p)
{
    if (!p) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return p;
}

void *xmalloc(size_t n)
{
    return or_die(malloc(n ? n : 1));
}

void *xcalloc(size_t count, size_t size)
{
    return or_die(calloc(count ? count : 1, size ? size : 1));
}

void *xrealloc(void *p, size_t n)
{
    return or_die(realloc(p, n ? n : 1));
}

char *xstrdup(const char *s)
{
    return or_die(strdup(s));
}

char *xstrndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *c = xmalloc(len + 1);

    memcpy(c, s, len);
    c[len] = '\0';
    return c;
}

void *xmemdup(const void *p, size_t n)
{
    void *c = xmalloc(n);
    if (n) {
        memcpy(c, p, n);
    }
    return c;
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return or_die(n < 0 ? NULL : s);
}
