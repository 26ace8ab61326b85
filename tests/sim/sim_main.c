/* sim: runs seeds, in several processes, and says how to replay one that failed. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/sim/sim.h"

#define JOBS_MAX 64
#define TAIL_LINES 60

struct options {
    uint64_t from, to;
    int trace, jobs, twice, stats, tail;
    unsigned within; /* --break: caught within so many seeds */
    enum sim_break brk;
};

static void usage(FILE *f)
{
    fputs(
        "sim --seeds 1..3000 [--jobs 2] [--stats] [--twice]\n"
        "sim --seed 17 --trace       everything that happens\n"
        "sim --break NAME --seeds 1..200   a deliberate fault: exit 0 if an invariant catches it\n"
        "sim --break all             each of them\n"
        "breaks:\n",
        f);
    for (int i = 1; i < BREAK_N; i++) {
        fprintf(f, "  %-14s %s\n", break_names[i], break_texts[i]);
    }
}

static struct sim *new_sim(uint64_t seed, const struct options *o)
{
    struct sim *s = xcalloc(1, sizeof(*s));

    s->seed = seed;
    s->brk = o->brk;
    s->trace = o->trace;
    return s;
}

static void report(struct sim *s, const struct options *o)
{
    size_t n = s->n_lines < ARRAY_LEN(s->lines) ? s->n_lines : ARRAY_LEN(s->lines);
    size_t show = n < (size_t)o->tail ? n : (size_t)o->tail;

    flockfile(stdout);
    printf("seed %" PRIu64 " FAILED: %s\n", s->seed, s->violation);
    for (size_t i = s->n_lines - show; !s->trace && i < s->n_lines; i++) {
        printf("    %s\n", s->lines[i % ARRAY_LEN(s->lines)]);
    }
    printf("  replay: sim --seed %" PRIu64 " --trace%s%s\n", s->seed, o->brk ? " --break " : "",
           o->brk ? break_names[o->brk] : "");
    fflush(stdout);
    funlockfile(stdout);
}

struct totals {
    uint64_t seeds, failed, hash, counts[COUNT_N];
};

static int run_one(uint64_t seed, const struct options *o, struct totals *t)
{
    struct sim *s = new_sim(seed, o);
    int rc = sim_run(s);

    t->seeds++;
    t->hash ^= s->hash * (seed | 1);
    for (int i = 0; i < COUNT_N; i++) {
        t->counts[i] += s->counts[i];
    }
    if (rc < 0) {
        t->failed++;
        report(s, o);
    } else if (o->twice) {
        struct sim *again = new_sim(seed, o);
        again->trace = 0;
        if (sim_run(again) < 0 || again->hash != s->hash || again->now != s->now) {
            printf("seed %" PRIu64 " FAILED: a second run goes another way (%016" PRIx64
                   ", %016" PRIx64 ")\n",
                   seed, s->hash, again->hash);
            t->failed++;
        }
        sim_free(again);
    }
    sim_free(s);
    return rc;
}

static void run_share(const struct options *o, int share, int fd)
{
    struct totals t = {0};

    world_make(); /* here and not before the fork: secrets are not inherited */
    for (uint64_t seed = o->from + (uint64_t)share; seed <= o->to; seed += (uint64_t)o->jobs) {
        run_one(seed, o, &t);
        if (t.failed >= 5) {
            break;
        }
    }
    world_done();
    fflush(stdout);
    if (write(fd, &t, sizeof(t)) != (ssize_t)sizeof(t)) {
        _exit(3);
    }
    _exit(0);
}

static int run_all(const struct options *o, struct totals *all)
{
    int pipes[JOBS_MAX][2];
    pid_t pids[JOBS_MAX];
    int bad = 0;

    fflush(stdout);
    for (int i = 0; i < o->jobs; i++) {
        if (pipe(pipes[i]) < 0 || (pids[i] = fork()) < 0) {
            perror("fork");
            exit(2);
        }
        if (pids[i] == 0) {
            close(pipes[i][0]);
            run_share(o, i, pipes[i][1]);
        }
        close(pipes[i][1]);
    }
    for (int i = 0; i < o->jobs; i++) {
        struct totals t = {0};
        int status = 0;
        if (read(pipes[i][0], &t, sizeof(t)) != (ssize_t)sizeof(t)) {
            fprintf(stderr, "process %d ended early\n", i);
            bad = 1;
        }
        close(pipes[i][0]);
        waitpid(pids[i], &status, 0);
        bad |= status != 0;
        all->seeds += t.seeds;
        all->failed += t.failed;
        all->hash ^= t.hash;
        for (int k = 0; k < COUNT_N; k++) {
            all->counts[k] += t.counts[k];
        }
    }
    return bad || all->failed;
}

/* Until it is caught, one seed after the other. */
static int run_break(struct options *o)
{
    for (uint64_t seed = o->from; seed <= o->to; seed++) {
        struct sim *s = new_sim(seed, o);
        int caught = sim_run(s) < 0;
        if (caught) {
            printf("%-14s caught by seed %-4" PRIu64 " %s\n", break_names[o->brk], seed,
                   s->violation);
        }
        sim_free(s);
        if (caught) {
            return 0;
        }
    }
    printf("%-14s NOT CAUGHT by seeds %" PRIu64 "..%" PRIu64 "\n", break_names[o->brk], o->from,
           o->to);
    return 1;
}

static int run_breaks(struct options *o, int all)
{
    int bad = 0;

    for (int i = all ? 1 : (int)o->brk; i < (all ? BREAK_N : (int)o->brk + 1); i++) {
        struct options one = *o;
        one.brk = (enum sim_break)i;
        bad |= run_break(&one);
    }
    return bad;
}

static void parse_seeds(const char *text, struct options *o)
{
    char *end;

    o->from = o->to = strtoull(text, &end, 10);
    if (end != text && strncmp(end, "..", 2) == 0) {
        text = end + 2;
        o->to = strtoull(text, &end, 10);
    }
    if (end == text || *end || o->from < 1 || o->to < o->from) {
        fprintf(stderr, "sim: seeds: expected N or N..M from 1 on\n");
        exit(2);
    }
}

static enum sim_break parse_break(const char *text, int *ret_all)
{
    *ret_all = streq(text, "all");
    for (int i = 0; i < BREAK_N; i++) {
        if (streq(text, break_names[i])) {
            return (enum sim_break)i;
        }
    }
    if (!*ret_all) {
        usage(stderr);
        exit(2);
    }
    return BREAK_NONE;
}

static int parse(int argc, char **argv, struct options *o, int *ret_all)
{
    static const struct option longs[] = {{"seeds", 1, NULL, 's'}, {"seed", 1, NULL, 's'},
                                          {"trace", 0, NULL, 't'}, {"jobs", 1, NULL, 'j'},
                                          {"break", 1, NULL, 'b'}, {"twice", 0, NULL, 'w'},
                                          {"stats", 0, NULL, 'S'}, {"tail", 1, NULL, 'T'},
                                          {"help", 0, NULL, 'h'},  {NULL, 0, NULL, 0}};
    int c, breaking = 0;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
        switch (c) {
        case 's':
            parse_seeds(optarg, o);
            break;
        case 't':
            o->trace = 1;
            break;
        case 'j':
            o->jobs = atoi(optarg);
            break;
        case 'b':
            o->brk = parse_break(optarg, ret_all);
            breaking = 1;
            break;
        case 'w':
            o->twice = 1;
            break;
        case 'S':
            o->stats = 1;
            break;
        case 'T':
            o->tail = atoi(optarg);
            break;
        default:
            usage(c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (o->jobs < 1 || o->jobs > JOBS_MAX || optind != argc) {
        usage(stderr);
        exit(2);
    }
    return breaking && !o->trace;
}

int main(int argc, char **argv)
{
    struct options o = {.from = 1, .to = 200, .jobs = 2, .tail = TAIL_LINES};
    struct totals t = {0};
    struct timespec a, b;
    int all = 0, breaking = parse(argc, argv, &o, &all), rc;

    setvbuf(stdout, NULL, _IOFBF, 1u << 16);
    random_install();
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (breaking) {
        world_make();
        rc = run_breaks(&o, all);
        world_done();
    } else if (o.from == o.to) {
        world_make();
        run_one(o.from, &o, &t);
        rc = t.failed != 0;
        world_done();
    } else {
        rc = run_all(&o, &t);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double took = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    if (!breaking) {
        printf("%" PRIu64 " seeds, %" PRIu64 " failed, %.1f s, %.1f seeds/s, trace %016" PRIx64
               "\n",
               t.seeds, t.failed, took, (double)t.seeds / took, t.hash);
    }
    for (int i = 0; o.stats && i < COUNT_N; i++) {
        printf("%12" PRIu64 " %s\n", t.counts[i], count_names[i]);
    }
    fflush(stdout);
    return rc;
}
