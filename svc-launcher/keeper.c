#include "svc-launcher/backend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

/* The keeper of one CVM: a small process between the launcher and the worker. It is the subreaper
 * of all that the worker starts, so nothing can leave the tree; it is told by the kernel when the
 * launcher dies; and it ends last, when every other process of the tree and the work directory are
 * gone. It runs as a program of its own, so it has no memory, descriptor or thread of the launcher.
 */

#define MAX_PROCESSES 65536
#define MAX_DEPTH 128
#define NOFILE 4096

/* ---- processes ------------------------------------------------------------------------------- */

/* Reads "/proc/<pid>/stat" behind the command, which may hold anything: parent and start time. */
static int read_stat(pid_t pid, pid_t *ret_parent, int64_t *ret_start)
{
    char path[64], text[1024];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n <= 0) {
        return -1;
    }
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    int parent;
    unsigned long long start;
    if (!p || sscanf(p + 1,
                     " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d"
                     " %*d %llu",
                     &parent, &start) != 2) {
        return -1;
    }
    *ret_parent = (pid_t)parent;
    *ret_start = (int64_t)start;
    return 0;
}

int64_t process_start(pid_t pid)
{
    pid_t parent;
    int64_t start;

    return read_stat(pid, &parent, &start) < 0 ? 0 : start;
}

void host_boot_id(char out[64])
{
    _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, 63);

    out[n < 0 ? 0 : n] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

struct process {
    pid_t pid, parent;
    int mark;
};

static size_t list_processes(struct process **ret)
{
    struct process *v = NULL;
    size_t n = 0, size = 0;
    struct dirent *d;

    DIR *dir = opendir("/proc");
    while (dir && (d = readdir(dir)) && n < MAX_PROCESSES) {
        int64_t start;
        pid_t parent, pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid <= 0 || read_stat(pid, &parent, &start) < 0) {
            continue;
        }
        if (n == size) {
            size = size ? size * 2 : 256;
            v = xrealloc(v, size * sizeof(*v));
        }
        v[n++] = (struct process){.pid = pid, .parent = parent};
    }
    if (dir) {
        closedir(dir);
    }
    *ret = v;
    return n;
}

static int marked(const struct process *v, size_t n, pid_t pid)
{
    for (size_t i = 0; i < n; i++) {
        if (v[i].pid == pid) {
            return v[i].mark;
        }
    }
    return 0;
}

size_t kill_descendants(pid_t of, int (*keep)(void *arg, pid_t pid), void *arg)
{
    struct process *v = NULL;
    size_t n = list_processes(&v), killed = 0;
    int more = 1;

    while (more) { /* each round finds at least one more, or is the last */
        more = 0;
        for (size_t i = 0; i < n; i++) {
            int child = v[i].parent == of && !(keep && keep(arg, v[i].pid));
            if (!v[i].mark && (child || marked(v, n, v[i].parent))) {
                v[i].mark = 1;
                more = 1;
                killed++;
                kill(v[i].pid, SIGKILL);
            }
        }
    }
    free(v);
    return killed;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int remove_below(int dir_fd, int depth);

static int remove_entry(int dir_fd, const char *name, int depth)
{
    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EISDIR && errno != EPERM) {
        return -1;
    }
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    if (depth >= MAX_DEPTH) {
        close(fd);
        errno = ELOOP;
        return -1;
    }
    if (remove_below(fd, depth + 1) < 0) {
        return -1;
    }
    return unlinkat(dir_fd, name, AT_REMOVEDIR);
}

/* Takes the descriptor. */
static int remove_below(int dir_fd, int depth)
{
    struct dirent *d;
    int rc = 0;

    DIR *dir = fdopendir(dir_fd);
    if (!dir) {
        close(dir_fd);
        return -1;
    }
    while ((d = readdir(dir))) {
        if (!streq(d->d_name, ".") && !streq(d->d_name, "..") &&
            remove_entry(dirfd(dir), d->d_name, depth) < 0) {
            rc = -1; /* the rest goes all the same */
        }
    }
    int saved = errno;
    closedir(dir);
    errno = saved;
    return rc;
}

int remove_tree(const char *path, struct err *e)
{
    if (remove_entry(AT_FDCWD, path, 0) < 0) {
        return err_errno(e, "cannot remove %s", path);
    }
    return 0;
}

/* ---- the worker ------------------------------------------------------------------------------ */

static void say(const char *text)
{
    /* The launcher may be gone; then nobody wants to know. */
    ssize_t n = write(STDOUT_FILENO, text, strlen(text));
    (void)n;
}

static void worker_child(char **argv, const char *work_dir, int report_fd)
{
    char home[4096];
    char *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "LANG=C.UTF-8", home, NULL};
    struct rlimit none = {0, 0}, files = {NOFILE, NOFILE};
    sigset_t empty;

    snprintf(home, sizeof(home), "HOME=%s", work_dir);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigemptyset(&empty);
    sigprocmask(SIG_SETMASK, &empty, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_NOFILE, &files);
    execve(argv[0], argv, env);
    int failed = errno;
    ssize_t n = write(report_fd, &failed, sizeof(failed));
    (void)n;
    _exit(127);
}

/* Starts the worker and waits until it is another program, or is not. */
static pid_t start_worker(char **argv, const char *work_dir)
{
    int fds[2], failed = 0;
    char line[512];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        worker_child(argv, work_dir, fds[1]);
    }
    close(fds[1]);
    if (pid < 0 || read(fds[0], &failed, sizeof(failed)) == sizeof(failed)) {
        snprintf(line, sizeof(line), "{\"failed\":\"cannot run the worker: %s\"}\n",
                 strerror(pid < 0 ? errno : failed));
        say(line);
        close(fds[0]);
        return -1;
    }
    close(fds[0]);
    if (!argv[1] || !streq(argv[1], VM_VERB)) {
        say("{\"booted\":true}\n");
    }
    return pid;
}

static int64_t monotonic_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until the worker ends, or has had its time to end. Returns its wait status; -1: still there. */
static int watch(pid_t worker, const sigset_t *signals, int64_t grace_ms)
{
    int64_t kill_at = -1;

    for (;;) {
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
            if (pid == worker) {
                return status;
            }
        }
        int64_t left = kill_at < 0 ? 3600000 : kill_at - monotonic_ms();
        if (left <= 0) {
            return -1;
        }
        struct timespec t = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
        int sig = sigtimedwait(signals, NULL, &t);
        if (sig == SIGTERM && kill_at < 0) {
            kill(worker, SIGTERM);
            kill_at = monotonic_ms() + grace_ms;
        }
    }
}

/* Until this process has no descendants. A process in a system call that cannot be interrupted
 * makes this wait: as long as it exists, it would be a lie that nothing is left. */
static int end_all(pid_t worker, int status)
{
    for (int round = 0;; round++) {
        struct timespec pause = {.tv_nsec = round < 100 ? 2000000 : 200000000};
        int st;
        pid_t pid;
        kill_descendants(getpid(), NULL, NULL);
        while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
            status = pid == worker ? st : status;
        }
        if (pid < 0 && errno == ECHILD) {
            return status;
        }
        nanosleep(&pause, NULL);
    }
}

int keeper_main(int argc, char **argv)
{
    sigset_t signals;
    struct err e;

    if (argc < 6) {
        fprintf(stderr, "%s is started by svc-launcher only\n", KEEPER_VERB);
        return 2;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_SETMASK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    int orphan = getppid() != (pid_t)strtol(argv[2], NULL, 10);
    int64_t grace_ms = strtoll(argv[3], NULL, 10);
    const char *work_dir = argv[4];
    int status = 1 << 8;
    if (!orphan) {
        pid_t worker = start_worker(argv + 5, work_dir);
        close(STDIN_FILENO); /* the worker's launch configuration */
        if (worker > 0) {
            status = end_all(worker, watch(worker, &signals, grace_ms));
        }
    }
    if (remove_tree(work_dir, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
