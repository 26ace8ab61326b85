/* What the process may ask of the kernel once it serves: to read, to answer, to wait. It holds
 * keys, and what it is asked for is the workload's choice. */
#include <errno.h>
#include <seccomp.h>

#include "svc-worker/decryptfs_int.h"

static const int allowed[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(preadv),
    SCMP_SYS(futex),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    SCMP_SYS(mremap),
    SCMP_SYS(brk),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_yield),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(tgkill),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(getrandom),
    SCMP_SYS(sched_getaffinity),
};

/* For all threads. What is not allowed fails with EPERM. */
int dfs_lock_down(void)
{
#ifdef COFFER_SANITIZED
    return 0; /* sanitizers want more */
#else
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int rc = f ? seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1) : -1;

    for (size_t i = 0; i < ARRAY_LEN(allowed) && rc == 0; i++) {
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    }
    rc = rc == 0 ? seccomp_load(f) : rc;
    if (f) {
        seccomp_release(f);
    }
    return rc == 0 ? 0 : -1;
#endif
}
