/* A small image with the tables of an OVMF, for tests: 16 pages of fixed noise, of which the first
 * 4 are the "variables" and the rest the "code", SEV and TDX metadata at fixed places, and the
 * table of GUIDed entries. Laid out like edk2's OvmfPkg/AmdSev, but nothing in it can run. */
#ifndef COFFER_GUEST_OVMF_TESTING_H
#define COFFER_GUEST_OVMF_TESTING_H

#include "guest/le.h"
#include "guest/ovmf.h"

#define FIX_PAGES 16u
#define FIX_BYTES (FIX_PAGES * OVMF_PAGE_BYTES)
#define FIX_SEV_AT (FIX_BYTES - 0x400u)
#define FIX_TDX_AT (FIX_BYTES - 0x600u)
#define FIX_FOOTER_AT (FIX_BYTES - 50u) /* its length; the GUID follows */
#define FIX_SEV_SECTION(i) (FIX_SEV_AT + 16u + 12u * (i))
#define FIX_TDX_SECTION(i) (FIX_TDX_AT + 16u + 32u * (i))

enum fix_parts {
    FIX_RESET = 1,
    FIX_SECRET = 2,
    FIX_HASHES = 4,          /* the table entry */
    FIX_SEV = 8,             /* metadata and its entry */
    FIX_HASHES_SECTION = 16, /* in that metadata */
    FIX_TDX = 32,
    FIX_ALL = 63,
};

struct fix {
    uint8_t image[FIX_BYTES];
    size_t at; /* where the next entry of the table ends */
};

static inline void fix_guid(uint8_t *p, uint32_t a, uint16_t b, uint16_t c, const char rest[8])
{
    le32_put(p, a);
    le16_put(p + 4, b);
    le16_put(p + 6, c);
    memcpy(p + 8, rest, 8);
}

/* Adds an entry before those there are, and counts it in the footer. Returns its data. */
static inline uint8_t *fix_entry(struct fix *f, uint16_t data_bytes, uint32_t a, uint16_t b,
                                 uint16_t c, const char rest[8])
{
    uint16_t n = (uint16_t)(data_bytes + 18);

    fix_guid(f->image + f->at - 16, a, b, c, rest);
    le16_put(f->image + f->at - 18, n);
    f->at -= n;
    le16_put(f->image + FIX_FOOTER_AT, (uint16_t)(FIX_FOOTER_AT - f->at + 18));
    return f->image + f->at;
}

static inline void fix_header(uint8_t *p, const char *magic, uint32_t head, uint32_t each,
                              uint32_t count)
{
    memcpy(p, magic, 4);
    le32_put(p + 4, head + each * count);
    le32_put(p + 8, 1);
    le32_put(p + 12, count);
}

static inline void fix_sev(struct fix *f, int hashes)
{
    static const uint32_t s[][3] = {
        {0x800000, 0x9000, OVMF_SEV_SEC_MEM},       {0x80a000, 0x3000, OVMF_SEV_SEC_MEM},
        {0x80d000, 0x1000, OVMF_SEV_SECRETS},       {0x80e000, 0x1000, OVMF_SEV_CPUID},
        {0x80f000, 0x1000, OVMF_SEV_SVSM_CAA},      {0x811000, 0xf000, OVMF_SEV_SEC_MEM},
        {0x810000, 0x1000, OVMF_SEV_KERNEL_HASHES},
    };
    uint32_t n = hashes ? 7 : 6;

    fix_header(f->image + FIX_SEV_AT, "ASEV", 16, 12, n);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            le32_put(f->image + FIX_SEV_SECTION(i) + 4 * k, s[i][k]);
        }
    }
    le32_put(fix_entry(f, 4, 0xdc886566, 0x984a, 0x4798, "\xa7\x5e\x55\x85\xa7\xbf\x67\xcc"),
             FIX_BYTES - FIX_SEV_AT);
}

static inline void fix_tdx(struct fix *f)
{
    static const uint32_t s[][6] = {
        {0x4000, 0xc000, 0xffff4000, 0xc000, OVMF_TDX_BFV, OVMF_TDX_MR_EXTEND},
        {0, 0x4000, 0xffff0000, 0x4000, OVMF_TDX_CFV, 0},
        {0, 0, 0x810000, 0x10000, OVMF_TDX_TEMP_MEM, 0},
        {0, 0, 0x809000, 0x2000, OVMF_TDX_TD_HOB, 0},
    };

    fix_header(f->image + FIX_TDX_AT, "TDVF", 16, 32, 4);
    for (uint32_t i = 0; i < 4; i++) {
        uint8_t *p = f->image + FIX_TDX_SECTION(i);
        le32_put(p, s[i][0]);
        le32_put(p + 4, s[i][1]);
        le64_put(p + 8, s[i][2]);
        le64_put(p + 16, s[i][3]);
        le32_put(p + 24, s[i][4]);
        le32_put(p + 28, s[i][5]);
    }
    le32_put(fix_entry(f, 4, 0xe47a6535, 0x984a, 0x4798, "\x86\x5e\x46\x85\xa7\xbf\x8e\xc2"),
             FIX_BYTES - FIX_TDX_AT);
}

static inline void fix_make(struct fix *f, int parts)
{
    uint32_t noise = 1;

    for (size_t i = 0; i < FIX_BYTES; i++) {
        noise = noise * 1664525u + 1013904223u;
        f->image[i] = (uint8_t)(noise >> 24);
    }
    f->at = FIX_FOOTER_AT;
    le16_put(f->image + FIX_FOOTER_AT, 18);
    fix_guid(f->image + FIX_FOOTER_AT + 2, 0x96b582de, 0x1fb2, 0x45f7,
             "\xba\xea\xa3\x66\xc5\x5a\x08\x2d");
    if (parts & FIX_RESET) {
        le32_put(fix_entry(f, 4, 0x00f771de, 0x1a7e, 0x4fcb, "\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e"),
                 0x0080b004);
    }
    if (parts & FIX_SECRET) {
        uint8_t *p =
            fix_entry(f, 8, 0x4c2eb361, 0x7d9b, 0x4cc3, "\x80\x81\x12\x7c\x90\xd3\xd2\x94");
        le32_put(p, 0x810000);
        le32_put(p + 4, 0xc00);
    }
    if (parts & FIX_HASHES) {
        uint8_t *p =
            fix_entry(f, 8, 0x7255371f, 0x3a3b, 0x4b04, "\x92\x7b\x1d\xa6\xef\xa8\xd4\x54");
        le32_put(p, 0x810c00);
        le32_put(p + 4, 0x400);
    }
    if (parts & FIX_SEV) {
        fix_sev(f, parts & FIX_HASHES_SECTION);
    }
    if (parts & FIX_TDX) {
        fix_tdx(f);
    }
}

static inline struct bytes fix_bytes(const struct fix *f)
{
    return BYTES(f->image, FIX_BYTES);
}

#endif
