/* The firmware volumes inside of an OVMF image that its own measured boot extends into PCR 0: PEI
 * and DXE, which lie LZMA-compressed in the main volume (UEFI PI 1.7, vol. 3).
 *
 * PlatformPei writes a few bytes into its volume before that is measured: what it found of the
 * machine. Where these are is a matter of the build, so it is known for listed builds only. */
#ifndef COFFER_GUEST_FV_H
#define COFFER_GUEST_FV_H

#include "common/buf.h"

#define FV_MAX_BYTES (32u << 20)

/* Appends both volumes as the firmware unpacks them. ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED
 * (no LZMA section with two volumes). */
int fv_extract(struct bytes firmware, struct buf *ret_pei, struct buf *ret_dxe, struct err *e);

/* Makes of the PEI volume what it is in memory on QEMU's q35 with so much memory and so many vCPUs.
 * ERR_UNSUPPORTED names the digest of a firmware whose build is not listed. */
int fv_pei_at_runtime(struct bytes firmware, uint32_t memory_mib, unsigned vcpus, uint8_t *pei,
                      size_t pei_bytes, struct err *e);
/* The name of a listed build: "ovmf 2022.11-6+deb12u2 OVMF.fd"; NULL for others. */
const char *fv_build_name(struct bytes firmware);

#endif
