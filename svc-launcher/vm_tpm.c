#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/fileio.h"
#include "common/tpmca.h"
#include "svc-launcher/vm.h"

/* A TPM for one VM: swtpm_setup(8) makes its endorsement keys, and swtpm_localca(8) certificates
 * for them with this host's CA. Both run before any guest does, with the launcher's rights, for the
 * CA's key is theirs to use. */

#define SETUP_MS 60000
#define OUTPUT_MAX_BYTES 65536u

static int write_file(const char *dir, const char *name, const char *text, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        return err_errno(e, "%s", path);
    }
    return 0;
}

static int write_configs(const struct vm_options *o, const char *dir, struct err *e)
{
    if (strpbrk(o->tpm_ca, "\n\"\\") || strpbrk(dir, "\n\"\\")) {
        return err_refuse(e, ERR_INVALID, "tpm-ca", "a path without quotes and line ends",
                          "\"%.100s\"", o->tpm_ca);
    }
    _cleanup_free_ char *localca =
        strndup(o->swtpm_setup, (size_t)(strrchr(o->swtpm_setup, '/') - o->swtpm_setup) + 1);
    _cleanup_free_ char *setup = xasprintf("create_certs_tool=%sswtpm_localca\n"
                                           "create_certs_tool_config=%s/localca.conf\n"
                                           "create_certs_tool_options=%s/localca.options\n"
                                           "active_pcr_banks=sha256\n",
                                           localca ? localca : "", dir, dir);
    _cleanup_free_ char *ca =
        xasprintf("statedir = %s\nsigningkey = %s/" TPMCA_KEY "\nissuercert = %s/" TPMCA_ROOT
                  "\ncertserial = %s/" TPMCA_SERIAL "\n",
                  o->tpm_ca, o->tpm_ca, o->tpm_ca, o->tpm_ca);
    return write_file(dir, "setup.conf", setup, e) < 0 ||
                   write_file(dir, "localca.conf", ca, e) < 0 ||
                   write_file(dir, "localca.options",
                              "--platform-manufacturer Coffer\n--platform-version 1\n"
                              "--platform-model Coffer\n",
                              e) < 0
               ? -1
               : 0;
}

static void run_setup(const struct vm_options *o, const char *id, const char *tmp, const char *dir,
                      int out_fd)
{
    _cleanup_free_ char *config = xasprintf("%s/setup.conf", tmp);
    _cleanup_free_ char *tmpdir = xasprintf("TMPDIR=%s", tmp);
    _cleanup_free_ char *home = xasprintf("HOME=%s", tmp);
    char *argv[] = {(char *)o->swtpm_setup,
                    "--tpm2",
                    "--tpm",
                    "",
                    "--tpmstate",
                    (char *)dir,
                    "--config",
                    config,
                    "--create-ek-cert",
                    "--lock-nvram",
                    "--vmid",
                    (char *)id,
                    NULL};
    char *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", tmpdir, home, NULL};
    struct rlimit none = {0, 0};
    sigset_t empty;

    _cleanup_free_ char *swtpm = xasprintf("%s socket", o->swtpm);
    argv[3] = swtpm;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &none);
    sigemptyset(&empty);
    sigprocmask(SIG_SETMASK, &empty, NULL);
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd >= 0 && dup2(null_fd, 0) == 0 && dup2(out_fd, 1) == 1 && dup2(out_fd, 2) == 2) {
        execve(argv[0], argv, env);
    }
    dprintf(2, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Its output until it ends; the last line stays. */
static int watch_setup(int fd, struct vm_text *text)
{
    int64_t end_ms = vm_now_ms() + SETUP_MS;
    char some[4096];

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = end_ms - vm_now_ms();
        if (left <= 0) {
            return -1;
        }
        if (poll(&p, 1, (int)left) <= 0) {
            continue;
        }
        ssize_t n = read(fd, some, sizeof(some));
        if (n <= 0) {
            vm_text_end(text);
            return 0;
        }
        vm_text_feed(text, BYTES(some, (size_t)n));
    }
}

static void to_log(const char *prefix, const char *line)
{
    (void)prefix;
    (void)line;
}

static int setup(const struct vm_options *o, const char *id, const char *tmp, const char *dir,
                 struct err *e)
{
    struct vm_text text = {.prefix = "", .left = OUTPUT_MAX_BYTES, .out = to_log};
    int fds[2], status = 0;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    _cleanup_close_ int r = fds[0], w = fds[1];
    pid_t pid = fork();
    if (pid == 0) {
        run_setup(o, id, tmp, dir, w);
    }
    if (pid < 0) {
        return err_errno(e, "fork");
    }
    close(TAKE_FD(w));
    int timeout = watch_setup(r, &text) < 0;
    if (timeout) {
        kill(pid, SIGKILL); /* what it started goes with the keeper */
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (timeout) {
        return err_set(e, ERR_TIMEOUT, "%s did not end within %d s", o->swtpm_setup,
                       SETUP_MS / 1000);
    }
    if (status != 0) {
        return err_set(e, ERR_IO, "%s ended with %s %d: %.200s", o->swtpm_setup,
                       WIFSIGNALED(status) ? "signal" : "status",
                       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), text.last);
    }
    return 0;
}

int vm_tpm_make(const struct vm_options *o, const char *id, const char *work_dir, const char *dir,
                struct err *e)
{
    _cleanup_free_ char *tmp = xasprintf("%s/tpm-setup", work_dir);

    if (mkdir(tmp, 0700) < 0 || mkdir(dir, 0700) < 0) {
        return err_errno(e, "mkdir %s, %s", tmp, dir);
    }
    if (write_configs(o, tmp, e) < 0 || setup(o, id, tmp, dir, e) < 0) {
        return err_wrap(e, "TPM");
    }
    return remove_tree(tmp, e);
}
