#include "common/bus_parse.h"

#include "common/bus.h"
#include "common/jcs.h"

#define TOKEN_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
#define HEX_CHARS "0123456789abcdef"

int bus_parse_puback(struct bytes in, struct puback *ret, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    json_t *error;
    const char *text = "";
    int64_t code = 0, err_code = 0, seq = 0;

    if (json_parse("PubAck", in, PUBACK_MAX_BYTES, &j, e) < 0) {
        return -1;
    }
    struct puback a = {0};
    error = json_object_get(j, "error");
    if (error) {
        if (json_get_int(error, "PubAck.error", "code", 1, 999, &code, e) < 0) {
            return -1;
        }
        if (json_object_get(error, "err_code") &&
            json_get_int(error, "PubAck.error", "err_code", 0, 99999, &err_code, e) < 0) {
            return -1;
        }
        if (json_is_string(json_object_get(error, "description"))) {
            text = json_string_value(json_object_get(error, "description"));
        }
        a.code = (int)code;
        a.err_code = (int)err_code;
        snprintf(a.text, sizeof(a.text), "%s", text);
    } else {
        /* An object without stream and seq is some other reply and proves nothing. */
        if (json_get_str(j, "PubAck", "stream", &text, e) < 0 ||
            json_get_int(j, "PubAck", "seq", 1, INT64_MAX, &seq, e) < 0) {
            return -1;
        }
        a.duplicate = json_is_true(json_object_get(j, "duplicate"));
    }
    *ret = a;
    return 0;
}

int puback_is_transient(const struct puback *a)
{
    return a->code == 503 || a->code == 408 || a->code == 429;
}

int bus_parse_ack(const char *s, const char *stream, const char *durable, uint32_t *ret_deliveries)
{
    static const char prefix[] = "$JS.ACK.";
    uint32_t deliveries = 0;

    if (strncmp(s, prefix, sizeof(prefix) - 1) != 0) {
        return -1;
    }
    s += sizeof(prefix) - 1;
    size_t n = strlen(stream);
    if (strncmp(s, stream, n) != 0 || s[n] != '.') {
        return -1;
    }
    s += n + 1;
    n = strlen(durable);
    if (strncmp(s, durable, n) != 0 || s[n] != '.') {
        return -1;
    }
    s += n + 1;
    for (int field = 0; field < 5; field++) {
        char number[24];
        n = strspn(s, "0123456789");
        if (n == 0 || n >= sizeof(number) || s[n] != (field < 4 ? '.' : '\0')) {
            return -1;
        }
        if (field == 0) {
            memcpy(number, s, n);
            number[n] = '\0';
            if (bus_number(number, UINT32_MAX, &deliveries) < 0) {
                return -1;
            }
        }
        s += n + 1;
    }
    *ret_deliveries = deliveries;
    return 0;
}

int bus_traceparent_ok(const char *s)
{
    if (strlen(s) != TRACEPARENT_LEN || strncmp(s, "00-", 3) != 0) {
        return 0;
    }
    return strspn(s + 3, HEX_CHARS) == 32 && s[35] == '-' && strspn(s + 36, HEX_CHARS) == 16 &&
           s[52] == '-' && strspn(s + 53, HEX_CHARS) == 2 && strspn(s + 3, "0") < 32 &&
           strspn(s + 36, "0") < 16;
}

int bus_msg_id_ok(const char *s)
{
    size_t n = strlen(s);

    return n >= 1 && n <= BUS_MSG_ID_MAX && strspn(s, TOKEN_CHARS ".") == n;
}

int bus_inbox_ok(const char *s, unsigned who)
{
    static const char prefix[] = "_INBOX_";
    size_t n = strlen(s);

    if (n > 160 || strncmp(s, prefix, sizeof(prefix) - 1) != 0) {
        return 0;
    }
    const char *name = s + sizeof(prefix) - 1;
    for (int i = 0; i < SVC_N; i++) {
        size_t len = strlen(service_name((enum service)i));
        if (!(who & 1u << i) || strncmp(name, service_name((enum service)i), len) != 0 ||
            name[len] != '.') {
            continue;
        }
        const char *rest = name + len + 1;
        return rest[0] != '\0' && rest[0] != '.' && s[n - 1] != '.' && !strstr(rest, "..") &&
               rest[strspn(rest, TOKEN_CHARS ".")] == '\0';
    }
    return 0;
}

int bus_number(const char *s, uint32_t max, uint32_t *ret)
{
    uint64_t v = 0;
    size_t n = strspn(s, "0123456789");

    if (n == 0 || n > 10 || s[n] != '\0' || (s[0] == '0' && n > 1)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        v = v * 10 + (uint64_t)(s[i] - '0');
    }
    if (v > max) {
        return -1;
    }
    *ret = (uint32_t)v;
    return 0;
}

int bus_token_ok(const char *s)
{
    size_t n = strlen(s);

    return n >= 1 && n <= 64 && strspn(s, TOKEN_CHARS) == n;
}

void bus_ids(const char *msg_id, char ret_job[65], uint32_t *ret_attempt)
{
    size_t n = strcspn(msg_id, ".");
    char number[16];

    ret_job[0] = '\0';
    *ret_attempt = 0;
    if (msg_id[0] != 'j' || n > 64 || msg_id[n] != '.' || strspn(msg_id, TOKEN_CHARS) != n) {
        return;
    }
    memcpy(ret_job, msg_id, n);
    ret_job[n] = '\0';
    const char *second = msg_id + n + 1;
    n = strcspn(second, ".");
    if (n < sizeof(number) && second[n] == '.') {
        memcpy(number, second, n);
        number[n] = '\0';
        (void)bus_number(number, UINT32_MAX, ret_attempt);
    }
}
