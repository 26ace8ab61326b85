#include "cli/cli_testing.h"

#include "common/tpmca.h"
#include "common/tpmhosts.h"

/* Enrolling hosts: what the verifier reads afterwards. */

static void setup_ca(const char *dir)
{
    struct err e = {0};

    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(tpmca_make(dir, dir, &e), 0);
}

static void test_enrol(void **state)
{
    (void)state;
    _cleanup_(tpm_hosts_freep) struct tpm_hosts *h = NULL;
    struct err e = {0};

    setup_ca("a");
    setup_ca("b");
    assert_ran("host enrol --host h1 --root a/issuercert.pem --out hosts.json", CLI_OK,
               "h1: 1 roots, every endorsement key", "tpm-hosts");
    assert_ran("host enrol --host h2 --root a/issuercert.pem --root b/issuercert.pem --out "
               "hosts.json --json",
               CLI_OK, "\"roots\": 2", "");
    /* Again: what was said of it before is gone. A CA certifies itself, so this is one of its keys.
     */
    assert_ran("host enrol --host h1 --root b/issuercert.pem --ek b/issuercert.pem --out "
               "hosts.json",
               CLI_OK, "only the endorsement keys that were named", "");
    assert_int_equal(tpm_hosts_read("hosts.json", &h, &e), 0);
    assert_int_equal(h->n, 2);
    assert_string_equal(h->v[0].name, "h1");
    assert_int_equal(h->v[0].n_roots, 1);
    assert_int_equal(h->v[0].n_eks, 1);
    assert_string_equal(h->v[1].name, "h2");
    assert_int_equal(h->v[1].n_roots, 2);
    assert_int_equal(h->v[1].n_eks, 0);
    assert_ran("host ls --hosts hosts.json", CLI_OK, "Coffer TPM CA of host b", "");
    assert_ran("host ls --hosts hosts.json --json", CLI_OK, "BEGIN CERTIFICATE", "");
}

static void test_refused(void **state)
{
    (void)state;
    struct err e = {0};

    assert_ran("host enrol --host h1 --out x.json", CLI_USAGE, "", "--root FILE");
    assert_ran("host enrol --host h.1 --root a/issuercert.pem --out x.json", CLI_USAGE, "",
               "--host: expected");
    assert_ran("host enrol --host h1 --root a/signkey.pem --out x.json", CLI_COULD_NOT, "",
               "a/signkey.pem: expected one certificate of a CA in PEM, found none");
    assert_ran("host enrol --host h1 --root missing.pem --out x.json", CLI_COULD_NOT, "",
               "missing.pem");
    assert_ran("host enrol --host h1 --root a/issuercert.pem --ek b/issuercert.pem --out x.json",
               CLI_REFUSED, "", "expected one that a --root certifies");
    assert_ran("host enrol --host h1 --root a/issuercert.pem --ek a/signkey.pem --out x.json",
               CLI_COULD_NOT, "", "expected a certificate in PEM or DER");
    assert_int_not_equal(access("x.json", F_OK), 0);
    /* A file that is something else is not written over. */
    assert_int_equal(file_replace("other.json", BYTES_STR("{}\n"), 0600, &e), 0);
    assert_ran("host enrol --host h1 --root a/issuercert.pem --out other.json", CLI_COULD_NOT, "",
               "hosts");
    assert_ran("host ls --hosts other.json", CLI_COULD_NOT, "", "other.json");
    assert_ran("host ls", CLI_USAGE, "", "--hosts FILE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_enrol),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, test_enter, test_leave);
}
