/* What the guest has in files: the TPM, disks, ports, the file system that shows the dataset. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/isolation/escape_vm.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define FILE_NAME "/data.txt"

static const char *dataset(void)
{
    const char *v = getenv("ESCAPE_DATASET");
    return v ? v : "/nowhere";
}

static const char *output(void)
{
    const char *v = getenv("ESCAPE_OUTPUT");
    return v ? v : "/nowhere";
}

/* ---- devices
 * ------------------------------------------------------------------------------------- */

/* Where the workload may write, and where devices are looked for. */
static void make_nodes(mode_t kind, const char *what)
{
    static const unsigned minors[] = {0, 1, 2, 3, 4, 11, 63, 64, 183, 200, 224, 228, 229, 232, 237};
    const char *const dirs[] = {"/tmp", "/dev", "/dev/shm", "/scratch", output(), dataset(), "/"};
    char path[128], name[160];

    for (size_t d = 0; d < COUNT(dirs); d++) {
        struct seen s = {0};
        snprintf(path, sizeof(path), "%s/node", dirs[d]);
        for (unsigned major = 0; major < 512; major++) {
            for (size_t i = 0; i < COUNT(minors); i++) {
                dev_t dev = makedev(major, minors[i]);
                seen_add(&s, verdict(i & 1 ? mknodat(AT_FDCWD, path, kind | 0666, dev)
                                           : mknod(path, kind | 0666, dev)));
            }
        }
        snprintf(name, sizeof(name), "mknod of a %s device in %s", what, dirs[d]);
        seen_say(name, &s);
    }
}

static void make_all_nodes(void)
{
    make_nodes(S_IFCHR, "character");
    make_nodes(S_IFBLK, "block");
}

static int node(const void *arg)
{
    const unsigned *n = arg;
    return verdict(mknod("/tmp/node", (n[0] ? S_IFBLK : S_IFCHR) | 0600, makedev(n[1], n[2])));
}

static int find(const void *arg)
{
    struct stat st;
    return verdict(lstat(arg, &st));
}

static void attempt_find(const char *path)
{
    char name[128];

    snprintf(name, sizeof(name), "find %s", path);
    attempt(name, find, path);
}

static const char *const devices[] = {"/dev/tpm0",
                                      "/dev/tpmrm0",
                                      "/dev/vtpmx",
                                      "/dev/vda",
                                      "/dev/vdb",
                                      "/dev/vdc",
                                      "/dev/vdd",
                                      "/dev/vda1",
                                      "/dev/disk",
                                      "/dev/block",
                                      "/dev/vport0p1",
                                      "/dev/vport0p2",
                                      "/dev/vport0p3",
                                      "/dev/vport1p1",
                                      "/dev/vport1p2",
                                      "/dev/vport1p3",
                                      "/dev/vport2p1",
                                      "/dev/vport2p2",
                                      "/dev/vport2p3",
                                      "/dev/vport3p1",
                                      "/dev/vport3p2",
                                      "/dev/vport3p3",
                                      "/dev/virtio-ports",
                                      "/dev/hvc0",
                                      "/dev/fuse",
                                      "/dev/cuse",
                                      "/dev/kvm",
                                      "/dev/vsock",
                                      "/dev/vhost-vsock",
                                      "/dev/vhost-net",
                                      "/dev/net/tun",
                                      "/dev/console",
                                      "/dev/ttyS0",
                                      "/dev/tty0",
                                      "/dev/tty1",
                                      "/dev/ptmx",
                                      "/dev/pts/ptmx",
                                      "/dev/pts/0",
                                      "/dev/hwrng",
                                      "/dev/rtc0",
                                      "/dev/nvram",
                                      "/dev/hpet",
                                      "/dev/snapshot",
                                      "/dev/cpu/0/msr",
                                      "/dev/mapper/control",
                                      "/dev/loop0",
                                      "/dev/loop-control",
                                      "/dev/nbd0",
                                      "/dev/vfio/vfio",
                                      "/dev/uinput",
                                      "/dev/userfaultfd",
                                      "/dev/udmabuf",
                                      "/dev/sev",
                                      "/dev/sev-guest",
                                      "/dev/tdx_guest",
                                      "/dev/watchdog",
                                      "/dev/port",
                                      "/dev/mem",
                                      "/dev/autofs",
                                      "/dev/rfkill",
                                      "/dev/cpu_dma_latency",
                                      "/dev/mcelog",
                                      "/dev/ppp",
                                      "/dev/mqueue"};

static const struct {
    const char *name;
    unsigned node[3];
} nodes[] = {{"mknod c 10:224, the TPM", {0, 10, 224}},
             {"mknod c 253:65536, the TPM's resource manager", {0, 253, 65536}},
             {"mknod c 1:1, memory", {0, 1, 1}},
             {"mknod c 1:11, the kernel's log", {0, 1, 11}},
             {"mknod c 10:229, FUSE", {0, 10, 229}},
             {"mknod c 4:64, the console", {0, 4, 64}},
             {"mknod b 254:0, a disk", {1, 254, 0}},
             {"mknod b 253:0, a disk", {1, 253, 0}},
             {"mknod b 7:0, a loop device", {1, 7, 0}}};

static const char *const places[] = {"/sys/kernel/security/tpm0/binary_bios_measurements",
                                     "/sys/class/tpm/tpm0/pcr-sha256/0",
                                     "/sys/block",
                                     "/sys/class/virtio-ports",
                                     "/sys/fs/fuse/connections",
                                     "/sys/fs/cgroup",
                                     "/sys/firmware",
                                     "/sys/firmware/qemu_fw_cfg",
                                     "/sys/kernel/debug",
                                     "/sys/power/state",
                                     "/sys/bus/pci/rescan",
                                     "/proc/device-tree",
                                     "/run",
                                     "/run/coffer",
                                     "/run/coffer/work",
                                     "/etc/hosts",
                                     "/etc/nsswitch.conf",
                                     "/init",
                                     "/newroot",
                                     "/usr/bin/crun",
                                     "/usr/lib/modules",
                                     "/w",
                                     "/w/state",
                                     "/w/rootfs",
                                     "/w/bundle/config.json",
                                     "/proc/1/root/init",
                                     "/proc/self/root/init",
                                     "/proc/1/cwd/init",
                                     "/proc/self/cwd/../../../init"};

void vm_devices(void)
{

    for (size_t i = 0; i < COUNT(devices); i++) {
        attempt_open(devices[i], O_RDWR);
    }
    for (size_t i = 0; i < COUNT(nodes); i++) {
        attempt(nodes[i].name, node, nodes[i].node);
    }
    in_child("nodes of all kinds", make_all_nodes, 60);
    for (size_t i = 0; i < COUNT(places); i++) {
        attempt_find(places[i]);
    }
}

/* ---- the dataset
 * --------------------------------------------------------------------------------- */

/* "<dataset>/data.txt". */
static const char *file(void)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s" FILE_NAME, dataset());
    return path;
}

static const char *new_file(void)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/new", dataset());
    return path;
}

static int reopen(int fd, int flags)
{
    char path[64];

    if (fd < 0) {
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return verdict(open(path, flags | O_CLOEXEC));
}

#define TRY(name, expression)                                                                      \
    static int name(const void *arg)                                                               \
    {                                                                                              \
        (void)arg;                                                                                 \
        return verdict(expression);                                                                \
    }
#define TRY_RESULT(name, expression)                                                               \
    static int name(const void *arg)                                                               \
    {                                                                                              \
        (void)arg;                                                                                 \
        return (expression);                                                                       \
    }

static int readable(void)
{
    return open(file(), O_RDONLY | O_CLOEXEC);
}

TRY(d_write, open(file(), O_WRONLY))
TRY(d_append, open(file(), O_WRONLY | O_APPEND))
TRY(d_open_truncate, open(file(), O_RDONLY | O_TRUNC))
TRY(d_create, open(new_file(), O_CREAT | O_WRONLY, 0600))
TRY(d_unnamed, open(dataset(), O_TMPFILE | O_WRONLY, 0600))
TRY(d_truncate, truncate(file(), 0))
TRY(d_ftruncate, ftruncate(readable(), 0))
TRY(d_write_reader, write(readable(), "x", 1))
TRY(d_fallocate, fallocate(readable(), 0, 0, 4096))
TRY(d_unlink, unlink(file()))
TRY(d_rename, rename(file(), new_file()))
TRY(d_rename_out, rename(file(), "/tmp/moved"))
TRY(d_link, link(file(), new_file()))
TRY(d_link_out, link(file(), "/tmp/linked"))
TRY(d_symlink, symlink("/", new_file()))
TRY(d_mkdir, mkdir(new_file(), 0700))
TRY(d_rmdir, rmdir(dataset()))
TRY(d_fifo, mkfifo(new_file(), 0600))
TRY(d_chmod, chmod(file(), 0777))
TRY(d_chown, chown(file(), getuid(), getgid()))
TRY(d_utime, utimensat(AT_FDCWD, file(), NULL, 0))
TRY(d_setxattr, setxattr(file(), "user.x", "x", 1, 0))
TRY(d_removexattr, removexattr(file(), "user.x"))
TRY_RESULT(d_path_reopen, reopen(open(file(), O_PATH | O_CLOEXEC), O_RDWR))
TRY_RESULT(d_reader_reopen, reopen(readable(), O_RDWR))
TRY_RESULT(d_path_truncate, reopen(open(file(), O_PATH | O_CLOEXEC), O_RDONLY | O_TRUNC))
TRY(d_path_link, linkat(open(file(), O_PATH), "", AT_FDCWD, "/tmp/linked", AT_EMPTY_PATH))
TRY(d_umount, umount(dataset()))
TRY(d_detach, umount2(dataset(), MNT_DETACH | MNT_FORCE))
TRY(d_remount, mount(NULL, dataset(), NULL, MS_REMOUNT | MS_BIND, NULL))
TRY(d_move, mount(dataset(), "/tmp", NULL, MS_MOVE, NULL))
TRY(d_over, mount("tmpfs", dataset(), "tmpfs", 0, NULL))
TRY(d_bind, mount(dataset(), "/tmp", NULL, MS_BIND, NULL))
TRY(d_fuse, mount("x", "/tmp", "fuse", 0, "fd=0,rootmode=40000,user_id=0,group_id=0"))
TRY(d_overlay, mount("x", "/tmp", "overlay", 0, "lowerdir=/data,upperdir=/tmp,workdir=/output"))
TRY(d_tree, syscall(SYS_open_tree, AT_FDCWD, dataset(), 1))
TRY(d_setattr, syscall(SYS_mount_setattr, AT_FDCWD, dataset(), 0, (uint64_t[4]){0, 1, 0, 0}, 32))
TRY(d_pick, syscall(SYS_fspick, AT_FDCWD, dataset(), 0))
TRY(d_flags, ioctl(readable(), _IOW('f', 2, long), &(long){0}))
TRY(d_freeze, ioctl(readable(), _IOWR('X', 119, int), 0))
TRY(d_clone, ioctl(readable(), _IOR(229, 0, unsigned), &(unsigned){0}))
TRY(d_splice_in, sendfile(readable(), open("/proc/self/exe", O_RDONLY), NULL, 16))

static int d_handle(const void *arg)
{
    char buf[sizeof(struct file_handle) + 128];
    struct file_handle *h = (struct file_handle *)buf;
    int id;

    (void)arg;
    h->handle_bytes = 128;
    return verdict(name_to_handle_at(AT_FDCWD, file(), h, &id, 0));
}

/* FUSE's own handles: the root's node, generation 0. */
static int d_by_handle(const void *arg)
{
    char buf[sizeof(struct file_handle) + 12] = {0};
    struct file_handle *h = (struct file_handle *)buf;

    (void)arg;
    h->handle_bytes = 12;
    h->handle_type = 0x81;
    h->f_handle[0] = 1;
    int fd = open(dataset(), O_RDONLY | O_DIRECTORY);
    return verdict(open_by_handle_at(fd, h, O_RDONLY));
}

static int map_result(int prot, int then)
{
    void *p = mmap(NULL, 4096, prot, MAP_SHARED, readable(), 0);

    return p == MAP_FAILED ? errno : then ? verdict(mprotect(p, 4096, then)) : 0;
}

TRY_RESULT(d_map_write, map_result(PROT_READ | PROT_WRITE, 0))
TRY_RESULT(d_map_upgrade, map_result(PROT_READ, PROT_READ | PROT_WRITE))
TRY_RESULT(d_map_exec, map_result(PROT_READ | PROT_EXEC, 0))
TRY_RESULT(d_map_exec_later, map_result(PROT_READ, PROT_READ | PROT_EXEC))

/* /proc/self/mem writes through read-only mappings, as copies: the page that others read stays. */
static int d_forced_write(const void *arg)
{
    char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, readable(), 0);
    char before, after = 0;
    int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC), fd = readable();

    (void)arg;
    if (p == MAP_FAILED || mem < 0 || fd < 0) {
        return errno;
    }
    before = *p;
    ssize_t n = pwrite(mem, "\1", 1, (off_t)(uintptr_t)p);
    int e = errno;
    return pread(fd, &after, 1, 0) != 1 || after != before ? 0 : n < 0 ? e : BLOCKED;
}

/* ".." out of the mount is the container's root, not the other datasets of the file system. */
static int d_above(const void *arg)
{
    struct stat root, above;
    int fd = open(dataset(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)arg;
    return stat("/", &root) == 0 && fstatat(fd, "../..", &above, 0) == 0 &&
                   root.st_dev == above.st_dev && root.st_ino == above.st_ino
               ? BLOCKED
               : 0;
}

static void say_dataset(void)
{
    char text[32] = "";
    int fd = readable();
    ssize_t n = read(fd, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    say("the dataset, read", "%s", text);
    if (fd >= 0) {
        close(fd);
    }
}

static const struct {
    const char *name;
    attempt_fn run;
} tries[] = {
    {"open for writing", d_write},
    {"open for appending", d_append},
    {"open and truncate", d_open_truncate},
    {"create a file", d_create},
    {"create a file without a name", d_unnamed},
    {"truncate", d_truncate},
    {"truncate a reader's file", d_ftruncate},
    {"write to a reader's file", d_write_reader},
    {"allocate in a reader's file", d_fallocate},
    {"send to a reader's file", d_splice_in},
    {"unlink", d_unlink},
    {"rename", d_rename},
    {"rename out of it", d_rename_out},
    {"link", d_link},
    {"link out of it", d_link_out},
    {"symlink", d_symlink},
    {"mkdir", d_mkdir},
    {"rmdir of itself", d_rmdir},
    {"mkfifo", d_fifo},
    {"chmod", d_chmod},
    {"chown", d_chown},
    {"utimensat", d_utime},
    {"setxattr", d_setxattr},
    {"removexattr", d_removexattr},
    {"reopen a path for writing", d_path_reopen},
    {"reopen a reader's file for writing", d_reader_reopen},
    {"reopen a path and truncate", d_path_truncate},
    {"link of a path's descriptor", d_path_link},
    {"map for writing", d_map_write},
    {"map, and allow writing later", d_map_upgrade},
    {"map for executing", d_map_exec},
    {"map, and allow executing later", d_map_exec_later},
    {"write through /proc/self/mem", d_forced_write},
    {"umount", d_umount},
    {"umount by force", d_detach},
    {"remount", d_remount},
    {"move the mount", d_move},
    {"mount over it", d_over},
    {"bind elsewhere", d_bind},
    {"mount of FUSE", d_fuse},
    {"mount of an overlay", d_overlay},
    {"open_tree", d_tree},
    {"mount_setattr", d_setattr},
    {"fspick", d_pick},
    {"name_to_handle_at", d_handle},
    {"open_by_handle_at", d_by_handle},
    {"ioctl for flags", d_flags},
    {"ioctl to freeze", d_freeze},
    {"ioctl for the FUSE device", d_clone},
    {"above its root", d_above},
};

void vm_data(void)
{
    char name[96];

    say_dataset();
    for (size_t i = 0; i < COUNT(tries); i++) {
        snprintf(name, sizeof(name), "dataset: %s", tries[i].name);
        attempt(name, tries[i].run, NULL);
    }
    say_dataset();
}

/* ---- the tree
 * ------------------------------------------------------------------------------------ */

/* What a mount is, and its flags but those of time; what is masked is that. */
static void say_mounts(void)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char line[1024], root[256], at[256], options[256], type[64], name[300];

    while (f && fgets(line, sizeof(line), f)) {
        char *tail = strstr(line, " - ");
        if (!tail || sscanf(line, "%*s %*s %*s %255s %255s %255s", root, at, options) != 3 ||
            sscanf(tail, " - %63s", type) != 1) {
            say("mount", "a line of another form");
            continue;
        }
        char *time = strstr(options, ",relatime");
        if (time) {
            memmove(time, time + 9, strlen(time + 9) + 1);
        }
        snprintf(name, sizeof(name), "mount %s", at);
        say(name, "%s %s %s", type, root, options);
    }
    if (f) {
        fclose(f);
    }
}

static struct words nodes_found, writable_dirs, writable_files, set_ids;

static int look(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)ftw;
    if (strcmp(path, "/proc") == 0) {
        return FTW_SKIP_SUBTREE;
    }
    if (type == FTW_NS || S_ISLNK(st->st_mode)) {
        return FTW_CONTINUE;
    }
    if (S_ISDIR(st->st_mode)) {
        if (access(path, W_OK) == 0) {
            words_add(&writable_dirs, "%s", path);
        }
    } else if (S_ISREG(st->st_mode)) {
        if (access(path, W_OK) == 0) {
            words_add(&writable_files, "%s", path);
        }
        if (st->st_mode & (S_ISUID | S_ISGID)) {
            words_add(&set_ids, "%s", path);
        }
    } else {
        words_add(&nodes_found, "%s=%c%u:%u", path,
                  S_ISCHR(st->st_mode)   ? 'c'
                  : S_ISBLK(st->st_mode) ? 'b'
                                         : 'x',
                  major(st->st_rdev), minor(st->st_rdev));
    }
    return FTW_CONTINUE;
}

static void say_tree(void)
{
    nftw("/", look, 32, FTW_PHYS | FTW_ACTIONRETVAL);
    words_say("nodes that can be found", &nodes_found);
    words_say("directories that can be written to", &writable_dirs);
    words_say("files that can be written to", &writable_files);
    words_say("programs that change ids", &set_ids);
}

static void say_open_files(void)
{
    struct words w = {0};
    char path[64], link[128];

    for (int fd = 0; fd < 1024; fd++) {
        snprintf(path, sizeof(path), "/proc/1/fd/%d", fd);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        if (n > 0) {
            link[n] = 0;
            words_add(&w, "%d=%s", fd, link);
        }
    }
    words_say("open files of process 1", &w);
}

void vm_tree(void)
{
    in_child("mounts", say_mounts, 60);
    in_child("tree", say_tree, 60);
    in_child("open files", say_open_files, 60);
}

/* Of /dev alone: a machine's whole tree is too much. */
static void say_dev(void)
{
    nftw("/dev", look, 32, FTW_PHYS | FTW_ACTIONRETVAL);
    words_say("nodes that can be found", &nodes_found);
}

void vm_tree_control(void)
{
    in_child("mounts", say_mounts, 60);
    in_child("tree", say_dev, 60);
}
