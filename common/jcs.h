/* JSON as Coffer uses it: strict parsing of outside bytes and RFC 8785 canonical form. */
#ifndef COFFER_JCS_H
#define COFFER_JCS_H

#include <jansson.h>

#include "common/buf.h"

/* json_decrefp is jansson's own. */
#define _cleanup_json_ _cleanup_(json_decrefp)

/* Strict: one value, UTF-8, no duplicate keys, depth <= 32, at most `max` bytes, no NUL.
 * ERR_INVALID names line and column; ERR_TOO_LARGE. `what` names the thing in messages. */
int json_parse(const char *what, struct bytes in, size_t max, json_t **ret, struct err *e);

/* RFC 8785. Numbers must be integers of at most 2^53-1 in magnitude (ERR_INVALID otherwise): Coffer
 * signs no fractions. Caller frees. */
int jcs_encode(const json_t *j, char **ret, struct err *e);
/* SHA-256 of the canonical form. */
int jcs_sha256(const json_t *j, uint8_t ret[32], struct err *e);
int jcs_sha384(const json_t *j, uint8_t ret[48], struct err *e);

/* Typed reads of an object's member; the error names `what.key`, expected and found type.
 * Strings are borrowed from the object. */
int json_get_str(const json_t *o, const char *what, const char *key, const char **ret,
                 struct err *e);
int json_get_int(const json_t *o, const char *what, const char *key, int64_t min, int64_t max,
                 int64_t *ret, struct err *e);
int json_get_obj(const json_t *o, const char *what, const char *key, json_t **ret_borrowed,
                 struct err *e);
int json_get_arr(const json_t *o, const char *what, const char *key, json_t **ret_borrowed,
                 struct err *e);
/* Refuses a member that is not in the NULL-terminated list; the error names it. */
int json_only_keys(const json_t *o, const char *what, const char *const *keys, struct err *e);

#endif
