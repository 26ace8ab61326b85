/* Shared by the parts of cvm-vm: vm_start.c prepares and starts, vm_run.c watches. */
#ifndef COFFER_LAUNCHER_VM_RUN_H
#define COFFER_LAUNCHER_VM_RUN_H

#include "svc-launcher/vm.h"

enum vm_end { END_NONE, END_STOPPED, END_HANG, END_EXIT_STAYS, END_TPM, END_QMP };

struct vm {
    struct vm_params p;
    struct vm_disks disks;
    struct vm_place place;
    struct buf launch; /* the frame for coffer.ctl */
    size_t launch_sent;
    int dir_fd;
    int signal_fd, qmp_fd, ctl_fd, log_fd, console_fd, qemu_out_fd, tpm_out_fd;
    pid_t qemu, swtpm;
    int qemu_status, tpm_status;
    struct line_cutter qmp_lines;
    struct vm_guest guest;
    struct vm_text log, console, qemu_out, tpm_out;
    struct bridge bridge;
    char bridge_told[128];
    int64_t alive_ms;
    int64_t kill_ms; /* when QEMU is killed; INT64_MAX */
    enum vm_end end;
    int booted, panicked;
    char shutdown[64]; /* QEMU's reason */
};

/* Prefix, ": ", text as a log line, or nothing when the launcher does not keep up: no guest may
 * hold this process up. */
void vm_say_log(const char *prefix, const char *text);

/* From vm_params_pack's bytes to a QEMU that runs. Errors of all the parts; what was started or
 * opened is in `vm` in any case. */
int vm_start(struct vm *vm, struct bytes input, struct err *e);

#endif
