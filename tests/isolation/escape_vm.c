/* escape-vm all|control|hog|rights|capable [FILE]
 *
 * all: everything of escape_vm.h and all probes of escape.h; the lines go to FILE. Leaves processes
 * behind that want to write to FILE, too. control: run by root outside of a sandbox; what is there
 * to be found then. hog: leaves processes behind, and a child that wants all memory. rights:
 * succeeds if it has any that the others have not. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "tests/isolation/escape_vm.h"

#define ATTEMPT_SECONDS 60 /* a busy host emulates slowly */
#define BLOCKED_CODE 255
#define DAEMONS 3

/* ---- saying
 * -------------------------------------------------------------------------------------- */

void say(const char *name, const char *format, ...)
{
    char line[4096];
    va_list ap;
    int n = snprintf(line, sizeof(line), "%s: ", name);

    va_start(ap, format);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, ap);
    va_end(ap);
    n = n > (int)sizeof(line) - 2 ? (int)sizeof(line) - 2 : n;
    line[n++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)n) != n) {
        _exit(1);
    }
}

static const char *text_of(int r, char buf[32])
{
    if (r == 0) {
        return "POSSIBLE";
    }
    const char *name = r == BLOCKED_CODE ? "blocked" : strerrorname_np(r);
    snprintf(buf, 32, "%s", name ? name : "an unknown error");
    return buf;
}

static void say_status(const char *name, int status)
{
    char buf[32];

    if (WIFSIGNALED(status)) {
        const char *abbrev = sigabbrev_np(WTERMSIG(status));
        say(name, "SIG%s", abbrev ? abbrev : "?");
    } else {
        say(name, "%s", text_of(WEXITSTATUS(status), buf));
    }
}

static int code_of(int r)
{
    return r == BLOCKED ? BLOCKED_CODE : r;
}

void attempt(const char *name, attempt_fn run, const void *arg)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        alarm(ATTEMPT_SECONDS);
        _exit(code_of(run(arg)));
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        say(name, "POSSIBLE (could not be tried: %s)", strerrorname_np(errno));
        return;
    }
    say_status(name, status);
}

struct opening {
    const char *path;
    int flags;
};

static int try_open(const void *arg)
{
    const struct opening *o = arg;

    return verdict(open(o->path, o->flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600));
}

void attempt_open(const char *path, int flags)
{
    static const char *const names[] = {
        [O_RDONLY] = "read", [O_WRONLY] = "write", [O_RDWR] = "read-write"};
    char name[256];

    snprintf(name, sizeof(name), "open for %s %s", names[flags & O_ACCMODE], path);
    attempt(name, try_open, &(struct opening){path, flags});
}

void in_child(const char *name, void (*run)(void), unsigned seconds)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        alarm(seconds);
        run();
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        say(name, "could not be tried (%d)", status);
    }
}

void seen_add(struct seen *s, int r)
{
    s->outcome[code_of(r) & 255] = 1;
}

void seen_say(const char *name, const struct seen *s)
{
    char list[1024] = "", buf[32];
    size_t n = 0;

    for (int r = 0; r < 256 && n < sizeof(list) - 40; r++) {
        if (s->outcome[r]) {
            n +=
                (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", n ? " " : "", text_of(r, buf));
        }
    }
    say(name, "%s", n ? list : "nothing was tried");
}

void words_add(struct words *w, const char *format, ...)
{
    va_list ap;

    if (w->n == sizeof(w->v) / sizeof(w->v[0])) {
        w->more++;
        return;
    }
    va_start(ap, format);
    vsnprintf(w->v[w->n++], sizeof(w->v[0]), format, ap);
    va_end(ap);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

void words_say(const char *name, struct words *w)
{
    char list[3072] = "";
    size_t n = 0;

    qsort(w->v, w->n, sizeof(w->v[0]), by_text);
    for (size_t i = 0; i < w->n; i++) {
        if (n < sizeof(list) - 200) {
            n += (size_t)snprintf(list + n, sizeof(list) - n, " %s", w->v[i]);
        } else {
            w->more++;
        }
    }
    if (w->more) {
        n += (size_t)snprintf(list + n, sizeof(list) - n, " and %zu more", w->more);
    }
    say(name, "%s", n ? list + 1 : "none");
}

/* ---- all of it
 * ----------------------------------------------------------------------------------- */

static int run_probe(const void *arg)
{
    return ((const struct probe *)arg)->run();
}

static void run_table(const struct probe *t)
{
    for (; t->name; t++) {
        attempt(t->name, run_probe, t);
    }
}

/* Processes that leave the session and their parents, ignore what can be ignored, and write to the
 * output for as long as they live: `late` must not be in it. They wait until process 1 is gone,
 * which none of them should live to see; the bound is for one that does. */
static void leave_daemons(const char *late)
{
    for (int i = 0; i < DAEMONS; i++) {
        pid_t pid = fork();
        if (pid != 0) {
            waitpid(pid, NULL, 0);
            continue;
        }
        setsid();
        if (fork() != 0) {
            _exit(0);
        }
        for (int s = 1; s < NSIG; s++) {
            signal(s, SIG_IGN);
        }
        for (int k = 0; k < 3000; k++) {
            if (kill(1, 0) < 0) {
                say(late, "POSSIBLE");
            }
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
        _exit(0);
    }
}

static int processes(void)
{
    DIR *d = opendir("/proc");
    int n = 0;

    for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
        n += de->d_name[0] >= '0' && de->d_name[0] <= '9';
    }
    if (d) {
        closedir(d);
    }
    return n;
}

static int output_to(const char *path)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0644);

    if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0) {
        return -1;
    }
    return fd == STDOUT_FILENO ? 0 : close(fd);
}

static int run_all(void)
{
    run_table(probes_kernel);
    run_table(probes_files);
    run_table(probes_world);
    run_table(probes_resources);
    vm_privileges();
    vm_memory();
    vm_log();
    vm_calls();
    vm_devices();
    vm_data();
    vm_tree();
    vm_bus();
    vm_network();
    vm_shell();
    leave_daemons("a process that was left behind writes");
    say("processes left behind", "%d", processes() - 1);
    return 0;
}

static int run_control(void)
{
    vm_memory_control();
    vm_tree_control();
    vm_bus_control();
    return 0;
}

static int hog(void)
{
    leave_daemons("late");
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 4096; i++) {
            char *p =
                mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p != MAP_FAILED) {
                memset(p, 1, 1 << 20);
            }
        }
        _exit(0);
    }
    /* Only the child is killed for it, unless the whole container is. */
    waitpid(pid, NULL, 0);
    sleep(60);
    return 0;
}

static int rights(void)
{
    static const char *const names[] = {"any-capability", "is-root",  "no-seccomp",
                                        "new-privileges", "setuid-0", "capset"};

    for (const struct probe *p = probes_kernel; p->name; p++) {
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            if (strcmp(p->name, names[i]) == 0 && p->run() == 0) {
                return 0;
            }
        }
    }
    return BLOCKED_CODE;
}

static int make_capable(const char *path)
{
    const struct vfs_cap_data v = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
                                   {{~0u, ~0u}, {~0u, ~0u}}};

    return setxattr(path, "security.capability", &v, sizeof(v), 0) < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (strcmp(what, "rights") == 0) {
        return rights();
    }
    if (strcmp(what, "hog") == 0) {
        return hog();
    }
    if (argc == 3 && strcmp(what, "capable") == 0) {
        return make_capable(argv[2]);
    }
    if (argc != 3 || output_to(argv[2]) < 0) {
        return 2;
    }
    return strcmp(what, "all") == 0 ? run_all() : strcmp(what, "control") == 0 ? run_control() : 2;
}
