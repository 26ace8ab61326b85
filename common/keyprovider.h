/* The ocicrypt key provider protocol, "cmd" form: skopeo and others run us, write one JSON request
 * to our stdin and read one JSON answer from our stdout. (github.com/containers/ocicrypt,
 * keywrap/keyprovider; []byte members are padded base64, as Go writes them.)
 *
 *   {"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"coffer":["<b64 of params>"]},...},
 *    "optsdata":"<b64>"},"keyunwrapparams":{...}} -> {"keywrapresults":{"annotation":"<b64>"},...}
 *   {"op":"keyunwrap","keywrapparams":{...},"keyunwrapparams":{"dc":{...},"annotation":"<b64>"}}
 *    -> {...,"keyunwrapresults":{"optsdata":"<b64>"}}
 *
 * params is what follows "provider:coffer:" on the command line of skopeo: "keyid=<id>", or in the
 * form of Confidential Containers "keyid=<id>::algorithm=A256GCM".
 */
#ifndef COFFER_KEYPROVIDER_H
#define COFFER_KEYPROVIDER_H

#include "common/keywrap.h"

#define KEYPROVIDER_NAME "coffer"
#define KEYPROVIDER_REQUEST_MAX_BYTES 262144u

/* Reads one request until the end of in_fd, answers on out_fd. `find` gives the key both for
 * wrapping and for unwrapping. Nothing is written unless the request succeeds.
 * ERR_INVALID naming the member, ERR_TOO_LARGE, ERR_IO, what `find` and keywrap_unwrap say. */
int keyprovider_run(int in_fd, int out_fd, keywrap_find_fn find, void *arg, struct err *e);

/* The same without descriptors: the answer is appended to `ret`, which holds secrets after an
 * unwrap (buf_done wipes it). */
int keyprovider_answer(struct bytes request, keywrap_find_fn find, void *arg, struct buf *ret,
                       struct err *e);

#endif
