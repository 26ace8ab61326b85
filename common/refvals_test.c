/* Reference values, and the file of enrolled hosts: what of them is refused, and how it is named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fileio.h"
#include "common/refvals.h"
#include "common/tpmca.h"
#include "common/tpmhosts.h"

#define H8 "01234567"
#define H64 H8 H8 H8 H8 H8 H8 H8 H8
#define H96 H64 H8 H8 H8 H8
#define IMAGE                                                                                      \
    "\"image\":{\"name\":\"coffer-guest\",\"version\":\"0.1.0\",\"uki_sha256\":\"" H64             \
    "\",\"kernel_sha256\":\"" H64 "\",\"initrd_sha256\":\"" H64 "\",\"cmdline\":\"quiet\"}"
#define FIRMWARE                                                                                   \
    "\"firmware\":{\"name\":\"OVMF\",\"sha256\":\"" H64 "\",\"pcr0\":{\"256/1\":\"" H64            \
    "\",\"3072/8\":\"" H64 "\"}}"
#define VTPM                                                                                       \
    "\"vtpm\":{" FIRMWARE ",\"pcrs\":{\"1\":\"" H64 "\",\"12\":\"" H64                             \
    "\"},\"events\":[{\"pcr\":9,\"what\":\"initramfs\",\"digest\":\"" H64 "\"}]}"
#define SNP "\"snp\":[{\"vcpus\":1,\"cpu\":\"EPYC-v4\",\"digest\":\"" H96 "\"}]"
#define TDX "\"tdx\":{\"mrtd\":\"" H96 "\",\"rtmr1\":\"" H96 "\",\"rtmr2\":\"" H96 "\"}"
#define ALL "{\"v\":1," IMAGE "," VTPM "," SNP "," TDX "}"

static void test_image(void **state)
{
    (void)state;
    struct refvals_image i = {0};
    struct err e = {0};

    assert_int_equal(refvals_image_parse(BYTES_STR(ALL), &i, &e), 0);
    assert_string_equal(i.name, "coffer-guest");
    assert_int_equal(i.has_vtpm, 1);
    assert_int_equal(i.vtpm.n_pcr0, 2);
    assert_string_equal(i.vtpm.pcr0[0].size, "256/1");
    assert_int_equal(i.vtpm.pcrs, 1u << 1 | 1u << 12);
    assert_int_equal(i.vtpm.pcr[12][0], 0x01);
    assert_int_equal(i.vtpm.n_events, 1);
    assert_int_equal(i.vtpm.events[0].pcr, 9);
    assert_string_equal(i.vtpm.events[0].what, "initramfs");
    assert_int_equal(i.n_snp, 1);
    assert_int_equal(i.snp[0].vcpus, 1);
    assert_int_equal(i.has_tdx, 1);
    refvals_image_done(&i);
    /* The firmware may allow none of the others. */
    assert_int_equal(refvals_image_parse(BYTES_STR("{\"v\":1," IMAGE "}"), &i, &e), 0);
    assert_false(i.has_vtpm || i.n_snp || i.has_tdx);
    refvals_image_done(&i);
}

/* Each with something else in place of a part of a good one; the message names the member. */
static void test_image_refused(void **state)
{
    (void)state;
    static const struct {
        const char *part, *other, *says;
    } bad[] = {
        {"\"v\":1,", "\"v\":2,", "refvals.v"},
        {"\"v\":1,", "\"v\":1,\"more\":1,", "more"},
        {"\"name\":\"coffer-guest\"", "\"name\":7", "refvals.image.name"},
        {"coffer-guest", "a\\u001bb", "refvals.image.name: expected at most 128 printable"},
        {"\"version\":\"0.1.0\",", "", "refvals.image.version"},
        {"\"uki_sha256\":\"0", "\"uki_sha256\":\"", "refvals.image.uki_sha256: expected 64"},
        {"\"kernel_sha256\":\"0", "\"kernel_sha256\":\"A", "refvals.image.kernel_sha256"},
        {"\"cmdline\":\"quiet\"", "\"cmdline\":null", "refvals.image.cmdline"},
        {"\"pcr0\":{\"256/1\"", "\"pcr0\":{\"256\"", "refvals.vtpm.firmware.pcr0: expected sizes"},
        {"\"256/1\"", "\"256/\"", "refvals.vtpm.firmware.pcr0"},
        {"\"256/1\"", "\"256/1x\"", "refvals.vtpm.firmware.pcr0"},
        {"\"256/1\":\"0", "\"256/1\":\"", "refvals.vtpm.firmware.pcr0"},
        {"\"pcrs\":{\"1\"", "\"pcrs\":{\"0\"", "refvals.vtpm.pcrs: expected registers 1 to 23"},
        {"\"pcrs\":{\"1\"", "\"pcrs\":{\"24\"", "refvals.vtpm.pcrs"},
        {"\"pcrs\":{\"1\"", "\"pcrs\":{\"x\"", "refvals.vtpm.pcrs"},
        {"\"pcrs\":{\"1\"", "\"pcrs\":{\"012\"", "refvals.vtpm.pcrs"},
        {"\"pcrs\":{\"1\"", "\"pcrs\":{\"012\":1,\"1\"", "refvals.vtpm.pcrs"},
        {"\"pcrs\":{\"1\":\"0", "\"pcrs\":{\"1\":\"", "refvals.vtpm.pcrs.1"},
        {"\"pcrs\":{\"1\"", "\"pcrs\":{\"01\":\"" H64 "\",\"1\"", "each once"},
        {"\"pcr\":9", "\"pcr\":24", "refvals.vtpm.events[0].pcr"},
        {"\"what\":\"initramfs\"", "\"what\":1", "refvals.vtpm.events[0].what"},
        {"\"digest\":\"0", "\"digest\":\"", "refvals.vtpm.events[0].digest"},
        {"\"vcpus\":1", "\"vcpus\":0", "refvals.snp[0].vcpus"},
        {"\"mrtd\":\"0", "\"mrtd\":\"", "refvals.tdx.mrtd"},
        {"\"rtmr2\"", "\"rtmr3\"", "rtmr3"},
    };

    for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
        struct refvals_image i = {0};
        struct err e = {0};
        const char *at = strstr(ALL, bad[k].part);
        assert_non_null(at);
        _cleanup_free_ char *text =
            xasprintf("%.*s%s%s", (int)(at - ALL), ALL, bad[k].other, at + strlen(bad[k].part));
        assert_int_equal(refvals_image_parse(BYTES_STR(text), &i, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.msg, bad[k].says)) {
            fail_msg("%s: expected \"%s\" in \"%s\"", bad[k].other, bad[k].says, e.msg);
        }
        assert_null(i.json);
    }
}

static char *sign(const struct jkey *k, const char *typ)
{
    char *jws = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(k, typ, 0, BYTES_STR(ALL), &jws, &e), 0);
    return jws;
}

static void test_file(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *k = NULL, *other = NULL;
    _cleanup_(refvals_freep) struct refvals *r = NULL;
    struct trust_keys keys = {0}, none = {0};
    struct err e = {0};

    assert_int_equal(jkey_generate(&k, &e) || jkey_generate(&other, &e), 0);
    keys.keys[0] = k;
    keys.n = 1;
    _cleanup_free_ char *good = sign(k, REFVALS_TYP), *typ = sign(k, "coffer-spec+jws");
    _cleanup_free_ char *foreign = sign(other, REFVALS_TYP);
    _cleanup_free_ char *two = xasprintf("%s\n\n%s\n", good, good);
    assert_int_equal(refvals_parse(BYTES_STR(two), &keys, &r, &e), 0);
    assert_int_equal(r->n, 2);
    refvals_free(TAKE_PTR(r));
    assert_int_equal(refvals_parse(BYTES_STR(good), &keys, &r, &e), 0);
    assert_int_equal(r->n, 1);
    refvals_free(TAKE_PTR(r));

    _cleanup_free_ char *second = xasprintf("%s\n%s", good, foreign);
    assert_int_equal(refvals_parse(BYTES_STR(second), &keys, &r, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_string_equal(e.clause, "release.signature");
    assert_non_null(strstr(e.msg, "line 2"));
    assert_int_equal(refvals_parse(BYTES_STR(good), &none, &r, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_int_equal(refvals_parse(BYTES_STR(typ), &keys, &r, &e), -1);
    good[strlen(good) - 2] ^= 1;
    assert_int_equal(refvals_parse(BYTES_STR(good), &keys, &r, &e), -1);
    assert_int_equal(refvals_parse(BYTES("a\0b", 3), &keys, &r, &e), -1);
    assert_non_null(strstr(e.msg, "line 1: expected text"));
    assert_int_equal(refvals_parse(BYTES_STR("\n\n"), &keys, &r, &e), -1);
    assert_non_null(strstr(e.msg, "expected one JWS a line, found none"));
    assert_int_equal(refvals_read("/nonexistent/refvals", &keys, &r, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_null(r);
}

static char *sign_text(const struct jkey *k, const char *typ, const char *text)
{
    char *jws = NULL;
    struct err e = {0};

    assert_int_equal(jws_sign(k, typ, 0, BYTES_STR(text), &jws, &e), 0);
    return jws;
}

static void test_values(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{\"v\":1,\"values\":{\"a b\":[]}}",    "{\"v\":1,\"values\":{\"\":[]}}",
        "{\"v\":1,\"values\":{\"a\":\"x\"}}",   "{\"v\":1,\"values\":{\"a\":[[1]]}}",
        "{\"v\":1,\"values\":{\"a\":[null]}}",  "{\"v\":1,\"values\":{\"a\":[1.5]}}",
        "{\"v\":2,\"values\":{\"a\":[1]}}",     "{\"v\":1,\"values\":[]}",
        "{\"v\":1,\"values\":{},\"image\":{}}",
    };
    _cleanup_jkey_ struct jkey *k = NULL, *other = NULL;
    _cleanup_(refvals_freep) struct refvals *r = NULL;
    struct trust_keys keys = {0};
    struct err e = {0};

    assert_int_equal(jkey_generate(&k, &e) || jkey_generate(&other, &e), 0);
    keys.keys[0] = k;
    keys.n = 1;
    _cleanup_free_ char *image = sign(k, REFVALS_TYP);
    _cleanup_free_ char *one =
        sign_text(k, REFVALS_VALUES_TYP, "{\"v\":1,\"values\":{\"svn\":[3,4],\"mr\":[\"aa\"]}}");
    _cleanup_free_ char *more =
        sign_text(k, REFVALS_VALUES_TYP, "{\"v\":1,\"values\":{\"svn\":[5]}}");
    _cleanup_free_ char *all = xasprintf("%s\n%s\n%s\n", one, image, more);
    assert_int_equal(refvals_parse(BYTES_STR(all), &keys, &r, &e), 0);
    assert_int_equal(r->n, 1);
    assert_int_equal(json_array_size(refvals_lookup(r, "svn")), 3);
    assert_int_equal(json_array_size(refvals_lookup(r, "mr")), 1);
    assert_int_equal(json_array_size(refvals_lookup(r, "image.tdx.mrtd")), 1);
    assert_int_equal(json_array_size(refvals_lookup(r, "image.snp.measurement")), 1);
    assert_null(refvals_lookup(r, "nope"));
    assert_null(refvals_lookup(NULL, "svn"));
    refvals_free(TAKE_PTR(r));
    assert_int_equal(refvals_parse(BYTES_STR(one), &keys, &r, &e), 0); /* no image is needed */
    refvals_free(TAKE_PTR(r));

    _cleanup_free_ char *foreign =
        sign_text(other, REFVALS_VALUES_TYP, "{\"v\":1,\"values\":{\"svn\":[5]}}");
    assert_int_equal(refvals_parse(BYTES_STR(foreign), &keys, &r, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_free_ char *jws = sign_text(k, REFVALS_VALUES_TYP, bad[i]);
        if (refvals_parse(BYTES_STR(jws), &keys, &r, &e) == 0) {
            fail_msg("taken: %s", bad[i]);
        }
    }
}

static void test_hosts(void **state)
{
    (void)state;
    char dir[] = "/tmp/coffer-hosts-XXXXXX";
    _cleanup_buf_ struct buf pem = BUF_INIT(16384);
    _cleanup_(tpm_hosts_freep) struct tpm_hosts *h = NULL, *again = NULL;
    struct err e = {0};

    assert_non_null(mkdtemp(dir));
    assert_int_equal(tpmca_make(dir, "h1", &e), 0);
    _cleanup_free_ char *root = xasprintf("%s/" TPMCA_ROOT, dir);
    _cleanup_free_ char *key = xasprintf("%s/" TPMCA_KEY, dir);
    assert_int_equal(file_read(root, 16384, 0, &pem, &e), 0);
    unlink(root);
    unlink(key);
    rmdir(dir);
    _cleanup_json_ json_t *j = json_pack("{s:i,s:[{s:s,s:[s],s:[s]}]}", "v", 1, "hosts", "host",
                                         "h1", "roots", (char *)pem.p, "eks", H64);
    _cleanup_free_ char *text = json_dumps(j, 0);
    assert_int_equal(tpm_hosts_parse(BYTES_STR(text), &h, &e), 0);
    assert_int_equal(h->n, 1);
    assert_int_equal(h->v[0].eks[0][0], 0x01);
    _cleanup_json_ json_t *out = tpm_hosts_json(h);
    assert_true(json_equal(j, out));

    static const struct {
        const char *part, *other, *says;
    } bad[] = {
        {"\"v\": 1", "\"v\": 2", "hosts.v"},
        {"\"h1\"", "\"h.1\"", "hosts[0].host"},
        {"\"h1\"", "1", "hosts[0].host"},
        {"-----BEGIN", "-----Begin", "hosts[0].roots[0]: expected one certificate"},
        {"[\"" H8, "[\"x" H8, "hosts[0].eks[0]"},
        {"\"eks\"", "\"keys\"", "hosts[0]"},
    };
    for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
        const char *at = strstr(text, bad[k].part);
        assert_non_null(at);
        _cleanup_free_ char *changed =
            xasprintf("%.*s%s%s", (int)(at - text), text, bad[k].other, at + strlen(bad[k].part));
        assert_int_equal(tpm_hosts_parse(BYTES_STR(changed), &again, &e), -1);
        if (!strstr(e.msg, bad[k].says)) {
            fail_msg("%s: expected \"%s\" in \"%s\"", bad[k].other, bad[k].says, e.msg);
        }
    }
    json_array_append(json_object_get(j, "hosts"), json_array_get(json_object_get(j, "hosts"), 0));
    _cleanup_free_ char *twice = json_dumps(j, 0);
    assert_int_equal(tpm_hosts_parse(BYTES_STR(twice), &again, &e), -1);
    assert_non_null(strstr(e.msg, "hosts[1].host: expected a host that is not in the file yet"));
    assert_int_equal(tpm_hosts_read("/nonexistent/hosts", &again, &e), -1);
    assert_int_equal(e.code, ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image), cmocka_unit_test(test_image_refused),
        cmocka_unit_test(test_file),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_hosts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
