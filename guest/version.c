#include "guest/version.h"

#include "guest/le.h"

#define HEADER_AT 0x202u
#define VERSION_AT 0x20eu /* where it is, less 0x200 */

/* One word of `text` from `at` on. */
static void word(struct bytes text, size_t at, char ret[VERSION_TEXT_BYTES])
{
    size_t n = 0;

    while (n + 1 < VERSION_TEXT_BYTES && at + n < text.n && text.p[at + n] > ' ' &&
           text.p[at + n] <= '~') {
        ret[n] = (char)text.p[at + n];
        n++;
    }
    ret[n] = '\0';
}

void version_of_stub(const struct pe *p, char ret[VERSION_TEXT_BYTES])
{
    static const char before[] = "#### LoaderInfo: systemd-stub ";
    const struct pe_section *s = pe_find(p, ".sdmagic");
    struct bytes text = s ? pe_content(p, s) : BYTES("", 0);
    const uint8_t *at = memmem(text.p, text.n, before, strlen(before));

    ret[0] = '\0';
    if (at) {
        word(text, (size_t)(at - text.p) + strlen(before), ret);
    }
}

void version_of_linux(struct bytes kernel, char ret[VERSION_TEXT_BYTES])
{
    ret[0] = '\0';
    if (kernel.n >= VERSION_AT + 2 && memcmp(kernel.p + HEADER_AT, "HdrS", 4) == 0 &&
        le16_get(kernel.p + VERSION_AT)) {
        word(kernel, (size_t)le16_get(kernel.p + VERSION_AT) + 0x200, ret);
    }
}
