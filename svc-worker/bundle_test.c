/* The configuration as data: that what the documentation promises is in it, and nothing else. */
#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-worker/sandbox_internal.h"

static const struct sandbox_mount one_mount = {.source = "/w/box/set", .target = "/data/set"};
static char arg0[] = "/bin/job";
static char *const some_args[] = {arg0, NULL};

static struct sandbox_config good(void)
{
    return (struct sandbox_config){.work_dir = "/w/box",
                                   .rootfs = "/w/box/rootfs",
                                   .id = "job-1",
                                   .args = some_args,
                                   .mounts = &one_mount,
                                   .n_mounts = 1,
                                   .output_target = "/out",
                                   .output_source = "/w/box/out",
                                   .memory_bytes = 1u << 26,
                                   .tmp_bytes = 0,
                                   .output_bytes = 1u << 20,
                                   .pids = 10,
                                   .cpu_millis = 1000,
                                   .timeout_ms = 1000};
}

static json_t *config(const struct sandbox_config *c, int address_limit)
{
    struct err e = {0};

    assert_int_equal(bundle_check(c, &e), 0);
    json_t *j = bundle_config(c, address_limit);
    assert_non_null(j);
    return j;
}

static const char *mount_options(const json_t *j, const char *target, char *buf, size_t size)
{
    size_t i, k;
    json_t *m, *o;

    buf[0] = 0;
    json_array_foreach(json_object_get(j, "mounts"), i, m)
    {
        if (!streq(json_string_value(json_object_get(m, "destination")), target)) {
            continue;
        }
        json_array_foreach(json_object_get(m, "options"), k, o)
        {
            size_t n = strlen(buf);
            snprintf(buf + n, size - n, "%s%s", n ? "," : "", json_string_value(o));
        }
    }
    return buf;
}

static void test_process(void **state)
{
    (void)state;
    const struct sandbox_config c = good();
    json_t *j = config(&c, 0), *p = json_object_get(j, "process"), *v;
    const char *key;

    assert_true(json_is_true(json_object_get(p, "noNewPrivileges")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(p, "user"), "uid")),
                     SANDBOX_UID);
    assert_int_equal(json_object_size(json_object_get(p, "capabilities")), 5);
    json_object_foreach(json_object_get(p, "capabilities"), key, v)
    {
        assert_int_equal(json_array_size(v), 0);
    }
    assert_true(json_is_true(json_object_get(json_object_get(j, "root"), "readonly")));
    json_decref(j);
}

static void test_mounts(void **state)
{
    (void)state;
    const struct sandbox_config c = good();
    char buf[512];
    json_t *j = config(&c, 0);

    assert_string_equal(mount_options(j, "/data/set", buf, sizeof(buf)),
                        "bind,ro,nosuid,nodev,noexec,private");
    assert_string_equal(mount_options(j, "/out", buf, sizeof(buf)),
                        "bind,rw,nosuid,nodev,noexec,private");
    /* A size of 0 would be no bound at all. */
    assert_string_equal(mount_options(j, "/tmp", buf, sizeof(buf)),
                        "nosuid,nodev,noexec,mode=1777,size=4096,nr_inodes=16384");
    assert_string_equal(mount_options(j, "/sys", buf, sizeof(buf)), "");
    assert_int_equal(json_array_size(json_object_get(j, "mounts")), 6);
    json_decref(j);
}

static int has_rlimit(const json_t *j, const char *type)
{
    size_t i;
    json_t *r;

    json_array_foreach(json_object_get(json_object_get(j, "process"), "rlimits"), i, r)
    {
        if (streq(json_string_value(json_object_get(r, "type")), type)) {
            return 1;
        }
    }
    return 0;
}

static void test_rlimits(void **state)
{
    (void)state;
    const struct sandbox_config c = good();
    json_t *with = config(&c, 1), *without = config(&c, 0);

    assert_true(has_rlimit(with, "RLIMIT_AS"));
    assert_false(has_rlimit(without, "RLIMIT_AS"));
    assert_true(has_rlimit(without, "RLIMIT_CORE"));
    assert_true(has_rlimit(without, "RLIMIT_NPROC"));
    json_decref(with);
    json_decref(without);
}

static void test_namespaces(void **state)
{
    (void)state;
    static const char *const want[] = {"pid", "ipc", "uts", "mount", "user", "network", "cgroup"};
    const struct sandbox_config c = good();
    json_t *j = config(&c, 0), *l = json_object_get(j, "linux"), *n;
    json_t *map = json_array_get(json_object_get(l, "uidMappings"), 0);
    size_t i;

    json_array_foreach(json_object_get(l, "namespaces"), i, n)
    {
        assert_string_equal(json_string_value(json_object_get(n, "type")), want[i]);
    }
    assert_int_equal(i, ARRAY_LEN(want));
    assert_int_equal(json_integer_value(json_object_get(map, "hostID")), SANDBOX_ID_BASE);
    assert_int_equal(json_array_size(json_object_get(l, "uidMappings")), 1);
    json_decref(j);
}

/* A name that libseccomp does not know is dropped in silence by crun; here it is a mistake. */
static void test_seccomp_names(void **state)
{
    (void)state;
    json_t *profile = seccomp_profile(), *rule, *name;
    size_t i, k, n = 0;

    assert_string_equal(json_string_value(json_object_get(profile, "defaultAction")),
                        "SCMP_ACT_ERRNO");
    json_array_foreach(json_object_get(profile, "syscalls"), i, rule)
    {
        json_array_foreach(json_object_get(rule, "names"), k, name)
        {
            const char *s = json_string_value(name);
            if (seccomp_syscall_resolve_name(s) == __NR_SCMP_ERROR) {
                fail_msg("no such system call: %s", s);
            }
            n++;
        }
    }
    assert_true(n > 200);
    json_decref(profile);
}

static int allowed_unconditionally(const json_t *profile, const char *call)
{
    size_t i, k;
    json_t *rule, *name;

    json_array_foreach(json_object_get(profile, "syscalls"), i, rule)
    {
        if (!streq(json_string_value(json_object_get(rule, "action")), "SCMP_ACT_ALLOW") ||
            json_object_get(rule, "args")) {
            continue;
        }
        json_array_foreach(json_object_get(rule, "names"), k, name)
        {
            if (streq(json_string_value(name), call)) {
                return 1;
            }
        }
    }
    return 0;
}

static void test_seccomp_refuses(void **state)
{
    (void)state;
    static const char *const never[] = {"ptrace",
                                        "mount",
                                        "umount2",
                                        "bpf",
                                        "userfaultfd",
                                        "keyctl",
                                        "add_key",
                                        "request_key",
                                        "io_uring_setup",
                                        "unshare",
                                        "setns",
                                        "clone",
                                        "clone3",
                                        "perf_event_open",
                                        "kexec_load",
                                        "socket",
                                        "socketpair",
                                        "ioctl",
                                        "prctl",
                                        "personality",
                                        "mknod",
                                        "mknodat",
                                        "chroot",
                                        "pivot_root",
                                        "open_by_handle_at",
                                        "init_module",
                                        "reboot",
                                        "syslog",
                                        "process_vm_writev",
                                        "pidfd_getfd",
                                        "memfd_create",
                                        "execveat",
                                        "fsopen",
                                        "open_tree",
                                        "move_mount",
                                        "quotactl",
                                        "swapon",
                                        "acct",
                                        "iopl",
                                        "ioperm",
                                        "settimeofday",
                                        "clock_settime",
                                        "adjtimex",
                                        "kcmp",
                                        "fanotify_init"};
    json_t *profile = seccomp_profile();

    for (size_t i = 0; i < ARRAY_LEN(never); i++) {
        if (allowed_unconditionally(profile, never[i])) {
            fail_msg("%s is allowed", never[i]);
        }
    }
    assert_true(allowed_unconditionally(profile, "read"));
    json_decref(profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_process),       cmocka_unit_test(test_mounts),
        cmocka_unit_test(test_rlimits),       cmocka_unit_test(test_namespaces),
        cmocka_unit_test(test_seccomp_names), cmocka_unit_test(test_seccomp_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
