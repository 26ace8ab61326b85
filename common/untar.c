#include "common/untar.h"

#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <sys/stat.h>

#include "common/untar_tree.h"

#define WHITEOUT ".wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"
#define WHITEOUT_META ".wh..wh."

int untar_new(const char *dir, enum untar_rules rules, uint64_t max_bytes, uint64_t max_files,
              struct untar **ret, struct err *e)
{
    int fd = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return err_errno(e, "opening the directory %.200s", dir);
    }
    struct untar *u = xcalloc(1, sizeof(*u));
    u->root_fd = fd;
    u->rules = rules;
    u->bytes_left = max_bytes;
    u->files_left = max_files;
    *ret = u;
    return 0;
}

void untar_free(struct untar *u)
{
    if (!u) {
        return;
    }
    untar_forget_marks(u);
    close(u->root_fd);
    free(u);
}

struct archive *untar_archive_new(void)
{
    struct archive *a = archive_read_new();

    if (!a || archive_read_support_format_tar(a) != ARCHIVE_OK) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return a;
}

int untar_symlink_stays(const char *target, unsigned parents)
{
    int climbing = 1;

    if (target[0] == '/' || target[0] == '\0') {
        return 0;
    }
    while (*target) {
        size_t n = strcspn(target, "/");
        if (n == 2 && memcmp(target, "..", 2) == 0) {
            /* After a name, ".." means the parent of wherever that name leads: unknowable. */
            if (!climbing || parents == 0) {
                return 0;
            }
            parents--;
        } else if (n > 0 && !(n == 1 && target[0] == '.')) {
            climbing = 0;
        }
        target += n;
        target += strspn(target, "/");
    }
    return 1;
}

/* "./a//b/" -> "a/b"; the root itself is "". Counts the components. */
static int normalise(enum untar_rules rules, const char *raw, char *out, unsigned *ret_depth,
                     struct err *e)
{
    size_t used = 0;
    unsigned depth = 0;

    if (strlen(raw) > UNTAR_NAME_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "tar entry \"%.200s...\": its name is over %u bytes", raw,
                       UNTAR_NAME_MAX_BYTES);
    }
    if (raw[0] == '/' && rules == UNTAR_DATASET) {
        return err_set(e, ERR_DENIED, "tar entry \"%.200s\": its path is absolute", raw);
    }
    for (const char *p = raw + strspn(raw, "/"); *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && memcmp(p, "..", 2) == 0) {
            return err_set(e, ERR_DENIED, "tar entry \"%.200s\": its path has a \"..\"", raw);
        }
        if (!(n == 1 && p[0] == '.')) {
            if (used) {
                out[used++] = '/';
            }
            memcpy(out + used, p, n);
            used += n;
            depth++;
        }
        p += n;
        p += strspn(p, "/");
    }
    out[used] = '\0';
    if (depth > UNTAR_DEPTH_MAX) {
        return err_set(e, ERR_TOO_LARGE, "tar entry \"%.200s\": is nested deeper than %u", raw,
                       UNTAR_DEPTH_MAX);
    }
    *ret_depth = depth;
    return 0;
}

/* Makes room for a new name. A dataset names nothing twice. */
static int clear_name(struct untar *u, int dir_fd, const char *leaf, struct err *e)
{
    return u->rules == UNTAR_LAYER ? untar_remove(u, dir_fd, leaf, 0, e) : 0;
}

static int make_dir(struct untar *u, int dir_fd, const char *leaf, mode_t mode, struct err *e)
{
    struct stat st;

    if (fstatat(dir_fd, leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode) &&
        clear_name(u, dir_fd, leaf, e) < 0) {
        return -1;
    }
    if (mkdirat(dir_fd, leaf, 0700) < 0 && errno != EEXIST) {
        return err_errno(e, "making the directory");
    }
    _cleanup_close_ int fd = openat(dir_fd, leaf, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(e, "making the directory");
    }
    /* The extractor must be able to go on inside, whoever it runs as. */
    if (fchmod(fd, (mode & 01777) | 0700) < 0) {
        return err_errno(e, "the directory's mode");
    }
    return 0;
}

static int write_block(int fd, const uint8_t *p, size_t n, int64_t offset, struct err *e)
{
    while (n > 0) {
        ssize_t w = pwrite(fd, p, n, offset);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w < 0) {
            return err_errno(e, "writing");
        }
        p += w;
        n -= (size_t)w;
        offset += w;
    }
    return 0;
}

static int copy_content(struct archive *a, int fd, int64_t size, struct err *e)
{
    for (;;) {
        const void *p;
        size_t n;
        la_int64_t offset;
        int r = archive_read_data_block(a, &p, &n, &offset);
        if (r == ARCHIVE_EOF) {
            break;
        }
        if (r != ARCHIVE_OK) {
            return err_set(e, ERR_INVALID, "%.200s", archive_error_string(a));
        }
        if (offset < 0 || offset > size || (uint64_t)(size - offset) < n) {
            return err_set(e, ERR_INVALID, "its content is larger than its size says");
        }
        if (write_block(fd, p, n, offset, e) < 0) {
            return -1;
        }
    }
    /* A sparse entry may end in a hole. */
    return ftruncate(fd, size) < 0 ? err_errno(e, "its size") : 0;
}

static int make_file(struct untar *u, struct archive *a, struct archive_entry *entry, int dir_fd,
                     const char *leaf, struct err *e)
{
    int64_t size = archive_entry_size(entry);

    if (!archive_entry_size_is_set(entry) || size < 0) {
        return err_set(e, ERR_INVALID, "has no size");
    }
    if ((uint64_t)size > u->bytes_left) {
        return err_set(e, ERR_TOO_LARGE, "%lld bytes, %llu are left of what is allowed",
                       (long long)size, (unsigned long long)u->bytes_left);
    }
    u->bytes_left -= (uint64_t)size;
    if (clear_name(u, dir_fd, leaf, e) < 0) {
        return -1;
    }
    _cleanup_close_ int fd =
        openat(dir_fd, leaf, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return errno == EEXIST ? err_set(e, ERR_INVALID, "is there already")
                               : err_errno(e, "making the file");
    }
    if (copy_content(a, fd, size, e) < 0) {
        return -1;
    }
    if (fchmod(fd, archive_entry_perm(entry) & 0777) < 0) {
        return err_errno(e, "the file's mode");
    }
    /* Programs compare times (Python its compiled files); a time the system cannot hold is no
     * reason to fail. */
    if (u->rules == UNTAR_LAYER && archive_entry_mtime_is_set(entry)) {
        struct timespec t = {.tv_sec = archive_entry_mtime(entry)};
        (void)futimens(fd, (struct timespec[]){t, t});
    }
    return 0;
}

static int make_symlink(struct untar *u, struct archive_entry *entry, int dir_fd, const char *leaf,
                        unsigned depth, struct err *e)
{
    const char *target = archive_entry_symlink(entry);

    if (!target || !target[0] || strlen(target) >= UNTAR_NAME_MAX_BYTES) {
        return err_set(e, ERR_INVALID, "the symlink has no target that could be read");
    }
    if (u->rules == UNTAR_DATASET && !untar_symlink_stays(target, depth - 1)) {
        return err_set(e, ERR_DENIED, "the symlink points out of the directory: \"%.100s\"",
                       target);
    }
    if (clear_name(u, dir_fd, leaf, e) < 0) {
        return -1;
    }
    if (symlinkat(target, dir_fd, leaf) < 0) {
        return errno == EEXIST ? err_set(e, ERR_INVALID, "is there already")
                               : err_errno(e, "making the symlink");
    }
    return 0;
}

static int make_hardlink(struct untar *u, const char *to, int dir_fd, const char *leaf,
                         struct err *e)
{
    char path[UNTAR_NAME_MAX_BYTES + 2];
    _cleanup_close_ int from_fd = -1;
    const char *from_leaf;
    struct stat from, here;
    unsigned depth;

    if (u->rules == UNTAR_DATASET) {
        return err_set(e, ERR_UNSUPPORTED, "is a hard link");
    }
    if (normalise(u->rules, to, path, &depth, e) < 0) {
        return -1;
    }
    if (depth == 0) {
        return err_set(e, ERR_INVALID, "is a hard link to the root");
    }
    if (untar_open_existing_parent(u, path, &from_fd, &from_leaf, e) < 0) {
        return err_wrap(e, "its hard link");
    }
    if (fstatat(from_fd, from_leaf, &from, AT_SYMLINK_NOFOLLOW) < 0) {
        return err_errno(e, "its hard link to \"%.100s\"", path);
    }
    if (!S_ISREG(from.st_mode) && !S_ISLNK(from.st_mode)) {
        return err_set(e, ERR_INVALID, "its hard link to \"%.100s\": not a file", path);
    }
    if (fstatat(dir_fd, leaf, &here, AT_SYMLINK_NOFOLLOW) == 0 && here.st_ino == from.st_ino) {
        return 0; /* to itself: clearing the name would remove the target */
    }
    if (clear_name(u, dir_fd, leaf, e) < 0) {
        return -1;
    }
    if (linkat(from_fd, from_leaf, dir_fd, leaf, 0) < 0) {
        return err_errno(e, "its hard link to \"%.100s\"", path);
    }
    return 0;
}

static int make_entry(struct untar *u, struct archive *a, struct archive_entry *entry, int dir_fd,
                      const char *leaf, unsigned depth, struct err *e)
{
    const char *link = archive_entry_hardlink(entry);

    if (link) {
        return make_hardlink(u, link, dir_fd, leaf, e);
    }
    switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
        return make_file(u, a, entry, dir_fd, leaf, e);
    case AE_IFDIR:
        return make_dir(u, dir_fd, leaf, archive_entry_perm(entry), e);
    case AE_IFLNK:
        return make_symlink(u, entry, dir_fd, leaf, depth, e);
    default: /* a number of libarchive's, not an enum */
        return err_set(e, ERR_UNSUPPORTED,
                       "is of type %o: only files, directories and links are extracted",
                       (unsigned)archive_entry_filetype(entry));
    }
}

/* .wh.NAME and .wh..wh..opq; other .wh..wh. names are another tool's notes and mean nothing. */
static int apply_whiteout(struct untar *u, int dir_fd, const char *leaf, const char *path,
                          struct err *e)
{
    const char *name = leaf + strlen(WHITEOUT);

    if (streq(leaf, WHITEOUT_OPAQUE)) {
        return untar_remove_children(u, dir_fd, path, e);
    }
    if (strncmp(leaf, WHITEOUT_META, strlen(WHITEOUT_META)) == 0) {
        return 0;
    }
    if (!name[0] || streq(name, ".") || streq(name, "..")) {
        return err_set(e, ERR_DENIED, "is a whiteout of no name");
    }
    return untar_remove(u, dir_fd, name, 1, e);
}

static int extract(struct untar *u, struct archive *a, struct archive_entry *entry, struct err *e)
{
    const char *raw = archive_entry_pathname(entry);
    char path[UNTAR_NAME_MAX_BYTES + 2];
    _cleanup_close_ int dir_fd = -1;
    const char *leaf;
    unsigned depth;
    int r;

    if (!raw) {
        return err_set(e, ERR_INVALID, "tar entry: its name cannot be read as UTF-8");
    }
    if (untar_charge_files(u, raw, e) < 0 || normalise(u->rules, raw, path, &depth, e) < 0) {
        return -1;
    }
    if (depth == 0) {
        return archive_entry_filetype(entry) == AE_IFDIR
                   ? 0
                   : err_set(e, ERR_INVALID, "tar entry \"%.200s\": the root is a directory", raw);
    }
    if (untar_open_parent(u, path, &dir_fd, &leaf, e) < 0) {
        return -1;
    }
    if (u->rules == UNTAR_LAYER && strncmp(leaf, WHITEOUT, strlen(WHITEOUT)) == 0) {
        r = apply_whiteout(u, dir_fd, leaf, path, e);
    } else {
        r = make_entry(u, a, entry, dir_fd, leaf, depth, e);
        if (r == 0) {
            r = untar_mark(u, dir_fd, leaf, e);
        }
    }
    return r < 0 ? err_wrap(e, "tar entry \"%.120s\"", path) : 0;
}

static int extract_all(struct untar *u, struct archive *a, struct err *e)
{
    for (;;) {
        struct archive_entry *entry;
        int r = archive_read_next_header(a, &entry);
        if (r == ARCHIVE_EOF) {
            return 0;
        }
        /* A warning is about a name or an owner that could not be converted: refused too. */
        if (r != ARCHIVE_OK) {
            return err_set(e, ERR_INVALID, "tar stream: %.200s", archive_error_string(a));
        }
        if (extract(u, a, entry, e) < 0) {
            return -1;
        }
    }
}

int untar_archive(struct untar *u, struct archive *a, struct err *e)
{
    /* libarchive converts names to the thread's locale; in "C" it would lose all but ASCII. */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t old = utf8 ? uselocale(utf8) : (locale_t)0;
    int r;

    untar_forget_marks(u);
    r = extract_all(u, a, e);
    if (utf8) {
        uselocale(old);
        freelocale(utf8);
    }
    return r;
}
