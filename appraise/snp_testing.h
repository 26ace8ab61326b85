/* SNP evidence of our own making: a root, intermediates, chip keys and reports, for tests, fuzz
 * corpora and benches. */
#ifndef COFFER_SNP_TESTING_H
#define COFFER_SNP_TESTING_H

#include <openssl/ec.h>

#include "appraise/pki_testing.h"
#include "appraise/snp.h"

struct snp_world {
    enum snp_product product;
    struct pki ark, ask, asvk;
    struct snp_issuers issuers;
    struct snp_roots roots;
};

/* What a VCEK or VLEK says; zero means as in snp_testing_report. */
struct snp_vek_opts {
    enum snp_key kind;
    const struct pki *issuer; /* NULL: the world's */
    const char *cn, *product_name, *curve;
    uint8_t tcb[8]; /* in the order of the product's TCB_VERSION */
    uint8_t chip_id[SNP_CHIP_ID_BYTES];
    int wrapped_hwid; /* in an OCTET STRING */
    int no_hwid, no_fmc, no_product, no_csp;
    long serial;
    int64_t not_before_ms, not_after_ms;
    const EVP_MD *md;
    int pkcs1; /* the issuer signs without PSS */
};

static inline void snp_testing_world(enum snp_product p, unsigned rsa_bits, struct snp_world *w)
{
    char ark[32], ask[32], asvk[32];

    snprintf(ark, sizeof(ark), "ARK-%s", snp_product_name(p));
    snprintf(ask, sizeof(ask), "SEV-%s", snp_product_name(p));
    snprintf(asvk, sizeof(asvk), "SEV-VLEK-%s", snp_product_name(p));
    *w = (struct snp_world){.product = p};
    w->ark = pki_make(&(struct pki_opts){
        .cn = ark, .rsa_bits = rsa_bits, .md = EVP_sha384(), .pss = 1, .ca = 1, .serial = 0x10000});
    struct pki_opts o = {.cn = ask,
                         .issuer = &w->ark,
                         .rsa_bits = rsa_bits,
                         .md = EVP_sha384(),
                         .pss = 1,
                         .ca = 1,
                         .has_path_len = 1,
                         .serial = 0x10001};
    w->ask = pki_make(&o);
    o.cn = asvk;
    o.serial = 0x10101;
    w->asvk = pki_make(&o);
    w->issuers = (struct snp_issuers){.ark = buf_bytes(&w->ark.der),
                                      .ask = buf_bytes(&w->ask.der),
                                      .asvk = buf_bytes(&w->asvk.der)};
}

/* Behind snp_testing_world, once the world stays where it is. */
static inline const struct snp_roots *snp_testing_roots(struct snp_world *w)
{
    w->roots.of[w->product] = &w->issuers;
    return &w->roots;
}

static inline void snp_testing_done(struct snp_world *w)
{
    pki_done(&w->ark);
    pki_done(&w->ask);
    pki_done(&w->asvk);
}

/* A TCB with a component above 127. */
static inline void snp_testing_tcb(enum snp_product p, uint8_t tcb[8])
{
    static const uint8_t turin[8] = {1, 2, 3, 4, 0, 0, 0, 200};
    static const uint8_t before[8] = {10, 1, 0, 0, 0, 0, 23, 219};

    memcpy(tcb, p == SNP_TURIN ? turin : before, 8);
}

static inline void snp_testing_chip_id(enum snp_product p, uint8_t id[SNP_CHIP_ID_BYTES])
{
    memset(id, 0, SNP_CHIP_ID_BYTES);
    for (uint8_t i = 0; i < (p == SNP_TURIN ? 8 : SNP_CHIP_ID_BYTES); i++) {
        id[i] = (uint8_t)(0xa0 + i);
    }
}

static inline struct bytes snp_testing_integer(uint8_t v, uint8_t to[4])
{
    const uint8_t one[] = {2, 1, v}, two[] = {2, 2, 0, v};

    memcpy(to, v < 128 ? one : two, v < 128 ? 3 : 4);
    return BYTES(to, v < 128 ? 3 : 4);
}

static inline struct bytes snp_testing_string(uint8_t tag, struct bytes text, uint8_t to[80])
{
    to[0] = tag;
    to[1] = (uint8_t)text.n;
    memcpy(to + 2, text.p, text.n);
    return BYTES(to, text.n + 2);
}

static inline struct pki snp_testing_vek(const struct snp_world *w, const struct snp_vek_opts *o)
{
    static const char *const before[8] = {"1.3.6.1.4.1.3704.1.3.1", "1.3.6.1.4.1.3704.1.3.2",
                                          "1.3.6.1.4.1.3704.1.3.4", "1.3.6.1.4.1.3704.1.3.5",
                                          "1.3.6.1.4.1.3704.1.3.6", "1.3.6.1.4.1.3704.1.3.7",
                                          "1.3.6.1.4.1.3704.1.3.3", "1.3.6.1.4.1.3704.1.3.8"};
    static const char *const turin[8] = {"1.3.6.1.4.1.3704.1.3.9", "1.3.6.1.4.1.3704.1.3.1",
                                         "1.3.6.1.4.1.3704.1.3.2", "1.3.6.1.4.1.3704.1.3.3",
                                         "1.3.6.1.4.1.3704.1.3.5", "1.3.6.1.4.1.3704.1.3.6",
                                         "1.3.6.1.4.1.3704.1.3.7", "1.3.6.1.4.1.3704.1.3.8"};
    const uint8_t zero[SNP_CHIP_ID_BYTES] = {0};
    uint8_t tcb[8], id[SNP_CHIP_ID_BYTES], spl[8][4], version[4], product[80], hwid[80], csp[80];
    struct pki_ext ext[12];
    size_t n = 0, id_bytes = w->product == SNP_TURIN ? 8 : SNP_CHIP_ID_BYTES;

    snp_testing_tcb(w->product, tcb);
    snp_testing_chip_id(w->product, id);
    memcpy(tcb, memcmp(o->tcb, zero, 8) ? o->tcb : tcb, 8);
    memcpy(id, memcmp(o->chip_id, zero, sizeof(id)) ? o->chip_id : id, sizeof(id));
    ext[n++] = (struct pki_ext){"1.3.6.1.4.1.3704.1.1",
                                snp_testing_integer(w->product == SNP_TURIN, version), 0};
    if (!o->no_product) {
        const char *name = o->product_name ? o->product_name : snp_product_name(w->product);
        ext[n++] = (struct pki_ext){"1.3.6.1.4.1.3704.1.2",
                                    snp_testing_string(0x16, BYTES_STR(name), product), 0};
    }
    for (size_t i = 0; i < 8; i++) {
        if (!(o->no_fmc && w->product == SNP_TURIN && i == 0)) {
            ext[n++] = (struct pki_ext){(w->product == SNP_TURIN ? turin : before)[i],
                                        snp_testing_integer(tcb[i], spl[i]), 0};
        }
    }
    if (o->kind == SNP_KEY_VCEK && !o->no_hwid) {
        ext[n++] =
            (struct pki_ext){"1.3.6.1.4.1.3704.1.4",
                             o->wrapped_hwid ? snp_testing_string(0x04, BYTES(id, id_bytes), hwid)
                                             : BYTES(id, id_bytes),
                             0};
    } else if (o->kind == SNP_KEY_VLEK && !o->no_csp) {
        ext[n++] = (struct pki_ext){
            "1.3.6.1.4.1.3704.1.5",
            snp_testing_string(0x16, BYTES_STR("CN=cc-us-east-2.example.com"), csp), 0};
    }
    return pki_make(&(struct pki_opts){.cn = o->cn                     ? o->cn
                                             : o->kind == SNP_KEY_VCEK ? "SEV-VCEK"
                                                                       : "SEV-VLEK",
                                       .issuer = o->issuer                 ? o->issuer
                                                 : o->kind == SNP_KEY_VCEK ? &w->ask
                                                                           : &w->asvk,
                                       .curve = o->curve ? o->curve : "P-384",
                                       .md = o->md ? o->md : EVP_sha384(),
                                       .pss = !o->pkcs1,
                                       .no_basic_constraints = 1,
                                       .key_usage = "",
                                       .serial = o->serial ? o->serial : 7,
                                       .not_before_ms = o->not_before_ms,
                                       .not_after_ms = o->not_after_ms,
                                       .ext = ext,
                                       .n_ext = n});
}

/* Everything but the signature. */
static inline void snp_testing_report(enum snp_product p, enum snp_key kind, uint8_t version,
                                      uint8_t r[SNP_REPORT_BYTES])
{
    static const uint8_t cpu[SNP_PRODUCT_N][3] = {
        [SNP_MILAN] = {0x19, 1, 1}, [SNP_GENOA] = {0x19, 0x11, 1}, [SNP_TURIN] = {0x1a, 2, 1}};
    static const uint16_t tcbs[] = {0x038, 0x180, 0x1e0, 0x1f0};
    static const uint8_t firmware[] = {40, 55, 1, 0, 40, 55, 1, 0};

    memset(r, 0, SNP_REPORT_BYTES);
    r[0x000] = version;
    r[0x008 + 2] = 0x03; /* SMT allowed, and the bit that is always set */
    r[0x034] = 1;
    r[0x040] = 0x25;
    r[0x048] = (uint8_t)(kind << 2);
    memset(r + 0x050, 0x5a, 64);
    memset(r + 0x090, 0x77, 48);
    memset(r + 0x0c0, 0x33, 32);
    memset(r + 0x140, 0x44, 32);
    memset(r + 0x160, 0xff, 32);
    for (size_t i = 0; i < ARRAY_LEN(tcbs); i++) {
        snp_testing_tcb(p, r + tcbs[i]);
    }
    if (version >= 3) {
        memcpy(r + 0x188, cpu[p], 3);
    }
    if (version >= 5) {
        r[0x1f8] = r[0x200] = 0x0b;
    }
    if (kind == SNP_KEY_VCEK) {
        snp_testing_chip_id(p, r + 0x1a0);
    }
    memcpy(r + 0x1e8, firmware, sizeof(firmware));
}

static inline void snp_testing_sign(uint8_t r[SNP_REPORT_BYTES], EVP_PKEY *key)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t der[256];
    const uint8_t *p = der;
    size_t n = sizeof(der);

    pki_must(ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha384(), NULL, key) == 1 &&
             EVP_DigestSign(ctx, der, &n, r, SNP_SIGNED_BYTES) == 1);
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)n);
    pki_must(sig && BN_bn2lebinpad(ECDSA_SIG_get0_r(sig), r + 0x2a0, 72) == 72 &&
             BN_bn2lebinpad(ECDSA_SIG_get0_s(sig), r + 0x2a0 + 72, 72) == 72);
    ECDSA_SIG_free(sig);
    EVP_MD_CTX_free(ctx);
}

/* ---- forms ---- */

static inline void snp_testing_put_le32(struct buf *b, size_t v)
{
    const uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};

    pki_must(buf_add(b, le, 4, NULL) == 0);
}

/* AMD's table with one VCEK and one ASK. */
static inline void snp_testing_table(struct bytes vcek, struct bytes ask, struct buf *b)
{
    static const uint8_t guids[2][16] = {{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad,
                                          0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd},
                                         {0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0,
                                          0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82}};
    static const uint8_t zero[24];

    pki_must(buf_add(b, guids[0], 16, NULL) == 0);
    snp_testing_put_le32(b, 72);
    snp_testing_put_le32(b, vcek.n);
    pki_must(buf_add(b, guids[1], 16, NULL) == 0);
    snp_testing_put_le32(b, 72 + vcek.n);
    snp_testing_put_le32(b, ask.n);
    pki_must(buf_add(b, zero, 24, NULL) == 0 && buf_add(b, vcek.p, vcek.n, NULL) == 0 &&
             buf_add(b, ask.p, ask.n, NULL) == 0);
}

static inline json_t *snp_testing_list(const uint8_t *p, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(p[i]));
    }
    return list;
}

static inline json_t *snp_testing_json_tcb(enum snp_product p, const uint8_t *raw)
{
    const struct snp_tcb t = snp_tcb_of(p, raw);

    return json_pack("{s:o,s:i,s:i,s:i,s:i}", "fmc",
                     p == SNP_TURIN ? json_integer(t.fmc) : json_null(), "bootloader", t.bootloader,
                     "tee", t.tee, "snp", t.snp, "microcode", t.microcode);
}

static inline json_t *snp_testing_json_version(const uint8_t *p)
{
    return json_pack("{s:i,s:i,s:i}", "build", p[0], "minor", p[1], "major", p[2]);
}

/* Trustee's form; `vek` empty: "cert_chain" is null. */
static inline char *snp_testing_trustee(enum snp_product p, const uint8_t r[SNP_REPORT_BYTES],
                                        struct bytes vek)
{
    static const struct {
        const char *name;
        uint16_t at, n;
    } lists[] = {{"family_id", 0x010, 16},         {"image_id", 0x020, 16},
                 {"report_data", 0x050, 64},       {"measurement", 0x090, 48},
                 {"host_data", 0x0c0, 32},         {"id_key_digest", 0x0e0, 48},
                 {"author_key_digest", 0x110, 48}, {"report_id", 0x140, 32},
                 {"report_id_ma", 0x160, 32},      {"chip_id", 0x1a0, 64}};
    static const struct {
        const char *name;
        uint16_t at, n;
    } ints[] = {{"version", 0x000, 4},
                {"guest_svn", 0x004, 4},
                {"policy", 0x008, 8},
                {"vmpl", 0x030, 4},
                {"sig_algo", 0x034, 4},
                {"plat_info", 0x040, 8},
                {"key_info", 0x048, 4},
                {"cpuid_fam_id", 0x188, 1},
                {"cpuid_mod_id", 0x189, 1},
                {"cpuid_step", 0x18a, 1},
                {"launch_mit_vector", 0x1f8, 8},
                {"current_mit_vector", 0x200, 8}};
    json_t *o = json_object();

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        json_object_set_new(o, lists[i].name, snp_testing_list(r + lists[i].at, lists[i].n));
    }
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        json_int_t v = 0;
        for (size_t k = ints[i].n; k--;) {
            v = v << 8 | r[ints[i].at + k];
        }
        int missing = (i >= 7 && r[0] < 3) || (i >= 10 && r[0] < 5);
        json_object_set_new(o, ints[i].name, missing ? json_null() : json_integer(v));
    }
    json_object_set_new(o, "current_tcb", snp_testing_json_tcb(p, r + 0x038));
    json_object_set_new(o, "reported_tcb", snp_testing_json_tcb(p, r + 0x180));
    json_object_set_new(o, "committed_tcb", snp_testing_json_tcb(p, r + 0x1e0));
    json_object_set_new(o, "launch_tcb", snp_testing_json_tcb(p, r + 0x1f0));
    json_object_set_new(o, "current", snp_testing_json_version(r + 0x1e8));
    json_object_set_new(o, "committed", snp_testing_json_version(r + 0x1ec));
    json_object_set_new(o, "signature",
                        json_pack("{s:o,s:o}", "r", snp_testing_list(r + 0x2a0, 72), "s",
                                  snp_testing_list(r + 0x2a0 + 72, 72)));
    json_t *chain = vek.n ? json_pack("[{s:s,s:o}]", "cert_type", "VCEK", "data",
                                      snp_testing_list(vek.p, vek.n))
                          : json_null();
    _cleanup_json_ json_t *j = json_pack("{s:o,s:o}", "attestation_report", o, "cert_chain", chain);
    return json_dumps(j, JSON_COMPACT);
}

#endif
