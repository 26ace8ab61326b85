/* The disks of a VM, as the LaunchConfig lists them. What is on them is checked by digest or by
 * authenticated encryption when it is read; here it is only said what they are to be. */
#include "common/keybox.h"
#include "common/vm.h"
#include "svc-worker/worker.h"

#define SERIAL_MAX 20 /* VIRTIO_BLK_ID_BYTES */
#define DISK_MAX_BYTES (UINT64_C(1) << 46)
#define DIGEST_DIGITS 64

static const char lower_and_digits[] = "abcdefghijklmnopqrstuvwxyz0123456789";

static const char *member(size_t i, const char *name, char clause[64])
{
    snprintf(clause, 64, "launch.disks[%zu].%s", i, name);
    return clause;
}

static int check_serial(size_t i, const char *serial, struct err *e)
{
    size_t n = strspn(serial, lower_and_digits);
    char clause[64];

    if (!n || n > SERIAL_MAX || serial[n]) {
        return err_refuse(e, ERR_INVALID, member(i, "serial", clause), "1 to 20 of [a-z0-9]",
                          "%.40s", serial);
    }
    return 0;
}

static int check_name(size_t i, const Coffer__V1__VmDisk *d, struct err *e)
{
    char clause[64];

    if (streq(d->kind, "pack")) {
        return d->name[0] ? err_refuse(e, ERR_INVALID, member(i, "name", clause),
                                       "none, for a pack", "%.100s", d->name)
                          : 0;
    }
    if (streq(d->kind, "blob")) {
        return strlen(d->name) != DIGEST_DIGITS ||
                       strspn(d->name, "0123456789abcdef") != DIGEST_DIGITS
                   ? err_refuse(e, ERR_INVALID, member(i, "name", clause),
                                "a blob's 64 hexadecimal digits", "%.100s", d->name)
                   : 0;
    }
    if (streq(d->kind, "dataset")) {
        return secret_id_valid(d->name) ? 0
                                        : err_refuse(e, ERR_INVALID, member(i, "name", clause),
                                                     "a dataset id", "%.100s", d->name);
    }
    if (streq(d->kind, "scratch")) {
        return d->name[0] ? err_refuse(e, ERR_INVALID, member(i, "name", clause),
                                       "none, for scratch", "%.100s", d->name)
                          : 0;
    }
    return err_refuse(e, ERR_INVALID, member(i, "kind", clause), "dataset, blob, pack or scratch",
                      "%.40s", d->kind);
}

/* As much as the consumer signed for, and none otherwise. */
static int check_scratch(const Coffer__V1__LaunchConfig *c, int64_t bytes, struct err *e)
{
    const Coffer__V1__VmDisk *scratch = NULL;
    char expected[64];

    for (size_t i = 0; i < c->n_disks; i++) {
        scratch = streq(c->disks[i]->kind, "scratch") ? c->disks[i] : scratch;
    }
    uint64_t need = bytes ? vm_scratch_disk_bytes((uint64_t)bytes) : 0,
             have = scratch ? scratch->bytes : 0;
    if (have != need) {
        snprintf(expected, sizeof(expected), "%llu bytes for scratch", (unsigned long long)need);
        return err_refuse(e, ERR_INVALID, "launch.disks", expected, "%llu",
                          (unsigned long long)have);
    }
    return scratch && !streq(scratch->serial, VM_SCRATCH_SERIAL)
               ? err_refuse(e, ERR_INVALID, "launch.disks",
                            "the serial number " VM_SCRATCH_SERIAL " of scratch", "%.40s",
                            scratch->serial)
               : 0;
}

static int check_unique(const Coffer__V1__LaunchConfig *c, size_t i, struct err *e)
{
    const Coffer__V1__VmDisk *d = c->disks[i];
    char clause[64];

    for (size_t k = 0; k < i; k++) {
        if (streq(c->disks[k]->serial, d->serial)) {
            return err_refuse(e, ERR_INVALID, member(i, "serial", clause),
                              "one that no other disk has", "%s", d->serial);
        }
        if (streq(c->disks[k]->kind, d->kind) && streq(c->disks[k]->name, d->name)) {
            return err_refuse(e, ERR_INVALID, member(i, "name", clause),
                              "one that no other disk has", "%s %s", d->kind, d->name);
        }
    }
    return 0;
}

int launch_check_disks(const Coffer__V1__LaunchConfig *c, int64_t scratch_bytes, struct err *e)
{
    size_t packs = 0;

    if (c->n_disks > VM_DISKS_MAX) {
        return err_refuse(e, ERR_TOO_LARGE, "launch.disks", "at most 160", "%zu", c->n_disks);
    }
    for (size_t i = 0; i < c->n_disks; i++) {
        const Coffer__V1__VmDisk *d = c->disks[i];
        char clause[64];
        if (check_serial(i, d->serial, e) || check_name(i, d, e)) {
            return -1;
        }
        /* 0 is a file that was cut off: who reads it says so better. */
        if (d->bytes > DISK_MAX_BYTES) {
            return err_refuse(e, ERR_INVALID, member(i, "bytes", clause), "at most 2^46", "%llu",
                              (unsigned long long)d->bytes);
        }
        if (check_unique(c, i, e)) {
            return -1;
        }
        packs += streq(d->kind, "pack") ? 1 : 0;
    }
    if (packs != 1) {
        return err_refuse(e, ERR_INVALID, "launch.disks", "one pack", "none");
    }
    if (c->store_path[0]) {
        return err_refuse(e, ERR_INVALID, "launch.store_path", "none beside disks", "%.60s",
                          c->store_path);
    }
    return check_scratch(c, scratch_bytes, e);
}
