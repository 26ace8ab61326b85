/* DecryptFS from outside: the mount, the process, and how its end is told. */
#include "svc-worker/decryptfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "svc-worker/decryptfs_int.h"

#define DEVICE "/dev/fuse"

struct dfs {
    pid_t pid;
    int report_fd;
    char *dir; /* owned; mounted */
};

int dfs_available(void)
{
    _cleanup_close_ int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

    return fd >= 0;
}

/* ---- what is shown -------------------------------------------------------------------------- */

struct plain {
    struct seal_reader *reader;
    int failed; /* the chunks, not the tar stream in them */
};

static int read_plain(void *arg, void *out, size_t n, uint64_t offset, struct err *e)
{
    struct plain *p = arg;
    size_t got = 0;

    if (seal_reader_pread(p->reader, out, n, offset, &got, e) < 0) {
        p->failed = 1;
        return -1;
    }
    return got == n ? 0 : err_set(e, ERR_INTERNAL, "a read beyond the dataset's end");
}

static int index_one(const struct dfs_dataset *d, struct dfs_index **ret, int *ret_chunk,
                     struct err *e)
{
    struct plain p = {.reader = d->reader};
    const struct dfs_source src = {
        .bytes = seal_reader_size(d->reader), .read = read_plain, .arg = &p};

    if (!streq(seal_reader_header(d->reader)->form, "tar")) {
        *ret = dfs_index_file(src.bytes);
        return 0;
    }
    int rc = dfs_index_tar(&src, DFS_MAX_ENTRIES, ret, e);
    *ret_chunk = p.failed;
    return rc;
}

static void server_done(struct dfs_server *s)
{
    for (size_t i = 0; s->indexes && i < s->n; i++) {
        dfs_index_free(s->indexes[i]);
    }
    free(s->indexes);
    for (unsigned t = 0; s->sealers && t < s->options.threads + DFS_MORE_THREADS; t++) {
        dfs_sealers_free(s->sealers[t], s->n);
    }
    free(s->sealers);
    closep(&s->fuse_fd);
    closep(&s->report_fd);
}

static unsigned default_threads(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < 2 ? 2 : n > (int)DFS_MAX_THREADS ? DFS_MAX_THREADS : (unsigned)n;
}

static int server_init(struct dfs_server *s, const struct dfs_options *o,
                       struct dfs_fault *ret_fault, struct err *e)
{
    if (o) {
        s->options = *o;
    }
    if (!s->options.threads || s->options.threads > DFS_MAX_THREADS) {
        s->options.threads = default_threads();
    }
    if (!s->options.read_max_bytes || s->options.read_max_bytes > DFS_READ_MAX_LIMIT) {
        s->options.read_max_bytes = DFS_READ_MAX_DEFAULT;
    }
    if (!s->options.read_ahead_kib) {
        s->options.read_ahead_kib = 1024;
    }
    s->indexes = xcalloc(s->n + 1, sizeof(struct dfs_index *));
    s->sealers = xcalloc(s->options.threads + DFS_MORE_THREADS, sizeof(struct sealer **));
    for (size_t i = 0; i < s->n; i++) {
        int chunk = 0;
        if (index_one(&s->v[i], &s->indexes[i], &chunk, e) < 0) {
            *ret_fault = (struct dfs_fault){.dataset = i, .chunk = chunk};
            return -1;
        }
    }
    for (unsigned t = 0; t < s->options.threads + DFS_MORE_THREADS; t++) {
        if (dfs_sealers_new(s->v, s->n, &s->sealers[t], e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the mount ------------------------------------------------------------------------------ */

static int mount_at(struct dfs_server *s, const char *dir, struct err *e)
{
    char options[192];

    s->fuse_fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (s->fuse_fd < 0) {
        return err_set(e, ERR_UNSUPPORTED, "FUSE cannot be used here: " DEVICE ": %s",
                       strerror(errno));
    }
    snprintf(
        options, sizeof(options),
        "fd=%d,rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other,max_read=%u",
        s->fuse_fd, s->options.read_max_bytes);
    if (mount("decryptfs", dir, "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, options) <
        0) {
        return err_set(e, ERR_UNSUPPORTED, "FUSE cannot be used here: mount: %s", strerror(errno));
    }
    return 0;
}

/* The kernel takes a larger read-ahead than its default only so. Where /sys is read-only it is only
 * slower. */
static void set_read_ahead(const char *dir, uint32_t kib)
{
    char path[80], text[16];
    struct stat st;

    if (stat(dir, &st) <
        0) { /* also waits until the process has answered the kernel's first call */
        return;
    }
    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev),
             minor(st.st_dev));
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    int n = snprintf(text, sizeof(text), "%u", kib);
    if (fd >= 0 && write(fd, text, (size_t)n) < 0) {
        return;
    }
}

/* ---- the process ---------------------------------------------------------------------------- */

static int by_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return x < y ? -1 : x > y;
}

/* Everything but the ciphertext, the device and the pipe: above all the way to the worker. */
static int close_others(const struct dfs_server *s)
{
    int keep[DFS_MAX_DATASETS + 2];
    unsigned n = 0, from = 3;

    for (size_t i = 0; i < s->n; i++) {
        keep[n++] = seal_reader_fd(s->v[i].reader);
    }
    keep[n++] = s->fuse_fd;
    keep[n++] = s->report_fd;
    qsort(keep, n, sizeof(*keep), by_int);
    for (unsigned i = 0; i < n; i++) {
        unsigned fd = (unsigned)keep[i];
        if (fd > from && syscall(SYS_close_range, from, fd - 1, 0) < 0) {
            return -1;
        }
        from = fd + 1 > from ? fd + 1 : from;
    }
    return (int)syscall(SYS_close_range, from, ~0u, 0);
}

/* It has its files open: it needs no right any more. */
static int drop_rights(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_capset, &h, none) ? -1 : 0;
}

/* libfuse would say on standard error what it is asked for; only a sanitizer's report may. */
static int standard_descriptors(void)
{
    _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0) {
        return -1;
    }
#ifdef COFFER_SANITIZED
    return 0;
#else
    return dup2(null_fd, 2) < 0 ? -1 : 0;
#endif
}

static void process(struct dfs_server *s, pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent || standard_descriptors() < 0 ||
        chdir("/") < 0 || close_others(s) < 0 || drop_rights() < 0) {
        _exit(1);
    }
    prctl(PR_SET_NAME, "decryptfs");
    signal(SIGPIPE, SIG_IGN);
    _exit(dfs_serve(s));
}

static int start(struct dfs_server *s, struct dfs *d, struct err *e)
{
    pid_t parent = getpid();
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return err_errno(e, "decryptfs: pipe");
    }
    d->report_fd = fds[0];
    s->report_fd = fds[1];
    d->pid = fork();
    if (d->pid == 0) {
        close(fds[0]);
        process(s, parent);
    }
    if (d->pid < 0) {
        return err_errno(e, "decryptfs: fork");
    }
    /* Only the process holds the device: when it ends, all who wait for it get an error. */
    closep(&s->fuse_fd);
    s->fuse_fd = -1;
    return 0;
}

int dfs_start(const struct dfs_dataset *v, size_t n, const char *dir, const struct dfs_options *o,
              struct dfs **ret, struct dfs_fault *ret_fault, struct err *e)
{
    _cleanup_(server_done) struct dfs_server s = {.v = v, .n = n, .fuse_fd = -1, .report_fd = -1};
    _cleanup_(dfs_stopp) struct dfs *d = NULL;

    *ret_fault = (struct dfs_fault){.dataset = SIZE_MAX};
    if (n > DFS_MAX_DATASETS) {
        return err_set(e, ERR_TOO_LARGE, "decryptfs: at most %u datasets", DFS_MAX_DATASETS);
    }
    if (server_init(&s, o, ret_fault, e) < 0 || mount_at(&s, dir, e) < 0) {
        return -1;
    }
    d = xcalloc(1, sizeof(*d));
    d->report_fd = -1;
    d->dir = xstrdup(dir);
    if (start(&s, d, e) < 0) {
        return -1;
    }
    set_read_ahead(dir, s.options.read_ahead_kib);
    *ret = TAKE_PTR(d);
    return 0;
}

/* ---- its end -------------------------------------------------------------------------------- */

int dfs_fd(const struct dfs *d)
{
    return d->report_fd;
}

int dfs_failure(struct dfs *d, struct dfs_fault *ret_fault, struct err *why)
{
    struct dfs_report r;
    ssize_t n;

    do {
        n = read(d->report_fd, &r, sizeof(r));
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        return 0;
    }
    if (n == (ssize_t)sizeof(r)) {
        *ret_fault = (struct dfs_fault){.dataset = r.dataset, .chunk = 1};
        *why = r.why;
        return 1;
    }
    *ret_fault = (struct dfs_fault){.dataset = SIZE_MAX};
    err_refuse(why, ERR_WORKLOAD, "worker.decryptfs", "a file system until the end",
               "its process ended");
    return 1;
}

void dfs_stop(struct dfs *d)
{
    if (!d) {
        return;
    }
    /* The process first: then nobody can wait for an answer, whoever has the mount. */
    if (d->pid > 0) {
        kill(d->pid, SIGKILL);
        while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    (void)umount2(d->dir, MNT_DETACH | UMOUNT_NOFOLLOW);
    closep(&d->report_fd);
    free(d->dir);
    free(d);
}
