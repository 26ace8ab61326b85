/* Inside of policy_parse.c and policy.c. */
#ifndef COFFER_POLICY_INT_H
#define COFFER_POLICY_INT_H

#include "appraise/policy.h"

#define POLICY_MAX_TEES 16

/* Whose evidence something is for; n 0: every TEE's. */
struct tee_list {
    char v[POLICY_MAX_TEES][TEE_NAME_MAX + 1];
    size_t n;
};

struct rule {
    char *name;
    struct tee_list tees;
    char *path[POLICY_PATH_MAX];
    size_t n_path;
    enum policy_op op;
    json_t *value; /* owned; NULL when there is a ref, or nothing to compare with */
    char *ref;     /* owned or NULL */
    int skip_missing, refuse;
    int pass[EAR_VECTOR_N], fail[EAR_VECTOR_N]; /* -1: no effect */
};

struct policy {
    char *id;
    struct tee_list tees;
    struct rule rules[POLICY_MAX_RULES];
    size_t n;
};

/* "30d" (s, m, h, d) in ms; -1 when it is none. */
int parse_age(const char *text, int64_t *ret_ms);
/* A non-negative integer, or a number in hex digits, with or without 0x, of at most 64 bits; -1. */
int parse_bits(const json_t *v, uint64_t *ret);

#endif
