/* svc-gate: the only way out for an output. A guided tour:
 *
 *   handlers.c         one function for each subject, the tick, the configuration
 *   admit.c            what arrives: pieces, manifests, the KBS's releases; what is believed of it
 *   admission_state.c  the states of one attempt's result as a table, and their only writer
 *   decide.c           a complete result: opened, inspected, scored, decided, signed
 *   inspect.c          is a file what its declared type says; entropy; verbatim input
 *   score.c            from facts to 0..100 points with reasons (docs/GATE.md)
 *   release.c          sealed anew to the recipients; fetched in pieces
 *   review.c           held results: list, show, approve, reject, expire
 *   store.c, store_pieces.c   all SQL; ciphertext only
 *
 * Plaintext exists in one place: the locked memory (common/area.h) of decide.c, for as long as a
 * handler runs.
 *
 * You arrive here from svc-kbs/main.c, with a release (admit_release), and from svc-worker/main.c,
 * with a manifest and chunks (admit_manifest, admit_chunk). The last of these leads to
 * decide_if_complete. Next: the decision goes back to svc-scheduler/main.c, which ends the job, and
 * the recipient comes with cli/result.c to release_fetch.
 */
#include "common/shell.h"
#include "svc-gate/gate.h"

int main(int argc, char **argv)
{
    static const struct shell_hooks hooks = {
        .about = "inspects outputs and releases, holds or rejects them"};

    return service_main_hooks(&gate_service, &hooks, argc, argv);
}
