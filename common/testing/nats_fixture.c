#include "common/testing/nats_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/natsconf.h"

static const char *server_path(void)
{
    static const char *const paths[] = {"/usr/sbin/nats-server", "/usr/bin/nats-server",
                                        "/usr/local/bin/nats-server"};

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        if (access(paths[i], X_OK) == 0) {
            return paths[i];
        }
    }
    return NULL;
}

int nats_fixture_available(void)
{
    return server_path() != NULL;
}

int64_t test_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void test_sleep_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

static pid_t spawn_path(const char *path, char *const *argv, const char *log_path)
{
    pid_t parent = getpid(), pid = fork();

    if (pid != 0) {
        return pid < 0 ? 0 : pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent) {
        _exit(127);
    }
    if (log_path) {
        int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd >= 0) {
            dup2(fd, STDERR_FILENO);
            dup2(fd, STDOUT_FILENO);
        }
    }
    execv(path, argv);
    _exit(127);
}

pid_t test_spawn(char *const *argv, const char *log_path)
{
    char self[512], path[800];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n <= 0) {
        return 0;
    }
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(path, sizeof(path), "%s/%s", self, argv[0]);
    return spawn_path(path, argv, log_path);
}

int test_reap(pid_t pid, int sig, int timeout_ms)
{
    int64_t until = test_now_ms() + timeout_ms;
    int status;

    if (sig) {
        kill(pid, sig);
    }
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (test_now_ms() > until) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
        test_sleep_ms(5);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

size_t test_rss_bytes(pid_t pid)
{
    char path[64];
    unsigned long total = 0, resident = 0;

    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%lu %lu", &total, &resident) != 2) {
        return 0;
    }
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void test_remove_tree(const char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int wait_port(struct nats_fixture *f, struct err *e)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(f->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int64_t until = test_now_ms() + 20000;

    while (test_now_ms() < until) {
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
            return 0;
        }
        if (waitpid(f->pid, NULL, WNOHANG) != 0) {
            f->pid = 0;
            return err_set(e, ERR_IO, "nats-server ended at once; see %s/server.log", f->conf);
        }
        test_sleep_ms(10);
    }
    return err_set(e, ERR_TIMEOUT, "nats-server does not listen");
}

int nats_fixture_restart(struct nats_fixture *f, struct err *e)
{
    _cleanup_free_ char *conf = xasprintf("%s/nats-server.conf", f->conf);
    _cleanup_free_ char *log = xasprintf("%s/server.log", f->conf);
    char *argv[] = {(char *)"nats-server", (char *)"-c", conf, NULL};

    f->pid = spawn_path(server_path(), argv, log);
    return f->pid ? wait_port(f, e) : err_errno(e, "fork");
}

int nats_fixture_start(struct nats_fixture *f, const char *const *hosts, size_t n_hosts,
                       struct err *e)
{
    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "/tmp/coffer nats.XXXXXX");
    if (!mkdtemp(f->dir)) {
        return err_errno(e, "mkdtemp");
    }
    snprintf(f->conf, sizeof(f->conf), "%s/nats", f->dir);
    f->port = natsconf_free_port();
    snprintf(f->url, sizeof(f->url), "tls://127.0.0.1:%u", f->port);
    struct natsconf_opts o = {.dir = f->conf,
                              .listen_host = "127.0.0.1",
                              .port = f->port,
                              .hosts = hosts,
                              .n_hosts = n_hosts};
    if (natsconf_write(&o, e) < 0 || nats_fixture_restart(f, e) < 0) {
        return -1;
    }
    struct bus_opts admin = nats_fixture_opts(f, SVC_CLIENT, NULL);
    admin.admin = 1;
    snprintf(f->seed, sizeof(f->seed), "%s/admin.seed", f->conf);
    return bus_provision(&admin, hosts, n_hosts, e);
}

void nats_fixture_kill(struct nats_fixture *f)
{
    if (f->pid) {
        kill(f->pid, SIGKILL);
        waitpid(f->pid, NULL, 0);
        f->pid = 0;
    }
}

void nats_fixture_stop(struct nats_fixture *f)
{
    nats_fixture_kill(f);
    if (f->dir[0] && !getenv("COFFER_TEST_KEEP")) {
        test_remove_tree(f->dir);
    }
}

struct bus_opts nats_fixture_opts(struct nats_fixture *f, enum service s, const char *host)
{
    _cleanup_free_ char *seed = natsconf_seed_path(f->conf, s, host);

    snprintf(f->seed, sizeof(f->seed), "%s", seed);
    snprintf(f->ca, sizeof(f->ca), "%s/ca.pem", f->conf);
    return (struct bus_opts){
        .url = f->url, .ca_file = f->ca, .seed_file = f->seed, .service = s, .host = host};
}
