/* What a file's bytes are, without copying them anywhere: every check is one pass over locked
 * memory and allocates nothing. */
#include <math.h>

#include "svc-gate/gate_int.h"

#define JSON_MAX_DEPTH 64

/* ---- text ------------------------------------------------------------------------------------ */

/* The code point at p and its length; 0 when it is no valid UTF-8 (RFC 3629). */
static size_t utf8_next(const uint8_t *p, size_t n, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xc2 ? 0
                 : p[0] < 0xe0 ? 2
                 : p[0] < 0xf0 ? 3
                 : p[0] < 0xf5 ? 4
                               : 0;
    uint32_t c;

    if (!len || len > n) {
        return 0;
    }
    c = len == 1 ? p[0] : p[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0;
    }
    *ret = c;
    return len;
}

/* Tab, line feed and carriage return are text; other controls, DEL, noncharacters, and characters
 * that show as nothing (zero width, direction, tags: a place to hide data) are not. */
static int printable(uint32_t c)
{
    if (c < 0x20) {
        return c == '\t' || c == '\n' || c == '\r';
    }
    return !((c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
             (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff ||
             (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe ||
             (c >= 0xe0000 && c <= 0xe0fff));
}

int inspect_utf8(struct bytes in, int want_printable, size_t *ret_bad_at)
{
    for (size_t i = 0; i < in.n;) {
        uint32_t c;
        size_t len = utf8_next(in.p + i, in.n - i, &c);
        if (!len || (want_printable && !printable(c))) {
            *ret_bad_at = i;
            return -1;
        }
        i += len;
    }
    return 0;
}

/* RFC 4180, with \n or \r\n, quoted fields, and the same number of columns in every row. */
int inspect_csv(struct bytes in, size_t *ret_row, size_t *ret_want, size_t *ret_columns)
{
    size_t row = 0, want = 0, columns = 1;
    int quoted = 0, any = 0;

    for (size_t i = 0; i < in.n; i++) {
        uint8_t c = in.p[i];
        any = 1;
        if (c == '"') {
            quoted = !quoted; /* a doubled quote closes and opens again */
        } else if (!quoted && c == ',') {
            columns++;
        } else if (!quoted && c == '\n') {
            want = row ? want : columns;
            if (columns != want) {
                break;
            }
            row++;
            columns = 1;
            any = 0;
        }
    }
    *ret_row = row + 1;
    *ret_want = row ? want : columns;
    *ret_columns = columns;
    return quoted || (any && row && columns != want) ? -1 : 0;
}

/* ---- JSON (RFC 8259) ------------------------------------------------------------------------- */

struct json_scan {
    const uint8_t *p;
    size_t n, at;
};

static void skip_space(struct json_scan *s)
{
    while (s->at < s->n && strchr(" \t\r\n", s->p[s->at]) && s->p[s->at]) {
        s->at++;
    }
}

static int take(struct json_scan *s, char c)
{
    if (s->at < s->n && s->p[s->at] == (uint8_t)c) {
        s->at++;
        return 1;
    }
    return 0;
}

static int scan_string(struct json_scan *s)
{
    if (!take(s, '"')) {
        return -1;
    }
    while (s->at < s->n) {
        uint8_t c = s->p[s->at++];
        if (c == '"') {
            return 0;
        }
        if (c < 0x20) {
            return -1;
        }
        if (c != '\\') {
            continue;
        }
        if (s->at >= s->n || !s->p[s->at] || !strchr("\"\\/bfnrtu", s->p[s->at])) {
            return -1;
        }
        if (s->p[s->at++] == 'u') {
            for (int i = 0; i < 4; i++, s->at++) {
                if (s->at >= s->n || !s->p[s->at] ||
                    !strchr("0123456789abcdefABCDEF", s->p[s->at])) {
                    return -1;
                }
            }
        }
    }
    return -1;
}

static size_t digits(struct json_scan *s)
{
    size_t from = s->at;

    while (s->at < s->n && s->p[s->at] >= '0' && s->p[s->at] <= '9') {
        s->at++;
    }
    return s->at - from;
}

static int scan_number(struct json_scan *s)
{
    (void)take(s, '-');
    if (!take(s, '0') && !digits(s)) {
        return -1;
    }
    if (take(s, '.') && !digits(s)) {
        return -1;
    }
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '+')) {
            (void)take(s, '-');
        }
        return digits(s) ? 0 : -1;
    }
    return 0;
}

static int scan_word(struct json_scan *s, const char *word)
{
    size_t n = strlen(word);

    if (s->n - s->at < n || memcmp(s->p + s->at, word, n) != 0) {
        return -1;
    }
    s->at += n;
    return 0;
}

static int scan_value(struct json_scan *s, unsigned depth);

/* After the opening bracket: members up to the closing one. */
static int scan_members(struct json_scan *s, char close, unsigned depth)
{
    skip_space(s);
    if (take(s, close)) {
        return 0;
    }
    do {
        skip_space(s);
        if (close == '}') {
            if (scan_string(s)) {
                return -1;
            }
            skip_space(s);
            if (!take(s, ':')) {
                return -1;
            }
        }
        if (scan_value(s, depth + 1)) {
            return -1;
        }
        skip_space(s);
    } while (take(s, ','));
    return take(s, close) ? 0 : -1;
}

static int scan_value(struct json_scan *s, unsigned depth)
{
    skip_space(s);
    if (depth > JSON_MAX_DEPTH || s->at >= s->n) {
        return -1;
    }
    switch (s->p[s->at]) {
    case '{':
        s->at++;
        return scan_members(s, '}', depth);
    case '[':
        s->at++;
        return scan_members(s, ']', depth);
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        return scan_number(s);
    }
}

int inspect_json(struct bytes in, size_t *ret_bad_at)
{
    struct json_scan s = {.p = in.p, .n = in.n};
    int rc = scan_value(&s, 0);

    skip_space(&s);
    *ret_bad_at = s.at;
    return rc || s.at != s.n ? -1 : 0;
}

/* ---- declared types -------------------------------------------------------------------------- */

/* Refusals are public, and what they say of the content is the workload's choice: an exact place
 * would be a way to write past the gate. So it is told to a power of two. */
static size_t coarse(size_t at)
{
    size_t v = at ? 1 : 0;

    while (v && v <= at / 2) {
        v *= 2;
    }
    return v;
}

static int refuse_csv(const char *clause, size_t row, size_t want, size_t columns, struct err *e)
{
    static const char expected[] = "text/csv: the same number of columns in every row";

    if (columns == want) {
        return err_refuse(e, ERR_DENIED, clause, expected,
                          "a quote that stays open from row %zu on", coarse(row));
    }
    return err_refuse(e, ERR_DENIED, clause, expected, "%s columns, from row %zu on",
                      columns > want ? "more" : "fewer", coarse(row));
}

int inspect_type(const char *clause, const char *type, struct bytes content, struct err *e)
{
    size_t at, want, columns;

    if (streq(type, "application/octet-stream")) {
        return 0;
    }
    if (streq(type, "application/json")) {
        if (inspect_utf8(content, 0, &at) || inspect_json(content, &at)) {
            return err_refuse(e, ERR_DENIED, clause, "application/json: one JSON text",
                              "something else from byte %zu on", coarse(at));
        }
        return 0;
    }
    if (!streq(type, "text/plain") && !streq(type, "text/csv")) {
        return err_refuse(e, ERR_DENIED, clause, "a type that the gate knows", "%.40s", type);
    }
    if (inspect_utf8(content, 1, &at)) {
        char expected[64];
        snprintf(expected, sizeof(expected), "%s: printable UTF-8", type);
        return err_refuse(e, ERR_DENIED, clause, expected, "something else from byte %zu on",
                          coarse(at));
    }
    if (streq(type, "text/csv") && inspect_csv(content, &at, &want, &columns)) {
        return refuse_csv(clause, at, want, columns, e);
    }
    return 0;
}

uint32_t inspect_entropy(struct bytes in)
{
    uint64_t counts[256] = {0};
    double sum = 0;

    if (!in.n) {
        return 0;
    }
    for (size_t i = 0; i < in.n; i++) {
        counts[in.p[i]]++;
    }
    for (size_t i = 0; i < 256; i++) {
        if (counts[i]) {
            double share = (double)counts[i] / (double)in.n;
            sum -= share * log2(share);
        }
    }
    explicit_bzero(counts, sizeof(counts));
    return (uint32_t)(sum * 1000 + 0.5);
}

/* ---- verbatim input -------------------------------------------------------------------------- */

static int listed(const uint64_t *sorted, size_t n, uint64_t v)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (sorted[mid] < v) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < n && sorted[lo] == v;
}

int inspect_verbatim(struct fp_hasher *h, const uint64_t *sorted, size_t n, struct bytes content,
                     uint64_t *ret_blocks, uint64_t *ret_verbatim, struct err *e)
{
    size_t blocks = content.n / FP_WINDOW;
    uint64_t v;

    *ret_blocks += blocks;
    for (size_t i = 0; n && i < blocks; i++) {
        if (fp_hash(h, content.p + i * FP_WINDOW, &v, e)) {
            return -1;
        }
        *ret_verbatim += (uint64_t)listed(sorted, n, v);
    }
    return 0;
}
