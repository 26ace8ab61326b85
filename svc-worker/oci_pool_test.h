/* Helpers of the OCI tests: pools of blobs made by hand. */
#ifndef COFFER_OCI_POOL_TEST_H
#define COFFER_OCI_POOL_TEST_H

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <locale.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/buf.h"
#include "svc-worker/oci.h"

#define TAR_MAX_BYTES (64u << 20)
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define INDEX_TYPE "application/vnd.oci.image.index.v1+json"
#define CONFIG_TYPE "application/vnd.oci.image.config.v1+json"
#define LAYER_TYPE "application/vnd.oci.image.layer.v1.tar"

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static inline char *temp_dir(void)
{
    char *dir = xstrdup("/tmp/oci_test.XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline void drop_dir(char **dir)
{
    nftw(*dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*dir);
}
#define _cleanup_dir_ _cleanup_(drop_dir)

static inline void slurp(const char *path, struct buf *b)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    *b = BUF_INIT(TAR_MAX_BYTES);
    assert_true(fd >= 0);
    do {
        assert_int_equal(buf_reserve(b, 65536, NULL), 0);
        n = read(fd, b->p + b->n, 65536);
        assert_true(n >= 0);
        b->n += (size_t)n;
    } while (n > 0);
}

static inline void spill(const char *path, const void *p, size_t n)
{
    _cleanup_close_ int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
}

static inline char *blob_path(const char *pool, const char *digest)
{
    return xasprintf("%s/blobs/sha256/%s", pool, digest + strlen("sha256:"));
}

static inline char *digest_of(const void *p, size_t n)
{
    uint8_t h[32];

    assert_int_equal(EVP_Digest(p, n, h, NULL, EVP_sha256(), NULL), 1);
    _cleanup_free_ char *hex = hex_encode(h, sizeof(h));
    return xasprintf("sha256:%s", hex);
}

static inline void make_pool(const char *pool)
{
    _cleanup_free_ char *blobs = xasprintf("%s/blobs", pool);
    _cleanup_free_ char *sha = xasprintf("%s/blobs/sha256", pool);

    assert_int_equal(mkdir(blobs, 0755), 0);
    assert_int_equal(mkdir(sha, 0755), 0);
}

/* Returns its digest. */
static inline char *put_blob(const char *pool, const void *p, size_t n)
{
    char *digest = digest_of(p, n);
    _cleanup_free_ char *path = blob_path(pool, digest);

    spill(path, p, n);
    return digest;
}

static inline json_t *get_json(const char *pool, const char *digest)
{
    _cleanup_free_ char *path = blob_path(pool, digest);
    json_t *j = json_load_file(path, 0, NULL);

    assert_non_null(j);
    return j;
}

/* Drops the reference. */
static inline json_t *put_json(const char *pool, const char *media_type, json_t *j, char **digest)
{
    char *text = json_dumps(j, JSON_COMPACT);

    *digest = put_blob(pool, text, strlen(text));
    json_t *d = json_pack("{s:s, s:s, s:I}", "mediaType", media_type, "digest", *digest, "size",
                          (json_int_t)strlen(text));
    free(text);
    json_decref(j);
    return d;
}

struct entry {
    const char *path;
    mode_t type;
    const char *text; /* content or target */
    int hard;
    mode_t perm;
};

#define REG(path, text)                                                                            \
    {                                                                                              \
        path, AE_IFREG, text, 0, 0644                                                              \
    }
#define SUB(path)                                                                                  \
    {                                                                                              \
        path, AE_IFDIR, "", 0, 0755                                                                \
    }
#define SYM(path, to)                                                                              \
    {                                                                                              \
        path, AE_IFLNK, to, 0, 0777                                                                \
    }
#define HARD(path, to)                                                                             \
    {                                                                                              \
        path, AE_IFREG, to, 1, 0644                                                                \
    }
#define NODE(path, type)                                                                           \
    {                                                                                              \
        path, type, "", 0, 0644                                                                    \
    }

/* A tar stream, through a filter of libarchive's (ARCHIVE_FILTER_NONE and others). */
static inline void forge(const struct entry *v, size_t n, int filter, struct buf *ret)
{
    struct archive *a = archive_write_new();
    /* Only here: the extraction must manage in the locale "C". */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t old = uselocale(utf8);
    size_t used = 0;

    *ret = BUF_INIT(TAR_MAX_BYTES);
    assert_int_equal(buf_reserve(ret, 1 << 20, NULL), 0);
    assert_int_equal(archive_write_set_format_pax_restricted(a), ARCHIVE_OK);
    assert_int_equal(archive_write_add_filter(a, filter), ARCHIVE_OK);
    assert_int_equal(archive_write_open_memory(a, ret->p, 1 << 20, &used), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, v[i].path);
        archive_entry_set_filetype(entry, v[i].type);
        archive_entry_set_perm(entry, v[i].perm);
        archive_entry_set_mtime(entry, 1234567, 0);
        if (v[i].hard) {
            archive_entry_set_hardlink(entry, v[i].text);
        } else if (v[i].type == AE_IFLNK) {
            archive_entry_set_symlink(entry, v[i].text);
        } else if (v[i].type == AE_IFREG) {
            archive_entry_set_size(entry, (la_int64_t)strlen(v[i].text));
        }
        assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
        if (v[i].type == AE_IFREG && !v[i].hard) {
            archive_write_data(a, v[i].text, strlen(v[i].text));
        }
        archive_entry_free(entry);
    }
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    uselocale(old);
    freelocale(utf8);
    ret->n = used;
}

static inline void assert_err(const struct err *e, enum err_code code, const char *part)
{
    if (e->code != code || !strstr(e->msg, part)) {
        fail_msg("expected %s with \"%s\", got %s: %s", err_code_name(code), part,
                 err_code_name(e->code), e->msg);
    }
}

static inline void assert_file(const char *dir, const char *name, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_buf_ struct buf b = {0};
    struct stat st;

    if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode)) {
        fail_msg("expected the file %s", name);
    }
    slurp(path, &b);
    assert_int_equal(b.n, strlen(text));
    assert_memory_equal(b.p, text, b.n);
}

static inline int exists(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    struct stat st;

    return lstat(path, &st) == 0;
}

#endif
