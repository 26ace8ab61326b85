/* NVIDIA's GPU and NVSwitch attestation reports: an SPDM 1.1 GET_MEASUREMENTS request and the
 * MEASUREMENTS response to it, one behind the other (DMTF DSP0274 1.1 §10.11), with NVIDIA's fields
 * in the response's opaque data.
 */
#ifndef COFFER_NVIDIA_SPDM_H
#define COFFER_NVIDIA_SPDM_H

#include "common/buf.h"

#define NVIDIA_NONCE_BYTES 32u
#define NVIDIA_SIGNATURE_BYTES 96u
#define NVIDIA_MEASUREMENTS_MAX 255u
#define NVIDIA_MEASUREMENT_MAX_BYTES 64u
#define NVIDIA_OPAQUE_MAX 64u

/* Types of opaque fields that are looked at. */
enum nvidia_field {
    NVIDIA_FIELD_DRIVER_VERSION = 3,
    NVIDIA_FIELD_VBIOS_VERSION = 6,
    NVIDIA_FIELD_NVDEC0_STATUS = 11,
    NVIDIA_FIELD_BOARD_ID = 14,
    NVIDIA_FIELD_CHIP_SKU = 15,
    NVIDIA_FIELD_CHIP_SKU_MOD = 16,
    NVIDIA_FIELD_PROJECT = 17,
    NVIDIA_FIELD_PROJECT_SKU = 18,
    NVIDIA_FIELD_PROJECT_SKU_MOD = 19,
    NVIDIA_FIELD_FWID = 20,
    NVIDIA_FIELD_PPCIE_STATUS = 21,
    NVIDIA_FIELD_SWITCH_PDI = 22,
    NVIDIA_FIELD_FEATURE_FLAG = 36,
};

struct nvidia_measurement {
    uint8_t index; /* from 1, as the report numbers them; a RIM numbers them from 0 */
    uint8_t type;  /* DMTFSpecMeasurementValueType */
    struct bytes value;
};

struct nvidia_opaque {
    uint16_t type;
    struct bytes value;
};

/* Views of the report, which outlives it. */
struct nvidia_report {
    uint8_t slot;
    const uint8_t *request_nonce;  /* the challenger's: what a challenge is compared with */
    const uint8_t *response_nonce; /* the device's own: proves nothing */
    struct bytes signed_bytes;     /* request and response but for the signature */
    const uint8_t *signature;      /* r || s */
    struct nvidia_measurement measurements[NVIDIA_MEASUREMENTS_MAX]; /* by ascending index */
    size_t n_measurements;
    struct nvidia_opaque opaque[NVIDIA_OPAQUE_MAX]; /* of no type two */
    size_t n_opaque;
};

/* Takes a report apart, to its last byte. ERR_INVALID, ERR_UNSUPPORTED (another version of SPDM) or
 * ERR_TOO_LARGE with clause "evidence.request...", "evidence.response...",
 * "evidence.measurements..." or "evidence.opaque...". */
int nvidia_report_parse(struct bytes raw, struct nvidia_report *ret, struct err *e);
/* The opaque field of that type; empty with p NULL when there is none. */
struct bytes nvidia_field(const struct nvidia_report *r, enum nvidia_field type);

#endif
