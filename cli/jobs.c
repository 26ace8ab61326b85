#include "cli/jobs.h"

#include "cli/progress.h"
#include "cli/verbs.h"

/* coffer ps, status, events, cancel, hosts. */

const struct cli_opt opts_ps[] = {
    {"all", 'a', NULL, VALUE_NONE, "of every consumer, and those that are over", 0},
    {"state", 0, "STATE", VALUE_TEXT, "only jobs in this state", 0},
    {"limit", 'n', "N", VALUE_TEXT, "at most N (default: 50)", 0},
    {0},
};

const struct cli_opt opts_events[] = {
    {"follow", 'f', NULL, VALUE_NONE,
     "go on until the job is over; with --json one document a "
     "line",
     0},
    {0},
};

static enum cli_color state_color(const char *state)
{
    if (streq(state, "released")) {
        return COLOR_GOOD;
    }
    return streq(state, "held") ? COLOR_WARN : cli_exit_of_state(state) ? COLOR_BAD : COLOR_BOLD;
}

/* Mine: those of the identity key, if there is one. */
static const char *whose(struct cli *c)
{
    struct jkey *own;

    if (cli_has(c, "all") || client_identity(c, &own, NULL)) {
        c->hint[0] = '\0';
        return "";
    }
    return jkey_thumbprint(own);
}

int verb_ps(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    Coffer__V1__ListJobs list = COFFER__V1__LIST_JOBS__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    const char *state = cli_opt(c, "state");
    int64_t limit;
    char age[32];

    (void)argc;
    (void)argv;
    if (cli_opt_int(c, "limit", 1, 500, 50, &limit, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    int open_only = !cli_has(c, "all") && !state;
    list.limit = open_only ? 500 : (uint32_t)limit;
    list.state = (char *)(uintptr_t)(state ? state : "");
    list.consumer = (char *)(uintptr_t)whose(c);
    q.what_case = COFFER__V1__JOB_QUERY__WHAT_LIST;
    q.list = &list;
    if (client_ask(c, SUBJ_JOB_QUERY, &q.base, COFFER__V1__REPLY__BODY_QUERY, &r, &e)) {
        return cli_fail(c, &e);
    }
    json_t *jobs = json_array();
    cli_say(c, "%-27s  %-10s %3s  %-8s  %-20s %s", "JOB", "STATE", "TRY", "AGE", "HOST", "NAME");
    for (size_t i = 0; i < r->query->n_jobs && json_array_size(jobs) < (size_t)limit; i++) {
        const Coffer__V1__JobStatus *s = r->query->jobs[i];
        if (open_only && s->terminal) {
            continue;
        }
        cli_say(c, "%-27s  %s%-10s%s %3u  %-8s  %-20s %s%s", s->job,
                cli_color(c, state_color(s->state)), s->state, cli_color(c, COLOR_OFF), s->attempt,
                duration_text(now_ms() - s->created_ms, age), s->host[0] ? s->host : "-", s->name,
                s->downgraded ? "  DOWNGRADED" : "");
        json_array_append_new(jobs, json_of_status(s));
    }
    json_t *o = json_pack("{s:o}", "jobs", jobs);
    if (c->json) {
        return cli_json(c, o);
    }
    json_decref(o);
    return CLI_OK;
}

int verb_status(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    char job[JOB_ID_LEN + 1], when[32], took[32];

    (void)argc;
    if (client_find_job(c, argv[0], job, &e) || client_job_status(c, job, &r, &e)) {
        return cli_fail(c, &e);
    }
    const Coffer__V1__JobStatus *s = r->query->jobs[0];
    if (c->json) {
        return cli_json(c, json_of_status(s));
    }
    cli_say(c, "job       %s (%s)", s->job, s->name);
    cli_say(c, "state     %s%s%s, attempt %u", cli_color(c, state_color(s->state)), s->state,
            cli_color(c, COLOR_OFF), s->attempt);
    if (s->host[0]) {
        cli_say(c, "host      %s (%s)%s", s->host, s->backend,
                s->downgraded ? ", DOWNGRADED: not the environment it preferred" : "");
    }
    cli_say(c, "image     %s", s->image);
    cli_say(c, "consumer  %s", s->consumer);
    cli_say(c, "created   %s", time_text(s->created_ms, when));
    cli_say(c, "updated   %s (after %s)", time_text(s->updated_ms, when),
            duration_text(s->updated_ms - s->created_ms, took));
    if (s->reason) {
        say_refusal(c, s->reason);
    }
    return CLI_OK;
}

/* ---- events ---------------------------------------------------------------------------------- */

struct printing {
    struct cli *c;
    struct progress progress;
    json_t *list;  /* --json without -f */
    int lifecycle; /* only what the launcher and the worker told on the way */
    int64_t start_ms;
};

/* One line of `coffer logs`; "" when the event is none. */
static void add_lifecycle(struct printing *p, const Coffer__V1__JobEvent *ev, struct buf *out)
{
    if (!p->start_ms) {
        p->start_ms = ev->at_ms;
    }
    if (ev->detail[0] && streq(ev->state, ev->previous)) { /* a note, not a transition */
        buf_addf(out, NULL, "%9.3f s  attempt %u on %s  %s\n",
                 (double)(ev->at_ms - p->start_ms) / 1000, ev->attempt,
                 ev->host[0] ? ev->host : "-", ev->detail);
    }
}

static void print_event(const Coffer__V1__JobEvent *ev, void *arg)
{
    struct printing *p = arg;
    _cleanup_buf_ struct buf line = BUF_INIT(8192);

    if (p->lifecycle) {
        add_lifecycle(p, ev, &line);
        if (!line.n) {
            return;
        }
    } else {
        progress_event(&p->progress, ev, &line);
    }
    if (p->list) {
        json_array_append_new(p->list, json_of_event(ev));
    } else if (p->c->json) {
        _cleanup_json_ json_t *j = json_of_event(ev);
        _cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);
        fprintf(p->c->out, "%s\n", text ? text : "{}");
    } else if (line.n) {
        fputs((char *)line.p, p->c->out);
    }
    fflush(p->c->out);
}

static int events_stored(struct cli *c, const char *job, struct printing *p, struct err *e)
{
    uint64_t next = 1, before;

    do {
        _cleanup_reply_ Coffer__V1__Reply *r = NULL;
        before = next;
        if (job_events_from(c, job, next, &r, e)) {
            return -1;
        }
        for (size_t i = 0; i < r->query->n_events; i++) {
            const Coffer__V1__JobEvent *ev = r->query->events[i];
            if (ev->seq == next) {
                print_event(ev, p);
                next++;
            }
        }
    } while (next != before);
    return 0;
}

static int show_events(struct cli *c, const char *id, int lifecycle)
{
    struct err e = {0};
    struct printing p = {.c = c, .lifecycle = lifecycle};
    char job[JOB_ID_LEN + 1];
    enum follow_end end;

    progress_init(&p.progress, c->color);
    if (client_find_job(c, id, job, &e)) {
        return cli_fail(c, &e);
    }
    if (cli_has(c, "follow")) {
        struct follow f = {.job = job, .past_hold = 1, .on_event = print_event, .arg = &p};
        int rc = follow_prepare(c, job, &e) || follow_run(c, &f, &end, &e);
        json_decref(f.reason);
        return rc ? cli_fail(c, &e) : CLI_OK;
    }
    if (c->json) {
        p.list = json_array();
    }
    if (events_stored(c, job, &p, &e)) {
        json_decref(p.list);
        return cli_fail(c, &e);
    }
    return c->json ? cli_json(c, json_pack("{s:s,s:o}", "job", job, "events", p.list)) : CLI_OK;
}

int verb_events(struct cli *c, int argc, char **argv)
{
    (void)argc;
    return show_events(c, argv[0], 0);
}

int verb_logs(struct cli *c, int argc, char **argv)
{
    (void)argc;
    return show_events(c, argv[0], 1);
}

/* ---- cancel, hosts --------------------------------------------------------------------------- */

int verb_cancel(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    Coffer__V1__CancelJob m = COFFER__V1__CANCEL_JOB__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    _cleanup_json_ json_t *payload = NULL;
    _cleanup_free_ char *jws = NULL;
    char job[JOB_ID_LEN + 1];
    struct jkey *own;

    (void)argc;
    if (client_identity(c, &own, &e) || client_find_job(c, argv[0], job, &e)) {
        return cli_fail(c, &e);
    }
    payload = json_pack("{s:i,s:s,s:I}", "v", 1, "job", job, "iat", (json_int_t)(now_ms() / 1000));
    if (jws_sign_json(own, "coffer-cancel+jws", 1, payload, &jws, &e)) {
        return cli_fail(c, &e);
    }
    m.cancel_jws = jws;
    if (client_ask(c, SUBJ_JOB_CANCEL, &m.base, COFFER__V1__REPLY__BODY_JOB_CANCELLED, &r, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s}", "job", job, "state", r->job_cancelled->state));
    }
    cli_say(c, streq(r->job_cancelled->state, "cancelled") ? "%s is %s" : "%s was over: it is %s",
            job, r->job_cancelled->state);
    return CLI_OK;
}

static json_t *json_of_host(const Coffer__V1__HostStatus *h)
{
    json_t *backends = json_array();

    for (size_t i = 0; i < h->report->n_backends; i++) {
        const Coffer__V1__BackendReport *b = h->report->backends[i];
        json_array_append_new(backends, json_pack("{s:s,s:b,s:s,s:s}", "name", b->name, "available",
                                                  b->available, "why", b->why, "tee", b->tee));
    }
    return json_pack("{s:s,s:b,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:o}", "host", h->report->host, "alive",
                     h->alive, "seen_ms", (json_int_t)h->seen_ms, "version", h->report->version,
                     "slots", (json_int_t)h->report->slots, "running",
                     (json_int_t)h->report->running, "placed", (json_int_t)h->placed, "cpu_millis",
                     (json_int_t)h->report->cpu_millis, "memory_bytes",
                     (json_int_t)h->report->memory_bytes, "backends", backends);
}

static void say_host(struct cli *c, const Coffer__V1__HostStatus *h)
{
    char size[32], ago[32];

    cli_say(c, "%s  %s%s%s, seen %s ago, %u of %u slots, %.1f CPUs, %s", h->report->host,
            cli_color(c, h->alive ? COLOR_GOOD : COLOR_BAD), h->alive ? "alive" : "away",
            cli_color(c, COLOR_OFF), duration_text(now_ms() - h->seen_ms, ago), h->placed,
            h->report->slots, (double)h->report->cpu_millis / 1000,
            bytes_text(h->report->memory_bytes, size));
    for (size_t i = 0; i < h->report->n_backends; i++) {
        const Coffer__V1__BackendReport *b = h->report->backends[i];
        cli_say(c, "  %-10s evidence %-8s %s%s%s", b->name, b->tee[0] ? b->tee : "-",
                b->available ? "available" : "not available", b->why[0] ? ": " : "", b->why);
    }
}

int verb_hosts(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    _cleanup_json_ json_t *hosts = json_array();

    (void)argc;
    (void)argv;
    q.what_case = COFFER__V1__JOB_QUERY__WHAT_HOSTS;
    q.hosts = 1;
    if (client_ask(c, SUBJ_JOB_QUERY, &q.base, COFFER__V1__REPLY__BODY_QUERY, &r, &e)) {
        return cli_fail(c, &e);
    }
    for (size_t i = 0; i < r->query->n_hosts; i++) {
        if (r->query->hosts[i]->report) {
            json_array_append_new(hosts, json_of_host(r->query->hosts[i]));
            say_host(c, r->query->hosts[i]);
        }
    }
    return c->json ? cli_json(c, json_pack("{s:O}", "hosts", hosts)) : CLI_OK;
}
