#include "guest/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

static int start(const char *const argv[], int quiet, int out, pid_t *ret, struct err *e)
{
    static char path[] = "PATH=/usr/bin:/bin", locale[] = "LC_ALL=C";
    static char *const env[] = {path, locale, NULL};
    posix_spawn_file_actions_t actions;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    if (quiet) {
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    }
    int rc = posix_spawnp(ret, argv[0], &actions, NULL, (char *const *)argv, env);
    posix_spawn_file_actions_destroy(&actions);
    errno = rc;
    return rc ? err_errno(e, "cannot run %s", argv[0]) : 0;
}

static int collect(int fd, struct buf *ret, struct err *e)
{
    ssize_t n = 1;

    while (n > 0 || (n < 0 && errno == EINTR)) {
        if (buf_reserve(ret, 4096, e)) {
            return -1;
        }
        n = read(fd, ret->p + ret->n, 4096);
        ret->n += n > 0 ? (size_t)n : 0;
    }
    return n == 0 ? 0 : err_errno(e, "pipe");
}

int guest_run(const char *const argv[], int quiet, struct buf *ret_out, int *ret_status,
              struct err *e)
{
    int fds[2], rc = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    if (start(argv, quiet, fds[1], &pid, e)) {
        close(fds[0]);
        close(fds[1]);
        return -1;
    }
    close(fds[1]);
    if (ret_out && collect(fds[0], ret_out, e)) {
        kill(pid, SIGKILL);
        rc = -1;
    }
    close(fds[0]);
    while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR) {
    }
    return rc;
}
