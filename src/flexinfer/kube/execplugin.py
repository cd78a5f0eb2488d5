"""Credentials that a program prints (`users[].user.exec` of a kubeconfig): run when needed, kept until they end.

The program is started without a shell and without a terminal, and is ended when it takes too long. What it
prints is a secret; of what it complains about, the last line goes into the error.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from flexinfer.clock import Clock
from flexinfer.errors import Unauthorized
from flexinfer.kube.access import Access, ExecPlugin, Material
from flexinfer.kube.credentials import Grant, bearer, identity
from flexinfer.kube.tls import Identity

_LONGEST_OUTPUT: Final = 1024 * 1024
_EARLY: Final = timedelta(seconds=5)
_FAILURE_KEPT_S: Final = 2.0


class _Status(msgspec.Struct, rename="camel", kw_only=True):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None

    def __repr__(self) -> str:
        return "_Status"


class _ExecCredential(msgspec.Struct, rename="camel", kw_only=True):
    api_version: str = ""
    kind: str = ""
    status: _Status | None = None


class Plugin:
    """Credentials from an exec plugin. However many calls wait, it runs once."""

    def __init__(
        self, plugin: ExecPlugin, access: Access, clock: Clock, *, timeout_s: float = 60.0, env: dict[str, str]
    ) -> None:
        self._plugin = plugin
        self._access = access
        self._clock = clock
        self._timeout_s = timeout_s
        self._env = env
        self._running: asyncio.Task[None] | None = None
        self._grant: Grant | None = None
        self._ends_at: datetime | None = None
        self._failure: Unauthorized | None = None
        self._failed_at = 0.0

    async def grant(self) -> Grant:
        if self._grant is not None and (self._ends_at is None or self._clock.now() < self._ends_at - _EARLY):
            return self._grant
        return await self._renewed()

    async def refused(self, grant: Grant) -> bool:
        if self._grant is grant:
            self._grant = None
            await self._renewed()
        return self._grant is not None and self._grant != grant

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _renewed(self) -> Grant:
        # Calls that come right after a failure share it, instead of one run each.
        if self._failure is not None and self._clock.monotonic() - self._failed_at < _FAILURE_KEPT_S:
            raise Unauthorized(str(self._failure))
        if self._running is None:
            self._running = asyncio.create_task(self._renew(), name=f"exec plugin {self._plugin.command}")
            self._running.add_done_callback(self._forget_run)
        # A caller that gives up does not take the run away from the others.
        await asyncio.shield(self._running)
        assert self._grant is not None
        return self._grant

    def _forget_run(self, run: asyncio.Task[None]) -> None:
        self._running = None
        if not run.cancelled():
            run.exception()

    async def _renew(self) -> None:
        try:
            status = self._read(await self._run())
            self._grant = self._granted(status)
            self._ends_at = status.expiration_timestamp
            self._failure = None
        except Unauthorized as failure:
            self._failure, self._failed_at = failure, self._clock.monotonic()
            raise

    def _granted(self, status: _Status) -> Grant:
        user = self._access.user
        shown = identity(user)
        if status.client_certificate_data and status.client_key_data:
            parts = (status.client_certificate_data, status.client_key_data)
            certificate, key = (Material(data=part.encode()) for part in parts)
            shown = Identity(certificate, key)
        elif status.client_certificate_data or status.client_key_data or not status.token:
            raise self._failed("it printed neither a token nor a certificate with its key")
        try:
            headers = bearer(status.token) if status.token else ()
        except ValueError:
            raise self._failed("it printed a token that no header can hold") from None
        return Grant((*headers, *user.headers), shown)

    def _read(self, output: bytes) -> _Status:
        try:
            found = msgspec.json.decode(output, type=_ExecCredential)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Not chained: the message may quote what was printed.
            raise self._failed("it did not print an ExecCredential") from None
        if (found.kind, found.api_version) != ("ExecCredential", self._plugin.api_version):
            raise self._failed(f"it did not print an ExecCredential of {self._plugin.api_version}")
        if found.status is None:
            raise self._failed("its ExecCredential has no status")
        ends = found.status.expiration_timestamp
        if ends is not None and ends.tzinfo is None:
            raise self._failed("its expirationTimestamp has no time zone")
        return found.status

    async def _run(self) -> bytes:
        plugin = self._plugin
        env = {**self._env, **dict(plugin.env), "KUBERNETES_EXEC_INFO": self._info()}
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command,
                *plugin.args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
                # Its own group, so that what it starts ends with it, and no terminal to ask at.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "its arguments cannot be passed"
            hint = f"; {plugin.install_hint}" if plugin.install_hint else ""
            raise self._failed(f"it cannot be started: {why}{hint}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                assert process.stdout is not None
                assert process.stderr is not None
                output, complaint = await asyncio.gather(_bounded(process.stdout), _last_line(process.stderr))
                code = await process.wait()
        except TimeoutError:
            raise self._failed(f"it did not end within {self._timeout_s:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if code != 0:
            raise self._failed(f"it ended with status {code}" + (f": {complaint}" if complaint else ""))
        if len(output) > _LONGEST_OUTPUT:
            raise self._failed(f"it printed more than {_LONGEST_OUTPUT} bytes")
        return output

    def _info(self) -> str:
        spec: dict[str, Any] = {"interactive": False}
        if self._plugin.provide_cluster_info:
            spec["cluster"] = self._cluster()
        info = {"apiVersion": self._plugin.api_version, "kind": "ExecCredential", "spec": spec}
        return msgspec.json.encode(info).decode()

    def _cluster(self) -> dict[str, Any]:
        access = self._access
        cluster: dict[str, Any] = {"server": access.server}
        if access.tls_server_name:
            cluster["tls-server-name"] = access.tls_server_name
        if access.proxy:
            cluster["proxy-url"] = access.proxy
        if access.exec_config is not None:
            cluster["config"] = access.exec_config
        if access.ca is not None:
            try:
                data = access.ca.file.read_bytes() if access.ca.file else access.ca.data
            except OSError as error:
                raise self._failed(f"{access.ca.file}: {error.strerror}") from None
            cluster["certificate-authority-data"] = base64.b64encode(data).decode()
        return cluster

    def _failed(self, why: str) -> Unauthorized:
        return Unauthorized(f"exec plugin {self._plugin.command}: {why}")


async def _bounded(stream: asyncio.StreamReader) -> bytes:
    """What is read, up to one byte more than is allowed; the rest is read and thrown away."""
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: _LONGEST_OUTPUT + 1 - len(kept)]
    return bytes(kept)


async def _last_line(stream: asyncio.StreamReader) -> str:
    tail = b""
    while chunk := await stream.read(65536):
        tail = (tail + chunk)[-4096:]
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable())[-300:].strip() if lines else ""
