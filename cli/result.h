/* Results as verbs hand them out. */
#ifndef COFFER_CLI_RESULT_H
#define COFFER_CLI_RESULT_H

#include "cli/cli.h"
#include "cli/result_open.h"

/* Fetches a job's released result and opens it with the identity key (cli/result_open.h). */
int result_get(struct cli *c, const char *job, struct opened_result *ret, struct err *e);
/* By --out and --force: files below a directory, a single text on standard output, or a list. With
 * --json *ret_json is {"files":[...],"decision":{...}}. */
int result_deliver(struct cli *c, const struct opened_result *r, json_t **ret_json, struct err *e);

#endif
