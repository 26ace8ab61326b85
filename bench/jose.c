/* Signatures and JWE against the bare operations of OpenSSL that they are made of, in the same run.
 * Times are CPU time of this thread. */
#include "bench/floor.h"

#define PAYLOAD 1024 /* about a spec, an EAR, a release */

static struct jkey *key, *signers[4096];
static size_t n_signers;
static char *jws, *jwes[64], *fresh[4096];
static size_t at;
static uint8_t payload[PAYLOAD];
static struct pk_bench pk;

/* ---- what is measured --------------------------------------------------------------------------
 */

static void do_sign(void)
{
    _cleanup_free_ char *out = NULL;

    MUST(jws_sign(key, "bench+jws", 0, BYTES(payload, sizeof(payload)), &out, e));
}

/* A different one each time: the good ones are remembered. */
static void do_verify(void)
{
    _cleanup_buf_ struct buf b = BUF_INIT(1u << 16);

    MUST(jws_verify(fresh[at++ % n_signers], key, "bench+jws", 1u << 16, &b, e));
}

static void do_verify_again(void)
{
    _cleanup_buf_ struct buf b = BUF_INIT(1u << 16);

    MUST(jws_verify(jws, key, "bench+jws", 1u << 16, &b, e));
}

static void do_encrypt(void)
{
    _cleanup_free_ char *out = NULL;

    MUST(jwe_encrypt(key, BYTES(payload, sizeof(payload)), &out, e));
}

static void do_decrypt(void)
{
    _cleanup_secret_ struct secret *s = NULL;

    MUST(jwe_decrypt(key, jwes[at++ % ARRAY_LEN(jwes)], 1u << 16, &s, e));
}

static void do_generate(void)
{
    _cleanup_jkey_ struct jkey *k = NULL;

    MUST(jkey_generate(&k, e));
}

/* Of keys that were not seen lately. */
static void do_import(void)
{
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_json_ json_t *j = jkey_public_jwk(signers[at++ % n_signers]);

    MUST(jkey_from_jwk(j, &k, e));
}

static void bare_sign(void)
{
    pk_bench_do(&pk, OP_SIGN);
}

static void bare_verify(void)
{
    pk_bench_do(&pk, OP_VERIFY);
}

/* What an encryption is made of: an ephemeral key and one agreement. */
static void bare_encrypt(void)
{
    pk_bench_do(&pk, OP_KEYGEN);
    pk_bench_do(&pk, OP_ECDH);
}

/* What a decryption is made of: a key from outside and one agreement. */
static void bare_decrypt(void)
{
    pk_bench_do(&pk, OP_POINT);
    pk_bench_do(&pk, OP_ECDH);
}

static void bare_generate(void)
{
    pk_bench_do(&pk, OP_KEYGEN);
}

static void bare_import(void)
{
    pk_bench_do(&pk, OP_POINT);
}

static const struct {
    const char *name;
    void (*ours)(void), (*bare)(void);
} table[] = {
    {"JWS sign", do_sign, bare_sign},
    {"JWS verify", do_verify, bare_verify},
    {"JWS verify, the same again", do_verify_again, bare_verify},
    {"JWE encrypt", do_encrypt, bare_encrypt},
    {"JWE decrypt", do_decrypt, bare_decrypt},
    {"key generation", do_generate, bare_generate},
    {"public key import", do_import, bare_import},
};

static double time_of(void (*f)(void), size_t n)
{
    double start = thread_cpu_s();

    for (size_t i = 0; i < n; i++) {
        f();
    }
    return (thread_cpu_s() - start) / (double)n;
}

int main(int argc, char **argv)
{
    int quick = argc == 2 && streq(argv[1], "--quick");
    size_t n = quick ? 20 : 1000, reps = quick ? 1 : 15;

    if (argc > 1 && !quick) {
        fprintf(stderr, "usage: bench_jose [--quick]\n");
        return 2;
    }
    pk_bench_init(&pk);
    MUST(jkey_generate(&key, e));
    n_signers = quick ? 100 : ARRAY_LEN(signers);
    for (size_t i = 0; i < n_signers; i++) {
        memcpy(payload, &i, sizeof(i));
        MUST(jkey_generate(&signers[i], e));
        MUST(jws_sign(key, "bench+jws", 0, BYTES(payload, sizeof(payload)), &fresh[i], e));
    }
    for (size_t i = 0; i < ARRAY_LEN(jwes); i++) {
        MUST(jwe_encrypt(key, BYTES(payload, sizeof(payload)), &jwes[i], e));
    }
    jws = fresh[0];
    printf("%-28s %10s %10s %7s   (us of CPU; ratio = bare / ours)\n", "", "ours", "bare", "ratio");
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        double ours[64], bare[64], ratios[64];
        for (size_t k = 0; k < reps; k++) {
            bare[k] = time_of(table[i].bare, n) * 1e6;
            ours[k] = time_of(table[i].ours, n) * 1e6;
            ratios[k] = bare[k] / ours[k];
        }
        printf("%-28s %10.1f %10.1f %7.2f\n", table[i].name, median(ours, reps), median(bare, reps),
               median(ratios, reps));
    }
    jkey_free(key);
    for (size_t i = 0; i < n_signers; i++) {
        jkey_free(signers[i]);
        free(fresh[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(jwes); i++) {
        free(jwes[i]);
    }
    return 0;
}
