"""The installations that the chart's tests render, each in the words of a values file."""

from __future__ import annotations

from typing import Any

VALUE_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "tenants": {
        "watchNamespaces": ["team-a", "team-b"],
        "modelAccess": "proxies",
        "crds": {"install": False},
        "controller": {"replicas": 1, "leaderElect": False},
    },
    "manager_alone": {
        "proxy": {"enabled": False},
        "controller": {"replicas": 1, "leaderElect": False, "serviceAccount": {"create": False, "name": "mine"}},
    },
    "proxies_alone": {"controller": {"enabled": False}},
    "open_and_plain": {
        "proxy": {"apiKeys": {"enabled": False}, "replicas": 1, "service": {"type": "LoadBalancer", "port": 8000}},
        "networkPolicy": {"enabled": False},
        "crds": {"keep": False},
    },
    "everything_said": {
        "fullnameOverride": "inference",
        "image": {"repository": "harbor.lan/library/flexinfer", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
        "imagePullSecrets": ["harbor"],
        "watchNamespaces": ["team-a"],
        "modelAccess": "namespace",
        "allowHostPath": True,
        "clusterDomain": "lan",
        "allowUpstream": ["10.0.0.0/8", "192.168.1.7/32"],
        "crds": {"install": False},
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "apiFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        },
        "models": {
            "cachePath": "/var/cache/models",
            "defaultBackendImage": "harbor.lan/ollama:0.13",
            "images": {"DEFAULT_VLLM_IMAGE_AMD": "harbor.lan/vllm:rocm"},
            "downloadEnv": {"HF_ENDPOINT": "http://hub.lan", "FLEXINFER_OLLAMA_REGISTRY": "http://registry.lan"},
            "schedulerName": "gpu-scheduler",
            "labelPrefix": "gpu.lan",
        },
        "mlcllm": {"image": "harbor.lan/mlc:1"},
        "controller": {
            "replicas": 3,
            "metricsBindAddress": "0.0.0.0:9080",
            "healthProbeBindAddress": ":9081",
            "image": "harbor.lan/library/flexinfer:manager",
            "extraArgs": ["--controllers=model"],
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "runtime": {"shmSizeLimit": "16Gi"},
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
            "podAnnotations": {"a": "b"},
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "system-cluster-critical",
        },
        "proxy": {
            "image": "harbor.lan/library/flexinfer:proxy",
            "extraArgs": ["--access-log"],
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "service": {"annotations": {"a": "b"}, "type": "NodePort"},
            "apiKeys": {"secretName": "keys-of-mine"},
            "maxQueueSize": 7,
            "gracefulShutdown": {"drainDelay": "1s", "timeout": "2m", "terminationGracePeriodSeconds": 150},
            "serviceAccount": {"create": False, "name": "proxies"},
            "podAnnotations": {"a": "b"},
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"podAffinity": {}},
            "priorityClassName": "high",
        },
    },
}
