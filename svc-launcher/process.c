#include "svc-launcher/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
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
static void become_keeper(const char *program, char **argv, int in, int link, int null)
{
    static char *const env[] = {NULL};
    sigset_t held; /* must wait until the keeper can take them */

    sigemptyset(&held);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, KEEPER_SIGNAL_FORGET);
    sigprocmask(SIG_SETMASK, &held, NULL);
    if (setsid() < 0 || dup2(in, 0) < 0 || dup2(link, 1) < 0 || dup2(null, 2) < 0) {
        _exit(126);
    }
    syscall(SYS_close_range, 3u, ~0u, 0u);
    execve(program, argv, env);
    _exit(126);
}

static int keeper_args(const struct backend_env *env, const struct backend_launch *l,
                       const char *const *program, char numbers[3][32], char **argv, struct err *e)
{
    const int64_t n[] = {env->grace_ms, env->orphan_ms, l->deadline_ms};
    size_t at = 0;

    argv[at++] = "svc-launcher";
    argv[at++] = KEEPER_VERB;
    for (size_t i = 0; i < ARRAY_LEN(n); i++) {
        snprintf(numbers[i], 32, "%lld", (long long)n[i]);
        argv[at++] = numbers[i];
    }
    argv[at++] = (char *)(uintptr_t)l->work_dir;
    for (size_t i = 0; program[i]; i++) {
        if (i == PROGRAM_ARGS_MAX) {
            return err_set(e, ERR_INTERNAL, "too many arguments");
        }
        argv[at++] = (char *)(uintptr_t)program[i];
    }
    argv[at] = NULL;
    return 0;
}

/* A signal for the keeper must not meet the launcher's handlers in between. */
static pid_t fork_keeper(const char *program, char **argv, int in, int link, int null)
{
    sigset_t all, old;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0) {
        become_keeper(program, argv, in, link, null);
    }
    int failed = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    errno = failed;
    return pid;
}

int backend_start(const struct backend_env *env, const struct backend_launch *l, struct bytes input,
                  const char *const *program, struct cvm_handle *ret, struct err *e)
{
    _cleanup_close_ int in = -1, null = open("/dev/null", O_RDWR | O_CLOEXEC), ours = -1,
                        theirs = -1;
    char numbers[3][32], *argv[6 + PROGRAM_ARGS_MAX + 1];
    int fds[2];

    if (keeper_args(env, l, program, numbers, argv, e) < 0 || config_fd(input, &in, e) < 0) {
        return -1;
    }
    if (null < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
        return err_errno(e, "socketpair");
    }
    ours = fds[0];
    theirs = fds[1];
    /* A low number below 3 would be closed by the dup2s of the child; ours are never that low. */
    if (in < 3 || theirs < 3 || null < 3) {
        return err_set(e, ERR_INTERNAL, "standard descriptors are closed");
    }
    pid_t pid = fork_keeper(env->keeper, argv, in, theirs, null);
    if (pid < 0) {
        return err_errno(e, "fork");
    }
    int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0u);
    if (pid_fd < 0) {
        err_errno(e, "pidfd_open");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return -1;
    }
    *ret = (struct cvm_handle){
        .pid = pid, .pid_start = process_start(pid), .pid_fd = pid_fd, .link_fd = TAKE_FD(ours)};
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
    syscall(SYS_pidfd_send_signal, h->pid_fd, SIGTERM, NULL, 0u); /* the keeper does the rest */
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
