#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fileio.h"
#include "svc-launcher/vm.h"

/* QEMU's command lines, one argument a line, against files that were read and compared with QEMU's
 * documentation. COFFER_GOLDEN=write makes them anew: then look at the difference. */

#define GOLDEN "tests/golden/qemu-%s.txt"

static const struct vm_disk few[] = {
    {.serial = "b0", .kind = "blob", .fd = 20},
    {.serial = "pack", .kind = "pack", .fd = 21},
    {.serial = "d2", .kind = "dataset", .fd = 22},
};

static const struct vm_disk with_scratch[] = {
    {.serial = "b0", .kind = "blob", .fd = 20},
    {.serial = "pack", .kind = "pack", .fd = 21},
    {.serial = VM_SCRATCH_SERIAL, .kind = "scratch", .fd = 23, .rw = 1},
};

static struct vm_qemu base(enum vm_kind kind)
{
    return (struct vm_qemu){.kind = kind,
                            .kvm = kind != VM_VTPM,
                            .program = "/usr/bin/qemu-system-x86_64",
                            .id = "jabc.1",
                            .firmware = "/firmware",
                            .kernel = "/kernel",
                            .memory_mib = 256,
                            .vcpus = 1,
                            .numa_node = -1,
                            .qmp_fd = 10,
                            .ctl_fd = 11,
                            .log_fd = 12,
                            .bus_fd = 13,
                            .console_fd = 14,
                            .tpm_fd = kind == VM_VTPM ? 15 : -1,
                            .disks = few,
                            .n_disks = ARRAY_LEN(few)};
}

static void check(const char *name, const struct vm_qemu *q)
{
    _cleanup_vm_argv_ struct vm_argv a = {0};
    _cleanup_buf_ struct buf got = BUF_INIT(1 << 20), want = BUF_INIT(1 << 20);
    _cleanup_free_ char *path = xasprintf(GOLDEN, name);
    const char *write = getenv("COFFER_GOLDEN");
    struct err e = {0};

    vm_qemu_argv(q, &a);
    assert_null(a.v[a.n]);
    for (size_t i = 0; i < a.n; i++) {
        assert_int_equal(buf_addf(&got, &e, "%s\n", a.v[i]), 0);
    }
    if (write && streq(write, "write")) {
        assert_int_equal(file_replace(path, buf_bytes(&got), 0644, &e), 0);
    }
    if (file_read(path, 1 << 20, 0, &want, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal((char *)got.p, (char *)want.p);
}

static void vtpm(void **state)
{
    struct vm_qemu q = base(VM_VTPM);

    (void)state;
    check("vtpm-tcg", &q);
    q.kvm = 1;
    q.vcpus = 4;
    q.memory_mib = 3072;
    q.numa_node = 1;
    q.hugepage_mib = VM_HUGE_DEFAULT;
    q.lock_memory = 1;
    check("vtpm-kvm", &q);
    q.numa_node = -1;
    q.hugepage_mib = 2;
    q.lock_memory = 0;
    q.disks = with_scratch;
    q.n_disks = ARRAY_LEN(with_scratch);
    check("vtpm-scratch", &q);
}

static void tdx(void **state)
{
    struct vm_qemu q = base(VM_TDX);

    (void)state;
    check("tdx", &q);
    q.quote_socket = "/quotes";
    q.hugepage_mib = 1024;
    check("tdx-quotes", &q);
}

static void snp(void **state)
{
    struct vm_qemu q = base(VM_SNP);

    (void)state;
    q.cbitpos = 51;
    q.reduced_phys_bits = 1;
    check("snp", &q);
}

/* All disks there can be have a place, and no two the same. */
static void many_disks(void **state)
{
    struct vm_disk disks[VM_DISKS_MAX];
    struct vm_qemu q = base(VM_VTPM);
    _cleanup_vm_argv_ struct vm_argv a = {0};
    size_t n = 0, multifunction = 0;
    char *seen[VM_DISKS_MAX];

    (void)state;
    for (size_t i = 0; i < VM_DISKS_MAX; i++) {
        disks[i] = (struct vm_disk){.kind = "dataset", .fd = (int)i + 20};
        snprintf(disks[i].serial, sizeof(disks[i].serial), "d%zu", i);
    }
    q.disks = disks;
    q.n_disks = VM_DISKS_MAX;
    vm_qemu_argv(&q, &a);
    for (size_t i = 0; i < a.n; i++) {
        unsigned slot, function;
        char *addr = strstr(a.v[i], "virtio-blk-pci,") ? strstr(a.v[i], "addr=") : NULL;
        if (!addr) {
            continue;
        }
        assert_int_equal(sscanf(addr, "addr=%x.%u", &slot, &function), 2);
        assert_true(slot >= 4 && slot < 0x1f && function < 8);
        multifunction += strstr(a.v[i], ",multifunction=on") != NULL;
        addr[strcspn(addr, ",")] = '\0';
        for (size_t k = 0; k < n; k++) {
            assert_string_not_equal(seen[k], addr);
        }
        seen[n++] = addr;
    }
    assert_int_equal(n, VM_DISKS_MAX);
    assert_int_equal(multifunction, VM_DISKS_MAX / 8);
}

static void no_way_out(void **state)
{
    static const enum vm_kind kinds[] = {VM_VTPM, VM_TDX, VM_SNP};
    static const char *const never[] = {"netdev", "virtio-net", "-nic",   "-append", "-initrd",
                                        "9p",     "virtiofs",   "fw_cfg", "vsock",   "-monitor"};

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        _cleanup_vm_argv_ struct vm_argv a = {0};
        struct vm_qemu q = base(kinds[k]);
        vm_qemu_argv(&q, &a);
        for (size_t i = 0; i < a.n * ARRAY_LEN(never); i++) {
            assert_null(strstr(a.v[i / ARRAY_LEN(never)], never[i % ARRAY_LEN(never)]));
        }
    }
}

static void versions(void **state)
{
    (void)state;
    assert_int_equal(vm_qemu_version("QEMU emulator version 7.2.22 (Debian 1:7.2)\nC"), 702);
    assert_int_equal(vm_qemu_version("QEMU emulator version 10.1.0"), 1001);
    assert_int_equal(vm_qemu_version("QEMU emulator"), 0);
    assert_int_equal(vm_qemu_version("version x.1"), 0);
}

static void cpus(void **state)
{
    static const char *const bad[] = {"", ",", "1,", "a", "3-1", "1-", "-1", "1024", "1;2", "1--2"};
    uint8_t set[VM_CPUS_MAX / 8];
    struct err e;

    (void)state;
    assert_int_equal(vm_cpus_parse("0-3,8,1023", set, NULL), 0);
    assert_int_equal(set[0], 0x0f);
    assert_int_equal(set[1], 0x01);
    assert_int_equal(set[127], 0x80);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_clear(&e);
        assert_int_equal(vm_cpus_parse(bad[i], set, &e), -1);
        assert_string_equal(e.clause, "vm-cpus");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vtpm),       cmocka_unit_test(tdx),        cmocka_unit_test(snp),
        cmocka_unit_test(many_disks), cmocka_unit_test(no_way_out), cmocka_unit_test(versions),
        cmocka_unit_test(cpus),
    };

    return cmocka_run_group_tests_name("QEMU's command line", tests, NULL, NULL);
}
