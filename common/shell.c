#include "common/shell.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "common/log.h"
#include "common/shell_int.h"

#define TURN_MAX 512         /* messages in one transaction */
#define UNPUBLISHED_MAX 2048 /* then no more work is asked for */
#define ACKS_HELD_MAX 256    /* PubAcks that force a commit while paused */
#define PENDING_MAX 1024     /* durable messages waiting for room in the bus's window */
#define FLUSH_MS 2000
#define DB_RETRY_MS 2000 /* redelivery after the database failed */
#define TICK_RETRY_MS 1000
#define REQUEUE_S 60.0
#define TICK_MAX_S 86400.0
#define TRIM_S 3.0
#define TRIM_MESSAGES 32 /* a turn of this many is a burst */

struct pending {
    int64_t id;
    char *subject, *msg_id;
    char traceparent[TRACEPARENT_LEN + 1];
    uint8_t *payload;
    size_t n;
};

struct shell {
    const struct service_def *def;
    const struct shell_hooks *hooks;
    void *priv;
    struct config_item *items; /* the configuration points into it */
    struct config *config;
    struct ev_loop *loop;
    struct engine *engine;
    struct bus *bus;

    struct bus_msg *turn[TURN_MAX];
    enum disposition disp[TURN_MAX];
    int delay_ms[TURN_MAX];
    size_t n_turn;
    struct pending pending[PENDING_MAX]; /* a ring */
    size_t pending_head, n_pending;
    size_t acks_held;
    int64_t tick_not_before_ms;

    ev_prepare prepare;
    ev_timer tick, requeue, watchdog, trim;
    ev_signal sig_term, sig_int;
    int tick_due, in_txn, flushing, ready, paused, status;
};

struct ev_loop *shell_loop(struct shell *sh)
{
    return sh->loop;
}

struct engine *shell_engine(struct shell *sh)
{
    return sh->engine;
}

struct bus *shell_bus(struct shell *sh)
{
    return sh->bus;
}

const struct config *shell_config(struct shell *sh)
{
    return sh->config;
}

void *shell_priv(struct shell *sh)
{
    return sh->priv;
}

void shell_set_priv(struct shell *sh, void *priv)
{
    sh->priv = priv;
}

void shell_stop(struct shell *sh, int status)
{
    sh->status = status > sh->status ? status : sh->status;
    ev_break(sh->loop, EVBREAK_ALL);
}

static int64_t clock_ms(void *arg)
{
    struct timespec t;

    (void)arg;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- after a commit ----------------------------------------------------------------------------
 */

static void pending_push(struct shell *sh, const struct outgoing *o)
{
    struct pending *p = &sh->pending[(sh->pending_head + sh->n_pending++) % PENDING_MAX];

    p->id = o->outbox_id;
    p->subject = xstrdup(o->subject);
    p->msg_id = xstrdup(o->msg_id);
    snprintf(p->traceparent, sizeof(p->traceparent), "%s", o->traceparent);
    p->payload = xmemdup(o->payload.p, o->payload.n);
    p->n = o->payload.n;
}

static void pending_pop(struct shell *sh)
{
    struct pending *p = &sh->pending[sh->pending_head];

    free(p->subject);
    free(p->msg_id);
    free(p->payload);
    memset(p, 0, sizeof(*p));
    sh->pending_head = (sh->pending_head + 1) % PENDING_MAX;
    sh->n_pending--;
}

static void log_unsent(const struct bus_out *o, const struct err *e)
{
    log_debug("bus.unsent", "%s: %s", o->subject, e->msg);
}

static void send_durable(struct shell *sh, const struct bus_out *o, int64_t id)
{
    struct err e = {0};

    if (bus_publish_durable(sh->bus, o, id, &e) < 0) {
        log_err(LOG_ERROR, "bus.unsendable", &e);
    }
}

static void send_pending(struct shell *sh)
{
    while (sh->n_pending > 0 && bus_room(sh->bus) > 0) {
        struct pending *p = &sh->pending[sh->pending_head];
        struct bus_out o = {.subject = p->subject,
                            .payload = BYTES(p->payload, p->n),
                            .msg_id = p->msg_id,
                            .traceparent = p->traceparent};
        send_durable(sh, &o, p->id);
        pending_pop(sh);
    }
}

/* Replies and facts pass durable messages that wait for room, so that a full stream does not stop
 * answers; the order among durable ones is kept. */
static void send_outbox(struct shell *sh)
{
    struct outgoing out;

    send_pending(sh);
    while (sh->n_pending < PENDING_MAX && engine_next_out(sh->engine, &out)) {
        struct bus_out o = {.subject = out.subject,
                            .payload = out.payload,
                            .msg_id = out.msg_id,
                            .traceparent = out.traceparent};
        struct err e = {0};
        if (out.outbox_id == 0) {
            if (bus_publish(sh->bus, &o, &e) < 0) {
                log_unsent(&o, &e);
            }
        } else if (sh->n_pending > 0 || bus_room(sh->bus) == 0) {
            pending_push(sh, &out);
        } else {
            send_durable(sh, &o, out.outbox_id);
        }
    }
}

static void do_actions(struct shell *sh)
{
    struct bytes data;
    int kind;

    while (engine_next_action(sh->engine, &kind, &data)) {
        /* The hook may use the engine, which takes back what it lent. */
        _cleanup_free_ uint8_t *copy = xmemdup(data.p, data.n);
        if (!sh->hooks->act) {
            log_error("shell.no-action", "action %d has nobody to do it", kind);
        } else if (sh->hooks->act(sh, kind, BYTES(copy, data.n)) < 0) {
            shell_stop(sh, 1);
        }
    }
}

static void press_back(struct shell *sh)
{
    int paused = engine_unpublished(sh->engine) > UNPUBLISHED_MAX;

    if (paused != sh->paused) {
        sh->paused = paused;
        bus_pause(sh->bus, paused);
        log_at(paused ? LOG_WARN : LOG_INFO, paused ? "shell.paused" : "shell.resumed",
               "%zu messages are not published yet", engine_unpublished(sh->engine));
    }
}

static void arm_tick(struct shell *sh)
{
    int64_t now = clock_ms(NULL), next = engine_next_tick_ms(sh->engine);

    ev_timer_stop(sh->loop, &sh->tick);
    if (next == INT64_MAX) {
        return;
    }
    next = next < sh->tick_not_before_ms ? sh->tick_not_before_ms : next;
    double in_s = next > now ? (double)(next - now) / 1000.0 : 0.0;
    ev_now_update(sh->loop);
    ev_timer_set(&sh->tick, in_s < 0.001 ? 0.001 : in_s > TICK_MAX_S ? TICK_MAX_S : in_s, 0);
    ev_timer_start(sh->loop, &sh->tick);
}

static void after_commit(struct shell *sh)
{
    if (sh->flushing) {
        return; /* the one that is at it goes on with what was added */
    }
    sh->flushing = 1;
    send_outbox(sh);
    do_actions(sh);
    send_outbox(sh); /* of actions that used shell_call */
    sh->flushing = 0;
    press_back(sh);
    arm_tick(sh);
}

/* ---- one turn ----------------------------------------------------------------------------------
 */

static void log_outcome(const struct bus_msg *m, enum disposition d, int delay_ms,
                        const struct err *why)
{
    if (why->code == ERR_NONE) {
        return;
    }
    log_context(m->job, m->attempt);
    if (d == DISP_NAK) {
        log_err(LOG_WARN, "message.retry", why);
        log_debug("message.retry", "%s again in %d ms (delivery %u)", subjects[m->m.subject].name,
                  delay_ms, m->m.deliveries);
    } else if (m->durable) {
        log_err(LOG_ERROR, "message.dead", why);
    } else {
        log_err(LOG_INFO, "message.refused", why);
    }
    log_context(NULL, 0);
}

static int handle_turn(struct shell *sh, size_t n, int tick, struct err *e)
{
    if (engine_begin(sh->engine, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        struct err why = {0};
        if (engine_handle(sh->engine, &sh->turn[i]->m, &sh->disp[i], &sh->delay_ms[i], &why, e) <
            0) {
            return -1;
        }
        log_outcome(sh->turn[i], sh->disp[i], sh->delay_ms[i], &why);
    }
    if (tick) {
        struct err te = {0};
        sh->tick_not_before_ms = 0;
        if (engine_tick(sh->engine, &te) < 0) {
            log_err(LOG_ERROR, "tick.failed", &te);
            sh->tick_not_before_ms = clock_ms(NULL) + TICK_RETRY_MS;
        }
    }
    return engine_commit(sh->engine, e);
}

static void settle_turn(struct shell *sh, size_t n, int failed)
{
    for (size_t i = 0; i < n; i++) {
        if (failed) {
            bus_nak(sh->bus, sh->turn[i], DB_RETRY_MS);
        } else if (sh->disp[i] == DISP_NAK) {
            bus_nak(sh->bus, sh->turn[i], sh->delay_ms[i]);
        } else {
            bus_ack(sh->bus, sh->turn[i]);
        }
        bus_msg_free(sh->turn[i]);
        sh->turn[i] = NULL;
    }
}

static void work(struct shell *sh)
{
    size_t n = sh->n_turn;
    int tick = sh->tick_due;
    struct err e = {0};

    if (sh->in_txn) {
        return;
    }
    sh->in_txn = 1;
    sh->n_turn = 0;
    sh->tick_due = 0;
    sh->acks_held = 0;
    int failed = handle_turn(sh, n, tick, &e) < 0;
    if (failed) {
        engine_rollback(sh->engine);
        log_err(LOG_ERROR, "database.failed", &e);
        sh->tick_not_before_ms = clock_ms(NULL) + DB_RETRY_MS;
    }
    sh->in_txn = 0;
    if (!failed) {
        after_commit(sh);
    } else {
        arm_tick(sh);
    }
    settle_turn(sh, n, failed);
    if (n >= TRIM_MESSAGES && !ev_is_active(&sh->trim)) {
        ev_timer_again(sh->loop, &sh->trim);
    }
}

int shell_call(struct shell *sh, engine_call_fn fn, void *arg, struct err *e)
{
    if (sh->in_txn) {
        return err_set(e, ERR_INTERNAL, "shell_call inside a transaction");
    }
    sh->in_txn = 1;
    int r = engine_begin(sh->engine, e);
    r = r < 0 ? r : engine_call(sh->engine, fn, arg, e);
    r = r < 0 ? r : engine_commit(sh->engine, e);
    if (r < 0) {
        engine_rollback(sh->engine);
    }
    sh->in_txn = 0;
    if (r == 0) {
        after_commit(sh);
    }
    return r;
}

/* ---- callbacks ---------------------------------------------------------------------------------
 */

static void on_prepare(struct ev_loop *loop, ev_prepare *w, int events)
{
    struct shell *sh = w->data;

    (void)loop;
    (void)events;
    if (sh->n_turn > 0 || sh->tick_due || (sh->paused && sh->acks_held >= ACKS_HELD_MAX)) {
        work(sh);
    }
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    ((struct shell *)w->data)->tick_due = 1;
}

static void on_requeue(struct ev_loop *loop, ev_timer *w, int events)
{
    struct shell *sh = w->data;
    struct err e = {0};

    (void)loop;
    (void)events;
    while (sh->n_pending > 0) {
        pending_pop(sh);
    }
    if (engine_requeue_outbox(sh->engine, 0, &e) < 0) {
        log_err(LOG_ERROR, "outbox.failed", &e);
    }
    after_commit(sh);
}

/* The start, and every burst of messages, leave holes in the heap. */
static void on_trim(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)events;
    ev_timer_stop(loop, w);
    malloc_trim(0);
}

static void on_watchdog(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)w;
    (void)events;
    notify_send("WATCHDOG=1");
}

static void on_signal(struct ev_loop *loop, ev_signal *w, int events)
{
    (void)loop;
    (void)events;
    log_info("shell.signal", "stopping: %s", w->signum == SIGTERM ? "SIGTERM" : "SIGINT");
    shell_stop(w->data, 0);
}

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    struct shell *sh = arg;

    (void)b;
    if (sh->n_turn == TURN_MAX) {
        work(sh);
    }
    sh->disp[sh->n_turn] = DISP_ACK;
    sh->delay_ms[sh->n_turn] = 0;
    sh->turn[sh->n_turn++] = m;
}

static void on_puback(struct bus *b, int64_t tag, const struct err *why, void *arg)
{
    struct shell *sh = arg;

    (void)b;
    if (why) {
        /* The row stays; perhaps an operator repairs the stream. */
        log_err(LOG_ERROR, "outbox.refused", why);
        if (!ev_is_active(&sh->requeue)) {
            ev_timer_set(&sh->requeue, REQUEUE_S, 0);
            ev_timer_start(sh->loop, &sh->requeue);
        }
    } else if (tag > 0) {
        engine_published(sh->engine, tag);
        if (sh->acks_held++ == 0 && sh->n_turn == 0) {
            arm_tick(sh);
        }
    }
    if (sh->n_pending > 0 && !sh->flushing) {
        sh->flushing = 1;
        send_outbox(sh);
        sh->flushing = 0;
    }
}

static void on_event(struct bus *b, enum bus_event ev, const struct err *e, void *arg)
{
    struct shell *sh = arg;

    (void)b;
    switch (ev) {
    case BUS_CONNECTED:
        log_info(bus_event_name(ev), "%s", config_str(sh->config, "nats-url"));
        if (!sh->ready) {
            sh->ready = 1;
            notify_send("READY=1");
            ev_timer_again(sh->loop, &sh->trim);
        }
        return;
    case BUS_LOST:
    case BUS_CONNECT_FAILED:
    case BUS_BACKPRESSURE:
    case BUS_DROPPED:
    case BUS_CONSUMER_SILENT:
        log_err(LOG_WARN, bus_event_name(ev), e);
        return;
    case BUS_REFUSED:
        log_err(LOG_ERROR, bus_event_name(ev), e);
        return;
    }
}

/* ---- life
 * ---------------------------------------------------------------------------------------- */

static int open_engine(struct shell *sh, struct err *e)
{
    const char *dir = config_str(sh->config, "data-dir");
    /* A worker leaves nothing behind. */
    int in_memory = streq(dir, ":memory:");
    _cleanup_free_ char *path =
        in_memory ? xstrdup(dir) : xasprintf("%s/%s.db", dir, service_name(sh->def->id));
    struct engine_opts o = {.db_path = path, .clock = clock_ms, .config = sh->config};

    if (!in_memory && mkdir(dir, 0700) < 0 && errno != EEXIST) {
        return err_errno(e, "data-dir: mkdir %s", dir);
    }
    if (engine_open(sh->def, &o, &sh->engine, e) < 0) {
        return err_wrap(e, "%s", path);
    }
    /* A PubAck is no fsync of the stream: what was published lately goes out again. */
    return engine_requeue_outbox(sh->engine, 1, e);
}

static int open_bus(struct shell *sh, struct err *e)
{
    struct bus_opts o = {.url = config_str(sh->config, "nats-url"),
                         .ca_file = config_str(sh->config, "nats-ca"),
                         .seed_file = config_str(sh->config, "nats-seed"),
                         .service = sh->def->id,
                         .host = config_str(sh->config, "host"),
                         .arg = sh,
                         .on_event = on_event,
                         .on_msg = on_msg,
                         .on_puback = on_puback};

    if (bus_new(&o, sh->loop, &sh->bus, e) < 0) {
        return -1;
    }
    return bus_serve(sh->bus, e);
}

static void add_watchers(struct shell *sh)
{
    double watchdog_s = notify_watchdog_s();

    ev_prepare_init(&sh->prepare, on_prepare);
    sh->prepare.data = sh;
    ev_prepare_start(sh->loop, &sh->prepare);
    ev_timer_init(&sh->tick, on_tick, 0, 0);
    sh->tick.data = sh;
    ev_timer_init(&sh->trim, on_trim, TRIM_S, TRIM_S);
    ev_timer_init(&sh->requeue, on_requeue, 0, 0);
    sh->requeue.data = sh;
    ev_signal_init(&sh->sig_term, on_signal, SIGTERM);
    sh->sig_term.data = sh;
    ev_signal_start(sh->loop, &sh->sig_term);
    ev_signal_init(&sh->sig_int, on_signal, SIGINT);
    sh->sig_int.data = sh;
    ev_signal_start(sh->loop, &sh->sig_int);
    ev_timer_init(&sh->watchdog, on_watchdog, watchdog_s, watchdog_s);
    if (watchdog_s > 0) {
        ev_timer_start(sh->loop, &sh->watchdog);
    }
}

/* Finishes what was taken on, sends what can be sent in 2 s; the rest is in the outbox. */
static void wind_down(struct shell *sh)
{
    struct err e = {0};

    notify_send("STOPPING=1");
    bus_pause(sh->bus, 1);
    if (sh->hooks->stopping) {
        sh->hooks->stopping(sh);
    }
    if (sh->n_turn > 0) {
        work(sh);
    }
    if (bus_flush(sh->bus, FLUSH_MS) < 0) {
        log_warn("shell.unflushed", "%zu messages go out after the next start",
                 engine_unpublished(sh->engine));
    }
    if (engine_begin(sh->engine, &e) < 0 || engine_commit(sh->engine, &e) < 0) {
        engine_rollback(sh->engine);
        log_err(LOG_WARN, "database.failed", &e);
    }
}

static void log_totals(struct shell *sh)
{
    const struct engine_stats *g = engine_stats(sh->engine);
    const struct bus_stats *b = bus_stats(sh->bus);

    log_info("shell.stopped",
             "handled=%llu duplicates=%llu refused=%llu retried=%llu dead=%llu commits=%llu "
             "published=%llu dropped=%llu too-large=%llu connects=%llu",
             (unsigned long long)g->handled, (unsigned long long)g->duplicates,
             (unsigned long long)g->refused, (unsigned long long)g->retried,
             (unsigned long long)g->dead, (unsigned long long)g->commits,
             (unsigned long long)g->published, (unsigned long long)b->dropped,
             (unsigned long long)b->too_large, (unsigned long long)b->connects);
}

static int run(struct shell *sh, struct err *e)
{
    sh->loop = ev_default_loop(EVFLAG_AUTO);
    if (!sh->loop) {
        return err_set(e, ERR_IO, "no event loop");
    }
    if (open_engine(sh, e) < 0 || open_bus(sh, e) < 0) {
        return -1;
    }
    add_watchers(sh);
    if (sh->hooks->started && sh->hooks->started(sh) < 0) {
        return err_set(e, ERR_INTERNAL, "the service's own start failed");
    }
    bus_start(sh->bus);
    after_commit(sh);
    ev_run(sh->loop, 0);
    wind_down(sh);
    log_totals(sh);
    return 0;
}

static void shell_done(struct shell *sh)
{
    for (size_t i = 0; i < sh->n_turn; i++) {
        bus_msg_free(sh->turn[i]);
    }
    while (sh->n_pending > 0) {
        pending_pop(sh);
    }
    bus_free(sh->bus);
    engine_close(sh->engine);
    config_free(sh->config);
    free(sh->items);
    free(sh);
}

static int configure(struct shell *sh, const char *program, int argc, char **argv, struct err *e)
{
    size_t n = n_config_common + sh->def->n_config;
    struct config_item *items = xcalloc(n, sizeof(*items));
    enum log_level level;

    sh->items = items;
    memcpy(items, config_common, n_config_common * sizeof(*items));
    if (sh->def->n_config) {
        memcpy(items + n_config_common, sh->def->config, sh->def->n_config * sizeof(*items));
    }
    const char *about = sh->hooks->about ? sh->hooks->about : "a service of Coffer";
    if (config_load(program, about, items, n, argc, argv, &sh->config, e) < 0) {
        return -1;
    }
    if (log_level_parse(config_str(sh->config, "log-level"), &level) < 0) {
        return err_set(e, ERR_INVALID, "log-level: expected debug, info, warn or error, got \"%s\"",
                       config_str(sh->config, "log-level"));
    }
    log_init(&(struct log_opts){
        .service = program, .level = level, .json = config_bool(sh->config, "log-json")});
    return 0;
}

int service_main_hooks(const struct service_def *def, const struct shell_hooks *hooks, int argc,
                       char **argv)
{
    static char program[64];
    struct err e = {0};
    struct shell *sh = xcalloc(1, sizeof(*sh));

    snprintf(program, sizeof(program), "svc-%s", service_name(def->id));
    log_init(&(struct log_opts){.service = program, .level = LOG_INFO});
    sh->def = def;
    sh->hooks = hooks;
    harden_process();
    if (configure(sh, program, argc, argv, &e) < 0) {
        fprintf(stderr, "%s: %s\n", program, e.msg);
        shell_done(sh);
        return 2;
    }
    if (config_bool(sh->config, "die-with-parent") && die_with_parent() < 0) {
        shell_done(sh);
        return 0;
    }
    _cleanup_free_ char *effective = config_describe(sh->config);
    log_info("shell.start", "version " COFFER_VERSION " %s", effective);
    int status = 0;
    if (run(sh, &e) < 0) {
        log_err(LOG_ERROR, "shell.failed", &e);
        status = 1;
    } else {
        status = sh->status;
    }
    shell_done(sh);
    return status;
}

int service_main(const struct service_def *def, int argc, char **argv)
{
    static const struct shell_hooks none;

    return service_main_hooks(def, &none, argc, argv);
}
