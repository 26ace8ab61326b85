#include "cli/jobs.h"
#include "cli/verbs.h"

/* coffer explain: why a job is where it is. */

/* All events of a job, as long as there are any; at most a few thousand. */
#define EVENTS_MAX 4096

struct history {
    Coffer__V1__Reply *pages[64];
    size_t n_pages;
    const Coffer__V1__JobEvent *events[EVENTS_MAX]; /* borrowed from the pages */
    size_t n;
};

static void history_done(struct history *h)
{
    for (size_t i = 0; i < h->n_pages; i++) {
        coffer__v1__reply__free_unpacked(h->pages[i], NULL);
    }
}

static int history_load(struct cli *c, const char *job, struct history *h, struct err *e)
{
    size_t before;

    do {
        before = h->n;
        Coffer__V1__Reply **page = &h->pages[h->n_pages];
        if (job_events_from(c, job, h->n + 1, page, e)) {
            return -1;
        }
        const Coffer__V1__QueryReply *q = (*page)->query;
        h->n_pages++;
        for (size_t i = 0; i < q->n_events && h->n < EVENTS_MAX; i++) {
            if (q->events[i]->seq == h->n + 1) {
                h->events[h->n++] = q->events[i];
            }
        }
    } while (h->n != before && h->n_pages < ARRAY_LEN(h->pages));
    return 0;
}

static const Coffer__V1__Refusal *last_reason(const struct history *h,
                                              const Coffer__V1__JobStatus *s)
{
    if (s->reason) {
        return s->reason;
    }
    for (size_t i = h->n; i > 0; i--) {
        if (h->events[i - 1]->reason) {
            return h->events[i - 1]->reason;
        }
    }
    return NULL;
}

static const char *meaning(const char *state)
{
    static const struct {
        const char *state, *text;
    } texts[] = {
        {"queued", "waits for a host that can take it"},
        {"launching", "its confidential VM is being launched"},
        {"booted", "its worker runs and is about to prove what it is"},
        {"attested", "its evidence was accepted; it waits for its keys"},
        {"running", "has its keys; its workload runs or its output is with the gate"},
        {"held", "its output waits for a reviewer"},
        {"released", "its output was let out to its recipients"},
        {"rejected", "its output was not let out"},
        {"failed", "the workload or the host failed"},
        {"refused", "a service refused it evidence or keys"},
        {"timed-out", "took longer than it may"},
        {"cancelled", "its consumer cancelled it"},
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (streq(texts[i].state, state)) {
            return texts[i].text;
        }
    }
    return "";
}

static void say_history(struct cli *c, const struct history *h)
{
    const char *state = "";

    cli_say(c, "  what happened");
    for (size_t i = 0; i < h->n; i++) {
        const Coffer__V1__JobEvent *ev = h->events[i];
        if (streq(ev->state, state)) {
            continue;
        }
        state = ev->state;
        cli_say(c, "  %9.3f s  %-10s%s%s%s%s%s", (double)(ev->at_ms - h->events[0]->at_ms) / 1000,
                ev->state, ev->host[0] ? "  on " : "", ev->host, ev->detail[0] ? "  " : "",
                ev->detail, ev->downgraded ? "  DOWNGRADED" : "");
        if (ev->reason && !ev->terminal) {
            cli_say(c, "              attempt %u: %s", ev->attempt, ev->reason->message);
        }
    }
}

static int explain_json(struct cli *c, const Coffer__V1__JobStatus *s, const struct history *h,
                        const Coffer__V1__HeldResult *view)
{
    json_t *events = json_array();

    for (size_t i = 0; i < h->n; i++) {
        json_array_append_new(events, json_of_event(h->events[i]));
    }
    json_t *o =
        json_pack("{s:s,s:s,s:I,s:b,s:s,s:o,s:o}", "job", s->job, "state", s->state, "attempt",
                  (json_int_t)s->attempt, "downgraded", s->downgraded, "meaning", meaning(s->state),
                  "reason", json_of_refusal(last_reason(h, s)), "events", events);
    json_object_set_new(o, "gate", view ? json_of_held(view) : json_null());
    return cli_json(c, o);
}

int verb_explain(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(history_done) struct history h = {0};
    _cleanup_reply_ Coffer__V1__Reply *r = NULL, *gate = NULL;
    char job[JOB_ID_LEN + 1];

    (void)argc;
    if (client_find_job(c, argv[0], job, &e) || client_job_status(c, job, &r, &e) ||
        history_load(c, job, &h, &e)) {
        return cli_fail(c, &e);
    }
    const Coffer__V1__JobStatus *s = r->query->jobs[0];
    const Coffer__V1__HeldResult *view = gate_view(c, job, &gate);
    if (c->json) {
        return explain_json(c, s, &h, view);
    }
    cli_say(c, "%s (%s) is %s%s%s: %s", s->job, s->name, cli_color(c, COLOR_BOLD), s->state,
            cli_color(c, COLOR_OFF), meaning(s->state));
    const Coffer__V1__Refusal *why = last_reason(&h, s);
    if (why && !streq(s->state, "released")) {
        say_refusal(c, why);
        cli_say(c, "  attempt   %u", s->attempt);
    }
    if (view) {
        say_gate_view(c, view);
    }
    if (s->downgraded) {
        cli_say(c,
                "  downgraded: tee.mode is preferred and no such host was free; it ran on %s (%s)",
                s->host, s->backend);
    }
    if (h.n) {
        say_history(c, &h);
    }
    return CLI_OK;
}
