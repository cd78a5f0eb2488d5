"""What engines that read a checkpoint share: where it lies, how devices split it, what memory it takes."""

from __future__ import annotations

from typing import NamedTuple

from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts.memory import Memory
from flexinfer.backends import config
from flexinfer.backends.base import Site
from flexinfer.backends.config import integer
from flexinfer.errors import InvalidField

PIPELINE = integer("pipelineParallelSize", "Stages that spec.gpu.count devices are cut into (default 1)", minimum=1)


class Split(NamedTuple):
    """How many devices compute one layer together, and how many groups of them follow each other."""

    tensor: int
    pipeline: int


def location(model: Model, site: Site) -> str:
    """A folder, or the name that a hub knows. Raises InvalidField where there is neither."""
    found = site.artifact.path or site.artifact.model_id
    if not found:
        raise InvalidField("spec.source", model.spec.source, "a checkpoint: HF://org/name or file:///folder")
    return found


def count(model: Model, site: Site) -> int:
    """Devices of one replica; 1 without a GPU."""
    gpu = model.spec.gpu
    asked = gpu.count if gpu is not None and gpu.vendor != "cpu" and gpu.count is not None else 1
    return len(site.devices) or asked


def split(model: Model, site: Site) -> Split:
    """Raises InvalidField for a pipeline that does not divide the devices."""
    devices = count(model, site)
    pipeline = int(config.value(model.spec.config, PIPELINE, 1))
    if devices % pipeline:
        expected = f"a divisor of spec.gpu.count, which is {devices}"
        raise InvalidField(f"spec.config.{PIPELINE.name}", pipeline, expected)
    return Split(tensor=devices // pipeline, pipeline=pipeline)


def memory(site: Site, share: float) -> Memory:
    """Weights as they lie on disk; the engine takes its share of the devices for the KV cache, whatever is left."""
    weights = -(-site.artifact.size_bytes // 2**20)
    budget = int(share * sum(device.vram_mib for device in site.devices))
    return Memory(weights_mib=weights, kv_cache_mib=max(budget - weights, 0))


def shm_mib(devices: int) -> int:
    """What the documents of vLLM and SGLang give one process, and several that exchange tensors."""
    return 10_240 if devices > 1 else 1_024


def names(model: Model, further: str) -> tuple[str, ...]:
    """Every name that a client may call the model by; the Model's own comes first."""
    litellm = model.spec.litellm
    found = [model.metadata.name, further]
    if litellm is not None:
        found += [litellm.served_model_name, *litellm.aliases, litellm.copilot_alias]
    return tuple(dict.fromkeys(name for name in found if name))
