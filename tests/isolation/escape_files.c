/* Ways out through files: the root, devices, /proc, descriptors, the data mounts. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/isolation/escape.h"

static int open_for(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    int r = verdict(fd);

    if (fd >= 0) {
        close(fd);
    }
    return r;
}

static int created(const char *path)
{
    int r = open_for(path, O_CREAT | O_WRONLY);

    if (r == 0) {
        unlink(path);
    }
    return r;
}

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v ? v : "/nowhere";
}

/* --- the root --- */

static int write_root(void)
{
    return created("/coffer-escape");
}

static int write_own_program(void)
{
    return open_for("/proc/self/exe", O_WRONLY);
}

/* CVE-2019-5736: the runtime's program, reached through a process of its that is still around. */
static int write_runtime(void)
{
    char path[64];

    for (int pid = 1; pid < 64; pid++) {
        snprintf(path, sizeof(path), "/proc/%d/exe", pid);
        if (open_for(path, O_WRONLY) == 0) {
            return 0;
        }
    }
    return BLOCKED;
}

static int root_mount_writable(void)
{
    struct statvfs v;
    return statvfs("/", &v) == 0 && !(v.f_flag & ST_RDONLY) ? 0 : BLOCKED;
}

static int root_mount_devices(void)
{
    struct statvfs v;
    return statvfs("/", &v) == 0 && !(v.f_flag & ST_NODEV) ? 0 : BLOCKED;
}

static int root_mount_setuid(void)
{
    struct statvfs v;
    return statvfs("/", &v) == 0 && !(v.f_flag & ST_NOSUID) ? 0 : BLOCKED;
}

/* --- devices --- */

static int make_node(const char *path, unsigned major, unsigned minor)
{
    int r = verdict(mknod(path, S_IFCHR | 0600, makedev(major, minor)));

    if (r == 0) {
        unlink(path);
    }
    return r;
}

static int node_in_tmp(void)
{
    return make_node("/tmp/coffer-escape-mem", 1, 1);
}

static int node_in_output(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/coffer-escape-kmsg", env("ESCAPE_OUTPUT"));
    return make_node(path, 1, 11);
}

static int dev_mem(void)
{
    return open_for("/dev/mem", O_RDONLY);
}

static int dev_kmsg(void)
{
    return open_for("/dev/kmsg", O_RDONLY);
}

static int dev_kvm(void)
{
    return open_for("/dev/kvm", O_RDWR);
}

static int dev_fuse(void)
{
    return open_for("/dev/fuse", O_RDWR);
}

static int dev_tun(void)
{
    return open_for("/dev/net/tun", O_RDWR);
}

static int dev_disk(void)
{
    static const char *const disks[] = {"/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0",
                                        "/dev/loop-control"};
    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++) {
        if (open_for(disks[i], O_RDONLY) == 0) {
            return 0;
        }
    }
    return BLOCKED;
}

static int dev_pty(void)
{
    return open_for("/dev/ptmx", O_RDWR);
}

/* Whatever its name: every entry of /dev that opens must be one of the four harmless ones. */
static int dev_other(void)
{
    DIR *d = opendir("/dev");
    int r = BLOCKED;

    for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
        struct stat st;
        int fd = openat(dirfd(d), de->d_name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) {
            continue;
        }
        if (fstat(fd, &st) == 0 && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode))) {
            unsigned n = minor(st.st_rdev);
            if (S_ISBLK(st.st_mode) || major(st.st_rdev) != 1 ||
                (n != 3 && n != 5 && n != 8 && n != 9)) {
                r = 0;
            }
        }
        close(fd);
    }
    if (d) {
        closedir(d);
    }
    return r;
}

/* --- /proc and /sys --- */

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    int r = text ? verdict(write(fd, text, strlen(text))) : 0;
    close(fd);
    return r;
}

static int not_empty(const char *path)
{
    char c;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    ssize_t n = read(fd, &c, 1);
    int r = n > 0 ? 0 : n < 0 ? errno : BLOCKED;
    close(fd);
    return r;
}

static int proc_kcore(void)
{
    return not_empty("/proc/kcore");
}

static int proc_keys(void)
{
    return not_empty("/proc/keys");
}

static int proc_timer_list(void)
{
    return not_empty("/proc/timer_list");
}

static int proc_kallsyms(void)
{
    return not_empty("/proc/kallsyms");
}

static int proc_kmsg(void)
{
    return open_for("/proc/kmsg", O_RDONLY) == 0 ? not_empty("/proc/kmsg") : BLOCKED;
}

static int proc_sysrq(void)
{
    /* Opening tells enough; no byte is written to it. Absent or masked means blocked. */
    struct stat st;
    return stat("/proc/sysrq-trigger", &st) == 0 && S_ISREG(st.st_mode)
               ? write_file("/proc/sysrq-trigger", NULL)
               : BLOCKED;
}

static int proc_core_pattern(void)
{
    return write_file("/proc/sys/kernel/core_pattern", NULL);
}

static int proc_sys_write(void)
{
    return write_file("/proc/sys/kernel/hostname", NULL);
}

static int proc_sys_net_write(void)
{
    return write_file("/proc/sys/net/ipv4/ip_forward", NULL);
}

/* A trigger that is written there is a thread of the kernel's, outside of any bound. */
static int proc_pressure(void)
{
    return write_file("/proc/pressure/memory", NULL);
}

static int proc_uid_map(void)
{
    return write_file("/proc/self/uid_map", "0 0 1\n");
}

static int sys_any(void)
{
    DIR *d = opendir("/sys");
    int n = 0;

    for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
        n += de->d_name[0] != '.';
    }
    if (d) {
        closedir(d);
    }
    return n ? 0 : BLOCKED;
}

static int cgroup_write(void)
{
    static const char *const files[] = {"/sys/fs/cgroup/cgroup.procs",
                                        "/sys/fs/cgroup/memory/cgroup.procs",
                                        "/sys/fs/cgroup/memory/release_agent"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        if (write_file(files[i], NULL) == 0) {
            return 0;
        }
    }
    return BLOCKED;
}

/* --- descriptors --- */

static int leaked_descriptor(void)
{
    for (int fd = 3; fd < 4096; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) {
            return 0;
        }
    }
    return BLOCKED;
}

/* CVE-2024-21626: a working directory, or a descriptor of a directory, outside of the root. */
static int outside_directory(void)
{
    char cwd[4096];
    struct stat st;

    if (!getcwd(cwd, sizeof(cwd)) || cwd[0] != '/') {
        return 0;
    }
    for (int fd = 0; fd < 4096; fd++) {
        if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
            return 0;
        }
    }
    return BLOCKED;
}

static int stdin_data(void)
{
    char c;
    ssize_t n = read(0, &c, 1);
    return n > 0 ? 0 : BLOCKED;
}

static int mounted(const char *type)
{
    char line[1024], text[64];
    FILE *f = fopen("/proc/self/mountinfo", "re");
    int found = 0;

    snprintf(text, sizeof(text), " - %s ", type);
    while (f && !found && fgets(line, sizeof(line), f)) {
        found = strstr(line, text) != NULL;
    }
    if (f) {
        fclose(f);
    }
    return found;
}

/* stdin's node is given to the workload's user by the runtime: it must not be the host's, which is
 * in a devtmpfs. */
static int host_null_mode(void)
{
    struct stat st;
    const char *inode = getenv("ESCAPE_HOST_NULL");

    if (stat("/dev/null", &st)) {
        return BLOCKED;
    }
    if (!inode) {
        return mounted("devtmpfs") ? 0 : BLOCKED;
    }
    char own[64];
    snprintf(own, sizeof(own), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    return strcmp(own, inode) == 0 ? 0 : BLOCKED;
}

/* --- data --- */

static int dataset_write(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/new", env("ESCAPE_DATASET"));
    return created(path);
}

static int dataset_overwrite(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/data.txt", env("ESCAPE_DATASET"));
    return open_for(path, O_WRONLY);
}

static int dataset_chmod(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/data.txt", env("ESCAPE_DATASET"));
    return verdict(chmod(path, 0777));
}

static int dataset_exec(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/program", env("ESCAPE_DATASET"));
    pid_t pid = fork();
    if (pid == 0) {
        execl(path, path, "nothing", (char *)NULL);
        _exit(errno);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : BLOCKED;
}

/* --- running what was written --- */

static int exec_copy(const char *path)
{
    char buf[65536];
    int in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int out = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0700);

    if (in < 0 || out < 0) {
        return errno;
    }
    for (ssize_t n; (n = read(in, buf, sizeof(buf))) > 0;) {
        if (write(out, buf, (size_t)n) != n) {
            break;
        }
    }
    close(in);
    close(out);
    pid_t pid = fork();
    if (pid == 0) {
        execl(path, path, "nothing", (char *)NULL);
        _exit(errno);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    unlink(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : BLOCKED;
}

static int exec_tmp(void)
{
    return exec_copy("/tmp/coffer-escape-exec");
}

static int exec_shm(void)
{
    return exec_copy("/dev/shm/coffer-escape-exec");
}

static int exec_output(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/coffer-escape-exec", env("ESCAPE_OUTPUT"));
    return exec_copy(path);
}

static int exec_dev(void)
{
    return exec_copy("/dev/coffer-escape-exec");
}

static int map_exec_tmp(void)
{
    const char *path = "/tmp/coffer-escape-map";
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0700);

    if (fd < 0 || ftruncate(fd, 4096)) {
        return errno;
    }
    void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    int r = p == MAP_FAILED ? errno : 0;
    close(fd);
    unlink(path);
    return r;
}

static int core_dump(void)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        if (chdir("/tmp")) {
            _exit(1);
        }
        abort();
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) && WCOREDUMP(status) ? 0 : BLOCKED;
}

static int setuid_program(void)
{
    const char *path = "/tmp/coffer-escape-suid";
    struct statvfs v;
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0700);
    int r = fd < 0 || fchmod(fd, 04755) || fstatvfs(fd, &v) ? errno : 0;

    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    return r ? r : v.f_flag & ST_NOSUID ? BLOCKED : 0;
}

const struct probe probes_files[] = {
    {"write-root", write_root, 1},
    {"write-own-program", write_own_program, 0},
    {"write-runtime", write_runtime, 0},
    {"root-mount-writable", root_mount_writable, 1},
    {"root-mount-devices", root_mount_devices, 1},
    {"root-mount-setuid", root_mount_setuid, 1},
    {"mknod-tmp", node_in_tmp, 1},
    {"mknod-output", node_in_output, 0},
    {"dev-mem", dev_mem, 0},
    {"dev-kmsg", dev_kmsg, 0},
    {"dev-kvm", dev_kvm, 0},
    {"dev-fuse", dev_fuse, 0},
    {"dev-tun", dev_tun, 0},
    {"dev-disk", dev_disk, 0},
    {"dev-pty", dev_pty, 0},
    {"dev-other", dev_other, 1},
    {"proc-kcore", proc_kcore, 0},
    {"proc-keys", proc_keys, 0},
    {"proc-timer-list", proc_timer_list, 0},
    {"proc-kallsyms", proc_kallsyms, 1},
    {"proc-kmsg", proc_kmsg, 0},
    {"proc-sysrq", proc_sysrq, 0},
    {"proc-core-pattern", proc_core_pattern, 1},
    {"proc-sys-write", proc_sys_write, 1},
    {"proc-sys-net-write", proc_sys_net_write, 1},
    {"proc-pressure", proc_pressure, 0},
    {"proc-uid-map", proc_uid_map, 0},
    {"sys-any", sys_any, 1},
    {"cgroup-write", cgroup_write, 0},
    {"leaked-descriptor", leaked_descriptor, 0},
    {"outside-directory", outside_directory, 0},
    {"stdin-data", stdin_data, 0},
    {"host-null-node", host_null_mode, 1},
    {"dataset-write", dataset_write, 1},
    {"dataset-overwrite", dataset_overwrite, 1},
    {"dataset-chmod", dataset_chmod, 1},
    {"dataset-exec", dataset_exec, 1},
    {"exec-tmp", exec_tmp, 1},
    {"exec-shm", exec_shm, 0},
    {"exec-output", exec_output, 1},
    {"exec-dev", exec_dev, 0},
    {"map-exec-tmp", map_exec_tmp, 1},
    {"core-dump", core_dump, 0},
    {"setuid-program", setuid_program, 0},
    {0},
};
