#include "bench/bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/bus.h"
#include "common/fileio.h"
#include "common/keyfile.h"

static const struct {
    const char *program, *data;
    enum service service;
    const char *extra;
} roles[ROLE_N] = {
    [ROLE_SCHEDULER] = {"svc-scheduler", "scheduler", SVC_SCHEDULER, NULL},
    [ROLE_VERIFIER] = {"svc-verifier", "verifier", SVC_VERIFIER, "--allow-sample=true"},
    [ROLE_KBS] = {"svc-kbs", "kbs", SVC_KBS, NULL},
    [ROLE_GATE] = {"svc-gate", "gate", SVC_GATE, NULL},
    [ROLE_HOST] = {NULL, "launcher", SVC_LAUNCHER, NULL},
    [ROLE_CLIENT] = {NULL, "client", SVC_CLIENT, NULL},
};

const char *role_name(enum role r)
{
    return r == ROLE_HOST ? "host" : roles[r].data;
}

char *stack_path(const struct stack *s, const char *name)
{
    return xasprintf("%s/%s", s->dir, name);
}

/* ---- processes --------------------------------------------------------------------------------
 */

static pid_t spawn(const char *program, char *const *argv, const char *log)
{
    pid_t parent = getpid(), pid = fork();

    if (pid < 0) {
        bench_fail("fork", strerror(errno));
    }
    if (pid > 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int null = open("/dev/null", O_RDWR);
    if (getppid() != parent || fd < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 ||
        dup2(fd, 2) < 0) {
        _exit(127);
    }
    execv(program, argv);
    _exit(127);
}

pid_t spawn_nats(const char *conf, const char *log, uint16_t port)
{
    static const char *const places[] = {"/usr/sbin/nats-server", "/usr/bin/nats-server",
                                         "/usr/local/bin/nats-server"};
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *program = NULL;

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        program = program ? program : access(places[i], X_OK) == 0 ? places[i] : NULL;
    }
    if (!program) {
        fprintf(stderr, "bench: nats-server is not installed\n");
        exit(77);
    }
    pid_t pid =
        spawn(program, (char *[]){(char *)"nats-server", (char *)"-c", (char *)conf, NULL}, log);
    for (int i = 0; i < 2000; i++) {
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
            return pid;
        }
        usleep(10000);
    }
    bench_fail("nats-server", "does not listen");
}

/* Everybody whom we count starts with the counting library. */
static void set_counting(const struct stack *s, enum role r)
{
    _cleanup_free_ char *file = stack_path(s, "counts");
    _cleanup_free_ char *lib = xasprintf("%s/../bench/libbench_count.so", s->bin);
    char number[16];

    if (access(lib, R_OK) < 0) {
        bench_fail(lib, strerror(errno));
    }
    snprintf(number, sizeof(number), "%d", (int)r);
    setenv(COUNT_FILE_ENV, file, 1);
    setenv(COUNT_ROLE_ENV, number, 1);
    setenv("LD_PRELOAD", lib, 1);
}

static void spawn_role(struct stack *s, enum role r)
{
    _cleanup_free_ char *log = xasprintf("%s/%s.log", s->dir, roles[r].data);
    _cleanup_free_ char *nats = stack_path(s, "nats");
    _cleanup_free_ char *seed = natsconf_seed_path(nats, roles[r].service, BENCH_HOST);
    _cleanup_free_ char *program = roles[r].program ? xasprintf("%s/%s", s->bin, roles[r].program)
                                                    : realpath("/proc/self/exe", NULL);
    const char *callgrind = getenv("COFFER_BENCH_CALLGRIND"); /* a directory for its files */
    char *argv[20];
    size_t n = 0;

    if (callgrind) {
        argv[n++] = xstrdup("valgrind");
        argv[n++] = xstrdup("--tool=callgrind");
        argv[n++] = xasprintf("--callgrind-out-file=%s/callgrind.%s", callgrind, role_name(r));
    }
    argv[n++] = xstrdup(program);
    if (r == ROLE_HOST) {
        argv[n++] = xstrdup("host-process");
        argv[n++] = xasprintf("--store=%s/store", s->dir);
        argv[n++] = xasprintf("--worker-nats-seed=%s/worker.seed", nats);
        argv[n++] = xstrdup("--no-container=true");
    }
    argv[n++] = xasprintf("--nats-url=%s", s->url);
    argv[n++] = xasprintf("--nats-ca=%s/ca.pem", nats);
    argv[n++] = xasprintf("--nats-seed=%s", seed);
    argv[n++] = xasprintf("--data-dir=%s/%s", s->dir, roles[r].data);
    argv[n++] = xasprintf("--trust=%s/trust.json", s->dir);
    argv[n++] = xasprintf("--host=%s", BENCH_HOST);
    argv[n++] = xstrdup("--log-level=warn");
    if (roles[r].extra) {
        argv[n++] = xstrdup(roles[r].extra);
    }
    argv[n] = NULL;
    set_counting(s, r);
    s->role[r] = spawn(callgrind ? "/usr/bin/valgrind" : program, argv, log);
    unsetenv("LD_PRELOAD");
    for (size_t i = 0; i < n; i++) {
        free(argv[i]);
    }
}

void stack_check(struct stack *s)
{
    for (int r = 0; r < ROLE_CLIENT; r++) {
        if (s->role[r] > 0 && waitpid(s->role[r], NULL, WNOHANG) != 0) {
            s->role[r] = 0;
            _cleanup_free_ char *log = xasprintf("%s/%s.log", s->dir, roles[r].data);
            _cleanup_buf_ struct buf b = BUF_INIT(1u << 20);
            if (file_read(log, 1u << 20, 0, &b, NULL) == 0 && b.n) {
                fprintf(stderr, "%s\n", (char *)b.p);
            }
            bench_fail(role_name((enum role)r), "ended");
        }
    }
}

/* ---- files ------------------------------------------------------------------------------------
 */

static void make_trust(struct stack *s)
{
    _cleanup_(service_keys_done) struct service_keys verifier = {0}, kbs = {0}, gate = {0};
    _cleanup_free_ char *path = stack_path(s, "trust.json");
    _cleanup_free_ char *v = stack_path(s, "verifier"), *k = stack_path(s, "kbs");
    _cleanup_free_ char *g = stack_path(s, "gate");
    unsigned both = KEYFILE_SIGN | KEYFILE_SEAL, all = both | KEYFILE_KEK;

    MUST(service_keys_load(v, KEYFILE_SIGN, KEYFILE_SIGN, &verifier, e));
    MUST(service_keys_load(k, all, all, &kbs, e));
    MUST(service_keys_load(g, both, both, &gate, e));
    json_t *j = json_pack("{s:i, s:[o], s:[o], s:o, s:[o], s:o, s:[]}", "v", 1, "verifier",
                          jkey_public_jwk(verifier.sign), "kbs", jkey_public_jwk(kbs.sign),
                          "kbs_seal", jkey_public_jwk(kbs.seal), "gate", jkey_public_jwk(gate.sign),
                          "gate_seal", jkey_public_jwk(gate.seal), "reviewers");
    _cleanup_free_ char *text = json_dumps(j, 0);
    json_decref(j);
    MUST(file_replace(path, BYTES_STR(text), 0644, e));
    _cleanup_json_ json_t *pub = jkey_public_jwk(kbs.seal), *sign = jkey_public_jwk(gate.sign);
    MUST(jkey_from_jwk(pub, &s->kbs_seal, e));
    MUST(jkey_from_jwk(sign, &s->gate_sign, e));
}

static void map_counts(struct stack *s)
{
    _cleanup_free_ char *path = stack_path(s, "counts");
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, sizeof(struct count_page)) < 0) {
        bench_fail(path, strerror(errno));
    }
    s->counts = mmap(NULL, sizeof(struct count_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s->counts == MAP_FAILED) {
        bench_fail(path, strerror(errno));
    }
}

struct stack *stack_start(const char *bin)
{
    static const char *const hosts[] = {BENCH_HOST};
    static const char *const dirs[] = {"nats", "scheduler", "launcher", "verifier",
                                       "kbs",  "gate",      "store",    "store/datasets"};
    struct stack *s = xcalloc(1, sizeof(*s));
    const char *tmp = getenv("TMPDIR");

    snprintf(s->dir, sizeof(s->dir), "%.40s/coffer-bench.XXXXXX", tmp ? tmp : "/tmp");
    snprintf(s->bin, sizeof(s->bin), "%s", bin);
    if (!mkdtemp(s->dir)) {
        bench_fail(s->dir, strerror(errno));
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *path = stack_path(s, dirs[i]);
        if (mkdir(path, 0700) < 0) {
            bench_fail(path, strerror(errno));
        }
    }
    map_counts(s);
    uint16_t port = natsconf_free_port();
    _cleanup_free_ char *nats = stack_path(s, "nats"), *log = stack_path(s, "nats.log");
    _cleanup_free_ char *conf = stack_path(s, "nats/nats-server.conf");
    _cleanup_free_ char *ca = stack_path(s, "nats/ca.pem");
    _cleanup_free_ char *seed = stack_path(s, "nats/admin.seed");
    struct natsconf_opts o = {.dir = nats,
                              .listen_host = "127.0.0.1",
                              .port = port,
                              .hosts = hosts,
                              .n_hosts = ARRAY_LEN(hosts)};
    MUST(natsconf_write(&o, e));
    snprintf(s->url, sizeof(s->url), "tls://127.0.0.1:%u", port);
    s->nats = spawn_nats(conf, log, port);
    struct bus_opts admin = {.url = s->url, .ca_file = ca, .seed_file = seed, .admin = 1};
    MUST(bus_provision(&admin, hosts, ARRAY_LEN(hosts), e));
    make_trust(s);
    for (int r = 0; r < ROLE_CLIENT; r++) {
        spawn_role(s, (enum role)r);
    }
    s->role[ROLE_CLIENT] = getpid();
    return s;
}

void stack_stop(struct stack *s)
{
    for (int r = ROLE_CLIENT - 1; r >= 0; r--) {
        kill_and_wait(s->role[r], SIGTERM);
    }
    kill_and_wait(s->nats, SIGTERM);
    if (!getenv("COFFER_TEST_KEEP")) {
        remove_tree(s->dir);
    }
    munmap(s->counts, sizeof(*s->counts));
    jkey_free(s->kbs_seal);
    jkey_free(s->gate_sign);
    free(s);
}
