#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "common/spec_fields.h"

#define IMAGE "sha256:abababababababababababababababababababababababababababababababab"
#define JWK_X "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
#define JWK_Y "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"

static const char full[] = "apiVersion: coffer/v1\n"                       /* 1 */
                           "kind: Job\n"                                   /* 2 */
                           "metadata:\n"                                   /* 3 */
                           "  name: mean-age\n"                            /* 4 */
                           "  nonce: abcdefgh01234567\n"                   /* 5 */
                           "workload:\n"                                   /* 6 */
                           "  image: " IMAGE "\n"                          /* 7 */
                           "  encrypted: true\n"                           /* 8 */
                           "  imageKeys: [\"kbs:///default/image/age\"]\n" /* 9 */
                           "  args:\n"                                     /* 10 */
                           "    - --group-by\n"                            /* 11 */
                           "    - region\n"                                /* 12 */
                           "  env:\n"                                      /* 13 */
                           "    ZONE: eu\n"                                /* 14 */
                           "    LANG: C.UTF-8\n"                           /* 15 */
                           "  workdir: /work\n"                            /* 16 */
                           "datasets:\n"                                   /* 17 */
                           "  - id: patients.abcdefghijklmnopqrstuvwxyz\n" /* 18 */
                           "    mount: /data/patients\n"                   /* 19 */
                           "  - id: visits.abcdefghijklmnopqrstuvwxyz\n"   /* 20 */
                           "    mount: /data/visits\n"                     /* 21 */
                           "tee:\n"                                        /* 22 */
                           "  mode: preferred\n"                           /* 23 */
                           "  types: [snp, tdx]\n"                         /* 24 */
                           "resources:\n"                                  /* 25 */
                           "  cpu: \"1.5\"\n"                              /* 26 */
                           "  memory: 512MiB\n"                            /* 27 */
                           "  pids: 32\n"                                  /* 28 */
                           "  tmp: 0\n"                                    /* 29 */
                           "timeout: 90s\n"                                /* 30 */
                           "attempts: 3\n"                                 /* 31 */
                           "network: none\n"                               /* 32 */
                           "output:\n"                                     /* 33 */
                           "  path: /output\n"                             /* 34 */
                           "  maxBytes: 64KiB\n"                           /* 35 */
                           "  files:\n"                                    /* 36 */
                           "    - path: mean.csv\n"                        /* 37 */
                           "      type: text/csv\n"                        /* 38 */
                           "  recipients:\n"                               /* 39 */
                           "    - self\n"                                  /* 40 */
                           "    - crv: P-256\n"                            /* 41 */
                           "      kty: EC\n"                               /* 42 */
                           "      x: " JWK_X "\n"                          /* 43 */
                           "      y: " JWK_Y "\n"                          /* 44 */
                           "gate:\n"                                       /* 45 */
                           "  holdAt: 20\n"                                /* 46 */
                           "  rejectAt: 60\n"                              /* 47 */
                           "  maxVerbatimPercent: 5\n";                    /* 48 */

static const char small[] = "apiVersion: coffer/v1\n"
                            "kind: Job\n"
                            "metadata: {name: small}\n"
                            "workload: {image: \"" IMAGE "\"}\n";

static struct jkey *self_key;

static int make_key(void **state)
{
    (void)state;
    return jkey_generate(&self_key, NULL);
}

static int drop_key(void **state)
{
    (void)state;
    jkey_free(self_key);
    return 0;
}

static struct spec *read_ok(const char *text)
{
    struct spec *s = NULL;
    struct err e = {0};

    if (spec_from_yaml("job.yaml", BYTES_STR(text), self_key, &s, &e) < 0) {
        fail_msg("%s\n%s", e.msg, text);
    }
    return s;
}

/* Whether `yaml` is refused with exactly `msg`; says so if not. */
static int refused_with(struct bytes yaml, const char *msg)
{
    struct spec *s = NULL;
    struct err e = {0};

    if (spec_from_yaml("job.yaml", yaml, self_key, &s, &e) == 0) {
        spec_free(s);
        print_error("accepted, but expected: %s\n", msg);
        return 0;
    }
    if (s || e.code != ERR_INVALID || !streq(e.msg, msg)) {
        print_error("expected: %s\n   found: %s\n", msg, e.msg);
        return 0;
    }
    return 1;
}

static void expect_error_n(struct bytes yaml, const char *msg)
{
    assert_true(refused_with(yaml, msg));
}

static void expect_error(const char *text, const char *msg)
{
    expect_error_n(BYTES_STR(text), msg);
}

/* `full` with the first `from` replaced. */
static char *edited(const char *from, const char *to)
{
    const char *at = strstr(full, from);

    if (!at) {
        fail_msg("the example has no \"%s\"", from);
    }
    return xasprintf("%.*s%s%s", (int)(at - full), full, to, at + strlen(from));
}

static void full_example_is_read(void **state)
{
    (void)state;
    _cleanup_spec_ struct spec *s = read_ok(full);

    assert_string_equal(s->name, "mean-age");
    assert_int_equal(s->encrypted, 1);
    assert_int_equal(s->n_args, 2);
    assert_string_equal(s->args[0], "--group-by");
    assert_string_equal(s->env[0], "LANG=C.UTF-8");
    assert_int_equal(s->cpu_millis, 1500);
    assert_int_equal(s->memory_bytes, 512LL << 20);
    assert_int_equal(s->tmp_bytes, 0);
    assert_int_equal(s->timeout_ms, 90000);
    assert_int_equal(s->output_max_bytes, 65536);
    assert_int_equal(s->n_recipients, 2);
    assert_string_equal(jkey_thumbprint(s->recipients[0]), jkey_thumbprint(self_key));
    assert_string_equal(jkey_thumbprint(s->recipients[1]),
                        "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
}

static void defaults_are_as_documented(void **state)
{
    (void)state;
    _cleanup_spec_ struct spec *s = read_ok(small), *again = read_ok(small);
    static const char *const types[] = {"tdx", "snp", "vtpm"};

    assert_int_equal(s->encrypted, 1);
    assert_int_equal(s->n_image_keys + s->n_args + s->n_env + s->n_datasets + s->n_files, 0);
    assert_string_equal(s->workdir, "/");
    assert_int_equal(s->tee_mode, TEE_REQUIRED);
    assert_int_equal(s->n_tee_types, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(s->tee_types[i], types[i]);
    }
    assert_int_equal(s->cpu_millis, 1000);
    assert_int_equal(s->memory_bytes, 256 << 20);
    assert_int_equal(s->pids, 64);
    assert_int_equal(s->tmp_bytes, 64 << 20);
    assert_int_equal(s->timeout_ms, 600000);
    assert_int_equal(s->attempts, 2);
    assert_string_equal(s->output_path, "/output");
    assert_int_equal(s->output_max_bytes, 1 << 20);
    assert_int_equal(s->n_recipients, 1);
    assert_string_equal(jkey_thumbprint(s->recipients[0]), jkey_thumbprint(self_key));
    assert_int_equal(s->gate_hold_at, 30);
    assert_int_equal(s->gate_reject_at, 70);
    assert_int_equal(s->gate_max_verbatim_percent, 10);
    /* The nonce is fresh, so the same text twice is two jobs. */
    assert_string_not_equal(s->job_id, again->job_id);
}

static void normal_form_gives_the_same_digest(void **state)
{
    static const char *const texts[] = {full, small};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        _cleanup_spec_ struct spec *s = read_ok(texts[i]), *back = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *j = NULL;
        assert_int_equal(jcs_encode(s->json, &text, NULL), 0);
        assert_int_equal(json_parse("spec", BYTES_STR(text), 1 << 20, &j, NULL), 0);
        assert_int_equal(spec_from_json(j, &back, NULL), 0);
        assert_string_equal(back->digest_hex, s->digest_hex);
        assert_string_equal(back->job_id, s->job_id);
    }
}

/* YAML is YAML 1.2's superset of JSON, too: the way it is written does not matter. */
static void spelling_does_not_matter(void **state)
{
    static const char *const same[][2] = {
        {"timeout: 90s", "timeout: \"90s\" # a comment"},
        {"memory: 512MiB", "memory: 536870912"},
        {"memory: 512MiB", "memory: '524288KiB'"},
        {"cpu: \"1.5\"", "cpu: 1.5"},
        {"cpu: \"1.5\"", "cpu: 1500m"},
        {"cpu: \"1.5\"", "cpu: 1.500"},
        {"types: [snp, tdx]", "types:\n  - 'snp'\n  - tdx"},
        {"kind: Job", "\"kind\": \"Job\""},
        {"name: mean-age", "name: >-\n    mean-age"},
        {"apiVersion:", "%YAML 1.1\n---\napiVersion:"},
    };

    (void)state;
    _cleanup_spec_ struct spec *s = read_ok(full);
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        _cleanup_free_ char *text = edited(same[i][0], same[i][1]);
        _cleanup_spec_ struct spec *t = read_ok(text);
        assert_string_equal(t->digest_hex, s->digest_hex);
    }
}

static void what_needs_a_vm_is_read(void **state)
{
    (void)state;
    _cleanup_spec_ struct spec *plain = read_ok(full);
    assert_int_equal(plain->scratch_bytes, 0);
    assert_int_equal(plain->lock_memory, 0);
    assert_int_equal(plain->hugepages, SPEC_HUGE_NONE);
    assert_int_equal(plain->numa_node, -1);
    assert_int_equal(plain->cpu_pinning, 0);

    _cleanup_free_ char *text =
        edited("tmp: 0", "tmp: 0\n  scratch: 4GiB\n  lockMemory: true\n  hugepages: 2MiB\n"
                         "  numaNode: 3\n  cpuPinning: true");
    _cleanup_spec_ struct spec *s = read_ok(text);
    assert_int_equal(s->scratch_bytes, 4ll << 30);
    assert_int_equal(s->lock_memory, 1);
    assert_int_equal(s->hugepages, SPEC_HUGE_2M);
    assert_int_equal(s->numa_node, 3);
    assert_int_equal(s->cpu_pinning, 1);

    _cleanup_free_ char *words =
        edited("tmp: 0", "tmp: 0\n  scratch: 0\n  hugepages: \"none\"\n  numaNode: any");
    _cleanup_spec_ struct spec *same = read_ok(words);
    assert_string_equal(same->digest_hex, plain->digest_hex);
}

static void units_are_exact(void **state)
{
    static const struct {
        const char *from, *to;
        int64_t cpu, memory, timeout;
    } cases[] = {
        {"cpu: \"1.5\"", "cpu: 10m", 10, 512LL << 20, 90000},
        {"cpu: \"1.5\"", "cpu: 0.125", 125, 512LL << 20, 90000},
        {"cpu: \"1.5\"", "cpu: 64", 64000, 512LL << 20, 90000},
        {"memory: 512MiB", "memory: 4MiB", 1500, 4LL << 20, 90000},
        {"memory: 512MiB", "memory: 1024GiB", 1500, 1LL << 40, 90000},
        {"timeout: 90s", "timeout: 1s", 1500, 512LL << 20, 1000},
        {"timeout: 90s", "timeout: 5m", 1500, 512LL << 20, 300000},
        {"timeout: 90s", "timeout: 168h", 1500, 512LL << 20, 604800000},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_free_ char *text = edited(cases[i].from, cases[i].to);
        _cleanup_spec_ struct spec *s = read_ok(text);
        assert_int_equal(s->cpu_millis, cases[i].cpu);
        assert_int_equal(s->memory_bytes, cases[i].memory);
        assert_int_equal(s->timeout_ms, cases[i].timeout);
    }
}

static const struct {
    const char *from, *to, *msg;
} edits[] = {
    /* members */
    {"  image:", "  imgae:",
     "job.yaml:7: workload.imgae: expected a known field (did you mean image?), found \"imgae\""},
    {"timeout:", "timeoutMs:",
     "job.yaml:30: timeoutMs: expected a known field (did you mean timeout?), found "
     "\"timeoutMs\""},
    {"  pids: 32", "  gpus: 1",
     "job.yaml:28: resources.gpus: expected one of cpu, memory, pids, tmp, scratch, lockMemory, "
     "hugepages, numaNode, cpuPinning, found \"gpus\""},
    {"      type: text/csv", "      mode: text/csv",
     "job.yaml:38: output.files[0].mode: expected one of path, type, found \"mode\""},
    {"kind: Job", "\"a\\0b\": 1",
     "job.yaml:2: a: expected one of apiVersion, kind, metadata, workload, datasets, tee, "
     "resources, timeout, attempts, network, output, gate, found \"a\\x00b\""},
    {"attempts: 3", "attempts: 3\nattempts: 3",
     "job.yaml:32: attempts: expected the field once, found it again (first on line 31)"},
    {"    LANG: C.UTF-8", "    ZONE: us",
     "job.yaml:15: workload.env.ZONE: expected the field once, found it again (first on line 14)"},
    {"      kty: EC", "      crv: P-256",
     "job.yaml:42: output.recipients[1].crv: expected the field once, found it again (first on "
     "line 41)"},
    {"  image: " IMAGE "\n", "", "job.yaml:7: workload.image: expected a string, found nothing"},
    {"      type: text/csv\n", "",
     "job.yaml:37: output.files[0].type: expected one of text/csv, text/plain, application/json, "
     "application/octet-stream, found nothing"},
    {"kind: Job\n", "", "job.yaml:1: kind: expected Job, found nothing"},
    /* version and kind */
    {"coffer/v1", "coffer/v2", "job.yaml:1: apiVersion: expected coffer/v1, found coffer/v2"},
    {"kind: Job", "kind: Pod", "job.yaml:2: kind: expected Job, found Pod"},
    /* types */
    {"datasets:\n", "datasets: {}\nx:\n",
     "job.yaml:17: datasets: expected a list, found a mapping"},
    {"  args:\n    - --group-by\n    - region", "  args: run",
     "job.yaml:10: workload.args: expected a list, found run"},
    {"  env:\n    ZONE: eu\n    LANG: C.UTF-8", "  env: [A]",
     "job.yaml:13: workload.env: expected a mapping, found a list"},
    {"tee:\n  mode: preferred\n  types: [snp, tdx]",
     "tee:", "job.yaml:22: tee: expected a mapping, found nothing"},
    {"name: mean-age", "name: [a]", "job.yaml:4: metadata.name: expected a string, found a list"},
    {"name: mean-age", "name:", "job.yaml:4: metadata.name: expected a string, found nothing"},
    {"name: mean-age", "name: ~", "job.yaml:4: metadata.name: expected a string, found nothing"},
    {"    - region", "    - 10",
     "job.yaml:12: workload.args[1]: expected a string (in quotes, if 10 is meant as one), found "
     "10"},
    {"    - region", "    - 1e3",
     "job.yaml:12: workload.args[1]: expected a string (in quotes, if 1e3 is meant as one), found "
     "1e3"},
    {"    - region", "    - 12:30:00",
     "job.yaml:12: workload.args[1]: expected a string (in quotes, if 12:30:00 is meant as one), "
     "found 12:30:00"},
    {"    - region", "    - 0x1F",
     "job.yaml:12: workload.args[1]: expected a string (in quotes, if 0x1F is meant as one), "
     "found 0x1F"},
    {"    - region", "    - -.inf",
     "job.yaml:12: workload.args[1]: expected a string (in quotes, if -.inf is meant as one), "
     "found -.inf"},
    {"ZONE: eu", "ZONE: no",
     "job.yaml:14: workload.env.ZONE: expected a string (in quotes, if no is meant as one), found "
     "no"},
    {"encrypted: true", "encrypted: yes",
     "job.yaml:8: workload.encrypted: expected true or false, found yes"},
    {"encrypted: true", "encrypted: \"true\"",
     "job.yaml:8: workload.encrypted: expected true or false, found \"true\""},
    {"attempts: 3", "attempts: \"3\"",
     "job.yaml:31: attempts: expected an integer in 1..5, found \"3\""},
    {"attempts: 3", "attempts: 03", "job.yaml:31: attempts: expected an integer in 1..5, found 03"},
    {"attempts: 3", "attempts: -1", "job.yaml:31: attempts: expected an integer in 1..5, found -1"},
    {"attempts: 3", "attempts: 9999999999999999999",
     "job.yaml:31: attempts: expected an integer in 1..5, found 9999999999999999999"},
    /* ranges and units */
    {"attempts: 3", "attempts: 6", "job.yaml:31: attempts: expected an integer in 1..5, found 6"},
    {"512MiB", "512MB",
     "job.yaml:27: resources.memory: expected a size in 4MiB..1024GiB, as bytes or with KiB, MiB "
     "or GiB, found 512MB"},
    {"512MiB", "0.5GiB",
     "job.yaml:27: resources.memory: expected a size in 4MiB..1024GiB, as bytes or with KiB, MiB "
     "or GiB, found 0.5GiB"},
    {"512MiB", "999999999999999GiB",
     "job.yaml:27: resources.memory: expected a size in 4MiB..1024GiB, as bytes or with KiB, MiB "
     "or GiB, found 999999999999999GiB"},
    {"512MiB", "3MiB",
     "job.yaml:27: resources.memory: expected a size in 4MiB..1024GiB, found 3MiB"},
    {"512MiB", "1025GiB",
     "job.yaml:27: resources.memory: expected a size in 4MiB..1024GiB, found 1025GiB"},
    {"tmp: 0", "tmp: 17GiB",
     "job.yaml:29: resources.tmp: expected a size in 0..16GiB, found "
     "17GiB"},
    {"tmp: 0", "scratch: 1025GiB",
     "job.yaml:29: resources.scratch: expected a size in 0..1024GiB, found 1025GiB"},
    {"tmp: 0", "scratch: 15MiB",
     "job.yaml:29: resources.scratch: expected 0, or at least 16MiB, found 15MiB"},
    {"tmp: 0", "scratch: 4G",
     "job.yaml:29: resources.scratch: expected a size in 0..1024GiB, as bytes or with KiB, MiB or "
     "GiB, found 4G"},
    {"tmp: 0", "scratch: 1GiB\n  tmp: 0\n  x: 1",
     "job.yaml:31: resources.x: expected one of cpu, memory, pids, tmp, scratch, lockMemory, "
     "hugepages, numaNode, cpuPinning, found \"x\""},
    {"tmp: 0", "lockMemory: yes",
     "job.yaml:29: resources.lockMemory: expected true or false, found yes"},
    {"tmp: 0", "hugepages: 4MiB",
     "job.yaml:29: resources.hugepages: expected one of none, 2MiB, 1GiB (did you mean 2MiB?), "
     "found 4MiB"},
    {"tmp: 0", "hugepages: true",
     "job.yaml:29: resources.hugepages: expected one of none, 2MiB, 1GiB (in quotes, if true is "
     "meant as one), found true"},
    {"tmp: 0", "numaNode: 1024",
     "job.yaml:29: resources.numaNode: expected any, or an integer in 0..1023, found 1024"},
    {"tmp: 0", "numaNode: -1",
     "job.yaml:29: resources.numaNode: expected any, or an integer in 0..1023, found -1"},
    {"tmp: 0", "numaNode: first",
     "job.yaml:29: resources.numaNode: expected any, or an integer in 0..1023, found first"},
    {"tmp: 0", "numaNode: \"any\"",
     "job.yaml:29: resources.numaNode: expected any, or an integer in 0..1023, found \"any\""},
    {"tmp: 0", "cpuPinning: 2",
     "job.yaml:29: resources.cpuPinning: expected true or false, found 2"},
    {"64KiB", "65MiB", "job.yaml:35: output.maxBytes: expected a size in 1..64MiB, found 65MiB"},
    {"\"1.5\"", "1.2345",
     "job.yaml:26: resources.cpu: expected CPUs in 10m..64, as 2, 1.5 or 500m, found 1.2345"},
    {"\"1.5\"", "two",
     "job.yaml:26: resources.cpu: expected CPUs in 10m..64, as 2, 1.5 or 500m, found two"},
    {"\"1.5\"", "9m", "job.yaml:26: resources.cpu: expected CPUs in 10m..64, found 9m"},
    {"\"1.5\"", "\"65\"", "job.yaml:26: resources.cpu: expected CPUs in 10m..64, found \"65\""},
    {"90s", "90",
     "job.yaml:30: timeout: expected a duration in 1s..168h, with s, m or h, found 90"},
    {"90s", "1d",
     "job.yaml:30: timeout: expected a duration in 1s..168h, with s, m or h, found 1d"},
    {"90s", "0s", "job.yaml:30: timeout: expected a duration in 1s..168h, found 0s"},
    {"90s", "169h", "job.yaml:30: timeout: expected a duration in 1s..168h, found 169h"},
    /* shapes and rules between fields: the check is that of the normal form; here, its lines */
    {IMAGE, "alpine:3",
     "job.yaml:7: workload.image: expected sha256: and 64 lower-case hex digits, found alpine:3"},
    {"/data/patients", "data",
     "job.yaml:19: datasets[0].mount: expected an absolute path, found data"},
    {"/data/visits", "/data/patients/v",
     "job.yaml:21: datasets[1].mount: expected a path apart from datasets[0].mount "
     "/data/patients, found \"/data/patients/v\""},
    {"visits.", "patients.",
     "job.yaml:20: datasets[1].id: expected an id other than that of datasets[0], found "
     "\"patients.abcdefghijklmnopqrstuvwxyz\""},
    {"  path: /output", "  path: /tmp",
     "job.yaml:34: output.path: expected a path other than / and outside /proc, /sys, /dev and "
     "/tmp, found /tmp"},
    {"path: mean.csv", "path: a/../b",
     "job.yaml:37: output.files[0].path: expected a path without empty, '.' or '..' components, "
     "found a/../b"},
    {"    ZONE: eu", "    MY-ZONE: eu",
     "job.yaml:14: workload.env.MY-ZONE: expected a name of letters, digits and '_', not a digit "
     "first, found \"MY-ZONE\""},
    {"    - region", "    - \"a\\0b\"",
     "job.yaml:12: workload.args[1]: expected text without NUL, found \"a\\x00b\""},
    {"    - region", "    - \"a\\x1bb\"",
     "job.yaml:12: workload.args[1]: expected text without control characters, found "
     "\"a\\x1bb\""},
    {"mode: preferred", "mode: prefered",
     "job.yaml:23: tee.mode: expected one of required, preferred, none (did you mean preferred?), "
     "found prefered"},
    {"[snp, tdx]", "[snp, snp]",
     "job.yaml:24: tee.types[1]: expected each item once, found \"snp\" again"},
    {"[snp, tdx]", "[]",
     "job.yaml:24: tee.types: expected at least 1 item unless mode is none, found none"},
    {"holdAt: 20", "holdAt: 61",
     "job.yaml:46: gate.holdAt: expected at most rejectAt, which is 60, found 61"},
    /* recipients */
    {"- self", "- nobody.jwk",
     "job.yaml:40: output.recipients[0]: expected self, a public P-256 JWK or the path of one, "
     "found nobody.jwk, cannot be read: No such file or directory"},
    {"- self", "- /dev/zero",
     "job.yaml:40: output.recipients[0]: expected self, a public P-256 JWK or the path of one, "
     "found /dev/zero, not a file of at most 4096 bytes"},
    {"- self", "-",
     "job.yaml:40: output.recipients[0]: expected self, a public P-256 JWK or the path of one, "
     "found nothing"},
    {"- self", "- self\n    - self",
     "job.yaml:41: output.recipients[1]: expected each key once, found key %s again"},
    {"crv: P-256", "crv: P-384",
     "job.yaml:41: output.recipients[1].crv: expected P-256, found P-384"},
    {"      y: " JWK_Y, "      y: " JWK_X,
     "job.yaml:41: output.recipients[1]: expected a point on P-256, found x and y that are not"},
    {"      y: " JWK_Y "\n", "      y: " JWK_Y "\n      d: c2VjcmV0\n",
     "job.yaml:41: output.recipients[1]: expected a public P-256 JWK, found a private key"},
    {"      y: " JWK_Y "\n", "      y: {}\n",
     "job.yaml:44: output.recipients[1].y: expected a string, found a mapping"},
    /* YAML itself */
    {"name: mean-age", "name: &a mean-age",
     "job.yaml:4: metadata.name: expected a value without an anchor, found an anchor"},
    {"name: mean-age", "name: *a",
     "job.yaml:4: metadata.name: expected a value written out, found an alias"},
    {"name: mean-age", "name: !!str mean-age",
     "job.yaml:4: metadata.name: expected a value without a tag, found a tag"},
    {"name: mean-age", "name: ! mean-age",
     "job.yaml:4: metadata.name: expected a value without a tag, found a tag"},
    {"[snp, tdx]", "&t [snp, tdx]",
     "job.yaml:24: tee.types: expected a value without an anchor, found an anchor"},
    {"tee:\n", "tee: !!map\n", "job.yaml:22: tee: expected a value without a tag, found a tag"},
    {"kind: Job", "<<: {kind: Job}",
     "job.yaml:2: <<: expected one of apiVersion, kind, metadata, workload, datasets, tee, "
     "resources, timeout, attempts, network, output, gate, found \"<<\""},
    {"kind: Job", "[kind]: Job", "job.yaml:2: spec: expected a field name, found a list"},
    {"  maxVerbatimPercent: 5\n", "  maxVerbatimPercent: 5\n---\nkind: Job\n",
     "job.yaml:49: spec: expected one document, found a second one"},
    {"apiVersion:", "%TAG ! tag:example.org,2000:\n---\napiVersion:",
     "job.yaml:1: spec: expected a document without tags, found a %TAG directive"},
    {"name: mean-age", "name: mean: age",
     "job.yaml:4: metadata: expected well-formed YAML, found a mistake (mapping values are not "
     "allowed in this context)"},
    {"maxVerbatimPercent: 5", "maxVerbatimPercent: \"5",
     "job.yaml:49: gate.maxVerbatimPercent: expected well-formed YAML, found a mistake (found "
     "unexpected end of stream)"},
};

static void every_mistake_has_its_line(void **state)
{
    size_t wrong = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(edits); i++) {
        _cleanup_free_ char *text = edited(edits[i].from, edits[i].to);
        const char *hole = strstr(edits[i].msg, "%s");
        _cleanup_free_ char *msg =
            hole ? xasprintf("%.*s%s%s", (int)(hole - edits[i].msg), edits[i].msg,
                             jkey_thumbprint(self_key), hole + 2)
                 : xstrdup(edits[i].msg);
        wrong += !refused_with(BYTES_STR(text), msg);
    }
    assert_int_equal(wrong, 0);
}

static void whole_texts_are_refused(void **state)
{
    static const struct {
        const char *text, *msg;
    } cases[] = {
        {"", "job.yaml:1: spec: expected a job, found an empty file"},
        {"# nothing\n", "job.yaml:2: spec: expected a job, found an empty file"},
        {"---\n", "job.yaml:2: spec: expected a mapping, found nothing"},
        {"job", "job.yaml:1: spec: expected a mapping, found job"},
        {"[[[[[[[[[[[[[[[[", "job.yaml:1: spec: expected a mapping, found a list"},
        {"workload: {args: [[[[[[[[[[",
         "job.yaml:1: workload.args[0]: expected a string, found a list"},
        {"{}", "job.yaml:1: apiVersion: expected coffer/v1, found nothing"},
        {"kind: \xff\n", "job.yaml:1: spec: expected well-formed YAML, found a mistake (invalid "
                         "leading UTF-8 octet)"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        expect_error(cases[i].text, cases[i].msg);
    }
    expect_error_n(BYTES("kind: Job\0", 10), "job.yaml:1: spec: expected well-formed YAML, found "
                                             "a mistake (control characters are not allowed)");
}

static void texts_are_bounded(void **state)
{
    (void)state;
    size_t n = SPEC_YAML_MAX_BYTES + 1;
    _cleanup_free_ char *text = xmalloc(n);
    struct spec *s = NULL;
    struct err e = {0};

    memset(text, '\n', n);
    assert_int_equal(spec_from_yaml("job.yaml", BYTES(text, n), self_key, &s, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_string_equal(e.msg, "job.yaml:1: spec: expected at most 262144 bytes, found 262145");

    /* As deep as the text allows: refused at the second level, and soon. */
    memset(text, '[', n);
    expect_error_n(BYTES(text, n - 1), "job.yaml:1: spec: expected a mapping, found a list");
}

static void lists_are_bounded_while_read(void **state)
{
    (void)state;
    _cleanup_buf_ struct buf b = BUF_INIT(SPEC_YAML_MAX_BYTES);

    assert_int_equal(buf_addf(&b, NULL, "workload:\n  args:\n"), 0);
    for (int i = 0; i <= SPEC_MAX_ARGS; i++) {
        assert_int_equal(buf_addf(&b, NULL, "    - x\n"), 0);
    }
    expect_error_n(buf_bytes(&b),
                   "job.yaml:259: workload.args: expected at most 256 items, found more");
    buf_done(&b);
    assert_int_equal(buf_addf(&b, NULL, "workload:\n  env:\n"), 0);
    for (int i = 0; i <= SPEC_MAX_ENV; i++) {
        assert_int_equal(buf_addf(&b, NULL, "    V%d: x\n", i), 0);
    }
    expect_error_n(buf_bytes(&b),
                   "job.yaml:259: workload.env: expected at most 256 members, found more");
    buf_done(&b);
    assert_int_equal(buf_addf(&b, NULL, "output:\n  files:\n"), 0);
    for (int i = 0; i <= SPEC_MAX_FILES; i++) {
        assert_int_equal(buf_addf(&b, NULL, "    - {path: f%d, type: text/csv}\n", i), 0);
    }
    expect_error_n(buf_bytes(&b),
                   "job.yaml:67: output.files: expected at most 64 items, found more");
}

static void self_needs_a_key(void **state)
{
    (void)state;
    struct spec *s = NULL;
    struct err e = {0};

    assert_int_equal(spec_from_yaml("job.yaml", BYTES_STR(full), NULL, &s, &e), -1);
    assert_string_equal(e.msg, "job.yaml:40: output.recipients[0]: expected a recipient, found "
                               "self, but no key of the consumer is known");
    assert_int_equal(spec_from_yaml("job.yaml", BYTES_STR(small), NULL, &s, &e), -1);
    assert_string_equal(e.msg, "job.yaml:1: output.recipients: expected a recipient, found self, "
                               "but no key of the consumer is known");
    assert_null(s);
}

/* A recipient's file is found beside the spec's, wherever the program runs. */
static void recipients_come_from_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/coffer-spec-XXXXXX";
    _cleanup_jkey_ struct jkey *k = NULL;
    _cleanup_spec_ struct spec *s = NULL;
    _cleanup_free_ char *text = edited("- self", "- lab.jwk");
    struct err e = {0};

    assert_non_null(mkdtemp(dir));
    _cleanup_free_ char *yaml = xasprintf("%s/job.yaml", dir);
    _cleanup_free_ char *jwk = xasprintf("%s/lab.jwk", dir);
    assert_int_equal(jkey_generate(&k, NULL), 0);
    assert_int_equal(jkey_write_public(jwk, k, NULL), 0);
    if (spec_from_yaml(yaml, BYTES_STR(text), self_key, &s, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_string_equal(jkey_thumbprint(s->recipients[0]), jkey_thumbprint(k));

    FILE *f = fopen(jwk, "w");
    assert_non_null(f);
    fputs("{}", f);
    fclose(f);
    struct spec *none = NULL;
    assert_int_equal(spec_from_yaml(yaml, BYTES_STR(text), self_key, &none, &e), -1);
    _cleanup_free_ char *msg =
        xasprintf("%s:40: output.recipients[0]: expected a file with a public P-256 JWK, found "
                  "lab.jwk, which is not one",
                  yaml);
    assert_string_equal(e.msg, msg);
    unlink(jwk);
    rmdir(dir);
}

/* The reference for users: its examples work, and it has each field with its default. */

static char *read_reference(void)
{
    _cleanup_fclose_ FILE *f = fopen("docs/JOB-SPEC.md", "re");
    char *text = xcalloc(1, 65536);

    if (!f) {
        free(text);
        return NULL;
    }
    assert_in_range(fread(text, 1, 65535, f), 1000, 65534);
    return text;
}

static char *block(const char **at, const char *fence)
{
    const char *start = strstr(*at, fence);

    if (!start) {
        return NULL;
    }
    start += strlen(fence);
    const char *end = strstr(start, "\n```\n");
    assert_non_null(end);
    *at = end + 1;
    return xstrndup(start, (size_t)(end - start) + 1);
}

static void expect_fields(const char *doc, const struct field *f, const char *prefix)
{
    for (size_t i = 0; i < f->n_sub; i++) {
        const struct field *m = &f->sub[i];
        int of_objects = m->kind == F_LIST && m->sub->kind == F_OBJECT;
        _cleanup_free_ char *path = xasprintf(
            "%s%s%s", prefix, m->name,
            m->kind == F_LIST && m->sub->kind != F_STRING && m->sub->kind != F_ENUM ? "[]" : "");
        _cleanup_free_ char *below = xasprintf("%s.", path);
        if (m->kind == F_OBJECT || of_objects) {
            expect_fields(doc, of_objects ? m->sub : m, below);
            continue;
        }
        _cleanup_free_ char *row_start = xasprintf("\n| `%s` |", path);
        const char *row = strstr(doc, row_start);
        if (!row) {
            fail_msg("no row for %s", path);
        }
        _cleanup_free_ char *line = xstrndup(row + 1, strcspn(row + 1, "\n"));
        int scalar = m->dflt && m->kind != F_LIST && m->kind != F_MAP;
        _cleanup_free_ char *cell = m->required ? xstrdup("| required |")
                                    : scalar    ? xasprintf("| `%s` |", m->dflt)
                                                : xstrdup("|");
        if (!strstr(line, cell)) {
            fail_msg("%s: no \"%s\" in: %s", path, cell, line);
        }
    }
}

static void reference_tells_the_truth(void **state)
{
    (void)state;
    _cleanup_free_ char *doc = read_reference();
    size_t n = 0;

    if (!doc) {
        fail_msg("docs/JOB-SPEC.md cannot be read: run this from the root of the tree");
    }
    const char *at = doc;
    for (;; n++) {
        _cleanup_free_ char *yaml = block(&at, "```yaml\n");
        if (!yaml) {
            break;
        }
        char *file = strstr(yaml, "    - keys/");
        if (file) {
            memmove(file, strchr(file, '\n') + 1, strlen(strchr(file, '\n')));
        }
        spec_free(read_ok(yaml));
    }
    assert_int_equal(n, 2);

    at = doc;
    _cleanup_free_ char *text = block(&at, "```json\n");
    _cleanup_json_ json_t *j = NULL;
    _cleanup_spec_ struct spec *s = NULL;
    assert_int_equal(json_parse("spec", BYTES_STR(text), 1 << 16, &j, NULL), 0);
    assert_int_equal(spec_from_json(j, &s, NULL), 0);
    assert_non_null(strstr(doc, s->digest_hex));
    assert_non_null(strstr(doc, s->job_id));
    expect_fields(doc, &spec_root, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_example_is_read),
        cmocka_unit_test(defaults_are_as_documented),
        cmocka_unit_test(normal_form_gives_the_same_digest),
        cmocka_unit_test(spelling_does_not_matter),
        cmocka_unit_test(what_needs_a_vm_is_read),
        cmocka_unit_test(units_are_exact),
        cmocka_unit_test(every_mistake_has_its_line),
        cmocka_unit_test(whole_texts_are_refused),
        cmocka_unit_test(texts_are_bounded),
        cmocka_unit_test(lists_are_bounded_while_read),
        cmocka_unit_test(self_needs_a_key),
        cmocka_unit_test(recipients_come_from_files),
        cmocka_unit_test(reference_tells_the_truth),
    };

    return cmocka_run_group_tests(tests, make_key, drop_key);
}
