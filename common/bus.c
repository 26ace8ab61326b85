/* The bus's messages: options, subscriptions, what comes in and what goes out. */
#include "common/bus_int.h"

#include <ctype.h>

#include "common/fileio.h"
#include "common/log.h"
#include "common/nkey.h"

#define CA_MAX_BYTES 65536
#define CONNECT_TIMEOUT_MS 2000

static const char *const event_names[] = {
    [BUS_CONNECTED] = "bus.connected",
    [BUS_LOST] = "bus.lost",
    [BUS_CONNECT_FAILED] = "bus.connect-failed",
    [BUS_REFUSED] = "bus.refused",
    [BUS_DROPPED] = "bus.dropped",
    [BUS_BACKPRESSURE] = "bus.backpressure",
    [BUS_CONSUMER_SILENT] = "bus.consumer-silent",
};

const char *bus_event_name(enum bus_event ev)
{
    return event_names[ev];
}

void bus_event(struct bus *b, enum bus_event ev, const struct err *e)
{
    if (b->o.on_event && !b->freeing) {
        b->o.on_event(b, ev, e, b->o.arg);
    }
}

/* ---- making one ------------------------------------------------------------------------------ */

/* The url is "nats://host[:port]" or "tls://…"; the host is what the certificate must name. */
static int url_host(const char *url, char **ret, struct err *e)
{
    const char *p = NULL;

    if (strncmp(url, "nats://", 7) == 0) {
        p = url + 7;
    } else if (strncmp(url, "tls://", 6) == 0) {
        p = url + 6;
    }
    size_t n = p ? (p[0] == '[' ? strcspn(p, "]") : strcspn(p, ":/?#")) : 0;
    if (n == 0 || strlen(url) > 255 || strchr(p, '@')) {
        return err_set(e, ERR_INVALID,
                       "nats-url: expected \"tls://host:port\" without credentials, got \"%.80s\"",
                       strchr(url, '@') ? "one with credentials" : url);
    }
    *ret = p[0] == '[' ? xstrndup(p + 1, n - 1) : xstrndup(p, n);
    return 0;
}

static int load_trust(struct bus *b, const struct bus_opts *o, struct err *e)
{
    _cleanup_buf_ struct buf ca = BUF_INIT(CA_MAX_BYTES);

    if (o->ca_pem) {
        b->ca_pem = xstrdup(o->ca_pem);
    } else if (o->ca_file) {
        if (file_read(o->ca_file, CA_MAX_BYTES, 0, &ca, e) < 0) {
            return err_wrap(e, "nats-ca");
        }
        b->ca_pem = xstrndup(ca.p ? (const char *)ca.p : "", ca.n);
    }
    if (!b->ca_pem || !strstr(b->ca_pem, "-----BEGIN CERTIFICATE-----")) {
        return err_set(e, ERR_INVALID, "nats-ca: expected a PEM certificate in %s",
                       o->ca_file ? o->ca_file : "ca_pem");
    }
    if (o->seed) {
        b->seed = secret_from(secret_cp(o->seed), secret_n(o->seed));
    } else if (!o->seed_file) {
        return err_set(e, ERR_INVALID, "nats-seed: missing");
    } else if (nkey_read_seed(o->seed_file, &b->seed, e) < 0) {
        return -1;
    }
    return nkey_public(b->seed, b->public_key, e);
}

static int make_names(struct bus *b, struct err *e)
{
    const char *role = b->o.admin ? "admin" : service_name(b->o.service);
    _cleanup_free_ char *id = NULL;
    uint8_t random[12];

    if (b->host && !bus_token_ok(b->host)) {
        return err_set(e, ERR_INVALID, "host: expected 1 to 64 of [A-Za-z0-9_-], got \"%.80s\"",
                       b->host);
    }
    random_bytes(random, sizeof(random));
    id = hex_encode(random, sizeof(random));
    snprintf(b->name, sizeof(b->name), "%s%s%s", role, b->host ? "@" : "", b->host ? b->host : "");
    snprintf(b->inbox, sizeof(b->inbox), "_INBOX_%s%s%s.%s", role, b->host ? "." : "",
             b->host ? b->host : "", id);
    return 0;
}

int bus_new(const struct bus_opts *o, struct ev_loop *loop, struct bus **ret, struct err *e)
{
    _cleanup_(bus_freep) struct bus *b = xcalloc(1, sizeof(*b));

    /* Connecting would do it, but a message may be made, and freed, before. */
    nats_Open(-1);
    b->loop = loop;
    b->o = *o;
    b->o.connect_timeout_ms =
        o->connect_timeout_ms > 0 ? o->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    b->o.ca_file = b->o.ca_pem = b->o.seed_file = NULL;
    b->o.seed = NULL;
    conn_init(b);
    js_init(b);
    if (url_host(o->url ? o->url : "", &b->tls_name, e) < 0 || load_trust(b, o, e) < 0) {
        return -1;
    }
    b->url = xstrdup(o->url);
    if (o->tls_name && o->tls_name[0]) {
        free(b->tls_name);
        b->tls_name = xstrdup(o->tls_name);
    }
    /* Only the launcher runs per host; its inbox is then its host's own. */
    if (o->host && !o->admin && o->service == SVC_LAUNCHER) {
        b->host = xstrdup(o->host);
    }
    char name[BUS_SUBJECT_MAX];
    if (make_names(b, e) < 0) {
        return -1;
    }
    snprintf(name, sizeof(name), "%s.p.*.*", b->inbox);
    if (sub_add(b, SUB_PUBACK, name, NULL, 0, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(b);
    return 0;
}

void bus_free(struct bus *b)
{
    if (!b) {
        return;
    }
    conn_close(b);
    js_done(b);
    request_done_all(b);
    free(b->url);
    free(b->tls_name);
    free(b->ca_pem);
    free(b->host);
    secret_free(b->seed);
    free(b);
}

void bus_start(struct bus *b)
{
    if (!b->started) {
        b->started = 1;
        conn_open(b);
    }
}

int bus_connected(const struct bus *b)
{
    return b->nc != NULL;
}

const struct bus_stats *bus_stats(const struct bus *b)
{
    return &b->stats;
}

/* ---- running the loop from outside of it ------------------------------------------------------
 */

static void on_deadline(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    *(int *)w->data = 1;
}

int run_until(struct bus *b, const int *done, int timeout_ms)
{
    int over = 0;
    ev_timer deadline;

    ev_now_update(b->loop);
    ev_timer_init(&deadline, on_deadline, timeout_ms / 1000.0, 0);
    deadline.data = &over;
    ev_timer_start(b->loop, &deadline);
    while (!*done && !over) {
        ev_run(b->loop, EVRUN_ONCE);
    }
    ev_timer_stop(b->loop, &deadline);
    return *done ? 0 : -1;
}

int bus_wait_connected(struct bus *b, int timeout_ms, struct err *e)
{
    int over = 0;
    ev_timer deadline;

    bus_start(b);
    ev_now_update(b->loop);
    ev_timer_init(&deadline, on_deadline, timeout_ms / 1000.0, 0);
    deadline.data = &over;
    ev_timer_start(b->loop, &deadline);
    while (!b->nc && !over) {
        ev_run(b->loop, EVRUN_ONCE);
    }
    ev_timer_stop(b->loop, &deadline);
    return b->nc ? 0
                 : err_set(e, ERR_TIMEOUT, "not connected within %d ms: %.300s", timeout_ms,
                           b->last_error.msg);
}

int bus_flush(struct bus *b, int timeout_ms)
{
    int over = 0, n;
    ev_timer deadline;

    ev_now_update(b->loop);
    ev_timer_init(&deadline, on_deadline, timeout_ms / 1000.0, 0);
    deadline.data = &over;
    ev_timer_start(b->loop, &deadline);
    for (;;) {
        n = b->nc ? natsConnection_Buffered(b->nc) : 0;
        if ((n <= 0 && b->n_free == BUS_WINDOW) || over) {
            break;
        }
        ev_run(b->loop, EVRUN_ONCE);
    }
    ev_timer_stop(b->loop, &deadline);
    return over ? -1 : 0;
}

/* ---- subscriptions --------------------------------------------------------------------------- */

int sub_open(struct bus *b, struct bus_sub *s, struct err *e)
{
    natsStatus st = s->queue ? natsConnection_QueueSubscribeSync(&s->s, b->nc, s->subject, s->queue)
                             : natsConnection_SubscribeSync(&s->s, b->nc, s->subject);

    /* Drained in every turn, so what is pending is bounded by what was asked for. */
    st = st ? st : natsSubscription_SetPendingLimits(s->s, -1, -1);
    return st == NATS_OK
               ? 0
               : err_set(e, ERR_IO, "subscribing to %s: %s", s->subject, natsStatus_GetText(st));
}

int sub_add(struct bus *b, enum sub_kind kind, const char *subject, const char *queue, int index,
            struct err *e)
{
    if (b->n_subs == BUS_SUBS_MAX) {
        return err_set(e, ERR_BUSY, "more than %d subscriptions", BUS_SUBS_MAX);
    }
    struct bus_sub *s = &b->subs[b->n_subs];
    s->kind = kind;
    snprintf(s->subject, sizeof(s->subject), "%s", subject);
    s->queue = queue;
    s->index = index;
    s->s = NULL;
    if (b->nc && sub_open(b, s, e) < 0) {
        natsSubscription_Destroy(s->s);
        s->s = NULL;
        return -1;
    }
    b->n_subs++;
    return 0;
}

int bus_subscribe(struct bus *b, enum subject s, const char *key, struct err *e)
{
    const struct subject_info *i = &subjects[s];
    char name[BUS_SUBJECT_MAX];

    if (i->style == STYLE_REQUEST || b->o.admin || !(i->to & 1u << b->o.service)) {
        return err_set(e, ERR_DENIED, "%s does not receive %s", b->name, i->name);
    }
    if (i->key[0] && (!key || !key[0])) {
        snprintf(name, sizeof(name), "%s.*", i->name);
    } else if (subject_format(s, key, name, sizeof(name)) < 0) {
        return err_set(e, ERR_INVALID, "%s: \"%.80s\" is no key of it", i->name, key ? key : "");
    }
    for (size_t n = 0; n < b->n_subs; n++) {
        if (b->subs[n].kind == SUB_MESSAGES && streq(b->subs[n].subject, name)) {
            return 0;
        }
    }
    return sub_add(b, SUB_MESSAGES, name, NULL, 0, e);
}

int bus_serve(struct bus *b, struct err *e)
{
    unsigned me = 1u << b->o.service;
    char name[BUS_SUBJECT_MAX];

    for (int i = 0; i < SUBJ_N; i++) {
        const struct subject_info *s = &subjects[i];
        if (!(s->to & me) || s->style == STYLE_DURABLE) {
            continue;
        }
        snprintf(name, sizeof(name), "%s%s", s->name, s->key[0] ? ".*" : "");
        const char *queue = s->style == STYLE_REQUEST ? service_name(b->o.service) : NULL;
        if (sub_add(b, SUB_MESSAGES, name, queue, 0, e) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < n_consumers; i++) {
        if (consumers[i].service == b->o.service && js_add_pull(b, &consumers[i], e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- what comes in --------------------------------------------------------------------------- */

const char *msg_header(natsMsg *msg, const char *name)
{
    const char *v = NULL;

    return natsMsgHeader_Get(msg, name, &v) == NATS_OK && v ? v : "";
}

void bus_msg_free(struct bus_msg *m)
{
    if (m) {
        natsMsg_Destroy(m->priv);
        free(m);
    }
}

static void refuse_too_large(struct bus *b, const char *reply_to, const struct err *why)
{
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    uint8_t packed[2048];

    refusal.code = (char *)(uintptr_t)err_code_name(why->code);
    refusal.clause = (char *)(uintptr_t)why->clause;
    refusal.expected = (char *)(uintptr_t)why->expected;
    refusal.actual = (char *)(uintptr_t)why->actual;
    refusal.message = (char *)(uintptr_t)why->msg;
    refusal.by = (char *)(uintptr_t)service_name(b->o.service);
    reply.body_case = COFFER__V1__REPLY__BODY_REFUSAL;
    reply.refusal = &refusal;
    if (coffer__v1__reply__get_packed_size(&reply) <= sizeof(packed)) {
        size_t n = coffer__v1__reply__pack(&reply, packed);
        struct bus_out o = {.subject = reply_to, .payload = BYTES(packed, n)};
        (void)bus_publish(b, &o, NULL);
    }
}

/* Everything that is known before a byte of the body is looked at. */
static int check_incoming(struct bus *b, natsMsg *msg, struct bus_msg *m, const struct pull *p,
                          struct err *e)
{
    const char *name = natsMsg_GetSubject(msg);
    const char *reply = natsMsg_GetReply(msg);
    size_t n = (size_t)natsMsg_GetDataLength(msg);

    if (subject_parse(name, &m->m.subject, &m->m.key) < 0) {
        return err_set(e, ERR_INVALID, "dropped a message on the unknown subject \"%.100s\"", name);
    }
    const struct subject_info *s = &subjects[m->m.subject];
    if (!(s->to & 1u << b->o.service) || (p && s->stream != p->consumer->stream)) {
        return err_set(e, ERR_DENIED, "dropped a message on %s, which %s does not receive", name,
                       b->name);
    }
    if (n > s->max_bytes) {
        b->stats.too_large++;
        char limit[64];
        snprintf(limit, sizeof(limit), "at most %zu bytes", s->max_bytes);
        return err_refuse(e, ERR_TOO_LARGE, s->name, limit, "%zu bytes", n);
    }
    m->m.payload = BYTES(natsMsg_GetData(msg), n);
    m->m.msg_id = msg_header(msg, "Nats-Msg-Id");
    if (m->m.msg_id[0] && !bus_msg_id_ok(m->m.msg_id)) {
        return err_set(e, ERR_INVALID,
                       "dropped a message on %s: Nats-Msg-Id: expected 1 to %d of "
                       "[A-Za-z0-9._-], got %zu bytes",
                       name, BUS_MSG_ID_MAX, strlen(m->m.msg_id));
    }
    m->m.reply_to = "";
    if (s->style == STYLE_REQUEST) {
        m->m.reply_to = reply ? reply : "";
    } else if (p) {
        m->m.reply_to = msg_header(msg, "Coffer-Reply-To");
    }
    if (m->m.reply_to[0] && !bus_inbox_ok(m->m.reply_to, s->from)) {
        return err_set(e, ERR_INVALID,
                       "dropped a message on %s: the reply address \"%.60s\" is of "
                       "nobody who may ask",
                       name, m->m.reply_to);
    }
    if (s->style == STYLE_REQUEST && !m->m.reply_to[0]) {
        return err_set(e, ERR_INVALID, "dropped a request on %s without a reply address", name);
    }
    return 0;
}

static void take_ids(struct bus_msg *m, natsMsg *msg)
{
    const char *trace = msg_header(msg, "traceparent");
    const char *job = msg_header(msg, "Coffer-Job");

    m->m.traceparent = bus_traceparent_ok(trace) ? trace : "";
    bus_ids(m->m.msg_id, m->job, &m->attempt);
    if (bus_token_ok(job)) {
        snprintf(m->job, sizeof(m->job), "%s", job);
        (void)bus_number(msg_header(msg, "Coffer-Attempt"), UINT32_MAX, &m->attempt);
    }
}

struct bus_msg *msg_accept(struct bus *b, natsMsg *msg, const struct pull *p)
{
    struct bus_msg *m = xcalloc(1, sizeof(*m));
    struct err e = {0};

    m->priv = msg;
    m->m.deliveries = 1;
    b->stats.in++;
    if (p) {
        if (bus_parse_ack(natsMsg_GetReply(msg) ? natsMsg_GetReply(msg) : "",
                          streams[p->consumer->stream].name, p->durable, &m->m.deliveries) < 0) {
            err_set(&e, ERR_INVALID, "dropped a message that %s did not deliver", p->durable);
        } else {
            m->durable = 1;
        }
    }
    if (e.code == ERR_NONE && check_incoming(b, msg, m, p, &e) == 0) {
        take_ids(m, msg);
        return m;
    }
    b->stats.dropped++;
    if (e.code == ERR_TOO_LARGE && !p && bus_inbox_ok(m->m.reply_to ? m->m.reply_to : "", ~0u)) {
        refuse_too_large(b, m->m.reply_to, &e);
    }
    bus_term(b, m);
    bus_event(b, BUS_DROPPED, &e);
    bus_msg_free(m);
    return NULL;
}

static void deliver(struct bus *b, struct bus_sub *s, natsMsg *msg)
{
    struct bus_msg *m;

    switch (s->kind) {
    case SUB_MESSAGES:
        m = msg_accept(b, msg, NULL);
        if (m && b->o.on_msg) {
            b->o.on_msg(b, m, b->o.arg);
        } else {
            bus_msg_free(m);
        }
        return;
    case SUB_PULL:
        js_pulled(b, &b->pulls[s->index], msg);
        return;
    case SUB_PUBACK:
        js_puback(b, msg);
        natsMsg_Destroy(msg);
        return;
    case SUB_REPLY:
        request_reply(b, msg);
        natsMsg_Destroy(msg);
        return;
    }
}

/* The library swallows the server's "no responders" message and its subject; only the subscription
 * it came on is left, which is why every request slot has one of its own. */
static void nobody(struct bus *b, const struct bus_sub *s)
{
    switch (s->kind) {
    case SUB_REPLY:
        request_nobody(b, s->index);
        return;
    case SUB_PUBACK:
        js_nobody(b);
        return;
    case SUB_PULL:
    case SUB_MESSAGES:
        return; /* a pull without JetStream: its timer asks again */
    }
}

void subs_drain(struct bus *b)
{
    b->in_callback++;
    /* A callback may add subscriptions, never remove one. */
    for (size_t i = 0; i < b->n_subs; i++) {
        struct bus_sub *s = &b->subs[i];
        uint64_t queued;
        /* Asked first, because NextMsg on an empty one is an error to the library. */
        while (s->s && natsSubscription_QueuedMsgs(s->s, &queued) == NATS_OK && queued > 0) {
            while (queued-- > 0) {
                natsMsg *msg = NULL;
                natsStatus st = natsSubscription_NextMsg(&msg, s->s, 0);
                if (st == NATS_OK) {
                    deliver(b, s, msg);
                } else if (st == NATS_NO_RESPONDERS) {
                    nobody(b, s);
                } else {
                    break;
                }
            }
        }
    }
    b->in_callback--;
}

/* ---- what goes out --------------------------------------------------------------------------- */

int out_msg(const struct bus_out *o, const char *reply, natsMsg **ret, struct err *e)
{
    natsMsg *msg = NULL;
    char job[65] = "", number[16];
    uint32_t attempt = 0;

    if (o->payload.n > INT32_MAX ||
        natsMsg_Create(&msg, o->subject, reply, (const char *)o->payload.p, (int)o->payload.n) !=
            NATS_OK) {
        return err_set(e, ERR_INVALID, "cannot make a message for \"%.100s\"", o->subject);
    }
    natsStatus s = NATS_OK;
    if (o->msg_id && o->msg_id[0]) {
        s = natsMsgHeader_Set(msg, "Nats-Msg-Id", o->msg_id);
        bus_ids(o->msg_id, job, &attempt);
    }
    if (o->traceparent && o->traceparent[0]) {
        s = s ? s : natsMsgHeader_Set(msg, "traceparent", o->traceparent);
    }
    if (job[0]) {
        s = s ? s : natsMsgHeader_Set(msg, "Coffer-Job", job);
    }
    if (attempt) {
        snprintf(number, sizeof(number), "%u", attempt);
        s = s ? s : natsMsgHeader_Set(msg, "Coffer-Attempt", number);
    }
    if (o->reply_to && o->reply_to[0]) {
        s = s ? s : natsMsgHeader_Set(msg, "Coffer-Reply-To", o->reply_to);
    }
    if (s != NATS_OK) {
        natsMsg_Destroy(msg);
        return err_set(e, ERR_INTERNAL, "headers of \"%.100s\": %s", o->subject,
                       natsStatus_GetText(s));
    }
    *ret = msg;
    return 0;
}

int bus_publish(struct bus *b, const struct bus_out *o, struct err *e)
{
    natsMsg *msg = NULL;

    if (b->nc && natsConnection_Buffered(b->nc) > (int)BUS_BUFFERED_MAX) {
        return err_set(e, ERR_BUSY, "more than %u bytes are unsent", BUS_BUFFERED_MAX);
    }
    if (out_msg(o, NULL, &msg, e) < 0) {
        return -1;
    }
    int r = conn_publish(b, msg, e);
    natsMsg_Destroy(msg);
    return r;
}

int may_publish(const struct bus *b, enum subject s, struct err *e)
{
    if (b->o.admin || !(subjects[s].from & 1u << b->o.service)) {
        return err_set(e, ERR_DENIED, "%s may not publish on %s", b->name, subjects[s].name);
    }
    return 0;
}

int pack_checked(enum subject s, const ProtobufCMessage *m, struct buf *ret, struct err *e)
{
    const struct subject_info *i = &subjects[s];

    if (m->descriptor != i->message) {
        return err_set(e, ERR_INTERNAL, "%s carries %s, not %s", i->name, i->message->name,
                       m->descriptor->name);
    }
    size_t n = protobuf_c_message_get_packed_size(m);
    if (n > i->max_bytes) {
        return err_set(e, ERR_TOO_LARGE, "%s: message of %zu bytes, at most %zu", i->name, n,
                       i->max_bytes);
    }
    ret->cap = i->max_bytes;
    if (buf_reserve(ret, n, e) < 0) {
        return -1;
    }
    ret->n += protobuf_c_message_pack(m, ret->p + ret->n);
    return 0;
}

int bus_send(struct bus *b, enum subject s, const char *key, const char *msg_id,
             const ProtobufCMessage *m, const char *traceparent, int64_t tag, struct err *e)
{
    _cleanup_buf_ struct buf body = BUF_INIT(0);
    char name[BUS_SUBJECT_MAX];

    if (may_publish(b, s, e) < 0 || pack_checked(s, m, &body, e) < 0) {
        return -1;
    }
    if (subject_format(s, key, name, sizeof(name)) < 0) {
        return err_set(e, ERR_INVALID, "%s: \"%.80s\" is no key of it", subjects[s].name,
                       key ? key : "");
    }
    struct bus_out o = {
        .subject = name, .payload = buf_bytes(&body), .msg_id = msg_id, .traceparent = traceparent};
    if (subjects[s].style == STYLE_DURABLE) {
        return bus_publish_durable(b, &o, tag, e);
    }
    return bus_publish(b, &o, e);
}
