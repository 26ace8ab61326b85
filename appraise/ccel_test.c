/* Real CCELs from ../shared/vectors: a quote and its log, replays that others made, and changed
 * ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/ccel.h"
#include "appraise/dcap.h"
#include "appraise/when.h"
#include "common/fileio.h"

#define VECTORS "../shared/vectors/"
#define FILE_MAX_BYTES (1u << 20)

static int setup(void **state)
{
    (void)state;
    if (access(VECTORS "MANIFEST.md", R_OK)) {
        print_message("SKIPPED: no real vectors beside the source tree\n");
        exit(77);
    }
    return 0;
}

static void load(const char *name, struct buf *ret)
{
    _cleanup_free_ char *path = xasprintf(VECTORS "%s", name);
    struct err e = {0};

    *ret = BUF_INIT(FILE_MAX_BYTES);
    if (file_read(path, FILE_MAX_BYTES, 0, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void test_quote_and_log(void **state)
{
    _cleanup_buf_ struct buf quote = {0}, log = {0}, nonce = {0};
    _cleanup_(eventlog_done) struct eventlog l = {0};
    struct dcap_quote q;
    struct err e = {0};
    size_t refused = 0;
    (void)state;

    load("ccel/google-go-tdx-guest/cos-113-tdx-quote.dat", &quote);
    load("ccel/google-go-tdx-guest/ccel_data.dat", &log);
    load("ccel/google-go-tdx-guest/nonce.dat", &nonce);
    assert_int_equal(dcap_quote_parse(buf_bytes(&quote), &q, &e), 0);
    assert_memory_equal(dcap_report_data(&q), nonce.p, 64);
    if (ccel_check(buf_bytes(&log), q.body.p + TD_RTMR0, &l, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_true(l.n > 20);
    /* every byte that is extended counts; the data of events does not */
    for (size_t i = 0; i < l.n; i++) {
        uint8_t *digest = (uint8_t *)(uintptr_t)l.v[i].digest[BANK_SHA384];
        for (size_t b = 0; b < 48; b += 5) {
            struct eventlog bad = {0};
            digest[b] ^= 1;
            assert_int_equal(ccel_check(buf_bytes(&log), q.body.p + TD_RTMR0, &bad, &e), -1);
            assert_string_equal(e.clause, "evidence.cc_eventlog");
            digest[b] ^= 1;
            refused++;
        }
    }
    assert_true(refused > 200);
    for (size_t n = 0; n < 4000; n += 37) { /* cut off */
        struct eventlog bad = {0};
        assert_int_equal(ccel_check(BYTES(log.p, n), q.body.p + TD_RTMR0, &bad, &e), -1);
    }
}

/* As Trustee's clients send it. */
static void test_evidence(void **state)
{
    _cleanup_(certs_freep) struct certs *certs = certs_new(64);
    _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
    _cleanup_buf_ struct buf quote = {0}, log = {0};
    const struct appraisal_policy policy = {0};
    struct appraisal a = {0};
    struct appraisal_input in = {.collateral = c};
    struct err e = {0};
    (void)state;

    load("ccel/google-go-tdx-guest/cos-113-tdx-quote.dat", &quote);
    load("ccel/google-go-tdx-guest/ccel_data.dat", &log);
    _cleanup_free_ char *q64 = b64_encode(quote.p, quote.n), *l64 = b64_encode(log.p, log.n);
    _cleanup_free_ char *text = xasprintf("{\"quote\":\"%s\",\"cc_eventlog\":\"%s\"}", q64, l64);
    in.evidence = BYTES_STR(text);
    assert_int_equal(rfc3339_ms("2025-01-01T00:00:00Z", &in.now_ms), 0);
    if (tdx_appraise(&in, &policy, &a, &e)) {
        fail_msg("%s", e.msg);
    }
    const json_t *first = json_array_get(json_object_get(a.claims, "uefi_event_logs"), 0);
    assert_string_equal(json_string_value(json_object_get(first, "type_name")),
                        "EV_EFI_HANDOFF_TABLES2");
    appraisal_done(&a);
    load("ccel/coco-trustee/CCEL_data_ovmf", &log); /* of another TD */
    _cleanup_free_ char *other = b64_encode(log.p, log.n);
    _cleanup_free_ char *bad = xasprintf("{\"quote\":\"%s\",\"cc_eventlog\":\"%s\"}", q64, other);
    in.evidence = BYTES_STR(bad);
    assert_int_equal(tdx_appraise(&in, &policy, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.cc_eventlog");
}

/* What Trustee's parser makes of the same logs. */
static void test_outputs(void **state)
{
    static const char *const names[] = {"CCEL_data_ovmf", "CCEL_data_grub", "CCEL_data_grub_gke"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        _cleanup_free_ char *log_name = xasprintf("ccel/coco-trustee/%s", names[i]);
        _cleanup_free_ char *out_name = xasprintf("ccel/coco-trustee/%s_out.json", names[i]);
        _cleanup_buf_ struct buf log = {0}, text = {0};
        _cleanup_(eventlog_done) struct eventlog l = {0};
        struct err e = {0};
        load(log_name, &log);
        load(out_name, &text);
        if (eventlog_parse(buf_bytes(&log), &l, &e)) {
            fail_msg("%s: %s", names[i], e.msg);
        }
        _cleanup_json_ json_t *want = json_loadb((char *)text.p, text.n, 0, NULL);
        _cleanup_json_ json_t *got = ccel_claims(&l);
        const json_t *list = json_object_get(want, "uefi_event_logs");
        for (size_t k = 0; k < json_array_size(list);) { /* they show what extends nothing, too */
            const json_t *type = json_object_get(json_array_get(list, k), "type_name");
            if (streq(json_string_value(type), "EV_NO_ACTION")) {
                json_array_remove((json_t *)(uintptr_t)list, k);
            } else {
                k++;
            }
        }
        assert_true(json_array_size(list) > 5);
        assert_int_equal(json_array_size(list), json_array_size(got));
        for (size_t k = 0; k < json_array_size(list); k++) {
            static const char *const members[] = {"index", "type_name", "digests",
                                                  "digest_matches_event"};
            for (size_t m = 0; m < ARRAY_LEN(members); m++) {
                const json_t *x = json_object_get(json_array_get(list, k), members[m]);
                const json_t *y = json_object_get(json_array_get(got, k), members[m]);
                if (!json_equal((json_t *)(uintptr_t)x, (json_t *)(uintptr_t)y)) {
                    print_message("%s, event %zu, %s: %s, %s\n", names[i], k, members[m],
                                  json_string_value(x) ? json_string_value(x) : "?",
                                  json_string_value(y) ? json_string_value(y) : "?");
                    assert_int_equal(m, 3);
                }
            }
        }
    }
}

static void test_others(void **state)
{
    static const struct {
        const char *name;
        int good;
    } logs[] = {
        {"ccel/dstack/ccel.bin", 1},
        {"ccel/google-go-eventlog/CCEL_unpadded.data.bin", 1},
        {"ccel/google-go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin", 1},
        {"ccel/attestation-rs/tdx_ccel_live.bin", 1},
        {"ccel/attestation-rs/tdx_ccel_live2.dat", 1},
        {"ccel/coco-trustee/CCEL_data_gcp", 1},
        {"derived/ccel/numalgs_ffff.bin", 0},
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(logs); i++) {
        _cleanup_buf_ struct buf log = {0};
        _cleanup_(eventlog_done) struct eventlog l = {0};
        struct err e = {0};
        load(logs[i].name, &log);
        if ((eventlog_parse(buf_bytes(&log), &l, &e) == 0) != logs[i].good) {
            fail_msg("%s: %s", logs[i].name, e.msg);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quote_and_log), cmocka_unit_test(test_evidence),
        cmocka_unit_test(test_outputs), cmocka_unit_test(test_others)};

    return cmocka_run_group_tests(tests, setup, NULL);
}
