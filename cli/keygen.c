#include <errno.h>
#include <sys/stat.h>

#include "cli/client.h"
#include "cli/files.h"
#include "cli/verbs.h"

/* coffer keygen, coffer key show: who one is. */

const struct cli_opt opts_keygen[] = {
    {"out", 'o', "FILE", VALUE_FILE, "where the private key goes instead; FILE.pub beside it", 0},
    {"force", 'f', NULL, VALUE_NONE, "replace a key that is there: what is sealed to it is lost",
     0},
    {0},
};

int verb_keygen(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_jkey_ struct jkey *k = NULL;
    const char *out = cli_opt(c, "out");
    _cleanup_free_ char *path = out ? xstrdup(out) : client_identity_path(c);
    _cleanup_free_ char *pub = xasprintf("%s.pub", path);

    (void)argc;
    (void)argv;
    if (!cli_has(c, "force") && (!access(path, F_OK) || !access(pub, F_OK))) {
        cli_hint(c, "coffer key show %s", path);
        err_set(&e, ERR_WRONG_STATE, "%s is there already; --force replaces it",
                access(path, F_OK) ? pub : path);
        return cli_fail(c, &e);
    }
    if ((!out && make_parents(path, &e)) || jkey_generate(&k, &e) ||
        jkey_write_private(path, k, &e) || jkey_write_public(pub, k, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s,s:s}", "thumbprint", jkey_thumbprint(k), "private",
                                     path, "public", pub));
    }
    cli_note(c, "private key: %s\npublic key:  %s", path, pub);
    cli_say(c, "%s", jkey_thumbprint(k));
    return CLI_OK;
}

int verb_key_show(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_jkey_ struct jkey *k = NULL;
    struct jkey *own;

    if (argc) {
        if (key_from_arg(argv[0], &k, &e)) {
            return cli_fail(c, &e);
        }
    } else if (client_identity(c, &own, &e)) {
        return cli_fail(c, &e);
    } else {
        k = jkey_ref(own);
    }
    if (c->json) {
        return cli_json(
            c, json_pack("{s:s,s:o}", "thumbprint", jkey_thumbprint(k), "jwk", jkey_public_jwk(k)));
    }
    cli_say(c, "%s", jkey_thumbprint(k));
    return CLI_OK;
}
