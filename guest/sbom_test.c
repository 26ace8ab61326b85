#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guest/sbom.h"

static struct guest_packages packages = {
    .n = 1, .v = {{"crun", "1.8", "amd64", ""}}, .files_n = 2, .of = {-1, 0}};
static const struct sbom_file files[] = {{"./init", {(const uint8_t *)"abc", 3}},
                                         {"./usr/bin/crun", {(const uint8_t *)"", 0}}};

static struct sbom sbom(void)
{
    return (struct sbom){.name = "image",
                         .version = "1",
                         .uki = BYTES_STR("uki"),
                         .files = files,
                         .n = 2,
                         .packages = &packages};
}

static const char *text_at(const json_t *j, const char *list, size_t i, const char *member)
{
    return json_string_value(json_object_get(json_array_get(json_object_get(j, list), i), member));
}

static int related(const json_t *j, const char *from, const char *how, const char *to)
{
    const json_t *list = json_object_get(j, "relationships");

    for (size_t i = 0; i < json_array_size(list); i++) {
        if (streq(text_at(j, "relationships", i, "spdxElementId"), from) &&
            streq(text_at(j, "relationships", i, "relationshipType"), how) &&
            streq(text_at(j, "relationships", i, "relatedSpdxElement"), to)) {
            return 1;
        }
    }
    return 0;
}

static void test_document(void **state)
{
    struct sbom s = sbom();
    struct err e = {0};
    json_t *a, *b;

    (void)state;
    assert_int_equal(guest_sbom(&s, &a, &e), 0);
    assert_int_equal(guest_sbom(&s, &b, &e), 0);
    assert_true(json_equal(a, b));
    assert_string_equal(json_string_value(json_object_get(a, "spdxVersion")), "SPDX-2.3");
    assert_string_equal(text_at(a, "packages", 0, "SPDXID"), "SPDXRef-Image");
    assert_string_equal(text_at(a, "packages", 1, "versionInfo"), "1.8");
    assert_string_equal(text_at(a, "files", 1, "fileName"), "./usr/bin/crun");
    const json_t *sums =
        json_object_get(json_array_get(json_object_get(a, "files"), 0), "checksums");
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(sums, 1), "checksumValue")),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); /* FIPS 180-2, B.1 */
    assert_true(related(a, "SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"));
    assert_true(related(a, "SPDXRef-Image", "CONTAINS", "SPDXRef-File-1"));
    assert_true(related(a, "SPDXRef-File-2", "GENERATED_FROM", "SPDXRef-Package-1"));
    assert_false(related(a, "SPDXRef-File-1", "GENERATED_FROM", "SPDXRef-Package-1"));
    json_decref(b);

    s.uki = BYTES_STR("another");
    assert_int_equal(guest_sbom(&s, &b, &e), 0);
    assert_false(json_equal(a, b));
    json_decref(a);
    json_decref(b);
}

static void test_counts(void **state)
{
    struct sbom s = sbom();
    struct err e = {0};
    json_t *j;

    (void)state;
    s.n = 1;
    assert_int_equal(guest_sbom(&s, &j, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_document),
                                       cmocka_unit_test(test_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
