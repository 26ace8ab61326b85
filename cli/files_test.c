#include "cli/cli_testing.h"

#include <errno.h>

#include "cli/dataset.h"
#include "cli/files.h"
#include "cli/result_open.h"
#include "cli/verbs.h"
#include "common/jose.h"

/* ---- output files ---------------------------------------------------------------------------- */

static void paths_stay_below(void **state)
{
    static const char *const bad[] = {"",    "/etc/x", "..",    "../x", "a/../x", "a//b",
                                      "./a", "a/",     "a/./b", "a\nb", "."};
    static const char *const good[] = {"a", "a/b", "..a", "a/...", "\xc3\xa9.csv"};
    struct output_file f = {.content = BYTES_STR("x")};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = {0};
        assert_false(relative_path_valid(bad[i]));
        f.path = bad[i];
        assert_int_equal(output_write("o", &f, 1, 1, &e), -1);
        assert_int_equal(e.code, ERR_DENIED);
    }
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(relative_path_valid(good[i]));
    }
    assert_int_equal(access("o", F_OK), -1);
}

static void files_are_written(void **state)
{
    const struct output_file v[] = {{"w.csv", BYTES_STR("1,2\n")},
                                    {"a/b/c.txt", BYTES_STR("deep")}};
    struct err e = {0};

    (void)state;
    assert_int_equal(output_write("out/w", v, 2, 0, &e), 0);
    _cleanup_free_ char *deep = get_file("out/w/a/b/c.txt");
    assert_string_equal(deep, "deep");
    assert_int_equal(output_write("out/w", v, 2, 0, &e), -1);
    assert_int_equal(e.code, ERR_WRONG_STATE);
    assert_non_null(strstr(e.msg, "out/w/w.csv is there already; --force replaces it"));
    assert_int_equal(output_write("out/w", v, 2, 1, &e), 0);
}

static void none_is_written_when_one_is_there(void **state)
{
    const struct output_file v[] = {{"first", BYTES_STR("1")}, {"second", BYTES_STR("2")}};
    struct err e = {0};

    (void)state;
    assert_int_equal(mkdir("n", 0755), 0);
    put_file("n/second", "mine");
    assert_int_equal(output_write("n", v, 2, 0, &e), -1);
    assert_int_equal(access("n/first", F_OK), -1);
    _cleanup_free_ char *kept = get_file("n/second");
    assert_string_equal(kept, "mine");
}

static void links_are_not_followed(void **state)
{
    const struct output_file below = {"link/x", BYTES_STR("evil")};
    const struct output_file at = {"leaf", BYTES_STR("new")};
    struct err e = {0};

    (void)state;
    assert_int_equal(mkdir("l", 0755) || mkdir("target", 0755), 0);
    assert_int_equal(symlink("../target", "l/link"), 0);
    assert_int_equal(output_write("l", &below, 1, 1, &e), -1);
    assert_int_equal(e.code, ERR_DENIED);
    assert_non_null(strstr(e.msg, "\"link\" is a link or a file"));
    assert_int_equal(access("target/x", F_OK), -1);

    put_file("victim", "untouched");
    assert_int_equal(symlink("../victim", "l/leaf"), 0);
    assert_int_equal(output_write("l", &at, 1, 0, &e), -1);
    assert_int_equal(e.code, ERR_WRONG_STATE);
    assert_int_equal(output_write("l", &at, 1, 1, &e), 0); /* replaces the link itself */
    _cleanup_free_ char *kept = get_file("victim");
    assert_string_equal(kept, "untouched");
}

static void an_outfile_is_whole_or_absent(void **state)
{
    struct outfile o = {.fd = -1};
    struct err e = {0};

    (void)state;
    assert_int_equal(outfile_open("whole", 0, 0600, &o, &e), 0);
    assert_int_equal(write_fully(o.fd, BYTES_STR("x"), "whole", &e), 0);
    _cleanup_free_ char *temp = xstrdup(o.temp);
    assert_int_equal(access("whole", F_OK), -1);
    outfile_done(&o);
    assert_int_equal(access(temp, F_OK), -1);

    assert_int_equal(outfile_open("whole", 0, 0600, &o, &e), 0);
    put_file("whole", "came meanwhile");
    assert_int_equal(outfile_commit(&o, 0, &e), -1);
    assert_int_equal(e.code, ERR_WRONG_STATE);
    outfile_done(&o);
    _cleanup_free_ char *kept = get_file("whole");
    assert_string_equal(kept, "came meanwhile");
}

/* ---- keys and datasets, through the verbs ---------------------------------------------------- */

static void keys(void **state)
{
    struct stat st;

    (void)state;
    assert_ran("keygen --out k.jwk", CLI_OK, "\n", "public key:  k.jwk.pub");
    assert_int_equal(stat("k.jwk", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_ran("keygen --out k.jwk", CLI_COULD_NOT, "", "k.jwk is there already; --force");
    _cleanup_ran_ struct ran a = run_line("key show k.jwk"), b = run_line("key show k.jwk.pub"),
                             c = run_line("key show --key k.jwk");
    assert_int_equal(strlen(a.out), JKEY_THUMBPRINT_LEN + 1);
    assert_string_equal(a.out, b.out);
    assert_string_equal(a.out, c.out);
    _cleanup_free_ char *pub = get_file("k.jwk.pub");
    assert_null(strstr(pub, "\"d\""));
    assert_ran("keygen --out k.jwk --force", CLI_OK, "", "");
    assert_int_equal(chmod("k.jwk", 0644), 0);
    assert_ran("key show --key k.jwk", CLI_COULD_NOT, "", "0600");
    assert_ran("key show k.jwk.nothing", CLI_COULD_NOT, "", "k.jwk.nothing");
}

static void seal_round_trip(void **state)
{
    (void)state;
    assert_ran("keygen --out own.jwk", CLI_OK, "", "");
    put_file("Plain Data.csv", "");
    put_file("plain.csv", "a,b\n1,2\n");
    assert_ran("dataset seal plain.csv --key own.jwk --out s.coffer", CLI_OK, "plain.",
               "sealed 8 B into s.coffer");
    assert_ran("dataset seal plain.csv --key own.jwk --out s.coffer", CLI_COULD_NOT, "",
               "s.coffer is there already");
    assert_ran("dataset inspect s.coffer", CLI_OK, "AES-256-GCM", "");
    assert_ran("dataset inspect s.coffer --json", CLI_OK, "\"bytes\": 8", "");
    assert_ran("dataset unseal s.coffer --key own.jwk --out again.csv", CLI_OK, "", "8 B");
    _cleanup_free_ char *again = get_file("again.csv");
    assert_string_equal(again, "a,b\n1,2\n");
    assert_ran("dataset seal plain.csv --key own.jwk --out c.coffer --cipher chacha20-poly1305 "
               "--chunk 4KiB --name x-1",
               CLI_OK, "x-1.", "");
    assert_ran("dataset inspect c.coffer", CLI_OK, "ChaCha20-Poly1305, chunks of 4.0 KiB", "");
    assert_ran("dataset seal nothing --key own.jwk", CLI_COULD_NOT, "", "cannot open nothing");
    assert_ran("dataset seal plain.csv --key own.jwk --name Up", CLI_COULD_NOT, "", "name");

    assert_ran("keygen --out other.jwk", CLI_OK, "", "");
    assert_ran("dataset unseal s.coffer --key other.jwk --out stolen", CLI_COULD_NOT, "",
               "dataset.owner");
    assert_int_equal(access("stolen", F_OK), -1);
}

static void seal_directory(void **state)
{
    (void)state;
    assert_ran("keygen --out dir.jwk", CLI_OK, "", "");
    assert_int_equal(mkdir("tree", 0755) || mkdir("tree/sub", 0755), 0);
    put_file("tree/one", "1");
    put_file("tree/sub/two", "2");
    assert_ran("dataset seal tree/ --key dir.jwk", CLI_OK, "tree.", "into tree.coffer");
    assert_ran("dataset inspect tree.coffer", CLI_OK, "directory (tar)", "");
    assert_ran("dataset unseal tree.coffer --key dir.jwk --out tree2", CLI_OK, "", "");
    _cleanup_free_ char *two = get_file("tree2/sub/two");
    assert_string_equal(two, "2");
    assert_ran("dataset unseal tree.coffer --key dir.jwk --out tree2", CLI_COULD_NOT, "",
               "tree2 is there already");
    assert_int_equal(mkfifo("tree/fifo", 0600), 0);
    assert_ran("dataset seal tree --key dir.jwk --out f.coffer", CLI_COULD_NOT, "", "fifo");
    assert_int_equal(access("f.coffer", F_OK), -1);
}

static void damage_is_found(void **state)
{
    _cleanup_buf_ struct buf b = BUF_INIT(1 << 20);

    (void)state;
    assert_ran("keygen --out dmg.jwk", CLI_OK, "", "");
    put_file("dmg", "some bytes that are no sealed file");
    assert_ran("dataset seal dmg --key dmg.jwk", CLI_OK, "", "");
    assert_int_equal(file_read("dmg.coffer", 1 << 20, 0, &b, NULL), 0);
    b.p[b.n - 1] ^= 1;
    assert_int_equal(file_replace("flip.coffer", buf_bytes(&b), 0644, NULL), 0);
    assert_ran("dataset unseal flip.coffer --key dmg.jwk --out x", CLI_REFUSED, "",
               "does not open");
    b.p[b.n - 1] ^= 1;
    assert_int_equal(file_replace("cut.coffer", BYTES(b.p, b.n - 40), 0644, NULL), 0);
    assert_ran("dataset unseal cut.coffer --key dmg.jwk --out x", CLI_COULD_NOT, "", "cut off");
    assert_ran("dataset inspect cut.coffer", CLI_COULD_NOT, "", "cut off");
    assert_ran("dataset inspect dmg", CLI_COULD_NOT, "", "not a sealed stream");
    assert_int_equal(access("x", F_OK), -1);
}

static void names_from_paths(void **state)
{
    static const char *const cases[][2] = {{"a/Admissions 2023.csv", "admissions-2023"},
                                           {"dir/", "dir"},
                                           {".hidden", "-hidden"},
                                           {"x.tar.gz", "x-tar"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *name = dataset_name_from(cases[i][0]);
        assert_string_equal(name, cases[i][1]);
    }
}

/* ---- grants ---------------------------------------------------------------------------------- */

#define DIGEST "sha256:abababababababababababababababababababababababababababababababab"

static void grants_are_checked_first(void **state)
{
    static const struct {
        const char *rest, *says;
    } cases[] = {
        {"--image " DIGEST, "--consumer: expected at least one"},
        {"--consumer self", "--image: expected at least one"},
        {"--consumer self --image sha256:ab", "--image: expected sha256: and 64"},
        {"--consumer nobody --image " DIGEST, "--consumer: expected a thumbprint (43 characters)"},
        {"--consumer self --image " DIGEST " --hold-at 102", "--hold-at: expected a whole number"},
        {"--consumer self --image " DIGEST " --hold-at 80", "--hold-at: expected at most --reject"},
        {"--consumer self --image " DIGEST " --tee-status fine", "--tee-status: expected"},
        {"--consumer self --image " DIGEST " --tee-types TDX", "--tee-types: expected names"},
        {"--consumer self --image " DIGEST " --valid 10ms", "--valid: expected at least 1s"},
        {"--consumer self --image " DIGEST " --max-bytes 65MiB", "--max-bytes: expected 1 to"},
    };

    (void)state;
    assert_ran("keygen --out g.jwk", CLI_OK, "", "");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *line =
            xasprintf("dataset grant x.coffer --key g.jwk %s", cases[i].rest);
        assert_ran(line, CLI_USAGE, "", cases[i].says);
    }
    assert_ran("dataset grant x --key g.jwk --consumer self --image " DIGEST, CLI_USAGE, "",
               "expected a sealed file or a dataset's id, found \"x\"");
}

static const struct verb *verb_named(const char *name)
{
    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (streq(cli_verbs[i].name, name)) {
            return &cli_verbs[i];
        }
    }
    return NULL;
}

static const struct cli_opt *grant_opt(const char *name)
{
    for (const struct cli_opt *o = opts_grant; o->name; o++) {
        if (streq(o->name, name)) {
            return o;
        }
    }
    return NULL;
}

static void a_grant_says_what_was_asked(void **state)
{
    _cleanup_jkey_ struct jkey *own = NULL;
    struct cli c = {.verb = verb_named("dataset grant"), .out = stdout, .err = stderr};
    struct err e = {0};

    (void)state;
    assert_int_equal(jkey_generate(&own, NULL), 0);
    c.given[0].opt = grant_opt("consumer");
    c.given[0].value = xstrdup("self");
    c.given[1].opt = grant_opt("image");
    c.given[1].value = xstrdup(DIGEST "," DIGEST);
    c.given[2].opt = grant_opt("valid");
    c.given[2].value = xstrdup("1h");
    c.n_given = 3;
    _cleanup_json_ json_t *g = grant_compose(&c, "s.id", own, 1000000, &e);
    assert_non_null(g);
    assert_string_equal(json_string_value(json_array_get(json_object_get(g, "consumers"), 0)),
                        jkey_thumbprint(own));
    assert_int_equal(json_array_size(json_object_get(g, "images")), 2);
    assert_int_equal(json_integer_value(json_object_get(g, "exp")), 1003600);
    assert_int_equal(json_array_size(json_object_get(json_object_get(g, "tee"), "types")), 3);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(g, "gate"), "holdAt")), 30);
    assert_int_equal(json_array_size(json_object_get(g, "recipients")), 0);
    assert_int_equal(json_object_size(g), 10);
    cli_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_stay_below),
        cmocka_unit_test(files_are_written),
        cmocka_unit_test(none_is_written_when_one_is_there),
        cmocka_unit_test(links_are_not_followed),
        cmocka_unit_test(an_outfile_is_whole_or_absent),
        cmocka_unit_test(keys),
        cmocka_unit_test(seal_round_trip),
        cmocka_unit_test(seal_directory),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(names_from_paths),
        cmocka_unit_test(grants_are_checked_first),
        cmocka_unit_test(a_grant_says_what_was_asked),
    };

    return cmocka_run_group_tests(tests, test_enter, test_leave);
}
