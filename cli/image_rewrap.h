/* From skopeo's JWE recipients to Coffer's image keys.
 *
 * Debian 12's skopeo is built with ocicrypt 1.0, which can encrypt to a public key (jwe:) but has
 * no key providers; those came with ocicrypt 1.1. So `coffer image encrypt` lets that unmodified
 * skopeo encrypt the layers to a key pair that lives only for the call, and then wraps the layers'
 * keys anew with the image key. The layers themselves are not touched; the manifest, and so its
 * digest, changes. A skopeo with key providers calls `coffer keyprovider` itself and needs none of
 * this; the images are the same in form.
 */
#ifndef COFFER_IMAGE_REWRAP_H
#define COFFER_IMAGE_REWRAP_H

#include "common/jcs.h"
#include "common/secret.h"

/* Makes a P-256 key pair: its public half as PEM in pem_path (for `--encryption-key jwe:PATH`), the
 * private half as a JWK in memory, which the caller drops with json_decref. ERR_IO. */
int image_recipient_new(const char *pem_path, json_t **ret_private_jwk, struct err *e);

/* In the OCI layout directory `layout`, takes the manifest named `tag` (NULL: the only one), opens
 * every layer's JWE with private_jwk, wraps the layer keys with `kek` under the id `kid`, stores
 * the new manifest, points index.json at it and removes the old one. *ret_digest ("sha256:…") is
 * the caller's. ERR_INVALID naming the file and member, ERR_NOT_FOUND (tag), ERR_BAD_SIGNATURE (a
 * JWE that does not open, a manifest that is not its digest), ERR_IO. */
int image_rewrap(const char *layout, const char *tag, const json_t *private_jwk, const char *kid,
                 const struct secret *kek, char **ret_digest, struct err *e);

#endif
