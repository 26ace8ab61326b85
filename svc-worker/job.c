/* One run, in the runner's process and its private mount namespace: datasets are mounted
 * (decryptfs.h), the image is decrypted into a tmpfs that nobody else sees, the sandbox runs, the
 * output is collected. All of it vanishes with the process.
 *
 * Refusals go out as the gate's decision, which is public. So no name and no byte of an encrypted
 * image or of a dataset may be in them: what the unpackers say is kept to its kind. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "svc-worker/job_int.h"
#include "svc-worker/sandbox.h"

#define IMAGE_MAX_BYTES (UINT64_C(4) << 30)
#define IMAGE_MAX_FILES 400000u
#define SLACK_BYTES (UINT64_C(64) << 20)
#define SLOP_BYTES                                                                                 \
    (UINT64_C(1) << 20) /* of the output's tmpfs: so that too large is seen as that */

static void job_done(struct job *j)
{
    dfs_stop(j->dfs);
    scratch_done(&j->scratch);
    for (size_t i = 0; i < SPEC_MAX_DATASETS; i++) {
        seal_reader_free(j->inputs[i].reader);
        closep(&j->inputs[i].fd);
    }
    oci_image_free(j->image);
    blobs_free(j->blobs);
    free(j->rootfs);
    free(j->data);
    free(j->outdir);
    free(j->scratch_dir);
}

/* ---- image ----------------------------------------------------------------------------------- */

/* What is known of the inside of an encrypted image is not for the bus: then only the kind of error
 * is told. The manifest and what it names stand in the store in the clear. */
static int refuse_image(const char *clause, const char *expected, int hide, struct err *e)
{
    enum err_code code = e->code;
    char why[256];

    snprintf(why, sizeof(why), "%.255s", e->msg);
    return err_refuse(e, code, clause, expected, "%s", hide ? err_code_name(code) : why);
}

static int unpack_image(struct job *j, struct err *e)
{
    struct oci_key v[SPEC_MAX_IMAGE_KEYS];
    struct oci_keys keys = {.v = v, .n = j->spec->n_image_keys};

    for (size_t i = 0; i < keys.n; i++) {
        v[i].kid = j->spec->image_keys[i];
        v[i].kek = worker_keys_find(j->keys, v[i].kid, 0);
    }
    if (oci_image_open(j->blobs, j->spec->image, !j->spec->encrypted, &j->image, e)) {
        return refuse_image("workload.image", j->spec->image, 0, e);
    }
    if (oci_image_unpack(j->image, &keys, j->rootfs, IMAGE_MAX_BYTES, IMAGE_MAX_FILES, e)) {
        return refuse_image("workload.image.layers", "layers that unpack", j->spec->encrypted, e);
    }
    return 0;
}

/* ---- the container --------------------------------------------------------------------------- */

static char **args_of(const struct spec *spec, const struct oci_config *c)
{
    char **v = xcalloc(SANDBOX_MAX_ARGS + 1, sizeof(*v));
    size_t n = 0;
    char *const *more = spec->n_args ? spec->args : c->cmd;
    size_t n_more = spec->n_args;

    for (size_t i = 0; !spec->n_args && c->cmd[i]; i++) {
        n_more = i + 1;
    }
    for (size_t i = 0; c->entrypoint[i] && n < SANDBOX_MAX_ARGS; i++) {
        v[n++] = c->entrypoint[i];
    }
    for (size_t i = 0; i < n_more && n < SANDBOX_MAX_ARGS; i++) {
        v[n++] = more[i];
    }
    return v;
}

static int overridden(const struct spec *spec, const char *var)
{
    size_t n = strcspn(var, "=");

    for (size_t i = 0; i < spec->n_env; i++) {
        if (strncmp(spec->env[i], var, n) == 0 && spec->env[i][n] == '=') {
            return 1;
        }
    }
    return 0;
}

static char **env_of(const struct spec *spec, const struct oci_config *c)
{
    char **v = xcalloc(SANDBOX_MAX_ENV + 1, sizeof(*v));
    size_t n = 0;

    for (size_t i = 0; c->env[i] && n < SANDBOX_MAX_ENV; i++) {
        if (!overridden(spec, c->env[i])) {
            v[n++] = c->env[i];
        }
    }
    for (size_t i = 0; i < spec->n_env && n < SANDBOX_MAX_ENV; i++) {
        v[n++] = spec->env[i];
    }
    return v;
}

static int64_t time_left_ms(const struct worker_launch *l)
{
    struct timespec t;
    int64_t left = l->spec->timeout_ms;

    clock_gettime(CLOCK_REALTIME, &t);
    if (l->pb->deadline_ms) {
        int64_t until = l->pb->deadline_ms - ((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000);
        left = until < left ? until : left;
    }
    return left;
}

static int judge(const struct spec *spec, const struct sandbox_result *r, struct err *e)
{
    char expected[96];

    if (r->timed_out) {
        snprintf(expected, sizeof(expected), "an end within %lld ms", (long long)spec->timeout_ms);
        return err_refuse(e, ERR_TIMEOUT, "workload.timeout", expected, "none after %llu ms",
                          (unsigned long long)r->wall_ms);
    }
    if (r->oom_killed) {
        snprintf(expected, sizeof(expected), "at most %lld bytes", (long long)spec->memory_bytes);
        return err_refuse(e, ERR_WORKLOAD, "workload.memory", expected, "more than that");
    }
    if (r->signal) {
        return err_refuse(e, ERR_WORKLOAD, "workload.exit", "exit code 0", "signal %d", r->signal);
    }
    if (r->exit_code) {
        return err_refuse(e, ERR_WORKLOAD, "workload.exit", "exit code 0", "exit code %d",
                          r->exit_code);
    }
    return 0;
}

/* What an encrypted image holds is not for the bus; the spec's own words are there already. */
static int refuse_start(const struct job *j, const struct oci_config *ic, struct err *e)
{
    if (e->clause[0]) {
        return -1;
    }
    if (e->code != ERR_WORKLOAD) {
        return refuse_image("workload.start", "a container that starts", j->spec->encrypted, e);
    }
    int named = !ic->entrypoint[0] && j->spec->n_args;
    return err_refuse(e, ERR_WORKLOAD, "workload.start",
                      "a program of the image, and a working directory in it", "%s%.160s%s",
                      named ? "\"" : "", named ? j->spec->args[0] : "its entry point",
                      named ? "\", which cannot be started" : ", which cannot be started");
}

static int run_container(struct job *j, struct worker_outcome *o, struct err *e)
{
    const struct spec *spec = j->spec;
    const struct oci_config *ic = oci_image_config(j->image);
    _cleanup_free_ char **args = args_of(spec, ic);
    _cleanup_free_ char **env = env_of(spec, ic);
    _cleanup_free_ char *id = xasprintf("%s-%u", spec->job_id, j->l->pb->attempt);
    struct sandbox_mount mounts[SPEC_MAX_DATASETS + 1];
    char *sources[SPEC_MAX_DATASETS] = {0};
    struct sandbox_result r = {0};
    struct sandbox_config c = {
        .work_dir = j->l->pb->work_dir,
        .rootfs = j->rootfs,
        .id = id,
        .args = args,
        .env = env,
        .workdir = spec->workdir[0] ? spec->workdir : ic->working_dir,
        .mounts = mounts,
        .n_mounts = spec->n_datasets,
        .output_target = spec->output_path,
        .output_source = j->outdir,
        .memory_bytes = (uint64_t)spec->memory_bytes,
        .tmp_bytes = (uint64_t)spec->tmp_bytes,
        .output_bytes = (uint64_t)spec->output_max_bytes + SLOP_BYTES,
        .pids = (uint32_t)spec->pids,
        .cpu_millis = (uint32_t)spec->cpu_millis,
        .timeout_ms = time_left_ms(j->l),
        .stop_fd = j->dfs ? dfs_fd(j->dfs) : 0,
    };

    for (size_t i = 0; i < spec->n_datasets; i++) {
        sources[i] = xasprintf("%s/%zu", j->data, i);
        mounts[i] = (struct sandbox_mount){.source = sources[i], .target = spec->datasets[i].mount};
    }
    if (spec->scratch_bytes) {
        mounts[c.n_mounts++] =
            (struct sandbox_mount){.source = j->scratch_dir,
                                   .target = SPEC_SCRATCH_DIR,
                                   .writable_bytes = (uint64_t)spec->scratch_bytes};
    }
    int rc = c.timeout_ms > 0 ? sandbox_run(&c, &r, e)
                              : err_refuse(e, ERR_TIMEOUT, "workload.timeout",
                                           "time left until the deadline", "none");
    for (size_t i = 0; i < spec->n_datasets; i++) {
        free(sources[i]);
    }
    if (job_data_failed(j, e)) {
        return -1;
    }
    if (rc) {
        return refuse_start(j, ic, e);
    }
    o->exit_code = r.exit_code;
    o->limits_enforced = r.limits_enforced;
    return judge(spec, &r, e);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int prepare(struct job *j, struct err *e)
{
    const char *work = j->l->pb->work_dir;
    struct sandbox_private p = {
        .work_dir = work,
        .bytes = IMAGE_MAX_BYTES + SLACK_BYTES,
        .inodes = IMAGE_MAX_FILES,
        .allow_swap = streq(j->l->attester->name, "sample"),
    };

    j->rootfs = xasprintf("%s/rootfs", work);
    j->data = xasprintf("%s/data", work);
    j->outdir = xasprintf("%s/out", work);
    if (sandbox_prepare_private(&p, e)) {
        return -1;
    }
    if (mkdir(j->rootfs, 0755) || mkdir(j->data, 0711) || mkdir(j->outdir, 0755)) {
        return err_errno(e, "work directory");
    }
    return 0;
}

static int prepare_scratch(struct job *j, struct err *e)
{
    uint64_t bytes = 0;
    const char *device = blobs_scratch(j->blobs, &bytes), *work = j->l->pb->work_dir;

    if (!j->spec->scratch_bytes) {
        return 0;
    }
    if (!device) {
        return err_refuse(e, ERR_INVALID, "launch.disks", "a disk for scratch", "none");
    }
    j->scratch_dir = xasprintf("%s/scratch", work);
    return scratch_mount(&j->scratch, device, bytes, work, j->scratch_dir,
                         SANDBOX_ID_BASE + SANDBOX_UID, e);
}

static int run_in_sandbox(struct job *j, struct area *out, struct worker_outcome *o, struct err *e)
{
    phase_say("unpack");
    if (prepare(j, e) || prepare_scratch(j, e) || job_data_show(j, e) || unpack_image(j, e)) {
        return -1;
    }
    phase_say("run");
    if (run_container(j, o, e)) {
        return -1;
    }
    dfs_stop(TAKE_PTR(j->dfs));
    _cleanup_close_ int dir = open(j->outdir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0) {
        return err_errno(e, "output directory");
    }
    return collect_files(j->spec, dir, out, o, e);
}

/* For benchmarks: as if a workload had written a few bytes into each file. */
static int run_without(struct job *j, struct area *out, struct worker_outcome *o, struct err *e)
{
    static const char text[] = "\"ok\"\n"; /* is each of the types */
    size_t at = 0, n = sizeof(text) - 1;

    for (size_t i = 0; i < j->spec->n_files; i++, at += n) {
        if (at + n > (size_t)j->spec->output_max_bytes) {
            return err_refuse(e, ERR_WORKLOAD, "output.maxBytes", "room for 5 bytes in each file",
                              "%lld", (long long)j->spec->output_max_bytes);
        }
        memcpy(out->p + at, text, n);
        o->file_bytes[i] = n;
    }
    o->exit_code = 0;
    o->plain = BYTES(out->p, at);
    return 0;
}

static int run_all(struct job *j, struct area *out, struct worker_outcome *o, struct err *e)
{
    if (blobs_open(j->l->pb, &j->blobs, e)) {
        return -1;
    }
    if (job_data_open(j, e)) {
        return -1;
    }
    if (j->l->pb->no_container ? run_without(j, out, o, e) : run_in_sandbox(j, out, o, e)) {
        return -1;
    }
    phase_say("seal");
    return collect_fingerprints(j->inputs, j->spec->n_datasets, j->spec->n_files, out, o, e);
}

void job_run(const struct worker_launch *l, const struct worker_keys *k, struct area *out,
             struct worker_outcome *o)
{
    _cleanup_(job_done) struct job j = {
        .l = l, .spec = l->spec, .keys = k, .scratch = SCRATCH_INIT};
    struct err e = {0};

    for (size_t i = 0; i < SPEC_MAX_DATASETS; i++) {
        j.inputs[i].fd = -1;
    }
    memset(o, 0, sizeof(*o));
    o->exit_code = -1;
    if (run_all(&j, out, o, &e) == 0) {
        return;
    }
    o->refusal = e;
    if (!e.clause[0]) {
        char why[256];
        snprintf(why, sizeof(why), "%.255s", e.msg);
        err_refuse(&o->refusal, e.code, "worker", "a run", "%s", why);
    }
    o->plain = BYTES(NULL, 0);
    o->fp_count = o->fp_total = 0;
}
