"""The network of pods: a namespace, a veth pair on the bridge and an address of 198.18.0.0/16 for each.

Everything lives in namespaces of the kubelet's own: it all goes with the kubelet, whatever ends it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from tests.support.cluster.ranges import Held

BRIDGE = "flexinfer0"
HOST_IP = "198.18.0.1"
SERVICES = "198.19.0.0/16"
"""The Services' own addresses, of all control planes together."""
_FIRST = int(ipaddress.IPv4Address("198.18.0.0"))
_PER_KUBELET = 4096
_FOLDER = Path("/run/netns")


class NoAddress(Exception):
    """Every address of this kubelet is in use."""


class Addresses:
    """A range of the bridge's network that no other kubelet on this bridge has; the oldest free one is next."""

    def __init__(self) -> None:
        self._held = Held("kubelet", 65536 // _PER_KUBELET - 1)
        first = _FIRST + self._held.number * _PER_KUBELET
        self._free = [str(ipaddress.IPv4Address(first + offset)) for offset in range(1, _PER_KUBELET - 1)]

    def take(self) -> str:
        if not self._free:
            raise NoAddress("no address is left")
        return self._free.pop(0)

    def give_back(self, address: str) -> None:
        self._free.append(address)


def plan(address: str) -> tuple[str, str]:
    """The two batches of `ip`: in the node's namespace, then in the pod's."""
    number = int(ipaddress.IPv4Address(address))
    # An address that comes back has the hardware address that neighbours remember.
    hardware = ":".join(f"{byte:02x}" for byte in (2, 0, *number.to_bytes(4, "big")))
    link = f"v{number:08x}"
    outside = f"link add {link} type veth peer name eth0 address {hardware} netns {address}\n"
    outside += f"link set {link} master {BRIDGE} up\n"
    inside = f"link set lo up\naddress add {address}/16 dev eth0\nlink set eth0 up\n"
    inside += f"route add {SERVICES} via {HOST_IP}\n"
    return outside, inside


def namespace(address: str) -> Path:
    return _FOLDER / address


async def create(address: str) -> None:
    outside, inside = plan(address)
    await _ip("netns", "add", address)
    await _ip("-batch", "-", stdin=outside)
    await _ip("-netns", address, "-batch", "-", stdin=inside)


async def remove(address: str) -> None:
    """Its end of the pair goes with the namespace, and the other end with that."""
    await _ip("netns", "delete", address)


async def _ip(*argv: str, stdin: str | None = None) -> None:
    # A program that reads nothing may have ended before anything is written to it: it gets no pipe.
    reads = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "ip", *argv, stdin=reads, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate(None if stdin is None else stdin.encode())
    if process.returncode:
        raise OSError(f"ip {' '.join(argv)}: {said.decode().strip()}")
