/* The runner with a real image in a real sandbox. Needs root and crun; skipped without. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "svc-gate/gate_fixture.h"
#include "svc-worker/sandbox.h"

static struct fixture *F;
static char store[128], work[128], *image, *dataset_id;
static struct secret *dataset_key;

static char *put_blob(struct bytes b, char **ret_digest)
{
    uint8_t d[32];

    EVP_Digest(b.p, b.n, d, NULL, EVP_sha256(), NULL);
    _cleanup_free_ char *hex = hex_encode(d, sizeof(d));
    _cleanup_free_ char *path = xasprintf("%s/blobs/sha256/%s", store, hex);
    FILE *f = fopen(path, "w");
    CHECK(f && fwrite(b.p, 1, b.n, f) == b.n && fclose(f) == 0);
    *ret_digest = xasprintf("sha256:%s", hex);
    return *ret_digest;
}

static void slurp(int fd, struct buf *b)
{
    ssize_t n;

    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    do {
        OK(buf_reserve(b, 65536, e));
        n = read(fd, b->p + b->n, 65536);
        CHECK(n >= 0);
        b->n += (size_t)n;
    } while (n > 0);
}

/* A tar of a directory, as a file that is open. */
static int tar_of(const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s.tar", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    CHECK(fd >= 0);
    OK(seal_tar_dir(dir, fd, e));
    return fd;
}

static void make_image(void)
{
    char self[512], dir[256], path[600], *layer, *config;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    _cleanup_buf_ struct buf program = BUF_INIT(64u << 20), tar = BUF_INIT(64u << 20);

    CHECK(n > 0);
    self[n] = 0;
    *strrchr(self, '/') = 0;
    snprintf(path, sizeof(path), "%s/coffer-test-workload", self);
    _cleanup_close_ int in = open(path, O_RDONLY);
    CHECK(in >= 0);
    slurp(in, &program);
    snprintf(dir, sizeof(dir), "%s/root", F->dir);
    CHECK(mkdir(dir, 0755) == 0);
    snprintf(path, sizeof(path), "%s/root/workload", F->dir);
    _cleanup_close_ int out = open(path, O_WRONLY | O_CREAT, 0755);
    CHECK(out >= 0 && write(out, program.p, program.n) == (ssize_t)program.n);
    CHECK(fchmod(out, 0755) == 0);
    _cleanup_close_ int fd = tar_of(dir);
    slurp(fd, &tar);
    put_blob(buf_bytes(&tar), &layer);
    _cleanup_free_ char *ctext = xasprintf(
        "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Entrypoint\":[\"/"
        "workload\"],\"Cmd\":[\"none\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%"
        "s\"]}}",
        layer);
    put_blob(BYTES_STR(ctext), &config);
    _cleanup_free_ char *mtext = xasprintf(
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
        "\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\","
        "\"size\":%zu},\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\","
        "\"digest\":\"%s\",\"size\":%zu}]}",
        config, strlen(ctext), layer, tar.n);
    put_blob(BYTES_STR(mtext), &image);
    free(layer);
    free(config);
}

static void make_dataset(const char *form, int plain_fd)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    struct seal_header h = {0};

    free(dataset_id);
    secret_free(dataset_key);
    OK(seal_dataset_header_new("trial", form, "AES-256-GCM", 4096, F->kbs, &prefix, &dataset_key,
                               e));
    OK(seal_header_parse(buf_bytes(&prefix), &h, e));
    dataset_id = xstrdup(h.id);
    _cleanup_free_ char *path = xasprintf("%s/datasets/%s.coffer", store, h.id);
    _cleanup_close_ int out = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(lseek(plain_fd, 0, SEEK_SET) == 0);
    OK(seal_fd(&prefix, dataset_key, plain_fd, out, NULL, e));
    seal_header_done(&h);
}

static int plain_file(const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", F->dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

    for (int i = 0; i < 2000; i++) {
        CHECK(dprintf(fd, "%06d,input\n", i) > 0);
    }
    return fd;
}

static int setup(void **state)
{
    static const char *const dirs[] = {"store", "store/blobs", "store/blobs/sha256",
                                       "store/datasets", "work"};
    char path[256];
    (void)state;
    F = xcalloc(1, sizeof(*F));
    fixture_init(F);
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        snprintf(path, sizeof(path), "%s/%s", F->dir, dirs[i]);
        CHECK(mkdir(path, 0755) == 0);
    }
    snprintf(store, sizeof(store), "%s/store", F->dir);
    snprintf(work, sizeof(work), "%s/work", F->dir);
    make_image();
    _cleanup_close_ int fd = plain_file("plain");
    make_dataset("file", fd);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(image);
    free(dataset_id);
    dataset_id = NULL;
    secret_free(dataset_key);
    dataset_key = NULL;
    fixture_done(F);
    free(F);
    return 0;
}

/* Runs the workload with one argument; what is in the output goes to `text`. */
static struct worker_outcome run(const char *arg, int64_t max_bytes, const char *use_image,
                                 char text[2000])
{
    static uint8_t packed[WORKER_LAUNCH_MAX_BYTES];
    char tee[] = "sample", url[] = "nats://127.0.0.1:1";
    struct job_case job =
        fixture_job(F, JOB_OPTS(.dataset = dataset_id, .image = use_image, .max_bytes = max_bytes,
                                .arg = arg, .timeout_ms = 3000));
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    struct worker_launch *l = NULL;
    struct worker_outcome o = {0};
    struct runner *r = NULL;
    struct pollfd p = {.events = POLLIN};

    c.job = job.spec->job_id;
    c.attempt = 1;
    c.spec_jws = job.spec_jws;
    c.tee = tee;
    c.nats_url = url;
    c.store_path = store;
    c.work_dir = work;
    OK(worker_launch_parse(BYTES(packed, coffer__v1__launch_config__pack(&c, packed)), 0, &l, e));
    _cleanup_free_ char *key64 = b64url_encode(secret_cp(dataset_key), secret_n(dataset_key));
    _cleanup_json_ json_t *gate = jkey_public_jwk(F->gate_seal);
    _cleanup_free_ char *jwk = json_dumps(gate, JSON_COMPACT);
    _cleanup_free_ char *release = xasprintf(
        "{\"v\":1,\"job\":\"%s\",\"attempt\":1,\"ear\":\"x\",\"gate\":%s,\"keys\":[{\"id\":\"%s\","
        "\"kind\":\"dataset\",\"key\":\"%s\"}]}",
        job.spec->job_id, jwk, dataset_id, key64);
    _cleanup_secret_ struct secret *secret = secret_from(release, strlen(release));
    OK(runner_spawn(l, &r, e));
    OK(runner_run(r, secret, e));
    p.fd = runner_fd(r);
    CHECK(poll(&p, 1, 30000) == 1);
    OK(runner_result(r, l, &o, e));
    if (text && o.plain.n) {
        snprintf(text, 2000, "%.*s", (int)o.file_bytes[0], (const char *)o.plain.p);
    }
    runner_free(r);
    worker_launch_free(l);
    job_case_done(&job);
    return o;
}

static void expect(const struct worker_outcome *o, enum err_code code, const char *clause,
                   const char *actual)
{
    if (o->refusal.code != code || (clause && !streq(o->refusal.clause, clause)) ||
        (actual && !strstr(o->refusal.actual, actual))) {
        fail_msg("%s of \"%s\": %s", err_code_name(o->refusal.code), o->refusal.clause,
                 o->refusal.msg);
    }
}

static void test_copy(void **state)
{
    char text[2000] = "";
    (void)state;
    struct worker_outcome o = run("copy", 1 << 16, image, text);
    expect(&o, ERR_NONE, NULL, NULL);
    assert_int_equal(o.file_bytes[0], 1600);
    assert_memory_equal(text, "000000,input\n", 13);
    assert_int_equal(o.fp_input_bytes, 2000 * 13);
    assert_int_equal(o.fp_count, 100); /* every block of it is input */
}

static void test_tar(void **state)
{
    char text[2000] = "", dir[256];
    (void)state;
    snprintf(dir, sizeof(dir), "%s/tree", F->dir);
    CHECK(mkdir(dir, 0755) == 0);
    snprintf(dir, sizeof(dir), "%s/tree/sub", F->dir);
    CHECK(mkdir(dir, 0755) == 0);
    close(plain_file("tree/sub/row.txt"));
    snprintf(dir, sizeof(dir), "%s/tree", F->dir);
    _cleanup_close_ int fd = tar_of(dir);
    make_dataset("tar", fd);
    struct worker_outcome o = run("tar", 1 << 16, image, text);
    expect(&o, ERR_NONE, NULL, NULL);
    assert_memory_equal(text, "000000,input\n", 13);
    assert_int_equal(o.fp_count, 100);
}

static void test_failures(void **state)
{
    struct worker_outcome o;
    (void)state;
    o = run("fail", 1 << 16, image, NULL);
    expect(&o, ERR_WORKLOAD, "workload.exit", "exit code 7");
    assert_int_equal(o.exit_code, 7);
    o = run("none", 1 << 16, image, NULL);
    expect(&o, ERR_WORKLOAD, "output.files[0]", "no such file");
    o = run("big", 1 << 16, image, NULL);
    expect(&o, ERR_WORKLOAD, "output.maxBytes", "larger than");
    o = run("link", 1 << 16, image, NULL);
    expect(&o, ERR_WORKLOAD, "output.files[0]", NULL);
    o = run("sleep", 1 << 16, image, NULL);
    expect(&o, ERR_TIMEOUT, "workload.timeout", "none after");
    assert_int_equal(o.plain.n, 0);
}

static void test_bad_image(void **state)
{
    struct worker_outcome o;
    char path[256];
    (void)state;
    o = run("copy", 1 << 16,
            "sha256:1111111111111111111111111111111111111111111111111111111111111111", NULL);
    expect(&o, ERR_NOT_FOUND, "workload.image", NULL);
    snprintf(path, sizeof(path), "%s/blobs/sha256/%s", store, image + 7);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_APPEND);
    CHECK(write(fd, " ", 1) == 1);
    o = run("copy", 1 << 16, image, NULL);
    expect(&o, ERR_BAD_SIGNATURE, "workload.image", NULL);
}

/* Chunk 1 is changed after the job began to count on the file: its reader gets an error, and the
 * run ends at once with the reason, also when the workload would rather wait. */
static void test_tampered(void **state)
{
    static const char *const ways[] = {"copy", "hold", "none"};
    _cleanup_free_ char *path = xasprintf("%s/datasets/%s.coffer", store, dataset_id);
    _cleanup_close_ int fd = open(path, O_RDWR);
    struct timespec from, to;
    struct stat st;
    (void)state;
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    off_t at = st.st_size - 26000; /* 26000 plain bytes, 7 tags: inside chunk 0 */
    CHECK(pwrite(fd, "tampered", 8, at) == 8);
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        clock_gettime(CLOCK_MONOTONIC, &from);
        struct worker_outcome o = run(ways[i], 1 << 16, image, NULL);
        clock_gettime(CLOCK_MONOTONIC, &to);
        /* A workload that reads nothing and leaves nothing has failed by itself. */
        if (streq(ways[i], "none")) {
            expect(&o, ERR_WORKLOAD, "output.files[0]", "no such file");
            continue;
        }
        expect(&o, ERR_WORKLOAD, "dataset[0].chunk", "sealed chunk 0: does not open");
        assert_string_equal(o.refusal.expected, "the chunks that its owner sealed");
        assert_int_equal(o.plain.n, 0);
        assert_true(to.tv_sec - from.tv_sec <= 2); /* the timeout is 3 s */
    }
}

/* Without a FUSE device that works: unpacked, with the same outcome. Last, since the rest of this
 * process stays without. */
static void test_no_fuse(void **state)
{
    char text[2000] = "", dir[256];
    (void)state;
    if (access("/dev/fuse", F_OK) == 0) {
        CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
              mount("/dev/null", "/dev/fuse", NULL, MS_BIND, NULL) == 0);
    }
    struct worker_outcome o = run("copy", 1 << 16, image, text);
    expect(&o, ERR_NONE, NULL, NULL);
    assert_memory_equal(text, "000000,input\n", 13);
    _cleanup_free_ char *path = xasprintf("%s/datasets/%s.coffer", store, dataset_id);
    _cleanup_close_ int sealed = open(path, O_RDWR);
    struct stat st;
    CHECK(sealed >= 0 && fstat(sealed, &st) == 0);
    CHECK(pwrite(sealed, "tampered", 8, st.st_size - 26000) == 8);
    o = run("copy", 1 << 16, image, NULL);
    expect(&o, ERR_WORKLOAD, "dataset[0].chunk", "sealed chunk 0: does not open");
    snprintf(dir, sizeof(dir), "%s/tree", F->dir);
    CHECK(mkdir(dir, 0755) == 0);
    snprintf(dir, sizeof(dir), "%s/tree/sub", F->dir);
    CHECK(mkdir(dir, 0755) == 0);
    close(plain_file("tree/sub/row.txt"));
    snprintf(dir, sizeof(dir), "%s/tree", F->dir);
    _cleanup_close_ int fd = tar_of(dir);
    make_dataset("tar", fd);
    o = run("tar", 1 << 16, image, text);
    expect(&o, ERR_NONE, NULL, NULL);
    assert_memory_equal(text, "000000,input\n", 13);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_copy),      T(test_tar),      T(test_failures),
                                       T(test_bad_image), T(test_tampered), T(test_no_fuse)};
    struct sandbox_probe probe;
    struct err e = {0};

    if (geteuid() != 0 || sandbox_probe(&probe, &e)) {
        printf("skipped: %s\n", e.code ? e.msg : "not root");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
