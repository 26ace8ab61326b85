#!/usr/bin/env bash
# From `coffer run` to the released result in a measured VM, phase by phase, and the ratio of "launch to keys" to
# the bare boot of the same kernel on the same machine (firmware and TPM too) with a first process that only
# switches off. Usage: bench/launch.sh [RUNS]; needs the release build, as root.
set -euo pipefail
runs=${1:-5}
cd "$(dirname "$0")/.."
export COFFER_BUILD=$PWD/build/release BACKEND=vtpm
. tests/integration/lib.sh
[ -e "$COFFER_BUILD/guest/coffer.efi" ] || { echo "launch: no guest image in $COFFER_BUILD" >&2; exit 77; }

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

kernel=$COFFER_BUILD/guest/kernel
coffer image build --out "$WORK/bare" --worker "$COFFER_BUILD/bench/bench_empty_init" --kernel "$kernel/vmlinuz" \
    --modules "$kernel/$(cat "$kernel/release")" --modules-list "$SOURCE/guest/modules.list" >/dev/null 2>&1
bare_boot() {
    local start
    start=$(now_ms)
    mkdir "$WORK/tpm"
    swtpm_setup --tpm2 --tpmstate "$WORK/tpm" --pcr-banks sha256 >/dev/null 2>&1
    swtpm socket --tpm2 --tpmstate dir="$WORK/tpm" --ctrl type=unixio,path="$WORK/tpm/sock" &
    while [ ! -S "$WORK/tpm/sock" ]; do sleep 0.01; done
    timeout 120 qemu-system-x86_64 -M q35,smm=off,usb=off,vmport=off,sata=off,smbus=off,i8042=off,graphics=off \
        -accel tcg -cpu qemu64,+rdrand,+aes,+pclmulqdq,+ssse3,+sse4.1,+sse4.2,+popcnt -m 256 -display none -vga none \
        -no-reboot -nodefaults -serial null -bios "$WORK/bare/OVMF.fd" -kernel "$WORK/bare/coffer.efi" \
        -chardev socket,id=tpm,path="$WORK/tpm/sock" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0 \
        >/dev/null 2>&1
    rm -rf "$WORK/tpm"
    echo $(($(now_ms) - start))
}
for _ in $(seq "$runs"); do bare_boot; done >"$WORK/bare-ms"
bare=$(median <"$WORK/bare-ms")

start_dev --set launcher.slots=1 --set launcher.cpu-millis=2000 --set launcher.memory-bytes=2147483648
set_up
set_up_admissions
# Milliseconds from the event of state or detail $2 to that of $3.
between() { jq --arg a "$2" --arg b "$3" '[.events[] | {at: .at_ms, of: [.state, .detail]}] as $v |
    ([$v[] | select(.of | index($b))][0].at) - ([$v[] | select(.of | index($a))][0].at)' "$1"; }
for i in $(seq "$runs"); do
    start=$(now_ms)
    run_job 0 "$WORK/out-$i"
    echo $(($(now_ms) - start)) >>"$WORK/total-ms"
    coffer events "$JOB" --json >"$WORK/events-$i.json"
    between "$WORK/events-$i.json" launching booted >>"$WORK/boot-ms"
    between "$WORK/events-$i.json" booted attested >>"$WORK/attest-ms"
    between "$WORK/events-$i.json" running released >>"$WORK/run-ms"
    between "$WORK/events-$i.json" launching running >>"$WORK/keys-ms"
done
stop_dev
keys=$(median <"$WORK/keys-ms")
for what in total boot attest run keys; do
    printf 'launch: %-7s median %6d ms of %d runs\n' $what "$(median <"$WORK/$what-ms")" "$runs"
done
printf 'launch: bare boot of the same kernel %d ms; launch to keys %d ms: ratio %s (aim 1.5)\n' "$bare" "$keys" \
    "$(awk "BEGIN { printf \"%.2f\", $keys / $bare }")"
