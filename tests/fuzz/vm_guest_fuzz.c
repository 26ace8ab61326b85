/* What a guest writes to its ports: lifecycle lines, and text for the log. */
#include "svc-launcher/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void forward(void *arg, struct bytes line)
{
    struct lifecycle l;

    (void)arg;
    if (memchr(line.p, '\n', line.n) || lifecycle_parse(line, &l, NULL) < 0) {
        abort();
    }
}

static void out(const char *prefix, const char *line)
{
    (void)prefix;
    if (!line[0] || strlen(line) > VM_TEXT_LINE) {
        abort();
    }
    for (const char *p = line; *p; p++) {
        if (*p < 0x20 || *p == 0x7f) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vm_guest g = VM_GUEST_INIT;
    struct vm_text t = {.prefix = "x", .left = 4096, .out = out};
    size_t half = size / 2;

    g.forward = forward;
    vm_guest_feed(&g, BYTES(data, half));
    vm_guest_feed(&g, BYTES(data + half, size - half));
    if (g.exit_code < -1 || g.exit_code > 255) {
        abort();
    }
    vm_guest_done(&g);
    vm_text_feed(&t, BYTES(data, half));
    vm_text_feed(&t, BYTES(data + half, size - half));
    vm_text_end(&t);
    return 0;
}
