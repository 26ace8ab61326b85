#include "appraise/nvidia.h"

#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>

#include "appraise/when.h"

#define OWN_CERTS_MAX 64u

/* AR4SI */
#define WARNING 32

/* ---- what the report is bound to ---- */

static int check_nonce(const char *clause, const uint8_t *want, const struct nvidia_report *r,
                       struct err *e)
{
    if (CRYPTO_memcmp(want, r->request_nonce, NVIDIA_NONCE_BYTES) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(want, NVIDIA_NONCE_BYTES);
    _cleanup_free_ char *actual = hex_encode(r->request_nonce, NVIDIA_NONCE_BYTES);
    return err_refuse(e, ERR_DENIED, clause, expected, "%s", actual);
}

/* The request has room for 32 bytes: who asks for both a nonce and report data must mean the same
 * by them. */
static int check_bound(const struct nvidia_device *d, const struct appraisal_input *in,
                       const struct nvidia_report *r, int *ret_checked, struct err *e)
{
    uint8_t stated[NVIDIA_NONCE_BYTES];

    if (in->nonce.n && in->nonce.n != NVIDIA_NONCE_BYTES) {
        return err_refuse(e, ERR_INVALID, "evidence.nonce", "32 bytes to compare with",
                          "%zu bytes asked for", in->nonce.n);
    }
    if ((in->nonce.n && check_nonce("evidence.nonce", in->nonce.p, r, e)) ||
        (in->report_data && check_nonce("evidence.nonce", in->report_data, r, e))) {
        return -1;
    }
    if (d->nonce) {
        if (hex_decode(d->nonce, stated, sizeof(stated), NULL)) {
            return err_refuse(e, ERR_INVALID, "evidence.nonce", "64 hex digits", "other text");
        }
        if (check_nonce("evidence.nonce", stated, r, e)) {
            return -1;
        }
    }
    *ret_checked = in->nonce.n || in->report_data;
    return 0;
}

/* ---- with one chain ---- */

static int check_arch(const struct nvidia_device *d, enum nvidia_arch arch, struct err *e)
{
    if (!d->arch || streq(d->arch, nvidia_arch_name(arch))) {
        return 0;
    }
    return err_refuse(e, ERR_DENIED, "evidence.arch", nvidia_arch_name(arch), "%.64s", d->arch);
}

/* The report's FWID is the leaf's. A switch's report has none, and its leaf is all there is. */
static int check_fwid(const struct nvidia_report *r, const struct nvidia_chain *c,
                      const uint8_t **ret, struct err *e)
{
    struct bytes reported = nvidia_field(r, NVIDIA_FIELD_FWID);
    const uint8_t *fwid;

    if (!reported.p && nvidia_is_switch(c->arch)) {
        *ret = NULL;
        return 0;
    }
    if (reported.n != NVIDIA_FWID_BYTES) {
        return err_refuse(e, ERR_INVALID, "evidence.fwid", "48 bytes in the report", "%zu",
                          reported.n);
    }
    if (nvidia_leaf_fwid(c->v[0], &fwid, e)) {
        return -1;
    }
    if (memcmp(fwid, reported.p, NVIDIA_FWID_BYTES) != 0) {
        _cleanup_free_ char *expected = hex_encode(fwid, NVIDIA_FWID_BYTES);
        _cleanup_free_ char *actual = hex_encode(reported.p, reported.n);
        return err_refuse(e, ERR_DENIED, "evidence.fwid", expected, "%s", actual);
    }
    *ret = fwid;
    return 0;
}

static int check_versions(const struct nvidia_report *r, enum nvidia_arch arch, struct err *e)
{
    struct bytes driver = nvidia_field(r, NVIDIA_FIELD_DRIVER_VERSION);
    struct bytes vbios = nvidia_field(r, NVIDIA_FIELD_VBIOS_VERSION);

    if (!nvidia_is_switch(arch) && !driver.n) {
        return err_refuse(e, ERR_INVALID, "evidence.driver_version", "in the report", "none");
    }
    if (nvidia_is_switch(arch) ? !vbios.n : vbios.n != 8) {
        return err_refuse(e, ERR_INVALID, "evidence.vbios_version", "in the report", "%zu bytes",
                          vbios.n);
    }
    return 0;
}

static int try_chain(struct certs *store, const struct nvidia_device *d,
                     const struct appraisal_input *in, const struct nvidia_anchors *anchors,
                     struct nvidia_verified *v, struct err *e)
{
    const struct nvidia_report *r = &v->report;
    const struct ec_key *key;

    return nvidia_chain_verify(store, &v->chain, anchors, in->now_ms, e) ||
                   cert_ec_key(v->chain.v[0], EC_P384, "evidence.chain[0].public_key", &key, e) ||
                   ec_verify("evidence.signature", key, r->signed_bytes, r->signature, e) ||
                   check_arch(d, v->chain.arch, e) || check_fwid(r, &v->chain, &v->fwid, e) ||
                   check_versions(r, v->chain.arch, e) ||
                   nvidia_ocsp_check(store, in->collateral, &v->chain, anchors, in->now_ms,
                                     &v->ocsp, e)
               ? -1
               : 0;
}

/* ---- which chain ---- */

static int fits(const struct nvidia_report *r, const struct cert *leaf)
{
    struct bytes reported = nvidia_field(r, NVIDIA_FIELD_FWID);
    const uint8_t *fwid;

    return !reported.p ||
           (reported.n == NVIDIA_FWID_BYTES && nvidia_leaf_fwid(leaf, &fwid, NULL) == 0 &&
            memcmp(fwid, reported.p, NVIDIA_FWID_BYTES) == 0);
}

static int is_leaf_item(const struct collateral *c, size_t i)
{
    const struct item *x = collateral_at(c, i);

    return x->kind == ITEM_CERT && nvidia_is_leaf(x->cert);
}

static int signed_by(const struct nvidia_report *r, struct cert *leaf)
{
    const struct ec_key *key;

    return cert_ec_key(leaf, EC_P384, "", &key, NULL) == 0 &&
           ec_verify("", key, r->signed_bytes, r->signature, NULL) == 0;
}

/* The leaf whose firmware fits and whose key has signed; else the first that fits, else the first,
 * to say what is wrong. The number of the item; that of items: none. Devices of one kind have the
 * same firmware, so its identity alone does not tell them apart. */
static size_t find_leaf(const struct collateral *c, const struct nvidia_report *r,
                        size_t *ret_first)
{
    size_t n = collateral_n(c), first = n, fitting = n;
    unsigned tries = 0;

    for (size_t i = 0; i < n && tries < NVIDIA_DEVICES_MAX; i++) {
        if (!is_leaf_item(c, i)) {
            continue;
        }
        first = i < first ? i : first;
        *ret_first = first;
        if (!fits(r, collateral_at(c, i)->cert)) {
            continue;
        }
        fitting = i < fitting ? i : fitting;
        tries++;
        if (signed_by(r, collateral_at(c, i)->cert)) {
            return i;
        }
    }
    return fitting < n ? fitting : first;
}

/* Chains stand leaf first, so nothing in front of the first leaf belongs to one. */
static int by_bag(struct certs *store, const struct nvidia_device *d,
                  const struct appraisal_input *in, const struct nvidia_anchors *anchors,
                  struct nvidia_verified *v, struct err *e)
{
    size_t first = 0, at = find_leaf(in->collateral, &v->report, &first);

    if (at == collateral_n(in->collateral)) {
        return err_refuse(e, ERR_NOT_FOUND, "evidence.chain",
                          "the device's certificates, leaf first, in the evidence or the "
                          "collateral",
                          "none");
    }
    nvidia_chain_collect(in->collateral, first, at, anchors, &v->chain);
    return try_chain(store, d, in, anchors, v, e);
}

int nvidia_verify(struct certs *store, const struct nvidia_device *d,
                  const struct appraisal_input *in, const struct nvidia_anchors *anchors,
                  struct nvidia_verified *ret, struct err *e)
{
    struct nvidia_verified v = {0};

    if (nvidia_report_parse(buf_bytes(&d->report), &v.report, e) ||
        check_bound(d, in, &v.report, &v.nonce_checked, e)) {
        return -1;
    }
    if (d->chain.n) {
        if (certs_add_pem(store, "evidence.certificate", buf_bytes(&d->chain), v.chain.v,
                          CERT_CHAIN_MAX, &v.chain.n, e)) {
            return -1;
        }
        nvidia_chain_close(&v.chain, anchors);
        if (try_chain(store, d, in, anchors, &v, e)) {
            return -1;
        }
    } else if (by_bag(store, d, in, anchors, &v, e)) {
        return -1;
    }
    *ret = v;
    return 0;
}

/* ---- claims ---- */

/* "x-nvidia-gpu-..." or "x-nvidia-switch-...". */
static void put(json_t *o, const struct nvidia_verified *v, const char *name, json_t *take)
{
    char key[96];

    snprintf(key, sizeof(key), "x-nvidia-%s-%s", nvidia_is_switch(v->chain.arch) ? "switch" : "gpu",
             name);
    json_object_set_new(o, key, take);
}

static json_t *hex_of(struct bytes b)
{
    _cleanup_free_ char *hex = hex_encode(b.p, b.n);

    return json_string(hex);
}

/* Text with zero bytes behind it; hex where it is none. */
static json_t *text_of(struct bytes b)
{
    size_t n = b.n;

    while (n && !b.p[n - 1]) {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        if (b.p[i] < ' ' || b.p[i] > '~') {
            return hex_of(b);
        }
    }
    return json_stringn((const char *)b.p, n);
}

/* A GPU's is a number, low byte first, and an OEM byte: "96.00.A5.00.01". */
static json_t *vbios_of(const struct nvidia_verified *v)
{
    struct bytes b = nvidia_field(&v->report, NVIDIA_FIELD_VBIOS_VERSION);
    char text[24];

    if (nvidia_is_switch(v->chain.arch)) {
        return text_of(b);
    }
    snprintf(text, sizeof(text), "%02X.%02X.%02X.%02X.%02X", b.p[3], b.p[2], b.p[1], b.p[0],
             b.p[4]);
    return json_string(text);
}

static void put_fields(json_t *o, const struct nvidia_verified *v)
{
    static const struct {
        enum nvidia_field type;
        const char *name;
        int is_text;
    } fields[] = {
        {NVIDIA_FIELD_DRIVER_VERSION, "driver-version", 1},
        {NVIDIA_FIELD_PROJECT, "project", 1},
        {NVIDIA_FIELD_PROJECT_SKU, "project-sku", 1},
        {NVIDIA_FIELD_PROJECT_SKU_MOD, "project-sku-mod", 1},
        {NVIDIA_FIELD_CHIP_SKU, "chip-sku", 1},
        {NVIDIA_FIELD_CHIP_SKU_MOD, "chip-sku-mod", 1},
        {NVIDIA_FIELD_BOARD_ID, "board-id", 0},
        {NVIDIA_FIELD_NVDEC0_STATUS, "nvdec0-status", 0},
        {NVIDIA_FIELD_PPCIE_STATUS, "protected-pcie-status", 0},
        {NVIDIA_FIELD_FEATURE_FLAG, "feature-flag", 0},
        {NVIDIA_FIELD_SWITCH_PDI, "pdi", 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        struct bytes b = nvidia_field(&v->report, fields[i].type);
        if (b.n) {
            put(o, v, fields[i].name, fields[i].is_text ? text_of(b) : hex_of(b));
        }
    }
    put(o, v, nvidia_is_switch(v->chain.arch) ? "bios-version" : "vbios-version", vbios_of(v));
}

static void put_identity(json_t *o, const struct nvidia_verified *v)
{
    const struct cert *leaf = v->chain.v[0];
    BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(leaf->x), NULL);
    char *ueid = serial ? BN_bn2dec(serial) : NULL;
    char cn[128];

    json_object_set_new(o, "ueid", json_string(ueid ? ueid : ""));
    OPENSSL_free(ueid);
    BN_free(serial);
    cert_subject_cn(v->chain.v[1], cn);
    json_object_set_new(o, "hwmodel", json_string(cn));
    json_object_set_new(o, "oemid", json_string("5703"));
    json_object_set_new(o, "arch", json_string(nvidia_arch_name(v->chain.arch)));
    json_object_set_new(o, "x-nvidia-device-type",
                        json_string(nvidia_is_switch(v->chain.arch) ? "nvswitch" : "gpu"));
    json_object_set_new(o, "eat_nonce", hex_of(BYTES(v->report.request_nonce, NVIDIA_NONCE_BYTES)));
    json_object_set_new(o, "leaf_sha256", hex_of(BYTES(leaf->sha256, sizeof(leaf->sha256))));
    json_object_set_new(o, "root_sha256", hex_of(BYTES(v->chain.v[v->chain.n - 1]->sha256, 32)));
}

static json_t *chain_claims(const struct nvidia_verified *v)
{
    json_t *o = json_object();
    int64_t until = INT64_MAX;
    char text[32];

    for (size_t i = 0; i < v->chain.n; i++) {
        until = v->chain.v[i]->not_after_ms < until ? v->chain.v[i]->not_after_ms : until;
    }
    rfc3339_utc(until, text);
    json_object_set_new(o, "x-nvidia-cert-expiration-date", json_string(text));
    json_object_set_new(o, "x-nvidia-cert-status", json_string("valid"));
    if (v->ocsp) {
        json_object_set_new(o, "x-nvidia-cert-ocsp-status", json_string("good"));
    }
    return o;
}

static json_t *measurements_of(const struct nvidia_report *r)
{
    json_t *o = json_object();
    char index[8];

    for (size_t i = 0; i < r->n_measurements; i++) {
        snprintf(index, sizeof(index), "%u", r->measurements[i].index);
        json_object_set_new(o, index, hex_of(r->measurements[i].value));
    }
    return o;
}

json_t *nvidia_claims(const struct nvidia_verified *v)
{
    json_t *o = json_object();

    put_identity(o, v);
    put_fields(o, v);
    put(o, v, "arch-check", json_true());
    put(o, v, "attestation-report-parsed", json_true());
    put(o, v, "attestation-report-signature-verified", json_true());
    put(o, v, "attestation-report-cert-chain", chain_claims(v));
    if (v->nonce_checked) {
        put(o, v, "attestation-report-nonce-match", json_true());
    }
    if (v->fwid) {
        put(o, v, "attestation-report-cert-chain-fwid-match", json_true());
        put(o, v, "fwid", hex_of(BYTES(v->fwid, NVIDIA_FWID_BYTES)));
    }
    json_object_set_new(o, "measurements", measurements_of(&v->report));
    return o;
}

/* ---- all devices ---- */

static int is_class(const json_t *device, const char *key)
{
    const char *type = json_string_value(json_object_get(device, "x-nvidia-device-type"));
    const char *class = strncmp(key, "x-nvidia-gpu-", 13) == 0      ? "gpu"
                        : strncmp(key, "x-nvidia-switch-", 16) == 0 ? "nvswitch"
                                                                    : NULL;

    return !class || streq(type, class);
}

static int all_agree(const json_t *devices, const char *key, const json_t *value)
{
    size_t i;
    json_t *d;

    json_array_foreach(devices, i, d)
    {
        if (is_class(d, key) && !json_equal(json_object_get(d, key), value)) {
            return 0;
        }
    }
    return 1;
}

static json_t *join(json_t *take_devices)
{
    size_t n = json_array_size(take_devices), i;
    json_t *o = json_object(), *d, *value;
    const char *key;

    json_array_foreach(take_devices, i, d)
    {
        json_object_foreach(d, key, value)
        {
            if (!json_object_get(o, key) && all_agree(take_devices, key, value)) {
                json_object_set(o, key, value);
            }
        }
    }
    json_object_set_new(o, "device_count", json_integer((json_int_t)n));
    if (n > 1) {
        json_object_set_new(o, "devices", take_devices);
    } else {
        json_decref(take_devices);
    }
    return o;
}

/* One device's report, however often it is shown, is one device. */
static int check_once(uint8_t (*seen)[32], size_t n, const struct nvidia_chain *c, struct err *e)
{
    char cn[128];

    for (size_t i = 0; i < n; i++) {
        if (memcmp(seen[i], c->v[1]->sha256, 32) == 0) {
            cert_subject_cn(c->v[1], cn);
            return err_refuse(e, ERR_DENIED, "evidence.devices", "each device once",
                              "device %zu, %s, again", i, cn);
        }
    }
    memcpy(seen[n], c->v[1]->sha256, 32);
    return 0;
}

static int appraise_all(const struct appraisal_input *in, struct certs *store,
                        const struct nvidia_anchors *anchors, const struct nvidia_evidence *ev,
                        json_t *devices, int *ret_ocsp, struct err *e)
{
    uint8_t seen[NVIDIA_DEVICES_MAX][32];
    struct nvidia_verified v;

    *ret_ocsp = 1;
    for (size_t i = 0; i < ev->n; i++) {
        if (nvidia_verify(store, &ev->v[i], in, anchors, &v, e) ||
            check_once(seen, i, &v.chain, e)) {
            return ev->n > 1 ? err_wrap(e, "device %zu", i) : -1;
        }
        *ret_ocsp &= v.ocsp;
        json_array_append_new(devices, nvidia_claims(&v));
    }
    return 0;
}

static int appraise(const struct appraisal_input *in, struct certs *store,
                    const struct appraisal_policy *policy, struct appraisal *ret, struct err *e)
{
    _cleanup_(nvidia_evidence_done) struct nvidia_evidence ev = {0};
    _cleanup_(nvidia_anchors_done) struct nvidia_anchors anchors = {0};
    _cleanup_json_ json_t *devices = json_array();
    int ocsp;

    if (nvidia_evidence_take(in->evidence, &ev, e) || nvidia_anchors(store, policy, &anchors, e) ||
        appraise_all(in, store, &anchors, &ev, devices, &ocsp, e)) {
        return -1;
    }
    *ret = (struct appraisal){.claims = join(TAKE_PTR(devices)),
                              .policy_id = "coffer/nvidia/v1",
                              .tcb_status = TCB_UNVERIFIED,
                              .tier = TIER_HARDWARE,
                              .unchecked = json_array()};
    if (!ocsp) {
        json_array_append_new(ret->unchecked, json_string("ocsp"));
    }
    json_array_append_new(ret->unchecked, json_string("rim"));
    ret->vector[EAR_HARDWARE] = WARNING; /* without a RIM nobody knows how it is configured */
    return 0;
}

int nvidia_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                    struct appraisal *ret, struct err *e)
{
    _cleanup_(certs_freep) struct certs *own = NULL;

    if (!in->collateral) {
        own = certs_new(OWN_CERTS_MAX);
    }
    return appraise(in, own ? own : collateral_certs(in->collateral), policy, ret, e);
}
