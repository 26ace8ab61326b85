#include "svc-launcher/supervisor_int.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

#include "common/log.h"

/* What an earlier life of the launcher left: keepers that go on are adopted, everything else is
 * ended. */

/* The process that was recorded for a CVM, if it is still that one; as a pidfd, so that the number
 * cannot become another's. -1 when there is none. */
static int open_recorded(const struct cvm_process *p)
{
    char boot[64];

    host_boot_id(boot);
    if (!streq(boot, p->boot_id) || p->pid <= 0 || p->pid_start == 0) {
        return -1;
    }
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)p->pid, 0u);
    if (fd >= 0 && process_start((pid_t)p->pid) != p->pid_start) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Ends a keeper that cannot be adopted, if there is one, and removes what is left. */
static void end_left_over(struct run *r)
{
    char dir[1200];

    run_work_dir(r, dir, sizeof(dir));
    if (r->h.pid_fd < 0 && r->sup->inhabited) {
        pid_t pid = keeper_find(dir);
        r->h.pid = pid;
        r->h.pid_fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0u) : -1;
        r->h.pid_start = pid > 0 ? process_start(pid) : 0;
    }
    if (r->h.pid_fd < 0) {
        if (r->sup->inhabited) {
            run_end_inhabitants(r);
        }
        run_remove_files(r);
        r->over = 1;
        run_finish(r, BACKEND_LOST, 128 + SIGKILL);
        return;
    }
    log_context(r->job, r->attempt);
    log_warn("cvm.left-over", "ending pid %d of an earlier run", (int)r->h.pid);
    log_context(NULL, 0);
    run_watch(r);
    run_end_keeper(r, KEEPER_SIGNAL_FORGET);
}

void adopt(struct supervisor *sup, const char *job, uint32_t attempt)
{
    struct run *r = run_new(sup, job, attempt);
    char dir[1200], sock[LINK_PATH_MAX];
    struct err e = {0};
    struct cvm c;

    int known = launcher_cvm(engine_svc(shell_engine(sup->sh)), job, attempt, &c, &e);
    if (known < 0) {
        log_err(LOG_ERROR, "cvm.lookup-failed", &e);
    }
    r->h.pid_fd = known > 0 ? open_recorded(&c.process) : -1;
    if (r->h.pid_fd < 0) {
        end_left_over(r);
        return;
    }
    r->h.pid = (pid_t)c.process.pid;
    r->h.pid_start = c.process.pid_start;
    r->seen = r->told_seq = (uint64_t)c.seq;
    r->backend = backend_find(c.backend);
    run_work_dir(r, dir, sizeof(dir));
    link_path(dir, sock);
    if (!r->backend) {
        err_refuse(&e, ERR_UNSUPPORTED, "backend", "one that this launcher has", "\"%.32s\"",
                   c.backend);
    } else if (link_connect(sock, r->h.pid, &r->h.link_fd, &e) == 0) {
        run_watch(r);
        return;
    }
    log_context(job, attempt);
    log_err(LOG_WARN, "cvm.unadoptable", &e);
    log_context(NULL, 0);
    end_left_over(r);
}

/* ---- what nobody knows ----------------------------------------------------------------------- */

/* "<job>.<attempt>" or "<job>.<attempt>.sock". */
static int parse_name(const char *name, char job[JOB_ID_LEN + 1], uint32_t *ret_attempt)
{
    char *end;

    if (strlen(name) <= JOB_ID_LEN || name[JOB_ID_LEN] != '.') {
        return -1;
    }
    snprintf(job, JOB_ID_LEN + 1, "%.*s", JOB_ID_LEN, name);
    const char *digits = name + JOB_ID_LEN + 1;
    unsigned long long n = strtoull(digits, &end, 10);
    if (digits[0] < '1' || digits[0] > '9' || n > UINT32_MAX || (*end && !streq(end, ".sock")) ||
        !job_id_valid(job)) {
        return -1;
    }
    *ret_attempt = (uint32_t)n;
    return 0;
}

static void sweep(struct supervisor *sup, const char *name)
{
    char job[JOB_ID_LEN + 1];
    uint32_t attempt;
    struct err e = {0};
    struct cvm c;

    if (parse_name(name, job, &attempt) < 0) {
        log_warn("cvm.left-over", "%s/%.100s is none of this service's: left alone", sup->cvm_dir,
                 name);
        return;
    }
    int known = launcher_cvm(engine_svc(shell_engine(sup->sh)), job, attempt, &c, &e);
    if (known < 0) {
        log_err(LOG_ERROR, "cvm.lookup-failed", &e);
    }
    if (known != 0 || run_find(sup, job, attempt)) {
        return; /* the service will ask to adopt it, or to destroy it */
    }
    struct run *r = run_new(sup, job, attempt);
    r->unknown = 1;
    end_left_over(r);
}

void adopt_sweep(struct supervisor *sup)
{
    struct dirent *d;

    /* Looking through all processes for each of many CVMs takes its time, and after a start of the
     * host there are none. */
    sup->inhabited = inhabited(sup->cvm_dir);
    DIR *dir = opendir(sup->cvm_dir);
    while (dir && (d = readdir(dir))) {
        if (!streq(d->d_name, ".") && !streq(d->d_name, "..")) {
            sweep(sup, d->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
}
