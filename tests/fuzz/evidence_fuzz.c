/* The verifier's evidence handler. The first byte chooses what is made sound: 'r' takes the rest as
 * the runtime data and 'v' as the evidence of a submission that answers a challenge; else it is the
 * whole SubmitEvidence message. */
#include <stdint.h>

#include "svc-verifier/verifier_testing.h"

static struct vworld w;

static void at_exit(void)
{
    vworld_done(&w);
}

static struct vworld *world(void)
{
    if (!w.g) {
        atexit(at_exit);
        vworld_make(&w, "true");
    }
    return &w;
}

static void check(Coffer__V1__Verdict *v)
{
    if (v && (v->refusal != NULL) == (v->ear[0] != 0)) {
        abort();
    }
    coffer__v1__verdict__free_unpacked(v, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vworld *fw = world();

    /* So that challenges expire, and the tables stay small. */
    fw->now_ms += CHALLENGE_LIFE_MS / 4;
    vworld_tick(fw);
    if (size && (data[0] == 'r' || data[0] == 'v')) {
        _cleanup_(submit_done) struct submit s = vworld_evidence(fw, V_JOB, 1);
        char **part = data[0] == 'r' ? &s.runtime_data : &s.evidence;
        free(*part);
        *part = xstrndup((const char *)data + 1, size - 1);
        check(vworld_submit(fw, &s, NULL));
    } else {
        _cleanup_buf_ struct buf out = BUF_INIT(1u << 20);
        if (vworld_send(fw, SUBJ_EVIDENCE_SUBMIT, BYTES(data, size), "coffer.v1.verdict.", &out,
                        NULL)) {
            check(coffer__v1__verdict__unpack(NULL, out.n, out.p));
        }
    }
    return 0;
}
