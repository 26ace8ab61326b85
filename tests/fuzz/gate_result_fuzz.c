/* Everything that anybody on the bus may send to the gate. The first byte says what it is. */
#include "svc-gate/gate_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fixture *F;
static struct job_case job;

/* A fresh gate now and then, so that what was stored does not pile up. */
static void fresh(void)
{
    static unsigned runs;

    if (!F) {
        F = xcalloc(1, sizeof(*F));
        fixture_init(F);
        job = fixture_job(F, JOB_OPTS());
    } else if (++runs % 5000 == 0) {
        engine_close(F->g);
        fixture_open_gate(F);
    } else {
        return;
    }
    fixture_release(F, job.spec->job_id, 1, F->tee);
}

/* A chunk for a real job, so that more than the shape is exercised. */
static void send_chunk(struct bytes in)
{
    uint32_t attempt = in.n ? in.p[0] % 4u : 0, index = in.n > 1 ? in.p[1] : 0;

    if (in.n > 2) {
        fixture_send_chunk(F, job.spec->job_id, attempt, index, BYTES(in.p + 2, in.n - 2));
    }
}

static void send_manifest(struct bytes in)
{
    _cleanup_free_ char *text = xstrndup((const char *)in.p, in.n);
    _cleanup_free_ char *jws = NULL;

    /* As it is, and as the payload of a good signature. */
    fixture_send_manifest(F, job.spec->job_id, 1, text);
    OK(jws_sign(F->tee, RESULT_MANIFEST_TYP, 0, in, &jws, e));
    fixture_send_manifest(F, job.spec->job_id, 1, jws);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum subject raw[] = {SUBJ_RESULT, SUBJ_KEY_RELEASE, SUBJ_GATE_REVIEW,
                                       SUBJ_RESULT_FETCH};

    if (size < 1 || size > 600000) {
        return 0;
    }
    fresh();
    struct bytes in = BYTES(data + 1, size - 1);
    unsigned kind = data[0] % 6u;
    if (kind < 4) {
        const char *key = kind < 2 ? job.spec->job_id : "";
        fixture_deliver(F, raw[kind], key, in);
    } else if (kind == 4) {
        send_chunk(in);
    } else {
        send_manifest(in);
    }
    for (size_t i = 0; i < F->n_decisions; i++) {
        abort(); /* nobody but the TEE gets a decision */
    }
    fixture_clear(F);
    return 0;
}
