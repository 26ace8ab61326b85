/* The certificates of NVIDIA's devices: leaf (made by the device for its firmware) <- device <-
 * provisioner <- product line <- the NVIDIA Device Identity CA, all on P-384.
 */
#ifndef COFFER_NVIDIA_CERTS_H
#define COFFER_NVIDIA_CERTS_H

#include "appraise/appraiser.h"

#define NVIDIA_ANCHORS_MAX 16u
#define NVIDIA_FWID_BYTES 48u

enum nvidia_arch { NVIDIA_HOPPER, NVIDIA_BLACKWELL, NVIDIA_LS10, NVIDIA_ARCH_N };

/* "HOPPER", "BLACKWELL", "LS10". */
const char *nvidia_arch_name(enum nvidia_arch a);
/* A switch, not a GPU? */
int nvidia_is_switch(enum nvidia_arch a);

struct nvidia_anchors {
    const struct cert *v[NVIDIA_ANCHORS_MAX];
    size_t n;
    struct cert *root; /* a reference to the pinned one */
};
/* NVIDIA's pinned root, and those of the policy beside it. ERR_INTERNAL. */
int nvidia_anchors(struct certs *store, const struct appraisal_policy *policy,
                   struct nvidia_anchors *ret, struct err *e);
void nvidia_anchors_done(struct nvidia_anchors *a);

/* Leaf first. Certificates are borrowed from the store. */
struct nvidia_chain {
    struct cert *v[CERT_CHAIN_MAX];
    size_t n;
    enum nvidia_arch arch; /* once verified */
};
/* Does a certificate look like the leaf of a device that is appraised here? Nothing is verified. */
int nvidia_is_leaf(const struct cert *c);
/* The chain above item `at` of the bag, of what stands in the bag from item `first` on; a root that
 * is missing is taken from the anchors. */
void nvidia_chain_collect(const struct collateral *c, size_t first, size_t at,
                          const struct nvidia_anchors *anchors, struct nvidia_chain *ret);
/* Adds the anchor that is missing above the last certificate, if it is. */
void nvidia_chain_close(struct nvidia_chain *c, const struct nvidia_anchors *anchors);
/* Up to an anchor, all valid at that time; leaf and device are of one known architecture, and the
 * leaf signs. Sets the architecture. Errors of chain_verify with "evidence.chain...", ERR_DENIED
 * "evidence.chain[0].key_usage" or "evidence.chain.device", ERR_UNSUPPORTED
 * "evidence.chain[0].subject", ERR_INVALID "evidence.chain". */
int nvidia_chain_verify(struct certs *store, struct nvidia_chain *c,
                        const struct nvidia_anchors *anchors, int64_t at_ms, struct err *e);
/* The SHA-384 of the firmware that the leaf was made for (TCG DICE: a CompositeDeviceID under
 * 2.23.133.5.4.1, or the first FWID of a DiceTcbInfo under 2.23.133.5.4.1.1), borrowed from the
 * certificate. ERR_INVALID "evidence.chain[0].fwid". */
int nvidia_leaf_fwid(const struct cert *leaf, const uint8_t **ret, struct err *e);

/* What OCSP says about chain[1] (the device) up to the certificate below the root; the device's own
 * answer for its leaf does not exist. *ret_all: an answer was there for each, and good. Without any
 * OCSP item in the bag *ret_all is 0. ERR_DENIED "collateral.ocsp" when there are items but none
 * for this chain, "collateral.ocsp.status" when one is revoked, on hold, or not known;
 * ERR_EXPIRED, ERR_BAD_SIGNATURE, ERR_INVALID "collateral.ocsp...". RFC 6960 §3.2. */
int nvidia_ocsp_check(struct certs *store, const struct collateral *bag,
                      const struct nvidia_chain *c, const struct nvidia_anchors *anchors,
                      int64_t at_ms, int *ret_all, struct err *e);

#endif
