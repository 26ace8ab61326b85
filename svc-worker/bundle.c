/* The OCI runtime configuration (opencontainers/runtime-spec 1.0.2) of one workload. */
#include <inttypes.h>
#include <sys/resource.h>

#include "svc-worker/sandbox_internal.h"

#define TMP_INODES 16384u
#define NOFILE_MAX 1024

/* --- checks --- */

static int path_clean(const char *p)
{
    size_t n = p ? strlen(p) : 0;

    if (n < 2 || n > 1024 || p[0] != '/' || p[n - 1] == '/' || strstr(p, "//")) {
        return 0;
    }
    for (const char *part = p; part; part = strchr(part + 1, '/')) {
        size_t len = strcspn(part + 1, "/");
        if ((len == 1 && part[1] == '.') || (len == 2 && part[1] == '.' && part[2] == '.') ||
            len > 255) {
            return 0;
        }
    }
    return 1;
}

static int path_within(const char *p, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(p, dir, n) == 0 && (p[n] == 0 || p[n] == '/');
}

static int check_target(const struct sandbox_config *c, size_t i, struct err *e)
{
    static const char *const own[] = {"/proc", "/sys", "/dev", "/tmp"};
    const char *t = i < c->n_mounts ? c->mounts[i].target : c->output_target;

    if (!path_clean(t)) {
        return err_set(e, ERR_INVALID,
                       "mount target: expected an absolute path without '.', '..' or a trailing "
                       "'/', found '%.200s'",
                       t ? t : "");
    }
    for (size_t k = 0; k < ARRAY_LEN(own); k++) {
        if (path_within(t, own[k])) {
            return err_set(e, ERR_INVALID, "mount target %s: %s is the sandbox's own", t, own[k]);
        }
    }
    for (size_t k = 0; k < i; k++) {
        const char *u = c->mounts[k].target;
        if (path_within(t, u) || path_within(u, t)) {
            return err_set(e, ERR_INVALID, "mount targets %s and %s overlap", u, t);
        }
    }
    return 0;
}

/* Sources are plaintext, and plaintext lives below the private tmpfs only. */
static int check_source(const struct sandbox_config *c, const char *what, const char *path,
                        struct err *e)
{
    if (!path_clean(path) || !path_within(path, c->work_dir) || streq(path, c->work_dir)) {
        return err_set(e, ERR_INVALID, "%s: expected a path below %s, found '%.200s'", what,
                       c->work_dir, path ? path : "");
    }
    return 0;
}

static int check_list(const char *what, char *const *list, size_t max, size_t *ret_n, struct err *e)
{
    size_t n = 0;

    while (list && list[n]) {
        if (++n > max) {
            return err_set(e, ERR_INVALID, "%s: expected at most %zu items", what, max);
        }
    }
    *ret_n = n;
    return 0;
}

static int check_numbers(const struct sandbox_config *c, struct err *e)
{
    const uint64_t max = 1ull << 50;

    if (!c->memory_bytes || c->memory_bytes > max || c->tmp_bytes > max || c->output_bytes > max) {
        return err_set(e, ERR_INVALID,
                       "memory_bytes, tmp_bytes, output_bytes: expected at most 2^50 and some "
                       "memory, found %" PRIu64 ", %" PRIu64 ", %" PRIu64,
                       c->memory_bytes, c->tmp_bytes, c->output_bytes);
    }
    if (!c->pids || c->cpu_millis < 10 || c->timeout_ms <= 0) {
        return err_set(e, ERR_INVALID,
                       "expected pids >= 1, cpu_millis >= 10, timeout_ms >= 1, found %" PRIu32
                       ", %" PRIu32 ", %" PRId64,
                       c->pids, c->cpu_millis, c->timeout_ms);
    }
    if (c->uid >= SANDBOX_ID_COUNT || c->gid >= SANDBOX_ID_COUNT) {
        return err_set(e, ERR_INVALID,
                       "uid, gid: expected less than %u, found %" PRIu32 ", %" PRIu32,
                       SANDBOX_ID_COUNT, c->uid, c->gid);
    }
    return 0;
}

int bundle_check(const struct sandbox_config *c, struct err *e)
{
    size_t n_args = 0, n_env = 0, n_id = c->id ? strlen(c->id) : 0;

    if (!n_id || n_id > SANDBOX_ID_MAX ||
        strspn(c->id, "abcdefghijklmnopqrstuvwxyz0123456789-") != n_id || c->id[0] == '-') {
        return err_set(e, ERR_INVALID, "id: expected 1..%d of [a-z0-9-], found '%.80s'",
                       SANDBOX_ID_MAX, c->id ? c->id : "");
    }
    if (!path_clean(c->work_dir)) {
        return err_set(e, ERR_INVALID, "work_dir: expected an absolute path, found '%.200s'",
                       c->work_dir ? c->work_dir : "");
    }
    if (check_list("args", c->args, SANDBOX_MAX_ARGS, &n_args, e) < 0 ||
        check_list("env", c->env, SANDBOX_MAX_ENV, &n_env, e) < 0) {
        return -1;
    }
    if (!n_args || !c->args[0][0]) {
        return err_set(e, ERR_INVALID, "args: expected a program, found none");
    }
    if (c->workdir && !streq(c->workdir, "/") && !path_clean(c->workdir)) {
        return err_set(e, ERR_INVALID, "workdir: expected an absolute path, found '%.200s'",
                       c->workdir);
    }
    if (c->n_mounts > SANDBOX_MAX_MOUNTS) {
        return err_set(e, ERR_INVALID, "mounts: expected at most %d, found %zu", SANDBOX_MAX_MOUNTS,
                       c->n_mounts);
    }
    if (check_numbers(c, e) < 0 || check_source(c, "rootfs", c->rootfs, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < c->n_mounts + (c->output_target ? 1 : 0); i++) {
        const char *source = i < c->n_mounts ? c->mounts[i].source : c->output_source;
        if (check_target(c, i, e) < 0 || check_source(c, "mount source", source, e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* --- the configuration --- */

static json_t *strings(const char *const *list, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++) {
        json_array_append_new(a, json_string(list[i]));
    }
    return a;
}

static json_t *strings_z(char *const *list)
{
    json_t *a = json_array();

    for (size_t i = 0; list && list[i]; i++) {
        /* A string that is not UTF-8 becomes null here, and bundle_config() returns NULL for it. */
        if (json_array_append_new(a, json_string(list[i])) < 0) {
            json_decref(a);
            return NULL;
        }
    }
    return a;
}

static json_t *mount_entry(const char *target, const char *type, const char *source,
                           const char *options)
{
    json_t *list = json_array();
    _cleanup_free_ char *copy = xstrdup(options);
    char *save = NULL;

    for (char *o = strtok_r(copy, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
        json_array_append_new(list, json_string(o));
    }
    return json_pack("{s:s, s:s, s:s, s:o}", "destination", target, "type", type, "source", source,
                     "options", list);
}

static json_t *tmpfs_entry(const char *target, const char *mode, uint64_t bytes, uint64_t inodes)
{
    char options[160];

    snprintf(options, sizeof(options),
             "nosuid,nodev,noexec,mode=%s,size=%" PRIu64 ",nr_inodes=%" PRIu64, mode,
             bytes < 4096 ? 4096 : bytes, inodes);
    return mount_entry(target, "tmpfs", "tmpfs", options);
}

static json_t *mounts(const struct sandbox_config *c)
{
    json_t *a = json_array();
    char source[32];

    json_array_append_new(a, mount_entry("/proc", "proc", "proc", "nosuid,noexec,nodev"));
    json_array_append_new(a, mount_entry("/dev", "tmpfs", "tmpfs",
                                         "nosuid,noexec,strictatime,mode=755,size=64k,"
                                         "nr_inodes=64"));
    json_array_append_new(a, tmpfs_entry("/dev/shm", "1777", SANDBOX_SHM_BYTES, 1024));
    json_array_append_new(a, tmpfs_entry("/tmp", "1777", c->tmp_bytes, TMP_INODES));
    for (size_t i = 0; i < c->n_mounts; i++) {
        stage_input_path(i, source);
        json_array_append_new(a, mount_entry(c->mounts[i].target, "bind", source,
                                             c->mounts[i].writable_bytes
                                                 ? "bind,rw,nosuid,nodev,noexec,private"
                                                 : "bind,ro,nosuid,nodev,noexec,private"));
    }
    if (c->output_target) {
        json_array_append_new(a, mount_entry(c->output_target, "bind", STAGE_OUTPUT,
                                             "bind,rw,nosuid,nodev,noexec,private"));
    }
    return a;
}

static void rlimit_add(json_t *list, const char *type, uint64_t value)
{
    json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "type", type, "hard",
                                          (json_int_t)value, "soft", (json_int_t)value));
}

static json_t *rlimits(const struct sandbox_config *c, int address_limit)
{
    json_t *a = json_array();
    uint64_t file = c->output_bytes > c->tmp_bytes ? c->output_bytes : c->tmp_bytes;

    for (size_t i = 0; i < c->n_mounts; i++) {
        file = c->mounts[i].writable_bytes > file ? c->mounts[i].writable_bytes : file;
    }
    rlimit_add(a, "RLIMIT_NOFILE", NOFILE_MAX);
    rlimit_add(a, "RLIMIT_CORE", 0);
    rlimit_add(a, "RLIMIT_FSIZE", file > SANDBOX_STDIO_BYTES ? file : SANDBOX_STDIO_BYTES);
    rlimit_add(a, "RLIMIT_NPROC", c->pids);
    rlimit_add(a, "RLIMIT_MSGQUEUE", 0);
    rlimit_add(a, "RLIMIT_RTPRIO", 0);
    rlimit_add(a, "RLIMIT_SIGPENDING", 1024);
    if (address_limit) {
        rlimit_add(a, "RLIMIT_AS", c->memory_bytes);
    }
    return a;
}

static json_t *capabilities(void)
{
    return json_pack("{s:[], s:[], s:[], s:[], s:[]}", "bounding", "effective", "inheritable",
                     "permitted", "ambient");
}

static json_t *process(const struct sandbox_config *c, int address_limit)
{
    static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    static char *const default_env[] = {path, NULL};

    return json_pack("{s:b, s:{s:I, s:I}, s:o, s:o, s:s, s:o, s:o, s:b, s:i}", "terminal", 0,
                     "user", "uid", (json_int_t)(c->uid ? c->uid : SANDBOX_UID), "gid",
                     (json_int_t)(c->gid ? c->gid : SANDBOX_UID), "args", strings_z(c->args), "env",
                     strings_z(c->env ? c->env : default_env), "cwd", c->workdir ? c->workdir : "/",
                     "capabilities", capabilities(), "rlimits", rlimits(c, address_limit),
                     "noNewPrivileges", 1, "oomScoreAdj", 1000);
}

static json_t *id_map(void)
{
    return json_pack("[{s:i, s:I, s:i}]", "containerID", 0, "hostID", (json_int_t)SANDBOX_ID_BASE,
                     "size", (int)SANDBOX_ID_COUNT);
}

/* The network namespace is the keeper's own: made outside of the container's user namespace, so
 * that nobody inside has a right over it, and with the loopback interface up. */
static json_t *linux_part(void)
{
    static const char *const masked[] = {
        "/proc/acpi",          "/proc/asound",        "/proc/config.gz",   "/proc/driver",
        "/proc/interrupts",    "/proc/kallsyms",      "/proc/kcore",       "/proc/key-users",
        "/proc/keys",          "/proc/kmsg",          "/proc/kpagecgroup", "/proc/kpagecount",
        "/proc/kpageflags",    "/proc/latency_stats", "/proc/modules",     "/proc/pressure",
        "/proc/sched_debug",   "/proc/scsi",          "/proc/slabinfo",    "/proc/swaps",
        "/proc/sysrq-trigger", "/proc/timer_list",    "/proc/timer_stats", "/proc/vmallocinfo",
        "/proc/iomem",         "/sys/firmware",       "/dev/tty",          "/dev/full",
    };
    static const char *const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                           "/proc/tty"};

    return json_pack("{s:[{s:s}, {s:s}, {s:s}, {s:s}, {s:s}, {s:s, s:s}, {s:s}], s:o, s:o, s:o, "
                     "s:o, s:o}",
                     "namespaces", "type", "pid", "type", "ipc", "type", "uts", "type", "mount",
                     "type", "user", "type", "network", "path", "/proc/self/ns/net", "type",
                     "cgroup", "uidMappings", id_map(), "gidMappings", id_map(), "maskedPaths",
                     strings(masked, ARRAY_LEN(masked)), "readonlyPaths",
                     strings(readonly, ARRAY_LEN(readonly)), "seccomp", seccomp_profile());
}

json_t *bundle_config(const struct sandbox_config *c, int address_limit)
{
    return json_pack("{s:s, s:o, s:{s:s, s:b}, s:s, s:o, s:o}", "ociVersion", "1.0.2", "process",
                     process(c, address_limit), "root", "path", STAGE_ROOTFS, "readonly", 1,
                     "hostname", "workload", "mounts", mounts(c), "linux", linux_part());
}
