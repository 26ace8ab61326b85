/* How CVMs of one kind are launched and destroyed: a table of functions per backend.
 *
 * Every backend runs a CVM as a process tree below a keeper (keeper.c), which is what makes
 * "nothing of it is left" true: it takes every orphan of the tree, and ends only after the last
 * one and the work directory are gone. A keeper outlives its launcher, and serves the next one. */
#ifndef COFFER_LAUNCHER_BACKEND_H
#define COFFER_LAUNCHER_BACKEND_H

#include <signal.h>
#include <sys/types.h>

#include "svc-launcher/launcher.h"

/* How VMs are made; paths borrowed. Read by backend_env_vm. */
struct vm_options {
    const char *qemu, *swtpm, *swtpm_setup;
    const char *image;        /* directory with coffer.efi and OVMF.fd */
    const char *tpm_ca;       /* common/tpmca.h; made at the first launch */
    const char *accel;        /* "auto", "kvm", "tcg" */
    const char *cpus;         /* of the host, "0-3,8", that VMs run on; "": any */
    const char *quote_socket; /* of Intel's quoting service; "": none */
    int64_t hang_ms;          /* without a sign of life for so long a VM is ended */
    int64_t overhead_bytes;   /* what a VM needs besides what its job asks for */
    int64_t numa_node;        /* -1: any */
    int64_t scratch_max_bytes;
    int hugepages, lock_memory;
};

/* What a backend is configured with; borrowed. */
struct backend_env {
    const char *keeper;     /* the program that runs keeper_main for argv[1] = KEEPER_VERB */
    const char *worker;     /* program of the process backend */
    const char *worker_arg; /* its only argument, or NULL */
    const char *store;      /* image blobs and sealed datasets */
    const char *cvm_dir;    /* where work directories are made */
    const char *seed_file;  /* the workers' nkey seed */
    int64_t grace_ms;
    int64_t orphan_ms; /* so long a CVM goes on without a launcher */
    const char *host;
    struct vm_options vm; /* of the backends that make VMs */
};

struct backend_launch {
    const char *job;
    uint32_t attempt;
    struct bytes config; /* packed LaunchConfig; holds the worker's seed */
    const char *work_dir;
    int64_t deadline_ms; /* Unix time; 0: none. The keeper sees to it, too */
};

/* A launched CVM: owned by the caller, who reaps `pid` if it is a child, and closes the
 * descriptors.
 */
struct cvm_handle {
    pid_t pid; /* its keeper, leader of its session; a child of the process that launched it */
    int64_t pid_start;
    int pid_fd;  /* names that process for ever */
    int link_fd; /* to it (link.h) */
};

struct backend {
    const char *name, *tee;
    /* Whether it works here; -1 with the reason. Where it works, why->msg may say how. */
    int (*probe)(const struct backend_env *env, struct err *why);
    /* Starts its keeper, which goes on once it is told to (LINK_GO), and ends if this process does
     * before. work_dir exists and is empty. -1: nothing is left of it but work_dir. */
    int (*launch)(const struct backend_env *env, const struct backend_launch *l,
                  struct cvm_handle *ret, struct err *e);
    /* Begins to end it; its keeper's exit says that it is done. Again is fine. */
    void (*destroy)(const struct cvm_handle *h);
    /* From the keeper's wait status: 0-255, or 128 + signal. `ret_left`: the keeper itself was
     * killed, and descendants may be left (cvm_kill_orphans). */
    int (*reap)(int status, int *ret_left);
};

/* For backends: starts a keeper and below it `program` (with arguments, ends with NULL), which
 * reads `input` from its standard input; `input` is kept off every disk. */
int backend_start(const struct backend_env *env, const struct backend_launch *l, struct bytes input,
                  const char *const *program, struct cvm_handle *ret, struct err *e);
void backend_destroy(const struct cvm_handle *h);
int backend_reap(int status, int *ret_left);

extern const struct backend process_backend, vtpm_backend, tdx_backend, snp_backend;
extern const struct backend *const backends[];
extern const size_t n_backends;
/* NULL when there is none. */
const struct backend *backend_find(const char *name);

/* ---- keeper ---------------------------------------------------------------------------------- */

#define KEEPER_VERB "cvm-keeper"
/* What a keeper runs for the VM backends (vm.h): says itself when the guest has booted. */
#define VM_VERB "cvm-vm"
/* Asks a keeper to end its CVM, and to keep nothing for a launcher that is yet to come. SIGTERM
 * asks it to end the CVM, and to tell how that went. */
#define KEEPER_SIGNAL_FORGET SIGUSR1
/* argv: program, KEEPER_VERB, grace in ms, how long it does without a launcher in ms, deadline in
 * Unix ms (0: none), work directory, worker, its arguments... Standard input is the worker's,
 * standard output the link to the launcher. The whole life of a keeper; returns its exit status. */
int keeper_main(int argc, char **argv);
/* A keeper of this user for this work directory; 0. */
pid_t keeper_find(const char *work_dir);
/* Kills every descendant of this process except direct children that `keep` names; returns how many
 * there were. */
size_t kill_descendants(pid_t of, int (*keep)(void *arg, pid_t pid), void *arg);
/* Kills the members of a session but its leader: what a killed keeper left that is not below this
 * process. */
void kill_session(pid_t session);
/* Kills this user's processes whose HOME the work directory is, as the worker's and its children's
 * is; returns how many there were. */
size_t kill_inhabitants(const char *work_dir);
/* Whether this user has a keeper, or a process at home, in any work directory below. */
int inhabited(const char *cvm_dir);
/* Removes a directory with all below it, following no links. ERR_IO. */
int remove_tree(const char *path, struct err *e);

/* ---- processes ------------------------------------------------------------------------------- */

/* The start time of a process in clock ticks since boot; 0 when there is none. With the boot id it
 * names a process for ever. */
int64_t process_start(pid_t pid);
void host_boot_id(char out[64]);

/* ---- lifecycle lines ------------------------------------------------------------------------- */

#define LIFECYCLE_LINE_MAX 16384

struct lifecycle {
    enum backend_event_kind kind; /* BOOTED, PHASE, REFUSED, DONE, or FAILED */
    char phase[33];
    char code[32], clause[128], expected[256], actual[256], message[512], by[32];
};
/* One line, without its newline: {"booted":true} | {"phase":"..."} | {"refused":{...}} |
 * {"done":true} | {"failed":"..."}. ERR_INVALID, ERR_TOO_LARGE. */
int lifecycle_parse(struct bytes line, struct lifecycle *ret, struct err *e);
void lifecycle_refusal(const struct lifecycle *l, Coffer__V1__Refusal *ret);

/* Cuts a stream into lines of at most `max` bytes; longer ones are dropped whole. */
struct line_cutter {
    struct buf buf;
    int skipping;
    uint64_t dropped;
};
#define LINE_CUTTER_INIT(max) ((struct line_cutter){.buf = BUF_INIT(max)})
typedef void (*line_fn)(void *arg, struct bytes line);
void line_cutter_feed(struct line_cutter *c, struct bytes in, line_fn fn, void *arg);

/* ---- probe ----------------------------------------------------------------------------------- */

/* What the host offers: its size, less where the configuration says so, and the backends of the
 * comma-separated list. ERR_INVALID for a name that no backend has. */
int probe_host(const struct config *config, const struct backend_env *env, struct host_facts *ret,
               struct err *e);

#endif
