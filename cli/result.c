#include "cli/result.h"

#include "cli/files.h"
#include "cli/jobs.h"
#include "cli/verbs.h"

/* coffer result: fetch, check, open, and put where it was asked for. */

#define FETCH_MAX_BYTES (80u << 20) /* 64 MiB of output, and what sealing adds */

const struct cli_opt opts_result[] = {
    {"out", 'o', "DIR", VALUE_DIR,
     "write the files below DIR (default: a single text file goes to "
     "standard output)",
     0},
    {"force", 'f', NULL, VALUE_NONE, "replace files that are there", 0},
    {0},
};

struct fetched {
    struct buf sealed;
    char *header, *decision;
};

static void fetched_done(struct fetched *f)
{
    buf_done(&f->sealed);
    free(f->header);
    free(f->decision);
}

static int fetch(struct cli *c, const char *job, struct fetched *f, struct err *e)
{
    uint64_t total = 0;

    do {
        Coffer__V1__FetchResult q = COFFER__V1__FETCH_RESULT__INIT;
        _cleanup_reply_ Coffer__V1__Reply *r = NULL;
        q.job = (char *)(uintptr_t)job;
        q.offset = f->sealed.n;
        if (client_ask(c, SUBJ_RESULT_FETCH, &q.base, COFFER__V1__REPLY__BODY_FETCH, &r, e)) {
            return -1;
        }
        if (!f->sealed.n) {
            total = r->fetch->total_bytes;
            if (total > FETCH_MAX_BYTES) {
                return err_set(e, ERR_TOO_LARGE, "result: expected at most %u bytes, found %llu",
                               FETCH_MAX_BYTES, (unsigned long long)total);
            }
            f->header = xstrdup(r->fetch->header_json);
            f->decision = xstrdup(r->fetch->decision_jws);
        }
        if (r->fetch->total_bytes != total || !r->fetch->data.len ||
            r->fetch->data.len > total - f->sealed.n) {
            return err_set(e, ERR_INVALID, "result: the pieces do not make a whole");
        }
        if (buf_add(&f->sealed, r->fetch->data.data, r->fetch->data.len, e)) {
            return -1;
        }
    } while (f->sealed.n < total);
    return 0;
}

int result_get(struct cli *c, const char *job, struct opened_result *ret, struct err *e)
{
    _cleanup_(fetched_done) struct fetched f = {.sealed = BUF_INIT(FETCH_MAX_BYTES)};
    const struct trust *trust;
    struct jkey *own;

    if (client_identity(c, &own, e) || client_trust(c, &trust, e) || fetch(c, job, &f, e)) {
        return -1;
    }
    return result_check_open(trust, own, job, f.decision, f.header, buf_bytes(&f.sealed), ret, e)
               ? err_wrap(e, "the result does not hold what the gate signed")
               : 0;
}

static int is_text(const char *type)
{
    return strncmp(type, "text/", 5) == 0 || streq(type, "application/json");
}

/* To a terminal without what could steer it; elsewhere exactly as it is. */
static int to_stdout(struct cli *c, struct bytes content, struct err *e)
{
    _cleanup_free_ char *clean = NULL;
    const void *p = content.p;

    if (isatty(fileno(c->out))) {
        clean = xmalloc(content.n + 1);
        memcpy(clean, content.p, content.n);
        cli_clean(clean, content.n, 1);
        p = clean;
    }
    if (content.n && fwrite(p, 1, content.n, c->out) != content.n) {
        return err_errno(e, "cannot write the result");
    }
    return 0;
}

static const char *clean_path(const char *path, char out[256])
{
    snprintf(out, 256, "%s", path);
    cli_clean(out, strlen(out), 0);
    return out;
}

static int write_files(struct cli *c, const struct opened_result *r, const char *dir, struct err *e)
{
    struct output_file files[SPEC_MAX_FILES];

    for (size_t i = 0; i < r->n_files; i++) {
        files[i] = (struct output_file){r->files[i].path, r->files[i].content};
    }
    if (output_write(dir, files, r->n_files, cli_has(c, "force"), e)) {
        return -1;
    }
    for (size_t i = 0; i < r->n_files; i++) {
        char size[32], path[256];
        cli_note(c, "wrote %s/%s (%s)", dir, clean_path(r->files[i].path, path),
                 bytes_text(r->files[i].content.n, size));
    }
    return 0;
}

/* The verified decision and, when there is one small text, that text. */
static json_t *result_json(struct cli *c, const struct opened_result *r)
{
    const char *out = cli_opt(c, "out");
    json_t *files = json_array(), *all;

    for (size_t i = 0; i < r->n_files; i++) {
        json_t *f = json_pack("{s:s,s:s,s:I}", "path", r->files[i].path, "type", r->files[i].type,
                              "bytes", (json_int_t)r->files[i].content.n);
        if (out) {
            json_object_set_new(f, "file", json_sprintf("%s/%s", out, r->files[i].path));
        } else if (is_text(r->files[i].type)) {
            json_object_set_new(
                f, "text",
                json_stringn((const char *)r->files[i].content.p, r->files[i].content.n));
        }
        json_array_append_new(files, f);
    }
    all = json_pack("{s:o,s:O}", "files", files, "decision", r->decision);
    return all;
}

int result_deliver(struct cli *c, const struct opened_result *r, json_t **ret_json, struct err *e)
{
    const char *out = cli_opt(c, "out");

    if (out && write_files(c, r, out, e)) {
        return -1;
    }
    if (c->json) {
        *ret_json = result_json(c, r);
        return 0;
    }
    if (out) {
        return 0;
    }
    if (r->n_files == 1 && is_text(r->files[0].type)) {
        return to_stdout(c, r->files[0].content, e);
    }
    for (size_t i = 0; i < r->n_files; i++) {
        char size[32], path[256];
        cli_note(c, "  %s  %s  %s", clean_path(r->files[i].path, path), r->files[i].type,
                 bytes_text(r->files[i].content.n, size));
    }
    if (r->n_files) {
        const char *job = json_string_value(json_object_get(r->decision, "job"));
        cli_note(c, "to get the files: coffer result %s --out DIR", job);
    } else {
        cli_note(c, "the job declares no output files");
    }
    return 0;
}

int verb_result(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_(opened_result_done) struct opened_result r = {0};
    char job[JOB_ID_LEN + 1];
    json_t *json = NULL;

    (void)argc;
    if (client_find_job(c, argv[0], job, &e)) {
        return cli_fail(c, &e);
    }
    if (result_get(c, job, &r, &e)) {
        if (c->by[0]) {
            cli_hint(c, "coffer explain %s", job);
        }
        return cli_fail(c, &e);
    }
    if (result_deliver(c, &r, &json, &e)) {
        return cli_fail(c, &e);
    }
    return json ? cli_json(c, json) : CLI_OK;
}
