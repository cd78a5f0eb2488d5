"""Which vendor's nodes a Model's pods are made for, and why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.support.models import model

from flexinfer.api import defaults
from flexinfer.placement.cluster import Place, choose
from flexinfer.placement.clusternodes import ClusterNode

PREFIX = "flexinfer.ai"


def nvidia(name: str, arch: str = "89", mib: int = 24564, count: int = 1, **more: Any) -> ClusterNode:
    labels = {
        "nvidia.com/gpu.compute.major": arch[0],
        "nvidia.com/gpu.compute.minor": arch[1],
        "nvidia.com/gpu.memory": str(mib),
    }
    return ClusterNode(name=name, capacity={"nvidia.com/gpu": count}, labels=labels | more.pop("labels", {}), **more)


def amd(name: str, arch: str = "gfx1100", size: str = "24G", count: int = 1) -> ClusterNode:
    labels = {"gpu.amd.com/gpu-architecture": arch, "amd.com/gpu.vram": size}
    return ClusterNode(name=name, capacity={"amd.com/gpu": count}, labels=labels)


PLAIN = ClusterNode(name="plain", labels={"disk": "ssd"})
MAXWELL = nvidia("old", "52", 6144)


def chosen(nodes: list[ClusterNode], *, standing: Place | None = None, **spec: Any) -> Place:
    found = model(**{"backend": "vllm", "source": "HF://o/m", **spec})
    return choose(
        msgspec.structs.replace(found, spec=defaults.resolve(found.spec)), nodes, prefix=PREFIX, standing=standing
    )


@pytest.mark.parametrize(
    ("spec", "nodes", "vendor", "message"),
    [
        pytest.param({}, [nvidia("a")], "cpu", "", id="without gpu it runs on the CPU, whatever is there"),
        pytest.param({"gpu": {"vendor": "cpu"}}, [nvidia("a")], "cpu", "", id="cpu asks for no device"),
        pytest.param(
            {"gpu": {"vendor": "nvidia"}}, [nvidia("a"), amd("b")], "nvidia", "", id="a vendor as it is named"
        ),
        pytest.param({"gpu": {}}, [amd("b"), PLAIN], "amd", "auto chose amd", id="auto takes the one that is there"),
        pytest.param(
            {"gpu": {}},
            [nvidia("a"), amd("b", count=4)],
            "amd",
            "auto chose amd: a node of it has 98304 MiB of GPU memory, more than nvidia (24564 MiB)",
            id="auto takes the vendor with most memory in one node",
        ),
        pytest.param(
            {"gpu": {"vramEstimateMB": 40000}},
            [nvidia("a", mib=81920), amd("b", count=4)],
            "nvidia",
            "auto chose nvidia",
            id="auto takes the one it fits on",
        ),
        pytest.param(
            {"gpu": {}},
            [PLAIN],
            "cpu",
            "runs on the CPU: none of the 1 Ready nodes has a GPU that it can use",
            id="auto without a GPU runs on the CPU",
        ),
        pytest.param(
            {"gpu": {}},
            [MAXWELL],
            "cpu",
            "runs on the CPU: vllm does not run on sm_52: Maxwell (compute capability 5.x) has no kernels for it",
            id="auto passes over a GPU that the engine cannot use",
        ),
    ],
)
def test_chosen(spec, nodes, vendor, message):
    place = chosen(nodes, **spec)
    assert (place.vendor, place.reason, place.message) == (vendor, "", message)


@pytest.mark.parametrize(
    ("spec", "nodes", "reason", "message"),
    [
        pytest.param(
            {"gpu": {"vendor": "nvidia"}},
            [amd("b"), PLAIN],
            "NoMatchingNodes",
            "none of the 2 Ready nodes has a GPU of nvidia that a device plugin reports",
            id="a named vendor never falls back",
        ),
        pytest.param(
            {"gpu": {"vendor": "nvidia"}, "nodeSelector": {"disk": "ssd"}},
            [nvidia("a")],
            "NoMatchingNodes",
            "none of the 0 Ready nodes that match spec.nodeSelector has a GPU of nvidia that a device plugin reports",
            id="spec.nodeSelector counts",
        ),
        pytest.param(
            {"gpu": {"vendor": "nvidia"}},
            [nvidia("a", ready=False)],
            "NoMatchingNodes",
            "none of the 0 Ready nodes has a GPU of nvidia that a device plugin reports",
            id="a node that is not Ready does not count",
        ),
        pytest.param(
            {"gpu": {"vendor": "nvidia", "count": 4}},
            [nvidia("a", count=2), nvidia("b", count=3)],
            "NoMatchingNodes",
            "needs 4 nvidia GPUs in one node, no Ready one has more than 3",
            id="all GPUs of a replica are in one node",
        ),
        pytest.param(
            {"gpu": {"vendor": "nvidia"}},
            [MAXWELL],
            "BackendUnsupported",
            "vllm does not run on sm_52: Maxwell (compute capability 5.x) has no kernels for it",
            id="vLLM on Maxwell",
        ),
        pytest.param(
            {"backend": "llamacpp", "source": "file:///m/tiny-f16.gguf", "gpu": {"vendor": "nvidia"}},
            [MAXWELL],
            "BackendUnsupported",
            "sm_52 (Maxwell) computes no half precision, and the source file:///m/tiny-f16.gguf is of that type",
            id="half precision on Maxwell",
        ),
        pytest.param(
            {"backend": "tensorrt-llm", "gpu": {"vendor": "amd"}},
            [amd("b")],
            "BackendUnsupported",
            "tensorrt-llm has no kernels for amd GPUs, it runs on nvidia",
            id="a vendor that the backend knows nothing of",
        ),
        pytest.param(
            {"gpu": {"vendor": "nvidia", "vramEstimateMB": 23400}},
            [nvidia("a"), nvidia("b", mib=12288)],
            "VRAMInsufficient",
            "needs 23400 MiB, the largest nvidia GPU has 24564 MiB, of which 95% count",
            id="more than 95 % of the largest",
        ),
        pytest.param(
            {"backend": "comfyui"},
            [nvidia("a")],
            "BackendUnsupported",
            "comfyui does not run on a CPU (an image would take minutes), and spec.gpu is not set",
            id="an engine that needs a GPU, without one asked for",
        ),
        pytest.param({}, [], "NoMatchingNodes", "there is no Ready node", id="no node at all"),
    ],
)
def test_refused(spec, nodes, reason, message):
    place = chosen(nodes, **spec)
    assert (place.reason, place.message) == (reason, message)


def test_what_the_engine_sees_are_as_many_devices_of_what_the_nodes_have_in_common():
    place = chosen([nvidia("a", count=8), nvidia("b", mib=20000, count=2)], gpu={"vendor": "nvidia", "count": 2})
    assert [(one.index, one.arch, one.vram_mib) for one in place.devices] == [(0, "sm_89", 20000), (1, "sm_89", 20000)]
    mixed = chosen([nvidia("a"), nvidia("b", "80")], gpu={"vendor": "nvidia"})
    assert mixed.arch == ""


@pytest.mark.parametrize(
    ("standing", "spec", "vendor"),
    [
        pytest.param(Place(vendor="nvidia", count=1), {"gpu": {}}, "nvidia", id="auto stays where it runs"),
        pytest.param(Place(), {"gpu": {}}, "cpu", id="on the CPU too"),
        pytest.param(
            Place(vendor="nvidia", count=1), {"gpu": {"vendor": "amd"}}, "amd", id="another vendor is asked for"
        ),
        pytest.param(Place(vendor="nvidia", count=1), {"gpu": {"count": 2}}, "amd", id="another number is asked for"),
        pytest.param(Place(vendor="nvidia", count=1), {}, "cpu", id="no GPU is asked for any more"),
    ],
)
def test_a_choice_stands_while_replicas_run(standing, spec, vendor):
    """The larger node of AMD has come since."""
    place = chosen([nvidia("a"), amd("b", size="192G", count=8)], standing=standing, **spec)
    assert place.vendor == vendor


@pytest.mark.parametrize(
    ("spec", "nodes", "notes"),
    [
        pytest.param(
            {"gpu": {"vendor": "nvidia", "vramEstimateMB": 20000}},
            [nvidia("a")],
            [("VRAMPressure", "needs 20000 MiB of the 24564 MiB of its GPU, more than 80%")],
            id="more than 80 % of the memory",
        ),
        pytest.param(
            {"backend": "comfyui", "gpu": {"vendor": "amd"}},
            [amd("b", "gfx906")],
            [("ExperimentalGPUSupport", "comfyui on gfx906: images on gfx906 may come out wrong")],
            id="an architecture that is experimental",
        ),
    ],
)
def test_what_is_worth_an_event(spec, nodes, notes):
    assert list(chosen(nodes, **spec).notes) == notes


@pytest.mark.parametrize(
    ("labels", "vendor", "arch", "mib"),
    [
        pytest.param(
            {"nvidia.com/gpu.compute.major": "9"}, "nvidia", "sm_90", 0, id="discovery of NVIDIA without a minor"
        ),
        pytest.param(
            {"flexinfer.ai/gpu.arch": "sm_86", "flexinfer.ai/gpu.vram": "12Gi"},
            "nvidia",
            "sm_86",
            12288,
            id="our agent",
        ),
        pytest.param({"amd.com/gpu.family": "GC_11_0_0"}, "amd", "gfx1100", 0, id="a family of AMD"),
        pytest.param({"amd.com/gpu.product-name": "RX_7900_XTX"}, "amd", "gfx1100", 0, id="a product of AMD"),
        pytest.param({"flexinfer.ai/gpu.arch": "sm_86"}, "amd", "", 0, id="another vendor's architecture"),
        pytest.param({"amd.com/gpu.vram": "much"}, "amd", "", 0, id="a size that is none"),
    ],
)
def test_labels(labels, vendor, arch, mib):
    node = ClusterNode(name="n", labels=labels)
    assert (node.arch(vendor, PREFIX), node.vram_mib(vendor, PREFIX)) == (arch, mib)
