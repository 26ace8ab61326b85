/* The local store of sealed datasets and image blobs: what a host's workers read. */
#ifndef COFFER_CLI_STORE_H
#define COFFER_CLI_STORE_H

#include <jansson.h>

#include "common/err.h"
#include "common/keybox.h"

/* Adds a sealed dataset's file, or an image of an OCI layout ("dir" or "dir:tag") after checking
 * the digest of every blob; appends {"kind","id","bytes"} to `added`. ERR_INVALID (no sealed
 * dataset), ERR_DENIED (a layer that is not encrypted), ERR_BAD_SIGNATURE (a digest),
 * ERR_NOT_FOUND, ERR_IO. */
int store_add(const char *store, const char *path, int allow_plain, json_t *added, struct err *e);
/* Array of {"kind","id","bytes",...}; new reference. */
json_t *store_list_items(const char *store);
/* A dataset by id or an image by digest. ERR_NOT_FOUND, ERR_INVALID, ERR_IO. */
int store_remove(const char *store, const char *id, struct err *e);

#endif
