#include "appraise/azure.h"

#include <openssl/crypto.h>

#include "appraise/dcap_quote.h"
#include "appraise/snp_report.h"
#include "appraise/tpm_key.h"
#include "common/jcs.h"

#define REQUEST_REPORT 2u
#define REPORT_AT 32u
#define RUNTIME_AT (REPORT_AT + SNP_REPORT_BYTES)
#define VAR_DATA_AT (RUNTIME_AT + 20u)
#define HASH_SHA256 1u
#define TD_REPORT_DATA_AT 128u
#define SNP_REPORT_DATA_AT 0x50u
#define VAR_DATA_MAX_BYTES (AZURE_HCL_MAX_BYTES - VAR_DATA_AT)
#define RSA_MAX_BYTES 512u

static int check_header(struct bytes in, struct err *e)
{
    if (in.n > AZURE_HCL_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "evidence.hcl_report", "at most 8192 bytes", "%zu",
                          in.n);
    }
    if (in.n < VAR_DATA_AT || memcmp(in.p, "HCLA", 4) != 0) {
        return err_refuse(e, ERR_INVALID, "evidence.hcl_report", "HCLA, a report and its data",
                          "%zu bytes of something else", in.n);
    }
    uint32_t version = dcap_u32(in.p + 4), request = dcap_u32(in.p + 12);
    if (version < 1 || version > 2 || request != REQUEST_REPORT || dcap_u32(in.p + 16)) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.hcl_report.header",
                          "version 1 or 2, request type 2, status 0", "%u, %u, %u", version,
                          request, dcap_u32(in.p + 16));
    }
    return 0;
}

static int check_binding(const struct azure_hcl *h, struct err *e)
{
    uint8_t digest[TPM_MAX_DIGEST], want[64] = {0};
    size_t n;

    if (tpm_hash(TPM_ALG_SHA256, h->var_data, digest, &n, e)) {
        return -1;
    }
    memcpy(want, digest, n);
    if (CRYPTO_memcmp(want, h->report_data, sizeof(want)) == 0) {
        return 0;
    }
    _cleanup_free_ char *expected = hex_encode(want, sizeof(want));
    _cleanup_free_ char *actual = hex_encode(h->report_data, sizeof(want));
    return err_refuse(e, ERR_DENIED, "evidence.var_data", expected, "%s", actual);
}

int azure_hcl_parse(struct bytes in, struct azure_hcl *ret, struct err *e)
{
    struct azure_hcl h;

    if (check_header(in, e)) {
        return -1;
    }
    const uint8_t *r = in.p + RUNTIME_AT;
    uint32_t kind = dcap_u32(r + 8), hash = dcap_u32(r + 12), n = dcap_u32(r + 16);
    if ((kind != AZURE_SNP && kind != AZURE_TDX) || hash != HASH_SHA256) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.hcl_report.runtime_data",
                          "report type 2 or 4, hash type 1", "%u, %u", kind, hash);
    }
    if (!n || n > in.n - VAR_DATA_AT) {
        return err_refuse(e, ERR_INVALID, "evidence.hcl_report.runtime_data",
                          "as many bytes as it says", "%zu of %u", in.n - VAR_DATA_AT, n);
    }
    h.kind = (enum azure_kind)kind;
    h.report =
        BYTES(in.p + REPORT_AT, kind == AZURE_SNP ? SNP_REPORT_BYTES : AZURE_TD_REPORT_BYTES);
    h.report_data = h.report.p + (kind == AZURE_SNP ? SNP_REPORT_DATA_AT : TD_REPORT_DATA_AT);
    h.var_data = BYTES(in.p + VAR_DATA_AT, n);
    if (check_binding(&h, e)) {
        return -1;
    }
    *ret = h;
    return 0;
}

/* ---- the key in it ---- */

static int jwk_number(const json_t *jwk, const char *name, struct buf *ret)
{
    const char *s = json_string_value(json_object_get(jwk, name));

    return s && b64url_decode(s, strlen(s), ret, NULL) == 0 && ret->n ? 0 : -1;
}

static int take_jwk(const json_t *jwk, struct tpm_ak *ret)
{
    struct tpm_ak ak = {
        .parts = BUF_INIT(RSA_MAX_BYTES + 1),
        .pub = {.type = TPM_ALG_RSA, .scheme = TPM_ALG_RSASSA, .scheme_hash = TPM_ALG_SHA256}};
    _cleanup_buf_ struct buf exponent = BUF_INIT(4);
    const char *kty = json_string_value(json_object_get(jwk, "kty"));

    if (!kty || !streq(kty, "RSA") || jwk_number(jwk, "n", &ak.parts) ||
        jwk_number(jwk, "e", &exponent) || !(ak.parts.p[0] & 0x80) || ak.parts.n < 256 ||
        ak.parts.n > RSA_MAX_BYTES) {
        tpm_ak_done(&ak);
        return -1;
    }
    for (size_t i = 0; i < exponent.n; i++) {
        ak.pub.rsa_exponent = ak.pub.rsa_exponent << 8 | exponent.p[i];
    }
    ak.pub.rsa_n = buf_bytes(&ak.parts);
    ak.pub.rsa_bits = (uint16_t)(8 * ak.parts.n);
    *ret = ak;
    return 0;
}

int azure_hcl_ak(const struct azure_hcl *h, struct tpm_ak *ret, json_t **ret_json, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    const json_t *found = NULL;
    struct err why = {0};
    size_t i, n = 0;
    json_t *key;

    if (json_parse("var_data", h->var_data, VAR_DATA_MAX_BYTES, &j, &why)) {
        return err_refuse(e, ERR_INVALID, "evidence.var_data", "JSON", "%.200s", why.msg);
    }
    json_array_foreach(json_object_get(j, "keys"), i, key)
    {
        const char *kid = json_string_value(json_object_get(key, "kid"));
        if (kid && streq(kid, "HCLAkPub")) {
            found = key;
            n++;
        }
    }
    if (n != 1 || take_jwk(found, ret)) {
        return err_refuse(e, ERR_INVALID, "evidence.var_data.keys",
                          "one RSA key of 2048 to 4096 bits named HCLAkPub",
                          n == 1 ? "another key" : "%zu of that name", n);
    }
    *ret_json = TAKE_PTR(j);
    return 0;
}
