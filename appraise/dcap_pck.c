#include "appraise/dcap_pck.h"

#define TAG_BOOLEAN 0x01u
#define TAG_INTEGER 0x02u
#define TAG_OCTETS 0x04u
#define TAG_OID 0x06u
#define TAG_ENUM 0x0au
#define TAG_SEQUENCE 0x30u

/* DER of 1.2.840.113741.1.13.1, the prefix of all that is in it. */
static const uint8_t prefix[] = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};

static const char clause[] = "evidence.pck.extension";

static int malformed(struct err *e, const char *expected)
{
    return err_refuse(e, ERR_INVALID, clause, expected, "something else");
}

/* One TLV with a definite, minimal length; *in moves behind it. */
static int next(struct bytes *in, unsigned *ret_tag, struct bytes *ret)
{
    size_t n, head = 2;

    if (in->n < 2 || (in->p[0] & 0x1f) == 0x1f) {
        return -1;
    }
    n = in->p[1];
    if (n == 0x81 && in->n > 2) {
        n = in->p[2];
        head = 3;
        if (n < 0x80) {
            return -1;
        }
    } else if (n == 0x82 && in->n > 3) {
        n = (size_t)in->p[2] << 8 | in->p[3];
        head = 4;
        if (n < 0x100) {
            return -1;
        }
    } else if (n >= 0x80) {
        return -1;
    }
    if (in->n - head < n) {
        return -1;
    }
    *ret_tag = in->p[0];
    *ret = BYTES(in->p + head, n);
    in->p += head + n;
    in->n -= head + n;
    return 0;
}

/* SEQUENCE { OID prefix.[<under>.]<number>, value }: the number and the value; `under` 0: none. */
static int next_entry(struct bytes *in, unsigned under, unsigned *ret_number, unsigned *ret_tag,
                      struct bytes *ret)
{
    size_t arcs = under ? 2 : 1;
    struct bytes entry, oid;
    unsigned tag;

    if (next(in, &tag, &entry) || tag != TAG_SEQUENCE || next(&entry, &tag, &oid) ||
        tag != TAG_OID || oid.n != sizeof(prefix) + arcs ||
        memcmp(oid.p, prefix, sizeof(prefix)) != 0 || (under && oid.p[sizeof(prefix)] != under) ||
        next(&entry, ret_tag, ret) || entry.n) {
        return -1;
    }
    *ret_number = oid.p[oid.n - 1];
    return 0;
}

static int octets(unsigned tag, struct bytes v, uint8_t *ret, size_t n)
{
    if (tag != TAG_OCTETS || v.n != n) {
        return -1;
    }
    memcpy(ret, v.p, n);
    return 0;
}

/* A non-negative INTEGER up to max, in its shortest form. */
static int integer(unsigned tag, struct bytes v, unsigned max, unsigned *ret)
{
    unsigned n = 0;

    if (tag != TAG_INTEGER || !v.n || v.n > 3 || v.p[0] >= 0x80 ||
        (v.n > 1 && !v.p[0] && v.p[1] < 0x80)) {
        return -1;
    }
    for (size_t i = 0; i < v.n; i++) {
        n = n << 8 | v.p[i];
    }
    *ret = n;
    return n <= max ? 0 : -1;
}

static int boolean(unsigned tag, struct bytes v, enum pck_bool *ret)
{
    if (tag != TAG_BOOLEAN || v.n != 1 || (v.p[0] && v.p[0] != 0xff) || *ret != PCK_UNSAID) {
        return -1;
    }
    *ret = v.p[0] ? PCK_TRUE : PCK_FALSE;
    return 0;
}

/* .2.1 to .2.16 component SVNs, .2.17 PCESVN, .2.18 CPUSVN; in order, as the profile has them. */
static int read_tcb(struct bytes in, struct pck *p, struct err *e)
{
    static const char expected[] = "a TCB of 16 component SVNs, PCESVN and CPUSVN";
    unsigned number, tag, n;
    struct bytes v;

    for (unsigned i = 1; i <= 18; i++) {
        if (next_entry(&in, 2, &number, &tag, &v) || number != i) {
            return malformed(e, expected);
        }
        if (i == 18 ? octets(tag, v, p->cpu_svn, 16)
                    : integer(tag, v, i == 17 ? 0xffff : 255, &n)) {
            return malformed(e, expected);
        }
        if (i == 17) {
            p->pce_svn = (uint16_t)n;
        } else if (i < 17) {
            p->sgx_svn[i - 1] = (uint8_t)n;
        }
    }
    return in.n ? malformed(e, expected) : 0;
}

static int read_configuration(struct bytes in, struct pck *p, struct err *e)
{
    static const char expected[] = "a configuration of booleans";
    unsigned number, tag;
    struct bytes v;

    while (in.n) {
        if (next_entry(&in, 7, &number, &tag, &v) || number < 1 || number > 3 ||
            boolean(tag, v,
                    number == 1   ? &p->dynamic_platform
                    : number == 2 ? &p->cached_keys
                                  : &p->smt_enabled)) {
            return malformed(e, expected);
        }
    }
    return 0;
}

static int read_one(unsigned number, unsigned tag, struct bytes v, struct pck *p, struct err *e)
{
    static const char *const expected[] = {"",
                                           "a PPID of 16 bytes",
                                           "a TCB",
                                           "a PCEID of 2 bytes",
                                           "an FMSPC of 6 bytes",
                                           "an SGX type of 0, 1 or 2",
                                           "a platform instance ID of 16 bytes",
                                           "a configuration"};
    int rc = -1;

    switch (number) {
    case 1:
        rc = octets(tag, v, p->ppid, sizeof(p->ppid));
        break;
    case 2:
        return tag == TAG_SEQUENCE ? read_tcb(v, p, e) : malformed(e, expected[2]);
    case 3:
        rc = octets(tag, v, p->pce_id, sizeof(p->pce_id));
        break;
    case 4:
        rc = octets(tag, v, p->fmspc, sizeof(p->fmspc));
        break;
    case 5:
        rc = tag == TAG_ENUM && v.n == 1 && v.p[0] <= 2 ? 0 : -1;
        p->sgx_type = rc ? 0 : v.p[0];
        break;
    case 6:
        rc = octets(tag, v, p->platform_instance_id, sizeof(p->platform_instance_id));
        p->has_platform_instance_id = !rc;
        break;
    case 7:
        return tag == TAG_SEQUENCE ? read_configuration(v, p, e) : malformed(e, expected[7]);
    default:
        return malformed(e, "elements 1 to 7");
    }
    return rc ? malformed(e, expected[number]) : 0;
}

int pck_parse(struct bytes extension, struct pck *ret, struct err *e)
{
    struct pck p = {0};
    struct bytes in;
    unsigned tag, number, seen = 0;

    if (next(&extension, &tag, &in) || tag != TAG_SEQUENCE || extension.n) {
        return malformed(e, "one SEQUENCE");
    }
    while (in.n) {
        struct bytes v;
        if (next_entry(&in, 0, &number, &tag, &v)) {
            return malformed(e, "pairs of an object identifier and a value");
        }
        if (number > 7 || seen & 1u << number) {
            return malformed(e, "elements 1 to 7, each once");
        }
        seen |= 1u << number;
        if (read_one(number, tag, v, &p, e)) {
            return -1;
        }
    }
    if ((seen & 0x3e) != 0x3e) {
        return malformed(e, "PPID, TCB, PCEID, FMSPC and SGX type");
    }
    *ret = p;
    return 0;
}

int pck_of(const struct cert *c, struct pck *ret, struct err *e)
{
    struct bytes extension = cert_extension(c, PCK_EXTENSION_OID);

    return extension.n ? pck_parse(extension, ret, e)
                       : malformed(e, "a PCK certificate, with " PCK_EXTENSION_OID);
}
