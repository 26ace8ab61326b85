#include "appraise/policy_int.h"

#include <ctype.h>
#include <strings.h>

#include "appraise/when.h"

const char *policy_id(const struct policy *p)
{
    return p->id;
}

size_t policy_n_rules(const struct policy *p)
{
    return p->n;
}

static int listed(const struct tee_list *l, const char *tee)
{
    int found = !l->n;

    for (size_t i = 0; i < l->n; i++) {
        found |= streq(l->v[i], tee);
    }
    return found;
}

int policy_is_for(const struct policy *p, const char *tee)
{
    return listed(&p->tees, tee);
}

const char *rule_outcome_name(enum rule_outcome o)
{
    static const char *const names[RULE_OUTCOME_N] = {"passed", "failed", "skipped"};

    return (unsigned)o < RULE_OUTCOME_N ? names[o] : "";
}

#define NOTHING_SAID 32

/* ---- claims and values ----------------------------------------------------------------------- */

/* What the appraiser concluded, under "appraisal". */
static json_t *conclusions(const struct appraisal *a, const char *tee)
{
    json_t *none = json_array();
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:O,s:O}", "tee", tee, "tcb_status", tcb_status_name(a->tcb_status),
                  "tier", tier_name(a->tier), "unchecked", a->unchecked ? a->unchecked : none,
                  "advisories", a->advisories ? a->advisories : none);

    json_decref(none);
    return o;
}

static const json_t *claim_at(const json_t *claims, const json_t *concluded,
                              const struct rule *rule)
{
    int own = streq(rule->path[0], "appraisal");
    const json_t *at = own ? concluded : claims;

    for (size_t i = (size_t)own; at && i < rule->n_path; i++) {
        const char *name = rule->path[i];
        if (json_is_array(at)) {
            char *end;
            unsigned long n = strtoul(name, &end, 10);
            at = isdigit((unsigned char)*name) && !*end ? json_array_get(at, n) : NULL;
        } else {
            at = json_object_get(at, name);
        }
    }
    return json_is_null(at) ? NULL : at;
}

static int is_hex(const char *s)
{
    size_t n = strspn(s, "0123456789abcdefABCDEF");

    return n && !s[n];
}

static int equal(const json_t *a, const json_t *b)
{
    const char *x = json_string_value(a), *y = json_string_value(b);

    if (x && y && is_hex(x) && is_hex(y)) {
        return strcasecmp(x, y) == 0;
    }
    return json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b);
}

static int is_in(const json_t *v, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (equal(v, json_array_get(list, i))) {
            return 1;
        }
    }
    return 0;
}

static int subset(const json_t *claim, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(claim); i++) {
        if (!is_in(json_array_get(claim, i), list)) {
            return 0;
        }
    }
    return json_is_array(claim);
}

static int compare(enum policy_op op, const json_t *claim, const json_t *value)
{
    json_int_t a = json_integer_value(claim), b = json_integer_value(value);

    if (!json_is_integer(claim)) {
        return 0;
    }
    return op == OP_LT ? a < b : op == OP_LE ? a <= b : op == OP_GT ? a > b : a >= b;
}

static int bits(enum policy_op op, const json_t *claim, const json_t *value)
{
    uint64_t a, b;

    if (parse_bits(claim, &a) || parse_bits(value, &b)) {
        return 0;
    }
    return op == OP_BITS_SET ? (a & b) == b : !(a & b);
}

static int in_time(enum policy_op op, const json_t *claim, const json_t *value, int64_t now_ms)
{
    int64_t at, limit;

    if (!json_is_string(claim) || rfc3339_ms(json_string_value(claim), &at)) {
        return 0;
    }
    if (op == OP_MAX_AGE) {
        return parse_age(json_string_value(value), &limit) == 0 && at <= now_ms &&
               now_ms - at <= limit;
    }
    if (rfc3339_ms(json_string_value(value), &limit)) {
        return 0;
    }
    return op == OP_NOT_BEFORE ? at >= limit : at <= limit;
}

static int holds(const struct rule *rule, const json_t *claim, const json_t *value, int64_t now_ms)
{
    switch (rule->op) {
    case OP_EQ:
        return rule->ref ? is_in(claim, value) : equal(claim, value);
    case OP_NE:
        return rule->ref ? !is_in(claim, value) : !equal(claim, value);
    case OP_IN:
        return is_in(claim, value);
    case OP_NOT_IN:
        return !is_in(claim, value);
    case OP_LT:
    case OP_LE:
    case OP_GT:
    case OP_GE:
        return compare(rule->op, claim, value);
    case OP_EXISTS:
        return 1;
    case OP_ABSENT:
        return 0;
    case OP_SUBSET:
        return subset(claim, value);
    case OP_BITS_SET:
    case OP_BITS_CLEAR:
        return bits(rule->op, claim, value);
    case OP_NOT_BEFORE:
    case OP_NOT_AFTER:
    case OP_MAX_AGE:
        return in_time(rule->op, claim, value, now_ms);
    case OP_N:
        break;
    }
    return 0;
}

/* ---- for people ------------------------------------------------------------------------------ */

static void describe(const json_t *v, char *ret, size_t n)
{
    _cleanup_free_ char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    size_t len = text ? strlen(text) : 0;

    if (!v) {
        snprintf(ret, n, "no such claim");
    } else if (len < n) {
        snprintf(ret, n, "%s", text ? text : "?");
    } else {
        snprintf(ret, n, "%.*s... (%zu characters)", (int)(n > 40 ? n - 40 : 0), text, len);
    }
}

static void describe_expected(const struct rule *rule, const json_t *value, char *ret, size_t n)
{
    char what[200] = "";

    if (rule->op == OP_EXISTS || rule->op == OP_ABSENT) {
        snprintf(ret, n, "%s", rule->op == OP_EXISTS ? "the claim" : "no such claim");
        return;
    }
    if (value) {
        describe(value, what, sizeof(what));
    }
    if (rule->ref) {
        snprintf(ret, n, "%s %s%s%s", policy_op_name(rule->op), rule->ref,
                 value ? " = " : ", of which there is no signed reference value", what);
    } else {
        snprintf(ret, n, "%s %s", policy_op_name(rule->op), what);
    }
}

static void describe_path(const struct rule *rule, char *ret, size_t n)
{
    size_t at = 0;

    ret[0] = '\0';
    for (size_t i = 0; i < rule->n_path && at < n; i++) {
        at += (size_t)snprintf(ret + at, n - at, "%s%s", i ? "." : "", rule->path[i]);
    }
}

/* ---- judging --------------------------------------------------------------------------------- */

static enum rule_outcome judge(const struct rule *rule, const json_t *claim, const json_t *value,
                               int64_t now_ms)
{
    if (!claim && rule->op != OP_ABSENT) {
        return rule->skip_missing ? RULE_SKIPPED : RULE_FAILED;
    }
    if (!claim) {
        return RULE_PASSED;
    }
    if (rule->ref && !value) {
        return RULE_FAILED;
    }
    return holds(rule, claim, value, now_ms) ? RULE_PASSED : RULE_FAILED;
}

/* AR4SI's tiers: nothing claimed, affirming, warning, contraindicated. */
static int tier_of(int value)
{
    return value < 2 ? 0 : value < 32 ? 1 : value < 96 ? 2 : 3;
}

static int worse(int a, int b)
{
    return tier_of(a) > tier_of(b);
}

static void take_effect(int vector[EAR_VECTOR_N], int spoken[EAR_VECTOR_N], const int *effect)
{
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        if (effect[i] >= 0 && (!spoken[i] || worse(effect[i], vector[i]))) {
            vector[i] = effect[i];
            spoken[i] = 1;
        }
    }
}

/* A member that a rule would affirm, and none did because the claims are not there, is not the
 * appraiser's any more: it warns. */
static void unsay(const struct policy *p, const char *tee, int vector[EAR_VECTOR_N],
                  const int spoken[EAR_VECTOR_N])
{
    for (size_t m = 0; m < EAR_VECTOR_N; m++) {
        for (size_t i = 0; i < p->n; i++) {
            if (p->rules[i].pass[m] >= 0 && !spoken[m] && listed(&p->rules[i].tees, tee)) {
                vector[m] = NOTHING_SAID;
            }
        }
    }
}

static void report(const struct rule *rule, const json_t *claim, const json_t *value,
                   enum rule_outcome outcome, struct rule_result *ret)
{
    ret->name = rule->name;
    ret->outcome = outcome;
    ret->refuses = outcome == RULE_FAILED && rule->refuse;
    ret->effect = outcome == RULE_SKIPPED ? NULL : outcome == RULE_PASSED ? rule->pass : rule->fail;
    describe_path(rule, ret->claim, sizeof(ret->claim));
    describe_expected(rule, value, ret->expected, sizeof(ret->expected));
    describe(claim, ret->actual, sizeof(ret->actual));
}

static int refuse(const struct rule *rule, const json_t *claim, const json_t *value, struct err *e)
{
    struct rule_result r;
    char clause[sizeof(e->clause)], actual[512];

    report(rule, claim, value, RULE_FAILED, &r);
    snprintf(clause, sizeof(clause), "policy.%s", rule->name);
    snprintf(actual, sizeof(actual), "%s: %.240s", r.claim, r.actual);
    return err_refuse(e, ERR_DENIED, clause, r.expected, "%s", actual);
}

int policy_apply(const struct policy *p, const char *tee, refval_fn refval, void *refval_arg,
                 int64_t now_ms, struct appraisal *a, struct rule_result **ret_results,
                 struct err *e)
{
    struct rule_result *results = ret_results ? xcalloc(p->n, sizeof(*results)) : NULL;
    _cleanup_json_ json_t *concluded = conclusions(a, tee);
    int spoken[EAR_VECTOR_N] = {0}, rc = 0;

    for (size_t i = 0; i < p->n; i++) {
        const struct rule *rule = &p->rules[i];
        const json_t *claim = claim_at(a->claims, concluded, rule);
        const json_t *value = !rule->ref ? rule->value
                              : refval   ? refval(refval_arg, rule->ref)
                                         : NULL;
        enum rule_outcome o =
            listed(&rule->tees, tee) ? judge(rule, claim, value, now_ms) : RULE_SKIPPED;
        if (o != RULE_SKIPPED) {
            take_effect(a->vector, spoken, o == RULE_PASSED ? rule->pass : rule->fail);
        }
        if (o == RULE_FAILED && rule->refuse && !rc) {
            rc = refuse(rule, claim, value, e);
        }
        if (results) {
            report(rule, claim, value, o, &results[i]);
            results[i].other_tee = !listed(&rule->tees, tee);
        }
    }
    unsay(p, tee, a->vector, spoken);
    a->policy_id = p->id;
    if (ret_results) {
        *ret_results = results;
    }
    return rc;
}
