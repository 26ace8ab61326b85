/* The annotations of an encrypted layer (a JSON object), with a key of zeros for every id. */
#include "svc-worker/oci_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(ocicrypt_freep) struct ocicrypt *c = NULL;
    _cleanup_(ocicrypt_key_done) struct ocicrypt_key key = {0};
    _cleanup_secret_ struct secret *kek = secret_new(32);
    _cleanup_json_ json_t *j = NULL;
    struct oci_key v[OCI_LAYER_PACKETS_MAX];
    struct err e;

    if (json_parse("annotations", BYTES(data, size), OCI_JSON_MAX_BYTES, &j, &e) < 0 ||
        !json_is_object(j) || ocicrypt_parse("layer", j, &c, &e) < 0) {
        return 0;
    }
    if (c->n_packets < 1 || c->n_packets > OCI_LAYER_PACKETS_MAX) {
        abort();
    }
    for (size_t i = 0; i < c->n_packets; i++) {
        v[i] = (struct oci_key){.kid = c->packets[i].kid, .kek = kek};
    }
    if (ocicrypt_open(c, &(struct oci_keys){.v = v, .n = c->n_packets}, &key, &e) == 0 &&
        secret_n(key.symkey) != 32) {
        abort();
    }
    return 0;
}
