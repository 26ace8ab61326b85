/* scan [OPTION VALUE]... DIR...: does any file below the directories hold what must never be there?
 *
 *   --text FILE                 each line of FILE of 8 or more characters
 *   --dataset FILE --owner JWK  the dataset's data key: raw, hex, base64, base64url
 *   --image-key FILE --owner JWK   an image key's, likewise
 *   --skip NAME                 a file that may: its whole path
 *
 * Exit status: 0 none does, 1 some do (each is named), 2 usage. */
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "common/fileio.h"
#include "common/keybox.h"
#include "common/seal.h"

#define NEEDLES_MAX 512
#define SKIPS_MAX 16
#define TEXT_MIN 8
#define PREFIX_MAX_BYTES 65536

static struct needle {
    const char *what;
    uint8_t *p;
    size_t n;
} needles[NEEDLES_MAX];
static size_t n_needles;
static const char *skips[SKIPS_MAX];
static size_t n_skips;
static unsigned found, files;

static void add_needle(const char *what, const void *p, size_t n)
{
    if (n_needles == NEEDLES_MAX) {
        fprintf(stderr, "scan: too much to look for\n");
        exit(2);
    }
    needles[n_needles++] = (struct needle){.what = what, .p = xmemdup(p, n), .n = n};
}

static void add_key(const struct secret *key)
{
    const uint8_t *p = secret_cp(key);
    size_t n = secret_n(key);
    _cleanup_free_ char *hex = hex_encode(p, n), *url = b64url_encode(p, n),
                        *b64 = b64_encode(p, n);

    add_needle("a raw key", p, n);
    add_needle("a key in hex", hex, strlen(hex));
    add_needle("a key in base64url", url, strlen(url));
    add_needle("a key in base64", b64, strlen(b64));
}

static int add_text(const char *path)
{
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    char line[4096];

    while (f && fgets(line, sizeof(line), f)) {
        size_t n = strcspn(line, "\r\n");
        if (n >= TEXT_MIN) {
            add_needle("plaintext", line, n);
        }
    }
    return f ? 0 : -1;
}

static int add_dataset(const char *path, const struct jkey *owner, struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    _cleanup_free_ uint8_t *start = xmalloc(PREFIX_MAX_BYTES);
    size_t n = f ? fread(start, 1, PREFIX_MAX_BYTES, f) : 0;

    if (seal_header_parse(BYTES(start, n), &h, e) || seal_header_open_key(&h, owner, &key, e)) {
        return -1;
    }
    add_key(key);
    return 0;
}

static int add_image_key(const char *path, const struct jkey *owner, struct err *e)
{
    _cleanup_secret_ struct secret *key = NULL;
    char id[KEYBOX_ID_MAX + 1];
    json_t *j = json_load_file(path, 0, NULL);
    _cleanup_free_ char *jwe = json_dumps(json_object_get(j, "jwe"), JSON_COMPACT);
    int rc = image_key_id(json_object_get(j, "descriptor"), id, NULL, e) ||
             keybox_open(owner, jwe ? jwe : "", id, &key, e);

    json_decref(j);
    if (rc) {
        return -1;
    }
    add_key(key);
    return 0;
}

static int on_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)ftw;
    if (type != FTW_F || !S_ISREG(st->st_mode) || st->st_size == 0) {
        return 0;
    }
    for (size_t i = 0; i < n_skips; i++) {
        if (streq(path, skips[i])) {
            return 0;
        }
    }
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = (size_t)st->st_size;
    uint8_t *p = fd < 0 ? MAP_FAILED : mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        return 0; /* gone since it was listed */
    }
    files++;
    for (size_t i = 0; i < n_needles; i++) {
        if (memmem(p, n, needles[i].p, needles[i].n)) {
            fprintf(stderr, "scan: %s (%zu bytes) stands in %s\n", needles[i].what, needles[i].n,
                    path);
            found++;
        }
    }
    munmap(p, n);
    return 0;
}

static int take_option(const char *name, const char *value, struct jkey **owner, struct err *e)
{
    if (streq(name, "--owner")) {
        jkey_free(TAKE_PTR(*owner));
        return jkey_read_private(value, owner, e);
    }
    if (streq(name, "--text")) {
        return add_text(value) ? err_set(e, ERR_IO, "cannot read %s", value) : 0;
    }
    if (streq(name, "--skip") && n_skips < SKIPS_MAX) {
        skips[n_skips++] = value;
        return 0;
    }
    if (!*owner) {
        return err_set(e, ERR_INVALID, "%s needs --owner before it", name);
    }
    if (streq(name, "--dataset")) {
        return add_dataset(value, *owner, e);
    }
    if (streq(name, "--image-key")) {
        return add_image_key(value, *owner, e);
    }
    return err_set(e, ERR_INVALID, "no option %s", name);
}

int main(int argc, char **argv)
{
    _cleanup_jkey_ struct jkey *owner = NULL;
    struct err e = {0};
    int i = 1;

    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (take_option(argv[i], argv[i + 1], &owner, &e)) {
            fprintf(stderr, "scan: %s: %s\n", argv[i + 1], e.msg);
            return 2;
        }
    }
    if (i == argc || n_needles == 0) {
        fprintf(stderr, "scan: nothing to look for, or nowhere to look\n");
        return 2;
    }
    for (; i < argc; i++) {
        (void)nftw(argv[i], on_file, 32, FTW_PHYS);
    }
    for (size_t k = 0; k < n_needles; k++) {
        free(needles[k].p);
    }
    printf("%u files, %zu things to find, %u found\n", files, n_needles, found);
    return found ? 1 : 0;
}
