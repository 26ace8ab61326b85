#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guest/ovmf_testing.h"

static struct fix f;

static int make(void **state)
{
    (void)state;
    fix_make(&f, FIX_ALL);
    return 0;
}

enum reader { TABLE, SEV, TDX };

static int read_all(struct bytes image, enum reader r, struct err *e)
{
    struct ovmf o;
    struct ovmf_sev sev;
    struct ovmf_tdx tdx;

    if (ovmf_parse(image, &o, e)) {
        return -1;
    }
    switch (r) {
    case TABLE:
        return 0;
    case SEV:
        return ovmf_parse_sev(&o, &sev, e);
    case TDX:
        return ovmf_parse_tdx(&o, &tdx, e);
    }
    return -1;
}

/* The fixture as it is now is refused, with a message that has `text`; then it is made anew. */
static void refused(enum reader r, enum err_code code, const char *text)
{
    struct err e = {0};

    assert_int_equal(read_all(fix_bytes(&f), r, &e), -1);
    if (!strstr(e.msg, text) || e.code != code) {
        fail_msg("\"%s\" (%s) is not \"%s\" (%s)", e.msg, err_code_name(e.code), text,
                 err_code_name(code));
    }
    fix_make(&f, FIX_ALL);
}

static void test_fields(void **state)
{
    struct ovmf o;
    struct ovmf_sev sev;
    struct ovmf_tdx tdx;
    struct err e = {0};

    (void)state;
    assert_int_equal(ovmf_parse(fix_bytes(&f), &o, &e), 0);
    assert_ptr_equal(o.image.p, f.image);
    assert_true(o.gpa == UINT64_C(0xffff0000));
    assert_int_equal(o.es_reset_eip, 0x80b004);
    assert_int_equal(o.secret_gpa, 0x810000);
    assert_int_equal(o.secret_bytes, 0xc00);
    assert_int_equal(o.hashes_gpa, 0x810c00);
    assert_int_equal(o.hashes_bytes, 0x400);

    assert_int_equal(ovmf_parse_sev(&o, &sev, &e), 0);
    assert_int_equal(sev.n, 7);
    assert_int_equal(sev.s[5].gpa, 0x811000);
    assert_int_equal(sev.s[5].size_bytes, 0xf000);
    assert_ptr_equal(ovmf_sev_find(&sev, OVMF_SEV_KERNEL_HASHES), &sev.s[6]);
    assert_ptr_equal(ovmf_sev_find(&sev, OVMF_SEV_SEC_MEM), &sev.s[0]);
    assert_null(ovmf_sev_find(&sev, 99));

    assert_int_equal(ovmf_parse_tdx(&o, &tdx, &e), 0);
    assert_int_equal(tdx.n, 4);
    assert_int_equal(tdx.s[0].data_offset, 0x4000);
    assert_int_equal(tdx.s[0].raw_bytes, 0xc000);
    assert_true(tdx.s[0].gpa == 0xffff4000 && tdx.s[0].size_bytes == 0xc000);
    assert_int_equal(tdx.s[0].attributes, OVMF_TDX_MR_EXTEND);
    assert_int_equal(tdx.s[3].type, OVMF_TDX_TD_HOB);
}

static void test_lacks(void **state)
{
    struct ovmf o;
    struct err e = {0};

    (void)state;
    fix_make(&f, 0);
    assert_int_equal(ovmf_parse(fix_bytes(&f), &o, &e), 0);
    assert_int_equal(o.es_reset_eip | o.hashes_gpa | o.secret_bytes, 0);
    refused(SEV, ERR_UNSUPPORTED,
            "firmware has no SEV metadata (its table lacks the entry "
            "dc886566-984a-4798-a75e-5585a7bf67cc)");
    fix_make(&f, FIX_SEV);
    refused(TDX, ERR_UNSUPPORTED,
            "firmware has no TDX metadata (its table lacks the entry "
            "e47a6535-984a-4798-865e-4685a7bf8ec2)");
    f.image[FIX_FOOTER_AT + 2] ^= 1;
    refused(TABLE, ERR_UNSUPPORTED, "firmware has no GUIDed table before its reset vector");
}

static void test_size(void **state)
{
    struct err e = {0};
    _cleanup_free_ uint8_t *big = xcalloc(1, OVMF_IMAGE_MAX_BYTES + OVMF_PAGE_BYTES);

    (void)state;
    assert_int_equal(read_all(BYTES(big, 0), TABLE, &e), -1);
    assert_string_equal(e.msg, "firmware: 0 bytes, expected whole pages of 4096");
    assert_int_equal(read_all(BYTES(f.image + 1, FIX_BYTES - 1), TABLE, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(read_all(BYTES(big, OVMF_IMAGE_MAX_BYTES + OVMF_PAGE_BYTES), TABLE, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    /* The table alone is readable from the last page; what it points to is not. */
    struct bytes last = BYTES(f.image + FIX_BYTES - OVMF_PAGE_BYTES, OVMF_PAGE_BYTES);
    assert_int_equal(read_all(last, SEV, &e), 0);
    assert_int_equal(read_all(last, TDX, &e), -1);
    assert_non_null(strstr(e.msg, "TDX section 0: data 0xc000 bytes at 0x4000, but the firmware "
                                  "has 0x1000"));
}

static void test_table(void **state)
{
    size_t first = FIX_FOOTER_AT - 18; /* length of the entry before the footer */

    (void)state;
    le16_put(f.image + FIX_FOOTER_AT, 0);
    refused(TABLE, ERR_INVALID, "firmware table: length 0, expected 18 to");
    le16_put(f.image + FIX_FOOTER_AT, 17);
    refused(TABLE, ERR_INVALID, "firmware table: length 17, expected 18 to");
    le16_put(f.image + first, 0);
    refused(TABLE, ERR_INVALID, "firmware table: entry 0 has length 0, expected 18 to");
    le16_put(f.image + first, 17);
    refused(TABLE, ERR_INVALID, "entry 0 has length 17");
    le16_put(f.image + first, 0xffff);
    refused(TABLE, ERR_INVALID, "entry 0 has length 65535");
    /* A table that ends in the middle of an entry's header. */
    le16_put(f.image + FIX_FOOTER_AT, (uint16_t)(le16_get(f.image + FIX_FOOTER_AT) - 5));
    refused(TABLE, ERR_INVALID, "firmware table: entry 4 has length");
    le16_put(f.image + FIX_FOOTER_AT, (uint16_t)(le16_get(f.image + FIX_FOOTER_AT) + 5));
    refused(TABLE, ERR_INVALID, "firmware table: entry 5 has length 0");

    fix_entry(&f, 4, 0x00f771de, 0x1a7e, 0x4fcb, "\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e");
    refused(TABLE, ERR_INVALID, "the SEV-ES reset block entry is there twice");
    fix_make(&f, 0);
    fix_entry(&f, 3, 0x00f771de, 0x1a7e, 0x4fcb, "\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e");
    refused(TABLE, ERR_INVALID, "the SEV-ES reset block entry has 3 bytes of data, expected 4");
    fix_make(&f, 0);
    for (int i = 0; i < 65; i++) {
        fix_entry(&f, 0, 1, 2, 3, "unknown");
    }
    refused(TABLE, ERR_TOO_LARGE, "more than 64 entries");
}

/* A table longer than the image has bytes before its footer. */
static void test_table_past_start(void **state)
{
    struct err e = {0};
    struct bytes last = BYTES(f.image + FIX_BYTES - OVMF_PAGE_BYTES, OVMF_PAGE_BYTES);

    (void)state;
    le16_put(f.image + FIX_FOOTER_AT, 4065);
    assert_int_equal(read_all(last, TABLE, &e), -1);
    assert_string_equal(e.msg, "firmware table: length 4065, expected 18 to 4064 (what the image "
                               "has room for)");
}

static uint8_t *sev_entry(void)
{
    struct ovmf o;

    assert_int_equal(ovmf_parse(fix_bytes(&f), &o, NULL), 0);
    return f.image + (o.sev_entry - f.image);
}

static void test_sev_header(void **state)
{
    (void)state;
    le32_put(sev_entry(), 15);
    refused(SEV, ERR_INVALID, "SEV metadata: offset 15 from the end");
    le32_put(sev_entry(), FIX_BYTES + 1);
    refused(SEV, ERR_INVALID,
            "SEV metadata: offset 65537 from the end of the firmware, expected "
            "16 to 65536");
    le32_put(sev_entry(), 0xffffffff);
    refused(SEV, ERR_INVALID, "SEV metadata: offset 4294967295");
    f.image[FIX_SEV_AT] = 'a';
    refused(SEV, ERR_INVALID, "SEV metadata: signature 61534556, expected \"ASEV\"");
    le32_put(f.image + FIX_SEV_AT + 8, 2);
    refused(SEV, ERR_UNSUPPORTED, "SEV metadata: version 2, expected 1");
    le32_put(f.image + FIX_SEV_AT + 12, 0);
    refused(SEV, ERR_INVALID, "SEV metadata: 0 sections, expected 1 to 32");
    le32_put(f.image + FIX_SEV_AT + 12, 33);
    refused(SEV, ERR_TOO_LARGE, "SEV metadata: 33 sections, expected 1 to 32");
    le32_put(f.image + FIX_SEV_AT + 12, 0xffffffff);
    refused(SEV, ERR_TOO_LARGE, "SEV metadata: 4294967295 sections");
    le32_put(f.image + FIX_SEV_AT + 4, 16);
    refused(SEV, ERR_INVALID, "SEV metadata: length 16 for 7 sections, expected 100");
    /* Whole header, but no room for the sections it announces. */
    memcpy(f.image + FIX_BYTES - 16, f.image + FIX_SEV_AT, 16);
    le32_put(sev_entry(), 16);
    refused(SEV, ERR_INVALID, "length 100 for 7 sections, expected 100, within the firmware");
}

static void test_sev_sections(void **state)
{
    uint8_t *s = f.image + FIX_SEV_SECTION(1);

    (void)state;
    le32_put(s, 0x80a001);
    refused(SEV, ERR_INVALID, "SEV section 1: address 0x80a001 and size 0x3000, expected whole");
    le32_put(s + 4, 0x3001);
    refused(SEV, ERR_INVALID, "SEV section 1: address 0x80a000 and size 0x3001");
    le32_put(s + 4, 0);
    refused(SEV, ERR_INVALID, "SEV section 1: address 0x80a000 and size 0x0");
    le32_put(s + 4, OVMF_SECTION_MAX_BYTES);
    refused(SEV, ERR_TOO_LARGE, "SEV section 1: size 0x4000000 takes the sections over");
    le32_put(s, 0x808000);
    refused(SEV, ERR_INVALID, "SEV sections 0 and 1 overlap at 0x808000");
    le32_put(s, 0xfffff000);
    refused(SEV, ERR_INVALID,
            "SEV section 1: ends at 0x100002000, in the firmware itself, which "
            "begins at 0xffff0000");
    le32_put(s, 0xfffed000);
    struct err e = {0};
    assert_int_equal(read_all(fix_bytes(&f), SEV, &e), 0);
}

static void test_tdx_sections(void **state)
{
    uint8_t *s = f.image + FIX_TDX_SECTION(0), *hob = f.image + FIX_TDX_SECTION(3);

    (void)state;
    f.image[FIX_TDX_AT + 3] = 'X';
    refused(TDX, ERR_INVALID, "TDX metadata: signature 54445658, expected \"TDVF\"");
    le32_put(f.image + FIX_TDX_AT + 4, 0);
    refused(TDX, ERR_INVALID, "TDX metadata: length 0 for 4 sections, expected 144");
    le32_put(s, 0x4001);
    refused(TDX, ERR_INVALID,
            "TDX section 0: data 0xc000 bytes at 0x4001, but the firmware has "
            "0x10000");
    le32_put(s, 0xfffff000);
    refused(TDX, ERR_INVALID, "TDX section 0: data 0xc000 bytes at 0xfffff000");
    le32_put(s + 4, 0xffffffff);
    refused(TDX, ERR_INVALID, "TDX section 0: data 0xffffffff bytes");
    le64_put(s + 16, 0xb000);
    refused(TDX, ERR_INVALID, "TDX section 0: data 0xc000 bytes, but only 0xb000 in memory");
    le32_put(s + 4, 0xb000);
    refused(TDX, ERR_INVALID, "TDX section 0: measured, but its pages are not all added from");
    le32_put(s + 28, 3);
    refused(TDX, ERR_INVALID, "TDX section 0: measured, but");
    le32_put(s + 28, 4);
    refused(TDX, ERR_UNSUPPORTED, "TDX section 0: attributes 0x4, expected 0 to 3");
    le64_put(hob + 8, 0x809800);
    refused(TDX, ERR_INVALID, "TDX section 3: address 0x809800 and size 0x2000, expected whole");
    le64_put(hob + 8, UINT64_C(0xfffffffffffff000));
    refused(TDX, ERR_INVALID,
            "TDX section 3: address 0xfffffffffffff000 is not a guest-physical address");
    le64_put(hob + 8, 0x810000 + 0xf000);
    refused(TDX, ERR_INVALID, "TDX sections 2 and 3 overlap at 0x81f000");
    le64_put(hob + 16, UINT64_C(0xfffffffffffff000));
    refused(TDX, ERR_TOO_LARGE, "TDX section 3: size 0xfffffffffffff000 takes the sections over");
}

/* Every byte of the last page in turn, at several values: an answer, and no read out of bounds
 * (which sanitizer builds see: the image is an allocation of its own). */
static void test_every_byte(void **state)
{
    static const uint8_t values[] = {0, 1, 0x10, 0x7f, 0x80, 0xff};
    _cleanup_free_ uint8_t *image = xmemdup(f.image, FIX_BYTES);
    struct err e;
    size_t refusals = 0;

    (void)state;
    for (size_t i = FIX_TDX_AT; i < FIX_BYTES; i++) {
        uint8_t old = image[i];
        for (size_t k = 0; k < ARRAY_LEN(values); k++) {
            image[i] = values[k];
            refusals += read_all(BYTES(image, FIX_BYTES), SEV, &e) ||
                        read_all(BYTES(image, FIX_BYTES), TDX, &e);
        }
        image[i] = old;
    }
    assert_true(refusals > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_fields, make),
        cmocka_unit_test_setup(test_lacks, make),
        cmocka_unit_test_setup(test_size, make),
        cmocka_unit_test_setup(test_table, make),
        cmocka_unit_test_setup(test_table_past_start, make),
        cmocka_unit_test_setup(test_sev_header, make),
        cmocka_unit_test_setup(test_sev_sections, make),
        cmocka_unit_test_setup(test_tdx_sections, make),
        cmocka_unit_test_setup(test_every_byte, make),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
