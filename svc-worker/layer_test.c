/* Images of plain layers made by hand: manifests, whiteouts, and layers that try to get out. */
#include "svc-worker/oci_pool_test.h"

/* An image in the making. */
struct image {
    char *pool, *root, *outer;
    json_t *layers, *diff_ids;
    struct blobs *blobs;
};

static struct image image_new(void)
{
    struct image im = {
        .pool = temp_dir(), .outer = temp_dir(), .layers = json_array(), .diff_ids = json_array()};

    make_pool(im.pool);
    im.root = xasprintf("%s/root", im.outer);
    assert_int_equal(mkdir(im.root, 0755), 0);
    _cleanup_free_ char *victim = xasprintf("%s/victim", im.outer);
    spill(victim, "safe", 4);
    assert_int_equal(blobs_open_dir(im.pool, &im.blobs, NULL), 0);
    return im;
}

static void image_done(struct image *im)
{
    json_decref(im->layers);
    json_decref(im->diff_ids);
    blobs_free(im->blobs);
    drop_dir(&im->pool);
    drop_dir(&im->outer);
    free(im->root);
}
#define _cleanup_image_ _cleanup_(image_done)

static void add_blob(struct image *im, const char *type, const struct buf *blob,
                     const char *diff_id)
{
    _cleanup_free_ char *digest = put_blob(im->pool, blob->p, blob->n);

    json_array_append_new(im->layers, json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest",
                                                digest, "size", (json_int_t)blob->n));
    json_array_append_new(im->diff_ids, json_string(diff_id));
}

static void add_layer(struct image *im, const struct entry *v, size_t n)
{
    _cleanup_buf_ struct buf tar = {0};

    forge(v, n, ARCHIVE_FILTER_NONE, &tar);
    _cleanup_free_ char *diff_id = digest_of(tar.p, tar.n);
    add_blob(im, LAYER_TYPE, &tar, diff_id);
}
#define ADD(im, ...)                                                                               \
    do {                                                                                           \
        const struct entry v_[] = {__VA_ARGS__};                                                   \
        add_layer(im, v_, ARRAY_LEN(v_));                                                          \
    } while (0)

static json_t *config_of(struct image *im)
{
    return json_pack("{s:s, s:s, s:{s:s, s:O}, s:{}}", "os", "linux", "architecture", "amd64",
                     "rootfs", "type", "layers", "diff_ids", im->diff_ids, "config");
}

/* Drops the config; the caller frees the manifest's digest. */
static char *finish_with(struct image *im, json_t *config)
{
    char *digest = NULL;
    json_t *d = put_json(im->pool, CONFIG_TYPE, config, &digest);
    json_t *m = json_pack("{s:i, s:s, s:o, s:O}", "schemaVersion", 2, "mediaType", MANIFEST_TYPE,
                          "config", d, "layers", im->layers);

    free(digest);
    json_decref(put_json(im->pool, MANIFEST_TYPE, m, &digest));
    return digest;
}

static int unpack(struct image *im, uint64_t max_bytes, uint64_t max_files, struct err *e)
{
    _cleanup_free_ char *digest = finish_with(im, config_of(im));
    _cleanup_(oci_image_freep) struct oci_image *img = NULL;

    err_clear(e);
    if (oci_image_open(im->blobs, digest, 1, &img, e) < 0) {
        return -1;
    }
    return oci_image_unpack(img, NULL, im->root, max_bytes, max_files, e);
}

static void assert_unpacks(struct image *im)
{
    struct err e;

    if (unpack(im, 1 << 20, 100, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static void assert_refused(struct image *im, enum err_code code, const char *part)
{
    struct err e;
    struct stat st;

    if (unpack(im, 100, 20, &e) == 0) {
        fail_msg("expected \"%s\", but it was unpacked", part);
    }
    assert_err(&e, code, part);
    assert_file(im->outer, "victim", "safe");
    assert_int_equal(stat(im->outer, &st), 0);
    assert_int_equal(st.st_nlink, 3);
}

static void layers_stack(void **state)
{
    _cleanup_image_ struct image im = image_new();
    struct stat st;

    (void)state;
    ADD(&im, SUB("./"), SUB("./bin"), REG("./bin/a", "one"), SUB("etc"), REG("etc/conf", "old"),
        SYM("lib", "usr/lib"), SUB("usr/lib"), HARD("bin/b", "bin/a"), REG("swap", "file"),
        SUB("gone"), REG("gone/x", "x"), {"su", AE_IFREG, "s", 0, 06755});
    ADD(&im, REG("etc/conf", "new"), REG("lib/so", "through the link"), SUB("swap"),
        REG("swap/in", "dir now"), REG("gone", "file now"), REG("deep/er/file", "implicit"),
        REG("/abs", "below the root"), REG("bin/\xc3\xa9", "utf8"));
    assert_unpacks(&im);
    assert_file(im.root, "bin/a", "one");
    assert_file(im.root, "bin/b", "one");
    assert_file(im.root, "etc/conf", "new");
    assert_file(im.root, "usr/lib/so", "through the link");
    assert_file(im.root, "swap/in", "dir now");
    assert_file(im.root, "gone", "file now");
    assert_file(im.root, "deep/er/file", "implicit");
    assert_file(im.root, "abs", "below the root");
    assert_file(im.root, "bin/\xc3\xa9", "utf8");
    _cleanup_free_ char *su = xasprintf("%s/su", im.root);
    assert_int_equal(stat(su, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(st.st_mtime, 1234567);
}

static void whiteouts(void **state)
{
    _cleanup_image_ struct image im = image_new();

    (void)state;
    ADD(&im, REG("a", "a"), REG("b", "b"), REG("d/1", "1"), REG("d/2", "2"), REG("d/sub/3", "3"),
        REG("o/1", "1"), REG("o/2", "2"), REG("o/keep/old", "old"), SYM("l", "d"), REG("r/x", "x"));
    /* Whiteouts take only what lies below, wherever they stand in the layer. */
    ADD(&im, REG(".wh.a", ""), REG("d/.wh.1", ""), REG("d/.wh.sub", ""), REG("o/new", "new"),
        REG("o/keep/new", "new"), REG("o/.wh..wh..opq", ""), REG("o/2", "again"), REG(".wh.l", ""),
        REG("b", "new b"), REG(".wh.b", ""), REG(".wh.nothing", ""), REG(".wh..wh.aufs", ""),
        REG(".wh.r", ""), REG("r/y", "y"));
    assert_unpacks(&im);
    assert_false(exists(im.root, "a"));
    assert_file(im.root, "b", "new b");
    assert_false(exists(im.root, "d/1"));
    assert_file(im.root, "d/2", "2");
    assert_false(exists(im.root, "d/sub"));
    assert_file(im.root, "o/new", "new");
    assert_file(im.root, "o/2", "again");
    assert_false(exists(im.root, "o/1"));
    assert_file(im.root, "o/keep/new", "new");
    assert_false(exists(im.root, "o/keep/old"));
    assert_false(exists(im.root, "l"));
    assert_false(exists(im.root, "r/x"));
    assert_file(im.root, "r/y", "y");
    assert_false(exists(im.root, ".wh.a"));
    assert_false(exists(im.root, "o/.wh..wh..opq"));
    assert_false(exists(im.root, ".wh..wh.aufs"));
}

static void no_way_out(void **state)
{
#define REFUSED(code, part, ...)                                                                   \
    do {                                                                                           \
        _cleanup_image_ struct image im_ = image_new();                                            \
        ADD(&im_, __VA_ARGS__);                                                                    \
        assert_refused(&im_, code, part);                                                          \
    } while (0)
    (void)state;
    REFUSED(ERR_DENIED, "layer 0", REG("../victim", "x"));
    REFUSED(ERR_DENIED, "has a \"..\"", REG("a/../../victim", "x"));
    REFUSED(ERR_DENIED, "has a \"..\"", HARD("h", "../victim"));
    REFUSED(ERR_DENIED, "whiteout of no name", REG(".wh...", ""));
    REFUSED(ERR_DENIED, "whiteout of no name", REG(".wh..", ""));
    REFUSED(ERR_DENIED, "whiteout of no name", REG(".wh.", ""));
    REFUSED(ERR_NOT_FOUND, "\"no/victim\" does not exist", SYM("l", "../.."),
            HARD("h", "no/victim"), REG("x", "x"));
    REFUSED(ERR_UNSUPPORTED, "\"dev/null\"", NODE("dev/null", AE_IFCHR));
    REFUSED(ERR_UNSUPPORTED, "\"dev/sda\"", NODE("dev/sda", AE_IFBLK));
    REFUSED(ERR_UNSUPPORTED, "\"p\"", NODE("p", AE_IFIFO));
    REFUSED(ERR_INVALID, "not a file", SUB("d"), HARD("h", "d"));
    REFUSED(ERR_INVALID, "expected a directory", REG("f", "x"), REG("f/g", "x"));
    REFUSED(ERR_IO, "making its directory", SYM("l", "nowhere"), REG("l/x", "x"));
#undef REFUSED
}

/* Symlinks out of the root lead below it, as they would for the workload. */
static void symlinks_stay_below(void **state)
{
    _cleanup_image_ struct image im = image_new();

    (void)state;
    ADD(&im, SYM("up", "../.."), SYM("abs", "/"), SUB("d"), SYM("v", "../victim"));
    ADD(&im, REG("up/1", "1"), REG("abs/2", "2"), REG("abs/d/3", "3"), REG("v", "a file now"),
        REG("up/victim", "inside"), REG("up/.wh.nothing", ""), REG("up/up/up/4", "4"));
    assert_unpacks(&im);
    assert_file(im.root, "1", "1");
    assert_file(im.root, "2", "2");
    assert_file(im.root, "d/3", "3");
    assert_file(im.root, "v", "a file now");
    assert_file(im.root, "victim", "inside");
    assert_file(im.root, "4", "4");
    assert_file(im.outer, "victim", "safe");
}

/* A hard link shares its file: writing the one name anew must not write the other. */
static void hardlink_not_written_through(void **state)
{
    _cleanup_image_ struct image im = image_new();

    (void)state;
    ADD(&im, REG("f", "first"), HARD("g", "f"), SYM("s", "f"), HARD("t", "s"), HARD("f", "f"));
    ADD(&im, REG("g", "second"));
    assert_unpacks(&im);
    assert_file(im.root, "f", "first");
    assert_file(im.root, "g", "second");
    assert_false(exists(im.root, "t/x"));
}

static void bounds(void **state)
{
    char big[200];
    struct err e;

    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    _cleanup_image_ struct image im = image_new();
    ADD(&im, REG("a", big));
    ADD(&im, REG("b", big));
    assert_int_equal(unpack(&im, 300, 100, &e), -1);
    assert_err(&e, ERR_TOO_LARGE, "layer 1");
    assert_int_equal(unpack(&im, 1000, 1, &e), -1);
    assert_err(&e, ERR_TOO_LARGE, "more entries than allowed");
}

static void bomb(void **state)
{
    _cleanup_image_ struct image im = image_new();
    _cleanup_buf_ struct buf packed = {0};
    _cleanup_free_ char *zeros = xcalloc(1, 8 << 20);
    struct archive *a = archive_write_new();
    size_t used = 0;
    struct err e;

    (void)state;
    packed = BUF_INIT(TAR_MAX_BYTES);
    assert_int_equal(buf_reserve(&packed, 1 << 20, NULL), 0);
    archive_write_set_format_raw(a);
    archive_write_add_filter_gzip(a);
    assert_int_equal(archive_write_open_memory(a, packed.p, 1 << 20, &used), ARCHIVE_OK);
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
    archive_write_data(a, zeros, 8 << 20);
    archive_entry_free(entry);
    archive_write_close(a);
    archive_write_free(a);
    packed.n = used;
    _cleanup_free_ char *diff_id = digest_of(zeros, 8 << 20);
    add_blob(&im, LAYER_TYPE "+gzip", &packed, diff_id);
    assert_int_equal(unpack(&im, 1000, 100, &e), -1);
    assert_err(&e, ERR_TOO_LARGE, "uncompressed");
}

static void compressions(void **state)
{
    static const struct {
        const char *type;
        int filter;
    } v[] = {{LAYER_TYPE "+gzip", ARCHIVE_FILTER_GZIP},
             {LAYER_TYPE "+zstd", ARCHIVE_FILTER_ZSTD},
             {"application/vnd.docker.image.rootfs.diff.tar.gzip", ARCHIVE_FILTER_GZIP}};
    static const struct entry entries[] = {SUB("d"), REG("d/f", "packed")};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        _cleanup_image_ struct image im = image_new();
        _cleanup_buf_ struct buf tar = {0}, packed = {0};
        forge(entries, ARRAY_LEN(entries), ARCHIVE_FILTER_NONE, &tar);
        forge(entries, ARRAY_LEN(entries), v[i].filter, &packed);
        _cleanup_free_ char *diff_id = digest_of(tar.p, tar.n);
        add_blob(&im, v[i].type, &packed, diff_id);
        assert_unpacks(&im);
        assert_file(im.root, "d/f", "packed");
    }
    /* The media type decides, not the bytes. */
    _cleanup_image_ struct image im = image_new();
    _cleanup_buf_ struct buf tar = {0};
    forge(entries, ARRAY_LEN(entries), ARCHIVE_FILTER_NONE, &tar);
    _cleanup_free_ char *diff_id = digest_of(tar.p, tar.n);
    add_blob(&im, LAYER_TYPE "+gzip", &tar, diff_id);
    assert_refused(&im, ERR_INVALID, "layer 0");
}

static void diff_id_wrong(void **state)
{
    _cleanup_image_ struct image im = image_new();
    _cleanup_buf_ struct buf tar = {0};
    static const struct entry entries[] = {REG("f", "x")};

    (void)state;
    forge(entries, 1, ARCHIVE_FILTER_NONE, &tar);
    _cleanup_free_ char *other = digest_of("other", 5);
    add_blob(&im, LAYER_TYPE, &tar, other);
    assert_refused(&im, ERR_BAD_SIGNATURE, "the diff_id: expected sha256:");
}

static void open_fails(struct image *im, const char *digest, int allow_plain, enum err_code code,
                       const char *part)
{
    struct oci_image *img = NULL;
    struct err e = {0};

    if (oci_image_open(im->blobs, digest, allow_plain, &img, &e) == 0) {
        oci_image_free(img);
        fail_msg("expected \"%s\", but it was opened", part);
    }
    assert_err(&e, code, part);
}

static void plain_refused(void **state)
{
    _cleanup_image_ struct image im = image_new();

    (void)state;
    ADD(&im, REG("f", "x"));
    _cleanup_free_ char *digest = finish_with(&im, config_of(&im));
    open_fails(&im, digest, 0, ERR_DENIED, "manifest.layers[0]: expected an encrypted layer");
}

static void configs(void **state)
{
    static const struct {
        const char *json, *part;
    } bad[] = {
        {"{\"Env\":[\"NOEQUALS\"]}", "config.config.Env[0]: expected NAME=value"},
        {"{\"Env\":[\"=x\"]}", "config.config.Env[0]"},
        {"{\"Env\":{}}", "config.config.Env: expected a list"},
        {"{\"Cmd\":\"sh\"}", "config.config.Cmd: expected a list"},
        {"{\"Entrypoint\":[1]}", "config.config.Entrypoint[0]: expected a string"},
        {"{\"WorkingDir\":\"app\"}", "WorkingDir: expected an absolute path"},
        {"{\"WorkingDir\":\"/a/../b\"}", "WorkingDir: has a \"..\""},
        {"{\"WorkingDir\":7}", "config.config.WorkingDir: expected a string"},
        {"[]", "config.config: expected an object"},
    };

    (void)state;
    _cleanup_image_ struct image im = image_new();
    ADD(&im, REG("f", "x"));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *config = config_of(&im);
        json_object_set_new(config, "config", json_loads(bad[i].json, 0, NULL));
        _cleanup_free_ char *digest = finish_with(&im, config);
        open_fails(&im, digest, 1, ERR_INVALID, bad[i].part);
    }
    json_t *config = config_of(&im);
    json_object_set_new(config, "config",
                        json_loads("{\"Entrypoint\":[\"/bin/sh\",\"-c\"],\"Cmd\":null,"
                                   "\"Env\":[\"A=1\",\"B=\"],\"WorkingDir\":\"/w\",\"User\":\"7\"}",
                                   0, NULL));
    _cleanup_free_ char *digest = finish_with(&im, config);
    _cleanup_(oci_image_freep) struct oci_image *img = NULL;
    struct err e = {0};
    assert_int_equal(oci_image_open(im.blobs, digest, 1, &img, &e), 0);
    const struct oci_config *c = oci_image_config(img);
    assert_string_equal(c->entrypoint[0], "/bin/sh");
    assert_string_equal(c->entrypoint[1], "-c");
    assert_null(c->entrypoint[2]);
    assert_null(c->cmd[0]);
    assert_string_equal(c->env[1], "B=");
    assert_string_equal(c->working_dir, "/w");
    assert_string_equal(c->user, "7");
    assert_int_equal(oci_image_n_keys(img), 0);

    config = config_of(&im);
    json_object_set_new(config, "architecture", json_string("s390x"));
    _cleanup_free_ char *other = finish_with(&im, config);
    open_fails(&im, other, 1, ERR_UNSUPPORTED, "expected linux/amd64, got linux/s390x");
    config = config_of(&im);
    json_array_append_new(im.diff_ids, json_string("sha256:00"));
    _cleanup_free_ char *more = finish_with(&im, config);
    open_fails(&im, more, 1, ERR_INVALID, "expected 1, one for each layer, got 2");
}

/* Changes one thing in a good manifest and expects a refusal. */
static void manifest_case(struct image *im, const char *digest, const char *member,
                          const char *json, enum err_code code, const char *part)
{
    json_t *m = get_json(im->pool, digest);
    char *changed = NULL;

    if (json) {
        json_object_set_new(m, member, json_loads(json, JSON_DECODE_ANY, NULL));
    } else {
        json_object_del(m, member);
    }
    json_decref(put_json(im->pool, MANIFEST_TYPE, m, &changed));
    open_fails(im, changed, 1, code, part);
    free(changed);
}

static void manifests(void **state)
{
    _cleanup_image_ struct image im = image_new();

    (void)state;
    ADD(&im, REG("f", "x"));
    _cleanup_free_ char *digest = finish_with(&im, config_of(&im));
    manifest_case(&im, digest, "schemaVersion", "1", ERR_INVALID, "manifest.schemaVersion");
    manifest_case(&im, digest, "mediaType", "\"text/plain\"", ERR_UNSUPPORTED,
                  "manifest.mediaType");
    manifest_case(&im, digest, "manifests", "[]", ERR_INVALID, "has both of");
    manifest_case(&im, digest, "layers", "[]", ERR_INVALID, "manifest.layers: expected 1 to 256");
    manifest_case(&im, digest, "layers", "{}", ERR_INVALID, "manifest.layers");
    manifest_case(&im, digest, "layers", "[7]", ERR_INVALID, "manifest.layers[0]");
    manifest_case(&im, digest, "config", NULL, ERR_INVALID, "manifest.config");
    manifest_case(&im, digest, "layers",
                  "[{\"mediaType\":\"text/html\",\"size\":1,\"digest\":\"sha256:"
                  "0000000000000000000000000000000000000000000000000000000000000000\"}]",
                  ERR_UNSUPPORTED, "is not that of a layer: \"text/html\"");
    manifest_case(&im, digest, "layers",
                  "[{\"mediaType\":\"" LAYER_TYPE "\",\"size\":1,\"digest\":\"sha256:AB\"}]",
                  ERR_INVALID, "expected sha256: and 64");
    manifest_case(&im, digest, "layers",
                  "[{\"mediaType\":\"" LAYER_TYPE "\",\"size\":-1,\"digest\":\"sha256:AB\"}]",
                  ERR_INVALID, "size");
    manifest_case(&im, digest, "layers",
                  "[{\"mediaType\":\"" LAYER_TYPE "+encrypted\",\"size\":1,\"digest\":\"sha256:"
                  "0000000000000000000000000000000000000000000000000000000000000000\"}]",
                  ERR_INVALID, "is encrypted, but has no annotations");
    manifest_case(&im, digest, "layers",
                  "[{\"mediaType\":\"" LAYER_TYPE "\",\"size\":1,\"digest\":\"sha256:"
                  "0000000000000000000000000000000000000000000000000000000000000000\","
                  "\"annotations\":{\"org.opencontainers.image.enc.pubopts\":\"\"}}]",
                  ERR_INVALID, "its annotations say that it is encrypted");
    open_fails(&im, "sha512:00", 1, ERR_INVALID, "manifest digest: expected sha256:");
    open_fails(&im, "sha256:0000000000000000000000000000000000000000000000000000000000000000", 1,
               ERR_NOT_FOUND, "is not in the store");
    /* Bytes that are not what the digest says. */
    _cleanup_free_ char *path = blob_path(im.pool, digest);
    _cleanup_buf_ struct buf b = {0};
    slurp(path, &b);
    b.p[b.n - 2] ^= 1;
    spill(path, b.p, b.n);
    open_fails(&im, digest, 1, ERR_BAD_SIGNATURE, "manifest: expected sha256:");
}

static char *index_of(struct image *im, const char *manifest, const char *const *arches)
{
    json_t *list = json_array();
    struct stat st;
    char *digest = NULL;
    _cleanup_free_ char *path = blob_path(im->pool, manifest);

    assert_int_equal(stat(path, &st), 0);
    for (; *arches; arches++) {
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:{s:s, s:s}}", "mediaType", MANIFEST_TYPE,
                                        "digest", manifest, "size", (json_int_t)st.st_size,
                                        "platform", "os", "linux", "architecture", *arches));
    }
    json_decref(put_json(im->pool, INDEX_TYPE,
                         json_pack("{s:i, s:s, s:o}", "schemaVersion", 2, "mediaType", INDEX_TYPE,
                                   "manifests", list),
                         &digest));
    return digest;
}

static void indexes(void **state)
{
    _cleanup_image_ struct image im = image_new();
    _cleanup_(oci_image_freep) struct oci_image *img = NULL;
    struct err e = {0};

    (void)state;
    ADD(&im, REG("f", "x"));
    _cleanup_free_ char *digest = finish_with(&im, config_of(&im));
    _cleanup_free_ char *one =
        index_of(&im, digest, (const char *const[]){"arm64", "amd64", "unknown", NULL});
    _cleanup_free_ char *two = index_of(&im, digest, (const char *const[]){"amd64", "amd64", NULL});
    _cleanup_free_ char *none = index_of(&im, digest, (const char *const[]){"arm64", NULL});
    _cleanup_free_ char *nested = index_of(&im, one, (const char *const[]){"amd64", NULL});

    if (oci_image_open(im.blobs, one, 1, &img, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    open_fails(&im, two, 1, ERR_UNSUPPORTED, "exactly one manifest for linux/amd64 in it, got 2");
    open_fails(&im, none, 1, ERR_UNSUPPORTED, "exactly one manifest for linux/amd64 in it, got 0");
    open_fails(&im, nested, 1, ERR_UNSUPPORTED, "names another image index");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_stack),
        cmocka_unit_test(whiteouts),
        cmocka_unit_test(no_way_out),
        cmocka_unit_test(symlinks_stay_below),
        cmocka_unit_test(hardlink_not_written_through),
        cmocka_unit_test(bounds),
        cmocka_unit_test(bomb),
        cmocka_unit_test(compressions),
        cmocka_unit_test(diff_id_wrong),
        cmocka_unit_test(plain_refused),
        cmocka_unit_test(configs),
        cmocka_unit_test(manifests),
        cmocka_unit_test(indexes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
