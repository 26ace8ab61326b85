/* The invariants of DESIGN §6, by their numbers. */
#include <inttypes.h>
#include <openssl/evp.h>

#include "common/result.h"
#include "tests/sim/sim.h"

/* More than all that can keep a fact from the scheduler: faults end before. */
#define HEARD_WITHIN_MS 200000
#define SETTLE_MS 45000 /* longer than the last redelivery */

/* ---- 6: canaries ----------------------------------------------------------------------------- */

struct needle {
    const char *name;
    uint8_t *p;
    size_t n;
};
static struct needle needles[160];
static size_t n_needles;
static uint8_t first_two[65536 / 8];

static void add_needle(const char *name, const void *p, size_t n)
{
    struct needle *d = &needles[n_needles++];

    if (n_needles > ARRAY_LEN(needles) || n < 8) {
        abort();
    }
    *d = (struct needle){.name = name, .p = xmemdup(p, n), .n = n};
    unsigned k = (unsigned)d->p[0] << 8 | d->p[1];
    first_two[k / 8] |= (uint8_t)(1u << (k % 8));
}

/* Raw, in hex, and in both base64 alphabets at each of the three alignments. */
static void add_canary(const char *name, const void *p, size_t n)
{
    uint8_t shifted[64 + 2] = {0};
    char *hex = hex_encode(p, n);

    add_needle(name, p, n);
    add_needle(name, hex, strlen(hex));
    free(hex);
    for (size_t pad = 0; pad < 3; pad++) {
        memcpy(shifted + pad, p, n);
        char *a = b64_encode(shifted, n + pad), *b = b64url_encode(shifted, n + pad);
        size_t from = (pad * 8 + 5) / 6, to = (n + pad) * 8 / 6;
        add_needle(name, a + from, to - from);
        if (memcmp(a + from, b + from, to - from) != 0) {
            add_needle(name, b + from, to - from);
        }
        free(a);
        free(b);
    }
}

void check_make(void)
{
    _cleanup_free_ char *path = xasprintf("%s/kbs/kek", world.dir);
    _cleanup_secret_ struct secret *kek = NULL;

    for (int i = 0; i < DS_N; i++) {
        add_canary("a dataset's key", secret_cp(world.key[i]), secret_n(world.key[i]));
    }
    add_canary("an image's key", secret_cp(world.image_secret), secret_n(world.image_secret));
    MUST(secret_read_file(path, 4096, &kek, e));
    add_canary("the KEK", secret_cp(kek), secret_n(kek) > 48 ? 48 : secret_n(kek));
    add_canary("an output", world_output, 40);
    add_canary("a dataset", world.plain.p, 40);
    add_canary("a dataset", world.plain.p + 256, 40);
}

const char *check_canary(struct bytes b)
{
    for (size_t i = 0; i + 8 <= b.n; i++) {
        unsigned k = (unsigned)b.p[i] << 8 | b.p[i + 1];
        if (!(first_two[k / 8] >> (k % 8) & 1)) {
            continue;
        }
        for (size_t d = 0; d < n_needles; d++) {
            if (needles[d].n <= b.n - i && memcmp(needles[d].p, b.p + i, needles[d].n) == 0) {
                return needles[d].name;
            }
        }
    }
    return NULL;
}

static void scan_db(struct node *n)
{
    sqlite3_int64 size = 0;
    unsigned char *p = sqlite3_serialize(db_handle(n->db), "main", &size, 0);
    const char *found = p ? check_canary(BYTES(p, (size_t)size)) : "no database";

    sqlite3_free(p);
    if (found) {
        sim_fail(n->sim, "6: %s is in the database of %s", found, n->name);
    }
}

/* ---- 1: releases ----------------------------------------------------------------------------- */

static json_t *jws_claims(const char *jws)
{
    _cleanup_buf_ struct buf payload = BUF_INIT(1u << 20);
    json_t *j = NULL;

    return result_manifest_peek(jws, &payload, NULL) == 0 &&
                   json_parse("claims", buf_bytes(&payload), 1u << 20, &j, NULL) == 0
               ? j
               : NULL;
}

static void see_verdict(struct sim *s, const struct outgoing *o)
{
    Coffer__V1__Verdict *v = coffer__v1__verdict__unpack(NULL, o->payload.n, o->payload.p);
    _cleanup_json_ json_t *c = v->ear[0] ? jws_claims(v->ear) : NULL;
    struct jkey *cnf = NULL;

    if (c) {
        if (s->n_verdicts == s->size_verdicts) {
            s->size_verdicts = s->size_verdicts ? s->size_verdicts * 2 : 16;
            s->verdicts = xrealloc(s->verdicts, s->size_verdicts * sizeof(*s->verdicts));
        }
        struct verdict_seen *seen = &s->verdicts[s->n_verdicts++];
        *seen = (struct verdict_seen){
            .attempt = v->attempt,
            .exp = json_integer_value(json_object_get(c, "exp")),
            .affirming =
                streq(json_string_value(json_object_get(
                          json_object_get(json_object_get(c, "submods"), "cpu0"), "ear.status")),
                      "affirming")};
        MUST(jkey_from_jwk(json_object_get(json_object_get(c, "cnf"), "jwk"), &cnf, e));
        snprintf(seen->job, sizeof(seen->job), "%s", v->job);
        snprintf(seen->cnf, sizeof(seen->cnf), "%s", jkey_thumbprint(cnf));
        snprintf(seen->jti, sizeof(seen->jti), "%s", json_string_value(json_object_get(c, "jti")));
        jkey_free(cnf);
    }
    coffer__v1__verdict__free_unpacked(v, NULL);
}

static void check_basis(struct sim *s, const Coffer__V1__ReleaseKey *r, const char *cnf,
                        const char *jti, int64_t iat)
{
    for (size_t i = 0; i < s->n_verdicts; i++) {
        const struct verdict_seen *v = &s->verdicts[i];
        if (!streq(v->job, r->job) || v->attempt != r->attempt || !streq(v->jti, jti)) {
            continue;
        }
        if (!streq(v->cnf, cnf)) {
            sim_fail(s, "1: keys of %s.%u to another key than its verdict's cnf", r->job,
                     r->attempt);
        }
        if (!v->affirming) {
            sim_fail(s, "1: keys of %s.%u for a verdict that is not affirming", r->job, r->attempt);
        }
        if (iat >= v->exp) {
            sim_fail(s, "1: keys of %s.%u for an expired verdict", r->job, r->attempt);
        }
        return;
    }
    sim_fail(s, "1: keys of %s.%u for a verdict that the verifier never gave", r->job, r->attempt);
}

/* Nobody but the one worker opens it. */
static void check_opens(struct sim *s, const Coffer__V1__ReleaseKey *r, const char *cnf)
{
    struct secret *plain = NULL;

    if (jwe_decrypt(world.attacker, r->jwe, 1u << 18, &plain, NULL) == 0) {
        sim_fail(s, "1: an attacker opens the keys of %s.%u", r->job, r->attempt);
    }
    for (size_t i = 0; i < s->n_cvms; i++) {
        const struct cvm_run *c = s->cvms[i];
        const struct jkey *k = worker_public_key(c);
        if (!k || !jkey_is_private(k)) {
            continue;
        }
        int opens = jwe_decrypt(k, r->jwe, 1u << 18, &plain, NULL) == 0;
        secret_free(TAKE_PTR(plain));
        if (opens != streq(jkey_thumbprint(k), cnf)) {
            sim_fail(s, "1: the worker of %s.%u on %s %s the keys of %s.%u", c->job, c->attempt,
                     c->launcher->name, opens ? "opens" : "cannot open", r->job, r->attempt);
        }
    }
}

static void see_release(struct sim *s, const struct outgoing *o)
{
    Coffer__V1__ReleaseKey *r = coffer__v1__release_key__unpack(NULL, o->payload.n, o->payload.p);
    uint8_t digest[32];

    if (!r->jwe[0]) {
        coffer__v1__release_key__free_unpacked(r, NULL);
        return;
    }
    _cleanup_json_ json_t *c = jws_claims(r->release_jws);
    const char *cnf = json_string_value(json_object_get(c, "cnf"));
    EVP_Digest(r->jwe, strlen(r->jwe), digest, NULL, EVP_sha256(), NULL);
    for (size_t i = 0; i < s->n_releases; i++) {
        const struct release_seen *old = &s->releases[i];
        if (streq(old->job, r->job) && old->attempt == r->attempt) {
            if (memcmp(old->jwe_sha256, digest, 32) != 0 || !streq(old->cnf, cnf)) {
                sim_fail(s, "1: keys of %s.%u are released twice", r->job, r->attempt);
            }
            coffer__v1__release_key__free_unpacked(r, NULL);
            return;
        }
    }
    check_basis(s, r, cnf, json_string_value(json_object_get(c, "jti")),
                json_integer_value(json_object_get(c, "iat")));
    if (s->counts[COUNT_RELEASES] % 4 == 0) {
        check_opens(s, r, cnf);
    }
    if (s->n_releases == s->size_releases) {
        s->size_releases = s->size_releases ? s->size_releases * 2 : 16;
        s->releases = xrealloc(s->releases, s->size_releases * sizeof(*s->releases));
    }
    struct release_seen *seen = &s->releases[s->n_releases++];
    *seen = (struct release_seen){.attempt = r->attempt};
    snprintf(seen->job, sizeof(seen->job), "%s", r->job);
    snprintf(seen->cnf, sizeof(seen->cnf), "%s", cnf);
    memcpy(seen->jwe_sha256, digest, 32);
    s->counts[COUNT_RELEASES]++;
    coffer__v1__release_key__free_unpacked(r, NULL);
}

void check_release_used(struct cvm_run *c, const struct secret *release, int *ret_genuine)
{
    struct sim *s = c->sim;
    int any = 0;

    *ret_genuine = 0;
    if (!release) {
        sim_fail(s, "1: the worker of %s.%u runs without keys", c->job, c->attempt);
    }
    for (int i = 0; i < DS_N; i++) {
        char *key = b64url_encode(secret_cp(world.key[i]), secret_n(world.key[i]));
        any |= memmem(secret_cp(release), secret_n(release), key, strlen(key)) != NULL;
        free(key);
    }
    if (!any) {
        return;
    }
    for (size_t i = 0; i < s->n_releases; i++) {
        const struct release_seen *r = &s->releases[i];
        if (streq(r->job, c->job) && r->attempt == c->attempt && streq(r->cnf, c->thumbprint)) {
            *ret_genuine = 1;
            return;
        }
    }
    sim_fail(s, "1: a worker of %s.%u has keys that were not released to it", c->job, c->attempt);
}

/* ---- 2, 3, 4: what the services say ---------------------------------------------------------- */

/* An end that is the gate's to say was said by the gate, of this attempt. */
static void check_decided(struct sim *s, const struct sim_job *j, const Coffer__V1__JobEvent *ev)
{
    uint64_t bit = UINT64_C(1) << (ev->attempt % 64);
    uint64_t said = streq(ev->state, "released")   ? j->released_attempts
                    : streq(ev->state, "rejected") ? j->rejected_attempts
                                                   : bit;

    if (streq(ev->state, "timed-out") && j->final_ms && j->final_attempt == ev->attempt &&
        s->now - j->final_ms > HEARD_WITHIN_MS) {
        sim_fail(s, "3: job %zu timed out %" PRId64 " s after the gate decided it", j->index,
                 (s->now - j->final_ms) / 1000);
    }
    if (!(said & bit)) {
        sim_fail(s, "4: job %zu is %s by attempt %u, which the gate did not say of it", j->index,
                 ev->state, ev->attempt);
    }
}

static void see_event(struct sim *s, const struct outgoing *o)
{
    Coffer__V1__JobEvent *ev = coffer__v1__job_event__unpack(NULL, o->payload.n, o->payload.p);
    struct sim_job *j = sim_job_find(s, ev->job);

    if (!j) {
        sim_fail(s, "3: an event of a job that nobody submitted");
    }
    if ((int64_t)ev->seq > j->last_seq) {
        if ((int64_t)ev->seq != j->last_seq + 1) {
            sim_fail(s, "3: event %" PRIu64 " of job %zu comes after %" PRId64, ev->seq, j->index,
                     j->last_seq);
        }
        if (j->terminal) {
            sim_fail(s, "3: job %zu is %s after it was %s", j->index, ev->state, j->state);
        }
        if (!streq(j->state, ev->previous)) {
            sim_fail(s, "3: job %zu was %s, the event says %s", j->index, j->state, ev->previous);
        }
        j->last_seq = (int64_t)ev->seq;
        snprintf(j->state, sizeof(j->state), "%s", ev->state);
        sim_trace(s, "scheduler", "   job %zu.%u is %s%s%s %s", j->index, ev->attempt, ev->state,
                  ev->detail[0] ? ", " : "", ev->detail, ev->reason ? ev->reason->message : "");
        if (ev->terminal) {
            j->terminal = 1;
            j->terminal_attempt = ev->attempt;
            if (ev->attempt != j->max_attempt) {
                sim_fail(s, "4: attempt %u ended job %zu, the latest is %" PRId64, ev->attempt,
                         j->index, j->max_attempt);
            }
            check_decided(s, j, ev);
            s->counts[streq(ev->state, "released") ? COUNT_RELEASED : COUNT_OTHER_END]++;
        }
    }
    coffer__v1__job_event__free_unpacked(ev, NULL);
}

static void see_decision(struct sim *s, const struct outgoing *o)
{
    Coffer__V1__GateDecision *d =
        coffer__v1__gate_decision__unpack(NULL, o->payload.n, o->payload.p);
    struct sim_job *j = sim_job_find(s, d->job);

    if (j && (int64_t)d->attempt < j->max_attempt) {
        s->counts[COUNT_STALE]++;
    }
    if (!j) {
        sim_fail(s, "2: a decision about a job that nobody submitted");
    }
    uint64_t bit = UINT64_C(1) << (d->attempt % 64);
    if (d->outcome != COFFER__V1__GATE_OUTCOME__GATE_HELD &&
        j->final_attempt != (int64_t)d->attempt) {
        j->final_attempt = d->attempt;
        j->final_ms = s->now;
    }
    switch (d->outcome) {
    case COFFER__V1__GATE_OUTCOME__GATE_RELEASED:
        j->released_attempts |= bit;
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_HELD:
        j->held_attempts |= bit;
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_REJECTED:
        j->rejected_attempts |= bit;
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_FAILED:
        j->failed_attempts |= bit;
        break;
    case COFFER__V1__GATE_OUTCOME__GATE_UNKNOWN:
    case _COFFER__V1__GATE_OUTCOME_IS_INT_SIZE:
        break;
    }
    if (d->outcome == COFFER__V1__GATE_OUTCOME__GATE_RELEASED &&
        j->decided_attempt < (int64_t)d->attempt) {
        if (j->workload != WL_OK && !(j->workload == WL_VERBATIM && j->review == REVIEW_APPROVE)) {
            sim_fail(s, "2: output of job %zu (%s) is released", j->index, j->plan);
        }
        j->decided_attempt = d->attempt;
    }
    if (d->outcome == COFFER__V1__GATE_OUTCOME__GATE_HELD &&
        j->held_attempt < (int64_t)d->attempt) {
        j->held_attempt = d->attempt;
        s->counts[COUNT_HELD]++;
    }
    coffer__v1__gate_decision__free_unpacked(d, NULL);
}

static void see_launch(struct sim *s, const struct outgoing *o)
{
    Coffer__V1__LaunchCvm *l = coffer__v1__launch_cvm__unpack(NULL, o->payload.n, o->payload.p);
    struct sim_job *j = sim_job_find(s, l->job);

    if (j && (int64_t)l->attempt > j->max_attempt) {
        j->max_attempt = l->attempt;
        if (j->max_attempt > j->attempts) {
            sim_fail(s, "4: job %zu gets attempt %u of %" PRId64, j->index, l->attempt,
                     j->attempts);
        }
    }
    coffer__v1__launch_cvm__free_unpacked(l, NULL);
}

void check_out(struct node *n, const struct outgoing *o)
{
    struct sim *s = n->sim;
    enum subject subject;
    const char *key, *found = check_canary(o->payload);

    if (found) {
        sim_fail(s, "6: %s is in what %s publishes on %s", found, n->name, o->subject);
    }
    if (o->is_reply || subject_parse(o->subject, &subject, &key) < 0) {
        return;
    }
    unsigned as = s->brk == BREAK_FOREIGN && n->id == SVC_GATE ? SVC_KBS : n->id;
    if (!(subjects[subject].from & (1u << as))) {
        sim_fail(s, "%s may not publish on %s", n->name, o->subject);
    }
    if (subject == SUBJ_VERDICT) {
        see_verdict(s, o);
    } else if (subject == SUBJ_KEY_RELEASE) {
        see_release(s, o);
    } else if (subject == SUBJ_JOB_EVENT) {
        see_event(s, o);
    } else if (subject == SUBJ_GATE_DECISION) {
        see_decision(s, o);
    } else if (subject == SUBJ_CVM_LAUNCH) {
        see_launch(s, o);
    }
}

void check_wire(struct sim *s, const char *who, const struct wire *w)
{
    const char *found = check_canary(BYTES(w->payload->p, w->payload->n));

    if (found) {
        sim_fail(s, "6: %s is in what %s carries on %s", found, who, subjects[w->subject].name);
    }
}

static int64_t count_rows(struct node *n, const char *sql)
{
    sqlite3_stmt *st = NULL;
    int64_t v = -1;

    if (sqlite3_prepare_v2(db_handle(n->db), sql, -1, &st, NULL) != SQLITE_OK) {
        sim_fail(n->sim, "the tables of %s are not what the simulator knows: %s", n->name,
                 sqlite3_errmsg(db_handle(n->db)));
    }
    if (sqlite3_step(st) == SQLITE_ROW) {
        v = sqlite3_column_int64(st, 0);
    }
    sqlite3_finalize(st);
    return v;
}

/* What may be fetched has been decided, by the last word on it. */
void check_commit(struct node *n)
{
    static const char undecided[] =
        "SELECT count(*) FROM released r WHERE 1 IS NOT (SELECT d.outcome FROM decision d WHERE"
        " d.job = r.job AND d.attempt = r.attempt ORDER BY d.revision DESC LIMIT 1)";
    static const char held[] = "SELECT count(*) FROM released r JOIN result q ON q.job = r.job AND"
                               " q.attempt = r.attempt WHERE q.state <> 3";
    static const char stale[] =
        "SELECT count(*) FROM decision d JOIN fence f ON f.job = d.job AND f.attempt > d.attempt"
        " JOIN result q ON q.job = d.job AND q.attempt = d.attempt AND q.state IN (1, 2)";

    static const char leaked[] =
        "SELECT count(*) FROM host h WHERE used_slots <> (SELECT count(*) FROM attempt a WHERE"
        " a.host_id = h.id AND a.live = 1)";

    if (n->id == SVC_SCHEDULER && count_rows(n, leaked)) {
        sim_fail(n->sim, "the scheduler counts other slots in use than it has CVMs");
    }
    if (n->id != SVC_GATE) {
        return;
    }
    if (n->sim->brk == BREAK_HELD_LEAKS) {
        sqlite3_exec(db_handle(n->db),
                     "INSERT OR IGNORE INTO released SELECT job, attempt, '{}', 0, 1 << 60"
                     " FROM result WHERE state = 2",
                     NULL, NULL, NULL);
    }
    if (count_rows(n, undecided)) {
        sim_fail(n->sim, "2: the gate has an output to fetch without a decision to release it");
    }
    if (count_rows(n, held)) {
        sim_fail(n->sim, "2: the gate has an output to fetch that is held or worse");
    }
    if (count_rows(n, stale)) {
        sim_fail(n->sim, "4: the gate has an open result of an attempt that a newer one replaced");
    }
}

/* ---- 7: all rows ----------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++) {
        h = (h ^ b[i]) * 1099511628211u;
    }
    return h;
}

static uint64_t dump_table(struct node *n, const char *table, uint64_t h)
{
    _cleanup_free_ char *sql = xasprintf("SELECT * FROM \"%s\"", table);
    sqlite3_stmt *st = NULL;

    if (sqlite3_prepare_v2(db_handle(n->db), sql, -1, &st, NULL) != SQLITE_OK) {
        sim_fail(n->sim, "%s: %s", n->name, sqlite3_errmsg(db_handle(n->db)));
    }
    while (sqlite3_step(st) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(st); i++) {
            int type = sqlite3_column_type(st, i), size = sqlite3_column_bytes(st, i);
            h = mix(h, &type, sizeof(type));
            h = mix(h, &size, sizeof(size));
            h = mix(h, sqlite3_column_blob(st, i), (size_t)sqlite3_column_bytes(st, i));
        }
    }
    sqlite3_finalize(st);
    return h;
}

uint64_t check_dump(struct node *n)
{
    uint64_t h = 14695981039346656037u;
    sqlite3_stmt *st = NULL;

    if (sqlite3_prepare_v2(db_handle(n->db),
                           "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name", -1,
                           &st, NULL) != SQLITE_OK) {
        sim_fail(n->sim, "%s: %s", n->name, sqlite3_errmsg(db_handle(n->db)));
    }
    while (sqlite3_step(st) == SQLITE_ROW) {
        h = dump_table(n, (const char *)sqlite3_column_text(st, 0), h);
    }
    sqlite3_finalize(st);
    return h;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Nothing waits to be published, and no place is held for a CVM that is gone. */
static int drained(struct sim *s)
{
    struct node *all[] = {s->scheduler, s->verifier, s->kbs, s->gate, s->hosts[0], s->hosts[1]};

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (!all[i]->engine || engine_unpublished(all[i]->engine)) {
            return 0;
        }
    }
    return count_rows(s->scheduler, "SELECT count(*) FROM attempt WHERE live = 1") == 0;
}

int check_settled(struct sim *s)
{
    int open = cvms_alive(s) > 0;

    for (size_t i = 0; i < s->n_jobs && !open; i++) {
        const struct sim_job *j = &s->jobs[i];
        open = !j->terminal || (j->decided_attempt && !j->fetched);
    }
    open = open || !drained(s);
    if (open) {
        s->settled_ms = 0;
    } else if (!s->settled_ms) {
        s->settled_ms = s->now;
    }
    return !open && s->now >= s->settled_ms + SETTLE_MS;
}

static int compare_event(const Coffer__V1__JobEvent *a, const struct stored *b)
{
    size_t n = coffer__v1__job_event__get_packed_size(a);
    _cleanup_free_ uint8_t *packed = xmalloc(n);

    coffer__v1__job_event__pack(a, packed);
    return n == b->wire.payload->n && memcmp(packed, b->wire.payload->p, n) == 0;
}

/* What anybody who reads the stream sees: 1 to the last, each with one content. */
static void check_stream(struct sim *s, const struct sim_job *j)
{
    const struct js *js = &s->streams[STREAM_EVENT];

    for (int64_t seq = 1; seq <= j->last_seq; seq++) {
        Coffer__V1__JobEvent *first = NULL;
        char id[64];
        int same = 1;
        snprintf(id, sizeof(id), "%s.e%" PRId64, j->job, seq);
        for (size_t i = 0; i < js->n; i++) {
            if (!streq(js->v[i].wire.msg_id, id)) {
                continue;
            }
            if (first) {
                same &= compare_event(first, &js->v[i]);
            } else {
                first = coffer__v1__job_event__unpack(NULL, js->v[i].wire.payload->n,
                                                      js->v[i].wire.payload->p);
            }
        }
        if (!first) {
            sim_fail(s, "3: event %" PRId64 " of job %zu never came", seq, j->index);
        }
        int last = first->terminal;
        coffer__v1__job_event__free_unpacked(first, NULL);
        if (!same || last != (seq == j->last_seq)) {
            sim_fail(s, "3: event %" PRId64 " of job %zu has two contents, or ends too soon", seq,
                     j->index);
        }
    }
}

static void check_job(struct sim *s, const struct sim_job *j)
{
    _cleanup_free_ char *sql = xasprintf(
        "SELECT last_seq FROM job WHERE job = '%s' AND state >= 6 AND deadline_ms = 0", j->job);

    if (!j->last_seq) {
        sim_fail(s, "3: job %zu (%s) was never accepted", j->index, j->plan);
    }
    if (!j->terminal) {
        sim_fail(s, "3: stuck: job %zu (%s) is still %s", j->index, j->plan, j->state);
    }
    if (count_rows(s->scheduler, sql) != j->last_seq) {
        sim_fail(s, "3: job %zu ended, its row says otherwise", j->index);
    }
    check_stream(s, j);
    if (j->expected && !streq(j->expected, j->state)) {
        sim_fail(s, "job %zu (%s) ended %s instead of %s, and nothing went wrong", j->index,
                 j->plan, j->state, j->expected);
    }
    if (streq(j->state, "released") && !j->fetched) {
        sim_fail(s, "2: the output of job %zu was released and cannot be had", j->index);
    }
}

void check_end(struct sim *s)
{
    struct node *all[] = {s->scheduler, s->verifier, s->kbs, s->gate, s->hosts[0], s->hosts[1]};

    for (size_t i = 0; i < s->n_jobs; i++) {
        check_job(s, &s->jobs[i]);
    }
    for (size_t i = 0; i < s->n_cvms; i++) {
        const struct cvm_run *c = s->cvms[i];
        if (c->alive) {
            sim_fail(s, "5: the CVM of %s.%u lives on %s, its job is over", c->job, c->attempt,
                     c->launcher->name);
        }
    }
    if (!drained(s)) {
        sim_fail(s, "5: stuck: an outbox is not empty, or a place is held for a CVM that is gone");
    }
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        scan_db(all[i]);
    }
    for (size_t i = 0; i < s->n_workers; i++) {
        scan_db(s->workers[i]);
    }
}
