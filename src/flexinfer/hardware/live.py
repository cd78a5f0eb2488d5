"""Inventory: the facts of this machine, kept fresh; a probe that fails leaves the last good value with its age.

A vendor's devices are replaced only by an answer of that vendor's probe that is whole. A tool that
hangs, prints junk or is gone is a problem beside the devices last seen, and so nothing that is
derived from them flaps. Devices go when the probe says so, or when the bus shows that the cards are
gone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime

import msgspec

from flexinfer import logs
from flexinfer.backends.base import Vendor
from flexinfer.clock import Clock
from flexinfer.hardware import detect
from flexinfer.hardware.detect import Scan
from flexinfer.hardware.probe import Probe
from flexinfer.placement.nodefacts import NodeFacts

log = logs.get("hardware")

Look = Callable[[datetime], Scan]
"""One look at the machine; may take as long as its tools are given."""
INTERVAL_S = 10.0


class Inventory:
    """Facts at hand without waiting; `refresh` or `run` keeps them fresh."""

    def __init__(self, clock: Clock, look: Look | None = None) -> None:
        machine = detect.this_machine()
        self._look = look or (lambda at: detect.scan(machine, at))
        self._clock = clock
        self._refreshing = threading.Lock()
        self._scan: Scan | None = None
        self._good: dict[Vendor, tuple[Probe, datetime]] = {}
        self._facts = NodeFacts()

    def facts(self) -> NodeFacts:
        """As of the last refresh. Readings and `at` say when each value was read."""
        return self._facts

    def refresh(self) -> NodeFacts:
        """Look again. While another thread looks, the last facts are returned at once."""
        if not self._refreshing.acquire(blocking=False):
            return self._facts
        try:
            now = self._clock.now()
            self._facts = self._bridged(self._look(now), now).facts()
        finally:
            self._refreshing.release()
        return self._facts

    async def run(self, interval_s: float = INTERVAL_S) -> None:
        """Refresh for ever, in a thread."""
        while True:
            before = self._facts.problems
            await asyncio.to_thread(self.refresh)
            if self._facts.problems != before:
                log.info("hardware problems changed", problems=self._facts.problems)
            await asyncio.sleep(interval_s)

    def _bridged(self, scan: Scan, now: datetime) -> Scan:
        probes = {vendor: self._bridge(scan, vendor, probe, now) for vendor, probe in scan.probes.items()}
        self._scan = scan
        return msgspec.structs.replace(scan, probes=probes)

    def _bridge(self, scan: Scan, vendor: Vendor, probe: Probe, now: datetime) -> Probe:
        last = self._good.get(vendor)
        if probe.status == "ok":
            self._good[vendor] = (probe, now)
            return probe
        if last is None or not last[0].devices or self._gone(scan, vendor):
            self._good.pop(vendor, None)
            return probe
        good, since = last
        why = "; ".join(probe.problems) or f"nothing answers for {vendor} devices any more"
        problem = f"{why}; the {vendor} devices are those of {since:%Y-%m-%d %H:%M:%S} UTC"
        return msgspec.structs.replace(good, problems=(problem,), status=probe.status)

    def _gone(self, scan: Scan, vendor: Vendor) -> bool:
        """The bus had cards of this vendor, and has none."""
        before = self._scan.cards if self._scan is not None else ()
        had = any(card.vendor == vendor for card in before)
        return had and not any(card.vendor == vendor for card in scan.cards)
