/* What a measured boot of a guest image comes to, computed from its files alone: the PCRs of the
 * SHA-256 bank that OVMF (edk2 2022.11), systemd-stub 252 and Linux leave when QEMU's -kernel names
 * the UKI, and the reference values that are made of them (docs/guest.md). */
#ifndef COFFER_GUEST_MEASURE_H
#define COFFER_GUEST_MEASURE_H

#include <jansson.h>

#include "common/buf.h"

#define GUEST_PCRS 13u
#define GUEST_EVENTS_MAX 32u

/* One extension of a PCR whose data is a part of the image; those with constant data have no
 * name. */
struct guest_event {
    unsigned pcr;
    const char *what; /* static: "kernel" */
    uint8_t digest[32];
};

struct guest_measured {
    uint8_t pcr[GUEST_PCRS][32]; /* 8 and 10 are not computed, and 0 */
    int has_pcr0;                /* 0: the firmware's build is not listed (fv.h) */
    struct guest_event events[GUEST_EVENTS_MAX];
    size_t n_events;
    uint8_t uki_sha256[32], kernel_sha256[32], initrd_sha256[32], firmware_sha256[32];
    char cmdline[2048];
};

/* ERR_INVALID, ERR_UNSUPPORTED (no UKI, no OVMF), ERR_TOO_LARGE. */
int guest_measure(struct bytes firmware, struct bytes uki, uint32_t memory_mib, unsigned vcpus,
                  struct guest_measured *ret, struct err *e);

/* Sets the members "snp" and "tdx" of reference values (guest/launch.h). What is left out, and why,
 * is added to ret_notes (lines; may be NULL). ERR_INVALID, ERR_UNSUPPORTED (no UKI). */
int guest_confidential(struct bytes firmware, struct bytes uki, json_t *refvals,
                       struct buf *ret_notes, struct err *e);

struct guest_image_name {
    const char *name, *version;
};
/* The payload of signed reference values: of every tier that the firmware allows. Notes as above.
 * ERR_UNSUPPORTED when it allows none. */
int guest_refvals(struct bytes firmware, struct bytes uki, const struct guest_image_name *n,
                  json_t **ret, struct buf *ret_notes, struct err *e);

#endif
