#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "svc-launcher/vm.h"

/* Which CPUs and which memory of the host a VM gets. What a spec asks for and the host does not
 * have is refused before anything is started: QEMU would say it later, and worse. */

#define FOLLOW_MS 2000
#define QEMU_LOCKED_MIB 256u /* what QEMU locks besides the VM's memory */
/* Byte of the lock file that is held while CPUs are chosen. */
#define CHOOSING VM_CPUS_MAX
#define TEXT_BYTES 4096

/* ---- files of the kernel --------------------------------------------------------------------- */

static int read_text(const char *path, char out[TEXT_BYTES])
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, TEXT_BYTES - 1);

    out[n < 0 ? 0 : n] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return n < 0 ? -1 : 0;
}

/* 0 for what is not there. */
static uint64_t read_number(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    char text[TEXT_BYTES];

    return read_text(path, text) < 0 ? 0 : strtoull(text, NULL, 10);
}

static int read_cpus(const char *path, uint8_t ret[VM_CPUS_MAX / 8], struct err *e)
{
    char text[TEXT_BYTES];

    if (read_text(path, text) < 0) {
        return err_errno(e, "%s", path);
    }
    return vm_cpus_parse(text, ret, e) < 0 ? err_wrap(e, "%s", path) : 0;
}

/* ---- sets of CPUs ---------------------------------------------------------------------------- */

static int has(const uint8_t *set, unsigned i)
{
    return set[i / 8] >> i % 8 & 1;
}

static void put(uint8_t *set, unsigned i, int in)
{
    set[i / 8] = (uint8_t)(in ? set[i / 8] | 1u << i % 8 : set[i / 8] & ~(1u << i % 8));
}

static void both(uint8_t *set, const uint8_t *other)
{
    for (size_t i = 0; i < VM_CPUS_MAX / 8; i++) {
        set[i] &= other[i];
    }
}

static unsigned count(const uint8_t *set)
{
    unsigned n = 0;

    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        n += (unsigned)has(set, i);
    }
    return n;
}

static void set_text(const uint8_t *set, char out[VM_CPUS_TEXT])
{
    size_t at = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        unsigned last = i;
        if (!has(set, i)) {
            continue;
        }
        while (last + 1 < VM_CPUS_MAX && has(set, last + 1)) {
            last++;
        }
        int n = last > i ? snprintf(out + at, VM_CPUS_TEXT - at, "%s%u-%u", at ? "," : "", i, last)
                         : snprintf(out + at, VM_CPUS_TEXT - at, "%s%u", at ? "," : "", i);
        at += (size_t)n; /* at most 512 of 5 bytes each, every second one */
        i = last;
    }
}

/* What VMs of this launcher may run on. */
static int base_cpus(const struct vm_host *h, const struct vm_options *o, const struct spec *spec,
                     uint8_t ret[VM_CPUS_MAX / 8], struct err *e)
{
    _cleanup_free_ char *online = xasprintf("%s/devices/system/cpu/online", h->sys);
    _cleanup_free_ char *node =
        xasprintf("%s/devices/system/node/node%lld/cpulist", h->sys, (long long)spec->numa_node);
    uint8_t more[VM_CPUS_MAX / 8];

    if (read_cpus(online, ret, e) < 0) {
        return -1;
    }
    both(ret, h->allowed);
    if (o->cpus[0]) {
        if (vm_cpus_parse(o->cpus, more, e) < 0) {
            return -1;
        }
        both(ret, more);
    }
    if (count(ret) == 0) {
        return err_refuse(e, ERR_UNSUPPORTED, "vm-cpus", "a CPU that this host has", "\"%.60s\"",
                          o->cpus);
    }
    if (spec->numa_node < 0) {
        return 0;
    }
    if (read_cpus(node, more, NULL) < 0) {
        memset(more, 0, sizeof(more)); /* a node of memory alone */
    }
    both(ret, more);
    return count(ret) ? 0
                      : err_refuse(e, ERR_UNSUPPORTED, "spec.resources.numaNode",
                                   "a node with CPUs that VMs may run on", "%lld, which has none",
                                   (long long)spec->numa_node);
}

/* There are systems whose root may not. */
static int may_raise_limits(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};

    return syscall(SYS_capget, &head, data) == 0 &&
           (data[CAP_TO_INDEX(CAP_SYS_RESOURCE)].effective & CAP_TO_MASK(CAP_SYS_RESOURCE)) != 0;
}

void vm_host_here(struct vm_host *ret)
{
    cpu_set_t cpus;

    *ret = (struct vm_host){.sys = "/sys", .proc = "/proc", .raises = may_raise_limits()};
    if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0) {
        memset(ret->allowed, 0xff, sizeof(ret->allowed));
        return;
    }
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        put(ret->allowed, i, CPU_ISSET(i, &cpus));
    }
}

/* ---- CPUs of one VM alone -------------------------------------------------------------------- */

static int lock_byte(int fd, int command, unsigned byte, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int rc;

    do {
        rc = fcntl(fd, command, &l);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -1 : command == F_OFD_GETLK ? l.l_type != F_UNLCK : 0;
}

/* Those of `base` that no other VM has for itself. */
static void free_cpus(int fd, const uint8_t *base, uint8_t ret[VM_CPUS_MAX / 8])
{
    memcpy(ret, base, VM_CPUS_MAX / 8);
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        if (has(base, i) && lock_byte(fd, F_OFD_GETLK, i, F_WRLCK) == 1) {
            put(ret, i, 0);
        }
    }
}

static int take_cpus(struct vm_place *p, uint32_t vcpus, struct err *e)
{
    uint8_t rest[VM_CPUS_MAX / 8], mine[VM_CPUS_MAX / 8] = {0};
    uint32_t taken = 0;
    char expected[96];

    free_cpus(p->lock_fd, p->base, rest);
    unsigned have = count(rest);
    /* One is left to the others. */
    if (have < vcpus + 1) {
        snprintf(expected, sizeof(expected), "%u CPU(s) that no other VM has, and one to spare",
                 vcpus);
        return err_refuse(e, ERR_BUSY, "spec.resources.cpuPinning", expected,
                          "%u of %u that VMs of this host may have", have, count(p->base));
    }
    /* From the end: what is not pinned, and the host's own work, is rather at the start. */
    for (unsigned i = VM_CPUS_MAX; i-- > 0 && taken < vcpus;) {
        if (has(rest, i)) {
            if (lock_byte(p->lock_fd, F_OFD_SETLK, i, F_WRLCK) < 0) {
                return err_errno(e, "locking CPU %u", i);
            }
            put(mine, i, 1);
            taken++;
        }
    }
    p->pinned = 1;
    set_text(mine, p->cpus);
    return 0;
}

static int choose_cpus(const char *lock_path, int pinned, uint32_t vcpus, struct vm_place *p,
                       struct err *e)
{
    p->lock_fd = open(lock_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->lock_fd < 0 || lock_byte(p->lock_fd, F_OFD_SETLKW, CHOOSING, F_WRLCK) < 0) {
        return err_errno(e, "%s", lock_path);
    }
    if (pinned) {
        if (take_cpus(p, vcpus, e) < 0) {
            return -1;
        }
    } else {
        free_cpus(p->lock_fd, p->base, p->now);
        set_text(p->now, p->cpus);
        p->due_ms = 0;
    }
    if (lock_byte(p->lock_fd, F_OFD_SETLK, CHOOSING, F_UNLCK) < 0) {
        return err_errno(e, "%s", lock_path);
    }
    return 0;
}

/* Each thread of it; those that it makes meanwhile have what their maker has. */
static void move_threads(pid_t pid, const uint8_t *set)
{
    char path[64];
    cpu_set_t cpus;
    const struct dirent *de;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    CPU_ZERO(&cpus);
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        if (has(set, i)) {
            CPU_SET(i, &cpus);
        }
    }
    DIR *d = opendir(path);
    while (d && (de = readdir(d))) {
        pid_t thread = (pid_t)strtol(de->d_name, NULL, 10);
        if (thread > 0) {
            sched_setaffinity(thread, sizeof(cpus), &cpus); /* one that has ended is no matter */
        }
    }
    if (d) {
        closedir(d);
    }
}

void vm_place_follow(struct vm_place *p, pid_t qemu, int64_t now_ms)
{
    uint8_t rest[VM_CPUS_MAX / 8];

    if (now_ms < p->due_ms) {
        return;
    }
    p->due_ms = now_ms + FOLLOW_MS;
    free_cpus(p->lock_fd, p->base, rest);
    if (memcmp(rest, p->now, sizeof(rest)) != 0 && count(rest) > 0) {
        memcpy(p->now, rest, sizeof(rest));
        set_text(rest, p->cpus);
        move_threads(qemu, rest);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static const char *node_dir(const struct vm_host *h, int64_t node, char out[256])
{
    snprintf(out, 256, "%.128s/devices/system/node/node%lld", h->sys, (long long)node);
    return out;
}

static int check_node(const struct vm_host *h, const struct vm_options *o, const struct spec *spec,
                      struct err *e)
{
    char dir[256], expected[96], nodes[TEXT_BYTES];
    _cleanup_free_ char *online = xasprintf("%s/devices/system/node/online", h->sys);

    if (spec->numa_node < 0) {
        return 0;
    }
    if (o->numa_node >= 0 && o->numa_node != spec->numa_node) {
        snprintf(expected, sizeof(expected), "any or %lld (vm-numa-node)", (long long)o->numa_node);
        return err_refuse(e, ERR_DENIED, "spec.resources.numaNode", expected, "%lld",
                          (long long)spec->numa_node);
    }
    if (access(node_dir(h, spec->numa_node, dir), F_OK) < 0) {
        if (read_text(online, nodes) < 0) {
            snprintf(nodes, sizeof(nodes), "none");
        }
        snprintf(expected, sizeof(expected), "a node of this host: %.60s", nodes);
        return err_refuse(e, ERR_UNSUPPORTED, "spec.resources.numaNode", expected, "%lld",
                          (long long)spec->numa_node);
    }
    return 0;
}

static uint32_t pages_mib(const struct vm_options *o, const struct spec *spec)
{
    switch (spec->hugepages) {
    case SPEC_HUGE_2M:
        return 2;
    case SPEC_HUGE_1G:
        return 1024;
    case SPEC_HUGE_NONE:
        break;
    }
    return o->hugepages ? VM_HUGE_DEFAULT : 0;
}

/* Pages of that size that a VM could have now. */
static uint64_t free_pages(const struct vm_host *h, const char *sub, int64_t node)
{
    char at[256];
    _cleanup_free_ char *all = xasprintf("%s/kernel/mm/hugepages/%s", h->sys, sub);
    _cleanup_free_ char *one = xasprintf("%s/hugepages/%s", node_dir(h, node, at), sub);

    if (node >= 0) {
        return read_number(one, "free_hugepages");
    }
    uint64_t free = read_number(all, "free_hugepages"), taken = read_number(all, "resv_hugepages"),
             more = read_number(all, "nr_overcommit_hugepages"),
             surplus = read_number(all, "surplus_hugepages");
    return (free > taken ? free - taken : 0) + (more > surplus ? more - surplus : 0);
}

static int check_pages(const struct vm_host *h, uint32_t mib, const struct vm_place *p,
                       struct err *e)
{
    const char *size = p->hugepage_mib == 2 ? "2MiB" : "1GiB";
    char sub[64], expected[160], where[64] = "";

    if (p->hugepage_mib == 0 || p->hugepage_mib == VM_HUGE_DEFAULT) {
        return 0;
    }
    snprintf(sub, sizeof(sub), "hugepages-%ukB", p->hugepage_mib * 1024);
    _cleanup_free_ char *dir = xasprintf("%s/kernel/mm/hugepages/%s", h->sys, sub);
    if (access(dir, F_OK) < 0) {
        return err_refuse(e, ERR_UNSUPPORTED, "spec.resources.hugepages",
                          "a size of pages that this host has", "%s", size);
    }
    uint64_t need = mib / p->hugepage_mib, have = free_pages(h, sub, p->numa_node);
    if (have >= need) {
        return 0;
    }
    if (p->numa_node >= 0) {
        snprintf(where, sizeof(where), " on node %lld", (long long)p->numa_node);
    }
    snprintf(expected, sizeof(expected), "%llu free huge pages of %s%s, for a VM of %u MiB",
             (unsigned long long)need, size, where, mib);
    return err_refuse(e, ERR_BUSY, "spec.resources.hugepages", expected, "%llu",
                      (unsigned long long)have);
}

static uint64_t available_mib(const struct vm_host *h)
{
    _cleanup_free_ char *path = xasprintf("%s/meminfo", h->proc);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    unsigned long long kib = 0;
    char line[128];

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
            break;
        }
    }
    return kib / 1024;
}

static int check_lock(const struct vm_host *h, const struct spec *spec, uint32_t mib,
                      const struct vm_place *p, struct err *e)
{
    const char *clause = spec->lock_memory ? "spec.resources.lockMemory" : "vm-lock-memory";
    uint64_t need = (uint64_t)mib + QEMU_LOCKED_MIB, have = available_mib(h);
    struct rlimit limit = {0, 0};
    char expected[96];

    if (!p->lock_memory) {
        return 0;
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0) {
        return err_errno(e, "RLIMIT_MEMLOCK");
    }
    if (!h->raises && limit.rlim_max != RLIM_INFINITY && limit.rlim_max >> 20 < need) {
        snprintf(expected, sizeof(expected), "RLIMIT_MEMLOCK of at least %llu MiB",
                 (unsigned long long)need);
        return err_refuse(e, ERR_DENIED, clause, expected, "%llu MiB",
                          (unsigned long long)limit.rlim_max >> 20);
    }
    /* Huge pages are set apart and locked as they are. */
    if (p->hugepage_mib == 0 && have < need) {
        snprintf(expected, sizeof(expected), "%llu MiB of the host's memory to lock",
                 (unsigned long long)need);
        return err_refuse(e, ERR_BUSY, clause, expected, "%llu MiB that are available",
                          (unsigned long long)have);
    }
    return 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

int vm_place(const struct vm_host *h, const struct vm_options *o, const struct spec *spec,
             const char *lock_path, uint32_t vcpus, uint32_t *io_mib, struct vm_place *ret,
             struct err *e)
{
    struct vm_place p = VM_PLACE_INIT;
    uint32_t mib = *io_mib;

    p.numa_node = spec->numa_node >= 0 ? spec->numa_node : o->numa_node;
    p.hugepage_mib = pages_mib(o, spec);
    p.lock_memory = o->lock_memory || spec->lock_memory;
    if (p.hugepage_mib == 1024) {
        mib = (mib + 1023) / 1024 * 1024;
    }
    if (check_node(h, o, spec, e) < 0 || check_pages(h, mib, &p, e) < 0 ||
        check_lock(h, spec, mib, &p, e) < 0 || base_cpus(h, o, spec, p.base, e) < 0) {
        return -1;
    }
    if (choose_cpus(lock_path, spec->cpu_pinning, vcpus, &p, e) < 0) {
        vm_place_done(&p);
        return -1;
    }
    *io_mib = mib;
    *ret = p;
    return 0;
}

void vm_place_done(struct vm_place *p)
{
    closep(&p->lock_fd);
    *p = VM_PLACE_INIT;
}
