/* What a keeper and its launcher say to each other, and what the keeper remembers until it is told
 * that it was stored.
 *
 * The link is a unix socket of packets: one byte that says what it is, eight (big-endian) of a
 * number, and data. The first launcher gets it with the keeper, by a socketpair; a later one
 * connects to the keeper's socket, which lies beside the work directory. The keeper numbers what it
 * says; the launcher acknowledges once its transaction is durable. What is not acknowledged is said
 * again to the next launcher, and counted there by its number: nothing is lost or doubled. */
#ifndef COFFER_LAUNCHER_LINK_H
#define COFFER_LAUNCHER_LINK_H

#include "svc-launcher/backend.h"

#define LINK_VERSION 1 /* a launcher ends the keepers that speak another */
#define LINK_HEAD_BYTES 9u
#define LINK_DATA_MAX LIFECYCLE_LINE_MAX
#define LINK_PACKET_MAX (LINK_HEAD_BYTES + LINK_DATA_MAX)

enum link_kind {
    LINK_HELLO = 'H',     /* keeper, first of all; the number is LINK_VERSION */
    LINK_LIFECYCLE = 'L', /* keeper: a lifecycle line; it is not parsed there */
    LINK_LOG = 'G',       /* keeper: a log line */
    LINK_END = 'E',       /* keeper: nothing of the CVM is left but the keeper; struct link_end */
    LINK_GO = 'S',        /* launcher: it is recorded and may start */
    LINK_ACK = 'A',       /* launcher: all to this number is stored */
};

struct link_msg {
    enum link_kind kind;
    uint64_t seq;
    struct bytes data; /* in the caller's buffer */
};

struct link_end {
    int exit_code;    /* 0-255 */
    int lost;         /* ended because no launcher came */
    uint32_t dropped; /* lines that were too many or too long */
};
#define LINK_END_BYTES 6u
void link_end_pack(const struct link_end *end, uint8_t out[LINK_END_BYTES]);
/* ERR_INVALID. */
int link_end_parse(struct bytes in, struct link_end *ret, struct err *e);

/* "<work_dir>.sock". */
#define LINK_PATH_MAX 1280
void link_path(const char *work_dir, char out[LINK_PATH_MAX]);
/* The keeper's socket, mode 0600, not blocking. The directory's path may be longer than a socket's.
 * ERR_IO. */
int link_listen(const char *path, int *ret_fd, struct err *e);
/* One waiting connection, not blocking; -1 when there is none. Other users' are closed. */
int link_accept(int listen_fd);
/* To the keeper with process id `keeper`; not blocking. ERR_NOT_FOUND: nobody listens; ERR_DENIED:
 * who listens is another process, or another user's; ERR_IO. */
int link_connect(const char *path, pid_t keeper, int *ret_fd, struct err *e);

/* 0; 1: not now, the other side does not keep up; -1: it is gone. */
int link_send(int fd, enum link_kind kind, uint64_t seq, struct bytes data);
/* 1 and a message in `buf`; 0: none now; -1: the other side is gone, or says what is none. */
int link_recv(int fd, uint8_t buf[LINK_PACKET_MAX], struct link_msg *ret);
/* ERR_INVALID. */
int link_parse(struct bytes packet, struct link_msg *ret, struct err *e);

/* ---- what is not acknowledged yet ------------------------------------------------------------ */

#define BACKLOG_LINES 1024 /* lifecycle lines, and their bytes */
#define BACKLOG_BYTES (256u * 1024)
#define BACKLOG_LOG_BYTES (256u * 1024)

struct record {
    struct record *next;
    enum link_kind kind;
    uint64_t seq;
    size_t n;
    uint8_t data[];
};

/* In the order in which it came. Zeroes are an empty one. */
struct backlog {
    struct record *first, *last, *unsent;
    uint64_t seq; /* of the last record ever */
    size_t lines, bytes, log_bytes;
    uint32_t dropped;
};

/* Log lines push out older ones; the caller adds no lifecycle line to a full backlog. At most
 * LINK_DATA_MAX bytes. */
void backlog_add(struct backlog *b, enum link_kind kind, struct bytes data);
int backlog_full(const struct backlog *b);
/* Forgets everything up to `seq`. */
void backlog_ack(struct backlog *b, uint64_t seq);
/* To a new launcher everything is said again. */
void backlog_rewind(struct backlog *b);
void backlog_done(struct backlog *b);

#endif
