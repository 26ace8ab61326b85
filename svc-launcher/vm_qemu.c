#include <stdarg.h>

#include "svc-launcher/vm.h"

/* QEMU's command line. What is not asked for is not there (-nodefaults): no network card, no
 * display, no USB, no disk controller but one virtio-blk device for each file, no host share.
 *
 * tdx as in docs/system/i386/tdx.rst of QEMU 10.1; the properties of its object and snp as other
 * projects start such VMs (docs/vm.md). Neither has been run. */

#define DISK_FIRST_SLOT 4u
#define DISK_ALONE_MAX 20u /* up to here each disk has a PCI slot of its own */
#define SLOT_FUNCTIONS 8u

void vm_argv_add(struct vm_argv *a, const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0) {
        abort();
    }
    va_end(ap);
    a->v = xrealloc(a->v, (a->n + 2) * sizeof(*a->v));
    a->v[a->n++] = s;
    a->v[a->n] = NULL;
}

void vm_argv_done(struct vm_argv *a)
{
    for (size_t i = 0; i < a->n; i++) {
        free(a->v[i]);
    }
    free(a->v);
    *a = (struct vm_argv){0};
}

static void add(struct vm_argv *a, const char *name, const char *value)
{
    vm_argv_add(a, "%s", name);
    vm_argv_add(a, "%s", value);
}

/* ---- machine --------------------------------------------------------------------------------- */

static int own_memory(const struct vm_qemu *q)
{
    return q->numa_node >= 0 || q->hugepage_mib;
}

static void add_memory(const struct vm_qemu *q, struct vm_argv *a)
{
    char node[64] = "", pages[64] = "";

    vm_argv_add(a, "-m");
    vm_argv_add(a, "%uM", q->memory_mib);
    if (q->numa_node >= 0) {
        snprintf(node, sizeof(node), ",host-nodes=%lld,policy=bind", (long long)q->numa_node);
    }
    if (q->hugepage_mib) {
        /* All of it now: a page that is missing later ends the VM in the middle of its work. */
        snprintf(pages, sizeof(pages), ",hugetlb=on,prealloc=on");
    }
    if (q->hugepage_mib && q->hugepage_mib != VM_HUGE_DEFAULT) {
        snprintf(pages, sizeof(pages), ",hugetlb=on,hugetlbsize=%uM,prealloc=on", q->hugepage_mib);
    }
    if (own_memory(q)) {
        vm_argv_add(a, "-object");
        vm_argv_add(a, "memory-backend-memfd,id=ram,size=%uM,share=on%s%s", q->memory_mib, pages,
                    node);
    }
    if (q->lock_memory) {
        add(a, "-overcommit", "mem-lock=on");
    }
}

static void add_machine(const struct vm_qemu *q, struct vm_argv *a)
{
    const char *guest = q->kind == VM_TDX   ? ",hpet=off,kernel-irqchip=split,"
                                              "confidential-guest-support=tee"
                        : q->kind == VM_SNP ? ",confidential-guest-support=tee"
                                            : "";

    vm_argv_add(a, "-machine");
    vm_argv_add(a,
                "q35,smm=off,usb=off,vmport=off,sata=off,smbus=off,i8042=off,graphics=off,"
                "dump-guest-core=off%s%s",
                guest, own_memory(q) ? ",memory-backend=ram" : "");
    add(a, "-accel", q->kvm ? "kvm" : "tcg");
    /* Under emulation, wide vectors cost more than they give; AES has helpers of its own. Random
     * numbers are the host's in either case, this way from the start. */
    add(a, "-cpu",
        q->kind == VM_SNP ? "EPYC-v4"
        : q->kvm          ? "host"
                          : "qemu64,+rdrand,+aes,+pclmulqdq,+ssse3,+sse4.1,+sse4.2,+popcnt");
    vm_argv_add(a, "-smp");
    vm_argv_add(a, "%u", q->vcpus);
    add_memory(q, a);
}

static void add_tee(const struct vm_qemu *q, struct vm_argv *a)
{
    switch (q->kind) {
    case VM_VTPM:
        vm_argv_add(a, "-chardev");
        vm_argv_add(a, "socket,id=tpmsock,fd=%d", q->tpm_fd);
        add(a, "-tpmdev", "emulator,id=tpm,chardev=tpmsock");
        add(a, "-device", "tpm-crb,tpmdev=tpm");
        break;
    case VM_TDX:
        vm_argv_add(a, "-object");
        vm_argv_add(a, "{\"qom-type\":\"tdx-guest\",\"id\":\"tee\",\"sept-ve-disable\":true%s%s%s}",
                    q->quote_socket ? ",\"quote-generation-socket\":{\"type\":\"unix\",\"path\":\""
                                    : "",
                    q->quote_socket ? q->quote_socket : "", q->quote_socket ? "\"}" : "");
        break;
    case VM_SNP:
        vm_argv_add(a, "-object");
        vm_argv_add(a,
                    "sev-snp-guest,id=tee,cbitpos=%u,reduced-phys-bits=%u,policy=0x30000,"
                    "kernel-hashes=on",
                    q->cbitpos, q->reduced_phys_bits);
        break;
    }
}

/* ---- devices --------------------------------------------------------------------------------- */

/* Memory of a confidential guest is its own: its devices must use the part that it shares. */
static const char *virtio(const struct vm_qemu *q)
{
    return q->kind == VM_VTPM ? "disable-legacy=on" : "disable-legacy=on,iommu_platform=on";
}

static void add_chardev(struct vm_argv *a, const char *id, int fd, int server)
{
    vm_argv_add(a, "-chardev");
    vm_argv_add(a, "socket,id=%s,fd=%d%s", id, fd, server ? ",server=on,wait=off" : "");
}

static void add_port(struct vm_argv *a, int nr, const char *id, const char *name)
{
    vm_argv_add(a, "-device");
    vm_argv_add(a, "virtserialport,bus=ports.0,nr=%d,chardev=%s,id=%s,name=%s", nr, id, id, name);
}

static void add_ports(const struct vm_qemu *q, struct vm_argv *a)
{
    add_chardev(a, "qmp", q->qmp_fd, 0);
    add(a, "-mon", "chardev=qmp,mode=control");
    add_chardev(a, "console", q->console_fd, 0);
    add(a, "-serial", "chardev:console");
    vm_argv_add(a, "-device");
    vm_argv_add(a, "virtio-serial-pci,id=ports,max_ports=4,addr=2,%s", virtio(q));
    add_chardev(a, "ctl", q->ctl_fd, 0);
    add_port(a, 1, "ctl", VM_PORT_CTL);
    add_chardev(a, "bus", q->bus_fd, 1);
    add_port(a, 2, "bus", VM_PORT_BUS);
    add_chardev(a, "log", q->log_fd, 0);
    add_port(a, 3, "log", VM_PORT_LOG);
    add(a, "-object", "rng-builtin,id=rng");
    vm_argv_add(a, "-device");
    vm_argv_add(a, "virtio-rng-pci,rng=rng,addr=3,%s", virtio(q));
}

static void add_disk(const struct vm_qemu *q, size_t i, struct vm_argv *a)
{
    const struct vm_disk *d = &q->disks[i];
    int many = q->n_disks > DISK_ALONE_MAX;
    unsigned slot = DISK_FIRST_SLOT + (unsigned)(many ? i / SLOT_FUNCTIONS : i);
    unsigned function = many ? (unsigned)(i % SLOT_FUNCTIONS) : 0;

    vm_argv_add(a, "-add-fd");
    vm_argv_add(a, "fd=%d,set=%zu", d->fd, i + 1);
    vm_argv_add(a, "-blockdev");
    /* What is written dies with the VM: it need not reach the disk, and no error may stop it. */
    vm_argv_add(a,
                "driver=raw,node-name=disk-%s,read-only=%s,auto-read-only=off,%sfile.driver=file,"
                "file.filename=/dev/fdset/%zu,file.locking=off,file.read-only=%s,"
                "file.auto-read-only=off",
                d->serial, d->rw ? "off" : "on", d->rw ? "cache.no-flush=on," : "", i + 1,
                d->rw ? "off" : "on");
    vm_argv_add(a, "-device");
    vm_argv_add(a, "virtio-blk-pci,drive=disk-%s,serial=%s,addr=%x.%u%s,num-queues=1,%s%s",
                d->serial, d->serial, slot, function,
                many && function == 0 ? ",multifunction=on" : "",
                d->rw ? "werror=report,rerror=report," : "", virtio(q));
}

void vm_qemu_argv(const struct vm_qemu *q, struct vm_argv *ret)
{
    struct vm_argv a = {0};

    vm_argv_add(&a, "%s", q->program);
    vm_argv_add(&a, "-name");
    vm_argv_add(&a, "coffer-%s", q->id);
    vm_argv_add(&a, "-no-user-config");
    vm_argv_add(&a, "-nodefaults");
    add(&a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add_machine(q, &a);
    add(&a, "-vga", "none");
    add(&a, "-display", "none");
    vm_argv_add(&a, "-no-reboot");
    add(&a, "-rtc", "base=utc");
    add_tee(q, &a);
    add_ports(q, &a);
    for (size_t i = 0; i < q->n_disks; i++) {
        add_disk(q, i, &a);
    }
    add(&a, "-bios", q->firmware);
    add(&a, "-kernel", q->kernel);
    *ret = a;
}
