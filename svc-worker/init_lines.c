#include <errno.h>

#include "svc-worker/init.h"

#define DROPPED_TEXT_BYTES 80

/* ---- cutting --------------------------------------------------------------------------------- */

void init_cut_start(struct init_cut *c, size_t max)
{
    *c = (struct init_cut){.line = xmalloc(max), .max = max};
}

static void end_line(struct init_cut *c, init_line_fn fn, void *arg)
{
    if (c->skipping) {
        c->dropped++;
    } else {
        fn(arg, c->line, c->n);
    }
    c->n = 0;
    c->skipping = 0;
}

void init_cut_feed(struct init_cut *c, struct bytes in, init_line_fn fn, void *arg)
{
    while (in.n) {
        const uint8_t *end = memchr(in.p, '\n', in.n);
        size_t n = end ? (size_t)(end - in.p) : in.n;
        if (!c->skipping && n <= c->max - c->n) {
            memcpy(c->line + c->n, in.p, n);
            c->n += n;
        } else {
            c->skipping = 1;
        }
        if (!end) {
            return;
        }
        end_line(c, fn, arg);
        in = BYTES(end + 1, in.n - n - 1);
    }
}

void init_cut_done(struct init_cut *c)
{
    free(TAKE_PTR(c->line));
}

/* ---- out ------------------------------------------------------------------------------------- */

size_t init_out_room(const struct init_out *o)
{
    size_t free_bytes = INIT_OUT_MAX_BYTES - o->n;

    return free_bytes ? free_bytes - 1 : 0;
}

int init_out_line(struct init_out *o, const char *line, size_t n)
{
    if (n >= INIT_OUT_MAX_BYTES - o->n) {
        return -1;
    }
    if (!o->p) {
        o->p = xmalloc(INIT_OUT_MAX_BYTES);
    }
    memcpy(o->p + o->n, line, n);
    o->p[o->n + n] = '\n';
    o->n += n + 1;
    return 0;
}

int init_out_flush(struct init_out *o, int fd)
{
    while (o->n) {
        ssize_t n = write(fd, o->p, o->n);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 || errno == EAGAIN ? 0 : -1;
        }
        o->n -= (size_t)n;
        memmove(o->p, o->p + n, o->n);
    }
    return 1;
}

void init_out_done(struct init_out *o)
{
    free(TAKE_PTR(o->p));
    o->n = 0;
}

/* ---- log ------------------------------------------------------------------------------------- */

int init_rate_take(struct init_rate *r, int64_t now_ms)
{
    int64_t passed = now_ms - r->last_ms;

    if (!r->started || passed > 3600000) {
        r->started = 1;
        r->level_milli = r->burst * 1000;
    } else if (passed > 0) {
        r->level_milli += passed * r->per_s;
    }
    r->last_ms = now_ms;
    if (r->level_milli > r->burst * 1000) {
        r->level_milli = r->burst * 1000;
    }
    if (r->level_milli < 1000) {
        return 0;
    }
    r->level_milli -= 1000;
    return 1;
}

static void say_dropped(struct init_log *l)
{
    char text[DROPPED_TEXT_BYTES];
    int n = snprintf(text, sizeof(text), "init: %llu log lines were dropped",
                     (unsigned long long)l->dropped);

    if (l->dropped && init_out_line(&l->out, text, (size_t)n) == 0) {
        l->dropped = 0;
    }
}

void init_log_line(struct init_log *l, int64_t now_ms, const char *line, size_t n)
{
    if (n > INIT_LOG_LINE_MAX_BYTES || !init_rate_take(&l->rate, now_ms) ||
        init_out_room(&l->out) < n + DROPPED_TEXT_BYTES) {
        l->dropped++;
        return;
    }
    /* Where they are missing, not after the lines that follow. */
    say_dropped(l);
    size_t at = l->out.n;
    init_out_line(&l->out, line, n);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)l->out.p[at + i];
        if (c < 0x20 || c == 0x7f) {
            l->out.p[at + i] = '?';
        }
    }
}

int init_log_flush(struct init_log *l, int fd)
{
    int rc = init_out_flush(&l->out, fd);

    if (rc > 0 && l->dropped) {
        say_dropped(l);
        rc = init_out_flush(&l->out, fd);
    }
    return rc;
}
