/* The KBS as the engine runs it: its tables, handlers, keys, and what is due when. */
#include "svc-kbs/kbs.h"
#include "svc-kbs/sealstore.h"
#include "svc-kbs/store.h"

#define PRUNE_LIMIT 1000
#define PRUNE_EVERY_MS 1000
#define KEK_CHECK "kek-check"

static const struct handler handlers[] = {
    {SUBJ_VERDICT, kbs_on_verdict},
    {SUBJ_OWNER_COMMAND, kbs_on_owner_command},
};

static void kbs_free(struct kbs *k)
{
    service_keys_done(&k->keys);
    trust_free(k->trust);
    free(k->gate_jwk);
    free(k);
}
DEFINE_CLEANUP(struct kbs *, kbs_free);

/* With another KEK nothing in the database would open, and what is put would not open again with
 * the right one: so a wrong KEK is found here, and a lost one is never replaced. */
static int load_keys(struct svc *s, struct kbs *k, struct err *e)
{
    _cleanup_buf_ struct buf check = BUF_INIT(SEALED_REF_MAX_BYTES);
    unsigned want = KEYFILE_SIGN | KEYFILE_SEAL | KEYFILE_KEK;
    unsigned make = config_bool(s->config, "generate-keys") ? want : 0;
    int known = kbs_store_meta_get(s->db, KEK_CHECK, &check, e);
    int64_t secrets;

    if (known < 0 || kbs_store_secret_count(s->db, &secrets, e)) {
        return -1;
    }
    if (!known && secrets) {
        return err_set(e, ERR_DENIED, "the database has %jd secrets but does not know its kek",
                       (intmax_t)secrets);
    }
    if (known) {
        make &= ~(unsigned)KEYFILE_KEK;
    }
    if (service_keys_load(config_str(s->config, "data-dir"), want, make, &k->keys, e)) {
        return -1;
    }
    if (known) {
        return kek_check(k->keys.kek, buf_bytes(&check), e);
    }
    return kek_check_make(k->keys.kek, &check, e) ||
                   kbs_store_meta_put(s->db, KEK_CHECK, buf_bytes(&check), e)
               ? -1
               : 0;
}

static int load_trust(struct svc *s, struct kbs *k, struct err *e)
{
    _cleanup_json_ json_t *gate = NULL;

    if (trust_read(config_str(s->config, "trust"), &k->trust, e) ||
        service_key_trusted(&k->trust->kbs, "kbs", k->keys.sign, e)) {
        return -1;
    }
    if (!streq(jkey_thumbprint(k->trust->kbs_seal), jkey_thumbprint(k->keys.seal))) {
        return err_refuse(e, ERR_DENIED, "trust.kbs_seal", jkey_thumbprint(k->keys.seal), "%s",
                          jkey_thumbprint(k->trust->kbs_seal));
    }
    gate = jkey_public_jwk(k->trust->gate_seal);
    return jcs_encode(gate, &k->gate_jwk, e);
}

static int kbs_open(struct svc *s, struct err *e)
{
    _cleanup_(kbs_freep) struct kbs *k = xcalloc(1, sizeof(*k));

    if (load_keys(s, k, e) || load_trust(s, k, e)) {
        return -1;
    }
    s->priv = TAKE_PTR(k);
    return 0;
}

static void kbs_close(struct svc *s)
{
    kbs_free(s->priv);
    s->priv = NULL;
}

static int kbs_tick(struct svc *s, struct effects *fx, struct err *e)
{
    (void)fx;
    return kbs_store_prune(s->db, s->now_ms, PRUNE_LIMIT, e);
}

static int64_t kbs_next_tick(struct svc *s)
{
    int64_t at;

    if (kbs_store_next_prune(s->db, &at, NULL)) {
        return s->now_ms + PRUNE_EVERY_MS;
    }
    return at > INT64_MAX - PRUNE_EVERY_MS ? INT64_MAX : at + PRUNE_EVERY_MS;
}

const struct service_def kbs_service = {
    .id = SVC_KBS,
    .migrations = kbs_migrations,
    .n_migrations = ARRAY_LEN(kbs_migrations),
    .handlers = handlers,
    .n_handlers = ARRAY_LEN(handlers),
    .open = kbs_open,
    .close = kbs_close,
    .tick = kbs_tick,
    .next_tick_ms = kbs_next_tick,
};
