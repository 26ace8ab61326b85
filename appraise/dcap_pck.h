/* What Intel says of a platform in its PCK certificate: the extension 1.2.840.113741.1.13.1 ("Intel
 * SGX PCK Certificate and Certificate Revocation List Profile Specification" §1.3.5). */
#ifndef COFFER_DCAP_PCK_H
#define COFFER_DCAP_PCK_H

#include "appraise/certs.h"

#define PCK_EXTENSION_OID "1.2.840.113741.1.13.1"

enum pck_bool { PCK_UNSAID, PCK_FALSE, PCK_TRUE };

struct pck {
    uint8_t ppid[16];
    uint8_t sgx_svn[16];
    uint16_t pce_svn;
    uint8_t cpu_svn[16];
    uint8_t pce_id[2];
    uint8_t fmspc[6];
    unsigned sgx_type; /* 0 standard, 1 scalable, 2 scalable with integrity */
    int has_platform_instance_id;
    uint8_t platform_instance_id[16];
    enum pck_bool dynamic_platform, cached_keys, smt_enabled;
};

/* Strict DER, every mandatory element exactly once. ERR_INVALID, clause "evidence.pck...". */
int pck_parse(struct bytes extension, struct pck *ret, struct err *e);
/* "the extension of `c`". */
int pck_of(const struct cert *c, struct pck *ret, struct err *e);

#endif
