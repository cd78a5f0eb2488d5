"""A client made of a kubeconfig against servers on this machine: certificates, names, proxies, tokens."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from tests.manual_clock import ManualClock
from tests.support.cluster.certificates import Authority, Pair

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import BadKubeconfig, Unauthorized
from flexinfer.kube import config
from flexinfer.kube.access import Access, Material, User
from flexinfer.kube.kubeconfig import Kubeconfig
from flexinfer.kube.store import CONFIG_MAPS

KEY = ObjectKey("default", "a")
FOUND = {"metadata": {"name": "a"}}
SECRET = "s3cr3t-value"
NAME = "api.cluster.test"


class Seen(NamedTuple):
    headers: dict[str, str]
    client: str
    """Common name of the certificate that the client showed."""


class Server:
    """Answers a ConfigMap, or what `answers` says, and notes who asks."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[Seen] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []

    async def handle(self, request: web.Request) -> web.Response:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        subject = dict(entry for part in (certificate or {}).get("subject", ()) for entry in part)
        self.seen.append(Seen(dict(request.headers), subject.get("commonName", "")))
        status, body = self.answers.pop(0) if self.answers else (200, FOUND)
        return web.json_response(body, status=status)


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def served(pair: Pair | None = None, clients: Path | None = None) -> Server:
            server, tls = Server(), None
            if pair:
                tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls.load_cert_chain(*pair)
                if clients:
                    tls.load_verify_locations(clients)
                    tls.verify_mode = ssl.CERT_OPTIONAL
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", server.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.05)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            server.port = site._server.sockets[0].getsockname()[1]
            return server

        yield served


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.server("server", ("127.0.0.1",), (NAME,))


def access(server: Server, authority: Authority | None, **fields: Any) -> Access:
    ca = Material(file=authority.certificate) if authority else None
    return Access(server=f"https://127.0.0.1:{server.port}", ca=ca, **fields)


def certified(pair: Pair, *, as_data: bool = False) -> User:
    certificate, key = pair
    if as_data:
        return User(certificate=Material(data=certificate.read_bytes()), key=Material(data=key.read_bytes()))
    return User(certificate=Material(file=certificate), key=Material(file=key))


# TLS


async def test_a_server_is_known_by_its_authority(serve, authority, pair):
    server = await serve(pair)
    async with config.connect(access(server, authority, user=User(token="t")), env={}) as store:
        assert await store.get(CONFIG_MAPS, KEY) == FOUND
    assert server.seen[0].headers["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("trusted", "name", "message"),
    [
        pytest.param("stranger", "", "certificate verify failed", id="signed by a stranger"),
        pytest.param(None, "", "certificate verify failed", id="unknown to this machine's authorities"),
        pytest.param("authority", "other.example", "Hostname mismatch", id="under another name"),
    ],
)
async def test_nobody_speaks_to_a_server_that_is_not_vouched_for(request, serve, pair, trusted, name, message):
    server = await serve(pair)
    vouching = request.getfixturevalue(trusted) if trusted else None
    asked = access(server, vouching, tls_server_name=name, user=User(token=SECRET))
    async with config.connect(asked, env={}) as store:
        with pytest.raises(OSError, match=message) as raised:
            await store.get(CONFIG_MAPS, KEY)
    assert server.seen == []
    assert SECRET not in f"{raised.value!r}"


async def test_a_server_under_the_name_that_the_kubeconfig_gives_it(serve, authority):
    server = await serve(authority.server("named", ("192.0.2.1",), (NAME,)))
    async with config.connect(access(server, authority, tls_server_name=NAME), env={}) as store:
        assert await store.get(CONFIG_MAPS, KEY) == FOUND


@pytest.mark.parametrize("as_data", [False, True])
async def test_a_client_certificate_is_shown(serve, authority, pair, as_data):
    server = await serve(pair, clients=authority.certificate)
    user = certified(authority.client("jane", ("team",)), as_data=as_data)
    async with config.connect(access(server, authority, user=user), env={}) as store:
        assert await store.get(CONFIG_MAPS, KEY) == FOUND
    assert server.seen[0].client == "jane"


async def test_certificates_that_change_in_their_files_are_read_again(serve, authority, pair, tmp_path):
    server = await serve(pair, clients=authority.certificate)
    files = Pair(tmp_path / "client.crt", tmp_path / "client.key")

    def put(name: str) -> None:
        for source, target in zip(authority.client(name), files, strict=True):
            target.write_bytes(source.read_bytes())

    put("before")
    clock = ManualClock()
    async with config.connect(access(server, authority, user=certified(files)), env={}, clock=clock) as store:
        await store.get(CONFIG_MAPS, KEY)
        put("after-it")
        clock.advance(5)
        await store.get(CONFIG_MAPS, KEY)
        clock.advance(6)
        await store.get(CONFIG_MAPS, KEY)
        files.key.write_text("half a ke")
        clock.advance(11)
        await store.get(CONFIG_MAPS, KEY)
    assert [seen.client for seen in server.seen] == ["before", "before", "after-it", "after-it"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"ca": Material(data=b"none")}, "certificates of authorities in PEM", id="an authority"),
        pytest.param(
            {"ca": Material(file=Path("/none/ca"))}, "/none/ca: expected a file that can be read", id="a missing file"
        ),
        pytest.param(
            {"user": User(certificate=Material(data=SECRET.encode()), key=Material(data=SECRET.encode()))},
            "a client certificate and its key in PEM",
            id="a client certificate",
        ),
    ],
)
async def test_what_is_no_certificate_is_told_at_once(fields, message):
    with pytest.raises(BadKubeconfig, match=message) as raised:
        config.connect(Access(server="https://127.0.0.1:1", **fields), env={})
    assert SECRET not in str(raised.value)


# Proxies


class Proxy(NamedTuple):
    port: int
    requests: list[bytes]
    """Heads of the requests it was sent."""


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Passes on what is sent through a CONNECT that shows the password, and refuses everything else."""
    heads: list[bytes] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        method, target, _ = head.split(b" ", 2)
        if method != b"CONNECT" or b"Proxy-Authorization: Basic dTpzM2NyM3QtdmFsdWU=" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        _, _, port = target.decode().rpartition(":")
        upstream = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, upstream[1]), copy(upstream[0], writer), return_exceptions=True)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield Proxy(server.sockets[0].getsockname()[1], heads)
    server.close()


async def test_a_proxy_is_asked_to_connect_and_sees_nothing(serve, authority, pair, proxy):
    server = await serve(pair, clients=authority.certificate)
    asked = access(
        server,
        authority,
        proxy=f"http://u:{SECRET}@127.0.0.1:{proxy.port}",
        user=certified(authority.client("jane")),
        tls_server_name=NAME,
    )
    async with config.connect(asked, env={"NO_PROXY": "*"}) as store:
        assert await store.get(CONFIG_MAPS, KEY) == FOUND
    assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode())
    assert [seen.client for seen in server.seen] == ["jane"]
    assert "Proxy-Authorization" not in server.seen[0].headers


async def test_the_environment_names_a_proxy(authority, pair, serve, proxy):
    server = await serve(authority.server("elsewhere", (), ("cluster.example",)))
    asked = Access(server=f"https://cluster.example:{server.port}", ca=Material(file=authority.certificate))
    env = {"HTTPS_PROXY": f"u:{SECRET}@127.0.0.1:{proxy.port}"}
    async with config.connect(asked, env=env) as store:
        assert await store.get(CONFIG_MAPS, KEY) == FOUND
    assert proxy.requests[0].startswith(f"CONNECT cluster.example:{server.port} HTTP/1.1".encode())


async def test_a_proxy_that_refuses(serve, authority, pair, proxy):
    server = await serve(pair)
    asked = access(server, authority, proxy=f"http://{SECRET}:x@127.0.0.1:{proxy.port}")
    async with config.connect(asked, env={}) as store:
        with pytest.raises(OSError, match="the proxy answered 407") as raised:
            await store.get(CONFIG_MAPS, KEY)
    assert SECRET not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_a_proxy_that_is_not_there(serve, authority, pair, unused_tcp_port):
    server = await serve(pair)
    asked = access(server, authority, proxy=f"http://u:{SECRET}@127.0.0.1:{unused_tcp_port}")
    async with config.connect(asked, env={}) as store:
        with pytest.raises(OSError, match="Cannot connect") as raised:
            await store.get(CONFIG_MAPS, KEY)
    assert SECRET not in f"{raised.value!r} {raised.value.__cause__!r}"


# Tokens


UNAUTHORIZED = (401, {"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized"})


def plain(server: Server, user: User) -> Access:
    return Access(server=f"http://127.0.0.1:{server.port}", user=user)


def tokens(server: Server) -> list[str]:
    return [seen.headers["Authorization"].removeprefix("Bearer ") for seen in server.seen]


async def test_a_token_file_is_read_again_each_minute(serve, tmp_path):
    server, clock, file = await serve(), ManualClock(), tmp_path / "token"
    async with config.connect(plain(server, User(token_file=file)), env={}, clock=clock) as store:
        for token, later_s in (("one", 59), ("two", 1), ("three", 60), ("", 60)):
            file.write_text(f"{token}\n")
            await store.get(CONFIG_MAPS, KEY)
            clock.advance(later_s)
        file.unlink()
        await store.get(CONFIG_MAPS, KEY)
    assert tokens(server) == ["one", "one", "three", "three", "three"]


async def test_a_token_that_is_refused_is_read_again_at_once(serve, tmp_path):
    server, file = await serve(), tmp_path / "token"
    file.write_text("old")
    async with config.connect(plain(server, User(token_file=file)), env={}) as store:
        await store.get(CONFIG_MAPS, KEY)
        file.write_text("new")
        server.answers = [UNAUTHORIZED]
        assert await store.get(CONFIG_MAPS, KEY) == FOUND
        server.answers = [UNAUTHORIZED]
        with pytest.raises(Unauthorized):
            await store.get(CONFIG_MAPS, KEY)
    assert tokens(server) == ["old", "old", "new", "new"]


async def test_watches_show_the_new_token_too(serve, tmp_path):
    server, file = await serve(), tmp_path / "token"
    file.write_text("old")
    async with config.connect(plain(server, User(token_file=file)), env={}) as store:
        await store.get(CONFIG_MAPS, KEY)
        file.write_text("new")
        server.answers = [UNAUTHORIZED]
        async with aclosing(store.watch(CONFIG_MAPS, "1")) as events:
            assert [event async for event in events] == []
    assert tokens(server) == ["old", "old", "new"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "token: no token: No such file or directory", id="no file"),
        pytest.param("\n", "token: no token: it is empty", id="an empty file"),
        pytest.param(f"{SECRET}\nX: y", "token: no token: it does not hold one", id="two lines"),
    ],
)
async def test_without_a_token_nothing_is_asked(serve, tmp_path, content, message):
    server, file = await serve(), tmp_path / "token"
    if content is not None:
        file.write_text(content)
    async with config.connect(plain(server, User(token_file=file)), env={}) as store:
        with pytest.raises(Unauthorized, match=message) as raised:
            await store.get(CONFIG_MAPS, KEY)
    assert server.seen == []
    assert SECRET not in str(raised.value)


async def test_the_token_beside_the_file_serves_until_the_file_is_there(serve, tmp_path):
    server, clock, file = await serve(), ManualClock(), tmp_path / "token"
    user = User(token="written", token_file=file)
    async with config.connect(plain(server, user), env={}, clock=clock) as store:
        await store.get(CONFIG_MAPS, KEY)
        file.write_text("from the file".replace(" ", "-"))
        clock.advance(60)
        await store.get(CONFIG_MAPS, KEY)
    assert tokens(server) == ["written", "from-the-file"]


async def test_an_error_page_that_shows_the_request_does_not_show_the_token(serve):
    server = await serve()
    server.answers = [(403, {"message": f"Authorization: Bearer {SECRET} may not"})]
    async with config.connect(plain(server, User(token=SECRET)), env={}) as store:
        with pytest.raises(Exception, match=r"Bearer \*\*\* may not"):
            await store.get(CONFIG_MAPS, KEY)


async def test_impersonation_is_sent_along(serve):
    server = await serve()
    user = User(
        token="t", headers=(("Impersonate-User", "jane"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b"))
    )
    async with config.connect(plain(server, user), env={}) as store:
        await store.get(CONFIG_MAPS, KEY)
    assert server.seen[0].headers["Impersonate-User"] == "jane"


async def test_from_environment_to_an_answer(serve, authority, pair, tmp_path, monkeypatch):
    server = await serve(pair)
    file = tmp_path / "config"
    cluster = {"server": f"https://127.0.0.1:{server.port}", "certificate-authority": str(authority.certificate)}
    written = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(written))
    assert Kubeconfig([file]).contexts == ["x"]
    monkeypatch.setenv("KUBECONFIG", str(file))
    async with config.from_environment() as store:
        assert (store.namespace, await store.get(CONFIG_MAPS, KEY)) == ("team", FOUND)
    with pytest.raises(BadKubeconfig, match="one of the contexts x, and not 'y'"):
        config.from_environment("y")
