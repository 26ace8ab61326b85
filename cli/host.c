#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "cli/files.h"
#include "cli/verbs.h"
#include "common/fileio.h"
#include "common/tpmhosts.h"

/* coffer host enrol, ls: whose virtual TPMs a verifier takes for genuine (its setting tpm-hosts).
 * The file is public; who writes it decides, so it is the operator's of the trusted domain. */

#define CERT_MAX_BYTES (16u * 1024)

const struct cli_opt opts_host_enrol[] = {
    {"host", 0, "NAME", VALUE_TEXT, "the host's name, as its launcher has it", 0},
    {"root", 'r', "FILE", VALUE_FILE, "certificate (PEM) of the CA of the host's TPMs", 1},
    {"ek", 0, "FILE", VALUE_FILE,
     "certificate of an endorsement key; with it, only such keys are the host's", 1},
    {"out", 'o', "FILE", VALUE_FILE, "the file of enrolled hosts, made or added to", 0},
    {0},
};

const struct cli_opt opts_host_ls[] = {
    {"hosts", 0, "FILE", VALUE_FILE, "the file of enrolled hosts", 0},
    {0},
};

static int read_file(const char *path, struct buf *ret, struct err *e)
{
    *ret = BUF_INIT(CERT_MAX_BYTES);
    return file_read(path, CERT_MAX_BYTES, 0, ret, e);
}

static int add_root(const char *path, struct tpm_host *h, struct err *e)
{
    _cleanup_buf_ struct buf text = {0};

    if (h->n_roots == TPMHOSTS_MAX_ROOTS) {
        return err_set(e, ERR_INVALID, "--root: expected at most %d", TPMHOSTS_MAX_ROOTS);
    }
    if (read_file(path, &text, e) ||
        tpm_root_parse(buf_bytes(&text), path, &h->roots[h->n_roots], e)) {
        return err_wrap(e, "--root");
    }
    h->n_roots++;
    return 0;
}

/* PEM or DER. NULL when it is neither. */
static X509 *cert_of(struct bytes in)
{
    const uint8_t *p = in.p;
    X509 *cert = d2i_X509(NULL, &p, (long)in.n);

    if (!cert) {
        BIO *bio = BIO_new_mem_buf(in.p, (int)in.n);
        cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
        BIO_free(bio);
    }
    ERR_clear_error();
    return cert;
}

static int add_ek(const char *path, struct tpm_host *h, struct err *e)
{
    _cleanup_buf_ struct buf text = {0};
    int certified = 0, rc = -1;

    if (h->n_eks == TPMHOSTS_MAX_EKS) {
        return err_set(e, ERR_INVALID, "--ek: expected at most %d", TPMHOSTS_MAX_EKS);
    }
    if (read_file(path, &text, e)) {
        return err_wrap(e, "--ek");
    }
    X509 *cert = cert_of(buf_bytes(&text));
    for (size_t i = 0; cert && i < h->n_roots; i++) {
        certified |= X509_verify(cert, X509_get0_pubkey(h->roots[i])) == 1;
    }
    ERR_clear_error();
    if (!cert) {
        err_set(e, ERR_INVALID, "--ek: %s: expected a certificate in PEM or DER", path);
    } else if (!certified) {
        err_set(e, ERR_BAD_SIGNATURE, "--ek: %s: expected one that a --root certifies", path);
    } else {
        h->eks = xrealloc(h->eks, (h->n_eks + 1) * sizeof(*h->eks));
        rc = tpm_cert_digest(cert, h->eks[h->n_eks], e);
        h->n_eks += !rc;
    }
    X509_free(cert);
    return rc;
}

/* The host's place in the file: its own, which is emptied, or a new one. */
static int place_of(struct tpm_hosts *all, const char *name, struct tpm_host **ret, struct err *e)
{
    size_t i = 0;

    while (i < all->n && !streq(all->v[i].name, name)) {
        i++;
    }
    if (i == TPMHOSTS_MAX) {
        return err_set(e, ERR_TOO_LARGE, "expected at most %d hosts in the file", TPMHOSTS_MAX);
    }
    struct tpm_host *h = &all->v[i];
    for (size_t k = 0; k < h->n_roots; k++) {
        X509_free(h->roots[k]);
    }
    free(h->eks);
    *h = (struct tpm_host){0};
    snprintf(h->name, sizeof(h->name), "%s", name);
    all->n = i == all->n ? i + 1 : all->n;
    *ret = h;
    return 0;
}

static int write_hosts(const char *path, const struct tpm_hosts *all, struct err *e)
{
    _cleanup_json_ json_t *j = tpm_hosts_json(all);
    _cleanup_free_ char *text = json_dumps(j, JSON_INDENT(2)), *line = NULL;

    if (!text) {
        return err_set(e, ERR_INTERNAL, "cannot compose the file of hosts");
    }
    line = xasprintf("%s\n", text);
    return file_replace(path, BYTES_STR(line), 0644, e);
}

static int add_all(struct cli *c, struct tpm_host *h, struct err *e)
{
    _cleanup_strings_ struct strings roots = {0}, eks = {0};

    cli_opt_list(c, "root", &roots);
    cli_opt_list(c, "ek", &eks);
    for (size_t i = 0; i < roots.n; i++) {
        if (add_root(roots.v[i], h, e)) {
            return -1;
        }
    }
    for (size_t i = 0; i < eks.n; i++) {
        if (add_ek(eks.v[i], h, e)) {
            return -1;
        }
    }
    return 0;
}

int verb_host_enrol(struct cli *c, int argc, char **argv)
{
    const char *name = cli_opt(c, "host"), *out = cli_opt(c, "out");
    _cleanup_(tpm_hosts_freep) struct tpm_hosts *all = NULL;
    struct tpm_host *h;
    struct err e = {0};

    (void)argc;
    (void)argv;
    if (!name || !out || !cli_has(c, "root")) {
        return cli_usage(c, "expected --host NAME, --root FILE and --out FILE");
    }
    if (!tpm_host_name_valid(name)) {
        return cli_usage(c, "--host: expected 1 to %d of [A-Za-z0-9_-], found \"%.60s\"",
                         TPMHOSTS_NAME_MAX, name);
    }
    if (!access(out, F_OK)) {
        if (tpm_hosts_read(out, &all, &e)) {
            return cli_fail(c, &e);
        }
    } else {
        all = xcalloc(1, sizeof(*all));
    }
    if (place_of(all, name, &h, &e) || add_all(c, h, &e) || write_hosts(out, all, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:I,s:I,s:s}", "host", name, "roots",
                                     (json_int_t)h->n_roots, "eks", (json_int_t)h->n_eks, "file",
                                     out));
    }
    cli_say(c, "%s: %zu roots, %s", name, h->n_roots,
            h->n_eks ? "only the endorsement keys that were named"
                     : "every endorsement key that they certify");
    cli_note(c, "%s is for the verifier's setting tpm-hosts, which is read when it starts", out);
    return CLI_OK;
}

static void say_host(struct cli *c, const struct tpm_host *h)
{
    cli_say(c, "%s", h->name);
    for (size_t i = 0; i < h->n_roots; i++) {
        char subject[160];
        uint8_t digest[32];
        X509_NAME_oneline(X509_get_subject_name(h->roots[i]), subject, sizeof(subject));
        cli_clean(subject, strlen(subject), 0);
        if (!tpm_cert_digest(h->roots[i], digest, NULL)) {
            _cleanup_free_ char *hex = hex_encode(digest, 32);
            cli_say(c, "  root %s  %s", hex, subject);
        }
    }
    for (size_t i = 0; i < h->n_eks; i++) {
        _cleanup_free_ char *hex = hex_encode(h->eks[i], 32);
        cli_say(c, "  ek   %s", hex);
    }
}

int verb_host_ls(struct cli *c, int argc, char **argv)
{
    const char *path = cli_opt(c, "hosts");
    _cleanup_(tpm_hosts_freep) struct tpm_hosts *all = NULL;
    struct err e = {0};

    (void)argc;
    (void)argv;
    if (!path) {
        return cli_usage(c, "expected --hosts FILE");
    }
    if (tpm_hosts_read(path, &all, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, tpm_hosts_json(all));
    }
    for (size_t i = 0; i < all->n; i++) {
        say_host(c, &all->v[i]);
    }
    if (!all->n) {
        cli_note(c, "no host is enrolled");
    }
    return CLI_OK;
}
