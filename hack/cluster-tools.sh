#!/usr/bin/env bash
# Builds the control plane that the cluster tests run on. Usage: hack/cluster-tools.sh [LINE]   (LINE: 1.36, 1.34)
#
# The last line on standard output is the folder of etcd, kube-apiserver, kube-controller-manager, kube-scheduler
# and kubectl; progress goes to standard error. Each binary appears whole or not at all, and what is there already
# is not built again. Where KUBEBUILDER_ASSETS names a folder that has all five, it is used as it is, unless a
# LINE is given and that is another one.
set -euo pipefail
line=${1:-1.36}
root=$(cd "$(dirname "$0")/.." && pwd)
sources=$root/hack/cluster-tools/$line
cache=${XDG_CACHE_HOME:-$HOME/.cache}/flexinfer/cluster-tools
python=${PYTHON:-python3}
binaries=(kube-apiserver kube-controller-manager kube-scheduler kubectl etcd)

say() { printf '%s\n' "$*" >&2; }

has_all() {
    local binary
    for binary in "${binaries[@]}"; do [ -x "$1/$binary" ] || return 1; done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ] && has_all "$KUBEBUILDER_ASSETS"; then
    version=$("$KUBEBUILDER_ASSETS/kube-apiserver" --version)
    if [ -z "${1:-}" ] || [[ $version == "Kubernetes v$line."* ]]; then
        echo "$KUBEBUILDER_ASSETS"
        exit 0
    fi
    say "cluster-tools: KUBEBUILDER_ASSETS has $version, not $line"
fi
if [ ! -f "$sources/go.mod" ]; then
    lines=("$root"/hack/cluster-tools/*/)
    lines=("${lines[@]%/}")
    say "cluster-tools: there is no line '$line'; there are: ${lines[*]##*/}"
    exit 2
fi

package_of() {
    case $1 in
        etcd) echo go.etcd.io/etcd/server/v3 ;;
        *) echo "k8s.io/kubernetes/cmd/$1" ;;
    esac
}

# build BINARY FLAGS: says every half minute that it is still at it.
build() {
    local binary=$1 flags=$2 started=$SECONDS compiler said=0
    (cd "$sources" && exec "$go" build -trimpath -ldflags "$flags" -o "$folder/.$binary" "$(package_of "$binary")") >&2 &
    compiler=$!
    while kill -0 "$compiler" 2>/dev/null; do
        sleep 1
        if ((SECONDS - started >= said + 30)); then
            said=$((SECONDS - started))
            say "    $binary: $said s"
        fi
    done
    wait "$compiler"
    mv "$folder/.$binary" "$folder/$binary"
    say "    $binary: built in $((SECONDS - started)) s"
}

export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0
mkdir -p "$cache"
go=$("$root/hack/go.sh")
key=$({ cat "$sources/go.mod" "$sources/go.sum"; "$go" env GOVERSION; } | sha256sum | cut -c 1-12)
folder=$cache/$line-$key
mkdir -p "$folder"
if has_all "$folder" && [ -e "$folder/.proved" ]; then
    echo "$folder"
    exit 0
fi

# Two builds at once would only take twice as long.
exec 9>"$folder/.lock"
flock 9
if ! has_all "$folder"; then
    version=$(cd "$sources" && "$go" list -m -f '{{.Version}}' k8s.io/kubernetes)
    IFS=. read -r major minor _ <<<"${version#v}"
    stamp=k8s.io/component-base/version
    flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor"
    say "==> building Kubernetes $version and etcd into $folder: about 10 minutes on 2 cores, once"
    for binary in "${binaries[@]}"; do
        [ -x "$folder/$binary" ] || build "$binary" "$flags"
    done
fi
say "==> applying objects on the new control plane"
(cd "$root" && "$python" -m tests.support.cluster.proof "$folder") >&2
touch "$folder/.proved"
echo "$folder"
