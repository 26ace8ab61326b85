#include "cli/cli_testing.h"

#include "common/refvals.h"
#include "guest/pe_testing.h"

#define FIRMWARE "/usr/share/ovmf/OVMF.fd"
#define STUB "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

/* Guest images: the verbs, of files that are good enough to be composed and measured. */

static void write_file(const char *path, struct bytes b)
{
    struct err e = {0};

    assert_int_equal(file_replace(path, b, 0644, &e), 0);
}

static void read_whole(const char *path, struct buf *ret)
{
    struct err e = {0};

    if (file_read(path, 64u << 20, 0, ret, &e)) {
        fail_msg("%s", e.msg);
    }
}

/* A "kernel", one module and the list that names it. */
static void setup_files(void)
{
    uint8_t kernel[PEFIX_BYTES];

    pefix_make(kernel);
    write_file("vmlinuz", BYTES(kernel, sizeof(kernel)));
    assert_int_equal(mkdir("modules", 0755), 0);
    assert_int_equal(mkdir("modules/kernel", 0755), 0);
    write_file("modules/kernel/one.ko", BYTES_STR("module"));
    write_file("modules/kernel/two.ko", BYTES_STR("another"));
    write_file("list", BYTES_STR("# comment\none.ko\nscratch: two.ko\n"));
}

#define BUILD                                                                                      \
    "image build --worker /bin/true --kernel vmlinuz --modules modules --modules-list list "

/* All of it is in deploy/debian-packages.txt: without, there is nothing to be tested, and that is a
 * failure. */
static void need_packages(void)
{
    static const char *const files[] = {FIRMWARE, STUB, "/usr/bin/crun", "/usr/sbin/mke2fs",
                                        "/usr/bin/dpkg"};

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (access(files[i], R_OK) < 0) {
            fail_msg("%s is not installed", files[i]);
        }
    }
}

static void same(const char *a, const char *b)
{
    _cleanup_buf_ struct buf x = BUF_INIT(64u << 20), y = BUF_INIT(64u << 20);

    read_whole(a, &x);
    read_whole(b, &y);
    if (x.n != y.n || memcmp(x.p, y.p, x.n) != 0) {
        fail_msg("%s and %s differ", a, b);
    }
}

static void test_build(void **state)
{
    static const char *const files[] = {"coffer.efi", "refvals.json", "sbom.json", "packages.lock",
                                        "OVMF.fd"};

    (void)state;
    setup_files();
    need_packages();
    assert_ran(BUILD "--out a", CLI_OK, "a/coffer.efi", "");
    assert_ran(BUILD "--out b --json", CLI_OK, "\"image\": \"b\"", "");
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *a = xasprintf("a/%s", files[i]), *b = xasprintf("b/%s", files[i]);
        same(a, b);
    }
    assert_ran("image inspect a", CLI_OK, "usr/lib/modules/coffer/01-one.ko", "");
    assert_ran("image inspect a", CLI_OK, "usr/lib/modules/coffer/scratch/02-two.ko", "");
    assert_ran("image inspect a", CLI_OK, "usr/sbin/mke2fs", "");
    assert_ran("image inspect a/coffer.efi --json", CLI_OK, "\"path\": \"init\"", "");
    assert_ran("image inspect a", CLI_OK, "etc/hosts -> /run/coffer/hosts", "");
    assert_ran("image inspect a", CLI_OK, "command line: console=ttyS0", "");
    assert_ran("image measure a", CLI_OK, "initramfs", "");
    assert_ran("image measure a --memory 512 --vcpus 2 --json", CLI_OK, "\"12\": \"00000000", "");
    assert_ran("image measure a --vcpus 9", CLI_USAGE, "", "--vcpus");
    assert_ran("image measure a --memory 128", CLI_USAGE, "", "--memory");
    assert_ran("image measure a --firmware list", CLI_COULD_NOT, "", "no LZMA section");
}

/* What a verifier reads, of the key that signed and of no other. */
static void test_signed(void **state)
{
    _cleanup_(refvals_freep) struct refvals *r = NULL, *none = NULL;
    struct jkey *key = NULL, *other = NULL;
    struct trust_keys mine = {0}, others = {0};
    struct err e = {0};

    (void)state;
    need_packages();
    assert_int_equal(jkey_generate(&key, &e), 0);
    assert_int_equal(jkey_generate(&other, &e), 0);
    assert_int_equal(jkey_write_private("release.jwk", key, &e), 0);
    assert_ran(BUILD "--out signed --release-key release.jwk", CLI_OK, "", "");
    mine.n = others.n = 1;
    mine.keys[0] = key;
    others.keys[0] = other;
    if (refvals_read("signed/refvals.jws", &mine, &r, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(r->n, 1);
    assert_string_equal(r->v[0].name, "coffer-guest");
    assert_int_equal(refvals_read("signed/refvals.jws", &others, &none, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    jkey_free(key);
    jkey_free(other);
}

static void test_lock(void **state)
{
    (void)state;
    assert_ran(BUILD "--locked", CLI_USAGE, "", "--locked needs --lock FILE");
    need_packages();
    write_file("lock", BYTES_STR("crun 0.1 -\n"));
    assert_ran(BUILD "--out locked --lock lock", CLI_OK, "", "and 0.1 in the lock");
    assert_ran(BUILD "--out refused --lock lock --locked", CLI_COULD_NOT, "",
               "the packages are not those of lock: crun is version");
    assert_int_not_equal(access("refused/coffer.efi", F_OK), 0);
}

static void test_build_refused(void **state)
{
    (void)state;
    assert_ran("image build", CLI_USAGE, "", "--kernel");
    need_packages();
    assert_ran("image build --out x --worker missing --kernel vmlinuz --modules modules "
               "--modules-list list",
               CLI_COULD_NOT, "", "strip");
    assert_ran("image build --out x --worker /bin/true --kernel missing --modules modules "
               "--modules-list list",
               CLI_COULD_NOT, "", "missing");
    assert_ran(BUILD "--out x --firmware list", CLI_COULD_NOT, "", "firmware");
    write_file("outside", BYTES_STR("../../etc/passwd\n"));
    assert_ran("image build --out x --worker /bin/true --kernel vmlinuz --modules modules "
               "--modules-list outside",
               CLI_COULD_NOT, "", "--modules-list");
    assert_int_not_equal(access("x/coffer.efi", F_OK), 0);
}

/* An image of somebody's who wants to steer our terminal. */
static void test_inspect_hostile(void **state)
{
    const struct pe_new_section v[] = {{".cmdline", BYTES_STR("quiet \033]0;title\007 end")},
                                       {".in\033[2J", BYTES_STR("x")}};
    const struct pe_new_section broken[] = {{".initrd", BYTES_STR("\x28\xb5\x2f\xfd not it")}};
    _cleanup_buf_ struct buf out = BUF_INIT(1 << 20), out2 = BUF_INIT(1 << 20);
    uint8_t stub[PEFIX_BYTES];
    struct err e = {0};

    (void)state;
    pefix_make(stub);
    assert_int_equal(pe_add_sections(BYTES(stub, PEFIX_BYTES), v, 2, &out, &e), 0);
    write_file("hostile.efi", buf_bytes(&out));
    _cleanup_ran_ struct ran r = run_line("image inspect hostile.efi");
    assert_int_equal(r.code, CLI_OK);
    assert_non_null(strstr(r.out, "command line: quiet ?]0;title? end"));
    assert_null(strchr(r.out, '\033'));
    _cleanup_ran_ struct ran j = run_line("image inspect --json hostile.efi");
    assert_int_equal(j.code, CLI_OK);
    assert_null(strstr(j.out, "u001b"));

    assert_int_equal(pe_add_sections(BYTES(stub, PEFIX_BYTES), broken, 1, &out2, &e), 0);
    write_file("broken.efi", buf_bytes(&out2));
    assert_ran("image inspect broken.efi", CLI_COULD_NOT, ".initrd", "image.initrd");
    write_file("text", BYTES_STR("not an image"));
    assert_ran("image inspect text", CLI_COULD_NOT, "", "pe.magic");
    assert_ran("image inspect missing.efi", CLI_COULD_NOT, "", "missing.efi");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_build),
        cmocka_unit_test(test_signed),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_build_refused),
        cmocka_unit_test(test_inspect_hostile),
    };

    return cmocka_run_group_tests(tests, test_enter, test_leave);
}
