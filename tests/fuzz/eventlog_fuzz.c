/* The TCG event log. */
#include <stdint.h>

#include "appraise/eventlog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(eventlog_done) struct eventlog l = {0};
    struct err e = {0};

    if (eventlog_parse(BYTES(data, size), &l, &e)) {
        if (!e.msg[0] || l.v) {
            abort();
        }
        return 0;
    }
    for (size_t i = 0; i < l.n; i++) {
        const struct eventlog_event *ev = &l.v[i];
        if (ev->pcr >= TPM_PCRS || ev->type == EV_NO_ACTION ||
            (ev->data.n && (ev->data.p < data || ev->data.p + ev->data.n > data + size))) {
            abort();
        }
        for (int b = 0; b < BANK_N; b++) {
            if (!ev->digest[b] != !l.has[b] ||
                (ev->digest[b] && (ev->digest[b] < data || ev->digest[b] + 32 > data + size))) {
                abort();
            }
        }
    }
    return 0;
}
