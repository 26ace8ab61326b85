/* The data directory of `coffer dev`.
 *
 *   dev.lock                    the running dev's pid, and its lock
 *   nats/                       common/natsconf.h, and nats.log
 *   scheduler/ launcher/ verifier/ kbs/ gate/    each service's own, 0700
 *   trust.json                  whom the services believe
 *   reviewer.jwk                the key that approves held results
 *   client/                     the profile that the other verbs read
 *   store/blobs/sha256, store/datasets   encrypted images and sealed datasets
 */
#include "cli/dev.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/bus.h"
#include "common/fileio.h"
#include "common/keyfile.h"
#include "common/log.h"
#include "common/natsconf.h"

#define PROFILE_MAX_BYTES 65536
#define TRUST_MAX_BYTES (1u << 20)
#define LOCK_WAIT_MS 3000

static int make_dir(const char *path, mode_t mode, struct err *e)
{
    return mkdir(path, mode) < 0 && errno != EEXIST ? err_errno(e, "mkdir %s", path) : 0;
}

/* The directories above the data directory, as mkdir -p does. */
static int make_parents(const char *path, struct err *e)
{
    _cleanup_free_ char *p = xstrdup(path);

    for (char *s = strchr(p + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = '\0';
        if (make_dir(p, 0755, e) < 0) {
            return -1;
        }
        *s = '/';
    }
    return make_dir(p, 0700, e);
}

/* ---- the lock ----------------------------------------------------------------------------------
 */

static pid_t lock_owner(int fd)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    return n > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

int dev_lock(struct dev *d, struct err *e)
{
    char text[32];

    if (make_parents(d->dir, e) < 0) {
        return -1;
    }
    char *real = realpath(d->dir, NULL);
    if (!real) {
        return err_errno(e, "--data %s", d->dir);
    }
    free(d->dir);
    d->dir = real;
    _cleanup_free_ char *path = xasprintf("%s/dev.lock", d->dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return err_errno(e, "%s", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK
                   ? err_set(e, ERR_BUSY,
                             "%s is in use by another coffer dev (pid %d); stop it, or "
                             "give this one a directory of its own with --data",
                             d->dir, (int)lock_owner(fd))
                   : err_errno(e, "lock %s", path);
    }
    if (lock_owner(fd) > 0) {
        /* It was killed. The kernel has killed its children; they may need a moment to be gone. */
        log_warn("dev.resume", "the last run (pid %d) did not end in order; resuming",
                 (int)lock_owner(fd));
        usleep(300 * 1000);
    }
    int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        return err_errno(e, "write %s", path);
    }
    d->lock_fd = TAKE_FD(fd);
    return 0;
}

void dev_unlock(struct dev *d)
{
    if (d->lock_fd >= 0) {
        if (ftruncate(d->lock_fd, 0) < 0) {
            log_warn("dev.lock", "cannot empty dev.lock: %s", strerror(errno));
        }
        close(d->lock_fd);
        d->lock_fd = -1;
    }
}

/* ---- the port ----------------------------------------------------------------------------------
 */

static int port_is_free(uint16_t port)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int on = 1;

    return fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
           bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

/* The port of the profile that an earlier run wrote; 0 when there is none. */
static uint16_t last_port(const struct dev *d)
{
    _cleanup_free_ char *path = xasprintf("%s/client/profile.json", d->dir);
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *url = json_string_value(json_object_get(j, "nats_url"));
    const char *colon = url ? strrchr(url, ':') : NULL;
    long port = colon ? strtol(colon + 1, NULL, 10) : 0;

    json_decref(j);
    return port > 0 && port < 65536 ? (uint16_t)port : 0;
}

static int pick_port(struct dev *d, struct err *e)
{
    if (d->port) {
        return port_is_free(d->port)
                   ? 0
                   : err_set(e, ERR_BUSY, "--port %u: in use by another program", d->port);
    }
    uint16_t last = last_port(d);
    if (last && port_is_free(last)) {
        d->port = last;
        return 0;
    }
    d->port = natsconf_free_port();
    if (!d->port) {
        return err_set(e, ERR_IO, "no free TCP port on 127.0.0.1");
    }
    if (last) {
        log_warn("dev.port", "port %u of the last run is in use; this one uses %u", last, d->port);
    }
    return 0;
}

/* ---- keys and trust
 * ------------------------------------------------------------------------------ */

static int load_keys(const struct dev *d, const char *service, unsigned want,
                     struct service_keys *ret, struct err *e)
{
    _cleanup_free_ char *dir = xasprintf("%s/%s", d->dir, service);

    return service_keys_load(dir, want, want, ret, e);
}

static int load_reviewer(const struct dev *d, struct jkey **ret, struct err *e)
{
    _cleanup_free_ char *path = xasprintf("%s/reviewer.jwk", d->dir);
    _cleanup_jkey_ struct jkey *k = NULL;

    if (access(path, F_OK) == 0) {
        return jkey_read_private(path, ret, e);
    }
    if (jkey_generate(&k, e) < 0 || jkey_write_private(path, k, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(k);
    return 0;
}

static int write_trust(const char *path, const struct service_keys *verifier,
                       const struct service_keys *kbs, const struct service_keys *gate,
                       const struct jkey *reviewer, struct err *e)
{
    json_t *j =
        json_pack("{s:i, s:[o], s:[o], s:o, s:[o], s:o, s:[o]}", "v", 1, "verifier",
                  jkey_public_jwk(verifier->sign), "kbs", jkey_public_jwk(kbs->sign), "kbs_seal",
                  jkey_public_jwk(kbs->seal), "gate", jkey_public_jwk(gate->sign), "gate_seal",
                  jkey_public_jwk(gate->seal), "reviewers", jkey_public_jwk(reviewer));
    _cleanup_free_ char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;

    json_decref(j);
    if (!text) {
        return err_set(e, ERR_INTERNAL, "cannot write the trust file");
    }
    return file_replace(path, BYTES_STR(text), 0644, e);
}

/* A trust file that exists is the user's: reviewers may have been added. */
static int make_trust(const struct dev *d, struct err *e)
{
    _cleanup_(service_keys_done) struct service_keys verifier = {0}, kbs = {0}, gate = {0};
    _cleanup_jkey_ struct jkey *reviewer = NULL;
    _cleanup_(trust_freep) struct trust *t = NULL;
    _cleanup_free_ char *path = xasprintf("%s/trust.json", d->dir);
    _cleanup_free_ char *copy = xasprintf("%s/client/trust.json", d->dir);
    _cleanup_buf_ struct buf b = BUF_INIT(TRUST_MAX_BYTES);

    if (load_keys(d, "verifier", KEYFILE_SIGN, &verifier, e) < 0 ||
        load_keys(d, "kbs", KEYFILE_SIGN | KEYFILE_SEAL | KEYFILE_KEK, &kbs, e) < 0 ||
        load_keys(d, "gate", KEYFILE_SIGN | KEYFILE_SEAL, &gate, e) < 0 ||
        load_reviewer(d, &reviewer, e) < 0) {
        return -1;
    }
    if (access(path, F_OK) < 0 && write_trust(path, &verifier, &kbs, &gate, reviewer, e) < 0) {
        return -1;
    }
    if (trust_read(path, &t, e) < 0 ||
        service_key_trusted(&t->verifier, "verifier", verifier.sign, e) < 0 ||
        service_key_trusted(&t->kbs, "kbs", kbs.sign, e) < 0 ||
        service_key_trusted(&t->gate, "gate", gate.sign, e) < 0) {
        return err_wrap(e, "%s", path);
    }
    if (file_read(path, TRUST_MAX_BYTES, 0, &b, e) < 0) {
        return -1;
    }
    return file_replace(copy, buf_bytes(&b), 0644, e);
}

/* ---- the client's profile
 * ------------------------------------------------------------------------ */

static int copy_secret(const char *from, const char *to, struct err *e)
{
    _cleanup_secret_ struct secret *s = NULL;

    if (secret_read_file(from, 4096, &s, e) < 0) {
        return -1;
    }
    return secret_write_file(to, s, e);
}

static int make_profile(const struct dev *d, struct err *e)
{
    _cleanup_free_ char *profile = xasprintf("%s/client/profile.json", d->dir);
    _cleanup_free_ char *store = xasprintf("%s/store", d->dir);
    _cleanup_free_ char *ca_from = xasprintf("%s/nats/ca.pem", d->dir);
    _cleanup_free_ char *ca_to = xasprintf("%s/client/nats-ca.pem", d->dir);
    _cleanup_free_ char *nats = xasprintf("%s/nats", d->dir);
    _cleanup_free_ char *seed_from = natsconf_seed_path(nats, SVC_CLIENT, NULL);
    _cleanup_free_ char *seed_to = xasprintf("%s/client/client.seed", d->dir);
    _cleanup_buf_ struct buf ca = BUF_INIT(PROFILE_MAX_BYTES);
    json_t *j = json_pack("{s:i, s:s, s:s}", "v", 1, "nats_url", d->url, "store", store);
    _cleanup_free_ char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;

    json_decref(j);
    if (!text) {
        return err_set(e, ERR_INVALID, "--data: expected a path in UTF-8");
    }
    if (file_read(ca_from, PROFILE_MAX_BYTES, 0, &ca, e) < 0 ||
        file_replace(ca_to, buf_bytes(&ca), 0644, e) < 0 ||
        copy_secret(seed_from, seed_to, e) < 0) {
        return -1;
    }
    /* Last: a profile that can be read has everything it names. */
    return file_replace(profile, BYTES_STR(text), 0644, e);
}

static int make_dirs(const struct dev *d, struct err *e)
{
    static const char *const dirs[] = {
        "nats",   "scheduler", "launcher",    "verifier",           "kbs",           "gate",
        "client", "store",     "store/blobs", "store/blobs/sha256", "store/datasets"};

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", d->dir, dirs[i]);
        if (make_dir(path, 0700, e) < 0) {
            return -1;
        }
    }
    return 0;
}

int dev_setup(struct dev *d, struct err *e)
{
    static const char *const hosts[] = {DEV_HOST};

    if (make_dirs(d, e) < 0 || pick_port(d, e) < 0) {
        return -1;
    }
    _cleanup_free_ char *nats = xasprintf("%s/nats", d->dir);
    struct natsconf_opts o = {.dir = nats,
                              .listen_host = "127.0.0.1",
                              .port = d->port,
                              .hosts = hosts,
                              .n_hosts = ARRAY_LEN(hosts)};
    if (natsconf_write(&o, e) < 0) {
        return err_wrap(e, "nats-server's configuration");
    }
    d->url = xasprintf("tls://127.0.0.1:%u", d->port);
    if (make_trust(d, e) < 0) {
        return -1;
    }
    return make_profile(d, e);
}

int dev_provision(struct dev *d, struct err *e)
{
    static const char *const hosts[] = {DEV_HOST};
    _cleanup_free_ char *ca = xasprintf("%s/nats/ca.pem", d->dir);
    _cleanup_free_ char *seed = xasprintf("%s/nats/admin.seed", d->dir);
    struct bus_opts o = {.url = d->url, .ca_file = ca, .seed_file = seed, .admin = 1};

    if (bus_provision(&o, hosts, ARRAY_LEN(hosts), e) < 0) {
        return err_wrap(e, "streams");
    }
    return 0;
}
