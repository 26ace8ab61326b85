/* The SEV-SNP launch digest of a QEMU guest, computed from files: what the secure processor puts
 * into MEASUREMENT of attestation reports when a guest is started from exactly these.
 *
 * Order and content as in the SEV-SNP firmware ABI (56860, ch. 8.17.2, PAGE_INFO) and QEMU: the
 * firmware's pages; the pages of its SEV metadata, table order; one VMSA page for each vCPU.
 */
#ifndef COFFER_GUEST_SNP_H
#define COFFER_GUEST_SNP_H

#include "common/buf.h"

#define GUEST_SNP_DIGEST_BYTES 48u
#define GUEST_SNP_VCPUS_MAX 512u
/* SEV_FEATURES of VMSA: SNP active, nothing else; what QEMU and KVM set unless told otherwise. */
#define GUEST_SNP_FEATURES UINT64_C(0x1)

/* What QEMU writes into the kernel-hashes page with sev-snp-guest,kernel-hashes=on. */
struct guest_snp_kernel {
    uint8_t kernel[32];  /* SHA-256 of the file given with -kernel, unpatched */
    uint8_t initrd[32];  /* of the -initrd file; of nothing when there is none */
    uint8_t cmdline[32]; /* of the -append string and its NUL; of one NUL when there is none */
};

struct guest_snp_params {
    struct bytes firmware;
    const struct guest_snp_kernel *kernel; /* NULL: kernel-hashes=off */
    unsigned vcpus;                        /* 1 to GUEST_SNP_VCPUS_MAX */
    uint32_t cpu_sig;                      /* CPUID Fn0000_0001 EAX of the CPU model */
    uint64_t features;                     /* SEV_FEATURES; bit 0 (SNP active) must be set */
};

/* Fills the hashes for a direct boot. For a UKI `initrd` is empty and `cmdline` NULL or "". */
int guest_snp_kernel_of(struct bytes kernel, struct bytes initrd, const char *cmdline,
                        struct guest_snp_kernel *ret, struct err *e);

/* The signature of one of QEMU's CPU model names, e.g. "EPYC-v4", "EPYC-Milan". ERR_UNSUPPORTED for
 * a name that is not known. */
int guest_snp_cpu_sig(const char *model, uint32_t *ret, struct err *e);

/* Errors of ovmf_parse and ovmf_parse_sev; ERR_INVALID for params out of range and sections that
 * QEMU would not take; ERR_UNSUPPORTED when the firmware lacks what is needed: with `kernel` the
 * kernel-hashes area and section, with several vCPUs the SEV-ES reset block; or for a section type
 * that is not known. */
int guest_snp_digest(const struct guest_snp_params *p, uint8_t ret[GUEST_SNP_DIGEST_BYTES],
                     struct err *e);

#endif
