/* The bill of materials of a guest image: SPDX 2.3 in JSON. Its files with their digests, and the
 * packages they were taken from. The same image of the same packages makes the same bytes: it is
 * dated 1970-01-01. */
#ifndef COFFER_GUEST_SBOM_H
#define COFFER_GUEST_SBOM_H

#include <jansson.h>

#include "common/jcs.h"
#include "guest/packages.h"

struct sbom_file {
    const char
        *path; /* "./usr/bin/crun"; the parts of the UKI outside of the initramfs: "./.linux" */
    struct bytes content;
};

struct sbom {
    const char *name, *version; /* of the image */
    struct bytes uki;           /* by whose digest the document is named */
    const struct sbom_file *files;
    size_t n;
    const struct guest_packages *packages; /* .of[i] is of files[i] */
};

/* ERR_INTERNAL; ERR_INVALID when `packages` is of another number of files. */
int guest_sbom(const struct sbom *s, json_t **ret, struct err *e);

#endif
