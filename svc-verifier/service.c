/* The verifier as the engine runs it: its tables, handlers, configuration, and what is due when. */
#include "appraise/vtpm.h"
#include "common/fileio.h"
#include "svc-verifier/store.h"
#include "svc-verifier/verifier.h"

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
    {.name = "appraisal-policy",
     .type = CONFIG_PATH,
     .dflt = "",
     .help = "a policy that decides trust vectors (docs/POLICY.md; none: coffer policy show)"},
    {.name = "trusted-roots",
     .type = CONFIG_PATH,
     .dflt = "",
     .help = "roots (PEM) trusted beside Intel's, AMD's and the others' own: who holds their keys "
             "can make evidence"},
    {.name = "pcs-url",
     .type = CONFIG_STR,
     .dflt = "https://api.trustedservices.intel.com",
     .help = "Intel's PCS, or a PCCS; empty: nothing is fetched from there"},
    {.name = "root-crl-url",
     .type = CONFIG_STR,
     .dflt = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
     .help = "the CRL of Intel's root; a PCCS has it at /sgx/certification/v4/rootcacrl"},
    {.name = "kds-url",
     .type = CONFIG_STR,
     .dflt = "https://kdsintf.amd.com",
     .help = "AMD's KDS; empty: nothing is fetched from there"},
    {.name = "collateral-ca",
     .type = CONFIG_PATH,
     .dflt = "",
     .help = "who may vouch for those servers, PEM (default: the system's CAs)"},
    {.name = "collateral-timeout-ms",
     .type = CONFIG_INT,
     .dflt = "10000",
     .min = 100,
     .max = 120000,
     .help = "for one thing to be fetched"},
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
    policy_free(v->rules);
    policy_free(v->shipped);
    shelf_free(v->shelf);
    for (size_t i = 0; i < v->policy.n_roots; i++) {
        cert_unref(v->roots[i]);
    }
    certs_free(v->certs);
    free(v);
}
DEFINE_CLEANUP(struct verifier *, verifier_free);

static int load_roots(const struct config *c, struct verifier *v, struct err *e)
{
    const char *path = config_str(c, "trusted-roots");
    _cleanup_buf_ struct buf pem = BUF_INIT(CERT_MAX_BYTES * CERT_CHAIN_MAX);
    size_t n;

    if (!*path) {
        return 0;
    }
    if (file_read(path, CERT_MAX_BYTES * CERT_CHAIN_MAX, 0, &pem, e) ||
        certs_add_pem(v->certs, "trusted-roots", buf_bytes(&pem), v->roots, CERT_CHAIN_MAX, &n,
                      e)) {
        return err_wrap(e, "%s", path);
    }
    for (size_t i = 0; i < n; i++) {
        cert_ref(v->roots[i]);
    }
    v->policy.roots = (const struct cert *const *)(void *)v->roots;
    v->policy.n_roots = n;
    return 0;
}

/* What is not configured is believed of nobody. */
static int load_policy(const struct config *c, const struct trust *trust, struct verifier *v,
                       struct err *e)
{
    const char *refvals = config_str(c, "reference-values"), *hosts = config_str(c, "tpm-hosts");
    const char *rules = config_str(c, "appraisal-policy"), *text = policy_default_text();

    if (*refvals && (refvals_read(refvals, &trust->release, &v->refvals, e) ||
                     vtpm_check_refvals(v->refvals, e))) {
        return -1;
    }
    if (*hosts && tpm_hosts_read(hosts, &v->tpm_hosts, e)) {
        return -1;
    }
    if (policy_parse("the default policy", BYTES_STR(text), &v->shipped, e) ||
        (*rules && policy_read(rules, &v->rules, e))) {
        return -1;
    }
    v->policy = (struct appraisal_policy){.allow_sample = config_bool(c, "allow-sample"),
                                          .refvals = v->refvals,
                                          .tpm_hosts = v->tpm_hosts};
    return 0;
}

const char *verifier_base_url(const struct config *c, enum need_source source)
{
    switch (source) {
    case NEED_PCS:
        return config_str(c, "pcs-url");
    case NEED_ROOT_CRL:
        return config_str(c, "root-crl-url");
    case NEED_KDS:
        return config_str(c, "kds-url");
    case NEED_SOURCE_N:
        break;
    }
    return "";
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
    v->certs = certs_new(VERIFIER_CERTS);
    if (load_roots(s->config, v, e) || shelf_open(s->db, v->certs, &v->shelf, e)) {
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
    struct needs due;

    if (verifier_store_prune(s->db, s->now_ms, PRUNE_LIMIT, e) ||
        shelf_due(s->db, s->now_ms, &due, e)) {
        return -1;
    }
    for (size_t i = 0; i < due.n; i++) {
        fx_action(fx, VERIFIER_ACT_FETCH, BYTES(&due.v[i], sizeof(due.v[i])));
    }
    return 0;
}

static int64_t verifier_next_tick(struct svc *s)
{
    int64_t at, fetch;

    if (verifier_store_next_prune(s->db, &at, NULL) || shelf_next_due(s->db, &fetch, NULL)) {
        return s->now_ms + PRUNE_EVERY_MS;
    }
    at = at > INT64_MAX - PRUNE_EVERY_MS ? INT64_MAX : at + PRUNE_EVERY_MS;
    return fetch < at ? fetch : at;
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
