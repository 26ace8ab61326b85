# svc-worker as the first process of a VM: bad launch configurations, the bus, the end. The image is made
# here by hand, without firmware measurements, so that it starts fast.
set -euo pipefail

: "${COFFER_BUILD:?the build directory}"
NAME=vm_init

skip() {
    echo "$NAME: SKIPPED: $*"
    exit 77
}

for tool in qemu-system-x86_64 cpio; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
# The kernel of this build's guest image, else an installed one.
KERNEL=$COFFER_BUILD/guest/kernel/vmlinuz
if [ -r "$KERNEL" ]; then
    MODULES=$COFFER_BUILD/guest/kernel/$(cat "$COFFER_BUILD/guest/kernel/release")/kernel
else
    KERNEL=$(ls /boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -n 1)
    [ -r "${KERNEL:-/nowhere}" ] || skip "no guest image in this build, and no linux-image-cloud-amd64 in /boot"
    MODULES=/lib/modules/${KERNEL##*/vmlinuz-}/kernel
fi
[ -d "$MODULES" ] || skip "no modules of that kernel"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/coffer-$NAME-XXXXXX")
trap 'rm -rf "$WORK"' EXIT

ROOT=$WORK/root
mkdir -p "$ROOT"/{dev,etc,usr/bin,usr/lib/x86_64-linux-gnu,usr/lib64,usr/lib/modules/coffer}
for dir in bin lib lib64; do ln -s "usr/$dir" "$ROOT/$dir"; done
echo 'hosts: files' >"$ROOT/etc/nsswitch.conf"
cp "$COFFER_BUILD/bin/svc-worker" "$ROOT/init"
strip "$ROOT/init" 2>/dev/null || true
cp /usr/bin/crun "$ROOT/usr/bin/" 2>/dev/null || true
ldd "$COFFER_BUILD/bin/svc-worker" | awk '$2 == "=>" { print $3 }' | while read -r lib; do
    cp -L "$lib" "$ROOT/usr/lib/x86_64-linux-gnu/"
done
cp -L /lib64/ld-linux-x86-64.so.2 "$ROOT/usr/lib64/"
i=10
for m in virtio/virtio_ring virtio/virtio virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev \
    virtio/virtio_pci char/virtio_console char/hw_random/virtio-rng block/virtio_blk; do
    cp "$MODULES/drivers/$m.ko" "$ROOT/usr/lib/modules/coffer/$i-${m##*/}.ko"
    i=$((i + 1))
done
(cd "$ROOT" && find . | LC_ALL=C sort | cpio --quiet -o -H newc) >"$WORK/initramfs"

"$COFFER_BUILD/tests/integration_vm_guest" "$KERNEL" "$WORK/initramfs" "$WORK" "$@"
echo "$NAME: passed"
