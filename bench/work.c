#include "bench/work.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "common/keybox.h"
#include "common/seal.h"
#include "svc-kbs/grant.h"
#include "svc-kbs/owner.h"

#define IMAGE "sha256:abababababababababababababababababababababababababababababababab"
#define DATASET_BYTES 4096

static void command(struct bus *b, json_t *payload, const struct jkey *by)
{
    _cleanup_free_ char *jws = NULL;
    Coffer__V1__OwnerCommand c = COFFER__V1__OWNER_COMMAND__INIT;
    Coffer__V1__Reply *r = NULL;

    MUST(jws_sign_json(by, OWNER_JWS_TYP, 1, payload, &jws, e));
    json_decref(payload);
    c.command_jws = jws;
    for (int tries = 0; tries < 600 && !r; tries++) { /* the KBS may still be starting */
        struct err e = {0};
        if (bus_request(b, SUBJ_OWNER_COMMAND, "", &c.base, 5000, &r, &e) < 0) {
            r = NULL;
            usleep(100000);
        }
    }
    if (!r || r->body_case != COFFER__V1__REPLY__BODY_OWNER) {
        bench_fail("owner command", r && r->body_case == COFFER__V1__REPLY__BODY_REFUSAL
                                        ? r->refusal->message
                                        : "no answer");
    }
    coffer__v1__reply__free_unpacked(r, NULL);
}

static json_t *key_box(const struct jkey *to, const char *id, const struct secret *key)
{
    _cleanup_free_ char *jwe = NULL;
    json_t *box = NULL;

    MUST(keybox_seal(to, id, key, &jwe, e));
    MUST(json_parse("jwe", BYTES_STR(jwe), 1u << 16, &box, e));
    return box;
}

static void seal_dataset(struct work *w, const struct stack *s, struct buf *prefix,
                         struct secret **key)
{
    struct seal_header h = {0};
    _cleanup_free_ char *plain = stack_path(s, "plain");
    char text[DATASET_BYTES];

    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char)('a' + i * i % 26);
    }
    MUST(
        seal_dataset_header_new("patients", "file", "AES-256-GCM", 4096, w->owner, prefix, key, e));
    MUST(seal_header_parse(buf_bytes(prefix), &h, e));
    snprintf(w->dataset, sizeof(w->dataset), "%s", h.id);
    seal_header_done(&h);
    _cleanup_free_ char *path = xasprintf("%s/store/datasets/%s.coffer", s->dir, w->dataset);
    _cleanup_close_ int in = open(plain, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    _cleanup_close_ int out = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (in < 0 || out < 0 || write(in, text, sizeof(text)) != sizeof(text) ||
        lseek(in, 0, SEEK_SET) < 0) {
        bench_fail(path, strerror(errno));
    }
    MUST(seal_fd(prefix, *key, in, out, NULL, e));
}

static void put_dataset(struct work *w, const struct stack *s, struct bus *b)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(1u << 16);
    _cleanup_secret_ struct secret *key = NULL;
    json_int_t now = (json_int_t)time(NULL);

    seal_dataset(w, s, &prefix, &key);
    _cleanup_free_ char *header = b64url_encode(prefix.p, prefix.n);
    command(b,
            json_pack("{s:i,s:s,s:I,s:s,s:s,s:o}", "v", 1, "cmd", "put-secret", "iat", now, "kind",
                      "dataset", "header", header, "jwe", key_box(s->kbs_seal, w->dataset, key)),
            w->owner);
    uint8_t raw[16];
    random_bytes(raw, sizeof(raw));
    _cleanup_free_ char *id = b64url_encode(raw, sizeof(raw)), *grant = NULL;
    _cleanup_json_ json_t *g =
        json_pack("{s:i,s:s,s:s,s:[s],s:[s],s:{s:[s],s:s},s:{s:i,s:i,s:i,s:i},s:[],s:I,s:I}", "v",
                  1, "id", id, "secret", w->dataset, "consumers", jkey_thumbprint(w->consumer),
                  "images", IMAGE, "tee", "types", "sample", "status", "affirming", "gate",
                  "holdAt", 90, "rejectAt", 95, "maxVerbatimPercent", 50, "maxBytes", 65536,
                  "recipients", "nbf", now - 10, "exp", now + 86400);
    MUST(jws_sign_json(w->owner, GRANT_JWS_TYP, 1, g, &grant, e));
    command(
        b,
        json_pack("{s:i,s:s,s:I,s:s}", "v", 1, "cmd", "put-grant", "iat", now, "grant_jws", grant),
        w->owner);
}

static void put_image_key(struct work *w, const struct stack *s, struct bus *b)
{
    _cleanup_secret_ struct secret *key = secret_random(32);
    uint8_t raw[16];

    random_bytes(raw, sizeof(raw));
    _cleanup_free_ char *salt = b64url_encode(raw, sizeof(raw));
    json_t *d = json_pack("{s:s,s:s,s:o,s:s,s:i}", "kind", "image-key", "name", "analysis", "owner",
                          jkey_public_jwk(w->consumer), "salt", salt, "v", 1);
    MUST(image_key_id(d, w->image_key, NULL, e));
    command(b,
            json_pack("{s:i,s:s,s:I,s:s,s:o,s:o}", "v", 1, "cmd", "put-secret", "iat",
                      (json_int_t)time(NULL), "kind", "image-key", "descriptor", d, "jwe",
                      key_box(s->kbs_seal, w->image_key, key)),
            w->consumer);
}

void work_prepare(struct work *w, const struct stack *s, struct bus *client)
{
    memset(w, 0, sizeof(*w));
    MUST(jkey_generate(&w->consumer, e));
    MUST(jkey_generate(&w->owner, e));
    put_dataset(w, s, client);
    put_image_key(w, s, client);
}

static json_t *spec_json(const struct work *w, const char *nonce)
{
    return json_pack(
        "{s:s,s:s,s:{s:s,s:s},s:{s:s,s:b,s:[s],s:[s,s],s:{s:s},s:s},s:[{s:s,s:s}],s:{s:s,s:[s]},"
        "s:{s:i,s:i,s:i,s:i,s:i,s:b,s:s,s:i,s:b},s:i,s:i,s:s,s:{s:s,s:i,s:[{s:s,s:s}],s:[o]},s:{s:"
        "i,s:i,s:i}}",
        "apiVersion", "coffer/v1", "kind", "Job", "metadata", "name", "mean", "nonce", nonce,
        "workload", "image", IMAGE, "encrypted", 1, "imageKeys", w->image_key, "args", "--group-by",
        "region", "env", "LANG", "C.UTF-8", "workdir", "/", "datasets", "id", w->dataset, "mount",
        "/data/patients", "tee", "mode", "required", "types", "sample", "resources", "cpuMillis",
        1000, "memoryBytes", 268435456, "pids", 64, "tmpBytes", 0, "scratchBytes", 0, "lockMemory",
        0, "hugepages", "none", "numaNode", -1, "cpuPinning", 0, "timeoutMs", 600000, "attempts", 2,
        "network", "none", "output", "path", "/output", "maxBytes", 65536, "files", "path",
        "mean.csv", "type", "text/csv", "recipients", jkey_public_jwk(w->consumer), "gate",
        "holdAt", 90, "rejectAt", 95, "maxVerbatimPercent", 50);
}

struct job_ticket *work_sign(const struct work *w, size_t n)
{
    struct job_ticket *t = xcalloc(n, sizeof(*t));

    for (size_t i = 0; i < n; i++) {
        uint8_t raw[18];
        random_bytes(raw, sizeof(raw));
        _cleanup_free_ char *nonce = b64url_encode(raw, sizeof(raw));
        _cleanup_json_ json_t *j = spec_json(w, nonce);
        _cleanup_spec_ struct spec *spec = NULL;
        MUST(spec_from_json(j, &spec, e));
        MUST(spec_sign(spec, w->consumer, &t[i].spec_jws, e));
        snprintf(t[i].job, sizeof(t[i].job), "%s", spec->job_id);
    }
    return t;
}

void work_tickets_free(struct job_ticket *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(t[i].spec_jws);
    }
    free(t);
}

void work_done(struct work *w)
{
    jkey_free(w->consumer);
    jkey_free(w->owner);
}
