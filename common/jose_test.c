#include "common/jose.h"

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/obj_mac.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/fileio.h"

#define TYP "coffer-spec+jws"
#define MAX 65536u

/* The example key of RFC 7517 appendix A.1 and A.2. */
#define RFC_X "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"
#define RFC_Y "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
#define RFC_D "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"
#define RFC_PUBLIC "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\"}"
#define RFC_PRIVATE                                                                                \
    "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\",\"d\":\"" RFC_D     \
    "\",\"use\":\"enc\",\"kid\":\"1\"}"

static char dir[] = "/tmp/coffer-jose-XXXXXX";

static int make_dir(void **state _unused_)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state _unused_)
{
    _cleanup_free_ char *cmd = xasprintf("rm -rf '%s'", dir);

    return system(cmd);
}

static json_t *parse(const char *s)
{
    struct err e = {0};
    json_t *j = NULL;

    if (json_parse("t", BYTES_STR(s), MAX, &j, &e)) {
        fail_msg("%s", e.msg);
    }
    return j;
}

static struct jkey *key_from(const char *jwk)
{
    _cleanup_json_ json_t *j = parse(jwk);
    struct err e = {0};
    struct jkey *k = NULL;

    if (jkey_from_jwk(j, &k, &e)) {
        fail_msg("%s", e.msg);
    }
    return k;
}

static struct jkey *new_key(void)
{
    struct err e = {0};
    struct jkey *k = NULL;

    assert_int_equal(jkey_generate(&k, &e), 0);
    return k;
}

/* --- keys --- */

static void keys_have_their_thumbprint_and_public_form(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PRIVATE), *p = key_from(RFC_PUBLIC);
    _cleanup_json_ json_t *j = jkey_public_jwk(k);
    _cleanup_free_ char *text = NULL;
    struct err e = {0};

    assert_true(jkey_is_private(k));
    assert_false(jkey_is_private(p));
    assert_string_equal(jkey_thumbprint(k), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    assert_string_equal(jkey_thumbprint(k), jkey_thumbprint(p));
    assert_int_equal(jcs_encode(j, &text, &e), 0);
    assert_string_equal(text, "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y
                              "\"}");
}

static void generated_keys_differ_and_come_back(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *a = new_key(), *b = new_key(), *again = NULL;
    _cleanup_json_ json_t *j = jkey_public_jwk(a);
    struct err e = {0};

    assert_true(jkey_is_private(a));
    assert_string_not_equal(jkey_thumbprint(a), jkey_thumbprint(b));
    assert_int_equal(jkey_from_jwk(j, &again, &e), 0);
    assert_string_equal(jkey_thumbprint(a), jkey_thumbprint(again));
    struct jkey *ref = jkey_ref(again);
    assert_ptr_equal(ref, again);
    jkey_free(ref);
    assert_false(jkey_is_private(again));
}

static void check_bad_jwk(const char *jwk, const char *message)
{
    _cleanup_json_ json_t *j = parse(jwk);
    struct jkey *k = NULL;
    struct err e = {0};

    assert_int_equal(jkey_from_jwk(j, &k, &e), -1);
    assert_null(k);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.msg, message);
    assert_int_equal(ERR_peek_error(), 0);
}

#define JWK(x, y) "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" x "\",\"y\":\"" y "\"}"
#define ZEROS "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

static void bad_keys_are_refused(void **state _unused_)
{
    check_bad_jwk("[]", "jwk: expected an object, found an array");
    check_bad_jwk("{\"kty\":\"RSA\"}", "jwk.kty: expected \"EC\", found another value");
    check_bad_jwk("{\"kty\":\"EC\",\"crv\":\"P-384\"}",
                  "jwk.crv: expected \"P-256\", found another value");
    check_bad_jwk("{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":1}", "jwk.x: expected a string");
    check_bad_jwk(JWK("AAAA", RFC_Y), "jwk.x: expected 43 base64url digits (32 bytes), found 4");
    check_bad_jwk(JWK(RFC_X, RFC_Y "="),
                  "jwk.y: expected 43 base64url digits (32 bytes), found 44");
    /* The last digit's two spare bits are set: a second spelling of the same bytes. */
    check_bad_jwk(JWK("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D5", RFC_Y),
                  "jwk.x: expected zero bits after the last base64 byte");
    /* Not on the curve; the point (0, 0); x past the field's prime; x and y swapped. */
    check_bad_jwk(JWK(RFC_X, "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyA"),
                  "jwk: expected a point on P-256 in x and y");
    check_bad_jwk(JWK(ZEROS, ZEROS), "jwk: expected a point on P-256 in x and y");
    check_bad_jwk(JWK("__________________________________________8", RFC_Y),
                  "jwk: expected a point on P-256 in x and y");
    check_bad_jwk(JWK(RFC_Y, RFC_X), "jwk: expected a point on P-256 in x and y");
}

static void coordinates_past_the_prime_are_refused(void **state _unused_)
{
    /* p = 2^256 - 2^224 + 2^192 + 2^96 - 1. (5, y) is on the curve; (5 + p, y) is the same point
     * spelled differently. */
    uint8_t point[33] = {2}, full[65];
    EC_GROUP *g = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
    EC_POINT *p = EC_POINT_new(g);

    point[32] = 5;
    assert_int_equal(EC_POINT_oct2point(g, p, point, sizeof(point), NULL), 1);
    assert_int_equal(
        EC_POINT_point2oct(g, p, POINT_CONVERSION_UNCOMPRESSED, full, sizeof(full), NULL), 65);
    EC_POINT_free(p);
    EC_GROUP_free(g);
    _cleanup_free_ char *x = b64url_encode(full + 1, 32), *y = b64url_encode(full + 33, 32);
    _cleanup_free_ char *good = xasprintf(JWK("%s", "%s"), x, y);
    jkey_free(key_from(good));
    uint8_t past[32];
    struct err e = {0};
    assert_int_equal(hex_decode("ffffffff00000001000000000000000000000001000000000000000000000004",
                                past, 32, &e),
                     0);
    _cleanup_free_ char *x2 = b64url_encode(past, 32), *bad = xasprintf(JWK("%s", "%s"), x2, y);
    check_bad_jwk(bad, "jwk: expected a point on P-256 in x and y");
}

#define WITH_D(d)                                                                                  \
    "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\",\"d\":" d "}"

static void private_parts_must_belong(void **state _unused_)
{
    check_bad_jwk(WITH_D("null"), "jwk.d: expected a string");
    check_bad_jwk(WITH_D("\"x\""), "jwk.d: expected 43 base64url digits (32 bytes), found 1");
    check_bad_jwk(WITH_D("\"" ZEROS "\""), "jwk.d: expected the private key of x and y");
    check_bad_jwk(WITH_D("\"" RFC_X "\""), "jwk.d: expected the private key of x and y");
    /* The order of the group, and more. */
    check_bad_jwk(WITH_D("\"_____wAAAAD__________7zm-q2nF56E87nKwvxjJVE\""),
                  "jwk.d: expected the private key of x and y");
    check_bad_jwk(WITH_D("\"__________________________________________8\""),
                  "jwk.d: expected the private key of x and y");
}

static void key_files_come_back(void **state _unused_)
{
    _cleanup_free_ char *priv = xasprintf("%s/priv.jwk", dir), *pub = xasprintf("%s/pub.jwk", dir);
    _cleanup_jkey_ struct jkey *k = new_key(), *k2 = NULL, *p = NULL;
    _cleanup_free_ char *jwe = NULL;
    _cleanup_secret_ struct secret *plain = NULL;
    struct err e = {0};
    struct stat st;

    assert_int_equal(jkey_write_private(priv, k, &e), 0);
    assert_int_equal(stat(priv, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(jkey_read_private(priv, &k2, &e), 0);
    assert_true(jkey_is_private(k2));
    assert_int_equal(jkey_write_public(pub, k, &e), 0);
    assert_int_equal(stat(pub, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
    assert_int_equal(jkey_read_public(pub, &p, &e), 0);
    assert_int_equal(jwe_encrypt(p, BYTES("x", 1), &jwe, &e), 0);
    assert_int_equal(jwe_decrypt(k2, jwe, MAX, &plain, &e), 0);
}

static void key_files_of_the_wrong_kind_are_refused(void **state _unused_)
{
    _cleanup_free_ char *priv = xasprintf("%s/a.jwk", dir), *pub = xasprintf("%s/b.jwk", dir);
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PRIVATE), *p = key_from(RFC_PUBLIC);
    struct jkey *out = NULL;
    struct err e = {0};

    assert_int_equal(jkey_write_private(priv, k, &e), 0);
    assert_int_equal(jkey_write_private(pub, p, &e), -1);
    assert_non_null(strstr(e.msg, "expected a private key to write, found a public one"));
    assert_int_equal(jkey_read_public(priv, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "expected a public key, found a private one"));
    assert_int_equal(chmod(priv, 0640), 0);
    assert_int_equal(jkey_read_private(priv, &out, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_int_equal(file_replace(pub, BYTES_STR(RFC_PUBLIC), 0600, &e), 0);
    assert_int_equal(jkey_read_private(pub, &out, &e), -1);
    assert_non_null(strstr(e.msg, "expected a private key, found a public one"));
    assert_int_equal(file_replace(pub, BYTES_STR("{\"d\":\"" RFC_D "\" x}"), 0600, &e), 0);
    assert_int_equal(jkey_read_private(pub, &out, &e), -1);
    assert_non_null(strstr(e.msg, pub));
    assert_null(strstr(e.msg, "870MB"));
    assert_int_equal(jkey_read_public("/nonexistent/key", &out, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_null(out);
}

/* --- JWS --- */

static void signatures_hold(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = new_key();

    for (int embed = 0; embed < 2; embed++) {
        /* Often enough to meet r and s with leading zeros and with the top bit set. */
        for (size_t n = 0; n < 600; n++) {
            _cleanup_buf_ struct buf payload = BUF_INIT(1024);
            _cleanup_jkey_ struct jkey *signer = NULL;
            _cleanup_free_ char *jws = NULL;
            char text[600];
            struct err e = {0};
            memset(text, (int)n, sizeof(text));
            assert_int_equal(jws_sign(k, TYP, embed, BYTES(text, n), &jws, &e), 0);
            assert_int_equal(jws_verify(jws, k, TYP, MAX, &payload, &e), 0);
            assert_int_equal(payload.n, n);
            assert_memory_equal(payload.p, text, n);
            buf_done(&payload);
            assert_int_equal(jws_verify_embedded(jws, TYP, MAX, &payload, &signer, &e),
                             embed ? 0 : -1);
            assert_int_equal(signer != NULL, embed);
            if (!embed) {
                assert_string_equal(e.msg,
                                    "JWS header.jwk: expected the signer's key, found nothing");
            }
        }
    }
}

static void json_is_signed_in_canonical_form(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = new_key();
    _cleanup_json_ json_t *j = parse("{\"b\":1,\"a\":[ 2 ]}"), *bad = parse("[0.5]");
    _cleanup_buf_ struct buf payload = BUF_INIT(1024);
    _cleanup_free_ char *jws = NULL;
    char *none = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign_json(k, "JWT", 0, j, &jws, &e), 0);
    assert_int_equal(jws_verify(jws, k, "JWT", MAX, &payload, &e), 0);
    assert_string_equal((char *)payload.p, "{\"a\":[2],\"b\":1}");
    assert_int_equal(jws_sign_json(k, "JWT", 0, bad, &none, &e), -1);
    assert_null(none);
}

static void signing_needs_a_private_key_and_a_plain_typ(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *p = key_from(RFC_PUBLIC), *k = key_from(RFC_PRIVATE);
    char *out = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(p, TYP, 0, BYTES("x", 1), &out, &e), -1);
    assert_string_equal(e.msg, "JWS: expected a private key to sign with");
    assert_int_equal(jws_sign(k, "a\"b", 0, BYTES("x", 1), &out, &e), -1);
    assert_int_equal(jws_sign(k, "", 0, BYTES("x", 1), &out, &e), -1);
    assert_string_equal(e.msg, "JWS: expected a typ of 1 to 64 media type characters");
    assert_null(out);
}

static void check_jws(const char *jws, const struct jkey *k, enum err_code code,
                      const char *message)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(1024);
    struct err e = {0};

    assert_int_equal(jws_verify(jws, k, TYP, MAX, &payload, &e), -1);
    assert_string_equal(e.msg, message);
    assert_int_equal(e.code, code);
    assert_int_equal(payload.n, 0);
    assert_int_equal(ERR_peek_error(), 0);
}

static void any_changed_character_breaks_the_jws(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = new_key();
    _cleanup_free_ char *jws = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(k, TYP, 1, BYTES_STR("{\"a\":1}"), &jws, &e), 0);
    for (size_t i = 0; jws[i]; i++) {
        char old = jws[i];
        jws[i] = old == 'A' ? 'B' : 'A';
        _cleanup_buf_ struct buf payload = BUF_INIT(1024);
        _cleanup_jkey_ struct jkey *signer = NULL;
        assert_int_equal(jws_verify(jws, k, TYP, MAX, &payload, &e), -1);
        assert_int_equal(jws_verify_embedded(jws, TYP, MAX, &payload, &signer, &e), -1);
        assert_true(e.code == ERR_INVALID || e.code == ERR_BAD_SIGNATURE);
        assert_null(signer);
        jws[i] = old;
    }
}

static void the_wrong_key_is_named(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *a = new_key(), *b = new_key();
    _cleanup_free_ char *jws = NULL, *wanted = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(a, TYP, 0, BYTES("x", 1), &jws, &e), 0);
    wanted =
        xasprintf("JWS header.kid: expected %s, got %s", jkey_thumbprint(b), jkey_thumbprint(a));
    check_jws(jws, b, ERR_BAD_SIGNATURE, wanted);
}

/* A JWS with any header and a signature that does not hold: what is wrong with the header must be
 * said before the signature is looked at. */
static char *forge(const char *header, const char *payload64, const char *sig64)
{
    _cleanup_free_ char *h = b64url_encode(header, strlen(header));

    return xasprintf("%s.%s.%s", h, payload64, sig64);
}

#define SIG86                                                                                      \
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

static void headers_are_read_strictly(void **state _unused_)
{
    static const struct {
        const char *header, *message;
    } cases[] = {
        {"{\"alg\":\"none\",\"typ\":\"" TYP "\"}", "JWS header.alg: expected ES256, found none"},
        {"{\"alg\":\"HS256\",\"typ\":\"" TYP "\"}", "JWS header.alg: expected ES256, found HS256"},
        {"{\"alg\":\"ES384\",\"typ\":\"" TYP "\"}", "JWS header.alg: expected ES256, found ES384"},
        {"{\"typ\":\"" TYP "\"}", "JWS header.alg: expected a string, found nothing"},
        {"{\"alg\":[\"ES256\"],\"typ\":\"" TYP "\"}",
         "JWS header.alg: expected a string, found an array"},
        {"{\"alg\":\"ES256\"}", "JWS header.typ: expected a string, found nothing"},
        {"{\"alg\":\"ES256\",\"typ\":\"JWT\"}", "JWS header.typ: expected " TYP ", found JWT"},
        {"{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"crit\":[\"b64\"],\"b64\":false}",
         "JWS header.crit: no critical extension is understood"},
        {"{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"jku\":\"https://x\"}",
         "JWS header.jku: not a known member"},
        {"{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"x5c\":[]}",
         "JWS header.x5c: not a known member"},
        {"{\"alg\":\"ES256\",\"alg\":\"ES256\",\"typ\":\"" TYP "\"}",
         "JWS header: line 1 column 20: duplicate object key"},
        {"{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"kid\":7}", "JWS header.kid: expected a string"},
        {"{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"jwk\":7}", "JWS header.jwk: expected an object"},
        {"{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"jwk\":{\"d\":\"x\"}}",
         "JWS header.jwk: expected a public key, found a private one"},
        {"[]", "JWS header: expected an object, found an array"},
        {"", "JWS header: expected JSON, found nothing"},
    };
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PUBLIC);

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *jws = forge(cases[i].header, "e30", SIG86);
        check_jws(jws, k, ERR_INVALID, cases[i].message);
    }
}

static void shapes_that_are_no_jws_are_refused(void **state _unused_)
{
    static const struct {
        const char *jws, *message;
    } cases[] = {
        {"", "JWS: expected three parts between dots, found fewer"},
        {"a.b", "JWS: expected three parts between dots, found fewer"},
        {"a.b.c.d", "JWS: expected three parts between dots, found more"},
        {"a.b." SIG86 "A", "JWS signature: expected 86 base64url digits (64 bytes), found 87"},
        {"a.b." SIG86 "==", "JWS signature: expected 86 base64url digits (64 bytes), found 88"},
        {"a.b.AAAA", "JWS signature: expected 86 base64url digits (64 bytes), found 4"},
        {"a.b.", "JWS signature: expected 86 base64url digits (64 bytes), found 0"},
        {"a.b." SIG86, "JWS header: expected whole base64 bytes, found 1 digits"},
        {"e30=.b." SIG86, "JWS header: expected a base64url digit at position 4"},
        {"e31.b." SIG86, "JWS header: expected zero bits after the last base64 byte"},
    };
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PUBLIC);

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        check_jws(cases[i].jws, k, ERR_INVALID, cases[i].message);
    }
}

static void zero_signatures_and_foreign_keys_do_not_hold(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PUBLIC), *other = new_key();
    _cleanup_free_ char *zero = forge("{\"alg\":\"ES256\",\"typ\":\"" TYP "\"}", "e30", SIG86);
    _cleanup_free_ char *theirs = NULL;
    struct err e = {0};

    check_jws(zero, k, ERR_BAD_SIGNATURE,
              "JWS: the signature is not of key cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    /* A header without kid that brings a key of its own is not believed. */
    _cleanup_json_ json_t *jwk = jkey_public_jwk(other);
    _cleanup_free_ char *jwk_text = NULL;
    assert_int_equal(jcs_encode(jwk, &jwk_text, &e), 0);
    _cleanup_free_ char *header =
        xasprintf("{\"alg\":\"ES256\",\"jwk\":%s,\"typ\":\"" TYP "\"}", jwk_text);
    theirs = forge(header, "e30", SIG86);
    check_jws(theirs, k, ERR_BAD_SIGNATURE,
              "JWS header.jwk: expected cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s, got another "
              "key");
}

static void embedded_keys_are_checked(void **state _unused_)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(100);
    _cleanup_free_ char *off = forge(
        "{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"jwk\":" JWK(RFC_Y, RFC_X) "}", "e30", SIG86);
    _cleanup_free_ char *kid =
        forge("{\"alg\":\"ES256\",\"typ\":\"" TYP "\",\"kid\":\"me\",\"jwk\":" RFC_PUBLIC "}",
              "e30", SIG86);
    struct jkey *signer = NULL;
    struct err e = {0};

    assert_int_equal(jws_verify_embedded(off, TYP, MAX, &payload, &signer, &e), -1);
    assert_string_equal(e.msg, "JWS header: jwk: expected a point on P-256 in x and y");
    assert_int_equal(jws_verify_embedded(kid, TYP, MAX, &payload, &signer, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_string_equal(e.actual, "me");
    assert_null(signer);
}

static void the_jws_size_is_bounded(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = new_key();
    _cleanup_buf_ struct buf payload = BUF_INIT(100), tiny = BUF_INIT(3);
    _cleanup_free_ char *jws = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(k, TYP, 0, BYTES("four", 4), &jws, &e), 0);
    assert_int_equal(jws_verify(jws, k, TYP, strlen(jws) - 1, &payload, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(jws_verify(jws, k, TYP, strlen(jws), &payload, &e), 0);
    assert_int_equal(jws_verify(jws, k, TYP, MAX, &tiny, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(tiny.n, 0);
    char big[4000];
    memset(big, ' ', sizeof(big));
    memcpy(big, "{}", 2);
    big[3999] = 0;
    _cleanup_free_ char *long_header = forge(big, "e30", SIG86);
    assert_int_equal(jws_verify(long_header, k, TYP, MAX, &payload, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
}

/* --- JWE --- */

static void encrypted_bytes_open_for_their_key_only(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = new_key(), *other = new_key();
    static const size_t sizes[] = {1, 15, 16, 17, 32, 4096, SECRET_MAX_BYTES};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        _cleanup_secret_ struct secret *in = secret_random(sizes[i]), *out = NULL;
        struct secret *none = NULL;
        _cleanup_free_ char *jwe = NULL;
        struct err e = {0};
        assert_int_equal(jwe_encrypt(k, BYTES(secret_cp(in), sizes[i]), &jwe, &e), 0);
        assert_int_equal(jwe_decrypt(k, jwe, 2u << 20, &out, &e), 0);
        assert_true(secret_eq(in, out));
        assert_int_equal(jwe_decrypt(other, jwe, 2u << 20, &none, &e), -1);
        assert_int_equal(e.code, ERR_BAD_SIGNATURE);
        _cleanup_free_ char *msg =
            xasprintf("JWE: does not open with key %s", jkey_thumbprint(other));
        assert_string_equal(e.msg, msg);
        assert_null(none);
        assert_int_equal(ERR_peek_error(), 0);
    }
}

static void the_header_is_spelled_as_clients_rebuild_it(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PUBLIC);
    _cleanup_free_ char *jwe = NULL, *expected = NULL;
    _cleanup_buf_ struct buf header = BUF_INIT(1024);
    struct err e = {0};

    assert_int_equal(jwe_encrypt(k, BYTES("x", 1), &jwe, &e), 0);
    assert_int_equal(strncmp(jwe, "{\"protected\":\"", 14), 0);
    _cleanup_json_ json_t *o = parse(jwe);
    const char *p = json_string_value(json_object_get(o, "protected"));
    assert_int_equal(b64url_decode(p, strlen(p), &header, &e), 0);
    _cleanup_json_ json_t *h = parse((const char *)header.p);
    json_t *epk = json_object_get(h, "epk");
    expected = xasprintf("{\"alg\":\"ECDH-ES+A256KW\",\"enc\":\"A256GCM\",\"epk\":{\"crv\":"
                         "\"P-256\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}}",
                         json_string_value(json_object_get(epk, "x")),
                         json_string_value(json_object_get(epk, "y")));
    assert_string_equal((char *)header.p, expected);
}

static void any_changed_character_breaks_the_jwe(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = new_key();
    _cleanup_free_ char *jwe = NULL;
    struct err e = {0};

    assert_int_equal(jwe_encrypt(k, BYTES("secret", 6), &jwe, &e), 0);
    for (size_t i = 0; jwe[i]; i++) {
        struct secret *out = NULL;
        char old = jwe[i];
        jwe[i] = old == 'A' ? 'B' : 'A';
        assert_int_equal(jwe_decrypt(k, jwe, MAX, &out, &e), -1);
        assert_null(out);
        jwe[i] = old;
    }
    struct secret *out = NULL;
    assert_int_equal(jwe_decrypt(k, jwe, MAX, &out, &e), 0);
    secret_free(out);
}

/* A good JWE to the key, with one member of it, or of its header, replaced. */
static void check_jwe(const char *in_header, const char *key, const char *value,
                      const char *message)
{
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PRIVATE);
    _cleanup_free_ char *jwe = NULL, *changed = NULL;
    _cleanup_buf_ struct buf header = BUF_INIT(1024);
    struct secret *out = NULL;
    struct err e = {0};

    assert_int_equal(jwe_encrypt(k, BYTES("secret", 6), &jwe, &e), 0);
    _cleanup_json_ json_t *o = parse(jwe);
    if (in_header) {
        const char *p = json_string_value(json_object_get(o, "protected"));
        assert_int_equal(b64url_decode(p, strlen(p), &header, &e), 0);
        _cleanup_json_ json_t *h = parse((const char *)header.p);
        json_t *where = *in_header ? json_object_get(h, in_header) : h;
        json_object_set_new(where, key, parse(value));
        _cleanup_free_ char *text = json_dumps(h, JSON_COMPACT);
        _cleanup_free_ char *p64 = b64url_encode(text, strlen(text));
        json_object_set_new(o, "protected", json_string(p64));
    } else if (value) {
        json_object_set_new(o, key, parse(value));
    } else {
        json_object_del(o, key);
    }
    changed = json_dumps(o, JSON_COMPACT);
    assert_int_equal(jwe_decrypt(k, changed, MAX, &out, &e), -1);
    assert_string_equal(e.msg, message);
    assert_int_equal(e.code, ERR_INVALID);
    assert_null(out);
}

static void jwe_members_are_read_strictly(void **state _unused_)
{
    check_jwe(NULL, "tag", NULL, "JWE.tag: expected a string, found nothing");
    check_jwe(NULL, "tag", "\"AAAA\"", "JWE.tag: expected 16 bytes, found 3");
    check_jwe(NULL, "iv", "\"AAAA\"", "JWE.iv: expected 12 bytes, found 3");
    check_jwe(NULL, "iv", "\"AAAAAAAAAAAAAAA=\"",
              "JWE.iv: expected a base64url digit at position 16");
    check_jwe(NULL, "encrypted_key", "\"AAAA\"", "JWE.encrypted_key: expected 40 bytes, found 3");
    check_jwe(NULL, "ciphertext", "\"\"", "JWE.ciphertext: expected at least one byte, found none");
    check_jwe(NULL, "aad", "\"AAAA\"", "JWE.aad: not a known member");
    check_jwe(NULL, "header", "{}", "JWE.header: not a known member");
    check_jwe(NULL, "unprotected", "{}", "JWE.unprotected: not a known member");
    check_jwe(NULL, "recipients", "[]", "JWE.recipients: not a known member");
    check_jwe("", "alg", "\"dir\"", "JWE header.alg: expected ECDH-ES+A256KW, found dir");
    check_jwe("", "enc", "\"A128GCM\"", "JWE header.enc: expected A256GCM, found A128GCM");
    check_jwe("", "crit", "[\"x\"]", "JWE header.crit: no critical extension is understood");
    check_jwe("", "zip", "\"DEF\"", "JWE header.zip: not a known member");
    check_jwe("", "apu", "\"AAAA\"", "JWE header.apu: not a known member");
    check_jwe("", "epk", "7", "JWE header.epk: expected an object, found an integer");
    check_jwe("epk", "d", "\"" RFC_D "\"", "JWE header.epk.d: not a known member");
    check_jwe("epk", "crv", "\"P-384\"",
              "JWE header.epk: jwk.crv: expected \"P-256\", found another value");
    check_jwe("epk", "x", "\"" ZEROS "\"",
              "JWE header.epk: jwk: expected a point on P-256 in x and y");
}

static void jwe_sizes_and_keys_are_checked(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = key_from(RFC_PRIVATE), *p = key_from(RFC_PUBLIC);
    _cleanup_free_ char *jwe = NULL;
    char *none = NULL;
    struct secret *out = NULL;
    struct err e = {0};

    assert_int_equal(jwe_encrypt(p, BYTES("x", 0), &none, &e), -1);
    assert_string_equal(e.msg, "JWE: expected 1 to 1048576 bytes to encrypt, found 0");
    assert_int_equal(jwe_encrypt(p, BYTES("x", SECRET_MAX_BYTES + 1), &none, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_null(none);
    assert_int_equal(jwe_encrypt(p, BYTES("x", 1), &jwe, &e), 0);
    assert_int_equal(jwe_decrypt(p, jwe, MAX, &out, &e), -1);
    assert_string_equal(e.msg, "JWE: expected a private key to decrypt with");
    assert_int_equal(jwe_decrypt(k, jwe, strlen(jwe) - 1, &out, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(jwe_decrypt(k, "{\"a\":1,\"a\":1}", MAX, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_null(out);
}

/* What verified once is remembered; that must not vouch for anything else. */
static void a_good_signature_vouches_for_itself_only(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = NULL, *other = NULL;
    _cleanup_free_ char *jws = NULL, *second = NULL;
    struct err e = {0};

    assert_int_equal(jkey_generate(&k, &e), 0);
    assert_int_equal(jkey_generate(&other, &e), 0);
    assert_int_equal(jws_sign(k, "t", 0, BYTES_STR("one"), &jws, &e), 0);
    assert_int_equal(jws_sign(k, "t", 0, BYTES_STR("two"), &second, &e), 0);
    for (int i = 0; i < 3; i++) {
        _cleanup_buf_ struct buf out = BUF_INIT(64);
        assert_int_equal(jws_verify(jws, k, "t", 4096, &out, &e), 0);
        assert_string_equal((char *)out.p, "one");
        assert_int_equal(jws_verify(jws, other, "t", 4096, &out, &e), -1);
        assert_int_equal(e.code, ERR_BAD_SIGNATURE);
        assert_int_equal(jws_verify(jws, k, "u", 4096, &out, &e), -1);
        /* The signature of the one on the text of the other. */
        _cleanup_free_ char *mixed =
            xasprintf("%.*s%s", (int)(strrchr(second, '.') - second), second, strrchr(jws, '.'));
        assert_int_equal(jws_verify(mixed, k, "t", 4096, &out, &e), -1);
        assert_int_equal(e.code, ERR_BAD_SIGNATURE);
        for (size_t at = strlen(jws) - 86; at < strlen(jws) - 1; at += 17) {
            _cleanup_free_ char *bent = xstrdup(jws);
            bent[at] = bent[at] == 'A' ? 'B' : 'A';
            assert_int_equal(jws_verify(bent, k, "t", 4096, &out, &e), -1);
        }
    }
}

static void an_imported_key_is_the_same_key_again(void **state _unused_)
{
    _cleanup_jkey_ struct jkey *k = NULL, *a = NULL, *b = NULL;
    struct err e = {0};

    assert_int_equal(jkey_generate(&k, &e), 0);
    _cleanup_json_ json_t *j = jkey_public_jwk(k);
    assert_int_equal(jkey_from_jwk(j, &a, &e), 0);
    assert_int_equal(jkey_from_jwk(j, &b, &e), 0);
    assert_false(jkey_is_private(a));
    assert_string_equal(jkey_thumbprint(a), jkey_thumbprint(k));
    assert_string_equal(jkey_thumbprint(b), jkey_thumbprint(k));
    jkey_free(TAKE_PTR(a));
    assert_string_equal(jkey_thumbprint(b), jkey_thumbprint(k));
    /* One coordinate of it with another one is no point. */
    json_object_set(j, "y", json_object_get(j, "x"));
    assert_int_equal(jkey_from_jwk(j, &a, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_signature_vouches_for_itself_only),
        cmocka_unit_test(an_imported_key_is_the_same_key_again),
        cmocka_unit_test(keys_have_their_thumbprint_and_public_form),
        cmocka_unit_test(generated_keys_differ_and_come_back),
        cmocka_unit_test(bad_keys_are_refused),
        cmocka_unit_test(coordinates_past_the_prime_are_refused),
        cmocka_unit_test(private_parts_must_belong),
        cmocka_unit_test(key_files_come_back),
        cmocka_unit_test(key_files_of_the_wrong_kind_are_refused),
        cmocka_unit_test(signatures_hold),
        cmocka_unit_test(json_is_signed_in_canonical_form),
        cmocka_unit_test(signing_needs_a_private_key_and_a_plain_typ),
        cmocka_unit_test(any_changed_character_breaks_the_jws),
        cmocka_unit_test(the_wrong_key_is_named),
        cmocka_unit_test(headers_are_read_strictly),
        cmocka_unit_test(shapes_that_are_no_jws_are_refused),
        cmocka_unit_test(zero_signatures_and_foreign_keys_do_not_hold),
        cmocka_unit_test(embedded_keys_are_checked),
        cmocka_unit_test(the_jws_size_is_bounded),
        cmocka_unit_test(encrypted_bytes_open_for_their_key_only),
        cmocka_unit_test(the_header_is_spelled_as_clients_rebuild_it),
        cmocka_unit_test(any_changed_character_breaks_the_jwe),
        cmocka_unit_test(jwe_members_are_read_strictly),
        cmocka_unit_test(jwe_sizes_and_keys_are_checked),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
