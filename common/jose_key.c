#include "common/jose_int.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/fileio.h"

#define KEY_FILE_MAX_BYTES 4096u

struct jkey {
    EVP_PKEY *pkey;
    atomic_uint refs; /* `known` shares keys between threads */
    int is_private;
    char x[P256_B64_LEN + 1];
    char y[P256_B64_LEN + 1];
    char thumbprint[JKEY_THUMBPRINT_LEN + 1];
};

static EVP_MD *sha256;
static EVP_CIPHER *a256gcm, *a256kw;
static EVP_PKEY *p256_params;
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static EVP_PKEY *make_p256_params(void)
{
    char group[] = SN_X9_62_prime256v1;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY *k = NULL;
    _cleanup_pkey_ctx_ EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);

    if (!ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &k, EVP_PKEY_KEY_PARAMETERS, params) != 1) {
        return NULL;
    }
    return k;
}

/* Never freed: they live as long as the process. Explicit fetching, because the implicit kind
 * repeats its search at every operation. */
static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    a256gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    a256kw = EVP_CIPHER_fetch(NULL, "AES-256-WRAP", NULL);
    p256_params = make_p256_params();
    if (!sha256 || !a256gcm || !a256kw || !p256_params) {
        fputs("OpenSSL lacks SHA-256, AES-256-GCM, AES-256-WRAP or P-256\n", stderr);
        abort();
    }
}

const EVP_MD *jose_sha256(void)
{
    pthread_once(&fetched, fetch);
    return sha256;
}

const EVP_CIPHER *jose_a256gcm(void)
{
    pthread_once(&fetched, fetch);
    return a256gcm;
}

const EVP_CIPHER *jose_a256kw(void)
{
    pthread_once(&fetched, fetch);
    return a256kw;
}

int err_openssl_(struct err *e, const char *origin, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    err_set_(e, ERR_INTERNAL, origin, "cannot %s: %s", what, reason ? reason : "unknown reason");
    ERR_clear_error();
    return -1;
}

void openssl_forget_errors(void)
{
    ERR_clear_error();
}

static void encode_coordinate(char out[P256_B64_LEN + 1], const uint8_t *p)
{
    _cleanup_free_ char *s = b64url_encode(p, P256_BYTES);

    memcpy(out, s, P256_B64_LEN + 1);
}

/* Takes pkey. `point` is 04 || x || y. */
static int wrap_key(EVP_PKEY *pkey, const uint8_t point[65], int is_private, struct jkey **ret,
                    struct err *e)
{
    struct jkey *k = xcalloc(1, sizeof(*k));
    uint8_t digest[32];
    char canonical[160];
    int n;

    k->pkey = pkey;
    k->refs = 1;
    k->is_private = is_private;
    encode_coordinate(k->x, point + 1);
    encode_coordinate(k->y, point + 1 + P256_BYTES);
    /* RFC 7638 §3.2: the required members in lexicographic order. */
    n = snprintf(canonical, sizeof(canonical),
                 "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}", k->x, k->y);
    if (EVP_Digest(canonical, (size_t)n, digest, NULL, jose_sha256(), NULL) != 1) {
        jkey_free(k);
        return err_openssl(e, "hash a key");
    }
    encode_coordinate(k->thumbprint, digest);
    *ret = k;
    return 0;
}

int jkey_generate(struct jkey **ret, struct err *e)
{
    uint8_t point[65];
    size_t n = 0;
    EVP_PKEY *pkey = NULL;
    (void)jose_sha256(); /* fetches p256_params */
    _cleanup_pkey_ctx_ EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, p256_params, NULL);

    if (!ctx || EVP_PKEY_keygen_init(ctx) != 1 || EVP_PKEY_generate(ctx, &pkey) != 1 ||
        EVP_PKEY_get_octet_string_param(pkey, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point), &n) !=
            1 ||
        n != sizeof(point)) {
        EVP_PKEY_free(pkey);
        return err_openssl(e, "generate a P-256 key");
    }
    return wrap_key(pkey, point, 1, ret, e);
}

/* One 32-byte member. The messages never show the value: it may be private. */
static int get_32(const json_t *jwk, const char *key, uint8_t *out, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(P256_BYTES);
    const json_t *j = json_object_get(jwk, key);

    if (!json_is_string(j)) {
        return err_set(e, ERR_INVALID, "jwk.%s: expected a string", key);
    }
    if (json_string_length(j) != P256_B64_LEN) {
        return err_set(e, ERR_INVALID, "jwk.%s: expected %u base64url digits (32 bytes), found %zu",
                       key, P256_B64_LEN, json_string_length(j));
    }
    if (b64url_decode(json_string_value(j), P256_B64_LEN, &b, e)) {
        return err_wrap(e, "jwk.%s", key);
    }
    memcpy(out, b.p, P256_BYTES);
    return 0;
}

static int expect_member(const json_t *jwk, const char *key, const char *value, struct err *e)
{
    const char *s;

    if (json_get_str(jwk, "jwk", key, &s, e)) {
        return -1;
    }
    if (!streq(s, value)) {
        return err_set(e, ERR_INVALID, "jwk.%s: expected \"%s\", found another value", key, value);
    }
    return 0;
}

/* Setting an encoded point on a copy of the curve's parameters checks that the coordinates are
 * smaller than the field's prime and that the point is on the curve. P-256 has cofactor 1. */
static EVP_PKEY *public_from_point(const uint8_t point[65])
{
    EVP_PKEY *k = EVP_PKEY_new();

    (void)jose_sha256(); /* fetches p256_params */
    if (!k || EVP_PKEY_copy_parameters(k, p256_params) != 1 ||
        EVP_PKEY_set1_encoded_public_key(k, point, 65) != 1) {
        EVP_PKEY_free(k);
        return NULL;
    }
    return k;
}

static EVP_PKEY *private_from_parts(const uint8_t point[65], const uint8_t *d)
{
    EVP_PKEY *k = NULL;
    OSSL_PARAM *params = NULL;
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    BIGNUM *bn = BN_secure_new();
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);

    if (!bld || !bn || !ctx || !BN_bin2bn(d, (int)P256_BYTES, bn)) {
        goto out;
    }
    BN_set_flags(bn, BN_FLG_CONSTTIME);
    if (OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME, SN_X9_62_prime256v1, 0) !=
            1 ||
        OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY, point, 65) != 1 ||
        OSSL_PARAM_BLD_push_BN_pad(bld, OSSL_PKEY_PARAM_PRIV_KEY, bn, P256_BYTES) != 1) {
        goto out;
    }
    params = OSSL_PARAM_BLD_to_param(bld);
    if (!params || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &k, EVP_PKEY_KEYPAIR, params) != 1) {
        EVP_PKEY_free(k);
        k = NULL;
    }
out:
    OSSL_PARAM_free(params); /* wipes what came from a secure BIGNUM */
    OSSL_PARAM_BLD_free(bld);
    BN_clear_free(bn);
    EVP_PKEY_CTX_free(ctx);
    return k;
}

/* That d is in range and that x, y is its point: a pair that does not belong together can leak d
 * through what is computed with it. */
static int check_pair(EVP_PKEY *k)
{
    _cleanup_pkey_ctx_ EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, k, NULL);

    return ctx && EVP_PKEY_private_check(ctx) == 1 && EVP_PKEY_pairwise_check(ctx) == 1 ? 0 : -1;
}

/* Public keys that were imported lately, by their point: parties come again and again, and a key is
 * never changed once it is made. */
#define KNOWN_KEYS 128

static struct {
    pthread_mutex_t mu;
    struct known_key {
        uint8_t point[65];
        struct jkey *key;
    } v[KNOWN_KEYS];
} known = {.mu = PTHREAD_MUTEX_INITIALIZER};

/* Coordinates look random, and who makes them collide only gets no use of this. */
static struct known_key *known_place(const uint8_t point[65])
{
    return &known.v[(point[1] ^ point[33]) % KNOWN_KEYS];
}

static struct jkey *known_find(const uint8_t point[65])
{
    struct jkey *k = NULL;

    pthread_mutex_lock(&known.mu);
    const struct known_key *at = known_place(point);
    if (at->key && memcmp(at->point, point, sizeof(at->point)) == 0) {
        k = jkey_ref(at->key);
    }
    pthread_mutex_unlock(&known.mu);
    return k;
}

static void known_add(const uint8_t point[65], struct jkey *k)
{
    pthread_mutex_lock(&known.mu);
    struct known_key *at = known_place(point);
    struct jkey *old = at->key;
    memcpy(at->point, point, sizeof(at->point));
    at->key = jkey_ref(k);
    pthread_mutex_unlock(&known.mu);
    jkey_free(old);
}

static int import_public(const uint8_t point[65], struct jkey **ret, struct err *e)
{
    struct jkey *k = known_find(point);

    if (!k) {
        EVP_PKEY *pkey = public_from_point(point);
        if (!pkey) {
            openssl_forget_errors();
            return err_set(e, ERR_INVALID, "jwk: expected a point on P-256 in x and y");
        }
        if (wrap_key(pkey, point, 0, &k, e)) {
            return -1;
        }
        known_add(point, k);
    }
    *ret = k;
    return 0;
}

int jkey_from_jwk(const json_t *jwk, struct jkey **ret, struct err *e)
{
    uint8_t point[65] = {4};
    uint8_t d[P256_BYTES];
    EVP_PKEY *pkey;

    if (expect_member(jwk, "kty", "EC", e) || expect_member(jwk, "crv", "P-256", e) ||
        get_32(jwk, "x", point + 1, e) || get_32(jwk, "y", point + 1 + P256_BYTES, e)) {
        return -1;
    }
    if (!json_object_get(jwk, "d")) {
        return import_public(point, ret, e);
    }
    if (get_32(jwk, "d", d, e)) {
        explicit_bzero(d, sizeof(d));
        return -1;
    }
    pkey = private_from_parts(point, d);
    explicit_bzero(d, sizeof(d));
    if (!pkey) {
        openssl_forget_errors();
        return err_set(e, ERR_INVALID, "jwk: expected a point on P-256 in x and y");
    }
    if (check_pair(pkey)) {
        EVP_PKEY_free(pkey);
        openssl_forget_errors();
        return err_set(e, ERR_INVALID, "jwk.d: expected the private key of x and y");
    }
    return wrap_key(pkey, point, 1, ret, e);
}

json_t *jkey_public_jwk(const struct jkey *k)
{
    json_t *j = json_pack("{s:s,s:s,s:s,s:s}", "crv", "P-256", "kty", "EC", "x", k->x, "y", k->y);

    if (!j) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return j;
}

const char *jkey_thumbprint(const struct jkey *k)
{
    return k->thumbprint;
}

int jkey_is_private(const struct jkey *k)
{
    return k->is_private;
}

EVP_PKEY *jkey_pkey(const struct jkey *k)
{
    return k->pkey;
}

const char *jkey_x(const struct jkey *k)
{
    return k->x;
}

const char *jkey_y(const struct jkey *k)
{
    return k->y;
}

int jkey_matches_jwk(const struct jkey *k, const json_t *jwk)
{
    const char *kty = json_string_value(json_object_get(jwk, "kty"));
    const char *crv = json_string_value(json_object_get(jwk, "crv"));
    const char *x = json_string_value(json_object_get(jwk, "x"));
    const char *y = json_string_value(json_object_get(jwk, "y"));

    return kty && crv && x && y && streq(kty, "EC") && streq(crv, "P-256") && streq(x, k->x) &&
           streq(y, k->y);
}

static int key_from_text(const char *path, struct bytes text, int want_private, struct jkey **ret,
                         struct err *e)
{
    _cleanup_json_ json_t *jwk = NULL;
    _cleanup_jkey_ struct jkey *k = NULL;
    int r;

    if (json_parse("jwk", text, KEY_FILE_MAX_BYTES, &jwk, e)) {
        return err_wrap(e, "%s", path);
    }
    r = jkey_from_jwk(jwk, &k, e);
    json_t *d = json_object_get(jwk, "d");
    if (json_is_string(d)) {
        /* The parser's copy. */
        explicit_bzero((char *)(uintptr_t)json_string_value(d), json_string_length(d));
    }
    if (r) {
        return err_wrap(e, "%s", path);
    }
    if (k->is_private != want_private) {
        return err_set(e, ERR_INVALID, "%s: expected a %s key, found a %s one", path,
                       want_private ? "private" : "public", want_private ? "public" : "private");
    }
    *ret = TAKE_PTR(k);
    return 0;
}

int jkey_read_private(const char *path, struct jkey **ret, struct err *e)
{
    _cleanup_secret_ struct secret *text = NULL;

    if (secret_read_file(path, KEY_FILE_MAX_BYTES, &text, e)) {
        return -1;
    }
    return key_from_text(path, BYTES(secret_cp(text), secret_n(text)), 1, ret, e);
}

int jkey_read_public(const char *path, struct jkey **ret, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(KEY_FILE_MAX_BYTES);

    if (file_read(path, KEY_FILE_MAX_BYTES, 0, &b, e)) {
        return -1;
    }
    return key_from_text(path, buf_bytes(&b), 0, ret, e);
}

static int private_d(const struct jkey *k, uint8_t d[P256_BYTES])
{
    BIGNUM *bn = NULL;
    int ok = EVP_PKEY_get_bn_param(k->pkey, OSSL_PKEY_PARAM_PRIV_KEY, &bn) == 1 &&
             BN_bn2binpad(bn, d, (int)P256_BYTES) == (int)P256_BYTES;

    BN_clear_free(bn);
    return ok ? 0 : -1;
}

int jkey_write_private(const char *path, const struct jkey *k, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(KEY_FILE_MAX_BYTES);
    _cleanup_secret_ struct secret *d = secret_new(P256_BYTES);
    char *d64;
    int r;

    if (!k->is_private) {
        return err_set(e, ERR_INVALID, "%s: expected a private key to write, found a public one",
                       path);
    }
    if (private_d(k, secret_p(d))) {
        return err_openssl(e, "export a private key");
    }
    d64 = b64url_encode(secret_cp(d), P256_BYTES);
    r = buf_addf(&text, e,
                 "{\"crv\":\"P-256\",\"d\":\"%s\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}\n", d64,
                 k->x, k->y);
    explicit_bzero(d64, strlen(d64));
    free(d64);
    return r ? r : file_replace(path, buf_bytes(&text), 0600, e);
}

int jkey_write_public(const char *path, const struct jkey *k, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(KEY_FILE_MAX_BYTES);

    if (buf_addf(&text, e, "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}\n", k->x,
                 k->y)) {
        return -1;
    }
    return file_replace(path, buf_bytes(&text), 0644, e);
}

struct jkey *jkey_ref(struct jkey *k)
{
    atomic_fetch_add_explicit(&k->refs, 1, memory_order_relaxed);
    return k;
}

void jkey_free(struct jkey *k)
{
    if (!k || atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    EVP_PKEY_free(k->pkey); /* clears the private part */
    explicit_bzero(k, sizeof(*k));
    free(k);
}
