#include "svc-worker/blobs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "common/seal.h"
#include "common/vm.h"

#define SERIAL_MAX 20u /* of virtio-blk */
#define HEX_CHARS 64u
#define DEVICES_MAX 512 /* block devices looked at */

struct disk {
    const Coffer__V1__VmDisk *is; /* borrowed */
    char *path;                   /* owned: the device */
};

struct blobs {
    int dir_fd; /* of a store, or -1 */
    struct disk *disks;
    size_t n_disks;
    struct buf pack;
};

/* ---- opening -------------------------------------------------------------------------------- */

/* How much of an opened file or device there is. */
static int size_of(int fd, uint64_t *ret, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st)) {
        return err_errno(e, "its size");
    }
    if (S_ISBLK(st.st_mode)) {
        return ioctl(fd, BLKGETSIZE64, ret) ? err_errno(e, "its size") : 0;
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "expected a regular file");
    }
    *ret = (uint64_t)st.st_size;
    return 0;
}

static int read_all(int fd, struct buf *b, size_t n, struct err *e)
{
    size_t until = b->n + n;

    if (buf_reserve(b, n, e)) {
        return -1;
    }
    while (b->n < until) {
        ssize_t r = pread(fd, b->p + b->n, until - b->n, (off_t)(b->n + n - until));
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r < 0) {
            return err_errno(e, "reading the blob");
        }
        if (r == 0) {
            break;
        }
        b->n += (size_t)r;
    }
    return 0;
}

int blobs_open_dir(const char *path, struct blobs **ret, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return err_errno(e, "store %s", path);
    }
    struct blobs *b = xcalloc(1, sizeof(*b));
    b->dir_fd = fd;
    *ret = b;
    return 0;
}

static int is_serial(const char *s)
{
    size_t n = strlen(s);

    return n >= 1 && n <= SERIAL_MAX && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789") == n;
}

static int is_hex(const char *s)
{
    return strlen(s) == HEX_CHARS && strspn(s, "0123456789abcdef") == HEX_CHARS;
}

static int refuse_disk(size_t i, const char *member, enum err_code code, const char *expected,
                       const char *actual, struct err *e)
{
    char clause[48];

    snprintf(clause, sizeof(clause), "launch.disks[%zu].%s", i, member);
    return err_refuse(e, code, clause, expected, "%.100s", actual);
}

static int check_disk(Coffer__V1__VmDisk *const *disks, size_t i, struct err *e)
{
    const Coffer__V1__VmDisk *d = disks[i];
    int pack = streq(d->kind, "pack"), blob = streq(d->kind, "blob"),
        scratch = streq(d->kind, "scratch");

    if (!is_serial(d->serial)) {
        return refuse_disk(i, "serial", ERR_INVALID, "1 to 20 of a-z and 0-9", d->serial, e);
    }
    if (!pack && !blob && !scratch && !streq(d->kind, "dataset")) {
        return refuse_disk(i, "kind", ERR_INVALID, "dataset, blob, pack or scratch", d->kind, e);
    }
    if (pack || scratch ? d->name[0] != 0 : blob ? !is_hex(d->name) : !d->name[0]) {
        return refuse_disk(i, "name", ERR_INVALID,
                           pack      ? "none, for a pack"
                           : scratch ? "none, for scratch"
                           : blob    ? "64 hexadecimal digits"
                                     : "a dataset id",
                           d->name, e);
    }
    for (size_t k = 0; k < i; k++) {
        if (streq(disks[k]->serial, d->serial)) {
            return refuse_disk(i, "serial", ERR_INVALID, "one of its own", d->serial, e);
        }
        if (streq(disks[k]->kind, d->kind) && streq(disks[k]->name, d->name)) {
            return refuse_disk(i, "name", ERR_INVALID, "one disk of that kind and name", d->name,
                               e);
        }
    }
    return 0;
}

/* /sys/block/<name>/serial has no newline of its own, and no NUL when it is 20 long. */
static int has_serial(int sys_fd, const char *name, const char *serial)
{
    char path[300], text[SERIAL_MAX + 2] = {0};

    snprintf(path, sizeof(path), "%.255s/serial", name);
    _cleanup_close_ int fd = openat(sys_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0) {
        return 0;
    }
    text[strcspn(text, "\n")] = '\0';
    return streq(text, serial);
}

static void closedirp(DIR **d)
{
    if (*d) {
        closedir(*d);
    }
}

/* The path of the one device with that serial number. */
static int find_device(const char *sys_block, const char *dev, size_t i, const char *serial,
                       char **ret, struct err *e)
{
    _cleanup_(closedirp) DIR *d = opendir(sys_block);
    _cleanup_free_ char *found = NULL;
    const struct dirent *de;
    int left = DEVICES_MAX;

    if (!d) {
        return err_errno(e, "%s", sys_block);
    }
    while (left-- > 0 && (de = readdir(d))) {
        if (strncmp(de->d_name, "vd", 2) != 0 || !has_serial(dirfd(d), de->d_name, serial)) {
            continue;
        }
        if (found) {
            return refuse_disk(i, "serial", ERR_INVALID, "one disk with it", "two", e);
        }
        found = xasprintf("%s/%.255s", dev, de->d_name);
    }
    if (!found) {
        return refuse_disk(i, "serial", ERR_NOT_FOUND, serial, "no disk of the VM has it", e);
    }
    *ret = TAKE_PTR(found);
    return 0;
}

static int open_disk(const struct disk *d, int *ret_fd, struct err *e)
{
    _cleanup_close_ int fd = open(d->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    uint64_t bytes;

    if (fd < 0) {
        return err_errno(e, "disk %s", d->is->serial);
    }
    if (size_of(fd, &bytes, e)) {
        return err_wrap(e, "disk %s", d->is->serial);
    }
    if (bytes < d->is->bytes) {
        return err_set(e, ERR_INVALID, "disk %s: holds %llu bytes, expected %llu", d->is->serial,
                       (unsigned long long)bytes, (unsigned long long)d->is->bytes);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int read_pack(struct blobs *b, const struct disk *d, size_t i, struct err *e)
{
    _cleanup_close_ int fd = -1;

    if (d->is->bytes > BLOBS_PACK_MAX_BYTES) {
        return refuse_disk(i, "bytes", ERR_TOO_LARGE, "at most 4194304 bytes in a pack",
                           "more than that", e);
    }
    return open_disk(d, &fd, e) || read_all(fd, &b->pack, (size_t)d->is->bytes, e) ? -1 : 0;
}

int blobs_open_disks(Coffer__V1__VmDisk *const *disks, size_t n, const char *sys_block,
                     const char *dev, struct blobs **ret, struct err *e)
{
    _cleanup_blobs_ struct blobs *b = xcalloc(1, sizeof(*b));

    b->dir_fd = -1;
    b->pack = BUF_INIT(BLOBS_PACK_MAX_BYTES);
    if (n > VM_DISKS_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "launch.disks", "at most 160", "%zu", n);
    }
    b->disks = xcalloc(n + 1, sizeof(*b->disks));
    for (size_t i = 0; i < n; i++) {
        struct disk *d = &b->disks[b->n_disks];
        d->is = disks[i];
        if (check_disk(disks, i, e) ||
            find_device(sys_block, dev, i, disks[i]->serial, &d->path, e)) {
            return -1;
        }
        b->n_disks++;
        if (streq(disks[i]->kind, "pack") && read_pack(b, d, i, e)) {
            return -1;
        }
    }
    *ret = TAKE_PTR(b);
    return 0;
}

const char *blobs_scratch(const struct blobs *b, uint64_t *ret_bytes)
{
    for (size_t i = 0; i < b->n_disks; i++) {
        if (streq(b->disks[i].is->kind, "scratch")) {
            *ret_bytes = b->disks[i].is->bytes;
            return b->disks[i].path;
        }
    }
    return NULL;
}

int blobs_open(const Coffer__V1__LaunchConfig *c, struct blobs **ret, struct err *e)
{
    return c->n_disks ? blobs_open_disks(c->disks, c->n_disks, "/sys/block", "/dev", ret, e)
                      : blobs_open_dir(c->store_path, ret, e);
}

void blobs_free(struct blobs *b)
{
    if (!b) {
        return;
    }
    for (size_t i = 0; i < b->n_disks; i++) {
        free(b->disks[i].path);
    }
    free(b->disks);
    closep(&b->dir_fd);
    buf_done(&b->pack);
    free(b);
}

/* ---- reading -------------------------------------------------------------------------------- */

static int open_named(const struct blobs *b, const char *kind, const char *name, int *ret_fd,
                      uint64_t *ret_bytes, struct err *e)
{
    for (size_t i = 0; i < b->n_disks; i++) {
        if (streq(b->disks[i].is->kind, kind) && streq(b->disks[i].is->name, name)) {
            *ret_bytes = b->disks[i].is->bytes;
            return open_disk(&b->disks[i], ret_fd, e);
        }
    }
    return err_set(e, ERR_NOT_FOUND, "%s %.100s: no disk of the VM holds it", kind, name);
}

/* In a store. */
static int open_file(const struct blobs *b, const char *path, int *ret_fd, uint64_t *ret_bytes,
                     struct err *e)
{
    _cleanup_close_ int fd =
        openat(b->dir_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 && errno == ENOENT) {
        return err_set(e, ERR_NOT_FOUND, "%s: %s", path, strerror(ENOENT));
    }
    if (fd < 0 || fstat(fd, &st)) {
        return err_errno(e, "%s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "%s: expected a regular file", path);
    }
    *ret_fd = TAKE_FD(fd);
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

int blobs_dataset(const struct blobs *b, const char *id, int *ret_fd, uint64_t *ret_bytes,
                  struct err *e)
{
    char path[DATASET_ID_MAX + 32];

    /* Ids are names, a dot and base32 digits; the file name is made of nothing else. */
    if (strchr(id, '/') || strstr(id, "..") || strlen(id) > DATASET_ID_MAX) {
        return err_refuse(e, ERR_INVALID, "dataset.id", "a dataset id", "%.100s", id);
    }
    if (b->dir_fd < 0) {
        return open_named(b, "dataset", id, ret_fd, ret_bytes, e);
    }
    snprintf(path, sizeof(path), "datasets/%s.coffer", id);
    return open_file(b, path, ret_fd, ret_bytes, e);
}

static int open_blob(const struct blobs *b, const char *hex, int *ret_fd, uint64_t *ret_bytes,
                     struct err *e)
{
    char path[sizeof("blobs/sha256/") + HEX_CHARS];

    if (b->dir_fd < 0) {
        return open_named(b, "blob", hex, ret_fd, ret_bytes, e);
    }
    snprintf(path, sizeof(path), "blobs/sha256/%.64s", hex);
    if (open_file(b, path, ret_fd, ret_bytes, e) == 0) {
        return 0;
    }
    if (e && e->code == ERR_NOT_FOUND) {
        return err_set(e, ERR_NOT_FOUND, "blob sha256:%.64s: is not in the store", hex);
    }
    return -1;
}

static int check_size(const char *hex, uint64_t want, uint64_t got, struct err *e)
{
    if (want != UINT64_MAX && got != want) {
        return err_set(e, ERR_BAD_SIGNATURE, "blob sha256:%.64s: expected %llu bytes, got %llu",
                       hex, (unsigned long long)want, (unsigned long long)got);
    }
    return 0;
}

int blobs_layer(const struct blobs *b, const char *hex, uint64_t size, int *ret_fd, struct err *e)
{
    _cleanup_close_ int fd = -1;
    uint64_t bytes;

    if (open_blob(b, hex, &fd, &bytes, e) || check_size(hex, size, bytes, e)) {
        return -1;
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int too_large(size_t max_bytes, uint64_t bytes, struct err *e)
{
    return err_set(e, ERR_TOO_LARGE, "at most %zu bytes, got %llu", max_bytes,
                   (unsigned long long)bytes);
}

int blobs_document(const struct blobs *b, const char *hex, uint64_t size, size_t max_bytes,
                   struct buf *ret, struct err *e)
{
    _cleanup_close_ int fd = -1;
    struct bytes in;
    uint64_t bytes;

    if (b->dir_fd < 0) {
        if (blobs_pack_find(buf_bytes(&b->pack), hex, &in, e) || check_size(hex, size, in.n, e)) {
            return -1;
        }
        return in.n > max_bytes ? too_large(max_bytes, in.n, e) : buf_add(ret, in.p, in.n, e);
    }
    if (open_blob(b, hex, &fd, &bytes, e) || check_size(hex, size, bytes, e)) {
        return -1;
    }
    return bytes > max_bytes ? too_large(max_bytes, bytes, e) : read_all(fd, ret, (size_t)bytes, e);
}

/* ---- the pack: ustar (POSIX.1-1988), regular files only ------------------------------------- */

#define TAR_BLOCK 512u

/* Octal digits, ended by NUL or space. */
static int octal(const uint8_t *p, size_t n, uint64_t *ret)
{
    uint64_t v = 0;
    size_t i = 0;

    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
        v = v * 8 + (uint64_t)(p[i] - '0'); /* at most 12 digits */
    }
    *ret = v;
    return i > 0 && (i == n || p[i] == 0 || p[i] == ' ') ? 0 : -1;
}

static int header_ok(const uint8_t *h, uint64_t *ret_bytes)
{
    uint64_t sum = 0, want;

    for (size_t i = 0; i < TAR_BLOCK; i++) {
        sum += i >= 148 && i < 156 ? ' ' : h[i];
    }
    return octal(h + 148, 8, &want) == 0 && want == sum && octal(h + 124, 12, ret_bytes) == 0 &&
           (h[156] == '0' || h[156] == 0) && h[345] == 0;
}

int blobs_pack_find(struct bytes pack, const char *name, struct bytes *ret, struct err *e)
{
    size_t at = 0;

    while (pack.n - at >= TAR_BLOCK && pack.p[at] != 0) {
        const uint8_t *h = pack.p + at;
        uint64_t bytes;
        at += TAR_BLOCK;
        if (!header_ok(h, &bytes)) {
            return err_set(e, ERR_INVALID, "pack: byte %zu is not the header of a regular file",
                           at - TAR_BLOCK);
        }
        if (bytes > pack.n - at) {
            return err_set(e, ERR_INVALID, "pack: ends inside a file of %llu bytes",
                           (unsigned long long)bytes);
        }
        if (strlen(name) <= 100 && strncmp((const char *)h, name, 100) == 0) {
            *ret = BYTES(pack.p + at, (size_t)bytes);
            return 0;
        }
        uint64_t padded = (bytes + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
        at += padded > pack.n - at ? pack.n - at : (size_t)padded;
    }
    return err_set(e, ERR_NOT_FOUND, "blob sha256:%.64s: is not in the pack", name);
}
