/* A manifest, or (first byte 'c') a config below a good manifest, in a pool of blobs. */
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "svc-worker/oci.h"

#define LAYER                                                                                      \
    "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"size\":1,\"digest\":"             \
    "\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"}"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int pool_fd = -1;
static struct blobs *pool;
static char dir[] = "/dev/shm/oci_manifest_fuzz.XXXXXX";

static void drop_pool(void)
{
    (void)unlinkat(pool_fd, "blobs/sha256", AT_REMOVEDIR);
    (void)unlinkat(pool_fd, "blobs", AT_REMOVEDIR);
    (void)rmdir(dir);
    blobs_free(pool);
}

static void make_pool(void)
{
    if (!mkdtemp(dir) || (pool_fd = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC)) < 0 ||
        mkdirat(pool_fd, "blobs", 0700) < 0 || mkdirat(pool_fd, "blobs/sha256", 0700) < 0 ||
        blobs_open_dir(dir, &pool, NULL) < 0) {
        abort();
    }
    atexit(drop_pool);
}

/* Returns the blob's name in the pool. */
static char *put(const void *p, size_t n)
{
    uint8_t h[32];

    if (!EVP_Digest(p, n, h, NULL, EVP_sha256(), NULL)) {
        abort();
    }
    _cleanup_free_ char *hex = hex_encode(h, sizeof(h));
    char *name = xasprintf("blobs/sha256/%s", hex);
    _cleanup_close_ int fd = openat(pool_fd, name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, p, n) != (ssize_t)n) {
        abort();
    }
    return name;
}

static void open_image(const char *name)
{
    _cleanup_(oci_image_freep) struct oci_image *img = NULL;
    _cleanup_free_ char *digest = xasprintf("sha256:%s", name + strlen("blobs/sha256/"));
    struct err e;

    if (oci_image_open(pool, digest, 1, &img, &e) == 0 &&
        oci_image_config(img)->working_dir[0] != '/') {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *config = NULL, *manifest = NULL;

    if (pool_fd < 0) {
        make_pool();
    }
    if (size > 0 && data[0] == 'c') {
        config = put(data + 1, size - 1);
        _cleanup_free_ char *text = xasprintf(
            "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+"
            "json\",\"size\":%zu,\"digest\":\"sha256:%s\"},\"layers\":[" LAYER "]}",
            size - 1, config + strlen("blobs/sha256/"));
        manifest = put(text, strlen(text));
    } else {
        manifest = put(data, size);
    }
    open_image(manifest);
    unlinkat(pool_fd, manifest, 0);
    if (config) {
        unlinkat(pool_fd, config, 0);
    }
    return 0;
}
