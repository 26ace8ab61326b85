#include "appraise/tpm_attest.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "appraise/tpm_key.h"

#define OWN_CERTS_MAX 32u
#define PCR_INIT_DATA 8u
#define WARNING 32
#define UNRECOGNIZED 97

struct verdict {
    int ak_trusted, has_log;
    struct tpm_quote q; /* the first */
};

/* ---- the key ---- */

static int is_key_of(const struct cert *c, EVP_PKEY *key)
{
    return EVP_PKEY_eq(c->key, key) == 1;
}

/* The certificate's chain, with what the evidence and the bag have, up to one of the policy's
 * roots. 0 when there is none. */
static int certified(struct certs *store, struct cert *const *all, size_t n_all, struct cert *leaf,
                     const struct appraisal_policy *policy, int64_t at_ms)
{
    const struct chain_rules rules = {
        .what = "ak_chain", .at_ms = at_ms, .anchors = policy->roots, .n_anchors = policy->n_roots};
    struct cert *chain[CERT_CHAIN_MAX] = {leaf};
    size_t n = 1;
    struct err e = {0};

    while (n < CERT_CHAIN_MAX) {
        struct cert *next = NULL;
        for (size_t i = 0; i < n_all && !next; i++) {
            if (cert_names_issuer(chain[n - 1], all[i]) && all[i] != chain[n - 1] &&
                cert_signed_by(store, "ak_chain", chain[n - 1], all[i], &e) == 0) {
                next = all[i];
            }
        }
        if (!next) {
            break;
        }
        chain[n++] = next;
        if (chain_verify(store, &rules, chain, n, &e) == 0) {
            return 1;
        }
    }
    return 0;
}

static int trusts(const struct appraisal_input *in, struct certs *store,
                  const struct tpm_evidence *ev, const struct appraisal_policy *policy,
                  EVP_PKEY *key)
{
    size_t items = in->collateral ? collateral_n(in->collateral) : 0, n = 0;
    _cleanup_free_ struct cert **all =
        xcalloc(items + policy->n_roots + CERT_CHAIN_MAX, sizeof(struct cert *));
    struct cert *leaf = NULL;
    struct err e = {0};
    int known = 0;

    for (size_t i = 0; i < items; i++) {
        const struct item *x = collateral_at(in->collateral, i);
        if (x->kind == ITEM_CERT) {
            known |= is_key_of(x->cert, key) && x->cert->not_before_ms <= in->now_ms &&
                     in->now_ms <= x->cert->not_after_ms;
            all[n++] = cert_ref(x->cert);
        }
    }
    for (size_t i = 0; i < policy->n_roots; i++) {
        all[n++] = cert_ref((struct cert *)(uintptr_t)policy->roots[i]);
    }
    for (size_t i = 0; i < ev->n_certs && !known; i++) {
        struct cert *c;
        if (certs_add_der(store, "evidence.ak_cert", ev->certs[i], &c, &e) == 0) {
            all[n++] = cert_ref(c);
            leaf = i == 0 && is_key_of(c, key) ? c : leaf;
        }
    }
    known = known || (leaf && certified(store, all, n, leaf, policy, in->now_ms));
    for (size_t i = 0; i < n; i++) {
        cert_unref(all[i]);
    }
    return known;
}

/* ---- quotes and log ---- */

static int check_quotes(const struct appraisal_input *in, const struct tpm_evidence *ev,
                        struct verdict *v, struct err *e)
{
    struct tpm_quote q;
    struct tpm_signature s;
    struct err why = {0};

    for (size_t i = 0; i < ev->n_quotes; i++) {
        const struct tpm_signed *x = &ev->quotes[i];
        if (tpm_signature_parse(x->signature, &s, &why)) {
            return err_refuse(e, why.code, "evidence.quote.signature", "a TPMT_SIGNATURE", "%.200s",
                              why.msg);
        }
        if (tpm_quote_verify(&ev->ak, x->message, &s, &x->bank, &q, e) ||
            tpm_quote_bound(&q, in->nonce, in->report_data, e)) {
            return -1;
        }
        if (i && (q.extra.n != v->q.extra.n || memcmp(q.extra.p, v->q.extra.p, q.extra.n) != 0)) {
            return err_refuse(e, ERR_DENIED, "evidence.nonce", "the same in all quotes", "others");
        }
        v->q = i ? v->q : q;
    }
    return 0;
}

static int check_log(const struct tpm_evidence *ev, struct verdict *v, struct err *e)
{
    _cleanup_(eventlog_done) struct eventlog log = {0};
    struct err why = {0};
    size_t n = 0;

    if (!ev->event_log.n) {
        return 0;
    }
    if (eventlog_parse(ev->event_log, &log, &why)) {
        return err_refuse(e, why.code, "evidence.event_log", "a TCG event log", "%.200s", why.msg);
    }
    for (size_t i = 0; i < ev->n_quotes; i++) {
        int b = eventlog_bank_of(ev->quotes[i].bank.hash);
        if (b < 0 || !log.has[b]) {
            continue; /* the firmware does not log that bank */
        }
        if (tpm_log_matches(&log, &ev->quotes[i].bank, e)) {
            return -1;
        }
        n++;
    }
    v->has_log = n > 0;
    return n ? 0
             : err_refuse(e, ERR_DENIED, "evidence.event_log", "digests of a quoted bank", "none");
}

/* ---- claims ---- */

static void put_hex(json_t *o, const char *name, struct bytes b)
{
    _cleanup_free_ char *hex = hex_encode(b.p, b.n);

    json_object_set_new(o, name, json_string(hex));
}

static const char *bank_name(uint16_t hash)
{
    return hash == TPM_ALG_SHA1     ? "sha1"
           : hash == TPM_ALG_SHA256 ? "sha256"
           : hash == TPM_ALG_SHA384 ? "sha384"
                                    : "sha512";
}

static json_t *claims_of(const struct tpm_evidence *ev, const struct verdict *v, EVP_PKEY *key)
{
    json_t *o = json_object();
    uint8_t *der = NULL;
    int n = i2d_PUBKEY(key, &der);
    _cleanup_free_ char *spki = b64_encode(der, n > 0 ? (size_t)n : 0);

    OPENSSL_free(der);
    json_object_set_new(o, "ak_public", json_string(spki));
    put_hex(o, "report_data", v->q.extra);
    for (size_t i = 0; i < ev->n_quotes; i++) {
        const struct tpm_bank *bank = &ev->quotes[i].bank;
        if (bank->hash == TPM_ALG_SHA256) {
            tpm_put_pcrs(o, bank);
            if (bank->pcrs & 1u << PCR_INIT_DATA) {
                put_hex(o, "init_data", BYTES(bank->v[PCR_INIT_DATA], 32));
            }
        } else {
            json_t *other = json_object();
            tpm_put_pcrs(other, bank);
            json_object_set_new(o, bank_name(bank->hash), other);
        }
    }
    json_object_set_new(o, "ak_trusted", json_boolean(v->ak_trusted));
    json_object_set_new(o, "event_log_replayed", json_boolean(v->has_log));
    json_object_set_new(o, "reset_count", json_integer(v->q.reset_count));
    json_object_set_new(o, "restart_count", json_integer(v->q.restart_count));
    return o;
}

static int appraise(const struct appraisal_input *in, struct certs *store,
                    const struct appraisal_policy *policy, struct appraisal *ret, struct err *e)
{
    _cleanup_(tpm_evidence_done) struct tpm_evidence ev = {.n_quotes = 0};
    struct verdict v = {.ak_trusted = 0};
    EVP_PKEY *key = NULL;

    if (tpm_evidence_take(in->evidence, &ev, e) || check_quotes(in, &ev, &v, e) ||
        check_log(&ev, &v, e) || tpm_public_key(&ev.ak.pub, &key, e)) {
        return -1;
    }
    v.ak_trusted = trusts(in, store, &ev, policy, key);
    *ret = (struct appraisal){.claims = claims_of(&ev, &v, key),
                              .policy_id = "coffer/tpm/v1",
                              .tcb_status = TCB_NONE,
                              .tier = v.ak_trusted ? TIER_TPM : TIER_NONE,
                              .unchecked = v.ak_trusted ? NULL : json_pack("[s]", "ak")};
    EVP_PKEY_free(key);
    ret->vector[EAR_HARDWARE] = v.ak_trusted ? 2 : WARNING;
    ret->vector[EAR_INSTANCE_IDENTITY] = v.ak_trusted ? 2 : UNRECOGNIZED;
    return 0;
}

int tpm_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                 struct appraisal *ret, struct err *e)
{
    _cleanup_(certs_freep) struct certs *own = in->collateral ? NULL : certs_new(OWN_CERTS_MAX);

    return appraise(in, own ? own : collateral_certs(in->collateral), policy, ret, e);
}
