/* What the workload left: the declared files, and which of their blocks stand in the inputs. */
#include <errno.h>

#include "svc-worker/sandbox.h"
#include "svc-worker/worker.h"

#define READ_BYTES (1u << 20)

static int read_all(int fd, uint8_t *to, uint64_t n, struct err *e)
{
    while (n) {
        ssize_t got = read(fd, to, n < READ_BYTES ? (size_t)n : READ_BYTES);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return err_errno(e, "output: read");
        }
        to += got;
        n -= (uint64_t)got;
    }
    return 0;
}

static int refuse_file(const struct spec *spec, size_t i, struct err *e)
{
    enum err_code code = e->code;
    char clause[64], expected[200], why[256];

    snprintf(why, sizeof(why), "%.255s", e->msg);
    if (code == ERR_TOO_LARGE) {
        snprintf(expected, sizeof(expected), "at most %lld bytes together",
                 (long long)spec->output_max_bytes);
        /* Refusals are public: how much the others took would be a number of the workload's choice.
         */
        return err_refuse(e, ERR_WORKLOAD, "output.maxBytes", expected,
                          "%.120s is larger than what the files before it leave",
                          spec->files[i].path);
    }
    snprintf(clause, sizeof(clause), "output.files[%zu]", i);
    snprintf(expected, sizeof(expected), "a regular file %.150s", spec->files[i].path);
    if (code == ERR_NOT_FOUND) {
        return err_refuse(e, ERR_WORKLOAD, clause, expected, "no such file");
    }
    return err_refuse(e, ERR_WORKLOAD, clause, expected, "%s", why);
}

int collect_files(const struct spec *spec, int dir_fd, struct area *out, struct worker_outcome *o,
                  struct err *e)
{
    uint64_t used = 0, max = (uint64_t)spec->output_max_bytes;

    for (size_t i = 0; i < spec->n_files; i++) {
        _cleanup_close_ int fd = -1;
        uint64_t bytes = 0;
        if (sandbox_collect_open(dir_fd, spec->files[i].path, max - used, &fd, &bytes, e)) {
            return refuse_file(spec, i, e);
        }
        if (bytes > max - used || used + bytes > out->n) {
            e->code = ERR_TOO_LARGE;
            return refuse_file(spec, i, e);
        }
        if (read_all(fd, out->p + used, bytes, e)) {
            return -1;
        }
        o->file_bytes[i] = bytes;
        used += bytes;
    }
    o->plain = BYTES(out->p, used);
    return 0;
}

static int scan_input(struct fp_finder *f, const struct job_input *in, size_t i, uint8_t *window,
                      uint64_t *bytes, struct err *e)
{
    uint64_t at = 0, size = seal_reader_size(in->reader);

    while (at < size) {
        size_t n = 0;
        if (seal_reader_pread(in->reader, window, READ_BYTES, at, &n, e) || !n) {
            char clause[48], why[256];
            snprintf(why, sizeof(why), "%.255s", e->msg);
            snprintf(clause, sizeof(clause), "dataset[%zu].chunk", i);
            return err_refuse(e, ERR_WORKLOAD, clause, "the chunks that its owner sealed", "%s",
                              why);
        }
        fp_finder_scan(f, BYTES(window, n));
        at += n;
    }
    fp_finder_end_input(f);
    *bytes += size;
    return 0;
}

int collect_fingerprints(const struct job_input *inputs, size_t n, size_t n_files, struct area *out,
                         struct worker_outcome *o, struct err *e)
{
    struct bytes files[SPEC_MAX_FILES];
    _cleanup_(fp_finder_freep) struct fp_finder *f = NULL;
    _cleanup_area_ struct area *window = NULL;
    size_t at = 0;

    for (size_t i = 0; i < n_files; i++) {
        files[i] = BYTES(out->p + at, (size_t)o->file_bytes[i]);
        at += files[i].n;
    }
    if (fp_finder_new(files, n_files, &f, e) || area_new(READ_BYTES, 0, &window, e)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (scan_input(f, &inputs[i], i, window->p, &o->fp_input_bytes, e)) {
            return -1;
        }
    }
    uint64_t room = (out->n - at) / FP_BYTES;
    random_bytes(o->fp_salt, sizeof(o->fp_salt));
    if (fp_finder_result(f, o->fp_salt, out->p + at, room < FP_MAX_COUNT ? room : FP_MAX_COUNT,
                         &o->fp_count, &o->fp_total, e)) {
        return -1;
    }
    o->plain = BYTES(out->p, at + o->fp_count * FP_BYTES);
    return 0;
}

size_t job_area_bytes(const struct spec *spec)
{
    size_t max = (size_t)spec->output_max_bytes;
    size_t fps = max / FP_WINDOW < FP_MAX_COUNT ? max / FP_WINDOW : FP_MAX_COUNT;

    return max + fps * FP_BYTES;
}
