"""`rocm-smi` as JSON and `rocminfo` as text: readers, and parsers that take every release's names.

Names of the JSON changed their spelling over the releases (`Card series` in 5.x, `Card Series` and
`Device Name` since 6.0), so letters and digits are compared in lower case only. Warnings stand
before or after the object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from flexinfer.hardware import files, tools
from flexinfer.hardware.probe import celsius, decimal, percent

MIB = 2**20
ARGUMENTS = (
    "--showproductname", "--showuniqueid", "--showbus", "--showuse", "--showtemp", "--showmeminfo", "vram", "gtt",
    "--json",
)  # fmt: skip


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What rocm-smi tells of one card."""

    number: int
    product: str = ""
    gfx: str = ""
    uuid: str = ""
    pci: str = ""
    total_mib: int = 0
    gtt_mib: int = 0
    used_mib: int | None = None
    util: float | None = None
    temperature_c: float | None = None


def smi(path_env: str | None, timeout_s: float) -> tuple[Card, ...] | None:
    """None where rocm-smi is not installed. Raises ToolFailed."""
    printed = tools.output("rocm-smi", ARGUMENTS, path_env, timeout_s)
    return parse(printed) if printed is not None else None


def parse(printed: str) -> tuple[Card, ...]:
    """The cards by number. Raises ToolFailed for what holds no card."""
    found: dict[str, Any] = {}
    # The object begins a line; what stands around it are warnings.
    for start in re.finditer(r"^\s*\{", printed, re.MULTILINE):
        end = printed.rfind("}")
        try:
            found = msgspec.json.decode(printed[start.start() : end + 1], type=dict[str, Any])
            break
        except (msgspec.MsgspecError, RecursionError):
            continue
    cards = []
    for name, values in found.items():
        number = files.number(name.removeprefix("card"))
        if name.startswith("card") and number is not None and isinstance(values, dict):
            cards.append(_card(number, {_plain(key): value for key, value in values.items()}))
    if not cards:
        raise tools.ToolFailed(f"rocm-smi printed no card: {' '.join(printed.split())[:120]!r}")
    return tuple(sorted(cards, key=lambda card: card.number))


def _card(number: int, values: Mapping[str, Any]) -> Card:
    used = _bytes(values.get("vramtotalusedmemoryb"))
    temperatures = [celsius(decimal(value)) for key, value in values.items() if key.startswith("temperature")]
    gfx = _word(values.get("gfxversion"))
    return Card(
        number=number,
        product=next((found for key in _PRODUCT if _named(found := _word(values.get(key)))), ""),
        gfx=gfx if gfx.startswith("gfx") else "",
        uuid=_uuid(_word(values.get("uniqueid"))),
        pci=_word(values.get("pcibus")).lower(),
        total_mib=(_bytes(values.get("vramtotalmemoryb")) or 0) // MIB,
        gtt_mib=(_bytes(values.get("gtttotalmemoryb")) or 0) // MIB,
        used_mib=used // MIB if used is not None else None,
        util=percent(decimal(values.get("gpuuse"))),
        temperature_c=max((value for value in temperatures if value is not None), default=None),
    )


_PRODUCT = ("cardseries", "devicename", "cardmodel")


def _named(text: str) -> bool:
    return bool(text) and not text.startswith("0x")


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


def _word(value: object) -> str:
    text = str(value).strip()[:120] if isinstance(value, str | int | float) else ""
    return "" if text.upper() in ("N/A", "NONE", "UNKNOWN") else text


def _bytes(value: object) -> int | None:
    return files.number(_word(value))


def _uuid(unique_id: str) -> str:
    """`0x3d4595974090853c` as ROCR writes it."""
    found = re.fullmatch(r"0x([0-9a-fA-F]{1,16})", unique_id)
    return f"GPU-{int(found[1], 16):016x}" if found and int(found[1], 16) else ""


def info(path_env: str | None, timeout_s: float) -> tuple[str, ...]:
    """The gfx names of the GPUs in rocminfo's order, which is the KFD's; none where it cannot tell."""
    try:
        printed = tools.output("rocminfo", (), path_env, timeout_s)
    except tools.ToolFailed:
        return ()
    return parse_info(printed or "")


def parse_info(printed: str) -> tuple[str, ...]:
    names: list[str] = []
    name = ""
    for line in printed.splitlines():
        key, _, value = line.strip().partition(":")
        if key == "Name":
            name = value.strip()
        elif key == "Device Type" and value.strip() == "GPU" and re.fullmatch(r"gfx[0-9a-f]{3,6}", name):
            names.append(name)
    return tuple(names)
