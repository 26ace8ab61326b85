/* Reference values of firmware whose PCR 0 cannot be computed, as its reader takes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/refvals.h"
#include "guest/measure.h"
#include "guest/ovmf_testing.h"
#include "guest/pe_testing.h"
#include "guest/tdx.h"

#define MAGIC "#### LoaderInfo: systemd-stub 257.4 ####"

static struct fix f;
static const struct guest_image_name name = {.name = "coffer-guest", .version = "1"};

static void make_uki(const char *magic, struct buf *ret)
{
    static uint8_t pe[PEFIX_BYTES];
    struct pe_new_section v[] = {{".sdmagic", BYTES_STR(magic)},
                                 {".osrel", BYTES_STR("ID=x\n")},
                                 {".cmdline", BYTES_STR("quiet")},
                                 {".linux", BYTES(pe, sizeof(pe))},
                                 {".initrd", BYTES_STR("initrd")}};
    struct err e = {0};

    pefix_make(pe);
    if (pe_add_sections(BYTES(pe, sizeof(pe)), v, ARRAY_LEN(v), ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void test_all(void **state)
{
    _cleanup_buf_ struct buf uki = BUF_INIT(1 << 20), notes = BUF_INIT(4096);
    _cleanup_(refvals_image_done) struct refvals_image i = {0};
    struct guest_tdx_boot b = {.nested = 1, .separators = 1};
    uint8_t rtmr1[48], rtmr2[48], mrtd[48];
    struct pe p, kernel;
    struct err e = {0};
    json_t *j = NULL;

    (void)state;
    fix_make(&f, FIX_ALL);
    make_uki(MAGIC, &uki);
    if (guest_refvals(fix_bytes(&f), buf_bytes(&uki), &name, &j, &notes, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal((char *)notes.p,
                        "no values for vtpm: firmware: expected ovmf 2022.11-6+deb12u2 OVMF.fd, "
                        "got another build, whose PCR 0 cannot be computed\n");
    _cleanup_free_ char *text = json_dumps(j, 0);
    json_decref(j);
    if (refvals_image_parse(BYTES_STR(text), &i, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_false(i.has_vtpm);
    assert_int_equal(i.n_snp, 8);
    assert_true(i.has_tdx);
    assert_int_equal(guest_tdx_mrtd(fix_bytes(&f), GUEST_TDX_PAGE_BY_PAGE, mrtd, &e), 0);
    assert_memory_equal(i.tdx.mrtd, mrtd, 48);
    assert_int_equal(pe_parse(buf_bytes(&uki), &p, &e), 0);
    assert_int_equal(pe_parse(pe_content(&p, pe_find(&p, ".linux")), &kernel, &e), 0);
    assert_int_equal(pe_authenticode(&p, EVP_sha384(), b.image, &e), 0);
    assert_int_equal(pe_authenticode(&kernel, EVP_sha384(), b.kernel, &e), 0);
    assert_int_equal(guest_tdx_rtmrs(&b, rtmr1, rtmr2, &e), 0);
    assert_memory_equal(i.tdx.rtmr1, rtmr1, 48);
    assert_memory_not_equal(i.tdx.rtmr2, rtmr2, 48); /* of no events */
}

static void test_lacks(void **state)
{
    _cleanup_buf_ struct buf uki = BUF_INIT(1 << 20), notes = BUF_INIT(4096);
    struct err e = {0};
    json_t *j = NULL;

    (void)state;
    make_uki("another stub", &uki);
    fix_make(&f, FIX_ALL);
    assert_int_equal(guest_refvals(fix_bytes(&f), buf_bytes(&uki), &name, &j, &notes, &e), 0);
    assert_null(json_object_get(j, "tdx"));
    assert_non_null(
        strstr((char *)notes.p, "no values for tdx: boot stub: version \"\" cannot be read\n"));
    json_decref(j);
    j = NULL;
    fix_make(&f, FIX_TDX);
    assert_int_equal(guest_refvals(fix_bytes(&f), buf_bytes(&uki), &name, &j, NULL, &e), -1);
    assert_null(j);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_string_equal(e.clause, "firmware");
    fix_make(&f, FIX_ALL);
    le32_put(f.image + FIX_SEV_SECTION(1), 1);
    assert_int_equal(guest_refvals(fix_bytes(&f), buf_bytes(&uki), &name, &j, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "SEV-SNP launch digest: SEV section 1: address 0x1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_lacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
