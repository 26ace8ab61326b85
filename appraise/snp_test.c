#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/snp_testing.h"

/* Evidence of our own making, for what no real one shows. */

static struct snp_world worlds[SNP_PRODUCT_N];

static int setup(void **state)
{
    (void)state;
    for (int p = SNP_MILAN; p < SNP_PRODUCT_N; p++) {
        snp_testing_world((enum snp_product)p, 2048, &worlds[p]);
        snp_testing_roots(&worlds[p]);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int p = SNP_MILAN; p < SNP_PRODUCT_N; p++) {
        snp_testing_done(&worlds[p]);
    }
    return 0;
}

struct bag {
    struct certs *store;
    struct collateral *c;
};

static void bag_done(struct bag *b)
{
    collateral_free(b->c);
    certs_free(b->store);
}

static struct bag bag_new(void)
{
    struct bag b = {.store = certs_new(64)};

    b.c = collateral_new(b.store);
    return b;
}

static void put(struct bag *b, struct bytes x)
{
    struct err e = {0};

    if (collateral_add(b->c, "test", x, &e)) {
        fail_msg("%s", e.msg);
    }
}

static int judge(struct bag *b, enum snp_product p, struct bytes evidence, struct appraisal *a,
                 struct err *e)
{
    const struct appraisal_input in = {
        .evidence = evidence, .collateral = b->c, .now_ms = PKI_NOW_MS};

    *e = (struct err){0};
    *a = (struct appraisal){0};
    return snp_appraise_by(&in, &worlds[p].roots, a, e);
}

static void assert_genuine(struct bag *b, enum snp_product p, struct bytes evidence)
{
    struct appraisal a;
    struct err e;

    if (judge(b, p, evidence, &a, &e)) {
        fail_msg("%s", e.msg);
    }
    appraisal_done(&a);
}

static void assert_refused(struct bag *b, enum snp_product p, struct bytes evidence,
                           const char *clause)
{
    struct appraisal a;
    struct err e;

    if (judge(b, p, evidence, &a, &e) == 0) {
        appraisal_done(&a);
        fail_msg("genuine, where %s should refuse", clause);
    }
    if (!streq(e.clause, clause) || !*e.expected || !*e.actual) {
        fail_msg("expected %s, got %s: %s", clause, e.clause, e.msg);
    }
}

/* ---- one report and its certificate, and what may be wrong with them ---- */

struct scene {
    const char *clause; /* NULL: genuine */
    enum snp_product product;
    enum snp_key kind;
    uint8_t version;
    struct snp_vek_opts vek;
    /* Changes before it is signed. */
    struct {
        uint16_t at;
        uint8_t value;
    } set[4];
    size_t n_set;
    enum tcb_status status;
    int hardware, configuration;
};

#define MILAN_VCEK .product = SNP_MILAN, .kind = SNP_KEY_VCEK, .version = 3
#define TURIN_VCEK .product = SNP_TURIN, .kind = SNP_KEY_VCEK, .version = 5
#define GENOA_VLEK                                                                                 \
    .product = SNP_GENOA, .kind = SNP_KEY_VLEK, .version = 5, .vek = {.kind = SNP_KEY_VLEK}
#define FINE .status = TCB_UP_TO_DATE, .hardware = 2, .configuration = 2

static const struct scene scenes[] = {
    {NULL, MILAN_VCEK, FINE},
    {NULL, .product = SNP_GENOA, .version = 2, FINE},
    {NULL, .product = SNP_MILAN, .version = 4, .vek = {.wrapped_hwid = 1}, FINE},
    {NULL, TURIN_VCEK, FINE},
    {NULL, TURIN_VCEK, .vek = {.wrapped_hwid = 1}, FINE},
    {NULL, .product = SNP_TURIN, .version = 3, FINE},
    {NULL, GENOA_VLEK, FINE},
    {NULL, .product = SNP_TURIN, .kind = SNP_KEY_VLEK, .version = 5, .vek = {.kind = SNP_KEY_VLEK},
     FINE},
    {NULL, MILAN_VCEK, .vek = {.product_name = "Milan-B1"}, FINE},
    {NULL, .product = SNP_GENOA, .version = 3, .vek = {.product_name = "Siena-A1"}, FINE},
    /* debug; VMPL 1; migration agent; unknown policy bits */
    {NULL, MILAN_VCEK, .set = {{0x00a, 0x0b}}, .n_set = 1, TCB_UP_TO_DATE, 2, 96},
    {NULL, MILAN_VCEK, .set = {{0x030, 1}}, .n_set = 1, TCB_UP_TO_DATE, 2, 32},
    {NULL, MILAN_VCEK, .set = {{0x00a, 0x07}}, .n_set = 1, TCB_UP_TO_DATE, 2, 32},
    {NULL, MILAN_VCEK, .set = {{0x00d, 0xff}}, .n_set = 1, FINE},
    /* TCB: reported below current; provisional firmware by TCB and by version; launched earlier */
    {NULL, MILAN_VCEK, .set = {{0x038 + 6, 24}, {0x1e0 + 6, 24}}, .n_set = 2, TCB_OUT_OF_DATE, 32,
     2},
    {NULL, MILAN_VCEK, .set = {{0x038 + 7, 220}}, .n_set = 1, TCB_OUT_OF_DATE, 32, 2},
    {NULL, MILAN_VCEK, .set = {{0x1ec, 39}}, .n_set = 1, TCB_OUT_OF_DATE, 32, 2},
    {NULL, MILAN_VCEK, .set = {{0x1f0 + 6, 22}}, .n_set = 1, FINE},

    /* The report. */
    {"evidence.report.version", MILAN_VCEK, .set = {{0x000, 1}}, .n_set = 1},
    {"evidence.report.version", MILAN_VCEK, .set = {{0x000, 6}}, .n_set = 1},
    {"evidence.report.version", MILAN_VCEK, .set = {{0x003, 1}}, .n_set = 1},
    {"evidence.report.policy", MILAN_VCEK, .set = {{0x00a, 0x01}}, .n_set = 1},
    {"evidence.report.signature_algo", MILAN_VCEK, .set = {{0x034, 0}}, .n_set = 1},
    {"evidence.report.vmpl", MILAN_VCEK, .set = {{0x030, 4}}, .n_set = 1},
    {"evidence.report.key_info", MILAN_VCEK, .set = {{0x048, 0x20}}, .n_set = 1},
    {"evidence.report.signing_key", MILAN_VCEK, .set = {{0x048, 7 << 2}}, .n_set = 1},
    {"evidence.report.signing_key", MILAN_VCEK, .set = {{0x048, 2 << 2}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x04f, 1}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x18b, 1}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x1eb, 1}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x1ef, 1}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x1f8, 1}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x29f, 1}}, .n_set = 1},
    {"evidence.report.reserved", TURIN_VCEK, .set = {{0x208, 1}}, .n_set = 1},
    {"evidence.report.reserved", .product = SNP_MILAN, .version = 2, .set = {{0x188, 0x19}},
     .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x330, 1}}, .n_set = 1},
    {"evidence.report.reserved", MILAN_VCEK, .set = {{0x49f, 1}}, .n_set = 1},
    {"evidence.report.cpuid", MILAN_VCEK, .set = {{0x188, 0x17}}, .n_set = 1},
    {"evidence.report.cpuid", MILAN_VCEK, .set = {{0x189, 0x20}}, .n_set = 1},
    {"evidence.report.cpuid", MILAN_VCEK, .set = {{0x188, 0x1a}, {0x189, 0x50}}, .n_set = 2},

    /* The certificate and the report. */
    {"evidence.vcek.product", MILAN_VCEK, .set = {{0x189, 0x11}}, .n_set = 1},
    {"evidence.report.signing_key", MILAN_VCEK, .set = {{0x048, 1 << 2}}, .n_set = 1},
    {"evidence.report.signing_key", GENOA_VLEK, .set = {{0x048, 0}}, .n_set = 1},
    {"evidence.vcek.tcb", MILAN_VCEK, .set = {{0x180 + 0, 9}}, .n_set = 1},
    {"evidence.vcek.tcb", MILAN_VCEK, .set = {{0x180 + 1, 0}}, .n_set = 1},
    {"evidence.vcek.tcb", MILAN_VCEK, .set = {{0x180 + 6, 22}}, .n_set = 1},
    {"evidence.vcek.tcb", MILAN_VCEK, .set = {{0x180 + 7, 218}}, .n_set = 1},
    {"evidence.vcek.tcb", MILAN_VCEK, .set = {{0x180 + 3, 1}}, .n_set = 1},
    {"evidence.vcek.tcb", TURIN_VCEK, .set = {{0x180, 0}}, .n_set = 1},
    {"evidence.vcek.tcb", TURIN_VCEK, .set = {{0x180 + 3, 3}}, .n_set = 1},
    {"evidence.vlek.tcb", GENOA_VLEK, .set = {{0x180 + 7, 218}}, .n_set = 1},
    {"evidence.vcek.hwid", MILAN_VCEK, .set = {{0x1a0, 0}}, .n_set = 1},
    {"evidence.vcek.hwid", MILAN_VCEK, .set = {{0x1df, 0}}, .n_set = 1},
    {"evidence.vcek.hwid", TURIN_VCEK, .set = {{0x1a7, 0}}, .n_set = 1},
    {"evidence.vcek.hwid", TURIN_VCEK, .set = {{0x1a8, 1}}, .n_set = 1},

    /* TCB versions out of order, each component for itself. */
    {"evidence.report.reported_tcb", MILAN_VCEK, .set = {{0x038 + 6, 22}, {0x1e0 + 6, 22}},
     .n_set = 2},
    {"evidence.report.reported_tcb", MILAN_VCEK, .set = {{0x038 + 0, 9}, {0x038 + 7, 255}},
     .n_set = 2},
    {"evidence.report.committed_tcb", MILAN_VCEK, .set = {{0x1e0 + 7, 220}}, .n_set = 1},
    {"evidence.report.committed_tcb", MILAN_VCEK, .set = {{0x1e0 + 1, 2}, {0x1e0 + 7, 0}},
     .n_set = 2},
    {"evidence.report.committed_version", MILAN_VCEK, .set = {{0x1ec, 41}}, .n_set = 1},
    {"evidence.report.committed_version", MILAN_VCEK, .set = {{0x1ee, 2}, {0x1ec, 0}}, .n_set = 2},

    /* The certificate. */
    {"evidence.vcek.product_name", MILAN_VCEK, .vek = {.product_name = "Genoa"}},
    {"evidence.vcek.product_name", MILAN_VCEK, .vek = {.product_name = "Milano"}},
    {"evidence.vcek.product_name", MILAN_VCEK, .vek = {.no_product = 1}},
    {"evidence.vcek.public_key", MILAN_VCEK, .vek = {.curve = "P-256"}},
    {"evidence.vcek.hwid", MILAN_VCEK, .vek = {.no_hwid = 1}},
    {"evidence.vcek.fmc_spl", TURIN_VCEK, .vek = {.no_fmc = 1}},
    {"evidence.vlek.csp_id", .product = SNP_GENOA, .kind = SNP_KEY_VLEK, .version = 5,
     .vek = {.kind = SNP_KEY_VLEK, .no_csp = 1}},
    {"evidence.vcek", MILAN_VCEK, .vek = {.cn = "VCEK"}},
    {"evidence.vek_chain[0].not_after", MILAN_VCEK,
     .vek = {.not_before_ms = PKI_NOW_MS - 9 * PKI_DAY_MS, .not_after_ms = PKI_NOW_MS - 1000}},
    {"evidence.vek_chain[0].not_before", MILAN_VCEK,
     .vek = {.not_before_ms = PKI_NOW_MS + 1000, .not_after_ms = PKI_NOW_MS + 9 * PKI_DAY_MS}},
};

static struct pki vek_of(const struct scene *s)
{
    return snp_testing_vek(&worlds[s->product], &s->vek);
}

static void report_of(const struct scene *s, EVP_PKEY *key, uint8_t r[SNP_REPORT_BYTES])
{
    snp_testing_report(s->product, s->kind, s->version, r);
    for (size_t i = 0; i < s->n_set; i++) {
        r[s->set[i].at] = s->set[i].value;
    }
    if (EVP_PKEY_get_bits(key) == 384) {
        snp_testing_sign(r, key);
    }
    for (size_t i = 0; i < s->n_set; i++) { /* those behind what is signed */
        r[s->set[i].at] = s->set[i].value;
    }
}

static void test_scenes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(scenes); i++) {
        const struct scene *s = &scenes[i];
        _cleanup_(bag_done) struct bag b = bag_new();
        _cleanup_(pki_done) struct pki vek = vek_of(s);
        uint8_t r[SNP_REPORT_BYTES];
        struct appraisal a;
        struct err e;
        report_of(s, vek.key, r);
        put(&b, buf_bytes(&vek.der));
        int rc = judge(&b, s->product, BYTES(r, sizeof(r)), &a, &e);
        if (!s->clause != !rc || (rc && (!streq(e.clause, s->clause) || !*e.expected))) {
            fail_msg("scene %zu: expected %s, got %s: %s", i, s->clause ? s->clause : "genuine",
                     e.clause, e.msg);
        }
        if (!rc) {
            assert_int_equal(a.tcb_status, s->status);
            assert_int_equal(a.vector[EAR_HARDWARE], s->hardware);
            assert_int_equal(a.vector[EAR_CONFIGURATION], s->configuration);
            assert_int_equal(a.vector[EAR_RUNTIME_OPAQUE], s->configuration == 96 ? 96 : 2);
        }
        appraisal_done(&a);
    }
}

/* ---- the simplest genuine evidence ---- */

static struct pki good_vek(enum snp_product p)
{
    return snp_testing_vek(&worlds[p], &(struct snp_vek_opts){.kind = SNP_KEY_VCEK});
}

static void good_report(enum snp_product p, const struct pki *vek, uint8_t r[SNP_REPORT_BYTES])
{
    snp_testing_report(p, SNP_KEY_VCEK, 5, r);
    snp_testing_sign(r, vek->key);
}

static void test_claims(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_TURIN);
    uint8_t r[SNP_REPORT_BYTES];
    struct appraisal a;
    struct err e;
    static const struct {
        const char *name;
        int value;
    } ints[] = {{"version", 5},
                {"vmpl", 0},
                {"guest_svn", 0},
                {"policy_abi_major", 0},
                {"policy_abi_minor", 0},
                {"reported_tcb_fmc", 1},
                {"reported_tcb_bootloader", 2},
                {"reported_tcb_tee", 3},
                {"reported_tcb_snp", 4},
                {"reported_tcb_microcode", 200},
                {"launch_tcb_microcode", 200},
                {"committed_tcb_snp", 4},
                {"current_tcb_tee", 3},
                {"cpuid_family", 0x1a}};
    static const struct {
        const char *name;
        int value;
    } bools[] = {{"policy_smt_allowed", 1},
                 {"policy_migrate_ma", 0},
                 {"policy_debug_allowed", 0},
                 {"policy_single_socket", 0},
                 {"platform_smt_enabled", 1},
                 {"platform_tsme_enabled", 0},
                 {"chip_id_masked", 0},
                 {"provisional_firmware", 0},
                 {"platform_alias_check_complete", 1}};
    static const struct {
        const char *name, *value;
    } texts[] = {{"product", "Turin"},
                 {"signing_key", "VCEK"},
                 {"current_version", "1.55.40"},
                 {"launch_mit_vector", "000000000000000b"},
                 {"init_data", "3333333333333333333333333333333333333333333333333333333333333333"}};

    good_report(SNP_TURIN, &vek, r);
    put(&b, buf_bytes(&vek.der));
    assert_int_equal(judge(&b, SNP_TURIN, BYTES(r, sizeof(r)), &a, &e), 0);
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        const json_t *v = json_object_get(a.claims, ints[i].name);
        if (!json_is_integer(v) || json_integer_value(v) != ints[i].value) {
            fail_msg("%s", ints[i].name);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(bools); i++) {
        const json_t *v = json_object_get(a.claims, bools[i].name);
        if (!json_is_boolean(v) || json_is_true(v) != bools[i].value) {
            fail_msg("%s", bools[i].name);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_string_equal(json_string_value(json_object_get(a.claims, texts[i].name)),
                            texts[i].value);
    }
    assert_int_equal(strlen(json_string_value(json_object_get(a.claims, "measurement"))), 96);
    assert_int_equal(strlen(json_string_value(json_object_get(a.claims, "report_data"))), 128);
    assert_int_equal(strlen(json_string_value(json_object_get(a.claims, "chip_id"))), 128);
    assert_string_equal(a.policy_id, "coffer/snp/v1");
    assert_int_equal(json_array_size(a.unchecked), 1);
    appraisal_done(&a);
}

static void test_report_data(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_MILAN);
    uint8_t r[SNP_REPORT_BYTES], wanted[64];
    struct appraisal a = {0};
    struct err e = {0};

    good_report(SNP_MILAN, &vek, r);
    put(&b, buf_bytes(&vek.der));
    memset(wanted, 0x5a, sizeof(wanted));
    struct appraisal_input in = {.evidence = BYTES(r, sizeof(r)),
                                 .collateral = b.c,
                                 .now_ms = PKI_NOW_MS,
                                 .report_data = wanted};
    assert_int_equal(snp_appraise_by(&in, &worlds[SNP_MILAN].roots, &a, &e), 0);
    appraisal_done(&a);
    wanted[63] ^= 1; /* all of it counts */
    assert_int_equal(snp_appraise_by(&in, &worlds[SNP_MILAN].roots, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.report_data");
    assert_int_equal(e.code, ERR_DENIED);
}

/* A chip that does not tell which it is; a cloud's VLEK, on any chip. */
static void test_masked(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vcek = good_vek(SNP_GENOA);
    _cleanup_(pki_done) struct pki vlek =
        snp_testing_vek(&worlds[SNP_GENOA], &(struct snp_vek_opts){.kind = SNP_KEY_VLEK});
    uint8_t r[SNP_REPORT_BYTES];
    struct appraisal a;
    struct err e;

    put(&b, buf_bytes(&vcek.der));
    put(&b, buf_bytes(&vlek.der));
    snp_testing_report(SNP_GENOA, SNP_KEY_VCEK, 3, r);
    memset(r + 0x1a0, 0, SNP_CHIP_ID_BYTES);
    snp_testing_sign(r, vcek.key);
    assert_int_equal(judge(&b, SNP_GENOA, BYTES(r, sizeof(r)), &a, &e), 0);
    assert_true(json_is_true(json_object_get(a.claims, "chip_id_masked")));
    assert_string_equal(json_string_value(json_array_get(a.unchecked, 1)), "chip_id");
    appraisal_done(&a);
    snp_testing_report(SNP_GENOA, SNP_KEY_VLEK, 3, r);
    r[0x1a0] = 1;
    snp_testing_sign(r, vlek.key);
    assert_int_equal(judge(&b, SNP_GENOA, BYTES(r, sizeof(r)), &a, &e), 0);
    assert_string_equal(json_string_value(json_object_get(a.claims, "csp_id")),
                        "CN=cc-us-east-2.example.com");
    appraisal_done(&a);
    /* Each key only for what it says it signed. */
    snp_testing_report(SNP_GENOA, SNP_KEY_VLEK, 3, r);
    snp_testing_sign(r, vcek.key);
    assert_refused(&b, SNP_GENOA, BYTES(r, sizeof(r)), "evidence.report.signature");
}

/* The right one among many, and none. */
static void test_choice(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new(), empty = bag_new();
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_MILAN);
    uint8_t r[SNP_REPORT_BYTES];

    good_report(SNP_MILAN, &vek, r);
    for (uint8_t i = 0; i < 6; i++) {
        struct snp_vek_opts o = {.tcb = {10, 1, 0, 0, 0, 0, 23, 219}};
        o.tcb[i == 5 ? 7 : 6] = i;
        if (i & 1) {
            o.chip_id[5] = i;
        }
        _cleanup_(pki_done) struct pki other = snp_testing_vek(&worlds[SNP_MILAN], &o);
        put(&b, buf_bytes(&other.der));
    }
    assert_refused(&b, SNP_MILAN, BYTES(r, sizeof(r)), "evidence.report.signature");
    put(&b, BYTES_STR(vek.pem));
    assert_genuine(&b, SNP_MILAN, BYTES(r, sizeof(r)));
    assert_refused(&empty, SNP_MILAN, BYTES(r, sizeof(r)), "evidence.vcek");
    const struct appraisal_input in = {.evidence = BYTES(r, sizeof(r)), .now_ms = PKI_NOW_MS};
    struct appraisal a;
    struct err e = {0};
    assert_int_equal(snp_appraise_by(&in, &worlds[SNP_MILAN].roots, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.vcek");
    assert_int_equal(e.code, ERR_NOT_FOUND);
    /* AMD's own roots know nothing of ours. */
    const struct appraisal_policy policy = {0};
    const struct appraisal_input with = {
        .evidence = BYTES(r, sizeof(r)), .collateral = b.c, .now_ms = PKI_NOW_MS};
    assert_int_equal(snp_appraise(&with, &policy, &a, &e), -1);
    assert_string_equal(e.clause, "evidence.vek_chain[0].issuer"); /* it has a longer name */
}

/* ---- chains ---- */

static void refuse_issuer(const struct pki *ask, const struct pki *ark, const char *clause)
{
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vek =
        snp_testing_vek(&worlds[SNP_MILAN], &(struct snp_vek_opts){.issuer = ask});
    uint8_t r[SNP_REPORT_BYTES];

    good_report(SNP_MILAN, &vek, r);
    put(&b, buf_bytes(&vek.der));
    put(&b, buf_bytes(&ask->der));
    if (ark) {
        put(&b, buf_bytes(&ark->der));
    }
    assert_refused(&b, SNP_MILAN, BYTES(r, sizeof(r)), clause);
}

static void test_chains(void **state)
{
    (void)state;
    const struct snp_world *w = &worlds[SNP_MILAN];
    struct pki_opts o = {.cn = "ARK-Milan", .md = EVP_sha384(), .pss = 1, .ca = 1};
    _cleanup_(pki_done) struct pki false_ark = pki_make(&o);
    o.cn = "SEV-Milan";
    o.issuer = &false_ark;
    _cleanup_(pki_done) struct pki false_ask = pki_make(&o);
    o.issuer = &w->ark;
    o.ca = 0;
    _cleanup_(pki_done) struct pki no_ca = pki_make(&o);
    o.ca = 1;
    o.key_usage = "critical,cRLSign";
    _cleanup_(pki_done) struct pki no_sign = pki_make(&o);
    o.key_usage = NULL;
    o.not_before_ms = PKI_NOW_MS - 9 * PKI_DAY_MS;
    o.not_after_ms = PKI_NOW_MS - PKI_DAY_MS;
    _cleanup_(pki_done) struct pki expired = pki_make(&o);
    o.not_before_ms = PKI_NOW_MS + PKI_DAY_MS;
    o.not_after_ms = PKI_NOW_MS + 9 * PKI_DAY_MS;
    _cleanup_(pki_done) struct pki early = pki_make(&o);
    o.not_before_ms = o.not_after_ms = 0;
    o.pss = 0;
    _cleanup_(pki_done) struct pki pkcs1 = pki_make(&o);
    o.pss = 1;
    o.md = EVP_sha256();
    _cleanup_(pki_done) struct pki sha256 = pki_make(&o);

    refuse_issuer(&false_ask, NULL, "evidence.vek_chain[1].signature");
    refuse_issuer(&false_ask, &false_ark, "evidence.ark");
    refuse_issuer(&no_ca, NULL, "evidence.vek_chain[1].basic_constraints");
    refuse_issuer(&no_sign, NULL, "evidence.vek_chain[1].key_usage");
    refuse_issuer(&expired, NULL, "evidence.vek_chain[1].not_after");
    refuse_issuer(&early, NULL, "evidence.vek_chain[1].not_before");
    refuse_issuer(&pkcs1, NULL, "evidence.vek_chain[1].signature_algorithm");
    refuse_issuer(&sha256, NULL, "evidence.vek_chain[1].signature_algorithm");
}

static void test_vek_signature(void **state)
{
    (void)state;
    static const struct snp_vek_opts opts[] = {{.pkcs1 = 1}, {.md = NULL}};

    for (size_t i = 0; i < ARRAY_LEN(opts); i++) {
        _cleanup_(bag_done) struct bag b = bag_new();
        struct snp_vek_opts o = opts[i];
        uint8_t r[SNP_REPORT_BYTES];
        o.md = i ? EVP_sha256() : NULL;
        _cleanup_(pki_done) struct pki vek = snp_testing_vek(&worlds[SNP_MILAN], &o);
        good_report(SNP_MILAN, &vek, r);
        put(&b, buf_bytes(&vek.der));
        assert_refused(&b, SNP_MILAN, BYTES(r, sizeof(r)),
                       "evidence.vek_chain[0].signature_algorithm");
    }
}

/* Intermediates of a wrong product or kind, and the right one among them. */
static void test_intermediates(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_TURIN);
    uint8_t r[SNP_REPORT_BYTES];

    good_report(SNP_TURIN, &vek, r);
    put(&b, buf_bytes(&vek.der));
    put(&b, buf_bytes(&worlds[SNP_TURIN].asvk.der)); /* not for VCEKs: says nothing */
    assert_genuine(&b, SNP_TURIN, BYTES(r, sizeof(r)));
    put(&b, buf_bytes(&worlds[SNP_MILAN].ask.der));
    assert_refused(&b, SNP_TURIN, BYTES(r, sizeof(r)), "evidence.ask");
    put(&b, buf_bytes(&worlds[SNP_TURIN].ask.der));
    put(&b, buf_bytes(&worlds[SNP_TURIN].ark.der));
    put(&b, buf_bytes(&worlds[SNP_MILAN].ark.der));
    assert_genuine(&b, SNP_TURIN, BYTES(r, sizeof(r)));
}

/* ---- revocation ---- */

static void add_crl(struct bag *b, const struct pki *by, int64_t this_ms, int64_t next_ms,
                    long serial)
{
    struct buf crl = pki_crl(by, this_ms, next_ms, 5, &serial, serial != 0, 1);

    put(b, buf_bytes(&crl));
    buf_done(&crl);
}

static void test_crl(void **state)
{
    (void)state;
    const struct snp_world *w = &worlds[SNP_GENOA];
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_GENOA);
    uint8_t r[SNP_REPORT_BYTES];
    static const struct {
        long serial;
        const char *clause;
    } cases[] = {{0, NULL},
                 {0x99, NULL},
                 {0x10001, "evidence.ask.revoked"},
                 {0x10000, "evidence.ark.revoked"},
                 {7, "evidence.vcek.revoked"}};

    good_report(SNP_GENOA, &vek, r);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(bag_done) struct bag b = bag_new();
        struct appraisal a;
        struct err e;
        put(&b, buf_bytes(&vek.der));
        add_crl(&b, &w->ark, 0, 0, cases[i].serial);
        if (cases[i].clause) {
            assert_refused(&b, SNP_GENOA, BYTES(r, sizeof(r)), cases[i].clause);
            continue;
        }
        assert_int_equal(judge(&b, SNP_GENOA, BYTES(r, sizeof(r)), &a, &e), 0);
        assert_null(a.unchecked);
        assert_int_equal(json_integer_value(json_object_get(a.claims, "crl_number")), 5);
        appraisal_done(&a);
    }
}

static void test_crl_validity(void **state)
{
    (void)state;
    const struct snp_world *w = &worlds[SNP_GENOA];
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_GENOA);
    _cleanup_(pki_done) struct pki false_ark =
        pki_make(&(struct pki_opts){.cn = "ARK-Genoa", .md = EVP_sha384(), .pss = 1, .ca = 1});
    _cleanup_(bag_done) struct bag old = bag_new(), early = bag_new(), forged = bag_new(),
                                   both = bag_new();
    uint8_t r[SNP_REPORT_BYTES];

    good_report(SNP_GENOA, &vek, r);
    put(&old, buf_bytes(&vek.der));
    add_crl(&old, &w->ark, PKI_NOW_MS - 9 * PKI_DAY_MS, PKI_NOW_MS - 3 * PKI_DAY_MS, 0);
    assert_refused(&old, SNP_GENOA, BYTES(r, sizeof(r)), "collateral.crl.next_update");
    add_crl(&old, &w->ark, 0, 0, 0); /* one that holds, beside it */
    assert_genuine(&old, SNP_GENOA, BYTES(r, sizeof(r)));
    put(&early, buf_bytes(&vek.der));
    add_crl(&early, &w->ark, PKI_NOW_MS + 3 * PKI_DAY_MS, PKI_NOW_MS + 9 * PKI_DAY_MS, 0);
    assert_refused(&early, SNP_GENOA, BYTES(r, sizeof(r)), "collateral.crl.this_update");
    put(&forged, buf_bytes(&vek.der));
    add_crl(&forged, &false_ark, 0, 0, 0);
    assert_refused(&forged, SNP_GENOA, BYTES(r, sizeof(r)), "collateral.crl.signature");
    /* The newer one counts. */
    put(&both, buf_bytes(&vek.der));
    add_crl(&both, &w->ark, PKI_NOW_MS - PKI_DAY_MS, 0, 0x10001);
    add_crl(&both, &w->ark, PKI_NOW_MS - 3 * PKI_DAY_MS, 0, 0);
    assert_refused(&both, SNP_GENOA, BYTES(r, sizeof(r)), "evidence.ask.revoked");
}

static void test_crl_of_other(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_GENOA);
    struct snp_roots all = worlds[SNP_GENOA].roots;
    uint8_t r[SNP_REPORT_BYTES];
    struct appraisal a;
    struct err e = {0};

    all.of[SNP_MILAN] = &worlds[SNP_MILAN].issuers;
    good_report(SNP_GENOA, &vek, r);
    put(&b, buf_bytes(&vek.der));
    add_crl(&b, &worlds[SNP_MILAN].ark, 0, 0, 0);
    const struct appraisal_input in = {
        .evidence = BYTES(r, sizeof(r)), .collateral = b.c, .now_ms = PKI_NOW_MS};
    assert_int_equal(snp_appraise_by(&in, &all, &a, &e), -1);
    assert_string_equal(e.clause, "collateral.crl.issuer");
    assert_string_equal(e.expected, "ARK-Genoa");
    assert_string_equal(e.actual, "ARK-Milan");
}

/* ---- mutations ---- */

/* Every byte of the report is signed, part of the signature, or has to be zero. */
static void test_mutations(void **state)
{
    (void)state;
    static const enum snp_product products[] = {SNP_MILAN, SNP_TURIN};
    size_t n = 0;

    for (size_t k = 0; k < ARRAY_LEN(products); k++) {
        _cleanup_(bag_done) struct bag b = bag_new();
        _cleanup_(pki_done) struct pki vek = good_vek(products[k]);
        uint8_t r[SNP_REPORT_BYTES];
        struct appraisal a;
        struct err e;
        good_report(products[k], &vek, r);
        put(&b, buf_bytes(&vek.der));
        for (size_t i = 0; i < sizeof(r); i++, n++) {
            r[i] ^= (uint8_t)(1u << i % 8);
            if (judge(&b, products[k], BYTES(r, sizeof(r)), &a, &e) == 0 || !*e.clause) {
                fail_msg("byte 0x%zx is not bound", i);
            }
            r[i] ^= (uint8_t)(1u << i % 8);
        }
        for (size_t len = 0; len < sizeof(r); len += 7, n++) {
            assert_int_equal(judge(&b, products[k], BYTES(r, len), &a, &e), -1);
        }
        assert_genuine(&b, products[k], BYTES(r, sizeof(r)));
    }
    assert_true(n > 2500);
}

/* Halves of two genuine reports of one chip. */
static void test_splices(void **state)
{
    (void)state;
    _cleanup_(bag_done) struct bag b = bag_new();
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_MILAN);
    uint8_t one[SNP_REPORT_BYTES], two[SNP_REPORT_BYTES], mix[SNP_REPORT_BYTES];
    struct appraisal a;
    struct err e;

    good_report(SNP_MILAN, &vek, one);
    snp_testing_report(SNP_MILAN, SNP_KEY_VCEK, 5, two);
    memset(two + 0x050, 1, 64);
    memset(two + 0x0e0, 2, 48);
    snp_testing_sign(two, vek.key);
    put(&b, buf_bytes(&vek.der));
    assert_genuine(&b, SNP_MILAN, BYTES(two, sizeof(two)));
    for (size_t cut = 0x51; cut < 0x2a0 + 72 + 40; cut += 13) {
        memcpy(mix, one, cut);
        memcpy(mix + cut, two + cut, sizeof(mix) - cut);
        assert_int_equal(judge(&b, SNP_MILAN, BYTES(mix, sizeof(mix)), &a, &e), -1);
    }
    /* r and s swapped */
    memcpy(mix, one, sizeof(mix));
    memcpy(mix + 0x2a0, one + 0x2a0 + 72, 72);
    memcpy(mix + 0x2a0 + 72, one + 0x2a0, 72);
    assert_refused(&b, SNP_MILAN, BYTES(mix, sizeof(mix)), "evidence.report.signature");
    memset(mix + 0x2a0, 0, 144);
    assert_refused(&b, SNP_MILAN, BYTES(mix, sizeof(mix)), "evidence.report.signature");
}

/* ---- what it needs ---- */

static void test_needs(void **state)
{
    (void)state;
    _cleanup_(pki_done) struct pki vek = good_vek(SNP_TURIN);
    uint8_t r[SNP_REPORT_BYTES];
    struct needs n = {0};

    good_report(SNP_TURIN, &vek, r);
    snp_needs(BYTES(r, sizeof(r)), &n);
    assert_int_equal(n.n, 3);
    assert_string_equal(n.v[0].path, "vcek/v1/Turin/cert_chain");
    assert_string_equal(n.v[1].path, "vcek/v1/Turin/crl");
    assert_string_equal(n.v[2].path, "vcek/v1/Turin/a0a1a2a3a4a5a6a7?fmcSPL=01&blSPL=02&teeSPL=03&"
                                     "snpSPL=04&ucodeSPL=200");
    _cleanup_free_ char *with = snp_testing_trustee(SNP_TURIN, r, buf_bytes(&vek.der));
    n = (struct needs){0};
    snp_needs(BYTES_STR(with), &n);
    assert_int_equal(n.n, 2);
    snp_testing_report(SNP_MILAN, SNP_KEY_VCEK, 2, r);
    n = (struct needs){0};
    snp_needs(BYTES(r, sizeof(r)), &n);
    assert_int_equal(n.n, 6); /* Milan or Genoa */
    snp_testing_report(SNP_GENOA, SNP_KEY_VLEK, 3, r);
    n = (struct needs){0};
    snp_needs(BYTES(r, sizeof(r)), &n);
    assert_int_equal(n.n, 2);
    assert_string_equal(n.v[0].path, "vlek/v1/Genoa/cert_chain");
    n = (struct needs){0};
    snp_needs(BYTES(r, 100), &n);
    assert_int_equal(n.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scenes),        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_report_data),   cmocka_unit_test(test_masked),
        cmocka_unit_test(test_choice),        cmocka_unit_test(test_chains),
        cmocka_unit_test(test_vek_signature), cmocka_unit_test(test_intermediates),
        cmocka_unit_test(test_crl),           cmocka_unit_test(test_crl_validity),
        cmocka_unit_test(test_crl_of_other),  cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_splices),       cmocka_unit_test(test_needs),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
