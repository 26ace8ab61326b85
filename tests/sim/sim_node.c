/* One service: its engine over a database that outlives it. What a turn of the loop delivered is
 * one transaction, as in common/shell.c; here every instant of it can be the last. */
#include <inttypes.h>

#include "tests/sim/sim.h"

#define SPINS_MAX 20000 /* ticks without a message: a timer that never gets what it wants */
#define REQUEUE_EVERY_MS 60000
#define DB_RETRY_MS 2000

enum crash_at {
    CRASH_NOT,
    CRASH_BEFORE_HANDLE,
    CRASH_BEFORE_COMMIT,
    CRASH_AFTER_COMMIT,
    CRASH_AMID_PUBLISH,
    CRASH_AMID_ACTIONS,
    CRASH_BEFORE_ACK,
    CRASH_N
};

static const char *const crash_texts[CRASH_N] = {
    [CRASH_NOT] = "",
    [CRASH_BEFORE_HANDLE] = "before it handles anything",
    [CRASH_BEFORE_COMMIT] = "before its commit",
    [CRASH_AFTER_COMMIT] = "after its commit, before it publishes",
    [CRASH_AMID_PUBLISH] = "while it publishes",
    [CRASH_AMID_ACTIONS] = "amid its actions",
    [CRASH_BEFORE_ACK] = "before it acknowledges",
};

int64_t node_clock(void *node)
{
    const struct node *n = node;

    return n->sim->now + n->skew_ms;
}

int node_hears(const struct node *n)
{
    return n->engine && n->sim->now >= n->cut_until_ms;
}

static void drop_in(struct node *n)
{
    for (size_t i = 0; i < n->n_in; i++) {
        payload_unref(n->in[i].wire.payload);
    }
    n->n_in = 0;
}

struct node *node_open(struct sim *s, enum service id, const char *name, const char *host,
                       const struct service_def *def, const struct config *config)
{
    struct node *n = xcalloc(1, sizeof(*n));

    n->sim = s;
    n->id = id;
    snprintf(n->name, sizeof(n->name), "%s", name);
    n->host = host;
    n->def = def;
    n->config = config;
    n->db = world_db(id);
    return n;
}

void node_free(struct node *n)
{
    if (n) {
        engine_close(n->engine);
        drop_in(n);
        free(n->in);
        free(n->handled);
        db_close(n->db);
        db_close(n->before);
        free(n);
    }
}

/* ---- life and death -------------------------------------------------------------------------- */

static void requeue(struct sim *s, void *arg, int64_t epoch);
static void turn(struct sim *s, void *arg, int64_t epoch);

static void open_engine(struct node *n)
{
    struct engine_opts o = {.clock = node_clock, .clock_arg = n, .config = n->config, .db = n->db};
    struct err e = {0};

    if (engine_open(n->def, &o, &n->engine, &e) < 0) {
        sim_fail(n->sim, "%s does not start: %s", n->name, e.msg);
    }
    if (n->id == SVC_LAUNCHER) {
        host_started(n);
    }
}

static void reopen(struct node *n)
{
    open_engine(n);
    if (n->epoch > 1 && sim_chance(n->sim, 300)) {
        uint64_t once = check_dump(n);
        engine_close(n->engine);
        n->engine = NULL;
        open_engine(n);
        /* Invariant 7, its other half: taking up what a crash left, twice, is taking it up once. */
        if (n->id != SVC_LAUNCHER && check_dump(n) != once) {
            sim_fail(n->sim, "7: a second start of %s changes its database", n->name);
        }
    }
}

static void schedule_turn(struct node *n, int64_t in_ms)
{
    if (!n->turn_due) {
        n->turn_due = 1;
        sim_in(n->sim, in_ms, turn, n, n->epoch);
    }
}

void node_start(struct node *n)
{
    struct err e = {0};

    n->epoch++;
    n->turn_due = 0;
    n->spins = 0;
    reopen(n);
    sim_trace(n->sim, n->name, "starts");
    if (n->sim->brk != BREAK_OUTBOX &&
        engine_requeue_outbox(n->engine, n->sim->brk != BREAK_RECENT, &e) < 0) {
        sim_fail(n->sim, "%s: outbox: %s", n->name, e.msg);
    }
    sim_in(n->sim, REQUEUE_EVERY_MS, requeue, n, n->epoch);
    schedule_turn(n, 1);
}

static void start_again(struct sim *s, void *arg, int64_t epoch)
{
    struct node *n = arg;

    (void)s;
    if (!n->engine && n->epoch == epoch) {
        node_start(n);
    }
}

static void restore(struct node *n, struct db *from)
{
    sqlite3_backup *b = sqlite3_backup_init(db_handle(n->db), "main", db_handle(from), "main");

    if (!b || sqlite3_backup_step(b, -1) != SQLITE_DONE || sqlite3_backup_finish(b) != SQLITE_OK) {
        abort();
    }
}

static void forget(struct node *n)
{
    const char *sql = n->sim->brk == BREAK_RELEASE_TWICE && n->id == SVC_KBS
                          ? "DELETE FROM releases"
                      : n->sim->brk == BREAK_UNDECIDED && n->id == SVC_GATE ? "DELETE FROM decision"
                                                                            : NULL;
    if (sql) {
        sqlite3_exec(db_handle(n->db), sql, NULL, NULL, NULL);
    }
    if (n->before) {
        restore(n, n->before);
    }
}

void node_crash(struct node *n, const char *when)
{
    struct sim *s = n->sim;

    sim_trace(s, n->name, "fault: crash %s", when);
    s->counts[COUNT_CRASHES]++;
    engine_close(n->engine);
    n->engine = NULL;
    drop_in(n);
    if (n->id == SVC_LAUNCHER) {
        host_crashed(n);
    }
    forget(n);
    sim_in(s, sim_random(s, 8) ? sim_between(s, 20, 3000) : sim_between(s, 3000, 90000),
           start_again, n, n->epoch);
}

/* ---- a turn ---------------------------------------------------------------------------------- */

void node_published(struct node *n, unsigned epoch, int64_t outbox_id)
{
    if (n->engine && n->epoch == epoch) {
        engine_published(n->engine, outbox_id);
        schedule_turn(n, 50);
    }
}

void node_deliver(struct node *n, struct inmsg *m)
{
    if (n->n_in == n->size_in) {
        n->size_in = n->size_in ? n->size_in * 2 : 16;
        n->in = xrealloc(n->in, n->size_in * sizeof(*n->in));
    }
    n->in[n->n_in++] = *m;
    n->spins = 0;
    schedule_turn(n, 1);
}

static enum crash_at pick_crash(struct node *n)
{
    if (n->id == SVC_WORKER || !sim_chance(n->sim, n->sim->f.crash)) {
        return CRASH_NOT;
    }
    return (enum crash_at)(1 + sim_random(n->sim, CRASH_N - 1));
}

/* Invariant 7: what is there after a crash is what was committed before it. */
static void crash_at(struct node *n, enum crash_at at, uint64_t committed)
{
    struct engine *g = n->engine;

    engine_close(g);
    n->engine = NULL;
    if (check_dump(n) != committed) {
        sim_fail(n->sim, "7: the database of %s is not as it was committed after a crash %s",
                 n->name, crash_texts[at]);
    }
    node_crash(n, crash_texts[at]);
    if (n->before && check_dump(n) != committed) {
        sim_fail(n->sim, "7: the database of %s went back in time", n->name);
    }
}

static int publish_all(struct node *n, enum crash_at at)
{
    struct outgoing o;
    uint64_t left = at == CRASH_AMID_PUBLISH ? sim_random(n->sim, 3) : UINT64_MAX;

    while (engine_next_out(n->engine, &o)) {
        check_out(n, &o);
        if (left-- == 0) {
            return -1;
        }
        bus_send(n->sim, n, &o);
    }
    return 0;
}

/* -1: the node is gone, by the crash or by what the action did. */
static int act_all(struct node *n, enum crash_at at)
{
    unsigned epoch = n->epoch;
    struct bytes data;
    int kind;
    uint64_t left = at == CRASH_AMID_ACTIONS ? sim_random(n->sim, 2) : UINT64_MAX;

    while (engine_next_action(n->engine, &kind, &data)) {
        _cleanup_free_ uint8_t *copy = xmemdup(data.p, data.n);
        if (left-- == 0) {
            return -1;
        }
        if (n->id == SVC_LAUNCHER) {
            host_action(n, kind, BYTES(copy, data.n));
        } else if (n->id == SVC_WORKER) {
            worker_action(n, kind);
        } else {
            sim_fail(n->sim, "%s has no actions, wants %d", n->name, kind);
        }
        if (n->epoch != epoch || !n->engine) {
            return -1;
        }
    }
    return 0;
}

/* A fact about an old attempt made to look like one about the latest. */
static void break_fence(struct node *n, struct inmsg *m)
{
    struct sim_job *j = sim_job_find(n->sim, m->wire.key);

    if (n->sim->brk != BREAK_FENCE || n->id != SVC_SCHEDULER || !j ||
        m->wire.subject != SUBJ_GATE_DECISION) {
        return;
    }
    Coffer__V1__GateDecision *d =
        coffer__v1__gate_decision__unpack(NULL, m->wire.payload->n, m->wire.payload->p);
    if (!d) {
        return;
    }
    if (d->attempt < j->max_attempt) {
        d->attempt = (uint32_t)j->max_attempt;
        size_t size = coffer__v1__gate_decision__get_packed_size(d);
        struct payload *p = xmalloc(sizeof(*p) + size + 1);
        p->refs = 1;
        p->n = coffer__v1__gate_decision__pack(d, p->p);
        payload_unref(m->wire.payload);
        m->wire.payload = p;
    }
    coffer__v1__gate_decision__free_unpacked(d, NULL);
}

/* What was handled and committed is not handled again, while the inbox remembers it. */
static void see_handled(struct node *n, const struct wire *w)
{
    uint64_t key = 14695981039346656037u ^ (uint64_t)w->subject;
    int64_t now = node_clock(n);

    for (const char *p = w->msg_id; *p; p++) {
        key = (key ^ (uint8_t)*p) * 1099511628211u;
    }
    for (size_t i = 0; i < w->payload->n; i++) {
        key = (key ^ w->payload->p[i]) * 1099511628211u;
    }
    for (size_t i = 0; i < n->n_handled + n->n_handling; i++) {
        if (n->handled[i].key == key && now - n->handled[i].at_ms < ENGINE_INBOX_KEEP_MS) {
            sim_fail(n->sim, "%s handles %s twice", n->name, w->msg_id);
        }
    }
    if (n->n_handled + n->n_handling == n->size_handled) {
        n->size_handled = n->size_handled ? n->size_handled * 2 : 64;
        n->handled = xrealloc(n->handled, n->size_handled * sizeof(*n->handled));
    }
    n->handled[n->n_handled + n->n_handling++] = (struct handled){.key = key, .at_ms = now};
}

static void handle_one(struct node *n, struct inmsg *in, enum disposition *disp, int *delay_ms)
{
    struct sim *s = n->sim;
    struct err why = {0}, e = {0};

    break_fence(n, in);
    struct msg m = {.subject = in->wire.subject,
                    .key = in->wire.key,
                    .payload = BYTES(in->wire.payload->p, in->wire.payload->n),
                    .msg_id = s->brk == BREAK_INBOX ? "" : in->wire.msg_id,
                    .reply_to = in->wire.reply_to,
                    .traceparent = in->wire.traceparent,
                    .deliveries = in->deliveries};
    uint64_t handled = engine_stats(n->engine)->handled;
    if (engine_handle(n->engine, &m, disp, delay_ms, &why, &e) < 0) {
        sim_fail(s, "%s: engine_handle: %s", n->name, e.msg);
    }
    if (in->wire.msg_id[0] && engine_stats(n->engine)->handled > handled) {
        see_handled(n, &in->wire);
    }
    if (why.code && check_canary(BYTES_STR(why.msg))) {
        sim_fail(s, "6: %s is in an error of %s", check_canary(BYTES_STR(why.msg)), n->name);
    }
    if (why.code == ERR_INTERNAL) {
        sim_fail(s, "%s: internal error on %s: %s", n->name, subjects[m.subject].name, why.msg);
    }
    if (m.subject == SUBJ_HOST_REPORT && !why.code) {
        return; /* there are so many */
    }
    sim_trace(s, n->name, "<- %s %s%s%s%s", subjects[m.subject].name + 10,
              m.msg_id[0] ? m.msg_id : m.key, *disp == DISP_NAK ? " (later)" : "",
              why.code ? ": " : "", why.code ? why.msg : "");
}

static void arm_tick(struct node *n);

static void after(struct node *n, unsigned epoch)
{
    if (n->engine && n->epoch == epoch) {
        if (n->id == SVC_WORKER) {
            worker_look(n);
        }
        if (n->engine && n->epoch == epoch) {
            arm_tick(n);
        }
    }
}

static void keep_before(struct node *n)
{
    if (n->sim->brk != BREAK_AMNESIA || n->id == SVC_WORKER) {
        return;
    }
    db_close(n->before);
    n->before = NULL;
    MUST(db_open(":memory:", NULL, 0, &n->before, e));
    sqlite3_backup *b = sqlite3_backup_init(db_handle(n->before), "main", db_handle(n->db), "main");
    if (!b || sqlite3_backup_step(b, -1) != SQLITE_DONE || sqlite3_backup_finish(b) != SQLITE_OK) {
        abort();
    }
}

static int refuse_commit(void *arg)
{
    (void)arg;
    return 1;
}

/* The disk says no. 1: it did, and everything is as it was before. */
static int commit_fails(struct node *n)
{
    struct err e = {0};

    if (n->id == SVC_WORKER || !sim_chance(n->sim, n->sim->f.disk)) {
        return 0;
    }
    sqlite3_commit_hook(db_handle(n->db), refuse_commit, NULL);
    int rc = engine_commit(n->engine, &e);
    sqlite3_commit_hook(db_handle(n->db), NULL, NULL);
    if (rc == 0) { /* there was nothing to write */
        sim_fail(n->sim, "%s: a commit succeeds that should fail", n->name);
    }
    engine_rollback(n->engine);
    sim_trace(n->sim, n->name, "fault: the commit fails");
    n->sim->counts[COUNT_DISK]++;
    return 1;
}

/* Handles in[0..n_take) in one transaction. -1: it crashed; 1: it was undone. */
static int transact(struct node *n, size_t n_take, enum disposition *disp, int *delay_ms,
                    enum crash_at at, uint64_t *ret_committed)
{
    struct sim *s = n->sim;
    struct err e = {0};

    if (at) {
        *ret_committed = check_dump(n);
    }
    if (at == CRASH_BEFORE_HANDLE) {
        return -1;
    }
    n->n_handling = 0;
    if (engine_begin(n->engine, &e) < 0) {
        sim_fail(s, "%s: begin: %s", n->name, e.msg);
    }
    for (size_t i = 0; i < n_take; i++) {
        handle_one(n, &n->in[i], &disp[i], &delay_ms[i]);
    }
    if (!(s->brk == BREAK_DEADLINES && n->id == SVC_SCHEDULER) && engine_tick(n->engine, &e) < 0) {
        sim_fail(s, "%s: tick: %s", n->name, e.msg);
    }
    if (at == CRASH_BEFORE_COMMIT) {
        return -1;
    }
    if (!at && commit_fails(n)) {
        for (size_t i = 0; i < n_take; i++) {
            disp[i] = DISP_NAK;
            delay_ms[i] = DB_RETRY_MS;
        }
        n->tick_not_before_ms = s->now + DB_RETRY_MS;
        return 1;
    }
    if (engine_commit(n->engine, &e) < 0) {
        sim_fail(s, "%s: commit: %s", n->name, e.msg);
    }
    n->n_handled += n->n_handling;
    n->n_handling = 0;
    if (at) {
        *ret_committed = check_dump(n);
    }
    check_commit(n);
    return at == CRASH_AFTER_COMMIT ? -1 : 0;
}

static void acknowledge(struct node *n, size_t n_take, const enum disposition *disp,
                        const int *delay_ms)
{
    for (size_t i = 0; i < n_take; i++) {
        struct delivery *d = n->in[i].delivery;
        if (d && disp[i] == DISP_ACK) {
            bus_ack(n->sim, d);
        } else if (d) {
            bus_nak(n->sim, d, delay_ms[i]);
        }
        payload_unref(n->in[i].wire.payload);
    }
    n->n_in -= n_take;
    for (size_t i = 0; i < n->n_in; i++) {
        n->in[i] = n->in[i + n_take];
    }
}

static void turn(struct sim *s, void *arg, int64_t epoch)
{
    struct node *n = arg;
    enum disposition disp[32];
    int delay_ms[32];
    uint64_t committed = 0;

    if (n->epoch != epoch || !n->engine) {
        return;
    }
    n->turn_due = 0;
    size_t take = n->n_in > 1 ? 1 + sim_random(s, n->n_in) : n->n_in;
    take = take < ARRAY_LEN(disp) ? take : ARRAY_LEN(disp);
    enum crash_at at = pick_crash(n);
    keep_before(n);
    int rc = transact(n, take, disp, delay_ms, at, &committed);
    if (rc < 0) {
        crash_at(n, at, committed);
        return;
    }
    if (rc == 0 && publish_all(n, at) < 0) {
        crash_at(n, at, committed);
        return;
    }
    if (rc == 0 && act_all(n, at) < 0) {
        if (n->engine && n->epoch == epoch) {
            node_crash(n, crash_texts[CRASH_AMID_ACTIONS]);
        }
        return;
    }
    if (at == CRASH_BEFORE_ACK) {
        node_crash(n, crash_texts[at]);
        return;
    }
    acknowledge(n, take, disp, delay_ms);
    if (n->n_in) {
        schedule_turn(n, 1);
    }
    after(n, (unsigned)epoch);
}

int node_call(struct node *n, engine_call_fn fn, void *arg)
{
    struct sim *s = n->sim;
    unsigned epoch = n->epoch;
    enum crash_at at = pick_crash(n);
    uint64_t committed = 0;
    struct err e = {0};

    if (!n->engine) {
        return -1;
    }
    if (engine_begin(n->engine, &e) < 0) {
        sim_fail(s, "%s: begin: %s", n->name, e.msg);
    }
    if (at) {
        committed = check_dump(n);
    }
    if (engine_call(n->engine, fn, arg, &e) < 0) {
        engine_rollback(n->engine);
        sim_fail(s, "%s: a call fails: %s", n->name, e.msg);
    }
    if (at == CRASH_BEFORE_COMMIT || at == CRASH_BEFORE_HANDLE) {
        crash_at(n, at, committed);
        return -1;
    }
    if (engine_commit(n->engine, &e) < 0) {
        sim_fail(s, "%s: commit: %s", n->name, e.msg);
    }
    check_commit(n);
    if (at == CRASH_AFTER_COMMIT || publish_all(n, at) < 0) {
        node_crash(n, crash_texts[at]);
        return -1;
    }
    if (act_all(n, at) < 0) {
        if (n->engine && n->epoch == epoch) {
            node_crash(n, crash_texts[CRASH_AMID_ACTIONS]);
        }
        return -1;
    }
    after(n, epoch);
    return n->engine && n->epoch == epoch ? 0 : -1;
}

/* ---- time ------------------------------------------------------------------------------------ */

static void tick(struct sim *s, void *arg, int64_t token)
{
    struct node *n = arg;

    if (!n->engine || n->tick_token != (unsigned)token || n->turn_due) {
        return;
    }
    if (++n->spins > SPINS_MAX) {
        sim_fail(s, "stuck: the timer of %s fires and fires", n->name);
    }
    n->turn_due = 1;
    turn(s, n, n->epoch);
}

static void arm_tick(struct node *n)
{
    int64_t at = engine_next_tick_ms(n->engine);

    if (at == INT64_MAX) {
        return;
    }
    at -= n->skew_ms;
    at = at < n->tick_not_before_ms ? n->tick_not_before_ms : at;
    sim_at(n->sim, at <= n->sim->now ? n->sim->now + 1 : at, tick, n, ++n->tick_token);
}

/* The shell does this when a publish was refused; harmless at any time. */
static void requeue(struct sim *s, void *arg, int64_t epoch)
{
    struct node *n = arg;
    struct err e = {0};

    if (!n->engine || n->epoch != epoch || n->id == SVC_WORKER || !sim_chance(s, 200)) {
        return;
    }
    if (s->brk != BREAK_OUTBOX && engine_requeue_outbox(n->engine, 0, &e) < 0) {
        sim_fail(s, "%s: requeue: %s", n->name, e.msg);
    }
    schedule_turn(n, 1);
}
