/* For tests: the whole command, in a directory of its own, with its output in memory. */
#ifndef COFFER_CLI_CLI_TESTING_H
#define COFFER_CLI_CLI_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "common/fileio.h"

static char test_dir[64];
static char test_cwd[4096];

struct ran {
    int code;
    char *out, *err;
};

static inline void ran_done(struct ran *r)
{
    free(r->out);
    free(r->err);
}
#define _cleanup_ran_ _cleanup_(ran_done)

/* Runs `coffer <words of line>`; words hold no spaces. */
static inline struct ran run_line(const char *line)
{
    struct ran r = {0};
    char *argv[64] = {(char *)(uintptr_t) "coffer"}, *save = NULL;
    _cleanup_free_ char *copy = xstrdup(line);
    size_t out_n, err_n;
    int argc = 1;
    FILE *out = open_memstream(&r.out, &out_n), *err = open_memstream(&r.err, &err_n);

    assert_non_null(out);
    assert_non_null(err);
    for (char *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
        assert_true(argc < 63);
        argv[argc++] = p;
    }
    r.code = cli_main(argc, argv, out, err);
    fclose(out);
    fclose(err);
    return r;
}

static inline void assert_ran(const char *line, int code, const char *in_out, const char *in_err)
{
    _cleanup_ran_ struct ran r = run_line(line);

    if (r.code != code || !strstr(r.out, in_out) || !strstr(r.err, in_err)) {
        print_error("coffer %s: %d\n%s%s", line, r.code, r.out, r.err);
    }
    assert_int_equal(r.code, code);
    assert_non_null(strstr(r.out, in_out));
    assert_non_null(strstr(r.err, in_err));
}

static inline int test_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* For cmocka_run_group_tests. */
static inline int test_enter(void **state)
{
    (void)state;
    strcpy(test_dir, "/tmp/coffer cli.XXXXXX");
    if (!getcwd(test_cwd, sizeof(test_cwd)) || !mkdtemp(test_dir) || chdir(test_dir)) {
        return -1;
    }
    setenv("XDG_CONFIG_HOME", test_dir, 1);
    setenv("XDG_DATA_HOME", test_dir, 1);
    unsetenv("COFFER_PROFILE");
    unsetenv("COFFER_DATA");
    unsetenv("COFFER_KEY");
    return 0;
}

static inline int test_leave(void **state)
{
    (void)state;
    return chdir(test_cwd) || nftw(test_dir, test_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void put_file(const char *path, const char *text)
{
    assert_int_equal(file_replace(path, BYTES_STR(text), 0644, NULL), 0);
}

static inline char *get_file(const char *path)
{
    struct buf b = BUF_INIT(1 << 20);

    assert_int_equal(file_read(path, 1 << 20, 0, &b, NULL), 0);
    char *s = xstrndup((char *)b.p, b.n);
    buf_done(&b);
    return s;
}

#endif
