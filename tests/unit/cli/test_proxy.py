"""`flexinfer proxy`: what it is told, and what a Model on a cluster cannot make it do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.models import model

from flexinfer.cli import proxyprocess
from flexinfer.cli.front import FrontSettings
from flexinfer.cli.proxy import command
from flexinfer.cli.proxyprocess import Ports, ProxyOptions
from flexinfer.proxy.environment import REFUSED
from flexinfer.proxy.settings import ProxySettings
from flexinfer.routing.base import Endpoint

KUBECONFIG = """
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: ""}}]
current-context: c
"""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ProxyOptions]:
    """What the process would have been started with."""
    found: list[ProxyOptions] = []
    monkeypatch.setattr(proxyprocess, "serve", lambda options, _access: found.append(options) or 0)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return found


def run(*words: str, env: dict[str, str | None] | None = None) -> tuple[int, str]:
    done = CliRunner(env=env).invoke(command, words)
    return done.exit_code, done.output


def test_its_defaults_are_those_of_a_cluster(told: list[ProxyOptions]):
    assert run("--no-auth") == (0, "")
    assert told == [
        ProxyOptions(
            ports=Ports("0.0.0.0", 8080, 8081, 8083),
            namespaces=(),
            front=FrontSettings(proxy=ProxySettings(), queue_size=100, access_log=True),
            drain_delay_s=5.0,
            grace_s=600.0,
        )
    ]


def test_the_known_variables_are_read(told: list[ProxyOptions]):
    env: dict[str, str | None] = {
        "PROXY_MAX_QUEUE_SIZE": "7",
        "PROXY_QUEUE_TIMEOUT": "2m",
        "PROXY_SHUTDOWN_DRAIN_DELAY": "1s",
        "PROXY_GRACEFUL_SHUTDOWN_TIMEOUT": "20s",
        "FLEXINFER_WATCH_NAMESPACES": "team-a, team-b",
        "FLEXINFER_ALLOW_UPSTREAM": "203.0.113.0/24,2001:db8::/32",
    }
    assert run("--no-auth", env=env) == (0, "")
    (options,) = told
    assert (options.front.queue_size, options.front.queue_timeout_s) == (7, 120.0)
    assert (options.drain_delay_s, options.grace_s) == (1.0, 20.0)
    assert options.namespaces == ("team-a", "team-b")
    assert options.front.allowed_cidrs == ("203.0.113.0/24", "2001:db8::/32")


def test_a_flag_counts_more_than_a_variable(told: list[ProxyOptions]):
    run(
        "--no-auth",
        "--queue-size",
        "3",
        "--namespace",
        "c",
        env={"PROXY_MAX_QUEUE_SIZE": "7", "FLEXINFER_WATCH_NAMESPACES": "a"},
    )
    assert (told[0].front.queue_size, told[0].namespaces) == (3, ("c",))


@pytest.mark.parametrize("name", [pytest.param(name, id=f"{name} is told to have no effect") for name in REFUSED])
def test_variables_that_can_have_no_effect_are_refused_by_name(told: list[ProxyOptions], name: str):
    code, output = run("--no-auth", env={name: "5s"})
    assert (code, told) == (2, [])
    assert name in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param((), "say --no-auth", id="neither keys nor the wish to have none"),
        pytest.param(("--no-auth", "--allow-upstream", "everything"), "expected something like", id="no CIDR"),
        pytest.param(("--no-auth", "--cors-origin", "x"), "expected scheme and host", id="no origin"),
        pytest.param(("--no-auth", "--max-body", "1Gi"), "larger than --buffer-memory", id="a body that never fits"),
    ],
)
def test_what_cannot_be_is_told(told: list[ProxyOptions], words: tuple[str, ...], said: str):
    code, output = run(*words)
    assert (code, said in output, told) == (2, True, []), output


def endpoint(host: str, authority: str = "") -> Endpoint:
    return Endpoint(name="e", host=host, port=1, authority=authority)


@pytest.mark.parametrize(
    ("one", "cidrs", "may"),
    [
        pytest.param(endpoint("100.64.0.7"), (), True, id="a pod, wherever pods are"),
        pytest.param(endpoint("10.0.0.7", "engine:80"), (), False, id="an external address that nobody allowed"),
        pytest.param(endpoint("10.0.0.7", "engine:80"), ("10.0.0.0/24",), True, id="one that the installation lists"),
        pytest.param(endpoint("fd00::7", "engine:80"), ("10.0.0.0/24",), False, id="one of another family"),
    ],
)
def test_who_may_be_dialled(one: Endpoint, cidrs: tuple[str, ...], may: bool):
    assert proxyprocess.may_dial(one, cidrs) is may


def test_a_model_cannot_have_a_file_of_the_proxy_sent_to_its_server():
    one = model(backend="external", source="http://10.0.0.7:80", config={"apiKeyFile": "/etc/flexinfer/keys/keys.txt"})
    assert proxyprocess.serving(one).api_key_file == ""
