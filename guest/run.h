/* Programs of the building machine: strip, the dynamic linker, dpkg. */
#ifndef COFFER_GUEST_RUN_H
#define COFFER_GUEST_RUN_H

#include "common/buf.h"

/* Runs a program, found in /usr/bin or /bin, with nothing of our environment. Its standard output
 * is collected when `ret_out` is given, up to that one's cap; its error output goes where ours
 * does, or with `quiet` nowhere. 0 when it ran; ret_status is what waitpid said of it. ERR_IO,
 * ERR_NOT_FOUND (no such program), ERR_TOO_LARGE. */
int guest_run(const char *const argv[], int quiet, struct buf *ret_out, int *ret_status,
              struct err *e);

#endif
