#include "cli/image_key.h"

#include <dirent.h>

#include "cli/client.h"
#include "cli/dataset.h"
#include "cli/files.h"
#include "cli/verbs.h"
#include "common/fileio.h"
#include "common/keyprovider.h"

/* coffer image key new, register, ls; coffer image grant; coffer keyprovider. */

const struct cli_opt opts_image_key_new[] = {
    {"offline", 0, NULL, VALUE_NONE, "do not send it to the KBS; image key register does later", 0},
    {0},
};

void image_key_done(struct image_key *k)
{
    json_decref(k->descriptor);
    secret_free(k->key);
    *k = (struct image_key){0};
}

static int save(const char *dir, const struct image_key *k, const struct jkey *owner, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s.json", dir, k->id);
    _cleanup_free_ char *jwe = NULL, *text = NULL;
    _cleanup_json_ json_t *box = NULL, *file = NULL;

    if (keybox_seal(owner, k->id, k->key, &jwe, e) ||
        json_parse("jwe", BYTES_STR(jwe), KEYBOX_MAX_BYTES, &box, e) || make_parents(path, e)) {
        return -1;
    }
    file = json_pack("{s:i,s:O,s:O}", "v", 1, "descriptor", k->descriptor, "jwe", box);
    return jcs_encode(file, &text, e) || file_replace(path, BYTES_STR(text), 0600, e) ? -1 : 0;
}

int image_key_new(const char *dir, const char *name, const struct jkey *owner,
                  struct image_key *ret, struct err *e)
{
    struct image_key k = {0};
    uint8_t raw[16];

    random_bytes(raw, sizeof(raw));
    _cleanup_free_ char *salt = b64url_encode(raw, sizeof(raw));
    k.descriptor = json_pack("{s:s,s:s,s:o,s:s,s:i}", "kind", "image-key", "name", name, "owner",
                             jkey_public_jwk(owner), "salt", salt, "v", 1);
    k.key = secret_random(KEYBOX_KEY_BYTES);
    if (!k.descriptor || image_key_id(k.descriptor, k.id, NULL, e) || save(dir, &k, owner, e)) {
        image_key_done(&k);
        return e && e->code ? -1 : err_set(e, ERR_INVALID, "name: expected [a-z0-9-]");
    }
    *ret = k;
    return 0;
}

static int fill(const char *path, const char *id, const struct jkey *owner, struct image_key *k,
                struct err *e)
{
    static const char *const members[] = {"v", "descriptor", "jwe", NULL};
    _cleanup_buf_ struct buf text = BUF_INIT(65536);
    _cleanup_json_ json_t *j = NULL;
    json_t *descriptor, *jwe;
    int64_t v;

    if (file_read(path, 65536, 1, &text, e) ||
        json_parse("image key", buf_bytes(&text), 65536, &j, e) ||
        json_only_keys(j, "image key", members, e) ||
        json_get_int(j, "image key", "v", 1, 1, &v, e) ||
        json_get_obj(j, "image key", "descriptor", &descriptor, e) ||
        json_get_obj(j, "image key", "jwe", &jwe, e) || image_key_id(descriptor, k->id, NULL, e)) {
        return -1;
    }
    if (!streq(k->id, id)) {
        return err_refuse(e, ERR_INVALID, "image-key.id", id, "%s", k->id);
    }
    _cleanup_free_ char *box = json_dumps(jwe, JSON_COMPACT);
    k->descriptor = json_incref(descriptor);
    return keybox_open(owner, box ? box : "", id, &k->key, e);
}

int image_key_load(const char *dir, const char *id, const struct jkey *owner, struct image_key *ret,
                   struct err *e)
{
    _cleanup_free_ char *path = NULL;
    struct image_key k = {0};

    if (!secret_id_valid(id)) {
        return err_set(e, ERR_INVALID,
                       "expected an image key's id (name.26 digits), found \"%.80s\"", id);
    }
    path = xasprintf("%s/%s.json", dir, id);
    if (access(path, F_OK)) {
        return err_set(e, ERR_NOT_FOUND, "there is no image key %s in %s", id, dir);
    }
    if (fill(path, id, owner, &k, e)) {
        image_key_done(&k);
        return err_wrap(e, "%s", path);
    }
    *ret = k;
    return 0;
}

/* ---- verbs ----------------------------------------------------------------------------------- */

static int put_image_key(struct cli *c, const struct image_key *k, struct err *e)
{
    _cleanup_json_ json_t *jwe = NULL, *reply = NULL;
    _cleanup_free_ char *text = NULL;
    const struct trust *trust;

    if (client_trust(c, &trust, e) || keybox_seal(trust->kbs_seal, k->id, k->key, &text, e) ||
        json_parse("jwe", BYTES_STR(text), KEYBOX_MAX_BYTES, &jwe, e)) {
        return -1;
    }
    return client_owner_command(c,
                                json_pack("{s:s,s:s,s:O,s:O}", "cmd", "put-secret", "kind",
                                          "image-key", "descriptor", k->descriptor, "jwe", jwe),
                                &reply, e);
}

int verb_image_key_new(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(image_key_done) struct image_key k = {0};
    _cleanup_free_ char *dir = client_image_key_dir();
    int offline = cli_has(c, "offline");
    struct jkey *own;

    (void)argc;
    if (client_identity(c, &own, &e) || image_key_new(dir, argv[0], own, &k, &e)) {
        return cli_fail(c, &e);
    }
    if (!offline && put_image_key(c, &k, &e)) {
        cli_hint(c, "the key %s is kept; when the KBS is there: coffer image key register %s", k.id,
                 k.id);
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:b}", "id", k.id, "registered", !offline));
    }
    cli_note(c, offline ? "kept in %s, not registered" : "kept in %s, and the KBS has it", dir);
    cli_say(c, "%s", k.id);
    return CLI_OK;
}

int verb_image_key_register(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(image_key_done) struct image_key k = {0};
    _cleanup_free_ char *dir = client_image_key_dir();
    struct jkey *own;

    (void)argc;
    if (client_identity(c, &own, &e) || image_key_load(dir, argv[0], own, &k, &e) ||
        put_image_key(c, &k, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:b}", "id", k.id, "registered", 1));
    }
    cli_say(c, "%s", k.id);
    return CLI_OK;
}

int verb_image_key_ls(struct cli *c, int argc, char **argv)
{
    _cleanup_free_ char *path = client_image_key_dir();
    _cleanup_json_ json_t *list = json_array();
    DIR *d = opendir(path);
    struct dirent *ent;

    (void)argc;
    (void)argv;
    while (d && (ent = readdir(d))) {
        size_t n = strlen(ent->d_name);
        if (n < 6 || !streq(ent->d_name + n - 5, ".json")) {
            continue;
        }
        _cleanup_free_ char *id = xstrndup(ent->d_name, n - 5);
        if (secret_id_valid(id)) {
            cli_say(c, "%s", id);
            json_array_append_new(list, json_string(id));
        }
    }
    if (d) {
        closedir(d);
    }
    return c->json ? cli_json(c, json_pack("{s:O}", "keys", list)) : CLI_OK;
}

int verb_image_grant(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(image_key_done) struct image_key k = {0};
    _cleanup_free_ char *dir = client_image_key_dir();
    _cleanup_json_ json_t *probe = NULL;
    struct jkey *own;

    (void)argc;
    if (!secret_id_valid(argv[0])) {
        return cli_usage(c, "expected an image key's id (name.26 digits), found \"%s\"", argv[0]);
    }
    if (client_identity(c, &own, &e)) {
        return cli_fail(c, &e);
    }
    /* A wrong option must not be found after the key was sent. */
    probe = grant_compose(c, argv[0], own, now_ms() / 1000, &e);
    if (!probe) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (image_key_load(dir, argv[0], own, &k, &e)) {
        if (e.code != ERR_NOT_FOUND) {
            return cli_fail(c, &e);
        }
        return grant_put(c, argv[0], NULL); /* the KBS knows it, or says that it does not */
    }
    if (put_image_key(c, &k, &e)) {
        return cli_fail(c, &e);
    }
    cli_note(c, "the KBS has the image key %s", k.id);
    return grant_put(c, k.id, k.id);
}

/* ---- keyprovider ----------------------------------------------------------------------------- */

struct finder {
    struct cli *c;
    const char *dir;
    struct image_key k;
};

static int find_kek(void *arg, const char *kid, const struct secret **ret, struct err *e)
{
    struct finder *f = arg;
    struct jkey *own;

    image_key_done(&f->k);
    if (client_identity(f->c, &own, e) || image_key_load(f->dir, kid, own, &f->k, e)) {
        return -1;
    }
    *ret = f->k.key;
    return 0;
}

int verb_keyprovider(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_free_ char *dir = client_image_key_dir();
    struct finder f = {.c = c, .dir = dir};

    (void)argc;
    (void)argv;
    int rc = keyprovider_run(STDIN_FILENO, STDOUT_FILENO, find_kek, &f, &e);
    image_key_done(&f.k);
    return rc ? cli_fail(c, &e) : CLI_OK;
}
