#include "appraise/collateral_int.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "appraise/snp_evidence.h"
#include "common/fileio.h"

#define DIR_FILES_MAX 4096
#define SET_PARTS 7

struct collateral {
    struct certs *certs;
    struct item **v;
    size_t n;
    uint32_t sets;
};

/* ---- the bag --------------------------------------------------------------------------------- */

static void item_free(struct item *i)
{
    if (!i) {
        return;
    }
    if (i->parsed_free) {
        i->parsed_free(i->parsed);
    }
    cert_unref(i->cert);
    crl_free(i->crl);
    buf_done(&i->raw);
    for (size_t k = 0; k < i->n_chain; k++) {
        cert_unref(i->chain[k]);
    }
    free(i->source);
    free(i);
}
DEFINE_CLEANUP(struct item *, item_free);

struct collateral *collateral_new(struct certs *certs)
{
    struct collateral *c = xcalloc(1, sizeof(*c));

    c->certs = certs;
    return c;
}

static void cut(struct collateral *c, size_t n)
{
    while (c->n > n) {
        item_free(c->v[--c->n]);
    }
}

void collateral_free(struct collateral *c)
{
    if (c) {
        cut(c, 0);
        free(c->v);
        free(c);
    }
}

size_t collateral_n(const struct collateral *c)
{
    return c ? c->n : 0;
}

struct item *collateral_at(const struct collateral *c, size_t i)
{
    return c->v[i];
}

struct certs *collateral_certs(const struct collateral *c)
{
    return c->certs;
}

uint32_t collateral_next_set(struct collateral *c)
{
    return ++c->sets;
}

static int push(struct collateral *c, struct item **take, struct err *e)
{
    if (c->n == COLLATERAL_ITEMS_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "collateral", "at most 4096 items", "more");
    }
    c->v = xrealloc(c->v, (c->n + 1) * sizeof(*c->v));
    c->v[c->n++] = TAKE_PTR(*take);
    return 0;
}

static struct item *make(const struct origin *o, enum item_kind kind)
{
    struct item *i = xcalloc(1, sizeof(*i));

    i->kind = kind;
    i->set = o->set;
    i->role = o->role;
    i->source = xstrdup(o->name);
    i->raw = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);
    return i;
}

struct item *collateral_new_item(struct collateral *c, const struct origin *o, enum item_kind kind,
                                 struct bytes raw, struct err *e)
{
    _cleanup_(item_freep) struct item *i = make(o, kind);
    struct item *borrowed = i;

    return buf_add(&i->raw, raw.p, raw.n, e) || push(c, &i, e) ? NULL : borrowed;
}

static int has_cert(const struct collateral *c, const struct origin *o, const struct cert *cert)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct item *x = c->v[i];
        if (x->cert == cert && x->set == o->set && streq(x->role, o->role)) {
            return 1;
        }
    }
    return 0;
}

static int add_cert(struct collateral *c, const struct origin *o, struct bytes der, struct err *e)
{
    _cleanup_(item_freep) struct item *i = NULL;
    struct cert *cert;

    if (certs_add_der(c->certs, "collateral.certificate", der, &cert, e)) {
        return -1;
    }
    if (has_cert(c, o, cert)) {
        return 0;
    }
    i = make(o, ITEM_CERT);
    i->cert = cert_ref(cert);
    return push(c, &i, e);
}

static int add_crl(struct collateral *c, const struct origin *o, struct bytes der, struct err *e)
{
    _cleanup_(item_freep) struct item *i = make(o, ITEM_CRL);

    return crl_parse("collateral.crl", der, &i->crl, e) || push(c, &i, e) ? -1 : 0;
}

/* ---- PEM (RFC 7468), and percent-encoded PEM as the PCS has it in headers -------------------- */

static int find(struct bytes t, size_t from, const char *what, size_t *ret)
{
    const void *at = from < t.n ? memmem(t.p + from, t.n - from, what, strlen(what)) : NULL;

    if (at) {
        *ret = (size_t)((const uint8_t *)at - t.p);
    }
    return at != NULL;
}

static int pem_body(struct bytes t, struct buf *ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(t.n + 1);

    for (size_t i = 0; i < t.n; i++) {
        if (!isspace(t.p[i]) && buf_add(&text, t.p + i, 1, e)) {
            return -1;
        }
    }
    if (!text.n || b64_decode((const char *)text.p, text.n, ret, NULL)) {
        return err_refuse(e, ERR_INVALID, "collateral.pem", "base64 between the lines of PEM",
                          "something else");
    }
    return 0;
}

static int take_block(struct collateral *c, const struct origin *o, struct bytes t, size_t *at,
                      struct err *e)
{
    static const struct {
        const char *begin, *end;
        int crl;
    } kinds[] = {
        {"-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", 0},
        {"-----BEGIN X509 CRL-----", "-----END X509 CRL-----", 1},
    };
    _cleanup_buf_ struct buf der = BUF_INIT(CRL_MAX_BYTES);

    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        size_t from = *at + strlen(kinds[k].begin), to;
        if (t.n - *at < strlen(kinds[k].begin) ||
            memcmp(t.p + *at, kinds[k].begin, strlen(kinds[k].begin)) != 0) {
            continue;
        }
        if (!find(t, from, kinds[k].end, &to)) {
            return err_refuse(e, ERR_INVALID, "collateral.pem", kinds[k].end, "no end");
        }
        *at = to + strlen(kinds[k].end);
        return pem_body(BYTES(t.p + from, to - from), &der, e) ||
                       (kinds[k].crl ? add_crl(c, o, buf_bytes(&der), e)
                                     : add_cert(c, o, buf_bytes(&der), e))
                   ? -1
                   : 0;
    }
    return err_refuse(e, ERR_INVALID, "collateral.pem", "certificates and CRLs", "another block");
}

static int take_pem(struct collateral *c, const struct origin *o, struct bytes t, struct err *e)
{
    size_t at = 0;

    while (find(t, at, "-----BEGIN ", &at)) {
        if (take_block(c, o, t, &at, e)) {
            return -1;
        }
    }
    return 0;
}

static int hex_value(uint8_t b)
{
    return b >= '0' && b <= '9'                     ? b - '0'
           : (b | 0x20) >= 'a' && (b | 0x20) <= 'f' ? (b | 0x20) - 'a' + 10
                                                    : -1;
}

/* RFC 3986 §2.1. */
static int percent_decode(struct bytes t, struct buf *ret, struct err *e)
{
    for (size_t i = 0; i < t.n; i++) {
        uint8_t b = t.p[i];
        if (b == '%') {
            int hi = i + 2 < t.n ? hex_value(t.p[i + 1]) : -1,
                lo = hi < 0 ? -1 : hex_value(t.p[i + 2]);
            if (lo < 0) {
                return err_refuse(e, ERR_INVALID, "collateral.pem", "percent-encoded PEM",
                                  "a percent sign without two hex digits");
            }
            b = (uint8_t)(hi << 4 | lo);
            i += 2;
        }
        if (buf_add(ret, &b, 1, e)) {
            return -1;
        }
    }
    return 0;
}

int collateral_set_chain(struct collateral *c, struct item *i, struct bytes text, struct err *e)
{
    _cleanup_buf_ struct buf plain = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);
    size_t at;

    if (find(text, 0, "BEGIN%20CERTIFICATE", &at)) {
        if (percent_decode(text, &plain, e)) {
            return -1;
        }
        text = buf_bytes(&plain);
    }
    if (certs_add_pem(c->certs, "collateral.issuer_chain", text, i->chain, CERT_CHAIN_MAX,
                      &i->n_chain, e)) {
        i->n_chain = 0;
        return -1;
    }
    for (size_t k = 0; k < i->n_chain; k++) {
        cert_ref(i->chain[k]);
    }
    return 0;
}

/* ---- binary sets ----------------------------------------------------------------------------- */

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* What stands in C strings. */
static struct bytes without_nul(struct bytes b)
{
    while (b.n && !b.p[b.n - 1]) {
        b.n--;
    }
    return b;
}

/* The parts of a set: issuer chains go to the JSON objects they belong to. */
struct parts {
    struct bytes part[SET_PARTS];
};
enum {
    PART_PCK_CRL_CHAIN,
    PART_ROOT_CRL,
    PART_PCK_CRL,
    PART_TCB_CHAIN,
    PART_TCB,
    PART_QE_CHAIN,
    PART_QE
};

static int take_signed_json(struct collateral *c, const struct origin *o, struct bytes json,
                            struct bytes chain, struct err *e)
{
    size_t first = c->n;

    if (collateral_take_json(c, o, json, e)) {
        return -1;
    }
    if (c->n != first + 1) {
        return err_refuse(e, ERR_INVALID, "collateral.set", "one signed object in each part", "%zu",
                          c->n - first);
    }
    return collateral_set_chain(c, c->v[first], chain, e);
}

static int take_parts(struct collateral *c, const struct origin *of, const struct parts *p,
                      struct err *e)
{
    static const char *const roles[SET_PARTS] = {"pck_crl_chain", "root_ca_crl", "pck_crl",
                                                 "tcb_chain",     "tcb_info",    "qe_chain",
                                                 "qe_identity"};
    struct origin o = *of;

    o.set = collateral_next_set(c);
    o.depth = ENCODINGS_MAX - 1; /* CRLs may be hex */
    for (size_t i = 0; i < SET_PARTS; i++) {
        o.role = roles[i];
        if (!p->part[i].n) {
            return err_refuse(e, ERR_INVALID, "collateral.set", "every part of the set", "no %s",
                              roles[i]);
        }
        if (i == PART_TCB_CHAIN || i == PART_QE_CHAIN) {
            continue; /* with what it issued */
        }
        int rc = i == PART_TCB  ? take_signed_json(c, &o, p->part[i], p->part[PART_TCB_CHAIN], e)
                 : i == PART_QE ? take_signed_json(c, &o, p->part[i], p->part[PART_QE_CHAIN], e)
                                : collateral_take(c, &o, p->part[i], e);
        if (rc) {
            return -1;
        }
    }
    return 0;
}

/* Intel's sgx_ql_qve_collateral_t as it lies in memory, pointers and all, its strings behind it:
 * {u16 major, minor; u32 TEE type; 7 x {u64 pointer, u32 size, u32 padding}}. */
#define QVE_HEAD_BYTES 120u

static int is_qve(struct bytes d)
{
    uint64_t sum = QVE_HEAD_BYTES;

    if (d.n < QVE_HEAD_BYTES || !d.p[0] || d.p[0] > 8 || d.p[1] || (le32(d.p + 4) & ~0x81u)) {
        return 0;
    }
    for (size_t i = 0; i < SET_PARTS; i++) {
        sum += le32(d.p + 16 + 16 * i);
    }
    return sum == d.n;
}

static int take_qve(struct collateral *c, const struct origin *o, struct bytes d, struct err *e)
{
    struct parts p;
    size_t at = QVE_HEAD_BYTES;

    for (size_t i = 0; i < SET_PARTS; i++) {
        size_t n = le32(d.p + 16 + 16 * i);
        p.part[i] = without_nul(BYTES(d.p + at, n));
        at += n;
    }
    return take_parts(c, o, &p, e);
}

/* Open Enclave's oe_endorsements_t: {u32 version 1; u32 type; u32 bytes behind; u32 n; u32
 * offset[n]; data}: version, TCB info, its chain, PCK CRL, root CRL, CRL chain, QE identity, its
 * chain, time of creation. */
#define OE_HEAD_BYTES 16u
#define OE_PARTS 9u

static int is_oe(struct bytes d)
{
    return d.n >= OE_HEAD_BYTES + 4 * OE_PARTS && le32(d.p) == 1 && le32(d.p + 12) == OE_PARTS &&
           le32(d.p + 8) == d.n - OE_HEAD_BYTES;
}

static int take_oe(struct collateral *c, const struct origin *o, struct bytes d, struct err *e)
{
    static const uint8_t order[OE_PARTS] = {SET_PARTS,    PART_TCB,      PART_TCB_CHAIN,
                                            PART_PCK_CRL, PART_ROOT_CRL, PART_PCK_CRL_CHAIN,
                                            PART_QE,      PART_QE_CHAIN, SET_PARTS};
    size_t base = OE_HEAD_BYTES + 4 * OE_PARTS;
    struct parts p = {0};

    for (size_t i = 0; i < OE_PARTS; i++) {
        size_t from = le32(d.p + OE_HEAD_BYTES + 4 * i);
        size_t to = i + 1 < OE_PARTS ? le32(d.p + OE_HEAD_BYTES + 4 * (i + 1)) : d.n - base;
        if (from > to || to > d.n - base) {
            return err_refuse(e, ERR_INVALID, "collateral.endorsements", "offsets in order",
                              "others");
        }
        if (order[i] < SET_PARTS) {
            p.part[order[i]] = without_nul(BYTES(d.p + base + from, to - from));
        }
    }
    return take_parts(c, o, &p, e);
}

/* AMD's table of certificates, as hosts give it; entries that are none are passed over. */
static int take_amd_table(struct collateral *c, const struct origin *of, struct bytes d,
                          struct err *e)
{
    struct bytes entry;
    struct origin o = *of;
    size_t before = c->n;

    o.depth = ENCODINGS_MAX; /* no table within a table */
    for (size_t i = 0; snp_cert_table_entry(d, i, &entry) == 0; i++) {
        struct err why = {0};
        if (entry.n && collateral_take(c, &o, entry, &why) && why.code == ERR_TOO_LARGE) {
            *e = why;
            return -1;
        }
    }
    if (c->n == before) {
        return err_refuse(e, ERR_INVALID, "collateral.cert_table", "AMD's certificates",
                          "none that can be read");
    }
    return 0;
}

/* ---- what is it? ----------------------------------------------------------------------------- */

static int take_der(struct collateral *c, const struct origin *o, struct bytes d, struct err *e)
{
    struct err as_cert = {0}, as_crl = {0};

    /* OCSPResponse ::= SEQUENCE { ENUMERATED, ... } (RFC 6960 §4.2.1) */
    size_t inner = d.n > 8 && d.p[1] >= 0x80 ? 2u + (d.p[1] & 0x7fu) : 2;
    if (inner + 2 < d.n && d.p[inner] == 0x0a && d.p[inner + 1] == 1) {
        return collateral_new_item(c, o, ITEM_OCSP, d, e) ? 0 : -1;
    }
    if (add_cert(c, o, d, &as_cert) == 0 || add_crl(c, o, d, &as_crl) == 0) {
        return 0;
    }
    *e = as_cert.code == ERR_INVALID && streq(as_cert.clause, "collateral.certificate") ? as_crl
                                                                                        : as_cert;
    return -1;
}

/* Text of one alphabet, white space aside. */
static int is_text_of(struct bytes d, int (*in)(int c))
{
    for (size_t i = 0; i < d.n; i++) {
        if (!in(d.p[i]) && !isspace(d.p[i])) {
            return 0;
        }
    }
    return d.n > 0;
}

static int in_hex(int c)
{
    return isxdigit(c);
}

static int in_b64(int c)
{
    return isalnum(c) || c == '+' || c == '/' || c == '=';
}

static int take_encoded(struct collateral *c, const struct origin *of, struct bytes d,
                        struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);
    _cleanup_buf_ struct buf plain = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);
    struct origin o = *of;
    int rc;

    for (size_t i = 0; i < d.n; i++) {
        if (!isspace(d.p[i]) && buf_add(&text, d.p + i, 1, e)) {
            return -1;
        }
    }
    if (is_text_of(d, in_hex) && text.n % 2 == 0) {
        rc = buf_reserve(&plain, text.n / 2, e) ||
             hex_decode((const char *)text.p, plain.p, text.n / 2, e);
        plain.n = text.n / 2;
    } else {
        rc = b64_decode((const char *)text.p, text.n, &plain, e);
    }
    o.depth++;
    return rc || collateral_take(c, &o, buf_bytes(&plain), e) ? -1 : 0;
}

static int is_text(struct bytes d)
{
    d = without_nul(d);
    for (size_t i = 0; i < d.n; i++) {
        if (d.p[i] < '\t') {
            return 0;
        }
    }
    return 1;
}

static int starts_with(struct bytes d, const char *text)
{
    return d.n >= strlen(text) && memcmp(d.p, text, strlen(text)) == 0;
}

/* White space, a byte order mark, and lines of comment before something else. */
static struct bytes without_preamble(struct bytes d)
{
    size_t skip = 1;

    while (d.n && skip) {
        const uint8_t *end = d.p[0] == '#' ? memchr(d.p, '\n', d.n) : NULL;
        skip = isspace(d.p[0])                  ? 1
               : starts_with(d, "\xef\xbb\xbf") ? 3
               : end                            ? (size_t)(end - d.p) + 1
                                                : 0;
        d.p += skip;
        d.n -= skip;
    }
    return d;
}

int collateral_take(struct collateral *c, const struct origin *o, struct bytes d, struct err *e)
{
    _cleanup_buf_ struct buf plain = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);
    size_t at;

    d = without_preamble(d);
    if (d.n && d.p[0] == '{') {
        return collateral_take_json(c, o, d, e);
    }
    if (starts_with(d, "<?xml") || starts_with(d, "<SoftwareIdentity") ||
        starts_with(d, "<ns0:SoftwareIdentity")) {
        return collateral_new_item(c, o, ITEM_RIM, d, e) ? 0 : -1;
    }
    if (d.n && d.p[0] == 0x30 && !is_text_of(d, in_b64)) {
        return take_der(c, o, d, e);
    }
    if (o->depth < ENCODINGS_MAX && snp_is_cert_table(d)) {
        return take_amd_table(c, o, d, e);
    }
    if (is_qve(d)) {
        return take_qve(c, o, d, e);
    }
    if (is_oe(d)) {
        return take_oe(c, o, d, e);
    }
    if (is_text(d) && find(d, 0, "-----BEGIN%20", &at)) {
        return percent_decode(d, &plain, e) || take_pem(c, o, buf_bytes(&plain), e) ? -1 : 0;
    }
    if (is_text(d) && (find(d, 0, "-----BEGIN CERTIFICATE-----", &at) ||
                       find(d, 0, "-----BEGIN X509 CRL-----", &at))) {
        return take_pem(c, o, d, e);
    }
    if (o->depth < ENCODINGS_MAX && is_text_of(d, in_b64) && d.n >= 64) {
        return take_encoded(c, o, d, e);
    }
    return err_refuse(e, ERR_UNSUPPORTED, "collateral",
                      "certificates, CRLs, TCB infos, QE identities, RIMs, OCSP responses",
                      "something else, %zu bytes", d.n);
}

int collateral_add(struct collateral *c, const char *name, struct bytes data, struct err *e)
{
    struct origin o = {.name = name, .role = ""};
    size_t before = c->n;

    if (data.n > COLLATERAL_FILE_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "collateral", "at most 8 MiB", "%zu bytes", data.n);
    }
    if (collateral_take(c, &o, data, e)) {
        cut(c, before);
        return -1;
    }
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int add_file(struct collateral *c, const char *path, struct err *e)
{
    _cleanup_buf_ struct buf data = BUF_INIT(COLLATERAL_FILE_MAX_BYTES);

    return file_read(path, COLLATERAL_FILE_MAX_BYTES, 0, &data, e) ||
                   collateral_add(c, path, buf_bytes(&data), e)
               ? -1
               : 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, so that the order of a directory decides nothing. */
static int list(const char *path, char ***ret, size_t *ret_n, struct err *e)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    char **v = NULL;
    size_t n = 0;

    if (!dir) {
        return err_errno(e, "%s", path);
    }
    while ((d = readdir(dir)) && n < DIR_FILES_MAX) {
        struct stat st;
        if (fstatat(dirfd(dir), d->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) {
            v = xrealloc(v, (n + 1) * sizeof(*v));
            v[n++] = xasprintf("%s/%s", path, d->d_name);
        }
    }
    closedir(dir);
    if (n) {
        qsort(v, n, sizeof(*v), by_name);
    }
    *ret = v;
    *ret_n = n;
    return 0;
}

int collateral_add_path(struct collateral *c, const char *path, size_t *ret_unknown, struct err *e)
{
    struct stat st;
    char **v = NULL;
    size_t n = 0, unknown = 0;
    int rc = 0;

    if (stat(path, &st)) {
        return err_errno(e, "%s", path);
    }
    if (!S_ISDIR(st.st_mode)) {
        *ret_unknown = 0;
        return add_file(c, path, e);
    }
    if (list(path, &v, &n, e)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        struct err why = {0};
        if (!rc && add_file(c, v[i], &why)) {
            unknown += why.code == ERR_UNSUPPORTED || why.code == ERR_INVALID;
            rc = why.code == ERR_IO || why.code == ERR_TOO_LARGE ? -1 : 0;
            if (rc) {
                *e = why;
            }
        }
        free(v[i]);
    }
    free(v);
    *ret_unknown = unknown;
    return rc;
}
