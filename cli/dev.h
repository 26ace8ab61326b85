/* `coffer dev`: a private nats-server and the services as children of one foreground process.
 *
 *   dev.c           the verb: options, the order of starting and stopping
 *   dev_setup.c     the data directory: lock, keys, trust file, client profile, nats configuration
 *   dev_vm.c        the guest image, its reference values and the host's TPM CA, for VMs
 *   dev_children.c  the children: command lines, logs, restarts
 *   dev_log.c       their lines on our stderr
 */
#ifndef COFFER_CLI_DEV_H
#define COFFER_CLI_DEV_H

#include <ev.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define DEV_HOST "dev" /* the one host's name on the bus */
#define DEV_SETTINGS_MAX 64
#define DEV_LINE_MAX_BYTES 4096
#define DEV_FAILURES_MAX 5    /* that soon after starting, ... */
#define DEV_FAILURES_MS 60000 /* within this time: dev gives up */
#define DEV_EARLY_MS 5000     /* "soon after starting" */
#define DEV_BACKOFF_MIN_S 0.2
#define DEV_BACKOFF_MAX_S 10.0
#define DEV_STOP_S 15.0 /* then what is left is killed */

/* In the order of starting; they stop in the order of dev_stop_order. */
enum dev_id { DEV_NATS, DEV_VERIFIER, DEV_KBS, DEV_GATE, DEV_SCHEDULER, DEV_LAUNCHER, DEV_N };

struct dev;

/* Bytes from a child's stderr on their way to lines on ours. */
struct dev_lines {
    char v[DEV_LINE_MAX_BYTES];
    size_t n;
    int cut; /* the line did not fit; its rest is dropped */
};

struct dev_child {
    struct dev *dev;
    enum dev_id id;
    const char *name; /* static */
    char **argv;      /* NULL-terminated, owned */
    char *log_path;   /* where its output goes; NULL: through us */
    pid_t pid;        /* 0: not running */
    int log_fd;       /* our end of its stderr; -1: none */
    struct dev_lines lines;
    int64_t started_ms;
    int64_t failed_ms[DEV_FAILURES_MAX]; /* a ring */
    size_t n_failed;
    double backoff_s;
    int ready;    /* it said so since its last start */
    int stopping; /* asked to end */
    ev_child watcher;
    ev_io log;
    ev_timer restart;
};

struct dev_setting {
    const char *service, *name_value; /* "kbs", "log-level=debug"; borrowed from the arguments */
};

struct dev {
    /* options */
    char *dir; /* absolute */
    uint16_t port;
    const char *log_level;
    const char *backend; /* "process" or "vtpm" */
    int ready_fd;        /* -1: none */
    struct dev_setting settings[DEV_SETTINGS_MAX];
    size_t n_settings;

    struct ev_loop *loop;
    int lock_fd;
    int notify_fd;
    char notify_name[64]; /* "@..." for NOTIFY_SOCKET */
    char *program_dir;    /* where the services' programs are */
    char *guest_dir;      /* the measured image; NULL with the process backend */
    char *url;
    int colour;
    struct dev_child children[DEV_N];
    int announced; /* ready was printed */
    int signals;   /* how many asked us to stop */
    int stopping, failed;
    ev_io notify;
    ev_signal sig_int, sig_term, sig_hup;
    ev_timer give_up, nats_poll;
    int64_t started_ms;
};

/* dev_setup.c */
/* Makes the directory and takes its lock. ERR_BUSY names the process that has it. */
int dev_lock(struct dev *d, struct err *e);
/* Lets go of the lock and says that this run ended in order. */
void dev_unlock(struct dev *d);
/* Everything that must exist before the first child starts; picks d->port and d->url. What exists
 * is kept, so that a second start goes on with the same keys. ERR_IO, ERR_DENIED, ERR_INVALID. */
int dev_setup(struct dev *d, struct err *e);
/* Once nats-server answers: streams and consumers. */
int dev_provision(struct dev *d, struct err *e);

/* dev_vm.c */
/* Once the programs are found. ERR_NOT_FOUND names what is missing. */
int dev_setup_vm(struct dev *d, struct err *e);
struct jkey;
/* Made at first use. */
int dev_release_key(const struct dev *d, struct jkey **ret, struct err *e);

/* dev_children.c */
/* Sets program_dir. ERR_NOT_FOUND. */
int dev_find_programs(struct dev *d, struct err *e);
/* Finds the programs and builds the command lines. ERR_NOT_FOUND names what is missing. */
int dev_children_init(struct dev *d, struct err *e);
void dev_children_done(struct dev *d);
int dev_child_start(struct dev_child *c, struct err *e);
/* Sends a signal to every child that runs; 0 when none does. */
int dev_children_signal(struct dev *d, int sig);
/* Receives READY=1 of services. */
int dev_notify_open(struct dev *d, struct err *e);

/* dev.c, called by the children's watchers */
void dev_on_ready(struct dev *d);
void dev_on_child_ended(struct dev *d, struct dev_child *c);
void dev_fail(struct dev *d, const char *fmt, ...) _printf_(2, 3);

/* dev_log.c */
/* Takes what was read from the child and writes whole lines to stderr. */
void dev_lines_add(struct dev_child *c, const char *p, size_t n);
/* Writes what is left without a newline. */
void dev_lines_end(struct dev_child *c);

int64_t dev_now_ms(void); /* monotonic */

#endif
