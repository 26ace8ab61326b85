/* The verifier as the engine runs it: its tables, handlers, configuration, and what is due when. */
#include "svc-verifier/store.h"
#include "svc-verifier/verifier.h"
#include "appraise/vtpm.h"

#define PRUNE_LIMIT 1000
/* Rows are pruned together, not each at its own millisecond. */
#define PRUNE_EVERY_MS 1000

static const struct config_item items[] = {
    {.name = "allow-sample",
     .type = CONFIG_BOOL,
     .dflt = "false",
     .help = "find sample evidence, which proves nothing, affirming"},
    {.name = "reference-values",
     .type = CONFIG_PATH,
     .dflt = "",
     .help = "what good guest images measure to, signed by a release key of the trust file"},
    {.name = "tpm-hosts",
     .type = CONFIG_PATH,
     .dflt = "",
     .help = "hosts whose virtual TPMs are believed (coffer host enrol)"},
};

static const struct handler handlers[] = {
    {SUBJ_EVIDENCE_CHALLENGE, verifier_on_challenge},
    {SUBJ_EVIDENCE_SUBMIT, verifier_on_evidence},
};

static void verifier_free(struct verifier *v)
{
    service_keys_done(&v->keys);
    refvals_free(v->refvals);
    tpm_hosts_free(v->tpm_hosts);
    free(v);
}
DEFINE_CLEANUP(struct verifier *, verifier_free);

/* What is not configured is believed of nobody. */
static int load_policy(const struct config *c, const struct trust *trust, struct verifier *v,
                       struct err *e)
{
    const char *refvals = config_str(c, "reference-values"), *hosts = config_str(c, "tpm-hosts");

    if (*refvals && (refvals_read(refvals, &trust->release, &v->refvals, e) ||
                     vtpm_check_refvals(v->refvals, e))) {
        return -1;
    }
    if (*hosts && tpm_hosts_read(hosts, &v->tpm_hosts, e)) {
        return -1;
    }
    v->policy = (struct appraisal_policy){.allow_sample = config_bool(c, "allow-sample"),
                                          .refvals = v->refvals,
                                          .tpm_hosts = v->tpm_hosts};
    return 0;
}

static int verifier_open(struct svc *s, struct err *e)
{
    _cleanup_(verifier_freep) struct verifier *v = xcalloc(1, sizeof(*v));
    _cleanup_(trust_freep) struct trust *trust = NULL;
    unsigned generate = config_bool(s->config, "generate-keys") ? KEYFILE_SIGN : 0;

    if (service_keys_load(config_str(s->config, "data-dir"), KEYFILE_SIGN, generate, &v->keys, e) ||
        trust_read(config_str(s->config, "trust"), &trust, e) ||
        service_key_trusted(&trust->verifier, "verifier", v->keys.sign, e) ||
        load_policy(s->config, trust, v, e)) {
        return -1;
    }
    s->priv = TAKE_PTR(v);
    return 0;
}

static void verifier_close(struct svc *s)
{
    verifier_free(s->priv);
    s->priv = NULL;
}

static int verifier_tick(struct svc *s, struct effects *fx, struct err *e)
{
    (void)fx;
    return verifier_store_prune(s->db, s->now_ms, PRUNE_LIMIT, e);
}

static int64_t verifier_next_tick(struct svc *s)
{
    int64_t at;

    if (verifier_store_next_prune(s->db, &at, NULL)) {
        return s->now_ms + PRUNE_EVERY_MS;
    }
    return at > INT64_MAX - PRUNE_EVERY_MS ? INT64_MAX : at + PRUNE_EVERY_MS;
}

const struct service_def verifier_service = {
    .id = SVC_VERIFIER,
    .migrations = verifier_migrations,
    .n_migrations = ARRAY_LEN(verifier_migrations),
    .handlers = handlers,
    .n_handlers = ARRAY_LEN(handlers),
    .open = verifier_open,
    .close = verifier_close,
    .tick = verifier_tick,
    .next_tick_ms = verifier_next_tick,
    .config = items,
    .n_config = ARRAY_LEN(items),
};
