/* Files that verbs read and write. */
#ifndef COFFER_CLI_FILES_H
#define COFFER_CLI_FILES_H

#include "common/jose.h"

#define OUTPUT_FILES_MAX 64

/* Makes the directories above `path`, mode 0700. ERR_IO. */
int make_parents(const char *path, struct err *e);

/* A public key from a JWK file; of a private one, its public half. ERR_IO, ERR_INVALID. */
int key_from_arg(const char *path, struct jkey **ret, struct err *e);
/* A thumbprint, "self" (of `own`, may be NULL), or the path of a JWK file. Caller frees.
 * ERR_INVALID. */
int thumbprint_from_arg(const char *arg, const struct jkey *own, char **ret, struct err *e);
int thumbprint_valid(const char *s);
int image_digest_valid(const char *s);

/* A file that becomes visible under its name when it is whole. */
struct outfile {
    int fd; /* -1: none */
    char *path, *temp;
};
/* Refuses (ERR_WRONG_STATE) when `path` is there, unless `force`. */
int outfile_open(const char *path, int force, mode_t mode, struct outfile *ret, struct err *e);
/* fsync and rename; without `force` a file that came meanwhile is kept (ERR_WRONG_STATE). */
int outfile_commit(struct outfile *o, int force, struct err *e);
void outfile_done(struct outfile *o); /* removes what was not committed */

/* Whether `path` can be written below a directory: relative, no empty, "." or ".." component, no
 * control character, at most 255 bytes. */
int relative_path_valid(const char *path);
struct output_file {
    const char *path;
    struct bytes content;
};
/* Writes all files below `dir`, which is made if missing; never outside of it, whatever links are
 * there, and none of them if one is there already and `force` is not set. ERR_DENIED, ERR_INVALID,
 * ERR_WRONG_STATE, ERR_IO. */
int output_write(const char *dir, const struct output_file *files, size_t n, int force,
                 struct err *e);

/* Reads all of a descriptor or writes all; ERR_IO. */
int write_fully(int fd, struct bytes in, const char *what, struct err *e);

#endif
