/* Inside of collateral.c and collateral_json.c. */
#ifndef COFFER_COLLATERAL_INT_H
#define COFFER_COLLATERAL_INT_H

#include "appraise/collateral.h"

/* Where an item comes from and belongs. */
struct origin {
    const char *name; /* of the file */
    uint32_t set;     /* 0: loose */
    const char *role; /* static; "" when loose */
    int depth;        /* of encodings within encodings */
};

#define ENCODINGS_MAX 2

uint32_t collateral_next_set(struct collateral *c);
/* What the bytes are is found out. 0; -1 with *e; ERR_UNSUPPORTED: of no known form. */
int collateral_take(struct collateral *c, const struct origin *o, struct bytes data, struct err *e);
int collateral_take_json(struct collateral *c, const struct origin *o, struct bytes data,
                         struct err *e);
/* An item of raw bytes; borrowed. NULL: the bag is full, or it is too large. */
struct item *collateral_new_item(struct collateral *c, const struct origin *o, enum item_kind kind,
                                 struct bytes raw, struct err *e);
/* A text of certificates, PEM or percent-encoded PEM, into an item's own issuer chain. */
int collateral_set_chain(struct collateral *c, struct item *i, struct bytes text, struct err *e);

#endif
