#include "common/natsconf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/bus_parse.h"
#include "common/fileio.h"
#include "common/natsconf_int.h"
#include "common/nkey.h"

#define CONF_MAX_BYTES (1u << 20)
#define HOSTS_MAX 256
#define STORE_DEFAULT_BYTES (16LL << 30)

uint16_t natsconf_free_port(void)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) < 0) {
        return 0;
    }
    return ntohs(a.sin_port);
}

char *natsconf_seed_path(const char *dir, enum service s, const char *host)
{
    return s == SVC_LAUNCHER ? xasprintf("%s/launcher-%s.seed", dir, host)
                             : xasprintf("%s/%s.seed", dir, service_name(s));
}

/* The seed in `path`, made if there is none, and its public key. */
static int user_key(const char *path, char ret[NKEY_PUBLIC_CHARS + 1], struct err *e)
{
    _cleanup_secret_ struct secret *seed = NULL;

    if (access(path, F_OK) == 0) {
        if (nkey_read_seed(path, &seed, e) < 0) {
            return -1;
        }
    } else {
        seed = nkey_new_user_seed();
        if (secret_write_file(path, seed, e) < 0) {
            return -1;
        }
    }
    return nkey_public(seed, ret, e);
}

static int add_list(struct buf *b, const char *what, const struct perms *p, struct err *e)
{
    if (buf_addf(b, e, "        %s: { allow: [\n", what) < 0) {
        return -1;
    }
    for (size_t i = 0; i < p->n; i++) {
        if (buf_addf(b, e, "          \"%s\"\n", p->v[i]) < 0) {
            return -1;
        }
    }
    return buf_addf(b, e, "        ] }\n");
}

static int add_user(struct buf *b, const char *who, const char *seed_path, const struct perms *pub,
                    const struct perms *sub, struct err *e)
{
    char key[NKEY_PUBLIC_CHARS + 1];

    if (user_key(seed_path, key, e) < 0 ||
        buf_addf(b, e, "      # %s\n      { nkey: \"%s\", permissions: {\n", who, key) < 0 ||
        add_list(b, "publish", pub, e) < 0 || add_list(b, "subscribe", sub, e) < 0) {
        return -1;
    }
    return buf_addf(b, e, "      } }\n");
}

static int add_service(struct buf *b, const char *dir, enum service s, const char *host,
                       struct err *e)
{
    _cleanup_free_ char *path = natsconf_seed_path(dir, s, host);
    _cleanup_free_ char *who =
        host ? xasprintf("%s on %s", service_name(s), host) : xstrdup(service_name(s));
    struct perms pub, sub;

    natsconf_permissions(s, host, &pub, &sub);
    return add_user(b, who, path, &pub, &sub, e);
}

static int add_users(struct buf *b, const struct natsconf_opts *o, struct err *e)
{
    _cleanup_free_ char *admin = xasprintf("%s/admin.seed", o->dir);
    struct perms pub, sub;

    natsconf_admin_permissions(&pub, &sub);
    if (add_user(b, "admin: makes streams and consumers", admin, &pub, &sub, e) < 0) {
        return -1;
    }
    for (int s = 0; s < SVC_N; s++) {
        if (s != SVC_LAUNCHER && add_service(b, o->dir, (enum service)s, NULL, e) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < o->n_hosts; i++) {
        if (add_service(b, o->dir, SVC_LAUNCHER, o->hosts[i], e) < 0) {
            return -1;
        }
    }
    return 0;
}

static int add_server(struct buf *b, const struct natsconf_opts *o, struct err *e)
{
    int64_t store = o->max_store_bytes > 0 ? o->max_store_bytes : STORE_DEFAULT_BYTES;

    if (buf_addf(b, e,
                 "# Generated from proto/subjects.def and proto/streams.def; edits are lost.\n"
                 "server_name: coffer\n"
                 "host: \"%s\"\n"
                 "port: %u\n"
                 "pid_file: \"%s/nats-server.pid\"\n"
                 "max_payload: 1048576\n"
                 "max_control_line: 4096\n"
                 "max_connections: 4096\n"
                 "max_subscriptions: 64\n"
                 "max_pending: 67108864\n"
                 "write_deadline: \"10s\"\n"
                 "ping_interval: \"30s\"\n"
                 "ping_max: 2\n"
                 "authorization: { timeout: 5 }\n"
                 "tls: { cert_file: \"%s/server.pem\", key_file: \"%s/server-key.pem\", "
                 "timeout: 5 }\n"
                 "jetstream: { store_dir: \"%s/js\", max_memory_store: 0, max_file_store: %lld }\n",
                 o->listen_host, o->port, o->dir, o->dir, o->dir, o->dir, (long long)store) < 0) {
        return -1;
    }
    return o->monitor_port ? buf_addf(b, e, "http: \"127.0.0.1:%u\"\n", o->monitor_port) : 0;
}

static int check(const struct natsconf_opts *o, struct err *e)
{
    int64_t need = 0;

    if (!o->dir || o->dir[0] != '/' || strpbrk(o->dir, "\"\\\r\n") || strlen(o->dir) > 512) {
        return err_set(e, ERR_INVALID,
                       "dir: expected an absolute path without quotes, got "
                       "\"%.80s\"",
                       o->dir ? o->dir : "");
    }
    size_t n = o->listen_host ? strlen(o->listen_host) : 0;
    if (n == 0 || n > 253 ||
        strspn(o->listen_host,
               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-") != n) {
        return err_set(e, ERR_INVALID, "listen_host: expected a name or address, got \"%.80s\"",
                       o->listen_host ? o->listen_host : "");
    }
    if (o->port == 0) {
        return err_set(e, ERR_INVALID, "port: expected 1 to 65535, got 0");
    }
    if (o->n_hosts > HOSTS_MAX) {
        return err_set(e, ERR_INVALID, "hosts: at most %d, got %zu", HOSTS_MAX, o->n_hosts);
    }
    for (size_t i = 0; i < o->n_hosts; i++) {
        if (!bus_token_ok(o->hosts[i])) {
            return err_set(e, ERR_INVALID,
                           "hosts[%zu]: expected 1 to 64 of [A-Za-z0-9_-], got \"%.80s\"", i,
                           o->hosts[i]);
        }
    }
    for (int i = 0; i < STREAM_N; i++) {
        need += streams[i].max_bytes;
    }
    if (o->max_store_bytes > 0 && o->max_store_bytes < need) {
        return err_set(e, ERR_INVALID,
                       "max_store_bytes: expected at least %lld (the streams' caps), "
                       "got %lld",
                       (long long)need, (long long)o->max_store_bytes);
    }
    return 0;
}

int natsconf_write(const struct natsconf_opts *o, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(CONF_MAX_BYTES);

    if (check(o, e) < 0) {
        return -1;
    }
    _cleanup_free_ char *conf = xasprintf("%s/nats-server.conf", o->dir);
    _cleanup_free_ char *js = xasprintf("%s/js", o->dir);
    if ((mkdir(o->dir, 0700) < 0 && errno != EEXIST) || (mkdir(js, 0700) < 0 && errno != EEXIST)) {
        return err_errno(e, "mkdir %s", js);
    }
    if (natsconf_certificates(o->dir, o->names, o->n_names, e) < 0 || add_server(&b, o, e) < 0 ||
        buf_addf(&b, e,
                 "system_account: SYS\naccounts: {\n  SYS: { users: [] }\n"
                 "  APP: {\n    jetstream: enabled\n    users: [\n") < 0 ||
        add_users(&b, o, e) < 0 || buf_addf(&b, e, "    ]\n  }\n}\n") < 0) {
        return -1;
    }
    return file_replace(conf, buf_bytes(&b), 0600, e);
}
