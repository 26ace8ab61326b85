#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <time.h>

/* A write of at most PIPE_BUF bytes to a pipe is not mixed with those of other processes. */
#define LINE_MAX_BYTES 4096
#define CUT_MARK "..."

static struct log_opts opts = {.service = "coffer", .level = LOG_INFO};

static _Thread_local struct {
    char job[64];
    uint32_t attempt;
} context;

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug",
    [LOG_INFO] = "info",
    [LOG_WARN] = "warn",
    [LOG_ERROR] = "error",
};

static const char *const level_labels[] = {
    [LOG_DEBUG] = "DEBUG",
    [LOG_INFO] = "INFO ",
    [LOG_WARN] = "WARN ",
    [LOG_ERROR] = "ERROR",
};

void log_init(const struct log_opts *o)
{
    opts = *o;
}

int log_level_parse(const char *s, enum log_level *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (streq(s, level_names[i])) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -1;
}

void log_context(const char *job, uint32_t attempt)
{
    snprintf(context.job, sizeof(context.job), "%s", job ? job : "");
    context.attempt = attempt;
}

/* A line under construction. `limit` leaves room for what must close it. */
struct line {
    char s[LINE_MAX_BYTES];
    size_t n;
    size_t limit;
};

static int put(struct line *l, const char *s, size_t n)
{
    if (n > l->limit - l->n) {
        return -1;
    }
    memcpy(l->s + l->n, s, n);
    l->n += n;
    return 0;
}

static void puts_(struct line *l, const char *s)
{
    (void)put(l, s, strlen(s));
}

/* Length of the well-formed UTF-8 sequence at s (RFC 3629), its code point in *cp; 0 if there is
 * none. Stops at the terminating NUL, which is no continuation byte. */
static size_t utf8_next(const uint8_t *s, uint32_t *cp)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    if (n <= 1) {
        *cp = s[0];
        return n;
    }
    if (s[0] > 0xf4) {
        return 0;
    }
    uint32_t v = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
        v = v << 6 | (s[i] & 0x3fu);
    }
    if (v < least[n] || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) {
        return 0;
    }
    *cp = v;
    return n;
}

/* Characters that move the cursor, start a terminal command, or reorder what a reader sees. */
static int is_unsafe(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7f && cp <= 0x9f) || cp == 0x2028 || cp == 0x2029 ||
           (cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069) || cp == 0xfeff;
}

/* Appends text that may hold anything, escaped for a double-quoted string; marks it when cut. */
static void put_escaped(struct line *l, const char *text)
{
    const uint8_t *s = (const uint8_t *)text;
    size_t full = l->limit;

    l->limit -= strlen(CUT_MARK);
    while (*s) {
        uint32_t cp = 0;
        size_t n = utf8_next(s, &cp);
        char esc[16];
        int failed;
        if (n == 0) {
            /* JSON has no way to carry a stray byte. */
            snprintf(esc, sizeof(esc), opts.json ? "\\ufffd" : "\\x%02x", *s);
            failed = put(l, esc, strlen(esc));
            n = 1;
        } else if (cp == '"' || cp == '\\') {
            char two[2] = {'\\', (char)cp};
            failed = put(l, two, 2);
        } else if (is_unsafe(cp)) {
            snprintf(esc, sizeof(esc), opts.json || cp > 0xff ? "\\u%04x" : "\\x%02x", cp);
            failed = put(l, esc, strlen(esc));
        } else {
            failed = put(l, (const char *)s, n);
        }
        if (failed) {
            l->limit = full;
            puts_(l, CUT_MARK);
            return;
        }
        s += n;
    }
    l->limit = full;
}

static void put_json(struct line *l, const char *name, const char *value)
{
    /* What a member needs besides its text; one that has no room is left out whole. */
    if (strlen(name) + 16 > l->limit - l->n) {
        return;
    }
    puts_(l, l->n > 1 ? ",\"" : "\"");
    puts_(l, name);
    puts_(l, "\":\"");
    l->limit--;
    put_escaped(l, value);
    l->limit++;
    puts_(l, "\"");
}

static void put_number(struct line *l, const char *prefix, uint32_t v)
{
    char s[48];

    snprintf(s, sizeof(s), "%s%u", prefix, v);
    puts_(l, s);
}

static void begin(struct line *l, enum log_level level, const char *event)
{
    struct timespec now;
    struct tm tm;
    char date[32], ts[48];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(date, sizeof(date), opts.json ? "%Y-%m-%dT%H:%M:%S" : "%H:%M:%S", &tm);
    snprintf(ts, sizeof(ts), "%s.%03ld%s", date, now.tv_nsec / 1000000, opts.json ? "Z" : "");
    l->n = 0;
    l->limit = sizeof(l->s) - 3; /* quote or brace, newline */
    if (opts.json) {
        puts_(l, "{");
        put_json(l, "ts", ts);
        put_json(l, "service", opts.service);
        put_json(l, "level", level_names[level]);
        put_json(l, "event", event);
        if (context.job[0]) {
            put_json(l, "job", context.job);
        }
        if (context.attempt) {
            put_number(l, ",\"attempt\":", context.attempt);
        }
        return;
    }
    puts_(l, ts);
    puts_(l, " ");
    put_escaped(l, opts.service);
    for (size_t pad = strlen(opts.service); pad < 13; pad++) {
        puts_(l, " ");
    }
    puts_(l, " ");
    puts_(l, level_labels[level]);
    puts_(l, " ");
    put_escaped(l, event);
    if (context.job[0]) {
        puts_(l, " job=");
        put_escaped(l, context.job);
    }
    if (context.attempt) {
        put_number(l, " attempt=", context.attempt);
    }
}

static void finish(struct line *l, const char *text)
{
    if (opts.json) {
        put_json(l, "text", text);
        l->limit = sizeof(l->s);
        puts_(l, "}\n");
    } else {
        puts_(l, " \"");
        put_escaped(l, text);
        l->limit = sizeof(l->s);
        puts_(l, "\"\n");
    }
    /* One write, so that lines of several processes stay whole; a log that cannot be written has
     * nowhere to say so. */
    while (write(STDERR_FILENO, l->s, l->n) < 0 && errno == EINTR) {
    }
}

void log_at(enum log_level level, const char *event, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    struct line l;
    va_list ap;
    int saved = errno;

    if (level < opts.level) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    begin(&l, level, event);
    finish(&l, text);
    errno = saved;
}

void log_err(enum log_level level, const char *event, const struct err *e)
{
    struct line l;
    int saved = errno;

    if (level < opts.level) {
        return;
    }
    begin(&l, level, event);
    if (opts.json) {
        put_json(&l, "code", err_code_name(e->code));
        if (e->clause[0]) {
            put_json(&l, "clause", e->clause);
            put_json(&l, "expected", e->expected);
            put_json(&l, "actual", e->actual);
        }
        if (e->origin) {
            put_json(&l, "origin", e->origin);
        }
    } else {
        puts_(&l, " code=");
        puts_(&l, err_code_name(e->code));
        if (e->origin) {
            puts_(&l, " at=");
            put_escaped(&l, e->origin);
        }
    }
    finish(&l, e->msg);
    errno = saved;
}
