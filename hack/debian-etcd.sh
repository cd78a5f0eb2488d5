#!/usr/bin/env bash
# Prints the etcd of the etcd-server package (Debian: 3.4), unpacked into the cache and not installed.
# Prints nothing where apt has no such package: the one that is built with the control plane does then.
set -euo pipefail
folder=${XDG_CACHE_HOME:-$HOME/.cache}/flexinfer/cluster-tools/etcd-server
if [ ! -x "$folder/usr/bin/etcd" ]; then
    mkdir -p "$folder"
    cd "$folder"
    apt-get download -qq etcd-server >/dev/null 2>&1 || { echo "debian-etcd: apt has no etcd-server here" >&2; exit 0; }
    dpkg-deb -x etcd-server_*.deb .
    rm etcd-server_*.deb
fi
echo "$folder/usr/bin/etcd"
