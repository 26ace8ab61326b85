/* What the files of a run share. */
#ifndef COFFER_SVC_WORKER_JOB_INT_H
#define COFFER_SVC_WORKER_JOB_INT_H

#include "svc-worker/decryptfs.h"
#include "svc-worker/oci.h"
#include "svc-worker/scratch.h"
#include "svc-worker/worker.h"

struct job {
    const struct worker_launch *l;
    const struct spec *spec;
    const struct worker_keys *keys;
    struct job_input inputs[SPEC_MAX_DATASETS];
    uint64_t input_bytes;
    struct blobs *blobs;     /* owned */
    struct oci_image *image; /* owned */
    struct dfs *dfs;         /* owned; NULL when the datasets are unpacked */
    struct scratch scratch;
    char *rootfs, *data, *outdir, *scratch_dir;
};

/* ---- job_data.c ---- */

/* Opens each dataset: it is whole, and the one that the spec names. */
int job_data_open(struct job *j, struct err *e);
/* Makes the datasets appear as data/<i>: mounted, or, where there is no FUSE and the evidence
 * promises nothing anyway, unpacked. */
int job_data_show(struct job *j, struct err *e);
/* -1 with the refusal when a chunk did not open while the container ran. */
int job_data_failed(struct job *j, struct err *e);

#endif
