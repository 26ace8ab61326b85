#include "common/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/fileio.h"

static char dir[] = "/tmp/coffer-secret-XXXXXX";

static int make_dir(void **state _unused_)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state _unused_)
{
    _cleanup_free_ char *cmd = xasprintf("rm -rf '%s'", dir);

    return system(cmd);
}

static char *in_dir(const char *name)
{
    return xasprintf("%s/%s", dir, name);
}

static void starts_as_zeros_and_copies(void **state _unused_)
{
    _cleanup_secret_ struct secret *z = secret_new(5000), *c = secret_from("abc", 3);

    assert_int_equal(secret_n(z), 5000);
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(secret_cp(z)[i], 0);
    }
    assert_int_equal(secret_n(c), 3);
    assert_memory_equal(secret_p(c), "abc", 3);
    secret_free(NULL);
}

static void pages_come_back_wiped(void **state _unused_)
{
    for (int i = 0; i < 200; i++) {
        struct secret *s = secret_new(100);
        for (size_t k = 0; k < 100; k++) {
            assert_int_equal(secret_cp(s)[k], 0);
        }
        memset(secret_p(s), 0xff, 100);
        secret_free(s);
    }
}

/* Locks are not inherited: a child must not get a page that its parent had locked. */
static void a_child_makes_pages_of_its_own(void **state _unused_)
{
    struct secret *s = secret_from("parent", 6);
    const uint8_t *page = secret_cp(s);
    int status;

    secret_free(s);
    pid_t pid = fork();
    if (pid == 0) {
        unsigned char resident;
        /* The spare page is gone from the child. */
        int gone = mincore((void *)(uintptr_t)page, 1, &resident) != 0 && errno == ENOMEM;
        struct secret *own = secret_from("child", 5);
        _exit(gone && memcmp(secret_cp(own), "child", 5) == 0 ? 0 : 1);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    s = secret_from("again", 5);
    assert_memory_equal(secret_cp(s), "again", 5);
    secret_free(s);
}

static void random_secrets_differ(void **state _unused_)
{
    _cleanup_secret_ struct secret *a = secret_random(32), *b = secret_random(32);
    uint8_t x[32] = {0}, y[32] = {0};

    assert_false(secret_eq(a, b));
    random_bytes(x, sizeof(x));
    random_bytes(y, sizeof(y));
    assert_memory_not_equal(x, y, sizeof(x));
}

static void equality_needs_size_and_every_byte(void **state _unused_)
{
    _cleanup_secret_ struct secret *a = secret_from("abcd", 4), *b = secret_from("abcd", 4);
    _cleanup_secret_ struct secret *shorter = secret_from("abc", 3);

    assert_true(secret_eq(a, b));
    assert_false(secret_eq(a, shorter));
    for (size_t i = 0; i < 4; i++) {
        secret_p(b)[i] ^= 1;
        assert_false(secret_eq(a, b));
        secret_p(b)[i] ^= 1;
    }
}

/* The flags of the mapping that holds p, from smaps; "" when it is not found. */
static void vm_flags(const void *p, char *out, size_t size)
{
    _cleanup_fclose_ FILE *f = fopen("/proc/self/smaps", "re");
    unsigned long from, to;
    char line[512];
    int here = 0;

    out[0] = 0;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            here = (uintptr_t)p >= from && (uintptr_t)p < to;
        } else if (here && strncmp(line, "VmFlags:", 8) == 0) {
            snprintf(out, size, "%s", line);
        }
    }
}

static void pages_stay_out_of_core_dumps(void **state _unused_)
{
    _cleanup_secret_ struct secret *s = secret_new(32);
    char flags[512];

    vm_flags(secret_p(s), flags, sizeof(flags));
    assert_true(flags[0] != '\0'); /* Linux tells them from 3.8 on */
    assert_non_null(strstr(flags, " dd"));
}

static void works_without_any_lockable_memory(void **state _unused_)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        if (setrlimit(RLIMIT_MEMLOCK, &none)) {
            _exit(2);
        }
        struct secret *s = secret_from("abc", 3);
        _exit(secret_n(s) == 3 && memcmp(secret_cp(s), "abc", 3) == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int aborts_on(size_t n)
{
    pid_t pid = fork();
    int status = 0;

    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(null, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        secret_free(secret_new(n));
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void impossible_sizes_abort(void **state _unused_)
{
    assert_true(aborts_on(0));
    assert_true(aborts_on((size_t)SECRET_MAX_BYTES + 1));
    assert_false(aborts_on(SECRET_MAX_BYTES));
}

static void files_come_back_and_are_private(void **state _unused_)
{
    _cleanup_free_ char *path = in_dir("key");
    _cleanup_secret_ struct secret *s = secret_random(64), *back = NULL, *other = secret_random(7);
    struct err e = {0};
    struct stat st;

    umask(0);
    assert_int_equal(secret_write_file(path, other, &e), 0);
    assert_int_equal(chmod(path, 0666), 0);
    assert_int_equal(secret_write_file(path, s, &e), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(secret_read_file(path, 64, &back, &e), 0);
    assert_true(secret_eq(s, back));
}

static void reading_refuses_what_others_can_read(void **state _unused_)
{
    static const mode_t modes[] = {0640, 0604, 0620, 0610, 0601, 0644};
    _cleanup_free_ char *path = in_dir("open");
    _cleanup_secret_ struct secret *s = secret_from("x", 1);
    struct secret *back = NULL;
    struct err e = {0};

    assert_int_equal(secret_write_file(path, s, &e), 0);
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        assert_int_equal(chmod(path, modes[i]), 0);
        assert_int_equal(secret_read_file(path, 10, &back, &e), -1);
        assert_int_equal(e.code, ERR_DENIED);
        assert_null(back);
    }
    assert_non_null(strstr(e.msg, "found 0644"));
    assert_non_null(strstr(e.msg, path));
}

static void reading_bounds_the_size(void **state _unused_)
{
    _cleanup_free_ char *path = in_dir("size"), *missing = in_dir("missing");
    struct secret *back = NULL;
    struct err e = {0};

    assert_int_equal(file_replace(path, BYTES("12345", 5), 0600, &e), 0);
    assert_int_equal(secret_read_file(path, 4, &back, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_non_null(strstr(e.msg, "expected at most 4 bytes, found 5"));
    assert_int_equal(file_replace(path, BYTES("", 0), 0600, &e), 0);
    assert_int_equal(secret_read_file(path, 4, &back, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "found an empty file"));
    assert_int_equal(secret_read_file(missing, 4, &back, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_non_null(strstr(e.msg, "No such file or directory"));
    assert_int_equal(secret_read_file(dir, 4, &back, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.msg, "expected a regular file"));
    assert_null(back);
}

static void a_fifo_does_not_hang_the_reader(void **state _unused_)
{
    _cleanup_free_ char *path = in_dir("fifo");
    struct secret *back = NULL;
    struct err e = {0};

    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(secret_read_file(path, 4, &back, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

static void failing_to_replace_leaves_nothing_behind(void **state _unused_)
{
    _cleanup_free_ char *target = in_dir("taken"), *inside = in_dir("taken/x");
    _cleanup_free_ char *nowhere = in_dir("no/such/file");
    _cleanup_free_ char *cmd = xasprintf("ls '%s' | grep -q 'tmp'", dir);
    _cleanup_secret_ struct secret *s = secret_from("x", 1);
    struct err e = {0};

    /* A directory with something in it cannot be renamed over. */
    assert_int_equal(mkdir(target, 0700), 0);
    assert_int_equal(mkdir(inside, 0700), 0);
    assert_int_equal(secret_write_file(target, s, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_non_null(strstr(e.msg, "cannot write "));
    assert_int_not_equal(system(cmd), 0);
    assert_int_equal(secret_write_file(nowhere, s, &e), -1);
    assert_non_null(strstr(e.msg, "cannot create a file beside "));
}

static void a_forked_child_sees_zeros(void **state _unused_)
{
    _cleanup_secret_ struct secret *s = secret_from("0123456789abcdef", 16);
    pid_t pid = fork();

    if (pid == 0) {
        int n = 0;
        for (size_t i = 0; i < secret_n(s); i++) {
            n += secret_cp(s)[i] != 0;
        }
        _exit(n);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_memory_equal(secret_cp(s), "0123456789abcdef", 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_as_zeros_and_copies),
        cmocka_unit_test(pages_come_back_wiped),
        cmocka_unit_test(a_child_makes_pages_of_its_own),
        cmocka_unit_test(a_forked_child_sees_zeros),
        cmocka_unit_test(random_secrets_differ),
        cmocka_unit_test(equality_needs_size_and_every_byte),
        cmocka_unit_test(pages_stay_out_of_core_dumps),
        cmocka_unit_test(works_without_any_lockable_memory),
        cmocka_unit_test(impossible_sizes_abort),
        cmocka_unit_test(files_come_back_and_are_private),
        cmocka_unit_test(reading_refuses_what_others_can_read),
        cmocka_unit_test(reading_bounds_the_size),
        cmocka_unit_test(a_fifo_does_not_hang_the_reader),
        cmocka_unit_test(failing_to_replace_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
