/* The children of `coffer dev`: command lines, starting, reaping, restarting, readiness. */
#include "cli/dev.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "common/buf.h"
#include "common/fileio.h"
#include "common/log.h"
#include "common/natsconf.h"

#define ARGS_MAX 96
#define NATS_LOG_MAX_BYTES (16 << 20)

static const struct {
    const char *name; /* of the program */
    enum service service;
    const char *const *extra;
} table[DEV_N] = {
    [DEV_NATS] = {"nats-server", SVC_N, NULL},
    [DEV_VERIFIER] = {"svc-verifier", SVC_VERIFIER, NULL},
    [DEV_KBS] = {"svc-kbs", SVC_KBS, NULL},
    [DEV_GATE] = {"svc-gate", SVC_GATE, NULL},
    [DEV_SCHEDULER] = {"svc-scheduler", SVC_SCHEDULER, NULL},
    [DEV_LAUNCHER] = {"svc-launcher", SVC_LAUNCHER, NULL},
};

int64_t dev_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- command lines
 * ------------------------------------------------------------------------------- */

struct args {
    char *v[ARGS_MAX + 1];
    size_t n;
};

static void add(struct args *a, const char *fmt, ...) _printf_(2, 3);
static void add(struct args *a, const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0) {
        abort();
    }
    va_end(ap);
    if (a->n == ARGS_MAX) {
        abort(); /* the settings are bounded when they are read */
    }
    a->v[a->n++] = s;
}

/* The directory of this very program, or ../libexec/coffer beside it. */
int dev_find_programs(struct dev *d, struct err *e)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n <= 0) {
        return err_errno(e, "/proc/self/exe");
    }
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    const char *const places[] = {"", "/../libexec/coffer"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        _cleanup_free_ char *dir = xasprintf("%s%s", self, places[i]);
        _cleanup_free_ char *kbs = xasprintf("%s/svc-kbs", dir);
        if (access(kbs, X_OK) == 0) {
            d->program_dir = TAKE_PTR(dir);
            return 0;
        }
    }
    return err_set(e, ERR_NOT_FOUND,
                   "the services' programs (svc-kbs, ...) are neither in %s nor in "
                   "%s/../libexec/coffer",
                   self, self);
}

/* In PATH, or where Debian puts it, which is not in every user's PATH. */
static char *find_nats_server(void)
{
    const char *path = getenv("PATH");
    _cleanup_free_ char *all =
        xasprintf("%s:/usr/sbin:/usr/local/sbin:/usr/local/bin", path ? path : "");
    char *save = NULL;

    for (char *dir = strtok_r(all, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
        _cleanup_free_ char *p = xasprintf("%s/nats-server", dir);
        if (access(p, X_OK) == 0) {
            return TAKE_PTR(p);
        }
    }
    return NULL;
}

static int nats_args(struct dev_child *c, struct args *a, struct err *e)
{
    _cleanup_free_ char *program = find_nats_server();

    if (!program) {
        return err_set(e, ERR_NOT_FOUND,
                       "nats-server is neither in PATH nor in /usr/sbin; on Debian "
                       "it is the package nats-server");
    }
    add(a, "%s", program);
    add(a, "-c");
    add(a, "%s/nats/nats-server.conf", c->dev->dir);
    c->log_path = xasprintf("%s/nats/nats.log", c->dev->dir);
    return 0;
}

/* Sample evidence is believed only where nothing else is made. */
static void vm_verifier_args(const struct dev *d, struct args *a)
{
    if (d->guest_dir) {
        add(a, "--reference-values=%s/verifier/refvals.jws", d->dir);
        add(a, "--tpm-hosts=%s/verifier/tpm-hosts.json", d->dir);
    } else {
        add(a, "--allow-sample=true");
    }
}

static void vm_launcher_args(const struct dev *d, struct args *a)
{
    add(a, "--backends=%s", d->backend);
    if (d->guest_dir) {
        add(a, "--guest-image=%s", d->guest_dir);
        add(a, "--tpm-ca=%s/launcher/tpm-ca", d->dir);
    }
}

static int service_args(struct dev_child *c, struct args *a, struct err *e)
{
    const struct dev *d = c->dev;
    const char *service = service_name(table[c->id].service);
    _cleanup_free_ char *nats = xasprintf("%s/nats", d->dir);
    _cleanup_free_ char *seed = natsconf_seed_path(nats, table[c->id].service, DEV_HOST);

    add(a, "%s/%s", d->program_dir, c->name);
    if (access(a->v[0], X_OK) < 0) {
        return err_errno(e, "%s", a->v[0]);
    }
    add(a, "--nats-url=%s", d->url);
    add(a, "--nats-ca=%s/ca.pem", nats);
    add(a, "--nats-seed=%s", seed);
    add(a, "--data-dir=%s/%s", d->dir, service);
    add(a, "--trust=%s/trust.json", d->dir);
    add(a, "--host=%s", DEV_HOST);
    add(a, "--log-level=%s", d->log_level);
    for (const char *const *p = table[c->id].extra; p && *p; p++) {
        add(a, "%s", *p);
    }
    if (c->id == DEV_VERIFIER) {
        vm_verifier_args(d, a);
    }
    if (c->id == DEV_LAUNCHER) {
        vm_launcher_args(d, a);
        add(a, "--store=%s/store", d->dir);
        add(a, "--worker=%s/svc-worker", d->program_dir);
        add(a, "--worker-nats-seed=%s/worker.seed", nats);
    }
    for (size_t i = 0; i < d->n_settings; i++) {
        if (streq(d->settings[i].service, service)) {
            add(a, "--%s", d->settings[i].name_value);
        }
    }
    return 0;
}

/* ---- pid files: for scripts and tests
 * ------------------------------------------------------------ */

static void write_pid(const struct dev_child *c)
{
    _cleanup_free_ char *path = xasprintf("%s/pids/%s", c->dev->dir, c->name);
    char text[32];
    struct err e = {0};

    snprintf(text, sizeof(text), "%d\n", (int)c->pid);
    if (c->pid == 0) {
        unlink(path);
    } else if (file_replace(path, BYTES_STR(text), 0644, &e) < 0) {
        log_err(LOG_WARN, "child.pid", &e);
    }
}

/* ---- ends and restarts
 * --------------------------------------------------------------------------- */

static void close_log(struct dev_child *c)
{
    char b[4096];
    ssize_t n;

    if (c->log_fd < 0) {
        return;
    }
    /* What it said last is most of what there is to know. Bounded: its children may still write. */
    for (int i = 0; i < 64 && (n = read(c->log_fd, b, sizeof(b))) > 0; i++) {
        dev_lines_add(c, b, (size_t)n);
    }
    dev_lines_end(c);
    ev_io_stop(c->dev->loop, &c->log);
    close(c->log_fd);
    c->log_fd = -1;
}

static void describe(int status, char *out, size_t size)
{
    if (WIFSIGNALED(status)) {
        snprintf(out, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else {
        snprintf(out, size, "status %d", WEXITSTATUS(status));
    }
}

/* Counts ends that came soon after the start; somebody's kill -9 is no failure of the child's. 1
 * when there were too many. */
static int failed_too_often(struct dev_child *c, int status, int64_t now)
{
    if (now - c->started_ms >= DEV_EARLY_MS ||
        (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
        return 0;
    }
    c->failed_ms[c->n_failed % DEV_FAILURES_MAX] = now;
    c->n_failed++;
    return c->n_failed >= DEV_FAILURES_MAX &&
           now - c->failed_ms[c->n_failed % DEV_FAILURES_MAX] < DEV_FAILURES_MS;
}

static void on_end(struct ev_loop *loop, ev_child *w, int events)
{
    struct dev_child *c = w->data;
    int64_t now = dev_now_ms(), up_ms = now - c->started_ms;
    char how[96];

    (void)events;
    ev_child_stop(loop, w);
    close_log(c);
    c->pid = 0;
    c->ready = 0;
    write_pid(c);
    describe(w->rstatus, how, sizeof(how));
    if (c->stopping || c->dev->stopping) {
        if (w->rstatus != 0) {
            log_warn("child.stopped", "%s ended with %s", c->name, how);
        }
        dev_on_child_ended(c->dev, c);
        return;
    }
    if (failed_too_often(c, w->rstatus, now)) {
        const char *where = c->log_path ? c->log_path : "its lines above";
        dev_fail(c->dev, "%s ended with %s, for the %dth time within %d s of starting; see %s",
                 c->name, how, DEV_FAILURES_MAX, DEV_FAILURES_MS / 1000, where);
        return;
    }
    if (up_ms >= DEV_EARLY_MS) {
        c->backoff_s = DEV_BACKOFF_MIN_S;
    }
    log_warn("child.ended", "%s ended with %s after %.1f s; starting it again in %.1f s", c->name,
             how, (double)up_ms / 1000.0, c->backoff_s);
    ev_timer_set(&c->restart, c->backoff_s, 0);
    ev_timer_start(loop, &c->restart);
    c->backoff_s = c->backoff_s * 2 > DEV_BACKOFF_MAX_S ? DEV_BACKOFF_MAX_S : c->backoff_s * 2;
}

static void on_restart(struct ev_loop *loop, ev_timer *w, int events)
{
    struct dev_child *c = w->data;
    struct err e = {0};

    (void)loop;
    (void)events;
    if (dev_child_start(c, &e) < 0) {
        dev_fail(c->dev, "cannot start %s again: %s", c->name, e.msg);
    }
}

static void on_log(struct ev_loop *loop, ev_io *w, int events)
{
    struct dev_child *c = w->data;
    char b[16384];
    ssize_t n = read(c->log_fd, b, sizeof(b));

    (void)events;
    if (n > 0) {
        dev_lines_add(c, b, (size_t)n);
    } else if (n == 0 || errno != EAGAIN) {
        ev_io_stop(loop, w);
    }
}

/* ---- starting
 * ------------------------------------------------------------------------------------ */

static int open_output(struct dev_child *c, int *ret_ours, struct err *e)
{
    int p[2];

    *ret_ours = -1;
    if (c->log_path) {
        struct stat st;
        if (stat(c->log_path, &st) == 0 && st.st_size > NATS_LOG_MAX_BYTES) {
            _cleanup_free_ char *old = xasprintf("%s.1", c->log_path);
            rename(c->log_path, old);
        }
        int fd = open(c->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        return fd < 0 ? err_errno(e, "%s", c->log_path) : fd;
    }
    if (pipe2(p, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    *ret_ours = p[0];
    return p[1];
}

/* In the child: async-signal-safe calls only. */
static void become(const struct dev_child *c, int out, pid_t parent, const char *notify)
{
    sigset_t none;
    int null = open("/dev/null", O_RDWR);

    /* Services survive being killed at any moment, so it is enough that none outlives us. */
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent || null < 0) {
        _exit(127);
    }
    setpgid(0, 0); /* Ctrl-C is for us alone: we stop them in order */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0) {
        _exit(127);
    }
    close_range(3, ~0u, 0);
    if (notify) {
        putenv((char *)(uintptr_t)notify);
    }
    execv(c->argv[0], c->argv);
    _exit(127);
}

int dev_child_start(struct dev_child *c, struct err *e)
{
    _cleanup_free_ char *notify = xasprintf("NOTIFY_SOCKET=%s", c->dev->notify_name);
    _cleanup_close_ int ours = -1;
    _cleanup_close_ int out = open_output(c, &ours, e);
    pid_t parent = getpid();

    if (out < 0) {
        return -1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        return err_errno(e, "fork");
    }
    if (pid == 0) {
        become(c, out, parent, c->id == DEV_NATS ? NULL : notify);
    }
    c->pid = pid;
    c->ready = 0;
    c->started_ms = dev_now_ms();
    c->log_fd = TAKE_FD(ours);
    if (c->log_fd >= 0) {
        ev_io_set(&c->log, c->log_fd, EV_READ);
        ev_io_start(c->dev->loop, &c->log);
    }
    ev_child_set(&c->watcher, pid, 0);
    ev_child_start(c->dev->loop, &c->watcher);
    write_pid(c);
    return 0;
}

int dev_children_init(struct dev *d, struct err *e)
{
    _cleanup_free_ char *pids = xasprintf("%s/pids", d->dir);
    if (mkdir(pids, 0700) < 0 && errno != EEXIST) {
        return err_errno(e, "mkdir %s", pids);
    }
    for (int i = 0; i < DEV_N; i++) {
        struct dev_child *c = &d->children[i];
        struct args a = {.n = 0};
        c->dev = d;
        c->id = (enum dev_id)i;
        c->name = table[i].name;
        c->log_fd = -1;
        c->backoff_s = DEV_BACKOFF_MIN_S;
        int r = i == DEV_NATS ? nats_args(c, &a, e) : service_args(c, &a, e);
        c->argv = xmemdup(a.v, sizeof(a.v));
        if (r < 0) {
            return -1;
        }
        ev_child_init(&c->watcher, on_end, 0, 0);
        ev_io_init(&c->log, on_log, -1, EV_READ);
        ev_timer_init(&c->restart, on_restart, 0, 0);
        c->watcher.data = c->log.data = c->restart.data = c;
        write_pid(c);
    }
    return 0;
}

void dev_children_done(struct dev *d)
{
    for (int i = 0; i < DEV_N; i++) {
        struct dev_child *c = &d->children[i];
        for (char **p = c->argv; p && *p; p++) {
            free(*p);
        }
        free(c->argv);
        free(c->log_path);
    }
}

int dev_children_signal(struct dev *d, int sig)
{
    int n = 0;

    for (int i = 0; i < DEV_N; i++) {
        struct dev_child *c = &d->children[i];
        if (c->pid > 0) {
            c->stopping = 1;
            kill(c->pid, sig);
            n++;
        }
    }
    return n;
}

/* ---- readiness (systemd's notify protocol)
 * --------------------------------------------------------- */

static pid_t sender(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred u;
            memcpy(&u, CMSG_DATA(c), sizeof(u));
            return u.pid;
        }
    }
    return 0;
}

static void on_notify(struct ev_loop *loop, ev_io *w, int events)
{
    struct dev *d = w->data;
    char text[512], control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec iov = {.iov_base = text, .iov_len = sizeof(text) - 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(d->notify_fd, &m, MSG_CMSG_CLOEXEC);

    (void)loop;
    (void)events;
    if (n <= 0) {
        return;
    }
    text[n] = '\0';
    pid_t pid = sender(&m);
    for (int i = 0; i < DEV_N; i++) {
        struct dev_child *c = &d->children[i];
        if (c->pid > 0 && c->pid == pid && strncmp(text, "READY=1", 7) == 0 && !c->ready) {
            c->ready = 1;
            dev_on_ready(d);
        }
    }
}

int dev_notify_open(struct dev *d, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(a);
    int on = 1;
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    /* The kernel picks a name in the abstract namespace: paths have a limit that --data may pass.
     */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof(sa_family_t)) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0) {
        return err_errno(e, "socket for readiness");
    }
    size_t n = len - offsetof(struct sockaddr_un, sun_path);
    snprintf(d->notify_name, sizeof(d->notify_name), "@%.*s", (int)(n > 0 ? n - 1 : 0),
             a.sun_path + 1);
    d->notify_fd = TAKE_FD(fd);
    ev_io_init(&d->notify, on_notify, d->notify_fd, EV_READ);
    d->notify.data = d;
    ev_io_start(d->loop, &d->notify);
    return 0;
}
