/* Writes a table of made-up hospital admissions as CSV, the same for the same seed.
 *
 *   admissions [ROWS [SEED]] > admissions.csv
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct group {
    const char *name;
    unsigned weight;    /* share of admissions, in 1/1000 */
    unsigned mean_days; /* mean length of stay */
};

static const struct group groups[] = {
    {"circulatory", 190, 6},  {"digestive", 120, 4}, {"respiratory", 110, 7},
    {"injury", 105, 5},       {"neoplasms", 100, 8}, {"musculoskeletal", 90, 5},
    {"genitourinary", 75, 4}, {"mental", 60, 21},    {"infectious", 55, 9},
    {"nervous", 45, 7},       {"endocrine", 30, 6},  {"perinatal", 20, 10},
};
#define N_GROUPS (sizeof(groups) / sizeof(groups[0]))

static const char *const wards[] = {"A1", "A2", "B1", "B2", "C1", "C2", "D1", "ICU"};

/* splitmix64 (Steele, Lea, Flood 2014): small and good enough to make up data. */
static uint64_t state;

static uint64_t next(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static unsigned below(unsigned n)
{
    return (unsigned)(next() % n);
}

static const struct group *pick_group(void)
{
    unsigned r = below(1000);

    for (size_t i = 0; i < N_GROUPS; i++) {
        if (r < groups[i].weight) {
            return &groups[i];
        }
        r -= groups[i].weight;
    }
    return &groups[N_GROUPS - 1];
}

/* Stays are skewed: most short, a few long. */
static unsigned stay_days(unsigned mean)
{
    unsigned days = 1;

    while (below(mean + 1) && days < 120) {
        days++;
    }
    return days;
}

static int parse(const char *text, uint64_t max, uint64_t *ret)
{
    char *end = NULL;

    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (errno || end == text || *end || n > max) {
        fprintf(stderr, "admissions: expected a number up to %" PRIu64 ", found \"%s\"\n", max,
                text);
        return -1;
    }
    *ret = n;
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t rows = 100000, seed = 1;

    if (argc > 3 || (argc > 1 && parse(argv[1], 100000000, &rows) < 0) ||
        (argc > 2 && parse(argv[2], UINT64_MAX - 1, &seed) < 0)) {
        fprintf(stderr, "usage: admissions [ROWS [SEED]] > admissions.csv\n");
        return 2;
    }
    state = seed;
    puts("admission,patient,born,sex,postcode,group,admitted,days,ward");
    for (uint64_t i = 0; i < rows; i++) {
        const struct group *g = pick_group();
        printf("%" PRIu64 ",P%07u,%u,%c,%05u,%s,2025-%02u-%02u,%u,%s\n", i + 1, below(9999999),
               1930 + below(95), below(2) ? 'f' : 'm', 1000 + below(98999), g->name, 1 + below(12),
               1 + below(28), stay_days(g->mean_days),
               wards[below(sizeof(wards) / sizeof(wards[0]))]);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("admissions: write");
        return 1;
    }
    return 0;
}
