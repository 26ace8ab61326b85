#include "common/untar_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <search.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define REMOVE_DEPTH_MAX 512u
#define OPEN_TRIES 16

int untar_charge_files(struct untar *u, const char *name, struct err *e)
{
    if (u->files_left == 0) {
        return err_set(e, ERR_TOO_LARGE, "tar entry \"%.200s\": more entries than allowed", name);
    }
    u->files_left--;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static char *mark_of(uint64_t parent_inode, const char *name)
{
    return xasprintf("%llx/%s", (unsigned long long)parent_inode, name);
}

static int inode_of(int fd, uint64_t *ret, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return err_errno(e, "a directory under extraction");
    }
    *ret = (uint64_t)st.st_ino;
    return 0;
}

int untar_mark(struct untar *u, int dir_fd, const char *name, struct err *e)
{
    uint64_t inode;

    if (u->rules == UNTAR_DATASET) {
        return 0;
    }
    if (inode_of(dir_fd, &inode, e) < 0) {
        return -1;
    }
    char *mark = mark_of(inode, name);
    void *node = tsearch(mark, &u->made, by_text);
    if (!node) {
        free(mark);
        return err_set(e, ERR_INTERNAL, "out of memory");
    }
    if (*(char **)node != mark) {
        free(mark); /* was there already */
    }
    return 0;
}

static int is_marked(struct untar *u, uint64_t parent_inode, const char *name)
{
    _cleanup_free_ char *mark = mark_of(parent_inode, name);

    return tfind(mark, &u->made, by_text) != NULL;
}

static void unmark(struct untar *u, uint64_t parent_inode, const char *name)
{
    _cleanup_free_ char *mark = mark_of(parent_inode, name);
    void *node = tfind(mark, &u->made, by_text);

    if (node) {
        char *kept = *(char **)node;
        tdelete(mark, &u->made, by_text);
        free(kept);
    }
}

void untar_forget_marks(struct untar *u)
{
    tdestroy(u->made, free);
    u->made = NULL;
}

/* A directory below the root; -1 with errno. */
static int open_below(const struct untar *u, const char *path)
{
    struct open_how how = {
        .flags = O_DIRECTORY | O_RDONLY | O_CLOEXEC,
        .resolve =
            RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV |
            (u->rules == UNTAR_LAYER ? RESOLVE_IN_ROOT : RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS),
    };

    for (int i = 0;; i++) {
        long fd = syscall(SYS_openat2, u->root_fd, *path ? path : ".", &how, sizeof(how));
        /* EAGAIN: the kernel saw a rename somewhere and could not be sure about a "..". */
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || i == OPEN_TRIES) {
            return (int)fd;
        }
    }
}

static int explain_open(const char *path, struct err *e)
{
    if (errno == ELOOP || errno == EXDEV) {
        return err_set(e, ERR_DENIED, "tar entry \"%.200s\": its path goes through a symlink",
                       path);
    }
    if (errno == ENOTDIR) {
        return err_set(e, ERR_INVALID,
                       "tar entry \"%.200s\": expected a directory, there is something else", path);
    }
    return err_errno(e, "tar entry \"%.200s\"", path);
}

/* Opens `path`, making each directory that is missing. */
static int open_or_make(struct untar *u, char *path, int *ret_fd, struct err *e)
{
    _cleanup_close_ int at = open_below(u, "");

    if (at < 0) {
        return explain_open(".", e);
    }
    for (char *end = path; *path; *end = '/', end++) {
        char *name = end;
        end += strcspn(end, "/");
        int last = *end == '\0';
        *end = '\0';
        int fd = open_below(u, path);
        if (fd < 0 && errno == ENOENT) {
            if (untar_charge_files(u, path, e) < 0) {
                return -1;
            }
            /* A dangling symlink gives EEXIST here: nothing is made through it. */
            if (mkdirat(at, name, 0755) < 0) {
                return err_errno(e, "tar entry \"%.200s\": making its directory", path);
            }
            if (untar_mark(u, at, name, e) < 0) {
                return -1;
            }
            fd = open_below(u, path);
        }
        if (fd < 0) {
            return explain_open(path, e);
        }
        close(at);
        at = fd;
        if (last) {
            break;
        }
    }
    *ret_fd = TAKE_FD(at);
    return 0;
}

static void split(const char *path, char *parent, const char **ret_leaf)
{
    const char *slash = strrchr(path, '/');

    if (!slash) {
        parent[0] = '\0';
        *ret_leaf = path;
        return;
    }
    memcpy(parent, path, (size_t)(slash - path));
    parent[slash - path] = '\0';
    *ret_leaf = slash + 1;
}

int untar_open_parent(struct untar *u, const char *path, int *ret_fd, const char **ret_leaf,
                      struct err *e)
{
    char parent[UNTAR_NAME_MAX_BYTES + 1];

    split(path, parent, ret_leaf);
    int fd = open_below(u, parent);
    if (fd >= 0) {
        *ret_fd = fd;
        return 0;
    }
    if (errno != ENOENT) {
        return explain_open(path, e);
    }
    return open_or_make(u, parent, ret_fd, e);
}

int untar_open_existing_parent(struct untar *u, const char *path, int *ret_fd,
                               const char **ret_leaf, struct err *e)
{
    char parent[UNTAR_NAME_MAX_BYTES + 1];

    split(path, parent, ret_leaf);
    int fd = open_below(u, parent);
    if (fd < 0 && errno == ENOENT) {
        return err_set(e, ERR_NOT_FOUND, "\"%.200s\" does not exist", path);
    }
    if (fd < 0) {
        return explain_open(path, e);
    }
    *ret_fd = fd;
    return 0;
}

static int remove_at(struct untar *u, int dir_fd, uint64_t dir_inode, const char *name,
                     int lower_only, unsigned depth, int *ret_kept, struct err *e);

static void closedirp(DIR **d)
{
    if (*d) {
        closedir(*d);
    }
}

/* *ret_kept becomes 1 when anything is left. */
static int remove_children(struct untar *u, int fd, int lower_only, unsigned depth, int *ret_kept,
                           struct err *e)
{
    _cleanup_(closedirp) DIR *d = NULL;
    uint64_t inode;
    int copy;

    if (depth > REMOVE_DEPTH_MAX) {
        return err_set(e, ERR_TOO_LARGE, "directories nest deeper than %u", REMOVE_DEPTH_MAX);
    }
    if (inode_of(fd, &inode, e) < 0) {
        return -1;
    }
    copy = openat(fd, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (copy < 0 || !(d = fdopendir(copy))) {
        int saved = errno;
        if (copy >= 0) {
            close(copy);
        }
        errno = saved;
        return err_errno(e, "reading a directory under extraction");
    }
    for (;;) {
        errno = 0;
        const struct dirent *de = readdir(d);
        if (!de) {
            return errno ? err_errno(e, "reading a directory under extraction") : 0;
        }
        if (streq(de->d_name, ".") || streq(de->d_name, "..")) {
            continue;
        }
        if (remove_at(u, fd, inode, de->d_name, lower_only, depth + 1, ret_kept, e) < 0) {
            return -1;
        }
    }
}

static int remove_at(struct untar *u, int dir_fd, uint64_t dir_inode, const char *name,
                     int lower_only, unsigned depth, int *ret_kept, struct err *e)
{
    struct stat st;
    int keep = lower_only && is_marked(u, dir_inode, name);

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : err_errno(e, "removing \"%.100s\"", name);
    }
    if (S_ISDIR(st.st_mode)) {
        _cleanup_close_ int fd =
            openat(dir_fd, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            return err_errno(e, "removing \"%.100s\"", name);
        }
        if (remove_children(u, fd, lower_only, depth, &keep, e) < 0) {
            return -1;
        }
    }
    if (keep) {
        *ret_kept = 1;
        return 0;
    }
    if (unlinkat(dir_fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0) {
        return err_errno(e, "removing \"%.100s\"", name);
    }
    unmark(u, dir_inode, name);
    return 0;
}

int untar_remove(struct untar *u, int dir_fd, const char *name, int lower_only, struct err *e)
{
    uint64_t inode;
    int kept = 0;

    if (inode_of(dir_fd, &inode, e) < 0) {
        return -1;
    }
    return remove_at(u, dir_fd, inode, name, lower_only, 0, &kept, e);
}

int untar_remove_children(struct untar *u, int dir_fd, const char *name, struct err *e)
{
    int kept = 0;

    if (remove_children(u, dir_fd, 1, 0, &kept, e) < 0) {
        return err_wrap(e, "tar entry \"%.200s\"", name);
    }
    return 0;
}
