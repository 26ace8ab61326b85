/* A workload's output, as the gate inspects it. */
#include "svc-gate/gate_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = {"text/plain", "text/csv", "application/json"};
    struct bytes in = BYTES(data, size);
    struct err e = {0};
    json_t *j = NULL;

    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        int rc = inspect_type("x", types[i], in, &e);
        if (rc && e.code != ERR_DENIED) {
            abort();
        }
        /* What another parser takes, within what both bound, ours takes too. */
        if (rc && i == 2 && json_parse("x", in, size, &j, NULL) == 0) {
            abort();
        }
    }
    (void)inspect_entropy(in);
    return 0;
}
