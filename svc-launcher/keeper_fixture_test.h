/* The launcher's side of a keeper, for tests. */
#ifndef COFFER_LAUNCHER_KEEPER_FIXTURE_TEST_H
#define COFFER_LAUNCHER_KEEPER_FIXTURE_TEST_H

#include <poll.h>
#include <sys/wait.h>
#include <time.h>

#include "svc-launcher/link.h"

/* What a keeper has said: lines, each with its newline. */
struct heard {
    char life[8192], log[8192];
    int hello, ended, gone;
    struct link_end end;
    uint64_t seq;
};

static inline void heard_add(char *text, struct bytes line)
{
    size_t n = strlen(text);

    snprintf(text + n, 8192 - n, "%.*s\n", (int)line.n, (const char *)line.p);
}

/* Waits at most `ms` for one message, and takes it. */
static inline void heard_wait(struct heard *t, const struct cvm_handle *h, int ms)
{
    struct pollfd p = {.fd = h->link_fd, .events = POLLIN};
    uint8_t packet[LINK_PACKET_MAX];
    struct link_msg m;
    struct err e = {0};

    poll(&p, 1, ms);
    int rc = link_recv(h->link_fd, packet, &m);
    t->gone = rc < 0;
    if (rc <= 0) {
        return;
    }
    if (m.kind == LINK_HELLO) {
        assert_int_equal(m.seq, LINK_VERSION);
        t->hello = 1;
        return;
    }
    assert_true(t->hello);
    assert_true(m.seq > t->seq);
    t->seq = m.seq;
    if (m.kind == LINK_LIFECYCLE) {
        heard_add(t->life, m.data);
    } else if (m.kind == LINK_LOG) {
        heard_add(t->log, m.data);
    } else {
        assert_int_equal(m.kind, LINK_END);
        assert_int_equal(link_end_parse(m.data, &t->end, &e), 0);
        t->ended = 1;
    }
}

static inline void heard_ack(const struct heard *t, const struct cvm_handle *h)
{
    link_send(h->link_fd, LINK_ACK, t->seq, BYTES(NULL, 0));
}

/* Until `want` is in `text`, one of the two of `t`. */
static inline void heard_expect(struct heard *t, const struct cvm_handle *h, const char *text,
                                const char *want)
{
    for (int i = 0; i < 4000 && !strstr(text, want) && !t->gone && !t->ended; i++) {
        heard_wait(t, h, 10);
    }
    if (!strstr(text, want)) {
        fail_msg("expected %s in: %s", want, text);
    }
}

/* Until its end, which is acknowledged. */
static inline void heard_end(struct heard *t, const struct cvm_handle *h)
{
    for (int i = 0; i < 4000 && !t->ended && !t->gone; i++) {
        heard_wait(t, h, 10);
    }
    heard_ack(t, h);
}

/* Until the keeper, a child, has ended: its wait status. */
static inline int heard_reap(struct heard *t, const struct cvm_handle *h)
{
    int status = 0;

    heard_end(t, h);
    for (int i = 0; i < 2000; i++) {
        struct timespec pause = {.tv_nsec = 10000000};
        if (waitpid(h->pid, &status, WNOHANG) == h->pid) {
            close(h->link_fd);
            close(h->pid_fd);
            return status;
        }
        nanosleep(&pause, NULL);
    }
    fail_msg("the keeper does not end");
    return -1;
}

/* Starts it as a launcher that has recorded it. */
static inline void heard_launch(struct heard *t, const struct backend *b,
                                const struct backend_env *env, const struct backend_launch *l,
                                struct cvm_handle *ret)
{
    struct err e = {0};

    memset(t, 0, sizeof(*t));
    if (b->launch(env, l, ret, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(link_send(ret->link_fd, LINK_GO, 0, BYTES(NULL, 0)), 0);
}

#endif
