/* The KBS's verdict handler on whole Verdict messages. The first byte chooses what is made sound,
 * so that fuzzing gets past the signatures: 'e' signs the rest as the claims of an EAR, 's' as a
 * spec under a sound EAR; anything else is the message as it is. Whatever comes, keys leave only to
 * the TEE of a sound verdict. */
#include <stdint.h>

#include "svc-kbs/kbs_testing.h"

static struct world w;

static void at_exit(void)
{
    world_done(&w);
}

static struct world *world(void)
{
    if (!w.g) {
        atexit(at_exit);
        world_make(&w);
        struct engine_opts o = {
            .db_path = ":memory:", .clock = world_clock, .clock_arg = &w, .config = w.config};
        MUST(engine_open(&kbs_service, &o, &w.g, e));
        world_put_all(&w, NULL);
    }
    return &w;
}

static void send(struct world *to, const char *job, struct bytes message)
{
    _cleanup_(sent_done) struct sent s = world_send(to, SUBJ_VERDICT, job, message);
    Coffer__V1__ReleaseKey *k;

    if (s.n != 1 || strncmp(s.subject, "coffer.v1.key.release.", 22) != 0) {
        return;
    }
    k = coffer__v1__release_key__unpack(NULL, s.payload.n, s.payload.p);
    if (!k || (k->refusal != NULL) == (k->jwe[0] != 0) ||
        (k->refusal && (!k->refusal->clause[0] || !k->refusal->message[0]))) {
        abort();
    }
    coffer__v1__release_key__free_unpacked(k, NULL);
}

static void send_parts(struct world *to, const char *job, const char *ear, const char *spec)
{
    size_t n;
    _cleanup_free_ uint8_t *p = t_verdict(job, 1, ear, spec, &n);

    send(to, job, BYTES(p, n));
}

/* The world's ids are fresh in every run, so those in the corpus are replaced by the right ones. */
static json_t *patched(struct bytes in, const char *object, const char *member, const char *value)
{
    json_t *j = NULL, *o;

    if (json_parse("input", in, 1u << 16, &j, NULL)) {
        return NULL;
    }
    o = json_object_get(j, object);
    o = json_is_array(o) ? json_array_get(o, 0) : o;
    if (json_is_string(json_object_get(o, member))) {
        json_object_set_new(o, member, json_string(value));
    }
    return j;
}

static void send_ear(struct world *to, struct bytes claims, const char *job, const char *spec)
{
    _cleanup_json_ json_t *j = patched(claims, "coffer", "job", job);
    _cleanup_free_ char *jcs = NULL, *ear = NULL;

    if (j && !jcs_encode(j, &jcs, NULL)) {
        claims = BYTES_STR(jcs);
    }
    MUST(jws_sign(to->verifier, "JWT", 0, claims, &ear, e));
    send_parts(to, job, ear, spec);
}

static void send_spec(struct world *to, struct bytes text, const char *job)
{
    _cleanup_json_ json_t *j = patched(text, "datasets", "id", to->dataset);
    _cleanup_spec_ struct spec *spec = NULL;
    _cleanup_free_ char *jcs = NULL, *ear = NULL, *jws = NULL;

    if (j && !jcs_encode(j, &jcs, NULL)) {
        text = BYTES_STR(jcs);
        if (!spec_from_json(j, &spec, NULL)) {
            job = spec->job_id;
        }
    }
    ear = t_ear_sign(t_ear(to, job, 1, to->tee), to->verifier);
    MUST(jws_sign(to->consumer, SPEC_JWS_TYP, 1, text, &jws, e));
    send_parts(to, job, ear, jws);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *fw = world();
    static char job[JOB_ID_LEN + 1];
    _cleanup_free_ char *spec = t_spec_sign(t_spec(fw, "0123456789abcdef"), fw->consumer, job);

    if (size && data[0] == 'e') {
        send_ear(fw, BYTES(data + 1, size - 1), job, spec);
    } else if (size && data[0] == 's') {
        send_spec(fw, BYTES(data + 1, size - 1), job);
    } else {
        Coffer__V1__Verdict *v = coffer__v1__verdict__unpack(NULL, size, data);
        const char *key = v && job_id_valid(v->job) ? v->job : job;
        send(fw, key, BYTES(data, size));
        coffer__v1__verdict__free_unpacked(v, NULL);
    }
    return 0;
}
