#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "svc-worker/scratch.h"

/* All of it that needs no device-mapper; the rest is integration.flow_vm_scratch's. */

#define E2FSCK "/usr/sbin/e2fsck"

static char dir[64], image[96], device[96];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-scratch-XXXXXX");
    if (!mkdtemp(dir)) {
        return -1;
    }
    snprintf(image, sizeof(image), "%s/image", dir);
    snprintf(device, sizeof(device), "%s/device", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(image);
    unlink(device);
    return rmdir(dir);
}

static void sectors(void **state)
{
    static const char *const bad[] = {"",    "0",  "x 1000",          "0 x",
                                      "0 7", "-1", "0 1000000000000", "0 99999999999999999999999"};
    struct err e = {0};
    uint64_t n = 0;

    (void)state;
    assert_int_equal(scratch_data_sectors("0 1218807 -", &n, &e), 0);
    assert_int_equal(n, 1218800);
    assert_int_equal(scratch_data_sectors("12 8", &n, &e), 0);
    assert_int_equal(n, 8);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(scratch_data_sectors(bad[i], &n, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_int_equal(n, 8);
    }
}

static void table(void **state)
{
    uint8_t key[SCRATCH_KEY_BYTES] = {0x00, 0x1f, 0xa5};
    char text[DM_PARAMS_MAX_BYTES], want[DM_PARAMS_MAX_BYTES];
    size_t n;

    (void)state;
    key[SCRATCH_KEY_BYTES - 1] = 0xfe;
    scratch_crypt_table(key, makedev(253, 300), text);
    n = (size_t)snprintf(want, sizeof(want), "capi:gcm(aes)-random 001fa5");
    memset(want + n, '0', 2 * (SCRATCH_KEY_BYTES - 4));
    n += 2 * (SCRATCH_KEY_BYTES - 4);
    snprintf(want + n, sizeof(want) - n, "fe 0 253:300 0 2 integrity:28:aead sector_size:4096");
    assert_string_equal(text, want);
}

/* What was not written cannot be read: here it is junk. A file system that is whole all the same
 * has had all of its tables written. */
static void file_system(void **state)
{
    static const uint64_t sizes[] = {16 << 20, (96 << 20) + 4096, 5ull << 30};
    uint8_t junk[4096];

    (void)state;
    memset(junk, 0xa5, sizeof(junk));
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct err e = {0};
        struct stat st;
        if (scratch_make_image(image, sizes[i], 1900065532, &e) < 0) {
            fail_msg("%s", e.msg);
        }
        assert_int_equal(stat(image, &st), 0);
        assert_int_equal(st.st_size, sizes[i]);
        assert_true((uint64_t)st.st_blocks * 512 < (8 << 20) + sizes[i] / 1024);
        int fd = open(device, O_CREAT | O_EXCL | O_RDWR, 0600);
        assert_true(fd >= 0);
        /* Not all of a large one: the tables of ext4 are near the start of each 2 GiB. */
        for (uint64_t at = 0; at < sizes[i]; at += sizeof(junk)) {
            if (at % (2ull << 30) < 64 << 20) {
                assert_int_equal(pwrite(fd, junk, sizeof(junk), (off_t)at), sizeof(junk));
            }
        }
        assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
        close(fd);
        if (scratch_copy_image(image, device, &e) < 0) {
            fail_msg("%s", e.msg);
        }
        _cleanup_free_ char *check = xasprintf(E2FSCK " -fn %s >/dev/null 2>&1", device);
        assert_int_equal(system(check), 0);
        unlink(image);
        unlink(device);
    }
}

static void failures(void **state)
{
    struct scratch s = SCRATCH_INIT;
    struct dm d = DM_INIT;
    struct err e = {0};

    (void)state;
    assert_int_equal(scratch_make_image("/nowhere/image", 16 << 20, 0, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_int_equal(scratch_make_image(image, 4096, 0, &e), -1); /* mke2fs says why */
    assert_int_equal(strncmp(e.msg, "scratch: mke2fs: ", 17), 0);
    assert_true(strlen(e.msg) > 17);
    assert_int_equal(scratch_copy_image("/nowhere/image", device, &e), -1);
    assert_int_equal(scratch_copy_image(image, "/nowhere/device", &e), -1);
    assert_int_equal(dm_create("/nowhere/control", "x", &d, &e), -1);
    assert_string_equal(e.msg, "device-mapper: /nowhere/control: No such file or directory");
    assert_int_equal(dm_create("/dev/null", "x", &d, &e), -1);
    assert_string_equal(e.msg, "device-mapper: create x: Inappropriate ioctl for device");
    assert_int_equal(d.fd, -1);
    dm_done(&d);
    scratch_done(&s);
    if (access("/dev/mapper/control", F_OK) < 0) {
        assert_int_equal(scratch_mount(&s, "/dev/null", 4096, dir, device, 0, &e), -1);
        assert_int_equal(e.code, ERR_UNSUPPORTED);
        assert_string_equal(e.msg, "scratch: the kernel has no device-mapper");
        scratch_done(&s);
    }
    assert_null(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sectors, setup, teardown),
        cmocka_unit_test_setup_teardown(table, setup, teardown),
        cmocka_unit_test_setup_teardown(file_system, setup, teardown),
        cmocka_unit_test_setup_teardown(failures, setup, teardown),
    };

    return cmocka_run_group_tests_name("scratch", tests, NULL, NULL);
}
