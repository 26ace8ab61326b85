#include "cli/cli_testing.h"

#include <openssl/evp.h>

#include "cli/image_key.h"
#include "cli/layout.h"
#include "cli/store.h"
#include "common/keywrap.h"

/* The store, OCI layouts, image keys, and what a spec gets from them. */

static char *put_blob(const char *dir, const char *content)
{
    uint8_t md[32];
    struct err e = {0};

    EVP_Digest(content, strlen(content), md, NULL, EVP_sha256(), NULL);
    _cleanup_free_ char *hex = hex_encode(md, 32);
    _cleanup_free_ char *path = xasprintf("%s/blobs/sha256/%s", dir, hex);
    if (access(path, F_OK)) {
        assert_int_equal(file_replace(path, BYTES_STR(content), 0644, &e), 0);
    }
    return xasprintf("sha256:%s", hex);
}

static void make_dirs(const char *dir)
{
    _cleanup_free_ char *blobs = xasprintf("%s/blobs", dir);
    _cleanup_free_ char *sha = xasprintf("%s/blobs/sha256", dir);

    assert_int_equal(mkdir(dir, 0755) || mkdir(blobs, 0755) || mkdir(sha, 0755), 0);
}

/* A layout with one image of one layer; with `kid`, it is encrypted. Returns the digest. */
static char *make_layout(const char *dir, const char *tag, const char *layer, const char *kid)
{
    _cleanup_free_ char *packet = NULL, *annotation = NULL, *manifest = NULL, *index = NULL,
                        *path = xasprintf("%s/index.json", dir), *extra = NULL;

    if (access(dir, F_OK)) {
        make_dirs(dir);
    }
    _cleanup_free_ char *config = put_blob(dir, "{}"), *blob = put_blob(dir, layer);
    if (kid) {
        _cleanup_secret_ struct secret *kek = secret_random(KEYWRAP_KEK_BYTES);
        assert_int_equal(keywrap_wrap(kid, kek, BYTES_STR("{}"), &packet, NULL), 0);
        annotation = b64_encode(packet, strlen(packet));
        extra = xasprintf(",\"annotations\":{\"org.opencontainers.image.enc.keys.provider.coffer\":"
                          "\"%s\"}",
                          annotation);
    }
    manifest = xasprintf("{\"schemaVersion\":2,\"config\":{\"digest\":\"%s\",\"size\":2},"
                         "\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar%s\","
                         "\"digest\":\"%s\",\"size\":%zu%s}]}",
                         config, kid ? "+encrypted" : "", blob, strlen(layer), extra ? extra : "");
    char *digest = put_blob(dir, manifest);
    index = xasprintf("{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"%s\",\"size\":%zu,"
                      "\"annotations\":{\"org.opencontainers.image.ref.name\":\"%s\"}}]}",
                      digest, strlen(manifest), tag);
    put_file(path, index);
    return digest;
}

static void layouts_are_named(void **state)
{
    _cleanup_free_ char *digest = make_layout("lay", "one", "layer", NULL), *dir = NULL,
                        *tag = NULL;
    char found[LAYOUT_DIGEST_CHARS + 1];
    struct err e = {0};

    (void)state;
    assert_int_equal(layout_split("oci:lay:one", &dir, &tag, &e), 0);
    assert_string_equal(dir, "lay");
    assert_string_equal(tag, "one");
    assert_int_equal(layout_find("lay", "one", found, &e), 0);
    assert_string_equal(found, digest);
    assert_int_equal(layout_find("lay", NULL, found, &e), 0);
    assert_int_equal(layout_find("lay", "two", found, &e), -1);
    assert_non_null(strstr(e.msg, "lay has no image with the tag two"));
    char *d = NULL, *t = NULL;
    assert_int_equal(layout_split("nowhere:x", &d, &t, &e), -1);
    assert_int_equal(layout_find("/tmp", NULL, found, &e), -1);
    assert_non_null(strstr(e.msg, "/tmp is no OCI image layout"));
}

static void key_ids_are_printed(void **state)
{
    _cleanup_free_ char *digest = make_layout("enc", "x", "secret layer", "stats.key");

    (void)state;
    assert_ran("image keys enc:x", CLI_OK, "stats.key\n", "");
    assert_ran("image keys enc --json", CLI_OK, digest, "");
    assert_ran("image keys enc:y", CLI_COULD_NOT, "", "no image with the tag y");
}

static void manifests_are_checked(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "manifest"},
        {"{}", "manifest.config"},
        {"{\"config\":{\"digest\":\"sha256:x\",\"size\":1},\"layers\":[]}",
         "manifest.config.digest"},
        {"{\"config\":{\"digest\":\"sha256:"
         "abababababababababababababababababababababababababababababababab\",\"size\":1},"
         "\"layers\":[{}]}",
         "manifest.layers[0]"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(image_info_done) struct image_info info = {0};
        struct err e = {0};
        assert_int_equal(image_manifest_parse(BYTES_STR(cases[i].text), &info, &e), -1);
        assert_non_null(strstr(e.msg, cases[i].says));
    }
}

static void images_go_into_the_store(void **state)
{
    _cleanup_free_ char *digest = make_layout("im", "x", "layer of im", "stats.key");
    _cleanup_free_ char *rm = xasprintf("store rm --store st1 %s", digest);
    _cleanup_free_ char *blob = xasprintf("st1/blobs/sha256/%s", digest + 7);

    (void)state;
    assert_ran("store add im:x --store st1", CLI_OK, digest, "");
    /* Again is fine, and repairs what is broken. */
    assert_int_equal(unlink(blob), 0);
    put_file(blob, "broken");
    assert_ran("store add im:x --store st1", CLI_OK, digest, "");
    assert_int_equal(layout_blob_check("st1", digest, NULL, NULL), 0);
    assert_ran("store ls --store st1", CLI_OK, digest, "");
    assert_ran(rm, CLI_OK, "removed", "");
    assert_int_equal(access(blob, F_OK), -1);
    assert_ran("store ls --store st1", CLI_OK, "", "");
    assert_ran(rm, CLI_COULD_NOT, "", "is not there");
}

static void shared_layers_stay(void **state)
{
    _cleanup_free_ char *a = make_layout("sa", "x", "shared", "k.one");
    _cleanup_free_ char *b = make_layout("sb", "x", "shared", "k.two");
    _cleanup_free_ char *rm = xasprintf("store rm --store st2 %s", a);
    _cleanup_(image_info_done) struct image_info info = {0};

    (void)state;
    assert_ran("store add sa sb --store st2", CLI_OK, b, "");
    assert_ran(rm, CLI_OK, "removed", "");
    assert_int_equal(image_info_load("st2", b, &info, NULL), 0);
    for (size_t i = 0; i < info.blobs.n; i++) {
        assert_int_equal(layout_blob_check("st2", info.blobs.v[i], NULL, NULL), 0);
    }
}

static void what_is_open_is_refused(void **state)
{
    _cleanup_free_ char *digest = make_layout("plain", "x", "plain layer", NULL);

    (void)state;
    assert_ran("store add plain:x --store st3", CLI_COULD_NOT, "", "--allow-plain-image");
    assert_ran("store add plain:x --store st3 --allow-plain-image", CLI_OK, digest, "");
    put_file("open.csv", "a,b\n");
    assert_ran("store add open.csv --store st3", CLI_COULD_NOT, "", "coffer dataset seal open.csv");
    assert_ran("store add nothing --store st3", CLI_COULD_NOT, "", "nothing");
    assert_ran("store rm ../x --store st3", CLI_COULD_NOT, "", "expected a dataset's id");
}

static void wrong_digests_are_refused(void **state)
{
    _cleanup_free_ char *digest = make_layout("bad", "x", "bad layer", "k.bad");
    _cleanup_free_ char *manifest = xasprintf("bad/blobs/sha256/%s", digest + 7);
    _cleanup_(image_info_done) struct image_info info = {0};

    (void)state;
    assert_int_equal(image_info_load("bad", digest, &info, NULL), 0);
    _cleanup_free_ char *layer = xasprintf("bad/blobs/sha256/%s", info.blobs.v[2] + 7);
    put_file(layer, "bad lay3r");
    assert_ran("store add bad --store st4", CLI_REFUSED, "", "blob.digest");
    assert_int_equal(unlink(layer), 0);
    assert_ran("store add bad --store st4", CLI_COULD_NOT, "", "is not there");
    put_file(manifest, "{}");
    assert_ran("store add bad --store st4", CLI_REFUSED, "", "manifest.digest");
}

static void datasets_go_into_the_store(void **state)
{
    (void)state;
    assert_ran("keygen --out ds.jwk", CLI_OK, "", "");
    put_file("ds.csv", "1\n");
    _cleanup_ran_ struct ran r = run_line("dataset seal ds.csv --key ds.jwk");
    r.out[strcspn(r.out, "\n")] = '\0';
    _cleanup_free_ char *path = xasprintf("st5/datasets/%s.coffer", r.out);
    _cleanup_free_ char *rm = xasprintf("store rm --store st5 %s", r.out);
    assert_ran("store add ds.coffer --store st5", CLI_OK, r.out, "");
    assert_int_equal(access(path, F_OK), 0);
    /* The store's own file, by its own name. */
    _cleanup_free_ char *again = xasprintf("store add %s --store st5", path);
    assert_int_equal(unlink("ds.coffer"), 0);
    assert_ran(again, CLI_OK, r.out, "");
    assert_int_equal(access(path, F_OK), 0);
    assert_ran("store ls --store st5 --json", CLI_OK, r.out, "");
    assert_ran(rm, CLI_OK, "removed", "");
    assert_int_equal(access(path, F_OK), -1);
    assert_ran(rm, CLI_COULD_NOT, "", "the store has no dataset");
}

/* ---- image keys ------------------------------------------------------------------------------ */

static void image_keys_are_kept_sealed(void **state)
{
    _cleanup_jkey_ struct jkey *own = NULL, *other = NULL;
    _cleanup_(image_key_done) struct image_key k = {0}, again = {0};
    struct err e = {0};
    struct stat st;

    (void)state;
    assert_int_equal(jkey_generate(&own, NULL) || jkey_generate(&other, NULL), 0);
    assert_int_equal(image_key_new("ik", "stats", own, &k, &e), 0);
    _cleanup_free_ char *path = xasprintf("ik/%s.json", k.id);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(image_key_load("ik", k.id, own, &again, &e), 0);
    assert_true(secret_eq(k.key, again.key));
    struct image_key none = {0};
    assert_int_equal(image_key_load("ik", k.id, other, &none, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_int_equal(image_key_load("ik", "../x", own, &none, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(image_key_load("ik", "a.aaaaaaaaaaaaaaaaaaaaaaaaaa", own, &none, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(image_key_new("ik", "No Such", own, &none, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    /* One key's file under another's name. */
    assert_int_equal(rename(path, "ik/a.aaaaaaaaaaaaaaaaaaaaaaaaaa.json"), 0);
    assert_int_equal(image_key_load("ik", "a.aaaaaaaaaaaaaaaaaaaaaaaaaa", own, &none, &e), -1);
    assert_non_null(strstr(e.msg, "image-key.id"));
}

/* ---- specs ----------------------------------------------------------------------------------- */

static void specs_get_their_image_keys(void **state)
{
    _cleanup_free_ char *digest = make_layout("spec", "x", "layer of spec", "stats.key");
    _cleanup_free_ char *yaml =
        xasprintf("apiVersion: coffer/v1\nkind: Job\nmetadata: {name: hello, nonce: "
                  "0123456789abcdef-}\nworkload: {image: \"%s\"}\n",
                  digest);

    (void)state;
    put_file("job.yaml", yaml);
    assert_ran("keygen", CLI_OK, "", "");
    assert_ran("store add spec --store st6", CLI_OK, digest, "");
    assert_ran("spec check job.yaml --store st6", CLI_OK, "job.yaml: ok: job \"hello\"",
               "workload.imageKeys: stats.key, from the image's manifest");
    assert_ran("spec check job.yaml --store st6 --json", CLI_OK, "\"stats.key\"", "");
    _cleanup_ran_ struct ran with = run_line("spec digest job.yaml --store st6"),
                             same = run_line("spec digest job.yaml --store st6"),
                             without = run_line("spec digest job.yaml --store empty");
    assert_int_equal(without.code, CLI_OK);
    assert_string_equal(with.out, same.out);
    assert_string_not_equal(with.out, without.out);
}

static void wrong_specs_are_usage(void **state)
{
    (void)state;
    put_file("wrong.yaml", "apiVersion: coffer/v1\nkind: Job\nmetadata: {name: x}\nworkload:\n"
                           "  imgae: x\n");
    assert_ran("spec check wrong.yaml", CLI_USAGE, "",
               "wrong.yaml:5: workload.imgae: expected a known field (did you mean image?)");
    assert_ran("spec check wrong.yaml --json", CLI_USAGE, "\"clause\": \"workload.imgae\"", "");
    assert_ran("spec check no.yaml", CLI_COULD_NOT, "", "cannot open no.yaml");
    assert_ran("spec schema", CLI_OK, "https://json-schema.org/draft/2020-12/schema", "");
    assert_ran("run wrong.yaml", CLI_USAGE, "", "wrong.yaml:5");
    assert_ran("submit wrong.yaml", CLI_USAGE, "", "wrong.yaml:5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_are_named),          cmocka_unit_test(key_ids_are_printed),
        cmocka_unit_test(manifests_are_checked),      cmocka_unit_test(images_go_into_the_store),
        cmocka_unit_test(shared_layers_stay),         cmocka_unit_test(what_is_open_is_refused),
        cmocka_unit_test(wrong_digests_are_refused),  cmocka_unit_test(datasets_go_into_the_store),
        cmocka_unit_test(image_keys_are_kept_sealed), cmocka_unit_test(specs_get_their_image_keys),
        cmocka_unit_test(wrong_specs_are_usage),
    };

    return cmocka_run_group_tests(tests, test_enter, test_leave);
}
