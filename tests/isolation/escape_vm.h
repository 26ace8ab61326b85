/* What a workload can try in the guest of a VM (docs/vm.md), each attempt one line "name: outcome"
 * on standard output: the error's name, "blocked" where there is none to show, a signal's, or
 * POSSIBLE. tests/integration/vm_isolation.expected has the outcome of each. */
#ifndef COFFER_TESTS_ISOLATION_ESCAPE_VM_H
#define COFFER_TESTS_ISOLATION_ESCAPE_VM_H

#include <stddef.h>

#include "tests/isolation/escape.h"

/* Environment, besides that of escape.h:
 *   ESCAPE_HOST_ADDRESSES   the host's own addresses, with blanks between them
 *   ESCAPE_SCAN             "from-to", the TCP ports to try; else all
 */

typedef int (*attempt_fn)(const void *arg);

/* One line in one write(2), so that processes may share the output. */
void say(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Runs it in a process of its own, for a minute at most, and says what came of it. */
void attempt(const char *name, attempt_fn run, const void *arg);
/* attempt(), of opening a path: it is the name's last part. */
void attempt_open(const char *path, int flags);
/* Runs `run`, which says things itself, in a process of its own; says only that it did not end
 * well. */
void in_child(const char *name, void (*run)(void), unsigned seconds);

/* Of many attempts of a kind: which outcomes there were. */
struct seen {
    unsigned char outcome[256];
};
void seen_add(struct seen *s, int r);
void seen_say(const char *name, const struct seen *s);

/* A list of words that is said in order; of those there is no room for, how many there are. */
struct words {
    size_t n, more;
    char v[128][96];
};
void words_add(struct words *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void words_say(const char *name, struct words *w);

/* TCP to an address, 300 ms at most: 0 or an errno. A connection of the socket to itself is none.
 */
int tcp_connect(const char *address, unsigned port);

void vm_privileges(void); /* becoming root, which nobody inside is */
void vm_memory(void);     /* svc-worker's, the kernel's; other processes */
void vm_log(void);        /* the kernel's log and settings */
void vm_calls(void);      /* system calls that nobody inside needs */
void vm_devices(void);    /* the TPM, disks, ports, nodes of all kinds */
void vm_data(void);       /* the dataset and the file system that shows it */
void vm_tree(void);       /* mounts, and all that is to be found */
void vm_bus(void);        /* the way to nats-server */
void vm_network(void);    /* DNS, the host, other guests */
void vm_shell(void);      /* the same with the programs people have */

/* What is found outside as well, to show that it would be: run by root, harmless. */
void vm_memory_control(void);
void vm_tree_control(void);
void vm_bus_control(void);

#endif
