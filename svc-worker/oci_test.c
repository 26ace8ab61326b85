/* Images made by umoci, encrypted by skopeo with this program as its key provider, and unpacked.
 *
 * Debian 12's skopeo is built with ocicrypt 1.0, which has no key providers (they came with 1.1).
 * With it the layers are encrypted to a JWE recipient, and the layer keys are then wrapped anew
 * through the key provider protocol, with requests spelled as ocicrypt spells them. COFFER_SKOPEO
 * names another skopeo.
 */
#include <errno.h>
#include <jose/b64.h>
#include <jose/jwe.h>
#include <jose/openssl.h>
#include <openssl/pem.h>
#include <signal.h>
#include <sys/wait.h>

#include "common/jose.h"
#include "common/keyprovider.h"
#include "svc-worker/oci_pool_test.h"

#define KID "kbs:///default/image-key/7"
#define COMMAND_SECONDS 60
#define ENC "org.opencontainers.image.enc."

static char *self; /* this program */
static char *work; /* holds plain/, enc/ and the key */
static const char *skopeo = "skopeo";
static int has_providers; /* whether that skopeo knows them */
static char *kek_path;    /* what the key provider reads */
static char *enc_pool;
static char *enc_digest; /* of the encrypted manifest */
static struct secret *kek;

/* Runs a program with a time limit; 0 when it succeeds, 127 when it is missing. Its output goes to
 * `log` in the working directory. */
static int run(const char *const *argv)
{
    _cleanup_free_ char *log = xasprintf("%s/log", work);
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        alarm(COMMAND_SECONDS);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0) {
        assert_int_equal(errno, EINTR);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void show_log(void)
{
    _cleanup_free_ char *log = xasprintf("%s/log", work);
    _cleanup_buf_ struct buf b = {0};

    slurp(log, &b);
    print_error("%.*s\n", (int)b.n, (const char *)b.p);
}

#define MUST(...)                                                                                  \
    do {                                                                                           \
        if (RUN(__VA_ARGS__) != 0) {                                                               \
            show_log();                                                                            \
            fail_msg("a command failed");                                                          \
        }                                                                                          \
    } while (0)

/* --- the key provider: `oci_test keyprovider KEKFILE` --- */

static int find_kek(void *arg, const char *kid, const struct secret **ret, struct err *e)
{
    static struct secret *s;

    if (!streq(kid, KID)) {
        return err_set(e, ERR_NOT_FOUND, "image key \"%s\": is not known", kid);
    }
    if (!s && secret_read_file(arg, 4096, &s, e) < 0) {
        return -1;
    }
    *ret = s;
    return 0;
}

static int keyprovider_main(char *path)
{
    struct err e = {0};

    if (keyprovider_run(0, 1, find_kek, path, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    return 0;
}

/* --- making the images --- */

static char *digest_in_layout(const char *layout)
{
    _cleanup_free_ char *path = xasprintf("%s/index.json", layout);
    json_t *index = json_load_file(path, 0, NULL);
    const char *digest = json_string_value(
        json_object_get(json_array_get(json_object_get(index, "manifests"), 0), "digest"));

    assert_non_null(digest);
    char *copy = xstrdup(digest);
    json_decref(index);
    return copy;
}

static void make_plain(const char *layout)
{
    _cleanup_free_ char *image = xasprintf("%s:t", layout);
    _cleanup_free_ char *bundle = xasprintf("%s/bundle", work);
    _cleanup_free_ char *root = xasprintf("%s/bundle/rootfs", work);
    _cleanup_free_ char *bin = xasprintf("%s/bin", root);
    _cleanup_free_ char *busybox = xasprintf("%s/bin/busybox", root);
    _cleanup_free_ char *sh = xasprintf("%s/bin/sh", root);
    _cleanup_free_ char *old = xasprintf("%s/old", root), *new = xasprintf("%s/new", root);

    MUST("umoci", "init", "--layout", layout);
    MUST("umoci", "new", "--image", image);
    MUST("umoci", "unpack", "--rootless", "--image", image, bundle);
    assert_int_equal(mkdir(bin, 0755), 0);
    if (RUN("cp", "/bin/busybox", busybox) != 0) {
        spill(busybox, "no busybox here", 15);
    }
    assert_int_equal(symlink("busybox", sh), 0);
    spill(old, "old", 3);
    MUST("umoci", "repack", "--refresh-bundle", "--image", image, bundle);
    assert_int_equal(unlink(old), 0);
    spill(new, "new", 3);
    MUST("umoci", "repack", "--image", image, bundle);
    MUST("umoci", "config", "--image", image, "--config.entrypoint", "/bin/sh", "--config.cmd",
         "-c", "--config.env", "A=b", "--config.workingdir", "/tmp");
}

static int tools_missing(void)
{
    return RUN(skopeo, "--version") == 127 || RUN("umoci", "--version") == 127;
}

static void write_ocicrypt_config(void)
{
    _cleanup_free_ char *path = xasprintf("%s/ocicrypt.conf", work);
    _cleanup_free_ char *text =
        xasprintf("{\"key-providers\":{\"coffer\":{\"cmd\":{\"path\":\"%s\",\"args\":["
                  "\"keyprovider\",\"%s\"]}}}}",
                  self, kek_path);

    spill(path, text, strlen(text));
    setenv("OCICRYPT_KEYPROVIDER_CONFIG", path, 1);
}

static int log_has(const char *part)
{
    _cleanup_free_ char *log = xasprintf("%s/log", work);
    _cleanup_buf_ struct buf b = {0};

    slurp(log, &b);
    assert_int_equal(buf_add(&b, "", 1, NULL), 0);
    return strstr((const char *)b.p, part) != NULL;
}

/* The layer's private options out of ocicrypt's JWE annotation. */
static char *open_jwe(const char *annotation64, const json_t *private_key)
{
    _cleanup_buf_ struct buf text = BUF_INIT(65536);
    size_t n = 0;

    assert_int_equal(b64_decode(annotation64, strlen(annotation64), &text, NULL), 0);
    json_t *jwe = json_loadb((const char *)text.p, text.n, 0, NULL);
    char *plain = jose_jwe_dec(NULL, jwe, NULL, private_key, &n);
    assert_non_null(plain);
    char *copy = xstrndup(plain, n);
    free(plain);
    json_decref(jwe);
    return copy;
}

/* What ocicrypt does with a key provider: one request, one answer. */
static char *wrap_as_ocicrypt(const char *opts)
{
    _cleanup_free_ char *opts64 = b64_encode(opts, strlen(opts));
    _cleanup_free_ char *params64 = b64_encode("keyid=" KID, strlen("keyid=" KID));
    _cleanup_free_ char *request = xasprintf(
        "{\"op\":\"keywrap\",\"keywrapparams\":{\"ec\":{\"Parameters\":{\"coffer\":[\"%s\"]},"
        "\"DecryptConfig\":{\"Parameters\":null}},\"optsdata\":\"%s\"},"
        "\"keyunwrapparams\":{\"dc\":null,\"annotation\":null}}",
        params64, opts64);
    _cleanup_free_ char *in = xasprintf("%s/request", work), *out = xasprintf("%s/answer", work);

    spill(in, request, strlen(request));
    MUST("sh", "-c", "exec \"$0\" keyprovider \"$1\" <\"$2\" >\"$3\"", self, kek_path, in, out);
    json_t *answer = json_load_file(out, 0, NULL);
    const char *annotation =
        json_string_value(json_object_get(json_object_get(answer, "keywrapresults"), "annotation"));
    assert_non_null(annotation);
    char *copy = xstrdup(annotation);
    json_decref(answer);
    return copy;
}

/* Replaces the JWE annotation of each layer; returns the new manifest's digest. */
static char *wrap_anew(const char *pool, const char *digest, const char *jwk_path)
{
    json_t *manifest = get_json(pool, digest), *key = json_load_file(jwk_path, 0, NULL), *layer;
    char *changed = NULL;
    size_t i;

    json_array_foreach(json_object_get(manifest, "layers"), i, layer)
    {
        json_t *annotations = json_object_get(layer, "annotations");
        const char *jwe = json_string_value(
            json_object_get(annotations, "org.opencontainers.image.enc.keys.jwe"));
        assert_non_null(jwe);
        _cleanup_free_ char *opts = open_jwe(jwe, key);
        _cleanup_free_ char *packet = wrap_as_ocicrypt(opts);
        json_object_del(annotations, "org.opencontainers.image.enc.keys.jwe");
        json_object_set_new(annotations, "org.opencontainers.image.enc.keys.provider.coffer",
                            json_string(packet));
    }
    json_decref(put_json(pool, MANIFEST_TYPE, manifest, &changed));
    json_decref(key);
    return changed;
}

static void make_jwe_recipient(const char *private_jwk, const char *public_pem)
{
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_fclose_ FILE *f = fopen(public_pem, "we");

    assert_int_equal(jkey_generate(&k, NULL), 0);
    assert_int_equal(jkey_write_private(private_jwk, k, NULL), 0);
    json_t *jwk = json_load_file(private_jwk, 0, NULL);
    EVP_PKEY *pkey = jose_openssl_jwk_to_EVP_PKEY(NULL, jwk);
    assert_non_null(f);
    assert_non_null(pkey);
    assert_int_equal(PEM_write_PUBKEY(f, pkey), 1);
    EVP_PKEY_free(pkey);
    json_decref(jwk);
}

static void encrypt(const char *from, const char *to)
{
    enc_pool = xasprintf("%s/enc", work);
    if (RUN(skopeo, "--insecure-policy", "copy", "--encryption-key", "provider:coffer:keyid=" KID,
            from, to) == 0) {
        has_providers = 1;
        enc_digest = digest_in_layout(enc_pool);
        return;
    }
    if (!log_has("Provided protocol not recognized")) {
        show_log();
        fail_msg("skopeo could not encrypt");
    }
    _cleanup_free_ char *private = xasprintf("%s/jwe.jwk", work);
    _cleanup_free_ char *public = xasprintf("%s/jwe.pem", work);
    _cleanup_free_ char *recipient = xasprintf("jwe:%s", public);
    make_jwe_recipient(private, public);
    MUST(skopeo, "--insecure-policy", "copy", "--encryption-key", recipient, from, to);
    _cleanup_free_ char *digest = digest_in_layout(enc_pool);
    enc_digest = wrap_anew(enc_pool, digest, private);
}

static int setup(void **state)
{
    _cleanup_free_ char *plain = xasprintf("%s/plain", work);
    _cleanup_free_ char *from = xasprintf("oci:%s/plain:t", work);
    _cleanup_free_ char *to = xasprintf("oci:%s/enc:t", work);

    (void)state;
    kek_path = xasprintf("%s/kek", work);
    kek = secret_random(KEYWRAP_KEK_BYTES);
    assert_int_equal(secret_write_file(kek_path, kek, NULL), 0);
    write_ocicrypt_config();
    make_plain(plain);
    encrypt(from, to);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(kek_path);
    free(enc_pool);
    free(enc_digest);
    secret_free(kek);
    return 0;
}

/* --- unpacking --- */

static int unpack_with(const char *pool, const char *digest, const struct oci_keys *keys,
                       int allow_plain, const char *root, struct err *e)
{
    _cleanup_blobs_ struct blobs *store = NULL;
    _cleanup_(oci_image_freep) struct oci_image *img = NULL;

    err_clear(e);
    assert_int_equal(blobs_open_dir(pool, &store, e), 0);
    if (oci_image_open(store, digest, allow_plain, &img, e) < 0) {
        return -1;
    }
    if (!allow_plain) {
        assert_int_equal(oci_image_n_keys(img), 1);
        assert_string_equal(oci_image_key_id(img, 0), KID);
    }
    assert_string_equal(oci_image_config(img)->entrypoint[0], "/bin/sh");
    assert_string_equal(oci_image_config(img)->cmd[0], "-c");
    assert_string_equal(oci_image_config(img)->working_dir, "/tmp");
    return oci_image_unpack(img, keys, root, 64 << 20, 1000, e);
}

static int unpack(const char *pool, const char *digest, const struct secret *key, const char *root,
                  struct err *e)
{
    const struct oci_key k = {.kid = KID, .kek = key};

    return unpack_with(pool, digest, &(struct oci_keys){.v = &k, .n = 1}, 0, root, e);
}

static void assert_root(const char *root)
{
    _cleanup_free_ char *busybox = xasprintf("%s/bin/busybox", root);
    struct stat st;

    assert_int_equal(stat(busybox, &st), 0);
    assert_true(st.st_mode & 0100 || st.st_size == 15);
    assert_true(exists(root, "bin/sh"));
    assert_file(root, "new", "new");
    assert_false(exists(root, "old"));
}

static void encrypted_by_skopeo(void **state)
{
    _cleanup_dir_ char *root = temp_dir();
    struct err e = {0};

    (void)state;
    if (unpack(enc_pool, enc_digest, kek, root, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_root(root);
    /* What came out runs. */
    _cleanup_free_ char *busybox = xasprintf("%s/bin/busybox", root);
    MUST(busybox, "true");
}

static void check_decrypted_by_skopeo(void)
{
    _cleanup_dir_ char *root = temp_dir();
    _cleanup_free_ char *from = xasprintf("oci:%s/enc:t", work);
    _cleanup_free_ char *to = xasprintf("oci:%s/dec:t", work);
    _cleanup_free_ char *pool = xasprintf("%s/dec", work);
    struct err e = {0};

    MUST(skopeo, "--insecure-policy", "copy", "--decryption-key", "provider:coffer:any", from, to);
    _cleanup_free_ char *digest = digest_in_layout(pool);
    assert_int_equal(unpack_with(pool, digest, NULL, 0, root, &e), -1);
    assert_err(&e, ERR_DENIED, "manifest.layers[0]: expected an encrypted layer");
    if (unpack_with(pool, digest, NULL, 1, root, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_root(root);
}

static void check_unknown_key_for_skopeo(void)
{
    _cleanup_free_ char *from = xasprintf("oci:%s/plain:t", work);
    _cleanup_free_ char *to = xasprintf("oci:%s/none:t", work);

    assert_int_not_equal(RUN(skopeo, "--insecure-policy", "copy", "--encryption-key",
                             "provider:coffer:keyid=other", from, to),
                         0);
    /* Newer ones also show what the key provider says. */
    assert_true(log_has("key"));
}

/* In functions of their own: skip() does not clean up. */
static void decrypted_by_skopeo(void **state)
{
    (void)state;
    if (!has_providers) {
        skip();
    }
    check_decrypted_by_skopeo();
}

static void unknown_key_for_skopeo(void **state)
{
    (void)state;
    if (!has_providers) {
        skip();
    }
    check_unknown_key_for_skopeo();
}

static void wrong_key(void **state)
{
    _cleanup_dir_ char *root = temp_dir();
    _cleanup_secret_ struct secret *other = secret_random(32), *small = secret_random(16);
    struct err e = {0};

    (void)state;
    assert_int_equal(unpack(enc_pool, enc_digest, other, root, &e), -1);
    assert_err(&e, ERR_BAD_SIGNATURE, "the image key \"" KID "\" does not open it");
    assert_int_equal(unpack(enc_pool, enc_digest, small, root, &e), -1);
    assert_err(&e, ERR_INVALID, "expected 32 bytes, got 16");
    assert_false(exists(root, "bin"));
}

static void missing_key(void **state)
{
    _cleanup_dir_ char *root = temp_dir();
    const struct oci_key other = {.kid = "other", .kek = kek};
    struct err e = {0};

    (void)state;
    assert_int_equal(
        unpack_with(enc_pool, enc_digest, &(struct oci_keys){.v = &other, .n = 1}, 0, root, &e),
        -1);
    assert_err(&e, ERR_NOT_FOUND, "layer 0");
    assert_err(&e, ERR_NOT_FOUND, "none of its keys was given: " KID);
    assert_int_equal(unpack_with(enc_pool, enc_digest, NULL, 0, root, &e), -1);
    assert_err(&e, ERR_NOT_FOUND, "none of its keys was given");
}

/* --- damage: a copy of the image in which one thing is changed --- */

struct damaged {
    char *pool, *root;
    json_t *manifest;
};

static struct damaged damaged_new(void)
{
    struct damaged d = {.pool = temp_dir(), .root = temp_dir()};
    _cleanup_free_ char *blobs = xasprintf("%s/blobs", enc_pool);

    MUST("cp", "-r", blobs, d.pool);
    d.manifest = get_json(d.pool, enc_digest);
    return d;
}

static void damaged_done(struct damaged *d)
{
    json_decref(d->manifest);
    drop_dir(&d->pool);
    drop_dir(&d->root);
}
#define _cleanup_damaged_ _cleanup_(damaged_done)

static json_t *layer_of(struct damaged *d)
{
    return json_array_get(json_object_get(d->manifest, "layers"), 0);
}

static const char *annotation(struct damaged *d, const char *name)
{
    const char *s =
        json_string_value(json_object_get(json_object_get(layer_of(d), "annotations"), name));

    assert_non_null(s);
    return s;
}

static void set_annotation(struct damaged *d, const char *name, const char *value)
{
    json_object_set_new(json_object_get(layer_of(d), "annotations"), name, json_string(value));
}

/* Decodes an annotation of base64 JSON, sets a member, puts it back. */
static void change_annotation(struct damaged *d, const char *name, const char *member,
                              const char *value)
{
    _cleanup_buf_ struct buf b = BUF_INIT(65536);
    const char *s = annotation(d, name);

    assert_int_equal(b64_decode(s, strlen(s), &b, NULL), 0);
    json_t *j = json_loadb((const char *)b.p, b.n, 0, NULL);
    assert_non_null(j);
    assert_non_null(json_object_get(j, member));
    json_object_set_new(j, member, json_string(value));
    char *text = json_dumps(j, JSON_COMPACT);
    _cleanup_free_ char *packed = b64_encode(text, strlen(text));
    set_annotation(d, name, packed);
    free(text);
    json_decref(j);
}

static void expect(struct damaged *d, enum err_code code, const char *part)
{
    char *digest = NULL;
    struct err e = {0};

    json_decref(put_json(d->pool, MANIFEST_TYPE, json_incref(d->manifest), &digest));
    if (unpack(d->pool, digest, kek, d->root, &e) == 0) {
        fail_msg("expected \"%s\", but it was unpacked", part);
    }
    assert_err(&e, code, part);
    free(digest);
}

/* Flips a byte of a blob in place. */
static void flip_blob(const char *pool, const char *digest, size_t from_end)
{
    _cleanup_free_ char *path = blob_path(pool, digest);
    _cleanup_buf_ struct buf b = {0};

    slurp(path, &b);
    b.p[b.n - from_end] ^= 1;
    spill(path, b.p, b.n);
}

static void blob_changed(void **state)
{
    _cleanup_damaged_ struct damaged d = damaged_new();
    const char *digest = json_string_value(json_object_get(layer_of(&d), "digest"));
    _cleanup_free_ char *path = blob_path(d.pool, digest);
    _cleanup_buf_ struct buf b = {0};

    (void)state;
    flip_blob(d.pool, digest, 1);
    expect(&d, ERR_BAD_SIGNATURE, "the blob's digest: expected sha256:");
    /* At its start too, where the decompressor fails first. */
    slurp(path, &b);
    flip_blob(d.pool, digest, b.n);
    expect(&d, ERR_BAD_SIGNATURE, "the blob's digest: expected sha256:");
    buf_done(&b);
    /* Whoever makes a new manifest for the changed blob meets the HMAC. */
    slurp(path, &b);
    _cleanup_free_ char *changed = put_blob(d.pool, b.p, b.n);
    json_object_set_new(layer_of(&d), "digest", json_string(changed));
    expect(&d, ERR_BAD_SIGNATURE, "the blob's HMAC does not hold");
    _cleanup_free_ char *cut = put_blob(d.pool, b.p, b.n - 1);
    json_object_set_new(layer_of(&d), "digest", json_string(cut));
    expect(&d, ERR_BAD_SIGNATURE, "bytes, got");
    _cleanup_free_ char *gone = digest_of("gone", 4);
    json_object_set_new(layer_of(&d), "digest", json_string(gone));
    expect(&d, ERR_NOT_FOUND, "is not in the store");
}

static void manifest_changed(void **state)
{
    _cleanup_damaged_ struct damaged d = damaged_new();
    struct err e = {0};

    (void)state;
    flip_blob(d.pool, enc_digest, 1);
    assert_int_equal(unpack(d.pool, enc_digest, kek, d.root, &e), -1);
    assert_err(&e, ERR_BAD_SIGNATURE, "manifest: expected sha256:");
}

static void config_changed(void **state)
{
    _cleanup_damaged_ struct damaged d = damaged_new();
    const char *digest =
        json_string_value(json_object_get(json_object_get(d.manifest, "config"), "digest"));
    json_t *config = get_json(d.pool, digest);

    (void)state;
    flip_blob(d.pool, digest, 1);
    expect(&d, ERR_BAD_SIGNATURE, "config: expected sha256:");
    /* Another diff_id, and a manifest to match. */
    _cleanup_free_ char *other = digest_of("other", 5), *changed = NULL;
    json_array_set_new(json_object_get(json_object_get(config, "rootfs"), "diff_ids"), 1,
                       json_string(other));
    json_object_set_new(d.manifest, "config", put_json(d.pool, CONFIG_TYPE, config, &changed));
    expect(&d, ERR_BAD_SIGNATURE, "layer 1");
}

static void annotations_changed(void **state)
{
#define PUBOPTS ENC "pubopts"
#define PACKETS ENC "keys.provider.coffer"
    static const struct {
        const char *name, *member, *value;
        enum err_code code;
        const char *part;
    } cases[] = {
        {PUBOPTS, "hmac", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", ERR_BAD_SIGNATURE,
         "the blob's HMAC does not hold"},
        {PUBOPTS, "hmac", "MDEy", ERR_INVALID, "pubopts.hmac: expected 32 bytes, got 3"},
        {PUBOPTS, "cipher", "AES_256_GCM", ERR_UNSUPPORTED, "pubopts.cipher"},
        {PUBOPTS, "cipheroptions", "x", ERR_UNSUPPORTED, "pubopts.cipheroptions"},
        {PACKETS, "iv", "MDEyMzQ1Njc4OTAx", ERR_BAD_SIGNATURE, "does not open it"},
        {PACKETS, "iv", "MDEy", ERR_INVALID, "key packet.iv: expected 12 bytes, got 3"},
        {PACKETS, "wrapped_data", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", ERR_BAD_SIGNATURE,
         "does not open it"},
        {PACKETS, "wrapped_data", "MDEy", ERR_INVALID, "key packet.wrapped_data"},
        {PACKETS, "wrap_type", "A256CTR", ERR_UNSUPPORTED, "key packet.wrap_type"},
        {PACKETS, "kid", "a b", ERR_INVALID, "image key id"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_damaged_ struct damaged d = damaged_new();
        change_annotation(&d, cases[i].name, cases[i].member, cases[i].value);
        expect(&d, cases[i].code, cases[i].part);
    }
    _cleanup_damaged_ struct damaged d = damaged_new();
    set_annotation(&d, PACKETS, "!");
    expect(&d, ERR_INVALID, "manifest.layers[0] wrapped key 0");
    json_object_del(json_object_get(layer_of(&d), "annotations"), PACKETS);
    expect(&d, ERR_INVALID, "has no annotation " PACKETS);
    json_object_del(json_object_get(layer_of(&d), "annotations"), PUBOPTS);
    expect(&d, ERR_INVALID, "pubopts");
}

/* Several wrapped keys, under the name that Confidential Containers' tools use, in its v2 form. */
static void other_providers_form(void **state)
{
    _cleanup_damaged_ struct damaged d = damaged_new();
    _cleanup_buf_ struct buf b = BUF_INIT(65536);
    _cleanup_secret_ struct secret *other = secret_random(32);
    char *foreign = NULL, *digest = NULL;
    struct err e = {0};

    (void)state;
    const char *s = annotation(&d, PACKETS);
    assert_int_equal(b64_decode(s, strlen(s), &b, NULL), 0);
    json_t *j = json_loadb((const char *)b.p, b.n, 0, NULL);
    json_object_set_new(j, "version", json_string("0.1.0"));
    json_object_set_new(j, "provider", json_string("kbs"));
    json_object_set_new(j, "provider_settings", json_object());
    json_object_set_new(j, "annotations", json_object());
    char *text = json_dumps(j, 0);
    assert_int_equal(keywrap_wrap(KID "/foreign", other, BYTES("{}", 2), &foreign, &e), 0);
    _cleanup_free_ char *one = b64_encode(foreign, strlen(foreign));
    _cleanup_free_ char *two = b64_encode(text, strlen(text));
    _cleanup_free_ char *both = xasprintf("%s,%s", one, two);
    json_object_del(json_object_get(layer_of(&d), "annotations"), PACKETS);
    set_annotation(&d, ENC "keys.provider.attestation-agent", both);
    json_decref(put_json(d.pool, MANIFEST_TYPE, json_incref(d.manifest), &digest));

    _cleanup_blobs_ struct blobs *store = NULL;
    assert_int_equal(blobs_open_dir(d.pool, &store, &e), 0);
    _cleanup_(oci_image_freep) struct oci_image *img = NULL;
    assert_int_equal(oci_image_open(store, digest, 0, &img, &e), 0);
    assert_int_equal(oci_image_n_keys(img), 2);
    assert_string_equal(oci_image_key_id(img, 0), KID "/foreign");
    const struct oci_key k = {.kid = KID, .kek = kek};
    if (oci_image_unpack(img, &(struct oci_keys){.v = &k, .n = 1}, d.root, 64 << 20, 1000, &e) <
        0) {
        fail_msg("%s", e.msg);
    }
    assert_root(d.root);
    free(text);
    free(foreign);
    free(digest);
    json_decref(j);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encrypted_by_skopeo),
        cmocka_unit_test(decrypted_by_skopeo),
        cmocka_unit_test(unknown_key_for_skopeo),
        cmocka_unit_test(wrong_key),
        cmocka_unit_test(missing_key),
        cmocka_unit_test(blob_changed),
        cmocka_unit_test(manifest_changed),
        cmocka_unit_test(config_changed),
        cmocka_unit_test(annotations_changed),
        cmocka_unit_test(other_providers_form),
    };

    if (argc == 3 && streq(argv[1], "keyprovider")) {
        return keyprovider_main(argv[2]);
    }
    if (getenv("COFFER_SKOPEO")) {
        skopeo = getenv("COFFER_SKOPEO");
    }
    self = realpath("/proc/self/exe", NULL);
    work = temp_dir();
    int r = 77;
    if (tools_missing()) {
        fputs("skipped: skopeo or umoci is missing\n", stderr);
    } else {
        r = cmocka_run_group_tests(tests, setup, teardown);
    }
    drop_dir(&work);
    free(self);
    return r;
}
