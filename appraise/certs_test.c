#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/certs.h"
#include "appraise/pki_testing.h"

enum { LEAF, MIDDLE, ROOT, N };

struct fixture {
    struct certs *s;
    struct pki pki[N];
    struct cert *c[N];
    struct cert *anchor;
};

static void take(struct fixture *f, size_t i)
{
    struct err e = {0};

    if (certs_add_der(f->s, "t", buf_bytes(&f->pki[i].der), &f->c[i], &e)) {
        fail_msg("%s", e.msg);
    }
}

static void make(struct fixture *f, size_t i, struct pki_opts o)
{
    pki_done(&f->pki[i]);
    o.issuer = i + 1 < N ? &f->pki[i + 1] : NULL;
    o.curve = "P-256";
    f->pki[i] = pki_make(&o);
    take(f, i);
}

static const struct pki_opts good[N] = {
    {.cn = "leaf", .serial = 7},
    {.cn = "middle", .ca = 1, .has_path_len = 1, .serial = 3},
    {.cn = "root", .ca = 1, .has_path_len = 1, .path_len = 1},
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->s = certs_new(8192); /* none is pushed out */
    for (size_t i = N; i-- > 0;) {
        make(f, i, good[i]);
    }
    f->anchor = cert_ref(f->c[ROOT]);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    cert_unref(f->anchor);
    certs_free(f->s);
    for (size_t i = 0; i < N; i++) {
        pki_done(&f->pki[i]);
    }
    free(f);
    return 0;
}

static int verify_at(struct fixture *f, int64_t at_ms, struct err *e)
{
    const struct cert *anchor = f->anchor;
    struct chain_rules r = {.what = "chain", .at_ms = at_ms, .anchors = &anchor, .n_anchors = 1};

    *e = (struct err){0};
    return chain_verify(f->s, &r, f->c, N, e);
}

static void refused(struct fixture *f, const char *clause)
{
    struct err e;

    assert_int_equal(verify_at(f, PKI_NOW_MS, &e), -1);
    assert_string_equal(e.clause, clause);
}

static void test_good(void **state)
{
    struct fixture *f = *state;
    struct err e;

    assert_int_equal(verify_at(f, PKI_NOW_MS, &e), 0);
    assert_int_equal(verify_at(f, PKI_NOW_MS, &e), 0); /* and as remembered */
    assert_int_equal(verify_at(f, PKI_NOW_MS + 200 * PKI_DAY_MS, &e), -1);
    assert_string_equal(e.clause, "chain[0].not_after");
    assert_int_equal(e.code, ERR_EXPIRED);
    assert_int_equal(verify_at(f, PKI_NOW_MS - 200 * PKI_DAY_MS, &e), -1);
    assert_string_equal(e.clause, "chain[0].not_before");
}

static void test_constraints(void **state)
{
    struct fixture *f = *state;

    make(f, LEAF, (struct pki_opts){.cn = "leaf", .ca = 1});
    refused(f, "chain[0].basic_constraints");
    make(f, MIDDLE, (struct pki_opts){.cn = "middle"});
    make(f, LEAF, good[LEAF]);
    refused(f, "chain[1].basic_constraints");
    make(f, MIDDLE, (struct pki_opts){.cn = "middle", .no_basic_constraints = 1});
    make(f, LEAF, good[LEAF]);
    refused(f, "chain[1].basic_constraints");
    make(f, MIDDLE, (struct pki_opts){.cn = "middle", .ca = 1, .key_usage = "cRLSign"});
    make(f, LEAF, good[LEAF]);
    refused(f, "chain[1].key_usage");
}

static void test_path_len(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct pki deep = pki_make(
        &(struct pki_opts){.cn = "deep", .issuer = &f->pki[MIDDLE], .curve = "P-256", .ca = 1});
    struct pki end = pki_make(&(struct pki_opts){.cn = "end", .issuer = &deep, .curve = "P-256"});
    const struct cert *anchor = f->anchor;
    struct chain_rules r = {
        .what = "chain", .at_ms = PKI_NOW_MS, .anchors = &anchor, .n_anchors = 1};
    struct cert *v[4] = {NULL, NULL, f->c[MIDDLE], f->c[ROOT]};

    assert_int_equal(certs_add_der(f->s, "t", buf_bytes(&end.der), &v[0], &e), 0);
    assert_int_equal(certs_add_der(f->s, "t", buf_bytes(&deep.der), &v[1], &e), 0);
    assert_int_equal(chain_verify(f->s, &r, v, 4, &e), -1);
    assert_string_equal(e.clause, "chain[2].path_len");
    assert_int_equal(chain_verify(f->s, &r, v, 0, &e), -1);
    pki_done(&end);
    pki_done(&deep);
}

static void test_roots(void **state)
{
    struct fixture *f = *state;
    struct err e;
    struct pki_opts o = good[ROOT];

    /* the same key and name in another certificate: the same root */
    o.key = f->pki[ROOT].key;
    EVP_PKEY_up_ref(o.key);
    EVP_PKEY *key = o.key;
    o.serial = 99;
    make(f, ROOT, o);
    EVP_PKEY_free(key);
    assert_int_equal(verify_at(f, PKI_NOW_MS, &e), 0);
    /* the same name, another key */
    make(f, ROOT, good[ROOT]);
    refused(f, "chain.root");
    make(f, MIDDLE, good[MIDDLE]);
    make(f, LEAF, good[LEAF]);
    refused(f, "chain.root");
}

static void test_links(void **state)
{
    struct fixture *f = *state;

    /* an issuer of the same name with another key */
    make(f, MIDDLE, good[MIDDLE]);
    refused(f, "chain[0].signature");
    make(f, MIDDLE, (struct pki_opts){.cn = "other", .ca = 1});
    refused(f, "chain[0].issuer");
    make(f, MIDDLE, good[MIDDLE]);
    make(f, LEAF, (struct pki_opts){.cn = "leaf", .md = EVP_sha1()});
    refused(f, "chain[0].signature");
}

static void test_extensions(void **state)
{
    struct fixture *f = *state;
    static const char *const known[] = {"1.2.3.4", NULL};
    const struct cert *anchor = f->anchor;
    struct chain_rules r = {.what = "chain",
                            .at_ms = PKI_NOW_MS,
                            .anchors = &anchor,
                            .n_anchors = 1,
                            .critical = known};
    struct pki_ext twice[] = {{"1.2.3.4", BYTES("\x05\x00", 2), 1},
                              {"1.2.3.4", BYTES("\x05\x00", 2), 1}};
    struct err e = {0};

    make(f, LEAF, (struct pki_opts){.cn = "leaf", .ext = twice, .n_ext = 1});
    refused(f, "chain[0].extensions");
    assert_int_equal(chain_verify(f->s, &r, f->c, N, &e), 0);
    assert_int_equal(cert_extension(f->c[LEAF], "1.2.3.4").n, 2);
    assert_int_equal(cert_extension(f->c[LEAF], "1.2.3.5").n, 0);

    struct pki p = pki_make(&(struct pki_opts){
        .cn = "leaf", .issuer = &f->pki[MIDDLE], .curve = "P-256", .ext = twice, .n_ext = 2});
    struct cert *c;
    assert_int_equal(certs_add_der(f->s, "t", buf_bytes(&p.der), &c, &e), -1);
    assert_string_equal(e.clause, "t.extensions");
    pki_done(&p);
}

static void test_every_bit(void **state)
{
    struct fixture *f = *state;
    size_t taken = 0;

    for (size_t i = 0; i < f->pki[LEAF].der.n * 8; i++) {
        struct err e;
        _cleanup_free_ uint8_t *copy = xmalloc(f->pki[LEAF].der.n);
        memcpy(copy, f->pki[LEAF].der.p, f->pki[LEAF].der.n);
        copy[i / 8] ^= (uint8_t)(1 << i % 8);
        if (certs_add_der(f->s, "t", BYTES(copy, f->pki[LEAF].der.n), &f->c[LEAF], &e) == 0) {
            taken++;
            assert_int_equal(verify_at(f, PKI_NOW_MS, &e), -1);
        }
        f->c[LEAF] = NULL;
    }
    assert_true(taken > 100); /* the signature is what refuses */
}

static void test_pem(void **state)
{
    struct fixture *f = *state;
    struct cert *v[CERT_CHAIN_MAX];
    struct err e = {0};
    size_t n;
    _cleanup_free_ char *both = xasprintf("%s%s", f->pki[LEAF].pem, f->pki[MIDDLE].pem);
    _cleanup_free_ char *broken = xasprintf("%s%s", f->pki[LEAF].pem, f->pki[MIDDLE].pem);
    _cleanup_free_ char *text = xasprintf("%sX", both);
    struct {
        struct bytes in;
        int ok;
    } cases[] = {
        {BYTES_STR(both), 1},
        {BYTES(both, strlen(both) + 1), 1}, /* a zero byte behind */
        {BYTES(both, strlen(both) - 5), 0},
        {BYTES_STR(broken), 0},
        {BYTES_STR(text), 0},
        {BYTES("", 0), 0},
        {BYTES("\0\0", 2), 0},
    };

    memcpy(strstr(strstr(broken, "END"), "\nM"), "\nAA", 3);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int again = 0; again < 2; again++) {
            int rc = certs_add_pem(f->s, "t", cases[i].in, v, CERT_CHAIN_MAX, &n, &e);
            if ((rc == 0) != cases[i].ok) {
                fail_msg("case %zu", i);
            }
            if (rc == 0) {
                assert_int_equal(n, 2);
                assert_ptr_equal(v[0], f->c[LEAF]);
                assert_ptr_equal(v[1], f->c[MIDDLE]);
            }
        }
    }
    assert_int_equal(certs_add_pem(f->s, "t", BYTES_STR(both), v, 1, &n, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
}

static void test_eviction(void **state)
{
    struct fixture *f = *state;
    struct certs *small = certs_new(2);
    struct cert *c[N], *again, *held;
    struct err e = {0};

    assert_int_equal(certs_add_der(small, "t", buf_bytes(&f->pki[LEAF].der), &c[LEAF], &e), 0);
    held = cert_ref(c[LEAF]);
    assert_int_equal(certs_add_der(small, "t", buf_bytes(&f->pki[MIDDLE].der), &c[MIDDLE], &e), 0);
    assert_int_equal(certs_add_der(small, "t", buf_bytes(&f->pki[ROOT].der), &c[ROOT], &e), 0);
    assert_int_equal(certs_add_der(small, "t", buf_bytes(&f->pki[LEAF].der), &again, &e), 0);
    assert_ptr_not_equal(again, held);
    assert_memory_equal(again->sha256, held->sha256, 32);
    cert_unref(held);
    certs_free(small);
}

static int crl_check(struct fixture *f, struct buf *der, int64_t at_ms, struct err *e)
{
    _cleanup_(crl_freep) struct crl *c = NULL;

    *e = (struct err){0};
    if (crl_parse("crl", buf_bytes(der), &c, e) ||
        crl_verify(f->s, "crl", c, f->c[MIDDLE], at_ms, e)) {
        return -1;
    }
    return crl_has(c, f->c[LEAF]);
}

static void test_crl(void **state)
{
    struct fixture *f = *state;
    const long others[] = {5, 6, 8}, it[] = {5, 7, 9};
    _cleanup_buf_ struct buf good_crl = pki_crl(&f->pki[MIDDLE], 0, 0, 4, others, 3, 0);
    _cleanup_buf_ struct buf revoked = pki_crl(&f->pki[MIDDLE], 0, 0, 5, it, 3, 0);
    _cleanup_buf_ struct buf of_root = pki_crl(&f->pki[ROOT], 0, 0, 5, it, 3, 0);
    struct err e;

    assert_int_equal(crl_check(f, &good_crl, PKI_NOW_MS, &e), 0);
    assert_int_equal(crl_check(f, &revoked, PKI_NOW_MS, &e), 1);
    assert_int_equal(crl_check(f, &of_root, PKI_NOW_MS, &e), -1);
    assert_string_equal(e.clause, "crl.issuer");
    assert_int_equal(crl_check(f, &good_crl, PKI_NOW_MS + 30 * PKI_DAY_MS, &e), -1);
    assert_string_equal(e.clause, "crl.next_update");
    assert_int_equal(crl_check(f, &good_crl, PKI_NOW_MS - 30 * PKI_DAY_MS, &e), -1);
    assert_string_equal(e.clause, "crl.this_update");
    revoked.p[revoked.n - 3] ^= 1;
    assert_int_equal(crl_check(f, &revoked, PKI_NOW_MS, &e), -1);
    assert_string_equal(e.clause, "crl.signature");
    revoked.n--;
    assert_int_equal(crl_check(f, &revoked, PKI_NOW_MS, &e), -1);
    assert_string_equal(e.clause, "crl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good, setup, teardown),
        cmocka_unit_test_setup_teardown(test_constraints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_path_len, setup, teardown),
        cmocka_unit_test_setup_teardown(test_roots, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_extensions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_bit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_eviction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crl, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
