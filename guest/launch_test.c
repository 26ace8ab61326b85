#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/vm.h"
#include "guest/launch.h"
#include "guest/ovmf_testing.h"

static struct fix f;
static struct guest_section sections[] = {{".linux", {0}}, {".cmdline", {0}}, {".initrd", {0}}};

static struct guest_launch launch(void)
{
    struct guest_launch l = {.firmware = fix_bytes(&f),
                             .uki = BYTES_STR("uki"),
                             .stub_version = "257.4-1",
                             .linux_release = "6.12.9-cloud-amd64",
                             .cmdline = "quiet",
                             .initrd = BYTES_STR("initrd"),
                             .sections = sections,
                             .sections_n = ARRAY_LEN(sections)};

    sections[0].content = BYTES_STR("kernel");
    sections[1].content = BYTES_STR("quiet");
    sections[2].content = BYTES_STR("initrd");
    memset(l.uki_authenticode, 0xaa, sizeof(l.uki_authenticode));
    memset(l.kernel_authenticode, 0xbb, sizeof(l.kernel_authenticode));
    return l;
}

static json_t *refvals(const struct guest_launch *l, enum err_code no_snp, enum err_code no_tdx)
{
    json_t *r = json_pack("{s:i}", "v", 1);
    struct err snp = {0}, tdx = {0}, e = {0};

    if (guest_launch_refvals(l, r, &snp, &tdx, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(snp.code, no_snp);
    assert_int_equal(tdx.code, no_tdx);
    assert_int_equal(!json_object_get(r, "snp"), no_snp != ERR_NONE);
    assert_int_equal(!json_object_get(r, "tdx"), no_tdx != ERR_NONE);
    return r;
}

static char *tdx_of(const struct guest_launch *l, const char *member)
{
    json_t *r = refvals(l, ERR_NONE, ERR_NONE);
    char *hex = xstrdup(json_string_value(json_object_get(json_object_get(r, "tdx"), member)));

    json_decref(r);
    assert_int_equal(strlen(hex), 96);
    return hex;
}

static void test_members(void **state)
{
    fix_make(&f, FIX_ALL);
    struct guest_launch l = launch();
    json_t *r = refvals(&l, ERR_NONE, ERR_NONE), *snp = json_object_get(r, "snp");
    struct guest_snp_params p = {
        .firmware = l.firmware, .vcpus = 2, .features = GUEST_SNP_FEATURES, .cpu_sig = 0x800f12};
    struct guest_snp_kernel k;
    uint8_t digest[48];

    (void)state;
    assert_int_equal(json_array_size(snp), VM_VCPUS_MAX);
    json_t *two = json_array_get(snp, 1);
    assert_int_equal(json_object_size(two), 3);
    assert_int_equal(json_integer_value(json_object_get(two, "vcpus")), 2);
    assert_string_equal(json_string_value(json_object_get(two, "cpu")), "EPYC-v4");
    assert_int_equal(guest_snp_kernel_of(l.uki, BYTES("", 0), "", &k, NULL), 0);
    p.kernel = &k;
    assert_int_equal(guest_snp_digest(&p, digest, NULL), 0);
    _cleanup_free_ char *hex = hex_encode(digest, sizeof(digest));
    assert_string_equal(json_string_value(json_object_get(two, "digest")), hex);
    assert_int_equal(json_object_size(json_object_get(r, "tdx")), 3);
    json_decref(r);
}

/* RTMR2 by the events it is made of. */
static void test_rtmr2(void **state)
{
    fix_make(&f, FIX_ALL);
    struct guest_launch l = launch();
    uint8_t events[8][48], rtmr1[48], rtmr2[48];
    struct guest_tdx_boot b = {
        .separators = 1, .nested = 1, .events = (const uint8_t(*)[48])events, .events_n = 8};

    (void)state;
    memset(b.image, 0xaa, sizeof(b.image));
    memset(b.kernel, 0xbb, sizeof(b.kernel));
    guest_tdx_event(BYTES(".linux", 7), events[0], NULL);
    guest_tdx_event(BYTES("kernel", 6), events[1], NULL);
    guest_tdx_event(BYTES(".cmdline", 9), events[2], NULL);
    guest_tdx_event(BYTES("quiet", 5), events[3], NULL);
    guest_tdx_event(BYTES(".initrd", 8), events[4], NULL);
    guest_tdx_event(BYTES("initrd", 6), events[5], NULL);
    guest_tdx_event(BYTES("q\0u\0i\0e\0t\0\0", 12), events[6], NULL);
    guest_tdx_event(BYTES("initrd", 6), events[7], NULL);
    assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, NULL), 0);
    _cleanup_free_ char *want1 = hex_encode(rtmr1, 48), *want2 = hex_encode(rtmr2, 48),
                        *got1 = tdx_of(&l, "rtmr1"), *got2 = tdx_of(&l, "rtmr2");
    assert_string_equal(got1, want1);
    assert_string_equal(got2, want2);

    l.linux_release = "6.1.0-56-cloud-amd64"; /* whose EFI stub measures nothing */
    b.events_n = 6;
    assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, NULL), 0);
    _cleanup_free_ char *want3 = hex_encode(rtmr2, 48), *got3 = tdx_of(&l, "rtmr2");
    assert_string_equal(got3, want3);
}

static void test_left_out(void **state)
{
    struct guest_launch l;
    struct err snp = {0}, tdx = {0}, e = {0};
    json_t *r = json_object();

    (void)state;
    fix_make(&f, FIX_ALL & ~FIX_HASHES_SECTION);
    l = launch();
    json_decref(refvals(&l, ERR_UNSUPPORTED, ERR_NONE));
    fix_make(&f, FIX_ALL & ~FIX_TDX);
    json_decref(refvals(&l, ERR_NONE, ERR_UNSUPPORTED));
    fix_make(&f, FIX_ALL);
    l.stub_version = "252.39-1~deb12u2";
    json_decref(refvals(&l, ERR_NONE, ERR_UNSUPPORTED));
    f.image[FIX_FOOTER_AT + 2] ^= 1;
    json_decref(refvals(&l, ERR_UNSUPPORTED, ERR_UNSUPPORTED));
    assert_int_equal(guest_launch_refvals(&l, r, &snp, &tdx, &e), 0);
    assert_non_null(strstr(snp.msg, "firmware has no GUIDed table"));
    assert_non_null(strstr(tdx.msg, "firmware has no GUIDed table"));
    json_decref(r);
}

static void refused(const struct guest_launch *l, const char *text)
{
    struct err snp = {0}, tdx = {0}, e = {0};
    json_t *r = json_object();

    assert_int_equal(guest_launch_refvals(l, r, &snp, &tdx, &e), -1);
    if (!strstr(e.msg, text)) {
        fail_msg("\"%s\" is not \"%s\"", e.msg, text);
    }
    assert_int_equal(json_object_size(r), 0);
    json_decref(r);
}

static void test_refused(void **state)
{
    struct guest_section many[32] = {{0}};
    struct guest_launch l;

    (void)state;
    fix_make(&f, FIX_ALL);
    l = launch();
    le32_put(f.image + FIX_SEV_SECTION(1), 0x80a001);
    refused(&l, "SEV-SNP launch digest: SEV section 1: address 0x80a001");
    fix_make(&f, FIX_ALL);
    le32_put(f.image + FIX_TDX_SECTION(0), 0x4001);
    refused(&l, "TDX measurements: TDX section 0: data 0xc000 bytes at 0x4001");
    fix_make(&f, FIX_ALL);
    l.cmdline = "\xff";
    refused(&l, "TDX measurements: command line: byte 0xff at 0, expected ASCII only");
    l = launch();
    l.sections = many;
    l.sections_n = ARRAY_LEN(many);
    refused(&l, "TDX measurements: UKI: 32 sections, expected at most 31");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_rtmr2),
        cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
