#include "svc-launcher/supervisor_int.h"

#include <signal.h>
#include <sys/syscall.h>

#include "common/log.h"

/* One CVM from the launcher's side: what its keeper says is stored, then acknowledged; its end ends
 * the run. */

#define TELL_AGAIN_S 1.0
#define HELLO_S 5.0
#define MESSAGES_PER_CALL 32 /* so that one CVM cannot keep the loop */
#define ORPHAN_ROUNDS 20
/* Phases closer together than this are told as their last one: each told phase is a durable event
 * of the job, and nobody watches faster. */
#define PHASE_EVERY_S 0.1

static struct ev_loop *loop_of(const struct run *r)
{
    return shell_loop(r->sup->sh);
}

static void arm(struct run *r, ev_timer *t, ev_tstamp after)
{
    ev_timer_stop(loop_of(r), t);
    ev_timer_set(t, after, 0);
    ev_timer_start(loop_of(r), t);
}

void run_work_dir(const struct run *r, char *out, size_t size)
{
    snprintf(out, size, "%s/%s.%u", r->sup->cvm_dir, r->job, r->attempt);
}

void run_remove_files(struct run *r)
{
    char dir[1200], sock[LINK_PATH_MAX];
    struct err e = {0};

    run_work_dir(r, dir, sizeof(dir));
    link_path(dir, sock);
    if (remove_tree(dir, &e) < 0 || remove_tree(sock, &e) < 0) {
        log_err(LOG_WARN, "cvm.left-over", &e);
    }
}

/* ---- telling the service --------------------------------------------------------------------- */

int run_tell(struct run *r, struct backend_event *ev)
{
    struct err e = {0};

    ev->job = r->job;
    ev->attempt = r->attempt;
    if (shell_call(r->sup->sh, launcher_on_backend_event, ev, &e) < 0) {
        log_context(r->job, r->attempt);
        log_err(LOG_ERROR, "cvm.event-failed", &e);
        log_context(NULL, 0);
        return -1;
    }
    if (ev->seq > 0) {
        r->told_seq = (uint64_t)ev->seq;
    }
    return 0;
}

/* Acknowledges what is stored. A phase that waits to be told is not. */
static void ack(struct run *r)
{
    uint64_t seq = r->told ? r->end_seq : r->seen;

    if (r->h.link_fd >= 0 && seq > 0 && (r->told || !r->phase[0]) &&
        link_send(r->h.link_fd, LINK_ACK, seq, BYTES(NULL, 0)) > 0) {
        arm(r, &r->again, TELL_AGAIN_S);
    }
}

static void forget_if_over(struct run *r)
{
    if (r->told && r->over) {
        run_free(r);
    }
}

static int tell_end(struct run *r)
{
    struct backend_event ev = {
        .kind = r->end_kind, .exit_code = r->exit_code, .seq = (int64_t)r->end_seq};

    if (!r->unknown && run_tell(r, &ev) < 0) {
        arm(r, &r->again, TELL_AGAIN_S);
        return -1;
    }
    r->told = 1;
    return 0;
}

static void log_gone(const struct run *r, uint32_t dropped)
{
    log_context(r->job, r->attempt);
    log_info("cvm.gone", "%sexit code %d, %u lines dropped",
             r->end_kind == BACKEND_LOST ? "lost, " : "", r->exit_code, dropped);
    log_context(NULL, 0);
}

void run_finish(struct run *r, enum backend_event_kind kind, int exit_code)
{
    if (!r->ended) {
        r->ended = 1;
        r->end_kind = kind;
        r->exit_code = exit_code;
        log_gone(r, 0);
    }
    if (!r->told) {
        tell_end(r);
    }
    forget_if_over(r);
}

/* ---- what a CVM says ------------------------------------------------------------------------- */

/* What came after it may be stored already: then it goes without its number, which is behind. */
static int tell_phase(struct run *r)
{
    struct backend_event ev = {.kind = BACKEND_PHASE,
                               .detail = r->phase,
                               .seq = r->phase_seq > r->told_seq ? (int64_t)r->phase_seq : 0};

    r->phase_told = ev_now(loop_of(r));
    if (run_tell(r, &ev) < 0) {
        return -1;
    }
    r->phase[0] = '\0';
    return 0;
}

static void on_phase_timer(struct ev_loop *loop, ev_timer *w, int events)
{
    struct run *r = w->data;

    (void)loop;
    (void)events;
    if (r->phase[0] && !r->ended) {
        if (tell_phase(r) < 0) {
            arm(r, &r->phase_timer, TELL_AGAIN_S);
            return;
        }
        ack(r);
    }
}

static void on_phase(struct run *r, const char *phase, uint64_t seq)
{
    ev_tstamp wait = r->phase_told + PHASE_EVERY_S - ev_now(loop_of(r));

    snprintf(r->phase, sizeof(r->phase), "%s", phase);
    r->phase_seq = seq;
    if (!ev_is_active(&r->phase_timer) && (wait > 0 || tell_phase(r) < 0)) {
        arm(r, &r->phase_timer, wait > 0 ? wait : TELL_AGAIN_S);
    }
}

/* -1: it could not be stored, and is to come again. */
static int on_lifecycle(struct run *r, const struct link_msg *m)
{
    struct lifecycle l;
    Coffer__V1__Refusal refusal;
    struct err e = {0};

    if (lifecycle_parse(m->data, &l, &e) < 0) {
        log_context(r->job, r->attempt);
        log_err(LOG_WARN, "cvm.bad-line", &e);
        log_context(NULL, 0);
        return 0;
    }
    if (l.kind == BACKEND_PHASE) {
        on_phase(r, l.phase, m->seq);
        return 0;
    }
    lifecycle_refusal(&l, &refusal);
    /* That it could not be started is told with its end: only then nothing is left of it. */
    struct backend_event ev = {.kind = l.kind == BACKEND_FAILED ? BACKEND_REFUSED : l.kind,
                               .detail = l.phase,
                               .refusal = &refusal,
                               .seq = (int64_t)m->seq};
    return run_tell(r, &ev);
}

static void on_log(const struct run *r, struct bytes line)
{
    log_context(r->job, r->attempt);
    log_info("cvm.log", "%.*s", (int)line.n, (const char *)line.p);
    log_context(NULL, 0);
}

static int on_end(struct run *r, const struct link_msg *m)
{
    struct link_end end;
    struct err e = {0};

    if (link_end_parse(m->data, &end, &e) < 0) {
        log_err(LOG_ERROR, "cvm.bad-line", &e);
        return 0;
    }
    if (!r->ended) {
        r->ended = 1;
        r->end_seq = m->seq;
        r->end_kind = end.lost ? BACKEND_LOST : BACKEND_GONE;
        r->exit_code = end.exit_code;
        log_gone(r, end.dropped);
    }
    return tell_end(r);
}

static void drop_link(struct run *r)
{
    ev_io_stop(loop_of(r), &r->link);
    if (r->h.link_fd >= 0) {
        close(TAKE_FD(r->h.link_fd));
    }
}

static int on_hello(struct run *r, const struct link_msg *m)
{
    if (m->seq != LINK_VERSION) {
        log_warn("cvm.unadoptable", "its keeper speaks version %llu of the link, not %d",
                 (unsigned long long)m->seq, LINK_VERSION);
        drop_link(r);
        run_end_keeper(r, KEEPER_SIGNAL_FORGET);
        return 0;
    }
    r->greeted = 1;
    ev_timer_stop(loop_of(r), &r->stays);
    if (!r->own) {
        log_context(r->job, r->attempt);
        log_info("cvm.adopted", "pid %d of an earlier run goes on", (int)r->h.pid);
        log_context(NULL, 0);
    }
    return 0;
}

static int deal_with(struct run *r, const struct link_msg *m)
{
    int rc = 0;

    if (m->kind != LINK_HELLO && m->seq <= r->seen) {
        return 0; /* stored by an earlier launcher, or by this one */
    }
    switch (m->kind) {
    case LINK_HELLO:
        return on_hello(r, m);
    case LINK_LIFECYCLE:
        rc = on_lifecycle(r, m);
        break;
    case LINK_LOG:
        on_log(r, m->data);
        break;
    case LINK_END:
        rc = on_end(r, m);
        break;
    case LINK_GO:
    case LINK_ACK:
        return 0; /* the launcher's own words */
    }
    if (rc == 0) {
        r->seen = m->seq;
    }
    return rc;
}

/* What cannot be stored now waits in r->held, and nothing is read meanwhile. */
static void hold(struct run *r, const struct link_msg *m)
{
    r->held.n = 0;
    if (buf_reserve(&r->held, LINK_PACKET_MAX, NULL) == 0) {
        r->held.p[0] = (uint8_t)m->kind;
        for (size_t i = 1; i < LINK_HEAD_BYTES; i++) {
            r->held.p[i] = (uint8_t)(m->seq >> (64 - 8 * i));
        }
        memcpy(r->held.p + LINK_HEAD_BYTES, m->data.p, m->data.n);
        r->held.n = LINK_HEAD_BYTES + m->data.n;
    }
    ev_io_stop(loop_of(r), &r->link);
    arm(r, &r->again, TELL_AGAIN_S);
}

/* At most `max` messages. 1: there may be more. */
static int hear(struct run *r, int max)
{
    uint8_t packet[LINK_PACKET_MAX];
    struct link_msg m;
    int rc = 0;

    for (int i = 0; i < max && r->h.link_fd >= 0 && !r->held.n; i++) {
        rc = link_recv(r->h.link_fd, packet, &m);
        if (rc <= 0) {
            break;
        }
        if (deal_with(r, &m) < 0) {
            hold(r, &m);
        }
    }
    ack(r);
    if (rc < 0) {
        drop_link(r); /* the keeper ends, or will not go on with this launcher */
        if (!r->over) {
            run_end_keeper(r, SIGTERM);
        }
    }
    return rc > 0 && !r->held.n;
}

static void on_link(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop;
    (void)events;
    hear(w->data, MESSAGES_PER_CALL);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static int is_keeper(void *arg, pid_t pid)
{
    const struct supervisor *sup = arg;

    for (const struct run *r = sup->runs; r; r = r->next) {
        if (r->h.pid == pid && r->own && !r->over) {
            return 1;
        }
    }
    return 0;
}

void run_end_inhabitants(struct run *r)
{
    char dir[1200];

    run_work_dir(r, dir, sizeof(dir));
    for (int i = 0; i < ORPHAN_ROUNDS && kill_inhabitants(dir) > 0; i++) {
        usleep(5000);
    }
}

/* A keeper was killed, so that its orphans became children of this process, if the keeper was one;
 * else of another, but they are of its session still. */
static void end_orphans(struct run *r)
{
    /* The loop reaps them later; until then the dead count as descendants, so the rounds are few.
     */
    for (int i = 0;
         r->own && i < ORPHAN_ROUNDS && kill_descendants(getpid(), is_keeper, r->sup) > 0; i++) {
        usleep(5000);
    }
    if (!r->own) {
        kill_session(r->h.pid);
    }
    run_end_inhabitants(r);
    run_remove_files(r);
}

/* The keeper is gone: properly, once it had said how the CVM ended, or not. */
static void keeper_gone(struct run *r, int exit_code)
{
    r->over = 1; /* is_keeper must not name it */
    ev_timer_stop(loop_of(r), &r->stays);
    while (hear(r, MESSAGES_PER_CALL)) {
    }
    drop_link(r);
    if (!r->held.n) {
        if (!r->ended) {
            end_orphans(r);
        }
        run_finish(r, r->own ? BACKEND_GONE : BACKEND_LOST, exit_code);
    }
}

static void on_child(struct ev_loop *loop, ev_child *w, int events)
{
    struct run *r = w->data;
    int left = 0;

    (void)events;
    ev_child_stop(loop, w);
    keeper_gone(r, r->backend->reap(w->rstatus, &left));
}

static void on_pidfd(struct ev_loop *loop, ev_io *w, int events)
{
    (void)events;
    ev_io_stop(loop, w);
    keeper_gone(w->data, 128 + SIGKILL);
}

static void on_again(struct ev_loop *loop, ev_timer *w, int events)
{
    struct run *r = w->data;
    struct link_msg m;

    (void)events;
    if (r->held.n && link_parse(buf_bytes(&r->held), &m, NULL) == 0) {
        if (deal_with(r, &m) < 0) {
            arm(r, &r->again, TELL_AGAIN_S);
            return;
        }
        r->held.n = 0;
    }
    if (r->over) {
        keeper_gone(r, r->exit_code ? r->exit_code : 128 + SIGKILL);
        return;
    }
    if (r->ended && !r->told) {
        tell_end(r);
    }
    ack(r);
    if (r->h.link_fd >= 0) {
        ev_io_start(loop, &r->link);
    }
}

void run_end_keeper(struct run *r, int sig)
{
    if (r->h.pid_fd < 0 || r->over) {
        return;
    }
    syscall(SYS_pidfd_send_signal, r->h.pid_fd, sig, NULL, 0u);
    if (!r->own || sig == KEEPER_SIGNAL_FORGET) {
        arm(r, &r->stays, (ev_tstamp)r->sup->env.grace_ms / 1000.0 + 2.0);
    }
}

/* A keeper of an earlier life that does not greet, or does not end: its tree first, then itself. */
static void on_stays(struct ev_loop *loop, ev_timer *w, int events)
{
    struct run *r = w->data;

    (void)loop;
    (void)events;
    if (r->over || r->h.pid_fd < 0) {
        return;
    }
    if (!r->greeted && !r->own && r->h.link_fd >= 0) {
        log_warn("cvm.unadoptable", "pid %d does not answer", (int)r->h.pid);
        drop_link(r);
        run_end_keeper(r, KEEPER_SIGNAL_FORGET);
        return;
    }
    if (process_start(r->h.pid) == r->h.pid_start) {
        kill_descendants(r->h.pid, NULL, NULL);
        syscall(SYS_pidfd_send_signal, r->h.pid_fd, SIGKILL, NULL, 0u);
    }
    arm(r, &r->stays, 2.0);
}

/* ---- runs ------------------------------------------------------------------------------------ */

struct run *run_find(struct supervisor *sup, const char *job, uint32_t attempt)
{
    for (struct run *r = sup->runs; r; r = r->next) {
        if (r->attempt == attempt && streq(r->job, job)) {
            return r;
        }
    }
    return NULL;
}

struct run *run_new(struct supervisor *sup, const char *job, uint32_t attempt)
{
    struct run *r = xcalloc(1, sizeof(*r));

    r->sup = sup;
    snprintf(r->job, sizeof(r->job), "%s", job);
    r->attempt = attempt;
    r->h.pid_fd = r->h.link_fd = -1;
    r->held = BUF_INIT(LINK_PACKET_MAX);
    ev_io_init(&r->link, on_link, -1, EV_READ);
    ev_io_init(&r->pidfd, on_pidfd, -1, EV_READ);
    ev_child_init(&r->child, on_child, 0, 0);
    ev_timer_init(&r->again, on_again, 0, 0);
    ev_timer_init(&r->stays, on_stays, 0, 0);
    ev_timer_init(&r->phase_timer, on_phase_timer, 0, 0);
    r->link.data = r->pidfd.data = r->child.data = r;
    r->again.data = r->stays.data = r->phase_timer.data = r;
    r->next = sup->runs;
    sup->runs = r;
    return r;
}

void run_free(struct run *r)
{
    struct ev_loop *loop = loop_of(r);
    struct run **at = &r->sup->runs;

    while (*at && *at != r) {
        at = &(*at)->next;
    }
    if (*at) {
        *at = r->next;
    }
    drop_link(r);
    ev_io_stop(loop, &r->pidfd);
    ev_child_stop(loop, &r->child);
    ev_timer_stop(loop, &r->again);
    ev_timer_stop(loop, &r->stays);
    ev_timer_stop(loop, &r->phase_timer);
    if (r->h.pid_fd >= 0) {
        close(r->h.pid_fd);
    }
    buf_done(&r->held);
    free(r);
}

void run_watch(struct run *r)
{
    struct ev_loop *loop = loop_of(r);

    if (r->h.link_fd >= 0) {
        ev_io_set(&r->link, r->h.link_fd, EV_READ);
        ev_io_start(loop, &r->link);
    }
    if (r->own) {
        ev_child_set(&r->child, r->h.pid, 0);
        ev_child_start(loop, &r->child);
        return;
    }
    ev_io_set(&r->pidfd, r->h.pid_fd, EV_READ);
    ev_io_start(loop, &r->pidfd);
    if (r->h.link_fd >= 0) {
        arm(r, &r->stays, HELLO_S);
    }
}
