/* Structured log lines on stderr: one line each, text for people or JSON for machines.
 *
 *   23:59:59.123 svc-kbs  INFO  key.released job=… attempt=1 "2 keys to cnf …"
 *
 * Only mains, shells and handlers' callers log; library code returns errors. Never log a secret or
 * a byte of a dataset, an image or an output.
 */
#ifndef COFFER_LOG_H
#define COFFER_LOG_H

#include <stdint.h>

#include "common/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_opts {
    const char *service; /* static */
    enum log_level level;
    int json;
};

void log_init(const struct log_opts *o);
/* "debug" | "info" | "warn" | "error"; -1 otherwise. */
int log_level_parse(const char *s, enum log_level *ret);

/* The ids every following line carries until changed; NULL/0 clears. Strings are copied. */
void log_context(const char *job, uint32_t attempt);

/* `event` is a short dotted name ("bus.connected"). Control bytes in the text are escaped. */
void log_at(enum log_level l, const char *event, const char *fmt, ...) _printf_(3, 4);
void log_err(enum log_level l, const char *event, const struct err *e);

#define log_debug(event, ...) log_at(LOG_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...) log_at(LOG_INFO, event, __VA_ARGS__)
#define log_warn(event, ...) log_at(LOG_WARN, event, __VA_ARGS__)
#define log_error(event, ...) log_at(LOG_ERROR, event, __VA_ARGS__)

#endif
