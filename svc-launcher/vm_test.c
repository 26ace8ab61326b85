#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "svc-launcher/keeper_fixture_test.h"
#include "svc-launcher/launch_config.h"
#include "svc-launcher/vm_fixture_test.h"

/* The vtpm backend with real keepers, real QEMU and real swtpm. The guest is a kernel of three
 * bytes that halts for ever, or one that restarts. This program plays the launcher, the keeper and
 * cvm-vm. */

#define LAUNCHES 8 /* COFFER_VM_LAUNCHES: another number */
#define SEABIOS "/usr/share/seabios/bios-256k.bin"

static struct fixture f;
static struct heard heard;
static char image_dir[128], cvm_dir[128], ca_dir[128];

static struct backend_env env_of(void)
{
    return (struct backend_env){.keeper = "/proc/self/exe",
                                .worker = "",
                                .store = f.dir,
                                .cvm_dir = cvm_dir,
                                .seed_file = "/dev/null",
                                .grace_ms = 3000,
                                .host = "test",
                                .vm = {.qemu = "/usr/bin/qemu-system-x86_64",
                                       .swtpm = "/usr/bin/swtpm",
                                       .swtpm_setup = "/usr/bin/swtpm_setup",
                                       .image = image_dir,
                                       .tpm_ca = ca_dir,
                                       .accel = "tcg",
                                       .cpus = "",
                                       .quote_socket = "",
                                       .overhead_bytes = 64 << 20,
                                       .hang_ms = 30000,
                                       .numa_node = -1}};
}

/* A kernel of the oldest boot protocol: one sector, four of set-up code, and nothing. */
static void write_idle_kernel(void)
{
    static uint8_t kernel[16384];
    _cleanup_free_ char *path = xasprintf("%s/coffer.efi", image_dir);
    struct err e = {0};

    memcpy(kernel + 512, "\xf4\xeb\xfd", 3); /* hlt; jmp to it */
    assert_int_equal(file_replace(path, BYTES(kernel, sizeof(kernel)), 0644, &e), 0);
}

static int copy_file(const char *from, const char *to)
{
    _cleanup_buf_ struct buf b = BUF_INIT(64 << 20);
    struct err e = {0};

    return file_read(from, 64 << 20, 0, &b, &e) < 0 ? -1
                                                    : file_replace(to, buf_bytes(&b), 0644, &e);
}

static int setup(void **state)
{
    (void)state;
    if (fixture_make(&f) < 0) {
        return -1;
    }
    snprintf(image_dir, sizeof(image_dir), "%s/image", f.dir);
    snprintf(cvm_dir, sizeof(cvm_dir), "%s/the cvm", f.dir);
    snprintf(ca_dir, sizeof(ca_dir), "%s/the ca", f.dir);
    _cleanup_free_ char *bios = xasprintf("%s/OVMF.fd", image_dir);
    if (mkdir(image_dir, 0755) < 0 || mkdir(cvm_dir, 0700) < 0 || copy_file(SEABIOS, bios) < 0) {
        return -1;
    }
    write_idle_kernel();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    jkey_free(f.key);
    return remove_tree(f.dir, NULL);
}

static void packed_config(const char *dataset, const char *nats_url, struct buf *ret)
{
    _cleanup_spec_ struct spec *spec = fixture_spec(&f, f.image, dataset);
    _cleanup_free_ char *jws = NULL;
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    struct err e = {0};

    assert_int_equal(spec_sign(spec, f.key, &jws, &e), 0);
    c.job = "j";
    c.attempt = 1;
    c.spec_jws = jws;
    c.nats_url = (char *)nats_url;
    c.nats_seed = "SECRETSEED";
    size_t n = coffer__v1__launch_config__get_packed_size(&c);
    assert_int_equal(buf_reserve(ret, n, &e), 0);
    ret->n += coffer__v1__launch_config__pack(&c, ret->p + ret->n);
}

static struct cvm_handle start_with(const struct backend_env *env, const char *dataset,
                                    char work[200])
{
    _cleanup_buf_ struct buf config = BUF_INIT(LAUNCH_CONFIG_MAX_BYTES);
    struct cvm_handle h;

    packed_config(dataset, "tls://127.0.0.1:1", &config);
    snprintf(work, 200, "%s/j.1", cvm_dir);
    assert_int_equal(mkdir(work, 0700), 0);
    struct backend_launch l = {
        .job = "j", .attempt = 1, .config = buf_bytes(&config), .work_dir = work};
    heard_launch(&heard, backend_find("vtpm"), env, &l, &h);
    return h;
}

static struct cvm_handle start(char work[200])
{
    struct backend_env env = env_of();

    return start_with(&env, DATASET, work);
}

/* ---- looking --------------------------------------------------------------------------------- */

static int command_of(pid_t pid, char *text, size_t size)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    _cleanup_close_ int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    if (n <= 0) {
        return -1;
    }
    for (ssize_t i = 0; i < n; i++) {
        text[i] = text[i] ? text[i] : ' ';
    }
    text[n] = '\0';
    return 0;
}

static pid_t parent_of(pid_t pid)
{
    char path[64], line[128];
    int parent = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    _cleanup_fclose_ FILE *s = fopen(path, "re");
    while (s && fgets(line, sizeof(line), s)) {
        if (sscanf(line, "PPid: %d", &parent) == 1) {
            break;
        }
    }
    return (pid_t)parent;
}

static int descends(pid_t pid, pid_t from)
{
    for (int i = 0; i < 8 && pid > 1; i++) {
        if (pid == from) {
            return 1;
        }
        pid = parent_of(pid);
    }
    return 0;
}

/* A process below `from` with `word` in its command line; 0. */
static pid_t find(pid_t from, const char *word)
{
    struct dirent *d;
    char text[4096];
    pid_t found = 0;

    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    while (!found && (d = readdir(proc))) {
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid > 0 && command_of(pid, text, sizeof(text)) == 0 && strstr(text, word) &&
            descends(pid, from)) {
            found = pid;
        }
    }
    closedir(proc);
    return found;
}

static void pause_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static pid_t await(pid_t from, const char *word)
{
    for (int i = 0; i < 1000; i++) {
        pid_t pid = find(from, word);
        if (pid) {
            return pid;
        }
        pause_ms(20);
    }
    fail_msg("no %s", word);
    return 0;
}

static void nothing_left(const char *work)
{
    _cleanup_fclose_ FILE *mounts = fopen("/proc/self/mounts", "re");
    char line[1024], sock[LINK_PATH_MAX];

    link_path(work, sock);
    /* The keeper's socket goes last. */
    for (int i = 0; i < 200 && (find(getpid(), "coffer-j.1") || access(sock, F_OK) == 0); i++) {
        pause_ms(10);
    }
    assert_int_equal(find(getpid(), "coffer-j.1"), 0); /* QEMU's -name */
    assert_int_equal(find(getpid(), "dir=/tpm"), 0);
    assert_int_equal(access(work, F_OK), -1);
    assert_int_equal(access(sock, F_OK), -1);
    assert_non_null(mounts);
    while (fgets(line, sizeof(line), mounts)) {
        assert_null(strstr(line, f.dir));
    }
}

static size_t open_descriptors(void)
{
    size_t n = 0;

    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static const char *status_line(pid_t pid, const char *name, char line[256])
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    _cleanup_fclose_ FILE *s = fopen(path, "re");
    assert_non_null(s);
    while (fgets(line, 256, s)) {
        if (strncmp(line, name, strlen(name)) == 0) {
            return line + strlen(name);
        }
    }
    fail_msg("no %s", name);
    return NULL;
}

static void same_namespace(pid_t a, pid_t b, const char *name, int want)
{
    char path[64], x[64] = "", y[64] = "";

    snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)a, name);
    assert_true(readlink(path, x, sizeof(x) - 1) > 0);
    snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)b, name);
    assert_true(readlink(path, y, sizeof(y) - 1) > 0);
    assert_int_equal(streq(x, y), want);
}

static void check_confined(pid_t pid)
{
    static const char *const namespaces[] = {"net", "mnt", "pid", "ipc", "uts"};
    char line[256], path[64];
    unsigned real, effective;

    for (size_t i = 0; i < ARRAY_LEN(namespaces); i++) {
        same_namespace(pid, getpid(), namespaces[i], 0);
    }
    assert_string_equal(status_line(pid, "CapEff:", line), "\t0000000000000000\n");
    assert_string_equal(status_line(pid, "CapBnd:", line), "\t0000000000000000\n");
    assert_string_equal(status_line(pid, "NoNewPrivs:", line), "\t1\n");
    assert_string_equal(status_line(pid, "Seccomp:", line), "\t2\n");
    assert_int_equal(sscanf(status_line(pid, "Uid:", line), "%u %u", &real, &effective), 2);
    assert_true(geteuid() != 0 || (real >= VM_UID_BASE && effective == real));
    if (geteuid() == 0) {
        snprintf(path, sizeof(path), "/proc/%d/root/etc", (int)pid);
        assert_int_equal(access(path, F_OK), -1);
        snprintf(path, sizeof(path), "/proc/%d/root/usr/bin", (int)pid);
        assert_int_equal(access(path, F_OK), 0);
        snprintf(path, sizeof(path), "/proc/%d/net/dev", (int)pid);
        _cleanup_fclose_ FILE *dev = fopen(path, "re");
        for (int i = 0; dev && fgets(line, sizeof(line), dev); i++) {
            assert_true(i < 2 || strstr(line, "lo:"));
        }
    }
}

static void confined_and_destroyed(void **state)
{
    char work[200];
    int left = 0;

    (void)state;
    struct cvm_handle h = start(work);
    pid_t qemu = await(getpid(), "-name coffer-j.1"), swtpm = await(getpid(), "dir=/tpm");
    heard_expect(&heard, &h, heard.log, "vm: emulated, 256 MiB, 2 CPU(s), 3 disks");
    pause_ms(500); /* for the seccomp filter of QEMU, its last act before the guest */
    check_confined(qemu);
    check_confined(swtpm);
    backend_find("vtpm")->destroy(&h);
    assert_int_equal(backend_find("vtpm")->reap(heard_reap(&heard, &h), &left), VM_EXIT_STOPPED);
    nothing_left(work);
}

static void a_part_is_killed(const char *word, const char *why)
{
    char work[200];

    struct cvm_handle h = start(work);
    await(getpid(), "-name coffer-j.1");
    heard_expect(&heard, &h, heard.log, "vm: emulated");
    pid_t pid = await(getpid(), word);
    kill(pid, SIGKILL);
    heard_expect(&heard, &h, heard.life, why);
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)), VM_EXIT_FAILED);
    assert_null(strstr(heard.life, "booted"));
    nothing_left(work);
}

static void qemu_is_killed(void **state)
{
    (void)state;
    a_part_is_killed("-name coffer-j.1", "{\"failed\":\"QEMU ended with signal 9");
}

static void swtpm_is_killed(void **state)
{
    (void)state;
    a_part_is_killed("dir=/tpm", "{\"failed\":\"swtpm ended with signal 9");
}

static void cvm_vm_is_killed(void **state)
{
    char work[200];

    (void)state;
    struct cvm_handle h = start(work);
    await(getpid(), "-name coffer-j.1");
    heard_expect(&heard, &h, heard.log, "vm: emulated");
    pid_t qemu = find(h.pid, "-name coffer-j.1");
    assert_true(qemu > 0 && parent_of(parent_of(qemu)) == h.pid);
    kill(parent_of(qemu), SIGKILL);
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)),
                     128 + SIGKILL); /* the keeper cleaned up */
    assert_int_equal(access(work, F_OK), -1);
    for (int i = 0; i < 300 && find(getpid(), "coffer-j.1"); i++) {
        pause_ms(10);
    }
    assert_int_equal(find(getpid(), "coffer-j.1"), 0);
    assert_int_equal(find(getpid(), "dir=/tpm"), 0);
    nothing_left(work);
}

static void keeper_is_killed(void **state)
{
    char work[200];

    (void)state;
    struct cvm_handle h = start(work);
    pid_t qemu = await(getpid(), "-name coffer-j.1"), swtpm = await(getpid(), "dir=/tpm");
    heard_expect(&heard, &h, heard.log, "vm: emulated");
    kill(h.pid, SIGKILL);
    heard_reap(&heard, &h);
    for (int i = 0; i < 300 && (kill(qemu, 0) == 0 || kill(swtpm, 0) == 0); i++) {
        while (waitpid(-1, NULL, WNOHANG) > 0) { /* orphans are ours: a subreaper's */
        }
        pause_ms(10);
    }
    assert_true(kill(qemu, 0) < 0 && kill(swtpm, 0) < 0);
    char sock[LINK_PATH_MAX];
    link_path(work, sock);
    assert_int_equal(remove_tree(work, NULL), 0); /* as the launcher does then (run.c) */
    assert_int_equal(remove_tree(sock, NULL), 0);
    nothing_left(work);
}

static void the_launcher_is_killed(void **state)
{
    char work[200];
    int fds[2], left = 1;
    pid_t qemu = 0;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    pid_t launcher = fork();
    if (launcher == 0) {
        struct cvm_handle h = start(work);
        qemu = await(h.pid, "-name coffer-j.1");
        heard_expect(&heard, &h, heard.log, "vm: emulated");
        ssize_t n = write(fds[1], &qemu, sizeof(qemu));
        (void)n;
        pause();
        _exit(0);
    }
    assert_int_equal(read(fds[0], &qemu, sizeof(qemu)), sizeof(qemu));
    kill(launcher, SIGKILL);
    waitpid(launcher, NULL, 0);
    snprintf(work, sizeof(work), "%s/j.1", cvm_dir);
    for (int i = 0; i < 1000 && left; i++) {
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        pause_ms(10);
        left = kill(qemu, 0) == 0 || access(work, F_OK) == 0;
    }
    assert_int_equal(left, 0);
    close(fds[0]);
    close(fds[1]);
    nothing_left(work);
}

static void hangs(void **state)
{
    struct backend_env env = env_of();
    char work[200];

    (void)state;
    env.vm.hang_ms = 700;
    struct cvm_handle h = start_with(&env, DATASET, work);
    heard_expect(&heard, &h, heard.life, "{\"failed\":\"the VM hangs: no sign of life for 2100 ms");
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)), VM_EXIT_FAILED);
    nothing_left(work);
}

/* A guest that restarts, as Linux does after a panic with panic=-1. */
static void restarts(void **state)
{
    static uint8_t kernel[16384];
    _cleanup_free_ char *path = xasprintf("%s/coffer.efi", image_dir);
    char work[200];
    struct err e = {0};

    (void)state;
    /* mov dx, 0xcf9; mov al, 6; out dx, al; hlt */
    memcpy(kernel + 512, "\xba\xf9\x0c\xb0\x06\xee\xf4", 7);
    assert_int_equal(file_replace(path, BYTES(kernel, sizeof(kernel)), 0644, &e), 0);
    struct cvm_handle h = start(work);
    heard_expect(&heard, &h, heard.life, "{\"failed\":\"the guest's kernel panicked, or restarted");
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)), VM_EXIT_FAILED);
    write_idle_kernel();
    nothing_left(work);
}

static void refuses_what_is_missing(void **state)
{
    struct backend_env env = env_of();
    char work[200];

    (void)state;
    struct cvm_handle h = start_with(&env, "other.abcdefghijklmnopqrstuvwxyz", work);
    heard_expect(&heard, &h, heard.life, "other.abcdefghijklmnopqrstuvwxyz.coffer");
    assert_non_null(
        strstr(heard.life, "{\"refused\":{\"code\":\"not-found\",\"clause\":\"store\""));
    assert_int_equal(WEXITSTATUS(heard_reap(&heard, &h)), VM_EXIT_FAILED);
    nothing_left(work);
}

static void one_after_another(void **state)
{
    const char *wanted = getenv("COFFER_VM_LAUNCHES");
    int n = wanted ? (int)strtol(wanted, NULL, 10) : LAUNCHES;
    char work[200];

    (void)state;
    size_t before = open_descriptors();
    for (int i = 0; i < n; i++) {
        struct cvm_handle h = start(work);
        if (i % 2) { /* every other one in the midst of its preparation */
            pause_ms(i * 37 % 300);
        } else {
            await(getpid(), "-name coffer-j.1");
        }
        backend_find("vtpm")->destroy(&h);
        heard_reap(&heard, &h);
        nothing_left(work);
    }
    assert_int_equal(open_descriptors(), before);
}

static void probes(void **state)
{
    struct backend_env env = env_of();
    struct err why = {0};

    (void)state;
    assert_int_equal(vtpm_backend.probe(&env, &why), 0);
    assert_string_equal(why.msg, "emulated, slow");
    env.vm.accel = "fast";
    assert_int_equal(vtpm_backend.probe(&env, &why), -1);
    assert_string_equal(why.msg, "vm-accel: expected auto, kvm or tcg, got \"fast\"");
    env.vm.accel = "tcg";
    env.vm.image = "/nonexistent";
    assert_int_equal(vtpm_backend.probe(&env, &why), -1);
    assert_string_equal(why.msg, "guest-image /nonexistent/OVMF.fd: No such file or directory");
    env.vm.swtpm_setup = "/usr/bin/no-swtpm_setup";
    assert_int_equal(vtpm_backend.probe(&env, &why), -1);
    assert_non_null(strstr(why.msg, "swtpm-tools"));
    env.vm.qemu = "/tmp/qemu";
    assert_int_equal(vtpm_backend.probe(&env, &why), -1);
    assert_string_equal(why.msg, "vm-qemu: expected a program below /usr, got /tmp/qemu");
    env.vm.qemu = "/usr/bin/no-qemu";
    assert_int_equal(vtpm_backend.probe(&env, &why), -1);
    assert_non_null(strstr(why.msg, "/usr/bin/no-qemu (Debian: qemu-system-x86)"));
    env.vm.qemu = "/usr/bin/true";
    assert_int_equal(vtpm_backend.probe(&env, &why), -1);
}

/* Whether what the tests need is here; the backend itself says what is missing. */
static int usable(void)
{
    static const char *const programs[] = {"/usr/bin/qemu-system-x86_64", "/usr/bin/swtpm",
                                           "/usr/bin/swtpm_setup", SEABIOS};
    char *const argv[] = {"/usr/bin/true", NULL};
    char root[] = "/tmp/coffer-jail-XXXXXX";
    const struct vm_jail j = {.root = mkdtemp(root), .uid = VM_UID_BASE, .cpus = "", .out_fd = 2};
    struct err e = {0};
    pid_t pid;

    for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
        if (access(programs[i], R_OK) < 0) {
            fprintf(stderr, "SKIPPED: %s: %s\n", programs[i], strerror(errno));
            rmdir(root);
            return 0;
        }
    }
    int rc = vm_jail_start(&j, argv, &pid, &e);
    if (rc == 0) {
        waitpid(pid, NULL, 0);
    } else {
        fprintf(stderr, "SKIPPED: %s\n", e.msg);
    }
    rmdir(root);
    return rc == 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && streq(argv[1], KEEPER_VERB)) {
        return keeper_main(argc, argv);
    }
    if (argc > 1 && streq(argv[1], VM_VERB)) {
        return vm_main(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probes),
        cmocka_unit_test(refuses_what_is_missing),
        cmocka_unit_test(confined_and_destroyed),
        cmocka_unit_test(qemu_is_killed),
        cmocka_unit_test(swtpm_is_killed),
        cmocka_unit_test(cvm_vm_is_killed),
        cmocka_unit_test(keeper_is_killed),
        cmocka_unit_test(the_launcher_is_killed),
        cmocka_unit_test(hangs),
        cmocka_unit_test(restarts),
        cmocka_unit_test(one_after_another),
    };
    if (!usable()) {
        return 77;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    return cmocka_run_group_tests_name("vtpm backend", tests, setup, teardown);
}
