"""Exec plugins: real programs that print credentials, take their time, fail, or print something else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.manual_clock import ManualClock
from tests.support.cluster.certificates import Authority
from tests.support.processes import with_words

from flexinfer.errors import Unauthorized
from flexinfer.kube.access import Access, ExecPlugin, Material, User
from flexinfer.kube.execplugin import Plugin

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"
SERVER = "https://k8s.example:6443"
SECRET = "s3cr3t-value"


class Program:
    """A script that runs `body` in Python; `runs` counts how often it was started."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "login"
        self._log = folder / "runs"

    def write(self, body: str) -> None:
        head = f"#!{sys.executable}\nimport json, os, sys, time\nopen({str(self._log)!r}, 'a').write('x')\n"
        self.path.write_text(f"{head}{body}\n")
        self.path.chmod(0o700)

    def prints(self, status: Any, api_version: str = V1, **more: Any) -> None:
        credential = {"apiVersion": api_version, "kind": "ExecCredential", "status": status, **more}
        self.write(f"print({json.dumps(credential)!r})")

    def told(self) -> Any:
        return json.loads(Path(f"{self.path}.told").read_text())

    @property
    def runs(self) -> int:
        return len(self._log.read_text()) if self._log.exists() else 0


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def plugin(program: Program | str, clock: ManualClock | None = None, timeout_s: float = 40.0, **fields: Any) -> Plugin:
    command = program if isinstance(program, str) else str(program.path)
    configured = ExecPlugin(**{"api_version": V1, "command": command, **fields})
    user = User(plugin=configured, headers=(("Impersonate-User", "jane"),))
    access = Access(
        server=SERVER,
        ca=Material(data=b"CA"),
        tls_server_name="name.example",
        proxy="http://proxy:3128",
        user=user,
        exec_config={"audience": "x"},
    )
    return Plugin(configured, access, clock or ManualClock(), timeout_s=timeout_s, env=dict(os.environ))


async def token(one: Plugin) -> str:
    grant = await one.grant()
    return dict(grant.headers)["Authorization"].removeprefix("Bearer ")


async def test_a_token_is_kept_until_shortly_before_its_end(program):
    clock = ManualClock()
    one = plugin(program, clock)

    def prints(name: str, seconds: float) -> None:
        ends = clock.now() + timedelta(seconds=seconds)
        program.prints({"token": name, "expirationTimestamp": ends.isoformat().replace("+00:00", "Z")})

    prints("one", 60)
    assert await token(one) == "one"
    prints("two", 600)
    clock.advance(54)
    assert await token(one) == "one"
    clock.advance(1)
    assert (await token(one), program.runs) == ("two", 2)


async def test_a_token_without_an_end_is_kept_until_it_is_refused(program):
    one = plugin(program)
    program.prints({"token": "one"})
    first = await one.grant()
    assert await one.grant() is first
    program.prints({"token": "two"})
    assert await one.refused(first)
    assert await token(one) == "two"
    assert await one.refused(first)
    assert program.runs == 2
    second = await one.grant()
    assert not await one.refused(second)
    assert program.runs == 3


async def test_however_many_wait_it_runs_once(program):
    one = plugin(program)
    program.prints({"token": "t"})
    assert set(await asyncio.gather(*(token(one) for _ in range(20)))) == {"t"}
    assert program.runs == 1


async def test_one_that_gives_up_does_not_take_it_from_the_others(program):
    one = plugin(program)
    program.prints({"token": "t"})
    impatient = asyncio.create_task(token(one))
    patient = asyncio.create_task(token(one))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient, program.runs) == ("t", 1)


async def test_a_client_certificate(program, tmp_path):
    pair = Authority(tmp_path / "authority", "authority").client("jane")
    certificate, key = (path.read_text() for path in pair)
    program.prints({"clientCertificateData": certificate, "clientKeyData": key})
    grant = await plugin(program).grant()
    assert grant.identity is not None
    assert (grant.identity.certificate.data, grant.identity.key.data) == (certificate.encode(), key.encode())
    assert grant.headers == (("Impersonate-User", "jane"),)


@pytest.mark.parametrize(
    ("fields", "cluster"),
    [
        pytest.param({}, None, id="nothing of the cluster"),
        pytest.param(
            {"provide_cluster_info": True},
            {
                "server": SERVER,
                "tls-server-name": "name.example",
                "proxy-url": "http://proxy:3128",
                "config": {"audience": "x"},
                "certificate-authority-data": "Q0E=",
            },
            id="which cluster it is",
        ),
    ],
)
@pytest.mark.parametrize("api_version", [V1, V1BETA1])
async def test_what_the_program_is_told(program, api_version, fields, cluster):
    program.write(
        f"told = {{'argv': sys.argv[1:], 'env': os.environ['NAME'], 'path': 'PATH' in os.environ,"
        f" 'info': json.loads(os.environ['KUBERNETES_EXEC_INFO']), 'stdin': sys.stdin.read(), 'tty': os.isatty(2)}}\n"
        f"open({str(program.path)!r} + '.told', 'w').write(json.dumps(told))\n"
        f"print(json.dumps({{'apiVersion': {api_version!r}, 'kind': 'ExecCredential', 'status': {{'token': 't'}}}}))"
    )
    args = ("--name", "a b", "$(HOME); true", "*")
    await plugin(program, api_version=api_version, args=args, env=(("NAME", "$X"),), **fields).grant()
    spec = {"interactive": False, **({"cluster": cluster} if cluster else {})}
    assert program.told() == {
        "argv": list(args),
        "env": "$X",
        "path": True,
        "info": {"apiVersion": api_version, "kind": "ExecCredential", "spec": spec},
        "stdin": "",
        "tty": False,
    }


def prints(text: str) -> str:
    return f"print({text!r})"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(
            f"print({SECRET!r}); print('first', file=sys.stderr)\n"
            "print('log in with \\x1b[1mlogin\\x1b[0m first', file=sys.stderr); sys.exit(3)",
            "it ended with status 3: log in with [1mlogin[0m first",
            id="it fails and says why",
        ),
        pytest.param("sys.exit(1)", "it ended with status 1", id="it fails and says nothing"),
        pytest.param("os.kill(os.getpid(), 9)", "it ended with status -9", id="it is killed"),
        pytest.param(prints(f"token={SECRET}"), "it did not print an ExecCredential", id="no JSON"),
        pytest.param(
            prints(json.dumps({"status": {"token": [SECRET]}})), "it did not print an ExecCredential", id="a list"
        ),
        pytest.param(
            prints(json.dumps({"kind": "ExecCredential", "apiVersion": V1BETA1, "status": {"token": SECRET}})),
            f"it did not print an ExecCredential of {V1}",
            id="another version",
        ),
        pytest.param(
            prints(json.dumps({"kind": "ExecCredential", "apiVersion": V1})),
            "its ExecCredential has no status",
            id="no status",
        ),
        pytest.param(
            prints(json.dumps({"kind": "ExecCredential", "apiVersion": V1, "status": {}})),
            "it printed neither a token nor a certificate with its key",
            id="nothing",
        ),
        pytest.param(
            prints(json.dumps({"kind": "ExecCredential", "apiVersion": V1, "status": {"clientKeyData": SECRET}})),
            "it printed neither a token nor a certificate with its key",
            id="a key without its certificate",
        ),
        pytest.param(
            prints(json.dumps({"kind": "ExecCredential", "apiVersion": V1, "status": {"token": f"{SECRET}\nX: y"}})),
            "it printed a token that no header can hold",
            id="a header in a token",
        ),
        pytest.param(
            prints(
                json.dumps(
                    {
                        "kind": "ExecCredential",
                        "apiVersion": V1,
                        "status": {"token": SECRET, "expirationTimestamp": "2026-01-01T00:00:00"},
                    }
                )
            ),
            "its expirationTimestamp has no time zone",
            id="an end in no time zone",
        ),
        pytest.param("print('x' * 2_000_000)", "it printed more than 1048576 bytes", id="without end"),
    ],
)
async def test_programs_that_fail(program, body, why):
    program.write(body)
    with pytest.raises(Unauthorized) as raised:
        await plugin(program).grant()
    assert str(raised.value) == f"exec plugin {program.path}: {why}"
    assert SECRET not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_a_program_that_is_not_there_says_how_to_get_it():
    with pytest.raises(Unauthorized) as raised:
        await plugin("flexinfer-no-such-login", install_hint="apt install login").grant()
    assert str(raised.value) == (
        "exec plugin flexinfer-no-such-login: it cannot be started: No such file or directory; apt install login"
    )


async def test_a_program_that_does_not_end_is_ended_with_what_it_started(program, tmp_path):
    program.write(
        f"import subprocess; subprocess.Popen(['sleep', '321']); open({str(tmp_path / 'up')!r}, 'w'); time.sleep(321)"
    )
    with pytest.raises(Unauthorized, match=r"it did not end within 1\.5 s$"):
        await plugin(program, timeout_s=1.5).grant()
    assert (tmp_path / "up").exists()
    assert not with_words("sleep 321")


async def test_a_failure_is_shared_by_the_calls_right_after_it(program):
    clock = ManualClock()
    one = plugin(program, clock)
    program.write("sys.exit(1)")
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await one.grant()
    assert program.runs == 1
    program.prints({"token": "t"})
    clock.advance(2)
    assert (await token(one), program.runs) == ("t", 2)


async def test_closing_ends_a_program_that_runs(program):
    program.write("time.sleep(321)")
    one = plugin(program)
    waiting = asyncio.create_task(one.grant())
    while not program.runs:
        await asyncio.sleep(0.01)
    await one.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
