#include "cli/client.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>

#include "common/fileio.h"

#define NOBODY_TRIES 20
#define NOBODY_WAIT_MS 250

struct client {
    char *dir; /* of the profile */
    char *nats_url, *store;
    struct jkey *identity;
    struct trust *trust;
    struct ev_loop *loop;
    struct bus *bus;
    struct err last; /* why connecting fails */
    client_msg_fn on_msg;
    void *on_msg_arg;
};

static struct client *client_of(struct cli *c)
{
    if (!c->client) {
        c->client = xcalloc(1, sizeof(*c->client));
    }
    return c->client;
}

void client_free(struct client *k)
{
    if (!k) {
        return;
    }
    bus_free(k->bus);
    if (k->loop) {
        ev_loop_destroy(k->loop);
    }
    trust_free(k->trust);
    jkey_free(k->identity);
    free(k->store);
    free(k->nats_url);
    free(k->dir);
    free(k);
}

/* ---- where things are ------------------------------------------------------------------------ */

static const char *env(const char *name)
{
    const char *v = getenv(name);

    return v && v[0] ? v : NULL;
}

/* $<xdg>/coffer, or ~/<below>/coffer. */
static char *xdg_dir(const char *xdg, const char *below)
{
    const char *v = env(xdg), *home = env("HOME");

    return v ? xasprintf("%s/coffer", v) : xasprintf("%s/%s/coffer", home ? home : "", below);
}

char *client_config_dir(void)
{
    return xdg_dir("XDG_CONFIG_HOME", ".config");
}

char *client_image_key_dir(void)
{
    _cleanup_free_ char *dir = client_config_dir();

    return xasprintf("%s/image-keys", dir);
}

char *client_data_dir(struct cli *c)
{
    const char *v = c->verb->flags & VERB_PROFILE ? cli_opt(c, "data") : NULL;

    v = v ? v : env("COFFER_DATA");
    return v ? xstrdup(v) : xdg_dir("XDG_DATA_HOME", ".local/share");
}

char *client_profile_dir(struct cli *c)
{
    const char *v = c->verb->flags & VERB_PROFILE ? cli_opt(c, "profile") : NULL;

    if (v) {
        return xstrdup(v);
    }
    if (!(c->verb->flags & VERB_PROFILE && cli_has(c, "data")) && (v = env("COFFER_PROFILE"))) {
        return xstrdup(v);
    }
    _cleanup_free_ char *data = client_data_dir(c);
    return xasprintf("%s/client", data);
}

char *client_identity_path(struct cli *c)
{
    const char *v = c->verb->flags & VERB_KEY ? cli_opt(c, "key") : NULL;

    v = v ? v : env("COFFER_KEY");
    if (v) {
        return xstrdup(v);
    }
    _cleanup_free_ char *dir = client_config_dir();
    return xasprintf("%s/identity.jwk", dir);
}

/* ---- what is there --------------------------------------------------------------------------- */

int client_identity(struct cli *c, struct jkey **ret, struct err *e)
{
    struct client *k = client_of(c);
    _cleanup_free_ char *path = client_identity_path(c);

    if (!k->identity) {
        if (access(path, F_OK)) {
            cli_hint(c, "coffer keygen   (or --key FILE)");
            return err_set(e, ERR_NOT_FOUND, "there is no identity key at %s", path);
        }
        if (jkey_read_private(path, &k->identity, e)) {
            return err_wrap(e, "identity key");
        }
    }
    *ret = k->identity;
    return 0;
}

static int profile_fill(struct client *k, const json_t *j, struct err *e)
{
    static const char *const members[] = {"v", "nats_url", "store", NULL};
    const char *url, *store = NULL;
    int64_t v;

    if (json_only_keys(j, "profile", members, e) || json_get_int(j, "profile", "v", 1, 1, &v, e) ||
        json_get_str(j, "profile", "nats_url", &url, e) ||
        (json_object_get(j, "store") && json_get_str(j, "profile", "store", &store, e))) {
        return -1;
    }
    k->nats_url = xstrdup(url);
    if (store) {
        k->store = store[0] == '/' ? xstrdup(store) : xasprintf("%s/%s", k->dir, store);
    }
    return 0;
}

static int profile_load(struct cli *c, struct client *k, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(65536);
    _cleanup_json_ json_t *j = NULL;

    if (k->dir) {
        return 0;
    }
    _cleanup_free_ char *dir = client_profile_dir(c);
    _cleanup_free_ char *path = xasprintf("%s/profile.json", dir);
    if (access(path, F_OK)) {
        cli_hint(c, "coffer dev   (starts a stack and writes one; or --profile DIR, --data DIR)");
        return err_set(e, ERR_NOT_FOUND, "there is no profile at %s", dir);
    }
    if (file_read(path, 65536, 0, &text, e) || json_parse(path, buf_bytes(&text), 65536, &j, e)) {
        return -1;
    }
    k->dir = TAKE_PTR(dir);
    if (profile_fill(k, j, e)) {
        free(TAKE_PTR(k->dir));
        return err_wrap(e, "%s", path);
    }
    return 0;
}

int client_trust(struct cli *c, const struct trust **ret, struct err *e)
{
    struct client *k = client_of(c);

    if (!k->trust) {
        if (profile_load(c, k, e)) {
            return -1;
        }
        _cleanup_free_ char *path = xasprintf("%s/trust.json", k->dir);
        if (trust_read(path, &k->trust, e)) {
            return -1;
        }
    }
    *ret = k->trust;
    return 0;
}

int client_store(struct cli *c, const char **ret, struct err *e)
{
    struct client *k = client_of(c);

    *ret = cli_opt(c, "store");
    if (*ret) {
        return 0;
    }
    if (profile_load(c, k, e)) {
        return -1;
    }
    *ret = k->store;
    if (!k->store) {
        cli_hint(c, "--store DIR");
        return err_set(e, ERR_NOT_FOUND, "the profile %s names no local store", k->dir);
    }
    return 0;
}

struct ev_loop *client_loop(struct cli *c)
{
    struct client *k = client_of(c);

    if (!k->loop) {
        k->loop = ev_loop_new(EVFLAG_AUTO);
        if (!k->loop) {
            abort();
        }
    }
    return k->loop;
}

/* ---- the bus --------------------------------------------------------------------------------- */

static void on_event(struct bus *b, enum bus_event ev, const struct err *e, void *arg)
{
    struct cli *c = arg;

    (void)b;
    if (c->verbose || ev == BUS_REFUSED) {
        cli_note(c, "%s%s%s", bus_event_name(ev), e ? ": " : "", e ? e->msg : "");
    }
}

static void on_msg(struct bus *b, struct bus_msg *m, void *arg)
{
    struct cli *c = arg;
    struct client *k = c->client;
    _cleanup_pb_ ProtobufCMessage *pb = NULL;

    (void)b;
    if (k->on_msg && !msg_unpack(&m->m, &pb, NULL)) {
        client_clean(pb);
        k->on_msg(k->on_msg_arg, m->m.subject, pb);
    }
    bus_msg_free(m);
}

void client_on_msg(struct cli *c, client_msg_fn fn, void *arg)
{
    struct client *k = client_of(c);

    k->on_msg = fn;
    k->on_msg_arg = arg;
}

int client_bus(struct cli *c, struct bus **ret, struct err *e)
{
    struct client *k = client_of(c);

    if (!k->bus) {
        if (profile_load(c, k, e)) {
            return -1;
        }
        _cleanup_free_ char *ca = xasprintf("%s/nats-ca.pem", k->dir);
        _cleanup_free_ char *seed = xasprintf("%s/client.seed", k->dir);
        struct bus_opts o = {.url = k->nats_url,
                             .ca_file = ca,
                             .seed_file = seed,
                             .service = SVC_CLIENT,
                             .arg = c,
                             .on_event = on_event,
                             .on_msg = on_msg};
        if (bus_new(&o, client_loop(c), &k->bus, e)) {
            return -1;
        }
        if (bus_wait_connected(k->bus, CLIENT_CONNECT_MS, e)) {
            bus_free(TAKE_PTR(k->bus));
            cli_hint(c, "coffer dev   (is the stack running?)");
            return err_wrap(e, "no connection to %s", k->nats_url);
        }
    }
    *ret = k->bus;
    return 0;
}

int client_refused(struct cli *c, const Coffer__V1__Refusal *r, struct err *e)
{
    struct err why = {0};

    err_from_refusal(e ? e : &why, r);
    snprintf(c->by, sizeof(c->by), "%s", r->by[0] ? r->by : "the service");
    return -1;
}

/* Nobody had the request when the bus says that nobody answers: it can be sent again while the
 * service restarts. */
static int ask_while_nobody_answers(struct cli *c, struct bus *b, enum subject s,
                                    const ProtobufCMessage *m, Coffer__V1__Reply **ret,
                                    struct err *e)
{
    for (int tries = 0; bus_request(b, s, NULL, m, CLIENT_TIMEOUT_MS, ret, e) < 0; tries++) {
        if (e->code != ERR_BUSY || tries == NOBODY_TRIES) {
            return -1;
        }
        if (tries == 1) {
            cli_note(c, "nobody answers %s yet; trying again", subjects[s].name);
        }
        usleep(NOBODY_WAIT_MS * 1000);
    }
    return 0;
}

int client_ask(struct cli *c, enum subject s, const ProtobufCMessage *m,
               Coffer__V1__Reply__BodyCase want, Coffer__V1__Reply **ret, struct err *e)
{
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    struct bus *b;

    if (client_bus(c, &b, e) || ask_while_nobody_answers(c, b, s, m, &r, e)) {
        return -1;
    }
    /* What a result's header and decision say is checked against a signature before it is shown. */
    if (want != COFFER__V1__REPLY__BODY_FETCH || r->body_case != want) {
        client_clean(&r->base);
    }
    if (r->body_case == COFFER__V1__REPLY__BODY_REFUSAL) {
        return client_refused(c, r->refusal, e);
    }
    if (r->body_case != want) {
        return err_set(e, ERR_INVALID, "%s: a reply of another kind", subjects[s].name);
    }
    *ret = TAKE_PTR(r);
    return 0;
}

int client_owner_command(struct cli *c, json_t *payload_steal, json_t **ret, struct err *e)
{
    Coffer__V1__OwnerCommand m = COFFER__V1__OWNER_COMMAND__INIT;
    _cleanup_json_ json_t *payload = payload_steal;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    _cleanup_free_ char *jws = NULL;
    const struct trust *trust;
    struct jkey *key;

    json_object_set_new(payload, "v", json_integer(1));
    json_object_set_new(payload, "iat", json_integer((json_int_t)(now_ms() / 1000)));
    if (client_identity(c, &key, e) ||
        jws_sign_json(key, "coffer-owner+jws", 1, payload, &jws, e)) {
        return -1;
    }
    m.command_jws = jws;
    if (client_trust(c, &trust, e) ||
        client_ask(c, SUBJ_OWNER_COMMAND, &m.base, COFFER__V1__REPLY__BODY_OWNER, &r, e)) {
        return -1;
    }
    if (owner_proof_verify(trust, r->owner->proof_jws, jws, r->owner->json, e)) {
        return err_wrap(e, "the answer is not the KBS's to this command");
    }
    if (json_parse("reply", BYTES_STR(r->owner->json), BUS_REPLY_MAX_BYTES, ret, e)) {
        return -1;
    }
    client_clean_json(*ret);
    return 0;
}

/* ---- jobs by name ---------------------------------------------------------------------------- */

static char *last_job_path(struct cli *c)
{
    _cleanup_free_ char *dir = client_profile_dir(c);

    return xasprintf("%s/last-job", dir);
}

void client_remember_job(struct cli *c, const char *job)
{
    _cleanup_free_ char *path = last_job_path(c);

    /* A convenience: a profile that cannot be written to is fine. */
    (void)file_replace(path, BYTES_STR(job), 0600, NULL);
}

static int last_job(struct cli *c, char ret[JOB_ID_LEN + 1], struct err *e)
{
    _cleanup_free_ char *path = last_job_path(c);
    _cleanup_buf_ struct buf text = BUF_INIT(64);

    if (file_read(path, 64, 0, &text, NULL) || !text.n || !job_id_valid((char *)text.p)) {
        return err_set(e, ERR_NOT_FOUND, "@last: no job was submitted with this profile yet");
    }
    memcpy(ret, text.p, JOB_ID_LEN + 1);
    return 0;
}

int client_find_job(struct cli *c, const char *name, char ret[JOB_ID_LEN + 1], struct err *e)
{
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    Coffer__V1__ListJobs list = COFFER__V1__LIST_JOBS__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;
    const char *found = NULL;
    char none[] = "";

    if (streq(name, "@last")) {
        return last_job(c, ret, e);
    }
    if (job_id_valid(name)) {
        memcpy(ret, name, JOB_ID_LEN + 1);
        return 0;
    }
    if (strlen(name) < 4 || strlen(name) >= JOB_ID_LEN) {
        return err_set(e, ERR_INVALID,
                       "job: expected its id, the first 4 or more characters of it, or @last, "
                       "found \"%.60s\"",
                       name);
    }
    list.limit = 500;
    list.state = list.consumer = none;
    q.what_case = COFFER__V1__JOB_QUERY__WHAT_LIST;
    q.list = &list;
    if (client_ask(c, SUBJ_JOB_QUERY, &q.base, COFFER__V1__REPLY__BODY_QUERY, &r, e)) {
        return -1;
    }
    for (size_t i = 0; i < r->query->n_jobs; i++) {
        const char *job = r->query->jobs[i]->job;
        if (strncmp(job, name, strlen(name)) != 0 || !job_id_valid(job)) {
            continue;
        }
        if (found) {
            return err_set(e, ERR_INVALID, "job: \"%s\" fits more than one: %s and %s", name, found,
                           job);
        }
        found = job;
    }
    if (!found) {
        cli_hint(c, "coffer ps -a");
        return err_set(e, ERR_NOT_FOUND, "job: no job's id begins with \"%s\"", name);
    }
    memcpy(ret, found, JOB_ID_LEN + 1);
    return 0;
}

int client_job_status(struct cli *c, const char *job, Coffer__V1__Reply **ret, struct err *e)
{
    Coffer__V1__JobQuery q = COFFER__V1__JOB_QUERY__INIT;
    _cleanup_reply_ Coffer__V1__Reply *r = NULL;

    q.what_case = COFFER__V1__JOB_QUERY__WHAT_STATUS;
    q.status = (char *)(uintptr_t)job;
    if (client_ask(c, SUBJ_JOB_QUERY, &q.base, COFFER__V1__REPLY__BODY_QUERY, &r, e)) {
        return -1;
    }
    if (r->query->n_jobs != 1 || !streq(r->query->jobs[0]->job, job)) {
        return err_set(e, ERR_INVALID, "%s: the scheduler's answer is about another job", job);
    }
    *ret = TAKE_PTR(r);
    return 0;
}
