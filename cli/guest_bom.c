#include "cli/guest_bom.h"

#include <sys/stat.h>

#include "common/fileio.h"
#include "guest/sbom.h"

#define EXTRA_MAX 16u /* beside the files of the initramfs */

struct list {
    struct sbom_file files[GUEST_PACKAGE_FILES_MAX];
    const char *sources[GUEST_PACKAGE_FILES_MAX];
    char *paths[GUEST_PACKAGE_FILES_MAX];
    size_t n;
    struct guest_packages packages;
    struct buf linked[EXTRA_MAX];
};

static void list_done(struct list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free(l->paths[i]);
    }
    for (size_t i = 0; i < EXTRA_MAX; i++) {
        buf_done(&l->linked[i]);
    }
    l->n = 0;
}

static int add(struct list *l, const char *path, const char *source, struct bytes content,
               struct err *e)
{
    if (l->n == ARRAY_LEN(l->files)) {
        return err_refuse(e, ERR_TOO_LARGE, "image", "at most 512 files", "more");
    }
    l->paths[l->n] = xasprintf("./%s", path);
    l->sources[l->n] = source;
    l->files[l->n] = (struct sbom_file){l->paths[l->n], content};
    l->n++;
    return 0;
}

static int collect(const struct guest_bom *b, struct list *l, struct err *e)
{
    for (size_t i = 0; i < b->fs->n; i++) {
        const struct initramfs_entry *x = &b->fs->v[i];
        if (S_ISREG(x->mode) && add(l, x->path, x->source, buf_bytes(&x->content), e)) {
            return -1;
        }
    }
    if (b->linked_n > EXTRA_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "--linked", "at most 16 files", "%zu", b->linked_n);
    }
    for (size_t i = 0; i < b->linked_n; i++) {
        const char *slash = strrchr(b->linked[i], '/');
        _cleanup_free_ char *path = xasprintf("init/%s", slash ? slash + 1 : b->linked[i]);
        l->linked[i] = BUF_INIT(64u << 20);
        if (file_read(b->linked[i], 64u << 20, 0, &l->linked[i], e)) {
            return err_wrap(e, "--linked");
        }
        if (add(l, path, b->linked[i], buf_bytes(&l->linked[i]), e)) {
            return -1;
        }
    }
    return add(l, ".linux", b->kernel, b->kernel_bytes, e) ||
                   add(l, ".stub", b->stub, b->stub_bytes, e) ||
                   add(l, "OVMF.fd", b->firmware, b->firmware_bytes, e)
               ? -1
               : 0;
}

static int put(const struct guest_bom *b, const char *name, struct bytes content, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", b->out, name);

    return file_replace(path, content, 0644, e);
}

static int compare(const struct guest_bom *b, const struct guest_packages *p, struct buf *notes,
                   struct err *e)
{
    _cleanup_buf_ struct buf lock = BUF_INIT(GUEST_LOCK_MAX_BYTES + 1),
                             differences = BUF_INIT(GUEST_LOCK_MAX_BYTES);

    if (file_read(b->lock, GUEST_LOCK_MAX_BYTES, 0, &lock, e) ||
        guest_packages_compare(p, buf_bytes(&lock), &differences, e)) {
        return err_wrap(e, "--lock");
    }
    if (!differences.n) {
        return 0;
    }
    if (b->locked) {
        return err_set(e, ERR_DENIED, "the packages are not those of %s: %.*s", b->lock,
                       (int)strcspn((char *)differences.p, "\n"), (char *)differences.p);
    }
    return buf_add(notes, differences.p, differences.n, e);
}

static int write_sbom(const struct guest_bom *b, const struct list *l, struct err *e)
{
    const struct sbom s = {.name = "coffer-guest",
                           .version = COFFER_VERSION,
                           .uki = b->uki,
                           .files = l->files,
                           .n = l->n,
                           .packages = &l->packages};
    _cleanup_json_ json_t *j = NULL;
    _cleanup_free_ char *text = NULL, *line = NULL;

    if (guest_sbom(&s, &j, e)) {
        return -1;
    }
    text = json_dumps(j, JSON_INDENT(1));
    if (!text) {
        return err_set(e, ERR_INTERNAL, "cannot write the bill of materials");
    }
    line = xasprintf("%s\n", text);
    return put(b, "sbom.json", BYTES_STR(line), e);
}

int guest_bom(const struct guest_bom *b, struct buf *notes, struct err *e)
{
    _cleanup_free_ struct list *l = xcalloc(1, sizeof(*l));
    _cleanup_buf_ struct buf lock = BUF_INIT(GUEST_LOCK_MAX_BYTES);

    int rc = collect(b, l, e) || guest_packages_of(l->sources, l->n, &l->packages, e) ||
                     (b->lock && compare(b, &l->packages, notes, e)) ||
                     guest_packages_lock(&l->packages, &lock, e) ||
                     put(b, "packages.lock", buf_bytes(&lock), e) || write_sbom(b, l, e)
                 ? -1
                 : 0;
    list_done(l);
    return rc;
}
