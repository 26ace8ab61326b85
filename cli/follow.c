#include <signal.h>

#include "cli/jobs.h"
#include "cli/progress.h"

/* Following a job: its events as they are published, and every 2 s what the scheduler has stored
 * from the first one that is missing. So nothing is missed, whatever the bus loses. */

#define POLL_S 2.0

struct following {
    struct cli *c;
    struct follow *f;
    struct ev_loop *loop;
    struct progress progress;
    int poll_now, signalled, timed_out;
};

int follow_prepare(struct cli *c, const char *job, struct err *e)
{
    struct bus *b;

    return client_bus(c, &b, e) || bus_subscribe(b, SUBJ_JOB_EVENT, job, e) ? -1 : 0;
}

static void take_event(struct following *w, const Coffer__V1__JobEvent *ev)
{
    _cleanup_buf_ struct buf line = BUF_INIT(8192);
    uint64_t before = w->progress.next_seq;

    if (!streq(ev->job, w->f->job)) {
        return;
    }
    progress_event(&w->progress, ev, &line);
    w->poll_now |= w->progress.missing;
    if (w->progress.next_seq == before) {
        return;
    }
    if (w->f->on_event) {
        w->f->on_event(ev, w->f->arg);
    } else if (line.n && !w->c->json) {
        fputs((char *)line.p, w->c->err);
        fflush(w->c->err);
    }
    snprintf(w->f->state, sizeof(w->f->state), "%s", ev->state);
    w->f->downgraded |= ev->downgraded;
    json_decref(w->f->reason);
    w->f->reason = ev->reason ? json_of_refusal(ev->reason) : NULL;
    w->progress.terminal = ev->terminal || (!w->f->past_hold && streq(ev->state, "held"));
}

static void on_msg(void *arg, enum subject s, const ProtobufCMessage *m)
{
    struct following *w = arg;

    if (s == SUBJ_JOB_EVENT) {
        take_event(w, (const Coffer__V1__JobEvent *)m);
        ev_break(w->loop, EVBREAK_ONE);
    }
}

/* All events that are stored. A scheduler that is away for a moment is asked again later. */
static int poll_events(struct following *w, struct err *e)
{
    size_t n;

    do {
        _cleanup_reply_ Coffer__V1__Reply *r = NULL;
        if (job_events_from(w->c, w->f->job, w->progress.next_seq, &r, e)) {
            /* Right after submitting without an answer, the job may not be known yet. */
            if (w->c->by[0] && e->code != ERR_NOT_FOUND && !err_is_transient(e->code)) {
                return -1;
            }
            w->c->by[0] = '\0';
            err_clear(e);
            return 0;
        }
        n = r->query->n_events;
        uint64_t before = w->progress.next_seq;
        for (size_t i = 0; i < n; i++) {
            take_event(w, r->query->events[i]);
        }
        if (w->progress.next_seq == before) {
            break;
        }
    } while (n && !w->progress.terminal);
    return 0;
}

static void on_poll(struct ev_loop *loop, ev_timer *t, int events)
{
    struct following *w = t->data;

    (void)events;
    w->poll_now = 1;
    ev_break(loop, EVBREAK_ONE);
}

static void on_timeout(struct ev_loop *loop, ev_timer *t, int events)
{
    struct following *w = t->data;

    (void)events;
    w->timed_out = 1;
    ev_break(loop, EVBREAK_ONE);
}

static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
    stop_signal = number;
}

/* A plain handler: only the default loop of libev may have signal watchers, and ours is our own.
 * The loop's wait returns early because of it, and the timer bounds that anyway. */
static void catch_signals(void (*handler)(int))
{
    struct sigaction sa = {.sa_handler = handler};

    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

static void on_tick(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)t;
    (void)events;
    ev_break(loop, EVBREAK_ONE);
}

int follow_run(struct cli *c, struct follow *f, enum follow_end *ret, struct err *e)
{
    struct following w = {.c = c, .f = f, .loop = client_loop(c), .poll_now = 1};
    ev_timer poll_timer, timeout, tick;
    int rc = 0;

    progress_init(&w.progress, isatty(fileno(c->err)) && c->color);
    ev_timer_init(&poll_timer, on_poll, POLL_S, POLL_S);
    poll_timer.data = &w;
    ev_timer_start(w.loop, &poll_timer);
    ev_timer_init(&tick, on_tick, 0.2, 0.2);
    ev_timer_start(w.loop, &tick);
    ev_timer_init(&timeout, on_timeout, (double)f->timeout_ms / 1000, 0);
    timeout.data = &w;
    if (f->timeout_ms) {
        ev_timer_start(w.loop, &timeout);
    }
    client_on_msg(c, on_msg, &w);
    stop_signal = 0;
    catch_signals(on_signal);
    while (!rc && !w.progress.terminal && !w.timed_out && !stop_signal) {
        if (w.poll_now) {
            w.poll_now = 0;
            rc = poll_events(&w, e);
        } else {
            ev_run(w.loop, EVRUN_ONCE);
        }
    }
    catch_signals(SIG_DFL);
    client_on_msg(c, NULL, NULL);
    ev_timer_stop(w.loop, &poll_timer);
    ev_timer_stop(w.loop, &tick);
    ev_timer_stop(w.loop, &timeout);
    *ret = w.progress.terminal ? FOLLOW_OVER : w.timed_out ? FOLLOW_TIMEOUT : FOLLOW_DETACHED;
    return rc;
}

int job_events_from(struct cli *c, const char *job, uint64_t from_seq, Coffer__V1__Reply **ret,
                    struct err *e)
{
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    Coffer__V1__JobEventsFrom from = COFFER__V1__JOB_EVENTS_FROM__INIT;

    from.job = (char *)(uintptr_t)job;
    from.from_seq = from_seq;
    q.what_case = COFFER__V1__JOB_QUERY__WHAT_EVENTS;
    q.events = &from;
    return client_ask(c, SUBJ_JOB_QUERY, &q.base, COFFER__V1__REPLY__BODY_QUERY, ret, e);
}
