#include "svc-worker/dm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "common/secret.h"

/* One request, and its answer in the same place. */
#define BUFFER_BYTES 4096u

_Static_assert(sizeof(struct dm_ioctl) + sizeof(struct dm_target_spec) + DM_PARAMS_MAX_BYTES <=
                   BUFFER_BYTES,
               "a table fits");

static struct dm_ioctl *head_of(struct secret *b)
{
    return (struct dm_ioctl *)(void *)secret_p(b);
}

static struct secret *request(const struct dm *d)
{
    struct secret *b = secret_new(BUFFER_BYTES);
    struct dm_ioctl *h = head_of(b);

    h->version[0] = DM_VERSION_MAJOR;
    h->data_size = BUFFER_BYTES;
    h->data_start = sizeof(*h);
    h->flags = DM_SECURE_DATA_FLAG;
    snprintf(h->name, sizeof(h->name), "%s", d->name);
    return b;
}

static int call(const struct dm *d, unsigned long command, struct secret *b, const char *what,
                struct err *e)
{
    return ioctl(d->fd, command, secret_p(b)) < 0
               ? err_errno(e, "device-mapper: %s %s", what, d->name)
               : 0;
}

int dm_create(const char *control, const char *name, struct dm *ret, struct err *e)
{
    struct dm d = DM_INIT;

    snprintf(d.name, sizeof(d.name), "%s", name);
    d.fd = open(control, O_RDWR | O_CLOEXEC);
    if (d.fd < 0) {
        return err_errno(e, "device-mapper: %s", control);
    }
    _cleanup_secret_ struct secret *b = request(&d);
    if (call(&d, DM_DEV_CREATE, b, "create", e) < 0) {
        closep(&d.fd);
        return -1;
    }
    /* As new_encode_dev() of the kernel. */
    uint64_t dev = head_of(b)->dev;
    d.dev = makedev((unsigned)(dev >> 8 & 0xfff), (unsigned)((dev & 0xff) | (dev >> 12 & 0xfff00)));
    d.own = 1;
    *ret = d;
    return 0;
}

int dm_load(const struct dm *d, const char *target, uint64_t sectors, const char *params,
            struct err *e)
{
    _cleanup_secret_ struct secret *table = request(d), *resume = request(d);
    struct dm_ioctl *h = head_of(table);
    struct dm_target_spec *t = (struct dm_target_spec *)(void *)(secret_p(table) + h->data_start);
    size_t n = strlen(params) + 1;

    if (n > DM_PARAMS_MAX_BYTES || strlen(target) >= sizeof(t->target_type)) {
        return err_set(e, ERR_INTERNAL, "device-mapper: a table of %zu bytes", n);
    }
    h->target_count = 1;
    t->length = sectors;
    snprintf(t->target_type, sizeof(t->target_type), "%s", target);
    memcpy(t + 1, params, n);
    /* The one call that both suspends and resumes resumes. */
    return call(d, DM_TABLE_LOAD, table, "table of", e) < 0 ||
                   call(d, DM_DEV_SUSPEND, resume, "start", e) < 0
               ? -1
               : 0;
}

int dm_status(const struct dm *d, char ret[DM_STATUS_MAX_BYTES], struct err *e)
{
    _cleanup_secret_ struct secret *b = request(d);
    const struct dm_ioctl *h = head_of(b);

    if (call(d, DM_TABLE_STATUS, b, "status of", e) < 0) {
        return -1;
    }
    size_t at = h->data_start + sizeof(struct dm_target_spec);
    if (h->flags & DM_BUFFER_FULL_FLAG || h->target_count != 1 || at >= BUFFER_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "device-mapper: status of %s", d->name);
    }
    const char *text = (const char *)secret_cp(b) + at;
    size_t n = strnlen(text, BUFFER_BYTES - at);
    if (n >= DM_STATUS_MAX_BYTES) {
        return err_set(e, ERR_TOO_LARGE, "device-mapper: status of %s", d->name);
    }
    memcpy(ret, text, n);
    ret[n] = '\0';
    return 0;
}

void dm_done(struct dm *d)
{
    if (d->own) {
        _cleanup_secret_ struct secret *b = request(d);
        call(d, DM_DEV_REMOVE, b, "remove", NULL);
    }
    closep(&d->fd);
    *d = DM_INIT;
}
