/* The credential that a worker gets with its challenge. */
#include <stdint.h>

#include "svc-worker/attest_tpm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    TPM2B_ID_OBJECT id = {0};
    TPM2B_ENCRYPTED_SECRET secret = {0};
    struct err e = {0};

    if (vtpm_read_credential(BYTES(data, size), &id, &secret, &e)) {
        if (strcmp(e.clause, "challenge.credential") != 0) {
            abort();
        }
        return 0;
    }
    if (id.size > sizeof(id.credential) || secret.size > sizeof(secret.secret) ||
        (size_t)id.size + secret.size + 4 != size) {
        abort();
    }
    return 0;
}
