#include "cli/appraise_job.h"

#include <sys/stat.h>
#include <time.h>

#include "appraise/when.h"
#include "common/fileio.h"

#define EVIDENCE_MAX_BYTES (16u << 20)
#define NONCE_MAX_BYTES 512u
#define CERTS_KEPT 16384

void appraise_job_done(struct appraise_job *j)
{
    appraisal_done(&j->appraisal);
    refvals_free(j->refvals);
    strings_done(&j->collateral_paths);
    strings_done(&j->root_paths);
    for (size_t i = 0; i < j->n_roots; i++) {
        cert_unref(j->roots[i]);
    }
    buf_done(&j->evidence);
    buf_done(&j->nonce);
    collateral_free(j->collateral);
    certs_free(j->certs);
}

/* ---- options --------------------------------------------------------------------------------- */

static int opt_hex(const struct cli *c, const char *name, size_t max, struct buf *ret,
                   struct err *e)
{
    const char *text = cli_opt(c, name);
    size_t n = text ? strlen(text) / 2 : 0;

    *ret = BUF_INIT(max);
    if (!text) {
        return 0;
    }
    if (!n || strlen(text) % 2 || n > max) {
        return err_set(e, ERR_INVALID, "--%s: expected 1 to %zu bytes in hex, found %zu characters",
                       name, max, strlen(text));
    }
    if (buf_reserve(ret, n, e) || hex_decode(text, ret->p, n, e)) {
        return err_wrap(e, "--%s", name);
    }
    ret->n = n;
    return 0;
}

/* Evidence that is an answer to a challenge, or proves nothing, is nothing for a file. */
static const struct appraiser *find_tee(const char *name)
{
    const struct appraiser *a = appraiser_find(name);

    return a && !a->challenge && !streq(a->tee, "sample") ? a : NULL;
}

static int read_time(const struct cli *c, struct appraise_job *j, struct err *e)
{
    const char *at = cli_opt(c, "at");

    j->at_ms = (int64_t)time(NULL) * 1000;
    if (at && rfc3339_ms(at, &j->at_ms)) {
        return err_set(e, ERR_INVALID, "--at: expected a time like 2026-01-31T12:00:00Z, found %s",
                       at);
    }
    return 0;
}

static int read_options(const struct cli *c, struct appraise_job *j, struct err *e)
{
    const char *tee = cli_opt(c, "tee");
    _cleanup_buf_ struct buf report_data = {0};

    if (!tee || !(j->tee = find_tee(tee))) {
        return err_set(e, ERR_INVALID, "--tee: expected one of " APPRAISE_TEES ", found %s",
                       tee ? tee : "none");
    }
    if (opt_hex(c, "report-data", sizeof(j->report_data), &report_data, e) ||
        opt_hex(c, "nonce", NONCE_MAX_BYTES, &j->nonce, e)) {
        return -1;
    }
    if (report_data.n) {
        memcpy(j->report_data, report_data.p, report_data.n);
        j->has_report_data = 1;
    }
    return 0;
}

static int read_refvals(const struct cli *c, struct appraise_job *j, struct err *e)
{
    const char *path = cli_opt(c, "reference-values");
    _cleanup_strings_ struct strings keys = {0};
    struct trust_keys release = {0};
    int rc = 0;

    cli_opt_list(c, "release-key", &keys);
    if (!path) {
        return keys.n ? err_set(e, ERR_INVALID, "--release-key: expected --reference-values too")
                      : 0;
    }
    if (!keys.n || keys.n > TRUST_MAX_KEYS) {
        return err_set(e, ERR_INVALID,
                       "--release-key: expected 1 to %d, found %zu: what nobody "
                       "signed is no reference value",
                       TRUST_MAX_KEYS, keys.n);
    }
    while (!rc && release.n < keys.n) {
        rc = jkey_read_public(keys.v[release.n], &release.keys[release.n], e);
        release.n += !rc;
    }
    rc = rc || refvals_read(path, &release, &j->refvals, e) ? -1 : 0;
    for (size_t i = 0; i < release.n; i++) {
        jkey_free(release.keys[i]);
    }
    return rc;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int check_paths(const struct strings *paths, struct err *e)
{
    for (size_t i = 0; i < paths->n; i++) {
        struct stat st;
        if (stat(paths->v[i], &st) || access(paths->v[i], R_OK)) {
            return err_errno(e, "--collateral: %s", paths->v[i]);
        }
    }
    return 0;
}

static int read_roots(struct appraise_job *j, struct err *e)
{
    const struct strings *paths = &j->root_paths;

    if (paths->n > APPRAISE_MAX_ROOTS) {
        return err_set(e, ERR_INVALID, "--root: expected at most %d", APPRAISE_MAX_ROOTS);
    }
    for (size_t i = 0; i < paths->n; i++) {
        _cleanup_buf_ struct buf pem = BUF_INIT(CERT_MAX_BYTES);
        struct cert *root;
        size_t n;
        if (file_read(paths->v[i], CERT_MAX_BYTES, 0, &pem, e) ||
            certs_add_pem(j->certs, "root", buf_bytes(&pem), &root, 1, &n, e)) {
            return err_wrap(e, "--root");
        }
        j->roots[j->n_roots++] = cert_ref(root);
    }
    return 0;
}

int appraise_job_read(struct cli *c, const char *evidence, struct appraise_job *j, struct err *e)
{
    const char *path = evidence && streq(evidence, "-") ? "/dev/stdin" : evidence;

    if (read_time(c, j, e)) {
        return -1;
    }
    if (!evidence) {
        return read_refvals(c, j, e);
    }
    j->certs = certs_new(CERTS_KEPT);
    cli_opt_list(c, "collateral", &j->collateral_paths);
    cli_opt_list(c, "root", &j->root_paths);
    j->evidence = BUF_INIT(EVIDENCE_MAX_BYTES);
    return read_options(c, j, e) || read_refvals(c, j, e) ||
                   file_read(path, EVIDENCE_MAX_BYTES, 0, &j->evidence, e) ||
                   check_paths(&j->collateral_paths, e) || read_roots(j, e)
               ? -1
               : 0;
}

/* What is damaged or of no known form is refused: what somebody gave was to count. */
static int read_collateral(struct appraise_job *j, struct err *e)
{
    j->collateral = collateral_new(j->certs);
    for (size_t i = 0; i < j->collateral_paths.n; i++) {
        size_t unknown = 0;
        if (collateral_add_path(j->collateral, j->collateral_paths.v[i], &unknown, e)) {
            return err_wrap(e, "%s", j->collateral_paths.v[i]);
        }
        j->passed_over += unknown;
    }
    return 0;
}

int appraise_job_run(struct appraise_job *j, struct err *e)
{
    const struct appraisal_policy policy = {.roots = (const struct cert *const *)(void *)j->roots,
                                            .n_roots = j->n_roots};

    if (read_collateral(j, e)) {
        return -1;
    }
    const struct appraisal_input in = {.evidence = buf_bytes(&j->evidence),
                                       .report_data = j->has_report_data ? j->report_data : NULL,
                                       .nonce = buf_bytes(&j->nonce),
                                       .now_ms = j->at_ms,
                                       .collateral = j->collateral};
    return j->tee->appraise(&in, &policy, &j->appraisal, e);
}
