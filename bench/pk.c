#include <openssl/core_names.h>
#include <openssl/ec.h>

#include "bench/floor.h"

static void check(int ok, const char *what)
{
    if (ok != 1) {
        bench_fail(what, "OpenSSL refused");
    }
}

void pk_bench_init(struct pk_bench *p)
{
    size_t n = 0;

    memset(p, 0, sizeof(*p));
    p->key = EVP_EC_gen("P-256");
    p->peer = EVP_EC_gen("P-256");
    p->params = EVP_PKEY_new();
    check(p->key && p->peer && p->params, "keys");
    check(EVP_PKEY_copy_parameters(p->params, p->key), "parameters");
    check(EVP_PKEY_get_octet_string_param(p->peer, OSSL_PKEY_PARAM_PUB_KEY, p->point,
                                          sizeof(p->point), &n),
          "point");
    pk_bench_do(p, OP_SIGN);
}

void pk_bench_do(struct pk_bench *p, enum op op)
{
    EVP_PKEY_CTX *ctx =
        EVP_PKEY_CTX_new_from_pkey(NULL, op == OP_KEYGEN ? p->params : p->key, NULL);
    EVP_PKEY *made = NULL;
    uint8_t z[32];
    size_t n = sizeof(z);

    switch (op) {
    case OP_SIGN:
        p->sig_n = sizeof(p->sig);
        check(EVP_PKEY_sign_init(ctx), "sign");
        check(EVP_PKEY_sign(ctx, p->sig, &p->sig_n, p->digest, sizeof(p->digest)), "sign");
        break;
    case OP_VERIFY:
        check(EVP_PKEY_verify_init(ctx), "verify");
        check(EVP_PKEY_verify(ctx, p->sig, p->sig_n, p->digest, sizeof(p->digest)), "verify");
        break;
    case OP_ECDH:
        check(EVP_PKEY_derive_init(ctx), "derive");
        check(EVP_PKEY_derive_set_peer_ex(ctx, p->peer, 0), "derive");
        check(EVP_PKEY_derive(ctx, z, &n), "derive");
        break;
    case OP_KEYGEN:
        check(EVP_PKEY_keygen_init(ctx), "keygen");
        check(EVP_PKEY_generate(ctx, &made), "keygen");
        break;
    case OP_POINT:
        made = EVP_PKEY_new();
        check(EVP_PKEY_copy_parameters(made, p->params), "import");
        check(EVP_PKEY_set1_encoded_public_key(made, p->point, sizeof(p->point)), "import");
        break;
    case OP_SQL:
    case OP_COMMIT:
    case OP_ROW:
    case OP_CORE:
    case OP_N:
        break;
    }
    EVP_PKEY_free(made);
    EVP_PKEY_CTX_free(ctx);
}
