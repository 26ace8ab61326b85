#include "svc-scheduler/sched_test.h"

static struct host make_host(int64_t id, int64_t slots, const char *name, const char *tee)
{
    struct host h = {.id = id, .slots = slots, .cpu_millis = 8000, .memory_bytes = 1ll << 33};

    snprintf(h.name, sizeof(h.name), "h%lld", (long long)id);
    if (name) {
        h.n_backends = 1;
        snprintf(h.backends[0].name, sizeof(h.backends[0].name), "%s", name);
        snprintf(h.backends[0].tee, sizeof(h.backends[0].tee), "%s", tee);
    }
    return h;
}

static struct job make_job(enum tee_mode mode, const char *types)
{
    struct job j = {.tee_mode = mode, .cpu_millis = 1000, .memory_bytes = 1 << 20};

    snprintf(j.tee_types, sizeof(j.tee_types), "%s", types);
    return j;
}

static int pick(struct host *v, size_t n, const struct job *j, int64_t waited, struct placement *p,
                struct err *why)
{
    struct host_list l = {.v = v, .n = n, .size = n};
    struct host *h = NULL;

    return place_pick(&l, j, waited, 30000, p, &h, why);
}

static void required_never_falls_back(void **state)
{
    struct host v[] = {make_host(1, 4, "process", "sample"), make_host(2, 4, "vtpm", "vtpm")};
    struct job j = make_job(TEE_REQUIRED, "snp tdx");
    struct placement p;
    struct err why;

    (void)state;
    assert_int_equal(pick(v, 2, &j, 1 << 30, &p, &why), -1);
    assert_int_equal(why.code, ERR_UNSUPPORTED);
    assert_string_equal(why.msg, "tee: expected snp tdx, got no such backend on 2 hosts");
    /* A word is not a prefix of another. */
    j = make_job(TEE_REQUIRED, "vtpm2 vtp");
    assert_int_equal(pick(v, 2, &j, 1 << 30, &p, &why), -1);
    j = make_job(TEE_REQUIRED, "snp vtpm");
    assert_int_equal(pick(v, 2, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h2");
    assert_string_equal(p.backend, "vtpm");
    assert_int_equal(p.downgraded, 0);
}

static void preferred_falls_back_and_says_so(void **state)
{
    struct host v[] = {make_host(1, 9, "process", "sample"), make_host(2, 4, "vtpm", "vtpm"),
                       make_host(3, 4, "tdx", "tdx")};
    struct job j = make_job(TEE_PREFERRED, "tdx");
    struct placement p;
    struct err why;

    (void)state;
    assert_int_equal(pick(v, 3, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h3");
    assert_int_equal(p.downgraded, 0);
    v[2].used_slots = 4; /* in use: worth a wait, but not for ever */
    assert_int_equal(pick(v, 3, &j, 29999, &p, &why), -1);
    assert_int_equal(why.code, ERR_BUSY);
    assert_int_equal(pick(v, 3, &j, 30000, &p, &why), 0);
    assert_string_equal(p.host, "h2"); /* sample comes last although it has more slots */
    assert_int_equal(p.downgraded, 1);
    assert_int_equal(pick(v, 2, &j, 0, &p, &why), 0); /* not there at all: no wait */
    assert_string_equal(p.host, "h2");
    assert_int_equal(p.downgraded, 1);
    assert_int_equal(pick(v, 1, &j, 0, &p, &why), 0);
    assert_string_equal(p.backend, "process");
    assert_int_equal(p.downgraded, 1);
}

/* A virtual TPM keeps nobody out: it is never taken for what was asked for, unless it was. */
static void vtpm_is_no_hardware(void **state)
{
    struct host v[] = {make_host(1, 9, "vtpm", "vtpm"), make_host(2, 9, "process", "sample"),
                       make_host(3, 1, "snp", "snp")};
    struct placement p;
    struct err why;

    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        struct job j = make_job(mode ? TEE_PREFERRED : TEE_REQUIRED, "vtpm snp");
        v[2].used_slots = 0;
        assert_int_equal(pick(v, 3, &j, 0, &p, &why), 0);
        assert_string_equal(p.host, "h3"); /* although the other has more slots, and comes first */
        assert_int_equal(p.downgraded, 0);
        v[2].used_slots = 1;
        assert_int_equal(pick(v, 3, &j, 0, &p, &why), -1);
        assert_int_equal(why.code, ERR_BUSY);
        assert_int_equal(pick(v, 3, &j, 30000, &p, &why), 0);
        assert_string_equal(p.host, "h1"); /* it was named */
        assert_int_equal(p.downgraded, mode);
    }
    struct job only = make_job(TEE_PREFERRED, "vtpm");
    assert_int_equal(pick(v, 3, &only, 0, &p, &why), 0);
    assert_string_equal(p.host, "h1");
    assert_int_equal(p.downgraded, 0);
    struct job fall = make_job(TEE_PREFERRED, "tdx");
    assert_int_equal(pick(v, 2, &fall, 0, &p, &why), 0);
    assert_string_equal(p.host, "h1");
    assert_int_equal(p.downgraded, 1);
    struct job required = make_job(TEE_REQUIRED, "tdx snp");
    assert_int_equal(pick(v, 2, &required, 1 << 30, &p, &why), -1);
    assert_int_equal(why.code, ERR_UNSUPPORTED);
}

static void none_takes_any_with_most_slots(void **state)
{
    struct host v[] = {make_host(1, 2, "vtpm", "vtpm"), make_host(2, 5, "process", "sample"),
                       make_host(3, 3, "tdx", "tdx"), make_host(4, 99, NULL, NULL)};
    struct job j = make_job(TEE_NONE, "");
    struct placement p;
    struct err why;

    (void)state;
    assert_int_equal(pick(v, 4, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h2");
    assert_int_equal(p.downgraded, 0);
    v[1].used_slots = 3;
    assert_int_equal(pick(v, 4, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h3");
    v[2].reserved = 1;
    v[0].used_cpu_millis = 7500;
    assert_int_equal(pick(v, 4, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h2");
}

static void size_counts(void **state)
{
    struct host v[] = {make_host(1, 4, "vtpm", "vtpm")};
    struct job j = make_job(TEE_NONE, "");
    struct placement p;
    struct err why;

    (void)state;
    j.memory_bytes = (1ll << 33) + 1;
    assert_int_equal(pick(v, 1, &j, 0, &p, &why), -1);
    assert_int_equal(why.code, ERR_UNSUPPORTED);
    assert_string_equal(why.msg, "resources: expected a host that is large enough, got 1000 mCPU "
                                 "and 8589934593 bytes asked for");
    j.memory_bytes = 1ll << 33;
    assert_int_equal(pick(v, 1, &j, 0, &p, &why), 0);
    v[0].used_memory_bytes = 1;
    assert_int_equal(pick(v, 1, &j, 0, &p, &why), -1);
    assert_int_equal(why.code, ERR_BUSY);
    assert_string_equal(why.msg,
                        "host: expected a free slot, CPU and memory, got all 1 hosts in use");
    assert_int_equal(pick(v, 0, &j, 0, &p, &why), -1);
    assert_string_equal(why.msg, "host: expected a host that reports, got none");
}

static void a_retry_goes_elsewhere(void **state)
{
    struct host v[] = {make_host(1, 9, "vtpm", "vtpm"), make_host(2, 1, "vtpm", "vtpm")};
    struct job j = make_job(TEE_REQUIRED, "vtpm");
    struct placement p;
    struct err why;

    (void)state;
    j.attempt = 1;
    j.host_id = 1;
    assert_int_equal(pick(v, 2, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h2");
    v[1].used_slots = 1;
    assert_int_equal(pick(v, 2, &j, 0, &p, &why), 0);
    assert_string_equal(p.host, "h1"); /* better than nowhere */
}

static void shapes(void **state)
{
    int64_t a = place_shape(TEE_REQUIRED, "tdx", 1000, 1 << 20);

    (void)state;
    assert_true(a >= 0);
    assert_int_equal(a, place_shape(TEE_REQUIRED, "tdx", 1001, (1 << 20) - 1));
    assert_int_not_equal(a, place_shape(TEE_PREFERRED, "tdx", 1000, 1 << 20));
    assert_int_not_equal(a, place_shape(TEE_REQUIRED, "snp", 1000, 1 << 20));
    assert_int_not_equal(a, place_shape(TEE_REQUIRED, "tdx", 2000, 1 << 20));
    assert_int_not_equal(a, place_shape(TEE_REQUIRED, "tdx", 1000, (1 << 20) + 1));
    assert_true(place_shape(TEE_NONE, "", INT64_MAX, INT64_MAX) > 0);
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void oldest_first_and_capacity(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    char id[5][JOB_ID_LEN + 1];

    (void)state;
    for (int i = 0; i < 5; i++) {
        fix_schedule(f, &WANT, id[i]);
    }
    fix_tick(f);
    fix_report(f, "h1", 2, "process:sample");
    fix_tick(f);
    assert_state(f, id[0], "launching");
    assert_state(f, id[1], "launching");
    assert_state(f, id[2], "queued");
    fix_cvm(f, id[0], 1, "h1", CVM(EXITED), "done");
    fix_tick(f);
    assert_state(f, id[2], "queued"); /* exited is not destroyed */
    fix_cvm(f, id[0], 1, "h1", CVM(DESTROYED), "done");
    fix_tick(f);
    assert_state(f, id[2], "launching");
    assert_state(f, id[3], "queued");
    fix_cvm(f, id[0], 1, "h1", CVM(DESTROYED), "done"); /* twice frees once */
    fix_tick(f);
    assert_state(f, id[3], "queued");
    fix_free(f);
}

static void what_cannot_be_placed_blocks_nobody(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    struct want tdx = WANT;
    char blocked[JOB_ID_LEN + 1], id[JOB_ID_LEN + 1];

    (void)state;
    tdx.types = "[\"tdx\"]";
    fix_schedule(f, &tdx, blocked);
    fix_schedule(f, &WANT, id);
    fix_report(f, "h1", 2, "process:sample");
    fix_tick(f);
    assert_state(f, blocked, "queued");
    assert_state(f, id, "launching");
    fix_report(f, "h2", 2, "tdx:tdx");
    fix_tick(f);
    assert_state(f, blocked, "launching");
    fix_free(f);
}

static void a_large_job_is_not_starved(void **state)
{
    struct fix *f = fix_new(":memory:", NULL);
    struct want large = WANT;
    char big[JOB_ID_LEN + 1], a[JOB_ID_LEN + 1], b[JOB_ID_LEN + 1];

    (void)state;
    large.cpu = 4000;
    fix_report(f, "h1", 4, "process:sample");
    fix_schedule(f, &WANT, a);
    fix_tick(f);
    assert_state(f, a, "launching");
    fix_schedule(f, &large, big);
    fix_tick(f);
    f->now += 31000;
    fix_report(f, "h1", 4, "process:sample");
    fix_schedule(f, &WANT, b);
    fix_tick(f);
    assert_state(f, big, "queued");
    assert_state(f, b, "queued"); /* the host is kept for the older one */
    fix_cvm(f, a, 1, "h1", CVM(DESTROYED), "done");
    fix_tick(f);
    assert_state(f, big, "launching");
    fix_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(required_never_falls_back),
        cmocka_unit_test(preferred_falls_back_and_says_so),
        cmocka_unit_test(vtpm_is_no_hardware),
        cmocka_unit_test(none_takes_any_with_most_slots),
        cmocka_unit_test(size_counts),
        cmocka_unit_test(a_retry_goes_elsewhere),
        cmocka_unit_test(shapes),
        cmocka_unit_test(oldest_first_and_capacity),
        cmocka_unit_test(what_cannot_be_placed_blocks_nobody),
        cmocka_unit_test(a_large_job_is_not_starved),
    };
    return cmocka_run_group_tests_name("scheduler placement", tests, NULL, NULL);
}
