/* Help from the table of verbs. */
#ifndef COFFER_CLI_HELP_H
#define COFFER_CLI_HELP_H

#include "cli/cli.h"

void help_short(FILE *f);
/* All verbs whose name begins with the word ("dataset"). */
void help_family(FILE *f, const char *family);
void help_verb(FILE *f, const struct verb *v);
/* "-o, --out FILE" */
void help_opt_head(const struct cli_opt *o, char *out, size_t size);

#endif
