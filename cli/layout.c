#include "cli/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include "cli/files.h"
#include "common/fileio.h"
#include "common/jcs.h"
#include "common/keywrap.h"

#define KEYS_ANNOTATION "org.opencontainers.image.enc.keys.provider.coffer"
#define PACKETS_MAX 32

int layout_split(const char *arg, char **ret_dir, char **ret_tag, struct err *e)
{
    struct stat st;
    const char *p = strncmp(arg, "oci:", 4) == 0 ? arg + 4 : arg;
    const char *colon = strrchr(p, ':');

    if (stat(p, &st) == 0 && S_ISDIR(st.st_mode)) {
        *ret_dir = xstrdup(p);
        *ret_tag = NULL;
        return 0;
    }
    if (colon && !strchr(colon, '/')) {
        _cleanup_free_ char *dir = xstrndup(p, (size_t)(colon - p));
        if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)) {
            *ret_dir = TAKE_PTR(dir);
            *ret_tag = xstrdup(colon + 1);
            return 0;
        }
    }
    return err_set(e, ERR_NOT_FOUND,
                   "%s: expected the directory of an OCI image layout, or "
                   "DIRECTORY:TAG",
                   arg);
}

static int read_json(const char *path, json_t **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(LAYOUT_JSON_MAX_BYTES + 1);

    return file_read(path, LAYOUT_JSON_MAX_BYTES, 0, &text, e) ||
                   json_parse(path, buf_bytes(&text), LAYOUT_JSON_MAX_BYTES, ret, e)
               ? -1
               : 0;
}

static int get_digest(const json_t *descriptor, const char *what, const char **ret, struct err *e)
{
    if (json_get_str(descriptor, what, "digest", ret, e)) {
        return -1;
    }
    return image_digest_valid(*ret)
               ? 0
               : err_set(e, ERR_INVALID, "%s.digest: expected sha256: and 64 hex digits", what);
}

static const char *tag_of(const json_t *descriptor)
{
    const char *s = json_string_value(json_object_get(json_object_get(descriptor, "annotations"),
                                                      "org.opencontainers.image.ref.name"));
    return s ? s : "";
}

int layout_find(const char *dir, const char *tag, char ret[LAYOUT_DIGEST_CHARS + 1], struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/index.json", dir);
    _cleanup_json_ json_t *index = NULL;
    json_t *list, *m;
    const char *found = NULL;
    size_t i, n = 0;

    if (read_json(path, &index, e) || json_get_arr(index, "index", "manifests", &list, e)) {
        return err_wrap(e, "%s is no OCI image layout", dir);
    }
    json_array_foreach(list, i, m)
    {
        const char *digest;
        if (tag && !streq(tag, tag_of(m))) {
            continue;
        }
        if (get_digest(m, "index.manifests", &digest, e)) {
            return -1;
        }
        n += !found || !streq(found, digest);
        found = digest;
    }
    if (!found) {
        return err_set(e, ERR_NOT_FOUND,
                       tag ? "%s has no image with the tag %s" : "%s has no image", dir, tag);
    }
    if (n > 1) {
        return err_set(e, ERR_INVALID, "%s has %zu images: name one as %s:TAG", dir, n, dir);
    }
    memcpy(ret, found, LAYOUT_DIGEST_CHARS + 1);
    return 0;
}

/* ---- blobs ----------------------------------------------------------------------------------- */

static char *blob_path(const char *dir, const char *digest)
{
    return xasprintf("%s/blobs/sha256/%s", dir, digest + 7);
}

int layout_blob_check(const char *dir, const char *digest, uint64_t *ret_bytes, struct err *e)
{
    _cleanup_free_ char *path = blob_path(dir, digest);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    uint8_t chunk[65536], md[32];
    uint64_t total = 0;
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        return err_set(e, ERR_NOT_FOUND, "%s: the image's blob %s is not there", dir, digest);
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
    while (ok && (n = read(fd, chunk, sizeof(chunk))) != 0) {
        if (n < 0 && errno == EINTR) {
            continue;
        }
        ok = n > 0 && EVP_DigestUpdate(ctx, chunk, (size_t)n) == 1;
        total += n > 0 ? (uint64_t)n : 0;
    }
    ok = ok && EVP_DigestFinal_ex(ctx, md, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    if (!ok) {
        return err_errno(e, "cannot read %s", path);
    }
    _cleanup_free_ char *hex = hex_encode(md, sizeof(md));
    if (!streq(hex, digest + 7)) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "blob.digest", digest, "sha256:%s", hex);
    }
    if (ret_bytes) {
        *ret_bytes = total;
    }
    return 0;
}

static int read_manifest(const char *dir, const char *digest, struct buf *ret, struct err *e)
{
    _cleanup_free_ char *path = blob_path(dir, digest);
    uint8_t md[32];

    if (access(path, F_OK)) {
        return err_set(e, ERR_NOT_FOUND, "%s: the image's blob %s is not there", dir, digest);
    }
    if (file_read(path, LAYOUT_JSON_MAX_BYTES, 0, ret, e)) {
        return -1;
    }
    EVP_Digest(ret->p, ret->n, md, NULL, EVP_sha256(), NULL);
    _cleanup_free_ char *hex = hex_encode(md, sizeof(md));
    return streq(hex, digest + 7)
               ? 0
               : err_refuse(e, ERR_BAD_SIGNATURE, "manifest.digest", digest, "sha256:%s", hex);
}

/* ---- manifests ------------------------------------------------------------------------------- */

static void add_once(struct strings *list, const char *s)
{
    for (size_t i = 0; i < list->n; i++) {
        if (streq(list->v[i], s)) {
            return;
        }
    }
    strings_add(list, s);
}

/* A layer's annotation: packets in base64, separated by commas. */
static int parse_packets(const char *annotation, struct strings *key_ids, struct err *e)
{
    size_t n = 0;

    for (const char *p = annotation; *p;) {
        size_t len = strcspn(p, ",");
        _cleanup_buf_ struct buf packet = BUF_INIT(KEYWRAP_PACKET_MAX_BYTES);
        _cleanup_free_ char *kid = NULL;
        if (++n > PACKETS_MAX) {
            return err_set(e, ERR_TOO_LARGE, "layer: expected at most %d wrapped keys",
                           PACKETS_MAX);
        }
        if (b64_decode(p, len, &packet, e) || keywrap_kid(buf_bytes(&packet), &kid, e)) {
            return err_wrap(e, "layer: wrapped key");
        }
        add_once(key_ids, kid);
        p += len + (p[len] == ',');
    }
    return 0;
}

static int parse_layer(const json_t *layer, struct image_info *ret, struct err *e)
{
    const char *digest, *type, *packets;
    int64_t size;

    if (get_digest(layer, "layer", &digest, e) ||
        json_get_str(layer, "layer", "mediaType", &type, e) ||
        json_get_int(layer, "layer", "size", 0, INT64_C(1) << 50, &size, e)) {
        return -1;
    }
    size_t n = strlen(type);
    ret->layers++;
    ret->encrypted += n > 10 && streq(type + n - 10, "+encrypted");
    ret->bytes += (uint64_t)size;
    add_once(&ret->blobs, digest);
    packets =
        json_string_value(json_object_get(json_object_get(layer, "annotations"), KEYS_ANNOTATION));
    return packets ? parse_packets(packets, &ret->key_ids, e) : 0;
}

int image_manifest_parse(struct bytes text, struct image_info *ret, struct err *e)
{
    _cleanup_json_ json_t *m = NULL;
    json_t *config, *layers, *layer;
    const char *digest;
    int64_t size;
    size_t i;

    if (json_parse("manifest", text, LAYOUT_JSON_MAX_BYTES, &m, e) ||
        json_get_obj(m, "manifest", "config", &config, e) ||
        get_digest(config, "manifest.config", &digest, e) ||
        json_get_int(config, "manifest.config", "size", 0, LAYOUT_JSON_MAX_BYTES, &size, e) ||
        json_get_arr(m, "manifest", "layers", &layers, e)) {
        return -1;
    }
    if (json_array_size(layers) > LAYOUT_LAYERS_MAX) {
        return err_set(e, ERR_TOO_LARGE, "manifest.layers: expected at most %d, found %zu",
                       LAYOUT_LAYERS_MAX, json_array_size(layers));
    }
    ret->bytes += (uint64_t)size;
    add_once(&ret->blobs, digest);
    json_array_foreach(layers, i, layer)
    {
        if (parse_layer(layer, ret, e)) {
            return err_wrap(e, "manifest.layers[%zu]", i);
        }
    }
    return 0;
}

/* The manifest for linux/amd64 of an index. */
static int choose(const json_t *list, const char **ret, struct err *e)
{
    json_t *m;
    size_t i, n = 0;

    json_array_foreach(list, i, m)
    {
        const json_t *p = json_object_get(m, "platform");
        const char *os = json_string_value(json_object_get(p, "os"));
        const char *arch = json_string_value(json_object_get(p, "architecture"));
        if (os && arch && streq(os, "linux") && streq(arch, "amd64")) {
            n++;
            if (get_digest(m, "index.manifests", ret, e)) {
                return -1;
            }
        }
    }
    return n == 1 ? 0
                  : err_set(e, ERR_UNSUPPORTED,
                            "index: expected one manifest for linux/amd64, found %zu", n);
}

static int load(const char *dir, const char *digest, struct image_info *ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(LAYOUT_JSON_MAX_BYTES + 1);
    _cleanup_json_ json_t *j = NULL;
    const char *inner;

    if (read_manifest(dir, digest, &text, e) ||
        json_parse("manifest", buf_bytes(&text), LAYOUT_JSON_MAX_BYTES, &j, e)) {
        return -1;
    }
    strings_add(&ret->blobs, digest);
    ret->n_manifests = 1;
    json_t *list = json_object_get(j, "manifests");
    if (list) {
        _cleanup_buf_ struct buf below = BUF_INIT(LAYOUT_JSON_MAX_BYTES + 1);
        if (choose(list, &inner, e) || read_manifest(dir, inner, &below, e)) {
            return -1;
        }
        strings_add(&ret->blobs, inner);
        ret->n_manifests = 2;
        return image_manifest_parse(buf_bytes(&below), ret, e);
    }
    return image_manifest_parse(buf_bytes(&text), ret, e);
}

int image_info_load(const char *dir, const char *digest, struct image_info *ret, struct err *e)
{
    struct image_info info = {0};

    if (load(dir, digest, &info, e)) {
        image_info_done(&info);
        return err_wrap(e, "%s", dir);
    }
    *ret = info;
    return 0;
}

void image_info_done(struct image_info *i)
{
    strings_done(&i->blobs);
    strings_done(&i->key_ids);
    *i = (struct image_info){0};
}
