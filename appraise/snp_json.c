/* SNP evidence in JSON. */
#include <ctype.h>

#include "appraise/snp_evidence.h"
#include "common/jcs.h"

/* ---- bytes as JSON has them ---- */

static int array_bytes(const json_t *v, struct buf *ret)
{
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *n = json_array_get(v, i);
        uint8_t b = (uint8_t)json_integer_value(n);
        if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) > 255 ||
            buf_add(ret, &b, 1, NULL)) {
            return -1;
        }
    }
    return 0;
}

static int value_bytes(const json_t *v, struct buf *ret)
{
    const char *text = json_string_value(v);

    return json_is_array(v) ? array_bytes(v, ret)
           : text           ? snp_text_decode(BYTES_STR(text), ret)
                            : -1;
}

/* ---- the report, field by field ---- */

enum field_kind { FIELD_INT, FIELD_BYTES, FIELD_TCB, FIELD_FIRMWARE };

struct field {
    const char *name, *old_name; /* of earlier versions of the same crate */
    uint16_t at, n;
    enum field_kind kind;
    uint8_t since; /* the version of the report that has it; before, it may be missing */
};

static const struct field fields[] = {
    {"version", NULL, 0x000, 4, FIELD_INT, 0},
    {"guest_svn", NULL, 0x004, 4, FIELD_INT, 0},
    {"policy", NULL, 0x008, 8, FIELD_INT, 0},
    {"family_id", NULL, 0x010, 16, FIELD_BYTES, 0},
    {"image_id", NULL, 0x020, 16, FIELD_BYTES, 0},
    {"vmpl", NULL, 0x030, 4, FIELD_INT, 0},
    {"sig_algo", NULL, 0x034, 4, FIELD_INT, 0},
    {"current_tcb", NULL, 0x038, 8, FIELD_TCB, 0},
    {"plat_info", NULL, 0x040, 8, FIELD_INT, 0},
    {"key_info", "_author_key_en", 0x048, 4, FIELD_INT, 0},
    {"report_data", NULL, 0x050, 64, FIELD_BYTES, 0},
    {"measurement", NULL, 0x090, 48, FIELD_BYTES, 0},
    {"host_data", NULL, 0x0c0, 32, FIELD_BYTES, 0},
    {"id_key_digest", NULL, 0x0e0, 48, FIELD_BYTES, 0},
    {"author_key_digest", NULL, 0x110, 48, FIELD_BYTES, 0},
    {"report_id", NULL, 0x140, 32, FIELD_BYTES, 0},
    {"report_id_ma", NULL, 0x160, 32, FIELD_BYTES, 0},
    {"reported_tcb", NULL, 0x180, 8, FIELD_TCB, 0},
    {"cpuid_fam_id", NULL, 0x188, 1, FIELD_INT, 3},
    {"cpuid_mod_id", NULL, 0x189, 1, FIELD_INT, 3},
    {"cpuid_step", NULL, 0x18a, 1, FIELD_INT, 3},
    {"chip_id", NULL, 0x1a0, 64, FIELD_BYTES, 0},
    {"committed_tcb", NULL, 0x1e0, 8, FIELD_TCB, 0},
    {"current", NULL, 0x1e8, 3, FIELD_FIRMWARE, 0},
    {"committed", NULL, 0x1ec, 3, FIELD_FIRMWARE, 0},
    {"launch_tcb", NULL, 0x1f0, 8, FIELD_TCB, 0},
    {"launch_mit_vector", NULL, 0x1f8, 8, FIELD_INT, 5},
    {"current_mit_vector", NULL, 0x200, 8, FIELD_INT, 5},
};

static int refuse_field(struct err *e, const char *name, const char *expected)
{
    char clause[96];

    snprintf(clause, sizeof(clause), "evidence.attestation_report.%.48s", name);
    return err_refuse(e, ERR_INVALID, clause, expected, "something else, or nothing");
}

static int put_int(const json_t *v, uint8_t *to, size_t n)
{
    json_int_t i = json_integer_value(v);

    if (!json_is_integer(v) || i < 0 || (n < 8 && i >> 8 * n)) {
        return -1;
    }
    for (size_t k = 0; k < n; k++) {
        to[k] = (uint8_t)(i >> 8 * k);
    }
    return 0;
}

static int put_bytes(const json_t *v, uint8_t *to, size_t n)
{
    _cleanup_buf_ struct buf b = BUF_INIT(n);

    if (value_bytes(v, &b) || b.n != n) {
        return -1;
    }
    memcpy(to, b.p, n);
    return 0;
}

static int put_tcb(const json_t *v, uint8_t *to, int turin)
{
    static const char *const names[] = {"bootloader", "tee", "snp", "microcode", "fmc"};
    static const uint8_t before[] = {0, 1, 6, 7}, since_turin[] = {1, 2, 3, 7, 0};
    const json_t *reserved = json_object_get(v, "_reserved");
    _cleanup_buf_ struct buf r = BUF_INIT(4);

    for (size_t i = 0; i < (turin ? 5 : 4); i++) {
        if (put_int(json_object_get(v, names[i]), to + (turin ? since_turin : before)[i], 1)) {
            return -1;
        }
    }
    if (!turin && reserved) {
        if (array_bytes(reserved, &r) || r.n != 4) {
            return -1;
        }
        memcpy(to + 2, r.p, 4);
    }
    return 0;
}

/* Earlier: current_build, current_minor, current_major beside each other. */
static int put_firmware(const json_t *report, const char *name, uint8_t *to)
{
    static const char *const parts[] = {"build", "minor", "major"};
    const json_t *v = json_object_get(report, name);

    for (size_t i = 0; i < 3; i++) {
        char flat[32];
        snprintf(flat, sizeof(flat), "%s_%s", name, parts[i]);
        if (put_int(json_object_get(v ? v : report, v ? parts[i] : flat), to + i, 1)) {
            return -1;
        }
    }
    return 0;
}

static int put_field(const json_t *report, const struct field *f, int turin, uint8_t *to)
{
    const json_t *v = json_object_get(report, f->name);

    if (!v && f->old_name) {
        v = json_object_get(report, f->old_name);
    }
    if ((!v || json_is_null(v)) && to[0] < f->since) {
        return 0;
    }
    switch (f->kind) {
    case FIELD_INT:
        return put_int(v, to + f->at, f->n);
    case FIELD_BYTES:
        return put_bytes(v, to + f->at, f->n);
    case FIELD_TCB:
        return put_tcb(v, to + f->at, turin);
    case FIELD_FIRMWARE:
        return put_firmware(report, f->name, to + f->at);
    }
    return -1;
}

/* What was signed are the bytes that these fields were read from; reserved ones are zero. */
static int rebuild(struct snp_evidence *ev, const json_t *report, struct err *e)
{
    const json_t *sig = json_object_get(report, "signature");
    int turin = json_integer_value(json_object_get(report, "cpuid_fam_id")) == 0x1a;
    uint8_t raw[SNP_REPORT_BYTES] = {0};

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (put_field(report, &fields[i], turin, raw)) {
            return refuse_field(e, fields[i].name, "the field of a report, in its range");
        }
    }
    if (put_bytes(json_object_get(sig, "r"), raw + 0x2a0, 72) ||
        put_bytes(json_object_get(sig, "s"), raw + 0x2a0 + 72, 72)) {
        return refuse_field(e, "signature", "r and s of 72 bytes each");
    }
    if (ev->has_report) {
        return err_refuse(e, ERR_INVALID, "evidence.report", "one report", "more");
    }
    memcpy(ev->report, raw, sizeof(raw));
    ev->has_report = 1;
    return 0;
}

/* ---- what stands around it ---- */

static void take_cert_value(struct snp_evidence *ev, const json_t *v, int depth);

static void take_cert_array(struct snp_evidence *ev, const json_t *v, int depth)
{
    _cleanup_buf_ struct buf b = BUF_INIT(SNP_EVIDENCE_MAX_BYTES);

    if (json_is_integer(json_array_get(v, 0))) {
        if (array_bytes(v, &b)) {
            ev->n_bad++;
        } else {
            snp_take_certs(ev, buf_bytes(&b));
        }
        return;
    }
    for (size_t i = 0; i < json_array_size(v) && i < SNP_CERTS_MAX; i++) {
        take_cert_value(ev, json_array_get(v, i), depth + 1);
    }
}

static void take_cert_text(struct snp_evidence *ev, const char *text)
{
    _cleanup_buf_ struct buf b = BUF_INIT(SNP_EVIDENCE_MAX_BYTES);

    if (strstr(text, "-----BEGIN ")) {
        snp_take_certs(ev, BYTES_STR(text));
    } else if (*text) {
        if (snp_text_decode(BYTES_STR(text), &b)) {
            ev->n_bad++;
        } else {
            snp_take_certs(ev, buf_bytes(&b));
        }
    }
}

static void take_cert_value(struct snp_evidence *ev, const json_t *v, int depth)
{
    if (depth > SNP_NESTING_MAX) {
        ev->n_bad++;
    } else if (json_is_array(v)) {
        take_cert_array(ev, v, depth);
    } else if (json_is_string(v)) {
        take_cert_text(ev, json_string_value(v));
    } else if (json_is_object(v) && json_object_get(v, "data")) {
        take_cert_value(ev, json_object_get(v, "data"), depth + 1);
    } else if (json_is_object(v)) {
        const char *key;
        json_t *member;
        json_object_foreach((json_t *)(uintptr_t)v, key, member)
        {
            take_cert_value(ev, member, depth + 1);
        }
    }
}

static int take_form_text(struct snp_evidence *ev, const json_t *v, int depth, struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(SNP_EVIDENCE_MAX_BYTES);

    if (value_bytes(v, &b)) {
        return err_refuse(e, ERR_INVALID, "evidence.report", "hex, base64, or a list of bytes",
                          "something else");
    }
    return snp_take_form(ev, buf_bytes(&b), depth + 1, e);
}

/* Objects, and arrays of a media type and a value (RATS conceptual messages). */
static int take_wrapped(struct snp_evidence *ev, const json_t *v, int depth, struct err *e)
{
    if (json_is_array(v) && json_is_string(json_array_get(v, 0)) && json_array_size(v) >= 2) {
        v = json_array_get(v, 1);
    }
    if (json_is_object(v)) {
        return snp_take_json(ev, v, depth + 1, e);
    }
    return take_form_text(ev, v, depth, e);
}

int snp_take_json(struct snp_evidence *ev, const json_t *j, int depth, struct err *e)
{
    static const char *const reports[] = {"attestation_report", "outblob", "report", "snp_report"};
    static const char *const chains[] = {
        "cert_chain", "vek_cert", "vcek",  "vlek",         "ask",      "asvk",
        "ark",        "auxblob",  "certs", "certificates", "vcekCert", "certificateChain",
        "crl"};
    static const char *const wrappers[] = {"evidence",   "sev_snp", "snp",
                                           "tsm-report", "cmw",     "attestation"};

    if (depth > SNP_NESTING_MAX) {
        return err_refuse(e, ERR_INVALID, "evidence", "at most 5 forms within each other", "more");
    }
    for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
        take_cert_value(ev, json_object_get(j, chains[i]), depth);
    }
    for (size_t i = 0; i < ARRAY_LEN(reports); i++) {
        const json_t *v = json_object_get(j, reports[i]);
        if (v) {
            return json_is_object(v) ? rebuild(ev, v, e) : take_form_text(ev, v, depth, e);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(wrappers); i++) {
        const json_t *v = json_object_get(j, wrappers[i]);
        if (v) {
            return take_wrapped(ev, v, depth, e);
        }
    }
    return err_refuse(e, ERR_INVALID, "evidence.attestation_report", "a report", "none");
}
