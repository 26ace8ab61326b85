#include "cli/jobs.h"
#include "cli/layout.h"
#include "cli/verbs.h"
#include "common/fileio.h"

/* From a job's YAML to an accepted job: shared by run, submit and spec. */

const struct cli_opt opts_submit[] = {
    {"store", 's', "DIR", VALUE_DIR, "where to look for the image, for its imageKeys", 0},
    {0},
};

/* The normal form again, with image keys: its digest and id change with it. */
static int with_image_keys(struct spec **s, const struct strings *ids, struct err *e)
{
    _cleanup_json_ json_t *normal = json_deep_copy((*s)->json);
    _cleanup_spec_ struct spec *filled = NULL;
    json_t *list = json_array();

    for (size_t i = 0; i < ids->n; i++) {
        json_array_append_new(list, json_string(ids->v[i]));
    }
    json_object_set_new(json_object_get(normal, "workload"), "imageKeys", list);
    if (spec_from_json(normal, &filled, e)) {
        return -1;
    }
    spec_free(*s);
    *s = TAKE_PTR(filled);
    return 0;
}

static int fill_image_keys(struct cli *c, struct spec **s, struct err *e)
{
    _cleanup_(image_info_done) struct image_info info = {0};
    struct err why = {0};
    const char *store;

    /* Without a store, or without the image in it, the spec is as its author wrote it. */
    if ((*s)->n_image_keys || client_store(c, &store, &why)) {
        c->hint[0] = '\0';
        return 0;
    }
    if (image_info_load(store, (*s)->image, &info, &why)) {
        if (why.code == ERR_NOT_FOUND) {
            return 0;
        }
        *e = why;
        return -1;
    }
    if (!info.key_ids.n) {
        return 0;
    }
    if (with_image_keys(s, &info.key_ids, e)) {
        return err_wrap(e, "workload.imageKeys, from the image's manifest");
    }
    for (size_t i = 0; i < info.key_ids.n; i++) {
        cli_note(c, "workload.imageKeys: %s, from the image's manifest", info.key_ids.v[i]);
    }
    return 0;
}

int job_spec_read(struct cli *c, const char *path, const struct jkey *self, struct spec **ret,
                  struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(SPEC_YAML_MAX_BYTES + 1);
    _cleanup_spec_ struct spec *s = NULL;

    if (file_read(path, SPEC_YAML_MAX_BYTES, 0, &text, e)) {
        return -1;
    }
    if (spec_from_yaml(path, buf_bytes(&text), self, &s, e)) {
        return -1;
    }
    if (fill_image_keys(c, &s, e)) {
        return -1;
    }
    *ret = TAKE_PTR(s);
    return 0;
}

int job_submit(struct cli *c, const struct spec *s, const struct jkey *consumer, int *ret_duplicate,
               struct err *e)
{
    Coffer__V1__ScheduleJob m = COFFER__V1__SCHEDULE_JOB__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    _cleanup_free_ char *jws = NULL, *msg_id = xasprintf("%s.schedule", s->job_id);
    struct bus *b;

    *ret_duplicate = 0;
    if (spec_sign(s, consumer, &jws, e) || client_bus(c, &b, e)) {
        return -1;
    }
    m.spec_jws = jws;
    if (bus_schedule(b, SUBJ_JOB_SCHEDULE, NULL, msg_id, &m.base, NULL, CLIENT_TIMEOUT_MS, &r, e)) {
        return -1;
    }
    client_remember_job(c, s->job_id);
    if (!r) {
        cli_note(c, "the job is stored; the scheduler has not answered yet");
        return 0;
    }
    client_clean(&r->base);
    if (r->body_case == COFFER__V1__REPLY__BODY_REFUSAL) {
        return client_refused(c, r->refusal, e);
    }
    if (r->body_case != COFFER__V1__REPLY__BODY_JOB_ACCEPTED) {
        return err_set(e, ERR_INVALID, "a reply of another kind to the job");
    }
    if (!streq(r->job_accepted->job, s->job_id) || !streq(r->job_accepted->digest, s->digest_hex)) {
        return err_refuse(e, ERR_DENIED, "job", s->job_id, "%.40s", r->job_accepted->job);
    }
    *ret_duplicate = r->job_accepted->duplicate;
    return 0;
}

int verb_submit(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_spec_ struct spec *s = NULL;
    struct jkey *own;
    int duplicate;

    (void)argc;
    if (client_identity(c, &own, &e)) {
        return cli_fail(c, &e);
    }
    if (job_spec_read(c, argv[0], own, &s, &e)) {
        return cli_fail_as(c, e.code == ERR_IO ? CLI_COULD_NOT : CLI_USAGE, &e);
    }
    if (job_submit(c, s, own, &duplicate, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s,s:b}", "job", s->job_id, "digest", s->digest_hex,
                                     "duplicate", duplicate));
    }
    if (duplicate) {
        cli_note(c, "this job was submitted before: a metadata.nonce makes it the same job");
    }
    cli_say(c, "%s", s->job_id);
    return CLI_OK;
}

/* ---- coffer spec ----------------------------------------------------------------------------- */

/* Checking needs no key: without one, "self" is a key that is thrown away. */
static int read_for_check(struct cli *c, const char *path, struct spec **ret, int *ret_own,
                          struct err *e)
{
    _cleanup_jkey_ struct jkey *any = NULL;
    struct jkey *own;

    *ret_own = client_identity(c, &own, NULL) == 0;
    c->hint[0] = '\0';
    if (!*ret_own) {
        if (jkey_generate(&any, e)) {
            return -1;
        }
        own = any;
    }
    return job_spec_read(c, path, own, ret, e);
}

int verb_spec_check(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_spec_ struct spec *s = NULL;
    int own;

    (void)argc;
    if (read_for_check(c, argv[0], &s, &own, &e)) {
        return cli_fail_as(c, e.code == ERR_IO ? CLI_COULD_NOT : CLI_USAGE, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:b,s:O}", "ok", 1, "spec", s->json));
    }
    cli_say(c, "%s: ok: job \"%s\", image %s, %zu dataset%s, %zu output file%s", argv[0], s->name,
            s->image, s->n_datasets, s->n_datasets == 1 ? "" : "s", s->n_files,
            s->n_files == 1 ? "" : "s");
    return CLI_OK;
}

int verb_spec_schema(struct cli *c, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    fputs(spec_json_schema(), c->out);
    return CLI_OK;
}

int verb_spec_digest(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_spec_ struct spec *s = NULL;
    _cleanup_buf_ struct buf text = BUF_INIT(SPEC_YAML_MAX_BYTES + 1);
    int own;

    (void)argc;
    if (read_for_check(c, argv[0], &s, &own, &e) ||
        file_read(argv[0], SPEC_YAML_MAX_BYTES, 0, &text, &e)) {
        return cli_fail_as(c, e.code == ERR_IO ? CLI_COULD_NOT : CLI_USAGE, &e);
    }
    if (!own) {
        cli_note(c, "no identity key: the digest is that of a throw-away recipient");
    }
    if (!strstr((char *)text.p, "nonce")) {
        cli_note(c, "no metadata.nonce: every run is a new job with a digest of its own");
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:s}", "digest", s->digest_hex, "job", s->job_id));
    }
    cli_say(c, "%s  %s", s->digest_hex, s->job_id);
    return CLI_OK;
}
