#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fileio.h"
#include "guest/pe_testing.h"

#define STUB "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

static uint8_t image[PEFIX_BYTES];

static int make(void **state)
{
    (void)state;
    pefix_make(image);
    return 0;
}

static struct pe parse(struct bytes b)
{
    struct pe p;
    struct err e = {0};

    if (pe_parse(b, &p, &e)) {
        fail_msg("%s", e.msg);
    }
    return p;
}

static char *digest(struct bytes b, const EVP_MD *md)
{
    struct pe p = parse(b);
    uint8_t out[64];
    struct err e = {0};

    if (pe_authenticode(&p, md, out, &e)) {
        fail_msg("%s", e.msg);
    }
    return hex_encode(out, (size_t)EVP_MD_get_size(md));
}

/* The image as it is now is refused, with a message that has `text`; then it is made anew. */
static void refused(size_t n, enum err_code code, const char *text)
{
    struct pe p;
    struct err e = {0};

    assert_int_equal(pe_parse(BYTES(image, n), &p, &e), -1);
    if (!strstr(e.msg, text) || e.code != code) {
        fail_msg("\"%s\" (%s) is not \"%s\" (%s)", e.msg, err_code_name(e.code), text,
                 err_code_name(code));
    }
    pefix_make(image);
}

static void test_sections(void **state)
{
    struct pe p = parse(BYTES(image, PEFIX_BYTES));
    const struct pe_section *s = pe_find(&p, ".data");

    (void)state;
    assert_int_equal(p.n, 2);
    assert_non_null(s);
    assert_int_equal(s->offset, PEFIX_HEADERS + 512);
    assert_int_equal(pe_content(&p, s).n, 500);
    assert_ptr_equal(pe_content(&p, s).p, image + PEFIX_HEADERS + 512);
    assert_null(pe_find(&p, ".linux"));
    /* More in memory than in the file: zeros, which are not read from behind the section. */
    le32_put(image + PEFIX_SECTION(1) + 8, 0x800);
    p = parse(BYTES(image, PEFIX_BYTES));
    assert_int_equal(pe_content(&p, pe_find(&p, ".data")).n, 512);
}

static void test_refused(void **state)
{
    (void)state;
    refused(0, ERR_INVALID, "pe.magic");
    image[0] = 'Z';
    refused(PEFIX_BYTES, ERR_INVALID, "MZ");
    le32_put(image + 0x3c, 0xfffffff0);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.signature");
    image[PEFIX_COFF - 4] = 'N';
    refused(PEFIX_BYTES, ERR_INVALID, "pe.signature");
    le16_put(image + PEFIX_COFF, 0x14c);
    refused(PEFIX_BYTES, ERR_UNSUPPORTED, "0x14c");
    le16_put(image + PEFIX_OPT, 0x10b);
    refused(PEFIX_BYTES, ERR_UNSUPPORTED, "PE32+");
    le16_put(image + PEFIX_COFF + 16, 100);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.optional-header");
    refused(PEFIX_OPT + 8, ERR_INVALID, "pe.optional-header");
    le32_put(image + PEFIX_OPT + 108, 17);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.directories");
    le16_put(image + PEFIX_COFF + 16, 112 + 8 * 15);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.directories");
    le32_put(image + PEFIX_OPT + 32, 3000);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.alignment");
    le32_put(image + PEFIX_OPT + 36, 0);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.alignment");
    le32_put(image + PEFIX_SECURITY, PEFIX_BYTES - 8);
    le32_put(image + PEFIX_SECURITY + 4, 16);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.certificates");
}

static void test_sections_refused(void **state)
{
    (void)state;
    le16_put(image + PEFIX_COFF + 2, 97);
    refused(PEFIX_BYTES, ERR_TOO_LARGE, "at most 96");
    le16_put(image + PEFIX_COFF + 2, 40); /* a table longer than the headers */
    refused(PEFIX_BYTES, ERR_INVALID, "pe.headers");
    le32_put(image + PEFIX_OPT + 60, PEFIX_BYTES + 1);
    refused(PEFIX_BYTES, ERR_INVALID, "pe.headers");
    refused(PEFIX_BYTES - 1, ERR_INVALID, "a section in the file");
    le32_put(image + PEFIX_SECTION(0) + 20, 0xfffffe00); /* offset + size wraps around */
    refused(PEFIX_BYTES, ERR_INVALID, "a section in the file");
    le32_put(image + PEFIX_SECTION(0) + 20, 512); /* in the headers */
    refused(PEFIX_BYTES, ERR_INVALID, "a section in the file");
    le32_put(image + PEFIX_SECTION(0) + 12, 0xfffff000);
    refused(PEFIX_BYTES, ERR_INVALID, "a section in the image");
    le32_put(image + PEFIX_SECTION(0) + 8, 0xffffffff);
    refused(PEFIX_BYTES, ERR_INVALID, "a section in the image");
}

/* Computed of the same bytes by another program, from the specification. */
static void test_authenticode_known(void **state)
{
    _cleanup_free_ char *d256 = digest(BYTES(image, PEFIX_BYTES), EVP_sha256());
    _cleanup_free_ char *d384 = digest(BYTES(image, PEFIX_BYTES), EVP_sha384());

    (void)state;
    assert_string_equal(d256, "ed1ddc4a4b0a9e685a2e020319b4e60a6fe42d88e3375a8aad9cd1696b2ecd44");
    assert_string_equal(d384, "8b49c0f52db01da39a6cbfb52c1efcd65f7b5974c0f2dd2c184b438acf8ba1e7ec3d"
                              "c3fcc8c351428e693ff56e5e5e1f");
}

/* Signing changes the checksum, the directory entry and what it points to: none is measured. */
static void test_authenticode_ignores(void **state)
{
    _cleanup_free_ char *plain = digest(BYTES(image, PEFIX_BYTES), EVP_sha256());
    uint8_t b[PEFIX_BYTES + 16];

    (void)state;
    memcpy(b, image, PEFIX_BYTES);
    memset(b + PEFIX_BYTES, 0xcc, 16);
    le32_put(b + PEFIX_OPT + 64, 1);
    le32_put(b + PEFIX_SECURITY, PEFIX_BYTES);
    le32_put(b + PEFIX_SECURITY + 4, 16);
    _cleanup_free_ char *is_signed = digest(BYTES(b, sizeof(b)), EVP_sha256());
    assert_string_equal(plain, is_signed);
    /* What no directory covers is measured. */
    le32_put(b + PEFIX_SECURITY, 0);
    le32_put(b + PEFIX_SECURITY + 4, 0);
    _cleanup_free_ char *appended = digest(BYTES(b, sizeof(b)), EVP_sha256());
    assert_string_not_equal(plain, appended);
}

static void test_authenticode_sees_every_byte(void **state)
{
    _cleanup_free_ char *plain = digest(BYTES(image, PEFIX_BYTES), EVP_sha256());
    const size_t at[] = {2,
                         PEFIX_COFF + 4,
                         PEFIX_OPT + 16,
                         PEFIX_SECURITY + 8,
                         PEFIX_SECTION(1) + 36,
                         PEFIX_HEADERS - 1,
                         PEFIX_HEADERS,
                         PEFIX_HEADERS + 511,
                         PEFIX_BYTES - 1};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        image[at[i]] ^= 1;
        _cleanup_free_ char *other = digest(BYTES(image, PEFIX_BYTES), EVP_sha256());
        assert_string_not_equal(plain, other);
        image[at[i]] ^= 1;
    }
}

static void test_authenticode_overlap(void **state)
{
    struct pe p;
    uint8_t out[32];
    struct err e = {0};

    (void)state;
    le32_put(image + PEFIX_SECTION(1) + 20, PEFIX_HEADERS + 256);
    p = parse(BYTES(image, PEFIX_BYTES));
    assert_int_equal(pe_authenticode(&p, EVP_sha256(), out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "overlap"));
}

/* ---- adding sections ------------------------------------------------------------------------- */

static void test_add(void **state)
{
    const struct pe_new_section v[] = {{".osrel", BYTES_STR("ID=x\n")},
                                       {".linux", BYTES(image, PEFIX_BYTES)}};
    _cleanup_buf_ struct buf a = BUF_INIT(1 << 20), b = BUF_INIT(1 << 20);
    struct err e = {0};

    (void)state;
    assert_int_equal(pe_add_sections(BYTES(image, PEFIX_BYTES), v, 2, &a, &e), 0);
    assert_int_equal(pe_add_sections(BYTES(image, PEFIX_BYTES), v, 2, &b, &e), 0);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);

    struct pe p = parse(buf_bytes(&a));
    assert_int_equal(p.n, 4);
    struct bytes osrel = pe_content(&p, pe_find(&p, ".osrel"));
    assert_int_equal(osrel.n, 5);
    assert_memory_equal(osrel.p, "ID=x\n", 5);
    struct bytes linux_ = pe_content(&p, pe_find(&p, ".linux"));
    assert_int_equal(linux_.n, PEFIX_BYTES);
    assert_memory_equal(linux_.p, image, PEFIX_BYTES);
    /* In memory one behind the other, none over another, all within the image. */
    for (size_t i = 1; i < p.n; i++) {
        assert_true(p.s[i].rva % p.section_align == 0 && p.s[i].offset % p.file_align == 0);
        assert_true(p.s[i].rva >= p.s[i - 1].rva + p.s[i - 1].virtual_bytes);
    }
    assert_true(p.s[3].rva + p.s[3].virtual_bytes <= p.image_bytes);
    /* The stub's own sections are what they were. */
    assert_memory_equal(a.p + PEFIX_HEADERS, image + PEFIX_HEADERS, PEFIX_BYTES - PEFIX_HEADERS);
}

static void add_refused(const char *name, struct bytes content, enum err_code code,
                        const char *text)
{
    const struct pe_new_section v[] = {{name, content}};
    _cleanup_buf_ struct buf out = BUF_INIT(1 << 20);
    struct err e = {0};

    assert_int_equal(pe_add_sections(BYTES(image, PEFIX_BYTES), v, 1, &out, &e), -1);
    if (!strstr(e.msg, text) || e.code != code) {
        fail_msg("\"%s\" is not \"%s\"", e.msg, text);
    }
    pefix_make(image);
}

static void test_add_refused(void **state)
{
    (void)state;
    add_refused("", BYTES_STR("x"), ERR_INVALID, "a new name");
    add_refused(".too-long", BYTES_STR("x"), ERR_INVALID, "a new name");
    add_refused(".text", BYTES_STR("x"), ERR_INVALID, "a new name");
    add_refused(".linux", BYTES_STR(""), ERR_INVALID, "and content");
    le32_put(image + PEFIX_OPT + 60, PEFIX_SECTION(2));
    add_refused(".linux", BYTES_STR("x"), ERR_UNSUPPORTED, "room in its headers");
    image[0] = 0;
    add_refused(".linux", BYTES_STR("x"), ERR_INVALID, "pe.magic");
}

static void test_add_to_signed(void **state)
{
    const struct pe_new_section v[] = {{".linux", BYTES_STR("x")}};
    _cleanup_buf_ struct buf out = BUF_INIT(1 << 20);
    uint8_t b[PEFIX_BYTES + 16] = {0};
    struct err e = {0};

    (void)state;
    memcpy(b, image, PEFIX_BYTES);
    le32_put(b + PEFIX_SECURITY, PEFIX_BYTES);
    le32_put(b + PEFIX_SECURITY + 4, 16);
    assert_int_equal(pe_add_sections(BYTES(b, sizeof(b)), v, 1, &out, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "signed"));
}

/* Debian's stub takes all four sections of a unified kernel image. */
static void test_real_stub(void **state)
{
    const struct pe_new_section v[] = {{".osrel", BYTES_STR("ID=x")},
                                       {".cmdline", BYTES_STR("quiet")},
                                       {".linux", BYTES_STR("kernel")},
                                       {".initrd", BYTES_STR("initrd")}};
    _cleanup_buf_ struct buf stub = BUF_INIT(1 << 20), out = BUF_INIT(2 << 20);
    struct err e = {0};

    (void)state;
    if (file_read(STUB, 1 << 20, 0, &stub, &e)) {
        skip();
    }
    if (pe_add_sections(buf_bytes(&stub), v, ARRAY_LEN(v), &out, &e)) {
        fail_msg("%s", e.msg);
    }
    struct pe p = parse(buf_bytes(&out));
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        assert_non_null(pe_find(&p, v[i].name));
    }
    _cleanup_free_ char *d = digest(buf_bytes(&out), EVP_sha256());
    assert_int_equal(strlen(d), 64);
}

#define T(f) cmocka_unit_test_setup(f, make)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_sections),
        T(test_refused),
        T(test_sections_refused),
        T(test_authenticode_known),
        T(test_authenticode_ignores),
        T(test_authenticode_sees_every_byte),
        T(test_authenticode_overlap),
        T(test_add),
        T(test_add_refused),
        T(test_add_to_signed),
        T(test_real_stub),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
