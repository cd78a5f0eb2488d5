"""What Services are in the test cluster: who is behind them, what their names say on the wire, what pods are told."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.cluster.kubelet.dnsmessage import Question, answer, question
from tests.cluster.kubelet.podfiles import resolv_conf
from tests.cluster.kubelet.servicelinks import links
from tests.cluster.kubelet.servicetable import Front, ServiceTable, Target

from flexinfer.api.meta import ObjectKey

API = ObjectKey("default", "kubernetes")
WEB = ObjectKey("ns", "web")


def service(address: str = "198.19.16.50", **spec: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}], **spec}}


def slice_(*endpoints: dict[str, Any], of: str = "web", headless: bool = False, **ports: int) -> dict[str, Any]:
    named = [{"name": name, "port": number} for name, number in (ports or {"http": 8000}).items()]
    labels = {"kubernetes.io/service-name": of, **({"service.kubernetes.io/headless": ""} if headless else {})}
    return {
        "metadata": {"labels": labels},
        "ports": named,
        "endpoints": list(endpoints),
    }


def endpoint(last: int, hostname: str | None = None, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [f"198.18.16.{last}"], "conditions": conditions, "hostname": hostname}


def table(web: dict[str, Any], *slices: dict[str, Any]) -> ServiceTable:
    made = ServiceTable({API: Target("198.18.0.1", 6443)})
    made.on_service(API, None, service("198.19.16.1"))
    made.on_service(WEB, None, web)
    for number, one in enumerate(slices):
        made.on_slice(ObjectKey("ns", f"s{number}"), None, one)
    return made


ENDS = {"ready": False, "serving": True, "terminating": True}


@pytest.mark.parametrize(
    ("slices", "targets"),
    [
        pytest.param([slice_(endpoint(1, ready=True), endpoint(2))], ["1:8000", "2:8000"], id="nothing said is ready"),
        pytest.param([slice_(endpoint(1, ready=False), endpoint(2, ready=True))], ["2:8000"], id="who is not ready"),
        pytest.param([slice_(endpoint(1, **ENDS), endpoint(2, ready=True))], ["2:8000"], id="who ends is spared"),
        pytest.param([slice_(endpoint(1, **ENDS))], ["1:8000"], id="who ends serves where nobody else does"),
        pytest.param([slice_(endpoint(1, ready=False))], None, id="nobody"),
        pytest.param([slice_(endpoint(1), metrics=9000)], None, id="another port"),
        pytest.param([slice_(endpoint(1), of="other")], None, id="the slice of another Service"),
        pytest.param([slice_(endpoint(1), headless=True)], None, id="a slice that calls itself headless"),
        pytest.param(
            [slice_(endpoint(1)), slice_(endpoint(2), http=8083)], ["1:8000", "2:8083"], id="slices of two writers"
        ),
    ],
)
def test_who_is_behind_a_service(slices: list[dict[str, Any]], targets: list[str] | None):
    expected = {Front("198.19.16.1", 80): ["198.18.0.1:6443"]}
    if targets is not None:
        expected[Front("198.19.16.50", 80)] = [f"198.18.16.{target}" for target in targets]
    found = table(service(), *slices).fronts()
    assert {front: [f"{one.address}:{one.port}" for one in behind] for front, behind in found.items()} == expected


def test_a_service_and_a_slice_that_go_lead_nowhere():
    one = table(service(), slice_(endpoint(1)))
    one.on_slice(ObjectKey("ns", "s0"), slice_(endpoint(1)), slice_(endpoint(1), of="other"))
    assert list(one.fronts()) == [Front("198.19.16.1", 80)]
    one.on_slice(ObjectKey("ns", "s0"), slice_(endpoint(1), of="other"), slice_(endpoint(3)))
    assert one.fronts()[Front("198.19.16.50", 80)] == [Target("198.18.16.3", 8000)]
    one.on_service(WEB, service(), None)
    assert list(one.fronts()) == [Front("198.19.16.1", 80)]


EACH = slice_(
    endpoint(2, "each-1", ready=True),
    endpoint(1, "each-0", ready=True),
    endpoint(3, "each-2", ready=False),
    headless=True,
)


@pytest.mark.parametrize(
    ("name", "web", "addresses"),
    [
        pytest.param("web.ns.svc.cluster.local", service(), ["198.19.16.50"], id="its own address"),
        pytest.param(
            "web.ns.svc.cluster.local", service("None"), ["198.18.16.1", "198.18.16.2"], id="headless: the ready pods"
        ),
        pytest.param("each-1.web.ns.svc.cluster.local", service("None"), ["198.18.16.2"], id="one pod by its hostname"),
        pytest.param("each-2.web.ns.svc.cluster.local", service("None"), None, id="one pod that is not ready"),
        pytest.param("web.other.svc.cluster.local", service(), None, id="another namespace"),
        pytest.param("web.ns.svc", service(), None, id="a name that the search list would complete"),
        pytest.param("a.b.web.ns.svc.cluster.local", service(), None, id="too many labels"),
        pytest.param("example.com", service(), None, id="a name outside the cluster"),
        pytest.param(
            "web.ns.svc.cluster.local", {"spec": {"type": "ExternalName"}}, None, id="a mere name is not played"
        ),
    ],
)
def test_names(name: str, web: dict[str, Any], addresses: list[str] | None):
    assert table(web, EACH).lookup(name) == addresses


def query(name: str, kind: int = 1, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def test_a_question_is_read():
    asked = query("Web.ns")
    assert question(asked) == Question(7, 0x0100, "web.ns", 1, asked[12:])


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(query("web")[:-1], id="cut off"),
        pytest.param(query("web", flags=0x8000), id="an answer"),
        pytest.param(b"\0\7\0\0\0\2" + query("web")[6:], id="two questions"),
        pytest.param(query("web")[:12] + b"\xc0\x0c\0\1\0\1", id="a pointer"),
    ],
)
def test_what_is_no_question(message: bytes):
    with pytest.raises(ValueError, match="quer"):
        question(message)


RECORD = bytes.fromhex("c00c 0001 0001 00000005 0004 c6131032")


@pytest.mark.parametrize(
    ("asked", "addresses", "flags", "records"),
    [
        pytest.param(query("web"), ["198.19.16.50"], 0x8580, [RECORD], id="an address"),
        pytest.param(query("web", kind=28), ["198.19.16.50"], 0x8580, [], id="no IPv6 address of a name that is there"),
        pytest.param(query("web"), None, 0x8583, [], id="no such name"),
        pytest.param(query("web", flags=0x2000), ["198.19.16.50"], 0xA484, [], id="another operation"),
        pytest.param(query("web"), ["198.19.16.50"] * 40, 0x8780, [], id="too much for a datagram"),
    ],
)
def test_answers(asked: bytes, addresses: list[str] | None, flags: int, records: list[bytes]):
    head = struct.pack("!6H", 7, flags, 1, len(records), 0, 0)
    assert answer(question(asked), addresses, over_udp=True) == head + asked[12:] + b"".join(records)


def test_an_answer_by_tcp_is_whole():
    assert len(answer(question(query("web")), ["198.19.16.50"] * 40, over_udp=False)) == len(query("web")) + 40 * 16


def test_variables_of_services():
    web = service(ports=[{"name": "http-api", "port": 80}, {"port": 53, "protocol": "UDP"}])
    services = table(web).of_namespace("ns")
    assert links({"spec": {}}, services) == {
        "WEB_SERVICE_HOST": "198.19.16.50",
        "WEB_SERVICE_PORT": "80",
        "WEB_SERVICE_PORT_HTTP_API": "80",
        "WEB_PORT": "tcp://198.19.16.50:80",
        "WEB_PORT_80_TCP": "tcp://198.19.16.50:80",
        "WEB_PORT_80_TCP_PROTO": "tcp",
        "WEB_PORT_80_TCP_PORT": "80",
        "WEB_PORT_80_TCP_ADDR": "198.19.16.50",
        "WEB_PORT_53_UDP": "udp://198.19.16.50:53",
        "WEB_PORT_53_UDP_PROTO": "udp",
        "WEB_PORT_53_UDP_PORT": "53",
        "WEB_PORT_53_UDP_ADDR": "198.19.16.50",
    }
    assert links({"spec": {"enableServiceLinks": False}}, services) == {}
    # The API server is told of in other words; headless Services have no address to tell.
    assert table(service("None")).of_namespace("ns") == {}
    assert table(web).of_namespace("default") == {}


SEARCH = "search ns.svc.cluster.local svc.cluster.local cluster.local"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        pytest.param({}, f"nameserver 198.19.16.10\n{SEARCH}\noptions ndots:5\n", id="the cluster first"),
        pytest.param({"dnsPolicy": "Default"}, "", id="the node's own, which is none"),
        pytest.param({"hostNetwork": True}, "", id="the node's network"),
        pytest.param(
            {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
            f"nameserver 198.19.16.10\n{SEARCH}\noptions ndots:5\n",
            id="the node's network, and the cluster's names",
        ),
        pytest.param(
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["198.18.0.9"], "searches": ["x"]}},
            "nameserver 198.18.0.9\nsearch x\n",
            id="only what the pod says",
        ),
        pytest.param(
            {"dnsConfig": {"options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}], "searches": ["x"]}},
            f"nameserver 198.19.16.10\n{SEARCH} x\noptions ndots:1 edns0\n",
            id="what the pod says besides",
        ),
    ],
)
def test_resolv_conf(spec: dict[str, Any], text: str):
    assert resolv_conf({"metadata": {"namespace": "ns"}, "spec": spec}, "198.19.16.10") == text
