/* Compact JWS with its key in the header: as a consumer's job spec arrives. */
#include "common/jose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *text = xstrndup((const char *)data, size);
    _cleanup_buf_ struct buf payload = BUF_INIT(65536);
    _cleanup_buf_ struct buf again = BUF_INIT(65536);
    _cleanup_jkey_ struct jkey *signer = NULL;
    struct err e;

    if (jws_verify_embedded(text, "coffer-spec+jws", 65536, &payload, &signer, &e)) {
        if (signer || payload.n) {
            abort();
        }
        return 0;
    }
    if (jws_verify(text, signer, "coffer-spec+jws", 65536, &again, &e) || again.n != payload.n) {
        abort();
    }
    return 0;
}
