#include "svc-worker/blobs.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define HEX_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEX_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define HEX_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define ID "numbers.abcdefghijklmnopqrstuvwxyz"

struct machine {
    char root[64];
    char *sys, *dev;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static void machine_done(struct machine *m)
{
    nftw(m->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(m->sys);
    free(m->dev);
}
#define _cleanup_machine_ _cleanup_(machine_done)

static void spill(const char *dir, const char *name, const void *p, size_t n)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
}

static void dir_in(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    assert_int_equal(mkdir(path, 0700), 0);
}

static struct machine machine_new(void)
{
    struct machine m = {.root = "/tmp/blobs_test.XXXXXX"};

    assert_non_null(mkdtemp(m.root));
    m.sys = xasprintf("%s/sys", m.root);
    m.dev = xasprintf("%s/dev", m.root);
    dir_in(m.root, "sys");
    dir_in(m.root, "dev");
    return m;
}

static void plug(const struct machine *m, const char *name, const char *serial, const void *p,
                 size_t n)
{
    _cleanup_free_ char *file = xasprintf("%s/serial", name);

    dir_in(m->sys, name);
    spill(m->sys, file, serial, strlen(serial));
    spill(m->dev, name, p, n);
}

static Coffer__V1__VmDisk disk(const char *serial, const char *kind, const char *name,
                               uint64_t bytes)
{
    Coffer__V1__VmDisk d = COFFER__V1__VM_DISK__INIT;

    d.serial = (char *)(uintptr_t)serial;
    d.kind = (char *)(uintptr_t)kind;
    d.name = (char *)(uintptr_t)name;
    d.bytes = bytes;
    return d;
}

/* A ustar header and the content, padded. */
static void tar_add(struct buf *b, const char *name, const char *content)
{
    static const uint8_t zeros[512];
    char h[513] = {0};
    unsigned sum = 0;
    size_t n = strlen(content);

    snprintf(h, 100, "%s", name);
    snprintf(h + 100, 8, "0000644");
    snprintf(h + 124, 12, "%011o", (unsigned)n & 0xffffu);
    memset(h + 148, ' ', 8);
    h[156] = '0';
    memcpy(h + 257, "ustar\00000", 8);
    for (size_t i = 0; i < 512; i++) {
        sum += (unsigned char)h[i];
    }
    snprintf(h + 148, 8, "%06o", sum);
    assert_int_equal(buf_add(b, h, 512, NULL), 0);
    assert_int_equal(buf_add(b, content, n, NULL), 0);
    assert_int_equal(buf_add(b, zeros, (512 - n % 512) % 512, NULL), 0);
}

static void assert_err(const struct err *e, enum err_code code, const char *part)
{
    if (e->code != code || !strstr(e->msg, part)) {
        fail_msg("expected %s \"%s\", got %s \"%s\"", err_code_name(code), part,
                 err_code_name(e->code), e->msg);
    }
}

static void assert_reads(int fd, const char *want)
{
    char got[64] = {0};

    assert_true(pread(fd, got, strlen(want), 0) == (ssize_t)strlen(want));
    assert_string_equal(got, want);
    close(fd);
}

/* What both kinds of source must do alike. */
static void check_source(const struct blobs *b)
{
    _cleanup_buf_ struct buf doc = BUF_INIT(100), none = BUF_INIT(100);
    struct err e = {0};
    uint64_t bytes = 0;
    int fd = -1;

    assert_int_equal(blobs_dataset(b, ID, &fd, &bytes, &e), 0);
    assert_int_equal(bytes, 6);
    assert_reads(fd, "sealed");
    assert_int_equal(blobs_layer(b, HEX_A, 5, &fd, &e), 0);
    assert_reads(fd, "layer");
    assert_int_equal(blobs_layer(b, HEX_A, 6, &fd, &e), -1);
    assert_err(&e, ERR_BAD_SIGNATURE, "expected 6 bytes, got 5");
    assert_int_equal(blobs_document(b, HEX_B, 2, 100, &doc, &e), 0);
    assert_int_equal(doc.n, 2);
    assert_memory_equal(doc.p, "{}", 2);
    assert_int_equal(blobs_document(b, HEX_B, UINT64_MAX, 1, &none, &e), -1);
    assert_err(&e, ERR_TOO_LARGE, "at most 1 bytes, got 2");
    assert_int_equal(blobs_document(b, HEX_B, 3, 100, &none, &e), -1);
    assert_err(&e, ERR_BAD_SIGNATURE, "expected 3 bytes, got 2");
    assert_int_equal(blobs_document(b, HEX_C, UINT64_MAX, 100, &none, &e), -1);
    assert_err(&e, ERR_NOT_FOUND, "blob sha256:" HEX_C);
    assert_int_equal(blobs_dataset(b, "other.abc", &fd, &bytes, &e), -1);
    assert_err(&e, ERR_NOT_FOUND, "other.abc");
    assert_int_equal(blobs_dataset(b, "../x", &fd, &bytes, &e), -1);
    assert_err(&e, ERR_INVALID, "dataset.id");
    assert_int_equal(blobs_layer(b, HEX_C, 1, &fd, &e), -1);
    assert_err(&e, ERR_NOT_FOUND, HEX_C);
}

static void of_a_directory(void **state)
{
    _cleanup_machine_ struct machine m = machine_new();
    _cleanup_blobs_ struct blobs *b = NULL;
    struct err e = {0};
    uint64_t bytes;
    int fd;

    (void)state;
    dir_in(m.root, "datasets");
    dir_in(m.root, "blobs");
    dir_in(m.root, "blobs/sha256");
    dir_in(m.root, "datasets/dir.coffer");
    spill(m.root, "datasets/" ID ".coffer", "sealed", 6);
    spill(m.root, "blobs/sha256/" HEX_A, "layer", 5);
    spill(m.root, "blobs/sha256/" HEX_B, "{}", 2);
    assert_int_equal(blobs_open_dir(m.root, &b, &e), 0);
    check_source(b);
    assert_int_equal(blobs_dataset(b, "dir", &fd, &bytes, &e), -1);
    assert_err(&e, ERR_INVALID, "expected a regular file");
    assert_int_equal(blobs_open_dir("/nowhere", &b, &e), -1);
    assert_err(&e, ERR_IO, "store /nowhere");
}

static void of_disks(void **state)
{
    _cleanup_machine_ struct machine m = machine_new();
    _cleanup_blobs_ struct blobs *b = NULL;
    _cleanup_buf_ struct buf pack = BUF_INIT(65536);
    struct err e = {0};

    (void)state;
    tar_add(&pack, &HEX_C[1], "of another name");
    tar_add(&pack, HEX_B, "{}");
    plug(&m, "vda", "pack", pack.p, pack.n);
    plug(&m, "vdb", "d0\n", "sealed and padding", 18);
    plug(&m, "vdc", "b0123456789012345678", "layer......", 11);
    plug(&m, "sda", "b1", "no", 2);
    Coffer__V1__VmDisk v[] = {disk("pack", "pack", "", pack.n), disk("d0", "dataset", ID, 6),
                              disk("b0123456789012345678", "blob", HEX_A, 5)};
    Coffer__V1__VmDisk *list[] = {&v[0], &v[1], &v[2]};
    if (blobs_open_disks(list, 3, m.sys, m.dev, &b, &e)) {
        fail_msg("%s", e.msg);
    }
    check_source(b);
}

static void bad_disks(void **state)
{
    _cleanup_machine_ struct machine m = machine_new();
    static const struct {
        const char *serial, *kind, *name;
        uint64_t bytes;
        enum err_code code;
        const char *part;
    } bad[] = {
        {"", "dataset", ID, 1, ERR_INVALID, "launch.disks[1].serial"},
        {"D1", "dataset", ID, 1, ERR_INVALID, "launch.disks[1].serial: expected 1 to 20 of a-z"},
        {"d12345678901234567890", "dataset", ID, 1, ERR_INVALID, "launch.disks[1].serial"},
        {"d1", "datasets", ID, 1, ERR_INVALID,
         "launch.disks[1].kind: expected dataset, blob, pack or scratch"},
        {"d1", "blob", ID, 1, ERR_INVALID, "launch.disks[1].name: expected 64 hexadecimal digits"},
        {"d1", "dataset", "", 1, ERR_INVALID, "launch.disks[1].name: expected a dataset id"},
        {"d1", "pack", "x", 1, ERR_INVALID, "launch.disks[1].name: expected none"},
        {"d0", "dataset", "y.z", 1, ERR_INVALID, "launch.disks[1].serial: expected one of its own"},
        {"d1", "dataset", ID, 1, ERR_INVALID, "launch.disks[1].name: expected one disk of that"},
        {"gone", "blob", HEX_A, 1, ERR_NOT_FOUND, "launch.disks[1].serial"},
        {"two", "blob", HEX_A, 1, ERR_INVALID, "launch.disks[1].serial: expected one disk with it"},
        {"d1", "pack", "", BLOBS_PACK_MAX_BYTES + 1, ERR_TOO_LARGE, "launch.disks[1].bytes"},
        {"d1", "pack", "", 7, ERR_INVALID, "disk d1: holds 6 bytes, expected 7"},
    };

    (void)state;
    plug(&m, "vda", "d0", "sealed", 6);
    plug(&m, "vdb", "d1", "sealed", 6);
    plug(&m, "vdc", "two", "x", 1);
    plug(&m, "vdd", "two", "x", 1);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        Coffer__V1__VmDisk good = disk("d0", "dataset", ID, 6);
        Coffer__V1__VmDisk d = disk(bad[i].serial, bad[i].kind, bad[i].name, bad[i].bytes);
        Coffer__V1__VmDisk *list[] = {&good, &d};
        struct blobs *b = NULL;
        struct err e = {0};
        assert_int_equal(blobs_open_disks(list, 2, m.sys, m.dev, &b, &e), -1);
        assert_err(&e, bad[i].code, bad[i].part);
    }
}

static void packs(void **state)
{
    _cleanup_buf_ struct buf pack = BUF_INIT(65536);
    struct bytes got;
    struct err e = {0};

    (void)state;
    tar_add(&pack, HEX_A, "one");
    tar_add(&pack, HEX_B, "");
    assert_int_equal(blobs_pack_find(buf_bytes(&pack), HEX_A, &got, &e), 0);
    assert_int_equal(got.n, 3);
    assert_int_equal(blobs_pack_find(buf_bytes(&pack), HEX_B, &got, &e), 0);
    assert_int_equal(got.n, 0);
    assert_int_equal(blobs_pack_find(buf_bytes(&pack), HEX_C, &got, &e), -1);
    assert_err(&e, ERR_NOT_FOUND, "is not in the pack");
    /* Any byte of a header before what is looked for. */
    for (size_t i = 0; i < 345; i++) {
        if (i == 154 || i == 155) {
            continue; /* what ends the checksum */
        }
        pack.p[i] ^= 1;
        if (blobs_pack_find(buf_bytes(&pack), HEX_B, &got, &e) == 0) {
            fail_msg("byte %zu does not matter", i);
        }
        pack.p[i] ^= 1;
    }
    assert_int_equal(blobs_pack_find(BYTES(pack.p, 514), HEX_B, &got, &e), -1);
    assert_err(&e, ERR_INVALID, "pack: ends inside a file of 3 bytes");
    assert_int_equal(blobs_pack_find(BYTES(pack.p, 0), HEX_B, &got, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_a_directory),
        cmocka_unit_test(of_disks),
        cmocka_unit_test(bad_disks),
        cmocka_unit_test(packs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
