#include "appraise/certs_int.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <time.h>

#define MAX_EXTENSIONS 64
#define BUCKETS 4096u
#define TEXTS 256u
#define KNOWN 8192u

/* A PEM text that was taken before, and what it held. */
struct text {
    uint8_t *p;
    size_t bytes;
    struct cert *certs[CERT_CHAIN_MAX];
    size_t n;
};

struct certs {
    struct cert_node *bucket[BUCKETS];
    struct cert_node *newest, *oldest;
    size_t n, max;
    struct text text[TEXTS];
    uint8_t known[KNOWN][32];
};

/* ---- small things ---- */

int sha256_of(const void *p, size_t n, uint8_t ret[32])
{
    return EVP_Digest(p, n, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -1;
}

int clause_refuse(struct err *e, enum err_code code, const char *what, const char *field,
                  const char *expected, const char *actual)
{
    char clause[sizeof(e->clause)];

    snprintf(clause, sizeof(clause), "%s%s%s", what, *field ? "." : "", field);
    return err_refuse(e, code, clause, expected, "%s", actual);
}

int asn1_time_ms(const char *what, const char *field, const ASN1_TIME *t, int64_t *ret,
                 struct err *e)
{
    struct tm tm;

    if (!t || ASN1_TIME_to_tm(t, &tm) != 1) {
        return clause_refuse(e, ERR_INVALID, what, field, "a time", "none, or a malformed one");
    }
    *ret = (int64_t)timegm(&tm) * 1000;
    return 0;
}

int check_not_before(const char *what, const char *field, int64_t not_before_ms, int64_t at_ms,
                     struct err *e)
{
    char from[32], at[32], expected[96];

    if (at_ms >= not_before_ms) {
        return 0;
    }
    rfc3339_utc(not_before_ms, from);
    rfc3339_utc(at_ms, at);
    snprintf(expected, sizeof(expected), "a time of appraisal not before %s", from);
    return clause_refuse(e, ERR_EXPIRED, what, field, expected, at);
}

int check_not_after(const char *what, const char *field, int64_t not_after_ms, int64_t at_ms,
                    struct err *e)
{
    char until[32], at[32], expected[96];

    if (at_ms <= not_after_ms) {
        return 0;
    }
    rfc3339_utc(not_after_ms, until);
    rfc3339_utc(at_ms, at);
    snprintf(expected, sizeof(expected), "a time of appraisal not after %s", until);
    return clause_refuse(e, ERR_EXPIRED, what, field, expected, at);
}

static int strong_digest(int nid)
{
    return nid == NID_sha256 || nid == NID_sha384 || nid == NID_sha512;
}

static int strong_pss(const X509_ALGOR *alg)
{
    const void *param;
    int type;
    const ASN1_OBJECT *oid;

    X509_ALGOR_get0(&oid, &type, &param, alg);
    if (type != V_ASN1_SEQUENCE) {
        return 0; /* the default is SHA-1 */
    }
    const ASN1_STRING *seq = param;
    const uint8_t *p = ASN1_STRING_get0_data(seq);
    RSA_PSS_PARAMS *pss = d2i_RSA_PSS_PARAMS(NULL, &p, ASN1_STRING_length(seq));
    int ok = 0;
    if (pss && pss->hashAlgorithm) {
        X509_ALGOR_get0(&oid, NULL, NULL, pss->hashAlgorithm);
        ok = strong_digest(OBJ_obj2nid(oid));
    }
    RSA_PSS_PARAMS_free(pss);
    return ok;
}

int sigalg_strong(const X509_ALGOR *alg)
{
    const ASN1_OBJECT *oid;
    int nid, digest, pkey;

    X509_ALGOR_get0(&oid, NULL, NULL, alg);
    nid = OBJ_obj2nid(oid);
    if (nid == NID_rsassaPss) {
        return strong_pss(alg);
    }
    return OBJ_find_sigid_algs(nid, &digest, &pkey) == 1 && strong_digest(digest);
}

/* ---- one certificate ---- */

static void node_free(struct cert_node *n)
{
    X509_free(n->pub.x); /* with the key, which it holds */
    ec_key_free(n->ec);
    free(n);
}

struct cert *cert_ref(struct cert *c)
{
    node_of(c)->refs++;
    return c;
}

void cert_unref(struct cert *c)
{
    if (c && --node_of(c)->refs == 0) {
        node_free(node_of(c));
    }
}

int cert_ec_key(struct cert *c, enum ec_curve curve, const char *what, const struct ec_key **ret,
                struct err *e)
{
    struct cert_node *n = node_of(c);

    if (n->ec && ec_key_curve(n->ec) != curve) {
        return clause_refuse(e, ERR_INVALID, what, "public_key",
                             curve == EC_P256 ? "a key on P-256" : "a key on P-384", "another");
    }
    if (!n->ec && ec_key_from_pkey(curve, what, c->key, &n->ec, e)) {
        return -1;
    }
    *ret = n->ec;
    return 0;
}

static uint8_t *known_slot(const struct certs *s, const uint8_t digest[32])
{
    uint32_t h;

    memcpy(&h, digest, sizeof(h));
    return (uint8_t *)(uintptr_t)s->known[h % KNOWN];
}

/* No SHA-256 of anything is all zeros, as an empty slot is. */
int certs_known(const struct certs *s, const uint8_t digest[32])
{
    return memcmp(known_slot(s, digest), digest, 32) == 0;
}

void certs_know(struct certs *s, const uint8_t digest[32])
{
    memcpy(known_slot(s, digest), digest, 32);
}

void certs_forget_known(struct certs *s)
{
    memset(s->known, 0, sizeof(s->known));
}

static int strong_key(EVP_PKEY *k)
{
    switch (EVP_PKEY_get_base_id(k)) {
    case EVP_PKEY_EC:
        return EVP_PKEY_get_bits(k) >= 256;
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
        return EVP_PKEY_get_bits(k) >= 2048 && EVP_PKEY_get_bits(k) <= 8192;
    case EVP_PKEY_ED25519:
        return 1;
    }
    return 0;
}

static int extensions_once(const X509 *x)
{
    int n = X509_get_ext_count(x);

    if (n > MAX_EXTENSIONS) {
        return 0;
    }
    for (int i = 0; i < n; i++) {
        const ASN1_OBJECT *a = X509_EXTENSION_get_object(X509_get_ext(x, i));
        if (X509_get_ext_by_OBJ(x, a, i) >= 0) {
            return 0;
        }
    }
    return 1;
}

static void common_name(const X509_NAME *name, char ret[128])
{
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    unsigned char *text = NULL;

    ret[0] = '\0';
    if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0) {
        return; /* none, or more than one: no telling which */
    }
    int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
    if (n > 0 && n < 128 && strlen((const char *)text) == (size_t)n) {
        memcpy(ret, text, (size_t)n + 1);
    }
    OPENSSL_free(text);
    ERR_clear_error();
}

/* The parts of a certificate that rules are about; OpenSSL decodes them when it is first asked. */
static int read_node(const char *what, struct cert_node *n, struct err *e)
{
    X509 *x = n->pub.x;
    uint32_t flags = X509_get_extension_flags(x);

    n->pub.key = X509_get0_pubkey(x);
    if (!n->pub.key || !strong_key(n->pub.key)) {
        return clause_refuse(e, ERR_INVALID, what, "public_key",
                             "an EC key of 256 bits or RSA key of 2048 bits, or more",
                             "another key, or a malformed one");
    }
    if (X509_get_version(x) != X509_VERSION_3 || (flags & EXFLAG_INVALID) || !extensions_once(x)) {
        return clause_refuse(e, ERR_INVALID, what, "extensions",
                             "a version 3 certificate with well-formed extensions, each once",
                             "something else");
    }
    if (asn1_time_ms(what, "not_before", X509_get0_notBefore(x), &n->pub.not_before_ms, e) ||
        asn1_time_ms(what, "not_after", X509_get0_notAfter(x), &n->pub.not_after_ms, e)) {
        return -1;
    }
    n->is_ca = (flags & EXFLAG_BCONS) && (flags & EXFLAG_CA);
    n->path_len = X509_get_pathlen(x);
    n->key_usage = X509_get_key_usage(x);
    n->critical_known = 1;
    for (int i = 0; i < X509_get_ext_count(x); i++) {
        n->critical_known &= critical_is_known(X509_get_ext(x, i));
    }
    common_name(X509_get_subject_name(x), n->subject_cn);
    common_name(X509_get_issuer_name(x), n->issuer_cn);
    n->self_issued = X509_NAME_cmp(X509_get_subject_name(x), X509_get_issuer_name(x)) == 0;

    uint8_t hash[2][32];
    const uint8_t *name;
    size_t name_bytes;
    uint8_t *spki = NULL;
    int spki_bytes = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &spki);
    int ok = spki_bytes > 0 && X509_NAME_get0_der(X509_get_subject_name(x), &name, &name_bytes) &&
             sha256_of(name, name_bytes, hash[0]) == 0 &&
             sha256_of(spki, (size_t)spki_bytes, hash[1]) == 0 &&
             sha256_of(hash, sizeof(hash), n->id) == 0;
    OPENSSL_free(spki);
    return ok ? 0 : clause_refuse(e, ERR_INVALID, what, "", "a certificate", "a malformed one");
}

static int parse(const char *what, struct bytes der, struct cert_node **ret, struct err *e)
{
    struct cert_node *n = xcalloc(1, sizeof(*n));
    const uint8_t *p = der.p;
    int rc = -1;

    n->refs = 1;
    n->pub.x = d2i_X509(NULL, &p, (long)der.n);
    if (!n->pub.x || p != der.p + der.n) {
        clause_refuse(e, ERR_INVALID, what, "", "one X.509 certificate in DER form",
                      "something else");
    } else {
        rc = read_node(what, n, e);
    }
    ERR_clear_error();
    if (rc < 0) {
        node_free(n);
        return -1;
    }
    *ret = n;
    return 0;
}

/* ---- the store ---- */

struct certs *certs_new(size_t max)
{
    struct certs *s = xcalloc(1, sizeof(*s));

    s->max = max;
    return s;
}

static struct cert_node **slot_of(struct certs *s, const uint8_t sha256[32])
{
    uint32_t h;

    memcpy(&h, sha256, sizeof(h));
    return &s->bucket[h % BUCKETS];
}

static void unlink_node(struct certs *s, struct cert_node *n)
{
    *(n->newer ? &n->newer->older : &s->newest) = n->older;
    *(n->older ? &n->older->newer : &s->oldest) = n->newer;
    n->newer = n->older = NULL;
}

static void link_newest(struct certs *s, struct cert_node *n)
{
    n->older = s->newest;
    n->newer = NULL;
    *(s->newest ? &s->newest->newer : &s->oldest) = n;
    s->newest = n;
}

static void evict_oldest(struct certs *s)
{
    struct cert_node *n = s->oldest, **at = slot_of(s, n->pub.sha256);

    while (*at != n) {
        at = &(*at)->next;
    }
    *at = n->next;
    unlink_node(s, n);
    s->n--;
    cert_unref(&n->pub);
}

static void text_done(struct text *t)
{
    for (size_t i = 0; i < t->n; i++) {
        cert_unref(t->certs[i]);
    }
    free(t->p);
    *t = (struct text){0};
}

void certs_free(struct certs *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; i < TEXTS; i++) {
        text_done(&s->text[i]);
    }
    while (s->oldest) {
        evict_oldest(s);
    }
    free(s);
}

struct cert *certs_find(struct certs *s, const uint8_t sha256[32])
{
    for (struct cert_node *n = *slot_of(s, sha256); n; n = n->next) {
        if (memcmp(n->pub.sha256, sha256, 32) == 0) {
            unlink_node(s, n);
            link_newest(s, n);
            return &n->pub;
        }
    }
    return NULL;
}

int certs_add_der(struct certs *s, const char *what, struct bytes der, struct cert **ret,
                  struct err *e)
{
    uint8_t sha256[32];
    struct cert_node *n;

    if (der.n > CERT_MAX_BYTES) {
        return clause_refuse(e, ERR_TOO_LARGE, what, "", "a certificate of at most 16384 bytes",
                             "more");
    }
    if (sha256_of(der.p, der.n, sha256)) {
        return err_set(e, ERR_INTERNAL, "cannot hash a certificate");
    }
    struct cert *held = certs_find(s, sha256);
    if (held) {
        *ret = held;
        return 0;
    }
    if (parse(what, der, &n, e)) {
        return -1;
    }
    memcpy(n->pub.sha256, sha256, sizeof(sha256));
    if (s->n == s->max) {
        evict_oldest(s);
    }
    struct cert_node **slot = slot_of(s, sha256);
    n->next = *slot;
    *slot = n;
    link_newest(s, n);
    s->n++;
    *ret = &n->pub;
    return 0;
}

/* ---- PEM (RFC 7468 §5) ---- */

static const char begin_line[] = "-----BEGIN CERTIFICATE-----";
static const char end_line[] = "-----END CERTIFICATE-----";

static size_t skip_blank(struct bytes t, size_t at)
{
    while (at < t.n && (t.p[at] == '\n' || t.p[at] == '\r' || t.p[at] == ' ' || t.p[at] == '\t')) {
        at++;
    }
    return at;
}

static int starts(struct bytes t, size_t at, const char *with)
{
    size_t n = strlen(with);

    return t.n - at >= n && memcmp(t.p + at, with, n) == 0;
}

/* The base64 text up to the end line, without line breaks; *at moves behind the end line. */
static int pem_body(struct bytes t, size_t *at, struct buf *ret)
{
    for (size_t i = *at; i < t.n; i++) {
        if (t.p[i] == '-') {
            *at = i + sizeof(end_line) - 1;
            return starts(t, i, end_line) ? 0 : -1;
        }
        if (t.p[i] != '\n' && t.p[i] != '\r' && t.p[i] != ' ' && buf_add(ret, t.p + i, 1, NULL)) {
            return -1;
        }
    }
    return -1;
}

static int add_one_pem(struct certs *s, const char *what, struct bytes t, size_t *at,
                       struct cert **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(CERT_MAX_BYTES * 2);
    _cleanup_buf_ struct buf der = BUF_INIT(CERT_MAX_BYTES);

    if (!starts(t, *at, begin_line)) {
        return clause_refuse(e, ERR_INVALID, what, "", "certificates in PEM form, nothing else",
                             "something else");
    }
    *at += sizeof(begin_line) - 1;
    if (pem_body(t, at, &text) || !text.n || b64_decode((const char *)text.p, text.n, &der, NULL)) {
        return clause_refuse(e, ERR_INVALID, what, "", "a certificate in PEM form",
                             "a malformed or unfinished one");
    }
    return certs_add_der(s, what, buf_bytes(&der), ret, e);
}

/* By a few bytes of it: whole texts are compared. */
static struct text *text_slot(struct certs *s, struct bytes pem)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < pem.n; i += 1 + pem.n / 64) {
        h = (h ^ pem.p[i]) * 16777619u;
    }
    return &s->text[h % TEXTS];
}

static void remember_text(struct certs *s, struct bytes pem, struct cert *const *v, size_t n)
{
    struct text *t = text_slot(s, pem);

    text_done(t);
    t->p = xmemdup(pem.p, pem.n);
    t->bytes = pem.n;
    for (size_t i = 0; i < n; i++) {
        t->certs[i] = cert_ref(v[i]);
    }
    t->n = n;
}

/* Each holds a reference until all are there: one may push out another. */
static int take_all(struct certs *s, const char *what, struct bytes pem, struct cert **v,
                    size_t max, size_t *ret_n, struct err *e)
{
    size_t at = skip_blank(pem, 0), n = 0;
    int whole = 1;

    while (at < pem.n && pem.p[at]) {
        struct cert *c;
        if (n == max) {
            clause_refuse(e, ERR_TOO_LARGE, what, "", "fewer certificates", "too many");
            whole = 0;
            break;
        }
        if (add_one_pem(s, what, pem, &at, &c, e)) {
            whole = 0;
            break;
        }
        v[n++] = cert_ref(c);
        at = skip_blank(pem, at);
    }
    *ret_n = n;
    while (whole && at < pem.n) { /* quotes pad with zeros */
        if (pem.p[at++]) {
            clause_refuse(e, ERR_INVALID, what, "", "nothing behind the last certificate",
                          "something");
            whole = 0;
        }
    }
    if (whole && !n) {
        clause_refuse(e, ERR_INVALID, what, "", "a certificate", "none");
    }
    return whole && n ? 0 : -1;
}

int certs_add_pem(struct certs *s, const char *what, struct bytes pem, struct cert **ret,
                  size_t max, size_t *ret_n, struct err *e)
{
    const struct text *t = text_slot(s, pem);
    struct cert *v[CERT_CHAIN_MAX];
    size_t n;

    if (t->n && t->n <= max && t->bytes == pem.n && memcmp(t->p, pem.p, pem.n) == 0) {
        memcpy(ret, t->certs, t->n * sizeof(*ret));
        *ret_n = t->n;
        return 0;
    }
    int rc = take_all(s, what, pem, v, max < CERT_CHAIN_MAX ? max : CERT_CHAIN_MAX, &n, e);
    if (rc == 0) {
        remember_text(s, pem, v, n);
        memcpy(ret, v, n * sizeof(*ret));
        *ret_n = n;
    }
    for (size_t i = 0; i < n; i++) {
        cert_unref(v[i]); /* the remembered text holds them */
    }
    return rc;
}

/* ---- names and extensions ---- */

void cert_subject_cn(const struct cert *c, char ret[128])
{
    memcpy(ret, const_node_of(c)->subject_cn, 128);
}

void cert_issuer_cn(const struct cert *c, char ret[128])
{
    memcpy(ret, const_node_of(c)->issuer_cn, 128);
}

struct bytes cert_extension(const struct cert *c, const char *oid)
{
    ASN1_OBJECT *o = OBJ_txt2obj(oid, 1);
    struct bytes found = {0};
    int at = o ? X509_get_ext_by_OBJ(c->x, o, -1) : -1;

    if (at >= 0) {
        const ASN1_OCTET_STRING *data = X509_EXTENSION_get_data(X509_get_ext(c->x, at));
        found = BYTES(ASN1_STRING_get0_data(data), (size_t)ASN1_STRING_length(data));
    }
    ASN1_OBJECT_free(o);
    return found;
}

int cert_same_key(const struct cert *a, const struct cert *b)
{
    return memcmp(const_node_of(a)->id, const_node_of(b)->id, 32) == 0;
}

int cert_names_issuer(const struct cert *c, const struct cert *ca)
{
    return X509_NAME_cmp(X509_get_issuer_name(c->x), X509_get_subject_name(ca->x)) == 0;
}
