/* MRTD: expected values are those of dstack-mr (Dstack-TEE/dstack, commit 312dc605; virtee/
 * tdx-measure is a fork of it and computes the same) for the same bytes, in both orders.
 *
 * RTMRs: values of event logs of real machines that started a kernel directly, and for one of them
 * of a quote signed by the machine (confidential-dot-ai/attestation-rs, commit 67ee36f8,
 * tdx_quote_live.dat and tdx_ccel_live2.dat). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "common/fileio.h"
#include "guest/ovmf_testing.h"
#include "guest/tdx.h"

static struct fix f;

static int make(void **state)
{
    (void)state;
    fix_make(&f, FIX_ALL);
    return 0;
}

static void is_hex(const uint8_t digest[GUEST_TDX_DIGEST_BYTES], const char *expected)
{
    _cleanup_free_ char *hex = hex_encode(digest, GUEST_TDX_DIGEST_BYTES);

    assert_string_equal(hex, expected);
}

static void is_mrtd(struct bytes firmware, enum guest_tdx_order order, const char *expected)
{
    uint8_t mrtd[GUEST_TDX_DIGEST_BYTES];
    struct err e = {0};

    if (guest_tdx_mrtd(firmware, order, mrtd, &e)) {
        fail_msg("%s", e.msg);
    }
    is_hex(mrtd, expected);
}

static void refused(enum err_code code, const char *text)
{
    uint8_t mrtd[GUEST_TDX_DIGEST_BYTES] = {0};
    struct err e = {0};

    assert_int_equal(guest_tdx_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE, mrtd, &e), -1);
    if (e.code != code || !strstr(e.msg, text)) {
        fail_msg("\"%s\" (%s) is not \"%s\" (%s)", e.msg, err_code_name(e.code), text,
                 err_code_name(code));
    }
    assert_int_equal(mrtd[0], 0);
    fix_make(&f, FIX_ALL);
}

static void test_mrtd(void **state)
{
    (void)state;
    is_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE,
            "2506fc80d20ad31fd3a99f1c9ebf3342fbae76870f0fec7fa6a8a183adf61a05"
            "8397e7a6c31472744a3f9a44e1e91617");
    is_mrtd(fix_bytes(&f), GUEST_TDX_AFTER_SECTION,
            "904e4f87093ad28b9d0cdd2f3759d5f5a8acf4a2d531adf9d03d25ca6cf99474"
            "acd097c959173b5763a67b04ce07653c");
}

/* Skipped where another build of the package is installed, or none. */
static void test_mrtd_debian(void **state)
{
    static const char known[] = "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773";
    _cleanup_buf_ struct buf b = BUF_INIT(OVMF_IMAGE_MAX_BYTES);
    uint8_t sha[32];
    struct err e = {0};

    (void)state;
    if (file_read("/usr/share/ovmf/OVMF.fd", OVMF_IMAGE_MAX_BYTES, 0, &b, &e)) {
        skip();
    }
    assert_int_equal(EVP_Digest(b.p, b.n, sha, NULL, EVP_sha256(), NULL), 1);
    _cleanup_free_ char *hex = hex_encode(sha, sizeof(sha));
    if (!streq(hex, known)) {
        skip();
    }
    is_mrtd(buf_bytes(&b), GUEST_TDX_PAGE_BY_PAGE,
            "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057"
            "fb887fed0744d5631a212967fb231c47");
    is_mrtd(buf_bytes(&b), GUEST_TDX_AFTER_SECTION,
            "acccbcc870a381adab0d3919d90a7f268ac3b0364771f202ed4bb4e892d045b3"
            "3db3b32e6924cba830a724eed443f7e1");
}

/* Code counts; variables (not measured here, but by RTMR0) do not. */
static void test_mrtd_content(void **state)
{
    uint8_t before[GUEST_TDX_DIGEST_BYTES], after[GUEST_TDX_DIGEST_BYTES];

    (void)state;
    assert_int_equal(guest_tdx_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE, before, NULL), 0);
    f.image[0] ^= 1;
    assert_int_equal(guest_tdx_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE, after, NULL), 0);
    assert_memory_equal(before, after, sizeof(before));
    f.image[0x4000] ^= 1;
    assert_int_equal(guest_tdx_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE, after, NULL), 0);
    assert_memory_not_equal(before, after, sizeof(before));
    /* A page the guest accepts later is not measured. */
    fix_make(&f, FIX_ALL);
    le32_put(f.image + FIX_TDX_SECTION(2) + 28, OVMF_TDX_PAGE_AUG);
    assert_int_equal(guest_tdx_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE, after, NULL), 0);
    assert_memory_not_equal(before, after, sizeof(before));
}

static void test_mrtd_refused(void **state)
{
    (void)state;
    fix_make(&f, FIX_SEV);
    refused(ERR_UNSUPPORTED, "firmware has no TDX metadata");
    le32_put(f.image + FIX_TDX_SECTION(0) + 28, 0);
    refused(ERR_INVALID, "TDX section 0: a boot firmware volume that is not measured");
    le32_put(f.image + FIX_TDX_SECTION(0) + 24, OVMF_TDX_CFV);
    refused(ERR_INVALID, "TDX metadata: no boot firmware volume (type 0)");
    le32_put(f.image + FIX_TDX_SECTION(0) + 24, 5);
    refused(ERR_UNSUPPORTED, "TDX section 0: type 5 is measured, expected only firmware volumes");
    f.image[FIX_FOOTER_AT + 2] ^= 1;
    refused(ERR_UNSUPPORTED, "firmware has no GUIDed table");
}

struct log {
    const char *image;
    unsigned separators;
    const char *events[2];
    size_t events_n;
    const char *rtmr1, *rtmr2;
};

static void test_rtmr_logs(void **state)
{
    static const struct log logs[] = {
        /* attestation-rs tdx_ccel_live2.dat; RTMR1 and RTMR2 as in tdx_quote_live.dat */
        {"ffbcfc53f1c1cf14c639723822616e626319449681572e15abc701d5006722b1bf405943d87ec63b315b4abed"
         "bb4e95e",
         1,
         {"9ef512aa411d4daf001123b04e9e8de66213c207d78b824e777fa4432a00c58aaa9b3a79ea0932088264651"
          "203a5ae38",
          "b88ab0900ba0606a42d668978b452c1cbaacdb178f3633c81bd12b666a7f10b0f6eb63d75fe1bc06773aec0"
          "32564264f"},
         2,
         "7fc19ed7b5726f078d331c4125a5d4664bcf811bcce0eaa78caa9e3bf4f721091171b51b9af1c497d1c4ac19a"
         "4c9af16",
         "35b87e05bb5e6c7db86a1e3f9a5c7fe361741f01c1a3b1f54474ff8f39b38e9295ff142b932720dfc92e59797"
         "df081ec"},
        /* Dstack-TEE/dstack ccel.bin: an RTMR2 that nothing extends */
        {"a0832ba01668bfd12ac376617f3574d286e5331fddbe60a35683db80960ab5a2e588f00626beb0f033e2e7f6b"
         "306819f",
         1,
         {0},
         0,
         "bdcf4ee0f7fdfe7c73fbb19ded73193aee23a6726b86d3b282ea097cf4c9ed7a0db21b5c1ccd513e410d90e31"
         "0836b26",
         "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
         "00000000"},
        /* confidential-containers/trustee CCEL_data_ovmf: firmware from before the separator */
        {"a2ccae1e7d6c668ca325bb09c882d8ce44d26d714ba6f58d2e8083fe291a704646afe24a2368bca3341728d78"
         "ec80a80",
         0,
         {"4230f84885a6f3f305e91a1955045398bd9edd8ffd2aaf2aab8ad3ac53476c4ac82a3675ef559c4ae949a06e"
          "8"
          "4119fc2",
          "b15af9286108d3d8c9f794a51409e55bad6334f5d96a1e4469f8df2d75fd69aac648d939e13daf6800e82e6c"
          "1"
          "f6628c4"},
         2,
         "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc2"
         "10c13c6",
         "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bb"
         "f25f34a"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(logs); i++) {
        uint8_t events[2][GUEST_TDX_DIGEST_BYTES], rtmr1[GUEST_TDX_DIGEST_BYTES],
            rtmr2[GUEST_TDX_DIGEST_BYTES];
        struct guest_tdx_boot b = {.separators = logs[i].separators,
                                   .events = (const uint8_t(*)[GUEST_TDX_DIGEST_BYTES])events,
                                   .events_n = logs[i].events_n};
        assert_int_equal(hex_decode(logs[i].image, b.image, sizeof(b.image), NULL), 0);
        for (size_t k = 0; k < logs[i].events_n; k++) {
            assert_int_equal(hex_decode(logs[i].events[k], events[k], sizeof(events[k]), NULL), 0);
        }
        assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, NULL), 0);
        is_hex(rtmr1, logs[i].rtmr1);
        is_hex(rtmr2, logs[i].rtmr2);
    }
}

static void extend(uint8_t rtmr[GUEST_TDX_DIGEST_BYTES], const void *p, size_t n, int is_digest)
{
    uint8_t both[2 * GUEST_TDX_DIGEST_BYTES];

    memcpy(both, rtmr, GUEST_TDX_DIGEST_BYTES);
    if (is_digest) {
        memcpy(both + GUEST_TDX_DIGEST_BYTES, p, GUEST_TDX_DIGEST_BYTES);
    } else {
        EVP_Digest(p, n, both + GUEST_TDX_DIGEST_BYTES, NULL, EVP_sha384(), NULL);
    }
    EVP_Digest(both, sizeof(both), rtmr, NULL, EVP_sha384(), NULL);
}

/* A UKI loads its kernel after the firmware has started it: the order of PCR 4 of a vTPM. */
static void test_rtmr_uki(void **state)
{
    struct guest_tdx_boot b = {.separators = 1, .nested = 1};
    uint8_t rtmr1[GUEST_TDX_DIGEST_BYTES], rtmr2[GUEST_TDX_DIGEST_BYTES],
        expected[GUEST_TDX_DIGEST_BYTES] = {0};

    (void)state;
    memset(b.image, 0xaa, sizeof(b.image));
    memset(b.kernel, 0xbb, sizeof(b.kernel));
    extend(expected, b.image, 0, 1);
    extend(expected, "Calling EFI Application from Boot Option", 40, 0);
    extend(expected, "\0\0\0", 4, 0);
    extend(expected, b.kernel, 0, 1);
    extend(expected, "Exit Boot Services Invocation", 29, 0);
    extend(expected, "Exit Boot Services Returned with Success", 40, 0);
    assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, NULL), 0);
    assert_memory_equal(rtmr1, expected, sizeof(expected));
}

static void test_rtmr_refused(void **state)
{
    struct guest_tdx_boot b = {.separators = 9};
    uint8_t rtmr1[GUEST_TDX_DIGEST_BYTES], rtmr2[GUEST_TDX_DIGEST_BYTES];
    struct err e = {0};

    (void)state;
    assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, &e), -1);
    assert_string_equal(e.msg, "separators: 9, expected at most 8");
    b.separators = 1;
    b.events_n = 65;
    assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, &e), -1);
    assert_string_equal(e.msg, "RTMR2: 65 events, expected at most 64");
}

static void test_events(void **state)
{
    uint8_t one[GUEST_TDX_DIGEST_BYTES], two[GUEST_TDX_DIGEST_BYTES],
        both[2][GUEST_TDX_DIGEST_BYTES];
    struct err e = {0};

    (void)state;
    assert_int_equal(guest_tdx_cmdline_event("ab", one, &e), 0);
    assert_int_equal(guest_tdx_event(BYTES("a\0b\0\0", 6), two, &e), 0);
    assert_memory_equal(one, two, sizeof(one));
    assert_int_equal(guest_tdx_cmdline_event("a\xc3\xa4", one, &e), -1);
    assert_string_equal(e.msg, "command line: byte 0xc3 at 1, expected ASCII only");
    assert_int_equal(guest_tdx_section_events(".linux", BYTES_STR("kernel"), both, &e), 0);
    assert_int_equal(guest_tdx_event(BYTES(".linux", 7), one, &e), 0);
    assert_int_equal(guest_tdx_event(BYTES_STR("kernel"), two, &e), 0);
    assert_memory_equal(both[0], one, sizeof(one));
    assert_memory_equal(both[1], two, sizeof(two));
    /* FIPS 180-2, appendix D.1 */
    assert_int_equal(guest_tdx_event(BYTES_STR("abc"), one, &e), 0);
    is_hex(one, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
                "8086072ba1e7cc2358baeca134c825a7");
}

static void test_versions(void **state)
{
    static const char *const linux_yes[] = {"6.10", "6.12.9-cloud-amd64", "7.0.1", "10.0"};
    static const char *const linux_no[] = {"6.9.12", "6.1.0-56-cloud-amd64", "5.19", "6", "", "x"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(linux_yes); i++) {
        assert_true(guest_tdx_linux_measures(linux_yes[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(linux_no); i++) {
        assert_false(guest_tdx_linux_measures(linux_no[i]));
    }
    struct err e = {0};
    assert_int_equal(guest_tdx_stub_check("256", &e), 0);
    assert_int_equal(guest_tdx_stub_check("257.4-1", &e), 0);
    assert_int_equal(guest_tdx_stub_check("252.39-1~deb12u2", &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "boot stub 252.39-1~deb12u2 measures into a TPM only: a command "
                                  "line given by the host would not show in RTMR2"));
    assert_int_equal(guest_tdx_stub_check("258~rc1", &e), -1);
    assert_string_equal(e.msg, "boot stub 258~rc1: what it measures is not known; known are "
                               "systemd-stub 256 and 257");
    assert_int_equal(guest_tdx_stub_check("v256", &e), -1);
    assert_string_equal(e.msg, "boot stub: version \"v256\" cannot be read");
    assert_int_equal(guest_tdx_stub_check("", &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_mrtd, make),
        cmocka_unit_test(test_mrtd_debian),
        cmocka_unit_test_setup(test_mrtd_content, make),
        cmocka_unit_test_setup(test_mrtd_refused, make),
        cmocka_unit_test(test_rtmr_logs),
        cmocka_unit_test(test_rtmr_uki),
        cmocka_unit_test(test_rtmr_refused),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
