#include "cli/jobs.h"
#include "cli/result.h"
#include "cli/verbs.h"

/* coffer run: submit, watch, fetch, open. */

const struct cli_opt opts_run[] = {
    {"out", 'o', "DIR", VALUE_DIR,
     "write the output files below DIR (default: a single text file "
     "goes to standard output)",
     0},
    {"force", 'f', NULL, VALUE_NONE, "replace files that are there", 0},
    {"timeout", 't', "TIME", VALUE_TEXT, "stop watching after this long; the job goes on", 0},
    {"store", 's', "DIR", VALUE_DIR, "where to look for the image, for its imageKeys", 0},
    {0},
};

static void follow_done(struct follow *f)
{
    json_decref(f->reason);
}

/* The job ended, but not with a result. */
static int not_released(struct cli *c, const struct follow *f)
{
    enum cli_exit code = cli_exit_of_state(f->state);
    _cleanup_reply_ Coffer__V1__Reply *status = NULL, *view = NULL;
    const Coffer__V1__HeldResult *h = NULL;
    struct err e = {0};

    if (code == CLI_HELD || code == CLI_REJECTED) {
        h = gate_view(c, f->job, &view);
        c->by[0] = '\0';
    }
    if (c->json) {
        json_t *o = json_pack("{s:s,s:s,s:b,s:O?}", "job", f->job, "state", f->state, "downgraded",
                              f->downgraded, "reason", f->reason);
        if (h) {
            json_object_set_new(o, "gate", json_of_held(h));
        }
        cli_json(c, o);
        return (int)code;
    }
    if (client_job_status(c, f->job, &status, &e) == 0 && status->query->jobs[0]->reason) {
        say_refusal(c, status->query->jobs[0]->reason);
    }
    if (h) {
        say_gate_view(c, h);
    }
    if (code == CLI_HELD) {
        cli_note(c, "held for a reviewer; once released: coffer result %s", f->job);
    }
    cli_note(c, "more: coffer explain %s", f->job);
    return (int)code;
}

static int released(struct cli *c, const struct follow *f)
{
    _cleanup_(opened_result_done) struct opened_result r = {0};
    struct err e = {0};
    json_t *json = NULL;

    if (result_get(c, f->job, &r, &e) || result_deliver(c, &r, &json, &e)) {
        cli_hint(c, "coffer result %s", f->job);
        return cli_fail(c, &e);
    }
    if (f->downgraded) {
        cli_note(c, "DOWNGRADED: it ran outside of the trusted execution environment it preferred");
    }
    if (!json) {
        return CLI_OK;
    }
    json_object_set_new(json, "job", json_string(f->job));
    json_object_set_new(json, "state", json_string("released"));
    json_object_set_new(json, "downgraded", json_boolean(f->downgraded));
    return cli_json(c, json);
}

/* Watching ended before the job did. */
static int left(struct cli *c, const struct follow *f, enum follow_end end)
{
    struct err e = {0};

    cli_hint(c, "coffer events -f %s   (coffer cancel %s ends it)", f->job, f->job);
    err_set(&e, ERR_TIMEOUT, "%s; job %s goes on (%s)",
            end == FOLLOW_TIMEOUT ? "the time to watch is over" : "detached", f->job,
            f->state[0] ? f->state : "no event yet");
    return cli_fail(c, &e);
}

int verb_run(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_spec_ struct spec *s = NULL;
    _cleanup_(follow_done) struct follow f = {0};
    struct jkey *own;
    enum follow_end end;
    int duplicate;

    (void)argc;
    if (cli_opt_duration(c, "timeout", 0, &f.timeout_ms, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (client_identity(c, &own, &e)) {
        return cli_fail(c, &e);
    }
    if (job_spec_read(c, argv[0], own, &s, &e)) {
        return cli_fail_as(c, e.code == ERR_IO ? CLI_COULD_NOT : CLI_USAGE, &e);
    }
    f.job = s->job_id;
    if (follow_prepare(c, f.job, &e) || job_submit(c, s, own, &duplicate, &e)) {
        return cli_fail(c, &e);
    }
    cli_note(c, duplicate ? "job %s (submitted before)" : "job %s", f.job);
    if (follow_run(c, &f, &end, &e)) {
        return cli_fail(c, &e);
    }
    if (end != FOLLOW_OVER) {
        return left(c, &f, end);
    }
    return streq(f.state, "released") ? released(c, &f) : not_released(c, &f);
}
