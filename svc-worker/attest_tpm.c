#include "svc-worker/attest_tpm.h"

#include <errno.h>
#include <fcntl.h>

#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>

#include "svc-worker/tpm_link.h"

#define CERT_MAX_BYTES 4096u
#define NV_CHUNK_BYTES 512u
#define LOG_MAX_BYTES (128u * 1024)
#define MARSHAL_MAX_BYTES 2048u
#define PCR_READS_MAX 8
#define NONE ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE
#define BY_PASSWORD ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE

static const char *device = "/dev/tpmrm0";
static const char *event_log = "/sys/kernel/security/tpm0/binary_bios_measurements";
static int step_ms = ATTEST_STEP_MS;

/* tpm2-tss writes of its own errors to standard error, in a form of its own; ours say it all.
 * Before there are threads, since it is the environment that tells it. */
__attribute__((constructor)) static void quieten(void)
{
    setenv("TSS2_LOG", "all+NONE", 0);
}

void vtpm_use(const char *path, const char *log, int ms)
{
    device = path;
    event_log = log;
    step_ms = ms;
}

/* PCRs 0-7, 9, 11, 12: firmware, image, command line, initramfs, sections, and what must be zero.
 */
static const TPML_PCR_SELECTION quoted_pcrs = {
    .count = 1,
    .pcrSelections = {
        {.hash = TPM2_ALG_SHA256, .sizeofSelect = 3, .pcrSelect = {0xff, 0x1a, 0x00}}}};

/* Where a TPM has its endorsement keys and their certificates (TCG EK Credential Profile 2.2.2;
 * swtpm_setup(8) has the keys there). The first that is there is used. */
static const struct {
    TPM2_HANDLE key;
    TPMI_RH_NV_INDEX cert;
} endorsements[] = {
    {0x81010001, 0x01c00002}, /* RSA-2048 */
    {0x81010016, 0x01c00016}, /* P-384 */
};

struct vtpm {
    struct tpm_link *link;
    ESYS_CONTEXT *esys;
    ESYS_TR ek, ak;
    TPM2B_PUBLIC ek_public;
    struct buf cert;
    char *ak_pub; /* base64url */
};

/* Errors of the TPM and of tpm2-tss. */
static int failed(const struct vtpm *t, const char *what, TSS2_RC rc, struct err *e)
{
    if (tpm_link_timed_out(t->link)) {
        return err_set(e, ERR_IO, "TPM, %s: no answer within %d ms", what, step_ms);
    }
    return err_set(e, ERR_IO, "TPM, %s: error 0x%08x", what, rc);
}

/* ---- endorsement key ---- */

/* 1 read, 0 there is none, -1. */
static int read_cert(struct vtpm *t, TPMI_RH_NV_INDEX index, struct err *e)
{
    TPM2B_NV_PUBLIC *pub = NULL;
    ESYS_TR nv = ESYS_TR_NONE;
    TSS2_RC rc = Esys_TR_FromTPMPublic(t->esys, index, NONE, &nv);

    if (rc) {
        return tpm_link_timed_out(t->link) ? failed(t, "its certificate", rc, e) : 0;
    }
    rc = Esys_NV_ReadPublic(t->esys, nv, NONE, &pub, NULL);
    size_t size = rc ? 0 : pub->nvPublic.dataSize;
    Esys_Free(pub);
    if (!rc && (!size || size > CERT_MAX_BYTES)) {
        Esys_TR_Close(t->esys, &nv);
        return err_set(e, ERR_TOO_LARGE, "TPM: expected a certificate of 1 to %u bytes, found %zu",
                       CERT_MAX_BYTES, size);
    }
    t->cert.n = 0;
    while (!rc && t->cert.n < size) {
        TPM2B_MAX_NV_BUFFER *part = NULL;
        size_t want = size - t->cert.n < NV_CHUNK_BYTES ? size - t->cert.n : NV_CHUNK_BYTES;
        rc = Esys_NV_Read(t->esys, ESYS_TR_RH_OWNER, nv, BY_PASSWORD, (uint16_t)want,
                          (uint16_t)t->cert.n, &part);
        if (!rc && (part->size != want || buf_add(&t->cert, part->buffer, part->size, e))) {
            rc = TSS2_ESYS_RC_MALFORMED_RESPONSE;
        }
        Esys_Free(part);
    }
    Esys_TR_Close(t->esys, &nv);
    return rc ? failed(t, "its certificate", rc, e) : 1;
}

static int find_ek(struct vtpm *t, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(endorsements); i++) {
        TPM2B_PUBLIC *pub = NULL;
        int found = read_cert(t, endorsements[i].cert, e);
        if (found < 0) {
            return -1;
        }
        if (!found || Esys_TR_FromTPMPublic(t->esys, endorsements[i].key, NONE, &t->ek)) {
            continue;
        }
        TSS2_RC rc = Esys_ReadPublic(t->esys, t->ek, NONE, &pub, NULL, NULL);
        if (rc) {
            return failed(t, "its endorsement key", rc, e);
        }
        t->ek_public = *pub;
        Esys_Free(pub);
        return 0;
    }
    return tpm_link_timed_out(t->link)
               ? failed(t, "its endorsement key", 0, e)
               : err_set(e, ERR_NOT_FOUND,
                         "TPM: expected an endorsement key with a certificate, found none");
}

/* ---- attestation key ---- */

static TPM2B_PUBLIC ak_template(void)
{
    TPM2B_PUBLIC in = {
        .publicArea = {
            .type = TPM2_ALG_ECC,
            .nameAlg = TPM2_ALG_SHA256,
            .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                                TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_SIGN_ENCRYPT |
                                TPMA_OBJECT_NODA,
            .parameters.eccDetail = {.symmetric.algorithm = TPM2_ALG_NULL,
                                     .scheme = {.scheme = TPM2_ALG_ECDSA,
                                                .details.ecdsa.hashAlg = TPM2_ALG_SHA256},
                                     .curveID = TPM2_ECC_NIST_P256,
                                     .kdf.scheme = TPM2_ALG_NULL},
            .unique.ecc = {.x.size = 32, .y.size = 32}}};

    /* A primary key follows from its template: this makes it this attempt's own. */
    random_bytes(in.publicArea.unique.ecc.x.buffer, 32);
    return in;
}

static int make_ak(struct vtpm *t, struct err *e)
{
    const TPM2B_PUBLIC in = ak_template();
    const TPM2B_SENSITIVE_CREATE sensitive = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    const TPM2B_DATA outside = {0};
    TPM2B_PUBLIC *out = NULL;
    uint8_t raw[MARSHAL_MAX_BYTES];
    size_t n = 0;
    TSS2_RC rc = Esys_CreatePrimary(t->esys, ESYS_TR_RH_ENDORSEMENT, BY_PASSWORD, &sensitive, &in,
                                    &outside, &no_pcrs, &t->ak, &out, NULL, NULL, NULL);

    rc = rc ? rc : Tss2_MU_TPMT_PUBLIC_Marshal(&out->publicArea, raw, sizeof(raw), &n);
    Esys_Free(out);
    if (rc) {
        return failed(t, "an attestation key", rc, e);
    }
    t->ak_pub = b64url_encode(raw, n);
    return 0;
}

int vtpm_begin(void **ret_state, struct buf *ret_key, struct err *e)
{
    struct vtpm *t = xcalloc(1, sizeof(*t));

    t->ek = t->ak = ESYS_TR_NONE;
    t->cert = BUF_INIT(CERT_MAX_BYTES);
    if (tpm_link_open(device, &t->link, e)) {
        vtpm_end(t);
        return -1;
    }
    tpm_link_allow(t->link, step_ms);
    TSS2_RC rc = Esys_Initialize(&t->esys, tpm_link_tcti(t->link), NULL);
    if (rc) {
        t->esys = NULL;
        failed(t, "its library", rc, e);
    }
    if (rc || find_ek(t, e) || make_ak(t, e)) {
        vtpm_end(t);
        return -1;
    }
    _cleanup_free_ char *cert = b64_encode(t->cert.p, t->cert.n);
    if (buf_addf(ret_key, e, "{\"ak_pub\":\"%s\",\"ek_certs\":[\"%s\"]}", t->ak_pub, cert)) {
        vtpm_end(t);
        return -1;
    }
    *ret_state = t;
    return 0;
}

void vtpm_end(void *state)
{
    struct vtpm *t = state;

    if (!t) {
        return;
    }
    if (t->ak != ESYS_TR_NONE) {
        Esys_FlushContext(t->esys, t->ak);
    }
    if (t->esys) {
        Esys_Finalize(&t->esys);
    }
    tpm_link_free(t->link);
    buf_done(&t->cert);
    free(t->ak_pub);
    free(t);
}

/* ---- credential ---- */

int vtpm_read_credential(struct bytes in, TPM2B_ID_OBJECT *ret_id,
                         TPM2B_ENCRYPTED_SECRET *ret_secret, struct err *e)
{
    size_t at = 0;

    if (Tss2_MU_TPM2B_ID_OBJECT_Unmarshal(in.p, in.n, &at, ret_id) ||
        Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal(in.p, in.n, &at, ret_secret) || at != in.n) {
        return err_refuse(e, ERR_INVALID, "challenge.credential",
                          "a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET",
                          "%zu bytes that are not", in.n);
    }
    return 0;
}

/* How the use of the endorsement key is allowed: keys of the older templates want a policy session
 * for which the endorsement hierarchy answers, the others a password, which is empty. */
static TSS2_RC authorise(struct vtpm *t, ESYS_TR *ret)
{
    const TPMT_SYM_DEF symmetric = {.algorithm = TPM2_ALG_NULL};
    ESYS_TR session = ESYS_TR_NONE;

    if (t->ek_public.publicArea.objectAttributes & TPMA_OBJECT_USERWITHAUTH) {
        *ret = ESYS_TR_PASSWORD;
        return TSS2_RC_SUCCESS;
    }
    TSS2_RC rc =
        Esys_StartAuthSession(t->esys, ESYS_TR_NONE, ESYS_TR_NONE, NONE, NULL, TPM2_SE_POLICY,
                              &symmetric, t->ek_public.publicArea.nameAlg, &session);
    if (rc) {
        return rc;
    }
    rc = Esys_PolicySecret(t->esys, ESYS_TR_RH_ENDORSEMENT, session, BY_PASSWORD, NULL, NULL, NULL,
                           0, NULL, NULL);
    if (rc) {
        Esys_FlushContext(t->esys, session);
        return rc;
    }
    *ret = session;
    return TSS2_RC_SUCCESS;
}

/* base64url of the secret. */
static int activate(struct vtpm *t, struct bytes credential, char **ret, struct err *e)
{
    TPM2B_ID_OBJECT id = {0};
    TPM2B_ENCRYPTED_SECRET sealed = {0};
    TPM2B_DIGEST *secret = NULL;
    ESYS_TR session = ESYS_TR_NONE;

    if (vtpm_read_credential(credential, &id, &sealed, e)) {
        return -1;
    }
    TSS2_RC rc = authorise(t, &session);
    if (rc) {
        return failed(t, "a session", rc, e);
    }
    rc = Esys_ActivateCredential(t->esys, t->ak, t->ek, ESYS_TR_PASSWORD, session, ESYS_TR_NONE,
                                 &id, &sealed, &secret);
    if (session != ESYS_TR_PASSWORD) {
        Esys_FlushContext(t->esys, session);
    }
    if (rc) {
        return (rc & 0xffff0000) || tpm_link_timed_out(t->link)
                   ? failed(t, "the credential", rc, e)
                   : err_refuse(e, ERR_BAD_SIGNATURE, "challenge.credential",
                                "one for this TPM and its attestation key",
                                "one that does not open (0x%08x)", rc);
    }
    *ret = b64url_encode(secret->buffer, secret->size);
    explicit_bzero(secret->buffer, secret->size);
    Esys_Free(secret);
    return 0;
}

/* ---- quote, registers, log ---- */

static int quote(struct vtpm *t, const uint8_t report_data[64], char **ret_quote, char **ret_sig,
                 struct err *e)
{
    const TPMT_SIG_SCHEME scheme = {.scheme = TPM2_ALG_NULL};
    TPM2B_DATA data = {.size = 64};
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *sig = NULL;
    uint8_t raw[MARSHAL_MAX_BYTES];
    size_t n = 0;

    memcpy(data.buffer, report_data, 64);
    TSS2_RC rc =
        Esys_Quote(t->esys, t->ak, BY_PASSWORD, &data, &scheme, &quoted_pcrs, &attest, &sig);
    rc = rc ? rc : Tss2_MU_TPMT_SIGNATURE_Marshal(sig, raw, sizeof(raw), &n);
    if (!rc) {
        *ret_quote = b64url_encode(attest->attestationData, attest->size);
        *ret_sig = b64url_encode(raw, n);
    }
    Esys_Free(attest);
    Esys_Free(sig);
    return rc ? failed(t, "a quote", rc, e) : 0;
}

/* What one TPM2_PCR_Read gave: at most eight registers, named by `got`. */
static int add_pcrs(const TPML_PCR_SELECTION *got, const TPML_DIGEST *values,
                    TPML_PCR_SELECTION *left, struct buf *ret, struct err *e)
{
    TPMS_PCR_SELECTION *rest = &left->pcrSelections[0];
    size_t k = 0;

    for (unsigned pcr = 0; got->count == 1 && pcr < 24; pcr++) {
        uint8_t bit = (uint8_t)(1u << pcr % 8);
        if (!(got->pcrSelections[0].pcrSelect[pcr / 8] & bit) ||
            !(rest->pcrSelect[pcr / 8] & bit) || k == values->count) {
            continue;
        }
        _cleanup_free_ char *hex = hex_encode(values->digests[k].buffer, values->digests[k].size);
        if (buf_addf(ret, e, "%s\"%u\":\"%s\"", ret->n ? "," : "", pcr, hex)) {
            return -1;
        }
        rest->pcrSelect[pcr / 8] &= (uint8_t)~bit;
        k++;
    }
    return k ? 0 : err_set(e, ERR_IO, "TPM: expected the values of registers, found none");
}

static int read_pcrs(struct vtpm *t, struct buf *ret, struct err *e)
{
    TPML_PCR_SELECTION left = quoted_pcrs;
    const TPMS_PCR_SELECTION *rest = &left.pcrSelections[0];

    for (int i = 0;
         i < PCR_READS_MAX && (rest->pcrSelect[0] | rest->pcrSelect[1] | rest->pcrSelect[2]); i++) {
        TPML_PCR_SELECTION *got = NULL;
        TPML_DIGEST *values = NULL;
        TSS2_RC rc = Esys_PCR_Read(t->esys, NONE, &left, NULL, &got, &values);
        int bad = rc ? failed(t, "its registers", rc, e) : add_pcrs(got, values, &left, ret, e);
        Esys_Free(got);
        Esys_Free(values);
        if (bad) {
            return -1;
        }
    }
    return 0;
}

/* The kernel says of this file that it has no bytes. */
static int read_log(struct buf *ret, struct err *e)
{
    _cleanup_close_ int fd = open(event_log, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ssize_t n;

    if (fd < 0) {
        return err_errno(e, "the event log %s", event_log);
    }
    if (buf_reserve(ret, LOG_MAX_BYTES + 1, e)) {
        return -1;
    }
    while ((n = read(fd, ret->p + ret->n, LOG_MAX_BYTES + 1 - ret->n)) > 0 ||
           (n < 0 && errno == EINTR)) {
        ret->n += n > 0 ? (size_t)n : 0;
    }
    if (n < 0) {
        return err_errno(e, "the event log %s", event_log);
    }
    return ret->n <= LOG_MAX_BYTES
               ? 0
               : err_set(e, ERR_TOO_LARGE, "the event log: expected at most %u bytes, found more",
                         LOG_MAX_BYTES);
}

int vtpm_collect(void *state, const uint8_t report_data[64], struct bytes credential,
                 struct buf *ret, struct err *e)
{
    struct vtpm *t = state;
    _cleanup_buf_ struct buf log = BUF_INIT(LOG_MAX_BYTES + 1), pcrs = BUF_INIT(4096);
    _cleanup_free_ char *secret = NULL, *attest = NULL, *sig = NULL;

    tpm_link_allow(t->link, step_ms);
    if (activate(t, credential, &secret, e) || quote(t, report_data, &attest, &sig, e) ||
        read_pcrs(t, &pcrs, e) || read_log(&log, e)) {
        return -1;
    }
    _cleanup_free_ char *cert = b64_encode(t->cert.p, t->cert.n);
    _cleanup_free_ char *log64 = b64url_encode(log.p, log.n);
    return buf_addf(ret, e,
                    "{\"v\":1,\"ak_pub\":\"%s\",\"ek_certs\":[\"%s\"],\"credential\":\"%s\","
                    "\"quote\":\"%s\",\"sig\":\"%s\",\"pcrs\":{%s},\"eventlog\":\"%s\"}",
                    t->ak_pub, cert, secret, attest, sig, (const char *)pcrs.p, log64);
}
