#include "appraise/vtpm.h"

/* ---- what was changed ---- */

/* What the log says was measured, and no reference value knows: how many there are, and number k.
 * Types and order of a log are not proven, and are used here for the wording only. */
static size_t unknown_events(const struct eventlog *log, uint32_t pcr,
                             const struct refvals_vtpm *ref, size_t k, const uint8_t **ret)
{
    size_t n = 0;

    *ret = NULL;
    for (size_t i = 0; i < log->n; i++) {
        const struct eventlog_event *ev = &log->v[i];
        int known = ev->pcr != pcr || ev->type == EV_SEPARATOR || ev->type == EV_EFI_ACTION;
        for (size_t r = 0; !known && r < ref->n_events; r++) {
            known = ref->events[r].pcr == pcr &&
                    memcmp(ref->events[r].digest, ev->digest[BANK_SHA256], 32) == 0;
        }
        if (!known) {
            *ret = n == k ? ev->digest[BANK_SHA256] : *ret;
            n++;
        }
    }
    return n;
}

/* What stands in the place of the k-th of n that are missing. Not all that is measured has a
 * reference value of its own; what has none comes first. */
static const uint8_t *in_place_of(const struct eventlog *log, uint32_t pcr,
                                  const struct refvals_vtpm *ref, size_t k, size_t n)
{
    const uint8_t *found;
    size_t unknown = unknown_events(log, pcr, ref, k, &found);

    if (unknown > n) {
        unknown_events(log, pcr, ref, unknown - n + k, &found);
    }
    return found;
}

static int measured(const struct eventlog *log, const struct refvals_event *ref)
{
    for (size_t i = 0; i < log->n; i++) {
        if (log->v[i].pcr == ref->pcr &&
            memcmp(log->v[i].digest[BANK_SHA256], ref->digest, 32) == 0) {
            return 1;
        }
    }
    return 0;
}

/* The image as a whole is measured too, and its sections into PCR 11: a changed part changes those
 * as well, and the part is what has to be named. */
#define RANK_WHOLE 60
#define RANK_UNNAMED 100
static unsigned rank_of(uint32_t pcr, const char *what)
{
    if (streq(what, REFVALS_WHOLE_IMAGE)) {
        return RANK_WHOLE;
    }
    switch (pcr) {
    case 4:
        return 20;
    case 9:
        return 30;
    case 11:
        return 50;
    case 12:
        return 40;
    }
    return pcr;
}

struct change {
    unsigned rank;
    uint32_t pcr;
    const struct refvals_event *missing; /* NULL: nothing is, so something was added */
    const uint8_t *found;                /* NULL: nothing is in its place */
};

static int same_pcr(const struct refvals_vtpm *ref, uint32_t n, const uint8_t pcr[32],
                    const char **ret_size)
{
    if (n) {
        return ref->pcrs & 1u << n && memcmp(ref->pcr[n], pcr, 32) == 0;
    }
    for (size_t i = 0; i < ref->n_pcr0; i++) {
        if (memcmp(ref->pcr0[i].digest, pcr, 32) == 0) {
            *ret_size = ref->pcr0[i].size;
            return 1;
        }
    }
    return 0;
}

static void look_into(uint32_t pcr, const struct eventlog *log, const struct refvals_vtpm *ref,
                      struct change *best)
{
    size_t n = 0, k = 0;

    for (size_t i = 0; i < ref->n_events; i++) {
        n += ref->events[i].pcr == pcr && !measured(log, &ref->events[i]);
    }
    for (size_t i = 0; i < ref->n_events; i++) {
        const struct refvals_event *ev = &ref->events[i];
        if (ev->pcr != pcr) {
            continue;
        }
        unsigned rank = rank_of(pcr, ev->what);
        if (measured(log, ev)) {
            continue;
        }
        if (rank < best->rank) {
            *best = (struct change){
                .rank = rank, .pcr = pcr, .missing = ev, .found = in_place_of(log, pcr, ref, k, n)};
        }
        k++;
    }
    if (!n && RANK_UNNAMED + pcr < best->rank) {
        *best = (struct change){
            .rank = RANK_UNNAMED + pcr, .pcr = pcr, .found = in_place_of(log, pcr, ref, 0, 1)};
    }
}

static int refuse(const struct change *c, const uint8_t pcr[32], const struct refvals_image *i,
                  struct err *e)
{
    const struct refvals_vtpm *ref = &i->vtpm;
    _cleanup_free_ char *value = hex_encode(pcr, 32),
                        *event = c->found ? hex_encode(c->found, 32) : NULL;
    char clause[32], expected[256];

    snprintf(clause, sizeof(clause), "evidence.pcr[%u]", c->pcr);
    if (c->missing) {
        _cleanup_free_ char *want = hex_encode(c->missing->digest, 32);
        snprintf(expected, sizeof(expected), "%.120s %s", c->missing->what, want);
        return err_refuse(e, ERR_DENIED, clause, expected, "%s",
                          event ? event : "nothing measured");
    }
    if (!c->pcr) {
        snprintf(expected, sizeof(expected), "firmware %.120s in a VM of a known size",
                 ref->firmware);
        return err_refuse(e, ERR_DENIED, clause, expected, "%s", value);
    }
    _cleanup_free_ char *want = hex_encode(ref->pcr[c->pcr], 32);
    snprintf(expected, sizeof(expected), "%s of %.60s %.60s", want, i->name, i->version);
    return event ? err_refuse(e, ERR_DENIED, clause, expected, "%s, with %s measured too", value,
                              event)
                 : err_refuse(e, ERR_DENIED, clause, expected, "%s", value);
}

/* ---- which image ---- */

static unsigned count_same(uint8_t pcr[TPM_PCRS][32], const struct refvals_vtpm *ref,
                           const char **ret_size)
{
    unsigned same = 0;

    for (uint32_t n = 0; n < TPM_PCRS; n++) {
        same += VTPM_PCRS & 1u << n && same_pcr(ref, n, pcr[n], ret_size);
    }
    return same;
}

int vtpm_compare(uint8_t pcr[TPM_PCRS][32], const struct eventlog *log, const struct refvals *refs,
                 const struct refvals_image **ret, const char **ret_size, struct err *e)
{
    const struct refvals_image *nearest = NULL;
    unsigned most = 0, all = (unsigned)__builtin_popcount(VTPM_PCRS);
    const char *size = NULL;

    for (size_t i = 0; i < refs->n; i++) {
        if (!refs->v[i].has_vtpm) {
            continue;
        }
        unsigned same = count_same(pcr, &refs->v[i].vtpm, &size);
        if (same == all && size) {
            *ret = &refs->v[i];
            *ret_size = size;
            return 0;
        }
        if (!nearest || same > most) {
            nearest = &refs->v[i];
            most = same;
        }
    }
    if (!nearest) {
        return err_refuse(e, ERR_DENIED, "evidence.pcr", "an image with reference values for vtpm",
                          "none is configured");
    }
    struct change c = {.rank = UINT32_MAX};
    for (uint32_t n = 0; n < TPM_PCRS; n++) {
        if (VTPM_PCRS & 1u << n && !same_pcr(&nearest->vtpm, n, pcr[n], &size)) {
            look_into(n, log, &nearest->vtpm, &c);
        }
    }
    return refuse(&c, pcr[c.pcr], nearest, e);
}

int vtpm_check_refvals(const struct refvals *refs, struct err *e)
{
    for (size_t i = 0; i < refs->n; i++) {
        if (refs->v[i].has_vtpm && (refs->v[i].vtpm.pcrs | 1u) != VTPM_PCRS) {
            return err_set(e, ERR_INVALID,
                           "reference values of %s %s: expected registers 1-7, 9, 11, 12 in "
                           "vtpm.pcrs, found others",
                           refs->v[i].name, refs->v[i].version);
        }
    }
    return 0;
}
