#include "common/nkey.h"

#include <openssl/evp.h>

#define PREFIX_SEED (18u << 3) /* 'S' */
#define PREFIX_USER (20u << 3) /* 'U' */
#define KEY_BYTES 32
#define SEED_RAW_BYTES (2 + KEY_BYTES + 2)
#define PUBLIC_RAW_BYTES (1 + KEY_BYTES + 2)

DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
DEFINE_CLEANUP(EVP_MD_CTX *, EVP_MD_CTX_free);

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/* CRC-16/XMODEM, little endian at the end of every encoded key. */
static uint16_t crc16(const uint8_t *p, size_t n)
{
    unsigned crc = 0;

    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned)p[i] << 8;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 0x8000u ? (crc << 1 ^ 0x1021u) & 0xffffu : crc << 1 & 0xffffu;
        }
    }
    return (uint16_t)crc;
}

static void put_crc(uint8_t *raw, size_t n)
{
    uint16_t crc = crc16(raw, n);

    raw[n] = (uint8_t)(crc & 0xff);
    raw[n + 1] = (uint8_t)(crc >> 8);
}

/* Base32 without padding; `out` gets ceil(8n/5) characters and no NUL. */
static size_t b32_put(const uint8_t *p, size_t n, char *out)
{
    unsigned acc = 0, bits = 0;
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        acc = (acc << 8 | p[i]) & 0xffffu;
        bits += 8;
        while (bits >= 5) {
            bits -= 5;
            out[len++] = alphabet[acc >> bits & 31u];
        }
    }
    if (bits > 0) {
        out[len++] = alphabet[acc << (5 - bits) & 31u];
    }
    return len;
}

static int b32_get(const uint8_t *s, size_t len, uint8_t *out, size_t n)
{
    unsigned acc = 0, bits = 0;
    size_t got = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned v;
        if (s[i] >= 'A' && s[i] <= 'Z') {
            v = s[i] - (unsigned)'A';
        } else if (s[i] >= '2' && s[i] <= '7') {
            v = s[i] - (unsigned)'2' + 26;
        } else {
            return -1;
        }
        acc = (acc << 5 | v) & 0xffffu;
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            if (got == n) {
                return -1;
            }
            out[got++] = (uint8_t)(acc >> bits & 0xff);
        }
    }
    return got == n && (acc & ((1u << bits) - 1)) == 0 ? 0 : -1;
}

struct secret *nkey_new_user_seed(void)
{
    struct secret *raw = secret_new(SEED_RAW_BYTES);
    struct secret *key = secret_random(KEY_BYTES);
    struct secret *text = secret_new(NKEY_SEED_CHARS);
    uint8_t *p = secret_p(raw);

    p[0] = (uint8_t)(PREFIX_SEED | PREFIX_USER >> 5);
    p[1] = (uint8_t)((PREFIX_USER & 31u) << 3);
    memcpy(p + 2, secret_cp(key), KEY_BYTES);
    put_crc(p, SEED_RAW_BYTES - 2);
    b32_put(p, SEED_RAW_BYTES, (char *)secret_p(text));
    secret_free(raw);
    secret_free(key);
    return text;
}

/* The 32 private bytes of a seed. */
static int seed_key(const uint8_t *text, size_t n, struct secret **ret, struct err *e)
{
    _cleanup_secret_ struct secret *raw = secret_new(SEED_RAW_BYTES);
    uint8_t *p = secret_p(raw);

    if (n != NKEY_SEED_CHARS || b32_get(text, n, p, SEED_RAW_BYTES) < 0) {
        return err_set(e, ERR_INVALID, "nkey seed: expected %d base32 characters, got %zu bytes",
                       NKEY_SEED_CHARS, n);
    }
    if ((p[0] & 0xf8u) != PREFIX_SEED ||
        (uint8_t)((p[0] & 7u) << 5 | (p[1] & 0xf8u) >> 3) != PREFIX_USER) {
        return err_set(e, ERR_INVALID, "nkey seed: expected a user's seed (\"SU...\")");
    }
    if (crc16(p, SEED_RAW_BYTES - 2) !=
        (p[SEED_RAW_BYTES - 2] | (unsigned)p[SEED_RAW_BYTES - 1] << 8)) {
        return err_set(e, ERR_INVALID, "nkey seed: the checksum does not hold");
    }
    *ret = secret_from(p + 2, KEY_BYTES);
    return 0;
}

int nkey_parse_seed(struct bytes text, struct secret **ret, struct err *e)
{
    _cleanup_secret_ struct secret *key = NULL;
    size_t n = text.n;

    while (n > 0 && (text.p[n - 1] == '\n' || text.p[n - 1] == '\r')) {
        n--;
    }
    if (seed_key(text.p, n, &key, e) < 0) {
        return -1;
    }
    *ret = secret_from(text.p, n);
    return 0;
}

int nkey_read_seed(const char *path, struct secret **ret, struct err *e)
{
    _cleanup_secret_ struct secret *file = NULL;

    if (secret_read_file(path, 256, &file, e) < 0) {
        return err_wrap(e, "nkey seed");
    }
    if (nkey_parse_seed(BYTES(secret_cp(file), secret_n(file)), ret, e) < 0) {
        return err_wrap(e, "%s", path);
    }
    return 0;
}

static int seed_pkey(const struct secret *seed, EVP_PKEY **ret, struct err *e)
{
    _cleanup_secret_ struct secret *key = NULL;

    if (seed_key(secret_cp(seed), secret_n(seed), &key, e) < 0) {
        return -1;
    }
    *ret = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, secret_cp(key), KEY_BYTES);
    return *ret ? 0 : err_set(e, ERR_INTERNAL, "nkey: Ed25519 is not available");
}

int nkey_public(const struct secret *seed, char ret[NKEY_PUBLIC_CHARS + 1], struct err *e)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *pkey = NULL;
    uint8_t raw[PUBLIC_RAW_BYTES];
    size_t n = KEY_BYTES;

    if (seed_pkey(seed, &pkey, e) < 0) {
        return -1;
    }
    raw[0] = PREFIX_USER;
    if (EVP_PKEY_get_raw_public_key(pkey, raw + 1, &n) != 1 || n != KEY_BYTES) {
        return err_set(e, ERR_INTERNAL, "nkey: no public key");
    }
    put_crc(raw, PUBLIC_RAW_BYTES - 2);
    ret[b32_put(raw, PUBLIC_RAW_BYTES, ret)] = '\0';
    return 0;
}

int nkey_sign(const struct secret *seed, struct bytes text, uint8_t ret[NKEY_SIG_BYTES],
              struct err *e)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *pkey = NULL;
    _cleanup_(EVP_MD_CTX_freep) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t n = NKEY_SIG_BYTES;

    if (seed_pkey(seed, &pkey, e) < 0) {
        return -1;
    }
    if (!ctx || EVP_DigestSignInit(ctx, NULL, NULL, NULL, pkey) != 1 ||
        EVP_DigestSign(ctx, ret, &n, text.p, text.n) != 1 || n != NKEY_SIG_BYTES) {
        return err_set(e, ERR_INTERNAL, "nkey: signing failed");
    }
    return 0;
}
