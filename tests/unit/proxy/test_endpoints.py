"""EndpointSlices as the proxy reads them: which replicas are ready, and how each is spoken to."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.backends.base import Serving
from flexinfer.errors import InvalidField
from flexinfer.proxy.endpoints import Dial, EndpointView, decode_slice, dial_of
from flexinfer.routing.base import Endpoint

ABSENT: Any = object()


def slice_of(
    *addresses: str, name: str = "s", service: str = "m", ready: Any = True, ports: Any = ABSENT, **labels: str
) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service} | labels,
            "managedFields": [{"manager": "somebody"}],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9000}] if ports is ABSENT else ports,
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
    }


class Seen:
    """A view with the slices given, and the Services it said had changed."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.services: list[str] = []
        self.view = EndpointView(lambda service: self.services.append(service.name), "default")
        for obj in objects:
            self.put(obj)

    def put(self, new: dict[str, Any] | None, old: dict[str, Any] | None = None) -> None:
        metadata = (new or old or {})["metadata"]
        key = ObjectKey(metadata["namespace"], metadata["name"])
        self.view.handle(key, decode_slice(old) if old else None, decode_slice(new) if new else None)

    def addresses(self, service: str = "m") -> list[str]:
        return [
            f"{endpoint.host}:{endpoint.port}" for endpoint in self.view.ready(ObjectKey("default", service), Dial())
        ]


OURS = {"endpointslice.kubernetes.io/managed-by": "flexinfer"}
ELSEWHERE = {"endpointslice.kubernetes.io/managed-by": "flexinfer-external"}


@pytest.mark.parametrize(
    ("obj", "addresses"),
    [
        pytest.param(slice_of("10.0.0.1", "10.0.0.2"), ["10.0.0.1:9000", "10.0.0.2:9000"], id="all ready ones"),
        pytest.param(slice_of("10.0.0.1", ready=False), [], id="none that is not ready"),
        pytest.param(slice_of("10.0.0.1", ready=None), ["10.0.0.1:9000"], id="unknown counts as ready"),
        pytest.param(slice_of("10.0.0.1", **OURS), [], id="a slice that leads to the proxy is no replica"),
        pytest.param(slice_of("10.0.0.1", **ELSEWHERE), [], id="what is left of a server elsewhere is no pod"),
        pytest.param(slice_of("engine.example"), [], id="a name is not dialled"),
        pytest.param(slice_of("10.0.0.1", ports=None), [], id="no port, no replica"),
        pytest.param(slice_of("10.0.0.1", ports=[{"name": "http"}]), [], id="a port without a number is none"),
        pytest.param(
            slice_of("10.0.0.1", ports=[{"name": "metrics", "port": 1}, {"name": "http", "port": 2}]),
            ["10.0.0.1:2"],
            id="the port named http comes first",
        ),
        pytest.param(
            slice_of("10.0.0.1", ports=[{"name": "a", "port": 1}, {"name": "b", "port": 2}]),
            ["10.0.0.1:1"],
            id="the first port where none is named http",
        ),
        pytest.param(slice_of("10.0.0.1") | {"endpoints": None}, [], id="a null list is empty"),
        pytest.param(slice_of("10.0.0.1", service="other"), [], id="the slice of another Service"),
    ],
)
def test_ready_replicas_of_a_slice(obj, addresses):
    assert Seen(obj).addresses() == addresses


def test_an_endpoint_carries_its_pod_its_node_and_how_to_speak_to_it():
    obj = slice_of("fd00::1")
    obj["endpoints"][0] |= {"targetRef": {"kind": "Pod", "name": "m-0", "uid": "u-1"}, "nodeName": "gpu-1"}
    view = Seen(obj).view
    assert view.ready(ObjectKey("default", "m"), Dial("engine.example", "engine.example:8443", "/key")) == (
        Endpoint(
            name="m-0",
            host="fd00::1",
            port=9000,
            uid="u-1",
            node="gpu-1",
            tls_server_name="engine.example",
            authority="engine.example:8443",
            api_key_file="/key",
        ),
    )


def test_a_replica_without_a_pod_is_named_by_its_address_and_is_local():
    (endpoint,) = Seen(slice_of("fd00::1")).view.ready(ObjectKey("default", "m"), Dial())
    assert (endpoint.name, endpoint.node) == ("[fd00::1]:9000", "local")


def test_slices_of_one_service_add_up_in_a_steady_order_and_each_replica_counts_once():
    seen = Seen(slice_of("10.0.0.2", name="b"), slice_of("10.0.0.1", "10.0.0.2", name="a"))
    assert seen.addresses() == ["10.0.0.1:9000", "10.0.0.2:9000"]


def test_a_change_replaces_and_a_deletion_removes():
    first, second = slice_of("10.0.0.1"), slice_of("10.0.0.2")
    seen = Seen(first)
    seen.put(second, first)
    assert seen.addresses() == ["10.0.0.2:9000"]
    seen.put(None, second)
    assert seen.addresses() == []
    assert seen.services == ["m", "m", "m"]


def test_a_slice_that_changes_its_service_leaves_the_old_one():
    before, after = slice_of("10.0.0.1"), slice_of("10.0.0.1", service="other")
    seen = Seen(before)
    seen.put(after, before)
    assert (seen.addresses("m"), seen.addresses("other")) == ([], ["10.0.0.1:9000"])
    assert seen.services == ["m", "m", "other"]


def test_slices_of_another_namespace_are_not_seen():
    obj = slice_of("10.0.0.1")
    obj["metadata"]["namespace"] = "kube-system"
    assert Seen(obj).services == []


@pytest.mark.parametrize(
    ("backend", "source", "dial"),
    [
        pytest.param("simulator", "file:///models/m.gguf", Dial(), id="an engine of ours needs nothing"),
        pytest.param("external", "http://10.0.0.1:8000", Dial(authority="10.0.0.1:8000"), id="plain HTTP"),
        pytest.param(
            "external",
            "https://engine.example",
            Dial("engine.example", "engine.example"),
            id="TLS on the usual port",
        ),
        pytest.param(
            "external",
            "https://engine.example:8443",
            Dial("engine.example", "engine.example:8443"),
            id="TLS on another port",
        ),
        pytest.param("external", "https://[fd00::1]:8443", Dial("fd00::1", "[fd00::1]:8443"), id="an IPv6 literal"),
    ],
)
def test_how_to_speak_to_a_model(backend, source, dial):
    assert dial_of(model("m", backend=backend, source=source), Serving(slots=1)) == dial


def test_the_key_of_an_external_server_goes_along():
    spoken = dial_of(model("m", backend="external", source="http://10.0.0.1:8000"), Serving(slots=1, api_key_file="/k"))
    assert spoken.api_key_file == "/k"


def test_a_source_that_is_no_address_is_refused():
    with pytest.raises(InvalidField):
        dial_of(model("m", backend="external", source="http://"), Serving(slots=1))
