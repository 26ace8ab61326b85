/* An image's manifest or index, as the launcher reads it to find the blobs to show to a VM. */
#include <openssl/evp.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "svc-launcher/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void remove_store(void)
{
    remove_tree(dir, NULL);
}

static void make_store(void)
{
    char path[128];

    snprintf(dir, sizeof(dir), "/tmp/coffer-fuzz-XXXXXX");
    if (!mkdtemp(dir)) {
        abort();
    }
    atexit(remove_store);
    snprintf(path, sizeof(path), "%s/blobs", dir);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/blobs/sha256", dir);
    mkdir(path, 0700);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vm_disks d;
    uint8_t digest[32];
    char image[80];
    struct err e = {0};

    if (!dir[0]) {
        make_store();
    }
    if (size > 65536 || EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL) != 1) {
        return 0;
    }
    _cleanup_free_ char *hex = hex_encode(digest, sizeof(digest));
    _cleanup_free_ char *path = xasprintf("%s/blobs/sha256/%s", dir, hex);
    FILE *f = fopen(path, "we");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        abort();
    }
    snprintf(image, sizeof(image), "sha256:%s", hex);
    const struct spec spec = {.image = image};
    if (vm_disks_open(dir, &spec, &d, &e) < 0) {
        if (!e.msg[0] || d.n) {
            abort();
        }
    } else {
        vm_disks_done(&d);
    }
    unlink(path);
    return 0;
}
