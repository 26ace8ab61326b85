#include "cli/verbs.h"

/* The table: what coffer can do. Parsing, help, completion and the man page are made of it. */

const struct cli_opt cli_opt_help = {"help", 'h', NULL, VALUE_NONE, "show this help", 0};
const struct cli_opt cli_opt_verbose = {
    "verbose", 'v', NULL, VALUE_NONE, "say more about what happens", 0};
const struct cli_opt cli_opt_json = {
    "json", 'j', NULL, VALUE_NONE, "print one JSON document, errors too", 0};
const struct cli_opt cli_opt_key = {
    "key",
    'K',
    "FILE",
    VALUE_FILE,
    "identity key (default: $COFFER_KEY, else ~/.config/coffer/identity.jwk)",
    0};
const struct cli_opt cli_opt_profile = {
    "profile", 'p', "DIR", VALUE_DIR, "profile to connect with (default: $COFFER_PROFILE)", 0};
const struct cli_opt cli_opt_data = {
    "data",
    'd',
    "DIR",
    VALUE_DIR,
    "data directory of `coffer dev`, whose profile is used (default: $COFFER_DATA)",
    0};

#define BUS (VERB_JSON | VERB_PROFILE)
#define BUS_KEY (BUS | VERB_KEY)

const struct verb cli_verbs[] = {
    {"dev", verb_dev, "start a whole stack of its own, in the foreground", "", 0, 0, VERB_PROFILE,
     opts_dev, help_dev, "coffer dev\ncoffer dev --data /tmp/coffer"},
    {"keygen", verb_keygen, "make an identity key", "", 0, 0, VERB_JSON | VERB_KEY, opts_keygen,
     "Writes a private key (mode 0600) and its public half beside it (.pub), and prints the "
     "thumbprint: the name that grants and jobs know you by.",
     "coffer keygen\ncoffer keygen --out reviewer.jwk"},
    {"key show", verb_key_show, "print the thumbprint of a key", "[FILE]", 0, 1,
     VERB_JSON | VERB_KEY, NULL, NULL, "coffer key show\ncoffer key show hospital.jwk.pub"},

    {"dataset seal", verb_dataset_seal, "encrypt a file or a directory", "PATH", 1, 1,
     VERB_JSON | VERB_KEY, opts_dataset_seal,
     "Prints the dataset's id. The sealed file can be given to anyone; its key stays with you "
     "until "
     "`dataset grant` hands it to the KBS.",
     "coffer dataset seal admissions.csv\ncoffer dataset seal --name scans --out scans.coffer "
     "scans/"},
    {"dataset inspect", verb_dataset_inspect, "show what a sealed file says about itself", "FILE",
     1, 1, VERB_JSON, NULL, NULL, "coffer dataset inspect admissions.coffer"},
    {"dataset unseal", verb_dataset_unseal, "decrypt a dataset of one's own", "FILE", 1, 1,
     VERB_JSON | VERB_KEY, opts_dataset_unseal, NULL,
     "coffer dataset unseal admissions.coffer --out again.csv"},
    {"dataset grant", verb_dataset_grant, "let a consumer's jobs use a dataset", "FILE|ID", 1, 1,
     BUS_KEY, opts_grant,
     "With the sealed file, its key is sent to the KBS first. With an id, the KBS has it already. "
     "Prints the grant's id.",
     "coffer dataset grant admissions.coffer --consumer self --image sha256:...\n"
     "coffer dataset grant admissions.4k... --consumer lab.pub --image sha256:... --hold-at 20 "
     "--valid 7d"},
    {"dataset revoke", verb_dataset_revoke, "take a grant back", "GRANT-ID", 1, 1, BUS_KEY, NULL,
     "No key is released under it any more. What was released stays released.",
     "coffer dataset revoke 0kTqZ1pW9bq4k2m5cHq3yA"},
    {"dataset ls", verb_dataset_ls, "list one's keys and grants at the KBS", "", 0, 0, BUS_KEY,
     NULL, NULL, "coffer dataset ls"},

    {"image key new", verb_image_key_new, "make a key for images", "NAME", 1, 1, BUS_KEY,
     opts_image_key_new,
     "Kept in ~/.config/coffer/image-keys, sealed to your identity key, and "
     "sent to the KBS.",
     "coffer image key new stats\ncoffer image key new stats --offline"},
    {"image key register", verb_image_key_register, "send an image key to the KBS", "ID", 1, 1,
     BUS_KEY, NULL, NULL, "coffer image key register stats.4k..."},
    {"image key ls", verb_image_key_ls, "list the image keys kept here", "", 0, 0, VERB_JSON, NULL,
     NULL, "coffer image key ls"},
    {"image keys", verb_image_keys, "print the keys that an image is encrypted with",
     "LAYOUT[:TAG]", 1, 1, VERB_JSON, NULL, NULL, "coffer image keys ./stats-encrypted:latest"},
    {"image encrypt", verb_image_encrypt, "encrypt an image's layers with skopeo", "SRC DST", 2, 2,
     VERB_JSON | VERB_KEY, opts_image_encrypt,
     "SRC and DST are OCI layouts (PATH:TAG) or skopeo's own names (docker://...). Prints the "
     "digest of the encrypted manifest: what a job's workload.image and a grant name.",
     "coffer image encrypt ./stats:latest ./stats-encrypted:latest --key-id stats.4k..."},
    {"image grant", verb_image_grant, "let another's jobs use an image key", "ID", 1, 1, BUS_KEY,
     opts_grant, NULL, "coffer image grant stats.4k... --consumer lab.pub --image sha256:..."},
    {"image build", verb_image_build, "build the guest image that VMs start", "", 0, 0, VERB_JSON,
     opts_image_build,
     "Writes coffer.efi (kernel, command line and initramfs in one measured file), the firmware it "
     "was measured with, and its reference values. The same files make the same bytes.",
     "coffer image build --kernel vmlinuz-6.1.0-56-cloud-amd64 "
     "--modules lib/modules/6.1.0-56-cloud-amd64 --modules-list guest/modules.list"},
    {"image measure", verb_image_measure, "compute what a guest image measures to", "DIR|FILE", 1,
     1, VERB_JSON, opts_image_measure, NULL, "coffer image measure guest-image --memory 512"},
    {"image inspect", verb_image_inspect, "show what is in a guest image", "DIR|FILE", 1, 1,
     VERB_JSON, NULL, NULL, "coffer image inspect guest-image"},
    {"keyprovider", verb_keyprovider, "key provider for skopeo and other users of ocicrypt", "", 0,
     0, VERB_KEY | VERB_HIDDEN, NULL,
     "Reads one request of the ocicrypt key provider protocol on standard input and answers on "
     "standard output.",
     NULL},

    {"store add", verb_store_add,
     "put sealed datasets and encrypted images where workers read them", "PATH...", 1, -1, BUS,
     opts_store_add,
     "PATH is a sealed dataset or an OCI layout (DIR or DIR:TAG). Every blob's digest is checked.",
     "coffer store add admissions.coffer ./stats-encrypted:latest"},
    {"store ls", verb_store_ls, "list the store", "", 0, 0, BUS, opts_store, NULL,
     "coffer store ls"},
    {"store rm", verb_store_rm, "remove from the store", "ID|DIGEST...", 1, -1, BUS, opts_store,
     NULL, "coffer store rm admissions.4k..."},

    {"spec check", verb_spec_check, "check a job's YAML", "FILE", 1, 1, BUS_KEY, opts_submit,
     "Every mistake names file, line, field, what was expected and what was found.",
     "coffer spec check job.yaml"},
    {"spec schema", verb_spec_schema, "print the JSON Schema of the YAML", "", 0, 0, 0, NULL, NULL,
     "coffer spec schema > coffer-job.schema.json"},
    {"spec digest", verb_spec_digest, "print a job's digest and id", "FILE", 1, 1, BUS_KEY,
     opts_submit, NULL, "coffer spec digest job.yaml"},

    {"run", verb_run, "submit a job, watch it, print its result", "JOB.yaml", 1, 1, BUS_KEY,
     opts_run,
     "The states are shown on standard error as they pass; the result goes to standard output, or "
     "below --out. Ctrl-C stops watching; the job goes on. Without metadata.nonce each run is a "
     "new "
     "job.",
     "coffer run job.yaml\ncoffer run job.yaml --out results --timeout 10m\n"
     "coffer run job.yaml --json | jq .state"},
    {"submit", verb_submit, "submit a job and print its id", "JOB.yaml", 1, 1, BUS_KEY, opts_submit,
     NULL, "coffer submit job.yaml"},
    {"ps", verb_ps, "list jobs", "", 0, 0, BUS_KEY, opts_ps,
     "One's own jobs that are not over; with -a all.", "coffer ps\ncoffer ps -a --state held"},
    {"status", verb_status, "show a job", "JOB", 1, 1, BUS | VERB_JOB, NULL, NULL,
     "coffer status jrxf\ncoffer status @last"},
    {"events", verb_events, "show a job's states as they passed", "JOB", 1, 1, BUS | VERB_JOB,
     opts_events, NULL, "coffer events jrxf\ncoffer events -f @last"},
    {"logs", verb_logs, "show what a job's CVM said of itself", "JOB", 1, 1, BUS | VERB_JOB,
     opts_events,
     "The lifecycle of each attempt: boot, attest, keys, unpack, run, seal. What the workload "
     "prints "
     "is part of its output and never here.",
     "coffer logs jrxf\ncoffer logs -f @last"},
    {"explain", verb_explain, "say why a job is in its state", "JOB", 1, 1, BUS | VERB_JOB, NULL,
     "Which clause failed, what it expects, what came, who said so; the gate's score and reasons.",
     "coffer explain jrxf"},
    {"cancel", verb_cancel, "cancel a job of one's own", "JOB", 1, 1, BUS_KEY | VERB_JOB, NULL,
     NULL, "coffer cancel jrxf"},
    {"result", verb_result, "fetch, check and open a released result", "JOB", 1, 1,
     BUS_KEY | VERB_JOB, opts_result, NULL,
     "coffer result jrxf\ncoffer result @last --out results"},
    {"hosts", verb_hosts, "list hosts and what they can do", "", 0, 0, BUS, NULL, NULL,
     "coffer hosts"},
    {"host enrol", verb_host_enrol, "believe the virtual TPMs of a host", "", 0, 0, VERB_JSON,
     opts_host_enrol,
     "Writes the file that the verifier's setting tpm-hosts names. What a virtual TPM says is its "
     "host's word: it shows which image an honest host booted, and nothing against the host. "
     "Enrolling a host again replaces what the file says of it.",
     "coffer host enrol --host h1 --root issuercert.pem --out hosts.json\n"
     "coffer host enrol --host h1 --root issuercert.pem --ek ek-rsa2048.crt --out hosts.json"},
    {"host ls", verb_host_ls, "list the hosts whose virtual TPMs are believed", "", 0, 0, VERB_JSON,
     opts_host_ls, NULL, "coffer host ls --hosts hosts.json"},

    {"appraise", verb_appraise, "check that evidence is genuine, offline", "EVIDENCE", 1, 1,
     VERB_JSON, opts_appraise, help_appraise,
     "coffer appraise --tee tdx quote.bin\n"
     "coffer appraise --tee tdx --collateral collateral/ --at 2026-02-03T01:00:00Z quote.bin\n"
     "coffer appraise --tee snp --collateral vcek.pem,chain.pem --json report.bin | jq "
     ".tcb_status"},
    {"policy test", verb_policy_test, "say rule by rule what a policy makes of evidence",
     "[EVIDENCE]", 0, 1, VERB_JSON, opts_policy_test, help_policy_test,
     "coffer policy test --policy strict.yaml --tee tdx --collateral collateral/ quote.bin\n"
     "coffer policy test --policy v2.yaml --against v3.yaml --claims claims.json"},
    {"policy check", verb_policy_check, "check that a policy is well-formed", "POLICY.yaml", 1, 1,
     VERB_JSON, NULL, NULL, "coffer policy check strict.yaml"},
    {"policy show", verb_policy_show, "print the policy that stands when none is configured", "", 0,
     0, 0, NULL, NULL, "coffer policy show > mine.yaml"},
    {"refvals sign", verb_refvals_sign, "sign reference values for policies", "VALUES.json", 1, 1,
     0, opts_refvals_sign,
     "VALUES.json is {\"NAME\": [VALUE...]}; the line printed is added to the verifier's file "
     "reference-values.",
     "coffer refvals sign --release-key release.jwk values.json >> refvals.jws"},

    {"gate ls", verb_gate_ls, "list held results", "", 0, 0, BUS, NULL, NULL, "coffer gate ls"},
    {"gate show", verb_gate_show, "show a result's score and reasons", "JOB", 1, 1, BUS | VERB_JOB,
     NULL, NULL, "coffer gate show jrxf"},
    {"gate approve", verb_gate_approve, "release a held result, as a reviewer", "JOB", 1, 1,
     BUS_KEY | VERB_JOB, opts_review, NULL,
     "coffer gate approve jrxfv7wivd4k4p2bezjin3qkbdw --key reviewer.jwk --reason 'aggregates "
     "only'"},
    {"gate reject", verb_gate_reject, "reject a held result, as a reviewer", "JOB", 1, 1,
     BUS_KEY | VERB_JOB, opts_review, NULL,
     "coffer gate reject jrxfv7wivd4k4p2bezjin3qkbdw --key reviewer.jwk --reason 'holds rows'"},

    {"version", verb_version, "print the version", "", 0, 0, VERB_JSON, NULL, NULL,
     "coffer version"},
    {"help", verb_help, "explain a verb", "[VERB...]", 0, 3, 0, NULL, NULL,
     "coffer help\ncoffer help dataset grant"},
    {"completion", verb_completion, "print shell completion", "bash|zsh|fish", 1, 1, 0, NULL, NULL,
     "coffer completion bash > /etc/bash_completion.d/coffer\n"
     "coffer completion fish > ~/.config/fish/completions/coffer.fish"},
    {"man", verb_man, "print the man page", "", 0, 0, 0, NULL, NULL, "coffer man | man -l -"},
};

const size_t cli_n_verbs = ARRAY_LEN(cli_verbs);
