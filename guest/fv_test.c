#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <lzma.h>

#include "common/fileio.h"
#include "guest/fv.h"
#include "guest/le.h"

#define OVMF "/usr/share/ovmf/OVMF.fd"
#define AREA 65536u

/* Sections as they lie in the main volume: PEI, a pad section, DXE. */
static size_t sections(uint8_t *b, const char *const parts[], const uint8_t types[], size_t n)
{
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(parts[i]);
        le32_put(b + at, (uint32_t)(len + 4) | (uint32_t)types[i] << 24);
        memcpy(b + at + 4, parts[i], len);
        at = (at + 4 + len + 3) & ~(size_t)3;
    }
    return at;
}

/* A firmware of which all that is there is the compressed GUIDed section. */
static size_t firmware(uint8_t out[AREA], struct bytes plain)
{
    static const uint8_t guid[] =
        "\x98\x58\x4e\xee\x14\x39\x59\x42\x9d\x6e\xdc\x7b\xd7\x94\x03\xcf";
    lzma_options_lzma opt;
    lzma_stream s = LZMA_STREAM_INIT;

    memset(out, 0xff, AREA);
    le32_put(out + 64, 0x02u << 24 | 0x4000);
    memcpy(out + 68, guid, 16);
    le16_put(out + 84, 24);
    le16_put(out + 86, 1);
    lzma_lzma_preset(&opt, 6);
    assert_int_equal(lzma_alone_encoder(&s, &opt), LZMA_OK);
    s.next_in = plain.p;
    s.avail_in = plain.n;
    s.next_out = out + 88;
    s.avail_out = AREA - 88;
    assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
    size_t n = AREA - s.avail_out;
    lzma_end(&s);
    return n;
}

static uint8_t fw[AREA];

static size_t make(const char *const parts[], const uint8_t types[], size_t n)
{
    uint8_t plain[1024] = {0};

    return firmware(fw, BYTES(plain, sections(plain, parts, types, n)));
}

static void refused(size_t n, enum err_code code, const char *text)
{
    _cleanup_buf_ struct buf pei = BUF_INIT(FV_MAX_BYTES), dxe = BUF_INIT(FV_MAX_BYTES);
    struct err e = {0};

    assert_int_equal(fv_extract(BYTES(fw, n), &pei, &dxe, &e), -1);
    if (!strstr(e.msg, text) || e.code != code) {
        fail_msg("\"%s\" (%s) is not \"%s\" (%s)", e.msg, err_code_name(e.code), text,
                 err_code_name(code));
    }
}

static const char *const both[] = {"the PEI volume", "pad", "the DXE volume, longer"};
static const uint8_t both_types[] = {0x17, 0x19, 0x17};

static void test_extract(void **state)
{
    _cleanup_buf_ struct buf pei = BUF_INIT(FV_MAX_BYTES), dxe = BUF_INIT(FV_MAX_BYTES);
    size_t n = make(both, both_types, 3);
    struct err e = {0};

    (void)state;
    if (fv_extract(BYTES(fw, n), &pei, &dxe, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(pei.n, strlen(both[0]));
    assert_memory_equal(pei.p, both[0], pei.n);
    assert_int_equal(dxe.n, strlen(both[2]));
    assert_memory_equal(dxe.p, both[2], dxe.n);
}

static void test_refused(void **state)
{
    size_t n = make(both, both_types, 2);

    (void)state;
    refused(n, ERR_UNSUPPORTED, "1 volumes");
    n = make(both, both_types, 3);
    refused(0, ERR_UNSUPPORTED, "no LZMA section");
    refused(80, ERR_UNSUPPORTED, "no LZMA section"); /* cut off within the GUID */
    refused(85, ERR_UNSUPPORTED, "no LZMA section"); /* and right after it */
    refused(n - 8, ERR_INVALID, "LZMA");             /* within the stream */
    fw[67] = 0x03;                                   /* the GUID, but not of such a section */
    refused(n, ERR_UNSUPPORTED, "no LZMA section");
    n = make(both, both_types, 3);
    le16_put(fw + 84, 0xffff); /* the data begin behind the end */
    refused(n, ERR_UNSUPPORTED, "no LZMA section");
    n = make(both, both_types, 3);
    le16_put(fw + 84, 3); /* or before the section's own header */
    refused(n, ERR_UNSUPPORTED, "no LZMA section");
    n = make(both, both_types, 3);
    memset(fw + 88, 0xee, 32);
    refused(n, ERR_INVALID, "LZMA");
}

/* A section whose length leads out of the volume, or nowhere. */
static void test_bad_lengths(void **state)
{
    static const uint32_t lengths[] = {0, 3, 0x7ffff0, 0xffffff};
    uint8_t plain[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        memset(plain, 0, sizeof(plain));
        le32_put(plain, lengths[i] | 0x17u << 24);
        le32_put(plain + 4, lengths[i] == 0xffffff ? 0xfffffff0 : 0);
        refused(firmware(fw, BYTES(plain, sizeof(plain))), ERR_UNSUPPORTED, "0 volumes");
    }
}

/* A few KiB that would unpack to more than a firmware can be. */
static void test_bomb(void **state)
{
    size_t n = (size_t)FV_MAX_BYTES + 65536;
    _cleanup_free_ uint8_t *zeros = xcalloc(1, n);

    (void)state;
    refused(firmware(fw, BYTES(zeros, n)), ERR_TOO_LARGE, "32 MiB");
}

static void test_unlisted_build(void **state)
{
    uint8_t pei[16] = {0};
    struct err e = {0};

    (void)state;
    assert_null(fv_build_name(BYTES_STR("firmware")));
    assert_int_equal(fv_pei_at_runtime(BYTES_STR("firmware"), 256, 1, pei, sizeof(pei), &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "SHA-256 "));
}

static int read_ovmf(struct buf *ret)
{
    struct err e = {0};

    return file_read(OVMF, 16u << 20, 0, ret, &e) == 0 && fv_build_name(buf_bytes(ret)) ? 0 : -1;
}

/* PlatformPei's bytes: the same for the same machine, others for other ones, and little else. */
static void test_real_volumes(void **state)
{
    _cleanup_buf_ struct buf f = BUF_INIT(16u << 20), pei = BUF_INIT(FV_MAX_BYTES),
                             dxe = BUF_INIT(FV_MAX_BYTES), was = BUF_INIT(FV_MAX_BYTES);
    struct err e = {0};
    size_t changed = 0;

    (void)state;
    if (read_ovmf(&f)) {
        fail_msg("%s is not there, or is a build that fv.c does not list: no PCR 0 for it", OVMF);
    }
    assert_int_equal(fv_extract(buf_bytes(&f), &pei, &dxe, &e), 0);
    assert_memory_equal(pei.p + 40, "_FVH", 4);
    assert_memory_equal(dxe.p + 40, "_FVH", 4);
    assert_int_equal(le64_get(pei.p + 32), pei.n);
    assert_int_equal(le64_get(dxe.p + 32), dxe.n);

    assert_int_equal(buf_add(&was, pei.p, pei.n, &e), 0);
    assert_int_equal(fv_pei_at_runtime(buf_bytes(&f), 256, 1, pei.p, pei.n, &e), 0);
    for (size_t i = 0; i < pei.n; i++) {
        changed += pei.p[i] != was.p[i];
    }
    assert_in_range(changed, 1, 64);
    memcpy(was.p, pei.p, pei.n);
    assert_int_equal(fv_pei_at_runtime(buf_bytes(&f), 256, 2, pei.p, pei.n, &e), 0);
    assert_memory_not_equal(was.p, pei.p, pei.n);
    assert_int_equal(fv_pei_at_runtime(buf_bytes(&f), 256, 1, pei.p, pei.n, &e), 0);
    assert_memory_equal(was.p, pei.p, pei.n);
    assert_int_equal(fv_pei_at_runtime(buf_bytes(&f), 256, 1, pei.p, 4096, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extract),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_lengths),    cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_unlisted_build), cmocka_unit_test(test_real_volumes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
