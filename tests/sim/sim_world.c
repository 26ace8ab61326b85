/* What all seeds share, made once: keys, trust file, datasets, configuration, and databases as they
 * are after the owner put secrets and grants into the KBS. */
#include <inttypes.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "common/keybox.h"
#include "common/seal.h"
#include "svc-kbs/kbs.h"
#include "tests/sim/sim.h"

struct sim_world world;
const char *const host_names[SIM_HOSTS] = {"alpha", "beta"};
const char world_output[] = "mean of column seven: 4.25, canary of an output\n";

char *world_sign(json_t *payload, const struct jkey *by, const char *typ)
{
    char *jws = NULL;

    if (!payload) {
        abort();
    }
    MUST(jws_sign_json(by, typ, 1, payload, &jws, e));
    json_decref(payload);
    return jws;
}

/* ---- keys and trust -------------------------------------------------------------------------- */

static void make_keys(void)
{
    static const char *const dirs[] = {"verifier", "kbs", "gate"};
    struct jkey **own[] = {&world.consumer, &world.other_consumer, &world.owner, &world.reviewer,
                           &world.attacker};
    struct service_keys k[3] = {0};

    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        MUST(jkey_generate(own[i], e));
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *dir = xasprintf("%s/%s", world.dir, dirs[i]);
        unsigned want = i == 0   ? KEYFILE_SIGN
                        : i == 1 ? KEYFILE_SIGN | KEYFILE_SEAL | KEYFILE_KEK
                                 : KEYFILE_SIGN | KEYFILE_SEAL;
        if (mkdir(dir, 0700) < 0) {
            abort();
        }
        MUST(service_keys_load(dir, want, want, &k[i], e));
    }
    world.verifier = jkey_ref(k[0].sign);
    world.kbs_sign = jkey_ref(k[1].sign);
    world.kbs_seal = jkey_ref(k[1].seal);
    world.gate = jkey_ref(k[2].sign);
    world.gate_seal = jkey_ref(k[2].seal);
    for (size_t i = 0; i < ARRAY_LEN(k); i++) {
        service_keys_done(&k[i]);
    }
}

static void write_trust(const char *name, int with_attacker)
{
    _cleanup_free_ char *path = xasprintf("%s/%s", world.dir, name), *text = NULL;
    _cleanup_json_ json_t *j = json_pack(
        "{s:i,s:[o],s:[o],s:o,s:[o],s:o,s:[o]}", "v", 1, "verifier",
        jkey_public_jwk(world.verifier), "kbs", jkey_public_jwk(world.kbs_sign), "kbs_seal",
        jkey_public_jwk(world.kbs_seal), "gate", jkey_public_jwk(world.gate), "gate_seal",
        jkey_public_jwk(world.gate_seal), "reviewers", jkey_public_jwk(world.reviewer));

    if (with_attacker) {
        json_array_append_new(json_object_get(j, "verifier"), jkey_public_jwk(world.attacker));
    }
    MUST(jcs_encode(j, &text, e));
    MUST(file_replace(path, BYTES_STR(text), 0600, e));
}

/* ---- configuration --------------------------------------------------------------------------- */

static struct config_item *with_common(const struct service_def *def, size_t *ret_n)
{
    struct config_item *v = xcalloc(n_config_common + def->n_config, sizeof(*v));

    memcpy(v, config_common, n_config_common * sizeof(*v));
    if (def->n_config) {
        memcpy(v + n_config_common, def->config, def->n_config * sizeof(*v));
    }
    *ret_n = n_config_common + def->n_config;
    return v; /* lives as long as the configuration: to the end */
}

static void make_config(void)
{
    extern const struct service_def scheduler_service, verifier_service, gate_service,
        worker_service;
    _cleanup_free_ char *trust = xasprintf("%s/trust.json", world.dir);
    _cleanup_free_ char *bad_trust = xasprintf("%s/bad-trust.json", world.dir);
    _cleanup_free_ char *verifier = xasprintf("%s/verifier", world.dir);
    _cleanup_free_ char *kbs = xasprintf("%s/kbs", world.dir);
    _cleanup_free_ char *gate = xasprintf("%s/gate", world.dir);
    size_t n;
    struct config_item *v;

    v = with_common(&verifier_service, &n);
    world.config[SVC_VERIFIER] =
        config_make(v, n, "data-dir", verifier, "trust", trust, "allow-sample", "true",
                    "generate-keys", "false", NULL);
    v = with_common(&kbs_service, &n);
    world.config[SVC_KBS] =
        config_make(v, n, "data-dir", kbs, "trust", trust, "generate-keys", "false", NULL);
    world.broken_config[SVC_KBS] =
        config_make(v, n, "data-dir", kbs, "trust", bad_trust, "generate-keys", "false", NULL);
    v = with_common(&gate_service, &n);
    world.config[SVC_GATE] =
        config_make(v, n, "data-dir", gate, "trust", trust, "generate-keys", "false",
                    "hold-timeout-ms", "300000", "result-timeout-ms", "120000", NULL);
    v = with_common(&scheduler_service, &n);
    world.config[SVC_SCHEDULER] = config_make(
        v, n, "queue-timeout-ms", "180000", "launch-timeout-ms", "30000", "attest-timeout-ms",
        "30000", "keys-timeout-ms", "30000", "run-grace-ms", "5000", "seal-timeout-ms", "20000",
        "decision-timeout-ms", "150000", "held-timeout-ms", "600000", "host-gone-ms", "120000",
        "resume-grace-ms", "10000", NULL);
    v = with_common(&worker_service, &n);
    world.config[SVC_WORKER] = config_make(v, n, NULL);
    v = with_common(&launcher_service, &n);
    for (size_t i = 0; i < SIM_HOSTS; i++) {
        world.host_config[i] = config_make(v, n, "host", host_names[i], NULL);
    }
    world.config[SVC_LAUNCHER] = world.host_config[0];
}

/* ---- datasets, grants ------------------------------------------------------------------------ */

static int64_t start_clock(void *arg)
{
    (void)arg;
    return SIM_START_S * 1000;
}

static void command(struct engine *g, json_t *payload, const char *typ)
{
    static unsigned n;
    _cleanup_free_ char *jws = world_sign(payload, world.owner, typ);
    Coffer__V1__OwnerCommand c = COFFER__V1__OWNER_COMMAND__INIT;
    uint8_t packed[16384];
    struct err why = {0};
    enum disposition d;
    struct outgoing o;
    int delay;
    char id[24];

    c.command_jws = jws;
    if (coffer__v1__owner_command__get_packed_size(&c) > sizeof(packed)) {
        abort();
    }
    snprintf(id, sizeof(id), "setup%u", n++);
    struct msg m = {.subject = SUBJ_OWNER_COMMAND,
                    .key = "",
                    .payload = BYTES(packed, coffer__v1__owner_command__pack(&c, packed)),
                    .msg_id = id,
                    .reply_to = "_INBOX.sim",
                    .traceparent = "",
                    .deliveries = 1};
    MUST(engine_begin(g, e));
    MUST(engine_handle(g, &m, &d, &delay, &why, e));
    MUST(engine_commit(g, e));
    if (!engine_next_out(g, &o)) {
        abort();
    }
    Coffer__V1__Reply *r = coffer__v1__reply__unpack(NULL, o.payload.n, o.payload.p);
    if (!r || r->body_case != COFFER__V1__REPLY__BODY_OWNER) {
        fprintf(stderr, "setup: %s\n", r && r->refusal ? r->refusal->message : "no reply");
        abort();
    }
    coffer__v1__reply__free_unpacked(r, NULL);
}

static json_t *box_json(const char *id, const struct secret *key)
{
    _cleanup_free_ char *jwe = NULL;
    json_t *box = NULL;

    MUST(keybox_seal(world.kbs_seal, id, key, &jwe, e));
    MUST(json_parse("jwe", BYTES_STR(jwe), 1u << 16, &box, e));
    return box;
}

static void put_dataset(struct engine *g, enum sim_dataset d, const char *name)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(1u << 16);
    _cleanup_(seal_header_done) struct seal_header h = {0};

    MUST(seal_dataset_header_new(name, "file", "AES-256-GCM", 4096, world.owner, &prefix,
                                 &world.key[d], e));
    MUST(seal_header_parse(buf_bytes(&prefix), &h, e));
    snprintf(world.dataset[d], sizeof(world.dataset[d]), "%s", h.id);
    if (d == DS_UNKNOWN) {
        return;
    }
    _cleanup_free_ char *header = b64url_encode(prefix.p, prefix.n);
    command(g,
            json_pack("{s:i,s:s,s:I,s:s,s:s,s:o}", "v", 1, "cmd", "put-secret", "iat",
                      (json_int_t)SIM_START_S, "kind", "dataset", "header", header, "jwe",
                      box_json(h.id, world.key[d])),
            OWNER_JWS_TYP);
}

static void put_image_key(struct engine *g)
{
    uint8_t raw[16];
    struct jkey *owner = NULL;

    random_bytes(raw, sizeof(raw));
    _cleanup_free_ char *salt = b64url_encode(raw, sizeof(raw));
    _cleanup_json_ json_t *d =
        json_pack("{s:s,s:s,s:o,s:s,s:i}", "kind", "image-key", "name", "layers", "owner",
                  jkey_public_jwk(world.owner), "salt", salt, "v", 1);
    MUST(image_key_id(d, world.image_key, &owner, e));
    jkey_free(owner);
    world.image_secret = secret_random(32);
    command(g,
            json_pack("{s:i,s:s,s:I,s:s,s:O,s:o}", "v", 1, "cmd", "put-secret", "iat",
                      (json_int_t)SIM_START_S, "kind", "image-key", "descriptor", d, "jwe",
                      box_json(world.image_key, world.image_secret)),
            OWNER_JWS_TYP);
}

static void put_grant(struct engine *g, const char *secret, const char *tee, int64_t life_s,
                      char ret_id[32])
{
    uint8_t raw[16];

    random_bytes(raw, sizeof(raw));
    _cleanup_free_ char *id = b64url_encode(raw, sizeof(raw));
    snprintf(ret_id, 32, "%s", id);
    json_t *grant = json_pack(
        "{s:i,s:s,s:s,s:[s],s:[s],s:{s:[s],s:s},s:{s:i,s:i,s:i,s:i},s:[],s:I,s:I}", "v", 1, "id",
        id, "secret", secret, "consumers", jkey_thumbprint(world.consumer), "images",
        "sha256:abababababababababababababababababababababababababababababababab", "tee", "types",
        tee, "status", "affirming", "gate", "holdAt", 20, "rejectAt", 60, "maxVerbatimPercent", 5,
        "maxBytes", 65536, "recipients", "nbf", (json_int_t)SIM_START_S - 10, "exp",
        (json_int_t)(SIM_START_S + life_s));
    _cleanup_free_ char *jws = world_sign(grant, world.owner, GRANT_JWS_TYP);
    command(g,
            json_pack("{s:i,s:s,s:I,s:s}", "v", 1, "cmd", "put-grant", "iat",
                      (json_int_t)SIM_START_S, "grant_jws", jws),
            OWNER_JWS_TYP);
}

static void fill_kbs(void)
{
    struct engine_opts o = {
        .clock = start_clock, .config = world.config[SVC_KBS], .db = world.template[SVC_KBS]};
    struct engine *g = NULL;
    char unused[32];

    MUST(engine_open(&kbs_service, &o, &g, e));
    put_dataset(g, DS_GOOD, "good");
    put_dataset(g, DS_EXPIRING, "expiring");
    put_dataset(g, DS_REVOKED, "revoked");
    put_dataset(g, DS_HARDWARE, "hardware");
    put_dataset(g, DS_UNKNOWN, "unknown");
    put_image_key(g);
    put_grant(g, world.dataset[DS_GOOD], "sample", 86400, world.grant[DS_GOOD]);
    put_grant(g, world.dataset[DS_EXPIRING], "sample", 45, world.grant[DS_EXPIRING]);
    put_grant(g, world.dataset[DS_REVOKED], "sample", 86400, world.grant[DS_REVOKED]);
    put_grant(g, world.dataset[DS_HARDWARE], "tdx", 86400, world.grant[DS_HARDWARE]);
    put_grant(g, world.image_key, "sample", 86400, unused);
    engine_close(g);
}

/* ---- databases ------------------------------------------------------------------------------- */

static void make_template(const struct service_def *def)
{
    struct engine_opts o = {.clock = start_clock, .config = world.config[def->id]};
    struct engine *g = NULL;

    MUST(db_open(":memory:", def->migrations, def->n_migrations, &world.template[def->id], e));
    o.db = world.template[def->id];
    MUST(engine_open(def, &o, &g, e));
    engine_close(g);
}

struct db *world_db(enum service id)
{
    struct db *db = NULL;

    MUST(db_open(":memory:", NULL, 0, &db, e));
    sqlite3_backup *b =
        sqlite3_backup_init(db_handle(db), "main", db_handle(world.template[id]), "main");
    if (!b || sqlite3_backup_step(b, -1) != SQLITE_DONE || sqlite3_backup_finish(b) != SQLITE_OK) {
        fprintf(stderr, "cannot copy a database\n");
        abort();
    }
    return db;
}

static void make_plain(void)
{
    world.plain = BUF_INIT(1u << 16);
    for (unsigned i = 0; world.plain.n < 4096; i++) {
        MUST(buf_addf(&world.plain, e, "patient %04u, %u.%02u, canary of a dataset\n", i,
                      i * 37 % 91, i * 53 % 100));
    }
}

void world_make(void)
{
    extern const struct service_def scheduler_service, verifier_service, gate_service,
        worker_service;
    const char *tmp = getenv("TMPDIR");

    snprintf(world.dir, sizeof(world.dir), "%.90s/coffer-sim-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (!mkdtemp(world.dir)) {
        perror(world.dir);
        exit(2);
    }
    random_seed(0);
    make_keys();
    write_trust("trust.json", 0);
    write_trust("bad-trust.json", 1);
    make_config();
    make_plain();
    make_template(&scheduler_service);
    make_template(&verifier_service);
    make_template(&kbs_service);
    make_template(&gate_service);
    make_template(&worker_service);
    make_template(&launcher_service);
    fill_kbs();
    check_make();
}

void world_done(void)
{
    static const char *const files[] = {"verifier/sign.jwk",
                                        "verifier/sign.pub.jwk",
                                        "kbs/sign.jwk",
                                        "kbs/sign.pub.jwk",
                                        "kbs/seal.jwk",
                                        "kbs/seal.pub.jwk",
                                        "kbs/kek",
                                        "gate/sign.jwk",
                                        "gate/sign.pub.jwk",
                                        "gate/seal.jwk",
                                        "gate/seal.pub.jwk",
                                        "trust.json",
                                        "bad-trust.json",
                                        "verifier",
                                        "kbs",
                                        "gate"};

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", world.dir, files[i]);
        remove(path);
    }
    rmdir(world.dir);
}
