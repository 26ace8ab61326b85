/* The headers of a tar stream (POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU long names), and nothing
 * of its contents: those are skipped, so that a stream of any size is indexed in little time. */
#include "common/untar.h"
#include "svc-worker/decryptfs_int.h"

#define BLOCK 512u
#define EXTENSION_MAX_BYTES 65536u
/* Zero blocks and other rests that may follow the end of an archive. */
#define PADDING_MAX_BYTES (1u << 20)

struct scan {
    const struct dfs_source *src;
    uint64_t at;
    /* From extension headers; for the next entry. */
    char *name, *target; /* owned */
    int has_size;
    uint64_t bytes;
};

static void scan_forget(struct scan *s)
{
    free(s->name);
    free(s->target);
    s->name = s->target = NULL;
    s->has_size = 0;
}

/* Numbers are octal text, or base 256 with the first bit set. */
static int number(const uint8_t *p, size_t n, uint64_t *ret)
{
    uint64_t v = 0;
    size_t i = 0;

    if (p[0] & 0x80) {
        if (p[0] & 0x7f) {
            return -1; /* negative, or more than any size */
        }
        for (i = 1; i < n; i++) {
            if (v >> 55) {
                return -1;
            }
            v = v << 8 | p[i];
        }
        *ret = v;
        return 0;
    }
    while (i < n && p[i] == ' ') {
        i++;
    }
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
        v = v * 8 + (uint64_t)(p[i] - '0'); /* at most 12 digits */
    }
    if (i < n && p[i] != 0 && p[i] != ' ') {
        return -1;
    }
    *ret = v;
    return 0;
}

static int checksum_ok(const uint8_t *h)
{
    uint64_t sum = 0, want;

    for (size_t i = 0; i < BLOCK; i++) {
        sum += i >= 148 && i < 156 ? ' ' : h[i];
    }
    return number(h + 148, 8, &want) == 0 && want == sum;
}

static int is_zero(const uint8_t *h)
{
    for (size_t i = 0; i < BLOCK; i++) {
        if (h[i]) {
            return 0;
        }
    }
    return 1;
}

static char *field(const uint8_t *p, size_t n)
{
    return xstrndup((const char *)p, n);
}

static char *header_name(const uint8_t *h)
{
    int ustar = memcmp(h + 257, "ustar", 6) == 0;
    _cleanup_free_ char *name = field(h, 100);

    if (!ustar || !h[345]) {
        return TAKE_PTR(name);
    }
    _cleanup_free_ char *prefix = field(h + 345, 155);
    return xasprintf("%s/%s", prefix, name);
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + BLOCK - 1) / BLOCK * BLOCK; /* bytes < 2^63 */
}

/* Takes n bytes of the stream: checks that they are there. */
static int take(struct scan *s, uint64_t n, struct err *e)
{
    if (n > s->src->bytes - s->at) {
        return err_set(e, ERR_INVALID, "tar stream: is cut off at byte %llu",
                       (unsigned long long)s->src->bytes);
    }
    s->at += n;
    return 0;
}

/* The content of an extension header, with a NUL after it. */
static int read_extension(struct scan *s, uint64_t bytes, uint8_t **ret, struct err *e)
{
    uint64_t from = s->at;

    if (bytes > EXTENSION_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "tar stream: an extended header of %llu bytes, at most %u",
                       (unsigned long long)bytes, EXTENSION_MAX_BYTES);
    }
    if (take(s, padded(bytes), e) < 0) {
        return -1;
    }
    _cleanup_free_ uint8_t *p = xcalloc(1, (size_t)bytes + 1);
    if (bytes && s->src->read(s->src->arg, p, (size_t)bytes, from, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(p);
    return 0;
}

static int set_text(char **to, const uint8_t *p, size_t n, struct err *e)
{
    if (n == 0 || memchr(p, 0, n)) {
        return err_set(e, ERR_INVALID, "tar stream: a name in an extended header with a NUL byte");
    }
    free(*to);
    *to = xstrndup((const char *)p, n);
    return 0;
}

static int pax_number(const uint8_t *p, size_t n, uint64_t *ret, struct err *e)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9' || v > INT64_MAX / 16) {
            return err_set(e, ERR_INVALID, "tar stream: a size in an extended header is none");
        }
        v = v * 10 + (uint64_t)(p[i] - '0');
    }
    *ret = v;
    return n ? 0 : err_set(e, ERR_INVALID, "tar stream: an empty size in an extended header");
}

static int key_is(const uint8_t *key, size_t n, const char *want)
{
    return n == strlen(want) && memcmp(key, want, n) == 0;
}

static int pax_record(struct scan *s, const uint8_t *key, size_t key_n, const uint8_t *value,
                      size_t value_n, struct err *e)
{
    if (key_is(key, key_n, "path")) {
        return set_text(&s->name, value, value_n, e);
    }
    if (key_is(key, key_n, "linkpath")) {
        return set_text(&s->target, value, value_n, e);
    }
    if (key_is(key, key_n, "size")) {
        s->has_size = 1;
        return pax_number(value, value_n, &s->bytes, e);
    }
    if (key_n > 11 && memcmp(key, "GNU.sparse.", 11) == 0) {
        return err_set(e, ERR_UNSUPPORTED, "tar stream: has a sparse file");
    }
    return 0; /* times, owners, attributes: nothing that is shown */
}

/* "<length> <key>=<value>\n", the length counting all of it. */
static int pax_records(struct scan *s, const uint8_t *p, size_t n, struct err *e)
{
    while (n) {
        size_t len = 0, i = 0;
        for (; i < n && i < 6 && p[i] >= '0' && p[i] <= '9'; i++) {
            len = len * 10 + (size_t)(p[i] - '0');
        }
        if (i == 0 || i >= n || p[i] != ' ' || len > n || len < i + 3 || p[len - 1] != '\n') {
            return err_set(e, ERR_INVALID, "tar stream: an extended header that cannot be read");
        }
        const uint8_t *key = p + i + 1;
        const uint8_t *equals = memchr(key, '=', len - i - 2);
        if (!equals) {
            return err_set(e, ERR_INVALID, "tar stream: an extended header that cannot be read");
        }
        if (pax_record(s, key, (size_t)(equals - key), equals + 1,
                       (size_t)(p + len - 1 - (equals + 1)), e) < 0) {
            return -1;
        }
        p += len;
        n -= len;
    }
    return 0;
}

static int extension(struct scan *s, char type, uint64_t bytes, struct err *e)
{
    _cleanup_free_ uint8_t *p = NULL;

    if (read_extension(s, bytes, &p, e) < 0) {
        return -1;
    }
    switch (type) {
    case 'x':
        return pax_records(s, p, (size_t)bytes, e);
    case 'L':
        return set_text(&s->name, p, strlen((char *)p), e);
    case 'K':
        return set_text(&s->target, p, strlen((char *)p), e);
    default: /* a letter, not an enum */
        return err_set(e, ERR_UNSUPPORTED, "tar stream: a global extended header");
    }
}

static int entry(struct scan *s, const uint8_t *h, uint64_t bytes,
                 int (*add)(void *, const struct dfs_tar_entry *, struct err *), void *arg,
                 struct err *e)
{
    _cleanup_free_ char *name = s->name ? TAKE_PTR(s->name) : header_name(h);
    _cleanup_free_ char *target = s->target ? TAKE_PTR(s->target) : field(h + 157, 100);
    struct dfs_tar_entry t = {.type = (char)h[156], .name = name, .target = target};
    size_t n = strlen(name);
    uint64_t mode;

    if (s->has_size) {
        bytes = s->bytes;
    }
    scan_forget(s);
    if (number(h + 100, 8, &mode) < 0) {
        return err_set(e, ERR_INVALID, "tar entry \"%.200s\": its mode is no number", name);
    }
    t.mode = (mode_t)(mode & 07777);
    if (t.type == 0 || t.type == '7') {
        t.type = '0';
    }
    /* Tar had no type for directories once. */
    if (t.type == '0' && n && name[n - 1] == '/') {
        t.type = '5';
    }
    if (t.type == '1') {
        return err_set(e, ERR_UNSUPPORTED, "tar entry \"%.200s\": is a hard link", name);
    }
    if (t.type != '0' && t.type != '2' && t.type != '5') {
        return err_set(e, ERR_UNSUPPORTED,
                       "tar entry \"%.200s\": is of type %u: only files, directories and links are "
                       "shown",
                       name, (unsigned)(unsigned char)t.type);
    }
    t.offset = s->at;
    t.bytes = t.type == '0' ? bytes : 0;
    if (t.type == '0' && take(s, padded(bytes), e) < 0) {
        return err_wrap(e, "tar entry \"%.200s\"", name);
    }
    return add(arg, &t, e);
}

static int headers(struct scan *s, uint64_t max_entries,
                   int (*add)(void *, const struct dfs_tar_entry *, struct err *), void *arg,
                   struct err *e)
{
    uint8_t h[BLOCK];
    uint64_t bytes;

    for (uint64_t left = max_entries * 3;; left--) {
        /* Some programs leave out the end mark. */
        if (s->at == s->src->bytes) {
            break;
        }
        if (left == 0) {
            return err_set(e, ERR_TOO_LARGE, "tar stream: more entries than allowed");
        }
        uint64_t from = s->at;
        if (take(s, BLOCK, e) < 0 || s->src->read(s->src->arg, h, BLOCK, from, e) < 0) {
            return -1;
        }
        if (is_zero(h)) {
            break;
        }
        if (!checksum_ok(h) || number(h + 124, 12, &bytes) < 0 || bytes > INT64_MAX / 2) {
            return err_set(e, ERR_INVALID, "tar stream: byte %llu is not the start of a header",
                           (unsigned long long)from);
        }
        int more = h[156] == 'x' || h[156] == 'g' || h[156] == 'L' || h[156] == 'K';
        if (more ? extension(s, (char)h[156], bytes, e) : entry(s, h, bytes, add, arg, e)) {
            return -1;
        }
    }
    if (s->src->bytes - s->at > PADDING_MAX_BYTES) {
        return err_set(e, ERR_INVALID, "tar stream: more than %u bytes follow its end",
                       PADDING_MAX_BYTES);
    }
    return 0;
}

int dfs_tar_scan(const struct dfs_source *src, uint64_t max_entries,
                 int (*add)(void *arg, const struct dfs_tar_entry *entry, struct err *e), void *arg,
                 struct err *e)
{
    struct scan s = {.src = src};
    int rc = headers(&s, max_entries, add, arg, e);

    scan_forget(&s);
    return rc;
}
