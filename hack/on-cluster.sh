#!/usr/bin/env bash
# What make does with the cluster of the current kubeconfig: hack/on-cluster.sh install|uninstall|deploy|undeploy|run
#
#   install    the CustomResourceDefinitions; uninstall removes them, and every Model with them
#   deploy     the chart of this checkout, with the image IMG; undeploy removes it, the definitions stay
#   run        the manager, on this machine
# NAMESPACE is flexinfer-system unless it is set. ARGS goes to helm, or to the manager.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?usage: hack/on-cluster.sh install|uninstall|deploy|undeploy|run}
namespace=${NAMESPACE:-flexinfer-system}

fail() {
    echo "make $what: $1" >&2
    exit 1
}

command -v kubectl >/dev/null || fail "kubectl is not on PATH"
said=$(kubectl version --request-timeout=5s 2>&1) || fail "no cluster answers: $(tail -n 1 <<<"$said")"
helm() {
    local program
    program=$(type -P helm) || program=$(hack/helm.sh) || fail "there is no helm, and none could be built"
    "$program" "$@"
}

read -r -a words <<<"${ARGS:-}"
case $what in
    install) kubectl apply --server-side --force-conflicts -f config/crd ;;
    uninstall) kubectl delete --ignore-not-found -f config/crd ;;
    deploy)
        image=${IMG:-}
        [ -n "$image" ] || fail "IMG=registry/name:tag says which image"
        [[ ${image##*/} == *:* ]] || fail "IMG=$image has no tag"
        helm upgrade --install flexinfer charts/flexinfer --namespace "$namespace" --create-namespace \
            --set-string "image.repository=${image%:*},image.tag=${image##*:}" "${words[@]}"
        ;;
    undeploy) helm uninstall flexinfer --namespace "$namespace" --ignore-not-found ;;
    run)
        [ -x .venv/bin/flexinfer ] || fail "make setup comes first"
        POD_NAMESPACE=$namespace LEADER_ELECT=false exec .venv/bin/flexinfer manager "${words[@]}"
        ;;
    *) fail "there is no such thing" ;;
esac
