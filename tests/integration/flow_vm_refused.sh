# VMs that are not what was signed for release, each with real QEMU, OVMF and swtpm: a changed command line, a
# changed initramfs, a TPM that no enrolled host certifies. The verifier refuses, and `coffer explain` names what differs.
BACKEND=vtpm
. "$(dirname "$0")/lib.sh"

GUEST=$COFFER_BUILD/guest
[ -e "$GUEST/coffer.efi" ] || {
    echo "$NAME: SKIPPED: this build made no guest image"
    exit 77
}
sizes=(--set launcher.slots=2 --set launcher.cpu-millis=4000 --set launcher.memory-bytes=4294967296)

# refused CLAUSE TEXT [coffer dev options]: a job in a stack with these ends refused for that.
refused() {
    local clause=$1 text=$2
    shift 2
    start_dev "${sizes[@]}" "$@"
    if [ -z "${GRANT:-}" ]; then
        set_up
        set_up_admissions
    fi
    run_job 5 "$WORK/none"
    coffer explain "$JOB" --json >"$WORK/explain.json"
    jq -e --arg c "$clause" '.state == "refused" and (.reason.clause | startswith($c))' "$WORK/explain.json" >/dev/null ||
        fail "expected a refusal for $clause: $(cat "$WORK/explain.json")"
    jq -r '.reason.message' "$WORK/explain.json" | tee "$WORK/message"
    grep -qF -- "$text" "$WORK/message" || fail "the reason does not name \"$text\""
    stop_dev
}
# A copy of the image in which the first FROM is TO, of the same length; the reference values stay.
changed() {
    rm -rf "$WORK/guest"
    mkdir "$WORK/guest"
    cp "$GUEST/OVMF.fd" "$GUEST/refvals.json" "$WORK/guest"
    LC_ALL=C sed "s/$1/$2/" "$GUEST/coffer.efi" >"$WORK/guest/coffer.efi"
    ! cmp -s "$GUEST/coffer.efi" "$WORK/guest/coffer.efi" || fail "the image is not changed"
}

say "another command line in the image"
changed 'quiet loglevel=1 ' 'quiet loglevel=2 '
refused "evidence.pcr[9]" "command line" --set "launcher.guest-image=$WORK/guest"

say "another initramfs in the image: one byte behind its end"
rm -rf "$WORK/guest"
mkdir "$WORK/guest"
cp "$GUEST/OVMF.fd" "$GUEST/refvals.json" "$GUEST/coffer.efi" "$WORK/guest"
printf 'x' | dd of="$WORK/guest/coffer.efi" bs=1 seek=$(($(stat -c %s "$GUEST/coffer.efi") - 1)) conv=notrunc status=none
if cmp -s "$GUEST/coffer.efi" "$WORK/guest/coffer.efi"; then fail "the image is not changed"; fi
refused "evidence.pcr[4]" "unified kernel image" --set "launcher.guest-image=$WORK/guest"

say "a TPM certified by the CA of a host that is not enrolled"
mkdir -m 700 "$WORK/other-ca"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$WORK/other-ca/signkey.pem" \
    -out "$WORK/other-ca/issuercert.pem" -days 30 -subj "/CN=A host nobody enrolled" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
refused "evidence.ek_certs" "an enrolled host" --set "launcher.tpm-ca=$WORK/other-ca"
