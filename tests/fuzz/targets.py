"""What is fuzzed: each target takes any bytes and may only answer or refuse with its own errors."""

from __future__ import annotations

import json
import struct

from tests.fuzz.http_targets import HTTP_TARGETS
from tests.fuzz.target import Target
from tests.support import gguf_bytes as build

from flexinfer.artifacts import checkpoint, gguf, memory, safetensors
from flexinfer.errors import ArtifactError
from flexinfer.hardware import nvidia, rocm
from flexinfer.hardware.tools import ToolFailed


class _Counted:
    """A source that knows how much was asked of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked = 0

    def __call__(self, offset: int, count: int) -> bytes:
        assert offset >= 0
        assert count >= 0
        self.asked += min(count, max(len(self._data) - offset, 0))
        return self._data[offset : offset + count]


def _gguf(data: bytes) -> None:
    source = _Counted(data)
    try:
        facts = gguf.read(source, len(data))
    except ArtifactError:
        return
    finally:
        assert source.asked <= 2 * len(data) + 512
    assert facts.tensor_bytes <= len(data)
    assert all(tensor.offset + tensor.size_bytes <= len(data) - facts.data_offset for tensor in facts.tensors)
    assert memory.estimate(facts, memory.Use(context=4096, parallel=2)).total_mib >= 0


def _safetensors(data: bytes) -> None:
    source = _Counted(data)
    try:
        facts = safetensors.read(source, len(data))
    except ArtifactError:
        return
    finally:
        assert source.asked <= 2 * len(data) + 512
    assert facts.data_offset + facts.tensor_bytes == len(data)


def _config(data: bytes) -> None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        model = checkpoint.of_config(found)
        assert memory.estimate_checkpoint(model, 1, memory.Serving(context=4096)).total_mib >= 0


def _nvidia_smi(data: bytes) -> None:
    probe = nvidia.parse(data.decode("utf-8", "replace"), nvidia.Memory(total_mib=1000))
    assert all(device.vram_mib >= 0 for device in probe.devices)


def _rocm_smi(data: bytes) -> None:
    try:
        rocm.parse(data.decode("utf-8", "replace"))
    except ToolFailed:
        return


def _tensors(header: dict[str, object], size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


_MODEL = {
    "block_count": 2, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": [2, 1],
    "attention.sliding_window": 32, "attention.sliding_window_pattern": [1, 0], "ssm.inner_size": 64,
}  # fmt: skip
_CONFIG = json.dumps(
    {
        "model_type": "qwen3_next", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4,
        "head_dim": 16, "num_key_value_heads": 2, "layer_types": ["linear_attention", "full_attention"],
        "sliding_window": 8, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "block_configs": [],
        "hybrid_override_pattern": "", "text_config": None, "no_rope_layers": [1], "mamba_num_heads": 2,
    }
).encode()  # fmt: skip
_ROCM_CARD = {
    "GPU use (%)": "7", "VRAM Total Memory (B)": "25753026560", "Card series": "X", "Unique ID": "0x3d",
    "Temperature (Sensor edge) (C)": "41.0",
}  # fmt: skip
_ROCM = b"W: x\n" + json.dumps({"card0": _ROCM_CARD}).encode()
TARGETS: dict[str, Target] = {
    "gguf": Target(
        _gguf,
        (
            build.llama(_MODEL, [("token_embd.weight", (64, 4), 0, 1024), ("output.weight", (64, 4), 8, 272)]),
            build.whole([build.pair("general.architecture", "mamba"), build.pair("x", ["a", "b"])], [], 0),
        ),
    ),
    "safetensors": Target(
        _safetensors,
        (
            _tensors(
                {
                    "__metadata__": {"format": "pt"},
                    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
                },
                24,
            ),
        ),
    ),
    "config": Target(
        _config,
        (_CONFIG,),
    ),
    "nvidia-smi": Target(
        _nvidia_smi, (b"0, GPU-aa, NVIDIA RTX 4090, 24564, 8.9, 20000, 35, 61, 00000000:01:00.0, [N/A]\n",)
    ),
    "rocm-smi": Target(
        _rocm_smi,
        (_ROCM,),
    ),
    **HTTP_TARGETS,
}
