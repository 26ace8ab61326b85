/* One host of the pipeline: svc-launcher's handlers in the real shell over the real bus, and as its
 * backend, instead of processes, one engine of svc-worker's handlers over ":memory:" for each CVM,
 * all on one bus connection of the workers' nkey. Everything a worker does for a job with
 * no_container is done (keys, evidence, JWE, dataset opened and scanned, output sealed and signed);
 * no process is started. */
#include "bench/bench.h"

#include <fcntl.h>

#include "common/shell.h"
#include "svc-launcher/launch_config.h"
#include "svc-worker/worker.h"

#define CVMS 4096
#define EVENTS 16384
#define REQUESTS 12 /* at once; the bus takes 16 */
#define TICK_S 1.0

struct cvm_slot {
    double booted_at;
    struct worker_launch *launch; /* NULL: free */
    struct engine *engine;
    size_t in_flight; /* durable publishes without PubAck */
    int queued;       /* in `blocked` */
    uint32_t generation;
};

struct told {
    enum backend_event_kind kind;
    const char *detail;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
};

static struct host {
    struct shell *sh;
    struct bus *bus; /* the workers' */
    struct config *worker_config;
    struct config_item *items;
    struct area *area;
    struct cvm_slot cvms[CVMS];
    uint32_t by_hash[CVMS * 2]; /* slot + 1, open addressing by job */
    uint32_t blocked[CVMS];     /* a ring of slots with something to publish */
    size_t blocked_head, n_blocked;
    uint32_t asking[CVMS]; /* a ring of slots that want a challenge */
    size_t asking_head, n_asking, n_requests;
    struct told events[EVENTS];
    size_t n_events;
    ev_prepare flush;
    ev_timer tick;
} host;

static int64_t clock_ms(void *arg)
{
    (void)arg;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- which CVM ---------------------------------------------------------------------------------
 */

static uint32_t hash(const char *job)
{
    uint32_t h = 2166136261u;

    while (*job) {
        h = (h ^ (uint8_t)*job++) * 16777619u;
    }
    return h;
}

static uint32_t *place_of(const char *job)
{
    for (uint32_t at = hash(job);; at++) {
        uint32_t *p = &host.by_hash[at % ARRAY_LEN(host.by_hash)];
        if (*p == 0 || (*p != UINT32_MAX && streq(host.cvms[*p - 1].launch->pb->job, job))) {
            return p;
        }
    }
}

static struct cvm_slot *find(const char *job)
{
    uint32_t *p = place_of(job);

    return *p ? &host.cvms[*p - 1] : NULL;
}

/* Backward-shift deletion keeps the probe sequences whole. */
static void unplace(const char *job)
{
    uint32_t n = ARRAY_LEN(host.by_hash), hole = (uint32_t)(place_of(job) - host.by_hash);

    for (uint32_t at = (hole + 1) % n; host.by_hash[at]; at = (at + 1) % n) {
        uint32_t home = hash(host.cvms[host.by_hash[at] - 1].launch->pb->job) % n;
        if ((at - home + n) % n >= (at - hole + n) % n) {
            host.by_hash[hole] = host.by_hash[at];
            hole = at;
        }
    }
    host.by_hash[hole] = 0;
}

static uint32_t slot_of(const struct cvm_slot *c)
{
    return (uint32_t)(c - host.cvms);
}

/* ---- to the launcher ---------------------------------------------------------------------------
 */

static void tell(const char *job, uint32_t attempt, enum backend_event_kind kind,
                 const char *detail)
{
    if (host.n_events == EVENTS) {
        bench_fail("host", "too many events at once");
    }
    struct told *t = &host.events[host.n_events++];
    t->kind = kind;
    t->detail = detail;
    t->attempt = attempt;
    snprintf(t->job, sizeof(t->job), "%s", job);
}

static int take_events(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)arg;
    for (size_t i = 0; i < host.n_events; i++) {
        const struct told *t = &host.events[i];
        struct backend_event ev = {.kind = t->kind,
                                   .job = t->job,
                                   .attempt = t->attempt,
                                   .detail = t->detail,
                                   .pid = 1,
                                   .pid_start = 1,
                                   .boot_id = "bench"};
        if (launcher_on_backend_event(s, &ev, fx, e)) {
            return -1;
        }
    }
    return 0;
}

/* What one turn of the loop brought is one transaction, as in the shell. */
static void on_prepare(struct ev_loop *loop, ev_prepare *w, int revents)
{
    (void)loop;
    (void)w;
    (void)revents;
    if (host.n_events) {
        MUST(shell_call(host.sh, take_events, NULL, e));
        host.n_events = 0;
    }
}

/* ---- one worker --------------------------------------------------------------------------------
 */

static void drop(struct cvm_slot *c)
{
    unplace(c->launch->pb->job);
    engine_close(c->engine);
    worker_launch_free(c->launch);
    c->engine = NULL;
    c->launch = NULL;
    c->in_flight = 0;
    c->generation++;
}

static void publish(struct cvm_slot *c)
{
    struct outgoing out;

    while (bus_room(host.bus) > 0 && engine_next_out(c->engine, &out)) {
        struct bus_out o = {.subject = out.subject,
                            .payload = out.payload,
                            .msg_id = out.msg_id,
                            .traceparent = out.traceparent};
        int64_t tag = (int64_t)(slot_of(c) + 1) << 40 | (int64_t)(c->generation & 0xffff) << 24 |
                      out.outbox_id;
        MUST(bus_publish_durable(host.bus, &o, tag, e));
        c->in_flight++;
    }
    if (bus_room(host.bus) == 0 && !c->queued) {
        c->queued = 1;
        host.blocked[(host.blocked_head + host.n_blocked++) % CVMS] = slot_of(c);
    }
}

static int run_done(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    return worker_run_done(s, arg, fx, e);
}

/* The runner's part, in this process. */
static void run(struct cvm_slot *c)
{
    const struct worker_launch *l = c->launch;
    const struct secret *release = worker_release(engine_svc(c->engine));
    struct worker_keys keys = {0};
    struct worker_outcome o = {0};

    /* As the launcher's supervisor: phases within 100 ms of each other are told as one. */
    if (ev_now(shell_loop(host.sh)) - c->booted_at >= 0.1) {
        tell(l->pb->job, l->pb->attempt, BACKEND_PHASE, "keys");
    }
    MUST(worker_keys_parse(BYTES(secret_cp(release), secret_n(release)), l, &keys, e));
    job_run(l, &keys, host.area, &o);
    worker_keys_done(&keys);
    if (o.refusal.code) {
        bench_fail("job_run", o.refusal.msg);
    }
    MUST(engine_begin(c->engine, e));
    MUST(engine_call(c->engine, run_done, &o, e));
    MUST(engine_commit(c->engine, e));
    explicit_bzero(host.area->p, o.plain.n);
}

static void ask(void);

static void actions(struct cvm_slot *c)
{
    struct bytes data;
    int kind;

    while (engine_next_action(c->engine, &kind, &data)) {
        switch ((enum worker_action)kind) {
        case WORKER_ACT_CHALLENGE:
            host.asking[(host.asking_head + host.n_asking++) % CVMS] = slot_of(c);
            break;
        case WORKER_ACT_RUN:
            run(c);
            break;
        case WORKER_ACT_REFUSED:
            bench_fail("a worker was refused", worker_refusal(engine_svc(c->engine))->msg);
        }
    }
    publish(c);
    ask();
}

/* ---- challenge ---------------------------------------------------------------------------------
 */

static int take_reply(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    return worker_on_reply(s, arg, fx, e);
}

static void on_reply(struct bus *b, const Coffer__V1__Reply *r, const struct err *why, void *arg)
{
    uint32_t slot = (uint32_t)((uintptr_t)arg >> 16), generation = (uint32_t)(uintptr_t)arg;
    struct cvm_slot *c = &host.cvms[slot];

    (void)b;
    (void)why; /* the tick asks again */
    host.n_requests--;
    if (r && c->launch && (c->generation & 0xffff) == (generation & 0xffff)) {
        MUST(engine_begin(c->engine, e));
        MUST(engine_call(c->engine, take_reply, (void *)(uintptr_t)r, e));
        MUST(engine_commit(c->engine, e));
        actions(c);
    }
    ask();
}

static void ask(void)
{
    while (host.n_asking && host.n_requests < REQUESTS && bus_connected(host.bus)) {
        struct cvm_slot *c = &host.cvms[host.asking[host.asking_head]];
        Coffer__V1__ChallengeRequest q;
        host.asking_head = (host.asking_head + 1) % CVMS;
        host.n_asking--;
        if (!c->launch) {
            continue;
        }
        uintptr_t arg = (uintptr_t)slot_of(c) << 16 | (c->generation & 0xffff);
        worker_challenge(engine_svc(c->engine), &q);
        host.n_requests++;
        MUST(bus_request_async(host.bus, SUBJ_EVIDENCE_CHALLENGE, "", &q.base, 4000, on_reply,
                               (void *)arg, e));
    }
}

/* ---- the workers' bus --------------------------------------------------------------------------
 */

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    _cleanup_(bus_msg_freep) struct bus_msg *owned = m;
    struct cvm_slot *c = find(m->m.key);
    enum disposition d;
    int delay;
    struct err why = {0};

    (void)b;
    (void)arg;
    if (!c) {
        return; /* of an earlier run */
    }
    MUST(engine_begin(c->engine, e));
    MUST(engine_handle(c->engine, &owned->m, &d, &delay, &why, e));
    MUST(engine_commit(c->engine, e));
    if (why.code) {
        bench_fail("release", why.msg);
    }
    actions(c);
}

static int published(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)arg;
    (void)fx;
    return worker_published(s, e);
}

static void on_puback(struct bus *b, int64_t tag, const struct err *why, void *arg)
{
    struct cvm_slot *c = &host.cvms[(tag >> 40) - 1];

    (void)b;
    (void)arg;
    if (why) {
        bench_fail("a worker's publish", why->msg);
    }
    if (c->launch && (c->generation & 0xffff) == (uint32_t)((tag >> 24) & 0xffff)) {
        engine_published(c->engine, tag & 0xffffff);
        if (--c->in_flight == 0 && worker_state(engine_svc(c->engine)) == EX_SEALING &&
            !c->queued) {
            MUST(engine_begin(c->engine, e));
            MUST(engine_call(c->engine, published, NULL, e));
            MUST(engine_commit(c->engine, e));
            tell(c->launch->pb->job, c->launch->pb->attempt, BACKEND_DONE, NULL);
            tell(c->launch->pb->job, c->launch->pb->attempt, BACKEND_GONE, NULL);
            drop(c);
        }
    }
    while (host.n_blocked && bus_room(host.bus) > 0) {
        struct cvm_slot *w = &host.cvms[host.blocked[host.blocked_head]];
        host.blocked_head = (host.blocked_head + 1) % CVMS;
        host.n_blocked--;
        w->queued = 0;
        if (w->launch) {
            publish(w);
        }
    }
}

static void on_event(struct bus *b, enum bus_event ev, const struct err *why, void *arg)
{
    (void)b;
    (void)arg;
    if (ev == BUS_REFUSED || ev == BUS_DROPPED) {
        bench_fail("workers' bus", why ? why->msg : "");
    }
    if (ev == BUS_CONNECTED) {
        ask();
    }
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
    int64_t now = clock_ms(NULL);

    (void)loop;
    (void)w;
    (void)revents;
    for (size_t i = 0; i < CVMS; i++) {
        struct cvm_slot *c = &host.cvms[i];
        if (c->launch && engine_next_tick_ms(c->engine) <= now) {
            MUST(engine_begin(c->engine, e));
            MUST(engine_tick(c->engine, e));
            MUST(engine_commit(c->engine, e));
            actions(c);
        }
    }
    ask();
}

/* ---- the launcher's backend --------------------------------------------------------------------
 */

static int launch(const Coffer__V1__LaunchCvm *l)
{
    _cleanup_buf_ struct buf config = BUF_INIT(LAUNCH_CONFIG_MAX_BYTES);
    struct engine_opts o = {.db_path = ":memory:", .clock = clock_ms, .config = host.worker_config};
    size_t i = 0;

    while (i < CVMS && (host.cvms[i].launch || host.cvms[i].queued)) {
        i++;
    }
    if (i == CVMS) {
        bench_fail("host", "too many CVMs");
    }
    struct cvm_slot *c = &host.cvms[i];
    MUST(launch_config_make(shell_config(host.sh), l, "sample", "/nonexistent", &config, e));
    MUST(worker_launch_parse(buf_bytes(&config), 1, &c->launch, e));
    MUST(engine_open(&worker_service, &o, &c->engine, e));
    *place_of(l->job) = slot_of(c) + 1;
    tell(l->job, l->attempt, BACKEND_STARTED, NULL);
    tell(l->job, l->attempt, BACKEND_BOOTED, NULL);
    tell(l->job, l->attempt, BACKEND_PHASE, "attest");
    c->booted_at = ev_now(shell_loop(host.sh));
    struct worker_start_args a = {.launch = c->launch};
    MUST(engine_begin(c->engine, e));
    MUST(engine_call(c->engine, worker_start, &a, e));
    MUST(engine_commit(c->engine, e));
    actions(c);
    return 0;
}

static int act(struct shell *sh, int kind, struct bytes data)
{
    (void)sh;
    if (kind == LAUNCHER_ACT_LAUNCH) {
        Coffer__V1__LaunchCvm *l = coffer__v1__launch_cvm__unpack(NULL, data.n, data.p);
        if (!l) {
            bench_fail("launch", "no LaunchCvm");
        }
        launch(l);
        coffer__v1__launch_cvm__free_unpacked(l, NULL);
    } else {
        Coffer__V1__DestroyCvm *d = coffer__v1__destroy_cvm__unpack(NULL, data.n, data.p);
        struct cvm_slot *c = d ? find(d->job) : NULL;
        if (c) { /* its result was decided before its PubAck was seen here */
            tell(d->job, d->attempt, BACKEND_DONE, NULL);
            drop(c);
        }
        tell(d->job, d->attempt, BACKEND_GONE, NULL);
        coffer__v1__destroy_cvm__free_unpacked(d, NULL);
    }
    return 0;
}

static int started(struct shell *sh)
{
    struct host_facts f = {.cpu_millis = 4000000,
                           .memory_bytes = 1ull << 45,
                           .slots = CVMS / 2,
                           .n_backends = 1,
                           .backends = {{.name = "process", .tee = "sample", .available = 1}}};
    const struct config *c = shell_config(sh);
    struct bus_opts o = {.url = config_str(c, "nats-url"),
                         .ca_file = config_str(c, "nats-ca"),
                         .seed_file = config_str(c, "worker-nats-seed"),
                         .service = SVC_WORKER,
                         .on_msg = on_msg,
                         .on_puback = on_puback,
                         .on_event = on_event};

    host.sh = sh;
    host.worker_config = config_make(config_common, n_config_common, NULL);
    MUST(area_new(8u << 20, 0, &host.area, e));
    launcher_set_facts(engine_svc(shell_engine(sh)), &f);
    MUST(bus_new(&o, shell_loop(sh), &host.bus, e));
    MUST(bus_serve(host.bus, e));
    MUST(bus_subscribe(host.bus, SUBJ_KEY_RELEASE, NULL, e));
    bus_start(host.bus);
    ev_prepare_init(&host.flush, on_prepare);
    ev_set_priority(&host.flush, EV_MAXPRI); /* before the shell's, which may then wait */
    ev_prepare_start(shell_loop(sh), &host.flush);
    ev_timer_init(&host.tick, on_tick, TICK_S, TICK_S);
    ev_timer_start(shell_loop(sh), &host.tick);
    return 0;
}

int host_main(int argc, char **argv)
{
    static const struct shell_hooks hooks = {.act = act, .started = started};

    return service_main_hooks(&launcher_service, &hooks, argc, argv);
}
