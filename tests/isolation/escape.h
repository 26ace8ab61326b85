/* One program, many ways out. Every probe answers whether the way is open. */
#ifndef COFFER_TESTS_ISOLATION_ESCAPE_H
#define COFFER_TESTS_ISOLATION_ESCAPE_H

/* What the test tells the program about the world outside, through the environment:
 *   ESCAPE_HOST_PORT      a TCP service listening on the host's 127.0.0.1
 *   ESCAPE_HOST_ABSTRACT  name of an abstract unix socket listening on the host
 *   ESCAPE_HOST_PID       a process of the host, of the test's own
 *   ESCAPE_HOST_FILE      a file of the host, readable by all
 *   ESCAPE_HOST_NAMESPACES  the host's, " pid:[1] net:[2] ... "
 *   ESCAPE_HOST_NULL      "dev:ino" of the host's /dev/null
 *   ESCAPE_DATASET, ESCAPE_OUTPUT   mount points
 *   ESCAPE_TMP_BYTES, ESCAPE_OUTPUT_BYTES, ESCAPE_PIDS   the bounds that were asked for
 *   ESCAPE_INSIDE=1       set inside of the sandbox only
 */

/* errno-like: 0 means POSSIBLE; anything else is the error that blocked it. -1: blocked, without an
 * errno to show. */
typedef int (*probe_fn)(void);

struct probe {
    const char *name;
    probe_fn run;
    int control; /* works, and does no harm, when run by root outside of a sandbox */
};

extern const struct probe probes_kernel[]; /* ended by an entry without a name */
extern const struct probe probes_files[];
extern const struct probe probes_world[];
extern const struct probe probes_resources[];

#define BLOCKED (-1)

/* For system calls: 0 if it worked, else errno. */
int verdict(long rc);

#endif
