/* The floor: what the pipeline's messages, rows and public-key operations cost by themselves. */
#ifndef COFFER_BENCH_FLOOR_H
#define COFFER_BENCH_FLOOR_H

#include <openssl/evp.h>

#include "bench/bench.h"

/* OpenSSL's own operations on P-256, with everything prepared beforehand. */
struct pk_bench {
    EVP_PKEY *key, *peer, *params;
    uint8_t sig[80], digest[32], point[65];
    size_t sig_n;
};
void pk_bench_init(struct pk_bench *p);
/* OP_SIGN to OP_POINT. */
void pk_bench_do(struct pk_bench *p, enum op op);

/* From a run of `jobs`: what each role did. */
struct floor_load {
    double jobs;
    struct counts role[ROLE_N];
};
struct floor_result {
    double jobs_per_s, cpu_per_job_s;
};
/* `jobs` with a nats-server of their own; files are in `dir`. */
void floor_run(const char *dir, const struct floor_load *l, size_t jobs, struct floor_result *ret);
/* argv: "floor-process", dir, url, role, jobs. */
int floor_main(int argc, char **argv);

#endif
