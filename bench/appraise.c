/* Appraisals against the bare signature verifications that their evidence cannot avoid, in the same
 * run on one core. Times are CPU time of this thread; ours and the floor alternate, and medians are
 * shown. Ratio 1: nothing but those verifications. It can be above 1 where a better library than
 * OpenSSL's is used for a curve. */
#include "bench/appraise.h"

#include <sched.h>

#include "bench/bench.h"

#define ROUNDS 15

static double per_call_us(void (*fn)(size_t i), size_t *at, double seconds)
{
    double from = thread_cpu_s(), took;
    size_t n = 0;

    do {
        for (int k = 0; k < 8; k++, n++) {
            fn((*at)++);
        }
        took = thread_cpu_s() - from;
    } while (took < seconds);
    return took / (double)n * 1e6;
}

static int measure(const struct appraise_case *c, double seconds, int rounds)
{
    double ours[ROUNDS], floor[ROUNDS], ratio[ROUNDS];
    size_t at = 0, floor_at = 0;

    for (int r = 0; r < rounds; r++) {
        floor[r] = per_call_us(c->floor, &floor_at, seconds);
        ours[r] = per_call_us(c->ours, &at, seconds);
        ratio[r] = floor[r] / ours[r];
    }
    qsort(ours, (size_t)rounds, sizeof(*ours), by_double);
    qsort(floor, (size_t)rounds, sizeof(*floor), by_double);
    qsort(ratio, (size_t)rounds, sizeof(*ratio), by_double);
    double m = ratio[rounds / 2];
    printf("%-44s %9.1f us %9.1f us %8.0f/s  %5.2f", c->name, ours[rounds / 2], floor[rounds / 2],
           1e6 / ours[rounds / 2], m);
    if (c->aim > 0) {
        printf("  (aim %.2f%s)", c->aim, m < c->aim ? ": short" : "");
    }
    printf("\n");
    fflush(stdout);
    return c->aim > 0 && m < c->aim;
}

int main(int argc, char **argv)
{
    const struct appraise_case *(*const kinds[])(void) = {bench_appraise_dcap, bench_appraise_snp};
    int quick = argc > 1 && streq(argv[1], "--quick"), short_of = 0;
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof(one), &one);
    printf("%-44s %12s %12s %10s  %5s\n", "", "appraisal", "bare", "rate", "ratio");
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        for (const struct appraise_case *c = kinds[k](); c->name; c++) {
            short_of += measure(c, quick ? 0.001 : 0.1, quick ? 1 : ROUNDS);
        }
    }
    if (short_of && !quick) {
        printf("%d short of their aim\n", short_of);
    }
    return 0;
}
