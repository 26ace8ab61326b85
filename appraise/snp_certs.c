#include "appraise/snp_certs.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

#define OID "1.3.6.1.4.1.3704.1."
#define TURIN_HWID_BYTES 8u

const struct snp_roots snp_amd_roots = {.of = {[SNP_MILAN] = &snp_issuers_milan,
                                               [SNP_GENOA] = &snp_issuers_genoa,
                                               [SNP_TURIN] = &snp_issuers_turin}};

int snp_is_vek(const struct cert *c, enum snp_key *ret_kind)
{
    char cn[128];

    cert_subject_cn(c, cn);
    if (!streq(cn, "SEV-VCEK") && !streq(cn, "SEV-VLEK")) {
        return 0;
    }
    *ret_kind = streq(cn, "SEV-VCEK") ? SNP_KEY_VCEK : SNP_KEY_VLEK;
    return 1;
}

/* ---- extensions ---- */

static int refuse_vek(struct err *e, const struct snp_vek *v, enum err_code code, const char *field,
                      const char *expected, const char *actual)
{
    char clause[64];

    snprintf(clause, sizeof(clause), "evidence.%s.%s", v->kind == SNP_KEY_VCEK ? "vcek" : "vlek",
             field);
    return err_refuse(e, code, clause, expected, "%s", actual);
}

/* A DER INTEGER from 0 to 255: above 127 it takes two bytes. */
static int small_integer(struct bytes b, uint8_t *ret)
{
    if (b.n == 3 && b.p[0] == 0x02 && b.p[1] == 1 && b.p[2] < 0x80) {
        *ret = b.p[2];
        return 0;
    }
    if (b.n == 4 && b.p[0] == 0x02 && b.p[1] == 2 && b.p[2] == 0 && b.p[3] >= 0x80) {
        *ret = b.p[3];
        return 0;
    }
    return -1;
}

/* A DER string of that tag with a short length. */
static int der_string(struct bytes b, uint8_t tag, struct bytes *ret)
{
    if (b.n < 2 || b.p[0] != tag || b.p[1] >= 0x80 || b.p[1] != b.n - 2) {
        return -1;
    }
    *ret = BYTES(b.p + 2, b.n - 2);
    return 0;
}

static int read_tcb(struct snp_vek *v, struct err *e)
{
    const struct {
        const char *oid, *name;
        uint8_t *to;
        int required;
    } parts[] = {
        {OID "3.1", "bl_spl", &v->tcb.bootloader, 1},
        {OID "3.2", "tee_spl", &v->tcb.tee, 1},
        {OID "3.3", "snp_spl", &v->tcb.snp, 1},
        {OID "3.4", "spl_4", &v->tcb.spl[0], 0},
        {OID "3.5", "spl_5", &v->tcb.spl[1], 0},
        {OID "3.6", "spl_6", &v->tcb.spl[2], 0},
        {OID "3.7", "spl_7", &v->tcb.spl[3], 0},
        {OID "3.8", "ucode_spl", &v->tcb.microcode, 1},
        {OID "3.9", "fmc_spl", &v->tcb.fmc, v->product == SNP_TURIN},
    };

    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct bytes x = cert_extension(v->cert, parts[i].oid);
        if ((x.n || parts[i].required) && small_integer(x, parts[i].to)) {
            return refuse_vek(e, v, ERR_INVALID, parts[i].name, "an INTEGER from 0 to 255",
                              x.n ? "something else" : "none");
        }
    }
    return 0;
}

static int read_hwid(struct snp_vek *v, struct err *e)
{
    struct bytes x = cert_extension(v->cert, OID "4"), inner = {0};
    size_t bytes = v->product == SNP_TURIN ? TURIN_HWID_BYTES : SNP_CHIP_ID_BYTES;

    if (v->kind == SNP_KEY_VLEK) {
        return x.n ? refuse_vek(e, v, ERR_INVALID, "hwid", "none: a VLEK is of no chip", "one") : 0;
    }
    if (x.n != bytes && der_string(x, 0x04, &inner) == 0) {
        x = inner;
    }
    if (x.n != bytes && x.n != SNP_CHIP_ID_BYTES) {
        return refuse_vek(e, v, ERR_INVALID, "hwid",
                          bytes == TURIN_HWID_BYTES ? "8 bytes" : "64 bytes",
                          x.n ? "another number" : "none");
    }
    memcpy(v->hwid, x.p, x.n);
    v->hwid_bytes = x.n;
    return 0;
}

static int read_csp(struct snp_vek *v, struct err *e)
{
    struct bytes x = cert_extension(v->cert, OID "5"), text;

    if (!x.n && v->kind == SNP_KEY_VCEK) {
        return 0;
    }
    if ((der_string(x, 0x16, &text) && der_string(x, 0x0c, &text)) || !text.n ||
        memchr(text.p, '\0', text.n) || text.n >= sizeof(v->csp)) {
        return refuse_vek(e, v, ERR_INVALID, "csp_id", "a string, the owner of the VLEK",
                          x.n ? "something else" : "none");
    }
    memcpy(v->csp, text.p, text.n);
    v->csp[text.n] = '\0';
    return 0;
}

/* "Milan-B0", "Genoa", ...; Bergamo and Siena are of Genoa's line. */
static enum snp_product product_named(struct bytes text)
{
    static const struct {
        const char *name;
        enum snp_product product;
    } names[] = {{"Milan", SNP_MILAN},
                 {"Genoa", SNP_GENOA},
                 {"Bergamo", SNP_GENOA},
                 {"Siena", SNP_GENOA},
                 {"Turin", SNP_TURIN}};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        size_t n = strlen(names[i].name);
        if (text.n >= n && memcmp(text.p, names[i].name, n) == 0 &&
            (text.n == n || text.p[n] == '-')) {
            return names[i].product;
        }
    }
    return SNP_UNKNOWN;
}

static int read_product(struct snp_vek *v, struct err *e)
{
    const char *prefix = v->kind == SNP_KEY_VCEK ? "SEV-" : "SEV-VLEK-";
    struct bytes x = cert_extension(v->cert, OID "2"), name = {0};
    char issuer[128];

    cert_issuer_cn(v->cert, issuer);
    for (int p = SNP_MILAN; p < SNP_PRODUCT_N; p++) {
        char expected[64];
        snprintf(expected, sizeof(expected), "%s%s", prefix, snp_product_name((enum snp_product)p));
        if (streq(issuer, expected)) {
            v->product = (enum snp_product)p;
        }
    }
    if (v->product == SNP_UNKNOWN) {
        return refuse_vek(e, v, ERR_UNSUPPORTED, "issuer",
                          v->kind == SNP_KEY_VCEK ? "SEV-Milan, SEV-Genoa or SEV-Turin"
                                                  : "SEV-VLEK-Milan, -Genoa or -Turin",
                          issuer);
    }
    if (der_string(x, 0x16, &name) || product_named(name) != v->product) {
        return refuse_vek(e, v, ERR_INVALID, "product_name", snp_product_name(v->product),
                          "another");
    }
    return 0;
}

static int is_p384(EVP_PKEY *k)
{
    char group[32] = "";
    size_t n;

    return EVP_PKEY_is_a(k, "EC") && EVP_PKEY_get_group_name(k, group, sizeof(group), &n) == 1 &&
           streq(group, "secp384r1");
}

int snp_vek_parse(struct cert *c, struct snp_vek *ret, struct err *e)
{
    struct snp_vek v = {.cert = c};
    uint8_t version;
    char cn[128];

    if (!snp_is_vek(c, &v.kind)) {
        cert_subject_cn(c, cn);
        return err_refuse(e, ERR_INVALID, "evidence.vcek.subject", "SEV-VCEK or SEV-VLEK", "%s",
                          cn);
    }
    if (read_product(&v, e)) {
        return -1;
    }
    if (small_integer(cert_extension(c, OID "1"), &version) || version > 1) {
        return refuse_vek(e, &v, ERR_UNSUPPORTED, "struct_version", "0 or 1", "another, or none");
    }
    if (!is_p384(c->key)) {
        return refuse_vek(e, &v, ERR_INVALID, "public_key", "a key on P-384", "another");
    }
    if (read_tcb(&v, e) || read_hwid(&v, e) || read_csp(&v, e)) {
        return -1;
    }
    *ret = v;
    return 0;
}

/* ---- chains ---- */

/* RSASSA-PSS, SHA-384 (MGF1 with the same and a salt as long are what OpenSSL tells by the flag
 * that TLS has for it). */
static int check_signature_kind(const char *what, const struct cert *c, struct err *e)
{
    char clause[96];
    int md, pk;
    uint32_t flags;

    if (X509_get_signature_info(c->x, &md, &pk, NULL, &flags) == 1 && md == NID_sha384 &&
        pk == EVP_PKEY_RSA_PSS && (flags & X509_SIG_INFO_TLS)) {
        return 0;
    }
    snprintf(clause, sizeof(clause), "%s.signature_algorithm", what);
    return err_refuse(e, ERR_BAD_SIGNATURE, clause,
                      "RSASSA-PSS with SHA-384 and a salt of 48 bytes", "another");
}

struct walk {
    struct certs *store;
    const struct snp_vek *vek;
    const struct snp_aids *aids;
    const struct snp_issuers *issuers;
    int64_t at_ms;
    struct cert *chain[3];
};

/* Of the aids those that have the name; the first whose key signed the VEK wins. None of the name,
 * but others of that kind: then what was given is not for this evidence. */
static int find_ask(struct walk *w, struct err *e)
{
    const char *prefix = w->vek->kind == SNP_KEY_VCEK ? "SEV-" : "SEV-VLEK-";
    char name[128], cn[128], other[128] = "";
    struct cert *named = NULL;

    cert_issuer_cn(w->vek->cert, name);
    for (size_t i = 0; i < w->aids->n_certs; i++) {
        struct cert *c = w->aids->certs[i];
        enum snp_key kind;
        cert_subject_cn(c, cn);
        int of_kind = strncmp(cn, prefix, strlen(prefix)) == 0 && !snp_is_vek(c, &kind) &&
                      (w->vek->kind == SNP_KEY_VLEK || strncmp(cn, "SEV-VLEK-", 9) != 0);
        if (streq(cn, name)) {
            named = c;
            if (cert_signed_by(w->store, "evidence.vek_chain", w->vek->cert, c, NULL) == 0) {
                break;
            }
        } else if (of_kind) {
            snprintf(other, sizeof(other), "%s", cn);
        }
    }
    if (named) {
        w->chain[1] = named;
        return 0;
    }
    if (*other) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "evidence.ask", name, "%s", other);
    }
    return certs_add_der(w->store, "evidence.ask",
                         w->vek->kind == SNP_KEY_VCEK ? w->issuers->ask : w->issuers->asvk,
                         &w->chain[1], e);
}

/* An ARK that came along must be the pinned one. */
static int check_given_arks(const struct walk *w, struct err *e)
{
    char name[128], cn[128];
    int given = 0, same = 0;

    cert_subject_cn(w->chain[2], name);
    for (size_t i = 0; i < w->aids->n_certs; i++) {
        cert_subject_cn(w->aids->certs[i], cn);
        if (streq(cn, name)) {
            given = 1;
            same = same || cert_same_key(w->aids->certs[i], w->chain[2]);
        }
    }
    return given && !same ? err_refuse(e, ERR_DENIED, "evidence.ark", "AMD's root for that product",
                                       "another key by the name of %s", name)
                          : 0;
}

static int check_chain(struct walk *w, struct err *e)
{
    const struct cert *anchor = w->chain[2];
    const struct chain_rules rules = {
        .what = "evidence.vek_chain", .at_ms = w->at_ms, .anchors = &anchor, .n_anchors = 1};

    return check_signature_kind("evidence.vek_chain[0]", w->chain[0], e) ||
                   check_signature_kind("evidence.vek_chain[1]", w->chain[1], e) ||
                   chain_verify(w->store, &rules, w->chain, ARRAY_LEN(w->chain), e)
               ? -1
               : 0;
}

/* ---- revocation ---- */

/* The ARK's CRL, which lists ASKs; AMD gives VCEKs no serial numbers of their own, so a CRL of the
 * ARK that did list theirs would mean all of them. The newest that holds. */
static int find_crl(const struct walk *w, struct crl **ret, struct err *e)
{
    struct crl *best = NULL;
    struct err why = {0};
    int given = 0;

    for (size_t i = 0; i < w->aids->n_crls; i++) {
        struct crl *c = w->aids->crls[i];
        if (!crl_is_of(c, w->chain[2])) {
            continue;
        }
        given = 1;
        if (crl_verify(w->store, "collateral.crl", c, w->chain[2], w->at_ms, &why) == 0 &&
            (!best || crl_this_update_ms(c) > crl_this_update_ms(best))) {
            best = c;
        }
    }
    if (given && !best) {
        if (e) {
            *e = why;
        }
        return -1;
    }
    *ret = best;
    return 0;
}

/* CRLs of other ARKs alone are no answer to whether this one's ASK is revoked. */
static int check_crl_of_other(const struct walk *w, const struct snp_roots *roots, struct err *e)
{
    for (size_t i = 0; i < w->aids->n_crls; i++) {
        for (int p = SNP_MILAN; p < SNP_PRODUCT_N; p++) {
            struct cert *ark;
            char cn[128];
            if (roots->of[p] &&
                certs_add_der(w->store, "evidence.ark", roots->of[p]->ark, &ark, e)) {
                return -1;
            }
            if (roots->of[p] && crl_is_of(w->aids->crls[i], ark)) {
                cert_subject_cn(w->chain[2], cn);
                return err_refuse(e, ERR_DENIED, "collateral.crl.issuer", cn, "ARK-%s",
                                  snp_product_name((enum snp_product)p));
            }
        }
    }
    return 0;
}

static int check_crl(const struct walk *w, const struct snp_roots *roots, struct crl **ret,
                     struct err *e)
{
    static const char *const names[] = {"evidence.vcek.revoked", "evidence.ask.revoked",
                                        "evidence.ark.revoked"};

    if (find_crl(w, ret, e)) {
        return -1;
    }
    if (!*ret) {
        return check_crl_of_other(w, roots, e);
    }
    for (size_t i = 0; i < ARRAY_LEN(w->chain); i++) {
        if (crl_has(*ret, w->chain[i])) {
            return err_refuse(e, ERR_DENIED, names[i], "a certificate that is not revoked",
                              "one that the CRL lists");
        }
    }
    return 0;
}

int snp_vek_verify(struct certs *store, const struct snp_vek *vek, const struct snp_aids *aids,
                   const struct snp_roots *roots, int64_t at_ms, const struct crl **ret_crl,
                   struct err *e)
{
    struct walk w = {.store = store,
                     .vek = vek,
                     .aids = aids,
                     .issuers = roots->of[vek->product],
                     .at_ms = at_ms};
    struct crl *crl = NULL;

    if (!w.issuers) {
        return err_refuse(e, ERR_UNSUPPORTED, "evidence.vek_chain.root",
                          "a product whose root is known", "%s", snp_product_name(vek->product));
    }
    w.chain[0] = vek->cert;
    if (certs_add_der(store, "evidence.ark", w.issuers->ark, &w.chain[2], e)) {
        return -1;
    }
    /* Held, as taking another may push it out of the store. */
    _cleanup_(cert_unrefp) _unused_ struct cert *ark = cert_ref(w.chain[2]);
    if (find_ask(&w, e)) {
        return -1;
    }
    _cleanup_(cert_unrefp) _unused_ struct cert *ask = cert_ref(w.chain[1]);
    if (check_given_arks(&w, e) || check_chain(&w, e) || check_crl(&w, roots, &crl, e)) {
        return -1;
    }
    *ret_crl = crl;
    return 0;
}
