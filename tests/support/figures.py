"""What a running `up` and its simulators say of themselves: /metrics, /sim/stats, their processes."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
from tests.support.running import Running


async def metric(session: aiohttp.ClientSession, url: str, name: str, **labels: str) -> float:
    """One value of /metrics; 0 where it is missing. `labels` are in the order of the exposition."""
    wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
    async with session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    found = re.search(rf"^{re.escape(f'{name}{{{wanted}}}')} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def stats(session: aiohttp.ClientSession, up: Running, model: str) -> dict[str, Any]:
    """/sim/stats of the model's simulator."""
    async with session.get(f"{await address(up, model)}/sim/stats") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def faults(session: aiohttp.ClientSession, up: Running, model: str, **what: object) -> None:
    """From here on the model's simulator fails so."""
    async with session.post(f"{await address(up, model)}/sim/faults", json=what) as answer:
        assert answer.status == 200


async def address(up: Running, model: str) -> str:
    engines = [engine for engine in await up.control.engines() if engine.model == model]
    assert len(engines) == 1, engines
    return f"http://{engines[0].address}"
