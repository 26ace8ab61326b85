#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <sys/stat.h>

#include "cli/dataset.h"
#include "cli/files.h"
#include "cli/progress.h"

/* Sealing and unsealing files and directories, in constant memory. A directory is a tar stream that
 * a second thread writes into, or reads from, a pipe. */

#define PREFIX_MAX_BYTES (12u + SEAL_HEADER_MAX_BYTES)

char *dataset_name_from(const char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    _cleanup_free_ char *trimmed = xstrndup(path, n);
    const char *slash = strrchr(trimmed, '/');
    char *name = xstrdup(slash ? slash + 1 : trimmed);
    char *dot = strrchr(name, '.');
    if (dot && dot != name) {
        *dot = '\0';
    }
    for (char *p = name; *p; p++) {
        if (*p >= 'A' && *p <= 'Z') {
            *p = (char)(*p + 'a' - 'A');
        } else if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9')) {
            *p = '-';
        }
    }
    if (strlen(name) > 63) {
        name[63] = '\0';
    }
    if (!name[0]) {
        free(name);
        return xstrdup("dataset");
    }
    return name;
}

/* ---- the tar side ---------------------------------------------------------------------------- */

struct packer {
    const char *dir;
    int fd;
    int rc;
    struct err e;
};

static void *pack_main(void *arg)
{
    struct packer *p = arg;

    p->rc = seal_tar_dir(p->dir, p->fd, &p->e);
    close(p->fd);
    return NULL;
}

static int seal_dir(const char *dir, const struct buf *prefix, const struct secret *key, int out_fd,
                    uint64_t *ret_plain, struct err *e)
{
    struct packer p = {.dir = dir};
    pthread_t thread;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC)) {
        return err_errno(e, "cannot make a pipe");
    }
    p.fd = ends[1];
    if (pthread_create(&thread, NULL, pack_main, &p)) {
        close(ends[0]);
        close(ends[1]);
        return err_set(e, ERR_BUSY, "cannot start a thread");
    }
    int rc = seal_fd(prefix, key, ends[0], out_fd, ret_plain, e);
    close(ends[0]);
    pthread_join(thread, NULL);
    /* Without a reader the writer fails, too: the reader's reason is the first one then. */
    if (rc == 0 && p.rc) {
        if (e) {
            *e = p.e;
        }
        return -1;
    }
    return rc;
}

int dataset_seal(const struct seal_ask *a, const struct jkey *owner, char *ret_id,
                 uint64_t *ret_plain_bytes, struct err *e)
{
    _cleanup_(outfile_done) struct outfile out = {.fd = -1};
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_buf_ struct buf prefix = BUF_INIT(PREFIX_MAX_BYTES);
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_free_ char *name = a->name ? xstrdup(a->name) : dataset_name_from(a->path);
    _cleanup_close_ int in = open(a->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;

    if (in < 0 || fstat(in, &st)) {
        return err_errno(e, "cannot open %s", a->path);
    }
    int is_dir = S_ISDIR(st.st_mode);
    if (!is_dir && !S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "%s: expected a regular file or a directory", a->path);
    }
    if (seal_dataset_header_new(name, is_dir ? "tar" : "file", a->cipher, a->chunk_bytes, owner,
                                &prefix, &key, e) ||
        seal_header_parse(buf_bytes(&prefix), &h, e) ||
        outfile_open(a->out_path, a->force, 0644, &out, e)) {
        return -1;
    }
    struct meter *m = meter_start(out.fd, is_dir ? 0 : (uint64_t)st.st_size);
    int rc = is_dir ? seal_dir(a->path, &prefix, key, out.fd, ret_plain_bytes, e)
                    : seal_fd(&prefix, key, in, out.fd, ret_plain_bytes, e);
    meter_stop(m);
    if (rc || outfile_commit(&out, a->force, e)) {
        return -1;
    }
    memcpy(ret_id, h.id, sizeof(h.id));
    return 0;
}

/* ---- and back -------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_tree(const char *dir)
{
    (void)nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

struct unpacker {
    struct seal_reader *r;
    int fd;
    int rc;
    struct err e;
};

static void *unseal_main(void *arg)
{
    struct unpacker *u = arg;

    u->rc = unseal_fd(u->r, u->fd, &u->e);
    close(u->fd);
    return NULL;
}

static int unseal_tar(struct seal_reader *r, const char *dir, struct err *e)
{
    struct unpacker u = {.r = r};
    pthread_t thread;
    struct err tar = {0};
    int ends[2];

    if (pipe2(ends, O_CLOEXEC)) {
        return err_errno(e, "cannot make a pipe");
    }
    u.fd = ends[1];
    if (pthread_create(&thread, NULL, unseal_main, &u)) {
        close(ends[0]);
        close(ends[1]);
        return err_set(e, ERR_BUSY, "cannot start a thread");
    }
    int rc = seal_untar(ends[0], dir, seal_reader_size(r), SEAL_TAR_MAX_ENTRIES, &tar);
    /* What follows the end of the archive has to be genuine as well. */
    char rest[4096];
    while (!rc && read(ends[0], rest, sizeof(rest)) > 0) {
    }
    close(ends[0]);
    pthread_join(thread, NULL);
    if (u.rc && u.e.code != ERR_IO) {
        tar = u.e; /* a broken stream is why the archive is broken */
        rc = -1;
    } else if (u.rc && !rc) {
        tar = u.e;
        rc = -1;
    }
    if (rc && e) {
        *e = tar;
    }
    return rc;
}

static int unseal_to_dir(struct seal_reader *r, const char *out, struct err *e)
{
    _cleanup_free_ char *temp = xasprintf("%s.XXXXXX", out);
    struct stat st;

    if (lstat(out, &st) == 0) {
        return err_set(e, ERR_WRONG_STATE, "%s is there already; a directory is never replaced",
                       out);
    }
    if (!mkdtemp(temp)) {
        return err_errno(e, "cannot make %s", out);
    }
    if (unseal_tar(r, temp, e)) {
        remove_tree(temp);
        return -1;
    }
    if (rename(temp, out)) {
        err_errno(e, "cannot make %s", out);
        remove_tree(temp);
        return -1;
    }
    return 0;
}

static int unseal_to_file(struct seal_reader *r, const char *path, int force, struct err *e)
{
    _cleanup_(outfile_done) struct outfile out = {.fd = -1};

    if (outfile_open(path, force, 0600, &out, e)) {
        return -1;
    }
    struct meter *m = meter_start(out.fd, seal_reader_size(r));
    int rc = unseal_fd(r, out.fd, e);
    meter_stop(m);
    return rc ? -1 : outfile_commit(&out, force, e);
}

int dataset_unseal(const char *path, const struct jkey *owner, const char *out_path, int force,
                   uint64_t *ret_plain_bytes, struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_(seal_reader_freep) struct seal_reader *r = NULL;
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_close_ int fd = -1;

    if (dataset_open(path, &fd, &h, NULL, e)) {
        return -1;
    }
    if (!streq(jkey_thumbprint(h.owner), jkey_thumbprint(owner))) {
        return err_refuse(e, ERR_DENIED, "dataset.owner", jkey_thumbprint(h.owner), "%s",
                          jkey_thumbprint(owner));
    }
    if (seal_header_open_key(&h, owner, &key, e) || seal_reader_open(fd, key, &r, e)) {
        return err_wrap(e, "%s", path);
    }
    *ret_plain_bytes = seal_reader_size(r);
    return (streq(h.form, "tar") ? unseal_to_dir(r, out_path, e)
                                 : unseal_to_file(r, out_path, force, e))
               ? err_wrap(e, "%s", path)
               : 0;
}

int dataset_open(const char *path, int *ret_fd, struct seal_header *ret, struct buf *ret_prefix,
                 struct err *e)
{
    uint8_t start[PREFIX_MAX_BYTES];
    struct stat st;
    size_t n = 0;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &st)) {
        return err_errno(e, "cannot open %s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, ERR_INVALID, "%s: expected a regular file", path);
    }
    while (n < sizeof(start)) {
        ssize_t got = pread(fd, start + n, sizeof(start) - n, (off_t)n);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return err_errno(e, "cannot read %s", path);
        }
        if (got == 0) {
            break;
        }
        n += (size_t)got;
    }
    if (seal_header_parse(BYTES(start, n), ret, e)) {
        return err_wrap(e, "%s", path);
    }
    if (!streq(ret->kind, "dataset")) {
        seal_header_done(ret);
        *ret = (struct seal_header){0};
        return err_set(e, ERR_INVALID, "%s: expected a sealed dataset, found a sealed result",
                       path);
    }
    if (ret_prefix && buf_add(ret_prefix, start, ret->prefix_bytes, e)) {
        seal_header_done(ret);
        *ret = (struct seal_header){0};
        return -1;
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int dataset_plain_bytes(int fd, const struct seal_header *h, uint64_t *ret, struct err *e)
{
    struct stat st;
    uint64_t chunk = (uint64_t)h->chunk_bytes + SEAL_TAG_BYTES;

    if (fstat(fd, &st)) {
        return err_errno(e, "cannot stat the sealed file");
    }
    uint64_t body = (uint64_t)st.st_size - h->prefix_bytes;
    uint64_t last = body % chunk, n = body / chunk + (last ? 1 : 0);
    if ((uint64_t)st.st_size < h->prefix_bytes || !n || (last && last < SEAL_TAG_BYTES)) {
        return err_set(e, ERR_INVALID, "the sealed file is cut off");
    }
    *ret = body - n * SEAL_TAG_BYTES;
    return 0;
}
