#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>

#include "svc-launcher/vm_fixture_test.h"

/* What of the host a VM gets, with made-up hosts; and its scratch disk, with real files. */

static char dir[64], lock_path[96];
static struct vm_host host;
static struct vm_options options;
static struct spec spec;

static void put(const char *name, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    struct err e = {0};

    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    if (file_replace(path, BYTES_STR(text), 0600, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static int setup(void **state)
{
    static char sys[80], proc[80];

    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-place-XXXXXX");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(sys, sizeof(sys), "%s/sys", dir);
    snprintf(proc, sizeof(proc), "%s/proc", dir);
    snprintf(lock_path, sizeof(lock_path), "%s/cvm.cpus", dir);
    put("sys/devices/system/cpu/online", "0-7\n");
    put("sys/devices/system/node/online", "0-2\n");
    put("sys/devices/system/node/node0/cpulist", "0-3\n");
    put("sys/devices/system/node/node1/cpulist", "4-7\n");
    put("sys/devices/system/node/node2/cpulist", "\n");
    put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "100\n");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "200\n");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "40\n");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages", "10\n");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages", "2\n");
    put("proc/meminfo", "MemTotal: 4194304 kB\nMemFree: 1 kB\nMemAvailable:    2097152 kB\n");
    host = (struct vm_host){.sys = sys, .proc = proc, .raises = 1};
    memset(host.allowed, 0xff, sizeof(host.allowed));
    options = (struct vm_options){.cpus = "", .numa_node = -1};
    spec = (struct spec){.numa_node = -1};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return remove_tree(dir, NULL);
}

static struct vm_place place_ok(uint32_t vcpus, uint32_t *mib)
{
    struct vm_place p = VM_PLACE_INIT;
    struct err e = {0};

    if (vm_place(&host, &options, &spec, lock_path, vcpus, mib, &p, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    return p;
}

static void refused(uint32_t vcpus, uint32_t mib, enum err_code code, const char *msg)
{
    struct vm_place p = VM_PLACE_INIT;
    struct err e = {0};
    uint32_t before = mib;

    assert_int_equal(vm_place(&host, &options, &spec, lock_path, vcpus, &mib, &p, &e), -1);
    assert_string_equal(e.msg, msg);
    assert_int_equal(e.code, code);
    assert_int_equal(mib, before);
    assert_int_equal(p.lock_fd, -1);
}

static void nothing_asked(void **state)
{
    uint32_t mib = 256;

    (void)state;
    struct vm_place p = place_ok(1, &mib);
    assert_int_equal(p.numa_node, -1);
    assert_int_equal(p.hugepage_mib, 0);
    assert_int_equal(p.lock_memory, 0);
    assert_int_equal(p.pinned, 0);
    assert_string_equal(p.cpus, "0-7");
    assert_int_equal(mib, 256);
    vm_place_done(&p);

    options.cpus = "1,3-5,9";
    options.hugepages = 1;
    options.lock_memory = 1;
    options.numa_node = 1;
    memset(host.allowed, 0x1f, 1);
    p = place_ok(1, &mib);
    assert_int_equal(p.numa_node, 1);
    assert_int_equal(p.hugepage_mib, VM_HUGE_DEFAULT);
    assert_int_equal(p.lock_memory, 1);
    assert_string_equal(p.cpus, "1,3-4"); /* the setting is about memory only, as it was */
    vm_place_done(&p);
    options.cpus = "9";
    refused(1, 256, ERR_UNSUPPORTED, "vm-cpus: expected a CPU that this host has, got \"9\"");
}

static void node(void **state)
{
    uint32_t mib = 256;

    (void)state;
    spec.numa_node = 1;
    struct vm_place p = place_ok(1, &mib);
    assert_int_equal(p.numa_node, 1);
    assert_string_equal(p.cpus, "4-7");
    vm_place_done(&p);
    options.numa_node = 0;
    refused(1, 256, ERR_DENIED, "spec.resources.numaNode: expected any or 0 (vm-numa-node), got 1");
    options.numa_node = -1;
    spec.numa_node = 3;
    refused(1, 256, ERR_UNSUPPORTED,
            "spec.resources.numaNode: expected a node of this host: 0-2, got 3");
    spec.numa_node = 2;
    refused(1, 256, ERR_UNSUPPORTED,
            "spec.resources.numaNode: expected a node with CPUs that VMs may run on, got 2, which "
            "has none");
    spec.numa_node = 1;
    options.cpus = "0-3";
    refused(1, 256, ERR_UNSUPPORTED,
            "spec.resources.numaNode: expected a node with CPUs that VMs may run on, got 1, which "
            "has none");
}

static void pages(void **state)
{
    uint32_t mib = 336;

    (void)state;
    spec.hugepages = SPEC_HUGE_2M;
    struct vm_place p = place_ok(1, &mib);
    assert_int_equal(p.hugepage_mib, 2);
    assert_int_equal(mib, 336);
    vm_place_done(&p);
    refused(1, 338, ERR_BUSY,
            "spec.resources.hugepages: expected 169 free huge pages of 2MiB, for a VM of 338 MiB, "
            "got 168");
    spec.numa_node = 1;
    refused(1, 202, ERR_BUSY,
            "spec.resources.hugepages: expected 101 free huge pages of 2MiB on node 1, for a VM of "
            "202 MiB, got 100");
    spec.numa_node = -1;
    spec.hugepages = SPEC_HUGE_1G;
    refused(1, 256, ERR_UNSUPPORTED,
            "spec.resources.hugepages: expected a size of pages that this host has, got 1GiB");
    put("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "2\n");
    mib = 1536;
    p = place_ok(1, &mib);
    assert_int_equal(p.hugepage_mib, 1024);
    assert_int_equal(mib, 2048);
    vm_place_done(&p);
    refused(1, 3072, ERR_BUSY,
            "spec.resources.hugepages: expected 3 free huge pages of 1GiB, for a VM of 3072 MiB, "
            "got 2");
}

static void locked(void **state)
{
    uint32_t mib = 1536;

    (void)state;
    spec.lock_memory = 1;
    struct vm_place p = place_ok(1, &mib);
    assert_int_equal(p.lock_memory, 1);
    vm_place_done(&p);
    refused(1, 2048, ERR_BUSY,
            "spec.resources.lockMemory: expected 2304 MiB of the host's memory to lock, got 2048 "
            "MiB that are available");
    spec.lock_memory = 0;
    options.lock_memory = 1;
    refused(1, 2048, ERR_BUSY,
            "vm-lock-memory: expected 2304 MiB of the host's memory to lock, got 2048 MiB that are "
            "available");
}

/* In a child, because a limit that was lowered stays low. */
static void limited(void **state)
{
    int status;

    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit limit = {4 << 20, 4 << 20};
        struct vm_place p = VM_PLACE_INIT;
        struct err e = {0};
        uint32_t mib = 256;
        host.raises = 0;
        spec.lock_memory = 1;
        int ok = setrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
                 vm_place(&host, &options, &spec, lock_path, 1, &mib, &p, &e) < 0 &&
                 streq(e.msg, "spec.resources.lockMemory: expected RLIMIT_MEMLOCK of at least 512 "
                              "MiB, got 4 MiB");
        if (!ok) {
            fprintf(stderr, "%s\n", e.msg);
        }
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void pinned(void **state)
{
    uint32_t mib = 256;

    (void)state;
    options.cpus = "2-6";
    struct vm_place other = place_ok(1, &mib);
    assert_string_equal(other.cpus, "2-6");
    spec.cpu_pinning = 1;
    struct vm_place a = place_ok(2, &mib);
    assert_string_equal(a.cpus, "5-6");
    assert_int_equal(a.pinned, 1);
    assert_true(a.due_ms == INT64_MAX);
    struct vm_place b = place_ok(2, &mib);
    assert_string_equal(b.cpus, "3-4");
    refused(1, 256, ERR_BUSY,
            "spec.resources.cpuPinning: expected 1 CPU(s) that no other VM has, and one to spare, "
            "got 1 of 5 that VMs of this host may have");
    spec.cpu_pinning = 0;
    struct vm_place late = place_ok(1, &mib);
    assert_string_equal(late.cpus, "2");
    vm_place_done(&late);
    /* Whoever held them is gone, and with it what it had. */
    vm_place_done(&a);
    spec.cpu_pinning = 1;
    a = place_ok(1, &mib);
    assert_string_equal(a.cpus, "6");
    spec.numa_node = 0;
    refused(1, 256, ERR_BUSY,
            "spec.resources.cpuPinning: expected 1 CPU(s) that no other VM has, and one to spare, "
            "got 1 of 2 that VMs of this host may have");
    vm_place_done(&a);
    vm_place_done(&b);
    vm_place_done(&other);
}

/* The others make room, and come back. */
static void followed(void **state)
{
    cpu_set_t mine, now;
    uint32_t mib = 256;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(mine), &mine), 0);
    if (CPU_COUNT(&mine) < 2) {
        skip();
    }
    vm_host_here(&host);
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    struct vm_place other = place_ok(1, &mib);
    vm_place_follow(&other, pid, 1000);
    assert_int_equal(sched_getaffinity(pid, sizeof(now), &now), 0);
    assert_true(CPU_EQUAL(&now, &mine));
    spec.cpu_pinning = 1;
    struct vm_place a = place_ok(1, &mib);
    vm_place_follow(&other, pid, 1001); /* not yet due */
    assert_int_equal(sched_getaffinity(pid, sizeof(now), &now), 0);
    assert_true(CPU_EQUAL(&now, &mine));
    vm_place_follow(&other, pid, 3000);
    assert_int_equal(sched_getaffinity(pid, sizeof(now), &now), 0);
    assert_int_equal(CPU_COUNT(&now), CPU_COUNT(&mine) - 1);
    assert_false(CPU_ISSET((size_t)strtoul(a.cpus, NULL, 10), &now));
    vm_place_done(&a);
    vm_place_follow(&other, pid, 5000);
    assert_int_equal(sched_getaffinity(pid, sizeof(now), &now), 0);
    assert_true(CPU_EQUAL(&now, &mine));
    vm_place_done(&other);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ---- scratch --------------------------------------------------------------------------------- */

static size_t names(void)
{
    size_t n = 0;
    DIR *d = opendir(dir);

    assert_non_null(d);
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

static void scratch(void **state)
{
    static struct vm_disks d;
    struct err e = {0};
    struct stat st;
    size_t before = names();

    (void)state;
    assert_int_equal(vm_scratch_open("/nowhere", 0, 0, &d, &e), 0);
    assert_int_equal(d.n, 0);
    if (vm_scratch_open(dir, 64 << 20, 64 << 20, &d, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(d.n, 1);
    assert_string_equal(d.v[0].kind, "scratch");
    assert_string_equal(d.v[0].serial, "s0");
    assert_int_equal(d.v[0].rw, 1);
    assert_int_equal(d.v[0].bytes, (64 << 20) + (1 << 20) + (16 << 20));
    assert_int_equal(fstat(d.v[0].fd, &st), 0);
    assert_int_equal(st.st_size, d.v[0].bytes);
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(st.st_blocks, 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(fcntl(d.v[0].fd, F_GETFL) & O_ACCMODE, O_RDWR);
    assert_true(fcntl(d.v[0].fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(names(), before);
    vm_disks_done(&d);
}

static void scratch_refused(void **state)
{
    static struct vm_disks d;
    struct err e = {0};
    struct statvfs fs;

    (void)state;
    assert_int_equal(vm_scratch_open(dir, (64 << 20) + 1, 64 << 20, &d, &e), -1);
    assert_string_equal(e.msg, "spec.resources.scratch: expected at most 67108864 bytes "
                               "(vm-scratch-max-bytes), got 67108865");
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(statvfs(dir, &fs), 0);
    int64_t all = (int64_t)(fs.f_bavail * fs.f_frsize);
    assert_int_equal(vm_scratch_open(dir, all, INT64_MAX, &d, &e), -1);
    assert_int_equal(e.code, ERR_BUSY);
    assert_string_equal(e.clause, "spec.resources.scratch");
    assert_non_null(strstr(e.expected, "bytes free on the host's disk"));
    assert_int_equal(vm_scratch_open("/nowhere", 64 << 20, 64 << 20, &d, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    d.n = VM_DISKS_MAX;
    assert_int_equal(vm_scratch_open(dir, 64 << 20, 64 << 20, &d, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(d.n, VM_DISKS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(node, setup, teardown),
        cmocka_unit_test_setup_teardown(pages, setup, teardown),
        cmocka_unit_test_setup_teardown(locked, setup, teardown),
        cmocka_unit_test_setup_teardown(limited, setup, teardown),
        cmocka_unit_test_setup_teardown(pinned, setup, teardown),
        cmocka_unit_test_setup_teardown(followed, setup, teardown),
        cmocka_unit_test_setup_teardown(scratch, setup, teardown),
        cmocka_unit_test_setup_teardown(scratch_refused, setup, teardown),
    };

    return cmocka_run_group_tests_name("what VMs get of their host", tests, NULL, NULL);
}
