/* The directory tree under extraction: opening parents safely, removing, whiteouts. */
#ifndef COFFER_UNTAR_TREE_H
#define COFFER_UNTAR_TREE_H

#include "common/untar.h"

struct untar {
    int root_fd;
    enum untar_rules rules;
    uint64_t bytes_left, files_left;
    void *made; /* tsearch tree of "<inode of parent>/<name>" that this layer made or named */
};

/* Takes n from what is left; ERR_TOO_LARGE naming the entry. */
int untar_charge_files(struct untar *u, const char *name, struct err *e);
/* Opens the directory that holds `path` (normalised, relative), making what is missing; *ret_leaf
 * points to the last component. */
int untar_open_parent(struct untar *u, const char *path, int *ret_fd, const char **ret_leaf,
                      struct err *e);
/* Opens the directory that holds an existing `path`. ERR_NOT_FOUND. */
int untar_open_existing_parent(struct untar *u, const char *path, int *ret_fd,
                               const char **ret_leaf, struct err *e);
/* Removes a name with all below it; nothing there is fine. With lower_only, what this layer made is
 * kept (that is what a whiteout means). */
int untar_remove(struct untar *u, int dir_fd, const char *name, int lower_only, struct err *e);
/* Removes everything of lower layers from a directory. */
int untar_remove_children(struct untar *u, int dir_fd, const char *name, struct err *e);
/* Remembers that this layer made the name. */
int untar_mark(struct untar *u, int dir_fd, const char *name, struct err *e);
void untar_forget_marks(struct untar *u);

#endif
