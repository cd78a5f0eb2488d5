import pytest

from flexinfer.proxy.origins import Origins, valid


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        pytest.param(b"http://localhost:3000", True, id="a development server on this machine"),
        pytest.param(b"http://127.0.0.1", True, id="loopback by address"),
        pytest.param(b"https://[::1]:8443", True, id="loopback in IPv6"),
        pytest.param(b"https://chat.example.org", True, id="an origin that was allowed"),
        pytest.param(b"HTTPS://Chat.Example.org", True, id="in another case"),
        pytest.param(b"https://chat.example.org.evil.test", False, id="a longer host"),
        pytest.param(b"http://chat.example.org", False, id="another scheme"),
        pytest.param(b"http://localhost.evil.test", False, id="a host that begins like loopback"),
        pytest.param(b"http://127.0.0.1.evil.test", False, id="a host that begins like an address"),
        pytest.param(b"null", False, id="a file or a sandbox"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_allows(origin, allowed):
    assert Origins(["https://chat.example.org"]).allows(origin) is allowed


def test_in_a_cluster_loopback_is_no_exception():
    assert not Origins(loopback=False).allows(b"http://localhost")


@pytest.mark.parametrize(
    ("origin", "ok"),
    [
        pytest.param("https://a.example", True, id="an origin"),
        pytest.param("https://a.example:8443", True, id="with a port"),
        pytest.param("*", False, id="a star"),
        pytest.param("a.example", False, id="no scheme"),
        pytest.param("https://a.example/", False, id="a path"),
        pytest.param("https://user@a.example", False, id="a user"),
    ],
)
def test_what_a_setting_may_say(origin, ok):
    assert valid(origin) is ok
