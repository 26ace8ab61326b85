/* The hosts that were enrolled for virtual TPMs (`coffer host enrol`): whose endorsement keys a
 * verifier takes for genuine. One JSON file:
 *
 *   { "v": 1, "hosts": [ { "host": NAME, "roots": [PEM...], "eks": [hex SHA-256...] } ] }
 *
 * An endorsement key is a host's when one of its roots certifies it and, where `eks` is not empty,
 * the certificate's SHA-256 is in that list too. */
#ifndef COFFER_TPMHOSTS_H
#define COFFER_TPMHOSTS_H

#include <openssl/types.h>

#include "common/jcs.h"

#define TPMHOSTS_MAX_BYTES (1u << 20)
#define TPMHOSTS_MAX 256
#define TPMHOSTS_MAX_ROOTS 8
#define TPMHOSTS_MAX_EKS 256
#define TPMHOSTS_NAME_MAX 64

struct tpm_host {
    char name[TPMHOSTS_NAME_MAX + 1];
    X509 *roots[TPMHOSTS_MAX_ROOTS]; /* owned */
    size_t n_roots;
    uint8_t (*eks)[32]; /* owned */
    size_t n_eks;
};
struct tpm_hosts {
    struct tpm_host v[TPMHOSTS_MAX];
    size_t n;
};

/* Whether it is 1 to TPMHOSTS_NAME_MAX of [A-Za-z0-9_-]. */
int tpm_host_name_valid(const char *name);

/* ERR_IO, ERR_TOO_LARGE, ERR_INVALID: names the member. */
int tpm_hosts_read(const char *path, struct tpm_hosts **ret, struct err *e);
int tpm_hosts_parse(struct bytes in, struct tpm_hosts **ret, struct err *e);
/* As a file has it; new reference. */
json_t *tpm_hosts_json(const struct tpm_hosts *h);
void tpm_hosts_free(struct tpm_hosts *h);
DEFINE_CLEANUP(struct tpm_hosts *, tpm_hosts_free);

/* Exactly one certificate in PEM, and of a CA. Owned by the caller. ERR_INVALID. */
int tpm_root_parse(struct bytes pem, const char *what, X509 **ret, struct err *e);
/* SHA-256 of a certificate in DER. ERR_INTERNAL. */
int tpm_cert_digest(const X509 *cert, uint8_t ret[32], struct err *e);

#endif
