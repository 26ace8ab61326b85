#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "svc-worker/oci_int.h"

#define BLOCK_BYTES 65536u

/* The layer as it flows, once: blob -> hash, HMAC, decrypt -> decompress -> hash, count -> tar
 * reader. */
struct flow {
    int fd;
    uint64_t offset, size; /* of the blob; a disk may be longer */
    EVP_MD_CTX *blob_hash;
    EVP_MAC_CTX *mac;      /* NULL when the layer is not encrypted */
    EVP_CIPHER_CTX *ctr;   /* NULL when the layer is not encrypted */
    struct archive *inner; /* the decompressor; NULL when the layer is not compressed */
    int inner_at_end;
    EVP_MD_CTX *tar_hash;
    uint64_t *stream_left;
    uint8_t *sealed, *plain, *tar; /* BLOCK_BYTES each */
    struct err e;                  /* why a callback failed */
};

static void flow_done(struct flow *f)
{
    if (f->inner) {
        archive_read_free(f->inner);
    }
    EVP_MD_CTX_free(f->blob_hash);
    EVP_MD_CTX_free(f->tar_hash);
    EVP_CIPHER_CTX_free(f->ctr);
    EVP_MAC_CTX_free(f->mac);
    free(f->sealed);
    free(f->plain);
    free(f->tar);
    closep(&f->fd);
}

static int read_blob(int fd, uint8_t *p, size_t n, uint64_t offset, size_t *ret_n, struct err *e)
{
    ssize_t r;

    do {
        r = pread(fd, p, n, (off_t)offset);
    } while (r < 0 && errno == EINTR);
    if (r < 0) {
        return err_errno(e, "reading the blob");
    }
    *ret_n = (size_t)r;
    return 0;
}

/* The next bytes of the blob as they are, hashed; 0 at the end. */
static la_ssize_t next_sealed(struct flow *f)
{
    uint64_t left = f->size - f->offset;
    size_t n = 0;

    if (read_blob(f->fd, f->sealed, left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES, f->offset, &n,
                  &f->e) < 0) {
        return -1;
    }
    f->offset += n;
    if (n && (!EVP_DigestUpdate(f->blob_hash, f->sealed, n) ||
              (f->mac && !EVP_MAC_update(f->mac, f->sealed, n)))) {
        return err_set(&f->e, ERR_INTERNAL, "hashing failed");
    }
    return (la_ssize_t)n;
}

/* The next bytes of the blob, decrypted; 0 at the end. */
static la_ssize_t next_plain(struct flow *f, const void **ret)
{
    la_ssize_t n = next_sealed(f);
    int out = 0;

    if (n <= 0) {
        return n;
    }
    if (!f->ctr) {
        *ret = f->sealed;
        return n;
    }
    if (!EVP_DecryptUpdate(f->ctr, f->plain, &out, f->sealed, (int)n) || out != n) {
        return err_set(&f->e, ERR_INTERNAL, "AES-256-CTR failed");
    }
    *ret = f->plain;
    return n;
}

/* The next bytes of the uncompressed tar, hashed; 0 at the end. */
static la_ssize_t next_tar(struct flow *f, const void **ret)
{
    la_ssize_t n;

    if (!f->inner) {
        n = next_plain(f, ret);
    } else if (f->inner_at_end) {
        n = 0;
    } else {
        n = archive_read_data(f->inner, f->tar, BLOCK_BYTES);
        *ret = f->tar;
        if (n < 0 && f->e.code == ERR_NONE) {
            err_set(&f->e, ERR_INVALID, "decompressing: %.200s", archive_error_string(f->inner));
        }
        f->inner_at_end = n == 0;
    }
    if (n <= 0) {
        return n < 0 ? -1 : 0;
    }
    if ((uint64_t)n > *f->stream_left) {
        return err_set(&f->e, ERR_TOO_LARGE, "uncompressed, it is larger than allowed");
    }
    *f->stream_left -= (uint64_t)n;
    if (!EVP_DigestUpdate(f->tar_hash, *ret, (size_t)n)) {
        return err_set(&f->e, ERR_INTERNAL, "SHA-256 failed");
    }
    return n;
}

static la_ssize_t report(struct archive *a, struct flow *f, la_ssize_t n)
{
    if (n < 0) {
        archive_set_error(a, EIO, "%s", f->e.msg);
    }
    return n;
}

static la_ssize_t on_read_plain(struct archive *a, void *arg, const void **ret)
{
    return report(a, arg, next_plain(arg, ret));
}

static la_ssize_t on_read_tar(struct archive *a, void *arg, const void **ret)
{
    return report(a, arg, next_tar(arg, ret));
}

static EVP_MAC_CTX *hmac_new(const struct secret *key)
{
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };

    EVP_MAC_free(mac);
    if (ctx && !EVP_MAC_init(ctx, secret_cp(key), secret_n(key), params)) {
        EVP_MAC_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

static int check_hash(EVP_MD_CTX *hash, const uint8_t want[OCI_SHA256_BYTES], const char *what,
                      struct err *e)
{
    uint8_t got[OCI_SHA256_BYTES];

    if (!EVP_DigestFinal_ex(hash, got, NULL)) {
        return err_set(e, ERR_INTERNAL, "SHA-256 failed");
    }
    if (CRYPTO_memcmp(got, want, sizeof(got)) != 0) {
        _cleanup_free_ char *want_hex = hex_encode(want, sizeof(got));
        _cleanup_free_ char *got_hex = hex_encode(got, sizeof(got));
        return err_set(e, ERR_BAD_SIGNATURE, "%s: expected sha256:%s, got sha256:%s", what,
                       want_hex, got_hex);
    }
    return 0;
}

/* Whether what flowed, with the rest of it, is the blob that the manifest names and that was
 * encrypted with this key. */
static int verify_blob(struct flow *f, const struct oci_layer *l, struct err *e)
{
    uint8_t got[OCI_SHA256_BYTES];
    la_ssize_t n;
    size_t mac_n = 0;

    do {
        n = next_sealed(f);
    } while (n > 0);
    if (n < 0) {
        *e = f->e;
        return -1;
    }
    if (check_hash(f->blob_hash, l->digest, "the blob's digest", e) < 0) {
        return -1;
    }
    if (f->mac && (!EVP_MAC_final(f->mac, got, &mac_n, sizeof(got)) || mac_n != sizeof(got) ||
                   CRYPTO_memcmp(got, l->crypt->hmac, sizeof(got)) != 0)) {
        return err_set(e, ERR_BAD_SIGNATURE,
                       "the blob's HMAC does not hold: it was changed after it was encrypted");
    }
    return 0;
}

static int start_crypt(struct flow *f, const struct ocicrypt_key *key, struct err *e)
{
    f->mac = hmac_new(key->symkey);
    if (!f->mac) {
        return err_set(e, ERR_INTERNAL, "HMAC-SHA256 is not available");
    }
    f->ctr = EVP_CIPHER_CTX_new();
    if (!f->ctr ||
        !EVP_DecryptInit_ex(f->ctr, EVP_aes_256_ctr(), NULL, secret_cp(key->symkey), key->nonce)) {
        return err_set(e, ERR_INTERNAL, "AES-256-CTR is not available");
    }
    return 0;
}

static int start_inner(struct flow *f, enum oci_compression compression, struct err *e)
{
    int filter = compression == OCI_GZIP ? ARCHIVE_FILTER_GZIP : ARCHIVE_FILTER_ZSTD;
    struct archive_entry *entry;

    f->inner = archive_read_new();
    /* Anything but OK from the filter would mean an external program. */
    if (!f->inner || archive_read_support_format_raw(f->inner) != ARCHIVE_OK ||
        archive_read_support_format_empty(f->inner) != ARCHIVE_OK ||
        archive_read_append_filter(f->inner, filter) != ARCHIVE_OK) {
        return err_set(e, ERR_UNSUPPORTED, "%s is not available",
                       compression == OCI_GZIP ? "gzip" : "zstd");
    }
    if (archive_read_open(f->inner, f, NULL, on_read_plain, NULL) != ARCHIVE_OK) {
        goto failed;
    }
    int r = archive_read_next_header(f->inner, &entry);
    if (r == ARCHIVE_EOF) {
        f->inner_at_end = 1;
    } else if (r != ARCHIVE_OK) {
        goto failed;
    }
    return 0;

failed:
    if (f->e.code != ERR_NONE) {
        *e = f->e;
        return -1;
    }
    return err_set(e, ERR_INVALID, "decompressing: %.200s", archive_error_string(f->inner));
}

/* Reads the tar stream to its end (padding), and what a decompressor left. */
static int drain(struct flow *f, struct err *e)
{
    const void *p;
    la_ssize_t n;

    do {
        n = next_tar(f, &p);
    } while (n > 0);
    if (n < 0) {
        *e = f->e;
        return -1;
    }
    return 0;
}

static int unpack(struct flow *f, struct untar *u, struct err *e)
{
    struct archive *outer = untar_archive_new();
    int r = -1;

    if (archive_read_open(outer, f, NULL, on_read_tar, NULL) != ARCHIVE_OK) {
        err_set(e, ERR_INVALID, "tar stream: %.200s", archive_error_string(outer));
    } else {
        r = untar_archive(u, outer, e);
    }
    archive_read_free(outer);
    if (r < 0) {
        if (f->e.code != ERR_NONE && e) {
            *e = f->e;
        }
        return -1;
    }
    return drain(f, e);
}

static int unpack_layer(const struct blobs *store, const struct oci_layer *l,
                        const struct oci_keys *keys, struct untar *u, uint64_t *stream_left,
                        struct err *e)
{
    _cleanup_(ocicrypt_key_done) struct ocicrypt_key key = {0};
    _cleanup_(flow_done) struct flow f = {.fd = -1, .stream_left = stream_left};

    if (l->crypt && ocicrypt_open(l->crypt, keys, &key, e) < 0) {
        return -1;
    }
    if (blobs_layer(store, l->hex, l->size, &f.fd, e) < 0) {
        return -1;
    }
    f.size = l->size;
    f.sealed = xmalloc(BLOCK_BYTES);
    f.plain = xmalloc(BLOCK_BYTES);
    f.tar = xmalloc(BLOCK_BYTES);
    f.blob_hash = EVP_MD_CTX_new();
    f.tar_hash = EVP_MD_CTX_new();
    if (!f.blob_hash || !f.tar_hash || !EVP_DigestInit_ex(f.blob_hash, EVP_sha256(), NULL) ||
        !EVP_DigestInit_ex(f.tar_hash, EVP_sha256(), NULL)) {
        return err_set(e, ERR_INTERNAL, "SHA-256 is not available");
    }
    if (l->crypt && start_crypt(&f, &key, e) < 0) {
        return -1;
    }
    int r = (l->compression != OCI_PLAIN_TAR && start_inner(&f, l->compression, e) < 0) ||
                    unpack(&f, u, e) < 0
                ? -1
                : 0;
    /* A blob that was tampered with may fail anywhere above; what is wrong with it is told here. */
    if (f.e.code == ERR_IO || f.e.code == ERR_INTERNAL) {
        return -1;
    }
    f.e = (struct err){0};
    struct err why = {0};
    if (verify_blob(&f, l, &why) < 0) {
        *e = why;
        return -1;
    }
    return r < 0 ? -1 : check_hash(f.tar_hash, l->diff_id, "the diff_id", e);
}

int oci_layer_unpack(const struct blobs *store, const struct oci_layer *l,
                     const struct oci_keys *keys, struct untar *u, uint64_t *stream_left,
                     struct err *e)
{
    struct err local = {0};

    if (unpack_layer(store, l, keys, u, stream_left, &local) == 0) {
        return 0;
    }
    if (e) {
        *e = local;
        err_wrap(e, "layer %zu (sha256:%.12s)", l->index, l->hex);
    }
    return -1;
}
