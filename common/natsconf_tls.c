/* The CAs (of nats-server, of a host's virtual TPMs) and the server's certificate: P-256, X.509 v3.
 */
#include "common/natsconf_int.h"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/fileio.h"
#include "common/secret.h"
#include "common/tpmca.h"

#define CA_DAYS 3650
#define SERVER_DAYS 825
#define PEM_MAX_BYTES 65536

DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
DEFINE_CLEANUP(X509 *, X509_free);
DEFINE_CLEANUP(BIO *, BIO_free_all);

static int add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;

    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (!x) {
        return -1;
    }
    int ok = X509_add_ext(cert, x, -1);
    X509_EXTENSION_free(x);
    return ok == 1 ? 0 : -1;
}

static int set_serial(X509 *cert)
{
    uint8_t raw[16];

    random_bytes(raw, sizeof(raw));
    raw[0] &= 0x7f;
    BIGNUM *n = BN_bin2bn(raw, sizeof(raw), NULL);
    int ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
    BN_free(n);
    return ok ? 0 : -1;
}

/* Everything but the extensions and the signature. */
static X509 *cert_new(const char *cn, long days, EVP_PKEY *key, X509 *issuer)
{
    _cleanup_(X509_freep) X509 *cert = X509_new();

    if (!cert || X509_set_version(cert, 2) != 1 || set_serial(cert) < 0 ||
        !X509_gmtime_adj(X509_getm_notBefore(cert), -300) ||
        !X509_gmtime_adj(X509_getm_notAfter(cert), days * 86400L) ||
        X509_set_pubkey(cert, key) != 1) {
        return NULL;
    }
    X509_NAME *name = X509_get_subject_name(cert);
    if (X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1,
                                   0) != 1 ||
        X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : name) != 1) {
        return NULL;
    }
    return TAKE_PTR(cert);
}

static int write_cert(const char *path, X509 *cert, struct err *e)
{
    _cleanup_(BIO_free_allp) BIO *bio = BIO_new(BIO_s_mem());
    char *p = NULL;

    if (!bio || PEM_write_bio_X509(bio, cert) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot encode a certificate");
    }
    long n = BIO_get_mem_data(bio, &p);
    return file_replace(path, BYTES(p, (size_t)n), 0644, e);
}

static int write_key(const char *path, EVP_PKEY *key, struct err *e)
{
    _cleanup_(BIO_free_allp) BIO *bio = BIO_new(BIO_s_secmem());
    char *p = NULL;

    if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "cannot encode a private key");
    }
    long n = BIO_get_mem_data(bio, &p);
    return file_replace(path, BYTES(p, (size_t)n), 0600, e);
}

static int load_ca(const char *cert_path, const char *key_path, X509 **ret_cert, EVP_PKEY **ret_key,
                   struct err *e)
{
    _cleanup_buf_ struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    _cleanup_secret_ struct secret *key_pem = NULL;
    _cleanup_(BIO_free_allp) BIO *cert_bio = NULL, *key_bio = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL;
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;

    if (file_read(cert_path, PEM_MAX_BYTES, 0, &pem, e) < 0 ||
        secret_read_file(key_path, PEM_MAX_BYTES, &key_pem, e) < 0) {
        return -1;
    }
    cert_bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    key_bio = BIO_new_mem_buf(secret_cp(key_pem), (int)secret_n(key_pem));
    cert = cert_bio ? PEM_read_bio_X509(cert_bio, NULL, NULL, NULL) : NULL;
    key = key_bio ? PEM_read_bio_PrivateKey(key_bio, NULL, NULL, NULL) : NULL;
    if (!cert || !key || X509_check_private_key(cert, key) != 1) {
        return err_set(e, ERR_INVALID, "%s and %s are no certificate and its key", cert_path,
                       key_path);
    }
    *ret_cert = TAKE_PTR(cert);
    *ret_key = TAKE_PTR(key);
    return 0;
}

static int make_ca(const char *cn, const char *cert_path, const char *key_path, X509 **ret_cert,
                   EVP_PKEY **ret_key, struct err *e)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
    _cleanup_(X509_freep) X509 *cert = NULL;

    cert = key ? cert_new(cn, CA_DAYS, key, NULL) : NULL;
    if (!cert || add_ext(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") < 0 ||
        add_ext(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") < 0 ||
        add_ext(cert, cert, NID_subject_key_identifier, "hash") < 0 ||
        X509_sign(cert, key, EVP_sha256()) == 0) {
        return err_set(e, ERR_INTERNAL, "cannot make the CA certificate");
    }
    if (write_key(key_path, key, e) < 0 || write_cert(cert_path, cert, e) < 0) {
        return -1;
    }
    *ret_cert = TAKE_PTR(cert);
    *ret_key = TAKE_PTR(key);
    return 0;
}

static int have_ca(const char *cn, const char *cert_path, const char *key_path, X509 **ret_cert,
                   EVP_PKEY **ret_key, struct err *e)
{
    /* The key is written first, so a CA certificate without its key is somebody's mistake and said.
     */
    int rc = access(cert_path, F_OK) == 0 ? load_ca(cert_path, key_path, ret_cert, ret_key, e)
                                          : make_ca(cn, cert_path, key_path, ret_cert, ret_key, e);

    return rc < 0 ? err_wrap(e, "CA") : 0;
}

int tpmca_make(const char *dir, const char *host, struct err *e)
{
    _cleanup_free_ char *cn = xasprintf("Coffer TPM CA of host %.48s", host);
    _cleanup_free_ char *cert_path = xasprintf("%s/" TPMCA_ROOT, dir);
    _cleanup_free_ char *key_path = xasprintf("%s/" TPMCA_KEY, dir);
    _cleanup_(X509_freep) X509 *cert = NULL;
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;

    return have_ca(cn, cert_path, key_path, &cert, &key, e);
}

/* "DNS:localhost,IP:127.0.0.1,…"; names are of characters that cannot end an entry. */
static int alt_names(const char *const *names, size_t n_names, struct buf *ret, struct err *e)
{
    if (buf_addf(ret, e, "DNS:localhost,IP:127.0.0.1,IP:::1") < 0) {
        return -1;
    }
    for (size_t i = 0; i < n_names; i++) {
        uint8_t addr[16];
        size_t len = strlen(names[i]);
        if (len == 0 || len > 253 ||
            strspn(names[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-") !=
                len) {
            return err_set(e, ERR_INVALID,
                           "names[%zu]: expected a DNS name or an address, got "
                           "\"%.80s\"",
                           i, names[i]);
        }
        int is_ip =
            inet_pton(AF_INET, names[i], addr) == 1 || inet_pton(AF_INET6, names[i], addr) == 1;
        if (!is_ip && strchr(names[i], ':')) {
            return err_set(e, ERR_INVALID, "names[%zu]: \"%.80s\" is no address", i, names[i]);
        }
        if (buf_addf(ret, e, ",%s:%s", is_ip ? "IP" : "DNS", names[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

int natsconf_certificates(const char *dir, const char *const *names, size_t n_names, struct err *e)
{
    _cleanup_free_ char *ca_path = xasprintf("%s/ca.pem", dir);
    _cleanup_free_ char *ca_key_path = xasprintf("%s/ca-key.pem", dir);
    _cleanup_free_ char *cert_path = xasprintf("%s/server.pem", dir);
    _cleanup_free_ char *key_path = xasprintf("%s/server-key.pem", dir);
    _cleanup_(X509_freep) X509 *ca = NULL, *cert = NULL;
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *ca_key = NULL, *key = NULL;
    _cleanup_buf_ struct buf san = BUF_INIT(32768);

    if (alt_names(names, n_names, &san, e) < 0) {
        return -1;
    }
    if (have_ca("Coffer NATS CA", ca_path, ca_key_path, &ca, &ca_key, e) < 0) {
        return -1;
    }
    key = EVP_EC_gen("P-256");
    cert = key ? cert_new("nats-server", SERVER_DAYS, key, ca) : NULL;
    if (!cert || add_ext(cert, ca, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
        add_ext(cert, ca, NID_key_usage, "critical,digitalSignature") < 0 ||
        add_ext(cert, ca, NID_ext_key_usage, "serverAuth") < 0 ||
        add_ext(cert, ca, NID_subject_key_identifier, "hash") < 0 ||
        add_ext(cert, ca, NID_authority_key_identifier, "keyid:always") < 0 ||
        add_ext(cert, ca, NID_subject_alt_name, (const char *)san.p) < 0 ||
        X509_sign(cert, ca_key, EVP_sha256()) == 0) {
        return err_set(e, ERR_INTERNAL, "cannot make the server's certificate");
    }
    if (write_key(key_path, key, e) < 0 || write_cert(cert_path, cert, e) < 0) {
        return -1;
    }
    return 0;
}
