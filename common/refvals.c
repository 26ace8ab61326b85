#include "common/refvals.h"

#include "common/fileio.h"

static const char top[] = "refvals";

static int hex_text(const json_t *j, const char *what, uint8_t *out, size_t n, struct err *e)
{
    const char *hex = json_string_value(j);

    if (!hex || strlen(hex) != 2 * n || strspn(hex, "0123456789abcdef") != 2 * n) {
        return err_set(e, ERR_INVALID, "%s: expected %zu lower-case hexadecimal digits", what,
                       2 * n);
    }
    return hex_decode(hex, out, n, e);
}

static int get_hex(const json_t *o, const char *what, const char *key, uint8_t *out, size_t n,
                   struct err *e)
{
    char member[96];

    snprintf(member, sizeof(member), "%s.%s", what, key);
    return hex_text(json_object_get(o, key), member, out, n, e);
}

/* Shown to people: short, and without what could steer a terminal. */
static int get_text(const json_t *o, const char *what, const char *key, size_t max,
                    const char **ret, struct err *e)
{
    const char *s;

    if (json_get_str(o, what, key, &s, e)) {
        return -1;
    }
    size_t n = strlen(s);
    for (const char *c = s; *c; c++) {
        n = (uint8_t)*c < 0x20 || *c == 0x7f ? SIZE_MAX : n;
    }
    if (n > max) {
        return err_set(e, ERR_INVALID, "%s.%s: expected at most %zu printable characters", what,
                       key, max);
    }
    *ret = s;
    return 0;
}

static int get_list(const json_t *o, const char *what, const char *key, size_t max, json_t **ret,
                    struct err *e)
{
    if (json_get_arr(o, what, key, ret, e)) {
        return -1;
    }
    size_t n = json_array_size(*ret);
    return n <= max ? 0
                    : err_set(e, ERR_INVALID, "%s.%s: expected at most %zu, found %zu", what, key,
                              max, n);
}

/* ---- vtpm ---- */

static int parse_firmware(const json_t *vtpm, struct refvals_vtpm *v, struct err *e)
{
    static const char *const members[] = {"name", "sha256", "pcr0", NULL};
    static const char what[] = "refvals.vtpm.firmware";
    json_t *o, *list, *digest;
    const char *size;

    if (json_get_obj(vtpm, "refvals.vtpm", "firmware", &o, e) ||
        json_only_keys(o, what, members, e) ||
        get_text(o, what, "name", REFVALS_TEXT_MAX, &v->firmware, e) ||
        get_hex(o, what, "sha256", v->firmware_sha256, 32, e) ||
        json_get_obj(o, what, "pcr0", &list, e)) {
        return -1;
    }
    size_t n = json_object_size(list);
    if (n < 1 || n > REFVALS_MAX_PCR0) {
        return err_set(e, ERR_INVALID, "%s.pcr0: expected 1 to %d sizes, found %zu", what,
                       REFVALS_MAX_PCR0, n);
    }
    v->pcr0 = xcalloc(n, sizeof(*v->pcr0));
    json_object_foreach(list, size, digest)
    {
        struct refvals_pcr0 *p = &v->pcr0[v->n_pcr0];
        size_t mib = strspn(size, "0123456789");
        size_t cpus = size[mib] == '/' ? strspn(size + mib + 1, "0123456789") : 0;
        if (mib < 1 || mib > 8 || cpus < 1 || cpus > 4 || size[mib + 1 + cpus]) {
            return err_set(e, ERR_INVALID, "%s.pcr0: expected sizes such as \"1024/2\"", what);
        }
        if (hex_text(digest, "refvals.vtpm.firmware.pcr0", p->digest, 32, e)) {
            return -1;
        }
        p->size = size;
        v->n_pcr0++;
    }
    return 0;
}

static int parse_pcrs(const json_t *vtpm, struct refvals_vtpm *v, struct err *e)
{
    json_t *list, *digest;
    const char *key;

    if (json_get_obj(vtpm, "refvals.vtpm", "pcrs", &list, e)) {
        return -1;
    }
    json_object_foreach(list, key, digest)
    {
        char what[64];
        size_t n = strspn(key, "0123456789");
        int pcr = n >= 1 && n <= 2 && !key[n] ? (int)strtol(key, NULL, 10) : 0;
        if (pcr < 1 || pcr >= REFVALS_PCRS || v->pcrs & 1u << pcr) {
            return err_set(e, ERR_INVALID,
                           "refvals.vtpm.pcrs: expected registers 1 to 23, each "
                           "once");
        }
        snprintf(what, sizeof(what), "refvals.vtpm.pcrs.%d", pcr);
        if (hex_text(digest, what, v->pcr[pcr], 32, e)) {
            return -1;
        }
        v->pcrs |= 1u << pcr;
    }
    return 0;
}

static int parse_events(const json_t *vtpm, struct refvals_vtpm *v, struct err *e)
{
    static const char *const members[] = {"pcr", "what", "digest", NULL};
    json_t *list;

    if (get_list(vtpm, "refvals.vtpm", "events", REFVALS_MAX_EVENTS, &list, e)) {
        return -1;
    }
    v->events = xcalloc(json_array_size(list) + 1, sizeof(*v->events));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        struct refvals_event *ev = &v->events[i];
        char what[48];
        int64_t pcr;
        snprintf(what, sizeof(what), "refvals.vtpm.events[%zu]", i);
        if (json_only_keys(o, what, members, e) ||
            json_get_int(o, what, "pcr", 0, REFVALS_PCRS - 1, &pcr, e) ||
            get_text(o, what, "what", REFVALS_TEXT_MAX, &ev->what, e) ||
            get_hex(o, what, "digest", ev->digest, 32, e)) {
            return -1;
        }
        ev->pcr = (uint32_t)pcr;
        v->n_events = i + 1;
    }
    return 0;
}

static int parse_vtpm(struct refvals_image *i, struct err *e)
{
    static const char *const members[] = {"firmware", "pcrs", "events", NULL};
    json_t *o;

    if (!json_object_get(i->json, "vtpm")) {
        return 0;
    }
    if (json_get_obj(i->json, top, "vtpm", &o, e) ||
        json_only_keys(o, "refvals.vtpm", members, e) || parse_firmware(o, &i->vtpm, e) ||
        parse_pcrs(o, &i->vtpm, e) || parse_events(o, &i->vtpm, e)) {
        return -1;
    }
    i->has_vtpm = 1;
    return 0;
}

/* ---- snp, tdx ---- */

static int parse_snp(struct refvals_image *i, struct err *e)
{
    static const char *const members[] = {"vcpus", "cpu", "digest", NULL};
    json_t *list;

    if (!json_object_get(i->json, "snp")) {
        return 0;
    }
    if (get_list(i->json, top, "snp", REFVALS_MAX_SNP, &list, e)) {
        return -1;
    }
    i->snp = xcalloc(json_array_size(list) + 1, sizeof(*i->snp));
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *o = json_array_get(list, k);
        struct refvals_snp *s = &i->snp[k];
        char what[48];
        snprintf(what, sizeof(what), "refvals.snp[%zu]", k);
        if (json_only_keys(o, what, members, e) ||
            json_get_int(o, what, "vcpus", 1, 4096, &s->vcpus, e) ||
            get_text(o, what, "cpu", REFVALS_TEXT_MAX, &s->cpu, e) ||
            get_hex(o, what, "digest", s->digest, 48, e)) {
            return -1;
        }
        i->n_snp = k + 1;
    }
    return 0;
}

static int parse_tdx(struct refvals_image *i, struct err *e)
{
    static const char *const members[] = {"mrtd", "rtmr1", "rtmr2", NULL};
    static const char what[] = "refvals.tdx";
    json_t *o;

    if (!json_object_get(i->json, "tdx")) {
        return 0;
    }
    if (json_get_obj(i->json, top, "tdx", &o, e) || json_only_keys(o, what, members, e) ||
        get_hex(o, what, "mrtd", i->tdx.mrtd, 48, e) ||
        get_hex(o, what, "rtmr1", i->tdx.rtmr1, 48, e) ||
        get_hex(o, what, "rtmr2", i->tdx.rtmr2, 48, e)) {
        return -1;
    }
    i->has_tdx = 1;
    return 0;
}

/* ---- one image ---- */

static int parse_image(struct refvals_image *i, struct err *e)
{
    static const char *const members[] = {"name",          "version", "uki_sha256", "kernel_sha256",
                                          "initrd_sha256", "cmdline", NULL};
    static const char what[] = "refvals.image";
    json_t *o;

    return json_get_obj(i->json, top, "image", &o, e) || json_only_keys(o, what, members, e) ||
                   get_text(o, what, "name", REFVALS_TEXT_MAX, &i->name, e) ||
                   get_text(o, what, "version", REFVALS_TEXT_MAX, &i->version, e) ||
                   get_hex(o, what, "uki_sha256", i->uki_sha256, 32, e) ||
                   get_hex(o, what, "kernel_sha256", i->kernel_sha256, 32, e) ||
                   get_hex(o, what, "initrd_sha256", i->initrd_sha256, 32, e) ||
                   get_text(o, what, "cmdline", 4096, &i->cmdline, e)
               ? -1
               : 0;
}

int refvals_image_parse(struct bytes payload, struct refvals_image *ret, struct err *e)
{
    static const char *const members[] = {"v", "image", "vtpm", "snp", "tdx", NULL};
    _cleanup_(refvals_image_done) struct refvals_image i = {0};
    int64_t v;

    if (json_parse(top, payload, REFVALS_JWS_MAX_BYTES, &i.json, e) ||
        json_only_keys(i.json, top, members, e) || json_get_int(i.json, top, "v", 1, 1, &v, e) ||
        parse_image(&i, e) || parse_vtpm(&i, e) || parse_snp(&i, e) || parse_tdx(&i, e)) {
        return -1;
    }
    *ret = i;
    i = (struct refvals_image){0};
    return 0;
}

void refvals_image_done(struct refvals_image *i)
{
    json_decref(i->json);
    free(i->vtpm.pcr0);
    free(i->vtpm.events);
    free(i->snp);
    *i = (struct refvals_image){0};
}

/* ---- named values ---- */

static int value_ok(const json_t *v)
{
    return json_is_string(v) || json_is_integer(v) || json_is_boolean(v);
}

int refvals_values_check(const json_t *values, struct err *e)
{
    const char *name;
    json_t *list, *v;
    size_t i;

    if (!json_is_object(values)) {
        return err_set(e, ERR_INVALID, "values: expected an object");
    }
    json_object_foreach((json_t *)(uintptr_t)values, name, list)
    {
        if (!*name || strlen(name) > 80 || strpbrk(name, " \t\r\n")) {
            return err_set(e, ERR_INVALID,
                           "values: expected names of 1 to 80 characters without spaces");
        }
        if (!json_is_array(list) || json_array_size(list) > REFVALS_MAX_VALUES) {
            return err_set(e, ERR_INVALID, "values.%s: expected a list of at most %d", name,
                           REFVALS_MAX_VALUES);
        }
        json_array_foreach(list, i, v)
        {
            if (!value_ok(v)) {
                return err_set(e, ERR_INVALID,
                               "values.%s[%zu]: expected a text, an integer or a boolean", name, i);
            }
        }
    }
    return 0;
}

const json_t *refvals_lookup(void *refvals, const char *name)
{
    const struct refvals *r = refvals;

    return r ? json_object_get(r->values, name) : NULL;
}

static void add_value(struct refvals *r, const char *name, json_t *steal)
{
    json_t *list = json_object_get(r->values, name);

    if (!list) {
        list = json_array();
        json_object_set_new(r->values, name, list);
    }
    json_array_append_new(list, steal);
}

static void add_digest(struct refvals *r, const char *name, const uint8_t digest[48])
{
    _cleanup_free_ char *hex = hex_encode(digest, 48);

    add_value(r, name, json_string(hex));
}

static void add_image_values(struct refvals *r, const struct refvals_image *i)
{
    if (i->has_tdx) {
        add_digest(r, "image.tdx.mrtd", i->tdx.mrtd);
        add_digest(r, "image.tdx.rtmr1", i->tdx.rtmr1);
        add_digest(r, "image.tdx.rtmr2", i->tdx.rtmr2);
    }
    for (size_t k = 0; k < i->n_snp; k++) {
        add_digest(r, "image.snp.measurement", i->snp[k].digest);
    }
}

static int add_values(struct bytes payload, struct refvals *r, struct err *e)
{
    static const char *const members[] = {"v", "values", NULL};
    _cleanup_json_ json_t *j = NULL;
    const char *name;
    json_t *values, *list, *v;
    size_t i;
    int64_t version;

    if (json_parse(top, payload, REFVALS_JWS_MAX_BYTES, &j, e) ||
        json_only_keys(j, top, members, e) || json_get_int(j, top, "v", 1, 1, &version, e) ||
        json_get_obj(j, top, "values", &values, e) || refvals_values_check(values, e)) {
        return -1;
    }
    json_object_foreach(values, name, list)
    {
        json_array_foreach(list, i, v)
        {
            add_value(r, name, json_incref(v));
        }
    }
    return 0;
}

/* ---- a file of them ---- */

static int add_line(const char *line, const struct trust_keys *release, struct refvals *r,
                    struct err *e)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(REFVALS_JWS_MAX_BYTES);

    if (trust_verify(release, "release", line, REFVALS_VALUES_TYP, REFVALS_JWS_MAX_BYTES, &payload,
                     NULL) == 0) {
        return add_values(buf_bytes(&payload), r, e);
    }
    if (r->n == REFVALS_MAX_IMAGES) {
        return err_set(e, ERR_TOO_LARGE, "expected at most %d images", REFVALS_MAX_IMAGES);
    }
    if (trust_verify(release, "release", line, REFVALS_TYP, REFVALS_JWS_MAX_BYTES, &payload, e) ||
        refvals_image_parse(buf_bytes(&payload), &r->v[r->n], e)) {
        return -1;
    }
    add_image_values(r, &r->v[r->n]);
    r->n++;
    return 0;
}

int refvals_parse(struct bytes file, const struct trust_keys *release, struct refvals **ret,
                  struct err *e)
{
    _cleanup_(refvals_freep) struct refvals *r = xcalloc(1, sizeof(*r));
    size_t line_n = 1;

    r->values = json_object();
    if (file.n > REFVALS_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "reference values: expected at most %u bytes",
                       REFVALS_MAX_BYTES);
    }
    for (size_t at = 0; at < file.n; line_n++) {
        const uint8_t *end = memchr(file.p + at, '\n', file.n - at);
        size_t n = end ? (size_t)(end - (file.p + at)) : file.n - at;
        _cleanup_free_ char *line = xstrndup((const char *)file.p + at, n);
        if (strlen(line) != n) {
            return err_set(e, ERR_INVALID, "reference values, line %zu: expected text", line_n);
        }
        if (n && add_line(line, release, r, e)) {
            return err_wrap(e, "reference values, line %zu", line_n);
        }
        at += n + 1;
    }
    if (!r->n && !json_object_size(r->values)) {
        return err_set(e, ERR_INVALID, "reference values: expected one JWS a line, found none");
    }
    *ret = TAKE_PTR(r);
    return 0;
}

int refvals_read(const char *path, const struct trust_keys *release, struct refvals **ret,
                 struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(REFVALS_MAX_BYTES);

    if (file_read(path, REFVALS_MAX_BYTES, 0, &text, e)) {
        return err_wrap(e, "reference values");
    }
    return refvals_parse(buf_bytes(&text), release, ret, e) ? err_wrap(e, "%s", path) : 0;
}

void refvals_free(struct refvals *r)
{
    if (!r) {
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        refvals_image_done(&r->v[i]);
    }
    json_decref(r->values);
    free(r);
}
