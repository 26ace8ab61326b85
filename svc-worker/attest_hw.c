#include "svc-worker/attest_hw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sev-guest.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define BLOB_MAX_BYTES (128u * 1024)
#define SNP_REPORT_BYTES 1184u
#define SNP_RESPONSE_HEAD_BYTES 32u /* status, size, reserved (SEV-SNP ABI, MSG_REPORT_RSP) */
#define SNP_CERTS_MAX_BYTES (64u * 1024)
#define NSM_RESPONSE_MAX_BYTES 0x3000u

static int kernel_ioctl(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg);
}

static const struct attest_paths kernel_paths = {.tsm = "/sys/kernel/config/tsm/report",
                                                 .ccel = "/sys/firmware/acpi/tables/data/CCEL",
                                                 .sev_guest = "/dev/sev-guest",
                                                 .nsm = "/dev/nsm",
                                                 .gramine = "/dev/attestation",
                                                 .ioctl = kernel_ioctl};
static const struct attest_paths *paths = &kernel_paths;

void attest_use(const struct attest_paths *p)
{
    paths = p ? p : &kernel_paths;
}

/* ---- files of such interfaces ---------------------------------------------------------------- */

static int read_path(const char *path, struct buf *ret, struct err *e)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0) {
        return err_errno(e, "attest: %s", path);
    }
    *ret = BUF_INIT(BLOB_MAX_BYTES);
    do {
        if (buf_reserve(ret, 4096, e)) {
            return err_wrap(e, "attest: %s", path);
        }
        n = read(fd, ret->p + ret->n, 4096);
        ret->n += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    return n < 0 ? err_errno(e, "attest: %s", path) : 0;
}

static int read_at(const char *dir, const char *name, struct buf *ret, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    return read_path(path, ret, e);
}

/* These files take the whole in one write. */
static int write_at(const char *dir, const char *name, struct bytes b, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0) {
        return err_errno(e, "attest: %s", path);
    }
    if (write(fd, b.p, b.n) != (ssize_t)b.n) {
        return err_errno(e, "attest: %s", path);
    }
    return 0;
}

/* ---- configfs-tsm ---------------------------------------------------------------------------- */

struct tsm_report {
    struct buf provider, outblob, auxblob;
};

static void tsm_report_done(struct tsm_report *r)
{
    buf_done(&r->provider);
    buf_done(&r->outblob);
    buf_done(&r->auxblob);
}

/* The report belongs to what was written if nobody wrote in between: the generation says. */
static int tsm_exchange(const char *dir, const uint8_t report_data[64], struct tsm_report *r,
                        struct err *e)
{
    _cleanup_buf_ struct buf before = {0}, after = {0};
    struct err ignored;

    if (write_at(dir, "inblob", BYTES(report_data, 64), e) ||
        read_at(dir, "generation", &before, e) || read_at(dir, "provider", &r->provider, e) ||
        read_at(dir, "outblob", &r->outblob, e)) {
        return -1;
    }
    if (read_at(dir, "auxblob", &r->auxblob, &ignored)) { /* not every provider has one */
        r->auxblob.n = 0;
    }
    if (read_at(dir, "generation", &after, e)) {
        return -1;
    }
    if (before.n != after.n || memcmp(before.p, after.p, before.n) != 0) {
        return err_set(e, ERR_IO, "attest: somebody else used the report's directory");
    }
    return r->outblob.n ? 0 : err_set(e, ERR_IO, "attest: an empty report");
}

/* 0; -1 with ERR_UNSUPPORTED when this kernel has no such interface. */
static int tsm_get(const char *provider, const uint8_t report_data[64], struct tsm_report *ret,
                   struct err *e)
{
    _cleanup_(tsm_report_done) struct tsm_report r = {0};
    uint8_t id[8];

    random_bytes(id, sizeof(id));
    _cleanup_free_ char *hex = hex_encode(id, sizeof(id));
    _cleanup_free_ char *dir = xasprintf("%s/coffer-%s", paths->tsm, hex);
    if (mkdir(dir, 0700)) {
        return errno == ENOENT || errno == EPERM || errno == ENXIO
                   ? err_refuse(e, ERR_UNSUPPORTED, "attest.interface", paths->tsm, "no such thing")
                   : err_errno(e, "attest: %s", dir);
    }
    int rc = tsm_exchange(dir, report_data, &r, e);
    rmdir(dir);
    if (rc) {
        return -1;
    }
    if (strncmp((char *)r.provider.p, provider, strlen(provider)) != 0) {
        return err_refuse(e, ERR_UNSUPPORTED, "attest.provider", provider, "%.32s",
                          (char *)r.provider.p);
    }
    *ret = r;
    r = (struct tsm_report){0};
    return 0;
}

int tdx_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                struct buf *ret, struct err *e)
{
    _cleanup_(tsm_report_done) struct tsm_report r = {0};
    _cleanup_buf_ struct buf ccel = BUF_INIT(BLOB_MAX_BYTES);
    struct err ignored;
    (void)state;
    (void)credential;

    if (tsm_get("tdx_guest", report_data, &r, e)) {
        return -1;
    }
    _cleanup_free_ char *quote = b64_encode(r.outblob.p, r.outblob.n), *log = NULL;
    if (read_path(paths->ccel, &ccel, &ignored) == 0 && ccel.n) {
        log = b64_encode(ccel.p, ccel.n);
    }
    return buf_addf(ret, e, "{\"cc_eventlog\":%s%s%s,\"quote\":\"%s\"}", log ? "\"" : "",
                    log ? log : "null", log ? "\"" : "", quote);
}

/* ---- /dev/sev-guest -------------------------------------------------------------------------- */

static int sev_guest_ask(int fd, unsigned long request, void *req, struct snp_report_resp *resp,
                         struct snp_guest_request_ioctl *io)
{
    *io = (struct snp_guest_request_ioctl){.msg_version = 1,
                                           .req_data = (uint64_t)(uintptr_t)req,
                                           .resp_data = (uint64_t)(uintptr_t)resp};
    return paths->ioctl(fd, request, io);
}

/* With the certificates that the host has put there, if it has. */
static int sev_guest_report(int fd, const uint8_t report_data[64], struct snp_report_resp *resp,
                            struct buf *certs, struct err *e)
{
    struct snp_ext_report_req ext = {.certs_len = SNP_CERTS_MAX_BYTES};
    struct snp_guest_request_ioctl io;

    if (buf_reserve(certs, SNP_CERTS_MAX_BYTES, e)) {
        return -1;
    }
    memset(certs->p, 0, SNP_CERTS_MAX_BYTES);
    memcpy(ext.data.user_data, report_data, 64);
    ext.certs_address = (uint64_t)(uintptr_t)certs->p;
    if (sev_guest_ask(fd, SNP_GET_EXT_REPORT, &ext, resp, &io) == 0) {
        certs->n = SNP_CERTS_MAX_BYTES;
        return 0;
    }
    if (sev_guest_ask(fd, SNP_GET_REPORT, &ext.data, resp, &io) == 0) {
        return 0;
    }
    return err_errno(e, "attest: %s: firmware error 0x%x, host error 0x%x", paths->sev_guest,
                     io.fw_error, io.vmm_error);
}

/* Without the zeros behind its last certificate. */
static size_t used(const struct buf *b)
{
    size_t n = b->n;

    while (n && !b->p[n - 1]) {
        n--;
    }
    return n;
}

static int snp_by_device(const uint8_t report_data[64], struct buf *ret, struct err *e)
{
    _cleanup_close_ int fd = open(paths->sev_guest, O_RDWR | O_CLOEXEC);
    _cleanup_buf_ struct buf certs = BUF_INIT(SNP_CERTS_MAX_BYTES);
    struct snp_report_resp resp = {0};
    uint32_t status, size;

    if (fd < 0) {
        return err_errno(e, "attest: %s", paths->sev_guest);
    }
    if (sev_guest_report(fd, report_data, &resp, &certs, e)) {
        return -1;
    }
    memcpy(&status, resp.data, sizeof(status));
    memcpy(&size, resp.data + sizeof(status), sizeof(size));
    if (status || size != SNP_REPORT_BYTES) {
        return err_set(e, ERR_IO, "attest: %s: status %u, a report of %u bytes", paths->sev_guest,
                       status, size);
    }
    _cleanup_free_ char *report = b64_encode(resp.data + SNP_RESPONSE_HEAD_BYTES, SNP_REPORT_BYTES);
    _cleanup_free_ char *table = b64_encode(certs.p, used(&certs));
    return buf_addf(ret, e, "{%s%s%s\"outblob\":\"%s\",\"provider\":\"sev_guest\"}",
                    *table ? "\"auxblob\":\"" : "", table, *table ? "\"," : "", report);
}

int snp_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                struct buf *ret, struct err *e)
{
    _cleanup_(tsm_report_done) struct tsm_report r = {0};
    (void)state;
    (void)credential;

    if (tsm_get("sev_guest", report_data, &r, e)) {
        return e->code == ERR_UNSUPPORTED && streq(e->clause, "attest.interface")
                   ? snp_by_device(report_data, ret, e)
                   : -1;
    }
    _cleanup_free_ char *report = b64_encode(r.outblob.p, r.outblob.n);
    _cleanup_free_ char *table = b64_encode(r.auxblob.p, r.auxblob.n);
    return buf_addf(ret, e, "{%s%s%s\"outblob\":\"%s\",\"provider\":\"sev_guest\"}",
                    *table ? "\"auxblob\":\"" : "", table, *table ? "\"," : "", report);
}

/* ---- /dev/nsm -------------------------------------------------------------------------------- */

/* linux/nsm.h (6.8); the same in AWS's driver for older kernels. */
struct nsm_raw {
    struct iovec request, response;
};
#define NSM_RAW _IOWR(0x0A, 0x0, struct nsm_raw)

/* {"Attestation": {"user_data": bytes(64), "nonce": null, "public_key": null}} */
static int nsm_request(const uint8_t report_data[64], struct buf *ret, struct err *e)
{
    static const uint8_t head[] = "\xa1\x6b"
                                  "Attestation\xa3\x69user_data\x58\x40";
    static const uint8_t tail[] = "\x65nonce\xf6\x6apublic_key\xf6";

    return buf_add(ret, head, sizeof(head) - 1, e) || buf_add(ret, report_data, 64, e) ||
                   buf_add(ret, tail, sizeof(tail) - 1, e)
               ? -1
               : 0;
}

/* {"Attestation": {"document": bytes}}, exactly. */
static int nsm_document(struct bytes r, struct bytes *ret, struct err *e)
{
    static const uint8_t head[] = "\xa1\x6b"
                                  "Attestation\xa1\x68"
                                  "document\x59";
    size_t at = sizeof(head) - 1, n;

    if (r.n > at + 2 && memcmp(r.p, head, at) == 0) {
        n = (size_t)r.p[at] << 8 | r.p[at + 1];
        if (n == r.n - at - 2) {
            *ret = BYTES(r.p + at + 2, n);
            return 0;
        }
    }
    return err_set(e, ERR_IO, "attest: %s: expected an attestation document, found something else",
                   paths->nsm);
}

int nitro_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                  struct buf *ret, struct err *e)
{
    _cleanup_close_ int fd = open(paths->nsm, O_RDWR | O_CLOEXEC);
    _cleanup_buf_ struct buf request = BUF_INIT(512);
    _cleanup_buf_ struct buf response = BUF_INIT(NSM_RESPONSE_MAX_BYTES);
    struct bytes document;
    (void)state;
    (void)credential;

    if (fd < 0) {
        return err_errno(e, "attest: %s", paths->nsm);
    }
    if (nsm_request(report_data, &request, e) ||
        buf_reserve(&response, NSM_RESPONSE_MAX_BYTES, e)) {
        return -1;
    }
    struct nsm_raw io = {.request = {.iov_base = request.p, .iov_len = request.n},
                         .response = {.iov_base = response.p, .iov_len = NSM_RESPONSE_MAX_BYTES}};
    if (paths->ioctl(fd, NSM_RAW, &io)) {
        return err_errno(e, "attest: %s", paths->nsm);
    }
    if (io.response.iov_len > NSM_RESPONSE_MAX_BYTES ||
        nsm_document(BYTES(response.p, io.response.iov_len), &document, e)) {
        return e->code ? -1 : err_set(e, ERR_IO, "attest: %s: too long an answer", paths->nsm);
    }
    _cleanup_free_ char *text = b64_encode(document.p, document.n);
    return buf_add(ret, text, strlen(text), e);
}

/* ---- Gramine --------------------------------------------------------------------------------- */

int sgx_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                struct buf *ret, struct err *e)
{
    _cleanup_buf_ struct buf quote = {0};
    (void)state;
    (void)credential;

    if (write_at(paths->gramine, "user_report_data", BYTES(report_data, 64), e) ||
        read_at(paths->gramine, "quote", &quote, e)) {
        return -1;
    }
    _cleanup_free_ char *text = b64_encode(quote.p, quote.n);
    return quote.n ? buf_addf(ret, e, "{\"quote\":\"%s\"}", text)
                   : err_set(e, ERR_IO, "attest: %s: an empty quote", paths->gramine);
}
