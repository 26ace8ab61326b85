#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include "svc-verifier/fetch.h"

#define MAX_DONE 16

/* An HTTP server that answers by the path it is asked for, one connection after another. */
struct server {
    int fd;
    pthread_t thread;
    int port;
    _Atomic int asked;
};

static void answer(int fd, const char *request)
{
    char head[512];
    const char *body = "body";
    size_t n = 4;
    const char *extra = "", *status = "200 OK";
    _cleanup_free_ char *big = NULL;

    if (strstr(request, "GET /chain ")) {
        extra = "TCB-Info-Issuer-Chain: -----BEGIN%20CERT \r\n";
    } else if (strstr(request, "GET /missing ")) {
        status = "404 Not Found";
    } else if (strstr(request, "GET /busy ")) {
        status = "429 Too Many Requests";
        extra = "Retry-After: 7\r\n";
    } else if (strstr(request, "GET /moved ")) {
        status = "302 Found";
        extra = "Location: /chain\r\n";
    } else if (strstr(request, "GET /big ")) {
        n = FETCH_MAX_BYTES + 1;
        body = big = xcalloc(1, n);
    } else if (strstr(request, "GET /hang ")) {
        struct timespec t = {.tv_sec = 1};
        nanosleep(&t, NULL);
        return;
    }
    /* "endless" does not say how long it is */
    if (strstr(request, "GET /endless ")) {
        n = FETCH_MAX_BYTES + 1;
        body = big = xcalloc(1, n);
        snprintf(head, sizeof(head), "HTTP/1.0 200 OK\r\n\r\n");
    } else {
        snprintf(head, sizeof(head),
                 "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%sConnection: close\r\n\r\n", status, n,
                 extra);
    }
    if (send(fd, head, strlen(head), MSG_NOSIGNAL) > 0) {
        for (size_t at = 0; at < n;) {
            ssize_t k = send(fd, body + at, n - at, MSG_NOSIGNAL);
            if (k <= 0) {
                break;
            }
            at += (size_t)k;
        }
    }
}

static void *serve(void *arg)
{
    struct server *s = arg;
    int fd;

    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        char request[4096] = "";
        ssize_t n = recv(fd, request, sizeof(request) - 1, 0);
        if (n > 0) {
            s->asked++;
            answer(fd, request);
        }
        close(fd);
    }
    return NULL;
}

struct fixture {
    struct server server;
    struct ev_loop *loop;
    struct fetcher *f;
    struct {
        char name[64], why[512], chain[64];
        struct fetch_result r;
        enum err_code code;
    } done[MAX_DONE];
    size_t n_done, expected;
};

static void on_done(void *arg, const struct fetch_result *r, const struct err *e)
{
    struct fixture *x = arg;

    assert_true(x->n_done < MAX_DONE);
    snprintf(x->done[x->n_done].name, 64, "%s", r->name);
    snprintf(x->done[x->n_done].chain, 64, "%s", r->issuer_chain);
    x->done[x->n_done].r = *r;
    x->done[x->n_done].code = e ? e->code : ERR_NONE;
    snprintf(x->done[x->n_done].why, 512, "%s", e ? e->msg : "");
    if (++x->n_done == x->expected) {
        ev_break(x->loop, EVBREAK_ALL);
    }
}

static int setup(void **state)
{
    struct fixture *x = xcalloc(1, sizeof(*x));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    struct err e = {0};
    struct fetch_opts o = {.timeout_ms = 400, .parallel = 2, .done = on_done, .arg = x};

    x->server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(x->server.fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(x->server.fd, 16), 0);
    assert_int_equal(getsockname(x->server.fd, (struct sockaddr *)&a, &n), 0);
    x->server.port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&x->server.thread, NULL, serve, &x->server), 0);
    unsetenv("http_proxy");
    x->loop = ev_loop_new(0);
    assert_int_equal(fetcher_new(x->loop, &o, &x->f, &e), 0);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    fetcher_free(x->f);
    ev_loop_destroy(x->loop);
    shutdown(x->server.fd, SHUT_RDWR);
    pthread_join(x->server.thread, NULL);
    close(x->server.fd);
    free(x);
    return 0;
}

static int get(struct fixture *x, const char *name, const char *path, struct err *e)
{
    char url[128];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", x->server.port, path);
    *e = (struct err){0};
    return fetcher_get(x->f, name, url, e);
}

static void on_late(struct ev_loop *loop, ev_timer *w, int revents)
{
    (void)revents;
    (void)w;
    ev_break(loop, EVBREAK_ALL);
}

static void run(struct fixture *x, size_t expected)
{
    ev_timer late;

    x->expected = expected;
    ev_timer_init(&late, on_late, 10.0, 0.0);
    ev_timer_start(x->loop, &late);
    ev_run(x->loop, 0);
    ev_timer_stop(x->loop, &late);
    assert_int_equal(x->n_done, expected);
    assert_int_equal(fetcher_pending(x->f), 0);
}

static void test_good(void **state)
{
    struct fixture *x = *state;
    struct err e;

    assert_int_equal(get(x, "a", "/chain", &e), 0);
    assert_int_equal(get(x, "a", "/chain", &e), 0); /* the same: once */
    run(x, 1);
    assert_int_equal(x->done[0].code, ERR_NONE);
    assert_int_equal(x->done[0].r.status, 200);
    assert_int_equal(x->done[0].r.body.n, 4);
    assert_string_equal(x->done[0].chain, "-----BEGIN%20CERT");
    assert_int_equal(x->server.asked, 1);
    assert_int_equal(get(x, "a", "/", &e), 0); /* and again, later */
    run(x, 2);
    assert_string_equal(x->done[1].chain, "");
}

static void test_many(void **state)
{
    struct fixture *x = *state;
    struct err e;

    for (int i = 0; i < 9; i++) {
        char name[8];
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(get(x, name, "/", &e), 0);
    }
    run(x, 9);
    assert_int_equal(x->server.asked, 9);
}

static void test_failures(void **state)
{
    static const struct {
        const char *path, *says;
        enum err_code code;
    } cases[] = {
        {"/missing", "expected 200, found 404", ERR_NOT_FOUND},
        {"/busy", "expected 200, found 429", ERR_IO},
        {"/moved", "expected 200, found 302", ERR_IO},
        {"/big", "", ERR_IO},
        {"/endless", "", ERR_IO},
        {"/hang", "", ERR_IO},
    };
    struct fixture *x = *state;
    struct err e;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(get(x, cases[i].path, cases[i].path, &e), 0);
        run(x, i + 1);
        assert_int_equal(x->done[i].code, cases[i].code);
        if (!strstr(x->done[i].why, cases[i].says) || !strstr(x->done[i].why, cases[i].path)) {
            fail_msg("%s: %s", cases[i].path, x->done[i].why);
        }
        assert_in_range(x->done[i].r.retry_ms, i == 1 ? 7000 : 1000, i == 1 ? 7000 : 1250);
        assert_int_equal(get(x, cases[i].path, cases[i].path, &e), -1);
        assert_int_equal(e.code, ERR_BUSY);
    }
}

static void test_nobody(void **state)
{
    struct fixture *x = *state;
    struct err e = {0};

    assert_int_equal(fetcher_get(x->f, "nobody", "http://127.0.0.1:1/", &e), 0);
    run(x, 1);
    assert_int_equal(x->done[0].code, ERR_IO);
    assert_int_equal(x->done[0].r.status, 0);
    assert_int_equal(fetcher_get(x->f, "file", "file:///etc/passwd", &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(fetcher_get(x->f, "", "http://127.0.0.1:1/", &e), -1);
}

static void test_freed(void **state)
{
    struct fixture *x = *state;
    struct err e;

    assert_int_equal(get(x, "a", "/hang", &e), 0);
    assert_int_equal(get(x, "b", "/", &e), 0);
    assert_int_equal(get(x, "c", "/", &e), 0);
    ev_run(x->loop, EVRUN_ONCE); /* and the end of it comes in the middle */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_freed, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
