/* svc-worker: one attempt of one job, inside its CVM. Pure handlers in an engine over ":memory:",
 * as in every other service; what needs a process (the run) or a request is an action. main.c puts
 * them around it, the simulator and benches drive the same functions directly:
 *
 *   engine_open(&worker_service), engine_call(worker_start)
 *   WORKER_ACT_CHALLENGE   send worker_challenge() as evidence.challenge; its Reply, or NULL, goes
 * to worker_on_reply KEY_RELEASE            by engine_handle WORKER_ACT_RUN         run the job
 * with worker_release(); what came of it goes to worker_run_done WORKER_ACT_REFUSED     it is over:
 * worker_refusal() says why worker_published       once engine_unpublished() is 0: then it is DONE
 */
#ifndef COFFER_SVC_WORKER_WORKER_H
#define COFFER_SVC_WORKER_WORKER_H

#include "common/engine.h"
#include "common/result.h"
#include "common/trust.h"

extern const struct service_def worker_service;

/* How long the challenge and the evidence wait for an answer before they are sent again. */
#define WORKER_REPEAT_MS 5000
#define WORKER_LAUNCH_MAX_BYTES (256u * 1024)
#define WORKER_RELEASE_MAX_BYTES (128u * 1024)
#define WORKER_MAX_KEYS (SPEC_MAX_DATASETS + SPEC_MAX_IMAGE_KEYS)

enum worker_action { WORKER_ACT_CHALLENGE = 1, WORKER_ACT_RUN = 2, WORKER_ACT_REFUSED = 3 };

/* ---- launch.c: what the launcher says, checked ---- */

struct attester;
struct worker_launch {
    Coffer__V1__LaunchConfig *pb; /* owned */
    struct spec *spec;            /* owned; verified, and of pb->job */
    const struct attester *attester;
};

/* One LaunchConfig and nothing after it. no_container is refused unless allowed.
 * Refusals name "launch.<member>"; ERR_INVALID, ERR_TOO_LARGE, ERR_DENIED, ERR_UNSUPPORTED (tee).
 */
int worker_launch_parse(struct bytes in, int allow_no_container, struct worker_launch **ret,
                        struct err *e);
/* launch_disks.c: a VM's disks, among them one for so much scratch, and no store_path beside them.
 * Refusals name "launch.disks[<i>].<member>". */
int launch_check_disks(const Coffer__V1__LaunchConfig *c, int64_t scratch_bytes, struct err *e);
void worker_launch_free(struct worker_launch *l);
DEFINE_CLEANUP(struct worker_launch *, worker_launch_free);

/* ---- exec_state.c ---- */

enum exec_state {
    EX_NEW,        /* challenge asked for */
    EX_CHALLENGED, /* nonce is here, evidence is being collected */
    EX_SUBMITTED,  /* evidence sent, and again, until keys come */
    EX_KEYED,      /* keys are here */
    EX_RUNNING,
    EX_SEALING, /* the result is on its way out */
    EX_DONE,
    EX_REFUSED,
    EX_N
};
enum exec_event {
    XV_CHALLENGE,
    XV_EVIDENCE,
    XV_KEYS,
    XV_RUN,
    XV_OUTCOME,
    XV_PUBLISHED,
    XV_REFUSE, /* by the verifier, the KBS, or the deadline */
    XV_N
};
const char *exec_state_name(enum exec_state st);
/* ERR_WRONG_STATE, clause "worker.state". */
int exec_next(enum exec_state st, enum exec_event ev, enum exec_state *ret, struct err *e);

/* ---- handlers.c ---- */

/* `l` is borrowed for the engine's life. Makes the TEE key and asks for a challenge. */
struct worker_start_args {
    const struct worker_launch *launch;
};
int worker_start(struct svc *s, void *start_args, struct effects *fx, struct err *e);
void worker_challenge(const struct svc *s, Coffer__V1__ChallengeRequest *ret); /* borrowed */
/* NULL: no answer came (the tick asks again). A Refusal is final. */
int worker_on_reply(struct svc *s, const Coffer__V1__Reply *r, struct effects *fx, struct err *e);

struct worker_outcome {
    int exit_code;      /* of the workload; -1 when it never ran */
    struct err refusal; /* code ERR_NONE: there is an output */
    int limits_enforced;
    uint64_t file_bytes[SPEC_MAX_FILES]; /* in the spec's order */
    struct bytes plain;                  /* the files, then fp_count fingerprints; borrowed */
    uint8_t fp_salt[FP_SALT_BYTES];
    uint64_t fp_count, fp_total, fp_input_bytes;
    int died; /* the runner ended without a report: no result, only a reason (refusal) */
};
/* Seals the output to the gate and publishes manifest and chunks. */
int worker_run_done(struct svc *s, const struct worker_outcome *o, struct effects *fx,
                    struct err *e);
int worker_published(struct svc *s, struct err *e);

enum exec_state worker_state(const struct svc *s);
/* Why it is REFUSED, or what the run failed with; code NONE when nothing is wrong. Borrowed. */
const struct err *worker_refusal(const struct svc *s);
/* The service that refused it; static, NULL when it was none of them. */
const char *worker_refused_by(const struct svc *s);
/* The release as it was opened (worker_keys_parse); borrowed, NULL before KEYED. */
const struct secret *worker_release(const struct svc *s);
/* The public half of the TEE key, for tests and drivers; borrowed. */
const struct jkey *worker_tee_key(const struct svc *s);

/* ---- keys.c ---- */

struct worker_key {
    char id[DATASET_ID_MAX + 1];
    int is_dataset;
    struct secret *key;
};
struct worker_keys {
    struct worker_key v[WORKER_MAX_KEYS];
    size_t n;
    struct jkey *gate;
    char *ear;
};
/* From the plaintext of a release. It must be of this job and attempt and hold a key for every
 * dataset and image key of the spec. Refusals name "release.<member>". */
int worker_keys_parse(struct bytes plain, const struct worker_launch *l, struct worker_keys *ret,
                      struct err *e);
void worker_keys_done(struct worker_keys *k);
const struct secret *worker_keys_find(const struct worker_keys *k, const char *id, int is_dataset);

/* ---- attest.c ---- */

/* How evidence is had from inside of one TEE, in two steps around the challenge. */
struct attester {
    const char *name;
    /* Before the challenge is asked for: appends to `ret_key` what the verifier must know first
     * (ChallengeRequest.attest_key). *ret_state, NULL for none, is the attester's own and ends with
     * end(). NULL: nothing to do. Takes at most ATTEST_STEP_MS. */
    int (*begin)(void **ret_state, struct buf *ret_key, struct err *e);
    /* Appends evidence that binds report_data (64 bytes), as the TEE's JSON. `credential` is
     * Challenge.credential. Takes at most ATTEST_STEP_MS. */
    int (*collect)(void *state, const uint8_t report_data[64], struct bytes credential,
                   struct buf *ret, struct err *e);
    void (*end)(void *state); /* wipes and frees; NULL without a state */
};
#define ATTEST_STEP_MS 30000
#define ATTEST_KEY_MAX_BYTES 3584u                      /* fits into a ChallengeRequest */
const struct attester *attester_find(const char *name); /* NULL */
/* "sample, ..." for messages. */
const char *attester_names(void);

/* ---- output.c: the parent's side of an outcome ---- */

struct worker_sealed {
    struct buf stream; /* empty for a failed one */
    char *manifest_jws;
};
int worker_seal(const struct worker_launch *l, const struct jkey *tee, const struct jkey *gate,
                const char *ear, const struct worker_outcome *o, struct worker_sealed *ret,
                struct err *e);
void worker_sealed_done(struct worker_sealed *w);

/* ---- fingerprint.c ---- */

struct fp_finder;
/* `files` are cut into blocks; they are borrowed. Memory: about 32 bytes for each block. */
int fp_finder_new(const struct bytes *files, size_t n_files, struct fp_finder **ret, struct err *e);
/* The next bytes of the current input; fp_finder_end_input separates inputs. */
void fp_finder_scan(struct fp_finder *f, struct bytes in);
void fp_finder_end_input(struct fp_finder *f);
/* Writes the salted hashes of the distinct blocks that were found, at most `max` of them. */
int fp_finder_result(struct fp_finder *f, const uint8_t salt[FP_SALT_BYTES], uint8_t *out,
                     uint64_t max, uint64_t *ret_count, uint64_t *ret_total, struct err *e);
void fp_finder_free(struct fp_finder *f);
DEFINE_CLEANUP(struct fp_finder *, fp_finder_free);

/* ---- job.c, collect.c: in the runner's process ---- */

/* Does it all; whatever fails is o->refusal. `out` is where the output goes. */
void job_run(const struct worker_launch *l, const struct worker_keys *k, struct area *out,
             struct worker_outcome *o);
/* How large that area must be for this spec. */
size_t job_area_bytes(const struct spec *spec);
struct job_input {
    struct seal_reader *reader; /* owned */
    int fd;                     /* owned */
};
int collect_files(const struct spec *spec, int dir_fd, struct area *out, struct worker_outcome *o,
                  struct err *e);
int collect_fingerprints(const struct job_input *inputs, size_t n, size_t n_files, struct area *out,
                         struct worker_outcome *o, struct err *e);

/* ---- runner.c ---- */

/* The process that will see plaintext: forked while the worker is still small and single-threaded,
 * it waits for the keys. */
struct runner;
int runner_spawn(const struct worker_launch *l, struct runner **ret, struct err *e);
int runner_fd(const struct runner *r); /* readable: runner_result */
int runner_run(struct runner *r, const struct secret *release, struct err *e);
/* What came of it; `plain` is borrowed from the runner. A runner that died is an outcome too. */
int runner_result(struct runner *r, const struct worker_launch *l, struct worker_outcome *ret,
                  struct err *e);
void runner_free(struct runner *r); /* kills it */
DEFINE_CLEANUP(struct runner *, runner_free);

/* One line of JSON on standard output, for the launcher. */
void phase_say(const char *phase);
/* `by`: the service that refused, NULL when it is the worker itself. */
void phase_refused(const struct err *why, const char *by);
void phase_done(void);

#endif
