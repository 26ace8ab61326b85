#include "common/tpmhosts.h"

#include "common/fileio.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#define ROOT_MAX_BYTES (16u * 1024)

int tpm_host_name_valid(const char *name)
{
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");

    return n >= 1 && n <= TPMHOSTS_NAME_MAX && !name[n];
}

int tpm_root_parse(struct bytes pem, const char *what, X509 **ret, struct err *e)
{
    BIO *bio = pem.n && pem.n <= ROOT_MAX_BYTES ? BIO_new_mem_buf(pem.p, (int)pem.n) : NULL;
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    X509 *more = cert ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    int ok = cert && !more && X509_check_ca(cert) == 1 && X509_get0_pubkey(cert);

    X509_free(more);
    BIO_free(bio);
    ERR_clear_error();
    if (!ok) {
        err_set(e, ERR_INVALID, "%s: expected one certificate of a CA in PEM, found %s", what,
                !cert  ? "none"
                : more ? "more than one"
                       : "one that is of no CA");
        X509_free(cert);
        return -1;
    }
    *ret = cert;
    return 0;
}

int tpm_cert_digest(const X509 *cert, uint8_t ret[32], struct err *e)
{
    unsigned n = 0;

    return X509_digest(cert, EVP_sha256(), ret, &n) == 1 && n == 32
               ? 0
               : err_set(e, ERR_INTERNAL, "cannot hash a certificate");
}

/* ---- reading ---- */

static int list_of(const json_t *o, const char *what, const char *key, size_t min, size_t max,
                   json_t **ret, struct err *e)
{
    if (json_get_arr(o, what, key, ret, e)) {
        return -1;
    }
    size_t n = json_array_size(*ret);
    return n >= min && n <= max ? 0
                                : err_set(e, ERR_INVALID, "%s.%s: expected %zu to %zu, found %zu",
                                          what, key, min, max, n);
}

static int read_roots(const json_t *o, const char *what, struct tpm_host *h, struct err *e)
{
    json_t *list;

    if (list_of(o, what, "roots", 1, TPMHOSTS_MAX_ROOTS, &list, e)) {
        return -1;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *pem = json_string_value(json_array_get(list, i));
        char item[64];
        snprintf(item, sizeof(item), "%s.roots[%zu]", what, i);
        if (tpm_root_parse(BYTES_STR(pem ? pem : ""), item, &h->roots[i], e)) {
            return -1;
        }
        h->n_roots = i + 1;
    }
    return 0;
}

static int read_eks(const json_t *o, const char *what, struct tpm_host *h, struct err *e)
{
    json_t *list;

    if (list_of(o, what, "eks", 0, TPMHOSTS_MAX_EKS, &list, e)) {
        return -1;
    }
    h->eks = xcalloc(json_array_size(list) + 1, sizeof(*h->eks));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *hex = json_string_value(json_array_get(list, i));
        if (!hex || strlen(hex) != 64 || hex_decode(hex, h->eks[i], 32, NULL)) {
            return err_set(e, ERR_INVALID, "%s.eks[%zu]: expected 64 hexadecimal digits", what, i);
        }
        h->n_eks = i + 1;
    }
    return 0;
}

static int read_host(const json_t *o, size_t index, struct tpm_hosts *all, struct err *e)
{
    static const char *const members[] = {"host", "roots", "eks", NULL};
    struct tpm_host *h = &all->v[index];
    const char *name;
    char what[32];

    snprintf(what, sizeof(what), "hosts[%zu]", index);
    if (json_only_keys(o, what, members, e) || json_get_str(o, what, "host", &name, e)) {
        return -1;
    }
    if (!tpm_host_name_valid(name)) {
        return err_set(e, ERR_INVALID, "%s.host: expected 1 to %d of [A-Za-z0-9_-]", what,
                       TPMHOSTS_NAME_MAX);
    }
    for (size_t i = 0; i < index; i++) {
        if (streq(all->v[i].name, name)) {
            return err_set(e, ERR_INVALID, "%s.host: expected a host that is not in the file yet",
                           what);
        }
    }
    snprintf(h->name, sizeof(h->name), "%s", name);
    all->n = index + 1; /* what follows is freed with it */
    return read_roots(o, what, h, e) || read_eks(o, what, h, e) ? -1 : 0;
}

int tpm_hosts_parse(struct bytes in, struct tpm_hosts **ret, struct err *e)
{
    static const char *const members[] = {"v", "hosts", NULL};
    _cleanup_(tpm_hosts_freep) struct tpm_hosts *h = xcalloc(1, sizeof(*h));
    _cleanup_json_ json_t *j = NULL;
    json_t *list;
    int64_t v;

    if (json_parse("hosts", in, TPMHOSTS_MAX_BYTES, &j, e) ||
        json_only_keys(j, "hosts", members, e) || json_get_int(j, "hosts", "v", 1, 1, &v, e) ||
        list_of(j, "hosts", "hosts", 0, TPMHOSTS_MAX, &list, e)) {
        return -1;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (read_host(json_array_get(list, i), i, h, e)) {
            return -1;
        }
    }
    *ret = TAKE_PTR(h);
    return 0;
}

int tpm_hosts_read(const char *path, struct tpm_hosts **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(TPMHOSTS_MAX_BYTES);

    if (file_read(path, TPMHOSTS_MAX_BYTES, 0, &text, e)) {
        return err_wrap(e, "enrolled hosts");
    }
    return tpm_hosts_parse(buf_bytes(&text), ret, e) ? err_wrap(e, "%s", path) : 0;
}

/* ---- writing ---- */

static json_t *pem_of(X509 *cert)
{
    BIO *bio = BIO_new(BIO_s_mem());
    json_t *j = NULL;
    char *p;

    if (bio && PEM_write_bio_X509(bio, cert) == 1) {
        long n = BIO_get_mem_data(bio, &p);
        j = json_stringn(p, n > 0 ? (size_t)n : 0);
    }
    BIO_free(bio);
    return j;
}

json_t *tpm_hosts_json(const struct tpm_hosts *h)
{
    json_t *list = json_array();

    for (size_t i = 0; i < h->n; i++) {
        const struct tpm_host *one = &h->v[i];
        json_t *roots = json_array(), *eks = json_array();
        for (size_t k = 0; k < one->n_roots; k++) {
            json_array_append_new(roots, pem_of(one->roots[k]));
        }
        for (size_t k = 0; k < one->n_eks; k++) {
            _cleanup_free_ char *hex = hex_encode(one->eks[k], 32);
            json_array_append_new(eks, json_string(hex));
        }
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:o}", "host", one->name, "roots", roots, "eks", eks));
    }
    return json_pack("{s:i,s:o}", "v", 1, "hosts", list);
}

void tpm_hosts_free(struct tpm_hosts *h)
{
    if (!h) {
        return;
    }
    for (size_t i = 0; i < h->n; i++) {
        for (size_t k = 0; k < h->v[i].n_roots; k++) {
            X509_free(h->v[i].roots[k]);
        }
        free(h->v[i].eks);
    }
    free(h);
}
