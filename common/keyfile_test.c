/* A service's own keys, and keys on their way to the KBS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "common/keybox.h"
#include "common/keyfile.h"

static char dir[32];
static const char *const files[] = {"sign.jwk", "sign.pub.jwk", "seal.jwk", "seal.pub.jwk", "kek"};

static char *path_of(const char *name)
{
    return xasprintf("%s/%s", dir, name);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-keys-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = path_of(files[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static void test_generate(void **state)
{
    (void)state;
    _cleanup_(service_keys_done) struct service_keys a = {0}, b = {0}, none = {0};
    struct err e = {0};
    struct stat st;

    assert_int_equal(service_keys_load(dir, 7, 0, &none, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "/sign.jwk: the key is missing and may not be made"));
    assert_int_equal(service_keys_load(dir, 7, KEYFILE_SIGN | KEYFILE_SEAL, &none, &e), -1);
    assert_non_null(strstr(e.msg, "/kek: the key is missing and may not be made"));
    assert_null(none.sign);
    assert_int_equal(service_keys_load(dir, 7, 7, &a, &e), 0);
    assert_int_equal(secret_n(a.kek), KEYFILE_KEK_BYTES);
    assert_true(jkey_is_private(a.sign) && jkey_is_private(a.seal));
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = path_of(files[i]);
        assert_int_equal(stat(path, &st), 0);
        if (!strstr(files[i], ".pub")) {
            assert_int_equal(st.st_mode & 0777, 0600);
        }
    }
    /* The same again, also when making is allowed. */
    assert_int_equal(service_keys_load(dir, 7, 7, &b, &e), 0);
    assert_string_equal(jkey_thumbprint(a.sign), jkey_thumbprint(b.sign));
    assert_string_equal(jkey_thumbprint(a.seal), jkey_thumbprint(b.seal));
    assert_true(secret_eq(a.kek, b.kek));
    assert_string_not_equal(jkey_thumbprint(a.sign), jkey_thumbprint(a.seal));

    _cleanup_free_ char *pub_path = path_of("sign.pub.jwk");
    _cleanup_jkey_ struct jkey *pub = NULL;
    assert_int_equal(jkey_read_public(pub_path, &pub, &e), 0);
    assert_string_equal(jkey_thumbprint(pub), jkey_thumbprint(a.sign));
    assert_false(jkey_is_private(pub));
}

/* A key that is there but unusable is an error, never replaced. */
static void test_never_replaced(void **state)
{
    (void)state;
    _cleanup_(service_keys_done) struct service_keys a = {0}, none = {0};
    _cleanup_free_ char *sign = path_of("sign.jwk"), *kek = path_of("kek");
    _cleanup_secret_ struct secret *brief = secret_random(16);
    struct err e = {0};

    assert_int_equal(service_keys_load(dir, 7, 7, &a, &e), 0);
    assert_int_equal(chmod(sign, 0640), 0);
    assert_int_equal(service_keys_load(dir, 7, 7, &none, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_int_equal(chmod(sign, 0600), 0);
    assert_int_equal(truncate(sign, 10), 0);
    assert_int_equal(service_keys_load(dir, 7, 7, &none, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(secret_write_file(kek, brief, &e), 0);
    assert_int_equal(service_keys_load(dir, KEYFILE_KEK, 7, &none, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "/kek: expected 32 bytes, found 16"));
    /* A dangling link is something that is there. */
    assert_int_equal(unlink(kek), 0);
    assert_int_equal(symlink("/nonexistent/kek", kek), 0);
    assert_int_equal(service_keys_load(dir, KEYFILE_KEK, 7, &none, &e), -1);
    assert_int_not_equal(e.code, ERR_NOT_FOUND);
}

static void test_trusted(void **state)
{
    (void)state;
    struct trust_keys keys = {.n = 1};
    _cleanup_jkey_ struct jkey *a = NULL, *b = NULL;
    struct err e = {0};

    assert_int_equal(jkey_generate(&a, &e) | jkey_generate(&b, &e), 0);
    keys.keys[0] = a;
    assert_int_equal(service_key_trusted(&keys, "gate", a, &e), 0);
    assert_int_equal(service_key_trusted(&keys, "gate", b, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_string_equal(e.clause, "trust.gate");
    assert_non_null(strstr(e.actual, jkey_thumbprint(b)));
}

static void test_keybox(void **state)
{
    (void)state;
    static const char id[] = "patients.aaaaaaaaaaaaaaaaaaaaaaaaaa";
    _cleanup_jkey_ struct jkey *kbs = NULL, *other = NULL;
    _cleanup_secret_ struct secret *key = secret_random(32), *got = NULL, *none = NULL;
    _cleanup_free_ char *box = NULL, *bare = NULL, *long_id = xmalloc(KEYBOX_ID_MAX + 2);
    struct err e = {0};
    char *no = NULL;

    assert_int_equal(jkey_generate(&kbs, &e) | jkey_generate(&other, &e), 0);
    assert_int_equal(keybox_seal(kbs, id, key, &box, &e), 0);
    assert_int_equal(keybox_open(kbs, box, id, &got, &e), 0);
    assert_true(secret_eq(got, key));
    assert_int_equal(keybox_open(other, box, id, &none, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    static const char *const others[] = {"patients.aaaaaaaaaaaaaaaaaaaaaaaaab", "patients", "",
                                         "patients.aaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        assert_int_equal(keybox_open(kbs, box, others[i], &none, &e), -1);
        assert_int_equal(e.code, ERR_DENIED);
        assert_string_equal(e.clause, "jwe.id");
    }
    assert_int_equal(jwe_encrypt(kbs, BYTES(secret_cp(key), 32), &bare, &e), 0);
    assert_int_equal(keybox_open(kbs, bare, id, &none, &e), -1);
    assert_string_equal(e.msg, "jwe: expected a 32-byte key and the id it belongs to");
    memset(long_id, 'a', KEYBOX_ID_MAX + 1);
    long_id[KEYBOX_ID_MAX + 1] = 0;
    assert_int_equal(keybox_seal(kbs, long_id, key, &no, &e), -1);
    assert_string_equal(e.msg, "key id: expected 1 to 96 characters, found 97");
    assert_int_equal(keybox_seal(kbs, "", key, &no, &e), -1);
}

static void test_image_key_id(void **state)
{
    (void)state;
    static const char text[] =
        "{\"kind\":\"image-key\",\"name\":\"app\",\"owner\":{\"crv\":\"P-256\","
        "\"kty\":\"EC\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
        "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"},"
        "\"salt\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"v\":1}";
    static const struct {
        const char *member, *value, *message;
    } bad[] = {
        {"kind", "\"x\"", "descriptor.kind: expected \"image-key\""},
        {"name", "\"A\"", "descriptor.name: expected 1 to 63 of [a-z0-9-]"},
        {"name", "\"\"", "descriptor.name: expected"},
        {"salt", "\"AA\"", "descriptor.salt: expected 16 bytes"},
        {"v", "2", "descriptor.v: expected 1"},
        {"more", "1", "descriptor.more: not a known member"},
        {"owner", "{}", "jwk.kty"},
    };
    _cleanup_json_ json_t *d = json_loads(text, 0, NULL);
    char id[KEYBOX_ID_MAX + 1], id2[KEYBOX_ID_MAX + 1];
    struct err e = {0};

    assert_int_equal(image_key_id(d, id, NULL, &e), 0);
    assert_true(secret_id_valid(id));
    /* Computed by another implementation (Python's hashlib and base64). */
    assert_string_equal(id, "app.jxoslgqlztvafotbgtpqywwgch");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_json_ json_t *j = json_deep_copy(d);
        json_object_set_new(j, bad[i].member, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        assert_int_equal(image_key_id(j, id2, NULL, &e), -1);
        if (!strstr(e.msg, bad[i].message)) {
            fail_msg("expected \"%s\", found \"%s\"", bad[i].message, e.msg);
        }
    }
    json_object_set_new(d, "salt", json_string("AQAAAAAAAAAAAAAAAAAAAA"));
    assert_int_equal(image_key_id(d, id2, NULL, &e), 0);
    assert_string_not_equal(id, id2);
    static const char *const ids[] = {"",
                                      "a",
                                      "a.",
                                      ".aaaaaaaaaaaaaaaaaaaaaaaaaa",
                                      "A.aaaaaaaaaaaaaaaaaaaaaaaaaa",
                                      "a.aaaaaaaaaaaaaaaaaaaaaaaaa",
                                      "a.aaaaaaaaaaaaaaaaaaaaaaaaa1",
                                      "a|b.aaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        assert_false(secret_id_valid(ids[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_generate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_never_replaced, setup, teardown),
        cmocka_unit_test(test_trusted),
        cmocka_unit_test(test_keybox),
        cmocka_unit_test(test_image_key_id),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
