#include "svc-launcher/supervisor_int.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/log.h"
#include "svc-launcher/launch_config.h"

#define PROBE_EVERY_S 30.0

/* ---- actions --------------------------------------------------------------------------------- */

static int start(struct run *r, const Coffer__V1__LaunchCvm *l, struct err *e)
{
    struct supervisor *sup = r->sup;
    _cleanup_buf_ struct buf config = BUF_INIT(LAUNCH_CONFIG_MAX_BYTES);
    char dir[1200], sock[LINK_PATH_MAX];

    r->backend = backend_find(l->backend);
    if (!r->backend) {
        return err_refuse(e, ERR_UNSUPPORTED, "backend", "one that this host has", "\"%.32s\"",
                          l->backend);
    }
    run_work_dir(r, dir, sizeof(dir));
    link_path(dir, sock);
    if (remove_tree(dir, e) < 0 || remove_tree(sock, e) < 0) {
        return -1;
    }
    if (mkdir(dir, 0700) < 0) {
        return err_errno(e, "cannot make %s", dir);
    }
    if (launch_config_make(shell_config(sup->sh), l, r->backend->tee, dir, &config, e) < 0) {
        return -1;
    }
    struct backend_launch what = {.job = r->job,
                                  .attempt = r->attempt,
                                  .config = buf_bytes(&config),
                                  .work_dir = dir,
                                  .deadline_ms = l->deadline_ms};
    return r->backend->launch(&sup->env, &what, &r->h, e);
}

static void launch_failed(struct run *r, const struct err *why)
{
    struct backend_event failed = {.kind = BACKEND_FAILED};
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;

    log_context(r->job, r->attempt);
    log_err(LOG_WARN, "cvm.launch-failed", why);
    log_context(NULL, 0);
    run_remove_files(r);
    refusal_from_err(&refusal, why, SVC_LAUNCHER);
    failed.refusal = &refusal;
    r->over = 1;
    if (run_tell(r, &failed) < 0) {
        run_finish(r, BACKEND_GONE, 1); /* again later, with less of a reason */
    } else {
        run_free(r);
    }
}

static void act_launch(struct supervisor *sup, const Coffer__V1__LaunchCvm *l)
{
    struct backend_event started = {.kind = BACKEND_STARTED};
    struct err why = {0};
    char boot[64];

    if (run_find(sup, l->job, l->attempt)) {
        return;
    }
    struct run *r = run_new(sup, l->job, l->attempt);
    if (start(r, l, &why) < 0) {
        launch_failed(r, &why);
        return;
    }
    log_context(r->job, r->attempt);
    log_info("cvm.started", "backend %s, pid %d", r->backend->name, (int)r->h.pid);
    log_context(NULL, 0);
    r->own = 1;
    run_watch(r);
    host_boot_id(boot);
    started.pid = r->h.pid;
    started.pid_start = r->h.pid_start;
    started.boot_id = boot;
    /* What is not recorded must not run. */
    if (run_tell(r, &started) < 0 || link_send(r->h.link_fd, LINK_GO, 0, BYTES(NULL, 0)) != 0) {
        r->backend->destroy(&r->h);
    }
}

static void act_destroy(struct supervisor *sup, const char *job, uint32_t attempt)
{
    struct run *r = run_find(sup, job, attempt);

    if (!r) {
        adopt(sup, job, attempt);
        r = run_find(sup, job, attempt);
    }
    if (r && r->own && !r->ended) {
        r->backend->destroy(&r->h);
    } else if (r && !r->ended) {
        run_end_keeper(r, SIGTERM);
    }
}

static int act(struct shell *sh, int kind, struct bytes data)
{
    struct supervisor *sup = shell_priv(sh);
    _cleanup_pb_ ProtobufCMessage *m = NULL;

    switch ((enum launcher_action)kind) {
    case LAUNCHER_ACT_LAUNCH:
        m = protobuf_c_message_unpack(&coffer__v1__launch_cvm__descriptor, NULL, data.n, data.p);
        if (m) {
            act_launch(sup, (const Coffer__V1__LaunchCvm *)m);
        }
        return 0;
    case LAUNCHER_ACT_DESTROY:
        m = protobuf_c_message_unpack(&coffer__v1__destroy_cvm__descriptor, NULL, data.n, data.p);
        if (m) {
            const Coffer__V1__DestroyCvm *d = (const Coffer__V1__DestroyCvm *)m;
            act_destroy(sup, d->job, d->attempt);
        }
        return 0;
    case LAUNCHER_ACT_ADOPT:
        m = protobuf_c_message_unpack(&coffer__v1__destroy_cvm__descriptor, NULL, data.n, data.p);
        if (m) {
            const Coffer__V1__DestroyCvm *d = (const Coffer__V1__DestroyCvm *)m;
            if (!run_find(sup, d->job, d->attempt)) {
                adopt(sup, d->job, d->attempt);
            }
        }
        return 0;
    }
    log_error("launcher.action", "unknown action %d", kind);
    return -1;
}

/* ---- start and stop -------------------------------------------------------------------------- */

static int same_backends(const struct host_facts *a, const struct host_facts *b)
{
    int same = a->n_backends == b->n_backends;

    for (size_t i = 0; same && i < a->n_backends; i++) {
        same = streq(a->backends[i].name, b->backends[i].name) &&
               a->backends[i].available == b->backends[i].available &&
               streq(a->backends[i].why, b->backends[i].why);
    }
    return same;
}

static int probe(struct supervisor *sup, struct err *e)
{
    struct host_facts f;

    if (probe_host(shell_config(sup->sh), &sup->env, &f, e) < 0) {
        return -1;
    }
    int same = same_backends(&f, &sup->facts);
    sup->facts = f;
    launcher_set_facts(engine_svc(shell_engine(sup->sh)), &f);
    for (size_t i = 0; !same && i < f.n_backends; i++) {
        log_info("host.backend", "%s (%s): %s", f.backends[i].name, f.backends[i].tee,
                 f.backends[i].available ? "available" : f.backends[i].why);
    }
    return 0;
}

static void on_probe(struct ev_loop *loop, ev_timer *w, int events)
{
    struct err e = {0};

    (void)loop;
    (void)events;
    if (probe(w->data, &e) < 0) {
        log_err(LOG_WARN, "host.probe", &e);
    }
}

static int make_cvm_dir(struct supervisor *sup, struct err *e)
{
    struct stat st;

    const char *data = config_str(shell_config(sup->sh), "data-dir");
    int n = snprintf(sup->cvm_dir, sizeof(sup->cvm_dir), "%s/cvm", data);
    if (n < 0 || (size_t)n >= sizeof(sup->cvm_dir)) {
        return err_refuse(e, ERR_TOO_LARGE, "data-dir", "a shorter path", "%zu bytes",
                          strlen(data));
    }
    if (mkdir(sup->cvm_dir, 0700) < 0 && errno != EEXIST) {
        return err_errno(e, "cannot make %s", sup->cvm_dir);
    }
    if (lstat(sup->cvm_dir, &st) < 0) {
        return err_errno(e, "%s", sup->cvm_dir);
    }
    if (!S_ISDIR(st.st_mode) || (st.st_mode & 077) || st.st_uid != geteuid()) {
        return err_refuse(e, ERR_DENIED, sup->cvm_dir, "a directory of its own, mode 0700",
                          "mode %o of uid %u", st.st_mode & 07777u, st.st_uid);
    }
    return 0;
}

static void set_vm_options(struct supervisor *sup, const struct config *c)
{
    const char *swtpm = config_str(c, "vm-swtpm"), *ca = config_str(c, "tpm-ca");

    snprintf(sup->swtpm_setup, sizeof(sup->swtpm_setup), "%s_setup", swtpm);
    snprintf(sup->tpm_ca, sizeof(sup->tpm_ca), "%s%s", ca[0] ? ca : config_str(c, "data-dir"),
             ca[0] ? "" : "/tpm-ca");
    sup->env.vm = (struct vm_options){.qemu = config_str(c, "vm-qemu"),
                                      .swtpm = swtpm,
                                      .swtpm_setup = sup->swtpm_setup,
                                      .image = config_str(c, "guest-image"),
                                      .tpm_ca = sup->tpm_ca,
                                      .accel = config_str(c, "vm-accel"),
                                      .cpus = config_str(c, "vm-cpus"),
                                      .quote_socket = config_str(c, "vm-quote-socket"),
                                      .overhead_bytes = config_int(c, "vm-overhead-bytes"),
                                      .hang_ms = config_int(c, "vm-hang-ms"),
                                      .scratch_max_bytes =
                                          config_int(c, "vm-scratch-max-bytes"),
                                      .numa_node = config_int(c, "vm-numa-node"),
                                      .hugepages = config_bool(c, "vm-hugepages"),
                                      .lock_memory = config_bool(c, "vm-lock-memory")};
}

static int started(struct shell *sh)
{
    struct supervisor *sup = xcalloc(1, sizeof(*sup));
    const struct config *c = shell_config(sh);
    struct err e = {0};

    shell_set_priv(sh, sup);
    sup->sh = sh;
    snprintf(sup->keeper, sizeof(sup->keeper), "/proc/self/exe");
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    sup->env = (struct backend_env){
        .keeper = sup->keeper,
        .worker = config_str(c, "worker"),
        .worker_arg = config_bool(c, "no-container") ? "--bench-no-container" : NULL,
        .store = config_str(c, "store"),
        .cvm_dir = sup->cvm_dir,
        .seed_file = config_str(c, "worker-nats-seed"),
        .grace_ms = config_int(c, "stop-grace-ms"),
        .orphan_ms = config_int(c, "orphan-ms"),
        .host = config_str(c, "host")};
    set_vm_options(sup, c);
    if (make_cvm_dir(sup, &e) < 0 || probe(sup, &e) < 0) {
        log_err(LOG_ERROR, "launcher.start", &e);
        return -1;
    }
    adopt_sweep(sup);
    ev_timer_init(&sup->probe, on_probe, PROBE_EVERY_S, PROBE_EVERY_S);
    sup->probe.data = sup;
    ev_timer_start(shell_loop(sh), &sup->probe);
    return 0;
}

/* With on-stop=keep the CVMs are left to the next launcher; else nothing may run unwatched, and
 * what does not end in time is ended by its keeper alone. */
static void stopping(struct shell *sh)
{
    struct supervisor *sup = shell_priv(sh);
    struct err e = {0};

    if (!sup || streq(config_str(shell_config(sh), "on-stop"), "keep")) {
        return;
    }
    sup->env.orphan_ms = 0;
    if (shell_call(sh, launcher_stop_all, NULL, &e) < 0) {
        log_err(LOG_WARN, "launcher.stop", &e);
    }
    for (struct run *r = sup->runs; r; r = r->next) {
        run_end_keeper(r, KEEPER_SIGNAL_FORGET);
    }
}

const struct shell_hooks supervisor_hooks = {
    .about = "launches, watches and destroys the CVMs of one host",
    .act = act,
    .started = started,
    .stopping = stopping,
};
