/* What an appraisal may use beside the evidence: certificates, CRLs, TCB infos, QE identities,
 * RIMs, OCSP answers. A bag: files of any known form are added in any order (docs/APPRAISE.md lists
 * the forms), each is taken apart into items, and an appraiser looks for the items that belong to
 * its evidence. Adding only parses; nothing is believed until an appraiser has verified it.
 */
#ifndef COFFER_COLLATERAL_H
#define COFFER_COLLATERAL_H

#include "appraise/certs.h"
#include "common/jcs.h"

#define COLLATERAL_FILE_MAX_BYTES (8u * 1024 * 1024)
#define COLLATERAL_ITEMS_MAX 4096

enum item_kind {
    ITEM_CERT,        /* one X.509 certificate */
    ITEM_CRL,         /* one CRL */
    ITEM_TCB_INFO,    /* Intel PCS: raw text of the tcbInfo object, signature */
    ITEM_QE_IDENTITY, /* Intel PCS: raw text of the enclaveIdentity object, signature */
    ITEM_RIM,         /* NVIDIA: a signed SWID tag (XML) */
    ITEM_OCSP,        /* an OCSP response, DER */
    ITEM_KIND_N
};

struct item {
    enum item_kind kind;
    char *source; /* file name, and where in it, for messages */
    /* Items of one self-contained set (dcap-qvl's QuoteCollateral, Open Enclave's endorsements)
     * have the same number; 0: loose. What a set says about one appraisal is taken whole or
     * refused. */
    uint32_t set;
    /* What the item is for in its set: "root_ca_crl", "pck_crl", "tcb_info", "qe_identity",
     * "pck_chain", "tcb_chain", "qe_chain", "pck_crl_chain"; "" of loose ones. Static. */
    const char *role;
    struct cert *cert; /* ITEM_CERT: a reference */
    struct crl *crl;   /* ITEM_CRL: owned */
    struct buf raw;    /* TCB_INFO, QE_IDENTITY: exactly the signed bytes; RIM, OCSP: the file */
    uint8_t signature[64]; /* TCB_INFO, QE_IDENTITY: r || s */
    /* TCB_INFO, QE_IDENTITY: the issuer chain that came with the item, leaf first; none: look for a
     * signing certificate in the bag. */
    struct cert *chain[CERT_CHAIN_MAX];
    size_t n_chain;
    /* What an appraiser made of it once, and how to let it go: e.g. the parsed TCB info. */
    void *parsed;
    void (*parsed_free)(void *p);
};

struct collateral;

/* `certs` outlives it. */
struct collateral *collateral_new(struct certs *certs);
void collateral_free(struct collateral *c);
DEFINE_CLEANUP(struct collateral *, collateral_free);

/* Adds what the bytes hold. `name` is for messages. ERR_INVALID when the form is not known or a
 * part of it is damaged (then nothing of it is added), ERR_TOO_LARGE. */
int collateral_add(struct collateral *c, const char *name, struct bytes data, struct err *e);
/* A file, or every regular file of a directory (not below it). In a directory files of unknown form
 * are passed over and counted; a single file of unknown form is refused. */
int collateral_add_path(struct collateral *c, const char *path, size_t *ret_unknown, struct err *e);
size_t collateral_n(const struct collateral *c);
struct item *collateral_at(const struct collateral *c, size_t i);
struct certs *collateral_certs(const struct collateral *c);

#endif
