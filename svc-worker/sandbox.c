/* The life of one container: runner (the caller) -> keeper -> crun -> workload. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/magic.h>

#include "svc-worker/sandbox_internal.h"

#define POLL_MS 100
#define CONFIG_MAX_BYTES (256u * 1024)

/* What the keeper tells the runner, in one write(2) that a pipe keeps whole. */
struct report {
    int failed; /* e holds; else wait_status */
    struct err e;
    int wait_status; /* crun's */
    char crun_log[512];
};

_Static_assert(sizeof(struct report) <= 4096, "PIPE_BUF: a report is written whole");

struct keeper {
    const struct sandbox_config *c;
    const struct box_cgroup *cgroup;
    int lifeline; /* read end; its other end is the runner's alone */
    int report_fd;
    int stdout_fd, stderr_fd;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- the keeper: first process of its pid namespace --- */

static int write_config(const struct keeper *k, struct err *e)
{
    json_t *config = bundle_config(k->c, !k->cgroup->memory);
    _cleanup_free_ char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;

    json_decref(config);
    if (!text) {
        return err_set(e, ERR_INVALID, "args, env, workdir: expected UTF-8 without NUL");
    }
    if (strlen(text) > CONFIG_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "args and env: expected at most %u bytes as JSON",
                       CONFIG_MAX_BYTES);
    }
    _cleanup_close_ int fd =
        open(STAGE_BUNDLE "/config.json", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        return err_errno(e, "cannot write the container's configuration");
    }
    return 0;
}

/* Becomes crun; exit codes 125, 126 and 127 with an empty log tell where it did not get to. */
static void exec_crun(const struct keeper *k)
{
    sigset_t none;
    char *const argv[] = {(char *)"crun",
                          (char *)"--root=" STAGE_STATE,
                          (char *)"--cgroup-manager=disabled",
                          (char *)"--log=" STAGE_LOG,
                          (char *)"run",
                          (char *)"--bundle=" STAGE_BUNDLE,
                          (char *)k->c->id,
                          NULL};
    char *const envp[] = {(char *)"PATH=/usr/bin:/bin", NULL};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (box_cgroup_join(k->cgroup) < 0) {
        _exit(125);
    }
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* the stage's own */
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(k->stdout_fd, 1) < 0 ||
        dup2(k->stderr_fd, 2) < 0 || syscall(SYS_close_range, 3u, ~0u, 0) < 0) {
        _exit(126);
    }
    execve(box_crun_path(), argv, envp);
    _exit(127);
}

static void read_log(char *buf, size_t size)
{
    _cleanup_close_ int fd = open(STAGE_LOG, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

    buf[n > 0 ? n : 0] = 0;
    for (char *p = buf; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            *p = ' ';
        }
    }
}

static int keeper_run(const struct keeper *k, struct report *r, struct err *e)
{
    if (stage_enter(k->c, e) < 0 || stage_loopback_up(e) < 0 || write_config(k, e) < 0) {
        return -1;
    }
    if (!box_crun_path()) {
        return err_set(e, ERR_UNSUPPORTED, "crun is not installed");
    }
    pid_t crun = fork();
    if (crun == 0) {
        exec_crun(k);
    }
    if (crun < 0) {
        return err_errno(e, "cannot start crun");
    }
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid == crun) {
            r->wait_status = status;
            break;
        }
        if (pid < 0 && errno != EINTR) {
            return err_errno(e, "cannot wait for crun");
        }
    }
    read_log(r->crun_log, sizeof(r->crun_log));
    return 0;
}

static void reset_signals(void)
{
    for (int s = 1; s < NSIG; s++) {
        signal(s, SIG_DFL);
    }
}

/* Never returns. When this process ends, the kernel kills all that is left in its namespace. */
static void keeper_main(const struct keeper *k)
{
    struct report r = {0};
    struct pollfd life = {.fd = k->lifeline, .events = POLLIN};

    /* The signal covers a runner that dies from now on, the lifeline one that died before. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || poll(&life, 1, 0) != 0) {
        _exit(1);
    }
    reset_signals();
    setsid();
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        r.failed = 1;
        err_errno(&r.e, "cannot make the mounts private");
    } else {
        r.failed = keeper_run(k, &r, &r.e) < 0;
    }
    _exit(write(k->report_fd, &r, sizeof(r)) == (ssize_t)sizeof(r) ? 0 : 1);
}

/* --- the runner --- */

struct pipe_pair {
    int r, w;
};

static void pipe_done(struct pipe_pair *p)
{
    closep(&p->r);
    closep(&p->w);
}

static int pipe_make(struct pipe_pair *p, struct err *e)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "cannot make a pipe");
    }
    p->r = fds[0];
    p->w = fds[1];
    return 0;
}

static int open_stream(const struct sandbox_config *c, const char *name, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", c->work_dir, name);
    int fd = open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? err_errno(e, "cannot open %s", path) : fd;
}

/* Waits for the keeper's end; kills it, and so everything in it, at the deadline, when stop_fd says
 * so, or once the kernel has killed one of the processes for want of memory (version 1 cgroups kill
 * only that one). */
static void watch(const struct sandbox_config *c, const struct box_cgroup *g, int pidfd,
                  struct sandbox_result *r)
{
    uint64_t start = now_ms(), end = start + (uint64_t)c->timeout_ms;
    struct pollfd p[] = {{.fd = pidfd, .events = POLLIN}, {.fd = c->stop_fd, .events = POLLIN}};

    for (;;) {
        uint64_t now = now_ms();
        int left = now >= end ? 0 : end - now > POLL_MS ? POLL_MS : (int)(end - now);
        int n = poll(p, c->stop_fd > 0 ? 2 : 1, left);
        if (n > 0 && p[0].revents) {
            break;
        }
        r->oom_killed = box_cgroup_oom_kills(g) > 0;
        r->stopped = !r->oom_killed && n > 0 && p[1].revents;
        r->timed_out = !r->oom_killed && !r->stopped && now_ms() >= end;
        if (r->oom_killed || r->timed_out || r->stopped) {
            syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
            break;
        }
    }
    r->wall_ms = now_ms() - start;
}

static void set_exit(struct sandbox_result *r, int code)
{
    r->exit_code = code;
    r->signal = code > 128 && code < 128 + NSIG ? code - 128 : 0;
}

/* crun 1.8 says one of these when args[0] or workdir is at fault, not the host. */
static int workload_at_fault(const char *log)
{
    return strstr(log, "executable") || strstr(log, "exec ") || strstr(log, "chdir") ||
           strstr(log, "cwd");
}

static int judge(const struct report *rep, struct sandbox_result *r, struct err *e)
{
    int status = rep->wait_status;

    if (WIFSIGNALED(status)) {
        set_exit(r, 128 + WTERMSIG(status));
        return 0;
    }
    int code = WEXITSTATUS(status);
    if (code && rep->crun_log[0] && !r->oom_killed) {
        return err_set(e, workload_at_fault(rep->crun_log) ? ERR_WORKLOAD : ERR_UNSUPPORTED,
                       "the container could not be started: crun: %.300s", rep->crun_log);
    }
    set_exit(r, code);
    return 0;
}

static int finish(const struct box_cgroup *g, int pidfd, int report_fd, struct sandbox_result *r,
                  struct err *e)
{
    struct report rep;
    siginfo_t info;

    while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0) {
        if (errno != EINTR) {
            return err_errno(e, "cannot wait for the sandbox");
        }
    }
    r->oom_killed = r->oom_killed || box_cgroup_oom_kills(g) > 0;
    ssize_t n = read(report_fd, &rep, sizeof(rep));
    if (n != (ssize_t)sizeof(rep)) {
        if (!r->timed_out && !r->oom_killed && !r->stopped) {
            return err_set(e, ERR_IO, "the sandbox's keeper ended without a report (%d)",
                           info.si_status);
        }
        set_exit(r, 128 + SIGKILL);
        return 0;
    }
    if (rep.failed) {
        if (e) {
            *e = rep.e;
        }
        return err_wrap(e, "cannot build the sandbox");
    }
    return judge(&rep, r, e);
}

static int run_in(const struct sandbox_config *c, const struct box_cgroup *g,
                  struct sandbox_result *r, struct err *e)
{
    _cleanup_(pipe_done) struct pipe_pair life = {-1, -1}, report = {-1, -1};
    _cleanup_close_ int out_fd = open_stream(c, SANDBOX_STDOUT, e);
    _cleanup_close_ int err_fd = out_fd < 0 ? -1 : open_stream(c, SANDBOX_STDERR, e);
    _cleanup_close_ int pidfd = -1;

    if (out_fd < 0 || err_fd < 0 || pipe_make(&life, e) < 0 || pipe_make(&report, e) < 0) {
        return -1;
    }
    const struct keeper k = {.c = c,
                             .cgroup = g,
                             .lifeline = life.r,
                             .report_fd = report.w,
                             .stdout_fd = out_fd,
                             .stderr_fd = err_fd};
    int pid = box_clone(BOX_KEEPER_NAMESPACES, &pidfd);
    if (pid == 0) {
        close(life.w);
        keeper_main(&k);
    }
    if (pid < 0) {
        return err_set(e, ERR_UNSUPPORTED,
                       "cannot create pid, mount, network, ipc and uts namespaces: %s",
                       strerror(errno));
    }
    close(report.w);
    report.w = -1;
    watch(c, g, pidfd, r);
    return finish(g, pidfd, report.r, r, e);
}

/* sandbox_prepare_private() leaves a tmpfs at work_dir, and nothing below it is on another disk. */
static int check_private(const struct sandbox_config *c, struct err *e)
{
    struct statfs fs;

    if (statfs(c->work_dir, &fs) < 0) {
        return err_errno(e, "work_dir %s", c->work_dir);
    }
    if (fs.f_type != TMPFS_MAGIC || prctl(PR_GET_DUMPABLE) != 0) {
        return err_set(e, ERR_WRONG_STATE,
                       "work_dir %s is not this process's private tmpfs: prepare it first",
                       c->work_dir);
    }
    return 0;
}

int sandbox_run(const struct sandbox_config *c, struct sandbox_result *ret, struct err *e)
{
    struct sandbox_result r = {0};
    struct box_cgroup g;

    if (bundle_check(c, e) < 0 || check_private(c, e) < 0 || stage_prepare(c, e) < 0) {
        return -1;
    }
    box_cgroup_make(c, &g);
    r.limits_enforced = g.memory && g.pids && g.cpu;
    snprintf(r.limits_note, sizeof(r.limits_note), "%s", g.note);
    int rc = run_in(c, &g, &r, e);
    box_cgroup_done(&g);
    if (rc == 0) {
        *ret = r;
    }
    return rc;
}
