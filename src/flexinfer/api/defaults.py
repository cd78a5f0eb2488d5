"""Defaults that depend on other fields, resolved on reading and never written back; and the fields that do not act yet.

A Model in the store holds what its user wrote. Whoever decides works on `resolve(model.spec)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from flexinfer.api import wellknown
from flexinfer.api.quantity import Duration
from flexinfer.api.v1alpha2.model import (
    GPU,
    SLO,
    Cache,
    CacheStrategy,
    Capabilities,
    KVCache,
    LiteLLM,
    ModelSpec,
    Serverless,
)

LLM_IDLE_TIMEOUT = Duration("5m")
IMAGE_IDLE_TIMEOUT = Duration("10m")


def resolve(spec: ModelSpec) -> ModelSpec:
    """The spec with every default filled in that follows from another field. `spec` stays as it is."""
    backend = wellknown.backend_name(spec.backend)
    return msgspec.structs.replace(
        spec,
        backend=backend,
        gpu=_gpu(spec.gpu),
        serverless=_serverless(spec.serverless, backend),
        cache=_cache(spec),
        kv_cache=_kv_cache(spec.kv_cache),
        capabilities=_capabilities(spec, backend),
    )


def _gpu(gpu: GPU | None) -> GPU | None:
    """`count` is 0 with vendor cpu, otherwise 1; without `gpu` the model runs on CPU."""
    if gpu is None or gpu.count is not None:
        return gpu
    return msgspec.structs.replace(gpu, count=0 if gpu.vendor == "cpu" else 1)


def _serverless(serverless: Serverless, backend: str) -> Serverless:
    if serverless.idle_timeout is not None:
        return serverless
    slow = backend in wellknown.IMAGE_BACKENDS
    return msgspec.structs.replace(serverless, idle_timeout=IMAGE_IDLE_TIMEOUT if slow else LLM_IDLE_TIMEOUT)


def cache_strategy(spec: ModelSpec) -> CacheStrategy:
    return spec.cache.strategy or ("Memory" if _shares_gpu(spec) else "SharedPVC")


def _shares_gpu(spec: ModelSpec) -> bool:
    return spec.gpu is not None and spec.gpu.shared != ""


def _cache(spec: ModelSpec) -> Cache:
    cache = spec.cache
    shared = _shares_gpu(spec)
    strategy = cache_strategy(spec)
    compilation, flash = cache.compilation_cache, cache.flash_loader
    if compilation.enabled is None:
        amd = spec.gpu is not None and spec.gpu.vendor == "amd"
        compilation = msgspec.structs.replace(compilation, enabled=shared and amd)
    if flash.enabled is None:
        flash = msgspec.structs.replace(flash, enabled=shared and strategy == "Local")
    return msgspec.structs.replace(cache, strategy=strategy, compilation_cache=compilation, flash_loader=flash)


def _kv_cache(kv_cache: KVCache) -> KVCache:
    """`swapSpace` is the old name of `hostTierGiB`."""
    if kv_cache.host_tier_gib is not None or kv_cache.swap_space is None:
        return kv_cache
    return msgspec.structs.replace(kv_cache, host_tier_gib=kv_cache.swap_space)


def _capabilities(spec: ModelSpec, backend: str) -> Capabilities:
    given = spec.capabilities
    llamacpp = backend == "llamacpp"
    calls_tools = backend in ("vllm", "ollama") or (llamacpp and bool(spec.config.get("jinja")))
    sees = llamacpp and bool(spec.config.get("mmproj"))
    return Capabilities(
        tool_calling=calls_tools if given.tool_calling is None else given.tool_calling,
        vision=sees if given.vision is None else given.vision,
        image_generation=backend in wellknown.IMAGE_BACKENDS
        if given.image_generation is None
        else given.image_generation,
    )


def _source_acts(spec: ModelSpec) -> bool:
    """Files, addresses, repositories of the hub, and names that the engine itself fetches."""
    scheme, separator, _ = spec.source.partition("://")
    if not separator or scheme in ("HF", "hf"):
        return True
    if scheme == "ollama":
        return wellknown.backend_name(spec.backend) == "ollama"
    return scheme in ("file", "http", "https", "pvc")


def _is_vllm(spec: ModelSpec) -> bool:
    return wellknown.backend_name(spec.backend) == "vllm"


EFFECTIVE: Mapping[str, bool | Callable[[ModelSpec], bool]] = MappingProxyType(
    {
        "backend": True,
        "source": _source_acts,
        "replicas": True,
        "gpu.vendor": True,
        "gpu.shared": False,
        "gpu.priority": False,
        "gpu.count": True,
        "gpu.vramEstimateMB": True,
        "gpu.swapCooldown": False,
        "gpu.forcePromotion": False,
        "serverless.enabled": True,
        "serverless.minReplicas": True,
        "serverless.maxReplicas": True,
        "serverless.targetInFlight": True,
        "serverless.idleTimeout": True,
        "serverless.coldStartTimeout": True,
        "slo.minTokensPerSecond": False,
        "benchmark.enabled": False,
        "benchmark.warmupIterations": False,
        "benchmark.minDuration": False,
        "benchmark.iterations": False,
        "benchmark.batchSize": False,
        "cache.strategy": True,
        "cache.pvcName": True,
        "cache.storageClass": True,
        "cache.size": True,
        "cache.retain": True,
        "cache.hostPath": True,
        "cache.compilationCache.enabled": False,
        "cache.compilationCache.hostPath": False,
        "cache.compilationCache.sizeLimit": False,
        "cache.flashLoader.enabled": False,
        "cache.flashLoader.concurrency": False,
        "cache.flashLoader.tmpfsSizeLimit": False,
        "cache.flashLoader.bufferSizeKB": False,
        "cache.flashLoader.verifyIntegrity": False,
        "cache.flashLoader.image": False,
        "secretRef": True,
        "config": True,
        "resources.limits": True,
        "resources.requests": True,
        "nodeSelector": True,
        "tolerations": True,
        "litellm.enabled": True,
        "litellm.servedModelName": True,
        "litellm.aliases": True,
        "litellm.copilotAlias": True,
        "serviceLabels": True,
        "kvCache.pressurePolicy": False,
        "kvCache.highWatermark": False,
        "kvCache.lowWatermark": False,
        "kvCache.maxBlockSize": _is_vllm,
        "kvCache.hostTierGiB": _is_vllm,
        "kvCache.swapSpace": _is_vllm,
        "kvCache.reconfigureCooldown": False,
        "capabilities.toolCalling": True,
        "capabilities.vision": True,
        "capabilities.imageGeneration": True,
        "quantize": False,
        "image": True,
        "imageDigest": True,
    }
)
"""Does a field act? Every field of the spec stands here; a function says it where that depends on the spec.

What means nothing on one machine acts in a cluster; who runs Models on one machine names those fields.
"""


def not_yet_effective(spec: ModelSpec) -> tuple[str, ...]:
    """The fields that are set to something else than their default and do not act yet (`spec.gpu.shared`, …).

    A store writes defaults into the object, so a field counts by its value, not by being there.
    """
    dormant = [path for path, acts in EFFECTIVE.items() if acts is not True and not (callable(acts) and acts(spec))]
    return changed(spec, dormant)


def changed(spec: ModelSpec, paths: Iterable[str]) -> tuple[str, ...]:
    """Those of the fields that are set to something else than their default, as a manifest names them."""
    return tuple(f"spec.{path}" for path in paths if _at(spec, _ATTRIBUTES[path]) not in (None, _USUAL[path]))


def _at(node: Any, attributes: tuple[str, ...]) -> Any:
    """None where nothing stands there."""
    for name in attributes:
        if node is None:
            return None
        node = getattr(node, name)
    return node


def _attributes(path: str) -> tuple[str, ...]:
    """`gpu.vramEstimateMB` -> `gpu`, `vram_estimate_mb`."""
    node: Any = _PLAIN
    found: list[str] = []
    for name in path.split("."):
        found.append(next(field.name for field in msgspec.structs.fields(node) if field.encode_name == name))
        node = getattr(node, found[-1])
    return tuple(found)


_PLAIN = ModelSpec(backend="", source="", gpu=GPU(), slo=SLO(), litellm=LiteLLM())
"""A spec in which nothing is set."""
_ATTRIBUTES = {path: _attributes(path) for path in EFFECTIVE}
_USUAL = {path: _at(_PLAIN, attributes) for path, attributes in _ATTRIBUTES.items()}
