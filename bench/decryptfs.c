/* Reading a sealed dataset through DecryptFS, against AES-256-GCM alone on one core and against
 * gocryptfs on the same plaintext, in the same run. Needs root and a FUSE device. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <openssl/evp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "bench/bench.h"
#include "common/seal.h"
#include "svc-worker/decryptfs.h"

#define PAGE 4096u
#define IO_BYTES (1u << 20)
#define REPS_MAX 32

struct ask {
    uint64_t bytes;
    uint32_t chunk_bytes;
    const char *cipher;
    const char *tmp; /* NULL: a tmpfs of its own */
    double seconds;  /* of a random run */
    size_t reps;
    int no_gocryptfs;
    struct dfs_options dfs;
};

/* What one file system gave in one repetition. */
struct figures {
    double seq_mib_s;   /* from beginning to end, page cache empty */
    double seq_cpu_s;   /* of the reader and the file system's process meanwhile, per GiB */
    double again_mib_s; /* opened and read once more */
    double random_iops; /* for some seconds, page cache empty at first */
    double once_iops;   /* a sixteenth of all pages, each once, page cache empty at first */
};

struct bench {
    struct ask ask;
    char dir[96];
    char *plain, *sealed, *mount, *crypt;
    struct secret *key;
};

/* ---- the reader -------------------------------------------------------------------------------
 */

static double read_all(const char *path, uint64_t bytes)
{
    static uint8_t buf[IO_BYTES];
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    double at = now_s();
    uint64_t total = 0;
    ssize_t n;

    while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
        total += (uint64_t)n;
    }
    if (total != bytes) {
        bench_fail(path, "could not be read whole");
    }
    return (double)bytes / (1 << 20) / (now_s() - at);
}

static uint64_t pseudo(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 24;
}

static void read_page(int fd, uint64_t page)
{
    static uint8_t buf[PAGE];

    if (pread(fd, buf, PAGE, (off_t)(page * PAGE)) != PAGE) {
        bench_fail("a random read", strerror(errno));
    }
}

static double read_random(const char *path, uint64_t bytes, double seconds)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    double from = now_s(), now = from;
    uint64_t n = 0, state = 1;

    while (now - from < seconds) {
        for (unsigned i = 0; i < 64; i++, n++) {
            read_page(fd, pseudo(&state) % (bytes / PAGE));
        }
        now = now_s();
    }
    return (double)n / (now - from);
}

/* A large prime takes all pages in an order that repeats none. */
static double read_once(const char *path, uint64_t bytes)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t pages = bytes / PAGE, want = pages / 16 + 1;
    double from = now_s();

    for (uint64_t i = 0; i < want; i++) {
        read_page(fd, i * 2654435761u % pages);
    }
    return (double)want / (now_s() - from);
}

/* ---- the file systems -------------------------------------------------------------------------
 */

struct sealed_fs {
    int fd;
    struct seal_reader *reader;
    struct dfs *dfs;
};

static void dfs_up(const struct bench *b, struct sealed_fs *fs)
{
    struct dfs_fault fault;

    fs->fd = open(b->sealed, O_RDONLY | O_CLOEXEC);
    MUST(seal_reader_open(fs->fd, b->key, &fs->reader, e));
    const struct dfs_dataset v = {.reader = fs->reader, .key = b->key};
    MUST(dfs_start(&v, 1, b->mount, &b->ask.dfs, &fs->dfs, &fault, e));
}

static void dfs_down(struct sealed_fs *fs)
{
    dfs_stop(fs->dfs);
    seal_reader_free(fs->reader);
    close(fs->fd);
}

static pid_t start(const char *const argv[])
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

static int run(const char *const argv[])
{
    int status = -1;
    pid_t pid = start(argv);

    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static dev_t device_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_dev : 0;
}

/* In the foreground, so that it is a child whose time can be read. */
static pid_t gocryptfs_up(const struct bench *b, int ro)
{
    const char *const argv[] = {
        "gocryptfs",        "-q",     "-fg",    "-nosyslog", "-extpass", "echo bench",
        ro ? "-ro" : "-rw", b->crypt, b->mount, NULL};
    dev_t before = device_of(b->mount);
    pid_t pid = start(argv);

    for (int i = 0; i < 1000 && device_of(b->mount) == before; i++) {
        usleep(10000);
        if (pid < 0 || waitpid(pid, NULL, WNOHANG) != 0) {
            bench_fail("gocryptfs", "could not be mounted");
        }
    }
    return pid;
}

static void gocryptfs_down(const struct bench *b, pid_t pid)
{
    if (umount2(b->mount, 0) < 0 && umount2(b->mount, MNT_DETACH) < 0) {
        bench_fail("umount", strerror(errno));
    }
    kill_and_wait(pid, SIGTERM);
}

static int gocryptfs_make(const struct bench *b)
{
    const char *const init[] = {"gocryptfs", "-q",       "-nosyslog",  "-init",  "-scryptn",
                                "10",        "-extpass", "echo bench", b->crypt, NULL};
    _cleanup_free_ char *to = xasprintf("%s/0", b->mount);
    const char *const copy[] = {"cp", b->plain, to, NULL};

    if (run(init) != 0) {
        return -1;
    }
    pid_t pid = gocryptfs_up(b, 0);
    if (run(copy) != 0) {
        bench_fail("cp", "into gocryptfs");
    }
    gocryptfs_down(b, pid);
    return 0;
}

/* This process has one child then. */
static pid_t only_child(void)
{
    char path[64], text[32] = {0};

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 ? (pid_t)atoi(text) : 0;
}

static void read_first(const struct bench *b, const char *path, pid_t server, struct figures *f)
{
    double before = process_cpu_s(server) + thread_cpu_s();

    f->seq_mib_s = read_all(path, b->ask.bytes);
    f->seq_cpu_s =
        (process_cpu_s(server) + thread_cpu_s() - before) / ((double)b->ask.bytes / (1 << 30));
}

/* Mounted anew before each, so that the page cache of the file is empty. */
static struct figures measure(const struct bench *b, int ours)
{
    _cleanup_free_ char *path = xasprintf("%s/0", b->mount);
    struct sealed_fs fs;
    struct figures f = {0};
    pid_t server;

    for (int part = 0; part < 3; part++) {
        if (ours) {
            dfs_up(b, &fs);
            server = only_child();
        } else {
            server = gocryptfs_up(b, 1);
        }
        if (part == 0) {
            read_first(b, path, server, &f);
            f.again_mib_s = read_all(path, b->ask.bytes);
        } else if (part == 1) {
            f.random_iops = read_random(path, b->ask.bytes, b->ask.seconds);
        } else {
            f.once_iops = read_once(path, b->ask.bytes);
        }
        if (ours) {
            dfs_down(&fs);
        } else {
            gocryptfs_down(b, server);
        }
    }
    return f;
}

/* ---- AES-256-GCM alone ------------------------------------------------------------------------
 */

static double bare_mib_s(const struct ask *a)
{
    uint8_t key[32] = {1}, iv[12] = {0}, tag[16];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t *in = xcalloc(1, a->chunk_bytes), *out = xmalloc(a->chunk_bytes);
    size_t chunks = (size_t)(a->bytes / a->chunk_bytes);
    int n;

    if (!ctx || EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, iv) != 1) {
        bench_fail("AES-256-GCM", "OpenSSL refused");
    }
    double at = thread_cpu_s();
    for (size_t i = 0; i < chunks; i++) {
        memcpy(iv, &i, sizeof(i));
        EVP_DecryptInit_ex(ctx, NULL, NULL, NULL, iv);
        EVP_DecryptUpdate(ctx, out, &n, in, (int)a->chunk_bytes);
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag);
        (void)EVP_DecryptFinal_ex(ctx, out + n, &n); /* compares, which is what it costs */
    }
    double took = thread_cpu_s() - at;
    EVP_CIPHER_CTX_free(ctx);
    free(in);
    free(out);
    return (double)a->bytes / (1 << 20) / took;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

/* Gigabytes in memory must not outlive the bench, however it ends: a tmpfs in its own namespace. */
static void own_tmpfs(const struct bench *b)
{
    char options[64];

    snprintf(options, sizeof(options), "mode=700,size=%llu",
             (unsigned long long)(b->ask.bytes * 3 + b->ask.bytes / 8 + (64u << 20)));
    if (mount("bench", b->dir, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0) {
        bench_fail("tmpfs", strerror(errno));
    }
}

static void prepare(struct bench *b)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    _cleanup_jkey_ struct jkey *owner = NULL;
    static uint8_t block[IO_BYTES];

    snprintf(b->dir, sizeof(b->dir), "%.60s/coffer-bench.XXXXXX", b->ask.tmp ? b->ask.tmp : "/tmp");
    if (!mkdtemp(b->dir)) {
        bench_fail(b->dir, strerror(errno));
    }
    if (!b->ask.tmp) {
        own_tmpfs(b);
    }
    b->plain = xasprintf("%s/plain", b->dir);
    b->sealed = xasprintf("%s/sealed", b->dir);
    b->mount = xasprintf("%s/mnt", b->dir);
    b->crypt = xasprintf("%s/crypt", b->dir);
    _cleanup_close_ int in = open(b->plain, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    _cleanup_close_ int out = open(b->sealed, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (in < 0 || out < 0 || mkdir(b->mount, 0700) || mkdir(b->crypt, 0700)) {
        bench_fail(b->dir, strerror(errno));
    }
    random_bytes(block, sizeof(block));
    for (uint64_t at = 0; at < b->ask.bytes; at += sizeof(block)) {
        memcpy(block, &at, sizeof(at));
        if (write(in, block, sizeof(block)) != (ssize_t)sizeof(block)) {
            bench_fail("write", strerror(errno));
        }
    }
    MUST(jkey_generate(&owner, e));
    MUST(seal_dataset_header_new("bench", "file", b->ask.cipher, b->ask.chunk_bytes, owner, &prefix,
                                 &b->key, e));
    lseek(in, 0, SEEK_SET);
    MUST(seal_fd(&prefix, b->key, in, out, NULL, e));
}

static void finish(struct bench *b)
{
    (void)umount2(b->mount, MNT_DETACH);
    (void)umount2(b->dir, MNT_DETACH);
    remove_tree(b->dir);
    secret_free(b->key);
    free(b->plain);
    free(b->sealed);
    free(b->mount);
    free(b->crypt);
}

static double middle(const struct figures *v, size_t n, size_t offset)
{
    double x[REPS_MAX];

    for (size_t i = 0; i < n; i++) {
        memcpy(&x[i], (const uint8_t *)&v[i] + offset, sizeof(double));
    }
    return median(x, n);
}
#define MIDDLE(v, n, member) middle(v, n, offsetof(struct figures, member))

static void print(const char *name, const struct figures *v, size_t n)
{
    printf("%-10s sequential %6.0f MiB/s (%.2f s of CPU per GiB), again %6.0f MiB/s, random 4 KiB "
           "%7.0f/s, each page once %7.0f/s\n",
           name, MIDDLE(v, n, seq_mib_s), MIDDLE(v, n, seq_cpu_s), MIDDLE(v, n, again_mib_s),
           MIDDLE(v, n, random_iops), MIDDLE(v, n, once_iops));
}

static void report(const struct bench *b, const struct figures *ours, const struct figures *theirs,
                   double *bare)
{
    size_t n = b->ask.reps;
    double alone = median(bare, n), seq = MIDDLE(ours, n, seq_mib_s);
    double iops = MIDDLE(ours, n, random_iops), once = MIDDLE(ours, n, once_iops);

    printf("AES-256-GCM alone, one core, chunks of %u: %.0f MiB/s\n", b->ask.chunk_bytes, alone);
    print("DecryptFS", ours, n);
    if (theirs) {
        print("gocryptfs", theirs, n);
    }
    printf("{\"mib\":%llu,\"cipher\":\"%s\",\"chunk_bytes\":%u,\"sequential_mib_s\":%.0f,"
           "\"sequential_cpu_s_gib\":%.3f,\"random_4k_s\":%.0f,\"sequential_to_aes_gcm\":%.2f",
           (unsigned long long)(b->ask.bytes >> 20), b->ask.cipher, b->ask.chunk_bytes, seq,
           MIDDLE(ours, n, seq_cpu_s), iops, seq / alone);
    if (theirs) {
        printf(",\"sequential_to_gocryptfs\":%.2f,\"sequential_cpu_to_gocryptfs\":%.2f,\"random_4k_"
               "to_gocryptfs\":%.2f,"
               "\"once_4k_to_gocryptfs\":%.2f",
               seq / MIDDLE(theirs, n, seq_mib_s),
               MIDDLE(theirs, n, seq_cpu_s) / MIDDLE(ours, n, seq_cpu_s),
               iops / MIDDLE(theirs, n, random_iops), once / MIDDLE(theirs, n, once_iops));
    }
    printf("}\n");
}

static void usage(void)
{
    fprintf(stderr, "usage: bench_decryptfs [--mib N] [--reps N] [--seconds S] [--cipher NAME]\n"
                    "    [--chunk-bytes N] [--threads N] [--read-max-kib N] [--read-ahead-kib N]\n"
                    "    [--no-fill] [--no-gocryptfs] [--tmp DIR] [--quick]\n");
    exit(2);
}

static struct ask parse(int argc, char **argv)
{
    static const struct option options[] = {{"mib", 1, NULL, 'm'},
                                            {"reps", 1, NULL, 'r'},
                                            {"seconds", 1, NULL, 's'},
                                            {"cipher", 1, NULL, 'c'},
                                            {"chunk-bytes", 1, NULL, 'b'},
                                            {"threads", 1, NULL, 't'},
                                            {"read-max-kib", 1, NULL, 'x'},
                                            {"read-ahead-kib", 1, NULL, 'a'},
                                            {"no-fill", 0, NULL, 'f'},
                                            {"no-gocryptfs", 0, NULL, 'g'},
                                            {"tmp", 1, NULL, 'd'},
                                            {"quick", 0, NULL, 'q'},
                                            {NULL, 0, NULL, 0}};
    struct ask a = {.bytes = 1ull << 30,
                    .chunk_bytes = SEAL_CHUNK_DEFAULT_BYTES,
                    .cipher = "AES-256-GCM",
                    .seconds = 6,
                    .reps = 3};
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        unsigned long v = optarg ? strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 'm':
            a.bytes = (uint64_t)v << 20;
            break;
        case 'r':
            a.reps = v;
            break;
        case 's':
            a.seconds = strtod(optarg, NULL);
            break;
        case 'c':
            a.cipher = optarg;
            break;
        case 'b':
            a.chunk_bytes = (uint32_t)v;
            break;
        case 't':
            a.dfs.threads = (unsigned)v;
            break;
        case 'x':
            a.dfs.read_max_bytes = (uint32_t)v << 10;
            break;
        case 'a':
            a.dfs.read_ahead_kib = (uint32_t)v;
            break;
        case 'f':
            a.dfs.no_fill = 1;
            break;
        case 'g':
            a.no_gocryptfs = 1;
            break;
        case 'd':
            a.tmp = optarg;
            break;
        case 'q':
            a.bytes = 8u << 20;
            a.seconds = 0.2;
            a.reps = 1;
            break;
        default:
            usage();
        }
    }
    if (optind != argc || a.reps < 1 || a.reps > REPS_MAX || a.bytes < (1u << 20)) {
        usage();
    }
    return a;
}

int main(int argc, char **argv)
{
    struct bench b = {.ask = parse(argc, argv)};
    struct figures ours[REPS_MAX], theirs[REPS_MAX];
    double bare[REPS_MAX];

    if (!dfs_available() || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        printf("skipped: no FUSE device, or not root\n");
        return 77;
    }
    prepare(&b);
    int both = !b.ask.no_gocryptfs && gocryptfs_make(&b) == 0;
    (void)unlink(b.plain);
    for (size_t i = 0; i < b.ask.reps; i++) {
        bare[i] = bare_mib_s(&b.ask);
        ours[i] = measure(&b, 1);
        if (both) {
            theirs[i] = measure(&b, 0);
        }
    }
    report(&b, ours, both ? theirs : NULL, bare);
    finish(&b);
    return 0;
}
