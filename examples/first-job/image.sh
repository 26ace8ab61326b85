#!/bin/sh
# image.sh DIR: an OCI image DIR:latest of nothing but Debian's static busybox, made with umoci. Its
# layers are not encrypted yet: `coffer image encrypt` does that.
set -eu
dir=${1:?usage: image.sh DIR}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/bin"
cp /bin/busybox "$root/bin/busybox"
for program in sh awk cat head sort wc; do ln -s busybox "$root/bin/$program"; done
umoci init --layout "$dir"
umoci new --image "$dir:latest"
umoci insert --image "$dir:latest" "$root/bin" /bin
umoci config --image "$dir:latest" --config.env PATH=/bin
