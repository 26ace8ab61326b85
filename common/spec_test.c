#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <regex.h>

#include "common/spec_fields.h"

/* A spec whose digest and id were computed by another implementation (Python's json, hashlib and
 * base64): see docs/JOB-SPEC.md. */
static const char vector[] =
    "{\"apiVersion\":\"coffer/v1\",\"kind\":\"Job\","
    "\"metadata\":{\"name\":\"mean-age\",\"nonce\":\"0123456789abcdef\"},"
    "\"workload\":{\"image\":"
    "\"sha256:abababababababababababababababababababababababababababababababab\","
    "\"encrypted\":true,\"imageKeys\":[\"kbs:///default/image/mean-age\"],"
    "\"args\":[\"--group-by\",\"r\\u00e9gion\",\"a\\\"b\\\\c\\n\\t\"],"
    "\"env\":{\"ZONE\":\"eu\",\"LANG\":\"C.UTF-8\"},\"workdir\":\"/work\"},"
    "\"datasets\":[{\"id\":\"patients.abcdefghijklmnopqrstuvwxyz\",\"mount\":\"/data/patients\"},"
    "{\"id\":\"visits-2023.234567abcdefghijklmnopqrst\",\"mount\":\"/data/visits\"}],"
    "\"tee\":{\"mode\":\"preferred\",\"types\":[\"snp\",\"tdx\"]},"
    "\"resources\":{\"cpuMillis\":1500,\"memoryBytes\":536870912,\"pids\":32,\"tmpBytes\":0,"
    "\"scratchBytes\":1073741824,\"lockMemory\":false,\"hugepages\":\"none\",\"numaNode\":-1,"
    "\"cpuPinning\":false},"
    "\"timeoutMs\":90000,\"attempts\":3,\"network\":\"none\","
    "\"output\":{\"path\":\"/output\",\"maxBytes\":65536,"
    "\"files\":[{\"path\":\"mean.csv\",\"type\":\"text/csv\"},"
    "{\"path\":\"log/run.txt\",\"type\":\"text/plain\"}],"
    "\"recipients\":[{\"crv\":\"P-256\",\"kty\":\"EC\","
    "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]},"
    "\"gate\":{\"holdAt\":20,\"rejectAt\":60,\"maxVerbatimPercent\":5}}";
static const char vector_digest[] =
    "d0921942aa9a1e87765c7cfca3584b3793f2246c2d44555c2f0a7ac1e7adbdc2";
static const char vector_id[] = "j2cjbsqvktipio5s4pt6kgwclg6";

static json_t *load(const char *text)
{
    struct err e = {0};
    json_t *j = NULL;

    if (json_parse("spec", BYTES_STR(text), 1 << 20, &j, &e) < 0) {
        fail_msg("%s: %s", text, e.msg);
    }
    return j;
}

/* Replaces (or, without a value, removes) what is at a path such as "output.files[1].path". */
static void put_at(json_t *j, const char *path, json_t *value)
{
    for (;;) {
        size_t n = strcspn(path, ".[");
        char key[64];
        snprintf(key, sizeof(key), "%.*s", (int)n, path);
        path += n;
        if (!*path) {
            assert_int_equal(value ? json_object_set_new(j, key, value) : json_object_del(j, key),
                             0);
            return;
        }
        j = json_object_get(j, key);
        assert_non_null(j);
        if (*path == '[') {
            char *end;
            size_t i = strtoul(path + 1, &end, 10);
            path = end + 1;
            if (!*path) {
                assert_int_equal(value ? json_array_set_new(j, i, value) : json_array_remove(j, i),
                                 0);
                return;
            }
            j = json_array_get(j, i);
            assert_non_null(j);
        }
        path++;
    }
}

static void vector_has_its_digest_and_id(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(vector);
    _cleanup_spec_ struct spec *s = NULL;
    struct err e = {0};

    if (spec_from_json(j, &s, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal(s->digest_hex, vector_digest);
    assert_string_equal(s->job_id, vector_id);
    assert_true(job_id_valid(s->job_id));
    assert_string_equal(s->name, "mean-age");
    assert_int_equal(s->encrypted, 1);
    assert_int_equal(s->n_image_keys, 1);
    assert_string_equal(s->image_keys[0], "kbs:///default/image/mean-age");
    assert_int_equal(s->n_args, 3);
    assert_string_equal(s->args[2], "a\"b\\c\n\t");
    assert_int_equal(s->n_env, 2);
    assert_string_equal(s->env[0], "LANG=C.UTF-8");
    assert_string_equal(s->env[1], "ZONE=eu");
    assert_string_equal(s->workdir, "/work");
    assert_int_equal(s->n_datasets, 2);
    assert_string_equal(s->datasets[1].id, "visits-2023.234567abcdefghijklmnopqrst");
    assert_string_equal(s->datasets[1].mount, "/data/visits");
    assert_int_equal(s->tee_mode, TEE_PREFERRED);
    assert_int_equal(s->n_tee_types, 2);
    assert_string_equal(s->tee_types[0], "snp");
    assert_int_equal(s->cpu_millis, 1500);
    assert_int_equal(s->memory_bytes, 536870912);
    assert_int_equal(s->pids, 32);
    assert_int_equal(s->tmp_bytes, 0);
    assert_int_equal(s->scratch_bytes, 1 << 30);
    assert_int_equal(s->lock_memory, 0);
    assert_int_equal(s->hugepages, SPEC_HUGE_NONE);
    assert_int_equal(s->numa_node, -1);
    assert_int_equal(s->cpu_pinning, 0);
    assert_int_equal(s->timeout_ms, 90000);
    assert_int_equal(s->attempts, 3);
    assert_string_equal(s->output_path, "/output");
    assert_int_equal(s->output_max_bytes, 65536);
    assert_int_equal(s->n_files, 2);
    assert_string_equal(s->files[1].path, "log/run.txt");
    assert_string_equal(s->files[1].type, "text/plain");
    assert_int_equal(s->n_recipients, 1);
    assert_false(jkey_is_private(s->recipients[0]));
    assert_int_equal(s->gate_hold_at, 20);
    assert_int_equal(s->gate_reject_at, 60);
    assert_int_equal(s->gate_max_verbatim_percent, 5);
}

struct bad_case {
    const char *path;
    const char *value; /* JSON; NULL: the member is removed */
    const char *msg;
};

#define B64_43 "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
#define JWK_Y "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"

static const struct bad_case bad_cases[] = {
    /* members */
    {"x", "1",
     "spec.x: expected one of apiVersion, kind, metadata, workload, datasets, tee, resources, "
     "timeoutMs, attempts, network, output, gate, found \"x\""},
    {"timeout", "1",
     "spec.timeout: expected a known field (did you mean timeoutMs?), found "
     "\"timeout\""},
    {"workload.imgae", "1",
     "spec.workload.imgae: expected a known field (did you mean image?), found \"imgae\""},
    {"output.files[1].mode", "1",
     "spec.output.files[1].mode: expected one of path, type, found "
     "\"mode\""},
    {"timeoutMs", NULL, "spec.timeoutMs: expected an integer in 1000..604800000, found nothing"},
    {"metadata.nonce", NULL, "spec.metadata.nonce: expected a string, found nothing"},
    {"workload.env", NULL, "spec.workload.env: expected an object, found nothing"},
    {"datasets", NULL, "spec.datasets: expected a list, found nothing"},
    {"network", NULL, "spec.network: expected none, found nothing"},
    /* version and kind */
    {"apiVersion", "\"coffer/v2\"", "spec.apiVersion: expected coffer/v1, found \"coffer/v2\""},
    {"kind", "\"Task\"", "spec.kind: expected Job, found \"Task\""},
    {"kind", "7", "spec.kind: expected Job, found 7"},
    {"network", "\"host\"", "spec.network: expected none, found \"host\""},
    /* types */
    {"metadata", "[]", "spec.metadata: expected an object, found a list"},
    {"datasets", "{}", "spec.datasets: expected a list, found an object"},
    {"workload.encrypted", "1", "spec.workload.encrypted: expected true or false, found 1"},
    {"workload.args[0]", "true", "spec.workload.args[0]: expected a string, found true"},
    {"workload.env.ZONE", "null", "spec.workload.env.ZONE: expected a string, found null"},
    {"attempts", "1.5",
     "spec.attempts: expected an integer in 1..5, found a number with a fraction or exponent"},
    {"attempts", "\"1\"", "spec.attempts: expected an integer in 1..5, found \"1\""},
    {"output.recipients[0]", "\"self\"",
     "spec.output.recipients[0]: expected a public P-256 JWK, found \"self\""},
    /* ranges */
    {"resources.cpuMillis", "9",
     "spec.resources.cpuMillis: expected an integer in 10..64000, found 9"},
    {"resources.cpuMillis", "64001",
     "spec.resources.cpuMillis: expected an integer in 10..64000, found 64001"},
    {"resources.memoryBytes", "4194303",
     "spec.resources.memoryBytes: expected an integer in 4194304..1099511627776, found 4194303"},
    {"resources.memoryBytes", "1099511627777",
     "spec.resources.memoryBytes: expected an integer in 4194304..1099511627776, found "
     "1099511627777"},
    {"resources.pids", "0", "spec.resources.pids: expected an integer in 1..4096, found 0"},
    {"resources.pids", "4097", "spec.resources.pids: expected an integer in 1..4096, found 4097"},
    {"resources.tmpBytes", "-1",
     "spec.resources.tmpBytes: expected an integer in 0..17179869184, found -1"},
    {"resources.tmpBytes", "17179869185",
     "spec.resources.tmpBytes: expected an integer in 0..17179869184, found 17179869185"},
    {"resources.scratchBytes", "-1",
     "spec.resources.scratchBytes: expected an integer in 0..1099511627776, found -1"},
    {"resources.scratchBytes", "1099511627777",
     "spec.resources.scratchBytes: expected an integer in 0..1099511627776, found 1099511627777"},
    {"resources.scratchBytes", "16777215",
     "spec.resources.scratchBytes: expected 0, or at least 16777216, found 16777215"},
    {"datasets[1].mount", "\"/scratch/in\"",
     "spec.datasets[1].mount: expected a path apart from /scratch, which resources.scratch asks "
     "for, found \"/scratch/in\""},
    {"output.path", "\"/scratch\"",
     "spec.output.path: expected a path apart from /scratch, which resources.scratch asks for, "
     "found \"/scratch\""},
    {"resources.lockMemory", "1", "spec.resources.lockMemory: expected true or false, found 1"},
    {"resources.hugepages", "true",
     "spec.resources.hugepages: expected one of none, 2MiB, 1GiB, found true"},
    {"resources.hugepages", "\"all\"",
     "spec.resources.hugepages: expected one of none, 2MiB, 1GiB, found \"all\""},
    {"resources.numaNode", "-2",
     "spec.resources.numaNode: expected an integer in -1..1023, found -2"},
    {"resources.numaNode", "\"any\"",
     "spec.resources.numaNode: expected an integer in -1..1023, found \"any\""},
    {"resources.cpuPinning", NULL,
     "spec.resources.cpuPinning: expected true or false, found nothing"},
    {"timeoutMs", "999", "spec.timeoutMs: expected an integer in 1000..604800000, found 999"},
    {"timeoutMs", "604800001",
     "spec.timeoutMs: expected an integer in 1000..604800000, found 604800001"},
    {"attempts", "0", "spec.attempts: expected an integer in 1..5, found 0"},
    {"attempts", "6", "spec.attempts: expected an integer in 1..5, found 6"},
    {"output.maxBytes", "0", "spec.output.maxBytes: expected an integer in 1..67108864, found 0"},
    {"output.maxBytes", "67108865",
     "spec.output.maxBytes: expected an integer in 1..67108864, found 67108865"},
    {"gate.holdAt", "-1", "spec.gate.holdAt: expected an integer in 0..101, found -1"},
    {"gate.rejectAt", "102", "spec.gate.rejectAt: expected an integer in 0..101, found 102"},
    {"gate.maxVerbatimPercent", "101",
     "spec.gate.maxVerbatimPercent: expected an integer in 0..100, found 101"},
    {"gate.holdAt", "61", "spec.gate.holdAt: expected at most rejectAt, which is 60, found 61"},
    /* shapes */
    {"metadata.name", "\"\"", "spec.metadata.name: expected 1..63 bytes, found 0 bytes"},
    {"metadata.name", "\"a b\"",
     "spec.metadata.name: expected letters, digits, '.', '_' and '-', a letter or digit first, "
     "found \"a b\""},
    {"metadata.nonce", "\"short\"", "spec.metadata.nonce: expected 16..64 bytes, found 5 bytes"},
    {"metadata.nonce", "\"0123456789abcde!\"",
     "spec.metadata.nonce: expected letters, digits, '_' and '-', found \"0123456789abcde!\""},
    {"workload.image", "\"alpine:3\"",
     "spec.workload.image: expected sha256: and 64 lower-case hex digits, found \"alpine:3\""},
    {"workload.image",
     "\"sha256:ABababababababababababababababababababababababababababababababab\"",
     "spec.workload.image: expected sha256: and 64 lower-case hex digits, found "
     "\"sha256:ABababababababababababababababababababababababababababababababab\""},
    {"workload.imageKeys[0]", "\"../key\"",
     "spec.workload.imageKeys[0]: expected letters, digits and \"._:/@+-\", a letter or digit "
     "first, found \"../key\""},
    {"workload.args[0]", "\"a\\u0001b\"",
     "spec.workload.args[0]: expected text without control characters, found \"a\\x01b\""},
    {"workload.args[0]", "\"a\\u0085b\"",
     "spec.workload.args[0]: expected text without control characters, found \"a\\xc2\\x85b\""},
    {"workload.workdir", "\"/a\\nb\"",
     "spec.workload.workdir: expected text without control characters, found \"/a\\x0ab\""},
    {"workload.env.1A", "\"x\"",
     "spec.workload.env.1A: expected a name of letters, digits and '_', not a digit first, found "
     "\"1A\""},
    {"workload.workdir", "\"work\"",
     "spec.workload.workdir: expected an absolute path, found \"work\""},
    {"datasets[0].id", "\"patients\"",
     "spec.datasets[0].id: expected NAME.DIGITS: 1..63 of a-z, 0-9 and '-', a dot, 26 base32 "
     "digits, found \"patients\""},
    {"datasets[0].mount", "\"data\"",
     "spec.datasets[0].mount: expected an absolute path, found \"data\""},
    {"datasets[0].mount", "\"/data/../etc\"",
     "spec.datasets[0].mount: expected a path without empty, '.' or '..' components, found "
     "\"/data/../etc\""},
    {"datasets[0].mount", "\"/data//x\"",
     "spec.datasets[0].mount: expected a path without empty, '.' or '..' components, found "
     "\"/data//x\""},
    {"datasets[0].mount", "\"/data/\"",
     "spec.datasets[0].mount: expected a path without empty, '.' or '..' components, found "
     "\"/data/\""},
#define MOUNT_CASE(at, m)                                                                          \
    {                                                                                              \
        at, "\"" m "\"",                                                                           \
            "spec." at                                                                             \
            ": expected a path other than / and outside /proc, /sys, /dev and /tmp, found "        \
            "\"" m "\""                                                                            \
    }
    MOUNT_CASE("datasets[0].mount", "/"),
    MOUNT_CASE("datasets[0].mount", "/proc"),
    MOUNT_CASE("datasets[0].mount", "/sys/fs"),
    MOUNT_CASE("datasets[0].mount", "/dev"),
    MOUNT_CASE("datasets[0].mount", "/tmp/x"),
    MOUNT_CASE("output.path", "/"),
    MOUNT_CASE("output.path", "/dev/shm"),
    {"output.files[0].path", "\"/mean.csv\"",
     "spec.output.files[0].path: expected a path relative to output.path, found \"/mean.csv\""},
    {"output.files[0].path", "\"../mean.csv\"",
     "spec.output.files[0].path: expected a path without empty, '.' or '..' components, found "
     "\"../mean.csv\""},
    {"output.files[0].type", "\"text/cvs\"",
     "spec.output.files[0].type: expected one of text/csv, text/plain, application/json, "
     "application/octet-stream (did you mean text/csv?), found \"text/cvs\""},
    {"tee.mode", "\"requierd\"",
     "spec.tee.mode: expected one of required, preferred, none (did you mean required?), found "
     "\"requierd\""},
    {"tee.types[0]", "\"trustzone\"",
     "spec.tee.types[0]: expected one of tdx, snp, sgx, nitro, cca, se, vtpm, sample, found "
     "\"trustzone\""},
    /* between fields */
    {"datasets[1].mount", "\"/data/patients\"",
     "spec.datasets[1].mount: expected a path apart from datasets[0].mount /data/patients, found "
     "\"/data/patients\""},
    {"datasets[1].mount", "\"/data\"",
     "spec.datasets[1].mount: expected a path apart from datasets[0].mount /data/patients, found "
     "\"/data\""},
    {"datasets[1].mount", "\"/data/patients/in\"",
     "spec.datasets[1].mount: expected a path apart from datasets[0].mount /data/patients, found "
     "\"/data/patients/in\""},
    {"datasets[0].mount", "\"/output/in\"",
     "spec.datasets[0].mount: expected a path apart from output.path /output, found "
     "\"/output/in\""},
    {"output.path", "\"/data\"",
     "spec.datasets[0].mount: expected a path apart from output.path /data, found "
     "\"/data/patients\""},
    {"datasets[1].id", "\"patients.abcdefghijklmnopqrstuvwxyz\"",
     "spec.datasets[1].id: expected an id other than that of datasets[0], found "
     "\"patients.abcdefghijklmnopqrstuvwxyz\""},
    {"output.files[1].path", "\"mean.csv\"",
     "spec.output.files[1].path: expected a path apart from output.files[0].path mean.csv, found "
     "\"mean.csv\""},
    {"output.files[1].path", "\"mean.csv/x\"",
     "spec.output.files[1].path: expected a path apart from output.files[0].path mean.csv, found "
     "\"mean.csv/x\""},
    {"tee.types[1]", "\"snp\"", "spec.tee.types[1]: expected each item once, found \"snp\" again"},
    {"tee.types", "[]", "spec.tee.types: expected at least 1 item unless mode is none, found none"},
    {"workload.imageKeys", "[\"k\",\"k\"]",
     "spec.workload.imageKeys[1]: expected each item once, found \"k\" again"},
    /* recipients */
    {"output.recipients", "[]", "spec.output.recipients: expected at least 1 item, found none"},
    {"output.recipients[0].crv", "\"P-384\"",
     "spec.output.recipients[0].crv: expected P-256, found \"P-384\""},
    {"output.recipients[0].kty", "\"RSA\"",
     "spec.output.recipients[0].kty: expected EC, found \"RSA\""},
    {"output.recipients[0].y", NULL,
     "spec.output.recipients[0].y: expected a string, found nothing"},
    {"output.recipients[0].kid", "\"k\"",
     "spec.output.recipients[0].kid: expected only crv, kty, x and y, found \"kid\""},
    {"output.recipients[0].d", "\"secretsecret\"",
     "spec.output.recipients[0]: expected a public P-256 JWK, found a private key"},
    {"output.recipients[0].y", "\"" B64_43 "\"",
     "spec.output.recipients[0]: expected a point on P-256, found x and y that are not"},
    {"output.recipients",
     "[{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"" B64_43 "\",\"y\":\"" JWK_Y "\"},"
     "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"" B64_43 "\",\"y\":\"" JWK_Y "\"}]",
     "spec.output.recipients[1]: expected each key once, found key "
     "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U again"},
};

static void expect_json_error(const json_t *j, const char *msg)
{
    struct spec *s = NULL;
    struct err e = {0};

    if (spec_from_json(j, &s, &e) == 0) {
        spec_free(s);
        fail_msg("accepted, but expected: %s", msg);
    }
    assert_null(s);
    assert_string_equal(e.msg, msg);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(strncmp(e.msg, e.clause, strlen(e.clause)), 0);
    assert_true(e.expected[0] && e.actual[0]);
}

static void every_bad_member_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad_cases); i++) {
        const struct bad_case *c = &bad_cases[i];
        _cleanup_json_ json_t *j = load(vector);
        _cleanup_json_ json_t *v = c->value ? json_loads(c->value, JSON_DECODE_ANY, NULL) : NULL;
        assert_true(!c->value || v);
        put_at(j, c->path, json_incref(v));
        expect_json_error(j, c->msg);
    }
    _cleanup_json_ json_t *list = json_array();
    expect_json_error(list, "spec: expected an object, found a list");
    expect_json_error(NULL, "spec: expected an object, found nothing");
}

static json_t *many(size_t n, const char *fmt)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++) {
        _cleanup_free_ char *num = xasprintf("%zu", i);
        const char *hole = strchr(fmt, '#');
        _cleanup_free_ char *text =
            hole ? xasprintf("%.*s%s%s", (int)(hole - fmt), fmt, num, hole + 1) : xstrdup(fmt);
        json_array_append_new(a, json_loads(text, JSON_DECODE_ANY, NULL));
    }
    return a;
}

static void lists_are_bounded(void **state)
{
    static const struct {
        const char *path, *item;
        size_t max;
    } lists[] = {
        {"workload.args", "\"x\"", SPEC_MAX_ARGS},
        {"workload.imageKeys", "\"k#\"", SPEC_MAX_IMAGE_KEYS},
        {"datasets", "{\"id\":\"d#.abcdefghijklmnopqrstuvwxyz\",\"mount\":\"/d/#\"}",
         SPEC_MAX_DATASETS},
        {"tee.types", "\"tdx\"", SPEC_MAX_TYPES},
        {"output.files", "{\"path\":\"f#\",\"type\":\"text/csv\"}", SPEC_MAX_FILES},
        {"output.recipients", "{}", SPEC_MAX_RECIPIENTS},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        _cleanup_json_ json_t *j = load(vector);
        char msg[128];
        put_at(j, lists[i].path, many(lists[i].max + 1, lists[i].item));
        snprintf(msg, sizeof(msg), "spec.%s: expected at most %zu items, found more", lists[i].path,
                 lists[i].max);
        expect_json_error(j, msg);
    }
    _cleanup_json_ json_t *full = load(vector);
    _cleanup_spec_ struct spec *s = NULL;
    put_at(full, "output.files", many(SPEC_MAX_FILES, "{\"path\":\"f#\",\"type\":\"text/csv\"}"));
    assert_int_equal(spec_from_json(full, &s, NULL), 0);

    _cleanup_json_ json_t *j = load(vector);
    json_t *env = json_object();
    for (size_t i = 0; i <= SPEC_MAX_ENV; i++) {
        char name[16];
        snprintf(name, sizeof(name), "V%zu", i);
        json_object_set_new(env, name, json_string(""));
    }
    put_at(j, "workload.env", env);
    expect_json_error(j, "spec.workload.env: expected at most 256 members, found more");
}

static json_t *text_of(size_t n, char c)
{
    _cleanup_free_ char *s = xmalloc(n + 1);
    memset(s, c, n);
    s[n] = '\0';
    return json_string(s);
}

static void long_text_is_bounded(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(vector);
    put_at(j, "workload.args[0]", text_of(32769, 'x'));
    expect_json_error(j, "spec.workload.args[0]: expected 0..32768 bytes, found 32769 bytes");

    put_at(j, "workload.args[0]", text_of(32768, 'x'));
    put_at(j, "workload.args[1]", text_of(32768, 'x'));
    expect_json_error(j, "spec.workload: expected at most 65536 bytes of args and env together, "
                         "found 65567 bytes");

    /* Within the bound of args, but every byte takes two when it is written as JSON. */
    put_at(j, "workload.args[0]", text_of(30000, '"'));
    put_at(j, "workload.args[1]", text_of(30000, '"'));
    expect_json_error(j,
                      "spec: expected at most 72960 bytes in canonical form, found 121101 bytes");

    _cleanup_json_ json_t *k = load(vector);
    put_at(k, "workload.workdir", json_sprintf("/%0300d", 0));
    expect_json_error(k, "spec.workload.workdir: expected 1..255 bytes, found 301 bytes");
    char name[140];
    memset(name, 'A', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    _cleanup_json_ json_t *l = load(vector);
    json_object_set_new(json_object_get(json_object_get(l, "workload"), "env"), name,
                        json_string(""));
    struct err e = {0};
    struct spec *s = NULL;
    assert_int_equal(spec_from_json(l, &s, &e), -1);
    assert_non_null(strstr(e.msg, ": expected a name of at most 128 bytes, found \"AAAA"));
}

static void nul_is_refused(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(vector);
    put_at(j, "workload.args[0]", json_stringn("a\0b", 3));
    expect_json_error(
        j, "spec.workload.args[0]: expected text without control characters, found \"a\\x00b\"");
    put_at(j, "workload.args[0]", json_string("a"));
    put_at(j, "kind", json_stringn("Job\0x", 5));
    expect_json_error(j, "spec.kind: expected Job, found \"Job\\x00x\"");
}

/* Another valid value for each leaf, by its path; then all leaves are seen to be in the digest. */
static const struct {
    const char *path, *value;
} other_values[] = {
    {"metadata.name", "\"other\""},
    {"metadata.nonce", "\"0123456789abcdeg\""},
    {"workload.image",
     "\"sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\""},
    {"workload.encrypted", "false"},
    {"workload.imageKeys[0]", "\"other\""},
    {"workload.args[0]", "\"other\""},
    {"workload.args[1]", "\"other\""},
    {"workload.args[2]", "\"other\""},
    {"workload.env.ZONE", "\"other\""},
    {"workload.env.LANG", "\"other\""},
    {"workload.workdir", "\"/other\""},
    {"datasets[0].id", "\"other.abcdefghijklmnopqrstuvwxyz\""},
    {"datasets[0].mount", "\"/other\""},
    {"datasets[1].id", "\"other.abcdefghijklmnopqrstuvwxyz\""},
    {"datasets[1].mount", "\"/other\""},
    {"tee.mode", "\"required\""},
    {"tee.types[0]", "\"vtpm\""},
    {"tee.types[1]", "\"vtpm\""},
    {"resources.cpuMillis", "1501"},
    {"resources.memoryBytes", "536870913"},
    {"resources.pids", "33"},
    {"resources.tmpBytes", "1"},
    {"resources.scratchBytes", "16777216"},
    {"resources.lockMemory", "true"},
    {"resources.hugepages", "\"1GiB\""},
    {"resources.numaNode", "0"},
    {"resources.cpuPinning", "true"},
    {"timeoutMs", "90001"},
    {"attempts", "4"},
    {"output.path", "/other"},
    {"output.maxBytes", "65537"},
    {"output.files[0].path", "\"other\""},
    {"output.files[0].type", "\"text/plain\""},
    {"output.files[1].path", "\"other\""},
    {"output.files[1].type", "\"text/csv\""},
    {"output.recipients[0]", "other key"},
    {"gate.holdAt", "21"},
    {"gate.rejectAt", "61"},
    {"gate.maxVerbatimPercent", "6"},
};

static size_t leaves(const json_t *j)
{
    size_t n = 0, i;
    const char *key;
    json_t *v;

    if (json_is_object(j)) {
        if (json_object_get(j, "crv")) {
            return 1; /* a key is one value */
        }
        json_object_foreach((json_t *)j, key, v)
        {
            n += leaves(v);
        }
        return n;
    }
    if (!json_is_array(j)) {
        return 1;
    }
    json_array_foreach(j, i, v)
    {
        n += leaves(v);
    }
    return n;
}

static void every_leaf_is_in_the_digest(void **state)
{
    (void)state;
    _cleanup_json_ json_t *base = load(vector);
    _cleanup_jkey_ struct jkey *other = NULL;
    _cleanup_free_ char *seen = xcalloc(ARRAY_LEN(other_values) + 1, 65);

    /* apiVersion, kind and network have one value each. */
    assert_int_equal(leaves(base), ARRAY_LEN(other_values) + 3);
    assert_int_equal(jkey_generate(&other, NULL), 0);
    memcpy(seen, vector_digest, 65);
    for (size_t i = 0; i < ARRAY_LEN(other_values); i++) {
        _cleanup_json_ json_t *j = load(vector);
        _cleanup_spec_ struct spec *s = NULL;
        struct err e = {0};
        const char *v = other_values[i].value;
        json_t *value = v[0] == '/'   ? json_string(v)
                        : v[0] == 'o' ? jkey_public_jwk(other)
                                      : json_loads(v, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        put_at(j, other_values[i].path, value);
        if (spec_from_json(j, &s, &e) < 0) {
            fail_msg("%s: %s", other_values[i].path, e.msg);
        }
        for (size_t k = 0; k <= i; k++) {
            assert_string_not_equal(seen + k * 65, s->digest_hex);
        }
        memcpy(seen + (i + 1) * 65, s->digest_hex, 65);
    }
}

static void member_order_is_not_in_the_digest(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(vector);
    _cleanup_spec_ struct spec *s = NULL;
    json_t *kind = json_incref(json_object_get(j, "kind"));

    json_object_del(j, "kind");
    json_object_set_new(j, "kind", kind);
    assert_int_equal(spec_from_json(j, &s, NULL), 0);
    assert_string_equal(s->digest_hex, vector_digest);
}

static void mode_none_needs_no_types(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(vector);
    _cleanup_spec_ struct spec *s = NULL;

    put_at(j, "tee", load("{\"mode\":\"none\",\"types\":[]}"));
    assert_int_equal(spec_from_json(j, &s, NULL), 0);
    assert_int_equal(s->tee_mode, TEE_NONE);
    assert_int_equal(s->n_tee_types, 0);
}

static void signed_spec_comes_back(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(vector);
    _cleanup_spec_ struct spec *s = NULL, *back = NULL, *none = NULL;
    _cleanup_jkey_ struct jkey *k = NULL, *who = NULL, *nobody = NULL;
    _cleanup_free_ char *jws = NULL;
    struct err e = {0};

    assert_int_equal(spec_from_json(j, &s, NULL), 0);
    assert_int_equal(jkey_generate(&k, NULL), 0);
    if (spec_sign(s, k, &jws, &e) < 0 || spec_verify(jws, &back, &who, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal(back->job_id, vector_id);
    assert_memory_equal(back->digest, s->digest, 32);
    assert_string_equal(jkey_thumbprint(who), jkey_thumbprint(k));

    /* One character of the payload, then of the signature. */
    char *dot = strchr(jws, '.');
    dot[20] = dot[20] == 'A' ? 'B' : 'A';
    assert_int_equal(spec_verify(jws, &none, &nobody, &e), -1);
    assert_int_equal(e.code, ERR_BAD_SIGNATURE);
    assert_null(none);
    assert_null(nobody);
}

static void signed_nonsense_is_refused(void **state)
{
    (void)state;
    _cleanup_jkey_ struct jkey *k = NULL, *who = NULL;
    _cleanup_free_ char *other_typ = NULL, *not_spec = NULL, *not_json = NULL;
    _cleanup_json_ json_t *j = load(vector);
    _cleanup_spec_ struct spec *s = NULL;
    struct err e = {0};

    assert_int_equal(jkey_generate(&k, NULL), 0);
    assert_int_equal(jws_sign_json(k, "coffer-grant+jws", 1, j, &other_typ, NULL), 0);
    assert_int_equal(spec_verify(other_typ, &s, &who, &e), -1);
    put_at(j, "attempts", json_integer(9));
    assert_int_equal(jws_sign_json(k, SPEC_JWS_TYP, 1, j, &not_spec, NULL), 0);
    assert_int_equal(spec_verify(not_spec, &s, &who, &e), -1);
    assert_string_equal(e.msg, "spec.attempts: expected an integer in 1..5, found 9");
    assert_int_equal(jws_sign(k, SPEC_JWS_TYP, 1, BYTES_STR("{"), &not_json, NULL), 0);
    assert_int_equal(spec_verify(not_json, &s, &who, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(spec_verify("", &s, &who, &e), -1);
    assert_null(s);
    assert_null(who);
}

static void job_ids_have_one_shape(void **state)
{
    (void)state;
    assert_true(job_id_valid(vector_id));
    assert_false(job_id_valid(NULL));
    assert_false(job_id_valid(""));
    assert_false(job_id_valid("jrxfv7wivd4k4p2bezjin3qkbd"));
    assert_false(job_id_valid("jrxfv7wivd4k4p2bezjin3qkbdww"));
    assert_false(job_id_valid("krxfv7wivd4k4p2bezjin3qkbdw"));
    assert_false(job_id_valid("jrxfv7wivd4k4p2bezjin3qkbd."));
    assert_false(job_id_valid("jrxfv7wivd4k4p2bezjin3qkbd*"));
    assert_false(job_id_valid("jRxfv7wivd4k4p2bezjin3qkbdw"));
    assert_false(job_id_valid("jrxfv7wivd4k4p2bezjin3qkbd1"));
}

/* The schema's pattern of a shape and the shape's check have to agree. */
static void patterns_agree_with_checks(void **state)
{
    static const char *const samples[] = {
        "",
        "a",
        "A-b_c.d",
        "-a",
        ".a",
        "a b",
        "a/b",
        "/",
        "/a",
        "/a/b",
        "/a/",
        "//a",
        "/a/./b",
        "/a/../b",
        "/a/..",
        "..",
        ".",
        "../a",
        "a/..",
        "/.a",
        "/..a",
        "/...",
        ".a/..b",
        "a//b",
        "_A1",
        "1A",
        "A-B",
        "0123456789abcdef",
        "sha256:abababababababababababababababababababababababababababababababab",
        "sha256:ababababababababababababababababababababababababababababababaBab",
        "sha512:abababababababababababababababababababababababababababababababab",
        "kbs:///a/b",
        "a@b+c:d",
        "p.abcdefghijklmnopqrstuvwxyz",
        "P.abcdefghijklmnopqrstuvwxyz",
        "p.abcdefghijklmnopqrstuvwxy1",
        "p.abcdefghijklmnopqrstuvwxy",
        ".abcdefghijklmnopqrstuvwxyz",
        "p.q.abcdefghijklmnopqrstuvwxyz",
    };

    (void)state;
    for (int shape = 0; shape < SHAPE_N; shape++) {
        regex_t re;
        if (!spec_shapes[shape].pattern) {
            continue;
        }
        assert_int_equal(regcomp(&re, spec_shapes[shape].pattern, REG_EXTENDED | REG_NOSUB), 0);
        for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
            int re_ok = regexec(&re, samples[i], 0, NULL, 0) == 0;
            /* Emptiness is a matter of length, not of shape, for the check. */
            int ok = samples[i][0] && spec_shapes[shape].check(samples[i]) == NULL;
            if (re_ok != ok) {
                fail_msg("shape %d, sample \"%s\": pattern %d, check %d", shape, samples[i], re_ok,
                         ok);
            }
        }
        regfree(&re);
    }
}

static void schema_is_of_the_table(void **state)
{
    (void)state;
    _cleanup_json_ json_t *j = load(spec_json_schema());
    const json_t *props = json_object_get(j, "properties");

    assert_ptr_equal(spec_json_schema(), spec_json_schema());
    assert_string_equal(json_string_value(json_object_get(j, "$schema")),
                        "https://json-schema.org/draft/2020-12/schema");
    assert_int_equal(json_object_size(props), spec_root.n_sub);
    assert_true(json_is_false(json_object_get(j, "additionalProperties")));
    for (size_t i = 0; i < spec_root.n_sub; i++) {
        assert_non_null(json_object_get(props, spec_root.sub[i].name));
    }
    const json_t *attempts = json_object_get(props, "attempts");
    assert_int_equal(json_integer_value(json_object_get(attempts, "maximum")), 5);
    assert_int_equal(json_integer_value(json_object_get(attempts, "default")), 2);
    const json_t *node = json_object_get(
        json_object_get(json_object_get(json_object_get(props, "resources"), "properties"),
                        "numaNode"),
        "anyOf");
    assert_string_equal(json_string_value(json_object_get(json_array_get(node, 0), "const")),
                        "any");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(node, 1), "minimum")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vector_has_its_digest_and_id),
        cmocka_unit_test(every_bad_member_is_named),
        cmocka_unit_test(lists_are_bounded),
        cmocka_unit_test(long_text_is_bounded),
        cmocka_unit_test(nul_is_refused),
        cmocka_unit_test(every_leaf_is_in_the_digest),
        cmocka_unit_test(member_order_is_not_in_the_digest),
        cmocka_unit_test(mode_none_needs_no_types),
        cmocka_unit_test(signed_spec_comes_back),
        cmocka_unit_test(signed_nonsense_is_refused),
        cmocka_unit_test(job_ids_have_one_shape),
        cmocka_unit_test(patterns_agree_with_checks),
        cmocka_unit_test(schema_is_of_the_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
