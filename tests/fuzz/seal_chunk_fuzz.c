/* A whole sealed file with a known key (32 zero bytes), read at several places. */
#include <sys/mman.h>

#include "common/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_at(struct seal_reader *r, uint64_t offset)
{
    uint8_t out[9000];
    struct err e;
    size_t n;

    if (seal_reader_pread(r, out, sizeof(out), offset, &n, &e) == 0 && n > sizeof(out)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    _cleanup_secret_ struct secret *key = secret_new(SEAL_KEY_BYTES);
    _cleanup_close_ int fd = memfd_create("seal_chunk_fuzz", MFD_CLOEXEC);
    struct err e;

    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        abort();
    }
    if (seal_reader_open(fd, key, &r, &e) < 0) {
        return 0;
    }
    if (seal_reader_size(r) >= size) {
        abort();
    }
    read_at(r, 0);
    read_at(r, seal_reader_size(r) / 2);
    read_at(r, seal_reader_size(r));
    read_at(r, UINT64_MAX);
    return 0;
}
