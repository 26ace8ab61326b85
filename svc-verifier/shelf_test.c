#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "appraise/pki_testing.h"
#include "svc-verifier/store.h"

#define DAY_MS PKI_DAY_MS
#define NOW_MS PKI_NOW_MS
#define SIG                                                                                        \
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"                             \
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static const struct need tcb = {NEED_PCS, "tdx/certification/v4/tcb?fmspc=90c06f000000"};
static const struct need identity = {NEED_PCS, "tdx/certification/v4/qe/identity"};
static const struct need crl_need = {NEED_ROOT_CRL, "IntelSGXRootCA.der"};
static const struct need vcek = {NEED_KDS, "vcek/v1/Milan/cert_chain"};

struct fixture {
    struct db *db;
    struct certs *certs;
    struct shelf *shelf;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct err e = {0};

    assert_int_equal(
        db_open(":memory:", verifier_migrations, ARRAY_LEN(verifier_migrations), &f->db, &e), 0);
    f->certs = certs_new(64);
    assert_int_equal(shelf_open(f->db, f->certs, &f->shelf, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    shelf_free(f->shelf);
    certs_free(f->certs);
    db_close(f->db);
    free(f);
    return 0;
}

static char *signed_json(const char *name, const char *issued, const char *next)
{
    return xasprintf("{\"%s\":{\"issueDate\":\"%s\",\"nextUpdate\":\"%s\"},\"signature\":\"" SIG
                     "\"}",
                     name, issued, next);
}

static int put(struct fixture *f, const struct need *n, const char *body, const char *chain,
               int64_t now_ms, struct err *e)
{
    *e = (struct err){0};
    return shelf_put(f->shelf, f->db, n, BYTES_STR(body), chain, now_ms, e);
}

static int ready(struct fixture *f, const struct need *n, int64_t now_ms)
{
    struct needs all = {0}, wanted;
    struct err e = {0};

    needs_add(&all, n->source, "%s", n->path);
    int rc = shelf_ready(f->db, &all, now_ms, &wanted, &e);
    assert_int_equal(wanted.n, !rc);
    return rc;
}

static void test_life(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *body =
        signed_json("tcbInfo", "2025-12-20T00:00:00Z", "2026-01-20T00:00:00Z");
    struct needs due;
    struct err e;
    int64_t next;

    assert_int_equal(ready(f, &tcb, NOW_MS), 0); /* it is wanted now */
    assert_int_equal(ready(f, &tcb, NOW_MS + 1), 0);
    assert_int_equal(put(f, &tcb, body, "", NOW_MS, &e), 0);
    assert_int_equal(collateral_n(shelf_collateral(f->shelf)), 1);
    assert_int_equal(ready(f, &tcb, NOW_MS), 1);
    /* refreshed with a quarter of its 19 days left */
    assert_int_equal(shelf_next_due(f->db, &next, &e), 0);
    assert_in_range(next, NOW_MS + 14 * DAY_MS, NOW_MS + 15 * DAY_MS);
    assert_int_equal(shelf_due(f->db, NOW_MS + 14 * DAY_MS, &due, &e), 0);
    assert_int_equal(due.n, 0);
    assert_int_equal(shelf_due(f->db, NOW_MS + 15 * DAY_MS, &due, &e), 0);
    assert_int_equal(due.n, 1);
    assert_string_equal(due.v[0].path, tcb.path);
    assert_int_equal(shelf_due(f->db, NOW_MS + 15 * DAY_MS, &due, &e), 0);
    assert_int_equal(due.n, 0); /* not twice in a minute */
    /* an outage takes nothing away that is still valid */
    for (int i = 0; i < 5; i++) {
        assert_int_equal(shelf_failed(f->db, &tcb, NOW_MS + 15 * DAY_MS, 60000, &e), 0);
    }
    assert_int_equal(ready(f, &tcb, NOW_MS + 18 * DAY_MS), 1);
    assert_int_equal(collateral_n(shelf_collateral(f->shelf)), 1);
    /* it is there again after a restart */
    shelf_free(f->shelf);
    assert_int_equal(shelf_open(f->db, f->certs, &f->shelf, &e), 0);
    assert_int_equal(collateral_n(shelf_collateral(f->shelf)), 1);
}

static void test_failures(void **state)
{
    struct fixture *f = *state;
    struct err e;

    assert_int_equal(ready(f, &identity, NOW_MS), 0);
    assert_int_equal(shelf_failed(f->db, &identity, NOW_MS, 1000, &e), 0);
    assert_int_equal(ready(f, &identity, NOW_MS), 0);
    assert_int_equal(shelf_failed(f->db, &identity, NOW_MS, 1000, &e), 0);
    assert_int_equal(ready(f, &identity, NOW_MS), 1); /* no longer waited for */
    _cleanup_free_ char *body =
        signed_json("enclaveIdentity", "2025-12-20T00:00:00Z", "2026-01-20T00:00:00Z");
    assert_int_equal(put(f, &identity, body, "", NOW_MS, &e), 0);
    assert_int_equal(ready(f, &identity, NOW_MS + 30 * DAY_MS), 0); /* expired: wanted anew */
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *newer =
        signed_json("tcbInfo", "2025-12-20T00:00:00Z", "2026-01-20T00:00:00Z");
    _cleanup_free_ char *older =
        signed_json("tcbInfo", "2025-12-19T00:00:00Z", "2026-02-20T00:00:00Z");
    _cleanup_free_ char *other =
        signed_json("enclaveIdentity", "2025-12-21T00:00:00Z", "2026-02-20T00:00:00Z");
    _cleanup_free_ char *undated = signed_json("tcbInfo", "2025-12-21", "2026-02-20T00:00:00Z");
    struct err e;

    assert_int_equal(put(f, &tcb, newer, "", NOW_MS, &e), 0);
    assert_int_equal(put(f, &tcb, older, "", NOW_MS, &e), -1);
    assert_int_equal(e.code, ERR_STALE);
    assert_string_equal(e.clause, "collateral.issued");
    assert_int_equal(put(f, &tcb, other, "", NOW_MS, &e), -1);
    assert_int_equal(put(f, &tcb, undated, "", NOW_MS, &e), -1);
    assert_int_equal(put(f, &tcb, "<html>busy</html>", "", NOW_MS, &e), -1);
    assert_int_equal(put(f, &tcb, "", "", NOW_MS, &e), -1);
    assert_int_equal(put(f, &tcb, newer, "%2", NOW_MS, &e), -1);
    assert_int_equal(put(f, &tcb, newer, "%zz", NOW_MS, &e), -1);
    assert_int_equal(collateral_n(shelf_collateral(f->shelf)), 1); /* what is held stays */
    assert_int_equal(ready(f, &tcb, NOW_MS), 1);
}

static void test_certificates(void **state)
{
    struct fixture *f = *state;
    struct pki root = pki_make(&(struct pki_opts){.cn = "root", .curve = "P-256", .ca = 1});
    _cleanup_buf_ struct buf crl = pki_crl(&root, 0, 0, 1, NULL, 0, 0);
    _cleanup_free_ char *info =
        signed_json("tcbInfo", "2025-12-20T00:00:00Z", "2026-01-20T00:00:00Z");
    struct buf encoded = BUF_INIT(65536);
    struct err e = {0};

    assert_int_equal(put(f, &vcek, root.pem, "", NOW_MS, &e), 0);
    assert_int_equal(ready(f, &vcek, NOW_MS), 1);
    assert_int_equal(shelf_put(f->shelf, f->db, &crl_need, buf_bytes(&crl), "", NOW_MS, &e), 0);
    assert_int_equal(ready(f, &crl_need, NOW_MS), 1);
    assert_int_equal(put(f, &crl_need, root.pem, "", NOW_MS, &e), -1); /* no CRL */
    for (const char *p = root.pem; *p; p++) { /* as the PCS has chains in its headers */
        assert_int_equal(buf_addf(&encoded, &e, *p == '\n' || *p == ' ' ? "%%%02X" : "%c", *p), 0);
    }
    assert_int_equal(put(f, &tcb, info, (char *)encoded.p, NOW_MS, &e), 0);
    buf_done(&encoded);
    pki_done(&root);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_life), T(test_failures), T(test_refused),
                                       T(test_certificates)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
