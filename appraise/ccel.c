#include "appraise/ccel.h"

#include <openssl/evp.h>

#define RTMR_BYTES 48u
#define RTMRS 4u

static int has_events(const struct eventlog *l, uint32_t index)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i].pcr == index) {
            return 1;
        }
    }
    return 0;
}

static int compare(const struct eventlog *l, const uint8_t *rtmrs, struct err *e)
{
    for (uint32_t i = 0; i < RTMRS; i++) {
        const uint8_t *want = rtmrs + i * RTMR_BYTES, *got = l->pcr[BANK_SHA384][i + 1];
        if ((i < 3 || has_events(l, i + 1)) && memcmp(want, got, RTMR_BYTES) != 0) {
            _cleanup_free_ char *expected = hex_encode(want, RTMR_BYTES);
            _cleanup_free_ char *actual = hex_encode(got, RTMR_BYTES);
            char text[160];
            snprintf(text, sizeof(text), "a replay to RTMR%u = %s", i, expected);
            return err_refuse(e, ERR_DENIED, "evidence.cc_eventlog", text, "%s", actual);
        }
    }
    return 0;
}

int ccel_check(struct bytes log, const uint8_t *rtmrs, struct eventlog *ret, struct err *e)
{
    _cleanup_(eventlog_done) struct eventlog l = {0};
    struct err why = {0};

    if (eventlog_parse(log, &l, &why)) {
        return err_refuse(e, why.code, "evidence.cc_eventlog", "an event log", "%.240s", why.msg);
    }
    if (!l.has[BANK_SHA384]) {
        return err_refuse(e, ERR_INVALID, "evidence.cc_eventlog", "SHA-384 digests", "others");
    }
    if (compare(&l, rtmrs, e)) {
        return -1;
    }
    *ret = l;
    l = (struct eventlog){0};
    return 0;
}

/* ---- claims ---------------------------------------------------------------------------------- */

/* TCG PC Client Platform Firmware Profile §10.4.1. */
static const char *type_name(uint32_t type)
{
    static const struct {
        uint32_t type;
        const char *name;
    } names[] = {
        {0x0, "EV_PREBOOT_CERT"},
        {0x1, "EV_POST_CODE"},
        {0x4, "EV_SEPARATOR"},
        {0x5, "EV_ACTION"},
        {0x6, "EV_EVENT_TAG"},
        {0x7, "EV_S_CRTM_CONTENTS"},
        {0x8, "EV_S_CRTM_VERSION"},
        {0x9, "EV_CPU_MICROCODE"},
        {0xa, "EV_PLATFORM_CONFIG_FLAGS"},
        {0xb, "EV_TABLE_OF_DEVICES"},
        {0xc, "EV_COMPACT_HASH"},
        {0xd, "EV_IPL"},
        {0xe, "EV_IPL_PARTITION_DATA"},
        {0x80000001, "EV_EFI_VARIABLE_DRIVER_CONFIG"},
        {0x80000002, "EV_EFI_VARIABLE_BOOT"},
        {0x80000003, "EV_EFI_BOOT_SERVICES_APPLICATION"},
        {0x80000004, "EV_EFI_BOOT_SERVICES_DRIVER"},
        {0x80000005, "EV_EFI_RUNTIME_SERVICES_DRIVER"},
        {0x80000006, "EV_EFI_GPT_EVENT"},
        {0x80000007, "EV_EFI_ACTION"},
        {0x80000008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"},
        {0x80000009, "EV_EFI_HANDOFF_TABLES"},
        {0x8000000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"},
        {0x8000000b, "EV_EFI_HANDOFF_TABLES2"},
        {0x8000000c, "EV_EFI_VARIABLE_BOOT2"},
        {0x80000010, "EV_EFI_HCRTM_EVENT"},
        {0x800000e0, "EV_EFI_VARIABLE_AUTHORITY"},
        {0x800000e1, "EV_EFI_SPDM_FIRMWARE_BLOB"},
        {0x800000e2, "EV_EFI_SPDM_FIRMWARE_CONFIG"},
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (names[i].type == type) {
            return names[i].name;
        }
    }
    return "EV_UNKNOWN";
}

static int digest_is_of_data(const struct eventlog_event *ev)
{
    uint8_t digest[RTMR_BYTES];

    return EVP_Digest(ev->data.p, ev->data.n, digest, NULL, EVP_sha384(), NULL) == 1 &&
           memcmp(digest, ev->digest[BANK_SHA384], RTMR_BYTES) == 0;
}

json_t *ccel_claims(const struct eventlog *l)
{
    json_t *list = json_array();

    for (size_t i = 0; i < l->n && i < CCEL_CLAIMS_MAX; i++) {
        const struct eventlog_event *ev = &l->v[i];
        _cleanup_free_ char *digest = hex_encode(ev->digest[BANK_SHA384], RTMR_BYTES);
        json_array_append_new(list, json_pack("{s:I,s:s,s:[{s:s,s:s}],s:b}", "index",
                                              (json_int_t)ev->pcr, "type_name", type_name(ev->type),
                                              "digests", "alg", "SHA-384", "digest", digest,
                                              "digest_matches_event", digest_is_of_data(ev)));
    }
    return list;
}
