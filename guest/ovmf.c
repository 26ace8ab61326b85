#include "guest/ovmf.h"

#include <inttypes.h>

#include "guest/le.h"

#define GUID_BYTES 16u
#define ENTRY_HEAD_BYTES 18u /* u16 length of the whole entry, GUID; the data is before them */
#define TABLE_END_BYTES 32u  /* from the end of the table to the end of the image */
#define ENTRIES_MAX 64u
#define SEV_HEAD_BYTES 16u
#define SEV_SECTION_BYTES 12u
#define TDX_HEAD_BYTES 16u
#define TDX_SECTION_BYTES 32u
#define TOP (UINT64_C(1) << 32)
/* Guest-physical addresses have at most 52 bits. */
#define GPA_MAX (UINT64_C(1) << 52)

/* 96b582de-1fb2-45f7-baea-a366c55a082d and so on, in EFI's mixed byte order. */
static const uint8_t footer_guid[GUID_BYTES] = {0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45,
                                                0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d};

enum entry_kind { ENTRY_ES_RESET, ENTRY_SECRET, ENTRY_HASHES, ENTRY_SEV, ENTRY_TDX, ENTRY_KINDS };

static const struct {
    const char *name;
    uint8_t guid[GUID_BYTES];
    uint16_t data_bytes;
} entries[ENTRY_KINDS] = {
    /* 00f771de-1a7e-4fcb-890e-68c77e2fb44e */
    [ENTRY_ES_RESET] = {"SEV-ES reset block",
                        {0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7,
                         0x7e, 0x2f, 0xb4, 0x4e},
                        4},
    /* 4c2eb361-7d9b-4cc3-8081-127c90d3d294 */
    [ENTRY_SECRET] = {"SEV secret area",
                      {0x61, 0xb3, 0x2e, 0x4c, 0x9b, 0x7d, 0xc3, 0x4c, 0x80, 0x81, 0x12, 0x7c, 0x90,
                       0xd3, 0xd2, 0x94},
                      8},
    /* 7255371f-3a3b-4b04-927b-1da6efa8d454 */
    [ENTRY_HASHES] = {"SEV kernel-hashes area",
                      {0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef,
                       0xa8, 0xd4, 0x54},
                      8},
    /* dc886566-984a-4798-a75e-5585a7bf67cc */
    [ENTRY_SEV] = {"SEV metadata offset",
                   {0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7,
                    0xbf, 0x67, 0xcc},
                   4},
    /* e47a6535-984a-4798-865e-4685a7bf8ec2 */
    [ENTRY_TDX] = {"TDX metadata offset",
                   {0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7,
                    0xbf, 0x8e, 0xc2},
                   4},
};

struct found {
    const uint8_t *data[ENTRY_KINDS]; /* NULL: not in the table */
};

static int add_entry(struct found *f, const uint8_t *guid, const uint8_t *data, size_t n,
                     struct err *e)
{
    for (size_t k = 0; k < ENTRY_KINDS; k++) {
        if (memcmp(guid, entries[k].guid, GUID_BYTES)) {
            continue;
        }
        if (f->data[k]) {
            return err_set(e, ERR_INVALID, "firmware table: the %s entry is there twice",
                           entries[k].name);
        }
        if (n != entries[k].data_bytes) {
            return err_set(e, ERR_INVALID,
                           "firmware table: the %s entry has %zu bytes of data, expected %u",
                           entries[k].name, n, entries[k].data_bytes);
        }
        f->data[k] = data;
    }
    return 0;
}

/* Backwards from the footer, as firmware and QEMU walk it. */
static int find_entries(struct bytes image, struct found *f, struct err *e)
{
    size_t at = image.n - TABLE_END_BYTES - ENTRY_HEAD_BYTES; /* of the footer's length */
    size_t left = le16_get(image.p + at);

    if (memcmp(image.p + at + 2, footer_guid, GUID_BYTES)) {
        return err_set(e, ERR_UNSUPPORTED,
                       "firmware has no GUIDed table before its reset vector: not an OVMF built "
                       "for confidential guests");
    }
    if (left < ENTRY_HEAD_BYTES || left - ENTRY_HEAD_BYTES > at) {
        return err_set(e, ERR_INVALID,
                       "firmware table: length %zu, expected %u to %zu (what the image has room "
                       "for)",
                       left, ENTRY_HEAD_BYTES, at + ENTRY_HEAD_BYTES);
    }
    left -= ENTRY_HEAD_BYTES;
    for (size_t i = 0; left > 0; i++) {
        size_t n = left < ENTRY_HEAD_BYTES ? 0 : le16_get(image.p + at - ENTRY_HEAD_BYTES);
        if (n < ENTRY_HEAD_BYTES || n > left) {
            return err_set(e, ERR_INVALID,
                           "firmware table: entry %zu has length %zu, expected %u to the %zu bytes "
                           "left",
                           i, n, ENTRY_HEAD_BYTES, left);
        }
        if (i == ENTRIES_MAX) {
            return err_set(e, ERR_TOO_LARGE, "firmware table: more than %u entries", ENTRIES_MAX);
        }
        if (add_entry(f, image.p + at - GUID_BYTES, image.p + at - n, n - ENTRY_HEAD_BYTES, e)) {
            return -1;
        }
        at -= n;
        left -= n;
    }
    return 0;
}

/* Where the metadata begins: its entry tells the distance from the end of the image.
 * Its header is within the image. */
static int locate(struct bytes image, const uint8_t *entry, const char *name, size_t head,
                  size_t *ret_at, struct err *e)
{
    size_t from_end = le32_get(entry);

    if (from_end < head || from_end > image.n) {
        return err_set(e, ERR_INVALID,
                       "%s metadata: offset %zu from the end of the firmware, expected %zu to %zu",
                       name, from_end, head, image.n);
    }
    *ret_at = image.n - from_end;
    return 0;
}

static int check_header(struct bytes image, size_t at, const char *name, const char *magic,
                        size_t head, size_t each, size_t *ret_n, struct err *e)
{
    const uint8_t *h = image.p + at;
    uint32_t bytes = le32_get(h + 4), version = le32_get(h + 8), count = le32_get(h + 12);

    if (memcmp(h, magic, 4)) {
        return err_set(e, ERR_INVALID, "%s metadata: signature %02x%02x%02x%02x, expected \"%s\"",
                       name, h[0], h[1], h[2], h[3], magic);
    }
    if (version != 1) {
        return err_set(e, ERR_UNSUPPORTED, "%s metadata: version %" PRIu32 ", expected 1", name,
                       version);
    }
    if (count == 0 || count > OVMF_SECTIONS_MAX) {
        return err_set(e, count ? ERR_TOO_LARGE : ERR_INVALID,
                       "%s metadata: %" PRIu32 " sections, expected 1 to %u", name, count,
                       OVMF_SECTIONS_MAX);
    }
    if (bytes != head + each * count || bytes > image.n - at) {
        return err_set(e, ERR_INVALID,
                       "%s metadata: length %" PRIu32 " for %" PRIu32
                       " sections, expected %zu, within the firmware",
                       name, bytes, count, head + each * count);
    }
    *ret_n = count;
    return 0;
}

static int check_range(const char *name, size_t i, uint64_t gpa, uint64_t size, uint64_t *total,
                       struct err *e)
{
    if (gpa % OVMF_PAGE_BYTES || size % OVMF_PAGE_BYTES || size == 0) {
        return err_set(e, ERR_INVALID,
                       "%s section %zu: address 0x%" PRIx64 " and size 0x%" PRIx64
                       ", expected whole pages, at least one",
                       name, i, gpa, size);
    }
    if (size > OVMF_SECTION_MAX_BYTES || *total > OVMF_SECTION_MAX_BYTES - size) {
        return err_set(e, ERR_TOO_LARGE,
                       "%s section %zu: size 0x%" PRIx64 " takes the sections over 0x%x bytes",
                       name, i, size, OVMF_SECTION_MAX_BYTES);
    }
    if (gpa >= GPA_MAX) {
        return err_set(e, ERR_INVALID,
                       "%s section %zu: address 0x%" PRIx64
                       " is not a guest-physical address (52 bits)",
                       name, i, gpa);
    }
    *total += size;
    return 0;
}

static int check_apart(const char *name, size_t i, uint64_t a, uint64_t a_size, size_t j,
                       uint64_t b, uint64_t b_size, struct err *e)
{
    if (a < b + b_size && b < a + a_size) {
        return err_set(e, ERR_INVALID, "%s sections %zu and %zu overlap at 0x%" PRIx64, name, j, i,
                       a > b ? a : b);
    }
    return 0;
}

int ovmf_parse_sev(const struct ovmf *o, struct ovmf_sev *ret, struct err *e)
{
    struct ovmf_sev sev = {0};
    size_t at, n;
    uint64_t total = 0;

    if (!o->sev_entry) {
        return err_set(e, ERR_UNSUPPORTED,
                       "firmware has no SEV metadata (its table lacks the entry %s): it cannot "
                       "start an SEV-SNP guest",
                       OVMF_SEV_METADATA_GUID);
    }
    if (locate(o->image, o->sev_entry, "SEV", SEV_HEAD_BYTES, &at, e) ||
        check_header(o->image, at, "SEV", "ASEV", SEV_HEAD_BYTES, SEV_SECTION_BYTES, &n, e)) {
        return -1;
    }
    for (; sev.n < n; sev.n++) {
        const uint8_t *p = o->image.p + at + SEV_HEAD_BYTES + sev.n * SEV_SECTION_BYTES;
        struct ovmf_sev_section *s = &sev.s[sev.n];
        s->gpa = le32_get(p);
        s->size_bytes = le32_get(p + 4);
        s->type = le32_get(p + 8);
        if (check_range("SEV", sev.n, s->gpa, s->size_bytes, &total, e)) {
            return -1;
        }
        if (s->gpa + (uint64_t)s->size_bytes > o->gpa) {
            return err_set(e, ERR_INVALID,
                           "SEV section %zu: ends at 0x%" PRIx64
                           ", in the firmware itself, which begins at 0x%" PRIx64,
                           sev.n, s->gpa + (uint64_t)s->size_bytes, o->gpa);
        }
        for (size_t j = 0; j < sev.n; j++) {
            if (check_apart("SEV", sev.n, s->gpa, s->size_bytes, j, sev.s[j].gpa,
                            sev.s[j].size_bytes, e)) {
                return -1;
            }
        }
    }
    *ret = sev;
    return 0;
}

static int check_tdx(const struct ovmf *o, size_t i, const struct ovmf_tdx_section *s,
                     struct err *e)
{
    if (s->raw_bytes > o->image.n || s->data_offset > o->image.n - s->raw_bytes) {
        return err_set(e, ERR_INVALID,
                       "TDX section %zu: data 0x%" PRIx32 " bytes at 0x%" PRIx32
                       ", but the firmware has 0x%zx",
                       i, s->raw_bytes, s->data_offset, o->image.n);
    }
    if (s->raw_bytes > s->size_bytes) {
        return err_set(e, ERR_INVALID,
                       "TDX section %zu: data 0x%" PRIx32 " bytes, but only 0x%" PRIx64
                       " in memory",
                       i, s->raw_bytes, s->size_bytes);
    }
    if (s->attributes & ~(OVMF_TDX_MR_EXTEND | OVMF_TDX_PAGE_AUG)) {
        return err_set(e, ERR_UNSUPPORTED,
                       "TDX section %zu: attributes 0x%" PRIx32 ", expected 0 to 3", i,
                       s->attributes);
    }
    if ((s->attributes & OVMF_TDX_MR_EXTEND) &&
        ((s->attributes & OVMF_TDX_PAGE_AUG) || s->raw_bytes != s->size_bytes)) {
        return err_set(e, ERR_INVALID,
                       "TDX section %zu: measured, but its pages are not all added from the "
                       "firmware's bytes",
                       i);
    }
    return 0;
}

int ovmf_parse_tdx(const struct ovmf *o, struct ovmf_tdx *ret, struct err *e)
{
    struct ovmf_tdx tdx = {0};
    size_t at, n;
    uint64_t total = 0;

    if (!o->tdx_entry) {
        return err_set(e, ERR_UNSUPPORTED,
                       "firmware has no TDX metadata (its table lacks the entry %s): it cannot "
                       "start a TDX guest",
                       OVMF_TDX_METADATA_GUID);
    }
    if (locate(o->image, o->tdx_entry, "TDX", TDX_HEAD_BYTES, &at, e) ||
        check_header(o->image, at, "TDX", "TDVF", TDX_HEAD_BYTES, TDX_SECTION_BYTES, &n, e)) {
        return -1;
    }
    for (; tdx.n < n; tdx.n++) {
        const uint8_t *p = o->image.p + at + TDX_HEAD_BYTES + tdx.n * TDX_SECTION_BYTES;
        struct ovmf_tdx_section *s = &tdx.s[tdx.n];
        s->data_offset = le32_get(p);
        s->raw_bytes = le32_get(p + 4);
        s->gpa = le64_get(p + 8);
        s->size_bytes = le64_get(p + 16);
        s->type = le32_get(p + 24);
        s->attributes = le32_get(p + 28);
        if (check_range("TDX", tdx.n, s->gpa, s->size_bytes, &total, e) ||
            check_tdx(o, tdx.n, s, e)) {
            return -1;
        }
        for (size_t j = 0; j < tdx.n; j++) {
            if (check_apart("TDX", tdx.n, s->gpa, s->size_bytes, j, tdx.s[j].gpa,
                            tdx.s[j].size_bytes, e)) {
                return -1;
            }
        }
    }
    *ret = tdx;
    return 0;
}

int ovmf_parse(struct bytes image, struct ovmf *ret, struct err *e)
{
    struct ovmf o = {.image = image, .gpa = TOP - image.n};
    struct found f = {0};

    if (image.n > OVMF_IMAGE_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "firmware: %zu bytes, expected at most %u", image.n,
                       OVMF_IMAGE_MAX_BYTES);
    }
    if (image.n == 0 || image.n % OVMF_PAGE_BYTES) {
        return err_set(e, ERR_INVALID, "firmware: %zu bytes, expected whole pages of %u", image.n,
                       OVMF_PAGE_BYTES);
    }
    if (find_entries(image, &f, e)) {
        return -1;
    }
    if (f.data[ENTRY_ES_RESET]) {
        o.es_reset_eip = le32_get(f.data[ENTRY_ES_RESET]);
    }
    if (f.data[ENTRY_SECRET]) {
        o.secret_gpa = le32_get(f.data[ENTRY_SECRET]);
        o.secret_bytes = le32_get(f.data[ENTRY_SECRET] + 4);
    }
    if (f.data[ENTRY_HASHES]) {
        o.hashes_gpa = le32_get(f.data[ENTRY_HASHES]);
        o.hashes_bytes = le32_get(f.data[ENTRY_HASHES] + 4);
    }
    o.sev_entry = f.data[ENTRY_SEV];
    o.tdx_entry = f.data[ENTRY_TDX];
    *ret = o;
    return 0;
}

const struct ovmf_sev_section *ovmf_sev_find(const struct ovmf_sev *sev, uint32_t type)
{
    for (size_t i = 0; i < sev->n; i++) {
        if (sev->s[i].type == type) {
            return &sev->s[i];
        }
    }
    return NULL;
}
