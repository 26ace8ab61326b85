#include "appraise/vtpm.h"

#include <openssl/crypto.h>

#include "appraise/ek.h"

#define ATTEST_KEY_MAX_BYTES 4096u
#define EVIDENCE_JSON_MAX_BYTES (256u * 1024)
#define PUBLIC_MAX_BYTES 1024u
#define QUOTE_MAX_BYTES 1024u
#define SIG_MAX_BYTES 1024u
#define DIGEST_BYTES 32u

/* AR4SI. Hardware and runtime-opaque are warnings: the TPM is genuine by the enrolled host's own
 * word, and the VM's memory is open to that host. The image is known, from its first instruction to
 * its last file; what it runs then is the job's own business. */
#define HARDWARE_BY_HOST 32
#define MEMORY_OPEN 32
#define EXECUTABLES_BOOT 3
#define CONFIGURATION_GOOD 2
#define INSTANCE_KNOWN 2

#define AK_MUST                                                                                    \
    (TPM_FIXED_TPM | TPM_FIXED_PARENT | TPM_SENSITIVE_DATA_ORIGIN | TPM_RESTRICTED | TPM_SIGN)

struct evidence {
    json_t *json;
    struct buf ak_pub, credential, quote, sig, log;
    struct buf certs[EK_MAX_CERTS];
    size_t n_certs;
    uint8_t pcr[TPM_PCRS][DIGEST_BYTES];
    uint32_t pcrs;
};

static void evidence_done(struct evidence *v)
{
    json_decref(v->json);
    buf_done(&v->ak_pub);
    buf_done(&v->credential);
    buf_done(&v->quote);
    buf_done(&v->sig);
    buf_done(&v->log);
    for (size_t i = 0; i < v->n_certs; i++) {
        buf_done(&v->certs[i]);
    }
}

/* Gives what is only malformed the clause that it is malformed in. */
static int in_clause(struct err *e, const char *clause, const char *expected)
{
    struct err as = {0};

    if (e && !e->clause[0] && e->code != ERR_INTERNAL) {
        err_refuse(&as, e->code, clause, expected, "%.250s", e->msg);
        as.origin = e->origin;
        *e = as;
    }
    return -1;
}

/* ---- JSON ---- */

static int get_b64url(const json_t *o, const char *key, size_t max, struct buf *ret, struct err *e)
{
    char clause[32], expected[64];
    const char *s;

    *ret = BUF_INIT(max);
    snprintf(clause, sizeof(clause), "evidence.%s", key);
    snprintf(expected, sizeof(expected), "base64url of 1 to %zu bytes", max);
    if (json_get_str(o, "evidence", key, &s, e)) {
        return in_clause(e, clause, expected);
    }
    if (b64url_decode(s, strlen(s), ret, NULL) || !ret->n) {
        return err_refuse(e, ERR_INVALID, clause, expected, "something else, %zu characters",
                          strlen(s));
    }
    return 0;
}

static int get_certs(const json_t *o, struct evidence *v, struct err *e)
{
    static const char clause[] = "evidence.ek_certs", expected[] = "1 to 8 certificates in base64";
    json_t *list;

    if (json_get_arr(o, "evidence", "ek_certs", &list, e)) {
        return in_clause(e, clause, expected);
    }
    size_t n = json_array_size(list);
    if (n < 1 || n > EK_MAX_CERTS) {
        return err_refuse(e, ERR_INVALID, clause, expected, "%zu", n);
    }
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        v->certs[i] = BUF_INIT(EK_CERT_MAX_BYTES);
        v->n_certs = i + 1;
        if (!s || b64_decode(s, strlen(s), &v->certs[i], NULL)) {
            return err_refuse(e, ERR_INVALID, clause, expected, "number %zu is something else", i);
        }
    }
    return 0;
}

static int get_pcrs(const json_t *o, struct evidence *v, struct err *e)
{
    static const char clause[] = "evidence.pcrs";
    json_t *map, *value;
    const char *key;

    if (json_get_obj(o, "evidence", "pcrs", &map, e)) {
        return in_clause(e, clause, "an object");
    }
    json_object_foreach(map, key, value)
    {
        const char *hex = json_string_value(value);
        size_t n = strspn(key, "0123456789");
        int pcr = n >= 1 && n <= 2 && !key[n] && (n == 1 || *key != '0')
                      ? (int)strtol(key, NULL, 10)
                      : TPM_PCRS;
        if (pcr >= TPM_PCRS || !(VTPM_PCRS & 1u << pcr) || !hex || strlen(hex) != 64 ||
            hex_decode(hex, v->pcr[pcr], DIGEST_BYTES, NULL)) {
            return err_refuse(e, ERR_INVALID, clause, "PCRs 0-7, 9, 11, 12 with 64 digits each",
                              "another member, or other digits");
        }
        v->pcrs |= 1u << pcr;
    }
    if (v->pcrs != VTPM_PCRS) {
        return err_refuse(e, ERR_INVALID, clause, "PCRs 0-7, 9, 11, 12", "%zu of them",
                          json_object_size(map));
    }
    return 0;
}

static int read_evidence(struct bytes in, struct evidence *v, struct err *e)
{
    static const char *const members[] = {"v",   "ak_pub", "ek_certs", "credential", "quote",
                                          "sig", "pcrs",   "eventlog", NULL};
    int64_t version;

    return json_parse("evidence", in, EVIDENCE_JSON_MAX_BYTES, &v->json, e) ||
                   json_only_keys(v->json, "evidence", members, e) ||
                   json_get_int(v->json, "evidence", "v", 1, 1, &version, e) ||
                   get_b64url(v->json, "ak_pub", PUBLIC_MAX_BYTES, &v->ak_pub, e) ||
                   get_certs(v->json, v, e) ||
                   get_b64url(v->json, "credential", CREDENTIAL_SECRET_BYTES, &v->credential, e) ||
                   get_b64url(v->json, "quote", QUOTE_MAX_BYTES, &v->quote, e) ||
                   get_b64url(v->json, "sig", SIG_MAX_BYTES, &v->sig, e) ||
                   get_pcrs(v->json, v, e) ||
                   get_b64url(v->json, "eventlog", EVENTLOG_MAX_BYTES, &v->log, e)
               ? -1
               : 0;
}

/* ---- keys ---- */

static int check_ek(const struct evidence *v, const struct appraisal_policy *policy, int64_t now_ms,
                    struct ek *ret, struct err *e)
{
    struct bytes certs[EK_MAX_CERTS];

    if (!policy->tpm_hosts || !policy->tpm_hosts->n) {
        return err_refuse(e, ERR_DENIED, "evidence.ek_certs",
                          "an endorsement key of an enrolled host", "no host is enrolled");
    }
    for (size_t i = 0; i < v->n_certs; i++) {
        certs[i] = buf_bytes(&v->certs[i]);
    }
    return ek_verify(certs, v->n_certs, policy->tpm_hosts, now_ms, ret, e)
               ? in_clause(e, "evidence.ek_certs", "an endorsement key")
               : 0;
}

static int check_ak(const struct evidence *v, struct tpm_public *ret, struct err *e)
{
    static const char clause[] = "evidence.ak_pub";

    if (tpm_public_parse(buf_bytes(&v->ak_pub), ret, e)) {
        return in_clause(e, clause, "the public area of an attestation key");
    }
    if ((ret->attributes & (AK_MUST | TPM_DECRYPT)) != AK_MUST) {
        return err_refuse(e, ERR_DENIED, clause,
                          "fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign, and not "
                          "decrypt",
                          "attributes 0x%08x", ret->attributes);
    }
    /* A restricted key without a scheme would sign under whichever it is asked for. */
    if (ret->scheme == TPM_ALG_NULL) {
        return err_refuse(e, ERR_DENIED, clause, "a key with a signing scheme of its own", "none");
    }
    return 0;
}

static int check_credential(const struct evidence *v, const uint8_t *proof, struct err *e)
{
    uint8_t actual[CREDENTIAL_PROOF_BYTES];

    if (credential_proof(buf_bytes(&v->credential), buf_bytes(&v->ak_pub), buf_bytes(&v->certs[0]),
                         actual, e)) {
        return -1;
    }
    if (!proof || CRYPTO_memcmp(proof, actual, sizeof(actual))) {
        return err_refuse(e, ERR_DENIED, "evidence.credential",
                          "the secret that was sent to this endorsement key for this attestation "
                          "key",
                          "another secret, or another key");
    }
    return 0;
}

/* ---- quote ---- */

static int check_binding(const struct tpm_quote *q, const uint8_t report_data[64], struct err *e)
{
    if (q->extra.n != 64 || CRYPTO_memcmp(q->extra.p, report_data, 64)) {
        _cleanup_free_ char *expected = hex_encode(report_data, 64);
        _cleanup_free_ char *actual = hex_encode(q->extra.p, q->extra.n);
        return err_refuse(e, ERR_DENIED, "evidence.report_data", expected, "%s", actual);
    }
    return 0;
}

static int check_registers(const struct evidence *v, const struct tpm_quote *q, uint16_t hash,
                           struct err *e)
{
    uint8_t all[TPM_PCRS * DIGEST_BYTES], digest[TPM_MAX_DIGEST];
    size_t n = 0, digest_n;

    if (q->n_selections != 1 || q->selections[0].hash != TPM_ALG_SHA256 ||
        q->selections[0].pcrs != VTPM_PCRS) {
        return err_refuse(e, ERR_DENIED, "evidence.quote.pcrs", "SHA-256 of PCRs 0-7, 9, 11, 12",
                          "%zu selections, the first 0x%04x of 0x%06x", q->n_selections,
                          q->selections[0].hash, q->selections[0].pcrs);
    }
    for (size_t i = 0; i < TPM_PCRS; i++) {
        if (VTPM_PCRS & 1u << i) {
            memcpy(all + n, v->pcr[i], DIGEST_BYTES);
            n += DIGEST_BYTES;
        }
    }
    /* By the signature's hash, not the bank's (Part 3, TPM2_Quote). */
    if (tpm_hash(hash, BYTES(all, n), digest, &digest_n, e)) {
        return -1;
    }
    if (q->pcr_digest.n != digest_n || CRYPTO_memcmp(q->pcr_digest.p, digest, digest_n)) {
        _cleanup_free_ char *expected = hex_encode(q->pcr_digest.p, q->pcr_digest.n);
        _cleanup_free_ char *actual = hex_encode(digest, digest_n);
        return err_refuse(e, ERR_DENIED, "evidence.pcrs", expected, "%s", actual);
    }
    return 0;
}

static int check_quote(const struct evidence *v, const struct tpm_public *ak,
                       const uint8_t report_data[64], struct tpm_quote *ret, struct err *e)
{
    struct tpm_signature sig;

    if (tpm_quote_parse(buf_bytes(&v->quote), ret, e)) {
        return in_clause(e, "evidence.quote", "a quote that the TPM made");
    }
    if (check_binding(ret, report_data, e)) {
        return -1;
    }
    if (tpm_signature_parse(buf_bytes(&v->sig), &sig, e) ||
        tpm_signature_verify(ak, &sig, buf_bytes(&v->quote), 0, e)) {
        return in_clause(e, "evidence.sig", "a signature by the attestation key");
    }
    return check_registers(v, ret, sig.hash, e);
}

/* ---- event log ---- */

static int check_log(const struct evidence *v, struct eventlog *ret, struct err *e)
{
    static const char clause[] = "evidence.eventlog";

    if (eventlog_parse(buf_bytes(&v->log), ret, e)) {
        return in_clause(e, clause, "a TCG crypto-agile event log");
    }
    if (!ret->has[BANK_SHA256]) {
        return err_refuse(e, ERR_INVALID, clause, "SHA-256 digests", "none");
    }
    for (size_t i = 0; i < TPM_PCRS; i++) {
        if (VTPM_PCRS & 1u << i && memcmp(ret->pcr[BANK_SHA256][i], v->pcr[i], DIGEST_BYTES) != 0) {
            _cleanup_free_ char *actual = hex_encode(ret->pcr[BANK_SHA256][i], DIGEST_BYTES);
            _cleanup_free_ char *value = hex_encode(v->pcr[i], DIGEST_BYTES);
            char expected[128];
            snprintf(expected, sizeof(expected), "a replay to PCR %zu = %s", i, value);
            return err_refuse(e, ERR_DENIED, clause, expected, "%s", actual);
        }
    }
    return 0;
}

/* ---- the verdict ---- */

static json_t *claims_of(const struct evidence *v, const struct ek *ek,
                         const struct refvals_image *image, const char *size,
                         const struct tpm_quote *q)
{
    _cleanup_free_ char *uki = hex_encode(image->uki_sha256, DIGEST_BYTES);
    _cleanup_free_ char *firmware = hex_encode(image->vtpm.firmware_sha256, DIGEST_BYTES);
    _cleanup_free_ char *cert = hex_encode(ek->sha256, DIGEST_BYTES);
    json_t *pcrs = json_object();

    for (size_t i = 0; i < TPM_PCRS; i++) {
        if (VTPM_PCRS & 1u << i) {
            _cleanup_free_ char *hex = hex_encode(v->pcr[i], DIGEST_BYTES);
            char key[8];
            snprintf(key, sizeof(key), "%zu", i);
            json_object_set_new(pcrs, key, json_string(hex));
        }
    }
    return json_pack("{s:s,s:s,s:{s:s,s:s,s:s},s:{s:s,s:s},s:s,s:I,s:o}", "host", ek->host->name,
                     "ek", cert, "image", "name", image->name, "version", image->version, "uki",
                     uki, "firmware", "name", image->vtpm.firmware, "sha256", firmware, "size",
                     size, "reset_count", (json_int_t)q->reset_count, "pcrs", pcrs);
}

static int judge(const struct evidence *v, const struct ek *ek, const struct tpm_quote *q,
                 const struct appraisal_policy *policy, struct appraisal *ret, struct err *e)
{
    _cleanup_(eventlog_done) struct eventlog log = {0};
    const struct refvals_image *image;
    uint8_t pcr[TPM_PCRS][DIGEST_BYTES];
    const char *size;

    if (!policy->refvals) {
        return err_refuse(e, ERR_DENIED, "evidence.pcr", "an image with reference values for vtpm",
                          "none is configured");
    }
    memcpy(pcr, v->pcr, sizeof(pcr));
    if (check_log(v, &log, e) || vtpm_compare(pcr, &log, policy->refvals, &image, &size, e)) {
        return -1;
    }
    *ret = (struct appraisal){.claims = claims_of(v, ek, image, size, q),
                              .policy_id = "coffer/vtpm/v1"};
    ret->vector[EAR_HARDWARE] = HARDWARE_BY_HOST;
    ret->vector[EAR_RUNTIME_OPAQUE] = MEMORY_OPEN;
    ret->vector[EAR_EXECUTABLES] = EXECUTABLES_BOOT;
    ret->vector[EAR_CONFIGURATION] = CONFIGURATION_GOOD;
    ret->vector[EAR_INSTANCE_IDENTITY] = INSTANCE_KNOWN;
    return 0;
}

int vtpm_appraise(const struct appraisal_input *in, const struct appraisal_policy *policy,
                  struct appraisal *ret, struct err *e)
{
    _cleanup_(evidence_done) struct evidence v = {0};
    _cleanup_(ek_done) struct ek ek = {0};
    struct tpm_public ak;
    struct tpm_quote q;

    if (read_evidence(in->evidence, &v, e)) {
        return in_clause(e, "evidence", "the members of vtpm evidence");
    }
    return check_ek(&v, policy, in->now_ms, &ek, e) || check_ak(&v, &ak, e) ||
                   check_credential(&v, in->proof, e) ||
                   check_quote(&v, &ak, in->report_data, &q, e) ||
                   judge(&v, &ek, &q, policy, ret, e)
               ? -1
               : 0;
}

int vtpm_challenge(struct bytes attest_key, const struct appraisal_policy *policy, int64_t now_ms,
                   struct appraisal_challenge *ret, struct err *e)
{
    static const char *const members[] = {"ak_pub", "ek_certs", NULL};
    _cleanup_(evidence_done) struct evidence v = {0};
    _cleanup_(ek_done) struct ek ek = {0};
    uint8_t secret[CREDENTIAL_SECRET_BYTES], name[TPM_NAME_MAX];
    struct tpm_public ak;
    size_t name_n;

    if (json_parse("attest_key", attest_key, ATTEST_KEY_MAX_BYTES, &v.json, e) ||
        json_only_keys(v.json, "attest_key", members, e) ||
        get_b64url(v.json, "ak_pub", PUBLIC_MAX_BYTES, &v.ak_pub, e) || get_certs(v.json, &v, e)) {
        return in_clause(e, "evidence.attest_key", "the attestation key and its TPM's certificate");
    }
    if (check_ek(&v, policy, now_ms, &ek, e) || check_ak(&v, &ak, e) ||
        tpm_name(&ak, name, &name_n, e)) {
        return -1;
    }
    ret->credential = BUF_INIT(CREDENTIAL_MAX_BYTES);
    random_bytes(secret, sizeof(secret));
    int rc = credential_proof(BYTES(secret, sizeof(secret)), buf_bytes(&v.ak_pub),
                              buf_bytes(&v.certs[0]), ret->proof, e) ||
             credential_make(ek.key, BYTES(name, name_n), secret, &ret->credential, e);
    OPENSSL_cleanse(secret, sizeof(secret));
    return rc ? in_clause(e, "evidence.ek_certs", "an endorsement key of a known kind") : 0;
}
