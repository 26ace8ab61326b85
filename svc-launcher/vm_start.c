#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "svc-launcher/vm_run.h"

/* All that is done before the guest runs. */

#define TPM_FILE_MAX_BYTES (1 << 20)
#define BUS_SOCKET "bus"

/* ---- preparing ------------------------------------------------------------------------------- */

static int pair(int *ret_mine, int *ret_theirs, struct err *e)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return err_errno(e, "socketpair");
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *ret_mine = fds[0];
    *ret_theirs = fds[1];
    return 0;
}

static int output_pipe(int *ret_mine, int *ret_theirs, struct err *e)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_errno(e, "pipe");
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *ret_mine = fds[0];
    *ret_theirs = fds[1];
    return 0;
}

/* The bus port's socket: QEMU accepts one connection at a time on it, for each of the guest's. */
static int listen_bus(const struct vm *vm, int *ret_fd, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/" BUS_SOCKET, vm->dir_fd);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
        return err_errno(e, "the bus port's socket");
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int prepare_launch(struct vm *vm, const Coffer__V1__LaunchConfig *c, struct err *e)
{
    uint8_t head[4] = {0};

    if (buf_add(&vm->launch, head, sizeof(head), e) < 0 ||
        vm_launch_config(c, &vm->disks, &vm->launch, e) < 0) {
        return -1;
    }
    size_t n = vm->launch.n - sizeof(head);
    for (size_t i = 0; i < sizeof(head); i++) {
        vm->launch.p[i] = (uint8_t)(n >> (24 - 8 * i));
    }
    return 0;
}

static uint32_t uid_of(int which)
{
    return VM_UID_BASE + 2u * (uint32_t)getpid() + (uint32_t)which;
}

/* So that swtpm, which is nobody else, can use what was made for it. */
static int give_files(const char *dir, uint32_t uid, struct err *e)
{
    static const char *const names[] = {"tpm2-00.permall", ".lock"};

    if (geteuid() != 0) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, names[i]);
        if (lchown(path, uid, uid) < 0 && errno != ENOENT) {
            return err_errno(e, "chown %s", path);
        }
    }
    return chown(dir, uid, uid) < 0 ? err_errno(e, "chown %s", dir) : 0;
}

/* What the host gives to this VM, and how large it is. */
static int place(struct vm *vm, const struct spec *spec, uint32_t *ret_mib, uint32_t *ret_vcpus,
                 struct err *e)
{
    const char *slash = strrchr(vm->p.work_dir, '/');
    int above = slash ? (int)(slash - vm->p.work_dir) : 0;
    _cleanup_free_ char *lock = xasprintf("%.*s.cpus", above, vm->p.work_dir);
    struct vm_host host;

    vm_host_here(&host);
    vm_size(spec, &vm->disks, vm->p.opt.overhead_bytes, ret_mib, ret_vcpus);
    return vm_place(&host, &vm->p.opt, spec, lock, *ret_vcpus, ret_mib, &vm->place, e);
}

/* ---- starting -------------------------------------------------------------------------------- */

static int jail_root(const struct vm *vm, const char *name, char **ret, struct err *e)
{
    char *path = xasprintf("%s/%s", vm->p.work_dir, name);

    if (mkdir(path, 0700) < 0) {
        err_errno(e, "mkdir %s", path);
        free(path);
        return -1;
    }
    *ret = path;
    return 0;
}

static int start_swtpm(struct vm *vm, int *ret_qemu_fd, struct err *e)
{
    _cleanup_free_ char *root = NULL, *dir = xasprintf("%s/tpm", vm->p.work_dir);
    _cleanup_close_ int mine = -1, theirs = -1, out = -1;
    _cleanup_vm_argv_ struct vm_argv a = {0};

    if (vm_tpm_make(&vm->p.opt, vm->p.id, vm->p.work_dir, dir, e) < 0 ||
        give_files(dir, uid_of(1), e) < 0 || jail_root(vm, "tpm-root", &root, e) < 0) {
        return -1;
    }
    if (pair(&mine, &theirs, e) < 0 || output_pipe(&vm->tpm_out_fd, &out, e) < 0) {
        return -1;
    }
    fcntl(mine, F_SETFL, 0);
    vm_argv_add(&a, "%s", vm->p.opt.swtpm);
    vm_argv_add(&a, "socket");
    vm_argv_add(&a, "--tpm2");
    vm_argv_add(&a, "--tpmstate");
    vm_argv_add(&a, "dir=/tpm");
    vm_argv_add(&a, "--ctrl");
    vm_argv_add(&a, "type=unixio,clientfd=%d", theirs);
    vm_argv_add(&a, "--seccomp");
    vm_argv_add(&a, "action=kill");
    const struct vm_bind binds[] = {{.from = dir, .to = "/tpm", .writable = 1}};
    const struct vm_jail j = {.root = root,
                              .binds = binds,
                              .n_binds = ARRAY_LEN(binds),
                              .uid = uid_of(1),
                              .file_bytes = TPM_FILE_MAX_BYTES,
                              .cpus = vm->p.opt.cpus,
                              .fds = &theirs,
                              .n_fds = 1,
                              .out_fd = out};
    if (vm_jail_start(&j, a.v, &vm->swtpm, e) < 0) {
        return err_wrap(e, "swtpm");
    }
    *ret_qemu_fd = TAKE_FD(mine);
    return 0;
}

struct qemu_fds {
    int qmp, ctl, log, bus, console, tpm;
};

static void qemu_fds_done(struct qemu_fds *f)
{
    closep(&f->qmp);
    closep(&f->ctl);
    closep(&f->log);
    closep(&f->bus);
    closep(&f->console);
    closep(&f->tpm);
}

static int open_fds(struct vm *vm, struct qemu_fds *f, struct err *e)
{
    return pair(&vm->qmp_fd, &f->qmp, e) < 0 || pair(&vm->ctl_fd, &f->ctl, e) < 0 ||
                   pair(&vm->log_fd, &f->log, e) < 0 || pair(&vm->console_fd, &f->console, e) < 0 ||
                   listen_bus(vm, &f->bus, e) < 0
               ? -1
               : 0;
}

static int run_qemu(struct vm *vm, const struct vm_qemu *q, const struct qemu_fds *f, struct err *e)
{
    _cleanup_free_ char *root = NULL, *firmware = xasprintf("%s/OVMF.fd", vm->p.opt.image),
                        *kernel = xasprintf("%s/coffer.efi", vm->p.opt.image);
    _cleanup_close_ int out = -1;
    _cleanup_vm_argv_ struct vm_argv a = {0};
    int fds[6 + VM_DISKS_MAX] = {f->qmp, f->ctl, f->log, f->bus, f->console};
    size_t n_fds = 5, n_binds = 0;
    struct vm_bind binds[5];

    binds[n_binds++] = (struct vm_bind){.from = firmware, .to = q->firmware};
    binds[n_binds++] = (struct vm_bind){.from = kernel, .to = q->kernel};
    if (q->kvm) {
        binds[n_binds++] = (struct vm_bind){.from = "/dev/kvm", .to = "/dev/kvm", .writable = 1};
    }
    if (q->kind == VM_SNP) {
        binds[n_binds++] = (struct vm_bind){.from = "/dev/sev", .to = "/dev/sev", .writable = 1};
    }
    if (q->quote_socket) {
        binds[n_binds++] =
            (struct vm_bind){.from = vm->p.opt.quote_socket, .to = q->quote_socket, .writable = 1};
    }
    if (f->tpm >= 0) {
        fds[n_fds++] = f->tpm;
    }
    for (size_t i = 0; i < vm->disks.n; i++) {
        fds[n_fds++] = vm->disks.v[i].fd;
    }
    if (jail_root(vm, "qemu-root", &root, e) < 0 || output_pipe(&vm->qemu_out_fd, &out, e) < 0) {
        return -1;
    }
    vm_qemu_argv(q, &a);
    /* Where it has a file to write to, that, and the guest's memory, which may be a file, too. */
    const struct vm_disk *last = &vm->disks.v[vm->disks.n - 1];
    int64_t memory = (int64_t)q->memory_mib << 20, bound = !last->rw ? -1
                                                           : (int64_t)last->bytes > memory
                                                               ? (int64_t)last->bytes
                                                               : memory;
    const struct vm_jail j = {.root = root,
                              .binds = binds,
                              .n_binds = n_binds,
                              .uid = uid_of(0),
                              .file_bytes = bound,
                              .lock_memory = q->lock_memory,
                              .cpus = vm->place.cpus,
                              .groups_of = q->kvm ? "/dev/kvm" : NULL,
                              .fds = fds,
                              .n_fds = n_fds,
                              .out_fd = out};
    return vm_jail_start(&j, a.v, &vm->qemu, e) < 0 ? err_wrap(e, "QEMU") : 0;
}

static int start_qemu(struct vm *vm, const struct spec *spec, struct err *e)
{
    _cleanup_(qemu_fds_done) struct qemu_fds f = {-1, -1, -1, -1, -1, -1};
    struct vm_qemu q = {.kind = vm->p.kind,
                        .kvm = vm->p.kvm,
                        .program = vm->p.opt.qemu,
                        .id = vm->p.id,
                        .firmware = "/firmware",
                        .kernel = "/kernel",
                        .disks = vm->disks.v,
                        .n_disks = vm->disks.n};

    if (q.kind == VM_TDX && vm->p.opt.quote_socket[0]) {
        q.quote_socket = "/quotes";
    }
    if (q.kind == VM_SNP && vm_sev_bits(&q.cbitpos, &q.reduced_phys_bits) < 0) {
        return err_refuse(e, ERR_UNSUPPORTED, "snp", "a CPU with SEV-SNP", "another");
    }
    if (place(vm, spec, &q.memory_mib, &q.vcpus, e) < 0) {
        return -1;
    }
    q.numa_node = vm->place.numa_node;
    q.hugepage_mib = vm->place.hugepage_mib;
    q.lock_memory = vm->place.lock_memory;
    if ((q.kind == VM_VTPM && start_swtpm(vm, &f.tpm, e) < 0) || open_fds(vm, &f, e) < 0) {
        return -1;
    }
    q.qmp_fd = f.qmp;
    q.ctl_fd = f.ctl;
    q.log_fd = f.log;
    q.bus_fd = f.bus;
    q.console_fd = f.console;
    q.tpm_fd = f.tpm;
    if (run_qemu(vm, &q, &f, e) < 0) {
        return -1;
    }
    char line[192];
    snprintf(line, sizeof(line), "%s, %u MiB, %u CPU(s)%s%.64s, %zu disks",
             q.kvm ? "KVM" : "emulated", q.memory_mib, q.vcpus,
             vm->place.pinned ? " of its own: " : "", vm->place.pinned ? vm->place.cpus : "",
             q.n_disks);
    vm_say_log("vm", line);
    return 0;
}

int vm_start(struct vm *vm, struct bytes input, struct err *e)
{
    _cleanup_pb_ ProtobufCMessage *pb = NULL;
    _cleanup_spec_ struct spec *spec = NULL;
    _cleanup_jkey_ struct jkey *consumer = NULL;

    if (vm_params_unpack(input, &vm->p, e) < 0) {
        return -1;
    }
    pb = protobuf_c_message_unpack(&coffer__v1__launch_config__descriptor, NULL, vm->p.config.n,
                                   vm->p.config.p);
    if (!pb) {
        return err_set(e, ERR_INVALID, "the launch configuration is none");
    }
    const Coffer__V1__LaunchConfig *c = (const Coffer__V1__LaunchConfig *)pb;
    vm->dir_fd = open(vm->p.work_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (vm->dir_fd < 0) {
        return err_errno(e, "%s", vm->p.work_dir);
    }
    if (spec_verify(c->spec_jws, &spec, &consumer, e) < 0 ||
        vm_disks_open(vm->p.store, spec, &vm->disks, e) < 0 ||
        vm_scratch_open(vm->p.work_dir, spec->scratch_bytes, vm->p.opt.scratch_max_bytes,
                        &vm->disks, e) < 0 ||
        prepare_launch(vm, c, e) < 0 ||
        bridge_init(&vm->bridge, c->nats_url, vm->dir_fd, BUS_SOCKET, e) < 0) {
        return -1;
    }
    return start_qemu(vm, spec, e);
}
