/* Quotes, keys and event logs that real TPMs and firmware made, from ../shared/vectors beside the
 * source tree; without it there is nothing to test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "appraise/eventlog.h"
#include "common/fileio.h"
#include "common/jcs.h"

#define VECTORS "../shared/vectors/"
#define FILE_MAX_BYTES (1u << 20)

static void load(const char *name, struct buf *ret)
{
    _cleanup_free_ char *path = xasprintf(VECTORS "%s", name);
    struct err e = {0};

    *ret = BUF_INIT(FILE_MAX_BYTES);
    if (file_read(path, FILE_MAX_BYTES, 0, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

/* ---- Attestation of go-tpm-tools: a protobuf ---- */

struct field {
    uint64_t number, value;
    struct bytes bytes;
};

static uint64_t varint(struct bytes *in)
{
    uint64_t v = 0;

    for (unsigned shift = 0; in->n && shift < 63; shift += 7) {
        uint8_t b = *in->p++;
        in->n--;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            break;
        }
    }
    return v;
}

static int next(struct bytes *in, struct field *f)
{
    if (!in->n) {
        return 0;
    }
    uint64_t key = varint(in), v = varint(in);
    *f = (struct field){.number = key >> 3, .value = v};
    if ((key & 7) == 2) {
        assert_true(v <= in->n);
        f->bytes = BYTES(in->p, (size_t)v);
        in->p += v;
        in->n -= v;
    } else {
        assert_int_equal(key & 7, 0);
    }
    return 1;
}

static void read_pcrs(struct bytes in, uint64_t *ret_hash, struct bytes pcr[TPM_PCRS])
{
    struct field f, g;

    while (next(&in, &f)) {
        if (f.number == 1) {
            *ret_hash = f.value;
        }
        if (f.number == 2) {
            struct bytes entry = f.bytes, value = BYTES("", 0);
            uint64_t index = 0;
            while (next(&entry, &g)) {
                index = g.number == 1 ? g.value : index;
                value = g.number == 2 ? g.bytes : value;
            }
            assert_true(index < TPM_PCRS);
            pcr[index] = value;
        }
    }
}

static void check_quote(struct bytes in, const struct tpm_public *ak, const struct eventlog *log,
                        struct bytes nonce)
{
    struct bytes quote = BYTES("", 0), sig = BYTES("", 0), pcr[TPM_PCRS] = {{0}};
    uint8_t all[TPM_PCRS * 64], digest[TPM_MAX_DIGEST];
    size_t n = 0, digest_n;
    uint64_t hash = 0;
    struct field f;
    struct tpm_quote q;
    struct tpm_signature s;
    struct err e = {0};

    while (next(&in, &f)) {
        quote = f.number == 1 ? f.bytes : quote;
        sig = f.number == 2 ? f.bytes : sig;
        if (f.number == 3) {
            read_pcrs(f.bytes, &hash, pcr);
        }
    }
    assert_int_equal(tpm_quote_parse(quote, &q, &e), 0);
    assert_int_equal(tpm_signature_parse(sig, &s, &e), 0);
    assert_int_equal(tpm_signature_verify(ak, &s, quote, 0, &e), 0);
    assert_int_equal(q.extra.n, nonce.n);
    assert_memory_equal(q.extra.p, nonce.p, nonce.n);
    assert_int_equal(q.n_selections, 1);
    assert_int_equal(q.selections[0].hash, hash);
    for (size_t i = 0; i < TPM_PCRS; i++) {
        if (q.selections[0].pcrs & 1u << i) {
            memcpy(all + n, pcr[i].p, pcr[i].n);
            n += pcr[i].n;
        }
    }
    assert_int_equal(tpm_hash(s.hash, BYTES(all, n), digest, &digest_n, &e), 0);
    assert_int_equal(q.pcr_digest.n, digest_n);
    assert_memory_equal(q.pcr_digest.p, digest, digest_n);
    int bank = hash == TPM_ALG_SHA256 ? BANK_SHA256 : hash == TPM_ALG_SHA384 ? BANK_SHA384 : -1;
    for (size_t i = 0; bank >= 0 && log->has[bank] && i < 8; i++) {
        assert_memory_equal(log->pcr[bank][i], pcr[i].p, pcr[i].n);
    }
    /* Any other message, and any other signature. */
    _cleanup_free_ uint8_t *other = xmemdup(quote.p, quote.n);
    for (size_t i = 0; i < quote.n; i++) {
        other[i] ^= 1;
        assert_int_equal(tpm_signature_verify(ak, &s, BYTES(other, quote.n), 0, &e), -1);
        other[i] ^= 1;
    }
}

static void check_attestation(const char *name, struct bytes nonce)
{
    _cleanup_(eventlog_done) struct eventlog log = {0};
    _cleanup_buf_ struct buf file = {0};
    struct tpm_public ak = {0};
    struct err e = {0};
    struct field f;
    size_t quotes = 0;

    load(name, &file);
    for (struct bytes in = buf_bytes(&file); next(&in, &f);) {
        if (f.number == 1) {
            assert_int_equal(tpm_public_parse(f.bytes, &ak, &e), 0);
        }
        if (f.number == 3) {
            assert_int_equal(eventlog_parse(f.bytes, &log, &e), 0);
        }
    }
    assert_int_equal(ak.type, TPM_ALG_RSA);
    assert_true(log.n > 10);
    for (struct bytes in = buf_bytes(&file); next(&in, &f);) {
        if (f.number == 2) {
            check_quote(f.bytes, &ak, &log, nonce);
            quotes++;
        }
    }
    assert_true(quotes >= 2);
}

static void test_gce(void **state)
{
    (void)state;
    check_attestation("tpm/google-go-tpm-tools/gce-cos-85-no-nonce.pb", BYTES("", 0));
    check_attestation("tpm/google-go-tpm-tools/gce-cos-85-nonce9009.pb", BYTES("\x90\x09", 2));
}

/* ---- others ---- */

static void test_keylime(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf pub = {0}, quote = {0}, sig = {0}, ek = {0};
    struct tpm_public ak;
    struct tpm_quote q;
    struct tpm_signature s;
    struct err e = {0};

    load("tpm/keylime/ak.pub", &pub);
    load("tpm/keylime/quote.out", &quote);
    load("tpm/keylime/quotesig.out", &sig);
    load("tpm/keylime/ek.pub", &ek);
    /* A TPM2B: what is before its content is not part of a TPMT. */
    assert_int_equal(tpm_public_parse(buf_bytes(&pub), &ak, &e), -1);
    assert_int_equal(tpm_public_parse(BYTES(pub.p + 2, pub.n - 2), &ak, &e), 0);
    assert_true(ak.attributes & TPM_RESTRICTED);
    assert_int_equal(tpm_quote_parse(buf_bytes(&quote), &q, &e), 0);
    assert_int_equal(tpm_signature_parse(buf_bytes(&sig), &s, &e), 0);
    assert_int_equal(tpm_signature_verify(&ak, &s, buf_bytes(&quote), 0, &e), 0);
    sig.p[sig.n - 1] ^= 1;
    assert_int_equal(tpm_signature_verify(&ak, &s, buf_bytes(&quote), 0, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_int_equal(tpm_public_parse(BYTES(ek.p + 2, ek.n - 2), &ak, &e), 0);
    assert_true(ak.attributes & TPM_DECRYPT);
}

static void test_dstack(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf quote = {0};
    struct tpm_quote q;
    struct err e = {0};

    load("tpm/dstack/tpm_quote_sample.bin", &quote);
    assert_int_equal(tpm_quote_parse(buf_bytes(&quote), &q, &e), 0);
    assert_int_equal(q.reset_count, 16);
    assert_int_equal(q.safe, 1);
    assert_int_equal(q.extra.n, 4);
    assert_memory_equal(q.extra.p, "\x12\x34\x56\x78", 4);
    assert_int_equal(q.n_selections, 1);
    assert_int_equal(q.selections[0].hash, TPM_ALG_SHA256);
    assert_int_equal(q.selections[0].pcrs, 7);
    for (size_t n = 0; n < quote.n; n++) {
        assert_int_equal(tpm_quote_parse(BYTES(quote.p, n), &q, &e), -1);
    }
}

/* The public key is no TPMT_PUBLIC there: only what a signature needs of it. */
static void test_trustee(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf file = {0}, spki = BUF_INIT(4096), quote = BUF_INIT(4096),
                             sig = BUF_INIT(4096);
    _cleanup_json_ json_t *j = NULL;
    uint8_t modulus[256], digest[TPM_MAX_DIGEST], all[TPM_PCRS * 32];
    struct tpm_quote q;
    struct tpm_signature s;
    BIGNUM *n = NULL;
    struct err e = {0};
    size_t digest_n;

    load("tpm/coco-trustee/tpm_evidence.json", &file);
    assert_int_equal(json_parse("file", buf_bytes(&file), FILE_MAX_BYTES, &j, &e), 0);
    json_t *t = json_object_get(j, "tpm_quote");
    const char *k = json_string_value(json_object_get(j, "ak_public"));
    const char *m = json_string_value(json_object_get(t, "message"));
    const char *g = json_string_value(json_object_get(t, "signature"));
    assert_int_equal(b64_decode(k, strlen(k), &spki, &e) || b64_decode(m, strlen(m), &quote, &e) ||
                         b64_decode(g, strlen(g), &sig, &e),
                     0);
    const uint8_t *p = spki.p;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &p, (long)spki.n);
    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n), 1);
    assert_int_equal(BN_bn2binpad(n, modulus, sizeof(modulus)), sizeof(modulus));
    BN_free(n);
    EVP_PKEY_free(key);
    const struct tpm_public ak = {.type = TPM_ALG_RSA,
                                  .scheme = TPM_ALG_NULL,
                                  .rsa_exponent = 65537,
                                  .rsa_n = BYTES(modulus, sizeof(modulus))};
    assert_int_equal(tpm_quote_parse(buf_bytes(&quote), &q, &e), 0);
    assert_int_equal(tpm_signature_parse(buf_bytes(&sig), &s, &e), 0);
    assert_int_equal(tpm_signature_verify(&ak, &s, buf_bytes(&quote), 0, &e), 0);
    const json_t *pcrs = json_object_get(t, "pcrs");
    assert_int_equal(q.selections[0].pcrs, 0xffffff);
    for (size_t i = 0; i < TPM_PCRS; i++) {
        assert_int_equal(
            hex_decode(json_string_value(json_array_get(pcrs, i)), all + 32 * i, 32, &e), 0);
    }
    assert_int_equal(tpm_hash(s.hash, BYTES(all, sizeof(all)), digest, &digest_n, &e), 0);
    assert_int_equal(q.pcr_digest.n, digest_n);
    assert_memory_equal(q.pcr_digest.p, digest, digest_n);
}

static void test_logs(void **state)
{
    (void)state;
    static const char *const good[] = {
        "tpm/google-go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog",
        "tpm/google-go-attestation/crypto_agile_eventlog",
        "tpm/google-go-attestation/sb_cert_eventlog",
        "ccel/google-go-tpm-tools/arch-linux-workstation.bin",
        "ccel/google-go-tpm-tools/cos-101-amd-sev.bin",
        "ccel/google-go-tpm-tools/cos-85-amd-sev.bin",
        "ccel/google-go-tpm-tools/eventlogwithsp800155.bin",
        "ccel/google-go-tpm-tools/glinux-alex.bin",
        "ccel/google-go-tpm-tools/rhel8-uefi.bin",
        "ccel/google-go-tpm-tools/ubuntu-2404-amd-sevsnp.bin",
    };

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        _cleanup_(eventlog_done) struct eventlog l = {0};
        _cleanup_buf_ struct buf file = {0};
        struct err e = {0};
        load(good[i], &file);
        if (eventlog_parse(buf_bytes(&file), &l, &e)) {
            fail_msg("%s: %s", good[i], e.msg);
        }
        assert_true(l.n > 5);
        assert_true(l.has[BANK_SHA256] || l.has[BANK_SHA384]);
    }
    _cleanup_(eventlog_done) struct eventlog l = {0};
    _cleanup_buf_ struct buf file = {0};
    struct err e = {0};
    load("tpm/google-go-attestation/short_no_action_eventlog", &file);
    assert_int_equal(eventlog_parse(buf_bytes(&file), &l, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gce),    cmocka_unit_test(test_keylime),
        cmocka_unit_test(test_dstack), cmocka_unit_test(test_trustee),
        cmocka_unit_test(test_logs),
    };

    if (access(VECTORS "tpm", F_OK)) {
        fprintf(stderr, "skipped: there is no " VECTORS "tpm\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
