/* From facts to a score and its reasons (docs/GATE.md). Pure: the same facts give the same score.
 * Reasons are public, also of what is not released: they name no exact size and no exact place. */
#include <stdarg.h>

#include "svc-gate/gate_int.h"

#define POINTS_MAX 100
#define POINTS_SATURATED 90
#define POINTS_OCTET 20
#define POINTS_DENSE 30
#define POINTS_NEAR_MAX 10
#define NEAR_MAX_PERCENT 90

static void add(struct score *s, uint32_t points, const char *fmt, ...) _printf_(3, 4);

static void add(struct score *s, uint32_t points, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    s->points = s->points + points > POINTS_MAX ? POINTS_MAX : s->points + points;
    if (s->n < SCORE_MAX_REASONS) {
        s->reasons[s->n++] = xasprintf("+%u %s", points, text);
    }
}

static void score_verbatim(const struct score_facts *f, struct score *s)
{
    uint64_t permille = f->blocks ? f->verbatim_blocks * 1000 / f->blocks : 0;
    uint64_t limit = (uint64_t)f->max_verbatim_percent * 10;

    if (permille <= limit) {
        return;
    }
    /* 0 at the limit, 100 when all of it is verbatim; rounded up, so that above it is never 0. */
    uint64_t points = ((permille - limit) * POINTS_MAX + (1000 - limit) - 1) / (1000 - limit);
    add(s, (uint32_t)points,
        "verbatim: %llu.%llu %% of the output's blocks stand in the input word for word, the limit "
        "is %u %%",
        (unsigned long long)(permille / 10), (unsigned long long)(permille % 10),
        f->max_verbatim_percent);
}

void score_compute(const struct score_facts *f, struct score *ret)
{
    struct score s = {0};

    score_verbatim(f, &s);
    if (f->fp_total > f->fp_count) {
        add(&s, POINTS_SATURATED,
            "fingerprints: more distinct blocks stand in the input than the %llu that can be "
            "reported",
            (unsigned long long)f->fp_count);
    }
    if (f->dense_files) {
        add(&s, POINTS_DENSE,
            "entropy: %u text file%s with up to %u.%03u bits for each byte, the limit is %u.%03u",
            f->dense_files, f->dense_files == 1 ? "" : "s", f->max_entropy / 1000,
            f->max_entropy % 1000, SCORE_ENTROPY_LIMIT / 1000, SCORE_ENTROPY_LIMIT % 1000);
    }
    if (f->octet_files) {
        add(&s, POINTS_OCTET, "type: %u file%s of application/octet-stream, which nobody can check",
            f->octet_files, f->octet_files == 1 ? "" : "s");
    }
    if (f->bytes * 100 >= f->max_bytes * NEAR_MAX_PERCENT) {
        add(&s, POINTS_NEAR_MAX, "size: %d %% or more of at most %llu bytes", NEAR_MAX_PERCENT,
            (unsigned long long)f->max_bytes);
    }
    *ret = s;
}

void score_done(struct score *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->reasons[i]);
    }
    memset(s, 0, sizeof(*s));
}
