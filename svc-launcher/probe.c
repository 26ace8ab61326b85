#include "svc-launcher/backend.h"

/* What the host offers. */

static uint64_t memory_of_host(void)
{
    unsigned long long kib = 0;
    char line[128];

    _cleanup_fclose_ FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "MemTotal: %llu kB", &kib) == 1) {
            break;
        }
    }
    return (uint64_t)kib * 1024;
}

static int probe_backend(const char *name, const struct backend_env *env, struct host_facts *f,
                         struct err *e)
{
    const struct backend *b = backend_find(name);
    struct err why = {0};

    if (!b) {
        return err_refuse(e, ERR_INVALID, "backends", "names of backends, e.g. \"process\"",
                          "\"%.40s\"", name);
    }
    if (f->n_backends == LAUNCHER_MAX_BACKENDS) {
        return err_refuse(e, ERR_TOO_LARGE, "backends", "at most 8", "more");
    }
    struct host_backend_facts *x = &f->backends[f->n_backends++];
    snprintf(x->name, sizeof(x->name), "%s", b->name);
    snprintf(x->tee, sizeof(x->tee), "%s", b->tee);
    x->available = b->probe(env, &why) == 0;
    snprintf(x->why, sizeof(x->why), "%.255s", why.msg);
    return 0;
}

int probe_host(const struct config *config, const struct backend_env *env, struct host_facts *ret,
               struct err *e)
{
    _cleanup_free_ char *list = xstrdup(config_str(config, "backends"));
    struct host_facts f = {0};
    char *save = NULL;

    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int64_t cpu = config_int(config, "cpu-millis"), memory = config_int(config, "memory-bytes"),
            slots = config_int(config, "slots");
    cpus = cpus < 1 ? 1 : cpus;
    f.cpu_millis = (uint32_t)(cpu ? cpu : cpus * 1000);
    f.memory_bytes = memory ? (uint64_t)memory : memory_of_host();
    f.slots = (uint32_t)(slots ? slots : cpus);
    for (char *name = strtok_r(list, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
        if (probe_backend(name, env, &f, e) < 0) {
            return -1;
        }
    }
    *ret = f;
    return 0;
}
