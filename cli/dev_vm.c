/* What `coffer dev --backend vtpm` needs besides: the measured guest image, its reference values
 * signed by a release key of this stack, the CA of the host's TPMs, and the host's enrolment.
 *
 *   release.jwk                  signs reference values; its public half is in trust.json
 *   verifier/refvals.jws         one JWS a line
 *   verifier/tpm-hosts.json      whose TPMs the verifier takes for a host's own
 *   launcher/tpm-ca/             common/tpmca.h
 */
#include "cli/dev.h"

#include <errno.h>
#include <jansson.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "common/jose.h"
#include "common/tpmca.h"

#define REFVALS_MAX_BYTES (1u << 20)
#define TRUST_MAX_BYTES (1u << 20)
#define PEM_MAX_BYTES 65536u

/* The build tree has it beside bin/, an installation in lib/coffer. */
static int find_guest(struct dev *d, struct err *e)
{
    static const char *const places[] = {"../guest", "../lib/coffer/guest",
                                         "../../lib/coffer/guest"};

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        _cleanup_free_ char *dir = xasprintf("%s/%s", d->program_dir, places[i]);
        _cleanup_free_ char *uki = xasprintf("%s/coffer.efi", dir);
        char *real = access(uki, R_OK) == 0 ? realpath(dir, NULL) : NULL;
        if (real) {
            d->guest_dir = real;
            return 0;
        }
    }
    return err_set(e, ERR_NOT_FOUND,
                   "the guest image (coffer.efi) is neither in %s/../guest nor in "
                   "%s/../lib/coffer/guest; `coffer image build` makes it, and --backend process "
                   "does without",
                   d->program_dir, d->program_dir);
}

static int find_program(const char *name, const char *package, struct err *e)
{
    static const char *const dirs[] = {"/usr/local/bin", "/usr/bin", "/usr/local/sbin",
                                       "/usr/sbin"};

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *p = xasprintf("%s/%s", dirs[i], name);
        if (access(p, X_OK) == 0) {
            return 0;
        }
    }
    return err_set(e, ERR_NOT_FOUND,
                   "--backend vtpm: %s is not installed; on Debian it is the package %s "
                   "(--backend process does without)",
                   name, package);
}

int dev_release_key(const struct dev *d, struct jkey **ret, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/release.jwk", d->dir);
    _cleanup_jkey_ struct jkey *k = NULL;

    if (access(path, F_OK) == 0) {
        return jkey_read_private(path, ret, e);
    }
    if (jkey_generate(&k, e) < 0 || jkey_write_private(path, k, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(k);
    return 0;
}

/* Who may sign reference values. A trust file that names somebody is the user's. */
static int trust_release_key(const struct dev *d, const struct jkey *k, struct err *e)
{
    static const char *const names[] = {"trust.json", "client/trust.json"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", d->dir, names[i]);
        _cleanup_buf_ struct buf in = BUF_INIT(TRUST_MAX_BYTES);
        _cleanup_json_ json_t *j = NULL;
        if (file_read(path, TRUST_MAX_BYTES, 0, &in, e) < 0 ||
            json_parse("trust", buf_bytes(&in), TRUST_MAX_BYTES, &j, e) < 0) {
            return err_wrap(e, "%s", path);
        }
        if (!json_is_object(j) || json_object_get(j, "release")) {
            continue;
        }
        json_object_set_new(j, "release", json_pack("[o]", jkey_public_jwk(k)));
        _cleanup_free_ char *text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS);
        if (!text) {
            return err_set(e, ERR_INTERNAL, "cannot write %s", path);
        }
        if (file_replace(path, BYTES_STR(text), 0644, e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Anew at each start: the image may have been built anew. */
static int sign_refvals(const struct dev *d, struct err *e)
{
    _cleanup_free_ char *from = xasprintf("%s/refvals.json", d->guest_dir);
    _cleanup_free_ char *to = xasprintf("%s/verifier/refvals.jws", d->dir);
    _cleanup_buf_ struct buf in = BUF_INIT(REFVALS_MAX_BYTES),
                             out = BUF_INIT(2 * REFVALS_MAX_BYTES);
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_json_ json_t *j = NULL;
    _cleanup_free_ char *jws = NULL;

    if (file_read(from, REFVALS_MAX_BYTES, 0, &in, e) < 0 ||
        json_parse("refvals", buf_bytes(&in), REFVALS_MAX_BYTES, &j, e) < 0 ||
        dev_release_key(d, &k, e) < 0 || trust_release_key(d, k, e) < 0 ||
        jws_sign_json(k, "coffer-refvals+jws", 0, j, &jws, e) < 0 ||
        buf_addf(&out, e, "%s\n", jws) < 0) {
        return err_wrap(e, "reference values");
    }
    return file_replace(to, buf_bytes(&out), 0644, e);
}

static int enrol_host(const struct dev *d, struct err *e)
{
    _cleanup_free_ char *dir = xasprintf("%s/launcher/tpm-ca", d->dir);
    _cleanup_free_ char *root = xasprintf("%s/" TPMCA_ROOT, dir);
    _cleanup_free_ char *to = xasprintf("%s/verifier/tpm-hosts.json", d->dir);
    _cleanup_buf_ struct buf pem = BUF_INIT(PEM_MAX_BYTES + 1);
    _cleanup_json_ json_t *j = NULL;
    _cleanup_free_ char *text = NULL;

    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        return err_errno(e, "mkdir %s", dir);
    }
    if (tpmca_make(dir, DEV_HOST, e) < 0 || file_read(root, PEM_MAX_BYTES, 0, &pem, e) < 0) {
        return err_wrap(e, "TPM CA");
    }
    j = json_pack("{s:i, s:[{s:s, s:[s%], s:[]}]}", "v", 1, "hosts", "host", DEV_HOST, "roots",
                  (const char *)pem.p, pem.n, "eks");
    text = j ? json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    if (!text) {
        return err_set(e, ERR_INTERNAL, "cannot write %s", to);
    }
    return file_replace(to, BYTES_STR(text), 0644, e);
}

int dev_setup_vm(struct dev *d, struct err *e)
{
    return find_program("qemu-system-x86_64", "qemu-system-x86", e) < 0 ||
                   find_program("swtpm", "swtpm", e) < 0 ||
                   find_program("swtpm_setup", "swtpm-tools", e) < 0 || find_guest(d, e) < 0 ||
                   sign_refvals(d, e) < 0 || enrol_host(d, e) < 0
               ? -1
               : 0;
}
