/* Intel's signed objects: TCB info (versions 2 and 3) and QE identity (version 2), parsed from
 * their exact text, and a platform's TCB evaluated by them as Intel's QVL does ("Intel SGX and TDX
 * Provisioning Certification Service API", v4).
 */
#ifndef COFFER_DCAP_TCB_H
#define COFFER_DCAP_TCB_H

#include "appraise/appraiser.h"
#include "appraise/dcap_pck.h"
#include "appraise/dcap_quote.h"

#define TCB_LEVELS_MAX 256
#define TCB_MODULES_MAX 32
#define TCB_ADVISORIES_MAX 256

/* What a level says of itself; advisories are borrowed from the document's JSON. */
struct tcb_word {
    enum tcb_status status;
    int64_t date_ms;
    const json_t *advisories; /* array of strings, or NULL */
};

struct tcb_level {
    uint16_t sgx[16], tdx[16]; /* a component that wants more than 255 is out of reach */
    uint16_t pce_svn;
    struct tcb_word word;
};

/* A level of something that has an ISVSVN only: TDX modules, quoting enclaves. */
struct isv_level {
    uint16_t isv_svn;
    struct tcb_word word;
};

struct tdx_module {
    char id[16]; /* "TDX_03"; "" for the tdxModule member */
    uint8_t mrsigner[48], attributes[8], attributes_mask[8];
    struct isv_level *levels; /* owned; highest first */
    size_t n_levels;
};

struct tcb_info {
    json_t *json; /* owned */
    int version, is_tdx;
    int64_t issue_ms, next_ms, evaluation;
    uint8_t fmspc[6], pce_id[2];
    struct tdx_module module, *modules; /* of TDX only; owned */
    size_t n_modules;
    struct tcb_level *levels; /* owned; highest first */
    size_t n_levels;
};

struct qe_identity {
    json_t *json; /* owned */
    char id[8];   /* "QE", "TD_QE" */
    int64_t issue_ms, next_ms, evaluation;
    uint8_t miscselect[4], miscselect_mask[4]; /* as they lie in a report */
    uint8_t attributes[16], attributes_mask[16];
    uint8_t mrsigner[32];
    uint16_t isv_prod_id;
    struct isv_level *levels; /* owned; highest first */
    size_t n_levels;
};

/* ERR_INVALID, ERR_UNSUPPORTED with a clause "collateral.tcb_info..." or
 * "collateral.qe_identity...". An unknown status, a duplicate level, a component list that is not
 * 16 long are refused. */
int tcb_info_parse(struct bytes raw, struct tcb_info **ret, struct err *e);
void tcb_info_free(void *tcb_info);
int qe_identity_parse(struct bytes raw, struct qe_identity **ret, struct err *e);
void qe_identity_free(void *qe_identity);

/* The outcome for one quote. */
struct tcb_verdict {
    enum tcb_status status;
    /* Of TD 1.5: as it was launched, and with the SVN that is current; TCB_NONE otherwise. */
    enum tcb_status launch, current;
    int64_t date_ms;             /* the least of the parts */
    const json_t *advisories[4]; /* of platform, module, QE; borrowed */
    size_t n_advisories;
};

/* Of platform, TDX module and QE (`qe` NULL: not of the QE): PCK's SVNs, and for TDX the quote's
 * module and TEE_TCB_SVN. The TDX module's identity is checked (ERR_DENIED, clause
 * "evidence.tdx_module..."). */
int tcb_evaluate(const struct tcb_info *t, const struct qe_identity *qe, const struct pck *pck,
                 const struct dcap_quote *q, struct tcb_verdict *ret, struct err *e);
/* Whether the QE report is of the enclave that the identity describes: MISCSELECT, ATTRIBUTES,
 * MRSIGNER, ISVPRODID. ERR_DENIED, clause "evidence.qe_report...". */
int qe_identity_check(const struct qe_identity *qe, const uint8_t report[SGX_REPORT_BYTES],
                      struct err *e);

#endif
