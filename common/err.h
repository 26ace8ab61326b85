/* One error object, filled where something went wrong, wrapped with context on the way up, and
 * logged or shown once, at the top.
 *
 * A function that can fail takes `struct err *e` last and returns 0 or -1. A refusal (somebody
 * asked for something that a rule forbids) carries the clause that failed, what it expected and
 * what it found, so that it can be shown to the one who asked: DESIGN §1.8. None of the texts may
 * hold a secret.
 */
#ifndef COFFER_ERR_H
#define COFFER_ERR_H

#include "common/mem.h"

/* Values travel in Refusal.code and are kept in databases: append only. */
enum err_code {
    ERR_NONE = 0,
    ERR_INVALID = 1,       /* malformed input: never retried */
    ERR_TOO_LARGE = 2,     /* over a cap */
    ERR_NOT_FOUND = 3,     /* named thing does not exist */
    ERR_DENIED = 4,        /* a rule says no */
    ERR_BAD_SIGNATURE = 5, /* signature or authentication tag does not hold */
    ERR_EXPIRED = 6,       /* outside its validity */
    ERR_REPLAY = 7,        /* used before */
    ERR_STALE = 8,         /* of an attempt that is no longer the latest */
    ERR_WRONG_STATE = 9,   /* not possible in this state */
    ERR_BUSY = 10,         /* a bound is reached; try again */
    ERR_IO = 11,           /* the operating system said no; may be retried */
    ERR_UNSUPPORTED = 12,  /* known, but not available here */
    ERR_TIMEOUT = 13,
    ERR_WORKLOAD = 14, /* the workload itself failed */
    ERR_INTERNAL = 15, /* a bug of ours */
    ERR_CODE_N
};

struct err {
    enum err_code code;
    char msg[512];      /* whole sentence, with context */
    char clause[128];   /* refusals: the failing clause, e.g. "grant.consumer"; else "" */
    char expected[256]; /* refusals: what the clause wants; else "" */
    char actual[256];   /* refusals: what came; else "" */
    const char *origin; /* file:line where it was first set; static */
};

#define ERR_STR2_(x) #x
#define ERR_STR_(x) ERR_STR2_(x)
#define ERR_ORIGIN_ __FILE__ ":" ERR_STR_(__LINE__)

/* Sets the error and returns -1. `e` may be NULL. Usage: return err_set(e, ERR_INVALID, "..."). */
#define err_set(e, code, ...) err_set_(e, code, ERR_ORIGIN_, __VA_ARGS__)
/* As err_set, appending ": strerror(errno)"; code ERR_IO. */
#define err_errno(e, ...) err_errno_(e, ERR_ORIGIN_, __VA_ARGS__)
/* A refusal: clause, expected and actual are kept apart, and msg is composed of them. */
#define err_refuse(e, code, clause, expected, ...)                                                 \
    err_refuse_(e, code, ERR_ORIGIN_, clause, expected, __VA_ARGS__)

int err_set_(struct err *e, enum err_code code, const char *origin, const char *fmt, ...)
    _printf_(4, 5);
int err_errno_(struct err *e, const char *origin, const char *fmt, ...) _printf_(3, 4);
/* `fmt` and what follows is the actual value. */
int err_refuse_(struct err *e, enum err_code code, const char *origin, const char *clause,
                const char *expected, const char *fmt, ...) _printf_(6, 7);

/* Prefixes context: "<context>: <old message>". Returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) _printf_(2, 3);
void err_clear(struct err *e);

/* "denied", "bad-signature", ...: stable names used in JSON and logs. Never NULL. */
const char *err_code_name(enum err_code code);
/* Whether trying the same again later can help (IO, BUSY, TIMEOUT). */
int err_is_transient(enum err_code code);

#endif
