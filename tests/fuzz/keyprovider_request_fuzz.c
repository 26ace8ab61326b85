/* A request of the key provider protocol, for a provider that knows every key. */
#include "common/keyprovider.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int find(void *arg, const char *kid, const struct secret **ret, struct err *e)
{
    if (!*kid) {
        return err_set(e, ERR_NOT_FOUND, "no id");
    }
    *ret = arg;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_secret_ struct secret *kek = secret_new(KEYWRAP_KEK_BYTES);
    _cleanup_buf_ struct buf answer = BUF_INIT(65536);
    struct err e;

    if (keyprovider_answer(BYTES(data, size), find, kek, &answer, &e) == 0 && answer.n == 0) {
        abort();
    }
    return 0;
}
