/* Firmware images of outside bytes: the input is the end of an image (where the tables are) whose
 * beginning is zeros. Whatever is accepted is measured too. */
#include "guest/ovmf.h"
#include "guest/snp.h"
#include "guest/tdx.h"

#define IMAGE_BYTES (16u * OVMF_PAGE_BYTES)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
    if (!ok) {
        abort();
    }
}

static void check_sev(const struct ovmf_sev *sev)
{
    must(sev->n > 0 && sev->n <= OVMF_SECTIONS_MAX);
    for (size_t i = 0; i < sev->n; i++) {
        must(sev->s[i].size_bytes > 0 && sev->s[i].size_bytes <= OVMF_SECTION_MAX_BYTES);
    }
}

static void check_tdx(const struct ovmf_tdx *tdx, size_t image_bytes)
{
    must(tdx->n > 0 && tdx->n <= OVMF_SECTIONS_MAX);
    for (size_t i = 0; i < tdx->n; i++) {
        const struct ovmf_tdx_section *s = &tdx->s[i];
        must((uint64_t)s->data_offset + s->raw_bytes <= image_bytes &&
             s->raw_bytes <= s->size_bytes && s->size_bytes <= OVMF_SECTION_MAX_BYTES);
    }
}

static void read_image(struct bytes image)
{
    static const struct guest_snp_kernel kernel;
    struct guest_snp_params p = {.firmware = image, .vcpus = 2, .features = GUEST_SNP_FEATURES};
    uint8_t digest[GUEST_SNP_DIGEST_BYTES];
    struct ovmf o;
    struct ovmf_sev sev;
    struct ovmf_tdx tdx;
    struct err e;

    if (ovmf_parse(image, &o, &e)) {
        must(guest_snp_digest(&p, digest, &e) == -1);
        must(guest_tdx_mrtd(image, GUEST_TDX_PAGE_BY_PAGE, digest, &e) == -1);
        return;
    }
    if (ovmf_parse_sev(&o, &sev, &e) == 0) {
        check_sev(&sev);
    }
    if (ovmf_parse_tdx(&o, &tdx, &e) == 0) {
        check_tdx(&tdx, image.n);
    }
    (void)guest_snp_digest(&p, digest, &e);
    p.kernel = &kernel;
    (void)guest_snp_digest(&p, digest, &e);
    (void)guest_tdx_mrtd(image, GUEST_TDX_PAGE_BY_PAGE, digest, &e);
    (void)guest_tdx_mrtd(image, GUEST_TDX_AFTER_SECTION, digest, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_image(BYTES(data, size));
    if (size <= IMAGE_BYTES) {
        _cleanup_free_ uint8_t *image = xcalloc(1, IMAGE_BYTES);
        if (size > 0) {
            memcpy(image + IMAGE_BYTES - size, data, size);
        }
        read_image(BYTES(image, IMAGE_BYTES));
    }
    return 0;
}
