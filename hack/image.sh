#!/usr/bin/env bash
# Builds or pushes the image: hack/image.sh docker-build|docker-push IMG. With docker, or podman where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?usage: hack/image.sh docker-build|docker-push IMG}
image=${2:-}

fail() {
    echo "make $what: $1" >&2
    exit 1
}

[ -n "$image" ] || fail "IMG=registry/name:tag says which image"
engine=$(type -P docker || type -P podman) || fail "there is no docker and no podman on PATH"
said=$("$engine" info 2>&1) || fail "$(basename "$engine") does not answer: $(tail -n 1 <<<"$said")"
case $what in
    docker-build) exec "$engine" build --tag "$image" . ;;
    docker-push) exec "$engine" push "$image" ;;
    *) fail "there is no such thing" ;;
esac
