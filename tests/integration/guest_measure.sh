# What `coffer image measure` computes of an image is what a TPM has after that image started: in VMs of two sizes, and
# not when the host gives a command line. The image's first process is one that prints the PCRs.
set -euo pipefail

: "${COFFER_BUILD:?the build directory}"
NAME=guest_measure
HERE=$(cd "$(dirname "$0")" && pwd)
COFFER=$COFFER_BUILD/bin/coffer
INIT=$COFFER_BUILD/tests/integration_guest_pcrs
FIRMWARE=/usr/share/ovmf/OVMF.fd

skip() {
    echo "$NAME: SKIPPED: $*"
    exit 77
}

fail() {
    echo "$NAME: FAILED: $*" >&2
    exit 1
}

for tool in qemu-system-x86_64 swtpm swtpm_setup; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[ -r "$FIRMWARE" ] || skip "no $FIRMWARE (package ovmf)"
[ -r /usr/lib/systemd/boot/efi/linuxx64.efi.stub ] || skip "package systemd-boot-efi is not installed"
[ -x "$INIT" ] || skip "not in builds with sanitizers"

# The kernel of the guest image of this build tree, or else one that is installed.
KERNEL=$COFFER_BUILD/guest/kernel/vmlinuz
if [ -r "$KERNEL" ]; then
    MODULES=$COFFER_BUILD/guest/kernel/$(cat "$COFFER_BUILD/guest/kernel/release")
else
    KERNEL=$(ls /boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -n 1)
    [ -r "${KERNEL:-/nowhere}" ] || skip "no linux-image-cloud-amd64, in the build tree or in /boot"
    MODULES=/lib/modules/${KERNEL##*/vmlinuz-}
fi

WORK=$(mktemp -d "${TMPDIR:-/tmp}/coffer-$NAME-XXXXXX")
TPM=
cleanup() {
    [ -z "$TPM" ] || kill "$TPM" 2>/dev/null || true
    rm -rf "$WORK"
}
trap cleanup EXIT

build() { # DIR
    "$COFFER" image build --out "$1" --worker "$INIT" --kernel "$KERNEL" --modules "$MODULES" \
        --modules-list "$HERE/../../guest/modules.list" --firmware "$FIRMWARE" >"$WORK/build.log" 2>&1 ||
        { cat "$WORK/build.log" >&2; fail "coffer image build"; }
}

# boot NAME MIB VCPUS [ARG...]: PCRs 0-7, 9, 11 and 12 as the guest sees them, "N hex" lines in NAME.got.
boot() {
    local name=$1 mib=$2 vcpus=$3 tpm=$WORK/$1.tpm
    shift 3
    mkdir "$tpm"
    swtpm_setup --tpm2 --tpmstate "$tpm" --pcr-banks sha256 >"$WORK/$name.setup" 2>&1 ||
        { cat "$WORK/$name.setup" >&2; fail "swtpm_setup"; }
    swtpm socket --tpm2 --tpmstate "dir=$tpm" --ctrl "type=unixio,path=$tpm/sock" &
    TPM=$!
    for _ in $(seq 100); do
        [ ! -S "$tpm/sock" ] || break
        sleep 0.05
    done
    timeout 120 qemu-system-x86_64 -M q35,smm=off,usb=off,vmport=off,sata=off,smbus=off,i8042=off,graphics=off \
        -accel tcg -m "$mib" -smp "$vcpus" -nodefaults -vga none -nographic -no-reboot -serial stdio \
        -bios "$WORK/image/OVMF.fd" -kernel "$WORK/image/coffer.efi" "$@" \
        -chardev "socket,id=tpm,path=$tpm/sock" -tpmdev emulator,id=tpm0,chardev=tpm \
        -device tpm-crb,tpmdev=tpm0 </dev/null >"$WORK/$name.serial" 2>&1 ||
        { tail -n 20 "$WORK/$name.serial" >&2; fail "the VM of $name did not end well"; }
    wait "$TPM" 2>/dev/null || true
    TPM=
    tr -d '\r' <"$WORK/$name.serial" | awk '$1 == "PCR" && $2 ~ /^([0-79]|11|12)$/ { print $2, tolower($3) }' \
        >"$WORK/$name.got"
    [ "$(wc -l <"$WORK/$name.got")" -eq 11 ] ||
        { tail -n 20 "$WORK/$name.serial" >&2; fail "the guest of $name printed other than 11 PCRs"; }
}

computed() { # MIB VCPUS: the same lines
    "$COFFER" image measure "$WORK/image" --memory "$1" --vcpus "$2" | awk '$1 == "pcr" { print $2, $3 }'
}

build "$WORK/image"
build "$WORK/again"
for f in coffer.efi refvals.json; do
    cmp "$WORK/image/$f" "$WORK/again/$f" || fail "two builds made different $f"
done

for size in "256 1" "3072 2"; do
    read -r mib vcpus <<<"$size"
    boot "$mib" "$mib" "$vcpus"
    computed "$mib" "$vcpus" >"$WORK/$mib.want"
    diff -u "$WORK/$mib.want" "$WORK/$mib.got" || fail "PCRs of a VM of $mib MiB and $vcpus vCPUs"
    # The table that verifiers get says the same.
    grep -q "\"$mib/$vcpus\": *\"$(awk '$1 == 0 { print $2 }' "$WORK/$mib.got")\"" "$WORK/image/refvals.json" ||
        fail "refvals.json has another PCR 0 for $mib/$vcpus"
done

# A host that gives a command line of its own is found out: this test can fail.
boot evil 256 1 -append "console=ttyS0 quiet panic=-1 evil"
! diff -q "$WORK/256.want" "$WORK/evil.got" >/dev/null || fail "a command line of the host's did not show"
changed=$({ diff "$WORK/256.want" "$WORK/evil.got" || true; } | awk '$1 == ">" { printf "%s ", $2 }')
[ "$changed" = "9 12 " ] || fail "a command line of the host's changed PCRs $changed, not 9 and 12"
echo "$NAME: passed"
