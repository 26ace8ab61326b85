/* The backends that make VMs (vtpm, tdx, snp), and the program that runs one VM.
 *
 *   vm.c          the backends: what the launcher does, which is to start a keeper
 *   vm_probe.c    what of it works on this host
 *   vm_kvm.c      whether /dev/kvm is one of these things
 *   vm_params.c   what the keeper's child, `svc-launcher cvm-vm`, is told
 *   vm_start.c    that child: prepares everything and starts it
 *   vm_run.c      ... and turns one loop until the VM is over
 *   vm_disks.c    the job's files as disks, and the VM's size
 *   vm_scratch.c  the one disk that the guest may write to
 *   vm_place.c    which CPUs and which memory of the host it gets
 *   vm_tpm.c      swtpm
 *   vm_qemu.c     QEMU's command line
 *   vm_jail.c     how QEMU and swtpm are confined
 *   vm_guest.c    what the guest says on its ports
 *   vm_bridge.c   its way to nats-server, and to nothing else
 *   qmp.c         QEMU's messages
 *
 * The guest, and QEMU once a guest runs in it, are judged hostile by all of these. docs/vm.md. */
#ifndef COFFER_LAUNCHER_VM_H
#define COFFER_LAUNCHER_VM_H

#include <jansson.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "common/vm.h"
#include "svc-launcher/backend.h"

/* argv: program, VM_VERB, "<job>.<attempt>"; on standard input vm_params_pack's bytes. Prints
 * lifecycle lines, logs on standard error; returns the guest's exit status, VM_EXIT_FAILED after a
 * line that says why, or VM_EXIT_STOPPED after SIGTERM. */
int vm_main(int argc, char **argv);
#define VM_EXIT_FAILED 1
#define VM_EXIT_STOPPED 143

enum vm_kind { VM_VTPM, VM_TDX, VM_SNP };

int64_t vm_now_ms(void); /* monotonic */

/* ---- vm_params.c ----------------------------------------------------------------------------- */

struct vm_params {
    json_t *json; /* owns the strings */
    enum vm_kind kind;
    int kvm; /* else TCG */
    const char *id, *work_dir, *store;
    struct vm_options opt;
    struct bytes config; /* packed LaunchConfig; borrowed */
};
/* u32 (big-endian) length, JSON of everything but `config`, and `config`. ERR_INVALID,
 * ERR_TOO_LARGE. */
int vm_params_pack(const struct vm_params *p, struct buf *ret, struct err *e);
/* ERR_INVALID names the member. `in` must outlive the result. */
int vm_params_unpack(struct bytes in, struct vm_params *ret, struct err *e);
void vm_params_done(struct vm_params *p);

/* ---- vm_probe.c ------------------------------------------------------------------------------ */

/* As backend.probe; `ret_kvm` (may be NULL): whether VMs are to use /dev/kvm. */
int vm_probe(enum vm_kind kind, const struct backend_env *env, int *ret_kvm, struct err *why);
/* Runs a guest of a few instructions, once; the answer is kept. 0, or -1: ERR_UNSUPPORTED, ERR_IO.
 */
int vm_kvm_works(struct err *why);
/* "QEMU emulator version 7.2.22 (...)" to 702. 0 when there is no version. */
int vm_qemu_version(const char *text);
/* Where AMD's CPUs keep the C-bit, and how many bits of addresses that takes: CPUID 8000001f EBX.
 * 0, or -1 on other CPUs. */
int vm_sev_bits(uint32_t *ret_cbitpos, uint32_t *ret_reduced);

/* ---- vm_disks.c ------------------------------------------------------------------------------ */

struct vm_disk {
    char serial[21];
    const char *kind; /* static */
    char name[256];
    int fd;
    uint64_t bytes;
    int rw; /* the guest may write to it */
};

struct vm_disks {
    struct vm_disk v[VM_DISKS_MAX];
    size_t n;
    uint64_t unpack_bytes; /* what the layers may become in the guest's memory; an estimate */
};

/* Opens what the spec names below `store`, read-only and without following links: each dataset,
 * each distinct layer blob, and one tar, in memory, of the image's JSON documents, whose digests
 * are checked. ERR_NOT_FOUND, ERR_DENIED (not a regular file), ERR_INVALID, ERR_BAD_SIGNATURE (a
 * document is not what its digest names), ERR_TOO_LARGE (more than VM_DISKS_MAX, or a document of
 * more than 1 MiB), ERR_IO: each names the file. On failure nothing is open. */
int vm_disks_open(const char *store, const struct spec *spec, struct vm_disks *ret, struct err *e);
void vm_disks_done(struct vm_disks *d);
/* Appends the packed LaunchConfig for the guest: with disks, without the host's paths.
 * ERR_TOO_LARGE. */
int vm_launch_config(const Coffer__V1__LaunchConfig *c, const struct vm_disks *d, struct buf *ret,
                     struct err *e);
/* The VM that the spec asks for. */
void vm_size(const struct spec *spec, const struct vm_disks *d, int64_t overhead_bytes,
             uint32_t *ret_mib, uint32_t *ret_vcpus);

/* ---- vm_scratch.c ---------------------------------------------------------------------------- */

/* Adds the scratch disk to the others: a file in `dir` that has no name. Nothing if bytes is 0.
 * ERR_TOO_LARGE (more than max_bytes), ERR_BUSY (more than the file system of `dir` has free),
 * both with the clause "spec.resources.scratch"; ERR_IO. */
int vm_scratch_open(const char *dir, int64_t bytes, int64_t max_bytes, struct vm_disks *d,
                    struct err *e);

/* ---- vm_place.c ------------------------------------------------------------------------------ */

#define VM_CPUS_MAX 1024u
#define VM_CPUS_TEXT 4096u

/* Which CPUs and which memory of the host a VM gets: what its spec asks for within what the
 * launcher's settings allow. */
struct vm_place {
    int64_t numa_node;     /* of its memory; -1: any */
    uint32_t hugepage_mib; /* its pages: 0 ordinary ones, VM_HUGE_DEFAULT the host's default */
    int lock_memory;
    int pinned;                                          /* the CPUs are its own */
    char cpus[VM_CPUS_TEXT];                             /* as "0-3,8"; "": any */
    int lock_fd;                                         /* holds the locks on its own CPUs; -1 */
    uint8_t base[VM_CPUS_MAX / 8], now[VM_CPUS_MAX / 8]; /* of one that is not pinned */
    int64_t due_ms; /* when vm_place_follow has something to do; INT64_MAX: never */
};
#define VM_HUGE_DEFAULT UINT32_MAX
#define VM_PLACE_INIT ((struct vm_place){.numa_node = -1, .lock_fd = -1, .due_ms = INT64_MAX})

/* The host: where its kernel tells about it, and what this process may have of it. */
struct vm_host {
    const char *sys, *proc; /* "/sys", "/proc" but in tests */
    int raises;             /* may raise limits */
    uint8_t allowed[VM_CPUS_MAX / 8];
};
void vm_host_here(struct vm_host *ret);

/* `lock_path`: a file that all VMs of this launcher share; byte n of it is locked by who has CPU n
 * for itself. *io_mib, the VM's memory, is rounded up to whole pages of that size. Each refusal
 * names the field of the spec, or the setting, and says what the host has: ERR_BUSY (not enough
 * huge pages, CPUs, memory that can be locked), ERR_UNSUPPORTED (no such node, no such pages),
 * ERR_DENIED (the host's settings say another node); ERR_IO. */
int vm_place(const struct vm_host *h, const struct vm_options *o, const struct spec *spec,
             const char *lock_path, uint32_t vcpus, uint32_t *io_mib, struct vm_place *ret,
             struct err *e);
/* Keeps the threads of `qemu` off CPUs that another VM got for itself meanwhile. */
void vm_place_follow(struct vm_place *p, pid_t qemu, int64_t now_ms);
void vm_place_done(struct vm_place *p);

/* ---- vm_qemu.c ------------------------------------------------------------------------------- */

/* Descriptors are numbers in the QEMU process. */
struct vm_qemu {
    enum vm_kind kind;
    int kvm;
    const char *program, *id, *firmware, *kernel; /* as QEMU sees them */
    uint32_t memory_mib, vcpus;
    int64_t numa_node;     /* -1: any */
    uint32_t hugepage_mib; /* as in vm_place */
    int lock_memory;
    const char *quote_socket; /* NULL: none */
    uint32_t cbitpos, reduced_phys_bits;
    int qmp_fd, ctl_fd, log_fd, bus_fd, console_fd, tpm_fd;
    const struct vm_disk *disks;
    size_t n_disks;
};

struct vm_argv {
    char **v; /* ends with NULL */
    size_t n;
};
void vm_qemu_argv(const struct vm_qemu *q, struct vm_argv *ret);
void vm_argv_add(struct vm_argv *a, const char *fmt, ...) _printf_(2, 3);
void vm_argv_done(struct vm_argv *a);
#define _cleanup_vm_argv_ _cleanup_(vm_argv_done)

/* ---- vm_jail.c ------------------------------------------------------------------------------- */

struct vm_bind {
    const char *from, *to; /* `to`: "/name" in the new root */
    int writable;
};

struct vm_jail {
    const char *root; /* an empty directory: the mount point of the new root */
    const struct vm_bind *binds;
    size_t n_binds;
    uint32_t uid;          /* and gid; when the launcher is root, else its own */
    int64_t file_bytes;    /* bound of a file it writes; -1: no bound */
    int lock_memory;       /* it may lock memory */
    const char *cpus;      /* "": any */
    const char *groups_of; /* a device whose group it gets; NULL: none */
    const int *fds;        /* that it inherits, at their numbers, besides 0, 1, 2 */
    size_t n_fds;
    int out_fd; /* its standard output and error */
};

#define VM_UID_BASE 1910000000u /* two for each process id */

/* Starts argv[0] in namespaces of its own (pid, mount, network, ipc, uts), with a root that has
 * nothing but /usr, a few devices and `binds`, without any privilege; it dies with this process.
 * ERR_UNSUPPORTED: a namespace cannot be had; ERR_INVALID (cpus); ERR_IO. */
int vm_jail_start(const struct vm_jail *j, char *const *argv, pid_t *ret, struct err *e);
/* "0-3,8" to a set of bits, CPU 0 first. ERR_INVALID. */
int vm_cpus_parse(const char *s, uint8_t ret[VM_CPUS_MAX / 8], struct err *e);

/* ---- vm_tpm.c -------------------------------------------------------------------------------- */

/* Makes a TPM in `dir` (below work_dir): endorsement keys, and certificates for them by the host's
 * CA with CN = id. ERR_IO with swtpm_setup's last line, ERR_TIMEOUT. */
int vm_tpm_make(const struct vm_options *o, const char *id, const char *work_dir, const char *dir,
                struct err *e);

/* ---- vm_guest.c ------------------------------------------------------------------------------ */

/* What came from coffer.ctl so far. */
struct vm_guest {
    struct line_cutter lines;
    int alive;                                     /* has said so */
    int explained;                                 /* refused or failed */
    int exit_code;                                 /* -1: none yet */
    uint64_t bad;                                  /* lines that were none */
    int fresh;                                     /* a sign of life was among what was fed last */
    void (*forward)(void *arg, struct bytes line); /* valid lifecycle lines */
    void *arg;
};
#define VM_GUEST_INIT                                                                              \
    ((struct vm_guest){.lines = LINE_CUTTER_INIT(LIFECYCLE_LINE_MAX), .exit_code = -1})
void vm_guest_feed(struct vm_guest *g, struct bytes in);
void vm_guest_done(struct vm_guest *g);

/* Text for the log: lines, cut at 400 bytes, control bytes as '?', at most `left` bytes ever. */
#define VM_TEXT_LINE 400
struct vm_text {
    const char *prefix;
    uint64_t left;
    char line[VM_TEXT_LINE + 1],
        last[VM_TEXT_LINE + 1]; /* last: the last line that was not blank */
    size_t n;
    int escape; /* in one of a terminal's sequences, which are left out */
    void (*out)(const char *prefix, const char *line);
};
void vm_text_feed(struct vm_text *t, struct bytes in);
void vm_text_end(struct vm_text *t); /* what there is of a last line */

/* ---- vm_bridge.c ----------------------------------------------------------------------------- */

#define BRIDGE_BUF_BYTES (256u * 1024)
#define BRIDGE_CONNECT_MS 5000
#define BRIDGE_DRAIN_MS 2000
#define BRIDGE_ADDRESSES_MAX 8

enum bridge_state {
    BRIDGE_CLOSED,  /* the guest has not opened its port since the last connection */
    BRIDGE_PAUSE,   /* until at_ms, then to nats-server */
    BRIDGE_CONNECT, /* to nats-server, until at_ms */
    BRIDGE_OPEN,
    BRIDGE_DRAIN, /* the server ended: what is left goes to the guest, until at_ms */
};

struct bridge_pipe {
    uint8_t *p;
    size_t at, n;
};

struct bridge {
    char host[256], port[8]; /* of nats-server, fixed */
    struct sockaddr_storage addresses[BRIDGE_ADDRESSES_MAX];
    socklen_t lengths[BRIDGE_ADDRESSES_MAX];
    size_t n_addresses, next_address;
    int dir_fd; /* borrowed: of the directory with the port's socket */
    const char *socket_name;
    enum bridge_state state;
    int64_t at_ms;
    int net_fd, port_fd;
    struct bridge_pipe up, down; /* guest to server, server to guest */
    uint64_t sessions;
    struct err last; /* why the last attempt to connect failed */
};

/* "tls://host:port" or "nats://host:port" (port 4222 if absent). Resolves the host, once: the guest
 * must not make names be looked up. ERR_INVALID, ERR_NOT_FOUND. */
int bridge_init(struct bridge *b, const char *url, int dir_fd, const char *socket_name,
                struct err *e);
void bridge_done(struct bridge *b);
/* The guest opened or closed its port. */
void bridge_guest(struct bridge *b, int open, int64_t now_ms);
/* Fills at most 2 descriptors to poll; returns their number. */
size_t bridge_poll(const struct bridge *b, struct pollfd v[2]);
/* When bridge_turn must be called at the latest; INT64_MAX: never. */
int64_t bridge_due_ms(const struct bridge *b);
void bridge_turn(struct bridge *b, const struct pollfd *v, size_t n, int64_t now_ms);

#endif
