/* What a process of the pipeline does per job, counted from outside: a shared object that is
 * preloaded (count_lib.c) counts calls of libcrypto, libsqlite3 and libnats into a file that
 * everybody maps. The floor then does the same number of each and nothing else. */
#ifndef COFFER_BENCH_COUNT_H
#define COFFER_BENCH_COUNT_H

#include <stdint.h>

/* One flow for each durable subject of the pipeline. */
enum flow {
    FLOW_SCHEDULE,
    FLOW_EVENT,
    FLOW_LAUNCH, /* and destroy */
    FLOW_CVM_EVENT,
    FLOW_EVIDENCE,
    FLOW_VERDICT,
    FLOW_RELEASE,
    FLOW_RESULT,
    FLOW_DECISION,
    FLOW_N
};

enum op {
    OP_SIGN,
    OP_VERIFY,
    OP_ECDH,
    OP_KEYGEN,
    OP_POINT, /* public key imported: point decompression and check */
    OP_SQL,   /* statements stepped to their end */
    OP_COMMIT,
    OP_ROW,
    OP_CORE, /* core publishes: pulls, acks, replies, facts */
    OP_N
};

enum role { ROLE_SCHEDULER, ROLE_VERIFIER, ROLE_KBS, ROLE_GATE, ROLE_HOST, ROLE_CLIENT, ROLE_N };

struct counts {
    uint64_t op[OP_N];
    uint64_t flow_n[FLOW_N], flow_bytes[FLOW_N]; /* published */
};

struct count_page {
    struct counts role[ROLE_N];
};

#define COUNT_FILE_ENV "COFFER_BENCH_COUNT_FILE"
#define COUNT_ROLE_ENV "COFFER_BENCH_COUNT_ROLE"

#endif
