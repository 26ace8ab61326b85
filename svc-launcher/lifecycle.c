#include "svc-launcher/backend.h"

#include "common/jcs.h"

/* What a worker says about itself, one JSON object a line. It is hearsay: it moves the job's state
 * on, and decides nothing else. */

static int copy(char *out, size_t size, const char *what, const char *in, struct err *e)
{
    size_t n = strlen(in);

    if (n >= size) {
        return err_refuse(e, ERR_TOO_LARGE, what, "a shorter text", "%zu bytes", n);
    }
    memcpy(out, in, n + 1);
    return 0;
}

static int parse_refusal(const json_t *o, struct lifecycle *l, struct err *e)
{
    static const char *const keys[] = {"code",    "clause", "expected", "actual",
                                       "message", "by",     NULL};
    char *const outs[] = {l->code, l->clause, l->expected, l->actual, l->message, l->by};
    const size_t sizes[] = {sizeof(l->code),   sizeof(l->clause),  sizeof(l->expected),
                            sizeof(l->actual), sizeof(l->message), sizeof(l->by)};

    if (!json_is_object(o)) {
        return err_refuse(e, ERR_INVALID, "refused", "an object", "something else");
    }
    if (json_only_keys(o, "refused", keys, e) < 0) {
        return -1;
    }
    for (size_t i = 0; keys[i]; i++) {
        const char *s = "";
        if (json_object_get(o, keys[i]) && json_get_str(o, "refused", keys[i], &s, e) < 0) {
            return -1;
        }
        if (copy(outs[i], sizes[i], keys[i], s, e) < 0) {
            return -1;
        }
    }
    if (!l->by[0]) {
        /* A refusal that it passes on names who refused; this one is its own. */
        snprintf(l->by, sizeof(l->by), "%s", service_name(SVC_WORKER));
    }
    return 0;
}

int lifecycle_parse(struct bytes line, struct lifecycle *ret, struct err *e)
{
    static const char *const keys[] = {"booted", "phase", "refused", "done", "failed", NULL};
    _cleanup_json_ json_t *j = NULL;
    struct lifecycle l = {0};
    const char *s = "";
    const json_t *o;

    if (json_parse("lifecycle line", line, LIFECYCLE_LINE_MAX, &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j) || json_object_size(j) != 1) {
        return err_refuse(e, ERR_INVALID, "lifecycle line", "an object with one member",
                          "something else");
    }
    if (json_only_keys(j, "lifecycle line", keys, e) < 0) {
        return -1;
    }
    if ((o = json_object_get(j, "phase"))) {
        l.kind = BACKEND_PHASE;
        if (json_get_str(j, "lifecycle line", "phase", &s, e) < 0 ||
            copy(l.phase, sizeof(l.phase), "phase", s, e) < 0) {
            return -1;
        }
    } else if ((o = json_object_get(j, "refused"))) {
        l.kind = BACKEND_REFUSED;
        if (parse_refusal(o, &l, e) < 0) {
            return -1;
        }
    } else if ((o = json_object_get(j, "failed"))) {
        l.kind = BACKEND_FAILED;
        snprintf(l.code, sizeof(l.code), "%s", err_code_name(ERR_IO));
        snprintf(l.by, sizeof(l.by), "%s", service_name(SVC_LAUNCHER));
        if (json_get_str(j, "lifecycle line", "failed", &s, e) < 0 ||
            copy(l.message, sizeof(l.message), "failed", s, e) < 0) {
            return -1;
        }
    } else {
        o = json_object_get(j, "done");
        l.kind = o ? BACKEND_DONE : BACKEND_BOOTED;
        if (!json_is_true(o ? o : json_object_get(j, "booted"))) {
            return err_refuse(e, ERR_INVALID, o ? "done" : "booted", "true", "something else");
        }
    }
    *ret = l;
    return 0;
}

void lifecycle_refusal(const struct lifecycle *l, Coffer__V1__Refusal *ret)
{
    coffer__v1__refusal__init(ret);
    ret->code = (char *)l->code;
    ret->clause = (char *)l->clause;
    ret->expected = (char *)l->expected;
    ret->actual = (char *)l->actual;
    ret->message = (char *)l->message;
    ret->by = (char *)l->by;
}

static void end_line(struct line_cutter *c, line_fn fn, void *arg)
{
    if (c->skipping) {
        c->skipping = 0;
        c->dropped++;
    } else if (c->buf.n) {
        fn(arg, buf_bytes(&c->buf));
    }
    c->buf.n = 0;
}

void line_cutter_feed(struct line_cutter *c, struct bytes in, line_fn fn, void *arg)
{
    while (in.n) {
        const uint8_t *nl = memchr(in.p, '\n', in.n);
        size_t n = nl ? (size_t)(nl - in.p) : in.n;
        if (!c->skipping && n && buf_add(&c->buf, in.p, n, NULL) < 0) {
            c->skipping = 1;
        }
        if (nl) {
            end_line(c, fn, arg);
            n++;
        }
        in = BYTES(in.p + n, in.n - n);
    }
}
