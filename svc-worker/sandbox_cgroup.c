/* Resource limits by cgroup, version 1, 2 or a mix of both.
 *
 * crun is told to leave cgroups alone, and that for three reasons: it refuses hosts where both
 * versions are mounted; it says nothing when a limit is not in force, which the result must; and a
 * directory made here can be removed here, whatever became of crun. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "svc-worker/sandbox_internal.h"

#define MOUNTINFO_MAX_LINES 4096
#define EVACUATE_ROUNDS 16
#define REMOVE_TRIES 100
#define CPU_PERIOD_US 100000u
#define CRUN_PROCESSES 1u /* crun itself waits inside the cgroup */
#define EVACUATED "coffer-host"

enum controller { CTL_MEMORY, CTL_PIDS, CTL_CPU, CTL_DEVICES, CTL_N };

static const char *const controller_names[CTL_N] = {
    [CTL_MEMORY] = "memory",
    [CTL_PIDS] = "pids",
    [CTL_CPU] = "cpu",
    [CTL_DEVICES] = "devices",
};

struct hierarchies {
    char *v1[CTL_N]; /* mount points, owned */
    char *v2;
};

static void hierarchies_done(struct hierarchies *h)
{
    for (size_t i = 0; i < CTL_N; i++) {
        free(h->v1[i]);
    }
    free(h->v2);
}

static int has_word(const char *list, const char *word, const char *separators)
{
    size_t n = strlen(word);

    while (*list) {
        size_t len = strcspn(list, separators);
        if (len == n && memcmp(list, word, n) == 0) {
            return 1;
        }
        list += len;
        list += strspn(list, separators);
    }
    return 0;
}

/* One line of /proc/self/mountinfo, proc(5): mount point is field 5; after " - " come the type, the
 * source and the options of the file system. */
static void mountinfo_line(char *line, struct hierarchies *h)
{
    char mount_point[512], type[32], options[512];
    char *tail = strstr(line, " - ");

    if (!tail || sscanf(line, "%*s %*s %*s %*s %511s", mount_point) != 1 ||
        sscanf(tail, " - %31s %*s %511s", type, options) != 2 || strchr(mount_point, '\\')) {
        return;
    }
    if (streq(type, "cgroup2") && !h->v2) {
        h->v2 = xstrdup(mount_point);
        return;
    }
    if (!streq(type, "cgroup")) {
        return;
    }
    for (size_t i = 0; i < CTL_N; i++) {
        if (!h->v1[i] && has_word(options, controller_names[i], ",\n")) {
            h->v1[i] = xstrdup(mount_point);
        }
    }
}

static void hierarchies_find(struct hierarchies *ret)
{
    _cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
    char line[4096];

    for (int i = 0; f && i < MOUNTINFO_MAX_LINES && fgets(line, sizeof(line), f); i++) {
        mountinfo_line(line, ret);
    }
}

static int read_text(const char *dir, const char *name, char *buf, size_t size)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t n = read(fd, buf, size - 1);
    if (n < 0) {
        return -1;
    }
    buf[n] = 0;
    return 0;
}

static int write_text(const char *dir, const char *name, const char *text)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    return write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
}

static int write_number(const char *dir, const char *name, uint64_t value)
{
    char text[32];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    return write_text(dir, name, text);
}

static void note(struct box_cgroup *g, const char *controller, const char *why)
{
    size_t n = strlen(g->note);

    if (streq(controller, controller_names[CTL_DEVICES])) {
        return; /* not one of the limits: see limit_devices() */
    }
    snprintf(g->note + n, sizeof(g->note) - n, "%s%s: %s", n ? "; " : "", controller, why);
}

/* Makes <mount point>/<name> once, however many controllers live there. NULL with errno. */
static const char *cgroup_dir(struct box_cgroup *g, const char *mount_point, const char *id)
{
    _cleanup_free_ char *path = xasprintf("%s/" SANDBOX_CGROUP_PREFIX "%s", mount_point, id);

    for (size_t i = 0; i < g->n; i++) {
        if (streq(g->dirs[i].path, path)) {
            return g->dirs[i].path;
        }
    }
    if (g->n == BOX_CGROUP_MAX) {
        errno = E2BIG;
        return NULL;
    }
    /* A directory of this name may be a dead runner's; a live one refuses to go. */
    if (mkdir(path, 0755) < 0 && (errno != EEXIST || rmdir(path) < 0 || mkdir(path, 0755) < 0)) {
        return NULL;
    }
    _cleanup_free_ char *procs = xasprintf("%s/cgroup.procs", path);
    int fd = open(procs, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        int saved = errno;
        rmdir(path);
        errno = saved;
        return NULL;
    }
    g->dirs[g->n].procs_fd = fd;
    g->dirs[g->n].path = TAKE_PTR(path);
    return g->dirs[g->n++].path;
}

/* In a container, the root we see is an inner node of the host's tree, and as long as processes sit
 * in it no controller can be enabled for its children: move them to a leaf of their own. */
static int v2_evacuate(const char *root)
{
    _cleanup_free_ char *leaf = xasprintf("%s/" EVACUATED, root);
    char own[256], procs[4096];

    if (read_text("/proc/self", "cgroup", own, sizeof(own)) < 0 || !strstr(own, "0::/\n")) {
        errno = EBUSY; /* not our container's root: not ours to rearrange */
        return -1;
    }
    if (mkdir(leaf, 0755) < 0 && errno != EEXIST) {
        return -1;
    }
    for (int round = 0; round < EVACUATE_ROUNDS; round++) {
        if (read_text(root, "cgroup.procs", procs, sizeof(procs)) < 0) {
            return -1;
        }
        char *save = NULL;
        int moved = 0;
        for (char *p = strtok_r(procs, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
            moved += write_text(leaf, "cgroup.procs", p) == 0;
        }
        if (!moved) {
            return 0;
        }
    }
    return 0;
}

static int v2_enable(const char *root, const char *controller)
{
    char have[512], text[40];

    if (read_text(root, "cgroup.controllers", have, sizeof(have)) < 0) {
        return -1;
    }
    if (!has_word(have, controller, " \n")) {
        errno = ENOTSUP;
        return -1;
    }
    if (read_text(root, "cgroup.subtree_control", have, sizeof(have)) == 0 &&
        has_word(have, controller, " \n")) {
        return 0;
    }
    snprintf(text, sizeof(text), "+%s", controller);
    if (write_text(root, "cgroup.subtree_control", text) == 0) {
        return 0;
    }
    if (errno != EBUSY || v2_evacuate(root) < 0) {
        return -1;
    }
    return write_text(root, "cgroup.subtree_control", text);
}

static uint64_t memory_total(const struct sandbox_config *c)
{
    return c->memory_bytes + c->tmp_bytes + (c->output_target ? c->output_bytes : 0) +
           SANDBOX_STDIO_BYTES;
}

static int limit_memory(const char *dir, int v2, uint64_t bytes)
{
    if (v2) {
        if (write_number(dir, "memory.max", bytes) < 0) {
            return -1;
        }
        /* Without swap accounting there is no such file, and then nothing to limit. */
        if (write_text(dir, "memory.swap.max", "0") < 0 && errno != ENOENT) {
            return -1;
        }
        return write_text(dir, "memory.oom.group", "1");
    }
    if (write_number(dir, "memory.limit_in_bytes", bytes) < 0) {
        return -1;
    }
    if (write_number(dir, "memory.memsw.limit_in_bytes", bytes) < 0 && errno != ENOENT &&
        errno != EOPNOTSUPP) {
        return -1;
    }
    return 0;
}

static int limit_cpu(const char *dir, int v2, uint32_t millis)
{
    uint64_t quota = (uint64_t)millis * CPU_PERIOD_US / 1000;
    char text[64];

    if (v2) {
        snprintf(text, sizeof(text), "%" PRIu64 " %u", quota, CPU_PERIOD_US);
        return write_text(dir, "cpu.max", text);
    }
    return write_number(dir, "cpu.cfs_period_us", CPU_PERIOD_US) < 0
               ? -1
               : write_number(dir, "cpu.cfs_quota_us", quota);
}

/* Only version 1 has files for this. It is a second lock: what holds everywhere is that no mount of
 * the container honours device nodes but those six that crun binds. */
static int limit_devices(const char *dir)
{
    static const char *const allowed[] = {"c 1:3 rw", "c 1:5 rw", "c 1:7 rw",
                                          "c 1:8 rw", "c 1:9 rw", "c 5:0 rw"};

    if (write_text(dir, "devices.deny", "a") < 0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(allowed); i++) {
        if (write_text(dir, "devices.allow", allowed[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int limit_set(enum controller ctl, const char *dir, int v2, const struct sandbox_config *c)
{
    switch (ctl) {
    case CTL_MEMORY:
        return limit_memory(dir, v2, memory_total(c));
    case CTL_PIDS:
        return write_number(dir, "pids.max", (uint64_t)c->pids + CRUN_PROCESSES);
    case CTL_CPU:
        return limit_cpu(dir, v2, c->cpu_millis);
    case CTL_DEVICES:
        return limit_devices(dir);
    case CTL_N:
        break;
    }
    errno = EINVAL;
    return -1;
}

/* 1 when the controller's limit is in force. */
static int controller_setup(struct box_cgroup *g, const struct hierarchies *h, enum controller ctl,
                            const struct sandbox_config *c)
{
    const char *name = controller_names[ctl];
    int v2 = !h->v1[ctl];
    const char *root = v2 ? h->v2 : h->v1[ctl];

    if (ctl == CTL_DEVICES && v2) {
        return 0;
    }
    if (!root) {
        note(g, name, "no such cgroup hierarchy is mounted");
        return 0;
    }
    if (v2 && v2_enable(root, name) < 0) {
        note(g, name, errno == ENOTSUP ? "not offered by the cgroup2 hierarchy" : strerror(errno));
        return 0;
    }
    const char *dir = cgroup_dir(g, root, c->id);
    if (!dir || limit_set(ctl, dir, v2, c) < 0) {
        note(g, name, strerror(errno));
        return 0;
    }
    if (ctl == CTL_MEMORY) {
        g->mode = v2 ? SANDBOX_CGROUP_V2 : SANDBOX_CGROUP_V1;
    }
    return 1;
}

void box_cgroup_make(const struct sandbox_config *c, struct box_cgroup *ret)
{
    _cleanup_(hierarchies_done) struct hierarchies h = {0};

    *ret = (struct box_cgroup){.mode = SANDBOX_CGROUP_NONE};
    hierarchies_find(&h);
    ret->memory = controller_setup(ret, &h, CTL_MEMORY, c);
    ret->pids = controller_setup(ret, &h, CTL_PIDS, c);
    ret->cpu = controller_setup(ret, &h, CTL_CPU, c);
    controller_setup(ret, &h, CTL_DEVICES, c);
}

int box_cgroup_join(const struct box_cgroup *g)
{
    for (size_t i = 0; i < g->n; i++) {
        if (write(g->dirs[i].procs_fd, "0", 1) != 1) {
            return -1;
        }
    }
    return 0;
}

unsigned long box_cgroup_oom_kills(const struct box_cgroup *g)
{
    char text[1024];

    for (size_t i = 0; g->memory && i < g->n; i++) {
        if (read_text(g->dirs[i].path,
                      g->mode == SANDBOX_CGROUP_V2 ? "memory.events" : "memory.oom_control", text,
                      sizeof(text)) < 0) {
            continue;
        }
        for (char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
            if (strncmp(p, "oom_kill ", 9) == 0) {
                return strtoul(p + 9, NULL, 10);
            }
        }
    }
    return 0;
}

void box_cgroup_done(struct box_cgroup *g)
{
    for (size_t i = 0; i < g->n; i++) {
        close(g->dirs[i].procs_fd);
        for (int t = 0; t < REMOVE_TRIES; t++) {
            if (rmdir(g->dirs[i].path) == 0 || errno != EBUSY) {
                break;
            }
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
        free(g->dirs[i].path);
    }
    g->n = 0;
}

static int cleanup_below(const char *root, const char *prefix, size_t *n, struct err *e)
{
    DIR *d = opendir(root);

    if (!d) {
        return err_errno(e, "cannot list the cgroups of %s", root);
    }
    for (struct dirent *de = readdir(d); de; de = readdir(d)) {
        if (strncmp(de->d_name, prefix, strlen(prefix)) == 0 &&
            unlinkat(dirfd(d), de->d_name, AT_REMOVEDIR) == 0) {
            (*n)++;
        }
    }
    closedir(d);
    return 0;
}

int sandbox_cleanup_stale(const char *id_prefix, size_t *ret_n, struct err *e)
{
    _cleanup_(hierarchies_done) struct hierarchies h = {0};
    _cleanup_free_ char *prefix = xasprintf(SANDBOX_CGROUP_PREFIX "%s", id_prefix);
    size_t n = 0;

    hierarchies_find(&h);
    for (size_t i = 0; i < CTL_N; i++) {
        if (h.v1[i] && cleanup_below(h.v1[i], prefix, &n, e) < 0) {
            return -1;
        }
    }
    if (h.v2 && cleanup_below(h.v2, prefix, &n, e) < 0) {
        return -1;
    }
    if (ret_n) {
        *ret_n = n;
    }
    return 0;
}
