/* Time, events, chance, trace, violations, and the run itself. */
#include <inttypes.h>
#include <stdarg.h>

#include "tests/sim/sim.h"

#define X(id, name, what) [BREAK_##id] = name,
const char *const break_names[BREAK_N] = {SIM_BREAKS(X)};
#undef X
#define X(id, name, what) [BREAK_##id] = what,
const char *const break_texts[BREAK_N] = {SIM_BREAKS(X)};
#undef X

const char *const count_names[COUNT_N] = {
    [COUNT_MESSAGES] = "messages",     [COUNT_CRASHES] = "crashes",
    [COUNT_ATTEMPTS] = "CVMs",         [COUNT_RELEASES] = "releases",
    [COUNT_ATTACKS] = "attacks",       [COUNT_DEAD] = "dead letters",
    [COUNT_RELEASED] = "released",     [COUNT_HELD] = "held",
    [COUNT_OTHER_END] = "other ends",  [COUNT_JOBS] = "jobs",
    [COUNT_OPENED] = "opened outputs", [COUNT_STALE] = "decisions about an old attempt",
    [COUNT_DISK] = "failed commits",
};

/* ---- chance ---------------------------------------------------------------------------------- */

uint64_t sim_random(struct sim *s, uint64_t below)
{
    uint64_t z = (s->rng += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return below ? z % below : 0;
}

int64_t sim_between(struct sim *s, int64_t from, int64_t to)
{
    return from + (int64_t)sim_random(s, (uint64_t)(to - from + 1));
}

int sim_faulty(const struct sim *s)
{
    return !s->quiet && s->now < s->f.until_ms;
}

int sim_chance(struct sim *s, unsigned per_mille)
{
    return per_mille && sim_faulty(s) && sim_random(s, 1000) < per_mille;
}

/* ---- trace ----------------------------------------------------------------------------------- */

void sim_trace(struct sim *s, const char *who, const char *fmt, ...)
{
    char text[600], line[700];
    va_list ap;
    int64_t ms = s->now - SIM_START_S * 1000;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    int n = snprintf(line, sizeof(line), "%6" PRId64 ".%03" PRId64 "  %-12s %s", ms / 1000,
                     ms % 1000, who, text);
    for (int i = 0; i < n && i < (int)sizeof(line) - 1; i++) {
        s->hash = (s->hash ^ (uint8_t)line[i]) * 1099511628211u;
    }
    if (s->trace) {
        puts(line);
    }
    char **slot = &s->lines[s->n_lines++ % ARRAY_LEN(s->lines)];
    free(*slot);
    *slot = xstrdup(line);
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(s->violation, sizeof(s->violation), fmt, ap);
    va_end(ap);
    sim_trace(s, "VIOLATION", "%s", s->violation);
    longjmp(s->stop, 1);
}

/* ---- events ---------------------------------------------------------------------------------- */

static int before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

void sim_at(struct sim *s, int64_t at, event_fn_ fn, void *arg, int64_t n)
{
    if (s->n_heap == s->size_heap) {
        s->size_heap = s->size_heap ? s->size_heap * 2 : 256;
        s->heap = xrealloc(s->heap, s->size_heap * sizeof(*s->heap));
    }
    struct event ev = {.at = at < s->now ? s->now : at, .seq = s->event_seq++, fn, arg, n};
    size_t i = s->n_heap++;
    while (i && before(&ev, &s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = ev;
}

static struct event pop(struct sim *s)
{
    struct event top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;

    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= s->n_heap) {
            break;
        }
        if (k + 1 < s->n_heap && before(&s->heap[k + 1], &s->heap[k])) {
            k++;
        }
        if (!before(&s->heap[k], &last)) {
            break;
        }
        s->heap[i] = s->heap[k];
        i = k;
    }
    if (s->n_heap) {
        s->heap[i] = last;
    }
    return top;
}

/* ---- faults that come by time ---------------------------------------------------------------- */

static struct node *any_service(struct sim *s)
{
    struct node *all[SIM_NODES] = {s->scheduler, s->verifier, s->kbs, s->gate};

    for (size_t i = 0; i < SIM_HOSTS; i++) {
        all[4 + i] = s->hosts[i];
    }
    return all[sim_random(s, SIM_NODES)];
}

/* Server and services; the hosts are elsewhere. */
static void power_loss(struct sim *s)
{
    struct node *all[] = {s->scheduler, s->verifier, s->kbs, s->gate};

    bus_power_loss(s);
    bus_restart(s);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i]->engine) {
            node_crash(all[i], "with the power");
        }
    }
}

static void each_second(struct sim *s, void *arg, int64_t n)
{
    (void)arg;
    if (!sim_faulty(s)) {
        return;
    }
    if (sim_random(s, 60000) < s->f.server) {
        bus_restart(s);
    }
    if (sim_random(s, 60000) < s->f.power) {
        power_loss(s);
    }
    if (sim_random(s, 60000) < s->f.jump) {
        struct node *who = any_service(s);
        who->skew_ms += sim_between(s, 1000, sim_random(s, 4) ? 30000 : 400000);
        sim_trace(s, who->name, "fault: its clock jumps to +%" PRId64 " ms", who->skew_ms);
    }
    if (sim_random(s, 60000) < s->f.cut) {
        struct node *who = sim_random(s, 2) ? any_service(s) : s->hosts[sim_random(s, SIM_HOSTS)];
        who->cut_until_ms = s->now + sim_between(s, 1000, 60000);
        sim_trace(s, who->name, "fault: cut off from the bus for %" PRId64 " ms",
                  who->cut_until_ms - s->now);
    }
    if (s->f.crash && sim_random(s, 60) == 0) {
        struct node *who = any_service(s);
        if (who->engine) {
            node_crash(who, "while idle");
        }
    }
    sim_in(s, 1000, each_second, NULL, n);
}

/* Swarm testing: each kind of fault is absent, rare or frequent, independently. */
static unsigned pick_rate(struct sim *s, unsigned rare, unsigned frequent)
{
    switch (sim_random(s, 4)) {
    case 0:
    case 1:
        return 0;
    case 2:
        return rare;
    }
    return frequent;
}

static void pick_faults(struct sim *s)
{
    struct faults *f = &s->f;

    s->quiet = s->seed % 16 == 0;
    f->crash = pick_rate(s, 5, 40);
    f->lose_core = pick_rate(s, 30, 300);
    f->lose_publish = pick_rate(s, 10, 150);
    f->lose_puback = pick_rate(s, 10, 200);
    f->lose_delivery = pick_rate(s, 10, 80);
    f->lose_ack = pick_rate(s, 10, 150);
    f->duplicate = pick_rate(s, 20, 250);
    f->reorder = pick_rate(s, 50, 400);
    f->launch = pick_rate(s, 50, 300);
    f->server = pick_rate(s, 300, 3000);
    f->jump = pick_rate(s, 200, 2000);
    f->attack = pick_rate(s, 100, 1000);
    f->cut = pick_rate(s, 1000, 6000);
    f->power = pick_rate(s, 200, 1500);
    f->disk = pick_rate(s, 5, 40);
    f->until_ms = s->now + (s->quiet ? 31000 : sim_between(s, 40000, 150000));
}

/* ---- the run --------------------------------------------------------------------------------- */

static void open_all(struct sim *s)
{
    extern const struct service_def scheduler_service, verifier_service, kbs_service, gate_service;
    struct config **c = world.config, *kbs = c[SVC_KBS];

    if (s->brk == BREAK_TRUST) {
        kbs = world.broken_config[SVC_KBS];
    }
    s->scheduler =
        node_open(s, SVC_SCHEDULER, "scheduler", NULL, &scheduler_service, c[SVC_SCHEDULER]);
    s->verifier = node_open(s, SVC_VERIFIER, "verifier", NULL, &verifier_service, c[SVC_VERIFIER]);
    s->kbs = node_open(s, SVC_KBS, "kbs", NULL, &kbs_service, kbs);
    s->gate = node_open(s, SVC_GATE, "gate", NULL, &gate_service, c[SVC_GATE]);
    for (size_t i = 0; i < SIM_HOSTS; i++) {
        s->hosts[i] = node_open(s, SVC_LAUNCHER, host_names[i], host_names[i], &launcher_service,
                                world.host_config[i]);
    }
    node_start(s->verifier);
    node_start(s->kbs);
    node_start(s->gate);
    node_start(s->scheduler);
    for (size_t i = 0; i < SIM_HOSTS; i++) {
        node_start(s->hosts[i]);
    }
}

static void loop(struct sim *s)
{
    int64_t last = 0;

    while (s->n_heap) {
        struct event ev = pop(s);
        s->now = ev.at;
        if (!last && s->now >= s->f.until_ms) {
            last = s->f.until_ms + SIM_MAX_MS;
            sim_trace(s, "sim", "faults end");
        }
        if (last && s->now >= last) {
            check_end(s); /* says what is stuck */
            return;
        }
        if (++s->events > SIM_MAX_EVENTS) {
            sim_fail(s, "stuck: %d events and no end", SIM_MAX_EVENTS);
        }
        ev.fn(s, ev.arg, ev.n);
        if (s->now >= s->f.until_ms && check_settled(s)) {
            break;
        }
    }
    check_end(s);
}

int sim_run(struct sim *s)
{
    s->rng = s->seed * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
    s->hash = 14695981039346656037u;
    s->now = SIM_START_S * 1000;
    random_seed(s->seed);
    pick_faults(s);
    if (setjmp(s->stop)) {
        return -1;
    }
    sim_trace(s, "sim", "seed %" PRIu64 "%s", s->seed, s->quiet ? ", quiet" : "");
    open_all(s);
    client_plan(s);
    if (!s->quiet) {
        sim_in(s, 1000, each_second, NULL, 0);
        attack_start(s);
    }
    loop(s);
    return 0;
}

void sim_free(struct sim *s)
{
    struct node *services[] = {s->scheduler, s->verifier, s->kbs, s->gate};

    for (size_t i = 0; i < s->n_heap; i++) {
        bus_drop(&s->heap[i]);
        host_drop(&s->heap[i]);
    }
    for (size_t i = 0; i < s->n_cvms; i++) {
        cvm_kill(s->cvms[i], NULL);
        cvm_forget(s->cvms[i]);
        free(s->cvms[i]->spec_jws);
        free(s->cvms[i]);
    }
    for (size_t i = 0; i < s->n_workers; i++) {
        node_free(s->workers[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(services); i++) {
        node_free(services[i]);
    }
    for (size_t i = 0; i < SIM_HOSTS; i++) {
        node_free(s->hosts[i]);
    }
    for (size_t i = 0; i < s->n_jobs; i++) {
        free(s->jobs[i].jws);
    }
    for (size_t i = 0; i < ARRAY_LEN(s->lines); i++) {
        free(s->lines[i]);
    }
    bus_done(s);
    free(s->releases);
    free(s->verdicts);
    free(s->heap);
    free(s);
}
