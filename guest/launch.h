/* The "snp" and "tdx" members of a guest image's reference values: what confidential VMs that start
 * this firmware with this UKI measure to. */
#ifndef COFFER_GUEST_LAUNCH_H
#define COFFER_GUEST_LAUNCH_H

#include <jansson.h>

#include "guest/snp.h"
#include "guest/tdx.h"

/* The CPU model that SEV-SNP guests are started with: one that every EPYC with SNP can be. */
#define GUEST_LAUNCH_CPU "EPYC-v4"

struct guest_section {
    const char *name; /* ".linux" */
    struct bytes content;
};

/* All borrowed. */
struct guest_launch {
    struct bytes firmware;
    struct bytes uki;
    uint8_t uki_authenticode[48];    /* SHA-384 of the UKI */
    uint8_t kernel_authenticode[48]; /* SHA-384 of the kernel in it */
    const char *stub_version;        /* of systemd-stub, "257.4-1" */
    const char *linux_release;       /* "6.12.9-cloud-amd64" */
    const char *cmdline;             /* in the UKI */
    struct bytes initrd;             /* in the UKI */
    /* What the stub measures (its PCR 11), in its order. */
    const struct guest_section *sections;
    size_t sections_n;
};

/* Sets "snp" ([{"vcpus","cpu","digest"}], 1 to VM_VCPUS_MAX vCPUs) and "tdx" ({"mrtd","rtmr1",
 * "rtmr2"}) of `refvals`. A member that the firmware or the UKI does not allow is left out, and the
 * error that says what is missing (ERR_UNSUPPORTED) put into ret_no_snp or ret_no_tdx; ERR_NONE in
 * there otherwise. Fails as guest_snp_digest, guest_tdx_mrtd and guest_tdx_rtmrs do, for other
 * reasons; `refvals` is then unchanged. */
int guest_launch_refvals(const struct guest_launch *l, json_t *refvals, struct err *ret_no_snp,
                         struct err *ret_no_tdx, struct err *e);

#endif
