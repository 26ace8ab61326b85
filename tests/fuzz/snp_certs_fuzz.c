/* AMD's certificates and their table: extensions, chains, a CRL. */
#include <stdint.h>

#include "appraise/snp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_vek(struct certs *store, struct cert *c, const struct snp_aids *aids)
{
    const struct crl *crl;
    struct snp_vek v;
    struct err e = {0};

    if (snp_vek_parse(c, &v, &e)) {
        if (!e.code || !*e.clause) {
            abort();
        }
        return;
    }
    if (v.hwid_bytes > SNP_CHIP_ID_BYTES || v.product == SNP_UNKNOWN ||
        memchr(v.csp, '\0', sizeof(v.csp)) == NULL) {
        abort();
    }
    e = (struct err){0};
    if (snp_vek_verify(store, &v, aids, &snp_amd_roots, 1767225600000, &crl, &e) && !e.code) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(certs_freep) struct certs *store = certs_new(32);
    _cleanup_(snp_evidence_done) struct snp_evidence ev = {.store = store};

    snp_take_certs(&ev, BYTES(data, size));
    if (ev.n_certs > SNP_CERTS_MAX) {
        abort();
    }
    const struct snp_aids aids = {
        .certs = ev.certs, .n_certs = ev.n_certs, .crls = &ev.crl, .n_crls = ev.crl != NULL};
    for (size_t i = 0; i < ev.n_certs; i++) {
        fuzz_vek(store, ev.certs[i], &aids);
    }
    return 0;
}
