/* Prints docs/SUBJECTS.md from the tables, or with --check FILE says whether FILE is up to date. */
#include "common/bus.h"
#include "common/fileio.h"
#include "common/natsconf.h"

#define PAGE_MAX_BYTES (1u << 20)

static const char *const style_names[] = {
    [STYLE_REQUEST] = "request", [STYLE_DURABLE] = "durable", [STYLE_FACT] = "fact"};

static void services(struct buf *b, unsigned mask)
{
    const char *sep = "";

    for (int s = 0; s < SVC_N; s++) {
        if (mask & 1u << s) {
            (void)buf_addf(b, NULL, "%s%s", sep, service_name((enum service)s));
            sep = ", ";
        }
    }
}

static void subject_table(struct buf *b)
{
    (void)buf_addf(b, NULL,
                   "| subject | style | from → to | message | max bytes | stream | what |\n"
                   "|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < SUBJ_N; i++) {
        const struct subject_info *s = &subjects[i];
        (void)buf_addf(b, NULL, "| `%s%s%s%s` | %s | ", s->name, s->key[0] ? ".<" : "", s->key,
                       s->key[0] ? ">" : "", style_names[s->style]);
        services(b, s->from);
        (void)buf_addf(b, NULL, " → ");
        services(b, s->to);
        (void)buf_addf(b, NULL, " | `%s` | %zu | %s | %s |\n", s->message->short_name, s->max_bytes,
                       s->stream == STREAM_NONE ? "" : streams[s->stream].name, s->what);
    }
}

static void stream_table(struct buf *b)
{
    (void)buf_addf(b, NULL,
                   "| stream | retention | max age | max bytes | duplicate window |\n"
                   "|---|---|---|---|---|\n");
    for (int i = 0; i < STREAM_N; i++) {
        const struct stream_info *s = &streams[i];
        (void)buf_addf(b, NULL, "| `%s` | %s | ", s->name,
                       s->retention == RETAIN_WORK ? "work queue, discard new"
                                                   : "facts, discard old");
        if (s->max_age_s) {
            (void)buf_addf(b, NULL, "%lld h", (long long)s->max_age_s / 3600);
        } else {
            (void)buf_addf(b, NULL, "none");
        }
        (void)buf_addf(b, NULL, " | %lld MiB | %lld s |\n", (long long)(s->max_bytes >> 20),
                       (long long)s->duplicate_window_s);
    }
    (void)buf_addf(b, NULL, "\n| consumer | stream | filter | service |\n|---|---|---|---|\n");
    for (size_t i = 0; i < n_consumers; i++) {
        struct bus_durable d[BUS_DURABLES_MAX];
        int n = bus_durables(&consumers[i], "HOST", d);
        for (int k = 0; k < n; k++) {
            (void)buf_addf(b, NULL, "| `%s` | `%s` | %s | %s |\n", d[k].name,
                           streams[consumers[i].stream].name, d[k].filter,
                           service_name(consumers[i].service));
        }
    }
}

static void permission_list(struct buf *b, const char *who, const struct perms *pub,
                            const struct perms *sub)
{
    (void)buf_addf(b, NULL, "\n### %s\n\n```\n", who);
    for (size_t i = 0; i < pub->n; i++) {
        (void)buf_addf(b, NULL, "publish   %s\n", pub->v[i]);
    }
    for (size_t i = 0; i < sub->n; i++) {
        (void)buf_addf(b, NULL, "subscribe %s\n", sub->v[i]);
    }
    (void)buf_addf(b, NULL, "```\n");
}

static void page(struct buf *b)
{
    struct perms pub, sub;

    (void)buf_addf(
        b, NULL,
        "# Subjects, streams and permissions\n\n"
        "Generated from `proto/subjects.def` and `proto/streams.def` by `coffer-subjects`; a test\n"
        "fails when this page is out of date. Bodies are in `proto/coffer.proto`.\n\n"
        "* **request**: core NATS in the receiving service's queue group; the answer is a "
        "`Reply`.\n"
        "* **durable**: JetStream with `Nats-Msg-Id`; acknowledged after the receiver's commit. "
        "The\n"
        "  `Reply` to a durable request goes to the header `Coffer-Reply-To`.\n"
        "* **fact**: core NATS; lost if nobody listens.\n\n"
        "Headers: `Nats-Msg-Id`, `traceparent` (W3C), `Coffer-Job`, `Coffer-Attempt`,\n"
        "`Coffer-Reply-To`. A reply address must be in the asker's own inbox, "
        "`_INBOX_<service>.`.\n"
        "A message over its cap is dropped before it is read: a durable one is terminated, a "
        "request\n"
        "gets a refusal.\n\n## Subjects\n\n");
    subject_table(b);
    (void)buf_addf(b, NULL, "\n## Streams and consumers\n\n");
    stream_table(b);
    (void)buf_addf(b, NULL,
                   "\nConsumers are durable, pulled, explicit ack, ack wait 30 s, at most 1024 "
                   "messages unacknowledged.\n\n## Permissions\n\n"
                   "All that a user may do; a second word is the queue group. There is a launcher "
                   "user for each HOST.\n");
    for (int s = 0; s < SVC_N; s++) {
        const char *host = s == SVC_LAUNCHER ? "HOST" : NULL;
        natsconf_permissions((enum service)s, host, &pub, &sub);
        permission_list(b, service_name((enum service)s), &pub, &sub);
    }
    natsconf_admin_permissions(&pub, &sub);
    permission_list(b, "admin", &pub, &sub);
}

int main(int argc, char **argv)
{
    _cleanup_buf_ struct buf want = BUF_INIT(PAGE_MAX_BYTES), have = BUF_INIT(PAGE_MAX_BYTES);
    struct err e = {0};

    page(&want);
    if (argc == 1) {
        return fwrite(want.p, 1, want.n, stdout) == want.n ? 0 : 1;
    }
    if (argc != 3 || !streq(argv[1], "--check")) {
        fprintf(stderr, "usage: coffer-subjects [--check FILE]\n");
        return 2;
    }
    if (file_read(argv[2], PAGE_MAX_BYTES, 0, &have, &e) < 0) {
        fprintf(stderr, "coffer-subjects: %s\n", e.msg);
        return 1;
    }
    if (have.n != want.n || memcmp(have.p, want.p, want.n) != 0) {
        fprintf(stderr, "coffer-subjects: %s is out of date: run coffer-subjects > %s\n", argv[2],
                argv[2]);
        return 1;
    }
    return 0;
}
