#include "svc-launcher/supervisor.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/log.h"
#include "svc-launcher/backend.h"
#include "svc-launcher/launch_config.h"

#define PROBE_EVERY_S 30.0
#define TELL_AGAIN_S 1.0
#define LOG_LINE_MAX 1024
#define LINES_PER_S 100 /* of each kind, from each CVM */
#define ORPHAN_ROUNDS 20
/* Phases closer together than this are told as their last one: each told phase is a durable event
 * of the job, and nobody watches faster. */
#define PHASE_EVERY_S 0.1

struct supervisor;

/* Bounds how much a CVM can make the launcher do. */
struct rate {
    ev_tstamp since;
    unsigned n;
    uint64_t dropped;
};

/* A CVM that this launcher started, or (backend NULL) one of its earlier life that it ends. */
struct run {
    struct run *next;
    struct supervisor *sup;
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    const struct backend *backend;
    struct cvm_handle h;
    ev_io out, log, pidfd;
    ev_child child;
    ev_timer timer; /* tells again what could not be stored; kills an old keeper that stays */
    struct line_cutter out_lines, log_lines;
    struct rate out_rate, log_rate;
    int ended, exit_code;
    ev_tstamp phase_told;
    ev_timer phase_timer;
    char phase[sizeof(((struct lifecycle *)0)->phase)]; /* not told yet; "" when there is none */
};

struct supervisor {
    struct shell *sh;
    struct run *runs;
    struct backend_env env;
    char cvm_dir[1024], keeper[32], tpm_ca[1024], swtpm_setup[1024];
    struct host_facts facts;
    ev_timer probe;
};

/* ---- telling the service --------------------------------------------------------------------- */

static int tell(struct run *r, struct backend_event *ev)
{
    struct err e = {0};

    ev->job = r->job;
    ev->attempt = r->attempt;
    if (shell_call(r->sup->sh, launcher_on_backend_event, ev, &e) < 0) {
        log_context(r->job, r->attempt);
        log_err(LOG_ERROR, "cvm.event-failed", &e);
        log_context(NULL, 0);
        return -1;
    }
    return 0;
}

static void work_dir_of(const struct supervisor *sup, const char *job, uint32_t attempt, char *out,
                        size_t size)
{
    snprintf(out, size, "%s/%s.%u", sup->cvm_dir, job, attempt);
}

static void run_free(struct run *r)
{
    struct ev_loop *loop = shell_loop(r->sup->sh);
    struct run **at = &r->sup->runs;

    while (*at && *at != r) {
        at = &(*at)->next;
    }
    if (*at) {
        *at = r->next;
    }
    ev_io_stop(loop, &r->out);
    ev_io_stop(loop, &r->log);
    ev_io_stop(loop, &r->pidfd);
    ev_child_stop(loop, &r->child);
    ev_timer_stop(loop, &r->timer);
    ev_timer_stop(loop, &r->phase_timer);
    int fds[] = {r->h.out_fd, r->h.log_fd, r->pidfd.fd};
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    buf_done(&r->out_lines.buf);
    buf_done(&r->log_lines.buf);
    free(r);
}

static void tell_gone(struct run *r)
{
    struct backend_event ev = {.kind = BACKEND_GONE, .exit_code = r->exit_code};

    r->ended = 1;
    if (tell(r, &ev) == 0) {
        run_free(r);
        return;
    }
    struct ev_loop *loop = shell_loop(r->sup->sh);
    ev_timer_stop(loop, &r->timer);
    ev_timer_set(&r->timer, TELL_AGAIN_S, 0);
    ev_timer_start(loop, &r->timer);
}

/* ---- what a CVM says ------------------------------------------------------------------------- */

static int within(struct rate *rate, ev_tstamp now)
{
    if (now - rate->since >= 1.0) {
        rate->since = now;
        rate->n = 0;
    }
    if (rate->n >= LINES_PER_S) {
        rate->dropped++;
        return 0;
    }
    rate->n++;
    return 1;
}

static void tell_phase(struct run *r)
{
    struct backend_event ev = {.kind = BACKEND_PHASE, .detail = r->phase};

    r->phase_told = ev_now(shell_loop(r->sup->sh));
    tell(r, &ev);
    r->phase[0] = '\0';
}

static void on_phase_timer(struct ev_loop *loop, ev_timer *w, int events)
{
    struct run *r = w->data;

    (void)loop;
    (void)events;
    if (r->phase[0] && !r->ended) {
        tell_phase(r);
    }
}

static void on_phase(struct run *r, const char *phase)
{
    struct ev_loop *loop = shell_loop(r->sup->sh);
    ev_tstamp wait = r->phase_told + PHASE_EVERY_S - ev_now(loop);

    snprintf(r->phase, sizeof(r->phase), "%s", phase);
    if (wait <= 0) {
        tell_phase(r);
    } else if (!ev_is_active(&r->phase_timer)) {
        ev_timer_set(&r->phase_timer, wait, 0);
        ev_timer_start(loop, &r->phase_timer);
    }
}

static void on_out_line(void *arg, struct bytes line)
{
    struct run *r = arg;
    struct lifecycle l;
    Coffer__V1__Refusal refusal;
    struct err e = {0};

    if (!within(&r->out_rate, ev_now(shell_loop(r->sup->sh)))) {
        return;
    }
    if (lifecycle_parse(line, &l, &e) < 0) {
        log_context(r->job, r->attempt);
        log_err(LOG_WARN, "cvm.bad-line", &e);
        log_context(NULL, 0);
        return;
    }
    if (l.kind == BACKEND_PHASE) {
        on_phase(r, l.phase);
        return;
    }
    lifecycle_refusal(&l, &refusal);
    /* That it could not be started is told with its end: only then nothing is left of it. */
    struct backend_event ev = {.kind = l.kind == BACKEND_FAILED ? BACKEND_REFUSED : l.kind,
                               .detail = l.phase,
                               .refusal = &refusal};
    tell(r, &ev);
}

static void on_log_line(void *arg, struct bytes line)
{
    struct run *r = arg;

    if (within(&r->log_rate, ev_now(shell_loop(r->sup->sh)))) {
        log_context(r->job, r->attempt);
        log_info("cvm.log", "%.*s", (int)line.n, (const char *)line.p);
        log_context(NULL, 0);
    }
}

/* Reads at most a few buffers per call, so that one CVM cannot keep the loop. `drain`: until empty,
 * when all writers are gone and the pipe holds no more than its size. */
static void read_lines(struct run *r, ev_io *w, struct line_cutter *c, line_fn fn, int drain)
{
    char text[4096];

    for (int i = 0; i < 16 || drain; i++) {
        ssize_t n = read(w->fd, text, sizeof(text));
        if (n > 0) {
            line_cutter_feed(c, BYTES(text, (size_t)n), fn, r);
            continue;
        }
        if (n == 0 || errno != EAGAIN) {
            ev_io_stop(shell_loop(r->sup->sh), w);
        }
        return;
    }
}

static void on_out(struct ev_loop *loop, ev_io *w, int events)
{
    struct run *r = w->data;

    (void)loop;
    (void)events;
    read_lines(r, w, &r->out_lines, on_out_line, 0);
}

static void on_log(struct ev_loop *loop, ev_io *w, int events)
{
    struct run *r = w->data;

    (void)loop;
    (void)events;
    read_lines(r, w, &r->log_lines, on_log_line, 0);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static int is_keeper(void *arg, pid_t pid)
{
    const struct supervisor *sup = arg;

    for (const struct run *r = sup->runs; r; r = r->next) {
        if (r->h.pid == pid && !r->ended) {
            return 1;
        }
    }
    return 0;
}

/* A keeper was killed, so its orphans became children of this process. */
static void end_orphans(struct run *r)
{
    char dir[1200];
    struct err e = {0};

    r->ended = 1; /* is_keeper must not name it */
    /* The loop reaps them later; until then the dead count as descendants, so the rounds are few.
     */
    for (int i = 0; i < ORPHAN_ROUNDS && kill_descendants(getpid(), is_keeper, r->sup) > 0; i++) {
        usleep(5000);
    }
    work_dir_of(r->sup, r->job, r->attempt, dir, sizeof(dir));
    if (remove_tree(dir, &e) < 0) {
        log_err(LOG_WARN, "cvm.left-over", &e);
    }
}

static void on_child(struct ev_loop *loop, ev_child *w, int events)
{
    struct run *r = w->data;
    int left = 0;

    (void)events;
    ev_child_stop(loop, w);
    r->exit_code = r->backend->reap(w->rstatus, &left);
    if (left) {
        end_orphans(r);
    }
    read_lines(r, &r->out, &r->out_lines, on_out_line, 1);
    read_lines(r, &r->log, &r->log_lines, on_log_line, 1);
    log_context(r->job, r->attempt);
    log_info("cvm.gone", "exit code %d, %llu lines dropped", r->exit_code,
             (unsigned long long)(r->out_rate.dropped + r->log_rate.dropped + r->out_lines.dropped +
                                  r->log_lines.dropped));
    log_context(NULL, 0);
    tell_gone(r);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
    struct run *r = w->data;

    (void)loop;
    (void)events;
    if (r->ended) {
        tell_gone(r);
        return;
    }
    /* A keeper of an earlier life that does not end: its tree first, then itself. */
    if (process_start(r->h.pid) == r->h.pid_start) {
        kill_descendants(r->h.pid, NULL, NULL);
        kill(r->h.pid, SIGKILL);
    }
}

static void on_pidfd(struct ev_loop *loop, ev_io *w, int events)
{
    struct run *r = w->data;
    char dir[1200];
    struct err e = {0};

    (void)events;
    ev_io_stop(loop, w);
    work_dir_of(r->sup, r->job, r->attempt, dir, sizeof(dir));
    if (remove_tree(dir, &e) < 0) {
        log_err(LOG_WARN, "cvm.left-over", &e);
    }
    tell_gone(r);
}

/* ---- actions --------------------------------------------------------------------------------- */

static struct run *run_find(struct supervisor *sup, const char *job, uint32_t attempt)
{
    for (struct run *r = sup->runs; r; r = r->next) {
        if (r->attempt == attempt && streq(r->job, job)) {
            return r;
        }
    }
    return NULL;
}

static struct run *run_new(struct supervisor *sup, const char *job, uint32_t attempt)
{
    struct run *r = xcalloc(1, sizeof(*r));

    r->sup = sup;
    snprintf(r->job, sizeof(r->job), "%s", job);
    r->attempt = attempt;
    r->h.out_fd = r->h.log_fd = -1;
    r->out_lines = LINE_CUTTER_INIT(LIFECYCLE_LINE_MAX);
    r->log_lines = LINE_CUTTER_INIT(LOG_LINE_MAX);
    ev_io_init(&r->out, on_out, -1, EV_READ);
    ev_io_init(&r->log, on_log, -1, EV_READ);
    ev_io_init(&r->pidfd, on_pidfd, -1, EV_READ);
    ev_child_init(&r->child, on_child, 0, 0);
    ev_timer_init(&r->timer, on_timer, 0, 0);
    ev_timer_init(&r->phase_timer, on_phase_timer, 0, 0);
    r->phase_timer.data = r;
    r->out.data = r->log.data = r->pidfd.data = r->child.data = r->timer.data = r;
    r->next = sup->runs;
    sup->runs = r;
    return r;
}

static int start(struct run *r, const Coffer__V1__LaunchCvm *l, struct err *e)
{
    struct supervisor *sup = r->sup;
    _cleanup_buf_ struct buf config = BUF_INIT(LAUNCH_CONFIG_MAX_BYTES);
    char dir[1200];

    r->backend = backend_find(l->backend);
    if (!r->backend) {
        return err_refuse(e, ERR_UNSUPPORTED, "backend", "one that this host has", "\"%.32s\"",
                          l->backend);
    }
    work_dir_of(sup, r->job, r->attempt, dir, sizeof(dir));
    if (remove_tree(dir, e) < 0) {
        return -1;
    }
    if (mkdir(dir, 0700) < 0) {
        return err_errno(e, "cannot make %s", dir);
    }
    if (launch_config_make(shell_config(sup->sh), l, r->backend->tee, dir, &config, e) < 0) {
        return -1;
    }
    struct backend_launch what = {
        .job = r->job, .attempt = r->attempt, .config = buf_bytes(&config), .work_dir = dir};
    return r->backend->launch(&sup->env, &what, &r->h, e);
}

static void watch(struct run *r)
{
    struct ev_loop *loop = shell_loop(r->sup->sh);

    ev_io_set(&r->out, r->h.out_fd, EV_READ);
    ev_io_set(&r->log, r->h.log_fd, EV_READ);
    ev_child_set(&r->child, r->h.pid, 0);
    ev_io_start(loop, &r->out);
    ev_io_start(loop, &r->log);
    ev_child_start(loop, &r->child);
}

static void act_launch(struct supervisor *sup, const Coffer__V1__LaunchCvm *l)
{
    struct backend_event failed = {.kind = BACKEND_FAILED}, started = {.kind = BACKEND_STARTED};
    Coffer__V1__Refusal refusal = COFFER__V1__REFUSAL__INIT;
    char dir[1200], boot[64];
    struct err why = {0}, e = {0};

    if (run_find(sup, l->job, l->attempt)) {
        return;
    }
    struct run *r = run_new(sup, l->job, l->attempt);
    log_context(r->job, r->attempt);
    if (start(r, l, &why) < 0) {
        log_err(LOG_WARN, "cvm.launch-failed", &why);
        log_context(NULL, 0);
        work_dir_of(sup, r->job, r->attempt, dir, sizeof(dir));
        if (remove_tree(dir, &e) < 0) {
            log_err(LOG_WARN, "cvm.left-over", &e);
        }
        refusal_from_err(&refusal, &why, SVC_LAUNCHER);
        failed.refusal = &refusal;
        if (tell(r, &failed) < 0) {
            r->exit_code = 1;
            tell_gone(r); /* again later, with less of a reason */
        } else {
            run_free(r);
        }
        return;
    }
    log_info("cvm.started", "backend %s, pid %d", r->backend->name, (int)r->h.pid);
    log_context(NULL, 0);
    watch(r);
    host_boot_id(boot);
    started.pid = r->h.pid;
    started.pid_start = r->h.pid_start;
    started.boot_id = boot;
    if (tell(r, &started) < 0) {
        r->backend->destroy(&r->h); /* what is not recorded must not run */
    }
}

/* The process that was recorded for a CVM, if it is still that one; as a pidfd, so that the number
 * cannot become another's. -1 when there is none. */
static int open_recorded(const struct cvm_process *p)
{
    char boot[64];

    host_boot_id(boot);
    if (!streq(boot, p->boot_id) || p->pid_start == 0) {
        return -1;
    }
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)p->pid, 0u);
    if (fd >= 0 && process_start((pid_t)p->pid) != p->pid_start) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A CVM of an earlier life of the launcher. Its keeper was told by the kernel that the launcher
 * died and is ending it; this waits for that, and helps when it does not. */
static void end_old(struct supervisor *sup, const char *job, uint32_t attempt)
{
    struct run *r = run_new(sup, job, attempt);
    struct ev_loop *loop = shell_loop(sup->sh);
    struct cvm_process p;
    struct err e = {0};
    int fd = -1;

    int known = launcher_cvm_process(engine_svc(shell_engine(sup->sh)), job, attempt, &p, &e);
    if (known < 0) {
        log_err(LOG_ERROR, "cvm.lookup-failed", &e);
    } else if (known) {
        fd = open_recorded(&p);
    }
    if (fd < 0) {
        on_pidfd(loop, &r->pidfd, 0);
        return;
    }
    log_context(job, attempt);
    log_warn("cvm.left-over", "ending pid %lld of an earlier run", (long long)p.pid);
    log_context(NULL, 0);
    r->h.pid = (pid_t)p.pid;
    r->h.pid_start = p.pid_start;
    syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0u);
    ev_io_set(&r->pidfd, fd, EV_READ);
    ev_io_start(loop, &r->pidfd);
    ev_timer_set(&r->timer, (double)sup->env.grace_ms / 1000.0 + 2.0, 2.0);
    ev_timer_start(loop, &r->timer);
}

static void act_destroy(struct supervisor *sup, const char *job, uint32_t attempt)
{
    struct run *r = run_find(sup, job, attempt);

    if (!r) {
        end_old(sup, job, attempt);
    } else if (r->backend && !r->ended) {
        r->backend->destroy(&r->h);
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
        .host = config_str(c, "host")};
    set_vm_options(sup, c);
    if (make_cvm_dir(sup, &e) < 0 || probe(sup, &e) < 0) {
        log_err(LOG_ERROR, "launcher.start", &e);
        return -1;
    }
    ev_timer_init(&sup->probe, on_probe, PROBE_EVERY_S, PROBE_EVERY_S);
    sup->probe.data = sup;
    ev_timer_start(shell_loop(sh), &sup->probe);
    return 0;
}

/* Nothing may run unwatched. The keepers end their CVMs; the next start reports them as lost. */
static void stopping(struct shell *sh)
{
    struct supervisor *sup = shell_priv(sh);

    for (struct run *r = sup ? sup->runs : NULL; r; r = r->next) {
        if (r->backend && !r->ended) {
            r->backend->destroy(&r->h);
        }
    }
}

const struct shell_hooks supervisor_hooks = {
    .about = "launches, watches and destroys the CVMs of one host",
    .act = act,
    .started = started,
    .stopping = stopping,
};
