"""Hosts: what is an address, and which ones only this machine means."""

from __future__ import annotations

import pytest

from flexinfer.api.hosts import is_address, is_loopback, literal


@pytest.mark.parametrize(
    ("host", "address", "loopback", "in_url"),
    [
        pytest.param("127.0.0.1", True, True, "127.0.0.1", id="loopback"),
        pytest.param("127.9.9.9", True, True, "127.9.9.9", id="all of 127.0.0.0/8 is"),
        pytest.param("::1", True, True, "[::1]", id="loopback of IPv6"),
        pytest.param("localhost", False, True, "localhost", id="the one name that means it"),
        pytest.param("0.0.0.0", True, False, "0.0.0.0", id="every address"),
        pytest.param("::", True, False, "[::]", id="every address of both kinds"),
        pytest.param("192.168.1.2", True, False, "192.168.1.2", id="a private network"),
        pytest.param("localhost.example", False, False, "localhost.example", id="a name"),
        pytest.param("", False, False, "", id="nothing"),
    ],
)
def test_hosts(host: str, address: bool, loopback: bool, in_url: str) -> None:
    assert (is_address(host), is_loopback(host), literal(host)) == (address, loopback, in_url)
