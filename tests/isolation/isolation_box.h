/* A runner in a child process, as the worker has it, with one program in an otherwise empty root.
 */
#ifndef COFFER_TESTS_ISOLATION_BOX_H
#define COFFER_TESTS_ISOLATION_BOX_H

#include <sys/types.h>

#include "svc-worker/sandbox.h"

#define BOX_OUTPUT_BYTES (2u << 20)
#define BOX_TMP_BYTES (4u << 20)
#define BOX_MEMORY_BYTES (64u << 20)
#define BOX_PIDS 24u

/* What a runner did, in memory it shares with the test. */
struct box {
    const char *args[4];
    int64_t timeout_ms;
    void (*change)(struct sandbox_config *c, const char *work_dir); /* may be NULL; in the runner */
    void (*after)(struct box *b, const char *output_dir);           /* may be NULL; in the runner */
    int no_prepare;

    char id[40];
    char work_dir[64];
    int rc;
    struct sandbox_result result;
    struct err e;
    char out[65536];
    size_t out_bytes;
    int note; /* for `after` */
};

/* The world outside: a listener, an abstract socket, processes, a file; and `escape`'s path. */
void box_world_start(const char *escape_path);
void box_world_stop(void);
/* The environment that tells the program about it, NULL-terminated; inside: with ESCAPE_INSIDE. */
char *const *box_env(const char *id, int inside);
const char *box_escape_path(void);

struct box *box_new(void);
void box_free(struct box *b);
/* Starts the runner and waits for it; asserts that it ended by itself. */
void box_run(struct box *b);
pid_t box_start(struct box *b);
void box_wait(struct box *b, pid_t runner);
/* How many processes carry the box's id in their command line or environment. */
int box_processes(const struct box *b);
/* Asserts that no process, mount or cgroup of it is left. */
void box_assert_gone(const struct box *b);

int errors_tests(void);

#endif
