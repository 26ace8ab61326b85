/* What coffer image build writes of where a guest image's files come from. */
#ifndef COFFER_CLI_GUEST_BOM_H
#define COFFER_CLI_GUEST_BOM_H

#include "guest/initramfs.h"

struct guest_bom {
    const struct initramfs *fs;           /* packed: sorted */
    const char *kernel, *stub, *firmware; /* their paths */
    struct bytes kernel_bytes, stub_bytes, firmware_bytes, uki;
    char *const *linked; /* static libraries that the first process is linked with */
    size_t linked_n;
    const char *lock; /* path; NULL: packages are not compared */
    int locked;       /* a difference is an error */
    const char *out;  /* the directory */
};

/* Writes packages.lock and sbom.json. Differences from the lock go to `notes`, a line each; with
 * `locked` they are ERR_DENIED. Errors of guest_packages_of and of files. */
int guest_bom(const struct guest_bom *b, struct buf *notes, struct err *e);

#endif
