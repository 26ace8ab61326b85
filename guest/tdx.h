/* Measurements of a TDX guest, computed from files.
 *
 * MRTD: what the TDX module measured while the VMM built the guest from the firmware (TDX module
 * base architecture specification, 12.2.1; TDVF design guide, ch. 11).
 * RTMR1 and RTMR2: what firmware, boot stub and kernel extended while a kernel given with QEMU's
 * -kernel started (UEFI 2.10, 38.4.1: PCR 2-6 go to RTMR1, PCR 8-15 to RTMR2). RTMR0 holds what the
 * host configured (ACPI tables, memory, boot variables) and is not predicted.
 */
#ifndef COFFER_GUEST_TDX_H
#define COFFER_GUEST_TDX_H

#include "common/buf.h"

#define GUEST_TDX_DIGEST_BYTES 48u
#define GUEST_TDX_RTMR2_EVENTS_MAX 64u
#define GUEST_TDX_SEPARATORS_MAX 8u

/* When the VMM extends MRTD with the content of a measured section: it is KVM that decides. */
enum guest_tdx_order {
    GUEST_TDX_PAGE_BY_PAGE,  /* after adding each page: KVM as merged into Linux 6.16 */
    GUEST_TDX_AFTER_SECTION, /* after adding all its pages: patched kernels, with QEMU 8 */
};

/* Errors of ovmf_parse and ovmf_parse_tdx (ERR_UNSUPPORTED: the firmware has no TDX metadata);
 * ERR_INVALID when no section is measured, or one is measured whose type is not the firmware's. */
int guest_tdx_mrtd(struct bytes firmware, enum guest_tdx_order order,
                   uint8_t ret[GUEST_TDX_DIGEST_BYTES], struct err *e);

struct guest_tdx_boot {
    uint8_t image[GUEST_TDX_DIGEST_BYTES];  /* Authenticode SHA-384 of the -kernel file */
    int nested;                             /* whether that is a UKI, which loads a kernel */
    uint8_t kernel[GUEST_TDX_DIGEST_BYTES]; /* with `nested`: Authenticode SHA-384 of that one */
    /* How many separators firmware extends into RTMR1 when it starts the boot option: 1 with edk2
     * as of 2024, 0 before; at most GUEST_TDX_SEPARATORS_MAX. */
    unsigned separators;
    /* SHA-384 of what was measured into RTMR2, in order; borrowed. See guest_tdx_section_events and
     * guest_tdx_cmdline_event. */
    const uint8_t (*events)[GUEST_TDX_DIGEST_BYTES];
    size_t events_n;
};

/* ERR_INVALID (counts), ERR_INTERNAL. */
int guest_tdx_rtmrs(const struct guest_tdx_boot *b, uint8_t ret_rtmr1[GUEST_TDX_DIGEST_BYTES],
                    uint8_t ret_rtmr2[GUEST_TDX_DIGEST_BYTES], struct err *e);

/* What the kernel's EFI stub measures of the command line given to it: SHA-384 of the UTF-16LE
 * string with its NUL. Of ASCII only (ERR_INVALID). */
int guest_tdx_cmdline_event(const char *cmdline, uint8_t ret[GUEST_TDX_DIGEST_BYTES],
                            struct err *e);

/* What systemd-stub measures of a section: SHA-384 of its name with its NUL (".linux"), then
 * SHA-384 of its content. */
int guest_tdx_section_events(const char *name, struct bytes content,
                             uint8_t ret[2][GUEST_TDX_DIGEST_BYTES], struct err *e);

/* SHA-384 of plain bytes: the kernel's event of an initrd. */
int guest_tdx_event(struct bytes content, uint8_t ret[GUEST_TDX_DIGEST_BYTES], struct err *e);

/* Whether the kernel's EFI stub extends RTMRs (EFI_CC_MEASUREMENT_PROTOCOL): Linux from 6.10
 * ("6.12.9-cloud-amd64"). A release that cannot be read counts as one that does not. */
int guest_tdx_linux_measures(const char *release);

/* Whether RTMR1 and RTMR2 of a UKI with that version of systemd-stub ("256.7") are what this file
 * computes, and mean something. ERR_UNSUPPORTED: before 256 it extends no RTMR, so that a command
 * line given by the host would start another system with the same measurements; from 258 on it
 * starts its kernel in another way. */
int guest_tdx_stub_check(const char *version, struct err *e);

#endif
