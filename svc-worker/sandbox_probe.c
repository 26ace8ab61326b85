/* What this host can do for a sandbox, found out by trying. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "svc-worker/sandbox_internal.h"

static const char *const crun_paths[] = {"/usr/bin/crun", "/usr/local/bin/crun", "/bin/crun"};

const char *box_crun_path(void)
{
    for (size_t i = 0; i < ARRAY_LEN(crun_paths); i++) {
        if (access(crun_paths[i], X_OK) == 0) {
            return crun_paths[i];
        }
    }
    return NULL;
}

int box_clone(unsigned long namespaces, int *ret_pidfd)
{
    struct clone_args args = {
        .flags = namespaces | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
        .exit_signal = SIGCHLD,
    };

    return (int)syscall(SYS_clone3, &args, sizeof(args));
}

const char *sandbox_cgroup_mode_name(enum sandbox_cgroup_mode mode)
{
    switch (mode) {
    case SANDBOX_CGROUP_V1:
        return "v1";
    case SANDBOX_CGROUP_V2:
        return "v2";
    case SANDBOX_CGROUP_NONE:
        break;
    }
    return "none";
}

/* Exit codes of the trial child. */
enum trial {
    TRIAL_OK,
    TRIAL_NO_NOSWAP,
    TRIAL_PRIVATE,
    TRIAL_TMPFS,
    TRIAL_PROC,
    TRIAL_USER_NAMESPACE,
};

static enum trial trial_child(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return TRIAL_PRIVATE;
    }
    /* /proc is the one directory that is surely there to mount over. */
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) {
        return TRIAL_PROC;
    }
    int noswap = mount("tmpfs", "/proc", "tmpfs", 0, "size=4096,noswap") == 0;
    if (!noswap && mount("tmpfs", "/proc", "tmpfs", 0, "size=4096") < 0) {
        return TRIAL_TMPFS;
    }
    if (unshare(CLONE_NEWUSER) < 0) {
        return TRIAL_USER_NAMESPACE;
    }
    return noswap ? TRIAL_OK : TRIAL_NO_NOSWAP;
}

static int trial_verdict(int status, struct sandbox_probe *p, struct err *e)
{
    if (!WIFEXITED(status)) {
        return err_set(e, ERR_UNSUPPORTED, "the trial of namespaces was killed by signal %d",
                       WTERMSIG(status));
    }
    switch ((enum trial)WEXITSTATUS(status)) {
    case TRIAL_OK:
        p->tmpfs_noswap = 1;
        return 0;
    case TRIAL_NO_NOSWAP:
        return 0;
    case TRIAL_PRIVATE:
        return err_set(e, ERR_UNSUPPORTED, "cannot make mounts private in a new mount namespace");
    case TRIAL_TMPFS:
        return err_set(e, ERR_UNSUPPORTED, "cannot mount a tmpfs in a new mount namespace");
    case TRIAL_PROC:
        return err_set(e, ERR_UNSUPPORTED, "cannot mount proc in a new pid namespace");
    case TRIAL_USER_NAMESPACE:
        return err_set(e, ERR_UNSUPPORTED,
                       "cannot create a user namespace (see user.max_user_namespaces)");
    }
    return err_set(e, ERR_UNSUPPORTED, "the trial of namespaces ended with %d",
                   WEXITSTATUS(status));
}

static int probe_namespaces(struct sandbox_probe *p, struct err *e)
{
    _cleanup_close_ int pidfd = -1;
    int status = 0;
    int pid = box_clone(BOX_KEEPER_NAMESPACES | CLONE_NEWCGROUP, &pidfd);

    if (pid == 0) {
        _exit((int)trial_child());
    }
    if (pid < 0) {
        return err_set(e, ERR_UNSUPPORTED,
                       "cannot create pid, mount, network, ipc, uts and cgroup namespaces (the "
                       "worker needs CAP_SYS_ADMIN): %s",
                       strerror(errno));
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return err_errno(e, "cannot wait for the trial of namespaces");
        }
    }
    return trial_verdict(status, p, e);
}

/* "crun version 1.8.1\n..." */
static int probe_crun(struct sandbox_probe *p, struct err *e)
{
    const char *path = box_crun_path();
    char text[256] = "";
    size_t n = 0;
    int pipes[2], status = 0;

    if (!path) {
        return err_set(e, ERR_UNSUPPORTED, "crun is not installed (looked for %s and %s)",
                       crun_paths[0], crun_paths[1]);
    }
    snprintf(p->crun_path, sizeof(p->crun_path), "%s", path);
    if (pipe2(pipes, O_CLOEXEC) < 0) {
        return err_errno(e, "cannot make a pipe");
    }
    pid_t pid = fork();
    if (pid == 0) {
        char *const argv[] = {p->crun_path, (char *)"--version", NULL};
        char *const envp[] = {NULL};
        dup2(pipes[1], 1);
        execve(path, argv, envp);
        _exit(127);
    }
    close(pipes[1]);
    while (pid > 0 && n < sizeof(text) - 1) {
        ssize_t got = read(pipes[0], text + n, sizeof(text) - 1 - n);
        if (got <= 0) {
            break;
        }
        n += (size_t)got;
    }
    close(pipes[0]);
    if (pid < 0 || waitpid(pid, &status, 0) < 0) {
        return err_errno(e, "cannot start %s", path);
    }
    if (sscanf(text, "crun version %31s", p->crun_version) != 1) {
        return err_set(e, ERR_UNSUPPORTED, "%s does not run (wait status %d)", path, status);
    }
    return 0;
}

static int probe_swap(void)
{
    _cleanup_fclose_ FILE *f = fopen("/proc/swaps", "re");
    char line[512];

    /* The first line is the heading. */
    return f && fgets(line, sizeof(line), f) && fgets(line, sizeof(line), f);
}

int sandbox_probe(struct sandbox_probe *ret, struct err *e)
{
    struct sandbox_probe p = {0};
    struct box_cgroup g;
    char id[40];

    if (probe_crun(&p, e) < 0 || probe_namespaces(&p, e) < 0) {
        return err_wrap(e, "no sandbox is possible here");
    }
    p.swap_on = probe_swap();
    snprintf(id, sizeof(id), "probe-%d", (int)getpid());
    const struct sandbox_config c = {
        .id = id, .memory_bytes = 64u << 20, .pids = 16, .cpu_millis = 1000};
    box_cgroup_make(&c, &g);
    p.cgroup = g.mode;
    p.cgroup_memory = g.memory;
    p.cgroup_pids = g.pids;
    p.cgroup_cpu = g.cpu;
    box_cgroup_done(&g);
    *ret = p;
    return 0;
}
