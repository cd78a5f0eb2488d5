"""HTTPS_PROXY and NO_PROXY, as Go programs read them."""

from __future__ import annotations

import pytest

from flexinfer.errors import BadKubeconfig
from flexinfer.kube.proxies import from_environment

PROXY = "http://proxy:3128"
SERVER = "https://k8s.example.com:6443"


@pytest.mark.parametrize(
    ("server", "env", "proxy"),
    [
        pytest.param(SERVER, {}, "", id="nothing is said"),
        pytest.param(SERVER, {"HTTPS_PROXY": PROXY}, PROXY, id="for https"),
        pytest.param(SERVER, {"https_proxy": PROXY}, PROXY, id="in small letters"),
        pytest.param(SERVER, {"HTTPS_PROXY": PROXY, "https_proxy": "http://b"}, PROXY, id="capitals count more"),
        pytest.param(SERVER, {"HTTP_PROXY": PROXY}, "", id="the one for http is not for https"),
        pytest.param(SERVER, {"HTTPS_PROXY": "proxy:3128"}, PROXY, id="without a scheme"),
        pytest.param("https://localhost:6443", {"HTTPS_PROXY": PROXY}, "", id="localhost"),
        pytest.param("https://127.8.8.8", {"HTTPS_PROXY": PROXY}, "", id="loopback"),
        pytest.param("https://[::1]:6443", {"HTTPS_PROXY": PROXY}, "", id="loopback of IPv6"),
    ],
)
def test_from_environment(server, env, proxy):
    assert from_environment(server, env) == proxy


@pytest.mark.parametrize(
    ("without", "server", "direct"),
    [
        pytest.param("*", SERVER, True, id="everything"),
        pytest.param("k8s.example.com", SERVER, True, id="the host"),
        pytest.param("K8S.Example.Com", SERVER, True, id="in capitals"),
        pytest.param("a, example.com ,b", SERVER, True, id="a domain above it"),
        pytest.param(".example.com", SERVER, True, id="below a domain"),
        pytest.param("*.example.com", SERVER, True, id="below a domain, with a star"),
        pytest.param(".example.com", "https://example.com", False, id="a domain is not below itself"),
        pytest.param("ample.com", SERVER, False, id="half a name"),
        pytest.param("k8s.example.com:6443", SERVER, True, id="the port"),
        pytest.param("k8s.example.com:443", SERVER, False, id="another port"),
        pytest.param("example.com:443", "https://k8s.example.com", True, id="the port that https has"),
        pytest.param("10.0.0.7", "https://10.0.0.7:6443", True, id="an address"),
        pytest.param("10.0.0.0/8", "https://10.200.0.7:6443", True, id="a network"),
        pytest.param("10.0.0.0/16", "https://10.200.0.7:6443", False, id="another network"),
        pytest.param("10.0.0.0/8", SERVER, False, id="a network says nothing of names"),
        pytest.param("fd00::/8", "https://[fd00::7]:6443", True, id="a network of IPv6"),
        pytest.param("[fd00::7]:6443", "https://[fd00::7]:6443", True, id="an address of IPv6 with a port"),
        pytest.param("fd00::7", "https://[fd00::7]:6443", True, id="an address of IPv6"),
        pytest.param("10.0.0.0/99, ,", SERVER, False, id="nonsense"),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy(name, without, server, direct):
    assert from_environment(server, {"HTTPS_PROXY": PROXY, name: without}) == ("" if direct else PROXY)


@pytest.mark.parametrize("proxy", ["socks5://u:s3cr3t@proxy", "https://u:s3cr3t@proxy", "http://", "http://[s3cr3t"])
def test_proxies_that_are_not_spoken_to(proxy):
    with pytest.raises(BadKubeconfig, match="environment: https_proxy: expected ") as raised:
        from_environment(SERVER, {"https_proxy": proxy})
    assert "s3cr3t" not in str(raised.value)
