#include "cli/cli_testing.h"

#include <ctype.h>

#include "cli/client.h"
#include "cli/help.h"
#include "cli/verbs.h"

/* ---- the table ------------------------------------------------------------------------------- */

static int check_opt(const struct cli_opt *o, void *arg)
{
    _cleanup_free_ char *help = arg ? xasprintf("--%s", o->name) : NULL;

    assert_non_null(o->help);
    assert_true(strlen(o->help) > 5);
    assert_true(islower((unsigned char)o->name[0]));
    assert_true(o->arg || o->value == VALUE_NONE);
    assert_non_null(strstr(arg, help));
    return 0;
}

static int count_same(const struct cli_opt *o, void *arg)
{
    char *seen = arg;
    _cleanup_free_ char *word = xasprintf(" --%s ", o->name);

    /* Nothing twice, neither a name nor a letter. */
    assert_null(strstr(seen, word));
    strcat(seen, word);
    if (o->letter) {
        char letter[8];
        snprintf(letter, sizeof(letter), " -%c ", o->letter);
        assert_null(strstr(seen, letter));
        strcat(seen, letter);
    }
    return 0;
}

static void every_verb_has_help(void **state)
{
    (void)state;
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const struct verb *v = &cli_verbs[i];
        _cleanup_free_ char *line = xasprintf("%s --help", v->name);
        _cleanup_free_ char *help = xasprintf("help %s", v->name);
        _cleanup_ran_ struct ran a = run_line(line), b = run_line(help);
        char seen[2048] = "";
        assert_int_equal(a.code, CLI_OK);
        assert_string_equal(a.out, b.out);
        assert_non_null(strstr(a.out, v->line));
        assert_true(v->line[strlen(v->line) - 1] != '.');
        assert_true((v->flags & VERB_HIDDEN) || (v->examples && strstr(a.out, "examples:")));
        verb_each_opt(v, check_opt, a.out);
        verb_each_opt(v, count_same, seen);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(cli_verbs[k].name, v->name);
        }
    }
}

static void short_help_lists_verbs(void **state)
{
    _cleanup_ran_ struct ran r = run_line("--help");

    (void)state;
    assert_int_equal(r.code, CLI_OK);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        _cleanup_free_ char *head = xasprintf("\n  %s", cli_verbs[i].name);
        int shown = strstr(r.out, head) != NULL;
        assert_int_equal(shown, !(cli_verbs[i].flags & VERB_HIDDEN));
    }
}

static int mentioned(const struct cli_opt *o, void *arg)
{
    _cleanup_free_ char *dashed = xasprintf("--%s", o->name);
    _cleanup_free_ char *fish = xasprintf("-l %s ", o->name);

    assert_true(strstr(arg, dashed) || strstr(arg, fish));
    return 0;
}

static void completion_mentions_each_option(void **state)
{
    static const char *const shells[] = {"bash", "zsh", "fish"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shells); i++) {
        _cleanup_free_ char *line = xasprintf("completion %s", shells[i]);
        _cleanup_ran_ struct ran r = run_line(line);
        assert_int_equal(r.code, CLI_OK);
        for (size_t k = 0; k < cli_n_verbs; k++) {
            assert_non_null(strstr(r.out, cli_verbs[k].name));
            verb_each_opt(&cli_verbs[k], mentioned, r.out);
        }
    }
    assert_ran("completion csh", CLI_USAGE, "", "expected bash, zsh or fish, found \"csh\"");
}

/* What bash itself makes of it. */
static void bash_completes(void **state)
{
    static const struct {
        const char *words;
        int cword;
        const char *want;
    } cases[] = {
        {"coffer datas", 1, "dataset\n"},         {"coffer dataset in", 2, "inspect\n"},
        {"coffer image key re", 3, "register\n"}, {"coffer dataset seal x --ci", 4, "--cipher\n"},
        {"coffer run --ti", 2, "--timeout\n"},    {"coffer completion z", 2, "zsh\n"},
    };
    _cleanup_ran_ struct ran r = run_line("completion bash");

    (void)state;
    put_file("completion.bash", r.out);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *cmd =
            xasprintf("bash -c '. ./completion.bash; COMP_WORDS=(%s); COMP_CWORD=%d; _coffer; "
                      "printf \"%%s\\n\" \"${COMPREPLY[@]}\"'",
                      cases[i].words, cases[i].cword);
        char got[256] = "";
        FILE *f = popen(cmd, "r");
        assert_non_null(f);
        size_t n = fread(got, 1, sizeof(got) - 1, f);
        got[n] = '\0';
        assert_int_equal(pclose(f), 0);
        assert_string_equal(got, cases[i].want);
    }
}

static void man_page_has_all(void **state)
{
    _cleanup_ran_ struct ran r = run_line("man");

    (void)state;
    assert_int_equal(r.code, CLI_OK);
    assert_memory_equal(r.out, ".TH COFFER 1", 12);
    assert_non_null(strstr(r.out, ".SS coffer dataset grant FILE|ID"));
    assert_non_null(strstr(r.out, ".B \\-\\-max\\-verbatim N"));
    assert_non_null(strstr(r.out, "EXIT STATUS"));
}

/* ---- parsing --------------------------------------------------------------------------------- */

static void wrong_lines(void **state)
{
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"rnu x", "there is no \"coffer rnu\": did you mean \"coffer run\"?"},
        {"dataset sael x", "did you mean \"coffer dataset seal\"?"},
        {"zzzzzzzzzzzz", "there is no \"coffer zzzzzzzzzzzz\"\n"},
        {"ps --jsn", "coffer ps has no option --jsn: did you mean --json?"},
        {"ps --al", "did you mean --all?"},
        {"ps -x", "coffer ps has no option -x"},
        {"ps -ax", "coffer ps has no option -ax"},
        {"--json ps", "options come after the verb"},
        {"run", "expected: coffer run JOB.yaml"},
        {"run a b", "expected: coffer run JOB.yaml"},
        {"run a --out", "--out: expected DIR after it"},
        {"run a --force=1", "--force: takes no value"},
        {"run a --out b --out c", "--out: given twice"},
        {"run a --timeout 5",
         "--timeout: expected a whole number of ms, s, m, h or d, found \"5\""},
        {"run a --timeout -5s", "--timeout: expected a whole number"},
        {"ps --limit 501", "--limit: expected a whole number in 1..500, found \"501\""},
        {"ps --limit 1x", "found \"1x\""},
        {"dataset seal x --cipher rot13", "--cipher: expected aes-256-gcm or chacha20-poly1305"},
        {"dataset seal x --chunk 5000", "--chunk: expected a power of two, found \"5000\""},
        {"dataset seal x --chunk 2KiB", "--chunk: expected 4096 to 1048576"},
        {"dataset unseal x", "expected --out PATH"},
        {"image encrypt a b", "expected --key-id ID"},
        {"help nothing", "there is no \"coffer nothing\""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_ran(cases[i].line, CLI_USAGE, "", cases[i].says);
    }
}

static void families_are_helped(void **state)
{
    (void)state;
    assert_ran("dataset --help", CLI_OK, "dataset seal PATH", "");
    assert_ran("help image", CLI_OK, "image key new NAME", "");
    assert_ran("dataset", CLI_USAGE, "", "dataset seal PATH");
    assert_ran("", CLI_USAGE, "", "usage: coffer VERB");
    assert_ran("version", CLI_OK, "coffer " COFFER_VERSION, "");
    assert_ran("--version", CLI_OK, COFFER_VERSION, "");
}

static void errors_are_json(void **state)
{
    static const char *const lines[] = {"ps --json", "run nothing.yaml --json", "ps --json --jsn",
                                        "dataset inspect nothing --json"};
    static const int codes[] = {CLI_COULD_NOT, CLI_COULD_NOT, CLI_USAGE, CLI_COULD_NOT};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        _cleanup_ran_ struct ran r = run_line(lines[i]);
        _cleanup_json_ json_t *j = NULL;
        assert_int_equal(r.code, codes[i]);
        assert_string_equal(r.err, "");
        assert_int_equal(json_parse("out", BYTES_STR(r.out), 65536, &j, NULL), 0);
        json_t *e = json_object_get(j, "error");
        assert_true(json_string_length(json_object_get(e, "code")) > 0);
        assert_true(json_string_length(json_object_get(e, "message")) > 0);
        assert_true(json_is_string(json_object_get(e, "clause")));
        assert_true(json_is_string(json_object_get(e, "expected")));
        assert_true(json_is_string(json_object_get(e, "actual")));
    }
}

static void says_what_to_do(void **state)
{
    (void)state;
    assert_ran("ps", CLI_COULD_NOT, "", "try: coffer dev");
    assert_ran("submit x.yaml", CLI_COULD_NOT, "", "try: coffer keygen");
    assert_ran("ps --profile nowhere", CLI_COULD_NOT, "", "there is no profile at nowhere");
    assert_ran("ps --data nowhere", CLI_COULD_NOT, "", "there is no profile at nowhere/client");
    setenv("COFFER_PROFILE", "elsewhere", 1);
    assert_ran("ps", CLI_COULD_NOT, "", "there is no profile at elsewhere");
    assert_ran("ps --data nowhere", CLI_COULD_NOT, "", "there is no profile at nowhere/client");
    unsetenv("COFFER_PROFILE");
}

static void a_profile_is_checked(void **state)
{
    (void)state;
    assert_int_equal(mkdir("p", 0700), 0);
    put_file("p/profile.json", "{\"v\":1}");
    assert_ran("ps --profile p", CLI_COULD_NOT, "", "profile.nats_url");
    put_file("p/profile.json", "{\"v\":2,\"nats_url\":\"x\"}");
    assert_ran("ps --profile p", CLI_COULD_NOT, "", "profile.v");
    put_file("p/profile.json", "{\"v\":1,\"nats_url\":\"nats://127.0.0.1:1\",\"x\":1}");
    assert_ran("ps --profile p", CLI_COULD_NOT, "", "x");
    put_file("p/profile.json", "{\"v\":1,\"nats_url\":\"nats://127.0.0.1:1\"}");
    assert_ran("ps --profile p", CLI_COULD_NOT, "", "p/nats-ca.pem");
    assert_ran("store ls --profile p", CLI_COULD_NOT, "", "names no local store");
}

/* ---- exit codes and text --------------------------------------------------------------------- */

static void exit_codes(void **state)
{
    static const struct {
        const char *state;
        int code;
    } states[] = {{"released", 0}, {"held", 3},      {"rejected", 4},  {"failed", 5},
                  {"refused", 5},  {"timed-out", 5}, {"cancelled", 5}, {"running", 0}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        assert_int_equal(cli_exit_of_state(states[i].state), states[i].code);
    }
    for (int code = ERR_NONE + 1; code < ERR_CODE_N; code++) {
        struct err e = {.code = (enum err_code)code};
        assert_int_equal(cli_exit_of_err(&e, "svc-kbs"),
                         err_is_transient(e.code) ? CLI_COULD_NOT : CLI_REFUSED);
        assert_int_equal(cli_exit_of_err(&e, ""),
                         code == ERR_BAD_SIGNATURE ? CLI_REFUSED : CLI_COULD_NOT);
    }
}

static void refusals_are_shown_whole(void **state)
{
    struct ran r = {0};
    size_t n_out, n_err;
    struct cli c = {.out = open_memstream(&r.out, &n_out), .err = open_memstream(&r.err, &n_err)};
    struct err e = {.code = ERR_DENIED,
                    .clause = "grant.images",
                    .expected = "sha256:aa",
                    .actual = "sha256:\033[31mbb",
                    .msg = "no grant covers it"};

    (void)state;
    snprintf(c.by, sizeof(c.by), "svc-kbs");
    assert_int_equal(cli_fail(&c, &e), CLI_REFUSED);
    fclose(c.out);
    fclose(c.err);
    assert_string_equal(r.out, "");
    assert_string_equal(r.err, "coffer: svc-kbs refused: no grant covers it\n"
                               "  clause:   grant.images\n  expected: sha256:aa\n"
                               "  actual:   sha256:?[31mbb\n");
    ran_done(&r);
}

static void text_is_cleaned(void **state)
{
    static const struct {
        const char *in;
        int lines;
        const char *want;
    } cases[] = {
        {"plain", 0, "plain"},
        {"a\033[2Jb\r\n\t\x7f", 0, "a?[2Jb????"},
        {"a\n\tb\r", 1, "a\n\tb?"},
        {"r\xc3\xa9gion \xe2\x82\xac \xf0\x9f\x98\x80", 0,
         "r\xc3\xa9gion \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"c1 \xc2\x9b x", 0, "c1 ?? x"},
        {"rtl \xe2\x80\xae x", 0, "rtl ??? x"},
        {"bad \xff\xc3 \xc0\x80 \xed\xa0\x80", 0, "bad ?? ?? ???"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *s = xstrdup(cases[i].in);
        cli_clean(s, strlen(s), cases[i].lines);
        assert_string_equal(s, cases[i].want);
    }
}

static void messages_are_cleaned(void **state)
{
    static const char bad[] = "\033]0;x\a";
    Coffer__V1__Reply reply = COFFER__V1__REPLY__INIT;
    Coffer__V1__QueryReply query = COFFER__V1__QUERY_REPLY__INIT;
    Coffer__V1__JobStatus status = COFFER__V1__JOB_STATUS__INIT, *statuses[] = {&status};
    Coffer__V1__Refusal reason = COFFER__V1__REFUSAL__INIT;
    Coffer__V1__ReviewReply review = COFFER__V1__REVIEW_REPLY__INIT;
    Coffer__V1__HeldResult held = COFFER__V1__HELD_RESULT__INIT, *helds[] = {&held};
    _cleanup_free_ char *name = xstrdup(bad), *why = xstrdup(bad), *item = xstrdup(bad);
    char *reasons[] = {item};

    (void)state;
    status.name = name;
    status.reason = &reason;
    reason.message = why;
    query.jobs = statuses;
    query.n_jobs = 1;
    reply.body_case = COFFER__V1__REPLY__BODY_QUERY;
    reply.query = &query;
    client_clean(&reply.base);
    assert_string_equal(name, "?]0;x?");
    assert_string_equal(why, "?]0;x?");
    held.reasons = reasons;
    held.n_reasons = 1;
    review.held = helds;
    review.n_held = 1;
    reply.body_case = COFFER__V1__REPLY__BODY_REVIEW;
    reply.review = &review;
    client_clean(&reply.base);
    assert_string_equal(item, "?]0;x?");
}

static void nearest_word(void **state)
{
    static const char *const names[] = {"json", "force", "out"};

    (void)state;
    assert_string_equal(cli_nearest("jsno", names, 3), "json");
    assert_string_equal(cli_nearest("forc", names, 3), "force");
    assert_null(cli_nearest("quetzalcoatl", names, 3));
}

static void quantities_as_text(void **state)
{
    char out[32];

    (void)state;
    assert_string_equal(bytes_text(1023, out), "1023 B");
    assert_string_equal(bytes_text(1536, out), "1.5 KiB");
    assert_string_equal(bytes_text(UINT64_C(3) << 40, out), "3.0 TiB");
    assert_string_equal(duration_text(12345, out), "12.3s");
    assert_string_equal(duration_text(184000, out), "3m 04s");
    assert_string_equal(duration_text(90061000, out), "1d 01h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_verb_has_help),
        cmocka_unit_test(short_help_lists_verbs),
        cmocka_unit_test(completion_mentions_each_option),
        cmocka_unit_test(bash_completes),
        cmocka_unit_test(man_page_has_all),
        cmocka_unit_test(wrong_lines),
        cmocka_unit_test(families_are_helped),
        cmocka_unit_test(errors_are_json),
        cmocka_unit_test(says_what_to_do),
        cmocka_unit_test(a_profile_is_checked),
        cmocka_unit_test(exit_codes),
        cmocka_unit_test(refusals_are_shown_whole),
        cmocka_unit_test(text_is_cleaned),
        cmocka_unit_test(messages_are_cleaned),
        cmocka_unit_test(nearest_word),
        cmocka_unit_test(quantities_as_text),
    };

    return cmocka_run_group_tests(tests, test_enter, test_leave);
}
