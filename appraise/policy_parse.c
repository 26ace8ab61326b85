#include "appraise/policy_int.h"

#include <ctype.h>
#include <errno.h>
#include <yaml.h>

#include "appraise/when.h"
#include "common/fileio.h"

/* What failing does to a member that passing would have affirmed, unless the rule says. */
#define CONTRAINDICATED 96

static const char *const op_names[OP_N] = {
    [OP_EQ] = "eq",
    [OP_NE] = "ne",
    [OP_IN] = "in",
    [OP_NOT_IN] = "not-in",
    [OP_LT] = "lt",
    [OP_LE] = "le",
    [OP_GT] = "gt",
    [OP_GE] = "ge",
    [OP_EXISTS] = "exists",
    [OP_ABSENT] = "absent",
    [OP_SUBSET] = "subset-of",
    [OP_BITS_SET] = "bits-set",
    [OP_BITS_CLEAR] = "bits-clear",
    [OP_NOT_BEFORE] = "not-before",
    [OP_NOT_AFTER] = "not-after",
    [OP_MAX_AGE] = "max-age",
};

const char *policy_op_name(enum policy_op op)
{
    return (unsigned)op < OP_N ? op_names[op] : "";
}

struct reader {
    const char *file;
    yaml_document_t doc;
    struct err *e;
};

static yaml_node_t *node_at(struct reader *r, int i)
{
    return yaml_document_get_node(&r->doc, i);
}

static int bad(struct reader *r, const yaml_node_t *n, const char *field, const char *expected,
               const char *found)
{
    return err_set(r->e, ERR_INVALID, "%s:%zu: %s: expected %s, found %s", r->file,
                   n ? n->start_mark.line + 1 : 1, field, expected, found);
}

/* ---- scalars --------------------------------------------------------------------------------- */

/* NULL when it is no scalar, or holds a NUL. */
static const char *text_of(const yaml_node_t *n)
{
    if (!n || n->type != YAML_SCALAR_NODE ||
        strlen((const char *)n->data.scalar.value) != n->data.scalar.length) {
        return NULL;
    }
    return (const char *)n->data.scalar.value;
}

static const char *kind_of(const yaml_node_t *n)
{
    const char *t = text_of(n);

    if (!n) {
        return "nothing";
    }
    return n->type == YAML_MAPPING_NODE    ? "a mapping"
           : n->type == YAML_SEQUENCE_NODE ? "a list"
           : t                             ? t
                                           : "a text with a NUL in it";
}

/* YAML 1.2's core schema for what is not quoted, less floats: booleans, null, integers, text. */
static json_t *scalar_json(const yaml_node_t *n)
{
    const char *t = text_of(n);
    char *end;

    if (!t) {
        return NULL;
    }
    if (n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) {
        return json_string(t);
    }
    if (streq(t, "true") || streq(t, "false")) {
        return json_boolean(t[0] == 't');
    }
    if (streq(t, "null") || streq(t, "~")) {
        return json_null();
    }
    /* Leading zeros are digits of something, not a number. */
    const char *d = t + (*t == '-');
    if (isdigit((unsigned char)*d) && (d[0] != '0' || !d[1])) {
        errno = 0;
        long long v = strtoll(t, &end, 10);
        if (!*end && !errno) {
            return json_integer(v);
        }
    }
    return json_string(t);
}

static json_t *value_json(struct reader *r, const yaml_node_t *n)
{
    if (n->type == YAML_SCALAR_NODE) {
        return scalar_json(n);
    }
    if (n->type != YAML_SEQUENCE_NODE) {
        return NULL;
    }
    json_t *list = json_array();
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        json_t *v = scalar_json(node_at(r, *i));
        if (!v || json_array_size(list) == POLICY_MAX_VALUES) {
            json_decref(v);
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, v);
    }
    return list;
}

/* ---- mappings -------------------------------------------------------------------------------- */

struct member {
    const char *key;
    yaml_node_t *value; /* NULL: not given */
};

/* Fills what is there of the members; the list ends with a NULL key. */
static int read_members(struct reader *r, const yaml_node_t *n, const char *what,
                        struct member *members)
{
    if (!n || n->type != YAML_MAPPING_NODE) {
        return bad(r, n, what, "a mapping", kind_of(n));
    }
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node_at(r, p->key);
        const char *key = text_of(k);
        struct member *m = members;
        while (m->key && !(key && streq(m->key, key))) {
            m++;
        }
        if (!m->key) {
            char expected[256] = "one of";
            for (m = members; m->key; m++) {
                size_t at = strlen(expected);
                snprintf(expected + at, sizeof(expected) - at, "%s %s", m == members ? "" : ",",
                         m->key);
            }
            return bad(r, k, what, expected, kind_of(k));
        }
        if (m->value) {
            return bad(r, k, key, "each field once", "it again");
        }
        m->value = node_at(r, p->value);
    }
    return 0;
}

static int need_text(struct reader *r, const yaml_node_t *of, const struct member *m, size_t max,
                     const char **ret)
{
    const char *t = text_of(m->value);

    if (!m->value) {
        return bad(r, of, m->key, "a text", "nothing");
    }
    if (!t || !*t || strlen(t) > max) {
        char expected[64];
        snprintf(expected, sizeof(expected), "a text of 1 to %zu characters", max);
        return bad(r, m->value, m->key, expected, t && *t ? "a longer one" : kind_of(m->value));
    }
    *ret = t;
    return 0;
}

static int need_equal(struct reader *r, const yaml_node_t *of, const struct member *m,
                      const char *expected)
{
    const char *t = text_of(m->value);

    return t && streq(t, expected)
               ? 0
               : bad(r, m->value ? m->value : of, m->key, expected, kind_of(m->value));
}

/* ---- rules ----------------------------------------------------------------------------------- */

int parse_age(const char *text, int64_t *ret_ms)
{
    static const struct {
        char unit;
        int64_t ms;
    } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    char *end;

    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || end == text || v < 0 || v > 36500 * 86400L || !isdigit((unsigned char)*text)) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (end[0] == units[i].unit && !end[1]) {
            *ret_ms = v * units[i].ms;
            return 0;
        }
    }
    return -1;
}

int parse_bits(const json_t *v, uint64_t *ret)
{
    const char *t = json_string_value(v);
    char *end;

    if (json_is_integer(v)) {
        *ret = (uint64_t)json_integer_value(v);
        return json_integer_value(v) < 0 ? -1 : 0;
    }
    if (!t) {
        return -1;
    }
    t += t[0] == '0' && t[1] == 'x' ? 2 : 0;
    if (!isxdigit((unsigned char)*t) || strlen(t) > 16) {
        return -1;
    }
    *ret = strtoull(t, &end, 16);
    return *end ? -1 : 0;
}

static int add_segment(struct rule *rule, const char *p, size_t n)
{
    if (!n || n > POLICY_NAME_MAX || rule->n_path == POLICY_PATH_MAX) {
        return -1;
    }
    rule->path[rule->n_path++] = xstrndup(p, n);
    return 0;
}

static int read_path(struct reader *r, const yaml_node_t *of, const struct member *m,
                     struct rule *rule)
{
    static const char expected[] = "names with dots between them, or a list of at most 12 names";
    const yaml_node_t *n = m->value;
    const char *t = text_of(n);

    if (t) {
        for (;; t++) {
            size_t len = strcspn(t, ".");
            if (add_segment(rule, t, len)) {
                return bad(r, n, m->key, expected, kind_of(n));
            }
            t += len;
            if (!*t) {
                return 0;
            }
        }
    }
    if (!n || n->type != YAML_SEQUENCE_NODE) {
        return bad(r, n ? n : of, m->key, expected, kind_of(n));
    }
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        t = text_of(node_at(r, *i));
        if (!t || add_segment(rule, t, strlen(t))) {
            return bad(r, node_at(r, *i), m->key, expected, kind_of(node_at(r, *i)));
        }
    }
    return rule->n_path ? 0 : bad(r, n, m->key, expected, "an empty list");
}

/* What the operator needs of its value; NULL when it fits. */
static const char *value_misfit(const struct rule *rule)
{
    uint64_t bits;
    int64_t ms;

    switch (rule->op) {
    case OP_EQ:
    case OP_NE:
        return json_is_array(rule->value) ? "one value" : NULL;
    case OP_IN:
    case OP_NOT_IN:
    case OP_SUBSET:
        return json_is_array(rule->value) ? NULL : "a list";
    case OP_LT:
    case OP_LE:
    case OP_GT:
    case OP_GE:
        return json_is_integer(rule->value) ? NULL : "an integer";
    case OP_BITS_SET:
    case OP_BITS_CLEAR:
        return parse_bits(rule->value, &bits) == 0 ? NULL : "an integer or hex digits, of 64 bits";
    case OP_NOT_BEFORE:
    case OP_NOT_AFTER:
        return json_is_string(rule->value) && rfc3339_ms(json_string_value(rule->value), &ms) == 0
                   ? NULL
                   : "a time like 2026-01-31T00:00:00Z";
    case OP_MAX_AGE:
        return json_is_string(rule->value) && parse_age(json_string_value(rule->value), &ms) == 0
                   ? NULL
                   : "an age like 30d";
    case OP_EXISTS:
    case OP_ABSENT:
    case OP_N:
        break;
    }
    return NULL;
}

static int takes_ref(enum policy_op op)
{
    return op == OP_EQ || op == OP_IN || op == OP_NE || op == OP_NOT_IN || op == OP_SUBSET;
}

static int read_operand(struct reader *r, const yaml_node_t *of, const struct member *value,
                        const struct member *ref, struct rule *rule)
{
    const char *t, *misfit;

    if (rule->op == OP_EXISTS || rule->op == OP_ABSENT) {
        return value->value || ref->value ? bad(r, value->value ? value->value : ref->value,
                                                "value", "none with this operator", "one")
                                          : 0;
    }
    if (!value->value == !ref->value) {
        return bad(r, of, "value", "either value or ref", value->value ? "both" : "neither");
    }
    if (ref->value) {
        if (!takes_ref(rule->op)) {
            return bad(r, ref->value, "ref", "eq, ne, in, not-in or subset-of beside it",
                       policy_op_name(rule->op));
        }
        if (need_text(r, of, ref, POLICY_NAME_MAX, &t)) {
            return -1;
        }
        rule->ref = xstrdup(t);
        return 0;
    }
    rule->value = value_json(r, value->value);
    if (!rule->value) {
        return bad(r, value->value, "value", "a value, or a list of at most 1024",
                   kind_of(value->value));
    }
    misfit = value_misfit(rule);
    return misfit ? bad(r, value->value, "value", misfit, kind_of(value->value)) : 0;
}

static int read_effect(struct reader *r, const struct member *m, int effect[EAR_VECTOR_N])
{
    struct member members[EAR_VECTOR_N + 1] = {0};

    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        members[i].key = ear_vector_members[i];
        effect[i] = -1;
    }
    if (!m->value) {
        return 0;
    }
    if (read_members(r, m->value, m->key, members)) {
        return -1;
    }
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        json_t *v = members[i].value ? scalar_json(members[i].value) : NULL;
        int ok = !members[i].value ||
                 (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= 127);
        if (v && ok) {
            effect[i] = (int)json_integer_value(v);
        }
        json_decref(v);
        if (!ok) {
            return bad(r, members[i].value, members[i].key,
                       "an AR4SI value from 0 to 127 (2 affirms, 32 warns, 96 contraindicates)",
                       kind_of(members[i].value));
        }
    }
    return 0;
}

static int read_bool(struct reader *r, const struct member *m, int *ret)
{
    const char *t = text_of(m->value);

    if (m->value && !(t && (streq(t, "true") || streq(t, "false")))) {
        return bad(r, m->value, m->key, "true or false", kind_of(m->value));
    }
    *ret = t && streq(t, "true");
    return 0;
}

static int read_op(struct reader *r, const yaml_node_t *of, const struct member *m,
                   enum policy_op *ret)
{
    const char *t = text_of(m->value);
    char names[256] = "";

    for (enum policy_op op = 0; op < OP_N; op++) {
        if (t && streq(t, op_names[op])) {
            *ret = op;
            return 0;
        }
        size_t at = strlen(names);
        snprintf(names + at, sizeof(names) - at, "%s%s", op ? ", " : "", op_names[op]);
    }
    return bad(r, m->value ? m->value : of, m->key, names, kind_of(m->value));
}

static int read_missing(struct reader *r, const struct member *m, struct rule *rule)
{
    const char *t = text_of(m->value);

    if (m->value && !(t && (streq(t, "fail") || streq(t, "skip")))) {
        return bad(r, m->value, m->key, "fail or skip", kind_of(m->value));
    }
    rule->skip_missing = t && streq(t, "skip");
    return 0;
}

static int read_tees(struct reader *r, const struct member *m, struct tee_list *ret)
{
    const yaml_node_t *n = m->value;

    if (!n) {
        return 0;
    }
    if (n->type != YAML_SEQUENCE_NODE) {
        return bad(r, n, m->key, "a list", kind_of(n));
    }
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const char *t = text_of(node_at(r, *i));
        if (!t || !appraiser_find(t) || ret->n == POLICY_MAX_TEES) {
            return bad(r, node_at(r, *i), m->key, appraiser_names(), kind_of(node_at(r, *i)));
        }
        snprintf(ret->v[ret->n++], sizeof(ret->v[0]), "%s", t);
    }
    return ret->n ? 0 : bad(r, n, m->key, "at least one TEE, or no such field", "none");
}

static int read_rule(struct reader *r, const struct policy *p, const yaml_node_t *n,
                     struct rule *rule)
{
    enum { NAME, TEES, CLAIM, OP, VALUE, REF, MISSING, PASS, FAIL, REFUSE, N };
    struct member m[N + 1] = {
        [NAME] = {"name"},   [TEES] = {"tees"},     [CLAIM] = {"claim"},     [OP] = {"op"},
        [VALUE] = {"value"}, [REF] = {"ref"},       [MISSING] = {"missing"}, [PASS] = {"pass"},
        [FAIL] = {"fail"},   [REFUSE] = {"refuse"},
    };
    const char *name;

    if (read_members(r, n, "rules", m) || need_text(r, n, &m[NAME], POLICY_NAME_MAX, &name)) {
        return -1;
    }
    for (size_t i = 0; i < p->n; i++) {
        if (streq(p->rules[i].name, name)) {
            return bad(r, m[NAME].value, "name", "a name of its own",
                       "one that an earlier rule has");
        }
    }
    rule->name = xstrdup(name);
    if (read_tees(r, &m[TEES], &rule->tees) || read_path(r, n, &m[CLAIM], rule) ||
        read_op(r, n, &m[OP], &rule->op) || read_operand(r, n, &m[VALUE], &m[REF], rule) ||
        read_missing(r, &m[MISSING], rule) || read_effect(r, &m[PASS], rule->pass) ||
        read_effect(r, &m[FAIL], rule->fail) || read_bool(r, &m[REFUSE], &rule->refuse)) {
        return -1;
    }
    for (size_t i = 0; i < EAR_VECTOR_N; i++) {
        if (rule->pass[i] >= 0 && rule->fail[i] < 0) {
            rule->fail[i] = CONTRAINDICATED;
        }
    }
    return m[PASS].value || m[FAIL].value || rule->refuse
               ? 0
               : bad(r, n, "pass", "an effect: pass, fail or refuse", "none");
}

/* ---- the document ---------------------------------------------------------------------------- */

static int read_rules(struct reader *r, const yaml_node_t *of, const struct member *m,
                      struct policy *p)
{
    const yaml_node_t *n = m->value;

    if (!n || n->type != YAML_SEQUENCE_NODE) {
        return bad(r, n ? n : of, m->key, "a list", kind_of(n));
    }
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        if (p->n == POLICY_MAX_RULES) {
            return bad(r, node_at(r, *i), m->key, "at most 256 rules", "more");
        }
        struct rule *rule = &p->rules[p->n];
        int rc = read_rule(r, p, node_at(r, *i), rule);
        p->n++; /* freed with the policy, whole or not */
        if (rc) {
            return -1;
        }
    }
    return p->n ? 0 : bad(r, n, m->key, "at least one rule", "none");
}

static int read_metadata(struct reader *r, const yaml_node_t *of, const struct member *m,
                         struct policy *p)
{
    struct member meta[] = {{"name", NULL}, {"version", NULL}, {0}};
    const char *name, *version;

    if (!m->value) {
        return bad(r, of, m->key, "name and version", "nothing");
    }
    if (read_members(r, m->value, m->key, meta) ||
        need_text(r, m->value, &meta[0], POLICY_NAME_MAX, &name) ||
        need_text(r, m->value, &meta[1], 32, &version)) {
        return -1;
    }
    p->id = xasprintf("%s/%s", name, version);
    return 0;
}

static int read_document(struct reader *r, struct policy *p)
{
    struct member m[] = {{"apiVersion", NULL}, {"kind", NULL},  {"metadata", NULL},
                         {"tees", NULL},       {"rules", NULL}, {0}};
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);

    return read_members(r, root, "the document", m) || need_equal(r, root, &m[0], "coffer/v1") ||
                   need_equal(r, root, &m[1], "AppraisalPolicy") ||
                   read_metadata(r, root, &m[2], p) || read_tees(r, &m[3], &p->tees) ||
                   read_rules(r, root, &m[4], p)
               ? -1
               : 0;
}

/* One document; aliases were resolved, and share nodes, so they multiply nothing. */
static int load(struct reader *r, struct bytes yaml)
{
    yaml_parser_t parser;
    yaml_document_t next;
    int rc = -1;

    if (!yaml_parser_initialize(&parser)) {
        return err_set(r->e, ERR_INTERNAL, "cannot start a YAML parser");
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, yaml.p, yaml.n);
    if (!yaml_parser_load(&parser, &r->doc)) {
        err_set(r->e, ERR_INVALID, "%s:%zu: expected YAML, found: %s", r->file,
                parser.problem_mark.line + 1, parser.problem ? parser.problem : "an error");
        yaml_parser_delete(&parser);
        return -1;
    }
    if (!yaml_document_get_root_node(&r->doc)) {
        err_set(r->e, ERR_INVALID, "%s:1: expected a policy, found an empty file", r->file);
    } else if (!yaml_parser_load(&parser, &next)) {
        err_set(r->e, ERR_INVALID, "%s:%zu: expected one YAML document, found: %s", r->file,
                parser.problem_mark.line + 1, parser.problem ? parser.problem : "an error");
    } else {
        rc = yaml_document_get_root_node(&next)
                 ? err_set(r->e, ERR_INVALID, "%s: expected one YAML document, found another",
                           r->file)
                 : 0;
        yaml_document_delete(&next);
    }
    if (rc) {
        yaml_document_delete(&r->doc);
    }
    yaml_parser_delete(&parser);
    return rc;
}

/* Nesting costs nothing here: only three levels are ever looked at. */
int policy_parse(const char *file, struct bytes yaml, struct policy **ret, struct err *e)
{
    _cleanup_(policy_freep) struct policy *p = NULL;
    struct reader r = {.file = file, .e = e};

    if (yaml.n > POLICY_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "%s: expected at most %u bytes, found %zu", file,
                       POLICY_MAX_BYTES, yaml.n);
    }
    if (load(&r, yaml)) {
        return -1;
    }
    p = xcalloc(1, sizeof(*p));
    int rc = read_document(&r, p);
    yaml_document_delete(&r.doc);
    if (rc) {
        return -1;
    }
    *ret = TAKE_PTR(p);
    return 0;
}

int policy_read(const char *path, struct policy **ret, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(POLICY_MAX_BYTES);

    return file_read(path, POLICY_MAX_BYTES, 0, &text, e) ||
                   policy_parse(path, buf_bytes(&text), ret, e)
               ? -1
               : 0;
}

void policy_free(struct policy *p)
{
    if (!p) {
        return;
    }
    for (size_t i = 0; i < p->n; i++) {
        free(p->rules[i].name);
        free(p->rules[i].ref);
        json_decref(p->rules[i].value);
        for (size_t k = 0; k < p->rules[i].n_path; k++) {
            free(p->rules[i].path[k]);
        }
    }
    free(p->id);
    free(p);
}
