#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>

#include "cli/client.h"
#include "cli/help.h"

/* The frame: which verb, which options, and one place where errors are shown. */

/* ---- options of the verb that runs ----------------------------------------------------------- */

struct find {
    const char *name;
    size_t n;
    char letter;
    const struct cli_opt *found;
};

static int match_opt(const struct cli_opt *o, void *arg)
{
    struct find *f = arg;

    if (f->letter ? o->letter == f->letter
                  : strlen(o->name) == f->n && memcmp(o->name, f->name, f->n) == 0) {
        f->found = o;
        return 1;
    }
    return 0;
}

static const struct cli_opt *find_opt(const struct verb *v, const char *name, size_t n, char letter)
{
    struct find f = {.name = name, .n = n, .letter = letter};

    verb_each_opt(v, match_opt, &f);
    return f.found;
}

int verb_each_opt(const struct verb *v, int (*fn)(const struct cli_opt *o, void *arg), void *arg)
{
    const struct cli_opt *common[8];
    size_t n = 0;
    int rc;

    for (const struct cli_opt *o = v->opts; o && o->name; o++) {
        if ((rc = fn(o, arg))) {
            return rc;
        }
    }
    if (v->flags & VERB_KEY) {
        common[n++] = &cli_opt_key;
    }
    if (v->flags & VERB_PROFILE) {
        common[n++] = &cli_opt_profile;
        common[n++] = &cli_opt_data;
    }
    if (v->flags & VERB_JSON) {
        common[n++] = &cli_opt_json;
    }
    common[n++] = &cli_opt_verbose;
    common[n++] = &cli_opt_help;
    for (size_t i = 0; i < n; i++) {
        if ((rc = fn(common[i], arg))) {
            return rc;
        }
    }
    return 0;
}

const char *cli_opt(const struct cli *c, const char *name)
{
    const struct cli_opt *o = find_opt(c->verb, name, strlen(name), 0);

    if (!o) {
        abort();
    }
    for (size_t i = c->n_given; i > 0; i--) {
        if (c->given[i - 1].opt == o) {
            return c->given[i - 1].value;
        }
    }
    return NULL;
}

int cli_has(const struct cli *c, const char *name)
{
    return cli_opt(c, name) != NULL;
}

void strings_add(struct strings *s, const char *v)
{
    s->v = xrealloc(s->v, (s->n + 1) * sizeof(*s->v));
    s->v[s->n++] = xstrdup(v);
}

void strings_done(struct strings *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->v[i]);
    }
    free(s->v);
    *s = (struct strings){0};
}

void cli_opt_list(const struct cli *c, const char *name, struct strings *ret)
{
    const struct cli_opt *o = find_opt(c->verb, name, strlen(name), 0);

    if (!o) {
        abort();
    }
    for (size_t i = 0; i < c->n_given; i++) {
        if (c->given[i].opt != o) {
            continue;
        }
        _cleanup_free_ char *copy = xstrdup(c->given[i].value);
        char *save = NULL;
        for (char *p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
            strings_add(ret, p);
        }
    }
}

struct unit {
    const char *name;
    int64_t factor;
};

/* A whole number and a unit; -1 when it is no such thing or out of bounds. */
static int parse_quantity(const char *s, const struct unit *units, size_t n, int64_t min,
                          int64_t max, int64_t *ret)
{
    char *end;

    if (!isdigit((unsigned char)s[0])) {
        return -1;
    }
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t out;
        if (streq(end, units[i].name)) {
            if (__builtin_mul_overflow((int64_t)v, units[i].factor, &out) || out < min ||
                out > max) {
                return -1;
            }
            *ret = out;
            return 0;
        }
    }
    return -1;
}

int cli_opt_int(const struct cli *c, const char *name, int64_t min, int64_t max, int64_t dflt,
                int64_t *ret, struct err *e)
{
    static const struct unit one[] = {{"", 1}};
    const char *s = cli_opt(c, name);

    *ret = dflt;
    if (s && parse_quantity(s, one, 1, min, max, ret)) {
        return err_set(e, ERR_INVALID, "--%s: expected a whole number in %lld..%lld, found \"%s\"",
                       name, (long long)min, (long long)max, s);
    }
    return 0;
}

int cli_opt_size(const struct cli *c, const char *name, int64_t min, int64_t max, int64_t dflt,
                 int64_t *ret, struct err *e)
{
    static const struct unit units[] = {
        {"", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
    const char *s = cli_opt(c, name);

    *ret = dflt;
    if (s && parse_quantity(s, units, ARRAY_LEN(units), min, max, ret)) {
        return err_set(e, ERR_INVALID,
                       "--%s: expected %lld to %lld, as bytes or with KiB, MiB or GiB, found "
                       "\"%s\"",
                       name, (long long)min, (long long)max, s);
    }
    return 0;
}

int cli_opt_duration(const struct cli *c, const char *name, int64_t dflt_ms, int64_t *ret_ms,
                     struct err *e)
{
    static const struct unit units[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    const char *s = cli_opt(c, name);

    *ret_ms = dflt_ms;
    if (s && parse_quantity(s, units, ARRAY_LEN(units), 1, INT64_C(86400000) * 36500, ret_ms)) {
        return err_set(e, ERR_INVALID,
                       "--%s: expected a whole number of ms, s, m, h or d, found \"%s\"", name, s);
    }
    return 0;
}

/* ---- which verb ------------------------------------------------------------------------------ */

/* How many of the words are the verb's name; 0 when it is another. */
static int verb_words(const struct verb *v, int argc, char **argv)
{
    const char *p = v->name;
    int words = 0;

    for (;;) {
        size_t n = strcspn(p, " ");
        if (words >= argc || strlen(argv[words]) != n || memcmp(argv[words], p, n) != 0) {
            return 0;
        }
        words++;
        if (!p[n]) {
            return words;
        }
        p += n + 1;
    }
}

static const struct verb *find_verb(int argc, char **argv, int *ret_words)
{
    const struct verb *best = NULL;

    *ret_words = 0;
    for (size_t i = 0; i < cli_n_verbs; i++) {
        int n = verb_words(&cli_verbs[i], argc, argv);
        if (n > *ret_words) {
            *ret_words = n;
            best = &cli_verbs[i];
        }
    }
    return best;
}

static int is_family(const char *word)
{
    size_t n = strlen(word);

    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (strncmp(cli_verbs[i].name, word, n) == 0 && cli_verbs[i].name[n] == ' ') {
            return 1;
        }
    }
    return 0;
}

static int unknown_verb(struct cli *c, int argc, char **argv)
{
    const char *names[128];
    size_t n = 0;
    _cleanup_free_ char *typed = xstrdup(argv[0]);

    if (is_family(argv[0])) {
        if (argc == 1) {
            help_family(c->err, argv[0]);
            return CLI_USAGE;
        }
        free(typed);
        typed = xasprintf("%s %s", argv[0], argv[1]);
    }
    for (size_t i = 0; i < cli_n_verbs && n < ARRAY_LEN(names); i++) {
        names[n++] = cli_verbs[i].name;
    }
    const char *near = cli_nearest(typed, names, n);
    cli_hint(c, "coffer help");
    return near
               ? cli_usage(c, "there is no \"coffer %s\": did you mean \"coffer %s\"?", typed, near)
               : cli_usage(c, "there is no \"coffer %s\"", typed);
}

/* ---- parsing --------------------------------------------------------------------------------- */

struct names {
    const char *v[64];
    size_t n;
};

static int collect_name(const struct cli_opt *o, void *arg)
{
    struct names *names = arg;

    if (names->n < ARRAY_LEN(names->v)) {
        names->v[names->n++] = o->name;
    }
    return 0;
}

static int unknown_opt(struct cli *c, const char *arg, size_t n)
{
    struct names names = {0};
    _cleanup_free_ char *typed = xstrndup(arg, n);

    verb_each_opt(c->verb, collect_name, &names);
    const char *near = cli_nearest(typed + strspn(typed, "-"), names.v, names.n);
    cli_hint(c, "coffer help %s", c->verb->name);
    return near ? cli_usage(c, "coffer %s has no option %s: did you mean --%s?", c->verb->name,
                            typed, near)
                : cli_usage(c, "coffer %s has no option %s", c->verb->name, typed);
}

static int give(struct cli *c, const struct cli_opt *o, const char *value)
{
    if (c->n_given == CLI_MAX_OPTS) {
        return cli_usage(c, "more than %d options", CLI_MAX_OPTS);
    }
    for (size_t i = 0; !o->many && o->arg && i < c->n_given; i++) {
        if (c->given[i].opt == o) {
            return cli_usage(c, "--%s: given twice", o->name);
        }
    }
    c->given[c->n_given].opt = o;
    c->given[c->n_given++].value = xstrdup(value);
    return 0;
}

/* One option at argv[*i]; moves *i past its value. */
static int parse_opt(struct cli *c, int argc, char **argv, int *i)
{
    const char *a = argv[*i], *value = NULL;
    const struct cli_opt *o;
    size_t n = strlen(a);

    if (a[1] == '-') {
        n = strcspn(a, "=");
        o = find_opt(c->verb, a + 2, n - 2, 0);
        value = a[n] ? a + n + 1 : NULL;
    } else {
        o = find_opt(c->verb, NULL, 0, a[1]);
        value = o && o->arg && a[2] ? a + 2 : NULL;
        if (o && !o->arg && a[2]) {
            o = NULL;
        }
    }
    if (!o) {
        return unknown_opt(c, a, n);
    }
    if (!o->arg) {
        return value ? cli_usage(c, "--%s: takes no value", o->name) : give(c, o, "");
    }
    if (!value) {
        if (*i + 1 >= argc) {
            return cli_usage(c, "--%s: expected %s after it", o->name, o->arg);
        }
        value = argv[++*i];
    }
    return give(c, o, value);
}

/* Moves the arguments to the front of argv. */
static int parse(struct cli *c, int argc, char **argv, int *ret_n)
{
    int n = 0, options = 1;

    for (int i = 0; i < argc; i++) {
        if (options && streq(argv[i], "--")) {
            options = 0;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            int rc = parse_opt(c, argc, argv, &i);
            if (rc) {
                return rc;
            }
        } else {
            argv[n++] = argv[i];
        }
    }
    *ret_n = n;
    return 0;
}

static int run_verb(struct cli *c, int argc, char **argv)
{
    const struct verb *v = c->verb;
    int n, rc;

    /* Before anything can go wrong, so that what goes wrong is JSON, too. */
    for (int i = 0; (v->flags & VERB_JSON) && i < argc && !streq(argv[i], "--"); i++) {
        c->json |= streq(argv[i], "--json");
    }
    if ((rc = parse(c, argc, argv, &n))) {
        return rc;
    }
    if (cli_has(c, "help")) {
        help_verb(c->out, v);
        return CLI_OK;
    }
    c->verbose = cli_has(c, "verbose");
    if (n < v->min_args || (v->max_args >= 0 && n > v->max_args)) {
        cli_hint(c, "coffer help %s", v->name);
        return cli_usage(c, "expected: coffer %s%s%s", v->name, v->usage[0] ? " " : "", v->usage);
    }
    return v->fn(c, n, argv);
}

static int dispatch(struct cli *c, int argc, char **argv)
{
    int words;

    if (argc == 0) {
        help_short(c->err);
        return CLI_USAGE;
    }
    if (streq(argv[0], "--help") || streq(argv[0], "-h")) {
        help_short(c->out);
        return CLI_OK;
    }
    if (streq(argv[0], "--version")) {
        fprintf(c->out, "coffer %s\n", COFFER_VERSION);
        return CLI_OK;
    }
    if (argv[0][0] == '-') {
        cli_hint(c, "coffer help");
        return cli_usage(c, "options come after the verb, found %s first", argv[0]);
    }
    if (argc == 2 && is_family(argv[0]) && (streq(argv[1], "--help") || streq(argv[1], "-h"))) {
        help_family(c->out, argv[0]);
        return CLI_OK;
    }
    c->verb = find_verb(argc, argv, &words);
    return c->verb ? run_verb(c, argc - words, argv + words) : unknown_verb(c, argc, argv);
}

int cli_main(int argc, char **argv, FILE *out, FILE *err)
{
    struct cli c = {.out = out, .err = err};
    const char *plain = getenv("NO_COLOR");

    signal(SIGPIPE, SIG_IGN);
    c.color = isatty(fileno(out)) && !(plain && plain[0]);
    int rc = dispatch(&c, argc > 0 ? argc - 1 : 0, argc > 0 ? argv + 1 : argv);
    cli_done(&c);
    if (fflush(out) || ferror(out)) {
        /* Whoever read us may have seen enough; a full disk is another matter. */
        if (errno != EPIPE) {
            fprintf(err, "coffer: cannot write the output: %s\n", strerror(errno));
        }
        return rc ? rc : CLI_COULD_NOT;
    }
    return rc;
}

void cli_done(struct cli *c)
{
    for (size_t i = 0; i < c->n_given; i++) {
        free(c->given[i].value);
    }
    c->n_given = 0;
    client_free(c->client);
    c->client = NULL;
}
