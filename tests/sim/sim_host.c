/* A launcher's backends: CVMs that boot, do not start, hang, end, vanish; and their keepers, which
 * hold what was not stored for a launcher that died. The part of supervisor.c and keeper.c, with
 * made-up processes. */
#include "svc-worker/worker.h"
#include "tests/sim/sim.h"

struct to_launcher {
    struct to_launcher *next; /* in cvm_run.held */
    struct cvm_run *cvm;      /* whose keeper says it, and is to hear that it is stored; NULL */
    int64_t seq;              /* 0: none, it is not held */
    enum backend_event_kind kind;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    char detail[40];
    int has_refusal;
    struct err refusal;
    char refusal_by[32];
    int exit_code;
    struct node *launcher;
    unsigned epoch; /* of the launcher's life: a link to it does not outlive it */
};

void cvm_forget(struct cvm_run *c)
{
    for (struct to_launcher *t; (t = c->held);) {
        c->held = t->next;
        free(t);
    }
    c->kept = 0;
}

/* Its transaction is durable, and the keeper hears of it. */
static void stored(const struct to_launcher *t)
{
    struct cvm_run *c = t->cvm;

    c->go |= t->kind == BACKEND_STARTED;
    while (c->held && c->held->seq <= t->seq) {
        struct to_launcher *first = c->held;
        c->held = first->next;
        free(first);
    }
    if (t->kind == BACKEND_GONE) {
        cvm_forget(c);
    }
}

static void event_arrives(struct sim *s, void *arg, int64_t n)
{
    struct to_launcher *t = arg;
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;
    struct backend_event ev = {.kind = t->kind,
                               .job = t->job,
                               .attempt = t->attempt,
                               .seq = t->seq,
                               .detail = t->detail,
                               .exit_code = t->exit_code,
                               .pid = 4711,
                               .pid_start = 1,
                               .boot_id = "sim"};

    (void)n;
    if (t->launcher->engine && t->launcher->epoch == t->epoch) {
        if (t->has_refusal) {
            refusal_from_err(&r, &t->refusal, SVC_WORKER);
            r.by = t->refusal_by;
            ev.refusal = &r;
        }
        sim_trace(s, t->launcher->name, "<- backend event %d of %s.%u %s", (int)t->kind, t->job,
                  t->attempt, t->detail);
        if (node_call(t->launcher, launcher_on_backend_event, &ev) == 0 && t->cvm) {
            stored(t);
        }
    }
    free(t);
}

void host_drop(const struct event *ev)
{
    if (ev->fn == event_arrives) {
        free(ev->arg);
    }
}

static struct to_launcher make(struct node *launcher, const char *job, uint32_t attempt,
                               enum backend_event_kind kind, const char *detail,
                               const Coffer__V1__Refusal *refusal, int exit_code)
{
    struct to_launcher t = {
        .kind = kind, .attempt = attempt, .exit_code = exit_code, .launcher = launcher};

    snprintf(t.job, sizeof(t.job), "%s", job);
    snprintf(t.detail, sizeof(t.detail), "%s", detail ? detail : "");
    if (refusal) {
        t.has_refusal = 1;
        err_from_refusal(&t.refusal, refusal);
        snprintf(t.refusal_by, sizeof(t.refusal_by), "%s", refusal->by);
    }
    return t;
}

static void send_to(const struct to_launcher *t, int64_t in_ms)
{
    if (t->launcher->engine) {
        struct to_launcher *copy = xmemdup(t, sizeof(*t));
        copy->epoch = t->launcher->epoch;
        sim_in(t->launcher->sim, in_ms, event_arrives, copy, 0);
    }
}

static void tell(struct node *launcher, const char *job, uint32_t attempt,
                 enum backend_event_kind kind, const char *detail,
                 const Coffer__V1__Refusal *refusal, int exit_code, int64_t in_ms)
{
    struct to_launcher t = make(launcher, job, attempt, kind, detail, refusal, exit_code);

    send_to(&t, in_ms);
}

/* By its keeper, which holds it until it is stored. */
static void tell_kept(struct cvm_run *c, enum backend_event_kind kind, const char *detail,
                      const Coffer__V1__Refusal *refusal, int exit_code, int64_t in_ms)
{
    struct to_launcher t = make(c->launcher, c->job, c->attempt, kind, detail, refusal, exit_code);
    struct to_launcher **at = &c->held;

    if (!c->kept) {
        return;
    }
    t.cvm = c;
    t.seq = ++c->seq;
    while (*at) {
        at = &(*at)->next;
    }
    *at = xmemdup(&t, sizeof(t));
    if (c->epoch == c->launcher->epoch) {
        send_to(&t, in_ms);
    }
}

/* A new launcher connects to the keeper, which says again what is not stored. */
static void connect_keeper(struct cvm_run *c)
{
    if (c->epoch != c->launcher->epoch) {
        c->epoch = c->launcher->epoch;
        for (const struct to_launcher *t = c->held; t; t = t->next) {
            send_to(t, 1);
        }
    }
}

/* In the order they are told. */
void host_event(struct cvm_run *c, enum backend_event_kind kind, const char *detail,
                const Coffer__V1__Refusal *refusal, int exit_code)
{
    tell_kept(c, kind, detail, refusal, exit_code, 1);
}

size_t cvms_alive(const struct sim *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_cvms; i++) {
        n += (size_t)s->cvms[i]->alive;
    }
    return n;
}

void cvm_kill(struct cvm_run *c, const char *why)
{
    if (!c->alive) {
        return;
    }
    c->alive = 0;
    if (why) {
        sim_trace(c->sim, c->launcher->name, "CVM %s.%u is gone: %s", c->job, c->attempt, why);
    }
    if (c->worker && c->worker->engine) {
        engine_close(c->worker->engine);
        c->worker->engine = NULL;
    }
    if (c->launch) {
        worker_launch_free(c->launch);
        c->launch = NULL;
    }
}

void cvm_ended(struct cvm_run *c, int exit_code)
{
    if (c->alive) {
        cvm_kill(c, exit_code ? "ended" : "done");
        tell_kept(c, BACKEND_GONE, NULL, NULL, exit_code, 2);
    }
}

static void vanish(struct sim *s, void *arg, int64_t n)
{
    struct cvm_run *c = arg;

    (void)s;
    (void)n;
    if (c->alive) {
        sim_trace(c->sim, c->launcher->name, "fault: CVM %s.%u vanishes", c->job, c->attempt);
        cvm_ended(c, 137);
    }
}

static void boot(struct sim *s, void *arg, int64_t n)
{
    struct cvm_run *c = arg;

    (void)s;
    (void)n;
    if (c->alive) {
        host_event(c, BACKEND_BOOTED, NULL, NULL, 0);
        worker_boot(c);
    }
}

static void fail_launch(struct node *launcher, const Coffer__V1__LaunchCvm *l)
{
    Coffer__V1__Refusal r = COFFER__V1__REFUSAL__INIT;
    struct err why;

    err_refuse(&why, ERR_IO, "launch", "a process", "none, as the simulator has it");
    refusal_from_err(&r, &why, SVC_LAUNCHER);
    sim_trace(launcher->sim, launcher->name, "fault: CVM %s.%u does not start", l->job, l->attempt);
    tell(launcher, l->job, l->attempt, BACKEND_FAILED, NULL, &r, 1, 5);
}

static struct cvm_run *find(struct sim *s, const struct node *launcher, const char *job,
                            uint32_t attempt)
{
    for (size_t i = 0; i < s->n_cvms; i++) {
        struct cvm_run *c = s->cvms[i];
        if (c->launcher == launcher && c->attempt == attempt && streq(c->job, job)) {
            return c;
        }
    }
    return NULL;
}

static void launch(struct node *launcher, const Coffer__V1__LaunchCvm *l)
{
    struct sim *s = launcher->sim;

    if (find(s, launcher, l->job, l->attempt)) {
        sim_fail(s, "%s starts the CVM of %s.%u twice", launcher->name, l->job, l->attempt);
    }
    if (s->n_cvms == SIM_CVMS) {
        sim_fail(s, "stuck: %d CVMs and no end", SIM_CVMS);
    }
    if (sim_chance(s, s->f.launch) && sim_random(s, 3) == 0) {
        fail_launch(launcher, l);
        return;
    }
    struct cvm_run *c = xcalloc(1, sizeof(*c));
    c->sim = s;
    c->launcher = launcher;
    snprintf(c->job, sizeof(c->job), "%s", l->job);
    c->attempt = l->attempt;
    snprintf(c->tee, sizeof(c->tee), "sample");
    c->spec_jws = xstrdup(l->spec_jws);
    c->deadline_ms = l->deadline_ms;
    c->alive = c->kept = 1;
    c->epoch = launcher->epoch;
    s->cvms[s->n_cvms++] = c;
    s->counts[COUNT_ATTEMPTS]++;
    sim_trace(s, launcher->name, "CVM %s.%u starts", l->job, l->attempt);
    struct to_launcher started = make(launcher, c->job, c->attempt, BACKEND_STARTED, NULL, NULL, 0);
    started.cvm = c;
    send_to(&started, 1);
    if (sim_chance(s, s->f.launch) && sim_random(s, 3) == 0) {
        sim_trace(s, launcher->name, "fault: CVM %s.%u hangs", l->job, l->attempt);
        return;
    }
    sim_in(s, sim_between(s, 100, 3000), boot, c, 0);
    if (sim_chance(s, s->f.launch)) {
        sim_in(s, sim_between(s, 1, sim_random(s, 2) ? 5000 : 60000), vanish, c, 0);
    }
}

static void destroy(struct node *launcher, const Coffer__V1__DestroyCvm *d)
{
    struct sim *s = launcher->sim;
    struct cvm_run *c = find(s, launcher, d->job, d->attempt);

    if (s->brk == BREAK_NO_DESTROY) {
        return;
    }
    if (sim_chance(s, s->f.launch) && sim_random(s, 2)) {
        sim_trace(s, launcher->name, "fault: nothing comes of destroying %s.%u", d->job,
                  d->attempt);
        return; /* the launcher asks again */
    }
    if (!c || !c->kept) {
        tell(launcher, d->job, d->attempt, BACKEND_LOST, NULL, NULL, 137, sim_between(s, 5, 500));
        return;
    }
    connect_keeper(c);
    if (c->alive) {
        cvm_kill(c, d->reason);
        tell_kept(c, BACKEND_GONE, NULL, NULL, 137, sim_between(s, 5, 500));
    }
}

static void go_on(struct node *launcher, const Coffer__V1__DestroyCvm *d)
{
    struct cvm_run *c = find(launcher->sim, launcher, d->job, d->attempt);

    if (c && c->kept) {
        sim_trace(launcher->sim, launcher->name, "CVM %s.%u is adopted", d->job, d->attempt);
        connect_keeper(c);
    } else {
        tell(launcher, d->job, d->attempt, BACKEND_LOST, NULL, NULL, 137, 5);
    }
}

void host_action(struct node *launcher, int kind, struct bytes data)
{
    switch ((enum launcher_action)kind) {
    case LAUNCHER_ACT_LAUNCH: {
        Coffer__V1__LaunchCvm *l = coffer__v1__launch_cvm__unpack(NULL, data.n, data.p);
        launch(launcher, l);
        coffer__v1__launch_cvm__free_unpacked(l, NULL);
        return;
    }
    case LAUNCHER_ACT_DESTROY:
    case LAUNCHER_ACT_ADOPT: {
        Coffer__V1__DestroyCvm *d = coffer__v1__destroy_cvm__unpack(NULL, data.n, data.p);
        (kind == LAUNCHER_ACT_ADOPT ? go_on : destroy)(launcher, d);
        coffer__v1__destroy_cvm__free_unpacked(d, NULL);
        return;
    }
    }
    sim_fail(launcher->sim, "%s: unknown action %d", launcher->name, kind);
}

void host_started(struct node *launcher)
{
    static const struct host_facts facts = {
        .cpu_millis = 8000,
        .memory_bytes = 8ull << 30,
        .slots = 3,
        .n_backends = 2,
        .backends = {{.name = "process", .tee = "sample", .available = 1},
                     {.name = "tdx", .tee = "tdx", .available = 0, .why = "no such hardware"}},
    };

    launcher_set_facts(engine_svc(launcher->engine), &facts);
}

/* Its CVMs go on, or are ended for want of a launcher; what it had not recorded, always. */
void host_crashed(struct node *launcher)
{
    struct sim *s = launcher->sim;
    int all = sim_random(s, 2) == 0;

    for (size_t i = 0; i < s->n_cvms; i++) {
        struct cvm_run *c = s->cvms[i];
        if (c->launcher == launcher && (all || !c->go)) {
            cvm_kill(c, "with its launcher");
            cvm_forget(c);
        }
    }
}
