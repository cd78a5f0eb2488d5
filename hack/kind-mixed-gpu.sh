#!/usr/bin/env bash
# Gives the nodes of hack/kind-mixed-gpu.yaml their pretend GPUs, and the cluster its RuntimeClass. Usage, once after
# kind create cluster --config hack/kind-mixed-gpu.yaml:      hack/kind-mixed-gpu.sh
#
# Nodes without the label flexinfer.test/gpus are left alone. No GPU is there: pods that ask for one are placed and
# start, and what they run finds none.
set -euo pipefail

kubectl apply -f - <<YAML
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: nvidia}
handler: nvidia
YAML

for vendor in nvidia amd; do
    present=$([ $vendor = nvidia ] && echo nvidia.com/gpu.present || echo feature.node.kubernetes.io/amd-gpu)
    kubectl get nodes -l "$present=true,flexinfer.test/gpus" -o "jsonpath={range .items[*]}{.metadata.name} {.metadata.labels.flexinfer\.test/gpus}{'\n'}{end}" |
        while read -r node gpus; do
            kubectl patch node "$node" --subresource=status --type=merge \
                -p "{\"status\":{\"capacity\":{\"$vendor.com/gpu\":\"$gpus\"},\"allocatable\":{\"$vendor.com/gpu\":\"$gpus\"}}}"
        done
done
kubectl get nodes -L flexinfer.test/card,flexinfer.test/gpus
