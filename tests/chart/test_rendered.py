"""What the chart renders: golden manifests of each value set, right for the oldest and the newest Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.chart.value_sets import VALUE_SETS
from tests.support.helm import CHART, ROOT, Helm, named, objects

from flexinfer import __version__
from flexinfer.controllers import settings
from flexinfer.resources.installation import Installation

GOLDEN = Path(__file__).parent / "golden"
EACH = [pytest.param(name, id=name.replace("_", " ")) for name in VALUE_SETS]
# The very schemas of these versions; our CRDs themselves are held against the real server.
OLDEST, NEWEST = "1.26.0", kubernetes_validate.latest_version()


@pytest.mark.parametrize("name", EACH)
def test_helm_lint_finds_nothing(helm: Helm, tmp_path: Path, name: str):
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUE_SETS[name]))
    done = helm.run("lint", "--strict", "--quiet", CHART, "--values", values)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", EACH)
def test_rendered_manifests(golden, helm: Helm, name: str):
    """The CRDs are those of config/crd and stand in no golden file."""
    whole = helm.text(VALUE_SETS[name])
    parts = [part for part in whole.split("\n---\n") if "kind: CustomResourceDefinition" not in part]
    golden(GOLDEN / f"{name}.yaml", "\n---\n".join(part.strip() for part in parts) + "\n")


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", EACH)
def test_objects_are_right_for_the_oldest_and_the_newest_kubernetes(helm: Helm, name: str, version: str):
    found = helm.template(VALUE_SETS[name], f"--kube-version={version}")
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)
    assert "Deployment" in {one["kind"] for one in found}


@pytest.mark.parametrize(
    ("version", "passes"),
    [
        pytest.param("v1.30.4-eks-1a2b3c4", True, id="EKS puts a suffix behind the patch number"),
        pytest.param("v1.33.1+k3s1", True, id="K3s puts build data there"),
        pytest.param("v1.31.0-gke.100", True, id="GKE puts a pre-release there"),
        pytest.param("v1.26.0", True, id="the oldest one"),
        pytest.param("v1.25.9", False, id="one that is too old"),
    ],
)
def test_fr_054_a_vendors_version_is_no_reason_to_refuse(helm: Helm, version: str, passes: bool):
    done = helm.run("template", "flexinfer", CHART, "--kube-version", version)
    assert (done.returncode == 0) == passes, done.stderr
    if not passes:
        assert "chart requires kubeVersion: >=1.26.0-0 which is incompatible with Kubernetes v1.25.9" in done.stderr


def test_the_chart_has_the_version_of_the_code():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_crds_are_those_of_the_code_and_stay_when_the_chart_goes(helm: Helm):
    rendered = {one["metadata"]["name"]: one for one in helm.template() if one["kind"] == "CustomResourceDefinition"}
    made = [objects(path.read_text())[0] for path in sorted((ROOT / "config/crd").glob("*.yaml"))]
    assert {one["metadata"]["name"]: one for one in made} == {
        name: {**one, "metadata": {"name": one["metadata"]["name"]}} for name, one in rendered.items()
    }
    assert [one["metadata"]["annotations"] for one in rendered.values()] == [{"helm.sh/resource-policy": "keep"}] * len(
        made
    )


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in found if one["kind"] == "Deployment"}


@pytest.mark.parametrize("name", EACH)
def test_what_every_pod_has(helm: Helm, name: str):
    for pod in pods(helm.template(VALUE_SETS[name])).values():
        (container,) = pod["containers"]
        ports = {port["name"] for port in container["ports"]}
        assert {"livenessProbe", "readinessProbe", "startupProbe", "resources"} <= set(container)
        assert container["resources"]["limits"]["memory"]
        assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= ports
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_proxy_without_keys_does_not_start_instead_of_standing_open(helm: Helm):
    pod = pods(helm.template())["flexinfer-proxy"]
    (keys,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "keys"]
    assert "optional" not in keys
    assert "--no-auth" not in pod["containers"][0]["args"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param("watchNamespace=[]", "watchNamespace", id="a misspelt value"),
        pytest.param('modelAccess="everybody"', "modelAccess", id="an access that is none"),
        pytest.param("proxy.replicas=-1", "replicas", id="less than no proxy"),
        pytest.param('proxy.gracefulShutdown.drainDelay="5"', "drainDelay", id="a duration without a unit"),
        pytest.param('models.images={"VLLM":"x"}', "images", id="an image under no variable"),
        pytest.param('controller.resources="1Gi"', "resources", id="resources that are none"),
        pytest.param("scheduler.enabled=true", "scheduler", id="a part that is not there yet"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Helm, given: str, says: str):
    done = helm.run("template", "flexinfer", CHART, "--set-json", given)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert says in done.stderr


def test_models_of_some_namespaces_need_no_rights_elsewhere(helm: Helm):
    found = helm.template(VALUE_SETS["tenants"])
    roles = [one for one in found if one["kind"] == "ClusterRole"]
    assert [one["metadata"]["name"] for one in roles] == ["flexinfer-system:flexinfer-manager"]
    assert {resource for rule in roles[0]["rules"] for resource in rule["resources"]} == {
        "nodes",
        "storageclasses",
        "runtimeclasses",
    }
    assert {one["metadata"]["namespace"] for one in found if one["kind"] == "Role"} == {
        "flexinfer-system",
        "team-a",
        "team-b",
    }
    assert named(found, "RoleBinding", "flexinfer-proxy-models")["subjects"] == [
        {"kind": "ServiceAccount", "name": "flexinfer-proxy", "namespace": "flexinfer-system"}
    ]


def environment(found: list[dict[str, Any]], deployment: str) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in pods(found)[deployment]["containers"][0]["env"]}


def test_every_variable_of_the_manager_has_a_value(helm: Helm):
    """Either the chart always sets it, or a value of its own does."""
    given = VALUE_SETS["everything_said"]
    downloads = {"downloadEnv": dict.fromkeys(settings.DOWNLOADS, "x")}
    found = helm.template({**given, "models": {**given["models"], **downloads}})
    said = environment(found, "inference-manager")
    named = {name for name in settings.READ if "<" not in name}
    assert named - said.keys() == set()
    assert {name for name in said if name not in settings.READ} == {
        "DEFAULT_MLC_LLM_IMAGE",
        "DEFAULT_VLLM_IMAGE_AMD",
        "TZ",
    }
    assert settings.refused({name: value or "" for name, value in said.items()}) == []


def test_the_default_environment_is_the_default_installation(helm: Helm):
    said = environment(helm.template(), "flexinfer-manager")
    made = settings.installation({name: value for name, value in said.items() if value is not None})
    assert made == Installation(image=f"ghcr.io/flexinfer/flexinfer:{__version__}", model_access="namespace")


@pytest.mark.parametrize("name", EACH)
def test_no_right_is_wider_than_what_it_is_for(helm: Helm, name: str):
    """No wildcard, no way to more rights, and Secrets only by name and only beside FlexInfer itself."""
    roles = [one for one in helm.template(VALUE_SETS[name]) if one["kind"] in {"Role", "ClusterRole"}]
    rules = [(one["kind"], one["metadata"].get("namespace"), rule) for one in roles for rule in one["rules"]]
    assert [rule for _, _, rule in rules if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])] == []
    assert [rule for _, _, rule in rules if {"bind", "escalate", "impersonate"} & set(rule["verbs"])] == []
    assert [rule for _, _, rule in rules if rule["apiGroups"] == ["rbac.authorization.k8s.io"]] == []
    for kind, namespace, rule in rules:
        if "secrets" in rule["resources"]:
            assert (kind, namespace) == ("Role", "flexinfer-system")
            assert rule["verbs"] == ["create"] or (rule["verbs"], len(rule["resourceNames"])) == (["get"], 1)


@pytest.mark.parametrize("name", EACH)
def test_no_image_has_a_floating_tag(helm: Helm, name: str):
    images = [pod["containers"][0]["image"] for pod in pods(helm.template(VALUE_SETS[name])).values()]
    assert [image for image in images if image.endswith(":latest") or ":" not in image] == []
