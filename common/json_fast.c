#include "common/json_fast.h"

#define DIGITS_MAX 15

struct reader {
    const char *p, *end;
    int levels; /* that may still be opened */
};

static json_t *value(struct reader *r);

static void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r')) {
        r->p++;
    }
}

/* After spaces: 1 when the next byte is `c`, which is then read. */
static int take(struct reader *r, char c)
{
    skip_space(r);
    if (r->p < r->end && *r->p == c) {
        r->p++;
        return 1;
    }
    return 0;
}

/* After the opening quote. -1 for what is not plain. */
static int text(struct reader *r, const char **ret, size_t *ret_n)
{
    const char *start = r->p;

    while (r->p < r->end && *r->p >= 0x20 && *r->p < 0x7f && *r->p != '"' && *r->p != '\\') {
        r->p++;
    }
    if (r->p == r->end || *r->p != '"') {
        return -1;
    }
    *ret = start;
    *ret_n = (size_t)(r->p++ - start);
    return 0;
}

static json_t *string(struct reader *r)
{
    const char *s;
    size_t n;

    return text(r, &s, &n) ? NULL : json_stringn_nocheck(s, n);
}

static int member(struct reader *r, json_t *o)
{
    const char *key;
    size_t n;

    if (!take(r, '"') || text(r, &key, &n) || json_object_getn(o, key, n) || !take(r, ':')) {
        return -1;
    }
    /* A NULL value is an error there too. */
    return json_object_setn_new_nocheck(o, key, n, value(r));
}

static json_t *object(struct reader *r)
{
    json_t *o = json_object();

    if (take(r, '}')) {
        return o;
    }
    do {
        if (!o || member(r, o)) {
            json_decref(o);
            return NULL;
        }
    } while (take(r, ','));
    if (!take(r, '}')) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *array(struct reader *r)
{
    json_t *a = json_array();

    if (take(r, ']')) {
        return a;
    }
    do {
        if (!a || json_array_append_new(a, value(r))) {
            json_decref(a);
            return NULL;
        }
    } while (take(r, ','));
    if (!take(r, ']')) {
        json_decref(a);
        return NULL;
    }
    return a;
}

/* Whether a number or word may end here. */
static int at_end_of_word(const struct reader *r)
{
    return r->p == r->end || memchr(",]} \n\t\r", *r->p, 7) != NULL;
}

static json_t *integer(struct reader *r)
{
    int negative = *r->p == '-';
    const char *start = r->p += negative;
    json_int_t v = 0;

    while (r->p < r->end && *r->p >= '0' && *r->p <= '9' && r->p - start < DIGITS_MAX) {
        v = v * 10 + (*r->p++ - '0');
    }
    if (r->p == start || (*start == '0' && (negative || r->p - start > 1)) || !at_end_of_word(r)) {
        return NULL;
    }
    return json_integer(negative ? -v : v);
}

static json_t *word(struct reader *r)
{
    static const struct {
        char s[6];
        size_t n;
    } words[] = {{"true", 4}, {"false", 5}, {"null", 4}};

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if ((size_t)(r->end - r->p) >= words[i].n && memcmp(r->p, words[i].s, words[i].n) == 0) {
            r->p += words[i].n;
            return !at_end_of_word(r) ? NULL
                   : i == 0           ? json_true()
                   : i == 1           ? json_false()
                                      : json_null();
        }
    }
    return NULL;
}

static json_t *value(struct reader *r)
{
    json_t *j = NULL;

    skip_space(r);
    if (r->p == r->end) {
        return NULL;
    }
    char c = *r->p;
    if (c == '"') {
        r->p++;
        return string(r);
    }
    if (c == '{' || c == '[') {
        if (r->levels == 0) {
            return NULL;
        }
        r->levels--;
        r->p++;
        j = c == '{' ? object(r) : array(r);
        r->levels++;
        return j;
    }
    return c == '-' || (c >= '0' && c <= '9') ? integer(r) : word(r);
}

json_t *json_fast(struct bytes in, int max_depth)
{
    struct reader r = {.p = (const char *)in.p, .levels = max_depth};

    r.end = r.p + in.n;
    json_t *j = value(&r);
    skip_space(&r);
    if (j && r.p != r.end) {
        json_decref(j);
        return NULL;
    }
    return j;
}
