/* NVIDIA GPUs and NVSwitches: SPDM measurement reports verified up to NVIDIA's Device Identity CA.
 *
 * What a report says is only that a genuine device, running firmware that its ROM measured, has
 * answered a nonce, and what it measured. Whether the measurements are good is for NVIDIA's
 * reference manifests (RIM) to say; a RIM whose XML signature nobody verifies proves nothing, so
 * none is used, and `unchecked` says "rim". */
#ifndef COFFER_NVIDIA_H
#define COFFER_NVIDIA_H

#include "appraise/nvidia_certs.h"
#include "appraise/nvidia_spdm.h"

#define NVIDIA_DEVICES_MAX 64u

/* ---- evidence ---- */

/* One device's evidence. */
struct nvidia_device {
    struct buf report; /* owned */
    struct buf chain;  /* owned PEM, leaf first; empty: look into the collateral */
    const char *arch;  /* as the evidence has it, borrowed from the JSON; NULL: it does not say */
    const char *nonce; /* likewise */
};

struct nvidia_evidence {
    struct nvidia_device *v; /* owned */
    size_t n;                /* at least one */
    json_t *json;            /* owned; NULL of other forms */
};

/* Takes: the report raw, in hex or base64; a JSON object with "evidence" and, if it likes,
 * "certificate", "arch" and "nonce"; a list of such objects (attestation-sdk); an object with a
 * list "device_evidence_list" (Trustee) or "evidence_list" (NRAS). ERR_INVALID, ERR_TOO_LARGE with
 * clause "evidence...". */
int nvidia_evidence_take(struct bytes evidence, struct nvidia_evidence *ret, struct err *e);
void nvidia_evidence_done(struct nvidia_evidence *ev);

/* ---- appraisal ---- */

struct nvidia_verified {
    struct nvidia_report report;
    struct nvidia_chain chain;
    const uint8_t *fwid; /* 48 bytes of the leaf; NULL: a switch whose report has none to match */
    int ocsp;            /* every certificate's status is known to be good */
    int nonce_checked;   /* somebody asked for a nonce, and this is it */
};

/* Genuine, or a refusal: the report's form, the chain, its firmware's identity, the nonce, the
 * signature, OCSP. `bag` may be NULL. `in` gives nonce or report_data, time and bag. Errors of
 * nvidia_report_parse, nvidia_chain_verify, nvidia_ocsp_check; ERR_DENIED "evidence.nonce",
 * "evidence.fwid", "evidence.arch"; ERR_INVALID "evidence.driver_version",
 * "evidence.vbios_version"; ERR_NOT_FOUND "evidence.chain"; ERR_BAD_SIGNATURE
 * "evidence.signature". The result borrows from the device and the store. */
int nvidia_verify(struct certs *store, const struct nvidia_device *d,
                  const struct appraisal_input *in, const struct nvidia_anchors *anchors,
                  struct nvidia_verified *ret, struct err *e);

/* One device's claims, by the names of NVIDIA's attestation service and Trustee. Owned. */
json_t *nvidia_claims(const struct nvidia_verified *v);

/* All devices of the evidence, each once. Claims that all devices (of one class, where the name is
 * of a class) agree on stand at the top; of several devices "devices" lists each one's. */
int nvidia_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e);

#endif
