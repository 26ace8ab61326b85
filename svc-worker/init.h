/* svc-worker as the first process of a VM (common/vm.h): it makes a small system out of an
 * initramfs, takes the LaunchConfig from a port, and keeps two children, the bus relay and the
 * worker proper, until the worker ends. Then the VM is off.
 *
 *   init.c          the order of it all, and the end
 *   init_mounts.c   root, file systems, modules, sysctls, entropy
 *   init_port.c     the virtio-serial ports
 *   init_launch.c   the frame with the LaunchConfig, and what of it is needed here
 *   init_net.c      the loopback interface: where the worker finds nats-server
 *   init_lines.c    lines on their way out: whole, bounded, never in a child's way
 *   init_watch.c    the children: started, restarted, reaped
 *   init_relay.c    the bus relay
 *   init_memory.c   what all of them take of the VM's memory
 *
 * What the host sends is judged as in every other parser; what the host does not do (read, connect)
 * never holds up more than itself. All but init.c works in any process, for the tests. */
#ifndef COFFER_SVC_WORKER_INIT_H
#define COFFER_SVC_WORKER_INIT_H

#include <netinet/in.h>
#include <sys/types.h>

#include "common/buf.h"

#define INIT_WORK_DIR "/run/coffer/work"
#define INIT_HOSTS_FILE "/run/coffer/hosts"
#define INIT_MODULES_DIR "/lib/modules/coffer"
#define INIT_LAUNCH_WAIT_MS 30000

#define INIT_EXIT_FAILED 1
#define INIT_EXIT_REFUSED 3

/* ---- init.c ---------------------------------------------------------------------------------- */

/* Whether this is the first process of a VM, in an initramfs where nothing was done yet. A first
 * process of a container's pid namespace is not. */
int init_in_vm(void);
/* The whole life of a VM; ends with its power. */
void init_main(void) __attribute__((noreturn));

/* ---- init_mounts.c --------------------------------------------------------------------------- */

/* Covers the initramfs with itself, so that the root is a mount that pivot_root(2) can leave.
 * ERR_IO. */
int init_root(struct err *e);
/* proc, sys, dev, run, tmp, securityfs (where the kernel has it), cgroup2. ERR_IO. */
int init_mounts(struct err *e);
/* Makes the root read-only: what changes from here on is on a tmpfs with a bound. ERR_IO. */
int init_root_read_only(struct err *e);
/* Calls `load` for every "*.ko" of the directory, in the order of their names; none is fine.
 * Errors of `load`; ERR_TOO_LARGE beyond 64 modules; ERR_IO. */
typedef int (*init_load_fn)(const char *path, struct err *e);
int init_modules(const char *dir, init_load_fn load, struct err *e);
/* The same for dir/scratch, if one of the disks below sys_block ("/sys/block") is for scratch. To
 * be called after the others, one of which shows the disks. */
int init_scratch_modules(const char *sys_block, const char *dir, init_load_fn load, struct err *e);
int init_load_module(const char *path, struct err *e); /* finit_module(2); loaded before is fine */
/* Writes the table of sysctls below `root` ("/proc/sys"). A missing one is an error unless it
 * belongs to something that kernels may leave out. ERR_IO. */
int init_sysctls(const char *root, struct err *e);
/* No module after this, and no other kernel. ERR_IO. */
int init_seal_kernel(const char *root, struct err *e);
/* Waits until the kernel's random numbers are ready. ERR_TIMEOUT. */
int init_entropy(int timeout_ms, struct err *e);

/* ---- init_port.c ----------------------------------------------------------------------------- */

/* Waits until a port of that name is listed below sysfs_dir ("/sys/class/virtio-ports") and opens
 * its node below dev_dir ("/dev"). ERR_TIMEOUT names the port; ERR_IO. */
int init_port_find(const char *sysfs_dir, const char *dev_dir, const char *name, int timeout_ms,
                   char ret_path[64], struct err *e);
int init_port_open(const char *path, int *ret_fd, struct err *e);

/* ---- init_launch.c --------------------------------------------------------------------------- */

/* Reads 4 bytes of length (big-endian) and that many bytes from a port that does not block. A port
 * whose other end is not connected yet reads as ended, so ends are waited out, too.
 * ERR_TIMEOUT, ERR_TOO_LARGE (clause "launch"), ERR_INVALID (length 0), ERR_IO. */
int init_launch_read(int fd, int timeout_ms, struct buf *ret, struct err *e);

/* Where the worker will look for nats-server. */
struct init_bus {
    char host[256];
    uint16_t port;
    int family; /* AF_INET, AF_INET6: host is a literal; AF_UNSPEC: it is a name */
    union {
        struct in_addr v4; /* for names: 127.0.0.1 */
        struct in6_addr v6;
    } addr;
};
/* "tls://host[:port]"; a name, an IPv4 address, or an IPv6 address in
 * brackets. ERR_INVALID, clause "launch.nats_url". */
int init_bus_parse(const char *url, struct init_bus *ret, struct err *e);
/* What is needed of a packed LaunchConfig here; all else is the worker's to judge. It must be one
 * for a VM: with disks, and with INIT_WORK_DIR. ERR_INVALID, ERR_DENIED: "launch.<member>". */
int init_launch_check(struct bytes launch, struct init_bus *ret, struct err *e);
/* A sealed memory file to be the worker's standard input. ERR_IO. */
int init_launch_file(struct bytes launch, int *ret_fd, struct err *e);

/* ---- init_net.c ------------------------------------------------------------------------------ */

/* Brings lo up, gives it the bus's address if that is not its own, writes the names to hosts_path.
 * ERR_IO. */
int init_net_up(const struct init_bus *b, const char *hosts_path, struct err *e);
/* Listens there; does not block. ERR_IO. */
int init_net_listen(const struct init_bus *b, int *ret_fd, struct err *e);

/* ---- init_lines.c ---------------------------------------------------------------------------- */

#define INIT_LINE_MAX_BYTES 16384u      /* as the launcher's lifecycle lines */
#define INIT_LOG_LINE_MAX_BYTES 4096u   /* as common/log.h writes them */
#define INIT_OUT_MAX_BYTES (64u * 1024) /* waiting for one port */

/* Cuts a stream into lines of at most `max` bytes; longer ones are dropped whole. */
struct init_cut {
    char *line; /* owned */
    size_t max, n;
    int skipping;
    uint64_t dropped;
};
typedef void (*init_line_fn)(void *arg, const char *line, size_t n);
void init_cut_start(struct init_cut *c, size_t max);
void init_cut_feed(struct init_cut *c, struct bytes in, init_line_fn fn, void *arg);
void init_cut_done(struct init_cut *c);

/* Lines that wait for a port. */
struct init_out {
    char *p; /* owned; n bytes wait */
    size_t n;
};
/* Adds a line and its newline, whole or not at all: -1 when there is no room. */
int init_out_line(struct init_out *o, const char *line, size_t n);
size_t init_out_room(const struct init_out *o); /* for a line without its newline */
/* Writes what the port takes without blocking: 1 all is out, 0 some waits, -1 (errno) it broke. */
int init_out_flush(struct init_out *o, int fd);
void init_out_done(struct init_out *o);

/* At most `burst` at once and `per_s` a second. */
struct init_rate {
    int64_t per_s, burst;
    int64_t level_milli; /* a thousandth of one each */
    int64_t last_ms;
    int started;
};
int init_rate_take(struct init_rate *r, int64_t now_ms);

/* Log lines: dropped and counted when they come too fast or nobody reads them. Control bytes become
 * '?'. */
struct init_log {
    struct init_out out;
    struct init_rate rate;
    uint64_t dropped;
};
void init_log_line(struct init_log *l, int64_t now_ms, const char *line, size_t n);
/* As init_out_flush; says how many were dropped as soon as there is room for it. */
int init_log_flush(struct init_log *l, int fd);

/* ---- init_watch.c ---------------------------------------------------------------------------- */

struct init_watch_env {
    int ctl_fd, log_fd; /* ports, not blocking; log_fd may be -1. Borrowed */
    int alive_every_ms;
    int flush_ms; /* how long the last lines may take */
    const char *worker;
    char *const *worker_argv;
    int launch_fd; /* the worker's standard input; borrowed */
    /* In a child of its own: the relay. Its return is its exit status. */
    int (*relay)(void *arg);
    void *relay_arg;
    /* Ends every process that is left. */
    void (*kill_all)(void);
};
/* From the start of the children to the last line, VM_LINE_EXIT; returns what that says: the
 * worker's exit status, 128 + signal, or INIT_EXIT_FAILED with a "failed" line before it. */
int init_watch(const struct init_watch_env *env);
/* For a VM that never got that far: the last lines, "refused" for a refusal and "failed" otherwise.
 * Returns the status. */
int init_watch_failed(int ctl_fd, int flush_ms, const struct err *why);
int64_t init_now_ms(void); /* since boot */

/* ---- init_memory.c ----------------------------------------------------------------------------
 */

/* In KiB, of the first process and those below it that run this program, or the container runtime.
 */
struct init_memory_sum {
    uint64_t pss_kib;     /* each page counted once, however many of them share it */
    uint64_t private_kib; /* of it, pages of one process alone */
    uint64_t runtime_kib; /* of it, the container runtime's */
    unsigned processes;
};
struct init_memory {
    struct init_memory_sum peak; /* the sample with the highest pss_kib */
    unsigned samples;
};
/* Reads what the kernel counts below `proc` ("/proc") for `root` and its descendants, as far as
 * they are ours. What ended meanwhile is left out. */
void init_memory_sample(struct init_memory *m, const char *proc, int root);
#define INIT_MEMORY_LINE_BYTES 192
/* {"log":"memory",...}: numbers, nothing else. */
void init_memory_line(const struct init_memory *m, char out[INIT_MEMORY_LINE_BYTES]);

/* ---- init_relay.c ---------------------------------------------------------------------------- */

struct init_relay {
    int listen_fd; /* not blocking; borrowed */
    /* A descriptor that does not block, or -1. Called for each connection. */
    int (*open_port)(void *arg, struct err *e);
    void *arg;
    int pause_ms;
    unsigned sessions; /* how many to serve; 0: for ever */
};
/* Carries one connection at a time; a newer one replaces it. -1 when it cannot go on: ERR_IO. */
int init_relay_run(const struct init_relay *r, struct err *e);
/* Gives up all rights but those the relay needs, for good. ERR_IO. */
int init_relay_confine(uint32_t uid, struct err *e);

#endif
