#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>
#include <unistd.h>

#include "common/fileio.h"
#include "guest/packages.h"

static const struct guest_packages two = {
    .n = 2,
    .v = {{"crun", "1.8", "amd64", ""},
          {"libc6", "2.36-9", "amd64",
           "1111111111111111111111111111111111111111111111111111111111111111"}}};

static void differs(const char *lock, const char *want)
{
    _cleanup_buf_ struct buf out = BUF_INIT(4096);
    struct err e = {0};

    if (guest_packages_compare(&two, BYTES_STR(lock), &out, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal(out.n ? (char *)out.p : "", want);
}

#define ONES "1111111111111111111111111111111111111111111111111111111111111111"
#define TWOS "2222222222222222222222222222222222222222222222222222222222222222"

static void test_compare(void **state)
{
    (void)state;
    differs("# comment\n\ncrun 1.8 -\nlibc6 2.36-9 " ONES "\n", "");
    /* A digest that either does not know is no difference. */
    differs("crun 1.8 " TWOS "\nlibc6 2.36-9 -", "");
    differs("crun 1.9 -\nlibc6 2.36-9 -\n", "crun is version 1.8 here, and 1.9 in the lock\n");
    differs("crun 1.8 -\nlibc6 2.36-9 " TWOS "\n",
            "libc6 2.36-9 has another digest than in the lock\n");
    differs("crun 1.8 -\n", "libc6 2.36-9 is not in the lock\n");
    differs("crun 1.8 -\nlibc6 2.36-9 -\nzlib1g 1 -\n",
            "zlib1g 1 is in the lock, and not in the image\n");
}

static void test_lock_round_trip(void **state)
{
    _cleanup_buf_ struct buf lock = BUF_INIT(4096);
    struct err e = {0};

    (void)state;
    assert_int_equal(guest_packages_lock(&two, &lock, &e), 0);
    assert_string_equal((char *)lock.p, "crun 1.8 -\nlibc6 2.36-9 " ONES "\n");
    differs((char *)lock.p, "");
}

static void test_lock_refused(void **state)
{
    static const char *const bad[] = {"crun\n", "crun 1.8\n", "crun 1.8 xyz\n",
                                      "crun 1.8 " ONES " x", "crun 1.8 1111"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_buf_ struct buf out = BUF_INIT(4096);
        _cleanup_free_ char *text = xasprintf("# first\n%s", bad[i]);
        struct err e = {0};
        assert_int_equal(guest_packages_compare(&two, BYTES_STR(text), &out, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_non_null(strstr(e.msg, "in line 2"));
    }
}

/* ---- of files -------------------------------------------------------------------------------- */

static char dir[] = "/tmp/coffer-packages-XXXXXX";

static char *write_in(const char *name, const char *text)
{
    char *path = xasprintf("%s/%s", dir, name);
    struct err e = {0};

    assert_int_equal(file_replace(path, BYTES_STR(text), 0644, &e), 0);
    return path;
}

/* A kernel that was unpacked, not installed. */
static void test_unpacked(void **state)
{
    _cleanup_free_ char *kernel = write_in("vmlinuz", "kernel");
    _cleanup_free_ char *package =
        write_in("package", "Package: linux-image-x\nVersion: 6.1-2\n" ONES "\n");
    const char *files[] = {NULL, kernel};
    struct guest_packages p;
    struct err e = {0};

    (void)state;
    if (guest_packages_of(files, 2, &p, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(p.n, 1);
    assert_string_equal(p.v[0].name, "linux-image-x");
    assert_string_equal(p.v[0].version, "6.1-2");
    assert_string_equal(p.v[0].sha256, ONES);
    assert_int_equal(p.of[0], -1);
    assert_int_equal(p.of[1], 0);

    free(package);
    package = write_in("package", "Package: linux-image-x\n");
    assert_int_equal(guest_packages_of(files, 2, &p, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(unlink(package), 0);
    assert_int_equal(unlink(kernel), 0);
}

static void test_installed(void **state)
{
    _cleanup_free_ char *mine = write_in("worker", "worker");
    const char *files[] = {"/usr/bin/dpkg", mine, "/lib64/ld-linux-x86-64.so.2"};
    struct guest_packages p;
    struct err e = {0};

    (void)state;
    if (access(files[0], X_OK) < 0) {
        skip();
    }
    if (guest_packages_of(files, 3, &p, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(unlink(mine), 0);
    assert_int_equal(p.n, 2);
    assert_true(p.of[0] >= 0 && p.of[2] >= 0);
    assert_string_equal(p.v[p.of[0]].name, "dpkg");
    assert_string_equal(p.v[p.of[2]].name, "libc6");
    assert_int_equal(p.of[1], -1);
    assert_true(p.v[0].version[0] && p.v[1].version[0]);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare),      cmocka_unit_test(test_lock_round_trip),
        cmocka_unit_test(test_lock_refused), cmocka_unit_test(test_unpacked),
        cmocka_unit_test(test_installed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
