"""API keys: who may call. Keys are held, looked up and compared as SHA-256 digests, never as they are.

A key file has one key a line: `KEY`, `NAME:KEY`, or `NAME:sha256:HEX` as `flexinfer key` prints it;
blank lines and lines that begin with `#` are skipped. The file is looked at again when a request
comes and the last look is older than `LOOK_AGAIN_S`, so nothing runs while nobody calls. A file that
has become unreadable or wrong is reported, and the keys that were good stay.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from flexinfer import logs
from flexinfer.api import apikeys
from flexinfer.errors import FlexInferError, RequestError

log = logs.get("keys")

LOOK_AGAIN_S = 2.0
MAX_KEYS = 10_000
MIN_KEY_CHARACTERS = 16
_LINE = re.compile(
    r"(?:(?P<name>(?!sha256:)[A-Za-z0-9._@-]{1,64}):)?(?:sha256:(?P<digest>[0-9a-f]{64})|(?P<key>[!-9;-~]+))"
)
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]{1,512})")


class BadKeyFile(FlexInferError):
    """The key file cannot be used; the message names the line and what would be right, never a key."""


def new_key() -> str:
    return apikeys.key_of(secrets.token_bytes(apikeys.RANDOM_BYTES))


def parse(text: str) -> dict[bytes, str]:
    """Digest -> name of the key. Raises BadKeyFile."""
    found: dict[bytes, str] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadKeyFile(f"line {number}: expected KEY, NAME:KEY or NAME:sha256:HEX")
        if match["key"] is not None and len(match["key"]) < MIN_KEY_CHARACTERS:
            raise BadKeyFile(f"line {number}: expected a key of at least {MIN_KEY_CHARACTERS} characters")
        value = bytes.fromhex(match["digest"]) if match["digest"] else apikeys.digest(match["key"].encode())
        found[value] = match["name"] or f"line-{number}"
    if len(found) > MAX_KEYS:
        raise BadKeyFile(f"expected at most {MAX_KEYS} keys, found {len(found)}")
    return found


class KeyRing:
    """The keys of one file. Raises BadKeyFile when it cannot be used from the start."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._looked_at = now
        self._stamp = self._read_stamp()
        self._keys: Mapping[bytes, str] = self._read()

    def name_of(self, authorization: Sequence[bytes], now: float) -> str:
        """Name of the key that the Authorization fields of a request hold. Raises RequestError 401."""
        if now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = now
            self.reload()
        name = self._name(authorization[0]) if len(authorization) == 1 else None
        if name is None:
            missing = not authorization
            said = "an API key is needed: Authorization: Bearer KEY" if missing else "the API key is not valid"
            raise RequestError(401, "invalid_api_key", said)
        return name

    def _name(self, value: bytes) -> str | None:
        # As nearly everybody writes it; whatever stands behind it is a key or is not.
        if value[:7] == b"Bearer ":
            name = self._keys.get(hashlib.sha256(value[7:]).digest())
            if name is not None:
                return name
        match = _BEARER.fullmatch(value)
        return self._keys.get(apikeys.digest(match[1])) if match is not None else None

    def reload(self) -> None:
        """Read the file again if it has changed; what cannot be used is logged and the old keys stay."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
        except BadKeyFile as error:
            log.error("key file not taken over, the old keys stay", file=str(self._path), error=str(error))
        else:
            log.info("keys read again", file=str(self._path), count=len(self._keys))

    def _read(self) -> dict[bytes, str]:
        try:
            keys = parse(self._path.read_text("utf-8"))
        except OSError as error:
            raise BadKeyFile(f"{self._path}: {error.strerror or error}") from error
        except UnicodeDecodeError:
            raise BadKeyFile(f"{self._path}: expected text in UTF-8") from None
        except BadKeyFile as error:
            raise BadKeyFile(f"{self._path}: {error}") from None
        if not keys:
            raise BadKeyFile(f"{self._path}: expected at least one key; `flexinfer key` makes one")
        return keys

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
