#include "svc-launcher/launcher.h"

/* One function per subject, what the backend tells, and the tick. */

#define MAX_PHASES 64
#define DEADLINE_MAX_MS (8ll * 24 * 3600 * 1000)
/* Longer than any launch may be under way: a row that is forgotten would let it start again. */
#define KEEP_MS (DEADLINE_MAX_MS + 24ll * 3600 * 1000)
#define PRUNE_EVERY_MS 3600000
#define BATCH 64

const struct host_backend_facts *launcher_backend(struct svc *s, const char *name)
{
    const struct launcher *p = s->priv;

    for (size_t i = 0; i < p->facts.n_backends; i++) {
        if (streq(p->facts.backends[i].name, name)) {
            return &p->facts.backends[i];
        }
    }
    return NULL;
}

void launcher_set_facts(struct svc *s, const struct host_facts *f)
{
    struct launcher *p = s->priv;

    p->facts = *f;
    p->next_report_ms = 0; /* worth telling at once */
}

int launcher_cvm(struct svc *s, const char *job, uint32_t attempt, struct cvm *ret, struct err *e)
{
    int rc = store_cvm(s->db, job, attempt, ret, e);

    return rc > 0 && ret->state == CVM_GONE ? 0 : rc;
}

/* ---- launch ---------------------------------------------------------------------------------- */

static int check_address(struct svc *s, const struct msg *m, const char *job, uint32_t attempt,
                         struct err *e)
{
    if (!streq(m->key, config_str(s->config, "host"))) {
        return err_refuse(e, ERR_DENIED, "host", config_str(s->config, "host"), "\"%.64s\"",
                          m->key);
    }
    if (!job_id_valid(job)) {
        return err_refuse(e, ERR_INVALID, "job", "a job id", "\"%.60s\"", job);
    }
    if (attempt == 0) {
        return err_refuse(e, ERR_INVALID, "attempt", "1 or more", "0");
    }
    return 0;
}

/* Everything a launch can be refused for. */
static int check_launch(struct svc *s, const Coffer__V1__LaunchCvm *l, struct err *why,
                        struct err *e)
{
    const struct launcher *p = s->priv;
    const struct host_backend_facts *b = launcher_backend(s, l->backend);
    int64_t latest = 0, live = 0;

    if (store_cvm_latest(s->db, l->job, &latest, e) < 0 ||
        store_cvm_count_live(s->db, &live, e) < 0) {
        return -1;
    }
    if (latest > l->attempt) {
        err_refuse(why, ERR_STALE, "attempt", "no older attempt than the latest seen here",
                   "%u after %lld", l->attempt, (long long)latest);
    } else if (l->deadline_ms <= s->now_ms) {
        err_refuse(why, ERR_EXPIRED, "deadline_ms", "a deadline to come", "%lld ms ago",
                   (long long)(s->now_ms - l->deadline_ms));
    } else if (l->deadline_ms > s->now_ms + DEADLINE_MAX_MS) {
        err_refuse(why, ERR_INVALID, "deadline_ms", "at most 8 days ahead", "%lld ms",
                   (long long)(l->deadline_ms - s->now_ms));
    } else if (!l->spec_jws[0]) {
        err_refuse(why, ERR_INVALID, "spec_jws", "a signed spec", "none");
    } else if (!b) {
        err_refuse(why, ERR_UNSUPPORTED, "backend", "one that this host has", "\"%.32s\"",
                   l->backend);
    } else if (!b->available) {
        err_refuse(why, ERR_UNSUPPORTED, "backend", "an available one", "%s: %.180s", b->name,
                   b->why);
    } else if (live >= p->facts.slots) {
        err_refuse(why, ERR_BUSY, "slots", "a free slot", "%lld of %u in use", (long long)live,
                   p->facts.slots);
    }
    return 0;
}

/* What this host still has of older attempts of the job goes first. */
static int stop_older(struct svc *s, struct effects *fx, const char *job, uint32_t attempt,
                      struct err *e)
{
    struct cvm old[8];
    int n = store_cvms_of_job(s->db, job, attempt, old, ARRAY_LEN(old), e);

    for (int i = 0; i < n; i++) {
        if (cvm_transition(s, fx, &old[i], RUN_STOP, STOP_ASKED, 0, e) < 0) {
            return -1;
        }
    }
    return n < 0 ? -1 : 0;
}

static int handle_launch(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct err why = {0};
    struct cvm c;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__LaunchCvm *l = (const Coffer__V1__LaunchCvm *)pb;
    if (check_address(s, m, l->job, l->attempt, e) < 0) {
        return -1;
    }
    int known = store_cvm(s->db, l->job, l->attempt, &c, e);
    if (known < 0) {
        return -1;
    }
    if (known) { /* it is started once; what is gone stays gone */
        return c.state != CVM_GONE ? 0
                                   : cvm_tell(s, fx, &c, COFFER__V1__CVM_EVENT_KIND__CVM_DESTROYED,
                                              c.done ? "done" : "", 0, e);
    }
    if (check_launch(s, l, &why, e) < 0) {
        return -1;
    }
    memset(&c, 0, sizeof(c));
    snprintf(c.job, sizeof(c.job), "%s", l->job);
    snprintf(c.backend, sizeof(c.backend), "%s", l->backend);
    c.attempt = l->attempt;
    c.deadline_ms = c.due_ms = why.code ? 0 : l->deadline_ms;
    if (store_cvm_add(s->db, &c, s->now_ms, e) < 0) {
        return -1;
    }
    if (why.code) {
        cvm_set_reason_err(&c, &why);
        return cvm_transition(s, fx, &c, RUN_FAILED, STOP_NONE, 0, e);
    }
    if (stop_older(s, fx, c.job, c.attempt, e) < 0) {
        return -1;
    }
    fx_action(fx, LAUNCHER_ACT_LAUNCH, m->payload);
    return 0;
}

/* ---- destroy --------------------------------------------------------------------------------- */

static int handle_destroy(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    struct cvm c;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const Coffer__V1__DestroyCvm *d = (const Coffer__V1__DestroyCvm *)pb;
    if (check_address(s, m, d->job, d->attempt, e) < 0) {
        return -1;
    }
    int known = store_cvm(s->db, d->job, d->attempt, &c, e);
    if (known < 0) {
        return -1;
    }
    if (!known) { /* overtook its LaunchCvm, which must then find it gone */
        memset(&c, 0, sizeof(c));
        snprintf(c.job, sizeof(c.job), "%s", d->job);
        c.attempt = d->attempt;
        c.state = CVM_GONE;
        c.stop = STOP_ASKED;
        if (store_cvm_add(s->db, &c, s->now_ms, e) < 0) {
            return -1;
        }
    }
    switch (c.state) {
    case CVM_STARTING:
    case CVM_RUNNING:
        return cvm_transition(s, fx, &c, RUN_STOP, STOP_ASKED, 0, e);
    case CVM_STOPPING:
        return cvm_destroy_again(s, fx, &c, e);
    case CVM_GONE:
        return cvm_tell(s, fx, &c, COFFER__V1__CVM_EVENT_KIND__CVM_DESTROYED, c.done ? "done" : "",
                        0, e);
    case CVM_STATE_N:
        break;
    }
    return err_set(e, ERR_INTERNAL, "no such state");
}

/* ---- what the backend tells ------------------------------------------------------------------ */

static int phase_ok(const char *s)
{
    size_t n = strlen(s);

    return n >= 1 && n <= 32 && strspn(s, "abcdefghijklmnopqrstuvwxyz-") == n;
}

static int on_phase(struct svc *s, struct effects *fx, struct cvm *c, const char *detail,
                    struct err *e)
{
    if (cvm_transition(s, fx, c, RUN_BOOTED, STOP_NONE, 0, e) < 0) {
        return -1;
    }
    if (c->state != CVM_RUNNING || !phase_ok(detail) || c->n_phases >= MAX_PHASES) {
        return 0;
    }
    c->n_phases++;
    return cvm_tell(s, fx, c, COFFER__V1__CVM_EVENT_KIND__CVM_PHASE, detail, 0, e);
}

static int on_started(struct svc *s, struct cvm *c, const struct backend_event *ev, struct err *e)
{
    c->process.pid = ev->pid;
    c->process.pid_start = ev->pid_start;
    snprintf(c->process.boot_id, sizeof(c->process.boot_id), "%s", ev->boot_id ? ev->boot_id : "");
    return store_cvm_update(s->db, c, s->now_ms, e);
}

int launcher_on_backend_event(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    const struct backend_event *ev = arg;
    struct cvm c;

    int rc = store_cvm(s->db, ev->job, ev->attempt, &c, e);
    if (rc <= 0 || c.state == CVM_GONE) {
        return rc < 0 ? -1 : 0;
    }
    if (ev->seq > 0) {
        if (ev->seq <= c.seq) {
            return 0; /* said again, because the launcher died before it could acknowledge it */
        }
        c.seq = ev->seq;
        if (store_cvm_update(s->db, &c, s->now_ms, e) < 0) {
            return -1;
        }
    }
    switch (ev->kind) {
    case BACKEND_STARTED:
        return on_started(s, &c, ev, e);
    case BACKEND_BOOTED:
        return cvm_transition(s, fx, &c, RUN_BOOTED, STOP_NONE, 0, e);
    case BACKEND_PHASE:
        return on_phase(s, fx, &c, ev->detail ? ev->detail : "", e);
    case BACKEND_REFUSED:
        if (c.has_reason || c.done || !ev->refusal) {
            return 0; /* the first is the one that counts; with a result, none */
        }
        cvm_set_reason(&c, ev->refusal);
        return store_cvm_update(s->db, &c, s->now_ms, e);
    case BACKEND_DONE:
        c.done = 1;
        if (c.state == CVM_STARTING) {
            return cvm_transition(s, fx, &c, RUN_BOOTED, STOP_NONE, 0, e);
        }
        return store_cvm_update(s->db, &c, s->now_ms, e);
    case BACKEND_FAILED:
        if (!c.has_reason && ev->refusal) {
            cvm_set_reason(&c, ev->refusal);
        }
        return cvm_transition(s, fx, &c, RUN_FAILED, STOP_NONE, ev->exit_code, e);
    case BACKEND_GONE:
        return cvm_transition(s, fx, &c, RUN_ENDED, STOP_NONE, ev->exit_code, e);
    case BACKEND_LOST:
        c.stop = c.stop == STOP_NONE ? STOP_LOST : c.stop;
        return cvm_transition(s, fx, &c, RUN_ENDED, STOP_NONE, ev->exit_code, e);
    }
    return err_set(e, ERR_INTERNAL, "unknown backend event %d", (int)ev->kind);
}

/* ---- time ------------------------------------------------------------------------------------ */

static int report(struct svc *s, struct effects *fx, struct err *e)
{
    const struct launcher *p = s->priv;
    Coffer__V1__HostReport r = COFFER__V1__HOST_REPORT__INIT;
    Coffer__V1__BackendReport b[LAUNCHER_MAX_BACKENDS], *list[LAUNCHER_MAX_BACKENDS];
    int64_t live = 0;

    if (store_cvm_count_live(s->db, &live, e) < 0) {
        return -1;
    }
    r.host = (char *)config_str(s->config, "host");
    r.version = COFFER_VERSION;
    r.boot = (char *)p->boot;
    r.cpu_millis = p->facts.cpu_millis;
    r.memory_bytes = p->facts.memory_bytes;
    r.slots = p->facts.slots;
    r.running = (uint32_t)live;
    r.at_ms = s->now_ms;
    for (size_t i = 0; i < p->facts.n_backends; i++) {
        coffer__v1__backend_report__init(&b[i]);
        b[i].name = (char *)p->facts.backends[i].name;
        b[i].tee = (char *)p->facts.backends[i].tee;
        b[i].available = p->facts.backends[i].available;
        b[i].why = (char *)p->facts.backends[i].why;
        list[i] = &b[i];
    }
    r.backends = list;
    r.n_backends = p->facts.n_backends;
    return fx_publish(fx, SUBJ_HOST_REPORT, r.host, "", &r.base, e);
}

static int due(struct svc *s, struct effects *fx, struct err *e)
{
    struct cvm v[BATCH];
    int n = store_cvms_due(s->db, s->now_ms, v, BATCH, e);

    for (int i = 0; i < n; i++) {
        int rc = v[i].state == CVM_STOPPING
                     ? cvm_destroy_again(s, fx, &v[i], e)
                     : cvm_transition(s, fx, &v[i], RUN_STOP, STOP_DEADLINE, 0, e);
        if (rc < 0) {
            return -1;
        }
    }
    return n < 0 ? -1 : 0;
}

static int tick(struct svc *s, struct effects *fx, struct err *e)
{
    struct launcher *p = s->priv;

    if (due(s, fx, e) < 0) {
        return -1;
    }
    if (s->now_ms >= p->next_report_ms) {
        if (report(s, fx, e) < 0) {
            return -1;
        }
        p->next_report_ms = s->now_ms + config_int(s->config, "report-interval-ms");
    }
    if (s->now_ms >= p->next_prune_ms) {
        if (store_cvm_prune(s->db, s->now_ms - KEEP_MS, e) < 0) {
            return -1;
        }
        p->next_prune_ms = s->now_ms + PRUNE_EVERY_MS;
    }
    return 0;
}

static int64_t next_tick_ms(struct svc *s)
{
    const struct launcher *p = s->priv;
    int64_t at = INT64_MAX;
    struct err e;

    if (store_cvm_min_due(s->db, &at, &e) < 0) {
        return s->now_ms; /* the tick will fail alike, and tell */
    }
    return at < p->next_report_ms ? at : p->next_report_ms;
}

/* ---- the service ----------------------------------------------------------------------------- */

static int each_live(struct svc *s, struct effects *fx,
                     int (*fn)(struct svc *, struct effects *, struct cvm *, struct err *),
                     struct err *e)
{
    struct cvm v[BATCH];
    int64_t after = 0;
    int n;

    while ((n = store_cvms_live(s->db, after, v, BATCH, e)) > 0) {
        for (int i = 0; i < n; i++) {
            if (fn(s, fx, &v[i], e) < 0) {
                return -1;
            }
        }
        after = v[n - 1].id;
    }
    return n;
}

static int resume_one(struct svc *s, struct effects *fx, struct cvm *c, struct err *e)
{
    if (c->state == CVM_STOPPING) {
        return cvm_destroy_again(s, fx, c, e);
    }
    cvm_adopt(fx, c);
    return 0;
}

/* The launcher ended, somehow, and came back: its CVMs may have gone on. */
static int resume(struct svc *s, struct effects *fx, struct err *e)
{
    return each_live(s, fx, resume_one, e);
}

static int stop_one(struct svc *s, struct effects *fx, struct cvm *c, struct err *e)
{
    return cvm_transition(s, fx, c, RUN_STOP, STOP_LOST, 0, e);
}

int launcher_stop_all(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)arg;
    return each_live(s, fx, stop_one, e);
}

static int check_config(const struct svc *s, struct err *e)
{
    const char *on_stop = config_str(s->config, "on-stop");

    return streq(on_stop, "destroy") || streq(on_stop, "keep")
               ? 0
               : err_refuse(e, ERR_INVALID, "on-stop", "destroy or keep", "\"%.32s\"", on_stop);
}

static int open_launcher(struct svc *s, struct err *e)
{
    char subject[256];

    if (subject_format(SUBJ_HOST_REPORT, config_str(s->config, "host"), subject, sizeof(subject)) <
        0) {
        return err_set(e, ERR_INVALID, "host: expected 1..64 of [A-Za-z0-9_-], got \"%.80s\"",
                       config_str(s->config, "host"));
    }
    if (check_config(s, e) < 0) {
        return -1;
    }
    struct launcher *p = xcalloc(1, sizeof(*p));
    snprintf(p->boot, sizeof(p->boot), "%llx", (unsigned long long)s->now_ms);
    s->priv = p;
    return 0;
}

static void close_launcher(struct svc *s)
{
    free(s->priv);
    s->priv = NULL;
}

static const struct config_item items[] = {
    {.name = "backends",
     .type = CONFIG_STR,
     .dflt = "process",
     .help = "backends that may be used, separated by commas"},
    {.name = "slots",
     .type = CONFIG_INT,
     .dflt = "0",
     .min = 0,
     .max = 4096,
     .help = "CVMs at once; 0: one per CPU"},
    {.name = "cpu-millis",
     .type = CONFIG_INT,
     .dflt = "0",
     .min = 0,
     .max = 4000000,
     .help = "CPU to offer in thousandths; 0: what the host has"},
    {.name = "memory-bytes",
     .type = CONFIG_INT,
     .dflt = "0",
     .min = 0,
     .max = 1ll << 50,
     .help = "memory to offer; 0: what the host has"},
    {.name = "store",
     .type = CONFIG_PATH,
     .dflt = "/var/lib/coffer/store",
     .help = "directory of image blobs and sealed datasets"},
    {.name = "worker",
     .type = CONFIG_PATH,
     .dflt = "/usr/bin/svc-worker",
     .help = "program of the process backend"},
    {.name = "worker-nats-url",
     .type = CONFIG_STR,
     .dflt = "",
     .help = "nats-server as the worker reaches it; \"\": nats-url"},
    {.name = "worker-nats-seed",
     .type = CONFIG_PATH,
     .dflt = "/etc/coffer/worker.seed",
     .help = "file with the workers' nkey seed (mode 0600)"},
    {.name = "guest-image",
     .type = CONFIG_PATH,
     .dflt = "/usr/lib/coffer/guest",
     .help = "directory of the measured image: coffer.efi, OVMF.fd"},
    {.name = "tpm-ca",
     .type = CONFIG_STR,
     .dflt = "",
     .help = "directory of the CA of virtual TPMs; \"\": tpm-ca in data-dir"},
    {.name = "vm-qemu",
     .type = CONFIG_PATH,
     .dflt = "/usr/bin/qemu-system-x86_64",
     .help = "QEMU, below /usr"},
    {.name = "vm-swtpm",
     .type = CONFIG_PATH,
     .dflt = "/usr/bin/swtpm",
     .help = "swtpm, below /usr; swtpm_setup and swtpm_localca beside it"},
    {.name = "vm-accel",
     .type = CONFIG_STR,
     .dflt = "auto",
     .help = "of vtpm VMs: kvm, tcg, or auto: kvm where it works"},
    {.name = "vm-overhead-bytes",
     .type = CONFIG_INT,
     .dflt = "167772160",
     .min = 64 << 20,
     .max = 1ll << 40,
     .help = "memory of a VM besides what its job asks for"},
    {.name = "vm-hang-ms",
     .type = CONFIG_INT,
     .dflt = "60000",
     .min = 15000,
     .max = 3600000,
     .help = "without a sign of life for so long a VM is ended"},
    {.name = "vm-cpus",
     .type = CONFIG_STR,
     .dflt = "",
     .help = "CPUs that VMs run on, as 0-3,8; \"\": any"},
    {.name = "vm-numa-node",
     .type = CONFIG_INT,
     .dflt = "-1",
     .min = -1,
     .max = 1023,
     .help = "NUMA node of the VMs' memory; -1: any"},
    {.name = "vm-hugepages",
     .type = CONFIG_BOOL,
     .dflt = "false",
     .help = "VMs' memory in huge pages"},
    {.name = "vm-lock-memory",
     .type = CONFIG_BOOL,
     .dflt = "false",
     .help = "VMs' memory is locked"},
    {.name = "vm-scratch-max-bytes",
     .type = CONFIG_INT,
     .dflt = "68719476736",
     .min = 0,
     .max = 1ll << 40,
     .help = "scratch of a VM at most; 0: none"},
    {.name = "vm-quote-socket",
     .type = CONFIG_STR,
     .dflt = "",
     .help = "unix socket of the quoting service for TDX; \"\": none"},
    {.name = "no-container",
     .type = CONFIG_BOOL,
     .dflt = "false",
     .help = "benchmarks: workers run no container"},
    {.name = "stop-grace-ms",
     .type = CONFIG_INT,
     .dflt = "3000",
     .min = 0,
     .max = 60000,
     .help = "between SIGTERM and SIGKILL"},
    {.name = "orphan-ms",
     .type = CONFIG_INT,
     .dflt = "60000",
     .min = 0,
     .max = 3600000,
     .help = "so long CVMs go on without a launcher"},
    {.name = "on-stop",
     .type = CONFIG_STR,
     .dflt = "destroy",
     .help = "what SIGTERM does with the CVMs: destroy, or keep for the next start"},
    {.name = "report-interval-ms",
     .type = CONFIG_INT,
     .dflt = "5000",
     .min = 100,
     .max = 60000,
     .help = "between two host reports"},
};

static const struct handler handlers[] = {
    {SUBJ_CVM_LAUNCH, handle_launch},
    {SUBJ_CVM_DESTROY, handle_destroy},
};

const struct service_def launcher_service = {
    .id = SVC_LAUNCHER,
    .migrations = launcher_migrations,
    .n_migrations = LAUNCHER_N_MIGRATIONS,
    .handlers = handlers,
    .n_handlers = ARRAY_LEN(handlers),
    .open = open_launcher,
    .close = close_launcher,
    .resume = resume,
    .tick = tick,
    .next_tick_ms = next_tick_ms,
    .config = items,
    .n_config = ARRAY_LEN(items),
};
