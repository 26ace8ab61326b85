#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "svc-launcher/vm.h"

/* Whether /dev/kvm runs a guest. That it is there says little, and that it makes a VM not much
 * more: there are hosts, virtual ones, whose KVM cannot run what firmware does first. So a guest of
 * a few instructions is run, in a child that is given a moment. */

#define RUN_MS 2000
#define MEMORY_BYTES 0x4000u
#define CODE_AT 0x1000u
#define PORT 0x10
#define ANSWER 42

/* Real mode: fninit; fwait; mov eax, cr4; mov cr4, eax; mov al, ANSWER; out PORT, al; hlt */
static const uint8_t code[] = {0xdb, 0xe3, 0x9b, 0x0f,   0x20, 0xe0, 0x0f,
                               0x22, 0xe0, 0xb0, ANSWER, 0xe6, PORT, 0xf4};

enum { ANSWERED, NO_DEVICE, NO_VM, NO_VCPU, NO_RUN, OTHER_EXIT };

static int run_guest(int vm, int vcpu, struct kvm_run *run)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = CODE_AT, .rflags = 2};
    void *memory =
        mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        return NO_VCPU;
    }
    memcpy((uint8_t *)memory + CODE_AT, code, sizeof(code));
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES,
                                                 .userspace_addr = (uint64_t)(uintptr_t)memory};
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ||
        ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
        return NO_VCPU;
    }
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0) {
        return NO_VCPU;
    }
    if (ioctl(vcpu, KVM_RUN, 0) < 0) {
        return NO_RUN;
    }
    return run->exit_reason == KVM_EXIT_IO && run->io.port == PORT &&
                   ((const uint8_t *)run)[run->io.data_offset] == ANSWER
               ? ANSWERED
               : OTHER_EXIT;
}

static int try_kvm(void)
{
    int dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = dev < 0 ? -1 : ioctl(dev, KVM_CREATE_VM, 0ul);

    if (vm < 0) {
        return dev < 0 ? NO_DEVICE : NO_VM;
    }
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0ul);
    int bytes = ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vcpu < 0 || bytes < (int)sizeof(struct kvm_run)) {
        return NO_VCPU;
    }
    void *run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    return run == MAP_FAILED ? NO_VCPU : run_guest(vm, vcpu, run);
}

/* In a child, for a guest that never exits must be ended from outside. */
static int try_in_child(void)
{
    int64_t end_ms = vm_now_ms() + RUN_MS;
    int status = -1, fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return NO_RUN;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        uint8_t result = (uint8_t)try_kvm();
        _exit(write(fds[1], &result, 1) == 1 ? 0 : 1);
    }
    close(fds[1]);
    uint8_t result = NO_RUN;
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    int64_t left;
    while (pid > 0 && (left = end_ms - vm_now_ms()) > 0) {
        if (poll(&p, 1, (int)left) > 0) {
            ssize_t n = read(fds[0], &result, 1);
            result = n == 1 ? result : NO_RUN;
            break;
        }
    }
    close(fds[0]);
    if (pid > 0) {
        kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
    }
    return result;
}

int vm_kvm_works(struct err *why)
{
    static int known = -1;

    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        return err_errno(why, "/dev/kvm");
    }
    if (known < 0) {
        known = try_in_child();
    }
    switch (known) {
    case ANSWERED:
        return 0;
    case NO_DEVICE:
        known = -1;
        return err_set(why, ERR_UNSUPPORTED, "/dev/kvm cannot be opened");
    case NO_VM:
        return err_set(why, ERR_UNSUPPORTED, "/dev/kvm makes no VM");
    case NO_VCPU:
        return err_set(why, ERR_UNSUPPORTED, "/dev/kvm makes no CPU");
    }
    return err_set(why, ERR_UNSUPPORTED, "/dev/kvm does not run what firmware does");
}
