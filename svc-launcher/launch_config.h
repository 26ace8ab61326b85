/* What the launcher hands to a worker. */
#ifndef COFFER_LAUNCHER_LAUNCH_CONFIG_H
#define COFFER_LAUNCHER_LAUNCH_CONFIG_H

#include "svc-launcher/launcher.h"

#define LAUNCH_CONFIG_MAX_BYTES (256u * 1024)

/* Appends a packed LaunchConfig. It holds the worker's seed: wipe it (buf_done does). ERR_IO,
 * ERR_DENIED (mode of the seed's file), ERR_TOO_LARGE. */
int launch_config_make(const struct config *config, const Coffer__V1__LaunchCvm *l, const char *tee,
                       const char *work_dir, struct buf *ret, struct err *e);

#endif
