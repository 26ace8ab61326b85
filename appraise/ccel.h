/* The event log of a TD: the ACPI table CCEL ("Intel TDX Virtual Firmware Design Guide" §8.3.3), in
 * the TCG's crypto-agile form, with measurement registers in place of PCRs: 0 is MRTD, 1 to 4 are
 * RTMR0 to RTMR3. */
#ifndef COFFER_CCEL_H
#define COFFER_CCEL_H

#include "appraise/eventlog.h"
#include "common/jcs.h"

#define CCEL_CLAIMS_MAX 256 /* events that claims show */

/* Replays the log and compares with the RTMRs of a quote that is genuine: 4 of 48 bytes. RTMR3,
 * which the guest extends as it likes, is compared only when the log has events of it. ERR_INVALID,
 * ERR_TOO_LARGE; ERR_DENIED with clause "evidence.cc_eventlog". */
int ccel_check(struct bytes log, const uint8_t *rtmrs, struct eventlog *ret, struct err *e);
/* Trustee's uefi_event_logs: index, type_name, digests, digest_matches_event; new reference. An
 * event's data is not authenticated and not shown. */
json_t *ccel_claims(const struct eventlog *l);

#endif
