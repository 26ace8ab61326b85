/* What bench/appraise.c measures: per kind of evidence an appraisal, and the bare operations of
 * OpenSSL's EVP interface that it cannot avoid. */
#ifndef COFFER_BENCH_APPRAISE_H
#define COFFER_BENCH_APPRAISE_H

#include <stddef.h>
#include <stdio.h>

struct appraise_case {
    const char *name;
    void (*ours)(size_t i);  /* one appraisal, the i-th */
    void (*floor)(size_t i); /* its bare operations */
    double aim;              /* ratio floor / ours at least; 0: none */
};

/* Each makes its evidence and returns its cases; the array ends with a NULL name. */
const struct appraise_case *bench_appraise_dcap(void);
const struct appraise_case *bench_appraise_snp(void);

#endif
