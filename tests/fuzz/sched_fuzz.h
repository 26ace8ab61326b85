/* A scheduler in memory with one host, one job that runs on it, and one that waits; every input
 * acts on the same state, because nothing is committed. */
#ifndef COFFER_SCHED_FUZZ_H
#define COFFER_SCHED_FUZZ_H

#include "svc-scheduler/sched_test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fix *fuzz_fix;
static char fuzz_job[JOB_ID_LEN + 1];

static void fuzz_setup(void)
{
    char waiting[JOB_ID_LEN + 1];

    fuzz_fix = fix_new(":memory:", NULL);
    fix_launching(fuzz_fix, &WANT, fuzz_job);
    for (int i = 0; i < 4; i++) {
        fix_schedule(fuzz_fix, &WANT, waiting);
    }
    fix_forget(fuzz_fix);
}

/* Handles one message and a tick, checks the running job's invariants, and takes it all back. */
static void fuzz_message(enum subject s, const char *key, struct bytes payload)
{
    struct fix *f = fuzz_fix;
    struct msg m = {.subject = s,
                    .key = key,
                    .payload = payload,
                    .msg_id = "",
                    .reply_to = "_INBOX.f",
                    .traceparent = "",
                    .deliveries = 1};
    enum disposition d = DISP_ACK;
    struct err why = {0}, e = {0};
    struct job before, after;
    int delay = 0;

    if (!f) {
        fuzz_setup();
        f = fuzz_fix;
    }
    before = fix_job(f, fuzz_job);
    if (engine_begin(f->g, &e) < 0 || engine_handle(f->g, &m, &d, &delay, &why, &e) < 0 ||
        engine_tick(f->g, &e) < 0) {
        abort();
    }
    after = fix_job(f, fuzz_job);
    if (after.attempt < before.attempt || after.last_seq < before.last_seq ||
        (after.state == before.state && after.attempt == before.attempt &&
         after.last_seq > before.last_seq + 2)) {
        abort();
    }
    engine_rollback(f->g);
}

#endif
