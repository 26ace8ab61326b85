/* What an appraisal would need beside the evidence, named as the vendors' services name it. */
#ifndef COFFER_NEEDS_H
#define COFFER_NEEDS_H

#include "common/buf.h"

enum need_source {
    NEED_PCS,      /* Intel's Provisioning Certification Service, or a PCCS: v4 of its API */
    NEED_ROOT_CRL, /* the CRL of Intel's root, which is a file of its own */
    NEED_KDS,      /* AMD's Key Distribution Service */
    NEED_SOURCE_N
};

#define NEED_PATH_MAX 400
#define NEEDS_MAX 8

struct need {
    enum need_source source;
    char path[NEED_PATH_MAX + 1]; /* behind the source's base URL, without the slash between */
};

struct needs {
    struct need v[NEEDS_MAX];
    size_t n;
};

/* "pcs", "root-crl", "kds" and back (-1). */
const char *need_source_name(enum need_source s);
int need_source_from_name(const char *name);
/* Appends, once. A path that is too long, or one too many, is left out: the appraisal then says
 * that it could not check. */
void needs_add(struct needs *n, enum need_source source, const char *fmt, ...) _printf_(3, 4);

#endif
