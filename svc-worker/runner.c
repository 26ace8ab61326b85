/* The runner: a process of its own for everything that touches plaintext.
 *
 * It is forked before the worker has threads, connections or keys, and waits. The release goes to
 * it through a socket pair, the output comes back in memory that both share, and a short report
 * tells what came of it. It dies with the worker, and the worker outlives it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "svc-worker/worker.h"

#define REPORT_MAX_BYTES 32768u

struct runner {
    pid_t pid;
    int fd;
    struct area *area; /* shared with the process */
};

/* ---- the report ------------------------------------------------------------------------------ */

static json_t *report_json(const struct worker_outcome *o, size_t n_files)
{
    json_t *files = json_array();
    _cleanup_free_ char *salt = hex_encode(o->fp_salt, sizeof(o->fp_salt));

    for (size_t i = 0; i < n_files; i++) {
        json_array_append_new(files, json_integer((json_int_t)o->file_bytes[i]));
    }
    return json_pack("{s:i,s:o,s:b,s:o,s:I,s:s,s:I,s:I,s:I}", "exit", o->exit_code, "refusal",
                     o->refusal.code ? result_refusal_json(&o->refusal) : json_null(), "limits",
                     o->limits_enforced, "files", files, "plain", (json_int_t)o->plain.n, "salt",
                     salt, "count", (json_int_t)o->fp_count, "total", (json_int_t)o->fp_total,
                     "input", (json_int_t)o->fp_input_bytes);
}

static int read_files(const json_t *list, size_t n, struct worker_outcome *o, struct err *e)
{
    if (json_array_size(list) != n) {
        return err_set(e, ERR_INTERNAL, "runner: a report of other files");
    }
    for (size_t i = 0; i < n; i++) {
        o->file_bytes[i] = (uint64_t)json_integer_value(json_array_get(list, i));
    }
    return 0;
}

static int read_report(struct bytes in, const struct runner *r, size_t n_files,
                       struct worker_outcome *o, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    json_t *files, *refusal;
    const char *salt;
    int64_t exit_code, plain, count, total, input;

    if (json_parse("report", in, REPORT_MAX_BYTES, &j, e) ||
        json_get_int(j, "report", "exit", -1, 255, &exit_code, e) ||
        json_get_arr(j, "report", "files", &files, e) ||
        json_get_int(j, "report", "plain", 0, (int64_t)r->area->n, &plain, e) ||
        json_get_str(j, "report", "salt", &salt, e) ||
        json_get_int(j, "report", "count", 0, FP_MAX_COUNT, &count, e) ||
        json_get_int(j, "report", "total", 0, AREA_MAX_BYTES, &total, e) ||
        json_get_int(j, "report", "input", 0, INT64_C(1) << 52, &input, e) ||
        read_files(files, n_files, o, e) || hex_decode(salt, o->fp_salt, sizeof(o->fp_salt), e)) {
        return -1;
    }
    refusal = json_object_get(j, "refusal");
    if (json_is_object(refusal) && result_refusal_parse(refusal, &o->refusal, e)) {
        return -1;
    }
    o->limits_enforced = json_is_true(json_object_get(j, "limits"));
    o->exit_code = (int)exit_code;
    o->plain = BYTES(r->area->p, (size_t)plain);
    o->fp_count = (uint64_t)count;
    o->fp_total = (uint64_t)total;
    o->fp_input_bytes = (uint64_t)input;
    return 0;
}

/* ---- in the process -------------------------------------------------------------------------- */

static ssize_t receive(int fd, void *p, size_t n)
{
    ssize_t got;

    do {
        got = recv(fd, p, n, MSG_TRUNC);
    } while (got < 0 && errno == EINTR);
    return got;
}

static int send_report(int fd, const struct worker_outcome *o, size_t n_files)
{
    _cleanup_json_ json_t *j = report_json(o, n_files);
    _cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

    return text && send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text) ? 0 : -1;
}

/* Before any key is here: no core dump, also not through a pipe (which no limit stops), nobody who
 * looks into the memory, and nothing of the bus. The sandbox's processes are forked from this one,
 * so what it does not have they cannot lose. */
static int let_go(const struct worker_launch *l)
{
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int rc = null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 ? -1 : 0;

    if (null_fd > STDIN_FILENO) {
        close(null_fd);
    }
    explicit_bzero(l->pb->nats_seed, strlen(l->pb->nats_seed));
#ifndef COFFER_SANITIZED
    if (prctl(PR_SET_DUMPABLE, 0) || setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0})) {
        return -1;
    }
#endif
    return rc;
}

static void process(const struct worker_launch *l, int fd, struct area *area, pid_t parent)
{
    _cleanup_area_ struct area *in = NULL;
    struct worker_keys keys = {0};
    struct worker_outcome o = {.exit_code = -1};
    ssize_t n;

    /* The worker's end is the end. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent || let_go(l) ||
        area_new(WORKER_RELEASE_MAX_BYTES, 0, &in, NULL)) {
        _exit(1);
    }
    signal(SIGPIPE, SIG_IGN);
    umask(022); /* what is unpacked is for the workload to read */
    n = receive(fd, in->p, in->n);
    if (n <= 0 || (size_t)n > in->n) {
        _exit(n == 0 ? 0 : 1);
    }
    if (worker_keys_parse(BYTES(in->p, (size_t)n), l, &keys, &o.refusal) == 0) {
        job_run(l, &keys, area, &o);
    }
    worker_keys_done(&keys);
    area_free(TAKE_PTR(in));
    _exit(send_report(fd, &o, l->spec->n_files) ? 1 : 0);
}

/* ---- in the worker --------------------------------------------------------------------------- */

int runner_spawn(const struct worker_launch *l, struct runner **ret, struct err *e)
{
    _cleanup_(runner_freep) struct runner *r = xcalloc(1, sizeof(*r));
    pid_t parent = getpid();
    int fds[2];

    r->fd = -1;
    if (area_new(job_area_bytes(l->spec), 1, &r->area, e)) {
        return -1;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
        return err_errno(e, "runner: socketpair");
    }
    fflush(NULL);
    r->pid = fork();
    if (r->pid == 0) {
        close(fds[0]);
        process(l, fds[1], r->area, parent);
    }
    close(fds[1]);
    r->fd = fds[0];
    if (r->pid < 0) {
        return err_errno(e, "runner: fork");
    }
    *ret = TAKE_PTR(r);
    return 0;
}

int runner_fd(const struct runner *r)
{
    return r->fd;
}

int runner_run(struct runner *r, const struct secret *release, struct err *e)
{
    ssize_t n = (ssize_t)secret_n(release);

    if (send(r->fd, secret_cp(release), secret_n(release), MSG_NOSIGNAL) != n) {
        return err_errno(e, "runner: send the release");
    }
    return 0;
}

static void died(struct runner *r, struct worker_outcome *ret)
{
    int status = 0;

    while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR) {
    }
    r->pid = -1;
    memset(ret, 0, sizeof(*ret));
    ret->exit_code = -1;
    ret->died = 1;
    if (WIFSIGNALED(status)) {
        err_refuse(&ret->refusal, ERR_WORKLOAD, "worker.runner", "a report", "signal %d",
                   WTERMSIG(status));
    } else {
        err_refuse(&ret->refusal, ERR_WORKLOAD, "worker.runner", "a report", "exit status %d",
                   WEXITSTATUS(status));
    }
}

int runner_result(struct runner *r, const struct worker_launch *l, struct worker_outcome *ret,
                  struct err *e)
{
    _cleanup_free_ uint8_t *in = xmalloc(REPORT_MAX_BYTES);
    struct worker_outcome o = {0};
    ssize_t n = receive(r->fd, in, REPORT_MAX_BYTES);

    if (n <= 0) {
        died(r, ret);
        return 0;
    }
    if ((size_t)n > REPORT_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "runner: a report of %zd bytes", n);
    }
    if (read_report(BYTES(in, (size_t)n), r, l->spec->n_files, &o, e)) {
        return -1;
    }
    *ret = o;
    return 0;
}

void runner_free(struct runner *r)
{
    if (!r) {
        return;
    }
    if (r->pid > 0) {
        kill(r->pid, SIGKILL);
        while (waitpid(r->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    closep(&r->fd);
    area_free(r->area);
    free(r);
}
