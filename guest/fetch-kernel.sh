#!/bin/sh
# fetch-kernel.sh DIR: unpacks Debian's cloud kernel into DIR (vmlinuz, modules). It is not installed: that would
# change how this machine boots. Nothing is fetched when DIR has a kernel already.
set -eu
dir=$1
[ ! -e "$dir/vmlinuz" ] || exit 0
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
find_package() {
    apt-cache depends --important linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1
}
package=$(find_package)
if [ -z "$package" ] && [ "$(id -u)" -eq 0 ]; then
    apt-get update -qq || true
    package=$(find_package)
fi
[ -n "$package" ] || {
    echo "fetch-kernel.sh: apt knows no linux-image-cloud-amd64; run 'apt-get update' as root" >&2
    exit 1
}
# apt drops its privileges to a user who must be able to write here.
chmod 755 "$work"
[ "$(id -u)" -ne 0 ] || chown _apt "$work" 2>/dev/null || true
(cd "$work" && apt-get download -q "$package" >/dev/null) || {
    # The lists may be older than what the archive still has.
    [ "$(id -u)" -eq 0 ] && apt-get update -qq && package=$(find_package) &&
        (cd "$work" && apt-get download -q "$package" >/dev/null)
} || {
    echo "fetch-kernel.sh: cannot download $package" >&2
    exit 1
}
deb=$(echo "$work"/*.deb)
dpkg-deb -x "$deb" "$work/root"
release=${package#linux-image-}
rm -rf "$dir/$release"
mv "$work/root/lib/modules/$release" "$dir/$release"
dpkg-deb -f "$deb" Package Version >"$dir/package"
sha256sum "$deb" | cut -d' ' -f1 >>"$dir/package"
echo "$release" >"$dir/release"
mv "$work/root/boot/vmlinuz-$release" "$dir/vmlinuz"
