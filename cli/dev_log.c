#include "cli/dev.h"

#include <ctype.h>
#include <errno.h>

static const char *const colours[DEV_N] = {
    [DEV_NATS] = "\033[37m", [DEV_VERIFIER] = "\033[36m",  [DEV_KBS] = "\033[35m",
    [DEV_GATE] = "\033[33m", [DEV_SCHEDULER] = "\033[34m", [DEV_LAUNCHER] = "\033[32m",
};

#define TIME_LEN 13 /* "23:59:59.123 " */

static int is_log_line(const char *s, size_t n)
{
    static const char shape[] = "dd:dd:dd.ddd ";

    if (n > 0 && s[0] == '{') {
        return 1;
    }
    if (n < TIME_LEN) {
        return 0;
    }
    for (size_t i = 0; i < TIME_LEN; i++) {
        if (shape[i] == 'd' ? !isdigit((unsigned char)s[i]) : s[i] != shape[i]) {
            return 0;
        }
    }
    return 1;
}

static void write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(STDERR_FILENO, p, n);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w <= 0) {
            return; /* nobody reads our log: the services do not suffer from it */
        }
        p += w;
        n -= (size_t)w;
    }
}

/* One line in one write, so that it stays whole beside those of the workers. */
static void emit(struct dev_child *c)
{
    char out[DEV_LINE_MAX_BYTES + 128];
    const char *s = c->lines.v;
    size_t n = c->lines.n;
    const char *on = c->dev->colour ? colours[c->id] : "", *off = c->dev->colour ? "\033[0m" : "";
    int len;

    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)s[i];
        if ((ch < 0x20 && ch != '\t') || ch == 0x7f) {
            c->lines.v[i] = '?';
        }
    }
    if (is_log_line(s, n) && s[0] != '{') {
        size_t name = TIME_LEN;
        while (name < n && s[name] != ' ') {
            name++;
        }
        len = snprintf(out, sizeof(out), "%.*s%s%.*s%s%.*s%s\n", TIME_LEN, s, on,
                       (int)(name - TIME_LEN), s + TIME_LEN, off, (int)(n - name), s + name,
                       c->lines.cut ? "..." : "");
    } else if (n > 0 && s[0] == '{') {
        len = snprintf(out, sizeof(out), "%.*s\n", (int)n, s);
    } else {
        len = snprintf(out, sizeof(out), "%s%s%s | %.*s%s\n", on, c->name, off, (int)n, s,
                       c->lines.cut ? "..." : "");
    }
    write_all(out, len < 0 ? 0 : (size_t)len < sizeof(out) ? (size_t)len : sizeof(out) - 1);
    c->lines.n = 0;
    c->lines.cut = 0;
}

void dev_lines_add(struct dev_child *c, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n') {
            emit(c);
        } else if (c->lines.n < sizeof(c->lines.v)) {
            c->lines.v[c->lines.n++] = p[i];
        } else {
            c->lines.cut = 1;
        }
    }
}

void dev_lines_end(struct dev_child *c)
{
    if (c->lines.n > 0) {
        emit(c);
    }
}
