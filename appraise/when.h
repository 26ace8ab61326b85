/* Times as certificates' and collateral's texts have them. */
#ifndef COFFER_WHEN_H
#define COFFER_WHEN_H

#include <stddef.h>
#include <stdint.h>

/* RFC 3339 §5.6 date-time ("2025-06-19T10:16:03Z", "2025-06-19 12:16:03.5+02:00"), to milliseconds
 * since 1970; fractions beyond milliseconds are dropped, leap seconds count as the second before.
 * -1 when it is none. */
int rfc3339_ms(const char *text, int64_t *ret_ms);
/* "2026-11-21T05:00:00Z" */
void rfc3339_utc(int64_t ms, char ret[32]);

#endif
