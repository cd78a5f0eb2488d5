#!/usr/bin/env bash
# Builds helm for the tests of the chart, once. Usage: hack/helm.sh
#
# The last line on standard output is the program; progress goes to standard error. It has a Go module of its own,
# so that another version of it builds no control plane anew. Where FLEXINFER_HELM names a helm, that is used as it is.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
sources=$root/hack/helm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/flexinfer/cluster-tools

if [ -n "${FLEXINFER_HELM:-}" ] && [ -x "$FLEXINFER_HELM" ]; then
    echo "$FLEXINFER_HELM"
    exit 0
fi
export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0
mkdir -p "$cache"
go=$("$root/hack/go.sh")
key=$({ cat "$sources/go.mod" "$sources/go.sum"; "$go" env GOVERSION; } | sha256sum | cut -c 1-12)
folder=$cache/helm-$key
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
if [ ! -x "$folder/helm" ]; then
    module() { (cd "$sources" && "$go" list -m -f '{{.Version}}' "$1"); }
    version=$(module helm.sh/helm/v3)
    echo "==> building helm $version into $folder: about 3 minutes on 2 cores, once" >&2
    # The Kubernetes that `helm template` renders for, as helm's own build has it.
    IFS=. read -r _ minor _ <<<"$(module k8s.io/client-go)"
    libraries="-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor"
    libraries+=" -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$minor"
    (cd "$sources" && nice "$go" build -trimpath -o "$folder/.helm" \
        -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$version $libraries" helm.sh/helm/v3/cmd/helm) >&2
    mv "$folder/.helm" "$folder/helm"
fi
echo "$folder/helm"
