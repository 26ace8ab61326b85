#include "tests/isolation/isolation_box.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "svc-worker/decryptfs.h"

#define BYSTANDERS 6
#define ENV_MAX 24

static struct {
    const char *escape_path;
    int tcp_fd, unix_fd;
    unsigned port;
    char abstract[64];
    char file[64];
    pid_t bystanders[BYSTANDERS];
    char *env[ENV_MAX];
    size_t n_env;
} world;

const char *box_escape_path(void)
{
    return world.escape_path;
}

static void listen_tcp(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);

    world.tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(world.tcp_fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(world.tcp_fd, 64), 0);
    assert_int_equal(getsockname(world.tcp_fd, (struct sockaddr *)&a, &n), 0);
    world.port = ntohs(a.sin_port);
}

static void listen_abstract(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(world.abstract, sizeof(world.abstract), "coffer-isolation-%d", (int)getpid());
    snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "%s", world.abstract);
    world.unix_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        bind(world.unix_fd, (struct sockaddr *)&a,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(world.abstract))),
        0);
    assert_int_equal(listen(world.unix_fd, 64), 0);
}

void box_world_start(const char *escape_path)
{
    world.escape_path = realpath(escape_path, NULL);
    assert_non_null(world.escape_path);
    listen_tcp();
    listen_abstract();
    snprintf(world.file, sizeof(world.file), "/tmp/coffer-isolation-file-%d", (int)getpid());
    int fd = open(world.file, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    close(fd);
    for (size_t i = 0; i < BYSTANDERS; i++) {
        world.bystanders[i] = fork();
        if (world.bystanders[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pause();
            _exit(0);
        }
    }
}

void box_world_stop(void)
{
    for (size_t i = 0; i < BYSTANDERS; i++) {
        kill(world.bystanders[i], SIGKILL);
        waitpid(world.bystanders[i], NULL, 0);
    }
    close(world.tcp_fd);
    close(world.unix_fd);
    unlink(world.file);
    for (size_t i = 0; i < world.n_env; i++) {
        free(world.env[i]);
    }
}

static void env_add(char *text)
{
    assert_true(world.n_env < ENV_MAX - 1);
    world.env[world.n_env++] = text;
    world.env[world.n_env] = NULL;
}

static char *host_namespaces(void)
{
    static const char *const names[] = {"pid", "net", "ipc", "uts", "mnt", "user", "cgroup"};
    char *all = xstrdup(" ");

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[64], link[64];
        snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        assert_true(n > 0);
        link[n] = 0;
        char *more = xasprintf("%s%s ", all, link);
        free(all);
        all = more;
    }
    return all;
}

char *const *box_env(const char *id, int inside)
{
    struct stat st;
    _cleanup_free_ char *namespaces = host_namespaces();

    for (size_t i = 0; i < world.n_env; i++) {
        free(world.env[i]);
    }
    world.n_env = 0;
    assert_int_equal(stat("/dev/null", &st), 0);
    env_add(xstrdup("PATH=/bin"));
    env_add(xasprintf("ESCAPE_RUN=%s", id));
    env_add(xasprintf("ESCAPE_HOST_PORT=%u", world.port));
    env_add(xasprintf("ESCAPE_HOST_ABSTRACT=%s", world.abstract));
    env_add(xasprintf("ESCAPE_HOST_PID=%d", (int)world.bystanders[0]));
    env_add(xasprintf("ESCAPE_HOST_FILE=%s", world.file));
    env_add(xasprintf("ESCAPE_HOST_NAMESPACES=%s", namespaces));
    env_add(xasprintf("ESCAPE_HOST_NULL=%llu:%llu", (unsigned long long)st.st_dev,
                      (unsigned long long)st.st_ino));
    env_add(xasprintf("ESCAPE_TMP_BYTES=%u", BOX_TMP_BYTES));
    env_add(xasprintf("ESCAPE_OUTPUT_BYTES=%u", BOX_OUTPUT_BYTES));
    env_add(xasprintf("ESCAPE_PIDS=%u", BOX_PIDS));
    if (inside) {
        env_add(xstrdup("ESCAPE_INSIDE=1"));
        env_add(xstrdup("ESCAPE_DATASET=/data/set"));
        env_add(xstrdup("ESCAPE_OUTPUT=/out"));
    }
    return world.env;
}

struct box *box_new(void)
{
    static int serial;
    struct box *b =
        mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(b, MAP_FAILED);
    *b = (struct box){.args = {"escape"}, .timeout_ms = 30000, .rc = -2};
    snprintf(b->id, sizeof(b->id), "test-%d-%d", (int)getpid(), serial++);
    snprintf(b->work_dir, sizeof(b->work_dir), "/tmp/coffer-box.XXXXXX");
    assert_non_null(mkdtemp(b->work_dir));
    return b;
}

void box_free(struct box *b)
{
    rmdir(b->work_dir);
    munmap(b, sizeof(*b));
}

/* In the runner a failed step must not run on into cmocka's own. */
static void must(int ok, const char *what)
{
    if (!ok) {
        dprintf(2, "runner: %s: %s\n", what, strerror(errno));
        _exit(99);
    }
}

static void copy_file(const char *from, const char *to, mode_t mode)
{
    _cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int out = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, mode);
    char buf[65536];
    ssize_t n;

    must(in >= 0 && out >= 0, to);
    while ((n = read(in, buf, sizeof(buf))) > 0) {
        must(write(out, buf, (size_t)n) == n, to);
    }
    must(fchmod(out, mode) == 0, to);
}

static void fill_work_dir(void)
{
    must(mkdir("rootfs", 0700) == 0 && mkdir("rootfs/bin", 0755) == 0 &&
             mkdir("rootfs/sys", 0755) == 0 && mkdir("set", 0755) == 0 && mkdir("out", 0700) == 0 &&
             symlink("/bin", "rootfs/link") == 0,
         "work_dir");
    /* Open modes: what forbids writing must be the mounts. */
    copy_file(world.escape_path, "rootfs/bin/escape", 0777);
    copy_file(world.escape_path, "set/program", 0755);
    copy_file("/etc/hostname", "set/data.txt", 0666);
    must(chmod("set", 0777) == 0, "set");
}

/* The dataset as a run has it, where there is FUSE: sealed, and shown by DecryptFS. */
static struct dfs *show_dataset(const char *work_dir, char set[96])
{
    static struct seal_reader *reader; /* until the process ends, and so are all below */
    static struct secret *key;
    struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    int tar = memfd_create("tar", MFD_CLOEXEC), sealed = memfd_create("sealed", MFD_CLOEXEC);
    struct jkey *owner = NULL;
    struct dfs_fault fault;
    struct dfs *d = NULL;
    char dir[96];

    if (!dfs_available()) {
        return NULL;
    }
    snprintf(dir, sizeof(dir), "%.80s/shown", work_dir);
    must(tar >= 0 && sealed >= 0 && mkdir(dir, 0711) == 0 && jkey_generate(&owner, NULL) == 0 &&
             seal_tar_dir(set, tar, NULL) == 0 && lseek(tar, 0, SEEK_SET) == 0 &&
             seal_dataset_header_new("set", "tar", "AES-256-GCM", 4096, owner, &prefix, &key,
                                     NULL) == 0 &&
             seal_fd(&prefix, key, tar, sealed, NULL, NULL) == 0 &&
             seal_reader_open(sealed, key, &reader, NULL) == 0,
         "sealed dataset");
    const struct dfs_dataset v = {.reader = reader, .key = key};
    struct err e = {0};
    if (dfs_start(&v, 1, dir, NULL, &d, &fault, &e) < 0) {
        must(e.code == ERR_UNSUPPORTED, e.msg); /* unpacked, then, as a run does it */
        return NULL;
    }
    snprintf(set, 96, "%.80s/shown/0", work_dir);
    return d;
}

static void read_stream(struct box *b)
{
    for (int i = 0; i < 2; i++) {
        _cleanup_close_ int fd = open(i ? SANDBOX_STDERR : SANDBOX_STDOUT, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, b->out + b->out_bytes, sizeof(b->out) - 1 - b->out_bytes);
        b->out_bytes += n > 0 ? (size_t)n : 0;
        b->out[b->out_bytes] = 0;
    }
}

static void runner(struct box *b)
{
    const struct sandbox_private p = {
        .work_dir = b->work_dir, .bytes = 128u << 20, .allow_swap = 1};
    char rootfs[96], set[96], out[96];
    const struct sandbox_mount m = {.source = set, .target = "/data/set"};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!b->no_prepare && sandbox_prepare_private(&p, &b->e) < 0) {
        b->rc = -1;
        _exit(0);
    }
    must(chdir(b->work_dir) == 0, "work_dir");
    fill_work_dir();
    snprintf(rootfs, sizeof(rootfs), "%s/rootfs", b->work_dir);
    snprintf(set, sizeof(set), "%s/set", b->work_dir);
    snprintf(out, sizeof(out), "%s/out", b->work_dir);
    struct dfs *dfs = b->no_prepare ? NULL : show_dataset(b->work_dir, set);
    struct sandbox_config c = {.work_dir = b->work_dir,
                               .rootfs = rootfs,
                               .id = b->id,
                               .args = (char *const *)(uintptr_t)b->args,
                               .env = box_env(b->id, 1),
                               .mounts = &m,
                               .n_mounts = 1,
                               .output_target = "/out",
                               .output_source = out,
                               .memory_bytes = BOX_MEMORY_BYTES,
                               .tmp_bytes = BOX_TMP_BYTES,
                               .output_bytes = BOX_OUTPUT_BYTES,
                               .pids = BOX_PIDS,
                               .cpu_millis = 2000,
                               .timeout_ms = b->timeout_ms};
    if (b->change) {
        b->change(&c, b->work_dir);
    }
    b->rc = sandbox_run(&c, &b->result, &b->e);
    read_stream(b);
    if (b->after) {
        b->after(b, out);
    }
    dfs_stop(dfs);
    _exit(0);
}

pid_t box_start(struct box *b)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        runner(b);
    }
    assert_true(pid > 0);
    return pid;
}

void box_wait(struct box *b, pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        fail_msg("the runner of %s ended with wait status %d", b->id, status);
    }
}

void box_run(struct box *b)
{
    box_wait(b, box_start(b));
    if (b->rc == 0 && b->result.limits_note[0]) {
        print_message("limits: %s\n", b->result.limits_note);
    }
}

static int file_mentions(int proc, const char *pid, const char *name, const char *needle)
{
    char path[300], buf[8192];

    snprintf(path, sizeof(path), "%s/%s", pid, name);
    _cleanup_close_ int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf));
    return n > 0 && memmem(buf, (size_t)n, needle, strlen(needle)) != NULL;
}

int box_processes(const struct box *b)
{
    DIR *d = opendir("/proc");
    int n = 0;

    assert_non_null(d);
    for (struct dirent *de = readdir(d); de; de = readdir(d)) {
        if (isdigit((unsigned char)de->d_name[0])) {
            n += file_mentions(dirfd(d), de->d_name, "cmdline", b->id) ||
                 file_mentions(dirfd(d), de->d_name, "environ", b->id);
        }
    }
    closedir(d);
    return n;
}

void box_assert_gone(const struct box *b)
{
    char line[4096];
    size_t n = 0;
    struct err e = {0};
    FILE *f = fopen("/proc/self/mountinfo", "re");

    assert_int_equal(box_processes(b), 0);
    while (fgets(line, sizeof(line), f)) {
        assert_null(strstr(line, b->work_dir));
    }
    fclose(f);
    assert_int_equal(sandbox_cleanup_stale(b->id, &n, &e), 0);
    assert_int_equal(n, 0);
    /* Empty on the host: what was there was in the private tmpfs alone. */
    assert_int_equal(rmdir(b->work_dir), 0);
    assert_int_equal(mkdir(b->work_dir, 0700), 0);
}
