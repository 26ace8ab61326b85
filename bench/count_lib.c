/* Preloaded into the processes of the pipeline: counts calls and passes them on. The cost is one
 * addition to a mapped page and one indirect call. */
#include "bench/count.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <nats/nats.h>
#include <openssl/evp.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static struct counts none, *mine = &none;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv(COUNT_FILE_ENV), *role = getenv(COUNT_ROLE_ENV);
    long r = role ? strtol(role, NULL, 10) : -1;
    int fd = path && r >= 0 && r < ROLE_N ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0) {
        return;
    }
    struct count_page *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED) {
        mine = &p->role[r];
    }
}

static void add(uint64_t *v, uint64_t n)
{
    __atomic_fetch_add(v, n, __ATOMIC_RELAXED);
}

/* The function this one stands in front of. */
static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    if (!f) {
        abort();
    }
    return f;
}
#define REAL(ret, name, ...)                                                                       \
    static ret (*f)(__VA_ARGS__);                                                                  \
    if (!f) {                                                                                      \
        void *p_ = real(name);                                                                     \
        memcpy(&f, &p_, sizeof(f));                                                                \
    }

EXPORT int EVP_PKEY_sign(EVP_PKEY_CTX *ctx, unsigned char *sig, size_t *siglen,
                         const unsigned char *tbs, size_t tbslen)
{
    REAL(int, "EVP_PKEY_sign", EVP_PKEY_CTX *, unsigned char *, size_t *, const unsigned char *,
         size_t)
    add(&mine->op[OP_SIGN], 1);
    return f(ctx, sig, siglen, tbs, tbslen);
}

EXPORT int EVP_PKEY_verify(EVP_PKEY_CTX *ctx, const unsigned char *sig, size_t siglen,
                           const unsigned char *tbs, size_t tbslen)
{
    REAL(int, "EVP_PKEY_verify", EVP_PKEY_CTX *, const unsigned char *, size_t,
         const unsigned char *, size_t)
    add(&mine->op[OP_VERIFY], 1);
    return f(ctx, sig, siglen, tbs, tbslen);
}

EXPORT int EVP_PKEY_derive(EVP_PKEY_CTX *ctx, unsigned char *key, size_t *keylen)
{
    REAL(int, "EVP_PKEY_derive", EVP_PKEY_CTX *, unsigned char *, size_t *)
    add(&mine->op[OP_ECDH], 1);
    return f(ctx, key, keylen);
}

EXPORT int EVP_PKEY_generate(EVP_PKEY_CTX *ctx, EVP_PKEY **pkey)
{
    REAL(int, "EVP_PKEY_generate", EVP_PKEY_CTX *, EVP_PKEY **)
    add(&mine->op[OP_KEYGEN], 1);
    return f(ctx, pkey);
}

EXPORT int EVP_PKEY_set1_encoded_public_key(EVP_PKEY *pkey, const unsigned char *pub, size_t n)
{
    REAL(int, "EVP_PKEY_set1_encoded_public_key", EVP_PKEY *, const unsigned char *, size_t)
    add(&mine->op[OP_POINT], 1);
    return f(pkey, pub, n);
}

/* Workers' databases are in memory: what the floor must do is what is durable. */
EXPORT int sqlite3_step(sqlite3_stmt *s)
{
    REAL(int, "sqlite3_step", sqlite3_stmt *)
    sqlite3 *db = sqlite3_db_handle(s);
    const char *sql = sqlite3_sql(s), *file = sqlite3_db_filename(db, "main");
    int64_t before = sqlite3_total_changes64(db);
    int rc = f(s);

    if (!file || !file[0]) {
        return rc;
    }
    if (rc == SQLITE_DONE) {
        add(&mine->op[OP_SQL], 1);
        if (sql && strncmp(sql, "COMMIT", 6) == 0) {
            add(&mine->op[OP_COMMIT], 1);
        }
    }
    int64_t after = sqlite3_total_changes64(db);
    if (after > before) {
        add(&mine->op[OP_ROW], (uint64_t)(after - before));
    }
    return rc;
}

static const struct {
    const char *prefix;
    enum flow flow;
} flows[] = {
    {"coffer.v1.job.schedule", FLOW_SCHEDULE}, {"coffer.v1.job.event.", FLOW_EVENT},
    {"coffer.v1.cvm.launch.", FLOW_LAUNCH},    {"coffer.v1.cvm.destroy.", FLOW_LAUNCH},
    {"coffer.v1.cvm.event.", FLOW_CVM_EVENT},  {"coffer.v1.evidence.submit", FLOW_EVIDENCE},
    {"coffer.v1.verdict.", FLOW_VERDICT},      {"coffer.v1.key.release.", FLOW_RELEASE},
    {"coffer.v1.result.", FLOW_RESULT},        {"coffer.v1.gate.decision.", FLOW_DECISION},
};

EXPORT natsStatus natsConnection_PublishMsg(natsConnection *nc, natsMsg *msg)
{
    REAL(natsStatus, "natsConnection_PublishMsg", natsConnection *, natsMsg *)
    const char *subject = natsMsg_GetSubject(msg);

    for (size_t i = 0; i < sizeof(flows) / sizeof(flows[0]); i++) {
        if (strncmp(subject, flows[i].prefix, strlen(flows[i].prefix)) == 0) {
            add(&mine->flow_n[flows[i].flow], 1);
            add(&mine->flow_bytes[flows[i].flow], (uint64_t)natsMsg_GetDataLength(msg));
            return f(nc, msg);
        }
    }
    add(&mine->op[OP_CORE], 1);
    return f(nc, msg);
}

EXPORT natsStatus natsConnection_Publish(natsConnection *nc, const char *subject, const void *data,
                                         int n)
{
    REAL(natsStatus, "natsConnection_Publish", natsConnection *, const char *, const void *, int)
    add(&mine->op[OP_CORE], 1);
    return f(nc, subject, data, n);
}

EXPORT natsStatus natsConnection_PublishRequest(natsConnection *nc, const char *subject,
                                                const char *reply, const void *data, int n)
{
    REAL(natsStatus, "natsConnection_PublishRequest", natsConnection *, const char *, const char *,
         const void *, int)
    add(&mine->op[OP_CORE], 1);
    return f(nc, subject, reply, data, n);
}
