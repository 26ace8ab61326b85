/* QEMU's machine protocol (docs/interop/qmp-spec.rst): one JSON object a line. */
#ifndef COFFER_LAUNCHER_QMP_H
#define COFFER_LAUNCHER_QMP_H

#include "common/buf.h"

#define QMP_LINE_MAX (64u * 1024)

enum qmp_kind {
    QMP_OTHER,    /* nothing that is of use here */
    QMP_GREETING, /* version: 702 for 7.2 */
    QMP_RETURN,
    QMP_ERROR,    /* text */
    QMP_PORT,     /* VSERPORT_CHANGE: text is the port's id; open */
    QMP_SHUTDOWN, /* text is the reason, "guest-shutdown" for a power-off by the guest */
    QMP_PANICKED, /* GUEST_PANICKED */
};

struct qmp_msg {
    enum qmp_kind kind;
    int version;
    int open;
    char text[256];
};

/* One line, without its newline. ERR_INVALID, ERR_TOO_LARGE. */
int qmp_parse(struct bytes line, struct qmp_msg *ret, struct err *e);

#define QMP_CAPABILITIES "{\"execute\":\"qmp_capabilities\"}\n"
#define QMP_QUIT "{\"execute\":\"quit\"}\n"

#endif
