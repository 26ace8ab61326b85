#include "common/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>

#include "common/buf.h"

#define CONFIG_FILE_MAX_BYTES 65536
#define CONFIG_MAX_ITEMS 64

const struct config_item config_common[] = {
    {.name = "nats-url",
     .type = CONFIG_STR,
     .dflt = "tls://localhost:4222",
     .help = "nats-server to connect to"},
    {.name = "nats-ca",
     .type = CONFIG_PATH,
     .dflt = "/etc/coffer/nats-ca.pem",
     .help = "PEM file of the CA that signed nats-server's certificate"},
    {.name = "nats-seed",
     .type = CONFIG_PATH,
     .dflt = "/etc/coffer/nats.seed",
     .help = "file with this service's nkey seed (mode 0600)"},
    {.name = "data-dir",
     .type = CONFIG_PATH,
     .dflt = "/var/lib/coffer",
     .help = "directory for this service's own state"},
    {.name = "trust",
     .type = CONFIG_PATH,
     .dflt = "/etc/coffer/trust.json",
     .help = "public keys of the other trusted parties"},
    {.name = "host",
     .type = CONFIG_STR,
     .dflt = "localhost",
     .help = "name of this host on the bus ([A-Za-z0-9_-], launcher only)"},
    {.name = "generate-keys",
     .type = CONFIG_BOOL,
     .dflt = "true",
     .help = "make missing private keys at the first start"},
    {.name = "log-level", .type = CONFIG_STR, .dflt = "info", .help = "debug, info, warn or error"},
    {.name = "log-json", .type = CONFIG_BOOL, .dflt = "false", .help = "log lines as JSON"},
    {.name = "die-with-parent",
     .type = CONFIG_BOOL,
     .dflt = "false",
     .help = "stop when the process that started this one ends"},
};
const size_t n_config_common = ARRAY_LEN(config_common);

struct value {
    const struct config_item *item;
    char *text;
    int64_t number;
    const char *source; /* "default", "file", "environment", "command line"; static */
};

struct config {
    struct value values[CONFIG_MAX_ITEMS];
    size_t n;
};

static struct value *find(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->n; i++) {
        if (streq(c->values[i].item->name, name)) {
            return (struct value *)&c->values[i];
        }
    }
    return NULL;
}

static int parse_bool(const char *s, int64_t *ret)
{
    if (streq(s, "true") || streq(s, "yes") || streq(s, "on") || streq(s, "1")) {
        *ret = 1;
        return 0;
    }
    if (streq(s, "false") || streq(s, "no") || streq(s, "off") || streq(s, "0")) {
        *ret = 0;
        return 0;
    }
    return -1;
}

static int set_value(struct value *v, const char *text, const char *source, struct err *e)
{
    const struct config_item *it = v->item;
    const char *shown = it->secret ? "(hidden)" : text;

    switch (it->type) {
    case CONFIG_INT: {
        char *end = NULL;
        errno = 0;
        long long n = strtoll(text, &end, 10);
        if (errno || end == text || *end || n < it->min || n > it->max) {
            return err_set(e, ERR_INVALID, "%s (%s): expected an integer %lld..%lld, found \"%s\"",
                           it->name, source, (long long)it->min, (long long)it->max, shown);
        }
        v->number = n;
        break;
    }
    case CONFIG_BOOL:
        if (parse_bool(text, &v->number) < 0) {
            return err_set(e, ERR_INVALID, "%s (%s): expected true or false, found \"%s\"",
                           it->name, source, shown);
        }
        break;
    case CONFIG_STR:
    case CONFIG_PATH:
        break;
    }
    free(v->text);
    v->text = xstrdup(text);
    v->source = source;
    return 0;
}

static int add_items(struct config *c, const struct config_item *items, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        struct value *known = find(c, items[i].name);
        if (known) {
            /* A service may give a common item a default of its own. */
            known->item = &items[i];
        } else {
            if (c->n == CONFIG_MAX_ITEMS) {
                return err_set(e, ERR_INTERNAL, "more than %d configuration items",
                               CONFIG_MAX_ITEMS);
            }
            known = &c->values[c->n++];
            known->item = &items[i];
        }
        if (items[i].dflt && set_value(known, items[i].dflt, "default", e) < 0) {
            return -1;
        }
    }
    return 0;
}

static void print_help(const char *program, const char *about, const struct config *c)
{
    printf(
        "Usage: %s [--NAME VALUE]...\n\n%s\n\nEach option can also be given as COFFER_NAME in the "
        "environment, or as a line\n\"name = value\" in the file named by --config.\n\nOptions:\n",
        program, about);
    for (size_t i = 0; i < c->n; i++) {
        const struct config_item *it = c->values[i].item;
        printf("  --%-22s %s", it->name, it->help);
        if (!it->dflt) {
            printf(" (required)");
        } else if (it->dflt[0] && !it->secret) {
            printf(" (default: %s)", it->dflt);
        }
        putchar('\n');
    }
    printf("  --%-22s %s\n  --%-22s %s\n  --%-22s %s\n", "config FILE",
           "read options from this file", "help", "this text", "version", "the version");
    printf("\nExit status: 0 stopped as asked, 1 failed, 2 wrong usage.\n");
}

static int set_named(struct config *c, const char *name, const char *value, const char *source,
                     const char *where, struct err *e)
{
    struct value *v = find(c, name);

    if (!v) {
        return err_set(e, ERR_INVALID, "%s: unknown option \"%s\" (see --help)", where, name);
    }
    return set_value(v, value, source, e);
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) {
        s++;
    }
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) {
        s[--n] = '\0';
    }
    return s;
}

static int read_file(struct config *c, const char *path, struct err *e)
{
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    char line[4096];
    size_t total = 0;

    if (!f) {
        return err_errno(e, "configuration file %s", path);
    }
    for (int number = 1; fgets(line, sizeof(line), f); number++) {
        char where[300];
        char *eq;

        total += strlen(line);
        if (total > CONFIG_FILE_MAX_BYTES || (!strchr(line, '\n') && !feof(f))) {
            return err_set(e, ERR_TOO_LARGE, "%s:%d: line or file too long", path, number);
        }
        char *text = trim(line);
        if (*text == '\0' || *text == '#') {
            continue;
        }
        snprintf(where, sizeof(where), "%s:%d", path, number);
        eq = strchr(text, '=');
        if (!eq) {
            return err_set(e, ERR_INVALID, "%s: expected \"name = value\", found \"%.80s\"", where,
                           text);
        }
        *eq = '\0';
        if (set_named(c, trim(text), trim(eq + 1), "file", where, e) < 0) {
            return -1;
        }
    }
    return ferror(f) ? err_errno(e, "read %s", path) : 0;
}

static int read_environment(struct config *c, struct err *e)
{
    for (size_t i = 0; i < c->n; i++) {
        char name[80] = "COFFER_";
        size_t n = strlen(name);
        for (const char *p = c->values[i].item->name; *p && n + 1 < sizeof(name); p++) {
            name[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
        }
        name[n] = '\0';
        const char *text = getenv(name);
        if (text && set_value(&c->values[i], text, "environment", e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Finds --config before anything else, since the command line wins over the file. */
static const char *config_file_arg(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (streq(argv[i], "--config") && i + 1 < argc) {
            return argv[i + 1];
        }
        if (strncmp(argv[i], "--config=", 9) == 0) {
            return argv[i] + 9;
        }
    }
    return getenv("COFFER_CONFIG");
}

static int read_command_line(struct config *c, int argc, char **argv, struct err *e)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        char name[64];
        const char *value;

        if (strncmp(arg, "--", 2) != 0 || !arg[2]) {
            return err_set(e, ERR_INVALID, "command line: expected --NAME VALUE, found \"%s\"",
                           arg);
        }
        const char *eq = strchr(arg, '=');
        size_t n = eq ? (size_t)(eq - arg) - 2 : strlen(arg) - 2;
        snprintf(name, sizeof(name), "%.*s", (int)n, arg + 2);
        if (eq) {
            value = eq + 1;
        } else if (i + 1 < argc) {
            value = argv[++i];
        } else {
            return err_set(e, ERR_INVALID, "command line: --%s needs a value", name);
        }
        if (streq(name, "config")) {
            continue;
        }
        if (set_named(c, name, value, "command line", "command line", e) < 0) {
            return -1;
        }
    }
    return 0;
}

int config_load(const char *program, const char *about, const struct config_item *items, size_t n,
                int argc, char **argv, struct config **ret, struct err *e)
{
    _cleanup_(config_freep) struct config *c = xcalloc(1, sizeof(*c));

    if (add_items(c, config_common, n_config_common, e) < 0 || add_items(c, items, n, e) < 0) {
        return -1;
    }
    for (int i = 1; i < argc; i++) {
        if (streq(argv[i], "--help") || streq(argv[i], "-h")) {
            print_help(program, about, c);
            exit(0);
        }
        if (streq(argv[i], "--version")) {
            printf("%s %s\n", program, COFFER_VERSION);
            exit(0);
        }
    }
    const char *file = config_file_arg(argc, argv);
    if (file && read_file(c, file, e) < 0) {
        return -1;
    }
    if (read_environment(c, e) < 0 || read_command_line(c, argc, argv, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < c->n; i++) {
        if (!c->values[i].text) {
            return err_set(e, ERR_INVALID, "--%s is required (see --help)",
                           c->values[i].item->name);
        }
    }
    *ret = TAKE_PTR(c);
    return 0;
}

struct config *config_make(const struct config_item *items, size_t n, ...)
{
    struct config *c = xcalloc(1, sizeof(*c));
    struct err e = {0};
    const char *name;
    va_list ap;

    if (add_items(c, config_common, n_config_common, &e) < 0 || add_items(c, items, n, &e) < 0) {
        fprintf(stderr, "config_make: %s\n", e.msg);
        abort();
    }
    va_start(ap, n);
    while ((name = va_arg(ap, const char *))) {
        if (set_named(c, name, va_arg(ap, const char *), "test", "test", &e) < 0) {
            fprintf(stderr, "config_make: %s\n", e.msg);
            abort();
        }
    }
    va_end(ap);
    for (size_t i = 0; i < c->n; i++) {
        if (!c->values[i].text) {
            c->values[i].text = xstrdup("");
        }
    }
    return c;
}

static const struct value *must_find(const struct config *c, const char *name)
{
    const struct value *v = find(c, name);

    if (!v) {
        fprintf(stderr, "configuration has no item \"%s\"\n", name);
        abort();
    }
    return v;
}

const char *config_str(const struct config *c, const char *name)
{
    return must_find(c, name)->text;
}

int64_t config_int(const struct config *c, const char *name)
{
    return must_find(c, name)->number;
}

int config_bool(const struct config *c, const char *name)
{
    return must_find(c, name)->number != 0;
}

char *config_describe(const struct config *c)
{
    _cleanup_buf_ struct buf b = BUF_INIT(64 * 1024);

    for (size_t i = 0; i < c->n; i++) {
        const struct value *v = &c->values[i];
        if (buf_addf(&b, NULL, "%s%s=%s", i ? " " : "", v->item->name,
                     v->item->secret ? "(hidden)" : v->text) < 0) {
            break;
        }
    }
    return xstrndup((const char *)b.p, b.n);
}

void config_free(struct config *c)
{
    if (!c) {
        return;
    }
    for (size_t i = 0; i < c->n; i++) {
        if (c->values[i].text) {
            explicit_bzero(c->values[i].text, strlen(c->values[i].text));
        }
        free(c->values[i].text);
    }
    free(c);
}
