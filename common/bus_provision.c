/* Streams and durable consumers, made to be what proto/streams.def says. */
#include "common/bus_int.h"

#include "common/jcs.h"

#define API_TIMEOUT_MS 5000
#define API_REPLY_MAX_BYTES (256u * 1024)
#define NS_PER_S 1000000000LL
#define ACK_WAIT_S 30
#define MAX_ACK_PENDING 1024
#define JS_NOT_FOUND_STREAM 10059
#define JS_NOT_FOUND_CONSUMER 10014

struct api_wait {
    int done;
    json_t *reply;
    struct err why;
};

static void on_api(struct bytes body, const struct err *why, void *arg)
{
    struct api_wait *w = arg;

    w->done = 1;
    if (why) {
        w->why = *why;
    } else {
        (void)json_parse("JetStream reply", body, API_REPLY_MAX_BYTES, &w->reply, &w->why);
    }
}

/* One call. *ret_code is JetStream's err_code, 0 when the call worked. */
static int api(struct bus *b, const char *subject, const json_t *body, json_t **ret, int *ret_code,
               struct err *e)
{
    struct api_wait w = {0};
    _cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : xstrdup("");

    if (request_raw(b, subject, BYTES_STR(text), API_TIMEOUT_MS, on_api, &w, e) < 0) {
        return err_wrap(e, "%s", subject);
    }
    while (!w.done) {
        ev_run(b->loop, EVRUN_ONCE);
    }
    if (!w.reply) {
        const char *hint = b->stats.refused ? b->last_error.msg : "";
        return err_set(e, b->stats.refused ? ERR_DENIED : w.why.code, "%s: %s%s%s", subject,
                       w.why.msg, hint[0] ? "; " : "", hint);
    }
    json_t *error = json_object_get(w.reply, "error");
    *ret_code = error ? (int)json_integer_value(json_object_get(error, "err_code")) : 0;
    if (error && *ret_code == 0) {
        *ret_code = -1;
    }
    if (error) {
        err_set(e, ERR_IO, "%s: %s", subject,
                json_is_string(json_object_get(error, "description"))
                    ? json_string_value(json_object_get(error, "description"))
                    : "error");
    }
    *ret = w.reply;
    return 0;
}

/* Every member that was asked for must come back as it was asked: an old server ignores what it
 * does not know. Names the first that differs, or NULL. */
static const char *differs(const json_t *want, const json_t *got)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)want, key, v)
    {
        json_t *g = json_object_get(got, key);
        /* Zero and false may be left out. */
        int empty = (json_is_integer(v) && json_integer_value(v) == 0) || json_is_false(v);
        if (!(g ? json_equal(v, g) : empty)) {
            return key;
        }
    }
    return NULL;
}

static json_t *stream_subjects(int stream)
{
    json_t *a = json_array();

    for (int i = 0; i < SUBJ_N; i++) {
        char name[BUS_SUBJECT_MAX];
        if ((int)subjects[i].stream == stream) {
            snprintf(name, sizeof(name), "%s%s", subjects[i].name, subjects[i].key[0] ? ".*" : "");
            json_array_append_new(a, json_string(name));
        }
    }
    return a;
}

static size_t stream_max_msg(int stream)
{
    size_t n = 0;

    for (int i = 0; i < SUBJ_N; i++) {
        if ((int)subjects[i].stream == stream && subjects[i].max_bytes > n) {
            n = subjects[i].max_bytes;
        }
    }
    return n + 4096; /* headers */
}

static json_t *stream_config(int i)
{
    const struct stream_info *s = &streams[i];
    int work = s->retention == RETAIN_WORK;

    return json_pack("{s:s, s:o, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:i}", "name", s->name,
                     "subjects", stream_subjects(i), "retention", work ? "workqueue" : "limits",
                     "storage", "file", "discard", work ? "new" : "old", "max_age",
                     (json_int_t)(s->max_age_s * NS_PER_S), "max_bytes", (json_int_t)s->max_bytes,
                     "duplicate_window", (json_int_t)(s->duplicate_window_s * NS_PER_S),
                     "max_msg_size", (json_int_t)stream_max_msg(i), "num_replicas", 1);
}

static int provision_stream(struct bus *b, int i, struct err *e)
{
    _cleanup_json_ json_t *want = stream_config(i), *info = NULL, *reply = NULL;
    const char *name = streams[i].name;
    char subject[BUS_SUBJECT_MAX];
    int code;

    snprintf(subject, sizeof(subject), "$JS.API.STREAM.INFO.%s", name);
    if (api(b, subject, NULL, &info, &code, e) < 0 || (code && code != JS_NOT_FOUND_STREAM)) {
        return -1;
    }
    json_t *have = json_object_get(info, "config");
    if (code == 0 && !differs(want, have)) {
        return 0;
    }
    if (code == 0 &&
        !json_equal(json_object_get(want, "retention"), json_object_get(have, "retention"))) {
        return err_set(e, ERR_WRONG_STATE, "stream %s exists with another retention", name);
    }
    snprintf(subject, sizeof(subject), "$JS.API.STREAM.%s.%s", code ? "CREATE" : "UPDATE", name);
    if (api(b, subject, want, &reply, &code, e) < 0 || code) {
        return -1;
    }
    const char *key = differs(want, json_object_get(reply, "config"));
    return key ? err_set(e, ERR_UNSUPPORTED, "stream %s: the server ignored \"%s\"", name, key) : 0;
}

static int provision_durable(struct bus *b, const struct consumer_info *c,
                             const struct bus_durable *d, struct err *e)
{
    _cleanup_json_ json_t *want = NULL, *info = NULL, *reply = NULL, *body = NULL;
    const char *stream = streams[c->stream].name;
    const char *durable = d->name, *filter = d->filter;
    char subject[BUS_SUBJECT_MAX + 128];
    int code;

    want = json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:s}", "durable_name", durable,
                     "deliver_policy", "all", "ack_policy", "explicit", "ack_wait",
                     (json_int_t)(ACK_WAIT_S * NS_PER_S), "max_ack_pending", MAX_ACK_PENDING,
                     "max_deliver", -1, "replay_policy", "instant");
    if (filter[0]) {
        json_object_set_new(want, "filter_subject", json_string(filter));
    }
    snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.INFO.%.64s.%.127s", stream, durable);
    if (api(b, subject, NULL, &info, &code, e) < 0 || (code && code != JS_NOT_FOUND_CONSUMER)) {
        return -1;
    }
    if (code == 0) {
        json_t *have = json_object_get(info, "config");
        json_t *f = json_object_get(have, "filter_subject");
        if (!streq(f ? json_string_value(f) : "", filter)) {
            return err_set(e, ERR_WRONG_STATE, "consumer %s of %s exists with another filter",
                           durable, stream);
        }
        if (!differs(want, have)) {
            return 0;
        }
    }
    body = json_pack("{s:s, s:O}", "stream_name", stream, "config", want);
    snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.DURABLE.CREATE.%.64s.%.127s", stream,
             durable);
    if (api(b, subject, body, &reply, &code, e) < 0 || code) {
        return -1;
    }
    const char *key = differs(want, json_object_get(reply, "config"));
    return key ? err_set(e, ERR_UNSUPPORTED, "consumer %s: the server ignored \"%s\"", durable, key)
               : 0;
}

static int provision_consumer(struct bus *b, const struct consumer_info *c, const char *host,
                              struct err *e)
{
    struct bus_durable d[BUS_DURABLES_MAX];
    int n = bus_durables(c, host, d);

    if (n < 0) {
        return err_set(e, ERR_INVALID, "consumer %s: \"%.80s\" is no host name", c->durable,
                       host ? host : "");
    }
    for (int i = 0; i < n; i++) {
        if (provision_durable(b, c, &d[i], e) < 0) {
            return -1;
        }
    }
    return 0;
}

static void on_admin_event(struct bus *b, enum bus_event ev, const struct err *e, void *arg)
{
    (void)arg;
    if (ev == BUS_REFUSED) {
        b->last_error = *e;
    }
}

static int provision_all(struct bus *b, const char *const *hosts, size_t n_hosts, struct err *e)
{
    for (int i = 0; i < STREAM_N; i++) {
        if (provision_stream(b, i, e) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < n_consumers; i++) {
        const struct consumer_info *c = &consumers[i];
        for (size_t h = 0; h < (c->per_host ? n_hosts : 1); h++) {
            if (provision_consumer(b, c, c->per_host ? hosts[h] : NULL, e) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

int bus_provision(const struct bus_opts *admin, const char *const *hosts, size_t n_hosts,
                  struct err *e)
{
    struct bus_opts o = *admin;
    struct bus *b = NULL;

    o.admin = 1;
    o.on_event = on_admin_event;
    o.on_msg = NULL;
    o.on_puback = NULL;
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOSIGMASK);
    if (!loop) {
        return err_set(e, ERR_IO, "no event loop");
    }
    int r = bus_new(&o, loop, &b, e);
    r = r < 0 ? r : bus_wait_connected(b, 10000, e);
    r = r < 0 ? r : provision_all(b, hosts, n_hosts, e);
    bus_free(b);
    ev_loop_destroy(loop);
    return r;
}
