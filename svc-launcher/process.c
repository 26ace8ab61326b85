#include "svc-launcher/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PROGRAM_ARGS_MAX 8

/* Starting a keeper; and the `process` backend: svc-worker as a process of this host, with sample
 * evidence. */

static int process_probe(const struct backend_env *env, struct err *why)
{
    struct stat st;

    if (access(env->worker, X_OK) < 0) {
        return err_errno(why, "worker %s", env->worker);
    }
    if (stat(env->store, &st) < 0) {
        return err_errno(why, "store %s", env->store);
    }
    if (!S_ISDIR(st.st_mode)) {
        return err_refuse(why, ERR_INVALID, "store", "a directory", "%s", env->store);
    }
    if (access(env->seed_file, R_OK) < 0) {
        return err_errno(why, "worker-nats-seed %s", env->seed_file);
    }
    return access(env->cvm_dir, W_OK | X_OK) < 0 ? err_errno(why, "directory %s", env->cvm_dir) : 0;
}

/* The configuration holds a seed: it is never in a file that has a name, nor on a pipe that could
 * block. */
static int config_fd(struct bytes config, int *ret, struct err *e)
{
    _cleanup_close_ int fd = memfd_create("launch-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return err_errno(e, "memfd_create");
    }
    for (size_t done = 0; done < config.n;) {
        ssize_t n = write(fd, config.p + done, config.n - done);
        if (n <= 0) {
            return err_errno(e, "writing the launch configuration");
        }
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ||
        lseek(fd, 0, SEEK_SET) < 0) {
        return err_errno(e, "sealing the launch configuration");
    }
    *ret = TAKE_FD(fd);
    return 0;
}

/* Between fork and exec, of a process with threads: system calls only. */
static void become_keeper(const char *program, char **argv, int in, int out, int log)
{
    static char *const env[] = {NULL};
    sigset_t term; /* must wait until the keeper can take it */

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_SETMASK, &term, NULL);
    if (setsid() < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(log, 2) < 0) {
        _exit(126);
    }
    syscall(SYS_close_range, 3u, ~0u, 0u);
    execve(program, argv, env);
    _exit(126);
}

int backend_start(const struct backend_env *env, const struct backend_launch *l, struct bytes input,
                  const char *const *program, struct cvm_handle *ret, struct err *e)
{
    _cleanup_close_ int in = -1, out_r = -1, out_w = -1, log_r = -1, log_w = -1;
    char parent[16], grace[32];
    char *argv[5 + PROGRAM_ARGS_MAX + 1] = {"svc-launcher", KEEPER_VERB, parent, grace,
                                            (char *)l->work_dir};
    int fds[2];

    for (size_t i = 0; program[i]; i++) {
        if (i == PROGRAM_ARGS_MAX) {
            return err_set(e, ERR_INTERNAL, "too many arguments");
        }
        argv[5 + i] = (char *)program[i];
    }
    if (config_fd(input, &in, e) < 0) {
        return -1;
    }
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    out_r = fds[0];
    out_w = fds[1];
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    log_r = fds[0];
    log_w = fds[1];
    snprintf(parent, sizeof(parent), "%d", (int)getpid());
    snprintf(grace, sizeof(grace), "%lld", (long long)env->grace_ms);
    /* A low number below 3 would be closed by the dup2s of the child; ours are never that low. */
    if (in < 3 || out_w < 3 || log_w < 3) {
        return err_set(e, ERR_INTERNAL, "standard descriptors are closed");
    }
    /* A signal for the keeper must not meet the launcher's handlers in between. */
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0) {
        become_keeper(env->keeper, argv, in, out_w, log_w);
    }
    int failed = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (pid < 0) {
        errno = failed;
        return err_errno(e, "fork");
    }
    fcntl(out_r, F_SETFL, O_NONBLOCK);
    fcntl(log_r, F_SETFL, O_NONBLOCK);
    ret->pid = pid;
    ret->pid_start = process_start(pid);
    ret->out_fd = TAKE_FD(out_r);
    ret->log_fd = TAKE_FD(log_r);
    return 0;
}

static int process_launch(const struct backend_env *env, const struct backend_launch *l,
                          struct cvm_handle *ret, struct err *e)
{
    const char *const program[] = {env->worker, env->worker_arg, NULL};

    return backend_start(env, l, l->config, program, ret, e);
}

void backend_destroy(const struct cvm_handle *h)
{
    kill(h->pid, SIGTERM); /* the keeper does the rest */
}

int backend_reap(int status, int *ret_left)
{
    *ret_left = WIFSIGNALED(status);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const struct backend process_backend = {
    .name = "process",
    .tee = "sample",
    .probe = process_probe,
    .launch = process_launch,
    .destroy = backend_destroy,
    .reap = backend_reap,
};

const struct backend *const backends[] = {&process_backend, &vtpm_backend, &tdx_backend,
                                          &snp_backend};
const size_t n_backends = ARRAY_LEN(backends);

const struct backend *backend_find(const char *name)
{
    for (size_t i = 0; i < n_backends; i++) {
        if (streq(backends[i]->name, name)) {
            return backends[i];
        }
    }
    return NULL;
}
