#include "cli/cli_testing.h"

#include "common/jose.h"

/* What a policy's author does, with recorded claims. */

static const char head[] =
    "apiVersion: coffer/v1\nkind: AppraisalPolicy\nmetadata: {name: p, version: 1}\nrules:\n";

static void put_policy(const char *path, const char *rules)
{
    _cleanup_free_ char *text = xasprintf("%s%s", head, rules);

    put_file(path, text);
}

static void setup_files(void)
{
    struct err e = {0};
    _cleanup_jkey_ struct jkey *k = NULL;

    put_file("claims.json", "{\"tee\":\"vtpm\",\"claims\":{\"svn\":7,\"mr\":\"aa01\",\"evil\":"
                            "\"\\u001b[31m\"},\"trust_vector\":{\"hardware\":32}}");
    put_policy("svn.yaml", "  - {name: svn, claim: svn, op: ge, value: 7, pass: {hardware: 2}}\n");
    put_policy("strict.yaml",
               "  - {name: svn, claim: svn, op: ge, value: 9, pass: {hardware: 2}}\n"
               "  - {name: text, claim: evil, op: eq, value: x, pass: {configuration: 2}}\n");
    put_policy("refuse.yaml", "  - {name: svn, claim: svn, op: ge, value: 9, refuse: true}\n");
    put_policy("ref.yaml",
               "  - {name: mr, claim: mr, op: in, ref: good, pass: {executables: 3}}\n");
    put_policy("bad.yaml", "  - {name: mr}\n");
    put_file("values.json", "{\"good\":[\"aa01\",\"aa02\"]}");
    put_file("novalues.json", "{\"good\":\"aa01\"}");
    assert_int_equal(jkey_generate(&k, &e) || jkey_write_private("release.jwk", k, &e) ||
                         jkey_write_public("release.pub", k, &e),
                     0);
}

static void test_test(void **state)
{
    (void)state;
    setup_files();
    assert_ran("policy test --policy svn.yaml --claims claims.json", CLI_OK,
               "affirming by p/1: configuration 0, executables 0, file-system 0, hardware 2", "");
    assert_ran("policy test --policy strict.yaml --claims claims.json", CLI_OK,
               "contraindicated by p/1", "");
    assert_ran("policy test --policy strict.yaml --claims claims.json", CLI_OK,
               "expected ge 9\n         actual   7\n         effect   hardware 96", "");
    assert_ran("policy test --policy refuse.yaml --claims claims.json", CLI_COULD_NOT,
               "svn (refuses)", "");
    assert_ran("policy test --policy svn.yaml --against strict.yaml --claims claims.json", CLI_OK,
               "rule svn: failed, was passed\n  rule text: failed, was no such rule\n"
               "  configuration: 96, was 0\n  hardware: 96, was 2",
               "");
    assert_ran("policy test --policy svn.yaml --against svn.yaml --claims claims.json", CLI_OK,
               "no rule and no member of the vector changes", "");
    assert_ran("policy test --policy svn.yaml --against strict.yaml --claims claims.json --json",
               CLI_OK, "\"changes\": [", "");
    _cleanup_ran_ struct ran r = run_line("policy test --policy strict.yaml --claims claims.json");
    assert_null(strchr(r.out, '\033')); /* what evidence says steers no terminal */
}

static void test_refvals(void **state)
{
    (void)state;

    assert_ran("policy test --policy ref.yaml --claims claims.json", CLI_OK,
               "of which there is no signed reference value", "");
    _cleanup_ran_ struct ran r = run_line("refvals sign --release-key release.jwk values.json");
    assert_int_equal(r.code, CLI_OK);
    put_file("refvals.jws", r.out);
    assert_ran("policy test --policy ref.yaml --claims claims.json --reference-values refvals.jws "
               "--release-key release.pub",
               CLI_OK, "warning by p/1: configuration 0, executables 3", "");
    assert_ran("policy test --policy ref.yaml --claims claims.json --reference-values refvals.jws",
               CLI_USAGE, "", "what nobody signed is no reference value");
    assert_ran("policy test --policy ref.yaml --claims claims.json --release-key release.pub",
               CLI_USAGE, "", "expected --reference-values too");
    assert_ran("refvals sign --release-key release.jwk novalues.json", CLI_USAGE, "",
               "values.good: expected a list");
    assert_ran("refvals sign values.json", CLI_USAGE, "", "--release-key");
}

static void test_usage(void **state)
{
    (void)state;
    assert_ran("policy check svn.yaml", CLI_OK, "p/1: 1 rules", "");
    assert_ran("policy check bad.yaml", CLI_USAGE, "", "bad.yaml:5: claim: expected names");
    assert_ran("policy show", CLI_OK, "kind: AppraisalPolicy", "");
    assert_ran("policy test --policy svn.yaml", CLI_USAGE, "", "either EVIDENCE or --claims");
    assert_ran("policy test --policy svn.yaml --claims claims.json claims.json", CLI_USAGE, "",
               "found both");
    assert_ran("policy test --policy svn.yaml --claims values.json", CLI_USAGE, "",
               "what `coffer appraise --json` prints");
    assert_ran("policy test --policy nope.yaml --claims claims.json", CLI_USAGE, "", "nope.yaml");
    assert_ran("appraise --tee abc claims.json", CLI_USAGE, "", "--tee: expected one of tdx");
    assert_ran("appraise --tee sample claims.json", CLI_USAGE, "", "--tee: expected one of tdx");
    assert_ran("appraise claims.json", CLI_USAGE, "", "found none");
    assert_ran("appraise --tee tdx --at yesterday claims.json", CLI_USAGE, "", "--at: expected");
    assert_ran("appraise", CLI_USAGE, "", "EVIDENCE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_test), cmocka_unit_test(test_refvals),
                                       cmocka_unit_test(test_usage)};

    return cmocka_run_group_tests(tests, test_enter, test_leave);
}
