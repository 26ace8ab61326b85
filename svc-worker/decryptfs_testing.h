/* Sealed datasets and trees for the tests of DecryptFS. */
#ifndef COFFER_DECRYPTFS_TESTING_H
#define COFFER_DECRYPTFS_TESTING_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-worker/decryptfs_int.h"

static int can_mount;
static struct jkey *owner;

#define NEED_MOUNT()                                                                               \
    do {                                                                                           \
        if (!can_mount) {                                                                          \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

/* ---- sealed datasets in memory -------------------------------------------------------------- */

struct sealed {
    int fd;
    struct secret *key;
    struct seal_reader *reader;
    uint8_t *plain; /* what was sealed */
    size_t n;
};

static inline void sealed_done(struct sealed *s)
{
    seal_reader_free(s->reader);
    secret_free(s->key);
    closep(&s->fd);
    free(s->plain);
}
#define _cleanup_sealed_ _cleanup_(sealed_done)

static inline void spill(int fd, const void *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t w = pwrite(fd, (const uint8_t *)p + at, n - at, (off_t)at);
        assert_true(w > 0);
        at += (size_t)w;
    }
}

static inline struct sealed seal(const char *form, const char *cipher, uint32_t chunk,
                                 const void *p, size_t n)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    struct sealed s = {.fd = memfd_create("sealed", MFD_CLOEXEC), .n = n};
    _cleanup_close_ int in = memfd_create("plain", MFD_CLOEXEC);
    struct err e = {0};

    s.plain = xmemdup(p, n ? n : 1);
    spill(in, p, n);
    assert_int_equal(
        seal_dataset_header_new("data", form, cipher, chunk, owner, &prefix, &s.key, &e), 0);
    assert_int_equal(seal_fd(&prefix, s.key, in, s.fd, NULL, &e), 0);
    if (seal_reader_open(s.fd, s.key, &s.reader, &e)) {
        fail_msg("%s", e.msg);
    }
    return s;
}

static inline struct sealed seal_random(const char *cipher, uint32_t chunk, size_t n)
{
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);

    random_bytes(p, n);
    return seal("file", cipher, chunk, p, n);
}

static inline void flip(const struct sealed *s, uint64_t chunk, uint32_t chunk_bytes)
{
    off_t at = (off_t)(seal_reader_header(s->reader)->prefix_bytes +
                       chunk * (chunk_bytes + SEAL_TAG_BYTES) + 5);
    uint8_t b;

    assert_int_equal(pread(s->fd, &b, 1, at), 1);
    b ^= 0x40;
    assert_int_equal(pwrite(s->fd, &b, 1, at), 1);
}

static inline void assert_err(const struct err *e, enum err_code code, const char *part)
{
    if (e->code != code || !strstr(e->msg, part)) {
        fail_msg("expected %s \"%s\", got %s \"%s\"", err_code_name(code), part,
                 err_code_name(e->code), e->msg);
    }
}

static inline uint64_t pseudo(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 20;
}

/* ---- trees and tar streams ------------------------------------------------------------------ */

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static inline void drop_dir(char **dir)
{
    if (*dir) {
        (void)umount2(*dir, MNT_DETACH);
        nftw(*dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        free(*dir);
    }
}
#define _cleanup_dir_ _cleanup_(drop_dir)

static inline char *temp_dir(void)
{
    char *dir = xstrdup("/tmp/decryptfs_test.XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline void put_file(const char *dir, const char *name, size_t n, mode_t mode)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);
    _cleanup_close_ int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    random_bytes(p, n);
    assert_true(fd >= 0);
    spill(fd, p, n);
    assert_int_equal(fchmod(fd, mode), 0);
}

static inline void put_dir(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    assert_int_equal(mkdir(path, 0755), 0);
}

/* Files of many sizes around blocks and chunks, long names, depth, links. */
static inline char *make_tree(void)
{
    static const size_t sizes[] = {0, 1, 511, 512, 513, 4095, 4096, 4097, 12288, 70000, 200001};
    char *dir = temp_dir(), name[400], leaf[211];

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        snprintf(name, sizeof(name), "file-%zu", sizes[i]);
        put_file(dir, name, sizes[i], i % 2 ? 0755 : 0644);
    }
    put_dir(dir, "empty");
    put_dir(dir, "sub");
    put_dir(dir, "sub/deep");
    memset(leaf, 'n', 210);
    leaf[210] = 0;
    snprintf(name, sizeof(name), "sub/deep/%s", leaf);
    put_file(dir, name, 5000, 0644);
    put_file(dir, "sub/\xc3\xa4\xf0\x9f\x98\x80", 77, 0644);
    _cleanup_free_ char *link = xasprintf("%s/sub/link", dir);
    assert_int_equal(symlink("../file-4097", link), 0);
    _cleanup_free_ char *far = xasprintf("%s/sub/far", dir);
    _cleanup_free_ char *to = xasprintf("deep/%s", leaf);
    assert_int_equal(symlink(to, far), 0);
    return dir;
}

static inline void tar_dir(const char *dir, struct buf *ret)
{
    _cleanup_close_ int fd = memfd_create("tar", MFD_CLOEXEC);
    struct err e = {0};
    struct stat st;

    *ret = BUF_INIT(64u << 20);
    assert_int_equal(seal_tar_dir(dir, fd, &e), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(buf_reserve(ret, (size_t)st.st_size, NULL), 0);
    assert_int_equal(pread(fd, ret->p, (size_t)st.st_size, 0), st.st_size);
    ret->n = (size_t)st.st_size;
}

static inline int read_memory(void *arg, void *out, size_t n, uint64_t offset, struct err *e)
{
    const struct bytes *b = arg;

    if (offset > b->n || n > b->n - offset) {
        return err_set(e, ERR_INTERNAL, "out of bounds");
    }
    memcpy(out, b->p + offset, n);
    return 0;
}

static inline int index_of(struct bytes tar, uint64_t max, struct dfs_index **ret, struct err *e)
{
    struct bytes b = tar;
    const struct dfs_source src = {.bytes = tar.n, .read = read_memory, .arg = &b};

    return dfs_index_tar(&src, max, ret, e);
}

/* Every file of `dir` is in the index with the same content, and nothing else. */
static inline uint32_t compare(const struct dfs_index *ix, struct bytes tar, uint32_t node,
                               const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *de;
    uint32_t n = 0, listed = 0;

    assert_non_null(d);
    while ((de = readdir(d))) {
        if (streq(de->d_name, ".") || streq(de->d_name, "..")) {
            continue;
        }
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, de->d_name);
        uint32_t i = dfs_index_lookup(ix, node, de->d_name);
        struct stat st;
        assert_int_equal(lstat(path, &st), 0);
        if (i == DFS_NONE) {
            fail_msg("%s is not there", path);
        }
        const struct dfs_node *f = dfs_index_node(ix, i);
        assert_int_equal(f->parent, node);
        n++;
        if (S_ISDIR(st.st_mode)) {
            assert_int_equal(f->kind, DFS_DIR);
            assert_int_equal(f->mode, 0755);
            n += compare(ix, tar, i, path);
        } else if (S_ISLNK(st.st_mode)) {
            char to[400] = {0};
            assert_true(readlink(path, to, sizeof(to) - 1) > 0);
            assert_string_equal(to, dfs_index_target(ix, i));
        } else {
            _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
            _cleanup_free_ uint8_t *p = xmalloc((size_t)st.st_size + 1);
            assert_int_equal(f->bytes, st.st_size);
            assert_int_equal(f->mode, st.st_mode & 0777);
            assert_int_equal(pread(fd, p, (size_t)st.st_size, 0), st.st_size);
            assert_true(f->offset + f->bytes <= tar.n);
            assert_memory_equal(p, tar.p + f->offset, f->bytes);
        }
    }
    closedir(d);
    for (uint32_t i = dfs_index_node(ix, node)->child; i != DFS_NONE;
         i = dfs_index_node(ix, i)->next) {
        listed++;
    }
    uint32_t here = 0;
    d = opendir(dir);
    while (readdir(d)) {
        here++;
    }
    closedir(d);
    assert_int_equal(listed, here - 2);
    return n;
}

/* One header, as an attacker writes it. */
struct forged {
    const char *name, *target;
    char type;
    unsigned mode;
    const char *content;
};

static inline void forge(const struct forged *v, size_t n, struct buf *ret)
{
    static const uint8_t zeros[1024];

    *ret = BUF_INIT(1u << 20);
    for (size_t i = 0; i < n; i++) {
        char h[513] = {0};
        unsigned sum = 0;
        size_t size = v[i].content ? strlen(v[i].content) : 0;
        memcpy(h, v[i].name, strlen(v[i].name) > 100 ? 100 : strlen(v[i].name));
        snprintf(h + 100, 8, "%07o", v[i].mode);
        snprintf(h + 124, 12, "%011o", (unsigned)size & 0xffffu);
        memset(h + 148, ' ', 8);
        h[156] = v[i].type;
        if (v[i].target) {
            memcpy(h + 157, v[i].target, strlen(v[i].target));
        }
        for (size_t k = 0; k < 512; k++) {
            sum += (unsigned char)h[k];
        }
        snprintf(h + 148, 8, "%06o", sum);
        assert_int_equal(buf_add(ret, h, 512, NULL), 0);
        assert_int_equal(buf_add(ret, v[i].content, size, NULL), 0);
        assert_int_equal(buf_add(ret, zeros, (512 - size % 512) % 512, NULL), 0);
    }
    assert_int_equal(buf_add(ret, zeros, 1024, NULL), 0);
}

/* ---- the cache ------------------------------------------------------------------------------ */

struct racer {
    struct dfs_reader r;
    const struct sealed *s;
    uint64_t seed;
    int wrong;
    pthread_t t;
};

static inline void *race(void *arg)
{
    struct racer *me = arg;
    uint8_t out[9000];

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t at = pseudo(&me->seed) % (me->s->n - sizeof(out));
        size_t n = (size_t)(pseudo(&me->seed) % sizeof(out)) + 1;
        if (dfs_read(&me->r, 0, out, n, at, NULL, NULL) || memcmp(out, me->s->plain + at, n) != 0) {
            me->wrong++;
        }
    }
    return NULL;
}

#endif
