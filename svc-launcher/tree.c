#include "svc-launcher/backend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

/* The processes and files of a CVM: finding them, and ending them. */

#define MAX_PROCESSES 65536
#define MAX_DEPTH 128
#define ARG_DIR 5 /* of a keeper: its work directory */

/* ---- processes ------------------------------------------------------------------------------- */

struct process {
    pid_t pid, parent, session;
    int64_t start; /* in clock ticks since boot */
    int mark;
};

/* Reads "/proc/<pid>/stat" behind the command, which may hold anything. */
static int read_stat(pid_t pid, struct process *ret)
{
    char path[64], text[1024];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n <= 0) {
        return -1;
    }
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    int parent, session;
    unsigned long long start;
    if (!p || sscanf(p + 1,
                     " %*c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d"
                     " %*d %llu",
                     &parent, &session, &start) != 3) {
        return -1;
    }
    *ret = (struct process){
        .pid = pid, .parent = (pid_t)parent, .session = (pid_t)session, .start = (int64_t)start};
    return 0;
}

int64_t process_start(pid_t pid)
{
    struct process p;

    return read_stat(pid, &p) < 0 ? 0 : p.start;
}

void host_boot_id(char out[64])
{
    _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, 63);

    out[n < 0 ? 0 : n] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

static size_t list_processes(struct process **ret)
{
    struct process *v = NULL;
    size_t n = 0, size = 0;
    struct dirent *d;

    DIR *dir = opendir("/proc");
    while (dir && (d = readdir(dir)) && n < MAX_PROCESSES) {
        struct process p;
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid <= 0 || read_stat(pid, &p) < 0) {
            continue;
        }
        if (n == size) {
            size = size ? size * 2 : 256;
            v = xrealloc(v, size * sizeof(*v));
        }
        v[n++] = p;
    }
    if (dir) {
        closedir(dir);
    }
    *ret = v;
    return n;
}

static int marked(const struct process *v, size_t n, pid_t pid)
{
    for (size_t i = 0; i < n; i++) {
        if (v[i].pid == pid) {
            return v[i].mark;
        }
    }
    return 0;
}

size_t kill_descendants(pid_t of, int (*keep)(void *arg, pid_t pid), void *arg)
{
    struct process *v = NULL;
    size_t n = list_processes(&v), killed = 0;
    int more = 1;

    while (more) { /* each round finds at least one more, or is the last */
        more = 0;
        for (size_t i = 0; i < n; i++) {
            int child = v[i].parent == of && !(keep && keep(arg, v[i].pid));
            if (!v[i].mark && (child || marked(v, n, v[i].parent))) {
                v[i].mark = 1;
                more = 1;
                killed++;
                kill(v[i].pid, SIGKILL);
            }
        }
    }
    free(v);
    return killed;
}

void kill_session(pid_t session)
{
    struct process *v = NULL;
    size_t n = list_processes(&v);

    for (size_t i = 0; i < n; i++) {
        if (v[i].session == session && v[i].pid != session) {
            kill(v[i].pid, SIGKILL);
        }
    }
    free(v);
}

/* The start of a file of /proc/<pid> that holds texts which end with NUL each, if it is of a
 * process of this user; a NUL more follows. The number of bytes, or -1. */
static ssize_t read_texts(pid_t pid, const char *file, char *out, size_t size)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    if (n <= 0 || fstat(fd, &st) < 0 || st.st_uid != geteuid()) {
        return -1;
    }
    out[n] = '\0';
    return n;
}

#define TEXTS_MAX 16384

/* Its HOME, in `text`; NULL. */
static const char *home_of(pid_t pid, char text[TEXTS_MAX])
{
    ssize_t n = read_texts(pid, "environ", text, TEXTS_MAX);

    for (const char *p = text; n > 0 && p < text + n; p += strlen(p) + 1) {
        if (strncmp(p, "HOME=", 5) == 0) {
            return p + 5;
        }
    }
    return NULL;
}

/* The work directory of a keeper, in `text`; NULL: it is none. */
static const char *kept_by(pid_t pid, char text[TEXTS_MAX])
{
    ssize_t n = read_texts(pid, "cmdline", text, TEXTS_MAX);
    const char *p = text;

    for (int arg = 0; n > 0 && p < text + n; arg++, p += strlen(p) + 1) {
        if (arg == 1 && !streq(p, KEEPER_VERB)) {
            return NULL;
        }
        if (arg == ARG_DIR) {
            return p;
        }
    }
    return NULL;
}

size_t kill_inhabitants(const char *work_dir)
{
    struct process *v = NULL;
    size_t n = list_processes(&v), killed = 0;
    char text[TEXTS_MAX];

    for (size_t i = 0; i < n; i++) {
        const char *home = v[i].pid == getpid() ? NULL : home_of(v[i].pid, text);
        if (home && streq(home, work_dir)) {
            kill(v[i].pid, SIGKILL);
            killed++;
        }
    }
    free(v);
    return killed;
}

pid_t keeper_find(const char *work_dir)
{
    struct process *v = NULL;
    size_t n = list_processes(&v);
    char text[TEXTS_MAX];
    pid_t found = 0;

    for (size_t i = 0; i < n && !found; i++) {
        const char *dir = kept_by(v[i].pid, text);
        found = dir && streq(dir, work_dir) ? v[i].pid : 0;
    }
    free(v);
    return found;
}

static int is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return path && strncmp(path, dir, n) == 0 && path[n] == '/';
}

int inhabited(const char *cvm_dir)
{
    struct process *v = NULL;
    size_t n = list_processes(&v);
    char text[TEXTS_MAX];
    int found = 0;

    for (size_t i = 0; i < n && !found; i++) {
        found = is_below(kept_by(v[i].pid, text), cvm_dir) ||
                is_below(home_of(v[i].pid, text), cvm_dir);
    }
    free(v);
    return found;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int remove_below(int dir_fd, int depth);

static int remove_entry(int dir_fd, const char *name, int depth)
{
    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EISDIR && errno != EPERM) {
        return -1;
    }
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    if (depth >= MAX_DEPTH) {
        close(fd);
        errno = ELOOP;
        return -1;
    }
    if (remove_below(fd, depth + 1) < 0) {
        return -1;
    }
    return unlinkat(dir_fd, name, AT_REMOVEDIR);
}

/* Takes the descriptor. */
static int remove_below(int dir_fd, int depth)
{
    struct dirent *d;
    int rc = 0;

    DIR *dir = fdopendir(dir_fd);
    if (!dir) {
        close(dir_fd);
        return -1;
    }
    while ((d = readdir(dir))) {
        if (!streq(d->d_name, ".") && !streq(d->d_name, "..") &&
            remove_entry(dirfd(dir), d->d_name, depth) < 0) {
            rc = -1; /* the rest goes all the same */
        }
    }
    int saved = errno;
    closedir(dir);
    errno = saved;
    return rc;
}

int remove_tree(const char *path, struct err *e)
{
    if (remove_entry(AT_FDCWD, path, 0) < 0) {
        return err_errno(e, "cannot remove %s", path);
    }
    return 0;
}
