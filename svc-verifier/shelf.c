#include "svc-verifier/shelf.h"

#include "appraise/when.h"
#include "svc-verifier/store.h"

#define MINUTE_MS (60 * 1000LL)
#define HOUR_MS (60 * MINUTE_MS)
#define CERTS_NEVER_REFRESHED_MS (INT64_MAX / 2)

struct shelf {
    struct certs *certs; /* borrowed */
    struct collateral *collateral;
};

void shelf_row_done(struct shelf_row *r)
{
    buf_done(&r->body);
    buf_done(&r->chain);
}

void shelf_free(struct shelf *s)
{
    if (s) {
        collateral_free(s->collateral);
        free(s);
    }
}

struct collateral *shelf_collateral(struct shelf *s)
{
    return s->collateral;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int add(struct collateral *c, const struct need *need, struct bytes body, struct bytes chain,
               struct err *e)
{
    char name[NEED_PATH_MAX + 32];

    snprintf(name, sizeof(name), "%s/%s", need_source_name(need->source), need->path);
    return collateral_add(c, name, body, e) || (chain.n && collateral_add(c, name, chain, e)) ? -1
                                                                                              : 0;
}

static int add_row(void *arg, const struct need *need, struct bytes body, struct bytes chain,
                   struct err *e)
{
    struct err why = {0};
    (void)e;

    /* One that an older program took and this one does not: the appraisal will say what it lacks.
     */
    (void)add(arg, need, body, chain, &why);
    return 0;
}

static int read_all(struct db *db, struct certs *certs, struct collateral **ret, struct err *e)
{
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);

    if (verifier_store_shelf_each(db, add_row, c, e)) {
        return -1;
    }
    *ret = TAKE_PTR(c);
    return 0;
}

int shelf_open(struct db *db, struct certs *certs, struct shelf **ret, struct err *e)
{
    _cleanup_(shelf_freep) struct shelf *s = xcalloc(1, sizeof(*s));

    s->certs = certs;
    if (read_all(db, certs, &s->collateral, e)) {
        return -1;
    }
    *ret = TAKE_PTR(s);
    return 0;
}

/* ---- what came ------------------------------------------------------------------------------- */

struct span {
    int64_t issued_ms, valid_until_ms;
};

static void narrow(struct span *s, int64_t issued_ms, int64_t valid_until_ms)
{
    s->issued_ms = issued_ms > s->issued_ms ? issued_ms : s->issued_ms;
    s->valid_until_ms = valid_until_ms < s->valid_until_ms ? valid_until_ms : s->valid_until_ms;
}

static int json_span(const struct item *i, struct span *s, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    const char *issued, *next;
    int64_t issued_ms, next_ms;

    if (json_parse(i->source, buf_bytes(&i->raw), SHELF_BODY_MAX_BYTES, &j, e) ||
        json_get_str(j, "collateral", "issueDate", &issued, e) ||
        json_get_str(j, "collateral", "nextUpdate", &next, e)) {
        return -1;
    }
    if (rfc3339_ms(issued, &issued_ms) || rfc3339_ms(next, &next_ms)) {
        return err_set(e, ERR_INVALID, "%s: expected dates of RFC 3339", i->source);
    }
    narrow(s, issued_ms, next_ms);
    return 0;
}

static int item_span(const struct item *i, struct span *s, struct err *e)
{
    switch (i->kind) {
    case ITEM_TCB_INFO:
    case ITEM_QE_IDENTITY:
        return json_span(i, s, e);
    case ITEM_CRL:
        narrow(s, crl_this_update_ms(i->crl), crl_next_update_ms(i->crl));
        return 0;
    case ITEM_CERT:
        /* Several come together, and each says for itself how long it is good; a CA's renewal is
         * seen when the appraisal looks. */
        narrow(s, 0, i->cert->not_after_ms);
        return 0;
    case ITEM_RIM:
    case ITEM_OCSP:
    case ITEM_KIND_N:
        break;
    }
    return err_set(e, ERR_UNSUPPORTED, "%s: expected collateral of Intel or AMD", i->source);
}

/* Each path yields one kind of thing. */
static enum item_kind kind_of(const struct need *n)
{
    if (n->source == NEED_ROOT_CRL || strstr(n->path, "crl")) {
        return ITEM_CRL;
    }
    if (n->source == NEED_KDS) {
        return ITEM_CERT;
    }
    return strstr(n->path, "identity") ? ITEM_QE_IDENTITY : ITEM_TCB_INFO;
}

/* Takes what came apart on its own, and says from when to when it holds. */
static int examine(struct shelf *s, const struct shelf_row *row, struct span *ret, struct err *e)
{
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(s->certs);
    struct span span = {.valid_until_ms = INT64_MAX};
    enum item_kind kind = kind_of(&row->need);

    if (add(c, &row->need, buf_bytes(&row->body), (struct bytes){0}, e)) {
        return -1;
    }
    for (size_t i = 0; i < collateral_n(c); i++) {
        const struct item *item = collateral_at(c, i);
        int beside = item->kind == ITEM_CERT && kind != ITEM_CERT;
        if (!beside && item->kind != kind) {
            return err_set(e, ERR_INVALID, "%s: expected another kind of collateral", item->source);
        }
        if (!beside && item_span(item, &span, e)) {
            return -1;
        }
    }
    if (!collateral_n(c)) {
        return err_set(e, ERR_INVALID, "expected collateral, found nothing");
    }
    *ret = span;
    return 0;
}

/* With a quarter of its life left, but never less than an hour or more often than that. */
static int64_t refresh_at(int64_t now_ms, const struct span *s)
{
    int64_t life = s->valid_until_ms - now_ms;

    if (life > CERTS_NEVER_REFRESHED_MS - now_ms) {
        return INT64_MAX;
    }
    int64_t early = life / 4 > HOUR_MS ? life / 4 : HOUR_MS;
    return s->valid_until_ms - early > now_ms + HOUR_MS ? s->valid_until_ms - early
                                                        : now_ms + HOUR_MS;
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = strchr(digits, c | 0x20);

    return c && at ? (int)(at - digits) : -1;
}

/* RFC 3986 §2.1. */
static int percent_decode(const char *text, struct buf *ret, struct err *e)
{
    for (; *text; text++) {
        uint8_t b = (uint8_t)*text;
        if (b == '%') {
            int hi = hex_digit(text[1]), lo = hi < 0 ? -1 : hex_digit(text[2]);
            if (lo < 0) {
                return err_set(e, ERR_INVALID, "issuer chain: expected percent-encoded PEM");
            }
            b = (uint8_t)(hi << 4 | lo);
            text += 2;
        }
        if (buf_add(ret, &b, 1, e)) {
            return err_wrap(e, "issuer chain");
        }
    }
    return 0;
}

static int not_older(struct db *db, const struct need *need, const struct span *s, struct err *e)
{
    struct shelf_row held;
    char expected[96], actual[32];
    int rc = verifier_store_shelf_get(db, need, &held, e);

    if (rc <= 0) {
        return rc;
    }
    int64_t issued_ms = held.issued_ms;
    shelf_row_done(&held);
    if (s->issued_ms >= issued_ms) {
        return 0;
    }
    rfc3339_utc(issued_ms, actual);
    snprintf(expected, sizeof(expected), "nothing older than what is held, of %s", actual);
    rfc3339_utc(s->issued_ms, actual);
    return err_refuse(e, ERR_STALE, "collateral.issued", expected, "%s", actual);
}

int shelf_put(struct shelf *s, struct db *db, const struct need *need, struct bytes body,
              const char *issuer_chain, int64_t now_ms, struct err *e)
{
    _cleanup_(shelf_row_done) struct shelf_row row = {.need = *need,
                                                      .body = BUF_INIT(SHELF_BODY_MAX_BYTES),
                                                      .chain = BUF_INIT(SHELF_CHAIN_MAX_BYTES),
                                                      .fetched_ms = now_ms};
    struct collateral *all;
    struct span span;

    if (buf_add(&row.body, body.p, body.n, e) || percent_decode(issuer_chain, &row.chain, e) ||
        examine(s, &row, &span, e) || not_older(db, need, &span, e)) {
        return -1;
    }
    row.issued_ms = span.issued_ms;
    row.valid_until_ms = span.valid_until_ms;
    row.next_ms = refresh_at(now_ms, &span);
    if (verifier_store_shelf_put(db, &row, e) || read_all(db, s->certs, &all, e)) {
        return -1;
    }
    collateral_free(s->collateral);
    s->collateral = all;
    return 0;
}

/* ---- what is wanted -------------------------------------------------------------------------- */

int shelf_failed(struct db *db, const struct need *need, int64_t now_ms, int64_t retry_ms,
                 struct err *e)
{
    return verifier_store_shelf_failed(db, need, now_ms + retry_ms, e);
}

/* Whether an appraisal should wait for it. */
static int wait_for(struct db *db, const struct need *need, int64_t now_ms, struct err *e)
{
    struct shelf_row row;
    int rc = verifier_store_shelf_get(db, need, &row, e);

    if (rc < 0) {
        return -1;
    }
    if (!rc) {
        return verifier_store_shelf_want(db, need, now_ms + MINUTE_MS, e) ? -1 : 1;
    }
    int there = row.body.n && now_ms <= row.valid_until_ms;
    int hopeless = row.failures >= SHELF_FAILURES_WAITED;
    shelf_row_done(&row);
    return !there && !hopeless;
}

int shelf_ready(struct db *db, const struct needs *needs, int64_t now_ms, struct needs *ret_wanted,
                struct err *e)
{
    *ret_wanted = (struct needs){0};
    for (size_t i = 0; i < needs->n; i++) {
        int rc = wait_for(db, &needs->v[i], now_ms, e);
        if (rc < 0) {
            return -1;
        }
        if (rc) {
            needs_add(ret_wanted, needs->v[i].source, "%s", needs->v[i].path);
        }
    }
    return !ret_wanted->n;
}

int shelf_due(struct db *db, int64_t now_ms, struct needs *ret, struct err *e)
{
    return verifier_store_shelf_due(db, now_ms, now_ms + MINUTE_MS, ret, e);
}

int shelf_next_due(struct db *db, int64_t *ret_ms, struct err *e)
{
    return verifier_store_shelf_next_due(db, ret_ms, e);
}
