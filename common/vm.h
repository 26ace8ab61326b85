/* What the two ends of a VM agree on: svc-launcher outside, svc-worker inside, and who computes the
 * reference values (docs/guest.md).
 *
 * The VM has no network card. Three virtio-serial ports lead out:
 *
 *   coffer.ctl   host to guest, once: 4 bytes of length (big-endian), a packed LaunchConfig. Guest
 * to host: lifecycle lines (svc-launcher/backend.h), VM_LINE_ALIVE, VM_LINE_EXIT coffer.bus   a
 * stream of bytes: one TLS connection to nats-server at a time. The host closes its end when the
 * server's connection ends, the guest closes the port when its own does coffer.log   guest to host:
 * lines for the launcher's log
 *
 * Each end of the bus waits VM_BUS_PAUSE_MS after it closed before it opens again, so that the
 * other sees it. */
#ifndef COFFER_VM_H
#define COFFER_VM_H

#include <stddef.h>
#include <stdint.h>

#define VM_PORT_CTL "coffer.ctl"
#define VM_PORT_BUS "coffer.bus"
#define VM_PORT_LOG "coffer.log"
#define VM_BUS_PAUSE_MS 300
#define VM_LAUNCH_MAX_BYTES (256u * 1024)

/* {"alive":<ms since boot>} every VM_ALIVE_EVERY_MS from PID 1; without one for VM_HANG_MS the VM
 * hangs. {"exit":<0..255>} is the last line: the worker's exit status. */
#define VM_ALIVE_EVERY_MS 5000
#define VM_HANG_MS 60000

#define VM_DISKS_MAX 160

/* The one disk that the guest writes to has this serial number. It is there if the spec asks for
 * scratch, and it is larger than that by what tags and a file system take of it. */
#define VM_SCRATCH_SERIAL "s0"
uint64_t vm_scratch_disk_bytes(uint64_t scratch_bytes);

/* Sizes of VMs. PCR 0 depends on memory and processors, so there are few of each. */
#define VM_VCPUS_MAX 8
#define VM_MEMORY_MIN_MIB 256u
/* The smallest size, in MiB, that holds so much: 256, 384, 512, 768, 1024, 1536, 2048, and from
 * 3072 on multiples of 1024. */
uint32_t vm_memory_mib(uint64_t bytes);
/* Sizes with the same PCR 0 have the same class: itself up to 2048, and 3072 for all above. */
uint32_t vm_memory_class_mib(uint32_t mib);
/* The classes, ascending; ends with 0. */
extern const uint32_t vm_memory_classes_mib[];

#endif
