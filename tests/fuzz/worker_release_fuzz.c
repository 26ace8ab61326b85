/* The plaintext of a release, as anybody may encrypt one to the worker's public key. */
#include "svc-worker/worker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char id[] = "jaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static char dataset[] = "trial.aaaaaaaaaaaaaaaaaaaaaaaaaa";
    static char image_key[] = "web.bbbbbbbbbbbbbbbbbbbbbbbbbb";
    struct spec_dataset datasets[] = {{.id = dataset}};
    char *image_keys[] = {image_key};
    struct spec spec = {
        .datasets = datasets, .n_datasets = 1, .image_keys = image_keys, .n_image_keys = 1};
    Coffer__V1__LaunchConfig pb = COFFER__V1__LAUNCH_CONFIG__INIT;
    struct worker_launch l = {.pb = &pb, .spec = &spec};
    struct worker_keys k;
    struct err e = {0};

    pb.job = id;
    pb.attempt = 1;
    if (worker_keys_parse(BYTES(data, size), &l, &k, &e) == 0) {
        if (!k.gate || !k.ear || !worker_keys_find(&k, datasets[0].id, 1) ||
            !worker_keys_find(&k, image_keys[0], 0)) {
            abort();
        }
        worker_keys_done(&k);
    }
    return 0;
}
