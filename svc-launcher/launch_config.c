#include "svc-launcher/launch_config.h"

#include "common/fileio.h"
#include "common/secret.h"

#define CA_MAX_BYTES 65536u
#define SEED_MAX_BYTES 256u

int launch_config_make(const struct config *config, const Coffer__V1__LaunchCvm *l, const char *tee,
                       const char *work_dir, struct buf *ret, struct err *e)
{
    Coffer__V1__LaunchConfig m = COFFER__V1__LAUNCH_CONFIG__INIT;
    _cleanup_buf_ struct buf ca = BUF_INIT(CA_MAX_BYTES);
    _cleanup_buf_ struct buf seed = BUF_INIT(SEED_MAX_BYTES);
    _cleanup_secret_ struct secret *s = NULL;

    const char *url = config_str(config, "worker-nats-url");
    m.nats_url = (char *)(url[0] ? url : config_str(config, "nats-url"));
    if (strncmp(m.nats_url, "tls://", 6) == 0) {
        if (file_read(config_str(config, "nats-ca"), CA_MAX_BYTES, 0, &ca, e) < 0) {
            return err_wrap(e, "nats-ca");
        }
        m.nats_ca_pem = (char *)ca.p;
    }
    if (secret_read_file(config_str(config, "worker-nats-seed"), SEED_MAX_BYTES - 1, &s, e) < 0 ||
        buf_add(&seed, secret_cp(s), secret_n(s), e) < 0) {
        return err_wrap(e, "worker-nats-seed");
    }
    seed.p[strcspn((char *)seed.p, " \r\n")] = '\0';
    m.job = l->job;
    m.attempt = l->attempt;
    m.spec_jws = l->spec_jws;
    m.tee = (char *)tee;
    m.nats_seed = (char *)seed.p;
    m.store_path = (char *)config_str(config, "store");
    m.work_dir = (char *)work_dir;
    m.deadline_ms = l->deadline_ms;
    m.no_container = config_bool(config, "no-container");
    size_t n = coffer__v1__launch_config__get_packed_size(&m);
    if (buf_reserve(ret, n, e) < 0) {
        return -1;
    }
    ret->n += coffer__v1__launch_config__pack(&m, ret->p + ret->n);
    return 0;
}
