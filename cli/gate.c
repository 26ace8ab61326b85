#include "cli/jobs.h"
#include "cli/result_open.h"
#include "cli/verbs.h"

/* coffer gate ls, show, approve, reject: the reviewer's side. */

const struct cli_opt opts_review[] = {
    {"reason", 'r', "TEXT", VALUE_TEXT, "why, kept with the decision", 0},
    {0},
};

int verb_gate_ls(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    _cleanup_json_ json_t *held = json_array();
    char since[32];

    (void)argc;
    (void)argv;
    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_LIST;
    q.list = 1;
    if (client_ask(c, SUBJ_GATE_REVIEW, &q.base, COFFER__V1__REPLY__BODY_REVIEW, &r, &e)) {
        return cli_fail(c, &e);
    }
    for (size_t i = 0; i < r->review->n_held; i++) {
        const Coffer__V1__HeldResult *h = r->review->held[i];
        json_array_append_new(held, json_of_held(h));
        cli_say(c, "%s  score %3u  since %s  %s", h->job, h->score, time_text(h->since_ms, since),
                h->n_reasons ? h->reasons[0] : "");
    }
    if (!r->review->n_held) {
        cli_note(c, "nothing is held");
    }
    return c->json ? cli_json(c, json_pack("{s:O}", "held", held)) : CLI_OK;
}

/* The answer comes over a bus that others run, and a reviewer's signature rests on it: score,
 * reasons and the attempt must be those that the gate signed. Names and sizes are not signed. */
static int check_shown(struct cli *c, const char *job, const Coffer__V1__HeldResult *h,
                       struct err *e)
{
    const struct trust *trust;

    return client_trust(c, &trust, e) || held_verify(trust, job, h, e) ? -1 : 0;
}

static int show(struct cli *c, const char *job, Coffer__V1__Reply **ret, struct err *e)
{
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;

    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_SHOW;
    q.show = (char *)(uintptr_t)job;
    if (client_ask(c, SUBJ_GATE_REVIEW, &q.base, COFFER__V1__REPLY__BODY_REVIEW, &r, e)) {
        return -1;
    }
    if (r->review->n_held != 1 || !streq(r->review->held[0]->job, job)) {
        return err_set(e, ERR_NOT_FOUND, "the gate has no result of %s", job);
    }
    if (check_shown(c, job, r->review->held[0], e)) {
        return -1;
    }
    *ret = TAKE_PTR(r);
    return 0;
}

int verb_gate_show(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    char job[JOB_ID_LEN + 1], when[32];

    (void)argc;
    if (client_find_job(c, argv[0], job, &e) || show(c, job, &r, &e)) {
        return cli_fail(c, &e);
    }
    const Coffer__V1__HeldResult *h = r->review->held[0];
    if (c->json) {
        return cli_json(c, json_of_held(h));
    }
    cli_say(c, "%s", h->job);
    say_gate_view(c, h);
    cli_say(c, "  since     %s", time_text(h->since_ms, when));
    if (h->outcome == COFFER__V1__GATE_OUTCOME__GATE_HELD) {
        cli_say(c, "  until     %s, then it is rejected", time_text(h->expires_ms, when));
    }
    return CLI_OK;
}

/* What a short id stands for is the scheduler's word, and the signature would go under it. */
static int whole_id(struct cli *c, const char *name, char ret[JOB_ID_LEN + 1], struct err *e)
{
    if (!job_id_valid(name) && !streq(name, "@last")) {
        return err_set(e, ERR_INVALID,
                       "job: expected the whole id, since the review of it is signed, found "
                       "\"%.60s\"",
                       name);
    }
    return client_find_job(c, name, ret, e); /* asks nobody for these */
}

/* The attempt is the one that was looked at: a newer one is another output. */
static int review(struct cli *c, const char *name, const char *verb)
{
    struct err e = {0};
    Coffer__V1__ReviewRequest q = COFFER__V1__REVIEW_REQUEST__INIT;
    _cleanup_reply_ Coffer__V1__Reply *shown = NULL, *r = NULL;
    _cleanup_json_ json_t *payload = NULL;
    _cleanup_free_ char *jws = NULL;
    const char *reason = cli_opt(c, "reason");
    char job[JOB_ID_LEN + 1];
    struct jkey *own;

    if (whole_id(c, name, job, &e) || client_identity(c, &own, &e) || show(c, job, &shown, &e)) {
        return cli_fail(c, &e);
    }
    payload = json_pack("{s:i,s:s,s:I,s:s,s:s,s:I}", "v", 1, "job", job, "attempt",
                        (json_int_t)shown->review->held[0]->attempt, "verb", verb, "reason",
                        reason ? reason : "", "iat", (json_int_t)(now_ms() / 1000));
    if (!payload) {
        return cli_usage(c, "--reason: expected UTF-8");
    }
    if (jws_sign_json(own, "coffer-review+jws", 0, payload, &jws, &e)) {
        return cli_fail(c, &e);
    }
    q.what_case = COFFER__V1__REVIEW_REQUEST__WHAT_REVIEW_JWS;
    q.review_jws = jws;
    if (client_ask(c, SUBJ_GATE_REVIEW, &q.base, COFFER__V1__REPLY__BODY_REVIEW, &r, &e)) {
        if (e.code == ERR_BAD_SIGNATURE) {
            cli_hint(c, "--key FILE, with the key of a reviewer");
        }
        return cli_fail(c, &e);
    }
    const char *outcome = r->review->n_held        ? outcome_text(r->review->held[0]->outcome)
                          : streq(verb, "approve") ? "released"
                                                   : "rejected";
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s}", "job", job, "outcome", outcome));
    }
    cli_say(c, "%s: %s", job, outcome);
    return CLI_OK;
}

int verb_gate_approve(struct cli *c, int argc, char **argv)
{
    (void)argc;
    return review(c, argv[0], "approve");
}

int verb_gate_reject(struct cli *c, int argc, char **argv)
{
    (void)argc;
    return review(c, argv[0], "reject");
}
