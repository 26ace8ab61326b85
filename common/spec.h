/* The job spec: what a consumer signs. One schema; YAML for people, canonical JSON for machines.
 *
 * YAML is turned into the normal form (every default written out, sizes as bytes, durations as
 * milliseconds), the normal form is what is signed and hashed: job_digest = SHA-256(JCS(spec)), and
 * job_id = "j" + the first 26 lower-case base32 digits of job_digest. So a job's id names what it
 * computes, and a replayed spec is the same job, not a second one.
 *
 * Normal form (all members present, no others):
 *   { "apiVersion": "coffer/v1", "kind": "Job",
 *     "metadata": { "name": str, "nonce": 16..64 chars },
 *     "workload": { "image": "sha256:<64 hex>"   manifest digest,
 *                   "encrypted": bool             false: a plain image is allowed,
 *                   "imageKeys": [id],            key ids its layers are wrapped with
 *                   "args": [str], "env": {name: str}, "workdir": str },
 *     "datasets": [ { "id": str, "mount": abs path } ],
 *     "tee": { "mode": "required"|"preferred"|"none", "types": ["tdx","snp","vtpm","sample",...] },
 *     "resources": { "cpuMillis": int, "memoryBytes": int, "pids": int, "tmpBytes": int,
 *                    "scratchBytes": int          0: no SPEC_SCRATCH_DIR,
 *                    "lockMemory": bool, "hugepages": "none"|"2MiB"|"1GiB",
 *                    "numaNode": int              -1: any,
 *                    "cpuPinning": bool },
 *     "timeoutMs": int, "attempts": int, "network": "none",
 *     "output": { "path": abs path, "maxBytes": int,
 *                 "files": [ { "path": rel path, "type": "text/csv"|"text/plain"|
 *                              "application/json"|"application/octet-stream" } ],
 *                 "recipients": [ public JWK {crv,kty,x,y} ] },
 *     "gate": { "holdAt": 0..101, "rejectAt": 0..101, "maxVerbatimPercent": 0..100 } }
 */
#ifndef COFFER_SPEC_H
#define COFFER_SPEC_H

#include "common/jose.h"

#define SPEC_YAML_MAX_BYTES (256u * 1024)
#define SPEC_JWS_MAX_BYTES (96u * 1024)
#define SPEC_JWS_TYP "coffer-spec+jws"
#define JOB_ID_LEN 27
#define SPEC_MAX_DATASETS 32
#define SPEC_MAX_ARGS 256
#define SPEC_MAX_ENV 256
#define SPEC_MAX_FILES 64
#define SPEC_MAX_RECIPIENTS 16
#define SPEC_MAX_TYPES 16
#define SPEC_MAX_IMAGE_KEYS 16
/* Where the container sees its scratch, and the least there can be of it: a file system must fit.
 */
#define SPEC_SCRATCH_DIR "/scratch"
#define SPEC_SCRATCH_MIN_BYTES (16ll << 20)

enum tee_mode { TEE_REQUIRED, TEE_PREFERRED, TEE_NONE };
enum spec_hugepages { SPEC_HUGE_NONE, SPEC_HUGE_2M, SPEC_HUGE_1G };

struct spec_dataset {
    char *id, *mount;
};

struct spec_file {
    char *path, *type;
};

/* A checked spec. All members owned by it. */
struct spec {
    json_t *json; /* the normal form */
    char job_id[JOB_ID_LEN + 1];
    uint8_t digest[32];
    char digest_hex[65];

    char *name;
    char *image; /* "sha256:..." */
    int encrypted;
    char **image_keys;
    size_t n_image_keys;
    char **args;
    size_t n_args;
    char **env; /* "NAME=value" */
    size_t n_env;
    char *workdir;
    struct spec_dataset *datasets;
    size_t n_datasets;
    enum tee_mode tee_mode;
    char **tee_types;
    size_t n_tee_types;
    int64_t cpu_millis, memory_bytes, pids, tmp_bytes;
    int64_t scratch_bytes;
    int lock_memory, cpu_pinning;
    enum spec_hugepages hugepages;
    int64_t numa_node; /* -1: any */
    int64_t timeout_ms, attempts;
    char *output_path;
    int64_t output_max_bytes;
    struct spec_file *files;
    size_t n_files;
    struct jkey **recipients;
    size_t n_recipients;
    int64_t gate_hold_at, gate_reject_at, gate_max_verbatim_percent;
};

/* From the normal form only (as in a JWS): strict, no defaults. */
int spec_from_json(const json_t *normal, struct spec **ret, struct err *e);
/* From YAML text. `file` is for messages, which read "file:line: field: expected ..., found ...".
 * `default_recipient` fills `recipients: self` and an absent list. A missing nonce is made fresh.
 */
int spec_from_yaml(const char *file, struct bytes yaml, const struct jkey *default_recipient,
                   struct spec **ret, struct err *e);
void spec_free(struct spec *s);
DEFINE_CLEANUP(struct spec *, spec_free);
#define _cleanup_spec_ _cleanup_(spec_freep)

/* The signed form, and back: checks the consumer's signature (embedded key) and the schema. */
int spec_sign(const struct spec *s, const struct jkey *consumer, char **ret_jws, struct err *e);
int spec_verify(const char *jws, struct spec **ret, struct jkey **ret_consumer, struct err *e);
/* Whether `id` has the shape of a job id (before it is used as a subject token). */
int job_id_valid(const char *id);
/* The JSON Schema (draft 2020-12) of the YAML form, as text; for `coffer spec schema`. */
const char *spec_json_schema(void);

#endif
