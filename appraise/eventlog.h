/* The TCG event log in its crypto-agile form (PC Client Platform Firmware Profile §10): all of it
 * from outside. It is a claim until its replay gives the registers that a quote signed, and even
 * then only digests are proven, never an event's data. */
#ifndef COFFER_EVENTLOG_H
#define COFFER_EVENTLOG_H

#include "appraise/tpm.h"

#define EVENTLOG_MAX_BYTES (512u * 1024)
#define EVENTLOG_MAX_EVENTS 4096u
#define EVENTLOG_MAX_DIGEST 48

enum eventlog_bank { BANK_SHA256, BANK_SHA384, BANK_SHA1, BANK_N };
/* -1 for another algorithm. */
int eventlog_bank_of(uint16_t alg);

struct eventlog_event {
    uint32_t pcr, type;
    const uint8_t *digest[BANK_N]; /* borrowed from the log; NULL where it has no such */
    struct bytes data;             /* borrowed, and not authenticated */
};
struct eventlog {
    struct eventlog_event *v; /* owned: what was extended, in order; no EV_NO_ACTION */
    size_t n;
    int has[BANK_N];
    uint8_t pcr[BANK_N][TPM_PCRS][EVENTLOG_MAX_DIGEST]; /* what a replay gives */
};

#define EV_NO_ACTION 3u
#define EV_SEPARATOR 4u
#define EV_EFI_ACTION 0x80000007u

/* Exactly one log; it may end with 0xff bytes up to the size of the table that it was in. The
 * Spec ID event decides which digests there are and how long they are. ERR_INVALID, ERR_TOO_LARGE.
 */
int eventlog_parse(struct bytes in, struct eventlog *ret, struct err *e);
void eventlog_done(struct eventlog *l);

#endif
