/* svc-kbs: keeps the keys of sealed data and gives them to nothing but an attested confidential VM
 * that the data's owner granted them to.
 *
 * The tour:
 *
 *   1. Owners send signed commands (owner.c): a dataset's key, sealed to this KBS and put at rest
 *      under the KEK (sealstore.c); grants, which say who may use it, how (grant.c); revocations.
 *   2. The verifier publishes a verdict. handlers.c takes it through the checks of checks.c in the
 *      order of docs/PROTOCOL.md: the verdict itself, the consumer's signed spec, the TEE, and for
 *      each key the owner's grant. The first that fails is the refusal, with what it expected and
 *      what came. No other service is believed.
 *   3. When all hold, the keys leave once, as a JWE to the key that the evidence is bound to.
 *      release_state.c is the table that makes it once: there is no way from `released` to another
 *      release. The same verdict again gets the same bytes again.
 *
 * What runs all this, and what is due when, is service.c: the table that the engine
 * (common/engine.h) works from. All SQL is in store.c. Nothing here but the shell does any I/O.
 *
 * You arrive here from svc-verifier/main.c, with a verdict (kbs_on_verdict), and before any job
 * from an owner's `coffer dataset grant` (kbs_on_owner_command). Next: the release goes to
 * svc-worker/main.c, to be opened, and to svc-gate/main.c, which learns from it whose result
 * counts.
 */
#include "common/shell.h"
#include "svc-kbs/kbs.h"

int main(int argc, char **argv)
{
    static const struct shell_hooks hooks = {
        .about = "Keeps keys, and releases them to attested confidential VMs under their owners' "
                 "grants.",
    };

    return service_main_hooks(&kbs_service, &hooks, argc, argv);
}
