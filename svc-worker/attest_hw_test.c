/* The attesters of hardware against stand-ins: a file system that behaves as configfs-tsm does, and
 * the system call that devices are asked with. */
#define FUSE_USE_VERSION 31
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <linux/sev-guest.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "common/jcs.h"
#include "svc-worker/attest_hw.h"

/* ---- configfs-tsm ---------------------------------------------------------------------------- */

static struct {
    char entry[64]; /* the directory that was made; "": none */
    uint8_t inblob[64];
    unsigned generation;
    const char *provider;
    int no_auxblob, busy, empty;
    struct fuse *fuse;
    pthread_t thread;
    char dir[64];
} tsm;

static int is_file(const char *path, const char *name)
{
    _cleanup_free_ char *whole = xasprintf("/%s/%s", tsm.entry, name);

    return *tsm.entry && streq(path, whole);
}

static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    static const char *const files[] = {"inblob", "outblob", "auxblob", "provider", "generation"};
    (void)fi;

    *st = (struct stat){.st_nlink = 1};
    if (streq(path, "/") || (*tsm.entry && streq(path + 1, tsm.entry))) {
        st->st_mode = S_IFDIR | 0700;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (is_file(path, files[i])) {
            st->st_mode = S_IFREG | 0600;
            st->st_size = 0; /* as such files have none */
            return 0;
        }
    }
    return -ENOENT;
}

static int fs_mkdir(const char *path, mode_t mode)
{
    (void)mode;
    snprintf(tsm.entry, sizeof(tsm.entry), "%s", path + 1);
    tsm.generation = 0;
    return 0;
}

static int fs_rmdir(const char *path)
{
    (void)path;
    tsm.entry[0] = '\0';
    return 0;
}

static int fs_open(const char *path, struct fuse_file_info *fi)
{
    fi->direct_io = 1;
    return is_file(path, "auxblob") && tsm.no_auxblob ? -ENOENT : 0;
}

static int fs_write(const char *path, const char *p, size_t n, off_t at, struct fuse_file_info *fi)
{
    (void)fi;
    if (!is_file(path, "inblob") || n != 64 || at) {
        return -EINVAL;
    }
    memcpy(tsm.inblob, p, 64);
    tsm.generation++;
    return (int)n;
}

static int fs_read(const char *path, char *p, size_t n, off_t at, struct fuse_file_info *fi)
{
    char text[256] = "";
    size_t len;
    (void)fi;

    if (is_file(path, "provider")) {
        snprintf(text, sizeof(text), "%s\n", tsm.provider);
    } else if (is_file(path, "generation")) {
        snprintf(text, sizeof(text), "%u\n", tsm.busy ? tsm.generation++ : tsm.generation);
    } else if (is_file(path, "auxblob")) {
        snprintf(text, sizeof(text), "certificates");
    } else if (!tsm.empty) { /* the report: what was asked for, and more */
        snprintf(text, sizeof(text), "report of %02x", tsm.inblob[0]);
    }
    len = strlen(text);
    if ((size_t)at >= len) {
        return 0;
    }
    n = n < len - (size_t)at ? n : len - (size_t)at;
    memcpy(p, text + at, n);
    return (int)n;
}

static const struct fuse_operations operations = {.getattr = fs_getattr,
                                                  .mkdir = fs_mkdir,
                                                  .rmdir = fs_rmdir,
                                                  .open = fs_open,
                                                  .write = fs_write,
                                                  .read = fs_read};

static void *serve(void *arg)
{
    (void)arg;
    fuse_loop(tsm.fuse);
    return NULL;
}

/* 0 where no file system can be mounted. */
static int mount_tsm(void)
{
    char *argv[] = {(char *)(uintptr_t) "tsm", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);

    snprintf(tsm.dir, sizeof(tsm.dir), "/tmp/coffer-tsm-XXXXXX");
    assert_non_null(mkdtemp(tsm.dir));
    tsm.fuse = fuse_new(&args, &operations, sizeof(operations), NULL);
    fuse_opt_free_args(&args);
    if (!tsm.fuse || fuse_mount(tsm.fuse, tsm.dir)) {
        rmdir(tsm.dir);
        return 0;
    }
    return pthread_create(&tsm.thread, NULL, serve, NULL) == 0;
}

static void unmount_tsm(void)
{
    fuse_exit(tsm.fuse);
    fuse_unmount(tsm.fuse);
    pthread_join(tsm.thread, NULL);
    fuse_destroy(tsm.fuse);
    rmdir(tsm.dir);
}

static char *member(const struct buf *evidence, const char *name)
{
    _cleanup_json_ json_t *j = json_loadb((char *)evidence->p, evidence->n, 0, NULL);
    _cleanup_buf_ struct buf raw = BUF_INIT(1u << 16);
    const char *text = json_string_value(json_object_get(j, name));

    assert_non_null(j);
    if (!text) {
        return NULL;
    }
    assert_int_equal(b64_decode(text, strlen(text), &raw, NULL), 0);
    return xstrndup((char *)raw.p, raw.n);
}

static void test_tsm(void **state)
{
    const uint8_t report_data[64] = {0xab};
    struct err e = {0};
    (void)state;

    if (!mount_tsm()) {
        print_message("SKIPPED: no file system can be mounted here\n");
        skip();
    }
    struct attest_paths p = {.tsm = tsm.dir, .ccel = "/dev/null", .sev_guest = "/nonexistent"};
    attest_use(&p);
    tsm.provider = "tdx_guest";
    {
        _cleanup_buf_ struct buf ev = BUF_INIT(1u << 16);
        if (tdx_collect(NULL, report_data, (struct bytes){0}, &ev, &e)) {
            fail_msg("%s", e.msg);
        }
        _cleanup_free_ char *quote = member(&ev, "quote");
        assert_string_equal(quote, "report of ab");
        assert_string_equal(tsm.entry, ""); /* nothing is left behind */
        assert_int_equal(snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
        assert_string_equal(e.clause, "attest.provider");
    }
    tsm.provider = "sev_guest";
    for (int no_aux = 0; no_aux < 2; no_aux++) {
        _cleanup_buf_ struct buf ev = BUF_INIT(1u << 16);
        tsm.no_auxblob = no_aux;
        assert_int_equal(snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e), 0);
        _cleanup_free_ char *report = member(&ev, "outblob"), *aux = member(&ev, "auxblob");
        assert_string_equal(report, "report of ab");
        assert_string_equal(aux ? aux : "none", no_aux ? "none" : "certificates");
    }
    _cleanup_buf_ struct buf ev = BUF_INIT(1u << 16);
    tsm.busy = 1; /* another writes between */
    assert_int_equal(snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    assert_non_null(strstr(e.msg, "somebody else"));
    tsm.busy = 0;
    tsm.empty = 1;
    assert_int_equal(snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    assert_non_null(strstr(e.msg, "an empty report"));
    assert_string_equal(tsm.entry, "");
    attest_use(NULL);
    unmount_tsm();
}

/* ---- devices --------------------------------------------------------------------------------- */

static struct {
    int no_ext, fails;
    uint32_t status;
    const char *answer; /* of the NSM; NULL: a good one */
    size_t answer_n;
} device;

static int answer_sev(unsigned long request, struct snp_guest_request_ioctl *io)
{
    struct snp_report_resp *resp = (void *)(uintptr_t)io->resp_data;
    struct snp_ext_report_req *req = (void *)(uintptr_t)io->req_data;
    uint32_t head[2] = {device.status, 1184};

    assert_int_equal(io->msg_version, 1);
    assert_int_equal(req->data.user_data[0], 0xab);
    if (request == SNP_GET_EXT_REPORT) {
        if (device.no_ext) {
            errno = ENOTTY;
            return -1;
        }
        memcpy((void *)(uintptr_t)req->certs_address, "table", 5);
    } else if (device.fails) {
        io->fw_error = 0x16;
        errno = EIO;
        return -1;
    }
    memcpy(resp->data, head, sizeof(head));
    memset(resp->data + 32, 'r', 1184);
    return 0;
}

struct nsm_raw {
    struct iovec request, response;
};

static int answer_nsm(struct nsm_raw *io)
{
    static const char good[] = "\xa1\x6b"
                               "Attestation\xa1\x68"
                               "document\x59\x00\x03"
                               "doc";
    const uint8_t *q = io->request.iov_base;

    /* {"Attestation": {"user_data": 64 bytes, "nonce": null, "public_key": null}} */
    assert_int_equal(io->request.iov_len, 13 + 1 + 10 + 2 + 64 + 7 + 12);
    assert_memory_equal(q,
                        "\xa1\x6b"
                        "Attestation\xa3\x69user_data\x58\x40\xab",
                        27);
    memcpy(io->response.iov_base, device.answer ? device.answer : good,
           device.answer ? device.answer_n : sizeof(good) - 1);
    io->response.iov_len = device.answer ? device.answer_n : sizeof(good) - 1;
    return 0;
}

static int stand_in(int fd, unsigned long request, void *arg)
{
    (void)fd;
    return _IOC_TYPE(request) == 'S' ? answer_sev(request, arg) : answer_nsm(arg);
}

static const struct attest_paths devices = {.tsm = "/nonexistent/tsm",
                                            .ccel = "/nonexistent",
                                            .sev_guest = "/dev/null",
                                            .nsm = "/dev/null",
                                            .gramine = "/nonexistent",
                                            .ioctl = stand_in};

static void test_sev_guest(void **state)
{
    const uint8_t report_data[64] = {0xab};
    struct err e = {0};
    (void)state;

    attest_use(&devices);
    for (int no_ext = 0; no_ext < 2; no_ext++) {
        _cleanup_buf_ struct buf ev = BUF_INIT(1u << 17);
        device.no_ext = no_ext;
        if (snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e)) {
            fail_msg("%s", e.msg);
        }
        _cleanup_free_ char *report = member(&ev, "outblob"), *aux = member(&ev, "auxblob");
        assert_int_equal(strlen(report), 1184);
        assert_string_equal(aux ? aux : "none", no_ext ? "none" : "table");
    }
    _cleanup_buf_ struct buf ev = BUF_INIT(1u << 17);
    device.fails = 1;
    assert_int_equal(snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    assert_non_null(strstr(e.msg, "firmware error 0x16"));
    device.fails = device.no_ext = 0;
    device.status = 0x16;
    assert_int_equal(snp_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    assert_non_null(strstr(e.msg, "status 22"));
    device.status = 0;
    assert_int_equal(tdx_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    attest_use(NULL);
}

static void test_nsm(void **state)
{
    static const struct {
        const char *p;
        size_t n;
    } bad[] = {
        {"", 0},
        {"\xa1\x65"
         "Error\x6cInvalidInput",
         20},
        {"\xa1\x6b"
         "Attestation\xa1\x68"
         "document\x59\x00\x04"
         "doc",
         29},
        {"\xa1\x6b"
         "Attestation\xa1\x68"
         "document\x59\x00\x03"
         "docs",
         30},
    };
    const uint8_t report_data[64] = {0xab};
    struct err e = {0};
    (void)state;

    attest_use(&devices);
    _cleanup_buf_ struct buf ev = BUF_INIT(1u << 16);
    if (nitro_collect(NULL, report_data, (struct bytes){0}, &ev, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal((char *)ev.p, "ZG9j");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        device.answer = bad[i].p;
        device.answer_n = bad[i].n;
        assert_int_equal(nitro_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    }
    device.answer = NULL;
    attest_use(NULL);
}

static void put(const char *dir, const char *name, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_gramine(void **state)
{
    char dir[] = "/tmp/coffer-gramine-XXXXXX";
    const uint8_t report_data[64] = {0xab};
    struct err e = {0};
    struct attest_paths p = devices;
    (void)state;

    assert_non_null(mkdtemp(dir));
    put(dir, "user_report_data", "");
    put(dir, "quote", "the quote");
    p.gramine = dir;
    attest_use(&p);
    _cleanup_buf_ struct buf ev = BUF_INIT(1u << 16);
    if (sgx_collect(NULL, report_data, (struct bytes){0}, &ev, &e)) {
        fail_msg("%s", e.msg);
    }
    _cleanup_free_ char *quote = member(&ev, "quote");
    assert_string_equal(quote, "the quote");
    _cleanup_free_ char *a = xasprintf("%s/user_report_data", dir), *b = xasprintf("%s/quote", dir);
    struct stat st;
    assert_int_equal(stat(a, &st), 0);
    assert_int_equal(st.st_size, 64);
    unlink(a);
    assert_int_equal(sgx_collect(NULL, report_data, (struct bytes){0}, &ev, &e), -1);
    unlink(b);
    rmdir(dir);
    attest_use(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tsm), cmocka_unit_test(test_sev_guest),
                                       cmocka_unit_test(test_nsm), cmocka_unit_test(test_gramine)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
