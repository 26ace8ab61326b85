/* The subjects and streams tables as nats-server permissions. */
#include "common/natsconf.h"

#include <stdarg.h>

#include "common/bus.h"

static void add(struct perms *p, const char *fmt, ...) _printf_(2, 3);
static void add(struct perms *p, const char *fmt, ...)
{
    char s[sizeof(p->v[0])];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(s, sizeof(s), fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < p->n; i++) {
        if (streq(p->v[i], s)) {
            return;
        }
    }
    /* The tables are constant: either is a programming error, and less is allowed, not more. */
    if (n < 0 || (size_t)n >= sizeof(s) || p->n == PERMS_MAX) {
        return;
    }
    memcpy(p->v[p->n++], s, (size_t)n + 1);
}

static int has_consumer(enum service s, enum stream stream)
{
    for (size_t i = 0; i < n_consumers; i++) {
        if (consumers[i].service == s && consumers[i].stream == stream) {
            return 1;
        }
    }
    return 0;
}

static void may_publish_subject(enum service s, const char *host, int id, struct perms *p)
{
    const struct subject_info *i = &subjects[id];

    if (!i->key[0]) {
        add(p, "%s", i->name);
    } else if (streq(i->key, "service")) {
        add(p, "%s.%s", i->name, service_name(s));
    } else if (streq(i->key, "host") && s == SVC_LAUNCHER) {
        add(p, "%s.%s", i->name, host);
    } else {
        add(p, "%s.*", i->name);
    }
}

/* Where the answers to what this service takes go. */
static void may_reply(const struct subject_info *i, struct perms *p)
{
    for (int asker = 0; asker < SVC_N; asker++) {
        if (!(i->from & 1u << asker)) {
            continue;
        }
        /* Of durable messages only the client's are requests (Coffer-Reply-To). */
        if (i->style == STYLE_REQUEST || (i->style == STYLE_DURABLE && asker == SVC_CLIENT)) {
            add(p, "_INBOX_%s.>", service_name((enum service)asker));
        }
    }
}

static void may_consume(enum service s, const char *host, struct perms *p)
{
    for (size_t i = 0; i < n_consumers; i++) {
        const struct consumer_info *c = &consumers[i];
        struct bus_durable d[BUS_DURABLES_MAX];
        int n = c->service == s ? bus_durables(c, host, d) : 0;
        for (int k = 0; k < n; k++) {
            add(p, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", streams[c->stream].name, d[k].name);
            add(p, "$JS.ACK.%s.%s.>", streams[c->stream].name, d[k].name);
        }
    }
}

void natsconf_permissions(enum service s, const char *host, struct perms *ret_publish,
                          struct perms *ret_subscribe)
{
    struct perms pub = {.n = 0}, sub = {.n = 0};

    for (int id = 0; id < SUBJ_N; id++) {
        const struct subject_info *i = &subjects[id];
        if (i->from & 1u << s) {
            may_publish_subject(s, host, id, &pub);
        }
        if (!(i->to & 1u << s)) {
            continue;
        }
        may_reply(i, &pub);
        const char *key = i->key[0] ? ".*" : "";
        switch (i->style) {
        case STYLE_REQUEST:
            add(&sub, "%s%s %s", i->name, key, service_name(s));
            break;
        case STYLE_FACT:
            add(&sub, "%s%s", i->name, key);
            break;
        case STYLE_DURABLE:
            if (!has_consumer(s, i->stream)) {
                add(&sub, "%s%s", i->name, key);
            }
            break;
        }
    }
    may_consume(s, host, &pub);
    if (s == SVC_LAUNCHER) {
        add(&sub, "_INBOX_launcher.%s.>", host);
    } else {
        add(&sub, "_INBOX_%s.>", service_name(s));
    }
    *ret_publish = pub;
    *ret_subscribe = sub;
}

void natsconf_admin_permissions(struct perms *ret_publish, struct perms *ret_subscribe)
{
    struct perms pub = {.n = 0}, sub = {.n = 0};

    for (int i = 0; i < STREAM_N; i++) {
        add(&pub, "$JS.API.STREAM.CREATE.%s", streams[i].name);
        add(&pub, "$JS.API.STREAM.UPDATE.%s", streams[i].name);
        add(&pub, "$JS.API.STREAM.INFO.%s", streams[i].name);
        add(&pub, "$JS.API.CONSUMER.DURABLE.CREATE.%s.*", streams[i].name);
        add(&pub, "$JS.API.CONSUMER.INFO.%s.*", streams[i].name);
    }
    add(&sub, "_INBOX_admin.>");
    *ret_publish = pub;
    *ret_subscribe = sub;
}
