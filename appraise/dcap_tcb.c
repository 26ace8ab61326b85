#include "appraise/dcap_tcb.h"

#include "appraise/evidence.h"
#include "appraise/when.h"

/* Several times what Intel serves. */
#define JSON_MAX_BYTES (128u * 1024)

/* ---- members --------------------------------------------------------------------------------- */

/* Where an error is: "collateral.tcb_info.tcbLevels". */
struct place {
    const char *what;
    struct err *e;
};

static int bad(const struct place *at, const char *field, const char *expected)
{
    char clause[128];

    snprintf(clause, sizeof(clause), "%s.%s", at->what, field);
    return err_refuse(at->e, ERR_INVALID, clause, expected, "something else, or nothing");
}

static int get_hex(const struct place *at, const json_t *o, const char *key, uint8_t *ret, size_t n)
{
    const char *hex = json_string_value(json_object_get(o, key));
    char expected[48];

    if (hex && strlen(hex) == 2 * n && hex_decode(hex, ret, n, NULL) == 0) {
        return 0;
    }
    snprintf(expected, sizeof(expected), "%zu hex digits", 2 * n);
    return bad(at, key, expected);
}

static int get_int(const struct place *at, const json_t *o, const char *key, int64_t max,
                   int64_t *ret)
{
    const json_t *v = json_object_get(o, key);
    char expected[64];

    if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= max) {
        *ret = json_integer_value(v);
        return 0;
    }
    snprintf(expected, sizeof(expected), "an integer from 0 to %lld", (long long)max);
    return bad(at, key, expected);
}

static int get_time(const struct place *at, const json_t *o, const char *key, int64_t *ret)
{
    const char *text = json_string_value(json_object_get(o, key));

    return text && rfc3339_ms(text, ret) == 0 ? 0 : bad(at, key, "a time of RFC 3339");
}

static int get_list(const struct place *at, const json_t *o, const char *key, size_t min,
                    size_t max, const json_t **ret)
{
    const json_t *v = json_object_get(o, key);
    char expected[64];

    if (json_is_array(v) && json_array_size(v) >= min && json_array_size(v) <= max) {
        *ret = v;
        return 0;
    }
    snprintf(expected, sizeof(expected), "a list of %zu to %zu", min, max);
    return bad(at, key, expected);
}

static int get_status(const struct place *at, const json_t *o, enum tcb_status *ret)
{
    static const enum tcb_status known[] = {TCB_UP_TO_DATE,
                                            TCB_SW_HARDENING_NEEDED,
                                            TCB_CONFIGURATION_NEEDED,
                                            TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED,
                                            TCB_OUT_OF_DATE,
                                            TCB_OUT_OF_DATE_CONFIGURATION_NEEDED,
                                            TCB_REVOKED};
    const char *text = json_string_value(json_object_get(o, "tcbStatus"));

    for (size_t i = 0; text && i < ARRAY_LEN(known); i++) {
        if (streq(text, tcb_status_name(known[i]))) {
            *ret = known[i];
            return 0;
        }
    }
    return bad(at, "tcbStatus", "a status that Intel documents");
}

static int get_word(const struct place *at, const json_t *level, struct tcb_word *ret)
{
    const json_t *ids = json_object_get(level, "advisoryIDs"), *id;
    size_t i;

    if (get_status(at, level, &ret->status) || get_time(at, level, "tcbDate", &ret->date_ms)) {
        return -1;
    }
    if (ids && (!json_is_array(ids) || json_array_size(ids) > TCB_ADVISORIES_MAX)) {
        return bad(at, "advisoryIDs", "a list of at most 256 texts");
    }
    json_array_foreach((json_t *)(uintptr_t)ids, i, id)
    {
        if (!json_is_string(id) || json_string_length(id) > 64) {
            return bad(at, "advisoryIDs", "a list of at most 256 texts");
        }
    }
    ret->advisories = ids;
    return 0;
}

/* ---- levels of what has an ISVSVN ------------------------------------------------------------ */

static int by_isv_svn(const void *a, const void *b)
{
    const struct isv_level *x = a, *y = b;

    return (x->isv_svn < y->isv_svn) - (x->isv_svn > y->isv_svn);
}

/* The others are about a platform's configuration, and have no meaning for its parts. */
static int is_part_status(enum tcb_status s)
{
    return s == TCB_UP_TO_DATE || s == TCB_OUT_OF_DATE || s == TCB_REVOKED;
}

static int read_isv_levels(const struct place *at, const json_t *o, struct isv_level **ret,
                           size_t *ret_n)
{
    const json_t *list, *level;
    size_t i;

    if (get_list(at, o, "tcbLevels", 1, TCB_LEVELS_MAX, &list)) {
        return -1;
    }
    struct isv_level *v = *ret = xcalloc(json_array_size(list), sizeof(*v));
    json_array_foreach((json_t *)(uintptr_t)list, i, level)
    {
        int64_t n;
        if (get_int(at, json_object_get(level, "tcb"), "isvsvn", 0xffff, &n) ||
            get_word(at, level, &v[i].word)) {
            return -1;
        }
        if (!is_part_status(v[i].word.status)) {
            return bad(at, "tcbLevels.tcbStatus", "UpToDate, OutOfDate or Revoked");
        }
        v[i].isv_svn = (uint16_t)n;
    }
    *ret_n = json_array_size(list);
    qsort(v, *ret_n, sizeof(*v), by_isv_svn);
    for (i = 1; i < *ret_n; i++) {
        if (v[i].isv_svn == v[i - 1].isv_svn) {
            return bad(at, "tcbLevels", "each level once");
        }
    }
    return 0;
}

/* ---- TDX modules ----------------------------------------------------------------------------- */

static int read_module(const struct place *at, const json_t *o, int with_levels,
                       struct tdx_module *m)
{
    const char *id = json_string_value(json_object_get(o, "id"));

    if (get_hex(at, o, "mrsigner", m->mrsigner, 48) ||
        get_hex(at, o, "attributes", m->attributes, 8) ||
        get_hex(at, o, "attributesMask", m->attributes_mask, 8)) {
        return -1;
    }
    if (!with_levels) {
        return 0;
    }
    if (!id || !*id || strlen(id) >= sizeof(m->id)) {
        return bad(at, "id", "a name of at most 15 characters");
    }
    snprintf(m->id, sizeof(m->id), "%s", id);
    return read_isv_levels(at, o, &m->levels, &m->n_levels);
}

static int read_modules(const struct place *of, struct tcb_info *t)
{
    const struct place at = {.what = "collateral.tcb_info.tdxModule", .e = of->e};
    const struct place each = {.what = "collateral.tcb_info.tdxModuleIdentities", .e = of->e};
    const json_t *module = json_object_get(t->json, "tdxModule"), *list, *o;
    size_t i;

    if (!t->is_tdx) {
        return module || json_object_get(t->json, "tdxModuleIdentities")
                   ? bad(of, "tdxModule", "none in the TCB info of SGX")
                   : 0;
    }
    if (!json_is_object(module)) {
        return bad(of, "tdxModule", "an object");
    }
    if (read_module(&at, module, 0, &t->module)) {
        return -1;
    }
    if (!json_object_get(t->json, "tdxModuleIdentities")) {
        return 0;
    }
    if (get_list(of, t->json, "tdxModuleIdentities", 0, TCB_MODULES_MAX, &list)) {
        return -1;
    }
    t->modules = xcalloc(json_array_size(list) + 1, sizeof(*t->modules));
    json_array_foreach((json_t *)(uintptr_t)list, i, o)
    {
        t->n_modules++;
        if (read_module(&each, o, 1, &t->modules[i])) {
            return -1;
        }
    }
    return 0;
}

/* ---- platform levels ------------------------------------------------------------------------- */

static int read_components(const struct place *at, const json_t *tcb, const char *key,
                           uint16_t ret[16])
{
    const json_t *list, *c;
    size_t i;

    if (get_list(at, tcb, key, 16, 16, &list)) {
        return -1;
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, c)
    {
        int64_t n;
        if (get_int(at, c, "svn", 0xffff, &n)) {
            return -1;
        }
        ret[i] = (uint16_t)n;
    }
    return 0;
}

static int read_components_v2(const struct place *at, const json_t *tcb, uint16_t ret[16])
{
    for (unsigned i = 0; i < 16; i++) {
        char key[32];
        int64_t n;
        snprintf(key, sizeof(key), "sgxtcbcomp%02usvn", i + 1);
        if (get_int(at, tcb, key, 0xffff, &n)) {
            return -1;
        }
        ret[i] = (uint16_t)n;
    }
    return 0;
}

static int read_level(const struct place *at, const struct tcb_info *t, const json_t *level,
                      struct tcb_level *ret)
{
    const json_t *tcb = json_object_get(level, "tcb");
    int64_t pce_svn;

    if ((t->version == 2 ? read_components_v2(at, tcb, ret->sgx)
                         : read_components(at, tcb, "sgxtcbcomponents", ret->sgx)) ||
        (t->is_tdx && read_components(at, tcb, "tdxtcbcomponents", ret->tdx)) ||
        get_int(at, tcb, "pcesvn", 0xffff, &pce_svn) || get_word(at, level, &ret->word)) {
        return -1;
    }
    ret->pce_svn = (uint16_t)pce_svn;
    return 0;
}

/* Above zero when y is higher. */
static int compare_components(const uint16_t x[16], const uint16_t y[16])
{
    for (size_t i = 0; i < 16; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? 1 : -1;
        }
    }
    return 0;
}

/* As the QVL orders them, highest first: SGX components, PCESVN, TDX components. */
static int by_level(const void *a, const void *b)
{
    const struct tcb_level *x = a, *y = b;
    int rc = compare_components(x->sgx, y->sgx);

    if (!rc) {
        rc = (x->pce_svn < y->pce_svn) - (x->pce_svn > y->pce_svn);
    }
    return rc ? rc : compare_components(x->tdx, y->tdx);
}

static int read_levels(const struct place *of, struct tcb_info *t)
{
    const struct place at = {.what = "collateral.tcb_info.tcbLevels", .e = of->e};
    const json_t *list, *level;
    size_t i;

    if (get_list(of, t->json, "tcbLevels", 1, TCB_LEVELS_MAX, &list)) {
        return -1;
    }
    t->levels = xcalloc(json_array_size(list), sizeof(*t->levels));
    t->n_levels = json_array_size(list);
    json_array_foreach((json_t *)(uintptr_t)list, i, level)
    {
        if (read_level(&at, t, level, &t->levels[i])) {
            return -1;
        }
    }
    qsort(t->levels, t->n_levels, sizeof(*t->levels), by_level);
    for (i = 1; i < t->n_levels; i++) {
        if (by_level(&t->levels[i - 1], &t->levels[i]) == 0) {
            return bad(of, "tcbLevels", "each level once");
        }
    }
    return 0;
}

/* ---- TCB info -------------------------------------------------------------------------------- */

static void module_done(struct tdx_module *m)
{
    free(m->levels);
}

void tcb_info_free(void *tcb_info)
{
    struct tcb_info *t = tcb_info;

    if (t) {
        for (size_t i = 0; i < t->n_modules; i++) {
            module_done(&t->modules[i]);
        }
        free(t->modules);
        free(t->levels);
        json_decref(t->json);
        free(t);
    }
}
DEFINE_CLEANUP(struct tcb_info *, tcb_info_free);

static int read_id(const struct place *at, struct tcb_info *t)
{
    const char *id = json_string_value(json_object_get(t->json, "id"));

    if (t->version == 2) { /* before there was TDX */
        return json_object_get(t->json, "id") && !(id && streq(id, "SGX"))
                   ? bad(at, "id", "SGX, or none, in version 2")
                   : 0;
    }
    if (!id || (!streq(id, "SGX") && !streq(id, "TDX"))) {
        return bad(at, "id", "SGX or TDX");
    }
    t->is_tdx = streq(id, "TDX");
    return 0;
}

static int read_tcb_info(const struct place *at, struct tcb_info *t)
{
    int64_t version, type;

    if (get_int(at, t->json, "version", 1000, &version) ||
        get_int(at, t->json, "tcbType", 1000, &type)) {
        return -1;
    }
    if (version != 2 && version != 3) {
        return bad(at, "version", "2 or 3");
    }
    t->version = (int)version;
    return type ? bad(at, "tcbType", "0")
           : read_id(at, t) || get_time(at, t->json, "issueDate", &t->issue_ms) ||
                   get_time(at, t->json, "nextUpdate", &t->next_ms) ||
                   get_int(at, t->json, "tcbEvaluationDataNumber", INT32_MAX, &t->evaluation) ||
                   get_hex(at, t->json, "fmspc", t->fmspc, 6) ||
                   get_hex(at, t->json, "pceId", t->pce_id, 2) || read_modules(at, t) ||
                   read_levels(at, t)
               ? -1
               : 0;
}

static int parse_json(const struct place *at, struct bytes raw, json_t **ret)
{
    struct err why = {0};

    if (raw.n <= JSON_MAX_BYTES && !evidence_few_parts(raw)) {
        return err_refuse(at->e, ERR_TOO_LARGE, at->what,
                          "JSON of at most 20000 texts, members and lists", "more");
    }
    if (json_parse(at->what, raw, JSON_MAX_BYTES, ret, &why) == 0) {
        return 0;
    }
    return err_refuse(at->e, why.code == ERR_TOO_LARGE ? ERR_TOO_LARGE : ERR_INVALID, at->what,
                      "a JSON object without duplicate members", "%.240s", why.msg);
}

int tcb_info_parse(struct bytes raw, struct tcb_info **ret, struct err *e)
{
    const struct place at = {.what = "collateral.tcb_info", .e = e};
    _cleanup_(tcb_info_freep) struct tcb_info *t = xcalloc(1, sizeof(*t));

    if (parse_json(&at, raw, &t->json) || read_tcb_info(&at, t)) {
        return -1;
    }
    *ret = TAKE_PTR(t);
    return 0;
}

/* ---- QE identity ----------------------------------------------------------------------------- */

void qe_identity_free(void *qe_identity)
{
    struct qe_identity *q = qe_identity;

    if (q) {
        free(q->levels);
        json_decref(q->json);
        free(q);
    }
}
DEFINE_CLEANUP(struct qe_identity *, qe_identity_free);

static int read_qe_identity(const struct place *at, struct qe_identity *q)
{
    const char *id = json_string_value(json_object_get(q->json, "id"));
    int64_t version, prod_id;

    if (get_int(at, q->json, "version", 1000, &version)) {
        return -1;
    }
    if (version != 2) {
        return bad(at, "version", "2");
    }
    if (!id || (!streq(id, "QE") && !streq(id, "TD_QE") && !streq(id, "QVE"))) {
        return bad(at, "id", "QE, TD_QE or QVE");
    }
    snprintf(q->id, sizeof(q->id), "%s", id);
    if (get_time(at, q->json, "issueDate", &q->issue_ms) ||
        get_time(at, q->json, "nextUpdate", &q->next_ms) ||
        get_int(at, q->json, "tcbEvaluationDataNumber", INT32_MAX, &q->evaluation) ||
        get_hex(at, q->json, "miscselect", q->miscselect, 4) ||
        get_hex(at, q->json, "miscselectMask", q->miscselect_mask, 4) ||
        get_hex(at, q->json, "attributes", q->attributes, 16) ||
        get_hex(at, q->json, "attributesMask", q->attributes_mask, 16) ||
        get_hex(at, q->json, "mrsigner", q->mrsigner, 32) ||
        get_int(at, q->json, "isvprodid", 0xffff, &prod_id)) {
        return -1;
    }
    q->isv_prod_id = (uint16_t)prod_id;
    return read_isv_levels(at, q->json, &q->levels, &q->n_levels);
}

int qe_identity_parse(struct bytes raw, struct qe_identity **ret, struct err *e)
{
    const struct place at = {.what = "collateral.qe_identity", .e = e};
    _cleanup_(qe_identity_freep) struct qe_identity *q = xcalloc(1, sizeof(*q));

    if (parse_json(&at, raw, &q->json) || read_qe_identity(&at, q)) {
        return -1;
    }
    *ret = TAKE_PTR(q);
    return 0;
}
