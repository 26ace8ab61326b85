#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cli/client.h"
#include "cli/dataset.h"
#include "cli/files.h"
#include "cli/layout.h"
#include "cli/store.h"
#include "cli/verbs.h"
#include "common/fileio.h"

/* coffer store add, ls, rm: what a host's workers can read. Everything in it is sealed or
 * encrypted, unless somebody insists.
 *
 *   datasets/<id>.coffer   blobs/sha256/<hex>   images/<hex of the manifest>: JSON, for ls and rm
 */

const struct cli_opt opts_store[] = {
    {"store", 's', "DIR", VALUE_DIR, "the store (default: the profile's)", 0},
    {0},
};

const struct cli_opt opts_store_add[] = {
    {"store", 's', "DIR", VALUE_DIR, "the store (default: the profile's)", 0},
    {"allow-plain-image", 0, NULL, VALUE_NONE, "add an image with layers that are not encrypted",
     0},
    {0},
};

/* ---- files ----------------------------------------------------------------------------------- */

static int copy_file(const char *from, const char *to, struct err *e)
{
    _cleanup_(outfile_done) struct outfile out = {.fd = -1};
    _cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    ssize_t n;

    if (in < 0) {
        return err_errno(e, "cannot open %s", from);
    }
    if (outfile_open(to, 1, 0644, &out, e)) {
        return -1;
    }
    while ((n = copy_file_range(in, NULL, out.fd, NULL, 1 << 30, 0)) > 0) {
    }
    uint8_t chunk[65536];
    while (n < 0 && (n = read(in, chunk, sizeof(chunk))) > 0) {
        if (write_fully(out.fd, BYTES(chunk, (size_t)n), to, e)) {
            return -1;
        }
        n = -1;
    }
    return n < 0 ? err_errno(e, "cannot read %s", from) : outfile_commit(&out, 1, e);
}

/* A hard link where possible. It replaces what is there, which may be broken, in one step; adding
 * the store's own file again changes nothing. */
static int place(const char *from, const char *to, struct err *e)
{
    _cleanup_free_ char *temp = xasprintf("%s.%ld.part", to, (long)getpid());

    if (make_parents(to, e)) {
        return -1;
    }
    (void)unlink(temp);
    if (linkat(AT_FDCWD, from, AT_FDCWD, temp, AT_SYMLINK_FOLLOW) && copy_file(from, temp, e)) {
        return -1;
    }
    if (rename(temp, to)) {
        err_errno(e, "cannot write %s", to);
        (void)unlink(temp);
        return -1;
    }
    /* Two names of one file: rename leaves both. */
    (void)unlink(temp);
    return 0;
}

/* ---- add ------------------------------------------------------------------------------------- */

static int add_dataset(const char *store, const char *path, json_t *added, struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_close_ int fd = -1;
    uint64_t plain;

    if (dataset_open(path, &fd, &h, NULL, e)) {
        return -1;
    }
    if (dataset_plain_bytes(fd, &h, &plain, e)) {
        return err_wrap(e, "%s", path);
    }
    _cleanup_free_ char *to = xasprintf("%s/datasets/%s.coffer", store, h.id);
    if (place(path, to, e)) {
        return -1;
    }
    json_array_append_new(added, json_pack("{s:s,s:s,s:I}", "kind", "dataset", "id", h.id, "bytes",
                                           (json_int_t)plain));
    return 0;
}

static int write_marker(const char *store, const char *digest, const char *name,
                        const struct image_info *info, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/images/%s", store, digest + 7);
    _cleanup_json_ json_t *j =
        json_pack("{s:s,s:I,s:b}", "name", name, "bytes", (json_int_t)info->bytes, "encrypted",
                  info->encrypted == info->layers);
    _cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

    if (make_parents(path, e)) {
        return -1;
    }
    return file_replace(path, text ? BYTES_STR(text) : BYTES_STR("{}"), 0644, e);
}

static int add_image(const char *store, const char *arg, int allow_plain, json_t *added,
                     struct err *e)
{
    _cleanup_(image_info_done) struct image_info info = {0};
    _cleanup_free_ char *dir = NULL, *tag = NULL;
    char digest[LAYOUT_DIGEST_CHARS + 1];

    if (layout_split(arg, &dir, &tag, e) || layout_find(dir, tag, digest, e) ||
        image_info_load(dir, digest, &info, e)) {
        return -1;
    }
    if (info.encrypted < info.layers && !allow_plain) {
        char expected[64];
        snprintf(expected, sizeof(expected), "%zu encrypted layers", info.layers);
        err_refuse(e, ERR_DENIED, "image.layers", expected, "%zu", info.encrypted);
        return err_wrap(e, "%s", arg);
    }
    for (size_t i = 0; i < info.blobs.n; i++) {
        _cleanup_free_ char *from = xasprintf("%s/blobs/sha256/%s", dir, info.blobs.v[i] + 7);
        _cleanup_free_ char *to = xasprintf("%s/blobs/sha256/%s", store, info.blobs.v[i] + 7);
        if (layout_blob_check(dir, info.blobs.v[i], NULL, e) || place(from, to, e)) {
            return -1;
        }
    }
    if (write_marker(store, digest, arg, &info, e)) {
        return -1;
    }
    json_array_append_new(added, json_pack("{s:s,s:s,s:I}", "kind", "image", "id", digest, "bytes",
                                           (json_int_t)info.bytes));
    return 0;
}

int store_add(const char *store, const char *path, int allow_plain, json_t *added, struct err *e)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode)
               ? add_dataset(store, path, added, e)
               : add_image(store, path, allow_plain, added, e);
}

static void say_items(struct cli *c, const json_t *items)
{
    json_t *it;
    size_t i;
    char size[32];

    json_array_foreach(items, i, it)
    {
        cli_say(c, "%-8s %s  %s", json_string_value(json_object_get(it, "kind")),
                json_string_value(json_object_get(it, "id")),
                bytes_text((uint64_t)json_integer_value(json_object_get(it, "bytes")), size));
    }
}

int verb_store_add(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_json_ json_t *added = json_array();
    const char *store;

    if (client_store(c, &store, &e)) {
        return cli_fail(c, &e);
    }
    for (int i = 0; i < argc; i++) {
        if (store_add(store, argv[i], cli_has(c, "allow-plain-image"), added, &e)) {
            if (e.code == ERR_DENIED) {
                cli_hint(c, "coffer image encrypt, or --allow-plain-image");
            } else if (e.code == ERR_INVALID) {
                cli_hint(c, "coffer dataset seal %s   (only sealed datasets go in)", argv[i]);
            }
            return cli_fail(c, &e);
        }
    }
    say_items(c, added);
    return c->json ? cli_json(c, json_pack("{s:O}", "added", added)) : CLI_OK;
}

/* ---- ls -------------------------------------------------------------------------------------- */

static void list_dataset(const char *dir, const char *name, json_t *items)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = -1;
    uint64_t plain;

    if (dataset_open(path, &fd, &h, NULL, NULL) == 0 &&
        dataset_plain_bytes(fd, &h, &plain, NULL) == 0) {
        json_array_append_new(items, json_pack("{s:s,s:s,s:I}", "kind", "dataset", "id", h.id,
                                               "bytes", (json_int_t)plain));
    }
}

static void list_image(const char *dir, const char *name, json_t *items)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_free_ char *digest = xasprintf("sha256:%s", name);
    _cleanup_buf_ struct buf text = BUF_INIT(4096);
    json_t *j = NULL;

    if (!image_digest_valid(digest) || file_read(path, 4095, 0, &text, NULL) ||
        json_parse("image", buf_bytes(&text), 4096, &j, NULL)) {
        return;
    }
    json_object_set_new(j, "kind", json_string("image"));
    json_object_set_new(j, "id", json_string(digest));
    json_array_append_new(items, j);
}

json_t *store_list_items(const char *store)
{
    static void (*const list[])(const char *, const char *, json_t *) = {list_dataset, list_image};
    static const char *const dirs[] = {"datasets", "images"};
    json_t *items = json_array();

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *dir = xasprintf("%s/%s", store, dirs[i]);
        struct dirent **names;
        int n = scandir(dir, &names, NULL, alphasort);
        for (int k = 0; k < n; k++) {
            if (names[k]->d_name[0] != '.') {
                list[i](dir, names[k]->d_name, items);
            }
            free(names[k]);
        }
        if (n >= 0) {
            free(names);
        }
    }
    return items;
}

int verb_store_ls(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    const char *store;

    (void)argc;
    (void)argv;
    if (client_store(c, &store, &e)) {
        return cli_fail(c, &e);
    }
    _cleanup_json_ json_t *items = store_list_items(store);
    say_items(c, items);
    return c->json ? cli_json(c, json_pack("{s:O}", "items", items)) : CLI_OK;
}

/* ---- rm -------------------------------------------------------------------------------------- */

/* Deletes the image's blobs that no other image of the store has. */
static int remove_image(const char *store, const char *digest, struct err *e)
{
    _cleanup_(image_info_done) struct image_info info = {0};
    _cleanup_json_ json_t *items = NULL;
    _cleanup_strings_ struct strings kept = {0};
    _cleanup_free_ char *marker = xasprintf("%s/images/%s", store, digest + 7);
    json_t *it;
    size_t i;

    if (image_info_load(store, digest, &info, e)) {
        return -1;
    }
    if (unlink(marker) && errno != ENOENT) {
        return err_errno(e, "cannot remove %s", marker);
    }
    items = store_list_items(store);
    json_array_foreach(items, i, it)
    {
        _cleanup_(image_info_done) struct image_info other = {0};
        const char *id = json_string_value(json_object_get(it, "id"));
        if (image_digest_valid(id) && image_info_load(store, id, &other, NULL) == 0) {
            for (size_t k = 0; k < other.blobs.n; k++) {
                strings_add(&kept, other.blobs.v[k]);
            }
        }
    }
    for (i = 0; i < info.blobs.n; i++) {
        size_t k = 0;
        while (k < kept.n && !streq(kept.v[k], info.blobs.v[i])) {
            k++;
        }
        _cleanup_free_ char *path = xasprintf("%s/blobs/sha256/%s", store, info.blobs.v[i] + 7);
        if (k == kept.n && unlink(path) && errno != ENOENT) {
            return err_errno(e, "cannot remove %s", path);
        }
    }
    return 0;
}

int store_remove(const char *store, const char *id, struct err *e)
{
    if (image_digest_valid(id)) {
        return remove_image(store, id, e);
    }
    if (!secret_id_valid(id)) {
        return err_set(e, ERR_INVALID,
                       "expected a dataset's id or an image's digest, found \"%.100s\"", id);
    }
    _cleanup_free_ char *path = xasprintf("%s/datasets/%s.coffer", store, id);
    if (unlink(path)) {
        return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "the store has no dataset %s", id)
                               : err_errno(e, "cannot remove %s", path);
    }
    return 0;
}

int verb_store_rm(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    _cleanup_json_ json_t *removed = json_array();
    const char *store;

    if (client_store(c, &store, &e)) {
        return cli_fail(c, &e);
    }
    for (int i = 0; i < argc; i++) {
        if (store_remove(store, argv[i], &e)) {
            return cli_fail(c, &e);
        }
        json_array_append_new(removed, json_string(argv[i]));
        cli_say(c, "removed %s", argv[i]);
    }
    return c->json ? cli_json(c, json_pack("{s:O}", "removed", removed)) : CLI_OK;
}
