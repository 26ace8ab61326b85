/* Device-mapper, by its ioctls (linux/dm-ioctl.h): the four calls that are needed of it. Debian's
 * libdevmapper does the same with libselinux, libudev, libpcre2 and libm behind it, in an image
 * and in processes that have none of them. */
#ifndef COFFER_SVC_WORKER_DM_H
#define COFFER_SVC_WORKER_DM_H

#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define DM_PARAMS_MAX_BYTES 1024u /* of a table, with its end */
#define DM_STATUS_MAX_BYTES 128u

struct dm {
    int fd;  /* of the control device */
    int own; /* it exists */
    char name[32];
    dev_t dev;
};
#define DM_INIT ((struct dm){.fd = -1})

/* Makes a device that has no table. `control`: "/dev/mapper/control" but in tests. ERR_IO. */
int dm_create(const char *control, const char *name, struct dm *ret, struct err *e);
/* Gives it a table of one target, which replaces the one before, and starts it. `params` may hold a
 * key: copies are wiped, here and in the kernel. ERR_IO. */
int dm_load(const struct dm *d, const char *target, uint64_t sectors, const char *params,
            struct err *e);
/* What the target says of itself. ERR_IO, ERR_TOO_LARGE. */
int dm_status(const struct dm *d, char ret[DM_STATUS_MAX_BYTES], struct err *e);
/* Removes it, if nobody uses it; the kernel wipes its keys then. */
void dm_done(struct dm *d);

#endif
