#include <time.h>

#include "cli/client.h"

/* Text: cleaning what came over the bus, times and sizes for people. */

#define CLEAN_DEPTH_MAX 16

static void clean_field(const ProtobufCFieldDescriptor *f, void *value, int depth);

static void clean_message(ProtobufCMessage *m, int depth)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;

    if (depth > CLEAN_DEPTH_MAX) {
        return;
    }
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        char *at = (char *)m + f->offset;
        const void *q = (const char *)m + f->quantifier_offset;
        if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE) {
            continue;
        }
        if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && *(const uint32_t *)q != f->id) {
            continue;
        }
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            clean_field(f, *(void **)(void *)at, depth);
            continue;
        }
        void **items = *(void ***)(void *)at;
        for (size_t j = 0; j < *(const size_t *)q; j++) {
            clean_field(f, items[j], depth);
        }
    }
}

static void clean_field(const ProtobufCFieldDescriptor *f, void *value, int depth)
{
    /* An absent string is the descriptor's constant, which may not be written to. */
    if (!value || value == f->default_value || value == (const void *)protobuf_c_empty_string) {
        return;
    }
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        cli_clean(value, strlen(value), 0);
    } else {
        clean_message(value, depth + 1);
    }
}

void client_clean(ProtobufCMessage *m)
{
    clean_message(m, 0);
}

void client_clean_json(json_t *j)
{
    const char *key;
    json_t *v;
    size_t i;

    switch (json_typeof(j)) {
    case JSON_STRING: {
        size_t n = json_string_length(j);
        _cleanup_free_ char *s = xmemdup(json_string_value(j), n + 1);
        cli_clean(s, n, 0);
        json_string_setn(j, s, n);
        break;
    }
    case JSON_ARRAY:
        json_array_foreach(j, i, v)
        {
            client_clean_json(v);
        }
        break;
    case JSON_OBJECT:
        json_object_foreach(j, key, v)
        {
            client_clean_json(v);
        }
        break;
    case JSON_INTEGER:
    case JSON_REAL:
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL:
        break;
    }
}

int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

const char *time_text(int64_t ms, char out[32])
{
    time_t t = (time_t)(ms / 1000);
    struct tm tm;

    if (ms <= 0 || !localtime_r(&t, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm)) {
        snprintf(out, 32, "-");
    }
    return out;
}

const char *bytes_text(uint64_t n, char out[32])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double v = (double)n / 1024;
    size_t u = 0;

    if (n < 1024) {
        snprintf(out, 32, "%u B", (unsigned)n);
        return out;
    }
    while (v >= 1024 && u + 1 < ARRAY_LEN(units)) {
        v /= 1024;
        u++;
    }
    snprintf(out, 32, "%.1f %s", v, units[u]);
    return out;
}

const char *duration_text(int64_t ms, char out[32])
{
    int64_t s = ms / 1000;

    if (ms < 0) {
        snprintf(out, 32, "-");
    } else if (s < 60) {
        snprintf(out, 32, "%lld.%llds", (long long)s, (long long)(ms % 1000 / 100));
    } else if (s < 3600) {
        snprintf(out, 32, "%lldm %02llds", (long long)(s / 60), (long long)(s % 60));
    } else if (s < 86400) {
        snprintf(out, 32, "%lldh %02lldm", (long long)(s / 3600), (long long)(s / 60 % 60));
    } else {
        snprintf(out, 32, "%lldd %02lldh", (long long)(s / 86400), (long long)(s / 3600 % 24));
    }
    return out;
}
