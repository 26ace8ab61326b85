/* LaunchCvm and DestroyCvm as a launcher gets them. */
#include "svc-launcher/launcher.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int64_t clock_ms(void *arg)
{
    (void)arg;
    return 1700000000000;
}

static struct engine *make(void)
{
    static struct config *c;
    struct host_facts h = {.cpu_millis = 4000,
                           .memory_bytes = 1ull << 30,
                           .slots = 2,
                           .n_backends = 1,
                           .backends = {{.name = "process", .tee = "sample", .available = 1}}};
    struct engine *g = NULL;
    struct err e = {0};

    c = config_make(launcher_service.config, launcher_service.n_config, "host", "h1", NULL);
    struct engine_opts o = {.db_path = ":memory:", .clock = clock_ms, .config = c};
    if (engine_open(&launcher_service, &o, &g, &e) < 0) {
        abort();
    }
    launcher_set_facts(engine_svc(g), &h);
    return g;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum subject both[] = {SUBJ_CVM_LAUNCH, SUBJ_CVM_DESTROY, SUBJ_CVM_LAUNCH};
    static struct engine *g;
    struct err why, e = {0};

    g = g ? g : make();
    if (engine_begin(g, &e) < 0) {
        abort();
    }
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        struct msg m = {.subject = both[i],
                        .key = "h1",
                        .payload = BYTES(data, size),
                        .msg_id = "",
                        .reply_to = "",
                        .traceparent = "",
                        .deliveries = 1};
        enum disposition d;
        int delay;
        err_clear(&why);
        if (engine_handle(g, &m, &d, &delay, &why, &e) < 0) {
            abort();
        }
    }
    engine_rollback(g);
    return 0;
}
