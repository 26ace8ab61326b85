/* How a spec's errors read. */
#include "common/spec_fields.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>

void spec_source_note(struct spec_source *src, const char *path, unsigned line, const char *shown)
{
    if (src->n_locs == src->size_locs) {
        src->size_locs = src->size_locs ? 2 * src->size_locs : 64;
        src->locs = xrealloc(src->locs, src->size_locs * sizeof(*src->locs));
    }
    src->locs[src->n_locs++] = (struct spec_loc){
        .path = xstrdup(path), .line = line, .shown = shown ? xstrdup(shown) : NULL};
}

const struct spec_loc *spec_source_find(const struct spec_source *src, const char *path)
{
    for (size_t i = 0; i < src->n_locs; i++) {
        if (streq(src->locs[i].path, path)) {
            return &src->locs[i];
        }
    }
    return NULL;
}

void spec_source_done(struct spec_source *src)
{
    for (size_t i = 0; i < src->n_locs; i++) {
        free(src->locs[i].path);
        free(src->locs[i].shown);
    }
    free(src->locs);
    *src = (struct spec_source){0};
}

/* The line of the path, or of the nearest thing around it that was written down. */
static unsigned line_of(const struct spec_source *src, const char *path)
{
    struct spec_path p;

    snprintf(p.s, sizeof(p.s), "%s", path);
    for (;;) {
        const struct spec_loc *l = spec_source_find(src, p.s);
        if (l) {
            return l->line;
        }
        char *dot = strrchr(p.s, '.');
        char *bracket = strrchr(p.s, '[');
        char *cut = dot > bracket ? dot : bracket;
        if (!cut) {
            return 1;
        }
        *cut = '\0';
    }
}

static void path_add(struct spec_path *p, const char *s)
{
    size_t n = strlen(s);

    if (n >= sizeof(p->s) - p->n) {
        return;
    }
    memcpy(p->s + p->n, s, n + 1);
    p->n += n;
}

size_t spec_path_push(struct spec_path *p, const char *name)
{
    char shown[SPEC_SHOWN_MAX];
    size_t before = p->n;

    spec_show(name, strlen(name), 0, shown);
    if (p->n) {
        path_add(p, ".");
    }
    path_add(p, shown);
    return before;
}

size_t spec_path_push_index(struct spec_path *p, size_t i)
{
    char s[32];
    size_t before = p->n;

    snprintf(s, sizeof(s), "[%zu]", i);
    path_add(p, s);
    return before;
}

void spec_path_pop(struct spec_path *p, size_t n)
{
    p->n = n;
    p->s[n] = '\0';
}

void spec_show(const char *s, size_t n, int quote, char ret[SPEC_SHOWN_MAX])
{
    size_t at = 0;

    if (quote) {
        ret[at++] = '"';
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (at > SPEC_SHOWN_MAX - 12) {
            memcpy(ret + at, "...", 3);
            at += 3;
            break;
        }
        if (c < 0x20 || c >= 0x7f) {
            at += (size_t)snprintf(ret + at, 5, "\\x%02x", c);
        } else {
            if (quote && (c == '"' || c == '\\')) {
                ret[at++] = '\\';
            }
            ret[at++] = (char)c;
        }
    }
    if (quote) {
        ret[at++] = '"';
    }
    ret[at] = '\0';
}

void spec_show_json(const json_t *j, char ret[SPEC_SHOWN_MAX])
{
    const char *text = "nothing";

    if (j) {
        switch (json_typeof(j)) {
        case JSON_OBJECT:
            text = "an object";
            break;
        case JSON_ARRAY:
            text = "a list";
            break;
        case JSON_STRING:
            spec_show(json_string_value(j), json_string_length(j), 1, ret);
            return;
        case JSON_INTEGER:
            snprintf(ret, SPEC_SHOWN_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(j));
            return;
        case JSON_REAL:
            text = "a number with a fraction or exponent";
            break;
        case JSON_TRUE:
            text = "true";
            break;
        case JSON_FALSE:
            text = "false";
            break;
        case JSON_NULL:
            text = "null";
            break;
        }
    }
    snprintf(ret, SPEC_SHOWN_MAX, "%s", text);
}

int spec_bad(const struct spec_source *src, const char *path, unsigned line, const char *expected,
             struct err *e, const char *found_fmt, ...)
{
    char found[256], where[320];
    va_list ap;

    va_start(ap, found_fmt);
    vsnprintf(found, sizeof(found), found_fmt, ap);
    va_end(ap);
    if (src->file) {
        snprintf(where, sizeof(where), "%s", path[0] ? path : "spec");
    } else {
        snprintf(where, sizeof(where), path[0] ? "spec.%s" : "spec%s", path);
    }
    if (src->file) {
        err_set(e, ERR_INVALID, "%.128s:%u: %.128s: expected %.160s, found %.160s", src->file,
                line ? line : line_of(src, path), where, expected, found);
    } else {
        err_set(e, ERR_INVALID, "%.128s: expected %.160s, found %.160s", where, expected, found);
    }
    if (e) {
        snprintf(e->clause, sizeof(e->clause), "%.127s", where);
        snprintf(e->expected, sizeof(e->expected), "%.255s", expected);
        snprintf(e->actual, sizeof(e->actual), "%s", found);
    }
    return -1;
}

#define NEAR_MAX 32

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap neighbours) from a to b, both of at most NEAR_MAX bytes. */
static unsigned edits(const char *a, const char *b)
{
    unsigned d[NEAR_MAX + 1][NEAR_MAX + 1];
    size_t na = strlen(a), nb = strlen(b);

    for (size_t i = 0; i <= na; i++) {
        d[i][0] = (unsigned)i;
        for (size_t k = 1; k <= nb; k++) {
            if (i == 0) {
                d[0][k] = (unsigned)k;
                continue;
            }
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[k - 1]);
            d[i][k] = min3(d[i - 1][k] + 1, d[i][k - 1] + 1, d[i - 1][k - 1] + (ca != cb));
            if (i > 1 && k > 1 && ca == tolower((unsigned char)b[k - 2]) &&
                cb == tolower((unsigned char)a[i - 2]) && d[i - 2][k - 2] + 1 < d[i][k]) {
                d[i][k] = d[i - 2][k - 2] + 1;
            }
        }
    }
    return d[na][nb];
}

const char *spec_nearest(const char *const *names, const char *s)
{
    const char *best = NULL;
    unsigned best_edits = 0;

    if (strlen(s) > NEAR_MAX) {
        return NULL;
    }
    for (; *names; names++) {
        size_t n = strlen(*names);
        unsigned d = n <= NEAR_MAX ? edits(*names, s) : NEAR_MAX;
        /* One letter and a quarter of the name may be wrong; more is another word. */
        if (d <= 1 + n / 4 && d < n && (!best || d < best_edits)) {
            best = *names;
            best_edits = d;
        }
    }
    return best;
}

static void join(const char *const *names, char *ret, size_t size)
{
    size_t at = 0;

    ret[0] = '\0';
    for (size_t i = 0; names[i] && at < size; i++) {
        int n = snprintf(ret + at, size - at, "%s%s", i ? ", " : "", names[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

int spec_bad_member(const struct spec_source *src, const struct field *f, const char *path,
                    unsigned line, const char *name, size_t name_len, struct err *e)
{
    const char *names[32] = {0};
    char shown[SPEC_SHOWN_MAX], list[160], expected[200];

    for (size_t i = 0; i < f->n_sub && i < ARRAY_LEN(names) - 1; i++) {
        names[i] = src->file ? f->sub[i].name : f->sub[i].key;
    }
    const char *near = strlen(name) == name_len ? spec_nearest(names, name) : NULL;
    if (near) {
        snprintf(expected, sizeof(expected), "a known field (did you mean %s?)", near);
    } else {
        join(names, list, sizeof(list));
        snprintf(expected, sizeof(expected), "one of %s", list);
    }
    spec_show(name, name_len, 1, shown);
    return spec_bad(src, path, line, expected, e, "%s", shown);
}

static void show_size(int64_t v, char *ret, size_t n)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    size_t u = 0;

    while (v && v % 1024 == 0 && u + 1 < ARRAY_LEN(units)) {
        v /= 1024;
        u++;
    }
    snprintf(ret, n, "%" PRId64 "%s", v, units[u]);
}

static void show_duration(int64_t ms, char *ret, size_t n)
{
    int64_t s = ms / 1000;

    if (s && s % 3600 == 0) {
        snprintf(ret, n, "%" PRId64 "h", s / 3600);
    } else {
        snprintf(ret, n, "%" PRId64 "s", s);
    }
}

static void show_cpu(int64_t millis, char *ret, size_t n)
{
    if (millis % 1000 == 0) {
        snprintf(ret, n, "%" PRId64, millis / 1000);
    } else {
        snprintf(ret, n, "%" PRId64 "m", millis);
    }
}

static void expected_range(const struct field *f, const char *what,
                           void (*show)(int64_t v, char *ret, size_t n), char *ret, size_t n)
{
    char lo[32], hi[32];

    show(f->min, lo, sizeof(lo));
    show(f->max, hi, sizeof(hi));
    snprintf(ret, n, "%s %s..%s", what, lo, hi);
}

void spec_expected(const struct field *f, int yaml, char *ret, size_t n)
{
    char list[160];

    switch (f->kind) {
    case F_OBJECT:
    case F_MAP:
        snprintf(ret, n, "%s", yaml ? "a mapping" : "an object");
        return;
    case F_LIST:
        snprintf(ret, n, "a list");
        return;
    case F_STRING:
        snprintf(ret, n, "a string");
        return;
    case F_ENUM:
        join(f->choices, list, sizeof(list));
        snprintf(ret, n, f->choices[1] ? "one of %s" : "%s", list);
        return;
    case F_BOOL:
        snprintf(ret, n, "true or false");
        return;
    case F_JWK:
        snprintf(ret, n, "%s",
                 yaml ? "self, a public P-256 JWK or the path of one" : "a public P-256 JWK");
        return;
    case F_SIZE:
        if (yaml) {
            expected_range(f, "a size in", show_size, ret, n);
            return;
        }
        break;
    case F_DURATION:
        if (yaml) {
            expected_range(f, "a duration in", show_duration, ret, n);
            return;
        }
        break;
    case F_CPU:
        if (yaml) {
            expected_range(f, "CPUs in", show_cpu, ret, n);
            return;
        }
        break;
    case F_NODE:
        if (yaml) {
            snprintf(ret, n, "any, or an integer in 0..%" PRId64, f->max);
            return;
        }
        break;
    case F_INT:
        break;
    }
    snprintf(ret, n, "an integer in %" PRId64 "..%" PRId64, f->min, f->max);
}
