/* Jobs through the whole pipeline, and the floor under it: see bench/README.md. */
#include <getopt.h>
#include <signal.h>

#include "bench/floor.h"
#include "bench/work.h"

#define OUTSTANDING 512
#define STALL_S 60.0

struct options {
    size_t jobs, outstanding, reps;
    double seconds, rate;
    int quick, profile, no_floor;
};

/* One run of tickets; the marks are taken when 10 % and 90 % have ended. */
struct mark {
    double at_s, cpu_s[ROLE_N], nats_cpu_s;
    struct counts counts[ROLE_N];
    size_t ended;
};

struct run {
    struct stack *stack;
    struct bus *bus;
    struct ev_loop *loop;
    struct job_ticket *tickets;
    size_t n, sent, ended, decided, outstanding;
    uint32_t *index; /* by job, open addressing */
    size_t n_index;
    double rate; /* 0: as fast as `outstanding` allows */
    double start_s, progress_s;
    ev_timer pace;
    ev_prepare feed;
    struct mark from, to;
    size_t mark_from, mark_to;
    void (*on_mark)(struct run *r, int end);
};

/* ---- tickets by job ----------------------------------------------------------------------------
 */

static uint32_t hash(const char *job)
{
    uint32_t h = 2166136261u;

    while (*job) {
        h = (h ^ (uint8_t)*job++) * 16777619u;
    }
    return h;
}

static void index_make(struct run *r)
{
    r->n_index = r->n * 2 + 1;
    r->index = xcalloc(r->n_index, sizeof(*r->index));
    for (size_t i = 0; i < r->n; i++) {
        size_t at = hash(r->tickets[i].job) % r->n_index;
        while (r->index[at]) {
            at = (at + 1) % r->n_index;
        }
        r->index[at] = (uint32_t)i + 1;
    }
}

static struct job_ticket *ticket(const struct run *r, const char *job)
{
    for (size_t at = hash(job) % r->n_index; r->index[at]; at = (at + 1) % r->n_index) {
        if (streq(r->tickets[r->index[at] - 1].job, job)) {
            return &r->tickets[r->index[at] - 1];
        }
    }
    return NULL;
}

/* ---- measuring ---------------------------------------------------------------------------------
 */

static void take_mark(struct run *r, struct mark *m)
{
    m->at_s = now_s();
    m->ended = r->ended;
    m->nats_cpu_s = process_cpu_s(r->stack->nats);
    for (int i = 0; i < ROLE_N; i++) {
        m->cpu_s[i] = process_cpu_s(r->stack->role[i]);
        m->counts[i] = r->stack->counts->role[i];
    }
}

static void on_end(struct run *r, struct job_ticket *t, const Coffer__V1__JobEvent *ev)
{
    if (!streq(ev->state, "released")) {
        fprintf(stderr, "%s: %s\n", ev->job, ev->reason ? ev->reason->message : "");
        bench_fail("a job did not end released", ev->state);
    }
    t->ended_s = now_s();
    r->ended++;
    r->progress_s = t->ended_s;
    if (r->ended == r->mark_from) {
        take_mark(r, &r->from);
        if (r->on_mark) {
            r->on_mark(r, 0);
        }
    }
    if (r->ended == r->mark_to) {
        take_mark(r, &r->to);
        if (r->on_mark) {
            r->on_mark(r, 1);
        }
    }
    if (r->ended == r->n) {
        ev_break(r->loop, EVBREAK_ALL);
    }
}

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    _cleanup_(bus_msg_freep) struct bus_msg *owned = m;
    struct run *r = *(struct run **)arg;
    struct job_ticket *t = r ? ticket(r, owned->m.key) : NULL;

    (void)b;
    if (!t) {
        return;
    }
    if (m->m.subject == SUBJ_GATE_DECISION) {
        if (t->decided_s == 0) {
            t->decided_s = now_s();
            r->decided++;
        }
        return;
    }
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    MUST(msg_unpack(&m->m, &pb, e));
    const Coffer__V1__JobEvent *ev = (const Coffer__V1__JobEvent *)pb;
    if (ev->terminal && t->ended_s == 0) {
        on_end(r, t, ev);
    }
}

static void on_event(struct bus *b, enum bus_event ev, const struct err *why, void *arg)
{
    (void)b;
    (void)arg;
    if (ev != BUS_CONNECTED) {
        fprintf(stderr, "bench: %s: %s\n", bus_event_name(ev), why ? why->msg : "");
    }
}

/* ---- submitting --------------------------------------------------------------------------------
 */

static void submit(struct run *r)
{
    struct job_ticket *t = &r->tickets[r->sent];
    Coffer__V1__ScheduleJob m = COFFER__V1__SCHEDULE_JOB__INIT;
    char id[64];

    m.spec_jws = t->spec_jws;
    snprintf(id, sizeof(id), "%s.schedule", t->job);
    t->sent_s = now_s();
    MUST(bus_send(r->bus, SUBJ_JOB_SCHEDULE, "", id, &m.base, NULL, (int64_t)++r->sent, e));
}

static void on_feed(struct ev_loop *loop, ev_prepare *w, int revents)
{
    struct run *r = w->data;

    (void)loop;
    (void)revents;
    while (r->sent < r->n && r->sent - r->ended < r->outstanding && bus_room(r->bus) > 0) {
        submit(r);
    }
}

static void on_pace(struct ev_loop *loop, ev_timer *w, int revents)
{
    struct run *r = w->data;

    (void)loop;
    (void)revents;
    if (now_s() - r->progress_s > STALL_S) {
        fprintf(stderr, "%zu sent, %zu decided, %zu ended\n", r->sent, r->decided, r->ended);
        bench_fail("pipeline", "no job ended for a minute");
    }
    stack_check(r->stack);
    if (r->rate <= 0) {
        ev_timer_set(w, 1.0, 0);
        ev_timer_start(r->loop, w);
        return;
    }
    while (r->sent < r->n && now_s() >= r->start_s + (double)r->sent / r->rate) {
        submit(r);
    }
    double next = r->start_s + (double)r->sent / r->rate - now_s();
    ev_now_update(r->loop);
    ev_timer_set(w, r->sent == r->n ? 1.0 : next > 0 ? next : 0.0, 0);
    ev_timer_start(r->loop, w);
}

static struct run *current; /* what the bus's callbacks work for */

static void run_jobs(struct run *r)
{
    index_make(r);
    r->mark_from = r->n / 10 ? r->n / 10 : 1;
    r->mark_to = r->n - r->n / 10;
    current = r;
    r->start_s = r->progress_s = now_s();
    ev_timer_init(&r->pace, on_pace, 0, 0);
    r->pace.data = r;
    ev_timer_start(r->loop, &r->pace);
    ev_prepare_init(&r->feed, on_feed);
    r->feed.data = r;
    if (r->rate <= 0) {
        ev_prepare_start(r->loop, &r->feed);
    }
    ev_run(r->loop, 0);
    ev_timer_stop(r->loop, &r->pace);
    ev_prepare_stop(r->loop, &r->feed);
    current = NULL;
    free(r->index);
}

/* ---- reports -----------------------------------------------------------------------------------
 */

struct session {
    struct options o;
    struct stack *stack;
    struct bus *bus;
    struct work work;
};

static struct run run_of(struct session *s, size_t n)
{
    return (struct run){.stack = s->stack,
                        .bus = s->bus,
                        .loop = EV_DEFAULT,
                        .tickets = work_sign(&s->work, n),
                        .n = n,
                        .outstanding = s->o.outstanding};
}

static void print_cpu(const struct run *r)
{
    double jobs = (double)(r->to.ended - r->from.ended);
    double total = r->to.nats_cpu_s - r->from.nats_cpu_s;

    printf("  CPU per job:");
    printf(" nats-server %.0f us", total / jobs * 1e6);
    for (int i = 0; i < ROLE_N; i++) {
        double cpu = r->to.cpu_s[i] - r->from.cpu_s[i];
        total += cpu;
        printf(", %s %.0f", role_name((enum role)i), cpu / jobs * 1e6);
    }
    printf("; all %.0f us, %.2f cores used\n", total / jobs * 1e6,
           total / (r->to.at_s - r->from.at_s));
}

static void print_counts(const struct floor_load *l)
{
    static const char *const names[OP_N] = {"sign", "verify",  "ecdh", "keygen", "import",
                                            "SQL",  "commits", "rows", "core"};
    printf("  per job %-10s", "");
    for (int k = 0; k < OP_N; k++) {
        printf(" %8s", names[k]);
    }
    printf(" %8s %8s\n", "durable", "bytes");
    for (int i = 0; i < ROLE_N; i++) {
        const struct counts *c = &l->role[i];
        uint64_t n = 0, bytes = 0;
        for (int f = 0; f < FLOW_N; f++) {
            n += c->flow_n[f];
            bytes += c->flow_bytes[f];
        }
        printf("  %-18s", role_name((enum role)i));
        for (int k = 0; k < OP_N; k++) {
            printf(" %8.2f", (double)c->op[k] / l->jobs);
        }
        printf(" %8.2f %8.0f\n", (double)n / l->jobs, (double)bytes / l->jobs);
    }
}

static void subtract(struct counts *ret, const struct counts *a, const struct counts *b)
{
    for (int k = 0; k < OP_N; k++) {
        ret->op[k] = a->op[k] - b->op[k];
    }
    for (int f = 0; f < FLOW_N; f++) {
        ret->flow_n[f] = a->flow_n[f] - b->flow_n[f];
        ret->flow_bytes[f] = a->flow_bytes[f] - b->flow_bytes[f];
    }
}

/* ---- perf --------------------------------------------------------------------------------------
 */

static pid_t perf_pid;
static char perf_file[128];

static void profile_mark(struct run *r, int end)
{
    char pids[256] = "";
    size_t n = 0;

    if (end) {
        kill_and_wait(perf_pid, SIGINT);
        return;
    }
    snprintf(perf_file, sizeof(perf_file), "%s/perf.data", r->stack->dir);
    n += (size_t)snprintf(pids, sizeof(pids), "%d", (int)r->stack->nats);
    for (int i = 0; i < ROLE_CLIENT; i++) {
        n += (size_t)snprintf(pids + n, sizeof(pids) - n, ",%d", (int)r->stack->role[i]);
    }
    fflush(stdout);
    perf_pid = fork();
    if (perf_pid == 0) {
        execlp("perf", "perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g", "-o",
               perf_file, "-p", pids, (char *)NULL);
        _exit(127);
    }
}

static void profile_report(const struct stack *s)
{
    _cleanup_free_ char *by_dso =
        xasprintf("perf report -i %s/perf.data --no-children -g none --stdio --percent-limit 0.7 "
                  "--sort comm,dso 2>/dev/null | grep -v '^#' | grep -v '^$'",
                  s->dir);
    _cleanup_free_ char *keep = xasprintf("cp %s/perf.data bench-perf.data", s->dir);

    printf("where the time goes (samples by process and library):\n");
    fflush(stdout);
    if (system(by_dso) != 0 || system(keep) != 0) {
        printf("  (perf does not work here)\n");
    }
}

/* ---- the measurements --------------------------------------------------------------------------
 */

static double saturate(struct session *s, struct floor_load *ret, int profile)
{
    struct run r = run_of(s, s->o.jobs);

    r.on_mark = profile ? profile_mark : NULL;
    run_jobs(&r);
    double jobs = (double)(r.to.ended - r.from.ended), took = r.to.at_s - r.from.at_s;
    ret->jobs = jobs;
    for (int i = 0; i < ROLE_N; i++) {
        subtract(&ret->role[i], &r.to.counts[i], &r.from.counts[i]);
    }
    /* This process is not preloaded; it does one thing. */
    ret->role[ROLE_CLIENT].flow_n[FLOW_SCHEDULE] = (uint64_t)jobs;
    ret->role[ROLE_CLIENT].flow_bytes[FLOW_SCHEDULE] =
        (uint64_t)jobs * (strlen(r.tickets[0].spec_jws) + 4);
    printf("saturated, %zu outstanding: %.0f jobs/s (%zu jobs, all released)\n", s->o.outstanding,
           jobs / took, r.ended);
    print_cpu(&r);
    fflush(stdout);
    work_tickets_free(r.tickets, r.n);
    return jobs / took;
}

static void pace(struct session *s)
{
    size_t n = (size_t)(s->o.rate * s->o.seconds);
    struct run r = run_of(s, n ? n : 1);

    r.rate = s->o.rate;
    run_jobs(&r);
    double *ended = xcalloc(r.n, sizeof(double)), *decided = xcalloc(r.n, sizeof(double));
    size_t n_decided = 0;
    for (size_t i = 0; i < r.n; i++) {
        const struct job_ticket *t = &r.tickets[i];
        ended[i] = (t->ended_s - t->sent_s) * 1e3;
        if (t->decided_s > 0) {
            decided[n_decided++] = (t->decided_s - t->sent_s) * 1e3;
        }
    }
    qsort(ended, r.n, sizeof(double), by_double);
    qsort(decided, n_decided, sizeof(double), by_double);
    printf("paced at %.0f jobs/s (%zu jobs): submit to decision p50 %.1f ms, p99 %.1f ms, max "
           "%.1f ms; to the job's last event p50 %.1f ms, p99 %.1f ms\n",
           s->o.rate, r.n, percentile(decided, n_decided, 0.5),
           percentile(decided, n_decided, 0.99), percentile(decided, n_decided, 1),
           percentile(ended, r.n, 0.5), percentile(ended, r.n, 0.99));
    print_cpu(&r);
    fflush(stdout);
    free(ended);
    free(decided);
    work_tickets_free(r.tickets, r.n);
}

static void measure(struct session *s)
{
    double *rates = xcalloc(s->o.reps, sizeof(double)),
           *floors = xcalloc(s->o.reps, sizeof(double));
    double *ratios = xcalloc(s->o.reps, sizeof(double));
    struct floor_load load = {0};

    printf("Specs are signed before the clock starts; everything else is counted.\n");
    for (size_t i = 0; i < s->o.reps; i++) {
        rates[i] = saturate(s, &load, 0);
        if (i == 0) {
            print_counts(&load);
        }
        if (!s->o.no_floor) {
            struct floor_result f;
            floor_run(s->stack->dir, &load, s->o.jobs, &f);
            floors[i] = f.jobs_per_s;
            ratios[i] = rates[i] / floors[i];
            printf("floor: %.0f jobs/s, %.0f us CPU per job; ratio %.2f\n", f.jobs_per_s,
                   f.cpu_per_job_s * 1e6, ratios[i]);
            fflush(stdout);
        }
    }
    printf("median of %zu: %.0f jobs/s", s->o.reps, median(rates, s->o.reps));
    if (!s->o.no_floor) {
        printf(", floor %.0f jobs/s, ratio %.2f", median(floors, s->o.reps),
               median(ratios, s->o.reps));
    }
    printf("\n");
    if (s->o.seconds > 0) {
        pace(s);
    }
    if (s->o.profile) {
        saturate(s, &load, 1);
        profile_report(s->stack);
    }
    free(rates);
    free(floors);
    free(ratios);
}

/* ---- start -------------------------------------------------------------------------------------
 */

static void usage(FILE *f)
{
    fprintf(f, "usage: bench_pipeline [--jobs N] [--outstanding N] [--reps N] [--rate JOBS/S]\n"
               "                      [--seconds S] [--no-floor] [--profile] [--quick]\n"
               "  --jobs         of one saturated run (6000)\n"
               "  --outstanding  submitted and not ended at once (512)\n"
               "  --reps         saturated runs, each with its floor (3)\n"
               "  --rate, --seconds  of the paced run (100, 20)\n"
               "  --profile      one more saturated run under perf\n"
               "  --quick        50 jobs, to see that it works\n");
}

static struct options parse(int argc, char **argv)
{
    static const struct option longs[] = {{"jobs", 1, NULL, 'j'},    {"outstanding", 1, NULL, 'o'},
                                          {"reps", 1, NULL, 'r'},    {"rate", 1, NULL, 'R'},
                                          {"seconds", 1, NULL, 's'}, {"no-floor", 0, NULL, 'F'},
                                          {"profile", 0, NULL, 'p'}, {"quick", 0, NULL, 'q'},
                                          {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
    struct options o = {
        .jobs = 6000, .outstanding = OUTSTANDING, .reps = 3, .seconds = 20, .rate = 100};
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
        double v = optarg ? strtod(optarg, NULL) : 0;
        switch (c) {
        case 'j':
            o.jobs = (size_t)v;
            break;
        case 'o':
            o.outstanding = (size_t)v;
            break;
        case 'r':
            o.reps = (size_t)v;
            break;
        case 'R':
            o.rate = v;
            break;
        case 's':
            o.seconds = v;
            break;
        case 'F':
            o.no_floor = 1;
            break;
        case 'p':
            o.profile = 1;
            break;
        case 'q':
            o.quick = 1;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    }
    if (o.quick) {
        o.jobs = 50;
        o.reps = 1;
        o.seconds = 0.2;
    }
    if (optind < argc || o.jobs < 10 || o.jobs > 1000000 || o.outstanding < 1 ||
        o.outstanding > 1500 || o.reps < 1 || o.reps > 100 || o.rate <= 0 || o.seconds < 0) {
        usage(stderr);
        exit(2);
    }
    return o;
}

static char *programs_dir(void)
{
    char self[500];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n <= 0) {
        bench_fail("/proc/self/exe", "unreadable");
    }
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    return xasprintf("%s/../bin", self);
}

int main(int argc, char **argv)
{
    if (argc > 1 && streq(argv[1], "host-process")) {
        return host_main(argc - 1, argv + 1);
    }
    if (argc > 1 && streq(argv[1], "floor-process")) {
        return floor_main(argc - 1, argv + 1);
    }
    struct session s = {.o = parse(argc, argv)};
    _cleanup_free_ char *bin = programs_dir();

    s.stack = stack_start(bin);
    _cleanup_free_ char *nats = stack_path(s.stack, "nats");
    _cleanup_free_ char *ca = stack_path(s.stack, "nats/ca.pem");
    _cleanup_free_ char *seed = natsconf_seed_path(nats, SVC_CLIENT, NULL);
    struct bus_opts o = {.url = s.stack->url,
                         .ca_file = ca,
                         .seed_file = seed,
                         .service = SVC_CLIENT,
                         .arg = &current,
                         .on_msg = on_msg,
                         .on_event = on_event};
    MUST(bus_new(&o, EV_DEFAULT, &s.bus, e));
    MUST(bus_subscribe(s.bus, SUBJ_JOB_EVENT, NULL, e));
    MUST(bus_subscribe(s.bus, SUBJ_GATE_DECISION, NULL, e));
    MUST(bus_wait_connected(s.bus, 10000, e));
    work_prepare(&s.work, s.stack, s.bus);
    measure(&s);
    bus_free(s.bus);
    work_done(&s.work);
    stack_stop(s.stack);
    return 0;
}
