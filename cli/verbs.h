/* Every verb, by family; rows of the table in verbs.c. */
#ifndef COFFER_CLI_VERBS_H
#define COFFER_CLI_VERBS_H

#include "cli/cli.h"

/* dev.c: the embedded stack. */
int verb_dev(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_dev[];
extern const char help_dev[];

/* keygen.c */
int verb_keygen(struct cli *c, int argc, char **argv);
int verb_key_show(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_keygen[];

/* dataset.c, dataset_seal.c, grant.c */
int verb_dataset_seal(struct cli *c, int argc, char **argv);
int verb_dataset_inspect(struct cli *c, int argc, char **argv);
int verb_dataset_unseal(struct cli *c, int argc, char **argv);
int verb_dataset_grant(struct cli *c, int argc, char **argv);
int verb_dataset_revoke(struct cli *c, int argc, char **argv);
int verb_dataset_ls(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_dataset_seal[], opts_dataset_unseal[], opts_grant[];

/* image.c, image_key.c */
int verb_image_key_new(struct cli *c, int argc, char **argv);
int verb_image_key_register(struct cli *c, int argc, char **argv);
int verb_image_key_ls(struct cli *c, int argc, char **argv);
int verb_image_keys(struct cli *c, int argc, char **argv);
int verb_image_build(struct cli *c, int argc, char **argv);
int verb_image_measure(struct cli *c, int argc, char **argv);
int verb_image_inspect(struct cli *c, int argc, char **argv);
int verb_image_encrypt(struct cli *c, int argc, char **argv);
int verb_image_grant(struct cli *c, int argc, char **argv);
int verb_keyprovider(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_image_key_new[], opts_image_encrypt[], opts_image_build[],
    opts_image_measure[];

/* appraise.c, policy.c */
int verb_appraise(struct cli *c, int argc, char **argv);
int verb_policy_test(struct cli *c, int argc, char **argv);
int verb_policy_check(struct cli *c, int argc, char **argv);
int verb_policy_show(struct cli *c, int argc, char **argv);
int verb_refvals_sign(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_appraise[], opts_policy_test[], opts_refvals_sign[];
extern const char help_appraise[], help_policy_test[];

/* store.c */
int verb_store_add(struct cli *c, int argc, char **argv);
int verb_store_ls(struct cli *c, int argc, char **argv);
int verb_store_rm(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_store_add[], opts_store[];

/* spec.c */
int verb_spec_check(struct cli *c, int argc, char **argv);
int verb_spec_schema(struct cli *c, int argc, char **argv);
int verb_spec_digest(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_submit[];

/* run.c, jobs.c, explain.c, result.c, gate.c */
int verb_run(struct cli *c, int argc, char **argv);
int verb_submit(struct cli *c, int argc, char **argv);
int verb_ps(struct cli *c, int argc, char **argv);
int verb_status(struct cli *c, int argc, char **argv);
int verb_events(struct cli *c, int argc, char **argv);
int verb_logs(struct cli *c, int argc, char **argv);
int verb_explain(struct cli *c, int argc, char **argv);
int verb_cancel(struct cli *c, int argc, char **argv);
int verb_result(struct cli *c, int argc, char **argv);
int verb_hosts(struct cli *c, int argc, char **argv);
int verb_gate_ls(struct cli *c, int argc, char **argv);
int verb_gate_show(struct cli *c, int argc, char **argv);
int verb_gate_approve(struct cli *c, int argc, char **argv);
int verb_gate_reject(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_run[], opts_ps[], opts_events[], opts_result[], opts_review[];

/* host.c */
int verb_host_enrol(struct cli *c, int argc, char **argv);
int verb_host_ls(struct cli *c, int argc, char **argv);
extern const struct cli_opt opts_host_enrol[], opts_host_ls[];

/* help.c, completion.c, man.c */
int verb_version(struct cli *c, int argc, char **argv);
int verb_help(struct cli *c, int argc, char **argv);
int verb_completion(struct cli *c, int argc, char **argv);
int verb_man(struct cli *c, int argc, char **argv);

#endif
