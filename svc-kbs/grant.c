#include "svc-kbs/grant.h"

#include "common/keybox.h"

#define TIME_MAX_S (INT64_C(1) << 40)

/* ---- parsing ---- */

static int is_thumbprint(const char *s)
{
    return strlen(s) == JKEY_THUMBPRINT_LEN &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") ==
               JKEY_THUMBPRINT_LEN;
}

static int is_digest(const char *s)
{
    return strncmp(s, "sha256:", 7) == 0 && strlen(s + 7) == 64 &&
           strspn(s + 7, "0123456789abcdef") == 64;
}

static int get_list(const json_t *o, const char *what, const char *key, size_t min,
                    int (*valid)(const char *), const char *item, json_t **ret, struct err *e)
{
    json_t *list;

    if (json_get_arr(o, what, key, &list, e)) {
        return -1;
    }
    size_t n = json_array_size(list);
    if (n < min || n > GRANT_LIST_MAX) {
        return err_set(e, ERR_INVALID, "%s.%s: expected %zu to %d, found %zu", what, key, min,
                       GRANT_LIST_MAX, n);
    }
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s || !valid(s)) {
            return err_set(e, ERR_INVALID, "%s.%s[%zu]: expected %s", what, key, i, item);
        }
    }
    *ret = list;
    return 0;
}

static int parse_tee(struct grant *g, struct err *e)
{
    static const char *const members[] = {"types", "status", NULL};
    json_t *tee;

    if (json_get_obj(g->json, "grant", "tee", &tee, e) ||
        json_only_keys(tee, "grant.tee", members, e) ||
        get_list(tee, "grant.tee", "types", 1, tee_name_valid, "the name of a TEE", &g->tee_types,
                 e) ||
        json_get_str(tee, "grant.tee", "status", &g->tee_status, e)) {
        return -1;
    }
    if (!streq(g->tee_status, "affirming") && !streq(g->tee_status, "warning")) {
        return err_set(e, ERR_INVALID, "grant.tee.status: expected \"affirming\" or \"warning\"");
    }
    return 0;
}

static int parse_gate(struct grant *g, struct err *e)
{
    static const char *const members[] = {"holdAt", "rejectAt", "maxVerbatimPercent", "maxBytes",
                                          NULL};
    static const char what[] = "grant.gate";
    json_t *o;

    return json_get_obj(g->json, "grant", "gate", &o, e) || json_only_keys(o, what, members, e) ||
                   json_get_int(o, what, "holdAt", 0, 101, &g->hold_at, e) ||
                   json_get_int(o, what, "rejectAt", 0, 101, &g->reject_at, e) ||
                   json_get_int(o, what, "maxVerbatimPercent", 0, 100, &g->max_verbatim_percent,
                                e) ||
                   json_get_int(o, what, "maxBytes", 0, INT64_C(1) << 50, &g->max_bytes, e)
               ? -1
               : 0;
}

static int parse_head(struct grant *g, struct err *e)
{
    _cleanup_buf_ struct buf raw = BUF_INIT(64);
    int64_t v;

    if (json_get_int(g->json, "grant", "v", 1, 1, &v, e) ||
        json_get_str(g->json, "grant", "id", &g->id, e) ||
        json_get_str(g->json, "grant", "secret", &g->secret, e) ||
        json_get_int(g->json, "grant", "nbf", 0, TIME_MAX_S, &g->nbf, e) ||
        json_get_int(g->json, "grant", "exp", 0, TIME_MAX_S, &g->exp, e)) {
        return -1;
    }
    if (b64url_decode(g->id, strlen(g->id), &raw, e) || raw.n != 16) {
        return err_set(e, ERR_INVALID, "grant.id: expected 16 bytes as base64url");
    }
    if (!secret_id_valid(g->secret)) {
        return err_set(e, ERR_INVALID, "grant.secret: expected the id of a dataset or image key");
    }
    if (g->exp <= g->nbf) {
        return err_set(e, ERR_INVALID, "grant.exp: expected a time after nbf");
    }
    return 0;
}

int grant_parse(struct bytes payload, struct grant *ret, struct err *e)
{
    static const char *const members[] = {"v",      "id",  "secret", "consumers",
                                          "images", "tee", "gate",   "recipients",
                                          "nbf",    "exp", NULL};
    _cleanup_(grant_done) struct grant g = {0};

    if (json_parse("grant", payload, GRANT_JWS_MAX_BYTES, &g.json, e) ||
        json_only_keys(g.json, "grant", members, e) || parse_head(&g, e) ||
        get_list(g.json, "grant", "consumers", 1, is_thumbprint, "a thumbprint", &g.consumers, e) ||
        get_list(g.json, "grant", "images", 1, is_digest, "sha256: and 64 lower-case hex digits",
                 &g.images, e) ||
        parse_tee(&g, e) || parse_gate(&g, e) ||
        get_list(g.json, "grant", "recipients", 0, is_thumbprint, "a thumbprint", &g.recipients,
                 e)) {
        return -1;
    }
    *ret = g;
    g.json = NULL;
    return 0;
}

void grant_done(struct grant *g)
{
    json_decref(g->json);
    g->json = NULL;
}

/* ---- matching ---- */

static int listed(const json_t *list, const char *s)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (streq(json_string_value(json_array_get(list, i)), s)) {
            return 1;
        }
    }
    return 0;
}

/* "one of a, b" as far as it fits. */
static const char *one_of(const json_t *list, char out[256])
{
    size_t n = (size_t)snprintf(out, 256, "one of ");

    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (n + strlen(s) + 8 > 256) {
            snprintf(out + n, 256 - n, ", ...");
            break;
        }
        n += (size_t)snprintf(out + n, 256 - n, "%s%s", i ? ", " : "", s);
    }
    return out;
}

static int check_state(const struct grant *g, int revoked, const struct grant_ask *a, struct err *e)
{
    int64_t now = a->now_ms / 1000;
    char expected[96];

    if (revoked) {
        return err_refuse(e, ERR_DENIED, "grant.revoked", "a grant in force", "a revoked one");
    }
    if (now < g->nbf) {
        snprintf(expected, sizeof(expected), "at most %jd (now)", (intmax_t)now);
        return err_refuse(e, ERR_DENIED, "grant.nbf", expected, "%jd", (intmax_t)g->nbf);
    }
    if (now >= g->exp) {
        snprintf(expected, sizeof(expected), "later than %jd (now)", (intmax_t)now);
        return err_refuse(e, ERR_EXPIRED, "grant.exp", expected, "%jd", (intmax_t)g->exp);
    }
    return 0;
}

/* The names of other consumers are not shown to the one who was refused. */
static int check_consumer(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    char expected[96];

    if (listed(g->consumers, a->consumer)) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "one of the %zu consumers that the grant names",
             json_array_size(g->consumers));
    return err_refuse(e, ERR_DENIED, "grant.consumers", expected, "%s", a->consumer);
}

static int check_image(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    char expected[256];

    return listed(g->images, a->spec->image)
               ? 0
               : err_refuse(e, ERR_DENIED, "grant.images", one_of(g->images, expected), "%s",
                            a->spec->image);
}

static int check_tee_type(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    char expected[256];

    return listed(g->tee_types, a->tee) ? 0
                                        : err_refuse(e, ERR_DENIED, "grant.tee.types",
                                                     one_of(g->tee_types, expected), "%s", a->tee);
}

static int check_tee_status(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    if (streq(a->status, "affirming") ||
        (streq(a->status, "warning") && streq(g->tee_status, "warning"))) {
        return 0;
    }
    return err_refuse(e, ERR_DENIED, "grant.tee.status", g->tee_status, "%s", a->status);
}

static int at_most(const char *clause, int64_t limit, int64_t actual, struct err *e)
{
    char expected[64];

    if (actual <= limit) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "at most %jd", (intmax_t)limit);
    return err_refuse(e, ERR_DENIED, clause, expected, "%jd", (intmax_t)actual);
}

static int check_hold_at(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    return at_most("grant.gate.holdAt", g->hold_at, a->spec->gate_hold_at, e);
}

static int check_reject_at(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    return at_most("grant.gate.rejectAt", g->reject_at, a->spec->gate_reject_at, e);
}

static int check_verbatim(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    return at_most("grant.gate.maxVerbatimPercent", g->max_verbatim_percent,
                   a->spec->gate_max_verbatim_percent, e);
}

static int check_bytes(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    return at_most("grant.gate.maxBytes", g->max_bytes, a->spec->output_max_bytes, e);
}

static int check_recipients(const struct grant *g, const struct grant_ask *a, struct err *e)
{
    char expected[96];

    if (!json_array_size(g->recipients)) {
        return 0; /* any that the spec names */
    }
    snprintf(expected, sizeof(expected), "only the %zu recipients that the grant names",
             json_array_size(g->recipients));
    for (size_t i = 0; i < a->spec->n_recipients; i++) {
        const char *who = jkey_thumbprint(a->spec->recipients[i]);
        if (!listed(g->recipients, who)) {
            return err_refuse(e, ERR_DENIED, "grant.recipients", expected, "%s", who);
        }
    }
    return 0;
}

int grant_covers(const struct grant *g, int revoked, const struct grant_ask *ask,
                 unsigned *ret_passed, struct err *e)
{
    static int (*const clauses[])(const struct grant *, const struct grant_ask *, struct err *) = {
        check_consumer,  check_image,    check_tee_type, check_tee_status, check_hold_at,
        check_reject_at, check_verbatim, check_bytes,    check_recipients,
    };

    *ret_passed = 0;
    if (check_state(g, revoked, ask, e)) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(clauses); i++) {
        ++*ret_passed;
        if (clauses[i](g, ask, e)) {
            return -1;
        }
    }
    return 0;
}
