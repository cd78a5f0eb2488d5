"""QuantizationSpec: embedded in Model (`spec.quantize`) and, later, in ModelCache."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flexinfer.api import bounds
from flexinfer.api.meta import Struct

Format = Literal["GGUF", "AWQ", "GPTQ", "EXL2", "FP8"]


class Calibration(Struct, kw_only=True):
    max_seq_len: Annotated[int, Meta(ge=128, le=32768)] = 4096
    max_samples: Annotated[int, Meta(ge=8, le=2048)] = 256
    n_parallel_calib_samples: Annotated[int, Meta(ge=1, le=256)] | None = None
    dataset: Annotated[
        str, bounds.text(bounds.SERVED_NAME, "a data set such as org/name of letters, digits and ._:/@+-")
    ] = "mit-han-lab/pile-val-backup"


class QuantizationSpec(Struct, kw_only=True):
    format: Format
    gguf_type: Annotated[str, bounds.text("[A-Za-z0-9_]*", "a GGUF type such as Q4_K_M", longest=32)] = ""
    bits: Annotated[int, Meta(ge=1, le=16)] | None = None
    group_size: Annotated[int, Meta(ge=-1, le=65536)] | None = None
    use_gpu: bool | None = msgspec.field(name="useGPU", default=None)
    max_memory_gb: Annotated[int, Meta(ge=0, le=65536)] | None = msgspec.field(name="maxMemoryGB", default=None)
    timeout_seconds: Annotated[int, Meta(ge=300, le=43200)] = 7200
    sym: bool = True
    desc_act: bool = False
    calibration: Calibration | None = None
    gpu_memory_fraction: Annotated[
        str, bounds.text(bounds.FRACTION, 'a fraction from 0 to 1 as text, such as "0.80"', longest=16)
    ] = "0.80"
    dynamic_exclusion: Literal["auto", "none", "gdn"] | None = None
    node_selector: Annotated[
        dict[str, Annotated[str, bounds.LABEL_VALUE]], bounds.entries(rules=(bounds.QUALIFIED_KEYS,))
    ] = {}


class QuantizationStatus(Struct, kw_only=True):
    format: str = ""
    type: str = ""
    original_size_bytes: int = 0
    compressed_size_bytes: int = 0
    compression_ratio: str = ""
    quantization_time: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    calibration_params: str = ""
    progress: str = ""
    progress_detail: str = ""
    failure_message: Annotated[str, bounds.text(longest=bounds.MAX_MESSAGE)] = ""
