#!/bin/sh
# build-image.sh COFFER WORKER DIR: the guest image of a build tree, in DIR, of Debian's kernel and this tree's worker.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/fetch-kernel.sh" "$3/kernel"
release=$(cat "$3/kernel/release")
exec "$1" image build --out "$3" --worker "$2" --kernel "$3/kernel/vmlinuz" --modules "$3/kernel/$release" \
    --modules-list "$here/modules.list" --lock "$here/packages.lock" --linked "$(cc -print-file-name=libarchive.a)"
