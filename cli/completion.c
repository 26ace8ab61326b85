#include "cli/help.h"
#include "cli/verbs.h"

/* coffer completion: for bash, zsh and fish, from the table. */

/* Calls `fn` with each first word, once ("dataset", "run", ...). */
static void each_first_word(FILE *f, void (*fn)(FILE *f, const char *word, const struct verb *v))
{
    char last[64] = "";

    for (size_t i = 0; i < cli_n_verbs; i++) {
        char word[64];
        size_t n = strcspn(cli_verbs[i].name, " ");
        snprintf(word, sizeof(word), "%.*s", (int)n, cli_verbs[i].name);
        if ((cli_verbs[i].flags & VERB_HIDDEN) || streq(word, last)) {
            continue;
        }
        snprintf(last, sizeof(last), "%s", word);
        fn(f, word, &cli_verbs[i]);
    }
}

static void print_word(FILE *f, const char *word, const struct verb *v)
{
    (void)v;
    fprintf(f, "%s ", word);
}

static int print_long(const struct cli_opt *o, void *arg)
{
    fprintf(arg, "--%s ", o->name);
    return 0;
}

static int print_value_opts(const struct cli_opt *o, void *arg)
{
    if (o->arg) {
        fprintf(arg, "--%s|", o->name);
        if (o->letter) {
            fprintf(arg, "-%c|", o->letter);
        }
    }
    return 0;
}

/* The words that may follow the beginnings "dataset", "image", "image key". */
static void bash_families(FILE *f)
{
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const char *name = cli_verbs[i].name;
        for (const char *sp = strchr(name, ' '); sp; sp = strchr(sp + 1, ' ')) {
            size_t n = (size_t)(sp - name), seen = 0;
            for (size_t k = 0; k < i; k++) {
                seen |= strncmp(cli_verbs[k].name, name, n + 1) == 0;
            }
            if (seen) {
                continue;
            }
            fprintf(f, "        \"%.*s\") words=\"", (int)n, name);
            for (size_t k = i; k < cli_n_verbs; k++) {
                if (strncmp(cli_verbs[k].name, name, n + 1) == 0) {
                    const char *rest = cli_verbs[k].name + n + 1;
                    fprintf(f, "%.*s ", (int)strcspn(rest, " "), rest);
                }
            }
            fputs("\" ;;\n", f);
        }
    }
}

static void bash_verbs(FILE *f)
{
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const struct verb *v = &cli_verbs[i];
        fprintf(f, "        \"%s\") opts=\"", v->name);
        verb_each_opt(v, print_long, f);
        fputs("\"; valued=\"|", f);
        verb_each_opt(v, print_value_opts, f);
        fprintf(f, "\"%s ;;\n",
                v->flags & VERB_JOB            ? "; jobs=1"
                : streq(v->name, "completion") ? "; words=\"bash zsh fish\""
                                               : "");
    }
}

/* Two tables, and the same walk for bash and zsh. */
static void print_bash(FILE *f)
{
    fputs("# bash completion for coffer: made by `coffer completion bash`\n"
          "_coffer_words() {\n"
          "    words=\"\"\n"
          "    case \"$1\" in\n"
          "        \"\") words=\"",
          f);
    each_first_word(f, print_word);
    fputs("\" ;;\n", f);
    bash_families(f);
    fputs("    esac\n"
          "}\n"
          "_coffer_verb() {\n"
          "    opts=\"\" valued=\"\" jobs=\"\"\n"
          "    case \"$1\" in\n",
          f);
    bash_verbs(f);
    fputs("    esac\n"
          "}\n"
          "_coffer() {\n"
          "    local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"\" verb=\"\" i w words opts valued "
          "jobs\n"
          "    COMPREPLY=()\n"
          "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
          "        w=\"${COMP_WORDS[i]}\"\n"
          "        prev=\"$w\"\n"
          "        _coffer_words \"$verb\"\n"
          "        case \" $words\" in *\" $w \"*) verb=\"${verb:+$verb }$w\" ;; esac\n"
          "    done\n"
          "    _coffer_words \"$verb\"\n"
          "    local next=\"$words\"\n"
          "    words=\"\"\n"
          "    _coffer_verb \"$verb\"\n"
          "    next=\"$next$words\"\n"
          "    case \"$valued\" in *\"|$prev|\"*) COMPREPLY=($(compgen -f -- \"$cur\")); return ;; "
          "esac\n"
          "    case \"$cur\" in\n"
          "        -*) COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\")); return ;;\n"
          "    esac\n"
          "    if [ -n \"$jobs\" ]; then\n"
          "        next=\"@last $(coffer ps -a 2>/dev/null | awk 'NR > 1 { print $1 }')\"\n"
          "    fi\n"
          "    if [ -n \"$next\" ]; then\n"
          "        COMPREPLY=($(compgen -W \"$next\" -- \"$cur\"))\n"
          "    else\n"
          "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
          "    fi\n"
          "}\n"
          "complete -o filenames -F _coffer coffer\n",
          f);
}

/* ---- zsh ------------------------------------------------------------------------------------- */

/* Inside single quotes; brackets and colons mean something to _arguments. */
static void print_zsh_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '\'') {
            fputs("'\\''", f);
        } else {
            if (strchr("[]:\\", *s)) {
                fputc('\\', f);
            }
            fputc(*s, f);
        }
    }
}

static int print_zsh_opt(const struct cli_opt *o, void *arg)
{
    FILE *f = arg;

    fprintf(f, " \\\n            '%s--%s%s[", o->many ? "*" : "", o->name, o->arg ? "=" : "");
    print_zsh_text(f, o->help);
    fputc(']', f);
    if (o->arg) {
        fprintf(f, ":%s:%s", o->arg,
                o->value == VALUE_FILE  ? "_files"
                : o->value == VALUE_DIR ? "_files -/"
                                        : " ");
    }
    fputc('\'', f);
    return 0;
}

static void print_zsh(FILE *f)
{
    fputs("#compdef coffer\n"
          "# zsh completion for coffer: made by `coffer completion zsh`\n"
          "_coffer() {\n"
          "    local verb=\"${(j: :)words[2,CURRENT-1]:#-*}\"\n"
          "    local -a next\n"
          "    case \"$verb \" in\n",
          f);
    /* The longest names first: "image key new" before "image key". */
    for (int words = 2; words >= 0; words--) {
        for (size_t i = 0; i < cli_n_verbs; i++) {
            const struct verb *v = &cli_verbs[i];
            int n = 0;
            for (const char *p = v->name; *p; p++) {
                n += *p == ' ';
            }
            if (n != words) {
                continue;
            }
            fprintf(f, "        \"%s \"*)\n            _arguments '*:: :_files'", v->name);
            verb_each_opt(v, print_zsh_opt, f);
            fputs("\n            return ;;\n", f);
        }
    }
    fputs("    esac\n    next=(", f);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        if (!(cli_verbs[i].flags & VERB_HIDDEN)) {
            fprintf(f, "'%s' ", cli_verbs[i].name);
        }
    }
    fputs(")\n"
          "    [ -n \"$verb\" ] && next=(\"${(@)${(M)next:#$verb *}#$verb }\")\n"
          "    next=(\"${(@u)next%% *}\")\n"
          "    compadd -a next\n"
          "}\n"
          "_coffer \"$@\"\n",
          f);
}

/* ---- fish ------------------------------------------------------------------------------------ */

static void print_fish_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '\'' || *s == '\\') {
            fputc('\\', f);
        }
        fputc(*s, f);
    }
}

struct fish {
    FILE *f;
    const struct verb *v;
};

static int print_fish_opt(const struct cli_opt *o, void *arg)
{
    struct fish *p = arg;

    fprintf(p->f, "complete -c coffer -n '__coffer_is \"%s\"' -l %s", p->v->name, o->name);
    if (o->letter) {
        fprintf(p->f, " -s %c", o->letter);
    }
    fputs(o->arg ? (o->value == VALUE_TEXT ? " -x" : " -rF") : "", p->f);
    fputs(" -d '", p->f);
    print_fish_text(p->f, o->help);
    fputs("'\n", p->f);
    return 0;
}

static void print_fish(FILE *f)
{
    fputs("# fish completion for coffer: made by `coffer completion fish`\n"
          "function __coffer_verb\n"
          "    set -l words (commandline -opc)\n"
          "    string join ' ' -- (string match -v -- '-*' $words[2..])\n"
          "end\n"
          "function __coffer_is\n"
          "    string match -q -- \"$argv[1] *\" (__coffer_verb)' '\n"
          "end\n"
          "function __coffer_at\n"
          "    test (__coffer_verb) = \"$argv[1]\"\n"
          "end\n",
          f);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const struct verb *v = &cli_verbs[i];
        struct fish p = {f, v};
        const char *sp = strrchr(v->name, ' ');
        if (!(v->flags & VERB_HIDDEN)) {
            fprintf(f, "complete -c coffer -f -n '__coffer_at \"%.*s\"' -a %s -d '",
                    sp ? (int)(sp - v->name) : 0, v->name, sp ? sp + 1 : v->name);
            print_fish_text(f, v->line);
            fputs("'\n", f);
        }
        if (sp) {
            const char *first = strchr(v->name, ' ');
            fprintf(f, "complete -c coffer -f -n '__coffer_at \"\"' -a %.*s\n",
                    (int)(first - v->name), v->name);
            if (first != sp) {
                fprintf(f, "complete -c coffer -f -n '__coffer_at \"%.*s\"' -a %.*s\n",
                        (int)(first - v->name), v->name, (int)(sp - first - 1), first + 1);
            }
        }
        verb_each_opt(v, print_fish_opt, &p);
    }
}

int verb_completion(struct cli *c, int argc, char **argv)
{
    static const struct {
        const char *shell;
        void (*print)(FILE *f);
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};

    (void)argc;
    for (size_t i = 0; i < ARRAY_LEN(shells); i++) {
        if (streq(argv[0], shells[i].shell)) {
            shells[i].print(c->out);
            return CLI_OK;
        }
    }
    return cli_usage(c, "expected bash, zsh or fish, found \"%s\"", argv[0]);
}
