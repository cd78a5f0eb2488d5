#!/usr/bin/env bash
# Runs a command where the cluster tests run: hack/cluster-namespace.sh COMMAND...
#
# Network: loopback and a bridge with 198.18.0.1/16, no way out. Processes: whatever is left ends with the command.
# Mounts made inside are not seen outside. Temporary files are in memory (etcd 3.4 waits for the disk with every write)
# and go with the command, however it ends.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

if [ "${1:-}" != --inside ]; then
    missing=()
    [ "$(id -u)" = 0 ] || missing+=("root (run it with sudo)")
    command -v bwrap >/dev/null || missing+=("bubblewrap (apt-get install bubblewrap)")
    command -v ip >/dev/null || missing+=("iproute2 (apt-get install iproute2)")
    command -v openssl >/dev/null || missing+=("openssl (apt-get install openssl)")
    if [ ${#missing[@]} != 0 ]; then
        printf -v list '%s, ' "${missing[@]}"
        echo "The cluster tests run real pods in network namespaces; this needs ${list%, }." >&2
        exit 1
    fi
    if ! unshare --net --mount --pid --fork true 2>/dev/null; then
        echo "The cluster tests run in network namespaces; this machine or container lets root make none." >&2
        exit 1
    fi
    TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/fxc.XXXXXX")
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
    code=0
    setpriv --pdeathsig KILL -- unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private -- \
        "$0" --inside "$@" || code=$?
    exit "$code"
fi

shift
ip link set lo up
ip link add flexinfer0 type bridge
ip address add 198.18.0.1/16 dev flexinfer0
ip link set flexinfer0 up
# Addresses of Services: whoever listens on one of them here is reached by every pod.
ip route add local 198.19.0.0/16 dev lo
mount -t tmpfs tmpfs "$TMPDIR"
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
# As a child: this shell is process 1 here, and takes in what others leave behind.
code=0
"$@" || code=$?
exit "$code"
