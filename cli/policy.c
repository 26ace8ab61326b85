#include "cli/appraise_job.h"
#include "cli/verbs.h"
#include "common/fileio.h"

/* coffer policy check, show, test; coffer refvals sign: what a policy's author needs. */

#define VALUES_MAX_BYTES (1u << 20)
#define CLAIMS_MAX_BYTES (1u << 20)

const struct cli_opt opts_policy_test[] = {
    {"policy", 'p', "FILE", VALUE_FILE, "the policy (default: the one that stands when none is)",
     0},
    {"against", 0, "FILE", VALUE_FILE, "another version: say what it would change", 0},
    {"claims", 0, "FILE", VALUE_FILE,
     "claims as `coffer appraise --json` prints them, instead of evidence", 0},
    APPRAISE_OPTS,
    {0},
};

const struct cli_opt opts_refvals_sign[] = {
    {"release-key", 0, "FILE", VALUE_FILE, "private key of who signs reference values", 0},
    {0},
};

const char help_policy_test[] =
    "Appraises recorded evidence, or takes recorded claims, and prints for every rule what it "
    "expects, what it found and what follows. Exit status: 0 the policy lets the evidence pass, "
    "whatever the trust vector; 1 the evidence or a rule is refused; 2 usage.";

/* One policy's word on the evidence. */
struct verdict {
    struct policy *policy;
    struct rule_result *results;
    int vector[EAR_VECTOR_N];
    int refused;
    struct err why;
};

static void verdict_done(struct verdict *v)
{
    free(v->results);
    policy_free(v->policy);
}

static int load(const char *path, const char *tee, struct verdict *v, struct err *e)
{
    const char *text = policy_default_text();

    if (path ? policy_read(path, &v->policy, e)
             : policy_parse("the default policy", BYTES_STR(text), &v->policy, e)) {
        return -1;
    }
    return policy_is_for(v->policy, tee)
               ? 0
               : err_set(e, ERR_INVALID, "expected a policy for %s, found %s, which is for others",
                         tee, policy_id(v->policy));
}

static void judge(struct verdict *v, const struct appraise_job *j)
{
    struct appraisal a = j->appraisal; /* only its vector and policy change */

    v->refused = policy_apply(v->policy, j->tee->tee, refvals_lookup, j->refvals, j->at_ms, &a,
                              &v->results, &v->why) < 0;
    memcpy(v->vector, a.vector, sizeof(v->vector));
}

/* ---- what it says ---------------------------------------------------------------------------- */

static json_t *effect_json(const int *effect)
{
    json_t *o = json_object();

    for (size_t i = 0; effect && i < EAR_VECTOR_N; i++) {
        if (effect[i] >= 0) {
            json_object_set_new(o, ear_vector_members[i], json_integer(effect[i]));
        }
    }
    return o;
}

static json_t *rule_json(const struct rule_result *r)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:o}", "name", r->name, "claim", r->claim,
                     "expected", r->expected, "actual", r->actual, "outcome",
                     rule_outcome_name(r->outcome), "refuses", r->refuses, "effect",
                     effect_json(r->effect));
}

static json_t *verdict_json(const struct verdict *v)
{
    json_t *rules = json_array();

    for (size_t i = 0; i < policy_n_rules(v->policy); i++) {
        json_array_append_new(rules, rule_json(&v->results[i]));
    }
    return json_pack("{s:s,s:b,s:s,s:o,s:o}", "policy", policy_id(v->policy), "refused", v->refused,
                     "status", v->refused ? "refused" : ear_vector_status(v->vector),
                     "trust_vector", effect_json(v->vector), "rules", rules);
}

static void effect_text(const int *effect, char *ret, size_t n)
{
    size_t at = 0;

    ret[0] = '\0';
    for (size_t i = 0; effect && i < EAR_VECTOR_N && at < n; i++) {
        if (effect[i] >= 0) {
            at += (size_t)snprintf(ret + at, n - at, "%s%s %d", at ? ", " : "",
                                   ear_vector_members[i], effect[i]);
        }
    }
}

static void say_rule(struct cli *c, const struct rule_result *r)
{
    char effect[256], expected[256], actual[256];
    enum cli_color color = r->outcome == RULE_PASSED   ? COLOR_GOOD
                           : r->outcome == RULE_FAILED ? COLOR_BAD
                                                       : COLOR_DIM;

    effect_text(r->effect, effect, sizeof(effect));
    snprintf(expected, sizeof(expected), "%s", r->expected);
    snprintf(actual, sizeof(actual), "%s", r->actual);
    cli_clean(expected, strlen(expected), 0);
    cli_clean(actual, strlen(actual), 0);
    cli_say(c, "%s%-8s%s %s%s", cli_color(c, color), rule_outcome_name(r->outcome),
            cli_color(c, COLOR_OFF), r->name, r->refuses ? " (refuses)" : "");
    cli_say(c, "         claim    %s", r->claim);
    cli_say(c, "         expected %s", expected);
    cli_say(c, "         actual   %s", actual);
    if (*effect) {
        cli_say(c, "         effect   %s", effect);
    }
}

static void say_verdict(struct cli *c, const struct verdict *v)
{
    char vector[256];

    effect_text(v->vector, vector, sizeof(vector));
    cli_say(c, "%s%s%s by %s: %s", cli_color(c, COLOR_BOLD),
            v->refused ? "refused" : ear_vector_status(v->vector), cli_color(c, COLOR_OFF),
            policy_id(v->policy), vector);
}

/* ---- what another version would change ------------------------------------------------------- */

static const struct rule_result *same_rule(const struct verdict *v, const char *name)
{
    for (size_t i = 0; i < policy_n_rules(v->policy); i++) {
        if (streq(v->results[i].name, name)) {
            return &v->results[i];
        }
    }
    return NULL;
}

static void add_change(json_t *changes, const char *rule, const char *from, const char *to)
{
    json_array_append_new(changes,
                          json_pack("{s:s,s:s,s:s}", "rule", rule, "from", from, "to", to));
}

static const char *outcome_of(const struct rule_result *r)
{
    return !r ? "no such rule" : r->refuses ? "refused" : rule_outcome_name(r->outcome);
}

static json_t *changes_json(const struct verdict *from, const struct verdict *to)
{
    json_t *changes = json_array();

    for (size_t i = 0; i < policy_n_rules(from->policy); i++) {
        const struct rule_result *a = &from->results[i], *b = same_rule(to, a->name);
        if (!streq(outcome_of(a), outcome_of(b))) {
            add_change(changes, a->name, outcome_of(a), outcome_of(b));
        }
    }
    for (size_t i = 0; i < policy_n_rules(to->policy); i++) {
        const struct rule_result *b = &to->results[i];
        if (!same_rule(from, b->name)) {
            add_change(changes, b->name, outcome_of(NULL), outcome_of(b));
        }
    }
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        if (from->vector[i] != to->vector[i]) {
            json_array_append_new(changes,
                                  json_pack("{s:s,s:i,s:i}", "member", ear_vector_members[i],
                                            "from", from->vector[i], "to", to->vector[i]));
        }
    }
    return changes;
}

static void say_changes(struct cli *c, const json_t *changes, const struct verdict *to)
{
    size_t i;
    json_t *v;

    cli_say(c, "with %s:", policy_id(to->policy));
    json_array_foreach((json_t *)(uintptr_t)changes, i, v)
    {
        const char *rule = json_string_value(json_object_get(v, "rule"));
        if (rule) {
            cli_say(c, "  rule %s: %s, was %s", rule, json_string_value(json_object_get(v, "to")),
                    json_string_value(json_object_get(v, "from")));
        } else {
            cli_say(c, "  %s: %d, was %d", json_string_value(json_object_get(v, "member")),
                    (int)json_integer_value(json_object_get(v, "to")),
                    (int)json_integer_value(json_object_get(v, "from")));
        }
    }
    if (!json_array_size(changes)) {
        cli_say(c, "  no rule and no member of the vector changes");
    }
    say_verdict(c, to);
}

static int report(struct cli *c, const struct verdict *v, const struct verdict *other)
{
    _cleanup_json_ json_t *changes = other->policy ? changes_json(v, other) : NULL;

    if (c->json) {
        json_t *o = verdict_json(v);
        if (other->policy) {
            json_object_set_new(o, "against", verdict_json(other));
            json_object_set(o, "changes", changes);
        }
        cli_json(c, o);
    } else {
        for (size_t i = 0; i < policy_n_rules(v->policy); i++) {
            if (!v->results[i].other_tee) {
                say_rule(c, &v->results[i]);
            }
        }
        say_verdict(c, v);
        if (other->policy) {
            say_changes(c, changes, other);
        }
    }
    return v->refused ? CLI_COULD_NOT : CLI_OK;
}

/* ---- coffer policy test ---------------------------------------------------------------------- */

/* The whole answer of `coffer appraise --json`, or its claims. */
static int read_claims(const char *path, struct appraise_job *j, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(CLAIMS_MAX_BYTES);
    _cleanup_json_ json_t *o = NULL;

    if (file_read(path, CLAIMS_MAX_BYTES, 0, &text, e) ||
        json_parse("claims", buf_bytes(&text), CLAIMS_MAX_BYTES, &o, e)) {
        return err_wrap(e, "--claims");
    }
    json_t *inner = json_object_get(o, "claims");
    const char *tee = json_string_value(json_object_get(o, "tee"));
    if (!json_is_object(inner) || !tee || !appraiser_find(tee)) {
        return err_set(e, ERR_INVALID,
                       "--claims: expected what `coffer appraise --json` prints, with tee and "
                       "claims, found something else");
    }
    const char *status = json_string_value(json_object_get(o, "tcb_status"));
    for (enum tcb_status k = 0; status && k < TCB_STATUS_N; k++) {
        j->appraisal.tcb_status = streq(tcb_status_name(k), status) ? k : j->appraisal.tcb_status;
    }
    const char *tier = json_string_value(json_object_get(o, "tier"));
    for (enum tier k = 0; tier && k < TIER_N; k++) {
        j->appraisal.tier = streq(tier_name(k), tier) ? k : j->appraisal.tier;
    }
    j->appraisal.unchecked = json_incref(json_object_get(o, "unchecked"));
    j->appraisal.advisories = json_incref(json_object_get(o, "advisories"));
    j->tee = appraiser_find(tee);
    j->appraisal.claims = json_incref(inner);
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        const json_t *v =
            json_object_get(json_object_get(o, "trust_vector"), ear_vector_members[i]);
        j->appraisal.vector[i] = (int)json_integer_value(v);
    }
    return 0;
}

static int get_claims(struct cli *c, int argc, char **argv, struct appraise_job *j, int *ret_usage,
                      struct err *e)
{
    const char *claims = cli_opt(c, "claims");

    *ret_usage = 1;
    if (!claims == !argc) {
        return err_set(e, ERR_INVALID, "expected either EVIDENCE or --claims, found %s",
                       argc ? "both" : "neither");
    }
    if (appraise_job_read(c, claims ? NULL : argv[0], j, e) ||
        (claims && read_claims(claims, j, e))) {
        return -1;
    }
    *ret_usage = 0;
    return claims ? 0 : appraise_job_run(j, e);
}

int verb_policy_test(struct cli *c, int argc, char **argv)
{
    _cleanup_(appraise_job_done) struct appraise_job j = {0};
    _cleanup_(verdict_done) struct verdict v = {0}, other = {0};
    const char *against = cli_opt(c, "against");
    struct err e = {0};
    int usage;

    if (get_claims(c, argc, argv, &j, &usage, &e)) {
        return cli_fail_as(c, usage ? CLI_USAGE : CLI_COULD_NOT, &e);
    }
    if (load(cli_opt(c, "policy"), j.tee->tee, &v, &e) ||
        (against && load(against, j.tee->tee, &other, &e))) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    judge(&v, &j);
    if (against) {
        judge(&other, &j);
    }
    return report(c, &v, &other);
}

/* ---- coffer policy check, show --------------------------------------------------------------- */

int verb_policy_check(struct cli *c, int argc, char **argv)
{
    _cleanup_(policy_freep) struct policy *p = NULL;
    struct err e = {0};
    (void)argc;

    if (policy_read(argv[0], &p, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    cli_say(c, "%s: %zu rules", policy_id(p), policy_n_rules(p));
    return c->json ? cli_json(c, json_pack("{s:s,s:I}", "policy", policy_id(p), "rules",
                                           (json_int_t)policy_n_rules(p)))
                   : CLI_OK;
}

int verb_policy_show(struct cli *c, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    fputs(policy_default_text(), c->out);
    return CLI_OK;
}

/* ---- coffer refvals sign --------------------------------------------------------------------- */

int verb_refvals_sign(struct cli *c, int argc, char **argv)
{
    const char *key_path = cli_opt(c, "release-key");
    _cleanup_buf_ struct buf text = BUF_INIT(VALUES_MAX_BYTES);
    _cleanup_json_ json_t *values = NULL, *payload = NULL;
    _cleanup_jkey_ struct jkey *key = NULL;
    _cleanup_free_ char *jws = NULL;
    struct err e = {0};
    (void)argc;

    if (!key_path) {
        return cli_usage(c, "--release-key: expected a private key, found none");
    }
    if (jkey_read_private(key_path, &key, &e) ||
        file_read(argv[0], VALUES_MAX_BYTES, 0, &text, &e) ||
        json_parse(argv[0], buf_bytes(&text), VALUES_MAX_BYTES, &values, &e) ||
        refvals_values_check(values, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    payload = json_pack("{s:i,s:O}", "v", 1, "values", values);
    if (jws_sign_json(key, REFVALS_VALUES_TYP, 0, payload, &jws, &e)) {
        return cli_fail(c, &e);
    }
    fprintf(c->out, "%s\n", jws);
    return CLI_OK;
}
