#include "cli/jobs.h"

/* What the scheduler and the gate say, as JSON and as lines. */

/* Zero-copy of a string that may be NULL in a message built by hand. */
static json_t *str(const char *s)
{
    return json_string(s ? s : "");
}

json_t *json_of_refusal(const Coffer__V1__Refusal *r)
{
    return r ? json_pack("{s:o,s:o,s:o,s:o,s:o,s:o}", "code", str(r->code), "clause",
                         str(r->clause), "expected", str(r->expected), "actual", str(r->actual),
                         "message", str(r->message), "by", str(r->by))
             : json_null();
}

json_t *json_of_status(const Coffer__V1__JobStatus *s)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:I,s:o,s:o,s:b,s:I,s:I,s:I,s:o,s:o,s:b}", "job",
                     str(s->job), "name", str(s->name), "consumer", str(s->consumer), "state",
                     str(s->state), "attempt", (json_int_t)s->attempt, "host", str(s->host),
                     "backend", str(s->backend), "downgraded", s->downgraded, "created_ms",
                     (json_int_t)s->created_ms, "updated_ms", (json_int_t)s->updated_ms, "last_seq",
                     (json_int_t)s->last_seq, "reason", json_of_refusal(s->reason), "image",
                     str(s->image), "terminal", s->terminal);
}

json_t *json_of_event(const Coffer__V1__JobEvent *ev)
{
    return json_pack("{s:o,s:I,s:o,s:o,s:I,s:I,s:o,s:o,s:b,s:b,s:o,s:o}", "job", str(ev->job),
                     "seq", (json_int_t)ev->seq, "state", str(ev->state), "previous",
                     str(ev->previous), "attempt", (json_int_t)ev->attempt, "at_ms",
                     (json_int_t)ev->at_ms, "host", str(ev->host), "backend", str(ev->backend),
                     "downgraded", ev->downgraded, "terminal", ev->terminal, "reason",
                     json_of_refusal(ev->reason), "detail", str(ev->detail));
}

const char *outcome_text(Coffer__V1__GateOutcome o)
{
    switch (o) {
    case COFFER__V1__GATE_OUTCOME__GATE_RELEASED:
        return "released";
    case COFFER__V1__GATE_OUTCOME__GATE_HELD:
        return "held";
    case COFFER__V1__GATE_OUTCOME__GATE_REJECTED:
        return "rejected";
    case COFFER__V1__GATE_OUTCOME__GATE_FAILED:
        return "failed";
    case COFFER__V1__GATE_OUTCOME__GATE_UNKNOWN:
    case _COFFER__V1__GATE_OUTCOME_IS_INT_SIZE:
        break;
    }
    return "unknown";
}

json_t *json_of_held(const Coffer__V1__HeldResult *h)
{
    json_t *reasons = json_array(), *files = json_array();

    for (size_t i = 0; i < h->n_reasons; i++) {
        json_array_append_new(reasons, str(h->reasons[i]));
    }
    for (size_t i = 0; i < h->n_files; i++) {
        json_array_append_new(files, json_pack("{s:o,s:o,s:I}", "path", str(h->files[i]->path),
                                               "type", str(h->files[i]->type), "bytes",
                                               (json_int_t)h->files[i]->bytes));
    }
    return json_pack("{s:o,s:I,s:s,s:I,s:o,s:o,s:I,s:I}", "job", str(h->job), "attempt",
                     (json_int_t)h->attempt, "outcome", outcome_text(h->outcome), "score",
                     (json_int_t)h->score, "reasons", reasons, "files", files, "since_ms",
                     (json_int_t)h->since_ms, "expires_ms", (json_int_t)h->expires_ms);
}

void say_refusal(struct cli *c, const Coffer__V1__Refusal *r)
{
    cli_say(c, "  %swhy%s       %s", cli_color(c, COLOR_BOLD), cli_color(c, COLOR_OFF), r->message);
    if (r->clause[0]) {
        cli_say(c, "  clause    %s", r->clause);
    }
    if (r->expected[0]) {
        cli_say(c, "  expected  %s", r->expected);
    }
    if (r->actual[0]) {
        cli_say(c, "  actual    %s", r->actual);
    }
    if (r->by[0]) {
        cli_say(c, "  said by   %s (%s)", r->by, r->code);
    }
}

void say_gate_view(struct cli *c, const Coffer__V1__HeldResult *h)
{
    char size[32];

    if (h->outcome == COFFER__V1__GATE_OUTCOME__GATE_FAILED) {
        cli_say(c, "  gate      the workload failed: there was no output (attempt %u)", h->attempt);
        return;
    }
    cli_say(c, "  gate      %s, score %u of 100 (attempt %u)", outcome_text(h->outcome), h->score,
            h->attempt);
    for (size_t i = 0; i < h->n_reasons; i++) {
        cli_say(c, "    - %s", h->reasons[i]);
    }
    for (size_t i = 0; i < h->n_files; i++) {
        cli_say(c, "    file %s  %s  %s", h->files[i]->path, h->files[i]->type,
                bytes_text(h->files[i]->bytes, size));
    }
}

const Coffer__V1__HeldResult *gate_view(struct cli *c, const char *job,
                                        Coffer__V1__Reply **ret_reply)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    struct err e = {0};

    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_SHOW;
    q.show = (char *)(uintptr_t)job;
    if (client_ask(c, SUBJ_GATE_REVIEW, &q.base, COFFER__V1__REPLY__BODY_REVIEW, &r, &e) ||
        r->review->n_held != 1 || !streq(r->review->held[0]->job, job)) {
        c->by[0] = '\0';
        return NULL;
    }
    *ret_reply = TAKE_PTR(r);
    return (*ret_reply)->review->held[0];
}
