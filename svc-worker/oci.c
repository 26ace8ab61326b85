#include "svc-worker/oci.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "common/jcs.h"
#include "svc-worker/oci_int.h"

/* What the headers of a tar may take beside the contents, per entry. */
#define TAR_OVERHEAD_BYTES 4096u

struct oci_image {
    const struct blobs *store; /* borrowed */
    struct oci_layer *layers;
    size_t n_layers;
    const char **kids; /* borrowed from the layers */
    size_t n_kids;
    struct oci_config config;
};

struct descriptor {
    const char *media_type;    /* borrowed */
    const json_t *annotations; /* borrowed; may be NULL */
    uint8_t digest[OCI_SHA256_BYTES];
    char hex[OCI_HEX_CHARS + 1];
    uint64_t size;
};

int oci_digest_parse(const char *what, const char *s, uint8_t ret[OCI_SHA256_BYTES],
                     char ret_hex[OCI_HEX_CHARS + 1], struct err *e)
{
    const char *hex = s + strlen("sha256:");

    if (strncmp(s, "sha256:", strlen("sha256:")) != 0 || strlen(hex) != OCI_HEX_CHARS ||
        strspn(hex, "0123456789abcdef") != OCI_HEX_CHARS) {
        return err_set(e, ERR_INVALID,
                       "%s: expected sha256: and 64 lower-case hex digits, got \"%.80s\"", what, s);
    }
    if (hex_decode(hex, ret, OCI_SHA256_BYTES, e) < 0) {
        return err_wrap(e, "%s", what);
    }
    memcpy(ret_hex, hex, OCI_HEX_CHARS + 1);
    return 0;
}

/* Reads a small JSON blob whose digest (and size, unless UINT64_MAX) holds. */
static int read_json(const struct blobs *store, const char *what, const struct descriptor *d,
                     json_t **ret, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(OCI_JSON_MAX_BYTES);
    _cleanup_json_ json_t *j = NULL;
    uint8_t got[OCI_SHA256_BYTES];

    if (blobs_document(store, d->hex, d->size, OCI_JSON_MAX_BYTES, &b, e) < 0) {
        return err_wrap(e, "%s", what);
    }
    if (!EVP_Digest(b.p, b.n, got, NULL, EVP_sha256(), NULL)) {
        return err_set(e, ERR_INTERNAL, "%s: SHA-256 failed", what);
    }
    if (CRYPTO_memcmp(got, d->digest, sizeof(got)) != 0) {
        _cleanup_free_ char *hex = hex_encode(got, sizeof(got));
        return err_set(e, ERR_BAD_SIGNATURE, "%s: expected sha256:%s, got sha256:%s", what, d->hex,
                       hex);
    }
    if (json_parse(what, buf_bytes(&b), OCI_JSON_MAX_BYTES, &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j)) {
        return err_set(e, ERR_INVALID, "%s: expected a JSON object", what);
    }
    *ret = TAKE_PTR(j);
    return 0;
}

static int descriptor_parse(const char *what, const json_t *j, struct descriptor *ret,
                            struct err *e)
{
    const char *digest;
    int64_t size;

    if (!json_is_object(j)) {
        return err_set(e, ERR_INVALID, "%s: expected an object", what);
    }
    if (json_get_str(j, what, "mediaType", &ret->media_type, e) < 0 ||
        json_get_str(j, what, "digest", &digest, e) < 0 ||
        json_get_int(j, what, "size", 0, INT64_MAX, &size, e) < 0) {
        return -1;
    }
    ret->size = (uint64_t)size;
    ret->annotations = json_object_get(j, "annotations");
    if (json_is_null(ret->annotations)) {
        ret->annotations = NULL;
    }
    if (ret->annotations && !json_is_object(ret->annotations)) {
        return err_set(e, ERR_INVALID, "%s.annotations: expected an object", what);
    }
    return oci_digest_parse(what, digest, ret->digest, ret->hex, e);
}

/* --- layers --- */

static const struct {
    const char *type;
    enum oci_compression compression;
} layer_types[] = {
    {"application/vnd.oci.image.layer.v1.tar", OCI_PLAIN_TAR},
    {"application/vnd.oci.image.layer.v1.tar+gzip", OCI_GZIP},
    {"application/vnd.oci.image.layer.v1.tar+zstd", OCI_ZSTD},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar", OCI_PLAIN_TAR},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", OCI_GZIP},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", OCI_ZSTD},
    {"application/vnd.docker.image.rootfs.diff.tar", OCI_PLAIN_TAR},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", OCI_GZIP},
};

static int layer_type_parse(const char *what, const char *type, int *ret_encrypted,
                            enum oci_compression *ret, struct err *e)
{
    static const char suffix[] = "+encrypted";
    size_t n = strlen(type), s = strlen(suffix);
    int encrypted = n > s && streq(type + n - s, suffix);

    n -= encrypted ? s : 0;
    for (size_t i = 0; i < ARRAY_LEN(layer_types); i++) {
        if (strlen(layer_types[i].type) == n && memcmp(layer_types[i].type, type, n) == 0) {
            *ret_encrypted = encrypted;
            *ret = layer_types[i].compression;
            return 0;
        }
    }
    return err_set(e, ERR_UNSUPPORTED, "%s.mediaType: is not that of a layer: \"%.120s\"", what,
                   type);
}

static int layer_parse(const json_t *j, size_t index, int allow_plain, struct oci_layer *l,
                       struct err *e)
{
    char what[48];
    struct descriptor d;
    int encrypted = 0;

    snprintf(what, sizeof(what), "manifest.layers[%zu]", index);
    if (descriptor_parse(what, j, &d, e) < 0 ||
        layer_type_parse(what, d.media_type, &encrypted, &l->compression, e) < 0) {
        return -1;
    }
    l->index = index;
    l->size = d.size;
    memcpy(l->digest, d.digest, sizeof(l->digest));
    memcpy(l->hex, d.hex, sizeof(l->hex));
    if (encrypted) {
        return ocicrypt_parse(what, d.annotations, &l->crypt, e);
    }
    if (!allow_plain) {
        return err_refuse(e, ERR_DENIED, what, "an encrypted layer", "%.120s", d.media_type);
    }
    if (d.annotations && ocicrypt_is_marked(d.annotations)) {
        return err_set(e, ERR_INVALID,
                       "%s: its annotations say that it is encrypted, its mediaType does not",
                       what);
    }
    return 0;
}

static void note_kid(struct oci_image *img, const char *kid)
{
    for (size_t i = 0; i < img->n_kids; i++) {
        if (streq(img->kids[i], kid)) {
            return;
        }
    }
    img->kids = xrealloc(img->kids, (img->n_kids + 1) * sizeof(*img->kids));
    img->kids[img->n_kids++] = kid;
}

static int layers_parse(struct oci_image *img, const json_t *manifest, int allow_plain,
                        struct err *e)
{
    json_t *list;

    if (json_get_arr(manifest, "manifest", "layers", &list, e) < 0) {
        return -1;
    }
    if (json_array_size(list) < 1 || json_array_size(list) > OCI_LAYERS_MAX) {
        return err_set(e, ERR_INVALID, "manifest.layers: expected 1 to %u, got %zu", OCI_LAYERS_MAX,
                       json_array_size(list));
    }
    img->layers = xcalloc(json_array_size(list), sizeof(*img->layers));
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct oci_layer *l = &img->layers[img->n_layers++];
        if (layer_parse(json_array_get(list, i), i, allow_plain, l, e) < 0) {
            return -1;
        }
        for (size_t k = 0; l->crypt && k < l->crypt->n_packets; k++) {
            note_kid(img, l->crypt->packets[k].kid);
        }
    }
    return 0;
}

/* --- config --- */

static int diff_ids_parse(struct oci_image *img, const json_t *config, struct err *e)
{
    json_t *rootfs, *ids;
    const char *type;

    if (json_get_obj(config, "config", "rootfs", &rootfs, e) < 0 ||
        json_get_str(rootfs, "config.rootfs", "type", &type, e) < 0 ||
        json_get_arr(rootfs, "config.rootfs", "diff_ids", &ids, e) < 0) {
        return -1;
    }
    if (!streq(type, "layers")) {
        return err_set(e, ERR_INVALID, "config.rootfs.type: expected \"layers\", got \"%.40s\"",
                       type);
    }
    if (json_array_size(ids) != img->n_layers) {
        return err_set(e, ERR_INVALID,
                       "config.rootfs.diff_ids: expected %zu, one for each layer, got %zu",
                       img->n_layers, json_array_size(ids));
    }
    for (size_t i = 0; i < img->n_layers; i++) {
        char what[48], hex[OCI_HEX_CHARS + 1];
        const json_t *id = json_array_get(ids, i);
        snprintf(what, sizeof(what), "config.rootfs.diff_ids[%zu]", i);
        if (!json_is_string(id)) {
            return err_set(e, ERR_INVALID, "%s: expected a string", what);
        }
        if (oci_digest_parse(what, json_string_value(id), img->layers[i].diff_id, hex, e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A list of strings, which may be absent or null. */
static int strings_parse(const json_t *config, const char *key, char ***ret, struct err *e)
{
    const json_t *list = json_object_get(config, key);
    size_t n = json_array_size(list);

    if (list && !json_is_null(list) && !json_is_array(list)) {
        return err_set(e, ERR_INVALID, "config.config.%s: expected a list of strings", key);
    }
    if (n > OCI_STRINGS_MAX) {
        return err_set(e, ERR_TOO_LARGE, "config.config.%s: at most %u strings, got %zu", key,
                       OCI_STRINGS_MAX, n);
    }
    *ret = xcalloc(n + 1, sizeof(**ret));
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(list, i);
        if (!json_is_string(s)) {
            return err_set(e, ERR_INVALID, "config.config.%s[%zu]: expected a string", key, i);
        }
        (*ret)[i] = xstrdup(json_string_value(s));
    }
    return 0;
}

static int string_parse(const json_t *config, const char *key, const char *fallback, char **ret,
                        struct err *e)
{
    const json_t *s = json_object_get(config, key);

    if (s && !json_is_null(s) && !json_is_string(s)) {
        return err_set(e, ERR_INVALID, "config.config.%s: expected a string", key);
    }
    const char *text = json_string_value(s);
    *ret = xstrdup(text && *text ? text : fallback);
    return 0;
}

static int check_working_dir(const char *dir, struct err *e)
{
    if (dir[0] != '/' || strlen(dir) >= UNTAR_NAME_MAX_BYTES) {
        return err_set(e, ERR_INVALID,
                       "config.config.WorkingDir: expected an absolute path, got "
                       "\"%.80s\"",
                       dir);
    }
    for (const char *p = dir; *p;) {
        p += strspn(p, "/");
        size_t n = strcspn(p, "/");
        if (n == 2 && memcmp(p, "..", 2) == 0) {
            return err_set(e, ERR_INVALID, "config.config.WorkingDir: has a \"..\": \"%.80s\"",
                           dir);
        }
        p += n;
    }
    return 0;
}

static int process_parse(struct oci_config *c, const json_t *config, struct err *e)
{
    const json_t *process = json_object_get(config, "config");

    if (process && !json_is_null(process) && !json_is_object(process)) {
        return err_set(e, ERR_INVALID, "config.config: expected an object");
    }
    if (strings_parse(process, "Entrypoint", &c->entrypoint, e) < 0 ||
        strings_parse(process, "Cmd", &c->cmd, e) < 0 ||
        strings_parse(process, "Env", &c->env, e) < 0 ||
        string_parse(process, "WorkingDir", "/", &c->working_dir, e) < 0 ||
        string_parse(process, "User", "", &c->user, e) < 0) {
        return -1;
    }
    for (size_t i = 0; c->env[i]; i++) {
        const char *equals = strchr(c->env[i], '=');
        if (!equals || equals == c->env[i]) {
            return err_set(e, ERR_INVALID, "config.config.Env[%zu]: expected NAME=value", i);
        }
    }
    return check_working_dir(c->working_dir, e);
}

static int config_load(struct oci_image *img, const json_t *manifest, struct err *e)
{
    _cleanup_json_ json_t *config = NULL;
    struct descriptor d;
    const char *os, *arch;
    json_t *j;

    if (json_get_obj(manifest, "manifest", "config", &j, e) < 0 ||
        descriptor_parse("manifest.config", j, &d, e) < 0) {
        return -1;
    }
    if (!streq(d.media_type, "application/vnd.oci.image.config.v1+json") &&
        !streq(d.media_type, "application/vnd.docker.container.image.v1+json")) {
        return err_set(e, ERR_UNSUPPORTED,
                       "manifest.config.mediaType: is not that of an image: \"%.120s\"",
                       d.media_type);
    }
    if (read_json(img->store, "config", &d, &config, e) < 0 ||
        json_get_str(config, "config", "os", &os, e) < 0 ||
        json_get_str(config, "config", "architecture", &arch, e) < 0) {
        return -1;
    }
    if (!streq(os, "linux") || !streq(arch, "amd64")) {
        return err_set(e, ERR_UNSUPPORTED, "config: expected linux/amd64, got %.40s/%.40s", os,
                       arch);
    }
    return diff_ids_parse(img, config, e) < 0 || process_parse(&img->config, config, e) < 0 ? -1
                                                                                            : 0;
}

/* --- manifest --- */

enum doc_kind { DOC_MANIFEST, DOC_INDEX };

static int doc_kind(const json_t *j, enum doc_kind *ret, struct err *e)
{
    int has_layers = json_object_get(j, "layers") || json_object_get(j, "config");
    int has_manifests = json_object_get(j, "manifests") != NULL;
    const char *type = NULL;
    int64_t version;

    if (json_get_int(j, "manifest", "schemaVersion", 2, 2, &version, e) < 0) {
        return -1;
    }
    if (has_layers == has_manifests) {
        return err_set(e, ERR_INVALID, "manifest: has %s of \"layers\" and \"manifests\"",
                       has_layers ? "both" : "neither");
    }
    *ret = has_layers ? DOC_MANIFEST : DOC_INDEX;
    if (!json_object_get(j, "mediaType")) {
        return 0; /* optional in OCI */
    }
    if (json_get_str(j, "manifest", "mediaType", &type, e) < 0) {
        return -1;
    }
    const char *oci = has_layers ? "application/vnd.oci.image.manifest.v1+json"
                                 : "application/vnd.oci.image.index.v1+json";
    const char *docker = has_layers ? "application/vnd.docker.distribution.manifest.v2+json"
                                    : "application/vnd.docker.distribution.manifest.list.v2+json";
    if (!streq(type, oci) && !streq(type, docker)) {
        return err_set(e, ERR_UNSUPPORTED, "manifest.mediaType: expected %s, got \"%.120s\"", oci,
                       type);
    }
    return 0;
}

static int is_ours(const json_t *descriptor)
{
    const json_t *platform = json_object_get(descriptor, "platform");
    const char *os = json_string_value(json_object_get(platform, "os"));
    const char *arch = json_string_value(json_object_get(platform, "architecture"));

    return os && arch && streq(os, "linux") && streq(arch, "amd64");
}

/* The descriptor of the only manifest for our platform. */
static int index_choose(const json_t *index, struct descriptor *ret, struct err *e)
{
    const json_t *chosen = NULL;
    json_t *list;
    size_t found = 0;

    if (json_get_arr(index, "index", "manifests", &list, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (is_ours(json_array_get(list, i))) {
            chosen = json_array_get(list, i);
            found++;
        }
    }
    if (found != 1) {
        return err_set(e, ERR_UNSUPPORTED,
                       "the digest names an image index: expected exactly one manifest for "
                       "linux/amd64 in it, got %zu; name the manifest itself",
                       found);
    }
    return descriptor_parse("index.manifests", chosen, ret, e);
}

static int manifest_load(const struct blobs *store, const char *digest, json_t **ret, struct err *e)
{
    _cleanup_json_ json_t *j = NULL, *index = NULL;
    struct descriptor d = {.size = UINT64_MAX};
    enum doc_kind kind;

    if (oci_digest_parse("manifest digest", digest, d.digest, d.hex, e) < 0 ||
        read_json(store, "manifest", &d, &j, e) < 0 || doc_kind(j, &kind, e) < 0) {
        return -1;
    }
    if (kind == DOC_INDEX) {
        index = TAKE_PTR(j);
        if (index_choose(index, &d, e) < 0 || read_json(store, "manifest", &d, &j, e) < 0 ||
            doc_kind(j, &kind, e) < 0) {
            return -1;
        }
        if (kind == DOC_INDEX) {
            return err_set(e, ERR_UNSUPPORTED, "the image index names another image index");
        }
    }
    *ret = TAKE_PTR(j);
    return 0;
}

/* --- image --- */

int oci_image_open(const struct blobs *store, const char *manifest_digest, int allow_plain,
                   struct oci_image **ret, struct err *e)
{
    _cleanup_(oci_image_freep) struct oci_image *img = xcalloc(1, sizeof(*img));
    _cleanup_json_ json_t *manifest = NULL;

    img->store = store;
    if (manifest_load(store, manifest_digest, &manifest, e) < 0 ||
        layers_parse(img, manifest, allow_plain, e) < 0 || config_load(img, manifest, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(img);
    return 0;
}

static void free_strings(char **v)
{
    for (size_t i = 0; v && v[i]; i++) {
        free(v[i]);
    }
    free(v);
}

void oci_image_free(struct oci_image *img)
{
    if (!img) {
        return;
    }
    for (size_t i = 0; i < img->n_layers; i++) {
        ocicrypt_free(img->layers[i].crypt);
    }
    free(img->layers);
    free(img->kids);
    free_strings(img->config.entrypoint);
    free_strings(img->config.cmd);
    free_strings(img->config.env);
    free(img->config.working_dir);
    free(img->config.user);
    free(img);
}

size_t oci_image_n_keys(const struct oci_image *img)
{
    return img->n_kids;
}

const char *oci_image_key_id(const struct oci_image *img, size_t i)
{
    return img->kids[i];
}

const struct oci_config *oci_image_config(const struct oci_image *img)
{
    return &img->config;
}

int oci_image_unpack(struct oci_image *img, const struct oci_keys *keys, const char *rootfs_dir,
                     uint64_t max_bytes, uint64_t max_files, struct err *e)
{
    _cleanup_(untar_freep) struct untar *u = NULL;
    uint64_t overhead = max_files < UINT64_MAX / TAR_OVERHEAD_BYTES - 256
                            ? (max_files + 256) * TAR_OVERHEAD_BYTES
                            : UINT64_MAX;
    uint64_t stream_left = max_bytes < UINT64_MAX - overhead ? max_bytes + overhead : UINT64_MAX;

    if (untar_new(rootfs_dir, UNTAR_LAYER, max_bytes, max_files, &u, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < img->n_layers; i++) {
        if (oci_layer_unpack(img->store, &img->layers[i], keys, u, &stream_left, e) < 0) {
            return -1;
        }
    }
    return 0;
}
