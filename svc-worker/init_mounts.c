#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "common/vm.h"
#include "svc-worker/init.h"

#define MODULES_MAX 64
#define ENTROPY_STEP_MS 10
#define NEW_ROOT "/newroot"

/* ---- root and file systems ------------------------------------------------------------------- */

int init_root(struct err *e)
{
    if ((mkdir(NEW_ROOT, 0755) < 0 && errno != EEXIST) ||
        mount("/", NEW_ROOT, NULL, MS_BIND, NULL) < 0 || chdir(NEW_ROOT) < 0 ||
        mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || chmod("/", 0755) < 0) {
        return err_errno(e, "cannot make the initramfs a root");
    }
    return 0;
}

struct file_system {
    const char *dir, *type, *options;
    unsigned long flags;
    int optional, no_mkdir;
};

#define CLOSED (MS_NOSUID | MS_NODEV | MS_NOEXEC)

/* The worker's own tmpfs, for plaintext, has the bound of its job; these hold next to nothing. */
static const struct file_system file_systems[] = {
    {"/proc", "proc", NULL, CLOSED, 0, 0},
    {"/sys", "sysfs", NULL, CLOSED | MS_RDONLY, 0, 0},
    {"/dev", "devtmpfs", "mode=0755", MS_NOSUID | MS_NOEXEC, 0, 0},
    {"/run", "tmpfs", "mode=0755,size=8m,nr_inodes=1024", CLOSED, 0, 0},
    {"/tmp", "tmpfs", "mode=1777,size=8m,nr_inodes=1024", CLOSED, 0, 0},
    {"/sys/kernel/security", "securityfs", NULL, CLOSED | MS_RDONLY, 1, 1},
    {"/sys/fs/cgroup", "cgroup2", "nsdelegate", CLOSED, 0, 1},
};

int init_mounts(struct err *e)
{
    static const char *const dirs[] = {"/run/coffer", INIT_WORK_DIR};

    for (size_t i = 0; i < ARRAY_LEN(file_systems); i++) {
        const struct file_system *f = &file_systems[i];
        if (!f->no_mkdir && mkdir(f->dir, 0755) < 0 && errno != EEXIST) {
            return err_errno(e, "cannot make %s", f->dir);
        }
        if (mount(f->type, f->dir, f->type, f->flags, f->options) < 0 && !f->optional) {
            return err_errno(e, "cannot mount %s", f->dir);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (mkdir(dirs[i], 0755) < 0) {
            return err_errno(e, "cannot make %s", dirs[i]);
        }
    }
    return 0;
}

int init_root_read_only(struct err *e)
{
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL) < 0) {
        return err_errno(e, "cannot make the root read-only");
    }
    return 0;
}

/* ---- modules --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int is_module(const char *name)
{
    size_t n = strlen(name);

    return name[0] != '.' && n > 3 && streq(name + n - 3, ".ko");
}

static int list_modules(const char *dir, char *names[MODULES_MAX], size_t *ret_n, struct err *e)
{
    DIR *d = opendir(dir);

    if (!d) {
        return errno == ENOENT ? 0 : err_errno(e, "%s", dir);
    }
    for (struct dirent *de = readdir(d); de; de = readdir(d)) {
        if (!is_module(de->d_name)) {
            continue;
        }
        if (*ret_n == MODULES_MAX) {
            closedir(d);
            return err_set(e, ERR_TOO_LARGE, "%s: expected at most %d modules", dir, MODULES_MAX);
        }
        names[(*ret_n)++] = xasprintf("%s/%s", dir, de->d_name);
    }
    closedir(d);
    qsort(names, *ret_n, sizeof(names[0]), by_name);
    return 0;
}

/* Whether the VM has a disk for scratch. The host says so; to load modules is all it decides here.
 */
static int have_scratch(const char *sys_block)
{
    DIR *d = opendir(sys_block);
    int found = 0;

    for (struct dirent *de = d ? readdir(d) : NULL; de && !found; de = readdir(d)) {
        _cleanup_free_ char *path = xasprintf("%s/%s/serial", sys_block, de->d_name);
        char serial[sizeof(VM_SCRATCH_SERIAL) + 2] = "";
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, serial, sizeof(serial) - 1);
        serial[n > 0 ? strcspn(serial, "\n") : 0] = '\0';
        found = streq(serial, VM_SCRATCH_SERIAL);
    }
    if (d) {
        closedir(d);
    }
    return found;
}

int init_scratch_modules(const char *sys_block, const char *dir, init_load_fn load, struct err *e)
{
    _cleanup_free_ char *sub = xasprintf("%s/scratch", dir);

    return have_scratch(sys_block) ? init_modules(sub, load, e) : 0;
}

int init_modules(const char *dir, init_load_fn load, struct err *e)
{
    char *names[MODULES_MAX];
    size_t n = 0;
    int rc = list_modules(dir, names, &n, e);

    for (size_t i = 0; i < n; i++) {
        rc = rc ? rc : load(names[i], e);
        free(names[i]);
    }
    return rc;
}

int init_load_module(const char *path, struct err *e)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) {
        return err_errno(e, "module %s", path);
    }
    return 0;
}

/* ---- the kernel's settings ------------------------------------------------------------------- */

struct setting {
    const char *name, *value;
    int optional; /* belongs to what a kernel may leave out */
};

static int write_setting(const char *root, const struct setting *s, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", root, s->name);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT && s->optional) {
        return 0;
    }
    if (fd < 0 || write(fd, s->value, strlen(s->value)) != (ssize_t)strlen(s->value)) {
        return err_errno(e, "sysctl %s=%s", s->name, s->value);
    }
    return 0;
}

static int write_settings(const char *root, const struct setting *s, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        if (write_setting(root, &s[i], e)) {
            return -1;
        }
    }
    return 0;
}

int init_sysctls(const char *root, struct err *e)
{
    static const struct setting settings[] = {
        {"kernel/panic", "-1", 0},
        {"kernel/panic_on_oops", "1", 0},
        {"kernel/sysrq", "0", 1},
        {"kernel/kptr_restrict", "2", 0},
        {"kernel/dmesg_restrict", "1", 0},
        {"kernel/randomize_va_space", "2", 0},
        {"kernel/core_pattern", "core", 1}, /* a file, so that the limit of 0 bytes holds */
        {"kernel/modprobe", "\n", 1},
        {"kernel/perf_event_paranoid", "3", 1},
        {"kernel/unprivileged_bpf_disabled", "1", 1},
        {"kernel/yama/ptrace_scope", "2", 1},
        {"kernel/io_uring_disabled", "2", 1},
        {"net/core/bpf_jit_harden", "2", 1},
        {"vm/unprivileged_userfaultfd", "0", 1},
        {"dev/tty/ldisc_autoload", "0", 1},
        {"fs/suid_dumpable", "0", 0},
        {"fs/protected_symlinks", "1", 0},
        {"fs/protected_hardlinks", "1", 0},
        {"fs/protected_fifos", "2", 0},
        {"fs/protected_regular", "2", 0},
    };

    return write_settings(root, settings, ARRAY_LEN(settings), e);
}

int init_seal_kernel(const char *root, struct err *e)
{
    static const struct setting settings[] = {
        {"kernel/modules_disabled", "1", 1},
        {"kernel/kexec_load_disabled", "1", 1},
    };

    return write_settings(root, settings, ARRAY_LEN(settings), e);
}

int init_entropy(int timeout_ms, struct err *e)
{
    uint8_t one;

    for (int waited = 0; getrandom(&one, 1, GRND_NONBLOCK) != 1; waited += ENTROPY_STEP_MS) {
        if (waited >= timeout_ms) {
            return err_set(e, ERR_TIMEOUT, "the kernel has no random numbers after %d ms",
                           timeout_ms);
        }
        nanosleep(&(struct timespec){.tv_nsec = ENTROPY_STEP_MS * 1000000}, NULL);
    }
    return 0;
}
