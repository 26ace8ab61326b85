#include "appraise/collateral_int.h"

#include <ctype.h>

/* JSON forms. What Intel signs is the exact text of an object within the file, so texts are cut out
 * of it and never written anew. */

/* ---- a member's text within a JSON text that is known to be well-formed ---------------------- */

static size_t skip_space(struct bytes t, size_t at)
{
    while (at < t.n && (t.p[at] == ' ' || t.p[at] == '\t' || t.p[at] == '\n' || t.p[at] == '\r')) {
        at++;
    }
    return at;
}

/* Behind the closing quote of the string whose opening quote is at `at`. */
static size_t skip_string(struct bytes t, size_t at)
{
    for (at++; at < t.n && t.p[at] != '"'; at++) {
        at += t.p[at] == '\\';
    }
    return at + 1;
}

static size_t skip_value(struct bytes t, size_t at)
{
    size_t depth = 0;

    do {
        at = skip_space(t, at);
        if (at >= t.n) {
            return t.n;
        }
        uint8_t b = t.p[at];
        if (b == '"') {
            at = skip_string(t, at);
        } else if (b == '{' || b == '[') {
            depth++;
            at++;
        } else if (b == '}' || b == ']') {
            depth--;
            at++;
        } else if (b == ',' || b == ':') {
            at++;
        } else {
            while (at < t.n && !strchr(",:]} \t\r\n", t.p[at])) {
                at++;
            }
        }
    } while (depth);
    return at < t.n ? at : t.n;
}

/* The text of the member's value; empty when the object has none of that name. */
static struct bytes member_text(struct bytes t, const char *name)
{
    size_t at = skip_space(t, 0) + 1, n = strlen(name);

    for (;;) {
        at = skip_space(t, at);
        if (at >= t.n || t.p[at] != '"') {
            return (struct bytes){0};
        }
        size_t key = at + 1, end = skip_string(t, at);
        at = skip_space(t, end) + 1; /* the colon */
        size_t value = skip_space(t, at);
        at = skip_value(t, value);
        if (end > t.n || at > t.n || value > at) {
            return (struct bytes){0};
        }
        if (end - 1 - key == n && memcmp(t.p + key, name, n) == 0) {
            return BYTES(t.p + value, at - value);
        }
        at = skip_space(t, at) + 1; /* the comma */
    }
}

/* ---- parts ----------------------------------------------------------------------------------- */

static int refuse_part(struct err *e, const char *part, const char *expected)
{
    char clause[96];

    snprintf(clause, sizeof(clause), "collateral.%s", part);
    return err_refuse(e, ERR_INVALID, clause, expected, "something else, or nothing");
}

static int add_signed(struct collateral *c, const struct origin *o, enum item_kind kind,
                      const char *part, struct bytes raw, const json_t *signature,
                      struct item **ret, struct err *e)
{
    const char *hex = json_string_value(signature);

    if (!hex || strlen(hex) != 128) {
        return refuse_part(e, part, "a signature of 128 hex digits");
    }
    if (!raw.n || raw.p[0] != '{') {
        return refuse_part(e, part, "a JSON object");
    }
    struct item *i = collateral_new_item(c, o, kind, raw, e);
    if (!i) {
        return -1;
    }
    if (hex_decode(hex, i->signature, sizeof(i->signature), NULL)) {
        return refuse_part(e, part, "a signature of 128 hex digits");
    }
    *ret = i;
    return 0;
}

/* Bytes as JSON has them: hex, base64 or PEM text, or a list of numbers. */
static int take_bytes(struct collateral *c, const struct origin *o, const char *part,
                      const json_t *v, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);
    const char *text = json_string_value(v);

    if (text && *text) {
        return collateral_take(c, o, BYTES_STR(text), e);
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        json_int_t n = json_integer_value(json_array_get(v, i));
        uint8_t byte = (uint8_t)n;
        if (n < 0 || n > 255 || buf_add(&b, &byte, 1, e)) {
            return refuse_part(e, part, "numbers from 0 to 255");
        }
    }
    return b.n ? collateral_take(c, o, buf_bytes(&b), e)
               : refuse_part(e, part, "hex, base64, PEM, or a list of numbers");
}

/* ---- Intel PCS: {"tcbInfo": {...}, "signature": "..."} --------------------------------------- */

static int looks_like_chain(const char *text)
{
    return text && (strstr(text, "BEGIN CERTIFICATE") || strstr(text, "BEGIN%20CERTIFICATE"));
}

static int take_pcs(struct collateral *c, const struct origin *o, const json_t *j,
                    struct bytes text, enum item_kind kind, const char *name, struct err *e)
{
    const json_t *inner = json_object_get(j, name);
    const char *quoted = json_string_value(inner), *key;
    struct bytes raw = quoted ? BYTES_STR(quoted) : member_text(text, name);
    json_t *v;
    struct item *i;

    if (add_signed(c, o, kind, kind == ITEM_TCB_INFO ? "tcb_info" : "qe_identity", raw,
                   json_object_get(j, "signature"), &i, e)) {
        return -1;
    }
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        if (looks_like_chain(json_string_value(v))) {
            return collateral_set_chain(c, i, BYTES_STR(json_string_value(v)), e);
        }
    }
    return 0;
}

/* ---- dcap-qvl's QuoteCollateralV3 ------------------------------------------------------------ */

static int take_set_object(struct collateral *c, const struct origin *o, const json_t *j,
                           struct bytes text, enum item_kind kind, struct err *e)
{
    const char *name = kind == ITEM_TCB_INFO ? "tcb_info" : "qe_identity";
    char signature[32], chain[32];
    const json_t *inner = json_object_get(j, name);
    const char *quoted = json_string_value(inner);
    struct item *i;

    snprintf(signature, sizeof(signature), "%s_signature", name);
    snprintf(chain, sizeof(chain), "%s_issuer_chain", name);
    const char *chain_text = json_string_value(json_object_get(j, chain));
    if (!chain_text) {
        return refuse_part(e, name, "its issuer chain beside it");
    }
    return add_signed(c, o, kind, name, quoted ? BYTES_STR(quoted) : member_text(text, name),
                      json_object_get(j, signature), &i, e) ||
                   collateral_set_chain(c, i, BYTES_STR(chain_text), e)
               ? -1
               : 0;
}

static int take_set(struct collateral *c, const struct origin *of, const json_t *j,
                    struct bytes text, struct err *e)
{
    static const struct {
        const char *member, *role;
        int optional;
    } parts[] = {
        {"pck_crl_issuer_chain", "pck_crl_chain", 0},
        {"root_ca_crl", "root_ca_crl", 0},
        {"pck_crl", "pck_crl", 0},
        {"pck_certificate_chain", "pck_chain", 1},
    };
    struct origin o = *of;

    o.set = collateral_next_set(c);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        const json_t *v = json_object_get(j, parts[i].member);
        o.role = parts[i].role;
        if ((!v || json_is_null(v)) && parts[i].optional) {
            continue;
        }
        if (take_bytes(c, &o, parts[i].member, v, e)) {
            return -1;
        }
    }
    o.role = "tcb_info";
    if (take_set_object(c, &o, j, text, ITEM_TCB_INFO, e)) {
        return -1;
    }
    o.role = "qe_identity";
    return take_set_object(c, &o, j, text, ITEM_QE_IDENTITY, e);
}

/* ---- certificates in JSON: Azure's THIM ------------------------------------------------------ */

static int take_certs(struct collateral *c, const struct origin *o, const json_t *j, struct err *e)
{
    static const char *const members[] = {"vcekCert", "certificateChain"};

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const json_t *v = json_object_get(j, members[i]);
        if (v && take_bytes(c, o, members[i], v, e)) {
            return -1;
        }
    }
    return 0;
}

/* ---- which? ---------------------------------------------------------------------------------- */

int collateral_take_json(struct collateral *c, const struct origin *o, struct bytes text,
                         struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    struct err why = {0};

    if (json_parse(o->name, text, COLLATERAL_FILE_MAX_BYTES, &j, &why)) {
        return err_refuse(e, ERR_INVALID, "collateral.json", "JSON without duplicate members",
                          "%.240s", why.msg);
    }
    if (json_object_get(j, "tcbInfo")) {
        return take_pcs(c, o, j, text, ITEM_TCB_INFO, "tcbInfo", e);
    }
    if (json_object_get(j, "enclaveIdentity")) {
        return take_pcs(c, o, j, text, ITEM_QE_IDENTITY, "enclaveIdentity", e);
    }
    if (json_object_get(j, "tcb_info") && json_object_get(j, "qe_identity")) {
        return take_set(c, o, j, text, e);
    }
    if (json_object_get(j, "vcekCert")) {
        return take_certs(c, o, j, e);
    }
    return err_refuse(e, ERR_UNSUPPORTED, "collateral.json",
                      "a TCB info, a QE identity, a QuoteCollateral, or AMD certificates",
                      "another object");
}
