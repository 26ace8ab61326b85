#include "cli/help.h"
#include "cli/verbs.h"

/* coffer man: the man page, from the table. */

/* roff takes a leading dot or apostrophe for a request, and a backslash and a dash for something
 * else. */
static void put(FILE *f, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i == 0 && (s[i] == '.' || s[i] == '\'')) {
            fputs("\\&", f);
        }
        switch (s[i]) {
        case '\\':
            fputs("\\e", f);
            break;
        case '-':
            fputs("\\-", f);
            break;
        default:
            fputc(s[i], f);
        }
    }
}

static void put_str(FILE *f, const char *s)
{
    put(f, s, strlen(s));
}

static int man_opt(const struct cli_opt *o, void *arg)
{
    FILE *f = arg;
    char head[80];

    help_opt_head(o, head, sizeof(head));
    fputs(".TP\n.B ", f);
    put_str(f, head + strspn(head, " "));
    fputc('\n', f);
    put_str(f, o->help);
    fputs(".\n", f);
    return 0;
}

static void man_verb(FILE *f, const struct verb *v)
{
    fputs(".SS coffer ", f);
    put_str(f, v->name);
    fputc(' ', f);
    put_str(f, v->usage);
    fputc('\n', f);
    put_str(f, v->line);
    fputs(".\n", f);
    if (v->text) {
        put_str(f, v->text);
        fputc('\n', f);
    }
    for (const struct cli_opt *o = v->opts; o && o->name; o++) {
        man_opt(o, f);
    }
    if (v->examples) {
        fputs(".PP\n.EX\n", f);
        for (const char *p = v->examples; *p;) {
            size_t n = strcspn(p, "\n");
            fputs("  ", f);
            put(f, p, n);
            fputc('\n', f);
            p += n + (p[n] == '\n');
        }
        fputs(".EE\n", f);
    }
}

int verb_man(struct cli *c, int argc, char **argv)
{
    static const struct cli_opt *const common[] = {&cli_opt_json,    &cli_opt_key,
                                                   &cli_opt_profile, &cli_opt_data,
                                                   &cli_opt_verbose, &cli_opt_help};
    FILE *f = c->out;

    (void)argc;
    (void)argv;
    fprintf(f, ".TH COFFER 1 \"\" \"coffer %s\" \"Coffer\"\n", COFFER_VERSION);
    fputs(".SH NAME\ncoffer \\- run jobs on data that nobody but the hardware may see\n"
          ".SH SYNOPSIS\n.B coffer\n.I verb\n[arguments] [options]\n"
          ".SH VERBS\n"
          "A job is named by its id, by the first four or more characters of it, or by @last.\n",
          f);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        man_verb(f, &cli_verbs[i]);
    }
    fputs(".SH COMMON OPTIONS\nEach verb takes those that concern it; see \\-\\-help.\n", f);
    for (size_t i = 0; i < ARRAY_LEN(common); i++) {
        man_opt(common[i], f);
    }
    fputs(".SH EXIT STATUS\n"
          ".TP\n.B 0\ndone; for run: the result was released\n"
          ".TP\n.B 1\nit could not be done: no connection, input or output, a time\\-out\n"
          ".TP\n.B 2\nthe command line or the job's YAML is wrong\n"
          ".TP\n.B 3\nthe output is held for a reviewer\n"
          ".TP\n.B 4\nthe output was rejected by the gate\n"
          ".TP\n.B 5\na service refused it, or the job failed\n"
          ".SH ENVIRONMENT\n"
          ".TP\n.B COFFER_PROFILE\nthe profile directory\n"
          ".TP\n.B COFFER_DATA\nthe data directory of coffer dev\n"
          ".TP\n.B COFFER_KEY\nthe identity key's file\n"
          ".TP\n.B NO_COLOR\nno colours, when it is set\n"
          ".SH FILES\n"
          ".TP\n.I ~/.config/coffer/identity.jwk\nthe identity key\n"
          ".TP\n.I ~/.config/coffer/image\\-keys/\nkeys of images, sealed to it\n"
          ".TP\n.I ~/.local/share/coffer/client/\nthe profile that coffer dev writes\n",
          f);
    return CLI_OK;
}
