#include <ctype.h>

#include "appraise/evidence.h"
#include "appraise/nvidia.h"

#define REPORT_MAX_BYTES (128u * 1024)
#define CHAIN_MAX_BYTES (64u * 1024)

static const char pem_start[] = "-----BEGIN";

void nvidia_evidence_done(struct nvidia_evidence *ev)
{
    for (size_t i = 0; i < ev->n; i++) {
        buf_done(&ev->v[i].report);
        buf_done(&ev->v[i].chain);
    }
    free(ev->v);
    json_decref(ev->json);
    *ev = (struct nvidia_evidence){0};
}

static struct nvidia_device *add_device(struct nvidia_evidence *ev)
{
    struct nvidia_device *d = &ev->v[ev->n++];

    *d = (struct nvidia_device){.report = BUF_INIT(REPORT_MAX_BYTES),
                                .chain = BUF_INIT(CHAIN_MAX_BYTES)};
    return d;
}

/* An optional text; anything else under its name is refused. */
static int text_member(const json_t *o, const char *key, const char **ret, struct err *e)
{
    json_t *v = json_object_get(o, key);
    char clause[64];

    *ret = json_string_value(v);
    if (*ret || !v || json_is_null(v)) {
        return 0;
    }
    snprintf(clause, sizeof(clause), "evidence.%s", key);
    return err_refuse(e, ERR_INVALID, clause, "a text", "something else");
}

static int keep(const char *clause, struct buf *b, const void *p, size_t n, struct err *e)
{
    return buf_add(b, p, n, NULL)
               ? err_refuse(e, ERR_TOO_LARGE, clause, "no more than a device has", "%zu bytes", n)
               : 0;
}

/* Text, or text of text: some collectors put hex into base64. */
static int take_report(const char *clause, struct bytes text, struct buf *ret, struct err *e)
{
    _cleanup_buf_ struct buf once = BUF_INIT(2 * REPORT_MAX_BYTES);

    if (evidence_text(clause, text, &once, e)) {
        return -1;
    }
    return once.n && isxdigit(once.p[0]) && isxdigit(once.p[once.n - 1])
               ? evidence_text(clause, buf_bytes(&once), ret, e)
               : keep(clause, ret, once.p, once.n, e);
}

static int take_device(struct nvidia_evidence *ev, const json_t *o, struct err *e)
{
    const char *report, *chain;
    struct nvidia_device *d = add_device(ev);

    if (!json_is_object(o)) {
        return err_refuse(e, ERR_INVALID, "evidence", "a JSON object for each device",
                          "something else");
    }
    if (text_member(o, "evidence", &report, e) || text_member(o, "certificate", &chain, e) ||
        text_member(o, "arch", &d->arch, e) || text_member(o, "nonce", &d->nonce, e)) {
        return -1;
    }
    if (!report) {
        return err_refuse(e, ERR_INVALID, "evidence.evidence", "base64 or hex", "none");
    }
    if (take_report("evidence.evidence", BYTES_STR(report), &d->report, e)) {
        return -1;
    }
    if (!chain) {
        return 0;
    }
    return strncmp(chain, pem_start, strlen(pem_start)) == 0
               ? keep("evidence.certificate", &d->chain, chain, strlen(chain), e)
               : evidence_text("evidence.certificate", BYTES_STR(chain), &d->chain, e);
}

static int take_list(struct nvidia_evidence *ev, const json_t *list, const json_t *common,
                     struct err *e)
{
    size_t n = json_array_size(list);

    if (!n) {
        return err_refuse(e, ERR_INVALID, "evidence.devices", "a list of devices", "none");
    }
    if (n > NVIDIA_DEVICES_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence.devices", "at most 64", "%zu", n);
    }
    ev->v = xcalloc(n, sizeof(*ev->v));
    for (size_t i = 0; i < n; i++) {
        const char *arch = NULL, *nonce = NULL;
        if (text_member(common, "arch", &arch, e) || text_member(common, "nonce", &nonce, e)) {
            return -1;
        }
        if (take_device(ev, json_array_get(list, i), e)) {
            return err_wrap(e, "device %zu", i);
        }
        struct nvidia_device *d = &ev->v[i];
        d->arch = d->arch ? d->arch : arch;
        d->nonce = d->nonce ? d->nonce : nonce;
    }
    return 0;
}

static int take_json(struct nvidia_evidence *ev, struct bytes text, struct err *e)
{
    struct err why = {0};

    if (!evidence_few_parts(text)) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence",
                          "JSON of at most 20000 texts, members and lists", "more");
    }
    if (json_parse("evidence", text, EVIDENCE_JSON_MAX_BYTES, &ev->json, &why)) {
        return err_refuse(e, why.code == ERR_TOO_LARGE ? ERR_TOO_LARGE : ERR_INVALID, "evidence",
                          "JSON without duplicate members", "%.240s", why.msg);
    }
    if (json_is_array(ev->json)) {
        return take_list(ev, ev->json, NULL, e);
    }
    static const char *const lists[] = {"device_evidence_list", "evidence_list"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const json_t *list = json_object_get(ev->json, lists[i]);
        if (list) {
            return take_list(ev, list, ev->json, e);
        }
    }
    ev->v = xcalloc(1, sizeof(*ev->v));
    return take_device(ev, ev->json, e);
}

static struct bytes trimmed(struct bytes b)
{
    const uint8_t *end;

    while (b.n && (isspace(b.p[0]) || b.p[0] == '#')) {
        end = b.p[0] == '#' ? memchr(b.p, '\n', b.n) : b.p;
        if (!end) {
            break;
        }
        b.n -= (size_t)(end + 1 - b.p);
        b.p = end + 1;
    }
    return b;
}

int nvidia_evidence_take(struct bytes evidence, struct nvidia_evidence *ret, struct err *e)
{
    _cleanup_(nvidia_evidence_done) struct nvidia_evidence ev = {0};
    struct bytes text = trimmed(evidence);
    int rc;

    if (!text.n) {
        return err_refuse(e, ERR_INVALID, "evidence", "an SPDM report, or JSON", "nothing");
    }
    if (evidence.n > EVIDENCE_JSON_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence", "at most 4 MiB", "%zu bytes", evidence.n);
    }
    if (text.p[0] == '{' || text.p[0] == '[') {
        rc = take_json(&ev, text, e);
    } else {
        ev.v = xcalloc(1, sizeof(*ev.v));
        struct nvidia_device *d = add_device(&ev);
        /* A version of SPDM is below any letter or digit. */
        rc = evidence.p[0] < ' ' && !isspace(evidence.p[0])
                 ? keep("evidence", &d->report, evidence.p, evidence.n, e)
                 : take_report("evidence", text, &d->report, e);
    }
    if (rc) {
        return -1;
    }
    *ret = ev;
    ev = (struct nvidia_evidence){0};
    return 0;
}
