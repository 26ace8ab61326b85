/* Which programs a UKI is made of, as they say themselves. */
#ifndef COFFER_GUEST_VERSION_H
#define COFFER_GUEST_VERSION_H

#include "guest/pe.h"

#define VERSION_TEXT_BYTES 64u

/* "252.39-1~deb12u2", of the .sdmagic section of systemd's EFI stub, which a UKI keeps; "" for
 * another stub. Printable, without blanks, cut to what `ret` holds. */
void version_of_stub(const struct pe *p, char ret[VERSION_TEXT_BYTES]);
/* "6.1.0-56-cloud-amd64", of a bzImage's kernel_version (Linux x86 boot protocol); likewise. */
void version_of_linux(struct bytes kernel, char ret[VERSION_TEXT_BYTES]);

#endif
