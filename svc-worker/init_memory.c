/* What the VM's own processes take of its memory, which the launch has to provide for besides what
 * the job asks for. Numbers only; the workload is not looked at. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "svc-worker/init.h"

#define MAX_PROCESSES 64
#define CHILDREN_MAX_BYTES 1024
#define ROLLUP_MAX_BYTES 2048

struct walk {
    const char *proc;
    struct stat program;
    int pids[MAX_PROCESSES];
    size_t n;
};

/* A file of /proc/<pid> as text; what is beyond `size` is cut off. */
static int read_text(const char *proc, int pid, const char *file, char *out, size_t size)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%d/%s", proc, pid, file);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    out[n < 0 ? 0 : n] = '\0';
    return n < 0 ? -1 : 0;
}

static uint64_t kib_of(const char *rollup, const char *name)
{
    const char *p = strstr(rollup, name);
    unsigned long long kib = 0;

    return p && sscanf(p + strlen(name), " %llu kB", &kib) == 1 ? kib : 0;
}

static int program_of(const char *proc, int pid, struct stat *ret)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%d/exe", proc, pid);
    return stat(path, ret);
}

static void add_children(struct walk *w, int pid)
{
    char file[64], text[CHILDREN_MAX_BYTES];
    int child, used;

    snprintf(file, sizeof(file), "task/%d/children", pid);
    if (read_text(w->proc, pid, file, text, sizeof(text)) < 0) {
        return;
    }
    for (const char *p = text; w->n < MAX_PROCESSES && sscanf(p, "%d %n", &child, &used) == 1;
         p += used) {
        w->pids[w->n++] = child;
    }
}

/* What one of ours starts and is not this program is the container runtime (from a copy of its
 * file, which therefore tells nothing); what is below that is the workload. */
void init_memory_sample(struct init_memory *m, const char *proc, int root)
{
    struct walk w = {.proc = proc, .pids = {root}, .n = 1};
    struct init_memory_sum now = {0};
    char rollup[ROLLUP_MAX_BYTES];
    struct stat st;

    if (program_of(proc, root, &w.program) < 0) {
        return;
    }
    for (size_t i = 0; i < w.n; i++) {
        if (program_of(proc, w.pids[i], &st) < 0 ||
            read_text(proc, w.pids[i], "smaps_rollup", rollup, sizeof(rollup)) < 0) {
            continue;
        }
        int own = st.st_dev == w.program.st_dev && st.st_ino == w.program.st_ino;
        uint64_t pss = kib_of(rollup, "\nPss:");
        now.pss_kib += pss;
        now.runtime_kib += own ? 0 : pss;
        now.private_kib += kib_of(rollup, "\nPrivate_Clean:") + kib_of(rollup, "\nPrivate_Dirty:");
        now.processes++;
        if (own) {
            add_children(&w, w.pids[i]);
        }
    }
    m->samples++;
    if (now.pss_kib > m->peak.pss_kib) {
        m->peak = now;
    }
}

void init_memory_line(const struct init_memory *m, char out[INIT_MEMORY_LINE_BYTES])
{
    snprintf(out, INIT_MEMORY_LINE_BYTES,
             "{\"log\":\"memory\",\"peak_pss_kib\":%llu,\"private_kib\":%llu,\"runtime_kib\":%llu,"
             "\"processes\":%u,\"samples\":%u}",
             (unsigned long long)m->peak.pss_kib, (unsigned long long)m->peak.private_kib,
             (unsigned long long)m->peak.runtime_kib, m->peak.processes, m->samples);
}
