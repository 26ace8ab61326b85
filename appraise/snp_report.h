/* AMD SEV-SNP attestation reports (SEV Secure Nested Paging Firmware ABI Specification, publication
 * 56860, ATTESTATION_REPORT), versions 2 to 5: read from outside bytes. What is parsed is a copy;
 * nothing of it is believed until snp_verify has been through it. */
#ifndef COFFER_SNP_REPORT_H
#define COFFER_SNP_REPORT_H

#include "common/buf.h"

#define SNP_REPORT_BYTES 1184u
#define SNP_SIGNED_BYTES 0x2a0u /* what the signature is over */
#define SNP_CHIP_ID_BYTES 64u

enum snp_product { SNP_UNKNOWN, SNP_MILAN, SNP_GENOA, SNP_TURIN, SNP_PRODUCT_N };
/* "Milan", "Genoa", "Turin", as AMD's key service has them; "unknown". */
const char *snp_product_name(enum snp_product p);

/* TCB_VERSION: the same 8 bytes mean other things from Turin on. */
struct snp_tcb {
    uint8_t fmc; /* Turin; 0 before */
    uint8_t bootloader, tee, snp, microcode;
    uint8_t spl[4]; /* bytes with no meaning yet: SPL4 to SPL7, three of them on Turin */
};
struct snp_tcb snp_tcb_of(enum snp_product p, const uint8_t raw[8]);
/* Is each component of `a` at most that of `b`? */
int snp_tcb_le(const struct snp_tcb *a, const struct snp_tcb *b);
int snp_tcb_equal(const struct snp_tcb *a, const struct snp_tcb *b);
/* "bootloader 4, tee 0, snp 24, microcode 219", with the FMC on Turin. */
void snp_tcb_text(enum snp_product p, const struct snp_tcb *t, char ret[96]);

/* POLICY */
#define SNP_POLICY_SMT (1ull << 16)
#define SNP_POLICY_RESERVED_ONE (1ull << 17)
#define SNP_POLICY_MIGRATE_MA (1ull << 18)
#define SNP_POLICY_DEBUG (1ull << 19)
#define SNP_POLICY_SINGLE_SOCKET (1ull << 20)
#define SNP_POLICY_CXL (1ull << 21)
#define SNP_POLICY_XTS (1ull << 22)
#define SNP_POLICY_RAPL_DIS (1ull << 23)
#define SNP_POLICY_CIPHERTEXT_HIDING (1ull << 24)
#define SNP_POLICY_PAGE_SWAP_DISABLE (1ull << 25)
/* PLATFORM_INFO */
#define SNP_PLATFORM_SMT (1ull << 0)
#define SNP_PLATFORM_TSME (1ull << 1)
#define SNP_PLATFORM_ECC (1ull << 2)
#define SNP_PLATFORM_RAPL_DIS (1ull << 3)
#define SNP_PLATFORM_CIPHERTEXT_HIDING (1ull << 4)
#define SNP_PLATFORM_ALIAS_CHECK (1ull << 5)
#define SNP_PLATFORM_TIO (1ull << 7)

enum snp_key { SNP_KEY_VCEK = 0, SNP_KEY_VLEK = 1, SNP_KEY_NONE = 7 };

struct snp_firmware {
    uint8_t major, minor, build;
};

struct snp_report {
    uint32_t version, guest_svn, vmpl;
    uint64_t policy, platform_info;
    uint8_t family_id[16], image_id[16];
    uint8_t report_data[64], measurement[48], host_data[32];
    uint8_t id_key_digest[48], author_key_digest[48];
    uint8_t report_id[32], report_id_ma[32], chip_id[SNP_CHIP_ID_BYTES];
    int author_key_enabled, mask_chip_key;
    enum snp_key key;
    /* By CPUID; SNP_UNKNOWN in version 2, which does not have it. */
    enum snp_product product;
    uint8_t cpuid_family, cpuid_model, cpuid_stepping;
    uint8_t current_tcb[8], reported_tcb[8], committed_tcb[8], launch_tcb[8];
    struct snp_firmware current, committed;
    uint64_t launch_mit_vector, current_mit_vector; /* version 5 */
    uint8_t r_s[96];                                /* big-endian r || s */
    uint8_t raw[SNP_REPORT_BYTES];
};

/* Exactly SNP_REPORT_BYTES. Checks what needs no key: version, signature algorithm, which bits and
 * bytes must be zero or one in that version (unknown bits of POLICY and PLATFORM_INFO are let
 * through: firmware gains some every year), VMPL 0 to 3 (a report that the host asked for has
 * another), that a key signed it, that R and S fit 384 bits, a CPU that is known. ERR_INVALID,
 * ERR_UNSUPPORTED, ERR_BAD_SIGNATURE for R and S; clauses "evidence.report...". */
int snp_report_parse(struct bytes in, struct snp_report *ret, struct err *e);
/* By CPUID of versions 3 and later. */
enum snp_product snp_product_of(uint8_t family, uint8_t model);

#endif
