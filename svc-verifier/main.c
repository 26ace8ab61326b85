/* svc-verifier: judges whether a confidential VM is what it says it is.
 *
 * The tour:
 *
 *   1. A worker that has just booted makes a key pair and asks for a challenge. handlers.c gives it
 *      32 fresh bytes, bound to its job and attempt (appraisal_state.c: issued).
 *   2. It hashes challenge, job, attempt and its public key into the evidence of its TEE, and
 *      submits that. handlers.c checks the binding; the appraiser of that TEE (appraiser.h,
 *      sample.c) checks that the evidence is genuine and how good it is.
 *      Evidence of hardware is appraised with collateral of its maker (shelf.h): what is not there
 *      is fetched (fetching.c), and the worker's next repetition of its evidence finds it. What the
 *      evidence claims is judged by the policy (appraise/policy.h).
 *   3. What was found is signed as an EAR (ear.c) and published as verdict.<job>, for the KBS,
 *      which decides whether a key may leave, and for the scheduler. The challenge is used up
 *      (appraised or refused); the same evidence again gets the same verdict again.
 *
 * What runs all this, and what is due when, is service.c: the table that the engine
 * (common/engine.h) works from. All SQL is in store.c and store_shelf.c. Nothing here but the shell
 * and fetching.c does any I/O.
 *
 * You arrive here from svc-worker/main.c, twice: verifier_on_challenge, then verifier_on_evidence.
 * Next: svc-kbs/main.c, which acts on the verdict.
 */
#include "common/shell.h"
#include "svc-verifier/verifier.h"

int main(int argc, char **argv)
{
    return service_main_hooks(&verifier_service, &verifier_hooks, argc, argv);
}
