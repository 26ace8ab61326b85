#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "svc-worker/init.h"

#define PORTS_MAX 64
#define LOOK_AGAIN_MS 10

static int has_name(const char *sysfs_dir, const char *entry, const char *name)
{
    _cleanup_free_ char *path = xasprintf("%s/%s/name", sysfs_dir, entry);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[64];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (n < 0) {
        return 0;
    }
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    return streq(text, name);
}

static int look(const char *sysfs_dir, const char *dev_dir, const char *name, char ret_path[64])
{
    DIR *d = opendir(sysfs_dir);
    int found = 0;

    if (!d) {
        return 0;
    }
    for (int i = 0; i < PORTS_MAX && !found; i++) {
        struct dirent *de = readdir(d);
        if (!de) {
            break;
        }
        if (de->d_name[0] == '.' || strlen(de->d_name) > 32 ||
            !has_name(sysfs_dir, de->d_name, name)) {
            continue;
        }
        int n = snprintf(ret_path, 64, "%s/%s", dev_dir, de->d_name);
        /* The node may come a moment after the name. */
        found = n > 0 && n < 64 && access(ret_path, F_OK) == 0;
    }
    closedir(d);
    return found;
}

int init_port_find(const char *sysfs_dir, const char *dev_dir, const char *name, int timeout_ms,
                   char ret_path[64], struct err *e)
{
    char path[64];

    for (int waited = 0;; waited += LOOK_AGAIN_MS) {
        if (look(sysfs_dir, dev_dir, name, path)) {
            memcpy(ret_path, path, sizeof(path));
            return 0;
        }
        if (waited >= timeout_ms) {
            return err_set(e, ERR_TIMEOUT, "the VM has no virtio-serial port %s", name);
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_MS * 1000000}, NULL);
    }
}

int init_port_open(const char *path, int *ret_fd, struct err *e)
{
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

    if (fd < 0) {
        return err_errno(e, "port %s", path);
    }
    *ret_fd = fd;
    return 0;
}
