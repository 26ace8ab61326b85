/* The launcher's actions done with real processes, on the shell's loop. */
#ifndef COFFER_LAUNCHER_SUPERVISOR_H
#define COFFER_LAUNCHER_SUPERVISOR_H

#include "common/shell.h"

/* started: probes the host and begins to watch. act: LAUNCHER_ACT_*. stopping: ends every CVM. */
extern const struct shell_hooks supervisor_hooks;

#endif
