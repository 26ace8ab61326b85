#include "appraise/snp_report.h"

#define SIGNATURE 0x2a0u
#define COMPONENT_BYTES 72u /* of R and of S, little-endian */
#define P384_BYTES 48u
#define KEY_INFO_KNOWN 0x1fu
#define ECDSA_P384_SHA384 1u
#define VMPL_MAX 3u

const char *snp_product_name(enum snp_product p)
{
    static const char *const names[SNP_PRODUCT_N] = {"unknown", "Milan", "Genoa", "Turin"};

    return (unsigned)p < SNP_PRODUCT_N ? names[p] : names[SNP_UNKNOWN];
}

enum snp_product snp_product_of(uint8_t family, uint8_t model)
{
    if (family == 0x19 && model <= 0x0f) {
        return SNP_MILAN;
    }
    if (family == 0x19 && ((model >= 0x10 && model <= 0x1f) || (model >= 0xa0 && model <= 0xaf))) {
        return SNP_GENOA; /* with Bergamo and Siena */
    }
    return family == 0x1a && model <= 0x1f ? SNP_TURIN : SNP_UNKNOWN;
}

/* ---- TCB versions ---- */

struct snp_tcb snp_tcb_of(enum snp_product p, const uint8_t raw[8])
{
    if (p == SNP_TURIN) {
        return (struct snp_tcb){.fmc = raw[0],
                                .bootloader = raw[1],
                                .tee = raw[2],
                                .snp = raw[3],
                                .spl = {0, raw[4], raw[5], raw[6]},
                                .microcode = raw[7]};
    }
    return (struct snp_tcb){.bootloader = raw[0],
                            .tee = raw[1],
                            .spl = {raw[2], raw[3], raw[4], raw[5]},
                            .snp = raw[6],
                            .microcode = raw[7]};
}

int snp_tcb_le(const struct snp_tcb *a, const struct snp_tcb *b)
{
    int le = a->fmc <= b->fmc && a->bootloader <= b->bootloader && a->tee <= b->tee &&
             a->snp <= b->snp && a->microcode <= b->microcode;

    for (size_t i = 0; i < sizeof(a->spl); i++) {
        le = le && a->spl[i] <= b->spl[i];
    }
    return le;
}

int snp_tcb_equal(const struct snp_tcb *a, const struct snp_tcb *b)
{
    return snp_tcb_le(a, b) && snp_tcb_le(b, a);
}

void snp_tcb_text(enum snp_product p, const struct snp_tcb *t, char ret[96])
{
    char fmc[16] = "";

    if (p == SNP_TURIN) {
        snprintf(fmc, sizeof(fmc), "fmc %u, ", t->fmc);
    }
    snprintf(ret, 96, "%sbootloader %u, tee %u, snp %u, microcode %u", fmc, t->bootloader, t->tee,
             t->snp, t->microcode);
}

/* ---- reading ---- */

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t le64(const uint8_t *p)
{
    return le32(p) | (uint64_t)le32(p + 4) << 32;
}

/* Byte ranges that are zero in versions `from` to `to`. */
static const struct {
    uint16_t at, end;
    uint8_t from, to;
} zero_ranges[] = {
    {0x04c, 0x050, 2, 5}, {0x188, 0x18b, 2, 2}, {0x18b, 0x1a0, 2, 5}, {0x1eb, 0x1ec, 2, 5},
    {0x1ef, 0x1f0, 2, 5}, {0x1f8, 0x208, 2, 4}, {0x208, 0x2a0, 2, 5}, {0x330, 0x4a0, 2, 5},
};

static int check_zero(const uint8_t *p, uint32_t version, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(zero_ranges); i++) {
        if (version < zero_ranges[i].from || version > zero_ranges[i].to) {
            continue;
        }
        for (size_t at = zero_ranges[i].at; at < zero_ranges[i].end; at++) {
            if (p[at]) {
                return err_refuse(e, ERR_INVALID, "evidence.report.reserved",
                                  "zero in all reserved bytes", "0x%02x at 0x%03zx", p[at], at);
            }
        }
    }
    return 0;
}

static int check_head(const struct snp_report *r, const uint8_t *p, struct err *e)
{
    uint32_t algorithm = le32(p + 0x034), key_info = le32(p + 0x048), key = key_info >> 2 & 7;

    if (algorithm != ECDSA_P384_SHA384) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.report.signature_algo",
                          "1, ECDSA on P-384 with SHA-384", "%u", algorithm);
    }
    if (!(r->policy & SNP_POLICY_RESERVED_ONE)) {
        return err_refuse(e, ERR_INVALID, "evidence.report.policy", "bit 17, which is always set",
                          "0x%llx", (unsigned long long)r->policy);
    }
    if (r->vmpl > VMPL_MAX) {
        return err_refuse(e, ERR_DENIED, "evidence.report.vmpl",
                          "0 to 3: a report that the guest asked for", "0x%x", r->vmpl);
    }
    if (key_info & ~KEY_INFO_KNOWN) {
        return err_refuse(e, ERR_INVALID, "evidence.report.key_info", "zero in bits 5 to 31",
                          "0x%x", key_info);
    }
    if (key != SNP_KEY_VCEK && key != SNP_KEY_VLEK) {
        return err_refuse(e, ERR_DENIED, "evidence.report.signing_key",
                          "0 or 1: signed by a VCEK or a VLEK", "%u%s", key,
                          key == SNP_KEY_NONE ? ": not signed" : "");
    }
    return 0;
}

static int read_cpu(struct snp_report *r, const uint8_t *p, struct err *e)
{
    if (r->version < 3) {
        return 0;
    }
    r->cpuid_family = p[0x188];
    r->cpuid_model = p[0x189];
    r->cpuid_stepping = p[0x18a];
    r->product = snp_product_of(r->cpuid_family, r->cpuid_model);
    if (r->product == SNP_UNKNOWN) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.report.cpuid", "Milan, Genoa or Turin",
                          "family 0x%x, model 0x%x", r->cpuid_family, r->cpuid_model);
    }
    return 0;
}

static int read_component(const uint8_t *p, uint8_t *ret, struct err *e)
{
    for (size_t i = P384_BYTES; i < COMPONENT_BYTES; i++) {
        if (p[i]) {
            return err_refuse(e, ERR_BAD_SIGNATURE, "evidence.report.signature",
                              "R and S of at most 384 bits", "more");
        }
    }
    for (size_t i = 0; i < P384_BYTES; i++) {
        ret[i] = p[P384_BYTES - 1 - i];
    }
    return 0;
}

static void read_fields(struct snp_report *r, const uint8_t *p)
{
    const struct {
        void *to;
        uint16_t at, n;
    } copies[] = {
        {r->family_id, 0x010, 16},         {r->image_id, 0x020, 16},
        {r->current_tcb, 0x038, 8},        {r->report_data, 0x050, 64},
        {r->measurement, 0x090, 48},       {r->host_data, 0x0c0, 32},
        {r->id_key_digest, 0x0e0, 48},     {r->author_key_digest, 0x110, 48},
        {r->report_id, 0x140, 32},         {r->report_id_ma, 0x160, 32},
        {r->reported_tcb, 0x180, 8},       {r->chip_id, 0x1a0, SNP_CHIP_ID_BYTES},
        {r->committed_tcb, 0x1e0, 8},      {r->launch_tcb, 0x1f0, 8},
        {r->raw, 0x000, SNP_REPORT_BYTES},
    };

    for (size_t i = 0; i < ARRAY_LEN(copies); i++) {
        memcpy(copies[i].to, p + copies[i].at, copies[i].n);
    }
    r->guest_svn = le32(p + 0x004);
    r->policy = le64(p + 0x008);
    r->vmpl = le32(p + 0x030);
    r->platform_info = le64(p + 0x040);
    r->author_key_enabled = p[0x048] & 1;
    r->mask_chip_key = p[0x048] >> 1 & 1;
    r->key = (enum snp_key)(p[0x048] >> 2 & 7);
    r->current = (struct snp_firmware){.build = p[0x1e8], .minor = p[0x1e9], .major = p[0x1ea]};
    r->committed = (struct snp_firmware){.build = p[0x1ec], .minor = p[0x1ed], .major = p[0x1ee]};
    r->launch_mit_vector = le64(p + 0x1f8);
    r->current_mit_vector = le64(p + 0x200);
}

int snp_report_parse(struct bytes in, struct snp_report *ret, struct err *e)
{
    struct snp_report r = {0};

    if (in.n != SNP_REPORT_BYTES) {
        return err_refuse(e, ERR_INVALID, "evidence.report", "1184 bytes", "%zu", in.n);
    }
    r.version = le32(in.p);
    if (r.version < 2 || r.version > 5) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.report.version", "2, 3, 4 or 5", "%u",
                          r.version);
    }
    read_fields(&r, in.p);
    if (check_head(&r, in.p, e) || check_zero(in.p, r.version, e) || read_cpu(&r, in.p, e) ||
        read_component(in.p + SIGNATURE, r.r_s, e) ||
        read_component(in.p + SIGNATURE + COMPONENT_BYTES, r.r_s + P384_BYTES, e)) {
        return -1;
    }
    *ret = r;
    return 0;
}
