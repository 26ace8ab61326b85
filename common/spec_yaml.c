/* YAML to normal form. The reader follows the table of fields event by event and stops at the first
 * thing the table does not have, so nesting is bounded by the table and nothing is built of what is
 * refused. Aliases, anchors and tags are refused: no text expands. */
#include <strings.h>
#include <sys/stat.h>
#include <yaml.h>

#include "common/spec_fields.h"

#define PUBLIC_JWK_MAX_BYTES 4096

struct reader {
    yaml_parser_t parser;
    struct spec_source *src;
    const struct jkey *self;
    struct spec_path path;
    struct err *e;
};

#define _cleanup_event_ _cleanup_(yaml_event_delete)

static unsigned line_of(const yaml_event_t *ev)
{
    return (unsigned)ev->start_mark.line + 1;
}

static int bad(struct reader *r, unsigned line, const char *expected, const char *found)
{
    return spec_bad(r->src, r->path.s, line, expected, r->e, "%s", found);
}

/* Scalars. Which plain scalars are strings differs between YAML 1.1, YAML 1.2 and what people think
 * ("no", 010, 1e3, 12:30:00): those that any reader may take for something else have to be quoted,
 * so that what is signed is what was read. */

static int plain_is_number(const char *s)
{
    s += *s == '+' || *s == '-';
    if (strcasecmp(s, ".inf") == 0 || strcasecmp(s, ".nan") == 0) {
        return 1;
    }
    size_t digits = strspn(s, "0123456789");
    if (digits == 0 && !(s[0] == '.' && s[1] >= '0' && s[1] <= '9')) {
        return 0;
    }
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
        return s[2 + strspn(s + 2, "0123456789abcdefABCDEF_")] == '\0';
    }
    s += s[0] == '0' && (s[1] == 'o' || s[1] == 'b') ? 2 : 0;
    s += strspn(s, "0123456789_:");
    if (*s == '.') {
        s += 1 + strspn(s + 1, "0123456789_");
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '+' || *s == '-';
        s += strspn(s, "0123456789");
    }
    return *s == '\0';
}

static int plain_is_null(const char *s)
{
    return !*s || streq(s, "~") || strcasecmp(s, "null") == 0;
}

static int plain_is_bool(const char *s)
{
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "y", "n"};

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcasecmp(s, words[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

/* At most 15 decimal digits, no sign, no leading zero (which some readers take for octal). */
static int read_digits(const char **s, int64_t *ret)
{
    size_t n = strspn(*s, "0123456789");
    int64_t v = 0;

    if (n == 0 || n > 15 || (n > 1 && **s == '0')) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        v = v * 10 + ((*s)[i] - '0');
    }
    *s += n;
    *ret = v;
    return 0;
}

struct unit {
    const char *suffix;
    int64_t factor;
};

static int read_with_unit(const char *s, const struct unit *units, size_t n_units, int64_t *ret)
{
    int64_t v;

    if (read_digits(&s, &v) < 0) {
        return -1;
    }
    for (size_t i = 0; i < n_units; i++) {
        if (streq(s, units[i].suffix)) {
            return __builtin_mul_overflow(v, units[i].factor, ret) ? -1 : 0;
        }
    }
    return -1;
}

/* "2", "1.5", "0.125" or "500m", exactly. */
static int read_cpu(const char *s, int64_t *ret)
{
    int64_t v, thousandths = 0;

    if (read_digits(&s, &v) < 0 || v > 1000000) {
        return -1;
    }
    if (streq(s, "m")) {
        *ret = v;
        return 0;
    }
    if (*s == '.') {
        size_t n = strspn(s + 1, "0123456789");
        if (n == 0 || n > 3) {
            return -1;
        }
        for (size_t i = 0; i < 3; i++) {
            thousandths = thousandths * 10 + (i < n ? s[1 + i] - '0' : 0);
        }
        s += 1 + n;
    }
    *ret = v * 1000 + thousandths;
    return *s ? -1 : 0;
}

static int read_number(enum field_kind kind, const char *s, int64_t *ret)
{
    static const struct unit sizes[] = {
        {"", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
    static const struct unit durations[] = {{"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}};
    static const struct unit plain[] = {{"", 1}};

    if (kind == F_CPU) {
        return read_cpu(s, ret);
    }
    if (kind == F_SIZE) {
        return read_with_unit(s, sizes, ARRAY_LEN(sizes), ret);
    }
    if (kind == F_DURATION) {
        return read_with_unit(s, durations, ARRAY_LEN(durations), ret);
    }
    return read_with_unit(s, plain, ARRAY_LEN(plain), ret);
}

static const char *unit_hint(enum field_kind kind)
{
    if (kind == F_SIZE) {
        return ", as bytes or with KiB, MiB or GiB";
    }
    if (kind == F_DURATION) {
        return ", with s, m or h";
    }
    return kind == F_CPU ? ", as 2, 1.5 or 500m" : "";
}

/* A number is read whole; that it is in range is for the check, which knows how it was written. */
static json_t *number_of(struct reader *r, const struct field *f, const char *s, unsigned line,
                         const char *shown)
{
    char expected[256];
    int64_t v;

    if (read_number(f->kind, s, &v) < 0) {
        spec_expected(f, 1, expected, sizeof(expected));
        size_t n = strlen(expected);
        snprintf(expected + n, sizeof(expected) - n, "%s", unit_hint(f->kind));
        bad(r, line, expected, shown);
        return NULL;
    }
    return json_integer(v);
}

static int check_regular(const char *path, struct err *e)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        return err_errno(e, "cannot be read");
    }
    if (!S_ISREG(st.st_mode) || st.st_size > PUBLIC_JWK_MAX_BYTES) {
        return err_set(e, ERR_INVALID, "not a file of at most %d bytes", PUBLIC_JWK_MAX_BYTES);
    }
    return 0;
}

/* The file's path is relative to where the spec lies, so that a spec means the same from anywhere.
 */
static json_t *recipient_from_file(struct reader *r, const char *s, unsigned line,
                                   const char *shown)
{
    _cleanup_jkey_ struct jkey *k = NULL;
    const char *slash = strrchr(r->src->file, '/');
    _cleanup_free_ char *path =
        s[0] == '/' || !slash ? xstrdup(s)
                              : xasprintf("%.*s/%s", (int)(slash - r->src->file), r->src->file, s);
    struct err why = {0};

    if (check_regular(path, &why) < 0) {
        spec_bad(r->src, r->path.s, line, "self, a public P-256 JWK or the path of one", r->e,
                 "%s, %.100s", shown, why.msg);
        return NULL;
    }
    if (jkey_read_public(path, &k, NULL) < 0) {
        spec_bad(r->src, r->path.s, line, "a file with a public P-256 JWK", r->e,
                 "%s, which is not one", shown);
        return NULL;
    }
    return jkey_public_jwk(k);
}

static json_t *recipient_of(struct reader *r, const char *s, unsigned line, const char *shown)
{
    if (!streq(s, "self")) {
        return recipient_from_file(r, s, line, shown);
    }
    if (!r->self) {
        bad(r, line, "a recipient", "self, but no key of the consumer is known");
        return NULL;
    }
    return jkey_public_jwk(r->self);
}

static json_t *string_of(struct reader *r, const struct field *f, const char *s, size_t n,
                         int plain, unsigned line, const char *shown)
{
    char expected[256];

    spec_expected(f, 1, expected, sizeof(expected));
    if (plain && plain_is_null(s)) {
        bad(r, line, expected, shown);
        return NULL;
    }
    if (plain && (plain_is_bool(s) || plain_is_number(s))) {
        size_t at = strlen(expected);
        snprintf(expected + at, sizeof(expected) - at, " (in quotes, if %.40s is meant as one)",
                 shown);
        bad(r, line, expected, shown);
        return NULL;
    }
    json_t *j = json_stringn(s, n);
    if (!j) {
        bad(r, line, "UTF-8", shown);
    }
    return j;
}

/* The value of a scalar's text; `plain` is cleared for quoted text. */
static json_t *scalar_of(struct reader *r, const struct field *f, const char *s, size_t n,
                         int plain, unsigned line)
{
    char expected[256], shown[SPEC_SHOWN_MAX];

    spec_show(s, n, !plain, shown);
    if (plain && plain_is_null(s)) {
        snprintf(shown, sizeof(shown), "nothing");
    }
    spec_expected(f, 1, expected, sizeof(expected));
    spec_source_note(r->src, r->path.s, line, shown);
    if (strlen(s) != n) {
        bad(r, line, "text without NUL", shown);
        return NULL;
    }
    switch (f->kind) {
    case F_STRING:
    case F_ENUM:
        return string_of(r, f, s, n, plain, line, shown);
    case F_BOOL:
        if (plain && (streq(s, "true") || streq(s, "false"))) {
            return json_boolean(s[0] == 't');
        }
        break;
    case F_NODE:
        if (plain && streq(s, "any")) {
            return json_integer(-1);
        }
        __attribute__((fallthrough));
    case F_INT:
        if (!plain) {
            break;
        }
        return number_of(r, f, s, line, shown);
    case F_SIZE:
    case F_DURATION:
    case F_CPU:
        return number_of(r, f, s, line, shown);
    case F_JWK:
        if (plain && plain_is_null(s)) {
            break;
        }
        return recipient_of(r, s, line, shown);
    case F_OBJECT:
    case F_LIST:
    case F_MAP:
        break;
    }
    bad(r, line, expected, shown);
    return NULL;
}

static char *fresh_nonce(void)
{
    uint8_t b[16];

    random_bytes(b, sizeof(b));
    return b64url_encode(b, sizeof(b));
}

static json_t *default_list(struct reader *r, const struct field *f, unsigned line)
{
    _cleanup_json_ json_t *a = json_array();

    for (const char *p = f->dflt; *p;) {
        size_t n = strcspn(p, " ");
        _cleanup_free_ char *item = xstrndup(p, n);
        json_t *v = scalar_of(r, f->sub, item, n, 1, line);
        if (!v || json_array_append_new(a, v) < 0) {
            return NULL;
        }
        p += n + (p[n] == ' ');
    }
    return TAKE_PTR(a);
}

/* The value of a field that is not there; the object around it starts on `line`. */
static json_t *default_of(struct reader *r, const struct field *f, unsigned line)
{
    _cleanup_json_ json_t *o = NULL;
    char expected[256];

    if (f->required) {
        spec_expected(f, 1, expected, sizeof(expected));
        bad(r, line, expected, "nothing");
        return NULL;
    }
    if (f->fresh) {
        _cleanup_free_ char *nonce = fresh_nonce();
        return json_string(nonce);
    }
    if (f->kind == F_LIST) {
        return default_list(r, f, line);
    }
    if (f->kind != F_OBJECT) {
        return f->kind == F_MAP ? json_object()
                                : scalar_of(r, f, f->dflt, strlen(f->dflt), 1, line);
    }
    o = json_object();
    for (size_t i = 0; i < f->n_sub; i++) {
        size_t at = spec_path_push(&r->path, f->sub[i].name);
        json_t *v = default_of(r, &f->sub[i], line);
        if (!v || json_object_set_new(o, f->sub[i].key, v) < 0) {
            return NULL;
        }
        spec_path_pop(&r->path, at);
    }
    return TAKE_PTR(o);
}

/* Events. */

static int syntax_error(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    unsigned line = (unsigned)p->problem_mark.line + 1;
    char shown[SPEC_SHOWN_MAX];

    if (p->error == YAML_READER_ERROR) {
        line = (unsigned)p->mark.line + 1;
    }
    const char *problem = p->problem ? p->problem : "unreadable text";
    spec_show(problem, strlen(problem), 0, shown);
    return spec_bad(r->src, r->path.s, line, "well-formed YAML", r->e, "a mistake (%s)", shown);
}

static int next_event(struct reader *r, yaml_event_t *ret)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    if (!yaml_parser_parse(&r->parser, ret)) {
        return syntax_error(r);
    }
    if (ret->type == YAML_SCALAR_EVENT) {
        anchor = ret->data.scalar.anchor;
        tag = ret->data.scalar.tag;
    } else if (ret->type == YAML_SEQUENCE_START_EVENT) {
        anchor = ret->data.sequence_start.anchor;
        tag = ret->data.sequence_start.tag;
    } else if (ret->type == YAML_MAPPING_START_EVENT) {
        anchor = ret->data.mapping_start.anchor;
        tag = ret->data.mapping_start.tag;
    } else if (ret->type == YAML_ALIAS_EVENT) {
        return bad(r, line_of(ret), "a value written out", "an alias");
    }
    if (anchor) {
        return bad(r, line_of(ret), "a value without an anchor", "an anchor");
    }
    return tag ? bad(r, line_of(ret), "a value without a tag", "a tag") : 0;
}

static const char *event_name(const yaml_event_t *ev)
{
    return ev->type == YAML_MAPPING_START_EVENT ? "a mapping" : "a list";
}

static json_t *read_value(struct reader *r, const struct field *f, const yaml_event_t *ev);

/* The key of a mapping's next member: 1, or 0 at the mapping's end. Refuses a second one of a name;
 * on 1 the path is that of the member. */
static int next_key(struct reader *r, yaml_event_t *ret)
{
    if (next_event(r, ret) < 0) {
        return -1;
    }
    if (ret->type == YAML_MAPPING_END_EVENT) {
        return 0;
    }
    if (ret->type != YAML_SCALAR_EVENT) {
        return bad(r, line_of(ret), "a field name", event_name(ret));
    }
    return 1;
}

static int refuse_second(struct reader *r, unsigned line)
{
    const struct spec_loc *first = spec_source_find(r->src, r->path.s);

    return spec_bad(r->src, r->path.s, line, "the field once", r->e, "it again (first on line %u)",
                    first ? first->line : 0);
}

static int read_member(struct reader *r, const struct field *f, json_t *o,
                       const yaml_event_t *key_ev)
{
    const char *key = (const char *)key_ev->data.scalar.value;
    size_t n = key_ev->data.scalar.length;
    _cleanup_event_ yaml_event_t ev = {0};
    const struct field *sub = NULL;

    spec_path_push(&r->path, key);
    for (size_t i = 0; i < f->n_sub && !sub; i++) {
        sub = streq(f->sub[i].name, key) && strlen(key) == n ? &f->sub[i] : NULL;
    }
    if (!sub) {
        return spec_bad_member(r->src, f, r->path.s, line_of(key_ev), key, n, r->e);
    }
    if (json_object_get(o, sub->key)) {
        return refuse_second(r, line_of(key_ev));
    }
    if (next_event(r, &ev) < 0) {
        return -1;
    }
    json_t *v = read_value(r, sub, &ev);
    return v ? json_object_set_new(o, sub->key, v) : -1;
}

static json_t *read_object(struct reader *r, const struct field *f, const yaml_event_t *start)
{
    _cleanup_json_ json_t *o = json_object();
    size_t at = r->path.n;

    for (;;) {
        _cleanup_event_ yaml_event_t key = {0};
        int more = next_key(r, &key);
        if (more < 0 || (more && read_member(r, f, o, &key) < 0)) {
            return NULL;
        }
        if (!more) {
            break;
        }
        spec_path_pop(&r->path, at);
    }
    for (size_t i = 0; i < f->n_sub; i++) {
        if (json_object_get(o, f->sub[i].key)) {
            continue;
        }
        spec_path_push(&r->path, f->sub[i].name);
        json_t *v = default_of(r, &f->sub[i], line_of(start));
        if (!v || json_object_set_new(o, f->sub[i].key, v) < 0) {
            return NULL;
        }
        spec_path_pop(&r->path, at);
    }
    return TAKE_PTR(o);
}

/* A mapping of free names to scalars: variables, and the members of a JWK. */
static json_t *read_map(struct reader *r, const struct field *item, int64_t max)
{
    _cleanup_json_ json_t *o = json_object();
    size_t at = r->path.n;

    for (;;) {
        _cleanup_event_ yaml_event_t key = {0}, ev = {0};
        int more = next_key(r, &key);
        if (more <= 0) {
            return more < 0 ? NULL : TAKE_PTR(o);
        }
        const char *name = (const char *)key.data.scalar.value;
        if ((int64_t)json_object_size(o) >= max) {
            char expected[64];
            snprintf(expected, sizeof(expected), "at most %lld members", (long long)max);
            bad(r, line_of(&key), expected, "more");
            return NULL;
        }
        spec_path_push(&r->path, name);
        if (strlen(name) != key.data.scalar.length) {
            bad(r, line_of(&key), "a name without NUL", "one with");
            return NULL;
        }
        if (json_object_get(o, name)) {
            refuse_second(r, line_of(&key));
            return NULL;
        }
        if (next_event(r, &ev) < 0) {
            return NULL;
        }
        json_t *v = read_value(r, item, &ev);
        if (!v || json_object_set_new(o, name, v) < 0) {
            return NULL;
        }
        spec_path_pop(&r->path, at);
    }
}

static json_t *read_list(struct reader *r, const struct field *f)
{
    _cleanup_json_ json_t *a = json_array();
    size_t at = r->path.n;

    for (;;) {
        _cleanup_event_ yaml_event_t ev = {0};
        if (next_event(r, &ev) < 0) {
            return NULL;
        }
        if (ev.type == YAML_SEQUENCE_END_EVENT) {
            return TAKE_PTR(a);
        }
        if ((int64_t)json_array_size(a) >= f->max) {
            char expected[64];
            snprintf(expected, sizeof(expected), "at most %lld items", (long long)f->max);
            bad(r, line_of(&ev), expected, "more");
            return NULL;
        }
        spec_path_push_index(&r->path, json_array_size(a));
        json_t *v = read_value(r, f->sub, &ev);
        if (!v || json_array_append_new(a, v) < 0) {
            return NULL;
        }
        spec_path_pop(&r->path, at);
    }
}

static json_t *read_value(struct reader *r, const struct field *f, const yaml_event_t *ev)
{
    static const struct field jwk_member = {
        .kind = F_STRING, .shape = SHAPE_TEXT, .max = PUBLIC_JWK_MAX_BYTES};
    char expected[256];

    if (ev->type == YAML_SCALAR_EVENT) {
        const char *s = (const char *)ev->data.scalar.value;
        int plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        return scalar_of(r, f, s, ev->data.scalar.length, plain, line_of(ev));
    }
    spec_source_note(r->src, r->path.s, line_of(ev), NULL);
    if (ev->type == YAML_MAPPING_START_EVENT) {
        if (f->kind == F_OBJECT) {
            return read_object(r, f, ev);
        }
        if (f->kind == F_MAP) {
            return read_map(r, f->sub, f->max);
        }
        if (f->kind == F_JWK) {
            return read_map(r, &jwk_member, 8);
        }
    } else if (f->kind == F_LIST) {
        return read_list(r, f);
    }
    spec_expected(f, 1, expected, sizeof(expected));
    bad(r, line_of(ev), expected, event_name(ev));
    return NULL;
}

/* The one document, from the start of the stream to its end. */
static json_t *read_document(struct reader *r)
{
    _cleanup_event_ yaml_event_t stream = {0}, doc = {0}, root = {0}, end = {0}, last = {0};

    if (next_event(r, &stream) < 0 || next_event(r, &doc) < 0) {
        return NULL;
    }
    if (doc.type != YAML_DOCUMENT_START_EVENT) {
        bad(r, line_of(&doc), "a job", "an empty file");
        return NULL;
    }
    if (doc.data.document_start.tag_directives.start !=
        doc.data.document_start.tag_directives.end) {
        bad(r, line_of(&doc), "a document without tags", "a %TAG directive");
        return NULL;
    }
    if (next_event(r, &root) < 0) {
        return NULL;
    }
    _cleanup_json_ json_t *o = read_value(r, &spec_root, &root);
    if (!o || next_event(r, &end) < 0 || next_event(r, &last) < 0) {
        return NULL;
    }
    if (last.type != YAML_STREAM_END_EVENT) {
        bad(r, line_of(&last), "one document", "a second one");
        return NULL;
    }
    return TAKE_PTR(o);
}

int spec_from_yaml(const char *file, struct bytes yaml, const struct jkey *default_recipient,
                   struct spec **ret, struct err *e)
{
    struct spec_source src = {.file = file};
    struct reader r = {.src = &src, .self = default_recipient, .e = e};
    int rc = -1;

    if (yaml.n > SPEC_YAML_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "%s:1: spec: expected at most %u bytes, found %zu", file,
                       SPEC_YAML_MAX_BYTES, yaml.n);
    }
    if (!yaml_parser_initialize(&r.parser)) {
        return err_set(e, ERR_INTERNAL, "%s: cannot set up the YAML parser", file);
    }
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, yaml.p, yaml.n);
    err_clear(e);
    _cleanup_json_ json_t *normal = read_document(&r);
    if (normal) {
        rc = spec_from_normal(normal, &src, ret, e);
    } else if (e && e->code == ERR_NONE) {
        err_set(e, ERR_INTERNAL, "%s: cannot build the normal form", file);
    }
    yaml_parser_delete(&r.parser);
    spec_source_done(&src);
    return rc;
}
