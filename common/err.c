#include "common/err.h"

#include <errno.h>
#include <stdarg.h>

static const char *const code_names[ERR_CODE_N] = {
    [ERR_NONE] = "none",
    [ERR_INVALID] = "invalid",
    [ERR_TOO_LARGE] = "too-large",
    [ERR_NOT_FOUND] = "not-found",
    [ERR_DENIED] = "denied",
    [ERR_BAD_SIGNATURE] = "bad-signature",
    [ERR_EXPIRED] = "expired",
    [ERR_REPLAY] = "replay",
    [ERR_STALE] = "stale-attempt",
    [ERR_WRONG_STATE] = "wrong-state",
    [ERR_BUSY] = "busy",
    [ERR_IO] = "io",
    [ERR_UNSUPPORTED] = "unsupported",
    [ERR_TIMEOUT] = "timeout",
    [ERR_WORKLOAD] = "workload",
    [ERR_INTERNAL] = "internal",
};

const char *err_code_name(enum err_code code)
{
    if ((unsigned)code >= ERR_CODE_N || !code_names[code]) {
        return "unknown";
    }
    return code_names[code];
}

int err_is_transient(enum err_code code)
{
    return code == ERR_IO || code == ERR_BUSY || code == ERR_TIMEOUT;
}

void err_clear(struct err *e)
{
    if (e) {
        memset(e, 0, sizeof(*e));
    }
}

int err_set_(struct err *e, enum err_code code, const char *origin, const char *fmt, ...)
{
    va_list ap;

    if (!e) {
        return -1;
    }
    err_clear(e);
    e->code = code;
    e->origin = origin;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    return -1;
}

int err_errno_(struct err *e, const char *origin, const char *fmt, ...)
{
    int saved = errno;
    va_list ap;

    if (!e) {
        return -1;
    }
    err_clear(e);
    e->code = ERR_IO;
    e->origin = origin;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(e->msg)) {
        snprintf(e->msg + n, sizeof(e->msg) - (size_t)n, ": %s", strerror(saved));
    }
    return -1;
}

int err_refuse_(struct err *e, enum err_code code, const char *origin, const char *clause,
                const char *expected, const char *fmt, ...)
{
    va_list ap;

    if (!e) {
        return -1;
    }
    err_clear(e);
    e->code = code;
    e->origin = origin;
    va_start(ap, fmt);
    vsnprintf(e->actual, sizeof(e->actual), fmt, ap);
    va_end(ap);
    snprintf(e->clause, sizeof(e->clause), "%s", clause);
    snprintf(e->expected, sizeof(e->expected), "%s", expected);
    snprintf(e->msg, sizeof(e->msg), "%.100s: expected %.180s, got %.180s", e->clause, e->expected,
             e->actual);
    return -1;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    char text[sizeof(e->msg)];
    va_list ap;

    if (!e) {
        return -1;
    }
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text) / 2, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof(text) / 2 ? (size_t)n : sizeof(text) / 2 - 1;
    text[used++] = ':';
    text[used++] = ' ';
    size_t left = sizeof(text) - used - 1, old = strlen(e->msg);
    memcpy(text + used, e->msg, old < left ? old : left);
    used += old < left ? old : left;
    text[used] = '\0';
    memcpy(e->msg, text, used + 1);
    return -1;
}
