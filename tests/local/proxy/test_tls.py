"""An engine behind TLS: its name is checked against a certificate that the machine trusts."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs
from tests.support.proxy import CHAT, DONE, LAST, SSE_HEAD, STREAM, TOKEN, Engine, answers, code_of, event, json_answer
from tests.support.proxy import post as chat


def certificate(folder: Path, name: str) -> Path:
    """Key and certificate of a server, signed by itself, in one file."""
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_text(key.read_text() + cert.read_text())
    return both


@pytest.fixture
async def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """An engine as engine.test, whose certificate this machine trusts."""
    pem = certificate(tmp_path, "engine.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    engine = Engine(answers(json_answer()), tls=context)
    await engine.start()
    yield engine
    await engine.stop()


async def ask(start, engine: Engine, name: str, body: bytes = CHAT):
    setup = await start(answers(b""))
    setup.admission.endpoint = structs.replace(engine.endpoint, tls_server_name=name, authority=f"{name}:{engine.port}")
    client = await setup.client()
    client.send(chat(body))
    return setup, client, await client.answer()


async def test_a_request_goes_over_tls_under_the_servers_name(start, secure):
    _, client, answer = await ask(start, secure, "engine.test")
    assert answer.status == 200
    (request,) = secure.requests
    assert request.header("host") == [f"engine.test:{secure.port}"]
    client.send(chat(CHAT))
    assert (await client.answer()).status == 200
    assert secure.connections == 1


async def test_a_stream_over_tls(start, secure):
    secure.script = answers(SSE_HEAD + event(TOKEN) + DONE + LAST)
    _, _, answer = await ask(start, secure, "engine.test", STREAM)
    assert (answer.status, answer.whole, answer.body.endswith(b"data: [DONE]\n\n")) == (200, True, True)


@pytest.mark.parametrize("trusted", [True, False], ids=["another name", "a certificate nobody vouches for"])
async def test_what_cannot_be_verified_gets_no_byte_of_the_request(start, secure, monkeypatch, trusted):
    if not trusted:
        monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    setup, _, answer = await ask(start, secure, "other.test" if trusted else "engine.test")
    assert (answer.status, code_of(answer)) == (502, "bad_gateway")
    await asyncio.sleep(0.05)
    assert secure.requests == []
    assert setup.admission.tickets[0].releases == [("error", 0)]
