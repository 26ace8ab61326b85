/* What the benches share: time, CPU, percentiles, and the stack that bench_pipeline measures. */
#ifndef COFFER_BENCH_H
#define COFFER_BENCH_H

#include <sys/types.h>

#include "bench/count.h"
#include "common/jose.h"
#include "common/natsconf.h"

/* Ends the program with the error when `x` fails. */
#define MUST(x)                                                                                    \
    do {                                                                                           \
        struct err must_e_ = {0};                                                                  \
        struct err *e = &must_e_;                                                                  \
        (void)e;                                                                                   \
        if (x) {                                                                                   \
            bench_fail(#x, must_e_.msg);                                                           \
        }                                                                                          \
    } while (0)
_Noreturn void bench_fail(const char *what, const char *why);

double now_s(void); /* monotonic */
double thread_cpu_s(void);
double median(double *v, size_t n); /* sorts v */
/* Of sorted values, p in 0..1. */
double percentile(const double *sorted, size_t n, double p);
int by_double(const void *a, const void *b);
/* User and system time of a process; 0 when it is gone. */
double process_cpu_s(pid_t pid);
/* Of children that were waited for. */
double children_cpu_s(void);
void remove_tree(const char *dir);
/* VmHWM or VmRSS of this process in bytes. */
uint64_t self_memory_bytes(const char *field);

/* ---- stack.c: nats-server and the services, as `coffer dev` sets them up ----------------------
 */

#define BENCH_HOST "bench"

struct stack {
    char dir[64];  /* a directory of its own, removed at the end */
    char bin[512]; /* where svc-* are */
    char url[64];
    pid_t nats;
    pid_t role[ROLE_N];        /* ROLE_CLIENT: this process */
    struct count_page *counts; /* mapped */
    struct jkey *kbs_seal;     /* public */
    struct jkey *gate_sign;
};

struct stack *stack_start(const char *bin);
void stack_stop(struct stack *s);
/* The process of a role ended: that fails the bench. */
void stack_check(struct stack *s);
char *stack_path(const struct stack *s, const char *name);
const char *role_name(enum role r);
pid_t spawn_nats(const char *conf, const char *log, uint16_t port);
void kill_and_wait(pid_t pid, int sig);

/* ---- host.c: launcher and workers in one process ----------------------------------------------
 */

int host_main(int argc, char **argv);

#endif
