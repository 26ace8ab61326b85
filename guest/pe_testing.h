/* A small PE32+ image for tests: headers of 1 KiB with room for sections, two sections of 512 bytes
 * of fixed noise. Laid out like an EFI program, but nothing in it can run. */
#ifndef COFFER_GUEST_PE_TESTING_H
#define COFFER_GUEST_PE_TESTING_H

#include "guest/le.h"
#include "guest/pe.h"

#define PEFIX_COFF 0x84u
#define PEFIX_OPT (PEFIX_COFF + 20u)
#define PEFIX_OPT_BYTES 240u
#define PEFIX_SECURITY (PEFIX_OPT + 112u + 4u * 8u)
#define PEFIX_TABLE (PEFIX_OPT + PEFIX_OPT_BYTES)
#define PEFIX_SECTION(i) (PEFIX_TABLE + 40u * (i))
#define PEFIX_HEADERS 1024u
#define PEFIX_BYTES (PEFIX_HEADERS + 2u * 512u)
#define PEFIX_IMAGE 0x3000u

static inline void pefix_make(uint8_t b[PEFIX_BYTES])
{
    static const char *const names[] = {".text", ".data"};
    uint32_t noise = 7;

    memset(b, 0, PEFIX_HEADERS);
    for (size_t i = PEFIX_HEADERS; i < PEFIX_BYTES; i++) {
        noise = noise * 1664525u + 1013904223u;
        b[i] = (uint8_t)(noise >> 24);
    }
    memcpy(b, "MZ", 2);
    le32_put(b + 0x3c, PEFIX_COFF - 4);
    memcpy(b + PEFIX_COFF - 4, "PE\0", 4);
    le16_put(b + PEFIX_COFF, 0x8664);
    le16_put(b + PEFIX_COFF + 2, ARRAY_LEN(names));
    le16_put(b + PEFIX_COFF + 16, PEFIX_OPT_BYTES);
    le16_put(b + PEFIX_OPT, 0x20b);
    le32_put(b + PEFIX_OPT + 32, 4096);
    le32_put(b + PEFIX_OPT + 36, 512);
    le32_put(b + PEFIX_OPT + 56, PEFIX_IMAGE);
    le32_put(b + PEFIX_OPT + 60, PEFIX_HEADERS);
    le32_put(b + PEFIX_OPT + 64, 0x12345678); /* checksum */
    le32_put(b + PEFIX_OPT + 108, 16);
    for (uint32_t i = 0; i < ARRAY_LEN(names); i++) {
        uint8_t *h = b + PEFIX_SECTION(i);
        memcpy(h, names[i], strlen(names[i]));
        le32_put(h + 8, 500);
        le32_put(h + 12, 0x1000 * (i + 1));
        le32_put(h + 16, 512);
        le32_put(h + 20, PEFIX_HEADERS + 512 * i);
    }
}

#endif
