/* The database wrapper: migrations, binding, errors, privacy of the file. */
#include "common/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

static const char *const v1[] = {
    "CREATE TABLE t(k TEXT PRIMARY KEY, n INTEGER CHECK (n >= 0), b BLOB)"};
static const char *const v2[] = {
    "CREATE TABLE t(k TEXT PRIMARY KEY, n INTEGER CHECK (n >= 0), b BLOB)",
    "ALTER TABLE t ADD COLUMN added TEXT NOT NULL DEFAULT 'x'"};
static const char *const broken[] = {"CREATE TABLE t(k TEXT)", "CREATE TABLE u(; "};

static char path[64];

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/coffer-db-XXXXXX");
    int fd = mkstemp(path);
    close(fd);
    return unlink(path);
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static void test_migrations_run_once_and_never_backwards(void **state)
{
    _cleanup_(db_closep) struct db *db = NULL;
    struct err e = {0};
    int64_t n = 0;

    (void)state;
    assert_int_equal(0, db_open(path, v1, 1, &db, &e));
    assert_int_equal(0, db_run(db, &e, "INSERT INTO t VALUES (?, ?, NULL)", "ti", "a", (int64_t)5));
    db_close(TAKE_PTR(db));
    assert_int_equal(0, db_open(path, v2, 2, &db, &e));
    assert_int_equal(0, db_get_int(db, &e, -1, &n, "SELECT n FROM t WHERE added = 'x'", ""));
    assert_int_equal(5, n);
    db_close(TAKE_PTR(db));
    assert_int_equal(-1, db_open(path, v1, 1, &db, &e));
    assert_int_equal(ERR_UNSUPPORTED, e.code);
    assert_non_null(strstr(e.msg, "version 2, this program knows up to 1"));
}

static void test_broken_migration_leaves_the_version_before_it(void **state)
{
    _cleanup_(db_closep) struct db *db = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(-1, db_open(path, broken, 2, &db, &e));
    assert_non_null(strstr(e.msg, "migration 2"));
    assert_int_equal(0, db_open(path, broken, 1, &db, &e));
}

static void test_file_is_private_and_not_shared(void **state)
{
    _cleanup_(db_closep) struct db *db = NULL;
    struct db *second = NULL;
    struct err e = {0};
    struct stat st;

    (void)state;
    assert_int_equal(0, db_open(path, v1, 1, &db, &e));
    assert_int_equal(0, stat(path, &st));
    assert_int_equal(0600, st.st_mode & 0777);
    assert_int_equal(-1, db_open(path, v1, 1, &second, &e));
    assert_int_equal(ERR_BUSY, e.code);
}

static void test_values_come_back_as_they_went(void **state)
{
    _cleanup_(db_closep) struct db *db = NULL;
    struct err e = {0};
    struct db_rows *r = NULL;
    static const char add[] = "INSERT INTO t VALUES (?, ?, ?)";
    static const char get[] = "SELECT k, n, b FROM t ORDER BY k";

    (void)state;
    assert_int_equal(0, db_open(":memory:", v1, 1, &db, &e));
    assert_int_equal(0, db_run(db, &e, add, "tib", "it's", INT64_MAX, BYTES("\0\1\2", 3)));
    assert_int_equal(0, db_run(db, &e, add, "tib", "zero", (int64_t)0, BYTES(NULL, 0)));
    assert_int_equal(0, db_query(db, &e, &r, get, ""));
    assert_int_equal(1, db_next(r, &e));
    assert_string_equal("it's", db_text(r, 0));
    assert_true(db_int(r, 1) == INT64_MAX);
    assert_int_equal(3, db_blob(r, 2).n);
    assert_memory_equal("\0\1\2", db_blob(r, 2).p, 3);

    /* One cursor per statement: using it again too early is an error, not a surprise. */
    struct db_rows *again = NULL;
    assert_int_equal(-1, db_query(db, &e, &again, get, ""));
    assert_non_null(strstr(e.msg, "already in use"));
    assert_int_equal(1, db_next(r, &e));
    assert_int_equal(0, db_blob(r, 2).n);
    assert_false(db_is_null(r, 2));
    assert_int_equal(0, db_next(r, &e));
    db_done(r);
}

static void test_errors_have_codes(void **state)
{
    _cleanup_(db_closep) struct db *db = NULL;
    struct err e = {0};
    static const char add[] = "INSERT INTO t VALUES (?, ?, NULL)";

    (void)state;
    assert_int_equal(0, db_open(":memory:", v1, 1, &db, &e));
    assert_int_equal(0, db_run(db, &e, add, "ti", "a", (int64_t)1));
    assert_int_equal(-1, db_run(db, &e, add, "ti", "a", (int64_t)1));
    assert_int_equal(ERR_WRONG_STATE, e.code);
    assert_int_equal(-1, db_run(db, &e, add, "ti", "b", (int64_t)-1));
    assert_int_equal(ERR_WRONG_STATE, e.code);
    assert_int_equal(-1, db_run(db, &e, add, "t", "b"));
    assert_int_equal(ERR_INTERNAL, e.code);
    assert_int_equal(-1, db_run(db, &e, "SELECT nonsense", ""));
    assert_int_equal(ERR_INTERNAL, e.code);
}

static void test_savepoint_undoes_one_part(void **state)
{
    _cleanup_(db_closep) struct db *db = NULL;
    struct err e = {0};
    int64_t n = 0;
    static const char add[] = "INSERT INTO t VALUES (?, 1, NULL)";

    (void)state;
    assert_int_equal(0, db_open(":memory:", v1, 1, &db, &e));
    assert_int_equal(0, db_begin(db, &e));
    assert_int_equal(0, db_savepoint(db, &e));
    assert_int_equal(0, db_run(db, &e, add, "t", "kept"));
    assert_int_equal(0, db_release(db, &e));
    assert_int_equal(0, db_savepoint(db, &e));
    assert_int_equal(0, db_run(db, &e, add, "t", "undone"));
    db_rollback_to(db);
    assert_true(db_in_transaction(db));
    assert_int_equal(0, db_commit(db, &e));
    assert_int_equal(0, db_get_int(db, &e, -1, &n, "SELECT count(*) FROM t", ""));
    assert_int_equal(1, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_migrations_run_once_and_never_backwards, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_broken_migration_leaves_the_version_before_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_file_is_private_and_not_shared, setup, teardown),
        cmocka_unit_test(test_values_come_back_as_they_went),
        cmocka_unit_test(test_errors_have_codes),
        cmocka_unit_test(test_savepoint_undoes_one_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
