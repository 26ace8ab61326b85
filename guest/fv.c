#include "guest/fv.h"

#include <lzma.h>
#include <openssl/evp.h>

#include "guest/le.h"

#define LZMA_MEMORY_MAX (256u << 20)
#define STEP_BYTES 65536u
#define SECTION_FV 0x17u
#define SECTION_GUIDED 0x02u

/* EE4E5898-3914-4259-9D6E-DC7BD79403CF */
static const uint8_t lzma_guid[16] = {0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42,
                                      0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf};

/* ---- unpacking ------------------------------------------------------------------------------- */

static int unpack_lzma(struct bytes in, struct buf *ret, struct err *e)
{
    lzma_stream s = LZMA_STREAM_INIT;
    lzma_ret rc = lzma_alone_decoder(&s, LZMA_MEMORY_MAX);

    s.next_in = in.p;
    s.avail_in = in.n;
    while (rc == LZMA_OK) {
        if (buf_reserve(ret, STEP_BYTES, e)) {
            lzma_end(&s);
            return err_refuse(e, ERR_TOO_LARGE, "firmware", "volumes of at most 32 MiB", "more");
        }
        s.next_out = ret->p + ret->n;
        s.avail_out = STEP_BYTES;
        rc = lzma_code(&s, LZMA_RUN);
        ret->n += STEP_BYTES - s.avail_out;
        if (rc == LZMA_OK && s.avail_in == 0 && s.avail_out > 0) {
            break; /* cut off */
        }
    }
    lzma_end(&s);
    return rc == LZMA_STREAM_END
               ? 0
               : err_refuse(e, ERR_INVALID, "firmware", "an LZMA section that unpacks",
                            "LZMA error %d", (int)rc);
}

/* Where the data of the GUIDed section begin whose GUID is at guid_at; 0 when it is none. */
static size_t guided_data(struct bytes fw, size_t guid_at)
{
    const uint8_t *b = fw.p;
    size_t base;

    if (fw.n - guid_at < 20) {
        return 0;
    }
    if (guid_at >= 8 && b[guid_at - 5] == SECTION_GUIDED &&
        memcmp(b + guid_at - 8, "\xff\xff\xff", 3) == 0) {
        base = guid_at - 8;
    } else if (guid_at >= 4 && b[guid_at - 1] == SECTION_GUIDED) {
        base = guid_at - 4;
    } else {
        return 0;
    }
    size_t data = base + le16_get(b + guid_at + 16);
    return data > guid_at && data < fw.n ? data : 0;
}

static int split(struct bytes raw, struct buf *ret_pei, struct buf *ret_dxe, struct err *e)
{
    struct buf *const out[] = {ret_pei, ret_dxe};
    size_t at = 0, found = 0;

    while (raw.n - at >= 8) {
        const uint8_t *h = raw.p + at;
        size_t n = le32_get(h) & 0xffffffu, head = 4;
        if (n == 0xffffffu) {
            n = le32_get(h + 4);
            head = 8;
        }
        if (n < head || n > raw.n - at) {
            break;
        }
        if (h[3] == SECTION_FV && found < ARRAY_LEN(out) &&
            buf_add(out[found++], h + head, n - head, e)) {
            return -1;
        }
        size_t next = (at + n + 3) & ~(size_t)3;
        if (next > raw.n) {
            break;
        }
        at = next;
    }
    return found == ARRAY_LEN(out) ? 0
                                   : err_refuse(e, ERR_UNSUPPORTED, "firmware",
                                                "a PEI and a DXE volume", "%zu volumes", found);
}

int fv_extract(struct bytes firmware, struct buf *ret_pei, struct buf *ret_dxe, struct err *e)
{
    _cleanup_buf_ struct buf raw = BUF_INIT(FV_MAX_BYTES);
    const uint8_t *at =
        firmware.n < 16 ? NULL : memmem(firmware.p, firmware.n, lzma_guid, sizeof(lzma_guid));
    size_t data = at ? guided_data(firmware, (size_t)(at - firmware.p)) : 0;

    if (!data) {
        return err_refuse(e, ERR_UNSUPPORTED, "firmware", "an OVMF with compressed volumes",
                          "no LZMA section in it");
    }
    return unpack_lzma(BYTES(firmware.p + data, firmware.n - data), &raw, e) ||
                   split(buf_bytes(&raw), ret_pei, ret_dxe, e)
               ? -1
               : 0;
}

/* ---- PlatformPei's bytes --------------------------------------------------------------------- */

struct patch {
    size_t at, n;
    const char *bytes;
};

struct build {
    const char *name;
    uint8_t sha256[32]; /* of the firmware file */
    size_t pei_bytes_min;
    struct patch patches[5];
    size_t vcpus_at; /* two u32: vCPUs at boot, and at most */
    size_t s3_at;    /* two u32: base and size of what is kept for S3 */
};

#define PATCH(at, text)                                                                            \
    {                                                                                              \
        at, sizeof(text) - 1, text                                                                 \
    }

static const struct build builds[] = {
    {.name = "ovmf 2022.11-6+deb12u2 OVMF.fd",
     .sha256 = {0x7b, 0x45, 0x69, 0x07, 0xdd, 0x07, 0x86, 0xd4, 0x15, 0x99, 0x9e,
                0x80, 0x1a, 0x1a, 0xc4, 0x63, 0x7b, 0x8e, 0xd4, 0xd7, 0xcf, 0x53,
                0x78, 0xcf, 0xc6, 0xed, 0xbe, 0x5e, 0x57, 0x4d, 0xd7, 0x73},
     .pei_bytes_min = 0xf060,
     .patches = {PATCH(0xefd8, "\xc0\x29"), PATCH(0xefe7, "\x01"),
                 PATCH(0xeff0, "\x10\x00\x00\x00\x28\x00\x00\x00\x80"),
                 PATCH(0xf00a, "\xe0\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\xc0"
                               "\x00\x00\x00\x3c\x00\x60\x00\x00\x00\x00\x00\x00\x00\xa0"),
                 PATCH(0xf036, "\x01\x00\x00\x00\x01\x00\x00\x00\x40\x00\x00\x00\x00\x80\xf7\x0f"
                               "\x00\x80\x08\x00\x01\x01")},
     .vcpus_at = 0xf036,
     .s3_at = 0xf042},
};

static const struct build *find_build(struct bytes firmware, uint8_t ret_sha256[32])
{
    if (EVP_Digest(firmware.p, firmware.n, ret_sha256, NULL, EVP_sha256(), NULL) != 1) {
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_LEN(builds); i++) {
        if (memcmp(builds[i].sha256, ret_sha256, 32) == 0) {
            return &builds[i];
        }
    }
    return NULL;
}

const char *fv_build_name(struct bytes firmware)
{
    uint8_t sha256[32] = {0};
    const struct build *b = find_build(firmware, sha256);

    return b ? b->name : NULL;
}

int fv_pei_at_runtime(struct bytes firmware, uint32_t memory_mib, unsigned vcpus, uint8_t *pei,
                      size_t pei_bytes, struct err *e)
{
    uint8_t sha256[32] = {0};
    const struct build *b = find_build(firmware, sha256);

    if (!b || pei_bytes < b->pei_bytes_min) {
        _cleanup_free_ char *hex = hex_encode(sha256, sizeof(sha256));
        return err_refuse(e, ERR_UNSUPPORTED, "firmware",
                          "a build whose PlatformPei is known (ovmf 2022.11-6+deb12u2 OVMF.fd)",
                          "SHA-256 %s", hex);
    }
    for (size_t i = 0; i < ARRAY_LEN(b->patches); i++) {
        memcpy(pei + b->patches[i].at, b->patches[i].bytes, b->patches[i].n);
    }
    /* q35: from 2816 MiB on, memory below 4 GiB ends at 2 GiB. */
    uint32_t below = memory_mib < 2816 ? memory_mib << 20 : 0x80000000u;
    uint32_t reserve = 0x80000u + 0x8000u * vcpus;
    le32_put(pei + b->vcpus_at, vcpus);
    le32_put(pei + b->vcpus_at + 4, vcpus);
    le32_put(pei + b->s3_at, below - reserve);
    le32_put(pei + b->s3_at + 4, reserve);
    return 0;
}
