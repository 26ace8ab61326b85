#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/client.h"
#include "cli/progress.h"

#define QUIET_MS 2000
#define REDRAW_MS 500

struct meter {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stop_cond;
    int stop, fd, shown;
    uint64_t total_bytes;
    int64_t start_ms;
};

static void draw(struct meter *m)
{
    struct stat st;
    char done[32], total[32];

    if (fstat(m->fd, &st)) {
        return;
    }
    uint64_t n = (uint64_t)st.st_size;
    if (m->total_bytes) {
        fprintf(stderr, "\r%s of %s (%u %%)   ", bytes_text(n, done),
                bytes_text(m->total_bytes, total),
                (unsigned)(n < m->total_bytes ? n * 100 / m->total_bytes : 100));
    } else {
        fprintf(stderr, "\r%s   ", bytes_text(n, done));
    }
    fflush(stderr);
    m->shown = 1;
}

static void *meter_main(void *arg)
{
    struct meter *m = arg;
    int64_t next_ms = QUIET_MS;
    struct timespec until;

    pthread_mutex_lock(&m->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    while (!m->stop) {
        until.tv_sec += next_ms / 1000;
        until.tv_nsec += next_ms % 1000 * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        if (pthread_cond_timedwait(&m->stop_cond, &m->lock, &until) && !m->stop) {
            draw(m);
        }
        next_ms = REDRAW_MS;
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

struct meter *meter_start(int fd, uint64_t total_bytes)
{
    if (!isatty(STDERR_FILENO)) {
        return NULL;
    }
    struct meter *m = xcalloc(1, sizeof(*m));
    m->fd = fd;
    m->total_bytes = total_bytes;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->stop_cond, NULL);
    if (pthread_create(&m->thread, NULL, meter_main, m)) {
        free(m);
        return NULL;
    }
    return m;
}

void meter_stop(struct meter *m)
{
    if (!m) {
        return;
    }
    pthread_mutex_lock(&m->lock);
    m->stop = 1;
    pthread_cond_signal(&m->stop_cond);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    if (m->shown) {
        fputs("\r\033[K", stderr);
    }
    pthread_cond_destroy(&m->stop_cond);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
