/* SNP: whole calls from bytes to claims. "known chip": one report after another of a chip whose
 * certificate was seen; "new chip": of a product whose issuers are known; "cold": nothing is, and a
 * CRL comes along. */
#include "bench/appraise.h"

#include "appraise/snp_testing.h"
#include "bench/bench.h"

#define CHIPS 64
#define RSA_BITS 4096
#define COLD_RSA 4 /* over ARK, ASK, VCEK and CRL */

static struct snp_world world;
static struct pki vek[CHIPS];
static struct buf evidence[CHIPS]; /* report, and a table with VCEK and ASK */
static struct buf crl;

/* ---- bare operations ---- */

static struct bare {
    EVP_PKEY_CTX *ctx;
    uint8_t sig[1024], hash[48];
    size_t n;
} p384, rsa;

static void bare_init(struct bare *b, EVP_PKEY *key, int pss)
{
    EVP_PKEY_CTX *sign = EVP_PKEY_CTX_new(key, NULL);

    b->ctx = EVP_PKEY_CTX_new(key, NULL);
    b->n = sizeof(b->sig);
    memset(b->hash, 0x5a, sizeof(b->hash));
    MUST(EVP_PKEY_sign_init(sign) != 1 || EVP_PKEY_verify_init(b->ctx) != 1);
    MUST(EVP_PKEY_CTX_set_signature_md(sign, EVP_sha384()) != 1 ||
         EVP_PKEY_CTX_set_signature_md(b->ctx, EVP_sha384()) != 1);
    for (int i = 0; pss && i < 2; i++) {
        EVP_PKEY_CTX *c = i ? sign : b->ctx;
        MUST(EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PSS_PADDING) != 1 ||
             EVP_PKEY_CTX_set_rsa_pss_saltlen(c, 48) != 1);
    }
    MUST(EVP_PKEY_sign(sign, b->sig, &b->n, b->hash, sizeof(b->hash)) != 1);
    EVP_PKEY_CTX_free(sign);
}

static void verify(const struct bare *b, int times)
{
    for (int i = 0; i < times; i++) {
        MUST(EVP_PKEY_verify(b->ctx, b->sig, b->n, b->hash, sizeof(b->hash)) != 1);
    }
}

static void floor_known(size_t i)
{
    (void)i;
    verify(&p384, 1);
}

static void floor_new(size_t i)
{
    (void)i;
    verify(&p384, 1);
    verify(&rsa, 1);
}

static void floor_cold(size_t i)
{
    (void)i;
    verify(&p384, 1);
    verify(&rsa, COLD_RSA);
}

/* ---- appraisals ---- */

static struct stock {
    struct certs *store;
    struct collateral *bag;
} known, fresh;

static void stock_init(struct stock *s)
{
    s->store = certs_new(1024);
    s->bag = collateral_new(s->store);
    MUST(collateral_add(s->bag, "crl", buf_bytes(&crl), e));
}

static void stock_done(struct stock *s)
{
    collateral_free(s->bag);
    certs_free(s->store);
    *s = (struct stock){0};
}

static void appraise(const struct stock *s, size_t i)
{
    const struct appraisal_input in = {
        .evidence = buf_bytes(&evidence[i]), .collateral = s->bag, .now_ms = PKI_NOW_MS};
    struct appraisal a;

    MUST(snp_appraise_by(&in, &world.roots, &a, e));
    appraisal_done(&a);
}

static void ours_known(size_t i)
{
    (void)i;
    appraise(&known, 0);
}

/* After each chip was seen once, all is forgotten but the issuers. */
static void ours_new(size_t i)
{
    if (i % (CHIPS - 1) == 0) {
        struct cert *c;
        stock_done(&fresh);
        stock_init(&fresh);
        MUST(certs_add_der(fresh.store, "ask", buf_bytes(&world.ask.der), &c, e));
        appraise(&fresh, 0);
    }
    appraise(&fresh, 1 + i % (CHIPS - 1));
}

static void ours_cold(size_t i)
{
    struct stock s;

    stock_init(&s);
    appraise(&s, i % CHIPS);
    stock_done(&s);
}

static void make_chip(size_t i)
{
    struct snp_vek_opts o = {.kind = SNP_KEY_VCEK};
    uint8_t r[SNP_REPORT_BYTES];

    snp_testing_chip_id(SNP_GENOA, o.chip_id);
    o.chip_id[63] = (uint8_t)i;
    vek[i] = snp_testing_vek(&world, &o);
    snp_testing_report(SNP_GENOA, SNP_KEY_VCEK, 5, r);
    memcpy(r + 0x1a0, o.chip_id, sizeof(o.chip_id));
    snp_testing_sign(r, vek[i].key);
    evidence[i] = BUF_INIT(1u << 16);
    MUST(buf_add(&evidence[i], r, sizeof(r), e));
    snp_testing_table(buf_bytes(&vek[i].der), buf_bytes(&world.ask.der), &evidence[i]);
}

const struct appraise_case *bench_appraise_snp(void)
{
    static const struct appraise_case cases[] = {
        {"SNP, known chip: 1 P-384", ours_known, floor_known, 0.9},
        {"SNP, new chip: 1 P-384, 1 RSA-4096", ours_new, floor_new, 0.9},
        {"SNP, cold: 1 P-384, 4 RSA-4096", ours_cold, floor_cold, 0.8},
        {0},
    };

    snp_testing_world(SNP_GENOA, RSA_BITS, &world);
    snp_testing_roots(&world);
    crl = pki_crl(&world.ark, 0, 0, 1, NULL, 0, 1);
    for (size_t i = 0; i < CHIPS; i++) {
        make_chip(i);
    }
    bare_init(&p384, vek[0].key, 0);
    bare_init(&rsa, world.ask.key, 1);
    stock_init(&known);
    appraise(&known, 0);
    return cases;
}
