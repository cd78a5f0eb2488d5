"""Servers that run elsewhere: which addresses may be dialled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flexinfer.backends import external
from flexinfer.backends.base import Serving, Upstream
from flexinfer.errors import InvalidField

Make = Callable[..., Any]
EVERYTHING = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    "ip",
    ["127.0.0.1", "127.255.0.9", "::1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.9", "fc00::1", "fd12::3",
     "::ffff:10.0.0.1"],
)  # fmt: skip
def test_allowed(ip: str) -> None:
    assert external.allowed(ip) is None


@pytest.mark.parametrize(
    "ip",
    ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "febf::1", "0.0.0.0", "0.1.2.3", "::", "224.0.0.1",
     "239.1.1.1", "ff02::1", "fd00:ec2::254", "100.100.100.200", "255.255.255.255", "::ffff:169.254.169.254",
     "::ffff:100.100.100.200", "::ffff:0.0.0.0", "::ffff:a9fe:a9fe", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::",
     "::169.254.169.254", "localhost", "", "1.2.3", "0x7f000001"],
)  # fmt: skip
def test_never_allowed(ip: str) -> None:
    assert external.allowed(ip, EVERYTHING) is not None


@pytest.mark.parametrize(
    ("ip", "cidrs", "fine"),
    [
        pytest.param("8.8.8.8", (), False, id="a public address"),
        pytest.param("8.8.8.8", ("8.8.8.0/24",), True, id="a public address that was allowed"),
        pytest.param("8.8.9.8", ("8.8.8.0/24",), False, id="one beside it"),
        pytest.param("::ffff:8.8.8.8", ("8.8.8.0/24",), True, id="the same in IPv6 form"),
        pytest.param("172.32.0.1", (), False, id="just outside the private range"),
        pytest.param("100.64.0.1", (), False, id="a carrier's address"),
        pytest.param("2001:db8::1", ("2001:db8::/32",), True, id="an IPv6 range"),
        pytest.param("2002:7f00:1::", (), False, id="loopback behind a relay is not loopback"),
    ],
)
def test_others_only_where_they_were_allowed(ip: str, cidrs: tuple[str, ...], fine: bool) -> None:
    assert (external.allowed(ip, cidrs) is None) == fine


@pytest.mark.parametrize(
    ("ip", "fine"),
    [
        pytest.param("10.1.2.3", False, id="a private address is that of somebody's pod"),
        pytest.param("127.0.0.1", False, id="loopback is the manager itself"),
        pytest.param("10.9.0.7", True, id="what the installation lists"),
        pytest.param("::ffff:10.9.0.7", True, id="the same in IPv6 form"),
        pytest.param("169.254.169.254", False, id="never where clouds serve credentials, whatever is listed"),
        pytest.param("gpu.lan", False, id="a name is no address"),
    ],
)
def test_in_a_cluster_only_what_the_installation_lists_may_be_dialled(ip: str, fine: bool) -> None:
    assert (external.allowed_in_cluster(ip, ("10.9.0.0/16", "169.254.0.0/16")) is None) == fine


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://127.0.0.1:9000", Upstream("http", "127.0.0.1", 9000)),
        ("https://gpu.lan", Upstream("https", "gpu.lan", 443)),
        ("http://[::1]:80/", Upstream("http", "::1", 80)),
    ],
)
def test_upstream(model: Make, source: str, expected: Upstream) -> None:
    assert external.upstream(model("external", source)) == expected


@pytest.mark.parametrize(
    "source",
    [
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:99999",
        "http://u:p@a",
        "http://a/v1",
        "http://a?b",
        "file:///m",
        "a",
    ],
)
def test_no_address_no_upstream(model: Make, source: str) -> None:
    with pytest.raises(InvalidField, match=r"spec\.source"):
        external.upstream(model("external", source))


def test_plan_and_serving(model: Make, site: Make) -> None:
    found = model("external", "http://10.0.0.1:8000", slots=2, servedModelName="x", healthPath="/h", apiKeyFile="/k")
    plan = external.plan(found, site())
    assert (plan.program, plan.port, plan.health_path, plan.slots, plan.served_model) == ("", 8000, "/h", 2, "x")
    assert external.serving(found) == Serving(slots=2, served_model="x", api_key_file="/k")
    assert external.serving(model("external", "?")) == Serving(slots=64)


@pytest.mark.parametrize("path", ["h", "/a b", "/a\r\nX: y", ""])
def test_a_health_path_is_a_path(model: Make, site: Make, path: str) -> None:
    with pytest.raises(InvalidField, match="healthPath"):
        external.plan(model("external", "http://10.0.0.1:8000", healthPath=path), site())
