/* Evidence of hardware, through the interfaces that Linux and Gramine have for it:
 *
 *   tdx    /sys/kernel/config/tsm/report (Documentation/ABI/testing/configfs-tsm), CCEL beside it
 *   snp    the same, or /dev/sev-guest (linux/sev-guest.h) on kernels before 6.7
 *   nitro  /dev/nsm (aws-nitro-enclaves-nsm-api; linux/nsm.h)
 *   sgx    /dev/attestation of Gramine
 *
 * Tested against stand-ins of these interfaces; not yet run on such hardware.
 */
#ifndef COFFER_ATTEST_HW_H
#define COFFER_ATTEST_HW_H

#include "svc-worker/worker.h"

int tdx_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                struct buf *ret, struct err *e);
int snp_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                struct buf *ret, struct err *e);
int nitro_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                  struct buf *ret, struct err *e);
int sgx_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                struct buf *ret, struct err *e);

/* Where they are; tests have others. `ioctl` is the system call. */
struct attest_paths {
    const char *tsm, *ccel, *sev_guest, *nsm, *gramine;
    int (*ioctl)(int fd, unsigned long request, void *arg);
};
/* NULL: the kernel's. Borrowed. */
void attest_use(const struct attest_paths *paths);

#endif
