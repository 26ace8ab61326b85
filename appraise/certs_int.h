/* Inside of certs.c, chain.c and crl.c. */
#ifndef COFFER_CERTS_INT_H
#define COFFER_CERTS_INT_H

#include <openssl/x509.h>

#include "appraise/certs.h"
#include "appraise/when.h"

struct cert_node {
    struct cert pub; /* first: a struct cert is one of these */
    unsigned refs;
    uint8_t id[32]; /* SHA-256 of subject and public key: what a signature is remembered of */
    uint8_t signed_by[32]; /* the id of the issuer that was found to have signed it */
    int is_signed_by;
    struct ec_key *ec; /* owned; NULL until it is needed */
    int is_ca, self_issued;
    int critical_known; /* no critical extension but those that chain.c looks at */
    char subject_cn[128], issuer_cn[128];
    long path_len;      /* -1: no bound */
    uint32_t key_usage; /* all bits when it does not say */
    struct cert_node *next, *newer, *older;
};

static inline struct cert_node *node_of(struct cert *c)
{
    return (struct cert_node *)(void *)c;
}

static inline const struct cert_node *const_node_of(const struct cert *c)
{
    return (const struct cert_node *)(const void *)c;
}

/* Is that an extension whose being critical chain.c honours? */
int critical_is_known(const X509_EXTENSION *ext);
int sha256_of(const void *p, size_t n, uint8_t ret[32]);
/* Milliseconds since 1970; ERR_INVALID with clause "<what>.<field>". */
int asn1_time_ms(const char *what, const char *field, const ASN1_TIME *t, int64_t *ret,
                 struct err *e);
/* Is that a signature algorithm that is believed: SHA-256 or more, and for PSS likewise? */
int sigalg_strong(const X509_ALGOR *alg);
/* Refuses a date outside; `field` of the clause is "not_before" and so on. */
int check_not_before(const char *what, const char *field, int64_t not_before_ms, int64_t at_ms,
                     struct err *e);
int check_not_after(const char *what, const char *field, int64_t not_after_ms, int64_t at_ms,
                    struct err *e);
int clause_refuse(struct err *e, enum err_code code, const char *what, const char *field,
                  const char *expected, const char *actual);

#endif
