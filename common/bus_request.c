/* Requests and their replies, and the helpers that wait for them. */
#include "common/bus_int.h"

static void request_free(struct request *r)
{
    ev_timer_stop(r->bus->loop, &r->timer);
    r->used = 0;
}

/* Tells the asker; frees first, because the callback may ask again. */
static void finish(struct request *r, const Coffer__V1__Reply *reply, const struct err *why)
{
    bus_reply_fn fn = r->fn;

    request_free(r);
    if (fn) {
        fn(r->bus, reply, why, r->arg);
    }
}

static void finish_raw(struct request *r, struct bytes body, const struct err *why)
{
    request_free(r);
    if (r->raw_fn) {
        r->raw_fn(body, why, r->arg);
    }
}

static void fail(struct request *r, const struct err *why)
{
    if (r->raw) {
        finish_raw(r, BYTES(NULL, 0), why);
    } else {
        finish(r, NULL, why);
    }
}

static void on_timeout(struct ev_loop *loop, ev_timer *w, int events)
{
    struct request *r = w->data;
    struct err e = {0};

    (void)loop;
    (void)events;
    err_set(&e, ERR_TIMEOUT, "no answer in time");
    fail(r, &e);
}

static struct request *request_new(struct bus *b, int timeout_ms, struct err *e)
{
    for (int i = 0; i < BUS_REQUESTS_MAX; i++) {
        struct request *r = &b->requests[i];
        if (r->used) {
            continue;
        }
        if (!r->subscribed) {
            char name[BUS_SUBJECT_MAX];
            snprintf(name, sizeof(name), "%s.r.%d.*", b->inbox, i);
            if (sub_add(b, SUB_REPLY, name, NULL, i, e) < 0) {
                return NULL;
            }
        }
        *r = (struct request){.bus = b, .used = 1, .subscribed = 1, .gen = b->next_gen++};
        ev_now_update(b->loop);
        ev_timer_init(&r->timer, on_timeout, timeout_ms / 1000.0, 0);
        r->timer.data = r;
        ev_timer_start(b->loop, &r->timer);
        return r;
    }
    err_set(e, ERR_BUSY, "more than %d requests at once", BUS_REQUESTS_MAX);
    return NULL;
}

static void reply_subject(const struct request *r, char out[BUS_SUBJECT_MAX])
{
    snprintf(out, BUS_SUBJECT_MAX, "%s.r.%d.%u", r->bus->inbox, (int)(r - r->bus->requests),
             r->gen);
}

static int send_request(struct request *r, const char *subject, struct bytes body, struct err *e)
{
    char reply[BUS_SUBJECT_MAX];
    struct bus_out o = {.subject = subject, .payload = body};
    natsMsg *msg = NULL;

    reply_subject(r, reply);
    if (out_msg(&o, reply, &msg, e) < 0) {
        return -1;
    }
    int rc = conn_publish(r->bus, msg, e);
    natsMsg_Destroy(msg);
    return rc;
}

int bus_request_async(struct bus *b, enum subject s, const char *key, const ProtobufCMessage *m,
                      int timeout_ms, bus_reply_fn fn, void *arg, struct err *e)
{
    _cleanup_buf_ struct buf body = BUF_INIT(0);
    char name[BUS_SUBJECT_MAX];

    if (may_publish(b, s, e) < 0 || pack_checked(s, m, &body, e) < 0) {
        return -1;
    }
    if (subjects[s].style != STYLE_REQUEST || subject_format(s, key, name, sizeof(name)) < 0) {
        return err_set(e, ERR_INVALID, "%s is no request, or its key is wrong", subjects[s].name);
    }
    struct request *r = request_new(b, timeout_ms, e);
    if (!r) {
        return -1;
    }
    if (send_request(r, name, buf_bytes(&body), e) < 0) {
        request_free(r);
        return -1;
    }
    r->fn = fn;
    r->arg = arg;
    return 0;
}

int request_raw(struct bus *b, const char *subject, struct bytes body, int timeout_ms,
                void (*fn)(struct bytes, const struct err *, void *), void *arg, struct err *e)
{
    struct request *r = request_new(b, timeout_ms, e);

    if (!r) {
        return -1;
    }
    if (send_request(r, subject, body, e) < 0) {
        request_free(r);
        return -1;
    }
    r->raw = 1;
    r->raw_fn = fn;
    r->arg = arg;
    return 0;
}

void request_reply(struct bus *b, natsMsg *msg)
{
    size_t skip = strlen(b->inbox) + 3; /* ".r." */
    const char *s = natsMsg_GetSubject(msg);
    char index[16];
    uint32_t i, gen;
    struct err e = {0};

    size_t len = strlen(s) > skip ? strcspn(s + skip, ".") : 0;
    if (len == 0 || len >= sizeof(index) || s[skip + len] != '.') {
        return;
    }
    memcpy(index, s + skip, len);
    index[len] = '\0';
    if (bus_number(index, BUS_REQUESTS_MAX - 1, &i) < 0 ||
        bus_number(s + skip + len + 1, UINT32_MAX, &gen) < 0) {
        return;
    }
    struct request *r = &b->requests[i];
    if (!r->used || r->gen != gen) {
        return; /* too late */
    }
    b->stats.in++;
    struct bytes body = BYTES(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg));
    if (body.n > BUS_REPLY_MAX_BYTES) {
        b->stats.too_large++;
        b->stats.dropped++;
        err_set(&e, ERR_TOO_LARGE, "reply of %zu bytes, at most %u", body.n, BUS_REPLY_MAX_BYTES);
        fail(r, &e);
        return;
    }
    if (r->raw) {
        finish_raw(r, body, NULL);
        return;
    }
    Coffer__V1__Reply *reply = coffer__v1__reply__unpack(NULL, body.n, body.p);
    if (!reply || reply->body_case == COFFER__V1__REPLY__BODY__NOT_SET) {
        err_set(&e, ERR_INVALID, "the reply is no coffer.v1.Reply (%zu bytes)", body.n);
        finish(r, NULL, &e);
    } else {
        finish(r, reply, NULL);
    }
    if (reply) {
        coffer__v1__reply__free_unpacked(reply, NULL);
    }
}

void request_nobody(struct bus *b, int index)
{
    struct err e = {0};

    if (b->requests[index].used && !b->requests[index].durable) {
        err_set(&e, ERR_BUSY, "nobody answers this request now: is the service running?");
        fail(&b->requests[index], &e);
    }
}

void request_lost(struct bus *b)
{
    struct err e = {0};

    err_set(&e, ERR_IO, "the connection was lost while waiting; it may have been handled");
    for (int i = 0; i < BUS_REQUESTS_MAX; i++) {
        if (b->requests[i].used && !b->requests[i].durable) {
            fail(&b->requests[i], &e);
        }
    }
}

void request_done_all(struct bus *b)
{
    for (int i = 0; i < BUS_REQUESTS_MAX; i++) {
        if (b->requests[i].used) {
            request_free(&b->requests[i]);
        }
    }
}

/* ---- waiting
 * ------------------------------------------------------------------------------------- */

struct waiter {
    int done, failed;
    int stored, duplicate;
    Coffer__V1__Reply *reply;
    struct err why;
};

/* The callback's reply is borrowed, so a waiter keeps a copy. */
static void on_waited(struct bus *b, const Coffer__V1__Reply *r, const struct err *why, void *arg)
{
    struct waiter *w = arg;

    (void)b;
    w->done = 1;
    if (r) {
        size_t n = coffer__v1__reply__get_packed_size(r);
        _cleanup_free_ uint8_t *packed = xmalloc(n ? n : 1);
        coffer__v1__reply__pack(r, packed);
        w->reply = coffer__v1__reply__unpack(NULL, n, packed);
    }
    if (!w->reply) {
        w->failed = 1;
        if (why) {
            w->why = *why;
        } else {
            err_set(&w->why, ERR_INTERNAL, "cannot copy a reply");
        }
    }
}

static int may_wait(const struct bus *b, struct err *e)
{
    return b->in_callback ? err_set(e, ERR_INTERNAL, "cannot wait inside a callback of the bus")
                          : 0;
}

int bus_request(struct bus *b, enum subject s, const char *key, const ProtobufCMessage *m,
                int timeout_ms, Coffer__V1__Reply **ret, struct err *e)
{
    struct waiter w = {0};

    if (may_wait(b, e) < 0) {
        return -1;
    }
    ev_now_update(b->loop);
    double until = ev_now(b->loop) + timeout_ms / 1000.0;
    if (bus_wait_connected(b, timeout_ms, e) < 0) {
        return -1;
    }
    int left_ms = (int)((until - ev_now(b->loop)) * 1000);
    if (bus_request_async(b, s, key, m, left_ms > 1 ? left_ms : 1, on_waited, &w, e) < 0) {
        return -1;
    }
    while (!w.done) {
        ev_run(b->loop, EVRUN_ONCE);
    }
    if (w.failed) {
        if (e) {
            *e = w.why;
        }
        return err_wrap(e, "%s", subjects[s].name);
    }
    *ret = w.reply;
    return 0;
}

void request_stored(struct bus *b, int index, int duplicate, const struct err *why)
{
    struct request *r = &b->requests[index];

    if (!r->used || !r->durable) {
        return;
    }
    struct waiter *w = r->arg;
    if (why) {
        finish(r, NULL, why);
        return;
    }
    w->stored = 1;
    /* The stream drops a repeated id, so nobody will answer. */
    if (duplicate) {
        struct err e = {0};
        err_set(&e, ERR_TIMEOUT, "stored before");
        finish(r, NULL, &e);
    }
}

/* Lets go of a publish that nobody waits for any more. */
static void forget_publish(struct bus *b, int request)
{
    for (size_t i = 0; i < BUS_WINDOW; i++) {
        if (b->slots[i].msg && b->slots[i].request == request) {
            b->slots[i].request = -1;
            b->slots[i].tag = 0;
        }
    }
}

int bus_schedule(struct bus *b, enum subject s, const char *key, const char *msg_id,
                 const ProtobufCMessage *m, const char *traceparent, int timeout_ms,
                 Coffer__V1__Reply **ret, struct err *e)
{
    _cleanup_buf_ struct buf body = BUF_INIT(0);
    char name[BUS_SUBJECT_MAX], reply[BUS_SUBJECT_MAX];
    struct waiter w = {0};

    if (may_wait(b, e) < 0 || may_publish(b, s, e) < 0 || pack_checked(s, m, &body, e) < 0) {
        return -1;
    }
    if (subjects[s].style != STYLE_DURABLE || subject_format(s, key, name, sizeof(name)) < 0) {
        return err_set(e, ERR_INVALID, "%s is not durable, or its key is wrong", subjects[s].name);
    }
    bus_start(b);
    struct request *r = request_new(b, timeout_ms, e);
    if (!r) {
        return -1;
    }
    int index = (int)(r - b->requests);
    reply_subject(r, reply);
    r->durable = 1;
    r->fn = on_waited;
    r->arg = &w;
    struct bus_out o = {.subject = name,
                        .payload = buf_bytes(&body),
                        .msg_id = msg_id,
                        .traceparent = traceparent,
                        .reply_to = reply};
    if (js_publish(b, &o, 0, index, e) < 0) {
        request_free(r);
        return -1;
    }
    while (!w.done) {
        ev_run(b->loop, EVRUN_ONCE);
    }
    forget_publish(b, index);
    if (!w.failed || (w.stored && w.why.code == ERR_TIMEOUT)) {
        *ret = w.reply;
        return 0;
    }
    if (e) {
        *e = w.why;
    }
    return err_wrap(e, "%s%s%s", subjects[s].name,
                    b->nc ? "" : " (not connected: ", b->nc ? "" : b->last_error.msg);
}
