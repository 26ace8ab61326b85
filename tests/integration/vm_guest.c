/* A VM with svc-worker as its first process, and this program as its host: what one sends, the
 * other must answer. Usage: integration_vm_guest KERNEL INITRAMFS DIRECTORY [CASE]
 *
 * No firmware that measures and no TPM: that is the launcher's part. Here it is only said what the
 * ports carry. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "common/fileio.h"
#include "common/natsconf.h"
#include "common/nkey.h"
#include "common/spec.h"
#include "common/vm.h"
#include "proto/coffer.pb-c.h"

#define TEXT_MAX (1u << 18)
#define BOOT_MS 60000

enum port { CTL, LOG, BUS, QMP, N_PORTS };

static const char *const port_names[N_PORTS] = {"ctl", "log", "bus", "qmp"};

struct vm {
    pid_t pid; /* of QEMU; 0 once it was collected */
    int fd[N_PORTS];
    char text[N_PORTS][TEXT_MAX]; /* what came */
    size_t n[N_PORTS];
    int64_t started_ms;
};

static struct vm vm;
static const char *kernel, *initramfs, *dir, *current;

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Only ever the VM that this program started. */
static void end_vm(void)
{
    if (vm.pid > 1) {
        kill(vm.pid, SIGKILL);
        waitpid(vm.pid, NULL, 0);
        vm.pid = 0;
    }
    for (int i = 0; i < N_PORTS; i++) {
        closep(&vm.fd[i]);
        vm.fd[i] = -1;
    }
}

static void print_serial(void)
{
    _cleanup_free_ char *path = xasprintf("%s/serial", dir);
    _cleanup_fclose_ FILE *f = fopen(path, "re");
    char line[512];

    for (int i = 0; f && i < 200 && fgets(line, sizeof(line), f); i++) {
        fputs(line, stderr);
    }
}

static void fail(const char *what) __attribute__((noreturn));
static void fail(const char *what)
{
    fprintf(stderr, "vm_guest: %s: FAILED: %s\n--- ctl\n%s--- log\n%s--- qmp\n%s--- serial\n",
            current, what, vm.text[CTL], vm.text[LOG], vm.text[QMP]);
    print_serial();
    end_vm();
    exit(1);
}

/* ---- QEMU ------------------------------------------------------------------------------------ */

static void become_qemu(int with_bus)
{
    char *argv[64];
    int n = 0;

#define ARG(...) argv[n++] = xasprintf(__VA_ARGS__)
    ARG("qemu-system-x86_64");
    ARG("-M");
    ARG("q35,smm=off,usb=off,vmport=off,sata=off,smbus=off,i8042=off,graphics=off");
    ARG("-accel");
    ARG("tcg");
    ARG("-m");
    ARG("256");
    ARG("-nodefaults");
    ARG("-nographic");
    ARG("-vga");
    ARG("none");
    ARG("-no-reboot");
    ARG("-serial");
    ARG("file:%s/serial", dir);
    ARG("-qmp");
    ARG("unix:%s/qmp,server=on,wait=off", dir);
    ARG("-kernel");
    ARG("%s", kernel);
    ARG("-initrd");
    ARG("%s", initramfs);
    ARG("-append");
    ARG("console=ttyS0 quiet loglevel=1 panic=-1 audit=0 cryptomgr.notests random.trust_cpu=on");
    ARG("-device");
    ARG("virtio-serial-pci");
    ARG("-device");
    ARG("virtio-rng-pci");
    for (int i = CTL; i <= (with_bus ? BUS : LOG); i++) {
        ARG("-chardev");
        ARG("socket,id=%s,path=%s/%s,server=on,wait=off", port_names[i], dir, port_names[i]);
        ARG("-device");
        ARG("virtserialport,chardev=%s,id=port-%s,nr=%d,name=coffer.%s", port_names[i],
            port_names[i], i + 1, port_names[i]);
    }
#undef ARG
    argv[n] = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it is not to outlive this program */
    execvp(argv[0], argv);
    _exit(127);
}

static void attach(enum port p)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int64_t end = now_ms() + 10000;

    snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", dir, port_names[p]);
    for (;;) {
        vm.fd[p] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(vm.fd[p], (struct sockaddr *)&a, sizeof(a)) == 0) {
            fcntl(vm.fd[p], F_SETFL, O_NONBLOCK);
            return;
        }
        closep(&vm.fd[p]);
        vm.fd[p] = -1;
        if (now_ms() > end) {
            fail("QEMU does not listen");
        }
        usleep(10000);
    }
}

static void detach(enum port p)
{
    closep(&vm.fd[p]);
    vm.fd[p] = -1;
}

static void start_vm(int with_bus)
{
    for (int i = 0; i < N_PORTS; i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, port_names[i]);
        unlink(path);
        vm.fd[i] = -1;
        vm.n[i] = 0;
        vm.text[i][0] = 0;
    }
    vm.started_ms = now_ms();
    vm.pid = fork();
    if (vm.pid == 0) {
        become_qemu(with_bus);
    }
    if (vm.pid < 0) {
        fail("fork");
    }
    attach(QMP);
    attach(CTL);
    attach(LOG);
    static const char hello[] = "{\"execute\":\"qmp_capabilities\"}\n";
    if (write(vm.fd[QMP], hello, sizeof(hello) - 1) < 0) {
        fail("qmp");
    }
}

static void read_ports(int timeout_ms)
{
    struct pollfd f[N_PORTS];

    for (int i = 0; i < N_PORTS; i++) {
        f[i] = (struct pollfd){.fd = vm.fd[i], .events = POLLIN};
    }
    if (poll(f, N_PORTS, timeout_ms) <= 0) {
        return;
    }
    for (int i = 0; i < N_PORTS; i++) {
        if (!f[i].revents) {
            continue;
        }
        ssize_t n = read(vm.fd[i], vm.text[i] + vm.n[i], TEXT_MAX - 1 - vm.n[i]);
        if (n <= 0) {
            detach((enum port)i);
            continue;
        }
        vm.n[i] += (size_t)n;
        vm.text[i][vm.n[i]] = 0;
    }
}

static void expect(enum port p, const char *what, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    char text[512];

    while (!strstr(vm.text[p], what)) {
        if (now_ms() > end || (vm.fd[p] < 0 && vm.fd[QMP] < 0)) {
            snprintf(text, sizeof(text), "%s does not say %s", port_names[p], what);
            fail(text);
        }
        read_ports(100);
    }
}

/* The VM ends by itself, by its guest's wish, and QEMU with it. */
static void expect_off(int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    int status;

    while (waitpid(vm.pid, &status, WNOHANG) == 0) {
        if (now_ms() > end) {
            fail("the VM does not power off");
        }
        read_ports(50);
    }
    vm.pid = 0;
    read_ports(0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail("QEMU failed");
    }
    if (!strstr(vm.text[QMP], "guest-shutdown")) {
        fail("not by the guest's wish");
    }
    end_vm();
}

static void send_bytes(const void *p, size_t n)
{
    if (write(vm.fd[CTL], p, n) != (ssize_t)n) {
        fail("cannot write to ctl");
    }
}

/* ---- launch configurations ------------------------------------------------------------------- */

static const char job_yaml[] = "apiVersion: coffer/v1\n"
                               "kind: Job\n"
                               "metadata: {name: guest}\n"
                               "workload:\n"
                               "  image: sha256:%064d\n"
                               "  encrypted: false\n"
                               "  args: [\"/bin/true\"]\n"
                               "datasets: []\n"
                               "tee: {mode: preferred}\n"
                               "output:\n"
                               "  path: /output\n"
                               "  maxBytes: 65536\n"
                               "  files: [{path: out, type: text/plain}]\n"
                               "  recipients: [self]\n";

/* A certificate that no server here has: no connection gets further than the handshake. */
static char *ca_pem(void)
{
    _cleanup_free_ char *nats = xasprintf("%s/nats", dir);
    _cleanup_free_ char *path = xasprintf("%s/ca.pem", nats);
    const struct natsconf_opts o = {.dir = nats, .listen_host = "127.0.0.1", .port = 4222};
    _cleanup_buf_ struct buf b = BUF_INIT(65536);
    struct err e = {0};

    if (natsconf_write(&o, &e) || file_read(path, 65536, 0, &b, &e)) {
        fail(e.msg);
    }
    return xstrndup((const char *)b.p, b.n);
}

static void send_launch(const char *tee, const char *url, int with_disk)
{
    Coffer__V1__LaunchConfig c = COFFER__V1__LAUNCH_CONFIG__INIT;
    Coffer__V1__VmDisk disk = COFFER__V1__VM_DISK__INIT;
    Coffer__V1__VmDisk *disks[] = {&disk};
    _cleanup_free_ char *yaml = xasprintf(job_yaml, 7);
    _cleanup_free_ char *jws = NULL;
    _cleanup_free_ char *ca = ca_pem();
    _cleanup_jkey_ struct jkey *consumer = NULL;
    _cleanup_spec_ struct spec *spec = NULL;
    static uint8_t packed[4 + VM_LAUNCH_MAX_BYTES];
    _cleanup_secret_ struct secret *seed = nkey_new_user_seed();
    _cleanup_free_ char *seed_text = xstrndup((const char *)secret_cp(seed), secret_n(seed));
    struct err e = {0};

    if (jkey_generate(&consumer, &e) ||
        spec_from_yaml("job.yaml", BYTES_STR(yaml), consumer, &spec, &e) ||
        spec_sign(spec, consumer, &jws, &e)) {
        fail(e.msg);
    }
    c.job = spec->job_id;
    c.attempt = 1;
    c.spec_jws = jws;
    c.tee = (char *)(uintptr_t)tee;
    c.nats_url = (char *)(uintptr_t)url;
    c.nats_ca_pem = ca;
    c.nats_seed = seed_text;
    c.work_dir = (char *)(uintptr_t) "/run/coffer/work";
    disk.serial = disk.kind = (char *)(uintptr_t) "pack";
    disk.bytes = 1024;
    c.disks = disks;
    c.n_disks = with_disk ? 1 : 0;
    size_t n = coffer__v1__launch_config__pack(&c, packed + 4);
    packed[0] = (uint8_t)(n >> 24);
    packed[1] = (uint8_t)(n >> 16);
    packed[2] = (uint8_t)(n >> 8);
    packed[3] = (uint8_t)n;
    send_bytes(packed, n + 4);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void refused_by_init(const void *frame, size_t n, const char *why)
{
    start_vm(1);
    send_bytes(frame, n);
    expect(CTL, why, BOOT_MS);
    expect(CTL, "{\"exit\":3}\n", 5000);
    expect_off(10000);
    if (strstr(vm.text[CTL], "alive") || strstr(vm.text[CTL], "phase")) {
        fail("a worker was started");
    }
}

static void case_garbage(void)
{
    refused_by_init("\0\0\0\5\xff\xff\xff\xff\xff", 9,
                    "{\"refused\":{\"code\":\"invalid\",\"clause\":\"launch\",\"expected\":\"a "
                    "LaunchConfig\",\"actual\":\"5 bytes that are none\"");
}

static void case_huge(void)
{
    refused_by_init("\xff\xff\xff\xff", 4, "\"actual\":\"4294967295\"");
}

static void case_no_disks(void)
{
    start_vm(1);
    send_launch("sample", "tls://127.0.0.1:4222", 0);
    expect(CTL, "\"clause\":\"launch.disks\"", BOOT_MS);
    expect(CTL, "{\"exit\":3}\n", 5000);
    expect_off(10000);
}

static void case_url(void)
{
    start_vm(1);
    send_launch("sample", "tls://a b", 1);
    expect(CTL, "\"clause\":\"launch.nats_url\"", BOOT_MS);
    expect(CTL, "{\"exit\":3}\n", 5000);
    expect_off(10000);
}

/* Passed on by the first process, refused by the worker. */
static void case_worker_refuses(void)
{
    start_vm(1);
    send_launch("abacus", "tls://127.0.0.1:4222", 1);
    expect(CTL, "\"clause\":\"launch.tee\"", BOOT_MS);
    expect(CTL, "{\"exit\":3}\n", 5000);
    expect_off(10000);
    expect(LOG, "worker.refused", 0);
    expect(LOG, "init: the worker ended: exit status 3", 0);
}

static void case_no_bus_port(void)
{
    start_vm(0);
    send_launch("sample", "tls://127.0.0.1:4222", 1);
    expect(CTL, "{\"failed\":\"the VM has no virtio-serial port coffer.bus\"}\n{\"exit\":1}\n",
           BOOT_MS);
    expect_off(10000);
}

/* Nobody sends a launch configuration, or not all of one. */
static void case_silent(void)
{
    start_vm(1);
    send_bytes("\0\0\1\0half", 8);
    expect(CTL, "{\"failed\":\"no launch configuration within 30000 ms (4 of 256 bytes came)\"}\n",
           BOOT_MS + 30000);
    expect_off(10000);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;

    for (const char *p = text; (p = strstr(p, what)); p++) {
        n++;
    }
    return n;
}

static void wait_bus(const char *open, size_t times)
{
    int64_t end = now_ms() + 15000;

    while (count(vm.text[QMP], open) < times) {
        if (now_ms() > end) {
            fail("the bus port is not opened or closed in time");
        }
        read_ports(50);
    }
}

/* No bus for a while: the worker stays, tries, and says that it lives. Then there is one: bytes go
 * both ways; it goes, and comes again. */
static void case_bus(void)
{
    static const char info[] =
        "INFO {\"server_id\":\"X\",\"version\":\"2.10.0\",\"proto\":1,\"headers\":true,"
        "\"tls_required\":true,\"max_payload\":1048576,\"nonce\":\"abcdefghijk\"}\r\n";
    static const char opened[] = "\"open\": true, \"id\": \"port-bus\"";
    static const char closed[] = "\"open\": false, \"id\": \"port-bus\"";

    start_vm(1);
    send_launch("sample", "tls://127.0.0.1:4555", 1);
    expect(CTL, "{\"phase\":\"attest\"}\n", BOOT_MS);
    wait_bus(opened, 1);
    wait_bus(closed, 1); /* the worker has given up its connection, and the port is seen to close */
    int64_t end = now_ms() + 20000;
    while (count(vm.text[CTL], "{\"alive\":") < 3 && now_ms() < end) {
        read_ports(100);
    }
    if (count(vm.text[CTL], "{\"alive\":") < 3) {
        fail("too few signs of life");
    }
    for (unsigned i = 1; i <= 2; i++) {
        wait_bus(opened, count(vm.text[QMP], closed) + 1);
        vm.n[BUS] = 0;
        vm.text[BUS][0] = 0;
        attach(BUS);
        if (write(vm.fd[BUS], info, sizeof(info) - 1) < 0) {
            fail("bus");
        }
        expect(BUS, "\x16\x03\x01", 10000); /* a TLS ClientHello */
        size_t before = count(vm.text[QMP], closed);
        detach(BUS);
        wait_bus(closed, before + 1);
    }
    if (strstr(vm.text[CTL], "exit") || strstr(vm.text[LOG], "relay ended")) {
        fail("something ended");
    }
    end_vm();
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"garbage", case_garbage},
    {"huge", case_huge},
    {"no-disks", case_no_disks},
    {"url", case_url},
    {"worker-refuses", case_worker_refuses},
    {"no-bus-port", case_no_bus_port},
    {"silent", case_silent},
    {"bus", case_bus},
};

int main(int argc, char **argv)
{
    if (argc < 4) {
        fputs("usage: integration_vm_guest KERNEL INITRAMFS DIRECTORY [CASE]\n", stderr);
        return 2;
    }
    kernel = argv[1];
    initramfs = argv[2];
    dir = argv[3];
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < N_PORTS; i++) {
        vm.fd[i] = -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (argc > 4 && !streq(argv[4], cases[i].name)) {
            continue;
        }
        current = cases[i].name;
        int64_t from = now_ms();
        cases[i].run();
        printf("%s: ok, %.1f s\n", current, (double)(now_ms() - from) / 1000);
    }
    return 0;
}
