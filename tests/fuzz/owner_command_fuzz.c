/* The KBS's owner commands. 'p': the rest is the payload of a command that the owner signs; else it
 * is the whole OwnerCommand message. */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *fw = world();
    Coffer__V1__Reply *r = NULL;

    if (size && data[0] == 'p') {
        _cleanup_free_ char *jws = NULL;
        MUST(jws_sign(fw->owner, OWNER_JWS_TYP, 1, BYTES(data + 1, size - 1), &jws, e));
        r = world_owner_jws(fw, jws);
        if (strlen(jws) < 60000 && !r) {
            abort(); /* every command has an answer */
        }
    } else {
        _cleanup_(sent_done) struct sent s =
            world_send(fw, SUBJ_OWNER_COMMAND, "", BYTES(data, size));
        r = s.n ? coffer__v1__reply__unpack(NULL, s.payload.n, s.payload.p) : NULL;
    }
    if (r && r->body_case == COFFER__V1__REPLY__BODY_REFUSAL && !r->refusal->message[0]) {
        abort();
    }
    coffer__v1__reply__free_unpacked(r, NULL);
    return 0;
}
