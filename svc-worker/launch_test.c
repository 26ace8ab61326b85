#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/vm.h"
#include "svc-worker/worker.h"

/* LaunchConfigs for VMs: the list of disks. The form for processes is tested in
 * svc-gate/flow_test.c. */

#define DIGEST "abababababababababababababababababababababababababababababababab"
#define DATASET "patients.abcdefghijklmnopqrstuvwxyz"

static struct {
    Coffer__V1__LaunchConfig c;
    Coffer__V1__VmDisk disks[VM_DISKS_MAX + 1];
    Coffer__V1__VmDisk *list[VM_DISKS_MAX + 1];
} L;

static void add(const char *serial, const char *kind, const char *name, uint64_t bytes)
{
    Coffer__V1__VmDisk *d = &L.disks[L.c.n_disks];

    *d = (Coffer__V1__VmDisk)COFFER__V1__VM_DISK__INIT;
    d->serial = (char *)(uintptr_t)serial;
    d->kind = (char *)(uintptr_t)kind;
    d->name = (char *)(uintptr_t)name;
    d->bytes = bytes;
    L.list[L.c.n_disks++] = d;
}

static int64_t scratch_bytes;

static int setup(void **state)
{
    (void)state;
    scratch_bytes = 0;
    L.c = (Coffer__V1__LaunchConfig)COFFER__V1__LAUNCH_CONFIG__INIT;
    L.c.disks = L.list;
    add("pack", "pack", "", 10240);
    add("b0", "blob", DIGEST, 1);
    add("d0", "dataset", DATASET, 70000);
    return 0;
}

static void assert_refused(enum err_code code, const char *msg)
{
    struct err e = {0};

    assert_int_equal(launch_check_disks(&L.c, scratch_bytes, &e), -1);
    assert_string_equal(e.msg, msg);
    assert_int_equal(e.code, code);
}

static void test_good(void **state)
{
    struct err e = {0};

    (void)state;
    if (launch_check_disks(&L.c, scratch_bytes, &e)) {
        fail_msg("%s", e.msg);
    }
    L.disks[2].serial = (char *)"a2345678901234567890";
    assert_int_equal(launch_check_disks(&L.c, scratch_bytes, &e), 0);
}

static void test_serial(void **state)
{
    static const char *const bad[] = {"", "B0", "b-0", "../x", "b 0", "a23456789012345678901"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_free_ char *msg =
            xasprintf("launch.disks[1].serial: expected 1 to 20 of [a-z0-9], got %s", bad[i]);
        L.disks[1].serial = (char *)(uintptr_t)bad[i];
        assert_refused(ERR_INVALID, msg);
    }
    L.disks[1].serial = (char *)"pack";
    assert_refused(ERR_INVALID,
                   "launch.disks[1].serial: expected one that no other disk has, got pack");
}

static void test_kind_and_name(void **state)
{
    (void)state;
    L.disks[1].kind = (char *)"floppy";
    assert_refused(ERR_INVALID, "launch.disks[1].kind: expected dataset, blob, pack or "
                                "scratch, got floppy");
    L.disks[1].kind = (char *)"blob";
    L.disks[1].name = (char *)"ABAB";
    assert_refused(ERR_INVALID,
                   "launch.disks[1].name: expected a blob's 64 hexadecimal digits, got ABAB");
    L.disks[1].name = (char *)DIGEST;
    L.disks[2].name = (char *)"../../etc/shadow";
    assert_refused(ERR_INVALID,
                   "launch.disks[2].name: expected a dataset id, got ../../etc/shadow");
    L.disks[2].name = (char *)DATASET;
    L.disks[0].name = (char *)"x";
    assert_refused(ERR_INVALID, "launch.disks[0].name: expected none, for a pack, got x");
    L.disks[0].name = (char *)"";
    add("d1", "dataset", DATASET, 5);
    assert_refused(ERR_INVALID, "launch.disks[3].name: expected one that no other disk has, got "
                                "dataset " DATASET);
}

static void test_bytes(void **state)
{
    struct err e = {0};

    (void)state;
    L.disks[1].bytes = 0;
    assert_int_equal(launch_check_disks(&L.c, scratch_bytes, &e), 0);
    L.disks[1].bytes = UINT64_C(1) << 46;
    assert_int_equal(launch_check_disks(&L.c, scratch_bytes, &e), 0);
    L.disks[1].bytes++;
    assert_refused(ERR_INVALID, "launch.disks[1].bytes: expected at most 2^46, got 70368744177665");
}

static void test_list(void **state)
{
    static char serials[VM_DISKS_MAX + 1][8], names[VM_DISKS_MAX + 1][80];

    (void)state;
    L.disks[0].kind = (char *)"blob";
    L.disks[0].name = (char *)"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";
    assert_refused(ERR_INVALID, "launch.disks: expected one pack, got none");
    setup(NULL);
    L.c.store_path = (char *)"/data/store";
    assert_refused(ERR_INVALID, "launch.store_path: expected none beside disks, got /data/store");
    setup(NULL);
    for (unsigned i = 3; i <= VM_DISKS_MAX; i++) {
        snprintf(serials[i], sizeof(serials[i]), "b%u", i);
        snprintf(names[i], sizeof(names[i]), "%064x", i);
        if (i == VM_DISKS_MAX) {
            struct err e = {0};
            assert_int_equal(launch_check_disks(&L.c, scratch_bytes, &e), 0);
        }
        add(serials[i], "blob", names[i], 1);
    }
    assert_refused(ERR_TOO_LARGE, "launch.disks: expected at most 160, got 161");
}

static void test_scratch(void **state)
{
    struct err e = {0};

    (void)state;
    scratch_bytes = 1 << 30;
    assert_refused(ERR_INVALID, "launch.disks: expected 1107296256 bytes for scratch, got 0");
    add("s0", "scratch", "", vm_scratch_disk_bytes(1 << 30));
    assert_int_equal(launch_check_disks(&L.c, scratch_bytes, &e), 0);
    L.disks[3].bytes--;
    assert_refused(ERR_INVALID,
                   "launch.disks: expected 1107296256 bytes for scratch, got 1107296255");
    L.disks[3].bytes++;
    L.disks[3].name = (char *)"x";
    assert_refused(ERR_INVALID, "launch.disks[3].name: expected none, for scratch, got x");
    L.disks[3].name = (char *)"";
    L.disks[3].serial = (char *)"s1";
    assert_refused(ERR_INVALID, "launch.disks: expected the serial number s0 of scratch, got s1");
    L.disks[3].serial = (char *)"s0";
    scratch_bytes = 0;
    assert_refused(ERR_INVALID, "launch.disks: expected 0 bytes for scratch, got 1107296256");
    scratch_bytes = 1 << 30;
    add("s1", "scratch", "", vm_scratch_disk_bytes(1 << 30));
    assert_refused(ERR_INVALID,
                   "launch.disks[4].name: expected one that no other disk has, got scratch ");
}

/* A process of the host has none of what only a VM can have of it, and a job that asks is told so.
 */
static void test_needs_vm(void **state)
{
    static const struct {
        const char *field, *clause;
    } cases[] = {{"scratch: 16MiB", "spec.resources.scratch"},
                 {"lockMemory: true", "spec.resources.lockMemory"},
                 {"hugepages: 2MiB", "spec.resources.hugepages"},
                 {"numaNode: 0", "spec.resources.numaNode"},
                 {"cpuPinning: true", "spec.resources.cpuPinning"},
                 {"scratch: 0", NULL}};
    _cleanup_jkey_ struct jkey *key = NULL;

    (void)state;
    assert_int_equal(jkey_generate(&key, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_spec_ struct spec *spec = NULL;
        _cleanup_free_ char *jws = NULL;
        _cleanup_buf_ struct buf b = BUF_INIT(WORKER_LAUNCH_MAX_BYTES);
        _cleanup_(worker_launch_freep) struct worker_launch *l = NULL;
        Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
        struct err e = {0};
        _cleanup_free_ char *yaml = xasprintf(
            "apiVersion: coffer/v1\nkind: Job\nmetadata: {name: t}\n"
            "workload: {image: \"sha256:" DIGEST "\", encrypted: false}\nresources: {%s}\n",
            cases[i].field);
        assert_int_equal(spec_from_yaml("t.yaml", BYTES_STR(yaml), key, &spec, &e), 0);
        assert_int_equal(spec_sign(spec, key, &jws, &e), 0);
        c.job = spec->job_id;
        c.attempt = 1;
        c.spec_jws = jws;
        c.tee = (char *)"sample";
        c.store_path = (char *)"/store";
        c.work_dir = (char *)"/work";
        assert_int_equal(buf_reserve(&b, coffer__v1__launch_config__get_packed_size(&c), &e), 0);
        b.n += coffer__v1__launch_config__pack(&c, b.p);
        int rc = worker_launch_parse(buf_bytes(&b), 0, &l, &e);
        if (!cases[i].clause) {
            assert_int_equal(rc, 0);
            continue;
        }
        assert_int_equal(rc, -1);
        assert_int_equal(e.code, ERR_UNSUPPORTED);
        assert_string_equal(e.clause, cases[i].clause);
        assert_string_equal(e.expected, "a VM to have it in");
        assert_string_equal(e.actual, "a process of the host");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_good, setup),
        cmocka_unit_test_setup(test_serial, setup),
        cmocka_unit_test_setup(test_kind_and_name, setup),
        cmocka_unit_test_setup(test_bytes, setup),
        cmocka_unit_test_setup(test_list, setup),
        cmocka_unit_test_setup(test_scratch, setup),
        cmocka_unit_test_setup(test_needs_vm, setup),
    };

    return cmocka_run_group_tests_name("launch", tests, NULL, NULL);
}
