#include <stdint.h>

#include "common/engine_int.h"
#include "common/secret.h"

void out_done(struct out *o)
{
    free(o->subject);
    free(o->msg_id);
    free(o->payload);
    memset(o, 0, sizeof(*o));
}

static void *list_push(void **v, size_t *head, size_t *n, size_t *size, size_t item)
{
    if (*head && *head == *n) {
        *head = *n = 0;
    }
    if (*n == *size) {
        *size = *size ? *size * 2 : 16;
        *v = xrealloc(*v, *size * item);
    }
    void *slot = (char *)*v + (*n)++ * item;
    memset(slot, 0, item);
    return slot;
}

struct out *out_push(struct out_list *l)
{
    return list_push((void **)&l->v, &l->head, &l->n, &l->size, sizeof(*l->v));
}

struct action *action_push(struct action_list *l)
{
    return list_push((void **)&l->v, &l->head, &l->n, &l->size, sizeof(*l->v));
}

struct sent *sent_push(struct sent_list *l)
{
    return list_push((void **)&l->v, &l->head, &l->n, &l->size, sizeof(*l->v));
}

void out_truncate(struct out_list *l, size_t n)
{
    while (l->n > n && l->n > l->head) {
        out_done(&l->v[--l->n]);
    }
}

void action_truncate(struct action_list *l, size_t n)
{
    while (l->n > n && l->n > l->head) {
        free(l->v[--l->n].data);
    }
}

void effects_clear(struct effects *fx)
{
    out_truncate(&fx->out, 0);
    action_truncate(&fx->actions, 0);
    fx->out.head = fx->out.n = 0;
    fx->actions.head = fx->actions.n = 0;
}

/* ---- what handlers call ---------------------------------------------------------------------- */

static void traceparent_new(char out[TRACEPARENT_LEN + 1])
{
    uint8_t id[24];
    char hex[49];

    random_bytes(id, sizeof(id));
    for (size_t i = 0; i < sizeof(id); i++) {
        snprintf(hex + 2 * i, 3, "%02x", id[i]);
    }
    snprintf(out, TRACEPARENT_LEN + 1, "00-%.32s-%.16s-01", hex, hex + 32);
}

static struct out *effect_new(struct effects *fx, const char *subject, const char *msg_id)
{
    struct out *o = out_push(&fx->out);

    if (!fx->traceparent[0]) {
        traceparent_new(fx->traceparent);
    }
    o->subject = xstrdup(subject);
    o->msg_id = xstrdup(msg_id);
    memcpy(o->traceparent, fx->traceparent, sizeof(o->traceparent));
    return o;
}

static void pack_into(struct out *o, const ProtobufCMessage *m, size_t n)
{
    o->payload = xmalloc(n);
    o->payload_n = protobuf_c_message_pack(m, o->payload);
}

int fx_publish(struct effects *fx, enum subject s, const char *key, const char *msg_id,
               const ProtobufCMessage *m, struct err *e)
{
    const struct subject_info *i = &subjects[s];
    char name[256];

    if (!(i->from & (1u << fx->g->def->id))) {
        return err_set(e, ERR_INTERNAL, "%s may not publish on %s", service_name(fx->g->def->id),
                       i->name);
    }
    if (m->descriptor != i->message || i->style == STYLE_REQUEST) {
        return err_set(e, ERR_INTERNAL, "wrong message or style for %s", i->name);
    }
    if (subject_format(s, key, name, sizeof(name)) < 0) {
        return err_set(e, ERR_INTERNAL, "key \"%s\" does not fit subject %s", key ? key : "",
                       i->name);
    }
    if (i->style == STYLE_DURABLE && (!msg_id || !msg_id[0])) {
        return err_set(e, ERR_INTERNAL, "%s needs a message id", i->name);
    }
    size_t n = protobuf_c_message_get_packed_size(m);
    if (n > i->max_bytes) {
        return err_set(e, ERR_TOO_LARGE, "%s: message of %zu bytes, at most %zu", i->name, n,
                       i->max_bytes);
    }
    struct out *o = effect_new(fx, name, msg_id ? msg_id : "");
    o->outbox_id = i->style == STYLE_DURABLE ? -1 : 0; /* -1: gets its row with the message */
    pack_into(o, m, n);
    return 0;
}

int fx_reply(struct effects *fx, const struct msg *m, const Coffer__V1__Reply *r, struct err *e)
{
    if (!m->reply_to || !m->reply_to[0]) {
        return 0;
    }
    /* A reply subject comes from outside: it may only be somebody's inbox. */
    if (strncmp(m->reply_to, "_INBOX", 6) != 0 || strlen(m->reply_to) > 200 ||
        strpbrk(m->reply_to, "*> \t\r\n")) {
        return err_refuse(e, ERR_INVALID, "reply-to", "an _INBOX subject", "\"%.60s\"",
                          m->reply_to);
    }
    struct out *o = effect_new(fx, m->reply_to, "");
    o->is_reply = 1;
    pack_into(o, &r->base, protobuf_c_message_get_packed_size(&r->base));
    return 0;
}

int fx_reply_refusal(struct effects *fx, const struct msg *m, const struct err *why, struct err *e)
{
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;

    refusal_from_err(&refusal, why, fx->g->def->id);
    reply.body_case = COFFER__V1__REPLY__BODY_REFUSAL;
    reply.refusal = &refusal;
    return fx_reply(fx, m, &reply, e);
}

void fx_action(struct effects *fx, int kind, struct bytes data)
{
    struct action *a = action_push(&fx->actions);

    a->kind = kind;
    a->data = xmemdup(data.p, data.n);
    a->n = data.n;
}

int msg_unpack(const struct msg *m, ProtobufCMessage **ret, struct err *e)
{
    const struct subject_info *i = &subjects[m->subject];

    if (m->payload.n > i->max_bytes) {
        return err_refuse(e, ERR_TOO_LARGE, i->name, "a message within its size cap",
                          "%zu bytes of %zu", m->payload.n, i->max_bytes);
    }
    *ret = protobuf_c_message_unpack(i->message, NULL, m->payload.n, m->payload.p);
    if (!*ret) {
        return err_refuse(e, ERR_INVALID, i->name, i->message->name, "%zu bytes that are not one",
                          m->payload.n);
    }
    return 0;
}

void refusal_from_err(Coffer__V1__Refusal *r, const struct err *why, enum service by)
{
    r->code = (char *)err_code_name(why->code);
    r->clause = (char *)why->clause;
    r->expected = (char *)why->expected;
    r->actual = (char *)why->actual;
    r->message = (char *)why->msg;
    r->by = (char *)service_name(by);
}

void err_from_refusal(struct err *e, const Coffer__V1__Refusal *r)
{
    err_clear(e);
    e->code = ERR_DENIED;
    for (int c = ERR_NONE + 1; c < ERR_CODE_N; c++) {
        if (streq(err_code_name((enum err_code)c), r->code)) {
            e->code = (enum err_code)c;
        }
    }
    snprintf(e->msg, sizeof(e->msg), "%s", r->message);
    snprintf(e->clause, sizeof(e->clause), "%s", r->clause);
    snprintf(e->expected, sizeof(e->expected), "%s", r->expected);
    snprintf(e->actual, sizeof(e->actual), "%s", r->actual);
}
