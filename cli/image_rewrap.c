#include "cli/image_rewrap.h"

#include <jose/jose.h>
#include <jose/openssl.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>

#include "common/fileio.h"
#include "common/keywrap.h"

#define MANIFEST_MAX_BYTES (1u << 20)
#define ANNOTATION_MAX_BYTES 65536u
#define ANNOTATION_JWE "org.opencontainers.image.enc.keys.jwe"
#define ANNOTATION_COFFER "org.opencontainers.image.enc.keys.provider.coffer"
#define ANNOTATION_NAME "org.opencontainers.image.ref.name"

DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);

int image_recipient_new(const char *pem_path, json_t **ret_private_jwk, struct err *e)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
    _cleanup_fclose_ FILE *f = NULL;

    if (!key) {
        return err_set(e, ERR_INTERNAL, "no key pair could be made");
    }
    f = fopen(pem_path, "we");
    if (!f) {
        return err_errno(e, "%s", pem_path);
    }
    if (PEM_write_PUBKEY(f, key) != 1 || fflush(f) != 0) {
        return err_errno(e, "write %s", pem_path);
    }
    json_t *jwk = jose_openssl_jwk_from_EVP_PKEY(NULL, key);
    if (!jwk) {
        return err_set(e, ERR_INTERNAL, "no JWK could be made of the key pair");
    }
    *ret_private_jwk = jwk;
    return 0;
}

/* "sha256:<hex>" to its path in the layout; the digest comes from a file and is checked first. */
static char *blob_path(const char *layout, const char *digest, struct err *e)
{
    if (!digest || strncmp(digest, "sha256:", 7) != 0 || strlen(digest) != 71 ||
        strspn(digest + 7, "0123456789abcdef") != 64) {
        err_refuse(e, ERR_INVALID, "index.json manifests[].digest", "sha256:<64 hex digits>",
                   "\"%.100s\"", digest ? digest : "nothing");
        return NULL;
    }
    return xasprintf("%s/blobs/sha256/%s", layout, digest + 7);
}

static char *digest_of(struct bytes b)
{
    uint8_t sum[SHA256_DIGEST_LENGTH];

    SHA256(b.p, b.n, sum);
    _cleanup_free_ char *hex = hex_encode(sum, sizeof(sum));
    return xasprintf("sha256:%s", hex);
}

static int read_json(const char *path, const char *digest, json_t **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(MANIFEST_MAX_BYTES);

    if (file_read(path, MANIFEST_MAX_BYTES, 0, &text, e) < 0) {
        return -1;
    }
    if (digest) {
        _cleanup_free_ char *actual = digest_of(buf_bytes(&text));
        if (!streq(actual, digest)) {
            return err_refuse(e, ERR_BAD_SIGNATURE, path, digest, "%s", actual);
        }
    }
    return json_parse(path, buf_bytes(&text), MANIFEST_MAX_BYTES, ret, e);
}

static int find_manifest(const json_t *index, const char *tag, json_t **ret_borrowed, struct err *e)
{
    json_t *list, *entry, *found = NULL;
    size_t i;

    if (json_get_arr(index, "index.json", "manifests", &list, e) < 0) {
        return -1;
    }
    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(
            json_object_get(json_object_get(entry, "annotations"), ANNOTATION_NAME));
        if (tag && (!name || !streq(name, tag))) {
            continue;
        }
        if (found) {
            return err_refuse(e, ERR_INVALID, "index.json manifests",
                              "one image, or a tag to choose one", "%zu images",
                              json_array_size(list));
        }
        found = entry;
    }
    if (!found) {
        return err_set(e, ERR_NOT_FOUND, "index.json has no image named \"%s\"", tag ? tag : "");
    }
    *ret_borrowed = found;
    return 0;
}

static int open_layer_key(const char *annotation64, const json_t *private_jwk, struct secret **ret,
                          struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(ANNOTATION_MAX_BYTES);
    _cleanup_json_ json_t *jwe = NULL;
    size_t n = 0;

    if (b64_decode(annotation64, strlen(annotation64), &text, e) < 0 ||
        json_parse(ANNOTATION_JWE, buf_bytes(&text), ANNOTATION_MAX_BYTES, &jwe, e) < 0) {
        return err_wrap(e, ANNOTATION_JWE);
    }
    char *plain = jose_jwe_dec(NULL, jwe, NULL, private_jwk, &n);
    if (!plain || n == 0 || n > KEYWRAP_OPTS_MAX_BYTES) {
        free(plain);
        return err_set(e, ERR_BAD_SIGNATURE, "%s does not open with the key it was made for",
                       ANNOTATION_JWE);
    }
    *ret = secret_from(plain, n);
    explicit_bzero(plain, n);
    free(plain);
    return 0;
}

static int rewrap_layer(json_t *layer, const json_t *private_jwk, const char *kid,
                        const struct secret *kek, struct err *e)
{
    json_t *annotations = json_object_get(layer, "annotations");
    const char *jwe = json_string_value(json_object_get(annotations, ANNOTATION_JWE));
    _cleanup_secret_ struct secret *opts = NULL;
    _cleanup_free_ char *packet = NULL;

    if (!jwe) {
        return err_refuse(e, ERR_INVALID, "layers[].annotations", ANNOTATION_JWE, "none");
    }
    if (open_layer_key(jwe, private_jwk, &opts, e) < 0 ||
        keywrap_wrap(kid, kek, BYTES(secret_cp(opts), secret_n(opts)), &packet, e) < 0) {
        return -1;
    }
    _cleanup_free_ char *packet64 = b64_encode(packet, strlen(packet));
    json_object_del(annotations, ANNOTATION_JWE);
    json_object_set_new(annotations, ANNOTATION_COFFER, json_string(packet64));
    return 0;
}

static int rewrap_layers(json_t *manifest, const json_t *private_jwk, const char *kid,
                         const struct secret *kek, struct err *e)
{
    json_t *layers, *layer;
    size_t i;

    if (json_get_arr(manifest, "manifest", "layers", &layers, e) < 0) {
        return -1;
    }
    json_array_foreach(layers, i, layer)
    {
        if (rewrap_layer(layer, private_jwk, kid, kek, e) < 0) {
            return err_wrap(e, "manifest layers[%zu]", i);
        }
    }
    return 0;
}

int image_rewrap(const char *layout, const char *tag, const json_t *private_jwk, const char *kid,
                 const struct secret *kek, char **ret_digest, struct err *e)
{
    _cleanup_json_ json_t *index = NULL, *manifest = NULL;
    _cleanup_free_ char *index_path = xasprintf("%s/index.json", layout);
    json_t *entry = NULL;

    if (read_json(index_path, NULL, &index, e) < 0 || find_manifest(index, tag, &entry, e) < 0) {
        return err_wrap(e, "%s", layout);
    }
    const char *old_digest = json_string_value(json_object_get(entry, "digest"));
    _cleanup_free_ char *old_path = blob_path(layout, old_digest, e);
    if (!old_path || read_json(old_path, old_digest, &manifest, e) < 0 ||
        rewrap_layers(manifest, private_jwk, kid, kek, e) < 0) {
        return err_wrap(e, "%s", layout);
    }
    _cleanup_free_ char *text = json_dumps(manifest, JSON_COMPACT | JSON_PRESERVE_ORDER);
    _cleanup_free_ char *digest = digest_of(BYTES_STR(text));
    _cleanup_free_ char *path = blob_path(layout, digest, e);
    if (!path || file_replace(path, BYTES_STR(text), 0644, e) < 0) {
        return -1;
    }
    json_object_set_new(entry, "digest", json_string(digest));
    json_object_set_new(entry, "size", json_integer((json_int_t)strlen(text)));
    _cleanup_free_ char *index_text = json_dumps(index, JSON_COMPACT | JSON_PRESERVE_ORDER);
    if (file_replace(index_path, BYTES_STR(index_text), 0644, e) < 0) {
        return -1;
    }
    if (!streq(path, old_path)) {
        unlink(old_path);
    }
    *ret_digest = TAKE_PTR(digest);
    return 0;
}
