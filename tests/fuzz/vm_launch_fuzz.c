/* What a host sends through a VM's control port: the frame, and what its first process needs of the
 * LaunchConfig in it. */
#include <arpa/inet.h>
#include <fcntl.h>

#include "common/vm.h"
#include "svc-worker/init.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_bus(const struct init_bus *b)
{
    uint32_t v4 = ntohl(b->addr.v4.s_addr);

    /* It becomes a line of /etc/hosts, or an address of lo. */
    if (!b->port || !b->host[0] || strpbrk(b->host, " \t\n#/@") ||
        (b->family == AF_UNSPEC && v4 != INADDR_LOOPBACK) ||
        (b->family == AF_INET && (v4 >> 24 == 0 || v4 >> 28 >= 14))) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_buf_ struct buf launch = BUF_INIT(VM_LAUNCH_MAX_BYTES);
    struct init_bus b;
    struct err e = {0};
    int fds[2];

    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC)) {
        abort();
    }
    ssize_t n = write(fds[1], data, size);
    if (init_launch_read(fds[0], 0, &launch, &e) == 0) {
        if (n < 4 || launch.n + 4 > size || memcmp(launch.p, data + 4, launch.n) != 0) {
            abort();
        }
        if (init_launch_check(buf_bytes(&launch), &b, &e) == 0) {
            check_bus(&b);
        }
    }
    close(fds[0]);
    close(fds[1]);
    /* And without the frame, which a fuzzer seldom gets right. */
    if (size && init_launch_check(BYTES(data, size), &b, &e) == 0) {
        check_bus(&b);
    }
    return 0;
}
