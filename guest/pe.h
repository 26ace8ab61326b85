/* PE32+ images: reading their sections, adding sections to one (which makes a unified kernel image
 * of systemd's EFI stub, UAPI.5), and the Authenticode digest that firmware measures of them
 * (Microsoft, "Windows Authenticode Portable Executable Signature Format"; TCG PFP 1.05, 3.3.4).
 *
 * Everything in an image is outside bytes; nothing of it is believed before its bounds are checked.
 */
#ifndef COFFER_GUEST_PE_H
#define COFFER_GUEST_PE_H

#include <openssl/evp.h>

#include "common/buf.h"

#define PE_SECTIONS_MAX 96u
#define PE_IMAGE_MAX_BYTES (1u << 30)

struct pe_section {
    char name[9];
    uint32_t virtual_bytes, rva; /* in memory */
    uint32_t raw_bytes, offset;  /* in the file; within it */
};

struct pe {
    struct bytes image; /* borrowed */
    size_t n;
    struct pe_section s[PE_SECTIONS_MAX];
    uint32_t section_align, file_align, image_bytes, headers_bytes;
    size_t coff_at, opt_at, table_at;     /* offsets of headers */
    size_t checksum_at, security_dir_at;  /* security_dir_at: 0 when there is no such directory */
    uint32_t security_at, security_bytes; /* the attribute certificates, at the end of the file */
};

/* ERR_INVALID, ERR_UNSUPPORTED (PE32, another machine than x86-64), ERR_TOO_LARGE. */
int pe_parse(struct bytes image, struct pe *ret, struct err *e);
/* NULL when there is none of that name, the first one otherwise. */
const struct pe_section *pe_find(const struct pe *p, const char *name);
/* What is in memory of it: as many bytes as the section is long, at most what the file has. */
struct bytes pe_content(const struct pe *p, const struct pe_section *s);

/* Writes EVP_MD_get_size(md) bytes. ERR_INVALID (sections that overlap), ERR_INTERNAL. */
int pe_authenticode(const struct pe *p, const EVP_MD *md, uint8_t *ret, struct err *e);

struct pe_new_section {
    const char *name; /* 1 to 8 characters */
    struct bytes content;
};
/* `stub` with read-only data sections behind its own, in that order. The same input makes the same
 * bytes. ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED (no room in the headers, or a signed stub). */
int pe_add_sections(struct bytes stub, const struct pe_new_section *v, size_t n, struct buf *ret,
                    struct err *e);

#endif
