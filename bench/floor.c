/* The floor under the pipeline: as many processes, each with the JetStream publishes, pulls and
 * acknowledgements, the SQLite commits and rows and the public-key operations that its role was
 * counted to do, and nothing else. It uses nats.c, SQLite and OpenSSL directly. */
#include <errno.h>
#include <fcntl.h>
#include <nats/nats.h>
#include <openssl/evp.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "bench/floor.h"
#include "common/fileio.h"

#define FETCH_MAX 256
#define WINDOW 256
#define ROW_BYTES 160

/* Who pulls what; the rest is read by core subscriptions. */
static const struct {
    enum role from;
    unsigned pulled_by, heard_by; /* bits of roles */
    int work_queue;
} flows[FLOW_N] = {
    [FLOW_SCHEDULE] = {ROLE_CLIENT, 1u << ROLE_SCHEDULER, 0, 1},
    [FLOW_EVENT] = {ROLE_SCHEDULER, 0, 1u << ROLE_CLIENT, 0},
    [FLOW_LAUNCH] = {ROLE_SCHEDULER, 1u << ROLE_HOST, 0, 1},
    [FLOW_CVM_EVENT] = {ROLE_HOST, 1u << ROLE_SCHEDULER, 0, 1},
    [FLOW_EVIDENCE] = {ROLE_HOST, 1u << ROLE_VERIFIER, 0, 1},
    [FLOW_VERDICT] = {ROLE_VERIFIER, 1u << ROLE_SCHEDULER | 1u << ROLE_KBS, 0, 0},
    [FLOW_RELEASE] = {ROLE_KBS, 1u << ROLE_SCHEDULER | 1u << ROLE_GATE, 1u << ROLE_HOST, 0},
    [FLOW_RESULT] = {ROLE_HOST, 1u << ROLE_GATE, 0, 1},
    [FLOW_DECISION] = {ROLE_GATE, 1u << ROLE_SCHEDULER, 1u << ROLE_CLIENT, 0},
};

struct floor_process {
    enum role role;
    const struct floor_load *load;
    size_t jobs;
    natsConnection *nc;
    jsCtx *js;
    natsSubscription *pull[FLOW_N], *core[FLOW_N];
    uint64_t pulled[FLOW_N], published[FLOW_N], done[OP_N];
    sqlite3 *db;
    sqlite3_stmt *begin, *commit, *row;
    struct pk_bench pk;
    uint8_t *payload;
};

static void nats_must(natsStatus st, const char *what)
{
    if (st != NATS_OK) {
        bench_fail(what, natsStatus_GetText(st));
    }
}

static void sqlite_must(int rc, sqlite3 *db)
{
    if (rc != SQLITE_OK && rc != SQLITE_DONE) {
        bench_fail("floor database", sqlite3_errmsg(db));
    }
}

static natsConnection *connect_floor(const char *dir, const char *url)
{
    _cleanup_free_ char *ca = xasprintf("%s/nats/ca.pem", dir);
    natsOptions *o = NULL;
    natsConnection *nc = NULL;

    nats_must(natsOptions_Create(&o), "options");
    nats_must(natsOptions_SetURL(o, url), "url");
    nats_must(natsOptions_SetSecure(o, true), "tls");
    nats_must(natsOptions_LoadCATrustedCertificates(o, ca), ca);
    nats_must(natsOptions_SetExpectedHostname(o, "localhost"), "tls name");
    nats_must(natsConnection_Connect(&nc, o), "connect");
    natsOptions_Destroy(o);
    return nc;
}

static void stream_name(enum flow f, char out[32])
{
    snprintf(out, 32, "FLOOR_%d", (int)f);
}

/* ---- one process -------------------------------------------------------------------------------
 */

static void on_core(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    (void)nc;
    (void)sub;
    (void)arg;
    natsMsg_Destroy(msg);
}

static void open_bus(struct floor_process *p, const char *dir, const char *url)
{
    jsOptions o;

    p->nc = connect_floor(dir, url);
    jsOptions_Init(&o);
    o.PublishAsync.MaxPending = WINDOW;
    nats_must(natsConnection_JetStream(&p->js, p->nc, &o), "JetStream");
    for (int f = 0; f < FLOW_N; f++) {
        char subject[32], durable[32], stream[32];
        snprintf(subject, sizeof(subject), "floor.%d", f);
        snprintf(durable, sizeof(durable), "role%d", (int)p->role);
        stream_name((enum flow)f, stream);
        if (flows[f].pulled_by & 1u << p->role) {
            jsSubOptions so;
            jsErrCode ec = 0;
            jsSubOptions_Init(&so);
            so.Stream = stream;
            so.Config.MaxAckPending = 4096;
            nats_must(js_PullSubscribe(&p->pull[f], p->js, subject, durable, NULL, &so, &ec),
                      "pull");
        }
        if (flows[f].heard_by & 1u << p->role) {
            nats_must(natsConnection_Subscribe(&p->core[f], p->nc, subject, on_core, NULL),
                      "subscribe");
        }
    }
}

static void open_db(struct floor_process *p, const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s/floor-%d.db", dir, (int)p->role);
    static const char setup[] = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
                                "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;"
                                "DROP TABLE IF EXISTS row;"
                                "CREATE TABLE row(id INTEGER PRIMARY KEY, v BLOB NOT NULL)";

    sqlite_must(sqlite3_open(path, &p->db), p->db);
    sqlite_must(sqlite3_exec(p->db, setup, NULL, NULL, NULL), p->db);
    sqlite_must(sqlite3_prepare_v2(p->db, "BEGIN IMMEDIATE", -1, &p->begin, NULL), p->db);
    sqlite_must(sqlite3_prepare_v2(p->db, "COMMIT", -1, &p->commit, NULL), p->db);
    sqlite_must(sqlite3_prepare_v2(p->db, "INSERT INTO row(v) VALUES (?)", -1, &p->row, NULL),
                p->db);
}

static void step(struct floor_process *p, sqlite3_stmt *s)
{
    sqlite_must(sqlite3_step(s), p->db);
    sqlite3_reset(s);
}

/* How often something is due until `done` jobs are done. Publisher and consumer compute the same.
 */
static uint64_t due(const struct floor_process *p, uint64_t counted, size_t done)
{
    return (uint64_t)((double)counted / p->load->jobs * (double)done);
}

static void publish(struct floor_process *p, enum flow f, uint64_t until)
{
    const struct counts *c = &p->load->role[p->role];
    int n = c->flow_n[f] ? (int)(c->flow_bytes[f] / c->flow_n[f]) : 0;
    char subject[32], id[64];
    jsPubOptions o;

    snprintf(subject, sizeof(subject), "floor.%d", (int)f);
    jsPubOptions_Init(&o);
    o.MsgId = id;
    while (p->published[f] < until) {
        snprintf(id, sizeof(id), "%d.%d.%llu.%d", (int)f, (int)getpid(),
                 (unsigned long long)p->published[f]++, (int)p->role);
        nats_must(js_PublishAsync(p->js, subject, p->payload, n, &o), "publish");
    }
}

static void pull(struct floor_process *p, enum flow f, uint64_t until)
{
    while (p->pulled[f] < until) {
        natsMsgList list = {0};
        uint64_t want = until - p->pulled[f];
        jsErrCode ec = 0;
        natsStatus st = natsSubscription_Fetch(
            &list, p->pull[f], want < FETCH_MAX ? (int)want : FETCH_MAX, 30000, &ec);
        if (st != NATS_OK && (st != NATS_TIMEOUT || list.Count == 0)) {
            bench_fail("floor: pull", natsStatus_GetText(st));
        }
        for (int i = 0; i < list.Count; i++) {
            nats_must(natsMsg_Ack(list.Msgs[i], NULL), "ack");
        }
        p->pulled[f] += (uint64_t)list.Count;
        natsMsgList_Destroy(&list);
    }
}

static void rows(struct floor_process *p, uint64_t until)
{
    const struct counts *c = &p->load->role[p->role];
    uint64_t out_n = 0, out_bytes = 0, k = 0;

    for (int f = 0; f < FLOW_N; f++) {
        out_n += c->flow_n[f];
        out_bytes += c->flow_bytes[f];
    }
    if (p->done[OP_ROW] >= until) {
        return;
    }
    step(p, p->begin);
    for (; p->done[OP_ROW] < until; p->done[OP_ROW]++, k++) {
        /* One row for each message that goes out holds it; the others are small. */
        int holds = out_n && k % (c->op[OP_ROW] / out_n + 1) == 0;
        int n = holds ? (int)(out_bytes / out_n) : ROW_BYTES;
        sqlite_must(sqlite3_bind_blob(p->row, 1, p->payload, n, SQLITE_STATIC), p->db);
        step(p, p->row);
    }
    step(p, p->commit);
}

static void turn(struct floor_process *p, size_t done)
{
    const struct counts *c = &p->load->role[p->role];

    for (int k = OP_SIGN; k <= OP_POINT; k++) {
        uint64_t until = due(p, c->op[k], done);
        for (; p->done[k] < until; p->done[k]++) {
            pk_bench_do(&p->pk, (enum op)k);
        }
    }
    rows(p, due(p, c->op[OP_ROW], done));
    for (int f = 0; f < FLOW_N; f++) {
        if (flows[f].from == p->role) {
            publish(p, (enum flow)f, due(p, c->flow_n[f], done));
        }
    }
    for (int f = 0; f < FLOW_N; f++) {
        if (p->pull[f]) {
            pull(p, (enum flow)f, due(p, p->load->role[flows[f].from].flow_n[f], done));
        }
    }
}

int floor_main(int argc, char **argv)
{
    _cleanup_buf_ struct buf b = BUF_INIT(sizeof(struct floor_load));
    struct floor_load load;
    struct floor_process p = {.load = &load};

    if (argc != 5) {
        return 2;
    }
    _cleanup_free_ char *path = xasprintf("%s/floor.load", argv[1]);
    MUST(file_read(path, sizeof(load), 0, &b, e));
    memcpy(&load, b.p, sizeof(load));
    p.role = (enum role)strtol(argv[3], NULL, 10);
    p.jobs = (size_t)strtoul(argv[4], NULL, 10);
    p.payload = xcalloc(1, 1u << 20);
    pk_bench_init(&p.pk);
    open_bus(&p, argv[1], argv[2]);
    open_db(&p, argv[1]);
    uint64_t commits = load.role[p.role].op[OP_COMMIT];
    double batch = commits ? load.jobs / (double)commits : 64;
    raise(SIGSTOP); /* the parent lets all go at once */
    for (double at = 0; (size_t)at < p.jobs;) {
        at = at + batch < (double)p.jobs ? at + batch : (double)p.jobs;
        turn(&p, (size_t)at);
    }
    nats_must(js_PublishAsyncComplete(p.js, NULL), "publish");
    jsCtx_Destroy(p.js);
    natsConnection_Close(p.nc);
    return 0;
}

/* ---- the parent --------------------------------------------------------------------------------
 */

static uint16_t write_conf(const char *dir, const char *path)
{
    uint16_t port = natsconf_free_port();
    _cleanup_free_ char *text = xasprintf(
        "listen: \"127.0.0.1:%u\"\njetstream { store_dir: \"%s/floor-js\" }\n"
        "tls { cert_file: \"%s/nats/server.pem\", key_file: \"%s/nats/server-key.pem\" }\n",
        port, dir, dir, dir);

    MUST(file_replace(path, BYTES_STR(text), 0600, e));
    return port;
}

static void make_streams(const char *dir, const char *url)
{
    natsConnection *nc = connect_floor(dir, url);
    jsCtx *js = NULL;

    nats_must(natsConnection_JetStream(&js, nc, NULL), "JetStream");
    for (int f = 0; f < FLOW_N; f++) {
        char subject[32], name[32];
        const char *subjects_[] = {subject};
        jsStreamConfig c;
        jsErrCode ec = 0;
        jsStreamConfig_Init(&c);
        snprintf(subject, sizeof(subject), "floor.%d", f);
        stream_name((enum flow)f, name);
        c.Name = name;
        c.Subjects = subjects_;
        c.SubjectsLen = 1;
        c.Storage = js_FileStorage;
        c.Retention = flows[f].work_queue ? js_WorkQueuePolicy : js_LimitsPolicy;
        c.Duplicates = 30LL * 1000000000;
        nats_must(js_AddStream(NULL, js, &c, NULL, &ec), "stream");
    }
    jsCtx_Destroy(js);
    natsConnection_Destroy(nc);
}

static pid_t start(const char *dir, const char *url, int role, size_t jobs)
{
    char number[16], n[32];
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        snprintf(number, sizeof(number), "%d", role);
        snprintf(n, sizeof(n), "%zu", jobs);
        execl("/proc/self/exe", "bench_pipeline", "floor-process", dir, url, number, n,
              (char *)NULL);
        _exit(127);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, WUNTRACED) < 0 || !WIFSTOPPED(status)) {
        bench_fail("floor", "a process did not start");
    }
    return pid;
}

void floor_run(const char *dir, const struct floor_load *l, size_t jobs, struct floor_result *ret)
{
    _cleanup_free_ char *conf = xasprintf("%s/floor.conf", dir), *log = xasprintf("%s.log", conf);
    _cleanup_free_ char *load = xasprintf("%s/floor.load", dir);
    pid_t pids[ROLE_N];
    char url[64];

    uint16_t port = write_conf(dir, conf);
    snprintf(url, sizeof(url), "tls://localhost:%u", port);
    MUST(file_replace(load, BYTES(l, sizeof(*l)), 0600, e));
    pid_t nats = spawn_nats(conf, log, port);
    make_streams(dir, url);
    for (int i = 0; i < ROLE_N; i++) {
        pids[i] = start(dir, url, i, jobs);
    }
    double nats_cpu = process_cpu_s(nats), cpu = children_cpu_s(), at = now_s();
    for (int i = 0; i < ROLE_N; i++) {
        kill(pids[i], SIGCONT);
    }
    for (int i = 0; i < ROLE_N; i++) {
        int status;
        if (waitpid(pids[i], &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
            bench_fail("floor", "a process failed");
        }
    }
    double took = now_s() - at;
    ret->jobs_per_s = (double)jobs / took;
    ret->cpu_per_job_s = (children_cpu_s() - cpu + process_cpu_s(nats) - nats_cpu) / (double)jobs;
    kill_and_wait(nats, SIGTERM);
    _cleanup_free_ char *store = xasprintf("%s/floor-js", dir);
    remove_tree(store);
}
