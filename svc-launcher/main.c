/* svc-launcher, a guided tour.
 *
 * One runs on every host. Every few seconds it tells the schedulers what the host can do (probe.c).
 * A LaunchCvm becomes a row in `starting` and an action; a DestroyCvm moves the row on to
 * `stopping`; what is older than what was already seen of a job is refused (handlers.c).
 * run_state.c holds the table of a CVM's states and is the only writer of one: it tells the
 * scheduler `booted`, `exited`, `lost`, `destroyed` and `launch-failed`.
 *
 * supervisor.c does the actions after their transaction is durable. It asks a backend (backend.h,
 * process.c) to start the CVM; run.c feeds what comes back (lifecycle.c) into the service, and
 * forwards the CVM's log. What stands directly under the launcher is never the worker but its
 * keeper (keeper.c): this very program in another role, which takes every orphan of the CVM, and
 * ends only when nothing of the CVM is left. It outlives the launcher for a while: the next one
 * finds it and goes on (adopt.c, link.h).
 *
 * The other backends boot the measured guest image: the keeper then runs this program in a third
 * role, cvm-vm, which starts QEMU and swtpm without any rights, and passes on what the guest says
 * (vm.h, docs/vm.md).
 *
 * The launcher is trusted for availability only. It hands the worker a signed spec it cannot change
 * and never sees a key.
 *
 * You arrive here from svc-scheduler/main.c, with a LaunchCvm. In here: handle_launch records it,
 * act_launch (supervisor.c) starts the keeper, and that the worker. Next: svc-worker/main.c, which
 * reads its LaunchConfig from standard input. You come back with its lines of JSON
 * (launcher_on_backend_event), a DestroyCvm, or its end. */
#include "svc-launcher/backend.h"
#include "svc-launcher/supervisor.h"
#include "svc-launcher/vm.h"

int main(int argc, char **argv)
{
    if (argc > 1 && streq(argv[1], KEEPER_VERB)) {
        return keeper_main(argc, argv);
    }
    if (argc > 1 && streq(argv[1], VM_VERB)) {
        return vm_main(argc, argv);
    }
    return service_main_hooks(&launcher_service, &supervisor_hooks, argc, argv);
}
