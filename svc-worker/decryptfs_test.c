/* DecryptFS without the kernel (index, cache) and with it. Mounting needs root and /dev/fuse; those
 * tests are skipped without. */
#include "svc-worker/decryptfs.h"

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

static void sealed_done(struct sealed *s)
{
    seal_reader_free(s->reader);
    secret_free(s->key);
    closep(&s->fd);
    free(s->plain);
}
#define _cleanup_sealed_ _cleanup_(sealed_done)

static void spill(int fd, const void *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t w = pwrite(fd, (const uint8_t *)p + at, n - at, (off_t)at);
        assert_true(w > 0);
        at += (size_t)w;
    }
}

static struct sealed seal(const char *form, const char *cipher, uint32_t chunk, const void *p,
                          size_t n)
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

static struct sealed seal_random(const char *cipher, uint32_t chunk, size_t n)
{
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);

    random_bytes(p, n);
    return seal("file", cipher, chunk, p, n);
}

static void flip(const struct sealed *s, uint64_t chunk, uint32_t chunk_bytes)
{
    off_t at = (off_t)(seal_reader_header(s->reader)->prefix_bytes +
                       chunk * (chunk_bytes + SEAL_TAG_BYTES) + 5);
    uint8_t b;

    assert_int_equal(pread(s->fd, &b, 1, at), 1);
    b ^= 0x40;
    assert_int_equal(pwrite(s->fd, &b, 1, at), 1);
}

static void assert_err(const struct err *e, enum err_code code, const char *part)
{
    if (e->code != code || !strstr(e->msg, part)) {
        fail_msg("expected %s \"%s\", got %s \"%s\"", err_code_name(code), part,
                 err_code_name(e->code), e->msg);
    }
}

static uint64_t pseudo(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 20;
}

/* ---- trees and tar streams ------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static void drop_dir(char **dir)
{
    if (*dir) {
        (void)umount2(*dir, MNT_DETACH);
        nftw(*dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        free(*dir);
    }
}
#define _cleanup_dir_ _cleanup_(drop_dir)

static char *temp_dir(void)
{
    char *dir = xstrdup("/tmp/decryptfs_test.XXXXXX");

    assert_non_null(mkdtemp(dir));
    return dir;
}

static void put_file(const char *dir, const char *name, size_t n, mode_t mode)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_free_ uint8_t *p = xmalloc(n + 1);
    _cleanup_close_ int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    random_bytes(p, n);
    assert_true(fd >= 0);
    spill(fd, p, n);
    assert_int_equal(fchmod(fd, mode), 0);
}

static void put_dir(const char *dir, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    assert_int_equal(mkdir(path, 0755), 0);
}

/* Files of many sizes around blocks and chunks, long names, depth, links. */
static char *make_tree(void)
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

static void tar_dir(const char *dir, struct buf *ret)
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

static int read_memory(void *arg, void *out, size_t n, uint64_t offset, struct err *e)
{
    const struct bytes *b = arg;

    if (offset > b->n || n > b->n - offset) {
        return err_set(e, ERR_INTERNAL, "out of bounds");
    }
    memcpy(out, b->p + offset, n);
    return 0;
}

static int index_of(struct bytes tar, uint64_t max, struct dfs_index **ret, struct err *e)
{
    struct bytes b = tar;
    const struct dfs_source src = {.bytes = tar.n, .read = read_memory, .arg = &b};

    return dfs_index_tar(&src, max, ret, e);
}

/* Every file of `dir` is in the index with the same content, and nothing else. */
static uint32_t compare(const struct dfs_index *ix, struct bytes tar, uint32_t node,
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

static void index_like_the_tree(void **state)
{
    _cleanup_dir_ char *dir = make_tree();
    _cleanup_(dfs_index_freep) struct dfs_index *ix = NULL;
    _cleanup_buf_ struct buf tar = {0};
    struct err e = {0};

    (void)state;
    tar_dir(dir, &tar);
    if (index_of(buf_bytes(&tar), 1000, &ix, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(compare(ix, buf_bytes(&tar), 0, dir), dfs_index_n(ix) - 1);
    assert_int_equal(dfs_index_lookup(ix, 0, "nothing"), DFS_NONE);
    assert_int_equal(dfs_index_lookup(ix, 0, ""), DFS_NONE);
    struct dfs_index *none = NULL;
    assert_int_equal(index_of(buf_bytes(&tar), 5, &none, &e), -1);
    assert_err(&e, ERR_TOO_LARGE, "more entries than allowed");
    /* Cut anywhere but at the end mark it is refused. */
    for (size_t n = 1; n + 1024 < tar.n; n += 777) {
        if (n % 512 && index_of(BYTES(tar.p, n), 1000, &none, &e) == 0) {
            fail_msg("cut at %zu it was taken", n);
        }
    }
}

static void many_names(void **state)
{
    _cleanup_buf_ struct buf tar = BUF_INIT(64u << 20);
    _cleanup_(dfs_index_freep) struct dfs_index *ix = NULL;
    struct err e = {0};

    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        char h[513] = {0};
        unsigned sum = 0;
        snprintf(h, 100, "d%u/f%u", i % 7, i);
        snprintf(h + 100, 8, "0000644");
        snprintf(h + 124, 12, "00000000000");
        memset(h + 148, ' ', 8);
        h[156] = '0';
        for (size_t k = 0; k < 512; k++) {
            sum += (unsigned char)h[k];
        }
        snprintf(h + 148, 8, "%06o", sum);
        assert_int_equal(buf_add(&tar, h, 512, NULL), 0);
    }
    if (index_of(buf_bytes(&tar), 10000, &ix, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(dfs_index_n(ix), 1 + 7 + 3000);
    for (unsigned i = 0; i < 3000; i++) {
        char dir[8], name[16];
        snprintf(dir, sizeof(dir), "d%u", i % 7);
        snprintf(name, sizeof(name), "f%u", i);
        uint32_t d = dfs_index_lookup(ix, 0, dir);
        assert_int_not_equal(dfs_index_lookup(ix, d, name), DFS_NONE);
        assert_int_equal(dfs_index_lookup(ix, d == 1 ? 2 : 1, name), DFS_NONE);
    }
    assert_int_equal(dfs_index_node(ix, 0)->subdirs, 7);
}

/* One header, as an attacker writes it. */
struct forged {
    const char *name, *target;
    char type;
    unsigned mode;
    const char *content;
};

static void forge(const struct forged *v, size_t n, struct buf *ret)
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

static void refusals(void **state)
{
    static const struct {
        struct forged v[2];
        enum err_code code;
        const char *part;
    } bad[] = {
        {{{"/etc/passwd", 0, '0', 0644, "x"}}, ERR_DENIED, "its path is absolute"},
        {{{"a/../b", 0, '0', 0644, "x"}}, ERR_DENIED, "its path has a \"..\""},
        {{{"..", 0, '5', 0755, 0}}, ERR_DENIED, "its path has a \"..\""},
        {{{"l", "/etc", '2', 0777, 0}}, ERR_DENIED, "points out of the directory"},
        {{{"l", "../x", '2', 0777, 0}}, ERR_DENIED, "points out of the directory"},
        {{{"l", "", '2', 0777, 0}}, ERR_INVALID, "no target"},
        {{{"d", "e", '2', 0777, 0}, {"d/f", 0, '0', 0644, "x"}}, ERR_DENIED, "through a symlink"},
        {{{"d", 0, '0', 0644, "x"}, {"d/f", 0, '0', 0644, "x"}},
         ERR_INVALID,
         "expected a directory"},
        {{{"f", 0, '0', 0644, "x"}, {"f", 0, '0', 0644, "y"}}, ERR_INVALID, "is there already"},
        {{{"f", 0, '0', 0644, "x"}, {"f", 0, '5', 0755, 0}}, ERR_INVALID, "is there already"},
        {{{"f", 0, '5', 0755, 0}, {"./f", "x", '2', 0777, 0}}, ERR_INVALID, "is there already"},
        {{{"f", "g", '1', 0644, 0}}, ERR_UNSUPPORTED, "is a hard link"},
        {{{"f", 0, '3', 0644, 0}}, ERR_UNSUPPORTED, "is of type 51"},
        {{{"f", 0, 'S', 0644, 0}}, ERR_UNSUPPORTED, "is of type 83"},
        {{{"./", 0, '0', 0644, 0}}, ERR_NONE, ""}, /* was a directory, once */
        {{{".", 0, '0', 0644, "x"}}, ERR_INVALID, "the root is a directory"},
        {{{"x", 0, 'x', 0644, "31 GNU.sparse.major=1234567890\n"}}, ERR_UNSUPPORTED, "sparse"},
        {{{"x", 0, 'x', 0644, "12 path=abcd"}}, ERR_INVALID, "extended header"},
        {{{"x", 0, 'x', 0644, "99 path=abc\n"}}, ERR_INVALID, "extended header"},
        {{{"x", 0, 'x', 0644, "0 path=abc\n"}}, ERR_INVALID, "extended header"},
        {{{"x", 0, 'x', 0644, "9 path=ab\n"}}, ERR_INVALID, "extended header"},
        {{{"x", 0, 'x', 0644, "11 size=9x\n"}}, ERR_INVALID, "a size in an extended"},
        {{{"x", 0, 'x', 0644, "23 size=99999999999999\n"}, {"f", 0, '0', 0644, "x"}},
         ERR_INVALID,
         "is cut off"},
        {{{"x", 0, 'g', 0644, "10 path=ab\n"}}, ERR_UNSUPPORTED, "global"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_buf_ struct buf tar = {0};
        struct dfs_index *ix = NULL;
        struct err e = {0};
        forge(bad[i].v, bad[i].v[1].name ? 2 : 1, &tar);
        int rc = index_of(buf_bytes(&tar), 100, &ix, &e);
        if (rc == 0) {
            dfs_index_free(ix);
        }
        if ((rc == 0) != (bad[i].code == ERR_NONE)) {
            fail_msg("case %zu: %s", i, rc ? e.msg : "taken");
        }
        if (rc) {
            assert_err(&e, bad[i].code, bad[i].part);
        }
    }
    _cleanup_buf_ struct buf deep = {0}, junk = {0};
    struct dfs_index *ix = NULL;
    struct err e = {0};
    char name[101];
    for (size_t i = 0; i < 100; i++) {
        name[i] = i % 2 ? '/' : 'd';
    }
    name[100] = 0;
    forge(&(struct forged){name, 0, '5', 0755, 0}, 1, &deep);
    assert_int_equal(index_of(buf_bytes(&deep), 100, &ix, &e), 0);
    assert_int_equal(dfs_index_n(ix), 51);
    dfs_index_free(ix);
    deep.p[5] ^= 1;
    assert_int_equal(index_of(buf_bytes(&deep), 100, &ix, &e), -1);
    assert_err(&e, ERR_INVALID, "byte 0 is not the start of a header");
    junk = BUF_INIT(4u << 20);
    assert_int_equal(buf_reserve(&junk, 2u << 20, NULL), 0);
    memset(junk.p, 0, 2u << 20);
    junk.n = 2u << 20;
    assert_int_equal(index_of(buf_bytes(&junk), 100, &ix, &e), -1);
    assert_err(&e, ERR_INVALID, "bytes follow its end");
}

/* ---- the cache ------------------------------------------------------------------------------ */

static void reads_everywhere(void **state)
{
    static const char *const ciphers[] = {"AES-256-GCM", "ChaCha20-Poly1305"};
    static const uint32_t chunks[] = {4096, 65536};
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 65536, 200000};
    uint64_t rnd = 42;

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(ciphers) * ARRAY_LEN(chunks) * ARRAY_LEN(sizes); k++) {
        _cleanup_sealed_ struct sealed s =
            seal_random(ciphers[k % 2], chunks[k / 2 % 2], sizes[k / 4]);
        const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
        _cleanup_(dfs_cache_freep) struct dfs_cache *c = NULL;
        _cleanup_(dfs_reader_done) struct dfs_reader r = {0};
        _cleanup_free_ uint8_t *out = xmalloc(s.n + 1);
        struct sealer **sealers = NULL;
        struct err e = {0};
        assert_int_equal(dfs_cache_new(&v, 1, 1, &c, &e), 0);
        assert_int_equal(dfs_sealers_new(&v, 1, &sealers, &e), 0);
        dfs_reader_init(&r, c, sealers);
        for (unsigned i = 0; i < 400 && s.n; i++) {
            uint64_t at = pseudo(&rnd) % s.n, part;
            size_t n = (size_t)(pseudo(&rnd) % (s.n - at)) + 1;
            n = i % 3 ? n % 5000 + 1 : n;
            n = n > s.n - at ? (size_t)(s.n - at) : n;
            if (dfs_read(&r, 0, out, n, at, &part, &e)) {
                fail_msg("%s", e.msg);
            }
            assert_memory_equal(out, s.plain + at, n);
        }
        dfs_sealers_free(sealers, 1);
    }
}

struct racer {
    struct dfs_reader r;
    const struct sealed *s;
    uint64_t seed;
    int wrong;
    pthread_t t;
};

static void *race(void *arg)
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

static void several_readers(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 1u << 20, 9u << 20);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_(dfs_cache_freep) struct dfs_cache *c = NULL;
    struct racer racers[4] = {0};
    struct sealer **sealers[4];

    (void)state;
    assert_int_equal(dfs_cache_new(&v, 1, 4, &c, NULL), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(dfs_sealers_new(&v, 1, &sealers[i], NULL), 0);
        dfs_reader_init(&racers[i].r, c, sealers[i]);
        racers[i].s = &s;
        racers[i].seed = i + 1;
        assert_int_equal(pthread_create(&racers[i].t, NULL, race, &racers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(racers[i].t, NULL);
        assert_int_equal(racers[i].wrong, 0);
        dfs_reader_done(&racers[i].r);
        dfs_sealers_free(sealers[i], 1);
    }
}

static void changed_chunk(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 40000);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_(dfs_cache_freep) struct dfs_cache *c = NULL;
    _cleanup_(dfs_reader_done) struct dfs_reader r = {0};
    struct sealer **sealers = NULL;
    struct err e = {0};
    uint8_t out[40000];

    (void)state;
    flip(&s, 3, 4096);
    assert_int_equal(dfs_cache_new(&v, 1, 1, &c, NULL), 0);
    assert_int_equal(dfs_sealers_new(&v, 1, &sealers, NULL), 0);
    dfs_reader_init(&r, c, sealers);
    assert_int_equal(dfs_read(&r, 0, out, 3 * 4096, 0, NULL, &e), 0);
    assert_int_equal(dfs_read(&r, 0, out, 4096, 3 * 4096, NULL, &e), -1);
    assert_err(&e, ERR_BAD_SIGNATURE, "sealed chunk 3: does not open");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(dfs_read(&r, 0, out, 1, 3 * 4096 + 7, NULL, &e), -1);
    }
    assert_int_equal(dfs_read(&r, 0, out, 40000, 0, NULL, &e), -1);
    assert_int_equal(dfs_read(&r, 0, out, 100, 4 * 4096 - 4, NULL, &e), -1);
    assert_int_equal(dfs_read(&r, 0, out, 10, 4 * 4096, NULL, &e), 0);
    assert_memory_equal(out, s.plain + 4 * 4096, 10);
    dfs_sealers_free(sealers, 1);
}

/* ---- with the kernel ------------------------------------------------------------------------ */

struct mounted {
    char *dir;
    struct dfs *d;
};

static void mounted_done(struct mounted *m)
{
    dfs_stop(m->d);
    drop_dir(&m->dir);
}
#define _cleanup_mounted_ _cleanup_(mounted_done)

static struct mounted mount_it(const struct dfs_dataset *v, size_t n)
{
    struct mounted m = {.dir = temp_dir()};
    struct dfs_fault fault;
    struct err e = {0};

    if (dfs_start(v, n, m.dir, NULL, &m.d, &fault, &e)) {
        fail_msg("%s", e.msg);
    }
    return m;
}

static int open_in(const struct mounted *m, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", m->dir, name);

    return open(path, O_RDONLY | O_CLOEXEC);
}

static void assert_well(const struct mounted *m)
{
    struct dfs_fault fault;
    struct err why = {0};

    if (dfs_failure(m->d, &fault, &why)) {
        fail_msg("%s", why.msg);
    }
}

static void mounted_file(void **state)
{
    (void)state;
    NEED_MOUNT();
    static const uint32_t chunks[] = {4096, 16384, 65536, 1u << 20};
    uint64_t rnd = 7;

    for (size_t k = 0; k < ARRAY_LEN(chunks); k++) {
        _cleanup_sealed_ struct sealed s =
            seal_random(k % 2 ? "ChaCha20-Poly1305" : "AES-256-GCM", chunks[k], 3000001);
        const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
        _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
        _cleanup_close_ int fd = open_in(&m, "0");
        _cleanup_free_ uint8_t *out = xmalloc(s.n);
        struct stat st;
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, s.n);
        assert_int_equal(st.st_mode, S_IFREG | 0444);
        for (unsigned i = 0; i < 600; i++) {
            uint64_t at = pseudo(&rnd) % s.n;
            size_t n = (size_t)(pseudo(&rnd) % (i % 50 ? 9000 : 400000)) + 1;
            n = n > s.n - at ? (size_t)(s.n - at) : n;
            assert_int_equal(pread(fd, out, n, (off_t)at), n);
            assert_memory_equal(out, s.plain + at, n);
        }
        assert_int_equal(pread(fd, out, s.n, 0), s.n);
        assert_memory_equal(out, s.plain, s.n);
        assert_int_equal(pread(fd, out, 10, (off_t)s.n), 0);
        uint8_t *map = mmap(NULL, s.n, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED);
        assert_memory_equal(map, s.plain, s.n);
        munmap(map, s.n);
        assert_well(&m);
    }
}

/* Nothing can be changed through it. */
static void read_only(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 100);
    const struct dfs_dataset v[] = {{s.reader, s.key}, {s.reader, s.key}};
    _cleanup_mounted_ struct mounted m = mount_it(v, 2);
    _cleanup_free_ char *path = xasprintf("%s/0", m.dir), *other = xasprintf("%s/new", m.dir);
    _cleanup_free_ char *none = xasprintf("%s/2", m.dir), *odd = xasprintf("%s/00", m.dir);
    struct statvfs vfs;
    struct stat st;

    assert_int_equal(open(path, O_RDWR | O_CLOEXEC), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(unlink(path), -1);
    assert_int_equal(mkdir(other, 0755), -1);
    assert_int_equal(chmod(path, 0777), -1);
    assert_int_equal(stat(none, &st), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(stat(odd, &st), -1);
    assert_int_equal(statvfs(m.dir, &vfs), 0);
    assert_true((vfs.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC)) ==
                (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC));
    DIR *d = opendir(m.dir);
    unsigned n = 0;
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    assert_int_equal(n, 4); /* ".", "..", "0", "1" */
}

static void mounted_tree(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_dir_ char *dir = make_tree();
    _cleanup_buf_ struct buf tar = {0};
    char command[300];

    for (unsigned i = 0; i < 1500; i++) { /* more than one answer of readdir holds */
        char name[40];
        snprintf(name, sizeof(name), "empty/entry-number-%u", i);
        put_file(dir, name, i, 0644);
    }
    tar_dir(dir, &tar);
    _cleanup_sealed_ struct sealed s = seal("tar", "AES-256-GCM", 4096, tar.p, tar.n);
    _cleanup_sealed_ struct sealed f = seal_random("AES-256-GCM", 4096, 100);
    const struct dfs_dataset v[] = {{f.reader, f.key}, {s.reader, s.key}};
    _cleanup_mounted_ struct mounted m = mount_it(v, 2);
    snprintf(command, sizeof(command), "diff -r --no-dereference %s %s/1", dir, m.dir);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "test $(ls %s/1/empty | wc -l) = 1500", m.dir);
    assert_int_equal(system(command), 0);
    assert_well(&m);
}

static void tampered_chunk_is_told(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 65536, 3u << 20);
    _cleanup_sealed_ struct sealed good = seal_random("AES-256-GCM", 4096, 100);
    flip(&s, 20, 65536);
    const struct dfs_dataset v[] = {{good.reader, good.key}, {s.reader, s.key}};
    _cleanup_mounted_ struct mounted m = mount_it(v, 2);
    _cleanup_close_ int fd = open_in(&m, "1");
    struct pollfd p = {.fd = dfs_fd(m.d), .events = POLLIN};
    struct dfs_fault fault;
    struct err why = {0};
    uint8_t out[4096];

    assert_int_equal(pread(fd, out, sizeof(out), 100), sizeof(out));
    assert_memory_equal(out, s.plain + 100, sizeof(out));
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(pread(fd, out, sizeof(out), 20 * 65536 + 9000), -1);
    assert_int_equal(errno, EIO);
    /* It is there before the reader knows. */
    assert_int_equal(dfs_failure(m.d, &fault, &why), 1);
    assert_int_equal(fault.dataset, 1);
    assert_true(fault.chunk);
    assert_err(&why, ERR_BAD_SIGNATURE, "sealed chunk 20: does not open");
}

static void truncated_later(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 1u << 20);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
    _cleanup_close_ int fd = open_in(&m, "0");
    struct dfs_fault fault;
    struct err why = {0};
    uint8_t out[100];

    assert_int_equal(ftruncate(s.fd, 500000), 0);
    assert_int_equal(pread(fd, out, sizeof(out), 1000000), -1);
    assert_int_equal(dfs_failure(m.d, &fault, &why), 1);
    assert_err(&why, ERR_INVALID, "is cut off inside chunk");
}

static void bad_streams(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_dir_ char *dir = temp_dir();
    static const struct forged hard = {"f", "g", '1', 0644, 0};
    _cleanup_buf_ struct buf tar = {0};
    struct dfs *d = NULL;
    struct dfs_fault fault;
    struct err e = {0};

    forge(&hard, 1, &tar);
    _cleanup_sealed_ struct sealed s = seal("tar", "AES-256-GCM", 4096, tar.p, tar.n);
    const struct dfs_dataset v[] = {{s.reader, s.key}};
    assert_int_equal(dfs_start(v, 1, dir, NULL, &d, &fault, &e), -1);
    assert_int_equal(fault.dataset, 0);
    assert_false(fault.chunk);
    assert_err(&e, ERR_UNSUPPORTED, "is a hard link");

    _cleanup_dir_ char *tree = make_tree();
    _cleanup_buf_ struct buf good = {0};
    tar_dir(tree, &good);
    _cleanup_sealed_ struct sealed t = seal("tar", "AES-256-GCM", 4096, good.p, good.n);
    flip(&t, 0, 4096);
    const struct dfs_dataset w[] = {{t.reader, t.key}};
    assert_int_equal(dfs_start(w, 1, dir, NULL, &d, &fault, &e), -1);
    assert_true(fault.chunk);
    assert_err(&e, ERR_BAD_SIGNATURE, "sealed chunk 0: does not open");
    assert_int_equal(dfs_start(w, 0, "/nowhere/at/all", NULL, &d, &fault, &e), -1);
    assert_int_equal(fault.dataset, SIZE_MAX);
    assert_err(&e, ERR_UNSUPPORTED, "FUSE cannot be used here: mount: No such file");
}

/* The process ends: whoever waits gets an error, and the runner hears of it. */
static void process_dies(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 1u << 20);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
    _cleanup_close_ int fd = open_in(&m, "0");
    struct pollfd p = {.fd = dfs_fd(m.d), .events = POLLIN};
    struct dfs_fault fault;
    struct err why = {0};
    char children[64] = {0}, path[64];
    uint8_t out[16];

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
    _cleanup_close_ int list = open(path, O_RDONLY | O_CLOEXEC);
    if (list < 0 || read(list, children, sizeof(children) - 1) <= 0) {
        skip();
    }
    assert_int_equal(kill((pid_t)atoi(children), SIGKILL), 0);
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(dfs_failure(m.d, &fault, &why), 1);
    assert_int_equal(fault.dataset, SIZE_MAX);
    assert_string_equal(why.clause, "worker.decryptfs");
    assert_int_equal(pread(fd, out, sizeof(out), 500000), -1);
}

/* No capability, a system call filter, no core dump, nothing open but what it needs. */
static void process_has_no_rights(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 100000);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_close_ int leak = open("/etc/hostname", O_RDONLY);
    _cleanup_mounted_ struct mounted m = mount_it(&v, 1);
    char children[64] = {0}, path[64], text[4096] = {0};

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
    _cleanup_close_ int list = open(path, O_RDONLY | O_CLOEXEC);
    if (list < 0 || read(list, children, sizeof(children) - 1) <= 0) {
        skip();
    }
    /* It has answered, so its threads run; the filter comes right after they are started. */
    for (int i = 0; i < 50 && !strstr(text, "Seccomp:\t2"); i++) {
        usleep(20000);
        snprintf(path, sizeof(path), "/proc/%d/status", atoi(children));
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        memset(text, 0, sizeof(text));
        assert_true(read(fd, text, sizeof(text) - 1) > 0);
#ifdef COFFER_SANITIZED
        break;
#endif
    }
#ifndef COFFER_SANITIZED
    assert_non_null(strstr(text, "Seccomp:\t2"));
#endif
    assert_non_null(strstr(text, "NoNewPrivs:\t1"));
    assert_non_null(strstr(text, "CapEff:\t0000000000000000"));
    assert_non_null(strstr(text, "CapPrm:\t0000000000000000"));
    snprintf(path, sizeof(path), "/proc/%d/fd", atoi(children));
    DIR *d = opendir(path);
    unsigned n = 0;
    while (d && readdir(d)) {
        n++;
    }
    closedir(d);
    assert_int_equal(n, 2 + 3 + 3); /* ".", "..", three times /dev/null, ciphertext, device, pipe */
    _cleanup_close_ int fd = open_in(&m, "0");
    _cleanup_free_ uint8_t *out = xmalloc(s.n);
    assert_int_equal(pread(fd, out, s.n, 0), s.n);
    assert_memory_equal(out, s.plain, s.n);
}

static void nothing_left(void **state)
{
    (void)state;
    NEED_MOUNT();
    _cleanup_dir_ char *dir = temp_dir();
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 1000);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    struct stat before, after;

    assert_int_equal(stat(dir, &before), 0);
    for (int i = 0; i < 20; i++) {
        struct dfs *d = NULL;
        struct dfs_fault fault;
        struct err e = {0};
        assert_int_equal(dfs_start(&v, 1, dir, NULL, &d, &fault, &e), 0);
        assert_int_equal(stat(dir, &after), 0);
        assert_true(before.st_dev != after.st_dev);
        dfs_stop(d);
        assert_int_equal(stat(dir, &after), 0);
        assert_true(before.st_dev == after.st_dev);
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index_like_the_tree),
        cmocka_unit_test(many_names),
        cmocka_unit_test(refusals),
        cmocka_unit_test(reads_everywhere),
        cmocka_unit_test(several_readers),
        cmocka_unit_test(changed_chunk),
        cmocka_unit_test(mounted_file),
        cmocka_unit_test(read_only),
        cmocka_unit_test(mounted_tree),
        cmocka_unit_test(tampered_chunk_is_told),
        cmocka_unit_test(truncated_later),
        cmocka_unit_test(bad_streams),
        cmocka_unit_test(process_dies),
        cmocka_unit_test(process_has_no_rights),
        cmocka_unit_test(nothing_left),
    };

    alarm(100);
    can_mount = dfs_available() && unshare(CLONE_NEWNS) == 0 &&
                mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    if (!can_mount) {
        fputs("nothing is mounted: no FUSE device, or not root\n", stderr);
    }
    if (jkey_generate(&owner, NULL)) {
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    jkey_free(owner);
    return rc;
}
