#include "svc-worker/tpm_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include <tss2/tss2_tpm2_types.h>

#define MAGIC UINT64_C(0x436f6666546c6b31)
#define HEAD_BYTES 10u

struct tpm_link {
    TSS2_TCTI_CONTEXT_COMMON_V1 tcti; /* first: tpm2-tss hands it back */
    int fd, broken, timed_out;
    int64_t deadline_ms;
};

static int64_t clock_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* 1 when the events are there, 0 when it is too late or over. */
static int wait_for(struct tpm_link *l, short events)
{
    for (;;) {
        int64_t left = l->deadline_ms - clock_ms();
        struct pollfd p = {.fd = l->fd, .events = events};
        int rc = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (rc < 0 && errno == EINTR) {
            continue;
        }
        if (rc <= 0) {
            l->timed_out = rc == 0;
            return 0;
        }
        return (p.revents & events) != 0;
    }
}

/* One write takes a command whole where the kernel's device is concerned. */
static TSS2_RC transmit(TSS2_TCTI_CONTEXT *ctx, size_t n, const uint8_t *command)
{
    struct tpm_link *l = (struct tpm_link *)ctx;

    while (n && !l->broken && wait_for(l, POLLOUT)) {
        ssize_t done = write(l->fd, command, n);
        if (done < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (done <= 0) {
            break;
        }
        command += done;
        n -= (size_t)done;
    }
    l->broken |= n != 0;
    return n ? TSS2_TCTI_RC_IO_ERROR : TSS2_RC_SUCCESS;
}

static size_t announced(const uint8_t *head)
{
    return (size_t)head[2] << 24 | (size_t)head[3] << 16 | (size_t)head[4] << 8 | head[5];
}

static TSS2_RC receive(TSS2_TCTI_CONTEXT *ctx, size_t *size, uint8_t *response, int32_t timeout)
{
    struct tpm_link *l = (struct tpm_link *)ctx;
    size_t n = 0, want = HEAD_BYTES, room = *size;

    (void)timeout; /* ours counts */
    if (!response) {
        *size = TPM2_MAX_RESPONSE_SIZE;
        return TSS2_RC_SUCCESS;
    }
    if (room < HEAD_BYTES) {
        return TSS2_TCTI_RC_INSUFFICIENT_BUFFER;
    }
    while (n < want && want <= room && !l->broken && wait_for(l, POLLIN)) {
        /* All there is: the device has its answer only once. */
        ssize_t got = read(l->fd, response + n, room - n);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        n += (size_t)got;
        want = n >= HEAD_BYTES ? announced(response) : HEAD_BYTES;
    }
    if (n != want || n < HEAD_BYTES) {
        l->broken = 1;
        return TSS2_TCTI_RC_IO_ERROR;
    }
    *size = n;
    return TSS2_RC_SUCCESS;
}

static void finalize(TSS2_TCTI_CONTEXT *ctx)
{
    (void)ctx; /* tpm_link_free */
}

static int open_socket(const char *path, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(a.sun_path)) {
        return err_set(e, ERR_INVALID, "%s: expected a shorter path of a socket", path);
    }
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) ||
        fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK)) {
        return err_errno(e, "cannot connect to %s", path);
    }
    return TAKE_FD(fd);
}

int tpm_link_open(const char *path, struct tpm_link **ret, struct err *e)
{
    struct stat st;
    int fd;

    if (stat(path, &st)) {
        return err_errno(e, "the TPM %s", path);
    }
    if (S_ISSOCK(st.st_mode)) {
        fd = open_socket(path, e);
    } else {
        fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        fd = fd < 0 ? err_errno(e, "cannot open %s", path) : fd;
    }
    if (fd < 0) {
        return -1;
    }
    struct tpm_link *l = xcalloc(1, sizeof(*l));
    l->tcti = (TSS2_TCTI_CONTEXT_COMMON_V1){.magic = MAGIC,
                                            .version = 1,
                                            .transmit = transmit,
                                            .receive = receive,
                                            .finalize = finalize};
    l->fd = fd;
    *ret = l;
    return 0;
}

void tpm_link_allow(struct tpm_link *l, int ms)
{
    l->deadline_ms = clock_ms() + ms;
}

TSS2_TCTI_CONTEXT *tpm_link_tcti(struct tpm_link *l)
{
    return (TSS2_TCTI_CONTEXT *)&l->tcti;
}

int tpm_link_timed_out(const struct tpm_link *l)
{
    return l->timed_out;
}

void tpm_link_free(struct tpm_link *l)
{
    if (l) {
        close(l->fd);
        free(l);
    }
}
