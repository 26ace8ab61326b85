/* A store with one image and one dataset, and a spec that names them. */
#ifndef COFFER_LAUNCHER_VM_FIXTURE_TEST_H
#define COFFER_LAUNCHER_VM_FIXTURE_TEST_H

#include <openssl/evp.h>
#include <sys/stat.h>

#include "common/fileio.h"
#include "svc-launcher/vm.h"

#define DATASET "admissions.abcdefghijklmnopqrstuvwxyz"

struct fixture {
    char dir[64];
    char image[80], manifest[80], layer[80], config[80]; /* digits only, but for image */
    struct jkey *key;
};

static inline void fixture_digits(struct bytes content, char out[80])
{
    uint8_t digest[32];

    assert_int_equal(EVP_Digest(content.p, content.n, digest, NULL, EVP_sha256(), NULL), 1);
    _cleanup_free_ char *hex = hex_encode(digest, sizeof(digest));
    snprintf(out, 80, "%s", hex);
}

static inline void fixture_blob(const struct fixture *f, const char *text, char out[80])
{
    struct err e = {0};

    fixture_digits(BYTES_STR(text), out);
    _cleanup_free_ char *path = xasprintf("%s/blobs/sha256/%s", f->dir, out);
    if (file_replace(path, BYTES_STR(text), 0644, &e) < 0) {
        fail_msg("%s", e.msg);
    }
}

static inline int fixture_make(struct fixture *f)
{
    static const char *const dirs[] = {"blobs", "blobs/sha256", "datasets"};
    struct err e = {0};

    snprintf(f->dir, sizeof(f->dir), "/tmp/coffer-vm-XXXXXX");
    if (!mkdtemp(f->dir) || jkey_generate(&f->key, &e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", f->dir, dirs[i]);
        if (mkdir(path, 0700) < 0) {
            return -1;
        }
    }
    fixture_blob(f, "the bytes of a layer", f->layer);
    fixture_blob(f, "{\"os\":\"linux\",\"architecture\":\"amd64\"}", f->config);
    _cleanup_free_ char *manifest =
        xasprintf("{\"config\":{\"digest\":\"sha256:%s\"},\"layers\":[{\"digest\":\"sha256:%s\","
                  "\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\"},{\"digest\":"
                  "\"sha256:%s\",\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\"}]}",
                  f->config, f->layer, f->layer);
    fixture_blob(f, manifest, f->manifest);
    _cleanup_free_ char *index =
        xasprintf("{\"manifests\":[{\"digest\":\"sha256:%s\",\"platform\":{\"os\":\"linux\","
                  "\"architecture\":\"arm64\"}},{\"digest\":\"sha256:%s\",\"platform\":{\"os\":"
                  "\"linux\",\"architecture\":\"amd64\"}}]}",
                  f->layer, f->manifest);
    char digits[80];
    fixture_blob(f, index, digits);
    snprintf(f->image, sizeof(f->image), "sha256:%.64s", digits);
    _cleanup_free_ char *dataset = xasprintf("%s/datasets/" DATASET ".coffer", f->dir);
    return file_replace(dataset, BYTES_STR("sealed"), 0644, &e);
}

static inline struct spec *fixture_spec(const struct fixture *f, const char *image,
                                        const char *dataset)
{
    struct spec *s = NULL;
    struct err e = {0};

    _cleanup_free_ char *yaml = xasprintf(
        "apiVersion: coffer/v1\nkind: Job\nmetadata: {name: t}\n"
        "workload:\n  image: %s\n  encrypted: false\n  args: [\"/bin/true\"]\n"
        "datasets: [{id: \"%s\", mount: /data/x}]\ntee: {mode: required, types: [vtpm]}\n"
        "resources: {cpu: 1500m, memory: 64MiB, pids: 8, tmp: 16MiB}\ntimeout: 60s\n"
        "output: {path: /output, maxBytes: 1MiB, files: [{path: a.txt, type: text/plain}]}\n",
        image, dataset);
    if (spec_from_yaml("t.yaml", BYTES_STR(yaml), f->key, &s, &e) < 0) {
        fail_msg("%s", e.msg);
    }
    return s;
}

#endif
