/* The released keys, out of the release's plaintext. Parsed in the worker (are they all here?) and
 * again in the runner (which uses them). */
#include "svc-worker/worker.h"

static int parse_key(const json_t *j, struct worker_key *ret, struct err *e)
{
    static const char *const keys[] = {"id", "kind", "key", NULL};
    const char *id, *kind, *key;
    _cleanup_buf_ struct buf raw = BUF_INIT(SEAL_KEY_BYTES);

    if (json_only_keys(j, "release.keys", keys, e) ||
        json_get_str(j, "release.keys", "id", &id, e) ||
        json_get_str(j, "release.keys", "kind", &kind, e) ||
        json_get_str(j, "release.keys", "key", &key, e)) {
        return -1;
    }
    ret->is_dataset = streq(kind, "dataset");
    if (!ret->is_dataset && !streq(kind, "image-key")) {
        return err_refuse(e, ERR_INVALID, "release.keys.kind", "dataset or image-key", "%.20s",
                          kind);
    }
    if (strlen(id) > DATASET_ID_MAX) {
        return err_refuse(e, ERR_INVALID, "release.keys.id", "at most 96 characters", "%zu",
                          strlen(id));
    }
    if (b64url_decode(key, strlen(key), &raw, e) || raw.n != SEAL_KEY_BYTES) {
        return err_refuse(e, ERR_INVALID, "release.keys.key", "32 bytes in base64url",
                          "something else for %s", id);
    }
    snprintf(ret->id, sizeof(ret->id), "%s", id);
    ret->key = secret_from(raw.p, raw.n);
    return 0;
}

static int parse_keys(const json_t *list, struct worker_keys *k, struct err *e)
{
    size_t i;
    json_t *v;

    if (json_array_size(list) > WORKER_MAX_KEYS) {
        return err_refuse(e, ERR_TOO_LARGE, "release.keys", "at most 48", "%zu",
                          json_array_size(list));
    }
    json_array_foreach(list, i, v)
    {
        if (parse_key(v, &k->v[i], e)) {
            return -1;
        }
        k->n = i + 1;
    }
    return 0;
}

static int check_complete(const struct worker_keys *k, const struct spec *spec, struct err *e)
{
    for (size_t i = 0; i < spec->n_datasets; i++) {
        if (!worker_keys_find(k, spec->datasets[i].id, 1)) {
            return err_refuse(e, ERR_NOT_FOUND, "release.keys", spec->datasets[i].id,
                              "no such key");
        }
    }
    for (size_t i = 0; i < spec->n_image_keys; i++) {
        if (!worker_keys_find(k, spec->image_keys[i], 0)) {
            return err_refuse(e, ERR_NOT_FOUND, "release.keys", spec->image_keys[i], "no such key");
        }
    }
    return 0;
}

static int fill(const json_t *j, const struct worker_launch *l, struct worker_keys *k,
                struct err *e)
{
    static const char *const keys[] = {"v", "job", "attempt", "keys", "gate", "ear", NULL};
    const char *job, *ear;
    json_t *list, *gate;
    int64_t v, attempt;

    if (json_only_keys(j, "release", keys, e) || json_get_int(j, "release", "v", 1, 1, &v, e) ||
        json_get_str(j, "release", "job", &job, e) ||
        json_get_int(j, "release", "attempt", 1, UINT32_MAX, &attempt, e) ||
        json_get_arr(j, "release", "keys", &list, e) ||
        json_get_obj(j, "release", "gate", &gate, e) ||
        json_get_str(j, "release", "ear", &ear, e)) {
        return -1;
    }
    if (!streq(job, l->pb->job)) {
        return err_refuse(e, ERR_DENIED, "release.job", l->pb->job, "%.40s", job);
    }
    if (attempt != l->pb->attempt) {
        char expected[24];
        snprintf(expected, sizeof(expected), "%u", l->pb->attempt);
        return err_refuse(e, ERR_STALE, "release.attempt", expected, "%lld", (long long)attempt);
    }
    if (strlen(ear) > RESULT_EAR_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "release.ear", "at most 131072 characters", "%zu",
                          strlen(ear));
    }
    k->ear = xstrdup(ear);
    return jkey_from_jwk(gate, &k->gate, e) || parse_keys(list, k, e) ||
                   check_complete(k, l->spec, e)
               ? -1
               : 0;
}

/* The parser's own copies of the keys: strings of the tree, wiped before it is freed. */
static void wipe_strings(json_t *j)
{
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(j, "keys"), i, v)
    {
        const char *s = json_string_value(json_object_get(v, "key"));
        if (s) {
            explicit_bzero((char *)(uintptr_t)s, strlen(s));
        }
    }
}

int worker_keys_parse(struct bytes plain, const struct worker_launch *l, struct worker_keys *ret,
                      struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    struct worker_keys k = {0};

    if (json_parse("release", plain, WORKER_RELEASE_MAX_BYTES, &j, e)) {
        return -1;
    }
    int rc = fill(j, l, &k, e);
    wipe_strings(j);
    if (rc) {
        worker_keys_done(&k);
        return -1;
    }
    *ret = k;
    return 0;
}

void worker_keys_done(struct worker_keys *k)
{
    for (size_t i = 0; i < ARRAY_LEN(k->v); i++) {
        secret_free(k->v[i].key);
    }
    jkey_free(k->gate);
    free(k->ear);
    memset(k, 0, sizeof(*k));
}

const struct secret *worker_keys_find(const struct worker_keys *k, const char *id, int is_dataset)
{
    for (size_t i = 0; i < k->n; i++) {
        if (k->v[i].is_dataset == is_dataset && streq(k->v[i].id, id)) {
            return k->v[i].key;
        }
    }
    return NULL;
}
