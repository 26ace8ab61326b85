/* What QEMU says on its monitor, once a guest may have taken it over. */
#include "svc-launcher/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qmp_msg m = {0};
    struct err e = {0};

    if (qmp_parse(BYTES(data, size), &m, &e) < 0) {
        if (!e.msg[0]) {
            abort();
        }
        return 0;
    }
    for (const char *p = m.text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            abort();
        }
    }
    return 0;
}
