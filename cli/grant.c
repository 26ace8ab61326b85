#include "cli/dataset.h"
#include "cli/files.h"
#include "cli/verbs.h"
#include "common/keybox.h"

/* coffer dataset grant, and what `image grant` shares with it: who may use a key, for what. */

#define GRANT_MAX_ITEMS 64
#define DAY_MS INT64_C(86400000)

const struct cli_opt opts_grant[] = {
    {"consumer", 'c', "WHO", VALUE_FILE,
     "thumbprint or public key file of who may run jobs on it; "
     "\"self\" (required)",
     1},
    {"image", 'i', "DIGEST", VALUE_TEXT, "sha256:... of an image's manifest (required)", 1},
    {"tee-types", 0, "LIST", VALUE_TEXT, "kinds of TEE (default: tdx,snp,vtpm)", 1},
    {"tee-status", 0, "STATUS", VALUE_TEXT,
     "least attestation status: affirming (default) or "
     "warning",
     0},
    {"hold-at", 0, "N", VALUE_TEXT, "the job must be held at this score or below (default: 30)", 0},
    {"reject-at", 0, "N", VALUE_TEXT, "and rejected at this one or below (default: 70)", 0},
    {"max-verbatim", 0, "N", VALUE_TEXT,
     "percent of the output that may be verbatim input "
     "(default: 10)",
     0},
    {"max-bytes", 0, "SIZE", VALUE_TEXT, "size of the output at most (default: 1MiB)", 0},
    {"recipient", 'r', "WHO", VALUE_FILE, "who may receive outputs (default: whom the job names)",
     1},
    {"valid", 0, "TIME", VALUE_TEXT, "how long it holds (default: 30d)", 0},
    {0},
};

static json_t *string_list(const struct strings *s)
{
    json_t *list = json_array();

    for (size_t i = 0; i < s->n; i++) {
        json_array_append_new(list, json_string(s->v[i]));
    }
    return list;
}

static int check_count(const char *opt, const struct strings *s, size_t min, struct err *e)
{
    if (s->n < min) {
        return err_set(e, ERR_INVALID, "--%s: expected at least one", opt);
    }
    return s->n > GRANT_MAX_ITEMS ? err_set(e, ERR_INVALID, "--%s: expected at most %d, found %zu",
                                            opt, GRANT_MAX_ITEMS, s->n)
                                  : 0;
}

/* Thumbprints of all values of an option. */
static json_t *party_list(struct cli *c, const char *opt, const struct jkey *own, size_t min,
                          struct err *e)
{
    _cleanup_strings_ struct strings args = {0};
    _cleanup_json_ json_t *list = json_array();

    cli_opt_list(c, opt, &args);
    if (check_count(opt, &args, min, e)) {
        return NULL;
    }
    for (size_t i = 0; i < args.n; i++) {
        _cleanup_free_ char *t = NULL;
        if (thumbprint_from_arg(args.v[i], own, &t, e)) {
            err_wrap(e, "--%s", opt);
            return NULL;
        }
        json_array_append_new(list, json_string(t));
    }
    return TAKE_PTR(list);
}

static json_t *image_list(struct cli *c, struct err *e)
{
    _cleanup_strings_ struct strings args = {0};

    cli_opt_list(c, "image", &args);
    if (check_count("image", &args, 1, e)) {
        return NULL;
    }
    for (size_t i = 0; i < args.n; i++) {
        if (!image_digest_valid(args.v[i])) {
            err_set(e, ERR_INVALID,
                    "--image: expected sha256: and 64 lower-case hex digits, found \"%.100s\"",
                    args.v[i]);
            return NULL;
        }
    }
    return string_list(&args);
}

static json_t *tee_policy(struct cli *c, struct err *e)
{
    _cleanup_strings_ struct strings types = {0};
    const char *status = cli_opt(c, "tee-status");

    cli_opt_list(c, "tee-types", &types);
    if (!types.n) {
        strings_add(&types, "tdx");
        strings_add(&types, "snp");
        strings_add(&types, "vtpm");
    }
    for (size_t i = 0; i < types.n; i++) {
        if (!tee_name_valid(types.v[i])) {
            err_set(e, ERR_INVALID, "--tee-types: expected names such as tdx, found \"%.60s\"",
                    types.v[i]);
            return NULL;
        }
    }
    status = status ? status : "affirming";
    if (!streq(status, "affirming") && !streq(status, "warning")) {
        err_set(e, ERR_INVALID, "--tee-status: expected affirming or warning, found \"%.60s\"",
                status);
        return NULL;
    }
    return json_pack("{s:o,s:s}", "types", string_list(&types), "status", status);
}

static json_t *gate_policy(struct cli *c, struct err *e)
{
    int64_t hold, reject, verbatim, bytes;

    if (cli_opt_int(c, "hold-at", 0, 101, 30, &hold, e) ||
        cli_opt_int(c, "reject-at", 0, 101, 70, &reject, e) ||
        cli_opt_int(c, "max-verbatim", 0, 100, 10, &verbatim, e) ||
        cli_opt_size(c, "max-bytes", 1, 64 << 20, 1 << 20, &bytes, e)) {
        return NULL;
    }
    if (hold > reject) {
        err_set(e, ERR_INVALID,
                "--hold-at: expected at most --reject-at, which is %lld, found %lld",
                (long long)reject, (long long)hold);
        return NULL;
    }
    return json_pack("{s:I,s:I,s:I,s:I}", "holdAt", (json_int_t)hold, "rejectAt",
                     (json_int_t)reject, "maxVerbatimPercent", (json_int_t)verbatim, "maxBytes",
                     (json_int_t)bytes);
}

json_t *grant_compose(struct cli *c, const char *secret, const struct jkey *own, int64_t now_s,
                      struct err *e)
{
    _cleanup_json_ json_t *who = NULL, *images = NULL, *tee = NULL, *gate = NULL,
                          *recipients = NULL;
    uint8_t raw[16];
    int64_t valid_ms;

    if (cli_opt_duration(c, "valid", 30 * DAY_MS, &valid_ms, e) ||
        !(who = party_list(c, "consumer", own, 1, e)) || !(images = image_list(c, e)) ||
        !(tee = tee_policy(c, e)) || !(gate = gate_policy(c, e)) ||
        !(recipients = party_list(c, "recipient", own, 0, e))) {
        return NULL;
    }
    if (valid_ms < 1000) {
        err_set(e, ERR_INVALID, "--valid: expected at least 1s");
        return NULL;
    }
    random_bytes(raw, sizeof(raw));
    /* An id that begins with "-" would be taken for an option of `dataset revoke`. */
    raw[0] &= 0x7f;
    _cleanup_free_ char *id = b64url_encode(raw, sizeof(raw));
    /* A minute back, for a KBS whose clock is behind ours. */
    return json_pack("{s:i,s:s,s:s,s:O,s:O,s:O,s:O,s:O,s:I,s:I}", "v", 1, "id", id, "secret",
                     secret, "consumers", who, "images", images, "tee", tee, "gate", gate,
                     "recipients", recipients, "nbf", (json_int_t)(now_s - 60), "exp",
                     (json_int_t)(now_s + valid_ms / 1000));
}

int grant_put(struct cli *c, const char *secret, const char *uploaded)
{
    struct err e = {0};
    _cleanup_json_ json_t *grant = NULL, *reply = NULL;
    _cleanup_free_ char *jws = NULL;
    struct jkey *own;
    char until[32];

    if (client_identity(c, &own, &e)) {
        return cli_fail(c, &e);
    }
    grant = grant_compose(c, secret, own, now_ms() / 1000, &e);
    if (!grant) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (jws_sign_json(own, "coffer-grant+jws", 0, grant, &jws, &e) ||
        client_owner_command(c, json_pack("{s:s,s:s}", "cmd", "put-grant", "grant_jws", jws),
                             &reply, &e)) {
        return cli_fail(c, &e);
    }
    const char *id = json_string_value(json_object_get(grant, "id"));
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s,s:b,s:O}", "id", id, "secret", secret, "uploaded",
                                     uploaded != NULL, "grant", grant));
    }
    cli_note(c, "granted %s until %s; take it back with: coffer dataset revoke %s", secret,
             time_text((int64_t)json_integer_value(json_object_get(grant, "exp")) * 1000, until),
             id);
    cli_say(c, "%s", id);
    return CLI_OK;
}

/* Sends the data key of a sealed file to the KBS. */
static int put_dataset(struct cli *c, const char *path, char ret_id[DATASET_ID_MAX + 1],
                       struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_buf_ struct buf prefix = BUF_INIT(12u + SEAL_HEADER_MAX_BYTES);
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_json_ json_t *jwe = NULL, *reply = NULL;
    _cleanup_free_ char *text = NULL;
    _cleanup_close_ int fd = -1;
    const struct trust *trust;
    struct jkey *own;

    if (client_identity(c, &own, e) || client_trust(c, &trust, e) ||
        dataset_open(path, &fd, &h, &prefix, e)) {
        return -1;
    }
    if (!streq(jkey_thumbprint(h.owner), jkey_thumbprint(own))) {
        cli_hint(c, "--key FILE, with the key that sealed it");
        return err_refuse(e, ERR_DENIED, "dataset.owner", jkey_thumbprint(h.owner), "%s",
                          jkey_thumbprint(own));
    }
    if (seal_header_open_key(&h, own, &key, e) ||
        keybox_seal(trust->kbs_seal, h.id, key, &text, e) ||
        json_parse("jwe", BYTES_STR(text), KEYBOX_MAX_BYTES, &jwe, e)) {
        return err_wrap(e, "%s", path);
    }
    _cleanup_free_ char *header = b64url_encode(prefix.p, prefix.n);
    if (client_owner_command(c,
                             json_pack("{s:s,s:s,s:s,s:O}", "cmd", "put-secret", "kind", "dataset",
                                       "header", header, "jwe", jwe),
                             &reply, e)) {
        return -1;
    }
    memcpy(ret_id, h.id, sizeof(h.id));
    return 0;
}

/* A wrong option must not be found after the key was sent. */
static int check_grant(struct cli *c, struct err *e)
{
    struct jkey *own;
    _cleanup_json_ json_t *probe = NULL;

    if (client_identity(c, &own, e)) {
        return cli_fail(c, e);
    }
    probe = grant_compose(c, "probe", own, now_ms() / 1000, e);
    return probe ? 0 : cli_fail_as(c, CLI_USAGE, e);
}

int verb_dataset_grant(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    char id[DATASET_ID_MAX + 1];

    (void)argc;
    int rc = check_grant(c, &e);
    if (rc) {
        return rc;
    }
    if (access(argv[0], F_OK) == 0) {
        if (put_dataset(c, argv[0], id, &e)) {
            return cli_fail(c, &e);
        }
        cli_note(c, "the KBS has the key of %s", id);
        return grant_put(c, id, id);
    }
    if (!secret_id_valid(argv[0])) {
        return cli_usage(c, "expected a sealed file or a dataset's id, found \"%s\"", argv[0]);
    }
    return grant_put(c, argv[0], NULL);
}
