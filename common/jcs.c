#include "common/jcs.h"

#include <openssl/evp.h>

#define MAX_DEPTH 32
#define CANONICAL_MAX_BYTES (64u << 20)
#define MAX_SAFE_INTEGER 9007199254740991LL

/* A bounded, printable rendering of a name that came from outside. */
struct shown {
    char s[65];
};

static struct shown show(const char *name)
{
    struct shown r;
    size_t n = 0;

    for (; name[n] && n < sizeof(r.s) - 1; n++) {
        r.s[n] = name[n] >= 0x20 && name[n] < 0x7f ? name[n] : '?';
    }
    r.s[n] = 0;
    return r;
}

static const char *type_name(const json_t *j)
{
    if (!j) {
        return "nothing";
    }
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something unknown";
}

/* The parser's own recursion limit is far above ours, so nesting is measured before it runs.
 * Brackets inside strings do not count; text that is not JSON may be measured wrongly, and the
 * parser then refuses it. */
static int check_depth(const char *what, struct bytes in, struct err *e)
{
    size_t depth = 0, line = 1, column = 0;
    int in_string = 0;

    for (size_t i = 0; i < in.n; i++) {
        uint8_t c = in.p[i];
        column++;
        if (c == 0) {
            return err_set(e, ERR_INVALID, "%s: line %zu column %zu: expected no NUL byte", what,
                           line, column);
        }
        if (c == '\n') {
            line++;
            column = 0;
        }
        if (in_string) {
            if (c == '\\' && i + 1 < in.n && in.p[i + 1] && in.p[i + 1] != '\n') {
                i++;
                column++;
            } else if (c == '"') {
                in_string = 0;
            }
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '[' || c == '{') {
            if (++depth > MAX_DEPTH) {
                return err_set(e, ERR_INVALID,
                               "%s: line %zu column %zu: expected at most %d levels of nesting",
                               what, line, column, MAX_DEPTH);
            }
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        }
    }
    return 0;
}

int json_parse(const char *what, struct bytes in, size_t max, json_t **ret, struct err *e)
{
    json_error_t je;
    json_t *j;

    if (in.n > max) {
        return err_set(e, ERR_TOO_LARGE, "%s: expected at most %zu bytes of JSON, found %zu", what,
                       max, in.n);
    }
    if (!in.n) {
        return err_set(e, ERR_INVALID, "%s: expected JSON, found nothing", what);
    }
    if (check_depth(what, in, e)) {
        return -1;
    }
    j = json_loadb((const char *)in.p, in.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (!j) {
        /* The parser quotes its input after " near ": that may be part of a key. */
        char *near = strstr(je.text, " near '");
        if (near) {
            *near = 0;
        }
        return err_set(e, ERR_INVALID, "%s: line %d column %d: %s", what, je.line, je.column,
                       show(je.text).s);
    }
    *ret = j;
    return 0;
}

static int encode_string(struct buf *b, const char *s, size_t n, struct err *e)
{
    size_t start = 0;

    if (buf_add(b, "\"", 1, e)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)s[i];
        char esc[8];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        static const char shorts[] = "\bb\tt\nn\ff\rr\"\"\\\\";
        const char *p = shorts;
        while (*p && (uint8_t)*p != c) {
            p += 2;
        }
        if (*p) {
            snprintf(esc, sizeof(esc), "\\%c", p[1]);
        } else {
            snprintf(esc, sizeof(esc), "\\u%04x", c);
        }
        if (buf_add(b, s + start, i - start, e) || buf_add(b, esc, strlen(esc), e)) {
            return -1;
        }
        start = i + 1;
    }
    return buf_add(b, s + start, n - start, e) || buf_add(b, "\"", 1, e) ? -1 : 0;
}

struct member {
    const char *key;
    size_t n;
    json_t *value;
};

/* RFC 8785 §3.2.3 orders by UTF-16 code units. That is the order of the UTF-8 bytes but for one
 * thing: U+E000..U+FFFF (lead byte EE or EF) come after the supplementary planes (lead byte F0 and
 * up), whose UTF-16 form starts with a surrogate. */
static int by_utf16(const void *pa, const void *pb)
{
    const struct member *a = pa, *b = pb;
    size_t n = a->n < b->n ? a->n : b->n;

    for (size_t i = 0; i < n; i++) {
        uint8_t x = (uint8_t)a->key[i], y = (uint8_t)b->key[i];
        if (x == y) {
            continue;
        }
        if (x >= 0xee && y >= 0xee && (x >= 0xf0) != (y >= 0xf0)) {
            return x >= 0xf0 ? -1 : 1;
        }
        return x < y ? -1 : 1;
    }
    return (a->n > b->n) - (a->n < b->n);
}

static int encode(struct buf *b, const json_t *j, int depth, struct err *e);

static int encode_object(struct buf *b, const json_t *j, int depth, struct err *e)
{
    size_t n = json_object_size(j), i = 0;
    _cleanup_free_ struct member *m = xcalloc(n, sizeof(*m));
    /* The iterator functions take a pointer to non-const, but change nothing. */
    json_t *o = (json_t *)(uintptr_t)j;

    for (void *it = json_object_iter(o); it && i < n; it = json_object_iter_next(o, it)) {
        m[i++] = (struct member){.key = json_object_iter_key(it),
                                 .n = json_object_iter_key_len(it),
                                 .value = json_object_iter_value(it)};
    }
    qsort(m, n, sizeof(*m), by_utf16);
    if (buf_add(b, "{", 1, e)) {
        return -1;
    }
    for (i = 0; i < n; i++) {
        if ((i && buf_add(b, ",", 1, e)) || encode_string(b, m[i].key, m[i].n, e) ||
            buf_add(b, ":", 1, e)) {
            return -1;
        }
        if (encode(b, m[i].value, depth, e)) {
            return err_wrap(e, "%s", show(m[i].key).s);
        }
    }
    return buf_add(b, "}", 1, e);
}

static int encode_array(struct buf *b, const json_t *j, int depth, struct err *e)
{
    if (buf_add(b, "[", 1, e)) {
        return -1;
    }
    for (size_t i = 0; i < json_array_size(j); i++) {
        if (i && buf_add(b, ",", 1, e)) {
            return -1;
        }
        if (encode(b, json_array_get(j, i), depth, e)) {
            return err_wrap(e, "[%zu]", i);
        }
    }
    return buf_add(b, "]", 1, e);
}

static int encode_integer(struct buf *b, const json_t *j, struct err *e)
{
    long long v = json_integer_value(j);

    if (v > MAX_SAFE_INTEGER || v < -MAX_SAFE_INTEGER) {
        return err_set(e, ERR_INVALID,
                       "expected an integer of at most 2^53-1 in magnitude, found %lld", v);
    }
    return buf_addf(b, e, "%lld", v);
}

static int encode(struct buf *b, const json_t *j, int depth, struct err *e)
{
    if (!j) {
        return err_set(e, ERR_INTERNAL, "expected JSON, found nothing");
    }
    switch (json_typeof(j)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        if (depth >= MAX_DEPTH) {
            return err_set(e, ERR_INVALID, "expected at most %d levels of nesting", MAX_DEPTH);
        }
        return json_is_object(j) ? encode_object(b, j, depth + 1, e)
                                 : encode_array(b, j, depth + 1, e);
    case JSON_STRING:
        return encode_string(b, json_string_value(j), json_string_length(j), e);
    case JSON_INTEGER:
        return encode_integer(b, j, e);
    case JSON_REAL:
        return err_set(e, ERR_INVALID, "expected an integer, found a fraction");
    case JSON_TRUE:
        return buf_add(b, "true", 4, e);
    case JSON_FALSE:
        return buf_add(b, "false", 5, e);
    case JSON_NULL:
        return buf_add(b, "null", 4, e);
    }
    return err_set(e, ERR_INTERNAL, "unknown JSON type");
}

static int encode_into(struct buf *b, const json_t *j, struct err *e)
{
    return encode(b, j, 0, e) ? err_wrap(e, "canonical JSON") : 0;
}

int jcs_encode(const json_t *j, char **ret, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(CANONICAL_MAX_BYTES);

    if (encode_into(&b, j, e)) {
        return -1;
    }
    *ret = (char *)TAKE_PTR(b.p);
    return 0;
}

static int jcs_digest(const json_t *j, const EVP_MD *md, uint8_t *ret, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(CANONICAL_MAX_BYTES);

    if (encode_into(&b, j, e)) {
        return -1;
    }
    if (EVP_Digest(b.p, b.n, ret, NULL, md, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot hash canonical JSON");
    }
    return 0;
}

int jcs_sha256(const json_t *j, uint8_t ret[32], struct err *e)
{
    return jcs_digest(j, EVP_sha256(), ret, e);
}

int jcs_sha384(const json_t *j, uint8_t ret[48], struct err *e)
{
    return jcs_digest(j, EVP_sha384(), ret, e);
}

static int member(const json_t *o, const char *what, const char *key, json_t **ret, struct err *e)
{
    if (!json_is_object(o)) {
        return err_set(e, ERR_INVALID, "%s: expected an object, found %s", what, type_name(o));
    }
    *ret = json_object_get(o, key);
    return 0;
}

static int wrong_type(const char *what, const char *key, const char *expected, const json_t *j,
                      struct err *e)
{
    return err_set(e, ERR_INVALID, "%s.%s: expected %s, found %s", what, key, expected,
                   type_name(j));
}

int json_get_str(const json_t *o, const char *what, const char *key, const char **ret,
                 struct err *e)
{
    json_t *j;

    if (member(o, what, key, &j, e)) {
        return -1;
    }
    if (!json_is_string(j)) {
        return wrong_type(what, key, "a string", j, e);
    }
    *ret = json_string_value(j);
    return 0;
}

int json_get_int(const json_t *o, const char *what, const char *key, int64_t min, int64_t max,
                 int64_t *ret, struct err *e)
{
    json_t *j;

    if (member(o, what, key, &j, e)) {
        return -1;
    }
    if (!json_is_integer(j)) {
        return wrong_type(what, key, "an integer", j, e);
    }
    int64_t v = json_integer_value(j);
    if (v < min || v > max) {
        return err_set(e, ERR_INVALID, "%s.%s: expected %jd to %jd, found %jd", what, key,
                       (intmax_t)min, (intmax_t)max, (intmax_t)v);
    }
    *ret = v;
    return 0;
}

int json_get_obj(const json_t *o, const char *what, const char *key, json_t **ret_borrowed,
                 struct err *e)
{
    json_t *j;

    if (member(o, what, key, &j, e)) {
        return -1;
    }
    if (!json_is_object(j)) {
        return wrong_type(what, key, "an object", j, e);
    }
    *ret_borrowed = j;
    return 0;
}

int json_get_arr(const json_t *o, const char *what, const char *key, json_t **ret_borrowed,
                 struct err *e)
{
    json_t *j;

    if (member(o, what, key, &j, e)) {
        return -1;
    }
    if (!json_is_array(j)) {
        return wrong_type(what, key, "an array", j, e);
    }
    *ret_borrowed = j;
    return 0;
}

int json_only_keys(const json_t *o, const char *what, const char *const *keys, struct err *e)
{
    const char *key;
    json_t *value;

    if (!json_is_object(o)) {
        return err_set(e, ERR_INVALID, "%s: expected an object, found %s", what, type_name(o));
    }
    json_object_foreach((json_t *)(uintptr_t)o, key, value)
    {
        const char *const *k = keys;
        while (*k && !streq(*k, key)) {
            k++;
        }
        if (!*k) {
            return err_set(e, ERR_INVALID, "%s.%s: not a known member", what, show(key).s);
        }
    }
    return 0;
}
