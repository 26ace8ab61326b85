#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/jcs.h"
#include "common/keybox.h"
#include "svc-launcher/vm.h"

/* The files of a job as disks. The launcher reads no dataset and no layer, and of an image only the
 * documents that name its layers. What it reads decides which files are shown to the guest and how
 * much memory it gets, and nothing else; the guest checks all of it again. */

#define DOCUMENT_MAX_BYTES (1u << 20)
#define HEX_CHARS 64u
#define PACK_MAX_BYTES (4u * (DOCUMENT_MAX_BYTES + 1024u))
#define TAR_BLOCK 512u
/* Of a compressed layer, in memory: programs and text become about three times as large. */
#define UNPACK_FACTOR 4u
#define MEDIA_INDEX "application/vnd.oci.image.index.v1+json"

struct finder {
    const char *store;
    struct vm_disks *d;
    struct buf pack;
};

/* ---- files ----------------------------------------------------------------------------------- */

/* A regular file, read-only; what the path names must not be a link. */
static int open_file(const char *path, int *ret_fd, uint64_t *ret_bytes, struct err *e)
{
    struct stat st;

    _cleanup_close_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? err_refuse(e, ERR_NOT_FOUND, "store", "a file", "no %s", path)
               : errno == ELOOP
                   ? err_refuse(e, ERR_DENIED, "store", "a regular file", "a link, %s", path)
                   : err_errno(e, "store: %s", path);
    }
    if (fstat(fd, &st) < 0) {
        return err_errno(e, "store: %s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_refuse(e, ERR_DENIED, "store", "a regular file", "something else, %s", path);
    }
    if (st.st_size <= 0) {
        return err_refuse(e, ERR_INVALID, "store", "a file with something in it", "an empty %s",
                          path);
    }
    *ret_fd = TAKE_FD(fd);
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

static struct vm_disk *add_disk(struct vm_disks *d, const char *kind, const char *name,
                                struct err *e)
{
    if (d->n == VM_DISKS_MAX) {
        err_refuse(e, ERR_TOO_LARGE, "spec", "at most 160 datasets and image layers", "more");
        return NULL;
    }
    struct vm_disk *x = &d->v[d->n];
    *x = (struct vm_disk){.kind = kind, .fd = -1};
    snprintf(x->name, sizeof(x->name), "%s", name);
    snprintf(x->serial, sizeof(x->serial), "%c%zu", kind[0], d->n);
    return x;
}

static int have(const struct vm_disks *d, const char *kind, const char *name)
{
    for (size_t i = 0; i < d->n; i++) {
        if (streq(d->v[i].kind, kind) && streq(d->v[i].name, name)) {
            return 1;
        }
    }
    return 0;
}

static int add_file(struct finder *f, const char *kind, const char *name, const char *path,
                    uint64_t *ret_bytes, struct err *e)
{
    if (have(f->d, kind, name)) {
        *ret_bytes = 0;
        return 0;
    }
    struct vm_disk *x = add_disk(f->d, kind, name, e);
    if (!x || open_file(path, &x->fd, &x->bytes, e) < 0) {
        return -1;
    }
    f->d->n++;
    *ret_bytes = x->bytes;
    return 0;
}

/* ---- the image's documents ------------------------------------------------------------------- */

static int tar_add(struct buf *tar, const char *name, struct bytes content, struct err *e)
{
    static const uint8_t zeros[TAR_BLOCK];
    uint8_t h[TAR_BLOCK] = {0};
    char *text = (char *)h;
    unsigned sum = 0;

    snprintf(text, 100, "%s", name);
    snprintf(text + 100, 8, "%07o", 0444u);
    snprintf(text + 108, 8, "%07o", 0u);
    snprintf(text + 116, 8, "%07o", 0u);
    snprintf(text + 124, 12, "%011llo", (unsigned long long)content.n);
    snprintf(text + 136, 12, "%011o", 0u);
    memset(h + 148, ' ', 8);
    h[156] = '0';
    memcpy(h + 257,
           "ustar\0"
           "00",
           8);
    for (size_t i = 0; i < sizeof(h); i++) {
        sum += h[i];
    }
    snprintf(text + 148, 7, "%06o", sum & 0777777u);
    size_t rest = content.n % TAR_BLOCK;
    return buf_add(tar, h, sizeof(h), e) < 0 || buf_add(tar, content.p, content.n, e) < 0 ||
                   (rest && buf_add(tar, zeros, TAR_BLOCK - rest, e) < 0)
               ? -1
               : 0;
}

static int check_digest(const char *hex, struct bytes content, const char *path, struct err *e)
{
    uint8_t want[32], got[32];

    if (hex_decode(hex, want, sizeof(want), e) < 0) {
        return -1;
    }
    if (EVP_Digest(content.p, content.n, got, NULL, EVP_sha256(), NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "SHA-256 failed");
    }
    if (memcmp(want, got, sizeof(got)) != 0) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "store", "content of the digest in its name",
                          "other content, %s", path);
    }
    return 0;
}

/* "sha256:<hex>" to the digits. */
static int digest_hex(const char *what, const char *digest, const char **ret, struct err *e)
{
    const char *hex = strncmp(digest, "sha256:", 7) == 0 ? digest + 7 : "";

    if (strlen(hex) != HEX_CHARS || strspn(hex, "0123456789abcdef") != HEX_CHARS) {
        return err_refuse(e, ERR_INVALID, what, "sha256: and 64 hexadecimal digits", "\"%.80s\"",
                          digest);
    }
    *ret = hex;
    return 0;
}

/* Reads a document, and puts it into the pack. */
static int document(struct finder *f, const char *digest, json_t **ret, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(DOCUMENT_MAX_BYTES);
    _cleanup_close_ int fd = -1;
    _cleanup_free_ char *path = NULL;
    uint64_t bytes;
    const char *hex;

    if (digest_hex("image", digest, &hex, e) < 0) {
        return -1;
    }
    path = xasprintf("%s/blobs/sha256/%s", f->store, hex);
    if (open_file(path, &fd, &bytes, e) < 0) {
        return -1;
    }
    if (bytes > DOCUMENT_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "store", "a document of at most 1 MiB",
                          "%llu bytes, %s", (unsigned long long)bytes, path);
    }
    if (buf_reserve(&b, (size_t)bytes, e) < 0) {
        return -1;
    }
    while (b.n < bytes) {
        ssize_t n = read(fd, b.p + b.n, (size_t)bytes - b.n);
        if (n <= 0) {
            return n < 0 ? err_errno(e, "store: %s", path)
                         : err_set(e, ERR_IO, "store: %s became shorter", path);
        }
        b.n += (size_t)n;
    }
    if (check_digest(hex, buf_bytes(&b), path, e) < 0 ||
        tar_add(&f->pack, hex, buf_bytes(&b), e) < 0) {
        return -1;
    }
    return ret ? json_parse("image document", buf_bytes(&b), DOCUMENT_MAX_BYTES, ret, e) : 0;
}

/* The one manifest for linux/amd64 of an index. Borrowed from it. */
static int choose_manifest(const json_t *index, const char **ret_digest, struct err *e)
{
    const json_t *list = json_object_get(index, "manifests");
    const char *chosen = NULL;
    size_t n = 0;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i), *p = json_object_get(m, "platform");
        const char *os = json_string_value(json_object_get(p, "os")),
                   *arch = json_string_value(json_object_get(p, "architecture")),
                   *digest = json_string_value(json_object_get(m, "digest"));
        if (os && arch && digest && streq(os, "linux") && streq(arch, "amd64")) {
            chosen = digest;
            n++;
        }
    }
    if (n != 1) {
        return err_refuse(e, ERR_INVALID, "image", "an index with one manifest for linux/amd64",
                          "%zu of them", n);
    }
    *ret_digest = chosen;
    return 0;
}

static int add_layer(struct finder *f, const json_t *layer, struct err *e)
{
    const char *digest = json_string_value(json_object_get(layer, "digest")),
               *media = json_string_value(json_object_get(layer, "mediaType")), *hex;
    uint64_t bytes;

    if (!digest || !media) {
        return err_refuse(e, ERR_INVALID, "image.layers", "digest and mediaType", "none");
    }
    if (digest_hex("image.layers", digest, &hex, e) < 0) {
        return -1;
    }
    _cleanup_free_ char *path = xasprintf("%s/blobs/sha256/%s", f->store, hex);
    if (add_file(f, "blob", hex, path, &bytes, e) < 0) {
        return -1;
    }
    f->d->unpack_bytes +=
        bytes * (strstr(media, "+gzip") || strstr(media, "+zstd") ? UNPACK_FACTOR : 1u);
    return 0;
}

static int add_image(struct finder *f, const char *image, struct err *e)
{
    _cleanup_json_ json_t *index = NULL, *manifest = NULL;

    if (document(f, image, &manifest, e) < 0) {
        return -1;
    }
    if (json_object_get(manifest, "manifests")) {
        const char *digest;
        index = TAKE_PTR(manifest);
        if (choose_manifest(index, &digest, e) < 0 || document(f, digest, &manifest, e) < 0) {
            return -1;
        }
    }
    const char *config =
        json_string_value(json_object_get(json_object_get(manifest, "config"), "digest"));
    const json_t *layers = json_object_get(manifest, "layers");
    if (!config || !json_is_array(layers)) {
        return err_refuse(e, ERR_INVALID, "image", "a manifest with config and layers",
                          "something else");
    }
    if (document(f, config, NULL, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < json_array_size(layers); i++) {
        if (add_layer(f, json_array_get(layers, i), e) < 0) {
            return err_wrap(e, "layer %zu", i);
        }
    }
    return 0;
}

static int add_pack(struct finder *f, struct err *e)
{
    static const uint8_t end[2 * TAR_BLOCK];
    char path[64];

    struct vm_disk *x = add_disk(f->d, "pack", "", e);
    if (!x || buf_add(&f->pack, end, sizeof(end), e) < 0) {
        return -1;
    }
    snprintf(x->serial, sizeof(x->serial), "pack");
    _cleanup_close_ int fd = memfd_create("pack", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return err_errno(e, "memfd_create");
    }
    if (write(fd, f->pack.p, f->pack.n) != (ssize_t)f->pack.n ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0) {
        return err_errno(e, "the image's documents");
    }
    /* QEMU takes a descriptor only with exactly the rights that it wants. */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    x->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (x->fd < 0) {
        return err_errno(e, "the image's documents");
    }
    x->bytes = f->pack.n;
    f->d->n++;
    return 0;
}

static int add_datasets(struct finder *f, const struct spec *spec, struct err *e)
{
    for (size_t i = 0; i < spec->n_datasets; i++) {
        const char *id = spec->datasets[i].id;
        uint64_t bytes;
        if (!secret_id_valid(id) || strlen(id) >= sizeof(f->d->v[0].name)) {
            return err_refuse(e, ERR_INVALID, "spec.datasets", "ids of datasets", "\"%.80s\"", id);
        }
        _cleanup_free_ char *path = xasprintf("%s/datasets/%s.coffer", f->store, id);
        if (add_file(f, "dataset", id, path, &bytes, e) < 0) {
            return -1;
        }
    }
    return 0;
}

int vm_disks_open(const char *store, const struct spec *spec, struct vm_disks *ret, struct err *e)
{
    struct finder f = {.store = store, .d = ret, .pack = BUF_INIT(PACK_MAX_BYTES)};

    ret->n = 0;
    ret->unpack_bytes = 0;
    int rc =
        add_image(&f, spec->image, e) < 0 || add_pack(&f, e) < 0 || add_datasets(&f, spec, e) < 0
            ? -1
            : 0;
    buf_done(&f.pack);
    if (rc < 0) {
        vm_disks_done(ret);
    }
    return rc;
}

void vm_disks_done(struct vm_disks *d)
{
    for (size_t i = 0; i < d->n; i++) {
        closep(&d->v[i].fd);
    }
    d->n = 0;
}

/* ---- for the guest --------------------------------------------------------------------------- */

int vm_launch_config(const Coffer__V1__LaunchConfig *c, const struct vm_disks *d, struct buf *ret,
                     struct err *e)
{
    Coffer__V1__LaunchConfig m = *c;
    Coffer__V1__VmDisk disks[VM_DISKS_MAX], *list[VM_DISKS_MAX];

    for (size_t i = 0; i < d->n; i++) {
        coffer__v1__vm_disk__init(&disks[i]);
        disks[i].serial = (char *)d->v[i].serial;
        disks[i].kind = (char *)d->v[i].kind;
        disks[i].name = (char *)d->v[i].name;
        disks[i].bytes = d->v[i].bytes;
        list[i] = &disks[i];
    }
    m.store_path = "";
    m.work_dir = "/run/coffer/work";
    m.disks = list;
    m.n_disks = d->n;
    size_t n = coffer__v1__launch_config__get_packed_size(&m);
    if (n > VM_LAUNCH_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "launch configuration", "at most 262144 bytes", "%zu",
                          n);
    }
    if (buf_reserve(ret, n, e) < 0) {
        return -1;
    }
    ret->n += coffer__v1__launch_config__pack(&m, ret->p + ret->n);
    return 0;
}

void vm_size(const struct spec *spec, const struct vm_disks *d, int64_t overhead_bytes,
             uint32_t *ret_mib, uint32_t *ret_vcpus)
{
    uint64_t bytes = (uint64_t)overhead_bytes + (uint64_t)spec->memory_bytes +
                     (uint64_t)spec->tmp_bytes + (uint64_t)spec->output_max_bytes + d->unpack_bytes;
    int64_t vcpus = (spec->cpu_millis + 999) / 1000;

    *ret_mib = vm_memory_mib(bytes);
    *ret_vcpus = vcpus < 1 ? 1 : vcpus > VM_VCPUS_MAX ? VM_VCPUS_MAX : (uint32_t)vcpus;
}
