/* Expected digests are those of virtee/sev-snp-measure (commit 8f2b337e) for the same bytes: of the
 * image that ovmf_testing.h makes, and of Debian's OVMF.fd where that very file is installed. That
 * tool was compared over more combinations than are kept here: its own OvmfX64, AmdSev and SVSM
 * firmware and Debian's, 16 CPU models, 1 to 64 vCPUs, with and without a kernel; all equal, except
 * that it gives a digest for firmware without any SEV metadata, which is refused here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "common/fileio.h"
#include "guest/ovmf_testing.h"
#include "guest/snp.h"

static struct fix f;

static int make(void **state)
{
    (void)state;
    fix_make(&f, FIX_ALL);
    return 0;
}

static struct guest_snp_params params(struct bytes firmware, const char *model, unsigned vcpus)
{
    struct guest_snp_params p = {
        .firmware = firmware, .vcpus = vcpus, .features = GUEST_SNP_FEATURES};

    assert_int_equal(guest_snp_cpu_sig(model, &p.cpu_sig, NULL), 0);
    return p;
}

static struct guest_snp_kernel kernel_of(const char *kernel, const char *initrd, const char *line)
{
    struct guest_snp_kernel k;

    assert_int_equal(guest_snp_kernel_of(BYTES_STR(kernel), BYTES_STR(initrd), line, &k, NULL), 0);
    return k;
}

static void is(const struct guest_snp_params *p, const char *expected)
{
    uint8_t digest[GUEST_SNP_DIGEST_BYTES];
    struct err e = {0};

    if (guest_snp_digest(p, digest, &e)) {
        fail_msg("%s", e.msg);
    }
    _cleanup_free_ char *hex = hex_encode(digest, sizeof(digest));
    assert_string_equal(hex, expected);
}

static void refused(const struct guest_snp_params *p, enum err_code code, const char *text)
{
    uint8_t digest[GUEST_SNP_DIGEST_BYTES] = {0};
    struct err e = {0};

    assert_int_equal(guest_snp_digest(p, digest, &e), -1);
    if (e.code != code || !strstr(e.msg, text)) {
        fail_msg("\"%s\" (%s) is not \"%s\" (%s)", e.msg, err_code_name(e.code), text,
                 err_code_name(code));
    }
    assert_int_equal(digest[0], 0);
}

static void test_without_kernel(void **state)
{
    struct guest_snp_params p = params(fix_bytes(&f), "EPYC-v4", 1);

    (void)state;
    is(&p, "6708c0729732759ccd35509de5848ea3f1fd6462c2e68bac8b8e4ae3e4510c72"
           "17914c2e7bff6268699f6f936dd01de9");
    p = params(fix_bytes(&f), "EPYC-Rome", 512);
    is(&p, "5df543b6934122a6c4d1c87cd758afdbe1ce6a0d468a4822919e23628efad83a"
           "25185fa4ed64643bfd9e3c6e34ebb2fe");
    fix_make(&f, FIX_ALL & ~FIX_HASHES_SECTION);
    p = params(fix_bytes(&f), "EPYC-Turin", 3);
    is(&p, "79f6beaa9e77646e9b7a00a350a1400d4b8b19b75ebb0e68a8dd5ba618db9457"
           "c646d99081b17bb71de1555c74cfde0b");
}

static void test_with_kernel(void **state)
{
    struct guest_snp_params p = params(fix_bytes(&f), "EPYC-v4", 1);
    struct guest_snp_kernel k = kernel_of("kernel", "initrd", "console=ttyS0");

    (void)state;
    p.kernel = &k;
    is(&p, "a4097d6cb0a6c74a2cf4fde1eefb15700bac2335c47e6d1392695263df0bff6e"
           "286bbef856eda652b150f48d7f423f7b");
    /* A UKI: neither initrd nor command line beside it. */
    k = kernel_of("kernel", "", NULL);
    p = params(fix_bytes(&f), "EPYC-Milan", 4);
    p.kernel = &k;
    is(&p, "29f02480fe1ec1cd954d8aef5d381ebc175edb36d0733740598206d5b4b647e9"
           "c73dd15ff4d3c6250302840d74361050");
    p = params(fix_bytes(&f), "EPYC-Genoa", 2);
    p.kernel = &k;
    p.features = 0x21;
    is(&p, "c5f697bd0be6d2b9e3450627a7cab45218ee5f782fb04946d86f029a39666200"
           "5dd9ed97cba214d18a3c68ae856912d9");
}

/* Each of the inputs counts. */
static void test_all_count(void **state)
{
    struct guest_snp_params p = params(fix_bytes(&f), "EPYC-v4", 2);
    struct guest_snp_kernel k = kernel_of("kernel", "initrd", "line");
    uint8_t seen[9][GUEST_SNP_DIGEST_BYTES];
    size_t n = 0;

    (void)state;
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    p.kernel = &k;
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    k = kernel_of("kernel", "initrd", "line ");
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    k = kernel_of("kernel", "initrd2", "line");
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    k = kernel_of("kernel2", "initrd", "line");
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    p.vcpus = 1;
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    p.cpu_sig ^= 0x10;
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    p.features |= 0x20;
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    f.image[0] ^= 1;
    assert_int_equal(guest_snp_digest(&p, seen[n++], NULL), 0);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++) {
            assert_memory_not_equal(seen[i], seen[j], GUEST_SNP_DIGEST_BYTES);
        }
    }
}

static void test_lacks(void **state)
{
    struct guest_snp_kernel k = kernel_of("kernel", "", "");
    struct guest_snp_params p = params(fix_bytes(&f), "EPYC-v4", 1);

    (void)state;
    p.kernel = &k;
    fix_make(&f, FIX_ALL & ~FIX_HASHES_SECTION);
    refused(&p, ERR_UNSUPPORTED,
            "firmware has no kernel-hashes section (type 0x10) in its SEV "
            "metadata: the kernel would not be measured");
    fix_make(&f, FIX_ALL & ~FIX_HASHES);
    refused(&p, ERR_UNSUPPORTED,
            "firmware has no kernel-hashes area (table entry 7255371f-3a3b-4b04-927b-1da6efa8d454 "
            "is absent or empty)");
    fix_make(&f, FIX_TDX);
    refused(&p, ERR_UNSUPPORTED, "firmware has no SEV metadata");
    p.kernel = NULL;
    refused(&p, ERR_UNSUPPORTED, "firmware has no SEV metadata");
    fix_make(&f, FIX_SEV);
    p.vcpus = 2;
    refused(&p, ERR_UNSUPPORTED,
            "firmware has no SEV-ES reset block: only a guest of one vCPU can "
            "start, not of 2");
}

static void test_params(void **state)
{
    struct guest_snp_params p = params(fix_bytes(&f), "EPYC-v4", 0);

    (void)state;
    refused(&p, ERR_INVALID, "vcpus: 0, expected 1 to 512");
    p.vcpus = 513;
    refused(&p, ERR_INVALID, "vcpus: 513, expected 1 to 512");
    p.vcpus = 1;
    p.features = 0x20;
    refused(&p, ERR_INVALID, "guest features: 0x20, expected bit 0 (SNP active) to be set");
}

static void hashes_area(uint32_t gpa, uint32_t bytes)
{
    fix_make(&f, FIX_ALL & ~FIX_HASHES);
    uint8_t *p = fix_entry(&f, 8, 0x7255371f, 0x3a3b, 0x4b04, "\x92\x7b\x1d\xa6\xef\xa8\xd4\x54");
    le32_put(p, gpa);
    le32_put(p + 4, bytes);
}

static void test_hostile(void **state)
{
    struct guest_snp_kernel k = kernel_of("kernel", "", "");
    struct guest_snp_params p = params(fix_bytes(&f), "EPYC-v4", 1);

    (void)state;
    p.kernel = &k;
    hashes_area(0x80fc00, 0x400);
    refused(&p, ERR_INVALID,
            "firmware's kernel-hashes area 0x80fc00+0x400 is not within its "
            "kernel-hashes section 0x810000+0x1000 of one page");
    hashes_area(0x810c00, 0x401);
    refused(&p, ERR_INVALID, "firmware's kernel-hashes area 0x810c00+0x401 is not within");
    hashes_area(0x810c00, 0xffffffff);
    refused(&p, ERR_INVALID, "firmware's kernel-hashes area 0x810c00+0xffffffff is not within");
    hashes_area(0x810fff, 1);
    refused(&p, ERR_INVALID, "firmware's kernel-hashes area has 1 bytes, expected at least 168");
    hashes_area(0x810c00, 0);
    refused(&p, ERR_UNSUPPORTED, "firmware has no kernel-hashes area");
    hashes_area(0x810f58, 0xa8); /* just fits */
    uint8_t digest[GUEST_SNP_DIGEST_BYTES];
    assert_int_equal(guest_snp_digest(&p, digest, NULL), 0);

    fix_make(&f, FIX_ALL);
    p.kernel = NULL;
    le32_put(f.image + FIX_SEV_SECTION(4) + 8, 7);
    refused(&p, ERR_UNSUPPORTED,
            "SEV section 4 has type 0x7, and how that is measured is not known");
    fix_make(&f, FIX_ALL);
    le32_put(f.image + FIX_SEV_SECTION(4) + 8, OVMF_SEV_CPUID);
    refused(&p, ERR_INVALID, "SEV section 4: type 0x3 with 0x1000 bytes, expected one page, once");
    fix_make(&f, FIX_ALL);
    le32_put(f.image + FIX_SEV_SECTION(5) + 8, OVMF_SEV_SECRETS);
    le32_put(f.image + FIX_SEV_SECTION(2) + 8, OVMF_SEV_SEC_MEM);
    refused(&p, ERR_INVALID, "SEV section 5: type 0x2 with 0xf000 bytes, expected one page, once");
}

static void test_models(void **state)
{
    static const struct {
        const char *name;
        uint32_t sig;
    } known[] = {
        {"EPYC", 0x800f12},          {"EPYC-v1", 0x800f12},    {"EPYC-v4", 0x800f12},
        {"EPYC-IBPB", 0x800f12},     {"EPYC-Rome", 0x830f10},  {"EPYC-Rome-v3", 0x830f10},
        {"EPYC-Milan-v2", 0xa00f11}, {"EPYC-Genoa", 0xa10f10}, {"EPYC-Turin", 0xb00f00},
    };
    static const char *const unknown[] = {"",       "EPYC-v0",      "EPYC-v9",      "EPYC-v44",
                                          "EPYC-v", "EPYC-Milan-",  "EPYC-IBPB-v1", "epyc-v4",
                                          "host",   "EPYC-Turin-v2"};
    struct err e = {0};
    uint32_t sig = 7;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        assert_int_equal(guest_snp_cpu_sig(known[i].name, &sig, &e), 0);
        assert_int_equal(sig, known[i].sig);
    }
    sig = 7;
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        assert_int_equal(guest_snp_cpu_sig(unknown[i], &sig, &e), -1);
        assert_int_equal(e.code, ERR_UNSUPPORTED);
        assert_int_equal(sig, 7);
    }
    assert_non_null(strstr(e.msg, "CPU model \"EPYC-Turin-v2\" is not known; known are"));
}

/* Skipped where another build of the package is installed, or none. */
static void test_debian(void **state)
{
    static const char known[] = "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773";
    struct guest_snp_kernel k = kernel_of("kernel", "", "");
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
    struct guest_snp_params p = params(buf_bytes(&b), "EPYC-v4", 2);
    is(&p, "a5b54e62ae971b58274dd24cc6c47b842662617036e7bd67d7326c07ac6363f3"
           "5399ef933330a5ea160cead90a00603f");
    p.kernel = &k;
    refused(&p, ERR_UNSUPPORTED, "firmware has no kernel-hashes section");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_without_kernel, make),
        cmocka_unit_test_setup(test_with_kernel, make),
        cmocka_unit_test_setup(test_all_count, make),
        cmocka_unit_test_setup(test_lacks, make),
        cmocka_unit_test_setup(test_params, make),
        cmocka_unit_test_setup(test_hostile, make),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_debian),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
