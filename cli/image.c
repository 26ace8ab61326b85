#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "cli/client.h"
#include "cli/files.h"
#include "cli/image_key.h"
#include "cli/layout.h"
#include "cli/verbs.h"
#include "common/fileio.h"

/* coffer image keys, coffer image encrypt: skopeo does the work, with this program as its key
 * provider. */

const struct cli_opt opts_image_encrypt[] = {
    {"key-id", 'k', "ID", VALUE_TEXT, "the image key that wraps the layers' keys (required)", 0},
    {0},
};

int verb_image_keys(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(image_info_done) struct image_info info = {0};
    _cleanup_free_ char *dir = NULL, *tag = NULL;
    char digest[LAYOUT_DIGEST_CHARS + 1];

    (void)argc;
    if (layout_split(argv[0], &dir, &tag, &e) || layout_find(dir, tag, digest, &e) ||
        image_info_load(dir, digest, &info, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        json_t *keys = json_array();
        for (size_t i = 0; i < info.key_ids.n; i++) {
            json_array_append_new(keys, json_string(info.key_ids.v[i]));
        }
        return cli_json(c, json_pack("{s:s,s:o,s:I,s:I}", "digest", digest, "keys", keys, "layers",
                                     (json_int_t)info.layers, "encrypted",
                                     (json_int_t)info.encrypted));
    }
    if (info.encrypted < info.layers) {
        cli_note(c, "%zu of %zu layers are not encrypted", info.layers - info.encrypted,
                 info.layers);
    }
    for (size_t i = 0; i < info.key_ids.n; i++) {
        cli_say(c, "%s", info.key_ids.v[i]);
    }
    return CLI_OK;
}

/* ---- encrypt --------------------------------------------------------------------------------- */

struct encrypt {
    char *tmp;    /* a directory of its own */
    char *config; /* for OCICRYPT_KEYPROVIDER_CONFIG */
    char *digest_file;
    char *src, *dst, *key;
};

static void encrypt_done(struct encrypt *x)
{
    if (x->config) {
        unlink(x->config);
        unlink(x->digest_file);
    }
    if (x->tmp) {
        rmdir(x->tmp);
    }
    free(x->tmp);
    free(x->config);
    free(x->digest_file);
    free(x->src);
    free(x->dst);
    free(x->key);
}

/* skopeo wants transports; a path alone is an OCI layout. */
static char *with_transport(const char *arg)
{
    static const char *const transports[] = {
        "oci:", "oci-archive:", "docker:", "dir:", "docker-archive:", "containers-storage:"};

    for (size_t i = 0; i < ARRAY_LEN(transports); i++) {
        if (strncmp(arg, transports[i], strlen(transports[i])) == 0) {
            return xstrdup(arg);
        }
    }
    return xasprintf("oci:%s", arg);
}

static int write_config(struct cli *c, struct encrypt *x, struct err *e)
{
    _cleanup_json_ json_t *config = NULL;
    _cleanup_free_ char *identity = client_identity_path(c), *text = NULL;
    _cleanup_free_ char *key = realpath(identity, NULL);
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n < 0) {
        return err_errno(e, "cannot find this program");
    }
    self[n] = '\0';
    config = json_pack("{s:{s:{s:{s:s,s:[s,s,s]}}}}", "key-providers", "coffer", "cmd", "path",
                       self, "args", "keyprovider", "--key", key ? key : identity);
    text = config ? json_dumps(config, JSON_COMPACT) : NULL;
    if (!text) {
        return err_set(e, ERR_INVALID, "the path of this program or key is no UTF-8");
    }
    return file_replace(x->config, BYTES_STR(text), 0600, e);
}

static int prepare(struct cli *c, const char *src, const char *dst, const char *id,
                   struct encrypt *x, struct err *e)
{
    const char *base = getenv("TMPDIR");
    _cleanup_free_ char *tmp = xasprintf("%s/coffer.XXXXXX", base && base[0] ? base : "/tmp");

    if (!mkdtemp(tmp)) {
        return err_errno(e, "cannot make %s", tmp);
    }
    x->config = xasprintf("%s/ocicrypt.json", tmp);
    x->digest_file = xasprintf("%s/digest", tmp);
    x->tmp = TAKE_PTR(tmp);
    x->src = with_transport(src);
    x->dst = with_transport(dst);
    x->key = xasprintf("provider:coffer:keyid=%s", id);
    return write_config(c, x, e);
}

static int run_skopeo(const struct encrypt *x, int verbose, struct err *e)
{
    char *const argv[] = {(char *)"skopeo",
                          (char *)"copy",
                          (char *)"--encryption-key",
                          x->key,
                          (char *)"--digestfile",
                          x->digest_file,
                          x->src,
                          x->dst,
                          NULL};
    int status;
    pid_t pid = fork();

    if (pid < 0) {
        return err_errno(e, "cannot start skopeo");
    }
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        setenv("OCICRYPT_KEYPROVIDER_CONFIG", x->config, 1);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0) {
            dup2(null, STDIN_FILENO);
            dup2(verbose ? STDERR_FILENO : null, STDOUT_FILENO);
        }
        execvp("skopeo", argv);
        _exit(errno == ENOENT ? 127 : 126);
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return err_errno(e, "skopeo");
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
        return err_set(e, ERR_NOT_FOUND, "skopeo is not installed");
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        return err_set(e, ERR_IO, "skopeo failed; what it said is above");
    }
    return 0;
}

int verb_image_encrypt(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(encrypt_done) struct encrypt x = {0};
    _cleanup_(image_key_done) struct image_key k = {0};
    _cleanup_free_ char *dir = client_image_key_dir();
    _cleanup_buf_ struct buf digest = BUF_INIT(128);
    const char *id = cli_opt(c, "key-id");
    struct jkey *own;

    (void)argc;
    if (!id) {
        cli_hint(c, "coffer image key new NAME   (or: coffer image key ls)");
        return cli_usage(c, "expected --key-id ID: the image key to wrap with");
    }
    if (client_identity(c, &own, &e) || image_key_load(dir, id, own, &k, &e) ||
        prepare(c, argv[0], argv[1], id, &x, &e)) {
        return cli_fail(c, &e);
    }
    if (c->verbose) {
        cli_note(c,
                 "OCICRYPT_KEYPROVIDER_CONFIG=<{\"key-providers\":{\"coffer\":{\"cmd\":{\"path\":"
                 "\"coffer\",\"args\":[\"keyprovider\"]}}}}> \\\n"
                 "  skopeo copy --encryption-key %s %s %s",
                 x.key, x.src, x.dst);
    }
    if (run_skopeo(&x, c->verbose, &e)) {
        if (e.code == ERR_NOT_FOUND) {
            cli_hint(c, "apt-get install skopeo");
        }
        return cli_fail(c, &e);
    }
    if (file_read(x.digest_file, 127, 0, &digest, &e)) {
        return cli_fail(c, &e);
    }
    char *text = (char *)digest.p;
    text[strcspn(text, "\n")] = '\0';
    if (!image_digest_valid(text)) {
        err_set(&e, ERR_INVALID, "skopeo wrote no digest");
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s,s:s}", "digest", text, "image", x.dst, "key", id));
    }
    cli_say(c, "%s", text);
    return CLI_OK;
}
