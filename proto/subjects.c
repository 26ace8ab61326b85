#include "proto/subjects.h"

#include <stdio.h>
#include <string.h>

#define CLIENT (1u << SVC_CLIENT)
#define SCHEDULER (1u << SVC_SCHEDULER)
#define LAUNCHER (1u << SVC_LAUNCHER)
#define WORKER (1u << SVC_WORKER)
#define VERIFIER (1u << SVC_VERIFIER)
#define KBS (1u << SVC_KBS)
#define GATE (1u << SVC_GATE)

const struct subject_info subjects[SUBJ_N] = {
#define SUBJECT(id_, name_, key_, style_, from_, to_, msg_, max_, stream_, what_)                  \
    [SUBJ_##id_] = {.id = #id_,                                                                    \
                    .name = name_,                                                                 \
                    .key = key_,                                                                   \
                    .style = STYLE_##style_,                                                       \
                    .from = from_,                                                                 \
                    .to = to_,                                                                     \
                    .message = &coffer__v1__##msg_##__descriptor,                                  \
                    .max_bytes = max_,                                                             \
                    .stream = STREAM_##stream_,                                                    \
                    .what = what_},
#include "proto/subjects.def"
#undef SUBJECT
};

const struct stream_info streams[STREAM_N] = {
#define STREAM(id_, name_, retention_, age_, bytes_, dup_)                                         \
    [STREAM_##id_] = {.name = name_,                                                               \
                      .retention = RETAIN_##retention_,                                            \
                      .max_age_s = age_,                                                           \
                      .max_bytes = bytes_,                                                         \
                      .duplicate_window_s = dup_},
#define CONSUMER(svc, stream, durable, per_host)
#include "proto/streams.def"
#undef STREAM
#undef CONSUMER
};

const struct consumer_info consumers[] = {
#define STREAM(id, name, retention, age, bytes, dup)
#define CONSUMER(svc_, stream_, durable_, per_host_)                                               \
    {.service = SVC_##svc_, .stream = STREAM_##stream_, .durable = durable_, .per_host = per_host_},
#include "proto/streams.def"
#undef STREAM
#undef CONSUMER
};
const size_t n_consumers = sizeof(consumers) / sizeof(consumers[0]);

static const char *const service_names[SVC_N] = {
    [SVC_CLIENT] = "client", [SVC_SCHEDULER] = "scheduler", [SVC_LAUNCHER] = "launcher",
    [SVC_WORKER] = "worker", [SVC_VERIFIER] = "verifier",   [SVC_KBS] = "kbs",
    [SVC_GATE] = "gate",
};

const char *service_name(enum service s)
{
    return (unsigned)s < SVC_N ? service_names[s] : "unknown";
}

int service_from_name(const char *name)
{
    for (int i = 0; i < SVC_N; i++) {
        if (strcmp(service_names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static int key_valid(const char *key)
{
    size_t n = strlen(key);

    return n >= 1 && n <= 64 &&
           strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

int subject_format(enum subject s, const char *key, char *out, size_t size)
{
    if ((unsigned)s >= SUBJ_N) {
        return -1;
    }
    const struct subject_info *i = &subjects[s];
    int keyed = i->key[0] != '\0';
    int given = key && key[0] != '\0';
    if (keyed != given || (given && !key_valid(key))) {
        return -1;
    }
    int n = keyed ? snprintf(out, size, "%s.%s", i->name, key) : snprintf(out, size, "%s", i->name);
    return n > 0 && (size_t)n < size ? 0 : -1;
}

int subject_parse(const char *name, enum subject *ret, const char **ret_key)
{
    for (int i = 0; i < SUBJ_N; i++) {
        size_t n = strlen(subjects[i].name);
        if (strncmp(name, subjects[i].name, n) != 0) {
            continue;
        }
        if (subjects[i].key[0] == '\0') {
            if (name[n] == '\0') {
                *ret = (enum subject)i;
                *ret_key = name + n;
                return 0;
            }
        } else if (name[n] == '.' && key_valid(name + n + 1)) {
            *ret = (enum subject)i;
            *ret_key = name + n + 1;
            return 0;
        }
    }
    return -1;
}
