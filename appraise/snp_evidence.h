/* The forms that SNP evidence comes in, and what each holds: the report, and maybe certificates and
 * a CRL. Nothing here is believed: a host puts what it likes beside a report.
 *
 * Binary: the report; the report and AMD's table of certificates behind it (extended report, GHCB
 * specification, publication 56421); the answer of /dev/sev-guest; a TSM report in CBOR; dstack's
 * SCALE form. JSON: Trustee's {"attestation_report":{fields}, "cert_chain":[{"cert_type","data"}]},
 * the report as base64 or hex with certificates beside it, TSM reports (outblob, auxblob), and
 * these within "evidence", "sev_snp", "cmw" and such. Any of them as hex or base64 text. */
#ifndef COFFER_SNP_EVIDENCE_H
#define COFFER_SNP_EVIDENCE_H

#include <jansson.h>

#include "appraise/certs.h"
#include "appraise/snp_report.h"

#define SNP_EVIDENCE_MAX_BYTES (256u * 1024)
#define SNP_CERTS_MAX 16u

struct snp_evidence {
    uint8_t report[SNP_REPORT_BYTES];
    int has_report;
    struct cert *certs[SNP_CERTS_MAX]; /* references */
    size_t n_certs;
    struct crl *crl; /* owned; NULL: none */
    size_t n_bad;    /* things beside the report that were neither: some hosts hand out such */
    size_t n_seen;   /* how often a certificate or CRL was tried: bounded */
    struct certs *store;
};

/* Certificates go to `store`. ERR_INVALID, ERR_TOO_LARGE, ERR_UNSUPPORTED; clause "evidence...". */
int snp_evidence_take(struct certs *store, struct bytes in, struct snp_evidence *ret,
                      struct err *e);
void snp_evidence_done(struct snp_evidence *ev);

/* ---- between snp_evidence.c and snp_json.c ---- */

#define SNP_NESTING_MAX 5

int snp_take_form(struct snp_evidence *ev, struct bytes in, int depth, struct err *e);
int snp_take_json(struct snp_evidence *ev, const json_t *j, int depth, struct err *e);
/* Certificates and CRLs, DER, PEM or AMD's table of them; what is none of these is counted. */
void snp_take_certs(struct snp_evidence *ev, struct bytes in);
/* Does it begin with an entry of AMD's table of certificates? */
int snp_is_cert_table(struct bytes in);
/* The data of its i-th entry, empty when that is not of AMD's; -1 behind the last, or when it does
 * not lie within `in`. */
int snp_cert_table_entry(struct bytes in, size_t i, struct bytes *ret);
/* hex, base64 or base64url, white space in it or not. -1: none of these. */
int snp_text_decode(struct bytes text, struct buf *ret);

#endif
