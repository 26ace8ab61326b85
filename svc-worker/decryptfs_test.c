/* DecryptFS without the kernel: the index and the cache. */
#include "svc-worker/decryptfs_testing.h"

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

static void reads_everywhere(void **state)
{
    static const char *const ciphers[] = {"AES-256-GCM", "ChaCha20-Poly1305"};
    static const uint32_t chunks[] = {4096, 65536};
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 65536, 200000, 600001};
    uint64_t rnd = 42;

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(ciphers) * ARRAY_LEN(chunks) * ARRAY_LEN(sizes); k++) {
        _cleanup_sealed_ struct sealed s =
            seal_random(ciphers[k % 2], chunks[k / 2 % 2], sizes[k / 4]);
        const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
        _cleanup_(dfs_cache_freep) struct dfs_cache *c = NULL;
        struct dfs_reader r = {0};
        _cleanup_free_ uint8_t *out = xmalloc(s.n + 1);
        struct sealer **sealers = NULL;
        struct err e = {0};
        assert_int_equal(dfs_cache_new(&v, 1, 1, &c, &e), 0);
        assert_int_equal(dfs_sealers_new(&v, 1, &sealers, &e), 0);
        r = (struct dfs_reader){.cache = c, .sealers = sealers};
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
        racers[i].r = (struct dfs_reader){.cache = c, .sealers = sealers[i]};
        racers[i].s = &s;
        racers[i].seed = i + 1;
        assert_int_equal(pthread_create(&racers[i].t, NULL, race, &racers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(racers[i].t, NULL);
        assert_int_equal(racers[i].wrong, 0);
        dfs_sealers_free(sealers[i], 1);
    }
}

static void changed_chunk(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_random("AES-256-GCM", 4096, 40000);
    const struct dfs_dataset v = {.reader = s.reader, .key = s.key};
    _cleanup_(dfs_cache_freep) struct dfs_cache *c = NULL;
    struct dfs_reader r = {0};
    struct sealer **sealers = NULL;
    struct err e = {0};
    uint8_t out[40000];

    (void)state;
    flip(&s, 3, 4096);
    assert_int_equal(dfs_cache_new(&v, 1, 1, &c, NULL), 0);
    assert_int_equal(dfs_sealers_new(&v, 1, &sealers, NULL), 0);
    r = (struct dfs_reader){.cache = c, .sealers = sealers};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index_like_the_tree),
        cmocka_unit_test(many_names),
        cmocka_unit_test(refusals),
        cmocka_unit_test(reads_everywhere),
        cmocka_unit_test(several_readers),
        cmocka_unit_test(changed_chunk),
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
