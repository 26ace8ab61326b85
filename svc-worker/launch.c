/* What the launcher hands over. The host wrote it, so every member is checked, and what matters
 * (the spec) is signed by the consumer. */
#include "svc-worker/worker.h"

static int check_path(const char *clause, const char *path, struct err *e)
{
    if (path[0] != '/' || strlen(path) > 3000 || strstr(path, "/../")) {
        return err_refuse(e, ERR_INVALID, clause, "an absolute path", "%.60s", path);
    }
    return 0;
}

static int check_job(struct worker_launch *l, struct err *e)
{
    const Coffer__V1__LaunchConfig *c = l->pb;
    _cleanup_jkey_ struct jkey *consumer = NULL; /* who may is the KBS's and the owners' business */
    char expected[64];

    if (!job_id_valid(c->job)) {
        return err_refuse(e, ERR_INVALID, "launch.job", "a job id", "%.40s", c->job);
    }
    if (strnlen(c->spec_jws, SPEC_JWS_MAX_BYTES + 1) > SPEC_JWS_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "launch.spec_jws", "at most 98304 bytes",
                          "more than that");
    }
    if (spec_verify(c->spec_jws, &l->spec, &consumer, e)) {
        return err_wrap(e, "launch.spec_jws");
    }
    if (!streq(l->spec->job_id, c->job)) {
        return err_refuse(e, ERR_DENIED, "launch.job", l->spec->job_id, "%s", c->job);
    }
    if (c->attempt < 1 || c->attempt > l->spec->attempts) {
        snprintf(expected, sizeof(expected), "1 to %lld", (long long)l->spec->attempts);
        return err_refuse(e, ERR_DENIED, "launch.attempt", expected, "%u", c->attempt);
    }
    return 0;
}

/* What only a VM can have of a host. To give less than was asked for, silently, is no answer. */
static int needs_vm(const struct spec *s, struct err *e)
{
    const struct {
        const char *clause;
        int asked;
    } fields[] = {{"spec.resources.scratch", s->scratch_bytes > 0},
                  {"spec.resources.lockMemory", s->lock_memory},
                  {"spec.resources.hugepages", s->hugepages != SPEC_HUGE_NONE},
                  {"spec.resources.numaNode", s->numa_node >= 0},
                  {"spec.resources.cpuPinning", s->cpu_pinning}};

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].asked) {
            return err_refuse(e, ERR_UNSUPPORTED, fields[i].clause, "a VM to have it in",
                              "a process of the host");
        }
    }
    return 0;
}

static int check_launch(struct worker_launch *l, int allow_no_container, struct err *e)
{
    const Coffer__V1__LaunchConfig *c = l->pb;

    if (check_job(l, e)) {
        return -1;
    }
    l->attester = attester_find(c->tee);
    if (!l->attester) {
        return err_refuse(e, ERR_UNSUPPORTED, "launch.tee", attester_names(), "%.40s", c->tee);
    }
    if (c->no_container && !allow_no_container) {
        return err_refuse(e, ERR_DENIED, "launch.no_container",
                          "false, unless started with --bench-no-container", "true");
    }
    /* A VM has disks, a process has the host's directory. */
    if (c->n_disks ? launch_check_disks(c, l->spec->scratch_bytes, e)
                   : needs_vm(l->spec, e) || check_path("launch.store_path", c->store_path, e)) {
        return -1;
    }
    return check_path("launch.work_dir", c->work_dir, e);
}

int worker_launch_parse(struct bytes in, int allow_no_container, struct worker_launch **ret,
                        struct err *e)
{
    _cleanup_(worker_launch_freep) struct worker_launch *l = xcalloc(1, sizeof(*l));

    if (in.n > WORKER_LAUNCH_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "launch", "at most 262144 bytes", "more than that");
    }
    l->pb = coffer__v1__launch_config__unpack(NULL, in.n, in.p);
    if (!l->pb) {
        return err_refuse(e, ERR_INVALID, "launch", "a LaunchConfig", "%zu bytes that are none",
                          in.n);
    }
    /* What no field of the message holds would hide behind it. */
    size_t unknown = l->pb->base.n_unknown_fields;
    for (size_t i = 0; i < l->pb->n_disks; i++) {
        unknown += l->pb->disks[i]->base.n_unknown_fields;
    }
    if (unknown || coffer__v1__launch_config__get_packed_size(l->pb) != in.n) {
        return err_refuse(e, ERR_INVALID, "launch", "a LaunchConfig and nothing else",
                          "unknown fields or bytes after it");
    }
    if (check_launch(l, allow_no_container, e)) {
        return -1;
    }
    *ret = TAKE_PTR(l);
    return 0;
}

void worker_launch_free(struct worker_launch *l)
{
    if (!l) {
        return;
    }
    if (l->pb) {
        if (l->pb->nats_seed) {
            explicit_bzero(l->pb->nats_seed, strlen(l->pb->nats_seed));
        }
        coffer__v1__launch_config__free_unpacked(l->pb, NULL);
    }
    spec_free(l->spec);
    free(l);
}
