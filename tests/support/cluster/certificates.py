"""The certificates of a test cluster, made with openssl: two authorities, the API server's, and clients'."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "api.cluster.test")
"""What the API server is called besides its addresses; `api.cluster.test` resolves nowhere (tls-server-name)."""

_DAYS = "30"


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """One that signs; every file it makes lies in its folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        make_key(self._own.key)
        _openssl(
            *("req", "-x509", "-new", "-key", self._own.key, "-subj", f"/CN={name}", "-days", _DAYS),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-out", self._own.certificate),
        )

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def server(self, name: str, addresses: tuple[str, ...], names: tuple[str, ...] = NAMES) -> Pair:
        alternatives = [f"IP:{address}" for address in addresses] + [f"DNS:{one}" for one in names]
        return self._sign(name, f"/CN={name}", f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(alternatives)}")

    def client(self, name: str, groups: tuple[str, ...] = ()) -> Pair:
        """Who shows it is the user `name` of these groups."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={name}"
        return self._sign(name.replace(":", "-"), subject, "extendedKeyUsage=clientAuth")

    def _sign(self, name: str, subject: str, extensions: str) -> Pair:
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request, wanted = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        wanted.write_text(extensions + "\n")
        make_key(pair.key)
        _openssl("req", "-new", "-key", pair.key, "-subj", subject, "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self._own.certificate, "-CAkey", self._own.key),
            *("-CAcreateserial", "-days", _DAYS, "-extfile", wanted, "-out", pair.certificate),
        )
        return pair


def make_key(path: Path) -> Path:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    return path


def public_key(private: Path, path: Path) -> Path:
    _openssl("ec", "-in", private, "-pubout", "-out", path)
    return path


def _openssl(*argv: str | Path) -> None:
    subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True)
