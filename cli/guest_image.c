/* coffer image build, measure: the guest image and what it measures to (docs/guest.md). */
#include <errno.h>
#include <sys/stat.h>

#include "cli/guest_bom.h"
#include "cli/verbs.h"
#include "common/fileio.h"
#include "common/jose.h"
#include "common/vm.h"
#include "guest/initramfs.h"
#include "guest/measure.h"
#include "guest/pe.h"
#include "guest/version.h"

#define KERNEL_MAX_BYTES (64u << 20)
#define IMAGE_MAX_BYTES (512u << 20)
#define FIRMWARE_MAX_BYTES (16u << 20)
#define CMDLINE                                                                                    \
    "console=ttyS0 quiet loglevel=1 panic=-1 audit=0 cryptomgr.notests random.trust_cpu=on"
#define OSREL "ID=coffer\nNAME=Coffer guest\nVERSION_ID=" COFFER_VERSION "\n"

const struct cli_opt opts_image_build[] = {
    {"out", 'o', "DIR", VALUE_DIR, "where the files go (default: guest-image)", 0},
    {"kernel", 0, "FILE", VALUE_FILE, "the kernel, an EFI bzImage (vmlinuz-...)", 0},
    {"modules", 0, "DIR", VALUE_DIR, "its modules (lib/modules/RELEASE)", 0},
    {"modules-list", 0, "FILE", VALUE_FILE, "which of them, in the order of loading", 0},
    {"worker", 0, "FILE", VALUE_FILE, "the first process (default: svc-worker beside coffer)", 0},
    {"firmware", 0, "FILE", VALUE_FILE, "OVMF (default: /usr/share/ovmf/OVMF.fd)", 0},
    {"stub", 0, "FILE", VALUE_FILE, "systemd's EFI stub (default: Debian's)", 0},
    {"release-key", 0, "FILE", VALUE_FILE, "sign the reference values with this key", 0},
    {"linked", 0, "FILE", VALUE_FILE, "a static library in the worker, named in sbom.json", 1},
    {"lock", 0, "FILE", VALUE_FILE, "say where the packages differ from these", 0},
    {"locked", 0, NULL, VALUE_NONE, "with --lock: refuse to build where they differ", 0},
    {0},
};

const struct cli_opt opts_image_measure[] = {
    {"firmware", 0, "FILE", VALUE_FILE, "OVMF (default: OVMF.fd beside the image)", 0},
    {"memory", 0, "MIB", VALUE_TEXT, "of the VM (default: 256)", 0},
    {"vcpus", 0, "N", VALUE_TEXT, "of the VM (default: 1)", 0},
    {0},
};

struct build {
    const char *out, *kernel, *modules, *list, *worker, *firmware, *stub;
    char *own_worker, *own_list;
    struct strings linked;
    struct initramfs *fs;
    struct buf kernel_bytes, stub_bytes, firmware_bytes, initrd, uki;
};

static void build_done(struct build *b)
{
    if (b->fs) {
        initramfs_done(b->fs);
    }
    free(b->fs);
    free(b->own_worker);
    free(b->own_list);
    strings_done(&b->linked);
    buf_done(&b->kernel_bytes);
    buf_done(&b->stub_bytes);
    buf_done(&b->firmware_bytes);
    buf_done(&b->initrd);
    buf_done(&b->uki);
}

/* ---- build ----------------------------------------------------------------------------------- */

/* "drivers/virtio/virtio.ko" to "lib/modules/coffer/02-virtio.ko": loaded in the order of names.
 * "scratch: crypto/xts.ko" to ".../coffer/scratch/17-xts.ko": only where there is scratch. */
static int add_module(struct build *b, const char *line, unsigned index, struct err *e)
{
    static const char only[] = "scratch: ";
    int scratch = strncmp(line, only, sizeof(only) - 1) == 0;
    const char *name = scratch ? line + sizeof(only) - 1 : line, *base = strrchr(name, '/');
    _cleanup_free_ char *from = xasprintf("%s/kernel/%s", b->modules, name);
    _cleanup_free_ char *to = xasprintf("usr/lib/modules/coffer/%s%02u-%s",
                                        scratch ? "scratch/" : "", index, base ? base + 1 : name);

    if (strstr(name, "..") || index > 99) {
        return err_refuse(e, ERR_INVALID, "--modules-list", "paths below kernel/", "\"%.100s\"",
                          name);
    }
    return initramfs_file(b->fs, to, from, 0644, e) < 0 ? -1 : 0;
}

static int add_modules(struct build *b, struct err *e)
{
    _cleanup_buf_ struct buf list = BUF_INIT(65536);
    unsigned index = 1;
    char *save = NULL;

    if (file_read(b->list, 65535, 0, &list, e) || buf_add(&list, "", 1, e)) {
        return err_wrap(e, "--modules-list");
    }
    for (char *l = strtok_r((char *)list.p, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        if (l[0] && l[0] != '#' && add_module(b, l, index++, e)) {
            return -1;
        }
    }
    return 0;
}

static int fill(struct build *b, struct err *e)
{
    static const char *const dirs[] = {"proc", "sys", "dev", "run", "newroot", "etc"};
    static const char *const links[][2] = {{"bin", "usr/bin"},
                                           {"sbin", "usr/sbin"},
                                           {"lib", "usr/lib"},
                                           {"lib64", "usr/lib64"},
                                           {"etc/hosts", "/run/coffer/hosts"}};

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (initramfs_dir(b->fs, dirs[i], 0755, e) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        if (initramfs_link(b->fs, links[i][0], links[i][1], e) < 0) {
            return -1;
        }
    }
    return initramfs_dir(b->fs, "tmp", 01777, e) < 0 ||
                   initramfs_dir(b->fs, "usr/sbin", 0755, e) < 0 ||
                   initramfs_device(b->fs, "dev/console", 5, 1, e) < 0 ||
                   initramfs_text(b->fs, "etc/nsswitch.conf", "hosts: files\n", e) < 0 ||
                   initramfs_program(b->fs, "init", b->worker, 1, e) < 0 ||
                   initramfs_program(b->fs, "usr/bin/crun", "/usr/bin/crun", 0, e) < 0 ||
                   initramfs_program(b->fs, "usr/sbin/mke2fs", "/usr/sbin/mke2fs", 0, e) < 0 ||
                   add_modules(b, e) < 0
               ? -1
               : 0;
}

static int check_stub(const struct build *b, struct err *e)
{
    char version[VERSION_TEXT_BYTES];
    struct pe p;

    if (pe_parse(buf_bytes(&b->stub_bytes), &p, e)) {
        return err_wrap(e, "--stub");
    }
    version_of_stub(&p, version);
    return version[0] ? 0
                      : err_refuse(e, ERR_UNSUPPORTED, "--stub", "systemd's EFI stub",
                                   "a file that does not say so");
}

static int compose(struct build *b, struct err *e)
{
    struct pe_new_section v[] = {{".osrel", BYTES_STR(OSREL)},
                                 {".cmdline", BYTES_STR(CMDLINE)},
                                 {".linux", buf_bytes(&b->kernel_bytes)},
                                 {".initrd", {0}}};

    if (fill(b, e) || initramfs_pack(b->fs, &b->initrd, e)) {
        return -1;
    }
    v[3].content = buf_bytes(&b->initrd);
    return pe_add_sections(buf_bytes(&b->stub_bytes), v, ARRAY_LEN(v), &b->uki, e);
}

static int put(const struct build *b, const char *name, struct bytes content, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", b->out, name);

    return file_replace(path, content, 0644, e);
}

static int write_refvals(struct cli *c, const struct build *b, struct buf *notes, struct err *e)
{
    const char *key_path = cli_opt(c, "release-key");
    struct guest_image_name n = {.name = "coffer-guest", .version = COFFER_VERSION};
    _cleanup_jkey_ struct jkey *key = NULL;
    _cleanup_json_ json_t *j = NULL;
    _cleanup_free_ char *text = NULL, *jws = NULL, *line = NULL;

    if (guest_refvals(buf_bytes(&b->firmware_bytes), buf_bytes(&b->uki), &n, &j, notes, e)) {
        return -1;
    }
    text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (!text || put(b, "refvals.json", BYTES_STR(text), e)) {
        return -1;
    }
    if (!key_path) {
        return 0;
    }
    if (jkey_read_private(key_path, &key, e) ||
        jws_sign_json(key, "coffer-refvals+jws", 0, j, &jws, e)) {
        return err_wrap(e, "--release-key");
    }
    line = xasprintf("%s\n", jws);
    return put(b, "refvals.jws", BYTES_STR(line), e);
}

static int options(struct cli *c, struct build *b, struct err *e)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) {
        *slash = '\0';
    }
    b->own_worker = xasprintf("%s/svc-worker", self);
    b->out = cli_opt(c, "out") ? cli_opt(c, "out") : "guest-image";
    b->worker = cli_opt(c, "worker") ? cli_opt(c, "worker") : b->own_worker;
    b->firmware = cli_opt(c, "firmware") ? cli_opt(c, "firmware") : "/usr/share/ovmf/OVMF.fd";
    b->stub =
        cli_opt(c, "stub") ? cli_opt(c, "stub") : "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
    b->kernel = cli_opt(c, "kernel");
    b->modules = cli_opt(c, "modules");
    b->list = cli_opt(c, "modules-list");
    cli_opt_list(c, "linked", &b->linked);
    if (cli_has(c, "locked") && !cli_opt(c, "lock")) {
        return err_set(e, ERR_INVALID, "--locked needs --lock FILE");
    }
    if (!b->kernel || !b->modules || !b->list) {
        return err_set(e, ERR_INVALID,
                       "--kernel, --modules and --modules-list are needed "
                       "(guest/fetch-kernel.sh fetches Debian's)");
    }
    return mkdir(b->out, 0755) < 0 && errno != EEXIST ? err_errno(e, "--out %s", b->out) : 0;
}

static int write_bom(struct cli *c, const struct build *b, struct buf *notes, struct err *e)
{
    const struct guest_bom bom = {.fs = b->fs,
                                  .kernel = b->kernel,
                                  .stub = b->stub,
                                  .firmware = b->firmware,
                                  .kernel_bytes = buf_bytes(&b->kernel_bytes),
                                  .stub_bytes = buf_bytes(&b->stub_bytes),
                                  .firmware_bytes = buf_bytes(&b->firmware_bytes),
                                  .uki = buf_bytes(&b->uki),
                                  .linked = b->linked.v,
                                  .linked_n = b->linked.n,
                                  .lock = cli_opt(c, "lock"),
                                  .locked = cli_has(c, "locked"),
                                  .out = b->out};

    return guest_bom(&bom, notes, e);
}

static int build(struct cli *c, struct build *b, struct buf *notes, struct err *e)
{
    if (file_read(b->kernel, KERNEL_MAX_BYTES, 0, &b->kernel_bytes, e) ||
        file_read(b->stub, KERNEL_MAX_BYTES, 0, &b->stub_bytes, e) ||
        file_read(b->firmware, FIRMWARE_MAX_BYTES, 0, &b->firmware_bytes, e) || check_stub(b, e) ||
        compose(b, e) || write_bom(c, b, notes, e) || write_refvals(c, b, notes, e)) {
        return -1;
    }
    /* Last: an image that is there is whole. */
    return put(b, "OVMF.fd", buf_bytes(&b->firmware_bytes), e) ||
                   put(b, "coffer.efi", buf_bytes(&b->uki), e)
               ? -1
               : 0;
}

int verb_image_build(struct cli *c, int argc, char **argv)
{
    _cleanup_(build_done) struct build b = {.fs = xcalloc(1, sizeof(*b.fs)),
                                            .kernel_bytes = BUF_INIT(KERNEL_MAX_BYTES),
                                            .stub_bytes = BUF_INIT(KERNEL_MAX_BYTES),
                                            .firmware_bytes = BUF_INIT(FIRMWARE_MAX_BYTES),
                                            .initrd = BUF_INIT(INITRAMFS_MAX_BYTES),
                                            .uki = BUF_INIT(IMAGE_MAX_BYTES)};
    _cleanup_buf_ struct buf notes = BUF_INIT(65536);
    struct err e = {0};

    (void)argc;
    (void)argv;
    if (options(c, &b, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (build(c, &b, &notes, &e)) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        return cli_json(c, json_pack("{s:s,s:I,s:I}", "image", b.out, "bytes", (json_int_t)b.uki.n,
                                     "initramfs_bytes", (json_int_t)b.initrd.n));
    }
    fprintf(c->err, "%.*s", (int)notes.n, notes.n ? (char *)notes.p : "");
    cli_say(c, "%s/coffer.efi: %.1f MiB, of it initramfs %.1f MiB (%zu files)", b.out,
            (double)b.uki.n / 1048576, (double)b.initrd.n / 1048576, b.fs->n);
    return CLI_OK;
}

/* ---- measure --------------------------------------------------------------------------------- */

static int read_image(struct cli *c, const char *arg, struct buf *uki, struct buf *firmware,
                      struct err *e)
{
    struct stat st;
    int dir = stat(arg, &st) == 0 && S_ISDIR(st.st_mode);
    _cleanup_free_ char *image = dir ? xasprintf("%s/coffer.efi", arg) : xstrdup(arg);
    _cleanup_free_ char *beside = xstrdup(image);
    char *slash = strrchr(beside, '/');

    if (file_read(image, IMAGE_MAX_BYTES, 0, uki, e)) {
        return -1;
    }
    if (!firmware) {
        return 0;
    }
    if (slash) {
        slash[1] = '\0';
    }
    _cleanup_free_ char *own = xasprintf("%sOVMF.fd", slash ? beside : "");
    return file_read(cli_opt(c, "firmware") ? cli_opt(c, "firmware") : own, FIRMWARE_MAX_BYTES, 0,
                     firmware, e);
}

/* What SEV-SNP and TDX guests of it measure to, and why there is nothing to say of one of them. */
static void say_confidential(struct cli *c, const json_t *values, const struct buf *notes)
{
    const json_t *tdx = json_object_get(values, "tdx");
    size_t i;
    json_t *o;

    json_array_foreach(json_object_get(values, "snp"), i, o)
    {
        cli_say(c, "snp launch digest, %s, %d vCPU: %s",
                json_string_value(json_object_get(o, "cpu")),
                (int)json_integer_value(json_object_get(o, "vcpus")),
                json_string_value(json_object_get(o, "digest")));
    }
    for (const char *const *name = (const char *const[]){"mrtd", "rtmr1", "rtmr2", NULL};
         tdx && *name; name++) {
        cli_say(c, "tdx %-5s  %s", *name, json_string_value(json_object_get(tdx, *name)));
    }
    fprintf(c->err, "%.*s", (int)notes->n, notes->n ? (const char *)notes->p : "");
}

int verb_image_measure(struct cli *c, int argc, char **argv)
{
    _cleanup_buf_ struct buf uki = BUF_INIT(IMAGE_MAX_BYTES), fw = BUF_INIT(FIRMWARE_MAX_BYTES);
    _cleanup_json_ json_t *pcrs = json_object(), *values = json_object();
    _cleanup_buf_ struct buf notes = BUF_INIT(4096);
    struct guest_measured m;
    struct err e = {0};
    int64_t memory, vcpus;
    char name[4];

    (void)argc;
    if (cli_opt_int(c, "memory", VM_MEMORY_MIN_MIB, 1 << 22, VM_MEMORY_MIN_MIB, &memory, &e) ||
        cli_opt_int(c, "vcpus", 1, VM_VCPUS_MAX, 1, &vcpus, &e)) {
        return cli_fail_as(c, CLI_USAGE, &e);
    }
    if (read_image(c, argv[0], &uki, &fw, &e) ||
        guest_measure(buf_bytes(&fw), buf_bytes(&uki), (uint32_t)memory, (unsigned)vcpus, &m, &e) ||
        guest_confidential(buf_bytes(&fw), buf_bytes(&uki), values, &notes, &e)) {
        return cli_fail(c, &e);
    }
    for (unsigned i = 0; i < GUEST_PCRS; i++) {
        _cleanup_free_ char *hex = hex_encode(m.pcr[i], 32);
        if (i == 8 || i == 10 || (i == 0 && !m.has_pcr0)) {
            continue;
        }
        snprintf(name, sizeof(name), "%u", i);
        json_object_set_new(pcrs, name, json_string(hex));
        cli_say(c, "pcr %-2u  %s", i, hex);
    }
    if (!m.has_pcr0) {
        cli_say(c, "pcr 0   not known for this build of the firmware");
    }
    for (size_t i = 0; i < m.n_events; i++) {
        _cleanup_free_ char *hex = hex_encode(m.events[i].digest, 32);
        cli_say(c, "event in pcr %-2u  %s  %s", m.events[i].pcr, hex, m.events[i].what);
    }
    if (!c->json) {
        say_confidential(c, values, &notes);
        return CLI_OK;
    }
    json_object_set(values, "pcrs", pcrs);
    json_object_set_new(values, "cmdline", json_string(m.cmdline));
    return cli_json(c, TAKE_PTR(values));
}
