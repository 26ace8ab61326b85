#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/policy.h"

#define HEAD                                                                                       \
    "apiVersion: coffer/v1\nkind: AppraisalPolicy\nmetadata: {name: t, version: 2}\nrules:\n"
#define NOW_MS 1767225600000LL /* 2026-01-01 */

static const char claims_text[] =
    "{\"debug\":false,\"svn\":7,\"mr\":\"ABcd01\",\"product\":\"Milan\",\"policy\":\"30000\","
    "\"date\":\"2025-12-20T00:00:00Z\",\"future\":\"2026-02-01T00:00:00Z\",\"null\":null,"
    "\"adv\":[\"A-1\",\"A-2\"],\"none\":[],\"body\":{\"attributes.flags\":\"07\",\"v\":[5,6]}}";

/* The reference value "good" is the list ["abCD01", "ff"]; "bad" is ["00"]. */
static const json_t *refval(void *arg, const char *name)
{
    return json_object_get(arg, name);
}

static int apply(const char *rules, struct appraisal *a, struct rule_result **results,
                 struct err *e)
{
    _cleanup_(policy_freep) struct policy *p = NULL;
    _cleanup_free_ char *text = xasprintf(HEAD "%s", rules);
    _cleanup_json_ json_t *refs = json_pack("{s:[s,s],s:[s]}", "good", "abCD01", "ff", "bad", "00");

    *e = (struct err){0};
    if (policy_parse("p.yaml", BYTES_STR(text), &p, e)) {
        fail_msg("%s", e->msg);
    }
    a->claims = json_loads(claims_text, 0, NULL);
    int rc = policy_apply(p, "vtpm", refval, refs, NOW_MS, a, results, e);
    json_decref(a->claims);
    a->claims = NULL;
    a->policy_id = NULL;
    return rc;
}

static void test_operators(void **state)
{
    static const struct {
        const char *rule;
        int passes;
    } cases[] = {
        {"claim: debug, op: eq, value: false", 1},
        {"claim: debug, op: eq, value: true", 0},
        {"claim: debug, op: eq, value: 'false'", 0}, /* a text is no boolean */
        {"claim: debug, op: ne, value: true", 1},
        {"claim: svn, op: eq, value: 7", 1},
        {"claim: svn, op: eq, value: '7'", 0},
        {"claim: svn, op: ge, value: 7", 1},
        {"claim: svn, op: gt, value: 7", 0},
        {"claim: svn, op: le, value: 7", 1},
        {"claim: svn, op: lt, value: 8", 1},
        {"claim: mr, op: lt, value: 8", 0}, /* no integer */
        {"claim: mr, op: eq, value: abCD01", 1},
        {"claim: mr, op: eq, value: abCD02", 0},
        {"claim: product, op: eq, value: milan", 0}, /* case counts in words */
        {"claim: product, op: in, value: [Genoa, Milan]", 1},
        {"claim: product, op: not-in, value: [Genoa, Milan]", 0},
        {"claim: product, op: not-in, value: []", 1},
        {"claim: mr, op: in, ref: good", 1},
        {"claim: mr, op: eq, ref: good", 1},
        {"claim: mr, op: in, ref: bad", 0},
        {"claim: mr, op: ne, ref: bad", 1},
        {"claim: mr, op: not-in, ref: good", 0},
        {"claim: mr, op: in, ref: unknown", 0},
        {"claim: mr, op: not-in, ref: unknown", 0}, /* nothing to compare with is no pass */
        {"claim: debug, op: exists", 1},
        {"claim: nope, op: exists", 0},
        {"claim: nope, op: absent", 1},
        {"claim: debug, op: absent", 0},
        {"claim: 'null', op: absent", 1},
        {"claim: nope, op: ne, value: 1", 0}, /* a missing claim fails */
        {"claim: nope, op: not-in, value: [1]", 0},
        {"claim: adv, op: subset-of, value: [A-2, A-1, A-3]", 1},
        {"claim: adv, op: subset-of, value: [A-1]", 0},
        {"claim: none, op: subset-of, value: []", 1},
        {"claim: svn, op: subset-of, value: [7]", 0}, /* no list */
        {"claim: policy, op: bits-set, value: '0x20000'", 1},
        {"claim: policy, op: bits-set, value: '80000'", 0},
        {"claim: policy, op: bits-clear, value: '80000'", 1},
        {"claim: svn, op: bits-set, value: 3", 1},
        {"claim: svn, op: bits-clear, value: 8", 1},
        {"claim: product, op: bits-clear, value: 8", 0}, /* no number */
        {"claim: date, op: not-before, value: '2025-12-01T00:00:00Z'", 1},
        {"claim: date, op: not-before, value: '2025-12-21T00:00:00Z'", 0},
        {"claim: date, op: not-after, value: '2025-12-21T00:00:00Z'", 1},
        {"claim: product, op: not-before, value: '2025-12-01T00:00:00Z'", 0},
        {"claim: date, op: max-age, value: 13d", 1},
        {"claim: date, op: max-age, value: 11d", 0},
        {"claim: future, op: max-age, value: 365d", 0}, /* not yet */
        {"claim: body.v.1, op: eq, value: 6", 1},
        {"claim: body.v.2, op: exists", 0},
        {"claim: body.v.x, op: exists", 0},
        {"claim: [body, attributes.flags], op: eq, value: '07'", 1},
        {"claim: body.attributes.flags, op: exists", 0},
        {"claim: svn.deeper, op: exists", 0},
        {"claim: appraisal.tcb_status, op: eq, value: OutOfDate", 1},
        {"claim: appraisal.tee, op: eq, value: vtpm", 1},
        {"claim: appraisal.tier, op: eq, value: vtpm", 1},
        {"claim: appraisal.unchecked, op: subset-of, value: [crl]", 1},
        {"claim: appraisal.unchecked, op: subset-of, value: []", 0},
        {"claim: appraisal.advisories, op: subset-of, value: []", 1},
        {"claim: tcb_status, op: exists", 0},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_json_ json_t *unchecked = json_pack("[s]", "crl");
        struct appraisal a = {
            .tcb_status = TCB_OUT_OF_DATE, .tier = TIER_VTPM, .unchecked = unchecked};
        struct err e;
        struct rule_result *r = NULL;
        _cleanup_free_ char *rule =
            xasprintf("  - {name: r, %s, pass: {hardware: 2}}\n", cases[i].rule);
        assert_int_equal(apply(rule, &a, &r, &e), 0);
        if ((r[0].outcome == RULE_PASSED) != cases[i].passes ||
            a.vector[EAR_HARDWARE] != (cases[i].passes ? 2 : 96)) {
            fail_msg("%s: %s, %s, hardware %d", cases[i].rule, r[0].expected, r[0].actual,
                     a.vector[EAR_HARDWARE]);
        }
        free(r);
    }
}

static void test_effects(void **state)
{
    struct appraisal a = {.vector = {0}};
    struct err e;
    (void)state;

    /* the worst counts, whatever the order; what nobody speaks of stays */
    a.vector[EAR_RUNTIME_OPAQUE] = 2;
    a.vector[EAR_HARDWARE] = 96;
    assert_int_equal(
        apply("  - {name: a, claim: svn, op: ge, value: 9, pass: {hardware: 2}, fail: {hardware: "
              "32}}\n"
              "  - {name: b, claim: svn, op: ge, value: 1, pass: {hardware: 3, executables: 3}}\n"
              "  - {name: c, claim: nope, op: eq, value: 1, missing: skip, pass: {configuration: "
              "2}}\n",
              &a, NULL, &e),
        0);
    assert_int_equal(a.vector[EAR_HARDWARE], 32);
    assert_int_equal(a.vector[EAR_EXECUTABLES], 3);
    assert_int_equal(a.vector[EAR_CONFIGURATION], 32); /* nothing said */
    assert_int_equal(a.vector[EAR_RUNTIME_OPAQUE], 2);
    assert_int_equal(a.vector[EAR_FILE_SYSTEM], 0);

    /* a rule of another TEE says nothing */
    a.vector[EAR_HARDWARE] = 2;
    assert_int_equal(
        apply("  - {name: a, tees: [sample], claim: svn, op: ge, value: 9, pass: {hardware: 2}}\n"
              "  - {name: b, tees: [sample, vtpm], claim: svn, op: ge, value: 9, refuse: true}\n",
              &a, NULL, &e),
        -1);
    assert_int_equal(a.vector[EAR_HARDWARE], 2);
    assert_string_equal(e.clause, "policy.b");
}

static void test_refusal(void **state)
{
    struct appraisal a = {0};
    struct rule_result *r = NULL;
    struct err e;
    (void)state;

    assert_int_equal(
        apply("  - {name: no Milan, claim: product, op: not-in, value: [Milan], refuse: true}\n"
              "  - {name: svn, claim: svn, op: ge, value: 1, pass: {hardware: 2}}\n",
              &a, &r, &e),
        -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_string_equal(e.clause, "policy.no Milan");
    assert_string_equal(e.expected, "not-in [\"Milan\"]");
    assert_string_equal(e.actual, "product: \"Milan\"");
    assert_true(r[0].refuses);
    assert_int_equal(r[1].outcome, RULE_PASSED); /* the others are judged as well */
    assert_string_equal(r[1].claim, "svn");
    free(r);
}

static void test_malformed(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "p.yaml:1: expected a policy, found an empty file"},
        {"[", "p.yaml:2: expected YAML, found"},
        {"- a\n", "p.yaml:1: the document: expected a mapping, found a list"},
        {"apiVersion: coffer/v2\n", "p.yaml:1: apiVersion: expected coffer/v1, found coffer/v2"},
        {"apiVersion: coffer/v1\nkind: X\n", "p.yaml:2: kind: expected AppraisalPolicy, found X"},
        {"apiVersion: coffer/v1\nkind: AppraisalPolicy\n", "metadata: expected name and version"},
        {HEAD, "rules: expected a list, found "},
        {HEAD " []\n", "rules: expected at least one rule, found none"},
        {HEAD "  - {nam: x}\n", "p.yaml:5: rules: expected one of name, tees, claim, op"},
        {HEAD "  - {name: x, tees: [q], claim: a, op: exists, refuse: true}\n", "tees: expected"},
        {HEAD "  - {name: x}\n", "p.yaml:5: claim: expected names with dots"},
        {HEAD "  - {name: x, name: y}\n", "name: expected each field once, found it again"},
        {HEAD "  - {name: x, claim: a..b, op: exists, pass: {}}\n", "claim: expected names"},
        {HEAD "  - {name: x, claim: a, op: is, pass: {}}\n", "op: expected eq, ne, in, "},
        {HEAD "  - {name: x, claim: a, op: eq, pass: {}}\n", "value: expected either value or ref"},
        {HEAD "  - {name: x, claim: a, op: eq, value: 1, ref: r}\n", "found both"},
        {HEAD "  - {name: x, claim: a, op: eq, value: [1]}\n", "value: expected one value"},
        {HEAD "  - {name: x, claim: a, op: in, value: 1}\n", "value: expected a list, found 1"},
        {HEAD "  - {name: x, claim: a, op: ge, value: x}\n", "value: expected an integer, found x"},
        {HEAD "  - {name: x, claim: a, op: ge, ref: x}\n", "ref: expected eq, ne, in"},
        {HEAD "  - {name: x, claim: a, op: max-age, value: 3 weeks}\n", "an age like 30d"},
        {HEAD "  - {name: x, claim: a, op: not-before, value: today}\n", "a time like"},
        {HEAD "  - {name: x, claim: a, op: exists, value: 1}\n", "none with this operator"},
        {HEAD "  - {name: x, claim: a, op: exists}\n", "pass: expected an effect"},
        {HEAD "  - {name: x, claim: a, op: exists, pass: {hardwar: 2}}\n", "pass: expected one of"},
        {HEAD "  - {name: x, claim: a, op: exists, pass: {hardware: 200}}\n", "from 0 to 127"},
        {HEAD "  - {name: x, claim: a, op: exists, refuse: maybe}\n", "refuse: expected true or"},
        {HEAD "  - {name: x, claim: a, op: exists, pass: {}, missing: pass}\n", "fail or skip"},
        {HEAD "  - &a {name: x, claim: a, op: exists, pass: {}}\n  - *a\n", "a name of its own"},
        {HEAD "  - {name: x, claim: a, op: exists, pass: {}}\n---\na: b\n", "found another"},
        {"apiVersion: coffer/v1\nkind: AppraisalPolicy\nmetadata: {name: t, version: 2}\n"
         "tees: [sgxx]\nrules: []\n",
         "p.yaml:4: tees: expected sample, "},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct policy *p = NULL;
        struct err e = {0};
        assert_int_equal(policy_parse("p.yaml", BYTES_STR(cases[i].text), &p, &e), -1);
        if (!strstr(e.msg, cases[i].says)) {
            fail_msg("%s\nsays: %s\nnot: %s", cases[i].text, e.msg, cases[i].says);
        }
    }
}

static void test_document(void **state)
{
    _cleanup_(policy_freep) struct policy *p = NULL, *dflt = NULL;
    struct err e = {0};
    static const char text[] =
        "apiVersion: coffer/v1\nkind: AppraisalPolicy\nmetadata: {name: t, version: 2}\n"
        "tees: [vtpm]\nrules:\n  - {name: x, claim: a, op: exists, pass: {}}\n";
    (void)state;

    assert_int_equal(policy_parse("p", BYTES_STR(text), &p, &e), 0);
    assert_string_equal(policy_id(p), "t/2");
    assert_true(policy_is_for(p, "vtpm"));
    assert_false(policy_is_for(p, "sample"));
    assert_int_equal(policy_n_rules(p), 1);
    if (policy_parse("default", BYTES_STR(policy_default_text()), &dflt, &e)) {
        fail_msg("%s", e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operators), cmocka_unit_test(test_effects),
        cmocka_unit_test(test_refusal),   cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_document),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
