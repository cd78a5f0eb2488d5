"""The CRD: structural, bounded, with rules that an API server of Kubernetes 1.26 can compile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flexinfer.api import admission, schema, wellknown
from flexinfer.api.bounds import Rule
from flexinfer.api.schema import Node
from flexinfer.api.v1alpha2.model import Model

REPOSITORY = Path(__file__).parents[3]
ROOT = schema.structural(Model)
RULES = list(schema.rules(ROOT))


def nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, below in node.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in node:
            yield from nodes(node[name], f"{path}.{name}")


NODES = [(path, node) for path, node in nodes(schema.published(ROOT)) if not path.startswith(".metadata")]


def test_the_file_is_up_to_date():
    folder = REPOSITORY / "config" / "crd"
    assert {file.name: file.read_text() for file in folder.iterdir()} == schema.crd_files()


def test_yaml_says_what_the_tree_says():
    (text,) = schema.crd_files().values()
    assert yaml.safe_load(text) == schema.model_crd()
    assert "&id" not in text


def test_nothing_of_our_own_is_published():
    assert [path for path, node in NODES if any(key.startswith("_") for key in node)] == []


def test_every_node_has_a_type():
    odd = {path for path, node in NODES if "type" not in node}
    quantities = {path for path, node in NODES if node.get("x-kubernetes-int-or-string")}
    assert odd - quantities == {".spec.kvCache.highWatermark", ".spec.kvCache.lowWatermark"}


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
        ".spec.tolerations": "atomic",
        ".spec.litellm.aliases": "set",
        ".spec.serviceLabels": "set",
        ".status.conditions": "map",
    }


def test_defaults_are_admitted():
    wrong = [
        (path, node["default"])
        for path, node in nodes(ROOT)
        if "default" in node and list(admission._check(node["default"], node, "x", True))
    ]
    assert wrong == []


def test_patterns_need_no_look_ahead_and_mean_the_whole_text():
    patterns = {node["pattern"] for _, node in NODES if "pattern" in node}
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in patterns)
    assert [pattern for pattern in patterns if re.search(r"\(\?|\\[dwsbAZ1-9]", pattern)] == []


def test_backends():
    enum = ROOT["properties"]["spec"]["properties"]["backend"]["enum"]
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


def test_the_rest_of_the_definition():
    crd = schema.model_crd()
    (version,) = crd["spec"]["versions"]
    assert crd["metadata"]["name"] == "models.ai.flexinfer"
    assert crd["spec"]["names"]["shortNames"] == ["mdl"]
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    assert [(column["name"], column.get("priority", 0)) for column in version["additionalPrinterColumns"]] == [
        ("Backend", 0),
        ("Phase", 0),
        ("Shared", 1),
        ("Priority", 1),
        ("TPS", 0),
        ("Age", 0),
    ]


@pytest.mark.parametrize("column", schema.model_crd()["spec"]["versions"][0]["additionalPrinterColumns"])
def test_a_column_shows_a_field_that_exists(column):
    node = schema.published(ROOT)
    for name in column["jsonPath"].lstrip(".").split("."):
        if name == "metadata":
            return
        node = node["properties"][name]
    assert node["type"] in (column["type"], "integer")
