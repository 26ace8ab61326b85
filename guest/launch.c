#include "guest/launch.h"

#include "common/vm.h"

/* Into RTMR1, by the firmware; 1 in the logs of machines with edk2 of 2024 and later, 0 in older
 * ones. With another firmware RTMR1 differs, so that appraisal fails. */
#define SEPARATORS 1u

static void json_freep(json_t **j)
{
    json_decref(*j);
}

static int set_hex(json_t *o, const char *key, const uint8_t digest[48], struct err *e)
{
    _cleanup_free_ char *hex = hex_encode(digest, 48);

    if (json_object_set_new(o, key, json_string(hex))) {
        return err_set(e, ERR_INTERNAL, "out of memory");
    }
    return 0;
}

static int add_snp(const struct guest_launch *l, const struct guest_snp_kernel *k, unsigned vcpus,
                   json_t *list, struct err *e)
{
    struct guest_snp_params p = {
        .firmware = l->firmware, .kernel = k, .vcpus = vcpus, .features = GUEST_SNP_FEATURES};
    uint8_t digest[GUEST_SNP_DIGEST_BYTES];

    if (guest_snp_cpu_sig(GUEST_LAUNCH_CPU, &p.cpu_sig, e) || guest_snp_digest(&p, digest, e)) {
        return -1;
    }
    json_t *o = json_pack("{s:i,s:s}", "vcpus", (int)vcpus, "cpu", GUEST_LAUNCH_CPU);
    if (json_array_append_new(list, o)) { /* owns it, also when it fails */
        return err_set(e, ERR_INTERNAL, "out of memory");
    }
    return set_hex(o, "digest", digest, e);
}

static int make_snp(const struct guest_launch *l, json_t **ret, struct err *e)
{
    _cleanup_(json_freep) json_t *list = json_array();
    struct guest_snp_kernel k;

    /* The UKI carries its command line and initrd; QEMU is given none beside it. */
    if (guest_snp_kernel_of(l->uki, BYTES("", 0), NULL, &k, e)) {
        return -1;
    }
    for (unsigned n = 1; n <= VM_VCPUS_MAX; n++) {
        if (add_snp(l, &k, n, list, e)) {
            return -1;
        }
    }
    *ret = TAKE_PTR(list);
    return 0;
}

/* RTMR2: the stub's sections, then what the kernel measures of what the stub hands to it. */
static int rtmr2_events(const struct guest_launch *l,
                        uint8_t events[GUEST_TDX_RTMR2_EVENTS_MAX][GUEST_TDX_DIGEST_BYTES],
                        size_t *ret_n, struct err *e)
{
    size_t n = 0;

    if (l->sections_n > (GUEST_TDX_RTMR2_EVENTS_MAX - 2) / 2) {
        return err_set(e, ERR_TOO_LARGE, "UKI: %zu sections, expected at most %u", l->sections_n,
                       (GUEST_TDX_RTMR2_EVENTS_MAX - 2) / 2);
    }
    for (size_t i = 0; i < l->sections_n; i++, n += 2) {
        if (guest_tdx_section_events(l->sections[i].name, l->sections[i].content, events + n, e)) {
            return -1;
        }
    }
    if (guest_tdx_linux_measures(l->linux_release)) {
        if (guest_tdx_cmdline_event(l->cmdline, events[n], e) ||
            guest_tdx_event(l->initrd, events[n + 1], e)) {
            return -1;
        }
        n += 2;
    }
    *ret_n = n;
    return 0;
}

static int make_tdx(const struct guest_launch *l, json_t **ret, struct err *e)
{
    _cleanup_(json_freep) json_t *o = json_object();
    uint8_t events[GUEST_TDX_RTMR2_EVENTS_MAX][GUEST_TDX_DIGEST_BYTES];
    uint8_t mrtd[GUEST_TDX_DIGEST_BYTES], rtmr1[GUEST_TDX_DIGEST_BYTES],
        rtmr2[GUEST_TDX_DIGEST_BYTES];
    struct guest_tdx_boot b = {.nested = 1,
                               .separators = SEPARATORS,
                               .events = (const uint8_t(*)[GUEST_TDX_DIGEST_BYTES])events};

    memcpy(b.image, l->uki_authenticode, sizeof(b.image));
    memcpy(b.kernel, l->kernel_authenticode, sizeof(b.kernel));
    if (guest_tdx_mrtd(l->firmware, GUEST_TDX_PAGE_BY_PAGE, mrtd, e) ||
        guest_tdx_stub_check(l->stub_version, e) || rtmr2_events(l, events, &b.events_n, e) ||
        guest_tdx_rtmrs(&b, rtmr1, rtmr2, e) || set_hex(o, "mrtd", mrtd, e) ||
        set_hex(o, "rtmr1", rtmr1, e) || set_hex(o, "rtmr2", rtmr2, e)) {
        return -1;
    }
    *ret = TAKE_PTR(o);
    return 0;
}

int guest_launch_refvals(const struct guest_launch *l, json_t *refvals, struct err *ret_no_snp,
                         struct err *ret_no_tdx, struct err *e)
{
    _cleanup_(json_freep) json_t *snp = NULL, *tdx = NULL;
    struct err no_snp = {0}, no_tdx = {0};

    if (make_snp(l, &snp, &no_snp) && no_snp.code != ERR_UNSUPPORTED) {
        *e = no_snp;
        return err_wrap(e, "SEV-SNP launch digest");
    }
    if (make_tdx(l, &tdx, &no_tdx) && no_tdx.code != ERR_UNSUPPORTED) {
        *e = no_tdx;
        return err_wrap(e, "TDX measurements");
    }
    if ((snp && json_object_set(refvals, "snp", snp)) ||
        (tdx && json_object_set(refvals, "tdx", tdx))) {
        return err_set(e, ERR_INTERNAL, "out of memory");
    }
    *ret_no_snp = no_snp;
    *ret_no_tdx = no_tdx;
    return 0;
}
