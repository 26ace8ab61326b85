/* escape [all|control|hog|sleep|exit N|signal N|links|babble|orphans|nothing]
 *
 * all: tries every probe and prints one line each; the exit code is the number of ways out.
 * control: run by root outside of a sandbox; prints the same lines for those probes that then work
 * and do no harm, which shows that they can tell. The rest are small workloads for other tests. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/isolation/escape.h"

#define PROBE_SECONDS 20
#define BLOCKED_CODE 255

/* Each probe in a process of its own, since some change it, and the filter may kill it. */
static int run_probe(const struct probe *p, int control)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        alarm(PROBE_SECONDS);
        /* The mounts of the machine that runs the test are not to be changed. */
        if (control &&
            (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))) {
            _exit(errno);
        }
        int r = p->run();
        _exit(r == BLOCKED ? BLOCKED_CODE : r);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        printf("ESCAPE %s: POSSIBLE (could not be tried: %s)\n", p->name, strerror(errno));
        return 1;
    }
    if (WIFSIGNALED(status)) {
        /* SIGSYS is an answer; anything else is a probe that did not do its work. */
        int killed = WTERMSIG(status) == SIGSYS;
        printf("ESCAPE %s: %s (signal %d)\n", p->name, killed ? "blocked" : "POSSIBLE",
               WTERMSIG(status));
        return !killed;
    }
    int r = WEXITSTATUS(status);
    if (r == 0) {
        printf("ESCAPE %s: POSSIBLE\n", p->name);
    } else if (r == BLOCKED_CODE) {
        printf("ESCAPE %s: blocked\n", p->name);
    } else {
        printf("ESCAPE %s: blocked (%s)\n", p->name, strerror(r));
    }
    return r == 0;
}

static int run_table(const struct probe *t, int control)
{
    int possible = 0;

    for (; t->name; t++) {
        if (!control || t->control) {
            possible += run_probe(t, control);
            fflush(stdout);
        }
    }
    return possible;
}

static int run_all(int control)
{
    int n = run_table(probes_kernel, control) + run_table(probes_files, control) +
            run_table(probes_world, control) + run_table(probes_resources, control);

    return n > 200 ? 200 : n;
}

static int hog(void)
{
    for (int i = 0; i < 4096; i++) {
        char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            return 7;
        }
        memset(p, 1, 1 << 20);
    }
    return 0;
}

/* The one that is killed for want of memory is a child: the whole container must end. */
static int hog_child(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        _exit(hog());
    }
    waitpid(pid, NULL, 0);
    sleep(60);
    return 0;
}

static int links(void)
{
    const char *out = getenv("ESCAPE_OUTPUT");

    if (!out || chdir(out) || symlink("/etc/passwd", "abs") || symlink("../root", "up") ||
        symlink("real", "rel") || symlink("/", "rootdir") || mkdir("sub", 0755) ||
        symlink("..", "sub/parent") || mkfifo("fifo", 0644)) {
        return 1;
    }
    int fd = open("real", O_CREAT | O_WRONLY, 0600);
    int fd2 = open("sub/deep", O_CREAT | O_WRONLY, 0600);
    return fd < 0 || write(fd, "result\n", 7) != 7 || fd2 < 0 || write(fd2, "deep\n", 5) != 5;
}

static int babble(void)
{
    static char block[65536];
    unsigned long long n = 0;
    ssize_t w;

    memset(block, 'b', sizeof(block));
    while ((w = write(1, block, sizeof(block))) > 0 && n < (64u << 20)) {
        n += (unsigned long long)w;
    }
    return n > (4u << 20) ? 1 : 0;
}

/* Children that leave the session and ignore what can be ignored. */
static int orphans(void)
{
    for (int i = 0; i < 5; i++) {
        if (fork() == 0) {
            setsid();
            signal(SIGTERM, SIG_IGN);
            signal(SIGHUP, SIG_IGN);
            sleep(600);
            _exit(0);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "all";
    int n = argc > 2 ? atoi(argv[2]) : 0;

    if (strcmp(what, "all") == 0) {
        return run_all(0);
    }
    if (strcmp(what, "control") == 0) {
        return run_all(1);
    }
    if (strcmp(what, "hog") == 0) {
        return hog();
    }
    if (strcmp(what, "hog-child") == 0) {
        return hog_child();
    }
    if (strcmp(what, "sleep") == 0) {
        sleep(600);
        return 0;
    }
    if (strcmp(what, "signal") == 0) {
        /* The first process of a namespace is deaf to its own signals, but for the forced ones. */
        signal(n, SIG_DFL);
        __builtin_trap();
    }
    if (strcmp(what, "links") == 0) {
        return links();
    }
    if (strcmp(what, "babble") == 0) {
        return babble();
    }
    if (strcmp(what, "orphans") == 0) {
        return orphans();
    }
    if (strcmp(what, "orphans-sleep") == 0) {
        return orphans() + (int)sleep(600);
    }
    return strcmp(what, "exit") == 0 ? n : 0;
}
