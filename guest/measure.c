#include "guest/measure.h"

#include "common/jcs.h"
#include "common/vm.h"
#include "guest/fv.h"
#include "guest/launch.h"
#include "guest/pe.h"
#include "guest/version.h"

#define FIRMWARE_MAX_BYTES (16u << 20)

struct measuring {
    struct guest_measured *m;
    int failed;
};

static void sha256(struct measuring *w, const void *p, size_t n, uint8_t out[32])
{
    w->failed |= EVP_Digest(p, n, out, NULL, EVP_sha256(), NULL) != 1;
}

static void extend(struct measuring *w, unsigned pcr, const uint8_t digest[32])
{
    uint8_t both[64];

    memcpy(both, w->m->pcr[pcr], 32);
    memcpy(both + 32, digest, 32);
    sha256(w, both, sizeof(both), w->m->pcr[pcr]);
}

static void extend_data(struct measuring *w, unsigned pcr, const void *p, size_t n)
{
    uint8_t digest[32];

    sha256(w, p, n, digest);
    extend(w, pcr, digest);
}

/* A part of the image: noted, so that a mismatch can name it. */
static void extend_part(struct measuring *w, unsigned pcr, const char *what,
                        const uint8_t digest[32])
{
    struct guest_event *ev = &w->m->events[w->m->n_events];

    if (w->m->n_events == GUEST_EVENTS_MAX) {
        w->failed = 1;
        return;
    }
    w->m->n_events++;
    ev->pcr = pcr;
    ev->what = what;
    memcpy(ev->digest, digest, 32);
    extend(w, pcr, digest);
}

static void extend_part_data(struct measuring *w, unsigned pcr, const char *what, struct bytes in)
{
    uint8_t digest[32];

    sha256(w, in.p, in.n, digest);
    extend_part(w, pcr, what, digest);
}

static void separator(struct measuring *w, unsigned pcr)
{
    extend_data(w, pcr, "\0\0\0\0", 4); /* EV_SEPARATOR, TCG PFP 3.3.2.2 */
}

static void action(struct measuring *w, unsigned pcr, const char *text)
{
    extend_data(w, pcr, text, strlen(text));
}

/* ---- the firmware's own ---------------------------------------------------------------------- */

struct volumes {
    struct buf pei, dxe;
};

static void volumes_done(struct volumes *v)
{
    buf_done(&v->pei);
    buf_done(&v->dxe);
}

static int volumes_read(struct bytes firmware, struct volumes *ret, struct err *e)
{
    *ret = (struct volumes){.pei = BUF_INIT(FV_MAX_BYTES), .dxe = BUF_INIT(FV_MAX_BYTES)};
    return fv_extract(firmware, &ret->pei, &ret->dxe, e);
}

/* For one size of machine after the other, with the same volumes. */
static int pcr0(struct measuring *w, struct bytes firmware, struct volumes *v, uint32_t memory_mib,
                unsigned vcpus, struct err *e)
{
    w->m->has_pcr0 = fv_build_name(firmware) != NULL;
    if (!w->m->has_pcr0) {
        return 0;
    }
    if (fv_pei_at_runtime(firmware, memory_mib, vcpus, v->pei.p, v->pei.n, e)) {
        return -1;
    }
    extend_data(w, 0, "\0\0", 2); /* EV_S_CRTM_VERSION: empty */
    extend_part_data(w, 0, "firmware PEI volume", buf_bytes(&v->pei));
    extend_part_data(w, 0, "firmware DXE volume", buf_bytes(&v->dxe));
    separator(w, 0);
    return 0;
}

/* EFI_VARIABLE_DATA (UEFI 2.10, 38.4; TCG PFP 3.3.3): GUID, lengths, name in UCS-2, content. */
static void variable(struct measuring *w, const uint8_t guid[16], const char *name,
                     struct bytes value)
{
    uint8_t d[256] = {0};
    size_t len = strlen(name), n = 32;

    memcpy(d, guid, 16);
    d[16] = (uint8_t)len;
    d[24] = (uint8_t)value.n;
    for (size_t i = 0; i < len; i++, n += 2) {
        d[n] = (uint8_t)name[i];
    }
    memcpy(d + n, value.p, value.n);
    extend_data(w, 7, d, n + value.n);
}

/* OVMF.fd has no variable store of its own that lasts: no keys, no Secure Boot, one boot option. */
static void constants(struct measuring *w)
{
    static const uint8_t global[16] = {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11,
                                       0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c};
    static const uint8_t db[16] = {0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45,
                                   0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f};
    /* Boot0000: UiApp in the DXE volume. */
    static const uint8_t ui_app[] = {
        0x09, 0x01, 0x00, 0x00, 0x2c, 0x00, 0x55, 0x00, 0x69, 0x00, 0x41, 0x00, 0x70,
        0x00, 0x70, 0x00, 0x00, 0x00, 0x04, 0x07, 0x14, 0x00, 0xc9, 0xbd, 0xb8, 0x7c,
        0xeb, 0xf8, 0x34, 0x4f, 0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16, 0xa1, 0x04,
        0x06, 0x14, 0x00, 0x21, 0xaa, 0x2c, 0x46, 0x14, 0x76, 0x03, 0x45, 0x83, 0x6e,
        0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31, 0x7f, 0xff, 0x04, 0x00};

    extend_data(w, 1, "\0\0", 2); /* BootOrder */
    extend_data(w, 1, ui_app, sizeof(ui_app));
    for (unsigned pcr = 1; pcr <= 3; pcr++) {
        separator(w, pcr);
    }
    separator(w, 5);
    action(w, 5, "Exit Boot Services Invocation");
    action(w, 5, "Exit Boot Services Returned with Success");
    separator(w, 6);
    variable(w, global, "SecureBoot", BYTES("\0", 1));
    variable(w, global, "PK", BYTES("", 0));
    variable(w, global, "KEK", BYTES("", 0));
    variable(w, db, "db", BYTES("", 0));
    variable(w, db, "dbx", BYTES("", 0));
    separator(w, 7);
}

/* ---- the image ------------------------------------------------------------------------------- */

static const struct {
    const char *section, *name_event, *content_event;
} unified[] = {
    /* In the order in which systemd-stub 252 measures what there is. */
    {".linux", ".linux section's name", ".linux section"},
    {".osrel", ".osrel section's name", ".osrel section"},
    {".cmdline", ".cmdline section's name", ".cmdline section"},
    {".initrd", ".initrd section's name", ".initrd section"},
};

static int need(const struct pe *p, const char *name, struct bytes *ret, struct err *e)
{
    const struct pe_section *s = pe_find(p, name);

    if (!s || !s->virtual_bytes || s->virtual_bytes > s->raw_bytes) {
        return err_refuse(e, ERR_UNSUPPORTED, "image",
                          "a UKI with .linux, .osrel, .cmdline and "
                          ".initrd",
                          "no %s in it", name);
    }
    *ret = pe_content(p, s);
    return 0;
}

/* The kernel measures its load options: UCS-2 with a NUL. */
static int cmdline_event(struct measuring *w, struct bytes cmdline, struct err *e)
{
    uint8_t wide[2 * sizeof(w->m->cmdline)] = {0};

    while (cmdline.n && cmdline.p[cmdline.n - 1] == 0) {
        cmdline.n--;
    }
    if (cmdline.n >= sizeof(w->m->cmdline)) {
        return err_refuse(e, ERR_TOO_LARGE, "image.cmdline", "at most 2047 bytes", "%zu",
                          cmdline.n);
    }
    for (size_t i = 0; i < cmdline.n; i++) {
        if (cmdline.p[i] < 0x20 || cmdline.p[i] > 0x7e) {
            return err_refuse(e, ERR_INVALID, "image.cmdline", "printable ASCII", "byte 0x%02x",
                              cmdline.p[i]);
        }
        wide[2 * i] = cmdline.p[i];
    }
    memcpy(w->m->cmdline, cmdline.p, cmdline.n);
    extend_part_data(w, 9, "command line", BYTES(wide, 2 * cmdline.n + 2));
    return 0;
}

static int image(struct measuring *w, struct bytes uki, struct err *e)
{
    struct bytes part[ARRAY_LEN(unified)];
    uint8_t digest[32];
    struct pe p, kernel;

    if (pe_parse(uki, &p, e)) {
        return err_wrap(e, "image");
    }
    for (size_t i = 0; i < ARRAY_LEN(unified); i++) {
        if (need(&p, unified[i].section, &part[i], e)) {
            return -1;
        }
    }
    if (pe_parse(part[0], &kernel, e) || pe_authenticode(&p, EVP_sha256(), digest, e)) {
        return err_wrap(e, "image.linux");
    }
    extend_part(w, 4, "unified kernel image", digest);
    action(w, 4, "Calling EFI Application from Boot Option");
    separator(w, 4);
    if (pe_authenticode(&kernel, EVP_sha256(), digest, e)) {
        return err_wrap(e, "image.linux");
    }
    extend_part(w, 4, "kernel", digest);
    for (size_t i = 0; i < ARRAY_LEN(unified); i++) {
        extend_part_data(w, 11, unified[i].name_event,
                         BYTES(unified[i].section, strlen(unified[i].section) + 1));
        extend_part_data(w, 11, unified[i].content_event, part[i]);
    }
    if (cmdline_event(w, part[2], e)) {
        return -1;
    }
    extend_part_data(w, 9, "initramfs", part[3]);
    sha256(w, uki.p, uki.n, w->m->uki_sha256);
    sha256(w, part[0].p, part[0].n, w->m->kernel_sha256);
    sha256(w, part[3].p, part[3].n, w->m->initrd_sha256);
    return 0;
}

int guest_measure(struct bytes firmware, struct bytes uki, uint32_t memory_mib, unsigned vcpus,
                  struct guest_measured *ret, struct err *e)
{
    _cleanup_(volumes_done) struct volumes v = {0};
    struct measuring w = {.m = ret};

    memset(ret, 0, sizeof(*ret));
    if (firmware.n > FIRMWARE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "firmware", "at most 16 MiB", "%zu bytes", firmware.n);
    }
    if (vcpus < 1 || vcpus > VM_VCPUS_MAX || memory_mib < VM_MEMORY_MIN_MIB) {
        return err_refuse(e, ERR_INVALID, "machine", "1 to 8 vCPUs, 256 MiB or more",
                          "%u vCPUs, %u MiB", vcpus, memory_mib);
    }
    if (volumes_read(firmware, &v, e) || pcr0(&w, firmware, &v, memory_mib, vcpus, e) ||
        image(&w, uki, e)) {
        return -1;
    }
    constants(&w);
    sha256(&w, firmware.p, firmware.n, ret->firmware_sha256);
    return w.failed ? err_set(e, ERR_INTERNAL, "cannot compute the measurements") : 0;
}

/* ---- reference values ------------------------------------------------------------------------ */

static json_t *hex(const uint8_t digest[32])
{
    _cleanup_free_ char *text = hex_encode(digest, 32);

    return json_string(text);
}

static json_t *pcrs_json(const struct guest_measured *m)
{
    static const unsigned quoted[] = {1, 2, 3, 4, 5, 6, 7, 9, 11, 12};
    json_t *o = json_object();
    char name[4];

    for (size_t i = 0; i < ARRAY_LEN(quoted); i++) {
        snprintf(name, sizeof(name), "%u", quoted[i]);
        json_object_set_new(o, name, hex(m->pcr[quoted[i]]));
    }
    return o;
}

static json_t *events_json(const struct guest_measured *m)
{
    json_t *list = json_array();

    for (size_t i = 0; i < m->n_events; i++) {
        const struct guest_event *ev = &m->events[i];
        /* That of the PEI volume is another one for each size of machine. */
        if (!streq(ev->what, "firmware PEI volume")) {
            json_array_append_new(list, json_pack("{s:i,s:s,s:o}", "pcr", (int)ev->pcr, "what",
                                                  ev->what, "digest", hex(ev->digest)));
        }
    }
    return list;
}

static int pcr0_json(struct bytes firmware, json_t **ret, struct err *e)
{
    _cleanup_(volumes_done) struct volumes v = {0};
    _cleanup_json_ json_t *o = json_object();
    char name[32];

    if (volumes_read(firmware, &v, e)) {
        return -1;
    }
    for (const uint32_t *mib = vm_memory_classes_mib; *mib; mib++) {
        for (unsigned vcpus = 1; vcpus <= VM_VCPUS_MAX; vcpus++) {
            struct guest_measured m = {0};
            struct measuring w = {.m = &m};
            if (pcr0(&w, firmware, &v, *mib, vcpus, e)) {
                return -1;
            }
            snprintf(name, sizeof(name), "%u/%u", *mib, vcpus);
            json_object_set_new(o, name, hex(m.pcr[0]));
        }
    }
    *ret = TAKE_PTR(o);
    return 0;
}

static int note(struct buf *notes, const char *what, const struct err *why, struct err *e)
{
    return notes && why->code ? buf_addf(notes, e, "no values for %s: %s\n", what, why->msg) : 0;
}

int guest_confidential(struct bytes firmware, struct bytes uki, json_t *refvals,
                       struct buf *ret_notes, struct err *e)
{
    struct guest_section sections[ARRAY_LEN(unified)];
    char stub[VERSION_TEXT_BYTES], release[VERSION_TEXT_BYTES];
    struct guest_measured m = {0};
    struct guest_launch l = {.firmware = firmware,
                             .uki = uki,
                             .stub_version = stub,
                             .linux_release = release,
                             .cmdline = m.cmdline,
                             .sections = sections,
                             .sections_n = ARRAY_LEN(sections)};
    struct err no_snp = {0}, no_tdx = {0};
    struct pe p, kernel;

    if (image(&(struct measuring){.m = &m}, uki, e) || pe_parse(uki, &p, e)) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(unified); i++) {
        sections[i].name = unified[i].section;
        if (need(&p, unified[i].section, &sections[i].content, e)) {
            return -1;
        }
    }
    l.initrd = sections[3].content;
    version_of_stub(&p, stub);
    version_of_linux(sections[0].content, release);
    if (pe_parse(sections[0].content, &kernel, e) ||
        pe_authenticode(&p, EVP_sha384(), l.uki_authenticode, e) ||
        pe_authenticode(&kernel, EVP_sha384(), l.kernel_authenticode, e) ||
        guest_launch_refvals(&l, refvals, &no_snp, &no_tdx, e)) {
        return -1;
    }
    return note(ret_notes, "snp", &no_snp, e) || note(ret_notes, "tdx", &no_tdx, e) ? -1 : 0;
}

static int add_vtpm(struct bytes firmware, const struct guest_measured *m, json_t *refvals,
                    struct err *e)
{
    json_t *pcr0s, *vtpm;

    if (pcr0_json(firmware, &pcr0s, e)) {
        return -1;
    }
    vtpm = json_pack("{s:{s:s,s:o,s:o},s:o,s:o}", "firmware", "name", fv_build_name(firmware),
                     "sha256", hex(m->firmware_sha256), "pcr0", pcr0s, "pcrs", pcrs_json(m),
                     "events", events_json(m));
    return json_object_set_new(refvals, "vtpm", vtpm)
               ? err_set(e, ERR_INTERNAL, "cannot compose reference values")
               : 0;
}

int guest_refvals(struct bytes firmware, struct bytes uki, const struct guest_image_name *n,
                  json_t **ret, struct buf *ret_notes, struct err *e)
{
    _cleanup_json_ json_t *o = NULL;
    struct guest_measured m = {0};
    struct err no_vtpm = {0};
    int listed = fv_build_name(firmware) != NULL;

    if (listed ? guest_measure(firmware, uki, VM_MEMORY_MIN_MIB, 1, &m, e)
               : image(&(struct measuring){.m = &m}, uki, e)) {
        return -1;
    }
    o = json_pack("{s:i,s:{s:s,s:s,s:o,s:o,s:o,s:s}}", "v", 1, "image", "name", n->name, "version",
                  n->version, "uki_sha256", hex(m.uki_sha256), "kernel_sha256",
                  hex(m.kernel_sha256), "initrd_sha256", hex(m.initrd_sha256), "cmdline",
                  m.cmdline);
    if (!o) {
        return err_set(e, ERR_INTERNAL, "cannot compose reference values");
    }
    if (!listed) {
        err_refuse(&no_vtpm, ERR_UNSUPPORTED, "firmware", "ovmf 2022.11-6+deb12u2 OVMF.fd",
                   "another build, whose PCR 0 cannot be computed");
    }
    if ((listed && add_vtpm(firmware, &m, o, e)) || note(ret_notes, "vtpm", &no_vtpm, e) ||
        guest_confidential(firmware, uki, o, ret_notes, e)) {
        return -1;
    }
    if (!json_object_get(o, "vtpm") && !json_object_get(o, "snp") && !json_object_get(o, "tdx")) {
        *e = no_vtpm;
        return -1;
    }
    *ret = TAKE_PTR(o);
    return 0;
}
