/* The launcher's actions done with real processes, on the shell's loop. */
#ifndef COFFER_LAUNCHER_SUPERVISOR_H
#define COFFER_LAUNCHER_SUPERVISOR_H

#include "common/shell.h"

/* started: probes the host, ends what is left over, and begins to watch. act: LAUNCHER_ACT_*.
 * stopping: ends every CVM, or leaves them to the next launcher (on-stop). */
extern const struct shell_hooks supervisor_hooks;

#endif
