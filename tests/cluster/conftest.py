"""Fixtures of the cluster tests: one control plane for the whole run, and one that a module may break."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import ControlPlane, Settings, tools_folder
from tests.support.cluster.kubelet import TestKubelet


def _in_the_namespace() -> bool:
    """Whether the bridge of hack/cluster-namespace.sh is here and nothing leads out."""
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    bridge = any(name == "flexinfer0" for _, name in socket.if_nameindex())
    return bridge and all(route.split()[1] != "00000000" for route in routes)


def pytest_configure() -> None:
    if not _in_the_namespace():
        raise pytest.UsageError("Cluster tests run in a network namespace: make test-cluster PYTEST_ARGS='-k NAME'")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test shows what the parts of its control plane complained of last."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name in ("control_plane", "own_control_plane"):
            plane = item.funcargs.get(name)
            if isinstance(plane, ControlPlane):
                said = ((part, plane.complaints(part)) for part in plane.settings.parts)
                report.sections += [(f"complaints of {part}", text) for part, text in said if text]
        if isinstance(kubelet := item.funcargs.get("kubelet"), TestKubelet) and kubelet.log():
            report.sections.append(("the kubelet said", kubelet.log()[-2000:]))
    return report


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane(tools_folder()) as plane:
        yield plane


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    """Shared by all tests of a run: nothing of it is stopped, paused or compacted."""
    async with Cluster(control_plane) as one:
        yield one


@pytest.fixture(scope="module")
def own_settings() -> Settings:
    """A module that wants other flags or features for its `own_cluster` says so by a fixture of this name."""
    return Settings()


@pytest.fixture(scope="module")
def own_control_plane(own_settings: Settings) -> Iterator[ControlPlane]:
    with ControlPlane(tools_folder(), own_settings) as plane:
        yield plane


@pytest.fixture
async def own_cluster(own_control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    """The module's own: its parts may be stopped and paused. Every part runs again before the next test."""
    async with Cluster(own_control_plane) as one:
        try:
            yield one
        finally:
            own_control_plane.restore()


@pytest.fixture
async def kubelet(cluster: Cluster) -> AsyncIterator[TestKubelet]:
    """Runs the pods of every node of the shared control plane, as processes, for one test."""
    async with TestKubelet(cluster) as one:
        yield one
