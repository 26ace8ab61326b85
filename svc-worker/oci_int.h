/* What the files of the OCI reader share. */
#ifndef COFFER_OCI_INT_H
#define COFFER_OCI_INT_H

#include "common/jcs.h"
#include "common/untar.h"
#include "svc-worker/oci.h"

#define OCI_SHA256_BYTES 32u
#define OCI_HEX_CHARS 64u

enum oci_compression { OCI_PLAIN_TAR, OCI_GZIP, OCI_ZSTD };

struct oci_packet {
    char *kid;       /* owned */
    struct buf json; /* owned */
};

/* How a layer is encrypted: its annotations, parsed. */
struct ocicrypt {
    uint8_t hmac[OCI_SHA256_BYTES];
    struct oci_packet *packets; /* owned */
    size_t n_packets;           /* >= 1 */
};

/* A layer's private options. */
struct ocicrypt_key {
    struct secret *symkey; /* owned; 32 bytes */
    uint8_t nonce[16];
};

struct oci_layer {
    size_t index;
    char hex[OCI_HEX_CHARS + 1]; /* of the blob's digest */
    uint8_t digest[OCI_SHA256_BYTES];
    uint8_t diff_id[OCI_SHA256_BYTES];
    uint64_t size; /* of the blob */
    enum oci_compression compression;
    struct ocicrypt *crypt; /* owned; NULL when it is not encrypted */
};

/* "sha256:<64 lower-case hex>" -> bytes and hex. ERR_INVALID naming `what`. */
int oci_digest_parse(const char *what, const char *s, uint8_t ret[OCI_SHA256_BYTES],
                     char ret_hex[OCI_HEX_CHARS + 1], struct err *e);
/* Parses the annotations of an encrypted layer; `what` names the layer. ERR_INVALID, ERR_TOO_LARGE,
 * ERR_UNSUPPORTED. */
int ocicrypt_parse(const char *what, const json_t *annotations, struct ocicrypt **ret,
                   struct err *e);
void ocicrypt_free(struct ocicrypt *c);
DEFINE_CLEANUP(struct ocicrypt *, ocicrypt_free);
/* Whether annotations speak of encryption at all. */
int ocicrypt_is_marked(const json_t *annotations);
/* Unwraps the layer key with the first of the keys that is given and opens. */
int ocicrypt_open(const struct ocicrypt *c, const struct oci_keys *keys, struct ocicrypt_key *ret,
                  struct err *e);
void ocicrypt_key_done(struct ocicrypt_key *k);

/* Checks and unpacks one layer. stream_left bounds the uncompressed tar streams of all layers. */
int oci_layer_unpack(const struct blobs *store, const struct oci_layer *l,
                     const struct oci_keys *keys, struct untar *u, uint64_t *stream_left,
                     struct err *e);

#endif
