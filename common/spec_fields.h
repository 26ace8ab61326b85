/* The one table of a spec's fields, and the errors they give: internal to common/spec*.c.
 *
 * The table drives the YAML reader, its defaults, the strict check of the normal form and the JSON
 * Schema text, so that the four cannot say different things.
 */
#ifndef COFFER_SPEC_FIELDS_H
#define COFFER_SPEC_FIELDS_H

#include "common/spec.h"

#define SPEC_ENV_ARGS_MAX_BYTES 65536
/* What still fits SPEC_JWS_MAX_BYTES in base64url beside the JWS header and signature. */
#define SPEC_CANONICAL_MAX_BYTES ((SPEC_JWS_MAX_BYTES - 1024u) / 4u * 3u)

enum field_kind {
    F_OBJECT,   /* sub: its members */
    F_LIST,     /* sub: its one kind of item; min..max items */
    F_MAP,      /* name -> string, sub: the string; at most max members */
    F_STRING,   /* shape; min..max bytes */
    F_ENUM,     /* choices */
    F_BOOL,     /* */
    F_INT,      /* min..max */
    F_SIZE,     /* YAML: 64MiB; normal: bytes */
    F_DURATION, /* YAML: 10m; normal: milliseconds */
    F_CPU,      /* YAML: 1.5 or 500m; normal: thousandths of a CPU */
    F_NODE,     /* YAML: any, or 0..max; normal: -1 or the number */
    F_JWK,      /* YAML: self, a file or a JWK; normal: public P-256 JWK */
};

enum shape {
    SHAPE_TEXT,
    SHAPE_NAME,
    SHAPE_NONCE,
    SHAPE_DIGEST,
    SHAPE_KEY_ID,
    SHAPE_DATASET_ID,
    SHAPE_ENV_NAME,
    SHAPE_DIR,      /* absolute path */
    SHAPE_MOUNT,    /* absolute path away from what the sandbox itself mounts */
    SHAPE_REL_FILE, /* path below the output directory */
    SHAPE_N
};

struct shape_def {
    const char *pattern; /* for the JSON Schema; NULL: any text */
    /* NULL if `s` has the shape, else what was expected of it. */
    const char *(*check)(const char *s);
};

struct field {
    const char *key;  /* in the normal form */
    const char *name; /* in YAML */
    const char *doc;
    enum field_kind kind;
    enum shape shape;
    int required;     /* in YAML; the normal form requires all */
    int fresh;        /* made at random when absent */
    const char *dflt; /* YAML text; of a list: the items, one blank between */
    int64_t min, max;
    const struct field *sub;
    size_t n_sub;
    const char *const *choices; /* NULL-terminated */
};

extern const struct field spec_root;
extern const struct shape_def spec_shapes[SHAPE_N];

/* Where a value was read, and how it was written: for messages about it. */
struct spec_loc {
    char *path;
    unsigned line;
    char *shown; /* NULL for lists and mappings */
};

/* What is being checked: the YAML text `file`, or JSON when `file` is NULL. */
struct spec_source {
    const char *file;
    struct spec_loc *locs;
    size_t n_locs, size_locs;
};

void spec_source_note(struct spec_source *src, const char *path, unsigned line, const char *shown);
const struct spec_loc *spec_source_find(const struct spec_source *src, const char *path);
void spec_source_done(struct spec_source *src);

/* "output.files[3].path", built and cut back during a walk; what does not fit is left out. */
struct spec_path {
    char s[256];
    size_t n;
};

/* Both return the length to give to spec_path_pop. */
size_t spec_path_push(struct spec_path *p, const char *name);
size_t spec_path_push_index(struct spec_path *p, size_t i);
void spec_path_pop(struct spec_path *p, size_t n);

#define SPEC_SHOWN_MAX 96
/* Quotes `s`, escapes what is not plain text, and cuts what is long. */
void spec_show(const char *s, size_t n, int quote, char ret[SPEC_SHOWN_MAX]);
void spec_show_json(const json_t *j, char ret[SPEC_SHOWN_MAX]);

/* Sets "FILE:LINE: path: expected X, found Y" (line 0: that of the path), or for JSON
 * "spec.path: expected X, found Y". Returns -1. */
int spec_bad(const struct spec_source *src, const char *path, unsigned line, const char *expected,
             struct err *e, const char *found_fmt, ...) _printf_(6, 7);
/* An unknown member; suggests the nearest known one. `path` includes the member. */
int spec_bad_member(const struct spec_source *src, const struct field *f, const char *path,
                    unsigned line, const char *name, size_t name_len, struct err *e);
/* What a value of this field has to look like, in the terms of the source. */
void spec_expected(const struct field *f, int yaml, char *ret, size_t n);
/* The nearest of the NULL-terminated names, or NULL if none is near. */
const char *spec_nearest(const char *const *names, const char *s);

/* Checks a normal form and makes the spec of it; errors are phrased for `src`. */
int spec_from_normal(const json_t *normal, const struct spec_source *src, struct spec **ret,
                     struct err *e);

#endif
