#include "svc-launcher/vm.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>

#include "common/tpmca.h"
#include "svc-launcher/launch_config.h"

/* The backends `vtpm`, `tdx` and `snp`. All that can take time or go wrong for one VM alone is done
 * below its keeper, by cvm-vm; the launcher only starts that. */

#define INPUT_MAX_BYTES (LAUNCH_CONFIG_MAX_BYTES + 128u * 1024)

int64_t vm_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int have_tpm_ca(const struct backend_env *env, struct err *e)
{
    if (mkdir(env->vm.tpm_ca, 0700) < 0 && errno != EEXIST) {
        return err_errno(e, "tpm-ca %s", env->vm.tpm_ca);
    }
    return tpmca_make(env->vm.tpm_ca, env->host, e) < 0 ? err_wrap(e, "tpm-ca") : 0;
}

static int vm_launch(enum vm_kind kind, const struct backend_env *env,
                     const struct backend_launch *l, struct cvm_handle *ret, struct err *e)
{
    _cleanup_buf_ struct buf input = BUF_INIT(INPUT_MAX_BYTES);
    struct vm_params p = {.kind = kind,
                          .work_dir = l->work_dir,
                          .store = env->store,
                          .opt = env->vm,
                          .config = l->config};
    char id[64];

    snprintf(id, sizeof(id), "%s.%u", l->job, l->attempt);
    p.id = id;
    const char *const program[] = {env->keeper, VM_VERB, id, NULL};
    if (vm_probe(kind, env, &p.kvm, e) < 0 || (kind == VM_VTPM && have_tpm_ca(env, e) < 0) ||
        vm_params_pack(&p, &input, e) < 0) {
        return -1;
    }
    err_clear(e); /* the probe's note */
    return backend_start(env, l, buf_bytes(&input), program, ret, e);
}

static int vtpm_probe(const struct backend_env *env, struct err *why)
{
    return vm_probe(VM_VTPM, env, NULL, why);
}

static int vtpm_launch(const struct backend_env *env, const struct backend_launch *l,
                       struct cvm_handle *ret, struct err *e)
{
    return vm_launch(VM_VTPM, env, l, ret, e);
}

static int tdx_probe(const struct backend_env *env, struct err *why)
{
    return vm_probe(VM_TDX, env, NULL, why);
}

static int tdx_launch(const struct backend_env *env, const struct backend_launch *l,
                      struct cvm_handle *ret, struct err *e)
{
    return vm_launch(VM_TDX, env, l, ret, e);
}

static int snp_probe(const struct backend_env *env, struct err *why)
{
    return vm_probe(VM_SNP, env, NULL, why);
}

static int snp_launch(const struct backend_env *env, const struct backend_launch *l,
                      struct cvm_handle *ret, struct err *e)
{
    return vm_launch(VM_SNP, env, l, ret, e);
}

const struct backend vtpm_backend = {.name = "vtpm",
                                     .tee = "vtpm",
                                     .probe = vtpm_probe,
                                     .launch = vtpm_launch,
                                     .destroy = backend_destroy,
                                     .reap = backend_reap};
const struct backend tdx_backend = {.name = "tdx",
                                    .tee = "tdx",
                                    .probe = tdx_probe,
                                    .launch = tdx_launch,
                                    .destroy = backend_destroy,
                                    .reap = backend_reap};
const struct backend snp_backend = {.name = "snp",
                                    .tee = "snp",
                                    .probe = snp_probe,
                                    .launch = snp_launch,
                                    .destroy = backend_destroy,
                                    .reap = backend_reap};
