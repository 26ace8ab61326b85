/* Credentials that the verifier makes, opened by a software TPM, for each kind of endorsement key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <openssl/ec.h>
#include <tss2/tss2_mu.h>

#include "appraise/swtpm_testing.h"
#include "appraise/tpm_key.h"
#include "svc-worker/attest_tpm.h"

static char dir[64];
static struct swtpm tpm;

static TPM2B_PUBLIC storage_template(int rsa_bits, TPM2_ECC_CURVE curve, TPMI_ALG_HASH name_alg,
                                     uint16_t aes_bits)
{
    const TPMT_SYM_DEF_OBJECT aes = {
        .algorithm = TPM2_ALG_AES, .keyBits.aes = aes_bits, .mode.aes = TPM2_ALG_CFB};
    TPM2B_PUBLIC in = {
        .publicArea = {.nameAlg = name_alg,
                       .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                           TPMA_OBJECT_SENSITIVEDATAORIGIN |
                                           TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_RESTRICTED |
                                           TPMA_OBJECT_DECRYPT | TPMA_OBJECT_NODA}};

    if (rsa_bits) {
        in.publicArea.type = TPM2_ALG_RSA;
        in.publicArea.parameters.rsaDetail = (TPMS_RSA_PARMS){
            .symmetric = aes, .scheme.scheme = TPM2_ALG_NULL, .keyBits = (uint16_t)rsa_bits};
    } else {
        in.publicArea.type = TPM2_ALG_ECC;
        in.publicArea.parameters.eccDetail = (TPMS_ECC_PARMS){.symmetric = aes,
                                                              .scheme.scheme = TPM2_ALG_NULL,
                                                              .curveID = curve,
                                                              .kdf.scheme = TPM2_ALG_NULL};
    }
    return in;
}

static ESYS_TR make_primary(ESYS_CONTEXT *esys, const TPM2B_PUBLIC *in, struct buf *ret_pub)
{
    const TPM2B_SENSITIVE_CREATE sensitive = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    const TPM2B_DATA outside = {0};
    TPM2B_PUBLIC *out = NULL;
    ESYS_TR key = ESYS_TR_NONE;
    uint8_t raw[1024];
    size_t n = 0;

    assert_int_equal(Esys_CreatePrimary(esys, ESYS_TR_RH_ENDORSEMENT, ESYS_TR_PASSWORD,
                                        ESYS_TR_NONE, ESYS_TR_NONE, &sensitive, in, &outside,
                                        &no_pcrs, &key, &out, NULL, NULL, NULL),
                     0);
    assert_int_equal(Tss2_MU_TPMT_PUBLIC_Marshal(&out->publicArea, raw, sizeof(raw), &n), 0);
    SMUST(buf_add(ret_pub, raw, n, e));
    Esys_Free(out);
    return key;
}

/* One credential for each kind of key, opened by the TPM itself. */
static void test_credential_kinds(void **state)
{
    (void)state;
    static const struct {
        int rsa_bits;
        TPM2_ECC_CURVE curve;
        TPMI_ALG_HASH name_alg;
        uint16_t aes_bits;
    } kinds[] = {
        {2048, 0, TPM2_ALG_SHA256, 128},
        {3072, 0, TPM2_ALG_SHA384, 256},
        {0, TPM2_ECC_NIST_P256, TPM2_ALG_SHA256, 128},
        {0, TPM2_ECC_NIST_P384, TPM2_ALG_SHA384, 256},
    };
    struct tpm_link *link = NULL;
    ESYS_CONTEXT *esys = swtpm_esys(&tpm, &link);

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        _cleanup_buf_ struct buf ek_pub = BUF_INIT(1024), ak_pub = BUF_INIT(1024),
                                 made = BUF_INIT(CREDENTIAL_MAX_BYTES);
        TPM2B_PUBLIC in = storage_template(kinds[i].rsa_bits, kinds[i].curve, kinds[i].name_alg,
                                           kinds[i].aes_bits);
        uint8_t secret[CREDENTIAL_SECRET_BYTES], name[TPM_NAME_MAX];
        TPM2B_ID_OBJECT id;
        TPM2B_ENCRYPTED_SECRET sealed;
        TPM2B_DIGEST *opened = NULL;
        struct tpm_public pub;
        EVP_PKEY *key = NULL;
        size_t name_n;
        ESYS_TR ek = make_primary(esys, &in, &ek_pub);
        in = storage_template(0, TPM2_ECC_NIST_P256, TPM2_ALG_SHA256, 128);
        ESYS_TR ak = make_primary(esys, &in, &ak_pub);

        SMUST(tpm_public_parse(buf_bytes(&ak_pub), &pub, e));
        SMUST(tpm_name(&pub, name, &name_n, e));
        SMUST(tpm_public_parse(buf_bytes(&ek_pub), &pub, e));
        SMUST(tpm_public_key(&pub, &key, e));
        random_bytes(secret, sizeof(secret));
        SMUST(credential_make(key, BYTES(name, name_n), secret, &made, e));
        SMUST(vtpm_read_credential(buf_bytes(&made), &id, &sealed, e));
        assert_int_equal(Esys_ActivateCredential(esys, ak, ek, ESYS_TR_PASSWORD, ESYS_TR_PASSWORD,
                                                 ESYS_TR_NONE, &id, &sealed, &opened),
                         0);
        assert_int_equal(opened->size, sizeof(secret));
        assert_memory_equal(opened->buffer, secret, sizeof(secret));
        Esys_Free(opened);
        EVP_PKEY_free(key);
        Esys_FlushContext(esys, ak);
        Esys_FlushContext(esys, ek);
    }
    Esys_Finalize(&esys);
    tpm_link_free(link);

    EVP_PKEY *other = EVP_EC_gen("P-521");
    _cleanup_buf_ struct buf made = BUF_INIT(CREDENTIAL_MAX_BYTES);
    uint8_t secret[CREDENTIAL_SECRET_BYTES] = {0};
    struct err err = {0};
    assert_int_equal(credential_make(other, BYTES("", 0), secret, &made, &err), -1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    EVP_PKEY_free(other);
}

static void test_proof(void **state)
{
    (void)state;
    const struct bytes a = BYTES_STR("a"), b = BYTES_STR("b"), ab = BYTES_STR("ab");
    const struct bytes none = BYTES("", 0);
    uint8_t proof[3][CREDENTIAL_PROOF_BYTES];

    /* What is moved from one part to the next is something else. */
    SMUST(credential_proof(a, b, none, proof[0], e));
    SMUST(credential_proof(ab, none, none, proof[1], e));
    SMUST(credential_proof(none, a, b, proof[2], e));
    assert_memory_not_equal(proof[0], proof[1], sizeof(proof[0]));
    assert_memory_not_equal(proof[0], proof[2], sizeof(proof[0]));
    assert_memory_not_equal(proof[1], proof[2], sizeof(proof[0]));
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int setup(void **state)
{
    (void)state;
    _cleanup_free_ char *ca = swtpm_ca(dir, "h1");
    swtpm_make(&tpm, dir, ca, "a");
    swtpm_on(&tpm);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    swtpm_off(&tpm);
    return nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_credential_kinds),
        cmocka_unit_test(test_proof),
    };

    alarm(110);
    snprintf(dir, sizeof(dir), "/tmp/coffer-credential-XXXXXX");
    if (!swtpm_here()) {
        fprintf(stderr, "skipped: there is no swtpm, swtpm_setup or swtpm_localca\n");
        return 77;
    }
    if (!mkdtemp(dir)) {
        return 1;
    }
    return cmocka_run_group_tests(tests, setup, teardown);
}
