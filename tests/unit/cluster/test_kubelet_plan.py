"""What the process kubelet makes of a manifest's container: variables, argv, user, mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cluster.kubelet import amounts
from tests.cluster.kubelet.downward import ConfigError, Facts
from tests.cluster.kubelet.environment import environment
from tests.cluster.kubelet.expand import expand
from tests.cluster.kubelet.images import Image
from tests.cluster.kubelet.objects import Ref, contents, referenced
from tests.cluster.kubelet.plan import Inputs, Mount, User, plan

FACTS = Facts("198.18.16.5", "198.18.0.1", {"cpu": "16", "memory": "64Gi"})
OBJECTS = {Ref("configmap", "m"): {"a": b"1", "b": b"2"}, Ref("secret", "s"): {"word": b"open"}}


def pod(**spec: Any) -> dict[str, Any]:
    meta = {
        "name": "p",
        "namespace": "ns",
        "uid": "u-1",
        "labels": {"app": "x", "b": 'q"'},
        "annotations": {"k/e": "v"},
    }
    return {"metadata": meta, "spec": {"nodeName": "n-0", "serviceAccountName": "sa", "containers": [], **spec}}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        pytest.param("$(A)-$(B)", "1-2", id="known names become their values"),
        pytest.param("$(NONE)", "$(NONE)", id="an unknown name stays"),
        pytest.param("$$(A)", "$(A)", id="two dollars are one and keep the name"),
        pytest.param("$$$(A)", "$1", id="two dollars and a name"),
        pytest.param("$A ${A} $", "$A ${A} $", id="what a shell would expand stays"),
        pytest.param("$(A", "$(A", id="a name that does not end stays"),
    ],
)
def test_expand(text: str, expanded: str):
    assert expand(text, {"A": "1", "B": "2"}) == expanded


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param({"value": "x"}, "x", id="a value"),
        pytest.param({"value": "$(HOSTNAME)!"}, "p!", id="a value that names an earlier variable"),
        pytest.param({"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, "198.18.16.5", id="the pod's address"),
        pytest.param(
            {"valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}, "198.18.0.1", id="the node's address"
        ),
        pytest.param({"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}, "x", id="one label"),
        pytest.param(
            {"valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['k/e']"}}}, "v", id="one annotation"
        ),
        pytest.param({"valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}}, "sa", id="the account"),
        pytest.param({"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}, "2", id="a limit, rounded up"),
        pytest.param(
            {"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            "1500",
            id="in thousandths",
        ),
        pytest.param(
            {"valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}},
            "64",
            id="a limit that is not set is what the node has",
        ),
        pytest.param({"valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}}, "1", id="a key of a ConfigMap"),
        pytest.param({"valueFrom": {"secretKeyRef": {"name": "s", "key": "word"}}}, "open", id="a key of a Secret"),
        pytest.param(
            {"valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": True}}}, None, id="an optional key"
        ),
    ],
)
def test_variables(variable: dict[str, Any], value: str | None):
    container = {"env": [{"name": "A", **variable}], "resources": {"limits": {"cpu": "1500m"}}}
    assert environment(container, pod(), FACTS, OBJECTS, {"HOSTNAME": "p"}).get("A") == value


def test_all_keys_of_an_object_come_first_and_a_variable_wins():
    container = {
        "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "M_"}, {"secretRef": {"name": "none", "optional": True}}],
        "env": [{"name": "M_a", "value": "mine"}],
    }
    assert environment(container, pod(), FACTS, OBJECTS, {}) == {"M_a": "mine", "M_b": "2"}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        pytest.param(
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "z"}}}]},
            "couldn't find key z in ConfigMap m",
            id="a key that is missing",
        ),
        pytest.param({"envFrom": [{"secretRef": {"name": "none"}}]}, 'secret "none" not found', id="a missing Secret"),
        pytest.param(
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.colour"}}}]},
            "fieldPath spec.colour: there is no such field of a pod",
            id="a field that there is not",
        ),
    ],
)
def test_what_is_missing_is_told(container: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        environment(container, pod(), FACTS, OBJECTS, {})
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        pytest.param("100Mi", 100 * 2**20, id="binary suffix"),
        pytest.param("1k", 1000, id="decimal suffix"),
        pytest.param("1e3", 1000, id="exponent"),
        pytest.param(5, 5, id="a plain number"),
        pytest.param(None, None, id="none"),
    ],
)
def test_bytes(quantity: str | int | None, value: int | None):
    assert amounts.bytes_of(quantity) == value


def test_values_of_objects_are_decoded():
    assert contents(Ref("secret", "s"), {"data": {"k": "b3Blbg=="}}) == {"k": b"open"}
    obj = {"data": {"t": "x"}, "binaryData": {"b": "AAE="}}
    assert contents(Ref("configmap", "m"), obj) == {"t": b"x", "b": b"\x00\x01"}


def test_every_object_that_a_pod_names_is_found():
    spec = {
        "initContainers": [
            {"name": "i", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}]}
        ],
        "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m1"}}]}],
        "volumes": [
            {"name": "a", "configMap": {"name": "m2"}},
            {"name": "b", "secret": {"secretName": "s2"}},
            {"name": "c", "projected": {"sources": [{"secret": {"name": "s3"}}, {"configMap": {"name": "m3"}}]}},
        ],
    }
    wanted = [*(Ref("configmap", f"m{number}") for number in (1, 2, 3)), *(Ref("secret", f"s{n}") for n in (1, 2, 3))]
    assert sorted(referenced(pod(**spec))) == wanted


IMAGE = Image(entrypoint=("serve",), command=("--quiet",), working_dir="/srv", user=7)


def planned(container: dict[str, Any], **spec: Any) -> Any:
    inputs = Inputs(
        pod=pod(**spec),
        facts=FACTS,
        objects=OBJECTS,
        volumes={"v": Path("/node/v"), "w": Path("/node/w")},
        cluster_env={"KUBERNETES_SERVICE_HOST": "198.18.0.1"},
        flexinfer="/x/flexinfer",
    )
    return plan({"name": "c", "image": "i", **container}, IMAGE, inputs)


@pytest.mark.parametrize(
    ("container", "argv"),
    [
        pytest.param({}, ("serve", "--quiet"), id="the image's own"),
        pytest.param({"args": ["-v"]}, ("serve", "-v"), id="args replace the image's arguments"),
        pytest.param({"command": ["run"]}, ("run",), id="command replaces both"),
        pytest.param({"command": ["run"], "args": ["$(HOSTNAME)"]}, ("run", "p"), id="both, expanded"),
        pytest.param(
            {"command": ["/x/y/flexinfer", "ps"]}, ("/x/flexinfer", "ps"), id="our program is this checkout's"
        ),
    ],
)
def test_argv(container: dict[str, Any], argv: tuple[str, ...]):
    assert planned(container).argv == argv


@pytest.mark.parametrize(
    ("container", "spec", "user"),
    [
        pytest.param({}, {}, User(7, 0, (), False), id="the image's"),
        pytest.param({"securityContext": {"runAsUser": 0}}, {}, User(0, 0, (), False), id="root where it says so"),
        pytest.param(
            {"securityContext": {"runAsUser": 5}},
            {"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]}},
            User(5, 2, (3, 4), False),
            id="the container's before the pod's, and the groups of the pod",
        ),
        pytest.param(
            {"securityContext": {"capabilities": {"drop": ["all"]}}},
            {},
            User(7, 0, (), True),
            id="without capabilities",
        ),
    ],
)
def test_user(container: dict[str, Any], spec: dict[str, Any], user: User):
    assert planned(container, **spec).user == user


def test_mounts_have_the_outer_ones_first_and_sub_paths_inside_the_volume():
    mounts = [
        {"name": "v", "mountPath": "/data/inner/", "readOnly": True, "subPathExpr": "of/$(HOSTNAME)"},
        {"name": "w", "mountPath": "/data"},
    ]
    assert planned({"volumeMounts": mounts}).mounts == (
        Mount(Path("/node/w"), "/data", read_only=False),
        Mount(Path("/node/v/of/p"), "/data/inner", read_only=True),
    )


def test_the_rest_of_a_plan():
    container = {
        "workingDir": "/w",
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"limits": {"memory": "1Gi"}},
        "terminationMessagePath": "/tmp/last",
    }
    found = planned(container)
    assert (found.working_dir, found.read_only_root, found.memory_limit) == ("/w", True, 2**30)
    assert found.termination_log == "/tmp/last"
    assert found.env == {"HOSTNAME": "p", "KUBERNETES_SERVICE_HOST": "198.18.0.1", "HOME": "/"}


@pytest.mark.parametrize(
    ("container", "spec", "message"),
    [
        pytest.param(
            {"livenessProbe": {"grpc": {"port": 1}}},
            {},
            "livenessProbe: grpc probes are not played by the test cluster; use httpGet, tcpSocket or exec",
            id="a grpc probe",
        ),
        pytest.param(
            {"securityContext": {"runAsUser": 0}},
            {"securityContext": {"runAsNonRoot": True}},
            "container has runAsNonRoot and image will run as root",
            id="root that may not be",
        ),
        pytest.param(
            {"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../up"}]},
            {},
            "subPath '../up': it must stay inside the volume",
            id="a sub-path that leaves the volume",
        ),
    ],
)
def test_refusals(container: dict[str, Any], spec: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        planned(container, **spec)
    assert str(raised.value) == message
