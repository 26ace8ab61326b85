/* The subjects and streams tables as C: generated from subjects.def and streams.def. */
#ifndef COFFER_SUBJECTS_H
#define COFFER_SUBJECTS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/coffer.pb-c.h"

enum service {
    SVC_CLIENT,
    SVC_SCHEDULER,
    SVC_LAUNCHER,
    SVC_WORKER,
    SVC_VERIFIER,
    SVC_KBS,
    SVC_GATE,
    SVC_N
};

enum subject {
#define SUBJECT(id, name, key, style, from, to, msg, max, stream, what) SUBJ_##id,
#include "proto/subjects.def"
#undef SUBJECT
    SUBJ_N
};

enum stream {
    STREAM_NONE = -1,
#define STREAM(id, name, retention, age, bytes, dup) STREAM_##id,
#define CONSUMER(svc, stream, durable, per_host)
#include "proto/streams.def"
#undef STREAM
#undef CONSUMER
    STREAM_N
};

enum subject_style { STYLE_REQUEST, STYLE_DURABLE, STYLE_FACT };
enum stream_retention { RETAIN_WORK, RETAIN_FACTS };

struct subject_info {
    const char *id;   /* "JOB_SCHEDULE" */
    const char *name; /* without key */
    const char *key;  /* "" or what the key is */
    enum subject_style style;
    unsigned from, to; /* bit 1 << enum service */
    const ProtobufCMessageDescriptor *message;
    size_t max_bytes;
    enum stream stream;
    const char *what;
};

struct stream_info {
    const char *name;
    enum stream_retention retention;
    int64_t max_age_s; /* 0: unbounded */
    int64_t max_bytes;
    int64_t duplicate_window_s;
};

struct consumer_info {
    enum service service;
    enum stream stream;
    const char *durable;
    int per_host;
};

extern const struct subject_info subjects[SUBJ_N];
extern const struct stream_info streams[STREAM_N];
extern const struct consumer_info consumers[];
extern const size_t n_consumers;

/* "client", "scheduler", ... and back (-1 unknown). */
const char *service_name(enum service s);
int service_from_name(const char *name);

/* Writes "name" or "name.key"; a key must be one NATS token of [A-Za-z0-9_-], at most 64 long.
 * Returns 0, or -1 when the key is not, is missing, is given to a subject without one, or the
 * result does not fit. */
int subject_format(enum subject s, const char *key, char *out, size_t size);
/* Finds which subject a concrete name is; *ret_key points into `name` or at "". -1 when none. */
int subject_parse(const char *name, enum subject *ret, const char **ret_key);

#endif
