/* The sealed stream against the bare ciphers of OpenSSL, in the same run. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <openssl/evp.h>
#include <signal.h>
#include <sys/wait.h>

#include "bench/bench.h"
#include "common/seal.h"

#define CHUNK SEAL_CHUNK_DEFAULT_BYTES
#define FD_BYTES_DEFAULT (1ull << 30)
#define MEMORY_MAX_BYTES (64u << 20)

static const char *const ciphers[] = {"AES-256-GCM", "ChaCha20-Poly1305"};

struct sealing {
    struct buf prefix;
    struct secret *key;
    struct seal_header header;
    struct sealer *sealer;
    uint8_t *plain, *sealed;
};

static void stream_open(struct sealing *s, const char *cipher, const struct jkey *owner)
{
    *s = (struct sealing){.prefix = BUF_INIT(1u << 16)};
    MUST(seal_dataset_header_new("bench", "file", cipher, CHUNK, owner, &s->prefix, &s->key, e));
    MUST(seal_header_parse(buf_bytes(&s->prefix), &s->header, e));
    MUST(sealer_new(&s->header, s->key, &s->sealer, e));
    s->plain = xcalloc(1, CHUNK);
    s->sealed = xcalloc(1, CHUNK + SEAL_TAG_BYTES);
}

static void stream_close(struct sealing *s)
{
    sealer_free(s->sealer);
    seal_header_done(&s->header);
    secret_free(s->key);
    buf_done(&s->prefix);
    free(s->plain);
    free(s->sealed);
}

/* ---- chunks in memory, in MB of plaintext for each second of CPU -------------------------------
 */

static double bare(const char *cipher, int encrypt, size_t chunks, uint8_t *in, uint8_t *out)
{
    uint8_t key[32] = {1}, iv[12] = {0}, tag[16];
    EVP_CIPHER *c = EVP_CIPHER_fetch(NULL, cipher, NULL);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n;

    if (!c || !ctx || EVP_CipherInit_ex2(ctx, c, key, iv, encrypt, NULL) != 1) {
        bench_fail(cipher, "OpenSSL refused");
    }
    double at = thread_cpu_s();
    for (size_t i = 0; i < chunks; i++) {
        memcpy(iv, &i, sizeof(i));
        EVP_CipherInit_ex2(ctx, NULL, NULL, iv, encrypt, NULL);
        EVP_CipherUpdate(ctx, out, &n, in, (int)CHUNK);
        if (encrypt) {
            EVP_CipherFinal_ex(ctx, out + n, &n);
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag);
        } else {
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag);
            (void)EVP_CipherFinal_ex(ctx, out + n, &n); /* compares, which is what it costs */
        }
    }
    double took = thread_cpu_s() - at;
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(c);
    return (double)chunks * CHUNK / 1e6 / took;
}

static double seal_chunks(struct sealing *s, size_t chunks)
{
    double at = thread_cpu_s();

    for (size_t i = 0; i < chunks; i++) {
        MUST(sealer_seal(s->sealer, i, 0, BYTES(s->plain, CHUNK), s->sealed, e));
    }
    return (double)chunks * CHUNK / 1e6 / (thread_cpu_s() - at);
}

static double open_chunks(struct sealing *s, size_t chunks)
{
    MUST(sealer_seal(s->sealer, 7, 0, BYTES(s->plain, CHUNK), s->sealed, e));
    double at = thread_cpu_s();
    for (size_t i = 0; i < chunks; i++) {
        MUST(sealer_open(s->sealer, 7, 0, BYTES(s->sealed, CHUNK + SEAL_TAG_BYTES), s->plain, e));
    }
    return (double)chunks * CHUNK / 1e6 / (thread_cpu_s() - at);
}

static void in_memory(const char *cipher, const struct jkey *owner, size_t chunks, size_t reps)
{
    double v[4][64], ratios[2][64];
    struct sealing s;

    stream_open(&s, cipher, owner);
    for (size_t i = 0; i < reps; i++) {
        v[0][i] = bare(cipher, 1, chunks, s.plain, s.sealed);
        v[1][i] = seal_chunks(&s, chunks);
        v[2][i] = bare(cipher, 0, chunks, s.sealed, s.plain);
        v[3][i] = open_chunks(&s, chunks);
        ratios[0][i] = v[1][i] / v[0][i];
        ratios[1][i] = v[3][i] / v[2][i];
    }
    printf("%-18s bare encrypt %6.0f MB/s, seal %6.0f MB/s, ratio %.2f; bare decrypt %6.0f MB/s, "
           "unseal %6.0f MB/s, ratio %.2f\n",
           cipher, median(v[0], reps), median(v[1], reps), median(ratios[0], reps),
           median(v[2], reps), median(v[3], reps), median(ratios[1], reps));
    stream_close(&s);
}

/* ---- files -------------------------------------------------------------------------------------
 */

static void fill(int fd, uint64_t bytes)
{
    static uint8_t block[1 << 20];

    random_bytes(block, sizeof(block));
    for (uint64_t at = 0; at < bytes; at += sizeof(block)) {
        uint64_t n = bytes - at < sizeof(block) ? bytes - at : sizeof(block);
        if (write(fd, block, n) != (ssize_t)n) {
            bench_fail("write", strerror(errno));
        }
    }
}

/* In a process of its own, so that its peak of memory is its own too. */
static void in_files(const char *dir, const char *cipher, const struct jkey *owner, uint64_t bytes)
{
    _cleanup_free_ char *plain = xasprintf("%s/plain", dir), *sealed = xasprintf("%s/sealed", dir);
    _cleanup_close_ int in = open(plain, O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int out = open(sealed, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    _cleanup_close_ int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    struct sealing s;
    uint64_t n = 0;

    if (in < 0 || out < 0 || null < 0) {
        bench_fail(dir, strerror(errno));
    }
    stream_open(&s, cipher, owner);
    double at = now_s();
    MUST(seal_fd(&s.prefix, s.key, in, out, &n, e));
    double sealed_s = now_s() - at;
    MUST(seal_reader_open(out, s.key, &r, e));
    at = now_s();
    MUST(unseal_fd(r, null, e));
    double unsealed_s = now_s() - at;
    uint64_t peak = self_memory_bytes("VmHWM:");
    if (n != bytes || seal_reader_size(r) != bytes) {
        bench_fail("seal", "another size");
    }
    printf("%-18s a file of %.0f MiB: seal %.0f MB/s, unseal %.0f MB/s (wall clock, page cache), "
           "peak memory %.1f MiB\n",
           cipher, (double)bytes / (1 << 20), (double)bytes / 1e6 / sealed_s,
           (double)bytes / 1e6 / unsealed_s, (double)peak / (1 << 20));
    stream_close(&s);
    if (peak > MEMORY_MAX_BYTES) {
        bench_fail("memory", "more than 64 MiB");
    }
}

static void files(const struct jkey *owner, uint64_t bytes)
{
    char dir[64];
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof(dir), "%.40s/coffer-bench.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        bench_fail(dir, strerror(errno));
    }
    _cleanup_free_ char *plain = xasprintf("%s/plain", dir);
    int fd = open(plain, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    fill(fd, bytes);
    close(fd);
    int failed = 0;
    for (size_t i = 0; i < ARRAY_LEN(ciphers) && !failed; i++) {
        int status = 1;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            in_files(dir, ciphers[i], owner, bytes);
            fflush(stdout);
            _exit(0);
        }
        failed = pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
    }
    remove_tree(dir);
    if (failed) {
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int quick = argc == 2 && streq(argv[1], "--quick");
    _cleanup_jkey_ struct jkey *owner = NULL;

    if (argc > 1 && !quick) {
        fprintf(stderr, "usage: bench_seal [--quick]\n");
        return 2;
    }
    MUST(jkey_generate(&owner, e));
    for (size_t i = 0; i < ARRAY_LEN(ciphers); i++) {
        in_memory(ciphers[i], owner, quick ? 16 : 2048, quick ? 1 : 9);
    }
    files(owner, quick ? 4u << 20 : FD_BYTES_DEFAULT);
    return 0;
}
