#include "common/keyprovider.h"

#include <errno.h>

#include "common/jcs.h"

#define ANSWER_MAX_BYTES 65536u
#define PARAMS_MAX_BYTES 1024u

/* The Go side also writes members that do not concern us (recipients of other schemes, keys to
 * decrypt with), so unknown members are allowed here. */
static int get_bytes(const json_t *o, const char *what, const char *key, struct buf *ret,
                     struct err *e)
{
    const char *s;

    if (json_get_str(o, what, key, &s, e) < 0) {
        return -1;
    }
    int r = b64_decode(s, strlen(s), ret, e);
    /* It may spell a key; the JSON tree would free it unwiped. */
    explicit_bzero((char *)(uintptr_t)s, strlen(s));
    return r < 0 ? err_wrap(e, "%s.%s", what, key) : 0;
}

/* One "name=value" of the parameters. */
static int take_param(const char *s, size_t n, char **kid, struct err *e)
{
    if (n > 6 && memcmp(s, "keyid=", 6) == 0) {
        if (*kid) {
            return err_set(e, ERR_INVALID, "key provider params: more than one keyid");
        }
        *kid = xstrndup(s + 6, n - 6);
        return 0;
    }
    if (n == 17 && memcmp(s, "algorithm=A256GCM", 17) == 0) {
        return 0;
    }
    return err_set(e, ERR_INVALID,
                   "key provider params: expected keyid=<id>[::algorithm=A256GCM], got \"%.*s\"",
                   (int)(n > 80 ? 80 : n), s);
}

static int parse_params(const char *s, char **ret_kid, struct err *e)
{
    _cleanup_free_ char *kid = NULL;

    for (;;) {
        const char *end = strstr(s, "::");
        if (take_param(s, end ? (size_t)(end - s) : strlen(s), &kid, e) < 0) {
            return -1;
        }
        if (!end) {
            break;
        }
        s = end + 2;
    }
    if (!kid) {
        return err_set(e, ERR_INVALID, "key provider params: no keyid=<id>");
    }
    if (keywrap_kid_check(kid, e) < 0) {
        return -1;
    }
    *ret_kid = TAKE_PTR(kid);
    return 0;
}

/* The image key that the caller names in ec.Parameters.coffer. ocicrypt takes one annotation from
 * one call, so several keys at once cannot be served; encrypting again adds a recipient. */
static int wrap_kid(const json_t *params, char **ret_kid, struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(PARAMS_MAX_BYTES);
    json_t *ec, *parameters, *list;

    if (json_get_obj(params, "request.keywrapparams", "ec", &ec, e) < 0 ||
        json_get_obj(ec, "request.keywrapparams.ec", "Parameters", &parameters, e) < 0 ||
        json_get_arr(parameters, "request.keywrapparams.ec.Parameters", KEYPROVIDER_NAME, &list,
                     e) < 0) {
        return -1;
    }
    if (json_array_size(list) != 1 || !json_is_string(json_array_get(list, 0))) {
        return err_set(e, ERR_INVALID,
                       "request.keywrapparams.ec.Parameters." KEYPROVIDER_NAME
                       ": expected exactly one string, got %zu elements",
                       json_array_size(list));
    }
    const char *s = json_string_value(json_array_get(list, 0));
    if (b64_decode(s, strlen(s), &text, e) < 0) {
        return err_wrap(e, "request.keywrapparams.ec.Parameters." KEYPROVIDER_NAME);
    }
    if (text.n == 0 || memchr(text.p, 0, text.n)) {
        return err_set(e, ERR_INVALID, "key provider params: expected keyid=<id>");
    }
    return parse_params((const char *)text.p, ret_kid, e);
}

static int do_wrap(const json_t *request, keywrap_find_fn find, void *arg, struct buf *ret,
                   struct err *e)
{
    _cleanup_buf_ struct buf opts = BUF_INIT(KEYWRAP_OPTS_MAX_BYTES);
    _cleanup_free_ char *kid = NULL, *packet = NULL, *packet64 = NULL;
    const struct secret *kek = NULL;
    json_t *params;

    if (json_get_obj(request, "request", "keywrapparams", &params, e) < 0 ||
        wrap_kid(params, &kid, e) < 0 ||
        get_bytes(params, "request.keywrapparams", "optsdata", &opts, e) < 0 ||
        find(arg, kid, &kek, e) < 0 || keywrap_wrap(kid, kek, buf_bytes(&opts), &packet, e) < 0) {
        return -1;
    }
    packet64 = b64_encode(packet, strlen(packet));
    return buf_addf(ret, e,
                    "{\"keywrapresults\":{\"annotation\":\"%s\"},"
                    "\"keyunwrapresults\":{\"optsdata\":null}}\n",
                    packet64);
}

static int do_unwrap(const json_t *request, keywrap_find_fn find, void *arg, struct buf *ret,
                     struct err *e)
{
    _cleanup_buf_ struct buf packet = BUF_INIT(KEYWRAP_PACKET_MAX_BYTES);
    _cleanup_secret_ struct secret *opts = NULL;
    json_t *params;

    if (json_get_obj(request, "request", "keyunwrapparams", &params, e) < 0 ||
        get_bytes(params, "request.keyunwrapparams", "annotation", &packet, e) < 0 ||
        keywrap_unwrap(buf_bytes(&packet), find, arg, &opts, e) < 0) {
        return -1;
    }
    char *opts64 = b64_encode(secret_cp(opts), secret_n(opts));
    int r = buf_addf(ret, e,
                     "{\"keywrapresults\":{\"annotation\":null},"
                     "\"keyunwrapresults\":{\"optsdata\":\"%s\"}}\n",
                     opts64);
    explicit_bzero(opts64, strlen(opts64));
    free(opts64);
    return r;
}

int keyprovider_answer(struct bytes request, keywrap_find_fn find, void *arg, struct buf *ret,
                       struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    const char *op;

    if (json_parse("request", request, KEYPROVIDER_REQUEST_MAX_BYTES, &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j)) {
        return err_set(e, ERR_INVALID, "request: expected a JSON object");
    }
    if (json_get_str(j, "request", "op", &op, e) < 0) {
        return -1;
    }
    if (streq(op, "keywrap")) {
        return do_wrap(j, find, arg, ret, e);
    }
    if (streq(op, "keyunwrap")) {
        return do_unwrap(j, find, arg, ret, e);
    }
    return err_set(e, ERR_INVALID, "request.op: expected keywrap or keyunwrap, got \"%.40s\"", op);
}

static int read_request(int fd, struct buf *ret, struct err *e)
{
    for (;;) {
        if (buf_reserve(ret, 4096, e) < 0) {
            return err_set(e, ERR_TOO_LARGE, "request: over %u bytes",
                           KEYPROVIDER_REQUEST_MAX_BYTES);
        }
        ssize_t n = read(fd, ret->p + ret->n, 4096);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_errno(e, "reading the request");
        }
        if (n == 0) {
            return 0;
        }
        ret->n += (size_t)n;
    }
}

int keyprovider_run(int in_fd, int out_fd, keywrap_find_fn find, void *arg, struct err *e)
{
    _cleanup_buf_ struct buf request = BUF_INIT(KEYPROVIDER_REQUEST_MAX_BYTES + 4096);
    _cleanup_buf_ struct buf answer = BUF_INIT(ANSWER_MAX_BYTES);

    if (read_request(in_fd, &request, e) < 0 ||
        keyprovider_answer(buf_bytes(&request), find, arg, &answer, e) < 0) {
        return -1;
    }
    for (size_t done = 0; done < answer.n;) {
        ssize_t n = write(out_fd, answer.p + done, answer.n - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_errno(e, "writing the answer");
        }
        done += (size_t)n;
    }
    return 0;
}
