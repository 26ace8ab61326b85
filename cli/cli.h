/* The frame of the coffer command: one table of verbs and their options, from which parsing, help,
 * completion and the man page come; errors and exit codes. */
#ifndef COFFER_CLI_CLI_H
#define COFFER_CLI_CLI_H

#include <jansson.h>
#include <stdint.h>

#include "common/err.h"

/* docs/CLI.md, "Exit codes". */
enum cli_exit {
    CLI_OK = 0,
    CLI_COULD_NOT = 1, /* no connection, I/O, time-out, no such thing */
    CLI_USAGE = 2,     /* the command line or the spec is wrong */
    CLI_HELD = 3,      /* the gate holds the output for a reviewer */
    CLI_REJECTED = 4,  /* the gate or a reviewer rejected the output */
    CLI_REFUSED = 5,   /* a service refused, or the job failed */
};

/* What completion offers for an option's value or a verb's arguments. */
enum cli_value { VALUE_NONE, VALUE_FILE, VALUE_DIR, VALUE_TEXT };

struct cli_opt {
    const char *name; /* without the dashes; NULL ends a list */
    char letter;      /* 0: none */
    const char *arg;  /* name of its value in help; NULL: a flag */
    enum cli_value value;
    const char *help;
    int many; /* may be given more than once, and holds lists separated by commas */
};

enum verb_flags {
    VERB_JSON = 1,    /* takes --json */
    VERB_KEY = 2,     /* takes --key */
    VERB_PROFILE = 4, /* takes --profile and --data */
    VERB_HIDDEN = 8,  /* not in the short help */
    VERB_JOB = 16,    /* its first argument names a job */
};

struct cli;
/* argc and argv are the arguments after the options; the result is an enum cli_exit. */
typedef int (*verb_fn)(struct cli *c, int argc, char **argv);

struct verb {
    const char *name; /* "run", "dataset seal" */
    verb_fn fn;
    const char *line;       /* what it does, one line without a full stop */
    const char *usage;      /* its arguments: "PATH" */
    int min_args, max_args; /* max -1: any number */
    unsigned flags;
    const struct cli_opt *opts; /* NULL: only the common ones */
    const char *text;           /* more help, or NULL */
    const char *examples;       /* lines, or NULL */
};

extern const struct verb cli_verbs[];
extern const size_t cli_n_verbs;
/* The options that every verb takes, or those with the flag. */
extern const struct cli_opt cli_opt_help, cli_opt_verbose, cli_opt_json, cli_opt_key,
    cli_opt_profile, cli_opt_data;

/* Calls `fn` with each option of the verb, common ones included, until it returns non-zero, which
 * is then the result; else 0. */
int verb_each_opt(const struct verb *v, int (*fn)(const struct cli_opt *o, void *arg), void *arg);

#define CLI_MAX_OPTS 256

struct cli {
    const struct verb *verb;
    FILE *out, *err;
    int json, verbose, color;
    struct {
        const struct cli_opt *opt;
        char *value; /* owned; "" for flags */
    } given[CLI_MAX_OPTS];
    size_t n_given;
    char hint[512];        /* what to do about the error */
    char by[32];           /* the service that refused; "" when the error is ours */
    struct client *client; /* cli/client.c; NULL until it is needed */
};

/* The whole program. */
int cli_main(int argc, char **argv, FILE *out, FILE *err);
void cli_done(struct cli *c);

/* Options of the verb that runs. NULL when it was not given. Asking for one that the verb does not
 * have aborts: a programming error. */
const char *cli_opt(const struct cli *c, const char *name);
int cli_has(const struct cli *c, const char *name);
/* All values of a `many` option, split at commas. Appended to *list (xrealloc), strings owned. */
struct strings {
    char **v;
    size_t n;
};
void cli_opt_list(const struct cli *c, const char *name, struct strings *ret);
void strings_add(struct strings *s, const char *v);
void strings_done(struct strings *s);
#define _cleanup_strings_ _cleanup_(strings_done)

/* ERR_INVALID naming the option. `dflt` when it was not given. Sizes are bytes or have KiB, MiB,
 * GiB; durations are in ms and have ms, s, m, h or d. */
int cli_opt_int(const struct cli *c, const char *name, int64_t min, int64_t max, int64_t dflt,
                int64_t *ret, struct err *e);
int cli_opt_size(const struct cli *c, const char *name, int64_t min, int64_t max, int64_t dflt,
                 int64_t *ret, struct err *e);
int cli_opt_duration(const struct cli *c, const char *name, int64_t dflt_ms, int64_t *ret_ms,
                     struct err *e);

/* Output. With --json nothing but cli_json and the functions for errors writes to standard output.
 */
void cli_say(struct cli *c, const char *fmt, ...) _printf_(2, 3);  /* standard output, a line */
void cli_note(struct cli *c, const char *fmt, ...) _printf_(2, 3); /* standard error, a line; not
                                                                      with --json */
/* Prints one JSON document and drops the reference. Returns CLI_OK. */
int cli_json(struct cli *c, json_t *steal);
/* "\033[...m" or "". */
enum cli_color { COLOR_OFF, COLOR_GOOD, COLOR_WARN, COLOR_BAD, COLOR_DIM, COLOR_BOLD };
const char *cli_color(const struct cli *c, enum cli_color color);
void cli_hint(struct cli *c, const char *fmt, ...) _printf_(2, 3);

/* Shows an error (JSON or lines, with the hint) and returns the exit code that belongs to it. */
int cli_fail(struct cli *c, const struct err *e);
int cli_fail_as(struct cli *c, enum cli_exit code, const struct err *e);
/* The command line is wrong. */
int cli_usage(struct cli *c, const char *fmt, ...) _printf_(2, 3);
/* By: a service that refused, or "". */
enum cli_exit cli_exit_of_err(const struct err *e, const char *by);
/* Of a job in `state`: CLI_OK for released and for what is not over. */
enum cli_exit cli_exit_of_state(const char *state);
/* {"error":{...}}; new reference. */
json_t *cli_error_json(const struct err *e, const char *by, const char *hint);

/* Replaces what could steer a terminal (control characters, C1, direction overrides) and bytes that
 * are not UTF-8 by '?', in place. `lines` keeps \n and \t. */
void cli_clean(char *s, size_t n, int lines);
/* The verb that comes nearest to what was typed, NULL when none is near. */
const char *cli_nearest(const char *typed, const char *const *names, size_t n);

#endif
