/* DecryptFS with the kernel. Mounting needs root and /dev/fuse; without, the tests are skipped. */
#include "svc-worker/decryptfs_testing.h"

/* ---- with the kernel ------------------------------------------------------------------------ */

struct mounted {
    char *dir;
    struct dfs *d;
};

static void mounted_done(struct mounted *m)
{
    dfs_stop(m->d);
    drop_dir(&m->dir);
}
#define _cleanup_mounted_ _cleanup_(mounted_done)

static struct mounted mount_it(const struct dfs_dataset *v, size_t n)
{
    struct mounted m = {.dir = temp_dir()};
    struct dfs_fault fault;
    struct err e = {0};

    if (dfs_start(v, n, m.dir, NULL, &m.d, &fault, &e)) {
        fail_msg("%s", e.msg);
    }
    return m;
}

static int open_in(const struct mounted *m, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", m->dir, name);

    return open(path, O_RDONLY | O_CLOEXEC);
}

static void assert_well(const struct mounted *m)
{
    struct dfs_fault fault;
    struct err why = {0};

    if (dfs_failure(m->d, &fault, &why)) {
        fail_msg("%s", why.msg);
    }
}

static void mounted_file(void **state)
{
    (void)state;
    NEED_MOUNT();
    static const uint32_t chunks[] = {4096, 16384, 65536, 1u << 20};
    uint64_t rnd = 7;

    for (size_t k = 0; k < ARRAY_LEN(chunks); k++) {
        _cleanup_sealed_ struct sealed s =
            seal_random(k % 2 ? "ChaCha20-Poly1305" : "AES-256-GCM", chunks[k], 3000001);
        const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
        _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
        _cleanup_close_ int fd = open_in(&m, "0");
        _cleanup_free_ uint8_t *out = xmalloc(s.n);
        struct stat st;
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, s.n);
        assert_int_equal(st.st_mode, S_IFREG | 0444);
        for (unsigned i = 0; i < 600; i++) {
            uint64_t at = pseudo(&rnd) % s.n;
            size_t n = (size_t)(pseudo(&rnd) % (i % 50 ? 9000 : 400000)) + 1;
            n = n > s.n - at ? (size_t)(s.n - at) : n;
            assert_int_equal(pread(fd, out, n, (off_t)at), n);
            assert_memory_equal(out, s.plain + at, n);
        }
        assert_int_equal(pread(fd, out, s.n, 0), s.n);
        assert_memory_equal(out, s.plain, s.n);
        assert_int_equal(pread(fd, out, 10, (off_t)s.n), 0);
        uint8_t *map = mmap(NULL, s.n, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED);
        assert_memory_equal(map, s.plain, s.n);
        munmap(map, s.n);
        assert_well(&m);
    }
}

/* Nothing can be changed through it. */
static void read_only(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 100);
    const struct dfs_dataset v[] = {{s.reader, s.key}, {s.reader, s.key}};
    _cleanup_mounted_ struct mounted m = mount_it(v, 2);
    _cleanup_free_ char *path = xasprintf("%s/0", m.dir), *other = xasprintf("%s/new", m.dir);
    _cleanup_free_ char *none = xasprintf("%s/2", m.dir), *odd = xasprintf("%s/00", m.dir);
    struct statvfs vfs;
    struct stat st;

    assert_int_equal(open(path, O_RDWR | O_CLOEXEC), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(unlink(path), -1);
    assert_int_equal(mkdir(other, 0755), -1);
    assert_int_equal(chmod(path, 0777), -1);
    assert_int_equal(stat(none, &st), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(stat(odd, &st), -1);
    assert_int_equal(statvfs(m.dir, &vfs), 0);
    assert_true((vfs.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC)) ==
                (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC));
    DIR *d = opendir(m.dir);
    unsigned n = 0;
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    assert_int_equal(n, 4); /* ".", "..", "0", "1" */
}

static void mounted_tree(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_dir_ char *dir = make_tree();
    _cleanup_buf_ struct buf tar = {0};
    char command[300];

    for (unsigned i = 0; i < 1500; i++) { /* more than one answer of readdir holds */
        char name[40];
        snprintf(name, sizeof(name), "empty/entry-number-%u", i);
        put_file(dir, name, i, 0644);
    }
    tar_dir(dir, &tar);
    _cleanup_sealed_ struct sealed s = seal("tar", "AES-256-GCM", 4096, tar.p, tar.n);
    _cleanup_sealed_ struct sealed f = seal_random("AES-256-GCM", 4096, 100);
    const struct dfs_dataset v[] = {{f.reader, f.key}, {s.reader, s.key}};
    _cleanup_mounted_ struct mounted m = mount_it(v, 2);
    snprintf(command, sizeof(command), "diff -r --no-dereference %s %s/1", dir, m.dir);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "test $(ls %s/1/empty | wc -l) = 1500", m.dir);
    assert_int_equal(system(command), 0);
    assert_well(&m);
}

static void tampered_chunk_is_told(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 65536, 3u << 20);
    _cleanup_sealed_ struct sealed good = seal_random("AES-256-GCM", 4096, 100);
    flip(&s, 20, 65536);
    const struct dfs_dataset v[] = {{good.reader, good.key}, {s.reader, s.key}};
    _cleanup_mounted_ struct mounted m = mount_it(v, 2);
    _cleanup_close_ int fd = open_in(&m, "1");
    struct pollfd p = {.fd = dfs_fd(m.d), .events = POLLIN};
    struct dfs_fault fault;
    struct err why = {0};
    uint8_t out[4096];

    assert_int_equal(pread(fd, out, sizeof(out), 100), sizeof(out));
    assert_memory_equal(out, s.plain + 100, sizeof(out));
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(pread(fd, out, sizeof(out), 20 * 65536 + 9000), -1);
    assert_int_equal(errno, EIO);
    /* It is there before the reader knows. */
    assert_int_equal(dfs_failure(m.d, &fault, &why), 1);
    assert_int_equal(fault.dataset, 1);
    assert_true(fault.chunk);
    assert_err(&why, ERR_BAD_SIGNATURE, "sealed chunk 20: does not open");
}

static void truncated_later(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 1u << 20);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
    _cleanup_close_ int fd = open_in(&m, "0");
    struct dfs_fault fault;
    struct err why = {0};
    uint8_t out[100];

    assert_int_equal(ftruncate(s.fd, 500000), 0);
    assert_int_equal(pread(fd, out, sizeof(out), 1000000), -1);
    assert_int_equal(dfs_failure(m.d, &fault, &why), 1);
    assert_err(&why, ERR_INVALID, "is cut off inside chunk");
}

static void bad_streams(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_dir_ char *dir = temp_dir();
    static const struct forged hard = {"f", "g", '1', 0644, 0};
    _cleanup_buf_ struct buf tar = {0};
    struct dfs *d = NULL;
    struct dfs_fault fault;
    struct err e = {0};

    forge(&hard, 1, &tar);
    _cleanup_sealed_ struct sealed s = seal("tar", "AES-256-GCM", 4096, tar.p, tar.n);
    const struct dfs_dataset v[] = {{s.reader, s.key}};
    assert_int_equal(dfs_start(v, 1, dir, NULL, &d, &fault, &e), -1);
    assert_int_equal(fault.dataset, 0);
    assert_false(fault.chunk);
    assert_err(&e, ERR_UNSUPPORTED, "is a hard link");

    _cleanup_dir_ char *tree = make_tree();
    _cleanup_buf_ struct buf good = {0};
    tar_dir(tree, &good);
    _cleanup_sealed_ struct sealed t = seal("tar", "AES-256-GCM", 4096, good.p, good.n);
    flip(&t, 0, 4096);
    const struct dfs_dataset w[] = {{t.reader, t.key}};
    assert_int_equal(dfs_start(w, 1, dir, NULL, &d, &fault, &e), -1);
    assert_true(fault.chunk);
    assert_err(&e, ERR_BAD_SIGNATURE, "sealed chunk 0: does not open");
    assert_int_equal(dfs_start(w, 0, "/nowhere/at/all", NULL, &d, &fault, &e), -1);
    assert_int_equal(fault.dataset, SIZE_MAX);
    assert_err(&e, ERR_UNSUPPORTED, "FUSE cannot be used here: mount: No such file");
}

/* The process ends: whoever waits gets an error, and the runner hears of it. */
static void process_dies(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 1u << 20);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
    _cleanup_close_ int fd = open_in(&m, "0");
    struct pollfd p = {.fd = dfs_fd(m.d), .events = POLLIN};
    struct dfs_fault fault;
    struct err why = {0};
    char children[64] = {0}, path[64];
    uint8_t out[16];

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
    _cleanup_close_ int list = open(path, O_RDONLY | O_CLOEXEC);
    if (list < 0 || read(list, children, sizeof(children) - 1) <= 0) {
        skip();
    }
    assert_int_equal(kill((pid_t)atoi(children), SIGKILL), 0);
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(dfs_failure(m.d, &fault, &why), 1);
    assert_int_equal(fault.dataset, SIZE_MAX);
    assert_string_equal(why.clause, "worker.decryptfs");
    assert_int_equal(pread(fd, out, sizeof(out), 500000), -1);
}

/* No capability, a system call filter, no core dump, nothing open but what it needs. */
static void process_has_no_rights(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 100000);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_close_ int leak = open("/etc/hostname", O_RDONLY);
    assert_true(leak >= 0);
    _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
    char children[64] = {0}, path[64], text[4096] = {0};

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
    _cleanup_close_ int list = open(path, O_RDONLY | O_CLOEXEC);
    if (list < 0 || read(list, children, sizeof(children) - 1) <= 0) {
        skip();
    }
    /* It has answered, so its threads run; the filter comes right after they are started. */
    for (int i = 0; i < 50 && !strstr(text, "Seccomp:\t2"); i++) {
        usleep(20000);
        snprintf(path, sizeof(path), "/proc/%d/status", atoi(children));
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        memset(text, 0, sizeof(text));
        assert_true(read(fd, text, sizeof(text) - 1) > 0);
#ifdef COFFER_SANITIZED
        break;
#endif
    }
#ifndef COFFER_SANITIZED
    assert_non_null(strstr(text, "Seccomp:\t2"));
#endif
    assert_non_null(strstr(text, "NoNewPrivs:\t1"));
    assert_non_null(strstr(text, "CapEff:\t0000000000000000"));
    assert_non_null(strstr(text, "CapPrm:\t0000000000000000"));
    snprintf(path, sizeof(path), "/proc/%d/fd", atoi(children));
    DIR *d = opendir(path);
    unsigned n = 0;
    while (d && readdir(d)) {
        n++;
    }
    closedir(d);
    assert_int_equal(n, 2 + 3 + 3); /* ".", "..", three times /dev/null, ciphertext, device, pipe */
    _cleanup_close_ int fd = open_in(&m, "0");
    _cleanup_free_ uint8_t *out = xmalloc(s.n);
    assert_int_equal(pread(fd, out, s.n, 0), s.n);
    assert_memory_equal(out, s.plain, s.n);
}

static void nothing_left(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_dir_ char *dir = temp_dir();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 1000);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    struct stat before, after;

    assert_int_equal(stat(dir, &before), 0);
    for (int i = 0; i < 20; i++) {
        struct dfs *d = NULL;
        struct dfs_fault fault;
        struct err e = {0};
        assert_int_equal(dfs_start(&v, 1, dir, NULL, &d, &fault, &e), 0);
        assert_int_equal(stat(dir, &after), 0);
        assert_true(before.st_dev != after.st_dev);
        dfs_stop(d);
        assert_int_equal(stat(dir, &after), 0);
        assert_true(before.st_dev == after.st_dev);
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mounted_file),    cmocka_unit_test(read_only),
        cmocka_unit_test(mounted_tree),    cmocka_unit_test(tampered_chunk_is_told),
        cmocka_unit_test(truncated_later), cmocka_unit_test(bad_streams),
        cmocka_unit_test(process_dies),    cmocka_unit_test(process_has_no_rights),
        cmocka_unit_test(nothing_left),
    };

    alarm(100);
    can_mount = dfs_available() && unshare(CLONE_NEWNS) == 0 &&
                mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    if (!can_mount) {
        fputs("nothing is mounted: no FUSE device, or not root\n", stderr);
    }
    if (jkey_generate(&owner, NULL)) {
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    jkey_free(owner);
    return rc;
}
