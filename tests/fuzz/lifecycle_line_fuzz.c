/* What a worker writes to the launcher: cut into lines, and each line parsed. */
#include "svc-launcher/backend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(void *arg, struct bytes line)
{
    struct lifecycle l;
    struct err e = {0};

    (void)arg;
    if (line.n > 512 || memchr(line.p, '\n', line.n)) {
        abort();
    }
    if (lifecycle_parse(line, &l, &e) < 0) {
        if (!e.msg[0]) {
            abort();
        }
        return;
    }
    if (strlen(l.phase) >= sizeof(l.phase) || strlen(l.message) >= sizeof(l.message)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct line_cutter c = LINE_CUTTER_INIT(512);
    size_t half = size / 2;

    line_cutter_feed(&c, BYTES(data, half), parse, NULL);
    line_cutter_feed(&c, BYTES(data + half, size - half), parse, NULL);
    buf_done(&c.buf);
    return 0;
}
