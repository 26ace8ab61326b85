/* JetStream by its wire API: the library's own calls block, which a loop cannot. */
#include "common/bus_int.h"

#define RETRY_FIRST_S 0.5
#define RETRY_MAX_S 10.0
#define JS_TICK_S 0.5
#define PROBE_FIRST_S 2.0
#define PROBE_MAX_S 30.0
#define BATCH_BYTES (8u << 20)
#define BATCH_MIN 8
#define BATCH_MAX 256

/* ---- durable publishes ------------------------------------------------------------------------
 */

size_t bus_room(const struct bus *b)
{
    return b->window_bytes < BUS_WINDOW_BYTES ? b->n_free : 0;
}

size_t bus_in_flight(const struct bus *b)
{
    return BUS_WINDOW - b->n_free;
}

static void slot_free(struct bus *b, size_t i)
{
    struct slot *s = &b->slots[i];

    natsMsg_Destroy(TAKE_PTR(s->msg));
    b->window_bytes -= s->bytes;
    s->tag = 0;
    s->request = -1;
    b->free_slots[b->n_free++] = (uint16_t)i;
    if (b->n_free == BUS_WINDOW) {
        ev_timer_stop(b->loop, &b->js_timer);
    }
}

static void slot_send(struct bus *b, struct slot *s)
{
    s->due = ev_now(b->loop) + BUS_PUBACK_TIMEOUT_MS / 1000.0;
    /* A failure means that the connection is going: it is sent again on the next one. */
    (void)conn_publish(b, s->msg, NULL);
}

static int find_tag(const struct bus *b, int64_t tag)
{
    for (int i = 0; i < BUS_WINDOW; i++) {
        if (b->slots[i].msg && b->slots[i].tag == tag) {
            return 1;
        }
    }
    return 0;
}

int js_publish(struct bus *b, const struct bus_out *o, int64_t tag, int request, struct err *e)
{
    char reply[BUS_SUBJECT_MAX];

    if (!o->msg_id || !bus_msg_id_ok(o->msg_id)) {
        return err_set(e, ERR_INVALID, "%s: a durable message needs an id of [A-Za-z0-9._-]",
                       o->subject);
    }
    if (tag > 0 && find_tag(b, tag)) {
        return 0;
    }
    if (bus_room(b) == 0) {
        return err_set(e, ERR_BUSY, "%d durable messages are without acknowledgement", BUS_WINDOW);
    }
    size_t i = b->free_slots[b->n_free - 1];
    struct slot *s = &b->slots[i];
    uint32_t gen = b->next_gen++;
    natsMsg *msg = NULL;
    snprintf(reply, sizeof(reply), "%s.p.%zu.%u", b->inbox, i, gen);
    if (out_msg(o, reply, &msg, e) < 0) {
        return -1;
    }
    b->n_free--;
    *s = (struct slot){
        .msg = msg, .tag = tag, .gen = gen, .bytes = o->payload.n, .request = request};
    b->window_bytes += s->bytes;
    if (!ev_is_active(&b->js_timer)) {
        ev_now_update(b->loop);
        ev_timer_again(b->loop, &b->js_timer);
    }
    slot_send(b, s);
    return 0;
}

int bus_publish_durable(struct bus *b, const struct bus_out *o, int64_t tag, struct err *e)
{
    return js_publish(b, o, tag, -1, e);
}

/* The stream will not take it now; later it may. */
static void slot_hold(struct bus *b, struct slot *s, const char *why)
{
    double wait = RETRY_FIRST_S * (double)(1u << (s->tries < 5 ? s->tries : 5));

    s->tries++;
    s->due = ev_now(b->loop) + (wait < RETRY_MAX_S ? wait : RETRY_MAX_S);
    if (!b->backpressure) {
        struct err e = {0};
        b->backpressure = 1;
        err_set(&e, ERR_BUSY, "%s is not taken: %s; it is being held back and tried again",
                natsMsg_GetSubject(s->msg), why);
        bus_event(b, BUS_BACKPRESSURE, &e);
    }
}

static void slot_finish(struct bus *b, size_t i, int duplicate, const struct err *why)
{
    int64_t tag = b->slots[i].tag;
    int request = b->slots[i].request;

    if (!why) {
        b->backpressure = 0;
    }
    slot_free(b, i);
    if (request >= 0) {
        request_stored(b, request, duplicate, why);
    } else if (b->o.on_puback) {
        b->o.on_puback(b, tag, why, b->o.arg);
    }
}

/* Reads "<inbox>.x.<index>.<gen>". */
static int inbox_index(const struct bus *b, const char *subject, uint32_t max, uint32_t *ret_i,
                       uint32_t *ret_gen)
{
    size_t n = strlen(b->inbox) + 3; /* ".p." */
    char index[16];

    if (strlen(subject) <= n) {
        return -1;
    }
    const char *s = subject + n;
    size_t len = strcspn(s, ".");
    if (len >= sizeof(index) || s[len] != '.') {
        return -1;
    }
    memcpy(index, s, len);
    index[len] = '\0';
    return bus_number(index, max, ret_i) < 0 ? -1 : bus_number(s + len + 1, UINT32_MAX, ret_gen);
}

void js_puback(struct bus *b, natsMsg *msg)
{
    uint32_t i, gen;
    struct puback a = {0};
    struct err e = {0};

    if (inbox_index(b, natsMsg_GetSubject(msg), BUS_WINDOW - 1, &i, &gen) < 0 || !b->slots[i].msg ||
        b->slots[i].gen != gen) {
        return; /* of one that was answered before */
    }
    struct slot *s = &b->slots[i];
    struct bytes body = BYTES(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg));
    if (bus_parse_puback(body, &a, &e) < 0) {
        slot_hold(b, s, e.msg);
        return;
    }
    if (a.code == 0) {
        slot_finish(b, i, a.duplicate, NULL);
    } else if (puback_is_transient(&a)) {
        slot_hold(b, s, a.text);
    } else {
        err_set(&e, ERR_DENIED, "the stream refuses %s: %d/%d %s", natsMsg_GetSubject(s->msg),
                a.code, a.err_code, a.text);
        slot_finish(b, i, 0, &e);
    }
}

void js_nobody(struct bus *b)
{
    struct err e = {0};

    /* Which one is not known; all are sent again when their time is over. */
    if (!b->backpressure) {
        b->backpressure = 1;
        err_set(&e, ERR_BUSY, "no stream stores a durable message: is JetStream provisioned?");
        bus_event(b, BUS_BACKPRESSURE, &e);
    }
}

static void on_js_tick(struct ev_loop *loop, ev_timer *w, int events)
{
    struct bus *b = w->data;

    (void)events;
    if (!b->nc) {
        return;
    }
    for (size_t i = 0; i < BUS_WINDOW; i++) {
        struct slot *s = &b->slots[i];
        if (s->msg && s->due <= ev_now(loop)) {
            b->stats.resent++;
            slot_send(b, s);
        }
    }
}

/* ---- pulls -------------------------------------------------------------------------------------
 */

int bus_durables(const struct consumer_info *c, const char *host,
                 struct bus_durable ret[BUS_DURABLES_MAX])
{
    int n = 0;

    if (!c->per_host) {
        snprintf(ret[0].name, sizeof(ret[0].name), "%s", c->durable);
        ret[0].filter[0] = '\0';
        return 1;
    }
    if (!host || !bus_token_ok(host)) {
        return -1;
    }
    for (int i = 0; i < SUBJ_N; i++) {
        const struct subject_info *s = &subjects[i];
        if (s->stream != c->stream) {
            continue;
        }
        if (n == BUS_DURABLES_MAX || !streq(s->key, "host")) {
            return -1;
        }
        snprintf(ret[n].name, sizeof(ret[n].name), "%.40s-%.16s-%s", c->durable,
                 strrchr(s->name, '.') + 1, host);
        snprintf(ret[n].filter, sizeof(ret[n].filter), "%.100s.%s", s->name, host);
        n++;
    }
    return n;
}

static void pull_more(struct pull *p)
{
    struct bus *b = p->bus;
    char subject[BUS_SUBJECT_MAX], reply[BUS_SUBJECT_MAX], body[128];

    /* Half of a batch left is the time to ask: the line never runs dry, and requests stay few. */
    if (!b->nc || b->paused || p->credit > p->batch / 2) {
        return;
    }
    size_t want = p->batch - p->credit;
    snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.MSG.NEXT.%s.%s",
             streams[p->consumer->stream].name, p->durable);
    snprintf(reply, sizeof(reply), "%s.f%d.%u", b->inbox, (int)(p - b->pulls), p->next_id++);
    if (p->alive) {
        snprintf(body, sizeof(body), "{\"batch\":%zu,\"expires\":%lld,\"idle_heartbeat\":%lld}",
                 want, BUS_PULL_EXPIRES_MS * 1000000LL, BUS_PULL_HEARTBEAT_MS * 1000000LL);
    } else {
        /* A pull on a consumer that does not exist gets no answer at all from nats-server 2.9: the
         * first one is short, so that its expiry proves the consumer soon. */
        snprintf(body, sizeof(body), "{\"batch\":%zu,\"expires\":%lld}", want,
                 (long long)(PROBE_FIRST_S * 1e9));
    }
    if (conn_publish_text(b, subject, reply, body, strlen(body)) == 0) {
        p->credit += want;
    }
}

static double pull_patience_s(const struct pull *p)
{
    return p->alive ? (2.0 * BUS_PULL_HEARTBEAT_MS + 5000) / 1000.0 : p->probe_s + 1.0;
}

static void pull_watch(struct pull *p, double in_s)
{
    ev_timer_stop(p->bus->loop, &p->timer);
    ev_timer_set(&p->timer, in_s > 0.01 ? in_s : 0.01, 0);
    ev_timer_start(p->bus->loop, &p->timer);
}

static void on_pull_timer(struct ev_loop *loop, ev_timer *w, int events)
{
    struct pull *p = w->data;
    struct bus *b = p->bus;
    double quiet = ev_now(loop) - p->heard;

    (void)events;
    if (!b->nc) {
        return;
    }
    /* Only what was asked for can be missing. */
    if (p->credit == 0 || quiet < pull_patience_s(p)) {
        pull_watch(p, pull_patience_s(p) - (p->credit ? quiet : 0));
        return;
    }
    if (!p->silent) {
        struct err e = {0};
        p->silent = 1;
        err_set(&e, ERR_NOT_FOUND, "consumer %s of stream %s does not answer: is it provisioned?",
                p->durable, streams[p->consumer->stream].name);
        bus_event(b, BUS_CONSUMER_SILENT, &e);
    }
    p->probe_s = p->alive ? PROBE_FIRST_S : p->probe_s * 2;
    p->probe_s = p->probe_s > PROBE_MAX_S ? PROBE_MAX_S : p->probe_s;
    p->alive = 0;
    p->credit = 0;
    p->heard = ev_now(loop);
    pull_more(p);
    pull_watch(p, pull_patience_s(p));
}

static void pull_alive(struct pull *p)
{
    p->heard = ev_now(p->bus->loop);
    if (!p->alive) {
        p->alive = 1;
        p->silent = 0;
        pull_watch(p, pull_patience_s(p));
    }
}

/* 100 idle heartbeat, 404 nothing there, 408 expired, 409 consumer deleted or limits, 400 bad. */
static void pull_status(struct pull *p, natsMsg *msg, const char *status)
{
    uint32_t pending;

    if (streq(status, "503")) {
        return; /* JetStream is not there: the timer asks again */
    }
    if (streq(status, "409") && strstr(msg_header(msg, "Description"), "Deleted")) {
        p->alive = 0;
        p->credit = 0;
        p->heard = ev_now(p->bus->loop);
        p->probe_s = PROBE_FIRST_S;
        pull_watch(p, PROBE_FIRST_S);
        return;
    }
    pull_alive(p);
    if (streq(status, "100")) {
        return;
    }
    /* What this one request had left; without the header all of it is taken to be gone. */
    if (bus_number(msg_header(msg, "Nats-Pending-Messages"), UINT32_MAX, &pending) < 0 ||
        pending > p->credit) {
        p->credit = 0;
    } else {
        p->credit -= pending;
    }
    if (!streq(status, "400")) {
        pull_more(p);
    }
}

void js_pulled(struct bus *b, struct pull *p, natsMsg *msg)
{
    const char *reply = natsMsg_GetReply(msg);
    const char *status = msg_header(msg, "Status");

    if ((!reply || !reply[0]) && status[0]) {
        pull_status(p, msg, status);
        natsMsg_Destroy(msg);
        return;
    }
    pull_alive(p);
    if (p->credit > 0) {
        p->credit--;
    }
    struct bus_msg *m = msg_accept(b, msg, p);
    if (m && b->o.on_msg) {
        b->o.on_msg(b, m, b->o.arg);
    } else {
        bus_msg_free(m);
    }
    pull_more(p);
}

static int add_pull(struct bus *b, const struct consumer_info *c, const char *durable,
                    struct err *e)
{
    char subject[BUS_SUBJECT_MAX];
    size_t largest = 1;

    if (b->n_pulls == BUS_PULLS_MAX) {
        return err_set(e, ERR_BUSY, "more than %d consumers", BUS_PULLS_MAX);
    }
    struct pull *p = &b->pulls[b->n_pulls];
    *p = (struct pull){.bus = b, .consumer = c, .probe_s = PROBE_FIRST_S};
    snprintf(p->durable, sizeof(p->durable), "%.127s", durable);
    for (int i = 0; i < SUBJ_N; i++) {
        if (subjects[i].stream == c->stream && subjects[i].max_bytes > largest) {
            largest = subjects[i].max_bytes;
        }
    }
    p->batch = BATCH_BYTES / largest;
    p->batch = p->batch < BATCH_MIN ? BATCH_MIN : p->batch > BATCH_MAX ? BATCH_MAX : p->batch;
    ev_timer_init(&p->timer, on_pull_timer, 0, 0);
    p->timer.data = p;
    snprintf(subject, sizeof(subject), "%s.f%zu.*", b->inbox, b->n_pulls);
    if (sub_add(b, SUB_PULL, subject, NULL, (int)b->n_pulls, e) < 0) {
        return -1;
    }
    b->n_pulls++;
    if (b->nc) {
        p->heard = ev_now(b->loop);
        pull_more(p);
        pull_watch(p, pull_patience_s(p));
    }
    return 0;
}

int js_add_pull(struct bus *b, const struct consumer_info *c, struct err *e)
{
    struct bus_durable d[BUS_DURABLES_MAX];
    int n = bus_durables(c, b->host, d);

    if (n < 0) {
        return err_set(e, ERR_INVALID, "consumer %s is per host: option host is missing or bad",
                       c->durable);
    }
    for (int i = 0; i < n; i++) {
        if (add_pull(b, c, d[i].name, e) < 0) {
            return -1;
        }
    }
    return 0;
}

void bus_pause(struct bus *b, int paused)
{
    int resumed = b->paused && !paused;

    b->paused = paused;
    for (size_t i = 0; resumed && i < b->n_pulls; i++) {
        pull_more(&b->pulls[i]);
    }
}

/* ---- settling ----------------------------------------------------------------------------------
 */

static void settle(struct bus *b, const struct bus_msg *m, const char *how)
{
    if (m->durable) {
        (void)conn_publish_text(b, natsMsg_GetReply(m->priv), NULL, how, strlen(how));
    }
}

void bus_ack(struct bus *b, const struct bus_msg *m)
{
    settle(b, m, "+ACK");
}

void bus_nak(struct bus *b, const struct bus_msg *m, int delay_ms)
{
    char how[64];

    snprintf(how, sizeof(how), "-NAK {\"delay\": %lld}", delay_ms * 1000000LL);
    settle(b, m, how);
}

void bus_term(struct bus *b, const struct bus_msg *m)
{
    settle(b, m, "+TERM");
}

/* ---- life
 * ---------------------------------------------------------------------------------------- */

void js_init(struct bus *b)
{
    for (size_t i = 0; i < BUS_WINDOW; i++) {
        b->slots[i].request = -1;
        b->free_slots[i] = (uint16_t)(BUS_WINDOW - 1 - i);
    }
    b->n_free = BUS_WINDOW;
    ev_timer_init(&b->js_timer, on_js_tick, JS_TICK_S, JS_TICK_S);
    b->js_timer.data = b;
}

void js_done(struct bus *b)
{
    for (size_t i = 0; i < BUS_WINDOW; i++) {
        natsMsg_Destroy(TAKE_PTR(b->slots[i].msg));
    }
    ev_timer_stop(b->loop, &b->js_timer);
    for (size_t i = 0; i < b->n_pulls; i++) {
        ev_timer_stop(b->loop, &b->pulls[i].timer);
    }
}

void js_connected(struct bus *b)
{
    for (size_t i = 0; i < b->n_pulls; i++) {
        struct pull *p = &b->pulls[i];
        p->alive = 0;
        p->credit = 0;
        p->probe_s = PROBE_FIRST_S;
        p->heard = ev_now(b->loop);
        pull_more(p);
        pull_watch(p, pull_patience_s(p));
    }
    /* What the old connection swallowed is not known: everything unanswered goes out again. */
    for (size_t i = 0; i < BUS_WINDOW; i++) {
        if (b->slots[i].msg) {
            b->stats.resent++;
            slot_send(b, &b->slots[i]);
        }
    }
}

void js_lost(struct bus *b)
{
    for (size_t i = 0; i < b->n_pulls; i++) {
        b->pulls[i].credit = 0;
        ev_timer_stop(b->loop, &b->pulls[i].timer);
    }
}
