"""Who listens on a port, asked of the kernel by netlink (sock_diag), which looks at listening sockets alone.

/proc/net/tcp, the other way to learn it, walks every connection of the machine, those in TIME_WAIT too: tens
of milliseconds on a busy one, in which an event loop would serve nobody.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x0001 | 0x0300
_ERROR, _DONE = 2, 3
_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port: of each netlink message."""
_ASK = struct.Struct("=BBBBI")
"""Family, protocol, extensions, padding, states; a socket's identity follows."""
_IDENTITY = struct.Struct("!HH44x")
_INODE_AT = _HEADER.size + 68
_ANSWER_BYTES = 64 * 1024
_TIMEOUT_S = 1.0


def listening(port: int) -> set[str]:
    """Inodes of the TCP sockets that listen on the port. Raises OSError where the kernel does not answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        found: set[str] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            kernel.send(_question(family, port))
            found.update(_answers(kernel))
        return found


def _question(family: int, port: int) -> bytes:
    asked = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN) + _IDENTITY.pack(port, 0)
    return _HEADER.pack(_HEADER.size + len(asked), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + asked


def _answers(kernel: socket.socket) -> Iterator[str]:
    while True:
        data = kernel.recv(_ANSWER_BYTES)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                (number,) = struct.unpack_from("=i", data, _HEADER.size)
                raise OSError(-number, "the kernel does not tell who listens")
            (inode,) = struct.unpack_from("=I", data, _INODE_AT)
            yield str(inode)
            data = data[(length + 3) & ~3 :]
