#include "guest/tdx.h"

#include <inttypes.h>

#include <openssl/evp.h>

#include "guest/le.h"
#include "guest/ovmf.h"

#define DIGEST_BYTES GUEST_TDX_DIGEST_BYTES
#define RECORD_BYTES 128u
#define CHUNK_BYTES 256u

static void md_ctx_freep(EVP_MD_CTX **c)
{
    EVP_MD_CTX_free(*c);
}

static int add(EVP_MD_CTX *c, const void *p, size_t n, struct err *e)
{
    if (EVP_DigestUpdate(c, p, n) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-384 failed");
    }
    return 0;
}

/* The 128 bytes that a SEAMCALL adds: its name, NUL padded to 16, and the address. */
static int add_record(EVP_MD_CTX *c, const char *call, uint64_t gpa, struct err *e)
{
    uint8_t record[RECORD_BYTES] = {0};

    memcpy(record, call, strlen(call));
    le64_put(record + 16, gpa);
    return add(c, record, sizeof(record), e);
}

static int add_page(EVP_MD_CTX *c, const struct ovmf_tdx_section *s, uint64_t at, struct err *e)
{
    if (s->attributes & OVMF_TDX_PAGE_AUG) {
        return 0; /* added while the guest runs, and never measured */
    }
    return add_record(c, "MEM.PAGE.ADD", s->gpa + at, e);
}

static int extend_page(EVP_MD_CTX *c, const struct ovmf *o, const struct ovmf_tdx_section *s,
                       uint64_t at, struct err *e)
{
    if (!(s->attributes & OVMF_TDX_MR_EXTEND)) {
        return 0;
    }
    for (uint64_t i = at; i < at + OVMF_PAGE_BYTES; i += CHUNK_BYTES) {
        if (add_record(c, "MR.EXTEND", s->gpa + i, e) ||
            add(c, o->image.p + s->data_offset + i, CHUNK_BYTES, e)) {
            return -1;
        }
    }
    return 0;
}

static int add_section(EVP_MD_CTX *c, const struct ovmf *o, const struct ovmf_tdx_section *s,
                       enum guest_tdx_order order, struct err *e)
{
    for (uint64_t at = 0; at < s->size_bytes; at += OVMF_PAGE_BYTES) {
        if (add_page(c, s, at, e) ||
            (order == GUEST_TDX_PAGE_BY_PAGE && extend_page(c, o, s, at, e))) {
            return -1;
        }
    }
    for (uint64_t at = 0; order == GUEST_TDX_AFTER_SECTION && at < s->size_bytes;
         at += OVMF_PAGE_BYTES) {
        if (extend_page(c, o, s, at, e)) {
            return -1;
        }
    }
    return 0;
}

/* An MRTD that says nothing of the code that runs would be worse than none. */
static int check_measured(const struct ovmf_tdx *tdx, struct err *e)
{
    int firmware = 0;

    for (size_t i = 0; i < tdx->n; i++) {
        const struct ovmf_tdx_section *s = &tdx->s[i];
        int measured = (s->attributes & OVMF_TDX_MR_EXTEND) != 0;
        if (s->type == OVMF_TDX_BFV && !measured) {
            return err_set(e, ERR_INVALID,
                           "TDX section %zu: a boot firmware volume that is not measured", i);
        }
        if (measured && s->type != OVMF_TDX_BFV && s->type != OVMF_TDX_CFV) {
            return err_set(e, ERR_UNSUPPORTED,
                           "TDX section %zu: type %" PRIu32
                           " is measured, expected only firmware volumes (0, 1)",
                           i, s->type);
        }
        firmware |= s->type == OVMF_TDX_BFV;
    }
    if (!firmware) {
        return err_set(e, ERR_INVALID, "TDX metadata: no boot firmware volume (type 0)");
    }
    return 0;
}

int guest_tdx_mrtd(struct bytes firmware, enum guest_tdx_order order,
                   uint8_t ret[GUEST_TDX_DIGEST_BYTES], struct err *e)
{
    _cleanup_(md_ctx_freep) EVP_MD_CTX *c = EVP_MD_CTX_new();
    uint8_t digest[DIGEST_BYTES];
    struct ovmf o;
    struct ovmf_tdx tdx;

    if (ovmf_parse(firmware, &o, e) || ovmf_parse_tdx(&o, &tdx, e) || check_measured(&tdx, e)) {
        return -1;
    }
    if (!c || EVP_DigestInit_ex(c, EVP_sha384(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-384 is not available");
    }
    for (size_t i = 0; i < tdx.n; i++) {
        if (add_section(c, &o, &tdx.s[i], order, e)) {
            return -1;
        }
    }
    if (EVP_DigestFinal_ex(c, digest, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-384 failed");
    }
    memcpy(ret, digest, sizeof(digest));
    return 0;
}

int guest_tdx_event(struct bytes content, uint8_t ret[GUEST_TDX_DIGEST_BYTES], struct err *e)
{
    uint8_t digest[DIGEST_BYTES];

    if (EVP_Digest(content.p, content.n, digest, NULL, EVP_sha384(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-384 failed");
    }
    memcpy(ret, digest, sizeof(digest));
    return 0;
}

static int extend(uint8_t rtmr[DIGEST_BYTES], const uint8_t event[DIGEST_BYTES], struct err *e)
{
    uint8_t both[2 * DIGEST_BYTES];

    memcpy(both, rtmr, DIGEST_BYTES);
    memcpy(both + DIGEST_BYTES, event, DIGEST_BYTES);
    return guest_tdx_event(BYTES(both, sizeof(both)), rtmr, e);
}

static int extend_of(uint8_t rtmr[DIGEST_BYTES], struct bytes content, struct err *e)
{
    uint8_t event[DIGEST_BYTES];

    return guest_tdx_event(content, event, e) || extend(rtmr, event, e) ? -1 : 0;
}

int guest_tdx_rtmrs(const struct guest_tdx_boot *b, uint8_t ret_rtmr1[GUEST_TDX_DIGEST_BYTES],
                    uint8_t ret_rtmr2[GUEST_TDX_DIGEST_BYTES], struct err *e)
{
    uint8_t rtmr1[DIGEST_BYTES] = {0}, rtmr2[DIGEST_BYTES] = {0};

    if (b->separators > GUEST_TDX_SEPARATORS_MAX) {
        return err_set(e, ERR_INVALID, "separators: %u, expected at most %u", b->separators,
                       GUEST_TDX_SEPARATORS_MAX);
    }
    if (b->events_n > GUEST_TDX_RTMR2_EVENTS_MAX) {
        return err_set(e, ERR_INVALID, "RTMR2: %zu events, expected at most %u", b->events_n,
                       GUEST_TDX_RTMR2_EVENTS_MAX);
    }
    if (extend(rtmr1, b->image, e) ||
        extend_of(rtmr1, BYTES_STR("Calling EFI Application from Boot Option"), e)) {
        return -1;
    }
    for (unsigned i = 0; i < b->separators; i++) {
        if (extend_of(rtmr1, BYTES("\0\0\0", 4), e)) {
            return -1;
        }
    }
    if ((b->nested && extend(rtmr1, b->kernel, e)) ||
        extend_of(rtmr1, BYTES_STR("Exit Boot Services Invocation"), e) ||
        extend_of(rtmr1, BYTES_STR("Exit Boot Services Returned with Success"), e)) {
        return -1;
    }
    for (size_t i = 0; i < b->events_n; i++) {
        if (extend(rtmr2, b->events[i], e)) {
            return -1;
        }
    }
    memcpy(ret_rtmr1, rtmr1, sizeof(rtmr1));
    memcpy(ret_rtmr2, rtmr2, sizeof(rtmr2));
    return 0;
}

int guest_tdx_cmdline_event(const char *cmdline, uint8_t ret[GUEST_TDX_DIGEST_BYTES], struct err *e)
{
    size_t n = strlen(cmdline) + 1;
    _cleanup_free_ uint8_t *wide = xcalloc(n, 2);

    for (size_t i = 0; i < n; i++) {
        if ((uint8_t)cmdline[i] >= 0x80) {
            return err_set(e, ERR_INVALID, "command line: byte 0x%02x at %zu, expected ASCII only",
                           (uint8_t)cmdline[i], i);
        }
        wide[2 * i] = (uint8_t)cmdline[i];
    }
    return guest_tdx_event(BYTES(wide, 2 * n), ret, e);
}

int guest_tdx_section_events(const char *name, struct bytes content,
                             uint8_t ret[2][GUEST_TDX_DIGEST_BYTES], struct err *e)
{
    return guest_tdx_event(BYTES(name, strlen(name) + 1), ret[0], e) ||
                   guest_tdx_event(content, ret[1], e)
               ? -1
               : 0;
}

int guest_tdx_linux_measures(const char *release)
{
    unsigned major, minor;

    return sscanf(release, "%4u.%4u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 10));
}

int guest_tdx_stub_check(const char *version, struct err *e)
{
    unsigned major;

    if (sscanf(version, "%6u", &major) != 1) {
        return err_set(e, ERR_UNSUPPORTED, "boot stub: version \"%.32s\" cannot be read", version);
    }
    if (major < 256) {
        return err_set(e, ERR_UNSUPPORTED,
                       "boot stub %.32s measures into a TPM only: a command line given by the host "
                       "would not show in RTMR2; it takes systemd-stub 256 or 257",
                       version);
    }
    if (major > 257) {
        return err_set(e, ERR_UNSUPPORTED,
                       "boot stub %.32s: what it measures is not known; known are systemd-stub 256 "
                       "and 257",
                       version);
    }
    return 0;
}
