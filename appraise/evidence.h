/* The wrappings that evidence comes in: raw bytes, hex or base64 text, a member of a JSON object.
 */
#ifndef COFFER_EVIDENCE_H
#define COFFER_EVIDENCE_H

#include "common/jcs.h"

#define EVIDENCE_JSON_MAX_BYTES (4u * 1024 * 1024)
#define EVIDENCE_JSON_MAX_PARTS 20000u

/* Bytes that a text stands for: base64 (padded or not, either alphabet) or hex, white space aside.
 * ERR_INVALID with clause `what`. */
int evidence_text(const char *what, struct bytes text, struct buf *ret, struct err *e);
/* What takes a JSON parser longest is many small texts, members, objects and lists, so those are
 * bounded before it sees them; no evidence or collateral has nearly as many. */
int evidence_few_parts(struct bytes json);
/* The evidence's JSON object; 0 and NULL when it is not JSON (does not begin with a brace). */
int evidence_json(struct bytes evidence, json_t **ret, struct err *e);
/* The raw bytes of evidence that may be raw (is_raw says), text, or the member `member` of a JSON
 * object, whose value is text. *ret borrows from `evidence` or from *scratch. *ret_json is the
 * object, owned, or NULL. */
int evidence_open(struct bytes evidence, int (*is_raw)(struct bytes b), const char *member,
                  struct buf *scratch, struct bytes *ret, json_t **ret_json, struct err *e);
/* Compares all 64 bytes of REPORTDATA with what was asked for; 0 when nobody asks. ERR_DENIED,
 * clause "evidence.report_data". */
int evidence_report_data(const uint8_t *asked, const uint8_t *have, struct err *e);

#endif
