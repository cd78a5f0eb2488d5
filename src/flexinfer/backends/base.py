"""The seam between a model and the process that serves it: Backend and LaunchPlan.

A backend turns a Model and a Site into one LaunchPlan. The plan becomes a container or a process;
the backend never learns which. The Site says where it will listen and where its files are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import msgspec

from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts.gguf import GGUFFacts
from flexinfer.artifacts.memory import Memory
from flexinfer.backends.config import ConfigKey

Vendor = Literal["nvidia", "amd", "intel", "cpu"]
ROOT = 0
NOBODY = 65532
"""The user of FlexInfer's own image, and of images that need no other."""
SETTLE_S = 5.0
"""Until every proxy has seen that an endpoint is withdrawn."""
TEMPORARY = "/tmp"  # noqa: S108  # a folder of its own in every container

Reads = Literal["gguf", "checkpoint", "registry", "nothing"]
"""What a backend is given: a GGUF file, a folder or hub name, a registry tag, or nothing."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator as a plan refers to it. `index` is the vendor's own numbering in PCI order."""

    vendor: Vendor
    index: int
    uuid: str = ""
    product: str = ""
    arch: str = ""
    vram_mib: int = 0
    unified: bool = False
    """It shares the machine's memory; `vram_mib` is what it may use of it."""
    own_mib: int = 0
    """Of a unified device: memory that the firmware has set aside for it."""
    pci: str = ""
    """Address on the bus (`0000:01:00.0`)."""
    numa: int | None = None
    """The NUMA node it is closest to."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes a model is made of, where the serving process sees them.

    `path` is a file (GGUF) or a folder; empty when the engine fetches by name. `model_id` is the
    name a hub or registry knows (`org/name`, `llama3:8b`), empty for files.
    """

    path: str = ""
    mmproj: str = ""
    """The file of the vision projector, where it was fetched with the model."""
    model_id: str = ""
    size_bytes: int = 0
    gguf: GGUFFacts | None = None
    """The header, where the file has been opened; the estimate of memory comes from it."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine will run: values that a pod and a process fill in differently."""

    host: str
    port: int
    artifact: Artifact
    devices: tuple[Device, ...] = ()
    cores: int = 1
    state_dir: str = ""
    """A folder the engine may write to and keep (caches); HOME of a container."""
    drain_s: float = 0.0
    """How long an engine that can is asked to finish its open streams after SIGTERM. 0: whoever stops it has drained
    it before."""


def writable(site: Site) -> tuple[str, ...]:
    """What every engine may write to: its own folder and the temporary one."""
    return (site.state_dir, TEMPORARY) if site.state_dir else ()


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to run one replica."""

    program: str
    """Name of the executable (`llama-server`), looked up on PATH. Empty: no process."""
    args: tuple[str, ...]
    command: tuple[str, ...] = ()
    """What a container runs with `args` where the official image keeps the program elsewhere than on its PATH."""
    image_starts: bool = False
    """A container runs the entry point of its image with `args`: only whoever made the image knows its program."""
    image_command: tuple[str, ...] = ()
    """What starts it in its image, before `args`, where that is not `program`: a full path, or python and a module."""
    fallback: tuple[str, ...] = ()
    """A `flexinfer` subcommand that takes the same args where `program` is not installed; empty: there is none."""
    install_hint: str = ""
    """What to install when neither is there, one sentence."""
    env: Mapping[str, str] = {}
    port: int
    health_path: str
    """Ready when a GET of it answers 200 (and, with `ready_log`, the log has said so)."""
    ready_log: str = ""
    """A regular expression that a line of the log must match before Ready; empty: none needed."""
    cpu_log: str = ""
    """A regular expression; a matching line before Ready means the engine computes on the CPU."""
    prepare: tuple[tuple[str, str, bytes], ...] = ()
    """HTTP calls (method, path, JSON body) to make once healthy and before Ready, e.g. pulling a model."""
    slots: int
    """Requests the engine computes at once; the rest stays in the proxy's queue."""
    served_model: str | None = None
    """The name the engine knows the model by, when it differs from the one clients use."""
    metrics_path: str = ""
    """Where Prometheus reads the engine's own metrics; empty: it has none."""
    image: str = ""
    user: int = 0
    """Who a container runs as. 0 where the official image starts as root, or the devices need it."""
    writable_paths: tuple[str, ...] = ()
    """Folders a container needs besides its own read-only files."""
    shm_mib: int = 0
    """Shared memory (/dev/shm) through which the processes of one replica pass tensors."""
    devices: tuple[Device, ...] = ()
    memory: Memory = Memory()
    stop_grace_s: float = 10.0
    """SIGTERM to SIGKILL of the whole group."""
    pre_stop_s: float = 0.0
    """How long a pod goes on serving what is open before SIGTERM, once its endpoint is withdrawn. The grace of the pod
    is this and `stop_grace_s`."""

    @property
    def container_command(self) -> tuple[str, ...]:
        """What a container's `command` says; empty: the image's own entry point."""
        if self.image_starts:
            return ()
        return self.command or ((self.program,) if self.program else ())


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy must know of a model's engine, whoever started it."""

    slots: int
    served_model: str | None = None
    context_tokens: int | None = None
    """Of one request, prompt and answer together; None where the config does not say it."""
    api_key_file: str = ""
    """A file whose first line the engine wants as bearer token."""


class Upstream(NamedTuple):
    """Where a server that runs elsewhere listens. `host` may be a name: resolve it, then check the address."""

    scheme: Literal["http", "https"]
    host: str
    port: int


class Backend(Protocol):
    """One engine family. All methods are pure."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...

    @property
    def port(self) -> int:
        """The known port of the engine in a cluster."""
        ...

    @property
    def config_keys(self) -> tuple[ConfigKey, ...]:
        """Keys of `spec.config` it reads."""
        ...

    @property
    def reads(self) -> Reads: ...

    @property
    def vendors(self) -> tuple[Vendor, ...]:
        """GPU vendors it has kernels for; `cpu` when it can serve without a GPU."""
        ...

    @property
    def process(self) -> bool:
        """False: there is nothing to start, `upstream` says where it listens."""
        ...

    @property
    def image_generation(self) -> bool: ...

    @property
    def runs_locally(self) -> bool:
        """Whether `flexinfer up` can run it (or reach it) on one machine."""
        ...

    def plan(self, model: Model, site: Site) -> LaunchPlan:
        """Raises InvalidField for a config value that the engine cannot take."""
        ...

    def serving(self, model: Model) -> Serving:
        """Never raises: a config value of a wrong type counts as not set."""
        ...

    def upstream(self, model: Model) -> Upstream | None:
        """None for engines that we start. Raises InvalidField for a source that is no address."""
        ...
