#include "svc-launcher/qmp.h"

#include "common/jcs.h"

/* Members that are not known are passed over: each QEMU has new ones. */

static void copy(char *out, size_t size, const json_t *s)
{
    const char *in = json_string_value(s);

    snprintf(out, size, "%s", in ? in : "");
    for (char *p = out; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }
}

static int parse_greeting(const json_t *greeting, struct qmp_msg *m, struct err *e)
{
    json_t *version, *qemu;
    int64_t major, minor;

    if (!json_is_object(greeting)) {
        return err_refuse(e, ERR_INVALID, "QMP", "a greeting", "something else");
    }
    if (json_get_obj(greeting, "QMP", "version", &version, e) < 0 ||
        json_get_obj(version, "QMP.version", "qemu", &qemu, e) < 0 ||
        json_get_int(qemu, "QMP.version.qemu", "major", 0, 1000, &major, e) < 0 ||
        json_get_int(qemu, "QMP.version.qemu", "minor", 0, 99, &minor, e) < 0) {
        return -1;
    }
    m->kind = QMP_GREETING;
    m->version = (int)(major * 100 + minor);
    return 0;
}

static int parse_event(const json_t *j, struct qmp_msg *m, struct err *e)
{
    const char *name, *id;
    json_t *data;

    if (json_get_str(j, "QMP", "event", &name, e) < 0) {
        return -1;
    }
    if (streq(name, "GUEST_PANICKED")) {
        m->kind = QMP_PANICKED;
        return 0;
    }
    if (!streq(name, "VSERPORT_CHANGE") && !streq(name, "SHUTDOWN")) {
        return 0;
    }
    if (json_get_obj(j, name, "data", &data, e) < 0) {
        return -1;
    }
    if (streq(name, "SHUTDOWN")) {
        m->kind = QMP_SHUTDOWN;
        copy(m->text, sizeof(m->text), json_object_get(data, "reason"));
        return 0;
    }
    const json_t *open = json_object_get(data, "open");
    if (!json_is_boolean(open)) {
        return err_refuse(e, ERR_INVALID, "VSERPORT_CHANGE.open", "true or false",
                          "something else");
    }
    if (json_get_str(data, name, "id", &id, e) < 0) {
        return -1;
    }
    m->kind = QMP_PORT;
    m->open = json_is_true(open);
    copy(m->text, sizeof(m->text), json_object_get(data, "id"));
    return 0;
}

int qmp_parse(struct bytes line, struct qmp_msg *ret, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    struct qmp_msg m = {.kind = QMP_OTHER};
    int rc = 0;

    if (json_parse("QMP", line, QMP_LINE_MAX, &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j)) {
        return err_refuse(e, ERR_INVALID, "QMP", "an object", "something else");
    }
    if (json_object_get(j, "QMP")) {
        rc = parse_greeting(json_object_get(j, "QMP"), &m, e);
    } else if (json_object_get(j, "event")) {
        rc = parse_event(j, &m, e);
    } else if (json_object_get(j, "error")) {
        m.kind = QMP_ERROR;
        copy(m.text, sizeof(m.text), json_object_get(json_object_get(j, "error"), "desc"));
    } else if (json_object_get(j, "return")) {
        m.kind = QMP_RETURN;
    }
    if (rc == 0) {
        *ret = m;
    }
    return rc;
}
