/* What an OVMF image says of itself for confidential guests: the table of GUIDed entries that ends
 * 32 bytes before the end of the image (where QEMU and the reset vector look for it), the AMD SEV
 * metadata and the TDVF metadata (Intel TDX Virtual Firmware Design Guide, ch. 11) it points to.
 *
 * The image is outside bytes: nothing of it is believed before its bounds are checked, and whatever
 * makes two readers see different things (an entry twice, sections that overlap) is an error.
 */
#ifndef COFFER_GUEST_OVMF_H
#define COFFER_GUEST_OVMF_H

#include "common/buf.h"

#define OVMF_PAGE_BYTES 4096u
#define OVMF_IMAGE_MAX_BYTES (16u << 20)
#define OVMF_SECTIONS_MAX 32u
/* Of one section, and of all sections of a table together. OVMF's are below 8 MiB. */
#define OVMF_SECTION_MAX_BYTES (64u << 20)

/* Entries of the table, as users of firmware builds know them. */
#define OVMF_SEV_METADATA_GUID "dc886566-984a-4798-a75e-5585a7bf67cc"
#define OVMF_TDX_METADATA_GUID "e47a6535-984a-4798-865e-4685a7bf8ec2"
#define OVMF_HASHES_GUID "7255371f-3a3b-4b04-927b-1da6efa8d454"

/* SEV metadata section types (edk2 OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm). */
#define OVMF_SEV_SEC_MEM 1u
#define OVMF_SEV_SECRETS 2u
#define OVMF_SEV_CPUID 3u
#define OVMF_SEV_SVSM_CAA 4u
#define OVMF_SEV_KERNEL_HASHES 0x10u

struct ovmf_sev_section {
    uint32_t gpa; /* page aligned */
    uint32_t size_bytes;
    uint32_t type;
};

/* TDVF section types and attributes (design guide, tables 11-2 and 11-3). */
#define OVMF_TDX_BFV 0u
#define OVMF_TDX_CFV 1u
#define OVMF_TDX_TD_HOB 2u
#define OVMF_TDX_TEMP_MEM 3u
#define OVMF_TDX_MR_EXTEND 1u
#define OVMF_TDX_PAGE_AUG 2u

struct ovmf_tdx_section {
    uint32_t data_offset; /* in the image */
    uint32_t raw_bytes;   /* of the image; 0: memory without content */
    uint64_t gpa;         /* page aligned */
    uint64_t size_bytes;  /* in memory, whole pages, at least raw_bytes */
    uint32_t type;
    uint32_t attributes;
};

struct ovmf {
    struct bytes image; /* borrowed from the caller */
    uint64_t gpa;       /* where it is mapped: it ends at 4 GiB */

    /* Entries that are not in the table, and areas of size 0, are left 0. */
    uint32_t es_reset_eip; /* SEV-ES reset block: where application processors start */
    uint32_t secret_gpa, secret_bytes;
    uint32_t hashes_gpa, hashes_bytes; /* where firmware looks for QEMU's kernel hashes */

    /* The entries that point to metadata; NULL: not in the table. */
    const uint8_t *sev_entry, *tdx_entry;
};

struct ovmf_sev {
    size_t n;
    struct ovmf_sev_section s[OVMF_SECTIONS_MAX];
};

struct ovmf_tdx {
    size_t n;
    struct ovmf_tdx_section s[OVMF_SECTIONS_MAX];
};

/* Reads the table of an image of whole pages. `ret->image` borrows from it. ERR_INVALID
 * (malformed), ERR_TOO_LARGE (over a cap), ERR_UNSUPPORTED (no such table: not an OVMF, or one
 * older than confidential guests). */
int ovmf_parse(struct bytes image, struct ovmf *ret, struct err *e);

/* Reads the metadata of one technology; that of the other one has no say in it. Sections are in the
 * order of the table, which is the order of measurement, and do not overlap. Types are not judged.
 * ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED (the firmware has none, or of an unknown version). */
int ovmf_parse_sev(const struct ovmf *o, struct ovmf_sev *ret, struct err *e);
int ovmf_parse_tdx(const struct ovmf *o, struct ovmf_tdx *ret, struct err *e);

/* The first section of that type, or NULL. */
const struct ovmf_sev_section *ovmf_sev_find(const struct ovmf_sev *sev, uint32_t type);

#endif
