/* A short cut for the JSON that programs write: what holds nothing but objects, arrays, strings of
 * printable ASCII without escapes, integers of at most 15 digits, true, false and null. Jansson's
 * reader spends some 75 instructions on each byte. */
#ifndef COFFER_JSON_FAST_H
#define COFFER_JSON_FAST_H

#include <jansson.h>

#include "common/buf.h"

/* What json_loadb with JSON_REJECT_DUPLICATES | JSON_DECODE_ANY would return, or NULL when `in` is
 * not of that kind, or not JSON, or nested deeper than max_depth: then the caller asks json_loadb,
 * which also knows what is wrong with it. */
json_t *json_fast(struct bytes in, int max_depth);

#endif
