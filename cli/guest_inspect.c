/* coffer image inspect: what is in a guest image. The image may be anybody's: what is shown of it
 * is cleaned, and what it unpacks to is bounded. */
#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>

#include "cli/verbs.h"
#include "common/fileio.h"
#include "common/jcs.h"
#include "guest/pe.h"

#define IMAGE_MAX_BYTES (512u << 20)
#define UNPACKED_MAX_BYTES (1ll << 30)
#define ENTRIES_MAX 65536u
#define STEP_BYTES 65536u

/* Owned; without what could steer a terminal. */
static char *clean(const char *s, size_t n)
{
    char *text = xasprintf("%.*s", n > 4096 ? 4096 : (int)n, s);

    cli_clean(text, strlen(text), 0);
    return text;
}

static char *sha256(struct bytes b)
{
    uint8_t digest[32] = {0};

    return EVP_Digest(b.p, b.n, digest, NULL, EVP_sha256(), NULL) == 1 ? hex_encode(digest, 32)
                                                                       : xstrdup("?");
}

/* The digest of the entry that the archive is at; NULL when it cannot be read. */
static char *entry_sha256(struct archive *a)
{
    _cleanup_free_ uint8_t *step = xcalloc(1, STEP_BYTES);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t digest[32];
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
    la_ssize_t n = 1;

    while (ok && n > 0) {
        n = archive_read_data(a, step, STEP_BYTES);
        ok = n >= 0 && archive_filter_bytes(a, 0) <= UNPACKED_MAX_BYTES &&
             EVP_DigestUpdate(ctx, step, (size_t)n) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(ctx, digest, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok ? hex_encode(digest, 32) : NULL;
}

/* One of "file", "directory", "link", "device". */
static int add_entry(struct cli *c, struct archive *a, struct archive_entry *x, json_t *list)
{
    const char *path = archive_entry_pathname(x), *target = archive_entry_symlink(x);
    _cleanup_free_ char *name = clean(path ? path : "?", path ? strlen(path) : 1);
    _cleanup_free_ char *to = target ? clean(target, strlen(target)) : NULL;
    _cleanup_free_ char *digest = NULL;
    mode_t mode = archive_entry_mode(x);
    json_t *o = json_pack("{s:s,s:i,s:I}", "path", name, "mode", (int)mode, "bytes",
                          (json_int_t)archive_entry_size(x));

    if (to) {
        json_object_set_new(o, "target", json_string(to));
    }
    if (S_ISREG(mode)) {
        digest = entry_sha256(a);
        if (!digest) {
            json_decref(o);
            return -1;
        }
        json_object_set_new(o, "sha256", json_string(digest));
    }
    json_array_append_new(list, o);
    cli_say(c, "%06o %9lld  %-64s  %s%s%s", (unsigned)mode, (long long)archive_entry_size(x),
            digest ? digest : "", name, to ? " -> " : "", to ? to : "");
    return 0;
}

static int list_initramfs(struct cli *c, struct bytes in, json_t *list, struct err *e)
{
    struct archive *a = archive_read_new();
    struct archive_entry *x;
    int rc = ARCHIVE_FATAL, bad = 1;

    if (a && archive_read_support_filter_zstd(a) == ARCHIVE_OK &&
        archive_read_support_format_cpio(a) == ARCHIVE_OK &&
        archive_read_open_memory(a, in.p, in.n) == ARCHIVE_OK) {
        bad = 0;
        while (!bad && json_array_size(list) < ENTRIES_MAX &&
               (rc = archive_read_next_header(a, &x)) == ARCHIVE_OK) {
            bad = add_entry(c, a, x, list);
        }
    }
    archive_read_free(a);
    return !bad && rc == ARCHIVE_EOF
               ? 0
               : err_refuse(e, ERR_INVALID, "image.initrd",
                            "a cpio archive, compressed with Zstandard, of at most 65536 files "
                            "and 1 GiB",
                            "one that ends after %zu files", json_array_size(list));
}

static void add_section(struct cli *c, const struct pe *p, const struct pe_section *s, json_t *list)
{
    struct bytes content = pe_content(p, s);
    _cleanup_free_ char *name = clean(s->name, strlen(s->name)), *digest = sha256(content);

    cli_say(c, "%-9s %10zu  sha256 %s", name, content.n, digest);
    json_array_append_new(list, json_pack("{s:s,s:I,s:s}", "name", name, "bytes",
                                          (json_int_t)content.n, "sha256", digest));
}

static int inspect(struct cli *c, struct bytes uki, json_t *o, struct err *e)
{
    json_t *sections = json_array(), *files = json_array();
    const struct pe_section *s;
    struct pe p;

    json_object_set_new(o, "sections", sections);
    json_object_set_new(o, "initramfs", files);
    if (pe_parse(uki, &p, e)) {
        return err_wrap(e, "image");
    }
    _cleanup_free_ char *whole = sha256(uki);
    json_object_set_new(o, "sha256", json_string(whole));
    cli_say(c, "image     %10zu  sha256 %s", uki.n, whole);
    for (size_t i = 0; i < p.n; i++) {
        add_section(c, &p, &p.s[i], sections);
    }
    s = pe_find(&p, ".cmdline");
    if (s) {
        struct bytes text = pe_content(&p, s);
        _cleanup_free_ char *line = clean((const char *)text.p, text.n);
        json_object_set_new(o, "cmdline", json_string(line));
        cli_say(c, "command line: %s", line);
    }
    s = pe_find(&p, ".initrd");
    return s ? list_initramfs(c, pe_content(&p, s), files, e) : 0;
}

int verb_image_inspect(struct cli *c, int argc, char **argv)
{
    _cleanup_buf_ struct buf uki = BUF_INIT(IMAGE_MAX_BYTES);
    _cleanup_json_ json_t *o = json_object();
    struct err e = {0};
    struct stat st;

    (void)argc;
    int dir = stat(argv[0], &st) == 0 && S_ISDIR(st.st_mode);
    _cleanup_free_ char *path = dir ? xasprintf("%s/coffer.efi", argv[0]) : xstrdup(argv[0]);
    if (file_read(path, IMAGE_MAX_BYTES, 0, &uki, &e) || inspect(c, buf_bytes(&uki), o, &e)) {
        return cli_fail(c, &e);
    }
    return c->json ? cli_json(c, TAKE_PTR(o)) : CLI_OK;
}
