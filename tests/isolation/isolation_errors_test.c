/* Every configuration that is refused, with the message its user sees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/isolation/isolation_box.h"

static char text[160];
static struct sandbox_mount mounts[2];
static char *args[3];

static void bad_id(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->id = "../../etc";
}

static void bad_rootfs(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->rootfs = "/usr";
}

static void bad_rootfs_dots(struct sandbox_config *c, const char *w)
{
    snprintf(text, sizeof(text), "%s/../../usr", w);
    c->rootfs = text;
}

static void bad_target(struct sandbox_config *c, const char *w)
{
    snprintf(text, sizeof(text), "%s/set", w);
    mounts[0] = (struct sandbox_mount){.source = text, .target = "/data/../proc"};
    c->mounts = mounts;
}

static void own_target(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->output_target = "/proc/sys";
}

static void overlap(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->output_target = "/data/set/out";
}

static void link_target(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->output_target = "/link/out";
}

static void file_target(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->output_target = "/bin/escape";
}

static void no_args(struct sandbox_config *c, const char *w)
{
    (void)w;
    args[0] = NULL;
    c->args = args;
}

static void not_utf8(struct sandbox_config *c, const char *w)
{
    (void)w;
    args[0] = (char *)(uintptr_t) "escape";
    args[1] = (char *)(uintptr_t) "\xff\xfe";
    args[2] = NULL;
    c->args = args;
}

static void no_memory(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->memory_bytes = 0;
}

static void no_timeout(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->timeout_ms = 0;
}

static void bad_uid(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->uid = 70000;
}

static void no_program(struct sandbox_config *c, const char *w)
{
    (void)w;
    args[0] = (char *)(uintptr_t) "/bin/nothing";
    args[1] = NULL;
    c->args = args;
}

static void no_workdir(struct sandbox_config *c, const char *w)
{
    (void)w;
    c->workdir = "/bin/escape/x";
}

static const struct {
    void (*change)(struct sandbox_config *c, const char *w);
    int no_prepare;
    enum err_code code;
    const char *says;
} refused[] = {
    {NULL, 1, ERR_WRONG_STATE, "is not this process's private tmpfs: prepare it first"},
    {bad_id, 0, ERR_INVALID, "id: expected 1..64 of [a-z0-9-], found '../../etc'"},
    {bad_rootfs, 0, ERR_INVALID, "rootfs: expected a path below /tmp/coffer-box."},
    {bad_rootfs_dots, 0, ERR_INVALID, "rootfs: expected a path below /tmp/coffer-box."},
    {bad_target, 0, ERR_INVALID, "mount target: expected an absolute path without '.', '..'"},
    {own_target, 0, ERR_INVALID, "mount target /proc/sys: /proc is the sandbox's own"},
    {overlap, 0, ERR_INVALID, "mount targets /data/set and /data/set/out overlap"},
    {link_target, 0, ERR_WORKLOAD, "mount point /link/out: the image has a symbolic link"},
    {file_target, 0, ERR_WORKLOAD, "mount point /bin/escape: the image has a symbolic link or an"},
    {no_args, 0, ERR_INVALID, "args: expected a program, found none"},
    {not_utf8, 0, ERR_INVALID, "args, env, workdir: expected UTF-8"},
    {no_memory, 0, ERR_INVALID, "memory_bytes, tmp_bytes, output_bytes: expected at most 2^50"},
    {no_timeout, 0, ERR_INVALID, "timeout_ms >= 1, found 24, 2000, 0"},
    {bad_uid, 0, ERR_INVALID, "uid, gid: expected less than 65536, found 70000"},
    {no_program, 0, ERR_WORKLOAD, "the container could not be started: crun: executable file"},
    {no_workdir, 0, ERR_WORKLOAD, "the container could not be started: crun: "},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct box *b = box_new();
        b->change = refused[i].change;
        b->no_prepare = refused[i].no_prepare;
        box_run(b);
        if (b->rc != -1 || b->e.code != refused[i].code || !strstr(b->e.msg, refused[i].says)) {
            fail_msg("case %zu: expected %s '%s', got %d %s '%s'", i,
                     err_code_name(refused[i].code), refused[i].says, b->rc,
                     err_code_name(b->e.code), b->e.msg);
        }
        if (b->no_prepare) {
            _cleanup_free_ char *rm = xasprintf("rm -rf '%s'", b->work_dir);
            assert_int_equal(system(rm), 0);
        } else {
            box_assert_gone(b);
        }
        box_free(b);
    }
}

/* What the runner is told when the private tmpfs cannot be made. */
static void test_prepare_refused(void **state)
{
    (void)state;
    struct err e = {0};
    const struct sandbox_private relative = {.work_dir = "tmp", .bytes = 1};
    const struct sandbox_private empty = {.work_dir = "/tmp"};

    assert_int_equal(sandbox_prepare_private(&relative, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "expected an absolute work_dir and bytes > 0, found tmp and 1"));
    assert_int_equal(sandbox_prepare_private(&empty, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

int errors_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_prepare_refused),
    };

    return cmocka_run_group_tests_name("refusals", tests, NULL, NULL);
}
