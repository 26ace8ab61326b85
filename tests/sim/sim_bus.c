/* JetStream and core NATS, as far as services can tell (proto/streams.def, facts of nats-server):
 * streams with a window for duplicates, durable consumers with at-least-once delivery, redelivery
 * after 30 s or a NAK, PubAcks that get lost, core messages that get lost. */
#include <inttypes.h>

#include "tests/sim/sim.h"

struct payload *payload_new(struct bytes b)
{
    struct payload *p = xmalloc(sizeof(*p) + b.n + 1);

    p->refs = 1;
    p->n = b.n;
    if (b.n) {
        memcpy(p->p, b.p, b.n);
    }
    return p;
}

struct payload *payload_ref(struct payload *p)
{
    p->refs++;
    return p;
}

void payload_unref(struct payload *p)
{
    if (p && --p->refs == 0) {
        free(p);
    }
}

static struct wire wire_copy(const struct wire *w)
{
    struct wire c = *w;

    payload_ref(c.payload);
    return c;
}

static int64_t latency(struct sim *s)
{
    if (sim_chance(s, s->f.reorder)) {
        return sim_between(s, 5, sim_random(s, 8) ? 300 : 8000);
    }
    return sim_between(s, 1, 4);
}

static const char *label(const struct wire *w)
{
    const char *name = subjects[w->subject].name + strlen("coffer.v1.");
    static char text[512];

    snprintf(text, sizeof(text), "%s %s", name, w->msg_id[0] ? w->msg_id : w->key);
    return text;
}

/* ---- deliveries ------------------------------------------------------------------------------ */

static void deliver(struct sim *s, void *arg, int64_t token);

static void deliver_in(struct sim *s, struct delivery *d, int64_t ms)
{
    sim_in(s, ms, deliver, d, ++d->token);
}

static void deliver(struct sim *s, void *arg, int64_t token)
{
    struct delivery *d = arg;

    if (d->acked || token != d->token) {
        return;
    }
    if (!node_hears(d->to)) { /* it pulls again when it is back */
        deliver_in(s, d, sim_between(s, 200, 600));
        return;
    }
    d->deliveries++;
    if (sim_chance(s, s->f.lose_delivery)) {
        sim_trace(s, d->to->name, "fault: delivery %u of %s is lost", d->deliveries,
                  label(&d->wire));
    } else {
        struct inmsg m = {.wire = wire_copy(&d->wire), .delivery = d, .deliveries = d->deliveries};
        node_deliver(d->to, &m);
    }
    if (s->brk == BREAK_ACK_EARLY) {
        d->acked = 1;
    }
    deliver_in(s, d, ACK_WAIT_MS);
}

void bus_ack(struct sim *s, struct delivery *d)
{
    if (sim_chance(s, s->f.lose_ack)) {
        sim_trace(s, d->to->name, "fault: ack of %s is lost", label(&d->wire));
        return;
    }
    if (sim_chance(s, s->f.duplicate) && sim_random(s, 4) == 0) {
        deliver_in(s, d, sim_between(s, 1, 60000)); /* and once more, for no reason */
        return;
    }
    d->acked = 1;
    d->acked_ms = s->now;
}

void bus_nak(struct sim *s, struct delivery *d, int delay_ms)
{
    if (!d->acked) {
        deliver_in(s, d, delay_ms);
    }
}

static void add_delivery(struct sim *s, const struct wire *w, struct node *to)
{
    struct delivery *d = xcalloc(1, sizeof(*d));

    d->wire = wire_copy(w);
    d->to = to;
    d->stored_ms = s->now;
    if (s->n_deliveries == s->size_deliveries) {
        s->size_deliveries = s->size_deliveries ? s->size_deliveries * 2 : 256;
        s->deliveries = xrealloc(s->deliveries, s->size_deliveries * sizeof(*s->deliveries));
    }
    s->deliveries[s->n_deliveries++] = d;
    deliver_in(s, d, latency(s));
}

static struct node *service_node(struct sim *s, enum service id)
{
    switch (id) {
    case SVC_SCHEDULER:
        return s->scheduler;
    case SVC_VERIFIER:
        return s->verifier;
    case SVC_KBS:
        return s->kbs;
    case SVC_GATE:
        return s->gate;
    case SVC_CLIENT:
    case SVC_LAUNCHER:
    case SVC_WORKER:
    case SVC_N:
        break;
    }
    return NULL;
}

static void to_consumers(struct sim *s, const struct wire *w)
{
    for (size_t i = 0; i < n_consumers; i++) {
        if (consumers[i].stream != subjects[w->subject].stream) {
            continue;
        }
        if (!consumers[i].per_host) {
            add_delivery(s, w, service_node(s, consumers[i].service));
            continue;
        }
        for (size_t h = 0; h < SIM_HOSTS; h++) {
            if (streq(w->key, host_names[h])) {
                add_delivery(s, w, s->hosts[h]);
            }
        }
    }
}

/* ---- core ------------------------------------------------------------------------------------ */

struct core {
    struct wire wire;
    struct node *to;
    unsigned epoch;
};

static void core_arrives(struct sim *s, void *arg, int64_t n)
{
    struct core *c = arg;

    (void)n;
    if (c->epoch != c->to->epoch || !node_hears(c->to)) {
        payload_unref(c->wire.payload);
    } else if (sim_chance(s, s->f.lose_core)) {
        sim_trace(s, c->to->name, "fault: %s is lost", label(&c->wire));
        payload_unref(c->wire.payload);
    } else {
        struct inmsg m = {.wire = c->wire, .deliveries = 1};
        node_deliver(c->to, &m);
    }
    free(c);
}

static void core_to(struct sim *s, const struct wire *w, struct node *to)
{
    struct core *c = xmalloc(sizeof(*c));

    *c = (struct core){.wire = wire_copy(w), .to = to, .epoch = to->epoch};
    sim_in(s, latency(s), core_arrives, c, 0);
}

/* Workers listen to the releases of their job; services to facts and requests. */
static void to_listeners(struct sim *s, const struct wire *w)
{
    const struct subject_info *i = &subjects[w->subject];

    if (w->subject == SUBJ_KEY_RELEASE) {
        for (size_t k = 0; k < s->n_workers; k++) {
            struct node *n = s->workers[k];
            if (n->engine && streq(n->cvm->job, w->key)) {
                core_to(s, w, n);
            }
        }
    }
    if (i->style == STYLE_DURABLE) {
        return;
    }
    for (int id = 0; id < SVC_N; id++) {
        struct node *to = service_node(s, (enum service)id);
        if (to && (i->to & (1u << id))) {
            core_to(s, w, to);
        }
    }
}

/* ---- streams --------------------------------------------------------------------------------- */

static int is_duplicate(struct sim *s, const struct js *js, enum stream id, const struct wire *w)
{
    for (size_t i = js->n; i-- > 0;) {
        if (js->v[i].at_ms < s->now - streams[id].duplicate_window_s * 1000) {
            return 0;
        }
        if (streq(js->v[i].wire.msg_id, w->msg_id)) {
            return 1;
        }
    }
    return 0;
}

static void store(struct sim *s, const struct wire *w)
{
    enum stream id = subjects[w->subject].stream;
    struct js *js = &s->streams[id];

    check_wire(s, "the bus", w);
    to_listeners(s, w); /* core subscribers see every publish */
    if (w->msg_id[0] && is_duplicate(s, js, id, w)) {
        sim_trace(s, "bus", "duplicate %s", label(w));
        return;
    }
    if (js->n == js->size) {
        js->size = js->size ? js->size * 2 : 64;
        js->v = xrealloc(js->v, js->size * sizeof(*js->v));
    }
    js->v[js->n++] = (struct stored){.wire = wire_copy(w), .at_ms = s->now};
    to_consumers(s, w);
    if (w->subject == SUBJ_GATE_DECISION) {
        Coffer__V1__GateDecision *d =
            coffer__v1__gate_decision__unpack(NULL, w->payload->n, w->payload->p);
        if (d) {
            client_saw_decision(s, d);
            coffer__v1__gate_decision__free_unpacked(d, NULL);
        }
    }
    if (w->subject == SUBJ_DEAD) {
        s->counts[COUNT_DEAD]++;
    }
}

const struct stored *bus_pick(struct sim *s, enum subject subject)
{
    const struct js *js = &s->streams[subjects[subject].stream];
    const struct stored *found = NULL;
    uint64_t n = 0;

    for (size_t i = 0; i < js->n; i++) {
        if (js->v[i].wire.subject == subject && sim_random(s, ++n) == 0) {
            found = &js->v[i];
        }
    }
    return found;
}

/* ---- publishing ------------------------------------------------------------------------------ */

struct publish {
    struct wire wire;
    struct node *from;
    unsigned epoch;
    int64_t outbox_id;
    int acked, refs;
};

static void publish_drop(struct publish *p)
{
    if (--p->refs == 0) {
        payload_unref(p->wire.payload);
        free(p);
    }
}

static void puback_arrives(struct sim *s, void *arg, int64_t n)
{
    struct publish *p = arg;

    (void)n;
    if (p->from->epoch == p->epoch && p->from->engine && s->now >= p->from->cut_until_ms) {
        p->acked = 1;
        node_published(p->from, p->epoch, p->outbox_id);
    }
    publish_drop(p);
}

/* n = 1: a copy that turns up late, as a producer's retry over another connection would. */
static void publish_arrives(struct sim *s, void *arg, int64_t n)
{
    struct publish *p = arg;

    store(s, &p->wire);
    if (n == 0 && sim_chance(s, s->f.duplicate)) {
        p->refs++;
        sim_in(s, sim_between(s, 1, 90000), publish_arrives, p, 1);
    }
    if (n == 0 && !sim_chance(s, s->f.lose_puback)) {
        sim_in(s, latency(s), puback_arrives, p, 0);
    } else {
        publish_drop(p);
    }
}

static void publish_send(struct sim *s, void *arg, int64_t n)
{
    struct publish *p = arg;

    if (p->acked || p->from->epoch != p->epoch || !p->from->engine) {
        publish_drop(p);
        return;
    }
    if (n > 0 && s->brk == BREAK_OUTBOX) {
        publish_drop(p);
        return;
    }
    if (s->now < p->from->cut_until_ms || sim_chance(s, s->f.lose_publish)) {
        sim_trace(s, p->from->name, "fault: publish of %s is lost", label(&p->wire));
    } else {
        p->refs++;
        sim_in(s, latency(s), publish_arrives, p, 0);
    }
    sim_in(s, PUBACK_WAIT_MS, publish_send, p, n + 1);
}

static void reply_arrives(struct sim *s, void *arg, int64_t n)
{
    struct payload *p = arg;
    struct request *r = s->requests[n];

    if (!r->done && !(r->from && (r->from->epoch != r->epoch || !r->from->engine))) {
        Coffer__V1__Reply *reply = coffer__v1__reply__unpack(NULL, p->n, p->p);
        if (!reply) {
            sim_fail(s, "a reply does not unpack");
        }
        r->done = 1;
        r->fn(s, r->arg, reply);
        coffer__v1__reply__free_unpacked(reply, NULL);
    }
    payload_unref(p);
}

static void send_reply(struct sim *s, struct node *from, const struct outgoing *o)
{
    unsigned long n;

    if (sscanf(o->subject, "_INBOX.sim.%lu", &n) != 1 || n >= s->n_requests) {
        return; /* an inbox that an attacker made up */
    }
    if (s->now < from->cut_until_ms || sim_chance(s, s->f.lose_core)) {
        sim_trace(s, from->name, "fault: reply %lu is lost", n);
        return;
    }
    sim_in(s, latency(s), reply_arrives, payload_new(o->payload), (int64_t)n);
}

void bus_send(struct sim *s, struct node *from, const struct outgoing *o)
{
    struct wire w = {.subject = SUBJ_N};
    const char *key;

    s->counts[COUNT_MESSAGES]++;
    if (o->is_reply) {
        send_reply(s, from, o);
        return;
    }
    if (subject_parse(o->subject, &w.subject, &key) < 0) {
        sim_fail(s, "%s publishes on %s, which is no subject", from->name, o->subject);
    }
    snprintf(w.key, sizeof(w.key), "%s", key);
    snprintf(w.msg_id, sizeof(w.msg_id), "%s", o->msg_id);
    snprintf(w.traceparent, sizeof(w.traceparent), "%s", o->traceparent);
    w.payload = payload_new(o->payload);
    for (size_t i = 0; i < w.payload->n; i++) { /* a run replays to the byte */
        s->hash = (s->hash ^ w.payload->p[i]) * 1099511628211u;
    }
    if (w.subject != SUBJ_HOST_REPORT) {
        sim_trace(s, from->name, "-> %s %s", subjects[w.subject].name + 10,
                  w.msg_id[0] ? w.msg_id : w.key);
    }
    if (!o->outbox_id) {
        if (s->now >= from->cut_until_ms) {
            to_listeners(s, &w);
        }
        payload_unref(w.payload);
        return;
    }
    struct publish *p = xcalloc(1, sizeof(*p));
    *p = (struct publish){
        .wire = w, .from = from, .epoch = from->epoch, .outbox_id = o->outbox_id, .refs = 1};
    publish_send(s, p, 0);
}

void bus_inject(struct sim *s, const char *who, enum subject subject, const char *key,
                const char *msg_id, struct bytes payload, const char *reply_to)
{
    struct wire w = {.subject = subject, .payload = payload_new(payload)};

    snprintf(w.key, sizeof(w.key), "%s", key);
    snprintf(w.msg_id, sizeof(w.msg_id), "%s", msg_id);
    snprintf(w.reply_to, sizeof(w.reply_to), "%s", reply_to);
    sim_trace(s, who, "-> %s %s", subjects[subject].name + 10, msg_id[0] ? msg_id : key);
    if (subjects[subject].style == STYLE_DURABLE) {
        store(s, &w);
    } else {
        to_listeners(s, &w);
    }
    payload_unref(w.payload);
}

void bus_ask(struct sim *s, struct node *from, enum subject subject, const ProtobufCMessage *m,
             reply_fn fn, void *arg)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    _cleanup_free_ uint8_t *packed = xmalloc(n);
    char inbox[64];
    struct request *r = xcalloc(1, sizeof(*r));

    *r = (struct request){.fn = fn, .arg = arg, .from = from, .epoch = from ? from->epoch : 0};
    if (s->n_requests == s->size_requests) {
        s->size_requests = s->size_requests ? s->size_requests * 2 : 64;
        s->requests = xrealloc(s->requests, s->size_requests * sizeof(struct request *));
    }
    snprintf(inbox, sizeof(inbox), "_INBOX.sim.%zu", s->n_requests);
    s->requests[s->n_requests++] = r;
    protobuf_c_message_pack(m, packed);
    if (from && s->now < from->cut_until_ms) {
        return;
    }
    bus_inject(s, from ? from->name : "client", subject, "", "", BYTES(packed, n), inbox);
}

/* A PubAck is not an fsync. */
void bus_power_loss(struct sim *s)
{
    int64_t from = s->now - sim_between(s, 0, 2000);
    size_t lost = 0;

    for (size_t i = 0; i < STREAM_N; i++) {
        struct js *js = &s->streams[i];
        while (js->n && js->v[js->n - 1].at_ms >= from) {
            payload_unref(js->v[--js->n].wire.payload);
            lost++;
        }
    }
    for (size_t i = 0; i < s->n_deliveries; i++) {
        struct delivery *d = s->deliveries[i];
        if (d->stored_ms >= from) {
            d->token++;
            d->acked = 1;
            d->acked_ms = 0;
        }
    }
    sim_trace(s, "bus", "fault: the server loses power, %zu messages are gone", lost);
}

/* ---- the server ------------------------------------------------------------------------------ */

/* It forgets which pulls were outstanding and what was acknowledged last. */
void bus_restart(struct sim *s)
{
    size_t again = 0;

    for (size_t i = 0; i < s->n_deliveries; i++) {
        struct delivery *d = s->deliveries[i];
        if (d->acked && s->now - d->acked_ms < 2000) {
            d->acked = 0;
            deliver_in(s, d, sim_between(s, 100, 3000));
            again++;
        }
    }
    sim_trace(s, "bus", "fault: the server restarts, %zu acks are forgotten", again);
}

void bus_drop(const struct event *ev)
{
    if (ev->fn == core_arrives) {
        struct core *c = ev->arg;
        payload_unref(c->wire.payload);
        free(c);
    } else if (ev->fn == puback_arrives || ev->fn == publish_arrives || ev->fn == publish_send) {
        publish_drop(ev->arg);
    } else if (ev->fn == reply_arrives) {
        payload_unref(ev->arg);
    }
}

void bus_done(struct sim *s)
{
    for (size_t i = 0; i < STREAM_N; i++) {
        for (size_t k = 0; k < s->streams[i].n; k++) {
            payload_unref(s->streams[i].v[k].wire.payload);
        }
        free(s->streams[i].v);
    }
    for (size_t i = 0; i < s->n_deliveries; i++) {
        payload_unref(s->deliveries[i]->wire.payload);
        free(s->deliveries[i]);
    }
    for (size_t i = 0; i < s->n_requests; i++) {
        free(s->requests[i]);
    }
    free(s->requests);
    free(s->deliveries);
}
