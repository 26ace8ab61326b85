#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "svc-launcher/vm.h"

/* What of the VM backends works on this host. The first thing that is missing is the answer. */

#define VERSION_MS 5000
#define QEMU_MIN 702
#define QEMU_SNP 901
#define QEMU_TDX 1001

/* ---- QEMU ------------------------------------------------------------------------------------ */

int vm_qemu_version(const char *text)
{
    const char *p = strstr(text, "version ");
    unsigned major, minor;

    if (!p || sscanf(p, "version %3u.%2u", &major, &minor) != 2) {
        return 0;
    }
    return (int)(major * 100 + minor);
}

static void run_version(const char *program, int out_fd)
{
    char *const argv[] = {(char *)program, "--version", NULL};
    static char *const env[] = {"PATH=/usr/bin", NULL};
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd >= 0 && dup2(null_fd, 0) == 0 && dup2(out_fd, 1) == 1 && dup2(null_fd, 2) == 2) {
        execve(program, argv, env);
    }
    _exit(127);
}

static int ask_version(const char *program, struct err *why)
{
    char text[256] = "";
    size_t n = 0;
    int fds[2];
    int64_t end_ms = vm_now_ms() + VERSION_MS;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(why, "pipe");
    }
    _cleanup_close_ int r = fds[0], w = fds[1];
    pid_t pid = fork();
    if (pid == 0) {
        run_version(program, w);
    }
    if (pid < 0) {
        return err_errno(why, "fork");
    }
    close(TAKE_FD(w));
    while (n < sizeof(text) - 1) {
        struct pollfd p = {.fd = r, .events = POLLIN};
        int64_t left = end_ms - vm_now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) == 0) {
            break;
        }
        ssize_t got = read(r, text + n, sizeof(text) - 1 - n);
        if (got <= 0) {
            break;
        }
        n += (size_t)got;
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    int version = vm_qemu_version(text);
    return version ? version
                   : err_refuse(why, ERR_UNSUPPORTED, "vm-qemu", "a QEMU that tells its version",
                                "%s", program);
}

/* Asked again only when the file has changed: the probe is repeated for as long as the host runs.
 */
static int qemu_version(const char *program, struct err *why)
{
    static struct {
        dev_t dev;
        ino_t ino;
        struct timespec at;
        int version;
    } known;
    struct stat st;

    if (stat(program, &st) < 0) {
        return err_errno(why, "%s (Debian: qemu-system-x86)", program);
    }
    if (known.version && st.st_dev == known.dev && st.st_ino == known.ino &&
        st.st_mtim.tv_sec == known.at.tv_sec && st.st_mtim.tv_nsec == known.at.tv_nsec) {
        return known.version;
    }
    int version = ask_version(program, why);
    if (version > 0) {
        known.dev = st.st_dev;
        known.ino = st.st_ino;
        known.at = st.st_mtim;
        known.version = version;
    }
    return version;
}

static int probe_qemu(const char *program, int min, struct err *why)
{
    if (strncmp(program, "/usr/", 5) != 0) {
        return err_refuse(why, ERR_UNSUPPORTED, "vm-qemu", "a program below /usr", "%.100s",
                          program);
    }
    int version = qemu_version(program, why);
    if (version < 0) {
        return -1;
    }
    if (version < min) {
        char want[64];
        snprintf(want, sizeof(want), "QEMU %d.%d or newer", min / 100, min % 100);
        return err_refuse(why, ERR_UNSUPPORTED, "vm-qemu", want, "%d.%d", version / 100,
                          version % 100);
    }
    return 0;
}

/* ---- what else ------------------------------------------------------------------------------- */

static int probe_file(const char *dir, const char *name, struct err *why)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);

    return access(path, R_OK) < 0 ? err_errno(why, "guest-image %s", path) : 0;
}

static int probe_program(const char *path, const char *package, struct err *why)
{
    return access(path, X_OK) < 0 ? err_errno(why, "%s (Debian: %s)", path, package) : 0;
}

static int probe_tpm(const struct vm_options *o, struct err *why)
{
    if (strncmp(o->swtpm, "/usr/", 5) != 0) {
        return err_refuse(why, ERR_UNSUPPORTED, "vm-swtpm", "a program below /usr", "%.100s",
                          o->swtpm);
    }
    return probe_program(o->swtpm, "swtpm", why) < 0 ||
                   probe_program(o->swtpm_setup, "swtpm-tools", why) < 0
               ? -1
               : 0;
}

static int module_says(const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char c = 0;

    return fd >= 0 && read(fd, &c, 1) == 1 && (c == 'Y' || c == 'y' || c == '1');
}

int vm_sev_bits(uint32_t *ret_cbitpos, uint32_t *ret_reduced)
{
    unsigned a, b, c, d;

    if (!__get_cpuid_count(0x8000001fu, 0, &a, &b, &c, &d) || !(a & 1u << 4)) {
        return -1; /* bit 4: SEV-SNP */
    }
    *ret_cbitpos = b & 0x3fu;
    *ret_reduced = b >> 6 & 0x3fu;
    return 0;
}

static int probe_tee(enum vm_kind kind, struct err *why)
{
    uint32_t a, b;

    switch (kind) {
    case VM_VTPM:
        return 0;
    case VM_SNP:
        if (vm_sev_bits(&a, &b) < 0) {
            return err_refuse(why, ERR_UNSUPPORTED, "snp", "a CPU with SEV-SNP", "another");
        }
        if (!module_says("/sys/module/kvm_amd/parameters/sev_snp")) {
            return err_refuse(why, ERR_UNSUPPORTED, "snp",
                              "Y in /sys/module/kvm_amd/parameters/sev_snp", "something else");
        }
        return access("/dev/sev", R_OK | W_OK) < 0 ? err_errno(why, "/dev/sev") : 0;
    case VM_TDX:
        if (!module_says("/sys/module/kvm_intel/parameters/tdx")) {
            return err_refuse(why, ERR_UNSUPPORTED, "tdx",
                              "Y in /sys/module/kvm_intel/parameters/tdx", "something else");
        }
        return 0;
    }
    return err_set(why, ERR_INTERNAL, "no such kind of VM");
}

static int probe_accel(enum vm_kind kind, const char *accel, int *ret_kvm, struct err *why)
{
    struct err no = {0};

    if (!streq(accel, "auto") && !streq(accel, "kvm") && !streq(accel, "tcg")) {
        return err_refuse(why, ERR_INVALID, "vm-accel", "auto, kvm or tcg", "\"%.20s\"", accel);
    }
    int kvm = (kind != VM_VTPM || !streq(accel, "tcg")) && vm_kvm_works(&no) == 0;
    if (!kvm && (kind != VM_VTPM || streq(accel, "kvm"))) {
        return err_set(why, ERR_UNSUPPORTED, "%s", no.msg);
    }
    *ret_kvm = kvm;
    snprintf(why->msg, sizeof(why->msg), "%s%s", kvm ? "KVM" : "emulated, slow",
             kvm || streq(accel, "tcg") ? "" : ": ");
    if (!kvm && !streq(accel, "tcg")) {
        strncat(why->msg, no.msg, sizeof(why->msg) - strlen(why->msg) - 1);
    }
    return 0;
}

int vm_probe(enum vm_kind kind, const struct backend_env *env, int *ret_kvm, struct err *why)
{
    const struct vm_options *o = &env->vm;
    uint8_t cpus[VM_CPUS_MAX / 8];
    struct stat st;
    int kvm = 0;

    if (probe_tee(kind, why) < 0 ||
        probe_qemu(o->qemu,
                   kind == VM_SNP   ? QEMU_SNP
                   : kind == VM_TDX ? QEMU_TDX
                                    : QEMU_MIN,
                   why) < 0 ||
        (kind == VM_VTPM && probe_tpm(o, why) < 0) || probe_file(o->image, "OVMF.fd", why) < 0 ||
        probe_file(o->image, "coffer.efi", why) < 0 ||
        (o->cpus[0] && vm_cpus_parse(o->cpus, cpus, why) < 0)) {
        return -1;
    }
    if (stat(env->store, &st) < 0) {
        return err_errno(why, "store %s", env->store);
    }
    if (access(env->seed_file, R_OK) < 0) {
        return err_errno(why, "worker-nats-seed %s", env->seed_file);
    }
    if (probe_accel(kind, o->accel, &kvm, why) < 0) {
        return -1;
    }
    if (ret_kvm) {
        *ret_kvm = kvm;
    }
    return 0;
}
