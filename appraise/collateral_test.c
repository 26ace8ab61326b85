#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/collateral.h"
#include "appraise/pki_testing.h"

#define VECTORS "../shared/vectors/"
#define SIG                                                                                        \
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"                             \
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

struct fixture {
    struct certs *certs;
    struct collateral *c;
    struct pki root, leaf;
    struct buf crl;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->certs = certs_new(1024);
    f->c = collateral_new(f->certs);
    f->root = pki_make(&(struct pki_opts){.cn = "root", .curve = "P-256", .ca = 1});
    f->leaf = pki_make(&(struct pki_opts){.cn = "leaf", .curve = "P-256", .issuer = &f->root});
    f->crl = pki_crl(&f->root, 0, 0, 1, NULL, 0, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    collateral_free(f->c);
    certs_free(f->certs);
    pki_done(&f->root);
    pki_done(&f->leaf);
    buf_done(&f->crl);
    free(f);
    return 0;
}

/* How many items of each kind came. */
static void expect(struct fixture *f, struct bytes data, size_t certs, size_t crls, size_t others)
{
    size_t n[ITEM_KIND_N] = {0}, first = collateral_n(f->c);
    struct err e = {0};

    if (collateral_add(f->c, "file", data, &e)) {
        fail_msg("%s", e.msg);
    }
    for (size_t i = first; i < collateral_n(f->c); i++) {
        n[collateral_at(f->c, i)->kind]++;
    }
    assert_int_equal(n[ITEM_CERT], certs);
    assert_int_equal(n[ITEM_CRL], crls);
    assert_int_equal(collateral_n(f->c) - first, certs + crls + others);
}

static void refused(struct fixture *f, struct bytes data, const char *clause)
{
    size_t before = collateral_n(f->c);
    struct err e = {0};

    assert_int_equal(collateral_add(f->c, "file", data, &e), -1);
    if (!streq(e.clause, clause)) {
        fail_msg("expected %s, found %s: %s", clause, e.clause, e.msg);
    }
    assert_int_equal(collateral_n(f->c), before); /* nothing of it is taken */
}

static void test_certificates(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *both = xasprintf("text before\n%s\n%s", f->leaf.pem, f->root.pem);
    _cleanup_free_ char *hex = hex_encode(f->crl.p, f->crl.n);
    _cleanup_free_ char *b64 = b64_encode(f->crl.p, f->crl.n);
    _cleanup_free_ char *crl_pem =
        xasprintf("-----BEGIN X509 CRL-----\r\n%s\r\n-----END X509 CRL-----\r\n", b64);
    _cleanup_free_ char *cut = xstrndup(both, strlen(both) - 10);

    expect(f, buf_bytes(&f->leaf.der), 1, 0, 0);
    expect(f, BYTES_STR(both), 1, 0, 0); /* the leaf is there already */
    expect(f, buf_bytes(&f->crl), 0, 1, 0);
    expect(f, BYTES_STR(hex), 0, 1, 0);
    expect(f, BYTES_STR(b64), 0, 1, 0);
    expect(f, BYTES_STR(crl_pem), 0, 1, 0);
    refused(f, BYTES_STR(cut), "collateral.pem");
    refused(f, BYTES(f->leaf.der.p, f->leaf.der.n - 1), "collateral.crl");
    refused(f, BYTES_STR("hello"), "collateral");
    refused(f, BYTES_STR(""), "collateral");
    refused(f, BYTES_STR("# only a comment"), "collateral");
}

static void test_signed_objects(void **state)
{
    struct fixture *f = *state;
    static const char info[] =
        " {\"signature\":\"" SIG "\" , \"tcbInfo\" :  {\"a\":[1,{\"}\":\"\\\"{\"}], \"b\" : 2 }}\n";
    _cleanup_free_ char *chain = xasprintf("{\"enclaveIdentity\":{\"x\":1},\"signature\":\"" SIG
                                           "\",\"issuerChain\":\"%s\"}",
                                           "CHAIN");
    static const char *const bad[] = {
        "{\"tcbInfo\":{\"a\":1}}",
        "{\"tcbInfo\":{\"a\":1},\"signature\":\"00\"}",
        "{\"tcbInfo\":7,\"signature\":\"" SIG "\"}",
        "{\"tcbInfo\":\"7\",\"signature\":\"" SIG "\"}",
        "{\"tcb\\u0049nfo\":{\"a\":1},\"signature\":\"" SIG "\"}", /* another spelling */
    };

    expect(f, BYTES_STR(info), 0, 0, 1);
    const struct item *i = collateral_at(f->c, collateral_n(f->c) - 1);
    assert_int_equal(i->kind, ITEM_TCB_INFO);
    assert_string_equal((char *)i->raw.p, "{\"a\":[1,{\"}\":\"\\\"{\"}], \"b\" : 2 }");
    assert_int_equal(i->signature[1], 0x11);
    assert_int_equal(i->n_chain, 0);
    expect(f, BYTES_STR("{\"tcbInfo\":\"{\\\"a\\\":1}\",\"signature\":\"" SIG "\"}"), 0, 0, 1);
    assert_string_equal((char *)collateral_at(f->c, collateral_n(f->c) - 1)->raw.p, "{\"a\":1}");
    for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
        refused(f, BYTES_STR(bad[k]), "collateral.tcb_info");
    }
    refused(f, BYTES_STR("{\"tcbInfo\":{},\"tcbInfo\":{},\"signature\":\"" SIG "\"}"),
            "collateral.json");
    refused(f, BYTES_STR("{\"a\":1}"), "collateral.json");
    refused(f, BYTES_STR("{"), "collateral.json");
    (void)chain;
}

static char *escaped(const char *pem)
{
    _cleanup_json_ json_t *s = json_string(pem);

    return json_dumps(s, JSON_ENCODE_ANY);
}

static void test_set(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *hex = hex_encode(f->crl.p, f->crl.n);
    _cleanup_free_ char *both = xasprintf("%s%s", f->leaf.pem, f->root.pem);
    _cleanup_free_ char *chain = escaped(both);
    _cleanup_free_ char *set = xasprintf(
        "{\"pck_crl_issuer_chain\":%s,\"root_ca_crl\":\"%s\",\"pck_crl\":\"%s\","
        "\"tcb_info_issuer_chain\":%s,\"tcb_info\":\"{\\\"a\\\":1}\",\"tcb_info_signature\":\"" SIG
        "\",\"qe_identity_issuer_chain\":%s,\"qe_identity\":{\"q\":1},"
        "\"qe_identity_signature\":\"" SIG "\"}",
        chain, hex, hex, chain, chain);
    static const char *const members[] = {
        "pck_crl_issuer_chain",     "root_ca_crl",          "\"pck_crl\"", "tcb_info_signature",
        "qe_identity_issuer_chain", "qe_identity_signature"};

    expect(f, BYTES_STR(set), 2, 2, 2);
    for (size_t i = 0; i < collateral_n(f->c); i++) {
        const struct item *x = collateral_at(f->c, i);
        assert_int_equal(x->set, 1);
        assert_string_not_equal(x->role, "");
        assert_int_equal(x->n_chain,
                         x->kind == ITEM_TCB_INFO || x->kind == ITEM_QE_IDENTITY ? 2 : 0);
    }
    for (size_t k = 0; k < ARRAY_LEN(members); k++) {
        struct err e = {0};
        _cleanup_free_ char *without = xstrdup(set);
        strstr(without, members[k])[2] = 'Z';
        assert_int_equal(collateral_add(f->c, "file", BYTES_STR(without), &e), -1);
    }
    assert_int_equal(collateral_n(f->c), 6);
}

/* ---- files that others made ------------------------------------------------------------------ */

static void test_vectors(void **state)
{
    static const struct {
        const char *path;
        size_t certs, crls, infos, identities;
    } cases[] = {
        {"tdx/phala-dcap-qvl/tdx_quote_collateral.json", 2, 2, 1, 1},
        {"tdx/phala-dcap-qvl/gas-test-quote_collateral.json", 2, 2, 1, 1},
        {"sgx/phala-dcap-qvl/sgx_quote_collateral.json", 2, 2, 1, 1},
        {"tdx/openenclave/tdx_endorsement.bin", 2, 2, 1, 1},
        {"tdx/openenclave/tdx_quote_v5_endorsement_eval21.bin", 2, 2, 1, 1},
        {"sgx/openenclave/attestation_plugin_endorsements.bin", 2, 2, 1, 1},
        {"tdx/google-go-tdx-guest/sample_tcbInfo_response.json", 0, 0, 1, 0},
        {"tdx/google-go-tdx-guest/sample_qeIdentity_response.json", 0, 0, 0, 1},
        {"tdx/google-go-tdx-guest/pckcrl_platform.der", 0, 1, 0, 0},
        {"tdx/google-go-tdx-guest/rootcrl.der", 0, 1, 0, 0},
        {"tdx/google-go-tdx-guest/tcb_info_issuer_chain.pem", 2, 0, 0, 0},
        {"tdx/automata-solana/pck.der", 1, 0, 0, 0},
        {"sgx/matterlabs-teepot/azure/pck_crl.pem", 0, 1, 0, 0},
        {"sgx/matterlabs-teepot/sw_hardening/tcb_info.json", 0, 0, 1, 0},
        {"sgx/intel-qvl-sample/tcbInfo.json", 0, 0, 1, 0},
        {"snp/virtee-sev/cert_chain_milan", 2, 0, 0, 0},
        {"snp/virtee-sev/cert_chain_turin", 2, 0, 0, 0},
        {"snp/virtee-sev/vcek_turin.der", 1, 0, 0, 0},
        {"snp/microsoft-confidential-sidecar/uvm_host_amd_certificate.json", 3, 0, 0, 0},
        {"snp/microsoft-confidential-sidecar/security-context-host-amd-cert-base64", 3, 0, 0, 0},
        {"snp/google-go-sev-guest/milan.testcer", 2, 0, 0, 0},
        {"nvidia/google-go-nvattest-tools/NV_GPU_DRIVER_GH100_550.90.07.xml", 0, 0, 0, 0},
    };
    (void)state;

    if (access(VECTORS "MANIFEST.md", R_OK)) {
        print_message("SKIPPED: no real vectors beside the source tree\n");
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_(certs_freep) struct certs *certs = certs_new(64);
        _cleanup_(collateral_freep) struct collateral *c = collateral_new(certs);
        _cleanup_free_ char *path = xasprintf(VECTORS "%s", cases[i].path);
        size_t n[ITEM_KIND_N] = {0}, unknown;
        struct err e = {0};
        if (collateral_add_path(c, path, &unknown, &e)) {
            fail_msg("%s: %s", path, e.msg);
        }
        for (size_t k = 0; k < collateral_n(c); k++) {
            n[collateral_at(c, k)->kind]++;
        }
        if (n[ITEM_CERT] != cases[i].certs || n[ITEM_CRL] != cases[i].crls ||
            n[ITEM_TCB_INFO] != cases[i].infos || n[ITEM_QE_IDENTITY] != cases[i].identities) {
            fail_msg("%s: %zu certificates, %zu CRLs, %zu TCB infos, %zu QE identities", path,
                     n[ITEM_CERT], n[ITEM_CRL], n[ITEM_TCB_INFO], n[ITEM_QE_IDENTITY]);
        }
    }
}

static void test_directory(void **state)
{
    struct fixture *f = *state;
    size_t unknown = 0;
    struct err e = {0};

    if (access(VECTORS "MANIFEST.md", R_OK)) {
        skip();
    }
    if (collateral_add_path(f->c, VECTORS "tdx/phala-dcap-qvl", &unknown, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_true(collateral_n(f->c) >= 18);
    assert_true(unknown > 0); /* the quotes */
    assert_int_equal(collateral_add_path(f->c, VECTORS "MANIFEST.md", &unknown, &e), -1);
    assert_int_equal(collateral_add_path(f->c, VECTORS "nope", &unknown, &e), -1);
    assert_int_equal(e.code, ERR_IO);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_certificates), T(test_signed_objects), T(test_set),
        T(test_vectors),      T(test_directory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
