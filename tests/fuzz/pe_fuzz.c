/* PE images of outside bytes: a UKI that was handed over, a boot stub. Whatever is read is
 * measured, and sections are added to it, which must give an image that reads the same. */
#include "guest/pe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
    if (!ok) {
        abort();
    }
}

static void extended(struct bytes image, const struct pe *was)
{
    const struct pe_new_section v[] = {{".new1", BYTES_STR("1")}, {".new2", image}};
    _cleanup_buf_ struct buf out = BUF_INIT(1u << 22);
    struct pe p;
    struct err e;

    if (pe_add_sections(image, v, ARRAY_LEN(v), &out, &e)) {
        return;
    }
    must(pe_parse(buf_bytes(&out), &p, &e) == 0);
    must(p.n == was->n + 2);
    struct bytes content = pe_content(&p, &p.s[was->n + 1]);
    must(content.n == image.n && memcmp(content.p, image.p, image.n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t digest[48];
    struct pe p;
    struct err e;

    if (size > 65536 || pe_parse(BYTES(data, size), &p, &e)) {
        return 0;
    }
    must(p.n <= PE_SECTIONS_MAX);
    for (size_t i = 0; i < p.n; i++) {
        struct bytes c = pe_content(&p, &p.s[i]);
        must(c.n == 0 || (c.p >= data && c.n <= size && c.p <= data + (size - c.n)));
        must(pe_find(&p, p.s[i].name) != NULL);
    }
    (void)pe_authenticode(&p, EVP_sha384(), digest, &e);
    extended(BYTES(data, size), &p);
    return 0;
}
