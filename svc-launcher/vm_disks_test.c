#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "svc-launcher/vm_fixture_test.h"

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    return fixture_make(&f);
}

static int teardown(void **state)
{
    (void)state;
    jkey_free(f.key);
    return remove_tree(f.dir, NULL);
}

static void opens_what_the_spec_names(void **state)
{
    _cleanup_spec_ struct spec *spec = fixture_spec(&f, f.image, DATASET);
    static struct vm_disks d;
    struct err e = {0};
    char pack[16384];
    uint32_t mib, vcpus;

    (void)state;
    if (vm_disks_open(f.dir, spec, &d, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(d.n, 3); /* the two layers are one blob */
    assert_string_equal(d.v[0].kind, "blob");
    assert_string_equal(d.v[0].name, f.layer);
    assert_string_equal(d.v[0].serial, "b0");
    assert_int_equal(d.v[0].bytes, strlen("the bytes of a layer"));
    assert_string_equal(d.v[1].serial, "pack");
    assert_string_equal(d.v[2].serial, "d2");
    assert_string_equal(d.v[2].name, DATASET);
    assert_int_equal(d.unpack_bytes, 4 * strlen("the bytes of a layer"));
    ssize_t n = pread(d.v[1].fd, pack, sizeof(pack), 0);
    assert_int_equal(n, d.v[1].bytes);
    assert_int_equal(n % 512, 0);
    assert_string_equal(pack, f.image + 7);
    assert_memory_equal(pack + 257, "ustar\00000", 8);
    assert_string_equal(pack + 1024, f.manifest);
    assert_int_equal(write(d.v[1].fd, "x", 1), -1);
    vm_size(spec, &d, 160 << 20, &mib, &vcpus);
    assert_int_equal(mib, 256);
    assert_int_equal(vcpus, 2);
    vm_disks_done(&d);
    assert_int_equal(d.n, 0);
}

static void launch_config(void **state)
{
    _cleanup_spec_ struct spec *spec = fixture_spec(&f, f.image, DATASET);
    _cleanup_buf_ struct buf b = BUF_INIT(VM_LAUNCH_MAX_BYTES);
    _cleanup_free_ char *long_jws = xcalloc(1, VM_LAUNCH_MAX_BYTES + 1);
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    static struct vm_disks d;
    struct err e = {0};

    (void)state;
    assert_int_equal(vm_disks_open(f.dir, spec, &d, &e), 0);
    c.job = "j";
    c.store_path = "/the/host's/path";
    c.work_dir = "/another";
    assert_int_equal(vm_launch_config(&c, &d, &b, &e), 0);
    Coffer__V1__LaunchConfig *got = coffer__v1__launch_config__unpack(NULL, b.n, b.p);
    assert_non_null(got);
    assert_string_equal(got->store_path, "");
    assert_string_equal(got->work_dir, "/run/coffer/work");
    assert_int_equal(got->n_disks, 3);
    assert_string_equal(got->disks[2]->name, DATASET);
    assert_int_equal(got->disks[2]->bytes, 6);
    coffer__v1__launch_config__free_unpacked(got, NULL);
    memset(long_jws, 'x', VM_LAUNCH_MAX_BYTES);
    c.spec_jws = long_jws;
    assert_int_equal(vm_launch_config(&c, &d, &b, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    vm_disks_done(&d);
}

static void refuse(const char *image, const char *dataset, enum err_code code, const char *part)
{
    _cleanup_spec_ struct spec *spec = fixture_spec(&f, image, dataset);
    static struct vm_disks d;
    struct err e = {0};

    assert_int_equal(vm_disks_open(f.dir, spec, &d, &e), -1);
    assert_int_equal(d.n, 0);
    if (e.code != code || !strstr(e.msg, part)) {
        fail_msg("expected %s with %s, got %s: %s", err_code_name(code), part,
                 err_code_name(e.code), e.msg);
    }
}

static void refused(void **state)
{
    char digits[80], image[80];
    const char *missing = "other.abcdefghijklmnopqrstuvwxyz",
               *link = "link.abcdefghijklmnopqrstuvwxyz",
               *directory = "dir.abcdefghijklmnopqrstuvwxyz",
               *empty = "empty.abcdefghijklmnopqrstuvwxyz";
    struct err e = {0};

    (void)state;
    refuse(f.image, missing, ERR_NOT_FOUND, "/datasets/other.abcdefghijklmnopqrstuvwxyz.coffer");
    _cleanup_free_ char *path = xasprintf("%s/datasets/%s.coffer", f.dir, link);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    refuse(f.image, link, ERR_DENIED, "a link, ");
    _cleanup_free_ char *dir = xasprintf("%s/datasets/%s.coffer", f.dir, directory);
    assert_int_equal(mkdir(dir, 0700), 0);
    refuse(f.image, directory, ERR_DENIED, "something else, ");
    _cleanup_free_ char *file = xasprintf("%s/datasets/%s.coffer", f.dir, empty);
    assert_int_equal(file_replace(file, BYTES("", 0), 0600, &e), 0);
    refuse(f.image, empty, ERR_INVALID, "an empty ");

    snprintf(image, sizeof(image), "sha256:%064d", 1);
    refuse(image, DATASET, ERR_NOT_FOUND, "/blobs/sha256/000");
    fixture_blob(&f, "[]", digits);
    snprintf(image, sizeof(image), "sha256:%.64s", digits);
    refuse(image, DATASET, ERR_INVALID, "a manifest with config and layers");
    fixture_blob(&f, "{\"manifests\":[]}", digits);
    snprintf(image, sizeof(image), "sha256:%.64s", digits);
    refuse(image, DATASET, ERR_INVALID, "one manifest for linux/amd64");
    _cleanup_free_ char *evil = xasprintf(
        "{\"config\":{\"digest\":\"sha256:%s\"},\"layers\":[{\"digest\":\"sha256:../../../etc\","
        "\"mediaType\":\"x\"}]}",
        f.config);
    fixture_blob(&f, evil, digits);
    snprintf(image, sizeof(image), "sha256:%.64s", digits);
    refuse(image, DATASET, ERR_INVALID, "sha256: and 64 hexadecimal digits");
    _cleanup_free_ char *blob = xasprintf("%s/blobs/sha256/%s", f.dir, digits);
    assert_int_equal(file_replace(blob, BYTES_STR("{}"), 0600, &e), 0);
    refuse(image, DATASET, ERR_BAD_SIGNATURE, digits);
}

static void add_line(void *arg, struct bytes line)
{
    struct buf *b = arg;

    assert_int_equal(buf_addf(b, NULL, "<%.*s>", (int)line.n, (const char *)line.p), 0);
}

static void guest_lines(void **state)
{
    _cleanup_buf_ struct buf out = BUF_INIT(4096);
    struct vm_guest g = VM_GUEST_INIT;

    (void)state;
    g.forward = add_line;
    g.arg = &out;
    vm_guest_feed(&g, BYTES_STR("{\"alive\":12}\n{\"phase\":\"attest\"}\nnonsense\n{\"pha"));
    assert_true(g.alive && g.fresh);
    assert_int_equal(g.bad, 1);
    vm_guest_feed(&g,
                  BYTES_STR("se\":\"run\"}\n{\"booted\":true}\n{\"exit\":256}\n{\"alive\":-1}\n"));
    assert_int_equal(g.bad, 4); /* what the host says itself, and what is out of range */
    assert_int_equal(g.exit_code, -1);
    vm_guest_feed(&g, BYTES_STR("{\"refused\":{\"code\":\"denied\"}}\n{\"exit\":3}\n"));
    vm_guest_feed(&g, BYTES_STR("{\"done\":true}\n{\"exit\":0}\n"));
    assert_int_equal(g.exit_code, 3);
    assert_true(g.explained);
    assert_string_equal((char *)out.p, "<{\"phase\":\"attest\"}><{\"phase\":\"run\"}>"
                                       "<{\"refused\":{\"code\":\"denied\"}}>");
    vm_guest_done(&g);
}

static char said[4096];

static void add_text(const char *prefix, const char *line)
{
    size_t n = strlen(said);

    snprintf(said + n, sizeof(said) - n, "%s<%s>", prefix, line);
}

static void text(void **state)
{
    struct vm_text t = {.prefix = "x", .left = 500, .out = add_text};
    char many[600];

    (void)state;
    memset(many, 'a', sizeof(many));
    vm_text_feed(&t, BYTES_STR("one\r\n\n  two\x01 \n\x1b[2J\x1b[01;01Hthree\x1bZ\nfo"));
    vm_text_feed(&t, BYTES_STR("ur"));
    vm_text_end(&t);
    assert_string_equal(said, "x<one>x<two?>x<three>x<four>");
    assert_string_equal(t.last, "four");
    vm_text_feed(&t, BYTES(many, sizeof(many)));
    vm_text_feed(&t, BYTES_STR("\n"));
    assert_int_equal(strlen(t.last), VM_TEXT_LINE);
    said[0] = '\0';
    vm_text_feed(&t, BYTES(many, 200));
    vm_text_feed(&t, BYTES_STR("\nmore\n"));
    assert_string_equal(said, "x<(the rest is left out)>");
    assert_string_equal(t.last, "more");
}

static void params(void **state)
{
    struct vm_params p = {.kind = VM_SNP,
                          .kvm = 1,
                          .id = "j.1",
                          .work_dir = "/w \"x\"",
                          .store = "/s",
                          .opt = {.qemu = "/usr/bin/q",
                                  .hang_ms = 5,
                                  .numa_node = -1,
                                  .hugepages = 1},
                          .config = BYTES_STR("packed")},
                     q;
    _cleanup_buf_ struct buf b = BUF_INIT(65536);
    struct err e = {0};

    (void)state;
    assert_int_equal(vm_params_pack(&p, &b, &e), 0);
    assert_int_equal(vm_params_unpack(buf_bytes(&b), &q, &e), 0);
    assert_int_equal(q.kind, VM_SNP);
    assert_string_equal(q.work_dir, "/w \"x\"");
    assert_string_equal(q.opt.swtpm, "");
    assert_int_equal(q.opt.hang_ms, 5);
    assert_int_equal(q.opt.hugepages, 1);
    assert_int_equal(q.config.n, 6);
    assert_memory_equal(q.config.p, "packed", 6);
    vm_params_done(&q);
    for (size_t n = 0; n < b.n - 6; n++) {
        assert_int_equal(vm_params_unpack(BYTES(b.p, n), &q, &e), -1);
    }
    p.store = "\xff";
    assert_int_equal(vm_params_pack(&p, &b, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_what_the_spec_names),
        cmocka_unit_test(launch_config),
        cmocka_unit_test(refused),
        cmocka_unit_test(guest_lines),
        cmocka_unit_test(text),
        cmocka_unit_test(params),
    };

    return cmocka_run_group_tests_name("a VM's disks and lines", tests, setup, teardown);
}
