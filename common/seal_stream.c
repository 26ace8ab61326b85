#include <errno.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "common/seal_int.h"

#define NO_CHUNK UINT64_MAX
#define RUN_CHUNKS 64u /* read with one call */
#define PREFIX_MAX_BYTES (12u + SEAL_HEADER_MAX_BYTES)

struct seal_reader {
    int fd;              /* borrowed */
    uint64_t file_bytes; /* of what fd names, as far as it counts */
    struct seal_header header;
    struct sealer *sealer;
    uint64_t n_chunks;
    uint64_t size_bytes;      /* plain */
    size_t last_sealed_bytes; /* of the last chunk, with its tag */
    uint8_t *sealed;          /* one sealed chunk */
    struct secret *plain;     /* the chunk opened last */
    uint64_t plain_index;     /* which one, or NO_CHUNK */
    size_t plain_n;
};

int seal_write_all(int fd, const void *p, size_t n, const char *what, struct err *e)
{
    const uint8_t *b = p;

    while (n > 0) {
        ssize_t w = write(fd, b, n);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w < 0) {
            return err_errno(e, "writing %s", what);
        }
        b += w;
        n -= (size_t)w;
    }
    return 0;
}

int seal_read_full(int fd, void *p, size_t n, const char *what, size_t *ret_n, struct err *e)
{
    size_t got = 0;

    while (got < n) {
        ssize_t r = read(fd, (uint8_t *)p + got, n - got);
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r < 0) {
            return err_errno(e, "reading %s", what);
        }
        if (r == 0) {
            break;
        }
        got += (size_t)r;
    }
    *ret_n = got;
    return 0;
}

static int pread_full(int fd, void *p, size_t n, uint64_t offset, size_t *ret_n, struct err *e)
{
    size_t got = 0;

    while (got < n) {
        ssize_t r = pread(fd, (uint8_t *)p + got, n - got, (off_t)(offset + got));
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r < 0) {
            return err_errno(e, "reading the sealed file at byte %llu",
                             (unsigned long long)(offset + got));
        }
        if (r == 0) {
            break;
        }
        got += (size_t)r;
    }
    *ret_n = got;
    return 0;
}

static size_t sealed_chunk_bytes(const struct seal_reader *r)
{
    return (size_t)r->header.chunk_bytes + SEAL_TAG_BYTES;
}

static int read_header(struct seal_reader *r, struct err *e)
{
    _cleanup_free_ uint8_t *prefix = xmalloc(PREFIX_MAX_BYTES);
    size_t n;

    n = r->file_bytes < PREFIX_MAX_BYTES ? (size_t)r->file_bytes : PREFIX_MAX_BYTES;
    if (pread_full(r->fd, prefix, n, 0, &n, e) < 0) {
        return -1;
    }
    return seal_header_parse(BYTES(prefix, n), &r->header, e);
}

/* How many chunks there are, from the size of the file alone. */
static int measure(struct seal_reader *r, struct err *e)
{
    uint64_t body, full;

    if (r->file_bytes < r->header.prefix_bytes) {
        return err_set(e, ERR_INVALID, "the sealed file: is cut off inside its header");
    }
    body = r->file_bytes - r->header.prefix_bytes;
    full = sealed_chunk_bytes(r);
    r->n_chunks = body / full + (body % full ? 1 : 0);
    if (r->n_chunks == 0) {
        return err_set(e, ERR_INVALID, "the sealed file: is cut off before chunk 0");
    }
    r->last_sealed_bytes = (size_t)(body - (r->n_chunks - 1) * full);
    if (r->last_sealed_bytes < SEAL_TAG_BYTES) {
        return err_set(e, ERR_INVALID, "the sealed file: is cut off inside chunk %llu",
                       (unsigned long long)(r->n_chunks - 1));
    }
    r->size_bytes = body - r->n_chunks * SEAL_TAG_BYTES;
    return 0;
}

/* Fills r->plain with chunk `index`. */
static int load(struct seal_reader *r, uint64_t index, struct err *e)
{
    int final = index == r->n_chunks - 1;
    size_t want = final ? r->last_sealed_bytes : sealed_chunk_bytes(r);
    size_t n;

    if (r->plain_index == index) {
        return 0;
    }
    r->plain_index = NO_CHUNK;
    if (pread_full(r->fd, r->sealed, want, r->header.prefix_bytes + index * sealed_chunk_bytes(r),
                   &n, e) < 0) {
        return -1;
    }
    if (n != want) {
        return err_set(e, ERR_INVALID, "the sealed file: is cut off inside chunk %llu",
                       (unsigned long long)index);
    }
    if (sealer_open(r->sealer, index, final, BYTES(r->sealed, n), secret_p(r->plain), e) < 0) {
        return -1;
    }
    r->plain_index = index;
    r->plain_n = n - SEAL_TAG_BYTES;
    return 0;
}

/* Opens the last chunk. If it opens as one in the middle, the file was cut at a chunk's end. */
static int check_last(struct seal_reader *r, struct err *e)
{
    uint64_t last = r->n_chunks - 1;
    struct err ignored;

    if (load(r, last, e) == 0) {
        return 0;
    }
    if (r->last_sealed_bytes == sealed_chunk_bytes(r) &&
        sealer_open(r->sealer, last, 0, BYTES(r->sealed, r->last_sealed_bytes), secret_p(r->plain),
                    &ignored) == 0) {
        return err_set(e, ERR_BAD_SIGNATURE,
                       "sealed chunk %llu: is not the last one: the file is cut off after it",
                       (unsigned long long)last);
    }
    return -1;
}

int seal_reader_open_sized(int fd, uint64_t bytes, const struct secret *key,
                           struct seal_reader **ret, struct err *e)
{
    _cleanup_(seal_reader_freep) struct seal_reader *r = xcalloc(1, sizeof(*r));

    r->fd = fd;
    r->file_bytes = bytes;
    r->plain_index = NO_CHUNK;
    if (bytes > INT64_MAX) {
        return err_set(e, ERR_INVALID, "the sealed file: expected less than 2^63 bytes");
    }
    if (read_header(r, e) < 0 || measure(r, e) < 0 ||
        sealer_new(&r->header, key, &r->sealer, e) < 0) {
        return -1;
    }
    r->sealed = xmalloc(sealed_chunk_bytes(r));
    r->plain = secret_new(r->header.chunk_bytes);
    if (check_last(r, e) < 0) {
        return -1;
    }
    *ret = TAKE_PTR(r);
    return 0;
}

int seal_reader_open(int fd, const struct secret *key, struct seal_reader **ret, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return err_errno(e, "the sealed file's size");
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "the sealed file: expected a regular file");
    }
    return seal_reader_open_sized(fd, (uint64_t)st.st_size, key, ret, e);
}

const struct seal_header *seal_reader_header(const struct seal_reader *r)
{
    return &r->header;
}

uint64_t seal_reader_size(const struct seal_reader *r)
{
    return r->size_bytes;
}

int seal_reader_fd(const struct seal_reader *r)
{
    return r->fd;
}

int seal_reader_pread(struct seal_reader *r, void *out, size_t n, uint64_t offset, size_t *ret_n,
                      struct err *e)
{
    size_t done = 0;

    if (offset >= r->size_bytes) {
        *ret_n = 0;
        return 0;
    }
    if (n > r->size_bytes - offset) {
        n = (size_t)(r->size_bytes - offset);
    }
    while (done < n) {
        uint64_t at = offset + done;
        size_t within = (size_t)(at % r->header.chunk_bytes);
        size_t part;

        if (load(r, at / r->header.chunk_bytes, e) < 0) {
            return -1;
        }
        part = r->plain_n - within;
        if (part > n - done) {
            part = n - done;
        }
        memcpy((uint8_t *)out + done, secret_cp(r->plain) + within, part);
        done += part;
    }
    *ret_n = done;
    return 0;
}

/* All of v, which is changed. */
static int preadv_full(int fd, struct iovec *v, int n, uint64_t offset, size_t *ret_n,
                       struct err *e)
{
    size_t got = 0;

    while (n > 0) {
        ssize_t r = preadv(fd, v, n, (off_t)(offset + got));
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r < 0) {
            return err_errno(e, "reading the sealed file at byte %llu",
                             (unsigned long long)(offset + got));
        }
        if (r == 0) {
            break;
        }
        got += (size_t)r;
        size_t past = (size_t)r;
        for (; n > 0 && past >= v->iov_len; v++, n--) {
            past -= v->iov_len;
        }
        if (n > 0) {
            v->iov_base = (uint8_t *)v->iov_base + past;
            v->iov_len -= past;
        }
    }
    *ret_n = got;
    return 0;
}

/* Of chunk i without its tag. */
static size_t plain_bytes(const struct seal_reader *r, uint64_t i)
{
    return i == r->n_chunks - 1 ? r->last_sealed_bytes - SEAL_TAG_BYTES : r->header.chunk_bytes;
}

/* n in 1..RUN_CHUNKS, all there. The ciphertext is read where the plaintext is wanted, without the
 * tags between, and opened in place: one call for all, no copy, and what is looked at more than
 * once is out of reach of who holds the file. */
static int open_run(const struct seal_reader *r, struct sealer *own, uint64_t first, size_t n,
                    uint8_t *out, size_t *ret_n, struct err *e)
{
    const size_t full = sealed_chunk_bytes(r);
    uint8_t tags[RUN_CHUNKS][SEAL_TAG_BYTES];
    struct iovec v[2 * RUN_CHUNKS];
    size_t got = 0, done = 0;

    for (size_t i = 0; i < n; i++) {
        size_t plain = plain_bytes(r, first + i);
        v[2 * i] = (struct iovec){out + done, plain};
        v[2 * i + 1] = (struct iovec){tags[i], SEAL_TAG_BYTES};
        done += plain;
    }
    if (preadv_full(r->fd, v, (int)(2 * n), r->header.prefix_bytes + first * full, &got, e) < 0) {
        return -1;
    }
    if (got != done + n * SEAL_TAG_BYTES) {
        return err_set(e, ERR_INVALID, "the sealed file: is cut off inside chunk %llu",
                       (unsigned long long)(first + got / full));
    }
    done = 0;
    for (size_t i = 0; i < n; i++) {
        size_t plain = plain_bytes(r, first + i);
        if (sealer_open_apart(own, first + i, first + i == r->n_chunks - 1,
                              BYTES(out + done, plain), tags[i], out + done, e) < 0) {
            return -1;
        }
        done += plain;
    }
    *ret_n = done;
    return 0;
}

int seal_reader_open_chunks(const struct seal_reader *r, struct sealer *own, uint64_t first,
                            size_t n, uint8_t *out, size_t *ret_n, struct err *e)
{
    size_t done = 0;

    n = first >= r->n_chunks ? 0 : n > r->n_chunks - first ? (size_t)(r->n_chunks - first) : n;
    while (n > 0) {
        size_t now = n < RUN_CHUNKS ? n : RUN_CHUNKS, got = 0;
        if (open_run(r, own, first, now, out + done, &got, e) < 0) {
            return -1;
        }
        done += got;
        first += now;
        n -= now;
    }
    *ret_n = done;
    return 0;
}

void seal_reader_free(struct seal_reader *r)
{
    if (!r) {
        return;
    }
    sealer_free(r->sealer);
    secret_free(r->plain);
    free(r->sealed);
    seal_header_done(&r->header);
    free(r);
}

/* Seals what in_fd gives. One chunk is read ahead, because only then is it known which is last. */
static int seal_chunks(struct sealer *s, uint32_t chunk_bytes, int in_fd, int out_fd,
                       uint64_t *ret_plain_bytes, struct err *e)
{
    _cleanup_secret_ struct secret *now = secret_new(chunk_bytes), *next = secret_new(chunk_bytes);
    _cleanup_free_ uint8_t *sealed = xmalloc((size_t)chunk_bytes + SEAL_TAG_BYTES);
    uint64_t total = 0;
    size_t n_now, n_next = 0;

    if (seal_read_full(in_fd, secret_p(now), chunk_bytes, "the plaintext", &n_now, e) < 0) {
        return -1;
    }
    for (uint64_t index = 0;; index++) {
        if (n_now == chunk_bytes &&
            seal_read_full(in_fd, secret_p(next), chunk_bytes, "the plaintext", &n_next, e) < 0) {
            return -1;
        }
        int final = n_now < chunk_bytes || n_next == 0;
        if (sealer_seal(s, index, final, BYTES(secret_cp(now), n_now), sealed, e) < 0 ||
            seal_write_all(out_fd, sealed, n_now + SEAL_TAG_BYTES, "the sealed stream", e) < 0) {
            return -1;
        }
        total += n_now;
        if (final) {
            break;
        }
        struct secret *t = now;
        now = next;
        next = t;
        n_now = n_next;
        n_next = 0;
    }
    *ret_plain_bytes = total;
    return 0;
}

int seal_fd(const struct buf *prefix, const struct secret *key, int in_fd, int out_fd,
            uint64_t *ret_plain_bytes, struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_(sealer_freep) struct sealer *s = NULL;
    uint64_t total;

    if (seal_header_parse(buf_bytes(prefix), &h, e) < 0) {
        return -1;
    }
    if (h.prefix_bytes != prefix->n) {
        return err_set(e, ERR_INVALID, "seal prefix: %zu bytes follow the header",
                       prefix->n - h.prefix_bytes);
    }
    if (sealer_new(&h, key, &s, e) < 0 ||
        seal_write_all(out_fd, prefix->p, prefix->n, "the sealed stream", e) < 0 ||
        seal_chunks(s, h.chunk_bytes, in_fd, out_fd, &total, e) < 0) {
        return -1;
    }
    if (ret_plain_bytes) {
        *ret_plain_bytes = total;
    }
    return 0;
}

int unseal_fd(struct seal_reader *r, int out_fd, struct err *e)
{
    for (uint64_t i = 0; i < r->n_chunks; i++) {
        if (load(r, i, e) < 0 ||
            seal_write_all(out_fd, secret_cp(r->plain), r->plain_n, "the plaintext", e) < 0) {
            return -1;
        }
    }
    return 0;
}
