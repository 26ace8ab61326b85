#include "common/jose_int.h"

#include <openssl/ec.h>
#include <pthread.h>

#define HEADER_MAX_BYTES 2048u
#define TYP_MAX_BYTES 64u
#define DER_SIG_MAX_BYTES 72u
#define SIG_B64_LEN 86u
#define JWS_MAX_BYTES (64u << 20)

static int typ_is_plain(const char *typ)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-./_";
    size_t n = strnlen(typ, TYP_MAX_BYTES + 1);

    return n >= 1 && n <= TYP_MAX_BYTES && strspn(typ, ok) == n;
}

static int es256_sign(const struct jkey *k, struct bytes in, uint8_t ret[ES256_SIG_BYTES],
                      struct err *e)
{
    uint8_t digest[32], der[DER_SIG_MAX_BYTES + 8];
    const uint8_t *p = der;
    size_t n = sizeof(der);
    _cleanup_pkey_ctx_ EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, jkey_pkey(k), NULL);
    ECDSA_SIG *sig;
    int ok;

    if (!ctx || EVP_Digest(in.p, in.n, digest, NULL, jose_sha256(), NULL) != 1 ||
        EVP_PKEY_sign_init(ctx) != 1 || EVP_PKEY_sign(ctx, der, &n, digest, sizeof(digest)) != 1) {
        return err_openssl(e, "sign");
    }
    sig = d2i_ECDSA_SIG(NULL, &p, (long)n);
    ok = sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret, 32) == 32 &&
         BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret + 32, 32) == 32;
    ECDSA_SIG_free(sig);
    return ok ? 0 : err_openssl(e, "encode a signature");
}

/* DER of one unsigned 32-byte integer (X.690 §8.3): no needless leading zero, a zero before a set
 * top bit. */
static size_t der_integer(const uint8_t v[32], uint8_t *out)
{
    size_t skip = 0, n = 0;

    while (skip < 31 && v[skip] == 0) {
        skip++;
    }
    size_t pad = v[skip] >> 7;
    out[n++] = 0x02;
    out[n++] = (uint8_t)(32 - skip + pad);
    if (pad) {
        out[n++] = 0;
    }
    memcpy(out + n, v + skip, 32 - skip);
    return n + 32 - skip;
}

/* Signatures that held, by SHA-256(key | digest of what is signed | signature). Whether a signature
 * holds never changes, and the same ones come again: a grant with every job, an EAR and a spec in
 * several messages. What does change (times, revocations, whom one trusts) is for the callers to
 * check every time, and they do. */
#define PROVEN_SETS 256
#define PROVEN_WAYS 4

struct proof {
    uint8_t id[32];
};

static struct {
    pthread_mutex_t mu;
    struct proof v[PROVEN_SETS][PROVEN_WAYS]; /* of a set, the latest first */
} proven = {.mu = PTHREAD_MUTEX_INITIALIZER};

static int proof_make(const struct jkey *k, const uint8_t digest[32],
                      const uint8_t sig[ES256_SIG_BYTES], struct proof *ret)
{
    uint8_t in[2 * P256_B64_LEN + 32 + ES256_SIG_BYTES], *p = in;

    memcpy(p, jkey_x(k), P256_B64_LEN);
    memcpy(p += P256_B64_LEN, jkey_y(k), P256_B64_LEN);
    memcpy(p += P256_B64_LEN, digest, 32);
    memcpy(p + 32, sig, ES256_SIG_BYTES);
    return EVP_Digest(in, sizeof(in), ret->id, NULL, jose_sha256(), NULL) == 1 ? 0 : -1;
}

static int proof_known(const struct proof *p)
{
    const struct proof *set = proven.v[p->id[0]];
    int found = 0;

    pthread_mutex_lock(&proven.mu);
    for (int i = 0; i < PROVEN_WAYS && !found; i++) {
        found = memcmp(set[i].id, p->id, sizeof(p->id)) == 0;
    }
    pthread_mutex_unlock(&proven.mu);
    return found;
}

static void proof_remember(const struct proof *p)
{
    struct proof *set = proven.v[p->id[0]];

    pthread_mutex_lock(&proven.mu);
    memmove(set + 1, set, (PROVEN_WAYS - 1) * sizeof(*set));
    set[0] = *p;
    pthread_mutex_unlock(&proven.mu);
}

static int verify_digest(const struct jkey *k, const uint8_t digest[32],
                         const uint8_t sig[ES256_SIG_BYTES])
{
    uint8_t der[DER_SIG_MAX_BYTES];
    size_t n = 2;
    _cleanup_pkey_ctx_ EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, jkey_pkey(k), NULL);

    n += der_integer(sig, der + n);
    n += der_integer(sig + 32, der + n);
    der[0] = 0x30;
    der[1] = (uint8_t)(n - 2);
    return ctx && EVP_PKEY_verify_init(ctx) == 1 && EVP_PKEY_verify(ctx, der, n, digest, 32) == 1;
}

/* 1 good, 0 not. r and s of zero or past the order are OpenSSL's to refuse. */
static int es256_verify(const struct jkey *k, struct bytes in, const uint8_t sig[ES256_SIG_BYTES])
{
    uint8_t digest[32];
    struct proof p;
    int ok = EVP_Digest(in.p, in.n, digest, NULL, jose_sha256(), NULL) == 1 &&
             proof_make(k, digest, sig, &p) == 0;

    if (ok && !proof_known(&p)) {
        ok = verify_digest(k, digest, sig);
        if (ok) {
            proof_remember(&p);
        }
    }
    if (!ok) {
        openssl_forget_errors();
    }
    return ok;
}

int jws_sign(const struct jkey *k, const char *typ, int embed_jwk, struct bytes payload, char **ret,
             struct err *e)
{
    _cleanup_free_ char *jwk = NULL, *header = NULL, *header64 = NULL, *payload64 = NULL;
    _cleanup_free_ char *sig64 = NULL, *input = NULL;
    uint8_t sig[ES256_SIG_BYTES];

    if (!jkey_is_private(k)) {
        return err_set(e, ERR_INVALID, "JWS: expected a private key to sign with");
    }
    if (!typ_is_plain(typ)) {
        return err_set(e, ERR_INVALID, "JWS: expected a typ of 1 to %u media type characters",
                       TYP_MAX_BYTES);
    }
    if (payload.n > JWS_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "JWS: expected a payload of at most %u bytes, found %zu",
                       JWS_MAX_BYTES, payload.n);
    }
    jwk = embed_jwk ? xasprintf("\"jwk\":{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"%s\","
                                "\"y\":\"%s\"},",
                                jkey_x(k), jkey_y(k))
                    : xstrdup("");
    header = xasprintf("{\"alg\":\"ES256\",%s\"kid\":\"%s\",\"typ\":\"%s\"}", jwk,
                       jkey_thumbprint(k), typ);
    header64 = b64url_encode(header, strlen(header));
    payload64 = b64url_encode(payload.p, payload.n);
    input = xasprintf("%s.%s", header64, payload64);
    if (es256_sign(k, BYTES_STR(input), sig, e)) {
        return -1;
    }
    sig64 = b64url_encode(sig, sizeof(sig));
    *ret = xasprintf("%s.%s", input, sig64);
    return 0;
}

int jws_sign_json(const struct jkey *k, const char *typ, int embed_jwk, const json_t *payload,
                  char **ret, struct err *e)
{
    _cleanup_free_ char *text = NULL;

    if (jcs_encode(payload, &text, e)) {
        return -1;
    }
    return jws_sign(k, typ, embed_jwk, BYTES_STR(text), ret, e);
}

/* A compact JWS taken apart; borrowed from its text. */
struct parts {
    struct bytes input; /* header "." payload, what is signed */
    struct bytes header, payload;
    uint8_t sig[ES256_SIG_BYTES];
};

static int split(const char *jws, size_t max, struct parts *ret, struct err *e)
{
    _cleanup_buf_ struct buf sig = BUF_INIT(ES256_SIG_BYTES);
    size_t limit = max < JWS_MAX_BYTES * 2 ? max : JWS_MAX_BYTES * 2;
    size_t n = strnlen(jws, limit + 1);

    if (n > limit) {
        return err_set(e, ERR_TOO_LARGE, "JWS: expected at most %zu bytes, found more", limit);
    }
    const char *dot1 = memchr(jws, '.', n);
    const char *dot2 = dot1 ? memchr(dot1 + 1, '.', n - (size_t)(dot1 + 1 - jws)) : NULL;
    if (!dot2) {
        return err_set(e, ERR_INVALID, "JWS: expected three parts between dots, found fewer");
    }
    size_t sig_len = n - (size_t)(dot2 + 1 - jws);
    if (memchr(dot2 + 1, '.', sig_len)) {
        return err_set(e, ERR_INVALID, "JWS: expected three parts between dots, found more");
    }
    if (sig_len != SIG_B64_LEN) {
        return err_set(e, ERR_INVALID,
                       "JWS signature: expected %u base64url digits (64 bytes), found %zu",
                       SIG_B64_LEN, sig_len);
    }
    if (b64url_decode(dot2 + 1, sig_len, &sig, e)) {
        return err_wrap(e, "JWS signature");
    }
    memcpy(ret->sig, sig.p, ES256_SIG_BYTES);
    ret->input = BYTES(jws, (size_t)(dot2 - jws));
    ret->header = BYTES(jws, (size_t)(dot1 - jws));
    ret->payload = BYTES(dot1 + 1, (size_t)(dot2 - dot1 - 1));
    return 0;
}

static int parse_header(const struct parts *p, const char *typ, json_t **ret, struct err *e)
{
    static const char *const known[] = {"alg", "typ", "kid", "jwk", NULL};
    _cleanup_buf_ struct buf text = BUF_INIT(HEADER_MAX_BYTES);
    _cleanup_json_ json_t *h = NULL;
    const char *alg, *found;

    if (b64url_decode((const char *)p->header.p, p->header.n, &text, e)) {
        return err_wrap(e, "JWS header");
    }
    if (json_parse("JWS header", buf_bytes(&text), HEADER_MAX_BYTES, &h, e)) {
        return -1;
    }
    if (json_object_get(h, "crit")) {
        return err_set(e, ERR_INVALID, "JWS header.crit: no critical extension is understood");
    }
    if (json_only_keys(h, "JWS header", known, e) ||
        json_get_str(h, "JWS header", "alg", &alg, e) ||
        json_get_str(h, "JWS header", "typ", &found, e)) {
        return -1;
    }
    if (!streq(alg, "ES256")) {
        return err_set(e, ERR_INVALID, "JWS header.alg: expected ES256, found %.32s", alg);
    }
    if (!streq(found, typ)) {
        return err_set(e, ERR_INVALID, "JWS header.typ: expected %s, found %.64s", typ, found);
    }
    const json_t *jwk = json_object_get(h, "jwk");
    if (jwk && !json_is_object(jwk)) {
        return err_set(e, ERR_INVALID, "JWS header.jwk: expected an object");
    }
    if (json_object_get(jwk, "d")) {
        return err_set(e, ERR_INVALID,
                       "JWS header.jwk: expected a public key, found a private one");
    }
    *ret = TAKE_PTR(h);
    return 0;
}

/* kid is optional; one that names another key is a mix-up worth naming. */
static int check_kid(const json_t *h, const struct jkey *k, struct err *e)
{
    const json_t *kid = json_object_get(h, "kid");

    if (!kid) {
        return 0;
    }
    if (!json_is_string(kid)) {
        return err_set(e, ERR_INVALID, "JWS header.kid: expected a string");
    }
    if (!streq(json_string_value(kid), jkey_thumbprint(k))) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "JWS header.kid", jkey_thumbprint(k), "%.64s",
                          json_string_value(kid));
    }
    return 0;
}

/* The payload is decoded only after the signature held. */
static int verify_parts(const struct parts *p, const struct jkey *k, struct buf *ret_payload,
                        struct err *e)
{
    if (!es256_verify(k, p->input, p->sig)) {
        return err_set(e, ERR_BAD_SIGNATURE, "JWS: the signature is not of key %s",
                       jkey_thumbprint(k));
    }
    if (b64url_decode((const char *)p->payload.p, p->payload.n, ret_payload, e)) {
        return err_wrap(e, "JWS payload");
    }
    return 0;
}

int jws_verify(const char *jws, const struct jkey *k, const char *typ, size_t max,
               struct buf *ret_payload, struct err *e)
{
    _cleanup_json_ json_t *h = NULL;
    struct parts p;

    if (split(jws, max, &p, e) || parse_header(&p, typ, &h, e) || check_kid(h, k, e)) {
        return -1;
    }
    const json_t *jwk = json_object_get(h, "jwk");
    if (jwk && !jkey_matches_jwk(k, jwk)) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "JWS header.jwk", jkey_thumbprint(k),
                          "another key");
    }
    return verify_parts(&p, k, ret_payload, e);
}

int jws_verify_embedded(const char *jws, const char *typ, size_t max, struct buf *ret_payload,
                        struct jkey **ret_signer, struct err *e)
{
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_json_ json_t *h = NULL;
    struct parts p;

    if (split(jws, max, &p, e) || parse_header(&p, typ, &h, e)) {
        return -1;
    }
    const json_t *jwk = json_object_get(h, "jwk");
    if (!jwk) {
        return err_set(e, ERR_INVALID, "JWS header.jwk: expected the signer's key, found nothing");
    }
    if (jkey_from_jwk(jwk, &k, e)) {
        return err_wrap(e, "JWS header");
    }
    if (check_kid(h, k, e) || verify_parts(&p, k, ret_payload, e)) {
        return -1;
    }
    *ret_signer = TAKE_PTR(k);
    return 0;
}
