"""The CRDs: structural, bounded, with rules that an API server of Kubernetes 1.26 can compile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flexinfer.api import admission, definitions, schema, wellknown
from flexinfer.api.bounds import Rule
from flexinfer.api.kinds import KINDS, Kind
from flexinfer.api.schema import Node

REPOSITORY = Path(__file__).parents[3]
ROOTS = {kind.name: schema.structural(kind.type) for kind in KINDS}
ROOT = ROOTS["Model"]
RULES = [(f"{kind}.{path}", node, rule) for kind, root in ROOTS.items() for path, node, rule in schema.rules(root)]


def nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, below in node.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in node:
            yield from nodes(node[name], f"{path}.{name}")


NODES = [
    (path, node)
    for kind, root in ROOTS.items()
    for path, node in nodes(schema.published(root), kind)
    if ".metadata" not in path
]


def test_the_file_is_up_to_date():
    folder = REPOSITORY / "config" / "crd"
    assert {file.name: file.read_text() for file in folder.iterdir()} == definitions.crd_files()


def test_yaml_says_what_the_tree_says():
    texts = list(definitions.crd_files().values())
    assert [yaml.safe_load(text) for text in texts] == [definitions.definition(kind) for kind in KINDS]
    assert [text for text in texts if "&id" in text] == []


def test_nothing_of_our_own_is_published():
    assert [path for path, node in NODES if any(key.startswith("_") for key in node)] == []


def test_every_node_has_a_type():
    odd = {path for path, node in NODES if "type" not in node}
    quantities = {path for path, node in NODES if node.get("x-kubernetes-int-or-string")}
    assert odd - quantities == {"Model.spec.kvCache.highWatermark", "Model.spec.kvCache.lowWatermark"}


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        pytest.param("string", "maxLength", id="every text"),
        pytest.param("array", "maxItems", id="every list"),
        pytest.param("integer", "maximum", id="every whole number"),
    ],
)
def test_is_bounded(kind, bound):
    free = [path for path, node in NODES if node.get("type") == kind and bound not in node and "enum" not in node]
    assert free == []


def test_every_map_is_bounded():
    free = [
        path
        for path, node in NODES
        if node.get("type") == "object" and "properties" not in node and "maxProperties" not in node
    ]
    assert free == []


def test_every_list_says_how_it_merges():
    kinds = {path: node["x-kubernetes-list-type"] for path, node in NODES if node.get("type") == "array"}
    assert kinds == {
        "Model.spec.tolerations": "atomic",
        "Model.spec.litellm.aliases": "set",
        "Model.spec.serviceLabels": "set",
        "Model.status.conditions": "map",
        "ModelDeployment.spec.litellm.aliases": "set",
        "ModelDeployment.spec.serviceLabels": "set",
        "ModelDeployment.status.conditions": "map",
    }


def test_defaults_are_admitted():
    wrong = [
        (path, node["default"])
        for kind, root in ROOTS.items()
        for path, node in nodes(root, kind)
        if "default" in node and list(admission._check(node["default"], node, "x", True))
    ]
    assert wrong == []


def test_patterns_need_no_look_ahead_and_mean_the_whole_text():
    patterns = {node["pattern"] for _, node in NODES if "pattern" in node}
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in patterns)
    assert [pattern for pattern in patterns if re.search(r"\(\?|\\[dwsbAZ1-9]", pattern)] == []


def test_backends():
    for root in ROOTS.values():
        enum = root["properties"]["spec"]["properties"]["backend"]["enum"]
        assert enum == list(wellknown.BACKEND_NAMES)
    assert len(set(enum)) == len(enum)


@pytest.mark.parametrize(("path", "node", "rule"), [pytest.param(*row, id=f"{row[0]}: {row[2].rule}") for row in RULES])
def test_rule(path: str, node: Node, rule: Rule):
    kind = "map" if node["type"] == "object" else node["type"]
    assert admission.compiled(rule.rule, kind) is not None
    assert sorted(admission.fields_read(rule.rule) - set(node.get("properties", {}))) == []
    if rule.field and not rule.field.startswith("["):
        assert rule.field in node["properties"]
    # Beside or above config a rule would be given all of it.
    assert [name for name, _ in nodes(node) if name.endswith(".config")] == []


NEWER_OR_FOREIGN = re.compile(
    r"\?\.|\[\?|optional|quantity|isURL|url\(|isIP|ip\(|cidr|\.find|\.split|\.join|lowerAscii|upperAscii|replace\(|trim"
    r"|format|isSorted|\.sum\(|\.min\(|\.max\(|indexOf|sets\.|oldSelf|cel\.bind|charAt|substring"
)


def test_rules_are_core_cel():
    assert [rule.rule for _, _, rule in RULES if NEWER_OR_FOREIGN.search(rule.rule)] == []


def test_rules_have_a_rule_and_a_message_only():
    keys = {key for _, node in NODES for rule in node.get("x-kubernetes-validations", ()) for key in rule}
    assert keys == {"rule", "message"}


def test_a_rule_that_names_nothing_is_caught_when_it_is_compiled():
    with pytest.raises(RuntimeError, match="undeclared reference"):
        admission.compiled("slef == ''", "string")


@pytest.mark.parametrize(
    ("kind", "names", "columns"),
    [
        pytest.param(
            "Model",
            {"plural": "models", "singular": "model", "kind": "Model", "listKind": "ModelList", "shortNames": ["mdl"]},
            [("Backend", 0), ("Phase", 0), ("Shared", 1), ("Priority", 1), ("TPS", 0), ("Age", 0)],
            id="Model",
        ),
        pytest.param(
            "ModelDeployment",
            {
                "plural": "modeldeployments",
                "singular": "modeldeployment",
                "kind": "ModelDeployment",
                "listKind": "ModelDeploymentList",
            },
            [("Backend", 0), ("Model", 0), ("Replicas", 0), ("TPS", 0)],
            id="ModelDeployment",
        ),
    ],
)
def test_the_rest_of_the_definition(kind, names, columns):
    crd = definitions.definition(next(known for known in KINDS if known.name == kind))
    (version,) = crd["spec"]["versions"]
    assert crd["metadata"]["name"] == f"{names['plural']}.ai.flexinfer"
    assert crd["spec"]["names"] == names
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    assert [(column["name"], column.get("priority", 0)) for column in version["additionalPrinterColumns"]] == columns


@pytest.mark.parametrize(
    ("kind", "column"),
    [pytest.param(kind, column, id=f"{kind.name}: {column.name}") for kind in KINDS for column in kind.columns],
)
def test_a_column_shows_a_field_that_exists(kind: Kind, column):
    node = schema.published(ROOTS[kind.name])
    for name in column.path.lstrip(".").split("."):
        if name == "metadata":
            return
        node = node["properties"][name]
    assert node["type"] in (column.type, "integer")


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
@pytest.mark.parametrize("path", ["spec.replicas", "status.replicas", "status.selector"])
def test_what_the_scale_subresource_names_exists(kind, path):
    node = ROOTS[kind.name]
    for name in path.split("."):
        node = node["properties"][name]
    assert node["type"] == ("string" if path.endswith("selector") else "integer")
