/* The JSON Schema of the YAML form, made of the table of fields. */
#include <inttypes.h>
#include <pthread.h>

#include "common/spec_fields.h"

static json_t *schema_of(const struct field *f);

static void set_str(json_t *o, const char *key, const char *s)
{
    json_object_set_new(o, key, json_string(s));
}

static void set_int(json_t *o, const char *key, int64_t v)
{
    json_object_set_new(o, key, json_integer(v));
}

static json_t *choices_of(const struct field *f)
{
    json_t *a = json_array();

    for (size_t i = 0; f->choices[i]; i++) {
        json_array_append_new(a, json_string(f->choices[i]));
    }
    return a;
}

static void object_schema(const struct field *f, json_t *o)
{
    json_t *props = json_object(), *required = json_array();

    for (size_t i = 0; i < f->n_sub; i++) {
        json_object_set_new(props, f->sub[i].name, schema_of(&f->sub[i]));
        if (f->sub[i].required) {
            json_array_append_new(required, json_string(f->sub[i].name));
        }
    }
    set_str(o, "type", "object");
    json_object_set_new(o, "properties", props);
    json_object_set_new(o, "required", required);
    json_object_set_new(o, "additionalProperties", json_false());
}

static void list_schema(const struct field *f, json_t *o)
{
    json_t *dflt = json_array();

    set_str(o, "type", "array");
    json_object_set_new(o, "items", schema_of(f->sub));
    set_int(o, "minItems", f->min);
    set_int(o, "maxItems", f->max);
    for (const char *p = f->dflt; *p;) {
        size_t n = strcspn(p, " ");
        json_array_append_new(dflt, json_stringn(p, n));
        p += n + (p[n] == ' ');
    }
    json_object_set_new(o, "default", dflt);
}

static void string_schema(const struct field *f, json_t *o)
{
    set_str(o, "type", "string");
    /* Characters here, bytes in the check: never stricter than the check. */
    set_int(o, "minLength", f->min ? 1 : 0);
    if (f->min > 1) {
        set_int(o, "minLength", f->min);
    }
    set_int(o, "maxLength", f->max);
    if (spec_shapes[f->shape].pattern) {
        set_str(o, "pattern", spec_shapes[f->shape].pattern);
    }
}

/* What takes a unit; a bare number, too, where `bare` says so. */
static void unit_schema(json_t *o, const char *bare, const char *pattern)
{
    json_t *one = json_object();

    set_str(one, "type", "string");
    set_str(one, "pattern", pattern);
    if (!bare) {
        json_object_update(o, one);
        json_decref(one);
        return;
    }
    json_t *any = json_array(), *number = json_object();
    set_str(number, "type", bare);
    json_array_append_new(any, number);
    json_array_append_new(any, one);
    json_object_set_new(o, "anyOf", any);
}

/* "any", or a number. */
static void node_schema(const struct field *f, json_t *o)
{
    json_t *any = json_array(), *word = json_object(), *number = json_object();

    set_str(word, "const", "any");
    set_str(number, "type", "integer");
    set_int(number, "minimum", 0);
    set_int(number, "maximum", f->max);
    json_array_append_new(any, word);
    json_array_append_new(any, number);
    json_object_set_new(o, "anyOf", any);
}

static void map_schema(const struct field *f, json_t *o)
{
    json_t *names = json_object();

    set_str(names, "pattern", spec_shapes[SHAPE_ENV_NAME].pattern);
    set_int(names, "maxLength", 128);
    set_str(o, "type", "object");
    json_object_set_new(o, "propertyNames", names);
    json_object_set_new(o, "additionalProperties", schema_of(f->sub));
    set_int(o, "maxProperties", f->max);
    json_object_set_new(o, "default", json_object());
}

static void jwk_schema(json_t *o)
{
    json_t *file = json_object(), *jwk = json_object(), *props = json_object();
    json_t *any = json_array(), *required = json_array();
    static const char *const members[] = {"crv", "kty", "x", "y"};

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        json_t *m = json_object();
        if (i < 2) {
            set_str(m, "const", i == 0 ? "P-256" : "EC");
        } else {
            set_str(m, "type", "string");
            set_str(m, "pattern", "^[A-Za-z0-9_-]{43}$");
        }
        json_object_set_new(props, members[i], m);
        json_array_append_new(required, json_string(members[i]));
    }
    set_str(file, "type", "string");
    set_int(file, "minLength", 1);
    set_str(jwk, "type", "object");
    json_object_set_new(jwk, "properties", props);
    json_object_set_new(jwk, "required", required);
    json_object_set_new(jwk, "additionalProperties", json_false());
    json_array_append_new(any, file);
    json_array_append_new(any, jwk);
    json_object_set_new(o, "anyOf", any);
}

static json_t *schema_of(const struct field *f)
{
    json_t *o = json_object();
    char range[160];

    set_str(o, "description", f->doc);
    switch (f->kind) {
    case F_OBJECT:
        object_schema(f, o);
        return o;
    case F_LIST:
        list_schema(f, o);
        return o;
    case F_MAP:
        map_schema(f, o);
        return o;
    case F_STRING:
        string_schema(f, o);
        break;
    case F_ENUM:
        json_object_set_new(o, "enum", choices_of(f));
        break;
    case F_BOOL:
        set_str(o, "type", "boolean");
        json_object_set_new(o, "default", json_boolean(streq(f->dflt, "true")));
        return o;
    case F_INT:
        set_str(o, "type", "integer");
        set_int(o, "minimum", f->min);
        set_int(o, "maximum", f->max);
        set_int(o, "default", strtoll(f->dflt, NULL, 10));
        return o;
    case F_SIZE:
        unit_schema(o, "integer", "^(0|[1-9][0-9]*)(KiB|MiB|GiB)?$");
        break;
    case F_DURATION:
        unit_schema(o, NULL, "^(0|[1-9][0-9]*)[smh]$");
        break;
    case F_CPU:
        unit_schema(o, "number", "^(0|[1-9][0-9]*)(m|[.][0-9]{1,3})?$");
        break;
    case F_NODE:
        node_schema(f, o);
        break;
    case F_JWK:
        jwk_schema(o);
        break;
    }
    if (f->kind == F_SIZE || f->kind == F_DURATION || f->kind == F_CPU) {
        spec_expected(f, 1, range, sizeof(range));
        _cleanup_free_ char *doc = xasprintf("%s Expects %s.", f->doc, range);
        set_str(o, "description", doc);
    }
    if (f->dflt) {
        set_str(o, "default", f->dflt);
    }
    return o;
}

static char *text;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_text(void)
{
    _cleanup_json_ json_t *o = json_object();
    _cleanup_json_ json_t *root = schema_of(&spec_root);

    set_str(o, "$schema", "https://json-schema.org/draft/2020-12/schema");
    set_str(o, "$id", "urn:coffer:schema:job:v1");
    set_str(o, "title", "Coffer job spec");
    json_object_update(o, root);
    text = json_dumps(o, JSON_INDENT(2));
    if (!text) {
        abort();
    }
}

const char *spec_json_schema(void)
{
    pthread_once(&once, make_text);
    return text;
}
