"""Settings of the manager from its environment: each variable is read, or refused by name with the reason.

The table is what the documentation and the chart are compared with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from flexinfer.api.quantity import Quantity
from flexinfer.errors import InvalidField
from flexinfer.resources.installation import Installation

DOWNLOADS = (
    "HF_ENDPOINT",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_XET",
    "FLEXINFER_OLLAMA_REGISTRY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)

READ: Mapping[str, str] = MappingProxyType(
    {
        "POD_NAMESPACE": "Namespace of FlexInfer's own processes (default: that of the pod)",
        "POD_NAME": "Tells the managers apart in leases and events",
        "FLEXINFER_IMAGE": "FlexInfer's own image, for Jobs, init containers and the simulator",
        "FLEXINFER_IMAGE_PULL_POLICY": "Pull policy of that image",
        "FLEXINFER_IMAGE_PULL_SECRETS": "Names of pull Secrets in the namespaces of Models, with commas between them",
        "DEFAULT_<BACKEND>_IMAGE[_AMD|_CPU|…]": "Image of a backend, for all vendors or for one",
        "DEFAULT_BACKEND_IMAGE": "Image of a ModelDeployment that names no backend",
        "DEFAULT_SHM_SIZE_LIMIT": "Size of /dev/shm in a serving pod with a GPU (default 8Gi)",
        "MODEL_CACHE_PATH": "Where the cache is mounted in every pod and Job (default /models)",
        **dict.fromkeys(DOWNLOADS, "Passed on to the containers that download models"),
        "FLEXINFER_ALLOW_HOST_PATH": "true: cache.strategy Local may use a folder of the node",
        "FLEXINFER_WATCH_NAMESPACES": "Namespaces whose Models are served, with commas between them (default: all)",
        "FLEXINFER_PROXY_SERVICE": "Name of the proxies' Service (default flexinfer-proxy)",
        "FLEXINFER_SCHEDULER_NAME": "Scheduler of serving pods (default: the cluster's own)",
        "FLEXINFER_LABEL_PREFIX": "Prefix of the node labels of our agent (default flexinfer.ai)",
        "FLEXINFER_CLUSTER_DOMAIN": "Domain of the cluster's names (default cluster.local)",
        "FLEXINFER_ALLOW_UPSTREAM": "Addresses (CIDR) that external Models may use, with commas between them",
        "FLEXINFER_MODEL_ACCESS": "Who may reach serving pods: namespace, proxies or cluster (default: no policies)",
        "FLEXINFER_API_KEYS_SECRET": "Secret of the proxies' keys, made with a first one where absent (default: none)",
        "METRICS_BIND_ADDRESS": "Where /metrics is served (default :8080)",
        "HEALTH_PROBE_BIND_ADDRESS": "Where /healthz and /readyz are served (default :8081)",
        "LEADER_ELECT": "false: this is the only manager and needs no lease (default true)",
    }
)
"""Variable -> what it says."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "ENABLE_WEBHOOKS": "there is no webhook: every rule is in the CustomResourceDefinitions",
        "FLEXINFER_RUNTIME_IMAGE": "engines run in pods of their own, there is no persistent runtime",
        "FLEXINFER_OTEL_ENABLED": "there is no OpenTelemetry exporter; scrape /metrics",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "there is no OpenTelemetry exporter; scrape /metrics",
        "FLEXINFER_SHM_CAPACITY_BYTES": "no memory of a node is shared between pods; DEFAULT_SHM_SIZE_LIMIT is per pod",
        "BENCHMARK_SERVICE_ACCOUNT": "nothing is benchmarked yet",
        "FLEXINFER_QUANTIZER_<FORMAT>_IMAGE": "nothing is quantized yet",
        "FLEXINFER_MODEL_TOOLS_IMAGE": "downloads run FlexInfer's own image, FLEXINFER_IMAGE",
        "FLEXINFER_VALIDATOR_IMAGE": "downloads are checked by FlexInfer's own image, FLEXINFER_IMAGE",
        "FLEXINFER_PUBLISH_IMAGE": "nothing is published to a registry yet",
        "DEFAULT_FLASH_LOADER_*": "spec.cache.flashLoader has no effect yet",
    }
)
"""Variables of earlier systems that can have no effect, with the reason; `<…>` and `*` stand for any words."""

_FALSE, _TRUE = frozenset({"", "0", "false", "no", "off"}), frozenset({"1", "true", "yes", "on"})
_WORDS = re.compile(r"<\w+>|\*")
_IMAGE = re.compile(r"DEFAULT_[A-Z0-9_]+_IMAGE(_[A-Z0-9]+)?")
_DEFAULTS = Installation()


def refused(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that is set and cannot have the effect that its name promises."""
    return [
        f"{given}: {why}"
        for name, why in REFUSED.items()
        for given, value in sorted(environment.items())
        if re.fullmatch(_WORDS.sub("[A-Z0-9_]+", name), given) and value.lower() not in _FALSE
    ]


def installation(environment: Mapping[str, str]) -> Installation:
    """Raises InvalidField, with the name of the variable."""
    given = environment.get
    cache_path = given("MODEL_CACHE_PATH") or _DEFAULTS.cache_path
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", cache_path) or "/../" in f"{cache_path}/":
        raise InvalidField("MODEL_CACHE_PATH", cache_path, "an absolute path")
    shm = given("DEFAULT_SHM_SIZE_LIMIT") or str(_DEFAULTS.shm_limit)
    try:
        shm_limit = Quantity(shm)
    except ValueError as error:
        raise InvalidField("DEFAULT_SHM_SIZE_LIMIT", shm, str(error)) from None
    return Installation(
        namespace=given("POD_NAMESPACE") or _DEFAULTS.namespace,
        image=given("FLEXINFER_IMAGE", ""),
        pull_policy=given("FLEXINFER_IMAGE_PULL_POLICY", ""),
        pull_secrets=_names(environment, "FLEXINFER_IMAGE_PULL_SECRETS"),
        images={name: value for name, value in environment.items() if value and _IMAGE.fullmatch(name)},
        allow_host_path=switch(environment, "FLEXINFER_ALLOW_HOST_PATH", default=False),
        cache_path=cache_path,
        download_env={name: environment[name] for name in DOWNLOADS if environment.get(name)},
        shm_limit=shm_limit,
        label_prefix=given("FLEXINFER_LABEL_PREFIX") or _DEFAULTS.label_prefix,
        scheduler_name=given("FLEXINFER_SCHEDULER_NAME", ""),
        watch_namespaces=_names(environment, "FLEXINFER_WATCH_NAMESPACES"),
        cluster_domain=given("FLEXINFER_CLUSTER_DOMAIN") or _DEFAULTS.cluster_domain,
        proxy_service=given("FLEXINFER_PROXY_SERVICE") or _DEFAULTS.proxy_service,
        upstream_cidrs=_names(environment, "FLEXINFER_ALLOW_UPSTREAM"),
        model_access=_model_access(given("FLEXINFER_MODEL_ACCESS", "")),
    )


def _model_access(text: str) -> str:
    if text not in ("", "namespace", "proxies", "cluster"):
        raise InvalidField("FLEXINFER_MODEL_ACCESS", text, "namespace, proxies or cluster")
    return text


def switch(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Raises InvalidField for what is neither yes nor no."""
    text = environment.get(name, "").lower()
    if not text:
        return default
    if text not in _FALSE | _TRUE:
        raise InvalidField(name, environment[name], "true or false")
    return text in _TRUE


def _names(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in environment.get(name, "").split(",") if part.strip())
