#include "cli/cli.h"

#include <stdarg.h>

/* What the user sees: lines, JSON, errors, and what they lead to. */

void cli_say(struct cli *c, const char *fmt, ...)
{
    va_list ap;

    if (c->json) {
        return;
    }
    va_start(ap, fmt);
    vfprintf(c->out, fmt, ap);
    va_end(ap);
    fputc('\n', c->out);
}

void cli_note(struct cli *c, const char *fmt, ...)
{
    va_list ap;

    if (c->json) {
        return;
    }
    fflush(c->out);
    va_start(ap, fmt);
    vfprintf(c->err, fmt, ap);
    va_end(ap);
    fputc('\n', c->err);
    fflush(c->err);
}

int cli_json(struct cli *c, json_t *steal)
{
    _cleanup_free_ char *text = steal ? json_dumps(steal, JSON_INDENT(2) | JSON_ENCODE_ANY) : NULL;

    json_decref(steal);
    if (!text) {
        fprintf(c->err, "coffer: cannot write the answer as JSON\n");
        return CLI_COULD_NOT;
    }
    fprintf(c->out, "%s\n", text);
    fflush(c->out);
    return CLI_OK;
}

const char *cli_color(const struct cli *c, enum cli_color color)
{
    static const char *const codes[] = {
        [COLOR_OFF] = "\033[0m",  [COLOR_GOOD] = "\033[32m", [COLOR_WARN] = "\033[33m",
        [COLOR_BAD] = "\033[31m", [COLOR_DIM] = "\033[2m",   [COLOR_BOLD] = "\033[1m"};

    return c->color ? codes[color] : "";
}

void cli_hint(struct cli *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(c->hint, sizeof(c->hint), fmt, ap);
    va_end(ap);
}

enum cli_exit cli_exit_of_err(const struct err *e, const char *by)
{
    if (by[0]) {
        return err_is_transient(e->code) ? CLI_COULD_NOT : CLI_REFUSED;
    }
    return e->code == ERR_BAD_SIGNATURE ? CLI_REFUSED : CLI_COULD_NOT;
}

enum cli_exit cli_exit_of_state(const char *state)
{
    static const struct {
        const char *state;
        enum cli_exit code;
    } codes[] = {{"held", CLI_HELD},       {"rejected", CLI_REJECTED}, {"failed", CLI_REFUSED},
                 {"refused", CLI_REFUSED}, {"timed-out", CLI_REFUSED}, {"cancelled", CLI_REFUSED}};

    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        if (streq(codes[i].state, state)) {
            return codes[i].code;
        }
    }
    return CLI_OK;
}

json_t *cli_error_json(const struct err *e, const char *by, const char *hint)
{
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:s,s:s}", "code", err_code_name(e->code), "clause", e->clause,
                  "expected", e->expected, "actual", e->actual, "message", e->msg);

    if (by[0]) {
        json_object_set_new(o, "by", json_string(by));
    }
    if (hint[0]) {
        json_object_set_new(o, "hint", json_string(hint));
    }
    return json_pack("{s:o}", "error", o);
}

int cli_fail_as(struct cli *c, enum cli_exit code, const struct err *given)
{
    struct err e = *given;

    cli_clean(e.msg, strlen(e.msg), 1);
    cli_clean(e.clause, strlen(e.clause), 0);
    cli_clean(e.expected, strlen(e.expected), 0);
    cli_clean(e.actual, strlen(e.actual), 0);
    fflush(c->out);
    if (c->json) {
        cli_json(c, cli_error_json(&e, c->by, c->hint));
        return (int)code;
    }
    if (c->by[0]) {
        fprintf(c->err, "coffer: %s refused: %s\n", c->by, e.msg);
    } else {
        fprintf(c->err, "coffer: %s\n", e.msg);
    }
    /* The message of a refusal of ours says all of it; that of a service may not. */
    if (c->by[0] && e.clause[0] && !strstr(e.msg, e.clause)) {
        fprintf(c->err, "  clause:   %s\n", e.clause);
    }
    if (c->by[0] && e.expected[0] && !strstr(e.msg, e.expected)) {
        fprintf(c->err, "  expected: %s\n", e.expected);
    }
    if (c->by[0] && e.actual[0] && !strstr(e.msg, e.actual)) {
        fprintf(c->err, "  actual:   %s\n", e.actual);
    }
    if (c->hint[0]) {
        fprintf(c->err, "  try: %s\n", c->hint);
    }
    fflush(c->err);
    return (int)code;
}

int cli_fail(struct cli *c, const struct err *e)
{
    return cli_fail_as(c, cli_exit_of_err(e, c->by), e);
}

int cli_usage(struct cli *c, const char *fmt, ...)
{
    struct err e = {.code = ERR_INVALID};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(e.msg, sizeof(e.msg), fmt, ap);
    va_end(ap);
    return cli_fail_as(c, CLI_USAGE, &e);
}

/* ---- text that others wrote ------------------------------------------------------------------ */

/* The length of the UTF-8 sequence at s and its value; 0 when there is none. */
static size_t utf8_at(const unsigned char *s, size_t n, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80             ? 1
                 : (s[0] & 0xe0) == 0xc0 ? 2
                 : (s[0] & 0xf0) == 0xe0 ? 3
                 : (s[0] & 0xf8) == 0xf0 ? 4
                                         : 0;

    if (!len || len > n) {
        return 0;
    }
    uint32_t v = len == 1 ? s[0] : s[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
        v = v << 6 | (s[i] & 0x3fu);
    }
    if (v < least[len] || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) {
        return 0;
    }
    *ret = v;
    return len;
}

static int is_steering(uint32_t v, int lines)
{
    if (lines && (v == '\n' || v == '\t')) {
        return 0;
    }
    return v < 0x20 || (v >= 0x7f && v < 0xa0) || v == 0x200e || v == 0x200f || v == 0x2028 ||
           v == 0x2029 || (v >= 0x202a && v <= 0x202e) || (v >= 0x2066 && v <= 0x2069);
}

void cli_clean(char *s, size_t n, int lines)
{
    for (size_t i = 0; i < n;) {
        uint32_t v = 0;
        size_t len = utf8_at((const unsigned char *)s + i, n - i, &v);
        if (!len) {
            s[i++] = '?';
            continue;
        }
        if (is_steering(v, lines)) {
            memset(s + i, '?', len);
        }
        i += len;
    }
}

/* Levenshtein's distance, of short words. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], nb = strlen(b);

    if (nb >= ARRAY_LEN(row)) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < nb; j++) {
            size_t change = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            size_t best = row[j] < diagonal ? row[j] + 1 : diagonal + 1;
            row[j + 1] = change < best ? change : best;
        }
    }
    return row[nb];
}

const char *cli_nearest(const char *typed, const char *const *names, size_t n)
{
    const char *best = NULL;
    size_t n_typed = strlen(typed), least = n_typed / 2 + 1;

    /* Two letters swapped are two changes. */
    if (n_typed == 3) {
        least = 3;
    }
    if (n_typed > 64) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(typed, names[i]);
        if (d < least) {
            least = d;
            best = names[i];
        }
    }
    return best;
}
