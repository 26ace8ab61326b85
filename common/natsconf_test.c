#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <sys/stat.h>

#include "common/bus.h"
#include "common/bus_parse.h"
#include "common/fileio.h"
#include "common/natsconf.h"
#include "common/nkey.h"

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void test_nkey(void **state)
{
    _cleanup_secret_ struct secret *seed = nkey_new_user_seed(), *again = NULL;
    char pub[NKEY_PUBLIC_CHARS + 1];
    char text[NKEY_SEED_CHARS + 2];
    uint8_t sig[NKEY_SIG_BYTES];
    struct err e = {0};

    (void)state;
    assert_int_equal(secret_n(seed), NKEY_SEED_CHARS);
    memcpy(text, secret_cp(seed), NKEY_SEED_CHARS);
    assert_memory_equal(text, "SU", 2);
    assert_int_equal(nkey_public(seed, pub, &e), 0);
    assert_int_equal(strlen(pub), NKEY_PUBLIC_CHARS);
    assert_int_equal(pub[0], 'U');
    assert_int_equal(nkey_sign(seed, BYTES_STR("nonce"), sig, &e), 0);
    text[NKEY_SEED_CHARS] = '\n';
    assert_int_equal(nkey_parse_seed(BYTES(text, NKEY_SEED_CHARS + 1), &again, &e), 0);
    assert_true(secret_eq(seed, again));
    text[20] = text[20] == 'A' ? 'B' : 'A';
    struct secret *bad = NULL;
    assert_int_equal(nkey_parse_seed(BYTES(text, NKEY_SEED_CHARS), &bad, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(nkey_parse_seed(BYTES(text, 10), &bad, &e), -1);
    assert_non_null(strstr(e.msg, "expected 58"));
    assert_int_equal(nkey_parse_seed(BYTES_STR(pub), &bad, &e), -1);
}

/* A published pair (nats.io, "nkeys" documentation). */
static void test_nkey_known(void **state)
{
    _cleanup_secret_ struct secret *seed = NULL;
    char pub[NKEY_PUBLIC_CHARS + 1];
    struct err e = {0};

    (void)state;
    static const char text[] = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    assert_int_equal(nkey_parse_seed(BYTES_STR(text), &seed, &e), 0);
    assert_int_equal(nkey_public(seed, pub, &e), 0);
    assert_string_equal(pub, "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4");
}

static void expect_mode(const char *dir, const char *file, mode_t mode)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, file);
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, mode);
}

static void test_write(void **state)
{
    char dir[] = "/tmp/coffer natsconf.XXXXXX";
    static const char *const hosts[] = {"h1", "node-2"};
    static const char *const names[] = {"nats.example", "192.0.2.7"};
    _cleanup_buf_ struct buf one = BUF_INIT(1u << 20), two = BUF_INIT(1u << 20);
    struct err e = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    _cleanup_free_ char *sub = xasprintf("%s/n", dir);
    _cleanup_free_ char *conf = xasprintf("%s/nats-server.conf", sub);
    struct natsconf_opts o = {.dir = sub,
                              .listen_host = "127.0.0.1",
                              .port = 4222,
                              .names = names,
                              .n_names = 2,
                              .hosts = hosts,
                              .n_hosts = 2};
    if (natsconf_write(&o, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    expect_mode(sub, "ca.pem", 0644);
    expect_mode(sub, "ca-key.pem", 0600);
    expect_mode(sub, "server-key.pem", 0600);
    expect_mode(sub, "admin.seed", 0600);
    expect_mode(sub, "kbs.seed", 0600);
    expect_mode(sub, "launcher-node-2.seed", 0600);
    expect_mode(sub, "nats-server.conf", 0600);
    assert_int_equal(file_read(conf, 1u << 20, 1, &one, &e), 0);
    assert_null(strstr((char *)one.p, "http"));
    assert_null(strstr((char *)one.p, "SUA"));
    /* Again: same users, same CA. */
    assert_int_equal(natsconf_write(&o, &e), 0);
    assert_int_equal(file_read(conf, 1u << 20, 1, &two, &e), 0);
    assert_string_equal((char *)one.p, (char *)two.p);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void expect_bad(struct natsconf_opts o, const char *field)
{
    struct err e = {0};

    assert_int_equal(natsconf_write(&o, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    if (!strstr(e.msg, field)) {
        fail_msg("expected %s in \"%s\"", field, e.msg);
    }
}

static void test_bad_options(void **state)
{
    static const char *const hosts[] = {"h 1"};
    char dir[] = "/tmp/coffer-natsconf.XXXXXX";
    struct natsconf_opts good = {.dir = dir, .listen_host = "127.0.0.1", .port = 1}, o;

    (void)state;
    assert_non_null(mkdtemp(dir));
    o = good;
    o.dir = "relative";
    expect_bad(o, "dir: expected an absolute path");
    o = good;
    o.listen_host = "a\"b";
    expect_bad(o, "listen_host: expected");
    o = good;
    o.port = 0;
    expect_bad(o, "port: expected 1 to 65535");
    o = good;
    o.hosts = hosts;
    o.n_hosts = 1;
    expect_bad(o, "hosts[0]: expected");
    o = good;
    o.names = (const char *const[]){"x,DNS:evil.example"};
    o.n_names = 1;
    expect_bad(o, "names[0]: expected a DNS name");
    o = good;
    o.max_store_bytes = 1;
    expect_bad(o, "max_store_bytes: expected at least");
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int has(const struct perms *p, const char *s)
{
    for (size_t i = 0; i < p->n; i++) {
        if (streq(p->v[i], s)) {
            return 1;
        }
    }
    return 0;
}

static void test_permissions(void **state)
{
    struct perms pub, sub;

    (void)state;
    natsconf_permissions(SVC_LAUNCHER, "h1", &pub, &sub);
    assert_true(has(&pub, "coffer.v1.host.report.h1"));
    assert_true(has(&pub, "$JS.API.CONSUMER.MSG.NEXT.COFFER_LAUNCH.launcher-destroy-h1"));
    assert_true(has(&sub, "_INBOX_launcher.h1.>"));
    assert_int_equal(sub.n, 1);
    natsconf_permissions(SVC_VERIFIER, NULL, &pub, &sub);
    assert_true(has(&sub, "coffer.v1.evidence.challenge verifier"));
    assert_true(has(&pub, "_INBOX_worker.>"));
    assert_false(has(&pub, "_INBOX_client.>"));
    natsconf_permissions(SVC_SCHEDULER, NULL, &pub, &sub);
    assert_true(has(&pub, "_INBOX_client.>"));
    assert_true(has(&pub, "coffer.v1.dead.scheduler"));
    for (size_t i = 0; i < pub.n; i++) {
        assert_true(strncmp(pub.v[i], "$JS.API.", 8) != 0 ||
                    strncmp(pub.v[i], "$JS.API.CONSUMER.MSG.NEXT.", 26) == 0);
    }
}

static void test_parse(void **state)
{
    struct puback a;
    struct err e = {0};
    uint32_t n = 0;
    char job[65];

    (void)state;
    static const char ok[] = "{\"stream\":\"WQ\", \"seq\":1,\"duplicate\": true}";
    assert_int_equal(bus_parse_puback(BYTES_STR(ok), &a, &e), 0);
    assert_int_equal(a.code, 0);
    assert_true(a.duplicate);
    static const char full[] =
        "{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"maximum bytes\"}}";
    assert_int_equal(bus_parse_puback(BYTES_STR(full), &a, &e), 0);
    assert_int_equal(a.err_code, 10077);
    assert_true(puback_is_transient(&a));
    assert_int_equal(bus_parse_puback(BYTES_STR("{}"), &a, &e), -1);
    assert_int_equal(bus_parse_puback(BYTES_STR("{\"error\":5}"), &a, &e), -1);

    assert_int_equal(bus_parse_ack("$JS.ACK.S.d.3.1.2.99.0", "S", "d", &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(bus_parse_ack("$JS.ACK.S.d.3.1.2.99", "S", "d", &n), -1);
    assert_int_equal(bus_parse_ack("$JS.ACK.S.e.3.1.2.99.0", "S", "d", &n), -1);
    assert_int_equal(bus_parse_ack("$JS.ACK.S.d.3.1.2.99.0.x", "S", "d", &n), -1);
    assert_int_equal(bus_parse_ack("coffer.v1.job.schedule", "S", "d", &n), -1);

    assert_true(bus_inbox_ok("_INBOX_client.ab.r.0.1", 1u << SVC_CLIENT));
    assert_false(bus_inbox_ok("_INBOX_client.ab", 1u << SVC_WORKER));
    assert_false(bus_inbox_ok("_INBOX_client.>", 1u << SVC_CLIENT));
    assert_false(bus_inbox_ok("_INBOX_client.a..b", 1u << SVC_CLIENT));
    assert_false(bus_inbox_ok("_INBOX_client.", 1u << SVC_CLIENT));
    assert_false(bus_inbox_ok("$JS.API.STREAM.DELETE.X", ~0u));

    bus_ids("jabc.12.verdict.1", job, &n);
    assert_string_equal(job, "jabc");
    assert_int_equal(n, 12);
    bus_ids("jabc.e7", job, &n);
    assert_string_equal(job, "jabc");
    assert_int_equal(n, 0);
    bus_ids("dead.kbs.x.1", job, &n);
    assert_string_equal(job, "");
    assert_true(bus_traceparent_ok("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    assert_false(bus_traceparent_ok("00-00000000000000000000000000000000-b7ad6b7169203331-01"));
    assert_false(bus_msg_id_ok("a b"));
    assert_false(bus_msg_id_ok(""));
    assert_int_equal(bus_number("01", 9, &n), -1);
    assert_int_equal(bus_number("4294967296", UINT32_MAX, &n), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nkey),        cmocka_unit_test(test_nkey_known),
        cmocka_unit_test(test_write),       cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_permissions), cmocka_unit_test(test_parse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
