/* The event log: replay in both banks, where PCR 0 starts, and everything that is no log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>

#include "appraise/eventlog.h"

static void put(struct buf *b, const void *p, size_t n)
{
    assert_int_equal(buf_add(b, p, n, NULL), 0);
}

static void le(struct buf *b, uint32_t v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)(v >> 8 * i);
        put(b, &byte, 1);
    }
}

static void head(struct buf *b, uint32_t n_algs, uint16_t alg2, uint16_t bytes2)
{
    static const uint8_t zero[20] = {0};

    le(b, 0, 4);
    le(b, EV_NO_ACTION, 4);
    put(b, zero, sizeof(zero));
    le(b, 24 + 4 + 4 * 2 + 1, 4);
    put(b, "Spec ID Event03\0\0\0\0\0\0\2\0\2", 24);
    le(b, n_algs, 4);
    le(b, TPM_ALG_SHA256, 2);
    le(b, 32, 2);
    le(b, alg2, 2);
    le(b, bytes2, 2);
    le(b, 0, 1);
}

static void event(struct buf *b, uint32_t pcr, uint32_t type, uint8_t fill, const char *data,
                  size_t n)
{
    uint8_t digest[48];

    memset(digest, fill, sizeof(digest));
    le(b, pcr, 4);
    le(b, type, 4);
    le(b, 2, 4);
    le(b, TPM_ALG_SHA256, 2);
    put(b, digest, 32);
    le(b, TPM_ALG_SHA384, 2);
    put(b, digest, 48);
    le(b, (uint32_t)n, 4);
    put(b, data, n);
}

static struct buf log_of(void)
{
    struct buf b = BUF_INIT(1u << 16);

    head(&b, 2, TPM_ALG_SHA384, 48);
    return b;
}

static void test_replay(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf b = log_of();
    _cleanup_(eventlog_done) struct eventlog l = {0};
    uint8_t both[96] = {0}, expected[48];
    struct err e = {0};

    event(&b, 0, EV_NO_ACTION, 0, "StartupLocality\0\3", 17);
    event(&b, 0, 8, 7, "x", 1);
    event(&b, 23, 13, 9, "", 0);
    event(&b, 7, EV_NO_ACTION, 1, "whatever", 8);
    put(&b, "\xff\xff\xff\xff\xff\xff", 6); /* of a table that was larger */
    assert_int_equal(eventlog_parse(buf_bytes(&b), &l, &e), 0);
    assert_int_equal(l.n, 2);
    assert_true(l.has[BANK_SHA256] && l.has[BANK_SHA384]);
    both[31] = 3;
    memset(both + 32, 7, 32);
    assert_int_equal(EVP_Digest(both, 64, expected, NULL, EVP_sha256(), NULL), 1);
    assert_memory_equal(l.pcr[BANK_SHA256][0], expected, 32);
    memset(both, 0, sizeof(both));
    memset(both + 48, 9, 48);
    assert_int_equal(EVP_Digest(both, 96, expected, NULL, EVP_sha384(), NULL), 1);
    assert_memory_equal(l.pcr[BANK_SHA384][23], expected, 48);
    memset(both, 0, sizeof(both));
    assert_memory_equal(l.pcr[BANK_SHA256][7], both, 32);
}

static void expect(const struct buf *b, const char *says)
{
    struct eventlog l = {0};
    struct err e = {0};

    assert_int_equal(eventlog_parse(buf_bytes(b), &l, &e), -1);
    assert_null(l.v);
    if (!strstr(e.msg, says)) {
        fail_msg("expected \"%s\" in \"%s\"", says, e.msg);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
        const char *says;
    } bad[] = {
        /* of the first record */
        {0, 1, "Spec ID Event03 first"},
        {4, 4, "Spec ID Event03 first"},
        {32, 's', "Spec ID Event03 first"},
        {28, 255, "the end"},
        {28, 36, "another length"},
        {56, 0, "1 to 8 kinds of digest, found 0"},
        {56, 9, "1 to 8 kinds of digest, found 9"},
        {62, 31, "of 31 bytes"},
        {64, TPM_ALG_SHA256, "of 48 bytes"},
        {66, 0, "of 0 bytes"},
        /* of the event after it */
        {69, 24, "expected PCR 0 to 23, found 24"},
        {77, 1, "expected 2 digests of an event, found 1"},
        {81, TPM_ALG_SHA384, "digest"},
        {81, 0x12, "which its head does not name"},
        {115, TPM_ALG_SHA256, "twice"},
        {165, 200, "the end"},
    };
    _cleanup_buf_ struct buf b = log_of(), late = log_of(), odd = log_of();

    event(&b, 4, 8, 7, "data", 4);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint8_t was = b.p[bad[i].at];
        b.p[bad[i].at] = bad[i].value;
        expect(&b, bad[i].says);
        b.p[bad[i].at] = was;
    }
    for (size_t n = 0; n < b.n; n++) {
        struct eventlog l = {0};
        struct err e = {0};
        _cleanup_free_ uint8_t *exact = xmemdup(b.p, n + !n); /* for a sanitizer */
        int rc = eventlog_parse(BYTES(exact, n), &l, &e);
        assert_int_equal(rc, n == 69 ? 0 : -1); /* a log without events */
        eventlog_done(&l);
    }
    event(&late, 0, 8, 7, "x", 1);
    event(&late, 0, EV_NO_ACTION, 0, "StartupLocality\0\3", 17);
    expect(&late, "StartupLocality after an event");
    event(&odd, 0, EV_NO_ACTION, 0, "StartupLocality\0\3\0", 18);
    expect(&odd, "StartupLocality has another length");
    const struct buf large = {.p = late.p, .n = EVENTLOG_MAX_BYTES + 1};
    expect(&large, "expected at most 524288 bytes");
}

static void test_bound(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(1u << 20);
    static const uint8_t zero[20] = {0};

    /* A kind of digest of one byte each, so that many events fit. */
    le(&b, 0, 4);
    le(&b, EV_NO_ACTION, 4);
    put(&b, zero, sizeof(zero));
    le(&b, 24 + 4 + 4 + 1, 4);
    put(&b, "Spec ID Event03\0\0\0\0\0\0\2\0\2", 24);
    le(&b, 1, 4);
    le(&b, 0x12, 2);
    le(&b, 1, 2);
    le(&b, 0, 1);
    for (unsigned i = 0; i <= EVENTLOG_MAX_EVENTS; i++) {
        le(&b, 1, 4);
        le(&b, 8, 4);
        le(&b, 1, 4);
        le(&b, 0x12, 2);
        le(&b, 0, 1);
        le(&b, 0, 4);
    }
    expect(&b, "expected at most 4096 events");
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
