"""Serve one GGUF file with llama.cpp, through the xllamacpp wheel: OpenAI's API, `/health` and `/metrics`.

llama.cpp aborts its process on some bad files, so this process is always a child of the one that cares.
The wheel computes on the CPU. It holds the interpreter while it loads; until the model is loaded SIGTERM
therefore acts as the system's default (the process dies of it), afterwards it ends the process with exit
code 0. Streams that are open then break off without their last chunk, so no client takes them for whole.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec

from flexinfer.errors import ArtifactError, EngineMissing

INSTALL = "pip install 'flexinfer[local]'"
NO_GPU = "no usable GPU found, --n-gpu-layers is ignored: the built-in engine computes on the CPU"

LOG_FLUSH_S = 0.1


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `llama-server` takes, by its own names. 0 and "" mean llama.cpp's default, if not said otherwise."""

    model: str
    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes a free port, which the log names."""
    alias: str = ""
    ctx_size: int = 0
    """Tokens of all slots together; 0 is the length the model was trained for."""
    parallel: int = 1
    threads: int = 0
    """0 fits them to the cores and the model's size."""
    threads_batch: int = 0
    batch_size: int = 2048
    ubatch_size: int = 0
    """0: 512; with embeddings the batch size, because an input must fit into one of them."""
    n_gpu_layers: int = 0
    jinja: bool = True
    chat_template: str = ""
    embeddings: bool = False
    pooling: str = ""
    metrics: bool = False
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"
    mmproj: str = ""
    mmap: bool = True
    mlock: bool = False
    kv_unified: bool = False
    cache_ram_mib: int = 0
    """Host memory for prompts that have left their slot. None by default: no memory estimate would count it."""
    n_predict: int = -1
    reasoning_format: str = "deepseek"
    reasoning_budget: int = -1
    slot_save_path: str = ""
    spec_type: str = ""
    spec_draft_n_max: int = -1
    """-1: llama.cpp's default."""
    spec_draft_n_min: int = -1
    verbosity: int = 3


def serve(options: Options) -> NoReturn:
    """Load the model, say so in the log, and answer until SIGTERM or SIGINT.

    Raises ArtifactError if llama.cpp cannot load it, EngineMissing without the wheel.
    """
    # Otherwise an abort attaches a debugger where one is installed, and the process hangs.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    path = Path(options.model)
    size_bytes = readable_size(path)
    if options.mmproj:
        readable_size(Path(options.mmproj))
    try:
        import xllamacpp
    except ImportError as error:
        raise EngineMissing(f"the built-in engine needs the xllamacpp wheel: {INSTALL}") from error
    if options.n_gpu_layers:
        _say(NO_GPU)
    params = parameters(xllamacpp, options, size_bytes)
    _say(
        f"loading {path.name} ({size_bytes / 2**20:.1f} MiB), {options.parallel} slots, "
        f"{params.cpuparams.n_threads} threads"
    )
    started_s = time.monotonic()
    # The server lives as long as this name does.
    server = _load(lambda: xllamacpp.Server(params), path)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _say(f"ready on {server.listening_address} after {time.monotonic() - started_s:.2f} s")
    while True:
        signal.pause()


def readable_size(path: Path) -> int:
    """Size in bytes; ArtifactError with a sentence if it is no file that we may read."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            size_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise ArtifactError(f"{path} is not a GGUF file: it begins with {magic!r}" if magic else f"{path} is empty")
    return size_bytes


def usable_cores() -> int:
    """Cores this process may compute on: its affinity, one of each pair of hardware threads, its CPU quota."""
    allowed = os.sched_getaffinity(0)
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return min(len(cores), _quota_cores() or len(cores))


def parameters(wheel: Any, options: Options, size_bytes: int) -> Any:
    """The wheel's CommonParams for these options."""
    params = wheel.CommonParams()
    params.model.path = options.model
    params.mmproj.path = options.mmproj
    params.hostnames = [options.host]
    params.port = options.port
    params.model_alias = {name for name in options.alias.split(",") if name} or {Path(options.model).stem}
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.n_batch = options.batch_size
    params.n_ubatch = options.ubatch_size or (options.batch_size if options.embeddings else 512)
    params.n_predict = options.n_predict
    # The server gives each connection a thread of its own; kept-alive and health connections must not use up
    # those that the slots need.
    params.n_threads_http = 2 * options.parallel + 8
    _set_threads(params, options, size_bytes)
    params.use_jinja = options.jinja
    params.chat_template = options.chat_template
    params.embedding = options.embeddings
    if options.pooling or options.embeddings:
        params.pooling_type = wheel.llama_pooling_type[f"LLAMA_POOLING_TYPE_{(options.pooling or 'mean').upper()}"]
    params.endpoint_metrics = options.metrics
    params.cache_type_k = wheel.ggml_type[f"GGML_TYPE_{options.cache_type_k.upper()}"]
    params.cache_type_v = wheel.ggml_type[f"GGML_TYPE_{options.cache_type_v.upper()}"]
    flash = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[options.flash_attn]
    params.flash_attn_type = wheel.llama_flash_attn_type[f"LLAMA_FLASH_ATTN_TYPE_{flash}"]
    load = {(True, False): "AUTO", (True, True): "MMAP_MLOCK", (False, False): "NONE", (False, True): "MLOCK"}
    params.load_mode = wheel.llama_load_mode[f"LLAMA_LOAD_MODE_{load[options.mmap, options.mlock]}"]
    params.kv_unified = options.kv_unified
    params.cache_ram_mib = options.cache_ram_mib
    params.cache_idle_slots = options.cache_ram_mib != 0
    reasoning = options.reasoning_format.upper().replace("-", "_")
    params.reasoning_format = wheel.common_reasoning_format[f"COMMON_REASONING_FORMAT_{reasoning}"]
    params.sampling.reasoning_budget_tokens = options.reasoning_budget
    params.slot_save_path = options.slot_save_path
    if options.spec_type:
        kind = options.spec_type.upper().replace("-", "_")
        params.speculative.types = [wheel.common_speculative_type[f"COMMON_SPECULATIVE_TYPE_{kind}"]]
    if options.spec_draft_n_max >= 0:
        params.speculative.draft.n_max = options.spec_draft_n_max
    if options.spec_draft_n_min >= 0:
        params.speculative.draft.n_min = options.spec_draft_n_min
    params.verbosity = options.verbosity
    # There is no device to fit to, and the sizes that were planned are the ones to keep.
    params.fit_params = False
    params.ui = False
    # A page in the user's browser must not be able to talk to the model.
    params.cors_origins = ""
    return params


def _set_threads(params: Any, options: Options, size_bytes: int) -> None:
    threads = options.threads
    if threads <= 0:
        from flexinfer.backends.llamacpp import threads as fitted

        threads = fitted(usable_cores(), size_bytes)
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = options.threads_batch if options.threads_batch > 0 else threads


def _load(start: Callable[[], Any], path: Path) -> Any:
    try:
        return start()
    except RuntimeError as error:
        reason = _reason(start)
        raise ArtifactError(f"llama.cpp cannot serve {path}: {reason or error}") from error


def _reason(start: Callable[[], Any]) -> str:
    """Why it fails: llama.cpp says so in its log only, so let it fail once more into a file."""
    stderr = os.dup(2)
    log = os.memfd_create("reason")
    # A thread of llama.cpp's own writes the log; what it has of the first failure belongs to the real one.
    time.sleep(LOG_FLUSH_S)
    os.dup2(log, 2)
    try:
        start()
    except RuntimeError:
        text = _written(log)
    else:
        text = ""
    finally:
        os.dup2(stderr, 2)
    return reason_in(text)


def _written(log: int) -> str:
    """The log up to the line that ends every failure."""
    deadline_s = time.monotonic() + 1.0
    while True:
        text = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
        if "exiting due to" in text or time.monotonic() > deadline_s:
            return text
        time.sleep(0.005)


def reason_in(log: str) -> str:
    """The line of llama.cpp's log that says why it gives up; empty if none does."""
    # Time, level, for some a component, then the function and what it has to say. The first error is the cause.
    error = re.search(r"^[\d.]+ E (?:\w+ +)?\S+: (?:error loading model: )?(.*)$", log, re.MULTILINE)
    return error[1].strip() if error is not None else ""


def _quota_cores() -> int:
    """Cores that the control group's CPU quota is worth, rounded up; 0 if there is no quota."""
    quota = Path("/sys/fs/cgroup/cpu.max")
    if not quota.exists():
        return 0
    limit, period = quota.read_text().split()
    return 0 if limit == "max" else -(-int(limit) // int(period))


def _leave(number: int, _frame: FrameType | None) -> None:
    _say(f"{signal.Signals(number).name}: leaving")
    # The server's own destructor waits for open streams; the system closes them at once.
    os._exit(0)


def _say(line: str) -> None:
    # In one write: llama.cpp writes there from a thread of its own, and a signal may come at any time.
    os.write(2, f"flexinfer engine: {line}\n".encode())
