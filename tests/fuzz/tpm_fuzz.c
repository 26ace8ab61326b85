/* TPM structures. The first byte chooses: 'p' TPMT_PUBLIC, 'q' TPMS_ATTEST, 's' TPMT_SIGNATURE, and
 * 'v' a signature by a key: u16 length and TPMT_PUBLIC, u16 length and TPMT_SIGNATURE, message. */
#include <stdint.h>

#include "appraise/tpm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void within(struct bytes part, struct bytes whole)
{
    if (part.n && (part.p < whole.p || part.p + part.n > whole.p + whole.n)) {
        abort();
    }
}

static void fuzz_public(struct bytes in)
{
    struct tpm_public pub;
    uint8_t name[TPM_NAME_MAX];
    struct err e = {0};
    size_t n;

    if (tpm_public_parse(in, &pub, &e)) {
        return;
    }
    within(pub.policy, in);
    within(pub.rsa_n, in);
    within(pub.ecc_x, in);
    within(pub.ecc_y, in);
    if (tpm_name(&pub, name, &n, &e) || n < 34 || n > sizeof(name)) {
        abort();
    }
}

static void fuzz_quote(struct bytes in)
{
    struct tpm_quote q;
    struct err e = {0};

    if (tpm_quote_parse(in, &q, &e)) {
        return;
    }
    within(q.extra, in);
    within(q.qualified_signer, in);
    within(q.pcr_digest, in);
    for (size_t i = 0; i < q.n_selections; i++) {
        if (q.selections[i].pcrs >> TPM_PCRS) {
            abort();
        }
    }
}

static void fuzz_signature(struct bytes in)
{
    struct tpm_signature s;
    struct err e = {0};

    if (!tpm_signature_parse(in, &s, &e)) {
        within(s.rsa, in);
        within(s.r, in);
        within(s.s, in);
    }
}

static void fuzz_verify(struct bytes in)
{
    struct tpm_reader r = {.p = in.p, .n = in.n};
    struct bytes pub_bytes = tpm_take2b(&r, 1024), sig_bytes = tpm_take2b(&r, 1024);
    struct tpm_public pub;
    struct tpm_signature sig;
    struct err e = {0};

    if (!r.bad && !tpm_public_parse(pub_bytes, &pub, &e) &&
        !tpm_signature_parse(sig_bytes, &sig, &e)) {
        tpm_signature_verify(&pub, &sig, BYTES(r.p, r.n), 0, &e);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes in = size ? BYTES(data + 1, size - 1) : BYTES("", 0);

    if (!size) {
        return 0;
    }
    switch (data[0]) {
    case 'p':
        fuzz_public(in);
        break;
    case 'q':
        fuzz_quote(in);
        break;
    case 's':
        fuzz_signature(in);
        break;
    case 'v':
        fuzz_verify(in);
        break;
    }
    return 0;
}
