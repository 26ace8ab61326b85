#include "guest/packages.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>

#include "common/fileio.h"
#include "guest/run.h"

#define ANSWER_MAX_BYTES (1u << 20)
#define ABOVE_MAX 8u

/* ---- collecting ------------------------------------------------------------------------------ */

static int put(char *to, size_t size, const char *from, size_t n, struct err *e)
{
    if (n == 0 || n >= size) {
        return err_refuse(e, ERR_INVALID, "package", "name, version and architecture, not long",
                          "\"%.*s\"", n > 60 ? 60 : (int)n, from);
    }
    for (size_t i = 0; i < n; i++) {
        if (!isgraph((unsigned char)from[i])) {
            return err_refuse(e, ERR_INVALID, "package", "printable characters", "byte 0x%02x",
                              (unsigned char)from[i]);
        }
    }
    memcpy(to, from, n);
    to[n] = '\0';
    return 0;
}

/* The index of a package of that name, which is added when it is new; -1 on error. */
static int intern(struct guest_packages *p, const char *name, size_t n, struct err *e)
{
    for (size_t i = 0; i < p->n; i++) {
        if (strlen(p->v[i].name) == n && memcmp(p->v[i].name, name, n) == 0) {
            return (int)i;
        }
    }
    if (p->n == GUEST_PACKAGES_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "packages", "at most 64", "more");
    }
    struct guest_package *v = &p->v[p->n];
    *v = (struct guest_package){0};
    return put(v->name, sizeof(v->name), name, n, e) ? -1 : (int)p->n++;
}

/* "Package: NAME", "Version: VERSION", then the package's SHA-256: what fetch-kernel.sh leaves. */
static int read_unpacked(struct guest_packages *p, struct bytes text, int *ret, struct err *e)
{
    char name[96], version[96], sha256[65];
    _cleanup_free_ char *s = xasprintf("%.*s", (int)text.n, (const char *)text.p);

    if (sscanf(s, "Package: %95s Version: %95s %64[0-9a-f]", name, version, sha256) != 3 ||
        strlen(sha256) != 64) {
        return err_refuse(e, ERR_INVALID, "package", "name, version and SHA-256", "\"%.60s\"", s);
    }
    int i = intern(p, name, strlen(name), e);
    if (i < 0 || put(p->v[i].version, sizeof(p->v[i].version), version, strlen(version), e)) {
        return -1;
    }
    memcpy(p->v[i].sha256, sha256, sizeof(sha256));
    memcpy(p->v[i].arch, "amd64", 6);
    *ret = i;
    return 0;
}

/* 1 when a "package" file says what `file` is of. */
static int unpacked(struct guest_packages *p, const char *file, int *ret, struct err *e)
{
    _cleanup_free_ char *dir = xstrdup(file);

    for (unsigned i = 0; i < ABOVE_MAX; i++) {
        char *slash = strrchr(dir, '/');
        if (!slash || slash == dir) {
            return 0;
        }
        *slash = '\0';
        _cleanup_free_ char *path = xasprintf("%s/package", dir);
        _cleanup_buf_ struct buf text = BUF_INIT(4096);
        struct err ignored;
        if (file_read(path, 4095, 0, &text, &ignored) == 0) {
            return read_unpacked(p, buf_bytes(&text), ret, e) ? -1 : 1;
        }
    }
    return 0;
}

/* Debian's /bin, /lib and /sbin are links into /usr, and dpkg knows a file by one of its names. */
static char *other_name(const char *path)
{
    return strncmp(path, "/usr/", 5) == 0 ? xstrdup(path + 4) : xasprintf("/usr%s", path);
}

/* A line of dpkg -S: "libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6". */
static int on_owner(struct guest_packages *p, char *const paths[], char *line, struct err *e)
{
    char *path = strstr(line, ": ");

    if (!path || strncmp(line, "diversion ", 10) == 0) {
        return 0;
    }
    *path = '\0';
    path += 2;
    size_t n = strcspn(line, ":,");
    for (size_t i = 0; i < p->files_n; i++) {
        if (p->of[i] < 0 && paths[i]) {
            _cleanup_free_ char *other = other_name(paths[i]);
            if (streq(paths[i], path) || streq(other, path)) {
                int at = intern(p, line, n, e);
                if (at < 0) {
                    return -1;
                }
                p->of[i] = at;
            }
        }
    }
    return 0;
}

static int ask(const char *const argv[], struct buf *ret, struct err *e)
{
    int status; /* is that of an error when one of several things is not known */

    return guest_run(argv, 1, ret, &status, e) || buf_add(ret, "", 1, e) ? -1 : 0;
}

static int ask_owners(struct guest_packages *p, char *const paths[], struct err *e)
{
    const char *argv[2 * GUEST_PACKAGE_FILES_MAX + 4] = {"dpkg", "-S", "--"};
    char *others[GUEST_PACKAGE_FILES_MAX] = {0}, *save = NULL;
    _cleanup_buf_ struct buf out = BUF_INIT(ANSWER_MAX_BYTES);
    size_t n = 3;

    for (size_t i = 0; i < p->files_n; i++) {
        if (p->of[i] < 0 && paths[i]) {
            others[i] = other_name(paths[i]);
            argv[n++] = paths[i];
            argv[n++] = others[i];
        }
    }
    argv[n] = NULL;
    int rc = n > 3 ? ask(argv, &out, e) : 0;
    for (size_t i = 0; i < p->files_n; i++) {
        free(others[i]);
    }
    for (char *l = rc || !out.n ? NULL : strtok_r((char *)out.p, "\n", &save); l;
         l = strtok_r(NULL, "\n", &save)) {
        if (on_owner(p, paths, l, e)) {
            return -1;
        }
    }
    return rc;
}

static int ask_versions(struct guest_packages *p, struct err *e)
{
    const char *argv[GUEST_PACKAGES_MAX + 5] = {"dpkg-query", "-W", "-f",
                                                "${Package} ${Version} ${Architecture}\n"};
    _cleanup_buf_ struct buf out = BUF_INIT(ANSWER_MAX_BYTES);
    char name[96], version[96], arch[16], *save = NULL;
    size_t n = 4;

    for (size_t i = 0; i < p->n; i++) {
        if (!p->v[i].version[0]) {
            argv[n++] = p->v[i].name;
        }
    }
    if (n == 4) {
        return 0;
    }
    if (ask(argv, &out, e)) {
        return -1;
    }
    for (char *l = strtok_r((char *)out.p, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        int i = sscanf(l, "%95s %95s %15s", name, version, arch) == 3
                    ? intern(p, name, strlen(name), e)
                    : err_refuse(e, ERR_INVALID, "dpkg-query", "name, version and architecture",
                                 "\"%.60s\"", l);
        if (i < 0) {
            return -1;
        }
        /* Of several architectures, that of the image. */
        if (!p->v[i].version[0] || streq(arch, "amd64") || streq(arch, "all")) {
            memcpy(p->v[i].version, version, sizeof(version));
            memcpy(p->v[i].arch, arch, sizeof(arch));
        }
    }
    return 0;
}

/* Paragraphs with "Package:", "Version:" and "SHA256:", in this order. */
static void on_record(struct guest_packages *p, char *text)
{
    char name[96] = "", version[96] = "", sha256[65], *save = NULL;

    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        if (sscanf(l, "Package: %95s", name) == 1) {
            version[0] = '\0';
        }
        (void)sscanf(l, "Version: %95s", version);
        if (sscanf(l, "SHA256: %64[0-9a-f]", sha256) != 1 || strlen(sha256) != 64) {
            continue;
        }
        for (size_t i = 0; i < p->n; i++) {
            if (streq(p->v[i].name, name) && streq(p->v[i].version, version)) {
                memcpy(p->v[i].sha256, sha256, sizeof(sha256));
            }
        }
    }
}

static int ask_digests(struct guest_packages *p, struct err *e)
{
    const char *argv[GUEST_PACKAGES_MAX + 3] = {"apt-cache", "show"};
    char *names[GUEST_PACKAGES_MAX] = {0};
    _cleanup_buf_ struct buf out = BUF_INIT(ANSWER_MAX_BYTES);
    struct err ignored;
    size_t n = 2;

    (void)e;
    for (size_t i = 0; i < p->n; i++) {
        if (!p->v[i].sha256[0]) {
            names[i] = xasprintf("%s=%s", p->v[i].name, p->v[i].version);
            argv[n++] = names[i];
        }
    }
    /* apt may know nothing: a digest is then not known. */
    if (n > 2 && ask(argv, &out, &ignored) == 0) {
        on_record(p, (char *)out.p);
    }
    for (size_t i = 0; i < p->n; i++) {
        free(names[i]);
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct guest_package *)a)->name, ((const struct guest_package *)b)->name);
}

static void sort(struct guest_packages *p)
{
    struct guest_packages was = *p;

    qsort(p->v, p->n, sizeof(p->v[0]), by_name);
    for (size_t i = 0; i < p->files_n; i++) {
        for (size_t k = 0; was.of[i] >= 0 && k < p->n; k++) {
            if (streq(p->v[k].name, was.v[was.of[i]].name)) {
                p->of[i] = (int)k;
            }
        }
    }
}

int guest_packages_of(const char *const files[], size_t n, struct guest_packages *ret,
                      struct err *e)
{
    char *paths[GUEST_PACKAGE_FILES_MAX] = {0};
    int rc = 0;

    if (n > GUEST_PACKAGE_FILES_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "files", "at most 512", "%zu", n);
    }
    *ret = (struct guest_packages){.files_n = n};
    for (size_t i = 0; i < n && rc >= 0; i++) {
        ret->of[i] = -1;
        paths[i] = files[i] ? realpath(files[i], NULL) : NULL;
        rc = paths[i] ? unpacked(ret, paths[i], &ret->of[i], e) : 0;
    }
    rc =
        rc < 0 || ask_owners(ret, paths, e) || ask_versions(ret, e) || ask_digests(ret, e) ? -1 : 0;
    for (size_t i = 0; i < n; i++) {
        free(paths[i]);
    }
    if (rc == 0) {
        sort(ret);
    }
    return rc;
}

/* ---- locking --------------------------------------------------------------------------------- */

int guest_packages_lock(const struct guest_packages *p, struct buf *ret, struct err *e)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct guest_package *v = &p->v[i];
        if (buf_addf(ret, e, "%s %s %s\n", v->name, v->version, v->sha256[0] ? v->sha256 : "-")) {
            return -1;
        }
    }
    return 0;
}

static int compare_one(const struct guest_packages *p, const struct guest_package *want,
                       struct buf *ret, int seen[], struct err *e)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct guest_package *v = &p->v[i];
        if (!streq(v->name, want->name)) {
            continue;
        }
        seen[i] = 1;
        if (!streq(v->version, want->version)) {
            return buf_addf(ret, e, "%s is version %s here, and %s in the lock\n", v->name,
                            v->version, want->version);
        }
        return v->sha256[0] && !streq(want->sha256, "-") && !streq(v->sha256, want->sha256)
                   ? buf_addf(ret, e, "%s %s has another digest than in the lock\n", v->name,
                              v->version)
                   : 0;
    }
    return buf_addf(ret, e, "%s %s is in the lock, and not in the image\n", want->name,
                    want->version);
}

int guest_packages_compare(const struct guest_packages *p, struct bytes lock, struct buf *ret,
                           struct err *e)
{
    _cleanup_free_ char *text =
        xasprintf("%.*s", (int)(lock.n > GUEST_LOCK_MAX_BYTES ? GUEST_LOCK_MAX_BYTES : lock.n),
                  (const char *)lock.p);
    int seen[GUEST_PACKAGES_MAX] = {0};
    char *rest = text, *l;

    for (unsigned line = 1; (l = strsep(&rest, "\n")); line++) {
        struct guest_package want = {0};
        char extra;
        if (l[0] == '\0' || l[0] == '#') {
            continue;
        }
        if (sscanf(l, "%95s %95s %64s %c", want.name, want.version, want.sha256, &extra) != 3 ||
            (!streq(want.sha256, "-") && strspn(want.sha256, "0123456789abcdef") != 64)) {
            return err_refuse(e, ERR_INVALID, "packages.lock", "\"name version sha256\" lines",
                              "\"%.60s\" in line %u", l, line);
        }
        if (compare_one(p, &want, ret, seen, e)) {
            return -1;
        }
    }
    for (size_t i = 0; i < p->n; i++) {
        if (!seen[i] &&
            buf_addf(ret, e, "%s %s is not in the lock\n", p->v[i].name, p->v[i].version)) {
            return -1;
        }
    }
    return 0;
}
