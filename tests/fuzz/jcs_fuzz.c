/* Canonical JSON: what parses and encodes must parse again and encode to the same bytes. */
#include "common/jcs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_json_ json_t *j = NULL, *again = NULL;
    _cleanup_free_ char *first = NULL, *second = NULL;
    struct err e;

    if (json_parse("input", BYTES(data, size), 65536, &j, &e)) {
        return 0;
    }
    if (jcs_encode(j, &first, &e)) {
        if (e.code != ERR_INVALID) {
            abort();
        }
        return 0;
    }
    /* Short escapes may grow, but no byte becomes more than six. */
    if (json_parse("output", BYTES_STR(first), size * 6 + 16, &again, &e) ||
        jcs_encode(again, &second, &e) || !streq(first, second) || !json_equal(j, again)) {
        abort();
    }
    return 0;
}
