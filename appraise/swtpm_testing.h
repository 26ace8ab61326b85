/* Software TPMs with endorsement certificates of a CA that the test makes, and what a machine
 * measures into one. Only for tests: every failure ends the process. */
#ifndef COFFER_SWTPM_TESTING_H
#define COFFER_SWTPM_TESTING_H

#include <openssl/evp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <tss2/tss2_esys.h>

#include "appraise/vtpm.h"
#include "common/fileio.h"
#include "common/tpmca.h"
#include "svc-worker/tpm_link.h"

#define SWTPM_WAIT_MS 20000

#define SMUST(x)                                                                                   \
    do {                                                                                           \
        struct err must_e_ = {0};                                                                  \
        struct err *e = &must_e_;                                                                  \
        if (x) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, must_e_.msg);               \
            abort();                                                                               \
        }                                                                                          \
        (void)e;                                                                                   \
    } while (0)

struct swtpm {
    char dir[96], socket[112];
    pid_t pid; /* 0: it is off */
};

static _unused_ int swtpm_here(void)
{
    return !access("/usr/bin/swtpm", X_OK) && !access("/usr/bin/swtpm_setup", X_OK) &&
           !access("/usr/bin/swtpm_localca", X_OK);
}

static _unused_ void swtpm_nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

static _unused_ pid_t swtpm_spawn(char *const argv[])
{
    pid_t pid = fork();

    SMUST(pid < 0);
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!freopen("/dev/null", "w", stdout)) {
            _exit(126);
        }
        execvp(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static _unused_ void swtpm_write(const char *dir, const char *name, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    SMUST(file_replace(path, BYTES_STR(text), 0600, e));
}

/* A CA in a new directory below `dir`, and what swtpm_setup wants to know of it. */
static _unused_ char *swtpm_ca(const char *dir, const char *host)
{
    char *ca = xasprintf("%s/ca-%s", dir, host);
    _cleanup_free_ char *conf = xasprintf("statedir = %s\nsigningkey = %s/%s\nissuercert = %s/%s\n"
                                          "certserial = %s/%s\n",
                                          ca, ca, TPMCA_KEY, ca, TPMCA_ROOT, ca, TPMCA_SERIAL);
    _cleanup_free_ char *setup = xasprintf(
        "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = %s/localca.conf\n"
        "create_certs_tool_options = %s/localca.options\nactive_pcr_banks = sha256\n",
        ca, ca);

    SMUST(mkdir(ca, 0700));
    SMUST(tpmca_make(ca, host, e));
    swtpm_write(ca, "localca.conf", conf);
    swtpm_write(ca, "localca.options",
                "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n");
    swtpm_write(ca, "setup.conf", setup);
    return ca;
}

/* A new TPM that is off. */
static _unused_ void swtpm_make(struct swtpm *t, const char *dir, const char *ca, const char *name)
{
    _cleanup_free_ char *conf = xasprintf("%s/setup.conf", ca), *log = NULL;
    int status = 0;

    *t = (struct swtpm){0};
    snprintf(t->dir, sizeof(t->dir), "%s/%s", dir, name);
    snprintf(t->socket, sizeof(t->socket), "%s/s", t->dir);
    log = xasprintf("%s/log", t->dir);
    SMUST(mkdir(t->dir, 0700));
    char *argv[] = {(char[]){"swtpm_setup"},
                    (char[]){"--tpm2"},
                    (char[]){"--tpmstate"},
                    t->dir,
                    (char[]){"--config"},
                    conf,
                    (char[]){"--create-ek-cert"},
                    (char[]){"--lock-nvram"},
                    (char[]){"--vmid"},
                    (char *)(uintptr_t)name,
                    (char[]){"--logfile"},
                    log,
                    NULL};
    pid_t pid = swtpm_spawn(argv);
    SMUST(waitpid(pid, &status, 0) != pid || status);
}

static _unused_ void swtpm_off(struct swtpm *t)
{
    if (t->pid) {
        kill(t->pid, SIGKILL);
        waitpid(t->pid, NULL, 0);
        t->pid = 0;
        unlink(t->socket);
    }
}

/* On, with registers that are zero. */
static _unused_ void swtpm_on(struct swtpm *t)
{
    _cleanup_free_ char *state = xasprintf("dir=%s", t->dir);
    _cleanup_free_ char *server = xasprintf("type=unixio,path=%s", t->socket);
    char *argv[] = {(char[]){"swtpm"},
                    (char[]){"socket"},
                    (char[]){"--tpm2"},
                    (char[]){"--tpmstate"},
                    state,
                    (char[]){"--server"},
                    server,
                    (char[]){"--flags"},
                    (char[]){"not-need-init,startup-clear"},
                    NULL};

    swtpm_off(t);
    t->pid = swtpm_spawn(argv);
    /* Its socket is there a little before it listens. */
    struct tpm_link *link = NULL;
    for (int i = 0; tpm_link_open(t->socket, &link, NULL); i++) {
        SMUST(i > SWTPM_WAIT_MS / 5);
        swtpm_nap();
    }
    tpm_link_free(link);
}

/* ---- what a machine measures ---- */

struct measured {
    uint32_t pcr, type;
    const char *what; /* NULL: separators and such, which reference values do not name */
    uint8_t digest[32];
};

#define MEASURED_MAX 64
struct boot {
    struct measured v[MEASURED_MAX];
    size_t n;
};

static _unused_ void sha256_of(const void *p, size_t n, uint8_t out[32])
{
    SMUST(EVP_Digest(p, n, out, NULL, EVP_sha256(), NULL) != 1);
}

static _unused_ void boot_measure(struct boot *b, uint32_t pcr, uint32_t type, const char *what,
                                  const char *content)
{
    struct measured *m = &b->v[b->n++];

    SMUST(b->n > MEASURED_MAX);
    m->pcr = pcr;
    m->type = type;
    m->what = what;
    sha256_of(content, strlen(content), m->digest);
}

/* As OVMF and the stub of a unified kernel image do it. */
static _unused_ void boot_make(struct boot *b)
{
    *b = (struct boot){0};
    boot_measure(b, 0, 8, NULL, "version");
    boot_measure(b, 0, 0x80000008, NULL, "firmware PEI volume in memory");
    boot_measure(b, 0, 0x80000008, "firmware DXE volume", "dxe");
    for (uint32_t pcr = 0; pcr < 8; pcr++) {
        boot_measure(b, pcr, EV_SEPARATOR, NULL, "separator");
    }
    boot_measure(b, 4, 0x80000003, "unified kernel image", "uki");
    boot_measure(b, 4, 0x80000007, NULL, "Calling EFI Application from Boot Option");
    boot_measure(b, 11, 13, ".linux section", "kernel");
    boot_measure(b, 11, 13, ".initrd section", "initramfs");
    boot_measure(b, 4, 0x80000003, "kernel", "kernel");
    boot_measure(b, 9, 6, "command line", "console=ttyS0 quiet");
    boot_measure(b, 9, 6, "initramfs", "initramfs");
    boot_measure(b, 5, 0x80000007, NULL, "Exit Boot Services Invocation");
}

/* The same boot with another one of these. */
static _unused_ void boot_change(struct boot *b, const char *what)
{
    for (size_t i = 0; i < b->n; i++) {
        if (b->v[i].what && streq(b->v[i].what, what)) {
            b->v[i].digest[0] ^= 1;
            return;
        }
    }
    SMUST(1);
}

static _unused_ void boot_pcrs(const struct boot *b, uint8_t pcr[TPM_PCRS][32])
{
    memset(pcr, 0, TPM_PCRS * 32);
    for (size_t i = 0; i < b->n; i++) {
        uint8_t both[64];
        memcpy(both, pcr[b->v[i].pcr], 32);
        memcpy(both + 32, b->v[i].digest, 32);
        sha256_of(both, 64, pcr[b->v[i].pcr]);
    }
}

static _unused_ void put_le(struct buf *b, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)(v >> 8 * i);
        SMUST(buf_add(b, &byte, 1, e));
    }
}

static _unused_ void boot_log(const struct boot *b, struct buf *ret)
{
    static const uint8_t zero[20] = {0};

    put_le(ret, 0, 4);
    put_le(ret, EV_NO_ACTION, 4);
    SMUST(buf_add(ret, zero, 20, e));
    put_le(ret, 33, 4);
    SMUST(buf_add(ret, "Spec ID Event03\0\0\0\0\0\0\2\0\2", 24, e));
    put_le(ret, 1, 4);
    put_le(ret, TPM_ALG_SHA256, 2);
    put_le(ret, 32, 2);
    put_le(ret, 0, 1);
    for (size_t i = 0; i < b->n; i++) {
        put_le(ret, b->v[i].pcr, 4);
        put_le(ret, b->v[i].type, 4);
        put_le(ret, 1, 4);
        put_le(ret, TPM_ALG_SHA256, 2);
        SMUST(buf_add(ret, b->v[i].digest, 32, e));
        put_le(ret, 4, 4);
        SMUST(buf_add(ret, "data", 4, e));
    }
}

static _unused_ ESYS_CONTEXT *swtpm_esys(const struct swtpm *t, struct tpm_link **ret)
{
    ESYS_CONTEXT *esys = NULL;

    SMUST(tpm_link_open(t->socket, ret, e));
    tpm_link_allow(*ret, SWTPM_WAIT_MS);
    SMUST(Esys_Initialize(&esys, tpm_link_tcti(*ret), NULL));
    return esys;
}

/* Switches the TPM on, extends it, and leaves the log in its directory. */
static _unused_ void swtpm_boot(struct swtpm *t, const struct boot *b)
{
    _cleanup_buf_ struct buf log = BUF_INIT(1u << 16);
    struct tpm_link *link = NULL;

    swtpm_on(t);
    ESYS_CONTEXT *esys = swtpm_esys(t, &link);
    for (size_t i = 0; i < b->n; i++) {
        TPML_DIGEST_VALUES d = {.count = 1, .digests = {{.hashAlg = TPM2_ALG_SHA256}}};
        memcpy(d.digests[0].digest.sha256, b->v[i].digest, 32);
        SMUST(Esys_PCR_Extend(esys, ESYS_TR_PCR0 + b->v[i].pcr, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                              ESYS_TR_NONE, &d));
    }
    Esys_Finalize(&esys);
    tpm_link_free(link);
    boot_log(b, &log);
    _cleanup_free_ char *path = xasprintf("%s/measurements", t->dir);
    SMUST(file_replace(path, buf_bytes(&log), 0600, e));
}

/* ---- what a verifier has to know of it ---- */

static _unused_ json_t *boot_refvals(const struct boot *b)
{
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    json_t *events = json_array(), *pcrs = json_object();
    uint8_t pcr[TPM_PCRS][32];

    boot_pcrs(b, pcr);
    for (size_t i = 0; i < b->n; i++) {
        if (b->v[i].what) {
            _cleanup_free_ char *hex = hex_encode(b->v[i].digest, 32);
            json_array_append_new(events, json_pack("{s:i,s:s,s:s}", "pcr", (int)b->v[i].pcr,
                                                    "what", b->v[i].what, "digest", hex));
        }
    }
    for (int i = 1; i < TPM_PCRS; i++) {
        if (VTPM_PCRS & 1u << i) {
            _cleanup_free_ char *hex = hex_encode(pcr[i], 32);
            char key[8];
            snprintf(key, sizeof(key), "%d", i);
            json_object_set_new(pcrs, key, json_string(hex));
        }
    }
    _cleanup_free_ char *pcr0 = hex_encode(pcr[0], 32);
    return json_pack("{s:i,s:{s:s,s:s,s:s,s:s,s:s,s:s},s:{s:{s:s,s:s,s:{s:s,s:s}},s:o,s:o}}", "v",
                     1, "image", "name", "coffer-guest", "version", "0.1.0", "uki_sha256", zeros,
                     "kernel_sha256", zeros, "initrd_sha256", zeros, "cmdline",
                     "console=ttyS0 quiet", "vtpm", "firmware", "name", "OVMF", "sha256", zeros,
                     "pcr0", "1024/1", pcr0, "2048/2", zeros, "pcrs", pcrs, "events", events);
}

static _unused_ char *hosts_json(const char *name, const char *ca)
{
    _cleanup_buf_ struct buf pem = BUF_INIT(16384);
    _cleanup_free_ char *path = xasprintf("%s/" TPMCA_ROOT, ca);

    SMUST(file_read(path, 16384, 0, &pem, e));
    _cleanup_json_ json_t *j = json_pack("{s:i,s:[{s:s,s:[s%],s:[]}]}", "v", 1, "hosts", "host",
                                         name, "roots", (const char *)pem.p, pem.n, "eks");
    return json_dumps(j, 0);
}

#endif
