#include "guest/pe.h"

#include "guest/le.h"

#define SECTION_HEADER 40u
#define MACHINE_X86_64 0x8664u
#define PE32_PLUS 0x20bu
#define SECURITY_DIR 4u
#define OPT_MIN 112u               /* of a PE32+ optional header, up to its data directories */
#define READ_ONLY_DATA 0x40000040u /* IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ */

static int bad(struct err *e, const char *clause, const char *expected, uint64_t got)
{
    return err_refuse(e, ERR_INVALID, clause, expected, "%llu", (unsigned long long)got);
}

static int parse_optional(struct pe *p, size_t opt_bytes, struct err *e)
{
    const uint8_t *b = p->image.p, *o = b + p->opt_at;

    if (le16_get(o) != PE32_PLUS) {
        return err_refuse(e, ERR_UNSUPPORTED, "pe.optional-header", "PE32+", "0x%x", le16_get(o));
    }
    p->section_align = le32_get(o + 32);
    p->file_align = le32_get(o + 36);
    p->image_bytes = le32_get(o + 56);
    p->headers_bytes = le32_get(o + 60);
    p->checksum_at = p->opt_at + 64;
    p->table_at = p->opt_at + opt_bytes;
    uint32_t dirs = le32_get(o + 108);
    if (dirs > 16 || opt_bytes < OPT_MIN + 8 * (size_t)dirs) {
        return bad(e, "pe.directories", "at most 16, in the header", dirs);
    }
    if (dirs > SECURITY_DIR) {
        p->security_dir_at = p->opt_at + OPT_MIN + (size_t)8 * SECURITY_DIR;
        p->security_at = le32_get(b + p->security_dir_at);
        p->security_bytes = le32_get(b + p->security_dir_at + 4);
        if (p->security_bytes && (uint64_t)p->security_at + p->security_bytes != p->image.n) {
            return bad(e, "pe.certificates", "at the end of the file", p->security_at);
        }
    }
    if (p->section_align < 16 || p->section_align & (p->section_align - 1) || p->file_align < 16 ||
        p->file_align & (p->file_align - 1) || p->file_align > p->section_align ||
        p->section_align > (1u << 24)) {
        return bad(e, "pe.alignment", "powers of two", p->section_align);
    }
    return 0;
}

static int parse_headers(struct pe *p, struct err *e)
{
    const uint8_t *b = p->image.p;
    size_t n = p->image.n;

    if (n < 0x40 || b[0] != 'M' || b[1] != 'Z') {
        return err_refuse(e, ERR_INVALID, "pe.magic", "MZ", "another start");
    }
    size_t at = le32_get(b + 0x3c);
    if (at > n || n - at < 24 || memcmp(b + at, "PE\0", 4) != 0) {
        return err_refuse(e, ERR_INVALID, "pe.signature", "PE", "none at %zu", at);
    }
    p->coff_at = at + 4;
    p->opt_at = p->coff_at + 20;
    if (le16_get(b + p->coff_at) != MACHINE_X86_64) {
        return err_refuse(e, ERR_UNSUPPORTED, "pe.machine", "x86-64", "0x%x",
                          le16_get(b + p->coff_at));
    }
    size_t opt_bytes = le16_get(b + p->coff_at + 16);
    if (opt_bytes < OPT_MIN || opt_bytes > n - p->opt_at) {
        return bad(e, "pe.optional-header", "112 bytes or more, in the file", opt_bytes);
    }
    return parse_optional(p, opt_bytes, e);
}

static int parse_sections(struct pe *p, struct err *e)
{
    const uint8_t *b = p->image.p;

    p->n = le16_get(b + p->coff_at + 2);
    if (p->n > PE_SECTIONS_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "pe.sections", "at most 96", "%zu", p->n);
    }
    if (p->headers_bytes > p->image.n || p->table_at > p->headers_bytes ||
        p->n * SECTION_HEADER > p->headers_bytes - p->table_at) {
        return bad(e, "pe.headers", "in the file, with the table of sections", p->headers_bytes);
    }
    for (size_t i = 0; i < p->n; i++) {
        const uint8_t *h = b + p->table_at + i * SECTION_HEADER;
        struct pe_section *s = &p->s[i];
        memcpy(s->name, h, 8);
        s->virtual_bytes = le32_get(h + 8);
        s->rva = le32_get(h + 12);
        s->raw_bytes = le32_get(h + 16);
        s->offset = le32_get(h + 20);
        if (s->raw_bytes && (s->offset < p->headers_bytes || s->offset > p->image.n ||
                             s->raw_bytes > p->image.n - s->offset)) {
            return bad(e, "pe.section", "a section in the file", s->offset);
        }
        if (s->rva > p->image_bytes || s->virtual_bytes > p->image_bytes - s->rva) {
            return bad(e, "pe.section", "a section in the image", s->rva);
        }
    }
    return 0;
}

int pe_parse(struct bytes image, struct pe *ret, struct err *e)
{
    struct pe p = {.image = image};

    if (image.n > PE_IMAGE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "pe", "at most 1 GiB", "%zu bytes", image.n);
    }
    if (parse_headers(&p, e) || parse_sections(&p, e)) {
        return -1;
    }
    *ret = p;
    return 0;
}

const struct pe_section *pe_find(const struct pe *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++) {
        if (streq(p->s[i].name, name)) {
            return &p->s[i];
        }
    }
    return NULL;
}

struct bytes pe_content(const struct pe *p, const struct pe_section *s)
{
    size_t n = s->virtual_bytes < s->raw_bytes ? s->virtual_bytes : s->raw_bytes;

    return n ? BYTES(p->image.p + s->offset, n) : BYTES("", 0);
}

/* ---- Authenticode ---------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const struct pe_section *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int hash(EVP_MD_CTX *ctx, const struct pe *p, size_t from, size_t to)
{
    return to >= from && EVP_DigestUpdate(ctx, p->image.p + from, to - from) == 1 ? 0 : -1;
}

/* The headers without the checksum and the directory entry, which signing changes. */
static int hash_headers(EVP_MD_CTX *ctx, const struct pe *p)
{
    size_t at = p->checksum_at + 4;

    if (hash(ctx, p, 0, p->checksum_at)) {
        return -1;
    }
    if (p->security_dir_at) {
        if (hash(ctx, p, at, p->security_dir_at)) {
            return -1;
        }
        at = p->security_dir_at + 8;
    }
    return hash(ctx, p, at, p->headers_bytes);
}

int pe_authenticode(const struct pe *p, const EVP_MD *md, uint8_t *ret, struct err *e)
{
    struct pe_section s[PE_SECTIONS_MAX];
    size_t at = p->headers_bytes, sum = at, end = p->image.n - p->security_bytes;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, md, NULL) == 1 && hash_headers(ctx, p) == 0;

    memcpy(s, p->s, p->n * sizeof(*s));
    qsort(s, p->n, sizeof(*s), by_offset);
    for (size_t i = 0; ok && i < p->n; i++) {
        size_t to = (size_t)s[i].offset + s[i].raw_bytes;
        if (!s[i].raw_bytes) {
            continue;
        }
        if (s[i].offset < at || to > end) {
            EVP_MD_CTX_free(ctx);
            return bad(e, "pe.section", "sections that do not overlap", s[i].offset);
        }
        ok = hash(ctx, p, s[i].offset, to) == 0;
        at = to;
        sum += s[i].raw_bytes;
    }
    /* "SUM_OF_BYTES_HASHED": with gaps between sections this is not where the last one ends, but
     * it is what the specification says, and what firmware does. */
    ok = ok && hash(ctx, p, sum, end) == 0 && EVP_DigestFinal_ex(ctx, ret, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : err_set(e, ERR_INTERNAL, "cannot hash a PE image");
}

/* ---- adding sections ------------------------------------------------------------------------- */

static uint64_t align(uint64_t n, uint32_t to)
{
    return (n + to - 1) & ~(uint64_t)(to - 1);
}

static int pad(struct buf *b, size_t to, struct err *e)
{
    if (buf_reserve(b, to - b->n, e)) {
        return -1;
    }
    memset(b->p + b->n, 0, to - b->n);
    b->n = to;
    return 0;
}

static void put_header(uint8_t *h, const struct pe_new_section *s, uint64_t rva, uint64_t raw,
                       uint64_t offset)
{
    memset(h, 0, SECTION_HEADER);
    memcpy(h, s->name, strlen(s->name));
    le32_put(h + 8, (uint32_t)s->content.n);
    le32_put(h + 12, (uint32_t)rva);
    le32_put(h + 16, (uint32_t)raw);
    le32_put(h + 20, (uint32_t)offset);
    le32_put(h + 36, READ_ONLY_DATA);
}

static int check_new(const struct pe *p, const struct pe_new_section *v, size_t n, struct err *e)
{
    size_t end = p->table_at + (p->n + n) * SECTION_HEADER;
    int room = n <= PE_SECTIONS_MAX - p->n && end <= p->headers_bytes;

    if (p->security_bytes) {
        return err_refuse(e, ERR_UNSUPPORTED, "stub", "one that is not signed", "a signed one");
    }
    for (size_t i = 0; i < p->n; i++) {
        room = room && (!p->s[i].raw_bytes || p->s[i].offset >= end);
    }
    if (!room) {
        return err_refuse(e, ERR_UNSUPPORTED, "stub", "room in its headers", "%zu sections and %zu",
                          p->n, n);
    }
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(v[i].name);
        if (len < 1 || len > 8 || pe_find(p, v[i].name) || !v[i].content.n) {
            return err_refuse(e, ERR_INVALID, "section", "a new name, and content", "%.16s",
                              v[i].name);
        }
    }
    return 0;
}

/* Where the last section ends. What follows are debugger's symbols. */
static size_t end_of_sections(const struct pe *p)
{
    size_t end = p->headers_bytes;

    for (size_t i = 0; i < p->n; i++) {
        size_t to = (size_t)p->s[i].offset + p->s[i].raw_bytes;
        end = p->s[i].raw_bytes && to > end ? to : end;
    }
    return end;
}

int pe_add_sections(struct bytes stub, const struct pe_new_section *v, size_t n, struct buf *ret,
                    struct err *e)
{
    struct pe p;

    if (pe_parse(stub, &p, e) || check_new(&p, v, n, e) ||
        buf_add(ret, stub.p, end_of_sections(&p), e)) {
        return -1;
    }
    le32_put(ret->p + p.coff_at + 8, 0); /* PointerToSymbolTable, NumberOfSymbols */
    le32_put(ret->p + p.coff_at + 12, 0);
    uint64_t rva = align(p.image_bytes, p.section_align);
    for (size_t i = 0; i < n; i++) {
        uint64_t offset = align(ret->n, p.file_align);
        uint64_t raw = align(v[i].content.n, p.file_align);
        if (offset + raw > PE_IMAGE_MAX_BYTES || rva + raw > PE_IMAGE_MAX_BYTES) {
            return err_refuse(e, ERR_TOO_LARGE, "image", "at most 1 GiB", "more than that");
        }
        if (pad(ret, (size_t)offset, e) || buf_add(ret, v[i].content.p, v[i].content.n, e) ||
            pad(ret, (size_t)(offset + raw), e)) {
            return -1;
        }
        put_header(ret->p + p.table_at + (p.n + i) * SECTION_HEADER, &v[i], rva, raw, offset);
        rva = align(rva + v[i].content.n, p.section_align);
    }
    le16_put(ret->p + p.coff_at + 2, (uint16_t)(p.n + n));
    le32_put(ret->p + p.opt_at + 56, (uint32_t)rva);
    le32_put(ret->p + p.checksum_at, 0);
    return 0;
}
