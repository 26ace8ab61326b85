#include "guest/snp.h"

#include <inttypes.h>

#include <openssl/evp.h>

#include "guest/le.h"
#include "guest/ovmf.h"

#define DIGEST_BYTES GUEST_SNP_DIGEST_BYTES
#define PAGE_INFO_BYTES 0x70u
/* The VMSA's address in the reverse map table: -1, page aligned, without the bits above 51. */
#define VMSA_GPA UINT64_C(0xfffffffff000)
#define BSP_EIP UINT32_C(0xfffffff0)

/* PAGE_TYPE of SNP_LAUNCH_UPDATE. */
enum page_type {
    PAGE_NORMAL = 1,
    PAGE_VMSA = 2,
    PAGE_ZERO = 3,
    PAGE_SECRETS = 5,
    PAGE_CPUID = 6,
};

struct launch {
    EVP_MD *sha384;
    uint8_t digest[DIGEST_BYTES];
};

static void md_freep(EVP_MD **md)
{
    EVP_MD_free(*md);
}

static int sha384(const struct launch *l, const void *p, size_t n, uint8_t ret[DIGEST_BYTES],
                  struct err *e)
{
    if (EVP_Digest(p, n, ret, NULL, l->sha384, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-384 failed");
    }
    return 0;
}

/* One PAGE_INFO (ABI, table 67): the digest so far, the page's content as a digest, what it is. */
static int update(struct launch *l, enum page_type type, uint64_t gpa,
                  const uint8_t content[DIGEST_BYTES], struct err *e)
{
    uint8_t info[PAGE_INFO_BYTES] = {0};

    memcpy(info, l->digest, DIGEST_BYTES);
    memcpy(info + 0x30, content, DIGEST_BYTES);
    le16_put(info + 0x60, PAGE_INFO_BYTES);
    info[0x62] = (uint8_t)type;
    /* 0x63: not an initial migration image; 0x64 to 0x66: no permissions for VMPL 1 to 3. */
    le64_put(info + 0x68, gpa);
    return sha384(l, info, sizeof(info), l->digest, e);
}

static int update_data(struct launch *l, enum page_type type, uint64_t gpa, struct bytes pages,
                       struct err *e)
{
    uint8_t content[DIGEST_BYTES];

    for (size_t at = 0; at < pages.n; at += OVMF_PAGE_BYTES) {
        uint64_t where = type == PAGE_VMSA ? gpa : gpa + at;
        if (sha384(l, pages.p + at, OVMF_PAGE_BYTES, content, e) ||
            update(l, type, where, content, e)) {
            return -1;
        }
    }
    return 0;
}

/* Pages whose content is not the host's to choose: measured as 48 zero bytes. */
static int update_fixed(struct launch *l, enum page_type type, const struct ovmf_sev_section *s,
                        struct err *e)
{
    static const uint8_t none[DIGEST_BYTES];

    for (uint64_t at = 0; at < s->size_bytes; at += OVMF_PAGE_BYTES) {
        if (update(l, type, s->gpa + at, none, e)) {
            return -1;
        }
    }
    return 0;
}

#define ENTRY_BYTES 50u /* GUID, u16 length, SHA-256 */
#define TABLE_BYTES (18u + 3u * ENTRY_BYTES)

static uint8_t *put_entry(uint8_t *p, const uint8_t guid[16], size_t length)
{
    memcpy(p, guid, 16);
    le16_put(p + 16, (uint16_t)length);
    return p + 18;
}

/* The table as QEMU writes it: command line, initrd, kernel. */
static void put_hashes(uint8_t *p, const struct guest_snp_kernel *k)
{
    /* 9438d606-4f22-4cc9-b479-a793d411fd21 */
    static const uint8_t table[16] = {0x06, 0xd6, 0x38, 0x94, 0x22, 0x4f, 0xc9, 0x4c,
                                      0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21};
    /* 97d02dd8-bd20-4c94-aa78-e7714d36ab2a */
    static const uint8_t cmdline[16] = {0xd8, 0x2d, 0xd0, 0x97, 0x20, 0xbd, 0x94, 0x4c,
                                        0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a};
    /* 44baf731-3a2f-4bd7-9af1-41e29169781d */
    static const uint8_t initrd[16] = {0x31, 0xf7, 0xba, 0x44, 0x2f, 0x3a, 0xd7, 0x4b,
                                       0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d};
    /* 4de79437-abd2-427f-b835-d5b172d2045b */
    static const uint8_t kernel[16] = {0x37, 0x94, 0xe7, 0x4d, 0xd2, 0xab, 0x7f, 0x42,
                                       0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b};

    p = put_entry(p, table, TABLE_BYTES);
    p = put_entry(p, cmdline, ENTRY_BYTES);
    memcpy(p, k->cmdline, 32);
    p = put_entry(p + 32, initrd, ENTRY_BYTES);
    memcpy(p, k->initrd, 32);
    p = put_entry(p + 32, kernel, ENTRY_BYTES);
    memcpy(p, k->kernel, 32);
}

static int update_hashes(struct launch *l, const struct ovmf *o, const struct ovmf_sev_section *s,
                         const struct guest_snp_kernel *k, struct err *e)
{
    uint8_t page[OVMF_PAGE_BYTES] = {0};

    if (!k) {
        return update_fixed(l, PAGE_ZERO, s, e);
    }
    put_hashes(page + o->hashes_gpa % OVMF_PAGE_BYTES, k);
    return update_data(l, PAGE_NORMAL, s->gpa, BYTES(page, sizeof(page)), e);
}

/* The firmware must look for the hashes in the page (check_single: it is one) that is measured with
 * them. */
static int check_hashes(const struct ovmf *o, const struct ovmf_sev *sev, struct err *e)
{
    const struct ovmf_sev_section *s = ovmf_sev_find(sev, OVMF_SEV_KERNEL_HASHES);

    if (!s) {
        return err_set(e, ERR_UNSUPPORTED,
                       "firmware has no kernel-hashes section (type 0x%x) in its SEV metadata: the "
                       "kernel would not be measured; it takes a build like edk2's "
                       "OvmfPkg/AmdSev",
                       OVMF_SEV_KERNEL_HASHES);
    }
    if (!o->hashes_gpa || !o->hashes_bytes) {
        return err_set(e, ERR_UNSUPPORTED,
                       "firmware has no kernel-hashes area (table entry %s is absent or empty): "
                       "the kernel would not be checked",
                       OVMF_HASHES_GUID);
    }
    if (o->hashes_gpa / OVMF_PAGE_BYTES != s->gpa / OVMF_PAGE_BYTES ||
        o->hashes_bytes > OVMF_PAGE_BYTES ||
        o->hashes_gpa % OVMF_PAGE_BYTES > OVMF_PAGE_BYTES - o->hashes_bytes) {
        return err_set(e, ERR_INVALID,
                       "firmware's kernel-hashes area 0x%" PRIx32 "+0x%" PRIx32
                       " is not within its kernel-hashes section 0x%" PRIx32 "+0x%" PRIx32
                       " of one page",
                       o->hashes_gpa, o->hashes_bytes, s->gpa, s->size_bytes);
    }
    if (o->hashes_bytes < TABLE_BYTES) {
        return err_set(e, ERR_INVALID,
                       "firmware's kernel-hashes area has %" PRIu32 " bytes, expected at least %u",
                       o->hashes_bytes, TABLE_BYTES);
    }
    return 0;
}

/* Secrets, CPUID and kernel hashes are one page each; a second one would not be what the firmware
 * reads. */
static int check_single(const struct ovmf_sev *sev, struct err *e)
{
    for (size_t i = 0; i < sev->n; i++) {
        const struct ovmf_sev_section *s = &sev->s[i];
        if (s->type != OVMF_SEV_SECRETS && s->type != OVMF_SEV_CPUID &&
            s->type != OVMF_SEV_KERNEL_HASHES) {
            continue;
        }
        if (s != ovmf_sev_find(sev, s->type) || s->size_bytes != OVMF_PAGE_BYTES) {
            return err_set(e, ERR_INVALID,
                           "SEV section %zu: type 0x%" PRIx32 " with 0x%" PRIx32
                           " bytes, expected one page, once",
                           i, s->type, s->size_bytes);
        }
    }
    return 0;
}

static int update_metadata(struct launch *l, const struct ovmf *o,
                           const struct guest_snp_kernel *kernel, struct err *e)
{
    struct ovmf_sev sev;

    if (ovmf_parse_sev(o, &sev, e) || check_single(&sev, e) ||
        (kernel && check_hashes(o, &sev, e))) {
        return -1;
    }
    for (size_t i = 0; i < sev.n; i++) {
        const struct ovmf_sev_section *s = &sev.s[i];
        int r;
        switch (s->type) {
        case OVMF_SEV_SEC_MEM:
        case OVMF_SEV_SVSM_CAA:
            r = update_fixed(l, PAGE_ZERO, s, e);
            break;
        case OVMF_SEV_SECRETS:
            r = update_fixed(l, PAGE_SECRETS, s, e);
            break;
        case OVMF_SEV_CPUID:
            r = update_fixed(l, PAGE_CPUID, s, e);
            break;
        case OVMF_SEV_KERNEL_HASHES:
            r = update_hashes(l, o, s, kernel, e);
            break;
        default:
            r = err_set(e, ERR_UNSUPPORTED,
                        "SEV section %zu has type 0x%" PRIx32
                        ", and how that is measured is not known",
                        i, s->type);
        }
        if (r) {
            return -1;
        }
    }
    return 0;
}

static void put_segment(uint8_t *vmsa, size_t at, uint16_t selector, uint16_t attributes,
                        uint64_t base)
{
    le16_put(vmsa + at, selector);
    le16_put(vmsa + at + 2, attributes);
    le32_put(vmsa + at + 4, 0xffff);
    le64_put(vmsa + at + 8, base);
}

/* A vCPU as it comes out of QEMU's reset and KVM's sync, in the layout of the APM vol. 2, table
 * B-4. */
static void put_vmsa(uint8_t vmsa[OVMF_PAGE_BYTES], uint32_t eip, uint32_t cpu_sig,
                     uint64_t features)
{
    memset(vmsa, 0, OVMF_PAGE_BYTES);
    put_segment(vmsa, 0x00, 0, 0x93, 0);                      /* es */
    put_segment(vmsa, 0x10, 0xf000, 0x9b, eip & 0xffff0000u); /* cs */
    for (size_t at = 0x20; at <= 0x50; at += 0x10) {          /* ss, ds, fs, gs */
        put_segment(vmsa, at, 0, 0x93, 0);
    }
    put_segment(vmsa, 0x60, 0, 0, 0);    /* gdtr */
    put_segment(vmsa, 0x70, 0, 0x82, 0); /* ldtr */
    put_segment(vmsa, 0x80, 0, 0, 0);    /* idtr */
    put_segment(vmsa, 0x90, 0, 0x8b, 0); /* tr */
    le64_put(vmsa + 0xd0, 0x1000);       /* efer: SVME, set by KVM */
    le64_put(vmsa + 0x148, 0x40);        /* cr4: MCE, set by KVM */
    le64_put(vmsa + 0x158, 0x10);        /* cr0 */
    le64_put(vmsa + 0x160, 0x400);       /* dr7 */
    le64_put(vmsa + 0x168, 0xffff0ff0);  /* dr6 */
    le64_put(vmsa + 0x170, 0x2);         /* rflags */
    le64_put(vmsa + 0x178, eip & 0xffffu);
    le64_put(vmsa + 0x268, UINT64_C(0x0007040600070406)); /* g_pat */
    le64_put(vmsa + 0x310, cpu_sig);                      /* rdx */
    le64_put(vmsa + 0x3b0, features);
    le64_put(vmsa + 0x3e8, 0x1);    /* xcr0 */
    le32_put(vmsa + 0x408, 0x1f80); /* mxcsr */
    le16_put(vmsa + 0x410, 0x37f);  /* x87 control word */
}

static int update_vcpus(struct launch *l, const struct ovmf *o, const struct guest_snp_params *p,
                        struct err *e)
{
    uint8_t vmsa[OVMF_PAGE_BYTES];

    if (p->vcpus > 1 && !o->es_reset_eip) {
        return err_set(e, ERR_UNSUPPORTED,
                       "firmware has no SEV-ES reset block: only a guest of one vCPU can start, "
                       "not of %u",
                       p->vcpus);
    }
    for (unsigned i = 0; i < p->vcpus; i++) {
        put_vmsa(vmsa, i ? o->es_reset_eip : BSP_EIP, p->cpu_sig, p->features);
        if (update_data(l, PAGE_VMSA, VMSA_GPA, BYTES(vmsa, sizeof(vmsa)), e)) {
            return -1;
        }
    }
    return 0;
}

int guest_snp_digest(const struct guest_snp_params *p, uint8_t ret[GUEST_SNP_DIGEST_BYTES],
                     struct err *e)
{
    _cleanup_(md_freep) EVP_MD *md = EVP_MD_fetch(NULL, "SHA2-384", NULL);
    struct launch l = {.sha384 = md};
    struct ovmf o;

    if (!md) {
        return err_set(e, ERR_INTERNAL, "SHA-384 is not available");
    }
    if (p->vcpus == 0 || p->vcpus > GUEST_SNP_VCPUS_MAX) {
        return err_set(e, ERR_INVALID, "vcpus: %u, expected 1 to %u", p->vcpus,
                       GUEST_SNP_VCPUS_MAX);
    }
    if (!(p->features & GUEST_SNP_FEATURES)) {
        return err_set(e, ERR_INVALID,
                       "guest features: 0x%" PRIx64 ", expected bit 0 (SNP active) to be set",
                       p->features);
    }
    if (ovmf_parse(p->firmware, &o, e) || update_data(&l, PAGE_NORMAL, o.gpa, o.image, e) ||
        update_metadata(&l, &o, p->kernel, e) || update_vcpus(&l, &o, p, e)) {
        return -1;
    }
    memcpy(ret, l.digest, sizeof(l.digest));
    return 0;
}

int guest_snp_kernel_of(struct bytes kernel, struct bytes initrd, const char *cmdline,
                        struct guest_snp_kernel *ret, struct err *e)
{
    struct guest_snp_kernel k;
    const char *line = cmdline ? cmdline : "";

    if (EVP_Digest(kernel.p, kernel.n, k.kernel, NULL, EVP_sha256(), NULL) != 1 ||
        EVP_Digest(initrd.p, initrd.n, k.initrd, NULL, EVP_sha256(), NULL) != 1 ||
        EVP_Digest(line, strlen(line) + 1, k.cmdline, NULL, EVP_sha256(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-256 failed");
    }
    *ret = k;
    return 0;
}

/* CPUID Fn0000_0001 EAX (AMD 25481): family above 15 goes into the extended family. */
#define CPU_SIG(family, model, stepping)                                                           \
    ((uint32_t)((((family)-0xf) << 20) | (((model) >> 4) << 16) | 0xf00 | (((model)&0xf) << 4) |   \
                (stepping)))

int guest_snp_cpu_sig(const char *model, uint32_t *ret, struct err *e)
{
    static const struct {
        const char *name;
        unsigned versions; /* of QEMU's versioned names, -v1 to this */
        uint32_t sig;
    } models[] = {
        {"EPYC", 5, CPU_SIG(23, 1, 2)},        {"EPYC-IBPB", 0, CPU_SIG(23, 1, 2)},
        {"EPYC-Rome", 5, CPU_SIG(23, 49, 0)},  {"EPYC-Milan", 3, CPU_SIG(25, 1, 1)},
        {"EPYC-Genoa", 2, CPU_SIG(25, 17, 0)}, {"EPYC-Turin", 1, CPU_SIG(26, 0, 0)},
    };

    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        size_t n = strlen(models[i].name);
        if (strncmp(model, models[i].name, n)) {
            continue;
        }
        const char *v = model + n;
        if (*v == '\0' || (v[0] == '-' && v[1] == 'v' && v[2] >= '1' &&
                           (unsigned)(v[2] - '0') <= models[i].versions && v[3] == '\0')) {
            *ret = models[i].sig;
            return 0;
        }
    }
    return err_set(
        e, ERR_UNSUPPORTED,
        "CPU model \"%.64s\" is not known; known are QEMU's EPYC, EPYC-Rome, EPYC-Milan, "
        "EPYC-Genoa and EPYC-Turin with their versions",
        model);
}
