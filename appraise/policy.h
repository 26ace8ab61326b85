/* Appraisal policies (docs/POLICY.md): named rules over the claims of genuine evidence, as a YAML
 * document.
 *
 *   apiVersion: coffer/v1
 *   kind: AppraisalPolicy
 *   metadata: {name: strict, version: 3}
 *   tees: [tdx]                     whose evidence it is for; absent: every TEE's
 *   rules:
 *     - name: no debug
 *       tees: [tdx]                 as above, for one rule
 *       claim: td_attributes.debug  members by dots; as a list when a name has dots in it
 *       op: eq                      see enum policy_op
 *       value: false                or `ref: NAME`, a reference value
 *       missing: fail               or `skip`: when the evidence does not have the claim
 *       pass: {configuration: 2}    what the trust vector's members become
 *       fail: {configuration: 96}   96 stands for what pass names and fail does not
 *       refuse: true                failing refuses the evidence
 *
 * Claims are those of the evidence, and under "appraisal" what the appraiser concluded: tee,
 * tcb_status, tier, advisories, unchecked.
 *
 * A member of the vector that any rule of the policy speaks of is what the rules make it: the worst
 * of their effects; it warns (32) when none of the rules found its claim. The other members stay as
 * the appraiser set them.
 */
#ifndef COFFER_POLICY_H
#define COFFER_POLICY_H

#include "appraise/appraiser.h"

#define POLICY_MAX_BYTES (256u * 1024)
#define POLICY_MAX_RULES 256
#define POLICY_MAX_VALUES 1024
#define POLICY_PATH_MAX 12
#define POLICY_NAME_MAX 80

enum policy_op {
    OP_EQ, /* equal; strings without regard to case when both are hex digits */
    OP_NE,
    OP_IN, /* one of a list */
    OP_NOT_IN,
    OP_LT, /* integers */
    OP_LE,
    OP_GT,
    OP_GE,
    OP_EXISTS, /* the claim is there; takes no value */
    OP_ABSENT,
    OP_SUBSET,     /* every element of the claim, a list, is in the list */
    OP_BITS_SET,   /* integer or hex claim has all bits of the value */
    OP_BITS_CLEAR, /* ... none of them */
    OP_NOT_BEFORE, /* RFC 3339 times */
    OP_NOT_AFTER,
    OP_MAX_AGE, /* the claim, a time, is at most "30d" (s, m, h, d) before the appraisal */
    OP_N
};
const char *policy_op_name(enum policy_op op); /* "eq", "not-in", "max-age", ... */

struct policy; /* immutable */

/* ERR_INVALID, ERR_TOO_LARGE: a sentence with file name, line, field, expected and found. */
int policy_parse(const char *file, struct bytes yaml, struct policy **ret, struct err *e);
int policy_read(const char *path, struct policy **ret, struct err *e);
void policy_free(struct policy *p);
DEFINE_CLEANUP(struct policy *, policy_free);
/* "name/version", as EARs show it; borrowed. */
const char *policy_id(const struct policy *p);
int policy_is_for(const struct policy *p, const char *tee);
size_t policy_n_rules(const struct policy *p);

/* The policy that stands when none is configured: its YAML text; static. */
const char *policy_default_text(void);

/* Looks a reference value up: a borrowed array of JSON values, NULL when there is none of that
 * name. */
typedef const json_t *(*refval_fn)(void *arg, const char *name);

enum rule_outcome { RULE_PASSED, RULE_FAILED, RULE_SKIPPED, RULE_OUTCOME_N };
const char *rule_outcome_name(enum rule_outcome o); /* "passed", "failed", "skipped" */

struct rule_result {
    const char *name; /* borrowed from the policy */
    enum rule_outcome outcome;
    int other_tee;   /* skipped, because it is for others */
    int refuses;     /* it failed, and failing refuses */
    char claim[256]; /* its path, for people */
    char expected[256], actual[256];
    const int *effect; /* EAR_VECTOR_N members, -1: none; NULL when skipped; borrowed */
};

/* Judges a->claims, of a TEE that the policy is for, at now_ms and sets a->vector and a->policy_id.
 * Every rule is evaluated; the results, when asked for, are an owned array of policy_n_rules.
 * ERR_DENIED with clause "policy.<rule>" when a rule refuses; a->vector is set nevertheless. */
int policy_apply(const struct policy *p, const char *tee, refval_fn refval, void *refval_arg,
                 int64_t now_ms, struct appraisal *a, struct rule_result **ret_results,
                 struct err *e);

#endif
