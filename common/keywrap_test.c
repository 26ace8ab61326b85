#include "common/keyprovider.h"

#include <sys/mman.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/jcs.h"

#define KID "kbs:///default/image-key/7"
#define OPTS "{\"symkey\":\"c2VjcmV0\"}"

static int find(void *arg, const char *kid, const struct secret **ret, struct err *e)
{
    if (!streq(kid, KID)) {
        return err_set(e, ERR_NOT_FOUND, "image key \"%s\": is not known", kid);
    }
    *ret = arg;
    return 0;
}

static void assert_err(const struct err *e, enum err_code code, const char *part)
{
    if (e->code != code || !strstr(e->msg, part)) {
        fail_msg("expected %s with \"%s\", got %s: %s", err_code_name(code), part,
                 err_code_name(e->code), e->msg);
    }
}

static void round_trip(void **state)
{
    _cleanup_secret_ struct secret *kek = secret_random(32), *opts = NULL;
    _cleanup_free_ char *packet = NULL, *again = NULL, *kid = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(keywrap_wrap(KID, kek, BYTES_STR(OPTS), &packet, &e), 0);
    assert_null(strstr(packet, "c2VjcmV0"));
    assert_int_equal(keywrap_kid(BYTES_STR(packet), &kid, &e), 0);
    assert_string_equal(kid, KID);
    assert_int_equal(keywrap_unwrap(BYTES_STR(packet), find, kek, &opts, &e), 0);
    assert_int_equal(secret_n(opts), strlen(OPTS));
    assert_memory_equal(secret_cp(opts), OPTS, strlen(OPTS));
    assert_int_equal(keywrap_wrap(KID, kek, BYTES_STR(OPTS), &again, &e), 0);
    assert_string_not_equal(packet, again); /* a fresh iv each time */
}

/* A packet as Confidential Containers' provider makes it: key 00..1f, iv 00..0b, computed with the
 * Python package cryptography. */
static void known_packet(void **state)
{
    static const char packet[] =
        "{\"kid\":\"" KID
        "\",\"wrapped_data\":\"PCClYqiOp2Kve7Xog78SDu6AtxaNA9yZKa1/pivzMoY4f4obaA==\","
        "\"iv\":\"AAECAwQFBgcICQoL\",\"wrap_type\":\"A256GCM\"}";
    _cleanup_secret_ struct secret *kek = secret_new(32), *opts = NULL;
    struct err e = {0};

    (void)state;
    for (uint8_t i = 0; i < 32; i++) {
        secret_p(kek)[i] = i;
    }
    if (keywrap_unwrap(BYTES_STR(packet), find, kek, &opts, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(secret_n(opts), strlen(OPTS));
    assert_memory_equal(secret_cp(opts), OPTS, strlen(OPTS));
}

static void packets_refused(void **state)
{
#define GOOD_DATA "\"wrapped_data\":\"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\""
#define GOOD_IV "\"iv\":\"MDEyMzQ1Njc4OTAx\""
#define GOOD_KID "\"kid\":\"" KID "\""
#define GOOD_TYPE "\"wrap_type\":\"A256GCM\""
    static const struct {
        const char *json;
        enum err_code code;
        const char *part;
    } cases[] = {
        {"{" GOOD_KID "," GOOD_DATA "," GOOD_IV "," GOOD_TYPE "}", ERR_BAD_SIGNATURE,
         "the image key \"" KID "\" does not open it"},
        {"{\"kid\":\"other\"," GOOD_DATA "," GOOD_IV "," GOOD_TYPE "}", ERR_NOT_FOUND,
         "image key \"other\": is not known"},
        {"{" GOOD_DATA "," GOOD_IV "," GOOD_TYPE "}", ERR_INVALID, "key packet.kid"},
        {"{" GOOD_KID "," GOOD_IV "," GOOD_TYPE "}", ERR_INVALID, "key packet.wrapped_data"},
        {"{" GOOD_KID "," GOOD_DATA "," GOOD_TYPE "}", ERR_INVALID, "key packet.iv"},
        {"{" GOOD_KID "," GOOD_DATA "," GOOD_IV "}", ERR_INVALID, "key packet.wrap_type"},
        {"{" GOOD_KID "," GOOD_DATA "," GOOD_IV ",\"wrap_type\":\"A256CTR\"}", ERR_UNSUPPORTED,
         "key packet.wrap_type: expected A256GCM, got \"A256CTR\""},
        {"{" GOOD_KID "," GOOD_DATA "," GOOD_IV "," GOOD_TYPE ",\"version\":\"9\"}",
         ERR_UNSUPPORTED, "key packet.version"},
        {"{" GOOD_KID "," GOOD_DATA "," GOOD_IV "," GOOD_TYPE ",\"more\":1}", ERR_INVALID, "more"},
        {"{" GOOD_KID ",\"wrapped_data\":\"MDEy\"," GOOD_IV "," GOOD_TYPE "}", ERR_INVALID,
         "key packet.wrapped_data: expected over 16 bytes, got 3"},
        {"{" GOOD_KID ",\"wrapped_data\":\"!\"," GOOD_IV "," GOOD_TYPE "}", ERR_INVALID,
         "key packet.wrapped_data"},
        {"{" GOOD_KID "," GOOD_DATA ",\"iv\":\"MDEy\"," GOOD_TYPE "}", ERR_INVALID,
         "key packet.iv: expected 12 bytes, got 3"},
        {"{\"kid\":\"a b\"," GOOD_DATA "," GOOD_IV "," GOOD_TYPE "}", ERR_INVALID, "image key id"},
        {"[]", ERR_INVALID, "key packet: expected a JSON object"},
        {"{", ERR_INVALID, "key packet"},
    };
    _cleanup_secret_ struct secret *kek = secret_random(32);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct secret *opts = NULL;
        struct err e = {0};
        assert_int_equal(keywrap_unwrap(BYTES_STR(cases[i].json), find, kek, &opts, &e), -1);
        assert_err(&e, cases[i].code, cases[i].part);
        assert_null(opts);
    }
}

static void wrap_refusals(void **state)
{
    _cleanup_secret_ struct secret *kek = secret_random(32), *small = secret_random(31);
    _cleanup_free_ char *big = xcalloc(1, KEYWRAP_OPTS_MAX_BYTES + 1);
    char *packet = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(keywrap_wrap("", kek, BYTES("x", 1), &packet, &e), -1);
    assert_err(&e, ERR_INVALID, "image key id: expected 1 to 256 bytes");
    assert_int_equal(keywrap_wrap("a,b", kek, BYTES("x", 1), &packet, &e), -1);
    assert_err(&e, ERR_INVALID, "image key id: byte 1");
    assert_int_equal(keywrap_wrap(KID, small, BYTES("x", 1), &packet, &e), -1);
    assert_err(&e, ERR_INVALID, "expected 32 bytes, got 31");
    assert_int_equal(keywrap_wrap(KID, kek, BYTES("", 0), &packet, &e), -1);
    assert_err(&e, ERR_INVALID, "layer options: expected 1 to");
    assert_int_equal(keywrap_wrap(KID, kek, BYTES(big, KEYWRAP_OPTS_MAX_BYTES + 1), &packet, &e),
                     -1);
    assert_err(&e, ERR_TOO_LARGE, "layer options");
    assert_null(packet);
}

/* --- the key provider --- */

static int answer(const char *request, struct secret *kek, struct buf *ret, struct err *e)
{
    *ret = BUF_INIT(65536);
    err_clear(e);
    return keyprovider_answer(BYTES_STR(request), find, kek, ret, e);
}

static char *wrap_request(const char *params)
{
    _cleanup_free_ char *params64 = b64_encode(params, strlen(params));
    _cleanup_free_ char *opts64 = b64_encode(OPTS, strlen(OPTS));

    return xasprintf("{\"op\":\"keywrap\",\"keywrapparams\":{\"ec\":{\"Parameters\":{\"coffer\":["
                     "\"%s\"]},\"DecryptConfig\":{\"Parameters\":null}},\"optsdata\":\"%s\"},"
                     "\"keyunwrapparams\":{\"dc\":null,\"annotation\":null}}",
                     params64, opts64);
}

static void provider_round_trip(void **state)
{
    static const char *const params[] = {"keyid=" KID, "keyid=" KID "::algorithm=A256GCM",
                                         "algorithm=A256GCM::keyid=" KID};
    _cleanup_secret_ struct secret *kek = secret_random(32);
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(params); i++) {
        _cleanup_free_ char *request = wrap_request(params[i]);
        _cleanup_buf_ struct buf wrapped = {0}, unwrapped = {0}, opts = BUF_INIT(4096);
        if (answer(request, kek, &wrapped, &e) < 0) {
            fail_msg("%s", e.msg);
        }
        _cleanup_json_ json_t *j = json_loadb((const char *)wrapped.p, wrapped.n, 0, NULL);
        const char *packet =
            json_string_value(json_object_get(json_object_get(j, "keywrapresults"), "annotation"));
        assert_non_null(packet);
        _cleanup_free_ char *back =
            xasprintf("{\"op\":\"keyunwrap\",\"keywrapparams\":{\"ec\":null,\"optsdata\":null},"
                      "\"keyunwrapparams\":{\"dc\":{\"Parameters\":{}},\"annotation\":\"%s\"}}",
                      packet);
        assert_int_equal(answer(back, kek, &unwrapped, &e), 0);
        _cleanup_json_ json_t *k = json_loadb((const char *)unwrapped.p, unwrapped.n, 0, NULL);
        const char *opts64 =
            json_string_value(json_object_get(json_object_get(k, "keyunwrapresults"), "optsdata"));
        assert_int_equal(b64_decode(opts64, strlen(opts64), &opts, &e), 0);
        assert_int_equal(opts.n, strlen(OPTS));
        assert_memory_equal(opts.p, OPTS, opts.n);
    }
}

static void provider_refusals(void **state)
{
    static const struct {
        const char *params;
        enum err_code code;
        const char *part;
    } cases[] = {
        {"keyid=other", ERR_NOT_FOUND, "image key \"other\": is not known"},
        {"Enabled", ERR_INVALID, "key provider params: expected keyid=<id>"},
        {"keyid=", ERR_INVALID, "key provider params"},
        {"keyid=a::keyid=b", ERR_INVALID, "more than one keyid"},
        {"algorithm=A256GCM", ERR_INVALID, "no keyid=<id>"},
        {"keyid=" KID "::algorithm=A256CTR", ERR_INVALID, "got \"algorithm=A256CTR\""},
        {"keyid=a b", ERR_INVALID, "image key id"},
    };
    static const struct {
        const char *request, *part;
    } broken[] = {
        {"{}", "request.op"},
        {"[]", "request: expected a JSON object"},
        {"{\"op\":\"dance\"}", "request.op: expected keywrap or keyunwrap, got \"dance\""},
        {"{\"op\":\"keywrap\"}", "request.keywrapparams"},
        {"{\"op\":\"keywrap\",\"keywrapparams\":{\"ec\":null}}", "request.keywrapparams.ec"},
        {"{\"op\":\"keywrap\",\"keywrapparams\":{\"ec\":{\"Parameters\":{\"coffer\":[]}}}}",
         "expected exactly one string, got 0 elements"},
        {"{\"op\":\"keywrap\",\"keywrapparams\":{\"ec\":{\"Parameters\":{\"coffer\":[\"!\"]}}}}",
         "request.keywrapparams.ec.Parameters.coffer"},
        {"{\"op\":\"keyunwrap\",\"keyunwrapparams\":{}}", "request.keyunwrapparams.annotation"},
        {"", "request"},
    };
    _cleanup_secret_ struct secret *kek = secret_random(32);
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *request = wrap_request(cases[i].params);
        _cleanup_buf_ struct buf out = {0};
        assert_int_equal(answer(request, kek, &out, &e), -1);
        assert_err(&e, cases[i].code, cases[i].part);
        assert_int_equal(out.n, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        _cleanup_buf_ struct buf out = {0};
        assert_int_equal(answer(broken[i].request, kek, &out, &e), -1);
        assert_err(&e, ERR_INVALID, broken[i].part);
    }
}

static void provider_by_descriptors(void **state)
{
    _cleanup_secret_ struct secret *kek = secret_random(32);
    _cleanup_free_ char *request = wrap_request("keyid=" KID);
    _cleanup_close_ int in = memfd_create("in", MFD_CLOEXEC),
                        out = memfd_create("out", MFD_CLOEXEC);
    char got[32] = "";
    struct err e = {0};

    (void)state;
    assert_int_equal(pwrite(in, request, strlen(request), 0), strlen(request));
    assert_int_equal(keyprovider_run(in, out, find, kek, &e), 0);
    assert_int_equal(pread(out, got, 18, 0), 18);
    assert_string_equal(got, "{\"keywrapresults\":");
    assert_int_equal(ftruncate(in, KEYPROVIDER_REQUEST_MAX_BYTES + 1), 0);
    assert_int_equal(lseek(in, 0, SEEK_SET), 0);
    assert_int_equal(keyprovider_run(in, out, find, kek, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(ftruncate(in, (KEYPROVIDER_REQUEST_MAX_BYTES + 65536)), 0);
    assert_int_equal(lseek(in, 0, SEEK_SET), 0);
    assert_int_equal(keyprovider_run(in, out, find, kek, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(known_packet),
        cmocka_unit_test(packets_refused),
        cmocka_unit_test(wrap_refusals),
        cmocka_unit_test(provider_round_trip),
        cmocka_unit_test(provider_refusals),
        cmocka_unit_test(provider_by_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
