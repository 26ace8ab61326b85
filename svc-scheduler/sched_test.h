/* What the scheduler's tests share: a scheduler in memory under a clock of their own, signed specs,
 * and what left after each commit. */
#ifndef COFFER_SCHED_TEST_H
#define COFFER_SCHED_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-scheduler/scheduler.h"

#define T0 1700000000000ll
#define MAX_SENT 4096

struct sent {
    int is_reply;
    enum subject subject;
    char key[80];
    char msg_id[128];
    ProtobufCMessage *m;
};

struct fix {
    struct engine *g;
    struct config *c;
    const char *path;
    int64_t now;
    struct jkey *consumer;
    struct sent sent[MAX_SENT];
    size_t n_sent;
    unsigned next_id;
    struct err why; /* of the last message */
};

static inline int64_t fix_clock(void *arg)
{
    return ((struct fix *)arg)->now;
}

static inline void fix_open(struct fix *f)
{
    struct engine_opts o = {.db_path = f->path, .clock = fix_clock, .clock_arg = f, .config = f->c};
    struct err e = {0};

    if (engine_open(&scheduler_service, &o, &f->g, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

/* Settings: name, value, ..., NULL as config_make takes them; `path` ":memory:" or a file. */
#define fix_new(path_, ...)                                                                        \
    fix_make(path_, config_make(scheduler_service.config, scheduler_service.n_config, __VA_ARGS__))

static inline struct fix *fix_make(const char *path, struct config *c)
{
    struct fix *f = xcalloc(1, sizeof(*f));
    struct err e;

    f->c = c;
    f->path = path;
    f->now = T0;
    assert_int_equal(jkey_generate(&f->consumer, &e), 0);
    fix_open(f);
    return f;
}

static inline void fix_forget(struct fix *f)
{
    for (size_t i = 0; i < f->n_sent; i++) {
        protobuf_c_message_free_unpacked(f->sent[i].m, NULL);
    }
    f->n_sent = 0;
}

static inline void fix_free(struct fix *f)
{
    fix_forget(f);
    engine_close(f->g);
    config_free(f->c);
    jkey_free(f->consumer);
    free(f);
}

static inline void fix_collect(struct fix *f)
{
    struct outgoing o;

    while (engine_next_out(f->g, &o)) {
        assert_true(f->n_sent < MAX_SENT);
        struct sent *x = &f->sent[f->n_sent++];
        const char *key = "";
        memset(x, 0, sizeof(*x));
        x->is_reply = o.is_reply;
        const ProtobufCMessageDescriptor *d = &coffer__v1__reply__descriptor;
        if (!o.is_reply) {
            assert_int_equal(subject_parse(o.subject, &x->subject, &key), 0);
            d = subjects[x->subject].message;
        }
        snprintf(x->key, sizeof(x->key), "%s", key);
        snprintf(x->msg_id, sizeof(x->msg_id), "%s", o.msg_id);
        x->m = protobuf_c_message_unpack(d, NULL, o.payload.n, o.payload.p);
        assert_non_null(x->m);
        if (o.outbox_id) {
            engine_published(f->g, o.outbox_id);
        }
    }
}

static inline void fix_commit(struct fix *f)
{
    struct err e = {0};

    if (engine_commit(f->g, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    fix_collect(f);
}

/* Handles one message in its own transaction. Forgets what was sent before when `fresh`. */
static inline enum disposition fix_handle(struct fix *f, enum subject s, const char *key,
                                          const ProtobufCMessage *m, const char *msg_id)
{
    _cleanup_free_ uint8_t *p = xmalloc(protobuf_c_message_get_packed_size(m) + 1);
    size_t n = protobuf_c_message_pack(m, p);
    struct msg msg = {.subject = s,
                      .key = key,
                      .payload = BYTES(p, n),
                      .msg_id = msg_id,
                      .reply_to = subjects[s].style == STYLE_FACT ? "" : "_INBOX.test",
                      .traceparent = "",
                      .deliveries = 1};
    enum disposition d = DISP_ACK;
    struct err e = {0};
    int delay = 0;

    err_clear(&f->why);
    if (engine_begin(f->g, &e) < 0 || engine_handle(f->g, &msg, &d, &delay, &f->why, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    fix_commit(f);
    return d;
}

static inline void fix_tick(struct fix *f)
{
    struct err e = {0};

    for (int i = 0; i < 64; i++) {
        if (engine_begin(f->g, &e) < 0 || engine_tick(f->g, &e) < 0) {
            fail_msg("%s", e.msg);
        }
        fix_commit(f);
        if (engine_next_tick_ms(f->g) > f->now) {
            return;
        }
    }
    fail_msg("the tick never gets done");
}

/* Lets time pass in steps, as a loop around the service would. */
static inline void fix_pass(struct fix *f, int64_t ms)
{
    int64_t end = f->now + ms;

    for (;;) {
        int64_t next = engine_next_tick_ms(f->g);
        if (next > end) {
            break;
        }
        f->now = next > f->now ? next : f->now;
        fix_tick(f);
    }
    f->now = end;
}

/* ---- messages -------------------------------------------------------------------------------- */

struct want {
    const char *mode, *types; /* types as a JSON list */
    int cpu, attempts;
    int64_t memory;
};

static inline char *fix_spec(struct fix *f, const struct want *w)
{
    _cleanup_json_ json_t *jwk = jkey_public_jwk(f->consumer);
    _cleanup_free_ char *recipient = json_dumps(jwk, JSON_COMPACT | JSON_SORT_KEYS);
    _cleanup_json_ json_t *j = NULL;
    _cleanup_spec_ struct spec *spec = NULL;
    struct err e = {0};
    char *jws = NULL;

    _cleanup_free_ char *text = xasprintf(
        "{\"apiVersion\":\"coffer/v1\",\"kind\":\"Job\",\"metadata\":{\"name\":\"test\","
        "\"nonce\":\"nonce-%020u\"},\"workload\":{\"image\":\"sha256:"
        "abababababababababababababababababababababababababababababababab\",\"encrypted\":false,"
        "\"imageKeys\":[],\"args\":[],\"env\":{},\"workdir\":\"/work\"},\"datasets\":[{\"id\":"
        "\"patients.abcdefghijklmnopqrstuvwxyz\",\"mount\":\"/data/patients\"}],"
        "\"tee\":{\"mode\":\"%s\",\"types\":%s},\"resources\":{\"cpuMillis\":%d,\"memoryBytes\":%"
        "lld,"
        "\"pids\":32,\"tmpBytes\":0,\"scratchBytes\":0,\"lockMemory\":false,"
        "\"hugepages\":\"none\",\"numaNode\":-1,\"cpuPinning\":false},\"timeoutMs\":60000,"
        "\"attempts\":%d,\"network\":\"none\","
        "\"output\":{\"path\":\"/output\",\"maxBytes\":65536,\"files\":[{\"path\":\"a.csv\","
        "\"type\":\"text/csv\"}],\"recipients\":[%s]},\"gate\":{\"holdAt\":20,\"rejectAt\":60,"
        "\"maxVerbatimPercent\":5}}",
        f->next_id++, w->mode, w->types, w->cpu, (long long)w->memory, w->attempts, recipient);
    if (json_parse("spec", BYTES_STR(text), 65536, &j, &e) < 0 ||
        spec_from_json(j, &spec, &e) < 0 || spec_sign(spec, f->consumer, &jws, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    return jws;
}

static const struct want WANT = {"required", "[\"sample\"]", 1000, 2, 64 << 20};

static inline Coffer__V1__Reply *fix_reply_of(struct fix *f)
{
    for (size_t i = f->n_sent; i-- > 0;) {
        if (f->sent[i].is_reply) {
            return (Coffer__V1__Reply *)f->sent[i].m;
        }
    }
    fail_msg("no reply");
    return NULL;
}

static inline void fix_send_jws(struct fix *f, const char *jws)
{
    Coffer__V1__ScheduleJob m = COFFER__V1__SCHEDULE_JOB__INIT;

    m.spec_jws = (char *)jws;
    fix_handle(f, SUBJ_JOB_SCHEDULE, "", &m.base, "");
}

/* Schedules one job and gives its id. */
static inline void fix_schedule(struct fix *f, const struct want *w, char id[JOB_ID_LEN + 1])
{
    _cleanup_free_ char *jws = fix_spec(f, w);

    fix_send_jws(f, jws);
    Coffer__V1__Reply *r = fix_reply_of(f);
    if (r->body_case != COFFER__V1__REPLY__BODY_JOB_ACCEPTED) {
        fail_msg("%s", r->body_case == COFFER__V1__REPLY__BODY_REFUSAL ? r->refusal->message : "?");
    }
    snprintf(id, JOB_ID_LEN + 1, "%s", r->job_accepted->job);
}

/* "name:tee" backends, separated by one space. */
static inline void fix_report(struct fix *f, const char *host, unsigned slots, const char *backends)
{
    Coffer__V1__HostReport r = COFFER__V1__HOST_REPORT__INIT;
    Coffer__V1__BackendReport b[4], *list[4];
    char names[4][32], tees[4][32];
    size_t n = 0;

    while (*backends && n < 4) {
        int used = 0;
        assert_int_equal(sscanf(backends, "%31[^:]:%31[^ ]%n", names[n], tees[n], &used), 2);
        coffer__v1__backend_report__init(&b[n]);
        b[n].name = names[n];
        b[n].tee = tees[n];
        b[n].available = 1;
        list[n] = &b[n];
        n++;
        backends += used;
        backends += *backends == ' ';
    }
    r.host = (char *)host;
    r.slots = slots;
    r.cpu_millis = slots * 1000;
    r.memory_bytes = (uint64_t)slots << 30;
    r.backends = list;
    r.n_backends = n;
    fix_handle(f, SUBJ_HOST_REPORT, host, &r.base, "");
}

static inline void fix_cvm(struct fix *f, const char *job, unsigned attempt, const char *host,
                           Coffer__V1__CvmEventKind kind, const char *detail)
{
    Coffer__V1__CvmEvent m = COFFER__V1__CVM_EVENT__INIT;

    m.job = (char *)job;
    m.attempt = attempt;
    m.host = (char *)host;
    m.kind = kind;
    m.detail = (char *)detail;
    fix_handle(f, SUBJ_CVM_EVENT, job, &m.base, "");
}
#define CVM(kind) COFFER__V1__CVM_EVENT_KIND__CVM_##kind

static inline void fix_verdict(struct fix *f, const char *job, unsigned attempt, int good)
{
    Coffer__V1__Verdict m = COFFER__V1__VERDICT__INIT;
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;

    m.job = (char *)job;
    m.attempt = attempt;
    m.ear = good ? "e.a.r" : "";
    r.code = "denied";
    r.message = "the evidence is not what was expected";
    r.by = "verifier";
    m.refusal = good ? NULL : &r;
    fix_handle(f, SUBJ_VERDICT, job, &m.base, "");
}

static inline void fix_keys(struct fix *f, const char *job, unsigned attempt, int good)
{
    Coffer__V1__ReleaseKey m = COFFER__V1__RELEASE_KEY__INIT;
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;

    m.job = (char *)job;
    m.attempt = attempt;
    m.jwe = good ? "{}" : "";
    r.code = "denied";
    r.message = "no grant";
    r.by = "kbs";
    m.refusal = good ? NULL : &r;
    fix_handle(f, SUBJ_KEY_RELEASE, job, &m.base, "");
}

static inline void fix_decision(struct fix *f, const char *job, unsigned attempt,
                                Coffer__V1__GateOutcome outcome, unsigned revision)
{
    Coffer__V1__GateDecision m = COFFER__V1__GATE_DECISION__INIT;

    m.job = (char *)job;
    m.attempt = attempt;
    m.outcome = outcome;
    m.revision = revision;
    fix_handle(f, SUBJ_GATE_DECISION, job, &m.base, "");
}
#define GATE(outcome) COFFER__V1__GATE_OUTCOME__GATE_##outcome

static inline void fix_cancel_by(struct fix *f, const struct jkey *k, const char *job, int64_t iat)
{
    _cleanup_json_ json_t *j = json_pack("{s:i,s:s,s:I}", "v", 1, "job", job, "iat", iat);
    _cleanup_free_ char *jws = NULL;
    Coffer__V1__CancelJob m = COFFER__V1__CANCEL_JOB__INIT;
    struct err e = {0};

    assert_int_equal(jws_sign_json(k, CANCEL_JWS_TYP, 1, j, &jws, &e), 0);
    m.cancel_jws = jws;
    fix_handle(f, SUBJ_JOB_CANCEL, "", &m.base, "");
}

static inline struct job fix_job(struct fix *f, const char *id)
{
    struct job j = {0};
    struct err e = {0};

    assert_int_equal(store_job(engine_svc(f->g)->db, id, 0, &j, NULL, &e), 1);
    return j;
}

#define assert_state(f, id, want_state)                                                            \
    assert_string_equal(job_state_name(fix_job(f, id).state), want_state)

/* How many messages on a subject have left since the last fix_forget. */
static inline size_t fix_count(const struct fix *f, enum subject s)
{
    size_t n = 0;

    for (size_t i = 0; i < f->n_sent; i++) {
        n += !f->sent[i].is_reply && f->sent[i].subject == s;
    }
    return n;
}

static inline const struct sent *fix_last(const struct fix *f, enum subject s)
{
    for (size_t i = f->n_sent; i-- > 0;) {
        if (!f->sent[i].is_reply && f->sent[i].subject == s) {
            return &f->sent[i];
        }
    }
    return NULL;
}

/* A job that is launching on host h1. */
static inline void fix_launching(struct fix *f, const struct want *w, char id[JOB_ID_LEN + 1])
{
    fix_report(f, "h1", 4, "process:sample");
    fix_schedule(f, w, id);
    fix_tick(f);
    assert_state(f, id, "launching");
}

#endif
