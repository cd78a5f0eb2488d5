#!/usr/bin/env bash
# Makes the chart's archive and the index.yaml of a repository: hack/helm-package.sh [FOLDER] (dist/charts)
#
# URL is where the folder will be served; without it the index names the archive alone, which is as good beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-dist/charts}
helm=$(type -P helm) || helm=$(hack/helm.sh)
mkdir -p "$folder"
"$helm" package charts/flexinfer --destination "$folder"
"$helm" repo index "$folder" ${URL:+--url "$URL"}
echo "$folder/index.yaml"
