/* Keys that wrap images' layers: each in <config dir>/coffer/image-keys/<id>.json as
 * {"v":1,"descriptor":{...},"jwe":{...}}, the key sealed to its owner with its id in it. */
#ifndef COFFER_CLI_IMAGE_KEY_H
#define COFFER_CLI_IMAGE_KEY_H

#include "common/keybox.h"

struct image_key {
    json_t *descriptor; /* owned */
    struct secret *key; /* owned */
    char id[KEYBOX_ID_MAX + 1];
};
/* Makes one and stores it in `dir`. ERR_INVALID (name), ERR_IO. */
int image_key_new(const char *dir, const char *name, const struct jkey *owner,
                  struct image_key *ret, struct err *e);
/* Reads one; its id must be `id`. ERR_NOT_FOUND, ERR_INVALID, ERR_BAD_SIGNATURE (another's). */
int image_key_load(const char *dir, const char *id, const struct jkey *owner, struct image_key *ret,
                   struct err *e);
void image_key_done(struct image_key *k);

#endif
