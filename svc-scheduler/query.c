#include "svc-scheduler/scheduler.h"

/* Questions: list, status, events, hosts. Every answer is one page within REPLY_MAX_BYTES. */

#define REPLY_MAX_BYTES (512u * 1024)
#define LIST_DEFAULT 50
#define LIST_MAX 500
#define EVENTS_MAX 256

struct answer {
    Coffer__V1__QueryReply reply;
    size_t size; /* of the items so far, packed */
    size_t room; /* of the array in use */
};

/* Frees what the answer owns: jobs' strings are its own copies in one block per job. */
struct job_item {
    Coffer__V1__JobStatus status;
    Coffer__V1__Refusal reason;
    struct job job;
};

static void answer_done(struct answer *a)
{
    for (size_t i = 0; i < a->reply.n_jobs; i++) {
        free(a->reply.jobs[i]); /* the status is the item's first member */
    }
    for (size_t i = 0; i < a->reply.n_events; i++) {
        coffer__v1__job_event__free_unpacked(a->reply.events[i], NULL);
    }
    for (size_t i = 0; i < a->reply.n_hosts; i++) {
        coffer__v1__host_status__free_unpacked(a->reply.hosts[i], NULL);
    }
    free(a->reply.jobs);
    free(a->reply.events);
    free(a->reply.hosts);
}

/* Whether an item of `n` bytes still fits; makes room for its pointer. */
static int admit(struct answer *a, void ***items, size_t used, size_t n)
{
    if (a->size + n > REPLY_MAX_BYTES) {
        return 0;
    }
    a->size += n + 8;
    if (used == a->room) {
        a->room = a->room ? a->room * 2 : 16;
        *items = xrealloc(*items, a->room * sizeof(**items));
    }
    return 1;
}

static int add_job(void *arg, const struct job *j)
{
    struct answer *a = arg;
    struct job_item *it = xcalloc(1, sizeof(*it));
    Coffer__V1__JobStatus *st = &it->status;

    it->job = *j;
    coffer__v1__job_status__init(st);
    st->job = it->job.job;
    st->name = it->job.name;
    st->consumer = it->job.consumer;
    st->state = (char *)job_state_name(j->state);
    st->attempt = (uint32_t)j->attempt;
    st->host = it->job.host;
    st->backend = it->job.backend;
    st->downgraded = j->downgraded;
    st->created_ms = j->created_ms;
    st->updated_ms = j->updated_ms;
    st->last_seq = (uint64_t)j->last_seq;
    st->image = it->job.image;
    st->terminal = job_state_terminal(j->state);
    if (j->has_reason) {
        reason_fill(&it->reason, &it->job.reason);
        st->reason = &it->reason;
    }
    if (!admit(a, (void ***)&a->reply.jobs, a->reply.n_jobs,
               coffer__v1__job_status__get_packed_size(st))) {
        free(it);
        return 1;
    }
    a->reply.jobs[a->reply.n_jobs++] = st;
    return 0;
}

static int add_event(void *arg, struct bytes packed)
{
    struct answer *a = arg;

    Coffer__V1__JobEvent *ev = coffer__v1__job_event__unpack(NULL, packed.n, packed.p);
    if (!ev) {
        return 1;
    }
    if (!admit(a, (void ***)&a->reply.events, a->reply.n_events, packed.n)) {
        coffer__v1__job_event__free_unpacked(ev, NULL);
        return 1;
    }
    a->reply.events[a->reply.n_events++] = ev;
    return 0;
}

static int add_host(void *arg, struct bytes report, int64_t seen_ms, int alive, int64_t placed)
{
    struct answer *a = arg;
    Coffer__V1__HostStatus *st = malloc(sizeof(*st)); /* freed by protobuf-c */

    if (!st) {
        abort();
    }
    coffer__v1__host_status__init(st);
    st->report = coffer__v1__host_report__unpack(NULL, report.n, report.p);
    st->seen_ms = seen_ms;
    st->alive = alive;
    st->placed = placed < 0 ? 0 : (uint32_t)placed;
    if (!st->report || !admit(a, (void ***)&a->reply.hosts, a->reply.n_hosts, report.n + 32)) {
        coffer__v1__host_status__free_unpacked(st, NULL);
        return 1;
    }
    a->reply.hosts[a->reply.n_hosts++] = st;
    return 0;
}

/* ---- the four questions ---------------------------------------------------------------------- */

static int list_jobs(struct svc *s, const Coffer__V1__ListJobs *q, struct answer *a, struct err *e)
{
    enum job_state state = JOB_STATE_N;

    if (q->limit > LIST_MAX) {
        return err_refuse(e, ERR_INVALID, "list.limit", "1..500, or 0 for 50", "%u", q->limit);
    }
    if (q->state[0] && job_state_parse(q->state, &state) < 0) {
        return err_refuse(e, ERR_INVALID, "list.state", "a state, e.g. \"queued\" or \"running\"",
                          "\"%.40s\"", q->state);
    }
    if (strlen(q->consumer) > JKEY_THUMBPRINT_LEN) {
        return err_refuse(e, ERR_INVALID, "list.consumer", "a thumbprint", "\"%.60s\"",
                          q->consumer);
    }
    return store_list(s->db, state == JOB_STATE_N ? -1 : (int)state, q->consumer,
                      q->limit ? q->limit : LIST_DEFAULT, add_job, a, e);
}

static int find_job(struct svc *s, const char *what, const char *id, struct job *ret, struct err *e)
{
    if (!job_id_valid(id)) {
        return err_refuse(e, ERR_INVALID, what, "a job id", "\"%.60s\"", id);
    }
    int rc = store_job(s->db, id, 0, ret, NULL, e);
    if (rc == 0) {
        return err_refuse(e, ERR_NOT_FOUND, what, "a job that was accepted", "%s", id);
    }
    return rc < 0 ? -1 : 0;
}

static int ask(struct svc *s, const Coffer__V1__JobQuery *q, struct answer *a, struct err *e)
{
    struct job j;

    switch (q->what_case) {
    case COFFER__V1__JOB_QUERY__WHAT_LIST:
        return list_jobs(s, q->list, a, e);
    case COFFER__V1__JOB_QUERY__WHAT_STATUS:
        if (find_job(s, "status", q->status, &j, e) < 0) {
            return -1;
        }
        add_job(a, &j);
        return 0;
    case COFFER__V1__JOB_QUERY__WHAT_EVENTS:
        if (find_job(s, "events.job", q->events->job, &j, e) < 0) {
            return -1;
        }
        if (q->events->from_seq > INT64_MAX) {
            return err_refuse(e, ERR_INVALID, "events.from_seq", "a sequence number", "%llu",
                              (unsigned long long)q->events->from_seq);
        }
        return store_events(s->db, j.id, (int64_t)q->events->from_seq, EVENTS_MAX, add_event, a, e);
    case COFFER__V1__JOB_QUERY__WHAT_HOSTS:
        return store_hosts(s->db, add_host, a, e);
    case COFFER__V1__JOB_QUERY__WHAT__NOT_SET:
    case _COFFER__V1__JOB_QUERY__WHAT__CASE_IS_INT_SIZE:
        break;
    }
    return err_refuse(e, ERR_INVALID, "query", "list, status, events or hosts", "none of them");
}

int scheduler_query(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_(answer_done) struct answer a = {.reply = COFFER__V1__QUERY_REPLY__INIT};
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;

    if (msg_unpack(m, &pb, e) < 0 || ask(s, (const Coffer__V1__JobQuery *)pb, &a, e) < 0) {
        return -1;
    }
    reply.body_case = COFFER__V1__REPLY__BODY_QUERY;
    reply.query = &a.reply;
    return fx_reply(fx, m, &reply, e);
}
