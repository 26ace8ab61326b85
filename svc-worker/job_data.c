/* The datasets of a run: opened, and shown to the container. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/log.h"
#include "svc-worker/job_int.h"
#include "svc-worker/sandbox_internal.h"

#define SLACK_BYTES (UINT64_C(16) << 20)

static int refuse_dataset(size_t i, const char *what, const char *expected, struct err *e)
{
    char clause[48], why[256];

    snprintf(why, sizeof(why), "%.255s", e->msg);
    snprintf(clause, sizeof(clause), "dataset[%zu].%s", i, what);
    return err_refuse(e, ERR_WORKLOAD, clause, expected, "%s", why);
}

static int open_dataset(struct job *j, size_t i, struct err *e)
{
    const char *id = j->spec->datasets[i].id;
    struct job_input *in = &j->inputs[i];
    uint64_t bytes;

    if (blobs_dataset(j->blobs, id, &in->fd, &bytes, e)) {
        return refuse_dataset(i, "file", "its sealed file in the store", e);
    }
    if (seal_reader_open_sized(in->fd, bytes, worker_keys_find(j->keys, id, 1), &in->reader, e)) {
        return refuse_dataset(i, "end", "a whole sealed file of that key", e);
    }
    const char *found = seal_reader_header(in->reader)->id;
    if (!streq(found, id)) {
        char clause[48];
        snprintf(clause, sizeof(clause), "dataset[%zu].id", i);
        return err_refuse(e, ERR_WORKLOAD, clause, id, "%s", found);
    }
    j->input_bytes += seal_reader_size(in->reader);
    return 0;
}

/* What is in a dataset is not for the bus: only the kind of error is told. */
static int refuse_tar(size_t i, struct err *e)
{
    enum err_code code = e->code;
    char clause[48];

    snprintf(clause, sizeof(clause), "dataset[%zu].tar", i);
    return err_refuse(e, ERR_WORKLOAD, clause,
                      "a tar stream of files, directories and links inside of it",
                      "one that cannot be unpacked (%s)", err_code_name(code));
}

static int refuse_chunk(size_t i, struct err *e)
{
    return refuse_dataset(i, "chunk", "the chunks that its owner sealed", e);
}

int job_data_open(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->spec->n_datasets; i++) {
        if (open_dataset(j, i, e)) {
            return -1;
        }
    }
    return 0;
}

/* ---- unpacked ------------------------------------------------------------------------------- */

struct unsealing {
    struct seal_reader *reader;
    int fd;
    int rc;
    struct err err;
};

static void *unseal_thread(void *arg)
{
    struct unsealing *u = arg;

    u->rc = unseal_fd(u->reader, u->fd, &u->err);
    close(u->fd);
    return NULL;
}

/* The reader's thread ends before anything else of this process starts. */
static int untar_dataset(struct job *j, size_t i, const char *dir, struct err *e)
{
    struct unsealing u = {.reader = j->inputs[i].reader};
    pthread_t t;
    int fds[2], rc;

    if (mkdir(dir, 0755) || pipe2(fds, O_CLOEXEC)) {
        return err_errno(e, "dataset: prepare");
    }
    u.fd = fds[1];
    if (pthread_create(&t, NULL, unseal_thread, &u)) {
        close(fds[0]);
        close(fds[1]);
        return err_set(e, ERR_BUSY, "dataset: no thread");
    }
    rc = seal_untar(fds[0], dir, seal_reader_size(u.reader), DFS_MAX_ENTRIES, e);
    close(fds[0]); /* a writer that is still at it gets EPIPE */
    pthread_join(t, NULL);
    if (u.rc && (!rc || u.err.code == ERR_BAD_SIGNATURE)) {
        *e = u.err;
        return refuse_chunk(i, e);
    }
    return rc ? refuse_tar(i, e) : 0;
}

static int write_dataset(struct job *j, size_t i, const char *path, struct err *e)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);

    if (fd < 0) {
        return err_errno(e, "dataset: create");
    }
    if (unseal_fd(j->inputs[i].reader, fd, e)) {
        return refuse_chunk(i, e);
    }
    return 0;
}

/* In memory, on a tmpfs of its own. */
static int unpack_datasets(struct job *j, struct err *e)
{
    if (stage_mount_tmpfs(j->data, MS_NOSUID | MS_NODEV | MS_NOEXEC,
                          j->input_bytes + j->input_bytes / 8 + SLACK_BYTES, DFS_MAX_ENTRIES,
                          "mode=0711", e)) {
        return -1;
    }
    for (size_t i = 0; i < j->spec->n_datasets; i++) {
        _cleanup_free_ char *to = xasprintf("%s/%zu", j->data, i);
        int tar = streq(seal_reader_header(j->inputs[i].reader)->form, "tar");
        if (tar ? untar_dataset(j, i, to, e) : write_dataset(j, i, to, e)) {
            return -1;
        }
    }
    return 0;
}

/* ---- mounted -------------------------------------------------------------------------------- */

/* Plaintext in memory, as large as the datasets: only where nothing is promised, never in a VM. */
static int may_unpack(const struct job *j)
{
    return streq(j->l->attester->name, "sample") && j->l->pb->n_disks == 0;
}

static int start(struct job *j, struct dfs_fault *fault, struct err *e)
{
    struct dfs_dataset v[SPEC_MAX_DATASETS];

    for (size_t i = 0; i < j->spec->n_datasets; i++) {
        v[i].reader = j->inputs[i].reader;
        v[i].key = worker_keys_find(j->keys, j->spec->datasets[i].id, 1);
    }
    return dfs_start(v, j->spec->n_datasets, j->data, NULL, &j->dfs, fault, e);
}

int job_data_show(struct job *j, struct err *e)
{
    struct dfs_fault fault;

    if (j->spec->n_datasets == 0 || start(j, &fault, e) == 0) {
        return 0;
    }
    if (fault.dataset != SIZE_MAX) {
        return fault.chunk ? refuse_chunk(fault.dataset, e) : refuse_tar(fault.dataset, e);
    }
    if (e->code == ERR_UNSUPPORTED && may_unpack(j)) {
        log_warn("decryptfs.none", "%s; datasets are unpacked into memory", e->msg);
        return unpack_datasets(j, e);
    }
    return -1;
}

int job_data_failed(struct job *j, struct err *e)
{
    struct dfs_fault fault;
    struct err why = {0};

    if (!j->dfs || !dfs_failure(j->dfs, &fault, &why)) {
        return 0;
    }
    *e = why;
    return fault.dataset == SIZE_MAX ? -1 : refuse_chunk(fault.dataset, e);
}
