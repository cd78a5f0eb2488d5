"""What a request may see by its Host."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.backends.base import Serving
from flexinfer.errors import RequestError
from flexinfer.lifecycle.modelfacts import ModelFacts
from flexinfer.lifecycle.modelqueue import ModelQueue
from flexinfer.proxy.byhost import HostAtLast, OnlyByHost, service_of
from flexinfer.proxy.requesthead import RequestHead
from flexinfer.proxy.targets import ModelTarget, Targets

SPEC: dict[str, Any] = {"litellm": {"enabled": True, "aliases": ["chat"]}}


class Everything:
    """The admission of the whole proxy; only `resolve` is asked."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def resolve(self, name: str) -> ModelTarget:
        return self._targets.called[name]


@pytest.fixture
def targets() -> Targets:
    found = Targets(qualified=True)
    for key, spec in (("a/m", SPEC), ("b/m", {}), ("b/n", {})):
        namespace, _, name = key.partition("/")
        one = model(name, **spec)
        one.metadata.namespace = namespace
        served = "org/model" if name == "n" else None
        found.put(ModelTarget(one, ModelQueue(key, ModelFacts())), one, Serving(slots=1, served_model=served))
    return found


def head(host: str) -> RequestHead:
    found = RequestHead(b"POST", b"/v1/chat/completions", 1)
    found.host = host.encode()
    return found


@pytest.mark.parametrize(
    ("host", "service"),
    [
        pytest.param("m.a", ObjectKey("a", "m"), id="service and namespace"),
        pytest.param("m.a.svc", ObjectKey("a", "m"), id="with svc"),
        pytest.param("m.a.svc.cluster.local", ObjectKey("a", "m"), id="in full"),
        pytest.param("m.a.svc.corp.example.", ObjectKey("a", "m"), id="another domain, and the root's dot"),
        pytest.param("M.A.SVC:8000", ObjectKey("a", "m"), id="any case, with a port"),
        pytest.param("m:8000", ObjectKey("", "m"), id="the service alone, as pods of its namespace may say"),
        pytest.param("m.a.pod.cluster.local", None, id="the name of no Service"),
        pytest.param("10.0.0.1:8083", None, id="an address"),
        pytest.param("[fd00::1]:8083", ObjectKey("", "[fd00"), id="an IPv6 address is no Service that there is"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_services_in_hosts(host: str, service: ObjectKey | None):
    assert service_of(host.encode()) == service


@pytest.mark.parametrize(
    ("host", "said", "found"),
    [
        pytest.param("m.a.svc", "", "a/m", id="no name at all"),
        pytest.param("m.a.svc", "m", "a/m", id="its name, though it is not unique"),
        pytest.param("m.a.svc", "a/m", "a/m", id="its full name"),
        pytest.param("m.a.svc", "chat", "a/m", id="an alias"),
        pytest.param("m.a.svc", "a/chat", "a/m", id="an alias in full"),
        pytest.param("n.b.svc", "org/model", "b/n", id="what its engine calls it"),
        pytest.param("n", "n", "b/n", id="a short host that is unique"),
        pytest.param("m.a.svc", "n", None, id="another Model"),
        pytest.param("m.a.svc", "b/m", None, id="its namesake"),
        pytest.param("m", "m", None, id="a short host that is not unique"),
        pytest.param("x.a.svc", "m", None, id="a Service of no Model"),
        pytest.param("10.0.0.1", "m", None, id="an address"),
    ],
)
def test_the_port_of_services_serves_the_model_of_the_host_and_no_other(
    targets: Targets, host: str, said: str, found: str | None
):
    by_host = OnlyByHost(Everything(targets), targets)  # type: ignore[arg-type]
    if found is not None:
        assert by_host.called(head(host), said).resolve(said).name == found
        return
    with pytest.raises(RequestError) as refused:
        by_host.called(head(host), said).resolve(said)
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


def test_the_port_of_services_lists_the_model_of_the_host_alone(targets: Targets):
    one = OnlyByHost(Everything(targets), targets).listing(head("m.a"))  # type: ignore[arg-type]
    assert [entry.id for entry in one.models()] == ["a/m", "chat"]
    assert one.listed("m").id == "a/m"
    with pytest.raises(RequestError, match="this address serves the model 'm', not 'n'"):
        one.listed("n")


def test_at_the_proxy_s_own_address_the_host_counts_where_a_body_names_nobody(targets: Targets):
    everything = Everything(targets)
    by_host = HostAtLast(everything, targets)  # type: ignore[arg-type]
    assert by_host.called(head("m.a.svc"), "n") is everything
    assert by_host.called(head("m.a.svc"), "").resolve("").name == "a/m"
    assert by_host.listing(head("m.a.svc")) is everything
    with pytest.raises(RequestError) as refused:
        by_host.called(head("flexinfer-proxy.flexinfer-system"), "")
    assert (refused.value.status, refused.value.code) == (400, "missing_required_field")
