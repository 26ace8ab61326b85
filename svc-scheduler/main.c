/* svc-scheduler, a guided tour.
 *
 * A job comes in on coffer.v1.job.schedule. handlers.c checks the consumer's signature and the
 * spec, stores the job as `queued` and answers. Whoever signs the same spec again gets the same
 * job.
 *
 * timers.c runs once per turn of the loop when something is due. Among that is place.c: it takes
 * the hosts that reported lately and serves the queue, oldest first. A job that finds a place
 * becomes `launching`: an attempt with a number of its own, and a LaunchCvm for the host's
 * launcher.
 *
 * From there on the job follows facts, each about one attempt: what the launcher says of the CVM,
 * the verifier's verdict, the KBS's release, the gate's decision. job_state.c holds the table of
 * what each means in each state, and the only function that changes a state: it writes the row,
 * appends the event that everybody can follow, and sends the CVM away when the attempt is over.
 * What fails is tried again with the next attempt while the spec allows it; facts of older attempts
 * change nothing.
 *
 * query.c answers who asks; store.c and store_host.c hold all SQL. This file only hands the table
 * of handlers to the shell, which brings the bus, the clock and the transactions.
 *
 * Reading on, in the order in which a job travels (docs/LIFE-OF-A-JOB.md). You arrive here from
 * cli/submit.c, which signed the spec and sent it. In here: handle_schedule, then place_queue, then
 * job_transition, to which everything comes back. Next: svc-launcher/main.c, where the LaunchCvm
 * goes. You come back with each fact of the others, and last with the gate's decision. */
#include "common/shell.h"
#include "svc-scheduler/scheduler.h"

int main(int argc, char **argv)
{
    static const struct shell_hooks hooks = {
        .about = "takes jobs, places them on hosts and drives them through their states",
    };

    return service_main_hooks(&scheduler_service, &hooks, argc, argv);
}
