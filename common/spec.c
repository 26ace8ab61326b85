#include "common/spec.h"

#include <openssl/sha.h>

#include "common/spec_fields.h"

/* The check of a normal form against the table. It recurses as deep as the table does. */

struct check {
    const struct spec_source *src;
    struct spec_path path;
    struct err *e;
};

static const char *name_of(const struct check *c, const struct field *f)
{
    return c->src->file ? f->name : f->key;
}

/* `found` at the current path is not as expected. */
static int bad(const struct check *c, const char *expected, const json_t *found)
{
    const struct spec_loc *l = c->src->file ? spec_source_find(c->src, c->path.s) : NULL;
    char shown[SPEC_SHOWN_MAX];

    if (l && l->shown) {
        return spec_bad(c->src, c->path.s, l->line, expected, c->e, "%s", l->shown);
    }
    spec_show_json(found, shown);
    return spec_bad(c->src, c->path.s, 0, expected, c->e, "%s", shown);
}

static int bad_kind(const struct check *c, const struct field *f, const json_t *found)
{
    char expected[256];

    spec_expected(f, c->src->file != NULL, expected, sizeof(expected));
    return bad(c, expected, found);
}

/* Line breaks and tabs are fine in arguments and variables (`multi` set), and nowhere else. */
static int has_control(const char *s, size_t n, int multi)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s[i];
        if (multi && (b == '\n' || b == '\t')) {
            continue;
        }
        /* U+0080..U+009F, too, are control characters. */
        if (b < 0x20 || b == 0x7f || (b == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] < 0xa0)) {
            return 1;
        }
    }
    return 0;
}

static int check_string(const struct check *c, const struct field *f, const json_t *j)
{
    if (!json_is_string(j)) {
        return bad_kind(c, f, j);
    }
    const char *s = json_string_value(j);
    size_t n = json_string_length(j);
    if ((int64_t)n < f->min || (int64_t)n > f->max) {
        char expected[64];
        snprintf(expected, sizeof(expected), "%lld..%lld bytes", (long long)f->min,
                 (long long)f->max);
        return spec_bad(c->src, c->path.s, 0, expected, c->e, "%zu bytes", n);
    }
    if (has_control(s, n, f->shape == SHAPE_TEXT)) {
        return bad(c, "text without control characters", j);
    }
    const char *want = spec_shapes[f->shape].check(s);
    return want ? bad(c, want, j) : 0;
}

static int check_enum(const struct check *c, const struct field *f, const json_t *j)
{
    const char *s = json_string_value(j);
    char expected[256];

    if (!s || strlen(s) != json_string_length(j)) {
        return bad_kind(c, f, j);
    }
    for (size_t i = 0; f->choices[i]; i++) {
        if (streq(f->choices[i], s)) {
            return 0;
        }
    }
    const char *near = spec_nearest(f->choices, s);
    spec_expected(f, 0, expected, sizeof(expected));
    if (near && f->choices[1]) {
        size_t n = strlen(expected);
        snprintf(expected + n, sizeof(expected) - n, " (did you mean %s?)", near);
    }
    return bad(c, expected, j);
}

static int check_jwk(const struct check *c, const struct field *f, const json_t *j)
{
    static const char *const members[] = {"crv", "kty", "x", "y"};
    _cleanup_jkey_ struct jkey *k = NULL;
    char shown[SPEC_SHOWN_MAX];

    if (!json_is_object(j)) {
        return bad_kind(c, f, j);
    }
    if (json_object_get(j, "d")) {
        return spec_bad(c->src, c->path.s, 0, "a public P-256 JWK", c->e, "a private key");
    }
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const json_t *m = json_object_get(j, members[i]);
        const char *want = i == 0 ? "P-256" : i == 1 ? "EC" : NULL;
        if (json_is_string(m) && (!want || streq(json_string_value(m), want))) {
            continue;
        }
        struct check sub = *c;
        spec_path_push(&sub.path, members[i]);
        return bad(&sub, want ? want : "a string", m);
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)j, key, v)
    {
        if (!streq(key, "crv") && !streq(key, "kty") && !streq(key, "x") && !streq(key, "y")) {
            struct check sub = *c;
            spec_path_push(&sub.path, key);
            spec_show(key, strlen(key), 1, shown);
            return spec_bad(c->src, sub.path.s, 0, "only crv, kty, x and y", c->e, "%s", shown);
        }
    }
    if (jkey_from_jwk(j, &k, NULL) < 0) {
        return spec_bad(c->src, c->path.s, 0, "a point on P-256", c->e, "x and y that are not");
    }
    /* One key has one spelling, or one job would have several ids. */
    _cleanup_json_ json_t *again = jkey_public_jwk(k);
    if (!json_equal(again, j)) {
        return spec_bad(c->src, c->path.s, 0, "x and y in strict base64url", c->e,
                        "another spelling of the key");
    }
    return 0;
}

static int check_value(struct check *c, const struct field *f, const json_t *j);

static int check_object(struct check *c, const struct field *f, const json_t *j)
{
    const char *key;
    json_t *v;

    if (!json_is_object(j)) {
        return bad_kind(c, f, j);
    }
    json_object_foreach((json_t *)j, key, v)
    {
        size_t i = 0;
        while (i < f->n_sub && !streq(f->sub[i].key, key)) {
            i++;
        }
        if (i == f->n_sub) {
            spec_path_push(&c->path, key);
            return spec_bad_member(c->src, f, c->path.s, 0, key, strlen(key), c->e);
        }
    }
    for (size_t i = 0; i < f->n_sub; i++) {
        size_t at = spec_path_push(&c->path, name_of(c, &f->sub[i]));
        if (check_value(c, &f->sub[i], json_object_get(j, f->sub[i].key)) < 0) {
            return -1;
        }
        spec_path_pop(&c->path, at);
    }
    return 0;
}

static int check_map(struct check *c, const struct field *f, const json_t *j)
{
    char expected[64];
    const char *key;
    size_t key_len;
    json_t *v;

    if (!json_is_object(j)) {
        return bad_kind(c, f, j);
    }
    if ((int64_t)json_object_size(j) > f->max) {
        snprintf(expected, sizeof(expected), "at most %lld members", (long long)f->max);
        return spec_bad(c->src, c->path.s, 0, expected, c->e, "more");
    }
    json_object_keylen_foreach((json_t *)j, key, key_len, v)
    {
        size_t at = spec_path_push(&c->path, key);
        const char *want =
            strlen(key) == key_len ? spec_shapes[SHAPE_ENV_NAME].check(key) : "a name without NUL";
        if (!want && key_len > 128) {
            want = "a name of at most 128 bytes";
        }
        if (want) {
            char shown[SPEC_SHOWN_MAX];
            spec_show(key, key_len, 1, shown);
            return spec_bad(c->src, c->path.s, 0, want, c->e, "%s", shown);
        }
        if (check_value(c, f->sub, v) < 0) {
            return -1;
        }
        spec_path_pop(&c->path, at);
    }
    return 0;
}

static int check_list(struct check *c, const struct field *f, const json_t *j)
{
    char expected[64];
    int64_t n = (int64_t)json_array_size(j);

    if (!json_is_array(j)) {
        return bad_kind(c, f, j);
    }
    if (n > f->max) {
        snprintf(expected, sizeof(expected), "at most %lld items", (long long)f->max);
        return spec_bad(c->src, c->path.s, 0, expected, c->e, "more");
    }
    if (n < f->min) {
        snprintf(expected, sizeof(expected), "at least %lld item", (long long)f->min);
        return spec_bad(c->src, c->path.s, 0, expected, c->e, "none");
    }
    for (size_t i = 0; i < (size_t)n; i++) {
        size_t at = spec_path_push_index(&c->path, i);
        if (check_value(c, f->sub, json_array_get(j, i)) < 0) {
            return -1;
        }
        spec_path_pop(&c->path, at);
    }
    return 0;
}

static int check_value(struct check *c, const struct field *f, const json_t *j)
{
    switch (f->kind) {
    case F_OBJECT:
        return check_object(c, f, j);
    case F_LIST:
        return check_list(c, f, j);
    case F_MAP:
        return check_map(c, f, j);
    case F_STRING:
        return check_string(c, f, j);
    case F_ENUM:
        return check_enum(c, f, j);
    case F_JWK:
        return check_jwk(c, f, j);
    case F_BOOL:
        return json_is_boolean(j) ? 0 : bad_kind(c, f, j);
    case F_INT:
    case F_SIZE:
    case F_DURATION:
    case F_CPU:
    case F_NODE:
        if (!json_is_integer(j) || json_integer_value(j) < f->min ||
            json_integer_value(j) > f->max) {
            return bad_kind(c, f, j);
        }
        return 0;
    }
    return err_set(c->e, ERR_INTERNAL, "spec: field of an unknown kind");
}

/* Out of checked JSON: whatever is asked for is there. */

static const json_t *get(const json_t *o, const char *key)
{
    return json_object_get(o, key);
}

static char *str_at(const json_t *o, const char *key)
{
    return xstrdup(json_string_value(get(o, key)));
}

static int64_t int_at(const json_t *o, const char *key)
{
    return json_integer_value(get(o, key));
}

static char **strs_at(const json_t *o, const char *key, size_t *ret_n)
{
    const json_t *a = get(o, key);
    size_t n = json_array_size(a);
    char **v = xcalloc(n, sizeof(*v));

    for (size_t i = 0; i < n; i++) {
        v[i] = xstrdup(json_string_value(json_array_get(a, i)));
    }
    *ret_n = n;
    return v;
}

static int compare_env(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    size_t nx = strcspn(x, "="), ny = strcspn(y, "=");
    int d = memcmp(x, y, nx < ny ? nx : ny);

    return d ? d : (nx > ny) - (nx < ny);
}

static void fill_workload(struct spec *s, const json_t *w)
{
    const json_t *env = get(w, "env");
    const char *key;
    json_t *v;

    s->image = str_at(w, "image");
    s->encrypted = json_is_true(get(w, "encrypted"));
    s->image_keys = strs_at(w, "imageKeys", &s->n_image_keys);
    s->args = strs_at(w, "args", &s->n_args);
    s->env = xcalloc(json_object_size(env), sizeof(*s->env));
    json_object_foreach((json_t *)env, key, v)
    {
        s->env[s->n_env++] = xasprintf("%s=%s", key, json_string_value(v));
    }
    qsort(s->env, s->n_env, sizeof(*s->env), compare_env);
    s->workdir = str_at(w, "workdir");
}

static void fill_datasets(struct spec *s, const json_t *a)
{
    s->n_datasets = json_array_size(a);
    s->datasets = xcalloc(s->n_datasets, sizeof(*s->datasets));
    for (size_t i = 0; i < s->n_datasets; i++) {
        const json_t *d = json_array_get(a, i);
        s->datasets[i] = (struct spec_dataset){str_at(d, "id"), str_at(d, "mount")};
    }
}

static void fill_tee(struct spec *s, const json_t *t)
{
    const char *mode = json_string_value(get(t, "mode"));

    s->tee_mode = streq(mode, "none")        ? TEE_NONE
                  : streq(mode, "preferred") ? TEE_PREFERRED
                                             : TEE_REQUIRED;
    s->tee_types = strs_at(t, "types", &s->n_tee_types);
}

static void fill_vm(struct spec *s, const json_t *r)
{
    const char *huge = json_string_value(get(r, "hugepages"));

    s->scratch_bytes = int_at(r, "scratchBytes");
    s->lock_memory = json_is_true(get(r, "lockMemory"));
    s->hugepages = streq(huge, "2MiB")   ? SPEC_HUGE_2M
                   : streq(huge, "1GiB") ? SPEC_HUGE_1G
                                         : SPEC_HUGE_NONE;
    s->numa_node = int_at(r, "numaNode");
    s->cpu_pinning = json_is_true(get(r, "cpuPinning"));
}

static int fill_output(struct spec *s, const json_t *o, struct err *e)
{
    const json_t *files = get(o, "files"), *to = get(o, "recipients");

    s->output_path = str_at(o, "path");
    s->output_max_bytes = int_at(o, "maxBytes");
    s->n_files = json_array_size(files);
    s->files = xcalloc(s->n_files, sizeof(*s->files));
    for (size_t i = 0; i < s->n_files; i++) {
        const json_t *f = json_array_get(files, i);
        s->files[i] = (struct spec_file){str_at(f, "path"), str_at(f, "type")};
    }
    s->recipients = xcalloc(json_array_size(to), sizeof(struct jkey *));
    for (size_t i = 0; i < json_array_size(to); i++) {
        if (jkey_from_jwk(json_array_get(to, i), &s->recipients[i], e) < 0) {
            return err_wrap(e, "spec.output.recipients[%zu]", i);
        }
        s->n_recipients++;
    }
    return 0;
}

static int fill(struct spec *s, struct err *e)
{
    const json_t *r = get(s->json, "resources"), *g = get(s->json, "gate");

    s->name = str_at(get(s->json, "metadata"), "name");
    fill_workload(s, get(s->json, "workload"));
    fill_datasets(s, get(s->json, "datasets"));
    fill_tee(s, get(s->json, "tee"));
    s->cpu_millis = int_at(r, "cpuMillis");
    s->memory_bytes = int_at(r, "memoryBytes");
    s->pids = int_at(r, "pids");
    s->tmp_bytes = int_at(r, "tmpBytes");
    fill_vm(s, r);
    s->timeout_ms = int_at(s->json, "timeoutMs");
    s->attempts = int_at(s->json, "attempts");
    s->gate_hold_at = int_at(g, "holdAt");
    s->gate_reject_at = int_at(g, "rejectAt");
    s->gate_max_verbatim_percent = int_at(g, "maxVerbatimPercent");
    return fill_output(s, get(s->json, "output"), e);
}

/* Rules between fields. */

/* Whether one of two clean paths is the other or below it. */
static int overlap(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b), n = na < nb ? na : nb;

    if (memcmp(a, b, n) != 0) {
        return 0;
    }
    return na == nb || (na < nb ? b[n] : a[n]) == '/';
}

static int check_paths(const struct spec *s, const struct spec_source *src, struct err *e)
{
    char path[64], expected[256], shown[SPEC_SHOWN_MAX], other[SPEC_SHOWN_MAX];

    for (size_t i = 0; i < s->n_datasets; i++) {
        spec_show(s->datasets[i].mount, strlen(s->datasets[i].mount), 1, shown);
        snprintf(path, sizeof(path), "datasets[%zu].mount", i);
        if (overlap(s->datasets[i].mount, s->output_path)) {
            spec_show(s->output_path, strlen(s->output_path), 0, other);
            snprintf(expected, sizeof(expected), "a path apart from output.path %.80s", other);
            return spec_bad(src, path, 0, expected, e, "%s", shown);
        }
        for (size_t k = 0; k < i; k++) {
            if (overlap(s->datasets[i].mount, s->datasets[k].mount)) {
                spec_show(s->datasets[k].mount, strlen(s->datasets[k].mount), 0, other);
                snprintf(expected, sizeof(expected), "a path apart from datasets[%zu].mount %.80s",
                         k, other);
                return spec_bad(src, path, 0, expected, e, "%s", shown);
            }
            if (streq(s->datasets[i].id, s->datasets[k].id)) {
                snprintf(path, sizeof(path), "datasets[%zu].id", i);
                snprintf(expected, sizeof(expected), "an id other than that of datasets[%zu]", k);
                spec_show(s->datasets[i].id, strlen(s->datasets[i].id), 1, shown);
                return spec_bad(src, path, 0, expected, e, "%s", shown);
            }
        }
    }
    for (size_t i = 0; i < s->n_files; i++) {
        for (size_t k = 0; k < i; k++) {
            if (overlap(s->files[i].path, s->files[k].path)) {
                snprintf(path, sizeof(path), "output.files[%zu].path", i);
                spec_show(s->files[k].path, strlen(s->files[k].path), 0, other);
                snprintf(expected, sizeof(expected),
                         "a path apart from output.files[%zu].path %.80s", k, other);
                spec_show(s->files[i].path, strlen(s->files[i].path), 1, shown);
                return spec_bad(src, path, 0, expected, e, "%s", shown);
            }
        }
    }
    return 0;
}

static int check_scratch(const struct spec *s, const struct spec_source *src, struct err *e)
{
    const char *clause = src->file ? "resources.scratch" : "resources.scratchBytes";
    const struct spec_loc *l = src->file ? spec_source_find(src, clause) : NULL;
    char path[64], number[32], shown[SPEC_SHOWN_MAX];

    if (s->scratch_bytes && s->scratch_bytes < SPEC_SCRATCH_MIN_BYTES) {
        snprintf(number, sizeof(number), "%lld", (long long)s->scratch_bytes);
        return spec_bad(src, clause, 0,
                        src->file ? "0, or at least 16MiB" : "0, or at least 16777216", e, "%s",
                        l && l->shown ? l->shown : number);
    }
    for (size_t i = 0; s->scratch_bytes && i <= s->n_datasets; i++) {
        const char *dir = i < s->n_datasets ? s->datasets[i].mount : s->output_path;
        if (overlap(dir, SPEC_SCRATCH_DIR)) {
            snprintf(path, sizeof(path), i < s->n_datasets ? "datasets[%zu].mount" : "output.path",
                     i);
            spec_show(dir, strlen(dir), 1, shown);
            return spec_bad(src, path, 0,
                            "a path apart from " SPEC_SCRATCH_DIR ", which "
                            "resources.scratch asks for",
                            e, "%s", shown);
        }
    }
    return 0;
}

static int check_twice(char *const *v, size_t n, const char *list, const struct spec_source *src,
                       struct err *e)
{
    char path[64], shown[SPEC_SHOWN_MAX];

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) {
            if (streq(v[i], v[k])) {
                snprintf(path, sizeof(path), "%s[%zu]", list, i);
                spec_show(v[i], strlen(v[i]), 1, shown);
                return spec_bad(src, path, 0, "each item once", e, "%s again", shown);
            }
        }
    }
    return 0;
}

static int check_recipients(const struct spec *s, const struct spec_source *src, struct err *e)
{
    char path[64];

    for (size_t i = 0; i < s->n_recipients; i++) {
        for (size_t k = 0; k < i; k++) {
            const char *t = jkey_thumbprint(s->recipients[i]);
            if (streq(t, jkey_thumbprint(s->recipients[k]))) {
                snprintf(path, sizeof(path), "output.recipients[%zu]", i);
                return spec_bad(src, path, 0, "each key once", e, "key %s again", t);
            }
        }
    }
    return 0;
}

static int check_cross(const struct spec *s, const struct spec_source *src, struct err *e)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_args; i++) {
        n += strlen(s->args[i]) + 1;
    }
    for (size_t i = 0; i < s->n_env; i++) {
        n += strlen(s->env[i]) + 1;
    }
    if (n > SPEC_ENV_ARGS_MAX_BYTES) {
        return spec_bad(src, "workload", 0, "at most 65536 bytes of args and env together", e,
                        "%zu bytes", n);
    }
    if (s->n_tee_types == 0 && s->tee_mode != TEE_NONE) {
        return spec_bad(src, "tee.types", 0, "at least 1 item unless mode is none", e, "none");
    }
    if (s->gate_hold_at > s->gate_reject_at) {
        char expected[64];
        snprintf(expected, sizeof(expected), "at most rejectAt, which is %lld",
                 (long long)s->gate_reject_at);
        return spec_bad(src, "gate.holdAt", 0, expected, e, "%lld", (long long)s->gate_hold_at);
    }
    if (check_paths(s, src, e) < 0 || check_scratch(s, src, e) < 0 ||
        check_twice(s->image_keys, s->n_image_keys, "workload.imageKeys", src, e) < 0 ||
        check_twice(s->tee_types, s->n_tee_types, "tee.types", src, e) < 0) {
        return -1;
    }
    return check_recipients(s, src, e);
}

static int set_ids(struct spec *s, const struct spec_source *src, struct err *e)
{
    _cleanup_free_ char *canonical = NULL;

    if (jcs_encode(s->json, &canonical, e) < 0) {
        return err_wrap(e, "spec");
    }
    size_t n = strlen(canonical);
    if (n > SPEC_CANONICAL_MAX_BYTES) {
        char expected[64];
        snprintf(expected, sizeof(expected), "at most %u bytes in canonical form",
                 SPEC_CANONICAL_MAX_BYTES);
        return spec_bad(src, "", 0, expected, e, "%zu bytes", n);
    }
    SHA256((const unsigned char *)canonical, n, s->digest);
    _cleanup_free_ char *hex = hex_encode(s->digest, sizeof(s->digest));
    _cleanup_free_ char *b32 = b32_encode_lower(s->digest, sizeof(s->digest));
    snprintf(s->digest_hex, sizeof(s->digest_hex), "%s", hex);
    snprintf(s->job_id, sizeof(s->job_id), "j%.26s", b32);
    return 0;
}

int spec_from_normal(const json_t *normal, const struct spec_source *src, struct spec **ret,
                     struct err *e)
{
    struct check c = {.src = src, .e = e};
    _cleanup_spec_ struct spec *s = NULL;

    if (check_object(&c, &spec_root, normal) < 0) {
        return -1;
    }
    s = xcalloc(1, sizeof(*s));
    s->json = json_deep_copy(normal);
    if (!s->json) {
        return err_set(e, ERR_INTERNAL, "spec: cannot copy the normal form");
    }
    if (fill(s, e) < 0 || check_cross(s, src, e) < 0 || set_ids(s, src, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(s);
    return 0;
}

int spec_from_json(const json_t *normal, struct spec **ret, struct err *e)
{
    const struct spec_source src = {0};

    return spec_from_normal(normal, &src, ret, e);
}

static void free_strs(char **v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(v[i]);
    }
    free(v);
}

void spec_free(struct spec *s)
{
    if (!s) {
        return;
    }
    json_decref(s->json);
    free(s->name);
    free(s->image);
    free_strs(s->image_keys, s->n_image_keys);
    free_strs(s->args, s->n_args);
    free_strs(s->env, s->n_env);
    free(s->workdir);
    for (size_t i = 0; i < s->n_datasets; i++) {
        free(s->datasets[i].id);
        free(s->datasets[i].mount);
    }
    free(s->datasets);
    free_strs(s->tee_types, s->n_tee_types);
    free(s->output_path);
    for (size_t i = 0; i < s->n_files; i++) {
        free(s->files[i].path);
        free(s->files[i].type);
    }
    free(s->files);
    for (size_t i = 0; i < s->n_recipients; i++) {
        jkey_free(s->recipients[i]);
    }
    free(s->recipients);
    free(s);
}

int spec_sign(const struct spec *s, const struct jkey *consumer, char **ret_jws, struct err *e)
{
    _cleanup_free_ char *jws = NULL;

    if (jws_sign_json(consumer, SPEC_JWS_TYP, 1, s->json, &jws, e) < 0) {
        return err_wrap(e, "sign spec");
    }
    if (strlen(jws) > SPEC_JWS_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "sign spec: expected at most %u bytes, found %zu",
                       SPEC_JWS_MAX_BYTES, strlen(jws));
    }
    *ret_jws = TAKE_PTR(jws);
    return 0;
}

int spec_verify(const char *jws, struct spec **ret, struct jkey **ret_consumer, struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(SPEC_JWS_MAX_BYTES);
    _cleanup_jkey_ struct jkey *signer = NULL;
    _cleanup_json_ json_t *normal = NULL;

    if (jws_verify_embedded(jws, SPEC_JWS_TYP, SPEC_JWS_MAX_BYTES, &payload, &signer, e) < 0) {
        return err_wrap(e, "signed spec");
    }
    if (json_parse("spec", buf_bytes(&payload), SPEC_JWS_MAX_BYTES, &normal, e) < 0 ||
        spec_from_json(normal, ret, e) < 0) {
        return -1;
    }
    *ret_consumer = TAKE_PTR(signer);
    return 0;
}

int job_id_valid(const char *id)
{
    return id && id[0] == 'j' && strlen(id) == JOB_ID_LEN &&
           strspn(id + 1, "abcdefghijklmnopqrstuvwxyz234567") == JOB_ID_LEN - 1;
}
