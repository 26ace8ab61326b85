#include "common/seal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define CHUNK 4096u
#define SEALED_CHUNK (CHUNK + SEAL_TAG_BYTES)

static struct jkey *owner;

/* A sealed file in memory, with what is needed to open and to damage it. */
struct sealed {
    int fd;
    struct secret *key;
    size_t prefix_bytes, n;
    uint8_t *plain;
    size_t plain_n;
};

static int memfd_with(const void *p, size_t n)
{
    int fd = memfd_create("seal_test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, n, 0), n);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static size_t fd_size(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (size_t)st.st_size;
}

static struct sealed seal_bytes(const char *cipher, size_t plain_n)
{
    struct sealed s = {.plain = xmalloc(plain_n), .plain_n = plain_n};
    _cleanup_buf_ struct buf prefix = {0};
    uint64_t total = 0;
    struct err e = {0};

    for (size_t i = 0; i < plain_n; i++) {
        s.plain[i] = (uint8_t)(i * 7 + i / CHUNK);
    }
    if (seal_dataset_header_new("data-1", "file", cipher, CHUNK, owner, &prefix, &s.key, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    _cleanup_close_ int in = memfd_with(s.plain, plain_n);
    s.fd = memfd_create("sealed", MFD_CLOEXEC);
    assert_int_equal(seal_fd(&prefix, s.key, in, s.fd, &total, &e), 0);
    assert_int_equal(total, plain_n);
    s.prefix_bytes = prefix.n;
    s.n = fd_size(s.fd);
    return s;
}

static void sealed_done(struct sealed *s)
{
    close(s->fd);
    secret_free(s->key);
    free(s->plain);
}
#define _cleanup_sealed_ _cleanup_(sealed_done)

static int opens(struct sealed *s, struct err *e)
{
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    _cleanup_close_ int out = memfd_create("out", MFD_CLOEXEC);

    err_clear(e);
    if (seal_reader_open(s->fd, s->key, &r, e) < 0 || unseal_fd(r, out, e) < 0) {
        return -1;
    }
    assert_int_equal(fd_size(out), s->plain_n);
    _cleanup_free_ uint8_t *got = xmalloc(s->plain_n);
    assert_int_equal(pread(out, got, s->plain_n, 0), s->plain_n);
    assert_memory_equal(got, s->plain, s->plain_n);
    return 0;
}

static void assert_refused(struct sealed *s, enum err_code code, const char *part)
{
    struct err e;

    assert_int_equal(opens(s, &e), -1);
    if (e.code != code || !strstr(e.msg, part)) {
        fail_msg("expected %s with \"%s\", got %s: %s", err_code_name(code), part,
                 err_code_name(e.code), e.msg);
    }
}

static void flip(struct sealed *s, size_t at)
{
    uint8_t b;

    assert_int_equal(pread(s->fd, &b, 1, (off_t)at), 1);
    b ^= 1;
    assert_int_equal(pwrite(s->fd, &b, 1, (off_t)at), 1);
}

static int setup(void **state)
{
    (void)state;
    return jkey_generate(&owner, NULL);
}

static int teardown(void **state)
{
    (void)state;
    jkey_free(owner);
    return 0;
}

static void round_trip(void **state)
{
    static const size_t sizes[] = {0,         1,         CHUNK - 1,     CHUNK,
                                   CHUNK + 1, 2 * CHUNK, 9 * CHUNK + 5, 64 * CHUNK};
    static const char *const ciphers[] = {"AES-256-GCM", "ChaCha20-Poly1305"};

    (void)state;
    for (size_t c = 0; c < ARRAY_LEN(ciphers); c++) {
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            _cleanup_sealed_ struct sealed s = seal_bytes(ciphers[c], sizes[i]);
            size_t chunks = sizes[i] ? (sizes[i] + CHUNK - 1) / CHUNK : 1;
            struct err e;
            assert_int_equal(s.n, s.prefix_bytes + sizes[i] + chunks * SEAL_TAG_BYTES);
            if (opens(&s, &e) < 0) {
                fail_msg("%s of %zu bytes: %s", ciphers[c], sizes[i], e.msg);
            }
        }
    }
}

static void header_members(void **state)
{
    _cleanup_buf_ struct buf prefix = {0};
    _cleanup_secret_ struct secret *key = NULL, *opened = NULL;
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_jkey_ struct jkey *other = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(seal_dataset_header_new("trial-7", "tar", "ChaCha20-Poly1305", 65536, owner,
                                             &prefix, &key, &e),
                     0);
    assert_int_equal(buf_add(&prefix, "more", 4, NULL), 0);
    assert_int_equal(seal_header_parse(buf_bytes(&prefix), &h, &e), 0);
    assert_string_equal(h.kind, "dataset");
    assert_string_equal(h.cipher, "ChaCha20-Poly1305");
    assert_string_equal(h.name, "trial-7");
    assert_string_equal(h.form, "tar");
    assert_int_equal(h.chunk_bytes, 65536);
    assert_int_equal(h.prefix_bytes, prefix.n - 4);
    assert_string_equal(jkey_thumbprint(h.owner), jkey_thumbprint(owner));
    assert_memory_equal(h.id, "trial-7.", 8);
    assert_int_equal(strlen(h.id), 8 + 26);
    assert_int_equal(strspn(h.id + 8, "abcdefghijklmnopqrstuvwxyz234567"), 26);

    assert_int_equal(seal_header_open_key(&h, owner, &opened, &e), 0);
    assert_true(secret_eq(opened, key));
    secret_free(TAKE_PTR(opened));
    assert_int_equal(jkey_generate(&other, &e), 0);
    assert_int_equal(seal_header_open_key(&h, other, &opened, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_non_null(strstr(e.msg, "seal header.owner"));
    assert_string_equal(e.expected, jkey_thumbprint(owner));
}

static void result_header(void **state)
{
    _cleanup_buf_ struct buf prefix = {0};
    _cleanup_secret_ struct secret *key = NULL, *opened = NULL;
    _cleanup_(seal_header_done) struct seal_header h = {0};
    struct err e = {0};

    (void)state;
    assert_int_equal(seal_result_header_new(&prefix, &key, &e), 0);
    assert_int_equal(seal_header_parse(buf_bytes(&prefix), &h, &e), 0);
    assert_string_equal(h.kind, "result");
    assert_string_equal(h.id, "");
    assert_null(h.owner);
    assert_int_equal(h.chunk_bytes, SEAL_CHUNK_DEFAULT_BYTES);
    assert_int_equal(seal_header_open_key(&h, owner, &opened, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "carries no key"));
}

static void two_headers_differ(void **state)
{
    _cleanup_sealed_ struct sealed a = seal_bytes("AES-256-GCM", 10);
    _cleanup_sealed_ struct sealed b = seal_bytes("AES-256-GCM", 10);

    (void)state;
    assert_false(secret_eq(a.key, b.key));
}

/* Replaces the header text, keeping length and magic right. */
static int parse_text(const char *text, struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_buf_ struct buf b = BUF_INIT(65536);
    size_t n = strlen(text);
    uint8_t be[4] = {0, 0, (uint8_t)(n >> 8), (uint8_t)n};

    assert_int_equal(buf_add(&b, "COFFER1\n", 8, NULL), 0);
    assert_int_equal(buf_add(&b, be, 4, NULL), 0);
    assert_int_equal(buf_add(&b, text, n, NULL), 0);
    err_clear(e);
    return seal_header_parse(buf_bytes(&b), &h, e);
}

static void header_refusals(void **state)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{\"chunk_bytes\":4096,\"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"v\":2}", ".v"},
        {"{\"chunk_bytes\":4096,\"cipher\":\"AES-256-GCM\",\"kind\":\"thing\",\"v\":1}", ".kind"},
        {"{\"chunk_bytes\":4096,\"cipher\":\"ROT13\",\"kind\":\"result\",\"v\":1}", ".cipher"},
        {"{\"chunk_bytes\":4095,\"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"v\":1}",
         ".chunk_bytes"},
        {"{\"chunk_bytes\":2048,\"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"v\":1}",
         ".chunk_bytes"},
        {"{\"chunk_bytes\":2097152,\"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"v\":1}",
         ".chunk_bytes"},
        {"{\"chunk_bytes\":4096,\"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"name\":\"x\","
         "\"v\":"
         "1}",
         "name"},
        {"{\"chunk_bytes\":4096,\"cipher\":\"AES-256-GCM\",\"kind\":\"dataset\",\"v\":1}", "name"},
        {"{\"chunk_bytes\":4096, \"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"v\":1}",
         "canonical"},
        {"[]", "object"},
        {"{", "seal header"},
    };
    struct err e;

    (void)state;
    assert_int_equal(
        parse_text("{\"chunk_bytes\":4096,\"cipher\":\"AES-256-GCM\",\"kind\":\"result\",\"v\":1}",
                   &e),
        0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(parse_text(cases[i].text, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.msg, cases[i].part)) {
            fail_msg("case %zu: expected \"%s\" in \"%s\"", i, cases[i].part, e.msg);
        }
    }
}

static void names_refused(void **state)
{
    static const char *const names[] = {
        "", "Upper", "a/b", "a.b",
        "0123456789012345678901234567890123456789012345678901234567890123"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct buf prefix = {0};
        struct secret *key = NULL;
        struct err e = {0};
        assert_int_equal(seal_dataset_header_new(names[i], "file", "AES-256-GCM", CHUNK, owner,
                                                 &prefix, &key, &e),
                         -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_non_null(strstr(e.msg, "seal header.name"));
        assert_null(key);
    }
}

static void prefix_damage(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 3 * CHUNK);
    struct err e;

    (void)state;
    flip(&s, 0);
    assert_refused(&s, ERR_INVALID, "seal magic");
    flip(&s, 0);
    flip(&s, 8); /* adds 16 MiB to the length */
    assert_refused(&s, ERR_TOO_LARGE, "seal header_bytes");
    flip(&s, 8);
    flip(&s, 11);
    assert_int_equal(opens(&s, &e), -1);
    flip(&s, 11);
    /* Whatever bit of the header changes, nothing opens. */
    for (size_t at = 12; at < s.prefix_bytes; at++) {
        flip(&s, at);
        assert_int_equal(opens(&s, &e), -1);
        assert_true(e.code == ERR_INVALID || e.code == ERR_BAD_SIGNATURE ||
                    e.code == ERR_TOO_LARGE);
        flip(&s, at);
    }
    assert_int_equal(opens(&s, &e), 0);
}

static void chunk_damage(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("ChaCha20-Poly1305", 4 * CHUNK + 9);
    struct err e;

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        size_t start = s.prefix_bytes + i * SEALED_CHUNK;
        size_t plain = i < 4 ? CHUNK : 9;
        char part[32];
        snprintf(part, sizeof(part), "sealed chunk %u", i);
        flip(&s, start);
        assert_refused(&s, ERR_BAD_SIGNATURE, part);
        flip(&s, start);
        flip(&s, start + plain); /* the tag */
        assert_refused(&s, ERR_BAD_SIGNATURE, part);
        flip(&s, start + plain);
        flip(&s, start + plain + SEAL_TAG_BYTES - 1);
        assert_refused(&s, ERR_BAD_SIGNATURE, part);
        flip(&s, start + plain + SEAL_TAG_BYTES - 1);
    }
    assert_int_equal(opens(&s, &e), 0);
}

static void truncation(void **state)
{
    (void)state;
    for (unsigned keep = 1; keep < 5; keep++) {
        _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 5 * CHUNK);
        char part[80];
        snprintf(part, sizeof(part), "sealed chunk %u: is not the last one", keep - 1);
        assert_int_equal(ftruncate(s.fd, (off_t)(s.prefix_bytes + keep * SEALED_CHUNK)), 0);
        assert_refused(&s, ERR_BAD_SIGNATURE, part);
        snprintf(part, sizeof(part), "sealed chunk %u (last)", keep - 1);
        assert_int_equal(ftruncate(s.fd, (off_t)(s.prefix_bytes + keep * SEALED_CHUNK - 100)), 0);
        assert_refused(&s, ERR_BAD_SIGNATURE, part);
        snprintf(part, sizeof(part), "cut off inside chunk %u", keep - 1);
        assert_int_equal(ftruncate(s.fd, (off_t)(s.prefix_bytes + (keep - 1) * SEALED_CHUNK + 15)),
                         0);
        assert_refused(&s, ERR_INVALID, part);
    }
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 0);
    assert_int_equal(ftruncate(s.fd, (off_t)s.prefix_bytes), 0);
    assert_refused(&s, ERR_INVALID, "cut off before chunk 0");
    assert_int_equal(ftruncate(s.fd, (off_t)s.prefix_bytes - 1), 0);
    assert_refused(&s, ERR_INVALID, "seal header_bytes");
    assert_int_equal(ftruncate(s.fd, 5), 0);
    assert_refused(&s, ERR_INVALID, "seal magic");
}

static void chunks_moved(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 3 * CHUNK);
    _cleanup_sealed_ struct sealed other = seal_bytes("AES-256-GCM", 3 * CHUNK);
    _cleanup_free_ uint8_t *a = xmalloc(SEALED_CHUNK), *b = xmalloc(SEALED_CHUNK);
    off_t at0 = (off_t)s.prefix_bytes, at1 = at0 + SEALED_CHUNK;
    struct err e;

    (void)state;
    assert_int_equal(pread(s.fd, a, SEALED_CHUNK, at0), SEALED_CHUNK);
    assert_int_equal(pread(s.fd, b, SEALED_CHUNK, at1), SEALED_CHUNK);
    assert_int_equal(pwrite(s.fd, b, SEALED_CHUNK, at0), SEALED_CHUNK);
    assert_int_equal(pwrite(s.fd, a, SEALED_CHUNK, at1), SEALED_CHUNK);
    assert_refused(&s, ERR_BAD_SIGNATURE, "sealed chunk 0");
    assert_int_equal(pwrite(s.fd, a, SEALED_CHUNK, at0), SEALED_CHUNK);
    assert_refused(&s, ERR_BAD_SIGNATURE, "sealed chunk 1");
    /* The same owner, the same contents, another file. */
    assert_int_equal(pread(other.fd, b, SEALED_CHUNK, (off_t)other.prefix_bytes + SEALED_CHUNK),
                     SEALED_CHUNK);
    assert_int_equal(pwrite(s.fd, b, SEALED_CHUNK, at1), SEALED_CHUNK);
    assert_refused(&s, ERR_BAD_SIGNATURE, "sealed chunk 1");
    /* Another file's key opens nothing. */
    struct secret *own = s.key;
    s.key = other.key;
    assert_int_equal(opens(&s, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    s.key = own;
}

static void chunk_appended(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 2 * CHUNK);
    _cleanup_free_ uint8_t *a = xmalloc(SEALED_CHUNK);

    (void)state;
    assert_int_equal(pread(s.fd, a, SEALED_CHUNK, (off_t)(s.n - SEALED_CHUNK)), SEALED_CHUNK);
    assert_int_equal(pwrite(s.fd, a, SEALED_CHUNK, (off_t)s.n), SEALED_CHUNK);
    assert_refused(&s, ERR_BAD_SIGNATURE, "sealed chunk 2 (last)");
    assert_int_equal(ftruncate(s.fd, (off_t)s.n + 1), 0);
    assert_refused(&s, ERR_INVALID, "cut off inside chunk 2");
}

static void key_of_wrong_size(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 5);
    struct secret *own = s.key;

    (void)state;
    s.key = secret_random(16);
    assert_refused(&s, ERR_INVALID, "seal key: expected 32 bytes, got 16");
    secret_free(s.key);
    s.key = own;
}

static void random_access(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 37 * CHUNK + 123);
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    _cleanup_free_ uint8_t *out = xmalloc(5 * CHUNK);
    unsigned seed = 42;
    struct err e = {0};
    size_t n;

    (void)state;
    assert_int_equal(seal_reader_open(s.fd, s.key, &r, &e), 0);
    assert_int_equal(seal_reader_size(r), s.plain_n);
    assert_string_equal(seal_reader_header(r)->name, "data-1");
    for (int i = 0; i < 2000; i++) {
        size_t at = (size_t)rand_r(&seed) % (s.plain_n + 100);
        size_t want = (size_t)rand_r(&seed) % (5 * CHUNK);
        size_t expect = at >= s.plain_n ? 0 : s.plain_n - at < want ? s.plain_n - at : want;
        assert_int_equal(seal_reader_pread(r, out, want, at, &n, &e), 0);
        assert_int_equal(n, expect);
        if (n) {
            assert_memory_equal(out, s.plain + at, n);
        }
    }
    assert_int_equal(seal_reader_pread(r, out, 10, UINT64_MAX, &n, &e), 0);
    assert_int_equal(n, 0);
    /* Damage behind an open reader's back is found when it gets there, and only there. */
    flip(&s, s.prefix_bytes + 3 * SEALED_CHUNK);
    assert_int_equal(seal_reader_pread(r, out, CHUNK, 2 * CHUNK, &n, &e), 0);
    assert_int_equal(seal_reader_pread(r, out, CHUNK, 3 * CHUNK, &n, &e), -1);
    assert_non_null(strstr(e.msg, "sealed chunk 3"));
}

/* More chunks than are read with one call, in place; a changed one among them is found. */
static void many_chunks(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 150 * CHUNK + 1);
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    _cleanup_(sealer_freep) struct sealer *own = NULL;
    _cleanup_free_ uint8_t *out = xmalloc(151 * CHUNK);
    struct err e = {0};
    size_t n = 0;

    (void)state;
    assert_int_equal(seal_reader_open(s.fd, s.key, &r, &e), 0);
    assert_int_equal(sealer_new(seal_reader_header(r), s.key, &own, &e), 0);
    for (uint64_t first = 0; first < 151; first += 25) {
        assert_int_equal(seal_reader_open_chunks(r, own, first, 200, out, &n, &e), 0);
        assert_int_equal(n, (150 - first) * CHUNK + 1);
        assert_memory_equal(out, s.plain + first * CHUNK, n);
    }
    for (uint64_t i = 3; i < 151; i += 49) {
        char text[40];
        flip(&s, s.prefix_bytes + i * SEALED_CHUNK);
        memset(out, 0, 151 * CHUNK);
        assert_int_equal(seal_reader_open_chunks(r, own, 0, 151, out, &n, &e), -1);
        assert_int_equal(e.code, ERR_BAD_SIGNATURE);
        snprintf(text, sizeof(text), "sealed chunk %llu%s: does not open", (unsigned long long)i,
                 i == 150 ? " (last)" : "");
        assert_non_null(strstr(e.msg, text));
        assert_memory_not_equal(out + i * CHUNK, s.plain + i * CHUNK, i == 150 ? 1 : CHUNK);
        flip(&s, s.prefix_bytes + i * SEALED_CHUNK);
    }
    assert_int_equal(ftruncate(s.fd, (off_t)(s.prefix_bytes + 100 * SEALED_CHUNK + 7)), 0);
    assert_int_equal(seal_reader_open_chunks(r, own, 0, 151, out, &n, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "is cut off inside chunk 100"));
}

/* A disk is longer than the file on it. */
static void sized(void **state)
{
    _cleanup_sealed_ struct sealed s = seal_bytes("AES-256-GCM", 3 * CHUNK + 9);
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    _cleanup_(sealer_freep) struct sealer *own = NULL;
    _cleanup_free_ uint8_t *out = xmalloc(4 * CHUNK);
    struct err e = {0};
    size_t n = 0;

    (void)state;
    assert_int_equal(ftruncate(s.fd, (off_t)(s.n + 511)), 0);
    assert_int_equal(seal_reader_open(s.fd, s.key, &r, &e), -1);
    if (seal_reader_open_sized(s.fd, s.n, s.key, &r, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(seal_reader_size(r), s.plain_n);
    assert_int_equal(sealer_new(seal_reader_header(r), s.key, &own, &e), 0);
    assert_int_equal(seal_reader_open_chunks(r, own, 1, 4, out, &n, &e), 0);
    assert_int_equal(n, 2 * CHUNK + 9);
    assert_memory_equal(out, s.plain + CHUNK, n);
    assert_int_equal(seal_reader_open_chunks(r, own, 4, 1, out, &n, &e), 0);
    assert_int_equal(n, 0);
    flip(&s, s.prefix_bytes + 2 * SEALED_CHUNK);
    assert_int_equal(seal_reader_open_chunks(r, own, 0, 2, out, &n, &e), 0);
    assert_int_equal(seal_reader_open_chunks(r, own, 0, 3, out, &n, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);

    static const uint64_t wrong[] = {0, 5, 100, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct seal_reader *none = NULL;
        assert_int_equal(seal_reader_open_sized(s.fd, wrong[i], s.key, &none, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    struct seal_reader *none = NULL;
    assert_int_equal(seal_reader_open_sized(s.fd, s.n - 1, s.key, &none, &e), -1);
    assert_int_equal(seal_reader_open_sized(s.fd, s.n + 1, s.key, &none, &e), -1);
}

static void sealer_sizes(void **state)
{
    _cleanup_buf_ struct buf prefix = {0};
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_(sealer_freep) struct sealer *s = NULL;
    uint8_t out[64];
    struct err e = {0};

    (void)state;
    assert_int_equal(seal_result_header_new(&prefix, &key, &e), 0);
    assert_int_equal(seal_header_parse(buf_bytes(&prefix), &h, &e), 0);
    assert_int_equal(sealer_new(&h, key, &s, &e), 0);
    assert_int_equal(sealer_seal(s, 7, 0, BYTES("abc", 3), out, &e), -1);
    assert_non_null(strstr(e.msg, "sealed chunk 7: expected 65536 plain bytes, got 3"));
    assert_int_equal(sealer_open(s, 7, 1, BYTES("abc", 3), out, &e), -1);
    assert_non_null(strstr(e.msg, "sealed chunk 7: expected at least 16 bytes, got 3"));
    assert_int_equal(sealer_seal(s, 7, 1, BYTES("abc", 3), out, &e), 0);
    uint8_t back[3];
    assert_int_equal(sealer_open(s, 7, 1, BYTES(out, 19), back, &e), 0);
    assert_memory_equal(back, "abc", 3);
    assert_int_equal(sealer_open(s, 8, 1, BYTES(out, 19), back, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_memory_equal(back, "\0\0\0", 3); /* unauthentic bytes are wiped */
}

/* 64 MiB of zeros through both directions must not add to the process what it copies. */
static void constant_memory(void **state)
{
    _cleanup_buf_ struct buf prefix = {0};
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    char sealed_path[] = "/tmp/seal_test.XXXXXX", plain_path[] = "/tmp/seal_test.XXXXXX";
    _cleanup_close_ int out = mkstemp(sealed_path), in = mkstemp(plain_path);
    _cleanup_close_ int null = open("/dev/null", O_WRONLY);
    struct rusage before, after;
    struct err e = {0};
    uint64_t n = 0;

    (void)state;
    assert_true(out >= 0 && in >= 0 && null >= 0);
    unlink(sealed_path);
    unlink(plain_path);
    assert_int_equal(ftruncate(in, 64 << 20), 0);
    assert_int_equal(seal_result_header_new(&prefix, &key, &e), 0);
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(seal_fd(&prefix, key, in, out, &n, &e), 0);
    assert_int_equal(n, 64 << 20);
    assert_int_equal(seal_reader_open(out, key, &r, &e), 0);
    assert_int_equal(unseal_fd(r, null, &e), 0);
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 16 << 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),      cmocka_unit_test(header_members),
        cmocka_unit_test(result_header),   cmocka_unit_test(two_headers_differ),
        cmocka_unit_test(header_refusals), cmocka_unit_test(names_refused),
        cmocka_unit_test(prefix_damage),   cmocka_unit_test(chunk_damage),
        cmocka_unit_test(truncation),      cmocka_unit_test(chunks_moved),
        cmocka_unit_test(chunk_appended),  cmocka_unit_test(key_of_wrong_size),
        cmocka_unit_test(random_access),   cmocka_unit_test(sealer_sizes),
        cmocka_unit_test(constant_memory), cmocka_unit_test(many_chunks),
        cmocka_unit_test(sized),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
