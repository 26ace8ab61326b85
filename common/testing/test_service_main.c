/* Two services for the tests of bus and shell, on the real subjects: "scheduler" takes ScheduleJob,
 * counts it, and sends a launch command on; "launcher" counts that and says booted; "scheduler"
 * counts that. What to do with a job is in its spec: "<job> ok", "<job> flaky <deliveries>", "<job>
 * poison",
 * "<job> act". */
#include <stdlib.h>

#include "common/log.h"
#include "common/shell.h"

static const char *const migrations[] = {
    "CREATE TABLE done(what TEXT NOT NULL, job TEXT NOT NULL, n INTEGER NOT NULL,"
    " PRIMARY KEY (what, job)) WITHOUT ROWID",
};
static const char sql_count[] = "INSERT INTO done VALUES (?, ?, 1)"
                                " ON CONFLICT (what, job) DO UPDATE SET n = n + 1";
static const char sql_rows[] = "SELECT count(*) FROM done WHERE what = ?";
static const char sql_max[] = "SELECT coalesce(max(n), 0) FROM done";

static int count(struct svc *s, const char *what, const char *job, struct err *e)
{
    return db_run(s->db, e, sql_count, "tt", what, job);
}

static int publish_next(struct effects *fx, const char *job, struct err *e)
{
    Coffer__V1__LaunchCvm launch = COFFER__V1__LAUNCH_CVM__INIT;
    Coffer__V1__JobEvent event = COFFER__V1__JOB_EVENT__INIT;
    char id[128];

    launch.job = (char *)(uintptr_t)job;
    launch.attempt = 1;
    snprintf(id, sizeof(id), "%s.1.launch", job);
    if (fx_publish(fx, SUBJ_CVM_LAUNCH, "h1", id, &launch.base, e) < 0) {
        return -1;
    }
    event.job = (char *)(uintptr_t)job;
    event.seq = 1;
    event.state = (char *)(uintptr_t) "queued";
    snprintf(id, sizeof(id), "%s.e1", job);
    return fx_publish(fx, SUBJ_JOB_EVENT, job, id, &event.base, e);
}

static int on_schedule(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    Coffer__V1__JobAccepted accepted = COFFER__V1__JOB_ACCEPTED__INIT;
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    char job[40] = "", what[16] = "";
    unsigned n = 0;

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    const char *spec = ((Coffer__V1__ScheduleJob *)pb)->spec_jws;
    if (sscanf(spec, "%39s %15s %u", job, what, &n) < 2) {
        return err_set(e, ERR_INVALID, "spec: expected \"<job> <what>\"");
    }
    if (streq(what, "poison")) {
        return err_refuse(e, ERR_DENIED, "spec.what", "something digestible", "poison");
    }
    if (count(s, "seen", job, e) < 0 || publish_next(fx, job, e) < 0) {
        return -1;
    }
    if (streq(what, "flaky") && m->deliveries < n) {
        return err_set(e, ERR_BUSY, "not before delivery %u", n);
    }
    if (streq(what, "act")) {
        fx_action(fx, 7, BYTES_STR(job));
    }
    accepted.job = job;
    reply.body_case = COFFER__V1__REPLY__BODY_JOB_ACCEPTED;
    reply.job_accepted = &accepted;
    return fx_reply(fx, m, &reply, e);
}

static int on_query(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    Coffer__V1__JobStatus status = COFFER__V1__JOB_STATUS__INIT;
    Coffer__V1__JobStatus *list[] = {&status};
    Coffer__V1__QueryReply query = COFFER__V1__QUERY_REPLY__INIT;
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    int64_t max = 0, acted = 0;

    if (msg_unpack(m, &pb, e) < 0 ||
        db_get_int(s->db, e, 0, &status.created_ms, sql_rows, "t", "seen") < 0 ||
        db_get_int(s->db, e, 0, &status.updated_ms, sql_rows, "t", "booted") < 0 ||
        db_get_int(s->db, e, 0, &acted, sql_rows, "t", "acted") < 0 ||
        db_get_int(s->db, e, 0, &max, sql_max, "") < 0) {
        return -1;
    }
    status.last_seq = (uint64_t)max;
    status.attempt = (uint32_t)acted;
    query.jobs = list;
    query.n_jobs = 1;
    reply.body_case = COFFER__V1__REPLY__BODY_QUERY;
    reply.query = &query;
    return fx_reply(fx, m, &reply, e);
}

static int on_cancel(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    (void)s;
    (void)m;
    (void)fx;
    return err_refuse(e, ERR_DENIED, "cancel.iss", "the job's consumer", "somebody else");
}

static int on_cvm_event(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    (void)fx;
    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    return count(s, "booted", ((Coffer__V1__CvmEvent *)pb)->job, e);
}

static int ignore(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    (void)s;
    (void)fx;
    return msg_unpack(m, &pb, e);
}

static int on_launch(struct svc *s, const struct msg *m, struct effects *fx, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    Coffer__V1__CvmEvent event = COFFER__V1__CVM_EVENT__INIT;
    char id[128];

    if (msg_unpack(m, &pb, e) < 0) {
        return -1;
    }
    event.job = ((Coffer__V1__LaunchCvm *)pb)->job;
    event.attempt = 1;
    event.kind = COFFER__V1__CVM_EVENT_KIND__CVM_BOOTED;
    snprintf(id, sizeof(id), "%.60s.1.cvm.1", event.job);
    if (count(s, "launched", event.job, e) < 0) {
        return -1;
    }
    return fx_publish(fx, SUBJ_CVM_EVENT, event.job, id, &event.base, e);
}

static int count_act(struct svc *s, void *arg, struct effects *fx, struct err *e)
{
    (void)fx;
    return count(s, "acted", arg, e);
}

/* What an action is for: done after the commit, with a transaction of its own. */
static int act(struct shell *sh, int kind, struct bytes data)
{
    _cleanup_free_ char *job = xstrndup((const char *)data.p, data.n);
    struct err e = {0};

    if (kind != 7 || shell_call(sh, count_act, job, &e) < 0) {
        log_err(LOG_ERROR, "test.act", &e);
        return -1;
    }
    return 0;
}

static const struct handler scheduler_handlers[] = {
    {SUBJ_JOB_SCHEDULE, on_schedule}, {SUBJ_JOB_QUERY, on_query},   {SUBJ_JOB_CANCEL, on_cancel},
    {SUBJ_CVM_EVENT, on_cvm_event},   {SUBJ_HOST_REPORT, ignore},   {SUBJ_VERDICT, ignore},
    {SUBJ_KEY_RELEASE, ignore},       {SUBJ_GATE_DECISION, ignore},
};
static const struct handler launcher_handlers[] = {
    {SUBJ_CVM_LAUNCH, on_launch},
    {SUBJ_CVM_DESTROY, ignore},
};

static const struct service_def scheduler = {
    .id = SVC_SCHEDULER,
    .migrations = migrations,
    .n_migrations = ARRAY_LEN(migrations),
    .handlers = scheduler_handlers,
    .n_handlers = ARRAY_LEN(scheduler_handlers),
};
static const struct service_def launcher = {
    .id = SVC_LAUNCHER,
    .migrations = migrations,
    .n_migrations = ARRAY_LEN(migrations),
    .handlers = launcher_handlers,
    .n_handlers = ARRAY_LEN(launcher_handlers),
};

int main(int argc, char **argv)
{
    static const struct shell_hooks hooks = {.about = "a service of the tests", .act = act};

    if (argc > 1 && streq(argv[1], "launcher")) {
        return service_main_hooks(&launcher, &hooks, argc - 1, argv + 1);
    }
    if (argc > 1 && streq(argv[1], "scheduler")) {
        return service_main_hooks(&scheduler, &hooks, argc - 1, argv + 1);
    }
    fprintf(stderr, "usage: %s scheduler|launcher OPTIONS\n", argv[0]);
    return 2;
}
