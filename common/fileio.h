/* Whole small files: bounded reading, and replacing so that a reader or a crash sees either the old
 * file or the new one. */
#ifndef COFFER_FILEIO_H
#define COFFER_FILEIO_H

#include <sys/types.h>

#include "common/buf.h"

/* Appends a regular file of at most `max` bytes to `ret` (whose cap bounds it too). With
 * `owner_only`, the mode must give nothing to group and others.
 * ERR_IO (with the system's reason), ERR_INVALID (not a regular file), ERR_TOO_LARGE,
 * ERR_DENIED (mode). */
int file_read(const char *path, size_t max, int owner_only, struct buf *ret, struct err *e);

/* Writes a temporary file beside `path` with exactly `mode`, fsyncs it, renames it over `path`, and
 * fsyncs the directory. On failure the temporary file is gone, and the old one untouched unless it
 * was the last step that failed. ERR_IO. */
int file_replace(const char *path, struct bytes content, mode_t mode, struct err *e);

#endif
