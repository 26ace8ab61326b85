#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "cli/client.h"
#include "cli/files.h"
#include "cli/image_key.h"
#include "cli/image_rewrap.h"
#include "cli/layout.h"
#include "cli/verbs.h"
#include "common/fileio.h"

/* coffer image keys, coffer image encrypt: skopeo does the work, with this program as its key
 * provider, or, where skopeo is too old for that, with the layers' keys wrapped anew. */

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
    char *digest_file, *log, *pem;
    char *src, *dst, *key;
};

static void encrypt_done(struct encrypt *x)
{
    if (x->tmp) {
        unlink(x->config);
        unlink(x->digest_file);
        unlink(x->log);
        unlink(x->pem);
        rmdir(x->tmp);
    }
    free(x->tmp);
    free(x->config);
    free(x->digest_file);
    free(x->log);
    free(x->pem);
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
    x->log = xasprintf("%s/log", tmp);
    x->pem = xasprintf("%s/recipient.pem", tmp);
    x->tmp = TAKE_PTR(tmp);
    x->src = with_transport(src);
    x->dst = with_transport(dst);
    x->key = xasprintf("provider:coffer:keyid=%s", id);
    return write_config(c, x, e);
}

/* Does not return. */
static void exec_skopeo(const struct encrypt *x, const char *encryption_key)
{
    char *const argv[] = {(char *)"skopeo",
                          (char *)"copy",
                          (char *)"--encryption-key",
                          (char *)(uintptr_t)encryption_key,
                          (char *)"--digestfile",
                          x->digest_file,
                          x->src,
                          x->dst,
                          NULL};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = open(x->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    signal(SIGPIPE, SIG_DFL);
    setenv("OCICRYPT_KEYPROVIDER_CONFIG", x->config, 1);
    if (null >= 0 && log >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(log, STDOUT_FILENO) >= 0 &&
        dup2(log, STDERR_FILENO) >= 0) {
        execvp("skopeo", argv);
    }
    _exit(errno == ENOENT ? 127 : 126);
}

/* What it said is in x->log. */
static int run_skopeo(const struct encrypt *x, const char *encryption_key, struct err *e)
{
    int status;
    pid_t pid = fork();

    if (pid < 0) {
        return err_errno(e, "cannot start skopeo");
    }
    if (pid == 0) {
        exec_skopeo(x, encryption_key);
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
        _cleanup_buf_ struct buf log = BUF_INIT(65536);
        (void)file_read(x->log, 65535, 0, &log, NULL);
        while (log.n && log.p[log.n - 1] == '\n') {
            log.p[--log.n] = 0;
        }
        return err_set(e, ERR_IO, "skopeo failed: %.400s",
                       log.n ? (char *)log.p : "without a word");
    }
    return 0;
}

static int read_digest(const struct encrypt *x, char **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(128);

    if (file_read(x->digest_file, 127, 0, &text, e)) {
        return -1;
    }
    if (text.n) {
        text.p[strcspn((char *)text.p, "\n")] = '\0';
    }
    if (!text.n || !image_digest_valid((char *)text.p)) {
        return err_set(e, ERR_INVALID, "skopeo wrote no digest");
    }
    *ret = xstrdup((char *)text.p);
    return 0;
}

/* With a skopeo that has no key providers: cli/image_rewrap.h. */
static int encrypt_and_rewrap(const struct encrypt *x, const struct image_key *k, char **ret_digest,
                              struct err *e)
{
    _cleanup_free_ char *jwe = xasprintf("jwe:%s", x->pem), *dir = NULL, *tag = NULL;
    json_t *private_jwk = NULL;

    if (strncmp(x->dst, "oci:", 4) != 0) {
        return err_set(e, ERR_UNSUPPORTED,
                       "this skopeo has no key providers: expected an OCI layout (oci:PATH:TAG) to "
                       "write to, found %s",
                       x->dst);
    }
    int rc = image_recipient_new(x->pem, &private_jwk, e) || run_skopeo(x, jwe, e) ||
             layout_split(x->dst, &dir, &tag, e) ||
             image_rewrap(dir, tag, private_jwk, k->id, k->key, ret_digest, e);
    json_decref(private_jwk);
    return rc ? -1 : 0;
}

static int encrypt(struct cli *c, const struct encrypt *x, const struct image_key *k,
                   char **ret_digest, struct err *e)
{
    if (c->verbose) {
        cli_note(c,
                 "OCICRYPT_KEYPROVIDER_CONFIG=<(echo '{\"key-providers\":{\"coffer\":{\"cmd\":"
                 "{\"path\":\"coffer\",\"args\":[\"keyprovider\"]}}}}') \\\n"
                 "  skopeo copy --encryption-key %s %s %s",
                 x->key, x->src, x->dst);
    }
    if (run_skopeo(x, x->key, e) == 0) {
        return read_digest(x, ret_digest, e);
    }
    /* ocicrypt 1.0's answer to "provider:". */
    if (!strstr(e->msg, "protocol not recognized")) {
        return -1;
    }
    err_clear(e);
    if (c->verbose) {
        cli_note(c, "this skopeo has no key providers: its layer keys are wrapped anew afterwards");
    }
    return encrypt_and_rewrap(x, k, ret_digest, e);
}

int verb_image_encrypt(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(encrypt_done) struct encrypt x = {0};
    _cleanup_(image_key_done) struct image_key k = {0};
    _cleanup_free_ char *dir = client_image_key_dir(), *digest = NULL;
    const char *id = cli_opt(c, "key-id");
    struct jkey *own;

    (void)argc;
    if (!id) {
        cli_hint(c, "coffer image key new NAME   (or: coffer image key ls)");
        return cli_usage(c, "expected --key-id ID: the image key to wrap with");
    }
    if (client_identity(c, &own, &e) || image_key_load(dir, id, own, &k, &e) ||
        prepare(c, argv[0], argv[1], id, &x, &e) || encrypt(c, &x, &k, &digest, &e)) {
        if (strstr(e.msg, "not installed")) {
            cli_hint(c, "apt-get install skopeo");
        }
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s,s:s}", "digest", digest, "image", x.dst, "key", id));
    }
    cli_say(c, "%s", digest);
    return CLI_OK;
}
