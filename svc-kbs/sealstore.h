/* Where secrets lie: a table of backends, each of which turns a key into a reference that is kept
 * in the KBS's database, and back. `local` keeps the key itself there, sealed under the KEK.
 */
#ifndef COFFER_SEALSTORE_H
#define COFFER_SEALSTORE_H

#include "common/buf.h"
#include "common/secret.h"

#define SEALED_REF_MAX_BYTES 4096u

/* Which secret: all of it is authenticated with the key, so that a row cannot be given another. */
struct secret_name {
    const char *id, *kind, *owner; /* owner: thumbprint */
};

struct secret_backend {
    const char *name; /* kept with every secret */
    /* ERR_IO, ERR_INTERNAL. */
    int (*put)(const struct secret *kek, const struct secret_name *name, const struct secret *key,
               struct buf *ret_ref, struct err *e);
    /* ERR_BAD_SIGNATURE when the reference is not what `put` made for that name under that KEK. */
    int (*get)(const struct secret *kek, const struct secret_name *name, struct bytes ref,
               struct secret **ret_key, struct err *e);
};

/* NULL when there is none of that name. */
const struct secret_backend *secret_backend_find(const char *name);

/* A value that only this KEK opens: tells a wrong KEK at start, before it can do harm. */
int kek_check_make(const struct secret *kek, struct buf *ret, struct err *e);
/* ERR_DENIED when it was made under another KEK. */
int kek_check(const struct secret *kek, struct bytes check, struct err *e);

#endif
