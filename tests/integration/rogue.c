/* rogue DIR: what somebody with a stolen credential can do to the stack of `coffer dev --data DIR`.
 *
 * With each service's own nkey it publishes to every subject of the table and to JetStream's API:
 * what the table does not allow must be refused by nats-server; where it is allowed, garbage goes
 * in (empty, random, cut-off and nearly right messages, over the cap, hostile reply addresses). The
 * caller then looks whether every service still lives and works. Exit status 0: all as it must be.
 */
#include <jansson.h>
#include <nats/nats.h>
#include <pthread.h>
#include <time.h>

#include "common/buf.h"
#include "common/natsconf.h"
#include "common/nkey.h"

#define HOST "dev"
#define WAIT_MS 5000
#define JOB "jabcdefghijklmnopqrstuvwxyz"

struct rogue {
    natsConnection *nc;
    const char *who;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned violations;
    char last[512];
};

static unsigned checks, failures;

static void fail(const struct rogue *r, const char *what, const char *subject, const char *got)
{
    failures++;
    fprintf(stderr, "rogue: as %s: %s %s: %s\n", r->who, what, subject, got);
}

static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus s, void *arg)
{
    struct rogue *r = arg;
    const char *text = NULL;

    (void)sub;
    natsConnection_GetLastError(nc, &text);
    if (s != NATS_NOT_PERMITTED) {
        return;
    }
    pthread_mutex_lock(&r->lock);
    r->violations++;
    snprintf(r->last, sizeof(r->last), "%s", text ? text : "");
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static unsigned violations(struct rogue *r)
{
    pthread_mutex_lock(&r->lock);
    unsigned n = r->violations;
    pthread_mutex_unlock(&r->lock);
    return n;
}

/* Waits until there were more than `before`; 0 when the time passed. */
static int wait_violation(struct rogue *r, unsigned before, char *last, size_t size)
{
    struct timespec until;
    int more;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    pthread_mutex_lock(&r->lock);
    while (r->violations <= before && pthread_cond_timedwait(&r->changed, &r->lock, &until) == 0) {
    }
    more = r->violations > before;
    snprintf(last, size, "%s", r->last);
    pthread_mutex_unlock(&r->lock);
    return more;
}

static int connect_as(struct rogue *r, const char *dir, enum service svc, const char *url)
{
    _cleanup_free_ char *nats = xasprintf("%s/nats", dir), *ca = xasprintf("%s/ca.pem", nats);
    _cleanup_free_ char *seed = natsconf_seed_path(nats, svc, HOST);
    _cleanup_secret_ struct secret *secret = NULL;
    char key[NKEY_PUBLIC_CHARS + 1];
    natsOptions *o = NULL;
    struct err e = {0};

    if (nkey_read_seed(seed, &secret, &e) < 0 || nkey_public(secret, key, &e) < 0) {
        fprintf(stderr, "rogue: %s\n", e.msg);
        return -1;
    }
    natsStatus s = natsOptions_Create(&o);
    s = s ? s : natsOptions_SetURL(o, url);
    s = s ? s : natsOptions_SetSecure(o, true);
    s = s ? s : natsOptions_LoadCATrustedCertificates(o, ca);
    s = s ? s : natsOptions_SetExpectedHostname(o, "localhost");
    s = s ? s : natsOptions_SetNKeyFromSeed(o, key, seed);
    s = s ? s : natsOptions_SetErrorHandler(o, on_error, r);
    /* The library's own signature is now and then not taken (seen with 3.4.1); ours always is. */
    for (int i = 0; i < 5 && s == NATS_OK && !r->nc; i++) {
        natsStatus c = natsConnection_Connect(&r->nc, o);
        s = c != NATS_OK && i == 4 ? c : s;
    }
    natsOptions_Destroy(o);
    if (s) {
        fprintf(stderr, "rogue: cannot connect as %s: %s\n", r->who, natsStatus_GetText(s));
        return -1;
    }
    return 0;
}

static void must_be_refused(struct rogue *r, const char *subject)
{
    unsigned before = violations(r);
    char last[512];

    checks++;
    natsConnection_Publish(r->nc, subject, "x", 1);
    natsConnection_FlushTimeout(r->nc, WAIT_MS);
    if (!wait_violation(r, before, last, sizeof(last))) {
        fail(r, "could publish to", subject, "no violation was reported");
    } else if (!strcasestr(last, subject)) {
        fail(r, "publish to", subject, last);
    }
}

static void must_not_subscribe(struct rogue *r, const char *subject)
{
    unsigned before = violations(r);
    natsSubscription *sub = NULL;
    char last[512];

    checks++;
    natsConnection_SubscribeSync(&sub, r->nc, subject);
    natsConnection_FlushTimeout(r->nc, WAIT_MS);
    if (!wait_violation(r, before, last, sizeof(last))) {
        fail(r, "could subscribe to", subject, "no violation was reported");
    }
    natsSubscription_Destroy(sub);
}

/* ---- garbage
 * ------------------------------------------------------------------------------------- */

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint8_t noise(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(seed >> 56);
}

static void send(struct rogue *r, const char *subject, const char *reply, const char *msg_id,
                 const char *reply_to, const void *p, size_t n)
{
    natsMsg *m = NULL;

    if (natsMsg_Create(&m, subject, reply, p, (int)n) != NATS_OK) {
        return;
    }
    if (msg_id) {
        natsMsgHeader_Set(m, "Nats-Msg-Id", msg_id);
    }
    if (reply_to) {
        natsMsgHeader_Set(m, "Coffer-Reply-To", reply_to);
        natsMsgHeader_Set(m, "Coffer-Job", "../../etc/passwd\x01");
        natsMsgHeader_Set(m, "Coffer-Attempt", "99999999999999999999");
        natsMsgHeader_Set(m, "traceparent", "00-zz");
    }
    natsConnection_PublishMsg(r->nc, m);
    natsMsg_Destroy(m);
}

static void garbage(struct rogue *r, const struct subject_info *i, const char *subject)
{
    /* Field 1, length 200, nothing after it; then a job id and a wrong type after it. */
    static const uint8_t cut[] = {0x0a, 0xc8, 0x01, 'j'};
    static const uint8_t wrong[] = "\x0a\x1b" JOB "\x10\x01\x1a\xff\xff\xff\xff\x0f";
    static const char text[] = "\x0a\x1b" JOB "\x10\x01";
    _cleanup_free_ uint8_t *big = xmalloc(i->max_bytes + 1);
    char id[96];
    static unsigned n;

    for (size_t k = 0; k <= i->max_bytes; k++) {
        big[k] = noise();
    }
    const struct {
        const void *p;
        size_t n;
    } all[] = {{"", 0},
               {big, 1},
               {big, 97},
               {cut, sizeof(cut)},
               {wrong, sizeof(wrong) - 1},
               {text, sizeof(text) - 1},
               {big, i->max_bytes > 4096 ? 4096 : i->max_bytes},
               {big, i->max_bytes + 1}};
    for (size_t k = 0; k < ARRAY_LEN(all); k++) {
        snprintf(id, sizeof(id), "rogue.%u", n++);
        send(r, subject, NULL, NULL, NULL, all[k].p, all[k].n);
        send(r, subject, NULL, id, NULL, all[k].p, all[k].n);
        snprintf(id, sizeof(id), JOB ".1.%u", n++);
        send(r, subject, "coffer.v1.owner.command", id, "coffer.v1.job.cancel", all[k].p, all[k].n);
        send(r, subject, "$JS.API.STREAM.DELETE.COFFER_SCHED", NULL, "_INBOX_kbs.x", all[k].p,
             all[k].n);
    }
    natsConnection_FlushTimeout(r->nc, WAIT_MS);
}

static void subject_of(const struct subject_info *i, enum service svc, char *out, size_t size)
{
    const char *key = JOB;

    if (streq(i->key, "host")) {
        key = HOST;
    } else if (streq(i->key, "service")) {
        key = service_name(svc);
    }
    snprintf(out, size, i->key[0] ? "%s.%s" : "%s", i->name, key);
}

static void attack_subjects(struct rogue *r, enum service svc)
{
    char subject[160];

    for (int s = 0; s < SUBJ_N; s++) {
        subject_of(&subjects[s], svc, subject, sizeof(subject));
        if (!(subjects[s].from & 1u << svc)) {
            must_be_refused(r, subject);
        } else {
            unsigned before = violations(r);
            checks++;
            garbage(r, &subjects[s], subject);
            /* Refusals come in order, so after this one any earlier one is known. */
            must_be_refused(r, "coffer.v1.nothing");
            if (violations(r) != before + 1) {
                fail(r, "may publish to", subject, "but was refused");
            }
        }
    }
    /* A service reports its own dead letters, and a launcher speaks for its own host. */
    must_be_refused(r, svc == SVC_KBS ? "coffer.v1.dead.gate" : "coffer.v1.dead.kbs");
    must_be_refused(r, "coffer.v1.host.report.another");
}

static void attack_server(struct rogue *r, enum service svc)
{
    static const char *const verbs[] = {"STREAM.CREATE", "STREAM.DELETE", "STREAM.PURGE",
                                        "STREAM.MSG.DELETE", "STREAM.MSG.GET"};
    char subject[160];

    for (int s = 0; s < STREAM_N; s++) {
        for (size_t v = 0; v < ARRAY_LEN(verbs); v++) {
            snprintf(subject, sizeof(subject), "$JS.API.%s.%s", verbs[v], streams[s].name);
            must_be_refused(r, subject);
        }
    }
    for (size_t c = 0; c < n_consumers; c++) {
        snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.DELETE.%s.%s",
                 streams[consumers[c].stream].name, consumers[c].durable);
        must_be_refused(r, subject);
        if (consumers[c].service != svc) {
            char durable[96];
            snprintf(durable, sizeof(durable), "%s%s", consumers[c].durable,
                     consumers[c].per_host ? "-" HOST : "");
            snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.MSG.NEXT.%s.%s",
                     streams[consumers[c].stream].name, durable);
            must_be_refused(r, subject);
            snprintf(subject, sizeof(subject), "$JS.ACK.%s.%s.1.1.1.1.1",
                     streams[consumers[c].stream].name, durable);
            must_be_refused(r, subject);
        }
    }
    must_be_refused(r, "$SYS.REQ.SERVER.PING");
    must_not_subscribe(r, ">");
    must_not_subscribe(r, "coffer.>");
    must_not_subscribe(r, "coffer.v1.*.*");
    must_not_subscribe(r, "_INBOX_admin.>");
    must_not_subscribe(r, svc == SVC_KBS ? "_INBOX_client.>" : "_INBOX_kbs.>");
    must_not_subscribe(r, "$JS.>");
    for (int s = 0; s < SUBJ_N; s++) {
        if (!(subjects[s].to & 1u << svc)) {
            subject_of(&subjects[s], svc, subject, sizeof(subject));
            must_not_subscribe(r, subject);
        }
    }
}

static char *read_url(const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s/client/profile.json", dir);
    json_t *j = json_load_file(path, 0, NULL);
    const char *url = json_string_value(json_object_get(j, "nats_url"));
    const char *colon = url ? strrchr(url, ':') : NULL;
    char *ret = colon ? xasprintf("nats://localhost%s", colon) : NULL;

    json_decref(j);
    return ret;
}

int main(int argc, char **argv)
{
    _cleanup_free_ char *url = argc == 2 ? read_url(argv[1]) : NULL;

    if (!url) {
        fprintf(stderr, "usage: rogue DIR (of a running coffer dev)\n");
        return 2;
    }
    for (int s = 0; s < SVC_N; s++) {
        struct rogue r = {.who = service_name((enum service)s),
                          .lock = PTHREAD_MUTEX_INITIALIZER,
                          .changed = PTHREAD_COND_INITIALIZER};
        unsigned before = checks;
        if (connect_as(&r, argv[1], (enum service)s, url) < 0) {
            return 1;
        }
        attack_subjects(&r, (enum service)s);
        attack_server(&r, (enum service)s);
        natsConnection_Close(r.nc);
        natsConnection_Destroy(r.nc);
        printf("%s: %u checks\n", r.who, checks - before);
    }
    printf("%u checks, %u failures\n", checks, failures);
    fflush(NULL);
    /* The library's threads and OpenSSL's exit handlers get in each other's way. */
    _exit(failures ? 1 : 0);
}
