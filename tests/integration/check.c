/* check DIR URL [COUNT]: are the invariants of DESIGN §6 kept by what a stopped stack left behind?
 *
 * DIR is the stack's data directory; URL is a nats-server without authentication on a copy of its
 * JetStream store. Checked, for COUNT jobs (default: at least one):
 *
 *   1  keys of an attempt were released to one TEE key only, in one and the same message
 *   2  what the gate released has a decision that says so
 *   3  every job is in one terminal state; its events are numbered 1..n, in the scheduler's
 * database and on the stream, and exactly the last one is terminal 4  the decision that ended a job
 * is of its latest attempt 5  no CVM of a job is alive, as scheduler and launcher know them
 */
#include <jansson.h>
#include <nats/nats.h>
#include <sqlite3.h>
#include <stdarg.h>

#include "common/buf.h"
#include "proto/subjects.h"

#define TIMEOUT_MS 10000
#define JOBS_MAX 4096
#define SEQ_MAX 256
#define TERMINAL_FROM 6 /* svc-scheduler: enum job_state */
#define STATE_RELEASED 6

struct job {
    char id[64];
    int state;
    unsigned attempt, last_seq;
    unsigned char seen[SEQ_MAX];
    int64_t terminal_seq;
    int released; /* a decision of its latest attempt says so */
};

static struct job jobs[JOBS_MAX];
static size_t n_jobs;
static unsigned failures;

static void fail(const char *fmt, ...) _printf_(1, 2);
static void fail(const char *fmt, ...)
{
    va_list ap;

    failures++;
    fprintf(stderr, "check: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static struct job *find_job(const char *id)
{
    for (size_t i = 0; i < n_jobs; i++) {
        if (streq(jobs[i].id, id)) {
            return &jobs[i];
        }
    }
    return NULL;
}

/* ---- databases
 * ----------------------------------------------------------------------------------- */

static sqlite3 *open_db(const char *dir, const char *service)
{
    _cleanup_free_ char *path = xasprintf("%s/%s/%s.db", dir, service, service);
    sqlite3 *db = NULL;

    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        fprintf(stderr, "check: %s: %s\n", path, sqlite3_errmsg(db));
        exit(1);
    }
    return db;
}

static sqlite3_stmt *query(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK) {
        fprintf(stderr, "check: %s: %s\n", sql, sqlite3_errmsg(db));
        exit(1);
    }
    return st;
}

static const char *text(sqlite3_stmt *st, int column)
{
    const unsigned char *p = sqlite3_column_text(st, column);

    return p ? (const char *)p : "";
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = query(db, sql);
    int64_t n = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;

    sqlite3_finalize(st);
    return n;
}

static void read_jobs(sqlite3 *db)
{
    sqlite3_stmt *st = query(db, "SELECT j.job, j.state, j.attempt, j.last_seq,"
                                 " (SELECT count(*) FROM job_event e WHERE e.id = j.id),"
                                 " (SELECT max(seq) FROM job_event e WHERE e.id = j.id)"
                                 " FROM job j");

    while (sqlite3_step(st) == SQLITE_ROW && n_jobs < JOBS_MAX) {
        struct job *j = &jobs[n_jobs++];
        snprintf(j->id, sizeof(j->id), "%s", text(st, 0));
        j->state = sqlite3_column_int(st, 1);
        j->attempt = (unsigned)sqlite3_column_int(st, 2);
        j->last_seq = (unsigned)sqlite3_column_int(st, 3);
        if (j->state < TERMINAL_FROM) {
            fail("%s is in state %d, which is not terminal", j->id, j->state);
        }
        if (sqlite3_column_int64(st, 4) != j->last_seq ||
            sqlite3_column_int64(st, 5) != j->last_seq || j->last_seq >= SEQ_MAX) {
            fail("%s has %lld events up to number %lld, and last_seq %u", j->id,
                 (long long)sqlite3_column_int64(st, 4), (long long)sqlite3_column_int64(st, 5),
                 j->last_seq);
        }
    }
    sqlite3_finalize(st);
}

static void check_databases(const char *dir)
{
    sqlite3 *scheduler = open_db(dir, "scheduler"), *launcher = open_db(dir, "launcher"),
            *gate = open_db(dir, "gate");

    read_jobs(scheduler);
    int64_t live = number(scheduler, "SELECT count(*) FROM attempt WHERE live = 1");
    if (live != 0) {
        fail("the scheduler takes %lld CVMs of ended jobs for alive", (long long)live);
    }
    live = number(launcher, "SELECT count(*) FROM cvm WHERE state <> 3");
    if (live != 0) {
        fail("the launcher has %lld CVMs that are not gone", (long long)live);
    }
    int64_t stray = number(gate, "SELECT count(*) FROM released r WHERE NOT EXISTS (SELECT 1 FROM"
                                 " decision d WHERE d.job = r.job AND d.attempt = r.attempt"
                                 " AND d.outcome = 1)");
    if (stray != 0) {
        fail("%lld outputs left the gate without a decision", (long long)stray);
    }
    /* No result is lost: what the scheduler calls released can be fetched. */
    for (size_t i = 0; i < n_jobs; i++) {
        if (jobs[i].state != STATE_RELEASED) {
            continue;
        }
        sqlite3_stmt *st = query(gate, "SELECT max(attempt) FROM released WHERE job = ?");
        sqlite3_bind_text(st, 1, jobs[i].id, -1, SQLITE_STATIC);
        /* An earlier attempt may have been decided while the launcher was away and its CVM given up
         * for lost; what counts is that of the latest. */
        if (sqlite3_step(st) != SQLITE_ROW || sqlite3_column_type(st, 0) == SQLITE_NULL) {
            fail("%s is released, but the gate has no output of it", jobs[i].id);
        } else if ((unsigned)sqlite3_column_int(st, 0) != jobs[i].attempt) {
            fail("%s: the output is of attempt %d, the job's latest is %u", jobs[i].id,
                 sqlite3_column_int(st, 0), jobs[i].attempt);
        }
        sqlite3_finalize(st);
    }
    sqlite3_close(scheduler);
    sqlite3_close(launcher);
    sqlite3_close(gate);
}

/* ---- streams
 * ------------------------------------------------------------------------------------- */

static json_t *api(natsConnection *nc, const char *verb, const char *stream, const char *body)
{
    _cleanup_free_ char *subject = xasprintf("$JS.API.%s.%s", verb, stream);
    natsMsg *reply = NULL;

    if (natsConnection_RequestString(&reply, nc, subject, body, TIMEOUT_MS) != NATS_OK) {
        fprintf(stderr, "check: %s: no answer\n", subject);
        exit(1);
    }
    json_t *j = json_loadb(natsMsg_GetData(reply), (size_t)natsMsg_GetDataLength(reply), 0, NULL);
    natsMsg_Destroy(reply);
    return j;
}

typedef void (*message_fn)(const uint8_t *p, size_t n);

static unsigned each_message(natsConnection *nc, const char *stream, message_fn fn)
{
    json_t *info = api(nc, "STREAM.INFO", stream, ""), *state = json_object_get(info, "state");
    json_int_t first = json_integer_value(json_object_get(state, "first_seq"));
    json_int_t last = json_integer_value(json_object_get(state, "last_seq"));
    unsigned n = 0;

    if (!state) {
        fail("there is no stream %s", stream);
    }
    for (json_int_t seq = first > 0 ? first : 1; seq <= last; seq++) {
        _cleanup_free_ char *body = xasprintf("{\"seq\":%lld}", (long long)seq);
        _cleanup_buf_ struct buf data = BUF_INIT(4u << 20);
        json_t *reply = api(nc, "STREAM.MSG.GET", stream, body);
        const char *b64 =
            json_string_value(json_object_get(json_object_get(reply, "message"), "data"));
        if (b64 && b64_decode(b64, strlen(b64), &data, NULL) == 0) {
            fn(data.p, data.n);
            n++;
        }
        json_decref(reply);
    }
    json_decref(info);
    return n;
}

static void on_event(const uint8_t *p, size_t n)
{
    Coffer__V1__JobEvent *ev = coffer__v1__job_event__unpack(NULL, n, p);
    struct job *j = ev ? find_job(ev->job) : NULL;

    if (!j) {
        fail("an event of no known job: %s", ev ? ev->job : "malformed");
    } else if (ev->seq == 0 || ev->seq > j->last_seq) {
        fail("%s: event %llu, but the scheduler knows of %u", j->id, (unsigned long long)ev->seq,
             j->last_seq);
    } else {
        j->seen[ev->seq] = 1;
        if (ev->terminal && j->terminal_seq && (uint64_t)j->terminal_seq != ev->seq) {
            fail("%s ended twice: events %lld and %llu", j->id, (long long)j->terminal_seq,
                 (unsigned long long)ev->seq);
        }
        j->terminal_seq = ev->terminal ? (int64_t)ev->seq : j->terminal_seq;
    }
    if (ev) {
        coffer__v1__job_event__free_unpacked(ev, NULL);
    }
}

struct seen {
    char key[96]; /* job.attempt or job.attempt.revision */
    char *value;
};
static struct seen released[2 * JOBS_MAX], decided[2 * JOBS_MAX];
static size_t n_released, n_decided;

/* The same thing may be said again, but nothing else. */
static void only_one(struct seen *list, size_t *n, const char *key, const char *value,
                     const char *what)
{
    for (size_t i = 0; i < *n; i++) {
        if (streq(list[i].key, key)) {
            if (!streq(list[i].value, value)) {
                fail("%s: %s", key, what);
            }
            return;
        }
    }
    if (*n < 2 * JOBS_MAX) {
        snprintf(list[*n].key, sizeof(list[*n].key), "%s", key);
        list[(*n)++].value = xstrdup(value);
    }
}

static void on_release(const uint8_t *p, size_t n)
{
    Coffer__V1__ReleaseKey *r = coffer__v1__release_key__unpack(NULL, n, p);

    if (!r) {
        fail("a malformed key release");
        return;
    }
    if (r->jwe[0]) {
        _cleanup_free_ char *key = xasprintf("%.64s.%u", r->job, r->attempt);
        only_one(released, &n_released, key, r->jwe, "keys were released twice");
    }
    coffer__v1__release_key__free_unpacked(r, NULL);
}

static void on_decision(const uint8_t *p, size_t n)
{
    Coffer__V1__GateDecision *d = coffer__v1__gate_decision__unpack(NULL, n, p);

    if (!d) {
        fail("a malformed decision");
        return;
    }
    _cleanup_free_ char *key = xasprintf("%.60s.%u.%u", d->job, d->attempt, d->revision);
    only_one(decided, &n_decided, key, d->decision_jws, "two decisions with one number");
    struct job *j = find_job(d->job);
    if (j && d->outcome == COFFER__V1__GATE_OUTCOME__GATE_RELEASED && d->attempt == j->attempt) {
        j->released = 1;
    }
    coffer__v1__gate_decision__free_unpacked(d, NULL);
}

static void check_streams(const char *url)
{
    natsConnection *nc = NULL;
    natsStatus s = natsConnection_ConnectTo(&nc, url);

    if (s) {
        fprintf(stderr, "check: %s: %s\n", url, natsStatus_GetText(s));
        exit(1);
    }
    unsigned events = each_message(nc, "COFFER_EVENT", on_event);
    unsigned releases = each_message(nc, "COFFER_RELEASE", on_release);
    unsigned decisions = each_message(nc, "COFFER_DECISION", on_decision);
    for (size_t i = 0; i < n_jobs; i++) {
        const struct job *j = &jobs[i];
        for (unsigned seq = 1; seq <= j->last_seq && seq < SEQ_MAX; seq++) {
            if (!j->seen[seq]) {
                fail("%s: event %u of %u is not on the stream", j->id, seq, j->last_seq);
            }
        }
        if (j->terminal_seq != j->last_seq) {
            fail("%s: the last event is %u, the terminal one %lld", j->id, j->last_seq,
                 (long long)j->terminal_seq);
        }
        if (j->state == STATE_RELEASED && !j->released) {
            fail("%s is released without a decision of attempt %u", j->id, j->attempt);
        }
    }
    printf("%zu jobs, %u events, %u key releases of %zu attempts, %u decisions\n", n_jobs, events,
           releases, n_released, decisions);
    natsConnection_Destroy(nc);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: check DIR URL [COUNT]\n");
        return 2;
    }
    check_databases(argv[1]);
    check_streams(argv[2]);
    size_t want = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
    if ((want && n_jobs != want) || n_jobs == 0) {
        fail("expected %zu jobs, found %zu", want ? want : 1, n_jobs);
    }
    for (size_t i = 0; i < n_released; i++) {
        free(released[i].value);
    }
    for (size_t i = 0; i < n_decided; i++) {
        free(decided[i].value);
    }
    fflush(NULL);
    /* See rogue.c. */
    _exit(failures ? 1 : 0);
}
