#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "common/vm.h"
#include "svc-worker/init.h"
#include "svc-worker/worker.h"

/* The parts of a VM's first process that need no VM. */

static char dir[64];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/coffer-init-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    _cleanup_free_ char *command = xasprintf("rm -rf %s", dir);

    (void)state;
    return system(command);
}

static char *path_of(const char *name)
{
    static char paths[4][160];
    static unsigned next;
    char *p = paths[next++ % 4];

    snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const char *text)
{
    struct err e = {0};
    char *path = path_of(name);

    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
    if (file_replace(path, BYTES_STR(text), 0600, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void assert_text(const char *name, const char *want)
{
    _cleanup_buf_ struct buf b = BUF_INIT(4096);
    struct err e = {0};

    if (file_read(path_of(name), 4096, 0, &b, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(b.n, strlen(want));
    assert_memory_equal(b.p, want, b.n);
}

/* ---- the frame ------------------------------------------------------------------------------- */

static int read_frame(const void *sent, size_t n, int hang_up, struct buf *ret, struct err *e)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(write(fds[0], sent, n), n);
    if (hang_up) {
        close(TAKE_FD(fds[0]));
    }
    int rc = init_launch_read(fds[1], 150, ret, e);
    closep(&fds[0]);
    close(fds[1]);
    return rc;
}

static void test_frame(void **state)
{
    struct err e = {0};
    _cleanup_buf_ struct buf b = BUF_INIT(VM_LAUNCH_MAX_BYTES);

    (void)state;
    assert_int_equal(read_frame("\0\0\0\3abcdef", 10, 0, &b, &e), 0);
    assert_int_equal(b.n, 3);
    assert_memory_equal(b.p, "abc", 3);
    buf_done(&b);
    /* A host that sent all and went away. */
    assert_int_equal(read_frame("\0\0\0\3abc", 7, 1, &b, &e), 0);
}

static void test_frame_bad(void **state)
{
    static const struct {
        const char *sent;
        size_t n;
        enum err_code code;
        const char *msg;
    } cases[] = {
        {"", 0, ERR_TIMEOUT, "no launch configuration within 150 ms (0 of 4 bytes came)"},
        {"\0\0", 2, ERR_TIMEOUT, "no launch configuration within 150 ms (2 of 4 bytes came)"},
        {"\0\0\0\5abc", 7, ERR_TIMEOUT,
         "no launch configuration within 150 ms (3 of 5 bytes came)"},
        {"\0\0\0\0", 4, ERR_INVALID, "launch: expected a LaunchConfig, got 0 bytes"},
        {"\0\4\0\1", 4, ERR_TOO_LARGE, "launch: expected at most 262144 bytes, got 262145"},
        {"\xff\xff\xff\xff", 4, ERR_TOO_LARGE,
         "launch: expected at most 262144 bytes, got 4294967295"},
    };

    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_LEN(cases); i++) {
        const __typeof__(cases[0]) *c = &cases[i / 2];
        _cleanup_buf_ struct buf b = BUF_INIT(VM_LAUNCH_MAX_BYTES);
        struct err e = {0};
        assert_int_equal(read_frame(c->sent, c->n, i & 1, &b, &e), -1);
        assert_int_equal(e.code, c->code);
        assert_string_equal(e.msg, c->msg);
        assert_int_equal(b.n, 0);
    }
}

/* The host may send it in any pieces. */
static void test_frame_in_pieces(void **state)
{
    static const char sent[] = "\0\0\0\6abcdef";
    _cleanup_buf_ struct buf b = BUF_INIT(VM_LAUNCH_MAX_BYTES);
    struct err e = {0};
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < 10; i++) {
            if (write(fds[0], sent + i, 1) != 1) {
                _exit(1);
            }
            usleep(5000);
        }
        _exit(0);
    }
    close(fds[0]);
    assert_int_equal(init_launch_read(fds[1], 5000, &b, &e), 0);
    assert_int_equal(b.n, 6);
    assert_memory_equal(b.p, "abcdef", 6);
    close(fds[1]);
}

/* ---- nats_url -------------------------------------------------------------------------------- */

static void test_url(void **state)
{
    static const struct {
        const char *url, *host;
        uint16_t port;
        int family;
    } cases[] = {
        {"tls://127.0.0.1:4333", "127.0.0.1", 4333, AF_INET},
        {"tls://10.1.2.3", "10.1.2.3", 4222, AF_INET},
        {"tls://nats.example.org:65535", "nats.example.org", 65535, AF_UNSPEC},
        {"tls://Host-1", "Host-1", 4222, AF_UNSPEC},
        {"tls://[::1]:1", "::1", 1, AF_INET6},
        {"tls://[2001:db8::5]", "2001:db8::5", 4222, AF_INET6},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct init_bus b;
        struct err e = {0};
        if (init_bus_parse(cases[i].url, &b, &e)) {
            fail_msg("%s", e.msg);
        }
        assert_string_equal(b.host, cases[i].host);
        assert_int_equal(b.port, cases[i].port);
        assert_int_equal(b.family, cases[i].family);
        if (b.family == AF_UNSPEC) {
            assert_int_equal(b.addr.v4.s_addr, htonl(INADDR_LOOPBACK));
        }
    }
}

static void test_url_bad(void **state)
{
    static const char *const urls[] = {
        "",
        "127.0.0.1:4222",
        "http://h:1",
        "nats://h:1",
        "tls://",
        "tls://:4222",
        "tls://h:",
        "tls://h:0",
        "tls://h:65536",
        "tls://h:999999",
        "tls://h:4a",
        "tls://h:-1",
        "tls://user:pw@h:1",
        "tls://h/path",
        "tls://a:1,tls://b:2",
        "tls://-h",
        "tls://.h",
        "tls://h\n1.2.3.4 x",
        "tls://h x",
        "tls://0.0.0.0:1",
        "tls://224.0.0.1:1",
        "tls://255.255.255.255",
        "tls://[::]",
        "tls://[ff02::1]",
        "tls://[::1",
        "tls://[::1]x",
        "tls://[127.0.0.1]",
        "tls://[]",
    };
    char longest[400] = "tls://";

    (void)state;
    memset(longest + 6, 'a', 300);
    for (size_t i = 0; i <= ARRAY_LEN(urls); i++) {
        struct init_bus b = {.port = 7};
        struct err e = {0};
        const char *url = i < ARRAY_LEN(urls) ? urls[i] : longest;
        if (init_bus_parse(url, &b, &e) != -1) {
            fail_msg("taken: %s", url);
        }
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(e.clause, "launch.nats_url");
        assert_non_null(
            strstr(e.msg, "expected tls://, a host name or address, and perhaps a port"));
        assert_int_equal(b.port, 7);
    }
}

/* ---- the message ----------------------------------------------------------------------------- */

static int check(Coffer__V1__LaunchConfig *c, struct init_bus *ret, struct err *e)
{
    static uint8_t packed[4096];

    return init_launch_check(BYTES(packed, coffer__v1__launch_config__pack(c, packed)), ret, e);
}

static void test_launch_check(void **state)
{
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    Coffer__V1__VmDisk disk = COFFER__V1__VM_DISK__INIT;
    Coffer__V1__VmDisk *disks[] = {&disk};
    struct init_bus b;
    struct err e = {0};

    (void)state;
    assert_int_equal(init_launch_check(BYTES("\xff\xff", 2), &b, &e), -1);
    assert_string_equal(e.msg, "launch: expected a LaunchConfig, got 2 bytes that are none");
    c.work_dir = (char *)INIT_WORK_DIR;
    c.nats_url = (char *)"tls://h:1";
    assert_int_equal(check(&c, &b, &e), -1);
    assert_string_equal(e.msg, "launch.disks: expected at least one, in a VM, got none");
    c.disks = disks;
    c.n_disks = 1;
    c.work_dir = (char *)"/etc";
    assert_int_equal(check(&c, &b, &e), -1);
    assert_string_equal(e.msg, "launch.work_dir: expected /run/coffer/work, got /etc");
    c.work_dir = (char *)INIT_WORK_DIR;
    c.nats_url = (char *)"h";
    assert_int_equal(check(&c, &b, &e), -1);
    assert_string_equal(e.clause, "launch.nats_url");
    c.nats_url = (char *)"tls://h:1";
    assert_int_equal(check(&c, &b, &e), 0);
    assert_int_equal(b.port, 1);
}

static void test_launch_file(void **state)
{
    struct err e = {0};
    char got[8];
    int fd;

    (void)state;
    assert_int_equal(init_launch_file(BYTES_STR("abc"), &fd, &e), 0);
    assert_int_equal(read(fd, got, sizeof(got)), 3);
    assert_memory_equal(got, "abc", 3);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(fd, 1), -1);
    close(fd);
}

/* ---- ports, modules, sysctls ----------------------------------------------------------------- */

static void test_ports(void **state)
{
    char path[64];
    struct err e = {0};
    int fd;

    (void)state;
    put("sys/vport0p1/name", "coffer.ctl\n");
    put("sys/vport0p2/name", "coffer.bus\n");
    put("sys/vport0p3/name", "coffer.log2\n");
    put("sys/vport0p4/other", "coffer.log\n");
    put("dev/vport0p2", "");
    char *sys = path_of("sys"), *dev = path_of("dev");
    assert_int_equal(init_port_find(sys, dev, "coffer.bus", 0, path, &e), 0);
    assert_string_equal(path, path_of("dev/vport0p2"));
    /* A port without its node, one whose name only begins so, none at all. */
    assert_int_equal(init_port_find(sys, dev, "coffer.ctl", 30, path, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_string_equal(e.msg, "the VM has no virtio-serial port coffer.ctl");
    assert_int_equal(init_port_find(sys, dev, "coffer.log", 30, path, &e), -1);
    assert_int_equal(init_port_find(path_of("nowhere"), dev, "coffer.bus", 0, path, &e), -1);
    assert_int_equal(init_port_open(path_of("dev/none"), &fd, &e), -1);
    assert_non_null(strstr(e.msg, "No such file"));
}

static char loaded[512];

static int record(const char *path, struct err *e)
{
    const char *name = strrchr(path, '/') + 1;

    if (strstr(name, "bad")) {
        return err_set(e, ERR_IO, "module %s: no", name);
    }
    strncat(loaded, name, sizeof(loaded) - strlen(loaded) - 1);
    strcat(loaded, " ");
    return 0;
}

static void test_modules(void **state)
{
    struct err e = {0};

    (void)state;
    put("m/20-b.ko", "");
    put("m/10-z.ko", "");
    put("m/30-a.ko", "");
    put("m/.hidden.ko", "");
    put("m/15-c.ko.xz", "");
    put("m/README", "");
    assert_int_equal(init_modules(path_of("m"), record, &e), 0);
    assert_string_equal(loaded, "10-z.ko 20-b.ko 30-a.ko ");
    assert_int_equal(init_modules(path_of("none"), record, &e), 0);
    put("m/25-bad.ko", "");
    loaded[0] = 0;
    assert_int_equal(init_modules(path_of("m"), record, &e), -1);
    assert_string_equal(loaded, "10-z.ko 20-b.ko ");
    assert_string_equal(e.msg, "module 25-bad.ko: no");
    for (int i = 0; i < 64; i++) {
        char name[32];
        snprintf(name, sizeof(name), "many/%d.ko", i);
        put(name, "");
    }
    loaded[0] = 0;
    assert_int_equal(init_modules(path_of("many"), record, &e), 0);
    put("many/one-more.ko", "");
    assert_int_equal(init_modules(path_of("many"), record, &e), -1);
    assert_non_null(strstr(e.msg, "expected at most 64 modules"));
}

static void test_scratch_modules(void **state)
{
    struct err e = {0};

    (void)state;
    put("mods/scratch/02-y.ko", "");
    put("mods/scratch/01-z.ko", "");
    put("mods/10-z.ko", "");
    put("disks-none/vda/size", "1");
    put("disks-none/vdb/serial", "d0");
    put("disks-some/vda/serial", "b0\n");
    put("disks-some/vdb/serial", VM_SCRATCH_SERIAL);
    put("disks-longer/vda/serial", VM_SCRATCH_SERIAL "0");
    loaded[0] = 0;
    assert_int_equal(init_modules(path_of("mods"), record, &e), 0);
    assert_string_equal(loaded, "10-z.ko ");
    loaded[0] = 0;
    assert_int_equal(init_scratch_modules(path_of("disks-none"), path_of("mods"), record, &e), 0);
    assert_int_equal(init_scratch_modules(path_of("disks-longer"), path_of("mods"), record, &e), 0);
    assert_int_equal(init_scratch_modules(path_of("disks-missing"), path_of("mods"), record, &e),
                     0);
    assert_string_equal(loaded, "");
    assert_int_equal(init_scratch_modules(path_of("disks-some"), path_of("mods"), record, &e), 0);
    assert_string_equal(loaded, "01-z.ko 02-y.ko ");
}

static void test_sysctls(void **state)
{
    static const char *const required[] = {
        "kernel/panic",          "kernel/panic_on_oops",      "kernel/kptr_restrict",
        "kernel/dmesg_restrict", "kernel/randomize_va_space", "fs/suid_dumpable",
        "fs/protected_symlinks", "fs/protected_hardlinks",    "fs/protected_fifos",
        "fs/protected_regular"};
    char name[80];
    struct err e = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(required); i++) {
        snprintf(name, sizeof(name), "sysctl/%s", required[i]);
        put(name, "");
    }
    put("sysctl/kernel/modules_disabled", "");
    put("sysctl/kernel/yama/ptrace_scope", "");
    assert_int_equal(init_sysctls(path_of("sysctl"), &e), 0);
    assert_int_equal(init_seal_kernel(path_of("sysctl"), &e), 0);
    assert_text("sysctl/kernel/panic", "-1");
    assert_text("sysctl/kernel/kptr_restrict", "2");
    assert_text("sysctl/kernel/dmesg_restrict", "1");
    assert_text("sysctl/kernel/modules_disabled", "1");
    assert_text("sysctl/kernel/yama/ptrace_scope", "2");
    unlink(path_of("sysctl/kernel/dmesg_restrict"));
    assert_int_equal(init_sysctls(path_of("sysctl"), &e), -1);
    assert_string_equal(e.msg, "sysctl kernel/dmesg_restrict=1: No such file or directory");
}

static void test_entropy(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(init_entropy(1000, &e), 0);
}

static void test_not_a_vm(void **state)
{
    (void)state;
    assert_false(init_in_vm());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame),           cmocka_unit_test(test_frame_bad),
        cmocka_unit_test(test_frame_in_pieces), cmocka_unit_test(test_url),
        cmocka_unit_test(test_url_bad),         cmocka_unit_test(test_launch_check),
        cmocka_unit_test(test_launch_file),     cmocka_unit_test(test_ports),
        cmocka_unit_test(test_modules),         cmocka_unit_test(test_scratch_modules),
        cmocka_unit_test(test_sysctls),         cmocka_unit_test(test_entropy),
        cmocka_unit_test(test_not_a_vm),
    };

    return cmocka_run_group_tests_name("init", tests, setup, teardown);
}
