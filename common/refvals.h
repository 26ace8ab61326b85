/* Reference values: what a good guest image measures to, signed by a release key of the trust file.
 * A file has one JWS a line (compact, ES256). Of typ "coffer-refvals+jws" the payload is what
 * `coffer image measure` prints (docs/guest.md); of typ "coffer-values+jws" it is
 * {"v":1,"values":{NAME:[VALUE...]}}, whatever appraisal policies refer to (docs/POLICY.md). */
#ifndef COFFER_REFVALS_H
#define COFFER_REFVALS_H

#include "common/trust.h"

#define REFVALS_TYP "coffer-refvals+jws"
#define REFVALS_VALUES_TYP "coffer-values+jws"
#define REFVALS_MAX_VALUES 4096
#define REFVALS_MAX_BYTES (1u << 20)
#define REFVALS_JWS_MAX_BYTES (256u * 1024)
#define REFVALS_MAX_IMAGES 32
#define REFVALS_MAX_PCR0 256
#define REFVALS_MAX_EVENTS 128
#define REFVALS_MAX_SNP 256
#define REFVALS_PCRS 24
#define REFVALS_TEXT_MAX 128
/* The event of PCR 4 that is the hash of all the others' content. */
#define REFVALS_WHOLE_IMAGE "unified kernel image"

/* PCR 0 depends on the VM's size: "<memory class in MiB>/<virtual processors>". */
struct refvals_pcr0 {
    const char *size; /* borrowed from json, as are all texts here */
    uint8_t digest[32];
};
/* What one measured thing is, so that a difference has a name: "initramfs". */
struct refvals_event {
    uint32_t pcr;
    const char *what;
    uint8_t digest[32];
};
struct refvals_vtpm {
    const char *firmware;
    uint8_t firmware_sha256[32];
    struct refvals_pcr0 *pcr0; /* owned */
    size_t n_pcr0;
    uint32_t pcrs; /* bit n: pcr[n] is given; never PCR 0 */
    uint8_t pcr[REFVALS_PCRS][32];
    struct refvals_event *events; /* owned */
    size_t n_events;
};
struct refvals_snp {
    int64_t vcpus;
    const char *cpu;
    uint8_t digest[48];
};
struct refvals_tdx {
    uint8_t mrtd[48], rtmr1[48], rtmr2[48];
};
struct refvals_image {
    json_t *json; /* owned */
    const char *name, *version, *cmdline;
    uint8_t uki_sha256[32], kernel_sha256[32], initrd_sha256[32];
    int has_vtpm, has_tdx;
    struct refvals_vtpm vtpm;
    struct refvals_snp *snp; /* owned; empty when the firmware does not allow it */
    size_t n_snp;
    struct refvals_tdx tdx;
};
struct refvals {
    struct refvals_image v[REFVALS_MAX_IMAGES];
    size_t n;
    /* Owned: name to list, from all lines; images add theirs as "image.tdx.mrtd", ".rtmr1",
     * ".rtmr2" and "image.snp.measurement". */
    json_t *values;
};

/* Every line must verify with a release key. ERR_BAD_SIGNATURE (clause "release.signature"),
 * ERR_INVALID, ERR_TOO_LARGE, ERR_IO; names the line and the member. */
int refvals_read(const char *path, const struct trust_keys *release, struct refvals **ret,
                 struct err *e);
int refvals_parse(struct bytes file, const struct trust_keys *release, struct refvals **ret,
                  struct err *e);
void refvals_free(struct refvals *r);
DEFINE_CLEANUP(struct refvals *, refvals_free);

/* The values of that name, a borrowed array; NULL: none. As a refval_fn of appraise/policy.h;
 * `refvals` may be NULL. */
const json_t *refvals_lookup(void *refvals, const char *name);

/* {NAME:[VALUE...]}: names of 1 to 80 characters without spaces, values that are texts, integers or
 * booleans. ERR_INVALID. */
int refvals_values_check(const json_t *values, struct err *e);

/* One payload, whose signature is the caller's business. */
int refvals_image_parse(struct bytes payload, struct refvals_image *ret, struct err *e);
void refvals_image_done(struct refvals_image *i);

#endif
