#include "common/spec_fields.h"

/* Shapes of strings. */

static int in_set(char c, const char *more)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr(more, c));
}

#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

static int all_in_set(const char *s, const char *more)
{
    while (in_set(*s, more)) {
        s++;
    }
    return *s == '\0';
}

static const char *check_text(const char *s)
{
    (void)s;
    return NULL;
}

static const char *check_name(const char *s)
{
    if (!in_set(s[0], UPPER) || !all_in_set(s, UPPER "._-")) {
        return "letters, digits, '.', '_' and '-', a letter or digit first";
    }
    return NULL;
}

static const char *check_nonce(const char *s)
{
    return all_in_set(s, UPPER "_-") ? NULL : "letters, digits, '_' and '-'";
}

static const char *check_digest(const char *s)
{
    static const char want[] = "sha256: and 64 lower-case hex digits";

    if (strncmp(s, "sha256:", 7) != 0 || strlen(s) != 7 + 64) {
        return want;
    }
    return strspn(s + 7, "0123456789abcdef") == 64 ? NULL : want;
}

static const char *check_key_id(const char *s)
{
    if (!in_set(s[0], UPPER) || !all_in_set(s, UPPER "._:/@+-")) {
        return "letters, digits and \"._:/@+-\", a letter or digit first";
    }
    return NULL;
}

static const char *check_dataset_id(const char *s)
{
    static const char want[] = "NAME.DIGITS: 1..63 of a-z, 0-9 and '-', a dot, 26 base32 digits";
    const char *dot = strchr(s, '.');

    if (!dot || dot == s || dot - s > 63 || strlen(dot + 1) != 26) {
        return want;
    }
    for (const char *p = s; p < dot; p++) {
        if (!in_set(*p, "-")) {
            return want;
        }
    }
    return strspn(dot + 1, "abcdefghijklmnopqrstuvwxyz234567") == 26 ? NULL : want;
}

static const char *check_env_name(const char *s)
{
    if ((s[0] >= '0' && s[0] <= '9') || !s[0] || !all_in_set(s, UPPER "_")) {
        return "a name of letters, digits and '_', not a digit first";
    }
    return NULL;
}

/* Components between slashes: each there, none "." or "..". */
static const char *check_components(const char *s)
{
    for (;;) {
        size_t n = strcspn(s, "/");
        if (n == 0 || (n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.')) {
            return "a path without empty, '.' or '..' components";
        }
        if (!s[n]) {
            return NULL;
        }
        s += n + 1;
    }
}

static const char *check_dir(const char *s)
{
    if (s[0] != '/') {
        return "an absolute path";
    }
    return s[1] ? check_components(s + 1) : NULL;
}

static const char *check_mount(const char *s)
{
    static const char *const own[] = {"/proc", "/sys", "/dev", "/tmp"};
    static const char want[] = "a path other than / and outside /proc, /sys, /dev and /tmp";
    const char *bad = check_dir(s);

    if (bad) {
        return bad;
    }
    if (streq(s, "/")) {
        return want;
    }
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        size_t n = strlen(own[i]);
        if (strncmp(s, own[i], n) == 0 && (s[n] == '\0' || s[n] == '/')) {
            return want;
        }
    }
    return NULL;
}

static const char *check_rel_file(const char *s)
{
    if (s[0] == '/') {
        return "a path relative to output.path";
    }
    return check_components(s);
}

/* A component that is neither "." nor "..". */
#define COMPONENT "([^./][^/]*|[.][^./][^/]*|[.][.][^/]+)"

const struct shape_def spec_shapes[SHAPE_N] = {
    [SHAPE_TEXT] = {NULL, check_text},
    [SHAPE_NAME] = {"^[A-Za-z0-9][A-Za-z0-9._-]*$", check_name},
    [SHAPE_NONCE] = {"^[A-Za-z0-9_-]+$", check_nonce},
    [SHAPE_DIGEST] = {"^sha256:[0-9a-f]{64}$", check_digest},
    [SHAPE_KEY_ID] = {"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$", check_key_id},
    [SHAPE_DATASET_ID] = {"^[a-z0-9-]{1,63}[.][a-z2-7]{26}$", check_dataset_id},
    [SHAPE_ENV_NAME] = {"^[A-Za-z_][A-Za-z0-9_]*$", check_env_name},
    [SHAPE_DIR] = {"^/(" COMPONENT "(/" COMPONENT ")*)?$", check_dir},
    /* The schema says where it has to start; that /proc and the like are refused, the check alone.
     */
    [SHAPE_MOUNT] = {"^/" COMPONENT "(/" COMPONENT ")*$", check_mount},
    [SHAPE_REL_FILE] = {"^" COMPONENT "(/" COMPONENT ")*$", check_rel_file},
};

/* The table, innermost first. */

#define NAMED(n) .key = (n), .name = (n)
#define SUB(a) .sub = (a), .n_sub = ARRAY_LEN(a)
#define CHOICES(...)                                                                               \
    .choices = (const char *const[])                                                               \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }
#define KIB ((int64_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static const struct field metadata[] = {
    {NAMED("name"), .doc = "What people call the job; not unique.", .kind = F_STRING,
     .shape = SHAPE_NAME, .required = 1, .min = 1, .max = 63},
    {NAMED("nonce"), .doc = "Makes two otherwise equal specs two jobs; made at random when absent.",
     .kind = F_STRING, .shape = SHAPE_NONCE, .fresh = 1, .min = 16, .max = 64},
};

static const struct field image_key = {
    .doc = "A key id.", .kind = F_STRING, .shape = SHAPE_KEY_ID, .min = 1, .max = 128};
static const struct field arg = {
    .doc = "One argument.", .kind = F_STRING, .shape = SHAPE_TEXT, .min = 0, .max = 32768};
static const struct field env_value = {
    .doc = "The variable's value.", .kind = F_STRING, .shape = SHAPE_TEXT, .min = 0, .max = 32768};

static const struct field workload[] = {
    {NAMED("image"), .doc = "Digest of the image's manifest.", .kind = F_STRING,
     .shape = SHAPE_DIGEST, .required = 1, .min = 1, .max = 128},
    {NAMED("encrypted"), .doc = "Whether the layers must be encrypted; false allows a plain image.",
     .kind = F_BOOL, .dflt = "true"},
    {NAMED("imageKeys"), .doc = "Ids of the keys the image's layers are wrapped with.",
     .kind = F_LIST, .dflt = "", .max = SPEC_MAX_IMAGE_KEYS, .sub = &image_key},
    {NAMED("args"), .doc = "Arguments of the image's entry point.", .kind = F_LIST, .dflt = "",
     .max = SPEC_MAX_ARGS, .sub = &arg},
    {NAMED("env"), .doc = "Environment variables.", .kind = F_MAP, .dflt = "", .max = SPEC_MAX_ENV,
     .sub = &env_value},
    {NAMED("workdir"), .doc = "Directory the workload starts in.", .kind = F_STRING,
     .shape = SHAPE_DIR, .dflt = "/", .min = 1, .max = 255},
};

static const struct field dataset_members[] = {
    {NAMED("id"), .doc = "The dataset's id, as sealing it printed it.", .kind = F_STRING,
     .shape = SHAPE_DATASET_ID, .required = 1, .min = 1, .max = 96},
    {NAMED("mount"), .doc = "Where the workload sees it, read-only.", .kind = F_STRING,
     .shape = SHAPE_MOUNT, .required = 1, .min = 1, .max = 255},
};
static const struct field dataset = {.doc = "One dataset.", .kind = F_OBJECT, SUB(dataset_members)};

static const struct field tee_type = {
    .doc = "A kind of trusted execution environment.",
    .kind = F_ENUM,
    CHOICES("tdx", "snp", "sgx", "nitro", "cca", "se", "vtpm", "sample")};
static const struct field tee[] = {
    {NAMED("mode"),
     .doc = "required: only there; preferred: elsewhere if there is none, and the job says so; "
            "none: anywhere.",
     .kind = F_ENUM, .dflt = "required", CHOICES("required", "preferred", "none")},
    {NAMED("types"), .doc = "Acceptable kinds, best first; empty only with mode none.",
     .kind = F_LIST, .dflt = "tdx snp vtpm", .max = SPEC_MAX_TYPES, .sub = &tee_type},
};

static const struct field resources[] = {
    {.key = "cpuMillis",
     .name = "cpu",
     .doc = "CPUs: 2, 1.5, or thousandths: 500m.",
     .kind = F_CPU,
     .dflt = "1",
     .min = 10,
     .max = 64000},
    {.key = "memoryBytes",
     .name = "memory",
     .doc = "Memory.",
     .kind = F_SIZE,
     .dflt = "256MiB",
     .min = 4 * MIB,
     .max = 1024 * GIB},
    {NAMED("pids"), .doc = "Processes and threads at one time.", .kind = F_INT, .dflt = "64",
     .min = 1, .max = 4096},
    {.key = "tmpBytes",
     .name = "tmp",
     .doc = "Size of /tmp, which is in memory.",
     .kind = F_SIZE,
     .dflt = "64MiB",
     .min = 0,
     .max = 16 * GIB},
    {.key = "scratchBytes",
     .name = "scratch",
     .doc = "Size of /scratch, an encrypted disk that is gone with the VM; 0: none. Needs a VM.",
     .kind = F_SIZE,
     .dflt = "0",
     .min = 0,
     .max = 1024 * GIB},
    {NAMED("lockMemory"), .doc = "The VM's memory is locked into the host's. Needs a VM.",
     .kind = F_BOOL, .dflt = "false"},
    {NAMED("hugepages"),
     .doc = "The pages of the host that the VM's memory is made of. Needs a VM.", .kind = F_ENUM,
     .dflt = "none", CHOICES("none", "2MiB", "1GiB")},
    {NAMED("numaNode"),
     .doc =
         "The NUMA node of the host that the VM's memory and CPUs are of; any: the host chooses. "
         "Needs a VM.",
     .kind = F_NODE, .dflt = "any", .min = -1, .max = 1023},
    {NAMED("cpuPinning"), .doc = "The VM has CPUs of the host for itself. Needs a VM.",
     .kind = F_BOOL, .dflt = "false"},
};

static const struct field file_members[] = {
    {NAMED("path"), .doc = "File below output.path.", .kind = F_STRING, .shape = SHAPE_REL_FILE,
     .required = 1, .min = 1, .max = 255},
    {NAMED("type"), .doc = "What the gate inspects it as.", .kind = F_ENUM, .required = 1,
     CHOICES("text/csv", "text/plain", "application/json", "application/octet-stream")},
};
static const struct field file = {
    .doc = "One declared file; others do not leave.", .kind = F_OBJECT, SUB(file_members)};
static const struct field recipient = {
    .doc = "self (who submits), a public P-256 JWK, or the path of a file that holds one, relative "
           "to the spec's file.",
    .kind = F_JWK};

static const struct field output[] = {
    {NAMED("path"), .doc = "Directory the workload writes its output to.", .kind = F_STRING,
     .shape = SHAPE_MOUNT, .dflt = "/output", .min = 1, .max = 255},
    {NAMED("maxBytes"), .doc = "Size of all files together.", .kind = F_SIZE, .dflt = "1MiB",
     .min = 1, .max = 64 * MIB},
    {NAMED("files"), .doc = "The files that may leave.", .kind = F_LIST, .dflt = "",
     .max = SPEC_MAX_FILES, .sub = &file},
    {NAMED("recipients"), .doc = "Who can open the output.", .kind = F_LIST, .dflt = "self",
     .min = 1, .max = SPEC_MAX_RECIPIENTS, .sub = &recipient},
};

static const struct field gate[] = {
    {NAMED("holdAt"), .doc = "Risk score from which a person has to look; 101: never.",
     .kind = F_INT, .dflt = "30", .min = 0, .max = 101},
    {NAMED("rejectAt"), .doc = "Risk score from which the output is refused; 101: never.",
     .kind = F_INT, .dflt = "70", .min = 0, .max = 101},
    {NAMED("maxVerbatimPercent"),
     .doc = "Share of the output that may be copied from an input as it is.", .kind = F_INT,
     .dflt = "10", .min = 0, .max = 100},
};

static const struct field root_members[] = {
    {NAMED("apiVersion"), .doc = "Version of this form.", .kind = F_ENUM, .required = 1,
     CHOICES("coffer/v1")},
    {NAMED("kind"), .doc = "What it describes.", .kind = F_ENUM, .required = 1, CHOICES("Job")},
    {NAMED("metadata"), .doc = "Names of the job.", .kind = F_OBJECT, .required = 1, SUB(metadata)},
    {NAMED("workload"), .doc = "What runs.", .kind = F_OBJECT, .required = 1, SUB(workload)},
    {NAMED("datasets"), .doc = "What it reads.", .kind = F_LIST, .dflt = "",
     .max = SPEC_MAX_DATASETS, .sub = &dataset},
    {NAMED("tee"), .doc = "Where it may run.", .kind = F_OBJECT, SUB(tee)},
    {NAMED("resources"), .doc = "What it gets.", .kind = F_OBJECT, SUB(resources)},
    {.key = "timeoutMs",
     .name = "timeout",
     .doc = "Time one attempt may take: 90s, 10m, 2h.",
     .kind = F_DURATION,
     .dflt = "10m",
     .min = 1000,
     .max = (int64_t)7 * 24 * 3600 * 1000},
    {NAMED("attempts"), .doc = "How often it is tried.", .kind = F_INT, .dflt = "2", .min = 1,
     .max = 5},
    {NAMED("network"), .doc = "The workload has none.", .kind = F_ENUM, .dflt = "none",
     CHOICES("none")},
    {NAMED("output"), .doc = "What may leave, and to whom.", .kind = F_OBJECT, SUB(output)},
    {NAMED("gate"), .doc = "How the output is judged.", .kind = F_OBJECT, SUB(gate)},
};

const struct field spec_root = {.doc = "A Coffer job.", .kind = F_OBJECT, SUB(root_members)};
