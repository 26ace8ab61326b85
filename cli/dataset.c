#include "cli/dataset.h"

#include "cli/verbs.h"

/* coffer dataset seal, inspect, unseal, revoke, ls. */

const struct cli_opt opts_dataset_seal[] = {
    {"name", 'n', "NAME", VALUE_TEXT, "name of the dataset: [a-z0-9-] (default: from PATH)", 0},
    {"out", 'o', "FILE", VALUE_FILE, "the sealed file (default: NAME.coffer here)", 0},
    {"cipher", 0, "CIPHER", VALUE_TEXT, "aes-256-gcm (default) or chacha20-poly1305", 0},
    {"chunk", 0, "SIZE", VALUE_TEXT, "4KiB to 1MiB, a power of two (default: 64KiB)", 0},
    {"force", 'f', NULL, VALUE_NONE, "replace FILE", 0},
    {0},
};

const struct cli_opt opts_dataset_unseal[] = {
    {"out", 'o', "PATH", VALUE_FILE, "file or directory to make (required)", 0},
    {"force", 'f', NULL, VALUE_NONE, "replace a file that is there", 0},
    {0},
};

static int read_seal_options(struct cli *c, struct seal_ask *a, struct err *e)
{
    const char *cipher = cli_opt(c, "cipher");
    int64_t chunk;

    a->name = cli_opt(c, "name");
    a->force = cli_has(c, "force");
    if (!cipher || streq(cipher, "aes-256-gcm")) {
        a->cipher = "AES-256-GCM";
    } else if (streq(cipher, "chacha20-poly1305")) {
        a->cipher = "ChaCha20-Poly1305";
    } else {
        return err_set(e, ERR_INVALID,
                       "--cipher: expected aes-256-gcm or chacha20-poly1305, found \"%s\"", cipher);
    }
    if (cli_opt_size(c, "chunk", 4096, 1 << 20, SEAL_CHUNK_DEFAULT_BYTES, &chunk, e)) {
        return -1;
    }
    if (chunk & (chunk - 1)) {
        return err_set(e, ERR_INVALID, "--chunk: expected a power of two, found \"%s\"",
                       cli_opt(c, "chunk"));
    }
    a->chunk_bytes = (uint32_t)chunk;
    return 0;
}

int verb_dataset_seal(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    struct seal_ask a = {.path = argv[0]};
    char id[DATASET_ID_MAX + 1], size[32];
    struct jkey *owner;
    uint64_t plain;

    (void)argc;
    if (read_seal_options(c, &a, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    _cleanup_free_ char *name = a.name ? xstrdup(a.name) : dataset_name_from(a.path);
    _cleanup_free_ char *out =
        cli_has(c, "out") ? xstrdup(cli_opt(c, "out")) : xasprintf("%s.coffer", name);
    a.name = name;
    a.out_path = out;
    if (client_identity(c, &owner, &e) || dataset_seal(&a, owner, id, &plain, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(
            c, json_pack("{s:s,s:s,s:I}", "id", id, "file", out, "bytes", (json_int_t)plain));
    }
    cli_note(c, "sealed %s into %s", bytes_text(plain, size), out);
    cli_say(c, "%s", id);
    return CLI_OK;
}

int verb_dataset_inspect(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_close_ int fd = -1;
    uint64_t plain;
    char size[32];

    (void)argc;
    if (dataset_open(argv[0], &fd, &h, NULL, &e) || dataset_plain_bytes(fd, &h, &plain, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s,s:s,s:s,s:i,s:I,s:s}", "id", h.id, "name", h.name,
                                     "form", h.form, "cipher", h.cipher, "chunk_bytes",
                                     (int)h.chunk_bytes, "bytes", (json_int_t)plain, "owner",
                                     jkey_thumbprint(h.owner)));
    }
    cli_say(c, "id      %s", h.id);
    cli_say(c, "owner   %s", jkey_thumbprint(h.owner));
    cli_say(c, "form    %s", streq(h.form, "tar") ? "directory (tar)" : "file");
    cli_say(c, "size    %s", bytes_text(plain, size));
    cli_say(c, "cipher  %s, chunks of %s", h.cipher, bytes_text(h.chunk_bytes, size));
    return CLI_OK;
}

int verb_dataset_unseal(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    const char *out = cli_opt(c, "out");
    struct jkey *owner;
    uint64_t plain;
    char size[32];

    (void)argc;
    if (!out) {
        return cli_usage(c, "expected --out PATH: where the plaintext goes");
    }
    if (client_identity(c, &owner, &e) ||
        dataset_unseal(argv[0], owner, out, cli_has(c, "force"), &plain, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:I}", "out", out, "bytes", (json_int_t)plain));
    }
    cli_note(c, "unsealed %s into %s", bytes_text(plain, size), out);
    return CLI_OK;
}

int verb_dataset_revoke(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_json_ json_t *reply = NULL;

    (void)argc;
    if (client_owner_command(c, json_pack("{s:s,s:s}", "cmd", "revoke", "grant", argv[0]), &reply,
                             &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, TAKE_PTR(reply));
    }
    cli_say(c, "revoked %s: no key is released under it any more", argv[0]);
    return CLI_OK;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "-";
}

static void say_grant(struct cli *c, const json_t *g)
{
    char when[32];
    const json_t *list[] = {json_object_get(g, "consumers"), json_object_get(g, "images")};
    static const char *const label[] = {"consumer", "image   "};

    cli_say(c, "  grant %s  %s  until %s  used %lld times", text_of(g, "id"), text_of(g, "state"),
            time_text((int64_t)json_integer_value(json_object_get(g, "exp")) * 1000, when),
            (long long)json_integer_value(json_object_get(g, "uses")));
    for (size_t k = 0; k < ARRAY_LEN(list); k++) {
        for (size_t i = 0; i < json_array_size(list[k]); i++) {
            const char *s = json_string_value(json_array_get(list[k], i));
            cli_say(c, "    %s  %s", label[k], s ? s : "-");
        }
    }
}

int verb_dataset_ls(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_json_ json_t *reply = NULL;
    json_t *s, *g;
    size_t i, j;
    char when[32];

    (void)argc;
    (void)argv;
    if (client_owner_command(c, json_pack("{s:s}", "cmd", "list"), &reply, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, TAKE_PTR(reply));
    }
    const json_t *secrets = json_object_get(reply, "secrets");
    const json_t *grants = json_object_get(reply, "grants");
    if (!json_array_size(secrets)) {
        cli_note(c, "the KBS holds no key of yours: coffer dataset grant FILE ... sends one");
    }
    json_array_foreach(secrets, i, s)
    {
        cli_say(c, "%s  %s  since %s", text_of(s, "id"), text_of(s, "kind"),
                time_text((int64_t)json_integer_value(json_object_get(s, "created_ms")), when));
        json_array_foreach(grants, j, g)
        {
            if (streq(text_of(g, "secret"), text_of(s, "id"))) {
                say_grant(c, g);
            }
        }
    }
    return CLI_OK;
}
