/* The initramfs: a newc cpio archive (Linux, driver-api/early-userspace/buffer-format), compressed
 * with Zstandard. The same files make the same bytes: sorted by path, no times, root's. */
#ifndef COFFER_GUEST_INITRAMFS_H
#define COFFER_GUEST_INITRAMFS_H

#include <sys/types.h>

#include "common/buf.h"

#define INITRAMFS_FILES_MAX 512u
#define INITRAMFS_MAX_BYTES (256u << 20)

struct initramfs_entry {
    char *path;            /* in the image, without a leading "/"; owned */
    mode_t mode;           /* with its type: S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR */
    char *target;          /* of a link; owned */
    struct buf content;    /* of a file */
    char *source;          /* where it was read from; NULL when it was made; owned */
    unsigned major, minor; /* of a device */
};

struct initramfs {
    struct initramfs_entry v[INITRAMFS_FILES_MAX];
    size_t n;
};
void initramfs_done(struct initramfs *f);

/* A path that is there already keeps what it has (1 is returned then). ERR_TOO_LARGE, ERR_IO. */
int initramfs_dir(struct initramfs *f, const char *path, mode_t perm, struct err *e);
int initramfs_link(struct initramfs *f, const char *path, const char *target, struct err *e);
int initramfs_device(struct initramfs *f, const char *path, unsigned major, unsigned minor,
                     struct err *e);
int initramfs_text(struct initramfs *f, const char *path, const char *text, struct err *e);
int initramfs_file(struct initramfs *f, const char *path, const char *source, mode_t perm,
                   struct err *e);
/* The program and every shared library it needs, as the dynamic linker resolves them here, those in
 * usr/lib/x86_64-linux-gnu. `strip`: without symbols, by strip(1). ERR_NOT_FOUND names what is
 * missing. */
int initramfs_program(struct initramfs *f, const char *path, const char *source, int strip,
                      struct err *e);

int initramfs_pack(struct initramfs *f, struct buf *ret, struct err *e);

#endif
