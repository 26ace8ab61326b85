#include "cli/appraise_job.h"
#include "cli/verbs.h"

/* coffer appraise: is this evidence genuine? */

const struct cli_opt opts_appraise[] = {
    APPRAISE_OPTS,
    {"policy", 'p', "FILE", VALUE_FILE,
     "an appraisal policy (docs/POLICY.md) that decides the trust vector, or refuses", 0},
    {0},
};

const char help_appraise[] =
    "Checks that evidence is genuine: signatures up to the maker's pinned root, dates, revocation, "
    "identities, TCB. Without collateral it checks what needs none and says what it could not "
    "check. Exit status: 0 genuine, whatever its TCB status, which is printed; 1 refused, with the "
    "check that failed; 2 the command line, or a file that cannot be read.";

/* ---- the answer ------------------------------------------------------------------------------ */

static json_t *vector_json(const struct appraisal *a)
{
    json_t *o = json_object();

    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        json_object_set_new(o, ear_vector_members[i], json_integer(a->vector[i]));
    }
    return o;
}

static json_t *list_or_empty(json_t *list)
{
    return list ? json_incref(list) : json_array();
}

static int say_json(struct cli *c, const struct appraise_job *j, const struct err *why)
{
    const struct appraisal *a = &j->appraisal;
    const char *status = tcb_status_name(a->tcb_status);
    json_t *o = json_pack("{s:b,s:s,s:o,s:o,s:s,s:o,s:o}", "genuine", !why, "tee", j->tee->tee,
                          "tcb_status", *status ? json_string(status) : json_null(), "advisories",
                          list_or_empty(a->advisories), "tier", why ? "none" : tier_name(a->tier),
                          "unchecked", list_or_empty(a->unchecked), "claims",
                          a->claims ? json_incref(a->claims) : json_object());

    if (why) {
        json_object_set_new(
            o, "failed",
            json_pack("{s:s,s:s,s:s,s:s}", "check", why->clause[0] ? why->clause : "evidence",
                      "expected", why->clause[0] ? why->expected : "well-formed evidence", "actual",
                      why->clause[0] ? why->actual : why->msg, "code", err_code_name(why->code)));
    } else {
        json_object_set_new(o, "status", json_string(ear_vector_status(a->vector)));
        json_object_set_new(o, "trust_vector", vector_json(a));
    }
    return cli_json(c, o);
}

static void say_list(struct cli *c, const char *name, const json_t *list)
{
    size_t i;
    json_t *v;

    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        cli_say(c, "  %-12s %s", i ? "" : name, json_string_value(v));
    }
}

static void say_genuine(struct cli *c, const struct appraise_job *j)
{
    const struct appraisal *a = &j->appraisal;
    const char *tcb = tcb_status_name(a->tcb_status), *status = ear_vector_status(a->vector);

    cli_say(c, "%sgenuine%s %s evidence", cli_color(c, COLOR_GOOD), cli_color(c, COLOR_OFF),
            j->tee->tee);
    cli_say(c, "  %-12s %s", "tier", tier_name(a->tier));
    if (*tcb) {
        cli_say(c, "  %-12s %s%s%s", "tcb status",
                cli_color(c, a->tcb_status == TCB_UP_TO_DATE ? COLOR_GOOD : COLOR_WARN), tcb,
                cli_color(c, COLOR_OFF));
    }
    say_list(c, "advisories", a->advisories);
    cli_say(c, "  %-12s %s", "appraisal", status);
    say_list(c, "not checked", a->unchecked);
    if (!j->has_report_data && !j->nonce.n) {
        cli_note(c, "what it is bound to was not checked: no --report-data or --nonce was given");
    }
    if (c->verbose) {
        _cleanup_free_ char *text = json_dumps(a->claims, JSON_INDENT(2));
        cli_clean(text, text ? strlen(text) : 0, 1);
        cli_say(c, "%s", text ? text : "{}");
    }
}

static void say_refused(struct cli *c, const struct appraise_job *j, const struct err *of)
{
    struct err clean = *of, *why = &clean;

    cli_clean(clean.msg, strlen(clean.msg), 0);
    cli_clean(clean.expected, strlen(clean.expected), 0);
    cli_clean(clean.actual, strlen(clean.actual), 0);
    cli_say(c, "%srefused%s %s evidence", cli_color(c, COLOR_BAD), cli_color(c, COLOR_OFF),
            j->tee->tee);
    if (why->clause[0]) {
        cli_say(c, "  %-12s %s", "check", why->clause);
        cli_say(c, "  %-12s %s", "expected", why->expected);
        cli_say(c, "  %-12s %s", "actual", why->actual);
    } else {
        cli_say(c, "  %-12s %s", "why", why->msg);
    }
}

static int appraise(struct cli *c, struct appraise_job *j, const struct policy *policy)
{
    struct err why = {0};
    int rc = appraise_job_run(j, &why);

    if (!rc && policy) {
        rc = policy_apply(policy, j->tee->tee, refvals_lookup, j->refvals, j->at_ms, &j->appraisal,
                          NULL, &why);
    }
    if (j->passed_over) {
        cli_note(c, "%zu files of unknown form were passed over", j->passed_over);
    }
    if (c->json) {
        say_json(c, j, rc ? &why : NULL);
    } else if (rc) {
        say_refused(c, j, &why);
    } else {
        say_genuine(c, j);
    }
    return rc ? CLI_COULD_NOT : CLI_OK; /* 1: refused */
}

int verb_appraise(struct cli *c, int argc, char **argv)
{
    _cleanup_(appraise_job_done) struct appraise_job j = {0};
    _cleanup_(policy_freep) struct policy *policy = NULL;
    const char *path = cli_opt(c, "policy");
    struct err e = {0};
    (void)argc;

    if (appraise_job_read(c, argv[0], &j, &e) || (path && policy_read(path, &policy, &e))) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (policy && !policy_is_for(policy, j.tee->tee)) {
        return cli_usage(c, "--policy: expected one for %s, found %s, which is for others",
                         j.tee->tee, policy_id(policy));
    }
    return appraise(c, &j, policy);
}
