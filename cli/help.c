#include "cli/help.h"

#include "cli/verbs.h"

/* Help, from the table. */

void help_opt_head(const struct cli_opt *o, char *out, size_t size)
{
    char letter[8] = "    ";

    if (o->letter) {
        snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    }
    snprintf(out, size, "%s--%s%s%s%s", letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "",
             o->many ? ",..." : "");
}

static int print_opt(const struct cli_opt *o, void *arg)
{
    char head[80];

    help_opt_head(o, head, sizeof(head));
    fprintf(arg, "  %-26s %s\n", head, o->help);
    return 0;
}

static void print_line(FILE *f, const struct verb *v)
{
    _cleanup_free_ char *head = xasprintf("%s %s", v->name, v->usage);

    fprintf(f, "  %-28s %s\n", head, v->line);
}

void help_short(FILE *f)
{
    fputs("coffer runs jobs on data that nobody but the hardware may see.\n\n"
          "usage: coffer VERB [ARGUMENTS] [OPTIONS]\n\n",
          f);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (!(cli_verbs[i].flags & VERB_HIDDEN)) {
            print_line(f, &cli_verbs[i]);
        }
    }
    fputs("\nA JOB is an id, the first 4 or more characters of one, or @last.\n"
          "coffer help VERB explains one, with its options and examples.\n",
          f);
}

void help_family(FILE *f, const char *family)
{
    size_t n = strlen(family);

    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (strncmp(cli_verbs[i].name, family, n) == 0 && cli_verbs[i].name[n] == ' ') {
            print_line(f, &cli_verbs[i]);
        }
    }
}

/* Wrapped at 78 columns. */
static void print_text(FILE *f, const char *text)
{
    size_t column = 0;

    while (*text) {
        size_t n = strcspn(text, " ");
        if (column && column + 1 + n > 78) {
            fputc('\n', f);
            column = 0;
        }
        column += (size_t)fprintf(f, "%s%.*s", column ? " " : "", (int)n, text);
        text += n + strspn(text + n, " ");
    }
    fputc('\n', f);
}

void help_verb(FILE *f, const struct verb *v)
{
    fprintf(f, "coffer %s: %s\n\nusage: coffer %s%s%s [options]\n", v->name, v->line, v->name,
            v->usage[0] ? " " : "", v->usage);
    if (v->text) {
        fputc('\n', f);
        print_text(f, v->text);
    }
    fputs("\noptions:\n", f);
    verb_each_opt(v, print_opt, f);
    if (v->examples) {
        fputs("\nexamples:\n", f);
        for (const char *p = v->examples; *p;) {
            size_t n = strcspn(p, "\n");
            fprintf(f, "  %.*s\n", (int)n, p);
            p += n + (p[n] == '\n');
        }
    }
}

int verb_help(struct cli *c, int argc, char **argv)
{
    char name[128] = "";
    size_t families = 0;

    if (!argc) {
        help_short(c->out);
        return CLI_OK;
    }
    for (int i = 0; i < argc; i++) {
        size_t n = strlen(name);
        snprintf(name + n, sizeof(name) - n, "%s%s", n ? " " : "", argv[i]);
    }
    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (streq(cli_verbs[i].name, name)) {
            help_verb(c->out, &cli_verbs[i]);
            return CLI_OK;
        }
        size_t n = strlen(name);
        families += strncmp(cli_verbs[i].name, name, n) == 0 && cli_verbs[i].name[n] == ' ';
    }
    if (families) {
        help_family(c->out, name);
        return CLI_OK;
    }
    return cli_usage(c, "there is no \"coffer %s\"", name);
}

int verb_version(struct cli *c, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    if (c->json) {
        return cli_json(c, json_pack("{s:s}", "version", COFFER_VERSION));
    }
    cli_say(c, "coffer %s", COFFER_VERSION);
    return CLI_OK;
}
