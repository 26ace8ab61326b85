#include "appraise/evidence.h"

#include <ctype.h>
#include <openssl/crypto.h>

static int all_hex(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isxdigit((unsigned char)s[i])) {
            return 0;
        }
    }
    return n && n % 2 == 0;
}

/* Into the padded standard alphabet. */
static int normalise(struct bytes text, struct buf *ret, struct err *e)
{
    for (size_t i = 0; i < text.n; i++) {
        uint8_t b = text.p[i];
        if (isspace(b)) {
            continue;
        }
        b = b == '-' ? '+' : b == '_' ? '/' : b;
        if (buf_add(ret, &b, 1, e)) {
            return -1;
        }
    }
    while (ret->n % 4) {
        if (buf_add(ret, "=", 1, e)) {
            return -1;
        }
    }
    return 0;
}

int evidence_text(const char *what, struct bytes text, struct buf *ret, struct err *e)
{
    _cleanup_buf_ struct buf t = BUF_INIT(EVIDENCE_JSON_MAX_BYTES + 4);
    size_t start = ret->n, plain = 0;

    for (size_t i = 0; i < text.n; i++) {
        uint8_t b = text.p[i];
        if (!isalnum(b) && !isspace(b) && !(b && strchr("+/-_=", b))) {
            return err_refuse(e, ERR_INVALID, what, "base64 or hex", "byte 0x%02x at %zu", b, i);
        }
        plain += !isspace(b);
    }
    if (normalise(text, &t, e)) {
        return -1;
    }
    if (all_hex((const char *)t.p, plain)) {
        t.p[plain] = '\0'; /* no padding in hex */
        if (buf_reserve(ret, plain / 2, e) ||
            hex_decode((const char *)t.p, ret->p + ret->n, plain / 2, e)) {
            return -1;
        }
        ret->n += plain / 2;
        return 0;
    }
    if (plain && b64_decode((const char *)t.p, t.n, ret, NULL) == 0 && ret->n > start) {
        return 0;
    }
    return err_refuse(e, ERR_INVALID, what, "base64 or hex", "%zu other characters", plain);
}

int evidence_few_parts(struct bytes json)
{
    size_t n = 0, max = 4 * (size_t)EVIDENCE_JSON_MAX_PARTS;

    for (size_t i = 0; i < json.n && n <= max; i++) {
        switch (json.p[i]) {
        case ':':
        case '{':
        case '[':
            n += 4;
            break;
        case '"':
        case ',':
            n += 2;
            break;
        case '\\':
            n++;
            break;
        }
    }
    return n <= max;
}

int evidence_json(struct bytes evidence, json_t **ret, struct err *e)
{
    struct err why = {0};
    size_t at = 0;

    *ret = NULL;
    while (at < evidence.n && isspace(evidence.p[at])) {
        at++;
    }
    if (at == evidence.n || evidence.p[at] != '{') {
        return 0;
    }
    if (!evidence_few_parts(evidence)) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence",
                          "JSON of at most 20000 texts, members and lists", "more");
    }
    if (json_parse("evidence", evidence, EVIDENCE_JSON_MAX_BYTES, ret, &why)) {
        return err_refuse(e, why.code == ERR_TOO_LARGE ? ERR_TOO_LARGE : ERR_INVALID, "evidence",
                          "a JSON object without duplicate members", "%.240s", why.msg);
    }
    return 0;
}

static int open_member(json_t *j, const char *member, struct buf *scratch, struct err *e)
{
    const char *text = json_string_value(json_object_get(j, member));
    char clause[64];

    snprintf(clause, sizeof(clause), "evidence.%s", member);
    return text ? evidence_text(clause, BYTES_STR(text), scratch, e)
                : err_refuse(e, ERR_INVALID, clause, "base64 or hex", "something else, or nothing");
}

/* Lines of comment before it. */
static struct bytes without_comments(struct bytes b)
{
    const uint8_t *end;

    while (b.n && b.p[0] == '#' && (end = memchr(b.p, '\n', b.n))) {
        b.n -= (size_t)(end + 1 - b.p);
        b.p = end + 1;
    }
    return b;
}

int evidence_open(struct bytes evidence, int (*is_raw)(struct bytes b), const char *member,
                  struct buf *scratch, struct bytes *ret, json_t **ret_json, struct err *e)
{
    *ret_json = NULL;
    evidence = without_comments(evidence);
    if (is_raw(evidence)) {
        *ret = evidence;
        return 0;
    }
    if (evidence_json(evidence, ret_json, e)) {
        return -1;
    }
    int rc = *ret_json ? open_member(*ret_json, member, scratch, e)
                       : evidence_text("evidence", evidence, scratch, e);
    if (rc) {
        json_decref(*ret_json);
        *ret_json = NULL;
        return -1;
    }
    *ret = buf_bytes(scratch);
    return 0;
}

int evidence_report_data(const uint8_t *asked, const uint8_t *have, struct err *e)
{
    if (!asked || CRYPTO_memcmp(asked, have, 64) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(asked, 64), *actual = hex_encode(have, 64);
    return err_refuse(e, ERR_DENIED, "evidence.report_data", expected, "%s", actual);
}
