/* The connection: nats.c in event-loop mode on libev, made anew by us when it is lost. */
#include "common/bus_int.h"

#include <poll.h>
#include <sys/socket.h>

#include "common/nkey.h"

/* nats.c may not reconnect by itself here: in event-loop mode it keeps half a message of the old
 * connection and corrupts the first of the new one (nats.c #1007). So AllowReconnect(false), and a
 * lost connection is destroyed and made anew. */
#define BACKOFF_MIN_S 0.05
#define BACKOFF_MAX_S 5.0
/* Reads per loop turn while data waits: one TLS record holds at most 16 KiB, and what one turn
 * delivers becomes one transaction. */
#define READS_PER_TURN 16

static void conn_lost(struct bus *b);

static struct link *link_new(struct bus *b)
{
    struct link *l = xcalloc(1, sizeof(*l));

    pthread_mutex_init(&l->mu, NULL);
    l->refs = 2;
    l->bus = b;
    l->fd = -1;
    return l;
}

static void link_unref(struct link *l)
{
    pthread_mutex_lock(&l->mu);
    int left = --l->refs;
    pthread_mutex_unlock(&l->mu);
    if (left == 0) {
        pthread_mutex_destroy(&l->mu);
        free(l);
    }
}

static void link_abandon(struct link *l)
{
    pthread_mutex_lock(&l->mu);
    l->bus = NULL;
    pthread_mutex_unlock(&l->mu);
    link_unref(l);
}

/* Makes the watcher what the library last asked for. Loop thread. */
static void link_apply(struct bus *b)
{
    struct link *l = b->link;

    if (!l) {
        return;
    }
    pthread_mutex_lock(&l->mu);
    int fd = l->fd, want = l->dead ? 0 : l->want;
    unsigned gen = l->gen;
    pthread_mutex_unlock(&l->mu);
    if (gen == b->have_gen && want == b->have_want) {
        return;
    }
    ev_io_stop(b->loop, &b->io);
    b->have_gen = gen;
    b->have_want = want;
    if (want) {
        ev_io_set(&b->io, fd, want);
        ev_io_start(b->loop, &b->io);
    }
}

static void link_kick(struct link *l)
{
    pthread_mutex_lock(&l->mu);
    struct bus *b = l->bus;
    int here = b && pthread_equal(pthread_self(), b->owner);
    if (b && !here) {
        ev_async_send(b->loop, &b->async);
    }
    pthread_mutex_unlock(&l->mu);
    if (here) {
        link_apply(b);
    }
}

static natsStatus on_attach(void **user_data, void *loop, natsConnection *nc, natsSock fd)
{
    struct link *l = loop;

    (void)nc;
    pthread_mutex_lock(&l->mu);
    l->fd = fd;
    l->gen++;
    l->want = EV_READ;
    pthread_mutex_unlock(&l->mu);
    *user_data = l;
    link_kick(l);
    return NATS_OK;
}

static natsStatus link_want(struct link *l, int bit, bool add)
{
    pthread_mutex_lock(&l->mu);
    l->want = add ? l->want | bit : l->want & ~bit;
    pthread_mutex_unlock(&l->mu);
    link_kick(l);
    return NATS_OK;
}

static natsStatus on_read(void *user_data, bool add)
{
    return link_want(user_data, EV_READ, add);
}

static natsStatus on_write(void *user_data, bool add)
{
    return link_want(user_data, EV_WRITE, add);
}

/* May come from inside natsConnection_ProcessReadEvent, or from the library's timer thread. */
static natsStatus on_detach(void *user_data)
{
    struct link *l = user_data;

    pthread_mutex_lock(&l->mu);
    l->want = 0;
    l->dead = 1;
    /* Even in the loop's thread: the loss is handled later, not inside the library's call. */
    if (l->bus) {
        ev_async_send(l->bus->loop, &l->bus->async);
    }
    pthread_mutex_unlock(&l->mu);
    link_kick(l);
    return NATS_OK;
}

/* The library's callback thread. It must not read the connection's error text, which the loop's
 * thread may be writing; it only says that there is one. */
static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus err, void *closure)
{
    struct link *l = closure;

    (void)nc;
    (void)sub;
    pthread_mutex_lock(&l->mu);
    l->n_errors++;
    l->error = err;
    if (l->bus) {
        ev_async_send(l->bus->loop, &l->bus->async);
    }
    pthread_mutex_unlock(&l->mu);
}

/* The last callback of a connection. */
static void on_closed(natsConnection *nc, void *closure)
{
    (void)nc;
    link_unref(closure);
}

static natsStatus on_sign(char **error_text, unsigned char **ret, int *ret_len, const char *nonce,
                          void *closure)
{
    struct bus *b = closure;
    uint8_t *sig = malloc(NKEY_SIG_BYTES);

    *error_text = NULL;
    if (!sig || nkey_sign(b->seed, BYTES_STR(nonce), sig, NULL) < 0) {
        free(sig);
        return NATS_ERR;
    }
    *ret = sig;
    *ret_len = NKEY_SIG_BYTES;
    return NATS_OK;
}

/* Reports what the library's threads left, and a loss they noticed. */
static void on_async(struct ev_loop *loop, ev_async *w, int events)
{
    struct bus *b = w->data;
    struct link *l = b->link;

    (void)loop;
    (void)events;
    if (!l) {
        return;
    }
    pthread_mutex_lock(&l->mu);
    int n = l->n_errors, dead = l->dead;
    natsStatus status = l->error;
    l->n_errors = 0;
    pthread_mutex_unlock(&l->mu);
    if (n > 0) {
        const char *text = NULL;
        struct err e = {0};
        (void)natsConnection_GetLastError(b->nc, &text);
        err_set(&e, ERR_DENIED, "the server says: %s: %s", natsStatus_GetText(status),
                text ? text : "");
        b->stats.refused += (unsigned)n;
        bus_event(b, BUS_REFUSED, &e);
    }
    if (dead) {
        conn_lost(b);
    } else {
        link_apply(b);
    }
}

static int link_dead(struct bus *b)
{
    pthread_mutex_lock(&b->link->mu);
    int dead = b->link->dead;
    pthread_mutex_unlock(&b->link->mu);
    return dead;
}

static int more_to_read(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

static void on_io(struct ev_loop *loop, ev_io *w, int events)
{
    struct bus *b = w->data;

    (void)loop;
    if (events & EV_READ) {
        int fd = w->fd;
        for (int i = 0; i < READS_PER_TURN; i++) {
            natsConnection_ProcessReadEvent(b->nc);
            subs_drain(b);
            if (!b->nc || link_dead(b) || !more_to_read(fd)) {
                break;
            }
        }
    }
    if ((events & EV_WRITE) && b->nc && !link_dead(b)) {
        natsConnection_ProcessWriteEvent(b->nc);
    }
    if (b->nc && (link_dead(b) || natsConnection_IsClosed(b->nc))) {
        conn_lost(b);
    }
}

static void retry_later(struct bus *b)
{
    uint16_t r;

    random_bytes(&r, sizeof(r));
    /* Up to half again, so that a fleet does not come back in step. */
    double wait = b->backoff_s * (1.0 + (double)r / 131072.0);
    b->backoff_s = b->backoff_s * 2 > BACKOFF_MAX_S ? BACKOFF_MAX_S : b->backoff_s * 2;
    ev_timer_stop(b->loop, &b->retry);
    ev_timer_set(&b->retry, wait, 0);
    ev_timer_start(b->loop, &b->retry);
}

static void on_retry(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    conn_open(w->data);
}

/* Closing a connection, nats.c first waits half a second for the server's PONG, which only this
 * loop could read. When nothing is unsent there is nothing to wait for: it is told that the server
 * has nothing more to say. */
static void close_at_once(struct bus *b)
{
    if (!b->nc || !b->link || natsConnection_IsClosed(b->nc)) {
        return;
    }
    natsConnection_ProcessWriteEvent(b->nc);
    if (natsConnection_Buffered(b->nc) > 0) {
        return;
    }
    pthread_mutex_lock(&b->link->mu);
    int fd = b->link->dead ? -1 : b->link->fd;
    pthread_mutex_unlock(&b->link->mu);
    if (fd < 0 || shutdown(fd, SHUT_RD) < 0) {
        return;
    }
    for (int i = 0; i < READS_PER_TURN && !natsConnection_IsClosed(b->nc); i++) {
        natsConnection_ProcessReadEvent(b->nc);
    }
}

/* Destroys what there is of the connection; subscriptions stay listed. */
static void conn_destroy(struct bus *b)
{
    ev_io_stop(b->loop, &b->io);
    for (size_t i = 0; i < b->n_subs; i++) {
        natsSubscription_Destroy(b->subs[i].s);
        b->subs[i].s = NULL;
    }
    close_at_once(b);
    natsConnection *nc = TAKE_PTR(b->nc);
    natsConnection_Destroy(nc);
    if (b->link) {
        link_abandon(TAKE_PTR(b->link));
    }
}

static void conn_lost(struct bus *b)
{
    struct err e = {0};

    if (!b->nc || b->freeing) {
        return;
    }
    const char *text = NULL;
    (void)natsConnection_GetLastError(b->nc, &text);
    err_set(&e, ERR_IO, "lost the connection to %s%s%s", b->url, text && text[0] ? ": " : "",
            text ? text : "");
    b->last_error = e;
    conn_destroy(b);
    js_lost(b);
    retry_later(b);
    bus_event(b, BUS_LOST, &e);
    request_lost(b);
}

static natsStatus set_options(struct bus *b, natsOptions *o, struct link *l)
{
    natsStatus s = natsOptions_SetURL(o, b->url);

    s = s ? s : natsOptions_SetName(o, b->name);
    s = s ? s : natsOptions_SetTimeout(o, b->o.connect_timeout_ms);
    s = s ? s : natsOptions_SetSendAsap(o, true);
    s = s ? s : natsOptions_SetAllowReconnect(o, false);
    s = s ? s : natsOptions_SetPingInterval(o, BUS_PING_MS);
    s = s ? s : natsOptions_SetMaxPingsOut(o, 2);
    s = s ? s : natsOptions_SetSecure(o, true);
    s = s ? s : natsOptions_SetCATrustedCertificates(o, b->ca_pem);
    s = s ? s : natsOptions_SetExpectedHostname(o, b->tls_name);
    s = s ? s : natsOptions_SetNKey(o, b->public_key, on_sign, b);
    s = s ? s : natsOptions_SetErrorHandler(o, on_error, l);
    s = s ? s : natsOptions_SetClosedCB(o, on_closed, l);
    s = s ? s : natsOptions_SetEventLoop(o, l, on_attach, on_read, on_write, on_detach);
    return s;
}

static void connect_failed(struct bus *b, natsStatus status)
{
    natsStatus last;
    const char *text = nats_GetLastError(&last);
    struct err e = {0};

    err_set(&e, ERR_IO, "cannot connect to %s as %s: %s%s%s", b->url, b->name,
            natsStatus_GetText(status), text && text[0] ? ": " : "", text ? text : "");
    b->last_error = e;
    retry_later(b);
    bus_event(b, BUS_CONNECT_FAILED, &e);
}

void conn_open(struct bus *b)
{
    natsOptions *o = NULL;

    if (b->nc || b->freeing) {
        return;
    }
    struct link *l = link_new(b);
    b->link = l;
    b->have_gen = 0;
    b->have_want = 0;
    natsStatus s = natsOptions_Create(&o);
    s = s ? s : set_options(b, o, l);
    s = s ? s : natsConnection_Connect(&b->nc, o);
    natsOptions_Destroy(o);
    if (s != NATS_OK) {
        b->nc = NULL;
        b->link = NULL;
        ev_io_stop(b->loop, &b->io);
        link_abandon(l);
        link_unref(l); /* a connection that was never made has no closed callback */
        connect_failed(b, s);
        return;
    }
    link_apply(b);
    for (size_t i = 0; i < b->n_subs; i++) {
        struct err e = {0};
        if (sub_open(b, &b->subs[i], &e) < 0) {
            conn_lost(b);
            return;
        }
    }
    b->backoff_s = BACKOFF_MIN_S;
    b->stats.connects++;
    js_connected(b);
    bus_event(b, BUS_CONNECTED, NULL);
}

/* nats.c trusts the system's CAs beside the one it is given. Nobody but the trusted domain's own CA
 * may vouch for its server, and reading some hundred certificates at each connection takes longer
 * than the rest of it. OpenSSL looks at these variables only for those defaults. */
static void forget_system_cas(void)
{
    setenv("SSL_CERT_FILE", "/dev/null", 1);
    setenv("SSL_CERT_DIR", "/dev/null", 1);
}

void conn_init(struct bus *b)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, forget_system_cas);
    b->owner = pthread_self();
    b->backoff_s = BACKOFF_MIN_S;
    ev_io_init(&b->io, on_io, -1, EV_READ);
    b->io.data = b;
    ev_async_init(&b->async, on_async);
    b->async.data = b;
    ev_async_start(b->loop, &b->async);
    ev_timer_init(&b->retry, on_retry, 0, 0);
    b->retry.data = b;
}

void conn_close(struct bus *b)
{
    b->freeing = 1;
    ev_timer_stop(b->loop, &b->retry);
    conn_destroy(b);
    ev_async_stop(b->loop, &b->async);
}

int conn_publish(struct bus *b, natsMsg *msg, struct err *e)
{
    if (!b->nc) {
        return err_set(e, ERR_BUSY, "not connected to %s", b->url);
    }
    natsStatus s = natsConnection_PublishMsg(b->nc, msg);
    if (s == NATS_OK) {
        b->stats.out++;
        return 0;
    }
    return err_set(e, s == NATS_MAX_PAYLOAD ? ERR_TOO_LARGE : ERR_BUSY, "publishing to %s: %s",
                   natsMsg_GetSubject(msg), natsStatus_GetText(s));
}

int conn_publish_text(struct bus *b, const char *subject, const char *reply, const char *text,
                      size_t n)
{
    if (!b->nc) {
        return -1;
    }
    natsStatus s = reply ? natsConnection_PublishRequest(b->nc, subject, reply, text, (int)n)
                         : natsConnection_Publish(b->nc, subject, text, (int)n);
    return s == NATS_OK ? 0 : -1;
}
