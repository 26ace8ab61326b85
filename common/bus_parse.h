/* What the bus reads from outside besides message bodies: acknowledgement texts, acknowledgement
 * subjects, headers. Pure, bounded, fuzzed. */
#ifndef COFFER_BUS_PARSE_H
#define COFFER_BUS_PARSE_H

#include "common/buf.h"
#include "proto/subjects.h"

#define PUBACK_MAX_BYTES 4096

struct puback {
    int duplicate;  /* the stream had this Nats-Msg-Id already */
    int code;       /* 0: stored; else the HTTP-like code of the error */
    int err_code;   /* JetStream's own */
    char text[160]; /* its description */
};
/* {"stream":..,"seq":..} or {"error":{"code","err_code","description"}}. ERR_INVALID,
 * ERR_TOO_LARGE. */
int bus_parse_puback(struct bytes in, struct puback *ret, struct err *e);
/* Whether the same publish can succeed later: no space, no leader, no responder. */
int puback_is_transient(const struct puback *a);

/* "$JS.ACK.<stream>.<durable>.<deliveries>.<sseq>.<cseq>.<ts>.<pending>" of exactly this stream and
 * durable. -1 when it is anything else. */
int bus_parse_ack(const char *s, const char *stream, const char *durable, uint32_t *ret_deliveries);

/* W3C trace context, version 00, ids not all zero. */
int bus_traceparent_ok(const char *s);
/* 1 to BUS_MSG_ID_MAX characters of [A-Za-z0-9._-]. */
int bus_msg_id_ok(const char *s);
/* A reply address of one of the services in `who` (bits): "_INBOX_<service>." and tokens. */
int bus_inbox_ok(const char *s, unsigned who);
/* Decimal without sign or leading zeros, at most `max`. */
int bus_number(const char *s, uint32_t max, uint32_t *ret);
/* One token of [A-Za-z0-9_-], 1..64. */
int bus_token_ok(const char *s);
/* "<job>.…" and "<job>.<attempt>.…" (docs/PROTOCOL.md, message ids); "" and 0 when it is not so. */
void bus_ids(const char *msg_id, char ret_job[65], uint32_t *ret_attempt);

#endif
