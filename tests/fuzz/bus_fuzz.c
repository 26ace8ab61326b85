/* What the bus parses of what the server and others send: acknowledgements, subjects, headers,
 * seeds. */
#include "common/bus_parse.h"
#include "common/nkey.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct puback a;
    struct secret *seed = NULL;
    enum subject subject;
    const char *key;
    char job[65];
    uint32_t number;

    if (n > 8192) {
        return 0;
    }
    _cleanup_free_ char *s = xstrndup((const char *)data, n);
    if (bus_parse_puback(BYTES(data, n), &a, NULL) == 0) {
        (void)puback_is_transient(&a);
    }
    (void)bus_parse_ack(s, "COFFER_SCHED", "scheduler", &number);
    (void)bus_traceparent_ok(s);
    (void)bus_msg_id_ok(s);
    (void)bus_inbox_ok(s, ~0u);
    (void)bus_number(s, UINT32_MAX, &number);
    bus_ids(s, job, &number);
    if (subject_parse(s, &subject, &key) == 0) {
        char again[300];
        if (subject_format(subject, key, again, sizeof(again)) < 0 || !streq(again, s)) {
            abort();
        }
    }
    if (nkey_parse_seed(BYTES(data, n), &seed, NULL) == 0) {
        char pub[NKEY_PUBLIC_CHARS + 1];
        if (nkey_public(seed, pub, NULL) < 0) {
            abort();
        }
        secret_free(seed);
    }
    return 0;
}
