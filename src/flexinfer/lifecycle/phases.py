"""The six phases of a Model, as a table.

A status is level-triggered: a reader may miss phases that were short, so the table also holds the
steps that skip one (`Idle` to `Ready` when an engine is up before anybody looked).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from flexinfer.api.v1alpha2.model import Phase

MEANING: Mapping[Phase, str] = MappingProxyType(
    {
        "Idle": "no replica runs; a request wakes the model",
        "Pending": "wanted, but not started: its files, a device or memory are not there yet",
        "Loading": "a replica has been started and does not answer yet",
        "Ready": "a replica answers",
        "Preempted": "another model of its group holds the GPU",
        "Failed": "the last attempt to run it ended for good; the condition Loaded has the reason",
    }
)

TRANSITIONS: Mapping[Phase | None, frozenset[Phase]] = MappingProxyType(
    {
        None: frozenset({"Idle", "Pending", "Loading", "Ready", "Failed"}),
        "Idle": frozenset({"Pending", "Loading", "Ready", "Preempted", "Failed"}),
        "Pending": frozenset({"Idle", "Loading", "Ready", "Preempted", "Failed"}),
        "Loading": frozenset({"Idle", "Pending", "Ready", "Preempted", "Failed"}),
        "Ready": frozenset({"Idle", "Pending", "Loading", "Preempted", "Failed"}),
        "Preempted": frozenset({"Idle", "Pending", "Loading", "Ready", "Failed"}),
        "Failed": frozenset({"Idle", "Pending", "Loading", "Ready"}),
    }
)

DOWNLOADING = "Downloading"
"""The sub-stage of a Pending model whose bytes are on their way, or wait for their turn."""

FAILED_RETRY_S = 30.0
"""A request that comes this long after a failure starts the model afresh."""
