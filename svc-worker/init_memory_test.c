#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/fileio.h"
#include "svc-worker/init.h"

#define MIB (1u << 20)
#define BALLAST_MIB 16u

static struct init_memory_sum sum(void)
{
    struct init_memory m = {0};

    init_memory_sample(&m, "/proc", getpid());
    assert_int_equal(m.samples, 1);
    return m.peak;
}

/* A child that is as it is to be once it has written a byte. */
static pid_t child(void (*become)(void), int ret_fds[2])
{
    char byte;

    assert_int_equal(pipe(ret_fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ret_fds[1], 1);
        become();
        _exit(1);
    }
    assert_int_equal(read(ret_fds[0], &byte, 1), 1);
    return pid;
}

static void end(pid_t pid, const int fds[2])
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(fds[0]);
    close(fds[1]);
}

static void with_ballast(void)
{
    volatile char *p = xmalloc(BALLAST_MIB * MIB);

    for (size_t i = 0; i < BALLAST_MIB * MIB; i += 4096) {
        p[i] = 1;
    }
    if (write(1, "x", 1) == 1) {
        pause();
    }
}

/* The shell is the container runtime here, and what it starts the workload. */
static void with_workload(void)
{
    execl("/bin/sh", "sh", "-c", "sleep 60 & sleep 60 & echo; wait", NULL);
}

static void test_own_processes(void **state)
{
    struct init_memory_sum before = sum(), now;
    struct init_memory m = {0};
    int fds[2];

    (void)state;
    assert_true(before.pss_kib > 100);
    assert_true(before.private_kib <= before.pss_kib);
    assert_int_equal(before.processes, 1);
    assert_int_equal(before.runtime_kib, 0);
    pid_t pid = child(with_ballast, fds);
    now = sum();
    init_memory_sample(&m, "/proc", getpid());
    end(pid, fds);
    assert_int_equal(now.processes, 2);
    assert_in_range(now.pss_kib, before.pss_kib + BALLAST_MIB * 1024,
                    before.pss_kib + 2 * BALLAST_MIB * 1024);
    assert_int_equal(now.runtime_kib, 0);
    /* What is over stays the peak. */
    init_memory_sample(&m, "/proc", getpid());
    assert_int_equal(m.samples, 2);
    assert_int_equal(m.peak.processes, 2);
    assert_true(m.peak.pss_kib >= before.pss_kib + BALLAST_MIB * 1024);
}

static void test_workload_is_not_counted(void **state)
{
    int fds[2];

    (void)state;
    pid_t pid = child(with_workload, fds);
    struct init_memory_sum now = sum();
    end(pid, fds);
    assert_int_equal(now.processes, 2);
    assert_in_range(now.runtime_kib, 1, now.pss_kib - 1);
}

/* A file of a process in a /proc that is made by hand. */
static void put(const char *dir, const char *name, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    struct err e = {0};

    assert_int_equal(file_replace(path, BYTES_STR(text), 0600, &e), 0);
}

static void test_odd_files(void **state)
{
    char proc[] = "/tmp/init-memory-XXXXXX", text[8192], line[INIT_MEMORY_LINE_BYTES];
    struct init_memory m = {0};

    (void)state;
    assert_non_null(mkdtemp(proc));
    init_memory_sample(&m, proc, 1);
    assert_int_equal(m.samples, 0);
    _cleanup_free_ char *dir = xasprintf("%s/1", proc), *task = xasprintf("%s/task", dir),
                        *task_1 = xasprintf("%s/1", task);
    mkdir(dir, 0700);
    mkdir(task, 0700);
    mkdir(task_1, 0700);
    put(dir, "exe", "program");
    /* No such process; itself; none; more than there is room for. */
    for (size_t n = 0; n + 8 < sizeof(text); n += 2) {
        memcpy(text + n, "1 ", 3);
    }
    put(task_1, "children", text);
    put(dir, "smaps_rollup",
        "x\nPss: 18446744073709551615 kB\nPrivate_Clean: x kB\nPrivate_Dirty:");
    init_memory_sample(&m, proc, 1);
    assert_int_equal(m.samples, 1);
    assert_in_range(m.peak.processes, 2, 64);
    assert_int_equal(m.peak.private_kib, 0);
    m = (struct init_memory){.peak = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT32_MAX},
                             .samples = UINT32_MAX};
    init_memory_line(&m, line);
    assert_string_equal(line,
                        "{\"log\":\"memory\",\"peak_pss_kib\":18446744073709551615,\"private_kib\":"
                        "18446744073709551615,\"runtime_kib\":18446744073709551615,\"processes\":"
                        "4294967295,\"samples\":4294967295}");
    const char *const argv[] = {"rm", "-r", proc, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_processes),
        cmocka_unit_test(test_workload_is_not_counted),
        cmocka_unit_test(test_odd_files),
    };

    return cmocka_run_group_tests_name("init_memory", tests, NULL, NULL);
}
