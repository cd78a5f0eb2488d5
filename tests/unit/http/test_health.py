"""The ports that kubelets and Prometheus look at."""

from __future__ import annotations

import aiohttp
import pytest

from flexinfer.errors import InvalidField
from flexinfer.http.health import Bind, health_app, metrics_app, parse_bind, serving


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(":8080", Bind("0.0.0.0", 8080), id="a port alone means every address"),
        pytest.param("8080", Bind("0.0.0.0", 8080), id="the colon may be left out"),
        pytest.param("127.0.0.1:0", Bind("127.0.0.1", 0), id="port 0 of an address is any free port"),
        pytest.param("[::1]:8081", Bind("::1", 8081), id="an IPv6 address stands in brackets"),
        pytest.param("0", None, id="0 alone means that nothing listens"),
        pytest.param("", None, id="nothing means that nothing listens"),
    ],
)
def test_an_address_to_listen_on(text: str, expected: Bind | None):
    assert parse_bind("METRICS_BIND_ADDRESS", text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("localhost", id="no port"),
        pytest.param(":http", id="a port by name"),
        pytest.param(":65536", id="a port that does not exist"),
        pytest.param(":８０", id="digits of another script"),
    ],
)
def test_what_is_no_address_is_refused_with_the_name_of_the_setting(text: str):
    with pytest.raises(InvalidField) as refused:
        parse_bind("METRICS_BIND_ADDRESS", text)
    assert refused.value.path == "METRICS_BIND_ADDRESS"


async def test_readiness_follows_its_reason_and_health_does_not():
    reason = "the models have not been read yet"
    async with (
        serving(health_app(lambda: reason), Bind("127.0.0.1", 0)) as bound,
        aiohttp.ClientSession(f"http://{bound}") as session,
    ):
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "the models have not been read yet\n")
        reason = ""
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get("/metrics") as answer:
            assert answer.status == 404


async def test_metrics_are_what_the_registry_renders_in_its_format():
    async with (
        serving(metrics_app(lambda: b"up 1\n"), Bind("127.0.0.1", 0)) as bound,
        aiohttp.ClientSession(f"http://{bound}") as session,
        session.get("/metrics") as answer,
    ):
        assert (answer.status, await answer.read()) == (200, b"up 1\n")
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_a_port_that_is_taken_is_an_error():
    async with serving(metrics_app(lambda: b""), Bind("127.0.0.1", 0)) as bound:
        with pytest.raises(OSError, match="address already in use"):
            async with serving(metrics_app(lambda: b""), bound):
                pass
