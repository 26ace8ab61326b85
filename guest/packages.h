/* Which of the building machine's Debian packages the files of an image come from, and
 * guest/packages.lock: the packages that an image was made of when it was last looked at. */
#ifndef COFFER_GUEST_PACKAGES_H
#define COFFER_GUEST_PACKAGES_H

#include "common/buf.h"

#define GUEST_PACKAGES_MAX 64u
#define GUEST_PACKAGE_FILES_MAX 512u
#define GUEST_LOCK_MAX_BYTES 65536u

struct guest_package {
    char name[96], version[96], arch[16];
    char sha256[65]; /* of the package; "" when apt has no record of this version */
};

/* Sorted by name. */
struct guest_packages {
    size_t n;
    struct guest_package v[GUEST_PACKAGES_MAX];
    size_t files_n;
    int of[GUEST_PACKAGE_FILES_MAX]; /* of each file: an index of v; -1: of no package */
};

/* Asks dpkg for the packages of files, given by their paths. A file of a kernel that was unpacked
 * without being installed (guest/fetch-kernel.sh) is known by the file "package" in its directory
 * or one of up to eight above it. A path that is NULL is of no package. ERR_NOT_FOUND (no dpkg
 * here), ERR_IO, ERR_TOO_LARGE, ERR_INVALID (answers, or a "package" file, that cannot be read). */
int guest_packages_of(const char *const files[], size_t n, struct guest_packages *ret,
                      struct err *e);

/* Appends the lines of a lock: "name version sha256", "-" for a digest that is not known. */
int guest_packages_lock(const struct guest_packages *p, struct buf *ret, struct err *e);

/* Appends a line for each way in which the packages differ from a lock: another version, another
 * digest (where both are known), a package more or less. ERR_INVALID names the line of the lock
 * that cannot be read. */
int guest_packages_compare(const struct guest_packages *p, struct bytes lock, struct buf *ret,
                           struct err *e);

#endif
