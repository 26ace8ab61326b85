#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "svc-worker/worker.h"

static const uint8_t salt[FP_SALT_BYTES] = {1, 2, 3};

static uint64_t count_found(struct bytes file, struct bytes input, size_t piece, uint64_t *total)
{
    struct fp_finder *f = NULL;
    struct err e = {0};
    uint8_t out[64 * FP_BYTES];
    uint64_t count = 0;

    assert_int_equal(fp_finder_new(&file, 1, &f, &e), 0);
    for (size_t at = 0; at < input.n; at += piece) {
        fp_finder_scan(f, BYTES(input.p + at, input.n - at < piece ? input.n - at : piece));
    }
    fp_finder_end_input(f);
    assert_int_equal(fp_finder_result(f, salt, out, 64, &count, total, &e), 0);
    fp_finder_free(f);
    return count;
}

/* The slow and obvious way. */
static uint64_t count_slowly(struct bytes file, struct bytes input)
{
    uint64_t n = 0;

    for (size_t b = 0; b + 16 <= file.n; b += 16) {
        int dup = 0, hit = 0;
        for (size_t k = 0; k < b; k += 16) {
            dup |= memcmp(file.p + k, file.p + b, 16) == 0;
        }
        for (size_t i = 0; i + 16 <= input.n; i++) {
            hit |= memcmp(input.p + i, file.p + b, 16) == 0;
        }
        n += (uint64_t)(hit && !dup);
    }
    return n;
}

static void test_against_slow(void **state)
{
    uint8_t in[600], out[200];
    uint64_t total;
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        random_bytes(in, sizeof(in));
        random_bytes(out, sizeof(out));
        for (size_t i = 0; i < sizeof(in); i++) {
            in[i] = (uint8_t)(in[i] % (round % 3 ? 2 : 250)); /* many repeats, or few */
        }
        for (unsigned k = 0; k < 4; k++) { /* copies at any offset */
            size_t from = (size_t)out[k] * 2, to = out[4 + k] % 150u, n = 16 + out[8 + k] % 34u;
            memcpy(out + to, in + from, n);
        }
        size_t piece = 1 + round % 40;
        struct bytes o = BYTES(out, sizeof(out) - round % 17), i = BYTES(in, sizeof(in));
        assert_int_equal(count_found(o, i, piece, &total), count_slowly(o, i));
    }
}

/* Two inputs are two: a window across them is in neither. */
static void test_inputs_are_apart(void **state)
{
    struct fp_finder *f = NULL;
    struct bytes file = BYTES("0123456789abcdef", 16);
    uint8_t out[FP_BYTES];
    uint64_t count, total;
    struct err e = {0};
    (void)state;
    assert_int_equal(fp_finder_new(&file, 1, &f, &e), 0);
    fp_finder_scan(f, BYTES("01234567", 8));
    fp_finder_end_input(f);
    fp_finder_scan(f, BYTES("89abcdef", 8));
    fp_finder_end_input(f);
    assert_int_equal(fp_finder_result(f, salt, out, 1, &count, &total, &e), 0);
    assert_int_equal(total, 0);
    fp_finder_scan(f, BYTES("01234567", 8));
    fp_finder_scan(f, BYTES("89abcdef", 8));
    assert_int_equal(fp_finder_result(f, salt, out, 0, &count, &total, &e), 0);
    assert_int_equal(count, 0); /* saturated */
    assert_int_equal(total, 1);
    fp_finder_free(f);
}

static void test_hash(void **state)
{
    struct fp_hasher h;
    struct err e = {0};
    uint8_t in[32], d[32];
    uint64_t v, want;
    (void)state;
    memcpy(in, salt, 16);
    memcpy(in + 16, "0123456789abcdef", 16);
    EVP_Digest(in, 32, d, NULL, EVP_sha256(), NULL);
    memcpy(&want, d, 8);
    assert_int_equal(fp_hasher_init(&h, salt, &e), 0);
    assert_int_equal(fp_hash(&h, (const uint8_t *)"0123456789abcdef", &v, &e), 0);
    assert_true(v == want);
    fp_hasher_done(&h);
}

static void test_speed(void **state)
{
    size_t n = 64u << 20;
    uint8_t *in = xmalloc(n);
    struct bytes file = BYTES(in, 1u << 20);
    struct fp_finder *f = NULL;
    struct err e = {0};
    struct timespec a, b;
    (void)state;
    for (size_t i = 0; i < n; i += 1u << 20) {
        random_bytes(in + i, 1u << 20);
    }
    assert_int_equal(fp_finder_new(&file, 1, &f, &e), 0);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    for (size_t at = 0; at < n; at += 1u << 20) {
        fp_finder_scan(f, BYTES(in + at, 1u << 20));
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    print_message("fingerprints: %.0f MB/s\n", (double)n / s / 1e6);
    fp_finder_free(f);
    free(in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_slow),
        cmocka_unit_test(test_inputs_are_apart),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_speed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
