"""TLS to an API server: which authorities vouch for it, and the certificate that we show."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from flexinfer.errors import BadKubeconfig
from flexinfer.kube.access import Material

_LOOK_AGAIN_S = 10.0


class Identity(NamedTuple):
    """A client certificate and its key."""

    certificate: Material
    key: Material


class Contexts:
    """The SSL context of each identity; files are read again when they change, at most every 10 s."""

    def __init__(self, ca: Material | None, monotonic: Callable[[], float]) -> None:
        self._ca = ca
        self._monotonic = monotonic
        self._built: dict[Identity | None, _Built] = {}

    def get(self, identity: Identity | None) -> ssl.SSLContext:
        """Raises BadKubeconfig for what is no certificate or key; while files are bad, the last good ones serve."""
        built, now = self._built.get(identity), self._monotonic()
        if built and now < built.look_at:
            return built.context
        stamp = _stamp(self._ca, identity)
        if built and built.stamp == stamp:
            self._built[identity] = built._replace(look_at=now + _LOOK_AGAIN_S)
            return built.context
        try:
            context = _context(self._ca, identity)
        except BadKubeconfig:
            if built is None:
                raise
            return built.context
        # A plugin brings a new certificate each time: the old ones are not needed again.
        self._built = {identity: _Built(context, stamp, now + _LOOK_AGAIN_S)}
        return context


class _Built(NamedTuple):
    context: ssl.SSLContext
    stamp: tuple[object, ...]
    look_at: float


def _stamp(ca: Material | None, identity: Identity | None) -> tuple[object, ...]:
    found: list[object] = []
    for material in (ca, *(identity or ())):
        if material is not None and material.file is not None:
            try:
                seen = material.file.stat()
                found.append((seen.st_mtime_ns, seen.st_size, seen.st_ino))
            except OSError:
                found.append(None)
    return tuple(found)


def _context(ca: Material | None, identity: Identity | None) -> ssl.SSLContext:
    try:
        authorities = None if ca is None else _bytes(ca).decode("ascii")
        context = ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise _bad(ca, "certificates of authorities in PEM") from None
    # Authorities of clusters are often made by hand and lack extensions that only the strict check wants;
    # one that is given counts as trusted even where it is not a root.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if identity is not None:
        with _files(identity) as (certificate, key):
            try:
                # A key with a passphrase would ask for it at the terminal.
                context.load_cert_chain(certificate, key, password="")
            except (ssl.SSLError, ValueError):
                raise _bad(
                    identity.certificate, "a client certificate and its key in PEM, without passphrase"
                ) from None
    return context


@contextlib.contextmanager
def _files(identity: Identity) -> Iterator[tuple[Path, Path]]:
    """OpenSSL reads certificates from files only; ours last no longer than that, and are ours alone."""
    with tempfile.TemporaryDirectory(prefix="flexinfer-") as folder:
        paths = []
        for name, material in zip(("certificate", "key"), identity, strict=True):
            path = material.file or Path(folder, name)
            content = _bytes(material)
            if material.file is None:
                path.touch(mode=0o600)
                path.write_bytes(content)
            paths.append(path)
        yield paths[0], paths[1]


def _bytes(material: Material) -> bytes:
    if material.file is None:
        return material.data
    try:
        return material.file.read_bytes()
    except OSError as error:
        raise BadKubeconfig(str(material.file), "", f"a file that can be read: {error.strerror}") from None


def _bad(material: Material | None, expected: str) -> BadKubeconfig:
    named = str(material.file) if material and material.file else "kubeconfig"
    return BadKubeconfig(named, "", expected)
