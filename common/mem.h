/* Ownership helpers used everywhere.
 *
 * Rules: a function that returns something through `ret_x` sets it on success only and the caller
 * owns it; a variable that owns something carries a cleanup attribute; ownership is handed over
 * with TAKE_PTR. Running out of memory ends the process (a service restarts and resumes from its
 * store); only parsers of outside bytes bound what they allocate before they do.
 */
#ifndef COFFER_MEM_H
#define COFFER_MEM_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_ __attribute__((unused))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define TAKE_PTR(p)                                                                                \
    __extension__({                                                                                \
        __typeof__(p) *pp_ = &(p);                                                                 \
        __typeof__(p) p_ = *pp_;                                                                   \
        *pp_ = NULL;                                                                               \
        p_;                                                                                        \
    })

#define TAKE_FD(fd)                                                                                \
    __extension__({                                                                                \
        int *fp_ = &(fd);                                                                          \
        int f_ = *fp_;                                                                             \
        *fp_ = -1;                                                                                 \
        f_;                                                                                        \
    })

/* Defines `type_freep(type **)` for use with _cleanup_. */
#define DEFINE_CLEANUP(type, func)                                                                 \
    static inline void func##p(type *p)                                                            \
    {                                                                                              \
        if (*p) {                                                                                  \
            func(*p);                                                                              \
        }                                                                                          \
    }                                                                                              \
    struct coffer_require_semicolon_

static inline void freep(void *p)
{
    free(*(void **)p);
}

static inline void closep(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}

static inline void fclosep(FILE **f)
{
    if (*f) {
        fclose(*f);
    }
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_fclose_ _cleanup_(fclosep)

/* As their namesakes, but never return NULL: they abort when memory is out. */
void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t size); /* aborts on overflow of count*size too */
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
void *xmemdup(const void *p, size_t n);
char *xasprintf(const char *fmt, ...) _printf_(1, 2);

static inline int streq(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

#endif
