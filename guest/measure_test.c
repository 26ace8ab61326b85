#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fileio.h"
#include "common/jcs.h"
#include "common/vm.h"
#include "guest/measure.h"
#include "guest/pe_testing.h"

#define OVMF "/usr/share/ovmf/OVMF.fd"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
/* SHA-256 of 32 zeros and SHA-256 of EV_SEPARATOR's four. */
#define SEPARATOR "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"

static struct buf firmware;
static uint8_t kernel[PEFIX_BYTES];

static int setup(void **state)
{
    struct err e = {0};

    (void)state;
    firmware = BUF_INIT(16u << 20);
    (void)file_read(OVMF, 16u << 20, 0, &firmware, &e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_done(&firmware);
    return 0;
}

struct parts {
    const char *osrel, *cmdline, *initrd;
};
static const struct parts plain = {"ID=x\n", "quiet", "initramfs"};

static void uki(const struct parts *p, struct buf *ret)
{
    struct pe_new_section v[4];
    uint8_t stub[PEFIX_BYTES];
    struct err e = {0};
    size_t n = 0;

    pefix_make(kernel);
    pefix_make(stub);
    kernel[PEFIX_HEADERS] ^= 1;
    v[n++] = (struct pe_new_section){".linux", BYTES(kernel, PEFIX_BYTES)};
    if (p->osrel) {
        v[n++] = (struct pe_new_section){".osrel", BYTES_STR(p->osrel)};
    }
    if (p->cmdline) {
        v[n++] = (struct pe_new_section){".cmdline", BYTES_STR(p->cmdline)};
    }
    if (p->initrd) {
        v[n++] = (struct pe_new_section){".initrd", BYTES_STR(p->initrd)};
    }
    assert_int_equal(pe_add_sections(BYTES(stub, PEFIX_BYTES), v, n, ret, &e), 0);
}

static int measure(const struct parts *p, uint32_t mib, unsigned vcpus, struct guest_measured *m,
                   struct err *e)
{
    _cleanup_buf_ struct buf image = BUF_INIT(1 << 20);

    if (!firmware.n) {
        skip();
    }
    uki(p, &image);
    return guest_measure(buf_bytes(&firmware), buf_bytes(&image), mib, vcpus, m, e);
}

static void must(const struct parts *p, uint32_t mib, unsigned vcpus, struct guest_measured *m)
{
    struct err e = {0};

    if (measure(p, mib, vcpus, m, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void is(const struct guest_measured *m, unsigned pcr, const char *want)
{
    _cleanup_free_ char *hex = hex_encode(m->pcr[pcr], 32);

    assert_string_equal(hex, want);
}

/* PCR 9 and 11 computed by another program of the same parts; the others are in no need of one:
 * what they are is compared with VMs in integration.guest_measure. */
static void test_known(void **state)
{
    struct guest_measured m;

    (void)state;
    must(&plain, 256, 1, &m);
    is(&m, 2, SEPARATOR);
    is(&m, 3, SEPARATOR);
    is(&m, 6, SEPARATOR);
    is(&m, 9, "774f69f9a8a3a37e37a851cb223a7b8e7f849fe387fb81afcec2fdfc5e460ff0");
    is(&m, 11, "4b315fe076412e757c30d79837b673f092ca2bee6d06d1415e36bbef8f729b87");
    is(&m, 12, ZEROS);
    assert_string_equal(m.cmdline, "quiet");
}

/* Which PCRs differ, as bits. */
static unsigned differ(const struct guest_measured *a, const struct guest_measured *b)
{
    unsigned bits = 0;

    for (unsigned i = 0; i < GUEST_PCRS; i++) {
        bits |= memcmp(a->pcr[i], b->pcr[i], 32) ? 1u << i : 0;
    }
    return bits;
}

static void test_what_changes_what(void **state)
{
    struct guest_measured a, b;

    (void)state;
    must(&plain, 256, 1, &a);
    must(&plain, 256, 1, &b);
    assert_int_equal(differ(&a, &b), 0);
    must(&(struct parts){"ID=x\n", "quiet.", "initramfs"}, 256, 1, &b);
    assert_int_equal(differ(&a, &b), 1 << 4 | 1 << 9 | 1 << 11);
    must(&(struct parts){"ID=x\n", "quiet", "initramfS"}, 256, 1, &b);
    assert_int_equal(differ(&a, &b), 1 << 4 | 1 << 9 | 1 << 11);
    must(&(struct parts){"ID=y\n", "quiet", "initramfs"}, 256, 1, &b);
    assert_int_equal(differ(&a, &b), 1 << 4 | 1 << 11);
    if (a.has_pcr0) {
        must(&plain, 512, 1, &b);
        assert_int_equal(differ(&a, &b), 1);
        must(&plain, 256, 2, &b);
        assert_int_equal(differ(&a, &b), 1);
    }
}

static void refused(const struct parts *p, uint32_t mib, unsigned vcpus, enum err_code code,
                    const char *text)
{
    struct guest_measured m;
    struct err e = {0};

    assert_int_equal(measure(p, mib, vcpus, &m, &e), -1);
    if (e.code != code || !strstr(e.msg, text)) {
        fail_msg("\"%s\" is not \"%s\"", e.msg, text);
    }
}

static void test_refused(void **state)
{
    char long_line[2100];

    (void)state;
    memset(long_line, 'x', sizeof(long_line) - 1);
    long_line[sizeof(long_line) - 1] = '\0';
    refused(&plain, 255, 1, ERR_INVALID, "255 MiB");
    refused(&plain, 256, 0, ERR_INVALID, "0 vCPUs");
    refused(&plain, 256, VM_VCPUS_MAX + 1, ERR_INVALID, "9 vCPUs");
    refused(&(struct parts){NULL, "quiet", "i"}, 256, 1, ERR_UNSUPPORTED, "no .osrel");
    refused(&(struct parts){"o", NULL, "i"}, 256, 1, ERR_UNSUPPORTED, "no .cmdline");
    refused(&(struct parts){"o", "quiet", NULL}, 256, 1, ERR_UNSUPPORTED, "no .initrd");
    refused(&(struct parts){"o", "caf\xc3\xa9", "i"}, 256, 1, ERR_INVALID, "printable ASCII");
    refused(&(struct parts){"o", long_line, "i"}, 256, 1, ERR_TOO_LARGE, "2047");
}

static void test_not_images(void **state)
{
    struct guest_measured m;
    struct err e = {0};

    (void)state;
    if (!firmware.n) {
        skip();
    }
    assert_int_equal(
        guest_measure(buf_bytes(&firmware), BYTES_STR("not a PE image"), 256, 1, &m, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(guest_measure(BYTES_STR("not firmware"), BYTES_STR("x"), 256, 1, &m, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
}

/* The table of PCR 0 has every size of VM, and what it has is what a VM of that size measures to.
 */
static void test_refvals(void **state)
{
    const struct guest_image_name name = {.name = "image", .version = "1"};
    _cleanup_buf_ struct buf image = BUF_INIT(1 << 20), notes = BUF_INIT(4096);
    _cleanup_json_ json_t *j = NULL;
    struct guest_measured m;
    struct err e = {0};

    (void)state;
    must(&plain, 2048, 3, &m);
    if (!m.has_pcr0) {
        skip();
    }
    uki(&plain, &image);
    if (guest_refvals(buf_bytes(&firmware), buf_bytes(&image), &name, &j, &notes, &e)) {
        fail_msg("%s", e.msg);
    }
    const json_t *vtpm = json_object_get(j, "vtpm"), *fw = json_object_get(vtpm, "firmware"),
                 *pcr0 = json_object_get(fw, "pcr0"), *pcrs = json_object_get(vtpm, "pcrs");
    _cleanup_free_ char *hex0 = hex_encode(m.pcr[0], 32), *hex4 = hex_encode(m.pcr[4], 32);
    assert_int_equal(json_object_size(pcr0), 8 * VM_VCPUS_MAX);
    assert_string_equal(json_string_value(json_object_get(pcr0, "2048/3")), hex0);
    assert_string_equal(json_string_value(json_object_get(pcrs, "4")), hex4);
    assert_string_equal(json_string_value(json_object_get(pcrs, "12")), ZEROS);
    assert_null(json_object_get(pcrs, "0"));
    assert_null(json_object_get(pcrs, "10"));
    /* A stub that measures into no RTMR has no values for TDX, and the notes say why. */
    assert_null(json_object_get(j, "tdx"));
    assert_non_null(strstr((char *)notes.p, "no values for tdx"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),   cmocka_unit_test(test_what_changes_what),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_not_images),
        cmocka_unit_test(test_refvals),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
